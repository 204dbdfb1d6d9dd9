"""Arrow columns to PostgreSQL's COPY text, compiled: the twin of cdc/sinks/encode_postgres.py, which says what each
kind's text is, and has the policies and the errors.

Rows are written one after the other, cell by cell, into blocks of whole lines. A cell whose value is not a usual one
(a date that no calendar has, a NUL character, whatever the twin would refuse or count) is *left*: the row is taken back
and the caller told. It then asks for all that is left in the rows to come (`left`), column by column, has the twin
encode them, gives their texts back (`give`), and goes on. What is unusual is thus decided in one place, `_put_cell`.

Arrow's buffers are read where they are. Their sizes are compared with the array's length once, offsets and row numbers
each time; every cell has room before it is written.
"""

from libc.stdint cimport SIZE_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from functools import lru_cache

import pyarrow as pa

from cdc.binlog.kernel.memory cimport block_take_over, bytes_free, bytes_reserve, bytes_t
from cdc.sinks.kernel.cells cimport (
    BIT_LENGTH_MAX, BROKEN, COPY_SLACK, DECIMAL_ROOM, FULL, LEFT, MEMBERS_MAX, MICROS_MAX, NO_MEMORY, OP_16, OP_32,
    OP_64, OP_8, OP_BIT, OP_BYTES, OP_DATE, OP_DATETIME, OP_DECIMAL, OP_DECIMAL_LONG, OP_DOUBLE, OP_ENUM, OP_FLOAT,
    OP_GEOMETRY, OP_INET4, OP_INET6, OP_JSON, OP_LEFT, OP_SET, OP_TEXT, OP_TIME, OP_TIMESTAMP, OP_U16, OP_U32, OP_U64,
    OP_U8, OP_UUID, OP_VECTOR, OP_YEAR, PIECE_ROOM, PUT, SCALE_MAX, TEXT_STEP, array_t, buffer_address,
    find_array, find_bytes, find_selection, is_null, is_utf8, load_16, load_32, load_64, put_date, put_datetime,
    put_decimal, put_double, put_hex, put_inet4, put_inet6, put_integer, put_long_decimal, put_time, put_timestamp,
    put_uuid, row_at, utf8_prepare, widened,
)
from cdc.errors import InvariantBroken
from cdc.model import ValueKind

__all__ = ["PIECE_BYTES", "CopyLines"]

cdef extern from "copy_text.h" nogil:
    int lowest_bit(uint64_t value)
    bint is_calendar_date(unsigned int year, unsigned int month, unsigned int day)
    size_t copy_plain(uint8_t* to, const uint8_t* at, size_t size, const uint8_t* end, uint32_t* high)

utf8_prepare()

cdef enum:
    PIECE_SIZE = 256 << 10       # of a piece; one that ends in a large row is larger
    FIXED_ROOM = 32              # the longest of the values of fixed size other than those below: a double
    ELEMENT_ROOM = 32            # of a vector
    INET6_ROOM = 48

PIECE_BYTES = PIECE_SIZE


cdef struct cells_t:
    # One column: how its cells are written, and where its array's values are.
    uint8_t op
    int scale                    # of a decimal; of BIT, how many bits
    array_t array
    const uint8_t* labels        # of ENUM and SET, end to end, escaped
    const int64_t* label_ends    # label n lies between ends n and n + 1, which is -1 where the label is left
    size_t label_count
    bytes_t positions            # int64: which cells were found to be left, ascending
    array_t given                # their texts, which the twin made
    size_t given_count
    size_t given_at              # the next of them


cdef struct lines_t:
    cells_t* cells
    size_t column_count
    size_t row_count             # of the arrays
    const uint8_t* selection     # int32 row numbers; NULL: every row
    size_t count                 # lines in all
    size_t position              # of the next line
    size_t row_room              # of all cells, apart from what varies in length
    bytes_t out


# ---------------------------------------------------------------- cells
#
# Before a cell is written there is `room` for all of the row that does not vary in length; what varies asks for its
# own, and for as much again behind it.


