"""Which tables are followed, and what their columns are called: definitions made as the stream shows each table.

A definition comes from the schema file, where one is given and has the table as the event says; else from the server,
where there is one and its table is still what the event says; else from the table map itself, when the server writes
names into it (`binlog_row_metadata=FULL`); else there is none, and that is an error: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from cdc.binlog.layout import LayoutMismatch, build_layout, definition_from_table_map
from cdc.binlog.table_map import TableMap
from cdc.errors import UnsupportedData
from cdc.model import FilePos, Flavor, SourcePosition, TableDefinition, TableName
from cdc.source.assembler import CapturedTable, DefiningCapture
from cdc.source.schema_file import SchemaFile

__all__ = ["FollowedTables", "TableMatcher"]

_METADATA_HINT = (
    "SET GLOBAL binlog_row_metadata = FULL on the source (MySQL 8.0, MariaDB 10.5 and later) makes the log name them"
)


class TableMatcher(Protocol):
    """Which tables are wanted: by patterns of names."""

    def matches(self, database: str, table: str) -> bool:
        """Is this table wanted?"""

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        """The wanted tables among these lower-cased names: tables, or patterns where they are not known."""

    def in_database(self, database: str) -> list[TableName]:
        """Likewise, all of one database."""


class FollowedTables(DefiningCapture):
    """The tables of one run of the command.

    Args:
        read: the table's definition now, by the server; None where no server is asked, or it has no such table.
        warn: takes what the user has to know and is no error.
        is_history: may the log be older than what `read` gives?
        schema: definitions of the time of the log.
    """

    def __init__(
        self,
        matcher: TableMatcher,
        *,
        read: Callable[[TableName], TableDefinition | None] | None,
        warn: Callable[[str], None],
        is_history: bool,
        schema: SchemaFile | None = None,
    ) -> None:
        self._matcher = matcher
        self._read = read
        self._warn = warn
        self._is_history = is_history
        self._schema = schema
        self._known: dict[TableName, CapturedTable] = {}
        self._skipped: set[TableName] = set()
        self._warned: set[TableName] = set()
        self._announced: set[TableName] = set()
        self._announced_at: FilePos | None = None
        self.flavor: Flavor = "mysql"
        """Of the server that wrote what is being read; its version likewise."""
        self.version: tuple[int, ...] = ()
        self.at: SourcePosition | None = None
        """Where what is being read stands; no statement on a followed table lies between."""
        self.revision = 0  # answers change only between assemblers

    # -- what the assembler asks

    def find(self, table: TableName) -> CapturedTable | None:
        return self._known.get(table)

    def define(self, table_map: TableMap) -> CapturedTable | None:
        """Raises UnsupportedData when the columns cannot be named."""
        name = TableName(table_map.database, table_map.table)
        if not self._is_wanted(name):
            return None
        captured = self._known[name] = CapturedTable(self._definition(name, table_map))
        return captured

    def is_unknown(self, table: TableName) -> bool:
        return table not in self._known and table not in self._announced and self._is_wanted(table)

    def absent_at(self, table: TableName) -> SourcePosition | None:  # noqa: ARG002 - the protocol's
        return None

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        known = [table for table in self._known if table.lower() in names]
        return known or [table for table in self._matcher.named(names) if table not in self._skipped]

    def in_database(self, database: str) -> list[TableName]:
        return [table for table in self._known if table.database == database] or self._matcher.in_database(database)

    def _is_wanted(self, table: TableName) -> bool:
        return table not in self._skipped and self._matcher.matches(table.database, table.table)

    # -- what changes

    def forget(self, tables: Sequence[TableName]) -> None:
        """Their definitions may be others from here on."""
        for table in tables:
            self._known.pop(table, None)

    def announce(self, tables: Sequence[TableName], at: FilePos | None) -> None:
        """A statement on them in the middle of the group that begins at `at` has been shown; the group comes again."""
        self._announced = set(tables)
        self._announced_at = at

    @property
    def has_announced(self) -> bool:
        """Is a group being read again whose statement has been shown?"""
        return bool(self._announced)

    def reached(self, end: FilePos | None) -> bool:
        """A group ended there; was it the one that was announced?"""
        if self._announced and end is not None and self._announced_at is not None and end > self._announced_at:
            self._announced.clear()
            return True
        return False

    def skip(self, table: str) -> TableName:
        """The rows of the table that an error calls `table` are passed over from here on."""
        name = self._named_so(table)
        self._known.pop(name, None)
        self._skipped.add(name)
        return name

    def forget_one(self, table: str) -> None:
        """As `forget`, of the table that an error calls `table`."""
        self.forget([self._named_so(table)])

    def _named_so(self, table: str) -> TableName:
        found = next((name for name in self._known if str(name) == table), None)
        return found or TableName(*table.split(".", 1))

    # -- definitions

    def _definition(self, name: TableName, table_map: TableMap) -> TableDefinition:
        mismatch = ""
        of_file = self._schema.find(name, self.flavor, self.at) if self._schema is not None else None
        if of_file is not None:
            try:
                build_layout(table_map, of_file, flavor=self.flavor, server_version=self.version)
            except LayoutMismatch as error:
                mismatch = error.message
            else:
                return of_file
        current = self._read(name) if self._read is not None else None
        if current is not None:
            try:
                build_layout(table_map, current, flavor=self.flavor, server_version=self.version)
            except LayoutMismatch as error:
                mismatch = mismatch or error.message
            else:
                if self._is_history and not table_map.optional.is_full and name not in self._warned:
                    self._warned.add(name)
                    self._warn(f"{name}: the log does not name its columns; their names are those of today")
                return current
        found = definition_from_table_map(table_map, self.flavor)
        if found is not None:
            # The engine is in no event; what is not known to be transactional is not taken for it.
            return replace(found, engine="an unknown engine")
        if mismatch:
            raise UnsupportedData(
                f"{mismatch}: the table was changed since, and the log does not name its columns",
                table=str(name),
                hint=f"{_METADATA_HINT}; begin later (--from), or pass such tables over with --skip-bad",
            )
        why = "the server has no such table now" if self._read is not None else "no server is asked for them"
        raise UnsupportedData(
            f"{name}: the log does not name its columns, and {why}",
            table=str(name),
            hint=f"{_METADATA_HINT}; for files written without it, --schema FILE gives the definitions of that time, "
            "or -c CONFIG names the server to ask"
            if self._read is None
            else f"{_METADATA_HINT}; begin later (--from), or pass such tables over with --skip-bad",
        )
