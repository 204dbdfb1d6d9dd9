"""What the encoders of both families, copy_text.pyx and load_text.pyx, have in common: cells of Arrow arrays, and the
texts that are the same everywhere.

A cell is read where Arrow has it. That the buffers are as long as the array says is looked at once (`find_array`),
offsets each time (`find_bytes`). Who writes has made room before.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from cdc.binlog.kernel.json_text cimport shortest_digits

cdef extern from "copy_text.h" nogil:
    uint64_t load_64(const uint8_t* at)
    uint32_t load_32(const uint8_t* at)
    uint16_t load_16(const uint8_t* at)
    void utf8_prepare()
    bint is_utf8(const uint8_t* at, size_t size, int plane)
    uint8_t* put_unsigned(uint8_t* to, uint64_t value)
    uint8_t* put_signed(uint8_t* to, int64_t value)
    uint8_t* put_decimal(uint8_t* to, const uint8_t* at, int scale)
    uint8_t* put_long_decimal(uint8_t* to, const uint8_t* at, int scale)
    uint8_t* put_shortest(uint8_t* to, uint64_t digits, int exponent)
    uint8_t* put_pair(uint8_t* to, unsigned int value)
    uint8_t* put_date(uint8_t* to, unsigned int year, unsigned int month, unsigned int day)
    uint8_t* put_datetime(uint8_t* to, uint64_t packed)
    uint8_t* put_timestamp(uint8_t* to, uint64_t micros)
    uint8_t* put_time(uint8_t* to, int64_t micros)
    uint8_t* put_hex(uint8_t* to, const uint8_t* at, size_t size)
    uint8_t* put_uuid(uint8_t* to, const uint8_t* at)
    uint8_t* put_inet4(uint8_t* to, const uint8_t* at)
    uint8_t* put_inet6(uint8_t* to, const uint8_t* at)

# How a column's cells are written.
cdef enum:
    OP_LEFT = 0   # not here
    OP_8
    OP_16
    OP_32
    OP_64
    OP_U8
    OP_U16
    OP_U32
    OP_U64
    OP_DECIMAL
    OP_DECIMAL_LONG
    OP_FLOAT
    OP_DOUBLE
    OP_BIT
    OP_YEAR
    OP_DATE
    OP_DATETIME
    OP_TIMESTAMP
    OP_TIME
    OP_ENUM
    OP_SET
    OP_TEXT       # from here on: values that vary in length
    OP_JSON       # whose content is looked at; else it is a text
    OP_BYTES
    OP_GEOMETRY
    OP_VECTOR
    OP_UUID
    OP_INET4
    OP_INET6

# What became of a cell, or of the rows.
cdef enum:
    PUT = 0
    LEFT = 1        # the twin's business
    FULL = 2        # the piece has enough rows
    NO_MEMORY = -1
    BROKEN = -2     # the arrays contradict themselves

cdef enum:
    PIECE_ROOM = 16 << 10        # left at a piece's end, so that an ordinary row does not move it to a larger block
    TEXT_STEP = 32 << 10         # of text at a time, with room for each of its bytes to be escaped
    COPY_SLACK = 16              # what copies in blocks may write behind their end
    DECIMAL_ROOM = 96            # 77 digits, sign, point, zero
    BIT_LENGTH_MAX = 64
    SCALE_MAX = 76               # Arrow's
    MEMBERS_MAX = 64             # of a SET
    MICROS_MAX = 999999
    YEAR_LAST = 9999


cdef struct array_t:
    # Where an array's values are.
    const uint8_t* validity      # bitmap, 1 is not NULL; NULL where there are no nulls
    size_t validity_offset       # bit of row 0
    const uint8_t* values        # row 0: the value, or where it begins in `bytes` (int64, one more than rows)
    const uint8_t* bytes
    size_t bytes_size


cdef inline bint is_null(const array_t* array, size_t row) noexcept nogil:
    cdef size_t bit = array.validity_offset + row
    return array.validity != NULL and not array.validity[bit >> 3] >> (bit & 7) & 1


cdef inline int find_bytes(const array_t* array, size_t row, const uint8_t** at, size_t* size) noexcept nogil:
    """The value of a row, where they vary in length; BROKEN where it is none of the array's bytes."""
    cdef int64_t start = <int64_t> load_64(array.values + 8 * row)
    cdef int64_t end = <int64_t> load_64(array.values + 8 * row + 8)
    if start < 0 or end < start or <size_t> end > array.bytes_size:
        return BROKEN
    at[0] = array.bytes + start
    size[0] = end - start
    return PUT


