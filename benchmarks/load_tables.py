"""What a row costs in many small tables, against the same rows in one: the first load of 1, 100 and 1 000 tables.

    python -m benchmarks.load_tables                                       200 000 rows, MySQL to PostgreSQL
    python -m benchmarks.load_tables --source mariadb118 --sink mariadb1011 --rows 1000000 --tables 1 100 1000

Each arm is the whole of `cdc run --until-caught-up` into an empty sink, rounds in turn; what an arm takes with one
empty table is measured too (`no table`), and taken off. Rows are compared (count and hash sum over all tables, by the
servers' own SQL) before a figure is printed. Source and sink are private and durable.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.decode import RowsDiffer
from benchmarks.deployment import Fingerprint, durable_sink, durable_source, fingerprint, settings_line
from benchmarks.load_run import LoadRun, configuration, run_load
from benchmarks.logs import ORDERS, Table
from cdc.demo.servers import Server

__all__ = ["clear_sink", "fill_orders", "main"]

_SINK_DATABASE = "bench"
_BLOCK_ROWS = 100_000
_EMPTY = 0
_RATIO_MAX = 1.5
_PEAK_BYTES_MAX = 256 << 20


def _database(count: int) -> str:
    return f"tables_{count}"


def _tables(count: int) -> list[Table]:
    return [replace(ORDERS, name=f"t{number:05}") for number in range(count)]


@dataclass(slots=True)
class Arm:
    """One number of tables."""

    count: int
    runs: list[LoadRun] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of the median run."""
        return median(run.seconds for run in self.runs)

    @property
    def cpu_seconds(self) -> float:
        """Likewise."""
        return median(run.cpu_seconds for run in self.runs)

    @property
    def peak_bytes(self) -> int:
        """Of the largest."""
        return max(run.peak_bytes for run in self.runs)


# ---------------------------------------------------------------- the source


def fill_orders(source: Server, database: str, rows: int) -> Fingerprint:
    """One table with so many rows, in a database of its own."""
    source.execute(f"CREATE DATABASE {database}")
    source.execute(ORDERS.create, database=database)
    ten = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    numbers = ", ".join(f"({ten}) AS t{power}" for power in range(5))
    seq = " + ".join(f"t{power}.d * {10**power}" for power in range(5))
    for start in range(0, rows, _BLOCK_ROWS):
        source.execute(
            f"INSERT INTO {ORDERS.name} SELECT {ORDERS.row} FROM "
            f"(SELECT {start + 1} + {seq} AS seq FROM {numbers}) AS numbers WHERE seq <= {rows} ORDER BY seq",
            database=database,
        )
    source.execute(f"ANALYZE TABLE {ORDERS.name}", database=database)
    return fingerprint(source, database, ORDERS)


def _fill(source: Server, counts: Sequence[int], rows: int) -> Fingerprint:
    """Every database with the same rows; what all of them add up to."""
    source.execute(f"CREATE DATABASE {_database(_EMPTY)}")
    # A configuration that captures nothing is refused.
    source.execute("CREATE TABLE nothing (id INT PRIMARY KEY)", database=_database(_EMPTY))
    whole = fill_orders(source, "whole", rows)
    for count in counts:
        source.execute(f"CREATE DATABASE {_database(count)}")
        for number, table in enumerate(_tables(count)):
            source.execute(table.create, database=_database(count))
            first, last = rows * number // count, rows * (number + 1) // count
            source.execute(
                f"INSERT INTO {table.name} SELECT * FROM whole.{ORDERS.name} WHERE id > {first} AND id <= {last}",
                database=_database(count),
            )
    return whole


# ---------------------------------------------------------------- the sink


def clear_sink(sink: Server, namespaces: Sequence[str]) -> None:
    """As if nothing had ever been loaded."""
    if sink.family == "postgresql":
        for schema in ("_cdc", *namespaces):
            tables = sink.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,), database=_SINK_DATABASE
            )
            # One by one: a thousand tables in one transaction are more locks than the server has room for.
            for (table,) in tables:
                sink.execute(f'DROP TABLE "{schema}"."{table}" CASCADE', database=_SINK_DATABASE)
            sink.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE', database=_SINK_DATABASE)
        sink.execute("CHECKPOINT")
        return
    sink.execute(f"DROP DATABASE IF EXISTS {_SINK_DATABASE}")
    sink.execute(f"CREATE DATABASE {_SINK_DATABASE}")


