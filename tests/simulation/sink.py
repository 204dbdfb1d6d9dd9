"""A sink with transactions, in memory: sessions, row locks, READ COMMITTED, and every way in which one may fail.

`Database` is the server: it outlives the processes that use it, holds the locks of sessions whose client is gone
until it notices, and may end a commit that it was sent long after the client has given up. `SimulatedSink` is one
process's session with it and keeps the contract of `cdc/sinks/base.py`. Faults come from the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cdc.errors import CdcError, SinkRefused, SinkUnavailable, UnsupportedData
from cdc.model import ChangeBatch
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks.base import ApplyResult, ExistingTable
from tests.simulation.scheduler import Instance, Scheduler, SimulatedClock
from tests.simulation.statements import Statement, parse

__all__ = ["LOCK_SECONDS_MAX", "TARGETS", "Database", "Faults", "SimulatedSink"]

Key = tuple[Any, ...]
Row = dict[str, Any]
Place = tuple[str, Key]
TARGETS = "(targets)"
LOCK_SECONDS_MAX = 20.0
_NOTICE_SECONDS_MAX = 60.0  # how long a server takes to find out that a client is gone
_SLOW_COMMIT_SECONDS_MAX = 8.0


@dataclass(slots=True)
class Faults:
    """How likely a call is to fail, and how. `counts` says what has happened."""

    call: float = 0.0
    """Any statement: the connection is lost, or the server rolls back (dead-lock)."""
    commit: float = 0.0
    """The answer to a COMMIT is lost: it may have happened, not happen, or happen later."""
    death: float = 0.0
    """The process is killed at this point."""
    stop: float = 0.0
    """It is stopped at this point (SIGSTOP), for a while."""
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class _Duplicate(SinkRefused):
    """Somebody else was faster."""


class _LockTimeout(SinkUnavailable):
    """Waited for a lock in vain."""


@dataclass(eq=False)
class _Session:
    """One session at the server: what it has written and not committed, and what it has locked."""

    number: int
    instance: Instance | None
    is_alive: bool = True
    silence_seconds_max: float = float("inf")
    heard_at: float = 0.0
    writes: dict[Place, Row | None] = field(default_factory=dict)
    locks: set[Place] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"session-{self.number}"


class Database:
    """The server. `on_commit` is told of every commit, with the session that did it and the places of its rows."""

    def __init__(self, scheduler: Scheduler, faults: Faults) -> None:
        self.scheduler = scheduler
        self.faults = faults
        self.clock = SimulatedClock(scheduler)
        self.rows: dict[str, dict[Key, Row]] = {}
        self.definitions: dict[str, Statement] = {}
        self.sessions: dict[str, _Session] = {}
        self.on_commit: Callable[[_Session, list[Place]], None] = lambda _session, _places: None
        self.point: Callable[[Instance | None], None] = lambda _instance: None
        self.ids = itertools.count(1)
        self.shows_sessions = True
        """May users see and end each other's sessions?"""
        self._locked: dict[Place, _Session] = {}

    # -- sessions

    def connect(self, instance: Instance | None) -> _Session:
        session = _Session(next(self.ids), instance)
        self.sessions[session.name] = session
        return session

    def end(self, session: _Session) -> None:
        """The session is gone, and what it has not committed."""
        self.roll_back(session)
        session.is_alive = False
        self.sessions.pop(session.name, None)

    def leave(self, session: _Session) -> None:
        """The client is gone and has told nobody: the server notices at once, or later."""
        if self.scheduler.rng.random() < 0.5:
            self.end(session)
            return
        self._later(self.scheduler.rng.uniform(0, _NOTICE_SECONDS_MAX), session, self.end)

    def commit_later(self, session: _Session) -> None:
        """The server has been sent a COMMIT, and takes its time; nobody waits for the answer."""

        def commit(one: _Session) -> None:
            self.commit(one)
            self.end(one)

        self._later(self.scheduler.rng.uniform(0, _SLOW_COMMIT_SECONDS_MAX), session, commit)

    def _later(self, seconds: float, session: _Session, do: Callable[[_Session], None]) -> None:
        def act() -> None:
            self.scheduler.sleep(seconds)
            if session.is_alive:
                do(session)

        self.scheduler.spawn(act, f"server of {session.name}", None)

    # -- transactions

    def lock(self, session: _Session, place: Place) -> None:
        """Raises _LockTimeout."""
        deadline = self.scheduler.now + LOCK_SECONDS_MAX
        while (holder := self._locked.get(place, session)) is not session:
            self.faults.count("lock waits")
            silent_at = holder.heard_at + holder.silence_seconds_max
            if silent_at <= self.scheduler.now:
                self.faults.count("sessions ended for their silence")
                self.end(holder)
                continue
            if deadline <= self.scheduler.now:
                raise _LockTimeout(f"{session.name} waited in vain for {place[0]}{place[1]}")
            self.scheduler.wait(
                lambda holder=holder: self._locked.get(place) is not holder or not session.is_alive,  # type: ignore[misc]
                min(deadline, silent_at) - self.scheduler.now,
            )
            self.require(session)
        self._locked[place] = session
        session.locks.add(place)

    def held_by_others(self, session: _Session, table: str) -> Place | None:
        """The place of a row of the table that another session has locked."""
        found = (place for place, holder in self._locked.items() if place[0] == table and holder is not session)
        return next(found, None)

    def require(self, session: _Session) -> None:
        """Raises SinkUnavailable where the server has ended it."""
        if not session.is_alive:
            raise SinkUnavailable(f"{session.name} was ended by the server")

    def read(self, session: _Session, table: str) -> Mapping[Key, Row]:
        """What the session sees: what is committed, and its own. Good until the next turn."""
        seen = self.rows.get(table, {})
        if not session.writes:
            return seen
        seen = dict(seen)
        for (name, key), row in session.writes.items():
            if name == table:
                if row is None:
                    seen.pop(key, None)
                else:
                    seen[key] = row
        return seen

    def find(self, session: _Session, table: str, key: Key) -> Row | None:
        """One row, as the session sees it."""
        place = table, key
        if place in session.writes:
            return session.writes[place]
        return self.rows.get(table, {}).get(key)

    def commit(self, session: _Session) -> None:
        for (table, key), row in session.writes.items():
            if row is None:
                self.rows.get(table, {}).pop(key, None)
            else:
                self.rows.setdefault(table, {})[key] = row
        places = list(session.writes)
        self._release(session)
        self.on_commit(session, places)

    def roll_back(self, session: _Session) -> None:
        self._release(session)

    def _release(self, session: _Session) -> None:
        for place in session.locks:
            del self._locked[place]
        session.locks.clear()
        session.writes.clear()


