"""Rows in bulk on real MySQL and MariaDB sinks: LOAD DATA LOCAL takes every value, or the row is found."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from cdc.errors import ConfigError, SinkRefused, SinkUnavailable, UnsupportedData
from cdc.model import ChangeBatch, PartialUpdate, TableDefinition
from cdc.schema.target import TargetTable
from cdc.sinks import mysql
from cdc.sinks.encode_mysql import LoadLines
from cdc.sinks.mysql import MysqlSink
from cdc.sinks.values import PolicyCounter
from tests.integration.test_sinks import INT, MYSQL_FAMILY, Place, account, canonical_rows, place_on
from tests.support.databases import fresh_database, unique_name
from tests.support.pool import ServerPool
from tests.support.waiting import wait_until
from tests.unit.sinks.builders import (
    ID,
    MARIADB_VALUES,
    MYSQL_VALUES,
    K,
    change_of,
    column,
    moment,
    rows_of,
    table,
)

pytestmark = pytest.mark.integration

TEXT = column("v", K.TEXT, "varchar(100)", length=100)


@pytest.fixture(scope="module", params=MYSQL_FAMILY)
def server(request: pytest.FixtureRequest, server_pool: ServerPool) -> Server:
    name: str = request.param
    return server_pool.get(name)


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Place]:
    with fresh_database(server) as name, place_on(server, name) as place:
        yield place


@pytest.fixture(params=["load", "statements"])
def place(request: pytest.FixtureRequest, shared: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A namespace of its own, on a sink that takes LOAD DATA, and on one that does not; few rows go as many do."""
    sink = shared.sink
    assert isinstance(sink, MysqlSink)
    if not sink.is_open():
        sink.open()
    assert sink.can_load
    place = Place(sink, shared.server, unique_name("n"), shared.settings)
    sink.create_namespace(place.namespace)
    monkeypatch.setattr(mysql, "FEW_ROWS_MAX", -1)
    sink.can_load = request.param == "load"
    yield place
    if not sink.is_open():
        sink.open()
    sink.can_load = True
    place.execute(f"DROP DATABASE {place.quoted(place.namespace)}")


