"""Looks after the targets of a sink while their rows are kept current: indexes, numberings, drift (docs/targets.md).

Each loaded table is looked at once in a session, soon after its load or its DDL, and from time to time; one table a
call, between two transactions. What the mapping makes and is not there is made (indexes) or said (everything else);
what somebody has added is said and stays. A target that cannot hold its rows any more parks its table.

Plain indexes are made at once. A unique one waits until the stream has passed the position at which the source had it:
on the way there rows may be two for a moment. Should one of ours refuse rows after all (the source dropped it a moment
ago, and the stream is not there yet), it goes, instead of the table. The sink's own catalogue says what has been made,
so a kill at any instant leaves nothing but an index that is made by the next look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from cdc.clock import Clock
from cdc.errors import SinkRefused, SinkUnavailable
from cdc.log import Logger
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableDefinition, TableName
from cdc.pipeline.table_steps import INTENT
from cdc.pipeline.tables import TableRegistry
from cdc.schema.drift import Drift, TargetFacts, drift
from cdc.schema.indexes import SourceIndex, TargetIndex, free_name, is_served, lookup_indexes, target_indexes
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from cdc.sinks.target_facts import create_index, define_fenced, drop_index, names_taken, read_facts, restart_numbering
from cdc.source.connection import SourceConnection
from cdc.source.indexes import read_indexes
from cdc.source.positions import written_file_pos
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["TargetMemory", "TargetUpkeep"]

_SHOWN_MAX = 20
_SURE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _SourceIndexes:
    """What the source had when its log ended there."""

    indexes: Mapping[TableName, list[SourceIndex]]
    written: FilePos
    server: ServerIdentity


class TargetMemory:
    """What is known of the targets of a pipeline, from one session to the next. Read by any thread."""

    def __init__(self) -> None:
        self.looked: dict[TableName, tuple[str, TableDefinition | None]] = {}
        self.next_at = 0.0
        self._drift: dict[TableName, tuple[Drift, ...]] = {}

    def put(self, table: TableName, found: list[Drift]) -> bool:
        """Remember what was found; True when it is something else than before."""
        before = self._drift.get(table, ())
        self._drift = {**self._drift, table: tuple(found)}
        return before != tuple(found)

    def drop(self, table: TableName) -> None:
        """The table is not loaded any more."""
        self.looked.pop(table, None)
        self._drift = {name: found for name, found in self._drift.items() if name != table}

    @property
    def drift(self) -> Mapping[TableName, tuple[Drift, ...]]:
        """What each table's target differed by, at the last look."""
        return self._drift

    @property
    def drifted_count(self) -> int:
        """How many targets lack something, or cannot hold their rows."""
        return sum(any(one.kind in ("broken", "lost") for one in found) for found in self._drift.values())


