"""What becomes of changes in tables that keep what was: rows marked as deleted, changes as rows, versions (`Mode`).

    soft_delete   changes are folded as usual; what is gone is written as its last image, with the mark, before what is
                  there is written
    append_only   nothing is folded: an image is a row, numbered in the order of the stream
    history       nothing is folded: each image ends the current version of its key, and begins one if it puts a row
                  there. What begins and ends within a run is inserted ended; what was current before is ended there

Numbers and times go on from the table's mark in the metadata, which commits with the rows: applied again after a crash,
a change gets the same. Times are commit times that never go back, so that no two versions of a key overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import SinkRefused, UnsupportedData
from cdc.model import ChangeBatch, Operation, RowBatch, TableName
from cdc.pipeline.tables import TableRegistry
from cdc.pipeline.transform import Stamp, change_times, transformed_images
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks import versions
from cdc.sinks.base import ApplyResult, Sink, SinkTransaction
from checkpoints.marks import Mark, MarkStore
from checkpoints.store import InSinkStore

__all__ = ["KeptRows", "LoadWriter", "hint_at_kept_rows", "soft_deleted"]

_TIME = pa.timestamp("us", tz="UTC")
_SEQUENCE, _VALID_FROM, _VALID_TO = "(sequence)", "(valid_from)", "(valid_to)"


# ---------------------------------------------------------------- soft delete


def soft_deleted(change: ChangeBatch, target: TargetTable) -> Iterator[tuple[ChangeBatch, bool]]:
    """The changes that this one becomes, in order, and whether they are of rows that are gone; itself in other modes.

    Rows that are gone come first: to the sink their keys may be those of rows that are there ('a' and 'A').
    """
    if target.mode != "soft_delete":
        yield change, False
        return
    nothing = tuple(pa.array([], pa.int32()) for _ in change.batches)
    if change.delete_count:
        counts = {"delete": change.delete_count}
        yield replace(change, upserts=change.deletes, deletes=nothing, counts=counts), True
    if change.upsert_count:
        yield replace(change, deletes=nothing), False


def hint_at_kept_rows(error: UnsupportedData, sink: Sink, tables: TableRegistry) -> None:
    """Say what is behind a row that the sink has already, where rows that are gone are kept."""
    if not isinstance(error, SinkRefused) or not sink.has_lost_race(error):
        return
    for name in tables.captured():
        mode = tables.options(name).mode
        if str(name) == error.table and mode != "mirror":
            error.hint = (
                f"rows that are gone are kept (mode: {mode}): drop the unique index that refuses the row, or take such "
                f"rows out of it (on PostgreSQL by its WHERE); then load the table again: cdc snapshot {name}"
            )


# ---------------------------------------------------------------- numbers and times


@dataclass(slots=True)
class _Marks:
    """The marks of the tables, as the open transaction of the sink has them."""

    store: MarkStore
    committed: dict[TableName, Mark] = field(default_factory=dict)
    open: dict[TableName, Mark] = field(default_factory=dict)
    is_new: set[TableName] = field(default_factory=set)

    def read(self, tx: SinkTransaction, target: TargetTable, kind: SinkKind) -> Mark:
        name = target.definition.name
        mark = self.open.get(name) or self.committed.get(name)
        if mark is None:
            mark = self.store.read(tx, name)
            if mark is None:  # of a target that has rows already, whoever wrote them
                ((highest,),) = tx.execute(versions.highest_sequence(target, kind))
                mark = Mark(int(highest or 0))
                self.is_new.add(name)
        return mark

    def put(self, tx: SinkTransaction, target: TargetTable, mark: Mark) -> None:
        name = target.definition.name
        self.store.put(tx, name, mark, is_new=name in self.is_new)
        self.is_new.discard(name)
        self.open[name] = mark

    def settle(self) -> None:
        self.committed |= self.open
        self.open.clear()

    def undo(self) -> None:
        self.open.clear()
        self.is_new.clear()


class KeptRows:
    """Changes of append-only and history tables into one sink, in the applier's open transaction."""

    def __init__(self, sink: Sink, store: InSinkStore) -> None:
        self._sink = sink
        self._marks = _Marks(MarkStore(store))

    def committed(self) -> None:
        """The sink's transaction is durable."""
        self._marks.settle()

    def rolled_back(self) -> None:
        """It is not, and nothing of it counts."""
        self._marks.undo()

    def apply(self, tx: SinkTransaction, target: TargetTable, batches: Sequence[RowBatch], stamp: Stamp) -> ApplyResult:
        """Put images of one table, in stream order, into its target.

        Raises SinkRefused, UnsupportedData.
        """
        if not batches:
            return ApplyResult()
        mark = self._marks.read(tx, target, self._sink.kind)
        way = self._append if target.mode == "append_only" else self._version
        mark, result = way(tx, target, batches, stamp, mark)
        result.deleted = sum(pc.sum(pc.equal(batch.operation, int(Operation.DELETE))).as_py() for batch in batches)
        self._marks.put(tx, target, mark)
        return result

    def _append(
        self, tx: SinkTransaction, target: TargetTable, batches: Sequence[RowBatch], stamp: Stamp, mark: Mark
    ) -> tuple[Mark, ApplyResult]:
        total = ApplyResult()
        for batch in batches:
            changes = _as_changes(batch, target.source_key)
            if changes.row_count:
                rows = transformed_images(changes, target, stamp)
                _add(total, tx.load(_numbered(rows, mark.sequence), target))
                mark = replace(mark, sequence=mark.sequence + rows.num_rows)
        return mark, total

    def _version(
        self, tx: SinkTransaction, target: TargetTable, batches: Sequence[RowBatch], stamp: Stamp, mark: Mark
    ) -> tuple[Mark, ApplyResult]:
        assert stamp.run is not None, "the stream's rows are those of a run"
        run = stamp.run
        times = pa.concat_arrays([change_times(run, batch) for batch in batches])
        times = pc.cumulative_max(pc.max_element_wise(times, mark.time_us))
        keys = [pa.concat_arrays([batch.images.column(name) for batch in batches]) for name in target.source_key]
        is_first, following = _chained(keys)
        ends = times.take(following).cast(_TIME)
        starts = times.cast(_TIME)
        ended = [array.filter(is_first) for array in (*keys, starts)]
        tx.end_versions(pa.RecordBatch.from_arrays(ended, names=[*target.source_key, _VALID_TO]), target)
        total = ApplyResult()
        at, sequence = 0, mark.sequence
        for batch in batches:
            begun = pc.is_in(batch.operation, value_set=_PUTS)
            rows = _of(batch, begun)
            if rows.row_count:
                span = (at, batch.row_count)
                images = transformed_images(rows, target, stamp)
                images = images.append_column(_VALID_FROM, starts.slice(*span).filter(begun))
                images = images.append_column(_VALID_TO, ends.slice(*span).filter(begun))
                _add(total, tx.load(_numbered(images, sequence), target))
                sequence += rows.row_count
            at += batch.row_count
        return Mark(sequence, times[-1].as_py()), total


