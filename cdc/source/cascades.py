"""Foreign keys whose rules change rows of a child table, and whether the source logs what they do.

MariaDB, and MySQL before 9.6, carry CASCADE, SET NULL and SET DEFAULT out inside the engine: the child's changes are in
no row event (MySQL bug 32506). MySQL 9.6 and later log them, unless `innodb_native_foreign_keys` is ON.

What can be done again on a sink (`CascadeGraph`) is known from the parent's rows events: a DELETE, or an UPDATE that
changes what foreign keys refer to, written by a session with `foreign_key_checks` (`RowsFlag.NO_FOREIGN_KEY_CHECKS`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cdc.errors import ConfigError, UnsupportedData
from cdc.model import TableName
from cdc.schema.grants import quoted
from cdc.source.connection import SourceConnection, TableGone

__all__ = [
    "ACTIVE_RULES",
    "CascadeGraph",
    "ForeignKey",
    "Reach",
    "Standing",
    "logs_cascades",
    "read_foreign_keys",
    "read_hidden_keys",
    "require_visible_changes",
]


_NOWHERE = TableName("", "")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key of a captured table whose rule changes rows by itself. `actions` as in its definition.

    `columns` refer to `referenced` of the parent, in the same order; as the definition spells them.
    """

    table: TableName
    name: str
    parent: str
    on_delete: str
    on_update: str
    parent_table: TableName = _NOWHERE
    columns: tuple[str, ...] = ()
    referenced: tuple[str, ...] = ()

    @property
    def rules(self) -> str:
        """` ON DELETE CASCADE ON UPDATE SET NULL`: what acts by itself."""
        rules = (("DELETE", self.on_delete), ("UPDATE", self.on_update))
        return "".join(f" ON {event} {action}" for event, action in rules if action in ACTIVE_RULES)

    @property
    def changes_rows(self) -> bool:
        """May it give rows of the child other values, rather than delete them?"""
        return self.on_update in ACTIVE_RULES or self.on_delete in ACTIVE_RULES - {"CASCADE"}


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
    named = _read_columns(connection, databases, tables)
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
            {
                replace(key, **named.get((key.table, key.name), {}))
                for key in found
                if key.on_delete in ACTIVE_RULES or key.on_update in ACTIVE_RULES
            },
            key=lambda key: (key.table, key.name),
        )
    )


def _read_columns(
    connection: SourceConnection, databases: Sequence[str], tables: set[TableName]
) -> dict[tuple[TableName, str], dict[str, Any]]:
    """By table and name of each foreign key: the parent, and the columns of the two, as `ForeignKey` has them."""
    found: dict[tuple[TableName, str], dict[str, Any]] = {}
    for database, table, name, column, other, parent, referenced in connection.query_text(
        "SELECT TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA, "
        "REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE "
        "WHERE TABLE_SCHEMA IN %s AND REFERENCED_TABLE_NAME IS NOT NULL "
        "ORDER BY TABLE_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, ORDINAL_POSITION",
        (databases,),
    ):
        child = TableName(database or "", table or "")
        if child not in tables:
            continue
        one = found.setdefault(
            (child, name or ""),
            {"parent_table": TableName(other or "", parent or ""), "columns": (), "referenced": ()},
        )
        one["columns"] += (column or "",)
        one["referenced"] += (referenced or "",)
    return found


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
    rules = "; ".join(f"{key.name} to {key.parent}{key.rules}" for key in keys)
    raise UnsupportedData(
        f"{table} has foreign keys whose rules change its rows without any event in this server's binlog: {rules}",
        table=str(table),
        hint="set policies.hidden_cascades: apply, and the sink does the same; or replace them by RESTRICT and change "
        "the rows in the application; or exclude the table; or set policies.hidden_cascades: accept and compare with "
        f"`cdc verify`; then `cdc snapshot {table}`",
    )


# ---------------------------------------------------------------- what follows from what


class Standing(enum.Enum):
    """Where a table of the sink stands at a place of the stream."""

    EXACT = "exact"  # as the source had it there
    AHEAD = "ahead"  # its load may have read rows of later moments; its changes are applied
    AWAY = "away"  # its load is newer as a whole, or it is not followed


@dataclass(frozen=True, slots=True)
class Reach:
    """What a parent's change does. `tables`: whose rows are to be changed on the sink.

    `uncertain`: tables of which nobody can tell any more what changes: they, or tables between, are not at this place.
    """

    tables: frozenset[TableName]
    uncertain: frozenset[TableName]


class CascadeGraph:
    """The foreign keys whose rules are applied on the sink, by parent."""

    def __init__(self, keys: Iterable[ForeignKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_parent: dict[TableName, tuple[ForeignKey, ...]] = {}
        for key in self.keys:
            self._by_parent[key.parent_table] = (*self._by_parent.get(key.parent_table, ()), key)

    def of(self, parent: TableName) -> tuple[ForeignKey, ...]:
        """Those that refer to a table."""
        return self._by_parent.get(parent, ())

    def is_in(self, table: TableName) -> bool:
        """Is it a parent or a child here?"""
        return table in self._by_parent or any(key.table == table for key in self.keys)

    def columns(self, parent: TableName) -> tuple[str, ...]:
        """What those refer to, each column once."""
        return tuple(dict.fromkeys(name for key in self.of(parent) for name in key.referenced))

    def looked_at(self, parent: TableName, *, is_update: bool) -> dict[str, TableName]:
        """Of those columns the ones that say what a rule does then, each with a table that it is about."""
        acting = [key for key in self.of(parent) if _action(key, is_update) in ACTIVE_RULES]
        return {name: key.table for key in reversed(acting) for name in key.referenced}

    def acts_on(self, parent: TableName, *, is_update: bool) -> bool:
        """Does any rule act when a row of the parent goes, or gets another key?"""
        return any(_action(key, is_update) in ACTIVE_RULES for key in self.of(parent))

    def reach(self, parent: TableName, *, is_update: bool, standing: Callable[[TableName], Standing]) -> Reach:
        """What a change of the parent's rows, a DELETE or an UPDATE of their keys, does from table to table."""
        tables: set[TableName] = set()
        uncertain: set[TableName] = set()
        seen: set[tuple[TableName, bool, bool]] = set()
        waiting = [(parent, is_update, True)]
        while waiting:
            table, moves, is_known = waiting.pop()
            if (table, moves, is_known) in seen:
                continue
            seen.add((table, moves, is_known))
            for key in self.of(table):
                action = _action(key, moves)
                if action not in ACTIVE_RULES:
                    continue
                stands = standing(key.table)
                if stands is not Standing.AWAY:
                    (tables if is_known else uncertain).add(key.table)
                    if stands is Standing.AHEAD and moves and action == "CASCADE":
                        # A row that has the new key by then may have been changed as if it had had it all along.
                        uncertain.add(key.table)
                goes = action == "CASCADE" and not moves
                if goes or set(key.columns) & set(self.columns(key.table)):
                    # Of a table that is not at this place, the rows that are concerned may be gone already.
                    waiting.append((key.table, not goes, is_known and stands is Standing.EXACT))
        return Reach(frozenset(tables - uncertain), frozenset(uncertain))


def _action(key: ForeignKey, is_update: bool) -> str:
    return key.on_update if is_update else key.on_delete
