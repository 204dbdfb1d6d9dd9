"""Row images to Arrow columns, compiled: the twin of cdc/binlog/rows.py, which says what the bytes mean.

An image is read column by column into buffers that Arrow takes over as they are. What the kernel refuses, the twin
is asked about (`ImageBuffer.append`): it raises the error, and both must refuse the same images
(tests/unit/binlog/test_kernel_rows.py). What is not worth compiling (rare charsets, MariaDB's compressed columns) asks
Python for that one value.

Every value's bytes are known to lie before `end` before they are read; every buffer has room before it is written.
Nothing of a call that refuses stays.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import pyarrow as pa

from cdc.binlog import rows as reference
from cdc.binlog.charset_tables import MULTI_BYTE, SINGLE_BYTE
from cdc.binlog.charsets import charset_name, single_byte_table, text_decoder
from cdc.binlog.decimals import decimal_groups
from cdc.binlog.events import RowsKind
from cdc.binlog.kernel.json_text cimport json_apply, json_print
from cdc.binlog.kernel.memory cimport block_take_over, bytes_free, bytes_grow, bytes_reserve, bytes_t, pool_refusals
from cdc.binlog.layout import Codec
from cdc.errors import InvariantBroken
from cdc.model import Operation, RowBatch

__all__ = ["ImageBuffer"]

cdef extern from "rows.h" nogil:
    uint64_t load_64(const uint8_t* at)
    uint16_t load_16(const uint8_t* at)
    uint64_t load_little(const uint8_t* at, size_t size)
    int lowest_bit(uint64_t value)
    size_t bit_count(uint64_t value)
    bint copy_short(uint8_t* out, const uint8_t* at, size_t size)
    bint copy_blocks(uint8_t* out, const uint8_t* at, size_t size, const uint8_t* end)
    void utf8_prepare()
    bint is_utf8(const uint8_t* at, size_t size, int plane)

    enum:
        FIXED_SLACK
        DECIMAL_GROUPS_MAX
        OP_NONE
        OP_8
        OP_16
        OP_24_SIGNED
        OP_24_UNSIGNED
        OP_32
        OP_64
        OP_FLOAT
        OP_DOUBLE
        OP_DECIMAL_SHORT
        OP_DECIMAL
        OP_DECIMAL_LONG
        OP_BIT
        OP_YEAR
        OP_DATE
        OP_DATETIME
        OP_DATETIME_NUMBER
        OP_DATETIME_HIRES
        OP_TIMESTAMP
        OP_TIMESTAMP_NUMBER
        OP_TIME
        OP_TIME_NUMBER
        OP_TIME_HIRES
        OP_ENUM
        OP_SET
    ctypedef struct decimal_t:
        uint8_t group_count
        uint8_t bytes[16]
        uint8_t shift[16]
        uint32_t scale[16]
    ctypedef struct fixed_t:
        uint8_t op
        uint8_t size
        uint8_t shift
        uint32_t unit
        uint64_t limit
        uint8_t* values
        decimal_t* decimal
    const uint8_t* read_fixed(const fixed_t* plan, const fixed_t* stop, size_t row, const uint8_t* at)

utf8_prepare()

# What text is made of (`column_t.text`).
cdef enum:
    TEXT_NONE = 0      # bytes
    TEXT_UTF8MB4
    TEXT_UTF8MB3
    TEXT_ASCII
    TEXT_SINGLE_BYTE   # by `characters`
    TEXT_PYTHON        # by `decode`

cdef enum:
    # A first block of 4 KiB holds as many eight-byte values.
    ROWS_FIRST = 512
    ROWS_MANY = 32768
    SHAPES_MAX = 65535
    SHAPE_SLOTS_FIRST = 1024
    # Room after what is copied in blocks.
    COPY_SLACK = 64
    # Values of fixed size at the end of an event are read from a copy, if together they are not longer.
    TAIL_BYTES = 256
    NO_SHAPE = 65535

cdef enum:
    OPERATION_INSERT = 1
    OPERATION_UPDATE_BEFORE = 2
    OPERATION_UPDATE_AFTER = 3
    OPERATION_DELETE = 4

cdef enum:
    PARTIAL_JSON_UPDATES = 1

assert (OPERATION_INSERT, OPERATION_UPDATE_BEFORE) == (Operation.INSERT, Operation.UPDATE_BEFORE)
assert (OPERATION_UPDATE_AFTER, OPERATION_DELETE) == (Operation.UPDATE_AFTER, Operation.DELETE)


# ---------------------------------------------------------------- values that vary in length
#
# A reader (`read_t`) reads the value that begins at `at` into the slot of image `row`, and returns where it ends, or
# NULL for bytes that are no value. Its caller has seen that the length, `column.size` bytes, lies before `end`.


cdef int _make_room(images_t* images, column_t* column, size_t more) noexcept nogil:
    """Room for `more` bytes; after the first block at once for what the last batch needed, where that is more."""
    cdef size_t size = column.bytes.size, expected = column.bytes_hint + column.bytes_hint // 16
    if size and expected > size + more:
        more = expected - size
    if bytes_grow(&column.bytes, more) < 0:
        images.has_no_memory = True
        return -1
    return 0


cdef inline uint8_t* _room(images_t* images, column_t* column, size_t more) noexcept nogil:
    """Where the next `more` > 0 bytes go; NULL when there is no memory."""
    if column.bytes.capacity - column.bytes.size < more and _make_room(images, column, more) < 0:
        return NULL
    return column.bytes.data + column.bytes.size


cdef inline void _added(images_t* images, column_t* column, size_t size) noexcept nogil:
    column.bytes.size += size
    images.byte_count += size


cdef inline const uint8_t* _length(
    column_t* column, const uint8_t* at, const uint8_t* end, size_t* length
) noexcept nogil:
    """`[0:size] length, little-endian`: where the value's bytes begin, all of which are there; NULL if they are not."""
    cdef size_t size = column.size
    if size == 1:
        length[0] = at[0]
    elif size == 2:
        length[0] = load_16(at)
    else:
        length[0] = load_little(at, size)
    at += size
    if length[0] > column.limit or length[0] > <size_t> (end - at):
        return NULL
    return at


cdef inline const uint8_t* _ended(column_t* column, size_t row, const uint8_t* at) noexcept nogil:
    """The value of image `row` is written: so says its end."""
    (<int64_t*> column.values.data)[row + 1] = <int64_t> column.bytes.size
    return at


