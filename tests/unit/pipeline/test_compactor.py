"""Deletes, then upserts, on what was there: the same table as after every row in turn."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.binlog.kernel.memory import live_bytes
from cdc.errors import InvariantBroken
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.compactor import compact, compact_in_python
from cdc.pipeline.kernel.compact import SEED_BYTES, last_images

COLUMNS = (
    ColumnDefinition("a", ValueKind.INTEGER, "int", length=32),
    ColumnDefinition("b", ValueKind.TEXT, "varchar(9)", charset="utf8mb4", collation="utf8mb4_general_ci"),
    ColumnDefinition("v", ValueKind.INTEGER, "int", length=32),
)
TABLE = TableDefinition(TableName("shop", "t"), COLUMNS, primary_key=("a", "b"))
SEED = bytes(range(SEED_BYTES))
Row = tuple[int, str, int]
Image = tuple[Operation, Row]
Table = dict[Any, Row]
INSERT, BEFORE, AFTER, DELETE = Operation.INSERT, Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER, Operation.DELETE


def batch_of(images: Sequence[Image], definition: TableDefinition = TABLE) -> RowBatch:
    columns = list(zip(*(row for _, row in images), strict=True))
    arrays = [pa.array(values, c.arrow_type) for values, c in zip(columns, definition.columns, strict=True)]
    return make_batch(definition, [op for op, _ in images], arrays)


def make_batch(definition: TableDefinition, operations: Sequence[int], arrays: Sequence[pa.Array]) -> RowBatch:
    return RowBatch(
        definition,
        pa.array(operations, pa.uint8()),
        pa.array([0] * len(operations), pa.uint32()),
        pa.RecordBatch.from_arrays(list(arrays), names=[column.name for column in definition.columns]),
    )


def slice_of(batch: RowBatch, offset: int, length: int | None = None) -> RowBatch:
    return replace(
        batch,
        operation=batch.operation.slice(offset, length),
        transaction_index=batch.transaction_index.slice(offset, length),
        images=batch.images.slice(offset, length),
    )


def key_of(row: Row, key: tuple[str, ...]) -> Any:
    return tuple(row["abv".index(name)] for name in key)


def rows_of(batches: Sequence[pa.RecordBatch]) -> list[Row]:
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def apply_net(before: Table, change: ChangeBatch) -> Table:
    """As a sink does: deletes by key, then upserts by key."""
    table = dict(before)
    for row in rows_of(change.delete_images()):
        table.pop(key_of(row, change.key), None)
    for row in rows_of(change.upsert_images()):
        table[key_of(row, change.key)] = row
    return table


# ---------------------------------------------------------------- histories that a table can have


class Source:
    """A table at the source: does what it is told where that is possible, and logs it."""

    def __init__(self, rows: Sequence[Row], key: tuple[str, ...]) -> None:
        self.key = key
        self.rows: Table = {key_of(row, key): row for row in rows}
        self.start = dict(self.rows)
        self.log: list[Image] = []

    def do(self, action: str, row: Row, other: Row) -> None:
        here, there = key_of(row, self.key), key_of(other, self.key)
        if action == "insert" and here not in self.rows:
            self.rows[here] = row
            self.log.append((INSERT, row))
        elif action == "delete" and here in self.rows:
            self.log.append((DELETE, self.rows.pop(here)))
        elif action == "update" and here in self.rows and (there == here or there not in self.rows):
            self.log += [(BEFORE, self.rows.pop(here)), (AFTER, other)]
            self.rows[there] = other
        elif action == "replace" and here in self.rows:
            self.log += [(DELETE, self.rows[here]), (INSERT, row)]
            self.rows[here] = row


rows = st.tuples(st.integers(1, 3), st.sampled_from(("x", "y")), st.integers(0, 99))
actions = st.lists(
    st.tuples(st.sampled_from(("insert", "delete", "update", "update", "replace")), rows, rows), max_size=25
)


@given(
    st.lists(rows, max_size=4), actions, st.sampled_from((("a",), ("a", "b"), ("b", "a"))), st.lists(st.integers(1, 6))
)
def test_the_net_change_is_the_history_applied_row_by_row(
    start: list[Row], history: list[tuple[str, Row, Row]], key: tuple[str, ...], sizes: list[int]
) -> None:
    source = Source(start, key)
    for action, row, other in history:
        source.do(action, row, other)
    batches, rest = [], source.log
    for size in [*sizes, len(rest)]:
        if rest:
            batches.append(batch_of(rest[:size]))
            rest = rest[size:]
    change = compact(TABLE, key, batches)
    assert apply_net(source.start, change) == source.rows
    upserted = [key_of(row, key) for row in rows_of(change.upsert_images())]
    deleted = [key_of(row, key) for row in rows_of(change.delete_images())]
    assert len(set(upserted)) == len(upserted)
    assert len(set(deleted)) == len(deleted)
    assert not set(upserted) & set(deleted)
    # What is said to be new was not there, and all that began with an INSERT is said to be new.
    new = {key_of(row, key) for row in rows_of(replace(change, upserts=change.inserts).upsert_images())}
    assert not new & source.start.keys()
    first: dict[Any, Operation] = {}
    for operation, row in source.log:
        first.setdefault(key_of(row, key), operation)
    assert new == {at for at in upserted if first[at] is INSERT}
    # Once more on what came out, as after a crash before the checkpoint: no other table.
    assert apply_net(source.rows, change) == source.rows


def net(*images: Image, key: tuple[str, ...] = ("a", "b")) -> tuple[list[Row], list[Row]]:
    """Deletes and upserts."""
    change = compact(TABLE, key, [batch_of(images)])
    return rows_of(change.delete_images()), rows_of(change.upsert_images())


A1, A2, A3 = (1, "x", 10), (2, "x", 20), (3, "x", 30)


@pytest.mark.parametrize(
    "images, deletes, upserts",
    [
        ([(INSERT, A1)], [], [A1]),
        ([(DELETE, A1)], [A1], []),
        ([(BEFORE, A1), (AFTER, (1, "x", 11))], [], [(1, "x", 11)]),
        ([(INSERT, A1), (DELETE, A1)], [A1], []),
        ([(DELETE, A1), (INSERT, (1, "x", 5))], [], [(1, "x", 5)]),
        ([(BEFORE, A1), (AFTER, A2)], [A1], [A2]),
        # a chain 1 → 2 → 3 ends at 3
        ([(BEFORE, A1), (AFTER, A2), (BEFORE, A2), (AFTER, A3)], [A1, A2], [A3]),
        # a swap of 1 and 2 by way of 3
        (
            [(BEFORE, A1), (AFTER, A3), (BEFORE, A2), (AFTER, (1, "x", 20)), (BEFORE, A3), (AFTER, (2, "x", 10))],
            [A3],
            [(1, "x", 20), (2, "x", 10)],
        ),
        # there and back again
        ([(BEFORE, A1), (AFTER, A2), (BEFORE, A2), (AFTER, A1)], [A2], [A1]),
    ],
)
def test_named_histories(images: list[Image], deletes: list[Row], upserts: list[Row]) -> None:
    found = net(*images)
    assert (sorted(found[0]), sorted(found[1])) == (sorted(deletes), sorted(upserts))


def test_a_key_spelled_otherwise_is_deleted_first_and_upserted_anew() -> None:
    """'a' to 'A' is one key under the source's collation and two on PostgreSQL; on both it ends as the one row 'A'."""
    assert net((BEFORE, (1, "a", 1)), (AFTER, (1, "A", 2))) == ([(1, "a", 1)], [(1, "A", 2)])
    assert net((DELETE, (1, "a", 1)), (INSERT, (1, "A", 2))) == ([(1, "a", 1)], [(1, "A", 2)])


