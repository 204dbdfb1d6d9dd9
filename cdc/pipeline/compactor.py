"""The net effect of a run on one table, by key.

In stream order, an image that puts a row there (INSERT, UPDATE_AFTER) makes its key live, one that takes a row away
(DELETE, UPDATE_BEFORE) makes it gone. What is live at the end is upserted as its last image, what is only gone is
deleted. Deletes go first at the sink, so a key that moved, or came back spelled otherwise under the source's
collation ('a' to 'A'), ends right.

Works on Arrow columns and hands out row numbers: the compiled twin will hash the key bytes instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cdc.model import ChangeBatch, Operation, RowBatch, TableDefinition

__all__ = ["compact"]

_PUTS = (Operation.INSERT, Operation.UPDATE_AFTER)
_NAMES = {Operation.INSERT: "insert", Operation.UPDATE_AFTER: "update", Operation.DELETE: "delete"}


def compact(definition: TableDefinition, key: tuple[str, ...], batches: Sequence[RowBatch]) -> ChangeBatch:
    """Fold `batches` (one table, stream order) into one upsert or delete a key."""
    live: dict[Any, tuple[int, int]] = {}
    gone: dict[Any, tuple[int, int]] = {}
    counts: Counter[int] = Counter()
    for batch_index, batch in enumerate(batches):
        operations = batch.operation.to_pylist()
        for row, (operation, value) in enumerate(zip(operations, _key_values(batch, key), strict=True)):
            if operation in _PUTS:
                live[value] = (batch_index, row)
            else:
                live.pop(value, None)
                gone[value] = (batch_index, row)
        counts.update(operations)
    deletes = [place for value, place in gone.items() if value not in live]
    return ChangeBatch(
        definition=definition,
        key=key,
        batches=tuple(batches),
        upserts=_selections(list(live.values()), len(batches)),
        deletes=_selections(deletes, len(batches)),
        counts={_NAMES[Operation(op)]: n for op, n in counts.items() if op in _NAMES},
    )


def _key_values(batch: RowBatch, key: tuple[str, ...]) -> list[Any]:
    columns = []
    for name in key:
        column = batch.images.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())  # microseconds compare as well as datetimes, and are cheaper to make
        columns.append(column.to_pylist())
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _selections(places: list[tuple[int, int]], batch_count: int) -> tuple[pa.Int32Array, ...]:
    rows: list[list[int]] = [[] for _ in range(batch_count)]
    for batch_index, row in places:
        rows[batch_index].append(row)
    return tuple(pa.array(sorted(selected), type=pa.int32()) for selected in rows)
