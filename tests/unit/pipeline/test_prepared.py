"""What is kept of a prepared XA transaction is what was read: every type, every shape, any damage an error."""

from __future__ import annotations

import datetime as dt
import decimal
from dataclasses import replace

import pyarrow as pa
import pytest

from cdc.errors import ResyncRequired
from cdc.model import ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.prepared import decode_batches, encode_batches

# `operation` and `shape_index` are names that a table's columns may have, too.
COLUMNS = (
    ColumnDefinition("operation", ValueKind.INTEGER, "int(11)", is_nullable=False, length=32),
    ColumnDefinition("shape_index", ValueKind.TEXT, "varchar(9)", length=9, charset="utf8mb4"),
    ColumnDefinition("d", ValueKind.DECIMAL, "decimal(60,5)", precision=60, scale=5),
    ColumnDefinition("t", ValueKind.TIMESTAMP, "timestamp(6)", fraction_digits=6),
    ColumnDefinition("b", ValueKind.BLOB, "longblob", length=1 << 32),
    ColumnDefinition("e", ValueKind.ENUM, "enum('a','b''')", members=("a", "b'")),
)
DEFINITION = TableDefinition(TableName("a.b", 'c`"'), COLUMNS, ("operation",))
ROWS = [
    (1, "ä\0", decimal.Decimal("1.00001"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), b"\0\xff" * 300_000, 2),
    (-1, None, None, None, None, None),
    (2, "", decimal.Decimal(-(10**54)), dt.datetime(1970, 1, 1, tzinfo=dt.UTC), b"", 0),
]
OPERATIONS = [Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER, Operation.DELETE]


def batch(definition: TableDefinition = DEFINITION) -> RowBatch:
    columns = zip(definition.columns, zip(*ROWS, strict=True), strict=True)
    arrays = [pa.array(values, type=column.arrow_type) for column, values in columns]
    return RowBatch(
        definition=definition,
        operation=pa.array(OPERATIONS, type=pa.uint8()),
        transaction_index=pa.array([0, 0, 0], type=pa.uint32()),
        images=pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema),
    )


def again(*batches: RowBatch) -> list[RowBatch]:
    return decode_batches(encode_batches(batches), {})


def test_batches_come_back_as_they_were() -> None:
    other = replace(DEFINITION, name=TableName("x", "y"), primary_key=())
    assert again(batch(), batch(other), batch()) == [batch(), batch(other), batch()]
    assert again() == []


def test_a_slice_comes_back_without_the_rest() -> None:
    whole = batch()
    part = replace(
        whole,
        operation=whole.operation.slice(1, 2),
        transaction_index=whole.transaction_index.slice(1, 2),
        images=whole.images.slice(1, 2),
    )
    assert again(part) == [part]
    assert len(encode_batches([part])) < 10_000 < whole.images.nbytes


def test_shapes_come_back() -> None:
    shaped = replace(
        batch(),
        shape_index=pa.array([1, 0, 1], type=pa.uint16()),
        shapes=(frozenset({"d", "t"}), frozenset({"b"})),
    )
    assert again(shaped) == [shaped]
    none = replace(batch(), shape_index=pa.array([0, 0, 0], type=pa.uint16()), shapes=(frozenset(),))
    assert again(none) == [none]


def test_one_definition_is_decoded_once() -> None:
    first, second = again(batch(), batch())
    assert first.definition is second.definition


@pytest.mark.parametrize("keep", [1, 7, 8, 9, 500, -1])
def test_damage_is_an_error(keep: int) -> None:
    content = encode_batches([batch()])
    with pytest.raises(ResyncRequired, match="damaged"):
        decode_batches(content[:keep], {})