@contextmanager
def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of each call of a method of the sink's transaction."""
    calls: list[tuple[Any, ...]] = []
    original = getattr(mysql._MysqlTransaction, name)

    def called(self: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        return original(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(mysql._MysqlTransaction, name, called)
        yield calls


def statements(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every packet that a sink sends as a statement, from now on."""
    sent: list[bytes] = []
    original = MysqlSink.run

    def run(self: MysqlSink, statement: str | bytes, parameters: Sequence[Any] = ()) -> Any:
        sent.append(statement if isinstance(statement, bytes) else statement.encode())
        return original(self, statement, parameters)

    monkeypatch.setattr(MysqlSink, "run", run)
    return sent


# ---------------------------------------------------------------- values

VALUES = [("mysql", name) for name in MYSQL_VALUES] + [("mariadb", name) for name in MARIADB_VALUES]
# Values that are written by literals, and how many of them there are.
LEFT = {
    ("mysql", "enum"): 1,
    ("mysql", "enum_with_empty"): 1,
    ("mysql", "json"): 5,
}
REFUSED = {("mysql", "timestamp_2106"), ("mysql", "time_max"), ("mariadb1011", "timestamp_2106")}


@pytest.mark.parametrize("flavor,name", VALUES)
def test_every_value_is_loaded_as_it_is_inserted(
    place: Place, flavor: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By LOAD DATA and by INSERTs of the kernel's literals; only rows that are left go by the encoder in Python."""
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    source = table(ID, definition, flavor=flavor)
    server_name = place.server.kind.name
    is_refused = not REFUSED.isdisjoint({(place.sink.kind, name), (server_name, name)}) and flavor == "mariadb"
    if is_refused or (server_name, flavor, name) == ("mariadb1011", "mariadb", "vector"):
        return  # test_sinks.py
    target = place.create(source)
    rows = [(index, value) for index, value in enumerate([*values, None])]
    expected = canonical_rows(rows_of(source, rows), target, place)
    left = LEFT.get((flavor, name), 0)
    if name == "double" and server_name == "mariadb1011":
        left = 1  # -0, which is counted
    if name == "json" and place.sink.kind == "mariadb":
        left = 0

    with spied(monkeypatch, "_put_exactly") as calls:
        place.load(source, target, rows)
        assert place.rows(target) == expected
        place.execute(f"DELETE FROM {place.table('t')}")
        place.apply(source, target, upserts=rows)
        assert place.rows(target) == expected
        place.apply(source, target, upserts=rows)
        assert place.rows(target) == expected

    assert [arguments[0].num_rows for arguments in calls] == [left] * 3 * bool(left)


ALPHABET = "ab\\\t\n\r\0\x1a'\",;é€ß " + "".join(map(chr, range(0xC0, 0xFF)))


def random_values(dice: random.Random) -> tuple[Any, ...]:
    """A value a column of `RANDOM`."""
    text = "".join(dice.choices(ALPHABET, k=dice.randrange(30)))
    clock = map(dice.randrange, (24, 60, 60, 10**6))
    values = (
        text,
        text.replace("€", "").replace("\0", ""),
        text + "😀表",
        dice.randbytes(dice.randrange(60)),
        dice.randbytes(9),
        dice.randrange(1 << dice.randrange(1, 64)),
        struct.unpack("<d", dice.randbytes(8))[0],
        struct.unpack("<f", dice.randbytes(4))[0],
        Decimal(dice.randrange(-(10**20), 10**20)).scaleb(-7),
        moment(dice.randrange(10000), dice.randrange(13), dice.randrange(29), *clock),
        dice.randrange(-(838 * 3600), 838 * 3600) * 1_000_000 + dice.randrange(10**6),
        dice.randrange(256),
        dice.choice(["{}", '{"a": [1, null, "\\\\ \\n é"]}', "[0.1, 12345678901234567890.25]", '"\\t"']),
    )
    usual = (0.0 if isinstance(value, float) and not abs(value) < 1e30 else value for value in values)
    return tuple(None if dice.random() < 0.1 else value for value in usual)


RANDOM = table(
    ID,
    column("utf8", K.TEXT, "varchar(100)", length=100),
    column("latin", K.TEXT, "varchar(100)", length=100, collation="latin1_swedish_ci"),
    column("utf16", K.TEXT, "varchar(100)", length=100, collation="utf16_general_ci"),
    column("blob", K.BLOB, "varbinary(100)", length=100),
    column("fixed", K.BINARY, "binary(9)", length=9),
    column("bit", K.BIT, "bit(64)", length=64),
    column("double", K.DOUBLE, "double"),
    column("float", K.FLOAT, "float"),
    column("decimal", K.DECIMAL, "decimal(30,7)", precision=30, scale=7),
    column("datetime", K.DATETIME, "datetime(6)", fraction_digits=6),
    column("time", K.TIME, "time(6)", fraction_digits=6),
    column("set", K.SET, "set()", members=tuple(f"m{n}" for n in range(8))),
    column("json", K.JSON, "json"),
)


def test_random_rows_are_loaded_as_they_are_inserted(shared: Place) -> None:
    """The same rows by LOAD DATA, by the compiled literals and by the literals made in Python."""
    sink = shared.sink
    assert isinstance(sink, MysqlSink)
    dice = random.Random(20)
    rows = rows_of(RANDOM, [(n, *random_values(dice)) for n in range(1000)])
    found = []
    for name in ("by_load", "by_statements", "by_python"):
        target = replace(shared.target(RANDOM), name=name)
        sink.create_table(target)
        sink.can_load = name == "by_load"
        with sink.transaction() as transaction:
            if name == "by_python":
                transaction._put_exactly(rows, target, "insert", PolicyCounter())
            else:
                transaction.load(rows, target)
            transaction.commit()
        found.append(shared.rows(target))
    sink.can_load = True
    assert found[0] == canonical_rows(rows, target, shared)
    assert found[0] == found[1] == found[2]


def test_labels_that_are_numbers_are_not_taken_for_members(place: Place) -> None:
    """Nor those that only the sink's own ENUM has."""
    source = table(
        ID,
        column("e", K.ENUM, "enum()", members=("3", "1", "2")),
        column("s", K.SET, "set()", members=("4", "2", "1")),
    )
    target = place.create(source)
    place.execute(f"ALTER TABLE {place.table('t')} MODIFY e ENUM('3', '1', '2', '4', '5') CHARACTER SET utf8mb4")
    rows = [(n, 1 + n % 3, n % 8) for n in range(60)]
    place.load(source, target, rows)
    assert place.rows(target) == canonical_rows(rows_of(source, rows), target, place)


# ---------------------------------------------------------------- how rows go


def many(count: int, text: str = "v") -> list[tuple[int, str]]:
    return [(index, f"{text} {index}") for index in range(count)]


def changed(change: ChangeBatch, **counts: int) -> ChangeBatch:
    return replace(change, counts=counts)


def apply(place: Place, change: ChangeBatch, target: TargetTable) -> None:
    with place.sink.transaction() as transaction:
        transaction.apply(change, target)
        transaction.commit()


def test_many_rows_are_replaced_and_their_keys_deleted(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.create(source)
    place.load(source, target, many(20_000))
    result = place.apply(source, target, deletes=many(15_000), upserts=[(n, "new") for n in range(15_000, 30_000)])
    assert (result.deleted, result.upserted) == (15_000, 15_000)
    assert {row[1] for row in place.rows(target)} == {"new"}
    assert len(place.rows(target)) == 15_000


def test_columns_of_the_sinks_own_keep_their_values(place: Place) -> None:
    """Which LOAD DATA REPLACE would give their defaults."""
    source = table(ID, TEXT)
    target = place.create(source)
    place.load(source, target, many(3))
    place.execute(f"ALTER TABLE {place.table('t')} ADD COLUMN note VARCHAR(9) NULL DEFAULT 'none'")
    place.execute(f"UPDATE {place.table('t')} SET note = 'kept'")
    place.apply(source, target, upserts=[(0, "a"), (1, "b"), (7, "c")])
    assert place.execute(f"SELECT id, v, note FROM {place.table('t')} ORDER BY id") == [
        (0, "a", "kept"), (1, "b", "kept"), (2, "v 2", "kept"), (7, "c", "none")
    ]  # fmt: skip


def unique_table(place: Place) -> tuple[TableDefinition, TargetTable]:
    source = table(ID, INT)
    target = place.create(source)
    place.execute(f"CREATE UNIQUE INDEX u ON {place.table('t')} (v)")
    return source, target


def test_unique_values_are_swapped_and_handed_over(place: Place) -> None:
    source, target = unique_table(place)
    place.load(source, target, [(n, n) for n in range(100)])
    place.apply(source, target, upserts=[(n, (n + 1) % 50) for n in range(50)], deletes=[(60, 60)])
    place.apply(source, target, upserts=[(200, 70), (70, 60)])
    expected = [(n, (n + 1) % 50) for n in range(50)] + [(n, n) for n in range(50, 100) if n not in (60, 70)]
    expected += [(200, 70), (70, 60)]
    assert place.rows(target) == canonical_rows(rows_of(source, expected), target, place)


def test_an_upsert_never_rewrites_the_row_that_has_its_unique_value(place: Place) -> None:
    source, target = unique_table(place)
    place.load(source, target, [(1, 1), (2, 2)])
    with pytest.raises(SinkRefused) as caught:
        place.apply(source, target, upserts=[(3, 3), (4, 2)])
    assert caught.value.key == "id=4"
    assert place.rows(target) == canonical_rows(rows_of(source, [(1, 1), (2, 2)]), target, place)


def test_new_rows_of_a_table_with_a_unique_index_are_inserted_without_deletes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a replay of them, some with a value that moved on, ends the same."""
    source, target = unique_table(place)
    rows = [(n, n) for n in range(100)]
    change = changed(change_of(source, upserts=rows), insert=100)
    with spied(monkeypatch, "_delete_rows") as deletes:
        apply(place, change, target)
        assert deletes == []
        apply(place, change, target)
        assert len(deletes) == 1
    assert place.rows(target) == canonical_rows(rows_of(source, rows), target, place)
    apply(place, changed(change_of(source, upserts=[(n, 99 - n) for n in range(100)]), insert=100), target)
    assert place.rows(target) == canonical_rows(rows_of(source, [(n, 99 - n) for n in range(100)]), target, place)


def test_only_rows_that_are_not_new_are_deleted_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new row takes the unique value of one that changes, or goes; some that are there after all end the same."""
    source, target = unique_table(place)
    place.load(source, target, [(n, n) for n in range(100)])
    new, others = [(1000 + n, n) for n in range(50)], [(n, 2000 + n) for n in range(40)]
    change = change_of(source, upserts=[*new, *others], deletes=[(n, n) for n in range(40, 50)])
    change = changed(replace(change, inserts=(change.upserts[0].slice(0, 50),)), insert=50, update=40, delete=10)
    expected = canonical_rows(rows_of(source, [*new, *others, *((n, n) for n in range(50, 100))]), target, place)
    for deleted in ([10, 40], [10, 40, 50]):
        with spied(monkeypatch, "_delete_rows") as deletes:
            apply(place, change, target)
        assert [len(rows[1]) for rows, _ in deletes] == deleted
        assert place.rows(target) == sorted(expected, key=repr)


def test_a_table_that_is_catching_up_is_not_tried(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = unique_table(place)
    change = replace(changed(change_of(source, upserts=[(n, n) for n in range(60)]), insert=60), may_lack_rows=True)
    with spied(monkeypatch, "_put_new") as tries:
        apply(place, change, target)
    assert tries == []
    assert len(place.rows(target)) == 60


def test_lines_that_cannot_be_made_end_the_connection_and_leave_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has a beginning by then, and would take it for the whole."""
    assert isinstance(place.sink, MysqlSink)
    if not place.sink.can_load:
        return
    source = table(ID, TEXT)
    target = place.create(source)
    original = LoadLines.__iter__

    def lines(self: LoadLines) -> Iterator[memoryview]:
        yield next(original(self))
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(LoadLines, "__iter__", lines)
        rows = rows_of(source, [(n, "x" * 100) for n in range(10_000)])
        with place.sink.transaction() as transaction:
            with pytest.raises(MemoryError):
                transaction.load(rows, target)
            assert not place.sink.is_open()
    place.sink.open()
    assert place.rows(target) == []


def test_auto_increment_takes_the_value_0(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.create(source)
    place.execute(f"ALTER TABLE {place.table('t')} MODIFY id INT AUTO_INCREMENT")
    place.load(source, target, [(0, "zero"), (5, "five")])
    place.apply(source, target, upserts=[(0, "again"), (6, "six")])
    expected = [(0, "again"), (5, "five"), (6, "six")]
    assert place.rows(target) == canonical_rows(rows_of(source, expected), target, place)


def test_foreign_keys_do_not_matter(place: Place) -> None:
    """Nor do rows go that refer to a row that is replaced."""
    parent, child = table(ID, TEXT, name="p"), table(ID, INT, name="c")
    targets = place.create(parent), place.create(child)
    place.execute(
        f"ALTER TABLE {place.table('c')} ADD FOREIGN KEY (v) REFERENCES {place.table('p')} (id) ON DELETE CASCADE"
    )
    place.load(child, targets[1], [(1, 1), (2, 99)])
    place.load(parent, targets[0], many(3))
    place.apply(parent, targets[0], upserts=[(1, "new")], deletes=[(2, "")])
    assert len(place.rows(targets[1])) == 2


PAIR = table(
    column("name", K.TEXT, "varchar(20)", length=20, is_nullable=False),
    ID,
    INT,
    key=("name", "id"),
)


def pairs(count: int) -> list[tuple[str, int, int]]:
    return [(f"name {index % 7}", index, index) for index in range(count)]


def test_keys_of_several_columns_are_deleted_by_the_primary_key(place: Place) -> None:
    target = place.create(PAIR)
    place.load(PAIR, target, pairs(6000))
    assert isinstance(place.sink, MysqlSink)
    place.sink.run("FLUSH STATUS")
    result = place.apply(PAIR, target, deletes=[*pairs(6000)[::6], ("name 1", 7000, 0)])
    counters = dict(place.sink.run("SHOW SESSION STATUS LIKE 'Handler_read%'").fetchall())
    assert int(counters["Handler_read_rnd_next"]) < 3000  # the staged keys, and information_schema's share
    assert result.deleted == 1000
    expected = [row for row in pairs(6000) if row[1] % 6]
    assert place.rows(target) == canonical_rows(rows_of(PAIR, expected), target, place)


def test_without_the_right_to_make_temporary_tables_keys_are_deleted_by_conditions(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = place.create(PAIR)
    place.load(PAIR, target, pairs(600))
    sink = place.another(**account(place, [f"SELECT, INSERT, UPDATE, DELETE ON {place.quoted(place.namespace)}.*"]))
    assert isinstance(sink, MysqlSink)
    sink.open()
    sent = statements(monkeypatch)
    for begin in (0, 200):
        with sink.transaction() as transaction:
            assert transaction.apply(change_of(PAIR, deletes=pairs(600)[begin : begin + 200]), target).deleted == 200
            transaction.commit()
    assert sum(b"TEMPORARY" in statement for statement in sent) == 2  # DROP, CREATE: not tried again
    moved = PartialUpdate(("v",), rows_of(PAIR, [("x", 500, 1)]), rows_of(PAIR, [pairs(600)[500]]).select([0, 1]))
    with sink.transaction() as transaction, pytest.raises(ConfigError) as caught:
        transaction.apply(replace(change_of(PAIR), updates=(moved,)), target)
    assert "CREATE TEMPORARY TABLES" in caught.value.hint
    sink.close()
    place.drop_users()
    assert len(place.rows(target)) == 200


@pytest.mark.parametrize("source", [table(PAIR.columns[0], INT, key=("name",)), PAIR], ids=["one", "several"])
def test_keys_that_are_one_to_the_sink_end_as_the_last_of_them(place: Place, source: TableDefinition) -> None:
    """The case of each changes; and of two spellings of one key that are gone, at most one is there."""
    target = place.create(source)
    place.execute(f"ALTER TABLE {place.table('t')} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")

    def row(name: str, value: int) -> tuple[Any, ...]:
        return (name, value) if len(source.columns) == 2 else (name, 1, value)

    place.load(source, target, [row(f"key {n}", n) for n in range(300)])
    deletes = [row(f"key {n}", n) for n in range(300)] + [row(f"Key {n}", n) for n in range(200, 300)]
    place.apply(source, target, deletes=deletes, upserts=[row(f"KEY {n}", n) for n in range(200)])
    expected = [row(f"KEY {n}", n) for n in range(200)]
    assert place.rows(target) == canonical_rows(rows_of(source, expected), target, place)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad,reason", [("x" * 101, "too long"), (None, "cannot be null")])
def test_a_row_that_load_data_would_change_is_found_and_nothing_stays(place: Place, bad: Any, reason: str) -> None:
    """LOCAL cuts a text and makes 0 of NULL, with a warning."""
    source = table(ID, TEXT)
    target = place.create(source)
    place.execute(f"ALTER TABLE {place.table('t')} MODIFY v VARCHAR(100) NOT NULL")
    rows: list[Any] = many(200)
    rows[150] = (150, bad)
    for write in (place.load, lambda s, t, r: place.apply(s, t, upserts=r)):
        with pytest.raises(SinkRefused, match=reason) as caught:
            write(source, target, rows)
        assert (caught.value.key, caught.value.column) == ("id=150", "v")
        assert place.rows(target) == []


def test_a_duplicate_that_load_data_would_skip_is_found(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.create(source)
    place.load(source, target, many(5))
    with pytest.raises(SinkRefused, match="Duplicate") as caught:
        place.load(source, target, [(7, "a"), (3, "b"), (8, "c")])
    assert caught.value.key == "id=3"
    assert len(place.rows(target)) == 5


@pytest.mark.parametrize("name,more", [("records", -1), ("records", 1), ("skipped", 1), ("warnings", 1)])
def test_a_reply_that_counts_other_rows_is_not_believed(
    place: Place, name: str, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are undone and written by INSERTs."""
    assert isinstance(place.sink, MysqlSink)
    if not place.sink.can_load:
        return
    source = table(ID, TEXT)
    target = place.create(source)
    original = MysqlSink.load

    def load(self: MysqlSink, statement: Callable[[str], str], text: Any) -> Any:
        reply = original(self, statement, text)
        return replace(reply, **{name: getattr(reply, name) + more})

    monkeypatch.setattr(MysqlSink, "load", load)
    with spied(monkeypatch, "_put_exactly") as calls:
        place.load(source, target, many(60))
    assert len(calls) == 1
    assert len(place.rows(target)) == 60


def test_a_server_that_turns_load_data_off_is_given_statements(
    server: Server, shared: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = unique_name()
    with place_on(server, name) as place:
        source = table(ID, TEXT)
        target = place.create(source)
        server.execute("SET GLOBAL local_infile = 0")
        try:
            place.load(source, target, many(100))
            assert isinstance(place.sink, MysqlSink)
            assert not place.sink.can_load
            other = place.another()
            assert isinstance(other, MysqlSink)
            other.open()
            assert not other.can_load
            other.close()
        finally:
            server.execute("SET GLOBAL local_infile = 1")
        place.load(source, target, [(1000, "after")])
        assert len(place.rows(target)) == 101
        place.execute(f"DROP DATABASE {place.quoted(name)}")


def test_a_large_batch_goes_in_bounded_packets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table(ID, column("v", K.BLOB, "longblob", length=2**32 - 1))
    target = place.create(source)
    sent: list[int] = []
    assert isinstance(place.sink, MysqlSink)
    connection: Any = place.sink._connection
    original = connection.write_packet

    def write_packet(payload: bytes) -> None:
        sent.append(len(payload))
        original(payload)

    connection.write_packet = write_packet
    try:
        rows = [(n, bytes([n]) * (3 << 20)) for n in range(4)]
        place.load(source, target, rows)
    finally:
        del connection.write_packet
    assert sum(sent) > (12 << 20) or not place.sink.can_load
    assert all(size <= 1 << 20 for size in sent)
    lengths = place.execute(
        f"SELECT id, LENGTH(v), SHA2(v, 256) = SHA2(REPEAT(CHAR(id), {3 << 20}), 256) FROM {place.table('t')}"
    )
    assert sorted(lengths) == [(n, 3 << 20, 1) for n in range(4)]


def test_a_load_that_waits_is_cancelled(place: Place) -> None:
    """And the connection is good for another."""
    source = table(ID, TEXT)
    target = place.create(source)
    place.load(source, target, many(100))
    other = place.another()
    other.open()
    number = place.sink.session().partition("/")[0]
    waiting = f"SELECT 1 FROM information_schema.PROCESSLIST WHERE id = {number} AND time_ms > 0 AND info LIKE %s"
    if place.sink.kind == "mysql":
        waiting = waiting.replace("time_ms > 0 AND", "")

    def cancel() -> None:
        words = ("LOAD DATA%" if place.sink.can_load else "INSERT%",)  # type: ignore[union-attr]
        wait_until(lambda: place.server.execute(waiting, words), what="the rows to be on their way")
        place.sink.cancel()

    with other.transaction() as theirs:
        theirs.apply(change_of(source, upserts=[(7, "locked")]), target)
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(SinkUnavailable):
            place.apply(source, target, upserts=many(100, "new"))
        thread.join()
    other.close()
    place.apply(source, target, upserts=many(100, "again"))
    assert {row[1] for row in place.rows(target)} == {f"again {n}" for n in range(100)}


# ---------------------------------------------------------------- few rows


@pytest.fixture
def trickle(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(mysql, "FEW_ROWS_MAX", 50)
    return place


def test_few_changes_take_one_round_trip(trickle: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = table(ID, TEXT), trickle.target(table(ID, TEXT))
    trickle.sink.create_table(target)
    trickle.apply(source, target, upserts=many(5))
    sent = statements(monkeypatch)
    with trickle.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, "b"), (9, "n")], deletes=[(0, "")]), target)
        assert len(sent) == 1
        transaction.apply(change_of(source, upserts=[(2, "c")]), target)
        assert len(sent) == 2
        transaction.commit()
    expected = [(1, "b"), (2, "c"), (3, "v 3"), (4, "v 4"), (9, "n")]
    assert trickle.rows(target) == canonical_rows(rows_of(source, expected), target, trickle)


def test_a_definition_that_changed_is_seen_in_the_same_round_trip(trickle: Place) -> None:
    """An index made by another session: an upsert as before would rewrite the row that has the unique value."""
    source = table(ID, INT)
    target = trickle.create(source)
    trickle.apply(source, target, upserts=[(1, 1), (2, 2)])
    trickle.server.execute(f"CREATE UNIQUE INDEX u ON {trickle.table('t')} (v)")
    with pytest.raises(SinkRefused) as caught:
        trickle.apply(source, target, upserts=[(3, 2)])
    assert caught.value.key == "id=3"
    trickle.apply(source, target, upserts=[(1, 2), (2, 1)])
    assert trickle.rows(target) == canonical_rows(rows_of(source, [(1, 2), (2, 1)]), target, trickle)


def test_what_turns_out_to_take_longer_is_undone_first(trickle: Place) -> None:
    """Else the delete would have deleted its row already."""
    source = table(ID, INT)
    target = trickle.create(source)
    trickle.apply(source, target, upserts=[(1, 1), (2, 2)])
    trickle.server.execute(f"ALTER TABLE {trickle.table('t')} COMMENT 'changed'")
    result = trickle.apply(source, target, upserts=[(2, 3)], deletes=[(1, 1)])
    assert (result.deleted, result.upserted) == (1, 1)
    assert trickle.rows(target) == canonical_rows(rows_of(source, [(2, 3)]), target, trickle)


def test_few_rows_that_are_refused_are_named_and_undone(trickle: Place) -> None:
    source = table(ID, TEXT)
    target = trickle.create(source)
    trickle.apply(source, target, upserts=many(5))
    trickle.execute(f"ALTER TABLE {trickle.table('t')} MODIFY v VARCHAR(5)")
    with trickle.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(8, "ok")]), target)
        with pytest.raises(SinkRefused) as caught:
            transaction.apply(change_of(source, upserts=[(6, "ok"), (7, "much too long")], deletes=[(1, "")]), target)
    assert (caught.value.key, caught.value.column) == ("id=7", "v")
    assert len(trickle.rows(target)) == 5


def test_few_rows_with_an_unusual_value_arrive(trickle: Place) -> None:
    source = table(ID, column("e", K.ENUM, "enum()", members=("a", "b")))
    target = trickle.create(source)
    for _ in range(2):
        trickle.apply(source, target, upserts=[(1, 0), (2, 2), (3, None)])
        expected = canonical_rows(rows_of(source, [(1, 0), (2, 2), (3, None)]), target, trickle)
        assert trickle.rows(target) == expected


def test_a_change_of_nothing_is_nothing(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.create(source)
    result = place.apply(source, target)
    assert (result.deleted, result.upserted) == (0, 0)
    assert place.load(source, target, []).upserted == 0


def test_a_selection_of_no_rows_is_no_statement(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.create(source)
    change = change_of(source, upserts=[(1, "a")])
    empty = replace(change, upserts=(pa.array([], pa.int32()),))
    apply(place, empty, target)
    assert place.rows(target) == []


# ---------------------------------------------------------------- partial updates

WIDE = table(
    ID,
    column("a", K.INTEGER, "int", length=32),
    column("b", K.TEXT, "varchar(100)", length=100),
    column("e", K.ENUM, "enum()", members=("x", "y")),
    column("at", K.TIMESTAMP, "timestamp(6)", fraction_digits=6),
)


@dataclass
class Wide:
    """A table of five columns with rows 0 to 99, and what it should hold."""

    place: Place
    target: TargetTable
    rows: dict[int, list[Any]]

    def apply(self, *updates: PartialUpdate, may_lack_rows: bool = False, **more: Any) -> None:
        change = replace(change_of(WIDE, **more), updates=updates, may_lack_rows=may_lack_rows)
        apply(self.place, change, self.target)

    def assert_equal(self) -> None:
        expected = canonical_rows(rows_of(WIDE, list(self.rows.values())), self.target, self.place)
        assert self.place.rows(self.target) == expected


@pytest.fixture(params=["few", "many"])
def wide(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch) -> Wide:
    """Row by row, and by way of the staging table."""
    if request.param == "few":
        monkeypatch.setattr(mysql, "FEW_ROWS_MAX", 1000)
    target = place.create(WIDE)
    rows: list[list[Any]] = [[n, n, f"text {n}", n % 3, n * 1_000_000] for n in range(100)]
    place.load(WIDE, target, rows)
    return Wide(place, target, {row[0]: row for row in rows})


def update(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], old_ids: Sequence[int] | None = None
) -> PartialUpdate:
    """`rows`: new id, and a value a column; what the others hold must not matter."""
    whole = []
    for row in rows:
        values: dict[str, Any] = {"a": -1, "b": "wrong", "e": 1, "at": 1} | dict(zip(columns, row[1:], strict=True))
        whole.append((row[0], values["a"], values["b"], values["e"], values["at"]))
    old = None if old_ids is None else pa.RecordBatch.from_pydict({"id": pa.array(old_ids, pa.int32())})
    return PartialUpdate(tuple(columns), rows_of(WIDE, whole), old)


def test_only_the_columns_given_are_changed(wide: Wide) -> None:
    wide.apply(
        update(["a"], [(n, n + 1000) for n in range(60)]),
        update(["b", "e"], [(n, None if n % 2 else "new", 2) for n in range(60, 80)]),
        upserts=[(200, 1, "u", 1, None)],
        deletes=[tuple(wide.rows.pop(99))],
    )
    for n in range(60):
        wide.rows[n][1] = n + 1000
    for n in range(60, 80):
        wide.rows[n][2:4] = [None if n % 2 else "new", 2]
    wide.rows[200] = [200, 1, "u", 1, None]
    wide.assert_equal()


def test_an_update_to_the_same_values_matches_its_row(wide: Wide) -> None:
    wide.apply(update(["a"], [(n, n) for n in range(100)]))
    wide.assert_equal()


def test_unusual_values_are_updated(wide: Wide) -> None:
    """The error value of an ENUM, which strict mode refuses, beside a usual one."""
    wide.apply(update(["e", "b"], [(1, 0, "zero"), (2, 2, "two"), (3, None, "none")]))
    for n, values in ((1, [0, "zero"]), (2, [2, "two"]), (3, [None, "none"])):
        wide.rows[n][3], wide.rows[n][2] = values
    wide.assert_equal()


def test_a_row_that_the_sink_lacks_is_an_error_with_its_key(wide: Wide) -> None:
    for old_ids, key in ((None, "id=300"), ([1, 301, 3], "id=301")):
        lacking = update(["a"], [(1, 5), (300, 6), (3, 7)], old_ids)
        with pytest.raises(UnsupportedData, match="does not have") as caught:
            wide.apply(lacking)
        assert (caught.value.table, caught.value.key) == ("shop.t", key)
        assert "cdc snapshot shop.t" in caught.value.hint
    wide.assert_equal()


def test_a_table_that_is_catching_up_may_lack_rows(wide: Wide) -> None:
    wide.apply(update(["a"], [(1, 5), (300, 6)]), may_lack_rows=True)
    wide.rows[1][1] = 5
    wide.assert_equal()


def test_keys_move_with_all_that_is_not_said(wide: Wide) -> None:
    moved = update(["a"], [(1000 + n, -n) for n in range(60)], list(range(60)))
    stay = update(["b"], [(n, "stays") for n in range(60, 100)])
    wide.apply(moved, stay)
    for n in range(60):
        row = wide.rows.pop(n)
        wide.rows[1000 + n] = [1000 + n, -n, *row[2:]]
    for n in range(60, 100):
        wide.rows[n][2] = "stays"
    wide.assert_equal()


def test_keys_move_in_a_chain_over_two_updates(wide: Wide) -> None:
    """10 to 11, 11 to 12 by another set of columns, 12 to 13; and 13, which is there, is gone at the source."""
    wide.apply(update(["a"], [(11, 1), (13, 3)], [10, 12]), update(["b"], [(12, "two")], [11]))
    ten, eleven, twelve = (wide.rows.pop(n) for n in (10, 11, 12))
    wide.rows[11] = [11, 1, *ten[2:]]
    wide.rows[12] = [12, eleven[1], "two", *eleven[3:]]
    wide.rows[13] = [13, 3, *twelve[2:]]
    wide.assert_equal()


def test_a_moved_key_that_is_loaded_in_its_new_place_is_updated_there(wide: Wide) -> None:
    """While catching up: 300 was read as 5 before it moved on, so there is no 300; 400 and 401 are nowhere."""
    wide.apply(update(["a"], [(5, 55), (401, 1)], [300, 400]), may_lack_rows=True)
    wide.rows[5][1] = 55
    wide.assert_equal()


def test_an_error_value_that_an_update_does_not_name_stays(wide: Wide) -> None:
    assert wide.rows[0][3] == 0
    wide.apply(update(["a"], [(500, 1)], [0]))
    row = wide.rows.pop(0)
    wide.rows[500] = [500, 1, *row[2:]]
    wide.assert_equal()


def test_unique_values_are_handed_over_by_partial_updates_and_upserts(wide: Wide) -> None:
    wide.place.execute(f"CREATE UNIQUE INDEX u ON {wide.place.table('t')} (a)")
    wide.apply(
        update(["a"], [(n, (n + 1) % 60) for n in range(60)]),
        update(["a", "b"], [(70, 71, "from 71"), (71, 80, "from 80")]),
        update(["b"], [(72, "only b")]),
        upserts=[(80, 81, "from 81", 1, None), (500, 70, "from 70", 1, None)],
        deletes=[tuple(wide.rows.pop(81))],
    )
    for n in range(60):
        wide.rows[n][1] = (n + 1) % 60
    wide.rows[70][1:3] = [71, "from 71"]
    wide.rows[71][1:3] = [80, "from 80"]
    wide.rows[72][2] = "only b"
    wide.rows[80] = [80, 81, "from 81", 1, None]
    wide.rows[500] = [500, 70, "from 70", 1, None]
    wide.assert_equal()


def test_a_column_that_updates_itself_keeps_its_value(wide: Wide) -> None:
    """ON UPDATE CURRENT_TIMESTAMP, of a table that somebody else has made (EDGE_CASES E15)."""
    table_name = wide.place.table("t")
    wide.place.execute(
        f"ALTER TABLE {table_name} MODIFY at TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6)"
    )
    wide.apply(update(["a"], [(n, n + 7) for n in range(80)]), update(["a"], [(500, 1)], [99]))
    for n in range(80):
        wide.rows[n][1] = n + 7
    wide.rows[500] = [500, 1, *wide.rows.pop(99)[2:]]
    wide.assert_equal()


def test_a_value_of_an_update_that_is_refused_names_its_row(wide: Wide) -> None:
    wide.place.execute(f"ALTER TABLE {wide.place.table('t')} MODIFY b VARCHAR(10)")
    with pytest.raises(SinkRefused) as caught:
        wide.apply(update(["b"], [(1, "ok"), (2, "x" * 101), (3, "ok")]))
    assert "2" in (caught.value.key or "")
    assert caught.value.column == "b"
    wide.assert_equal()


def test_a_composite_key_of_texts_is_updated_and_moved(place: Place) -> None:
    name = column("name", K.TEXT, "varchar(20)", length=20, is_nullable=False)
    source = table(name, ID, TEXT, column("w", K.INTEGER, "int", length=32), key=("name", "id"))
    target = place.create(source)
    place.load(source, target, [("a", 1, "v1", 1), ("a", 2, "v2", 2), ("b", 1, "v3", 3)])
    plain = PartialUpdate(("w",), rows_of(source, [("a", 1, "", 10)]))
    old = rows_of(source, [("a", 2, "", 0)]).select(["name", "id"])
    moved = PartialUpdate(("v",), rows_of(source, [("c", 2, "moved", 0)]), old)
    apply(place, replace(change_of(source), updates=(plain, moved)), target)
    expected = [("a", 1, "v1", 10), ("b", 1, "v3", 3), ("c", 2, "moved", 2)]
    assert place.rows(target) == canonical_rows(rows_of(source, expected), target, place)


@pytest.mark.parametrize("count", [99, 100, 300])
def test_composite_keys_move_beside_many_deletes_and_upserts(place: Place, count: int) -> None:
    """Keys to delete are staged while the rows that move are."""
    target = place.create(PAIR)
    rows = pairs(3 * count)
    place.load(PAIR, target, rows)
    gone, there = rows[1 : count + 1], [(name, index, -index) for name, index, _ in rows[-count:]]
    old = rows_of(PAIR, [rows[0]]).select(["name", "id"])
    moved = PartialUpdate((INT.name,), rows_of(PAIR, [("moved", 0, -1000)]), old)
    change = replace(change_of(PAIR, deletes=gone, upserts=there), updates=(moved,))
    apply(place, change, target)
    expected = [("moved", 0, -1000), *rows[count + 1 : -count], *there]
    assert place.rows(target) == canonical_rows(rows_of(PAIR, sorted(expected)), target, place)


def test_an_update_to_the_error_value_of_a_row_that_is_not_there(wide: Wide) -> None:
    missing = update(["e"], [(1000, 0)])
    with pytest.raises(UnsupportedData, match="id=1000"):
        wide.apply(missing)
    wide.apply(missing, may_lack_rows=True)
    wide.assert_equal()