def test_the_selected_image_of_a_gone_key_is_one_of_its_own() -> None:
    """The sink deletes by the image's key, so its columns must be of that key, whatever batch it is in."""
    batches = [batch_of([(INSERT, A1), (INSERT, A2)]), batch_of([(DELETE, A2), (BEFORE, A1), (AFTER, A3)])]
    change = compact(TABLE, ("a",), batches)
    assert sorted(rows_of(change.delete_images())) == [A1, A2]
    assert [list(map(int, s.to_pylist())) for s in change.upserts] == [[], [2]]
    assert all(s.type == pa.int32() for s in (*change.upserts, *change.deletes))


def test_nothing_is_left_of_nothing() -> None:
    change = compact(TABLE, ("a",), [])
    assert (change.upsert_count, change.delete_count, change.counts) == (0, 0, {})
    empty = slice_of(batch_of([(INSERT, A1)]), 1)
    change = compact(TABLE, ("a",), [empty, empty])
    assert (change.upserts, change.deletes) == ((pa.array([], pa.int32()),) * 2,) * 2


def test_changes_are_counted_as_the_source_made_them() -> None:
    change = compact(TABLE, ("a",), [batch_of([(INSERT, A1), (BEFORE, A1), (AFTER, A1), (DELETE, A1), (INSERT, A2)])])
    assert change.counts == {"insert": 2, "update": 1, "delete": 1}


