"""Readers of a log side by side: each a process of its own against a live server, interleaved, medians, ratios.

    python -m benchmarks.decode                                     bulk and tx, both servers, five rounds
    python -m benchmarks.decode --log wide json --server mysql97 --scale 10 --tls off on --metadata minimal

Every reader says what it has read (summary.py); that has to be what the server's SELECT said when the log was made, in
every run, and the hashes of all rows have to agree in a run of their own before any figure is printed.

    raw          mysqlbinlog --raw: the server's own limit. The fastest of the programs and targets that work is taken
    drain        a C program that receives the same stream and looks at nothing
    cdc          ours, to Arrow, every batch read and let go
    go-mysql     github.com/go-mysql-org/go-mysql: the faster of its two readers, with the collector's better setting
    pymysqlreplication   python-mysql-replication, at scale 1 and once
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from benchmarks import buffers
from benchmarks.logs import LOGS, PLACE, SERVERS, Log, Metadata, Site
from benchmarks.summary import Summary
from cdc.config import FlushSettings
from cdc.demo.servers import ServerUnavailable, catalogue

__all__ = ["ArmUnavailable", "Measured", "Programs", "RowsDiffer", "all_cpu_seconds", "machine", "main"]

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parent
_RUN_SECONDS_MAX = 1800
_ERROR_CHARS = 200
_LOAD_MAX = 0.7
_SHARED_MEMORY = Path("/dev/shm")
_SETTINGS = (
    "version",
    "binlog_row_image",
    "binlog_row_metadata",
    "binlog_checksum",
    "binlog_row_event_max_size",
    "net_buffer_length",
    "gtid_mode",
)


class ArmUnavailable(Exception):
    """This machine, or this server, does not have what the arm needs; the message says what."""


class RowsDiffer(Exception):
    """A reader did not read what the log holds: no figure may be printed."""


# ---------------------------------------------------------------- programs


@dataclass(frozen=True, slots=True)
class Programs:
    """What is compiled on the spot, into var/benchmarks/programs."""

    measure: Path
    drain: Path
    drain_has_tls: bool
    gomysql: Path | None
    no_gomysql: str = ""
    go_version: str = ""

    @classmethod
    def build(cls) -> Programs:
        """Compile what is older than its source. Raises ArmUnavailable when there is no C compiler."""
        target = PLACE / "programs"
        target.mkdir(parents=True, exist_ok=True)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise ArmUnavailable("no C compiler: apt-get install gcc libc6-dev")
        measure, drain = target / "measure", target / "drain"
        _compile([compiler, "-O2", "-o", str(measure), str(_HERE / "measure.c")])
        buffers.build()
        source = str(_HERE / "drain.c")
        has_tls = True
        try:
            _compile([compiler, "-O2", "-DWITH_TLS", "-o", str(drain), source, "-lssl", "-lcrypto"])
        except ArmUnavailable:
            has_tls = False
            _compile([compiler, "-O2", "-o", str(drain), source])
        gomysql = target / "gomysql"
        go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
        if go is None:
            return cls(measure, drain, has_tls, None, "Go is not installed (https://go.dev/dl)")
        built = subprocess.run(
            [go, "build", "-o", str(gomysql), "."], cwd=_HERE / "gomysql", capture_output=True, text=True, check=False
        )
        if built.returncode:
            return cls(measure, drain, has_tls, None, f"it does not build: {built.stderr.strip()[-300:]}")
        version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout.split()[2]
        return cls(measure, drain, has_tls, gomysql, go_version=version)


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArmUnavailable(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")


# ---------------------------------------------------------------- one run of one reader


@dataclass(slots=True)
class Measured:
    """What one run cost. `disturbance`: how many cores others kept busy meanwhile, 0.1 is quiet; `result`: what it
    wrote."""

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    peak_rss_bytes: int
    server_seconds: float = 0.0
    disturbance: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def cpu_seconds(self) -> float:
        return self.user_seconds + self.system_seconds


@dataclass(frozen=True, slots=True)
class Case:
    """One log on one site, with or without TLS."""

    site: Site
    log: Log
    is_tls: bool

    @property
    def title(self) -> str:
        log = self.log
        tls = "TLS" if self.is_tls else "no TLS"
        return (
            f"{log.name} × {log.scale} ({LOGS[log.name].title}) on {self.site.server.kind.label}, "
            f"metadata {self.site.metadata.upper()}, {tls}"
        )


@dataclass(frozen=True, slots=True)
class Arm:
    """A reader: `command(case, spec, result)` is what is run; `detail` says which variant it is."""

    name: str
    command: Callable[[Case, Path, Path], list[str]]
    detail: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    has_summary: bool = True
    rounds_max: int | None = None


class Runner:
    """Runs arms and checks what they read."""

    def __init__(self, programs: Programs, directory: Path, cores: str | None, by_gtid: bool) -> None:
        self._programs = programs
        self._directory = directory
        self._cores = cores
        self._by_gtid = by_gtid
        self._server_ids = itertools.count(70_000_001)

    def run(self, arm: Arm, case: Case, *, is_verifying: bool = False) -> Measured:
        """One run. Raises RowsDiffer, or ArmUnavailable when the program fails."""
        spec, result, cost = (self._directory / name for name in ("spec.json", "result.json", "cost.json"))
        result.unlink(missing_ok=True)
        spec.write_text(json.dumps(self._spec(case) | {"verify": is_verifying} | dict(arm.spec)))
        command = arm.command(case, spec, result)
        if self._cores:
            command = ["taskset", "-c", self._cores, *command]
        pid = case.site.server.pid
        before, all_before, began = _cpu_seconds(pid), all_cpu_seconds(), time.monotonic()
        done = subprocess.run(
            [str(self._programs.measure), str(cost), *command],
            cwd=_CHECKOUT,
            env=os.environ | dict(arm.environment),
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS_MAX,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[:_ERROR_CHARS].replace("\n", " ")
            raise ArmUnavailable(f"{arm.name} {arm.detail} failed: {said}")
        measured = Measured(**json.loads(cost.read_text()), server_seconds=_cpu_seconds(pid) - before)
        others = all_cpu_seconds() - all_before - measured.cpu_seconds - measured.server_seconds
        measured.disturbance = max(0.0, others / (time.monotonic() - began))
        if result.exists():
            measured.result = json.loads(result.read_text())
        if arm.has_summary:
            differences = Summary.from_dict(measured.result).differences(case.log.expected)
            if differences:
                raise RowsDiffer(f"{arm.name} {arm.detail} on {case.title} (read, expected): {'; '.join(differences)}")
        return measured

    def _spec(self, case: Case) -> dict[str, Any]:
        log, server = case.log, case.site.server
        return {
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "family": server.family,
            "server_id": next(self._server_ids),
            "tls": case.is_tls,
            "database": log.database,
            "table": log.table,
            "files": log.files,
            "end_pos": log.end_pos,
            "gtid_before": log.gtid_before,
            "by_gtid": self._by_gtid,
            "text_columns": log.text_columns,
            "columns": [{"name": c.name, "type": c.sql_type} for c in LOGS[log.name].table.columns],
            "limits": _limits(),
        }


def _limits() -> dict[str, int]:
    """When the service hands over a run."""
    flush = FlushSettings()  # what an empty configuration gives
    return {"rows_max": flush.rows_max, "bytes_max": flush.bytes_max}


def all_cpu_seconds() -> float:
    """That all cores were busy since the machine started."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return 0.0
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- arms


