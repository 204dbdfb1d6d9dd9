"""Tables without a key on MySQL and MariaDB: of every row that goes one equal row (docs/decisions/0015).

These servers show no place of a row, so equal rows cannot be picked one by one. Nor need they be: all rows that are
equal to one that goes are deleted, and as many of them as are to stay are put back, as they were.

The rows that go are written into a temporary table whose columns have the types that the target's have, so both hold
them alike. Which are the same is told by an *image*, a SHA-256 of all values as they are held: floats by their bits,
texts and JSON bytewise whatever the collation, NULL as NULL. Few rows are compared column by column instead, which
costs less than an image of every row of the target, and lets an index on it help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from cdc.errors import SinkRefused, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, ValueKind
from cdc.schema.target import TargetColumn, TargetTable
from cdc.sinks.base import ApplyResult
from cdc.sinks.sql_mysql import qualified, quote
from cdc.sinks.values import PolicyCounter, key_text

if TYPE_CHECKING:
    from cdc.sinks.mysql import _MysqlTransaction

__all__ = ["apply_keyless", "matched"]

_STAGE = "_cdc_gone"  # the rows that go, as they come
_IMAGES = "_cdc_images"  # the same, each kind once, with how many of it go
_KEPT = "_cdc_kept"  # rows of the target to be put back
_LINE = "_cdc_line"
# So many kinds of rows are looked for column by column; an image of each row of the target costs as much as some ten.
COMPARED_ROWS_MAX = 8
_SHORT_LENGTH_MAX = 255


# ---------------------------------------------------------------- a change


def apply_keyless(tx: _MysqlTransaction, change: ChangeBatch, target: TargetTable) -> ApplyResult:
    """Delete one equal row for each of `change.deletes`, insert `change.upserts`.

    Raises UnsupportedData, with how many, where rows that are to go are not there; SinkRefused.
    """
    result = ApplyResult()
    gone = change.delete_images()
    if gone:
        with tx._border(f"delete rows of {target}", target):
            result.deleted = _delete(tx, gone, target.without_metadata())
    for rows in change.upsert_images():
        loaded = tx.load(rows, target)
        result.upserted += loaded.upserted
        result.policy_changes.update(loaded.policy_changes)
    return result


def _delete(tx: _MysqlTransaction, gone: Sequence[pa.RecordBatch], target: TargetTable) -> int:
    run = tx._sink.run
    tx._facts(target)  # locks the definition until the end of the transaction
    count = _stage(tx, gone, target)
    run(_make_images(target))
    ((kinds,),) = run(f"SELECT COUNT(*) FROM {_temporary(target, _IMAGES)}").fetchall()
    matches = matched(target, compares=kinds <= COMPARED_ROWS_MAX)
    wanted = {line: int(number) for line, number in run(_wanted(target)).fetchall()}
    there = {line: int(number) for line, number in run(_there(matches)).fetchall()}
    missing = {line: number - there.get(line, 0) for line, number in wanted.items() if there.get(line, 0) < number}
    if missing:
        raise _missing(tx._sink.name, target, gone, count, missing)
    found = sum(there.values())
    if found > count:
        run(_keep(target, matches, _own_columns(tx, target)))
    deleted = tx._change(_delete_found(target, matches).encode()).rowcount
    _require(tx, target, "were deleted", deleted, found)
    if found > count:
        put_back = tx._change(_put_back(target, _own_columns(tx, target)).encode()).rowcount
        _require(tx, target, "were put back", put_back, found - count)
    for name in (_KEPT, _IMAGES, _STAGE):
        run(_drop(target, name))
    return count


def _stage(tx: _MysqlTransaction, gone: Sequence[pa.RecordBatch], target: TargetTable) -> int:
    """Write the rows that go into the temporary table, numbered; how many there are."""
    for name in (_KEPT, _IMAGES, _STAGE):
        tx._sink.run(_drop(target, name))
    tx._sink.run(_make_stage(target))
    line = TargetColumn(ColumnDefinition(_LINE, ValueKind.INTEGER, "int", length=32), _LINE, "int", is_nullable=False)
    stage = replace(target, name=_STAGE, columns=(*target.columns, line))
    count = 0
    for rows in gone:
        numbered = rows.append_column(_LINE, pa.array(range(count, count + rows.num_rows), pa.int32()))
        tx._put((numbered, None), stage, "insert", PolicyCounter())
        count += rows.num_rows
    return count


def _own_columns(tx: _MysqlTransaction, target: TargetTable) -> list[str]:
    """Every column of the target that is not generated: what was added on the sink is put back as well."""
    rows = tx._sink.run(_COLUMNS, (target.namespace, target.name)).fetchall()
    return [name.decode() if isinstance(name, bytes) else str(name) for (name,) in rows]


def _missing(
    sink: str, target: TargetTable, gone: Sequence[pa.RecordBatch], wanted: int, missing: dict[int, int]
) -> UnsupportedData:
    table, line, key = str(target.definition.name), min(missing), None
    for rows in gone:
        if line < rows.num_rows:
            key = key_text(rows, target, line)
            break
        line -= rows.num_rows
    return UnsupportedData(
        f"sink {sink}: of {wanted} rows that the source has deleted or changed {target} does not have "
        f"{sum(missing.values())}" + (f" (such as {key})" if key else ""),
        table=table,
        key=key,
        hint="the copy is not what the source has, somebody else wrote to it: load the table again: "
        f"cdc snapshot {table}",
    )


def _require(tx: _MysqlTransaction, target: TargetTable, what: str, count: int, wanted: int) -> None:
    if count != wanted:
        table = str(target.definition.name)
        raise SinkRefused(
            f"sink {tx._sink.name}: of {wanted} rows of {target} {count} {what}, and no error was raised",
            table=table,
            hint=f"somebody else writes to {target}, or a trigger of it interferes; then load the table again: "
            f"cdc snapshot {table}",
        )


# ---------------------------------------------------------------- SQL
#
# A temporary table can be named once in a statement, which none below needs more. The target has no alias: a DELETE
# would look for it in the session's database, and there is none. So no alias may be a name that it may have.


def _temporary(target: TargetTable, name: str) -> str:
    return qualified(target.namespace, name)


def _table(target: TargetTable) -> str:
    return qualified(target.namespace, target.name)


def _drop(target: TargetTable, name: str) -> str:
    return f"DROP TEMPORARY TABLE IF EXISTS {_temporary(target, name)}"


def _make_stage(target: TargetTable) -> str:
    """Columns as the target really has them, and a row's number; that is the key for servers that demand one."""
    names = ", ".join(quote(column.name) for column in target.columns)
    return (
        f"CREATE TEMPORARY TABLE {_temporary(target, _STAGE)} ({quote(_LINE)} INT NOT NULL PRIMARY KEY) ENGINE=InnoDB "
        f"SELECT 0 AS {quote(_LINE)}, {names} FROM {_table(target)} LIMIT 0"
    )