class TargetUpkeep:
    """The looks of one session, in the applier's thread."""

    def __init__(
        self,
        *,
        sink: Sink,
        store: InSinkStore,
        tables: TableRegistry,
        connect: Callable[[], AbstractContextManager[SourceConnection]],
        memory: TargetMemory,
        clock: Clock,
        log: Logger,
        interval_seconds: float,
    ) -> None:
        """`connect` opens a session on the source. `interval_seconds`: from one look at a table to the next; 0: none
        but the first."""
        self._sink = sink
        self._store = store
        self._tables = tables
        self._connect = connect
        self._memory = memory
        self._clock = clock
        self._log = log
        self._interval = interval_seconds
        self._position: SourcePosition | None = None
        self._revision = -1
        self._due: dict[TableName, None] = {}
        self._source: _SourceIndexes | None = None
        self._waiting: dict[TableName, _SourceIndexes] = {}
        self.touched([record.source for record in tables.records()])

    @property
    def is_making(self) -> bool:
        """Is there an index that is to be made before all is as it should be?"""
        return bool(self._waiting) or any(map(self._may_want_indexes, self._due))

    @property
    def is_due(self) -> bool:
        """Is there a table left to look at, by what the last step has seen?"""
        return bool(self._due)

    def _may_want_indexes(self, table: TableName) -> bool:
        return self._tables.options(table).attributes.indexes != "none" or bool(self._lookups(table))

    def _lookups(self, table: TableName) -> list[tuple[str, tuple[str, ...]]]:
        """By which columns cascades look for its rows (`TableRegistry.cascades`): the source has an index for each."""
        return [(key.name, key.columns) for key in self._tables.cascades.graph.keys if key.table == table]

    def touched(self, tables: Iterable[TableName]) -> None:
        """DDL has been done on them, which may have been about indexes: what was read of the source is of before."""
        for table in tables:
            if self._may_want_indexes(table):
                self._memory.looked.pop(table, None)
                self._due.pop(table, None)
        self._revision = -1

    def step(self, position: SourcePosition | None) -> None:
        """Look at one table, if one is due. All before `position` is committed (None: nothing more than before).

        Raises SinkRefused for a target that cannot hold its table's rows any more (park it), SinkUnavailable,
        SourceUnavailable, LeaseLost.
        """
        self._position = position or self._position
        self._find_due()
        if self._due:
            table = next(iter(self._due))
            del self._due[table]
            self._look(table)
        for table, source in list(self._waiting.items()):
            if self._has_passed(source):
                del self._waiting[table]
                self._make_unique(table, source)

    def _has_passed(self, source: _SourceIndexes) -> bool:
        at = self._position
        return at is not None and at.file is not None and at.server == source.server and at.file >= source.written

    def _find_due(self) -> None:
        now = self._clock.monotonic()
        if self._interval and now >= self._memory.next_at:
            if self._memory.next_at:
                self._memory.looked.clear()
            self._memory.next_at = now + self._interval
            self._revision = -1
        if self._revision == self._tables.revision:
            return
        self._revision = self._tables.revision
        loaded = {record.source: _seen(record) for record in self._tables.records() if _is_loaded(record)}
        for table in [table for table in self._memory.looked if table not in loaded]:
            self._memory.drop(table)
            self._waiting.pop(table, None)
        due = [table for table, seen in loaded.items() if self._memory.looked.get(table) != seen]
        if any(table not in self._due for table in due):
            self._source = self._read_source(due)
        self._due = dict.fromkeys(due)

    def _read_source(self, tables: list[TableName]) -> _SourceIndexes | None:
        wanted = [t for t in tables if self._tables.options(t).attributes.indexes != "none"]
        if not wanted:
            return None
        with self._connect() as source:
            indexes = read_indexes(source, wanted)
            return _SourceIndexes(indexes, written_file_pos(source), source.identity())

    # ------------------------------------------------------------ one table

    def _look(self, table: TableName) -> None:
        record = self._tables.record(table)
        if record is None or not _is_loaded(record):
            return
        target = self._tables.target(table)
        facts = read_facts(self._sink, target)
        wanted: list[TargetIndex] = []
        words: list[str] = []
        self._waiting.pop(table, None)
        # What the source has no more is dropped or renamed by the stream, and what becomes of the target is said there.
        at_source = self._source.indexes.get(table) if self._source is not None else None
        if self._source is not None and at_source is not None and facts is not None:
            wanted, words = target_indexes(at_source, target, self._sink.kind)
            wanted += self._lookup_indexes(target, facts, wanted)
            words += self._make(target, facts, [index for index in wanted if not index.is_unique])
            words += self._drop_others(target, facts, wanted)
            if any(index.is_unique and not is_served(index, facts.indexes) for index in wanted):
                self._waiting[table] = self._source
            facts = read_facts(self._sink, target)
        elif facts is not None and (wanted := self._lookup_indexes(target, facts, [])):
            words = self._make(target, facts, wanted)
            facts = read_facts(self._sink, target)
        self._restart_numbering(target)
        self._memory.looked[table] = _seen(record)
        waiting = [index for index in wanted if not (index.is_unique and table in self._waiting)]
        self._say(target, facts, waiting, words)

    def _say(self, target: TargetTable, facts: TargetFacts | None, wanted: list[TargetIndex], words: list[str]) -> None:
        """Keep what differs; raise what cannot go on."""
        table = target.definition.name
        found = self._found(target, facts, wanted, words)
        if any(one.kind == "broken" for one in found):
            # While somebody alters a table, the catalogues of the MySQL family show it without columns for a moment.
            self._clock.wait(threading.Event(), _SURE_SECONDS)
            found = self._found(target, read_facts(self._sink, target), wanted, words)
        if self._memory.put(table, found) and found:
            self._log.info(
                "target_differs",
                table=str(table),
                target=str(target),
                found=[f"{one.kind}: {one.text}" for one in found][:_SHOWN_MAX],
            )
        broken = [one.text for one in found if one.kind == "broken"]
        if broken:
            raise SinkRefused(
                f"{table}: the target {target} on sink {self._sink.name} has been altered, and cannot hold the table's "
                f"rows any more: {'; '.join(broken)}",
                table=str(table),
                hint=f"undo it, or drop the target, which is made anew then; and run `cdc snapshot {table}`",
            )

    def _found(
        self, target: TargetTable, facts: TargetFacts | None, wanted: list[TargetIndex], words: list[str]
    ) -> list[Drift]:
        existing = self._sink.inspect(target)
        differences = self._sink.differences(target, existing) if existing is not None else []
        return drift(target, facts, differences, self._sink.kind, indexes=wanted, index_words=words)

    def _restart_numbering(self, target: TargetTable) -> None:
        if self._sink.kind != "postgresql" or not any(column.is_identity for column in target.columns):
            return
        try:
            self._sink.define(target, restart_numbering(target))
        except SinkRefused as error:  # not numbered there: the look says so
            self._log.warning("numbering_not_restarted", target=str(target), message=error.message)

    # ------------------------------------------------------------ indexes

    def _lookup_indexes(self, target: TargetTable, facts: TargetFacts, others: list[TargetIndex]) -> list[TargetIndex]:
        lookups = self._lookups(target.definition.name)
        return lookup_indexes(lookups, target, self._sink.kind, others, facts.indexes) if lookups else []

    def _make(self, target: TargetTable, facts: TargetFacts, wanted: list[TargetIndex]) -> list[str]:
        """Make those that are not there; a sentence on each that the sink refuses."""
        missing = [index for index in wanted if not is_served(index, facts.indexes)]
        names = [free_name(index, target, self._sink.kind, ()) for index in missing]
        taken = set(names_taken(self._sink, target, names))
        refused = []
        for index in missing:
            name = free_name(index, target, self._sink.kind, taken)
            taken.add(name)
            began = self._clock.monotonic()
            try:
                self._define(target, create_index(index, name, target, self._sink.kind))
            except SinkRefused as error:
                refused.append(f"the index {index.source} is refused: {error.message}")
                continue
            except SinkUnavailable as error:
                if not self._sink.has_waited_for_lock(error):
                    raise
                refused.append(f"the index {index.source} waits for a lock: {error.message}")
                continue
            seconds = round(self._clock.monotonic() - began, 2)
            self._log.info("index_made", target=str(target), index=name, unique=index.is_unique, seconds=seconds)
        return refused

    def _drop_others(self, target: TargetTable, facts: TargetFacts, wanted: list[TargetIndex]) -> list[str]:
        """Drop those of ours that the source does not have any more."""
        refused = []
        for index in facts.indexes:
            if index.source is None or any(is_served(one, [index]) for one in wanted):
                continue
            try:
                self._define(target, [drop_index(index, target, self._sink.kind)])
            except SinkRefused as error:
                refused.append(f"the index {index.name} stays: {error.message}")
                continue
            except SinkUnavailable as error:
                if not self._sink.has_waited_for_lock(error):
                    raise
                refused.append(f"the index {index.name} stays, it waits for a lock: {error.message}")
                continue
            self._log.info("index_dropped", target=str(target), index=index.name)
        return refused

    def _make_unique(self, table: TableName, source: _SourceIndexes) -> None:
        record = self._tables.record(table)
        if record is None or record.state != "ready":
            if record is not None and _is_loaded(record):
                self._waiting[table] = source  # it is still on its way to its load's last read
            return
        target = self._tables.target(table)
        facts = read_facts(self._sink, target)
        if facts is None:
            return
        wanted, words = target_indexes(source.indexes.get(table, []), target, self._sink.kind)
        wanted += self._lookup_indexes(target, facts, wanted)
        words += self._make(target, facts, [index for index in wanted if index.is_unique])
        self._say(target, read_facts(self._sink, target), wanted, words)

    def _define(self, target: TargetTable, statements: list[str]) -> None:
        define_fenced(self._sink, target, statements, self._store.fence)


def _is_loaded(record: TableRecord) -> bool:
    if record.step.startswith(INTENT):
        return False  # what an earlier instance began to do to the target is about to be done
    is_catching_up = record.state == "snapshotting" and record.ready_at is not None
    return record.definition is not None and (record.state == "ready" or is_catching_up)


def _seen(record: TableRecord) -> tuple[str, TableDefinition | None]:
    return record.state, record.definition
