"""What a pipeline's sessions know of foreign keys that change rows in silence, and what they do about it.

The foreign keys are those that the source has when a session asks. Where the stream is further back, tables had
others: it comes to the statement that changed them, and these tables are loaded again there (`loaded_again`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace

from cdc.errors import UnsupportedData
from cdc.model import SchemaChange, TableDefinition, TableName
from cdc.pipeline.cascades import Provable, cascade_refusal, provable
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.schema.target import TargetTable
from cdc.source.cascades import ForeignKey, logs_cascades, read_hidden_keys, require_visible_changes
from cdc.source.connection import SourceConnection, TableDenied, TableGone
from cdc.source.definitions import read_definition
from checkpoints.store import TableRecord

__all__ = ["HiddenCascades"]

# How often a table is loaded again because its load could not be followed, before it is parked.
_AGAIN_MAX = 5
_RENAMES = re.compile(r"\bRENAME\b", re.IGNORECASE)
_NAMES_KEYS = re.compile(r"\b(FOREIGN\s+KEY|REFERENCES|DROP\s+CONSTRAINT)\b", re.IGNORECASE)


class HiddenCascades:
    """Of one pipeline, from session to session."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._known: tuple[tuple[object, ...], tuple[ForeignKey, ...]] | None = None
        self._again: Counter[TableName] = Counter()
        self._is_hiding = False
        self._followed: dict[TableName, frozenset[tuple[object, ...]]] = {}

    def forget(self) -> None:
        """The source may have other foreign keys by now."""
        self._known = None

    def find(self, source: SourceConnection, tables: TableRegistry) -> None:
        """Say in the registry which foreign keys are applied (`TableRegistry.cascades`)."""
        if not any(map(self.is_applied, _captured(tables))):
            tables.cascades = Provable()
            self._is_hiding = False
            return
        self._is_hiding, keys = self._ask(source, tables)
        definitions = {name: _definition(source, tables, name) for name in _named(keys)}
        targets = {name: _target(tables, one) for name, one in definitions.items() if one is not None}
        tables.cascades = provable(
            keys,
            target=targets.get,
            definition=definitions.get,
            is_alone=tables.is_alone,
            is_asked=self.is_applied,
        )

    def _ask(self, source: SourceConnection, tables: TableRegistry) -> tuple[bool, tuple[ForeignKey, ...]]:
        """Does the server hide what foreign keys do, and which of the captured tables' may act?

        It is asked each time: it may have been started anew since, with another `innodb_native_foreign_keys` or as
        another release; or it is another one, behind the same address.
        """
        native = source.variable("innodb_native_foreign_keys") or ""
        is_hiding = not logs_cascades(source.flavor, source.version, native)
        captured = _captured(tables)
        asked = captured, is_hiding, source.identity()
        if self._known is None or self._known[0] != asked:
            self._known = asked, read_hidden_keys(source, set(captured))
        return is_hiding, self._known[1]

    def refused(self, source: SourceConnection, tables: TableRegistry) -> dict[TableName, UnsupportedData]:
        """The tables that are followed and cannot be; also those of `park`, of which all was logged until now."""
        followed = tables.captured()
        found = {name: problem for name in followed if (problem := self.problem(tables, name)) is not None}
        others = {name for name in followed if not self.is_applied(name) and not self._is_accepted(name)}
        if others:
            _, keys = self._ask(source, tables)
            for name in sorted(others & {key.table for key in keys}):
                try:
                    require_visible_changes(source, name)
                except UnsupportedData as problem:
                    found.setdefault(name, problem)
        return found

    def accepts(self, tables: TableRegistry, table: TableName) -> bool:
        """May the table be loaded and followed, whatever foreign keys do to it in silence?"""
        return self._is_accepted(table) or any(key.table == table for key in tables.cascades.graph.keys)

    def _is_accepted(self, table: TableName) -> bool:
        return self._routing.accepts_hidden_cascades(table.database, table.table)

    def is_applied(self, table: TableName) -> bool:
        """Is what they do to be applied to that table?"""
        return self._routing.applies_hidden_cascades(table.database, table.table)

    def problem(self, tables: TableRegistry, table: TableName) -> UnsupportedData | None:
        """Why the table cannot be followed."""
        reason = tables.cascades.reason(table)
        return None if reason is None else cascade_refusal(table, tables.cascades.keys, reason)

    def waiting(self, tables: TableRegistry) -> Iterator[TableRecord]:
        """Children that are followed while a parent of theirs waits for its load: to be loaded with it.

        What the parent's rows do meanwhile is not seen.
        """
        for key in tables.cascades.graph.keys:
            parent, child = tables.record(key.parent_table), tables.record(key.table)
            if parent is None or child is None or tables.find(key.table) is None:
                continue
            if tables.find(key.parent_table) is None and parent.state == "pending":
                anew = replace(child, state="pending", loaded_from=None, error=None, step="")
                yield replace(anew, ready_at=parent.ready_at, ready_server=parent.ready_server)

    def follow(self, tables: TableRegistry) -> None:
        """The stream begins: what the foreign keys of tables do that are followed from here on is applied."""
        self._followed = {name: _rules(tables.cascades.graph.keys, name) for name in tables.captured()}

    def changes_with(self, change: SchemaChange, tables: TableRegistry) -> bool:
        """May the foreign keys between captured tables be others behind a statement?"""
        if not self._is_hiding:
            return False
        is_about_keys = _NAMES_KEYS.search(change.statement) is not None
        return is_about_keys or any(map(tables.cascades.graph.is_in, change.tables))

    def has_new_children(self, source: SourceConnection, change: SchemaChange, tables: TableRegistry) -> bool:
        """Has a table got another name, under which foreign keys act on it that were not known to?"""
        if not self._is_hiding or _RENAMES.search(change.statement) is None:
            return False
        new = set(tables.captured()) - self._followed.keys()
        return bool(new) and any(self.is_applied(key.table) for key in read_hidden_keys(source, new))

    def loaded_again(self, source: SourceConnection, change: SchemaChange, tables: TableRegistry) -> list[TableRecord]:
        """Behind a statement that was followed: the tables for which others than their foreign keys were applied.

        Up to here those counted that the source had when the stream began, by the names of then.
        """
        again = set(change.tables) if _NAMES_KEYS.search(change.statement) is not None else set[TableName]()
        self.forget()
        self.find(source, tables)
        for name in {key.table for key in tables.cascades.keys}:
            rules = _rules(tables.cascades.keys, name)
            known = [name, *(change.tables if name in change.tables else ())]
            if not any(self._followed.get(one) == rules for one in known):
                again.add(name)
        again |= _descendants(again, tables.cascades.keys)
        return list(self._anew(again, tables))

    def hanging_on(self, change: SchemaChange, tables: TableRegistry) -> list[TableRecord]:
        """Behind a statement that has its tables loaded again: those that foreign keys change with them, likewise.

        Where others acted than the source has now, rows of theirs are gone, or there, that nothing else comes back to.
        """
        if not self.changes_with(change, tables):
            return []
        names = _descendants(change.tables, tables.cascades.keys) - {*change.tables}
        return list(self._anew(names, tables))

    def _anew(self, names: Collection[TableName], tables: TableRegistry) -> Iterator[TableRecord]:
        for name in sorted(names):
            record = tables.record(name)
            if record is not None and record.state in ("ready", "snapshotting") and self.is_applied(name):
                anew = replace(record, state="pending", loaded_from=None, error=None, step="")
                yield replace(anew, ready_at=None, ready_server=None)

    def spent(self, change: SchemaChange, tables: TableRegistry) -> UnsupportedData | None:
        """A table that cannot be followed where its rows were changed in silence, too often to be loaded once more."""
        if change.statement or change.xa is not None:
            return None
        for name in change.tables:
            if tables.find(name) is not None and any(key.table == name for key in tables.cascades.graph.keys):
                self._again[name] += 1
                if self._again[name] > _AGAIN_MAX:
                    del self._again[name]
                    return cascade_refusal(
                        name,
                        tables.cascades.keys,
                        "they changed rows in the middle of its load, or of that of its parents, "
                        f"{_AGAIN_MAX} times in a row",
                    )
        return None

    def is_ready(self, table: TableName) -> None:
        """Its load was followed."""
        self._again.pop(table, None)


