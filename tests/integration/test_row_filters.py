"""Row filters against the server's own WHERE: the same rows, whatever the type and the condition."""

from __future__ import annotations

import contextlib

import pytest

from cdc.demo.servers import Server
from cdc.model import TableName
from cdc.pipeline.transform import transformed_rows
from cdc.rowfilter import parse_filter
from cdc.schema.mapping import map_table
from cdc.schema.options import TableOptions
from cdc.schema.target import Policies
from cdc.source.connection import SourceSettings, connect
from cdc.source.definitions import read_definition
from snapshot.chunks import read_chunks
from tests.support.databases import fresh_database

# Binary collations without padding: the filter compares characters, the server what its collation says.
TYPES = """
CREATE TABLE t (
    id INT PRIMARY KEY, tiny TINYINT(1) NULL, big BIGINT UNSIGNED NULL, price DECIMAL(40,3) NULL,
    small DECIMAL(5,2) NULL, f FLOAT NULL, d DOUBLE NULL, bits BIT(9) NULL, year YEAR NULL, day DATE NULL,
    at DATETIME(6) NULL,
    ts TIMESTAMP(3) NULL, span TIME(2) NULL, name VARCHAR(20) CHARACTER SET utf8mb4 COLLATE {collation} NULL,
    body TEXT CHARACTER SET utf8mb4 COLLATE {collation} NULL, kind ENUM('new','paid','') NULL, raw VARBINARY(9) NULL,
    pad BINARY(4) NULL
)"""
ROWS = """
    (1, 1, 18446744073709551615, 99999999999999999999.125, -9.99, 0.5, 0.1, b'101', 2024, '2024-02-29',
     '2024-02-29 10:00:00.5', '2024-02-29 10:00:00.25', '-10:00:00', 'Ada', 'Ada', 'new', x'00ff', x'0102'),
    (2, 0, 0, 0, 0, -0.0, -0.0, 0, 0, '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', '00:00:00', '', '',
     '', '', ''),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, -7, 7, -1.5, 1.5, 1.5, 1e300, 511, 1999, '1999-12-31', '1999-12-31 23:59:59.999999',
     '1999-12-31 23:59:59.999', '838:59:59', 'ada ', 'Zoë 北京', 'paid', x'ff', x'ff')"""
CONDITIONS = [
    "tiny",
    "NOT tiny",
    "tiny = TRUE OR tiny IS NULL",
    "tiny < 0",
    "-7 = tiny",
    "big = 18446744073709551615",
    "big BETWEEN 1 AND 10",
    "big NOT BETWEEN 1 AND 10",
    "price > 99999999999999999999.124",
    "price IN (-1.5, 0)",
    "small <> 0",
    "NOT small",
    "f >= 0.5",
    "f = 0",
    "d = 0.1",
    "d > 1e299",
    "d",
    "bits = 5",
    "bits > 5 AND bits < 512",
    "year = 0 OR year = 2024",
    "day > '1999-12-31'",
    "day <= '1999-12-31'",
    "day IN ('2024-02-29', '2024-02-28')",
    "at >= '2024-02-29 10:00:00.5'",
    "at < '2024-02-29'",
    "ts = '2024-02-29 10:00:00.25'",
    "ts > '1999-12-31'",
    "span < '00:00:00'",
    "span BETWEEN '-10:00:00' AND '10:00:00'",
    "name = 'Ada'",
    "name <> 'Ada'",
    "name NOT IN ('Ada', '')",
    "body = 'Zoë 北京'",
    "kind = 'new'",
    "kind = ''",
    "kind <> 'new'",
    "kind NOT IN ('paid')",
    "raw = x'00ff'",
    "raw IN (x'ff', x'00')",
    "raw = x''",
    "NOT (tiny = 1 AND day IS NULL)",
    "NOT (tiny = 1 OR day IS NULL)",
    "NOT tiny = 1 AND NOT name = 'x'",
    "tiny = 1 OR big > 0 AND NOT name = 'Ada'",
    "(tiny = 1 OR big > 0) AND NOT name = 'Ada'",
    "tiny IS NOT NULL AND (name = 'nobody' OR tiny IS NOT NULL)",
    "id IN (1, 2, 3) AND id NOT IN (2)",
]


@pytest.mark.parametrize(
    "server_name,collation", [("mysql97", "utf8mb4_0900_bin"), ("mariadb1011", "utf8mb4_nopad_bin")]
)
def test_a_filter_keeps_what_the_servers_where_keeps(
    server_name: str, collation: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(server_name)
    with fresh_database(server) as database, contextlib.closing(server.connect(database)) as session:
        with session.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = '', time_zone = '+00:00'")
            cursor.execute(TYPES.format(collation=collation))
            cursor.execute(f"INSERT INTO t VALUES {ROWS}")
            session.commit()
        settings = SourceSettings(server.host, server.port, server.user, server.password, 77)
        with contextlib.closing(connect(settings)) as source:
            definition = read_definition(source, TableName(database, "t"))
            assert definition is not None
            (rows,) = read_chunks(source, definition, ("id",), rows_max=100)
        wrong = []
        for condition in CONDITIONS:
            target = map_table(
                definition,
                kind="postgresql",
                namespace="n",
                name="t",
                key=("id",),
                policies=Policies(),
                options=TableOptions(row_filter=parse_filter(condition)),
            )
            found = transformed_rows(rows, target).column("id").to_pylist()
            with session.cursor() as cursor:
                cursor.execute(f"SELECT id FROM t WHERE {condition} ORDER BY id")
                expected = [row[0] for row in cursor.fetchall()]
            if found != expected:
                wrong.append((condition, found, expected))
        assert not wrong
