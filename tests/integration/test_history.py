"""The schema history on real servers: it holds what happened, and what was logged before an ALTER is read by it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cdc.demo.servers import Server
from cdc.model import ColumnDefinition, TableDefinition, TableName
from cdc.source.connection import SourceSettings, connect
from cdc.source.definitions import read_definition
from cdc.source.schema_file import read_schema_file
from checkpoints.history import TableHistory, histories_of
from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, deployment

StartServer = Callable[..., Server]

# Statements that are followed, with rows between them; each changes what a row image is read by.
FOLLOWED = (
    "ALTER TABLE {} ADD COLUMN z INT NOT NULL DEFAULT 7 FIRST",
    "ALTER TABLE {} DROP COLUMN a",
    "ALTER TABLE {} MODIFY e ENUM('x','y','z')",
    "ALTER TABLE {} MODIFY n BIGINT",
    "ALTER TABLE {} RENAME COLUMN b TO bb",
    "ALTER TABLE {} MODIFY n BIGINT AFTER e",
)
# Those that are a load, and whose rows before them would be read wrongly by what is there afterwards.
LOADED = (
    "ALTER TABLE {} MODIFY n INT UNSIGNED",
    "ALTER TABLE {} MODIFY e ENUM('y','x')",
    "ALTER TABLE {} MODIFY b VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
)
TABLE = (
    "CREATE TABLE {} (id INT PRIMARY KEY, a INT, n INT, e ENUM('x','y'), "
    "b VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_swedish_ci)"
)


def execute(made: Deployment, *statements: str) -> None:
    with contextlib.closing(made.source.connect(made.source_database)) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        session.commit()


def place_of(source: Server) -> str:
    """Where the log ends now, as `cdc checkpoint set` takes it."""
    with contextlib.suppress(Exception):
        if gtids := source.execute("SELECT @@GLOBAL.gtid_executed")[0][0]:
            return str(gtids).replace("\n", "")
    return file_place(source)


def file_place(source: Server) -> str:
    try:
        row = source.execute("SHOW BINARY LOG STATUS")[0]
    except Exception:  # noqa: BLE001 - MariaDB, and MySQL before 8.2, call it otherwise
        row = source.execute("SHOW MASTER STATUS")[0]
    return f"{row[0]}:{row[1]}"


def history(made: Deployment, sink: str) -> dict[str, TableHistory]:
    result = made.run("checkpoint", "history", "--sink", sink, "--json")
    assert result.returncode == 0, result.stderr
    return {table.table: found for table, found in histories_of(orjson.loads(result.stdout)).items()}


def said(found: TableHistory) -> list[tuple[str, list[str] | None]]:
    """Place and columns of each entry."""
    return [
        (str(entry.since.file), [f"{c.name} {c.column_type}" for c in entry.definition.columns])
        if entry.definition is not None
        else (str(entry.since.file), None)
        for entry in found.entries
    ]


def definition_now(made: Deployment, table: str) -> TableDefinition:
    server = made.source
    settings = SourceSettings(server.host, server.port, server.user, server.password, 7)
    with connect(settings) as connection:
        found = read_definition(connection, TableName(made.source_database, table))
    assert found is not None
    return found


def loads(log: str) -> list[str]:
    lines = [json.loads(line) for line in log.splitlines() if '"table_loaded"' in line]
    return sorted({line["table"].partition(".")[2] for line in lines})


def on_sinks(made: Deployment, statement: str) -> None:
    """`{}` is the namespace, with its dot."""
    for server, database in made.sinks.values():
        namespace = f'"{made.source_database}".' if server.family == "postgresql" else ""
        server.execute(statement.format(namespace), database=database)


def back_up(made: Deployment, table: str) -> None:
    for server, database in made.sinks.values():
        is_pg = server.family == "postgresql"
        namespace = f'"{made.source_database}".' if is_pg else ""
        like = f"(LIKE {namespace}{table} INCLUDING ALL)" if is_pg else f"LIKE {table}"
        server.execute(f"CREATE TABLE {namespace}{table}_backup {like}", database=database)
        server.execute(f"INSERT INTO {namespace}{table}_backup SELECT * FROM {namespace}{table}", database=database)


def restore(made: Deployment, table: str) -> None:
    on_sinks(made, f"DROP TABLE {{}}{table}")
    for server, database in made.sinks.values():
        is_pg = server.family == "postgresql"
        namespace = f'"{made.source_database}".' if is_pg else ""
        server.execute(f"ALTER TABLE {namespace}{table}_backup RENAME TO {table}", database=database)


# ---------------------------------------------------------------- what is kept


@pytest.mark.in_turn
def test_the_history_holds_what_happened_and_a_kill_changes_nothing_of_it(
    tmp_path: Path, source_server: Server, pg15: Server, mysql_sink_server: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql_sink_server) as made:
        execute(made, TABLE.format("t"))
        made.catch_up()
        expected: list[tuple[str, list[str] | None]] = []
        execute(made, "INSERT INTO t VALUES (1, 1, 1, 'x', 'b')")
        for number, statement in enumerate(FOLLOWED[:3]):
            execute(made, statement.format("t"))
            now = definition_now(made, "t")
            expected.append((file_place(made.source), [f"{c.name} {c.column_type}" for c in now.columns]))
            if number == 1:
                killed = made.run("run", "--until-caught-up", crash_at="schema_altered")
                assert killed.returncode not in (0, 1, 2), killed.stderr
        made.catch_up()
        for sink in made.sinks:
            entries = said(history(made, sink)["t"])
            assert entries[1:] == expected
            assert entries[0][1] is not None
            assert len(entries[0][1]) == 5
        # A table that is parked is watched by nobody, until a load brings it back.
        on_sinks(made, "DROP TABLE {}t")
        execute(made, "INSERT INTO t (z, id) VALUES (1, 50)")
        assert "is parked" in made.run("run", "--until-caught-up").stderr
        parked = {sink: said(history(made, sink)["t"]) for sink in made.sinks}
        assert {sink: found[-1][1] for sink, found in parked.items()} == dict.fromkeys(made.sinks)
        assert made.run("snapshot", f"{made.source_database}.t").returncode == 0
        made.catch_up()
        made.assert_equal("t")
        again = {sink: said(history(made, sink)["t"]) for sink in made.sinks}
        assert {sink: found[-1][1] for sink, found in again.items()} == dict.fromkeys(made.sinks, expected[-1][1])

        shown = made.run("checkpoint", "history", f"{made.source_database}.t", "--sink", "pg")
        assert "worked out of a statement" in shown.stdout or "read from the source" in shown.stdout
        assert expected[0][0] in shown.stdout


def test_metadata_of_before_the_history_go_on_and_a_reset_forgets_it(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15) as made:
        execute(made, TABLE.format("t"))
        made.catch_up()
        server, database = made.sinks["pg"]
        server.execute('DROP TABLE "_cdc".history', database=database)
        execute(made, FOLLOWED[0].format("t"), "INSERT INTO t VALUES (7, 1, 1, 1, 'x', 'b')")
        made.catch_up()
        made.assert_equal("t")
        first, entry = said(history(made, "pg")["t"])
        assert first[1] is not None
        assert not first[1][0].startswith("z ")
        assert entry[1] is not None
        assert entry[1][0].startswith("z ")
        assert [one.known for one in history(made, "pg")["t"].entries] == ["source", "statement"]
        assert made.run("checkpoint", "reset", "--yes").returncode == 0
        assert history(made, "pg") == {}


# ---------------------------------------------------------------- going back


KINDS = [
    pytest.param(("mariadb1011", {"binlog_row_metadata": "NO_LOG"}), id="mariadb1011"),
    pytest.param(("mysql97", {"binlog_row_metadata": "MINIMAL"}), id="mysql97", marks=pytest.mark.full),
]


@pytest.fixture(params=KINDS)
def nameless(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """A source whose log does not name columns; MariaDB's not their signs and members, either."""
    kind, options = request.param
    return start_server(kind, options=options)


