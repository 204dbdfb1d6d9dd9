"""Which loads are beside the stream, as the service is by default but for the size of a table that is small."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ask_to_load, asked, wait_until_joined
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until

CASES = [("mysql97", "pg17"), ("mariadb118", "mariadb1011")]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    source, sink = (request.getfixturevalue(name) for name in request.param)
    with deployment(tmp_path, source, sink=sink) as one:
        one.config["snapshot"] = {"beside_rows_min": 100}
        yield one


def _table(one: Deployment, name: str, rows: int) -> None:
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, v INT NOT NULL)")
        cursor.executemany(f"INSERT INTO {name} VALUES (%s, %s)", [(n, n) for n in range(rows)])
        connection.commit()


@contextlib.contextmanager
def _held(one: Deployment, *names: str) -> Iterator[Any]:
    """Nobody can read the tables at the source."""
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES " + ", ".join(f"{name} WRITE" for name in names))
        yield cursor
        cursor.execute("UNLOCK TABLES")


def _tables_of_sides(one: Deployment) -> list[str]:
    lines = [json.loads(line) for line in one.log().splitlines() if '"side_begun"' in line]
    return sorted(name.partition(".")[2] for line in lines for name in line["tables"])


def _states(one: Deployment) -> dict[str, str]:
    return {table["table"].partition(".")[2]: table["state"] for table in one.status()["tables"]}


def _has_change(one: Deployment, name: str, value: int) -> bool:
    with contextlib.suppress(Exception):  # the table may not be there yet
        return (1, value) in one.sink_rows("sink", name)
    return False


def _ends_equal(one: Deployment, *names: str) -> None:
    assert one.stop() == 0, one.log()[-3000:]
    one.catch_up()
    one.assert_equal(*names)


def test_a_large_table_loads_beside_and_others_in_the_stream(made: Deployment) -> None:
    """A first start has no sides, whatever the size; then only what is large does."""
    _table(made, "a", 300)
    made.start()
    wait_until_joined(made, "a")
    assert made.stop() == 0
    for name, rows in (("small", 50), ("large", 300)):
        _table(made, name, rows)
    with _held(made, "large"):
        made.start()
        made.source.execute("UPDATE a SET v = 4711 WHERE id = 1", database=made.source_database)
        wait_until(lambda: _has_change(made, "a", 4711), 120, "a change of another table")
        wait_until(lambda: _states(made).get("small") == "ready", 120, lambda: str(_states(made)))
        assert _states(made)["large"] in ("pending", "snapshotting")
    wait_until_joined(made, "a", "small", "large")
    assert _tables_of_sides(made) == ["large"]
    for name in ("small", "large"):
        ask_to_load(made, name)
    wait_until(lambda: [state for state, _ in asked(made)] == ["done", "done"], 120, lambda: str(asked(made)))
    assert _tables_of_sides(made) == ["large", "large"]
    _ends_equal(made, "a", "small", "large")


def test_a_small_table_that_somebody_holds_holds_up_nothing(made: Deployment) -> None:
    _table(made, "a", 50)
    made.catch_up()
    _table(made, "b", 50)
    with _held(made, "b"):
        made.start()
        made.source.execute("UPDATE a SET v = 4711 WHERE id = 1", database=made.source_database)
        wait_until(lambda: _has_change(made, "a", 4711), 120, "a change of another table")
        assert _states(made)["b"] in ("pending", "snapshotting")
    wait_until_joined(made, "a", "b")
    assert _tables_of_sides(made) == ["b"]
    _ends_equal(made, "a", "b")


@pytest.mark.any_server
def test_a_load_that_was_cut_off_in_the_stream_goes_on_there(made: Deployment) -> None:
    """Though the other table is loaded by then, and has changes to come to."""
    made.config["snapshot"] |= {"chunk_rows": 70}
    made.config["staging"] = {"dir": str(made.directory / "staging")}  # each by itself
    for name in ("a", "b"):
        _table(made, name, 300)
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.a", "priority": 1}]
    made.start(crash_at="load_chunk_committed:7")
    assert made.process is not None
    made.process.wait(120)
    assert sorted(_states(made).values()) == ["snapshotting", "snapshotting"]
    made.start()
    wait_until_joined(made, "a", "b")
    assert '"load_resumed"' in made.log()
    assert _tables_of_sides(made) == []
    _ends_equal(made, "a", "b")


@pytest.mark.any_server
def test_without_ids_for_sides_tables_load_in_the_stream(made: Deployment) -> None:
    made.config["source"]["server_id_count"] = 2  # one of them is `cdc tail`'s
    _table(made, "a", 300)
    made.catch_up()
    _table(made, "b", 300)
    made.start()
    made.wait_for_log("sides_lack_server_ids")
    wait_until_joined(made, "a", "b")
    assert _tables_of_sides(made) == []
    _ends_equal(made, "a", "b")
