"""Random schemas and random changes through real servers: what the stream says against what the server selects.

Each example is a table of 1 to 12 columns of any type and charset, and a session that changes it statement by statement
under settings chosen at random. After each statement the table is read as a load reads it; the log is then read as the
service reads it, and every image must say what was there before and after. `CDC_ORACLE_EXAMPLES` asks for more
examples, and has failing ones made smaller.
"""

from __future__ import annotations

import contextlib
import decimal
import itertools
import json
import os
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pymysql
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from cdc.binlog.charsets import MAX_BYTES, text_decoder
from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import Operation, TableDefinition
from cdc.source.connection import SourceConnection, connect
from cdc.source.resultset import quote_table, select_list, to_record_batch
from tests.integration.test_binlog_types import definition_of, source_settings
from tests.support.binlog_fetch import Place, binlog_place, flavor_of
from tests.support.charset_cells import sequences_of
from tests.support.databases import fresh_database
from tests.support.followed import KnownTables, State, assert_same_runs, changes, check_changes, exact_rows, follow

EXAMPLES = int(os.environ.get("CDC_ORACLE_EXAMPLES", "5"))
# Making a failing example smaller takes minutes: for those who ask for many.
PHASES = tuple(phase for phase in Phase if phase is not Phase.shrink or "CDC_ORACLE_EXAMPLES" in os.environ)

# ---------------------------------------------------------------- columns
#
# A value is the SQL that makes it.


@dataclass(frozen=True)
class Column:
    """`options` follow the type; `values` is None for one that the server computes."""

    ddl: str
    values: st.SearchStrategy[str] | None
    options: str = ""
    can_be_key: bool = False
    is_json: bool = False
    is_number: bool = False


