"""What targets get of the source's definitions, on real servers: defaults, comments, indexes, numberings, asked types;
what they lose and gain by other hands."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment


@pytest.fixture
def made(tmp_path: Path, source_server: Server, pg15: Server, mysql_sink_server: Server) -> Iterator[Deployment]:
    """A PostgreSQL sink, and one of the MySQL family."""
    with deployment(tmp_path, source_server, pg=pg15, my=mysql_sink_server) as it:
        yield it


@pytest.fixture
def pair(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """The same with one server of each."""
    with deployment(tmp_path, mysql97, pg=pg15, my=mariadb1011) as it:
        yield it


def _source(made: Deployment, *statements: str) -> None:
    for statement in statements:
        made.source.execute(statement, database=made.source_database)


def _catch_up_parking(made: Deployment) -> None:
    """As `catch_up`, where a table is parked."""
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 1, result.stderr


def _sink(made: Deployment, sink: str, statement: str) -> list[Any]:
    """`{}` is the namespace, with its dot."""
    server, database = made.sinks[sink]
    namespace = f'"{made.source_database}".' if server.family == "postgresql" else ""
    return server.execute(statement.format(namespace), database=database)


def _drift(made: Deployment) -> dict[tuple[str, str], list[str]]:
    """What `cdc check --drift` says by sink and table, as `kind: text`."""
    result = made.run("check", "--drift", "--json")
    assert result.stdout, result.stderr
    rows = json.loads(result.stdout)
    assert result.returncode == int(any(one["is_drifted"] for one in rows)), result.stderr
    return {
        (one["sink"], one["table"].partition(".")[2]): [f"{each['kind']}: {each['text']}" for each in one["drift"]]
        for one in rows
    }


def _indexes(made: Deployment, sink: str, table: str) -> set[tuple[str, bool]]:
    """(columns, unique) of the indexes beside the primary key."""
    server, database = made.sinks[sink]
    if server.family == "postgresql":
        rows = server.execute(
            "SELECT string_agg(a.attname, ',' ORDER BY k.place), bool_and(x.indisunique) FROM pg_index x "
            "CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k(number, place) "
            "JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number "
            f"""WHERE x.indrelid = to_regclass('"{made.source_database}"."{table}"') AND NOT x.indisprimary """
            "GROUP BY x.indexrelid",
            database=database,
        )
        return {(str(columns), bool(is_unique)) for columns, is_unique in rows}
    rows = server.execute(
        "SELECT GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX), MAX(NON_UNIQUE) = 0 "
        f"FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = '{database}' AND TABLE_NAME = '{table}' "
        "AND INDEX_NAME <> 'PRIMARY' GROUP BY INDEX_NAME"
    )
    return {(_text(columns), bool(is_unique)) for columns, is_unique in rows}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _wait_for_indexes(made: Deployment, table: str, expected: set[tuple[str, bool]]) -> None:
    """On every sink."""
    for sink in made.sinks:
        wait_until(functools.partial(_has_indexes, made, sink, table, expected), 120, f"{expected} on {sink}")


def _has_indexes(made: Deployment, sink: str, table: str, expected: set[tuple[str, bool]]) -> bool:
    return _indexes(made, sink, table) == expected


def _wait_for_ids(made: Deployment, table: str, expected: list[tuple[int]]) -> None:
    for sink in made.sinks:
        wait_until(functools.partial(_has_ids, made, sink, table, expected), 120, f"rows {expected} on {sink}")


def _has_ids(made: Deployment, sink: str, table: str, expected: list[tuple[int]]) -> bool:
    return made.sink_rows(sink, table, ["id"]) == expected


# ---------------------------------------------------------------- defaults and comments

DEFAULTS = """
CREATE TABLE t (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY COMMENT 'it''s the \\\\ key',
    i INT NOT NULL DEFAULT 5, u BIGINT UNSIGNED DEFAULT 18446744073709551615, z INT(8) ZEROFILL DEFAULT 42,
    d DECIMAL(10,3) NOT NULL DEFAULT -1.5, f DOUBLE DEFAULT 0.25, b BIT(5) DEFAULT b'10110', y YEAR DEFAULT 2024,
    da DATE DEFAULT '2024-02-29', dt DATETIME(3) DEFAULT '2024-02-29 12:34:56.789', ti TIME(2) DEFAULT '-12:34:56.78',
    ts TIMESTAMP NULL DEFAULT '2024-02-29 12:34:56', c CHAR(5) DEFAULT 'x', none INT,
    v VARCHAR(30) NOT NULL DEFAULT 'it''s \\\\ "100 %" ü', e ENUM('a','it''s') DEFAULT 'it''s',
    s SET('a','b') DEFAULT 'a,b',
    now_dt DATETIME(2) NOT NULL DEFAULT CURRENT_TIMESTAMP(2), now_ts TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) COMMENT 'orders, 100 % of them'"""
CONSTANT = "i, u, z, d, f, b + 0, y, da, dt, ti, ts, c, none, v, e, s"
CONSTANT_PG = "i, u, z, d, f, b::integer, y, da, dt, ti, ts AT TIME ZONE 'UTC', c, none, v, e, s"


@pytest.mark.in_turn
def test_a_row_of_defaults_is_the_same_on_source_and_sinks(made: Deployment) -> None:
    """The servers' own answers: a row is inserted by its key alone, at the source once nothing is captured any more."""
    _source(made, "SET SESSION time_zone = '+00:00'", DEFAULTS)
    made.catch_up()
    (expected,) = _row_of_defaults(made.source, made.source_database, "", CONSTANT)
    for sink, (server, database) in made.sinks.items():
        is_pg = server.family == "postgresql"
        namespace = f'"{made.source_database}".' if is_pg else ""
        (row,) = _row_of_defaults(server, database, namespace, CONSTANT_PG if is_pg else CONSTANT)
        assert list(map(_same, row)) == list(map(_same, expected)), sink
        ((is_recent,),) = _sink(
            made, sink, "SELECT COUNT(*) FROM {}t WHERE now_dt > '2024-03-01' AND now_ts > '2024-03-01'"
        )
        assert is_recent == 1