def _captured(tables: TableRegistry) -> frozenset[TableName]:
    return frozenset(record.source for record in tables.records() if record.state != "dropped")


def _descendants(names: Collection[TableName], keys: Collection[ForeignKey]) -> set[TableName]:
    """What is changed with the tables, from parent to child."""
    found = set[TableName]()
    waiting = [*names]
    while waiting:
        parent = waiting.pop()
        new = {key.table for key in keys if key.parent_table == parent} - found
        found |= new
        waiting += new
    return found


def _rules(keys: Collection[ForeignKey], child: TableName) -> frozenset[tuple[object, ...]]:
    """What acts on a table, whatever it is called."""
    return frozenset(
        (key.parent_table, tuple(map(str.lower, key.columns)), tuple(map(str.lower, key.referenced)), key.rules)
        for key in keys
        if key.table == child
    )


def _named(keys: Collection[ForeignKey]) -> set[TableName]:
    return {name for key in keys for name in (key.table, key.parent_table)}


def _definition(source: SourceConnection, tables: TableRegistry, name: TableName) -> TableDefinition | None:
    """The definition that the sink's rows are of, or are going to be of; None for a table that is not followed."""
    record = tables.record(name)
    if record is None or record.state in ("parked", "dropped"):
        return None
    found = tables.find(name)
    if found is not None:
        return found.definition
    try:
        return read_definition(source, name)
    except (TableGone, TableDenied, UnsupportedData):
        return None  # its load will say so


def _target(tables: TableRegistry, definition: TableDefinition) -> TargetTable | None:
    try:
        return tables.make_target(definition)
    except UnsupportedData:
        return None
