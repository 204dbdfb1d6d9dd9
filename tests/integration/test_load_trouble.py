"""What happens to a table, to its keys, its readers or its sink while it is loaded: it ends equal, or parked with its
reason, and the tables beside it are none the wiser.

A table is held in the middle of its load by a lock on its target: rows are so wide that only a few of them fit into
memory, so most are not read yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import pytest

from cdc.demo.servers import Server
from tests.integration.test_bad_input_apply import _with_little_room as with_little_room
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.pool import SOURCES

ROWS = 40
WIDE = 300_000  # of queue_bytes_max, 1 MiB: three rows are read ahead


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["pg15", pytest.param("mariadb1011", marks=pytest.mark.full)])
def sink(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def made(tmp_path: Path, source: Server, sink: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, source, sink=sink) as one:
        one.config["snapshot"] = {"chunk_rows": 1, "workers": 2}
        one.config["queue_bytes_max"] = "1 MiB"
        _fill(one)
        yield one


def _fill(made: Deployment) -> None:
    for table in ("a", "t", "z"):
        made.source.execute(
            f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT NOT NULL, w LONGTEXT)", database=made.source_database
        )
    rows = ", ".join(f"({number}, {number}, REPEAT(CHAR({97 + number % 26}), {WIDE}))" for number in range(ROWS))
    made.source.execute(f"INSERT INTO t VALUES {rows}", database=made.source_database)
    for table in ("a", "z"):
        made.source.execute(f"INSERT INTO {table} VALUES (1, 1, 'one')", database=made.source_database)


def _place(made: Deployment) -> tuple[Server, str, str]:
    """The sink, the database to connect to, and the target of `t` as SQL."""
    server, database = made.sinks["sink"]
    if server.family == "postgresql":
        return server, database, f'"{made.source_database}".t'
    return server, database, f"`{database}`.t"


def _count(made: Deployment) -> int:
    """Rows of the target, -1 while there is none."""
    server, database, table = _place(made)
    with contextlib.suppress(psycopg2.errors.UndefinedTable, pymysql.err.ProgrammingError):
        return int(server.execute(f"SELECT count(*) FROM {table}", None, database=database)[0][0])
    return -1


@contextlib.contextmanager
def _held(made: Deployment, *, rows_min: int = 1) -> Iterator[None]:
    """The load of `t` stands still: so many rows at least are there, most are not read yet."""
    server, database, _ = _place(made)
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        wait_until(lambda: _has_stopped(made, cursor, rows_min), 120, "the first rows", poll_seconds=0.005)
        yield


def _has_stopped(made: Deployment, cursor: Any, rows_min: int) -> bool:
    """Lock the target once it has rows."""
    server, _, table = _place(made)
    is_postgresql = server.family == "postgresql"
    if _count(made) < rows_min:
        return False
    if is_postgresql:
        cursor.execute("BEGIN")
    cursor.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE" if is_postgresql else f"LOCK TABLES {table} READ")
    cursor.execute(f"SELECT count(*) FROM {table}")
    assert cursor.fetchone()[0] < ROWS, "it was loaded before it could be held"
    return True


def _while_held(made: Deployment, *statements: str) -> None:
    """Run them at the source in the middle of the load; what has to wait for a read does so."""

    def run() -> None:
        for statement in statements:
            made.source.execute(statement, database=made.source_database)

    thread = threading.Thread(target=run)
    with _held(made):
        thread.start()
        thread.join(2.0)
        assert _count(made) < ROWS, "it was held"
    thread.join(120)
    assert not thread.is_alive()


def _tables(made: Deployment) -> dict[str, dict[str, Any]]:
    return {table["table"].partition(".")[2]: table for table in made.status()["tables"]}


def _lines(made: Deployment, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in made.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def _go_on(made: Deployment, *equal: str) -> dict[str, dict[str, Any]]:
    """The service is stopped in good order; then everything ends equal, and the tables beside it go on."""
    for table in ("a", "z"):
        made.source.execute(f"INSERT INTO {table} VALUES (2, 2, 'two')", database=made.source_database)
    assert made.stop() == 0, made.log()[-3000:]
    result = made.run("run", "--until-caught-up")
    tables = _tables(made)
    parked = [name for name, table in tables.items() if table["state"] == "parked"]
    assert result.returncode == bool(parked), result.stderr
    made.assert_equal("a", "z", *equal)
    return tables


SAME = "CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL, w LONGTEXT)"
ALTERATIONS = {
    "add": ["ALTER TABLE t ADD COLUMN more INT NOT NULL DEFAULT 7"],
    "modify": ["ALTER TABLE t MODIFY id BIGINT NOT NULL, MODIFY v VARCHAR(20)"],
    "key": ["ALTER TABLE t DROP PRIMARY KEY, ADD PRIMARY KEY (v)"],
    "truncate": ["TRUNCATE TABLE t", "INSERT INTO t VALUES (7, 7, 'after')"],
    "again": ["DROP TABLE t", SAME, "INSERT INTO t VALUES (1, 2, '')"],
    "another": ["DROP TABLE t", "CREATE TABLE t (k VARCHAR(20) PRIMARY KEY)", "INSERT INTO t VALUES ('another')"],
    "replaced": ["RENAME TABLE t TO u", "CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)"],
}
IN_SAMPLE = ("modify", "another")


def _some(names: Iterable[str], sample: Collection[str]) -> list[Any]:
    return [name if name in sample else pytest.param(name, marks=pytest.mark.full) for name in names]


@pytest.mark.any_server
@pytest.mark.parametrize("name", _some(ALTERATIONS, IN_SAMPLE))
def test_a_table_that_is_altered_under_its_load_ends_equal(made: Deployment, name: str) -> None:
    made.start()
    _while_held(made, *ALTERATIONS[name])
    tables = _go_on(made, "t")
    assert tables["t"]["state"] == "ready"


@pytest.mark.any_server
@pytest.mark.parametrize("statement", ["DROP TABLE t", "RENAME TABLE t TO u"])
def test_a_table_that_goes_under_its_load_is_dropped(made: Deployment, statement: str) -> None:
    made.start()
    _while_held(made, statement)
    renamed = ["u"] if "u" in statement.split() else []
    tables = _go_on(made, *renamed)
    assert tables["t"]["state"] == "dropped"


@pytest.mark.any_server
def test_a_reading_session_that_is_killed_is_replaced(made: Deployment) -> None:
    made.config["snapshot"]["chunk_rows"] = ROWS
    # More than batches and sockets hold: the statement is under way as long as the sink takes nothing.
    made.source.execute("UPDATE t SET w = REPEAT('x', 3000000)", database=made.source_database)
    made.start()
    select = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE %s AND ID <> CONNECTION_ID()"

    def killed() -> bool:
        found = made.source.execute(select, (f"SELECT %FROM `{made.source_database}`.`t`%",))
        for (session,) in found:
            made.source.execute(f"KILL {session}")
        return bool(found)

    with _held(made, rows_min=0):
        wait_until(killed, 120, "a session that reads")
    wait_until(lambda: _lines(made, "pipeline_retrying"), 120, "the error")
    wait_until(lambda: _count(made) == ROWS, 120, "all rows")
    tables = _go_on(made, "t")
    assert tables["t"]["state"] == "ready"


@pytest.mark.any_server
def test_a_sink_session_that_is_killed_costs_its_chunk(made: Deployment) -> None:
    made.start()
    server, database, _ = _place(made)
    with _held(made):
        if server.family == "postgresql":
            kill = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                f"AND datname = '{database}'"
            )
            wait_until(lambda: server.execute(kill, None, database=database), 120, "a session that waits")
        else:
            found = (
                "SELECT ID FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table%' "
                f"AND DB = '{database}'"
            )
            sessions = wait_until(lambda: server.execute(found), 120, "a session that waits")
            server.execute(f"KILL {sessions[0][0]}")
    wait_until(lambda: _count(made) == ROWS, 120, "all rows")
    assert _lines(made, "pipeline_retrying")
    assert _lines(made, "load_resumed"), "what was there has been kept"
    tables = _go_on(made, "t")
    assert tables["t"]["state"] == "ready"


# Somebody ends all of our sessions at the sink, each time that a chunk has been committed there; not his own.
_CUT_BEHIND_EACH_CHUNK = """
import threading
import psycopg2
from cdc.cli import main
from cdc.pipeline.hooks import Hooks
def cut(self, point, reached=Hooks.__call__, one_at_a_time=threading.Lock()):
    reached(self, point)
    if point == "load_chunk_committed":
        with one_at_a_time, psycopg2.connect({url!r}) as somebody, somebody.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                           "WHERE datname = current_database() AND pid <> pg_backend_pid()")
