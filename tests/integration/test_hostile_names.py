"""Names and values that would break out of any SQL that they were spliced into, through the whole service.

Databases, tables, columns, indexes, members of ENUMs, defaults, comments and values are made of what quotes, escapes,
formats and comments in one of the languages that they pass through (SQL of both families, Python's %, YAML, JSON, URLs,
globs). They are loaded, streamed, followed through DDL, verified and shown; the sinks are then asked by drivers of the
test's own. `CDC_HOSTILE_ROUNDS` sets how many rounds (`make hostile`); the last line of each says how much was tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2.sql
import pytest

from cdc.demo.servers import Server
from tests.support.databases import unique_name
from tests.support.deployment import Deployment

PIECES = (
    "`", "``", "\"", "\"\"", "'", "''", "%", "%%", "%s", "%(a)s", "%%s", "\\", "\\\\", "\\'", "\\`", "\\\"",
    ";", "--", "-- ", "/*", "*/", "/*!99999", "#", "\n", "\r\n", "\t", "\x01", "\x1b[31m", "\x1f", "\x7f",
    "${HOME}", "${", "$$", "$1", "$a$", "{", "}", "{}", "{0}", ":a", "?", "*", ".", ",", "(", ")", "[", "]",
    "<b>", "</script>", "&amp;", "=", "@", "@@x", "|", "~", "^", "!", "/", "é", "ß", "ı", "İ", "☃", "表",
    "\u202e", "\xa0", "\u200b", "\ufeff", "\ufb00", "\u0301", "\ud7ff", "\ue000", "\uffff", "DROP TABLE t",
    "NULL", "select", "\\N", "\\0", "\\x00", "\\u0000", "_cdc", " ", "E'", "x'00'", "1=1", "; COMMIT; ",
)  # fmt: skip
ONLY_VALUES = ("💥", "", "\x1a", "\\\n", "\t\t", "NaN", "\u2028")
TABLES = 4
NAME_BYTES_MAX = 63  # PostgreSQL's
ROUNDS = int(os.environ.get("CDC_HOSTILE_ROUNDS", "0"))


class Hostile:
    """Names and values of one seed, and how many there were."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def name(self, tag: str, *, kind: str, bytes_max: int = NAME_BYTES_MAX) -> str:
        """A name that begins with `tag`, so that no two are one."""
        self.counts[kind] += 1
        wanted, name = self._random.choice((8, 30, NAME_BYTES_MAX)), tag
        while len(name) < wanted:
            longer = name + self._random.choice(PIECES)
            # A file is called after a table, in which every one of these characters is five.
            if len(longer.encode()) > bytes_max or len(re.sub(r"[^0-9A-Za-z_]", "12345", longer)) > 200:
                break
            name = longer
        return name.rstrip(" \n\r\t\u00a0")

    def value(self, length_max: int = 60) -> str:
        self.counts["values"] += 1
        text = "".join(self._random.choices((*PIECES, *ONLY_VALUES), k=self._random.randrange(12)))
        return text[:length_max]

    def raw(self) -> bytes:
        self.counts["values"] += 1
        return self._random.choice(
            (b"", b"\0", b"\\0", b"\x1a", b"'\0\"", b"\xff\xfe", b"\\x00", bytes(range(256))[:60])
        )

    def number(self, below: int) -> int:
        return self._random.randrange(below)


