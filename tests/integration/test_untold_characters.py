"""Characters beyond U+FFFF in members and defaults, which the dictionaries show as `?` (source/supplementary.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import TableDefinition, TableName
from cdc.schema import dictionary_text
from cdc.source.connection import SourceConnection, SourceSettings, SslSettings, connect
from cdc.source.definitions import read_definition, read_definitions
from cdc.source.result_reader import ResultReader
from cdc.source.resultset import quote_table, select_list
from tests.support.databases import fresh_database
from tests.support.deployment import deployment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

_COLUMNS = (
    "id INT PRIMARY KEY",
    "chosen ENUM('a💥','b?','it''s 🎈','€') CHARACTER SET utf8mb4 DEFAULT 'it''s 🎈'",
    "several SET('x💥','y?','z') CHARACTER SET utf8mb4",
    "wide ENUM('a💥','?') CHARACTER SET utf16",
    "honest ENUM('yes','no','?') CHARACTER SET utf8mb4",
    "narrow ENUM('é','?') CHARACTER SET latin1",
    "words VARCHAR(20) CHARACTER SET utf8mb4 DEFAULT 'q?\\\\ ''💥'",
)
_ROWS = (
    "(1, 'a💥', 'x💥,z', 'a💥', '?', '?', 'a')",
    "(2, 'b?', 'y?', '?', 'yes', 'é', 'b')",
    "(3, 'it''s 🎈', '', NULL, 'no', NULL, DEFAULT)",
    "(4, NULL, NULL, NULL, NULL, NULL, NULL)",
)


def source_settings(server: Server) -> SourceSettings:
    return SourceSettings(server.host, server.port, server.user, server.password, 77, ssl=SslSettings("disabled"))


def _read(connection: SourceConnection, definition: TableDefinition, where: str) -> int:
    """How many rows; every value is decoded."""
    sql = f"SELECT {select_list(definition)} FROM {quote_table(definition.name)} WHERE {where}"
    return sum(batch.num_rows for batch in ResultReader(connection, definition).read(sql, rows_max=9, bytes_max=9999))


def _insert(first: int) -> str:
    rows = ", ".join(row.replace(f"({n},", f"({n + first},", 1) for n, row in enumerate(_ROWS, 1))
    return f"INSERT INTO t VALUES {rows}"


@pytest.fixture(params=["mysql97", "mariadb1011"])
def source(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def test_definitions_have_the_characters(source: Server) -> None:
    with fresh_database(source) as database, connect(source_settings(source)) as connection:
        source.execute(f"CREATE TABLE t ({', '.join(_COLUMNS)})", database=database)
        name = TableName(database, "t")
        definition = read_definition(connection, name)
        assert definition is not None
        assert {column.name: column.members for column in definition.columns if column.members} == {
            "chosen": ("a💥", "b?", "it's 🎈", "€"),
            "several": ("x💥", "y?", "z"),
            "wide": ("a💥", "?"),
            "honest": ("yes", "no", "?"),
            "narrow": ("é", "?"),
        }
        assert definition.column("chosen").column_type == "enum('a💥','b?','it''s 🎈','€')"
        defaults = {"chosen": "it's 🎈", "words": "q?\\ '💥"}
        if source.family == "mariadb":
            defaults = {"chosen": "'it''s 🎈'", "words": r"'q?\\ ''💥'"}
        assert {name: definition.column(name).default for name in defaults} == defaults
        assert read_definitions(connection, [name]) == {name: definition}


def test_lists_longer_than_the_servers_limit_of_recursion(source: Server) -> None:
    members = tuple(f"m{number}💥" for number in range(3000))
    with fresh_database(source) as database, connect(source_settings(source)) as connection:
        listed = ",".join(f"'{member}'" for member in members)
        source.execute(
            f"CREATE TABLE t (id INT PRIMARY KEY, v ENUM({listed}) CHARACTER SET utf8mb4)", database=database
        )
        definition = read_definition(connection, TableName(database, "t"))
        assert definition is not None
        assert definition.column("v").members == members


def test_they_are_replicated(tmp_path: Path, source: Server, pg17: Server, mariadb118: Server) -> None:
    """Loaded, streamed without row metadata, and as values that an INSERT leaves out."""
    with deployment(tmp_path, source, pg=pg17, my=mariadb118) as made:
        source.execute(f"CREATE TABLE t ({', '.join(_COLUMNS)})", database=made.source_database)
        source.execute(_insert(0), database=made.source_database)
        made.catch_up()
        source.execute(_insert(10), database=made.source_database)
        with source.connect(made.source_database) as session, session.cursor() as cursor:
            cursor.execute("SET SESSION binlog_row_image = MINIMAL")
            cursor.execute("INSERT INTO t (id) VALUES (20)")
            session.commit()
        made.catch_up()
        made.assert_equal("t")
        assert ("20", "it's 🎈", "q?\\ '💥") in {
            tuple(map(str, row)) for row in made.sink_rows("pg", "t", ["id", "chosen", "words"])
        }


def test_members_that_change_places_or_characters_are_told_from_those_of_before(
    tmp_path: Path, source: Server, pg17: Server, mariadb118: Server
) -> None:
    """The dictionaries of source and sink show the same for both, and MySQL's family is sent numbers."""
    with deployment(tmp_path, source, pg=pg17, my=mariadb118) as made:
        lists = {"other": ("ENUM('a','💥')", "ENUM('a','💫')")}
        if source.family == "mysql":  # MariaDB 10.11 takes these two for one
            lists |= {"moved": ("ENUM('💥','💫')", "ENUM('💫','💥')"), "bits": ("SET('💥','💫')", "SET('💫','💥')")}
        for table, (before, _) in lists.items():
            source.execute(
                f"CREATE TABLE {table} (id INT PRIMARY KEY, v {before} CHARACTER SET utf8mb4)",
                database=made.source_database,
            )
            source.execute(f"INSERT INTO {table} VALUES (1, 1), (2, 1)", database=made.source_database)
        made.catch_up()
        for table, (_, after) in lists.items():
            for statement in (
                f"ALTER TABLE {table} MODIFY v {after} CHARACTER SET utf8mb4",
                f"INSERT INTO {table} VALUES (3, '💫'), (4, 1)",
            ):
                source.execute(statement, database=made.source_database)
        made.catch_up()
        made.assert_equal(*lists)


