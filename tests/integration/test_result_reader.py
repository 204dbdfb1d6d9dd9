"""Results read straight from the socket of a real session: over TLS, larger than packets, cut off in the middle."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from cdc.errors import CdcError, SourceUnavailable
from cdc.model import TableDefinition, TableName
from cdc.source.connection import SourceConnection, SourceSettings, SslSettings, connect
from cdc.source.definitions import read_definition
from cdc.source.result_reader import ResultReader
from cdc.source.resultset import quote_table, select_list, to_record_batch
from tests.support import wait_until
from tests.support.results import same_rows

ROWS = 30_000


@pytest.fixture
def made(source_server: Server, database: Callable[[Server], str]) -> tuple[Server, TableDefinition]:
    name = database(source_server)
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200), d DATETIME(3) NULL)", database=name)
    ten = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    numbers = ", ".join(f"({ten}) AS t{power}" for power in range(5))
    number = " + ".join(f"t{power}.d * {10**power}" for power in range(5))
    source_server.execute(
        f"INSERT INTO t SELECT n, REPEAT(CHAR(97 + n % 26), n % 200), IF(n % 3, '2024-02-29 01:02:03.4', NULL) "
        f"FROM (SELECT {number} AS n FROM {numbers}) AS x WHERE n < {ROWS}",
        database=name,
    )
    with connect(settings_of(source_server)) as connection:
        definition = read_definition(connection, TableName(name, "t"))
    assert definition is not None
    return source_server, definition


def settings_of(server: Server, mode: Any = "disabled") -> SourceSettings:
    return SourceSettings(server.host, server.port, server.user, server.password, 77, ssl=SslSettings(mode))


def read(connection: SourceConnection, definition: TableDefinition, sql: str) -> Iterator[pa.RecordBatch]:
    return ResultReader(connection, definition).read(sql, rows_max=1000, bytes_max=1 << 20)


def session_id(connection: SourceConnection) -> int:
    raw: Any = connection.raw
    return int(raw.thread_id())


def select(definition: TableDefinition) -> str:
    return f"SELECT {select_list(definition)} FROM {quote_table(definition.name)} ORDER BY id"


@pytest.mark.parametrize("mode", ["disabled", "preferred"])
def test_rows_are_those_of_the_reference_with_and_without_tls(made: tuple[Server, TableDefinition], mode: str) -> None:
    server, definition = made
    with connect(settings_of(server, mode)) as connection:
        is_tls = isinstance(connection.raw._sock, ssl.SSLSocket)  # type: ignore[attr-defined]
        assert mode == "preferred" or not is_tls
        assert is_tls or server.family == "mariadb" or mode == "disabled", "MySQL offers TLS by itself"
        expected = to_record_batch(definition, connection.query(select(definition)))
        for _ in range(2):  # and the session is as good as before
            batches = list(read(connection, definition, select(definition)))
            found = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
            assert same_rows(found, expected)
            assert all(batch.num_rows <= 1000 for batch in batches)


def test_an_error_of_the_server_in_the_middle_leaves_the_session_usable(made: tuple[Server, TableDefinition]) -> None:
    server, definition = made
    with connect(settings_of(server)) as connection:
        # An error that comes with the row: a subquery of two rows.
        broken = f"IF(id < {ROWS - 5}, v, (SELECT 1 UNION SELECT 2))"
        sql = f"SELECT id, {broken}, d FROM {quote_table(definition.name)} ORDER BY id"
        seen = 0

        def consume() -> None:
            nonlocal seen
            for batch in read(connection, definition, sql):
                seen += batch.num_rows

        with pytest.raises(CdcError, match="1242"):
            consume()
        assert 0 < seen < ROWS
        assert connection.query("SELECT 1") == [(b"1",)]


@pytest.mark.parametrize("mode", ["disabled", "preferred"])
def test_a_session_that_is_killed_or_hung_up_in_the_middle_is_lost_and_no_short_table(
    made: tuple[Server, TableDefinition], mode: str
) -> None:
    server, definition = made
    cross = f"FROM {quote_table(definition.name)} AS a CROSS JOIN {quote_table(definition.name)} AS b"
    sql = f"SELECT a.id, a.v, a.d {cross}"

    def by_server(connection: SourceConnection) -> None:
        server.execute(f"KILL {session_id(connection)}")

    def by_us(connection: SourceConnection) -> None:
        connection.hang_up()

    for end in (by_server, by_us):
        with connect(settings_of(server, mode)) as connection:
            batches = read(connection, definition, sql)
            next(batches)
            session = session_id(connection)
            end(connection)
            began = time.monotonic()
            with pytest.raises(SourceUnavailable):
                for _ in batches:
                    pass
            assert time.monotonic() - began < 30
        gone = f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {session}"
        wait_until(lambda: not server.execute(gone), 20, "the server to end the query")  # noqa: B023


def test_a_row_larger_than_a_packet(mysql97: Server, database: Callable[[Server], str]) -> None:
    name = database(mysql97)
    mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)", database=name)
    mysql97.execute(f"INSERT INTO t VALUES (1, 'a'), (2, REPEAT('é', {10 << 20})), (3, 'c')", database=name)
    with connect(settings_of(mysql97)) as connection:
        definition = read_definition(connection, TableName(name, "t"))
        assert definition is not None
        batches = list(read(connection, definition, select(definition)))
    values = [value for batch in batches for value in batch.column("v").to_pylist()]
    assert [len(value) for value in values] == [1, 10 << 20, 1]
    assert set(values[1]) == {"é"}
