"""SQL of what foreign keys' rules do to a child's target, as pure text with `%s` for the values."""

from __future__ import annotations

from collections.abc import Sequence

from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks import sql_mysql, sql_postgres

__all__ = ["delete_children", "select_children", "update_children"]


def delete_children(target: TargetTable, columns: Sequence[str], count: int, kind: SinkKind) -> str:
    """Delete the rows whose `columns` (names of the source) are one of `count` keys."""
    return f"DELETE FROM {_table(target, kind)} WHERE {_among(target, columns, count, kind)}"


def select_children(
    target: TargetTable, columns: Sequence[str], wanted: Sequence[str], count: int, kind: SinkKind
) -> str:
    """The `wanted` columns of those rows, each combination once."""
    names = ", ".join(_names(target, wanted, kind))
    return f"SELECT DISTINCT {names} FROM {_table(target, kind)} WHERE {_among(target, columns, count, kind)}"


def update_children(target: TargetTable, columns: Sequence[str], count: int, kind: SinkKind) -> str:
    """Give those rows other values there; these come first among the parameters."""
    changes = [f"{name} = %s" for name in _names(target, columns, kind)]
    if kind != "postgresql":
        # The target may have been altered: a column that is ON UPDATE CURRENT_TIMESTAMP stays as the source has it.
        given = [column for column in target.columns if column.metadata is None and column.source.name in columns]
        kept = [_quote(column.name, kind) for column in sql_mysql.self_updating(target, given)]
        changes += [f"{name} = {name}" for name in kept]
    return f"UPDATE {_table(target, kind)} SET {', '.join(changes)} WHERE {_among(target, columns, count, kind)}"


def _among(target: TargetTable, columns: Sequence[str], count: int, kind: SinkKind) -> str:
    names = _names(target, columns, kind)
    if len(names) == 1:
        return f"{names[0]} IN ({', '.join(['%s'] * count)})"
    row = f"({', '.join(['%s'] * len(names))})"
    return f"({', '.join(names)}) IN ({', '.join([row] * count)})"


def _names(target: TargetTable, columns: Sequence[str], kind: SinkKind) -> list[str]:
    by_source = {column.source.name: column.name for column in target.columns if column.metadata is None}
    return [_quote(by_source[name], kind) for name in columns]


def _quote(name: str, kind: SinkKind) -> str:
    quote = sql_postgres.quote if kind == "postgresql" else sql_mysql.quote
    return quote(name).replace("%", "%%")


def _table(target: TargetTable, kind: SinkKind) -> str:
    return f"{_quote(target.namespace, kind)}.{_quote(target.name, kind)}"
