"""Foreign keys whose rules change rows of a child table, and whether the source logs what they do.

MariaDB, and MySQL before 9.6, carry CASCADE, SET NULL and SET DEFAULT out inside the engine: the child's changes are in
no row event (MySQL bug 32506). MySQL 9.6 and later log them, unless `innodb_native_foreign_keys` is ON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdc.errors import ConfigError, UnsupportedData
from cdc.model import TableName
from cdc.schema.grants import quoted
from cdc.source.connection import SourceConnection, TableGone

__all__ = [
    "ACTIVE_RULES",
    "ForeignKey",
    "logs_cascades",
    "read_foreign_keys",
    "read_hidden_keys",
    "require_visible_changes",
]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key of a captured table whose rule changes rows by itself. `actions` as in its definition."""

    table: TableName
    name: str
    parent: str
    on_delete: str
    on_update: str


# Not by the quotes inside names: MariaDB 11.8 does not double those of a foreign key.
_FOREIGN_KEY = re.compile(
    r"CONSTRAINT `(?P<name>.+?)` FOREIGN KEY \(.+?\) REFERENCES (?P<parent>`.+?`) \(`.+?`\)"
    r"(?: ON DELETE (?P<delete>CASCADE|SET NULL|SET DEFAULT|NO ACTION|RESTRICT))?"
    r"(?: ON UPDATE (?P<update>CASCADE|SET NULL|SET DEFAULT|NO ACTION|RESTRICT))?"
)
ACTIVE_RULES = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})


def read_foreign_keys(connection: SourceConnection, tables: set[TableName]) -> tuple[ForeignKey, ...]:
    """The captured tables' foreign keys with a rule that changes rows.

    MariaDB hides REFERENTIAL_CONSTRAINTS from an account that has only SELECT, yet names the tables with foreign keys
    in KEY_COLUMN_USAGE: those are asked for their definition, one by one.
    """
    if not tables:
        return ()
    databases = sorted({table.database for table in tables})
    named = {
        (TableName(database or "", table or ""), name or "")
        for database, table, name in connection.query_text(
            "SELECT DISTINCT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME FROM information_schema.KEY_COLUMN_USAGE "
            "WHERE TABLE_SCHEMA IN %s AND REFERENCED_TABLE_NAME IS NOT NULL",
            (databases,),
        )
        if TableName(database or "", table or "") in tables
    }
    found = [
        ForeignKey(TableName(database or "", table or ""), name or "", f"{other}.{parent}", delete or "", update or "")
        for database, table, name, other, parent, delete, update in connection.query_text(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, UNIQUE_CONSTRAINT_SCHEMA, "
            "REFERENCED_TABLE_NAME, DELETE_RULE, UPDATE_RULE FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE "
            "CONSTRAINT_SCHEMA IN %s",
            (databases,),
        )
        if TableName(database or "", table or "") in tables
    ]
    known = {(key.table, key.name) for key in found}
    for table in sorted({table for table, name in named if (table, name) not in known}):
        text = _create_statement(connection, table)
        for match in _FOREIGN_KEY.finditer(text):
            parts = [part.replace("``", "`") for part in re.findall(r"`((?:[^`]|``)+)`", match["parent"])]
            parent = ".".join(parts if len(parts) > 1 else [table.database, *parts])
            name = match["name"].replace("``", "`")
            found.append(ForeignKey(table, name, parent, match["delete"] or "", match["update"] or ""))
    return tuple(
        sorted(
            {key for key in found if key.on_delete in ACTIVE_RULES or key.on_update in ACTIVE_RULES},
            key=lambda key: (key.table, key.name),
        )
    )


def _create_statement(connection: SourceConnection, table: TableName) -> str:
    try:
        rows = connection.rows_by_name(f"SHOW CREATE TABLE {quoted(table.database)}.{quoted(table.table)}")
    except (ConfigError, TableGone):
        return ""  # not ours to look at, or gone
    return next(iter(rows), {}).get("Create Table") or ""


def logs_cascades(flavor: str, version: Sequence[int], native_foreign_keys: str) -> bool:
    """Are rows that a foreign key changes in the binlog? `native_foreign_keys` is that variable, '' where unknown."""
    return flavor == "mysql" and tuple(version) >= (9, 6, 0) and native_foreign_keys.lower() not in ("on", "1")


def read_hidden_keys(connection: SourceConnection, tables: set[TableName]) -> tuple[ForeignKey, ...]:
    """The foreign keys that may change rows of the tables without any event."""
    native = connection.variable("innodb_native_foreign_keys") or ""
    if logs_cascades(connection.flavor, connection.version, native):
        return ()
    return read_foreign_keys(connection, tables)


def require_visible_changes(connection: SourceConnection, table: TableName) -> None:
    """Raises UnsupportedData when foreign keys may change rows of `table` without any event."""
    keys = read_hidden_keys(connection, {table})
    if not keys:
        return
    rules = "; ".join(
        f"{key.name} to {key.parent}"
        + (f" ON DELETE {key.on_delete}" if key.on_delete in ACTIVE_RULES else "")
        + (f" ON UPDATE {key.on_update}" if key.on_update in ACTIVE_RULES else "")
        for key in keys
    )
    raise UnsupportedData(
        f"{table} has foreign keys whose rules change its rows without any event in this server's binlog: {rules}",
        table=str(table),
        hint="replace them by RESTRICT and change the rows in the application; or exclude the table; or set "
        "policies.hidden_cascades: accept, compare with `cdc verify`, and load again with `cdc snapshot`",
    )
