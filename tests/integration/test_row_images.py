"""Images that lack columns, from live servers: under every binlog_row_image, a change at a time, applied to a copy of
the table, which must then be what the server selects; and folded as the pipeline does, likewise.

docs/decisions/0012-partial-images.md says what the servers leave out.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cdc.binlog.constants import EventType
from cdc.demo.servers import Server
from cdc.errors import UnsupportedData
from cdc.model import ChangeBatch, Operation, RowBatch, TableDefinition
from cdc.pipeline.partial import net_changes
from cdc.schema.keys import choose_key
from cdc.source.assembler import RunLimits
from tests.integration.test_binlog_types import definition_of, events_since, select_rows, session
from tests.support.applied import AppliedTable, image_rows
from tests.support.binlog_fetch import binlog_place, decode_table, fetch_events, flavor_of
from tests.support.binlog_values import batch_rows
from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, deployment
from tests.support.followed import KnownTables, follow

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


# ---------------------------------------------------------------- folded


def images_of(server: Server, definition: TableDefinition, *statements: str, image: str = "MINIMAL") -> list[RowBatch]:
    """What a session under that row image logs of a table."""
    place = binlog_place(server)
    with session(server, definition.name.database, f"SET SESSION binlog_row_image = {image}") as cursor:
        for statement in statements:
            cursor.execute(statement)
    batches, _ = decode_table(fetch_events(server, place), definition, flavor_of(server)[1], needs_all_columns=False)
    return batches


def row_images(server: Server) -> list[str]:
    """All values that the server knows."""
    flavor, version = flavor_of(server)
    has_nodup = flavor == "mariadb" and version >= (11, 4)
    return ["FULL", "MINIMAL", "NOBLOB", *(["FULL_NODUP"] if has_nodup else [])]


DEFAULTED = (
    "BIGINT UNSIGNED DEFAULT 18446744073709551615",
    "INT DEFAULT -5",
    "INT(8) ZEROFILL DEFAULT 7",
    "TINYINT(1) DEFAULT TRUE",
    "DECIMAL(30,4) DEFAULT -12345678901234567890.5",
    "FLOAT DEFAULT 0",
    "DOUBLE DEFAULT 1.2345678901234567",
    "DOUBLE DEFAULT 1e300",
    "BIT(9) DEFAULT b'101010101'",
    "BIT(64) DEFAULT 1",
    "YEAR DEFAULT 2024",
    "YEAR DEFAULT 0",
    "DATE DEFAULT '2024-02-29'",
    "DATE DEFAULT 0",
    "DATETIME(3) DEFAULT '2024-02-29 01:02:03.4'",
    "TIMESTAMP NOT NULL DEFAULT 0",
    "TIME(6) DEFAULT '-12:34:56.789'",
    "TIME DEFAULT '838:59:59'",
    "VARCHAR(50) DEFAULT ''",
    r"VARCHAR(50) DEFAULT 'it''s \\\\ \n é€ uuid()'",
    "VARCHAR(50) DEFAULT 'NULL'",
    "VARCHAR(50) CHARACTER SET latin1 DEFAULT '? é '",
    "CHAR(9) DEFAULT 'ab  '",
    "CHAR(9) CHARACTER SET ucs2 DEFAULT 'é'",
    "VARCHAR(9) DEFAULT 'a😀?'",
    "ENUM('x','y','it''s') DEFAULT 'IT''S'",
    "SET('a','b','c') DEFAULT 'c,a'",
    "SET('a','b','c') DEFAULT ''",
    "INT DEFAULT NULL",
    "TEXT",
    "VARCHAR(30) DEFAULT (concat('a', 'b'))",
    "INT DEFAULT (7)",
    "DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3)",
    # without a default, and sql_mode not strict
    "INT NOT NULL",
    "DECIMAL(5,2) NOT NULL",
    "DOUBLE NOT NULL",
    "BIT(3) NOT NULL",
    "DATE NOT NULL",
    "DATETIME(2) NOT NULL",
    "TIME NOT NULL",
    "VARCHAR(9) NOT NULL",
    "TEXT NOT NULL",
    "BINARY(4) NOT NULL",
    "BLOB NOT NULL",
    "ENUM('x','y') NOT NULL",
    "SET('x','y') NOT NULL",
)
DEFAULTED_ON_MARIADB = (
    "TIMESTAMP(2) NULL DEFAULT '2024-02-29 01:02:03.45'",
    "TEXT DEFAULT 'abc'",
    "BLOB DEFAULT 'abc'",
    "BINARY(5) DEFAULT 'ab'",
    "JSON DEFAULT '[1]'",
    "UUID DEFAULT '123e4567-e89b-12d3-a456-426655440000'",
    "INET6 DEFAULT '::1'",
    "INET4 DEFAULT '1.2.3.4'",
)
NOT_TOLD = (
    ("FLOAT DEFAULT 1.23456789", "six digits"),
    ("DOUBLE(20,10) DEFAULT 1.5", "rounds"),
    ("VARCHAR(9) DEFAULT 'a?'", "beyond the BMP"),
    ("VARBINARY(9) DEFAULT x'610062ff'", "all bytes"),
)
NOT_TOLD_BY_MYSQL = (("TIMESTAMP NULL DEFAULT '2024-02-29 01:02:03'", "time zone"), ("JSON NOT NULL", "no default"))


def create(*columns: str) -> str:
    listed = ", ".join(f"c{index} {column}" for index, column in enumerate(columns))
    return f"CREATE TABLE t (id INT PRIMARY KEY, {listed})"


def test_columns_that_an_insert_does_not_log_have_the_default_that_the_server_gave_them(source_server: Server) -> None:
    columns = DEFAULTED + (DEFAULTED_ON_MARIADB if flavor_of(source_server)[0] == "mariadb" else ())
    with fresh_database(source_server) as database:
        with session(source_server, database, "SET time_zone = '+05:00'", create(*columns)):
            definition = definition_of(source_server, database, "t")
        (batch,) = images_of(source_server, definition, "INSERT INTO t (id) VALUES (1)")
        (change,) = net_changes(definition, ("id",), [batch])
        expected = select_rows(source_server, definition)
    assert len(batch.shapes[0]) >= len(columns) - 5
    (images,) = change.upsert_images()
    assert image_rows(definition, images) == expected


def test_a_default_that_the_definition_does_not_tell_exactly_is_refused(source_server: Server) -> None:
    is_mariadb = flavor_of(source_server)[0] == "mariadb"
    with fresh_database(source_server) as database:
        for column, reason in NOT_TOLD + (() if is_mariadb else NOT_TOLD_BY_MYSQL):
            if is_mariadb and reason == "all bytes" and flavor_of(source_server)[1] >= (11, 8):
                continue  # it shows them in hexadecimal
            with session(source_server, database, "DROP TABLE IF EXISTS t", create(column)):
                definition = definition_of(source_server, database, "t")
            batches = images_of(source_server, definition, "INSERT INTO t (id) VALUES (1)")
            with pytest.raises(UnsupportedData, match=reason) as caught:
                list(net_changes(definition, ("id",), batches))
            assert (caught.value.table, caught.value.column) == (f"{database}.t", "c0")


CODES = """
    CREATE TABLE t (
        tenant INT DEFAULT 1, n INT NOT NULL DEFAULT 5, code VARCHAR(20), t TEXT, m DECIMAL(9,2) DEFAULT '1.50',
        at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
        g INT GENERATED ALWAYS AS (n * 2) STORED, b BLOB, PRIMARY KEY (tenant, code)
    ) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci
