"""The last image of each key of a run, compiled: the twin of `compact_in_python` in cdc/pipeline/compactor.py, which
says what it is for.

What a key's last image does decides: it puts a row there (upsert) or takes one away (delete). So the images are read
from the last one to the first, and the first that is met of a key is its last. A hash table holds where that is;
keys are compared by their bytes, read where Arrow has them. The hash is SipHash with the caller's seed: who
writes the keys does not know which of them meet. Images that are met later leave a note at the last one, whether they
are an INSERT: what stands there at the end is of the key's first image, and a row that begins so is new.

A slot of the table is a number of 64 bits, 0 while it is free:

    [high bits of the hash | batch | row + 1]

`row + 1` and `batch` have as many bits as this run needs, the hash has what is left, and its highest bits are the
slot's place: the table grows without hashing anything twice.
"""

from libc.stdint cimport INT32_MAX, int32_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

import pyarrow as pa

from cdc.binlog.kernel.memory cimport block_take_over, bytes_free, bytes_reserve, bytes_t
from cdc.model import Operation

__all__ = ["SEED_BYTES", "last_images"]

cdef extern from "compact.h" nogil:
    ctypedef struct sip_t:
        pass
    uint64_t load_64(const uint8_t* at)
    uint64_t load_32(const uint8_t* at)
    uint64_t load_16(const uint8_t* at)
    uint64_t key_tail(const uint8_t* at, size_t size)
    bint key_bytes_equal(const uint8_t* one, const uint8_t* other, size_t size)
    void fetch_soon(const void* at)
    void sip_begin(sip_t* s, const uint64_t* seed)
    void sip_word(sip_t* s, uint64_t word)
    uint64_t sip_end(sip_t* s)

cdef enum:
    # How a key column's values lie in memory.
    KIND_8
    KIND_16
    KIND_32
    KIND_64
    KIND_WORDS      # `item` bytes, a multiple of eight
    KIND_VARIABLE   # 64-bit offsets, and the bytes between them

cdef enum:
    OPERATION_INSERT = 1
    OPERATION_UPDATE_BEFORE = 2
    OPERATION_UPDATE_AFTER = 3
    OPERATION_DELETE = 4

assert (OPERATION_INSERT, OPERATION_UPDATE_BEFORE) == (Operation.INSERT, Operation.UPDATE_BEFORE)
assert (OPERATION_UPDATE_AFTER, OPERATION_DELETE) == (Operation.UPDATE_AFTER, Operation.DELETE)

cdef enum:
    # What is to be done with an image.
    MARK_NOTHING = 0
    MARK_UPSERT = 1
    MARK_DELETE = 2
    MARKS = 3
    # Of a key's last image: the first one is an INSERT, as far as the images have been read.
    MARK_NEW = 4

cdef enum:
    DONE = 0
    REFUSED = -1
    NO_MEMORY = -2

cdef enum:
    # A word of 64 bits says which columns of a key are NULL.
    COLUMNS_MAX = 64
    # Images hashed before the first of them is looked up, so that their slots arrive in the meantime.
    AHEAD = 64
    # The first table has room for one image in so many.
    FIRST_SHARE = 8

SEED_BYTES = 16


cdef struct column_t:
    # A column of the key; the same in all batches.
    int kind
    size_t item             # bytes a value, or an offset


cdef struct values_t:
    # Its values in one batch.
    const uint8_t* values   # from the batch's first row on; where they vary in length, offsets
    const uint8_t* bytes
    uint64_t byte_count
    const uint8_t* validity  # bitmap, 1 is not NULL; NULL while there is no NULL
    size_t first_bit


cdef struct batch_t:
    size_t row_count
    const uint8_t* operation
    values_t* values        # one a column
    uint8_t* marks          # one an image
    size_t upsert_count     # of this batch's rows
    size_t insert_count     # of these: rows that are new
    size_t delete_count


cdef struct run_t:
    column_t* columns
    size_t column_count
    batch_t* batches
    size_t batch_count
    values_t* values        # all batches'
    uint64_t seed[2]
    uint64_t hash_mask      # the bits of a hash that count
    # The table.
    bytes_t table
    uint64_t* slots
    int bits                # it has 2 ** bits slots, half of which may be taken
    int bits_max            # when no key occurs twice
    size_t taken
    int row_bits
    uint64_t place_mask     # of batch and row in a slot
    # Results.
    bytes_t marks           # of all images
    bytes_t upserts         # int32, ascending in each batch, the last batch first
    bytes_t inserts
    bytes_t deletes
    size_t inserted
    size_t updated
    size_t deleted


