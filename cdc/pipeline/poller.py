"""The tables of one sink that are not followed by the binlog: each is run at its interval, several at a time.

A poller stands beside a sink's lanes, with a lease, table records and states of its own (`checkpoints.polls`), and no
position. What a run does is `snapshot.polling`'s to know; when, by which of the workers, and what becomes of one that
fails, is said here. A table's trouble is that table's: it is tried again at growing intervals, or parked, while the
others go on. What is everybody's (the sink is gone, the lease is lost) ends the session, and the next one begins with
what the metadata say.
"""

from __future__ import annotations

import functools
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdc.clock import Clock
from cdc.errors import (
    CdcError,
    ConfigError,
    LeaseLost,
    ProtocolError,
    SinkUnavailable,
    Stopping,
    TargetConflict,
    TransientError,
    UnsupportedData,
)
from cdc.log import Logger
from cdc.metrics import SinkMetrics
from cdc.model import TableName
from cdc.pipeline.approval import COMMANDS, is_said, not_waiting
from cdc.pipeline.held import StatementHeld, approved, held_statement
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.lanes import sink_of
from cdc.pipeline.lease import LeaseKeeper, Standby, is_overtaken
from cdc.pipeline.modes import LoadWriter
from cdc.pipeline.polled_definitions import admitted
from cdc.pipeline.retry import Retries, RetryPolicy, spent_hint
from cdc.pipeline.sourced import sourced
from cdc.pipeline.status import PipelineStatus
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.pipeline.text import iso_time
from cdc.pipeline.transform import Stamp, _is_kept, load_id_text, transformed_rows
from cdc.schema.strategy import TablePolling
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from cdc.source.connection import SourceConnection, SourceSettings, TableDenied, connect
from cdc.source.definitions import list_tables
from cdc.source.resultset import quote_table
from checkpoints.polls import PollState, PollStore, adopted
from checkpoints.rejects import RejectStore
from checkpoints.store import APPROVED, SKIPPED, Command, InSinkStore, LeaseHeld, TableRecord
from snapshot.kept import load_time_us
from snapshot.loader import LoadLimits, LoadPlan, MirrorWriter, RowWriter, TableLoader
from snapshot.parallel import SessionPool
from snapshot.polling import RunTools, TableRun

__all__ = ["Poller", "PollerSettings", "poll_document"]

_POLL_SECONDS = 0.2
# What is said of a command while its tables are run.
_LOADING = "loading"
# How often new tables are looked for.
_DISCOVER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PollerSettings:
    """What a poller needs of the configuration; `why_no_log` says why there is no stream beside it, '' where one is."""

    name: str
    holder: str
    workers: int
    batch_delay_seconds: float
    lease_seconds: float
    retry: RetryPolicy
    var_dir: Path
    load: LoadLimits
    why_no_log: str = ""
    standby: bool = False
    """Does it wait while another instance holds the lease?"""


