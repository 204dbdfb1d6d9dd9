"""What a load costs the source's own writers: how long their commits take with and without one beside.

    python -m benchmarks.load_effect                                     1 M rows, 200 commits/s, MySQL to PostgreSQL
    python -m benchmarks.load_effect --source mariadb118 --rate 500 --limit 50000

Writers commit one-row transactions to a schedule into a table that is not loaded (a process of their own). Arms, rounds
in turn, each for as long as the load takes, or `--seconds` where there is none:

    idle           nobody loads
    client         `mariadb --quick` reads the table once, as a dump would
    cdc            `cdc run --until-caught-up` loads it
    cdc limited    likewise, with `snapshot.rows_per_second`

Median, p99 and the longest, and the ratio to idle. What is loaded is compared with the source.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles

from benchmarks.decode import RowsDiffer
from benchmarks.deployment import Fingerprint, durable_sink, durable_source, fingerprint, settings_line
from benchmarks.load_run import configuration, run_load
from benchmarks.load_tables import clear_sink, fill_orders
from benchmarks.logs import ORDERS
from cdc.demo.servers import Server

__all__ = ["main"]

_SINK_DATABASE = "bench"
_WRITERS = 4
_WARM_SECONDS = 1.0


@dataclass(slots=True)
class Arm:
    """One thing beside the writers; the seconds of each of their commits."""

    name: str
    beside: Callable[[], None]
    commits: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def line(self, idle: Arm) -> str:
        """Its figures."""
        middle, high = _p(self.commits)
        idle_middle, idle_high = _p(idle.commits)
        return (
            f"  {self.name:12} {len(self.commits):7} commits, "
            f"median {1000 * middle:7.2f} ms ({middle / idle_middle:4.2f} x), "
            f"p99 {1000 * high:7.2f} ms ({high / idle_high:4.2f} x), longest {1000 * max(self.commits):7.1f} ms; "
            f"{median(self.seconds):.1f} s"
        )


def _p(commits: Sequence[float]) -> tuple[float, float]:
    return median(commits), quantiles(commits, n=100)[98]


def _write(source: Server, rate: float, is_over: Event, answer: Connection) -> None:
    """Commit to the schedule until it is over."""
    found: list[list[float]] = [[] for _ in range(_WRITERS)]

    def work(writer: int) -> None:
        connection = source.connect("own")
        cursor = connection.cursor()
        due = time.monotonic() + writer / rate
        while not is_over.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            cursor.execute("INSERT INTO writes (writer, note) VALUES (%s, 'a note of usual length')", (writer,))
            connection.commit()
            found[writer].append(time.monotonic() - began)
            due += _WRITERS / rate
        connection.close()

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.send([seconds for one in found for seconds in one])


def _beside_writers(source: Server, rate: float, arm: Arm) -> None:
    context = multiprocessing.get_context("fork")
    is_over = context.Event()
    ours, theirs = context.Pipe()
    writers = context.Process(target=_write, args=(source, rate, is_over, theirs))
    writers.start()
    try:
        time.sleep(_WARM_SECONDS)
        began = time.monotonic()
        arm.beside()
        arm.seconds.append(time.monotonic() - began)
    finally:
        is_over.set()
        if ours.poll(60):
            arm.commits += ours.recv()
        writers.join()


def _read_by_client(source: Server) -> None:
    client = shutil.which("mariadb") or shutil.which("mysql")
    assert client is not None
    arguments = [client, f"-h{source.host}", f"-P{source.port}", f"-u{source.user}", "--skip-ssl", "--quick", "--batch"]
    select = f"SELECT * FROM {ORDERS.name} ORDER BY id"
    subprocess.run([*arguments, "whole", "-e", select], check=True, stdout=subprocess.DEVNULL)


def _measure(chosen: argparse.Namespace) -> list[Arm]:
    with (
        durable_source(chosen.source) as source,
        durable_sink(chosen.sink) as sink,
        tempfile.TemporaryDirectory() as place,
    ):
        expected = fill_orders(source, "whole", chosen.rows)
        source.execute("CREATE DATABASE own")
        source.execute(
            "CREATE TABLE writes (id INT AUTO_INCREMENT PRIMARY KEY, writer INT, note VARCHAR(100))", database="own"
        )
        print(f"{chosen.source} ({settings_line(source)}), {expected}\n{chosen.sink} ({settings_line(sink)})")

        def load(limit: float | None) -> None:
            _load(source, sink, Path(place), chosen.workers, limit, expected)

        arms = [
            Arm("idle", lambda: time.sleep(chosen.seconds)),
            Arm("client", lambda: _read_by_client(source)),
            Arm("cdc", lambda: load(None)),
            Arm("cdc limited", lambda: load(chosen.limit)),
        ]
        for _ in range(chosen.rounds):
            for arm in arms:
                clear_sink(sink, ["whole"])
                _beside_writers(source, chosen.rate, arm)
        return arms


def _load(
    source: Server, sink: Server, directory: Path, workers: int, limit: float | None, expected: Fingerprint
) -> None:
    snapshot = {"workers": workers, **({} if limit is None else {"rows_per_second": limit})}
    config = configuration(
        source, sink.url_for(_SINK_DATABASE), tables=["whole.*"], directory=directory, snapshot=snapshot
    )
    run_load(config, directory, "cdc")
    found = fingerprint(sink, _SINK_DATABASE, ORDERS, namespace="whole")
    if found != expected:
        raise RowsDiffer(f"cdc: {found}, expected {expected}")


def main(arguments: Sequence[str]) -> int:
    """The command line. 1 when rows differ."""
    parser = argparse.ArgumentParser(prog="benchmarks.load_effect", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", default="mysql97", help="mysql97, mariadb1011, mariadb118")
    parser.add_argument("--sink", default="pg15", help="pg15, pg17, mariadb1011, mariadb118, mysql97")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=200, help="commits a second")
    parser.add_argument("--seconds", type=float, default=10, help="of the arm without a load")
    parser.add_argument("--limit", type=float, default=50_000, help="rows a second of the limited load")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        arms = _measure(chosen)
    except (RowsDiffer, subprocess.SubprocessError) as error:
        print(f"benchmarks.load_effect: {error}", file=sys.stderr)
        return 1
    for arm in arms:
        print(arm.line(arms[0]))
    if chosen.results is not None:
        chosen.results.write_text(json.dumps({arm.name: arm.commits for arm in arms}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
