"""DDL on real servers, both sink kinds: what is proven is done without a load, what is not loads the table again."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.model import TableName
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.definitions import read_definition
from tests.support import wait_until
from tests.support.ddl_forms import FOLLOWED, LISTED, LISTED_LOADED, LOADED, ROWS, SWAPPED, TABLE
from tests.support.ddl_targets import MINE, mark, on_sink, on_source, unmarked
from tests.support.deployment import Deployment, deployment
from tests.support.random_ddl import RandomDdl
from tests.support.writer import TABLES, Writer, create_schema


def _columns(made: Deployment, sink: str) -> dict[str, set[tuple[Any, ...]]]:
    """Name, type, nullability and default of each column of each table; whatever its place."""
    server, database = made.sinks[sink]
    if server.family == "postgresql":
        rows = server.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, "
            "pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attrdef d ON d.adrelid = c.oid "
            f"AND d.adnum = a.attnum WHERE n.nspname = '{made.source_database}' AND c.relkind = 'r' "
            "AND a.attnum > 0 AND NOT a.attisdropped",
            database=database,
        )
    else:
        rows = server.execute(
            "SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT, CHARACTER_SET_NAME, "
            f"COLLATION_NAME, EXTRA FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{database}' "
            r"AND TABLE_NAME NOT LIKE '\_cdc%'",
        )
    found: dict[str, set[tuple[Any, ...]]] = {}
    for table, name, *details in rows:
        if name != MINE:
            found.setdefault(table, set()).add((name, *details))
    return found


def _assert_as_if_made_now(made: Deployment, tmp_path: Path) -> None:
    """The targets have the definitions of targets that are made for the tables as they are."""
    with contextlib.ExitStack() as stack:
        directory = tmp_path / "fresh"
        directory.mkdir()
        servers = {name: server for name, (server, _) in made.sinks.items()}
        fresh = stack.enter_context(deployment(directory, made.source, **servers))
        fresh.config["tables"] = made.config["tables"]
        fresh.source_database = made.source_database
        fresh.catch_up()
        for sink in made.sinks:
            expected, actual = _columns(fresh, sink), _columns(made, sink)
            wrong = {t: (actual.get(t, set()) ^ columns) for t, columns in expected.items() if actual.get(t) != columns}
            assert not wrong, f"{sink}: {wrong}"


def _log_events(log: str, event: str) -> list[str]:
    return [line for line in log.splitlines() if f'"event": "{event}"' in line]


PAIRS = (("mysql97", "mariadb1011"), ("mariadb118", "mysql97"), ("mariadb1011", "mariadb118"))


@pytest.fixture(params=PAIRS, ids=[source for source, _ in PAIRS])
def pair(request: pytest.FixtureRequest, tmp_path: Path, pg15: Server) -> Iterator[Deployment]:
    """Every source; PostgreSQL and one of the MySQL family."""
    with _made_of(request, tmp_path, pg15, request.param) as made:
        yield made


@pytest.fixture
def one_pair(request: pytest.FixtureRequest, tmp_path: Path, pg15: Server) -> Iterator[Deployment]:
    """For what the source has no part in."""
    with _made_of(request, tmp_path, pg15, PAIRS[0]) as made:
        yield made


@contextlib.contextmanager
def _made_of(
    request: pytest.FixtureRequest, tmp_path: Path, pg15: Server, names: tuple[str, str]
) -> Iterator[Deployment]:
    source, sink = names
    with deployment(tmp_path, request.getfixturevalue(source), pg=pg15, my=request.getfixturevalue(sink)) as made:
        yield made


def _some(forms: tuple[str, ...], made: Deployment) -> tuple[str, ...]:
    """A third of the forms for each pair, so that all are met; `CDC_DDL_TESTS=all`: all of them for each."""
    if os.environ.get("CDC_DDL_TESTS") == "all":
        return forms
    number = [source for source, _ in PAIRS].index(made.source.kind.name)
    return forms[number :: len(PAIRS)]


@pytest.mark.every_server  # each pair has a third of the forms
def test_every_proven_form_is_followed_without_a_load(pair: Deployment, tmp_path: Path) -> None:
    _follow_all(pair, _some(FOLLOWED, pair))
    _assert_as_if_made_now(pair, tmp_path)


@pytest.mark.parametrize(
    "name,options",
    [("mysql97", {"binlog_row_metadata": "MINIMAL"}), ("mariadb118", {"binlog_row_metadata": "NO_LOG"})],
)
def test_forms_are_followed_where_the_log_has_no_names(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, name: str, options: dict[str, object]
) -> None:
    with deployment(tmp_path, start_server(name, options=options), pg=pg15) as made:
        _follow_all(made, FOLLOWED[::5])


def _follow_all(made: Deployment, forms: tuple[str, ...]) -> None:
    tables = [f"t{number}" for number in range(len(forms))]
    for table in tables:
        on_source(made, TABLE.format(t=table))
        on_source(made, ROWS.format(t=table))
    made.catch_up()
    for table in tables:
        mark(made, table)
    for table, form in zip(tables, forms, strict=True):
        on_source(made, f"INSERT INTO {table} (b) VALUES ('before')")
        on_source(made, f"ALTER TABLE {table} {form}")
        b = "bb" if form == "RENAME COLUMN b TO bb" else "b"
        on_source(made, f"INSERT IGNORE INTO {table} ({b}) VALUES ('behind')")
        on_source(made, f"DELETE FROM {table} WHERE {b} = 'before'")
    result = made.run("run", "--until-caught-up", timeout=300)
    assert result.returncode == 0, result.stderr
    assert not _log_events(result.stderr, "table_loaded"), _log_events(result.stderr, "schema_not_followed")
    assert not _log_events(result.stderr, "definition_worked_out_wrong")
    made.assert_equal(*tables)
    for sink in made.sinks:
        for table, form in zip(tables, forms, strict=True):
            assert unmarked(made, sink, table) == 1, f"{sink}: rows were touched by {form}"


@pytest.mark.every_server  # each pair has a third of the forms
def test_every_other_form_loads_the_table_again(pair: Deployment) -> None:
    forms = _some((*SWAPPED, *LOADED), pair)
    tables = [f"t{number}" for number in range(len(forms))]
    for table in tables:
        on_source(pair, TABLE.format(t=table))
        on_source(pair, ROWS.format(t=table))
    pair.catch_up()
    loaded = []
    for table, form in zip(tables, forms, strict=True):
        with contextlib.suppress(Exception):  # what one of the servers does not know is not there to be followed
            on_source(pair, f"ALTER TABLE {table} {form}")
            loaded.append(table)
    assert len(loaded) > len(forms) * 0.8
    result = pair.run("run", "--until-caught-up", timeout=300)
    assert result.returncode == 0, result.stderr
    for table in loaded:
        lines = [line for line in _log_events(result.stderr, "table_loaded") if f'.{table}"' in line]
        assert len(lines) == 2, f"{table}: {forms[tables.index(table)]}: {lines}"
    pair.assert_equal(*tables)  # a target that is wider than it has to be is loaded as it is


@pytest.mark.parametrize("form", LISTED_LOADED)
def test_partitions_of_a_list_that_are_reorganized_load_the_table_again(pair: Deployment, form: str) -> None:
    on_source(pair, LISTED.format(t="t"))
    on_source(pair, "INSERT INTO t (id) VALUES (1), (2), (3), (4)")
    pair.catch_up()
    on_source(pair, f"ALTER TABLE t {form}")
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert len(_log_events(result.stderr, "table_loaded")) == 2
    pair.assert_equal("t")


def test_statements_about_a_temporary_table_are_not_followed(pair: Deployment) -> None:
    """It has the name of a captured table, and its session logs statements."""
    on_source(pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT)")
    on_source(pair, "INSERT INTO t VALUES (1, 10), (2, 20)")
    pair.catch_up()
    for statement in ("TRUNCATE TABLE t", "ALTER TABLE t RENAME COLUMN a TO z", "ALTER TABLE t RENAME TO elsewhere"):
        with contextlib.closing(pair.source.connect(pair.source_database)) as session, session.cursor() as cursor:
            cursor.execute("SET SESSION binlog_format = 'STATEMENT'")
            cursor.execute("CREATE TEMPORARY TABLE t (id INT PRIMARY KEY, a INT)")
            cursor.execute(statement)
        result = pair.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert _log_events(result.stderr, "schema_change"), "the statement is in the log"
        assert not _log_events(result.stderr, "schema_followed")
        pair.assert_equal("t")
        on_source(pair, "INSERT INTO t SELECT MAX(id) + 1, 5 FROM t")
    pair.catch_up()
    pair.assert_equal("t")


def test_truncate_empties_the_target_at_its_place(pair: Deployment) -> None:
    on_source(pair, TABLE.format(t="t"))
    on_source(pair, ROWS.format(t="t"))
    pair.catch_up()
    on_source(pair, "INSERT INTO t (b) VALUES ('gone')")
    on_source(pair, "TRUNCATE TABLE t")
    on_source(pair, "INSERT INTO t (b) VALUES ('there')")
    on_source(pair, "CREATE TABLE IF NOT EXISTS t (id INT)")
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert not _log_events(result.stderr, "table_loaded")
    pair.assert_equal("t")
    assert len(pair.sink_rows("pg", "t")) == 1


def test_a_row_of_statements_on_one_table_is_followed_one_by_one(pair: Deployment, tmp_path: Path) -> None:
    """While the service is down: the source's definition is of the end, the rows between are not."""
    on_source(pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)")
    on_source(pair, "INSERT INTO t VALUES (1, 10, 20)")
    pair.catch_up()
    mark(pair, "t")
    for number in range(12):
        on_source(pair, f"ALTER TABLE t ADD COLUMN c{number} INT DEFAULT {number} AFTER {'id' if number % 2 else 'a'}")
        on_source(pair, f"INSERT INTO t (id, a, b, c{number}) VALUES ({100 + number}, 1, 2, 1000)")
        if number % 3 == 2:
            on_source(pair, f"ALTER TABLE t DROP COLUMN c{number - 1}")
            on_source(pair, f"ALTER TABLE t RENAME COLUMN c{number} TO d{number}, MODIFY b BIGINT FIRST")
            on_source(pair, f"UPDATE t SET d{number} = 7, b = 4000000000 WHERE id = {100 + number}")
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert not _log_events(result.stderr, "table_loaded")
    pair.assert_equal("t")
    for sink in pair.sinks:
        assert unmarked(pair, sink, "t") == 12
    _assert_as_if_made_now(pair, tmp_path)


