"""What rows events of a parent say of the values that foreign keys refer to.

Rows in, the old and new values out; what follows from them is another's to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import UnsupportedData
from cdc.model import Operation, RowBatch, TableName

__all__ = ["parent_rows"]


def parent_rows(batch: RowBatch, columns: Mapping[str, TableName]) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
    """Those columns of the rows of one event, before and after: only of rows where one has changed.

    None after: they are deleted. Raises UnsupportedData, for the table that `columns` names beside it, where an image
    lacks a column that has to be known.
    """
    images = batch.images.select(list(columns))
    is_before = pc.not_equal(batch.operation, int(Operation.UPDATE_AFTER))
    is_update = pc.all(pc.equal(batch.operation, int(Operation.DELETE))).as_py() is False
    if batch.shape_index is not None:
        images = _completed(batch, images, columns, is_update=is_update)
    old = images.filter(is_before)
    if not is_update:
        return old, None
    new = images.filter(pc.invert(is_before))
    if old.equals(new):
        return old.slice(0, 0), new.slice(0, 0)
    changed: Any = pa.repeat(False, old.num_rows)
    for before, after in zip(old.columns, new.columns, strict=True):
        same = pc.fill_null(pc.equal(before, after), False)
        same = pc.or_(same, pc.and_(before.is_null(), after.is_null()))
        changed = pc.or_(changed, pc.invert(same))
    return old.filter(changed), new.filter(changed)


def _completed(
    batch: RowBatch, images: pa.RecordBatch, children: Mapping[str, TableName], *, is_update: bool
) -> pa.RecordBatch:
    """What an image after an UPDATE lacks is as it was before."""
    assert batch.shape_index is not None
    shapes = [batch.shapes[index] for index in batch.shape_index.to_pylist()]
    columns = []
    for name, array in zip(images.schema.names, images.columns, strict=True):
        values = array.to_pylist()
        for row, shape in enumerate(shapes):  # of events with images that lack columns only
            if name not in shape:
                continue
            is_after = is_update and row % 2 == 1
            if is_after:
                values[row] = values[row - 1]  # known by now, or looked at below
            elif not is_update or name not in shapes[row + 1]:
                raise _unknown(batch, name, children[name])
        columns.append(pa.array(values, array.type))
    return pa.RecordBatch.from_arrays(columns, schema=images.schema)


def _unknown(batch: RowBatch, column: str, child: TableName) -> UnsupportedData:
    return UnsupportedData(
        f"{child}: an image of a row of {batch.definition.name} that was deleted or changed lacks {column}, which a "
        "foreign key refers to (binlog_row_image is MINIMAL or NOBLOB in the writer's session)",
        table=str(child),
        hint=f"on the source: SET GLOBAL binlog_row_image=FULL, reconnect the writers, then run `cdc snapshot {child}`",
    )