@dataclass(frozen=True, slots=True)
class _Task:
    """One run of one table, by one worker."""

    record: TableRecord
    state: PollState
    polling: TablePolling
    may_replace: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of it: the new record and state, or an error."""

    task: _Task
    seconds: float
    record: TableRecord | None = None
    state: PollState | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Asked:
    """A command that is being carried out: the tables that have not run yet, and what went wrong."""

    command: Command
    left: set[TableName]
    messages: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        """Once, also where it is taken up again."""
        if not is_said(message, self.messages):
            self.messages.append(message)


def poll_document(state: PollState, polling: TablePolling) -> dict[str, Any]:
    """The `polling` object of a table in `cdc status --json`."""
    next_us = None
    if state.began_us is not None:
        next_us = state.began_us + int(polling.interval_seconds * 1_000_000)
    return {
        "strategy": state.strategy or polling.strategy,
        "configured": polling.strategy,
        "reason": state.reason,
        "modifier": state.modifier,
        "last_value": state.edge,
        "last_run": iso_time(state.began_us),
        "next_run": iso_time(next_us),
        "seconds": state.seconds,
        "what": state.what,
        "runs": state.runs,
        "rows_read": state.rows_read,
        "rows_written": state.rows_written,
        "rows_deleted": state.rows_deleted,
        "rows_missed": state.rows_missed,
        "rows_before": state.rows_before,
        "rows_after": state.rows_after,
        "is_estimate": state.is_estimate,
        "rows_without_modifier": state.undated,
        "rows_in_the_future": state.ahead,
        "attempts": state.attempts,
        "error": dict(state.error) if state.error else None,
        "problems": list(state.problems),
    }


class Poller:
    """Runs in a thread of its own until stopped, finished (`is_once`: each table once) or failed for good.

    To whoever runs pipelines it looks like one of them.
    """

    def __init__(
        self,
        *,
        settings: PollerSettings,
        source: SourceSettings,
        make_sink: Callable[[], Sink],
        routing: Routing,
        polling: Callable[[str, str], TablePolling],
        clock: Clock,
        hooks: Hooks,
        log: Logger,
        metrics: SinkMetrics,
        is_once: bool = False,
        on_end: Callable[[BaseException | None], None] = lambda _error: None,
    ) -> None:
        """`routing.matches` are the tables that are polled."""
        self.settings = settings
        self.status = PipelineStatus(clock)
        self.error: BaseException | None = None
        self.tables: list[TableRecord] = []
        self.is_finished = False
        self._source_settings = source
        self._make_sink = make_sink
        self._routing = routing
        self._polling = polling
        self._clock = clock
        self._hooks = hooks
        self._log = log.bind(sink=sink_of(settings.name), lane="polled")
        self._metrics = metrics
        self._is_once = is_once
        self._on_end = on_end
        self._is_stopping = threading.Event()
        self._commands: list[Command] = []
        self._commands_lock = threading.Lock()
        self._states: dict[TableName, PollState] = {}
        self._targets: list[TargetTable] = []
        self._sinks: list[Sink] = []
        self.retries = Retries(settings.retry, clock)
        self.status.retries = self.retries.to_dict
        self.standby = Standby(self.status, self._log)
        self._keeper = LeaseKeeper(
            sink=make_sink(),
            pipeline=settings.name,
            holder=settings.holder,
            seconds=settings.lease_seconds,
            clock=clock,
            status=self.status.to_dict,
            on_commands=self._take_commands,
            on_error=self._on_keeper_error,
            on_standby=self._on_standby,
        )
        self._thread = threading.Thread(target=self._run, name=f"poller-{settings.name}", daemon=True)

    # ------------------------------------------------------------ from outside

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_started(self) -> bool:
        """Has it begun (and perhaps ended)?"""
        return self._thread.ident is not None

    def request_stop(self) -> None:
        """Leave before the next batch."""
        self._is_stopping.set()

    def cancel(self) -> None:
        """Do not wait for the running statements: they are rolled back."""
        for sink in list(self._sinks):
            sink.cancel()

    def hang_up_on_silence(self) -> bool:
        """End its conversations with a sink that does not answer any more: they are begun anew. True when it was so."""
        is_silent = self._keeper.hang_up_on_silence()
        if self._keeper.take_lost():
            for sink in list(self._sinks):
                sink.hang_up()
        return is_silent

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end; True when it has come."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def release(self) -> None:
        """It is not going to be started."""
        self.status.set_state("stopped")
        self._keeper.stop()

    def oldest_unapplied_us(self) -> int | None:
        """Nothing waits between reading and writing."""
        return None

    @property
    def is_sink_healthy(self) -> bool | None:
        """Did the sink answer the last time it was asked? None before the first."""
        return self._keeper.is_sink_healthy

    def targets(self) -> list[TargetTable]:
        """The targets of the tables that have been run."""
        return list(self._targets)

    def queue_bytes(self) -> int:
        """Decoded bytes that wait for the sink: batches count as memory of a load."""
        return 0

    def polls(self) -> dict[TableName, Mapping[str, Any]]:
        """The `polling` objects of the status."""
        return {
            name: poll_document(state, self._polling(name.database, name.table))
            for name, state in dict(self._states).items()
        }

    # ------------------------------------------------------------ sessions

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set() and not self.is_finished:
                self._run_session()
            self.status.set_state("stopped")
        except Stopping:
            self.status.set_state("stopped")
        except BaseException as error:  # noqa: BLE001 - the end of the thread: recorded, shown, and the exit code
            self.error = error
            self.status.failed(error)
            self.status.set_state("failed")
            self._metrics.failed(error)
            say = self._log.info if is_overtaken(error, self.settings.holder) else self._log.error
            say("poller_failed", **_error_fields(error), exc_info=not isinstance(error, CdcError))
        finally:
            self._keeper.stop()
            self._on_end(self.error)

    def _run_session(self) -> None:
        self._keeper.require()
        session = _Session(self)
        try:
            with session:
                session.run()
        except Stopping:
            raise
        except Exception as error:
            self._keeper.require(error)
            if not isinstance(error, TransientError):
                raise
            self.status.failed(error)
            self.status.set_state("retrying")
            self._metrics.failed(error)
            pause = self.retries.failed(error, has_begun=session.are_servers_there, place="the polled tables")
            fields = _error_fields(error)
            self._log.warning("poller_retrying", attempt=pause.attempt, delay_s=round(pause.seconds, 2), **fields)
            if pause.has_spent:
                per_hour = self.settings.retry.per_hour
                self._log.warning("retry_budget_spent", per_hour=per_hour, **{**fields, "hint": spent_hint(error)})
            self._metrics.restarted()
            if self._clock.wait(self._is_stopping, pause.seconds):
                raise Stopping("stopped while waiting to retry") from error

    def check_alive(self) -> None:
        """Raises what ends every run from outside."""
        self._keeper.require()
        if self._is_stopping.is_set():
            raise Stopping("asked to stop")

    def pause(self) -> None:
        """Between two batches."""
        self.check_alive()
        seconds = self.settings.batch_delay_seconds
        if seconds and self._clock.wait(self._is_stopping, seconds):
            raise Stopping("asked to stop")

    def _take_commands(self, commands: list[Command]) -> None:
        with self._commands_lock:
            self._commands = commands

    def _on_standby(self, held: LeaseHeld) -> bool:
        """As a pipeline: commands are waited for by who is no standby, too."""
        if not (self.settings.standby or held.is_by_command):
            return False
        self.standby.waits(held)
        return True

    def _on_keeper_error(self, error: Exception) -> None:
        self.status.failed(error)
        self._metrics.failed(error)
        self._log.error("lease_keeper_failed", **_error_fields(error), exc_info=error)


def _error_fields(error: BaseException) -> dict[str, Any]:
    fields: dict[str, Any] = {"error_class": type(error).__name__, "message": str(error)}
    if isinstance(error, CdcError):
        fields["hint"] = error.hint
    return fields


class _Session:
    """From opening the sink to the first thing that makes a new start necessary. The workers live as long."""

    def __init__(self, poller: Poller) -> None:
        self._p = poller
        self._settings = poller.settings
        self._clock = poller._clock
        self._log = poller._log
        self._metrics = poller._metrics
        self._sink = poller._make_sink()
        self._store = InSinkStore(self._sink, self._settings.name)
        self._polls = PollStore(self._store)
        self._records: dict[TableName, TableRecord] = {}
        self._states: dict[TableName, PollState] = {}
        self._registry = TableRegistry(poller._routing, "postgresql", ())
        self._due: dict[TableName, float] = {}
        self._running: set[TableName] = set()
        self._forced: set[TableName] = set()
        self._again: set[TableName] = set()
        self._asked: dict[int, _Asked] = {}
        self._left: set[TableName] = set()
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._outcomes: queue.Queue[_Outcome] = queue.Queue()
        self._workers: list[threading.Thread] = []
        self._has_begun = False
        self.are_servers_there = False
        """Have both answered?"""
        self._ended = threading.Event()

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for _worker in self._workers:
            self._tasks.put(None)
        for worker in self._workers:
            worker.join()
        self._p._sinks = []
        self._sink.close()

    def run(self) -> None:
        """Raises TransientError, LeaseLost, Stopping, or what the poller cannot go on after."""
        self._p._sinks = [self._sink]
        self._sink.open()
        self._registry = TableRegistry(self._p._routing, self._sink.kind, ())
        self._store.epoch = self._p._keeper.acquire(self._p._is_stopping, self._sink.session())
        self._p.standby.has_lease()
        self._p._hooks("after_lease")
        self._states = self._polls.load()
        discover_at, has_looked = 0.0, False
        while True:
            self._p.check_alive()
            if self._clock.monotonic() >= discover_at:
                self._discover()
                discover_at = self._clock.monotonic() + _DISCOVER_SECONDS
                self.are_servers_there = True
            if not has_looked:  # what was asked before this began counts, also where it ends at once
                self._p._take_commands(self._store.queued_commands())
                has_looked = True
            self._take_commands()
            self._start_due()
            self._show()
            if self._is_over():
                return
            try:
                outcome = self._outcomes.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            self._take(outcome)

    def _is_over(self) -> bool:
        if not self._p._is_once or self._left or self._running or self._asked:
            return False
        self._p.is_finished = True
        return True

    def _show(self) -> None:
        self._p.tables = [self._records[name] for name in sorted(self._records)]
        self._p._states = dict(self._states)
        is_loading = any(record.state in ("pending", "snapshotting") for record in self._p.tables)
        self._p.status.set_state("snapshotting" if is_loading else "streaming" if self._running else "caught_up")

    # ------------------------------------------------------------ which tables

    def _discover(self) -> None:
        """Every table's record: what the metadata have, what is new on the source, what has gone."""
        if not self._has_begun:
            self._records = self._store.load_tables()
        with connect(self._p._source_settings) as source:
            listed, others = list_tables(source, self._p._routing.matches)
            present = {*listed, *self._denied(source, set(self._records) - set(listed))}
        if not self._has_begun:
            for name, kind in others:
                self._log.info("table_not_captured", table=str(name), reason=kind)
        changed = []
        for name in sorted(present | set(self._records)):
            if name in self._running:
                continue
            before = self._records.get(name)
            after = self._found(name, before, is_present=name in present)
            if after is None:
                continue
            self._records[name] = after
            self._states.setdefault(name, PollState())
            if after != before:
                changed.append(after)
            if after.state == "parked" and after == before and name in self._again:
                continue  # it was asked for, and waits for a worker
            if after.state in ("dropped", "parked"):
                self._leave(name, after)
            elif name not in self._due:
                self._due[name] = self._first_due(name, after)
                self._left.add(name)
        if changed:
            # All at once, so that the workers only ever update rows that are there.
            with self._sink.transaction() as tx:
                for record in changed:
                    self._store.save_table(tx, record)
                    self._polls.put(tx, record.source, self._states[record.source])
                self._store.fence(tx)
                tx.commit()
        self._has_begun = True

    def _leave(self, name: TableName, record: TableRecord) -> None:
        """The table has no run now; who has asked for one is told."""
        self._due.pop(name, None)
        self._left.discard(name)
        self._again.discard(name)
        self._forced.discard(name)
        error = (record.error or {}).get("message")
        self._answer(name, str(error) if error else f"{name} is not at the source any more, or not captured")

    def _denied(self, source: SourceConnection, missing: set[TableName]) -> Iterator[TableName]:
        """Those of them that we may not see any more: whether they have gone nobody says, and their run parks them."""
        for name in missing:
            if self._records[name].state in ("dropped", "parked"):
                continue
            try:
                source.query(f"SELECT * FROM {quote_table(name)} LIMIT 0")
            except TableDenied:
                yield name
            except TransientError:
                raise
            except CdcError:  # no such table, or no such database
                continue

    def _found(self, name: TableName, record: TableRecord | None, *, is_present: bool) -> TableRecord | None:
        target = ".".join(self._registry.place(name))
        if record is None:
            taken = self._in_conflict(name, target)
            return taken or adopted(self._store, name, target) or TableRecord(name, target, "pending")
        if not self._p._routing.matches(name.database, name.table):
            return replace(record, state="dropped", loaded_from=None, error=None)
        if record.state == "parked" and (record.error or {}).get("class") == TargetConflict.__name__:
            return self._in_conflict(name, target) or replace(record, state="pending", error=None)
        if record.state == "dropped" and is_present:
            return replace(record, state="pending", loaded_from=None, error=None)
        if not is_present and record.state not in ("dropped", "parked"):
            self._log.info("table_gone", table=str(name))
            return replace(record, state="dropped", loaded_from=None, error=None)
        if record.target != target:
            self._log.warning("table_routed_elsewhere", table=str(name), before=record.target, now=target)
            return TableRecord(name, target, "pending")
        return record

    def _in_conflict(self, name: TableName, target: str) -> TableRecord | None:
        """The record of a table whose target another one has, parked; None where it is free."""
        if self._registry.options(name).source_column is not None:
            return None
        others = [record for _, record in self._store.load_sharing(target)]
        others += [record for record in self._records.values() if record.target == target]
        for other in others:
            if other.source == name or other.state == "dropped":
                continue
            error = TargetConflict(
                f"{name} and {other.source} have one target, {target} on sink {self._sink.name}",
                table=str(name),
                hint="route them apart, or give the route a source_column by which they differ (tables.routes)",
            )
            self._log.error("table_parked", table=str(name), **_error_fields(error))
            return TableRecord(name, target, "parked", error=error.to_dict(since=iso_time(self._clock.now_us())))
        return None

    def _first_due(self, name: TableName, record: TableRecord) -> float:
        """Now; but a table whose last run was a moment before the service's restart waits for its turn."""
        state, polling = self._states.get(name), self._p._polling(name.database, name.table)
        if self._p._is_once or record.state != "ready" or state is None or state.began_us is None or state.attempts:
            return self._clock.monotonic()
        ago = max(0.0, (self._clock.now_us() - state.began_us) / 1e6)
        return self._clock.monotonic() + max(0.0, polling.interval_seconds - ago)

    # ------------------------------------------------------------ commands

    def _take_commands(self) -> None:
        with self._p._commands_lock:
            commands, self._p._commands = self._p._commands, []
        for command in commands:
            if command.id in self._asked or command.name not in ("snapshot", "retry", *COMMANDS):
                continue
            now = self._store.read_command(command.id)
            if now is None or now.state in ("done", "failed"):
                continue  # it was read before that
            asked = _Asked(command, set())
            is_taken_up = now.state == "running"  # by a session that has ended
            if is_taken_up and now.message not in ("", _LOADING):
                asked.messages.append(now.message)
            said = orjson.loads(command.argument)
            for database, table in said["tables"] if command.name in COMMANDS else said:
                self._take_command(asked, TableName(database, table), is_taken_up=is_taken_up)
            self._asked[command.id] = asked
            self._store.set_command(command.id, "running", "; ".join(asked.messages) or _LOADING)
        self._finish_commands()

    def _take_command(self, asked: _Asked, name: TableName, *, is_taken_up: bool) -> None:
        """For one of its tables."""
        command, record = asked.command, self._records.get(name)
        if record is None or record.state == "dropped":
            asked.say(f"{name} is not polled by this configuration")
        elif command.name in COMMANDS and is_taken_up and record.state != "parked":
            if record.state != "ready":  # else its run has ended
                asked.left.add(name)
                self._due[name] = self._clock.monotonic()
        elif command.name in COMMANDS and (problem := self._not_waiting(record, command)) is not None:
            asked.say(problem)
        elif command.name != "retry" or record.state == "parked":
            asked.left.add(name)
            self._again.add(name)
            self._take_decision(command, record)
            if command.name == "snapshot":
                self._forced.add(name)
            self._due[name] = self._clock.monotonic()

    def _take_decision(self, command: Command, record: TableRecord) -> None:
        """What the operator has said of what the table waits for, for its next run, which may be another instance's."""
        waits_for = held_statement(record)
        if waits_for is None or command.name == "retry":
            return
        if command.name == "ddl_skip":
            decided = replace(record, state="pending", error=None, step=SKIPPED)
        else:
            left_out = () if command.name == "ddl_apply" else record.left_out
            decided = replace(record, state="pending", error=None, step=approved(record), left_out=left_out)
        self._records[record.source] = decided
        with self._sink.transaction() as tx:
            self._store.save_table(tx, decided)
            self._store.fence(tx)
            tx.commit()
        if command.name in COMMANDS:
            self._log.info(
                "statement_settled",
                table=str(record.source),
                decision=command.name.removeprefix("ddl_"),
                by=orjson.loads(command.argument)["by"],
                statement=str(waits_for["text"])[:200],
            )

    @staticmethod
    def _not_waiting(record: TableRecord, command: Command) -> str | None:
        taken_up = SKIPPED if command.name == "ddl_skip" else APPROVED
        if record.state == "pending" and record.step.startswith(taken_up):
            return None  # an instance that is gone has taken the decision up
        return not_waiting(record, orjson.loads(command.argument))

    def _finish_commands(self) -> None:
        for number, asked in list(self._asked.items()):
            if not asked.left:
                message = "; ".join(asked.messages)
                self._store.set_command(number, "failed" if message else "done", message)
                del self._asked[number]

    def _answer(self, name: TableName, message: str = "") -> None:
        """The table has run, or cannot."""
        for asked in self._asked.values():
            if name in asked.left:
                asked.left.discard(name)
                asked.messages += [message] if message else []

    # ------------------------------------------------------------ runs

    def _start_due(self) -> None:
        """Give what is due, the longest first, to workers that have nothing to do."""
        now = self._clock.monotonic()
        waiting = sorted((at, name) for name, at in self._due.items() if at <= now and name not in self._running)
        for _, name in waiting[: self._settings.workers - len(self._running)]:
            record = self._records[name]
            if name in self._again:
                self._again.discard(name)
                record = replace(record, state="pending", error=None)
                if name in self._forced and self._registry.ddl_policies(name).ddl == "apply":
                    record = replace(record, left_out=())  # the target follows
                self._records[name] = record
            if len(self._workers) < self._settings.workers:
                self._start_worker()
            self._running.add(name)
            polling = self._p._polling(name.database, name.table)
            self._tasks.put(_Task(record, self._states[name], polling, name in self._forced))

    def _start_worker(self) -> None:
        worker = threading.Thread(target=self._work, name=f"poll-{self._sink.name}-{len(self._workers)}", daemon=True)
        self._workers.append(worker)
        worker.start()

    def _work(self) -> None:
        """A worker's thread: runs tables until the session ends."""
        sink = self._p._make_sink()
        store = InSinkStore(sink, self._settings.name)
        store.epoch = self._store.epoch
        source: SourceConnection | None = None
        named = ""
        sessions = SessionPool(functools.partial(connect, self._p._source_settings))
        self._p._sinks.append(sink)  # by several threads
        try:
            while (task := self._tasks.get()) is not None:
                began = self._clock.monotonic()
                try:
                    if self._ended.is_set():
                        return
                    if source is None:
                        source = connect(self._p._source_settings)
                    if not sink.is_open():
                        sink.open()
                        named = self._name_session(sink, store, instead_of=named)
                    run = self._table_run(source, sink, store, sessions, task.record)
                    record, state = run.run(
                        task.record,
                        task.state,
                        task.polling,
                        why_no_log=self._settings.why_no_log,
                        may_replace=task.may_replace,
                    )
                    seconds = self._clock.monotonic() - began
                    self._outcomes.put(_Outcome(task, seconds, record, replace(state, seconds=round(seconds, 3))))
                except BaseException as error:  # noqa: BLE001 - the session's thread decides what becomes of it
                    if source is not None:
                        source.close()
                    source = None
                    sink.close()
                    self._outcomes.put(_Outcome(task, self._clock.monotonic() - began, error=error))
                self._p.status.progress_done(str(task.record.source))
                self._clock.wait(self._p._is_stopping, self._settings.batch_delay_seconds)
        finally:
            sessions.close()
            sink.close()
            if source is not None:
                source.close()

    def _name_session(self, sink: Sink, store: InSinkStore, *, instead_of: str) -> str:
        """Who takes the lease over ends it, whatever it holds locks on; its name."""
        with sink.transaction() as tx:
            store.add_session(tx, sink.session(), instead_of=instead_of)
            tx.commit()
        return sink.session()

    def _table_run(
        self, source: SourceConnection, sink: Sink, store: InSinkStore, sessions: SessionPool, record: TableRecord
    ) -> TableRun:
        registry = TableRegistry(self._p._routing, sink.kind, [record])
        stamp = Stamp(load_id_text(self._clock.now_us()))
        transform = functools.partial(transformed_rows, stamp=stamp)
        batch_rows = self._p._routing.chunk_rows

        def writer(target: TargetTable) -> RowWriter:
            if target.mode == "mirror":
                return MirrorWriter(target)
            return LoadWriter(sink, store, target, load_time_us(source))

        def progress(table: TableName, *, rows: int, rows_estimate: int | None) -> None:
            self._p.status.progress(str(table), rows, rows_estimate)
            self._check_worker()

        loader = TableLoader(
            source=source,
            sink=sink,
            store=store,
            make_target=registry.make_target,
            transform=transform,
            options=registry.description,
            chunk_rows=batch_rows,
            sessions=sessions,
            limits=self._settings.load,
            accepts_hidden_cascades=lambda _database, _table: True,  # nothing hangs on what is logged
            hook=self._p._hooks,
            on_progress=progress,
            on_resume=self._on_load_resumed,
            make_writer=writer,
            spool_dir=self._settings.var_dir,
            may_remake=lambda table: registry.ddl_policies(table).ddl != "log",
        )
        tools = RunTools(
            make_target=registry.make_target,
            transform=transform,
            left_out=_left_out,
            options=registry.description,
            make_writer=writer,
            batch_rows=batch_rows,
            pause=self._pause_worker,
            admit=functools.partial(admitted, sink, store, registry),
            guard=self._settings.load.guard,
            sleep=self._sleep_worker,
            on_rows=lambda table, rows: progress(table, rows=rows, rows_estimate=None),
            hook=self._p._hooks,
            spool_dir=self._settings.var_dir,
        )
        return TableRun(source=source, sink=sink, store=store, loader=loader, tools=tools)

    def _on_load_resumed(self, plan: LoadPlan) -> None:
        rows = sum(loaded.rows for loaded in plan.loaded)
        self._log.info("load_resumed", table=str(plan.source), chunks=len(plan.loaded), rows=rows)

    def _check_worker(self) -> None:
        self._p.check_alive()
        if self._ended.is_set():
            raise Stopping("the session has ended")

    def _pause_worker(self) -> None:
        self._check_worker()
        self._p.pause()

    def _sleep_worker(self, seconds: float) -> None:
        self._check_worker()
        self._clock.wait(self._p._is_stopping, seconds)
        self._check_worker()

    # ------------------------------------------------------------ what came of it

    def _take(self, outcome: _Outcome) -> None:
        name = outcome.task.record.source
        self._running.discard(name)
        error = outcome.error
        if error is None:
            self._succeeded(outcome)
        elif isinstance(error, TableDenied):
            self._park(name, _as_unsupported(name, error))
        elif isinstance(error, UnsupportedData):
            self._park(name, error)
        elif isinstance(error, LeaseLost | Stopping | ConfigError) or not isinstance(error, CdcError):
            raise error
        elif isinstance(error, TransientError | ProtocolError):
            self._put_off(name, outcome.task.polling, error)
        else:
            raise error
        self._finish_commands()

    def _succeeded(self, outcome: _Outcome) -> None:
        record, state = outcome.record, outcome.state
        assert record is not None
        assert state is not None
        name, polling = record.source, outcome.task.polling
        self._p.retries.well()
        self._records[name], self._states[name] = record, state
        self._forced.discard(name)
        self._left.discard(name)
        if name not in self._again:
            self._answer(name)
        if record.state == "dropped":
            self._due.pop(name, None)
            self._log.info("table_gone", table=str(name))
            return
        self._due[name] = self._clock.monotonic() + max(0.0, polling.interval_seconds - outcome.seconds)
        if name in self._again:
            self._due[name] = self._clock.monotonic()
        elif self._p._is_once:
            self._due[name] = math.inf
        targets = {str(target): target for target in self._p._targets}
        if record.definition is not None:
            target = self._registry.make_target(record.definition, left_out=record.left_out)
            self._p._targets = list((targets | {str(target): target}).values())
        before = outcome.task.state
        if (state.strategy, state.reason) != (before.strategy, before.reason):
            self._log.info(
                "strategy_chosen",
                table=str(name),
                strategy=state.strategy,
                configured=polling.strategy,
                modifier=state.modifier,
                reason=state.reason,
            )
            for problem in state.problems:
                self._log.warning("strategy_problem", table=str(name), problem=problem)
        if state.rows_missed:
            self._log.warning(
                "rows_missed_by_modifier",
                table=str(name),
                rows=state.rows_missed,
                modifier=state.modifier,
                hint="their modifier was below the run's window: raise lookback_seconds, or see who writes it",
            )
        self._log.info(
            "table_polled",
            table=str(name),
            what=state.what,
            rows_read=state.rows_read,
            rows_written=state.rows_written,
            rows_deleted=state.rows_deleted,
            rows_before=state.rows_before,
            rows_after=state.rows_after,
            last_value=state.edge,
            seconds=round(outcome.seconds, 2),
        )
        self._metrics.polled(
            read=state.rows_read,
            written=state.rows_written,
            deleted=state.rows_deleted,
            before=sum(one.rows_before or 0 for one in self._states.values()),
            after=sum(one.rows_after or 0 for one in self._states.values()),
        )

    def _put_off(self, name: TableName, polling: TablePolling, error: CdcError) -> None:
        """Try that table again, later each time; the others go on."""
        if isinstance(error, SinkUnavailable):
            self._sink.ping()  # where the whole sink is gone, this says so, and ends the session
        state = self._polls.load().get(name, self._states[name])  # what has begun may be gone on with
        delay = self._p.settings.retry.pause_seconds(state.attempts)
        fields = error.to_dict(since=iso_time(self._clock.now_us()))
        state = replace(state, attempts=state.attempts + 1, error=fields)
        self._states[name] = state
        self._due[name] = self._clock.monotonic() + delay
        self._metrics.failed(error)
        self._metrics.poll_failed()
        self._p.status.failed(error, table=str(name))
        self._log.warning(
            "table_retrying",
            table=str(name),
            attempt=state.attempts,
            delay_s=round(delay, 2),
            strategy=polling.strategy,
            **_error_fields(error),
        )
        self._records[name] = self._store.load_tables().get(name, self._records[name])
        with self._sink.transaction() as tx:
            self._polls.put(tx, name, state)
            self._store.fence(tx)
            tx.commit()

    def _park(self, name: TableName, error: UnsupportedData) -> None:
        """Set one table aside, with the reason; the rest go on."""
        fields = error.to_dict(since=iso_time(self._clock.now_us()))
        # With the definition that the run made the target by: it is ours.
        record = self._store.load_tables().get(name, self._records[name])
        step = record.step if record.step.startswith(APPROVED) and not isinstance(error, StatementHeld) else ""
        record = replace(record, state="parked", error=fields, ready_at=None, loaded_from=None, step=step)
        state = replace(self._states[name], attempts=0, error=fields)
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            if not isinstance(error, StatementHeld):
                RejectStore(self._store).put(tx, name, fields, error.image)
            self._polls.put(tx, name, state)
            self._store.fence(tx)
            tx.commit()
        self._records[name], self._states[name] = record, state
        self._due.pop(name, None)
        self._left.discard(name)
        self._forced.discard(name)
        self._answer(name, str(error))
        self._p.status.failed(error, table=str(name))
        self._metrics.failed(error)
        self._metrics.poll_failed()
        self._log.error("table_parked", table=str(name), **_error_fields(error))


def _left_out(rows: pa.RecordBatch, target: TargetTable) -> pa.RecordBatch:
    """The rows that the target's filter does not keep, with the column that says whose they are."""
    assert target.row_filter is not None
    return sourced(rows.filter(pc.invert(_is_kept(rows, target.row_filter.condition))), target)


def _as_unsupported(name: TableName, error: TableDenied) -> UnsupportedData:
    return UnsupportedData(error.message, table=str(name), hint=error.hint)