def test_ddl_under_load_is_followed(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server) -> None:
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        create_schema(source_server, made.source_database)
        made.start()
        made.wait_for_log("table_ready", count=2 * len(TABLES))
        for table, key in (("accounts", "id"), ("orders", "id"), ("items", "order_id")):
            mark(made, table, key=key)
        with Writer(source_server, made.source_database) as writer:
            for number, statement in enumerate(
                (
                    "ALTER TABLE accounts ADD COLUMN colour VARCHAR(9) NOT NULL DEFAULT 'red', ALGORITHM=INPLACE",
                    "ALTER TABLE items ADD INDEX by_name (name)",
                    "ALTER TABLE accounts MODIFY note VARCHAR(400) NULL",
                    "ALTER TABLE accounts DROP COLUMN colour",
                    "ALTER TABLE items MODIFY line INT NOT NULL",
                    "ALTER TABLE orders MODIFY state ENUM('new','paid','shipped','lost') NOT NULL",
                )
            ):
                writer.error = None
                writer.wait_for(40 * (number + 1))
                with contextlib.suppress(TimeoutError):
                    on_source(made, statement)
                if "ADD COLUMN colour" in statement:  # the writer's INSERTs name no columns of accounts
                    made.wait_for_log("schema_followed", count=2)
            writer.wait_for(300)
        made.wait_for_log("schema_followed", count=12)
        assert made.stop() == 0
        made.catch_up()
        made.assert_equal(*TABLES)
        assert len(_log_events(made.log(), "table_loaded")) == 2 * len(TABLES), "loaded once, at the beginning"


