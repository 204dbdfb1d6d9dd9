"""How fast a log is applied: the whole service beside the sinks' own ways to load, interleaved, medians, ratios.

    python -m benchmarks.apply                                         bulk, tx and hot, both sinks, three rounds
    python -m benchmarks.apply --log hot --sink mariadb1011 --rounds 5 --results figures.json
    python -m benchmarks.apply --log bulk --flush '{"rows_max": 10000}'  a further arm with other batches
    python -m benchmarks.apply --transaction-rows 5000000              memory under one transaction of so many rows

The source holds the log and nothing after it, and does what a source does: send. Before each run the sink is put back
to where it was before the log, with the log's table as it was then and a checkpoint there. All arms run with what the
sink has acknowledged on disk (the settings are printed), and after every run the sink's rows have to be those that the
recipe of the log leaves, by a hash over the text of every value, before a figure is printed.

    cdc            `cdc run --until-caught-up` as a process, from its start to its exit
    psql           psql with the same batches: COPY straight for net inserts, COPY to staging and merge for the rest
    load data      the same with the client of the MySQL family: LOAD DATA LOCAL
    replica        MariaDB's own replica, from START SLAVE SQL_THREAD over a relay log that is there already, to the end
    replica xN     the same with slave_parallel_threads=N, optimistic mode
    chameleon      pg_chameleon's replay, once, where it is installed: from its start to the log's last row on the sink
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.batches import batches, write_load_data, write_psql
from benchmarks.chameleon import Chameleon
from benchmarks.decode import ArmUnavailable, Measured, Programs, RowsDiffer, machine
from benchmarks.deployment import (
    Deployment,
    Fingerprint,
    LogSource,
    Place,
    durable_sink,
    durable_source,
    fingerprint,
    measured,
    measured_call,
    settings_line,
    settle,
)
from benchmarks.logs import ORDERS, Maker
from cdc.app import run_limits, source_settings
from cdc.config import Config, FlushSettings, load_config
from cdc.demo.servers import Server, ServerUnavailable
from cdc.model import FilePos, SourcePosition, TableName
from cdc.source.assembler import RunLimits
from cdc.source.connection import connect

__all__ = ["main"]

_LOGS = ("bulk", "tx", "hot")
_LOAD_MAX = 0.7
_REPLICA_SECONDS_MAX = 3600
_ARMS = ("cdc", "psql", "load data", "replica", "chameleon")


@dataclass(slots=True)
class Case:
    """One log on its source, one sink."""

    source: LogSource
    sink: Server
    deployment: Deployment
    directory: Path
    measure: Path

    @property
    def name(self) -> TableName:
        return TableName(self.source.log.database, self.source.table.name)

    @property
    def title(self) -> str:
        log = self.source.log
        return f"{log.key} from {self.source.server.kind.label} into {self.sink.kind.label}"

    def reset(self) -> Place:
        """The sink as it was before the log."""
        place = self.deployment.prepare(self.name, self.source.start)["sink"]
        _insert_before(place, self.source)
        settle(self.sink)
        return place

    def check(self, place: Place, arm: str) -> None:
        """Raises RowsDiffer unless the sink has what the log leaves."""
        found = place.fingerprint(self.source.table)
        if found != self.source.after:
            raise RowsDiffer(f"{arm}, {self.title}: {found}; the log leaves {self.source.after}")


def _insert_before(place: Place, source: LogSource) -> None:
    """The rows that the log's table had where the log begins."""
    table, count, server = source.table, source.rows_before, place.server
    if not count:
        return
    if server.family != "postgresql":
        maker = Maker(server, place.database, table, 1)
        maker.insert(1, count)
        maker.close()
        return
    maker = Maker(source.server, source.log.database, table, 1)
    names = ", ".join(f"`{column.name}`" for column in table.columns)
    texts = ", ".join(f"COALESCE({c.text.format(c.name)}, '\\\\N')" for c in table.columns)
    rows = f"SELECT {table.row} FROM {maker.numbers(1, count)}"
    # Through a table of the same types, which print a value as the log has it.
    maker.execute("SET SESSION sql_log_bin = 0")
    maker.execute(f"CREATE TEMPORARY TABLE before_log LIKE {table.name}")
    maker.execute(f"INSERT INTO before_log ({names}) {rows}")
    lines = [row[0] for row in maker.execute(f"SELECT concat_ws('\\t', {texts}) FROM before_log")]
    maker.close()
    connection = server.connect(place.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET timezone = 'UTC'")
            cursor.copy_expert(
                f'COPY "{place.target.namespace}"."{place.target.name}" FROM STDIN', _Lines("\n".join(lines) + "\n")
            )
    finally:
        connection.close()


class _Lines:
    """A text as the file that a driver reads."""

    def __init__(self, text: str) -> None:
        self._rest = text

    def read(self, size: int) -> str:
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


# ---------------------------------------------------------------- arms


@dataclass(frozen=True, slots=True)
class Arm:
    """`run(place)` is what is timed, with the sink as before the log."""

    name: str
    run: Callable[[Place], Measured]
    detail: str = ""
    rounds_max: int | None = None


def _cdc_arms(case: Case, flushes: Sequence[dict[str, Any]]) -> list[Arm]:
    def arm(flush: dict[str, Any]) -> Arm:
        def run(_place: Place) -> Measured:
            case.deployment.settings = {"flush": flush}
            command = case.deployment.command("run", "--until-caught-up")
            return measured(case.measure, case.directory, command, [case.sink, case.source.server])

        limits = _limits(flush)
        detail = f"batches of {limits.rows_max} rows or {limits.bytes_max / (1 << 20):g} MiB"
        return Arm("cdc" if not flush else f"cdc {limits.rows_max}", run, detail)

    return [arm({}), *map(arm, flushes)]


def _limits(flush: dict[str, Any]) -> RunLimits:
    """When the service hands over a run, by a flush section."""
    return run_limits(FlushSettings(**flush))


def _source_batches(case: Case, place: Place) -> Iterator[Any]:
    config = load_config(case.deployment.write_config(), environ={})
    return batches(case.source, source_settings(config), place.target, _limits({}))


def _psql_arms(case: Case) -> list[Arm]:
    if case.sink.family != "postgresql":
        return []
    program = case.sink.kind.program("psql")
    script = case.directory / "script.sql"
    place = case.reset()
    count = write_psql(script, _source_batches(case, place), place)
    login = ["-h", case.sink.host, "-p", str(case.sink.port), "-U", case.sink.user, "-d", place.database]
    command = [str(program), "-X", "-q", *login, "-f", str(script)]
    return [
        Arm(
            "psql",
            lambda _place: measured(case.measure, case.directory, command, [case.sink, case.source.server]),
            f"{count} batches, {script.stat().st_size / 1e6:.0f} MB",
        )
    ]


def _load_data_arms(case: Case) -> list[Arm]:
    if case.sink.family == "postgresql":
        return []
    program = case.sink.kind.program("mariadb" if case.sink.family == "mariadb" else "mysql")
    folder = case.directory / "load-data"
    folder.mkdir(exist_ok=True)
    place = case.reset()
    script, count = write_load_data(folder, _source_batches(case, place), place)
    login = [f"--host={case.sink.host}", f"--port={case.sink.port}", f"--user={case.sink.user}"]
    command = [str(program), "--no-defaults", "--local-infile=1", *login]
    if case.sink.family == "mysql":
        case.sink.execute("SET GLOBAL local_infile = ON")
    return [
        Arm(
            "load data",
            lambda _place: measured(
                case.measure, case.directory, command, [case.sink, case.source.server], stdin=script
            ),
            f"{count} batches",
        )
    ]


def _replica_arms(case: Case, threads: Sequence[int]) -> list[Arm]:
    source, sink = case.source.server, case.sink
    if sink.family == "postgresql":
        return []
    if {source.family, sink.family} != {"mariadb"}:
        raise ArmUnavailable("replica: only from MariaDB to MariaDB")

    def arm(count: int) -> Arm:
        def run(_place: Place) -> Measured:
            end = str(source.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
            _fetch_relay_log(case, count)
            try:
                return measured_call(lambda: _replay(sink, end), [sink, source])
            finally:
                sink.execute("STOP SLAVE")
                sink.execute("RESET SLAVE ALL")
                sink.execute("SET GLOBAL slave_parallel_threads = 0")

        return Arm("replica" if not count else f"replica x{count}", run, "" if not count else "optimistic")

    return [arm(0), *map(arm, threads)]


def _fetch_relay_log(case: Case, threads: int) -> None:
    """All of the log in the replica's relay log, and nothing of it applied."""
    source, sink = case.source.server, case.sink
    for statement in (
        "STOP SLAVE",
        f"SET GLOBAL slave_parallel_threads = {threads}",
        "SET GLOBAL slave_parallel_mode = 'optimistic'",
        f"SET GLOBAL gtid_slave_pos = '{case.source.log.gtid_before}'",
        f"CHANGE MASTER TO master_host='127.0.0.1', master_port={source.port}, master_user='root'",
        "CHANGE MASTER TO master_use_gtid=slave_pos",
        "START SLAVE IO_THREAD",
    ):
        sink.execute(statement)
    file, pos = source.execute("SHOW MASTER STATUS")[0][:2]
    deadline = time.monotonic() + _REPLICA_SECONDS_MAX
    while True:
        status = _slave_status(sink)
        if (status["Master_Log_File"], int(status["Read_Master_Log_Pos"])) >= (file, int(pos)):
            return
        if status["Last_IO_Error"] or time.monotonic() > deadline:
            raise ArmUnavailable(f"replica: the log was not fetched: {status['Last_IO_Error']}")
        time.sleep(0.05)


def _replay(sink: Server, end: str) -> None:
    sink.execute("START SLAVE SQL_THREAD")
    reached = 0
    while reached != 1:
        (reached,) = sink.execute(f"SELECT MASTER_GTID_WAIT('{end}', 5) = 0")[0]
        status = _slave_status(sink)
        if status["Last_SQL_Error"]:
            raise ArmUnavailable(f"replica: {status['Last_SQL_Error']}")


def _slave_status(sink: Server) -> dict[str, Any]:
    connection = sink.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW SLAVE STATUS")
            names = [column[0] for column in cursor.description]
            return dict(zip(names, cursor.fetchone(), strict=True))
    finally:
        connection.close()


def _chameleon_arms(case: Case) -> list[Arm]:
    if case.sink.family != "postgresql":
        return []
    peer = Chameleon.find(case.directory, case.source)

    def run(place: Place) -> Measured:
        peer.prepare(place, lambda place: _insert_before(place, case.source))
        settle(case.sink)
        return measured_call(lambda: peer.replay(place), [case.sink, case.source.server])

    return [Arm("chameleon", run, "pg_chameleon 2.0.21, once", rounds_max=1)]


# ---------------------------------------------------------------- a case


@dataclass(slots=True)
class Table:
    """The figures of one case."""

    title: str
    changes: int
    megabytes: float
    runs: dict[str, list[Measured]]
    details: dict[str, str]
    notes: list[str] = field(default_factory=list)
    idle_seconds: float = 0.0

    def median(self, arm: str, figure: Callable[[Measured], float] = lambda m: m.wall_seconds) -> float:
        return median(map(figure, self.runs[arm]))

    def lines(self) -> Iterator[str]:
        """What is printed."""
        yield ""
        yield f"{self.title}: {self.changes} row changes, {self.megabytes:.1f} MB of binlog, rows equal after every run"
        yield (
            f"  {'arm':14}{'wall s':>9}{'min':>9}{'max':>9}{'changes/s':>12}{'× cdc':>8}{'cpu s':>8}{'sink':>8}"
            f"{'RSS MB':>8}{'others':>8}"
        )
        for arm, runs in self.runs.items():
            wall = self.median(arm)
            walls = [run.wall_seconds for run in runs]
            base = self.median("cdc") if self.runs.get("cdc") else None
            yield (
                f"  {arm:14}{wall:9.3f}{min(walls):9.3f}{max(walls):9.3f}{self.changes / wall:12,.0f}"
                f"{f'{wall / base:.2f}' if base else '':>8}{self.median(arm, lambda m: m.cpu_seconds):8.2f}"
                f"{self.median(arm, lambda m: m.server_seconds):8.2f}"
                f"{max(m.peak_rss_bytes for m in runs) / 1e6:8.1f}{self.median(arm, lambda m: m.disturbance):8.2f}"
                f"  {self.details[arm]}"
            )
        if self.idle_seconds:
            yield (
                f"  cdc with nothing to do, from start to exit: {self.idle_seconds:.2f} s; × cdc without that: "
                + ", ".join(
                    f"{arm} {self.median(arm) / (self.median('cdc') - self.idle_seconds):.2f}"
                    for arm in self.runs
                    if not arm.startswith("cdc")
                )
            )
        for note in self.notes:
            yield f"  {note}"

    def to_dict(self) -> dict[str, Any]:
        """As --results has it."""
        return {
            "title": self.title,
            "changes": self.changes,
            "idle_seconds": self.idle_seconds,
            "arms": {
                arm: {
                    "detail": self.details[arm],
                    "wall_seconds": [run.wall_seconds for run in runs],
                    "cpu_seconds": [round(run.cpu_seconds, 3) for run in runs],
                    "sink_seconds": [round(run.server_seconds, 2) for run in runs],
                    "peak_rss_bytes": [run.peak_rss_bytes for run in runs],
                    "disturbance": [round(run.disturbance, 3) for run in runs],
                }
                for arm, runs in self.runs.items()
            },
            "notes": self.notes,
        }


def measure_case(case: Case, chosen: argparse.Namespace) -> Table:
    """`rounds` times every arm in turn, the rows checked after each. Raises RowsDiffer."""
    log = case.source.log
    arms: list[Arm] = []
    notes: list[str] = []
    makers: dict[str, Callable[[], list[Arm]]] = {
        "cdc": lambda: _cdc_arms(case, chosen.flush),
        "psql": lambda: _psql_arms(case),
        "load data": lambda: _load_data_arms(case),
        "replica": lambda: _replica_arms(case, chosen.replica_threads),
        "chameleon": lambda: _chameleon_arms(case),
    }
    for name in chosen.arms:
        try:
            arms += makers[name]()
        except ArmUnavailable as error:
            notes.append(str(error))
    runs: dict[str, list[Measured]] = {arm.name: [] for arm in arms}
    idle: list[float] = []
    for index in range(chosen.rounds):
        for arm in list(arms):
            if arm.rounds_max is not None and index >= arm.rounds_max:
                continue
            place = case.reset()
            try:
                runs[arm.name].append(arm.run(place))
            except ArmUnavailable as error:
                if arm.name.startswith("cdc"):
                    raise
                notes.append(str(error))
                arms.remove(arm)
                del runs[arm.name]
                continue
            case.check(place, arm.name)
            if arm.name == "cdc":
                idle.append(arm.run(place).wall_seconds)
    details = {arm.name: arm.detail for arm in arms}
    idle_seconds = median(idle) if idle else 0.0
    return Table(case.title, log.expected.changes, log.byte_count / 1e6, runs, details, notes, idle_seconds)


# ---------------------------------------------------------------- one huge transaction


def measure_transaction(chosen: argparse.Namespace, measure: Path, directory: Path) -> Iterator[Table]:
    """One transaction of so many rows into each sink, and into all at once. Raises RowsDiffer."""
    count, database = chosen.transaction_rows, "huge"
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(durable_source(chosen.source, is_durable=False))
        source.execute(f"CREATE DATABASE {database}")
        source.execute(ORDERS.create, database=database)
        maker = Maker(source, database, ORDERS, 1)
        if chosen.transaction_kind == "update":
            maker.insert(1, count)
        source.execute("FLUSH BINARY LOGS")
        start = _written(source)
        if chosen.transaction_kind == "update":
            maker.execute("UPDATE orders SET status='updated', amount=amount+1")
        else:
            maker.insert(1, count)
        maker.close()
        byte_count = _written(source).pos - start.pos
        after = fingerprint(source, database, ORDERS)
        sinks = {kind: stack.enter_context(durable_sink(kind)) for kind in chosen.sink}
        choices = [[kind] for kind in sinks] + ([list(sinks)] if len(sinks) > 1 else [])
        for kinds in choices:
            names = {f"sink{n}": sinks[kind] for n, kind in enumerate(kinds)}
            deployment = Deployment(directory, source, names, f"{database}.*")
            title = f"one transaction, {chosen.transaction_kind} of {count} rows, into {' and '.join(kinds)}"
            yield _measure_transaction(deployment, title, start, byte_count, after, measure, chosen.rounds)


def _written(source: Server) -> FilePos:
    statement = "SHOW MASTER STATUS" if source.family == "mariadb" else "SHOW BINARY LOG STATUS"
    row = source.execute(statement)[0]
    return FilePos.of(str(row[0]), int(row[1]))


def _measure_transaction(
    deployment: Deployment, title: str, at: FilePos, byte_count: int, after: Fingerprint, measure: Path, rounds: int
) -> Table:
    runs: list[Measured] = []
    name = TableName("huge", "orders")
    config = load_config(deployment.write_config(), environ={})
    source = {"url": deployment.source.url, "server_id": 51_000_001, "heartbeat_seconds": 0.1, "position": "file"}
    deployment.settings = {"source": source}
    for _ in range(rounds):
        places = deployment.prepare(name, _position(config, at))
        for server in deployment.sinks.values():
            settle(server)
        command = deployment.command("run", "--until-caught-up")
        runs.append(measured(measure, deployment.directory, command, [*deployment.sinks.values(), deployment.source]))
        for sink, place in places.items():
            if (found := place.fingerprint(ORDERS)) != after:
                raise RowsDiffer(f"{title}, {sink}: {found}; the source has {after}")
    return Table(title, after.rows, byte_count / 1e6, {"cdc": runs}, {"cdc": ""})


def _position(config: Config, at: FilePos) -> SourcePosition:
    with connect(source_settings(config)) as session:
        return SourcePosition(session.identity(), at, None)


# ---------------------------------------------------------------- by hand


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when rows differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apply", description="How fast a log is applied.")
    parser.add_argument("--log", nargs="+", choices=_LOGS, default=list(_LOGS))
    parser.add_argument("--source", default="mariadb1011")
    parser.add_argument("--sink", nargs="+", default=["pg15", "mariadb1011"])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=_ARMS, default=list(_ARMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flush", nargs="+", type=json.loads, default=[], help="further cdc arms with these sections")
    parser.add_argument("--replica-threads", nargs="+", type=int, default=[4], help="of MariaDB's parallel replica")
    parser.add_argument("--transaction-rows", type=int, help="instead: the service under one transaction of so many")
    parser.add_argument("--transaction-kind", choices=["insert", "update"], default="insert")
    parser.add_argument("--results", type=Path, help="write all figures there, as JSON")
    chosen = parser.parse_args(arguments)
    programs = Programs.build()
    about = machine(programs)
    print(", ".join(f"{name} {value}" for name, value in about.items() if not name.startswith("go")))
    if os.getloadavg()[0] > _LOAD_MAX:
        print("the machine is busy: take the column min for what these arms can do, and trust no ratio")
    tables: list[Table] = []
    try:
        for table in _tables(chosen, programs.measure):
            print("\n".join(table.lines()), flush=True)
            tables.append(table)
    except ServerUnavailable as error:
        print(f"skipped: {error}")
    except RowsDiffer as error:
        print(f"ROWS DIFFER, no figures: {error}")
        return 1
    if chosen.results:
        chosen.results.write_text(json.dumps({"machine": about, "cases": [t.to_dict() for t in tables]}, indent=1))
    return 0


def _tables(chosen: argparse.Namespace, measure: Path) -> Iterator[Table]:
    with tempfile.TemporaryDirectory(prefix="cdc-benchmark-") as folder:
        directory = Path(folder)
        if chosen.transaction_rows:
            yield from measure_transaction(chosen, measure, directory)
            return
        for name in chosen.log:
            with LogSource.open(chosen.source, name, chosen.scale) as source:
                for kind in chosen.sink:
                    with durable_sink(kind) as sink:
                        print(f"\n{sink.kind.label}: {settings_line(sink)}", flush=True)
                        deployment = Deployment(directory, source.server, {"sink": sink}, f"{source.log.database}.*")
                        yield measure_case(Case(source, sink, deployment, directory, measure), chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