Hooks.__call__ = cut
main()
"""


@pytest.mark.parametrize("sides", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_load_that_each_session_brings_further_is_at_no_same_place(
    tmp_path: Path, mariadb118: Server, pg15: Server, sides: int
) -> None:
    """Six chunks, six sessions: more than `same_place_max`."""
    with deployment(tmp_path, mariadb118, sink=pg15) as made:
        mariadb118.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT)", database=made.source_database)
        mariadb118.execute(
            "INSERT INTO t VALUES " + ", ".join(f"({n}, {n})" for n in range(12)), database=made.source_database
        )
        made.config["snapshot"] = {"chunk_rows": 2, "beside": sides, "beside_rows_min": 0}
        made.config["retry"] = {"initial_seconds": 0.01, "max_seconds": 0.01, "same_place_max": 3}
        server, database = made.sinks["sink"]
        program = _CUT_BEHIND_EACH_CHUNK.format(url=server.url_for(database))
        command = made.command
        made.command = lambda *words: [sys.executable, "-c", program, *command(*words)[3:]]  # type: ignore[method-assign]
        made.start()
        wait_until(lambda: _lines(made, "table_loaded") or _lines(made, "pipeline_failed"), 120, "the load's end")
        assert not _lines(made, "pipeline_failed")
        assert len(_lines(made, "pipeline_retrying")) > 3
        assert made.stop() == 0
        made.catch_up()
        made.assert_equal("t")


# ---------------------------------------------------------------- values that a key should not have


def _in_session(server: Server, database: str, *statements: str) -> None:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        connection.commit()


ODD_KEYS = {
    "date": ("DATE", ["'0000-00-00'", "'2024-00-00'", "'2024-02-31'", "'2024-02-29'", "'9999-12-31'"]),
    "datetime": ("DATETIME(6)", ["'0000-00-00'", "'2024-00-10 01:02:03.000004'", "'2024-01-01'"]),
    "double": ("DOUBLE", ["0", "1e308", "-1e308", "5e-324", "-5e-324", "0.1", "1e-300 * 0.1"]),
    "float": ("FLOAT", ["0", "3.4e38", "1e-45", "0.1", "16777217"]),
    "enum": ("ENUM('a','b','NaN')", ["''", "'b'", "'NaN'"]),
    "text": ("VARCHAR(20)", ["'NaN'", "'Infinity'", "''", "'\\0'", "'-0'"]),
}


@pytest.mark.any_server
@pytest.mark.parametrize("name", _some(ODD_KEYS, ("date", "double")))
def test_odd_keys_arrive_or_park_their_table_by_name(tmp_path: Path, source: Server, sink: Server, name: str) -> None:
    """What PostgreSQL cannot hold is changed by no policy in a key: the table is parked. MySQL's kin holds them all."""
    kind, values = ODD_KEYS[name]
    with deployment(tmp_path, source, sink=sink) as one:
        one.config["snapshot"] = {"chunk_rows": 1}
        _in_session(
            source,
            one.source_database,
            "SET sql_mode = 'ALLOW_INVALID_DATES'",
            f"CREATE TABLE odd (k {kind} NOT NULL PRIMARY KEY)",
            f"INSERT IGNORE INTO odd VALUES {', '.join(f'({value})' for value in values)}",
            "CREATE TABLE plain (id INT PRIMARY KEY)",
            "INSERT INTO plain VALUES (1)",
        )
        result = one.run("run", "--until-caught-up")
        one.assert_equal("plain")
        table = _tables(one)["odd"]
        if table["state"] == "parked":
            assert sink.family == "postgresql", table
            assert result.returncode == 1
            assert table["error"]["hint"], table
            assert table["error"]["column"] == "k", table
            return
        assert result.returncode == 0, result.stderr
        assert table["state"] == "ready"
        assert len(one.sink_rows("sink", "odd")) == len(one.source_rows("odd"))
        if sink.family != "postgresql":
            one.assert_equal("odd")