# ---------------------------------------------------------------- keys of every type

# What a key column can be, and values that are easily taken for one another.
LONG = "a text that is longer than what one block of the hash takes in"
POOLS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [0, 1, -1, -128]),
    (pa.int16(), [0, 1, 256, -1]),
    (pa.int32(), [0, 1, 65536, -1, 1 << 30]),
    (pa.int64(), [0, 1, 1 << 32, -1, -(1 << 63)]),
    (pa.uint8(), [0, 1, 255]),
    (pa.uint16(), [0, 1, 256, 65535]),
    (pa.uint32(), [0, 1, 1 << 16, (1 << 32) - 1]),
    (pa.uint64(), [0, 1, 1 << 32, (1 << 64) - 1]),
    (pa.float32(), [0.0, -0.0, 1.0, 0.5]),
    (pa.float64(), [0.0, -0.0, 1.0, 0.1]),
    (pa.decimal128(38, 3), [Decimal("0"), Decimal("0.001"), Decimal(1 << 61), Decimal(10) ** 20, Decimal("-1")]),
    (pa.decimal256(65, 30), [Decimal("0"), Decimal("1e-30"), Decimal("-1e-30"), Decimal(10) ** 34]),
    (pa.timestamp("us", tz="UTC"), [0, 1, 1_790_000_000_000_000]),
    (pa.large_string(), ["", "a", "A", "aa", "a\0", "abcdefgh", "abcdefghi", "abcdefghj", "ß", LONG, LONG + "!"]),
    (pa.large_binary(), [b"", b"\0", b"\0\0", b"\0" * 8, b"\0" * 9, b"\1", b"ab", b"abc", b"abd", b"abcd", b"abce"]),
]
KINDS = {c.kind: c.arrow_type for c in (ColumnDefinition("k", kind, "x", precision=9, length=32) for kind in ValueKind)}


def array_of(arrow_type: pa.DataType, values: Sequence[Any]) -> pa.Array:
    if pa.types.is_timestamp(arrow_type):
        return pa.array(values, pa.int64()).view(arrow_type)
    return pa.array(values, arrow_type)


def tight(array: pa.Array) -> pa.Array:
    """A copy whose buffers end where its values do: Arrow's own have room behind, which hides reads too far."""
    whole = pa.concat_arrays([array])
    buffers = [None if buffer is None else pa.py_buffer(buffer.to_pybytes()) for buffer in whole.buffers()]
    return pa.Array.from_buffers(whole.type, len(whole), buffers, offset=whole.offset)


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def table_of(columns: int) -> TableDefinition:
    """Key columns k0, k1, …; what type they have, their arrays say."""
    some = (ColumnDefinition(f"k{index}", ValueKind.BLOB, "blob") for index in range(columns))
    return TableDefinition(TableName("shop", "t"), tuple(some), primary_key=tuple(f"k{i}" for i in range(columns)))


def applied_one_by_one(operations: Sequence[int], keys: Sequence[Any]) -> tuple[set[int], set[int]]:
    """Images that make up the table at the end, and those that say that a key is gone from it: the naive model."""
    table: dict[Any, int] = {}
    gone: dict[Any, int] = {}
    for row, (operation, key) in enumerate(zip(operations, keys, strict=True)):
        if operation in (INSERT, AFTER):
            table[key] = row
            gone.pop(key, None)
        else:
            table.pop(key, None)
            gone[key] = row
    return set(table.values()), set(gone.values())


