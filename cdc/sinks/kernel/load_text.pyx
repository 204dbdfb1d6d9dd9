"""Arrow columns as the text of LOAD DATA, and as the value lists of INSERT, compiled: the twin of
cdc/sinks/encode_mysql.py, which says what each kind's literal is, and has the policies and the errors.

Rows are written one after the other, cell by cell, into pieces of whole rows. A row with a cell whose value is not a
usual one (whatever the twin would refuse, count, or write as an expression) is taken back and *left*: its number is
kept, and the rest goes on. The twin makes a statement of what is left.

What a field of LOAD DATA is (`CHARACTER SET binary`, fields ended by a tab and escaped by a backslash, lines ended by a
newline): bytes exactly as they are, BIT as its bytes too, UUID and INET as theirs where the type takes them, ENUM and
SET as numbers, everything else as its text; NULL is `\\N`.

Arrow's buffers are read where they are. Their sizes are compared with the array's length once, offsets and row numbers
each time; every cell has room before it is written.
"""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import pyarrow as pa

from cdc.binlog.kernel.json_text cimport shortest_digits
from cdc.binlog.kernel.memory cimport block_take_over, bytes_free, bytes_reserve, bytes_t
from cdc.errors import InvariantBroken
from cdc.model import ValueKind

__all__ = ["PIECE_BYTES", "RowText"]

cdef extern from "load_text.h" nogil:
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
    uint8_t* put_day(uint8_t* to, uint32_t day)
    uint8_t* put_minutes(uint8_t* to, unsigned int minute, unsigned int second, unsigned int micro)
    uint8_t* put_hex(uint8_t* to, const uint8_t* at, size_t size)
    uint8_t* put_uuid(uint8_t* to, const uint8_t* at)
    uint8_t* put_inet4(uint8_t* to, const uint8_t* at)
    uint8_t* put_inet6(uint8_t* to, const uint8_t* at)
    size_t copy_unescaped(
        uint8_t* to, const uint8_t* at, size_t size, const uint8_t* end, bint is_quoted, uint32_t* high
    )
    uint8_t escape_letter(uint8_t code)
    bint has_long_number(const uint8_t* at, size_t size)

utf8_prepare()

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
    OP_JSON
    OP_BYTES
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
    PIECE_SIZE = 1 << 20         # of a piece; one that ends in a large row is larger
    PIECE_ROOM = 16 << 10        # left at its end, so that an ordinary row does not move it to a larger block
    TEXT_STEP = 32 << 10         # of bytes at a time, with room for each of them to be escaped
    COPY_SLACK = 16              # `copy_unescaped`
    CELL_ROOM = 64               # of values of fixed size other than decimals, with quotes and what ends a cell
    DECIMAL_ROOM = 96            # 77 digits, sign, point, zero
    BIT_LENGTH_MAX = 64
    SCALE_MAX = 76               # Arrow's
    MEMBERS_MAX = 64             # of a SET
    YEAR_MIN = 1901
    YEAR_MAX = 2155
    TIMESTAMP_DAYS_MAX = 2932896  # up to the year 9999

cdef int64_t DAY_MICROS = 86400000000
cdef uint64_t SIGN_BIT = <uint64_t> 1 << 63

PIECE_BYTES = PIECE_SIZE


cdef struct cells_t:
    # One column: how its cells are written, and where its array's values are.
    uint8_t op
    bint leaves_zero             # of ENUM, and of a DOUBLE's -0
    int scale                    # of a decimal; of BIT, how many bits
    uint64_t most                # the greatest value of ENUM and SET
    const uint8_t* validity      # bitmap, 1 is not NULL; NULL where there are no nulls
    size_t validity_offset       # bit of row 0
    const uint8_t* values        # row 0: the value, or where it begins in `bytes` (int64, one more than rows)
    const uint8_t* bytes
    size_t bytes_size