@pytest.mark.any_server
def test_text_that_is_none_is_told_and_the_rest_go_on(tmp_path: Path, source: Server, sink: Server) -> None:
    """Half of a pair in a charset of 16 bits, which UTF-8 has no bytes for."""
    with deployment(tmp_path, source, sink=sink) as one:
        _in_session(
            source,
            one.source_database,
            "CREATE TABLE odd (id INT PRIMARY KEY, v VARCHAR(20) CHARACTER SET ucs2)",
            "INSERT INTO odd VALUES (1, 'fine'), (2, X'D8000041')",
            "CREATE TABLE plain (id INT PRIMARY KEY)",
            "INSERT INTO plain VALUES (1)",
        )
        result = one.run("run", "--until-caught-up")
        one.assert_equal("plain")
        table = _tables(one)["odd"]
        if table["state"] == "ready":
            one.assert_equal("odd")
            return
        assert table["state"] == "parked"
        assert result.returncode == 1
        assert table["error"]["hint"], table


@pytest.mark.full
def test_nothing_is_left_to_read_when_rows_go_under_the_load(made: Deployment) -> None:
    """Borders that were cut stay borders, also where no row is left behind them."""
    made.start()
    _while_held(made, "DELETE FROM t WHERE id >= 5", "INSERT INTO t VALUES (1000, 1, 'behind')", "UPDATE t SET v = -v")
    tables = _go_on(made, "t")
    assert tables["t"]["state"] == "ready"


