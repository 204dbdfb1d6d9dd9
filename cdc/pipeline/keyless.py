"""The net effect of a run on a table without a key: a signed multiset of its rows.

Rows that are equal in all columns cannot be told apart, by nobody, so a run comes down to numbers: an image that puts a
row there (INSERT, UPDATE_AFTER) adds one of its kind, one that takes a row away (DELETE, UPDATE_BEFORE) takes one. What
comes to nothing is not touched at the sink. Of every row that is deleted on balance one equal row goes there; that it
is there is what an exact load and exactly-once see to (docs/decisions/0015).

Two images are of one kind here when the bits of their columns are the same. What a mask, a policy or a sink makes equal
besides is no matter: deletes go first at the sink, and what they take was there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition
from cdc.pipeline.compactor import OPERATION_NAMES
from cdc.pipeline.defaults import default_value
from cdc.pipeline.transform import Stamp, transformed_change
from cdc.schema.target import TargetTable

__all__ = ["keyless_change", "source_columns", "transformed_keyless", "whole_batches"]

_INSERT, _BEFORE, _AFTER, _DELETE = (int(operation) for operation in Operation)
_PUTS = frozenset({_INSERT, _AFTER})
_OPERATIONS = frozenset({_INSERT, _BEFORE, _AFTER, _DELETE})


def source_columns(target: TargetTable) -> frozenset[str]:
    """The columns of the source that the target has: those by which its rows are told apart."""
    return frozenset(c.name for c in target.definition.columns) & {c.source.name for c in target.columns}


# ---------------------------------------------------------------- images that lack columns


def whole_batches(batches: Sequence[RowBatch], target: TargetTable) -> Sequence[RowBatch]:
    """Batches whose images have all the columns that the target, or its filter, wants.

    What an UPDATE_AFTER lacks is what its UPDATE_BEFORE has, and what an INSERT lacks has its default. The servers log
    whole images of what was there where a table has no key, whatever `binlog_row_image` says.

    Raises UnsupportedData for an image of a row that was there which lacks a column all the same.
    """
    if all(batch.shape_index is None for batch in batches):
        return batches
    wanted = source_columns(target)
    if target.row_filter is not None:
        wanted = wanted.union(target.row_filter.columns)
    return [batch if batch.shape_index is None else _whole(batch, wanted) for batch in batches]


def _whole(batch: RowBatch, wanted: Collection[str]) -> RowBatch:
    shapes: list[int] = [] if batch.shape_index is None else batch.shape_index.to_pylist()
    arrays = [
        _whole_column(batch, column, shapes) if column.name in wanted else batch.images.column(column.name)
        for column in batch.definition.columns
    ]
    images = pa.RecordBatch.from_arrays(arrays, schema=batch.images.schema)
    return replace(batch, images=images, shape_index=None, shapes=())


def _whole_column(batch: RowBatch, column: ColumnDefinition, shapes: Sequence[int]) -> pa.Array:
    array = batch.images.column(column.name)
    lacking = {index for index, absent in enumerate(batch.shapes) if column.name in absent}
    if lacking.isdisjoint(shapes):
        return array
    # MariaDB logs no VIRTUAL column after an update, whether or not it is another value now.
    is_known = not (column.is_generated and batch.definition.flavor == "mariadb")
    takes = list(range(batch.row_count))
    has_default = False
    for row, (operation, shape) in enumerate(zip(batch.operation.to_pylist(), shapes, strict=True)):
        if shape not in lacking:
            continue
        if operation == _AFTER and is_known and row and shapes[row - 1] not in lacking:
            takes[row] = row - 1
        elif operation == _INSERT:
            takes[row] = batch.row_count
            has_default = True
        else:
            raise _incomplete(batch, column.name)
    if has_default:
        array = pa.concat_arrays([array, pa.repeat(default_value(batch.definition, column), 1)])
    return array.take(pa.array(takes, pa.int64()))


def _incomplete(batch: RowBatch, column: str) -> UnsupportedData:
    table = str(batch.definition.name)
    return UnsupportedData(
        f"{table}: the image of a changed row does not hold {column}, and a table without a key has nothing but whole "
        "rows to tell them apart by (binlog_row_image is not FULL in the writer's session)",
        table=table,
        column=column,
        hint="on the source: SET GLOBAL binlog_row_image=FULL and reconnect the writers; or name the columns that "
        f"identify a row in tables.overrides (primary_key); then run `cdc snapshot {table}`",
    )


# ---------------------------------------------------------------- the fold


def keyless_change(definition: TableDefinition, batches: Sequence[RowBatch], wanted: Collection[str]) -> ChangeBatch:
    """Fold `batches` (one table, stream order, whole images) into the rows that come and go on balance.

    Args:
        wanted: the columns by which rows are told apart; an update of nothing else is none.
    Raises:
        InvariantBroken: a batch is not what the model says, or has images that lack columns.
    """
    counts: Counter[int] = Counter()
    for batch in batches:
        _check(definition, batch)
        counts.update({entry["values"]: entry["counts"] for entry in pc.value_counts(batch.operation).to_pylist()})
    if not _OPERATIONS.issuperset(counts):
        raise InvariantBroken(f"images of {definition.name} with the operations {sorted(counts)}")
    if set(counts) <= {_INSERT}:  # nothing to balance, as in a table that is only ever appended to
        upserts = tuple(pa.array(range(batch.row_count), pa.int32()) for batch in batches)
        deletes = _selections([], [batch.row_count for batch in batches])
    else:
        upserts, deletes = _balance(definition, batches, wanted)
    return ChangeBatch(
        definition=definition,
        key=(),
        batches=tuple(batches),
        upserts=upserts,
        deletes=deletes,
        counts={name: counts[op] for op, name in OPERATION_NAMES.items() if counts[op]},
    )


def _check(definition: TableDefinition, batch: RowBatch) -> None:
    if batch.images.num_rows != batch.row_count:
        raise InvariantBroken(
            f"a batch of {definition.name} has {batch.images.num_rows} images and {batch.row_count} operations"
        )
    if batch.shape_index is not None:
        raise InvariantBroken(f"images of {definition.name} that lack columns are to be folded as whole ones")


def _balance(
    definition: TableDefinition, batches: Sequence[RowBatch], wanted: Collection[str]
) -> tuple[tuple[pa.Int32Array, ...], tuple[pa.Int32Array, ...]]:
    """Which images come and which go on balance. A dictionary with an entry a kind of row, a step an image."""
    names = [column.name for column in definition.columns if column.name in wanted]
    # By kind of row, images not balanced yet: those that put one there by their number, those that take one by ~number.
    left: dict[Any, list[int]] = {}
    at = 0
    for batch in batches:
        for operation, row in zip(batch.operation.to_pylist(), _row_values(batch, names), strict=True):
            is_put = operation in _PUTS
            pending = left.setdefault(row, [])
            if pending and (pending[-1] < 0) == is_put:
                pending.pop()
            else:
                pending.append(at if is_put else ~at)
            at += 1
    sizes = [batch.row_count for batch in batches]
    places = [place for pending in left.values() for place in pending]
    return (
        _selections([place for place in places if place >= 0], sizes),
        _selections([~place for place in places if place < 0], sizes),
    )


def _row_values(batch: RowBatch, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Each image's values, as a tuple that is equal to another one where their bits are."""
    if not names:
        return [()] * batch.row_count
    return list(zip(*(_bits(batch.images.column(name)) for name in names), strict=True))