def _make_images(target: TargetTable) -> str:
    return (
        f"CREATE TEMPORARY TABLE {_temporary(target, _IMAGES)} (image BINARY(32) NOT NULL PRIMARY KEY, "
        f"line INT NOT NULL, wanted BIGINT NOT NULL, UNIQUE (line)) ENGINE=InnoDB "
        f"SELECT {_image(target, '_cdc_s')} AS image, MIN(_cdc_s.{quote(_LINE)}) AS line, COUNT(*) AS wanted "
        f"FROM {_temporary(target, _STAGE)} _cdc_s GROUP BY 1"
    )


def matched(target: TargetTable, *, compares: bool) -> str:
    """The target's rows that are equal to one that goes, each with its kind `_cdc_i`.

    `compares`: column by column, the rows that go first, so that an index of the target's may be used.
    """
    table, images = _table(target), f"{_temporary(target, _IMAGES)} _cdc_i"
    if not compares:
        return f"{table} STRAIGHT_JOIN {images} ON _cdc_i.image = {_image(target, table)}"
    same = " AND ".join(
        part
        for column in target.columns
        for part in _same(column, f"{table}.{quote(column.name)}", f"_cdc_s.{quote(column.name)}")
    )
    stage = f"{_temporary(target, _STAGE)} _cdc_s"
    return f"{images} STRAIGHT_JOIN {stage} ON _cdc_s.{quote(_LINE)} = _cdc_i.line STRAIGHT_JOIN {table} ON {same}"


def _wanted(target: TargetTable) -> str:
    return f"SELECT line, wanted FROM {_temporary(target, _IMAGES)}"


def _there(matches: str) -> str:
    return f"SELECT _cdc_i.line, COUNT(*) FROM {matches} GROUP BY _cdc_i.line"


def _keep(target: TargetTable, matches: str, columns: Sequence[str]) -> str:
    """Set aside those of which more are there than go; and whether a FLOAT is -0, which MariaDB 10 copies as 0."""
    table = _table(target)
    signs = [f"{_negative_zero(f'{table}.{quote(name)}')} AS {sign}" for name, sign in _signs(target).items()]
    names = ", ".join([*(f"{table}.{quote(name)}" for name in columns), *signs])
    plain = ", ".join([*map(quote, columns), *_signs(target).values()])
    return (
        f"CREATE TEMPORARY TABLE {_temporary(target, _KEPT)} (`_cdc_number` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT "
        f"PRIMARY KEY) ENGINE=InnoDB SELECT {plain} FROM (SELECT {names}, _cdc_i.wanted AS `_cdc_wanted`, "
        f"ROW_NUMBER() OVER (PARTITION BY _cdc_i.line) AS `_cdc_nth` FROM {matches}) f WHERE `_cdc_nth` > `_cdc_wanted`"
    )


