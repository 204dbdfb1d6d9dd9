"""The source column of a target that several tables share: the table's own constant, in every row and every key.

It stands in the images of deletes and before images as well, so that a sink finds a row of that table and of no other.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from cdc.model import ChangeBatch, PartialUpdate
from cdc.schema.mapping import SOURCE_COLUMN
from cdc.schema.target import TargetTable

__all__ = ["sourced", "sourced_change"]


def sourced(rows: pa.RecordBatch, target: TargetTable) -> pa.RecordBatch:
    """`rows`, with the value of the target's source column in each, where it has one."""
    if target.source_column is None:
        return rows
    value = pa.scalar(target.source_column.value, pa.large_string())
    return rows.append_column(SOURCE_COLUMN, pa.repeat(value, rows.num_rows))


def sourced_change(change: ChangeBatch, target: TargetTable) -> ChangeBatch:
    """A change whose images, old keys included, all have it."""
    if target.source_column is None:
        return change
    return replace(
        change,
        batches=tuple(replace(batch, images=sourced(batch.images, target)) for batch in change.batches),
        updates=tuple(_sourced_update(update, target) for update in change.updates),
    )


def _sourced_update(update: PartialUpdate, target: TargetTable) -> PartialUpdate:
    old_keys = None if update.old_keys is None else sourced(update.old_keys, target)
    return replace(update, images=sourced(update.images, target), old_keys=old_keys)