def numbered(selections: Sequence[pa.Int32Array], batches: Sequence[RowBatch]) -> list[int]:
    """Row numbers of batches as numbers of images."""
    firsts = itertools.accumulate((batch.row_count for batch in batches), initial=0)
    return [first + row for first, selection in zip(firsts, selections, strict=False) for row in selection.to_pylist()]


def check(operations: Sequence[int], arrays: Sequence[pa.Array], keys: Sequence[Any], cuts: Sequence[int]) -> None:
    """Kernel, twin and naive model agree on these images, cut into slices of one batch and copies of slices."""
    table = table_of(len(arrays))
    key = table.primary_key
    whole = make_batch(table, operations, arrays)
    batches = []
    for first, stop in itertools.pairwise([0, *sorted(cuts), len(operations)]):
        part = slice_of(whole, first, stop - first)
        if first % 2:  # no offset: buffers of its own
            part = make_batch(table, part.operation.to_pylist(), [tight(column) for column in part.images])
        batches.append(part)
    seed = random.Random(len(operations)).randbytes(SEED_BYTES)
    change, twin = compact(table, key, batches, seed=seed), compact_in_python(table, key, batches)
    ours, theirs = (one.upserts + one.inserts + one.deletes for one in (change, twin))
    for selection, twin_selection in zip(ours, theirs, strict=True):
        selection.validate(full=True)
        assert selection.equals(twin_selection)
    assert change.counts == twin.counts
    upserts, deletes = numbered(change.upserts, batches), numbered(change.deletes, batches)
    assert (set(upserts), set(deletes)) == applied_one_by_one(operations, keys)
    assert len(upserts) == change.upsert_count
    assert len(deletes) == change.delete_count
    # The kernel alone: it is not the twin who did it, and keys whose hashes are the same are still different keys.
    columns = [(batch.operation, batch.images.columns) for batch in batches]
    for hash_bits in (64, 8, 1) if len(operations) < 100 else (64, 8):
        found = last_images(columns, SEED, hash_bits)
        assert found is not None
        assert found[:3] == (twin.upserts, twin.inserts, twin.deletes)


operations_of_any_kind = st.sampled_from([int(operation) for operation in Operation])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[pa.Array], list[Any], list[int]]:
    """Any operations on any keys, whether a table can have them or not, and where to cut them."""
    pools = draw(st.lists(st.sampled_from(POOLS), min_size=1, max_size=3))
    count = draw(st.integers(1, 40))
    operations = draw(st.lists(operations_of_any_kind, min_size=count, max_size=count))
    columns, arrays = [], []
    for arrow_type, pool in pools:
        values = draw(st.lists(st.sampled_from([*pool, None]), min_size=count, max_size=count))
        arrays.append(array_of(arrow_type, values))
        columns.append([bits(value) for value in values])
    cuts = draw(st.lists(st.integers(0, count), max_size=4))
    return operations, arrays, list(zip(*columns, strict=True)), cuts


@given(histories())
def test_kernel_twin_and_images_one_by_one_agree_for_keys_of_every_type(
    history: tuple[list[int], list[pa.Array], list[Any], list[int]],
) -> None:
    check(*history)


@given(
    st.integers(1, 6000), st.sampled_from([1, 2, 30, 3000, 10**9]), st.sampled_from(["number", "text"]), st.integers(0)
)
@example(63, 10**9, "number", 0)
@example(64, 10**9, "text", 0)
@example(65, 10**9, "number", 0)
@example(6000, 10**9, "text", 1)
def test_long_runs_agree_too(count: int, distinct: int, kind: str, seed: int) -> None:
    """More images than are hashed ahead, and more keys than the first table has room for."""
    rng = random.Random(seed)
    numbers = [rng.randrange(distinct) for _ in range(count)]
    operations = [rng.randrange(1, 5) for _ in range(count)]
    array = pa.array(numbers, pa.int64()) if kind == "number" else pa.array(map(str, numbers), pa.large_string())
    check(operations, [array], [(number,) for number in numbers], [rng.randrange(count + 1) for _ in range(3)])


