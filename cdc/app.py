"""The service: the one place that picks concrete classes and puts them together.

One pipeline a sink, a monitor that asks the source where its log ends, and the HTTP pages. Nothing here touches rows.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import itertools
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog

import cdc
from cdc.clock import Clock, SystemClock
from cdc.config import (
    ColumnOverride,
    Config,
    FlushSettings,
    SinkSettings,
    SnapshotSettings,
    is_own_table,
    parse_table_pattern,
)
from cdc.dashboard.service import ConnectionHealth, HealthInputs, SinkHealth
from cdc.errors import CdcError, ConfigError, SourceUnavailable, TransientError
from cdc.gtid import MysqlGtidSet
from cdc.log import Logger
from cdc.metrics import Metrics
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableName
from cdc.pipeline.beside import Side, SideLink
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.displaced import DisplacedSinks
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.lanes import LaneRule, lane_name, related, side_name, sink_of
from cdc.pipeline.loads import GuardReport, LoadLines
from cdc.pipeline.polled_sink import PolledSink, poll_states, poller_stores, with_poller
from cdc.pipeline.poller import Poller, PollerSettings, poll_document
from cdc.pipeline.recovery import Recovery
from cdc.pipeline.report import SinkReport, SourceReport, beside, merged, side_states, status_document, worst_state
from cdc.pipeline.retry import NO_RETRIES, RetryPolicy
from cdc.pipeline.runner import Pipeline, PipelineSettings
from cdc.pipeline.sink_lanes import LaneLink, SinkLanes
from cdc.pipeline.staged import StagingReport
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.pipeline.text import iso_time
from cdc.schema.ddl_policies import DdlPolicies
from cdc.schema.identifiers import shadow_name
from cdc.schema.modes import MODE_COLUMNS
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.routing import route
from cdc.schema.strategy import TablePolling
from cdc.schema.target import Attributes, Masking, MetadataKind, Policies, SinkKind, SourceColumn
from cdc.sinks.base import Sink
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from cdc.source.assembler import RunLimits
from cdc.source.cascades import read_hidden_keys
from cdc.source.connection import SourceConnection, SourceSettings, SslSettings, connect
from cdc.source.definitions import list_tables
from cdc.source.log_use import why_no_log
from cdc.source.log_watch import Followed, LogEnd, LogWatch
from cdc.source.positions import uses_gtid, written_file_pos
from cdc.source.requirements import require_usable_source
from checkpoints.polls import POLLER, poller_name
from checkpoints.prepared import PreparedStore
from checkpoints.store import COMMAND_HOLDER, InSinkStore, LeaseHeld
from checkpoints.views import create_views
from snapshot.guards import GuardLimits, SourceGuard
from snapshot.loader import LoadLimits
from snapshot.progress import LoadRate
from snapshot.staging import StagingArea, StagingListener, staging_use

if TYPE_CHECKING:
    from cdc.dashboard.server import HttpServer

__all__ = [
    "Application",
    "lane_rule",
    "make_sink",
    "parse_table",
    "pipeline_name",
    "read_status",
    "routing",
    "run_limits",
    "sinks_named",
    "source_settings",
    "target_place",
]

_MONITOR_SECONDS = 1.0
# What was seen of the source counts this long; the monitor's session waits no longer than this for an answer.
_SOURCE_SECONDS_MAX = 5.0
# A stream that is silent for longer than this, and than so many heartbeats, is not ready.
_HEARTBEATS_MISSED_MAX = 5
# What a pipeline says of itself in its lease (twice a second) counts this long.
_SAID_SECONDS_MAX = 5.0
_WATCHDOG_SECONDS = 0.1
_ESTIMATE_SECONDS = 10.0
# SIGTERM ends the process within 10 s: this long the open transaction may take, then its statement is cancelled.
_STOP_SECONDS = 6.0
_CANCEL_SECONDS = 2.5
# Whatever hangs then (a frozen sink answers neither a COMMIT nor a cancel), this long after the signal it is over.
_SIGNAL_SECONDS_MAX = 9.5
# And should a driver's C code keep the interpreter's lock, so that no thread of ours runs, this long after it.
_LAST_RESORT_SECONDS = 0.4


# ---------------------------------------------------------------- from configuration to settings


def source_settings(config: Config) -> SourceSettings:
    """The source's own small settings."""
    source = config.source
    return SourceSettings(
        host=source.url.host,
        port=source.url.port,
        user=source.url.user,
        password=source.password,
        server_id=source.server_id,
        server_id_count=source.server_id_count,
        position=source.position,
        ssl=SslSettings(
            mode=source.ssl_mode,
            ca=str(source.ssl_ca) if source.ssl_ca else None,
            cert=str(source.ssl_cert) if source.ssl_cert else None,
            key=str(source.ssl_key) if source.ssl_key else None,
        ),
        connect_timeout_seconds=source.connect_timeout_seconds,
        read_timeout_seconds=source.read_timeout_seconds,
        heartbeat_seconds=source.heartbeat_seconds,
    )


def make_sink(settings: SinkSettings, hooks: Hooks | None = None) -> Sink:
    """The sink that the URL names, not connected yet."""
    url = settings.url
    common: dict[str, Any] = {
        "name": settings.name,
        "host": url.host,
        "port": url.port,
        "user": url.user,
        "password": settings.password,
        "ssl_mode": settings.ssl_mode,
        "ssl_ca": str(settings.ssl_ca) if settings.ssl_ca else None,
        "ssl_cert": str(settings.ssl_cert) if settings.ssl_cert else None,
        "ssl_key": str(settings.ssl_key) if settings.ssl_key else None,
        "connect_timeout_seconds": settings.connect_timeout_seconds,
        "statement_timeout_seconds": settings.statement_timeout_seconds,
    }
    if hooks is not None:
        common["hook"] = hooks
    if url.kind == "postgresql":
        return PostgresSink(PostgresSettings(database=url.database or "", **common))
    return MysqlSink(MysqlSettings(database=url.database, **common))


def routing(config: Config, sink: SinkSettings) -> Routing:
    """What the configuration says of tables, for one sink."""

    def policies(database: str, table: str) -> Policies:
        chosen = config.policies_for(database, table)
        return Policies(zero_dates=chosen.zero_dates, nul_bytes=chosen.nul_bytes)

    def ddl_policies(database: str, table: str) -> DdlPolicies:
        chosen = config.policies_for(database, table)
        return DdlPolicies(
            ddl=chosen.ddl,
            on_drop_column=chosen.on_drop_column,
            on_drop_table=chosen.on_drop_table,
            on_truncate=chosen.on_truncate,
            on_type_change=chosen.on_type_change,
        )

    def key(database: str, table: str) -> tuple[str, ...] | None:
        override = config.tables.override_for(database, table)
        return tuple(override.primary_key) if override is not None and override.primary_key else None

    return Routing(
        matches=config.tables.matches,
        policies=policies,
        key=key,
        chunk_rows=config.chunk_rows_for,
        accepts_hidden_cascades=lambda database, table: (
            config.policies_for(database, table).hidden_cascades == "accept"
        ),
        applies_hidden_cascades=lambda database, table: config.policies_for(database, table).hidden_cascades == "apply",
        options=functools.lru_cache(_TABLES_KEPT)(functools.partial(table_options, config)),
        ddl=ddl_policies,
        schema=sink.schema_name,
        database=sink.url.database if sink.url.kind != "postgresql" else None,
        priority=config.priority_for,
    )


# Of so many tables it is kept what the configuration makes of them: it is asked for a dozen times a load, and does not
# change.
_TABLES_KEPT = 16_384