def _cdc_arms() -> list[Arm]:
    def command(_case: Case, spec: Path, result: Path) -> list[str]:
        return [sys.executable, "-m", "benchmarks.read_cdc", str(spec), str(result)]

    return [Arm("cdc", command)]


def _pymysqlreplication_arms(case: Case) -> list[Arm]:
    if case.log.scale > 1:
        raise ArmUnavailable("pymysqlreplication: only at scale 1")

    def command(_case: Case, spec: Path, result: Path) -> list[str]:
        return [sys.executable, "-m", "benchmarks.read_pymysqlreplication", str(spec), str(result)]

    return [Arm("pymysqlreplication", command, rounds_max=1)]


def _gomysql_arms(programs: Programs) -> list[Arm]:
    if programs.gomysql is None:
        raise ArmUnavailable(f"go-mysql: skipped, {programs.no_gomysql}")

    def command(_case: Case, spec: Path, result: Path) -> list[str]:
        return [str(programs.gomysql), str(spec), str(result)]

    return [
        Arm("go-mysql", command, f"{reader}, GOGC={gogc}", {"reader": reader}, {"GOGC": gogc, "TZ": "UTC"})
        for reader in ("syncer", "canal")
        for gogc in ("100", "400")
    ]


def _drain_arms(programs: Programs, case: Case) -> list[Arm]:
    if case.is_tls and not programs.drain_has_tls:
        raise ArmUnavailable("drain: skipped with TLS, OpenSSL's headers are missing (apt-get install libssl-dev)")

    def command(byte_count: int) -> list[str]:
        log = case.log
        arguments = [case.site.server.port, log.files[0], len(log.files), byte_count, int(case.is_tls), 69_999_999]
        return [str(programs.drain), *map(str, arguments)]

    walked = subprocess.run(command(0), capture_output=True, text=True, check=False, timeout=_RUN_SECONDS_MAX)
    if walked.returncode:
        raise ArmUnavailable(f"drain: {walked.stderr.strip()}")
    byte_count = json.loads(walked.stdout)["bytes"]
    return [Arm("drain", lambda *_: command(byte_count), f"{byte_count / 1e6:.1f} MB", has_summary=False)]


