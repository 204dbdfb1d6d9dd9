"""kill -9 at every named point, under a running writer, on each sink kind: nothing is lost, nothing is doubled.

The process kills itself at the point (pipeline/hooks.py), so a test needs no luck with timing. Each point is met
twice: once early and once deeper in. `CDC_CRASH_TESTS=all` runs every point against every source; otherwise each
point runs against one source in turn, so that a run of the suite meets all of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.pipeline.hooks import CRASH_POINTS
from tests.support import wait_until
from tests.support.asking import ask_to_load, wait_until_joined
from tests.support.deployment import Deployment, deployment
from tests.support.pool import SOURCES
from tests.support.writer import TABLES, Writer, create_schema

pytestmark = pytest.mark.crash

SINKS = ("pg15", "mariadb1011", "mysql97")
# How often the point is passed before it kills: (in the first run, in the second).
_DEFAULT_COUNTS = (1, 3)
COUNTS: dict[str, tuple[int, ...]] = {
    "target_made": (1, 2),
    "after_fetch": (20, 150),
    "after_decode": (1, 4),
    "before_statement": (2, 5),
    "after_statement": (2, 5),
    "load_chunk": (1, 2),
    "load_chunk_staged": (1, 2),
    "load_chunk_committed": (1, 2),
    "load_begun": (1, 2),
    "load_done": (1, 2),
    "load_recorded": (2,),  # all of them are, by one transaction
    "schema_change": (1, 1),
    "schema_intent": (1, 1),
    "schema_altered": (1, 1),
    "schema_recorded": (1, 1),
    "after_lease": (1, 1),
    **dict.fromkeys((point for point in CRASH_POINTS if point.startswith("beside_")), (1, 1)),
}
# Once the lane has given it up, a table is loaded again where it is.
COUNTS |= {"beside_given_up": (1,), "beside_merged": (1,)}
# What happens when a table that is complete is loaded again.
_OF_RELOADS = ("beside_giving_up", "beside_given_up", "beside_merging", "beside_merged")
# Where only metadata change, which are written alike on every sink: one sink is enough, in turn.
_OF_METADATA = ("beside_giving", "beside_given", "beside_met", "beside_joining", "beside_joined")


def _cases() -> list[Any]:
    if os.environ.get("CDC_CRASH_TESTS") == "all":
        cases = [(point, source, sink) for point in CRASH_POINTS for source in SOURCES for sink in SINKS]
    else:
        kinds = ("pg15", "mariadb1011")
        cases = [
            (point, SOURCES[(number + offset) % len(SOURCES)], sink)
            for number, point in enumerate(CRASH_POINTS)
            for offset, sink in enumerate(kinds)
        ]
    # What it needs foreign keys for is in tests/integration/test_hidden_cascades.py.
    cases = [case for case in cases if case[0] != "before_cascade"]
    # PostgreSQL needs no intent: its DDL is part of the transaction.
    cases = [case for case in cases if (case[0], case[2]) != ("schema_intent", "pg15")]
    in_turn = {point: SINKS[number % 2] for number, point in enumerate(_OF_METADATA)}
    return [
        pytest.param(*case, marks=pytest.mark.full) if in_turn.get(case[0], case[2]) != case[2] else case
        for case in cases
    ]


@pytest.mark.parametrize("point,source_name,sink_name", _cases())
def test_kill_at(point: str, source_name: str, sink_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source: Server = request.getfixturevalue(source_name)
    sink: Server = request.getfixturevalue(sink_name)
    with deployment(tmp_path, source, sink=sink) as made:
        made.config["snapshot"] = {"chunk_rows": 70}
        if point.startswith("beside_"):
            made.config["snapshot"]["beside_rows_min"] = 0  # whatever it is
        made.config["flush"] = {"rows_max": 60, "age_ms_max": 20}
        if point == "load_chunk_staged":
            made.config["staging"] = {"dir": str(tmp_path / "staging")}
        create_schema(source, made.source_database, rows=150)
        with Writer(source, made.source_database, seed=len(point)) as writer:
            for count in COUNTS.get(point, _DEFAULT_COUNTS):
                _run_into(made, f"{point}:{count}", writer)
        made.catch_up()
        made.assert_equal(*TABLES)


def _states(made: Deployment) -> set[str]:
    return {table["state"] for table in made.status()["tables"]}


def _run_into(made: Deployment, crash_at: str, writer: Writer) -> None:
    """Start the service and wait until it has killed itself at the point."""
    process = made.start(crash_at=crash_at)
    if crash_at.startswith("schema_"):
        # A DDL from before a table's load is in the load: it takes one on a table that is followed.
        wait_until(lambda: _states(made) == {"ready"}, 120, "every table to be ready")
        seen = writer.count
        wait_until(lambda: writer.count > seen + 5, 120, "transactions before the DDL")
        statement = f"ALTER TABLE accounts MODIFY note VARCHAR({100 + seen}) NULL"
        made.source.execute(statement, database=made.source_database)
    if crash_at.partition(":")[0] in _OF_RELOADS:
        wait_until_joined(made, *TABLES)
        if process.poll() is None:
            ask_to_load(made, "items")
    made.wait_until_killed()
