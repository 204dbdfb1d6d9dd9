"""Tables are loaded beside the live stream: the sink's others stay current, and what was loaded joins without a gap."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.asking import ask_to_load, asked, wait_until_joined
from tests.support.beside import Beside
from tests.support.deployment import Deployment
from tests.support.deployment import deployment as plain_deployment
from tests.support.waiting import wait_until

CASES = [("mysql97", "pg17"), ("mariadb118", "mariadb1011")]


@contextlib.contextmanager
def deployment(directory: Path, source: Server, **sinks: Server) -> Iterator[Deployment]:
    """One that loads whatever it is beside its streams, at a first start, too."""
    with plain_deployment(directory, source, **sinks) as made:
        made.config["snapshot"] = {"beside": 2, "beside_rows_min": 0}
        yield made


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    source, sink = (request.getfixturevalue(name) for name in request.param)
    with _deployment(tmp_path, source, sink) as one:
        _table(one, "a")
        yield one


@contextlib.contextmanager
def _deployment(tmp_path: Path, source: Server, sink: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, source, sink=sink) as one:
        one.config["snapshot"] = {"beside": 2, "beside_rows_min": 0}
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
    made.catch_up()
    _table(made, "b")  # while nobody follows: else its CREATE and its rows come by the stream
    with _held(made, "b") as cursor:
        made.start()
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
    wait_until_joined(made, "a", "b")
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


def _lane_file(made: Deployment) -> str:
    """Where the lane itself is: the status shows that of whichever is furthest behind, sides among them."""
    rows = Beside(made).execute("SELECT position FROM _cdc_checkpoint WHERE pipeline NOT LIKE '%~%'")
    return str(json.loads(rows[0][0])["file"])


def test_a_log_that_was_rotated_while_nobody_writes_keeps_no_side_from_its_lane(
    tmp_path: Path, mariadb118: Server, mariadb1011: Server
) -> None:
    """The lane has been told of the new file; the side's dump begins there, and nothing tells it that it has."""
    with _deployment(tmp_path, mariadb118, mariadb1011) as made:
        _table(made, "a")
        made.start()
        wait_until_joined(made, "a")
        with _held(made, "a"):
            ask_to_load(made, "a")
            made.wait_for_log("snapshot_begun", count=2)
            before = _lane_file(made)

            def is_rotated() -> bool:
                # A dump that begins behind a rotation is not told of it either: perhaps the lane's was only beginning.
                if _lane_file(made) != before:
                    return True
                made.source.execute("FLUSH BINARY LOGS")
                return False

            wait_until(is_rotated, 60, "the lane in another file", poll_seconds=1)
        made.wait_for_log("side_joined", count=2)
        wait_until(lambda: asked(made) == [("done", "")], 60, lambda: str(asked(made)))
        _ends_equal(made, "a")


def test_what_a_side_has_parked_is_tried_again_before_it_has_joined(made: Deployment) -> None:
    made.config["snapshot"] = {"beside": 1, "beside_rows_min": 0}
    made.catch_up()
    sink = Beside(made)
    sink.execute(f"CREATE TABLE {sink.table('b')} (id INT PRIMARY KEY, v INT, s VARCHAR(40))")
    sink.execute(f"INSERT INTO {sink.table('b')} VALUES (1, 1, 'not ours')")
    _table(made, "b")
    _table(made, "c")
    with ThreadPoolExecutor(1) as pool:
        with _held(made, "c"):
            made.start()
            wait_until(lambda: _states(made).get("b") == "parked", 60, lambda: str(_states(made)))
            sink.execute(f"DROP TABLE {sink.table('b')}")
            trying = pool.submit(made.run, "snapshot")
            wait_until(lambda: trying.done() or ("running", "loading") in asked(made), 60, lambda: str(asked(made)))
        result = trying.result()
    assert result.returncode == 0, result.stderr
    assert "b loaded, 300 rows" in result.stdout
    _ends_equal(made, "a", "b", "c")