# ---------------------------------------------------------------- keys


cdef inline bint _is_null(values_t* values, size_t row) noexcept nogil:
    cdef size_t bit = values.first_bit + row
    return values.validity != NULL and not values.validity[bit >> 3] >> (bit & 7) & 1


cdef inline uint64_t _word(int kind, const uint8_t* at) noexcept nogil:
    """A value of at most eight bytes."""
    if kind == KIND_64:
        return load_64(at)
    if kind == KIND_32:
        return load_32(at)
    if kind == KIND_16:
        return load_16(at)
    return at[0]


cdef inline int _hash_bytes(sip_t* sip, values_t* values, size_t row) noexcept nogil:
    """Take in a value that varies in length, after its length; REFUSED where it lies outside of the buffer."""
    cdef uint64_t start = load_64(values.values + 8 * row), stop = load_64(values.values + 8 * row + 8)
    cdef const uint8_t* at
    cdef size_t left
    if start > stop or stop > values.byte_count:
        return REFUSED
    at = values.bytes + start
    left = stop - start
    sip_word(sip, left)
    while left >= 8:
        sip_word(sip, load_64(at))
        at += 8
        left -= 8
    if left:
        sip_word(sip, key_tail(at, left))
    return DONE


cdef inline int _hash(run_t* run, batch_t* batch, size_t row, uint64_t* hashed) noexcept nogil:
    """The hash of an image's key. After DONE, every byte of the key is known to be there."""
    cdef size_t index, word
    cdef uint64_t nulls = 0
    cdef column_t* column
    cdef values_t* values
    cdef const uint8_t* at
    cdef sip_t sip
    sip_begin(&sip, run.seed)
    for index in range(run.column_count):
        column = run.columns + index
        values = batch.values + index
        if _is_null(values, row):
            nulls |= <uint64_t> 1 << index
            sip_word(&sip, 0)
        elif column.kind == KIND_VARIABLE:
            if _hash_bytes(&sip, values, row) < 0:
                return REFUSED
        elif column.kind == KIND_WORDS:
            at = values.values + row * column.item
            for word in range(column.item // 8):
                sip_word(&sip, load_64(at + 8 * word))
        else:
            sip_word(&sip, _word(column.kind, values.values + row * column.item))
    if nulls:
        sip_word(&sip, nulls)
    hashed[0] = sip_end(&sip) & run.hash_mask
    return DONE


cdef inline bint _are_bytes_equal(values_t* one, size_t one_row, values_t* other, size_t other_row) noexcept nogil:
    cdef uint64_t start = load_64(one.values + 8 * one_row), other_start = load_64(other.values + 8 * other_row)
    cdef uint64_t size = load_64(one.values + 8 * one_row + 8) - start
    if size != load_64(other.values + 8 * other_row + 8) - other_start:
        return False
    return key_bytes_equal(one.bytes + start, other.bytes + other_start, size)


cdef inline bint _are_equal(
    run_t* run, batch_t* one, size_t one_row, batch_t* other, size_t other_row
) noexcept nogil:
    """Do two images have the same key? Only of images that have been hashed."""
    cdef size_t index, item
    cdef int kind
    cdef bint is_null
    for index in range(run.column_count):
        is_null = _is_null(one.values + index, one_row)
        if is_null != _is_null(other.values + index, other_row):
            return False
        if is_null:
            continue
        kind = run.columns[index].kind
        item = run.columns[index].item
        if kind == KIND_VARIABLE:
            if not _are_bytes_equal(one.values + index, one_row, other.values + index, other_row):
                return False
        elif kind == KIND_WORDS:
            if not key_bytes_equal(
                one.values[index].values + item * one_row, other.values[index].values + item * other_row, item
            ):
                return False
        elif _word(kind, one.values[index].values + item * one_row) != _word(
            kind, other.values[index].values + item * other_row
        ):
            return False
    return True


# ---------------------------------------------------------------- the table


cdef int _make_table(run_t* run, int bits) noexcept nogil:
    """Move to a table of 2 ** bits slots."""
    cdef bytes_t old = run.table
    cdef uint64_t* old_slots = run.slots
    cdef size_t old_count = <size_t> 1 << run.bits if old_slots != NULL else 0
    cdef size_t count = <size_t> 1 << bits, index, at
    cdef uint64_t slot
    memset(&run.table, 0, sizeof(bytes_t))
    if bytes_reserve(&run.table, count * sizeof(uint64_t)) < 0:
        run.table = old
        return NO_MEMORY
    run.slots = <uint64_t*> run.table.data
    run.bits = bits
    memset(run.slots, 0, count * sizeof(uint64_t))
    for index in range(old_count):
        slot = old_slots[index]
        if slot:
            at = slot >> (64 - bits)
            while run.slots[at]:
                at = (at + 1) & (count - 1)
            run.slots[at] = slot
    bytes_free(&old)
    return DONE


cdef inline int _make_room(run_t* run, size_t more) noexcept nogil:
    """Before `more` images are entered. The first table does for runs that change few rows again and again."""
    if run.taken + more <= (<size_t> 1 << run.bits) >> 1:
        return DONE
    return _make_table(run, run.bits_max)


cdef inline bint _enter(run_t* run, size_t batch_index, size_t row, uint64_t hashed, uint8_t is_new) noexcept nogil:
    """Is this the first image that is met of its key? Then it is in the table, in which there is room."""
    cdef uint64_t tag = hashed & ~run.place_mask, place, slot
    cdef size_t at = hashed >> (64 - run.bits), last = (<size_t> 1 << run.bits) - 1
    cdef batch_t* other
    cdef size_t other_row
    while True:
        slot = run.slots[at]
        if not slot:
            run.slots[at] = tag | <uint64_t> batch_index << run.row_bits | (row + 1)
            run.taken += 1
            return True
        if (slot & ~run.place_mask) == tag:
            place = slot & run.place_mask
            other = run.batches + (place >> run.row_bits)
            other_row = (place & ((<uint64_t> 1 << run.row_bits) - 1)) - 1
            if _are_equal(run, run.batches + batch_index, row, other, other_row):
                other.marks[other_row] = (other.marks[other_row] & MARKS) | is_new
                return False
        at = (at + 1) & last


# ---------------------------------------------------------------- a batch


cdef int _count(run_t* run, batch_t* batch) noexcept nogil:
    """What the images are; REFUSED for an operation that is none."""
    cdef size_t inserted = 0, taken = 0, updated = 0, deleted = 0, row
    cdef uint8_t operation
    for row in range(batch.row_count):
        operation = batch.operation[row]
        inserted += operation == OPERATION_INSERT
        taken += operation == OPERATION_UPDATE_BEFORE
        updated += operation == OPERATION_UPDATE_AFTER
        deleted += operation == OPERATION_DELETE
    if inserted + taken + updated + deleted != batch.row_count:
        return REFUSED
    run.inserted += inserted
    run.updated += updated
    run.deleted += deleted
    return DONE


cdef int _mark(run_t* run, size_t batch_index) noexcept nogil:
    """Mark the rows of a batch that are the last of their keys; those of later batches are in the table."""
    cdef batch_t* batch = run.batches + batch_index
    cdef uint64_t hashes[AHEAD]
    cdef size_t stop = batch.row_count, first, index, row
    cdef uint8_t operation, is_new
    cdef int code
    while stop:
        first = stop - AHEAD if stop > AHEAD else 0
        code = _make_room(run, AHEAD)
        if code < 0:
            return code
        for index in range(stop - first):
            if _hash(run, batch, stop - 1 - index, hashes + index) < 0:
                return REFUSED
            fetch_soon(run.slots + (hashes[index] >> (64 - run.bits)))
        for index in range(stop - first):
            row = stop - 1 - index
            operation = batch.operation[row]
            is_new = MARK_NEW if operation == OPERATION_INSERT else 0
            if not _enter(run, batch_index, row, hashes[index], is_new):
                batch.marks[row] = MARK_NOTHING
            elif operation == OPERATION_INSERT or operation == OPERATION_UPDATE_AFTER:
                batch.marks[row] = MARK_UPSERT | is_new
            else:
                batch.marks[row] = MARK_DELETE
        stop = first
    return DONE


cdef void _count_marks(batch_t* batch) noexcept nogil:
    cdef size_t row, upserts = 0, inserts = 0, deletes = 0
    for row in range(batch.row_count):
        upserts += batch.marks[row] & MARKS == MARK_UPSERT
        inserts += batch.marks[row] == MARK_UPSERT | MARK_NEW
        deletes += batch.marks[row] & MARKS == MARK_DELETE
    batch.upsert_count = upserts
    batch.insert_count = inserts
    batch.delete_count = deletes


cdef int _select(run_t* run, batch_t* batch) noexcept nogil:
    """The numbers of the marked rows. Every row is written, and stays where it is marked: no branch to guess."""
    cdef size_t row
    cdef int32_t* upserts
    cdef int32_t* inserts
    cdef int32_t* deletes
    cdef uint8_t mark
    _count_marks(batch)
    if bytes_reserve(&run.upserts, (batch.upsert_count + 1) * sizeof(int32_t)) < 0:
        return NO_MEMORY
    if bytes_reserve(&run.inserts, (batch.insert_count + 1) * sizeof(int32_t)) < 0:
        return NO_MEMORY
    if bytes_reserve(&run.deletes, (batch.delete_count + 1) * sizeof(int32_t)) < 0:
        return NO_MEMORY
    upserts = <int32_t*> (run.upserts.data + run.upserts.size)
    inserts = <int32_t*> (run.inserts.data + run.inserts.size)
    deletes = <int32_t*> (run.deletes.data + run.deletes.size)
    for row in range(batch.row_count):
        mark = batch.marks[row]
        upserts[0] = <int32_t> row
        inserts[0] = <int32_t> row
        deletes[0] = <int32_t> row
        upserts += mark & MARKS == MARK_UPSERT
        inserts += mark == MARK_UPSERT | MARK_NEW
        deletes += mark & MARKS == MARK_DELETE
    run.upserts.size += batch.upsert_count * sizeof(int32_t)
    run.inserts.size += batch.insert_count * sizeof(int32_t)
    run.deletes.size += batch.delete_count * sizeof(int32_t)
    return DONE


cdef int _bits_for(size_t count) noexcept nogil:
    """How many bits numbers below `count` have."""
    cdef int bits = 0
    while count > <size_t> 1 << bits:
        bits += 1
    return bits


cdef int _lay_out(run_t* run) noexcept nogil:
    """How a slot's bits are divided, and how large the tables are."""
    cdef size_t index, rows = 0, rows_max = 0
    cdef int place_bits
    for index in range(run.batch_count):
        rows += run.batches[index].row_count
        rows_max = max(rows_max, run.batches[index].row_count)
    if rows_max > INT32_MAX:
        return REFUSED
    run.row_bits = _bits_for(rows_max + 1)
    place_bits = _bits_for(run.batch_count) + run.row_bits
    run.bits_max = _bits_for(2 * (rows + AHEAD))
    # The highest bits of the hash, of which the slot keeps those that are not the image's place, are its own place.
    if place_bits + run.bits_max > 64:
        return REFUSED
    run.place_mask = (<uint64_t> 1 << place_bits) - 1
    if bytes_reserve(&run.marks, rows) < 0:
        return NO_MEMORY
    run.marks.size = 0
    for index in range(run.batch_count):
        run.batches[index].marks = run.marks.data + run.marks.size
        run.marks.size += run.batches[index].row_count
    return _make_table(run, _bits_for(2 * (rows // FIRST_SHARE + AHEAD)))


cdef int _fold(run_t* run) noexcept nogil:
    """Fill in the results."""
    cdef size_t index = run.batch_count
    cdef int code = _lay_out(run)
    while index and code == DONE:
        index -= 1
        code = _count(run, run.batches + index)
        if code == DONE:
            code = _mark(run, index)
    index = run.batch_count
    while index and code == DONE:
        index -= 1
        code = _select(run, run.batches + index)
    return code


# ---------------------------------------------------------------- the border

cdef dict _KINDS = {1: KIND_8, 2: KIND_16, 4: KIND_32, 8: KIND_64, 16: KIND_WORDS, 32: KIND_WORDS}
_INT32, _UINT8 = pa.int32(), pa.uint8()
_NONE = pa.array([], _INT32)


cdef bint _plan_column(column_t* column, arrow_type) except -1:
    """How values of this type lie in memory. False for a type that is not known here."""
    types = pa.types
    if types.is_large_string(arrow_type) or types.is_large_binary(arrow_type):
        column.kind = KIND_VARIABLE
        column.item = 8
        return True
    is_known = (
        types.is_integer(arrow_type)
        or types.is_timestamp(arrow_type)
        or types.is_decimal(arrow_type)
        or types.is_floating(arrow_type)
    )
    if not is_known or arrow_type.bit_width // 8 not in _KINDS:
        return False
    column.item = arrow_type.bit_width // 8
    column.kind = _KINDS[column.item]
    return True


cdef bint _find_buffer(buffer, size_t first, size_t count, size_t item, const uint8_t** at) except -1:
    """Where `count` items from the first one on begin. False where the buffer does not hold them."""
    cdef size_t size = 0 if buffer is None else buffer.size
    at[0] = NULL
    if first + count > size // item:
        return False
    if buffer is not None:
        at[0] = <const uint8_t*> <size_t> buffer.address + first * item
    return True


cdef bint _find_values(values_t* values, column_t* column, array) except -1:
    """Where the column's values in one batch are. False where its buffers are too short for it."""
    cdef size_t first = array.offset, count = len(array)
    cdef bint is_variable = column.kind == KIND_VARIABLE
    buffers = array.buffers()
    if array.null_count:
        values.first_bit = first
        if not _find_buffer(buffers[0], 0, (first + count + 7) // 8, 1, &values.validity):
            return False
    if is_variable:
        values.byte_count = 0 if buffers[2] is None else buffers[2].size
        _find_buffer(buffers[2], 0, values.byte_count, 1, &values.bytes)
        if not count:
            return True
    return _find_buffer(buffers[1], first, count + is_variable, column.item, &values.values)


cdef bint _plan(run_t* run, batches, size_t column_count) except -1:
    """Find the memory of what is to be folded. False where it is not for the kernel."""
    cdef size_t batch_index, index
    cdef batch_t* batch
    run.batch_count = len(batches)
    run.column_count = column_count
    run.columns = <column_t*> calloc(column_count, sizeof(column_t))
    run.batches = <batch_t*> calloc(run.batch_count, sizeof(batch_t))
    run.values = <values_t*> calloc(run.batch_count * column_count, sizeof(values_t))
    if run.columns == NULL or run.batches == NULL or run.values == NULL:
        raise MemoryError
    arrow_types = [column.type for column in batches[0][1]]
    for index in range(column_count):
        if not _plan_column(run.columns + index, arrow_types[index]):
            return False
    for batch_index in range(run.batch_count):
        operation, columns = batches[batch_index]
        batch = run.batches + batch_index
        batch.values = run.values + batch_index * column_count
        batch.row_count = len(operation)
        if operation.type != _UINT8 or operation.null_count or <size_t> len(columns) != column_count:
            return False
        if not _find_buffer(operation.buffers()[1], operation.offset, batch.row_count, 1, &batch.operation):
            return False
        for index in range(column_count):
            column = columns[index]
            if column.type != arrow_types[index] or <size_t> len(column) != batch.row_count:
                return False
            if not _find_values(batch.values + index, run.columns + index, column):
                return False
    return True


cdef object _take(bytes_t* held):
    """The row numbers, as an Arrow buffer that they belong to from now on."""
    return pa.py_buffer(block_take_over(held)) if held.size else None


cdef tuple _selections(object numbers, list counts):
    """One array a batch, out of one buffer in which the last batch comes first."""
    cdef size_t first = 0
    arrays = []
    for count in reversed(counts):
        arrays.append(pa.Array.from_buffers(_INT32, count, [None, numbers], 0, first) if count else _NONE)
        first += count
    return tuple(reversed(arrays))


def last_images(batches, seed, int hash_bits=64):
    """See compact.pyi."""
    cdef run_t run
    cdef size_t index
    cdef int code
    if PyBytes_GET_SIZE(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes")
    if not 1 <= hash_bits <= 64:
        raise ValueError("a hash has 1 to 64 bits")
    if not batches or not 0 < len(batches[0][1]) <= COLUMNS_MAX:
        return None
    memset(&run, 0, sizeof(run_t))
    memcpy(run.seed, PyBytes_AS_STRING(seed), sizeof(run.seed))
    run.hash_mask = ~(<uint64_t> 0) << (64 - hash_bits)
    try:
        if not _plan(&run, batches, len(batches[0][1])):
            return None
        with nogil:
            code = _fold(&run)
        if code == NO_MEMORY:
            raise MemoryError
        if code == REFUSED:
            return None
        upserts = [run.batches[index].upsert_count for index in range(run.batch_count)]
        inserts = [run.batches[index].insert_count for index in range(run.batch_count)]
        deletes = [run.batches[index].delete_count for index in range(run.batch_count)]
        rows = _selections(_take(&run.upserts), upserts)
        return (
            rows,
            rows if inserts == upserts else _selections(_take(&run.inserts), inserts),
            _selections(_take(&run.deletes), deletes),
            (run.inserted, run.updated, run.deleted),
        )
    finally:
        bytes_free(&run.table)
        bytes_free(&run.marks)
        bytes_free(&run.upserts)
        bytes_free(&run.inserts)
        bytes_free(&run.deletes)
        free(run.values)
        free(run.batches)
        free(run.columns)