class SimulatedSink:
    """`cdc.sinks.base.Sink`, for what streams and loads. To call what only DDL that is followed needs is an error."""

    name = "sink"
    kind: SinkKind = "postgresql"

    def __init__(self, database: Database, instance: Instance | None) -> None:
        self._database = database
        self._instance = instance
        self._session: _Session | None = None
        self._open: _Transaction | None = None

    # -- the contract

    def metadata_table(self, name: str) -> str:
        return f"_cdc_{name}"

    def create_metadata_namespace(self) -> None:
        """There is one."""

    def has_lost_race(self, error: CdcError) -> bool:
        return isinstance(error, _Duplicate)

    def has_waited_for_lock(self, error: CdcError) -> bool:
        return isinstance(error, _LockTimeout)

    def open(self) -> None:
        self.point()
        if self._fails(self._database.faults.call):
            raise SinkUnavailable("the sink cannot be reached")
        self._session = self._database.connect(self._instance)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is None or not session.is_alive or (self._instance is not None and self._instance.is_dead):
            return  # of a process that is dead the server is told otherwise, if at all
        self._database.end(session)

    def is_open(self) -> bool:
        return self._session is not None

    def cancel(self) -> None:
        """Statements take no time."""

    def hang_up(self) -> None:
        """Nor are there connections."""

    def session(self) -> str:
        return self._opened().name

    def is_session_alive(self, session: str) -> bool | None:
        self.point()
        return session in self._database.sessions if self._database.shows_sessions else None

    def kill_session(self, session: str) -> None:
        self.point()
        if (found := self._database.sessions.get(session)) is not None:
            self._database.faults.count("sessions ended")
            self._database.end(found)

    def ping(self) -> None:
        self._database.require(self._opened())

    def end_when_silent(self, seconds: float) -> None:
        self.call()
        self._opened().silence_seconds_max = seconds

    def transaction(self) -> _Transaction:
        return _Transaction(self, self._database)

    def begin(self, transaction: _Transaction) -> _Session:
        self.call()
        self._open = transaction
        return self._opened()

    def leave(self, session: _Session, *, is_over: bool) -> None:
        self._open = None
        if session.is_alive and not is_over and not (self._instance and self._instance.is_dead):
            self._database.roll_back(session)

    # -- targets

    def create_namespace(self, namespace: str) -> None:
        """There is one."""

    def inspect(self, target: TargetTable) -> ExistingTable | None:
        self.call()
        name, session = str(target), self._opened()
        if self._database.find(session, TARGETS, (name,)) is None:
            return None
        return ExistingTable({}, tuple(target.key), bool(self._database.read(session, name)))

    def absent(self, targets: Sequence[TargetTable]) -> list[TargetTable]:
        return [target for target in targets if self.inspect(target) is None]

    def differences(self, target: TargetTable, existing: ExistingTable) -> list[str]:
        return []

    def create_table(self, target: TargetTable) -> None:
        """In the open transaction, or in one of its own."""
        if self._open is not None:
            self._open.make(str(target))
            return
        with self.transaction() as tx:
            tx.make(str(target))
            tx.commit()

    def drop_table(self, target: TargetTable) -> None:
        """As above."""
        if self._open is not None:
            self._open.drop(str(target))
            return
        with self.transaction() as tx:
            tx.drop(str(target))
            tx.commit()

    # -- faults

    def point(self) -> None:
        """A point at which the process may be killed or stopped, or another one may have its turn."""
        self._database.point(self._instance)

    def call(self) -> None:
        """Before a statement. Raises SinkUnavailable where it is the seed's will, or the session is gone."""
        database = self._database
        database.point(self._instance)
        session = self._opened()
        database.require(session)
        session.heard_at = database.scheduler.now
        if database.scheduler.rng.random() >= database.faults.call:
            return
        if self._database.scheduler.rng.random() < 0.5:
            self._database.faults.count("roll-backs by the server")
            self._database.roll_back(session)
            raise SinkUnavailable("dead-lock: the transaction was rolled back")
        self.lose()
        raise SinkUnavailable("the connection was lost")

    def lose(self) -> None:
        """The connection is cut; the server may not know yet."""
        session, self._session = self._opened(), None
        self._database.faults.count("cuts at the sink")
        self._database.leave(session)

    def _opened(self) -> _Session:
        if self._session is None:
            raise SinkUnavailable("not connected")
        return self._session

    def _fails(self, chance: float) -> bool:
        return self._database.scheduler.rng.random() < chance


