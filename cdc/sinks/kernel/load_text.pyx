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

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import pyarrow as pa

from cdc.binlog.kernel.memory cimport block_take_over, bytes_free, bytes_reserve, bytes_t
from cdc.sinks.kernel.cells cimport (
    BROKEN, COPY_SLACK, DECIMAL_ROOM, FULL, LEFT, MEMBERS_MAX, MICROS_MAX, NO_MEMORY, OP_BIT, OP_BYTES, OP_DATE,
    OP_DATETIME, OP_DECIMAL, OP_DECIMAL_LONG, OP_DOUBLE, OP_ENUM, OP_FLOAT, OP_GEOMETRY, OP_INET4, OP_JSON,
    OP_LEFT, OP_SET, OP_TEXT, OP_TIMESTAMP, OP_U64, OP_UUID, OP_VECTOR, OP_YEAR, PIECE_ROOM, PUT, TEXT_STEP,
    YEAR_LAST, array_t, find_array, find_bytes, find_selection, is_null, is_utf8, load_16, load_32, load_64, put_date,
    put_datetime, put_decimal, put_double, put_hex, put_inet4, put_inet6, put_integer, put_long_decimal, put_pair,
    put_time, put_timestamp, put_unsigned, put_uuid, row_at, utf8_prepare, widened,
)
from cdc.errors import InvariantBroken
from cdc.model import ValueKind
from cdc.sinks.kernel.copy_text import operation_of

__all__ = ["PIECE_BYTES", "RowText"]

cdef extern from "load_text.h" nogil:
    size_t copy_unescaped(
        uint8_t* to, const uint8_t* at, size_t size, const uint8_t* end, bint is_quoted, uint32_t* high
    )
    uint8_t escape_letter(uint8_t code)
    bint has_long_number(const uint8_t* at, size_t size)

utf8_prepare()

cdef enum:
    PIECE_SIZE = 1 << 20         # of a piece; one that ends in a large row is larger
    CELL_ROOM = 64               # of values of fixed size other than decimals, with quotes and what ends a cell
    YEAR_MIN = 1901
    YEAR_MAX = 2155

cdef uint64_t SIGN_BIT = <uint64_t> 1 << 63

PIECE_BYTES = PIECE_SIZE


cdef struct cells_t:
    # One column: how its cells are written, and where its array's values are.
    uint8_t op
    bint leaves_zero             # of ENUM, and of a DOUBLE's -0
    int scale                    # of a decimal; of BIT, how many bits
    uint64_t most                # the greatest value of ENUM and SET
    array_t array


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


cdef uint8_t* _put_double(uint8_t* to, uint64_t bits, bint is_literal) noexcept nogil:
    """With an exponent where it is a literal, which makes that a double. NULL: not finite."""
    cdef uint8_t* start = to
    to = put_double(to, bits)
    if to == NULL or not is_literal:
        return to
    while start < to and start[0] != 101:   # e
        start += 1
    if start == to:
        memcpy(to, b"e0", 2)
        to += 2
    return to


cdef inline uint8_t* _put_quote(uint8_t* to, bint is_literal) noexcept nogil:
    if is_literal:
        to[0] = 39
        to += 1
    return to


cdef inline uint8_t* _put_date(uint8_t* to, int32_t packed) noexcept nogil:
    """`year << 9 | month << 5 | day`, whatever they are. NULL: more than four digits of year."""
    cdef uint32_t value = <uint32_t> packed
    if packed < 0 or value >> 9 > YEAR_LAST:
        return NULL
    return put_date(to, value >> 9, value >> 5 & 15, value & 31)


cdef inline uint8_t* _put_datetime(uint8_t* to, int64_t packed) noexcept nogil:
    """NULL: more than four digits of year, or six of a fraction."""
    cdef uint64_t value = <uint64_t> packed
    if packed < 0 or value & 0xFFFFFF > MICROS_MAX or (value >> 46) // 13 > YEAR_LAST:
        return NULL
    return put_datetime(to, value)


