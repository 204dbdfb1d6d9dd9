"""Where applying is measured: a source that holds one log and no other, durable sinks, and the service between them.

Knows how to put a sink back to where it was before the log, and how to tell that it has the log's rows now. What is
timed, and against what, is in apply.py and latency.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cdc
from benchmarks.decode import ArmUnavailable, Measured, RowsDiffer, all_cpu_seconds
from benchmarks.logs import LOGS, Log, Maker, Site, Table, read_list, site_directory
from cdc.app import make_sink, pipeline_name, routing, source_settings
from cdc.config import Config, load_config
from cdc.demo.servers import Server
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, SourcePosition, TableDefinition, TableName
from cdc.pipeline.tables import TableRegistry
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from cdc.source.connection import connect
from cdc.source.definitions import read_definition
from checkpoints.checkpoint import Checkpoint
from checkpoints.store import InSinkStore, TableRecord

__all__ = [
    "Deployment",
    "Fingerprint",
    "LogSource",
    "Place",
    "durable_sink",
    "durable_source",
    "fingerprint",
    "measured",
    "server_cpu_seconds",
    "settings_line",
]

_CHECKOUT = Path(cdc.__file__).resolve().parents[1]
_SINK_DATABASE = "bench"
_RUN_SECONDS_MAX = 3600
_SETTLE_SECONDS_MAX = 60.0
_LOG_TAIL_CHARS = 600

# What a sink must not lose when its machine goes down: nothing.
_DURABLE: Mapping[str, Mapping[str, str | int | None]] = {
    "postgresql": {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
    },
    "mariadb": {
        "sync_binlog": 1,
        "innodb_flush_log_at_trx_commit": 1,
        "innodb_doublewrite": 1,
        "innodb_log_file_size": "1G",
        "innodb_buffer_pool_size": "768M",
        "max_binlog_size": 1 << 30,
    },
    "mysql": {
        "sync_binlog": 1,
        "innodb_flush_log_at_trx_commit": 1,
        "innodb_doublewrite": "ON",
        "innodb_redo_log_capacity": "1G",
        "innodb_buffer_pool_size": "768M",
        "max_binlog_size": 1 << 30,
    },
}
_RELAXED: Mapping[str, Mapping[str, str | int | None]] = {
    "mariadb": {"innodb_flush_log_at_trx_commit": 0, "innodb_doublewrite": 0, "innodb_log_file_size": "1G"},
    "mysql": {"innodb_flush_log_at_trx_commit": 0, "innodb_doublewrite": "OFF", "innodb_redo_log_capacity": "1G"},
}
_SHOWN: Mapping[str, Sequence[str]] = {
    "postgresql": (
        "server_version",
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "shared_buffers",
        "max_wal_size",
        "checkpoint_timeout",
    ),
    "mysql": (
        "version",
        "log_bin",
        "sync_binlog",
        "innodb_flush_log_at_trx_commit",
        "innodb_doublewrite",
        "innodb_log_file_size",
        "innodb_redo_log_capacity",
        "innodb_buffer_pool_size",
        "max_binlog_size",
    ),
}


# ---------------------------------------------------------------- servers


def durable_sink(kind: str) -> Server:
    """A private server that has on disk what it has acknowledged. Raises ServerUnavailable."""
    server = Server.start(kind)
    server.restart(options=_DURABLE[server.family])
    if server.family == "postgresql":
        server.execute(f"CREATE DATABASE {_SINK_DATABASE}")
    return server


def durable_source(kind: str, *, is_durable: bool = True) -> Server:
    """A private source; without durability where only what it has logged is measured."""
    server = Server.start(kind)
    options = _DURABLE[server.family] if is_durable else _RELAXED[server.family]
    server.restart(options={"innodb_buffer_pool_size": "768M", "max_binlog_size": 1 << 30, **options})
    return server


def settings_line(server: Server) -> str:
    """What a commit on this server means, by its own word."""
    if server.family == "postgresql":
        found = [(name, server.execute(f"SHOW {name}")[0][0]) for name in _SHOWN["postgresql"]]
    else:
        names = ", ".join(f"'{name}'" for name in _SHOWN["mysql"])
        found = [tuple(row) for row in server.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")]
    return ", ".join(f"{name}={value}" for name, value in found)


def server_cpu_seconds(server: Server) -> float:
    """What the server's processes have used so far, those that have ended included."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = stat.read_text().partition(" (")
            ticks = rest.rpartition(")")[2].split()
            if int(pid) == server.pid:
                total += sum(map(int, ticks[11:15]))
            elif int(ticks[1]) == server.pid:
                total += sum(map(int, ticks[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def settle(server: Server) -> None:
    """Have what earlier arms left to be written out of the way: each begins with clean buffers and an empty log."""
    if server.family == "postgresql":
        server.execute("CHECKPOINT")
        return
    if server.family == "mariadb":
        server.execute("RESET MASTER")
    else:
        server.execute("RESET BINARY LOGS AND GTIDS")
    server.execute("SET GLOBAL innodb_max_dirty_pages_pct = 0")
    deadline = time.monotonic() + _SETTLE_SECONDS_MAX
    while time.monotonic() < deadline:
        dirty = server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")[0][1]
        if int(dirty) == 0:
            break
        time.sleep(0.1)
    server.execute("SET GLOBAL innodb_max_dirty_pages_pct = 90")


# ---------------------------------------------------------------- which rows a table holds


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How many rows, and the sum of the hashes of their canonical texts (logs.py)."""

    rows: int
    hash_sum: int

    def __str__(self) -> str:
        return f"{self.rows} rows, hash {self.hash_sum:x}"


# PostgreSQL's way to the text that MySQL's SELECT prints.
_POSTGRES_TEXT = {
    "created": "to_char({}, 'YYYY-MM-DD HH24:MI:SS.MS')",
    "updated": "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')",
    "flag": "{}::int::text",
}


def fingerprint(server: Server, database: str, table: Table, *, namespace: str | None = None) -> Fingerprint:
    """Of a table of the logs, on any of the servers, by its own SQL.

    Args:
        database: MySQL family: where the table is; PostgreSQL: the database to connect to.
        namespace: its schema there.
    """
    if server.family == "postgresql":
        texts = [f"coalesce({_POSTGRES_TEXT.get(c.name, '{}::text').format(c.name)}, '~')" for c in table.columns]
        digest = f"sha256(convert_to(concat_ws('|', 'A', {', '.join(texts)}), 'UTF8'))"
        number = f"('x' || left(encode({digest}, 'hex'), 12))::bit(48)::bigint"
        sql = f'SELECT count(*), coalesce(sum({number}), 0) FROM "{namespace}"."{table.name}"'
        row = server.execute(sql, database=database)[0]
    else:
        canonical = f"concat_ws('|', 'A', {', '.join(column.canonical for column in table.columns)})"
        number = f"CAST(CONV(LEFT(SHA2({canonical}, 256), 12), 16, 10) AS UNSIGNED)"
        connection = server.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION time_zone = '+00:00'")
                cursor.execute(f"SELECT COUNT(*), COALESCE(SUM({number}), 0) FROM {table.name}")
                row = cursor.fetchone()
        finally:
            connection.close()
    return Fingerprint(int(row[0]), int(row[1]))


# ---------------------------------------------------------------- a source with one log


class _Quiet(Maker):
    """Makes the rows of a log again, and no log of them."""

    def connect(self, **arguments: Any) -> Any:
        connection = super().connect(**arguments)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_log_bin = 0")
        return connection


@dataclass(frozen=True, slots=True)
class LogSource:
    """A source whose log ends with the log that is measured, and whose table is as at that log's end.

    `rows_before` is how many rows of the recipe the table had where the log begins.
    """

    server: Server
    log: Log
    table: Table
    rows_before: int
    after: Fingerprint

    @classmethod
    @contextlib.contextmanager
    def open(cls, kind: str, name: str, scale: int) -> Iterator[LogSource]:
        """Start it, and stop and remove it at the end. The log is made where it was not made before (logs.py).

        Raises ServerUnavailable; RowsDiffer when the recipe does not give the log's rows again.
        """
        log = _kept_log(kind, name, scale)
        recipe = LOGS[name]
        with durable_source(kind, is_durable=False) as server:
            server.stop()
            _give_files(site_directory(kind, "full") / "data", server, log.files)
            server.restart()
            _execute_unlogged(server, f"CREATE DATABASE {log.database}")
            _execute_unlogged(server, f"USE {log.database}", recipe.table.create)
            maker = _Quiet(server, log.database, recipe.table, scale)
            try:
                if recipe.prepare:
                    recipe.prepare(maker)
                rows_before = fingerprint(server, log.database, recipe.table).rows
                recipe.make(maker)
            finally:
                maker.close()
            if differences := maker.expected.differences(log.expected):
                raise RowsDiffer(f"{log.key}: its recipe made other rows now (now, then): {'; '.join(differences)}")
            after = fingerprint(server, log.database, recipe.table)
            yield cls(server, log, recipe.table, rows_before, after)

    @property
    def start(self) -> SourcePosition:
        """Where the log begins."""
        parse = MariadbGtidList.parse if self.server.family == "mariadb" else MysqlGtidSet.parse
        with connect(source_settings(_source_config(self.server))) as session:
            identity = session.identity()
        return SourcePosition(identity, FilePos.of(self.log.files[0], 4), parse(self.log.gtid_before))


def _kept_log(kind: str, name: str, scale: int) -> Log:
    log = read_list(site_directory(kind, "full")).get(f"{name}-{scale}")
    if log is not None:
        return log
    with Site.open(kind, "full") as site:
        return site.log(name, scale)


def _give_files(data: Path, server: Server, files: Sequence[str]) -> None:
    """Make copies of these binlog files the only ones that a stopped server has."""
    assert server.directory is not None
    own = server.directory / "data"
    owner = own.stat()
    for old in own.glob("binlog.*"):
        old.unlink()
    for file in files:
        subprocess.run(["cp", "--reflink=auto", str(data / file), str(own / file)], check=True)
    (own / "binlog.index").write_text("".join(f"./{file}\n" for file in files))
    for made in own.glob("binlog.*"):
        os.chown(made, owner.st_uid, owner.st_gid)
        made.chmod(0o660)


def _execute_unlogged(server: Server, *statements: str) -> None:
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            for statement in ("SET SESSION sql_log_bin = 0", *statements):
                cursor.execute(statement)
    finally:
        connection.close()


# ---------------------------------------------------------------- the service


def _source_config(server: Server) -> Config:
    """Enough of a configuration to reach the source."""
    environ = {
        "CDC__NAME": "bench",
        "CDC__SOURCE__URL": server.url,
        "CDC__SOURCE__SERVER_ID": "50000001",
        "CDC__SINKS": json.dumps([{"name": "none", "url": "mysql://nobody@127.0.0.1:1/none"}]),
        "CDC__TABLES__INCLUDE": json.dumps(["none.*"]),
    }
    return load_config(None, environ=environ)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table of the source is on one sink."""

    server: Server
    target: TargetTable

    @property
    def database(self) -> str:
        """To connect to."""
        return _SINK_DATABASE if self.server.family == "postgresql" else self.target.namespace

    def fingerprint(self, table: Table) -> Fingerprint:
        """What it holds."""
        return fingerprint(self.server, self.database, table, namespace=self.target.namespace)


@dataclass(slots=True)
class Deployment:
    """The service as a process of its own, from a source to sinks by name. `settings` go into its configuration."""

    directory: Path
    source: Server
    sinks: Mapping[str, Server]
    include: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write_config(self) -> Path:
        """The configuration's file, written now."""
        content = {
            "name": "bench",
            # The end of an idle log is seen at a heartbeat: with the default of 1 s, up to that much would be waiting.
            "source": {"url": self.source.url, "server_id": 51_000_001, "heartbeat_seconds": 0.1},
            "sinks": [{"name": name, "url": _sink_url(server)} for name, server in self.sinks.items()],
            "tables": {"include": [self.include]},
            "http": {"enabled": False},
            "var_dir": str(self.directory / "var"),
            **self.settings,
        }
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return path

    def command(self, *arguments: str) -> list[str]:
        """The command line of the service."""
        return [sys.executable, "-m", "cdc", *arguments, "-c", str(self.write_config())]

    def prepare(self, name: TableName, start: SourcePosition | None) -> dict[str, Place]:
        """Put every sink back: nothing on it but the empty target of the source's table, and the metadata as they are
        when all up to `start` has been applied (None: no metadata, and no target either)."""
        config = load_config(self.write_config(), environ={})
        with connect(source_settings(config)) as session:
            definition = read_definition(session, name)
        assert definition is not None, f"{name} is at the source"
        places = {}
        for settings in config.sinks:
            server = self.sinks[settings.name]
            sink = make_sink(settings)
            sink.open()
            try:
                registry = TableRegistry(routing(config, settings), sink.kind, ())
                target = registry.make_target(definition)
                _wipe(server, target.namespace)
                if start is not None:
                    sink.create_namespace(target.namespace)
                    sink.create_table(target)
                    _write_metadata(sink, pipeline_name(config, settings), definition, target, start)
            finally:
                sink.close()
            places[settings.name] = Place(server, target)
        return places


def _sink_url(server: Server) -> str:
    return server.url_for(_SINK_DATABASE) if server.family == "postgresql" else server.url


def _wipe(server: Server, namespace: str) -> None:
    for name in (namespace, "_cdc"):
        if server.family == "postgresql":
            server.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE', database=_SINK_DATABASE)
        else:
            server.execute(f"DROP DATABASE IF EXISTS `{name}`")


def _write_metadata(
    sink: Sink, pipeline: str, definition: TableDefinition, target: TargetTable, start: SourcePosition
) -> None:
    store = InSinkStore(sink, pipeline)
    store.create()
    store.take_lease(holder="benchmark", sessions=(), seconds=1, was_renewed=False)
    record = TableRecord(
        source=definition.name,
        target=str(target),
        state="ready",
        definition=definition,
        key=target.key,
        is_complete=True,
    )
    with sink.transaction() as tx:
        store.save_table(tx, record)
        store.save(tx, Checkpoint(start, store_sequence(store, tx) + 1))
        tx.commit()
    store.release_lease(store.epoch, status={})


def store_sequence(store: InSinkStore, tx: Any) -> int:
    """Of the checkpoint that is there."""
    sql = f"SELECT sequence FROM {store.sink.metadata_table('checkpoint')} WHERE pipeline = %s"
    return int(tx.execute(sql, (store.pipeline,))[0][0])


# ---------------------------------------------------------------- what a run costs


def measured(
    measure: Path, directory: Path, command: Sequence[str], servers: Sequence[Server], *, stdin: Path | None = None
) -> Measured:
    """Run a program to its end. `servers`: those that work for it; the first one's CPU time is in the result.

    Raises ArmUnavailable with the end of what it said when it fails.
    """
    cost, said = directory / "cost.json", directory / "said.log"
    before = [server_cpu_seconds(server) for server in servers]
    all_before, began = all_cpu_seconds(), time.monotonic()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        output = stack.enter_context(said.open("wb"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CDC_")}
        done = subprocess.run(
            [str(measure), str(cost), *command],
            cwd=_CHECKOUT,
            env=environment,
            stdin=source,
            stdout=output,
            stderr=output,
            timeout=_RUN_SECONDS_MAX,
            check=False,
        )
    if done.returncode:
        raise ArmUnavailable(
            f"{' '.join(map(str, command))[:120]}: {said.read_text(errors='replace')[-_LOG_TAIL_CHARS:]}"
        )
    found = Measured(**json.loads(cost.read_text()))
    return _with_servers(found, servers, before, all_before, began)


def measured_call(act: Callable[[], None], servers: Sequence[Server]) -> Measured:
    """The same of something that a server does by itself."""
    before = [server_cpu_seconds(server) for server in servers]
    all_before, began = all_cpu_seconds(), time.monotonic()
    act()
    found = Measured(time.monotonic() - began, 0.0, 0.0, 0)
    return _with_servers(found, servers, before, all_before, began)


def _with_servers(
    found: Measured, servers: Sequence[Server], before: Sequence[float], all_before: float, began: float
) -> Measured:
    used = [server_cpu_seconds(server) - b for server, b in zip(servers, before, strict=True)]
    others = all_cpu_seconds() - all_before - found.cpu_seconds - sum(used)
    found.server_seconds = used[0]
    found.disturbance = max(0.0, others / (time.monotonic() - began))
    return found
