"""Loads that the source is spared by: limits, pauses, sessions in turn, and a log that is kept long enough or not."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cdc.clock import SystemClock
from cdc.demo.servers import Server
from cdc.errors import BinlogPurged
from cdc.model import SourcePosition, TableName
from cdc.pipeline.loads import estimated_rows
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.positions import visible_position, written_file_pos
from snapshot.guards import replica_lags, threads_running
from snapshot.retention import LogGuard, LogRetention, LogTooShort, log_expiry
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until

ROWS = 3000
BUSY = 40


@pytest.fixture
def made(tmp_path: Path, mysql97: Server, pg17: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mysql97, sink=pg17) as one:
        _make(one, "t")
        yield one


def _make(one: Deployment, *names: str, rows: int = ROWS) -> None:
    for name in names:
        one.source.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, v INT)", database=one.source_database)
        values = ", ".join(f"({number}, {number % 7})" for number in range(1, rows + 1))
        one.source.execute(f"INSERT INTO {name} VALUES {values}", database=one.source_database)


@contextlib.contextmanager
def _busy(server: Server) -> Iterator[None]:
    """Sessions enough that are at work, until the end of the `with`."""
    with contextlib.ExitStack() as stack:
        sessions: list[Any] = [stack.enter_context(contextlib.closing(server.connect(None))) for _ in range(BUSY)]
        ids = [session.thread_id() for session in sessions]
        for session in sessions:
            session._execute_command(3, b"SELECT SLEEP(3600)")  # COM_QUERY, whose answer nobody waits for

        def running() -> bool:
            return int(server.execute("SHOW GLOBAL STATUS LIKE 'Threads\\_running'")[0][1]) > BUSY

        wait_until(running, 60, "sessions that are at work")
        try:
            yield
        finally:
            for number in ids:
                server.execute(f"KILL {number}")
            wait_until(lambda: not running(), 60, "them to end")


def _events(one: Deployment, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in one.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


def _progress(one: Deployment, table: str) -> dict[str, Any]:
    name = f"{one.source_database}.{table}"
    (found,) = (entry for entry in one.status()["tables"] if entry["table"] == name)
    return dict(found["progress"] or {})


# ---------------------------------------------------------------- limits and pauses


@pytest.mark.in_turn
def test_a_load_waits_while_the_source_is_busy_says_so_and_goes_on_by_itself(
    tmp_path: Path, source_server: Server, pg17: Server
) -> None:
    with deployment(tmp_path, source_server, sink=pg17) as made:
        _make(made, "t")
        made.config["snapshot"] = {"pause_when": {"threads_running": BUSY // 2}, "chunk_rows": 1000}
        with _busy(source_server):
            made.start()
            made.wait_for_log("loads_paused")
            wait_until(lambda: _progress(made, "t").get("waits_for"), 60, "the reason in the status")
            said = _progress(made, "t")
            assert (said["rows"], said["seconds_left"]) == (0, None)
            assert said["waits_for"].endswith(f"more than {BUSY // 2}")
            assert not _events(made, "table_loaded")
        made.wait_for_log("table_loaded")
        made.stop()
        assert [len(_events(made, event)) for event in ("loads_paused", "loads_go_on")] == [1, 1]
        made.assert_equal("t")


def test_a_load_that_waits_is_stopped_at_once(made: Deployment) -> None:
    made.config["snapshot"] = {"pause_when": {"threads_running": 2}}
    with _busy(made.source):
        made.start()
        made.wait_for_log("loads_paused")
        assert made.stop() == 0


@pytest.mark.full
def test_a_table_without_a_key_waits_before_its_view_is_opened(made: Deployment) -> None:
    made.source.execute("DROP TABLE t", database=made.source_database)
    made.source.execute("CREATE TABLE k AS SELECT 1 AS v UNION ALL SELECT 1", database=made.source_database)
    made.config["snapshot"] = {"pause_when": {"threads_running": BUSY // 2}, "connections": 1}
    with _busy(made.source):
        made.start()
        made.wait_for_log("loads_paused")
        views = "SELECT COUNT(*) FROM information_schema.INNODB_TRX"
        assert made.source.execute(views) == [(0,)]
    made.wait_for_log("table_loaded")
    made.stop()
    made.assert_equal("k")


def test_rows_per_second_are_those_of_all_loads_together(made: Deployment) -> None:
    _make(made, "u")
    made.config["snapshot"] = {"rows_per_second": 2000, "workers": 4}
    made.start()
    made.wait_for_log("table_loaded", count=2)
    began, *_ = _events(made, "snapshot_begun")
    loaded = [line["seconds"] for line in _events(made, "table_loaded")]
    assert began["event"]
    # 6,000 rows, of which a chunk of 2,000 a table may be read at once.
    assert sum(loaded) >= (2 * ROWS - 2 * 2000) / 2000
    made.stop()
    made.assert_equal("t", "u")


def test_there_are_no_more_reading_sessions_than_connections_says(
    tmp_path: Path, mysql97: Server, pg17: Server, mariadb118: Server
) -> None:
    """The source itself refuses more: what four loads with 16 workers each would take is far above."""
    allowed = 24  # two lanes and four sides with a session and a stream each, the monitor, and some room
    with deployment(tmp_path, mysql97, one=pg17, other=mariadb118) as made:
        _make(made, "t", "u", rows=5000)
        user = f"u{made.source_database[-12:]}"
        mysql97.execute(f"CREATE USER {user} IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS {allowed}")
        mysql97.execute(f"GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}")
        try:
            made.config["source"]["url"] = f"mysql://{user}:x@{mysql97.host}:{mysql97.port}"
            made.config["snapshot"] = {"workers": 16, "connections": 2, "chunk_rows": 50}
            made.start()
            made.wait_for_log("table_loaded", count=4)
            made.wait_for_log("table_ready", count=4)
            made.stop()
            assert "1226" not in made.log(), "max_user_connections"
            made.assert_equal("t", "u")
        finally:
            mysql97.execute(f"DROP USER {user}")


@pytest.mark.full
@pytest.mark.parametrize("command", [("run", "--until-caught-up"), ("snapshot",)])
def test_on_a_terminal_a_load_is_a_bar_below_the_lines_of_the_log(made: Deployment, command: tuple[str, ...]) -> None:
    made.source.execute("ANALYZE TABLE t", database=made.source_database)
    made.config["snapshot"] = {"rows_per_second": ROWS // 3, "chunk_seconds": 0.5, "workers": 1}
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            made.command(*command),
            cwd=made.directory,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal ends whose other side is closed
            while part := terminal.read(65536):
                said += part
        assert process.wait(60) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert re.search(rf"{made.source_database}\.t \S+ 1,000 of about 3,000 rows ", shown), shown
    assert re.search(r"rows/s, \d s left", shown), shown
    assert ("table_loaded" in shown) == (command[0] == "run")
    assert "load_progress" not in shown, "a line beside the bar"
    made.assert_equal("t")


@pytest.mark.full
def test_without_a_terminal_a_load_has_a_line_in_the_log_every_ten_seconds(made: Deployment) -> None:
    made.config["snapshot"] = {"pause_when": {"threads_running": BUSY // 2}}
    with _busy(made.source):
        made.start()
        made.wait_for_log("load_progress", count=2)
        first, second, *_ = _events(made, "load_progress")
        assert first["table"] == f"{made.source_database}.t"
        assert first["waits_for"].startswith("Threads_running is ")
        seconds = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in (first, second)]
        assert seconds[1] - seconds[0] >= 9.9
    made.wait_for_log("table_loaded")


# ---------------------------------------------------------------- what the source says of itself


@pytest.fixture
def source(source_server: Server) -> Iterator[SourceConnection]:
    one = source_server
    with connect(SourceSettings(one.host, one.port, one.user, one.password, 88_001)) as connection:
        yield connection


@pytest.mark.in_turn
def test_a_source_says_how_many_sessions_it_works_for_and_what_it_has(
    source: SourceConnection, source_server: Server, database: Callable[[Server], str]
) -> None:
    name = database(source_server)
    assert threads_running(source) >= 1
    with _busy(source_server):
        assert threads_running(source) > BUSY
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=name)
    source_server.execute("INSERT INTO t VALUES (1), (2)", database=name)
    source_server.execute("ANALYZE TABLE t", database=name)
    assert estimated_rows(source, [TableName(name, "t"), TableName(name, "gone")]) == {TableName(name, "t"): 2}


@pytest.mark.in_turn
def test_a_replica_that_does_not_replicate_lags_by_nobody_knows_what(
    source: SourceConnection, source_server: Server
) -> None:
    assert replica_lags(source) == []
    if source.flavor == "mariadb":
        make = "CHANGE MASTER 'guards' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'u'"
        drop = "RESET SLAVE 'guards' ALL"
    else:
        make = (
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'u' "
            "FOR CHANNEL 'guards'"
        )
        drop = "RESET REPLICA ALL FOR CHANNEL 'guards'"
    source_server.execute(make)
    try:
        assert replica_lags(source) == [None]
    finally:
        source_server.execute(drop)


@pytest.mark.full
def test_who_may_not_see_the_lag_is_told_which_right_is_missing(mariadb1011: Server) -> None:
    mariadb1011.execute("CREATE USER blind IDENTIFIED BY 'x'")
    try:
        with connect(SourceSettings(mariadb1011.host, mariadb1011.port, "blind", "x", 88_002)) as connection:
            with pytest.raises(Exception, match="1227") as caught:
                replica_lags(connection)
            assert "GRANT REPLICA MONITOR" in caught.value.hint  # type: ignore[attr-defined]
    finally:
        mariadb1011.execute("DROP USER blind")


@pytest.mark.any_server
def test_a_session_asks_once_which_server_it_is_on(source: SourceConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several times a table, a load of a thousand tables needs to know."""
    identity = source.identity()
    monkeypatch.setattr(source, "query_text", None)
    assert source.identity() is identity


