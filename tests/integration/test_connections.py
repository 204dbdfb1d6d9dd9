"""A server whose connections are all taken, or that ends all of ours at once: back within two minutes, nothing lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

_CONNECTIONS_MAX = 20
_RECOVERY_SECONDS_MAX = 120.0
# How the servers say it: MySQL's number, and libpq's text, which has none.
_REFUSED = ("(error 1040)", "too many clients already")


@contextlib.contextmanager
def _crowd(server: Server) -> Iterator[Callable[[], int]]:
    """All of the server's connections, taken while everybody else's are ended; gives a function that does it again."""
    with contextlib.ExitStack() as stack:
        mine: list[Any] = []

        def enter() -> bool:
            try:
                mine.append(stack.enter_context(contextlib.closing(server.connect())))
            except (pymysql.err.OperationalError, psycopg2.OperationalError):
                return False
            return True

        def take_all() -> int:
            """How many of other people's were ended."""
            ended = _end_others(server, mine)
            while enter():
                pass
            return ended

        assert enter()
        wait_until(lambda: not take_all(), 60, lambda: f"all connections to be the crowd's: {_sessions(server, mine)}")
        yield take_all


def _end_others(server: Server, mine: list[Any]) -> int:
    """End every client's session but `mine`, by the first of these; how many."""
    with mine[0].cursor() as cursor:
        if server.family == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND NOT pid = ANY (%s)",
                ([one.info.backend_pid for one in mine],),
            )
            return len(cursor.fetchall())
        # One that was ended stays in the list until it notices, and the scheduler's is no client's.
        cursor.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND NOT IN ('Daemon', 'Killed')")
        own = {one.thread_id() for one in mine}
        others = [number for (number,) in cursor.fetchall() if number not in own]
        ended = 0
        for number in others:
            with contextlib.suppress(pymysql.err.MySQLError):  # it is gone, or a thread of the server's own
                cursor.execute(f"KILL {number}")
                ended += 1
        return ended


def _sessions(server: Server, mine: list[Any]) -> str:
    """What the server says of all sessions, for a failure's message."""
    where = "pg_stat_activity" if server.family == "postgresql" else "information_schema.PROCESSLIST"
    with mine[0].cursor() as cursor:
        cursor.execute(f"SELECT * FROM {where}")
        return "\n".join(map(str, cursor.fetchall()))


def _refusals(made: Deployment) -> int:
    lines = [line for line in made.log().splitlines() if '"pipeline_retrying"' in line]
    return sum(any(said in line for said in _REFUSED) for line in lines)


@contextlib.contextmanager
def _running(directory: Path, source: Server, sink: Server) -> Iterator[Deployment]:
    """A service that streams one table, with the pauses that it has by default."""
    with deployment(directory, source, sink=sink) as made:
        del made.config["retry"]
        source.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", database=made.source_database)
        source.execute("INSERT INTO t VALUES (1, 'one')", database=made.source_database)
        made.start()
        made.wait_for_log("table_ready")
        yield made
        assert made.stop() == 0
        made.assert_equal("t")
        assert made.status()["sinks"][0]["error"] is None


def _write(made: Deployment, key: int) -> None:
    made.source.execute(f"INSERT INTO t VALUES ({key}, 'more')", database=made.source_database)


def _wait_for_row(made: Deployment, key: int) -> float:
    """Seconds until the sink has it."""
    began = time.monotonic()
    wait_until(lambda: key in [row[0] for row in made.sink_rows("sink", "t")], 300, f"row {key}")
    return time.monotonic() - began


@pytest.mark.parametrize(
    "side, kind",
    [
        ("sink", "pg17"),
        ("source", "mysql97"),
        pytest.param("source", "mariadb118", marks=pytest.mark.full),
        pytest.param("sink", "mysql97", marks=pytest.mark.full),
        pytest.param("sink", "mariadb1011", marks=pytest.mark.full),
    ],
)
def test_a_server_without_a_free_connection_is_come_back_to(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    start_server: Callable[..., Server],
    side: str,
    kind: str,
) -> None:
    """Every session of the service is ended at once, and its place taken; then there is room again."""
    small = start_server(kind, options={"max_connections": _CONNECTIONS_MAX})
    other: Server = request.getfixturevalue("mariadb118" if side == "sink" else "pg17")
    source, sink = (other, small) if side == "sink" else (small, other)
    with _running(tmp_path, source, sink) as made:
        with _crowd(small) as take_all:
            if side == "sink":
                _write(made, 2)  # a sink's session that nobody uses is missed by nobody
            wait_until(lambda: take_all() == 0 and _refusals(made) >= 3, 120, lambda: made.log()[-2000:])
        if side == "source":
            _write(made, 2)
        assert _wait_for_row(made, 2) < _RECOVERY_SECONDS_MAX
        assert '"pipeline_failed"' not in made.log()


@pytest.mark.parametrize("kind", ["mariadb118", pytest.param("mysql97", marks=pytest.mark.full)])
def test_a_source_that_has_a_connection_for_reading_and_none_for_the_log_is_not_counted(
    tmp_path: Path, request: pytest.FixtureRequest, pg17: Server, kind: str
) -> None:
    """Where sessions that begin are: the monitor and the session itself take what the user may have."""
    source: Server = request.getfixturevalue(kind)
    with deployment(tmp_path, source, sink=pg17) as made, contextlib.ExitStack() as stack:
        user = f"u{made.source_database[-12:]}"
        source.execute(f"CREATE USER {user} IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 50")
        stack.callback(source.execute, f"DROP USER {user}")
        source.execute(f"GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}")
        source.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", database=made.source_database)
        made.config["source"]["url"] = f"mysql://{user}:x@{source.host}:{source.port}"
        made.config["retry"] = {"initial_seconds": 0.2, "max_seconds": 0.2, "same_place_max": 3}
        made.start()
        stack.callback(made.kill)
        made.wait_for_log("table_ready")
        sessions = f"SELECT ID, COMMAND FROM information_schema.PROCESSLIST WHERE USER = '{user}'"
        wait_until(lambda: len(source.execute(sessions)) == 3, 60, lambda: str(source.execute(sessions)))
        source.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 2")
        for number, command in source.execute(sessions):
            if command.startswith("Binlog Dump"):
                source.execute(f"KILL {number}")
        failed = '"pipeline_failed"'
        wait_until(lambda: made.log().count("(error 1226)") >= 6 or failed in made.log(), 120, lambda: made.log())
        assert failed not in made.log()
        source.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 50")
        _write(made, 2)
        assert _wait_for_row(made, 2) < _RECOVERY_SECONDS_MAX
        assert made.stop() == 0
        made.assert_equal("t")


@pytest.mark.parametrize("kind", ["mysql97", pytest.param("mariadb118", marks=pytest.mark.full)])
def test_all_sessions_that_end_at_once_on_both_sides_are_made_anew(
    tmp_path: Path, start_server: Callable[..., Server], kind: str
) -> None:
    source, sink = start_server(kind), start_server("pg17")
    with _running(tmp_path, source, sink) as made, contextlib.ExitStack() as stack:
        controls = [(one, [stack.enter_context(contextlib.closing(one.connect()))]) for one in (source, sink)]
        for key in (2, 3, 4):
            ended = [_end_others(server, control) for server, control in controls]
            assert all(ended)  # how many is what was there again since the last time
            _write(made, key)
            assert _wait_for_row(made, key) < _RECOVERY_SECONDS_MAX
        assert '"pipeline_failed"' not in made.log()