# ---------------------------------------------------------------- what stands in the way


def test_what_the_operator_added_on_the_sink_survives(one_pair: Deployment) -> None:
    on_source(one_pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20))")
    on_source(one_pair, "INSERT INTO t VALUES (1, 10, 'x')")
    one_pair.catch_up()
    for sink in one_pair.sinks:
        on_sink(one_pair, sink, "CREATE INDEX mine_b ON {}t (b)")
        on_sink(one_pair, sink, "CREATE VIEW {}seen AS SELECT id, a FROM {}t".replace("{}", "{0}"))
    on_source(one_pair, "ALTER TABLE t ADD COLUMN c INT DEFAULT 3, DROP COLUMN b, MODIFY id BIGINT NOT NULL COMMENT ''")
    on_source(one_pair, "ALTER TABLE t RENAME COLUMN a TO aa")
    result = one_pair.run("run", "--until-caught-up")
    pg = {t["sink"]: t for t in one_pair.status()["tables"]}["pg"]
    assert pg["state"] == "parked", "PostgreSQL does not change the type of a column that a view shows"
    assert "seen" in pg["error"]["message"] or "view" in pg["error"]["message"], pg["error"]
    assert result.returncode == 1
    on_sink(one_pair, "pg", "DROP VIEW {}seen")
    assert one_pair.run("snapshot", f"{one_pair.source_database}.t").returncode == 0
    one_pair.catch_up()
    one_pair.assert_equal("t")
    assert not _log_events(result.stderr, "table_loaded")


