"""kill -9 at every named point of the data path, in tables that keep what was: no version is lost, none is doubled.

The judge is the model of the same changes (tests/support/story.py): an append-only table has each change once and in
order, whatever was applied again; a history its versions.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.integration.test_table_modes import MODES, SINKS, Kept, _row
from tests.support import wait_until
from tests.support.deployment import deployment
from tests.support.pool import SOURCES

pytestmark = pytest.mark.crash

POINTS = ("after_decode", "before_statement", "after_statement", "before_checkpoint", "before_commit", "after_commit")
LOAD_POINTS = ("load_begun", "load_chunk", "load_done", "load_recorded")


def _sources(points: tuple[str, ...]) -> list[tuple[str, str]]:
    if os.environ.get("CDC_CRASH_TESTS") == "all":
        return [(point, source) for point in points for source in SOURCES]
    return [(point, SOURCES[number % len(SOURCES)]) for number, point in enumerate(points)]


@pytest.mark.parametrize("point,source_name", _sources(POINTS))
def test_kill_in_the_stream(
    point: str, source_name: str, tmp_path: Path, pg15: Server, mariadb1011: Server, request: pytest.FixtureRequest
) -> None:
    source: Server = request.getfixturevalue(source_name)
    with deployment(tmp_path, source, pg=pg15, maria=mariadb1011) as made:
        kept = Kept(made, seed=len(point))
        kept.story.create(rows=20)
        made.config["flush"] = {"rows_max": 40, "age_ms_max": 20}
        made.catch_up()
        for count in (2, 5, 9):
            process = made.start(crash_at=f"{point}:{count}")
            while process.poll() is None:
                kept.story.tell(3)
            made.wait_until_killed()
        made.catch_up()
        kept.judge(loaded=20)


@pytest.mark.parametrize("point,source_name", _sources(LOAD_POINTS))
def test_kill_in_a_reload(
    point: str, source_name: str, tmp_path: Path, pg15: Server, mariadb1011: Server, request: pytest.FixtureRequest
) -> None:
    """A load that begins again leaves what was kept, and is there once."""
    source: Server = request.getfixturevalue(source_name)
    with deployment(tmp_path, source, pg=pg15, maria=mariadb1011) as made:
        kept = Kept(made, seed=len(point))
        kept.story.create(rows=20)
        made.catch_up()
        kept.story.tell(30)
        made.catch_up()
        before = {sink: kept.rows(sink, "past", "*", "a, b, _cdc_sequence") for sink in SINKS}
        tables = [f"{made.source_database}.{name}" for name in MODES]
        killed = made.run("snapshot", *tables, crash_at=f"{point}:2")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        made.start()
        wait_until(lambda: {t["state"] for t in made.status()["tables"]} == {"ready"}, 60, "the tables to be loaded")
        made.stop()
        assert {sink: kept.rows(sink, "past", "*", "a, b, _cdc_sequence") for sink in SINKS} == before
        changes = 20 + len(kept.story.changes)
        for sink in SINKS:
            kept._judge_soft(sink)
            log = kept.rows(sink, "log", "_cdc_operation, a, b, v, note, amount", "_cdc_sequence")[changes:]
            loads = [index for index, row in enumerate(log) if row[0] == "reload"]
            assert loads, log
            expected = sorted((_row(row) for row in kept.story.rows.values()), key=repr)
            for start, end in zip(loads, [*loads[1:], len(log)], strict=True):
                assert [row[0] for row in log[start:end]] == ["reload"] + ["load"] * len(expected)
                assert sorted((_row(row[1:]) for row in log[start + 1 : end]), key=repr) == expected
