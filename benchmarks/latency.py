"""How long a commit on the source takes to be seen on the sink, at a steady rate.

    python -m benchmarks.latency                                  500 transactions/s for 20 s, each sink by itself
    python -m benchmarks.latency --sink pg15 --rate 50 --seconds 60 --results figures.json

Writers commit one-row transactions to a schedule, whatever the answers take (a process of their own; where the source
cannot keep the pace, the rate that was reached is printed). A commit counts from when its writer has the answer. A
reader on the sink asks over and over for the last row of each writer; a row counts as seen when the answer that shows
it, or a later one of its writer, is there: transactions become visible in their order. One machine, one clock. Source
and sink are durable; the settings are printed. The rows have to be equal before a figure is.

Beside the delays: how many source transactions shared a sink transaction, how long the applier took for one (by the
service's log), the service's CPU (1 is a core) and peak memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.decode import Programs, RowsDiffer, machine
from benchmarks.deployment import Deployment, Place, durable_sink, durable_source, settings_line
from cdc.demo.servers import Server, ServerUnavailable
from cdc.model import TableName

__all__ = ["main"]

_DATABASE = "latency"
_TABLE = "probe"
_CREATE = (
    f"CREATE TABLE {_TABLE} (writer INT NOT NULL, n INT NOT NULL, customer_id INT, status VARCHAR(20), "
    "amount DECIMAL(12,2), created DATETIME(3), note VARCHAR(100), PRIMARY KEY (writer, n))"
)
_INSERT = (
    f"INSERT INTO {_TABLE} VALUES (%s, %s, %s, 'paid', 12.50, '2025-02-03 04:05:06.789', 'a note of usual length')"
)
_POLL_SECONDS = 0.001
_WARM_SECONDS = 2.0
_SEEN_SECONDS_MAX = 60.0
_READY_SECONDS_MAX = 60.0
_LOAD_MAX = 0.7
_WRITERS = 4
_CUSTOMERS = 50_000


# ---------------------------------------------------------------- writers


def _write(source: Server, rate: float, seconds: float, answer: Connection) -> None:
    """Commit to the schedule; `answer` gets the time of each commit by writer and number."""
    count = max(1, round(rate * seconds / _WRITERS))
    times: list[list[float]] = [[] for _ in range(_WRITERS)]
    errors: list[BaseException] = []
    began = time.monotonic() + 0.2

    def work(writer: int) -> None:
        try:
            connection = source.connect(_DATABASE)
            cursor = connection.cursor()
            for n in range(count):
                pause = began + (n * _WRITERS + writer) / rate - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                cursor.execute(_INSERT, (writer, n, n % _CUSTOMERS))
                times[writer].append(time.monotonic())
            connection.close()
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.send(repr(errors[0]) if errors else times)


# ---------------------------------------------------------------- the reader on the sink


class _Poll:
    """Asks the sink for the last row of each writer."""

    def __init__(self, place: Place) -> None:
        self._connection = place.server.connect(place.database)
        table = f'"{place.target.namespace}"."{place.target.name}"'
        if place.server.family != "postgresql":
            table = table.replace('"', "`")
        one = f"SELECT {{0}}, (SELECT max(n) FROM {table} WHERE writer = {{0}})"
        self._sql = " UNION ALL ".join(one.format(writer) for writer in range(_WRITERS))
        self._cursor = self._connection.cursor()

    def last(self) -> dict[int, int]:
        """The highest number that is visible of each writer that has any."""
        self._cursor.execute(self._sql)
        return {int(writer): int(n) for writer, n in self._cursor.fetchall() if n is not None}

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class Latencies:
    """What was seen on one sink. `delays` in seconds, in order of the commits; the first are not among them."""

    sink: str
    settings: str
    rate: float
    delays: list[float]
    polls_per_second: float
    transactions_per_commit: float
    service_cpu: float
    peak_rss_bytes: int
    apply_ms: list[float]

    def quantile(self, share: float) -> float:
        """The delay that this share of the rows does not exceed."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def line(self) -> str:
        """A row of the table that is printed."""
        shown = [self.quantile(share) * 1e3 for share in (0.5, 0.95, 0.99)]
        apply_ms = sorted(self.apply_ms)
        applies = f"{median(apply_ms):9.1f}{apply_ms[int(0.99 * len(apply_ms))]:9.1f}" if apply_ms else f"{'':18}"
        delays = "".join(f"{ms:9.1f}" for ms in [*shown, max(self.delays) * 1e3])
        return (
            f"  {self.sink:14}{self.rate:8.0f}{delays}"
            f"{self.transactions_per_commit:11.1f}{applies}{self.service_cpu:9.2f}{self.peak_rss_bytes / 1e6:8.1f}"
            f"{self.polls_per_second:9.0f}"
        )