cdef inline int row_at(const uint8_t* selection, size_t position, size_t row_count, size_t* row) noexcept nogil:
    """The number of the row at that position of a selection; NULL selects every row."""
    row[0] = position
    if selection != NULL:
        row[0] = load_32(selection + 4 * position)   # a negative one is larger than any row count
    return PUT if row[0] < row_count else BROKEN


# ---------------------------------------------------------------- texts


cdef inline uint8_t* put_integer(uint8_t* to, int op, const uint8_t* values, size_t row) noexcept nogil:
    """Of the operations from OP_8 to OP_U64."""
    if op == OP_8:
        return put_signed(to, <int8_t> values[row])
    if op == OP_16:
        return put_signed(to, <int16_t> load_16(values + 2 * row))
    if op == OP_32:
        return put_signed(to, <int32_t> load_32(values + 4 * row))
    if op == OP_64:
        return put_signed(to, <int64_t> load_64(values + 8 * row))
    if op == OP_U8:
        return put_unsigned(to, values[row])
    if op == OP_U16:
        return put_unsigned(to, load_16(values + 2 * row))
    if op == OP_U32:
        return put_unsigned(to, load_32(values + 4 * row))
    return put_unsigned(to, load_64(values + 8 * row))


cdef inline uint64_t widened(const uint8_t* at) noexcept nogil:
    """The bits of the double that equals the float there."""
    cdef float narrow
    cdef double wide
    cdef uint64_t bits
    memcpy(&narrow, at, 4)
    wide = narrow
    memcpy(&bits, &wide, 8)
    return bits


cdef inline uint8_t* put_double(uint8_t* to, uint64_t bits) noexcept nogil:
    """As Python's repr(). NULL: not finite."""
    cdef uint64_t fraction = bits & ((<uint64_t> 1 << 52) - 1), digits
    cdef int biased = (bits >> 52) & 0x7FF, exponent = 0
    cdef double value
    if biased == 0x7FF:
        return NULL
    if bits >> 63:
        to[0] = 45   # -
        to += 1
        bits &= ~(<uint64_t> 1 << 63)
    memcpy(&value, &bits, 8)
    if value < 1e15 and <double> <int64_t> value == value:
        to = put_unsigned(to, <uint64_t> value)
        to[0] = 46   # .
        to[1] = 48   # 0
        return to + 2
    digits = shortest_digits(fraction, biased, &exponent)
    return put_shortest(to, digits, exponent)


# ---------------------------------------------------------------- arrays


cdef inline const uint8_t* buffer_address(object buffer) except? NULL:
    return <const uint8_t*> <uintptr_t> buffer.address


cdef inline const uint8_t* buffer_bytes(object buffer, size_t* size) except NULL:
    """Where the bytes of values that vary in length are; somewhere, if there are none."""
    size[0] = buffer.size if buffer is not None else 0
    return buffer_address(buffer) if size[0] else <const uint8_t*> b""


cdef inline bint find_array(array_t* found, object array, size_t item, bint is_variable) except -1:
    """Where the values of an array are, for as long as it lives. False where its buffers are too short for it.

    `item` is the size of a value, or of an offset.
    """
    cdef size_t count = len(array), offset = array.offset
    buffers = array.buffers()
    if buffers[0] is not None:
        if <size_t> buffers[0].size < (offset + count + 7) // 8:
            return False
        found.validity = buffer_address(buffers[0])
        found.validity_offset = offset
    if count == 0:   # of which Arrow allows to have no offsets, and nothing is read
        return True
    if buffers[1] is None or <size_t> buffers[1].size < (offset + count + is_variable) * item:
        return False
    found.values = buffer_address(buffers[1]) + offset * item
    if is_variable:
        found.bytes = buffer_bytes(buffers[2], &found.bytes_size)
    return True


cdef inline bint find_selection(const uint8_t** found, object selection) except -1:
    """Where the row numbers are. False where the buffer is too short for them."""
    cdef size_t count = len(selection), offset = selection.offset
    if count:
        values = selection.buffers()[1]
        if values is None or <size_t> values.size < (offset + count) * 4:
            return False
        found[0] = buffer_address(values) + offset * 4
    return True