cdef inline int _end(bytes_t* out, const uint8_t* to) noexcept nogil:
    """A value has been written up to there; NULL: it is left."""
    if to == NULL:
        return LEFT
    out.size = to - out.data
    return PUT


cdef inline uint8_t* _put_bits(uint8_t* to, uint64_t value, int count) noexcept nogil:
    cdef int index
    for index in range(count):
        to[index] = 48 + <uint8_t> (value >> (count - 1 - index) & 1)
    return to + count


cdef inline int _put_date(bytes_t* out, int32_t packed) noexcept nogil:
    """`year << 9 | month << 5 | day`"""
    cdef uint32_t value = <uint32_t> packed
    if packed < 0 or not is_calendar_date(value >> 9, value >> 5 & 15, value & 31):
        return LEFT
    return _end(out, put_date(out.data + out.size, value >> 9, value >> 5 & 15, value & 31))


cdef inline int _put_datetime(bytes_t* out, int64_t packed) noexcept nogil:
    cdef uint64_t value = <uint64_t> packed
    cdef unsigned int months = value >> 46
    if packed < 0 or value & 0xFFFFFF > MICROS_MAX or not is_calendar_date(months // 13, months % 13, value >> 41 & 31):
        return LEFT
    return _end(out, put_datetime(out.data + out.size, value))


cdef inline int _put_timestamp(bytes_t* out, int64_t micros) noexcept nogil:
    """Microseconds since 1970, of which 0 is the zero timestamp and none are negative."""
    cdef uint8_t* to
    if micros <= 0:
        return LEFT
    to = put_timestamp(out.data + out.size, <uint64_t> micros)
    if to == NULL:
        return LEFT
    memcpy(to, b"+00", 3)
    return _end(out, to + 3)


cdef int _put_label(const cells_t* cells, size_t number, bytes_t* out, size_t room) noexcept nogil:
    """An ENUM's or SET's label. One that the twin has to look at is left."""
    cdef int64_t start = cells.label_ends[number], end = cells.label_ends[number + 1]
    if start < 0:   # the ends are negative where a label is left, so that its size is never taken
        start = ~start
    if end < 0:
        return LEFT
    if bytes_reserve(out, <size_t> (end - start) + 1 + room) < 0:
        return NO_MEMORY
    memcpy(out.data + out.size, cells.labels + start, end - start)
    out.size += end - start
    return PUT


cdef int _put_set(const cells_t* cells, uint64_t bitmap, bytes_t* out, size_t room) noexcept nogil:
    cdef int result
    cdef bint is_first = True
    if cells.label_count < MEMBERS_MAX and bitmap >> cells.label_count:
        return LEFT
    while bitmap:
        if not is_first:
            out.data[out.size] = 44   # a comma, for which `_put_label` has left room
            out.size += 1
        is_first = False
        result = _put_label(cells, lowest_bit(bitmap), out, room)
        if result != PUT:
            return result
        bitmap &= bitmap - 1
    return PUT


cdef int _put_text(
    const uint8_t* at, size_t size, const uint8_t* end, bint is_jsonb, bytes_t* out, size_t room
) noexcept nogil:
    """Text with backslash, tab, newline and carriage return escaped.

    Left are NUL, what is no UTF-8, and for jsonb every escape that names a character by number (the twin tells which
    of these jsonb takes).
    """
    cdef const uint8_t* start = at
    cdef const uint8_t* stop = at + size
    cdef size_t left, count
    cdef uint32_t high = 0
    cdef uint8_t code
    cdef uint8_t* to
    while True:
        left = stop - at
        if left > TEXT_STEP:
            left = TEXT_STEP
        if bytes_reserve(out, 2 * left + COPY_SLACK + room) < 0:
            return NO_MEMORY
        to = out.data + out.size
        while True:
            count = copy_plain(to, at, left, end, &high)
            to += count
            at += count
            left -= count
            if left == 0:
                break
            code = at[0]
            if code == 92:   # backslash
                if is_jsonb and at + 1 < stop and at[1] == 117:   # u
                    return LEFT
                to[0] = to[1] = 92
                to += 2
            elif code == 9 or code == 10 or code == 13:
                to[0] = 92
                to[1] = 116 if code == 9 else 110 if code == 10 else 114   # t n r
                to += 2
            elif code == 0:
                return LEFT
            else:
                to[0] = code
                to += 1
            at += 1
            left -= 1
        out.size = to - out.data
        if at == stop:
            break
    if high and not is_utf8(start, size, 0):
        return LEFT
    return PUT


cdef int _put_bytea(const uint8_t* at, size_t size, bytes_t* out, size_t room) noexcept nogil:
    cdef uint8_t* to
    if bytes_reserve(out, 2 * size + 3 + room) < 0:
        return NO_MEMORY
    to = out.data + out.size
    memcpy(to, b"\\\\x", 3)
    out.size = put_hex(to + 3, at, size) - out.data
    return PUT


cdef int _put_vector(const uint8_t* at, size_t size, bytes_t* out, size_t room) noexcept nogil:
    """`[0:4n] float32, little-endian`; with infinities or NaN it is left."""
    cdef size_t index
    if size % 4:
        return LEFT
    if bytes_reserve(out, size // 4 * ELEMENT_ROOM + 2 + room) < 0:
        return NO_MEMORY
    out.data[out.size] = 123   # {
    out.size += 1
    for index in range(0, size, 4):
        if index:
            out.data[out.size] = 44
            out.size += 1
        if _end(out, put_double(out.data + out.size, widened(at + index))) != PUT:
            return LEFT
    out.data[out.size] = 125
    out.size += 1
    return PUT


cdef int _put_variable(const cells_t* cells, size_t row, bytes_t* out, size_t room) noexcept nogil:
    cdef const uint8_t* at = NULL
    cdef size_t size = 0
    cdef uint8_t* to = out.data + out.size
    if find_bytes(&cells.array, row, &at, &size) != PUT:
        return BROKEN
    if cells.op == OP_TEXT or cells.op == OP_JSON:
        return _put_text(at, size, cells.array.bytes + cells.array.bytes_size, cells.op == OP_JSON, out, room)
    if cells.op == OP_BYTES:
        return _put_bytea(at, size, out, room)
    if cells.op == OP_GEOMETRY:   # four bytes of SRID, then WKB
        if size < 4 or load_32(at):
            return LEFT
        return _put_bytea(at + 4, size - 4, out, room)
    if cells.op == OP_VECTOR:
        return _put_vector(at, size, out, room)
    if size != (4 if cells.op == OP_INET4 else 16):
        return LEFT
    if cells.op == OP_INET4:
        return _end(out, put_inet4(to, at))
    if cells.op == OP_UUID:
        return _end(out, put_uuid(to, at))
    return _end(out, put_inet6(to, at))


cdef inline int _put_cell(const cells_t* cells, size_t row, bytes_t* out, size_t room) noexcept nogil:
    cdef const uint8_t* values = cells.array.values
    cdef uint8_t* to = out.data + out.size
    cdef uint64_t number
    cdef int op = cells.op
    if is_null(&cells.array, row):
        memcpy(to, b"\\N", 2)
        return _end(out, to + 2)
    if op >= OP_TEXT:
        return _put_variable(cells, row, out, room)
    if OP_LEFT < op <= OP_U64:
        return _end(out, put_integer(to, op, values, row))
    if op == OP_DECIMAL:
        return _end(out, put_decimal(to, values + 16 * row, cells.scale))
    if op == OP_DECIMAL_LONG:
        return _end(out, put_long_decimal(to, values + 32 * row, cells.scale))
    if op == OP_FLOAT:
        return _end(out, put_double(to, widened(values + 4 * row)))
    if op == OP_DOUBLE:
        return _end(out, put_double(to, load_64(values + 8 * row)))
    if op == OP_BIT:
        number = load_64(values + 8 * row)
        if cells.scale < BIT_LENGTH_MAX and number >> cells.scale:
            return LEFT
        return _end(out, _put_bits(to, number, cells.scale))
    if op == OP_YEAR:
        return _end(out, put_integer(to, OP_U16, values, row))
    if op == OP_DATE:
        return _put_date(out, <int32_t> load_32(values + 4 * row))
    if op == OP_DATETIME:
        return _put_datetime(out, <int64_t> load_64(values + 8 * row))
    if op == OP_TIMESTAMP:
        return _put_timestamp(out, <int64_t> load_64(values + 8 * row))
    if op == OP_TIME:
        return _end(out, put_time(to, <int64_t> load_64(values + 8 * row)))
    if op == OP_ENUM:
        number = load_16(values + 2 * row)
        return _put_label(cells, number, out, room) if number < cells.label_count else LEFT
    if op == OP_SET:
        return _put_set(cells, load_64(values + 8 * row), out, room)
    return LEFT


cdef int _put_given(cells_t* cells, bytes_t* out, size_t room) noexcept nogil:
    """The next text that the twin has made."""
    cdef const uint8_t* at = NULL
    cdef size_t size = 0
    if find_bytes(&cells.given, cells.given_at, &at, &size) != PUT:
        return BROKEN
    if bytes_reserve(out, size + 2 + room) < 0:
        return NO_MEMORY
    if is_null(&cells.given, cells.given_at):
        memcpy(out.data + out.size, b"\\N", 2)
        out.size += 2
    elif size:
        memcpy(out.data + out.size, at, size)
        out.size += size
    cells.given_at += 1
    return PUT


# ---------------------------------------------------------------- rows


cdef int _put_rows(lines_t* lines) noexcept nogil:
    """Write lines until all are written (PUT), the piece is full, or something stands in the way of the next one."""
    cdef bytes_t* out = &lines.out
    cdef cells_t* cells
    cdef cells_t* stop = lines.cells + lines.column_count
    cdef size_t row = 0, before, room = lines.row_room, wanted
    cdef int result
    while lines.position < lines.count:
        if out.size > PIECE_SIZE - PIECE_ROOM:
            return FULL
        if row_at(lines.selection, lines.position, lines.row_count, &row) != PUT:
            return BROKEN
        if out.size == 0:
            wanted = lines.count - lines.position
            wanted = PIECE_SIZE if wanted > PIECE_SIZE // room else wanted * room
            if bytes_reserve(out, wanted) < 0:
                return NO_MEMORY
        if bytes_reserve(out, room) < 0:
            return NO_MEMORY
        before = out.size
        cells = lines.cells
        while cells < stop:
            if (
                cells.given_at < cells.given_count
                and load_64(cells.positions.data + 8 * cells.given_at) == lines.position
            ):
                result = _put_given(cells, out, room)
            else:
                result = _put_cell(cells, row, out, room)
            if result != PUT:
                out.size = before
                return result
            out.data[out.size] = 9   # tab
            out.size += 1
            cells += 1
        out.data[out.size - 1] = 10
        lines.position += 1
    return PUT


cdef int _find_left(lines_t* lines, cells_t* cells, bytes_t* rows) noexcept nogil:
    """The cells of that column, from the next line on, that are left: `cells.positions`, and their `rows` as int64."""
    cdef bytes_t scratch
    cdef size_t row = 0, position
    cdef int result = PUT
    scratch.data = NULL
    scratch.size = scratch.capacity = 0
    cells.positions.size = 0
    for position in range(lines.position, lines.count):
        scratch.size = 0
        result = row_at(lines.selection, position, lines.row_count, &row)
        if result == PUT:
            result = NO_MEMORY
            if bytes_reserve(&scratch, lines.row_room) == 0:
                result = _put_cell(cells, row, &scratch, lines.row_room)
        if result == LEFT:
            if bytes_reserve(&cells.positions, 8) < 0 or bytes_reserve(rows, 8) < 0:
                result = NO_MEMORY
                break
            memcpy(cells.positions.data + cells.positions.size, &position, 8)
            cells.positions.size += 8
            memcpy(rows.data + rows.size, &row, 8)
            rows.size += 8
            result = PUT
        if result != PUT:
            break
    bytes_free(&scratch)
    return result


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
    ValueKind.JSON: (OP_JSON, 8),
    ValueKind.BINARY: (OP_BYTES, 8),
    ValueKind.BLOB: (OP_BYTES, 8),
    ValueKind.GEOMETRY: (OP_GEOMETRY, 8),
    ValueKind.VECTOR: (OP_VECTOR, 8),
    ValueKind.UUID: (OP_UUID, 8),
    ValueKind.INET4: (OP_INET4, 8),
    ValueKind.INET6: (OP_INET6, 8),
}


def operation_of(source, array_type):
    """How cells of that column are written, as in `_OPERATIONS`; nothing but OP_LEFT for what is not as expected."""
    kind = source.kind
    if array_type != source.arrow_type:
        return OP_LEFT, 0
    if kind is ValueKind.INTEGER:
        return _INTEGERS[array_type]
    if kind is ValueKind.DECIMAL:
        if not 0 <= array_type.scale <= SCALE_MAX:
            return OP_LEFT, 0
        return (OP_DECIMAL, 16) if array_type.bit_width == 128 else (OP_DECIMAL_LONG, 32)
    if kind is ValueKind.BIT and not 1 <= source.length <= BIT_LENGTH_MAX:
        return OP_LEFT, 0
    if kind is ValueKind.SET and len(source.members) > MEMBERS_MAX:
        return OP_LEFT, 0
    return _OPERATIONS.get(kind, (OP_LEFT, 0))


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@lru_cache(maxsize=256)
def _labels(members):
    """Labels as COPY text, end to end, and int64 where each ends, after a first 0.

    One that holds NUL or is no UTF-8 takes no room, and its end is inverted.
    """
    text = bytearray()
    ends = [0]
    for member in members:
        try:
            label = member.translate(_ESCAPES).encode()
        except UnicodeEncodeError:
            label = b"\0"
        if b"\0" in label:
            ends.append(~len(text))
        else:
            text += label
            ends.append(len(text))
    return bytes(text), pa.array(ends, pa.int64())


cdef int _require(bint holds) except -1:
    if not holds:
        raise InvariantBroken("an array is longer than its buffers")
    return 0


cdef int _plan(cells_t* cells, object column, object array, list kept) except -1:
    """Fill `cells`; what it points into is in `kept`."""
    operation, size = operation_of(column.source, array.type)
    if operation == OP_JSON and column.sql_type != "jsonb":
        operation = OP_TEXT
    elif operation == OP_GEOMETRY and column.sql_type != "bytea":  # PostGIS takes another form
        operation = OP_LEFT
    cells.op = operation
    if cells.op == OP_LEFT:
        return 0
    kept.append(array)
    _require(find_array(&cells.array, array, size, cells.op >= OP_TEXT))
    if cells.op == OP_DECIMAL or cells.op == OP_DECIMAL_LONG:
        cells.scale = array.type.scale
    elif cells.op == OP_BIT:
        cells.scale = column.source.length
    elif cells.op == OP_ENUM or cells.op == OP_SET:
        members = column.source.members if cells.op == OP_SET else ("", *column.source.members)
        text, ends = _labels(members)
        kept.append((text, ends))
        cells.labels = <const uint8_t*> <const char*> text
        cells.label_ends = <const int64_t*> buffer_address(ends.buffers()[1])
        cells.label_count = len(members)
    return 0


cdef size_t _cell_room(const cells_t* cells) noexcept:
    """Of a cell that does not vary in length, and the tab."""
    if cells.op == OP_DECIMAL or cells.op == OP_DECIMAL_LONG:
        return DECIMAL_ROOM + 1
    if cells.op == OP_BIT:
        return BIT_LENGTH_MAX + 1
    if cells.op == OP_UUID or cells.op == OP_INET6:
        return INET6_ROOM + 1
    return FIXED_ROOM + 1


cdef class CopyLines:
    """Lines of COPY text: the columns' cells in each row of a selection, written as far as they are usual.

    Args:
        columns: at least one pair of target column (`cdc.schema.target`) and array; the arrays are of one length.
        selection: int32 row numbers without nulls, one a line; None: every row.
    """

    cdef lines_t lines
    cdef list _kept       # what `lines` points into
    cdef list _pieces
    cdef size_t _taken    # lines in pieces
    cdef readonly bint is_left

    def __cinit__(self, columns, selection=None):
        cdef size_t index, row_count
        cdef cells_t* cells
        self._kept = []
        self._pieces = []
        self._taken = 0
        if not columns:
            raise InvariantBroken("no columns to encode")
        self.lines.cells = <cells_t*> calloc(len(columns), sizeof(cells_t))
        if self.lines.cells == NULL:
            raise MemoryError
        self.lines.column_count = len(columns)
        self.lines.row_count = self.lines.count = len(columns[0][1])
        for index in range(self.lines.column_count):
            column, array = columns[index]
            row_count = len(array)
            if row_count != self.lines.row_count:
                raise InvariantBroken("columns of different lengths")
            cells = self.lines.cells + index
            _plan(cells, column, array, self._kept)
            self.lines.row_room += _cell_room(cells)
        if selection is not None:
            self._select(selection)

    def __dealloc__(self):
        cdef size_t index
        if self.lines.cells != NULL:
            for index in range(self.lines.column_count):
                bytes_free(&self.lines.cells[index].positions)
            free(self.lines.cells)
        bytes_free(&self.lines.out)

    cdef int _select(self, selection) except -1:
        if selection.type != pa.int32() or selection.null_count:
            raise InvariantBroken("a selection is int32 without nulls")
        self.lines.count = len(selection)
        self._kept.append(selection)
        _require(find_selection(&self.lines.selection, selection))
        return 0

    def write(self, size_t pieces_max=SIZE_MAX):
        """Write lines: True when all are written, False where the next one holds a cell that is left (`is_left`), or
        so many pieces are full.

        Raises MemoryError.
        """
        cdef int result
        cdef size_t count = 0
        self.is_left = False
        while count < pieces_max:
            with nogil:
                result = _put_rows(&self.lines)
            if result == FULL:
                self._end_piece()
                count += 1
            elif result == PUT:
                self._end_piece()
                return True
            elif result == LEFT:
                self.is_left = True
                return False
            else:
                self._fail(result)
        return False

    def left(self, size_t index):
        """The rows, of the lines to come, whose cell in column `index` is left: an int64 array, line by line."""
        cdef bytes_t rows
        cdef cells_t* cells
        cdef int result
        cdef size_t count
        if index >= self.lines.column_count:
            raise IndexError(index)
        cells = self.lines.cells + index
        cells.given_count = cells.given_at = 0
        rows.data = NULL
        rows.size = rows.capacity = 0
        with nogil:
            result = _find_left(&self.lines, cells, &rows)
        if result != PUT:
            bytes_free(&rows)
            self._fail(result)
        count = rows.size // 8
        if count == 0:
            return pa.array([], pa.int64())   # Arrow takes no buffer without memory
        return pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(block_take_over(&rows))], 0)

    def give(self, size_t index, texts):
        """The cells that `left` found in that column, as COPY text: a large_string array, null for NULL."""
        cdef cells_t* cells
        cdef size_t count = len(texts)
        if index >= self.lines.column_count:
            raise IndexError(index)
        cells = self.lines.cells + index
        if texts.type != pa.large_string() or texts.offset or count != cells.positions.size // 8:
            raise InvariantBroken("other texts than were asked for")
        if count == 0:
            return
        memset(&cells.given, 0, sizeof(array_t))
        _require(find_array(&cells.given, texts, 8, True))
        self._kept.append(texts)
        cells.given_count = count

    def take(self):
        """What is written: pieces of whole lines, each a block and how many lines it holds."""
        self._end_piece()
        pieces = self._pieces
        self._pieces = []
        return pieces

    cdef int _end_piece(self) except -1:
        if self.lines.out.size:
            self._pieces.append((block_take_over(&self.lines.out), self.lines.position - self._taken))
            self._taken = self.lines.position
        return 0

    cdef int _fail(self, int result) except -1:
        if result == NO_MEMORY:
            raise MemoryError
        raise InvariantBroken("a row number or an offset points outside its array")
