"""SQL of targets that keep what was, as pure text: ending versions, and what a load makes of rows that are there.

What stands alone is for `SinkTransaction.execute_count`, so each `%` in it is doubled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cdc.model import ValueKind
from cdc.schema.target import SinkKind, TargetColumn, TargetTable
from cdc.sinks import sql_mysql, sql_postgres
from cdc.sinks.values import timestamp_text

__all__ = [
    "add_columns",
    "close_changed",
    "drop_unchanged",
    "end_keys",
    "end_lines",
    "ending",
    "exact",
    "fill",
    "highest_sequence",
    "mark_all_deleted",
    "time_literal",
]


def add_columns(target: TargetTable, columns: Sequence[TargetColumn], kind: SinkKind) -> str:
    """Add columns to a target with rows, which have NULL in them."""
    null = "" if kind == "postgresql" else " NULL DEFAULT NULL"
    clauses = [f"ADD COLUMN {_quote(column.name, kind)} {column.sql_type}{null}" for column in columns]
    return _doubled(f"ALTER TABLE {_table(target, kind)} {', '.join(clauses)}")


def fill(target: TargetTable, values: Mapping[str, str | None], kind: SinkKind) -> str:
    """Give columns these values (None: NULL) in the rows that the source table has: the rows that are not kept besides,
    or those that are its own."""
    changes = [f"{_quote(name, kind)} = {_literal(value)}" for name, value in values.items()]
    changes += _unchanged(target, kind, [column for column in target.columns if column.name in values])
    if target.live_column is not None:
        where = f" WHERE {_quote(target.live_column, kind)} IS NULL"
    else:
        where = (sql_postgres if kind == "postgresql" else sql_mysql).own_rows(target)
    return _doubled(f"UPDATE {_table(target, kind)} SET {', '.join(changes)}{where}")


def _literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def ending(target: TargetTable) -> TargetTable:
    """The target as it is to who ends versions: the row's own key, and the column that says when it ended."""
    end = target.column_of("valid_to")
    key = tuple(column for column in target.columns if column.name in target.row_key)
    by_name = {column.name: column for column in key}
    return replace(
        target,
        columns=(*(replace(by_name[name], is_key=True) for name in target.row_key), end),
        key=target.row_key,
    )


def end_lines(target: TargetTable, lines: str) -> list[str]:
    """End the current versions of keys, on PostgreSQL: lines of COPY text, each a key and the time.

    `target` is what `ending` gives. Not for `execute_count`: nothing is doubled.
    """
    current = f"{sql_postgres.quote(target.columns[-1].name)} IS NULL"
    statements = sql_postgres.update_lines(target, lines, target.columns, must_hit=False)
    return [f"{statement} AND {current}" for statement in statements]


def end_keys(target: TargetTable, keys: Sequence[bytes], time_us: int, kind: SinkKind) -> bytes:
    """End the current versions of those keys (`sql_mysql.key_item`) at that time, on the MySQL family; likewise."""
    end = sql_mysql.quote(target.columns[-1].name)
    before, between, after = (text.encode() for text in sql_mysql.key_condition(target))
    head = f"UPDATE {_table(target, kind)} SET {end} = {time_literal(time_us, kind)} WHERE {end} IS NULL AND ("
    return head.encode() + before + between.join(keys) + after + b")"


def time_literal(time_us: int, kind: SinkKind) -> str:
    """A time of ours as a column of the sink takes it."""
    zone = "+00" if kind == "postgresql" else ""
    return f"'{timestamp_text(time_us)}{zone}'"


def highest_sequence(target: TargetTable, kind: SinkKind) -> str:
    """The highest number that a row of the target has; NULL in an empty one."""
    return _doubled(f"SELECT max({_quote(target.column_of('sequence').name, kind)}) FROM {_table(target, kind)}")


def mark_all_deleted(target: TargetTable, kind: SinkKind, time_us: int) -> str:
    """Mark every row that is not marked yet."""
    flag, at = (_quote(target.column_of(of).name, kind) for of in ("is_deleted", "deleted_at"))
    columns = [target.column_of("is_deleted"), target.column_of("deleted_at")]
    changes = [f"{flag} = 1", f"{at} = {time_literal(time_us, kind)}", *_unchanged(target, kind, columns)]
    return _doubled(f"UPDATE {_table(target, kind)} SET {', '.join(changes)} WHERE {at} IS NULL")


