"""Every column type and charset, written to real servers and read back out of their binlog.

The oracles are the server's own SELECT of the same rows, once as exact text (tests/support/binlog_values.py) and once
as a load reads it (cdc/source/resultset.py), and python-mysql-replication on the types that it gets right. Every
event is decoded by the kernel and by its twin (tests/support/binlog_fetch.py).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest

from cdc.binlog.charsets import MAX_BYTES, collation_charset, text_decoder
from cdc.binlog.constants import EventType, MariadbGtidExtraFlag
from cdc.binlog.events import (
    EventClass,
    Gtid,
    classify,
    parse_gtid,
    parse_mariadb_gtid,
    parse_mariadb_gtid_list,
    parse_previous_gtids,
    parse_query,
    parse_rows,
    parse_transaction_payload,
    parse_xa_prepare,
    payload_events,
)
from cdc.binlog.framing import Event, EventFramer, parse_header, read_binlog_file
from cdc.binlog.json_text import double_text
from cdc.binlog.layout import LayoutMismatch, build_layout, definition_from_table_map
from cdc.binlog.table_map import TableMap
from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.source.connection import SourceSettings, SslSettings
from cdc.source.connection import connect as connect_source
from cdc.source.definitions import read_definition
from cdc.source.result_reader import ResultReader
from cdc.source.resultset import quote_table, select_list, to_record_batch
from tests.support.binlog_fetch import (
    Place,
    binlog_place,
    decode_table,
    fetch_contents,
    fetch_events,
    flatten,
    flavor_of,
)
from tests.support.binlog_values import batch_rows, select_expression, selected
from tests.support.charset_cells import sequences_of, server_texts
from tests.support.databases import fresh_database
from tests.support.pool import SERIES
from tests.support.results import same_rows
from tests.support.row_batches import bits

# ---------------------------------------------------------------- helpers


@contextlib.contextmanager
def session(server: Server, database: str | None = None, *settings: str) -> Iterator[Any]:
    """A cursor in a session that stores odd values as they are, in UTC."""
    connection = server.connect(database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = '', time_zone = '+00:00'")
            for setting in settings:
                cursor.execute(setting)
            yield cursor
    finally:
        connection.close()


def source_settings(server: Server) -> SourceSettings:
    return SourceSettings(
        server.host, server.port, server.user, server.password, server_id=950_000, ssl=SslSettings("disabled")
    )


def definition_of(server: Server, database: str, table: str) -> TableDefinition:
    source = connect_source(source_settings(server))
    try:
        definition = read_definition(source, TableName(database, table))
    finally:
        source.close()
    assert definition is not None
    return definition


def select_rows(server: Server, definition: TableDefinition, order: str = "id") -> list[dict[str, Any]]:
    columns = definition.columns
    expressions = ", ".join(select_expression(column, definition.flavor) for column in columns)
    name = definition.name
    with session(server) as cursor:
        cursor.execute(f"SELECT {expressions} FROM `{name.database}`.`{name.table}` ORDER BY {order}")
        return [
            {column.name: selected(column, value) for column, value in zip(columns, row, strict=True)}
            for row in cursor.fetchall()
        ]


def check_rows(server: Server, definition: TableDefinition, batches: Sequence[RowBatch], order: str = "id") -> None:
    """The images are the table's rows: as the server shows them, and to the last bit as a load reads them."""
    assert batch_rows(batches) == select_rows(server, definition, order)
    with connect_source(source_settings(server)) as source:
        sql = f"SELECT {select_list(definition)} FROM {quote_table(definition.name)} ORDER BY {order}"
        rows = source.query(sql)
        read = list(ResultReader(source, definition).read(sql, rows_max=1 << 20, bytes_max=1 << 30))
    loaded = to_record_batch(definition, rows)
    assert not rows or same_rows(pa.Table.from_batches(read).combine_chunks().to_batches()[0], loaded), "by the kernel"
    streamed = pa.Table.from_batches([batch.images for batch in batches]).combine_chunks()
    for name, ours, theirs in zip(loaded.schema.names, streamed.columns, loaded.columns, strict=True):
        assert bits(ours.combine_chunks()).equals(bits(theirs)), (name, ours, theirs)


def write_and_decode(
    server: Server, database: str, table: str, statements: Sequence[str], *settings: str
) -> tuple[TableDefinition, list[dict[str, Any]], list[TableMap]]:
    """Run the statements in one session; what they did to `table` according to the binlog."""
    definition, batches, maps = write_and_decode_batches(server, database, table, statements, *settings)
    return definition, batch_rows(batches), maps


def write_and_decode_batches(
    server: Server, database: str, table: str, statements: Sequence[str], *settings: str
) -> tuple[TableDefinition, list[RowBatch], list[TableMap]]:
    place = binlog_place(server)
    with session(server, database, *settings) as cursor:
        for statement in statements:
            cursor.execute(statement)
    definition = definition_of(server, database, table)
    _, version = flavor_of(server)
    batches, maps = decode_table(fetch_events(server, place), definition, version)
    return definition, batches, maps


def events_since(server: Server, place: Place, event_type: EventType) -> list[Event]:
    return [event for event in flatten(fetch_events(server, place)) if event.header.event_type == event_type]


# ---------------------------------------------------------------- the types


@dataclass(frozen=True)
class Case:
    """A table and its rows. `id` comes first by itself; `mode` is the session's sql_mode."""

    columns: str
    rows: tuple[str, ...]
    flavor: str = ""
    since: tuple[int, ...] = ()
    mode: str = ""
    options: str = ""


_ENUM_300 = ",".join(f"'m{number}'" for number in range(300))
_SET_64 = ",".join(f"'s{number}'" for number in range(1, 65))
_TEMPORAL_COLUMNS = (
    "d DATE, dt DATETIME, dt1 DATETIME(1), dt2 DATETIME(2), dt3 DATETIME(3), dt4 DATETIME(4), dt5 DATETIME(5), "
    "dt6 DATETIME(6)"
)
_DATES = (
    "0000-00-00 00:00:00",
    "9999-12-31 23:59:59.999999",
    "2023-00-15 10:00:00.1",
    "2023-05-00 00:00:00.000001",
    "0000-01-01 00:00:00",
    "0000-12-31 23:59:59.9",
    "0001-01-01 00:00:00",
    "1000-01-01 00:00:00.5",
    "2024-02-29 12:34:56.789012",
)
_TIMES = (
    "0",
    "838:59:59",
    "-838:59:59",
    "838:59:58.999999",
    "-838:59:58.999999",
    "-00:00:00.1",
    "-00:00:00.01",
    "-00:00:00.000001",
    "00:00:00.000001",
    "-00:00:01",
    "-00:00:00.999999",
    "-23:59:59.999",
    "-100:00:00.999",
    "12:34:56.789012",
    "-01:00:00.9",
)
_STAMPS = (
    "0000-00-00 00:00:00",
    "1970-01-01 00:00:01",
    "1970-01-01 00:00:01.000001",
    "2001-09-09 01:46:40.999999",
    "2038-01-19 03:14:07.499999",
    "2038-01-19 03:14:07",
)


def _temporal_row(value: str, count: int) -> str:
    return ", ".join([f"'{value}'"] * count)


