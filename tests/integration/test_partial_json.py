"""JSON out of a live server's binlog: documents of every shape, and partial updates of them, against its own SELECT."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cdc.binlog import json_text as twin
from cdc.binlog.constants import EventType
from cdc.binlog.cursor import Cursor
from cdc.binlog.events import RowsEvent, parse_rows
from cdc.binlog.kernel import json_text as kernel
from cdc.demo.servers import Server
from tests.support.binlog_fetch import Place, binlog_place, fetch_events, flatten
from tests.support.databases import fresh_database
from tests.support.json_build import path_text

ROW_COUNT = 6


# ---------------------------------------------------------------- the events
#
# Every table here is (id INT PRIMARY KEY, j JSON, k JSON).


@dataclass(frozen=True)
class Cell:
    """A JSON column in an image: its document, or its changes; `raw` is None for NULL."""

    raw: bytes | None
    is_partial: bool = False

    def text(self, before: bytes | None) -> str | None:
        """What twin and kernel both say that it is."""
        if self.raw is None:
            return None
        if not self.is_partial:
            said = [twin.json_text(self.raw), kernel.json_text(self.raw)]
        else:
            assert before is not None
            said = [twin.apply_json_diffs(before, self.raw), kernel.apply_json_diffs(before, self.raw)]
        assert said[0] == said[1]
        return said[0]


@dataclass(frozen=True)
class Image:
    id: int
    j: Cell
    k: Cell


def read_image(cursor: Cursor, *, is_partial: bool) -> Image:
    """`in after images of PARTIAL_UPDATE_ROWS: value options[lenenc], and if bit 0 of them is set a bit for each JSON
    column · null bitmap · values`; of a JSON column a length[4] and its document, or its changes where the bit is set.

    Source: MySQL sql/rpl_record.cc, start_partial_bits_reader.
    """
    partial_bits = 0
    if is_partial and cursor.lenenc() & 1:
        partial_bits = cursor.uint(1)
    nulls = cursor.uint(1)
    number = cursor.uint(4)
    cells = [
        Cell(None) if nulls >> (1 + index) & 1 else Cell(cursor.take(cursor.uint(4)), bool(partial_bits >> index & 1))
        for index in range(2)
    ]
    return Image(number, *cells)


def image_pairs(rows: RowsEvent) -> Iterator[tuple[Image, Image]]:
    cursor = Cursor(rows.rows, "images")
    while cursor.left:
        yield read_image(cursor, is_partial=False), read_image(cursor, is_partial=rows.is_partial)


def inserted(rows: RowsEvent) -> Iterator[Image]:
    cursor = Cursor(rows.rows, "images")
    while cursor.left:
        yield read_image(cursor, is_partial=False)


def rows_events(server: Server, place: Place, *types: EventType) -> list[RowsEvent]:
    return [parse_rows(event) for event in flatten(fetch_events(server, place)) if event.header.event_type in types]


# ---------------------------------------------------------------- random documents and statements

NAMES = (
    "a",
    "b",
    "key",
    "odd key",
    'q"uote',
    "back\\slash",
    "tab\t",
    "\x01",
    "é",
    "漢字",
    "😀",
    "a.b[0]",
    "",
    "$x",
    "1a",
    "last",
)
STRINGS = (*NAMES, "x" * 100, "y" * 130, "é" * 40, 'a "quoted" line\nand another')


def random_scalar(rng: random.Random) -> str:
    """As JSON text."""
    match rng.randrange(6):
        case 0:
            return rng.choice(("null", "true", "false"))
        case 1:
            return str(
                rng.randrange(-(2 ** rng.choice((7, 15, 16, 31, 32, 63))), 2 ** rng.choice((7, 15, 16, 31, 32, 64)))
            )
        case 2:
            value: float = struct.unpack("<d", rng.randbytes(8))[0]
            return repr(value) if 1e-300 < abs(value) < 1e300 else "0.1"
        case 3:
            return f"{rng.randrange(10**6)}e{rng.randrange(-20, 20)}"
        case _:
            return json.dumps(rng.choice(STRINGS))


def random_document(rng: random.Random, depth: int = 4) -> str:
    kind = rng.randrange(4) if depth else 3
    if kind == 0:
        return f"[{', '.join(random_document(rng, depth - 1) for _ in range(rng.randrange(6)))}]"
    if kind in (1, 2):
        names = rng.sample(NAMES, rng.randrange(7))
        return f"{{{', '.join(f'{json.dumps(name)}: {random_document(rng, depth - 1)}' for name in names)}}}"
    return random_scalar(rng)


# SQL for values that JSON text has no form for.
VALUES = (
    "CAST('2020-01-02 03:04:05.000006' AS DATETIME(6))",
    "CAST('2020-01-02' AS DATE)",
    "CAST('-01:02:03.5' AS TIME(1))",
    "1.10",
    "x'00FF'",
    "TRUE",
    "NULL",
    "18446744073709551615",
    "5e-324",
    "-0e0",
    "REPEAT('z', 300)",
)


def random_path(rng: random.Random, document: Any) -> str:
    """To something in the document, or next to it, with steps as people write them."""
    path: list[str] = []
    value = document
    while True:
        if isinstance(value, list):
            at = rng.randrange(len(value) + 2)
            from_end = len(value) - 1 - at
            path.append(f"[last-{from_end}]" if from_end > 0 and rng.random() < 0.3 else f"[{at}]")
            if from_end == 0 and rng.random() < 0.3:
                path[-1] = "[last]"
            value = value[at] if at < len(value) else None
        elif isinstance(value, dict):
            name = rng.choice((*value, rng.choice(NAMES))) if rng.random() < 0.9 else rng.choice(NAMES)
            path.append(path_text([name])[1:])
            value = value.get(name)
        else:
            if rng.random() < 0.1:
                path.append(rng.choice(("[0]", "[1]", "[last]", "[last-1]")))  # a scalar counts as an array of one
            return "$" + "".join(path)
        if rng.random() < 0.25:
            return "$" + "".join(path)


def random_expression(rng: random.Random, column: str, document: Any) -> tuple[str, list[str]]:
    """One to three functions around the column, and the statement's arguments."""
    sql, arguments = column, list[str]()
    for _ in range(rng.choice((1, 1, 2, 3))):
        function = rng.choice(("JSON_SET", "JSON_SET", "JSON_REPLACE", "JSON_REMOVE"))
        parts: list[str] = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            path = random_path(rng, document)
            if path == "$":
                continue
            parts.append("%s")
            arguments.append(path)
            if function == "JSON_REMOVE":
                continue
            if rng.random() < 0.3:
                parts.append(rng.choice(VALUES))
            else:
                parts.append("CAST(%s AS JSON)")
                arguments.append(random_document(rng, 2))
        if parts:
            sql = f"{function}({sql}, {', '.join(parts)})"
    return sql, arguments


