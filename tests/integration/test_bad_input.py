"""Mistakes of configuration and surprises on the servers: one line of cause, one of hint, the right exit code.

Each leaves the checkpoint as it was.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment

PASSWORD = "s3cret-c4nary/@:x"
PASSWORD_IN_URL = "s3cret-c4nary%2F%40%3Ax"


@pytest.fixture
def made(tmp_path: Path, mysql97: Server, pg15: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mysql97, sink=pg15) as one:
        one.source.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", database=one.source_database)
        one.source.execute("INSERT INTO t VALUES (1, 'one')", database=one.source_database)
        yield one


def _says(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    text = "\n".join(lines)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert PASSWORD not in result.stdout + result.stderr
    assert any(line.startswith("cdc: ") for line in lines), text
    assert any(line.startswith("  hint: ") for line in lines), text
    for word in words:
        assert word in text, text


def _run(made: Deployment, code: int, *words: str) -> None:
    _says(made.run("run", "--until-caught-up"), code, *words)


def test_wrong_password(made: Deployment) -> None:
    made.config["source"]["url"] = f"mysql://nobody:{PASSWORD_IN_URL}@127.0.0.1:{made.source.port}"
    _run(made, 2, "1045", "source.url")


def test_unreachable_source(made: Deployment) -> None:
    made.config["source"]["url"] = f"mysql://u:{PASSWORD_IN_URL}@127.0.0.1:1"
    _run(made, 1, "127.0.0.1:1", "2003")


def test_unreachable_sink(made: Deployment) -> None:
    made.config["sinks"][0]["url"] = f"postgresql://u:{PASSWORD_IN_URL}@127.0.0.1:1/db"
    _run(made, 1, "127.0.0.1:1")


def test_missing_sink_database(made: Deployment) -> None:
    made.config["sinks"][0]["url"] = made.sinks["sink"][0].url_for("no_such_database")
    _run(made, 2, "no_such_database", "CREATE DATABASE")


def test_every_mistake_of_the_configuration_at_once(made: Deployment) -> None:
    command = made.command("config", "show")
    (made.directory / "config.yaml").write_text(
        "name: Bad Name\nsource: {url: 'mysql://u@h', server_id: 0, colour: red}\nsinks: []\ntables: {include: [x]}\n"
    )
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    for word in ("config.yaml:1 name", "config.yaml:2 source.server_id", "source.colour", "sinks", "include"):
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize(
    "options,words",
    [
        ({"disable_log_bin": 1, "log_bin": None, "gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}, ["log_bin"]),
        ({"binlog_format": "STATEMENT"}, ["STATEMENT", "SET GLOBAL binlog_format = ROW"]),
    ],
    ids=["binlog_off", "statement_format"],
)
def test_source_settings(
    tmp_path: Path,
    start_server: Callable[..., Server],
    pg15: Server,
    options: dict[str, object],
    words: list[str],
) -> None:
    with deployment(tmp_path, start_server("mysql97", options=options), sink=pg15) as one:
        one.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=one.source_database)
        _run(one, 2, *words)


@pytest.mark.parametrize(
    "grants,words",
    [
        ("SELECT, REPLICATION SLAVE", ["REPLICATION CLIENT"]),
        ("SELECT, REPLICATION CLIENT", ["REPLICATION SLAVE"]),
    ],
)
def test_a_missing_privilege_is_named(made: Deployment, grants: str, words: list[str]) -> None:
    user = f"u_{made.source_database[-12:]}"
    made.source.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY '{PASSWORD}'")
    try:
        made.source.execute(f"GRANT {grants} ON *.* TO '{user}'@'%'")
        made.config["source"]["url"] = f"mysql://{user}:{PASSWORD_IN_URL}@127.0.0.1:{made.source.port}"
        _run(made, 2, *words)
    finally:
        made.source.execute(f"DROP USER '{user}'@'%'")


def test_a_table_that_cannot_be_loaded_is_parked_and_the_rest_go_on(made: Deployment) -> None:
    made.source.execute("CREATE TABLE nokey (a INT, b INT) ENGINE=MyISAM", database=made.source_database)
    made.source.execute("INSERT INTO nokey VALUES (1, 2)", database=made.source_database)
    _run(made, 1, "nokey", "no read view", "ENGINE=InnoDB")
    made.assert_equal("t")
    states = {t["table"].partition(".")[2]: t for t in made.status()["tables"]}
    assert states["nokey"]["state"] == "parked"
    assert states["nokey"]["error"]["class"] == "UnsupportedData"
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.nokey", "primary_key": "a"}]
    result = made.run("snapshot", f"{made.source_database}.nokey")
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal("t", "nokey")


def test_a_sink_table_with_other_columns_is_named_column_by_column(made: Deployment) -> None:
    server, database = made.sinks["sink"]
    server.execute(f'CREATE SCHEMA "{made.source_database}"', database=database)
    server.execute(f'CREATE TABLE "{made.source_database}".t (id text PRIMARY KEY, w int NOT NULL)', database=database)
    _run(made, 1, "does not fit", "id", "v", "w")
    assert server.execute(f'SELECT count(*) FROM "{made.source_database}".t', database=database)[0][0] == 0


def test_a_target_with_rows_of_somebody_else_is_not_overwritten(made: Deployment) -> None:
    server, database = made.sinks["sink"]
    server.execute(f'CREATE SCHEMA "{made.source_database}"', database=database)
    table = f'"{made.source_database}".t'
    server.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v varchar(20))", database=database)
    server.execute(f"INSERT INTO {table} VALUES (99, 'theirs')", database=database)
    _run(made, 1, "did not write", "cdc snapshot")
    assert server.execute(f"SELECT id FROM {table}", database=database)[0][0] == 99
    result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal("t")


def test_a_purged_position_stops_with_the_checkpoint_untouched(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server("mysql97")
    with deployment(tmp_path, source, sink=pg15) as one:
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=one.source_database)
        one.catch_up()
        before = json.loads(one.run("checkpoint", "show", "--json").stdout)
        source.execute("INSERT INTO t VALUES (1)", database=one.source_database)
        source.execute("FLUSH BINARY LOGS")
        last = [row[0] for row in source.execute("SHOW BINARY LOGS")][-1]
        source.execute(f"PURGE BINARY LOGS TO '{last}'")
        _run(one, 1, "1236", "checkpoint reset")
        after = json.loads(one.run("checkpoint", "show", "--json").stdout)
        assert after[0]["position"] == before[0]["position"]
        assert one.run("checkpoint", "reset", "--yes").returncode == 0
        one.catch_up()
        one.assert_equal("t")


def test_a_sink_user_without_create_gets_the_grant_named(made: Deployment) -> None:
    server, database = made.sinks["sink"]
    user = f"u_{database[-12:]}"
    server.execute(f"CREATE USER {user} PASSWORD '{PASSWORD}'", database=database)
    try:
        made.config["sinks"][0]["url"] = f"postgresql://{user}:{PASSWORD_IN_URL}@127.0.0.1:{server.port}/{database}"
        _run(made, 2, "GRANT CREATE ON DATABASE")
    finally:
        server.execute(f"DROP USER {user}", database=database)


def test_a_refused_value_parks_its_table_only_and_snapshot_brings_it_back(made: Deployment) -> None:
    made.config["policies"] = {"zero_dates": "error"}
    database = made.source_database
    made.source.execute("CREATE TABLE d (id INT PRIMARY KEY, at DATETIME NULL)", database=database)
    made.catch_up()
    with made.source.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")
        cursor.execute("INSERT INTO d VALUES (7, '0000-00-00 00:00:00')")
        cursor.execute("INSERT INTO t VALUES (8, 'eight')")
        connection.commit()
    _run(made, 1, f"{database}.d", "at", "zero_dates")
    made.assert_equal("t")
    error = next(t["error"] for t in made.status()["tables"] if t["table"] == f"{database}.d")
    assert error["key"] is None or "7" in error["key"]
    made.source.execute("UPDATE d SET at = '2024-01-01' WHERE id = 7", database=database)
    result = made.run("snapshot", f"{database}.d")
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal("t", "d")


def test_rows_that_foreign_keys_change_in_silence_are_not_followed_in_silence(
    tmp_path: Path, mariadb1011: Server, pg15: Server
) -> None:
    """MariaDB does not log what ON DELETE CASCADE removes: the copy would keep the rows for good."""
    with deployment(tmp_path, mariadb1011, sink=pg15) as one:
        execute = one.source.execute
        execute("CREATE TABLE parent (id INT PRIMARY KEY)", database=one.source_database)
        execute(
            "CREATE TABLE child (id INT PRIMARY KEY, p INT, "
            "CONSTRAINT to_parent FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
            database=one.source_database,
        )
        execute("INSERT INTO parent VALUES (1)", database=one.source_database)
        one.config["policies"] = {"hidden_cascades": "park"}
        _run(one, 1, "child", "to_parent", "ON DELETE CASCADE", "hidden_cascades")
        one.assert_equal("parent")
        one.config["policies"] = {"hidden_cascades": "accept"}
        result = one.run("snapshot", f"{one.source_database}.child")
        assert result.returncode == 0, result.stderr
        one.assert_equal("parent", "child")