def _bits(array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(array.type) or pa.types.is_float64(array.type):
        array = array.view(pa.int64())  # 0.0 equals -0.0
    elif pa.types.is_float32(array.type):
        array = array.view(pa.int32())
    elif pa.types.is_large_string(array.type):
        array = array.view(pa.large_binary())  # which need not be UTF-8
    values: list[Any] = array.to_pylist()
    return values


def _selections(places: list[int], sizes: Sequence[int]) -> tuple[pa.Int32Array, ...]:
    """Row numbers in each batch, of numbers over all of them."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    rows: list[list[int]] = [[] for _ in sizes]
    for place in sorted(places):
        index = bisect_right(ends, place) - 1
        rows[index].append(place - ends[index])
    return tuple(pa.array(selected, pa.int32()) for selected in rows)


# ---------------------------------------------------------------- towards the target


def transformed_keyless(change: ChangeBatch, target: TargetTable, stamp: Stamp) -> ChangeBatch:
    """A change as the target takes it: of rows that go, too, every value counts, and is masked as it was when it came.

    Metadata columns are of the rows that come: by these no row is told from another. Raises UnsupportedData.
    """
    none = tuple(pa.array([], pa.int32()) for _ in change.batches)
    there = transformed_change(replace(change, deletes=none), target, stamp)
    gone = transformed_change(replace(change, upserts=change.deletes, deletes=none), target.without_metadata())
    return replace(
        change,
        batches=(*there.batches, *gone.batches),
        upserts=(*there.upserts, *none),
        deletes=(*none, *gone.upserts),
    )