# The keys of `tables.mode_columns` that are called otherwise than the columns' kinds.
_NAMED_AS = {"change_operation": "operation", "change_time": "commit_time", "change_position": "position"}


_ATTRIBUTES = ("defaults", "comments", "identity", "indexes")


def table_options(config: Config, database: str, table: str) -> TableOptions:
    """What the configuration makes of a table: its place, its columns and rows."""
    override, routed = config.tables.override_for(database, table), config.tables.route_for(database, table)
    metadata = config.tables.metadata_for(database, table)
    shared = config.tables.source_column_for(database, table)
    mode, names = config.tables.mode_for(database, table), config.tables.mode_columns.model_dump()
    targets = config.targets
    own = override.model_dump(include=set(_ATTRIBUTES), exclude_none=True) if override is not None else {}
    attributes = {name: own.get(name, getattr(targets, name)) for name in _ATTRIBUTES}
    options = TableOptions(
        attributes=Attributes(**attributes),
        types=tuple((rule.source.lower(), rule.type) for rule in targets.types),
        target_schema=routed.target_schema if routed is not None else None,
        target_table=routed.target_table if routed is not None else None,
        metadata=tuple((cast(MetadataKind, of), name) for of, name in metadata.items()),
        source_column=SourceColumn(*shared) if shared is not None else None,
        mode=mode,
        mode_columns=tuple((kind, names[_NAMED_AS.get(kind, kind)]) for kind in MODE_COLUMNS[mode]),
    )
    if override is None:
        return options
    salt = config.tables.hash_salt.reveal() if config.tables.hash_salt is not None else ""
    return replace(
        options,
        row_filter=override.row_filter,
        include=override.include_columns or (),
        exclude=override.exclude_columns or (),
        columns=tuple(
            ColumnOption(
                entry.column,
                entry.rename,
                _masking(entry, salt.encode(errors="surrogateescape")),
                entry.type,
                entry.zero_dates,
                entry.nul_bytes,
            )
            for entry in override.columns
        ),
    )


def _masking(entry: ColumnOverride, salt: bytes) -> Masking | None:
    if entry.hash:
        return Masking("hash", salt=salt)
    match entry.mask:
        case None:
            return None
        case "text":
            return Masking("text", text=entry.mask_text)
        case "keep_first" | "keep_last":
            return Masking(entry.mask, keep=entry.mask_keep)
        case "null":
            return Masking("null")


def _options_beside(whole: Routing, side: Side, database: str, table: str) -> TableOptions:
    """What the configuration makes of a table that a side loads: beside its target, where that is complete."""
    options = whole.options(database, table)
    if TableName(database, table) not in side.shadowed:
        return options
    return replace(options, target_table=shadow_name(options.target_table or table))


def run_limits(flush: FlushSettings) -> RunLimits:
    """When a run is full; a part of a large transaction is no smaller than it needs to be, whatever a run is."""
    limits = RunLimits(rows_max=flush.rows_max, bytes_max=flush.bytes_max)
    return replace(limits, part_rows_max=max(limits.part_rows_max, flush.rows_max))


def _retry_policy(config: Config) -> RetryPolicy:
    retry = config.retry
    return RetryPolicy(retry.initial_seconds, retry.max_seconds, retry.per_hour, retry.same_place_max)


def pipeline_name(config: Config, sink: SinkSettings) -> str:
    """The identity of the sink's pipeline, or its first lane, in the sink's metadata."""
    return f"{config.name}/{sink.name}"


def table_polling(config: Config, database: str, table: str) -> TablePolling:
    """What the configuration says of how the table's changes are found."""
    override, polling = config.tables.override_for(database, table), config.polling
    own = override.model_dump(include=set(_POLLING), exclude_none=True) if override is not None else {}
    return TablePolling(
        strategy=own.get("sync_strategy", config.tables.sync_strategy),
        modifier=own.get("modifier"),
        interval_seconds=own.get("interval_seconds", polling.interval_seconds),
        lookback_seconds=own.get("lookback_seconds", polling.lookback_seconds),
        detect_deletes_every=own.get("detect_deletes_every", polling.detect_deletes_every),
    )


_POLLING = ("sync_strategy", "modifier", "interval_seconds", "lookback_seconds", "detect_deletes_every")


def lane_rule(sink: SinkSettings) -> LaneRule:
    """What the configuration says of the sink's lanes."""
    if not any(sink.lanes):
        return LaneRule(len(sink.lanes))

    def names(patterns: Sequence[str]) -> Callable[[str, str], bool]:
        parsed = [parse_table_pattern(pattern) for pattern in patterns]
        return lambda database, table: any(pattern.matches(database, table) for pattern in parsed)

    return LaneRule(len(sink.lanes), tuple(map(names, sink.lanes)))


def target_of(config: Config, sink: SinkSettings, table: TableName) -> tuple[str, str]:
    """Namespace and name of a table's target on a sink."""
    chosen = routing(config, sink)
    kind: SinkKind = "postgresql" if sink.url.kind == "postgresql" else "mysql"
    return route(
        kind, table, chosen.options(table.database, table.table), schema=chosen.schema, database=chosen.database
    )


def target_place(config: Config, sink: SinkSettings, table: TableName) -> str:
    """Where a table goes on a sink, as text in one case: servers may not tell names by it."""
    return "\0".join(target_of(config, sink, table)).casefold()


def lane_server_ids(config: Config) -> dict[str, list[int]]:
    """The id of each lane's stream, by sink: the first lanes' come first, in the order of the sinks.

    All that are configured count, whichever of them run in this process: the others may run in another one.
    """
    ids = {sink.name: [config.source.server_id + n] for n, sink in enumerate(config.sinks)}
    after = itertools.count(config.source.server_id + len(config.sinks))
    for sink in config.sinks:
        ids[sink.name] += [next(after) for _ in sink.lanes[1:]]
    return ids


def side_server_ids(config: Config) -> dict[str, list[int]]:
    """The ids of the streams of each sink's sides (`pipeline.beside`): those of the block behind the lanes'.

    Where these are not enough there are fewer sides, and none where there are none. The last one is `cdc tail`'s.
    """
    lanes = sum(map(len, lane_server_ids(config).values()))
    first = config.source.server_id
    free = iter(range(first + lanes, first + config.ids_taken(lanes, len(config.sinks))))
    ids: dict[str, list[int]] = {sink.name: [] for sink in config.sinks}
    for _ in range(config.snapshot.beside):
        for sink in config.sinks:
            ids[sink.name] += itertools.islice(free, 1)
    return ids


def service_ids(config: Config) -> int:
    """How many ids of the block, from the first on, are the service's."""
    return config.ids_taken(sum(map(len, lane_server_ids(config).values())), len(config.sinks))


def staging_directory(config: Config, sink: str) -> Path | None:
    """Where the files of a sink's loads lie, None where nothing is staged."""
    return config.staging.dir / config.name / sink if config.staging.dir is not None else None


def staging_area(config: Config, sink: str, listener: StagingListener) -> StagingArea | None:
    """Likewise, what has them, not opened yet."""
    directory, staging = staging_directory(config, sink), config.staging
    if directory is None:
        return None
    return StagingArea(
        directory,
        compression=staging.compression,
        bytes_max=staging.bytes_max,
        retention_seconds=staging.retention_hours * 3600,
        listener=listener,
    )


def _staging_at_rest(config: Config, sink: str) -> dict[str, int] | None:
    """What the files of a sink take on this machine, whoever runs the service."""
    directory = staging_directory(config, sink)
    if directory is None:
        return None
    try:
        return staging_use(directory, bytes_max=config.staging.bytes_max).to_dict()
    except OSError:
        return None  # another user's, who runs the service