# ---------------------------------------------------------------- tests


def selected(cursor: Any) -> dict[int, tuple[str | None, str | None]]:
    cursor.execute("SELECT id, CAST(j AS CHAR), CAST(k AS CHAR) FROM t")
    return {row[0]: (row[1], row[2]) for row in cursor.fetchall()}


@pytest.mark.parametrize("seed", range(2))
def test_partial_updates_give_the_document_that_the_server_selects(mysql97: Server, seed: int) -> None:
    """Five hundred statements over several rows and two columns; the rows after each are compared with its events."""
    rng = random.Random(seed)
    expected: list[dict[int, tuple[str | None, str | None]]] = []
    with fresh_database(mysql97) as database, mysql97.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SET SESSION binlog_row_value_options = 'PARTIAL_JSON', binlog_row_image = 'FULL', autocommit = 1"
        )
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, j JSON, k JSON)")
        for number in range(ROW_COUNT):
            cursor.execute("INSERT INTO t VALUES (%s, '{}', '[]')", (number,))
        place = binlog_place(mysql97)
        state = selected(cursor)
        start = state
        while len(expected) < 500:
            if len(expected) % 25 == 0:  # large enough that changes are smaller than they are
                for number in range(ROW_COUNT):
                    whole = [f'{{"pad": "{"p" * 500}", "in": {random_document(rng)}}}' for _ in range(2)]
                    whole[1] = f'["{"p" * 500}", {whole[1]}, {random_document(rng)}]'
                    cursor.execute("UPDATE t SET j = %s, k = %s WHERE id = %s", (*whole, number))
                    if cursor.rowcount:
                        expected.append(selected(cursor))
                state = expected[-1]
            row = rng.choice(list(state.values()))
            assignments: list[str] = []
            arguments: list[str] = []
            for column, text in zip("jk", row, strict=True):
                if text is not None and rng.random() < 0.7:
                    sql, more = random_expression(rng, column, json.loads(text))
                    assignments.append(f"{column} = {sql}")
                    arguments += more
            if not assignments:
                continue
            cursor.execute(f"UPDATE t SET {', '.join(assignments)} WHERE id %% 3 = {rng.randrange(3)}", arguments)
            if cursor.rowcount:
                state = selected(cursor)
                expected.append(state)
        events = rows_events(mysql97, place, EventType.PARTIAL_UPDATE_ROWS, EventType.UPDATE_ROWS)
    state, partial_count = dict(start), 0
    statements = iter(expected)
    for rows in events:
        for before, after in image_pairs(rows):
            assert (before.j.text(None), before.k.text(None)) == state[before.id]
            state[after.id] = (after.j.text(before.j.raw), after.k.text(before.k.raw))
            partial_count += sum(cell.is_partial and bool(cell.raw) for cell in (after.j, after.k))
        if rows.is_statement_end:
            assert state == next(statements)
    assert next(statements, None) is None
    assert partial_count > 500


def test_documents_print_as_the_server_selects_them(mysql97: Server) -> None:
    """Three thousand random ones, small and with large offsets."""
    rng = random.Random(5)
    with fresh_database(mysql97) as database, mysql97.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION autocommit = 1")
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, j JSON, k JSON)")
        place = binlog_place(mysql97)
        for batch in range(30):
            rows: list[Sequence[Any]] = []
            for number in range(50):
                large = f'["{"p" * 70_000}", {random_document(rng)}]' if number == 0 else random_document(rng)
                rows.append((batch * 50 + number, random_document(rng), large))
            cursor.executemany("INSERT INTO t VALUES (%s, %s, %s)", rows)
        expected = selected(cursor)
        events = rows_events(mysql97, place, EventType.WRITE_ROWS)
    decoded = {image.id: (image.j.text(None), image.k.text(None)) for rows in events for image in inserted(rows)}
    assert decoded == expected
    assert len(decoded) == 1500