def test_a_locked_table_holds_up_no_other(tmp_path: Path, source: Server, mariadb118: Server) -> None:
    """After DDL that was followed, each session asks what the definition is at the source."""
    with deployment(tmp_path, source, my=mariadb118) as made:
        source.execute(
            "CREATE TABLE held (id INT PRIMARY KEY, v ENUM('y','?') CHARACTER SET utf8mb4)",
            database=made.source_database,
        )
        source.execute("CREATE TABLE free (id INT PRIMARY KEY)", database=made.source_database)
        made.catch_up()
        source.execute("ALTER TABLE held ADD COLUMN n INT", database=made.source_database)
        with source.connect(made.source_database) as locker, locker.cursor() as cursor:
            made.start()
            made.wait_for_log("schema_followed")
            made.stop()
            cursor.execute("LOCK TABLES held WRITE")
            source.execute("INSERT INTO free VALUES (1)", database=made.source_database)
            made.start()
            wait_until(lambda: made.sink_rows("my", "free") != [], 60, "the row of the other table")
            assert "pipeline_retrying" not in made.log()
            cursor.execute("UNLOCK TABLES")
        source.execute("INSERT INTO held VALUES (1, '?', 2)", database=made.source_database)
        wait_until(lambda: made.sink_rows("my", "held") != [], 60, "the row of the table that was locked")
        made.assert_equal("held", "free")


def test_what_the_server_does_not_tell_is_not_loaded_as_something_else(
    source: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from MySQL 5.7, which has no recursive queries: its values say that they are others."""
    monkeypatch.setattr(dictionary_text, "_WITHOUT_LIMIT", {source.family: "{}SELECT FROM {}"})
    settings = source_settings(source)
    with fresh_database(source) as database, connect(settings) as connection, connect(settings) as other:
        source.execute(f"CREATE TABLE t ({', '.join(_COLUMNS)})", database=database)
        source.execute(_insert(0), database=database)
        definition = read_definition(connection, TableName(database, "t"))
        assert definition is not None
        assert definition.column("chosen").members == ("a?", "b?", "it's ?", "€")
        assert _read(connection, definition, "id IN (2, 4)") == 2
        with pytest.raises(UnsupportedData, match=r"\.chosen: .*beyond U\+FFFF"):
            _read(connection, definition, "id = 3")
        source.execute("UPDATE t SET chosen = NULL", database=database)
        with pytest.raises(UnsupportedData, match=r"\.several: .*beyond U\+FFFF"):
            _read(other, definition, "id = 1")