def _row_of_defaults(server: Server, database: str, namespace: str, columns: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        if not namespace:
            cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"INSERT INTO {namespace}t (id) VALUES (99)")
        cursor.execute(f"SELECT {columns} FROM {namespace}t WHERE id = 99")
        rows = [tuple(row) for row in cursor.fetchall()]
        connection.commit()
        return rows


def _same(value: Any) -> Any:
    if isinstance(value, set):
        return ",".join(sorted(value))
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return int(value) if hasattr(value, "as_tuple") and value == int(value) else value


@pytest.mark.in_turn
def test_comments_come_along_and_ddl_changes_them_and_defaults(made: Deployment) -> None:
    _source(made, DEFAULTS)
    made.catch_up()
    assert _comments(made, "pg") == ("orders, 100 % of them", "it's the \\ key")
    assert _comments(made, "my") == ("orders, 100 % of them", "it's the \\ key")
    _source(
        made,
        "ALTER TABLE t ALTER COLUMN i SET DEFAULT 7, COMMENT = 'other'",
        "ALTER TABLE t ADD COLUMN n VARCHAR(9) NOT NULL DEFAULT 'it''s' COMMENT 'new'",
        "INSERT INTO t (id) VALUES (1)",
    )
    made.catch_up()
    for sink in made.sinks:
        assert _comments(made, sink)[0] == "other", sink
        _sink(made, sink, "INSERT INTO {}t (id) VALUES (2)")
        assert _sink(made, sink, "SELECT i, n FROM {}t WHERE id = 2") == [(7, "it's")], sink
    said = [text for found in _drift(made).values() for text in found if text.startswith(("lost", "broken"))]
    assert not said