def rows_between(made: Deployment, table: str, number: int) -> None:
    """Inserts, an update and a delete by the columns that the table has now."""
    columns = [column.name for column in definition_now(made, table).columns]
    values = {"id": 0, "a": 5, "n": 70_000 + number, "e": "'y'", "b": "'é'", "bb": "'é'", "z": 9}
    for offset in range(3):
        listed = ", ".join(str(100 * number + offset if c == "id" else values[c]) for c in columns)
        execute(made, f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({listed})")
    execute(
        made,
        f"UPDATE {table} SET n = n + 1 WHERE id % 100 = 1",
        f"DELETE FROM {table} WHERE id = {100 * number}",
    )


@pytest.mark.in_turn
def test_a_stream_that_is_set_back_before_alters_decodes_with_the_columns_of_that_time(
    tmp_path: Path, nameless: Server, pg15: Server, mysql_sink_server: Server
) -> None:
    with deployment(tmp_path, nameless, pg=pg15, mysql=mysql_sink_server) as made:
        execute(made, TABLE.format("f"), TABLE.format("l"))
        rows_between(made, "f", 1)
        rows_between(made, "l", 1)
        before_all = place_of(nameless)
        rows_between(made, "f", 2)
        made.catch_up()
        back = place_of(nameless)
        for table in ("f", "l"):
            back_up(made, table)
        rows_between(made, "f", 3)
        rows_between(made, "l", 3)
        for number, statement in enumerate(FOLLOWED, 4):
            execute(made, statement.format("f"))
            rows_between(made, "f", number)
        for number, statement in enumerate(LOADED, 4):
            execute(made, statement.format("l"))
            rows_between(made, "l", number)
        execute(made, "CREATE TABLE found (id INT PRIMARY KEY)", "INSERT INTO found VALUES (1)")
        made.catch_up()  # which finds it at the beginning, and loads it
        made.assert_equal("f", "l", "found")

        too_early = made.run("checkpoint", "set", before_all, "--yes")
        assert too_early.returncode == 2
        assert "its history begins at" in too_early.stderr
        assert "--schema" in too_early.stderr
        refused = made.run("checkpoint", "set", back, "--yes")
        assert refused.returncode == 2
        assert f"{made.source_database}.found: its history begins at" in refused.stderr
        assert f"{made.source_database}.f:" not in refused.stderr
        unasked = made.run("checkpoint", "set", back, "--reload")
        assert unasked.returncode == 2
        assert "asks for confirmation" in unasked.stderr

        for table in ("f", "l"):
            restore(made, table)
        result = made.run("checkpoint", "set", back, "--reload", "--yes")
        assert result.returncode == 0, result.stderr
        assert f"{made.source_database}.f: with its definition of that time" in result.stdout
        assert f"{made.source_database}.found: loaded again; its history begins at" in result.stdout
        killed = made.run("run", "--until-caught-up", crash_at="schema_altered")
        assert killed.returncode not in (0, 1, 2), killed.stderr
        went_on = made.run("run", "--until-caught-up")
        assert went_on.returncode == 0, went_on.stderr
        made.assert_equal("f", "l", "found")
        assert "f" not in loads(killed.stderr + went_on.stderr)
        for sink in made.sinks:
            # The statements came again: there is one entry for each, as before.
            columns = [entry[1] for entry in said(history(made, sink)["f"])]
            assert len(columns) == 1 + len(FOLLOWED)
            assert len({str(one) for one in columns}) == 1 + len(FOLLOWED)


@pytest.mark.full
def test_a_target_that_is_not_as_it_was_is_loaded_again_and_one_without_a_key_too(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15) as made:
        execute(made, TABLE.format("t"), "CREATE TABLE keyless (v INT)", "CREATE TABLE same (id INT PRIMARY KEY)")
        made.catch_up()
        back, file = place_of(made.source), file_place(made.source)
        printed = back if back == file else f"{back} @ {file}"
        execute(made, FOLLOWED[0].format("t"), "INSERT INTO keyless VALUES (1), (1)", "INSERT INTO same VALUES (1)")
        made.catch_up()
        result = made.run("checkpoint", "set", printed, "--yes")
        assert result.returncode == 0, result.stderr
        assert ".t: loaded again; its target is not as it was: it has z, which came later" in result.stdout
        assert ".keyless: loaded again; it has no key" in result.stdout
        assert ".same" not in result.stdout
        went_on = made.run("run", "--until-caught-up")
        assert went_on.returncode == 0, went_on.stderr
        made.assert_equal("t", "keyless", "same")
        assert loads(went_on.stderr) == ["keyless", "t"]
        refused = made.run("checkpoint", "set", place_of(made.source), "--yes")
        assert refused.returncode in (0, 2)  # it is where the checkpoint is, or right behind it


def test_a_schema_file_says_what_the_history_does_not(tmp_path: Path, nameless: Server, pg15: Server) -> None:
    """The table's history begins behind the place; the file has its CREATE TABLE of that time."""
    with deployment(tmp_path, nameless, pg=pg15) as made:
        execute(made, TABLE.format("t"))
        created = made.source.execute("SHOW CREATE TABLE t", database=made.source_database)[0][1]
        rows_between(made, "t", 1)
        back = place_of(nameless)
        made.catch_up()
        back_up(made, "t")
        rows_between(made, "t", 2)
        execute(made, FOLLOWED[0].format("t"))
        rows_between(made, "t", 3)
        made.catch_up()
        file = tmp_path / "schema.sql"
        file.write_text(f"USE `{made.source_database}`;\n{created};\n")
        restore(made, "t")
        result = made.run("checkpoint", "set", back, "--schema", str(file), "--yes")
        assert result.returncode == 0, result.stderr
        went_on = made.run("run", "--until-caught-up")
        assert went_on.returncode == 0, went_on.stderr
        made.assert_equal("t")
        assert loads(went_on.stderr) == []


# ---------------------------------------------------------------- what goes


@pytest.mark.full
def test_what_the_source_can_send_no_more_is_pruned(tmp_path: Path, start_server: StartServer, pg15: Server) -> None:
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, pg=pg15) as made:
        execute(made, TABLE.format("t"))
        made.catch_up()
        for statement in FOLLOWED[:2]:
            execute(made, statement.format("t"))
        made.catch_up()
        assert len(said(history(made, "pg")["t"])) == 3
        source.execute("FLUSH BINARY LOGS")
        execute(made, FOLLOWED[2].format("t"))
        made.catch_up()
        file = file_place(source).partition(":")[0]
        assert len(said(history(made, "pg")["t"])) == 4
        source.execute(f"PURGE BINARY LOGS TO '{file}'")
        made.catch_up()
        entries = said(history(made, "pg")["t"])
        assert len(entries) == 2
        assert entries[-1][0].startswith(file)


