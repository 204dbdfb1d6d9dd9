"""One pipeline: one sink, with its own stream, position and retries.

The pipeline runs *sessions*. A session takes the state in the sink as the truth: it opens the sink, takes the lease,
reads the checkpoint and the tables' states, loads what is pending, and streams from the checkpoint. Whatever goes
wrong or has to change — a cut, a dead-lock, DDL, a table to park, a command — ends the session, and the next one
starts from the sink's state again. There is no other way back.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from cdc.clock import Clock
from cdc.errors import (
    BinlogPurged,
    CdcError,
    ProtocolError,
    SinkRefused,
    SinkUnavailable,
    SourceChanged,
    SourceUnavailable,
    Stopping,
    TargetConflict,
    TransientError,
    UnsupportedData,
)
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.log import Logger
from cdc.metrics import SinkMetrics
from cdc.model import (
    Cascade,
    FilePos,
    SchemaChange,
    ServerIdentity,
    SourcePosition,
    TableDefinition,
    TableName,
    TransactionRun,
    Xa,
    is_before,
)
from cdc.pipeline.applier import Applier
from cdc.pipeline.approval import Approvals
from cdc.pipeline.beside import LaneBeside, Side
from cdc.pipeline.brief import StreamLoads
from cdc.pipeline.channel import Abandoned, Channel, Failure, Progress
from cdc.pipeline.dealing import has_reached
from cdc.pipeline.frames import keep_frame
from cdc.pipeline.held import StatementHeld, approved, held_statement, require_allowed
from cdc.pipeline.hidden import HiddenCascades
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.lanes import sink_of
from cdc.pipeline.lease import LeaseKeeper, Standby, is_overtaken
from cdc.pipeline.loads import LoadWatch
from cdc.pipeline.merging import ShadowMerge
from cdc.pipeline.modes import LoadWriter
from cdc.pipeline.parts import PART, PartAttempts, PartLoads, part_of, read_only_session
from cdc.pipeline.reader import EMPTY_RUN_SECONDS, Reader
from cdc.pipeline.recovery import AutoReload, Recovery, is_purged, seed_again
from cdc.pipeline.retry import Retries, RetryPolicy, spent_hint
from cdc.pipeline.schema_step import DefinitionAudit, SchemaStep
from cdc.pipeline.status import PipelineStatus
from cdc.pipeline.table_steps import INTENT, SourceFacts, settled
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.pipeline.text import iso_time
from cdc.pipeline.transform import Stamp, left_out_rows, load_id_text, transformed_rows
from cdc.pipeline.upkeep import TargetMemory, TargetUpkeep
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import Effect
from cdc.schema.identifiers import is_shadow
from cdc.schema.keys import choose_key
from cdc.schema.modes import keeps_rows
from cdc.schema.sharing import conflict
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from cdc.sinks.target_facts import drop_unique, folds_table_names
from cdc.source.assembler import Assembler, Output, PreparedXa, RunLimits
from cdc.source.cascades import CascadeGraph
from cdc.source.connection import SourceConnection, SourceSettings, connect, require_server
from cdc.source.definitions import list_tables, read_definition
from cdc.source.positions import oldest_position, semi_sync_wait_seconds, uses_gtid, visible_position, written_file_pos
from cdc.source.same_log import ahead_of, why_another_log
from cdc.source.stream import BinlogStream
from checkpoints.checkpoint import Checkpoint
from checkpoints.history import ENTRIES_MAX
from checkpoints.lanes import forget_table, tables_of_tables
from checkpoints.polls import polled_before
from checkpoints.rejects import RejectStore
from checkpoints.store import APPROVED, MAKING, Command, InSinkStore, LeaseHeld, TableRecord
from snapshot.guards import GuardLimits
from snapshot.kept import load_time_us
from snapshot.loader import LoadLimits, LoadPlan, MirrorWriter, RowWriter, TableLoader, stale_columns
from snapshot.order import in_load_order
from snapshot.parallel import SessionPool
from snapshot.part import PartLoader
from snapshot.together import TableSize, TablesTogether, in_groups, table_sizes
from snapshot.writers import WriterSessions

__all__ = ["Pipeline", "PipelineSettings"]

_POLL_SECONDS = 0.2
# A side has to be where its lane is within moments, as the lane waits for it there.
_SIDE_POLL_SECONDS, _SIDE_EMPTY_RUN_SECONDS = 0.05, 0.2
# How long a checkpoint that the source does not know yet may stay so: under semi-synchronous replication the stream
# runs ahead of @@gtid_executed by as long as the source waits for its replica.
_AHEAD_SECONDS_MAX = 10.0
# How long a transaction may be in the log before a SELECT sees it, semi-synchronous waits aside: the engine's commit.
_VISIBLE_SECONDS = 1.0
# How long a semi-synchronous wait may be to be waited for where nothing is lost by asking again.
_LAG_SECONDS_MAX = 60.0
_FIRST_POSITION = 4
# What is said of a command whose reload waits for a side; one that says otherwise has begun.
_WAITS = "waiting for another load"


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What one pipeline needs of the configuration."""

    name: str
    holder: str
    server_id: int
    limits: RunLimits
    age_seconds_max: float
    queue_bytes_max: int
    lease_seconds: float
    retry: RetryPolicy
    var_dir: Path
    load: LoadLimits
    drift_seconds: float = 3600
    """How often targets are compared with what the mapping makes; 0: once a session."""
    lane: int | None = None
    """Which of the sink's lanes it is, None for the only one."""
    standby: bool = False
    """Does it wait while another instance holds the lease?"""
    recovery: Recovery = field(default_factory=Recovery)
    side: int | None = None
    """Which of the sink's sides it is (`pipeline.beside`), None for a lane."""
    history_entries_max: int = ENTRIES_MAX
    beside_rows_min: int = 0
    """How many rows are loaded beside the stream, at least; 0: any, and at a first start, too."""
    queue_bytes_beside: int | None = None
    """`queue_bytes_max` while there are sides; None: the same."""


class _SessionEnd(Exception):
    """Start the next session at once."""


def _nothing(*_: object) -> None:
    """Nobody wants to know."""


