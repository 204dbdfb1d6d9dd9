"""Images that lack columns, from live servers: under every binlog_row_image, a change at a time, applied to a copy of
the table, which must then be what the server selects.

What the servers leave out (MySQL 9.7, MariaDB 11.8): MINIMAL, all but the key before and all that was not set after;
NOBLOB, the TEXT and BLOB columns that the statement did not set (MySQL keeps JSON; MariaDB's is text). An INSERT leaves
out what it took from the column's default.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from cdc.binlog.constants import EventType
from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import Operation, RowBatch
from tests.integration.test_binlog_types import definition_of, events_since, select_rows, session
from tests.support.binlog_fetch import binlog_place, decode_table, fetch_events, flavor_of
from tests.support.binlog_values import batch_rows
from tests.support.databases import fresh_database

# Eleven columns: fewer bits in the null bitmap of most images than in that of a whole one.
TABLE = """
    CREATE TABLE t (
        id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL DEFAULT 7, v VARCHAR(40) DEFAULT 'default', b BLOB, j JSON,
        d DECIMAL(12,2), k JSON, t TEXT, u BIGINT UNSIGNED DEFAULT 18446744073709551615, e ENUM('x','y') DEFAULT 'y',
        g INT GENERATED ALWAYS AS (n + 1) STORED
    )
"""
DEFAULTS = {"n": 7, "v": "default", "u": (1 << 64) - 1, "e": 2, "g": 8}


def images(batches: list[RowBatch]) -> Iterator[tuple[Operation, dict[str, Any]]]:
    """Each image's operation and the columns that it has."""
    for batch in batches:
        rows = batch_rows([batch])
        for index, operation in enumerate(batch.operation.to_pylist()):
            absent: frozenset[str] = frozenset()
            if batch.shape_index is not None:
                absent = batch.shapes[batch.shape_index[index].as_py()]
            assert all(rows[index][name] is None for name in absent)
            yield Operation(operation), {name: value for name, value in rows[index].items() if name not in absent}


def replay(batches: list[RowBatch]) -> dict[int, dict[str, Any]]:
    """The table that the images make."""
    table: dict[int, dict[str, Any]] = {}
    before: dict[str, Any] = {}
    names = [column.name for column in batches[0].definition.columns]
    for operation, image in images(batches):
        if operation is Operation.INSERT:
            table[image["id"]] = {name: image.get(name, DEFAULTS.get(name)) for name in names}
            if "n" in image and "g" not in image:
                table[image["id"]]["g"] = image["n"] + 1
        elif operation is Operation.UPDATE_AFTER:
            row = table.pop(before["id"])
            assert before.items() <= row.items()
            changed = row | image
            table[changed["id"]] = changed
        else:
            before = image
            if operation is Operation.DELETE:
                row = table.pop(image["id"])
                assert image.items() <= row.items()
    return table


def document(rng: random.Random) -> str:
    return json.dumps(
        {key: rng.choice([1, None, "x" * rng.randrange(200), [1, {"a": 2}], {"a": {}}]) for key in "abcde"}
    )


def statement(rng: random.Random) -> tuple[str, tuple[Any, ...]]:
    """One change of the table, by a statement that sets some columns."""
    settings: dict[str, Any] = {
        "n": rng.randrange(-99, 99),
        "v": rng.choice([None, "ü" * rng.randrange(40), "v"]),
        "b": rng.choice([None, rng.randbytes(rng.randrange(300))]),
        "j": rng.choice([None, document(rng), "3"]),
        "d": rng.choice([None, "-12345.67", "0.01"]),
        "k": document(rng),
        "t": rng.choice([None, "", "text " * rng.randrange(100)]),
        "u": rng.choice([None, 0, 1 << 63]),
        "e": rng.choice(["x", None]),
    }
    names = rng.sample(sorted(settings), rng.randrange(len(settings)))
    values = tuple(settings[name] for name in names)
    where = f"WHERE MOD(id, 5) = {rng.randrange(5)}"
    what = rng.randrange(10)
    if what < 3 or (what < 5 and not names):
        columns = ", ".join(names)
        return f"INSERT INTO t ({columns}) VALUES ({', '.join(['%s'] * len(names))})", values
    if what < 6 and names:
        return f"UPDATE t SET {', '.join(f'{name} = %s' for name in names)} {where}", values
    if what == 6:
        return f"DELETE FROM t {where} LIMIT 2", ()
    if what == 7:
        return f"UPDATE t SET id = id + 1000 {where} ORDER BY id DESC LIMIT 2", ()
    if what == 8:
        columns = ", ".join(["id", *names])
        return f"REPLACE INTO t ({columns}) VALUES ({', '.join(['%s'] * (len(names) + 1))})", (
            rng.randrange(1, 40),
            *values,
        )
    other = rng.choice(["", ", k = JSON_SET(k, '$.b.a', 5)", ", n = n + 1", ", k = NULL"])
    return f"UPDATE t SET j = JSON_REPLACE(JSON_SET(j, '$.a', {rng.randrange(99)}), '$.b', '…'){other} {where}", ()


