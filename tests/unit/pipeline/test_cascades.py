"""Images and cascades of a run, put together for the sink, come out as if they had been done one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.model import Cascade, Operation, RowBatch, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.pipeline.cascades import provable, stages
from cdc.source.cascades import CascadeGraph, ForeignKey
from tests.unit.sinks.builders import column, rows_of, target_of

PARENT, CHILD = TableName("shop", "parent"), TableName("shop", "child")
COLUMNS = tuple(column(name, ValueKind.INTEGER, "int", length=32) for name in ("id", "parent"))
DEFINITION = TableDefinition(CHILD, COLUMNS, ("id",))


def _key(child: TableName, parent: TableName, column: str) -> ForeignKey:
    return ForeignKey(child, "fk", str(parent), "CASCADE", "CASCADE", parent, (column,), ("id",))


GRAPH = CascadeGraph([_key(CHILD, PARENT, "parent")])
REFERRED_TO = CascadeGraph([*GRAPH.keys, _key(TableName("shop", "grandchild"), CHILD, "child")])


@dataclass(frozen=True)
class Put:
    """A row of the child, as it is then."""

    row: int
    parent: int


@dataclass(frozen=True)
class Gone:
    row: int


@dataclass(frozen=True)
class Parent:
    """A row of the parent goes, or has another key."""

    old: int
    new: int | None


ids, parents = st.integers(1, 5), st.integers(1, 3)
steps = st.one_of(
    st.builds(Put, ids, parents), st.builds(Gone, ids), st.builds(Parent, parents, st.one_of(st.none(), parents))
)


def _cascaded(rows: dict[int, int], step: Parent) -> dict[int, int]:
    if step.new is None:
        return {row: parent for row, parent in rows.items() if parent != step.old}
    return {row: step.new if parent == step.old else parent for row, parent in rows.items()}


def _serial(before: dict[int, int], story: Sequence[Any]) -> tuple[dict[int, int], list[RowBatch], list[Cascade]]:
    """One by one; and the images and cascades that a source would log of it, a batch for each two images."""
    rows, images, cascades = dict(before), list[tuple[Operation, int, int]](), list[Cascade]()
    for step in story:
        if isinstance(step, Parent):
            if step.old == step.new:
                continue
            old, new = (pa.record_batch({"id": [value]}) for value in (step.old, step.new))
            cascades.append(Cascade(PARENT, old, None if step.new is None else new, {CHILD: len(images)}))
            rows = _cascaded(rows, step)
        elif isinstance(step, Put):
            if step.row in rows:
                images.append((Operation.UPDATE_BEFORE, step.row, rows[step.row]))
                images.append((Operation.UPDATE_AFTER, step.row, step.parent))
            else:
                images.append((Operation.INSERT, step.row, step.parent))
            rows[step.row] = step.parent
        elif step.row in rows:
            images.append((Operation.DELETE, step.row, rows.pop(step.row)))
    return rows, [_batch(images[at : at + 2]) for at in range(0, len(images), 2)], cascades


def _batch(images: Sequence[tuple[Operation, int, int]]) -> RowBatch:
    return RowBatch(
        definition=DEFINITION,
        operation=pa.array([int(operation) for operation, _, _ in images], pa.uint8()),
        transaction_index=pa.repeat(pa.scalar(0, pa.uint32()), len(images)),
        images=rows_of(DEFINITION, [image[1:] for image in images]),
    )


def _folded(rows: dict[int, int], batches: Sequence[RowBatch]) -> dict[int, int]:
    """What a sink makes of images in one call: of each key the last one."""
    for batch in batches:
        for operation, row, parent in zip(
            batch.operation.to_pylist(), *(array.to_pylist() for array in batch.images.columns), strict=True
        ):
            rows.pop(row, None)
            if operation in (Operation.INSERT, Operation.UPDATE_AFTER):
                rows[row] = parent
    return rows


@pytest.mark.parametrize("graph", [GRAPH, REFERRED_TO], ids=["leaf", "between"])
@given(before=st.dictionaries(ids, parents), story=st.lists(steps, max_size=12))
def test_stages_come_out_as_one_by_one(graph: CascadeGraph, before: dict[int, int], story: list[Any]) -> None:
    expected, batches, cascades = _serial(before, story)
    rows, done = dict(before), list[Cascade]()
    for some, waiting in stages({CHILD: batches}, cascades, graph):
        rows = _folded(rows, some.get(CHILD, ()))
        for cascade in waiting:
            new = cascade.new.column(0)[0].as_py() if cascade.new is not None else None
            rows = _cascaded(rows, Parent(cascade.old.column(0)[0].as_py(), new))
        done += waiting
    assert rows == expected
    assert done == cascades


def test_deletes_of_parents_without_new_rows_between_are_one_stage() -> None:
    story = [Put(1, 1), Put(2, 2), Parent(1, None), Gone(2), Parent(2, None), Parent(3, None)]
    _, batches, cascades = _serial({}, story)
    assert len(list(stages({CHILD: batches}, cascades, GRAPH))) == 1


def test_rows_that_refer_to_others_part_nothing_but_where_others_refer_to_them() -> None:
    story = [Put(1, 1), Parent(1, None), Put(2, 2), Put(3, 3), Parent(4, None), Put(4, 5)]
    _, batches, cascades = _serial({}, story)
    assert len(list(stages({CHILD: batches}, cascades, GRAPH))) == 1
    assert len(list(stages({CHILD: batches}, cascades, REFERRED_TO))) == 3
    unique = replace(DEFINITION, unique_keys=(UniqueKey("u", ("parent",)),))
    batches = [replace(batch, definition=unique) for batch in batches]
    assert len(list(stages({CHILD: batches}, cascades, GRAPH))) == 3


def test_tables_that_no_cascade_is_about_are_applied_once() -> None:
    story = [Put(1, 1), Parent(1, None), Put(1, 1), Parent(1, None), Put(2, 2)]
    _, batches, cascades = _serial({}, story)
    other = TableName("shop", "other")
    found = [rows.get(other) for rows, _ in stages({CHILD: batches, other: batches}, cascades, GRAPH)]
    assert [rows for rows in found if rows] == [batches]


def _rule(name: str, on_delete: str = "CASCADE", on_update: str = "RESTRICT") -> ForeignKey:
    """`child.columns>parent.referenced`, as in `g.p,n>i.p,n`."""
    ends = [end.split(".") for end in name.split(">")]
    (child, mine), (parent, theirs) = ((TableName("shop", table), tuple(names.split(","))) for table, names in ends)
    return ForeignKey(child, name, str(parent), on_delete, on_update, parent, mine, theirs)


@pytest.mark.parametrize(
    "keys, refused",
    [
        pytest.param([_rule("g.p>p.id"), _rule("i.p>p.id"), _rule("g.p,n>i.p,n")], set(), id="rows only go"),
        pytest.param([_rule("g.p>p.id", "SET NULL"), _rule("g.n>p.id", "SET NULL", "CASCADE")], set(), id="apart"),
        pytest.param([_rule("g.p>p.id"), _rule("i.p>p.id"), _rule("g.n>i.id", "SET NULL")], set(), id="apart, below"),
        pytest.param(
            [_rule("g.p>p.id", "SET NULL"), _rule("i.p>p.id"), _rule("g.p,n>i.p,n", "SET NULL")],
            {"g"},
            id="a column of both",
        ),
        pytest.param(
            [_rule("g.p>p.id", "SET NULL"), _rule("i.p>p.id"), _rule("g.p,n>i.p,n"), _rule("h.p>g.id")],
            {"g", "h"},
            id="a column of both, one deletes, and what hangs on it",
        ),
        pytest.param(
            [
                _rule("i.p>p.id"),
                _rule("g.n>i.id"),
                _rule("g.p>p.id", "SET NULL"),
                _rule("h.p>g.p", "CASCADE", "CASCADE"),
            ],
            {"g", "h"},
            id="others refer to what is set",
        ),
        pytest.param([_rule("g.p>p.id", "SET NULL"), _rule("g.p,n>i.p,n")], set(), id="of two roots"),
    ],
)
def test_what_is_reached_in_two_ways_is_applied_where_no_order_matters(
    keys: list[ForeignKey], refused: set[str]
) -> None:
    columns = tuple(column(name, ValueKind.INTEGER, "int", length=32) for name in ("id", "p", "n"))
    definitions = {table: TableDefinition(table, columns, ("id",)) for table in _tables(keys)}
    found = provable(
        keys,
        target=lambda table: target_of(definitions[table]),
        definition=definitions.get,
        is_alone=lambda _table: True,
        is_asked=lambda _table: True,
    )
    assert {table.table for table in found.refused} == refused
    assert {key.table.table for key in found.graph.keys} == {key.table.table for key in keys} - refused


def _tables(keys: Sequence[ForeignKey]) -> set[TableName]:
    return {table for key in keys for table in (key.table, key.parent_table)}