class Pipeline:
    """Runs sessions in a thread of its own until stopped, finished (`until`) or failed for good."""

    def __init__(
        self,
        *,
        settings: PipelineSettings,
        source: SourceSettings,
        make_sink: Callable[[], Sink],
        routing: Routing,
        clock: Clock,
        hooks: Hooks,
        log: Logger,
        metrics: SinkMetrics,
        until: FilePos | None = None,
        on_lease: Callable[[InSinkStore, SourceConnection], None] = _nothing,
        on_end: Callable[[BaseException | None], None] = _nothing,
        beside: LaneBeside | None = None,
        side: Side | None = None,
    ) -> None:
        """`on_lease` is called in each session that has the lease, before it reads anything; `on_end` once, with the
        error if there was one.

        `beside`: who loads tables for a lane; None: its sessions do. `side`: where a side meets its lane."""
        self.settings = settings
        self.status = PipelineStatus(clock)
        self.error: BaseException | None = None
        """Why the pipeline ended, None when it was stopped or has finished."""
        self.tables: list[TableRecord] = []
        self.is_finished = False
        self.followed: ServerIdentity | None = None
        """The source that this session has checked its checkpoint against; None before that, and between sessions."""
        self._doubt: SourceUnavailable | None = None
        self._reader: Reader | None = None
        self._source_settings = source
        self._make_sink = make_sink
        self._routing = routing
        self._clock = clock
        self._hooks = hooks
        self._log = log.bind(sink=sink_of(settings.name))
        if settings.lane is not None:
            self._log = self._log.bind(lane=settings.lane)
        if settings.side is not None:
            self._log = self._log.bind(side=settings.side)
        self._beside = beside
        self._side = side
        self._metrics = metrics
        self._until = until
        self._on_lease = on_lease
        self._on_end = on_end
        self._is_stopping = threading.Event()
        self._commands: list[Command] = []
        self._taken_up: set[int] = set()
        self._part_attempts = PartAttempts()
        self._commands_lock = threading.Lock()
        self._channel: Channel | None = None
        self._applying: TransactionRun | None = None
        self._sink: Sink | None = None
        self._writers: WriterSessions | None = None
        self._forced: set[TableName] = set()
        self._targets: list[TargetTable] = []
        self.targets_seen = TargetMemory()
        self.hidden_cascades = HiddenCascades(routing)
        self.retries = Retries(settings.retry, clock)
        self.status.retries = self.retries.to_dict
        self._stuck_at: SourcePosition | None = None
        """The end of what the sink could not take the last time."""
        self.standby = Standby(self.status, self._log)
        self._keeper = LeaseKeeper(
            sink=make_sink(),
            pipeline=settings.name,
            holder=settings.holder,
            seconds=settings.lease_seconds,
            clock=clock,
            status=self.status.to_dict,
            on_commands=self.take_commands,
            on_error=self._on_keeper_error,
            on_standby=self._on_standby,
        )
        self._thread = threading.Thread(target=self._run, name=f"pipeline-{settings.name}", daemon=True)

    # ------------------------------------------------------------ from outside

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_started(self) -> bool:
        """Has it begun (and perhaps ended)?"""
        return self._thread.ident is not None

    def take_lease(self, is_stopping: threading.Event, applier_session: str) -> int:
        """Become the holder before the first session, for whoever writes in `applier_session`; the epoch.

        Raises as `LeaseKeeper.acquire`. `release` ends it where `start` does not follow.
        """
        return self._keeper.acquire(is_stopping, applier_session)

    @property
    def epoch(self) -> int:
        """The number of the lease's latest session."""
        return self._keeper.epoch

    def force(self, tables: Iterable[TableName]) -> None:
        """Before it begins: rows of these may be replaced that this deployment did not write."""
        self._forced.update(tables)

    def release(self) -> None:
        """It is not going to be started: let the lease go."""
        self.status.set_state("stopped")
        self._keeper.stop()

    def request_stop(self) -> None:
        """Finish the open sink transaction, then leave."""
        self._is_stopping.set()

    def cancel(self) -> None:
        """Do not wait for the running statement: it is rolled back."""
        for sink in self._writing_sinks():
            sink.cancel()

    def _writing_sinks(self) -> list[Sink]:
        sink, writers = self._sink, self._writers
        return [*([sink] if sink is not None else []), *(writers.sinks if writers is not None else [])]

    def hang_up_on_silence(self) -> bool:
        """End its conversations with a sink that does not answer any more: they are begun anew. True when it was so."""
        is_silent = self._keeper.hang_up_on_silence()
        if self._keeper.take_lost():
            for sink in self._writing_sinks():
                sink.hang_up()
        return is_silent

    def check_source_again(self, doubt: SourceUnavailable) -> None:
        """The source may not be the one any more that is followed: end the session for `doubt`. The next one looks."""
        self._doubt = doubt

    def source_silent_seconds(self) -> float:
        """For how long the stream has waited for the source, which sends heartbeats; 0 while there is none."""
        reader = self._reader
        return reader.silent_seconds() if reader is not None else 0.0

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end; True when it has come."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def oldest_unapplied_us(self) -> int | None:
        """Commit time of the oldest transaction that is being applied or queued."""
        run = self._applying
        if run is not None and run.transaction_count:
            value = run.commit_times_us[0].as_py()
            return int(value) if value is not None else None
        channel = self._channel
        return channel.head_commit_us() if channel is not None else None

    @property
    def is_sink_healthy(self) -> bool | None:
        """Did the sink answer the last time it was asked (twice a second)? None before the first."""
        return self._keeper.is_sink_healthy

    def targets(self) -> list[TargetTable]:
        """The targets of the tables that are loaded."""
        return list(self._targets)

    def queue_bytes(self) -> int:
        """Decoded bytes that wait for the sink."""
        channel = self._channel
        return channel.byte_count if channel is not None else 0

    # ------------------------------------------------------------ sessions

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set() and not self.is_finished:
                self._run_session()
                if self._side is not None and self._side.rest(self._is_stopping):
                    self.is_finished = True
            self.status.set_state("stopped")
        except Stopping:
            self.status.set_state("stopped")
        except BaseException as error:  # noqa: BLE001 - the end of the thread: recorded, shown, and the exit code
            self.error = error
            self.status.failed(error)
            self.status.set_state("failed")
            self._metrics.failed(error)
            self._keep_frame(error)
            say = self._log.info if is_overtaken(error, self.settings.holder) else self._log.error
            say("pipeline_failed", **_error_fields(error), exc_info=not isinstance(error, CdcError))
        finally:
            self._keeper.stop()
            self._on_end(self.error)

    def _keep_frame(self, error: BaseException) -> None:
        """Keep the event that was not understood, for inspection; the oldest of many goes."""
        if not isinstance(error, ProtocolError) or not error.frame:
            return
        try:
            path = keep_frame(self.settings.var_dir, self.settings.name, error.frame, self._clock.now_us())
        except OSError as problem:
            self._log.warning("frame_not_kept", directory=str(self.settings.var_dir), message=str(problem))
        else:
            self._log.warning("frame_kept", path=str(path), bytes=len(error.frame))

    def _run_session(self) -> None:
        self._keeper.require()
        session = _Session(self)
        try:
            session.run()
        except _SessionEnd:
            return
        except Stopping:
            raise
        except Exception as error:
            self._keeper.require(error)
            if not isinstance(error, TransientError):
                raise
            self.status.failed(error)
            self.status.set_state("retrying")
            self._metrics.failed(error)
            pause = self.retries.failed(error, has_begun=session.has_begun, place=str(self.status.position))
            fields = _error_fields(error)
            self._log.warning("pipeline_retrying", attempt=pause.attempt, delay_s=round(pause.seconds, 2), **fields)
            if pause.has_spent:
                per_hour = self.settings.retry.per_hour
                self._log.warning("retry_budget_spent", per_hour=per_hour, **{**fields, "hint": spent_hint(error)})
            self._metrics.restarted()
            if self._clock.wait(self._is_stopping, pause.seconds):
                raise Stopping("stopped while waiting to retry") from error

    def recovered(self, position: SourcePosition) -> bool:
        """The stream has come to `position`: the next trouble is a new one, unless the sink was stuck further on."""
        if self._stuck_at is not None and is_before(position, self._stuck_at):
            return False
        self.retries.well()
        self._stuck_at = None
        return True

    def take_commands(self, commands: list[Command]) -> None:
        """From the lease keeper: what is asked of this pipeline."""
        with self._commands_lock:
            self._commands = [one for one in commands if one.state == "queued" and one.id not in self._taken_up]

    def _on_standby(self, held: LeaseHeld) -> bool:
        """A command is waited for by who is no standby, too: a service would end for good for a `cdc snapshot`.

        For the leases of further lanes, and of sides, waits who has the first one (`acquire_under`).
        """
        is_first = self.settings.side is None and self.settings.lane in (None, 1)
        if not is_first or not (self.settings.standby or held.is_by_command):
            return False
        self.standby.waits(held)
        return True

    def _on_keeper_error(self, error: Exception) -> None:
        self.status.failed(error)
        self._metrics.failed(error)
        self._log.error("lease_keeper_failed", **_error_fields(error), exc_info=error)

    def _has_commands(self) -> bool:
        with self._commands_lock:
            return bool(self._commands)


def _spool_dir(settings: PipelineSettings) -> Path:
    """Where tables without a key lie on their way."""
    return settings.load.staging.directory if settings.load.staging is not None else settings.var_dir


def _message(record: TableRecord) -> Any:
    return (record.error or {}).get("message")


def _is_to_load(record: TableRecord) -> bool:
    """Is it loaded at the beginning of a session?

    A pending table with a position is loaded once the stream has passed it (`_record_change`).
    """
    return record.state in ("pending", "snapshotting") and record.ready_at is None


def _anew(tables: TableRegistry, name: TableName) -> TableRecord:
    """The table's record as one that is to be loaded."""
    record = tables.record(name)
    assert record is not None, "it is captured"
    anew = replace(record, state="pending", loaded_from=None, error=None, step="")
    return replace(anew, ready_at=None, ready_server=None)


def _has_shadow(record: TableRecord, tables: TableRegistry) -> bool:
    """Is the table such that a load beside can be merged into its target?

    Rows that are gone at the source are nowhere but in the target of a table that keeps them; without a key there is
    nothing to tell rows by; of a target that is shared only some rows are the table's; and a target that lacks columns
    by the operator's word stays so.
    """
    if not record.is_complete or not record.key or record.definition is None or record.left_out:
        return False
    options = tables.options(record.source)
    return options.mode == "mirror" and options.source_column is None and not keeps_rows(record.options)


def _types(definition: TableDefinition | None) -> set[tuple[str | bool | None, ...]]:
    columns = definition.columns if definition is not None else ()
    return {(c.name, c.column_type, c.is_nullable, c.charset, c.collation) for c in columns}


def _column_names(definition: TableDefinition | None) -> set[str]:
    return {column.name for column in definition.columns} if definition is not None else set()


def _sets_back(command: Command, record: TableRecord) -> bool:
    """Does the table begin anew by the command?

    Not by one that was taken up before: what has been loaded since is what it asked for.
    """
    if command.state != "queued":
        return False
    is_colliding = (record.error or {}).get("class") == TargetConflict.__name__  # found so when this session began
    return command.name == "snapshot" or (record.state == "parked" and not is_colliding)


def _failures_said(command: Command) -> list[str]:
    """What was said of reloads that it asked for, and that were given up (`beside`)."""
    said = command.message.removeprefix(_WAITS).removeprefix("; ")
    return [said] if command.state == "running" and said not in ("", "loading") else []


def _error_fields(error: BaseException) -> dict[str, Any]:
    fields: dict[str, Any] = {"error_class": type(error).__name__, "message": str(error)}
    if isinstance(error, CdcError):
        fields |= {"hint": error.hint, "position": error.position}
    return fields


