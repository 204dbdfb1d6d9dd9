"""Rows of a text-protocol result to Arrow columns, compiled: the twin of cdc/source/resultset.py, which says what the
values mean.

`RowBuffer.consume` takes whole packets off a window of received bytes, row by row, into buffers that Arrow takes over
as they are. A row with a value that the kernel does not know is left where it is, and nothing of it is kept: the twin
decodes it, or raises the error. So is a row of several packets (16 MiB and more): its payload comes back by
`append_row` once it is whole.

A packet is `length[3] · sequence[1] · payload`; a row's payload is one value a column, `length (lenenc) · bytes`, or
0xFB for NULL. Every value's bytes are known to lie inside the packet before they are read, every buffer has room before
it is written.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import pyarrow as pa

from cdc.binlog.charset_tables import MULTI_BYTE, SINGLE_BYTE
from cdc.binlog.charsets import charset_name, single_byte_table, text_decoder
from cdc.binlog.kernel.memory cimport block_take_over, bytes_free, bytes_grow, bytes_reserve, bytes_t
from cdc.errors import InvariantBroken
from cdc.model import ValueKind

__all__ = ["Consumed", "RowBuffer"]

cdef extern from "text_rows.h" nogil:
    bint text_rows_prepare()
    uint64_t load_64(const uint8_t* at)
    uint64_t load_little(const uint8_t* at, size_t size)
    size_t bit_count(uint64_t value)
    bint copy_blocks(uint8_t* out, const uint8_t* at, size_t size, const uint8_t* end)
    bint is_utf8(const uint8_t* at, size_t size, int plane)
    bint parse_integer(const uint8_t* at, size_t size, bint is_signed, uint64_t limit, uint64_t* out)
    bint parse_bits(const uint8_t* at, size_t size, uint64_t* out)
    bint parse_decimal(
        const uint8_t* at, size_t size, unsigned int precision, unsigned int scale, unsigned int limbs, uint64_t* out
    )
    bint parse_double(const uint8_t* at, size_t size, double* out)
    bint parse_float(const uint8_t* at, size_t size, uint32_t* out)
    bint parse_date(const uint8_t* at, size_t size, uint32_t* out)
    bint parse_datetime(const uint8_t* at, size_t size, uint64_t* out)
    bint parse_timestamp(const uint8_t* at, size_t size, int64_t* out)
    bint parse_time(const uint8_t* at, size_t size, int64_t* out)
    bint parse_uuid(const uint8_t* at, size_t size, uint8_t* out)
    bint parse_address(const uint8_t* at, size_t size, bint is_v6, uint8_t* out)

if not text_rows_prepare():
    raise MemoryError

# How a value is read.
cdef enum:
    OP_INTEGER
    OP_DECIMAL
    OP_FLOAT
    OP_DOUBLE
    OP_BIT
    OP_DATE
    OP_DATETIME
    OP_TIMESTAMP
    OP_TIME
    OP_TEXT      # from here on values vary in length
    OP_BYTES
    OP_PADDED
    OP_UUID
    OP_INET4
    OP_INET6

# What text is made of (`column_t.text`).
cdef enum:
    TEXT_UTF8MB4
    TEXT_UTF8MB3
    TEXT_ASCII
    TEXT_SINGLE_BYTE   # by `characters`
    TEXT_PYTHON        # by `decode`

cdef enum:
    # A first block of 4 KiB holds as many eight-byte values.
    ROWS_FIRST = 512
    # Room after what is copied in blocks.
    COPY_SLACK = 64
    PACKET_MAX = 0xFFFFFF
    EOF_BYTES_MAX = 8
    NULL_VALUE = 0xFB

cdef enum:
    # Why `consume` came back.
    CONSUMED_WANTS_MORE     # the window ends inside a packet, or before one
    CONSUMED_IS_FULL        # a limit is reached
    CONSUMED_IS_ODD         # the packet at the front is a row that the twin must decode
    CONSUMED_IS_LARGE       # the packet at the front is the first of several
    CONSUMED_IS_END         # an EOF packet was taken: no rows follow
    CONSUMED_IS_ERROR       # the packet at the front is an error
    CONSUMED_IS_BROKEN      # the packet at the front is none of this result: its number is not the next one
    CONSUMED_NO_MEMORY


class Consumed:
    """Why `RowBuffer.consume` came back."""

    WANTS_MORE = CONSUMED_WANTS_MORE
    IS_FULL = CONSUMED_IS_FULL
    IS_ODD = CONSUMED_IS_ODD
    IS_LARGE = CONSUMED_IS_LARGE
    IS_END = CONSUMED_IS_END
    IS_ERROR = CONSUMED_IS_ERROR
    IS_BROKEN = CONSUMED_IS_BROKEN


cdef struct column_t:
    uint8_t op
    uint8_t item             # bytes a row in `values`
    uint8_t text
    uint8_t precision        # of DECIMAL
    uint8_t scale
    bint is_variable
    bint is_signed
    bint is_ascii_compatible
    uint64_t limit           # of whole numbers the largest, of padded bytes how many they become
    bytes_t values           # fixed-width values; where they vary in length, int64 offsets: one more than rows
    bytes_t bytes            # the values that vary in length, end to end
    bytes_t validity         # bitmap, 1 is not NULL; empty while there is no NULL. Bits of rows to come are set.
    size_t bytes_hint        # how large `bytes` was when the last batch was taken
    const uint32_t* characters  # single-byte charsets: UTF-8 in the low 24 bits, its length in the high 8; 0 is none
    void* decode             # bytes -> str, borrowed


cdef struct rows_t:
    column_t* columns
    uint32_t column_count
    size_t row_count
    size_t byte_count        # about the memory that they take
    size_t capacity          # rows that the fixed-width buffers have room for
    size_t row_bytes         # what a row adds to `byte_count`, apart from values that vary in length
    size_t rows_hint         # how many rows the last batch had
    bint has_no_memory


# ---------------------------------------------------------------- values that vary in length


cdef uint8_t* _room(rows_t* rows, column_t* column, size_t more) noexcept nogil:
    """Where the next `more` bytes go; NULL when there is no memory. After the first block at once as much as the last
    batch needed, where that is more."""
    cdef size_t size = column.bytes.size, wanted = more
    if column.bytes.capacity - size < more:
        if size and column.bytes_hint > size + more:
            wanted = column.bytes_hint - size
        if bytes_grow(&column.bytes, wanted) < 0:
            rows.has_no_memory = True
            return NULL
    return column.bytes.data + size


cdef int _python_text(rows_t* rows, column_t* column, const uint8_t* raw, size_t size) noexcept with gil:
    """The value by the charset's Python decoder. What it raises, the twin will raise again."""
    cdef uint8_t* out
    cdef bytes encoded
    try:
        encoded = (<object> column.decode)(PyBytes_FromStringAndSize(<const char*> raw, size)).encode()
    except MemoryError:
        rows.has_no_memory = True
        return -1
    except BaseException:
        return -1
    out = _room(rows, column, PyBytes_GET_SIZE(encoded) + COPY_SLACK)
    if out == NULL:
        return -1
    memcpy(out, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
    column.bytes.size += PyBytes_GET_SIZE(encoded)
    return 0


cdef int _single_byte_text(rows_t* rows, column_t* column, const uint8_t* raw, size_t size) noexcept nogil:
    """By the table; a character takes at most three bytes, and is written as four."""
    cdef uint8_t* out = _room(rows, column, 3 * size + 4)
    cdef uint8_t* start = out
    cdef size_t index
    cdef uint32_t character
    if out == NULL:
        return -1
    for index in range(size):
        character = column.characters[raw[index]]
        if not character:
            return -1
        memcpy(out, &character, 4)
        out += character >> 24
    column.bytes.size += out - start
    return 0


cdef int _text(rows_t* rows, column_t* column, const uint8_t* raw, size_t size, const uint8_t* end) noexcept nogil:
    """A value in the column's charset, as UTF-8; `end` is where reading must stop."""
    cdef uint8_t* out
    if column.is_ascii_compatible:
        out = _room(rows, column, size + COPY_SLACK)
        if out == NULL:
            return -1
        # copied before it is known to be text: most is ASCII, and what is not is written over or refused
        if copy_blocks(out, raw, size, end):
            column.bytes.size += size
            return 0
    if column.text == TEXT_UTF8MB4 or column.text == TEXT_UTF8MB3:
        if not is_utf8(raw, size, column.text == TEXT_UTF8MB3):
            return -1
        column.bytes.size += size
        return 0
    if column.text == TEXT_SINGLE_BYTE:
        return _single_byte_text(rows, column, raw, size)
    if column.text == TEXT_PYTHON:
        return _python_text(rows, column, raw, size)
    return -1


cdef int _bytes(rows_t* rows, column_t* column, const uint8_t* raw, size_t size, const uint8_t* end) noexcept nogil:
    """Bytes as they are; BINARY with the zero bytes that the server may have cut."""
    cdef size_t whole = size
    cdef uint8_t* out
    if column.op == OP_PADDED and column.limit > size:
        whole = column.limit
    out = _room(rows, column, whole + COPY_SLACK)
    if out == NULL:
        return -1
    copy_blocks(out, raw, size, end)
    memset(out + size, 0, whole - size)
    column.bytes.size += whole
    return 0


cdef int _address(rows_t* rows, column_t* column, const uint8_t* raw, size_t size) noexcept nogil:
    """UUID, INET4 and INET6 as their bytes."""
    cdef uint8_t* out = _room(rows, column, 16)
    if out == NULL:
        return -1
    if column.op == OP_UUID:
        if not parse_uuid(raw, size, out):
            return -1
    elif not parse_address(raw, size, column.op == OP_INET6, out):
        return -1
    column.bytes.size += 4 if column.op == OP_INET4 else 16
    return 0


cdef int _variable(rows_t* rows, column_t* column, const uint8_t* raw, size_t size, const uint8_t* end) noexcept nogil:
    if column.op == OP_TEXT:
        return _text(rows, column, raw, size, end)
    if column.op == OP_BYTES or column.op == OP_PADDED:
        return _bytes(rows, column, raw, size, end)
    return _address(rows, column, raw, size)


# ---------------------------------------------------------------- rows


cdef bint _fixed(column_t* column, size_t row, const uint8_t* raw, size_t size) noexcept nogil:
    """A value of fixed size into the slot of the row. False, and zeroes or anything there, where it is none."""
    cdef uint8_t* slot = column.values.data + row * column.item
    cdef uint64_t whole
    if column.op == OP_INTEGER:
        if not parse_integer(raw, size, column.is_signed, column.limit, &whole):
            return False
        memcpy(slot, &whole, column.item)  # the low bytes come first
        return True
    if column.op == OP_DECIMAL:
        return parse_decimal(raw, size, column.precision, column.scale, column.item // 8, <uint64_t*> slot)
    if column.op == OP_DATETIME:
        return parse_datetime(raw, size, <uint64_t*> slot)
    if column.op == OP_TIMESTAMP:
        return parse_timestamp(raw, size, <int64_t*> slot)
    if column.op == OP_DATE:
        return parse_date(raw, size, <uint32_t*> slot)
    if column.op == OP_DOUBLE:
        return parse_double(raw, size, <double*> slot)
    if column.op == OP_FLOAT:
        return parse_float(raw, size, <uint32_t*> slot)
    if column.op == OP_TIME:
        return parse_time(raw, size, <int64_t*> slot)
    return parse_bits(raw, size, <uint64_t*> slot)


cdef int _null(rows_t* rows, column_t* column, size_t row) noexcept nogil:
    """NULL in the row. The slot holds zeroes: never what the memory held before."""
    cdef size_t size
    if column.validity.data == NULL:
        size = (rows.capacity + 7) // 8
        if bytes_reserve(&column.validity, size) < 0:
            rows.has_no_memory = True
            return -1
        memset(column.validity.data, 0xFF, size)
        column.validity.size = size
    column.validity.data[row >> 3] &= <uint8_t> ~(1 << (row & 7))
    if not column.is_variable:
        memset(column.values.data + row * column.item, 0, column.item)
    return 0


cdef const uint8_t* _value_length(const uint8_t* at, const uint8_t* end, size_t* length) noexcept nogil:
    """The length of the value at `at`, which is not NULL: where its bytes begin, all of which are there; else NULL."""
    cdef size_t size
    length[0] = at[0]
    at += 1
    if length[0] > 250:
        if length[0] == 252:
            size = 2
        elif length[0] == 253:
            size = 3
        elif length[0] == 254:
            size = 8
        else:
            return NULL
        if <size_t> (end - at) < size:
            return NULL
        length[0] = load_little(at, size)
        at += size
    return at if length[0] <= <size_t> (end - at) else NULL


cdef bint _values(rows_t* rows, size_t row, const uint8_t* at, const uint8_t* end, const uint8_t* stop) noexcept nogil:
    """One row from its payload [at, end); up to `stop` there is something to read."""
    cdef column_t* column = rows.columns
    cdef column_t* last = rows.columns + rows.column_count
    cdef size_t size, before
    while column != last:
        if at == end:
            return False
        if at[0] == NULL_VALUE:
            if _null(rows, column, row) < 0:
                return False
            at += 1
        else:
            at = _value_length(at, end, &size)
            if at == NULL:
                return False
            if not column.is_variable:
                if not _fixed(column, row, at, size):
                    return False
            else:
                before = column.bytes.size
                if _variable(rows, column, at, size, stop) < 0:
                    return False
                rows.byte_count += column.bytes.size - before
            at += size
        if column.is_variable:
            (<int64_t*> column.values.data)[row + 1] = <int64_t> column.bytes.size
        column += 1
    return at == end


cdef void _take_back(rows_t* rows, size_t row) noexcept nogil:
    """The row, which is not whole, is as if it had never been read."""
    cdef uint32_t index
    cdef column_t* column
    rows.byte_count = row * rows.row_bytes
    for index in range(rows.column_count):
        column = rows.columns + index
        if column.is_variable:
            column.bytes.size = <size_t> (<int64_t*> column.values.data)[row]
            rows.byte_count += column.bytes.size
        if column.validity.data != NULL:
            column.validity.data[row >> 3] |= <uint8_t> (1 << (row & 7))


cdef int _grow(rows_t* rows) noexcept nogil:
    """Room for more rows: first one small block a column, then what the last batch needed."""
    cdef size_t capacity = rows.capacity * 2, row = rows.row_count, slots
    cdef uint32_t index
    cdef column_t* column
    if rows.capacity == 0:
        capacity = ROWS_FIRST
    elif rows.rows_hint > capacity:
        capacity = (rows.rows_hint + 63) & ~(<size_t> 63)
    rows.has_no_memory = True
    for index in range(rows.column_count):
        column = rows.columns + index
        # offsets: one more than rows
        slots = row + column.is_variable if row else 0
        column.values.size = slots * column.item
        if bytes_reserve(&column.values, (capacity + column.is_variable) * column.item - column.values.size) < 0:
            return -1
        if column.is_variable and not row:
            (<int64_t*> column.values.data)[0] = 0
        if column.validity.data != NULL:
            if bytes_reserve(&column.validity, capacity // 8 - column.validity.size) < 0:
                return -1
            memset(column.validity.data + column.validity.size, 0xFF, capacity // 8 - column.validity.size)
            column.validity.size = capacity // 8
    rows.has_no_memory = False
    rows.capacity = capacity
    return 0


cdef bint _append(rows_t* rows, const uint8_t* at, size_t size, const uint8_t* stop) noexcept nogil:
    """One row's payload. False, and nothing changed, where the kernel does not take it."""
    cdef size_t row = rows.row_count
    rows.has_no_memory = False
    if row == rows.capacity and _grow(rows) < 0:
        return False
    if not _values(rows, row, at, at + size, stop):
        _take_back(rows, row)
        return False
    rows.byte_count += rows.row_bytes
    rows.row_count = row + 1
    return True


cdef int _consume(
    rows_t* rows, const uint8_t* start, const uint8_t* end, uint8_t* sequence, size_t rows_stop, size_t bytes_stop,
    size_t* consumed
) noexcept nogil:
    """Packets from `start` on; see `RowBuffer.consume`."""
    cdef const uint8_t* at = start
    cdef size_t size
    cdef int result = CONSUMED_WANTS_MORE
    while True:
        if rows.row_count >= rows_stop or rows.byte_count >= bytes_stop:
            result = CONSUMED_IS_FULL
            break
        if <size_t> (end - at) < 4:
            break
        size = load_little(at, 3)
        if at[3] != sequence[0]:
            result = CONSUMED_IS_BROKEN
            break
        if size == PACKET_MAX:
            result = CONSUMED_IS_LARGE
            break
        if <size_t> (end - at) - 4 < size:
            break
        if size and at[4] == 0xFF:
            result = CONSUMED_IS_ERROR
            break
        if size and at[4] == 0xFE and size <= EOF_BYTES_MAX:
            at += 4 + size
            sequence[0] += 1
            result = CONSUMED_IS_END
            break
        if not _append(rows, at + 4, size, end):
            result = CONSUMED_NO_MEMORY if rows.has_no_memory else CONSUMED_IS_ODD
            break
        at += 4 + size
        sequence[0] += 1
    consumed[0] = at - start
    return result


# ---------------------------------------------------------------- plans


_OPS = {
    ValueKind.INTEGER: OP_INTEGER,
    ValueKind.YEAR: OP_INTEGER,
    ValueKind.ENUM: OP_INTEGER,
    ValueKind.SET: OP_INTEGER,
    ValueKind.DECIMAL: OP_DECIMAL,
    ValueKind.FLOAT: OP_FLOAT,
    ValueKind.DOUBLE: OP_DOUBLE,
    ValueKind.BIT: OP_BIT,
    ValueKind.DATE: OP_DATE,
    ValueKind.DATETIME: OP_DATETIME,
    ValueKind.TIMESTAMP: OP_TIMESTAMP,
    ValueKind.TIME: OP_TIME,
    ValueKind.TEXT: OP_TEXT,
    ValueKind.JSON: OP_TEXT,
    ValueKind.BINARY: OP_PADDED,
    ValueKind.BLOB: OP_BYTES,
    ValueKind.GEOMETRY: OP_BYTES,
    ValueKind.VECTOR: OP_BYTES,
    ValueKind.UUID: OP_UUID,
    ValueKind.INET4: OP_INET4,
    ValueKind.INET6: OP_INET6,
}


cdef object _plan_text(column_t* column, str charset):
    """How text of the charset is read; returns what the plan borrows from. Raises UnprovenCharset."""
    column.is_ascii_compatible = True
    if charset == "utf8mb4":
        column.text = TEXT_UTF8MB4
    elif charset == "utf8mb3":
        column.text = TEXT_UTF8MB3
    elif charset == "ascii":
        column.text = TEXT_ASCII
    elif charset in SINGLE_BYTE:
        table, column.is_ascii_compatible = single_byte_table(charset)
        column.text = TEXT_SINGLE_BYTE
        column.characters = <const uint32_t*> PyBytes_AS_STRING(table)
        return table
    else:
        decode = text_decoder(charset)
        column.is_ascii_compatible = charset in MULTI_BYTE or charset == "gb18030"
        column.text = TEXT_PYTHON
        column.decode = <void*> decode
        return decode
    return None


cdef object _plan(column_t* column, object definition):
    """How to read the column; returns what the plan borrows from."""
    kind, arrow_type = definition.kind, definition.arrow_type
    column.op = _OPS[kind]
    column.is_variable = column.op >= OP_TEXT
    column.item = 8 if column.is_variable else arrow_type.byte_width
    if column.is_variable != (pa.types.is_large_string(arrow_type) or pa.types.is_large_binary(arrow_type)):
        raise InvariantBroken(f"{definition.name}: a {kind} as {arrow_type}")
    if column.op == OP_INTEGER:
        column.is_signed = pa.types.is_signed_integer(arrow_type)
        column.limit = ~(<uint64_t> 0) >> (64 - 8 * column.item + column.is_signed)
    elif column.op == OP_DECIMAL:
        column.precision, column.scale = definition.precision, definition.scale
    elif column.op == OP_PADDED:
        column.limit = definition.length
    elif kind is ValueKind.JSON:
        return _plan_text(column, "utf8mb4")
    elif kind is ValueKind.TEXT:
        return _plan_text(column, charset_name(definition.charset or "utf8mb4"))
    return None


# ---------------------------------------------------------------- the buffer


_NO_BYTES = pa.py_buffer(b"")


cdef object _buffer(bytes_t* held, size_t size):
    """The first `size` bytes as an Arrow buffer, which they belong to from now on."""
    held.size = size
    if not size:
        return _NO_BYTES
    return pa.py_buffer(block_take_over(held))


cdef size_t _null_count(column_t* column, size_t row_count) noexcept nogil:
    """How many of the first rows are NULL. Bits of rows to come are set."""
    cdef size_t valid = 0, index
    for index in range(row_count // 64):
        valid += bit_count(load_64(column.validity.data + 8 * index))
    for index in range(row_count // 64 * 64, row_count):
        valid += column.validity.data[index >> 3] >> (index & 7) & 1
    return row_count - valid


cdef class RowBuffer:
    """Collects the rows of a SELECT by `resultset.select_list` until they are taken as one batch.

    Raises UnprovenCharset for a column whose charset has no proven decoder.
    """

    cdef rows_t rows
    cdef readonly object definition
    cdef object _kept        # what the plan borrows from
    cdef object _schema

    def __cinit__(self, definition):
        cdef rows_t* rows = &self.rows
        cdef uint32_t index
        memset(rows, 0, sizeof(rows_t))
        self.definition = definition
        self._schema = definition.arrow_schema
        rows.columns = <column_t*> calloc(len(definition.columns) + 1, sizeof(column_t))
        if rows.columns == NULL:
            raise MemoryError
        rows.column_count = len(definition.columns)
        kept = []
        for index, column in enumerate(definition.columns):
            kept.append(_plan(rows.columns + index, column))
            rows.row_bytes += rows.columns[index].item
        self._kept = kept

    def __dealloc__(self):
        if self.rows.columns != NULL:
            self._forget()
        free(self.rows.columns)

    cdef void _forget(self) noexcept:
        """Give back all memory; what was learned about sizes stays."""
        cdef uint32_t index
        for index in range(self.rows.column_count):
            bytes_free(&self.rows.columns[index].values)
            bytes_free(&self.rows.columns[index].bytes)
            bytes_free(&self.rows.columns[index].validity)
        self.rows.capacity = self.rows.row_count = self.rows.byte_count = 0

    @property
    def row_count(self):
        """How many rows are held."""
        return self.rows.row_count

    @property
    def byte_count(self):
        """About the memory that they take in Arrow."""
        return self.rows.byte_count

    def consume(self, const uint8_t[::1] window, sequence, rows_stop, bytes_stop):
        """Take whole packets off the front of `window` until there is a reason to stop.

        Args:
            sequence: the number of the first packet.
            rows_stop, bytes_stop: stop once so many rows are held, or so many bytes.
        Returns:
            Why it stopped (`Consumed`), how many bytes were taken, and the number of the packet that follows.
        Raises MemoryError.
        """
        cdef rows_t* rows = &self.rows
        cdef size_t size = len(window), consumed = 0, row_limit = rows_stop, byte_limit = bytes_stop
        cdef uint8_t number = sequence
        cdef const uint8_t* start = &window[0] if size else NULL
        cdef int result = CONSUMED_WANTS_MORE
        if size:
            with nogil:
                result = _consume(rows, start, start + size, &number, row_limit, byte_limit, &consumed)
        if result == CONSUMED_NO_MEMORY:
            raise MemoryError
        return result, consumed, number

    def append_row(self, const uint8_t[::1] payload):
        """Take one row by its payload. False, and nothing is held of it, where the twin must decode it.

        Raises MemoryError.
        """
        cdef rows_t* rows = &self.rows
        cdef size_t size = len(payload)
        cdef const uint8_t* start = &payload[0] if size else NULL
        cdef bint is_taken = False
        if size:
            with nogil:
                is_taken = _append(rows, start, size, start + size)
        if not is_taken and rows.has_no_memory:
            raise MemoryError
        return is_taken

    def take(self):
        """The rows so far as one batch; the buffer is empty afterwards."""
        cdef rows_t* rows = &self.rows
        cdef size_t row_count = rows.row_count, null_count
        cdef column_t* column
        cdef uint32_t index
        if not row_count:
            return pa.RecordBatch.from_arrays(
                [pa.array([], field.type) for field in self._schema], schema=self._schema
            )
        arrays = []
        from_buffers = pa.Array.from_buffers
        for index in range(rows.column_count):
            column = rows.columns + index
            null_count = 0
            validity = None
            if column.validity.data != NULL:
                null_count = _null_count(column, row_count)
                if null_count:
                    validity = _buffer(&column.validity, (row_count + 7) // 8)
            if column.is_variable:
                column.bytes_hint = column.bytes.size
                buffers = [
                    validity,
                    _buffer(&column.values, (row_count + 1) * 8),
                    _buffer(&column.bytes, column.bytes.size),
                ]
            else:
                buffers = [validity, _buffer(&column.values, row_count * column.item)]
            arrays.append(from_buffers(self._schema.field(index).type, row_count, buffers, null_count))
        rows.rows_hint = row_count
        self._forget()
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)
