"""The private servers that every other test stands on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.demo.servers import NotPrivate, Server, ServerFailed, ServerUnavailable, catalogue
from tests.support import fresh_database, fresh_pg_database, wait_until
from tests.support.pool import POSTGRESQL, SOURCES, NothingToTestOn, ServerPool

Start = Callable[..., Server]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def descendants(pid: int) -> list[int]:
    """Of a process, itself included."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def settings(server: Server, *names: str) -> dict[str, str]:
    return {name: str(server.execute(f"SELECT @@GLOBAL.{name}")[0][0]) for name in names}


def test_a_source_server_is_ready_for_change_data_capture(source_server: Server) -> None:
    source_server.require_private("a look at our own settings")
    names = ("log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata", "local_infile")
    assert settings(source_server, *names) == {
        "log_bin": "1",
        "binlog_format": "ROW",
        "binlog_row_image": "FULL",
        "binlog_row_metadata": "FULL",
        "local_infile": "1",
    }
    assert int(settings(source_server, "server_id")["server_id"]) > 0
    assert source_server.execute("SELECT CONVERT_TZ('2026-07-01 12:00:00', 'UTC', 'Europe/Berlin')")[0][0] is not None


def test_a_mysql_server_has_gtids(mysql97: Server) -> None:
    mysql97.require_private("a look at our own settings")
    assert settings(mysql97, "gtid_mode", "enforce_gtid_consistency") == {
        "gtid_mode": "ON",
        "enforce_gtid_consistency": "ON",
    }


def test_the_version_is_the_servers_own(source_server: Server, pg_server: Server) -> None:
    assert source_server.execute("SELECT VERSION()")[0][0].startswith(source_server.version.split("-")[0])
    assert pg_server.execute("SHOW server_version")[0][0].startswith(pg_server.version)


def test_a_postgresql_server_speaks_utf8(pg_server: Server) -> None:
    assert pg_server.execute("SHOW server_encoding") == [("UTF8",)]
    pg_server.require_private("a look at our own settings")
    with fresh_pg_database(pg_server) as name:
        assert pg_server.execute("SELECT datcollate FROM pg_database WHERE datname = %s", (name,)) == [("C.UTF-8",)]


def test_a_fresh_database_is_gone_afterwards(source_server: Server, pg_server: Server) -> None:
    with fresh_database(source_server) as name:
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=name)
    assert source_server.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (name,)) == []
    with fresh_pg_database(pg_server) as name:
        pg_server.execute("CREATE TABLE t (id int PRIMARY KEY)", database=name)
    assert pg_server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)) == []


@pytest.mark.parametrize("name", [*SOURCES, *POSTGRESQL])
def test_committed_rows_survive_a_kill_and_a_restart(start_server: Start, name: str) -> None:
    server = start_server(name)
    where = {"database": "postgres" if server.family == "postgresql" else "d"}
    if server.family != "postgresql":
        server.execute("CREATE DATABASE d")
    server.execute("CREATE TABLE t (id INT PRIMARY KEY)", **where)
    server.execute("INSERT INTO t VALUES (1)", **where)
    port, pid = server.port, server.pid
    assert pid is not None
    processes = descendants(pid)

    server.kill()

    assert server.pid is None
    assert not server.is_running
    assert not [process for process in processes if is_alive(process)]
    server.restart(options={"max-connections": 42})
    assert server.port == port
    assert server.execute("SELECT id FROM t", **where) == [(1,)]
    ask = "SHOW max_connections" if server.family == "postgresql" else "SELECT @@max_connections"
    assert int(server.execute(ask)[0][0]) == 42


def test_two_servers_of_a_kind_have_their_own_identity(start_server: Start, mysql97: Server) -> None:
    other = start_server("mysql97")
    names = ("server_uuid", "server_id", "port")
    mine, its = settings(mysql97, *names), settings(other, *names)
    assert [name for name in names if mine[name] == its[name]] == []