def _comments(made: Deployment, sink: str) -> tuple[str, str]:
    """Of the table, and of its key."""
    server, database = made.sinks[sink]
    if server.family == "postgresql":
        table = f"""'"{made.source_database}".t'::regclass"""
        rows = server.execute(
            f"SELECT obj_description({table}, 'pg_class'), col_description({table}, 1)", database=database
        )
    else:
        where = f"WHERE TABLE_SCHEMA = '{database}' AND TABLE_NAME = 't'"
        rows = server.execute(
            f"SELECT (SELECT TABLE_COMMENT FROM information_schema.TABLES {where}), "
            f"(SELECT COLUMN_COMMENT FROM information_schema.COLUMNS {where} AND COLUMN_NAME = 'id')"
        )
    return _text(rows[0][0]), _text(rows[0][1])


def test_numbers_go_on_behind_the_loaded_rows_if_asked(pair: Deployment) -> None:
    pair.config["targets"] = {"identity": True}
    _source(pair, "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)", "INSERT INTO t (v) VALUES (1), (2), (3)")
    pair.catch_up()
    for sink in pair.sinks:
        _sink(pair, sink, "INSERT INTO {}t (v) VALUES (9)")
        assert _sink(pair, sink, "SELECT id FROM {}t WHERE v = 9") == [(4,)], sink


# ---------------------------------------------------------------- indexes

INDEXED = """
CREATE TABLE t (
    id INT PRIMARY KEY, a INT, b VARCHAR(40) COLLATE utf8mb4_bin, c TEXT,
    KEY by_a (a), UNIQUE KEY by_b (b), KEY by_ab (a, b), FULLTEXT KEY words (c)
) CHARACTER SET utf8mb4"""
ALL = {("a", False), ("b", True), ("a,b", False)}


@pytest.mark.in_turn
def test_indexes_are_made_after_the_load_and_follow_the_source(made: Deployment) -> None:
    made.config["targets"] = {"indexes": "all"}
    _source(made, INDEXED, "INSERT INTO t VALUES (1, 1, 'x', 'x'), (2, 1, 'y', NULL)")
    made.catch_up()
    made.start()
    _wait_for_indexes(made, "t", ALL)
    # A value that goes from one row to another, which a unique index of the sink's must bear.
    _source(made, "BEGIN", "UPDATE t SET b = 'z' WHERE id = 1", "UPDATE t SET b = 'x' WHERE id = 2")
    _source(made, "ALTER TABLE t DROP INDEX by_b, ADD INDEX again (b), DROP INDEX by_ab")
    _source(made, "INSERT INTO t VALUES (3, 3, 'x', NULL)")
    _wait_for_indexes(made, "t", {("a", False), ("b", False)})
    _wait_for_ids(made, "t", [(1,), (2,), (3,)])
    made.stop()
    made.assert_equal("t")
    drift = _drift(made)
    for sink in made.sinks:
        assert [text for text in drift[sink, "t"] if not text.startswith("left_out: the index words")] == [], sink


def test_an_index_that_somebody_made_stays_and_serves(pair: Deployment) -> None:
    _source(pair, INDEXED)
    pair.catch_up()
    for sink in pair.sinks:
        assert _indexes(pair, sink, "t") == set()
        _sink(pair, sink, "CREATE INDEX mine ON {}t (a)")
        _sink(pair, sink, "CREATE INDEX other ON {}t (id, a)")
    pair.config["targets"] = {"indexes": "all"}
    pair.start()
    _wait_for_indexes(pair, "t", ALL | {("id,a", False)})
    _source(pair, "ALTER TABLE t DROP INDEX by_a")
    pair.wait_for_log("schema_followed", count=2)
    pair.stop()
    pair.catch_up()
    for sink in pair.sinks:
        assert _indexes(pair, sink, "t") == ALL | {("id,a", False)}
        assert "added: the index other" in _drift(pair)[sink, "t"]


