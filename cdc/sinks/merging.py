"""SQL that makes one target of what another one holds, in place, as pure text.

In one transaction readers see the rows of before
until they see those of after. What differs is deleted and inserted, in this order and never updated: a value of a
unique index may have gone from one row to another.
"""

from __future__ import annotations

from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks import sql_mysql, sql_postgres
from cdc.sinks.versions import exact

__all__ = ["delete_others", "insert_missing"]


def delete_others(target: TargetTable, new: TargetTable, kind: SinkKind) -> str:
    """Delete each row of `target` that `new`, a table with the same columns, does not have, to the bit."""
    table = _table(target, kind)
    same = [_same_key(target, kind, table), *(_same(target, name, kind, table) for name in _names(target))]
    return f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM {_table(new, kind)} n WHERE {' AND '.join(same)})"


def insert_missing(target: TargetTable, new: TargetTable, kind: SinkKind) -> str:
    """Insert each row of `new` whose key `target` has not."""
    columns = ", ".join(_quote(name, kind) for name in _names(target))
    values = ", ".join(f"n.{_quote(name, kind)}" for name in _names(target))
    return (
        f"INSERT INTO {_table(target, kind)} ({columns}) SELECT {values} FROM {_table(new, kind)} n "
        f"WHERE NOT EXISTS (SELECT 1 FROM {_table(target, kind)} o WHERE {_same_key(target, kind, 'o')})"
    )


def _names(target: TargetTable) -> list[str]:
    return [column.name for column in target.columns]


def _same_key(target: TargetTable, kind: SinkKind, old: str) -> str:
    return " AND ".join(f"n.{_quote(name, kind)} = {old}.{_quote(name, kind)}" for name in target.key)


def _same(target: TargetTable, name: str, kind: SinkKind, old: str) -> str:
    """Do both rows have the same value in that column: every bit of it, whatever a collation takes for equal?"""
    column = next(column for column in target.columns if column.name == name)
    one, other = (exact(f"{alias}.{_quote(name, kind)}", column, kind) for alias in ("n", old))
    operator = "IS NOT DISTINCT FROM" if kind == "postgresql" else "<=>"
    return " AND ".join(f"{left} {operator} {right}" for left, right in zip(one, other, strict=True))


def _quote(name: str, kind: SinkKind) -> str:
    return sql_postgres.quote(name) if kind == "postgresql" else sql_mysql.quote(name)


def _table(target: TargetTable, kind: SinkKind) -> str:
    qualified = sql_postgres.qualified if kind == "postgresql" else sql_mysql.qualified
    return qualified(target.namespace, target.name)