# ---------------------------------------------------------------- files


def lines(result: Any) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


EVERY_TYPE = """CREATE TABLE every (
  id BIGINT UNSIGNED AUTO_INCREMENT, t1 TINYINT(1), t2 TINYINT UNSIGNED, s SMALLINT, m MEDIUMINT ZEROFILL, i INT,
  d0 DECIMAL, d1 DECIMAL(7), d2 DECIMAL(20,4) UNSIGNED, f FLOAT, d DOUBLE UNSIGNED, b BIT, b9 BIT(9), y YEAR, da DATE,
  dt DATETIME(3), ts TIMESTAMP(6) NULL, ti TIME, c CHAR(3), cb CHAR(5) CHARACTER SET latin1 COLLATE latin1_bin,
  v VARCHAR(300), bi BINARY(4), vb VARBINARY(9), tt TINYTEXT, te TEXT, mt MEDIUMTEXT, lt LONGTEXT, tb TINYBLOB, bl BLOB,
  mb MEDIUMBLOB, lb LONGBLOB, e ENUM('a','it''s','\\\\','ü', 'x,y)') CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
  st SET('p','q r'), js JSON, g GEOMETRY, po POINT NOT NULL, gen INT AS (i + 1), sto INT AS (i * 2) STORED,
  `odd ``name` INT COMMENT 'PRIMARY KEY (`i`), ) ;', `key` INT DEFAULT -1,
  PRIMARY KEY (id, i), UNIQUE KEY u1 (c, v(10)), UNIQUE (s), KEY k (e), SPATIAL KEY sp (po),
  CONSTRAINT chk CHECK (t2 < 200)
) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci COMMENT='ENGINE=MyISAM; x'"""