@pytest.mark.parametrize("point", ["load_recorded", ""], ids=["before", "between"])
@pytest.mark.parametrize("sink", ["pg", "my"])
@pytest.mark.full
def test_a_kill_while_indexes_are_made_leaves_them_to_the_next_start(pair: Deployment, point: str, sink: str) -> None:
    pair.config["targets"] = {"indexes": "all"}
    pair.config["sinks"] = [one for one in pair.config["sinks"] if one["name"] == sink]
    pair.sinks = {sink: pair.sinks[sink]}
    _source(pair, INDEXED, "INSERT INTO t VALUES (1, 1, 'x', 'x'), (2, 1, 'y', NULL)")
    process = pair.start(crash_at=point)
    if point:
        assert process.wait(120) == -signal.SIGKILL
        assert _indexes(pair, sink, "t") == set()
    else:
        pair.wait_for_log("index_made")
        pair.kill()
    pair.process = None
    pair.start()
    wait_until(lambda: _indexes(pair, sink, "t") == ALL, 120)
    pair.stop()
    pair.assert_equal("t")


def test_a_unique_index_of_ours_goes_before_it_parks_a_table(pair: Deployment) -> None:
    """The source drops and makes it while the service is away: rows in between are two."""
    pair.config["targets"] = {"indexes": "unique"}
    _source(pair, INDEXED, "INSERT INTO t VALUES (1, 1, 'x', NULL)")
    pair.start()
    _wait_for_indexes(pair, "t", {("b", True)})
    pair.stop()
    _source(
        pair,
        "ALTER TABLE t DROP INDEX by_b",
        "INSERT INTO t VALUES (2, 2, 'x', NULL)",
        "ALTER TABLE t COMMENT = 'both rows are committed before what follows'",
        "DELETE FROM t WHERE id = 1",
        "ALTER TABLE t ADD UNIQUE KEY by_b (b)",
    )
    pair.start()
    _wait_for_ids(pair, "t", [(2,)])
    _wait_for_indexes(pair, "t", {("b", True)})
    pair.wait_for_log("unique_index_dropped", count=2)
    pair.stop()
    assert '"event": "table_parked"' not in pair.log()


# How long the service waits for a lock is not for configuration: the one of these tests is less patient.
_IMPATIENT = """
from cdc.cli import main
from cdc.sinks import mysql, postgres
assert postgres.LOCK_TIMEOUT_SECONDS > 1 and "lock_wait_timeout" in mysql._SESSION
postgres.LOCK_TIMEOUT_SECONDS = 1
mysql._SESSION["lock_wait_timeout"] = "1"
main()
"""


def test_an_index_that_cannot_be_dropped_for_a_reader_stays_and_all_tables_go_on(pair: Deployment) -> None:
    pair.config["targets"] = {"indexes": "all"}
    _source(pair, INDEXED, "CREATE TABLE u (id INT PRIMARY KEY)")
    pair.start()
    _wait_for_indexes(pair, "t", ALL)
    pair.stop()
    command = pair.command
    pair.command = lambda *words: [sys.executable, "-c", _IMPATIENT, *command(*words)[3:]]  # type: ignore[method-assign]
    with contextlib.ExitStack() as stack:
        for server, database in pair.sinks.values():
            namespace = f'"{pair.source_database}".' if server.family == "postgresql" else ""
            cursor = stack.enter_context(contextlib.closing(server.connect(database))).cursor()
            cursor.execute("BEGIN")
            cursor.execute(f"SELECT * FROM {namespace}t")
            cursor.fetchall()
        _source(pair, "ALTER TABLE t DROP INDEX by_b", "INSERT INTO u VALUES (1)", "INSERT INTO t (id) VALUES (1)")
        result = pair.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert "sink_unavailable" not in result.stderr
        pair.assert_equal("t", "u")
        for sink in pair.sinks:
            assert _indexes(pair, sink, "t") == ALL, sink
    pair.command = command  # type: ignore[method-assign]
    pair.start()
    _wait_for_indexes(pair, "t", {("a", False), ("a,b", False)})
    pair.stop()