cdef int _python_text(images_t* images, column_t* column, const uint8_t* raw, size_t size) noexcept with gil:
    """The value by the charset's Python decoder. What it raises, the twin will raise again."""
    cdef uint8_t* out
    cdef bytes encoded
    try:
        encoded = (<object> column.decode)(PyBytes_FromStringAndSize(<const char*> raw, size)).encode()
    except MemoryError:
        images.has_no_memory = True
        return -1
    except BaseException:
        return -1
    out = _room(images, column, PyBytes_GET_SIZE(encoded) + COPY_SLACK)
    if out == NULL:
        return -1
    memcpy(out, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
    _added(images, column, PyBytes_GET_SIZE(encoded))
    return 0


cdef int _single_byte_text(images_t* images, column_t* column, const uint8_t* raw, size_t size) noexcept nogil:
    """By the table; a character takes at most three bytes, and is written as four."""
    cdef uint8_t* out = _room(images, column, 3 * size + 4)
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
    _added(images, column, out - start)
    return 0


cdef int _other_text(images_t* images, column_t* column, const uint8_t* raw, size_t size) noexcept nogil:
    """Text that is not all ASCII, or of a charset that does not contain ASCII. If it does, it has been copied."""
    if column.text == TEXT_UTF8MB4 or column.text == TEXT_UTF8MB3:
        if not is_utf8(raw, size, column.text == TEXT_UTF8MB3):
            return -1
        _added(images, column, size)
        return 0
    if column.text == TEXT_SINGLE_BYTE:
        return _single_byte_text(images, column, raw, size)
    if column.text == TEXT_PYTHON:
        return _python_text(images, column, raw, size)
    return -1


cdef inline int _text(
    images_t* images, column_t* column, const uint8_t* raw, size_t size, const uint8_t* end
) noexcept nogil:
    """A whole value in the column's charset, as UTF-8; `end` is where reading must stop."""
    cdef uint8_t* out
    if column.is_ascii_compatible:
        out = _room(images, column, size + COPY_SLACK)
        if out == NULL:
            return -1
        # copied before it is known to be text: most is ASCII, and what is not is written over or refused
        if copy_blocks(out, raw, size, end):
            _added(images, column, size)
            return 0
    return _other_text(images, column, raw, size)


cdef inline int _plain(
    images_t* images, column_t* column, const uint8_t* raw, size_t size, const uint8_t* end
) noexcept nogil:
    """Bytes as they are."""
    cdef uint8_t* out = _room(images, column, size + COPY_SLACK)
    if out == NULL:
        return -1
    copy_blocks(out, raw, size, end)
    _added(images, column, size)
    return 0


cdef const uint8_t* _read_text(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """`length · text`"""
    cdef size_t size
    at = _length(column, at, end, &size)
    if at == NULL or _text(images, column, at, size, end) < 0:
        return NULL
    return _ended(column, row, at + size)


cdef const uint8_t* _read_bytes(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """`length · bytes`"""
    cdef size_t size
    at = _length(column, at, end, &size)
    if at == NULL or _plain(images, column, at, size, end) < 0:
        return NULL
    return _ended(column, row, at + size)


cdef const uint8_t* _read_padded_bytes(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """`length · bytes`, less the zero bytes that make them as long as the column"""
    cdef size_t size
    cdef uint8_t* out
    at = _length(column, at, end, &size)
    if at == NULL:
        return NULL
    out = _room(images, column, column.limit + COPY_SLACK)
    if out == NULL:
        return NULL
    copy_blocks(out, at, size, end)
    memset(out + size, 0, column.limit - size)
    _added(images, column, column.limit)
    return _ended(column, row, at + size)


cdef int _inflated(images_t* images, column_t* column, const uint8_t* raw, size_t size) noexcept with gil:
    """A compressed value that is not plain, by the twin."""
    cdef bytes value
    cdef const uint8_t* start
    cdef size_t length
    try:
        value = reference.uncompress(PyBytes_FromStringAndSize(<const char*> raw, size), column.limit)
    except MemoryError:
        images.has_no_memory = True
        return -1
    except BaseException:
        return -1
    start = <const uint8_t*> PyBytes_AS_STRING(value)
    length = PyBytes_GET_SIZE(value)
    if column.text == TEXT_NONE:
        return _plain(images, column, start, length, start + length)
    return _text(images, column, start, length, start + length)


cdef const uint8_t* _read_compressed(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """`length · nothing, or 0 and plain bytes, or what reference.uncompress knows`"""
    cdef size_t size
    at = _length(column, at, end, &size)
    if at == NULL:
        return NULL
    if size and at[0]:
        if _inflated(images, column, at, size) < 0:
            return NULL
    elif size:
        if column.text == TEXT_NONE:
            if _plain(images, column, at + 1, size - 1, end) < 0:
                return NULL
        elif _text(images, column, at + 1, size - 1, end) < 0:
            return NULL
    return _ended(column, row, at + size)


cdef const uint8_t* _read_json(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """`length · binary JSON`; the document is remembered for the after image, which may hold but its changes."""
    cdef size_t size, before = column.bytes.size
    at = _length(column, at, end, &size)
    if at == NULL:
        return NULL
    column.document = at
    column.document_size = size
    if json_print(at, size, &column.bytes) < 0:
        return NULL
    images.byte_count += column.bytes.size - before
    return _ended(column, row, at + size)


cdef const uint8_t* _read_json_changes(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """`length · changes` of the document in the before image"""
    cdef size_t size, before = column.bytes.size
    if column.document == NULL or <size_t> (end - at) < column.size:
        return NULL
    at = _length(column, at, end, &size)
    if at == NULL or json_apply(column.document, column.document_size, at, size, &column.bytes) < 0:
        return NULL
    images.byte_count += column.bytes.size - before
    return _ended(column, row, at + size)


# ---------------------------------------------------------------- images


cdef const uint8_t* _tail_values(
    images_t* images, uint32_t first, uint32_t last, size_t row, const uint8_t* at
) noexcept nogil:
    """The values of columns [first, last), all of fixed size and all there, where nothing can be read after them."""
    cdef uint8_t[TAIL_BYTES + 8] tail
    cdef fixed_t* plans = <fixed_t*> images.plans
    cdef size_t size = images.columns[last].fixed_before - images.columns[first].fixed_before
    if size <= TAIL_BYTES:
        memcpy(tail, at, size)
        memset(tail + size, 0, FIXED_SLACK)
        return at + size if read_fixed(plans + first, plans + last, row, tail) != NULL else NULL
    while first != last:
        size = images.columns[first].size
        memcpy(tail, at, size)
        memset(tail + size, 0, FIXED_SLACK)
        if read_fixed(plans + first, plans + first + 1, row, tail) == NULL:
            return NULL
        at += size
        first += 1
    return at


cdef const uint8_t* _values(
    images_t* images, uint32_t first, uint32_t last, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """The values of columns [first, last), none of which is NULL, of image `row`; where they end, or NULL for bytes
    that are none."""
    cdef fixed_t* plans = <fixed_t*> images.plans
    cdef column_t* column
    cdef uint32_t run
    cdef size_t size
    while first != last:
        column = images.columns + first
        if not column.is_variable:
            run = column.run_stop
            if run > last:
                run = last
            size = images.columns[run].fixed_before - column.fixed_before
            if <size_t> (end - at) >= size + FIXED_SLACK:
                at = read_fixed(plans + first, plans + run, row, at)
            elif <size_t> (end - at) >= size:
                at = _tail_values(images, first, run, row, at)
            else:
                return NULL
            if at == NULL:
                return NULL
            first = run
            continue
        first += 1
        if <size_t> (end - at) < column.size:
            return NULL
        if column.is_short_text and <size_t> (end - at) >= <size_t> column.size + 32:
            # a short string of ASCII, not at the event's end: nearly all of them
            size = at[0] if column.size == 1 else load_16(at)
            if (
                size <= 32
                and size <= column.limit
                and column.bytes.capacity - column.bytes.size >= 32
                and copy_short(column.bytes.data + column.bytes.size, at + column.size, size)
            ):
                at += column.size + size
                column.bytes.size += size
                images.byte_count += size
                (<int64_t*> column.values.data)[row + 1] = <int64_t> column.bytes.size
                continue
        at = column.read(images, column, row, at, end)
        if at == NULL:
            return NULL
    return at


cdef int _make_validity(images_t* images, column_t* column) noexcept nogil:
    """The bitmap, with every row that there is room for valid."""
    cdef size_t size = (images.capacity + 7) // 8
    if bytes_reserve(&column.validity, size) < 0:
        images.has_no_memory = True
        return -1
    memset(column.validity.data, 0xFF, size)
    column.validity.size = size
    return 0


cdef int _null(images_t* images, column_t* column, size_t row) noexcept nogil:
    """NULL, or no value at all, in image `row`. The slot holds zeroes: never what the memory held before."""
    if column.validity.data == NULL and _make_validity(images, column) < 0:
        return -1
    column.validity.data[row >> 3] &= <uint8_t> ~(1 << (row & 7))
    column.document = NULL
    if column.is_variable:
        (<int64_t*> column.values.data)[row + 1] = <int64_t> column.bytes.size
    else:
        memset(column.values.data + row * column.item, 0, column.item)
    return 0


cdef inline const uint8_t* _image(
    images_t* images, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """An image with every column; where it ends, or NULL."""
    cdef uint32_t count = images.column_count, base, first = 0, index
    cdef size_t null_bytes = images.bitmap_bytes, word_bytes
    cdef const uint8_t* bitmap = at
    cdef uint64_t nulls
    if <size_t> (end - at) < null_bytes:
        return NULL
    at += null_bytes
    if count <= 64 and end - bitmap >= 8 and not load_64(bitmap) & images.column_bits:
        return _values(images, 0, count, row, at, end)
    for base in range(0, count, 64):
        word_bytes = null_bytes - base // 8
        if word_bytes > 8:
            word_bytes = 8
        nulls = load_little(bitmap + base // 8, word_bytes)
        if count - base <= 64:
            # the bits after the last column's are set on MariaDB
            nulls &= images.column_bits
        while nulls:
            index = base + lowest_bit(nulls)
            at = _values(images, first, index, row, at, end)
            if at == NULL or _null(images, images.columns + index, row) < 0:
                return NULL
            first = index + 1
            nulls &= nulls - 1
    return _values(images, first, count, row, at, end)


cdef inline bint _bit(const uint8_t* bitmap, size_t index) noexcept nogil:
    return bitmap[index >> 3] >> (index & 7) & 1


cdef const uint8_t* _read_length(const uint8_t* at, const uint8_t* end, uint64_t* value) noexcept nogil:
    """A length-encoded integer; NULL where it is none, or ends early."""
    cdef size_t size
    if at == end:
        return NULL
    if at[0] < 251:
        value[0] = at[0]
        return at + 1
    if at[0] == 252:
        size = 2
    elif at[0] == 253:
        size = 3
    elif at[0] == 254:
        size = 8
    else:
        return NULL
    at += 1
    if <size_t> (end - at) < size:
        return NULL
    value[0] = load_little(at, size)
    return at + size


cdef inline bint _is_empty(column_t* column, const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Is the value that begins at `at`, which varies in length, there and of no bytes?"""
    return <size_t> (end - at) >= column.size and load_little(at, column.size) == 0


cdef const uint8_t* _sparse_image(
    images_t* images,
    size_t row,
    const uint8_t* present,
    const uint8_t* present_before,
    bint has_options,
    bint* has_unchanged,
    const uint8_t* at,
    const uint8_t* end,
) noexcept nogil:
    """An image that lacks columns, or (`has_options`) the after image of a PARTIAL_UPDATE_ROWS event.

    The null bitmap has one bit a column that is present; the bitmap of partial values, which comes before it, one a
    JSON column of the table, present or not. `has_unchanged` is set where some column is `is_unchanged`: then, and
    only then, these flags count.
    """
    cdef uint64_t options = 0
    cdef const uint8_t* partial = NULL
    cdef const uint8_t* nulls
    cdef size_t json_index = 0, present_count = 0, null_index = 0, json_count = 0
    cdef uint32_t index
    cdef column_t* column
    cdef bint is_partial
    has_unchanged[0] = False
    for index in range(images.column_count):
        images.columns[index].is_unchanged = False
        present_count += _bit(present, index)
        json_count += images.columns[index].is_json
    if has_options:
        at = _read_length(at, end, &options)
        if at == NULL or options & ~(<uint64_t> PARTIAL_JSON_UPDATES):
            return NULL
        if options & PARTIAL_JSON_UPDATES:
            partial = at
            if <size_t> (end - at) < (json_count + 7) // 8:
                return NULL
            at += (json_count + 7) // 8
    nulls = at
    if <size_t> (end - at) < (present_count + 7) // 8:
        return NULL
    at += (present_count + 7) // 8
    for index in range(images.column_count):
        column = images.columns + index
        is_partial = False
        if column.is_json:
            is_partial = partial != NULL and _bit(partial, json_index)
            json_index += 1
        if not _bit(present, index):
            if _null(images, column, row) < 0:
                return NULL
            continue
        null_index += 1
        if _bit(nulls, null_index - 1):
            if _null(images, column, row) < 0:
                return NULL
        else:
            if is_partial and not _bit(present_before, index) and _is_empty(column, at, end):
                # as it was, which is not in the event
                if _null(images, column, row) < 0:
                    return NULL
                at += column.size
                column.is_unchanged = has_unchanged[0] = True
            elif is_partial:
                at = _read_json_changes(images, column, row, at, end)
            else:
                at = _values(images, index, index + 1, row, at, end)
            if at == NULL:
                return NULL
    return at


cdef int _grow(images_t* images, size_t row) noexcept nogil:
    """Room for more images; `row` are there, of which some may not count yet.

    A buffer starts with one small block a column, and then grows to what the last batch needed and a little more: a run
    of one row is not charged with megabytes, a bulk load does not grow step by step each time. Beyond that it doubles,
    and large ones grow by half.
    """
    cdef size_t capacity = images.capacity * 2 if images.capacity < ROWS_MANY else images.capacity // 128 * 192
    cdef size_t expected = images.rows_hint + images.rows_hint // 16
    cdef size_t slots
    cdef uint32_t index
    cdef column_t* column
    if images.capacity == 0:
        capacity = ROWS_FIRST
    elif expected > images.capacity:
        capacity = (expected + 127) & ~(<size_t> 127)
    images.has_no_memory = True
    for index in range(images.column_count):
        column = images.columns + index
        # offsets: one more than rows
        slots = row + column.is_variable if row else 0
        column.values.size = slots * column.item
        if bytes_reserve(&column.values, (capacity + column.is_variable) * column.item - column.values.size) < 0:
            return -1
        (<fixed_t*> images.plans)[index].values = column.values.data
        if column.is_variable and not row:
            (<int64_t*> column.values.data)[0] = 0
        if column.validity.data != NULL:
            if bytes_reserve(&column.validity, capacity // 8 - column.validity.size) < 0:
                return -1
            memset(column.validity.data + column.validity.size, 0xFF, capacity // 8 - column.validity.size)
            column.validity.size = capacity // 8
    images.operation.size = images.row_count
    images.transaction.size = images.row_count * 4
    if bytes_reserve(&images.operation, capacity - images.operation.size) < 0:
        return -1
    if bytes_reserve(&images.transaction, capacity * 4 - images.transaction.size) < 0:
        return -1
    if images.shape.data != NULL:
        images.shape.size = row * 2
        if bytes_reserve(&images.shape, capacity * 2 - images.shape.size) < 0:
            return -1
    images.has_no_memory = False
    images.capacity = capacity
    return 0


cdef size_t images_first_bytes(images_t* images) noexcept nogil:
    """What the first image costs in blocks of memory, however small it is."""
    cdef size_t total = _block_bytes(ROWS_FIRST) + _block_bytes(4 * ROWS_FIRST)
    cdef uint32_t index
    cdef column_t* column
    for index in range(images.column_count):
        column = images.columns + index
        total += _block_bytes(column.item * (ROWS_FIRST + column.is_variable))
        if column.is_variable:
            total += _block_bytes(1)
    return total


cdef inline size_t _block_bytes(size_t size) noexcept nogil:
    """The size of the pool's block for so many bytes."""
    cdef size_t block = 4096
    while block < size:
        block *= 2
    return block


cdef void _set_bits(uint8_t* bitmap, size_t start, size_t stop) noexcept nogil:
    while start < stop and start & 7:
        bitmap[start >> 3] |= <uint8_t> (1 << (start & 7))
        start += 1
    if start < stop:
        memset(bitmap + (start >> 3), 0xFF, (stop - start + 7) >> 3)


cdef void _roll_back(images_t* images, size_t row_count, size_t touched) noexcept nogil:
    """Images from `row_count` on, `touched` not included, are as if they had never been read."""
    cdef uint32_t index
    cdef column_t* column
    images.row_count = row_count
    images.byte_count = row_count * images.row_bytes
    for index in range(images.column_count):
        column = images.columns + index
        column.document = NULL
        if column.is_variable and column.values.data != NULL:
            column.bytes.size = <size_t> (<int64_t*> column.values.data)[row_count]
            images.byte_count += column.bytes.size
        if column.validity.data != NULL:
            _set_bits(column.validity.data, row_count, touched)


cdef void images_truncate(images_t* images, size_t row_count) noexcept nogil:
    """Forget all images but the first `row_count`."""
    if row_count >= images.row_count:
        return
    _roll_back(images, row_count, images.row_count)
    if images.whole_count > row_count:
        images.whole_count = row_count


# ---------------------------------------------------------------- which columns an image lacks


cdef bint _is_full(images_t* images, const uint8_t* present) noexcept nogil:
    """Does the bitmap name every column? Unused bits do not count."""
    cdef uint32_t count = images.column_count
    cdef size_t index
    for index in range(<size_t> (count // 8)):
        if present[index] != 0xFF:
            return False
    return count % 8 == 0 or (present[count // 8] | 0xFF << (count % 8)) & 0xFF == 0xFF


cdef bint _is_none(images_t* images, const uint8_t* present) noexcept nogil:
    """Does the bitmap name no column?"""
    cdef uint32_t index
    for index in range(images.column_count):
        if _bit(present, index):
            return False
    return True


cdef size_t _shape_slot(images_t* images, const uint8_t* shape) noexcept nogil:
    """Where in `shape_slots` the shape is, or would be."""
    cdef uint16_t* slots = <uint16_t*> images.shape_slots.data
    cdef size_t mask = images.shape_slots.size / 2 - 1, size = images.bitmap_bytes, index
    cdef uint64_t digest = 0
    for index in range(size):
        digest = (digest ^ shape[index]) * <uint64_t> 0x9E3779B97F4A7C15
        digest ^= digest >> 29
    index = digest & mask
    while slots[index] and memcmp(images.shapes.data + (slots[index] - 1) * size, shape, size) != 0:
        index = (index + 1) & mask
    return index


cdef int _grow_shape_slots(images_t* images) noexcept nogil:
    """Twice as many slots; at most half of them are in use at any time."""
    cdef bytes_t slots
    cdef size_t size = images.shape_slots.size * 2 or SHAPE_SLOTS_FIRST * 2, number
    memset(&slots, 0, sizeof(slots))
    if bytes_reserve(&slots, size) < 0:
        images.has_no_memory = True
        return -1
    memset(slots.data, 0, size)
    slots.size = size
    bytes_free(&images.shape_slots)
    images.shape_slots = slots
    for number in range(images.shape_count):
        (<uint16_t*> slots.data)[_shape_slot(images, images.shapes.data + number * images.bitmap_bytes)] = (
            <uint16_t> (number + 1)
        )
    return 0


cdef int _find_shape(images_t* images) noexcept nogil:
    """The number of the shape that stands after the last of `shapes`, where there is room for it; -1 when there are
    too many, or no memory."""
    cdef size_t slot
    cdef uint16_t* slots
    if images.shape_count * 4 >= images.shape_slots.size and _grow_shape_slots(images) < 0:
        return -1
    slots = <uint16_t*> images.shape_slots.data
    slot = _shape_slot(images, images.shapes.data + images.shapes.size)
    if slots[slot]:
        return slots[slot] - 1
    if images.shape_count == SHAPES_MAX:
        images.has_no_shape = True
        return -1
    images.shapes.size += images.bitmap_bytes
    images.shape_count += 1
    slots[slot] = <uint16_t> images.shape_count
    return <int> images.shape_count - 1


cdef int _shape_of(images_t* images, const uint8_t* present, bint is_full) noexcept nogil:
    """The number of the shape of images with those columns; -1 when there are too many, or no memory."""
    cdef size_t size = images.bitmap_bytes, index
    cdef uint8_t* shape
    if bytes_reserve(&images.shapes, size) < 0:
        images.has_no_memory = True
        return -1
    shape = images.shapes.data + images.shapes.size
    for index in range(size):
        shape[index] = 0 if is_full else <uint8_t> ~present[index]
    if images.column_count % 8:
        shape[size - 1] &= <uint8_t> ((1 << images.column_count % 8) - 1)
    return _find_shape(images)


cdef int _shape_without_unchanged(images_t* images, int number) noexcept nogil:
    """The number of that shape, less the columns that are `is_unchanged`; -1 as `_shape_of`."""
    cdef size_t size = images.bitmap_bytes, index
    cdef uint8_t* shape
    if bytes_reserve(&images.shapes, size) < 0:
        images.has_no_memory = True
        return -1
    shape = images.shapes.data + images.shapes.size
    memcpy(shape, images.shapes.data + number * size, size)
    for index in range(images.column_count):
        if images.columns[index].is_unchanged:
            shape[index >> 3] |= <uint8_t> (1 << (index & 7))
    return _find_shape(images)


cdef int _start_shapes(images_t* images) noexcept nogil:
    """From here on shapes are kept; the images before lack nothing."""
    cdef int full
    cdef size_t row
    cdef uint16_t* shape
    if bytes_reserve(&images.shape, images.capacity * 2) < 0:
        images.has_no_memory = True
        return -1
    if images.row_count:
        full = _shape_of(images, NULL, True)
        if full < 0:
            bytes_free(&images.shape)
            return -1
        shape = <uint16_t*> images.shape.data
        for row in range(images.row_count):
            shape[row] = <uint16_t> full
    return 0


# ---------------------------------------------------------------- events


# Both loops read images from `at` on as images `row` and so on, up to `end` or a limit, and return where they are, or
# NULL where an image is none; `row` is then one that is not there, and all before it may have been written.


cdef const uint8_t* _whole_images(
    images_t* images,
    bint is_update,
    size_t* row,
    const uint8_t* at,
    const uint8_t* end,
    size_t rows_stop,
    size_t bytes_stop,
) noexcept nogil:
    """Images of all columns, and of nothing but values."""
    cdef size_t index = row[0], start = index
    while at != end:
        if index >= images.capacity and _grow(images, index) < 0:
            row[0] = index
            return NULL
        at = _image(images, index, at, end)
        index += 1
        images.byte_count += images.row_bytes
        if at == NULL:
            break
        if index >= rows_stop or images.byte_count >= bytes_stop:
            # but not between the images of one row
            if not is_update or not (index - start) & 1:
                break
    row[0] = index
    if is_update and (index - start) & 1:
        return NULL
    return at


cdef const uint8_t* _sparse_images(
    images_t* images,
    bint is_update,
    bint has_options,
    const uint8_t* present_first,
    const uint8_t* present_second,
    int first_shape,
    int second_shape,
    size_t* row,
    const uint8_t* at,
    const uint8_t* end,
    size_t rows_stop,
    size_t bytes_stop,
) noexcept nogil:
    """Any images. Shapes below 0: none are kept."""
    cdef size_t index = row[0]
    cdef bint has_unchanged = False
    cdef int shape
    while at != end:
        row[0] = index
        if index + 2 > images.capacity and _grow(images, index) < 0:
            return NULL
        at = _sparse_image(images, index, present_first, NULL, False, &has_unchanged, at, end)
        if first_shape >= 0:
            (<uint16_t*> images.shape.data)[index] = <uint16_t> first_shape
        index += 1
        images.byte_count += images.row_bytes
        if at != NULL and is_update:
            at = _sparse_image(images, index, present_second, present_first, has_options, &has_unchanged, at, end)
            if second_shape >= 0 and at != NULL:
                shape = second_shape
                if has_unchanged:
                    shape = _shape_without_unchanged(images, second_shape)
                    if shape < 0:
                        at = NULL
                (<uint16_t*> images.shape.data)[index] = <uint16_t> shape
            index += 1
            images.byte_count += images.row_bytes
        row[0] = index
        if at == NULL or index >= rows_stop or images.byte_count >= bytes_stop:
            break
    return at


cdef int _append(
    images_t* images,
    int kind,
    bint is_partial,
    const uint8_t* present_first,
    const uint8_t* present_second,
    const uint8_t** position,
    const uint8_t* end,
    uint32_t transaction_index,
    size_t rows_stop,
    size_t bytes_stop,
) noexcept nogil:
    """The images of an event from `position` on; see `images_append`. `present_second` counts in updates only."""
    cdef const uint8_t* at = position[0]
    cdef size_t start = images.row_count, row = start, index
    cdef bint is_update = kind == ROWS_UPDATE
    cdef bint first_full = _is_full(images, present_first), second_full = True
    cdef bint has_options = is_update and is_partial
    cdef int first_shape = -1, second_shape = -1
    cdef uint32_t* transactions
    images.has_no_memory = images.has_no_shape = False
    if is_update:
        second_full = _is_full(images, present_second)
    if not (first_full and second_full):
        # an image of no columns has no bytes: how many there were nobody can tell
        if images.needs_all_columns or (
            _is_none(images, present_first) and (not is_update or _is_none(images, present_second))
        ):
            return IMAGES_REFUSED
    if at == end:
        return IMAGES_TAKEN
    if not images.column_count:
        return IMAGES_REFUSED
    if row + 2 > images.capacity and _grow(images, row) < 0:
        return IMAGES_REFUSED
    if not (first_full and second_full) or images.shape.data != NULL:
        if images.shape.data == NULL and _start_shapes(images) < 0:
            return IMAGES_REFUSED
        first_shape = _shape_of(images, present_first, first_full)
        if is_update:
            second_shape = _shape_of(images, present_second, second_full)
        if first_shape < 0 or (is_update and second_shape < 0):
            return IMAGES_REFUSED
    if first_shape < 0 and not has_options:
        at = _whole_images(images, is_update, &row, at, end, rows_stop, bytes_stop)
    else:
        at = _sparse_images(
            images,
            is_update,
            has_options,
            present_first,
            present_second,
            first_shape,
            second_shape,
            &row,
            at,
            end,
            rows_stop,
            bytes_stop,
        )
    if at == NULL:
        _roll_back(images, start, row)
        return IMAGES_REFUSED
    transactions = <uint32_t*> images.transaction.data
    for index in range(start, row):
        transactions[index] = transaction_index
    if is_update:
        for index in range(start, row, 2):
            images.operation.data[index] = OPERATION_UPDATE_BEFORE
            images.operation.data[index + 1] = OPERATION_UPDATE_AFTER
    else:
        memset(
            images.operation.data + start, OPERATION_INSERT if kind == ROWS_INSERT else OPERATION_DELETE, row - start
        )
    images.row_count = row
    position[0] = at
    return IMAGES_TAKEN if at == end else IMAGES_STOPPED


cdef int images_append(
    images_t* images,
    int kind,
    bint is_partial,
    const uint8_t* body,
    size_t size,
    size_t* offset,
    uint32_t transaction_index,
    size_t rows_stop,
    size_t bytes_stop,
) noexcept nogil:
    """`column count[lenenc] · bitmap of present columns, in updates a second one · images`"""
    cdef const uint8_t* end = body + size
    cdef uint64_t count = 0
    cdef const uint8_t* at = _read_length(body, end, &count)
    cdef const uint8_t* first = at
    cdef const uint8_t* second = at
    cdef size_t bitmaps = images.bitmap_bytes
    cdef int result
    images.has_no_memory = images.has_no_shape = False
    if at == NULL or count != images.column_count:
        return IMAGES_REFUSED
    if kind == ROWS_UPDATE:
        bitmaps *= 2
        second = first + images.bitmap_bytes
    if <size_t> (end - at) < bitmaps:
        return IMAGES_REFUSED
    at += bitmaps
    if offset[0]:
        if offset[0] < <size_t> (at - body) or offset[0] > size:
            return IMAGES_REFUSED
        at = body + offset[0]
    result = _append(
        images, kind, is_partial, first, second, &at, end, transaction_index, rows_stop, bytes_stop
    )
    if result == IMAGES_STOPPED:
        offset[0] = at - body
    return result


# ---------------------------------------------------------------- plans


# Codecs without parameters: how to read, bytes on the wire, bytes of an Arrow value.
_FIXED = {
    Codec.FLOAT: (OP_FLOAT, 4, 4),
    Codec.DOUBLE: (OP_DOUBLE, 8, 8),
    Codec.YEAR: (OP_YEAR, 1, 2),
    Codec.DATE: (OP_DATE, 3, 4),
    Codec.DATETIME_NUMBER: (OP_DATETIME_NUMBER, 8, 8),
    Codec.TIMESTAMP_NUMBER: (OP_TIMESTAMP_NUMBER, 4, 8),
    Codec.TIME_NUMBER: (OP_TIME_NUMBER, 3, 8),
}
_INTEGERS = {
    (Codec.SIGNED, 1): (OP_8, 1),
    (Codec.SIGNED, 2): (OP_16, 2),
    (Codec.SIGNED, 3): (OP_24_SIGNED, 4),
    (Codec.SIGNED, 4): (OP_32, 4),
    (Codec.SIGNED, 8): (OP_64, 8),
    (Codec.UNSIGNED, 1): (OP_8, 1),
    (Codec.UNSIGNED, 2): (OP_16, 2),
    (Codec.UNSIGNED, 3): (OP_24_UNSIGNED, 4),
    (Codec.UNSIGNED, 4): (OP_32, 4),
    (Codec.UNSIGNED, 8): (OP_64, 8),
}
# Codecs with a fraction: how to read, bytes before it, its bytes by its digits, what its unit is in microseconds.
_FRACTIONS = {
    Codec.DATETIME: (OP_DATETIME, 5, reference.FRACTION_BYTES, reference.FRACTION_UNIT),
    Codec.TIMESTAMP: (OP_TIMESTAMP, 4, reference.FRACTION_BYTES, reference.FRACTION_UNIT),
    Codec.TIME: (OP_TIME, 3, reference.FRACTION_BYTES, reference.FRACTION_UNIT),
    Codec.TIMESTAMP_HIRES: (OP_TIMESTAMP, 4, reference.SECOND_PART_BYTES, [10 ** (6 - digits) for digits in range(7)]),
}
_TEXT_CODECS = (Codec.TEXT, Codec.COMPRESSED_TEXT)


cdef object _plan_text(column_t* column, str charset):
    """How text of the charset is read; returns what the plan borrows from."""
    charset = charset_name(charset)
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


cdef int _plan_decimal(column_t* column, fixed_t* fixed, int precision, int scale) except -1:
    cdef decimal_t* plan = <decimal_t*> calloc(1, sizeof(decimal_t))
    cdef int size = 0, at = 0
    if plan == NULL:
        raise MemoryError
    fixed.decimal = plan
    groups = decimal_groups(precision, scale)
    assert len(groups) <= DECIMAL_GROUPS_MAX
    for group_bytes, group_scale in groups:
        plan.bytes[plan.group_count] = group_bytes
        plan.scale[plan.group_count] = group_scale
        plan.group_count += 1
        size += group_bytes
    column.size = size
    column.item = 32 if precision > 38 else 16
    if precision > 38:
        fixed.op = OP_DECIMAL_LONG
    elif size > 8:
        fixed.op = OP_DECIMAL
    else:
        fixed.op = OP_DECIMAL_SHORT
        fixed.limit = ~(<uint64_t> 0) >> (64 - 8 * size)
        for index in range(plan.group_count):
            at += plan.bytes[index]
            plan.shift[index] = 8 * (size - at)
    return 0


cdef int _plan_variable(column_t* column, object codec) except -1:
    column.item = 8
    column.is_variable = True
    if codec is Codec.TEXT:
        column.read = _read_text
    elif codec is Codec.BYTES:
        column.read = _read_bytes
    elif codec is Codec.PADDED_BYTES:
        column.read = _read_padded_bytes
    elif codec is Codec.COMPRESSED_TEXT or codec is Codec.COMPRESSED_BYTES:
        column.read = _read_compressed
    elif codec is Codec.JSON:
        column.is_json = True
        column.read = _read_json
    else:
        raise InvariantBroken(f"no way to read {codec}")
    return 0


cdef object _plan(column_t* column, fixed_t* fixed, object layout):
    """How to read the column; returns what the plan borrows from."""
    codec, digits = layout.codec, layout.size
    column.size = layout.size
    column.limit = fixed.limit = layout.width
    kept = None
    if codec in _FIXED:
        fixed.op, column.size, column.item = _FIXED[codec]
    elif (codec, layout.size) in _INTEGERS:
        fixed.op, column.item = _INTEGERS[codec, layout.size]
    elif codec is Codec.DECIMAL:
        _plan_decimal(column, fixed, layout.definition.precision, layout.definition.scale)
    elif codec in _FRACTIONS:
        fixed.op, before, fractions, unit = _FRACTIONS[codec]
        column.size, column.item, fixed.unit = before + fractions[digits], 8, unit[digits]
    elif codec is Codec.DATETIME_HIRES:
        fixed.op, column.size, column.item = OP_DATETIME_HIRES, reference.DATETIME_HIRES_BYTES[digits], 8
        fixed.limit, fixed.unit = 10**digits, 10 ** (6 - digits)
    elif codec is Codec.TIME_HIRES:
        fixed.op, column.size, column.item = OP_TIME_HIRES, reference.TIME_HIRES_BYTES[digits], 8
        fixed.limit, fixed.unit = reference.TIME_HIRES_ZERO_SECONDS * 10**digits, 10 ** (6 - digits)
    elif codec is Codec.BIT:
        fixed.op, column.item, fixed.limit = OP_BIT, 8, (1 << layout.width) - 1
    elif codec is Codec.ENUM:
        fixed.op, column.item = OP_ENUM, 2
    elif codec is Codec.SET:
        fixed.op, column.item, fixed.limit = OP_SET, 8, (1 << layout.width) - 1
    else:
        _plan_variable(column, codec)
        if codec in _TEXT_CODECS:
            kept = _plan_text(column, layout.charset or "")
        if codec is Codec.TEXT and column.is_ascii_compatible and column.size <= 2:
            column.is_short_text = True
    if column.size <= 8:
        # what is left of eight bytes; DATETIME and TIMESTAMP want the fraction alone
        fixed.shift = 64 - 8 * column.size
    fixed.size = column.size
    width = _arrow_width(layout.definition.arrow_type)
    if (
        not 1 <= column.size <= (30 if codec is Codec.DECIMAL else 8)
        or column.item != (width or 8)
        or (width is None) != column.is_variable
    ):
        raise InvariantBroken(
            f"{layout.definition.name}: {codec} of {layout.size} bytes is no {layout.definition.kind}"
        )
    return kept


def _arrow_width(arrow_type):
    """Bytes of a value; None where they vary."""
    if pa.types.is_large_string(arrow_type) or pa.types.is_large_binary(arrow_type):
        return None
    return arrow_type.byte_width


# ---------------------------------------------------------------- the buffer


_NO_BYTES = pa.py_buffer(b"")
_KINDS = {RowsKind.INSERT: ROWS_INSERT, RowsKind.UPDATE: ROWS_UPDATE, RowsKind.DELETE: ROWS_DELETE}


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
        valid += _bit(column.validity.data, index)
    return row_count - valid


cdef void _forget(images_t* images) noexcept nogil:
    """Give back all memory; what was learned about sizes stays."""
    cdef column_t* column
    cdef uint32_t index
    for index in range(images.column_count):
        column = images.columns + index
        bytes_free(&column.values)
        bytes_free(&column.bytes)
        bytes_free(&column.validity)
        column.document = NULL
    bytes_free(&images.operation)
    bytes_free(&images.transaction)
    bytes_free(&images.shape)
    bytes_free(&images.shapes)
    bytes_free(&images.shape_slots)
    images.shape_count = images.capacity = images.row_count = images.byte_count = images.whole_count = 0


cdef tuple _take_shapes(images_t* images, object layout):
    """`shape_index` and `shapes` of the batch: None where no image lacks a column. Shapes are numbered by first use,
    whatever was truncated in between."""
    cdef uint16_t* held = <uint16_t*> images.shape.data
    cdef size_t row
    cdef uint32_t index
    cdef bytearray numbers
    cdef uint16_t* number
    cdef const uint8_t* bitmap
    if held == NULL:
        return None, ()
    # NO_SHAPE: not used so far; there are never as many
    numbers = bytearray(b"\xff" * (2 * images.shape_count))
    number = <uint16_t*> PyByteArray_AS_STRING(numbers)
    names = [column.definition.name for column in layout.columns]
    shapes = []
    for row in range(images.row_count):
        if number[held[row]] == NO_SHAPE:
            number[held[row]] = <uint16_t> len(shapes)
            bitmap = images.shapes.data + held[row] * images.bitmap_bytes
            shapes.append(frozenset([names[index] for index in range(images.column_count) if _bit(bitmap, index)]))
        held[row] = number[held[row]]
    if not any(shapes):
        return None, ()
    array = pa.Array.from_buffers(_UINT16, images.row_count, [None, _buffer(&images.shape, images.row_count * 2)], 0)
    return array, tuple(shapes)


cdef class ImageBuffer:
    """Collects the images of one table and layout until they are taken as one batch.

    Args:
        needs_all_columns: refuse images that lack columns; else they are taken in, and `RowBatch.shapes` says what
            they lack.
        size_hint: about how many images a batch will have; later ones are expected to be as large as the last.
    """

    def __cinit__(self, layout, *, needs_all_columns=True, size_hint=0):
        cdef images_t* images = &self.images
        cdef size_t row_bytes = 5  # operation and transaction
        cdef uint32_t index
        memset(images, 0, sizeof(images_t))
        self.layout = layout
        self.needs_all_columns = images.needs_all_columns = needs_all_columns
        images.rows_hint = size_hint
        self._schema = layout.definition.arrow_schema
        # one more: what is before it is all of them
        images.columns = <column_t*> calloc(layout.column_count + 1, sizeof(column_t))
        images.plans = calloc(layout.column_count + 1, sizeof(fixed_t))
        if images.columns == NULL or images.plans == NULL:
            raise MemoryError
        images.column_count = layout.column_count
        images.bitmap_bytes = (images.column_count + 7) // 8
        images.column_bits = ~(<uint64_t> 0) >> (63 - (images.column_count + 63) % 64)
        kept = []
        for index, column in enumerate(layout.columns):
            kept.append(_plan(images.columns + index, <fixed_t*> images.plans + index, column))
            row_bytes += images.columns[index].item
        self._kept = kept
        for index in range(images.column_count):
            images.columns[index + 1].fixed_before = images.columns[index].fixed_before + (
                0 if images.columns[index].is_variable else images.columns[index].size
            )
        for index in reversed(range(images.column_count)):
            images.columns[index].run_stop = index + 1
            if index + 1 < images.column_count and not images.columns[index + 1].is_variable:
                images.columns[index].run_stop = images.columns[index + 1].run_stop
        images.row_bytes = row_bytes + images.bitmap_bytes

    def __dealloc__(self):
        cdef fixed_t* plans = <fixed_t*> self.images.plans
        cdef uint32_t index
        if self.images.columns != NULL and plans != NULL:
            _forget(&self.images)
            for index in range(self.images.column_count):
                free(plans[index].decimal)
        free(plans)
        free(self.images.columns)

    @property
    def image_count(self):
        """How many images are held."""
        return self.images.row_count

    @property
    def byte_count(self):
        """About the memory that they take in Arrow."""
        return self.images.byte_count

    @property
    def whole_count(self):
        """How many of the images, from the first on, belong to transactions that have ended; kept by the caller."""
        return self.images.whole_count

    @whole_count.setter
    def whole_count(self, value):
        self.images.whole_count = value

    def append(self, event, transaction_index):
        """Decode every image of `event`; returns how many there were.

        Raises (and nothing of the event is held then):
            MalformedEvent: it ends inside a value, has bytes left over, or has other columns than the layout.
            UnsupportedData: images without all columns where they are needed, partial JSON updates without the
                document before, text that is none in its charset.
            MemoryError
        """
        cdef images_t* images = &self.images
        cdef bytes rows = event.rows, first, second
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(rows)
        cdef const uint8_t* end = at + PyBytes_GET_SIZE(rows)
        cdef const uint8_t* present_first
        cdef const uint8_t* present_second
        cdef int kind = _KINDS[event.kind], result = IMAGES_REFUSED
        cdef bint is_partial = event.is_partial
        cdef uint32_t index = transaction_index
        cdef size_t before = images.row_count, refusals = pool_refusals()
        images.has_no_memory = images.has_no_shape = False
        bitmaps = (event.present_before, event.present_after)
        if event.column_count == images.column_count and not any(bits >> images.column_count for bits in bitmaps):
            first, second = (bits.to_bytes(images.bitmap_bytes, "little") for bits in bitmaps)
            if kind == ROWS_INSERT:
                first = second
            present_first = <const uint8_t*> PyBytes_AS_STRING(first)
            present_second = <const uint8_t*> PyBytes_AS_STRING(second)
            with nogil:
                result = _append(
                    images,
                    kind,
                    is_partial,
                    present_first,
                    present_second,
                    &at,
                    end,
                    index,
                    <size_t> -1,
                    <size_t> -1,
                )
        if result == IMAGES_REFUSED:
            self._raise(event, transaction_index, pool_refusals() != refusals)
        return images.row_count - before

    def append_body(
        self,
        kind,
        is_partial,
        const uint8_t[::1] body,
        size_t offset,
        transaction_index,
        size_t rows_stop,
        size_t bytes_stop,
    ):
        """A rows event from its column count on, as the scanner hands it over: `images_append`, which says what the
        arguments are. Returns its result and the offset that it left; nothing is raised."""
        cdef images_t* images = &self.images
        cdef int rows_kind = _KINDS[kind], result
        cdef bint partial = is_partial
        cdef uint32_t index = transaction_index
        cdef const uint8_t* start = &body[0] if len(body) else NULL
        cdef size_t size = len(body)
        with nogil:
            result = images_append(
                images, rows_kind, partial, start, size, &offset, index, rows_stop, bytes_stop
            )
        return result, offset

    def _raise(self, event, transaction_index, has_no_memory):
        """Why the kernel refused the event, by the twin; `has_no_memory`: a request for some was refused meanwhile.

        The printer of JSON has no way to tell the one from the other.
        """
        if self.images.has_no_memory or has_no_memory:
            raise MemoryError
        if self.images.has_no_shape:
            raise reference.too_many_shapes(self.layout)
        twin = reference.ImageBuffer(self.layout, needs_all_columns=self.needs_all_columns)
        twin.append(event, transaction_index)
        raise InvariantBroken(f"{self.layout.definition.name}: the kernel refuses an event that the reference accepts")

    def truncate(self, row_count):
        """Forget all images but the first `row_count`."""
        images_truncate(&self.images, row_count)

    def take(self):
        """The images so far as one batch; the buffer is empty afterwards. Only where `image_count` is not 0."""
        cdef images_t* images = &self.images
        cdef size_t row_count = images.row_count, null_count
        cdef column_t* column
        cdef uint32_t index
        definition = self.layout.definition
        shape_index, shapes = _take_shapes(images, self.layout)
        arrays = []
        from_buffers = pa.Array.from_buffers
        for index in range(images.column_count):
            column = images.columns + index
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
        batch = RowBatch(
            definition=definition,
            operation=from_buffers(_UINT8, row_count, [None, _buffer(&images.operation, row_count)], 0),
            transaction_index=from_buffers(
                _UINT32, row_count, [None, _buffer(&images.transaction, row_count * 4)], 0
            ),
            images=pa.RecordBatch.from_arrays(arrays, schema=self._schema),
            shape_index=shape_index,
            shapes=shapes,
        )
        images.rows_hint = row_count
        _forget(&self.images)
        return batch


_UINT8, _UINT16, _UINT32 = pa.uint8(), pa.uint16(), pa.uint32()