def close_changed(target: TargetTable, kind: SinkKind, sequence: int, time_us: int) -> str:
    """End each current version numbered up to `sequence` of which no later one has all the same values."""
    table, end = _table(target, kind), _quote(target.column_of("valid_to").name, kind)
    number = _quote(target.column_of("sequence").name, kind)
    compared = [column for column in target.columns if column.metadata is None]
    same = " AND ".join(_is_same(column, kind) for column in compared)
    literal = time_literal(time_us, kind)
    if kind == "postgresql":
        return _doubled(
            f"UPDATE {table} AS o SET {end} = {literal} WHERE o.{number} <= {sequence} AND o.{end} IS NULL "
            f"AND NOT EXISTS (SELECT 1 FROM {table} AS n WHERE {_same_key(target, kind)} "
            f"AND n.{number} > {sequence} AND {same})"
        )
    changes = [f"o.{end} = {literal}", *_unchanged(target, kind, [target.column_of("valid_to")], "o.")]
    return _doubled(
        f"UPDATE {table} o LEFT JOIN {table} n ON {_same_key(target, kind)} AND n.{number} > {sequence} AND {same} "
        f"SET {', '.join(changes)} WHERE o.{number} <= {sequence} AND o.{end} IS NULL AND n.{number} IS NULL"
    )


def drop_unchanged(target: TargetTable, kind: SinkKind, sequence: int) -> str:
    """Delete the versions numbered above `sequence` whose key has a current one up to it."""
    table, end = _table(target, kind), _quote(target.column_of("valid_to").name, kind)
    number = _quote(target.column_of("sequence").name, kind)
    is_current = f"o.{number} <= {sequence} AND o.{end} IS NULL"
    if kind == "postgresql":
        condition = f"{_same_key(target, kind)} AND n.{number} > {sequence} AND {is_current}"
        return _doubled(f"DELETE FROM {table} AS n USING {table} AS o WHERE {condition}")
    # What is deleted has no alias: it would be looked for in the session's database, and there is none.
    condition = f"{_same_key(target, kind, table)} AND {table}.{number} > {sequence} AND {is_current}"
    return _doubled(f"DELETE {table} FROM {table} JOIN {table} o ON {condition}")


def _unchanged(target: TargetTable, kind: SinkKind, given: Sequence[TargetColumn], prefix: str = "") -> Iterable[str]:
    """Assignments that keep the MySQL family from setting ON UPDATE columns of a target that somebody else made."""
    if kind == "postgresql":
        return []
    names = {column.name for column in given}
    times = (ValueKind.TIMESTAMP, ValueKind.DATETIME)
    kept = [c for c in target.columns if c.source.kind in times and not c.is_key and c.name not in names]
    return [f"{prefix}{sql_mysql.quote(c.name)} = {prefix}{sql_mysql.quote(c.name)}" for c in kept]


def _same_key(target: TargetTable, kind: SinkKind, new: str = "n") -> str:
    return " AND ".join(f"{new}.{_quote(name, kind)} = o.{_quote(name, kind)}" for name in target.row_key)


def _is_same(column: TargetColumn, kind: SinkKind) -> str:
    """Do both rows have the same value: every bit of it, whatever the collation takes for equal?"""
    one, other = (exact(f"{alias}.{_quote(column.name, kind)}", column, kind) for alias in "no")
    operator = "IS NOT DISTINCT FROM" if kind == "postgresql" else "<=>"
    return " AND ".join(f"{left} {operator} {right}" for left, right in zip(one, other, strict=True))


def exact(name: str, column: TargetColumn, kind: SinkKind) -> list[str]:
    """Expressions that are equal where the values are one."""
    of = column.source.kind
    if kind == "postgresql":
        match of:
            case ValueKind.FLOAT:
                return [f"float4send({name}::real)"]
            case ValueKind.DOUBLE:
                return [f"float8send({name}::double precision)"]
            case ValueKind.JSON | ValueKind.VECTOR:
                return [f"{name}::text"]
            case ValueKind.TEXT | ValueKind.ENUM | ValueKind.SET:
                return [f'{name}::text COLLATE "C"']
            case _:
                return [name]
    match of:
        case ValueKind.FLOAT | ValueKind.DOUBLE:  # the sign of zero
            return [name, f"({name} = 0 AND ATAN2({name}, -1) < 0)"]
        case ValueKind.TEXT | ValueKind.JSON:
            return [f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)"]
        case ValueKind.ENUM | ValueKind.SET | ValueKind.BIT | ValueKind.YEAR:
            return [f"CAST({name} AS UNSIGNED)"]
        case ValueKind.BINARY | ValueKind.BLOB | ValueKind.GEOMETRY | ValueKind.VECTOR:
            return [f"HEX({name})"]
        case _:
            return [name]


def _quote(name: str, kind: SinkKind) -> str:
    return sql_postgres.quote(name) if kind == "postgresql" else sql_mysql.quote(name)


def _table(target: TargetTable, kind: SinkKind) -> str:
    qualified = sql_postgres.qualified if kind == "postgresql" else sql_mysql.qualified
    return qualified(target.namespace, target.name)


def _doubled(statement: str) -> str:
    return statement.replace("%", "%%")