CASES: dict[str, Case] = {
    "integers": Case(
        "a TINYINT, au TINYINT UNSIGNED, b SMALLINT, bu SMALLINT UNSIGNED, c MEDIUMINT, cu MEDIUMINT UNSIGNED, d INT, "
        "du INT UNSIGNED, f BIGINT, fu BIGINT UNSIGNED, y YEAR, z INT(5) ZEROFILL, t TINYINT(1)",
        (
            (
                "-128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295, -9223372036854775808, "
                "18446744073709551615, 0, 42, 2"
            ),
            (
                "127, 128, 32767, 32768, 8388607, 8388608, 2147483647, 2147483648, 9223372036854775807, "
                "9223372036854775808, 2155, 0, -5"
            ),
            "-1, 0, -1, 0, -1, 0, -1, 0, -1, 0, 1901, 99999, 1",
            "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
            "0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1999, 1, 0",
        ),
    ),
    "signedness": Case(
        "a INT UNSIGNED, y YEAR, b INT, d DECIMAL(5,2) UNSIGNED, f FLOAT UNSIGNED, bt BIT(3), e ENUM('x'), "
        "c BIGINT UNSIGNED, g DOUBLE UNSIGNED, s SET('p'), h SMALLINT UNSIGNED",
        ("4294967295, 2000, -1, 999.99, 1.5, 7, 'x', 18446744073709551615, 2.5, 'p', 65535",),
    ),
    "decimals": Case(
        "a DECIMAL(65,30), b DECIMAL(65,0), c DECIMAL(30,30), d DECIMAL(10,9), e DECIMAL(9,0) UNSIGNED, "
        "f DECIMAL(1,1), g DECIMAL(18,9), h DECIMAL(38,10), i DECIMAL(39,1), j DECIMAL(5,2)",
        (
            (
                f"{'9' * 35}.{'9' * 30}, {'9' * 65}, 0.{'9' * 30}, 9.999999999, 999999999, 0.9, 999999999.999999999, "
                f"{'9' * 28}.{'9' * 10}, {'9' * 38}.9, 999.99"
            ),
            (
                f"-0.{'0' * 29}1, -{'9' * 65}, -0.{'0' * 29}1, -0.000000001, 0, -0.1, -999999999.999999999, "
                f"-{'9' * 28}.{'9' * 10}, -{'9' * 38}.9, -999.99"
            ),
            "0, -1, 0, -9.000000000, 1, 0, 0, 0, 0, 0",
            "-12345.6789, 10, 0.1, 1, 10, -0.0, 1, -1, 0.1, -0.01",
            "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
            "1000000000, 1000000000, 0.000000001, 0.1, 100000000, 0.1, 1000000000e-1, 1e9, 1e9, 0.5",
        ),
    ),
    "floats": Case(
        "a FLOAT, b DOUBLE, c FLOAT(7,3), d DOUBLE(20,10)",
        (
            "-0e0, -0e0, -0.0, -0.0",
            "3.4028235e38, 1.7976931348623157e308, 9999.999, 1234567890.0123456789",
            "1.17549435e-38, 2.2250738585072014e-308, 0.1, 0.1",
            "1e-45, 5e-324, 0, 0",
            "0.1, 0.1, 9999, 0.3",
            "16777217, 9007199254740993, 123.4567, 1e9",
            # stored next to -0.0000000596, which is what the server prints
            "-5.96e-8, -5.960464477539063e-08, -0.0004, -5.960464477539063e-08",
            "NULL, NULL, NULL, NULL",
        ),
    ),
    "bits": Case(
        "a BIT(1), b BIT(8), c BIT(9), d BIT(63), e BIT(64), f BIT(17)",
        (
            "1, 128, 256, 0x4000000000000000, 0xFFFFFFFFFFFFFFFF, 0x10000",
            "0, 0, 0, 0, 0, 0",
            "1, 255, 511, 0x7FFFFFFFFFFFFFFF, 0x8000000000000001, 0x1FFFF",
            "NULL, NULL, NULL, NULL, NULL, NULL",
        ),
    ),
    "dates": Case(_TEMPORAL_COLUMNS, tuple(_temporal_row(value, 8) for value in _DATES)),
    "invalid_dates": Case(
        _TEMPORAL_COLUMNS,
        tuple(_temporal_row(value, 8) for value in ("2023-02-30 00:00:00", "2023-11-31 23:59:59.999999")),
        mode="ALLOW_INVALID_DATES",
    ),
    "times": Case(
        "t TIME, t1 TIME(1), t2 TIME(2), t3 TIME(3), t4 TIME(4), t5 TIME(5), t6 TIME(6)",
        (*(_temporal_row(value, 7) for value in _TIMES), "NULL, NULL, NULL, NULL, NULL, NULL, NULL"),
    ),
    "longest_times": Case(
        "t1 TIME(1), t6 TIME(6)", ("'838:59:59.9', '838:59:59.999999'", "'-838:59:59.9', '-838:59:59.999999'")
    ),
    "timestamps": Case(
        ", ".join(f"t{digits} TIMESTAMP({digits}) NULL" for digits in range(7)),
        (*(_temporal_row(value, 7) for value in _STAMPS), "NULL, NULL, NULL, NULL, NULL, NULL, NULL"),
    ),
    "late_timestamps": Case(
        "t TIMESTAMP NULL, t6 TIMESTAMP(6) NULL",
        (
            "'2106-02-07 06:28:15', '2106-02-07 06:28:15.999999'",
            "'2038-01-19 03:14:08', '2038-01-19 03:14:08.000001'",
        ),
        flavor="mariadb",
        since=(11, 5),
    ),
    "enums_and_sets": Case(
        "e ENUM('a','b','',' c ','naïve','it''s','x,y','back\\\\slash','q\"q'), s SET('a','b','c d','naïve'), "
        f"el ENUM('x','ÿ') CHARACTER SET latin1, e3 ENUM({_ENUM_300}), s64 SET({_SET_64}), "
        "e16 ENUM('é','b') CHARACTER SET utf16, sj SET('表','ソ') CHARACTER SET sjis, "
        "s9 SET('1','2','3','4','5','6','7','8','9'), "
        "s17 SET('1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','16','17'), "
        "s25 SET('1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','16','17','18','19','20','21','22',"
        "'23','24','25')",
        (
            "'a', 'a', 'x', 'm0', 's64', 'é', '表', '9', '17', '25'",
            "'bogus', '', 'bogus', 'm299', 's1,s64', 'b', 'ソ,表', '1,9', '1,17', '1,25'",
            "'', NULL, NULL, 'm254', '', NULL, '', '', '', ''",
            "'it''s', 'a,naïve', 'ÿ', 'm255', 's33', 'é', NULL, NULL, NULL, NULL",
            "'x,y', 'c d', 'x', 'm256', NULL, 'é', '表', '2', '2', '2'",
        ),
    ),
    "binary_members": Case(
        "e ENUM('a','ÿ') CHARACTER SET binary, s SET('x','ÿ') CHARACTER SET binary", ("'ÿ', 'x'", "'a', 'ÿ,x'")
    ),
    "strings": Case(
        "c CHAR(5), cb CHAR(5) COLLATE utf8mb4_bin, b BINARY(5), vb VARBINARY(10), vc VARCHAR(10), v300 VARCHAR(300), "
        "c255 CHAR(255), c64 CHAR(64), tt TINYTEXT, tb TINYBLOB, t TEXT, bl BLOB, mt MEDIUMTEXT, mb MEDIUMBLOB, "
        "lt LONGTEXT, lb LONGBLOB, ca CHAR(10) CHARACTER SET ascii, b255 BINARY(255), vb300 VARBINARY(300), "
        "c0 CHAR(0), v63 VARCHAR(63)",
        (
            (
                "'a  ', 'a  ', 'a', 'a\\0', 'a  ', 'x  ', REPEAT('é',255), REPEAT('😀',64), '', '', 'é', x'00FF', "
                "'mt', x'01', 'lt', x'02', 'abc', REPEAT('z',255), REPEAT(x'00',300), '', REPEAT('😀',63)"
            ),
            (
                "'', '', 0x6100000000, 0x0000, 'a\\0b', '', ' ', '', '\\0', '\\0\\0', REPEAT('x',65535), "
                "REPEAT(x'FF',65535), REPEAT('y',70000), REPEAT(x'00',70000), REPEAT('😀',70000), "
                "REPEAT(x'80',70000), '', "
                "'', '', '', ''"
            ),
            (
                "'a\\0', 'a\\0', 0x0000000000, '', 'é', REPEAT('é',300), 'x ', 'y', NULL, NULL, NULL, NULL, "
                "NULL, NULL, "
                "NULL, NULL, NULL, NULL, NULL, NULL, NULL"
            ),
            (
                "NULL, NULL, 0x2020202020, ' ', ' ', '\\t', 'a', 'a', 'a', 'a', '', '', '', '', '', '', ' ', "
                "x'00', x'00', "
                "'', '\\\\N'"
            ),
        ),
    ),
    "charsets": Case(
        "l1 VARCHAR(20) CHARACTER SET latin1, u16 VARCHAR(20) CHARACTER SET utf16, u32 VARCHAR(20) CHARACTER SET utf32,"
        "u2 VARCHAR(20) CHARACTER SET ucs2, ul VARCHAR(20) CHARACTER SET utf16le, sj VARCHAR(20) CHARACTER SET sjis, "
        "gb VARCHAR(20) CHARACTER SET gbk, c9 VARCHAR(20) CHARACTER SET cp932, bi VARCHAR(20) CHARACTER SET binary, "
        "n INT UNSIGNED, u3 TEXT CHARACTER SET utf8mb3, uj CHAR(20) CHARACTER SET ujis, "
        "ej CHAR(20) CHARACTER SET eucjpms, ek TEXT CHARACTER SET euckr, b5 CHAR(9) CHARACTER SET big5, "
        "g2 CHAR(9) CHARACTER SET gb2312, k8 CHAR(5) CHARACTER SET koi8r, s7 CHAR(9) CHARACTER SET swe7, "
        "c2 CHAR(30) CHARACTER SET ucs2",
        (
            (
                "x'8081E9FF', '😀é', '😀é', 'é', '😀é', '表ソ', '中文', '①表', x'FF00FE', 4294967295, '中é', '漢字', "
                "'漢字①', '한글', '中文', '中文', 'привет'+0, 'åäö', '中é'"
            ),
            "x'8D9D', '', '', '', '', '', '', '', '', 0, '', '', '', '', '', '', '', '', ''",
            (
                "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "
                "NULL, NULL"
            ),
        ),
    ),
    "gb18030": Case(
        "a VARCHAR(20) CHARACTER SET gb18030, b TEXT CHARACTER SET gb18030",
        ("'中文😀€', 'ḿ'", "x'8135F437', x'A8BC'"),
        flavor="mysql",
    ),
    "mysql_json": Case(
        "j JSON",
        (
            "'null'",
            "NULL",
            "'{}'",
            "'[]'",
            '\'"a\\\\u0000b\\\\u001f\\\\b\\\\f\\\\n\\\\r\\\\t\\\\"\\\\\\\\/é😀"\'',
            "'18446744073709551615'",
            "'-9223372036854775808'",
            "'[1.0, -0.0, 0.1, 1E2, 1e15, 1e16, 1e-15, 1e-16, 1.5e300, 123456789012345.6]'",
            (
                "'[0, -1, 32767, 32768, -32768, -32769, 65535, 65536, 2147483647, 2147483648, -2147483648, "
                "-2147483649, "
                "4294967295, 4294967296, 9223372036854775807, 9223372036854775808]'"
            ),
            "CAST(CAST(12345678901234567890.123456789 AS DECIMAL(40,9)) AS JSON)",
            "JSON_ARRAY(CAST(-0.000000000000000000000000000001 AS DECIMAL(65,30)), 1.10, CAST(0 AS DECIMAL(5,2)))",
            (
                "JSON_ARRAY(CAST('2020-01-02 03:04:05.000006' AS DATETIME(6)), CAST('-838:59:59' AS TIME), "
                "CAST('-00:00:00.1' AS TIME(1)), CAST('2020-01-02' AS DATE), TIMESTAMP'2020-01-01 00:00:00')"
            ),
            "JSON_OBJECT('b', x'00FF', 'c', b'101', 'y', CAST(2020 AS YEAR))",
            "JSON_ARRAY(REPEAT(x'00', 57), REPEAT(x'01', 58), REPEAT(x'02', 200))",
            '\'{"a":1,"a":2, "":0,"é":1,"b":true,"c":false,"d":null}\'',
            "JSON_ARRAY(JSON_ARRAY(REPEAT('x',70000),1,true,-70000,70000,3000000000),2)",
            "JSON_OBJECT('k', REPEAT('é',40000), 'n', JSON_OBJECT('z', 1))",
            "CONCAT(REPEAT('[',100), REPEAT(']',100))",
            f"JSON_OBJECT({', '.join(f'{chr(39)}key{n}{chr(39)}, {n}' for n in range(300))})",
        ),
        flavor="mysql",
    ),
    "mariadb_json": Case(
        "j JSON", ("'null'", "NULL", '\'{"a":1,"a":2}\'', "'[1.0,1e400]'", "' [ ] '"), flavor="mariadb"
    ),
    "geometry": Case(
        "g GEOMETRY, p POINT, c GEOMETRYCOLLECTION",
        (
            "ST_GeomFromText('POINT(1 2)'), ST_GeomFromText('POINT(3 4)'), NULL",
            (
                "ST_GeomFromText('LINESTRING(0 0,1 1)'), NULL, "
                "ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 2),LINESTRING(0 0,1 1))')"
            ),
        ),
    ),
    "mysql_geometry": Case(
        "p POINT SRID 4326, g GEOMETRY",
        ("ST_GeomFromText('POINT(1 2)', 4326), ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')",),
        flavor="mysql",
    ),
    "mysql_vector": Case(
        "v VECTOR(3), w VECTOR", ("TO_VECTOR('[1,-2.5,0.1]'), TO_VECTOR('[1]')", "NULL, NULL"), flavor="mysql"
    ),
    # Which columns have a charset, a table map says by counting: one that is counted wrongly shifts all that follow.
    "vector_before_text": Case(
        "v VECTOR(1), a VARCHAR(5), b VARCHAR(5), c VARCHAR(5), t TEXT CHARACTER SET latin1, w VECTOR(1), x BLOB",
        ("TO_VECTOR('[1]'), 'a', 'é', '', 'ÿ', NULL, x'FF'",),
        flavor="mysql",
    ),
    "vector_between_text": Case(
        "a VARCHAR(5), v VECTOR(1), t TEXT CHARACTER SET latin1, j JSON, g GEOMETRY",
        ("'é', TO_VECTOR('[1]'), 'ÿ', '1', NULL",),
        flavor="mysql",
    ),
    "geometry_among_text": Case(
        "g GEOMETRY, a VARCHAR(5), b VARCHAR(5), p POINT, c VARCHAR(5), t TEXT CHARACTER SET latin1, "
        "e ENUM('é') CHARACTER SET latin1, j JSON, s SET('ü'), u CHAR(3) CHARACTER SET ucs2, d DATE",
        ("POINT(1, 2), 'a', 'é', NULL, 'ü', 'ÿ', 'é', '{}', 'ü', 'é', NULL",),
    ),
    "mariadb_vector": Case(
        "v VECTOR(3), w VECTOR(100)", ("VEC_FromText('[1,-2.5,0.1]'), NULL",), flavor="mariadb", since=(11, 7)
    ),
    "mariadb_addresses": Case(
        "u UUID, i6 INET6, i4 INET4",
        (
            "'123e4567-e89b-12d3-a456-426614174000', '::ffff:1.2.3.4', '1.2.3.4'",
            "'00000000-0000-0000-0000-000000000000', '::', '0.0.0.0'",
            "NULL, '2001:db8::', '255.255.255.255'",
            "'00112233-4455-1677-8899-aabbccddee00', NULL, NULL",
            "'00112233-4455-7677-8899-aabbccddeeff', '::1', '1.0.0.0'",
        ),
        flavor="mariadb",
    ),
    "mariadb_compressed": Case(
        "vc VARCHAR(100) COMPRESSED, tc TEXT COMPRESSED, bc BLOB COMPRESSED, lc LONGTEXT COMPRESSED, "
        "vs VARCHAR(20) COMPRESSED, vb VARBINARY(1000) COMPRESSED, vl VARCHAR(300) COMPRESSED CHARACTER SET latin1, "
        "v63 VARCHAR(63) COMPRESSED, v64 VARCHAR(64) COMPRESSED CHARACTER SET latin1",
        (
            (
                "REPEAT('abc',30), REPEAT('xyz',1000), REPEAT('b',1000), REPEAT('é',100000), REPEAT('q',20), "
                "REPEAT(x'00',1000), REPEAT('ÿ',300), REPEAT('w',63), REPEAT('v',64)"
            ),
            "'', '', '', '', '', '', '', '', ''",
            "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
            "'a', 'short', x'00', 'x', 'y', x'0000', 'é', 'z', 'z'",
        ),
        flavor="mariadb",
    ),
    "generated_and_invisible": Case(
        "a INT, v INT GENERATED ALWAYS AS (a*2) VIRTUAL, s INT GENERATED ALWAYS AS (a*3) STORED, "
        "inv INT INVISIBLE DEFAULT 7",
        ("10, DEFAULT, DEFAULT, 1", "NULL, DEFAULT, DEFAULT, NULL"),
    ),
    "functional_index": Case(
        "a INT, j JSON, KEY fx ((a + 1)), KEY mv ((CAST(j->'$.x' AS UNSIGNED ARRAY)))",
        ("1, '{\"x\": [1,2]}'",),
        flavor="mysql",
    ),
    "myisam_dynamic": Case(
        "c CHAR(10), v VARCHAR(5), b BINARY(6), t TEXT, e ENUM('a','b')",
        ("'ab', 'cd', 'ef', 'gh', 'b'", "NULL, NULL, NULL, NULL, NULL"),
        options="ENGINE=MyISAM ROW_FORMAT=DYNAMIC",
    ),
    "collations": Case(
        "a VARCHAR(10) COLLATE utf8mb4_bin, n INT UNSIGNED, b TEXT COLLATE utf8mb4_bin, c CHAR(5) COLLATE latin1_bin, "
        "d VARCHAR(10) COLLATE utf8mb4_0900_as_ci, e DECIMAL(5,2) UNSIGNED, f VARCHAR(9) COLLATE utf16_hungarian_ci, "
        "g ENUM('ä','b') COLLATE utf8mb4_ja_0900_as_cs, h BLOB",
        ("'ä', 1, 'é\\0', 'ÿ', '日', 2.5, 'ő', 'ä', 'é\\0'", "'', 2, '', '', '', 0, '', 'b', ''"),
        flavor="mysql",
    ),
    "mariadb_collations": Case(
        "a VARCHAR(10) COLLATE utf8mb4_uca1400_ai_ci, n INT UNSIGNED, b TEXT COLLATE utf8mb4_bin, "
        "c CHAR(5) COLLATE latin1_bin, d VARCHAR(10) COLLATE utf8mb4_general_nopad_ci, e DECIMAL(5,2) UNSIGNED, "
        "f VARCHAR(9) COLLATE utf16_uca1400_hungarian_as_cs, g ENUM('ä','b') COLLATE utf8mb3_uca1400_danish_ai_cs, "
        "h BLOB",
        ("'ä', 1, 'é\\0', 'ÿ', '日', 2.5, 'ő', 'ä', 'é\\0'", "'', 2, '', '', '', 0, '', 'b', ''"),
        flavor="mariadb",
        since=(10, 10),
    ),
    "spatial": Case(
        "ls LINESTRING, po POLYGON, mp MULTIPOINT, ml MULTILINESTRING, mo MULTIPOLYGON, gc GEOMETRYCOLLECTION",
        (
            ", ".join(
                f"ST_GeomFromText('{text}')"
                for text in (
                    "LINESTRING(-1.5 2.25,3 4)",
                    "POLYGON((0 0,4 0,4 4,0 0),(1 1,2 1,2 2,1 1))",
                    "MULTIPOINT(1 2,3 4)",
                    "MULTILINESTRING((0 0,1 1),(2 2,3 3))",
                    "MULTIPOLYGON(((0 0,4 0,4 4,0 0)))",
                    "GEOMETRYCOLLECTION EMPTY",
                )
            ),
            "NULL, NULL, NULL, NULL, NULL, NULL",
        ),
    ),
    "widest": Case(
        ", ".join(f"c{number} TINYINT" for number in range(1016)),
        (", ".join(str(number % 256 - 128) for number in range(1016)), ", ".join(["NULL"] * 1015 + ["1"])),
    ),
    "partitioned": Case("a INT, b VARCHAR(5)", ("1, 'x'", "2, 'y'"), options="PARTITION BY HASH(id) PARTITIONS 4"),
    "wide": Case(
        ", ".join(f"c{number} INT" for number in range(300)),
        (", ".join(str(number) for number in range(300)), ", ".join(["NULL"] * 300)),
    ),
}