def test_a_target_that_somebody_altered_before_is_not_believed(one_pair: Deployment) -> None:
    """What a column of that name holds is not known, nor what one that is gone would: the table is loaded again."""
    on_source(one_pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT)")
    on_source(one_pair, "INSERT INTO t VALUES (1, 10)")
    one_pair.catch_up()
    for sink in one_pair.sinks:
        on_sink(one_pair, sink, "ALTER TABLE {}t ADD COLUMN c INT NULL")
        on_sink(one_pair, sink, "UPDATE {}t SET c = 99")
    on_source(one_pair, "ALTER TABLE t ADD COLUMN c INT NULL")
    one_pair.catch_up()
    one_pair.assert_equal("t")
    for sink in one_pair.sinks:
        on_sink(one_pair, sink, "ALTER TABLE {}t DROP COLUMN a")
    on_source(one_pair, "ALTER TABLE t MODIFY a BIGINT")
    parking = one_pair.run("run", "--until-caught-up")  # what is gone is seen at the start, before the statement comes
    assert parking.returncode == 1
    assert "has been altered, and cannot hold the table's rows any more: it has no column a" in parking.stderr
    assert one_pair.run("snapshot", f"{one_pair.source_database}.t").returncode == 0
    one_pair.assert_equal("t")


def test_what_was_made_wider_on_the_sink_stays_so(one_pair: Deployment) -> None:
    on_source(one_pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20) NOT NULL)")
    on_source(one_pair, "INSERT INTO t VALUES (1, 10, 'x')")
    one_pair.catch_up()
    wide = "x" * 150
    for sink, (server, _) in one_pair.sinks.items():
        is_pg = server.family == "postgresql"
        on_sink(one_pair, sink, f"ALTER TABLE {{}}t {'ALTER COLUMN b TYPE' if is_pg else 'MODIFY b'} varchar(300)")
    on_source(one_pair, "ALTER TABLE t MODIFY b VARCHAR(50) NULL, MODIFY a BIGINT")
    on_source(one_pair, "INSERT INTO t VALUES (2, 4000000000, NULL)")
    one_pair.catch_up()
    one_pair.assert_equal("t")
    for sink in one_pair.sinks:
        on_sink(one_pair, sink, f"UPDATE {{}}t SET b = '{wide}' WHERE id = 2")


