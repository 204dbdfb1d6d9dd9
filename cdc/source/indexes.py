"""The indexes of source tables, as information_schema has them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cdc.model import TableName
from cdc.schema.indexes import IndexPart, SourceIndex
from cdc.source.connection import SourceConnection

__all__ = ["read_indexes"]

_TABLES_IN_ONE_QUERY = 50


def read_indexes(connection: SourceConnection, tables: Iterable[TableName]) -> Mapping[TableName, list[SourceIndex]]:
    """Every index of each table, the primary key's among them; no entry for a table that is gone."""
    found: dict[TableName, list[SourceIndex]] = {}
    by_database: dict[str, list[str]] = {}
    for table in tables:
        by_database.setdefault(table.database, []).append(table.table)
    for database, names in by_database.items():
        for start in range(0, len(names), _TABLES_IN_ONE_QUERY):
            _read(connection, database, names[start : start + _TABLES_IN_ONE_QUERY], found)
        bare = [name for name in names if TableName(database, name) not in found]
        for start in range(0, len(bare), _TABLES_IN_ONE_QUERY):
            part = bare[start : start + _TABLES_IN_ONE_QUERY]
            for (name,) in connection.query_text(
                "SELECT TABLE_NAME FROM information_schema.TABLES "
                f"WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN ({_holders(part)})",
                (database, *part),
            ):
                found[TableName(database, name or "")] = []
    return found


def _read(
    connection: SourceConnection, database: str, names: list[str], found: dict[TableName, list[SourceIndex]]
) -> None:
    rows: dict[tuple[str, str], list[tuple[str | None, ...]]] = {}
    for table, index, *described in connection.query_text(
        "SELECT TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART, COLLATION, INDEX_TYPE "
        f"FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN ({_holders(names)}) "
        "ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX",
        (database, *names),
    ):
        rows.setdefault((table or "", index or ""), []).append(tuple(described))
    for (table_name, name), parts in rows.items():
        is_not_unique, *_, kind = parts[0]
        found.setdefault(TableName(database, table_name), []).append(
            SourceIndex(
                name=name,
                parts=tuple(
                    IndexPart(column, int(prefix) if prefix else None, order == "D")
                    for _, column, prefix, order, _ in parts
                    if column is not None
                ),
                is_unique=is_not_unique == "0",
                kind=kind or "",
                has_expression=any(column is None for _, column, *_ in parts),
            )
        )


def _holders(names: list[str]) -> str:
    return ", ".join(["%s"] * len(names))
