"""What several lanes bring: tables in bulk into one sink, applied from a log and loaded at first, interleaved, medians.

    python -m benchmarks.lanes                                    4 tables, 1 and 2 lanes, MariaDB and PostgreSQL sinks
    python -m benchmarks.lanes --tables 8 --rows 100000 --lanes 1 2 4 --rounds 5 --sink pg15

The tables are changed in turns, a statement of some thousands of rows at a time. Every arm and round has a database of
its own on the sink, in which it has loaded the tables while they were empty; then the log is written, once for all, and
each catches up in a process of its own, from its start to its exit. The loads are of the tables as the log leaves
them, into a database that is empty. After every run `cdc verify` has to find source and sink equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.decode import Measured, Programs, RowsDiffer, machine
from benchmarks.deployment import durable_sink, durable_source, measured, settings_line
from cdc.demo.servers import Server, ServerUnavailable

__all__ = ["main"]

_DATABASE = "lanes"
_STATEMENT_ROWS = 5000
_LOAD_MAX = 0.7
_COLUMNS = (
    "id BIGINT UNSIGNED PRIMARY KEY, account INT NOT NULL, amount DECIMAL(12,2) NULL, rate DOUBLE NULL, "
    "made DATETIME(3) NOT NULL, name VARCHAR(40) NOT NULL, note VARCHAR(120) NULL, state SMALLINT NOT NULL"
)
_VALUES = (
    "seq, seq % 9973, seq / 100, seq / 7, '2024-02-03 04:05:06.789' + INTERVAL seq SECOND, "
    "CONCAT('customer ', seq), REPEAT(MD5(seq), 2), seq % 7"
)


@dataclass(slots=True)
class Arm:
    """So many lanes, in one round: a deployment with a database of its own on the sink."""

    lanes: int
    directory: Path
    source: Server
    sink: Server
    database: str

    def command(self, *arguments: str) -> list[str]:
        """The command line of the service."""
        content: dict[str, Any] = {
            "name": "bench",
            "source": {"url": self.source.url, "server_id": 52_000_001, "heartbeat_seconds": 0.1},
            "sinks": [{"name": "sink", "url": self.sink.url_for(self.database), "lanes": self.lanes}],
            "tables": {"include": [f"{_DATABASE}.*"]},
            "http": {"enabled": False},
            "var_dir": str(self.directory / "var"),
        }
        path = self.directory / f"{self.database}.yaml"
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return [sys.executable, "-m", "cdc", *arguments, "-c", str(path)]

    def create(self) -> None:
        self.sink.execute(f"CREATE DATABASE {self.database}")

    def drop(self) -> None:
        self.sink.execute(f"DROP DATABASE {self.database}")

    def catch_up(self, measure: Path) -> Measured:
        """From where the sink is to the end of the log. Raises ArmUnavailable, RowsDiffer."""
        found = measured(measure, self.directory, self.command("run", "--until-caught-up"), [self.sink, self.source])
        told = subprocess.run(self.command("verify"), capture_output=True, text=True, check=False)
        if told.returncode:
            raise RowsDiffer(f"{self.lanes} lanes: {told.stdout[-400:]}{told.stderr[-400:]}")
        return found


@dataclass(slots=True)
class Figures:
    """The runs of one kind, by number of lanes."""

    title: str
    changes: int
    runs: dict[int, list[Measured]] = field(default_factory=dict)

    def median(self, lanes: int, figure: Callable[[Measured], float] = lambda m: m.wall_seconds) -> float:
        return median(map(figure, self.runs[lanes]))

    def lines(self) -> Iterator[str]:
        yield ""
        yield f"{self.title}: {self.changes} rows, equal after every run"
        yield f"  {'lanes':>5}{'wall s':>9}{'min':>9}{'rows/s':>12}{'× 1st':>8}{'cpu s':>8}{'sink':>8}{'RSS MB':>8}"
        first = self.median(next(iter(self.runs)))
        for lanes, runs in self.runs.items():
            wall = self.median(lanes)
            yield (
                f"  {lanes:5}{wall:9.3f}{min(run.wall_seconds for run in runs):9.3f}{self.changes / wall:12,.0f}"
                f"{first / wall:8.2f}{self.median(lanes, lambda m: m.cpu_seconds):8.2f}"
                f"{self.median(lanes, lambda m: m.server_seconds):8.2f}"
                f"{max(run.peak_rss_bytes for run in runs) / 1e6:8.1f}"
            )


def _write(source: Server, tables: int, rows: int) -> int:
    """The log: inserts, then an update of every fourth row and a delete of every twentieth; how many changes."""
    changes = 0
    with contextlib.closing(source.connect(_DATABASE)) as connection, connection.cursor() as cursor:
        for statement in (
            "INSERT INTO t{n} SELECT " + _VALUES + " FROM seq_{low}_to_{high}",
            "UPDATE t{n} SET state = state + 1, note = 'changed' WHERE id BETWEEN {low} AND {high} AND id % 4 = 0",
            "DELETE FROM t{n} WHERE id BETWEEN {low} AND {high} AND id % 20 = 1",
        ):
            for low in range(1, rows + 1, _STATEMENT_ROWS):
                high = min(rows, low + _STATEMENT_ROWS - 1)
                for n in range(tables):
                    changes += cursor.execute(statement.format(n=n, low=low, high=high))
                    connection.commit()
    return changes


def _measure(source: Server, sink: Server, chosen: argparse.Namespace, measure: Path, directory: Path) -> list[Figures]:
    source.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
    source.execute(f"CREATE DATABASE {_DATABASE}")
    for n in range(chosen.tables):
        source.execute(f"CREATE TABLE t{n} ({_COLUMNS})", database=_DATABASE)
    where = f"{chosen.tables} tables from {source.kind.label} into {sink.kind.label}"
    arms = [
        Arm(lanes, directory, source, sink, f"log_{number}_{lanes}")
        for number in range(chosen.rounds)
        for lanes in chosen.lanes
    ]
    for arm in arms:
        arm.create()
        arm.catch_up(measure)
    applied = Figures(f"log of {where}", _write(source, chosen.tables, chosen.rows))
    for arm in arms:
        applied.runs.setdefault(arm.lanes, []).append(arm.catch_up(measure))
        arm.drop()
    counts = [source.execute(f"SELECT count(*) FROM t{n}", database=_DATABASE)[0][0] for n in range(chosen.tables)]
    loaded = Figures(f"load of {where}", sum(map(int, counts)))
    for number in range(chosen.rounds):
        for lanes in chosen.lanes:
            arm = Arm(lanes, directory, source, sink, f"load_{number}_{lanes}")
            arm.create()
            loaded.runs.setdefault(lanes, []).append(arm.catch_up(measure))
            arm.drop()
    return [applied, loaded]


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when rows differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lanes", description="What several lanes bring.")
    parser.add_argument("--source", default="mariadb1011", help="a MariaDB: the log is made from its sequences")
    parser.add_argument("--sink", nargs="+", default=["mariadb1011", "pg15"])
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tables", type=int, default=4)
    parser.add_argument("--rows", type=int, default=200_000, help="of each table")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    programs = Programs.build()
    print(", ".join(f"{name} {value}" for name, value in machine(programs).items() if not name.startswith("go")))
    if os.getloadavg()[0] > _LOAD_MAX:
        print("the machine is busy: take the column min for what these arms can do, and trust no ratio")
    try:
        with tempfile.TemporaryDirectory(prefix="cdc-benchmark-") as folder, durable_source(chosen.source) as source:
            for kind in chosen.sink:
                with durable_sink(kind) as sink:
                    print(f"\n{sink.kind.label}: {settings_line(sink)}", flush=True)
                    for figures in _measure(source, sink, chosen, programs.measure, Path(folder)):
                        print("\n".join(figures.lines()), flush=True)
    except ServerUnavailable as error:
        print(f"skipped: {error}")
    except RowsDiffer as error:
        print(f"ROWS DIFFER, no figures: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
