"""`cdc snapshot` without names: what is on its way goes on, what is parked is tried again, nothing is replaced."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until

ROWS = 500
CHUNK_ROWS = 50
CHUNKS = ROWS // CHUNK_ROWS + 1  # the last one is open, and empty


@pytest.fixture
def made(tmp_path: Path, mariadb118: Server, pg17: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mariadb118, sink=pg17) as one:
        one.config["snapshot"] = {"chunk_rows": CHUNK_ROWS, "workers": 1}
        database = one.source_database
        mariadb118.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL, d DATE NULL)", database=database)
        mariadb118.execute(f"INSERT INTO t SELECT seq, seq, NULL FROM seq_1_to_{ROWS}", database=database)
        yield one


def _events(one: Deployment, event: str) -> int:
    return one.log().count(f'"event": "{event}"')


def _commands(one: Deployment) -> list[tuple[str, str]]:
    server, database = one.sinks["sink"]
    return list(server.execute("SELECT name, state FROM _cdc.commands ORDER BY id", database=database))


@pytest.mark.parametrize("names", [("t",), ()])
@pytest.mark.parametrize("then", [("snapshot",), ("run", "--until-caught-up")])
def test_one_that_was_killed_is_carried_out_from_where_it_was(
    made: Deployment, names: tuple[str, ...], then: tuple[str, ...]
) -> None:
    """Each run is killed at its seventh chunk: two are enough for eleven only where those of the first count."""
    at = f"load_chunk_committed:{CHUNKS // 2 + 2}"
    killed = made.run("snapshot", *(f"{made.source_database}.{name}" for name in names), crash_at=at)
    assert killed.returncode == -signal.SIGKILL
    made.source.execute("UPDATE t SET v = v + 1000 WHERE id % 7 = 0", database=made.source_database)
    result = made.run(*then, crash_at=at)
    assert result.returncode == 0, result.stderr
    assert then == ("run", "--until-caught-up") or f"t loaded, {ROWS} rows" in result.stdout
    made.assert_equal("t")
    assert {state for _, state in _commands(made)} == {"done"}


def test_one_that_could_not_begin_says_that_the_next_run_carries_it_out(made: Deployment) -> None:
    made.catch_up()
    url = made.config["source"]["url"]
    made.config["source"]["url"] = url.replace(str(made.source.port), "1")
    result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 1
    assert "the next `cdc run` loads them" in result.stderr
    assert _commands(made) == [("snapshot", "queued")]
    made.config["source"]["url"] = url
    made.catch_up()
    assert _commands(made) == [("snapshot", "done")]


def test_a_sink_that_is_away_does_not_keep_the_others_from_it(made: Deployment) -> None:
    made.catch_up()
    made.config["sinks"].insert(0, {"name": "away", "url": "postgresql://nobody@127.0.0.1:1/nothing"})
    result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 1
    assert f"sink: {made.source_database}.t loaded, {ROWS} rows\n" in result.stdout
    assert "away" in result.stderr


def test_beside_a_service_that_loads_it_waits_for_that_load(made: Deployment) -> None:
    made.start(crash_at="load_chunk_committed:3")
    made.wait_until_killed()
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES t WRITE")
        made.start()
        made.wait_for_log("snapshot_begun", count=2)
        with subprocess.Popen(
            made.command("snapshot"),
            cwd=made.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            try:
                wait_until(lambda: _commands(made), 60, "the command")
                assert command.poll() is None
                cursor.execute("UNLOCK TABLES")
                said, problem = command.communicate(timeout=60)
            finally:
                command.kill()
    assert command.returncode == 0, problem
    assert f"t loaded, {ROWS} rows" in said
    assert (_events(made, "load_resumed"), _events(made, "table_loaded")) == (1, 1)
    assert made.stop() == 0
    made.assert_equal("t")


def test_rows_of_somebody_else_are_replaced_where_their_table_is_named_alone(made: Deployment) -> None:
    server, database = made.sinks["sink"]
    target = f'"{made.source_database}"'
    server.execute(f"CREATE SCHEMA {target}", database=database)
    server.execute(f"CREATE TABLE {target}.t (id integer PRIMARY KEY, v integer NOT NULL, d date)", database=database)
    server.execute(f"INSERT INTO {target}.t VALUES (1, -1, NULL)", database=database)
    assert made.run("run", "--until-caught-up").returncode == 1
    result = made.run("snapshot")
    assert result.returncode == 1
    assert "holds rows that this deployment did not write" in result.stderr
    assert made.sink_rows("sink", "t") == [(1, -1, None)]
    result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t")
    assert _commands(made) == [("retry", "failed"), ("snapshot", "done")]


def test_the_rows_of_a_load_that_parked_its_table_are_not_somebody_elses(made: Deployment) -> None:
    made.config["policies"] = {"zero_dates": "error"}
    made.source.execute(f"UPDATE t SET d = '0000-00-00' WHERE id = {ROWS - 1}", database=made.source_database)
    assert made.run("run", "--until-caught-up").returncode == 1
    assert len(made.sink_rows("sink", "t")) >= CHUNK_ROWS, "the load was not in its middle"
    made.source.execute("UPDATE t SET d = '2024-02-29' WHERE d IS NOT NULL", database=made.source_database)
    result = made.run("snapshot")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t")


def test_a_definition_that_was_worked_out_is_read_anew_by_a_load(made: Deployment) -> None:
    """It needs no more comparing with the source's."""
    server, database = made.sinks["sink"]
    worked_out = "SELECT count(*) FROM _cdc.tables WHERE key_columns LIKE '%worked out%'"
    made.catch_up()
    made.start(crash_at="schema_recorded:1")
    made.source.execute("ALTER TABLE t ADD COLUMN c INT NULL", database=made.source_database)
    made.wait_until_killed()
    assert server.execute(worked_out, database=database) == [(1,)]
    assert made.run("snapshot", f"{made.source_database}.t").returncode == 0
    assert server.execute(worked_out, database=database) == [(0,)]
    made.assert_equal("t")