class _Transaction:
    """`SinkTransaction`."""

    def __init__(self, sink: SimulatedSink, database: Database) -> None:
        self._sink = sink
        self._database = database
        self._session: _Session
        self.is_over = False

    def __enter__(self) -> _Transaction:
        self._session = self._sink.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.leave(self._session, is_over=self.is_over)

    # -- rows

    def apply(self, change: ChangeBatch, target: TargetTable) -> ApplyResult:
        self._sink.call()
        table = self._table(target)
        gone = [row for images in change.delete_images() for row in _rows(images.to_pylist(), target)]
        put = [row for images in change.upsert_images() for row in _rows(images.to_pylist(), target)]
        for row in gone:
            self._delete(table, target, row)
        self._sink.call()
        for row in put:
            key = tuple(row[name] for name in target.key) if target.key else (next(self._database.ids),)
            self._write(table, key, row)
        return ApplyResult(upserted=len(put), deleted=len(gone))

    def _delete(self, table: str, target: TargetTable, row: Row) -> None:
        if target.key:
            key = tuple(row[name] for name in target.key)
            if self._database.find(self._session, table, key) is not None:
                self._write(table, key, None)
            return
        for key, found in self._database.read(self._session, table).items():
            if found == row:
                self._write(table, key, None)
                return
        raise UnsupportedData(f"no row {row} in {table}", table=str(target.definition.name))

    def load(self, rows: pa.RecordBatch, target: TargetTable) -> ApplyResult:
        self._sink.call()
        self._table(target)
        put = _rows(rows.to_pylist(), target)
        for row in put:
            key = tuple(row[name] for name in target.key) if target.key else (next(self._database.ids),)
            self._lock((str(target), key))
            # Who slept through a takeover finds that.
            if self._database.find(self._session, str(target), key) is not None:
                raise SinkRefused(f"{target} has {key} already", table=str(target.definition.name))
            self._write(str(target), key, row)
        return ApplyResult(upserted=len(put))

    def make(self, name: str) -> None:
        """A target, empty."""
        self._sink.call()
        self._lock((TARGETS, (name,)))
        if self._database.find(self._session, TARGETS, (name,)) is not None:
            raise SinkRefused(f"{name} is there already", table=name)
        self._write(TARGETS, (name,), {"name": name})

    def drop(self, name: str) -> None:
        """It waits for everybody who has a row of the target."""
        self._sink.call()
        self._lock((TARGETS, (name,)))
        while held := self._database.held_by_others(self._session, name):
            self._lock(held)
        for key in list(self._database.read(self._session, name)):
            self._write(name, key, None)
        self._write(TARGETS, (name,), None)

    def merge(self, target: TargetTable, new: TargetTable) -> ApplyResult:
        self._sink.call()
        table, shadow = self._table(target), self._table(new)
        assert target.key, f"{target} has no key"
        wanted = {tuple(row[name] for name in target.key): row for row in self._all(shadow).values()}
        gone = [key for key, row in self._all(table).items() if wanted.get(key) != row]
        for key in gone:
            self._write(table, key, None)
        self._sink.call()
        missing = [key for key in wanted if self._database.find(self._session, table, key) is None]
        for key in missing:
            self._write(table, key, wanted[key])
        return ApplyResult(upserted=len(missing), deleted=len(gone))

    def _all(self, table: str) -> dict[Key, Row]:
        return dict(self._database.read(self._session, table))

    def _table(self, target: TargetTable) -> str:
        name = str(target)
        if self._database.find(self._session, TARGETS, (name,)) is None:
            raise SinkRefused(f"there is no table {name}", table=str(target.definition.name))
        return name

    def clear(self, target: TargetTable) -> int:
        self._sink.call()
        table = self._table(target)
        keys = list(self._database.read(self._session, table))
        for key in keys:
            self._write(table, key, None)
        return len(keys)

    def _write(self, table: str, key: Key, row: Row | None) -> None:
        self._lock((table, key))
        self._session.writes[table, key] = row

    def _lock(self, place: Place) -> None:
        try:
            self._database.lock(self._session, place)
        except _LockTimeout:
            self._database.roll_back(self._session)
            raise

    # -- metadata

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        statement = self._begin(sql)
        if statement.kind == "select":
            return self._select(statement, parameters)
        if statement.kind == "union":
            return sorted({row for part in statement.parts for row in self._select(part, ())})
        if statement.kind == "regclass":
            return [(parameters[0] if parameters[0] in self._database.definitions else None,)]
        if statement.returned is not None:
            return [(self._insert(statement, parameters)[statement.returned],)]
        self._do(statement, parameters)
        return []

    def execute_count(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._do(self._begin(sql), parameters)

    def execute_on(self, target: TargetTable, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self.execute_count(sql, parameters)

    def rewrite(self, target: TargetTable, sql: str) -> int:
        raise AssertionError("no schedule fills columns")

    def execute_later(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.execute_count(sql, parameters)

    def _begin(self, sql: str) -> Statement:
        assert not self.is_over, "a statement after the end of its transaction"
        self._sink.call()
        return parse(sql)

    def _select(self, statement: Statement, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        now_us = self._database.clock.now_us()
        if statement.is_locking:
            for key in self._hits(statement, parameters):
                self._lock((statement.table, key))
        rows = [row for _, row in self._matches(statement, parameters)]
        if statement.order is not None:
            order = statement.order
            rows.sort(key=lambda row: row[order], reverse=statement.is_descending)
        rows = rows[statement.offset :][: statement.limit]
        first = statement.columns[0]
        if first.startswith(("count(", "min(", "max(")):
            return [tuple(_aggregate(column, rows) for column in statement.columns)]
        found = [tuple(now_us if column == ":now" else row[column] for column in statement.columns) for row in rows]
        return list(dict.fromkeys(found)) if statement.is_distinct else found

    def _hits(self, statement: Statement, parameters: Sequence[Any]) -> list[Key]:
        """What the conditions find in what is committed and its own, as an UPDATE sees it before it waits."""
        return [key for key, _ in self._matches(statement, parameters)]

    def _matches(self, statement: Statement, parameters: Sequence[Any]) -> list[tuple[Key, Row]]:
        now_us = self._database.clock.now_us()
        definition = self._database.definitions.get(statement.table)
        named = statement.key_of(definition.key, parameters, now_us) if definition is not None else None
        if named is not None:
            row = self._database.find(self._session, statement.table, named)
            return [(named, row)] if row is not None and statement.holds(row, parameters, now_us) else []
        seen = self._database.read(self._session, statement.table)
        return [(key, row) for key, row in seen.items() if statement.holds(row, parameters, now_us)]

    def _do(self, statement: Statement, parameters: Sequence[Any]) -> int:
        if statement.kind == "create":
            self._database.definitions.setdefault(statement.table, statement)
            self._database.rows.setdefault(statement.table, {})
            return 0
        if statement.kind == "insert":
            self._insert(statement, parameters)
            return 1
        count = 0
        for key in self._found_to_write(statement, parameters):
            now_us = self._database.clock.now_us()
            self._lock((statement.table, key))
            # READ COMMITTED: what it waited for is looked at as it is now.
            row = self._database.find(self._session, statement.table, key)
            if row is None or not statement.holds(row, parameters, now_us):
                continue
            count += 1
            if statement.kind == "delete":
                self._write(statement.table, key, None)
            else:
                values = [value.of(parameters, now_us) for value in statement.values]
                row = {**row, **dict(zip(statement.columns, values, strict=True))}
                definition = self._database.definitions.get(statement.table)  # None: a target, by what is not its key
                after = tuple(row[name] for name in definition.key) if definition is not None else key
                if after != key:
                    self._write(statement.table, key, None)
                    self._require_free(statement.table, after)
                self._write(statement.table, after, row)
        return count

    def _found_to_write(self, statement: Statement, parameters: Sequence[Any]) -> list[Key]:
        """The rows to wait for: by the key's columns alone, so that a row is found as it is after the wait."""
        definition = self._database.definitions.get(statement.table)
        return self._hits(statement.about_key(definition.key) if definition is not None else statement, parameters)

    def _insert(self, statement: Statement, parameters: Sequence[Any]) -> Row:
        definition = self._database.definitions[statement.table]
        now_us = self._database.clock.now_us()
        values = [value.of(parameters, now_us) for value in statement.values]
        row = dict(zip(statement.columns, values, strict=True))
        if definition.serial is not None:
            row.setdefault(definition.serial, next(self._database.ids))
        key = tuple(row[name] for name in definition.key)
        self._require_free(statement.table, key)
        self._write(statement.table, key, row)
        return row

    def _require_free(self, table: str, key: Key) -> None:
        self._lock((table, key))
        if self._database.find(self._session, table, key) is not None:
            self._database.roll_back(self._session)
            raise _Duplicate(f"{table} has {key}", table=table)

    # -- its end

    def commit(self) -> None:
        self._sink.call()
        self.is_over = True
        database, session = self._database, self._session
        if database.scheduler.rng.random() >= database.faults.commit:
            database.commit(session)
            self._sink.point()  # killed behind it, too
            return
        match database.scheduler.rng.randrange(3):
            case 0:
                database.faults.count("commits whose answer was lost")
                database.commit(session)
                self._sink.lose()
            case 1:
                database.faults.count("commits that never came")
                self._sink.lose()
            case _:
                database.faults.count("commits that came late")
                self._sink._session = None
                database.commit_later(session)
        raise SinkUnavailable("the connection was lost during COMMIT: it may have happened or not")


def _rows(rows: Sequence[Row], target: TargetTable) -> list[Row]:
    return [{column.name: row[column.name] for column in target.columns} for row in rows]


def _aggregate(column: str, rows: Sequence[Row]) -> Any:
    name, _, rest = column.partition("(")
    values = [row[rest[:-1]] for row in rows] if rest != "*)" else []
    if name == "count":
        return len(rows)
    return (min if name == "min" else max)(values, default=None)
