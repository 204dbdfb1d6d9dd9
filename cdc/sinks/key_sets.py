"""SQL that compares the keys of a target with keys that were staged beside it, as pure text.

A staged table has the target's key columns, by the same mapping: equality is the sink's own, and one to both. All of it
is for `SinkTransaction.execute` and `execute_count`, so each `%` in it is doubled, but the one of a parameter.
"""

from __future__ import annotations

from typing import Any

from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks import sql_mysql, sql_postgres
from cdc.sinks.versions import _doubled, _quote, _table, _unchanged, time_literal

__all__ = ["count_missing", "count_rows", "remove_gone", "tables_with_prefix"]


def count_rows(target: TargetTable, kind: SinkKind) -> str:
    """How many rows there are in it."""
    return _doubled(f"SELECT count(*) FROM {_table(target, kind)}")


def tables_with_prefix(namespace: str, prefix: str) -> tuple[str, tuple[Any, ...]]:
    """The names of the namespace's tables that begin so; the statement and its parameters."""
    return (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND left(table_name, %s) = %s",
        (namespace, len(prefix), prefix),
    )


def remove_gone(target: TargetTable, staged: TargetTable, kind: SinkKind, time_us: int) -> tuple[str, tuple[Any, ...]]:
    """Delete the rows whose key is not staged, or mark them (`soft_delete`); the statement and its parameters."""
    table = _table(target, kind)
    same = _same(target, staged, kind, table)
    gone = f"NOT EXISTS (SELECT 1 FROM {_table(staged, kind)} AS cdc_staged WHERE {same})"
    own, parameters = _own(target, kind)
    if target.mode != "soft_delete":
        return _doubled(f"DELETE FROM {table} WHERE {gone}") + own, parameters
    flag, at = (_quote(target.column_of(of).name, kind) for of in ("is_deleted", "deleted_at"))
    columns = [target.column_of("is_deleted"), target.column_of("deleted_at")]
    changes = [f"{flag} = 1", f"{at} = {time_literal(time_us, kind)}", *_unchanged(target, kind, columns)]
    return _doubled(f"UPDATE {table} SET {', '.join(changes)} WHERE {at} IS NULL AND {gone}") + own, parameters


def count_missing(target: TargetTable, staged: TargetTable, kind: SinkKind) -> tuple[str, tuple[Any, ...]]:
    """How many staged keys no row of the source in the target has; the statement and its parameters."""
    table = _table(target, kind)
    own, parameters = _own(target, kind)
    live = f" AND {table}.{_quote(target.live_column, kind)} IS NULL" if target.live_column else ""
    found = f"SELECT 1 FROM {table} WHERE {_same(target, staged, kind, table)}{live}"
    head = f"SELECT count(*) FROM {_table(staged, kind)} AS cdc_staged WHERE NOT EXISTS ({found}"
    return f"{_doubled(head)}{own})", parameters


def _same(target: TargetTable, staged: TargetTable, kind: SinkKind, table: str) -> str:
    names = target.key if target.source_column is None else target.key[1:]
    quote = sql_postgres.quote if kind == "postgresql" else sql_mysql.quote
    pairs = zip(names, staged.key, strict=True)
    return " AND ".join(f"cdc_staged.{quote(one)} = {table}.{quote(name)}" for name, one in pairs)


def _own(target: TargetTable, kind: SinkKind) -> tuple[str, tuple[Any, ...]]:
    """Of a target that several tables share, this table's rows only."""
    if target.source_column is None:
        return "", ()
    name = _doubled(f" AND {_table(target, kind)}.{_quote(target.source_column.name, kind)}")
    return f"{name} = %s", (target.source_column.value,)