def test_stop_is_a_clean_shutdown_that_keeps_the_data(start_server: Start) -> None:
    server = start_server("mariadb1011")
    server.execute("CREATE DATABASE kept")
    server.stop()
    assert "Shutdown complete" in server.log
    server.restart()
    assert ("kept",) in server.execute("SHOW DATABASES")


def test_a_setting_that_the_server_refuses_is_a_failure_with_its_log(start_server: Start) -> None:
    with pytest.raises(ServerFailed, match="no_such_setting"):
        start_server("mariadb1011", options={"no_such_setting": 1})


ASKER = """
import sys, time
from cdc.demo.servers import Server
server = Server.start(sys.argv[1])
print(server.pid, server.directory, flush=True)
time.sleep(600)
"""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["mariadb1011", "pg15"])
def test_nothing_is_left_behind_when_the_asking_process_is_killed(server_pool: ServerPool, name: str) -> None:
    try:
        server_pool.get(name)
    except ServerUnavailable as error:
        pytest.skip(str(error))
    asker = subprocess.Popen([sys.executable, "-c", ASKER, name], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    with asker.stdout:
        pid, directory = asker.stdout.readline().split()
    processes = descendants(asker.pid)
    assert int(pid) in processes

    asker.send_signal(signal.SIGKILL)
    asker.wait()

    wait_until(lambda: not any(map(is_alive, processes)), 30, "the end of every process it started")
    wait_until(lambda: not Path(directory).exists(), 30, f"{directory} to be removed")


def test_the_users_own_server_is_used_and_never_stopped(start_server: Start) -> None:
    real = start_server("mariadb1011")
    real.execute("CREATE USER me@'%' IDENTIFIED BY 'p:ss w@rd'")
    real.execute("GRANT ALL ON *.* TO me@'%'")
    pool = ServerPool(urls={"mariadb": f"mysql://me:p%3Ass%20w%40rd@127.0.0.1:{real.port}/"})

    server = pool.get("mariadb1011")

    assert server.execute("SELECT CURRENT_USER()") == [("me@%",)]
    with pytest.raises(NotPrivate) as refused:
        server.kill()
    assert "p%3Ass" not in str(refused.value)
    with pytest.raises(ServerUnavailable, match="left out"):
        pool.get("mariadb118")
    pool.close()
    assert real.is_running
    assert "yours: mysql://me:***@" in pool.report()[0]


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where no server is installed and tools/bootstrap could fetch only PostgreSQL 17; its servers directory."""
    kinds = {name: replace(kind, system="/nonexistent") for name, kind in catalogue().items()}
    monkeypatch.setattr("tests.support.pool.catalogue", lambda: kinds)
    monkeypatch.setenv("CDC_SERVERS_DIR", str(tmp_path))
    (tmp_path / "sid.reason").write_text("Debian sid: no network\n")
    program = tmp_path / kinds["pg17"].release / kinds["pg17"].server
    program.parent.mkdir(parents=True)
    program.touch()
    return tmp_path


def test_a_server_that_cannot_be_had_says_why_in_one_line(bare_machine: Path) -> None:
    pool = ServerPool()
    with pytest.raises(ServerUnavailable, match=r"^PostgreSQL 15 cannot be had: not installed"):
        pool.get("pg15")
    assert pool.report() == [f"{'pg15':12} NOT TESTED: {pool.missing['pg15']}"]


def test_a_machine_without_any_source_server_fails_instead_of_skipping(bare_machine: Path) -> None:
    with pytest.raises(NothingToTestOn, match=r"MySQL 9.7 cannot be had: Debian sid: no network; MariaDB 10.11 .*11.8"):
        ServerPool().get("mysql97")


def test_wait_until_returns_the_value_and_tells_what_it_waited_for() -> None:
    values = iter([0, None, 7])
    assert wait_until(lambda: next(values), 5, "seven") == 7
    with pytest.raises(TimeoutError, match="waited 0 s for a sink in state 3"):
        wait_until(lambda: False, 0, lambda: "a sink in state 3")