def _check(sink: Server, count: int, expected: Fingerprint) -> None:
    rows = hash_sum = 0
    for table in _tables(count):
        found = fingerprint(sink, _SINK_DATABASE, table, namespace=_database(count))
        rows, hash_sum = rows + found.rows, hash_sum + found.hash_sum
    if count and (rows, hash_sum) != (expected.rows, expected.hash_sum):
        raise RowsDiffer(f"{count} tables: {rows} rows, hash {hash_sum:x}; expected {expected}")


# ---------------------------------------------------------------- the whole


def _measure(chosen: argparse.Namespace) -> list[Arm]:
    arms = [Arm(count) for count in (_EMPTY, *chosen.tables)]
    with (
        durable_source(chosen.source) as source,
        durable_sink(chosen.sink) as sink,
        tempfile.TemporaryDirectory() as place,
    ):
        expected = _fill(source, chosen.tables, chosen.rows)
        print(f"{chosen.source} ({settings_line(source)}), {expected}\n{chosen.sink} ({settings_line(sink)})")
        for _ in range(chosen.rounds):
            for arm in arms:
                clear_sink(sink, [_database(other.count) for other in arms])
                directory = Path(place)
                config = configuration(
                    source,
                    sink.url_for(_SINK_DATABASE),
                    tables=[f"{_database(arm.count)}.*"],
                    directory=directory,
                    snapshot={"workers": chosen.workers},
                )
                arm.runs.append(run_load(config, directory, f"{arm.count} tables"))
                _check(sink, arm.count, expected)
    return arms


def _print(arms: Sequence[Arm], rows: int) -> bool:
    """True when every limit is kept."""
    empty, one, *others = arms
    is_good = True
    base = one.seconds - empty.seconds
    print(f"  no table        {empty.seconds:8.2f} s, {empty.cpu_seconds:6.2f} CPU s; taken off below")
    for arm in (one, *others):
        seconds = arm.seconds - empty.seconds
        ratio, peak = seconds / base, arm.peak_bytes
        is_good = is_good and ratio <= _RATIO_MAX and peak <= _PEAK_BYTES_MAX
        spread = f"{min(run.seconds for run in arm.runs):.2f}-{max(run.seconds for run in arm.runs):.2f} s in all"
        print(
            f"  {arm.count:5} tables    {seconds:8.2f} s, {arm.cpu_seconds - empty.cpu_seconds:6.2f} CPU s, "
            f"{1e6 * seconds / rows:8.2f} us a row, {ratio:5.2f} x {one.count} table's, "
            f"{1000 * (seconds - base) / arm.count:6.2f} ms a table more, peak {peak / (1 << 20):.0f} MiB; {spread}"
        )
    return is_good


def main(arguments: Sequence[str]) -> int:
    """The command line. 1 when rows differ, 3 when a limit is not kept."""
    parser = argparse.ArgumentParser(prog="benchmarks.load_tables", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", default="mysql97", help="mysql97, mariadb1011, mariadb118")
    parser.add_argument("--sink", default="pg15", help="pg15, pg17, mariadb1011, mariadb118, mysql97")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--tables", nargs="+", type=int, default=[1, 100, 1000], help="the first is compared with")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        arms = _measure(chosen)
    except (RowsDiffer, subprocess.SubprocessError) as error:
        print(f"benchmarks.load_tables: {error}", file=sys.stderr)
        return 1
    is_good = _print(arms, chosen.rows)
    if chosen.results is not None:
        found = {arm.count: [(run.seconds, run.cpu_seconds, run.peak_bytes) for run in arm.runs] for arm in arms}
        chosen.results.write_text(json.dumps({"rows": chosen.rows, "runs": found}, indent=1))
    return 0 if is_good else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