@pytest.mark.parametrize("kind", ["mysql97", "mariadb1011", pytest.param("mariadb118", marks=pytest.mark.full)])
def test_what_show_create_table_prints_is_read_as_the_servers_own_definition(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    server: Server = request.getfixturevalue(kind)
    with fresh_database(server) as database:
        more = ", u UUID, i4 INET4, i6 INET6, ct VARCHAR(90) COMPRESSED" if kind.startswith("mariadb") else ""
        server.execute(EVERY_TYPE.replace("\n) DEFAULT", f"{more}\n) DEFAULT"), database=database)
        server.execute("CREATE TABLE plain (a INT, b VARCHAR(9)) CHARACTER SET latin1", database=database)
        settings = SourceSettings(server.host, server.port, server.user, server.password, 7)
        for name in ("every", "plain"):
            table = TableName(database, name)
            with connect(settings) as connection:
                expected = read_definition(connection, table)
                printed = connection.query_text(f"SHOW CREATE TABLE `{database}`.`{name}`")[0][1]
            file = tmp_path / "schema.sql"
            file.write_text(f"USE `{database}`;\n{printed};\n")
            assert expected is not None
            found = read_schema_file(file).find(table, expected.flavor, None)
            assert found is not None
            assert len(found.columns) == len(expected.columns)
            pairs = zip(map(_decisive, found.columns), map(_decisive, expected.columns), strict=True)
            assert [pair for pair in pairs if pair[0] != pair[1]] == []
            assert (found.primary_key, found.unique_keys) == (expected.primary_key, expected.unique_keys)
            assert (found.name, found.engine, found.charset) == (expected.name, expected.engine, expected.charset)


def _decisive(column: ColumnDefinition) -> ColumnDefinition:
    """Without what decides about no row: defaults, and a collation that the statement leaves to its character set."""
    kept = replace(column, default=None, has_default_expression=False, comment="")
    return replace(kept, collation=None) if column.charset is not None else kept


def test_tail_names_columns_by_a_history_and_by_a_file(tmp_path: Path, nameless: Server, pg15: Server) -> None:
    with deployment(tmp_path, nameless, pg=pg15) as made:
        execute(made, TABLE.format("t"))
        made.catch_up()
        back = place_of(nameless)
        created = made.source.execute("SHOW CREATE TABLE t", database=made.source_database)[0][1]
        rows_between(made, "t", 1)
        execute(made, FOLLOWED[0].format("t"), FOLLOWED[1].format("t"))
        rows_between(made, "t", 2)
        made.catch_up()
        table = f"{made.source_database}.t"
        asked = ("tail", table, "--from", back, "--until-caught-up", "--operation", "insert")
        kept = tmp_path / "history.json"
        kept.write_text(made.run("checkpoint", "history", "--json").stdout)
        found = [line["after"] for line in lines(made.run(*asked, "--schema", str(kept)))]
        assert [list(row) for row in found[:3]] == [["id", "a", "n", "e", "b"]] * 3
        assert [list(row) for row in found[3:]] == [["z", "id", "n", "e", "b"]] * 3
        assert found[0] == {"id": 100, "a": 5, "n": 70_001, "e": "y", "b": "é"}
        # What fits today's definition by its types alone is named by that, with a warning: both are two INTs first.
        without = made.run(*asked)
        assert "their names are those of today" in without.stderr
        assert next(line["after"] for line in lines(without)) != found[0]
        file = tmp_path / "schema.sql"
        file.write_text(f"{created};\n")
        named = [line["after"] for line in lines(made.run(*asked, "--limit", "3", "--schema", str(file)))]
        assert named == found[:3]
        # The same out of the server's files, with nobody to ask.
        of_log = ("--binlog", str(log_file(nameless)), "--operation", "insert")
        assert [line["after"] for line in alone(tmp_path, table, *of_log, "--schema", str(kept))] == found
        assert [
            line["after"] for line in alone(tmp_path, table, *of_log, "--limit", "3", "--schema", str(file))
        ] == named
        with pytest.raises(AssertionError, match="--schema FILE gives the definitions of that time"):
            alone(tmp_path, table, *of_log)


def log_file(server: Server) -> Path:
    base = Path(server.execute("SELECT @@log_bin_basename")[0][0])
    return base.parent / file_place(server).partition(":")[0]


def alone(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    """`cdc tail` without a configuration."""
    command = [sys.executable, "-m", "cdc", "tail", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return lines(subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False))


# ---------------------------------------------------------------- places that are none, lanes, prepared transactions


def test_a_gtid_list_that_mariadb_does_not_go_on_from_is_refused_with_nothing_changed(
    tmp_path: Path, start_server: StartServer, pg15: Server
) -> None:
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, pg=pg15) as made:
        execute(made, TABLE.format("t"), "INSERT INTO t VALUES (1, 1, 1, 'x', 'b')")
        early = str(source.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
        execute(made, "INSERT INTO t VALUES (2, 1, 1, 'x', 'b')", "FLUSH BINARY LOGS")
        made.catch_up()
        domain, server_id, number = (int(part) for part in early.split("-"))
        there = str(source.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
        execute(made, "INSERT INTO t VALUES (3, 1, 1, 'x', 'b')")
        made.catch_up()
        last = source.execute("SHOW MASTER STATUS")[0][0]
        execute(made, "FLUSH BINARY LOGS", f"PURGE BINARY LOGS TO '{last}'")
        before = made.run("checkpoint", "show").stdout
        for wrong in (early, f"{domain}-{server_id + 7}-{number + 1}", f"{domain}-{server_id}-{number + 900}"):
            refused = made.run("checkpoint", "set", wrong, "--reload", "--yes")
            assert refused.returncode == 2, wrong
            assert f"does not have its log from {wrong} on: " in refused.stderr, (wrong, refused.stderr)
        assert made.run("checkpoint", "show").stdout == before
        result = made.run("checkpoint", "set", there, "--reload", "--yes")
        assert result.returncode == 0, result.stderr
        made.catch_up()
        made.assert_equal("t")


@pytest.mark.parametrize("kind", ["mariadb1011", "mysql97"])
def test_lanes_are_set_back_together_while_a_transaction_is_prepared(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str
) -> None:
    """One XA transaction is prepared before the place and one behind it; both are committed when all has come again."""
    source = start_server(kind)
    with deployment(tmp_path, source, pg=pg15) as made, _nothing_stays_prepared(source):
        made.config["sinks"][0]["lanes"] = 2
        for table in ("p", "q", "r"):
            execute(made, f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT)", f"INSERT INTO {table} VALUES (0, 0)")
        made.catch_up()
        _prepare(made, "early", "p", 1)
        back = place_of(source)
        if kind == "mariadb1011":
            back = str(source.execute("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
        execute(made, *(f"INSERT INTO {table} VALUES (5, 5)" for table in ("p", "q", "r")))
        _prepare(made, "late", "q", 2)
        made.catch_up()
        assert made.status()["sinks"][0]["prepared"]["count"] >= 2
        result = made.run("checkpoint", "set", back, "--yes")
        assert result.returncode == 0, result.stderr
        shown = orjson.loads(made.run("checkpoint", "show", "--json").stdout)
        assert len({str(lane["position"]) for lane in shown[0]["lanes"]}) == 1
        made.catch_up()
        execute(made, "XA COMMIT 'early'", "XA COMMIT 'late'")
        made.catch_up()
        made.assert_equal("p", "q", "r")
        assert made.status()["sinks"][0]["prepared"]["count"] == 0


@contextlib.contextmanager
def _nothing_stays_prepared(source: Server) -> Iterator[None]:
    """What is left would keep its database from being dropped."""
    try:
        yield
    finally:
        for row in source.execute("XA RECOVER"):
            source.execute(f"XA ROLLBACK '{row[3]}'")


def _prepare(made: Deployment, name: str, table: str, number: int) -> None:
    """In a session of its own, which leaves: what is prepared is anybody's."""
    insert = f"INSERT INTO {table} VALUES ({number}, {number})"
    execute_alone(made, f"XA START '{name}'", insert, f"XA END '{name}'", f"XA PREPARE '{name}'")


def execute_alone(made: Deployment, *statements: str) -> None:
    with contextlib.closing(made.source.connect(made.source_database)) as session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