class _Session:
    """From opening the sink to the first thing that makes a new start necessary."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._p = pipeline
        self._settings = pipeline.settings
        self._clock = pipeline._clock
        self._hooks = pipeline._hooks
        self._log = pipeline._log
        self._status = pipeline.status
        self._metrics = pipeline._metrics
        self._sink = pipeline._make_sink()
        self._store = InSinkStore(self._sink, self._settings.name)
        self._store.history.entries_max = self._settings.history_entries_max
        self._keeper = pipeline._keeper
        self._server: ServerIdentity | None = None
        self._sessions = SessionPool(self._connect, pipeline.settings.load.guard.slots)
        self._writers = WriterSessions(
            pipeline._make_sink,
            self._store,
            count_max=self._settings.load.writers - 1,
            on_refused=self._on_writer_refused,
        )
        self._polled: dict[TableName, TableRecord] = {}
        self._running_commands: list[Command] = []
        self._parts: list[Command] = []
        self._parts_wait_until: SourcePosition | None = None
        self._has_heard = False
        self._audit: DefinitionAudit | None = None
        self._is_audit_due = False
        self._has_put_off = False
        self._upkeep: TargetUpkeep | None = None
        self._stream_loads: StreamLoads | None = None
        self.has_begun = False
        """Have both servers answered?"""

    def run(self) -> None:
        """Raises _SessionEnd, TransientError, or what the pipeline cannot go on after."""
        try:
            self._p._sink, self._p._writers = self._sink, self._writers
            self._p._doubt = None  # what it was about is checked now
            self._sink.open()
            self._store.epoch = self._keeper.acquire(self._p._is_stopping, self._sink.session())
            self._p.standby.has_lease()
            self._hooks("after_lease")
            with connect(self._p._source_settings) as source:
                self.has_begun = True
                self._server = source.identity()
                self._p._on_lease(self._store, source)
                checkpoint = self._checkpoint(source)
                if self._p._beside is not None:
                    self._p._beside.join(self._store, checkpoint, source.identity(), self._check_alive)
                self._stream_loads = self._choose_by(source)
                tables = self._tables(source)
                if pruned := self._store.prune_history(oldest_position(source)):
                    self._log.info("history_pruned", entries=pruned)
                self._store.begin_histories(tables.records())
                checkpoint = self._settle_statements(source, tables, checkpoint)
                self._merge_shadows(tables)
                self._p.hidden_cascades.find(source, tables)  # with the tables that commands take up again
                was_purged = self._is_behind_gap(source, checkpoint)
                try:
                    waits = self._load_beside(source, tables)
                    self._load_pending(source, tables, checkpoint.position, waits)
                    self._load_parts(source, tables, checkpoint.position)
                except BinlogPurged as error:
                    if not was_purged:
                        raise  # while it loaded: the next load would meet the same
                    self._seed_again(source, tables, error)
                self._settle_cascades(source, tables)
                try:
                    self._stream(source, tables, checkpoint)
                except BinlogPurged as error:
                    self._seed_again(source, tables, error)
        finally:
            self._p.followed = None
            self._writers.close()
            self._p._writers = None
            self._p._sink = None
            self._p._channel = None
            self._p._applying = None
            self._sessions.close()
            self._sink.close()

    # ------------------------------------------------------------ where we are

    def _connect(self) -> SourceConnection:
        """A further session on the source: of the server that the checkpoint was checked against, and no other."""
        source = connect(self._p._source_settings)
        if self._server is not None:
            try:
                require_server(source.identity(), self._server, source.settings)
            except BaseException:
                source.close()
                raise
        return source

    def _checkpoint(self, source: SourceConnection) -> Checkpoint:
        """The sink's checkpoint, checked against the source; a first one at a visible position when there is none."""
        checkpoint, committed_us = self._store.load_checkpoint()
        if checkpoint is None:
            checkpoint = Checkpoint(visible_position(source), self._store.last_sequence() + 1)
            with self._sink.transaction() as tx:
                self._store.save(tx, checkpoint)
                tx.commit()
            committed_us = self._clock.now_us()
            self._log.info("checkpoint_begun", position=str(checkpoint.position))
        else:
            self._check_source(source, checkpoint)
        is_same = checkpoint.position.server == source.identity()
        self._status.set_checkpoint(checkpoint.position, committed_us, is_same_server=is_same)
        self._p.followed = source.identity()
        return checkpoint

    def _check_source(self, source: SourceConnection, checkpoint: Checkpoint) -> None:
        """Refuse a source that does not have what the sink has."""
        position = checkpoint.position
        identity = source.identity()
        if position.server.flavor != identity.flavor:
            raise SourceChanged(
                f"the checkpoint was taken from a {position.server.flavor} server, "
                f"the source is {identity.flavor}: {self._p._source_settings.address}",
                hint="point source.url at the old server, or load anew: `cdc checkpoint reset` and `cdc run`",
                position=str(position),
            )
        wants_gtid = uses_gtid(source)
        if position.gtid is None or not wants_gtid:
            if position.file is None:
                raise SourceChanged(
                    "the checkpoint has a GTID set only, and the source is to be followed by file and position",
                    hint="set source.position: gtid, or load anew: `cdc checkpoint reset` and `cdc run`",
                    position=str(position),
                )
            if position.server != identity:
                raise SourceChanged(
                    f"the source {self._p._source_settings.address} is another server ({identity.uuid}) than the "
                    f"checkpoint's ({position.server.uuid}); file positions of one mean nothing on the other",
                    hint="use GTIDs for failover, or load anew: `cdc checkpoint reset` and `cdc run`",
                    position=str(position),
                )
        by_gtid = wants_gtid and position.gtid is not None
        if by_gtid or isinstance(position.gtid, MysqlGtidSet):
            self._check_not_ahead(source, position)
        written = written_file_pos(source)
        if position.server == identity and position.file is not None and position.file > written:
            raise SourceChanged(
                f"the checkpoint is {position.file}, past the end of the source's log, {written}",
                hint="the log was reset, or the server restored: load anew with `cdc checkpoint reset` and `cdc run`",
                position=str(position),
            )
        if reason := why_another_log(source, position, by_gtid=by_gtid):
            raise SourceChanged(
                f"the log of {self._p._source_settings.address} is not the one that was read: {reason}; the checkpoint "
                f"is {position}",
                hint="the log was reset, or lost its end in a crash, and has grown since: load anew with "
                "`cdc checkpoint reset` and `cdc run`",
                position=str(position),
            )

    def _check_not_ahead(self, source: SourceConnection, position: SourcePosition) -> None:
        # As long as a commit may wait: a tail that is there, and not visible yet, is not lost.
        seconds_max = _AHEAD_SECONDS_MAX + semi_sync_wait_seconds(source)
        deadline = self._clock.monotonic() + seconds_max
        has_said = False
        while True:
            missing = self._missing(source, position)
            if not missing:
                return
            if self._clock.monotonic() > deadline:
                raise SourceChanged(
                    f"sink {self._sink.name} has transactions that the source does not have: {missing}",
                    hint="the source lost its tail, was reset or restored, or is a replica that lags: bring back the "
                    "right server, or load anew: `cdc checkpoint reset` and `cdc run`",
                    position=str(position),
                )
            if not has_said:
                self._log.info("source_is_behind", missing=str(missing), seconds_max=seconds_max)
                has_said = True
            if self._clock.wait(self._p._is_stopping, 0.5):
                raise Stopping("stopped while the source was checked")

    @staticmethod
    def _missing(source: SourceConnection, position: SourcePosition) -> MysqlGtidSet | MariadbGtidList:
        """What of the position's transactions the source does not have."""
        if isinstance(position.gtid, MysqlGtidSet):
            executed = MysqlGtidSet.parse(source.query_text("SELECT @@GLOBAL.gtid_executed")[0][0] or "")
            return position.gtid.subtract(executed)
        assert position.gtid is not None, "it is followed by GTID"
        return ahead_of(source, position.gtid, is_same_server=position.server == source.identity())

    def _tables(self, source: SourceConnection) -> TableRegistry:
        """Every table's state: what the metadata knows, what is new on the source, what commands ask for."""
        records = {name: self._settled(record) for name, record in self._store.load_tables().items()}
        if self._p._side is not None:
            for record in records.values():
                if not is_shadow(record.target):  # perhaps by a commit that was not answered
                    self._p._side.has_joined_target(record.source)
        self._polled = polled_before(self._store)
        identity = source.identity()
        present, others = list_tables(source, self._p._routing.matches)
        versioned = {name for name, kind in others if kind == "system versioned"}
        ignored = {name for name, _ in others} - versioned  # views and sequences have no rows of their own
        for name, kind in others:
            self._log.info("table_not_captured", table=str(name), reason=kind)
        changed: list[TableRecord] = []
        tables = TableRegistry(
            self._p._routing, self._sink.kind, (), ignored, folds_names=folds_table_names(self._sink)
        )
        # What an earlier instance began comes next: a name that is new may be one that it has given to a target.
        is_begun = any(self._is_followed(record) and record.step.startswith(INTENT) for record in records.values())
        there = {*present, *versioned, *ignored}
        self._forget_gone(records, there)
        # A table that is new may be one that is known by a name that is gone: the stream says so, if that was a RENAME.
        has_gone = any(self._is_followed(record) and record.source not in there for record in records.values())
        written = written_file_pos(source) if has_gone else None
        for name in sorted((set(present) | set(records) | versioned) - (ignored - set(records))):
            before = records.get(name)
            if is_begun and (before is None or before.state == "dropped"):
                self._has_put_off = True
                if before is not None:
                    tables.put(before)
                continue
            after = self._record_at_start(name, before, is_present=name in set(present), server=identity)
            if written is not None and before is None and after.state == "pending":
                after = replace(after, ready_at=written, ready_server=identity)
            tables.put(after)
            if after != before:
                changed.append(after)
        for record in self._collisions(tables):
            before = records.get(record.source)
            is_known = before is not None and before.state == "parked" and _message(before) == _message(record)
            record = before if before is not None and is_known else record
            if not is_known:
                said = record.error or {}
                fields = {"error_class": said.get("class"), "message": said.get("message"), "hint": said.get("hint")}
                self._log.error("table_parked", table=str(record.source), **fields)
            tables.put(record)
            changed[:] = [r for r in changed if r.source != record.source] + ([] if is_known else [record])
        self._p.hidden_cascades.find(source, tables)
        commands = self._take_commands(tables, changed)
        if changed:
            with self._sink.transaction() as tx:
                for record in changed:
                    self._store.save_table(tx, record, is_known=None if record.source in records else False)
                self._store.fence(tx)
                tx.commit()
        self._running_commands = commands
        self._p.tables = tables.records()
        if self._p._beside is not None:
            self._p._beside.published()
        return tables

    def _is_followed(self, record: TableRecord) -> bool:
        return record.state == "ready" and self._p._routing.matches(record.source.database, record.source.table)

    def _forget_gone(self, records: dict[TableName, TableRecord], present: Collection[TableName]) -> None:
        """Tables that are gone at the source, and of which nothing is left on the sink, are no more spoken of."""
        gone = [
            record
            for record in records.values()
            if record.state == "dropped" and record.loaded_from is None and record.source not in present
        ]
        gone = [record for record in gone if record.definition is None or not self._has_target(record)]
        if not gone or self._p._side is not None:  # a side's tables are its lane's to forget
            return
        kept_in = tables_of_tables(self._store)
        with self._sink.transaction() as tx:
            for record in gone:
                forget_table(self._store, tx, record.source, kept_in=kept_in)
            self._store.fence(tx)
            tx.commit()
        for record in gone:
            del records[record.source]
        self._log.info("tables_forgotten", tables=[str(record.source) for record in gone])

    def _has_target(self, record: TableRecord) -> bool:
        namespace, name = self._place(record.source)
        if record.target != f"{namespace}.{name}":
            return True  # it is elsewhere than the configuration has it now: not looked for
        target = TargetTable(namespace, name, (), (), TableDefinition(record.source, ()))
        return self._sink.inspect(target) is not None

    def _settled(self, record: TableRecord) -> TableRecord:
        if record.step != MAKING or record.definition is None:
            return record
        target = None
        with contextlib.suppress(UnsupportedData):
            target = TableRegistry(self._p._routing, self._sink.kind, ()).make_target(record.definition)
        return settled(record, self._sink, target)

    def _record_at_start(
        self, name: TableName, record: TableRecord | None, *, is_present: bool, server: ServerIdentity
    ) -> TableRecord:
        target = ".".join(self._place(name))
        if record is None:
            polled = self._polled.get(name)  # it was polled until now: its target is ours
            known = polled if polled is not None and polled.target == target else None
            return known or TableRecord(source=name, target=target, state="pending")
        if not self._p._routing.matches(name.database, name.table):
            # Not wanted any more. Should it be wanted again, it has missed changes: `dropped` makes it load anew.
            gone = replace(record, state="dropped", loaded_from=None, ready_at=None, ready_server=None, error=None)
            return replace(gone, step="")
        if record.state == "dropped" and is_present:
            return replace(record, state="pending", loaded_from=None, error=None, step="")
        if record.state == "dropped":
            is_elsewhere = record.loaded_from is not None and record.loaded_from.server != server
            return replace(record, loaded_from=None) if is_elsewhere else record
        if record.state == "parked" and (record.error or {}).get("class") == TargetConflict.__name__:
            record = replace(record, state="pending", error=None)  # what it met may be otherwise by now
        if record.target != target:
            # The configuration sends it elsewhere now. What is there is not known to be ours; the old target stays.
            self._log.warning("table_routed_elsewhere", table=str(name), before=record.target, now=target)
            return TableRecord(source=name, target=target, state="pending")
        if record.state in ("ready", "snapshotting") and record.definition is not None:
            override = self._p._routing.key(name.database, name.table)
            # A key that was configured and is no more leaves a table that has no other.
            now = override if override is not None else choose_key(record.definition) or None
            if (override is not None or now is None) and (now or ()) != record.key:
                self._log.warning("table_key_changed", table=str(name), before=record.key, now=now or "all columns")
                return replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None)
            options = TableRegistry(self._p._routing, self._sink.kind, ()).description(name, now or ())
            if options != record.options:
                self._log.warning("table_options_changed", table=str(name), before=record.options, now=options)
                return replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None)
        is_elsewhere = record.ready_server is not None and record.ready_server != server
        if is_elsewhere or (record.state == "snapshotting" and record.ready_at is None):
            return replace(record, state="pending" if is_elsewhere else record.state, ready_at=None, ready_server=None)
        return record

    def _collisions(self, tables: TableRegistry) -> list[TableRecord]:
        """The tables that may not share a target with another one, which is there already or comes first, parked."""
        by_target: dict[str, list[TableRecord]] = {}
        for record in tables.records():
            if record.state != "dropped":
                by_target.setdefault(tables.folded(record.target), []).append(record)
        parked = []
        for sharing in by_target.values():
            sharing.sort(key=lambda record: (record.definition is None, record.state == "parked", record.source))
            columns = {record.source: tables.options(record.source).source_column for record in sharing}
            first = sharing[0].source
            taken = {column.value: first for column in [columns[first]] if column is not None}
            for record in sharing[1:]:
                column = columns[record.source]
                problem = conflict(column, (first, columns[first]), taken)
                if problem is None and column is not None:
                    taken[column.value] = record.source
                elif record.state != "parked":
                    where = f"{record.target} on sink {self._sink.name}"
                    if record.target not in {other.target for other in sharing if other is not record}:
                        where += ", where names of tables do not differ by case alone"
                    parked.append(self._in_conflict(record, f"{problem}: {where}"))
        return parked

    def _in_conflict(self, record: TableRecord, problem: str) -> TableRecord:
        error = TargetConflict(
            f"{record.source} {problem}",
            table=str(record.source),
            hint="route them apart, or give the route a source_column by which they differ (tables.routes; a sink "
            "without `schema` or database keeps databases apart), or exclude one",
        )
        fields = error.to_dict(since=iso_time(self._clock.now_us()))
        # What it has there, if anything, it has under a value of its own; else it is another table's.
        definition = record.definition if "source_column" in record.options else None
        return replace(record, state="parked", definition=definition, error=fields, ready_at=None)

    def _place(self, name: TableName) -> tuple[str, str]:
        return TableRegistry(self._p._routing, self._sink.kind, ()).place(name)

    def _take_commands(self, tables: TableRegistry, changed: list[TableRecord]) -> list[Command]:
        queued = self._store.queued_commands()
        commands = [command for command in queued if command.name in ("snapshot", "retry")]
        self._parts = [command for command in queued if command.name == PART]
        # What waited for a side when another instance ended waits for one still.
        waited = {one.id for one in commands if one.message.startswith(_WAITS)} - self._p._taken_up
        self._p._taken_up.update(command.id for command in (*commands, *self._parts))
        self._p.take_commands([])
        for command in commands:
            for database, table in orjson.loads(command.argument):
                name = TableName(database, table)
                record = tables.record(name)
                if record is None:
                    self._ask_side(command, name)
                    continue
                is_due = command.name == "snapshot" and (command.id in waited or self._is_wished(name))
                if self._is_reloaded_beside(command, record, tables, is_due=is_due):
                    continue
                if _sets_back(command, record) or (is_due and record.state == "ready"):
                    if command.name == "snapshot" and held_statement(record) is not None:
                        record = replace(record, step=approved(record))  # it waits for his word, and he has named it
                    record = replace(record, state="pending", error=None, ready_at=None, loaded_from=None)
                    if command.name == "snapshot" and tables.ddl_policies(name).ddl == "apply":
                        record = replace(record, left_out=())  # the target follows
                    tables.put(record)
                    changed[:] = [r for r in changed if r.source != name] + [record]
                if command.name == "snapshot" and _is_to_load(record):
                    self._p._forced.add(name)  # it was named
        return commands

    def _settle_statements(self, source: SourceConnection, tables: TableRegistry, checkpoint: Checkpoint) -> Checkpoint:
        """What the operator has said of statements that tables wait at."""
        approvals = Approvals(
            sink=self._sink,
            store=self._store,
            step=self._schema_step(source),
            log=self._log,
            tables=tables,
            read_definition=functools.partial(read_definition, source),
        )
        checkpoint = approvals.settle(checkpoint)
        self._p.tables = tables.records()
        return checkpoint

    def _is_wished(self, name: TableName) -> bool:
        return self._p._beside is not None and self._p._beside.has_wishes([name])

    def _is_reloaded_beside(
        self, command: Command, record: TableRecord, tables: TableRegistry, *, is_due: bool
    ) -> bool:
        """Is the table left as it is, while a side loads its shadow?

        `is_due`: the command was taken up, and the table still waits for that.
        """
        beside, name = self._p._beside, record.source
        if beside is None:
            return False
        if beside.is_reloading(name):
            self._ask_side(command, name)
            return True
        is_begun = command.state != "queued" and not is_due
        if command.name != "snapshot" or record.state != "ready" or is_begun:
            return False
        is_possible = self._has_shadow(record, tables) and beside.is_place_free(name, tables.records())
        if is_possible and self._stream_loads is not None and not self._stream_loads.is_brief(name):
            beside.wish(name)
            return True
        beside.keep(name)
        return False

    def _say_running(self) -> None:
        """The commands are under way, or wait for a side."""
        for command in self._running_commands:
            names = [TableName(database, table) for database, table in orjson.loads(command.argument)]
            waits = self._p._beside is not None and self._p._beside.has_wishes(names)
            said = [*([_WAITS] if waits else []), *_failures_said(command)]
            self._store.set_command(command.id, "running", "; ".join(said) or "loading")

    def _ask_side(self, command: Command, name: TableName) -> None:
        """A table that a side has is its, and so is what is asked of it."""
        if self._p._beside is not None and command.state == "queued":
            self._p._beside.pass_on(
                self._store, command.name, name, orjson.dumps([[name.database, name.table]]).decode()
            )

    # ------------------------------------------------------------ loads

    def _choose_by(self, source: SourceConnection) -> StreamLoads | None:
        if self._p._beside is None or not self._p._beside.is_on:
            return None
        registry = TableRegistry(self._p._routing, self._sink.kind, ())

        def has_key(table: TableName) -> bool:
            definition = read_definition(source, table)
            return definition is None or bool(registry.make_target(definition).source_key)

        return StreamLoads(
            source,
            rows_max=self._settings.beside_rows_min,
            is_limited=self._settings.load.guard.limits != GuardLimits(),
            has_key=has_key,
        )

    def _load_beside(self, source: SourceConnection, tables: TableRegistry) -> set[TableName]:
        """Give the tables that are to be loaded to sides; those that still wait for one."""
        beside, choose = self._p._beside, self._stream_loads
        if beside is None or choose is None:
            self._say_running()
            return set()
        for record in tables.records():
            if _is_to_load(record) and (error := beside.take_endless(record.source)) is not None:
                self._park(tables, record.source, error)
        gone, waits = beside.assign(
            self._store,
            in_load_order(tables.records(), self._p._routing.priority),
            is_to_load=_is_to_load,
            # What foreign keys do in silence is applied in the stream that parent and child go through.
            is_shared=lambda table: (
                tables.options(table).source_column is not None
                or tables.cascades.graph.is_in(table)
                or self._has_parent_beside(tables, table)
            ),
            is_shadowed=lambda record: self._has_shadow(record, tables) and self._fits(source, tables, record),
            forced=self._p._forced,
            in_stream=choose.chosen,
            sizes=choose.sizes,
        )
        for name in gone:
            tables.remove(name)
            self._p._forced.discard(name)
        self._p.tables = tables.records()
        self._say_running()
        return waits

    def _fits(self, source: SourceConnection, tables: TableRegistry, record: TableRecord) -> bool:
        """Does the table's target hold rows, and can it hold those that a load would bring?"""
        try:
            definition = read_definition(source, record.source)
            target = tables.make_target(definition) if definition is not None else None
        except UnsupportedData:
            return False
        existing = self._sink.inspect(target) if target is not None else None
        if target is None or existing is None or not existing.has_rows or target.source_key != record.key:
            return False
        if _types(definition) != _types(record.definition):
            return False
        if _column_names(target.definition) != _column_names(record.definition):
            return False  # nobody takes a shadow with other columns (`beside`)
        return not self._sink.differences(target, existing) and not stale_columns(record, target, existing)

    def _merge_shadows(self, tables: TableRegistry) -> None:
        """In a side: the tables that its lane has given up go into their targets."""
        side = self._p._side
        if side is None:
            return
        step = ShadowMerge(
            sink=self._sink, store=self._store, tables=tables, side=side, hooks=self._hooks, log=self._log
        )
        for record in step.waiting():
            self._check_alive()
            try:
                step.merge(record)
            except UnsupportedData as error:
                self._park(tables, record.source, error)
        self._p.tables = tables.records()

    def _wait_until_visible(self, source: SourceConnection, position: SourcePosition) -> None:
        """What the stream has passed must be seen by the load: its changes up to there do not come again.

        MySQL by GTID: `_check_not_ahead` has seen to it. MariaDB says which position a SELECT sees. MySQL by file does
        not: there the time is waited for which the engine may lag behind the log, a second, or as long as the source
        waits for a semi-synchronous replica.

        Raises SourceUnavailable when it takes longer.
        """
        if isinstance(position.gtid, MysqlGtidSet) or position.server != source.identity() or position.file is None:
            return
        lag_seconds = semi_sync_wait_seconds(source)
        if source.flavor == "mysql":
            if position.file.pos <= _FIRST_POSITION:
                return
            if lag_seconds:
                self._log.info("source_is_behind", seconds_max=_VISIBLE_SECONDS + lag_seconds)
            if self._clock.wait(self._p._is_stopping, _VISIBLE_SECONDS + lag_seconds):
                raise Stopping("stopped before a load")
            return
        seconds_max = _VISIBLE_SECONDS + min(lag_seconds, _LAG_SECONDS_MAX) + _AHEAD_SECONDS_MAX
        deadline = self._clock.monotonic() + seconds_max
        while True:
            visible = visible_position(source).file
            if visible is not None and visible >= position.file:
                return
            if self._clock.monotonic() > deadline:
                raise SourceUnavailable(
                    f"the source has logged up to {position.file}, but its SELECTs see only up to {visible}",
                    hint="a commit waits there (for a semi-synchronous replica?); the load is tried again",
                )
            if self._clock.wait(self._p._is_stopping, 0.1):
                raise Stopping("stopped before a load")

    def _load_pending(
        self, source: SourceConnection, tables: TableRegistry, position: SourcePosition, waits: Collection[TableName]
    ) -> None:
        waiting = [record for record in tables.records() if _is_to_load(record) and record.source not in waits]
        if waiting:
            waiting = in_load_order(waiting, self._p._routing.priority)
            self._wait_until_visible(source, position)
            self._status.set_state("snapshotting")
            self._log.info("snapshot_begun", tables=len(waiting))
        watch = LoadWatch(
            source=source,
            since=position,
            tables={record.source for record in waiting},
            server_id=self._settings.server_id,
            guard=self._settings.load.guard,
            status=self._status,
            log=self._log,
            clock=self._clock,
        )
        loader = TableLoader(
            source=source,
            sink=self._sink,
            store=self._store,
            make_target=functools.partial(self._allowed_target, tables, position),
            transform=functools.partial(transformed_rows, stamp=Stamp(load_id_text(self._clock.now_us()))),
            options=tables.description,
            chunk_rows=self._p._routing.chunk_rows,
            sessions=self._sessions,
            limits=self._load_limits(),
            accepts_hidden_cascades=lambda database, table: self._p.hidden_cascades.accepts(
                tables, TableName(database, table)
            ),
            hook=self._hooks,
            on_progress=functools.partial(self._on_load_progress, watch),
            on_commit=self._p.retries.well,
            on_resume=self._on_load_resumed,
            on_search=self._on_load_waits,
            is_sink_away=self._is_sink_away,
            make_writer=functools.partial(self._load_writer, source),
            server_id=self._settings.server_id,
            spool_dir=_spool_dir(self._settings),
            may_remake=lambda table: tables.ddl_policies(table).ddl != "log",
            more_writers=self._writers.take,
        )
        loader.sweep(tables.records())
        together = TablesTogether(loader.tools)
        sizes = table_sizes(source, [r.source for r in waiting]) if len(waiting) > 1 and together.is_possible else {}
        groups = in_groups(waiting, sizes)
        alone = (one for group in groups for one in self._load_together(tables, together, group, sizes))
        has_reset = False
        for one in alone:
            name = one.source
            record = tables.record(name) or one  # it may have lost its rows with a target that it shares
            record = self._beside_target(source, tables, record)
            problem = self._p.hidden_cascades.problem(tables, name)
            if problem is not None:
                if not self._has_parent_beside(tables, name):  # else it waits until that has joined
                    self._park(tables, name, problem)
                continue
            began = self._clock.monotonic()
            try:
                loaded = loader.load(record, may_replace=name in self._p._forced or is_shadow(record.target))
            except UnsupportedData as error:
                begun = self._store.load_tables().get(name)
                if begun is not None and begun.loaded_from is not None:
                    tables.put(begun)  # with the definition that the load made the target by: it is ours
                self._park(tables, name, error)
                continue
            finally:
                self._status.progress_done(str(name))
                reset = loader.shared.take_reset()
                has_reset = has_reset or bool(reset)
                for other in reset:
                    tables.put(other)
            self._is_loaded(tables, loaded, began)
            self._p.tables = tables.records()
        self._sessions.close()
        self._writers.close()
        self._finish_commands(tables)
        if has_reset:  # tables that share a target which was made anew
            raise _SessionEnd

    def _queue_bytes(self) -> int:
        """What may wait in memory. (Sides are begun and ended between two streams.)"""
        with_sides, beside = self._settings.queue_bytes_beside, self._p._beside
        has_sides = beside is not None and beside.has_sides
        return with_sides if with_sides is not None and has_sides else self._settings.queue_bytes_max

    def _load_limits(self) -> LoadLimits:
        return replace(self._settings.load, bytes_max=self._queue_bytes())

    def _load_parts(self, source: SourceConnection, tables: TableRegistry, position: SourcePosition) -> None:
        """Load the parts of tables that commands ask for. What waits for the stream is begun in a later session."""
        if not self._parts:
            return
        beside = self._p._beside
        self._wait_until_visible(source, position)
        self._status.set_state("snapshotting")
        parts = PartLoads(
            store=self._store,
            tables=tables,
            is_elsewhere=lambda table: beside is not None and beside.is_under_way(table),
            attempts=self._p._part_attempts,
            clock=self._clock,
            log=self._log,
            metrics=self._metrics,
        )
        try:
            parts.carry_out(self._parts, functools.partial(self._part_loader, source, tables, position))
        finally:
            for one in self._parts:
                self._status.progress_done(str(part_of(one)[0]))
        if parts.has_put_off:
            self._parts_wait_until = SourcePosition(source.identity(), written_file_pos(source), None)
        self._p.tables = tables.records()

    def _part_loader(
        self, source: SourceConnection, tables: TableRegistry, position: SourcePosition, table: TableName
    ) -> PartLoader:
        watch = LoadWatch(
            source=source,
            since=position,
            tables={table},
            server_id=self._settings.server_id,
            guard=self._settings.load.guard,
            status=self._status,
            log=self._log,
            clock=self._clock,
        )
        return PartLoader(
            source=source,
            sink=self._sink,
            store=self._store,
            connect=functools.partial(read_only_session, self._connect),
            make_target=tables.make_target,
            transform=functools.partial(transformed_rows, stamp=Stamp(load_id_text(self._clock.now_us()))),
            left_out=left_out_rows,
            chunk_rows=self._p._routing.chunk_rows,
            limits=self._load_limits(),
            hook=self._hooks,
            on_progress=functools.partial(self._on_load_progress, watch),
        )

    def _load_together(
        self,
        tables: TableRegistry,
        together: TablesTogether,
        group: Sequence[TableRecord],
        sizes: Mapping[TableName, TableSize],
    ) -> Iterator[TableRecord]:
        """Load what can be loaded together of tables that are to be loaded; the others."""
        if len(group) == 1:
            yield from group
            return
        began = self._clock.monotonic()
        try:
            begun = together.load([tables.record(one.source) or one for one in group], sizes)
        finally:
            for one in group:
                self._status.progress_done(str(one.source))
        loaded = [record for record in begun.values() if record.ready_at is not None]
        for record in begun.values():
            tables.put(record)
        for record in loaded:
            self._is_loaded(tables, record, began, together=len(loaded))
        self._p.tables = tables.records()
        done = {record.source for record in loaded}
        left = [one for one in group if one.source not in done]
        if together.problem is not None:
            self._log.info(
                "group_left",
                table=getattr(together.problem, "table", None),
                reason=together.problem.message,
                tables=[str(one.source) for one in left],
                hint="each of these is loaded by itself",
            )
        yield from left

    def _is_loaded(self, tables: TableRegistry, record: TableRecord, began: float, **more: int) -> None:
        self._p._forced.discard(record.source)
        self._p.retries.well()
        tables.put(record)
        self._metrics.loaded(rows=record.rows_loaded)
        for counts in record.policy_changes.values():
            for policy, count in counts.items():
                self._metrics.policy_changed(policy, count)
        self._log.info(
            "table_loaded",
            table=str(record.source),
            rows=record.rows_loaded,
            state=record.state,
            seconds=round(self._clock.monotonic() - began, 2),
            **more,
        )

    def _beside_target(self, source: SourceConnection, tables: TableRegistry, record: TableRecord) -> TableRecord:
        """With `ddl: log` a load brings the columns that both sides have; the loader refuses what does not fit."""
        if tables.ddl_policies(record.source).ddl != "log" or not record.is_complete or record.definition is None:
            return record
        with contextlib.suppress(Unproven, UnsupportedData):
            definition = read_definition(source, record.source)
            if definition is not None and definition != record.definition:
                beside = self._schema_step(source).beside_target(tables, record, Effect(definition))
                record = replace(beside, step=record.step)
                tables.put(record)
        return record

    def _allowed_target(
        self, tables: TableRegistry, position: SourcePosition, definition: TableDefinition
    ) -> TargetTable:
        """The target that a load makes. Raises StatementHeld where the operator is asked before; UnsupportedData."""
        record = tables.record(definition.name)
        if record is not None:
            policies, keeps = tables.ddl_policies(record.source), tables.options(record.source).keeps
            require_allowed(record, definition, policies, keeps, position)
        return tables.make_target(definition)

    def _finish_commands(self, tables: TableRegistry) -> None:
        """Say what became of the commands whose tables are on their way no more."""
        for command in self._running_commands:
            messages = _failures_said(command)
            names = [TableName(database, table) for database, table in orjson.loads(command.argument)]
            if any(self._is_under_way(tables, name) for name in names):
                continue
            for name in names:
                record = tables.record(name)
                if record is None:
                    # Else another lane's, which has been asked, too.
                    if self._p._routing.matches(name.database, name.table):
                        messages.append(f"{name} is not at the source")
                elif record.state == "parked":
                    messages.append(str((record.error or {}).get("message", "parked")))
                elif self._p._beside is not None and (failure := self._p._beside.take_failure(name)) is not None:
                    messages.append(failure)
            self._store.set_command(command.id, "failed" if messages else "done", "; ".join(dict.fromkeys(messages)))
        self._running_commands = []

    def _is_under_way(self, tables: TableRegistry, name: TableName) -> bool:
        record = tables.record(name)
        if self._p._beside is not None and self._p._beside.is_under_way(name):
            return True
        return record is not None and _is_to_load(record)

    def _on_load_resumed(self, plan: LoadPlan) -> None:
        self._log.info(
            "load_resumed",
            table=str(plan.source),
            chunks=len(plan.loaded),
            staged=plan.staged_count,
            rows=sum(loaded.rows for loaded in plan.loaded),
            position=str(plan.record.loaded_from),
        )
        self._metrics.chunks_staged("reused", plan.staged_count)

    def _is_sink_away(self, error: SinkUnavailable) -> bool:
        """Said once: a load reads on into files, and the session ends when the sink is back. Raises Stopping."""
        if self._p._is_stopping.is_set():
            raise Stopping("asked to stop")
        if self._status.state != "retrying":
            self._status.failed(error)
            self._status.set_state("retrying")
            self._log.warning("load_reads_on", **_error_fields(error))
        return self._keeper.is_sink_healthy is False

    def _on_writer_refused(self, error: CdcError) -> None:
        """A load goes on with the sessions on the sink that it has."""
        self._log.warning("load_has_fewer_writers", **_error_fields(error))

    def _on_load_waits(self, table: TableName, what: str, seconds_max: float) -> None:
        self._log.info("load_waits", table=str(table), waits_for=what, seconds_max=seconds_max)

    def _load_writer(self, source: SourceConnection, target: TargetTable) -> RowWriter:
        if target.mode == "mirror":
            return MirrorWriter(target)
        return LoadWriter(self._sink, self._store, target, load_time_us(source))

    def _on_load_progress(self, watch: LoadWatch, table: TableName, *, rows: int, rows_estimate: int | None) -> None:
        self._check_alive()
        watch(table, rows=rows, rows_estimate=rows_estimate)

    def _check_alive(self) -> None:
        """Raises what ends the session from outside."""
        self._keeper.require()
        doubt, self._p._doubt = self._p._doubt, None
        if doubt is not None:
            raise doubt
        if self._p._is_stopping.is_set():
            raise Stopping("asked to stop")

    def _park(self, tables: TableRegistry, name: TableName, error: UnsupportedData) -> None:
        """Set one table aside, with the reason; the rest go on."""
        record = tables.record(name)
        if record is None:
            raise error
        fields = error.to_dict(since=iso_time(self._clock.now_us()))
        # What the operator has said holds until a load has begun: one that was refused before is asked for once more.
        step = record.step if record.step.startswith(APPROVED) and not isinstance(error, StatementHeld) else ""
        record = replace(record, state="parked", error=fields, ready_at=None, loaded_from=None, step=step)
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            if not isinstance(error, StatementHeld):
                RejectStore(self._store).put(tx, name, fields, error.image)
            self._store.fence(tx)
            tx.commit()
        tables.put(record)
        self._p._forced.discard(name)
        self._p.tables = tables.records()
        self._status.failed(error, table=str(name))
        self._metrics.failed(error)
        self._log.error("table_parked", table=str(name), **_error_fields(error))

    def _settle_cascades(self, source: SourceConnection, tables: TableRegistry) -> None:
        """Before the stream: the children that go without their parents, or cannot follow them, are set aside."""
        hidden = self._p.hidden_cascades
        if self._status.state == "snapshotting":
            hidden.forget()  # loads have passed statements that the stream passes over
        while True:
            hidden.find(source, tables)
            problems = hidden.refused(source, tables)
            early = [name for name in problems if self._has_parent_beside(tables, name)]
            waiting = [*hidden.waiting(tables), *(_anew(tables, name) for name in early)]
            problems = {name: problem for name, problem in problems.items() if name not in early}
            if not waiting and not problems:
                hidden.follow(tables)
                return
            for name, problem in problems.items():
                self._park(tables, name, problem)
            self._load_later(tables, waiting, "its parent waits for a load")

    def _has_parent_beside(self, tables: TableRegistry, table: TableName) -> bool:
        """Does a side have a parent whose rows change this table's in silence? They will be in one stream again."""
        beside = self._p._beside
        keys = tables.cascades.keys
        return beside is not None and any(k.table == table and beside.is_under_way(k.parent_table) for k in keys)

    def _load_later(self, tables: TableRegistry, records: Collection[TableRecord], reason: str) -> None:
        """Tables that foreign keys change in silence are to be loaded again."""
        if not records:
            return
        with self._sink.transaction() as tx:
            for record in records:
                self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
        for record in records:
            tables.put(record)
        self._p.tables = tables.records()
        names = [str(record.source) for record in records]
        self._log.warning("children_loaded_again", tables=names, reason=reason)

    def _follow_keys(self, source: SourceConnection, tables: TableRegistry, change: SchemaChange) -> None:
        """Behind a statement that was followed: the next session asks for the foreign keys that there are now."""
        hidden = self._p.hidden_cascades
        if hidden.changes_with(change, tables) or hidden.has_new_children(source, change, tables):
            again = hidden.loaded_again(source, change, tables)
            self._load_later(tables, again, "its foreign keys were changed")
            raise _SessionEnd

    def _on_cascade(self, table: TableName, cascade: Cascade) -> None:
        """The first time in this session."""
        self._log.info(
            "hidden_cascades_applied",
            table=str(table),
            parent=str(cascade.parent),
            hint="foreign keys change its rows without any event in the source's binlog; the sink does the same",
        )

    def _has_shadow(self, record: TableRecord, tables: TableRegistry) -> bool:
        return _has_shadow(record, tables) and not tables.cascades.graph.is_in(record.source)

    def _is_behind_gap(self, source: SourceConnection, checkpoint: Checkpoint) -> bool:
        """Has the source purged its log while nobody was here, and are tables to be loaded again for that?"""
        return self._settings.recovery.on_purged == "resnapshot" and is_purged(source, checkpoint.position)

    def _seed_again(self, source: SourceConnection, tables: TableRegistry, error: BinlogPurged) -> None:
        """The log goes on behind a gap. Raises `error` where that is to stop the pipeline, else _SessionEnd."""
        checkpoint, _ = self._store.load_checkpoint()
        is_wanted = self._settings.recovery.on_purged == "resnapshot"
        if not is_wanted or checkpoint is None or not is_purged(source, checkpoint.position):
            raise error
        changed = seed_again(self._store, source, tables.records(), error, clock=self._clock)
        self._status.failed(error)
        self._metrics.failed(error)
        names = {state: [str(r.source) for r in changed if r.state == state] for state in ("pending", "parked")}
        self._log.error("binlog_purged", loaded_again=names["pending"], parked=names["parked"], **_error_fields(error))
        raise _SessionEnd from error

    def _load_parked_again(self, tables: TableRegistry, names: list[TableName]) -> None:
        """They are due: in a new session."""
        records = [record for record in map(tables.record, names) if record is not None and record.state == "parked"]
        with self._sink.transaction() as tx:
            for record in records:
                self._store.save_table(tx, replace(record, state="pending", error=None))
            self._store.fence(tx)
            tx.commit()
        self._log.info("parked_tables_tried_again", tables=[str(record.source) for record in records])
        raise _SessionEnd

    # ------------------------------------------------------------ the stream

    def _stream(self, source: SourceConnection, tables: TableRegistry, checkpoint: Checkpoint) -> None:
        self._status.set_state("streaming")
        self._p._targets = [tables.target(record.source) for record in tables.records() if tables.find(record.source)]
        channel = Channel(self._queue_bytes())
        self._p._channel = channel
        self._has_heard = False
        applier = self._make_applier(tables, checkpoint)
        self._audit = DefinitionAudit(sink=self._sink, store=self._store, log=self._log, tables=tables)
        self._audit.begin(source)
        self._upkeep = self._make_upkeep(tables)
        reader = self._make_reader(source, tables, checkpoint.position, channel, applier.prepared.known())
        self._p._reader = reader
        reader.start()
        again = AutoReload(self._store, tables.records(), self._settings.recovery, self._clock)
        for table, seconds in again.spent.items():
            self._log.warning("parked_table_waits", table=str(table), seconds=round(seconds))
        try:
            # What is due by what was seen before, before anything is written there.
            self._keep_up(applier, tables, None)
            while True:
                self._check_alive()
                if not applier.is_inside_transaction and (names := again.due()):
                    self._load_parked_again(tables, names)
                if self._p._has_commands():
                    raise _SessionEnd
                if self._p._beside is not None and not applier.is_inside_transaction and self._p._beside.wants_session:
                    raise _SessionEnd
                wait_seconds = self._wait_seconds(applier)
                item = channel.get(wait_seconds)
                if item is None and wait_seconds and not applier.is_inside_transaction:
                    self._begin_audit()
                self._has_heard = self._has_heard or isinstance(item, TransactionRun | Progress)
                self._take_item(source, applier, tables, channel, item)
                if not applier.is_inside_transaction:
                    self._keep_up(applier, tables, item)
                self._check_meeting(applier, tables, is_at_end=item is None or isinstance(item, Progress))
                self._check_finished(tables)
        finally:
            self._p._reader = None
            reader.stop()
            applier.close()

    def _make_applier(self, tables: TableRegistry, checkpoint: Checkpoint) -> Applier:
        applier = Applier(
            sink=self._sink,
            store=self._store,
            tables=tables,
            checkpoint=checkpoint,
            hooks=self._hooks,
            on_ready=self._on_ready,
            on_partial=self._on_partial_images,
            new_load_id=lambda: load_id_text(self._clock.now_us()),
            on_cascade=self._on_cascade,
        )
        applier.prepared.load()
        self._status.set_prepared(*applier.prepared.waiting())
        return applier

    def _make_upkeep(self, tables: TableRegistry) -> TargetUpkeep:
        return TargetUpkeep(
            sink=self._sink,
            store=self._store,
            tables=tables,
            connect=self._connect,
            memory=self._p.targets_seen,
            clock=self._clock,
            log=self._log,
            interval_seconds=self._settings.drift_seconds,
        )

    def _take_item(
        self, source: SourceConnection, applier: Applier, tables: TableRegistry, channel: Channel, item: Any
    ) -> None:
        """Do what the reader has handed over (None: nothing has come). Raises _SessionEnd."""
        if isinstance(item, TransactionRun):
            self._p._applying = item
            self._apply(applier, tables, item)
            self._p._applying = None
            if not applier.is_inside_transaction:
                self._check_due(tables, item.end)
        elif isinstance(item, Progress):
            applier.seen(item.position)
            self._p.tables = tables.records()
            self._status.seen(item.position, is_well=self._p.recovered(item.position))
            self._check_due(tables, item.position)
        elif isinstance(item, SchemaChange):
            self._take_change(source, applier, tables, item)
            channel.go_on()
        elif isinstance(item, Abandoned):
            self._log.warning("transaction_abandoned", hint="the source crashed in its middle and rolled it back")
            applier.abandon()
        elif isinstance(item, Failure):
            self._on_reader_failure(applier, tables, item.error)

    def _take_change(
        self, source: SourceConnection, applier: Applier, tables: TableRegistry, change: SchemaChange
    ) -> None:
        """Follow it, or have its tables loaded again. Raises _SessionEnd where the stream begins anew behind it."""
        self._hooks("schema_change")
        applier.close()  # the middle of a large transaction: it comes again after the change
        if (problem := self._p.hidden_cascades.spent(change, tables)) is not None:
            self._park_and_restart(tables, problem)
        if not self._follow_change(source, applier, tables, change):
            self._record_change(applier, tables, change)
            self._p.hidden_cascades.forget()
            raise _SessionEnd
        if not change.is_exact or self._has_put_off:  # its group comes again; tables wait to be looked at
            raise _SessionEnd
        self._go_on_behind(applier, tables, change)
        self._follow_keys(source, tables, change)

    def _wait_seconds(self, applier: Applier) -> float:
        """How long the next item is waited for: not while there are targets to look at, one between two items."""
        if self._p._side is not None:
            return _SIDE_POLL_SECONDS  # an item that has not come is to it the end of the stream
        is_due = self._upkeep is not None and self._upkeep.is_due and not applier.is_inside_transaction
        return 0.0 if is_due else _POLL_SECONDS

    def _keep_up(self, applier: Applier, tables: TableRegistry, item: Any) -> None:
        """Look after one target. One that cannot hold its rows any more parks its table."""
        assert self._upkeep is not None, "the stream has begun"
        position = item.end if isinstance(item, TransactionRun) else None
        if isinstance(item, Progress):
            position = item.position
        try:
            self._upkeep.step(position)
        except UnsupportedData as error:
            error.position = error.position or str(applier.checkpoint.position)
            self._park_and_restart(tables, error)

    def _drop_refusing_index(self, tables: TableRegistry, error: UnsupportedData) -> bool:
        """Was it perhaps a unique index of ours that refused a row? It is gone, then, and the row comes again."""
        record = next((r for r in tables.records() if str(r.source) == error.table), None)
        if not isinstance(error, SinkRefused) or record is None or tables.find(record.source) is None:
            return False
        dropped = drop_unique(self._sink, tables.target(record.source), self._store.fence)
        if dropped:
            self._log.warning("unique_index_dropped", table=error.table, indexes=dropped, message=error.message)
        return bool(dropped)

    def _on_ready(self, record: TableRecord) -> None:
        self._p.hidden_cascades.is_ready(record.source)
        self._log.info("table_ready", table=str(record.source))

    def _on_partial_images(self, definition: TableDefinition) -> None:
        """The first images of a table in this session that lack columns."""
        is_mariadb = definition.flavor == "mariadb"
        self._log.warning(
            "row_images_lack_columns",
            table=str(definition.name),
            hint="the writer's session has another binlog_row_image than FULL"
            + ("; what a REPLACE sets back to its default may not be logged: run `cdc verify`" if is_mariadb else ""),
        )

    def _make_reader(
        self,
        source: SourceConnection,
        tables: TableRegistry,
        position: SourcePosition,
        channel: Channel,
        prepared: dict[Xa, PreparedXa],
    ) -> Reader:
        settings = self._p._source_settings
        if not uses_gtid(source):
            position = SourcePosition(position.server, position.file, None)
        identity = source.identity()
        if position.server != identity:  # by GTID on another server: its files are named and numbered otherwise
            position = SourcePosition(identity, None, position.gtid)
        stream = BinlogStream(
            settings, flavor=source.flavor, position=position, server_id=self._settings.server_id, server=identity
        )
        lower_case_names = (source.variable("lower_case_table_names") or "0") != "0"

        def make_assembler(output: Output) -> Assembler:
            return Assembler(
                start=position,
                flavor=source.flavor,
                server_version=source.version,
                checksum_negotiated=stream.checksum_negotiated,
                lower_case_names=lower_case_names,
                capture=tables,
                output=output,
                limits=self._settings.limits,
                needs_all_columns=False,
                prepared=prepared,
                all_captured=tables.captured,
                cascades=tables.cascades.graph,
                hidden_keys=CascadeGraph(tables.cascades.asked),
            )

        return Reader(
            name=self._settings.name,
            stream=stream,
            make_assembler=make_assembler,
            channel=channel,
            clock=self._clock,
            hooks=self._hooks,
            age_seconds_max=self._settings.age_seconds_max,
            silence_seconds_max=settings.read_timeout_seconds,
            on_received=lambda events, size: self._metrics.received(events=events, byte_count=size),
            empty_run_seconds=EMPTY_RUN_SECONDS if self._p._side is None else _SIDE_EMPTY_RUN_SECONDS,
        )

    def _apply(self, applier: Applier, tables: TableRegistry, run: TransactionRun) -> None:
        began = self._clock.monotonic()
        try:
            applied = applier.apply(run)
        except UnsupportedData as error:
            applier.close()
            if self._drop_refusing_index(tables, error):
                raise _SessionEnd from error
            self._park_and_restart(tables, error)
        except SinkUnavailable:
            self._p._stuck_at = run.end
            raise
        if not applied.is_committed:
            return
        self._p.recovered(run.end)
        seconds = self._clock.monotonic() - began
        self._p.tables = tables.records()
        self._status.committed(run.end, applied.last_commit_us)
        self._status.set_prepared(*applier.prepared.waiting())
        self._metrics.committed(transactions=applied.transactions, seconds=seconds)
        self._metrics.applied(upserts=applied.upserted, deletes=applied.deleted)
        for policy, count in applied.policy_changes.items():
            self._metrics.policy_changed(policy, count)
        self._log.debug(
            "batch_applied",
            transactions=applied.transactions,
            upserted=applied.upserted,
            deleted=applied.deleted,
            bytes=run.byte_count,
            position=str(run.end),
            apply_ms=round(seconds * 1000, 1),
        )
        if applier.prepared.reloads:
            self._log.warning(
                "prepared_rows_do_not_fit",
                tables=[str(name) for name in applier.prepared.reloads],
                xa=[str(step.xa) for step in run.xa],
                position=str(run.end),
                hint="while the transaction was prepared, these tables were altered, not captured, or loaded although "
                "foreign keys change their rows at its end: they are loaded again",
            )
            raise _SessionEnd

    def _park_and_restart(self, tables: TableRegistry, error: UnsupportedData) -> None:
        """The transaction runs again without that table: from the checkpoint, in a new session."""
        record = next((r for r in tables.records() if str(r.source) == error.table), None)
        if record is None:
            raise error
        self._park(tables, record.source, error)
        raise _SessionEnd from error

    def _on_reader_failure(self, applier: Applier, tables: TableRegistry, error: BaseException) -> None:
        if isinstance(error, UnsupportedData):
            applier.close()
            self._park_and_restart(tables, error)
        raise error

    def _follow_change(
        self, source: SourceConnection, applier: Applier, tables: TableRegistry, change: SchemaChange
    ) -> bool:
        """Do on the sink what the DDL did, if that is proven to come out the same."""
        prepared = {name for xa in applier.prepared.known().values() for name in xa.stored | xa.passed}
        try:
            is_followed = self._schema_step(source).follow(tables, change, applier.checkpoint, prepared=prepared)
        except UnsupportedData as error:
            self._park_and_restart(tables, error)
        self._p.tables = tables.records()
        self._metrics.schema_changed(is_followed=is_followed)
        return is_followed

    def _schema_step(self, source: SourceConnection) -> SchemaStep:
        facts = SourceFacts(
            connect=self._connect,
            flavor=source.flavor,
            version=source.version,
            lower_case_names=(source.variable("lower_case_table_names") or "0") != "0",
        )
        return SchemaStep(
            sink=self._sink,
            store=self._store,
            hooks=self._hooks,
            log=self._log,
            facts=facts,
            now=lambda: iso_time(self._clock.now_us()) or "",
        )

    def _go_on_behind(self, applier: Applier, tables: TableRegistry, change: SchemaChange) -> None:
        """The statement is done, and the checkpoint behind it: this session's stream goes on."""
        applier.checkpoint = applier.checkpoint.next(change.end)
        self._p._targets = [tables.target(record.source) for record in tables.records() if tables.find(record.source)]
        self._p.recovered(change.end)
        self._status.committed(change.end, change.commit_time_us)
        self._is_audit_due = True
        if self._upkeep is not None:
            self._upkeep.touched(change.tables)
        self._check_due(tables, change.end)

    def _begin_audit(self) -> None:
        """While there is nothing else to do: read the definitions that were worked out since the last time."""
        if self._audit is not None and self._is_audit_due:
            self._is_audit_due = False
            with self._connect() as source:
                self._audit.begin(source)

    def _record_change(self, applier: Applier, tables: TableRegistry, change: SchemaChange) -> None:
        """DDL touched captured tables: their rows and columns may be others now, so they are loaded again."""
        records = []
        for name in change.tables:
            target = ".".join(tables.place(name))
            record = tables.record(name) or TableRecord(source=name, target=target, state="pending")
            record = replace(record, step="")
            anew = replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, error=None)
            if name in change.is_dropped:
                record = replace(anew, state="dropped")
            elif self._is_history(record, change.end):
                # The stream is still behind the load: what it shows is older than what was loaded. Further changes
                # may follow up to there, so the next load waits until the stream has passed that position.
                record = replace(record, state="pending", error=None)
            else:
                record = anew
            records.append(record)
        records += self._p.hidden_cascades.hanging_on(change, tables)
        with self._sink.transaction() as tx:
            for record in records:
                self._store.save_table(tx, record)
            self._store.save(tx, applier.checkpoint.next(change.end))
            tx.commit()
        for record in records:
            tables.put(record)
        self._p.tables = tables.records()
        if change.xa is not None:
            self._log.warning(
                "prepared_rows_not_known",
                xa=str(change.xa),
                tables=[str(name) for name in change.tables],
                position=str(change.end),
                hint="the transaction was prepared before the position that this pipeline began at: the tables are "
                "loaded again, because it may have changed any of them",
            )
            return
        if not change.statement and any(map(tables.cascades.graph.is_in, change.tables)):
            self._log.warning(
                "children_loaded_again",
                tables=[str(name) for name in change.tables],
                reason="foreign keys changed rows of these, or through these, that loads had not read, or read later",
                position=str(change.end),
            )
            return
        self._log.info(
            "schema_change",
            tables=[str(name) for name in change.tables],
            dropped=[str(name) for name in change.is_dropped],
            statement=" ".join(change.statement.split())[:200],
            position=str(change.end),
        )

    @staticmethod
    def _is_history(record: TableRecord, end: SourcePosition) -> bool:
        return (
            record.state == "snapshotting"
            and record.ready_at is not None
            and record.ready_server == end.server
            and end.file is not None
            and end.file < record.ready_at
        )

    def _check_due(self, tables: TableRegistry, position: SourcePosition) -> None:
        """Start a session for tables whose load waited for this position, or that turn out to need one."""
        if self._audit is not None and self._audit.passed(position):
            raise _SessionEnd
        waits = self._parts_wait_until
        if waits is not None and has_reached(position, waits):
            raise _SessionEnd
        due = tables.due(position)
        if not due:
            return
        with self._sink.transaction() as tx:
            for record in due:
                self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
        raise _SessionEnd

    def _check_meeting(self, applier: Applier, tables: TableRegistry, *, is_at_end: bool) -> None:
        """End the session where a side meets its lane."""
        side = self._p._side
        if side is None or applier.is_inside_transaction:
            return
        if any(side.is_to_merge(record.source) and record.state == "ready" for record in tables.records()):
            raise _SessionEnd
        at = applier.checkpoint.position
        if side.ends_session(at, is_settled=tables.is_settled, is_at_end=is_at_end):
            raise _SessionEnd

    def _check_finished(self, tables: TableRegistry) -> None:
        seen = self._status.seen_file
        # Only what this session's stream has said counts: a stored position may be of a log that was reset since.
        if self._p._until is None or not self._has_heard or seen is None or seen < self._p._until:
            return
        if self._upkeep is not None and self._upkeep.is_making:
            return
        if (
            not tables.is_settled
            or self._parts_wait_until is not None
            or (self._p._beside is not None and not self._p._beside.is_idle)
        ):
            return
        self._p.is_finished = True
        raise _SessionEnd