_HEAD = (
    f"  {'sink':14}{'tx/s':>8}{'median':>9}{'p95':>9}{'p99':>9}{'max ms':>9}{'tx/commit':>11}{'apply ms':>9}{'p99':>9}"
    f"{'cpu':>9}{'RSS MB':>8}{'polls/s':>9}"
)


def measure_sink(source: Server, kind: str, rate: float, seconds: float, directory: Path, flush: Any) -> Latencies:
    """The delays at that rate. Raises RowsDiffer, ServerUnavailable."""
    name = TableName(_DATABASE, _TABLE)
    source.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
    source.execute(f"CREATE DATABASE {_DATABASE}")
    source.execute(_CREATE, database=_DATABASE)
    with durable_sink(kind) as sink:
        settings: dict[str, Any] = {"log": {"level": "debug"}}
        if flush:
            settings["flush"] = flush
        deployment = Deployment(directory, source, {"sink": sink}, f"{_DATABASE}.*", settings)
        place = deployment.prepare(name, None)["sink"]
        with _service(deployment, directory) as service:
            _wait_until_there(place, service)
            poll = _Poll(place)
            try:
                cpu = _cpu_seconds(service.pid)
                commits, seen, polls = _run(source, poll, rate, seconds)
                cpu = _cpu_seconds(service.pid) - cpu
                rss = _peak_rss_bytes(service.pid)
            finally:
                poll.close()
        _check(source, place)
        began = min(times[0] for times in commits)
        ended = max(times[-1] for times in commits)
        delays = [
            seen[writer][n] - at
            for writer, times in enumerate(commits)
            for n, at in enumerate(times)
            if at - began >= _WARM_SECONDS
        ]
        applied = _applied(directory)
        count = sum(map(len, commits))
        return Latencies(
            sink=kind,
            settings=settings_line(sink),
            rate=count / (ended - began),
            delays=delays,
            polls_per_second=polls / (ended - began),
            transactions_per_commit=sum(n for n, _ in applied) / max(1, len(applied)),
            service_cpu=cpu / (ended - began),
            peak_rss_bytes=rss,
            apply_ms=[ms for _, ms in applied],
        )