def test_the_indexes_of_a_table_that_the_source_has_dropped_meanwhile_stay_until_the_stream_says_so(
    pair: Deployment,
) -> None:
    pair.config["targets"] = {"indexes": "all"}
    pair.config["policies"] = {**pair.config.get("policies", {}), "on_drop_table": "keep"}
    _source(pair, INDEXED)
    pair.start()
    _wait_for_indexes(pair, "t", ALL)
    pair.stop()
    _source(pair, "INSERT INTO t (id) VALUES (1)", "CREATE TABLE u (id INT PRIMARY KEY)", "DROP TABLE t")
    pair.run("run", "--until-caught-up")
    for sink in pair.sinks:
        assert _indexes(pair, sink, "t") == ALL, sink


# ---------------------------------------------------------------- asked types


def test_asked_types_hold_the_same_values_and_what_they_cannot_hold_stops_the_table(pair: Deployment) -> None:
    _source(
        pair,
        "CREATE TABLE t (id INT PRIMARY KEY, flag TINYINT(1), n BIGINT UNSIGNED, j JSON, word VARCHAR(40), d DATE)",
        """INSERT INTO t VALUES (1, 1, 9, '{"a": [1.5]}', 'x', '2024-01-01'), (2, 0, NULL, 'null', 'y', NULL)""",
    )
    pair.config["targets"] = {
        "types": [{"source": "tinyint(1)", "type": "boolean"}, {"source": "bigint unsigned", "type": "bigint"}]
    }
    pair.config["tables"]["overrides"] = [
        {
            "table": f"{pair.source_database}.t",
            "columns": [
                {"column": "j", "type": "text"},
                {"column": "word", "type": "varchar(5)"},
                {"column": "d", "zero_dates": "error"},
            ],
        }
    ]
    pair.catch_up()
    _source(pair, "INSERT INTO t VALUES (3, 0, 10, '[]', 'later', NULL), (4, 1, 11, '{}', 'words', NULL)")
    _source(pair, "UPDATE t SET flag = NULL WHERE id = 1")
    pair.catch_up()
    rows = _sink(pair, "pg", "SELECT id, flag, n, j, word FROM {}t ORDER BY id")
    assert rows == [
        (1, None, 9, '{"a": [1.5]}', "x"),
        (2, False, None, "null", "y"),
        (3, False, 10, "[]", "later"),
        (4, True, 11, "{}", "words"),
    ]
    result = pair.run("verify", "--json")
    assert {one["state"] for one in json.loads(result.stdout)} == {"equal"}, result.stdout
    _source(pair, "UPDATE t SET word = 'longer than five' WHERE id = 1")
    _catch_up_parking(pair)
    states = {one["sink"]: one for one in pair.status()["tables"]}
    assert {one["state"] for one in states.values()} == {"parked"}
    assert "word" in states["my"]["error"]["message"]


def test_spaces_at_the_end_of_an_asked_varchar_are_not_cut(pair: Deployment) -> None:
    override = {"columns": [{"column": "word", "type": "varchar(3)"}]}
    _source(
        pair,
        "CREATE TABLE t (id INT PRIMARY KEY, word VARCHAR(9))",
        "INSERT INTO t VALUES (1, 'abc')",
        "CREATE TABLE u (id INT PRIMARY KEY, word VARCHAR(9))",
        "INSERT INTO u VALUES (1, 'äbc ')",
    )
    pair.config["tables"]["overrides"] = [{"table": f"{pair.source_database}.{table}", **override} for table in "tu"]
    _catch_up_parking(pair)
    by_place = {(one["sink"], one["table"].partition(".")[2]): one for one in pair.status()["tables"]}
    assert by_place["pg", "t"]["state"] == by_place["my", "t"]["state"] == "ready"
    for sink in ("pg", "my"):  # by the load
        assert (
            "the text has 4 characters, and the column on the sink holds 3" in by_place[sink, "u"]["error"]["message"]
        )
    _source(pair, "UPDATE t SET word = 'abc  ' WHERE id = 1")
    _catch_up_parking(pair)
    for one in pair.status()["tables"]:  # by the stream
        assert one["state"] == "parked"
        assert "the text has 5 characters" in one["error"]["message"] or one["table"].endswith("u")


