"""What is said of reloads beside the stream that fail, and what becomes of what was asked for meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.asking import ask_to_load, asked
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until


@pytest.fixture
def made(tmp_path: Path, mariadb118: Server, pg17: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mariadb118, sink=pg17) as one:
        one.config["snapshot"] = {"beside": 1, "beside_rows_min": 0}
        _table(one, "a")
        yield one


def _table(one: Deployment, name: str, rows: int = 50) -> None:
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, v INT NOT NULL, s VARCHAR(400) NULL)")
        cursor.executemany(f"INSERT INTO {name} VALUES (%s, %s, 'row')", [(n, n) for n in range(rows)])
        connection.commit()


@contextlib.contextmanager
def _held(one: Deployment, *names: str) -> Iterator[None]:
    """Nobody can read the tables at the source: a load of them waits."""
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES " + ", ".join(f"{name} WRITE" for name in names))
        yield
        cursor.execute("UNLOCK TABLES")


def _states(one: Deployment) -> dict[str, str]:
    return {table["table"].partition(".")[2]: table["state"] for table in one.status()["tables"]}


def _until_ready(one: Deployment, *names: str) -> None:
    wait_until(lambda: all(_states(one).get(name) == "ready" for name in names), 120, lambda: str(_states(one)))


def test_a_reload_that_failed_is_no_table_that_was_loaded(made: Deployment) -> None:
    made.config["policies"] = {"ddl": "log"}
    made.start()
    made.wait_for_log("side_joined")
    with ThreadPoolExecutor(1) as pool:
        with contextlib.ExitStack() as stack:
            cursor = stack.enter_context(contextlib.closing(made.source.connect(made.source_database))).cursor()
            cursor.execute("LOCK TABLES a WRITE")
            loading = pool.submit(made.run, "snapshot", f"{made.source_database}.a")
            made.wait_for_log("snapshot_begun", count=2)
            cursor.execute("ALTER TABLE a ADD COLUMN c INT NOT NULL DEFAULT 5")
            cursor.execute("UNLOCK TABLES")
        result = loading.result()
    assert result.returncode == 1, result.stdout
    assert f"cdc: sink: {made.source_database}.a: " in result.stderr
    assert "loaded" not in result.stdout


def test_a_reload_that_failed_before_a_kill_has_failed(made: Deployment) -> None:
    made.config["policies"] = {"ddl": "log"}
    made.start()
    made.wait_for_log("side_joined")  # one that goes on with its first load would be no reload
    made.stop()
    process = made.start(crash_at="beside_given_up")
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES a WRITE")
        ask_to_load(made, "a")
        made.wait_for_log("snapshot_begun", count=2)
        cursor.execute("ALTER TABLE a ADD COLUMN c INT NOT NULL DEFAULT 5")
        cursor.execute("UNLOCK TABLES")
    process.wait(120)
    made.catch_up()
    assert [state for state, _ in asked(made)] == ["failed"]
    assert asked(made)[0][1].startswith(f"{made.source_database}.a: ")


def test_a_reload_that_a_start_throws_away_has_failed(made: Deployment) -> None:
    made.start()
    made.wait_for_log("side_joined")
    with _held(made, "a"):
        ask_to_load(made, "a")
        made.wait_for_log("snapshot_begun", count=2)
        wait_until(lambda: asked(made) == [("running", "loading")], 60, lambda: str(asked(made)))
        made.kill()
    made.config["snapshot"] = {"beside": 0}
    made.catch_up()
    assert [state for state, _ in asked(made)] == ["failed"], asked(made)
    assert "given up at a start" in asked(made)[0][1]
    made.assert_equal("a")


def test_a_table_whose_target_another_one_wants_is_loaded_again_in_the_stream(made: Deployment) -> None:
    made.catch_up()
    _table(made, "b")
    made.config["tables"]["routes"] = [{"tables": f"{made.source_database}.b", "target_table": "a"}]
    made.start()
    wait_until(lambda: _states(made).get("b") == "parked", 60, lambda: str(_states(made)))
    made.source.execute("DELETE FROM a WHERE id < 10", database=made.source_database)
    ask_to_load(made, "a")
    wait_until(lambda: asked(made) == [("done", "")], 60, lambda: str(asked(made)))
    assert '"table_loaded"' in made.log()


# The commit of the first merge is done, and its answer lost.
_UNANSWERED = """
from cdc.cli import main
from cdc.errors import SinkUnavailable
from cdc.pipeline.merging import ShadowMerge
write, lost = ShadowMerge._write, []
def unanswered(self, *args):
    write(self, *args)
    if not lost:
        lost.append(1)
        raise SinkUnavailable("no answer")
ShadowMerge._write = unanswered
main()
"""


def test_a_merge_whose_commit_was_not_answered_is_done(made: Deployment) -> None:
    made.catch_up()
    command = made.command
    made.command = lambda *words: [sys.executable, "-c", _UNANSWERED, *command(*words)[3:]]  # type: ignore[method-assign]
    result = made.run("snapshot", f"{made.source_database}.a")
    assert "no answer" in result.stderr
    assert result.returncode == 0, result.stderr
    assert "table_routed_elsewhere" not in result.stderr
    made.command = command  # type: ignore[method-assign]
    made.catch_up()
    made.assert_equal("a")


@pytest.mark.full
def test_a_restart_with_lanes_by_number_goes_on_with_a_side(made: Deployment) -> None:
    made.config["sinks"][0]["lanes"] = 2
    _table(made, "b")
    made.catch_up()
    for name in "cdef":
        _table(made, name)
    with _held(made, "c", "d"):
        made.start()
        made.wait_for_log("side_begun")
        made.wait_for_log("snapshot_begun")
        made.kill()
    for name in "ce":  # they are the heaviest now: dealt by weight, they would go to two lanes
        rows = ", ".join(f"({n}, 0, REPEAT('x', 390))" for n in range(1000, 4000))
        made.source.execute(f"INSERT INTO {name} VALUES {rows}", database=made.source_database)
        made.source.execute(f"ANALYZE TABLE {name}", database=made.source_database)
    made.start()
    made.wait_for_log("side_resumed")
    _until_ready(made, *"abcdef")
    assert "side_dissolved" not in made.log()
    assert made.stop() == 0
    made.catch_up()
    made.assert_equal(*"abcdef")
