"""How long the first load of a table takes: the service beside the servers' own clients, and its reading by itself.

    python -m benchmarks.load                                      1 M rows, MySQL to two sinks
    python -m benchmarks.load --source mariadb1011 --rows 5000000 --workers 1 2 4 --sink pg15 --results figures.json

Arms, each into an empty target with its primary key, rounds in turn:

    cdc N/M        `cdc run --until-caught-up` with N workers and M writers: the seconds of its `table_loaded` line
    pipe           PostgreSQL: `mariadb --quick` piped into `psql` COPY; the MySQL family: into LOAD DATA
    pgloader       where it is installed, to PostgreSQL, into a table that it makes itself
    chameleon      pg_chameleon's init_replica, likewise
    mydumper       and myloader, where they are installed, to the MySQL family
    reference      our reading alone, decoded in Python as the kernel's reference does (a tenth of the rows)
    kernel N       our reading alone, by N sessions

Source and sinks are private and durable. A figure is printed for rows that are equal only (count and hash sum, by the
servers' own SQL; those of pgloader and chameleon, whose types are others, are counted).
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.chameleon import Program, require_chameleon
from benchmarks.decode import ArmUnavailable, RowsDiffer
from benchmarks.deployment import Fingerprint, durable_sink, durable_source, fingerprint, settings_line
from benchmarks.load_run import configuration, run_load
from benchmarks.load_tables import fill_orders
from benchmarks.logs import ORDERS
from cdc.demo.servers import Server
from cdc.model import TableDefinition, TableName
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.definitions import read_definition
from cdc.source.resultset import to_record_batch
from snapshot.chunks import ChunkPlan, Pace, range_sql
from snapshot.parallel import ChunkReaders, SessionPool

__all__ = ["main"]

_DATABASE = "shop"
_SINK_DATABASE = "bench"
_RUN_SECONDS_MAX = 3600
_READ_BYTES_MAX = 64 << 20


@dataclass(slots=True)
class Case:
    """A source with the table, and what has been measured."""

    source: Server
    rows: int
    expected: Fingerprint
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, arm: str, seconds: float, rows: int | None = None) -> None:
        """One round; of fewer rows, as if of all."""
        self.seconds.setdefault(arm, []).append(seconds * self.rows / (rows or self.rows))

    def note(self, text: str) -> None:
        """Said once, below the figures."""
        if text not in self.notes:
            self.notes.append(text)

    def lines(self) -> list[str]:
        """A line an arm: rows/s by the median; of ours, the ratio to each other arm, and the peak of memory."""
        found = []
        for arm, seconds in self.seconds.items():
            spread = f"{min(seconds):.2f}-{max(seconds):.2f} s"
            memory = f"   peak {self.peak_bytes[arm] / (1 << 20):.0f} MiB" if arm in self.peak_bytes else ""
            ratios = self._ratios(arm)
            found.append(f"  {arm:28} {self.rows / median(seconds):12,.0f} rows/s   {spread}{ratios}{memory}")
        return found

    def _ratios(self, arm: str) -> str:
        """Of one of ours, to each of the others into the same sink."""
        sink, _, name = arm.partition(": ")
        if not name.startswith("cdc"):
            return ""
        others = [other for other in self.seconds if other.startswith(f"{sink}: ") and ": cdc" not in other]
        ours = median(self.seconds[arm])
        return "".join(f"   {median(self.seconds[o]) / ours:.2f} x {o.partition(': ')[2]}" for o in others)


# ---------------------------------------------------------------- the source


def _settings(source: Server) -> SourceSettings:
    return SourceSettings(source.host, source.port, source.user, source.password, 50_000_001)


def _definition(connection: SourceConnection) -> TableDefinition:
    definition = read_definition(connection, TableName(_DATABASE, ORDERS.name))
    assert definition is not None
    return definition


# ---------------------------------------------------------------- reading alone


def _read_by_kernel(case: Case, workers: int) -> None:
    settings = _settings(case.source)
    sessions = SessionPool(lambda: connect(settings))
    with connect(settings) as connection:
        definition = _definition(connection)
    pace = Pace(rows_max=200_000, seconds=1.0, bytes_max=_READ_BYTES_MAX // (workers + 1))
    plan = ChunkPlan(definition, ("id",), pace)
    began = time.monotonic()
    rows = 0
    with ChunkReaders(plan, sessions=sessions, workers=workers, bytes_max=_READ_BYTES_MAX) as readers:
        for _, batches in readers.chunks(lambda: None):
            rows += sum(batch.num_rows for batch in batches)
    seconds = time.monotonic() - began
    sessions.close()
    if rows != case.rows:
        raise RowsDiffer(f"kernel {workers}: {rows} rows read, {case.rows} there")
    case.add(f"reading: kernel {workers}", seconds)


def _read_by_reference(case: Case) -> None:
    with connect(_settings(case.source)) as connection:
        definition = _definition(connection)
        plan = ChunkPlan(definition, ("id",), Pace(rows_max=20_000, seconds=1e9, bytes_max=1 << 40))
        began = time.monotonic()
        rows = 0
        while rows < case.rows // 10 and (chunk := plan.next(connection)) is not None:
            found = connection.query(range_sql(definition, ("id",), chunk.range))
            rows += to_record_batch(definition, found).num_rows
        case.add("reading: reference", time.monotonic() - began, rows)


# ---------------------------------------------------------------- loads


@dataclass(slots=True)
class Target:
    """A sink, its table empty before each arm."""

    kind: str
    server: Server

    @property
    def is_postgresql(self) -> bool:
        """Else it is of the MySQL family."""
        return self.server.family == "postgresql"

    @property
    def namespace(self) -> str:
        """Where the table is."""
        return _DATABASE if self.is_postgresql else _SINK_DATABASE

    def clear(self) -> None:
        """As if nothing had ever been loaded."""
        if self.is_postgresql:
            for schema in ("_cdc", self.namespace):
                self.server.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE', database=_SINK_DATABASE)
            self.server.execute("CHECKPOINT")
        else:
            self.server.execute(f"DROP DATABASE IF EXISTS {_SINK_DATABASE}")
            self.server.execute(f"CREATE DATABASE {_SINK_DATABASE}")

    def empty(self) -> None:
        """The table that the service has made, without its rows."""
        quote = '"' if self.is_postgresql else "`"
        table = f"{quote}{self.namespace}{quote}.{quote}{ORDERS.name}{quote}"
        self.server.execute(f"TRUNCATE TABLE {table}", database=_SINK_DATABASE)

    def count(self) -> int:
        """Rows of a PostgreSQL table that somebody else has made; 0 where there is none."""
        table = f'"{self.namespace}"."{ORDERS.name}"'
        if self.server.execute("SELECT to_regclass(%s)", (table,), database=_SINK_DATABASE) == [(None,)]:
            return 0
        return int(self.server.execute(f"SELECT count(*) FROM {table}", database=_SINK_DATABASE)[0][0])

    def check(self, case: Case, arm: str) -> None:
        """Raises RowsDiffer."""
        database = _SINK_DATABASE
        found = fingerprint(self.server, database, ORDERS, namespace=self.namespace)
        if found != case.expected:
            raise RowsDiffer(f"{arm} into {self.kind}: {found}, expected {case.expected}")


def _cdc(case: Case, target: Target, workers: int, writers: int, directory: Path) -> None:
    arm = f"{target.kind}: cdc {workers}/{writers}"
    target.clear()
    config = configuration(
        case.source,
        target.server.url_for(_SINK_DATABASE),
        tables=[f"{_DATABASE}.*"],
        directory=directory,
        snapshot={"workers": workers, "writers": writers},
    )
    run = run_load(config, directory, arm)
    target.check(case, arm)
    case.add(arm, run.load_seconds)
    case.peak_bytes[arm] = max(run.peak_bytes, case.peak_bytes.get(arm, 0))


def _select(case: Case) -> str:
    columns = ", ".join(f"{c.name}+0" if c.sql_type == "BIT(1)" else c.name for c in ORDERS.columns)
    server = case.source
    arguments = [
        _client(),
        f"-h{server.host}",
        f"-P{server.port}",
        f"-u{server.user}",
        "--skip-ssl",
        "--quick",
        "--batch",
        "--skip-column-names",
        "--default-character-set=utf8mb4",
        _DATABASE,
        "-e",
        f"SET time_zone='+00:00'; SELECT {columns} FROM {ORDERS.name} ORDER BY id",
    ]
    password = f"MYSQL_PWD={shlex.quote(server.password)} " if server.password else ""
    return password + shlex.join(arguments)


def _client() -> str:
    found = shutil.which("mariadb") or shutil.which("mysql")
    assert found is not None
    return found


def _pipe(case: Case, target: Target) -> None:
    """Into the table as the service made it."""
    arm = f"{target.kind}: pipe"
    server = target.server
    target.empty()
    if target.is_postgresql:
        psql = str(server.kind.program("psql"))
        copy = f"COPY {target.namespace}.{ORDERS.name} FROM STDIN WITH (NULL 'NULL')"
        command = f"{_select(case)} | PGTZ=UTC {shlex.join([psql, '-q', server.url_for(_SINK_DATABASE), '-c', copy])}"
    else:
        names = ", ".join("@flag" if c.sql_type == "BIT(1)" else c.name for c in ORDERS.columns)
        load = (
            f"SET time_zone='+00:00'; LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {ORDERS.name} "
            f"CHARACTER SET utf8mb4 ({names}) SET flag = CAST(@flag AS UNSIGNED)"
        )
        arguments = [_client(), f"-h{server.host}", f"-P{server.port}", f"-u{server.user}", "--skip-ssl"]
        password = f"MYSQL_PWD={shlex.quote(server.password)} " if server.password else ""
        command = (
            f"{_select(case)} | {password}{shlex.join([*arguments, '--local-infile=1', _SINK_DATABASE, '-e', load])}"
        )
    began = time.monotonic()
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, timeout=_RUN_SECONDS_MAX)
    seconds = time.monotonic() - began
    target.check(case, arm)
    case.add(arm, seconds)


def _pgloader(case: Case, target: Target, directory: Path) -> None:
    """Into a table of its own making, by which BIT(1) is boolean: rows are counted only."""
    arm = f"{target.kind}: pgloader"
    target.clear()
    source = case.source.url_for(_DATABASE)
    script = directory / "pgloader.load"
    script.write_text(
        f"LOAD DATABASE FROM {source} INTO {target.server.url_for(_SINK_DATABASE)} "
        "WITH include drop, create tables, create indexes, workers = 2, concurrency = 1;\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        ["pgloader", str(script)], check=False, capture_output=True, text=True, timeout=_RUN_SECONDS_MAX
    )
    seconds = time.monotonic() - began
    rows = target.count()
    if rows != case.rows:  # it ends with 0 all the same; MySQL's usual authentication it does not know
        problems = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "FATAL" in line]
        case.note(f"{arm}: {rows} rows, {case.rows} there; {' '.join(problems)[:300]}")
        return
    case.add(arm, seconds)


def _chameleon(case: Case, target: Target, directory: Path) -> None:
    """Rows are counted only: it makes BIT(1) and the like as it sees fit."""
    arm = f"{target.kind}: chameleon"
    target.clear()
    program = Program(directory / "chameleon")
    program.prepare(case.source, _DATABASE, target.server, _SINK_DATABASE, target.namespace)
    began = time.monotonic()
    program.load()
    seconds = time.monotonic() - began
    rows = target.count()
    target.server.execute("DROP SCHEMA sch_chameleon CASCADE", database=_SINK_DATABASE)
    if rows != case.rows:
        raise RowsDiffer(f"{arm}: {rows} rows, {case.rows} there")
    case.add(arm, seconds)


def _mydumper(case: Case, target: Target, directory: Path) -> None:
    arm = f"{target.kind}: mydumper"
    target.clear()
    dump = directory / "dump"
    shutil.rmtree(dump, ignore_errors=True)

    def client(server: Server) -> list[str]:
        return ["-h", server.host, "-P", str(server.port), "-u", server.user, "-p", server.password]

    began = time.monotonic()
    for command in (
        ["mydumper", *client(case.source), "-B", _DATABASE, "-o", str(dump), "-t", "2", "-r", "100000", "-k"],
        ["myloader", *client(target.server), "-B", _SINK_DATABASE, "-d", str(dump), "-t", "2"],
    ):
        done = subprocess.run(command, check=False, capture_output=True, timeout=_RUN_SECONDS_MAX, text=True)
        if done.returncode != 0:
            raise ArmUnavailable(f"{arm}: {command[0]} failed: {done.stderr.strip()[-300:]}")
    seconds = time.monotonic() - began
    target.check(case, arm)
    case.add(arm, seconds)


def _arms(
    case: Case, target: Target, workers: Sequence[int], writers: Sequence[int], directory: Path
) -> list[Callable[[], None]]:
    arms: list[Callable[[], None]] = [
        functools.partial(_cdc, case, target, reads, writes, directory) for reads in workers for writes in writers
    ]
    arms.append(lambda: _pipe(case, target))
    if target.is_postgresql and shutil.which("pgloader"):
        arms.append(lambda: _pgloader(case, target, directory))
    elif not target.is_postgresql and shutil.which("mydumper"):
        arms.append(lambda: _mydumper(case, target, directory))
    else:
        case.notes.append(f"{target.kind}: {'pgloader' if target.is_postgresql else 'mydumper'} is not installed")
    if target.is_postgresql:
        try:
            require_chameleon()
            arms.append(lambda: _chameleon(case, target, directory))
        except ArmUnavailable as error:
            case.notes.append(f"{target.kind}: {error}")
    return arms


# ---------------------------------------------------------------- the whole


def main(arguments: Sequence[str]) -> int:
    """The command line. 1 when rows differ, or a program that is measured fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", default="mysql97", help="mysql97, mariadb1011, mariadb118")
    parser.add_argument("--sink", nargs="*", default=["pg15", "mariadb1011"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--writers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--results", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        case = _measure(chosen)
    except (RowsDiffer, subprocess.SubprocessError) as error:
        print(f"benchmarks.load: {error}", file=sys.stderr)
        return 1
    for line in [*case.lines(), *(f"  {note}" for note in case.notes)]:
        print(line)
    if chosen.results is not None:
        results: dict[str, Any] = {"rows": case.rows, "source": chosen.source, "seconds": case.seconds}
        chosen.results.write_text(json.dumps(results, indent=1))
    return 0


def _measure(chosen: argparse.Namespace) -> Case:
    with durable_source(chosen.source) as source, tempfile.TemporaryDirectory() as place:
        case = Case(source, chosen.rows, fill_orders(source, _DATABASE, chosen.rows))
        print(f"{chosen.source} ({settings_line(source)}), {case.expected}")
        for _ in range(chosen.rounds):
            _read_by_reference(case)
            for workers in chosen.workers:
                _read_by_kernel(case, workers)
        for kind in chosen.sink:
            with durable_sink(kind) as server:
                target = Target(kind, server)
                print(f"{kind} ({settings_line(server)})")
                arms = _arms(case, target, chosen.workers, chosen.writers, Path(place))
                for _ in range(chosen.rounds):
                    arms = [arm for arm in arms if _is_run(case, arm)]
        return case


def _is_run(case: Case, arm: Callable[[], None]) -> bool:
    """Whether the arm ran: a program that cannot read this source is noted once, and not tried again."""
    try:
        arm()
    except ArmUnavailable as error:
        case.note(str(error))
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