def _is_of(case: Case, flavor: str, version: tuple[int, ...]) -> bool:
    return (not case.flavor or case.flavor == flavor) and version >= case.since


def _applies(case: Case, server: Server) -> bool:
    return _is_of(case, *flavor_of(server))


def _statements(case: Case, table: str) -> list[str]:
    rows = [f"INSERT INTO `{table}` VALUES ({number}, {row})" for number, row in enumerate(case.rows, 1)]
    names = case.columns
    if "INVISIBLE" in names:  # VALUES leaves invisible columns out
        rows = [row.replace("VALUES", "(id, a, v, s, inv) VALUES") for row in rows]
    mode = [f"SET SESSION sql_mode = '{case.mode}'"] if case.mode else []
    return [f"CREATE TABLE `{table}` (id INT PRIMARY KEY, {names}) {case.options}", *mode, *rows]


@pytest.mark.parametrize(
    "source_server,name",
    [(server, name) for server, series in SERIES.items() for name, case in CASES.items() if _is_of(case, *series)],
    indirect=["source_server"],
)
def test_decoded_rows_are_what_the_server_selects(source_server: Server, name: str) -> None:
    case = CASES[name]
    if not _applies(case, source_server):
        pytest.skip(f"{source_server.kind.name} does not have it")
    with fresh_database(source_server) as database:
        definition, batches, maps = write_and_decode_batches(source_server, database, name, _statements(case, name))
        check_rows(source_server, definition, batches)
        assert sum(batch.row_count for batch in batches) == len(case.rows)
        assert maps
        _, version = flavor_of(source_server)
        _check_definition_from(maps[-1], definition, version)