def _raw_arms(case: Case, directory: Path, memory: Path | None) -> list[Arm]:
    """Every program that may fetch, into memory and into nothing."""
    log, server = case.log, case.site.server
    programs: dict[str, Path] = {}
    for kind in catalogue().values():
        for name in ("mariadb-binlog", "mysqlbinlog"):
            with contextlib.suppress(ServerUnavailable):
                path = kind.program(name)
                family = "mariadb" if path.resolve().name == "mariadb-binlog" else "mysql"
                if kind.family == family == server.family:
                    programs.setdefault(f"{name} of {kind.label}", path)
    if not programs:
        raise ArmUnavailable(f"raw: no mysqlbinlog of {server.kind.label} here")
    targets = {"to nothing": directory / "nothing"}
    targets["to nothing"].mkdir(exist_ok=True)
    for file in log.files:
        link = targets["to nothing"] / file
        if not link.is_symlink():
            link.symlink_to("/dev/null")
    if memory is not None and shutil.disk_usage(memory).free > 3 * log.byte_count:
        targets["to memory"] = memory

    def arm(name: str, program: Path, where: str, target: Path) -> Arm:
        if server.family == "mariadb":
            tls = ["--ssl"] if case.is_tls else ["--skip-ssl"]
        else:
            tls = ["--ssl-mode=REQUIRED"] if case.is_tls else ["--ssl-mode=DISABLED"]
        login = [f"--host={server.host}", f"--port={server.port}", f"--user={server.user}"]
        command = [str(program), "--no-defaults", "--raw", "--read-from-remote-server", *login, *tls]
        command += [f"--result-file={target}/", *log.files]
        return Arm("raw", lambda *_: command, f"{name} {where}", has_summary=False)

    return [arm(name, path, where, target) for name, path in programs.items() for where, target in targets.items()]


def _arms(name: str, case: Case, programs: Programs, directory: Path, memory: Path | None) -> list[Arm]:
    """The variants of an arm."""
    match name:
        case "raw":
            return _raw_arms(case, directory, memory)
        case "drain":
            return _drain_arms(programs, case)
        case "cdc":
            return _cdc_arms()
        case "go-mysql":
            return _gomysql_arms(programs)
        case _:
            return _pymysqlreplication_arms(case)


# ---------------------------------------------------------------- a case