cdef struct rows_t:
    cells_t* cells
    size_t column_count
    size_t row_count             # of the arrays
    const uint8_t* selection     # int32 row numbers; NULL: every row
    size_t count                 # rows in all
    size_t position              # of the next row
    size_t in_piece              # rows in `out`
    size_t row_room              # of all cells, apart from what varies in length
    size_t piece_size
    size_t piece_rows_max
    size_t row_size_max          # a longer one is left
    bint is_literal              # else a line of LOAD DATA
    bint has_parentheses         # around a row's literals
    bint is_compared             # a NULL is left
    bint has_odd_zero            # a FLOAT's -0 is written as a number too small for it (MariaDB 10)
    bytes_t out
    bytes_t left                 # int32 row numbers


# ---------------------------------------------------------------- cells
#
# Before a cell is written there is `row_room` for all of the row that does not vary in length; what varies asks for its
# own, and for as much again behind it.


cdef inline bint _is_null(const uint8_t* validity, size_t bit) noexcept nogil:
    return validity != NULL and not validity[bit >> 3] >> (bit & 7) & 1


cdef uint8_t* _put_double(uint8_t* to, uint64_t bits, bint is_literal) noexcept nogil:
    """As Python's repr(), with an exponent where it is a literal, which makes that a double. NULL: not finite."""
    cdef uint64_t fraction = bits & ((<uint64_t> 1 << 52) - 1), digits
    cdef int biased = (bits >> 52) & 0x7FF, exponent = 0
    cdef uint8_t* start
    cdef double value
    if biased == 0x7FF:
        return NULL
    if bits >> 63:
        to[0] = 45   # -
        to += 1
        bits &= ~SIGN_BIT
    start = to
    memcpy(&value, &bits, 8)
    if value < 1e15 and <double> <int64_t> value == value:
        to = put_unsigned(to, <uint64_t> value)
        memcpy(to, b".0", 2)
        to += 2
    else:
        digits = shortest_digits(fraction, biased, &exponent)
        to = put_shortest(to, digits, exponent)
    if is_literal:
        while start < to and start[0] != 101:   # e
            start += 1
        if start == to:
            memcpy(to, b"e0", 2)
            to += 2
    return to


cdef inline uint64_t _widened(const uint8_t* at) noexcept nogil:
    """The bits of the double that equals the float there."""
    cdef float narrow
    cdef double wide
    cdef uint64_t bits
    memcpy(&narrow, at, 4)
    wide = narrow
    memcpy(&bits, &wide, 8)
    return bits


cdef inline uint8_t* _put_quote(uint8_t* to, bint is_literal) noexcept nogil:
    if is_literal:
        to[0] = 39
        to += 1
    return to


cdef inline uint8_t* _put_date(uint8_t* to, int32_t packed) noexcept nogil:
    """`year << 9 | month << 5 | day`, whatever they are. NULL: more than four digits of year."""
    cdef uint32_t value = <uint32_t> packed
    if packed < 0 or value >> 9 > 9999:
        return NULL
    return put_date(to, value >> 9, value >> 5 & 15, value & 31)


