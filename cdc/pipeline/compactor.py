"""The net effect of a run on one table, by key.

In stream order, an image that puts a row there (INSERT, UPDATE_AFTER) makes its key live, one that takes a row away
(DELETE, UPDATE_BEFORE) makes it gone. What is live at the end is upserted as its last image, what is only gone is
deleted. Deletes go first at the sink, so a key that moved, or came back spelled otherwise under the source's
collation ('a' to 'A'), ends right.

A key is the bits of its columns, not what some server takes for equal. -0.0 and 0.0 are one key to all of them, as 'a'
and 'A' are to some; told apart here, the old spelling is deleted before the new one is upserted, and the sink holds the
new one. NULL is a value of its own.

A row whose key's first image is an INSERT is new: where the sink is as the source was before the run, it has no such
row. (It may have it after all: on a replay, or while it catches up with a load.)

The work is done in kernel/compact.pyx. `compact_in_python` is its twin: it does what the kernel leaves, and says what
is wrong with what the kernel refuses.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cdc.errors import InvariantBroken
from cdc.model import ChangeBatch, Operation, RowBatch, TableDefinition
from cdc.pipeline.kernel.compact import SEED_BYTES, last_images

__all__ = ["OPERATION_NAMES", "check_batches", "compact", "compact_in_python", "key_values"]

_PUTS = (Operation.INSERT, Operation.UPDATE_AFTER)
OPERATION_NAMES = {Operation.INSERT: "insert", Operation.UPDATE_AFTER: "update", Operation.DELETE: "delete"}


def compact(
    definition: TableDefinition, key: tuple[str, ...], batches: Sequence[RowBatch], *, seed: bytes | None = None
) -> ChangeBatch:
    """Fold `batches` (one table, stream order) into one upsert or delete a key.

    Args:
        key: columns that tell the table's rows apart; at least one.
        seed: of the hash, SEED_BYTES long; None for a new one, so that no writer can choose keys that meet.
    Raises:
        InvariantBroken: there is no key, a batch is not what the model says, or it has images that lack columns (an
            upsert would write NULL into these: they are for `partial.net_changes`).
    """
    _check(definition, key, batches)
    columns = [(batch.operation, [batch.images.column(name) for name in key]) for batch in batches]
    found = last_images(columns, os.urandom(SEED_BYTES) if seed is None else seed)
    if found is None:
        return compact_in_python(definition, key, batches)
    upserts, inserts, deletes, counts = found
    return ChangeBatch(
        definition=definition,
        key=key,
        batches=tuple(batches),
        upserts=upserts,
        inserts=inserts,
        deletes=deletes,
        counts={name: count for name, count in zip(OPERATION_NAMES.values(), counts, strict=True) if count},
    )


def compact_in_python(definition: TableDefinition, key: tuple[str, ...], batches: Sequence[RowBatch]) -> ChangeBatch:
    """As `compact`, with a dictionary; for key columns of every type that Arrow can make Python values of."""
    _check(definition, key, batches)
    live: dict[Any, tuple[int, int]] = {}
    gone: dict[Any, tuple[int, int]] = {}
    first: dict[Any, int] = {}
    counts: Counter[int] = Counter()
    for batch_index, batch in enumerate(batches):
        operations = batch.operation.to_pylist()
        values = key_values(definition, key, [batch.images.column(name) for name in key])
        for row, (operation, value) in enumerate(zip(operations, values, strict=True)):
            first.setdefault(value, operation)
            if operation in _PUTS:
                live[value] = (batch_index, row)
            else:
                live.pop(value, None)
                gone[value] = (batch_index, row)
        counts.update(operations)
    unknown = [operation for operation in counts if operation not in list(Operation)]
    if unknown:
        raise InvariantBroken(f"images of {definition.name} with the operations {unknown}")
    inserts = [place for value, place in live.items() if first[value] == Operation.INSERT]
    deletes = [place for value, place in gone.items() if value not in live]
    return ChangeBatch(
        definition=definition,
        key=key,
        batches=tuple(batches),
        upserts=_selections(list(live.values()), len(batches)),
        inserts=_selections(inserts, len(batches)),
        deletes=_selections(deletes, len(batches)),
        counts={OPERATION_NAMES[Operation(op)]: n for op, n in counts.items() if op in OPERATION_NAMES},
    )


def _check(definition: TableDefinition, key: tuple[str, ...], batches: Sequence[RowBatch]) -> None:
    check_batches(definition, key, batches)
    if any(batch.shape_index is not None for batch in batches):
        raise InvariantBroken(f"images of {definition.name} that lack columns are to be folded as whole ones")


def check_batches(definition: TableDefinition, key: tuple[str, ...], batches: Sequence[RowBatch]) -> None:
    """Raises InvariantBroken where there is no key, or an operation without its image."""
    if not key:
        raise InvariantBroken(f"the changes of {definition.name} are to be folded without a key")
    for batch in batches:
        if batch.images.num_rows != batch.row_count:
            raise InvariantBroken(
                f"a batch of {definition.name} has {batch.images.num_rows} images and {batch.row_count} operations"
            )


def key_values(definition: TableDefinition, key: tuple[str, ...], arrays: Sequence[pa.Array]) -> list[Any]:
    """The keys of a batch's images, of their columns' arrays: values that are equal where their bits are."""
    columns = []
    for name, array in zip(key, arrays, strict=True):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InvariantBroken(f"column {name} of a batch of {definition.name}: {error}") from error
        if pa.types.is_timestamp(array.type):
            array = array.cast(pa.int64())  # microseconds compare as well as datetimes, and are cheaper to make
        elif pa.types.is_float64(array.type):
            array = array.view(pa.int64())
        elif pa.types.is_float32(array.type):
            array = array.view(pa.int32())
        columns.append(array.to_pylist())
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _selections(places: list[tuple[int, int]], batch_count: int) -> tuple[pa.Int32Array, ...]:
    rows: list[list[int]] = [[] for _ in range(batch_count)]
    for batch_index, row in places:
        rows[batch_index].append(row)
    return tuple(pa.array(sorted(selected), type=pa.int32()) for selected in rows)