@dataclass(slots=True)
class Table:
    """The figures of one case."""

    case: Case
    runs: dict[str, list[Measured]]
    details: dict[str, str]
    notes: list[str]

    def median(self, arm: str, figure: Callable[[Measured], float] = lambda m: m.wall_seconds) -> float:
        return median(map(figure, self.runs[arm]))

    def ratio(self, above: str, below: str) -> float | None:
        """Median wall time of one over that of the other."""
        if self.runs.get(above) and self.runs.get(below):
            return self.median(above) / self.median(below)
        return None

    def lines(self) -> Iterator[str]:
        """What is printed."""
        log = self.case.log
        yield ""
        yield self.case.title
        yield (
            f"  {log.expected.changes} row changes, {log.expected.images} images, {log.byte_count / 1e6:.1f} MB in "
            f"{len(log.files)} file(s){''.join(f', {k}={v}' for k, v in log.options.items())}"
        )
        yield (
            f"  {'arm':20}{'wall s':>8}{'min':>8}{'max':>8}{'× raw':>7}{'cpu s':>8}{'server':>8}{'changes/s':>12}"
            f"{'MB/s':>8}{'RSS MB':>8}{'others':>8}"
        )
        for arm, runs in self.runs.items():
            wall = self.median(arm)
            walls = [run.wall_seconds for run in runs]
            times_raw = self.ratio(arm, "raw")
            yield (
                f"  {arm:20}{wall:8.3f}{min(walls):8.3f}{max(walls):8.3f}"
                f"{f'{times_raw:.2f}' if times_raw else '':>7}{self.median(arm, lambda m: m.cpu_seconds):8.3f}"
                f"{self.median(arm, lambda m: m.server_seconds):8.2f}{log.expected.changes / wall:12,.0f}"
                f"{log.byte_count / wall / 1e6:8.1f}{max(m.peak_rss_bytes for m in runs) / 1e6:8.1f}"
                f"{self.median(arm, lambda m: m.disturbance):8.2f}"
                f"  {self.details[arm]}"
            )
        shown = (("go-mysql", "cdc"), ("cdc", "raw"), ("cdc", "drain"), ("pymysqlreplication", "cdc"))
        ratios = [f"{a} / {b} = {ratio:.2f}" for a, b in shown if (ratio := self.ratio(a, b)) is not None]
        if ratios:
            yield f"  {'   '.join(ratios)}"
        for note in self.notes:
            yield f"  {note}"

    def to_dict(self) -> dict[str, Any]:
        """As --results has it."""
        log = self.case.log
        return {
            "server": self.case.site.kind,
            "server_version": self.case.site.server.version,
            "metadata": self.case.site.metadata,
            "tls": self.case.is_tls,
            "log": log.name,
            "scale": log.scale,
            "changes": log.expected.changes,
            "bytes": log.byte_count,
            "arms": {
                arm: {
                    "detail": self.details[arm],
                    "wall_seconds": [run.wall_seconds for run in runs],
                    "cpu_seconds": [round(run.cpu_seconds, 6) for run in runs],
                    "server_seconds": [round(run.server_seconds, 2) for run in runs],
                    "disturbance": [round(run.disturbance, 3) for run in runs],
                    "peak_rss_bytes": [run.peak_rss_bytes for run in runs],
                    "result": runs[-1].result,
                }
                for arm, runs in self.runs.items()
            },
            "notes": self.notes,
        }


def measure_case(case: Case, arms: Sequence[str], rounds: int, runner: Runner, programs: Programs) -> Table:
    """Check the rows, choose each arm's fastest variant on the short log, then `rounds` times every arm in turn.

    Raises RowsDiffer.
    """
    chosen: list[Arm] = []
    notes: list[str] = []
    short = Case(case.site, case.site.log(case.log.name, 1), case.is_tls)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        memory = None
        if _SHARED_MEMORY.is_dir():
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-benchmark-", dir=_SHARED_MEMORY)))
        for name in arms:
            try:
                variants = _arms(name, case, programs, folder, memory)
                _check_by_hash(variants[0], case, runner, notes)
                if len(variants) == 1:
                    chosen += variants
                else:
                    detail = _fastest(_arms(name, short, programs, folder, memory), short, runner, notes)
                    chosen += [variant for variant in variants if variant.detail == detail]
            except ArmUnavailable as error:
                notes.append(str(error))
        runs: dict[str, list[Measured]] = {arm.name: [] for arm in chosen}
        for index in range(rounds):
            for arm in chosen:
                if arm.rounds_max is None or index < arm.rounds_max:
                    runs[arm.name].append(runner.run(arm, case))
    return Table(case, runs, {arm.name: arm.detail for arm in chosen}, notes)