@pytest.mark.full
def test_a_full_disk_of_the_sink_is_waited_for(tmp_path: Path, mysql97: Server, start_server: Any) -> None:
    """The table is neither parked nor begun anew: it goes on when there is room."""
    with (
        with_little_room("pg15", start_server) as server,
        deployment(tmp_path, mysql97, sink=server) as made,
        contextlib.closing(mysql97.connect(made.source_database)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, w LONGBLOB)")
        for number in range(6):
            cursor.execute("INSERT INTO t VALUES (%s, %s)", (number, os.urandom(2_000_000)))
        connection.commit()
        _, database = made.sinks["sink"]
        server.execute("CREATE TABLE filler (v text)", None, database=database)
        server.execute("ALTER TABLE filler ALTER COLUMN v SET STORAGE EXTERNAL", None, database=database)
        with contextlib.suppress(psycopg2.errors.DiskFull):
            while True:
                server.execute("INSERT INTO filler VALUES (repeat('x', 1000000))", None, database=database)
        made.config["snapshot"] = {"chunk_rows": 1}
        made.start()
        wait_until(lambda: len(_lines(made, "pipeline_retrying")) >= 2, 120, lambda: made.log()[-3000:])
        assert "make room on the sink's disk" in made.log()
        server.execute("DROP TABLE filler", None, database=database)
        made.wait_for_log("table_loaded")
        assert not _lines(made, "table_parked")
        assert made.stop() == 0
        made.catch_up()
        made.assert_equal("t")


# ---------------------------------------------------------------- a target that comes late

# A CREATE TABLE whose answer was lost may come into effect after the next session has looked for the table.
_LATE = """
from cdc.cli import main
from cdc.sinks import mysql, postgres
for sink in (mysql.MysqlSink, postgres.PostgresSink):
    def made_late(self, target, create=sink.create_table):
        create(self, target)
        create(self, target)
    sink.create_table = made_late
main()
"""


@pytest.mark.parametrize("kind", ["pg17", "mysql97"])
def test_a_target_that_a_lost_session_of_ours_has_made_just_now_is_filled(
    tmp_path: Path, mariadb118: Server, request: pytest.FixtureRequest, kind: str
) -> None:
    with deployment(tmp_path, mariadb118, sink=request.getfixturevalue(kind)) as made:
        mariadb118.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT)", database=made.source_database)
        mariadb118.execute("INSERT INTO t VALUES (1, 10), (2, 20)", database=made.source_database)
        command = made.command
        made.command = lambda *words: [sys.executable, "-c", _LATE, *command(*words)[3:]]  # type: ignore[method-assign]
        made.catch_up()
        made.assert_equal("t")