def _run(source: Server, poll: _Poll, rate: float, seconds: float) -> tuple[list[list[float]], list[list[float]], int]:
    """When each row was committed, and when it was seen, by writer and number; and how many polls that took."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(source, rate, _WARM_SECONDS + seconds, theirs))
    process.start()
    theirs.close()
    seen: list[list[float]] = [[] for _ in range(_WRITERS)]
    commits: list[list[float]] | None = None
    polls, deadline = 0, float("inf")
    while commits is None or any(len(s) < len(c) for s, c in zip(seen, commits, strict=True)):
        last = poll.last()
        now = time.monotonic()
        polls += 1
        for writer, n in last.items():
            seen[writer] += [now] * (n + 1 - len(seen[writer]))
        if commits is None and mine.poll():
            said = mine.recv()
            if isinstance(said, str):
                raise RuntimeError(f"a writer failed: {said}")
            commits, deadline = said, now + _SEEN_SECONDS_MAX
        if now > deadline:
            raise RowsDiffer(f"not all rows are on the sink after {_SEEN_SECONDS_MAX:g} s")
        time.sleep(_POLL_SECONDS)
    process.join()
    return commits, seen, polls


@contextlib.contextmanager
def _service(deployment: Deployment, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CDC_")}
    with (directory / "service.log").open("wb") as log:
        service = subprocess.Popen(
            deployment.command("run"), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield service
        service.send_signal(signal.SIGTERM)
        if service.wait(15):
            raise RuntimeError((directory / "service.log").read_text(errors="replace")[-600:])
    finally:
        if service.poll() is None:
            service.kill()
            service.wait()


def _wait_until_there(place: Place, service: subprocess.Popen[bytes]) -> None:
    """Until the service has made the table on the sink and follows the source."""
    ready = "_cdc.tables" if place.server.family == "postgresql" else "_cdc._cdc_tables"
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while time.monotonic() < deadline and service.poll() is None:
        with contextlib.suppress(Exception):  # the metadata's table is not there yet
            database = place.database if place.server.family == "postgresql" else None
            if place.server.execute(f"SELECT state FROM {ready}", database=database)[0][0] == "ready":
                return
        time.sleep(0.1)
    raise RuntimeError("the service does not come up")


def _check(source: Server, place: Place) -> None:
    columns = "writer, n, customer_id, status, amount, created, note"
    table = f"{place.target.namespace}.{place.target.name}"
    have = sorted(map(tuple, place.server.execute(f"SELECT {columns} FROM {table}", database=place.database)))
    want = sorted(map(tuple, source.execute(f"SELECT {columns} FROM {_TABLE}", database=_DATABASE)))
    if have != want:
        raise RowsDiffer(f"{len(have)} rows on the sink, {len(want)} at the source, or others")


def _applied(directory: Path) -> list[tuple[int, float]]:
    """Transactions and milliseconds of each sink transaction, from the service's log."""
    found = []
    for line in (directory / "service.log").read_text().splitlines():
        fields = json.loads(line)
        if fields["event"] == "batch_applied" and fields["transactions"]:
            found.append((int(fields["transactions"]), float(fields["apply_ms"])))
    return found


def _cpu_seconds(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def _peak_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


# ---------------------------------------------------------------- by hand


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when rows differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description="From commit to visible.")
    parser.add_argument("--source", default="mariadb1011")
    parser.add_argument("--sink", nargs="+", default=["pg15", "mariadb1011"])
    parser.add_argument("--rate", type=float, default=500.0, help="transactions/s at the source")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--flush", type=json.loads, default=None, help='the flush section, as {"age_ms_max": 50}')
    parser.add_argument("--results", type=Path, help="write all figures there, as JSON")
    chosen = parser.parse_args(arguments)
    about = machine(Programs.build())
    print(", ".join(f"{name} {value}" for name, value in about.items() if not name.startswith("go")))
    if os.getloadavg()[0] > _LOAD_MAX:
        print("the machine is busy: these are not the service's own delays")
    found: list[Latencies] = []
    with tempfile.TemporaryDirectory(prefix="cdc-benchmark-") as folder, durable_source(chosen.source) as source:
        print(f"\nsource, {source.kind.label}: {settings_line(source)}", flush=True)
        for kind in chosen.sink:
            try:
                found.append(measure_sink(source, kind, chosen.rate, chosen.seconds, Path(folder), chosen.flush))
            except ServerUnavailable as error:
                print(f"{kind}: skipped, {error}")
                continue
            except RowsDiffer as error:
                print(f"ROWS DIFFER, no figures: {kind}: {error}")
                return 1
            print(f"{kind}: {found[-1].settings}", flush=True)
    print(f"\n{_HEAD}")
    for one in found:
        print(one.line())
    if chosen.results:
        sinks = [
            {
                "sink": one.sink,
                "rate": one.rate,
                "median_ms": one.quantile(0.5) * 1e3,
                "p99_ms": one.quantile(0.99) * 1e3,
                "peak_rss_bytes": one.peak_rss_bytes,
            }
            for one in found
        ]
        chosen.results.write_text(json.dumps({"machine": about, "sinks": sinks}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
