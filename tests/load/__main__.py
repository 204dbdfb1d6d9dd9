"""`python -m tests.load [--seconds 60] [--source mysql97] [--load tpcc]`: a load for minutes, a kill -9, then equal.

For each source and each load: private servers, the service to PostgreSQL and to MariaDB, writers at full speed, the
service killed in the middle and started again, and when the writers are done, `cdc run --until-caught-up` and
`cdc verify`. Prints what was written and what was compared; the exit code is 1 where a table differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from cdc.demo.servers import Server, ServerUnavailable
from tests.load import sysbench, tpcc
from tests.support.deployment import Deployment, deployment

SOURCES = ("mysql97", "mariadb1011")
LOADS = ("sysbench", "tpcc")
SINKS = {"postgresql": "pg15", "mariadb": "mariadb1011"}
THREADS = 4
WAREHOUSES = 2
SYSBENCH_ROWS = 10_000
CATCH_UP_SECONDS = 1_800


class Writer(Protocol):
    """What writes while the service runs."""

    @property
    def counts(self) -> Mapping[str, int]: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


def _say(*words: str) -> None:
    print(*words, flush=True)  # noqa: T201 - a command


def main() -> int:
    arguments = _arguments()
    exit_code = 0
    for load in arguments.load or LOADS:
        if load == "sysbench" and not sysbench.is_there():
            _say("sysbench: SKIPPED, the program is not installed (apt-get install sysbench)")
            continue
        for source in arguments.source or SOURCES:
            try:
                exit_code |= _run(source, load, arguments.seconds, rows_max=arguments.rows_max)
            except ServerUnavailable as error:
                _say(f"{load} on {source}: SKIPPED, {error}")
    return exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long each load writes (60)")
    parser.add_argument("--source", action="append", choices=SOURCES, help="both, unless named")
    parser.add_argument("--load", action="append", choices=LOADS, help="both, unless named")
    parser.add_argument("--rows-max", type=int, help="the service's flush.rows_max")
    return parser.parse_args()


def _run(source_name: str, load: str, seconds: int, *, rows_max: int | None) -> int:
    _say(f"{load} on {source_name}, {seconds} s, {THREADS} threads")
    with ExitStack() as stack:
        source = stack.enter_context(Server.start(source_name))
        sinks = {name: stack.enter_context(Server.start(kind)) for name, kind in SINKS.items()}
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-load-")))
        made = stack.enter_context(deployment(directory, source, **sinks))
        if rows_max is not None:
            made.config["flush"] = {"rows_max": rows_max}
        tables, writer = _prepared(source, made.source_database, load, seconds)
        _write_through_a_kill(made, writer, seconds)
        return _compare(made, tables)


def _prepared(source: Server, database: str, load: str, seconds: int) -> tuple[tuple[str, ...], Writer]:
    if load == "sysbench":
        sysbench.create_tables(source, database, SYSBENCH_ROWS)
        run = sysbench.SysbenchWriter(source, database, rows=SYSBENCH_ROWS, seconds=seconds, threads=THREADS)
        return sysbench.TABLES, run
    tpcc.create_tables(source, database, WAREHOUSES)
    return tpcc.TABLES, tpcc.TpccWriter(source, database, warehouses=WAREHOUSES, threads=THREADS)


def _write_through_a_kill(made: Deployment, writer: Writer, seconds: int) -> None:
    made.start()
    began = time.monotonic()
    writer.start()
    time.sleep(seconds / 2)
    made.kill()
    made.start()
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    writer.stop()
    _say("  written:", ", ".join(f"{count:,} {name}" for name, count in sorted(writer.counts.items())))


def _compare(made: Deployment, tables: tuple[str, ...]) -> int:
    began = time.monotonic()
    made.stop(timeout=60)
    made.catch_up(timeout=CATCH_UP_SECONDS)
    _say(f"  caught up {time.monotonic() - began:.1f} s after the last commit")
    for line in made.log().splitlines():
        if '"pipeline_retrying"' in line or '"table_parked"' in line or '"pipeline_failed"' in line:
            _say(f"  {line}")
    result = made.run("verify", *[f"{made.source_database}.{table}" for table in tables], timeout=CATCH_UP_SECONDS)
    _say("\n".join(f"  {line}" for line in (result.stdout + result.stderr).strip().splitlines()))
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