@pytest.mark.parametrize("seed", range(3))
def test_a_copy_kept_by_images_of_every_kind_is_what_the_server_selects(source_server: Server, seed: int) -> None:
    rng = random.Random(seed)
    flavor, version = flavor_of(source_server)
    with fresh_database(source_server) as database:
        with session(source_server, database, TABLE, "SET SESSION autocommit = 1") as cursor:
            place = binlog_place(source_server)
            for _ in range(150):
                image = rng.choice(["FULL", "MINIMAL", "NOBLOB"])
                cursor.execute(f"SET SESSION binlog_row_image = {image}")
                if flavor == "mysql":
                    # diffs need the document before, which MINIMAL images do not hold
                    options = "" if image == "MINIMAL" else rng.choice(["", "PARTIAL_JSON"])
                    cursor.execute(f"SET SESSION binlog_row_value_options = '{options}'")
                cursor.execute(*statement(rng))
        definition = definition_of(source_server, database, "t")
        batches, _ = decode_table(fetch_events(source_server, place), definition, version, needs_all_columns=False)
        expected = select_rows(source_server, definition)
        if flavor == "mysql":
            assert events_since(source_server, place, EventType.PARTIAL_UPDATE_ROWS)
    assert len({shape for batch in batches for shape in batch.shapes}) > 10
    assert len(expected) > 5
    assert replay(batches) == {row["id"]: row for row in expected}


def test_an_insert_of_nothing_but_defaults_has_no_image_on_mysql_and_is_refused(mysql97: Server) -> None:
    """Under MINIMAL, and with no key: an event without rows. To take it for none would lose the row."""
    with fresh_database(mysql97) as database:
        with session(mysql97, database, "CREATE TABLE t (a INT DEFAULT 5)") as cursor:
            place = binlog_place(mysql97)
            cursor.execute("SET SESSION binlog_row_image = MINIMAL")
            cursor.execute("INSERT INTO t () VALUES ()")
        definition = definition_of(mysql97, database, "t")
        events = fetch_events(mysql97, place)
        with pytest.raises(UnsupportedData, match="without any column"):
            decode_table(events, definition, flavor_of(mysql97)[1], needs_all_columns=False)


def test_a_diff_whose_document_is_not_in_the_event_parks_the_table_and_no_diff_is_no_change(mysql97: Server) -> None:
    """MINIMAL and PARTIAL_JSON together: the before image holds the key alone, the after image the diffs."""
    with fresh_database(mysql97) as database:
        with session(mysql97, database, "CREATE TABLE t (id INT PRIMARY KEY, j JSON, v INT)") as cursor:
            cursor.execute("INSERT INTO t VALUES (1, JSON_OBJECT('a', REPEAT('x', 500), 'b', 1), 1)")
            cursor.execute("SET SESSION binlog_row_image = MINIMAL, binlog_row_value_options = PARTIAL_JSON")
            place = binlog_place(mysql97)
            cursor.execute("UPDATE t SET j = JSON_SET(j, '$.b', 1), v = 2")
            changed = binlog_place(mysql97)
            cursor.execute("UPDATE t SET j = JSON_SET(j, '$.b', 2), v = 3")
        definition, version = definition_of(mysql97, database, "t"), flavor_of(mysql97)[1]
        with pytest.raises(UnsupportedData, match="the document before is not in the event") as caught:
            decode_table(fetch_events(mysql97, changed), definition, version, needs_all_columns=False)
        assert (caught.value.table, caught.value.column) == (f"{database}.t", "j")
        events = fetch_events(mysql97, place)
        last = max(index for index, event in enumerate(events) if event.header.event_type == EventType.TABLE_MAP)
        batches, _ = decode_table(events[:last], definition, version, needs_all_columns=False)
    assert list(images(batches)) == [(Operation.UPDATE_BEFORE, {"id": 1}), (Operation.UPDATE_AFTER, {"v": 2})]
