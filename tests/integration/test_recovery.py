"""Tables behind a purged log, and parked ones: loaded again where that is wanted, and within limits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until


def purge(source: Server) -> None:
    """Throw away all log before now."""
    source.execute("FLUSH BINARY LOGS")
    source.execute("FLUSH BINARY LOGS")
    newest = source.execute("SHOW BINARY LOGS")[-1][0]

    def is_done() -> bool:
        # Not what somebody reads: the server sees that a reader has gone when it has something to send.
        source.execute(f"PURGE BINARY LOGS TO '{newest}'")
        return bool(source.execute("SHOW BINARY LOGS")[0][0] == newest)

    wait_until(is_done, what="the log to be purged")


def with_a_gap(made: Deployment) -> None:
    """Two tables that are followed, and changes of them that are in no log any more."""
    source, database = made.source, made.source_database
    for table in ("a", "kept"):
        source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT NULL)", database=database)
        source.execute(f"INSERT INTO {table} VALUES (1, 1), (2, 2), (3, 3)", database=database)
    made.config["tables"]["overrides"] = [{"table": f"{database}.kept", "mode": "history"}]
    made.catch_up()
    for table in ("a", "kept"):
        source.execute(f"DELETE FROM {table} WHERE id = 1", database=database)
        source.execute(f"UPDATE {table} SET v = 20 WHERE id = 2", database=database)
        source.execute(f"INSERT INTO {table} VALUES (4, 4)", database=database)
    purge(source)
    source.execute("INSERT INTO a VALUES (5, 5)", database=database)


@pytest.mark.in_turn
@pytest.mark.parametrize("kind", ["mysql97", pytest.param("mariadb1011", marks=pytest.mark.full)])
def test_a_purged_log_stops_unless_tables_are_to_be_loaded_again(
    tmp_path: Path, kind: str, start_server: Callable[..., Server], pg15: Server, mariadb118: Server
) -> None:
    source = start_server(kind)
    with deployment(tmp_path, source, pg=pg15, maria=mariadb118) as made:
        with_a_gap(made)
        stopped = made.run("run", "--until-caught-up")
        assert stopped.returncode == 1
        assert "no longer has the binlog" in stopped.stderr
        made.config["recovery"] = {"on_purged": "resnapshot"}
        went_on = made.run("run", "--until-caught-up")
        assert went_on.returncode == 1  # `kept` is parked, and said so
        assert went_on.stderr.count("has purged changes of it") == 2  # a sink each
        made.assert_equal("a")
        states = {(t["sink"], t["table"].partition(".")[2]): t["state"] for t in made.status()["tables"]}
        assert states == {
            ("pg", "a"): "ready",
            ("pg", "kept"): "parked",
            ("maria", "a"): "ready",
            ("maria", "kept"): "parked",
        }
        assert made.run("snapshot", f"{made.source_database}.kept").returncode == 0
        source.execute("INSERT INTO a VALUES (6, 6)", database=made.source_database)
        made.catch_up()
        made.assert_equal("a")


def replica_of(source: Server, replica: Server, database: str) -> None:
    """It goes on from where the source is now, and writes what it gets into a log of its own."""
    replica.execute(f"CREATE DATABASE {database}")
    replica.execute("RESET MASTER")
    at = source.execute("SELECT @@gtid_binlog_pos")[0][0]
    replica.execute(f"SET GLOBAL gtid_slave_pos = '{at}'")
    replica.execute(f"SET GLOBAL gtid_binlog_state = '{at}'")
    replica.execute(
        f"CHANGE MASTER TO MASTER_HOST = '{source.host}', MASTER_PORT = {source.port}, MASTER_USER = '{source.user}', "
        f"MASTER_PASSWORD = '{source.password}', MASTER_USE_GTID = slave_pos"
    )
    replica.execute("START SLAVE")


def take_over(source: Server, replica: Server) -> None:
    """Once it has all that the source has written."""
    at = source.execute("SELECT @@gtid_binlog_pos")[0][0]
    assert replica.execute(f"SELECT MASTER_GTID_WAIT('{at}', 60)")[0][0] == 0
    replica.execute("STOP SLAVE")
    replica.execute("RESET SLAVE ALL")


@pytest.mark.parametrize("kind", ["mariadb1011", pytest.param("mariadb118", marks=pytest.mark.full)])
def test_a_log_that_was_purged_on_the_server_that_took_over_loads_tables_again(
    tmp_path: Path, kind: str, start_server: Callable[..., Server], pg15: Server
) -> None:
    """MariaDB: its files have other numbers than the checkpoint's. (MySQL's GTID sets are the same everywhere.)"""
    source, replica = start_server(kind), start_server(kind)
    with deployment(tmp_path, source, pg=pg15) as made:
        database = made.source_database
        replica_of(source, replica, database)
        source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=database)
        source.execute("INSERT INTO a VALUES (1), (2)", database=database)
        made.catch_up()
        source.execute("DELETE FROM a WHERE id = 1", database=database)
        take_over(source, replica)
        purge(replica)
        replica.execute("INSERT INTO a VALUES (3)", database=database)
        made.config["source"]["url"] = replica.url
        stopped = made.run("run", "--until-caught-up")
        assert stopped.returncode == 1
        assert "no longer has the binlog" in stopped.stderr
        made.config["recovery"] = {"on_purged": "resnapshot"}
        made.source = replica
        made.catch_up()
        made.assert_equal("a")
        assert made.sink_rows("pg", "a") == [(2,), (3,)]


def test_a_server_that_took_over_without_what_the_sink_has_is_not_papered_over(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source, replica = start_server("mariadb1011"), start_server("mariadb1011")
    with deployment(tmp_path, source, pg=pg15) as made:
        database = made.source_database
        replica_of(source, replica, database)
        source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=database)
        take_over(source, replica)
        source.execute("INSERT INTO a VALUES (1)", database=database)
        source.execute("INSERT INTO a VALUES (2)", database=database)
        made.catch_up()
        purge(replica)
        made.config["recovery"] = {"on_purged": "resnapshot"}
        made.config["source"]["url"] = replica.url
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1
        assert len(made.sink_rows("pg", "a")) == 2


@pytest.mark.parametrize("kind", ["mariadb1011", pytest.param("mysql97", marks=pytest.mark.full)])
def test_a_log_that_was_purged_under_a_side_loads_its_tables_again(
    tmp_path: Path, kind: str, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server(kind)
    with deployment(tmp_path, source, pg=pg15) as made:
        database = made.source_database
        made.config["snapshot"] = {"beside": 1, "beside_rows_min": 0}
        source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=database)
        made.catch_up()
        for table in ("b", "c"):
            source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY)", database=database)
            source.execute(f"INSERT INTO {table} VALUES (1)", database=database)
        with contextlib.closing(source.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLES c WRITE")
            made.start()
            made.wait_for_log("table_loaded")
            made.kill()
        source.execute("INSERT INTO b VALUES (2)", database=database)
        purge(source)
        source.execute("INSERT INTO b VALUES (3)", database=database)
        made.config["recovery"] = {"on_purged": "resnapshot"}
        made.catch_up()
        made.assert_equal("a", "b", "c")
        assert {table["state"] for table in made.status()["tables"]} == {"ready"}


def test_a_source_that_lost_what_the_sink_has_is_not_papered_over(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server("mysql97")
    with deployment(tmp_path, source, pg=pg15) as made:
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        source.execute("INSERT INTO t VALUES (1)", database=made.source_database)
        made.catch_up()
        made.config["recovery"] = {"on_purged": "resnapshot"}
        source.execute("RESET BINARY LOGS AND GTIDS")
        source.execute("DELETE FROM t", database=made.source_database)
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1
        assert len(made.sink_rows("pg", "t")) == 1


def rejects(made: Deployment, sink: str) -> list[dict[str, Any]]:
    server, database = made.sinks[sink]
    table = '"_cdc".rejects' if server.family == "postgresql" else "_cdc_rejects"
    found = server.execute(f"SELECT error FROM {table} ORDER BY id", database=database)
    return [json.loads(error) for (error,) in found]


@pytest.mark.in_turn
def test_a_parked_table_comes_back_by_itself_within_limits(
    tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server
) -> None:
    """Twice it is tried in vain, which uses up the day; another deployment finds the row mended at its first try."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        database = made.source_database
        source_server.execute("CREATE TABLE bad (code INT NULL, note VARCHAR(9))", database=database)
        source_server.execute("INSERT INTO bad VALUES (NULL, 'é')", database=database)
        source_server.execute("CREATE TABLE good (id INT PRIMARY KEY)", database=database)
        made.config["tables"]["overrides"] = [{"table": f"{database}.bad", "primary_key": ["code"]}]
        made.config["recovery"] = {"loads_per_day": 2, "first_seconds": 0.1}
        made.start()
        made.wait_for_log("parked_table_waits", count=2)
        for sink in made.sinks:
            kept = rejects(made, sink)
            assert len(kept) == 3  # at first, and after each load
            assert {(one["table"], one["class"]) for one in kept} == {(f"{database}.bad", kept[0]["class"])}
            assert "NULL" in kept[0]["message"]
        source_server.execute("INSERT INTO good VALUES (1)", database=database)
        for sink in made.sinks:
            wait_until(lambda: len(made.sink_rows("pg", "good")) == len(made.sink_rows("maria", "good")) == 1)
            assert len(rejects(made, sink)) == 3
        assert made.log().count("parked_tables_tried_again") == 4
        made.stop()
        source_server.execute("UPDATE bad SET code = 7", database=database)
        made.config["recovery"]["loads_per_day"] = 3
        made.start()
        wait_until(lambda: all(t["state"] == "ready" for t in made.status()["tables"]), what="the table to be ready")
        made.assert_equal("bad", "good")
        made.stop()