# ---------------------------------------------------------------- the log


def _position(connection: SourceConnection, form: str) -> SourcePosition:
    """Where the source is, as MySQL's GTIDs say it (no file), or as files do."""
    visible = visible_position(connection)
    if form == "file":
        return replace(visible, file=written_file_pos(connection), gtid=None)
    return visible


@pytest.mark.full
@pytest.mark.parametrize("name, form", [("mysql97", "gtid"), ("mysql97", "file"), ("mariadb118", "gtid")])
def test_the_log_is_kept_from_when_its_file_was_closed_and_gone_once_it_is_purged(
    start_server: Callable[..., Server], name: str, form: str
) -> None:
    server = start_server(name)
    server.execute("SET GLOBAL binlog_expire_logs_seconds = 1000")
    server.execute("CREATE DATABASE d")
    server.execute("FLUSH BINARY LOGS")
    with connect(SourceSettings(server.host, server.port, server.user, server.password, 88_003)) as connection:
        since = _position(connection, form)
        file = written_file_pos(connection).file
        watching = LogRetention(since, server_id=88_004)
        look = watching.look(connection)
        assert (look.is_there, look.file, look.seconds_left) == (True, file, 1000)
        assert look.rule == "binlog_expire_logs_seconds is 1000"
        server.execute("CREATE TABLE d.t (id INT PRIMARY KEY)")
        server.execute("FLUSH BINARY LOGS")
        closed = time.time()
        server.execute("FLUSH BINARY LOGS")
        wait_until(lambda: time.time() - closed > 2.1, 60, "the file to be two seconds old")
        # One that saw the file being written, and one that begins now: it reads when the next file was begun.
        for retention in (watching, LogRetention(since, server_id=88_004)):
            look = retention.look(connection)
            assert look.file == file
            assert look.seconds_left is not None
            assert 900 < look.seconds_left < 999
        newest = server.execute("SHOW BINARY LOGS")[-1][0]
        server.execute(f"PURGE BINARY LOGS TO '{newest}'")
        assert not watching.look(connection).is_there
        assert not LogRetention(since, server_id=88_004).look(connection).is_there
        guard = LogGuard(watching, lambda outlook, seconds: None, SystemClock())
        with pytest.raises(BinlogPurged, match=r"while d\.t was being loaded"):
            guard.check(connection, what="d.t", seconds_left=1.0)