@pytest.mark.parametrize("kind", ValueKind)
def test_the_kernel_folds_keys_of_every_kind_that_a_column_can_have(kind: ValueKind) -> None:
    array = pa.array([None, None], KINDS[kind])
    found = last_images([(pa.array([INSERT, AFTER], pa.uint8()), [array])], SEED)
    assert found is not None
    assert [selection.to_pylist() for selection in found[0]] == [[1]]


@pytest.mark.parametrize(
    "kind, values",
    [
        (ValueKind.TIMESTAMP, (0, 1, 1_790_000_000_000_000)),
        (ValueKind.DOUBLE, (0.1, 1e308, -1.5)),
        (ValueKind.BINARY, (b"\0\0", b"\1\0", b"")),
        (ValueKind.BIT, (0, 1, 2**64 - 1)),
        (ValueKind.TIME, (-1, 0, 1)),
    ],
)
def test_keys_of_other_kinds_are_told_apart(kind: ValueKind, values: tuple[Any, ...]) -> None:
    column = ColumnDefinition("k", kind, "x", length=2)
    definition = TableDefinition(TableName("shop", "t"), (column,), ("k",))
    batch = make_batch(
        definition, [INSERT, INSERT, INSERT, DELETE], [array_of(column.arrow_type, [*values, values[1]])]
    )
    change = compact(definition, ("k",), [batch])
    assert [s.to_pylist() for s in change.upserts] == [[0, 2]]
    assert [s.to_pylist() for s in change.deletes] == [[3]]


@pytest.mark.parametrize("arrow_type", [pa.float32(), pa.float64()])
def test_minus_zero_is_a_key_spelled_otherwise(arrow_type: pa.DataType) -> None:
    """One key to every server, whose upsert would leave the old spelling in place."""
    batch = make_batch(table_of(1), [BEFORE, AFTER], [pa.array([0.0, -0.0], arrow_type)])
    for fold in (compact, compact_in_python):
        change = fold(table_of(1), ("k0",), [batch])
        assert ([s.to_pylist() for s in change.deletes], [s.to_pylist() for s in change.upserts]) == ([[0]], [[1]])


def test_what_lies_below_a_null_is_no_part_of_the_key() -> None:
    """Arrow leaves it undefined; NULL is one value, and no other."""
    validity = pa.py_buffer(b"\x08")
    number = pa.Array.from_buffers(pa.int64(), 4, [validity, pa.py_buffer(struct.pack("<4q", 7, 8, 0, 0))])
    offsets = struct.pack("<5q", 0, 1, 3, 3, 3)
    text = pa.Array.from_buffers(pa.large_string(), 4, [validity, pa.py_buffer(offsets), pa.py_buffer(b"abc")])
    for array in (number, text):
        change = compact(table_of(1), ("k0",), [make_batch(table_of(1), [INSERT] * 4, [array])])
        assert [s.to_pylist() for s in change.upserts] == [[2, 3]]


# ---------------------------------------------------------------- the table


def test_the_seed_changes_nothing() -> None:
    rng = random.Random(7)
    batch = make_batch(table_of(1), [rng.randrange(1, 5) for _ in range(999)], [pa.array(rng.choices("abcdef", k=999))])
    changes = [compact(table_of(1), ("k0",), [batch], seed=seed) for seed in (None, SEED, bytes(SEED_BYTES))]
    assert changes[0] == changes[1] == changes[2]


def test_memory_is_given_back() -> None:
    batch = make_batch(table_of(1), [INSERT] * 5000, [pa.array(range(5000), pa.int64())])
    before = live_bytes()
    change = compact(table_of(1), ("k0",), [batch, batch])
    # 20000 bytes of row numbers, in a block of a power of two: all are new, which is said by the same array
    assert before + 20_000 <= live_bytes() <= before + 32_768 + 4096
    del change
    assert live_bytes() == before


# ---------------------------------------------------------------- what is refused, and what is left to the twin