_PUTS = pa.array([int(Operation.INSERT), int(Operation.UPDATE_AFTER)], pa.uint8())


def _numbered(rows: pa.RecordBatch, after: int) -> pa.RecordBatch:
    numbers = pa.array(range(after + 1, after + 1 + rows.num_rows), pa.int64())
    return rows.append_column(_SEQUENCE, numbers)


def _add(total: ApplyResult, more: ApplyResult) -> None:
    total.upserted += more.upserted
    total.policy_changes.update(more.policy_changes)


def _of(batch: RowBatch, mask: pa.BooleanArray, operation: pa.UInt8Array | None = None) -> RowBatch:
    """The masked images of a batch."""
    return replace(
        batch,
        operation=(batch.operation if operation is None else operation).filter(mask),
        transaction_index=batch.transaction_index.filter(mask),
        images=batch.images.filter(mask),
        shape_index=None,
        shapes=(),
    )


def _as_changes(batch: RowBatch, key: tuple[str, ...]) -> RowBatch:
    """An image a change: an UPDATE as its image after, and one that moves a key as a DELETE and an INSERT."""
    operation = batch.operation
    is_before = pc.equal(operation, int(Operation.UPDATE_BEFORE))
    is_after = pc.equal(operation, int(Operation.UPDATE_AFTER))
    # Whether the next image, which is that after the UPDATE, has another key; and whether the one before has.
    edge = pa.array([False])
    differs = pc.invert(_equal_to_next([batch.images.column(name) for name in key], batch.row_count))
    moves = pc.and_(is_before, pa.concat_arrays([differs, edge]))
    moved = pc.and_(is_after, pa.concat_arrays([edge, moves[:-1]]))
    operation = pc.if_else(moves, pa.scalar(int(Operation.DELETE), pa.uint8()), operation)
    operation = pc.if_else(moved, pa.scalar(int(Operation.INSERT), pa.uint8()), operation)
    return _of(batch, pc.or_(pc.invert(is_before), moves), operation)


def _chained(keys: Sequence[pa.Array]) -> tuple[pa.BooleanArray, pa.Int64Array]:
    """Of each image: is it the first one of its key; and the number of the next one of its key, NULL for the last."""
    count = len(keys[0])
    names = [f"k{index}" for index in range(len(keys))]
    bits = [_bits(array) for array in keys]
    table = pa.table([*bits, pa.array(range(count), pa.int64())], names=[*names, "n"])
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in (*names, "n")]).cast(pa.int64())
    same = _equal_to_next([array.take(order) for array in bits], count)
    edge = pa.array([False])
    place = pc.sort_indices(order)
    is_first = pc.invert(pa.concat_arrays([edge, same])).take(place)
    behind = pa.concat_arrays([order[1:], pa.nulls(1, pa.int64())])
    following = pc.if_else(pa.concat_arrays([same, edge]), behind, pa.scalar(None, pa.int64())).take(place)
    return is_first, following