@pytest.mark.full
def test_the_file_of_a_gtid_set_is_found_among_many(start_server: Callable[..., Server]) -> None:
    server = start_server("mysql97")
    server.execute("CREATE DATABASE d")
    with connect(SourceSettings(server.host, server.port, server.user, server.password, 88_003)) as connection:
        expected = []
        for number in range(7):
            server.execute(f"CREATE TABLE d.t{number} (id INT PRIMARY KEY)")
            expected.append((visible_position(connection), written_file_pos(connection).file))
            server.execute("FLUSH BINARY LOGS")
        for position, file in expected:
            found = LogRetention(position, server_id=88_004).look(connection).file
            # The next one is as good where nothing follows in the file itself.
            names = [row[0] for row in server.execute("SHOW BINARY LOGS")]
            assert found == names[names.index(file) + 1]
            assert LogRetention(replace(position, gtid=position.gtid), server_id=1).look(connection).is_there


@pytest.mark.full
def test_what_the_settings_say_of_how_long_logs_are_kept(start_server: Callable[..., Server]) -> None:
    server = start_server("mysql97")
    with connect(SourceSettings(server.host, server.port, server.user, server.password, 88_003)) as connection:
        assert log_expiry(connection).seconds
        server.execute("SET GLOBAL binlog_expire_logs_auto_purge = OFF")
        assert log_expiry(connection).seconds is None
    server = start_server("mariadb118")
    with connect(SourceSettings(server.host, server.port, server.user, server.password, 88_003)) as connection:
        server.execute("SET GLOBAL binlog_expire_logs_seconds = 0")
        assert log_expiry(connection).seconds is None
        server.execute("SET GLOBAL expire_logs_days = 1.5")
        assert log_expiry(connection).seconds == 1.5 * 86400
        server.execute("SET GLOBAL max_binlog_total_size = 10000000")
        expiry = log_expiry(connection)
        assert (expiry.bytes_max, expiry.bytes_setting) == (10_000_000, "max_binlog_total_size is 10000000")


