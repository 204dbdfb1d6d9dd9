"""Tables without a key on PostgreSQL: of every row that goes one equal row, by its place (docs/decisions/0015).

The rows that go are copied into a temporary table whose columns have the types that the target's have, so both hold
them alike. A row's *image* is the text of all its values, in which two rows are the same if and only if they hold the
same: floats by their bits, JSON by its text, NULL as NULL, texts bytewise whatever the collation. Images are numbered,
of each as many are deleted as are wanted, and what is not there is an error.

The target is read from end to end, unless an index on it helps; what columns that are cheap to compare tell apart gets
no image. Rows that come are copied straight into the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg2.extensions
import pyarrow as pa

from cdc.errors import UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, ValueKind
from cdc.schema.target import TargetColumn, TargetTable
from cdc.sinks.base import ApplyResult
from cdc.sinks.encode_postgres import CopyText, copy_text
from cdc.sinks.sql_postgres import copy_into, qualified, quote
from cdc.sinks.values import PolicyCounter, key_text

if TYPE_CHECKING:
    from cdc.sinks.apply_postgres import PostgresTransaction

__all__ = ["apply_keyless", "delete_equal", "stage_like"]

_STAGE = "_cdc_keyless"
# Columns by which most rows are told apart before their images are made; more of them find few more.
_CHEAP_COLUMNS_MAX = 8
_CHEAP_TEXT_LENGTH_MAX = 255
# What is longer is hashed, so that an image has a bounded length.
_PLAIN_LENGTH_MAX = 1000
# What stands for NULL where a cheap comparison is to find it; that it also stands for itself is for the image to say.
_ZEROS = {
    ValueKind.INTEGER: "0",
    ValueKind.YEAR: "0",
    ValueKind.DECIMAL: "0",
    ValueKind.DATE: "'epoch'",
    ValueKind.DATETIME: "'epoch'",
    ValueKind.TIMESTAMP: "'epoch'",
    ValueKind.TEXT: "''",
    ValueKind.ENUM: "''",
    ValueKind.SET: "''",
}
_ZERO_TYPES = ("smallint", "integer", "bigint", "numeric", "date", "timestamp", "varchar", "text")


# ---------------------------------------------------------------- a change


def apply_keyless(tx: PostgresTransaction, change: ChangeBatch, target: TargetTable) -> ApplyResult:
    """Delete one equal row for each of `change.deletes`, insert `change.upserts`.

    Raises UnsupportedData, with how many, where rows that are to go are not there; SinkRefused.
    """
    result = ApplyResult()
    gone = change.delete_images()
    if gone:
        result.deleted = _delete(tx, gone, target.without_metadata())
    for rows in change.upsert_images():
        loaded = tx.load(rows, target)
        result.upserted += loaded.upserted
        result.policy_changes.update(loaded.policy_changes)
    return result


def _delete(tx: PostgresTransaction, gone: Sequence[pa.RecordBatch], target: TargetTable) -> int:
    line = _line_column(target)
    with tx._cursor(f"delete rows of {target}", target) as cursor:
        tx._prepare(cursor, target)
        if tx._is_guided:  # for joins by key; here there is none, and the target is read once
            tx._is_guided = False
            tx._send(cursor, *(f"SET LOCAL enable_{way} = on" for way in ("hashjoin", "mergejoin", "seqscan")))
        tx._has_changed = True
        tx._send(cursor, stage_like(target, line.name))
        count = 0
        for rows in gone:
            numbered = rows.append_column(line.name, pa.array(range(count, count + rows.num_rows), pa.int32()))
            text = copy_text(numbered, target, (*target.columns, line), PolicyCounter())
            _copy(cursor, copy_into(f"pg_temp.{quote(_STAGE)}", (*target.columns, line)), text)
            count += rows.num_rows
        tx._change(cursor, delete_equal(target, line.name))
        deleted, missing = cursor.fetchone() or (0, None)
        if deleted != count:
            raise _missing(tx._sink, target, gone, count, deleted, missing)
        tx._send(cursor, f"DROP TABLE pg_temp.{quote(_STAGE)}")
    return count


def _copy(cursor: psycopg2.extensions.cursor, statement: str, text: CopyText) -> None:
    cursor.copy_expert(statement, text.reader())  # type: ignore[arg-type]  # it asks for no readline


def _missing(
    sink: str, target: TargetTable, gone: Sequence[pa.RecordBatch], wanted: int, deleted: int, line: int | None
) -> UnsupportedData:
    table = str(target.definition.name)
    key = None
    for rows in gone:
        if line is not None and line < rows.num_rows:
            key = key_text(rows, target, line)
            break
        line = None if line is None else line - rows.num_rows
    return UnsupportedData(
        f"sink {sink}: of {wanted} rows that the source has deleted or changed {target} does not have "
        f"{wanted - deleted}" + (f" (such as {key})" if key else ""),
        table=table,
        key=key,
        hint="the copy is not what the source has, somebody else wrote to it: load the table again: "
        f"cdc snapshot {table}",
    )


def _line_column(target: TargetTable) -> TargetColumn:
    """The number of a staged row, under a name that the target does not have."""
    name = "_cdc_line"
    while any(column.name == name or column.source.name == name for column in target.columns):
        name += "_"
    return TargetColumn(ColumnDefinition(name, ValueKind.INTEGER, "int", length=32), name, "integer", is_nullable=False)


# ---------------------------------------------------------------- SQL


def stage_like(target: TargetTable, line: str) -> str:
    """The temporary table for the rows that go: columns as the target really has them, and their number."""
    columns = ", ".join(quote(column.name) for column in target.columns)
    return (
        f"CREATE TEMPORARY TABLE {quote(_STAGE)} AS SELECT {columns}, 0 AS {quote(line)} "
        f"FROM {qualified(target.namespace, target.name)} WITH NO DATA"
    )


def delete_equal(target: TargetTable, line: str) -> str:
    """Delete one row for each staged one. Its row: how many were deleted, and the number of a staged one not found.

    In a partitioned table a place counts in its partition. What is wanted is grouped first: equal rows may be staged.
    """
    table, stage = qualified(target.namespace, target.name), f"pg_temp.{quote(_STAGE)}"
    near = ""
    if there := _cheap(target, "t"):
        near = f" WHERE ({', '.join(there)}) IN (SELECT {', '.join(_cheap(target, 's'))} FROM {stage} AS s)"
    return f"""WITH staged AS (
  SELECT {_image(target, "s")} AS image, s.{quote(line)} AS line FROM {stage} AS s
), gone AS MATERIALIZED (
  SELECT image, min(line) AS line, count(*) AS wanted FROM staged GROUP BY image
), near AS MATERIALIZED (
  SELECT t.tableoid AS part, t.ctid AS place, {_image(target, "t")} AS image FROM {table} AS t{near}
), found AS MATERIALIZED (
  SELECT near.part, near.place, gone.image, gone.wanted, row_number() OVER (PARTITION BY gone.image) AS number
  FROM near JOIN gone ON gone.image = near.image
), deleted AS (
  DELETE FROM {table} AS t USING found AS f
  WHERE t.tableoid = f.part AND t.ctid = f.place AND f.number <= f.wanted RETURNING 1
), lacking AS (
  SELECT gone.line FROM gone LEFT JOIN (SELECT image, count(*) AS there FROM found GROUP BY image) AS c
  ON c.image = gone.image WHERE coalesce(c.there, 0) < gone.wanted
)
SELECT (SELECT count(*) FROM deleted), (SELECT min(line) FROM lacking)"""


def _image(target: TargetTable, alias: str) -> str:
    values = ", ".join(_exactly(column, f"{alias}.{quote(column.name)}") for column in target.columns)
    return f'ROW({values})::text COLLATE "C"'


def _exactly(column: TargetColumn, name: str) -> str:
    """A value whose text tells it from every other."""
    kind = column.source.kind
    is_long = not 0 < column.source.length <= _PLAIN_LENGTH_MAX
    match kind:
        case ValueKind.FLOAT:
            return f"float4send({name}::real)"
        case ValueKind.DOUBLE:
            return f"float8send({name}::double precision)"
        case ValueKind.VECTOR:
            return f"array_send({name})"
        case ValueKind.BINARY | ValueKind.BLOB if is_long:
            return f"sha256({name}::bytea)"
        case ValueKind.GEOMETRY:
            return f"sha256({name}::bytea)"
        case ValueKind.JSON:
            return f"sha256(convert_to({name}::text, 'UTF8'))"
        case ValueKind.TEXT if is_long:
            return f"sha256(convert_to({name}::text, 'UTF8'))"
        case _:
            return name


def _cheap(target: TargetTable, alias: str) -> list[str]:
    """Expressions that are cheap to compare, and equal where the rows are."""
    found = []
    for column in target.columns:
        zero = _ZEROS.get(column.source.kind)
        is_short = column.source.kind is not ValueKind.TEXT or 0 < column.source.length <= _CHEAP_TEXT_LENGTH_MAX
        if zero is None or not is_short or not column.sql_type.startswith(_ZERO_TYPES):
            continue
        name = f"{alias}.{quote(column.name)}"
        found.append(name if not column.is_nullable else f"coalesce({name}, {zero})")
    return found[:_CHEAP_COLUMNS_MAX]