cdef inline uint8_t* _put_timestamp(uint8_t* to, int64_t micros) noexcept nogil:
    """Microseconds since 1970, of which 0 is the zero timestamp. NULL: none that has a date."""
    if micros < 0:
        return NULL
    if micros == 0:
        memcpy(to, b"0000-00-00 00:00:00.000000", 26)
        return to + 26
    return put_timestamp(to, <uint64_t> micros)


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
    cdef const uint8_t* at = NULL
    cdef const uint8_t* stop = cells.array.bytes + cells.array.bytes_size
    cdef uint8_t* to
    cdef size_t size = 0
    if find_bytes(&cells.array, row, &at, &size) != PUT:
        return BROKEN
    if cells.op == OP_JSON and has_long_number(at, size):
        return LEFT
    if cells.op == OP_TEXT or cells.op == OP_JSON:
        if rows.is_literal:
            return _put_quoted(at, size, stop, rows)
        return _put_escaped(at, size, stop, False, True, rows)
    if cells.op == OP_BYTES or cells.op == OP_GEOMETRY or cells.op == OP_VECTOR:
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
    cdef const uint8_t* values = cells.array.values
    cdef uint8_t* to = rows.out.data + rows.out.size
    cdef uint64_t number
    cdef int op = cells.op
    if op <= OP_U64:
        to = put_integer(to, op, values, row)
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
    cdef const uint8_t* values = cells.array.values
    cdef uint8_t* to = rows.out.data + rows.out.size
    cdef uint64_t bits
    cdef int op = cells.op
    if op == OP_LEFT:
        return LEFT
    if is_null(&cells.array, row):
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
        bits = widened(values + 4 * row)
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
            to = put_time(to, <int64_t> load_64(values + 8 * row))
        if to != NULL:
            to = _put_quote(to, rows.is_literal)
    if to == NULL:
        return LEFT
    rows.out.size = to - rows.out.data
    return PUT


# ---------------------------------------------------------------- rows


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
        if row_at(rows.selection, rows.position, rows.row_count, &row) != PUT:
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

_ADDRESSES = (ValueKind.UUID, ValueKind.INET4, ValueKind.INET6)


def _operation(cell, array_type):
    operation, size = operation_of(cell.source, array_type)
    if operation == OP_JSON and not cell.is_parsed:
        operation = OP_TEXT
    elif cell.source.kind in _ADDRESSES and cell.is_raw and operation != OP_LEFT:
        operation = OP_BYTES
    return (OP_LEFT if cell.is_left else operation), size


cdef int _require(bint holds) except -1:
    if not holds:
        raise InvariantBroken("an array is longer than its buffers")
    return 0


cdef int _plan(cells_t* cells, object cell, object array, list kept) except -1:
    """Fill `cells`; what it points into is in `kept`."""
    cdef size_t members = len(cell.source.members)
    operation, size = _operation(cell, array.type)
    cells.op = operation
    if cells.op == OP_LEFT:
        return 0
    kept.append(array)
    _require(find_array(&cells.array, array, size, cells.op >= OP_TEXT))
    cells.leaves_zero = cell.leaves_zero
    if cells.op == OP_DECIMAL or cells.op == OP_DECIMAL_LONG:
        cells.scale = array.type.scale
    elif cells.op == OP_ENUM:
        cells.most = members
    elif cells.op == OP_SET:
        cells.most = ~(<uint64_t> 0) >> (MEMBERS_MAX - members) if members else 0
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
        if selection.type != pa.int32() or selection.null_count:
            raise InvariantBroken("a selection is int32 without nulls")
        self.rows.count = len(selection)
        self._kept.append(selection)
        _require(find_selection(&self.rows.selection, selection))
        return 0

    def next_piece(self):
        """Write the next piece: a block and how many rows it holds; None when all rows are written or left.

        Raises MemoryError.
        """
        cdef int result = FULL
        cdef size_t count
        while result == FULL:
            with nogil:
                result = _put_rows(&self.rows)
            if result == NO_MEMORY:
                raise MemoryError
            if result == BROKEN:
                raise InvariantBroken("a row number or an offset points outside its array")
            if self.rows.out.size:
                count = self.rows.in_piece
                self.rows.in_piece = 0
                return block_take_over(&self.rows.out), count
        return None

    def take_left(self):
        """The numbers of the rows that were left so far, as int32."""
        cdef size_t count = self.rows.left.size // 4
        if count == 0:
            return pa.array([], pa.int32())   # Arrow takes no buffer without memory
        return pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(block_take_over(&self.rows.left))], 0)