@pytest.mark.full
def test_a_log_that_is_kept_by_size_lasts_as_long_as_it_grows(start_server: Callable[..., Server]) -> None:
    server = start_server("mariadb118")
    server.execute("SET GLOBAL binlog_expire_logs_seconds = 0")
    server.execute("CREATE DATABASE d")
    server.execute("CREATE TABLE d.t (v LONGBLOB)")

    class Clock(SystemClock):
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    with connect(SourceSettings(server.host, server.port, server.user, server.password, 88_003)) as connection:
        retention = LogRetention(visible_position(connection), server_id=88_004, clock=clock)
        assert retention.look(connection).seconds_left is None
        server.execute("SET GLOBAL max_binlog_total_size = 100000000")
        assert retention.look(connection).seconds_left is None, "nobody knows yet how fast it grows"
        server.execute("INSERT INTO d.t SELECT REPEAT('x', 10000000)")
        clock.now = 100.0
        look = retention.look(connection)
        assert look.seconds_left is not None
        assert 850 < look.seconds_left < 900
        assert look.rule == "max_binlog_total_size is 100000000"
        server.execute("SET GLOBAL max_binlog_total_size = 10000000")
        assert retention.look(connection).seconds_left == 0
        guard = LogGuard(retention, lambda outlook, seconds: None, clock)
        with pytest.raises(LogTooShort, match="in 0 s: max_binlog_total_size is 10000000"):
            guard.check(connection, what="d.t", seconds_left=None)


@pytest.mark.full
@pytest.mark.parametrize("name", ["mysql97", "mariadb118"])
def test_a_log_that_is_purged_under_a_load_ends_it_at_once(
    tmp_path: Path, start_server: Callable[..., Server], pg17: Server, name: str
) -> None:
    with deployment(tmp_path, start_server(name), sink=pg17) as made:
        _make(made, "t")
        made.config["snapshot"] = {"pause_when": {"threads_running": BUSY // 2}}
        with _busy(made.source):
            made.start()
            made.wait_for_log("loads_paused")
            made.source.execute("FLUSH BINARY LOGS")
            newest = made.source.execute("SHOW BINARY LOGS")[-1][0]
            made.source.execute("CREATE TABLE t2 (id INT PRIMARY KEY)", database=made.source_database)
            made.source.execute("FLUSH BINARY LOGS")
            newest = made.source.execute("SHOW BINARY LOGS")[-1][0]
            made.source.execute(f"PURGE BINARY LOGS TO '{newest}'")
            wait_until(lambda: "has purged its log" in made.log(), 60, "the error, while the load still waits")
            assert not _events(made, "loads_go_on")


@pytest.mark.full
@pytest.mark.parametrize("name", ["mysql97", "mariadb118"])
def test_a_load_is_stopped_before_the_log_that_it_needs_may_be_purged(
    tmp_path: Path, start_server: Callable[..., Server], pg17: Server, name: str
) -> None:
    """The stream goes on over the rest; the table is loaded once somebody has seen to it."""
    with deployment(tmp_path, start_server(name), sink=pg17) as made:
        _make(made, "t")
        made.source.execute("SET GLOBAL binlog_expire_logs_seconds = 20")
        made.config["snapshot"] = {"pause_when": {"threads_running": BUSY // 2}}
        with _busy(made.source):
            made.start()
            made.wait_for_log("loads_paused")
            made.source.execute("FLUSH BINARY LOGS")
            made.wait_for_log("table_parked")
            (parked,) = _events(made, "table_parked")
            assert parked["error_class"] == "LogTooShort"
            assert "binlog_expire_logs_seconds is 20" in parked["message"]
        made.source.execute("SET GLOBAL binlog_expire_logs_seconds = 86400")
        made.source.execute("INSERT INTO t VALUES (0, 0)", database=made.source_database)
        # The table may be on its way from the side that parked it to its lane: then it is asked for again.
        wait_until(lambda: made.run("snapshot").returncode == 0, 120, lambda: made.log())
        made.stop()
        made.assert_equal("t")
