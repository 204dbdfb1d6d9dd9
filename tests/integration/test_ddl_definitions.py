"""What the service works out of a statement is what the server's information_schema says after it, to the letter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.demo.servers import Server
from cdc.model import TableDefinition, TableName
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import StatementText, effect_of
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.definitions import read_definition
from tests.support import fresh_database
from tests.support.ddl_forms import FOLLOWED, LOADED, PARTITIONED, TABLE
from tests.support.random_ddl import RandomDdl


def _connect(server: Server) -> SourceConnection:
    return connect(SourceSettings(server.host, server.port, server.user, server.password, 77))


def _read(source: SourceConnection, table: TableName) -> TableDefinition:
    found = read_definition(source, table)
    assert found is not None
    return found


def _comparable(definition: TableDefinition) -> TableDefinition:
    """Without what the servers make up: the names of indexes that a statement does not name."""
    keys = sorted((key.columns, key.has_prefix) for key in definition.unique_keys)
    return replace(definition, unique_keys=tuple(keys))  # type: ignore[arg-type]  # only to be compared


def test_every_form_is_worked_out_exactly(source_server: Server) -> None:
    with fresh_database(source_server) as database, _connect(source_server) as source:
        wrong = []
        for number, form in enumerate(FOLLOWED):
            table = TableName(database, f"t{number}")
            source_server.execute(TABLE.format(t=table.table), database=database)
            before = _read(source, table)
            statement = f"ALTER TABLE {table.table} {form}"
            try:
                source_server.execute(statement, database=database)
            except Exception as error:  # noqa: BLE001 - collected, with all the others
                wrong.append(f"{form}: {error}")
                continue
            try:
                effect = effect_of(StatementText(statement, database), before, server_version=source.version)
            except Unproven as error:
                wrong.append(f"{form}: {error}")
                continue
            after = _read(source, table)
            if _comparable(effect.definition) != _comparable(after):
                wrong.append(f"{form}: {_difference(effect.definition, after)}")
        assert not wrong, "\n".join(wrong)


def _difference(one: TableDefinition, other: TableDefinition) -> str:
    pairs = zip(one.columns, other.columns, strict=False)
    different = [f"{a} / {b}" for a, b in pairs if a != b]
    return "; ".join(different) or f"{one} / {other}"


@pytest.mark.parametrize("form", LOADED)
def test_what_is_not_proven_says_so(mysql97: Server, form: str) -> None:
    with fresh_database(mysql97) as database, _connect(mysql97) as source:
        mysql97.execute(TABLE.format(t="t"), database=database)
        before = _read(source, TableName(database, "t"))
        with pytest.raises(Unproven):
            effect_of(StatementText(f"ALTER TABLE t {form}", database), before, server_version=source.version)


def test_partitions_that_keep_their_rows(source_server: Server) -> None:
    with fresh_database(source_server) as database, _connect(source_server) as source:
        table = TableName(database, "t")
        source_server.execute(PARTITIONED.format(t="t"), database=database)
        for form, is_followed in (
            ("ADD PARTITION (PARTITION p2 VALUES LESS THAN (2000))", True),
            ("REORGANIZE PARTITION p0, p1 INTO (PARTITION p01 VALUES LESS THAN (1000))", True),
            ("TRUNCATE PARTITION p01", False),
            ("DROP PARTITION p2", False),
            ("REMOVE PARTITIONING", True),
            ("PARTITION BY HASH (id) PARTITIONS 2", True),
            ("COALESCE PARTITION 1", True),
            ("REORGANIZE PARTITION", True),
        ):
            before = _read(source, table)
            statement = StatementText(f"ALTER TABLE t {form}", database)
            source_server.execute(statement.text, database=database)
            assert _read(source, table) == before
            if is_followed:
                assert effect_of(statement, before, server_version=source.version).definition == before
            else:
                with pytest.raises(Unproven):
                    effect_of(statement, before, server_version=source.version)


@pytest.mark.parametrize("seed", range(2))
def test_a_random_run_of_statements_is_worked_out_exactly(source_server: Server, seed: int) -> None:
    """Each from what was worked out of the one before, so that a mistake is not mended by reading."""
    with fresh_database(source_server) as database, _connect(source_server) as source:
        table = TableName(database, "t")
        source_server.execute(TABLE.format(t="t"), database=database)
        known = _read(source, table)
        made = RandomDdl(seed)
        followed = 0
        for _ in range(60):
            statement = f"ALTER TABLE t {made.actions(known)}"
            if not made.execute(source_server, database, statement):
                continue
            try:
                known = effect_of(StatementText(statement, database), known, server_version=source.version).definition
                followed += 1
            except Unproven:
                known = _read(source, table)
            assert _comparable(known) == _comparable(_read(source, table)), statement
        assert followed > 20


@pytest.mark.any_server
def test_a_table_that_the_dictionary_shows_without_columns_is_looked_at_again(
    source_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a moment, while it is altered. One that is gone by the second look is no table without columns."""
    with fresh_database(source_server) as database, _connect(source_server) as source:
        table = TableName(database, "t")
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=database)
        real, looks = SourceConnection.rows_by_name, []

        def without_columns(self: SourceConnection, statement: str, parameters: tuple[str, ...]) -> object:
            looks.append(statement)
            return [] if len(looks) < 3 else real(self, statement, parameters)

        monkeypatch.setattr(SourceConnection, "rows_by_name", without_columns)
        assert [column.name for column in _read(source, table).columns] == ["id"]
        looks.clear()

        def dropped(self: SourceConnection, _statement: str, _parameters: tuple[str, ...]) -> object:
            source_server.execute("DROP TABLE IF EXISTS t", database=database)
            return []

        monkeypatch.setattr(SourceConnection, "rows_by_name", dropped)
        assert read_definition(source, table) is None