def test_a_flag_that_is_no_boolean_stops_its_table(pair: Deployment) -> None:
    pair.config["targets"] = {"types": [{"source": "tinyint(1)", "type": "boolean"}]}
    _source(pair, "CREATE TABLE t (id INT PRIMARY KEY, flag TINYINT(1))", "INSERT INTO t VALUES (1, 1)")
    pair.catch_up()
    _source(pair, "INSERT INTO t VALUES (2, 7)")
    _catch_up_parking(pair)
    states = {one["sink"]: one["state"] for one in pair.status()["tables"]}
    assert states == {"pg": "parked", "my": "ready"}


def test_a_geometry_needs_postgis(pair: Deployment) -> None:
    pair.config["targets"] = {"types": [{"source": "point", "type": "geometry"}]}
    _source(pair, "CREATE TABLE t (id INT PRIMARY KEY, p POINT)", "INSERT INTO t VALUES (1, POINT(1, 2))")
    _catch_up_parking(pair)
    by_sink = {one["sink"]: one for one in pair.status()["tables"]}
    assert by_sink["my"]["state"] == "ready"
    assert by_sink["pg"]["state"] == "parked"
    assert "CREATE EXTENSION postgis" in by_sink["pg"]["error"]["hint"]


# ---------------------------------------------------------------- columns that only one side has


def test_a_column_that_is_kept_is_null_from_then_on_whatever_its_default(pair: Deployment) -> None:
    pair.config["policies"] = {"on_drop_column": "keep"}
    _source(
        pair,
        "CREATE TABLE t (id INT PRIMARY KEY, a INT NOT NULL DEFAULT 7, b VARCHAR(9) DEFAULT 'new', c INT)",
        "INSERT INTO t (id) VALUES (1)",
    )
    pair.catch_up()
    _source(pair, "ALTER TABLE t DROP COLUMN a, DROP COLUMN b", "INSERT INTO t (id) VALUES (2)")
    pair.catch_up()
    for sink in pair.sinks:
        assert pair.sink_rows(sink, "t", ["id", "a", "b"]) == [(1, 7, "new"), (2, None, None)], sink