cdef inline uint8_t* _put_datetime(uint8_t* to, int64_t packed) noexcept nogil:
    """`((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | microsecond`"""
    cdef uint64_t value = <uint64_t> packed
    cdef unsigned int months = value >> 46, micro = value & 0xFFFFFF
    if packed < 0 or micro > 999999 or months // 13 > 9999:
        return NULL
    to = put_date(to, months // 13, months % 13, value >> 41 & 31)
    to[0] = 32
    to = put_pair(to + 1, value >> 36 & 31)
    return put_minutes(to, value >> 30 & 63, value >> 24 & 63, micro)


cdef inline uint8_t* _put_timestamp(uint8_t* to, int64_t micros) noexcept nogil:
    """Microseconds since 1970, of which 0 is the zero timestamp."""
    cdef uint64_t value = <uint64_t> micros, days = value // <uint64_t> DAY_MICROS
    cdef unsigned int seconds
    if micros < 0 or days > TIMESTAMP_DAYS_MAX:
        return NULL
    if micros == 0:
        memcpy(to, b"0000-00-00 00:00:00.000000", 26)
        return to + 26
    value -= days * <uint64_t> DAY_MICROS
    seconds = value // 1000000
    to = put_day(to, days)
    to[0] = 32
    to = put_pair(to + 1, seconds // 3600)
    return put_minutes(to, seconds // 60 % 60, seconds % 60, value % 1000000)


cdef inline uint8_t* _put_time(uint8_t* to, int64_t micros) noexcept nogil:
    """Signed microseconds; hours have two digits at least."""
    cdef uint64_t value = <uint64_t> micros, seconds
    if micros < 0:
        value = 0 - value
        to[0] = 45   # -
        to += 1
    seconds = value // 1000000
    if seconds < 360000:
        to = put_pair(to, seconds // 3600)
    else:
        to = put_unsigned(to, seconds // 3600)
    return put_minutes(to, seconds // 60 % 60, seconds % 60, value % 1000000)


cdef int _put_escaped(
    const uint8_t* at, size_t size, const uint8_t* end, bint is_quoted, bint is_text, rows_t* rows
) noexcept nogil:
    """Bytes, with what the form escapes behind a backslash. A text that is no UTF-8 is left."""
    cdef bytes_t* out = &rows.out
    cdef const uint8_t* start = at
    cdef const uint8_t* stop = at + size
    cdef size_t left, count
    cdef uint32_t high = 0
    cdef uint8_t* to
    while True:
        left = stop - at
        if left > TEXT_STEP:
            left = TEXT_STEP
        if bytes_reserve(out, 2 * left + COPY_SLACK + rows.row_room) < 0:
            return NO_MEMORY
        to = out.data + out.size
        while True:
            count = copy_unescaped(to, at, left, end, is_quoted, &high)
            to += count
            at += count
            left -= count
            if left == 0:
                break
            to[0] = 92   # backslash
            to[1] = escape_letter(at[0])
            to += 2
            at += 1
            left -= 1
        out.size = to - out.data
        if at == stop:
            break
    if is_text and high and not is_utf8(start, size, 0):
        return LEFT
    return PUT


cdef int _put_quoted(const uint8_t* at, size_t size, const uint8_t* end, rows_t* rows) noexcept nogil:
    """A text as a literal; there is room for a quote."""
    cdef int result
    rows.out.data[rows.out.size] = 39
    rows.out.size += 1
    result = _put_escaped(at, size, end, True, True, rows)
    rows.out.data[rows.out.size] = 39
    rows.out.size += 1
    return result


cdef int _put_hex(const uint8_t* at, size_t size, rows_t* rows) noexcept nogil:
    """`x'00ff'`"""
    cdef bytes_t* out = &rows.out
    cdef uint8_t* to
    if bytes_reserve(out, 2 * size + 3 + rows.row_room) < 0:
        return NO_MEMORY
    to = out.data + out.size
    memcpy(to, b"x'", 2)
    to = put_hex(to + 2, at, size)
    to[0] = 39
    out.size = to + 1 - out.data
    return PUT


cdef int _put_bytes(const uint8_t* at, size_t size, const uint8_t* end, rows_t* rows) noexcept nogil:
    if rows.is_literal:
        return _put_hex(at, size, rows)
    return _put_escaped(at, size, end, False, False, rows)


cdef int _put_variable(const cells_t* cells, size_t row, rows_t* rows) noexcept nogil:
    cdef int64_t start = <int64_t> load_64(cells.values + 8 * row), end = <int64_t> load_64(cells.values + 8 * row + 8)
    cdef const uint8_t* at
    cdef const uint8_t* stop = cells.bytes + cells.bytes_size
    cdef uint8_t* to
    cdef size_t size
    if start < 0 or end < start or <size_t> end > cells.bytes_size:
        return BROKEN
    at = cells.bytes + start
    size = end - start
    if cells.op == OP_JSON and has_long_number(at, size):
        return LEFT
    if cells.op == OP_TEXT or cells.op == OP_JSON:
        if rows.is_literal:
            return _put_quoted(at, size, stop, rows)
        return _put_escaped(at, size, stop, False, True, rows)
    if cells.op == OP_BYTES:
        return _put_bytes(at, size, stop, rows)
    if size != (4 if cells.op == OP_INET4 else 16):
        return LEFT
    to = _put_quote(rows.out.data + rows.out.size, rows.is_literal)
    if cells.op == OP_INET4:
        to = put_inet4(to, at)
    elif cells.op == OP_UUID:
        to = put_uuid(to, at)
    else:
        to = put_inet6(to, at)
    rows.out.size = _put_quote(to, rows.is_literal) - rows.out.data
    return PUT


cdef int _put_bit(const cells_t* cells, uint64_t number, rows_t* rows) noexcept nogil:
    """As a number, or for LOAD DATA as its bytes, the high one first."""
    cdef uint8_t raw[8]
    cdef int index, first = 7
    if rows.is_literal:
        rows.out.size = put_unsigned(rows.out.data + rows.out.size, number) - rows.out.data
        return PUT
    for index in range(8):
        raw[index] = number >> (56 - 8 * index) & 0xFF
        if raw[index] and index < first:
            first = index
    return _put_escaped(raw + first, 8 - first, raw + 8, False, False, rows)


cdef inline bint _leaves_double(const cells_t* cells, uint64_t bits) noexcept nogil:
    return cells.leaves_zero and bits == SIGN_BIT


cdef inline int _put_number(const cells_t* cells, size_t row, rows_t* rows) noexcept nogil:
    """INTEGER, ENUM, SET, YEAR."""
    cdef const uint8_t* values = cells.values
    cdef uint8_t* to = rows.out.data + rows.out.size
    cdef uint64_t number
    cdef int op = cells.op
    if op == OP_8:
        to = put_signed(to, <int8_t> values[row])
    elif op == OP_16:
        to = put_signed(to, <int16_t> load_16(values + 2 * row))
    elif op == OP_32:
        to = put_signed(to, <int32_t> load_32(values + 4 * row))
    elif op == OP_64:
        to = put_signed(to, <int64_t> load_64(values + 8 * row))
    elif op == OP_U8:
        to = put_unsigned(to, values[row])
    elif op == OP_U16:
        to = put_unsigned(to, load_16(values + 2 * row))
    elif op == OP_U32:
        to = put_unsigned(to, load_32(values + 4 * row))
    elif op == OP_U64:
        to = put_unsigned(to, load_64(values + 8 * row))
    elif op == OP_YEAR:
        number = load_16(values + 2 * row)
        if rows.is_literal:
            to = put_unsigned(to, number)
        elif number and (number < YEAR_MIN or number > YEAR_MAX):
            return LEFT
        else:   # `0` would be 2000
            to = put_pair(put_pair(to, number // 100), number % 100)
    else:
        number = load_16(values + 2 * row) if op == OP_ENUM else load_64(values + 8 * row)
        if number > cells.most or (number == 0 and cells.leaves_zero):
            return LEFT
        to = put_unsigned(to, number)
    rows.out.size = to - rows.out.data
    return PUT


cdef inline int _put_cell(const cells_t* cells, size_t row, rows_t* rows) noexcept nogil:
    cdef const uint8_t* values = cells.values
    cdef uint8_t* to = rows.out.data + rows.out.size
    cdef uint64_t bits
    cdef int op = cells.op
    if op == OP_LEFT:
        return LEFT
    if _is_null(cells.validity, cells.validity_offset + row):
        if rows.is_compared:
            return LEFT
        if rows.is_literal:
            memcpy(to, b"NULL", 4)
            rows.out.size += 4
        else:
            memcpy(to, b"\\N", 2)
            rows.out.size += 2
        return PUT
    if op <= OP_U64 or op == OP_YEAR or op == OP_ENUM or op == OP_SET:
        return _put_number(cells, row, rows)
    if op >= OP_TEXT:
        return _put_variable(cells, row, rows)
    if op == OP_BIT:
        return _put_bit(cells, load_64(values + 8 * row), rows)
    if op == OP_DECIMAL:
        to = put_decimal(to, values + 16 * row, cells.scale)
    elif op == OP_DECIMAL_LONG:
        to = put_long_decimal(to, values + 32 * row, cells.scale)
    elif op == OP_FLOAT:
        bits = _widened(values + 4 * row)
        if bits == SIGN_BIT and rows.has_odd_zero:
            memcpy(to, b"-1e-300", 7)
            to += 7
        else:
            to = _put_double(to, bits, rows.is_literal)
    elif op == OP_DOUBLE:
        bits = load_64(values + 8 * row)
        to = NULL if _leaves_double(cells, bits) else _put_double(to, bits, rows.is_literal)
    else:
        to = _put_quote(to, rows.is_literal)
        if op == OP_DATE:
            to = _put_date(to, <int32_t> load_32(values + 4 * row))
        elif op == OP_DATETIME:
            to = _put_datetime(to, <int64_t> load_64(values + 8 * row))
        elif op == OP_TIMESTAMP:
            to = _put_timestamp(to, <int64_t> load_64(values + 8 * row))
        else:
            to = _put_time(to, <int64_t> load_64(values + 8 * row))
        if to != NULL:
            to = _put_quote(to, rows.is_literal)
    if to == NULL:
        return LEFT
    rows.out.size = to - rows.out.data
    return PUT


# ---------------------------------------------------------------- rows


cdef inline int _row_at(const rows_t* rows, size_t position, size_t* row) noexcept nogil:
    row[0] = position
    if rows.selection != NULL:
        row[0] = load_32(rows.selection + 4 * position)   # a negative one is larger than any row count
    return PUT if row[0] < rows.row_count else BROKEN


cdef inline int _leave(rows_t* rows, size_t row) noexcept nogil:
    cdef int32_t number = <int32_t> row
    if bytes_reserve(&rows.left, 4) < 0:
        return NO_MEMORY
    memcpy(rows.left.data + rows.left.size, &number, 4)
    rows.left.size += 4
    return PUT


cdef int _put_row(rows_t* rows, size_t row) noexcept nogil:
    """One row with what ends it. There is `row_room`."""
    cdef bytes_t* out = &rows.out
    cdef cells_t* cells = rows.cells
    cdef cells_t* stop = rows.cells + rows.column_count
    cdef int result
    if rows.has_parentheses:
        out.data[out.size] = 40
        out.size += 1
    while cells < stop:
        result = _put_cell(cells, row, rows)
        if result != PUT:
            return result
        out.data[out.size] = 44 if rows.is_literal else 9   # comma, tab
        out.size += 1
        cells += 1
    if not rows.is_literal:
        out.data[out.size - 1] = 10
    elif rows.has_parentheses:
        out.data[out.size - 1] = 41
        out.data[out.size] = 44
        out.size += 1
    return PUT


cdef int _put_rows(rows_t* rows) noexcept nogil:
    """Write rows until all are written (PUT), or the piece is full."""
    cdef bytes_t* out = &rows.out
    cdef size_t row = 0, before, wanted
    cdef int result
    while rows.position < rows.count:
        if _row_at(rows, rows.position, &row) != PUT:
            return BROKEN
        if out.size == 0:
            wanted = rows.count - rows.position
            wanted = rows.piece_size if wanted > rows.piece_size // rows.row_room else wanted * rows.row_room
            if bytes_reserve(out, wanted) < 0:
                return NO_MEMORY
        if bytes_reserve(out, rows.row_room) < 0:
            return NO_MEMORY
        before = out.size
        result = _put_row(rows, row)
        if result == PUT and out.size - before > rows.row_size_max:
            result = LEFT
        if result == LEFT:
            out.size = before
            result = _leave(rows, row)
        elif result == PUT:
            if before and out.size > rows.piece_size:   # this row begins the next piece
                out.size = before
                return FULL
            rows.in_piece += 1
        if result != PUT:
            return result
        rows.position += 1
        if rows.in_piece == rows.piece_rows_max or out.size > PIECE_SIZE - PIECE_ROOM:
            return FULL
    return PUT


# ---------------------------------------------------------------- plans

_INTEGERS = {
    pa.int8(): (OP_8, 1),
    pa.int16(): (OP_16, 2),
    pa.int32(): (OP_32, 4),
    pa.int64(): (OP_64, 8),
    pa.uint8(): (OP_U8, 1),
    pa.uint16(): (OP_U16, 2),
    pa.uint32(): (OP_U32, 4),
    pa.uint64(): (OP_U64, 8),
}
# Kind: operation and bytes of a value; of its offset, where values vary in length.
_OPERATIONS = {
    ValueKind.FLOAT: (OP_FLOAT, 4),
    ValueKind.DOUBLE: (OP_DOUBLE, 8),
    ValueKind.BIT: (OP_BIT, 8),
    ValueKind.YEAR: (OP_YEAR, 2),
    ValueKind.DATE: (OP_DATE, 4),
    ValueKind.DATETIME: (OP_DATETIME, 8),
    ValueKind.TIMESTAMP: (OP_TIMESTAMP, 8),
    ValueKind.TIME: (OP_TIME, 8),
    ValueKind.ENUM: (OP_ENUM, 2),
    ValueKind.SET: (OP_SET, 8),
    ValueKind.TEXT: (OP_TEXT, 8),
    ValueKind.BINARY: (OP_BYTES, 8),
    ValueKind.BLOB: (OP_BYTES, 8),
    ValueKind.GEOMETRY: (OP_BYTES, 8),
    ValueKind.VECTOR: (OP_BYTES, 8),
    ValueKind.UUID: (OP_UUID, 8),
    ValueKind.INET4: (OP_INET4, 8),
    ValueKind.INET6: (OP_INET6, 8),
}
_ADDRESSES = (ValueKind.UUID, ValueKind.INET4, ValueKind.INET6)


def _operation(cell, array_type):
    """How cells of that column are written, as in `_OPERATIONS`; nothing but OP_LEFT for what is not as expected."""
    source = cell.source
    kind = source.kind
    if array_type != source.arrow_type:
        return OP_LEFT, 0
    if kind is ValueKind.INTEGER:
        return _INTEGERS[array_type]
    if kind is ValueKind.DECIMAL:
        if not 0 <= array_type.scale <= SCALE_MAX:
            return OP_LEFT, 0
        return (OP_DECIMAL, 16) if array_type.bit_width == 128 else (OP_DECIMAL_LONG, 32)
    if kind is ValueKind.JSON:
        return (OP_JSON if cell.is_parsed else OP_TEXT), 8
    if kind in _ADDRESSES and cell.is_raw:
        return OP_BYTES, 8
    if kind is ValueKind.SET and (cell.is_left or len(source.members) > MEMBERS_MAX):
        return OP_LEFT, 0
    return _OPERATIONS.get(kind, (OP_LEFT, 0))


cdef const uint8_t* _address(object buffer) except? NULL:
    return <const uint8_t*> <uintptr_t> buffer.address


cdef const uint8_t* _bytes(object buffer, size_t* size) except NULL:
    """Where the bytes of values that vary in length are; somewhere, if there are none."""
    size[0] = buffer.size if buffer is not None else 0
    return _address(buffer) if size[0] else <const uint8_t*> b""


cdef int _require(bint holds) except -1:
    if not holds:
        raise InvariantBroken("an array is longer than its buffers")
    return 0


cdef int _plan(cells_t* cells, object cell, object array, list kept) except -1:
    """Fill `cells`; what it points into is in `kept`."""
    cdef size_t count = len(array), offset = array.offset, item
    operation, size = _operation(cell, array.type)
    cells.op = operation
    if cells.op == OP_LEFT:
        return 0
    buffers = array.buffers()
    kept.append(buffers)
    if buffers[0] is not None:
        _require(buffers[0].size >= (offset + count + 7) // 8)
        cells.validity = _address(buffers[0])
        cells.validity_offset = offset
    cells.leaves_zero = cell.leaves_zero
    if cells.op == OP_DECIMAL or cells.op == OP_DECIMAL_LONG:
        cells.scale = array.type.scale
    elif cells.op == OP_ENUM:
        cells.most = len(cell.source.members)
    elif cells.op == OP_SET:
        item = len(cell.source.members)
        cells.most = ~(<uint64_t> 0) >> (MEMBERS_MAX - item) if item else 0
    item = size
    if count == 0:   # of which Arrow allows to have no offsets, and nothing is read
        return 0
    _require(buffers[1] is not None and buffers[1].size >= (offset + count + (cells.op >= OP_TEXT)) * item)
    cells.values = _address(buffers[1]) + offset * item
    if cells.op >= OP_TEXT:
        cells.bytes = _bytes(buffers[2], &cells.bytes_size)
    return 0


cdef class RowText:
    """The rows of a selection as text, as far as their cells are usual.

    Args:
        columns: at least one pair of `encode_mysql.Cell` and array; the arrays are of one length.
        selection: int32 row numbers without nulls; None: every row.
        form: `load` for lines of LOAD DATA; `values` for `(1,'a'),(2,'b'),`; `keys` for `1,2,` (of one column).
        piece_bytes, piece_rows_max: a piece has no more, but for one row that has more bytes.
        row_bytes_max: a row with more is left.
        has_odd_zero: a FLOAT's -0 is written as -1e-300.
    """

    cdef rows_t rows
    cdef list _kept       # what `rows` points into
    cdef list _pieces

    def __cinit__(
        self,
        columns,
        selection=None,
        *,
        form,
        size_t piece_bytes=PIECE_SIZE,
        size_t piece_rows_max=0xFFFFFFFF,
        size_t row_bytes_max,
        bint has_odd_zero,
    ):
        cdef size_t index, row_count
        cdef cells_t* cells
        self._kept = []
        self._pieces = []
        if not columns or form not in ("load", "values", "keys") or (form == "keys" and len(columns) != 1):
            raise InvariantBroken("no columns to encode, or no such form of them")
        self.rows.cells = <cells_t*> calloc(len(columns), sizeof(cells_t))
        if self.rows.cells == NULL:
            raise MemoryError
        self.rows.is_literal = form != "load"
        self.rows.has_parentheses = form == "values"
        self.rows.is_compared = form == "keys"
        self.rows.has_odd_zero = has_odd_zero
        self.rows.piece_size = min(piece_bytes, <size_t> PIECE_SIZE)
        self.rows.piece_rows_max = piece_rows_max
        self.rows.row_size_max = row_bytes_max
        self.rows.column_count = len(columns)
        self.rows.row_count = self.rows.count = len(columns[0][1])
        self.rows.row_room = CELL_ROOM
        for index in range(self.rows.column_count):
            cell, array = columns[index]
            row_count = len(array)
            if row_count != self.rows.row_count:
                raise InvariantBroken("columns of different lengths")
            cells = self.rows.cells + index
            _plan(cells, cell, array, self._kept)
            self.rows.row_room += CELL_ROOM
            if cells.op == OP_DECIMAL or cells.op == OP_DECIMAL_LONG:
                self.rows.row_room += DECIMAL_ROOM
        if selection is not None:
            self._select(selection)

    def __dealloc__(self):
        free(self.rows.cells)
        bytes_free(&self.rows.out)
        bytes_free(&self.rows.left)

    cdef int _select(self, selection) except -1:
        cdef size_t count = len(selection), offset = selection.offset
        if selection.type != pa.int32() or selection.null_count:
            raise InvariantBroken("a selection is int32 without nulls")
        self.rows.count = count
        if count:
            values = selection.buffers()[1]
            _require(values is not None and values.size >= (offset + count) * 4)
            self._kept.append(values)
            self.rows.selection = _address(values) + offset * 4
        return 0

    def write(self):
        """Write all rows: the pieces, each a block and how many rows it holds; and the numbers of the rows left.

        Raises MemoryError.
        """
        cdef int result = FULL
        while result == FULL:
            with nogil:
                result = _put_rows(&self.rows)
            if result == NO_MEMORY:
                raise MemoryError
            if result == BROKEN:
                raise InvariantBroken("a row number or an offset points outside its array")
            self._end_piece()
        pieces = self._pieces
        self._pieces = []
        return pieces, self._left()

    cdef int _end_piece(self) except -1:
        if self.rows.out.size:
            self._pieces.append((block_take_over(&self.rows.out), self.rows.in_piece))
            self.rows.in_piece = 0
        return 0

    cdef object _left(self):
        cdef size_t count = self.rows.left.size // 4
        if count == 0:
            return pa.array([], pa.int32())   # Arrow takes no buffer without memory
        return pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(block_take_over(&self.rows.left))], 0)