def ticked(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def text_of(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def bytes_of(value: bytes) -> str:
    return f"x'{value.hex()}'"


class Source:
    """The hostile database, and what is done to it."""

    def __init__(self, server: Server, hostile: Hostile, database: str) -> None:
        self.server, self.hostile, self.database = server, hostile, database
        self.tables: list[str] = []
        self.row_number = 0
        self.tag = 0

    def run(self, sql: str) -> list[Any]:
        return self.server.execute(sql, database=self.database)

    def tagged(self, letter: str, kind: str) -> str:
        self.tag += 1
        return self.hostile.name(f"{letter}{self.tag}", kind=kind)

    def create(self) -> None:
        make, name = self.hostile, self.tagged("t", "tables")
        texts = [make.value(20).rstrip() for _ in range(4)]
        members = [f"{text}{number}" for number, text in enumerate(texts)]
        key, text, raw, chosen, unique = (self.tagged("c", "columns") for _ in range(5))
        default, comment = make.value(), make.value()
        make.counts["defaults"] += 1
        make.counts["comments"] += 2
        self.run(
            f"CREATE TABLE {ticked(name)} ("
            f"{ticked(key)} INT PRIMARY KEY COMMENT {text_of(comment)}, "
            f"{ticked(text)} VARCHAR(200) DEFAULT {text_of(default)} COMMENT {text_of(make.value())}, "
            f"{ticked(raw)} VARBINARY(80), "
            f"{ticked(chosen)} ENUM({', '.join(map(text_of, members))}), "
            f"{ticked(unique)} VARCHAR(40) NOT NULL, "
            f"UNIQUE KEY {ticked(self.tagged('u', 'indexes'))} ({ticked(unique)}), "
            f"KEY {ticked(self.tagged('i', 'indexes'))} ({ticked(text)}, {ticked(key)})"
            f") CHARACTER SET utf8mb4 COLLATE utf8mb4_bin COMMENT {text_of(comment)}"
        )
        self.tables.append(name)
        for _ in range(5):
            self.insert(name)

    def columns(self, table: str) -> list[tuple[str, str]]:
        rows = self.run(
            "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = "
            f"{text_of(self.database)} AND TABLE_NAME = {text_of(table)} ORDER BY ORDINAL_POSITION"
        )
        return [(str(name), str(kind)) for name, kind in rows]

    def insert(self, table: str) -> None:
        self.row_number += 1
        make, values = self.hostile, []
        for _, kind in self.columns(table):
            if kind == "int":
                values.append(str(self.row_number))
            elif kind == "varbinary":
                values.append(bytes_of(make.raw()))
            elif kind == "enum":
                values.append(str(1 + make.number(4)))
            else:
                values.append(text_of(f"{self.row_number}{make.value(30)}"))
        self.run(f"INSERT INTO {ticked(table)} VALUES ({', '.join(values)})")

    def change(self, table: str) -> None:
        """An insert with defaults, an update, a change of key, a delete."""
        names = [name for name, _ in self.columns(table)]
        key, text, unique = ticked(names[0]), ticked(names[1]), ticked(names[4])
        self.insert(table)
        self.row_number += 1
        self.run(
            f"INSERT INTO {ticked(table)} ({key}, {unique}) VALUES ({self.row_number}, "
            f"{text_of(str(self.row_number) + self.hostile.value(20))})"
        )
        first, second, third = (row[0] for row in self.run(f"SELECT {key} FROM {ticked(table)} ORDER BY {key} LIMIT 3"))
        self.run(f"UPDATE {ticked(table)} SET {text} = {text_of(self.hostile.value())} WHERE {key} = {first}")
        self.run(f"UPDATE {ticked(table)} SET {key} = {key} + 100000 WHERE {key} = {second}")
        self.run(f"DELETE FROM {ticked(table)} WHERE {key} = {third}")

    def alter(self, number: int) -> None:
        """DDL that is followed, with hostile names in every place."""
        make, table = self.hostile, self.tables[number]
        make.counts["statements"] += 1
        match number % 4:
            case 0:
                self.run(
                    f"ALTER TABLE {ticked(table)} ADD COLUMN {ticked(self.tagged('c', 'columns'))} VARCHAR(99) "
                    f"DEFAULT {text_of(make.value())} COMMENT {text_of(make.value())}"
                )
            case 1:
                old = self.columns(table)[1][0]
                self.run(
                    f"ALTER TABLE {ticked(table)} RENAME COLUMN {ticked(old)} TO {ticked(self.tagged('c', 'columns'))}"
                )
            case 2:
                self.tables[number] = self.tagged("t", "tables")
                self.run(f"RENAME TABLE {ticked(table)} TO {ticked(self.tables[number])}")
            case 3:
                name, text = self.tagged("i", "indexes"), ticked(self.columns(table)[1][0])
                self.run(f"CREATE INDEX {ticked(name)} ON {ticked(table)} ({text}) COMMENT {text_of(make.value())}")
                self.run(f"ALTER TABLE {ticked(table)} MODIFY {text} VARCHAR(210) COLLATE utf8mb4_bin")
                self.run(f"DROP INDEX {ticked(name)} ON {ticked(table)}")

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        columns = ", ".join(ticked(name) for name, _ in self.columns(table))
        return sorted((tuple(row) for row in self.run(f"SELECT {columns} FROM {ticked(table)}")), key=repr)


def _pg_rows(server: Server, database: str, schema: str, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    query = psycopg2.sql.SQL("SELECT {} FROM {}").format(
        psycopg2.sql.SQL(", ").join(map(psycopg2.sql.Identifier, columns)), psycopg2.sql.Identifier(schema, table)
    )
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        plain = (
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            for row in cursor.fetchall()
        )
        return sorted(plain, key=repr)


def _mysql_rows(server: Server, database: str, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    found = server.execute(f"SELECT {', '.join(map(ticked, columns))} FROM {ticked(table)}", database=database)
    return sorted((tuple(row) for row in found), key=repr)


@contextlib.contextmanager
def _databases(servers: list[Server], names: list[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for server, name in zip(servers, names, strict=True):
            if server.family == "postgresql":
                quoted, force = '"' + name.replace('"', '""') + '"', " WITH (FORCE)"
            else:
                quoted, force = ticked(name), ""
            server.execute(f"CREATE DATABASE {quoted}")
            stack.callback(server.execute, f"DROP DATABASE IF EXISTS {quoted}{force}")
        yield


def _made(directory: Path, source: Server, names: list[str], warehouse: Server, replica: Server) -> Deployment:
    made = Deployment(directory, source, names[0], {})
    pattern = re.sub(r"([\\*?.])", r"\\\1", names[0])
    made.config["tables"]["include"] = [f"{pattern}.*"]
    made.config["sinks"] = [
        {"name": name, "url": server.url_for(quote(database, safe=""))}
        for name, server, database in (("warehouse", warehouse, names[1]), ("replica", replica, names[2]))
    ]
    made.config["targets"] = {"indexes": "all"}
    return made


def _assert_equal(source: Source, warehouse: tuple[Server, str], replica: tuple[Server, str]) -> None:
    for table in source.tables:
        columns = [name for name, _ in source.columns(table)]
        expected = source.rows(table)
        assert expected
        assert _pg_rows(*warehouse, source.database, table, columns) == expected, f"{table!r} on PostgreSQL"
        assert _mysql_rows(*replica, table, columns) == expected, f"{table!r} on the MySQL sink"


def _round(seed: int, directory: Path, server: Server, warehouse: Server, replica: Server) -> Counter[str]:
    hostile = Hostile(seed)
    names = [hostile.name(f"{unique_name()}{n}%s`'\"", kind="databases", bytes_max=60) for n in range(3)]
    names[0] = names[0].replace("_cdc", "-cdc")
    with _databases([server, warehouse, replica], names):
        source = Source(server, hostile, names[0])
        for _ in range(TABLES):
            source.create()
        made = _made(directory, server, names, warehouse, replica)
        try:
            sinks = ((warehouse, names[1]), (replica, names[2]))
            made.catch_up()
            _assert_equal(source, *sinks)

            for number in range(TABLES):
                source.change(source.tables[number])
                source.alter(number)
                source.change(source.tables[number])
            source.create()
            made.catch_up()
            _assert_equal(source, *sinks)

            _assert_shown(made, source)
        finally:
            made.kill()
    return hostile.counts


def _assert_shown(made: Deployment, source: Source) -> None:
    """The commands name every table as it is, and find source and sinks equal by their own ways."""
    status = made.status()
    shown = {(table["sink"], table["table"]): table for table in status["tables"] if table["state"] != "dropped"}
    assert set(shown) == {(s, f"{source.database}.{t}") for s in ("warehouse", "replica") for t in source.tables}
    assert {table["state"] for table in shown.values()} == {"ready"}, [table["error"] for table in shown.values()]
    plain = made.run("status")
    assert plain.returncode == 0, plain.stderr
    verified = made.run("verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)
    checked = made.run("check", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    granted = made.run("check", "--grants")
    assert granted.returncode == 0, granted.stderr


SEEDS = {"mysql97": 1, "mariadb1011": 2, "mariadb118": 3}
REPLICAS = {"mysql97": "mariadb118", "mariadb1011": "mysql97", "mariadb118": "mariadb1011"}


@pytest.mark.parametrize(
    "source_name",
    ["mysql97", *(pytest.param(name, marks=pytest.mark.full) for name in ("mariadb1011", "mariadb118"))],
)
def test_names_and_values_are_only_names_and_values(
    source_name: str, request: pytest.FixtureRequest, pg15: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, replica = (request.getfixturevalue(name) for name in (source_name, REPLICAS[source_name]))
    counts: Counter[str] = Counter()
    for number in range(max(1, ROUNDS)):
        seed = SEEDS[source_name] + 10 * number
        directory = tmp_path / str(seed)
        directory.mkdir()
        try:
            counts += _round(seed, directory, server, pg15, replica)
        except BaseException as error:
            error.add_note(f"seed {seed} on {source_name}")
            raise
    with capsys.disabled():
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        print(f"\nhostile names from {source_name}: {max(1, ROUNDS)} rounds, {told}: all equal")  # noqa: T201
    assert counts["tables"] >= TABLES
