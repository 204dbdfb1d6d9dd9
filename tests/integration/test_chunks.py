"""Reading a table in chunks of every size gives every row once, in one order, whatever the key's type.

The borders go back to the server as literals (`cdc.source.resultset.literal`): each case here is a type, a collation or
a value for which a literal that is not quite equal would lose rows or read them twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import TableDefinition, TableName
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.definitions import parse_members, read_definition
from cdc.source.resultset import comparable, literal, quote, quote_table, select_list, to_record_batch
from snapshot.chunks import read_chunks, require_no_null
from tests.support.pool import SERIES


def open_source(server: Server) -> SourceConnection:
    url = urlsplit(server.url)
    return connect(
        SourceSettings(
            host=url.hostname or "",
            port=url.port or 3306,
            user=unquote(url.username or ""),
            password=unquote(url.password or ""),
            server_id=940_000,
        )
    )


@dataclass(frozen=True)
class Case:
    """The key's columns as DDL, and rows as SQL values. `only`: the family that has the type."""

    columns: str
    rows: tuple[str, ...]
    only: str = ""
    options: str = ""
    mode: str = ""


def one(column_type: str, *values: str, only: str = "", mode: str = "") -> Case:
    return Case(f"`k` {column_type} NOT NULL", values, only, mode=mode)


COLLATED = (
    "'aGG'",
    "'GbG'",
    "'ZZZ'",
    "'ß'",
    "'tt'",
    "'é'",
    "'f'",
    "'Ω'",
    "''",
    "'a'",
    "'a\\t'",
    "'_'",
    "'%'",
    "'\\\\'",
)
MEMBERS = ",".join(f"'s{number}'" for number in range(1, 65))
DAYS = ("'0000-00-00'", "'0000-12-31'", "'1000-01-01'", "'2023-00-15'", "'2023-05-00'", "'2024-02-29'", "'9999-12-31'")

