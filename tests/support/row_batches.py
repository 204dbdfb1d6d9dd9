"""Are two batches the same, to the last bit?"""

from __future__ import annotations

import pyarrow as pa

from cdc.model import RowBatch

__all__ = ["assert_same_batch", "bits"]


def bits(array: pa.Array) -> pa.Array:
    """Floats by their bits: 0.0 equals -0.0."""
    if pa.types.is_float64(array.type):
        return array.view(pa.int64())
    if pa.types.is_float32(array.type):
        return array.view(pa.int32())
    return array


def assert_same_batch(one: RowBatch, other: RowBatch) -> None:
    """They say the same of the same table; and both are what Arrow calls valid."""
    assert one.definition == other.definition
    assert one.images.schema == other.images.schema
    one.images.validate(full=True)
    other.images.validate(full=True)
    assert one.images.num_rows == other.images.num_rows == one.row_count == other.row_count
    for name, left, right in zip(one.images.schema.names, one.images.columns, other.images.columns, strict=True):
        assert left.null_count == right.null_count, name
        assert bits(left).equals(bits(right)), f"{name}: {left} {right}"
    assert one.operation.equals(other.operation)
    assert one.transaction_index.equals(other.transaction_index)
    assert one.shapes == other.shapes
    assert (one.shape_index is None) == (other.shape_index is None)
    if one.shape_index is not None:
        assert one.shape_index.equals(other.shape_index)