def _delete_found(target: TargetTable, matches: str) -> str:
    return f"DELETE {_table(target)} FROM {matches}"


def _put_back(target: TargetTable, columns: Sequence[str]) -> str:
    names = ", ".join(map(quote, columns))
    signs = {name.casefold(): sign for name, sign in _signs(target).items()}
    values = ", ".join(
        f"IF({signs[name.casefold()]}, {_MINUS_ZERO}, {quote(name)})" if name.casefold() in signs else quote(name)
        for name in columns
    )
    return f"INSERT INTO {_table(target)} ({names}) SELECT {values} FROM {_temporary(target, _KEPT)}"


def _signs(target: TargetTable) -> dict[str, str]:
    """For each FLOAT column the one beside it that says whether it holds -0."""
    floats = [column.name for column in target.columns if column.source.kind is ValueKind.FLOAT]
    return {name: quote(f"_cdc_sign_{index}") for index, name in enumerate(floats)}


def _image(target: TargetTable, table: str) -> str:
    """32 bytes that are the same for equal rows and no others; NULL where a value is too long for that."""
    parts = []
    for column in target.columns:
        name = f"{table}.{quote(column.name)}"
        # Told from NULL by name: what a function cannot work out is NULL as well, and makes the image NULL.
        parts.append(f"IF({name} IS NULL, 'N', {_text(column, name)})")
    separator = ", ',', "
    return f"UNHEX(SHA2(CONCAT({separator.join(parts)}), 256))"


_PLAIN = frozenset(
    {
        ValueKind.INTEGER,
        ValueKind.DECIMAL,
        ValueKind.YEAR,
        ValueKind.DATE,
        ValueKind.DATETIME,
        ValueKind.TIMESTAMP,
        ValueKind.TIME,
    }
)
_NUMBERED = frozenset({ValueKind.ENUM, ValueKind.BIT, ValueKind.YEAR})
_MINUS_ZERO = "-1e-300"  # too small for a FLOAT: it becomes -0 on every server
_FLOATING = frozenset({ValueKind.FLOAT, ValueKind.DOUBLE})


def _negative_zero(name: str) -> str:
    return f"{name} = 0 AND ATAN2({name}, -1) < 0"  # no other text or comparison tells on MariaDB 10


def _text(column: TargetColumn, name: str) -> str:
    """A value that is not NULL as a text without commas that tells it from every other."""
    kind = column.source.kind
    is_short = 0 < column.source.length <= _SHORT_LENGTH_MAX
    if kind in _FLOATING:
        return f"CONCAT({name} * 1e0, IF({_negative_zero(name)}, '-', ''))"
    if kind is ValueKind.SET:
        return f"CAST({name} | 0 AS CHAR)"  # to MariaDB a 64th member is a sign, of which a CAST to UNSIGNED warns
    if kind in _NUMBERED:
        return f"CAST(CAST({name} AS UNSIGNED) AS CHAR)"
    if kind is ValueKind.JSON:
        return f"SHA2(CAST({name} AS CHAR), 256)"
    if kind in (ValueKind.GEOMETRY, ValueKind.VECTOR):
        return f"SHA2(HEX({name}), 256)"
    if kind in (ValueKind.TEXT, ValueKind.BINARY, ValueKind.BLOB):
        return f"HEX({name})" if is_short else f"SHA2({name}, 256)"
    if kind in _PLAIN:
        return f"CAST({name} AS CHAR)"
    return f"HEX(CAST({name} AS CHAR))"  # UUID and INET, whatever they are here


def _same(column: TargetColumn, there: str, staged: str) -> list[str]:
    """Conditions that two values are the same, NULL and NULL too; one that an index may serve comes first."""
    kind = column.source.kind
    if kind in _PLAIN:
        return [f"{there} <=> {staged}"]
    if kind in _FLOATING:
        return [f"{there} <=> {staged}", f"({_negative_zero(there)}) <=> ({_negative_zero(staged)})"]
    exactly = f"{_text(column, there)} <=> {_text(column, staged)}"
    if kind is ValueKind.TEXT and 0 < column.source.length <= _SHORT_LENGTH_MAX:
        return [f"{there} <=> {staged}", exactly]
    return [exactly]


_COLUMNS = (
    "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
    "AND EXTRA NOT LIKE '%%VIRTUAL%%' AND EXTRA NOT LIKE '%%STORED%%' AND EXTRA NOT LIKE '%%PERSISTENT%%' "
    "ORDER BY ORDINAL_POSITION"
)