# What travels as something else in the table map, so that no definition made from it can know.
_TRAVELS_AS = {
    ValueKind.UUID: ValueKind.BINARY,
    ValueKind.INET4: ValueKind.BINARY,
    ValueKind.INET6: ValueKind.BINARY,
    ValueKind.VECTOR: ValueKind.BLOB,
    ValueKind.JSON: ValueKind.TEXT,
}


def _check_definition_from(table_map: TableMap, definition: TableDefinition, version: tuple[int, ...]) -> None:
    """With FULL metadata the table map alone gives a definition that decodes the same."""
    made = definition_from_table_map(table_map, definition.flavor)
    if table_map.optional.names is None:
        assert made is None
        return
    assert made is not None
    build_layout(table_map, made, flavor=definition.flavor, server_version=version)
    for ours, theirs in zip(made.columns, definition.columns, strict=True):
        kind = _TRAVELS_AS.get(theirs.kind, theirs.kind) if definition.flavor == "mariadb" else theirs.kind
        assert (ours.name, ours.kind, ours.is_nullable, ours.members) == (
            theirs.name,
            kind,
            theirs.is_nullable,
            theirs.members,
        )
        assert (ours.is_unsigned, ours.precision, ours.scale, ours.fraction_digits) == (
            theirs.is_unsigned,
            theirs.precision,
            theirs.scale,
            theirs.fraction_digits,
        )
        if kind is theirs.kind:
            # an ENUM in the binary charset: MariaDB names the charset, MySQL names none
            assert (ours.charset or "binary", ours.arrow_type) == (theirs.charset or "binary", theirs.arrow_type)
            if theirs.kind not in (ValueKind.GEOMETRY, ValueKind.JSON):
                assert ours.length == theirs.length or theirs.column_type == "year(4)"
    assert made.primary_key == definition.primary_key


# ---------------------------------------------------------------- settings of the server


def _every_case(server: Server, *, check: Callable[[str, Case, list[TableMap]], None]) -> int:
    """Every case that the server has, through one session and one reading of the binlog."""
    _, version = flavor_of(server)
    cases = {name: case for name, case in CASES.items() if _applies(case, server)}
    with fresh_database(server) as database:
        place = binlog_place(server)
        for name, case in cases.items():
            with session(server, database) as cursor:
                for statement in _statements(case, name):
                    cursor.execute(statement)
        events = fetch_events(server, place)
        for name, case in cases.items():
            definition = definition_of(server, database, name)
            batches, maps = decode_table(events, definition, version)
            check_rows(server, definition, batches)
            check(name, case, maps)
    return len(cases)


@pytest.mark.parametrize("kind", ["mysql97", "mariadb1011", "mariadb118"])
def test_every_type_without_names_and_signs_in_the_table_map(start_server: Callable[..., Server], kind: str) -> None:
    """binlog_row_metadata=MINIMAL on MySQL (signs and charsets only), NO_LOG on MariaDB (nothing)."""
    is_mysql = kind.startswith("mysql")
    server = start_server(kind, options={"binlog_row_metadata": "MINIMAL" if is_mysql else "NO_LOG"})

    def check(name: str, case: Case, maps: list[TableMap]) -> None:
        assert all(table_map.optional.names is None for table_map in maps), name
        assert all((table_map.optional.is_unsigned is not None) == is_mysql for table_map in maps), name
        assert all(definition_from_table_map(table_map, "mysql") is None for table_map in maps)

    assert _every_case(server, check=check) > 20


