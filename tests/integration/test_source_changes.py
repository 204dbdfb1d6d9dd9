"""A source that is another server than it was, or has another log: followed where that is right, else refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.databases import unique_name
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import through
from tests.support.waiting import wait_until

StartServer = Callable[..., Server]

REST = ["mysql97", "mariadb118"]
FAMILIES = ["mysql97", "mariadb1011", pytest.param("mariadb118", marks=pytest.mark.full)]


def begin_replica(replica: Server, source: Server) -> None:
    """`replica` follows `source` by GTID, from the beginning."""
    host, port, user, password = source.host, source.port, source.user, source.password
    if source.family == "mysql":
        replica.execute(
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '{host}', SOURCE_PORT = {port}, SOURCE_USER = '{user}', "
            f"SOURCE_PASSWORD = '{password}', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1"
        )
    else:
        replica.execute(
            f"CHANGE MASTER TO MASTER_HOST = '{host}', MASTER_PORT = {port}, MASTER_USER = '{user}', "
            f"MASTER_PASSWORD = '{password}', MASTER_USE_GTID = slave_pos"
        )
    switch_replica(replica, "START")


def switch_replica(replica: Server, what: str) -> None:
    """START or STOP."""
    replica.execute(f"{what} {'REPLICA' if replica.family == 'mysql' else 'SLAVE'}")


def has_all_of(replica: Server, source: Server) -> bool:
    if source.family == "mysql":
        executed = source.execute("SELECT @@GLOBAL.gtid_executed")[0][0]
        return bool(replica.execute("SELECT GTID_SUBSET(%s, @@GLOBAL.gtid_executed)", (executed,))[0][0])
    return bool(source.execute("SELECT @@GLOBAL.gtid_binlog_pos") == replica.execute("SELECT @@GLOBAL.gtid_slave_pos"))


def insert(made: Deployment, first: int, count: int = 3, *, server: Server | None = None) -> None:
    for key in range(first, first + count):
        sql = f"INSERT INTO t VALUES ({key}, '{'x' * (key % 7)}')"
        (server or made.source).execute(sql, database=made.source_database)


def follow_until_now(made: Deployment) -> None:
    """With a table of some rows."""
    made.source.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)", database=made.source_database)
    insert(made, 1)
    made.catch_up()
    insert(made, 11)
    made.catch_up()
    made.assert_equal("t")


def lead_to(made: Deployment, server: Server) -> None:
    made.source = server
    made.config["source"]["url"] = server.url


def assert_refused(made: Deployment, *words: str) -> None:
    """And the sink left alone."""
    before = made.sink_rows("pg", "t")
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 1, result.stderr
    assert "SourceChanged" in result.stderr
    assert any(word in result.stderr for word in words), result.stderr
    assert made.sink_rows("pg", "t") == before


# ---------------------------------------------------------------- another server


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_stream_goes_on_at_a_promoted_replica_once_it_has_what_the_sink_has(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    old, new = start_server(kind), start_server(kind)
    begin_replica(new, old)
    with deployment(tmp_path, old, pg=pg15) as made:
        follow_until_now(made)
        wait_until(lambda: has_all_of(new, old), what="the replica")
        switch_replica(new, "STOP")
        insert(made, 21)
        made.catch_up()
        lead_to(made, new)
        assert_refused(made, "has transactions that the source does not have")
        made.start()
        made.wait_for_log("source_is_behind")
        switch_replica(new, "START")
        wait_until(lambda: has_all_of(new, old), what="the replica")
        switch_replica(new, "STOP")
        insert(made, 31)
        wait_until(lambda: len(made.sink_rows("pg", "t")) == 12, what="rows of the promoted replica")
        assert made.stop() == 0
        made.assert_equal("t")
        insert(made, 41)
        made.catch_up()  # its own checkpoint, with its own file
        made.assert_equal("t")


@pytest.mark.parametrize("kind", FAMILIES)
def test_file_positions_of_another_server_are_refused(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    old, new = start_server(kind), start_server(kind)
    begin_replica(new, old)
    with deployment(tmp_path, old, pg=pg15) as made:
        made.config["source"]["position"] = "file"
        follow_until_now(made)
        wait_until(lambda: has_all_of(new, old), what="the replica")
        switch_replica(new, "STOP")
        insert(made, 21, 20, server=new)  # the same file's name, and a larger offset
        lead_to(made, new)
        assert_refused(made, "is another server")


@pytest.mark.parametrize("kind", ["mariadb1011", *(pytest.param(k, marks=pytest.mark.full) for k in REST)])
def test_an_empty_server_is_not_taken_for_being_caught_up(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    empty = start_server(kind)
    with deployment(tmp_path, start_server(kind), pg=pg15) as made:
        follow_until_now(made)
        lead_to(made, empty)
        assert_refused(made, "has transactions that the source does not have")


@pytest.mark.parametrize("kind", ["mysql97", pytest.param("mariadb1011", marks=pytest.mark.full)])
def test_no_session_reads_of_another_server_than_was_checked(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    """An address that leads elsewhere for one connection, whichever it is: the check, a load's, the stream's."""
    source, other = start_server(kind), start_server(kind, options={"gtid_strict_mode": 0} if "maria" in kind else None)
    begin_replica(other, source)
    with deployment(tmp_path, source, pg=pg15) as made, through(source.url) as (proxy, url):
        follow_until_now(made)
        made.config["source"]["url"] = url
        for number in range(1, 8):
            table = unique_name(f"new{number}")
            source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY)", database=made.source_database)
            source.execute(f"INSERT INTO {table} VALUES (1)", database=made.source_database)
            wait_until(lambda: has_all_of(other, source), what="the replica")
            for name, rest in (("t", f"{-number}, 'of the other server'"), (table, f"{-number}")):
                other.execute(f"INSERT INTO {name} VALUES ({rest})", database=made.source_database)
            insert(made, 100 * number)
            proxy.divert(number, other.host, other.port)
            made.start()
            wait_until(lambda: is_there(made, table), what="the rows")  # noqa: B023 - called in this round
            assert made.stop() == 0
            made.assert_equal("t", table)
        assert "is two servers" in made.log()


def is_there(made: Deployment, table: str) -> bool:
    if "table_loaded" not in made.log() or f"{made.source_database}.{table}" not in made.log():
        return False
    states = {one["table"].partition(".")[2]: one["state"] for one in made.status()["tables"]}
    keys = {row[0] for row in made.sink_rows("pg", "t")}
    return states.get(table) == "ready" and {row[0] for row in made.source_rows("t")} <= keys


# ---------------------------------------------------------------- the same server, with another log


def reset(server: Server) -> None:
    server.execute("RESET BINARY LOGS AND GTIDS" if server.family == "mysql" else "RESET MASTER")


def checkpoint_place(made: Deployment) -> tuple[str, int]:
    position = made.status()["sinks"][0]["position"]
    return str(position["file"]), int(position["pos"])


def write_until(made: Deployment, place: tuple[str, int], *, kind: str) -> None:
    """Into a new log, in which an event of that kind begins at the place; '' for none."""
    length = 1000 + (100_000 if not kind else 0)
    for _ in range(2):
        made.source.execute("DELETE FROM t WHERE id >= 1000", database=made.source_database)
        reset(made.source)
        with made.source.connect(made.source_database) as session, session.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (1000, REPEAT('x', %s))", (length,))
            cursor.execute("INSERT INTO t VALUES (1001, 'y')")
            session.commit()
        insert(made, 2000, 1)
        events = made.source.execute(f"SHOW BINLOG EVENTS IN '{place[0]}'")
        found = [event for event in events if event[2] == kind and event[1] > 1000]
        if not kind:
            assert place[1] not in [event[1] for event in events]
            break
        length += place[1] - int(found[0][1])
    assert not kind or int(found[0][1]) == place[1]
    insert(made, 3000, 30)


@pytest.mark.parametrize(
    "server_kind, by, at",
    [
        ("mariadb1011", "gtid", "Gtid"),
        ("mysql97", "file", "Table_map"),
        ("mysql97", "gtid", ""),
        pytest.param("mariadb1011", "gtid", "", marks=pytest.mark.full),
        pytest.param("mariadb118", "gtid", "Gtid", marks=pytest.mark.full),
        pytest.param("mariadb1011", "file", "Table_map", marks=pytest.mark.full),
        pytest.param("mysql97", "file", "", marks=pytest.mark.full),
    ],
)
def test_a_log_that_was_reset_and_has_grown_past_the_checkpoint_is_refused(
    tmp_path: Path, start_server: StartServer, pg15: Server, server_kind: str, by: str, at: str
) -> None:
    with deployment(tmp_path, start_server(server_kind), pg=pg15) as made:
        made.config["source"]["position"] = by
        follow_until_now(made)
        write_until(made, checkpoint_place(made), kind=at)
        assert_refused(made, "is not the one that was read")


@pytest.mark.parametrize("kind", ["mariadb1011", pytest.param("mariadb118", marks=pytest.mark.full)])
def test_a_log_that_lost_its_end_in_a_crash_and_has_grown_since_is_refused(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    source = start_server(kind)
    with deployment(tmp_path, source, pg=pg15) as made:
        follow_until_now(made)
        file, size = checkpoint_place(made)
        begins = [int(e[1]) for e in source.execute(f"SHOW BINLOG EVENTS IN '{file}'") if e[2] == "Gtid"]
        source.kill()
        assert source.directory is not None
        path = source.directory / "data" / file
        assert path.stat().st_size == size
        os.truncate(path, begins[-2])
        source.restart()
        insert(made, 100, 6)
        assert_refused(made, "is not the one that was read")


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_log_that_is_the_one_that_was_read_is_not_refused(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    """At the beginning, middle and end of a file, behind DDL, a purge, a crash and a start of the server."""
    source = start_server(kind)
    with deployment(tmp_path, source, pg=pg15) as made:
        follow_until_now(made)

        def step(number: int) -> None:
            if number == 0:
                source.execute("FLUSH BINARY LOGS")
            elif number == 1:
                source.restart()
            elif number == 2:
                source.execute("ALTER TABLE t ADD COLUMN w INT DEFAULT 5", database=made.source_database)
                source.execute("ALTER TABLE t DROP COLUMN w", database=made.source_database)
            elif number == 3:
                source.kill()
                source.restart()
            elif number == 4:
                source.execute("CREATE DATABASE IF NOT EXISTS elsewhere")
                with source.connect("elsewhere") as session, session.cursor() as cursor:
                    cursor.execute("CREATE TABLE many (id INT)")
                    cursor.execute("XA START 'x'")
                    cursor.execute("INSERT INTO many VALUES (1)")
                    cursor.execute("XA END 'x'")
                    cursor.execute("XA PREPARE 'x'")
            elif number == 5:
                source.execute("FLUSH BINARY LOGS")
                made.catch_up()
                last = source.execute("SHOW BINARY LOGS")[-1][0]
                source.execute(f"PURGE BINARY LOGS TO '{last}'")

        for number in range(6):
            step(number)
            made.catch_up()  # without a row
            insert(made, 100 * (number + 1))
            made.catch_up()
            made.assert_equal("t")
        source.execute("XA ROLLBACK 'x'")


def test_a_domain_that_was_deleted_is_not_missed(tmp_path: Path, start_server: StartServer, pg15: Server) -> None:
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, pg=pg15) as made:
        source.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)", database=made.source_database)
        with source.connect(made.source_database) as session, session.cursor() as cursor:
            cursor.execute("SET gtid_domain_id = 7")
            cursor.execute("INSERT INTO t VALUES (-1, '')")
            session.commit()
        insert(made, 1)
        made.catch_up()
        source.execute("FLUSH BINARY LOGS")
        made.catch_up()
        source.execute("FLUSH BINARY LOGS")
        wait_until(lambda: purge_all(source) == 1, what="the old files to be purged")
        source.execute("FLUSH BINARY LOGS DELETE_DOMAIN_ID = (7)")
        insert(made, 11)
        made.catch_up()
        made.assert_equal("t")


def purge_all(server: Server) -> int:
    server.execute(f"PURGE BINARY LOGS TO '{server.execute('SHOW BINARY LOGS')[-1][0]}'")
    return len(server.execute("SHOW BINARY LOGS"))