def test_a_target_that_lacks_a_column_by_the_operators_word_lacks_it_after_a_reload(
    tmp_path: Path, mariadb118: Server, pg17: Server
) -> None:
    with _deployment(tmp_path, mariadb118, pg17) as made:
        made.config["policies"] = {"ddl": "log"}
        _table(made, "a")
        made.catch_up()
        _change(made, "ALTER TABLE a ADD COLUMN c INT NOT NULL DEFAULT 5")
        made.catch_up()
        _change(made, "DELETE FROM a WHERE id < 100")
        result = made.run("snapshot", f"{made.source_database}.a")
        assert result.returncode == 0
        assert "reload_failed" not in result.stderr
        rows = made.sink_rows("sink", "a")
        assert (len(rows), {len(row) for row in rows}) == (200, {3})


# Every shadow is begun that no lane takes.
_IN_VAIN = """
from cdc.cli import main
from cdc.pipeline.runner import _Session
assert _Session._fits
_Session._fits = lambda *_: True
main()
"""


@pytest.fixture
def altered_by_hand(tmp_path: Path, mysql97: Server, pg17: Server) -> Iterator[Deployment]:
    """The target has had a column for long that the source gets now: the lane does not believe what it holds."""
    with _deployment(tmp_path, mysql97, pg17) as one:
        _table(one, "a")
        one.catch_up()
        sink = Beside(one)
        sink.execute(f"ALTER TABLE {sink.table('a')} ADD COLUMN c INT")
        sink.execute(f"UPDATE {sink.table('a')} SET c = 99")
        _change(one, "ALTER TABLE a ADD COLUMN c INT")
        yield one


def test_a_table_that_its_lane_does_not_follow_is_loaded_once(altered_by_hand: Deployment) -> None:
    result = altered_by_hand.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count('"event": "side_begun"') == result.stderr.count('"event": "side_joined"') == 1
    altered_by_hand.assert_equal("a")


def test_a_table_that_never_joins_is_parked_in_the_end(altered_by_hand: Deployment) -> None:
    made = altered_by_hand
    command = made.command
    made.command = lambda *words: [sys.executable, "-c", _IN_VAIN, *command(*words)[3:]]  # type: ignore[method-assign]
    result = made.run("run", "--until-caught-up")
    made.command = command  # type: ignore[method-assign]
    assert result.returncode == 1
    assert "a was loaded 5 times beside the stream, and could not join it once" in result.stderr
    assert _states(made)["a"] == "parked"
    assert _shadows(made) == []
    assert made.run("snapshot", f"{made.source_database}.a").returncode == 0
    made.assert_equal("a")


def test_a_shadow_that_cannot_be_loaded_again_once_the_lane_has_let_go_parks_its_table(
    tmp_path: Path, mysql97: Server, mariadb1011: Server
) -> None:
    with _deployment(tmp_path, mysql97, mariadb1011) as made:
        _table(made, "a")
        made.start()
        wait_until_joined(made, "a")
        made.stop()
        process = made.start(crash_at="beside_given_up")
        ask_to_load(made, "a")
        process.wait(120)
        tables, name = made.config["tables"], f"{made.source_database}.a"
        _change(made, "UPDATE a SET v = 1")
        made.config["tables"] = {**tables, "overrides": [{"table": name, "primary_key": "v"}]}
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1
        assert "the configured primary_key (v) is not unique" in result.stderr
        assert _shadows(made) == []
        made.config["tables"] = tables
        assert made.run("snapshot", name).returncode == 0
        made.assert_equal("a")


def _shadows(one: Deployment) -> list[Any]:
    server, database = one.sinks["sink"]
    return list(
        server.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '\\_cdc\\_beside%' "
            f"AND table_schema = '{database if server.family != 'postgresql' and database else one.source_database}'",
            database=database,
        )
    )