def test_what_was_made_wider_on_the_sink_stays_so_when_it_is_renamed(one_pair: Deployment) -> None:
    on_source(one_pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT NOT NULL, b VARCHAR(20) NOT NULL)")
    on_source(one_pair, "INSERT INTO t VALUES (1, 10, 'x')")
    one_pair.catch_up()
    wide = "x" * 150
    for sink, (server, _) in one_pair.sinks.items():
        is_pg = server.family == "postgresql"
        for change in ("ALTER a DROP NOT NULL", "ALTER b TYPE varchar(300)") if is_pg else ("MODIFY a INT NULL",):
            on_sink(one_pair, sink, f"ALTER TABLE {{}}t {change}")
        if not is_pg:
            on_sink(one_pair, sink, "ALTER TABLE {}t MODIFY b VARCHAR(300) COLLATE utf8mb4_bin NULL")
    on_source(one_pair, "ALTER TABLE t RENAME COLUMN b TO z, CHANGE a y BIGINT NOT NULL")
    on_source(one_pair, "INSERT INTO t VALUES (2, 4000000000, 'y')")
    result = one_pair.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert _log_events(result.stderr, "schema_followed")
    one_pair.assert_equal("t")
    for sink in one_pair.sinks:
        on_sink(one_pair, sink, f"UPDATE {{}}t SET z = '{wide}', y = NULL WHERE id = 2")


# Between the intent and the ALTER, another instance takes the lease.
_OVERTAKEN = """
import pymysql
from cdc.cli import main
from cdc.pipeline.hooks import Hooks

def reached(self, point):
    if point == "schema_intent":
        with pymysql.connect(host={host!r}, port={port}, user={user!r}, password={password!r}) as other:
            other.cursor().execute("UPDATE `{database}`.`_cdc_checkpoint` SET epoch = epoch + 1")
            other.commit()

Hooks.__call__ = reached
main()
"""