CASES = {
    "tinyint": one("TINYINT", "-128", "-1", "0", "1", "127"),
    "bigint": one("BIGINT", "-9223372036854775808", "-1", "0", "9223372036854775807"),
    "bigint_unsigned": one(
        "BIGINT UNSIGNED", "0", "9223372036854775807", "9223372036854775808", "18446744073709551615"
    ),
    "zerofill": one("INT(6) ZEROFILL", "0", "1", "999999", "4294967295"),
    "decimal": one("DECIMAL(10,2)", "-10.05", "-10", "-0.01", "0", "0.01", "99999999.99"),
    "decimal_wide": one("DECIMAL(65,30)", f"{'9' * 35}.{'9' * 30}", f"-{'9' * 35}.{'9' * 30}", "1e-30", "-1e-30", "0"),
    "float": one("FLOAT", "0.1", "0.2", "-0.3", "16777216", "16777218", "3.4028235e38", "1.17549435e-38", "0", "-1e30"),
    "double": one(
        "DOUBLE", "0.1", "0.30000000000000004", "0.3", "1e308", "-1e308", "1.7976931348623157e308", "2.3e-308", "0", "1"
    ),
    "double_denormal": one("DOUBLE", "5e-324", "1e-320", "0", "2.2250738585072014e-308"),
    "varchar": one("VARCHAR(20)", *COLLATED, "'😀'"),
    "varchar_general_ci": one("VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", *COLLATED),
    "varchar_unicode_ci": one("VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", *COLLATED, "'😀'"),
    "varchar_bin": one("VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", *COLLATED, "'A'", "'😀'"),
    "varchar_0900": one("VARCHAR(20) COLLATE utf8mb4_0900_ai_ci", *COLLATED, "'a '", "'a  '", "'😀'", only="mysql"),
    "varchar_0900_as_cs": one("VARCHAR(20) COLLATE utf8mb4_0900_as_cs", *COLLATED, "'A'", "'a '", only="mysql"),
    "varchar_nopad": one("VARCHAR(20) COLLATE utf8mb4_nopad_bin", *COLLATED, "'a '", "'a  '", only="mariadb"),
    "varchar_utf8mb3": one("VARCHAR(20) CHARACTER SET utf8mb3", *COLLATED),
    "varchar_latin1": one(
        "VARCHAR(20) CHARACTER SET latin1", "'a'", "'é'", "'ß'", "'tt'", "''", "'€'", "_latin1 x'81'"
    ),
    "varchar_german2": one(
        "VARCHAR(20) CHARACTER SET latin1 COLLATE latin1_german2_ci", "'ae'", "'b'", "'ad'", "'ß'", "'st'"
    ),
    "varchar_utf16": one("VARCHAR(20) CHARACTER SET utf16", *COLLATED, "'😀'"),
    "varchar_utf32": one("VARCHAR(20) CHARACTER SET utf32", *COLLATED, "'😀'"),
    "varchar_ucs2": one("VARCHAR(20) CHARACTER SET ucs2", "'a'", "'b'", "''", "'表'"),
    "varchar_sjis": one("VARCHAR(20) CHARACTER SET sjis", "'a'", "'表'", "'ソ'", "'\\\\'", "''"),
    "varchar_gbk": one("VARCHAR(20) CHARACTER SET gbk", "'a'", "'中'", "_gbk x'815C'", "''"),
    "varchar_hostile": one(
        "VARCHAR(60)", "'\\''", "'\"'", "'\\\\'", "'a\\0b'", "'%s'", "'NULL'", "'`'", "'-- x'", "'1; DROP TABLE t'"
    ),
    "char": one("CHAR(10)", "'a'", "'ab'", "'b  '", "''", "'a\\tb'", "'é'"),
    "binary": one("BINARY(4)", "x'00000000'", "x'01000000'", "x'01000001'", "x'ff000000'", "x'20202020'", "x'000001'"),
    "binary_16": one("BINARY(16)", *(f"UNHEX('{n:032x}')" for n in (0, 1, 256, 2**120, 2**127, 2**128 - 256))),
    "varbinary": one("VARBINARY(20)", "x''", "x'00'", "x'0000'", "x'01'", "x'0100'", "x'ff'", "x'27'", "x'5c'"),
    "date": one("DATE", *DAYS),
    "date_invalid": one(
        "DATE",
        "'2023-02-28'",
        "'2023-02-30'",
        "'2023-02-31'",
        "'2023-03-01'",
        mode="ALLOW_INVALID_DATES",
    ),
    "datetime": one("DATETIME", *(f"'{day[1:-1]} {clock}'" for day in DAYS for clock in ("00:00:00", "23:59:59"))),
    "datetime_6": one(
        "DATETIME(6)", "'2024-01-01 00:00:00.000001'", "'2024-01-01'", "'2024-01-01 00:00:00.999999'", "0"
    ),
    "datetime_invalid": one(
        "DATETIME(3)", "'2023-02-30 10:00:00.5'", "'2023-02-30 10:00:00.6'", mode="ALLOW_INVALID_DATES"
    ),
    "timestamp": one(
        "TIMESTAMP",
        *("'0000-00-00 00:00:00'", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"),
        *(f"'2026-10-25 {h:02}:{m}:00'" for h in range(3) for m in ("00", "30")),  # summer time ends in Berlin
        *(f"'2026-03-29 {h:02}:30:00'" for h in range(3)),
    ),
    "timestamp_3": one("TIMESTAMP(3)", "'2026-10-25 00:30:00.5'", "'2026-10-25 01:30:00.5'", "'2026-10-25 01:30:00'"),
    "time": one("TIME", "'-838:59:59'", "'-00:00:01'", "'00:00:00'", "'00:00:01'", "'100:00:00'", "'838:59:59'"),
    "time_6": one(
        "TIME(6)", "'-00:00:00.1'", "'-00:00:00.2'", "'-00:00:01.000001'", "'00:00:00.000001'", "'23:59:59.9'", "0"
    ),
    "year": one("YEAR", "0", "1901", "1969", "1970", "1999", "2000", "2001", "2069", "2155"),
    "enum": one("ENUM('b','a','C','','x,y','it''s')", "'b'", "'a'", "'c'", "'x,y'", "'it''s'", "'bogus'", "4"),
    "enum_300": one(
        f"ENUM({','.join(chr(39) + 'm' + str(n) + chr(39) for n in range(300))})", "'m299'", "'m0'", "'m256'"
    ),
    "set": one("SET('a','b','c')", "''", "'a'", "'b'", "'a,b'", "'c'", "'a,b,c'"),
    "set_64": one(f"SET({MEMBERS})", "''", "'s1'", "'s63'", "'s64'", "'s1,s64'", "18446744073709551615", "'s62'"),
    "bit_1": one("BIT(1)", "b'0'", "b'1'"),
    "bit_9": one("BIT(9)", "0", "1", "255", "256", "511"),
    "bit_64": one("BIT(64)", "0", "1", "9223372036854775807", "9223372036854775808", "18446744073709551615"),
    "uuid": one(
        "UUID",
        "'00000000-0000-0000-0000-000000000000'",
        "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        "'6ccd780c-baba-1026-9564-5b8c656024db'",  # version 1: sorted by its time
        "'6ccd780c-baba-1027-9564-5b8c656024db'",
        "'7ccd780c-baba-1026-9564-5b8c656024db'",
        "'018f3d2e-7b1a-7cde-8f00-0123456789ab'",
        "'018f3d2e-7b1a-7cde-8f00-0123456789ac'",
        "'f47ac10b-58cc-4372-a567-0e02b2c3d400'",
        only="mariadb",
    ),
    "inet6": one(
        "INET6", "'::'", "'::1'", "'::ffff:10.0.0.1'", "'2001:db8::'", "'ffff::'", "'fe80::1'", only="mariadb"
    ),
    "inet4": one("INET4", "'0.0.0.0'", "'10.0.0.0'", "'127.0.0.1'", "'255.255.255.255'", "'9.0.0.0'", only="mariadb"),
    "composite": Case(
        "a VARCHAR(10) NOT NULL, b DATE NOT NULL, c BIGINT UNSIGNED NOT NULL",
        tuple(
            f"{a},{b},{c}"
            for a in ("'x'", "'ß'", "''", "'tt'")
            for b in ("'0000-00-00'", "'2024-01-01'")
            for c in ("0", "18446744073709551615")
        ),
    ),
    "composite_odd": Case(
        "a ENUM('z','y') NOT NULL, b FLOAT NOT NULL, c BINARY(3) NOT NULL",
        tuple(f"{a},{b},{c}" for a in ("1", "2", "0") for b in ("0.1", "-0.1") for c in ("x'000000'", "x'010000'")),
    ),
    "composite_set_64": Case(
        f"a SET({MEMBERS}) NOT NULL, b DATE NOT NULL",
        tuple(f"{a},{b}" for a in ("''", "'s63'", "'s64'", "'s1,s64'") for b in ("'0000-00-00'", "'2023-02-28'")),
    ),
    "composite_bits": Case(
        "a BIT(5) NOT NULL, b TIME NOT NULL, c SET('p','q') NOT NULL",
        tuple(
            f"{a},{b},{c}" for a in ("0", "31") for b in ("'-01:00:00'", "'01:00:00'") for c in ("''", "'p'", "'p,q'")
        ),
    ),
}


@dataclass
class Made:
    connection: SourceConnection
    definition: TableDefinition
    key: tuple[str, ...]


def rows_of(batches: list[pa.RecordBatch]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for batch in batches:
        columns = [c.cast("int64") if pa.types.is_timestamp(c.type) else c for c in batch.columns]
        found += zip(*(column.to_pylist() for column in columns), strict=True)
    return found


def make(server: Server, database: str, case: Case, connection: SourceConnection) -> Made:
    with contextlib.closing(server.connect(database)) as session, session.cursor() as cursor:
        cursor.execute(f"SET SESSION sql_mode = '{case.mode}', time_zone = '+00:00'")
        columns = [column.split()[0].strip("`") for column in _split(case.columns)]
        key = ", ".join(map(quote, columns))
        cursor.execute(f"CREATE TABLE t ({case.columns}, n INT NOT NULL, PRIMARY KEY ({key})) {case.options}")
        for number, row in enumerate(case.rows):
            cursor.execute(f"INSERT INTO t VALUES ({row}, {number})")
    definition = read_definition(connection, TableName(database, "t"))
    assert definition is not None
    assert definition.primary_key == tuple(columns)
    return Made(connection, definition, definition.primary_key)


def _split(columns: str) -> list[str]:
    """Column definitions, at the commas outside parentheses."""
    parts, depth = [""], 0
    for char in columns:
        depth += (char == "(") - (char == ")")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def places(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each case on each kind of source that has it."""
    return [(server, n) for server, (flavor, _) in SERIES.items() for n in names if CASES[n].only in ("", flavor)]


@pytest.mark.parametrize("source_server,name", places(CASES), indirect=["source_server"])
def test_every_row_is_read_once_in_one_order_whatever_the_chunk(
    source_server: Server, name: str, database: Callable[[Server], str]
) -> None:
    case = CASES[name]
    with open_source(source_server) as connection:
        made = make(source_server, database(source_server), case, connection)
        whole = rows_of(list(read_chunks(connection, made.definition, made.key, rows_max=1000)))
        numbers = [row[-1] for row in whole]
        assert sorted(map(str, numbers)) == sorted(map(str, range(len(case.rows))))
        for rows_max in (1, 2, 3, len(case.rows)):
            batches = list(read_chunks(connection, made.definition, made.key, rows_max=rows_max))
            assert [row[-1] for row in rows_of(batches)] == numbers, f"in chunks of {rows_max}"
            assert rows_of(batches) == whole
            assert all(0 < batch.num_rows <= rows_max for batch in batches)


@pytest.mark.parametrize(
    "source_server,name",
    places([name for name, case in CASES.items() if case.columns.startswith("`k`")]),
    indirect=["source_server"],
)
def test_a_border_is_equal_to_its_own_row_only(
    source_server: Server, name: str, database: Callable[[Server], str]
) -> None:
    """The literal of a value, sent back, finds that row and no other; what is after it and before it are the rest."""
    case = CASES[name]
    with open_source(source_server) as connection:
        made = make(source_server, database(source_server), case, connection)
        table, column = quote_table(made.definition.name), made.definition.columns[0]
        rows = connection.query(f"SELECT {select_list(made.definition)} FROM {table} ORDER BY `k`")
        for index, (value, number) in enumerate(rows):
            border = literal(value, column)
            k = comparable(column)
            for operator, expected in (("<", rows[:index]), ("=", rows[index : index + 1]), (">", rows[index + 1 :])):
                found = connection.query(f"SELECT n FROM {table} WHERE {k} {operator} {border}")
                assert {n for (n,) in found} == {row[1] for row in expected}, f"{operator} {border} (row {number!r})"


def test_an_empty_table_has_no_chunk(mysql97: Server, database: Callable[[Server], str]) -> None:
    with open_source(mysql97) as connection:
        made = make(mysql97, database(mysql97), one("INT"), connection)
        assert list(read_chunks(connection, made.definition, made.key, rows_max=3)) == []


def test_rows_that_come_behind_the_border_are_read_and_those_before_it_are_not(
    mysql97: Server, database: Callable[[Server], str]
) -> None:
    """Each chunk is a statement of its own: no read view is held open between them."""
    name = database(mysql97)
    with open_source(mysql97) as connection:
        made = make(mysql97, name, one("INT", "10", "20", "30"), connection)
        chunks = read_chunks(connection, made.definition, made.key, rows_max=1)
        seen = [rows_of([next(chunks)])[0][0]]
        mysql97.execute("INSERT INTO t VALUES (5, 9), (15, 9)", database=name)
        seen += [row[0] for chunk in chunks for row in rows_of([chunk])]
        assert seen == [10, 15, 20, 30]


@pytest.mark.parametrize(
    "columns,key,rows",
    [
        ("a INT NULL UNIQUE", ("a",), ["NULL", *map(str, range(1, 9)), "NULL"]),
        ("a INT NULL", ("a",), ["3", "NULL", "1", "2"]),
        (
            "a INT NULL, b VARCHAR(9) NULL, UNIQUE (a, b)",
            ("a", "b"),
            ["1,'x'", "1,NULL", "1,'y'", "NULL,'x'", "NULL,NULL", "2,NULL", "2,'z'", "3,''"],
        ),
    ],
)
def test_rows_whose_key_is_null_are_in_a_chunk_or_an_error(
    source_server: Server, database: Callable[[Server], str], columns: str, key: tuple[str, ...], rows: list[str]
) -> None:
    """Such a key cannot be replicated by; whoever takes the rows can refuse them only if it gets them."""
    name = database(source_server)
    source_server.execute(f"CREATE TABLE t ({columns})", database=name)
    source_server.execute(f"INSERT INTO t VALUES {', '.join(f'({row})' for row in rows)}", database=name)
    outcomes = []
    with open_source(source_server) as connection:
        definition = read_definition(connection, TableName(name, "t"))
        assert definition is not None
        with pytest.raises(UnsupportedData, match="NULL") as caught:
            require_no_null(connection, definition, key)
        assert "tables.overrides" in caught.value.hint
        whole = rows_of(list(read_chunks(connection, definition, key, rows_max=100)))
        assert len(whole) == len(rows)
        for rows_max in range(1, len(rows) + 1):
            try:
                assert rows_of(list(read_chunks(connection, definition, key, rows_max=rows_max))) == whole
            except UnsupportedData as error:
                outcomes.append(error.message)
            else:
                outcomes.append("all")
    assert "NULL" in outcomes[0], "the first row is a border"
    assert outcomes[-1] == "all"


def test_a_null_that_comes_while_chunks_are_read_is_in_one_of_them(
    mysql97: Server, database: Callable[[Server], str]
) -> None:
    name = database(mysql97)
    mysql97.execute("CREATE TABLE t (a INT NOT NULL, b INT NULL, UNIQUE (a, b))", database=name)
    mysql97.execute("INSERT INTO t VALUES (1, 1), (2, 1), (2, 2), (2, 3), (3, 1)", database=name)
    with open_source(mysql97) as connection:
        definition = read_definition(connection, TableName(name, "t"))
        assert definition is not None
        chunks = read_chunks(connection, definition, ("a", "b"), rows_max=2)
        seen = rows_of([next(chunks)])
        mysql97.execute("INSERT INTO t VALUES (3, NULL)", database=name)
        seen += [row for chunk in chunks for row in rows_of([chunk])]
    assert seen == [(1, 1), (2, 1), (2, 2), (2, 3), (3, None), (3, 1)]


MEMBERS_ODD = (
    "a,b",
    "it's",
    "''",
    "back\\slash",
    "end\\",
    "new\nline",
    "ret\rurn",
    "tab\t",
    "zéro",
    "表",
    '"q"',
    "%_",
    "",
    "nul\0x",
    "sub\x1az",
    "b\bs",
)


def test_members_of_enum_and_set_are_read_as_they_were_declared(
    source_server: Server, database: Callable[[Server], str]
) -> None:
    name = database(source_server)
    with contextlib.closing(source_server.connect(name)) as session:
        declared = ",".join(
            "'" + m.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0") + "'" for m in MEMBERS_ODD
        )
        in_set = [m for m in MEMBERS_ODD if "," not in m]
        of_set = ",".join("'" + m.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0") + "'" for m in in_set)
        with session.cursor() as cursor:
            cursor.execute(f"CREATE TABLE t (k INT PRIMARY KEY, e ENUM({declared}), s SET({of_set}))")
            for number, member in enumerate(MEMBERS_ODD, 1):
                cursor.execute("INSERT INTO t VALUES (%s, %s, %s)", (number, number, number))
                cursor.execute("SELECT e FROM t WHERE k = %s", (number,))
                assert cursor.fetchone() == (member,)
    with open_source(source_server) as connection:
        definition = read_definition(connection, TableName(name, "t"))
        assert definition is not None
        assert definition.column("e").members == MEMBERS_ODD
        assert definition.column("s").members == tuple(in_set)
        assert parse_members(definition.column("e").column_type) == MEMBERS_ODD
        (batch,) = read_chunks(connection, definition, ("k",), rows_max=100)
        assert batch.column("e").to_pylist() == list(range(1, len(MEMBERS_ODD) + 1))


def test_names_that_look_like_sql_are_quoted(source_server: Server, database: Callable[[Server], str]) -> None:
    name, table, column = database(source_server), "a`; DROP TABLE `x", 'k` > "%s" -- #'
    source_server.execute(f"CREATE TABLE {quote(table)} ({quote(column)} INT PRIMARY KEY)", database=name)
    source_server.execute(f"INSERT INTO {quote(table)} VALUES (1), (2), (3)", database=name)
    with open_source(source_server) as connection:
        definition = read_definition(connection, TableName(name, table))
        assert definition is not None
        assert rows_of(list(read_chunks(connection, definition, (column,), rows_max=1))) == [(1,), (2,), (3,)]
        assert to_record_batch(definition, []).num_rows == 0
