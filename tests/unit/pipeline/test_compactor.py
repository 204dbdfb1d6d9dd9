"""Deletes, then upserts, on what was there: the same table as after every row in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.compactor import compact

COLUMNS = (
    ColumnDefinition("a", ValueKind.INTEGER, "int", length=32),
    ColumnDefinition("b", ValueKind.TEXT, "varchar(9)", charset="utf8mb4", collation="utf8mb4_general_ci"),
    ColumnDefinition("v", ValueKind.INTEGER, "int", length=32),
)
TABLE = TableDefinition(TableName("shop", "t"), COLUMNS, primary_key=("a", "b"))
Row = tuple[int, str, int]
Image = tuple[Operation, Row]
Table = dict[Any, Row]
INSERT, BEFORE, AFTER, DELETE = Operation.INSERT, Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER, Operation.DELETE


def batch_of(images: Sequence[Image], definition: TableDefinition = TABLE) -> RowBatch:
    columns = list(zip(*(row for _, row in images), strict=True))
    arrays = [pa.array(values, c.arrow_type) for values, c in zip(columns, definition.columns, strict=True)]
    return RowBatch(
        definition,
        pa.array([op for op, _ in images], pa.uint8()),
        pa.array([0] * len(images), pa.uint32()),
        pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema),
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


def test_changes_are_counted_as_the_source_made_them() -> None:
    change = compact(TABLE, ("a",), [batch_of([(INSERT, A1), (BEFORE, A1), (AFTER, A1), (DELETE, A1), (INSERT, A2)])])
    assert change.counts == {"insert": 2, "update": 1, "delete": 1}


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
    operations = [INSERT, INSERT, INSERT, DELETE]
    plain = pa.array([*values, values[1]], pa.int64() if kind is ValueKind.TIMESTAMP else column.arrow_type)
    images = pa.RecordBatch.from_arrays([plain.cast(column.arrow_type)], schema=definition.arrow_schema)
    batch = RowBatch(definition, pa.array(operations, pa.uint8()), pa.array([0] * 4, pa.uint32()), images)
    change = compact(definition, ("k",), [batch])
    assert [s.to_pylist() for s in change.upserts] == [[0, 2]]
    assert [s.to_pylist() for s in change.deletes] == [[3]]
