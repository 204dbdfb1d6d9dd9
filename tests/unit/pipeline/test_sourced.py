"""The source column's value is in every image that reaches a sink."""

from __future__ import annotations

import pyarrow as pa

from cdc.model import (
    ChangeBatch,
    ColumnDefinition,
    Operation,
    PartialUpdate,
    RowBatch,
    TableDefinition,
    TableName,
    ValueKind,
)
from cdc.pipeline.transform import transformed_change, transformed_rows
from cdc.schema.mapping import SOURCE_COLUMN, map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Masking, Policies, SourceColumn, TargetTable
from cdc.sinks.values import key_text

ID = ColumnDefinition("id", ValueKind.INTEGER, "int", is_nullable=False, length=32)
NAME = ColumnDefinition("name", ValueKind.TEXT, "varchar(9)", length=9, charset="utf8mb4", collation="utf8mb4_bin")
DEFINITION = TableDefinition(TableName("tenant_a", "t"), (ID, NAME), ("id",))


def target() -> TargetTable:
    options = TableOptions(
        source_column=SourceColumn("tenant", "a", 64),
        columns=(ColumnOption("name", masking=Masking("text", text="*")),),
    )
    return map_table(
        DEFINITION, kind="postgresql", namespace="n", name="t", key=("id",), policies=Policies(), options=options
    )


def images(*rows: tuple[int, str | None]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, DEFINITION.arrow_schema, strict=True)],
        schema=DEFINITION.arrow_schema,
    )


def sources(rows: pa.RecordBatch) -> list[str]:
    found: list[str] = rows.column(SOURCE_COLUMN).to_pylist()
    return found


def test_rows_of_a_load_have_it() -> None:
    rows = transformed_rows(images((1, "x"), (2, None)), target())
    assert sources(rows) == ["a", "a"]
    assert rows.column("name").to_pylist() == ["*", None]
    assert key_text(rows, target(), 1) == "tenant='a', id=2"


def test_deletes_and_old_keys_of_the_stream_have_it() -> None:
    batch = RowBatch(
        definition=DEFINITION,
        operation=pa.array([Operation.DELETE, Operation.INSERT], pa.uint8()),
        transaction_index=pa.array([0, 0], pa.uint32()),
        images=images((1, "gone"), (2, "there")),
    )
    update = PartialUpdate(("id",), images((4, None)), old_keys=images((3, None)).select(["id"]))
    change = ChangeBatch(
        definition=DEFINITION,
        key=("id",),
        batches=(batch,),
        upserts=(pa.array([1], pa.int32()),),
        deletes=(pa.array([0], pa.int32()),),
        updates=(update,),
    )

    found = transformed_change(change, target())

    assert [sources(rows) for rows in (*found.delete_images(), *found.upsert_images())] == [["a"], ["a"]]
    assert sources(found.updates[0].images) == ["a"]
    assert found.updates[0].old_keys is not None
    assert sources(found.updates[0].old_keys) == ["a"]
    assert found.updates[0].columns == ("id",)