# ---------------------------------------------------------------- the source's end of log


@dataclass(frozen=True, slots=True)
class _SourceState:
    """What the monitor saw at `taken_at` (monotonic seconds)."""

    taken_at: float = 0.0
    is_reachable: bool | None = None
    flavor: str | None = None
    version: str | None = None
    server: ServerIdentity | None = None
    written: FilePos | None = None
    gtid: str | None = None
    now_us: int | None = None
    error: Exception | None = None
    lost_us: int | None = None
    """When it was first not reached."""


class _Monitor:
    """Asks the source once a second where its log ends and what time it is. Holds no transaction open."""

    def __init__(self, settings: SourceSettings, on_tick: Callable[[], None], log: Logger, clock: Clock) -> None:
        self.error_counts: Counter[str] = Counter()
        """Errors that are bugs of ours, by class; that the source is away is counted by the pipelines."""
        self.has_log = True
        """False where no table is followed by the source's binlog, which may not be there."""
        self._state = _SourceState()
        self._clock = clock
        self._settings = settings
        self._on_tick = on_tick
        self._log = log
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._connection: SourceConnection | None = None
        self._server: ServerIdentity | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join()

    @property
    def state(self) -> _SourceState:
        """What was last seen; of a source that has not answered lately, nothing but where its log ended then."""
        state = self._state
        is_old = self._clock.monotonic() - state.taken_at > _SOURCE_SECONDS_MAX
        return replace(state, is_reachable=False) if state.is_reachable and is_old else state

    def look(self) -> _SourceState:
        """Ask now. Raises what the source's connection raises."""
        if self._connection is None:
            self._server = None
            self._connection = connect(self._settings, read_timeout_seconds=_SOURCE_SECONDS_MAX)
        source = self._connection
        now = source.query_text("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0] or "0"
        gtid = None
        if not self.has_log:
            pass
        elif source.flavor == "mariadb":
            gtid = source.query_text("SELECT @@GLOBAL.gtid_binlog_pos")[0][0]
        elif uses_gtid(source):
            gtid = (source.query_text("SELECT @@GLOBAL.gtid_executed")[0][0] or "").replace("\n", "")
        self._state = _SourceState(
            taken_at=self._clock.monotonic(),
            is_reachable=True,
            flavor=source.flavor,
            version=source.version_text,
            server=self._identity(source),
            written=written_file_pos(source) if self.has_log else None,
            gtid=gtid,
            now_us=int(float(now) * 1_000_000),
        )
        return self._state

    def _identity(self, source: SourceConnection) -> ServerIdentity:
        if self._server is None:
            self._server = source.identity()
        return self._server

    def _run(self) -> None:
        while not self._is_stopping.wait(_MONITOR_SECONDS):
            try:
                self.look()
            except CdcError as error:
                self.lose(error)
            except Exception as error:  # noqa: BLE001 - without this thread every page would go on telling old news
                self._count(error)
                self.lose(error)
            try:
                self._on_tick()
            except Exception as error:  # noqa: BLE001 - likewise
                self._count(error)
        if self._connection is not None:
            self._connection.close()

    def reconnect(self) -> None:
        """Look over a new connection next; from the thread that looks."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def lose(self, error: Exception) -> None:
        """The source has not answered."""
        if self._state.is_reachable:
            hint = error.hint if isinstance(error, CdcError) else None
            self._log.warning("source_unreachable", message=str(error), hint=hint)
        lost_us = self._state.lost_us or self._clock.now_us()
        self._state = replace(self._state, is_reachable=False, error=error, lost_us=lost_us)
        self.reconnect()

    def _count(self, error: Exception) -> None:
        self.error_counts[type(error).__name__] += 1
        self._log.error("monitor_failed", message=str(error), exc_info=error)


# ---------------------------------------------------------------- row estimates


class _Estimates:
    """Asks each sink now and then for its own estimate of the targets' rows, in a thread and sessions of its own."""

    def __init__(self, pipelines: dict[str, SinkLanes | PolledSink], sinks: dict[str, Callable[[], Sink]]) -> None:
        self.rows: dict[str, dict[str, int | None]] = {name: {} for name in pipelines}
        self.kinds: dict[str, str] = {}
        self._pipelines = pipelines
        self._make = sinks
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="estimates", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        wait = 1.0
        while not self._is_stopping.wait(wait):
            wait = _ESTIMATE_SECONDS
            for name, pipeline in self._pipelines.items():
                targets = pipeline.targets()
                sink = self._make[name]()
                try:
                    sink.open()
                    self.kinds[name] = sink.kind
                    self.rows[name] = sink.estimated_rows(targets) if targets else {}
                except CdcError:
                    continue  # the pipeline meets the same trouble, and reports it
                finally:
                    sink.close()


# ---------------------------------------------------------------- the service


class Application:
    """A running service: `start`, then `wait`, then `stop`. Answers the HTTP pages' questions."""

    def __init__(
        self,
        config: Config,
        *,
        log: Logger,
        environ: dict[str, str],
        clock: Clock | None = None,
        only_sinks: Collection[str] | None = None,
        logs_progress: bool = True,
        command: str = "",
    ) -> None:
        """
        Args:
            logs_progress: loads under way have a line in the log now and then.
            command: what runs it instead of `cdc run`, as in `snapshot`: it lets go when it has done its work, and a
                service that comes meanwhile waits for that.
        """
        self._server_ids = lane_server_ids(config)
        self._further_ids: dict[tuple[str, int], int] = {}  # of lanes that are not configured any more
        self._side_server_ids = side_server_ids(config)
        if only_sinks is not None:
            chosen = tuple(sink for sink in config.sinks if sink.name in only_sinks)
            config = config.model_copy(update={"sinks": chosen})
        self.config = config
        self.metrics = Metrics()
        self._clock = clock or SystemClock()
        self._log = log
        self._hooks = Hooks.from_environment(environ)
        self._guard = SourceGuard(
            guard_limits(config.snapshot), clock=self._clock, listener=GuardReport(log, self.metrics)
        )
        self._load_lines = LoadLines(log, self._clock) if logs_progress else None
        self._source = source_settings(config)
        self._staging = {
            sink.name: area
            for sink in config.sinks
            if (area := staging_area(config, sink.name, StagingReport(log, self.metrics.sink(sink.name)))) is not None
        }
        self._monitor = _Monitor(self._source, self._on_tick, log, self._clock)
        self._started_us = self._clock.now_us()
        self._http: HttpServer | None = None
        self._pipelines: dict[str, SinkLanes | PolledSink] = {}
        self._why_no_log = ""
        self._estimates: _Estimates | None = None
        self._with_views: set[str] = set()  # sinks whose views are made, or cannot be
        self._is_stopping = threading.Event()
        self._is_once = False
        self._log_watch = LogWatch()
        self._displaced = DisplacedSinks(
            make_sink=lambda name: self._factory(self._settings_of(name), hooked=False)(),
            begin_anew=self._begin_anew,
            is_stopping=self._is_stopping,
            clock=self._clock,
            log=log,
        )
        self._errors_before: dict[str, Counter[str]] = {}  # by sink, of pipelines in whose place there are new ones
        self._signalled_at: float | None = None
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        if command:
            self.holder = f"{COMMAND_HOLDER}{command} {self.holder}"

    @property
    def url(self) -> str | None:
        """Where the pages are, None when HTTP is off."""
        return self._http.url if self._http is not None else None

    def start(self, *, until_caught_up: bool = False) -> None:
        """Reach the servers, then begin to replicate.

        Servers that are away are waited for, until `request_stop`: who restarts a service that ends waits longer each
        time, and would be late when they are back. With `until_caught_up` they are an error.

        Raises ConfigError when a server refuses us, TransientError when the source, or every sink, is away.
        """
        threading.Thread(target=self._watch_signal, name="watchdog", daemon=True).start()
        if self.config.http.enabled:
            self._start_http()
        state = self._reach_servers(waits=not until_caught_up)
        if state is None:
            return
        for area in self._staging.values():
            area.open()
        self._is_once = until_caught_up
        until = state.written if until_caught_up else None
        self._pipelines = {  # at once: the pages look at it
            sink.name: self._make_group(sink, self._factory(sink), until, is_once=until_caught_up)
            for sink in self.config.sinks
        }
        plain = {sink.name: self._factory(sink, hooked=False) for sink in self.config.sinks}
        self._estimates = _Estimates(self._pipelines, plain)
        for pipeline in self._pipelines.values():
            pipeline.start()
        self._monitor.start()
        self._estimates.start()
        self._log.info(
            "service_started",
            name=self.config.name,
            version=cdc.__version__,
            source=self._source.address,
            sinks=[sink.name for sink in self.config.sinks],
            holder=self.holder,
        )

    def _reach_servers(self, *, waits: bool) -> _SourceState | None:
        """Where the source is; None when the service was told to stop before all that is needed had answered."""
        policy, attempts = _retry_policy(self.config), 0
        while not self._is_stopping.is_set():
            try:
                with connect(self._source) as source:
                    self._choose_streams(source)
                    self._warn_of_patterns(source)
                state = self._monitor.look()
                self._check_sinks()
            except TransientError as error:
                if not waits:
                    raise
                if isinstance(error, SourceUnavailable):
                    self._monitor.lose(error)
                pause = policy.pause_seconds(attempts)
                attempts += 1
                self._log.warning(
                    "start_retrying",
                    attempt=attempts,
                    delay_s=round(pause, 2),
                    error_class=type(error).__name__,
                    message=error.message,
                    hint=error.hint,
                )
                self._is_stopping.wait(pause)
            else:
                return state
        return None

    def _start_http(self) -> None:
        from cdc.dashboard.server import HttpServer  # a quarter of a start's time, for who wants no pages

        settings = self.config.http
        self._http = HttpServer(
            self,
            self.metrics,
            host=settings.host,
            port=settings.port,
            token=settings.current_token,
            on_token_trouble=self._on_token_trouble,
        )
        try:
            self._http.start()
        except ConfigError as error:
            self._http = None
            holder = self._other_instance()  # the usual reason for a port that is taken
            if holder is None:
                raise
            if self.config.standby:
                raise ConfigError(
                    f"{error.message}; {holder.message}",
                    hint="give each instance on one machine an `http.port` of its own",
                ) from error
            raise holder from error
        self._log.info("http_listening", url=self._http.url)

    def _on_token_trouble(self, trouble: str) -> None:
        if trouble:
            self._log.error(
                "http_token_not_read", message=trouble, hint="the token of before counts until http.token can be read"
            )
        else:
            self._log.info("http_token_read_again")

    def _other_instance(self) -> LeaseHeld | None:
        """What says that another instance of this deployment is at work."""
        for settings in self.config.sinks:
            sink = make_sink(settings)
            try:
                sink.open()
                store = InSinkStore(sink, pipeline_name(self.config, settings))
                lease = store.read_lease() if store.exists() else None
                if lease is not None and store.is_holder_alive(lease):
                    return store.held(lease)
            except TransientError:
                continue  # a sink that is down cannot say
            finally:
                sink.close()
        return None

    def _factory(self, sink: SinkSettings, *, hooked: bool = True) -> Callable[[], Sink]:
        return lambda: make_sink(sink, self._hooks if hooked else None)

    def _warn_of_patterns(self, source: SourceConnection) -> None:
        """A pattern that matches nothing may be a typing error, or a table that this user may not see."""
        present, _ = list_tables(source, lambda _database, _table: True)
        patterns = list(map(parse_table_pattern, self.config.tables.include))
        own = [name for name in present if is_own_table(name.database, name.table)]
        if named := [str(n) for n in own if any(p.matches(n.database, n.table) for p in patterns)]:
            self._log.info("own_tables_not_captured", tables=named)
        for pattern in self.config.tables.include:
            found = parse_table_pattern(pattern)
            if not any(found.matches(name.database, name.table) for name in present):
                self._log.warning(
                    "pattern_matches_nothing",
                    pattern=pattern,
                    hint="check its spelling and the user's SELECT right; a table that comes later is captured then",
                )

    def _check_sinks(self) -> None:
        """A sink that refuses us is a mistake to mend now; one that is down may come back while others go on."""
        failures: list[CdcError] = []
        for settings in self.config.sinks:
            sink = make_sink(settings)
            try:
                sink.open()
            except ConfigError:
                raise
            except TransientError as error:
                failures.append(error)
            finally:
                sink.close()
        if len(failures) == len(self.config.sinks):
            raise failures[0]

    def _choose_streams(self, source: SourceConnection) -> None:
        """Is a stream needed at all? Raises ConfigError where one is, and the source has no usable binlog."""
        if not self.config.may_poll:
            require_usable_source(source)
            return
        self._why_no_log = why_no_log(source)
        present, _ = list_tables(source, self.config.tables.matches)
        followed = [name for name in present if self._is_followed(name.database, name.table)]
        later = not self._why_no_log and self.config.tables.sync_strategy in ("cdc", "auto")
        patterns = map(parse_table_pattern, self.config.tables.include)
        if followed or not present or (later and any(pattern.wildcard_count for pattern in patterns)):
            require_usable_source(source)
            return
        self._monitor.has_log = False
        self._log.info("no_stream", tables=len(present), reason=self._why_no_log or "every table is polled")

    def _polling(self, database: str, table: str) -> TablePolling:
        return table_polling(self.config, database, table)

    def _is_followed(self, database: str, table: str) -> bool:
        """Is it captured, and followed by the binlog?"""
        is_polled = self._polling(database, table).is_polled(has_log=not self._why_no_log)
        return self.config.tables.matches(database, table) and not is_polled

    def _is_polled(self, database: str, table: str) -> bool:
        """Is it the pollers'? Without a stream every table is: one that cannot be polled is parked with the reason."""
        is_ours = not self._monitor.has_log or not self._is_followed(database, table)
        return is_ours and self.config.tables.matches(database, table)

    def _make_group(
        self, sink: SinkSettings, make: Callable[[], Sink], until: FilePos | None, *, is_once: bool
    ) -> SinkLanes | PolledSink:
        lanes = self._make_lanes(sink, make, until) if self._monitor.has_log else None
        if lanes is not None and not self.config.may_poll:
            return lanes
        config = self.config
        poller = Poller(
            settings=PollerSettings(
                name=poller_name(pipeline_name(config, sink)),
                holder=self.holder,
                workers=config.polling.workers,
                batch_delay_seconds=config.polling.batch_delay_seconds,
                lease_seconds=config.lease.seconds,
                retry=_retry_policy(config),
                var_dir=config.var_dir,
                load=LoadLimits(
                    config.snapshot.workers, config.snapshot.chunk_seconds, config.queue_bytes_max, self._guard
                ),
                why_no_log=self._why_no_log or ("" if self._monitor.has_log else "no stream was opened at the start"),
                standby=config.standby and not is_once,
            ),
            source=self._source,
            make_sink=make,
            routing=replace(routing(config, sink), matches=self._is_polled),
            polling=self._polling,
            clock=self._clock,
            hooks=self._hooks,
            log=self._log,
            metrics=self.metrics.sink(sink.name),
            is_once=is_once,
        )
        return PolledSink(lanes, poller, self._clock)

    def _make_lanes(self, sink: SinkSettings, make: Callable[[], Sink], until: FilePos | None) -> SinkLanes:
        sides = len(self._side_server_ids[sink.name])
        if sides < self.config.snapshot.beside:
            self._log.warning(
                "sides_lack_server_ids",
                sink=sink.name,
                beside=self.config.snapshot.beside,
                sides=sides,
                hint="tables are loaded in the sink's own stream instead, which waits for them, or fewer at a time: "
                "raise source.server_id_count, with as many ids that no other replica has",
            )
        return SinkLanes(
            pipeline=pipeline_name(self.config, sink),
            rule=lane_rule(sink),
            make_lane=functools.partial(self._make_lane, sink, make, until),
            make_side=functools.partial(self._make_side, sink, make),
            sides=sides,
            target=functools.partial(target_of, self.config, sink),
            captures=self._is_followed,
            place=functools.partial(target_place, self.config, sink),
            families=self._families,
            kin=self._kin,
            is_standby=self.config.standby and until is None,
            clock=self._clock,
            hooks=self._hooks,
            log=self._log,
        )

    def _families(
        self, source: SourceConnection, tables: Collection[TableName]
    ) -> Sequence[tuple[TableName, TableName]]:
        """Children and parents for which `hidden_cascades` is `apply`."""
        asked = {t for t in tables if self.config.policies_for(t.database, t.table).hidden_cascades == "apply"}
        if not asked:
            return ()
        return [
            (key.table, key.parent_table)
            for key in read_hidden_keys(source, set(tables))
            if key.table in asked and key.parent_table in tables
        ]

    def _kin(self, table: TableName) -> Collection[TableName]:
        """All that hangs together with a new table by foreign keys, as the source has them now."""
        if not self.config.applies_hidden_cascades:
            return ()
        with connect(self._source) as source:
            present, _ = list_tables(source, self._is_followed)
            return related(table, self._families(source, present))

    def _make_lane(
        self, sink: SinkSettings, make: Callable[[], Sink], until: FilePos | None, lane: int, link: LaneLink
    ) -> Pipeline:
        settings = self._pipeline_settings(
            lane_name(pipeline_name(self.config, sink), lane),
            self._server_id(sink, lane),
            self.config.queue_bytes_max // len(sink.lanes),
        )
        # All sides together have what a lane has.
        bytes_beside = self.config.queue_bytes_max // (len(sink.lanes) + 1)
        whole = replace(routing(self.config, sink), matches=self._is_followed)
        pipeline = Pipeline(
            settings=replace(
                settings,
                lane=lane if lane > 1 or len(sink.lanes) > 1 else None,
                recovery=Recovery(**self.config.recovery.model_dump()),
                history_entries_max=self.config.history.entries_max,
                beside_rows_min=self.config.snapshot.beside_rows_min,
                queue_bytes_beside=bytes_beside,
                standby=self.config.standby and until is None and lane == 1,
            ),
            source=self._source,
            make_sink=make,
            routing=replace(
                whole, matches=lambda database, table: whole.matches(database, table) and link.owns(database, table)
            ),
            clock=self._clock,
            hooks=self._hooks,
            log=self._log,
            metrics=self.metrics.sink(sink.name),
            until=until,
            on_lease=functools.partial(self._on_lease, link),
            on_end=link.on_end,
            beside=link.beside,
        )
        pipeline.status.lag = functools.partial(self._lag, pipeline)
        return pipeline

    def _make_side(self, sink: SinkSettings, make: Callable[[], Sink], number: int, link: SideLink) -> Pipeline:
        """May be asked for one more than there are ids, if it is never started."""
        ids = self._side_server_ids[sink.name]
        settings = self._pipeline_settings(
            side_name(pipeline_name(self.config, sink), number),
            ids[min(number, len(ids)) - 1] if ids else 0,
            self.config.queue_bytes_max // (len(sink.lanes) + 1) // max(1, len(ids)),
        )
        whole, side = replace(routing(self.config, sink), matches=self._is_followed), link.side
        pipeline = Pipeline(
            # Parked tables are its lane's to try again, once they have joined it.
            settings=replace(settings, side=number, recovery=Recovery(on_purged=self.config.recovery.on_purged)),
            source=self._source,
            make_sink=make,
            routing=replace(
                whole,
                matches=lambda database, table: side.owns(database, table) and whole.matches(database, table),
                options=functools.partial(_options_beside, whole, side),
            ),
            clock=self._clock,
            hooks=self._hooks,
            log=self._log,
            metrics=self.metrics.sink(sink.name),
            on_end=link.on_end,
            side=side,
        )
        pipeline.status.lag = functools.partial(self._lag, pipeline)
        return pipeline

    def _pipeline_settings(self, name: str, server_id: int, bytes_max: int) -> PipelineSettings:
        config = self.config
        return PipelineSettings(
            name=name,
            holder=self.holder,
            server_id=server_id,
            limits=run_limits(config.flush),
            age_seconds_max=config.flush.age_ms_max / 1000,
            queue_bytes_max=bytes_max,
            load=LoadLimits(
                config.snapshot.workers,
                config.snapshot.chunk_seconds,
                bytes_max,
                self._guard,
                self._staging.get(sink_of(name)),
                config.snapshot.writers,
            ),
            drift_seconds=config.targets.drift_seconds,
            lease_seconds=config.lease.seconds,
            retry=_retry_policy(config),
            var_dir=config.var_dir,
        )

    def _on_lease(self, link: LaneLink, store: InSinkStore, source: SourceConnection) -> None:
        if store.sink.name not in self._with_views:
            refused = create_views(store)
            if refused is not None:
                self._log.info("views_not_made", sink=store.sink.name, message=refused.message, hint=refused.hint)
            self._with_views.add(store.sink.name)
        link.on_lease(store, source)

    def _server_id(self, sink: SinkSettings, lane: int) -> int:
        """Raises ConfigError for a lane that is not configured any more, when the block has no id left for it."""
        ids = self._server_ids[sink.name]
        if (sink.name, lane) in self._further_ids:
            return self._further_ids[sink.name, lane]
        if lane > len(sink.lanes):
            block = range(self._source.server_id, self._source.server_id + self._source.server_id_count)
            used = [*self._server_ids.values(), *self._side_server_ids.values()]
            taken = {number for numbers in used for number in numbers}
            free = [number for number in block if number not in taken]
            if not free:
                raise ConfigError(
                    f"sink {sink.name} has tables in lane {lane}, which is not configured any more, and no server_id "
                    f"is left in the block {block[0]}..{block[-1]} for its stream",
                    hint="raise source.server_id_count",
                )
            ids.append(free[0])
            self._further_ids[sink.name, lane] = free[0]
            return free[0]
        return ids[lane - 1]

    def wait(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Until every pipeline has ended, or `request_stop`; `on_poll` is called a few times a second."""
        while not self._is_stopping.is_set() and not self.has_ended(0.1):
            on_poll()

    def has_ended(self, seconds: float) -> bool:
        """Wait up to `seconds`; has every pipeline ended by then, for good?

        One whose lease a command has taken is begun with anew.
        """
        deadline = self._clock.monotonic() + seconds
        are_open = self._displaced.are_open()  # before the others are asked: one that begins anew is among them then
        # Each is asked, also behind one that lives: that is when a sink that has half failed ends its other half.
        ended = {n: p.join(max(0.0, deadline - self._clock.monotonic())) for n, p in self._pipelines.items()}
        if not self._is_once and not self._is_stopping.is_set():
            lost = [n for n in ended if ended[n] and self._displaced.look_into(n, self._pipelines[n].error)]
            are_open = are_open or bool(lost)
        return all(ended.values()) and not are_open

    def _begin_anew(self, name: str) -> None:
        """With a sink whose pipelines have ended."""
        settings, errors = self._settings_of(name), Counter(self._errors_before.get(name))
        for pipeline in _running(self._pipelines[name]):
            errors.update(pipeline.status.error_counts)
        group = self._make_group(settings, self._factory(settings), None, is_once=False)
        group.start()
        self._pipelines[name], self._errors_before[name] = group, errors
        if self._is_stopping.is_set():
            group.request_stop()

    def request_stop(self) -> None:
        """From a signal handler: end as soon as the open transactions are finished.

        From here on the process has `_SIGNAL_SECONDS_MAX` to live, whatever hangs.
        """
        if self._signalled_at is not None:
            return  # a second signal, perhaps in the middle of the first one's handler
        self._signalled_at = time.monotonic()
        faulthandler.dump_traceback_later(_SIGNAL_SECONDS_MAX + _LAST_RESORT_SECONDS, exit=True, file=2)
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        self._is_stopping.set()
        for pipeline in self._pipelines.values():
            pipeline.request_stop()

    def stop(self) -> None:
        """Finish the open sink transactions, or roll them back where that takes too long; then end everything."""
        self._ask_to_stop()
        deadline = self._clock.monotonic() + _STOP_SECONDS
        self._displaced.join(1.0)
        for pipeline in self._pipelines.values():
            pipeline.join(max(0.0, deadline - self._clock.monotonic()))
        for name, pipeline in self._pipelines.items():
            if not pipeline.join(0):
                self._log.warning("transaction_cancelled", sink=name)
                threading.Thread(target=self._cancel, args=(name,), name=f"cancel-{name}", daemon=True).start()
        deadline = self._clock.monotonic() + _CANCEL_SECONDS
        for pipeline in self._pipelines.values():
            pipeline.join(max(0.0, deadline - self._clock.monotonic()))
        if self._http is not None:
            self._http.stop()
        if self._estimates is not None and self._monitor.state.is_reachable is not None:
            threading.Thread(target=self._estimates.stop, daemon=True).start()
        self._log.info("service_stopped", name=self.config.name)

    def _cancel(self, name: str) -> None:
        """Cancel the statement of one sink that still answers.

        A cancel waits for the server, and psycopg2 keeps the interpreter's lock meanwhile: asked of a frozen server it
        would stop the whole process. So a new session, which waits without the lock, has to be answered first.
        """
        probe = self._factory(self._settings_of(name), hooked=False)()
        with contextlib.suppress(CdcError):  # a server that refuses is there, or gone for certain: no wait either way
            probe.open()
            probe.close()
        self._pipelines[name].cancel()

    def _settings_of(self, name: str) -> SinkSettings:
        return next(sink for sink in self.config.sinks if sink.name == name)

    def _watch_signal(self) -> None:
        while self._signalled_at is None or time.monotonic() - self._signalled_at < _SIGNAL_SECONDS_MAX:
            time.sleep(_WATCHDOG_SECONDS)
        # The log's stream may be what hangs.
        say = threading.Thread(target=self._log.warning, args=("stop_forced",), daemon=True)
        say.start()
        say.join(_WATCHDOG_SECONDS)
        os._exit(self._exit_code())

    def _exit_code(self) -> int:
        return max((e.exit_code if isinstance(e, CdcError) else 1 for _, e in self.failures()), default=0)

    def failures(self) -> list[tuple[str, BaseException]]:
        """The pipelines that ended with an error."""
        return [(name, p.error) for name, p in self._pipelines.items() if p.error is not None]

    def held_elsewhere(self) -> set[str]:
        """Of `failures`, the sinks that another instance has taken first."""
        return {name for name, error in self.failures() if isinstance(error, LeaseHeld)}

    def parked(self) -> list[tuple[str, dict[str, Any]]]:
        """Tables that were set aside, with their errors, by sink."""
        return [
            (f"{name}: {record.source}", dict(record.error or {}))
            for name, pipeline in self._pipelines.items()
            for record in pipeline.tables
            if record.state == "parked"
        ]

    # ------------------------------------------------------------ what the pages ask

    def _sink_reports(self) -> Iterable[SinkReport]:
        for settings in self._begun():
            group = self._pipelines[settings.name]
            sides = group.beside.sides
            lanes = [self._lane_report(settings, lane, pipeline) for lane, pipeline in group.lanes.items()]
            found = [self._lane_report(settings, s.lane, s.pipeline) for s in sides if isinstance(s.pipeline, Pipeline)]
            with_sides = [beside(lane, [side for side in found if side.lane == lane.lane]) for lane in lanes]
            if not isinstance(group, PolledSink):
                yield merged(with_sides)
                continue
            polled = replace(self._lane_report(settings, POLLER, group.poller), polls=group.poller.polls())
            yield with_poller(merged(with_sides) if with_sides else None, polled)

    def _lane_report(self, settings: SinkSettings, lane: int, pipeline: Pipeline | Poller) -> SinkReport:
        said = pipeline.status.to_dict()
        return SinkReport(
            name=settings.name,
            kind=self._kind(settings),
            state=self._shown_state(pipeline),
            position=pipeline.status.position,
            lag_seconds=self._lag(pipeline),
            last_commit=said["last_commit"],
            error=said["error"],
            holder=self.holder,
            tables=pipeline.tables,
            rows=self._estimates.rows.get(settings.name, {}) if self._estimates else {},
            progress=said["progress"],
            recent_errors=said["recent_errors"],
            retries=said["retries"],
            prepared=pipeline.status.prepared,
            staging=area.use.to_dict() if (area := self._staging.get(settings.name)) is not None else None,
            lane=lane,
        )

    def _kind(self, settings: SinkSettings) -> str:
        known = self._estimates.kinds.get(settings.name) if self._estimates else None
        return known or settings.url.kind

    def _lag(self, pipeline: Pipeline | Poller) -> float | None:
        state = self._monitor.state
        if not state.is_reachable or isinstance(pipeline, Poller):
            return None
        seen, written = pipeline.status.seen_file, state.written
        if pipeline.followed is None and seen is not None and written is not None and seen > written:
            return None  # no stream is ahead of the look: the log was reset
        if pipeline.followed not in (None, state.server):
            return None  # the ends of two logs
        return pipeline.status.lag_seconds(
            written=state.written, source_now_us=state.now_us, oldest_us=pipeline.oldest_unapplied_us()
        )

    def _shown_state(self, pipeline: Pipeline | Poller) -> str:
        """`caught_up` is streaming with nothing left to apply."""
        state = pipeline.status.state
        return "caught_up" if state == "streaming" and self._lag(pipeline) == 0 else state

    def status(self) -> dict[str, Any]:
        state = self._monitor.state
        position = None
        if state.written is not None:
            position = {"gtid": state.gtid, "file": state.written.file, "pos": state.written.pos}
        return status_document(
            name=self.config.name,
            version=cdc.__version__,
            now_us=self._clock.now_us(),
            source=SourceReport(state.flavor, state.version, position, _source_error(state)),
            sinks=self._sink_reports(),
        )

    def health_inputs(self) -> HealthInputs:
        errors: Counter[str] = Counter(self._monitor.error_counts)
        for before in list(self._errors_before.values()):
            errors.update(before)
        commits: list[str] = []
        sinks = {}
        records = []
        streams = 0
        for settings in self._begun():
            lanes = self._pipelines[settings.name]
            streams += len(lanes.lanes)
            for pipeline in _running(lanes):
                errors.update(pipeline.status.error_counts)
                said = pipeline.status.to_dict()
                if said["last_commit"]:
                    commits.append(said["last_commit"])
            records.extend(lanes.tables)
            is_healthy = lanes.is_sink_healthy
            taken = 2 * len(lanes.lanes) if is_healthy else 0
            sinks[settings.name] = SinkHealth(
                state=self._state(lanes),
                is_budget_spent=any(pipeline.retries.left == 0 for pipeline in _every(lanes)),
                connection=ConnectionHealth(
                    status="unknown" if is_healthy is None else "healthy" if is_healthy else "unhealthy",
                    pool_size=settings.pool_size,
                    checked_out=taken,
                    overflow=max(0, taken - settings.pool_size),
                ),
            )
        reachable = self._monitor.state.is_reachable
        return HealthInputs(
            started_us=self._started_us,
            source=ConnectionHealth(
                status="unknown" if reachable is None else "healthy" if reachable else "unhealthy",
                pool_size=2 * streams + 1,
                checked_out=(2 * streams + 1) if reachable else 0,
            ),
            sinks=sinks,
            last_successful_sync=max(commits, default=None),
            tables_synced=sum(record.state == "ready" for record in records),
            tables_parked=sum(record.state == "parked" for record in records),
            sync_errors=errors.total(),
            error_summary=dict(errors),
            file_staging=self._file_staging(),
        )

    def _begun(self) -> list[SinkSettings]:
        """The sinks that have pipelines: none while servers are waited for at the start."""
        return [settings for settings in self.config.sinks if settings.name in self._pipelines]

    def _file_staging(self) -> dict[str, Any]:
        uses = [area.use for area in self._staging.values()]
        if not uses:
            return {"enabled": False}
        return {
            "enabled": True,
            "bytes": sum(use.byte_count for use in uses),
            "bytes_max": sum(use.bytes_max for use in uses),
            "chunks": sum(use.file_count for use in uses),
        }

    def is_ready(self) -> bool:
        return (
            bool(self._pipelines)
            and self._monitor.state.is_reachable is not False
            and all(self._is_ready(lanes) for lanes in self._pipelines.values())
        )

    def _is_ready(self, lanes: SinkLanes | PolledSink) -> bool:
        """Is it streaming, with source and sink heard of? Their silence ends the session much later."""
        silence_max = max(_SOURCE_SECONDS_MAX, _HEARTBEATS_MISSED_MAX * self.config.source.heartbeat_seconds)
        return (
            self._state(lanes) in ("streaming", "caught_up")
            and lanes.is_sink_healthy is not False
            and all(pipeline.source_silent_seconds() < silence_max for pipeline in lanes.lanes.values())
        )

    def _state(self, lanes: SinkLanes | PolledSink) -> str:
        sides = [side.pipeline for side in lanes.beside.sides if isinstance(side.pipeline, Pipeline)]
        states = [self._shown_state(pipeline) for pipeline in _running(lanes)]
        if any(self._lag(pipeline) != 0 for pipeline in _behind(lanes)):
            states = ["streaming" if state == "caught_up" else state for state in states]
        return worst_state([*states, *side_states(map(self._shown_state, sides))])

    def _look_at_log(self) -> None:
        """Does every stream follow what the source has?"""
        state = self._monitor.state
        if not state.is_reachable or state.server is None or state.written is None:
            return
        executed = MysqlGtidSet.parse(state.gtid) if state.flavor == "mysql" and state.gtid is not None else None
        pipelines = [p for lanes in self._pipelines.values() for p in _every(lanes) if isinstance(p, Pipeline)]
        found = self._log_watch.look(
            LogEnd(state.server, state.written, executed),
            {p: Followed(p.followed, p.status.seen_file) for p in pipelines if p.followed is not None},
        )
        for pipeline in pipelines:
            if what := found.get(pipeline):
                pipeline.check_source_again(
                    SourceUnavailable(
                        f"source {self._source.address}: {what}",
                        hint="the checkpoint is held against the source again; what that finds is said next",
                    )
                )
        if self._log_watch.is_strange:
            self._monitor.reconnect()

    def _on_tick(self) -> None:
        self._displaced.hang_up_on_silence()
        for name, lanes in self._pipelines.items():
            sides = [side.pipeline for side in lanes.beside.sides]
            silent = [p for p in [*_running(lanes), *sides] if p.hang_up_on_silence()]
            if silent:
                self._log.warning(
                    "sink_silent",
                    sink=name,
                    hint="the server hangs, a connection is half open, or commits wait for a standby",
                )
            sink = self.metrics.sink(name)
            lags = {lane: self._lag(pipeline) for lane, pipeline in lanes.lanes.items()}
            every = [*lags.values(), *map(self._lag, _behind(lanes))]
            known = [lag for lag in every if lag is not None]
            sink.state(self._state(lanes))
            sink.lag(max(known) if known and len(known) == len(every) else None)
            sink.lane_lags(lags if len(lags) > 1 else {})
            sink.queued(lanes.queue_bytes())
            left = (pipeline.retries.left for pipeline in _every(lanes))
            sink.retries_left(min(left, default=self.config.retry.per_hour))
            sink.tables(Counter(record.state for record in lanes.tables))
            sink.targets_drifted(sum(pipeline.targets_seen.drifted_count for pipeline in lanes.lanes.values()))
            sink.prepared(sum(pipeline.status.prepared["count"] for pipeline in lanes.lanes.values()))
            if name in self._staging:
                self._staging[name].expire()
                sink.staging(self._staging[name].use.byte_count)
        self._show_loads()
        self._look_at_log()

    def _show_loads(self) -> None:
        loads = self._loads()
        if self._load_lines is not None:
            self._load_lines.show(loads)
        for name in self._pipelines:
            rates = [rate for (sink, _), rate in loads.items() if sink == name]
            self.metrics.sink(name).loading(
                [rate.rows_per_second for rate in rates],
                [rate.seconds_left for rate in rates],
                [rate.log_seconds_left for rate in rates],
            )

    def _loads(self) -> dict[tuple[str, str], LoadRate]:
        return {
            (name, table): rate
            for name, lanes in self._pipelines.items()
            for pipeline in (*_running(lanes), *(side.pipeline for side in lanes.beside.sides))
            if isinstance(pipeline, Pipeline | Poller)
            for table, rate in pipeline.status.loads.items()
        }

    def loads(self) -> dict[str, dict[str, Any]]:
        """The `progress` of each load under way."""
        return {f"{sink}: {table}": rate.to_dict() for (sink, table), rate in self._loads().items()}


def _behind(group: SinkLanes | PolledSink) -> list[Pipeline]:
    """The sides that have complete tables which nobody else keeps current."""
    return [s.pipeline for s in group.beside.sides if s.has_complete and isinstance(s.pipeline, Pipeline)]


def _every(group: SinkLanes | PolledSink) -> list[Pipeline | Poller]:
    """The lanes, the poller if there is one, and the sides."""
    return [*_running(group), *(s.pipeline for s in group.beside.sides if isinstance(s.pipeline, Pipeline))]


def _running(group: SinkLanes | PolledSink) -> list[Pipeline | Poller]:
    """The lanes, and the poller if there is one."""
    return [*group.lanes.values(), *([group.poller] if isinstance(group, PolledSink) else [])]


def _source_error(state: _SourceState) -> dict[str, Any] | None:
    """Why the source could not be asked last time; None while it answers, and before it was asked."""
    if state.is_reachable is not False:
        return None
    error = state.error
    if not isinstance(error, CdcError):
        seconds = f"the source has not answered for {_SOURCE_SECONDS_MAX:g} s"
        error = TransientError(f"{type(error).__name__}: {error}" if error is not None else seconds)
    return error.to_dict(since=iso_time(state.lost_us))


# ---------------------------------------------------------------- without a running service


def read_status(config: Config, *, clock: Clock | None = None) -> dict[str, Any]:
    """`cdc status` from the sinks' metadata and the source, whether the service runs or not.

    A sink or source that cannot be reached is reported as such, not raised.
    """
    clock = clock or SystemClock()
    monitor = _Monitor(source_settings(config), lambda: None, _silent(), clock)
    source = SourceReport()
    state = _SourceState()
    try:
        state = _look_at_rest(monitor, config)
        written = state.written
        position = {"gtid": state.gtid, "file": written.file, "pos": written.pos} if written else None
        source = SourceReport(state.flavor, state.version, position)
    except CdcError as error:
        source = SourceReport(error=error.to_dict())
    reports = [_read_sink(config, settings, state) for settings in config.sinks]
    return status_document(
        name=config.name, version=cdc.__version__, now_us=clock.now_us(), source=source, sinks=reports
    )


def _look_at_rest(monitor: _Monitor, config: Config) -> _SourceState:
    try:
        return monitor.look()
    except ConfigError:
        if not config.may_poll:
            raise
        monitor.has_log = False  # it may well do without
        return monitor.look()


def _silent() -> Logger:
    logger: Logger = structlog.get_logger()
    return logger


def _read_sink(config: Config, settings: SinkSettings, source: _SourceState) -> SinkReport:
    sink = make_sink(settings)
    try:
        sink.open()
        stores = lane_stores(sink, pipeline_name(config, settings))
        if not stores[1].exists():
            return merged([SinkReport(name=settings.name, kind=sink.kind, state="stopped")])
        lanes = [_read_lane(config, settings, source, lane, store) for lane, store in stores.items()]
        sides = side_stores(sink, pipeline_name(config, settings)).values()
        found = [_read_lane(config, settings, source, 1, store) for store in sides]
        elsewhere = {record.source for lane in lanes[1:] for record in lane.tables}
        report = merged([beside(lanes[0], found, elsewhere), *lanes[1:]])
        return _with_polled(config, settings, source, report, poller_stores(sink, pipeline_name(config, settings)))
    except CdcError as error:
        if isinstance(error, TransientError) and config.http.enabled:
            pages = "what a running service knows of it is on its page /api/status, and in its log"
            error.hint = f"{error.hint}; {pages}" if error.hint else pages
        return merged([SinkReport(name=settings.name, kind=settings.url.kind, state="failed", error=error.to_dict())])
    finally:
        sink.close()


def _with_polled(
    config: Config,
    settings: SinkSettings,
    source: _SourceState,
    report: SinkReport,
    stores: Mapping[int, InSinkStore],
) -> SinkReport:
    """The sink with its poller, if it has one."""
    for lane, store in stores.items():
        polled = _read_lane(config, settings, source, lane, store)
        polls = {
            name: poll_document(state, table_polling(config, name.database, name.table))
            for name, state in poll_states(store).items()
        }
        is_alone = report.position is None and not report.tables and report.holder is None
        report = with_poller(None if is_alone else report, replace(polled, polls=polls))
    return report


def _read_lane(
    config: Config, settings: SinkSettings, source: _SourceState, lane: int, store: InSinkStore
) -> SinkReport:
    sink: Sink = store.sink
    lease = store.read_lease()
    checkpoint, committed_us = store.load_checkpoint()
    tables = list(store.load_tables().values())
    said = lease.status if lease is not None else {}
    is_live = lease is not None and store.is_holder_alive(lease)
    last_state = str(said.get("state", "starting"))
    state = last_state if is_live else "failed" if last_state == "failed" else "stopped"
    lag: float | None = None
    if is_live and lease is not None:
        # What was said before the service began to hang is no news; the pages of such a service tell nothing.
        said_seconds_ago = config.lease.seconds - (lease.expires_us - lease.now_us) / 1e6
        lag = said.get("lag_seconds") if said_seconds_ago <= _SAID_SECONDS_MAX else None
    elif checkpoint is not None:
        lag = _lag_at_rest(checkpoint.position, said.get("seen"), source)
    if is_live and state == "streaming" and lag == 0:
        state = "caught_up"
    return SinkReport(
        name=settings.name,
        kind=sink.kind,
        state=state,
        position=checkpoint.position if checkpoint else None,
        lag_seconds=lag,
        last_commit=said.get("last_commit") if is_live else iso_time(committed_us if checkpoint else None),
        error=said.get("error"),
        holder=lease.holder if is_live and lease is not None else None,
        tables=tables,
        rows=sink.estimated_rows(_targets(config, settings, sink, tables)),
        progress=said.get("progress", {}) if is_live else {},
        recent_errors=said.get("recent_errors", ()),
        retries=said.get("retries") or NO_RETRIES if is_live else NO_RETRIES,
        prepared=_prepared(store),
        staging=_staging_at_rest(config, settings.name),
        lane=lane,
    )


def _prepared(store: InSinkStore) -> dict[str, Any]:
    if not store.exists("prepared"):  # an older version made the metadata, and stored none
        return {"count": 0, "oldest": None}
    count, oldest_us = PreparedStore(store).waiting()
    return {"count": count, "oldest": iso_time(oldest_us)}


def _lag_at_rest(position: SourcePosition, seen: Mapping[str, Any] | None, source: _SourceState) -> float | None:
    """0 when a pipeline that does not run had passed just what is written; else nobody knows how old the rest is, nor
    whose log it is that ends before what came from it."""
    if source.written is None or source.server is None:
        return None
    passed = [position.file] if position.server == source.server and position.file is not None else []
    if seen is not None and seen.get("server") == source.server.uuid:
        passed.append(FilePos.of(seen["file"], seen["pos"]))
    return 0.0 if passed and max(passed) == source.written else None


def _targets(config: Config, settings: SinkSettings, sink: Sink, records: Iterable[Any]) -> list[Any]:
    registry = TableRegistry(routing(config, settings), sink.kind, ())
    found = []
    for record in records:
        if record.definition is not None:
            try:
                found.append(registry.make_target(record.definition))
            except CdcError:
                continue  # the table is parked with this very error
    return found


def guard_limits(snapshot: SnapshotSettings) -> GuardLimits:
    """What loads may ask of the source, as configured."""
    return GuardLimits(
        rows_per_second=snapshot.rows_per_second,
        bytes_per_second=snapshot.bytes_per_second,
        connections=snapshot.connections,
        threads_running=snapshot.pause_when.threads_running,
        replica_lag_seconds=snapshot.pause_when.replica_lag_seconds,
    )


def parse_table(text: str) -> TableName:
    """`db.table` as given on the command line. Raises ConfigError."""
    database, dot, table = text.partition(".")
    if not dot or not database or not table:
        raise ConfigError(f"{text!r} is no table name", hint="give it as database.table, e.g. shop.orders")
    return TableName(database, table)


def sinks_named(config: Config, names: list[str]) -> list[SinkSettings]:
    """The configured sinks of these names, all when none is named. Raises ConfigError for an unknown one."""
    known = {sink.name: sink for sink in config.sinks}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no sink {name!r}", hint=f"the configuration has {', '.join(known)}")
    return [sink for sink in config.sinks if not names or sink.name in names]