def test_who_has_lost_the_lease_alters_nothing(tmp_path: Path, mysql97: Server, mariadb1011: Server) -> None:
    with deployment(tmp_path, mysql97, my=mariadb1011) as made:
        on_source(made, "CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        made.catch_up()
        on_source(made, "ALTER TABLE t ADD COLUMN c INT")
        server, database = made.sinks["my"]
        script = _OVERTAKEN.format(
            host=server.host, port=server.port, user=server.user, password=server.password, database=database
        )
        command = made.command
        made.command = lambda *words: [sys.executable, "-c", script, *command(*words)[3:]]  # type: ignore[method-assign]
        result = made.run("run", "--until-caught-up")
        assert "LeaseLost" in result.stderr
        assert {column[0] for column in _columns(made, "my")["t"]} == {"id", "a"}


# A statement is followed under lag, and then nothing comes for a while between two parts of a large transaction, in
# which a table that was parked is due.
_PAUSED = """
import sys
from cdc.cli import main
from cdc.model import SchemaChange, TableName, TransactionRun
from cdc.pipeline.channel import Channel
from cdc.pipeline.recovery import AutoReload

get, seen = Channel.get, []

def paused(self, timeout_seconds):
    if seen == ["change", "part"]:
        seen.append("pause")
        print("a pause inside", file=sys.stderr)
        return None
    item = get(self, timeout_seconds)
    while item is None and seen == ["change"]:
        item = get(self, timeout_seconds)
    if isinstance(item, SchemaChange) and not seen:
        seen.append("change")
    elif isinstance(item, TransactionRun) and not item.is_last_part and seen == ["change"]:
        seen.append("part")
    return item

def due(self):
    if seen != ["change", "part", "pause"]:
        return []
    seen.append("due")
    return [TableName("shop", "parked")]

Channel.get = paused
AutoReload.due = due
main()
"""


def test_a_pause_inside_a_large_transaction_is_no_time_for_other_work(
    tmp_path: Path, mysql97: Server, mariadb1011: Server
) -> None:
    """Neither for comparing definitions, nor for tables that are due: both would begin a transaction of their own."""
    with deployment(tmp_path, mysql97, my=mariadb1011) as made:
        on_source(made, "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, a INT)")
        on_source(made, "INSERT INTO t (a) VALUES (1), (2), (3), (4)")
        made.catch_up()
        on_source(made, "ALTER TABLE t ADD COLUMN c INT")
        on_source(made, "INSERT INTO t (a) SELECT 4 FROM t p, t q, t r, t s, t u, t v, t w, t x, t y")
        command = made.command
        made.command = lambda *words: [sys.executable, "-c", _PAUSED, *command(*words)[3:]]  # type: ignore[method-assign]
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert "a pause inside" in result.stderr
        made.assert_equal("t")


# ---------------------------------------------------------------- locks

# How long the service waits for a lock is not for configuration: the one of these tests is less patient.
_IMPATIENT = """
from cdc.cli import main
from cdc.sinks import mysql, postgres
assert postgres.LOCK_TIMEOUT_SECONDS > 1 and "lock_wait_timeout" in mysql._SESSION
postgres.LOCK_TIMEOUT_SECONDS = 1
mysql._SESSION["lock_wait_timeout"] = "1"
main()
"""


@contextlib.contextmanager
def _read_by_somebody(made: Deployment, sink: str, table: str) -> Iterator[None]:
    """A transaction that has read the table and stays open."""
    server, database = made.sinks[sink]
    namespace = f'"{made.source_database}".' if server.family == "postgresql" else ""
    with contextlib.closing(server.connect(database)) as session, session.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT * FROM {namespace}{table}")
        cursor.fetchall()
        yield


def test_a_reader_of_one_target_parks_that_table_and_no_other(one_pair: Deployment) -> None:
    made = one_pair
    for table in ("held", "other"):
        on_source(made, f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT)")
        on_source(made, f"INSERT INTO {table} VALUES (1, 10)")
    made.catch_up()
    command = made.command
    with _read_by_somebody(made, "pg", "held"), _read_by_somebody(made, "my", "held"):
        on_source(made, "ALTER TABLE held ADD COLUMN c INT")
        on_source(made, "INSERT INTO held VALUES (2, 20, 200)")
        on_source(made, "INSERT INTO other VALUES (2, 20)")
        made.command = lambda *words: [sys.executable, "-c", _IMPATIENT, *command(*words)[3:]]  # type: ignore[method-assign]
        result = made.run("run", "--until-caught-up")
        made.command = command  # type: ignore[method-assign]
        assert result.returncode == 1, result.stderr
        assert len(_log_events(result.stderr, "schema_waits_for_lock")) == 4, result.stderr  # two at each sink
        parked = [json.loads(line) for line in _log_events(result.stderr, "table_parked")]
        assert len(parked) == 2
        for line in parked:
            assert "ALTER TABLE held ADD COLUMN c INT" in str(line)
            assert "a lock on the target" in line["hint"]
        made.assert_equal("other")
    result = made.run("snapshot", f"{made.source_database}.held")
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal("held", "other")


def test_an_alter_that_takes_longer_than_statements_may_is_not_cut_off(
    tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server
) -> None:
    """Somebody reads the target for longer than `statement_timeout_seconds`: the ALTER waits, and is done."""
    with deployment(tmp_path, mysql97, pg=pg15, my=mariadb1011) as made:
        for sink in made.config["sinks"]:
            sink["statement_timeout_seconds"] = 1
        on_source(made, "CREATE TABLE t (id INT PRIMARY KEY, a INT)")
        on_source(made, "INSERT INTO t VALUES (1, 10)")
        made.catch_up()
        on_source(made, "ALTER TABLE t ADD COLUMN c INT")
        with contextlib.ExitStack() as stack:
            for sink in made.sinks:
                stack.enter_context(_read_by_somebody(made, sink, "t"))
            made.start()
            time.sleep(4)
        wait_until(lambda: all("c" in {column[0] for column in _columns(made, s)["t"]} for s in made.sinks), 10, "c")
        wait_until(lambda: made.log().count('"schema_followed"') == 2, 10, "both sinks")
        assert "schema_waits_for_lock" not in made.log()
        assert "pipeline_retrying" not in made.log()
        made.stop()
        made.assert_equal("t")


def test_a_definition_that_was_worked_out_wrong_is_found_and_loaded_again(
    tmp_path: Path, mysql97: Server, pg15: Server
) -> None:
    """The record says another definition than the source's, as a mistake of ours would have it."""
    with deployment(tmp_path, mysql97, pg=pg15) as made:
        on_source(made, "CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)")
        on_source(made, "INSERT INTO t VALUES (1, 10, 20)")
        made.catch_up()
        on_source(made, "ALTER TABLE t ADD COLUMN c INT")
        made.start(crash_at="schema_recorded")
        made.wait_until_killed()
        assert on_sink(made, "pg", "SELECT key_columns FROM _cdc.tables")[0][0].count("worked out") == 1
        swapped = "replace(replace(replace(definition, '\"a\"', '\"?\"'), '\"b\"', '\"a\"'), '\"?\"', '\"b\"')"
        on_sink(made, "pg", f"UPDATE _cdc.tables SET definition = {swapped}")
        on_source(made, "CREATE TABLE other (id INT PRIMARY KEY)")
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert len(_log_events(result.stderr, "definition_worked_out_wrong")) == 1
        made.assert_equal("t")
        assert "worked out" not in on_sink(made, "pg", "SELECT key_columns FROM _cdc.tables")[0][0]


# ---------------------------------------------------------------- options


def test_options_and_ddl(one_pair: Deployment) -> None:
    on_source(one_pair, "CREATE TABLE plain (id INT PRIMARY KEY, a INT, b VARCHAR(20), secret VARCHAR(20), x INT)")
    on_source(one_pair, "INSERT INTO plain VALUES (1, 10, 'x', 'y', 1), (2, 20, 'x', 'y', 0)")
    one_pair.config["tables"]["hash_salt"] = "a salt for the test of DDL"
    one_pair.config["tables"]["overrides"] = [
        {
            "table": f"{one_pair.source_database}.plain",
            "exclude_columns": ["secret"],
            "columns": [{"column": "b", "hash": True}],
            "row_filter": "x = 1",
        }
    ]
    one_pair.catch_up()
    mark(one_pair, "plain")
    for statement in ("ADD COLUMN c INT DEFAULT 4", "DROP COLUMN a", "MODIFY c BIGINT"):
        on_source(one_pair, f"ALTER TABLE plain {statement}")
    result = one_pair.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert not _log_events(result.stderr, "table_loaded")
    for sink in one_pair.sinks:
        assert unmarked(one_pair, sink, "plain") == 0
        assert len(one_pair.sink_rows(sink, "plain", ["id", "c"])) == 1
    for statement in ("MODIFY x BIGINT", "MODIFY b VARCHAR(50)", "MODIFY secret VARCHAR(50)"):
        on_source(one_pair, f"ALTER TABLE plain {statement}")
        result = one_pair.run("run", "--until-caught-up")
        assert len(_log_events(result.stderr, "table_loaded")) == 2, statement


# ---------------------------------------------------------------- cut-overs


def test_a_cut_over_ends_as_the_new_table(pair: Deployment) -> None:
    """What gh-ost and pt-online-schema-change send: a copy beside the table, and an exchange of names at the end."""
    on_source(pair, "CREATE TABLE t (id INT PRIMARY KEY, a INT)")
    on_source(pair, "INSERT INTO t VALUES (1, 10), (2, 20)")
    pair.catch_up()
    pair.start()
    pair.wait_for_log("service_started")
    for statement in (
        "CREATE TABLE _t_gho LIKE t",
        "ALTER TABLE _t_gho ADD COLUMN c INT DEFAULT 5",
        "INSERT INTO _t_gho (id, a) SELECT id, a FROM t",
        "INSERT INTO _t_gho VALUES (3, 30, 6)",
        "INSERT INTO t VALUES (3, 30)",
        "CREATE TABLE _t_del (id INT PRIMARY KEY)",
        "DROP TABLE _t_del",
        "RENAME TABLE t TO _t_del, _t_gho TO t",
        "INSERT INTO t VALUES (4, 40, 7)",
        "DROP TABLE _t_del",
    ):
        on_source(pair, statement)
    assert pair.stop() == 0
    pair.catch_up()
    pair.assert_equal("t")


# ---------------------------------------------------------------- kills


@pytest.mark.crash
@pytest.mark.in_turn
@pytest.mark.parametrize("point", ["schema_change", "schema_intent", "schema_altered", "schema_recorded"])
@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011", "mysql97"])
def test_a_kill_around_a_statement_does_it_once(
    tmp_path: Path, mysql97: Server, point: str, sink_name: str, request: pytest.FixtureRequest
) -> None:
    """Twice each; rows before and behind, and a column whose values would be lost if the statement were done again."""
    sink: Server = request.getfixturevalue(sink_name)
    if point == "schema_intent" and sink.family == "postgresql":
        pytest.skip("PostgreSQL needs no intent: its DDL is part of the transaction")
    with deployment(tmp_path, mysql97, sink=sink) as made:
        on_source(made, TABLE.format(t="t"))
        on_source(made, ROWS.format(t="t"))
        made.catch_up()
        mark(made, "t")
        for statement in (
            "ALTER TABLE t ADD COLUMN n INT NOT NULL DEFAULT 7, DROP COLUMN c, MODIFY b VARCHAR(60) NOT NULL",
            "ALTER TABLE t RENAME COLUMN a TO z, MODIFY e ENUM('x','y','z')",
            "ALTER TABLE t RENAME COLUMN s TO ss, ADD COLUMN m VARCHAR(9) NOT NULL DEFAULT 'm' FIRST",
        ):
            on_source(made, "INSERT INTO t (b) VALUES (UUID_SHORT())")
            on_source(made, statement)
            on_source(made, "INSERT INTO t (b) VALUES (UUID_SHORT())")
            made.start(crash_at=point)
            made.wait_until_killed()
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert not _log_events(made.log() + result.stderr, "table_loaded")
        made.assert_equal("t")
        assert unmarked(made, "sink", "t") == 6
        if sink.family == "postgresql":  # the source's own defaults, and none that was for the rows that were there
            assert {row[0] for row in _columns(made, "sink")["t"] if row[-1]} == {"n", "m", "n1"}


@pytest.mark.crash
def test_a_random_run_of_ddl_and_dml_with_kills_ends_equal(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15, my=mysql97) as made:
        tables = [TableName(made.source_database, name) for name in ("t0", "t1")]
        for table in tables:
            on_source(made, f"CREATE TABLE {table.table} (id INT PRIMARY KEY, a INT, b VARCHAR(20), c DECIMAL(10,2))")
            on_source(made, f"INSERT INTO {table.table} VALUES (1, 10, 'one', 1.5), (2, 20, 'two', 2.5)")
        made.catch_up()
        settings = SourceSettings(source_server.host, source_server.port, source_server.user, source_server.password, 7)
        with connect(settings) as source:
            changes = _RandomChanges(made, source, tables, SEEDS[source_server.kind.name])
            for point in ("schema_altered:1", "schema_altered:3", "schema_intent:2", "schema_recorded:2"):
                process = made.start(crash_at=point)
                for _ in range(200):
                    changes.make()
                    if process.poll() is not None:
                        break
                made.wait_until_killed()
            made.start()
            for _ in range(20):
                changes.make()
            assert made.stop() == 0
        made.catch_up()
        made.assert_equal(*(table.table for table in tables))
        followed = len(_log_events(made.log(), "schema_followed"))
        # How many are left to loads depends on where the kills fall: what touches a table that is behind its load is.
        assert followed > 2, f"only {followed} of {changes.count} were followed"
        _assert_as_if_made_now(made, tmp_path)


SEEDS = {"mysql97": 1, "mariadb1011": 2, "mariadb118": 3}


class _RandomChanges:
    """Random DDL and DML at the source."""

    def __init__(self, made: Deployment, source: SourceConnection, tables: list[TableName], seed: int) -> None:
        self.count = 0
        self._made = made
        self._source = source
        self._tables = tables
        self._ddl = RandomDdl(seed, is_simple=True)

    def make(self) -> None:
        """One statement of DDL, and rows around it."""
        self.count += 1
        table = self._tables[self.count % len(self._tables)]
        definition = read_definition(self._source, table)
        assert definition is not None
        self._insert(table)
        statement = f"ALTER TABLE {table.table} {self._ddl.actions(definition)}"
        self._ddl.execute(self._made.source, self._made.source_database, statement)
        self._insert(table)
        on_source(self._made, f"UPDATE {table.table} SET id = id + 1000000 WHERE id % 7 = {self.count % 7}")
        on_source(self._made, f"DELETE FROM {table.table} WHERE id % 11 = {self.count % 11}")

    def _insert(self, table: TableName) -> None:
        """IGNORE: columns without a default get the one that their type implies."""
        on_source(self._made, f"INSERT IGNORE INTO {table.table} (id) VALUES ({self.count}), ({self.count + 500})")