def _check_by_hash(arm: Arm, case: Case, runner: Runner, notes: list[str]) -> None:
    """A run that hashes every value. Raises RowsDiffer, ArmUnavailable when the arm does not work."""
    if arm.has_summary and arm.rounds_max is None:
        checked = runner.run(arm, case, is_verifying=True)
        if checked.result.get("hash_sum") is None:
            notes.append(f"{arm.name}: rows checked by counts and sums only (it does not give all values whole)")


def _fastest(variants: list[Arm], case: Case, runner: Runner, notes: list[str]) -> str:
    """Which variant that works is the fastest on a short log. Raises ArmUnavailable when none works."""
    times: list[tuple[float, str]] = []
    failures: list[str] = []
    for variant in variants:
        try:
            times.append((min(runner.run(variant, case).wall_seconds for _ in range(2)), variant.detail))
        except ArmUnavailable as error:
            failures.append(str(error))
    if not times:
        raise ArmUnavailable("; ".join(failures))
    times.sort()
    name = variants[0].name
    notes.append(f"{name}, best of two at scale 1: " + ", ".join(f"{detail} {s:.2f} s" for s, detail in times))
    notes += failures
    return times[0][1]


# ---------------------------------------------------------------- by hand


def machine(programs: Programs) -> dict[str, str]:
    """What the figures depend on beside the servers."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=_CHECKOUT, capture_output=True, text=True, check=False
    )
    go_mod = (_HERE / "gomysql" / "go.mod").read_text()
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "go": programs.go_version or "none",
        "go-mysql": next(line.split()[-1] for line in go_mod.splitlines() if "go-mysql-org" in line),
        "commit": described.stdout.strip() or "unknown",
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }


def _server_settings(site: Site) -> str:
    names = ", ".join(f"'{name}'" for name in _SETTINGS)
    rows = site.server.execute(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")
    return ", ".join(f"{name}={value}" for name, value in rows)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when rows differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description="Readers of a log, side by side.")
    parser.add_argument("--log", nargs="+", choices=LOGS, default=["bulk", "tx"])
    parser.add_argument("--server", nargs="+", default=list(SERVERS))
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--metadata", nargs="+", choices=["full", "minimal"], default=["full"])
    parser.add_argument("--tls", nargs="+", choices=["off", "on"], default=["off"])
    parser.add_argument("--arms", nargs="+", default=["raw", "drain", "cdc", "go-mysql"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", help="pin each reader (not the server) to these, as taskset -c takes them: 1")
    parser.add_argument("--by-file", action="store_true", help="our stream by file and position, not by GTID")
    parser.add_argument("--results", type=Path, help="write all figures there, as JSON")
    chosen = parser.parse_args(arguments)
    programs = Programs.build()
    about = machine(programs)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    if os.getloadavg()[0] > _LOAD_MAX:
        print("the machine is busy: take the column min for what these readers can do, and trust no ratio")
    if chosen.cores:
        print(f"readers pinned to core(s) {chosen.cores}")
    tables: list[Table] = []
    settings: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(programs, Path(folder), chosen.cores, not chosen.by_file)
        for kind, metadata in itertools.product(chosen.server, chosen.metadata):
            try:
                tables += _measure_site(kind, metadata, chosen, runner, programs, settings)
            except ServerUnavailable as error:
                print(f"{kind}: skipped, {error}")
            except RowsDiffer as error:
                print(f"ROWS DIFFER, no figures: {error}")
                return 1
    if chosen.results:
        content = {"machine": about, "servers": settings, "cores": chosen.cores, "cases": [t.to_dict() for t in tables]}
        chosen.results.write_text(json.dumps(content, indent=1))
    return 0


def _measure_site(
    kind: str,
    metadata: Metadata,
    chosen: argparse.Namespace,
    runner: Runner,
    programs: Programs,
    settings: dict[str, str],
) -> Iterator[Table]:
    with Site.open(kind, metadata) as site:
        settings[f"{kind} {metadata}"] = _server_settings(site)
        print(f"\n{site.server.kind.label}: {settings[f'{kind} {metadata}']}", flush=True)
        for name in chosen.log:
            log = site.log(name, chosen.scale)
            for tls in chosen.tls:
                table = measure_case(Case(site, log, tls == "on"), chosen.arms, chosen.rounds, runner, programs)
                print("\n".join(table.lines()), flush=True)
                yield table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