def test_images_that_lack_columns_are_refused() -> None:
    """An absent value is null in the images: an upsert would write it. `partial.net_changes` folds them."""
    partial = replace(batch_of([(INSERT, A1)]), shape_index=pa.array([0], pa.uint16()), shapes=(frozenset({"v"}),))
    for fold in (compact, compact_in_python):
        with pytest.raises(InvariantBroken, match=r"images of shop\.t that lack columns"):
            fold(TABLE, ("a",), [batch_of([(INSERT, A1)]), partial])


def broken_batches() -> dict[str, list[RowBatch]]:
    table = table_of(1)
    one = make_batch(table, [INSERT], [pa.array(["x"], pa.large_string())])
    offsets = struct.pack("<3q", 0, 9, 1)
    jumps = pa.Array.from_buffers(pa.large_string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"x")])
    backwards = pa.Array.from_buffers(
        pa.large_string(), 2, [None, pa.py_buffer(struct.pack("<3q", 0, -9, 1)), pa.py_buffer(b"x")]
    )
    return {
        "an operation that is none": [one, make_batch(table, [5], [pa.array(["x"], pa.large_string())])],
        "operation 0": [make_batch(table, [0], [pa.array(["x"], pa.large_string())]), one],
        "an operation too few": [replace(one, operation=pa.array([], pa.uint8()))],
        "a text beyond its buffer": [make_batch(table, [INSERT] * 2, [jumps]), one],
        "a text of negative length": [one, make_batch(table, [INSERT] * 2, [backwards])],
    }


@pytest.mark.parametrize("case", broken_batches())
def test_a_batch_that_is_not_what_the_model_says_is_our_bug(case: str) -> None:
    batches = broken_batches()[case]
    before = live_bytes()
    for fold in (compact, compact_in_python):
        with pytest.raises(InvariantBroken, match=r"shop\.t"):
            fold(table_of(1), ("k0",), batches)
    assert live_bytes() == before


def test_arrays_that_do_not_belong_together_are_not_read() -> None:
    operations, keys = pa.array([INSERT] * 3, pa.uint8()), pa.array([1, 2, 3])
    for batch in (
        (operations, [keys.slice(1)]),
        (operations.slice(1), [keys]),
        (operations, [keys, keys.slice(1)]),
        (operations, []),
        (operations.cast(pa.int64()), [keys]),
        (pa.array([INSERT, None, INSERT], pa.uint8()), [keys]),
    ):
        assert last_images([batch], SEED) is None
    assert last_images([(operations, [keys]), (operations, [keys, keys])], SEED) is None


def test_there_is_no_folding_without_a_key() -> None:
    for fold in (compact, compact_in_python):
        with pytest.raises(InvariantBroken, match="without a key"):
            fold(TABLE, (), [batch_of([(INSERT, A1)])])


def test_a_seed_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a seed has 16 bytes"):
        compact(TABLE, ("a",), [batch_of([(INSERT, A1)])], seed=b"short")
    for hash_bits in (0, 65, -1):
        with pytest.raises(ValueError, match="1 to 64"):
            last_images([], SEED, hash_bits)


def test_what_the_kernel_does_not_know_is_left_to_the_twin() -> None:
    """Types that differ between batches, types that no column has, more columns than a word has bits."""
    table = table_of(1)
    narrow = make_batch(table, [INSERT, INSERT], [pa.array([1, 2], pa.int32())])
    wide = make_batch(table, [DELETE, INSERT], [pa.array([1, 2], pa.int64())])
    change = compact(table, ("k0",), [narrow, wide])
    assert [s.to_pylist() for s in change.deletes] == [[], [0]]
    assert [s.to_pylist() for s in change.upserts] == [[], [1]]
    days = make_batch(table, [INSERT, AFTER], [pa.array([False, False])])
    assert [s.to_pylist() for s in compact(table, ("k0",), [days]).upserts] == [[1]]
    many = table_of(65)
    batch = make_batch(many, [INSERT, AFTER], [pa.array([1, 1])] * 64 + [pa.array([1, 2])])
    assert [s.to_pylist() for s in compact(many, many.primary_key, [batch]).upserts] == [[0, 1]]