def edges(values: Sequence[str], more: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(values) | more


def _hex(raw: bytes) -> str:
    return f"x'{raw.hex()}'"


@st.composite
def integers(draw: st.DrawFn) -> Column:
    name, bits = draw(
        st.sampled_from([("TINYINT", 8), ("SMALLINT", 16), ("MEDIUMINT", 24), ("INT", 32), ("BIGINT", 64)])
    )
    is_unsigned = draw(st.booleans())
    low, high = (0, (1 << bits) - 1) if is_unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
    near = [str(n) for n in (low, low + 1, -1, 0, 1, high - 1, high) if low <= n <= high]
    options = draw(st.sampled_from(["", " ZEROFILL"])) if is_unsigned else ""
    values = edges(near, st.integers(low, high).map(str))
    sign = " UNSIGNED" if is_unsigned else ""
    return Column(f"{name}{sign}{options}", values, can_be_key=True, is_number=True)


@st.composite
def decimals(draw: st.DrawFn) -> Column:
    precision = draw(st.sampled_from([1, 9, 10, 18, 19, 38, 39, 65]) | st.integers(1, 65))
    scale = draw(st.integers(0, min(precision, 30)))

    def text(digits: str) -> str:
        padded = digits.rjust(scale + 1, "0")
        return f"{padded[:-scale]}.{padded[-scale:]}" if scale else padded

    digits = edges(["9" * precision, "0", "1", "1" + "0" * (precision - 1)], st.text("0123456789", max_size=precision))
    values = st.tuples(st.sampled_from(["", "-"]), digits).map(lambda one: one[0] + text(one[1] or "0"))
    return Column(f"DECIMAL({precision},{scale})", values, can_be_key=True, is_number=True)


@st.composite
def floats(draw: st.DrawFn) -> Column:
    kind = draw(st.sampled_from(["FLOAT", "DOUBLE", "FLOAT(7,3)", "DOUBLE(20,10)"]))
    width: Literal[32, 64] = 32 if kind.startswith("FLOAT") else 64
    near = ["0", "0.1", "-0.5", "16777217", "9007199254740993", "1e-45", "5e-324", "3.4028235e38", "-1.17549435e-38"]
    return Column(
        kind, edges(near, st.floats(allow_nan=False, allow_infinity=False, width=width).map(repr)), is_number=True
    )


@st.composite
def bits(draw: st.DrawFn) -> Column:
    count = draw(st.sampled_from([1, 8, 9, 63, 64]) | st.integers(1, 64))
    values = edges(["0", str((1 << count) - 1), str(1 << count - 1)], st.integers(0, (1 << count) - 1).map(str))
    return Column(f"BIT({count})", values, can_be_key=True)


def _clock(fraction_digits: int) -> st.SearchStrategy[str]:
    fraction = st.sampled_from(["", ".9", ".999999", ".000001", ".5"]) if fraction_digits else st.just("")
    clock = edges(["00:00:00", "23:59:59"], st.times().map(lambda one: one.strftime("%H:%M:%S")))
    return st.tuples(clock, fraction).map("".join)


@st.composite
def temporal(draw: st.DrawFn) -> Column:
    digits = draw(st.integers(0, 6))
    fsp = f"({digits})" if digits else ""
    days = ["0000-00-00", "9999-12-31", "2023-00-15", "2023-05-00", "0000-01-01", "1000-01-01", "2023-02-31"]
    day = edges(days, st.dates().map(lambda one: f"{one.year:04}-{one.month:02}-{one.day:02}"))
    match draw(st.sampled_from(["DATE", "DATETIME", "TIMESTAMP", "TIME", "YEAR"])):
        case "DATE":
            return Column("DATE", day.map(lambda one: f"'{one}'"), can_be_key=True)
        case "DATETIME":
            return Column(f"DATETIME{fsp}", st.tuples(day, _clock(digits)).map(_quoted_pair), can_be_key=True)
        case "TIMESTAMP":
            near = ["0000-00-00 00:00:00", "1970-01-01 00:00:01", "2038-01-19 03:14:07", "2106-02-07 06:28:15"]
            seconds = st.datetimes(_at(1970, 1, 2), _at(2038, 1, 19)).map(lambda one: one.isoformat(" "))
            return Column(f"TIMESTAMP{fsp}", edges(near, seconds).map(lambda one: f"'{one}'"), can_be_key=True)
        case "TIME":
            hours = st.integers(0, 838).map(lambda hour: f"{hour:02}")
            span = st.tuples(st.sampled_from(["", "-"]), hours, _clock(digits)).map(
                lambda one: f"'{one[0]}{one[1]}{one[2][2:]}'"
            )
            near = ["'838:59:59'", "'-838:59:59'", "'-00:00:00.1'", "'-00:00:00.000001'", "'0'", "'838:59:59.999999'"]
            return Column(f"TIME{fsp}", edges(near, span), can_be_key=True)
        case _:
            return Column("YEAR", st.sampled_from(["0", "1901", "2155", "1999", "2000"]), can_be_key=True)


def _quoted_pair(pair: tuple[str, str]) -> str:
    return f"'{pair[0]} {pair[1]}'"


def _at(year: int, month: int, day: int) -> Any:
    import datetime

    return datetime.datetime(year, month, day)  # noqa: DTZ001 - SQL text, in the session's time zone


@cache
def characters(charset: str) -> tuple[bytes, ...]:
    """Some of those that it has, as it writes them."""
    codecs = {"ucs2": "utf-16-be", "utf16": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be"}
    if charset in codecs or charset.startswith("utf8") or charset == "gb18030":
        text = "\0\t\n\\'\"%a~é߀Ω中\uffff\ue000" + ("" if charset in ("ucs2", "utf8mb3") else "😀\U0010fffd")
        codec = codecs.get(charset, "gb18030" if charset == "gb18030" else "utf-8")
        return tuple(one.encode(codec) for one in text)
    decode = text_decoder(charset)

    def is_one(raw: bytes) -> bool:
        with contextlib.suppress(ValueError):
            return len(decode(raw)) == 1
        return False

    found = [raw for raw in sequences_of(charset, MAX_BYTES[charset]) if is_one(raw)]
    return tuple(found if len(found) <= 256 else found[:128] + found[128 :: len(found) // 300])


def text_values(charset: str, sizes: Sequence[int]) -> st.SearchStrategy[str]:
    cell = st.sampled_from(characters(charset))
    short = st.lists(cell, max_size=12).map(b"".join)
    long = st.tuples(cell, st.sampled_from(sizes)).map(lambda one: one[0] * one[1])
    return edges(["''", "' '", "'a '"], (short | long).map(_hex))


@st.composite
def texts(draw: st.DrawFn, charsets: Sequence[str], is_mariadb: bool) -> Column:
    charset = draw(st.sampled_from(["utf8mb4", "latin1", *charsets]))
    kind = draw(st.sampled_from(["CHAR", "VARCHAR", "TINYTEXT", "TEXT", "MEDIUMTEXT", "LONGTEXT"]))
    compressed = ""
    if kind in ("CHAR", "VARCHAR"):
        length = draw(st.sampled_from([1, 15, 16, 63, 64, 255] if kind == "VARCHAR" else [0, 1, 5, 63, 64]))
        sizes, kind = [1, length // 2, length], f"{kind}({length})"
        if is_mariadb and kind.startswith("VARCHAR") and length > 1 and draw(st.booleans()):
            compressed = " COMPRESSED"
    else:
        sizes = [63, 64, 255] if kind == "TINYTEXT" else [255, 256, 5000]
        compressed = " COMPRESSED" if is_mariadb and draw(st.integers(0, 3)) == 0 else ""
    return Column(
        f"{kind}{compressed} CHARACTER SET {charset}",
        text_values(charset, sizes),
        can_be_key="TEXT" not in kind and not compressed and kind != "CHAR(0)",
    )


@st.composite
def binaries(draw: st.DrawFn, is_mariadb: bool) -> Column:
    kind = draw(st.sampled_from(["BINARY", "VARBINARY", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB"]))
    length = draw(st.sampled_from([1, 16, 255])) if kind == "BINARY" else draw(st.sampled_from([1, 255, 256, 600]))
    size = 255 if kind == "TINYBLOB" else length
    raw = edges(
        ["''", f"REPEAT(x'00', {size})", f"REPEAT(x'FF', {size})", "x'61000000'", "x'20'"],
        st.binary(max_size=min(size, 40)).map(_hex),
    )
    sized = f"{kind}({length})" if kind in ("BINARY", "VARBINARY") else kind
    compressed = ""
    if is_mariadb and kind != "BINARY" and length > 1 and draw(st.integers(0, 3)) == 0:
        compressed = " COMPRESSED"
    return Column(sized + compressed, raw, can_be_key=kind in ("BINARY", "VARBINARY") and not compressed)


@st.composite
def members(draw: st.DrawFn) -> Column:
    charset = draw(st.sampled_from(["utf8mb4", "latin1", "utf16", "sjis", "ucs2"]))
    is_set = draw(st.booleans())
    count = draw(st.sampled_from([1, 7, 8, 9, 33, 64] if is_set else [1, 2, 255, 256, 300]))
    names = ["é" if charset != "sjis" else "表", "it''s", "", 'q"q'][: min(count, 3 if is_set else 4)]
    names += [f"m{number}" for number in range(count - len(names))]
    if is_set:
        names = [name or "none" for name in names]
        number = edges(["0", str((1 << count) - 1), str(1 << count - 1)], st.integers(0, (1 << count) - 1).map(str))
    else:
        number = edges(["0", "1", str(count)], st.integers(0, count).map(str))
    quoted = ",".join(f"'{name}'" for name in names)
    return Column(f"{'SET' if is_set else 'ENUM'}({quoted}) CHARACTER SET {charset}", number, can_be_key=True)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.sampled_from([1, 255, 32768, 1 << 32, 0.1, 1e16, -2.5e-300])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(["x" * 128, "é" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["", "a", "b", "key", "é"]), inner),
    max_leaves=12,
)
_OPAQUE = (
    "JSON_ARRAY(CAST('2020-01-02 03:04:05.000006' AS DATETIME(6)), CAST('-00:00:00.1' AS TIME(1)), x'00FF', 1.10)",
    "JSON_OBJECT('d', CAST('2020-01-02' AS DATE), 'b', b'101', 'n', CAST(-1e-30 AS DECIMAL(65,30)))",
)


def json_columns(is_mariadb: bool) -> st.SearchStrategy[Column]:
    document = _JSON.map(lambda value: _quoted(json.dumps(value, ensure_ascii=False)))
    fixed = ["'null'", "'{}'", "'[ ]'", """'{"a": 1, "b": [1, 2, {"key": "text"}]}'"""]
    values = edges(fixed if is_mariadb else [*fixed, *_OPAQUE], document)
    return st.just(Column("JSON", values, is_json=True))


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def spatial(is_mysql: bool) -> st.SearchStrategy[Column]:
    shapes = [
        "POINT(1 2)",
        "POINT(-1e300 0.1)",
        "LINESTRING(0 0,1 1)",
        "POLYGON((0 0,4 0,4 4,0 0))",
        "MULTIPOINT(1 2,3 4)",
    ]
    values = [f"ST_GeomFromText('{shape}')" for shape in shapes]
    if is_mysql:
        values.append("ST_GeomFromText('POINT(1 2)', 4326)")
    return st.just(Column("GEOMETRY", st.sampled_from(values)))


@st.composite
def vectors(draw: st.DrawFn) -> Column:
    count = draw(st.sampled_from([1, 3, 64]))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    packed = st.lists(number, min_size=count, max_size=count).map(lambda one: _hex(struct.pack(f"<{count}f", *one)))
    return Column(f"VECTOR({count})", packed)


def addresses() -> st.SearchStrategy[Column]:
    uuids = edges(
        ["'00000000-0000-0000-0000-000000000000'", "'00112233-4455-1677-8899-aabbccddee00'"],
        st.uuids().map(lambda one: f"'{one}'"),
    )
    six = edges(["'::'", "'::1'", "'2001:db8::'", "'::ffff:1.2.3.4'"], st.ip_addresses(v=6).map(lambda one: f"'{one}'"))
    four = edges(["'0.0.0.0'", "'1.0.0.0'"], st.ip_addresses(v=4).map(lambda one: f"'{one}'"))
    kinds = {"UUID": uuids, "INET6": six, "INET4": four}
    return st.sampled_from(sorted(kinds)).map(lambda kind: Column(kind, kinds[kind], can_be_key=True))


def computed() -> st.SearchStrategy[Column]:
    return st.sampled_from(["VIRTUAL", "STORED"]).map(
        lambda how: Column(f"BIGINT GENERATED ALWAYS AS (id * 3 - 5) {how}", None)
    )


# ---------------------------------------------------------------- tables and sessions


@dataclass(frozen=True)
class Example:
    create: str
    statements: tuple[tuple[str, ...], ...]
    """Settings of the session, and then the statement that they are for."""


@st.composite
def examples(draw: st.DrawFn, server: Server, charsets: Sequence[str]) -> Example:
    flavor, version = flavor_of(server)
    is_mariadb = flavor == "mariadb"
    kinds: list[st.SearchStrategy[Column]] = [
        integers(),
        decimals(),
        floats(),
        bits(),
        temporal(),
        texts(charsets, is_mariadb),
        texts(charsets, is_mariadb),
        binaries(is_mariadb),
        members(),
        json_columns(is_mariadb),
        spatial(not is_mariadb),
        computed(),
    ]
    if not is_mariadb or version >= (11, 7):
        kinds.append(vectors())
    if is_mariadb:
        kinds.append(addresses())
    columns = draw(st.lists(st.one_of(kinds), min_size=1, max_size=12))
    names = [f"c{number}" for number in range(len(columns))]
    keys = [name for name, column in zip(names, columns, strict=True) if column.can_be_key]
    key = draw(st.sampled_from(["id", "unique", "none", *keys]))
    lines = ["id INT NOT NULL"]
    is_nullable = {}
    for name, column in zip(names, columns, strict=True):
        null = name != key and column.values is not None and draw(st.integers(0, 3)) > 0
        is_nullable[name] = null
        if column.values is None:
            lines.append(f"{name} {column.ddl}")
            continue
        invisible = " INVISIBLE" if null and draw(st.integers(0, 9)) == 0 else ""
        lines.append(f"{name} {column.ddl} {'NULL' if null else 'NOT NULL'}{invisible}")
    if draw(st.booleans()):
        lines.append(lines.pop(0))  # the key's column stands last
    if key == "id":
        lines.append("PRIMARY KEY (id)")
    elif key != "none":
        lines.append("UNIQUE KEY (id)")
        lines += [f"PRIMARY KEY ({key}, id)"] if key != "unique" else []
    create = f"CREATE TABLE t ({', '.join(lines)})"

    def value(name: str, column: Column) -> str:
        assert column.values is not None
        if is_nullable[name] and draw(st.integers(0, 3)) == 0:
            return "NULL"
        return draw(column.values)

    written = [(name, column) for name, column in zip(names, columns, strict=True) if column.values is not None]
    row_images = ["FULL", "FULL", "MINIMAL", "NOBLOB"]
    if is_mariadb and version >= (11, 4):
        row_images.append("FULL_NODUP")
    statements: list[tuple[str, ...]] = []
    next_id = 0
    for number in range(draw(st.integers(4, 12))):
        # without a key nothing keeps `id` from being there twice, and these tests tell rows by it
        kind = draw(st.sampled_from([0, 1, 2, 4, 5, 6, 7, 8] if key == "none" else range(10))) if number > 1 else 0
        image = draw(st.sampled_from(row_images))
        if is_mariadb and kind == 3 and image in ("MINIMAL", "NOBLOB"):
            # MariaDB (10.11, 11.8) logs a REPLACE as an update without the columns that fall back to their defaults:
            # that they did is lost for whoever reads the log
            image = "FULL"
        setting = [f"SET SESSION binlog_row_image = {image}"]
        setting.append(f"SET SESSION sql_mode = '{draw(st.sampled_from(['', 'ALLOW_INVALID_DATES']))}'")
        if not is_mariadb:
            # MINIMAL images lack the document that the changes are of: refused, by a test of its own
            options = draw(st.sampled_from(["", "PARTIAL_JSON"])) if image != "MINIMAL" else ""
            setting.append(f"SET SESSION binlog_row_value_options = '{options}'")
            setting.append(f"SET SESSION binlog_transaction_compression = {draw(st.integers(0, 1))}")
        where = f"WHERE MOD(id, 3) = {draw(st.integers(0, 2))}"
        chosen = draw(st.lists(st.sampled_from(written), unique_by=lambda one: one[0])) if written else []
        if kind <= 3 or not chosen:
            used = written if kind < 2 else chosen
            rows = []
            for _ in range(draw(st.integers(1, 4))):
                next_id += 1
                rows.append(f"({', '.join([str(next_id), *(value(*one) for one in used)])})")
            verb = "REPLACE" if kind == 3 else "INSERT"
            names_used = ", ".join(["id", *(name for name, _ in used)])
            if kind == 3:
                next_id = max(1, next_id - 3)
            statements.append((*setting, f"{verb} INTO t ({names_used}) VALUES {', '.join(rows)}"))
        elif kind <= 5:
            sets = ", ".join(f"{name} = {value(name, column)}" for name, column in chosen)
            statements.append((*setting, f"UPDATE t SET {sets} {where}"))
        elif kind == 6:
            documents = [name for name, column in written if column.is_json]
            numbers = [name for name, column in written if column.is_number]
            changed = draw(st.sampled_from(["2", "1.5", "NULL"]))
            assignments = [f"{name} = JSON_SET({name}, '$.a', {changed})" for name in documents]
            assignments += [f"{name} = -{name}" for name in numbers]
            sets = ", ".join(assignments) or f"id = id + {1000 << number}"
            statements.append((*setting, f"UPDATE t SET {sets} {where}"))
        elif kind == 7:
            statements.append((*setting, f"UPDATE t SET id = id + {1000 << number} {where} ORDER BY id DESC LIMIT 2"))
        elif kind == 8:
            statements.append((*setting, f"DELETE FROM t {where} LIMIT 2"))
        else:
            name, column = chosen[0]
            first, second, third = (value(name, column) for _ in range(3))
            insert = f"INSERT INTO t (id, {name}) VALUES (1, {first}), (2, {second})"
            statements.append((*setting, f"{insert} ON DUPLICATE KEY UPDATE {name} = {third}"))
    return Example(create, tuple(statements))


# ---------------------------------------------------------------- the tests


def selected(source: SourceConnection, definition: TableDefinition) -> State:
    rows = source.query(f"SELECT {select_list(definition)} FROM {quote_table(definition.name)}")
    return {row["id"]: row for row in exact_rows(to_record_batch(definition, rows))}


def run_example(server: Server, source: SourceConnection, example: Example) -> None:
    with fresh_database(server) as database, contextlib.closing(server.connect(database)) as writer:
        with writer.cursor() as cursor:
            cursor.execute("SET SESSION sql_mode = '', time_zone = '+00:00', autocommit = 1")
            try:
                cursor.execute(example.create)
            except pymysql.err.Error as error:
                note(f"no such table: {error}")
                return
            definition = definition_of(server, database, "t")
            begin = binlog_place(server)
            states: list[tuple[Place, State]] = [(begin, {})]
            for *setting, statement in example.statements:
                for one in setting:
                    cursor.execute(one)
                with contextlib.suppress(pymysql.err.Error):  # a key that is there already, a value that is too large
                    cursor.execute(statement)
                states.append((binlog_place(server), selected(source, definition)))
        end = states[-1][0]
        runs = follow(server, begin, end, KnownTables([definition]))
        assert_same_runs(runs, follow(server, begin, end, KnownTables([definition]), is_fast=False))
    found = list(changes(runs, definition.name))
    for ((_, before_at), before), ((_, at), after) in itertools.pairwise(states):
        images = [(operation, image) for offset, operation, image in found if before_at < offset <= at]
        check_changes(before, images, after)
    assert sum(len(batch.operation) for run in runs for batch in run.batches) == len(found)


@pytest.mark.timeout(0 if "CDC_ORACLE_EXAMPLES" in os.environ else 300)
def test_random_changes_of_random_tables_are_what_the_server_selects(source_server: Server) -> None:
    charsets = [
        str(name)
        for (name,) in source_server.execute("SELECT CHARACTER_SET_NAME FROM information_schema.CHARACTER_SETS")
        if name != "binary"
    ]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(examples(source_server, charsets))
    def check(example: Example) -> None:
        run_example(source_server, source, example)

    with connect(source_settings(source_server)) as source:
        check()


def test_changes_of_a_document_that_the_event_lacks_are_refused(mysql97: Server) -> None:
    """binlog_row_image=MINIMAL with PARTIAL_JSON: MySQL logs what changed in the document, and not of which."""
    with fresh_database(mysql97) as database, contextlib.closing(mysql97.connect(database)) as writer:
        with writer.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, j JSON)")
            cursor.execute("INSERT INTO t VALUES (1, JSON_OBJECT('a', 1, 'pad', REPEAT('x', 100)))")
            writer.commit()
            begin = binlog_place(mysql97)
            cursor.execute("SET SESSION binlog_row_image = MINIMAL, binlog_row_value_options = PARTIAL_JSON")
            cursor.execute("UPDATE t SET j = JSON_SET(j, '$.a', 2)")
            writer.commit()
        definition = definition_of(mysql97, database, "t")
        for is_fast in (True, False):
            with pytest.raises(UnsupportedData, match="the document before is not in the event") as caught:
                follow(mysql97, begin, binlog_place(mysql97), KnownTables([definition]), is_fast=is_fast)
            assert (caught.value.table, caught.value.column) == (f"{database}.t", "j")


# ---------------------------------------------------------------- python-mysql-replication

# The types that it gets right (1.0.17), with the metadata that it needs.
_LIBRARY_TABLE = (
    "id INT PRIMARY KEY, a TINYINT, au TINYINT UNSIGNED, b SMALLINT, m MEDIUMINT, mu MEDIUMINT UNSIGNED, "
    "n BIGINT, nu BIGINT UNSIGNED, d DECIMAL(20,6), dw DECIMAL(65,30), f FLOAT, g DOUBLE, "
    "v VARCHAR(60) CHARACTER SET utf8mb4, t TEXT CHARACTER SET utf8mb4, raw VARBINARY(300), bl BLOB"
)


def _library_row(rng: random.Random) -> tuple[Any, ...]:
    def integer(bits: int, *, is_unsigned: bool = False) -> int:
        low = 0 if is_unsigned else -(1 << bits - 1)
        return rng.choice([low, low + (1 << bits) - 1, low + rng.getrandbits(bits)])

    row = (
        integer(8),
        integer(8, is_unsigned=True),
        integer(16),
        integer(24),
        integer(24, is_unsigned=True),
        integer(64),
        integer(64, is_unsigned=True),
        f"{rng.choice(['', '-'])}{rng.randrange(10**14)}.{rng.randrange(10**6):06}",
        f"{rng.choice(['', '-'])}{'9' * 35}.{rng.randrange(10**30):030}",
        struct.unpack("<f", struct.pack("<f", rng.uniform(-1e6, 1e6)))[0],
        rng.uniform(-1e300, 1e300),
        rng.choice(["", "é" * rng.randrange(60), "中\0\\'\n", "😀"]),
        "text " * rng.randrange(100),
        rng.randbytes(rng.randrange(1, 300)),  # an empty BLOB it takes for text
        rng.randbytes(rng.randrange(1, 2000)),
    )
    return tuple(None if rng.random() < 0.1 else value for value in row)


def test_changes_are_what_python_mysql_replication_reads(source_server: Server) -> None:
    """A third reader of one log, on the types that it gets right."""
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

    rng = random.Random(11)
    with fresh_database(source_server) as database, contextlib.closing(source_server.connect(database)) as writer:
        with writer.cursor() as cursor:
            cursor.execute(f"CREATE TABLE t ({_LIBRARY_TABLE})")
            definition = definition_of(source_server, database, "t")
            names = [column.name for column in definition.columns]
            begin = binlog_place(source_server)
            for number in range(1, 120):
                rows = [(number * 10 + index, *_library_row(rng)) for index in range(rng.randrange(1, 4))]
                marks = ", ".join(["%s"] * len(names))
                cursor.executemany(f"INSERT INTO t VALUES ({marks})", rows)
                if number % 3 == 0:
                    name, value = rng.choice(list(zip(names[1:], _library_row(rng), strict=True)))
                    cursor.execute(f"UPDATE t SET {name} = %s, id = id + 5 WHERE id %% 7 = 3", (value,))
                if number % 4 == 0:
                    cursor.execute("DELETE FROM t WHERE id %% 5 = 1", ())
                writer.commit()
        end = binlog_place(source_server)
        ours = [
            (operation, {name: _as_library(value) for name, value in row.items()})
            for _, operation, row in changes(
                follow(source_server, begin, end, KnownTables([definition])),
                definition.name,
                lambda batch: batch.images.to_pylist(),
            )
        ]
        reader = BinLogStreamReader(
            connection_settings={
                "host": source_server.host,
                "port": source_server.port,
                "user": source_server.user,
                "passwd": source_server.password,
                "ssl_disabled": True,
            },
            server_id=961_000,
            log_file=begin[0],
            log_pos=begin[1],
            only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
            only_schemas=[database],
        )
        theirs: list[tuple[Operation, dict[str, Any]]] = []
        for event in reader:
            for row in event.rows:
                if isinstance(event, UpdateRowsEvent):
                    theirs.append((Operation.UPDATE_BEFORE, row["before_values"]))
                    theirs.append((Operation.UPDATE_AFTER, row["after_values"]))
                else:
                    is_insert = isinstance(event, WriteRowsEvent)
                    theirs.append((Operation.INSERT if is_insert else Operation.DELETE, row["values"]))
        reader.close()
    assert len(ours) > 300
    assert {operation for operation, _ in ours} == set(Operation)
    assert len(ours) == len(theirs)
    for (operation, row), (its, other) in zip(ours, theirs, strict=True):
        assert operation == its
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == _as_library(other[name]), name


def _as_library(value: Any) -> Any:
    return format(value, "f") if isinstance(value, decimal.Decimal) else value