def test_columns_that_were_left_out_are_no_drift(pair: Deployment) -> None:
    pair.config["policies"] = {"ddl": "log"}
    _source(pair, "CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    pair.catch_up()
    _source(pair, "ALTER TABLE t ADD COLUMN c INT", "INSERT INTO t VALUES (2, 2)")
    pair.catch_up()
    for found in _drift(pair).values():
        assert not [text for text in found if text.startswith(("broken", "lost"))]


# ---------------------------------------------------------------- names


@pytest.mark.in_turn
def test_names_that_are_words_of_sql_or_long_are_the_same_there(made: Deployment) -> None:
    name = "n" * 60
    made.config["targets"] = {"indexes": "all"}
    _source(
        made,
        f"CREATE TABLE `{name}` (`select` INT PRIMARY KEY, `user` INT, `Order by`INT, KEY `{'i' * 64}` (`user`), "
        f"KEY `{'i' * 63}j` (`Order by`))",
        f"INSERT INTO `{name}` VALUES (1, 2, 3)",
        "CREATE TABLE `table` (`from` INT PRIMARY KEY, KEY `primary key` (`from`))",
        "INSERT INTO `table` VALUES (1)",
    )
    made.start()
    _wait_for_indexes(made, name, {("user", False), ("Order by", False)})
    made.stop()
    made.assert_equal(name, "table")


def test_a_name_that_is_too_long_is_refused_by_name_and_the_rest_goes_on(pair: Deployment) -> None:
    long_name = "ü" * 32
    _source(pair, f"CREATE TABLE `{long_name}` (id INT PRIMARY KEY)", "CREATE TABLE t (id INT PRIMARY KEY)")
    _catch_up_parking(pair)
    by_place = {(one["sink"], one["table"].partition(".")[2]): one for one in pair.status()["tables"]}
    assert by_place["pg", "t"]["state"] == by_place["my", long_name]["state"] == "ready"
    parked = by_place["pg", long_name]
    assert parked["state"] == "parked"
    assert "64 bytes, and PostgreSQL holds 63" in parked["error"]["message"]


# ---------------------------------------------------------------- drift


def test_what_somebody_adds_stays_and_is_said_and_what_is_lost_is_said(pair: Deployment) -> None:
    _source(pair, DEFAULTS, "INSERT INTO t (id) VALUES (1)")
    pair.catch_up()
    for sink in pair.sinks:
        _sink(pair, sink, "ALTER TABLE {}t ADD COLUMN extra INT NULL")
        _sink(pair, sink, "CREATE VIEW {0}seen AS SELECT id FROM {0}t")
        _sink(pair, sink, "CREATE INDEX mine ON {}t (v)")
    _sink(pair, "pg", "GRANT SELECT ON {}t TO PUBLIC")
    _sink(pair, "pg", "ALTER TABLE {}t ALTER COLUMN i DROP NOT NULL, ALTER COLUMN i DROP DEFAULT")
    _sink(pair, "my", "ALTER TABLE {}t MODIFY COLUMN i INT NULL")
    _source(pair, "INSERT INTO t (id) VALUES (2)")
    pair.catch_up()
    drift = _drift(pair)
    for sink in pair.sinks:
        said = drift[sink, "t"]
        assert {"added: the column extra", "added: the index mine", "added: the view seen"} <= set(said), sink
        assert "lost: column i may be NULL there; wanted is NOT NULL" in said
        assert "lost: column i has no default there; wanted is 5" in said
        assert _sink(pair, sink, "SELECT COUNT(*) FROM {}t WHERE extra IS NULL") == [(2,)]
    assert "added: a grant to PUBLIC" in drift["pg", "t"]


@pytest.mark.parametrize(
    "alter, said",
    [
        ("ALTER TABLE {}t DROP COLUMN v", "it has no column v"),
        ({"pg": "ALTER TABLE {}t DROP CONSTRAINT t_pkey", "my": "ALTER TABLE {}t DROP PRIMARY KEY"}, "the primary key"),
        (
            {"pg": "ALTER TABLE {}t ALTER COLUMN v TYPE smallint", "my": "ALTER TABLE {}t MODIFY COLUMN v SMALLINT"},
            "column v is smallint",
        ),
    ],
    ids=["column", "key", "type"],
)
def test_a_target_that_was_altered_by_hand_parks_its_table_and_no_other(
    pair: Deployment, alter: str | dict[str, str], said: str
) -> None:
    for table in ("t", "u"):
        _source(pair, f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT)", f"INSERT INTO {table} VALUES (1, 1)")
    pair.catch_up()
    for sink in pair.sinks:
        _sink(pair, sink, alter if isinstance(alter, str) else alter[sink])
    pair.start()

    def states() -> dict[tuple[str, str], str]:
        return {(one["sink"], one["table"].partition(".")[2]): one["state"] for one in pair.status()["tables"]}

    wanted = {(sink, table): state for sink in pair.sinks for table, state in (("t", "parked"), ("u", "ready"))}
    wait_until(lambda: states() == wanted, 120, "the table is parked")
    for one in pair.status()["tables"]:
        if one["state"] == "parked":
            assert said in one["error"]["message"]
            assert one["error"]["position"]
            assert "cdc snapshot" in one["error"]["hint"]
    assert pair.run("snapshot", f"{pair.source_database}.t").returncode == 0
    wait_until(lambda: set(states().values()) == {"ready"}, 120, "the table is back")
    pair.stop()
    pair.assert_equal("t", "u")
