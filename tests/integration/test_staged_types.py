"""Every type that servers have, through files: the same to the bit as what was read, and the same rows on the sinks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from cdc.model import TableName
from cdc.source.connection import connect
from cdc.source.definitions import read_definition
from cdc.source.result_reader import ResultReader
from cdc.source.resultset import quote_table, select_list
from snapshot.chunks import Chunk, KeyRange
from snapshot.staged_file import check_whole, read_rows, write_chunk
from tests.integration.test_binlog_types import CASES, _applies, _statements
from tests.integration.test_result_reader import settings_of
from tests.support import fresh_database
from tests.support.deployment import Deployment, deployment
from tests.support.row_batches import bits


def _fill(server: Server, database: str) -> list[str]:
    """A table a case; their names."""
    names = [name for name, case in CASES.items() if _applies(case, server)]
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        for name in names:
            cursor.execute("SET SESSION sql_mode = ''")
            for statement in _statements(CASES[name], name):
                cursor.execute(statement)
        connection.commit()
    return names


def test_every_type_comes_out_of_a_file_as_it_was_read(source_server: Server, tmp_path: Path) -> None:
    with fresh_database(source_server) as database, connect(settings_of(source_server)) as connection:
        for name in _fill(source_server, database):
            definition = read_definition(connection, TableName(database, name))
            assert definition is not None
            sql = f"SELECT {select_list(definition)} FROM {quote_table(definition.name)}"
            read = list(ResultReader(connection, definition).read(sql, rows_max=1000, bytes_max=1 << 20))
            schema = definition.arrow_schema
            staged = write_chunk(
                tmp_path,
                Chunk(1, KeyRange()),
                iter(read),
                schema=schema,
                head={},
                compression="zstd",
                on_size=lambda _size: None,
            )
            check_whole(staged)
            before, after = (
                pa.Table.from_batches(read, schema),
                pa.Table.from_batches(read_rows(staged, schema), schema),
            )
            assert before.num_rows == after.num_rows > 0
            for column in schema.names:
                left, right = before[column].combine_chunks(), after[column].combine_chunks()
                right.validate(full=True)
                assert bits(left).equals(bits(right)), f"{name}.{column}"


def _loaded(made: Deployment, tables: list[str]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What each sink has of each table, and what is said of it."""
    made.config["log"] = {"level": "debug"}
    result = made.run("run", "--until-caught-up")
    assert ('"event": "chunk_staged"' in result.stderr) == ("staging" in made.config), "by the way that was meant"
    found: dict[tuple[str, str], tuple[Any, ...]] = {}
    for one in made.status()["tables"]:
        name = one["table"].partition(".")[2]
        rows = made.sink_rows(one["sink"], name) if one["state"] == "ready" else []
        found[one["sink"], name] = (one["state"], (one["error"] or {}).get("message"), one["policy_changes"], rows)
    assert {name for _, name in found} == set(tables)
    return found


@pytest.mark.in_turn
@pytest.mark.full
def test_sinks_get_the_same_through_files_and_through_memory(
    source_server: Server, pg15: Server, mariadb1011: Server, tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "files").mkdir()
    with deployment(tmp_path / "memory", source_server, pg=pg15, maria=mariadb1011) as made:
        tables = _fill(source_server, made.source_database)
        expected = _loaded(made, tables)
        for server, database in made.sinks.values():
            for table in tables:
                place = f'"{made.source_database}"' if server.family == "postgresql" else f"`{database}`"
                quoted = f'"{table}"' if server.family == "postgresql" else f"`{table}`"
                server.execute(f"DROP TABLE IF EXISTS {place}.{quoted}", None, database=database)
        made.config["name"] += "-staged"
        made.config["staging"] = {"dir": str(tmp_path / "files")}
        found = _loaded(made, tables)
        for place_and_table, said in expected.items():
            assert repr(found[place_and_table]) == repr(said), place_and_table
        assert sum(state == "ready" for state, *_ in found.values()) > len(tables)
