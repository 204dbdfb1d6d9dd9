"""Loads beside what is there already: reloads, changed configuration, rights, keys, and what the log shows of old."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import TableName
from cdc.schema.mapping import map_table
from cdc.schema.target import Policies, SinkKind
from cdc.source.connection import SourceConnection, SourceSettings, connect
from checkpoints.store import InSinkStore, TableRecord
from snapshot.loader import LoadLimits, TableLoader
from snapshot.parallel import SessionPool
from tests.integration.test_store import Place
from tests.integration.test_visible_position import OPTIONS, written
from tests.support import fresh_database, fresh_pg_database, wait_until
from tests.support.deployment import Deployment, deployment


@pytest.fixture
def made(tmp_path: Path, mysql97: Server, pg15: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mysql97, sink=pg15) as one:
        one.source.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", database=one.source_database)
        one.source.execute("INSERT INTO t VALUES (1, 'one'), (2, 'two')", database=one.source_database)
        yield one


def _tables(one: Deployment) -> dict[str, dict[str, Any]]:
    return {t["table"].partition(".")[2]: t for t in one.status()["tables"]}


@pytest.mark.parametrize("position", ["gtid", "file"])
def test_a_reload_does_not_lose_a_row_that_the_stream_has_passed_and_no_select_sees_yet(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, position: str
) -> None:
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, sink=pg15) as one:
        one.config["source"]["position"] = position
        database = one.source_database
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=database)
        source.execute("INSERT INTO t VALUES (1)", database=database)
        one.catch_up()
        for name, value in OPTIONS.items():
            source.execute(f"SET GLOBAL {name} = {value!r}")
        one.start()
        one.wait_for_log("service_started")
        before = written(source)
        waiting = threading.Thread(
            target=source.execute, args=("INSERT INTO t VALUES (2)",), kwargs={"database": database}
        )
        waiting.start()
        wait_until(lambda: written(source) > before, 5, "the row in the binlog")
        wait_until(lambda: len(one.sink_rows("sink", "t")) == 2, 5, "the row at the sink, before any SELECT sees it")
        assert waiting.is_alive(), "the source answered before the reload: the test shows nothing"
        result = one.run("snapshot", f"{database}.t")
        assert result.returncode == 0, result.stderr
        waiting.join()
        assert one.stop() == 0
        one.catch_up()
        one.assert_equal("t")


def test_an_interrupted_reload_keeps_what_readers_had(made: Deployment) -> None:
    made.config["snapshot"] = {"chunk_rows": 100}
    values = ", ".join(f"({n}, 'row {n}')" for n in range(10, 1010))
    made.source.execute(f"INSERT INTO t VALUES {values}", database=made.source_database)
    made.catch_up()
    made.source.execute("ALTER TABLE t ORDER BY v", database=made.source_database)  # not known to be harmless
    for _ in range(2):
        made.start(crash_at="load_chunk:3")
        made.wait_until_killed()
        assert len(made.sink_rows("sink", "t")) == 1002
    made.catch_up()
    made.assert_equal("t")


def test_a_changed_schema_loads_the_table_where_it_goes_now(made: Deployment) -> None:
    made.config["sinks"][0]["schema"] = "raw"
    made.catch_up()
    made.config["sinks"][0]["schema"] = made.source_database
    made.source.execute("UPDATE t SET v = 'zwei' WHERE id = 2", database=made.source_database)
    made.catch_up()
    made.assert_equal("t")
    assert _tables(made)["t"]["target"] == f"{made.source_database}.t"


def test_a_changed_key_loads_the_table_again(made: Deployment) -> None:
    made.catch_up()
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.t", "primary_key": ["id", "v"]}]
    made.source.execute("UPDATE t SET v = 'zwei' WHERE id = 2", database=made.source_database)
    made.source.execute("ALTER TABLE t MODIFY v VARCHAR(20) NOT NULL", database=made.source_database)
    made.catch_up()
    made.assert_equal("t")
    server, database = made.sinks["sink"]
    rows = server.execute(
        f"SELECT count(*) FROM pg_index WHERE indrelid = '\"{made.source_database}\".t'::regclass AND indnatts = 2",
        database=database,
    )
    assert rows[0][0] == 1


def test_two_tables_with_one_target_do_not_mix(made: Deployment) -> None:
    with fresh_database(made.source) as other:
        made.source.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", database=other)
        made.source.execute("INSERT INTO t VALUES (1, 'other')", database=other)
        made.config["tables"]["include"].append(f"{other}.*")
        made.config["sinks"][0]["schema"] = "raw"
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1
        assert "goes to the same target" in result.stderr
        states = sorted(table["state"] for table in made.status()["tables"])
        assert states == ["parked", "ready"]


def _loader(
    source: SourceConnection, store: InSinkStore, namespace: str, key: str, hook: Callable[[str], None]
) -> TableLoader:
    kind: SinkKind = "postgresql" if store.sink.kind == "postgresql" else "mariadb"
    return TableLoader(
        source=source,
        sink=store.sink,
        store=store,
        make_target=lambda found: map_table(
            found, kind=kind, namespace=namespace, name="t", key=(key,), policies=Policies()
        ),
        transform=lambda rows, _target: rows,
        options=lambda _table, _key: {},
        chunk_rows=lambda _database, _table: 3,
        sessions=SessionPool(lambda: connect(source.settings)),
        limits=LoadLimits(),
        accepts_hidden_cascades=lambda _database, _table: True,
        hook=hook,
        on_progress=lambda table, *, rows, rows_estimate: None,
    )


@pytest.mark.parametrize("point", ["target_made", "load_begun", "load_done"])
@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011"])
def test_ddl_in_the_middle_of_the_first_load_begins_it_again(
    mysql97: Server, point: str, sink_name: str, request: pytest.FixtureRequest
) -> None:
    """Also where the DDL gives it other columns: the target of the first attempt is ours to make anew."""
    server: Server = request.getfixturevalue(sink_name)
    fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
    with fresh_database(mysql97) as database, fresh(server) as target, contextlib.ExitStack() as stack:
        mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", database=database)
        mysql97.execute("INSERT INTO t VALUES (1, 'one'), (2, 'two')", database=database)
        store = Place(server, target, stack).holder()
        reached: list[str] = []

        def hook(name: str) -> None:
            reached.append(name)
            if name == point and reached.count(name) == 1:
                mysql97.execute("ALTER TABLE t ADD COLUMN colour VARCHAR(9) DEFAULT 'red' FIRST", database=database)

        source = connect(SourceSettings(mysql97.host, mysql97.port, mysql97.user, mysql97.password, 77))
        stack.callback(source.close)
        namespace = "raw" if server.family == "postgresql" else target
        loader = _loader(source, store, namespace, "id", hook)
        record = loader.load(
            TableRecord(source=TableName(database, "t"), target="", state="pending"), may_replace=False
        )
        assert reached.count("load_begun") == 2
        assert record.rows_loaded == 2
        rows = server.execute(f"SELECT id, v, colour FROM {namespace}.t ORDER BY id", None, database=target)
        assert [tuple(row) for row in rows] == [(1, "one", "red"), (2, "two", "red")]


def test_a_key_that_is_not_unique_is_refused(made: Deployment) -> None:
    made.source.execute("CREATE TABLE g (k VARCHAR(9) NOT NULL, v INT)", database=made.source_database)
    made.source.execute("INSERT INTO g VALUES ('a', 1), ('b', 2), ('B', 3), ('d', 4)", database=made.source_database)
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.g", "primary_key": "k", "batch_size": 2}]
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert "is not unique" in result.stderr


@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_key_that_is_null_in_a_row_which_comes_during_the_load_is_refused(
    mysql97: Server, sink_name: str, count: int, request: pytest.FixtureRequest
) -> None:
    """One such row is before all borders, and the sink refuses it; of five, one is a border."""
    server: Server = request.getfixturevalue(sink_name)
    fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
    with fresh_database(mysql97) as database, fresh(server) as target, contextlib.ExitStack() as stack:
        mysql97.execute("CREATE TABLE t (u INT NULL UNIQUE)", database=database)
        mysql97.execute(f"INSERT INTO t VALUES {', '.join(f'({n})' for n in range(10))}", database=database)

        def hook(name: str) -> None:
            if name == "load_begun":
                mysql97.execute(f"INSERT INTO t VALUES {', '.join(['(NULL)'] * count)}", database=database)

        source = connect(SourceSettings(mysql97.host, mysql97.port, mysql97.user, mysql97.password, 77))
        stack.callback(source.close)
        namespace = "raw" if server.family == "postgresql" else target
        loader = _loader(source, Place(server, target, stack).holder(), namespace, "u", hook)
        record = TableRecord(source=TableName(database, "t"), target="", state="pending")
        with pytest.raises(UnsupportedData, match="NULL" if count > 1 else None) as caught:
            loader.load(record, may_replace=False)
        assert caught.value.table == f"{database}.t"


@pytest.mark.parametrize("unique", ["UNIQUE", ""])
@pytest.mark.parametrize("key", ["u", ["id", "u"]])
def test_a_key_that_is_null_in_some_rows_is_refused(made: Deployment, unique: str, key: Any) -> None:
    made.source.execute(f"CREATE TABLE g (id INT NOT NULL, u INT NULL {unique})", database=made.source_database)
    rows = ", ".join(f"({n}, {n})" for n in range(8))
    made.source.execute(f"INSERT INTO g VALUES {rows}, (8, NULL), (9, NULL)", database=made.source_database)
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.g", "primary_key": key}]
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 1
    error = _tables(made)["g"]["error"]
    assert "is NULL in some rows" in error["message"]
    assert "never NULL" in error["hint"]
    made.source.execute("UPDATE g SET u = id WHERE u IS NULL", database=made.source_database)
    assert made.run("snapshot", f"{made.source_database}.g").returncode == 0
    made.catch_up()
    made.assert_equal("g")


@pytest.mark.parametrize("grant", ["", "SELECT (id)"])
def test_a_missing_right_on_one_table_parks_that_table(made: Deployment, grant: str) -> None:
    database = made.source_database
    user = f"u_{database[-12:]}"
    made.source.execute("CREATE TABLE secret (id INT PRIMARY KEY, v INT)", database=database)
    made.source.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'")
    try:
        made.source.execute(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '{user}'@'%'")
        made.source.execute(f"GRANT SELECT ON `{database}`.t TO '{user}'@'%'")
        if grant:
            made.source.execute(f"GRANT {grant} ON `{database}`.secret TO '{user}'@'%'")
        made.config["source"]["url"] = f"mysql://{user}:pw@127.0.0.1:{made.source.port}"
        made.run("run", "--until-caught-up")
        made.source.execute("INSERT INTO secret VALUES (1, 2)", database=database)
        made.source.execute("INSERT INTO t VALUES (7, 'seven')", database=database)
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1, result.stderr
        assert "GRANT SELECT ON" in result.stderr
        made.assert_equal("t")
        assert _tables(made)["secret"]["state"] == "parked"
    finally:
        made.source.execute(f"DROP USER '{user}'@'%'")


def test_a_table_that_came_and_went_in_the_current_file_is_passed_over_by_file_position(made: Deployment) -> None:
    made.config["source"]["position"] = "file"
    database = made.source_database
    made.source.execute("CREATE TABLE brief (a INT PRIMARY KEY)", database=database)
    made.source.execute("INSERT INTO brief VALUES (1)", database=database)
    made.source.execute("DROP TABLE brief", database=database)
    made.catch_up(timeout=30)
    made.source.execute("INSERT INTO t VALUES (3, 'three')", database=database)
    made.catch_up(timeout=30)
    made.assert_equal("t")


def test_a_reset_log_is_not_taken_for_being_caught_up(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, sink=pg15) as one:
        one.config["source"]["position"] = "file"
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=one.source_database)
        source.execute("FLUSH BINARY LOGS")
        one.catch_up()
        source.execute("RESET MASTER")
        source.execute("INSERT INTO t VALUES (1)", database=one.source_database)
        result = one.run("run", "--until-caught-up")
        assert result.returncode == 1
        assert "past the end of the source's log" in result.stderr


def test_sequences_are_passed_over_and_versioned_tables_are_parked(
    tmp_path: Path, mariadb118: Server, pg15: Server
) -> None:
    with deployment(tmp_path, mariadb118, sink=pg15) as one:
        execute = one.source.execute
        execute("CREATE TABLE t (id INT PRIMARY KEY)", database=one.source_database)
        execute("CREATE SEQUENCE s", database=one.source_database)
        one.catch_up()
        execute("SELECT NEXTVAL(s)", database=one.source_database)
        execute("INSERT INTO t VALUES (1)", database=one.source_database)
        one.catch_up()
        one.assert_equal("t")
        assert set(_tables(one)) == {"t"}
        execute("CREATE TABLE v (id INT PRIMARY KEY) WITH SYSTEM VERSIONING", database=one.source_database)
        result = one.run("run", "--until-caught-up")
        assert result.returncode == 1
        assert "system versioned" in result.stderr
        assert _tables(one)["v"]["state"] == "parked"