"""
NO_PRIMARY = "CREATE TABLE t (n INT, k BIGINT NOT NULL, t TEXT, v VARCHAR(9) DEFAULT 'v', UNIQUE KEY (k))"


def code_statements(rng: random.Random) -> Iterator[str]:
    """One change of CODES, or some that belong together."""

    def key() -> str:
        return f"tenant = {rng.randrange(1, 3)} AND code = {code()}"

    def code() -> str:
        return rng.choice(("'a'", "'A'", "'b '", "'B'", "'é'", "'e'", "'ç1'"))

    text = rng.choice(("NULL", "'text'", "REPEAT('x', 300)"))
    setting = rng.choice((f"n = {rng.randrange(9)}", f"t = {text}", "m = m + 1, b = x'00ff'", f"t = {text}, n = n + 1"))
    what = rng.randrange(10)
    if what < 3:
        yield f"INSERT IGNORE INTO t (code, t) VALUES ({code()}, {text}), ({code()}, {text})"
    elif what == 3:
        yield f"INSERT IGNORE INTO t (tenant, code, n) VALUES (2, {code()}, {rng.randrange(9)})"
    elif what < 6:
        yield f"UPDATE t SET {setting} WHERE {key()}"
    elif what == 6:
        yield f"UPDATE IGNORE t SET code = {code()}, {setting} WHERE {key()}"
    elif what == 7:
        one, other = key(), key()
        moved = one.replace(" AND", ",")
        yield f"UPDATE IGNORE t SET tenant = 9, code = 'aside' WHERE {one}"
        yield f"UPDATE IGNORE t SET {moved} WHERE {other}"
        yield f"UPDATE IGNORE t SET {other.replace(' AND', ',')} WHERE tenant = 9"
        yield "DELETE FROM t WHERE tenant = 9"
    elif what == 8:
        yield f"DELETE FROM t WHERE {key()}"
    else:
        yield f"INSERT INTO t (code, n) VALUES ({code()}, 1) ON DUPLICATE KEY UPDATE {setting}"


def number_statements(rng: random.Random) -> Iterator[str]:
    """One change of NO_PRIMARY."""
    what = rng.randrange(6)
    some = f"MOD(k, 4) = {rng.randrange(4)}"
    if what < 2:
        yield f"INSERT IGNORE INTO t (k, n) VALUES ({rng.randrange(30)}, 1), ({rng.randrange(30)}, 2)"
    elif what == 2:
        yield f"UPDATE t SET t = REPEAT('y', {rng.randrange(5)}) WHERE {some}"
    elif what == 3:
        yield f"UPDATE t SET n = n + 1, v = 'w' WHERE {some}"
    elif what == 4:
        yield "UPDATE t SET k = k + 1 WHERE k >= 15 ORDER BY k DESC LIMIT 5"
    else:
        yield f"DELETE FROM t WHERE {some} LIMIT 2"


def plain_statements(rng: random.Random) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield statement(rng)


HISTORIES: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "plain": (TABLE, ("id",), plain_statements),
    "codes": (CODES, ("tenant", "code"), code_statements),
    "numbers": (NO_PRIMARY, ("k",), number_statements),
}


def on_table(sql: str, table: str) -> str:
    """The statement on another table than `t`."""
    return re.sub(r"\b(INTO|UPDATE|IGNORE|FROM|TABLE) t\b(?! =)", rf"\1 {table}", sql)


def write_mixed_history(
    server: Server, database: str, rng: random.Random, make: Any, table: str = "t", transactions: int = 50
) -> None:
    """Transactions whose every statement runs under another row image; some are rolled back."""
    flavor, _ = flavor_of(server)
    with session(server, database) as cursor:
        for _ in range(transactions):
            images = row_images(server)
            if flavor == "mysql" and rng.randrange(2):
                images.remove("MINIMAL")  # does not log the document that the difference is of
            if flavor == "mysql":
                options = "" if "MINIMAL" in images else "PARTIAL_JSON"
                cursor.execute(f"SET SESSION binlog_row_value_options = '{options}'")
            cursor.execute("BEGIN")
            for _ in range(rng.choice((1, 1, 3, 8))):
                image = rng.choice(images)
                for one in make(rng):
                    sql, arguments = one if isinstance(one, tuple) else (one, ())
                    if flavor == "mariadb" and sql.startswith("REPLACE") and image in ("MINIMAL", "NOBLOB"):
                        image = "FULL"  # docs/decisions/0012: it does not log what falls back to its default
                    cursor.execute(f"SET SESSION binlog_row_image = {image}")
                    cursor.execute(on_table(sql, table), arguments)
            cursor.execute(rng.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))


def folded_case(value: Any) -> Any:
    """About as utf8mb4_general_ci compares."""
    return value.lower().rstrip(" ").translate(str.maketrans("éç", "ec")) if isinstance(value, str) else value


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("seed", range(2))
def test_a_copy_kept_by_net_changes_is_what_the_server_selects(source_server: Server, name: str, seed: int) -> None:
    table, key, make = HISTORIES[name]
    rng = random.Random(seed)
    with fresh_database(source_server) as database:
        with session(source_server, database, table):
            definition = definition_of(source_server, database, "t")
        place = binlog_place(source_server)
        write_mixed_history(source_server, database, rng, make)
        limits = RunLimits(rows_max=rng.choice((1, 10)), part_rows_max=rng.choice((5, 9)))
        runs = follow(source_server, place, binlog_place(source_server), KnownTables([definition]), limits=limits)
        expected = select_rows(source_server, definition, order="1")
    changes: list[ChangeBatch] = []
    at_once = AppliedTable(definition, key, rng, folded_case)
    for change in net_changes(definition, key, [batch for run in runs for batch in run.batches]):
        at_once.apply(change)
    by_and_by = AppliedTable(definition, key, rng, folded_case)
    for run in runs:
        for change in net_changes(definition, key, run.batches):
            changes.append(change)
            by_and_by.apply(change)
    assert len(expected) > 3
    assert any(not run.is_last_part for run in runs)
    assert sum(len(change.updates) for change in changes) > 5
    for copy in (at_once, by_and_by):
        assert sorted(map(repr, copy.rows.values())) == sorted(map(repr, expected))


def test_a_virtual_column_that_mariadb_does_not_log_parks_the_table(source_server: Server) -> None:
    with fresh_database(source_server) as database:
        virtual = "CREATE TABLE t (id INT PRIMARY KEY, n INT, v INT, g INT GENERATED ALWAYS AS (n + 1) VIRTUAL)"
        with session(source_server, database, virtual, "INSERT INTO t (id, n) VALUES (1, 1)"):
            definition = definition_of(source_server, database, "t")
        for image in set(row_images(source_server)) - {"FULL", "NOBLOB"}:
            batches = images_of(source_server, definition, "UPDATE t SET n = n + 1", image=image)
            if definition.flavor == "mariadb":
                with pytest.raises(UnsupportedData, match="does not log the generated column g"):
                    list(net_changes(definition, ("id",), batches))
            else:
                (change,) = net_changes(definition, ("id",), batches)
                assert [update.columns for update in change.updates] == [("n", "g")]


def test_a_table_without_primary_key_is_told_apart_by_the_servers_own_choice_of_a_unique_key(
    source_server: Server,
) -> None:
    """The first over NOT NULL columns, whatever it is called; another one parks the table, which says what to do."""
    two = "CREATE TABLE t (a INT NOT NULL, b INT, c INT NOT NULL, UNIQUE KEY z (c), UNIQUE KEY y (a))"
    with fresh_database(source_server) as database:
        with session(source_server, database, two, "INSERT INTO t VALUES (1, 2, 3)"):
            definition = definition_of(source_server, database, "t")
        batches = images_of(source_server, definition, "UPDATE t SET b = 5")
    (change,) = net_changes(definition, ("c",), batches)
    assert [update.columns for update in change.updates] == [("b",)]
    assert choose_key(definition) == ("a",)
    with pytest.raises(UnsupportedData, match=r"does not hold a, .* it holds c$") as caught:
        list(net_changes(definition, ("a",), batches))
    assert caught.value.column == "a"


# ---------------------------------------------------------------- through the service


def write_all(made: Deployment, rng: random.Random) -> None:
    for name, (_, _, make) in HISTORIES.items():
        write_mixed_history(made.source, made.source_database, rng, make, name, 15)


def assert_same(made: Deployment) -> None:
    states = {(entry["sink"], entry["table"]): (entry["state"], entry["error"]) for entry in made.status()["tables"]}
    assert set(states.values()) == {("ready", None)}, states
    made.assert_equal("codes", "numbers")
    verified = made.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_sinks_fed_by_images_of_every_kind_are_what_the_source_selects(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server, mariadb118: Server
) -> None:
    rng = random.Random(5)
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97, maria=mariadb118) as made:
        for name, (table, _, _) in HISTORIES.items():
            source_server.execute(on_table(table, name), database=made.source_database)
        write_all(made, rng)
        made.catch_up()
        write_all(made, rng)
        made.catch_up()  # in large runs
        assert_same(made)
        made.start()
        made.wait_for_log("service_started")
        write_all(made, rng)  # in small ones
        made.stop()
        made.catch_up()
        assert_same(made)


def write_until(stop: threading.Event, made: Deployment, row_count: int) -> int:
    """Changes of some columns of random rows, which are deleted and inserted too; the keys stay. How many times."""
    rng = random.Random(2)
    with session(made.source, made.source_database, "SET SESSION binlog_row_image = MINIMAL") as cursor:
        for number in itertools.count():
            if stop.is_set():
                break
            row = rng.randrange(row_count)
            cursor.execute(f"UPDATE t SET n = {number}, t = NULL WHERE id BETWEEN {row} AND {row + 9}")
            cursor.execute(f"DELETE FROM t WHERE id BETWEEN {row + 5} AND {row + 7}")
            if number % 3:
                cursor.execute(f"INSERT INTO t (id, t) VALUES ({row + 6}, 'back {number}')")
                cursor.execute(f"UPDATE t SET n = n + 1 WHERE id = {row + 6}")
    return number


def test_a_table_that_is_loaded_while_minimal_images_are_logged_ends_as_its_source(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server
) -> None:
    """Updates come of rows that the load has not seen any more, and of rows that it has seen in a later state."""
    row_count = 4000
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97) as made:
        made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.t", "batch_size": 100}]
        with session(source_server, made.source_database, "SET SESSION autocommit = 1") as cursor:
            cursor.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT DEFAULT 3, t VARCHAR(30), d INT DEFAULT 7)")
            rows = ", ".join(f"({number}, {number}, 'text {number}')" for number in range(row_count))
            cursor.execute(f"INSERT INTO t (id, n, t) VALUES {rows}")
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write_until, stop, made, row_count)
            try:
                made.catch_up()
            finally:
                stop.set()
            assert writing.result() > 50
        made.catch_up()
        made.assert_equal("t")


def test_a_source_that_logs_minimal_images_is_followed_and_a_table_that_lacks_a_value_is_parked(
    tmp_path: Path, start_server: Any, pg15: Server
) -> None:
    server = start_server("mysql97", options={"binlog_row_image": "MINIMAL"})
    with deployment(tmp_path, server, sink=pg15) as made:
        server.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT DEFAULT 5, w INT)", database=made.source_database)
        server.execute("CREATE TABLE f (id INT PRIMARY KEY, v FLOAT DEFAULT 5.5)", database=made.source_database)
        server.execute("CREATE TABLE j (id INT PRIMARY KEY, j JSON)", database=made.source_database)
        server.execute("INSERT INTO t VALUES (1, 1, 1)", database=made.source_database)
        server.execute(
            "INSERT INTO j VALUES (1, JSON_OBJECT('a', 1, 'b', REPEAT('x', 99)))", database=made.source_database
        )
        made.catch_up()
        server.execute("INSERT INTO t (id) VALUES (2)", database=made.source_database)
        server.execute("UPDATE t SET w = 9 WHERE id = 1", database=made.source_database)
        server.execute("INSERT INTO f (id) VALUES (2)", database=made.source_database)
        with session(server, made.source_database, "SET SESSION binlog_row_value_options = PARTIAL_JSON") as cursor:
            cursor.execute("UPDATE j SET j = JSON_SET(j, '$.a', 2)")
        caught_up = made.run("run", "--until-caught-up")
        made.assert_equal("t")
        errors = {entry["table"]: entry["error"]["message"] for entry in made.status()["tables"] if entry["error"]}
    assert caught_up.returncode == 1
    assert "row_images_lack_columns" in caught_up.stderr
    assert errors.keys() == {f"{made.source_database}.f", f"{made.source_database}.j"}
    assert "f.v: an INSERT does not log the column" in errors[f"{made.source_database}.f"]
    assert "the document before is not in the event" in errors[f"{made.source_database}.j"]
