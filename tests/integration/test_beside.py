"""Tables are loaded beside the live stream: the sink's others stay current, and what was loaded joins without a gap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ask_to_load, asked
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until

CASES = [("mysql97", "pg17"), ("mariadb118", "mariadb1011")]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    source, sink = (request.getfixturevalue(name) for name in request.param)
    with deployment(tmp_path, source, sink=sink) as one:
        _table(one, "a")
        yield one


def _table(one: Deployment, name: str, rows: int = 300) -> None:
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, v INT NOT NULL, s VARCHAR(40) NULL)")
        cursor.executemany(f"INSERT INTO {name} VALUES (%s, %s, %s)", [(n, n, f"row {n}") for n in range(rows)])
        connection.commit()


@contextlib.contextmanager
def _held(one: Deployment, name: str) -> Iterator[Any]:
    """Nobody can read the table at the source: a load of it waits."""
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {name} WRITE")
        yield cursor
        cursor.execute("UNLOCK TABLES")


def _change(one: Deployment, sql: str) -> None:
    one.source.execute(sql, database=one.source_database)


def _value(one: Deployment, name: str, row: int) -> Any:
    with contextlib.suppress(Exception):  # the table may not be there yet
        return next((values[1] for values in one.sink_rows("sink", name) if values[0] == row), None)
    return None


def _states(one: Deployment) -> dict[str, str]:
    return {table["table"].partition(".")[2]: table["state"] for table in one.status()["tables"]}


def _wait_until_ready(one: Deployment, *names: str) -> None:
    wait_until(lambda: all(_states(one).get(name) == "ready" for name in names), 120, lambda: str(_states(one)))


def _ends_equal(one: Deployment, *names: str) -> None:
    assert one.stop() == 0, one.log()[-3000:]
    one.catch_up()
    one.assert_equal(*names)


def test_other_tables_stay_current_while_a_new_one_is_loaded(made: Deployment) -> None:
    made.start()
    _wait_until_ready(made, "a")
    _table(made, "b")
    with _held(made, "b") as cursor:
        # Under the lock, so that the load, whenever it comes, waits; the row comes by whichever of the two has it.
        cursor.execute("UPDATE b SET v = -1 WHERE id = 7")
        wait_until(lambda: _states(made).get("b") in ("pending", "snapshotting"), 60, lambda: str(_states(made)))
        _change(made, "UPDATE a SET v = 4711 WHERE id = 1")
        wait_until(lambda: _value(made, "a", 1) == 4711, 60, "a change of another table")
        assert _states(made)["b"] in ("pending", "snapshotting")
    _wait_until_ready(made, "a", "b")
    _change(made, "UPDATE b SET v = 4712 WHERE id = 2")
    wait_until(lambda: _value(made, "b", 2) == 4712, 60, "a change of the new table")
    _ends_equal(made, "a", "b")


def test_a_first_load_that_is_held_holds_only_its_group(made: Deployment) -> None:
    _table(made, "b")
    with _held(made, "b"):
        made.start()
        _wait_until_ready(made, "a")
        _change(made, "UPDATE a SET v = 4711 WHERE id = 1")
        wait_until(lambda: _value(made, "a", 1) == 4711, 60, "a change of another table")
        assert _states(made)["b"] in ("pending", "snapshotting")
    _wait_until_ready(made, "b")
    _ends_equal(made, "a", "b")


def test_a_reload_shows_the_old_rows_until_it_shows_the_new_ones_and_removes_what_was_deleted(made: Deployment) -> None:
    _table(made, "b")
    made.start()
    _wait_until_ready(made, "a", "b")
    with _held(made, "b") as cursor:
        ask_to_load(made, "b")
        made.wait_for_log("side_begun", count=2)
        cursor.execute("DELETE FROM b WHERE id < 100")
        _change(made, "UPDATE a SET v = 4711 WHERE id = 1")
        wait_until(lambda: _value(made, "a", 1) == 4711, 60, "a change of another table")
        assert len(made.sink_rows("sink", "b")) in (200, 300)
    made.wait_for_log("shadow_merged")
    made.wait_for_log("side_joined", count=2)
    assert len(made.sink_rows("sink", "b")) == 200
    wait_until(lambda: asked(made) == [("done", "")], 60, lambda: str(asked(made)))
    assert _shadows(made) == []
    _ends_equal(made, "a", "b")


def _shadows(one: Deployment) -> list[Any]:
    server, database = one.sinks["sink"]
    return list(
        server.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '\\_cdc\\_beside%' "
            f"AND table_schema = '{database if server.family != 'postgresql' and database else one.source_database}'",
            database=database,
        )
    )