@pytest.mark.parametrize("kind", ["mariadb1011", "mariadb118"])
def test_every_type_in_mariadbs_old_temporal_formats_and_compressed_events(
    start_server: Callable[..., Server], kind: str
) -> None:
    """mysql56_temporal_format=OFF writes types 7, 11 and 12, of a length that only the definition tells."""
    server = start_server(
        kind,
        options={"mysql56_temporal_format": "OFF", "log_bin_compress": "ON", "log_bin_compress_min_len": "10"},
    )
    place = binlog_place(server)
    old_types: set[int] = set()

    def check(name: str, case: Case, maps: list[TableMap]) -> None:
        old_types.update(one for table_map in maps for one in table_map.column_types if one in (7, 11, 12))

    assert _every_case(server, check=check) > 20
    assert old_types == {7, 11, 12}
    types = {event.header.event_type for event in fetch_events(server, place)}
    assert EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1 in types
    assert EventType.MARIADB_QUERY_COMPRESSED in types
    queries = events_since(server, place, EventType.MARIADB_QUERY_COMPRESSED)
    assert any(parse_query(event).statement.startswith("CREATE TABLE `integers`") for event in queries)


def test_every_type_inside_compressed_transactions(start_server: Callable[..., Server]) -> None:
    server = start_server("mysql97", options={"binlog_transaction_compression": "ON"})
    place = binlog_place(server)
    assert _every_case(server, check=lambda name, case, maps: None) > 20
    events = fetch_events(server, place)
    payloads = [event for event in events if event.header.event_type == EventType.TRANSACTION_PAYLOAD]
    plain = [event for event in events if event.header.event_type == EventType.WRITE_ROWS]
    assert len(payloads) > 50
    assert len(plain) == len(CASES["myisam_dynamic"].rows)  # what is not transactional is not compressed
    inner = list(payload_events(parse_transaction_payload(payloads[0])))
    assert {event.header.log_pos for event in inner} == {0}


# ---------------------------------------------------------------- what only some tables have


def test_a_generated_invisible_key_is_in_the_images(mysql97: Server) -> None:
    """Also where the server hides it from its own descriptions (A33)."""
    with fresh_database(mysql97) as database:
        statements = [
            "SET SESSION sql_generate_invisible_primary_key = ON",
            "CREATE TABLE t (v INT)",
            "INSERT INTO t VALUES (10), (20)",
        ]
        definition, batches, _ = write_and_decode_batches(mysql97, database, "t", statements)
        assert definition.primary_key == ("my_row_id",)
        assert [column.is_invisible for column in definition.columns] == [True, False]
        check_rows(mysql97, definition, batches, order="my_row_id")
        assert [row["my_row_id"] for row in batch_rows(batches)] == [1, 2]


@pytest.mark.parametrize("kind", ["mysql97", "mariadb118"])
def test_char_is_read_as_it_is_stored_whatever_the_servers_mode(start_server: Callable[..., Server], kind: str) -> None:
    """A session that inherits PAD_CHAR_TO_FULL_LENGTH selects what no row holds (A20)."""
    server = start_server(kind, options={"sql_mode": "PAD_CHAR_TO_FULL_LENGTH"})
    with fresh_database(server) as database:
        statements = [
            "CREATE TABLE t (id INT PRIMARY KEY, c CHAR(5), b BINARY(3))",
            "INSERT INTO t VALUES (1, 'a', 'b')",
        ]
        definition, batches, _ = write_and_decode_batches(server, database, "t", statements)
        check_rows(server, definition, batches)
        assert batch_rows(batches) == [{"id": 1, "c": "a", "b": "620000"}]


def test_rows_that_move_between_partitions(source_server: Server) -> None:
    """MySQL names both partitions in extra data before the images (A44)."""
    with fresh_database(source_server) as database:
        statements = [
            (
                "CREATE TABLE t (id INT, v VARCHAR(20), PRIMARY KEY (id)) "
                "PARTITION BY RANGE (id) (PARTITION a VALUES LESS THAN (100), PARTITION b VALUES LESS THAN MAXVALUE)"
            ),
            "INSERT INTO t VALUES (1, 'one'), (200, 'two hundred')",
            "UPDATE t SET id = 300 - id",
            "DELETE FROM t WHERE id = 100",
        ]
        _, rows, _ = write_and_decode(source_server, database, "t", statements)
    assert [(row["id"], row["v"]) for row in rows] == [
        (1, "one"),
        (200, "two hundred"),
        (1, "one"),
        (299, "one"),
        (200, "two hundred"),
        (100, "two hundred"),
        (100, "two hundred"),
    ]


# ---------------------------------------------------------------- operations and images


def test_operations_come_in_stream_order_with_pairs_for_updates(source_server: Server) -> None:
    with fresh_database(source_server) as database:
        place = binlog_place(source_server)
        with session(source_server, database) as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(10))")
            cursor.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
            cursor.execute("UPDATE t SET v = CONCAT(v, '!')")
            cursor.execute("DELETE FROM t WHERE id = 1")
        definition = definition_of(source_server, database, "t")
        batches, _ = decode_table(fetch_events(source_server, place), definition, flavor_of(source_server)[1])
    operations = [Operation(one) for batch in batches for one in batch.operation.to_pylist()]
    rows = [(row["id"], row["v"]) for row in batch_rows(batches)]
    insert, before, after, delete = Operation
    assert list(zip(operations, rows, strict=True)) == [
        (insert, (1, "a")),
        (insert, (2, "b")),
        (before, (1, "a")),
        (after, (1, "a!")),
        (before, (2, "b")),
        (after, (2, "b!")),
        (delete, (1, "a!")),
    ]


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_images_without_all_columns_park_the_table(source_server: Server, image: str) -> None:
    with fresh_database(source_server) as database:
        statements = [
            "CREATE TABLE t (id INT PRIMARY KEY, v INT, b BLOB)",
            f"SET SESSION binlog_row_image = {image}",
            "INSERT INTO t VALUES (1, 1, 'x')",
            "UPDATE t SET v = 2",
        ]
        with pytest.raises(UnsupportedData, match="without all columns") as caught:
            write_and_decode(source_server, database, "t", statements)
    assert caught.value.table == f"{database}.t"
    assert "binlog_row_image=FULL" in caught.value.hint
    assert "cdc snapshot" in caught.value.hint


def test_partial_json_updates_give_the_whole_document(mysql97: Server) -> None:
    with fresh_database(mysql97) as database:
        statements = [
            "CREATE TABLE t (id INT PRIMARY KEY, j JSON)",
            "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
            "INSERT INTO t VALUES (1, JSON_OBJECT('a', REPEAT('x', 1000), 'b', 1))",
            "UPDATE t SET j = JSON_SET(j, '$.b', 2)",
        ]
        place = binlog_place(mysql97)
        _, rows, _ = write_and_decode(mysql97, database, "t", statements)
        assert events_since(mysql97, place, EventType.PARTIAL_UPDATE_ROWS)
        with session(mysql97, database) as cursor:
            cursor.execute("SELECT CAST(j AS CHAR) FROM t")
            assert rows[-1]["j"] == cursor.fetchone()[0]
        assert '"b": 1' in rows[-2]["j"]
        assert '"b": 2' in rows[-1]["j"]


def test_rows_above_16_mib_arrive_whole(source_server: Server) -> None:
    with fresh_database(source_server) as database:
        statements = ["CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB)"]
        statements += [f"INSERT INTO t VALUES ({n}, REPEAT('x', {size}))" for n, size in enumerate(_LARGE)]
        place = binlog_place(source_server)
        with session(source_server, database) as cursor:
            for statement in statements:
                cursor.execute(statement)
        definition = definition_of(source_server, database, "t")
        batches, _ = decode_table(fetch_events(source_server, place), definition, flavor_of(source_server)[1])
    sizes = [len(value) for batch in batches for value in batch.images.column("b").to_pylist()]
    assert sizes == list(_LARGE)


# around one and two packets of the protocol
_LARGE = ((1 << 24) - 100, (1 << 24) - 64, 1 << 24, (1 << 25) + 5)


def test_a_json_column_added_to_rows_reads_as_null(mysql97: Server) -> None:
    """Rows from before a NOT NULL JSON column was added: what the server selects for them is what we decode."""
    with fresh_database(mysql97) as database:
        with session(mysql97, database) as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT)")
            cursor.execute("INSERT INTO t VALUES (1, 1)")
            cursor.execute("ALTER TABLE t ADD COLUMN j JSON NOT NULL")
        definition, rows, _ = write_and_decode(mysql97, database, "t", ["UPDATE t SET v = 2"])
        assert rows[1:] == select_rows(mysql97, definition)
        assert rows[1]["j"] == "null"