def _equal_to_next(arrays: Sequence[pa.Array], count: int) -> pa.BooleanArray:
    """Does each of `count` rows, but for the last one, have the same values as the next one? NULL is a value."""
    found = pa.repeat(True, count - 1)
    for array in map(_bits, arrays):
        one, other = array[:-1], array[1:]
        same = pc.fill_null(pc.equal(one, other), False)
        found = pc.and_(found, pc.or_(same, pc.and_(one.is_null(), other.is_null())))
    return found


def _bits(array: pa.Array) -> pa.Array:
    """-0.0 and 0.0 are two keys, as they are where changes are folded."""
    if pa.types.is_float64(array.type):
        return array.view(pa.int64())
    return array.view(pa.int32()) if pa.types.is_float32(array.type) else array


# ---------------------------------------------------------------- loads


class LoadWriter:
    """Puts a load's rows into a target that keeps what was (`snapshot.loader.RowWriter`)."""

    def __init__(self, sink: Sink, store: InSinkStore, target: TargetTable, time_us: int) -> None:
        self._kind = sink.kind
        self._marks = _Marks(MarkStore(store))
        self._target = target
        self._time_us = time_us
        self._is_reload = False
        self._before = Mark()

    def begin(self, tx: SinkTransaction) -> None:
        """The target may hold rows: they are kept."""
        target, self._is_reload = self._target, True
        if target.mode == "soft_delete":
            tx.execute_count(versions.mark_all_deleted(target, self._kind, self._time_us))
        else:
            self._before = self._marks.read(tx, target, self._kind)
            if target.mode == "append_only" and self._before.sequence:
                self._write(tx, _marker(target, self._time_us), self._before)

    def put(self, tx: SinkTransaction, rows: pa.RecordBatch) -> ApplyResult:
        """Rows as the target takes them (`transformed_rows`)."""
        target = self._target
        if target.is_numbered:
            return self._write(tx, rows, self._marks.read(tx, target, self._kind))
        if target.mode == "soft_delete" and self._is_reload:
            return tx.apply(_upserts(rows, target), target)
        return tx.load(rows, target)

    def end(self, tx: SinkTransaction) -> None:
        """All the rows are there."""
        target, kind, sequence = self._target, self._kind, self._before.sequence
        if target.mode == "history":
            tx.execute_count(versions.close_changed(target, kind, sequence, self._time(self._before)))
            tx.execute_count(versions.drop_unchanged(target, kind, sequence))

    def _time(self, mark: Mark) -> int:
        return max(self._time_us, mark.time_us)

    def _write(self, tx: SinkTransaction, rows: pa.RecordBatch, mark: Mark) -> ApplyResult:
        time_us = self._time(mark)
        if self._target.mode == "history":
            times = pa.repeat(pa.scalar(time_us, pa.int64()), rows.num_rows).cast(_TIME)
            rows = rows.append_column(_VALID_FROM, times).append_column(_VALID_TO, pa.nulls(rows.num_rows, _TIME))
        result = tx.load(_numbered(rows, mark.sequence), self._target)
        self._marks.put(tx, self._target, Mark(mark.sequence + rows.num_rows, time_us))
        return result


def _marker(target: TargetTable, time_us: int) -> pa.RecordBatch:
    """One row that says that a load follows, and that nothing counts any more that stands before it."""
    arrays: dict[str, Any] = {}
    for column in target.columns:
        kind, arrow = column.metadata, column.source.arrow_type
        if kind == "change_time":
            arrays[column.source.name] = pa.array([time_us], pa.int64()).cast(_TIME)
        elif kind in ("operation", "change_operation"):
            arrays[column.source.name] = pa.array(["reload"], pa.large_string())
        elif kind != "sequence":
            arrays[column.source.name] = pa.nulls(1, arrow)
    return pa.RecordBatch.from_pydict(arrays)


def _upserts(rows: pa.RecordBatch, target: TargetTable) -> ChangeBatch:
    count = rows.num_rows
    batch = RowBatch(
        definition=target.definition,
        operation=pa.repeat(pa.scalar(int(Operation.INSERT), pa.uint8()), count),
        transaction_index=pa.repeat(pa.scalar(0, pa.uint32()), count),
        images=rows,
    )
    return ChangeBatch(
        definition=target.definition,
        key=target.source_key,
        batches=(batch,),
        upserts=(pa.array(range(count), pa.int32()),),
        deletes=(pa.array([], pa.int32()),),
        counts={"update": count},
    )