def test_json_made_of_columns_prints_as_the_server_does(mysql97: Server) -> None:
    """Every column type as an opaque value inside JSON, zero dates and negative times included."""
    columns = (
        "b BIT(5), e ENUM('x','y'), s SET('p','q'), bl BLOB, ts TIMESTAMP(3) NULL, bi BINARY(3), tb TINYBLOB, "
        "lb LONGBLOB, vb VARBINARY(4), ch VARCHAR(5) CHARACTER SET latin1, y YEAR, f FLOAT, d DATE, dt DATETIME(6), "
        "t TIME(6), dc DECIMAL(65,30), u BIGINT UNSIGNED"
    )
    names = "b, e, s, bl, ts, bi, tb, lb, vb, ch, y, f, d, dt, t, dc, u"
    with fresh_database(mysql97) as database:
        statements = [
            f"CREATE TABLE s (id INT PRIMARY KEY, {columns})",
            (
                "INSERT INTO s VALUES (1,5,'y','p,q','abc','2020-01-01 00:00:00.123','a','tiny',REPEAT('x',200),"
                "'vb','é',"
                "1999,0.1,'0000-00-00','0000-00-00','-00:00:00.000001',-0.5,18446744073709551615)"
            ),
            (
                "INSERT INTO s VALUES (2,0,'','','',0,'','','','','',0,-0e0,'2023-00-15','9999-12-31 23:59:59.999999',"
                "'838:59:59',0,0)"
            ),
            "CREATE TABLE t (id INT PRIMARY KEY, j JSON)",
            f"INSERT INTO t SELECT id, JSON_ARRAY({names}) FROM s",
        ]
        definition, rows, _ = write_and_decode(mysql97, database, "t", statements)
        assert rows == select_rows(mysql97, definition)
        assert len(rows) == 2


def test_doubles_in_json_print_as_the_server_does(mysql97: Server) -> None:
    """20 000 random doubles: half of them any bits, half of few digits around the switch to an exponent."""
    rng = random.Random(3)
    doubles: list[float] = []
    while len(doubles) < 20_000:
        if len(doubles) % 2:
            value: float = struct.unpack("<d", rng.randbytes(8))[0]
        else:
            value = rng.randrange(1, 10 ** rng.randrange(1, 18)) * 10.0 ** rng.randrange(-34, 20)
        if math.isfinite(value):
            doubles.append(value)
    with session(mysql97) as cursor:
        for start in range(0, len(doubles), 2000):
            part = doubles[start : start + 2000]
            cells = ", ".join(f"CAST(CAST({value!r} AS DOUBLE) AS JSON)" for value in part)
            # the SQL literal is read exactly (the server's strtod is correct); the JSON text then prints those bits
            cursor.execute(f"SELECT CAST(JSON_ARRAY({cells}) AS CHAR)")
            assert cursor.fetchone()[0] == f"[{', '.join(map(double_text, part))}]"


# ---------------------------------------------------------------- definitions that are not the table's


@pytest.mark.parametrize(
    "change, said",
    [
        ({"column_type": "bigint", "length": 64}, "the type"),
        ({"kind": ValueKind.DATE, "column_type": "date"}, "the type"),
    ],
)
def test_a_column_of_another_type_is_a_mismatch(source_server: Server, change: dict[str, Any], said: str) -> None:
    with fresh_database(source_server) as database:
        definition, _, maps = write_and_decode(
            source_server, database, "t", ["CREATE TABLE t (id INT PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1, 1)"]
        )
    changed = replace(definition, columns=(definition.columns[0], replace(definition.columns[1], **change)))
    with pytest.raises(LayoutMismatch, match=said) as caught:
        build_layout(maps[0], changed, flavor=definition.flavor, server_version=flavor_of(source_server)[1])
    assert caught.value.column == "v"


def test_ddl_outside_the_binlog_is_a_mismatch(source_server: Server) -> None:
    """Swapped columns of one type show with FULL metadata; added ones always."""
    with fresh_database(source_server) as database:
        with session(source_server, database) as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT)")
        definition = definition_of(source_server, database, "t")
        place = binlog_place(source_server)
        with session(source_server, database, "SET SESSION sql_log_bin = 0") as cursor:
            cursor.execute("ALTER TABLE t MODIFY a INT AFTER b")
            cursor.execute("SET SESSION sql_log_bin = 1")
            cursor.execute("INSERT INTO t VALUES (1, 2, 3)")
        events = fetch_events(source_server, place)
        with pytest.raises(LayoutMismatch, match="the name is a in the definition, b in the binlog"):
            decode_table(events, definition, flavor_of(source_server)[1])


# ---------------------------------------------------------------- charsets


_UNICODE = ("ucs2", "utf16", "utf16le", "utf32", "utf8mb3", "utf8mb4")


def test_every_character_of_every_charset_is_the_servers(source_server: Server) -> None:
    """All sequences of one and two bytes (and three in the EUCs), right ones and wrong ones."""
    with contextlib.closing(source_server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")  # else a cut-off character is dropped unseen
        cursor.execute("SELECT CHARACTER_SET_NAME, MAXLEN FROM information_schema.CHARACTER_SETS ORDER BY 1")
        charsets = dict(cursor.fetchall())
        assert charsets == {name: MAX_BYTES[name] for name in charsets}
        for charset in charsets:
            if charset in ("binary", *_UNICODE):
                continue
            decode = text_decoder(charset)
            sequences = list(sequences_of(charset, MAX_BYTES[charset]))
            wrong = [
                (sequence.hex(), expected, ours)
                for sequence, expected in server_texts(cursor, charset, sequences)
                if (ours := _text_or_none(decode, sequence)) != expected and not _is_cut_off(charset, sequence)
            ]
            assert not wrong, (charset, len(wrong), wrong[:5])


def _text_or_none(decode: Callable[[bytes], str], raw: bytes) -> str | None:
    try:
        return decode(raw)
    except ValueError:
        return None


def _is_cut_off(charset: str, sequence: bytes) -> bool:
    """MySQL drops the first half of an eucjpms character at the end of a string; we refuse such a string."""
    return charset == "eucjpms" and _text_or_none(text_decoder(charset), sequence) is None


def _unicode_codecs(server: Server) -> dict[str, str]:
    codecs = {"utf16": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be", "utf8mb4": "utf-8"}
    codecs |= {"ucs2": "utf-16-be", "utf8mb3": "utf-8"}
    if flavor_of(server)[0] == "mysql":
        codecs["gb18030"] = "gb18030"
    return codecs


def test_all_of_unicode_comes_out_of_an_image(source_server: Server) -> None:
    codecs = _unicode_codecs(source_server)
    scalars = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    statements = [
        f"CREATE TABLE t (id INT PRIMARY KEY, {', '.join(f'{c} LONGTEXT CHARACTER SET {c}' for c in codecs)})"
    ]
    for number, start in enumerate(range(0, len(scalars), 0x8000)):
        codes = scalars[start : start + 0x8000]
        values = [
            f"x'{''.join(map(chr, codes)).encode(codec).hex()}'"
            if codes[-1] < 0x10000 or charset not in ("ucs2", "utf8mb3")
            else "''"
            for charset, codec in codecs.items()
            # the server's gb18030 differs from every codec in some characters: the next test has it
            if charset != "gb18030"
        ]
        if "gb18030" in codecs:
            values.append(f"CONVERT(x'{''.join(map(chr, codes)).encode().hex()}' USING utf8mb4)")
        statements.append(f"INSERT INTO t VALUES ({number}, {', '.join(values)})")
    with fresh_database(source_server) as database:
        definition, batches, _ = write_and_decode_batches(
            source_server, database, "t", statements, "SET SESSION sql_mode = ''"
        )
        check_rows(source_server, definition, batches)
    text = "".join(batches[0].images.column("utf8mb4").to_pylist())
    assert text == "".join(map(chr, scalars))


def test_all_of_unicode_in_the_unicode_charsets(source_server: Server) -> None:
    codecs = _unicode_codecs(source_server)
    scalars = [code for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    with session(source_server) as cursor:
        for charset, codec in codecs.items():
            decode = text_decoder(charset)
            planes = [code for code in scalars if code < 0x10000 or charset not in ("ucs2", "utf8mb3")]
            for start in range(0, len(planes), 0x8000):
                raw = "".join(map(chr, planes[start : start + 0x8000])).encode(codec)
                cursor.execute(f"SELECT HEX(CONVERT(CONVERT(x'{raw.hex()}' USING {charset}) USING utf8mb4))")
                assert decode(raw) == bytes.fromhex(cursor.fetchone()[0]).decode("utf-8"), (charset, start)


def test_every_character_of_every_charset_comes_out_of_an_image(source_server: Server) -> None:
    """All that each charset can hold: in one value all of it, then 16 characters a value."""
    with contextlib.closing(source_server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CHARACTER_SET_NAME FROM information_schema.CHARACTER_SETS ORDER BY 1")
        charsets = [name for (name,) in cursor.fetchall() if name not in ("binary", "gb18030", *_UNICODE)]
    assert len(charsets) > 30
    values: list[list[str]] = []
    for charset in charsets:
        decode = text_decoder(charset)
        cells = [raw for raw in sequences_of(charset, MAX_BYTES[charset]) if len(_text_or_none(decode, raw) or "") == 1]
        parts = [b"".join(cells), *(b"".join(cells[start : start + 16]) for start in range(0, len(cells), 16))]
        values.append([f"x'{part.hex()}'" for part in parts])
    rows = [", ".join(row) for row in itertools.zip_longest(*values, fillvalue="NULL")]
    with fresh_database(source_server) as database:
        columns = ", ".join(f"`{name}` MEDIUMTEXT CHARACTER SET {name}" for name in charsets)
        statements = [
            f"CREATE TABLE t (id INT PRIMARY KEY, {columns})",
            *(f"INSERT INTO t VALUES ({number}, {row})" for number, row in enumerate(rows)),
        ]
        definition, batches, _ = write_and_decode_batches(
            source_server, database, "t", statements, "SET SESSION sql_mode = 'STRICT_ALL_TABLES'"
        )
        check_rows(source_server, definition, batches)
    assert len(rows) > 1000


def test_every_collation_id_means_the_servers_charset(source_server: Server) -> None:
    with session(source_server) as cursor:
        cursor.execute("SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS WHERE ID IS NOT NULL")
        pairs = list(cursor.fetchall())
        if flavor_of(source_server)[0] == "mariadb":
            cursor.execute(
                "SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY "
                "WHERE ID IS NOT NULL"
            )
            pairs += cursor.fetchall()
    assert len(pairs) > 280
    assert [(number, collation_charset(int(number))) for number, _ in pairs] == [
        (number, "utf8mb3" if charset == "utf8" else charset) for number, charset in pairs
    ]


def test_text_that_is_none_in_its_charset_parks_the_table(source_server: Server) -> None:
    """A lone surrogate gets from ucs2 into utf8mb4 on every server (bytes ED A0 80)."""
    with fresh_database(source_server) as database:
        statements = [
            "CREATE TABLE s (id INT PRIMARY KEY, u VARCHAR(5) CHARACTER SET ucs2)",
            "INSERT INTO s VALUES (1, x'D800')",
            "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(5) CHARACTER SET utf8mb4)",
            "INSERT INTO t SELECT id, u FROM s",
        ]
        with pytest.raises(UnsupportedData, match="0xeda080 is no text in utf8mb4") as caught:
            write_and_decode(source_server, database, "t", statements)
    assert (caught.value.table, caught.value.column) == (f"{database}.t", "v")


# ---------------------------------------------------------------- events


def test_nothing_that_a_server_writes_is_unknown(source_server: Server) -> None:
    """A bit of everything, also what is logged by statement; every event is framed, classified and parsed."""
    flavor, _ = flavor_of(source_server)
    with fresh_database(source_server) as database:
        place = binlog_place(source_server)
        with session(source_server, database) as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v INT)")
            cursor.execute("CREATE TABLE m (id INT) ENGINE=MyISAM")
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO t VALUES (1, 1)")
            cursor.execute("SAVEPOINT s1")
            if flavor == "mariadb":  # with GTIDs, MySQL refuses to mix engines
                cursor.execute("INSERT INTO m VALUES (1)")
            cursor.execute("ROLLBACK TO s1")
            cursor.execute("COMMIT")
            cursor.execute("XA START 'x', 'b', 7")
            cursor.execute("INSERT INTO t VALUES (2, 2)")
            cursor.execute("XA END 'x', 'b', 7")
            cursor.execute("XA PREPARE 'x', 'b', 7")
            cursor.execute("XA COMMIT 'x', 'b', 7")
            cursor.execute("SET SESSION binlog_format = 'STATEMENT'")
            cursor.execute("SET @v = 5")
            cursor.execute("INSERT INTO t (v) VALUES (@v + RAND())")
            cursor.execute("INSERT INTO t (v) SELECT LAST_INSERT_ID()")
            cursor.execute("TRUNCATE TABLE t")
            cursor.execute("DROP TABLE t, m")
        events = fetch_events(source_server, place, annotate=True)
    classes = {classify(event.header.event_type, event.header.flags) for event in events}
    assert EventClass.UNKNOWN not in classes
    assert classes >= {
        EventClass.FORMAT,
        EventClass.ROTATE,
        EventClass.GTID,
        EventClass.QUERY,
        EventClass.XID,
        EventClass.TABLE_MAP,
        EventClass.ROWS,
        EventClass.XA_PREPARE,
        EventClass.STATEMENT_DATA,
    }
    prepared = [event for event in events if event.header.event_type == EventType.XA_PREPARE]
    assert [str(parse_xa_prepare(event).xa) for event in prepared] == ["X'78',X'62',7"]
    if flavor == "mariadb":
        assert EventType.MARIADB_ANNOTATE_ROWS in {event.header.event_type for event in events}
        named = [parse_mariadb_gtid(e) for e in events if e.header.event_type == EventType.MARIADB_GTID]
        assert {str(gtid.xa) for gtid in named if gtid.xa is not None} == {"X'78',X'62',7"}


def test_statements_are_text_in_the_clients_charset(source_server: Server) -> None:
    """DDL sent in latin1, gbk, cp932 and utf8mb4, whose bytes are in no other charset what they are there."""
    texts = {"latin1": "é", "gbk": "表中文", "cp932": "ソ表", "utf8mb4": "😀", "big5": "中文功"}
    with fresh_database(source_server) as database:
        for charset, text in texts.items():
            connection = source_server.connect(database, charset=charset)
            place = binlog_place(source_server)
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE `t_{charset}` (id INT) COMMENT '{text}'")
            connection.close()
            queries = [parse_query(event) for event in events_since(source_server, place, EventType.QUERY)]
            created = [query for query in queries if query.statement.startswith("CREATE TABLE")]
            assert [(query.statement, query.is_exact, query.database) for query in created] == [
                (f"CREATE TABLE `t_{charset}` (id INT) COMMENT '{text}'", True, database)
            ]
            assert collation_charset(created[0].status.client_collation or 0) == charset


def test_settings_that_a_statement_ran_under_are_read(source_server: Server) -> None:
    with fresh_database(source_server) as database:
        place = binlog_place(source_server)
        with session(source_server, database, "SET SESSION sql_mode = 'ANSI_QUOTES', time_zone = '+03:00'") as cursor:
            cursor.execute('CREATE TABLE "q" (id INT, t TIMESTAMP(6) DEFAULT NOW(6))')
        queries = [parse_query(event) for event in events_since(source_server, place, EventType.QUERY)]
    status = next(query.status for query in queries if query.statement.startswith('CREATE TABLE "q"'))
    assert status.sql_mode is not None
    assert status.sql_mode & 4  # ANSI_QUOTES
    assert status.client_collation
    assert status.time_zone in ("+03:00", None)


def test_mysql_gtids_tagged_and_not_and_the_set_before_a_file(mysql97: Server) -> None:
    with fresh_database(mysql97) as database:
        with session(mysql97, database) as cursor:
            cursor.execute("SELECT @@server_uuid")
            uuid = cursor.fetchone()[0]
            place = binlog_place(mysql97)
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
            cursor.execute("SET gtid_next = 'AUTOMATIC:mytag'")
            cursor.execute("INSERT INTO t VALUES (1)")
            cursor.execute("SET gtid_next = 'AUTOMATIC:other_tag_of_32_characters_12345'")
            cursor.execute("INSERT INTO t VALUES (2)")
            cursor.execute("SET gtid_next = 'AUTOMATIC'")
            cursor.execute("INSERT INTO t VALUES (3)")
            cursor.execute("SELECT @@gtid_executed, @@version")
            executed, version = cursor.fetchone()
        gtids = [parse_gtid(e) for e in fetch_events(mysql97, place) if e.header.event_type in (33, 42)]
        assert [(gtid.uuid, gtid.tag) for gtid in gtids] == [
            (uuid, ""),
            (uuid, "mytag"),
            (uuid, "other_tag_of_32_characters_12345"),
            (uuid, ""),
        ]
        assert all(str(gtid) in _expanded(executed) for gtid in gtids)
        number = int("".join(f"{int(part):02}" for part in version.split("-")[0].split(".")))
        for gtid in gtids:
            assert gtid.immediate_commit_us == gtid.original_commit_us
            assert gtid.immediate_commit_us is not None
            assert gtid.immediate_commit_us > 1_600_000_000_000_000
            assert gtid.immediate_server_version == gtid.original_server_version == number
            assert (gtid.sequence_number or 0) > (gtid.last_committed or 0) >= 0
        assert _lengths_add_up(mysql97, place)
        before = events_since(mysql97, (place[0], 4), EventType.PREVIOUS_GTIDS)
        assert len(before) == 1
        mysql97.execute("FLUSH BINARY LOGS")
        after = events_since(mysql97, (binlog_place(mysql97)[0], 4), EventType.PREVIOUS_GTIDS)
        assert str(parse_previous_gtids(after[0]).executed) == executed.replace("\n", "")


def _expanded(executed: str) -> set[str]:
    from cdc.gtid import MysqlGtidSet

    found = MysqlGtidSet.parse(executed).intervals
    return {
        str(Gtid(uuid, tag, number, 0))
        for (uuid, tag), spans in found.items()
        for first, last in spans
        for number in range(first, last + 1)
    }


def _lengths_add_up(server: Server, place: Place) -> bool:
    """`transaction_length` counts the GTID event and all up to the next one, checksums included."""
    declared: list[int] = []
    counted: list[int] = []
    for content in fetch_contents(server, place):
        framer = EventFramer(initial_checksum=None)
        header = parse_header(content)
        if header.is_artificial or header.event_type == EventType.FORMAT_DESCRIPTION:
            continue
        if header.event_type in (EventType.GTID, EventType.GTID_TAGGED):
            declared.append(parse_gtid(framer.frame(content)).transaction_length or 0)
            counted.append(0)
        counted[-1] += len(content)
    return bool(declared) and declared == counted


def test_mariadb_gtids_and_their_list(mariadb118: Server) -> None:
    with fresh_database(mariadb118) as database:
        place = binlog_place(mariadb118)
        with session(mariadb118, database) as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
            cursor.execute("SET SESSION gtid_domain_id = 5")
            cursor.execute("INSERT INTO t VALUES (1)")
            cursor.execute("SET SESSION gtid_domain_id = 0, binlog_alter_two_phase = 1")
            cursor.execute("ALTER TABLE t ADD v INT, ALGORITHM=COPY")
            cursor.execute("SELECT @@server_id, @@gtid_binlog_pos")
            server_id, position = cursor.fetchone()
        events = fetch_events(mariadb118, place)
        gtids = [parse_mariadb_gtid(event) for event in events if event.header.event_type == EventType.MARIADB_GTID]
        create, insert, start, commit = gtids
        assert {gtid.server_id for gtid in gtids} == {server_id}
        assert (create.is_ddl, create.is_standalone, insert.is_ddl, insert.is_standalone) == (True, True, False, False)
        assert insert.domain == 5
        assert start.extra_flags & MariadbGtidExtraFlag.START_ALTER
        assert commit.extra_flags & MariadbGtidExtraFlag.COMMIT_ALTER
        assert commit.alter_sequence == start.sequence
        assert str(commit) in position.split(",")
        queries = [parse_query(event) for event in events if event.header.event_type == EventType.QUERY]
        assert sum(query.statement.startswith("ALTER TABLE t ADD v") for query in queries) == 2
        mariadb118.execute("FLUSH BINARY LOGS")
        lists = events_since(mariadb118, (binlog_place(mariadb118)[0], 4), EventType.MARIADB_GTID_LIST)
        assert str(parse_mariadb_gtid_list(lists[0]).positions) == ",".join(sorted(position.split(",")))


def test_checksum_may_change_from_file_to_file(start_server: Callable[..., Server]) -> None:
    """Every event of four files is framed, the rotates between them have whole names."""
    for kind in ("mysql97", "mariadb118"):
        server = start_server(kind)
        first = binlog_place(server)[0]
        for algorithm in ("NONE", "CRC32", "NONE", "CRC32"):
            server.execute(f"SET GLOBAL binlog_checksum = {algorithm}")
            server.execute("CREATE DATABASE x")
            server.execute("DROP DATABASE x")
        for algorithm in ("CRC32", "NONE"):
            server.execute(f"SET GLOBAL binlog_checksum = {algorithm}")
            framer = EventFramer(initial_checksum=algorithm == "CRC32")
            events = [framer.frame(content) for content in fetch_contents(server, (first, 4))]
            names = {bytes(event.body[8:]).decode() for event in events if event.header.event_type == EventType.ROTATE}
            assert names == {f"binlog.{number:06}" for number in range(1, len(names) + 1)}
            assert sum(event.header.event_type == EventType.QUERY for event in events) == 8


def test_files_hold_the_events_that_the_stream_sends(start_server: Callable[..., Server]) -> None:
    for kind in ("mysql97", "mariadb1011"):
        server = start_server(kind)
        file, _ = binlog_place(server)
        server.execute("CREATE DATABASE x")
        server.execute("CREATE TABLE x.t (id INT PRIMARY KEY)")
        server.execute("INSERT INTO x.t VALUES (1), (2)")
        sent = [event for event in fetch_events(server, (file, 4)) if not event.header.is_artificial]
        server.execute("FLUSH BINARY LOGS")
        assert server.directory is not None
        (path,) = server.directory.rglob(file)
        whole = list(read_binlog_file(io.BytesIO(path.read_bytes())))
        # the text of statements is in the file, and is sent only to those who ask for it
        read = [event for event in whole if event.header.event_type != EventType.MARIADB_ANNOTATE_ROWS]
        assert [(e.header.event_type, bytes(e.body)) for e in read[1 : len(sent)]] == [
            (e.header.event_type, bytes(e.body)) for e in sent[1:]
        ]
        assert read[0].header.event_type == EventType.FORMAT_DESCRIPTION
        assert read[-1].header.event_type == EventType.ROTATE


def test_rows_events_name_their_statement_end(source_server: Server) -> None:
    with fresh_database(source_server) as database:
        place = binlog_place(source_server)
        with session(source_server, database) as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
            cursor.execute("CREATE TABLE log (id INT PRIMARY KEY)")
            cursor.execute("CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (NEW.id)")
            cursor.execute("INSERT INTO t VALUES (1), (2)")
        rows = [
            parse_rows(event)
            for event in fetch_events(source_server, place)
            if classify(event.header.event_type, event.header.flags) is EventClass.ROWS
        ]
    assert [row.is_statement_end for row in rows] == [False] * (len(rows) - 1) + [True]
    assert len({row.table_id for row in rows}) == 2


# ---------------------------------------------------------------- python-mysql-replication


# What that library decodes rightly (1.0.17), by the cases above.
_LIBRARY_COLUMNS = {
    "integers": ("a", "au", "b", "bu", "c", "cu", "d", "du", "f", "fu", "z", "t"),
    "decimals": ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"),
    "floats": ("a", "b"),
    "strings": ("c", "cb", "vb", "vc", "v300", "c255", "c64", "tt", "tb", "t", "bl", "mt", "mb", "lt", "lb"),
}


@pytest.mark.parametrize("name", _LIBRARY_COLUMNS)
def test_decoded_rows_are_what_python_mysql_replication_reads(source_server: Server, name: str) -> None:
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import WriteRowsEvent

    with fresh_database(source_server) as database:
        place = binlog_place(source_server)
        _, ours, _ = write_and_decode(source_server, database, name, _statements(CASES[name], name))
        reader = BinLogStreamReader(
            connection_settings={
                "host": source_server.host,
                "port": source_server.port,
                "user": source_server.user,
                "passwd": source_server.password,
                "ssl_disabled": True,
            },
            server_id=960_000,
            log_file=place[0],
            log_pos=place[1],
            only_events=[WriteRowsEvent],
            only_schemas=[database],
        )
        theirs = [row["values"] for event in reader for row in event.rows]
        reader.close()
    columns = _LIBRARY_COLUMNS[name]
    assert [[row[column] for column in columns] for row in ours] == [
        [_as_ours(row[column]) for column in columns] for row in theirs
    ]


def _as_ours(value: Any) -> Any:
    import decimal

    if isinstance(value, bytes):
        return value.hex()
    return format(value, "f") if isinstance(value, decimal.Decimal) else value
