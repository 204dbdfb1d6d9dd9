"""Every sink on its real server: what goes in is what its own SELECT gives back, and what cannot go in says so."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from cdc.errors import CdcError, ConfigError, InvariantBroken, SinkRefused, SinkUnavailable, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, TableDefinition
from cdc.schema.mapping import rule_for, sink_collation
from cdc.schema.target import TargetTable
from cdc.sinks import sql_mysql, sql_postgres
from cdc.sinks.base import ApplyResult
from cdc.sinks.canonical import canonical_from_arrow
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from tests.support.databases import fresh_database, fresh_pg_database, unique_name
from tests.support.pool import ServerPool
from tests.support.waiting import wait_until
from tests.unit.sinks.builders import (
    HOSTILE_TEXTS,
    ID,
    MARIADB_VALUES,
    MYSQL_VALUES,
    K,
    change_of,
    column,
    date,
    micros,
    moment,
    rows_of,
    table,
    target_of,
)

pytestmark = pytest.mark.integration

AnySink = PostgresSink | MysqlSink
SERVERS = ("pg15", "pg17", "mysql97", "mariadb1011", "mariadb118")
MYSQL_FAMILY = ("mysql97", "mariadb1011", "mariadb118")
POSTGRES = ("pg15", "pg17")
INT = column("v", K.INTEGER, "int", length=32)
TEXT = column("v", K.TEXT, "varchar(100)", length=100)


@dataclass
class Place:
    """A sink, and a namespace of its own on a server that the whole run shares."""

    sink: AnySink
    server: Server
    namespace: str
    settings: dict[str, Any]
    users: list[str] = field(default_factory=list)

    def target(self, definition: TableDefinition, **policies: Any) -> TargetTable:
        return target_of(definition, self.sink.kind, self.namespace, **policies)

    def create(self, definition: TableDefinition, **policies: Any) -> TargetTable:
        target = self.target(definition, **policies)
        self.sink.create_table(target)
        return target

    def quoted(self, name: str) -> str:
        return sql_postgres.quote(name) if self.sink.kind == "postgresql" else sql_mysql.quote(name)

    def table(self, name: str) -> str:
        return f"{self.quoted(self.namespace)}.{self.quoted(name)}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.sink.transaction() as transaction:
            rows = transaction.execute(statement)
            transaction.commit()
        return rows

    def apply(self, definition: TableDefinition, target: TargetTable, **rows: Sequence[Sequence[Any]]) -> ApplyResult:
        with self.sink.transaction() as transaction:
            result = transaction.apply(change_of(definition, **rows), target)
            transaction.commit()
        return result

    def load(self, definition: TableDefinition, target: TargetTable, rows: Sequence[Sequence[Any]]) -> ApplyResult:
        with self.sink.transaction() as transaction:
            result = transaction.load(rows_of(definition, rows), target)
            transaction.commit()
        return result

    def rows(self, target: TargetTable) -> list[tuple[Any, ...]]:
        return sorted(itertools.chain.from_iterable(self.sink.read_rows(target, batch_rows=2)), key=repr)

    def drop_users(self) -> None:
        for user in self.users:
            if self.sink.kind == "postgresql":
                self.execute(f"DROP OWNED BY {user}")
            self.execute(f"DROP {'ROLE' if self.sink.kind == 'postgresql' else 'USER'} {user}")

    def another(self, **changes: Any) -> AnySink:
        return make_sink(self.server, **{**self.settings, **changes})


def make_sink(server: Server, **more: Any) -> AnySink:
    url = urlsplit(server.url)
    settings: dict[str, Any] = {
        "name": "sink",
        "host": url.hostname,
        "port": url.port,
        "user": unquote(url.username or ""),
        "password": unquote(url.password or ""),
        **more,
    }
    if server.family == "postgresql":
        return PostgresSink(PostgresSettings(**settings))
    return MysqlSink(MysqlSettings(**settings))


@contextlib.contextmanager
def place_on(server: Server, name: str, namespace: str | None = None) -> Iterator[Place]:
    settings = {"database": name}
    sink = make_sink(server, **settings)
    sink.open()
    try:
        place = Place(sink, server, namespace or name, settings)
        sink.create_namespace(place.namespace)
        yield place
    finally:
        sink.close()


@pytest.fixture(scope="module")
def shared(server_pool: ServerPool) -> Iterator[Callable[[str], Place]]:
    """One connection a server for the whole module: tests have a namespace of their own each."""
    with contextlib.ExitStack() as stack:
        places: dict[str, Place] = {}

        def on(name: str) -> Place:
            if name not in places:
                server = server_pool.get(name)
                fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
                places[name] = stack.enter_context(place_on(server, stack.enter_context(fresh(server)), None))
            return places[name]

        yield on


@contextlib.contextmanager
def own_namespace(server: Server, shared: Callable[[str], Place]) -> Iterator[Place]:
    here = shared(server.kind.name)
    if not here.sink.is_open():
        here.sink.open()
    place = Place(here.sink, server, unique_name("n"), here.settings)
    place.sink.create_namespace(place.namespace)
    try:
        yield place
    finally:
        if not place.sink.is_open():
            place.sink.open()
        if place.sink.kind == "postgresql":
            place.execute(f"DROP SCHEMA {place.quoted(place.namespace)} CASCADE")
        else:
            place.execute(f"DROP DATABASE {place.quoted(place.namespace)}")
        place.drop_users()


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, shared: Callable[[str], Place]) -> Iterator[Place]:
    """Each kind of sink in turn."""
    with own_namespace(request.getfixturevalue(request.param), shared) as place:
        yield place


@pytest.fixture(params=MYSQL_FAMILY)
def mysql_place(request: pytest.FixtureRequest, shared: Callable[[str], Place]) -> Iterator[Place]:
    with own_namespace(request.getfixturevalue(request.param), shared) as place:
        yield place


@pytest.fixture(params=POSTGRES)
def pg_place(request: pytest.FixtureRequest, shared: Callable[[str], Place]) -> Iterator[Place]:
    with own_namespace(request.getfixturevalue(request.param), shared) as place:
        yield place


@pytest.fixture
def small_packets(mysql_place: Place) -> Iterator[None]:
    """The sink takes max_allowed_packet for 128 KiB."""
    assert isinstance(mysql_place.sink, MysqlSink)
    before, mysql_place.sink.packet_bytes_max = mysql_place.sink.packet_bytes_max, 128 << 10
    yield
    mysql_place.sink.packet_bytes_max = before


def canonical_rows(rows: pa.RecordBatch, target: TargetTable, place: Place) -> list[tuple[Any, ...]]:
    columns = [
        canonical_from_arrow(rows.column(c.source.name), c, target.policies, place.sink.kind) for c in target.columns
    ]
    return sorted(zip(*columns, strict=True), key=repr)


# ---------------------------------------------------------------- values

# What a sink cannot hold, by server or kind: refused by name, nothing is changed in silence.
REFUSED = {("mysql", "timestamp_2106"), ("mysql", "time_max"), ("mariadb1011", "timestamp_2106")}
VALUES = [("mysql", name) for name in MYSQL_VALUES] + [("mariadb", name) for name in MARIADB_VALUES]


def is_refused(place: Place, flavor: str, name: str) -> bool:
    return flavor == "mariadb" and not REFUSED.isdisjoint({(place.sink.kind, name), (place.server.kind.name, name)})


@pytest.mark.parametrize("flavor,name", VALUES)
def test_every_value_comes_back_as_it_went_in(place: Place, flavor: Any, name: str) -> None:
    """By load, by insert and by update, against the text of the sink's own SELECT."""
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    source = table(ID, definition, flavor=flavor)
    rows = [(index, value) for index, value in enumerate([*values, None])]
    if (place.server.kind.name, flavor, name) == ("mariadb1011", "mariadb", "vector"):
        with pytest.raises(SinkRefused, match="Unknown data type: 'vector'"):
            place.create(source)
        return
    target = place.create(source)
    existing = place.sink.inspect(target)
    assert existing is not None
    assert place.sink.differences(target, existing) == []

    if is_refused(place, flavor, name):
        with pytest.raises(SinkRefused) as caught:
            place.load(source, target, rows)
        assert caught.value.column == "c"
        assert caught.value.key
        return

    expected = canonical_rows(rows_of(source, rows), target, place)
    place.load(source, target, rows)
    assert place.rows(target) == expected

    place.execute(f"DELETE FROM {place.table('t')}")
    place.apply(source, target, upserts=rows)
    assert place.rows(target) == expected

    moved = [(index, rows[index - 1][1]) for index in range(len(rows))]  # every row gets its neighbour's value
    place.apply(source, target, upserts=moved)
    assert place.rows(target) == canonical_rows(rows_of(source, moved), target, place)


# Without what is no key anywhere, and what REFUSED says.
KEYS = [(f, n) for f, n in VALUES if n not in ("varchar0", "timestamp_2106", "time_max")]


@pytest.mark.parametrize("flavor,name", KEYS)
def test_a_row_is_found_by_a_key_of_every_type(place: Place, flavor: Any, name: str) -> None:
    """Or the type is refused in a key; or PostgreSQL has no such value, and then neither has its key."""
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    if definition.kind is K.TEXT:  # a collation in which no two of the texts are one
        definition = replace_name(definition, "c", charset="utf8mb4", collation="utf8mb4_0900_bin")
        flavor = "mysql"
    source = table(definition, INT, key=("c",), flavor=flavor)
    if not rule_for(definition, flavor).can_be_key[place.sink.kind != "postgresql"]:
        with pytest.raises(UnsupportedData, match="cannot be in a key"):
            place.target(source)
        return
    target = place.create(source)
    rows = [(value, index) for index, value in enumerate(values) if can_be_key(place, value, name)]
    if not rows:
        with pytest.raises(UnsupportedData, match="no policy changes a key"):
            place.load(source, target, [(value, 0) for value in values])
        return
    place.load(source, target, rows)

    result = place.apply(source, target, deletes=rows[::2])

    assert result.deleted == len(rows[::2])
    assert place.rows(target) == canonical_rows(rows_of(source, rows[1::2]), target, place)

    place.apply(source, target, upserts=[(value, 100 + index) for value, index in rows])
    place.apply(source, target, upserts=[(value, 200 + index) for value, index in rows])
    again = [(value, 200 + index) for value, index in rows]
    assert place.rows(target) == canonical_rows(rows_of(source, again), target, place)


def can_be_key(place: Place, value: Any, name: str) -> bool:
    """Values that are no key anywhere, and what PostgreSQL cannot hold, which is an error tested by its own name."""
    if value is None or (isinstance(value, str) and len(value) > 1000):
        return False
    if name in ("float", "double"):
        return repr(value) != "-0.0"  # one key with 0
    if place.sink.kind != "postgresql":
        return True
    if isinstance(value, str):
        return "\0" not in value
    if name.startswith("timestamp") or name == "enum_with_empty":
        return bool(value)
    return not name.startswith("impossible")


@pytest.mark.parametrize(
    "definition,values",
    [
        (column("k", K.TEXT, "varchar(20)", length=20), ["a\0"]),
        (column("k", K.DATE, "date"), [0, date(2023, 2, 30), date(0, 1, 1)]),
        (column("k", K.DATETIME, "datetime"), [0, moment(2023, 2, 30)]),
        (column("k", K.TIMESTAMP, "timestamp"), [0]),
    ],
    ids=["text", "date", "datetime", "timestamp"],
)
def test_no_policy_changes_a_key(pg_place: Place, definition: ColumnDefinition, values: Sequence[Any]) -> None:
    source = table(definition, INT, key=("k",))
    target = pg_place.create(source, zero_dates="infinity", nul_bytes="strip")
    for value in values:
        for rows in ({"upserts": [(value, 1)]}, {"deletes": [(value, 1)]}):
            with pytest.raises(UnsupportedData, match="no policy changes a key column") as caught:
                pg_place.apply(source, target, **rows)
            assert (caught.value.table, caught.value.column) == ("shop.t", "k")
            assert caught.value.key
    assert pg_place.rows(target) == []


def test_policies_are_counted_by_column(pg_place: Place) -> None:
    source = table(
        ID, column("d", K.DATE, "date"), column("s", K.TIMESTAMP, "timestamp"), column("t", K.TEXT, "longtext")
    )
    rows = [(1, 0, 0, "a\0b"), (2, date(2023, 2, 30), 1_000_000, "\0"), (3, date(2024, 1, 1), None, "c")]
    expected = Counter({("d", "zero_dates"): 2, ("s", "zero_dates"): 1, ("t", "nul_bytes"): 2})
    for zero_dates, nul_bytes, seen in (
        ("null", "replace", [("1", None, None, "a\ufffdb"), ("2", None, "1970-01-01 00:00:01.000000", "\ufffd")]),
        (
            "infinity",
            "strip",
            [("1", "infinity", "infinity", "ab"), ("2", "infinity", "1970-01-01 00:00:01.000000", "")],
        ),
    ):
        target = pg_place.create(source, zero_dates=zero_dates, nul_bytes=nul_bytes)
        assert pg_place.apply(source, target, upserts=rows).policy_changes == expected
        assert pg_place.rows(target)[:2] == seen
        pg_place.execute(f"DELETE FROM {pg_place.table('t')}")
        assert pg_place.load(source, target, rows).policy_changes == expected
        assert pg_place.rows(target)[:2] == seen
        pg_place.sink.drop_table(target)


@pytest.mark.parametrize("name,value", [("d", 0), ("t", "a\0b"), ("j", '{"a": "\\u0000"}')])
def test_the_policy_error_names_table_column_and_key(pg_place: Place, name: str, value: Any) -> None:
    columns = {"d": column("d", K.DATE, "date"), "t": column("t", K.TEXT, "text"), "j": column("j", K.JSON, "json")}
    source = table(ID, columns[name])
    target = pg_place.create(source, zero_dates="error", nul_bytes="error")
    with pytest.raises(UnsupportedData) as caught:
        pg_place.load(source, target, [(7, None), (8, value)])
    assert (caught.value.table, caught.value.column, caught.value.key) == ("shop.t", name, "id=8")
    assert "policies." in caught.value.hint


def test_a_double_of_minus_zero_is_counted_where_mariadb_stores_zero(
    mariadb1011: Server, database: Callable[[Server], str]
) -> None:
    with place_on(mariadb1011, database(mariadb1011)) as place:
        source = table(ID, column("d", K.DOUBLE, "double"))
        target = place.create(source)
        result = place.load(source, target, [(1, -0.0), (2, 0.0), (3, -1.0)])
        assert result.policy_changes == Counter({("d", "negative_zero"): 1})


# ---------------------------------------------------------------- deletes and upserts


def test_deletes_come_first_and_upserts_overwrite_every_column(place: Place) -> None:
    source = table(ID, INT, column("w", K.TEXT, "text"))
    target = place.create(source)
    place.load(source, target, [(1, 1, "a"), (2, 2, "b"), (3, 3, "c")])

    result = place.apply(source, target, deletes=[(1, 9, "x"), (4, 4, "y")], upserts=[(2, 20, None), (5, 5, "e")])

    assert (result.deleted, result.upserted) == (1, 2)
    assert place.rows(target) == [("2", "20", None), ("3", "3", "c"), ("5", "5", "e")]


def test_changes_of_one_table_in_one_transaction_add_up(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    with place.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, 1), (2, 2)]), target)
        transaction.apply(change_of(source, upserts=[(2, 20), (3, 3)], deletes=[(1, 1)]), target)
        transaction.apply(change_of(source, deletes=[(3, 3)]), target)
        transaction.commit()
    assert place.rows(target) == [("2", "20")]


def test_applying_a_change_twice_is_applying_it_once(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    for _ in range(2):
        place.apply(source, target, upserts=[(1, 1), (2, 2)], deletes=[(3, 3)])
    assert place.rows(target) == [("1", "1"), ("2", "2")]


def test_a_composite_key_matches_on_all_its_columns(place: Place) -> None:
    source = table(
        column("v", K.INTEGER, "int", length=32),
        column("b", K.TEXT, "varchar(40)", length=40, is_nullable=False),
        column("a", K.INTEGER, "bigint unsigned", length=64, is_nullable=False),
        key=("a", "b"),
    )
    target = place.create(source)
    texts = [text for text in HOSTILE_TEXTS if "\0" not in text and text != " "]
    rows = [(1, text, a) for text in texts for a in (0, 2**64 - 1)]
    place.load(source, target, rows)

    result = place.apply(source, target, deletes=[row for row in rows if row[2] == 0])

    assert result.deleted == len(texts)
    left = [row for row in rows if row[2] != 0]
    assert place.rows(target) == canonical_rows(rows_of(source, left), target, place)


def test_a_table_of_nothing_but_its_key(place: Place) -> None:
    source = table(ID, column("k", K.INTEGER, "int", length=32, is_nullable=False), key=("id", "k"))
    target = place.create(source)
    for _ in range(2):
        place.apply(source, target, upserts=[(1, 1), (1, 2)])
    place.apply(source, target, deletes=[(1, 1)])
    assert place.rows(target) == [("1", "2")]


def test_values_of_a_unique_column_are_swapped(place: Place) -> None:
    """EDGE_CASES E4: row by row, the first update would meet the other row's value."""
    source = table(ID, column("u", K.INTEGER, "int", length=32), INT)
    target = place.create(source)
    place.execute(f"CREATE UNIQUE INDEX u ON {place.table('t')} ({place.quoted('u')})")
    place.load(source, target, [(1, 10, 1), (2, 20, 2), (3, 30, 3), (4, 40, 4)])

    result = place.apply(source, target, upserts=[(1, 20, 1), (2, 30, 2), (3, 10, 3)])

    assert result.upserted == 3
    assert place.rows(target) == [("1", "20", "1"), ("2", "30", "2"), ("3", "10", "3"), ("4", "40", "4")]


def test_an_upsert_never_rewrites_another_row_that_has_its_unique_value(place: Place) -> None:
    """EDGE_CASES E5: ON DUPLICATE KEY UPDATE would have changed row 2."""
    source = table(ID, column("u", K.INTEGER, "int", length=32), INT)
    target = place.create(source)
    place.execute(f"CREATE UNIQUE INDEX u ON {place.table('t')} ({place.quoted('u')})")
    place.load(source, target, [(1, 10, 1), (2, 20, 2)])

    with pytest.raises(SinkRefused) as caught:
        place.apply(source, target, upserts=[(4, 40, 4), (3, 20, 3), (5, 50, 5)])

    assert caught.value.key == "id=3"
    assert place.rows(target) == [("1", "10", "1"), ("2", "20", "2")]


def test_a_unique_index_made_while_the_sink_is_open_counts_at_once(place: Place) -> None:
    source = table(ID, column("u", K.INTEGER, "int", length=32))
    target = place.create(source)
    place.apply(source, target, upserts=[(1, 10), (2, 20)])
    other = place.another()
    other.open()
    with other.transaction() as transaction:
        transaction.execute(f"CREATE UNIQUE INDEX u ON {place.table('t')} ({place.quoted('u')})")
        transaction.commit()
    other.close()

    place.apply(source, target, upserts=[(1, 20), (2, 10)])

    assert place.rows(target) == [("1", "20"), ("2", "10")]


def test_a_key_that_changes_only_its_case_ends_in_its_new_spelling(place: Place) -> None:
    """EDGE_CASES E9: the change comes as a delete of 'a' and an upsert of 'A'."""
    source = table(column("k", K.TEXT, "varchar(9)", length=9, is_nullable=False), INT, key=("k",))
    target = place.create(source)
    place.load(source, target, [("a", 1), ("b", 1)])

    place.apply(source, target, deletes=[("a", 1)], upserts=[("A", 2)])
    place.apply(source, target, upserts=[("A", 3)])

    assert place.rows(target) == [("A", "3"), ("b", "1")]


def test_keys_that_are_two_at_the_source_stay_two_on_another_server(place: Place) -> None:
    """NO PAD and case-sensitive at the source, and the sink's default collation may be neither."""
    flavor: Any = "mariadb" if place.sink.kind == "mysql" else "mysql"
    collation = "utf8mb4_uca1400_nopad_as_cs" if flavor == "mariadb" else "utf8mb4_0900_as_cs"
    source = table(
        column("k", K.TEXT, "varchar(9)", length=9, is_nullable=False, collation=collation),
        INT,
        key=("k",),
        flavor=flavor,
    )
    target = place.create(source)
    keys = ["a", "A", "a ", "á", "ß", "ss"]
    place.load(source, target, [(key, index) for index, key in enumerate(keys)])

    place.apply(source, target, deletes=[("a", 0), ("ss", 5)])

    assert {row[0] for row in place.rows(target)} == {"A", "a ", "á", "ß"}


def test_clear_empties_the_table_only_with_the_commit(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    place.load(source, target, [(1, 1), (2, 2)])
    with place.sink.transaction() as transaction:
        assert transaction.clear(target) == 2
    assert len(place.rows(target)) == 2
    with place.sink.transaction() as transaction:
        transaction.clear(target)
        transaction.commit()
    assert place.rows(target) == []


def test_many_rows_are_deleted_and_upserted_over_several_statements(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.create(source)
    rows = [(index, f"text {index}") for index in range(6000)]
    place.load(source, target, rows)

    result = place.apply(source, target, deletes=rows[:2500], upserts=[(index, "new") for index in range(2500, 8500)])

    assert (result.deleted, result.upserted) == (2500, 6000)
    found = place.rows(target)
    assert len(found) == 6000
    assert {row[1] for row in found} == {"new"}


def test_deletes_use_the_primary_key_instead_of_a_scan(mysql_place: Place) -> None:
    """Rows read by the deletes of 500 keys in a table of 6000, by the server's own counters."""
    source = table(ID, column("b", K.TEXT, "varchar(9)", length=9, is_nullable=False), key=("id", "b"))
    target = mysql_place.create(source)
    rows = [(index, f"k{index % 3}") for index in range(6000)]
    mysql_place.load(source, target, rows)
    assert isinstance(mysql_place.sink, MysqlSink)
    mysql_place.sink.run("FLUSH STATUS")

    mysql_place.apply(source, target, deletes=rows[::12])

    counters = dict(mysql_place.sink.run("SHOW SESSION STATUS LIKE 'Handler_read%'").fetchall())
    assert int(counters["Handler_read_rnd_next"]) < 2000  # the staged keys, twice, and information_schema


def test_the_hook_is_called_around_each_statement_that_changes_rows(place: Place) -> None:
    points: list[str] = []
    source = table(ID, INT)
    target = place.create(source)
    sink = place.another(hook=points.append)
    sink.open()
    with sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, 1)], deletes=[(2, 2)]), target)
        assert points == ["before_statement", "after_statement"] * 2
        points.clear()
        transaction.load(rows_of(source, [(5, 5)]), target)
        assert points == ["before_statement", "after_statement"]
        transaction.execute("SELECT 1")
        transaction.commit()
    sink.close()
    assert points == ["before_statement", "after_statement"]


# ---------------------------------------------------------------- what is refused


def refused(place: Place, source: TableDefinition, target: TargetTable, rows: Sequence[Sequence[Any]]) -> SinkRefused:
    """The same refusal from apply and from load; nothing is left behind."""
    with pytest.raises(SinkRefused) as by_load:
        place.load(source, target, rows)
    with pytest.raises(SinkRefused) as by_apply:
        place.apply(source, target, deletes=rows[:1], upserts=rows)  # so that lines and rows are numbered differently
    assert by_apply.value.key == by_load.value.key
    assert by_apply.value.table == by_load.value.table == "shop.t"
    assert place.rows(target) == []
    return by_apply.value


def test_a_text_too_long_for_the_sinks_own_table_is_refused_with_its_key(place: Place) -> None:
    source = table(ID, TEXT)
    target = place.target(source)
    place.execute(f"CREATE TABLE {place.table('t')} (id int PRIMARY KEY, v varchar(3))")
    rows = [(index, "abc") for index in range(50)] + [(50, "abcd"), (51, "ab"), (52, "abcde")]

    error = refused(place, source, target, rows)

    assert error.key == "id=50"
    assert error.hint
    if place.sink.kind != "postgresql":
        assert error.column == "v"


def test_a_null_where_the_sink_wants_a_value_is_refused_with_key_and_column(place: Place) -> None:
    source = table(ID, INT)
    target = place.target(source)
    place.execute(f"CREATE TABLE {place.table('t')} (id int PRIMARY KEY, v int NOT NULL)")

    error = refused(place, source, target, [(1, 1), (2, None), (3, 3)])

    assert (error.key, error.column) == ("id=2", "v")


def test_a_value_that_the_type_refuses_names_its_column(pg_place: Place) -> None:
    source = table(ID, column("j", K.JSON, "longtext"), flavor="mariadb")
    target = pg_place.create(source)

    error = refused(pg_place, source, target, [(1, "{}"), (2, "not json"), (3, "[]")])

    assert (error.key, error.column) == ("id=2", "j")


def test_a_refusal_in_a_later_batch_of_a_change_names_its_row(pg_place: Place) -> None:
    source = table(ID, column("v", K.TEXT, "varchar(2000)", length=2000))
    target = pg_place.target(source)
    pg_place.execute(f"CREATE TABLE {pg_place.table('t')} (id int PRIMARY KEY, v varchar(1000))")
    first = change_of(source, deletes=[(1, "a")], upserts=[(index, "x" * 1000) for index in range(2, 5000)])
    second = change_of(source, deletes=[(6001, "a")], upserts=[(7000, "y" * 1000), (7001, "z" * 1001), (7002, "z")])
    change = replace(
        first,
        batches=first.batches + second.batches,
        upserts=first.upserts + second.upserts,
        deletes=first.deletes + second.deletes,
    )
    with pg_place.sink.transaction() as transaction, pytest.raises(SinkRefused) as caught:
        transaction.apply(change, target)
    assert caught.value.key == "id=7001"
    assert pg_place.rows(target) == []


def test_a_check_of_the_sink_is_refused_with_its_key(place: Place) -> None:
    source = table(ID, INT)
    target = place.target(source)
    place.execute(f"CREATE TABLE {place.table('t')} (id int PRIMARY KEY, v int, CONSTRAINT small CHECK (v < 10))")

    assert refused(place, source, target, [(1, 1), (2, 10), (3, 3)]).key == "id=2"


def test_a_value_that_mysql_would_merely_round_is_refused(mysql_place: Place) -> None:
    """A note, not even a warning: DECIMAL(5,1) would keep 1.3 of 1.25 (EDGE_CASES E17)."""
    source = table(ID, column("v", K.DECIMAL, "decimal(5,2)", precision=5, scale=2))
    target = mysql_place.target(source)
    mysql_place.execute(f"CREATE TABLE {mysql_place.table('t')} (id int PRIMARY KEY, v decimal(5,1))")

    error = refused(mysql_place, source, target, [(1, None), (2, Decimal("1.25"))])

    assert (error.key, error.column) == ("id=2", "v")


def test_an_error_member_lets_no_other_value_pass_unstrictly(mysql_place: Place) -> None:
    source = table(ID, column("e", K.ENUM, "enum('a')", members=("a",)), INT)
    target = mysql_place.target(source)
    mysql_place.execute(f"CREATE TABLE {mysql_place.table('t')} (id int PRIMARY KEY, e enum('a'), v tinyint)")

    error = refused(mysql_place, source, target, [(1, 0, 1), (2, 0, 300)])

    assert (error.key, error.column) == ("id=2", "v")
    mysql_place.load(source, target, [(1, 0, 1)])  # and the session is strict again:
    with pytest.raises(SinkRefused):
        mysql_place.load(source, target, [(2, 1, 300)])


def test_a_row_over_max_allowed_packet_is_refused_with_the_setting_that_mends_it(
    mysql_place: Place, small_packets: None
) -> None:
    source = table(ID, column("b", K.BLOB, "longblob"))
    target = mysql_place.create(source)

    error = refused(mysql_place, source, target, [(1, b"x"), (2, b"x" * (64 << 10))])

    assert error.key == "id=2"
    assert "max_allowed_packet" in error.hint


def test_rows_are_spread_over_statements_that_fit_the_packet(mysql_place: Place, small_packets: None) -> None:
    source = table(ID, column("b", K.BLOB, "longblob"))
    target = mysql_place.create(source)
    rows = [(index, bytes([index]) * 20_000) for index in range(20)]

    mysql_place.apply(source, target, upserts=rows)

    assert mysql_place.rows(target) == canonical_rows(rows_of(source, rows), target, mysql_place)


def test_a_blob_of_megabytes_comes_back(place: Place) -> None:
    source = table(ID, column("b", K.BLOB, "longblob"))
    target = place.create(source)
    rows = [(1, bytes(range(256)) * 4096 * 4), (2, b"")]
    place.apply(source, target, upserts=rows)
    assert place.rows(target) == canonical_rows(rows_of(source, rows), target, place)


def test_json_deeper_than_mariadb_checks_is_refused(mariadb118: Server, database: Callable[[Server], str]) -> None:
    with place_on(mariadb118, database(mariadb118)) as place:
        source = table(ID, column("j", K.JSON, "json"))
        target = place.create(source)
        assert refused(place, source, target, [(1, "[]"), (2, "[" * 100 + "]" * 100)]).key == "id=2"


def test_text_that_is_no_utf8_is_refused_by_postgresql(pg_place: Place) -> None:
    source = table(ID, TEXT)
    target = pg_place.create(source)
    with pytest.raises(UnsupportedData, match="not valid UTF-8") as caught:
        pg_place.load(source, target, [(1, "é"), (2, b"\xed\xa0\x80")])
    assert (caught.value.column, caught.value.key) == ("v", "id=2")


def test_text_that_is_no_utf8_reaches_mariadb_as_it_is_and_is_refused_by_mysql(mysql_place: Place) -> None:
    source = table(ID, TEXT)
    target = mysql_place.create(source)
    rows = [(1, "é"), (2, b"\xed\xa0\x80")]
    if mysql_place.sink.kind == "mysql":
        assert refused(mysql_place, source, target, rows).key == "id=2"
    else:
        mysql_place.load(source, target, rows)
        assert mysql_place.rows(target) == canonical_rows(rows_of(source, rows), target, mysql_place)


# ---------------------------------------------------------------- names (G1, E21-E23)

HOSTILE_NAMES = (
    "a`; DROP TABLE x;--",
    'a"; DROP TABLE x;--',
    "%s%%d",
    "T1",
    "back\\slash",
    "it's",
    "1",
    "$",
    "select",
    "表",
    " a  b",
    "{x}",
    "#c/*",
)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_only_a_name(place: Place, name: str) -> None:
    key = column(name, K.INTEGER, "int", length=32, is_nullable=False)
    values = [column(f"{n}_{other}", K.INTEGER, "int", length=32) for n, other in enumerate(HOSTILE_NAMES)]
    source = table(key, *values, key=(name,), name=name)
    target = place.create(source)
    existing = place.sink.inspect(target)
    assert existing is not None
    assert place.sink.differences(target, existing) == []
    wide = (0,) * len(values)

    place.load(source, target, [(1, *wide), (2, *wide)])
    place.apply(source, target, upserts=[(2, *wide), (3, *wide)], deletes=[(1, *wide)])

    assert [row[0] for row in place.rows(target)] == ["2", "3"]
    assert str(target) in place.sink.estimated_rows([target])
    place.sink.drop_table(target)
    assert place.sink.inspect(target) is None


@pytest.mark.parametrize("suffix", ["`x", '"x', "%s", "é", "'x"])
def test_a_hostile_namespace_is_only_a_name(request: pytest.FixtureRequest, suffix: str) -> None:
    for name in ("pg17", "mysql97", "mariadb1011"):
        server: Server = request.getfixturevalue(name)
        namespace = unique_name() + suffix
        database = "postgres" if server.family == "postgresql" else namespace
        if server.family == "postgresql":
            database = unquote(urlsplit(server.url).path.lstrip("/")) or "postgres"
        with place_on(server, database, namespace) as place:
            try:
                source = table(ID, INT)
                target = place.create(source)
                place.load(source, target, [(1, 1)])
                assert place.rows(target) == [("1", "1")]
                place.sink.create_metadata_namespace()
                checkpoint = place.sink.metadata_table("test_" + unique_name())
                with place.sink.transaction() as transaction:
                    transaction.execute(f"CREATE TABLE {checkpoint} (a int PRIMARY KEY, b varchar(20))")
                    transaction.commit()
                with place.sink.transaction() as transaction:
                    transaction.execute(f"INSERT INTO {checkpoint} VALUES (%s, '100%%')", (1,))
                    assert transaction.execute(f"SELECT b FROM {checkpoint} WHERE b = '100%%'") == [("100%",)]
                    assert transaction.execute_count(f"UPDATE {checkpoint} SET b = b WHERE a = %s", (1,)) == 1
                    assert transaction.execute_count(f"UPDATE {checkpoint} SET b = b WHERE a = %s", (2,)) == 0
                    transaction.commit()
                with place.sink.transaction() as transaction:
                    transaction.execute(f"DROP TABLE {checkpoint}")
                    transaction.commit()
            finally:
                kind = "SCHEMA" if server.family == "postgresql" else "DATABASE"
                cascade = " CASCADE" if server.family == "postgresql" else ""
                place.execute(f"DROP {kind} {place.quoted(namespace).replace('%', '%%')}{cascade}")


# ---------------------------------------------------------------- definitions


def test_a_table_of_every_type_fits_what_was_made_of_it(place: Place) -> None:
    for flavor, values in (("mysql", MYSQL_VALUES), ("mariadb", MARIADB_VALUES)):
        columns = []
        for index, (name, (definition, _)) in enumerate(values.items()):
            if (place.server.kind.name, flavor, name) == ("mariadb1011", "mariadb", "vector"):
                continue
            columns.append(replace_name(definition, f"c{index}"))
            columns.append(replace_name(definition, f"n{index}", is_nullable=False))
        source = table(ID, *columns, name=f"every_{flavor}", flavor=flavor)  # type: ignore[arg-type]  # a literal
        target = place.create(source)
        existing = place.sink.inspect(target)
        assert existing is not None
        assert place.sink.differences(target, existing) == []
        assert existing.primary_key == ("id",)
        assert not existing.has_rows


def replace_name(definition: ColumnDefinition, name: str, **more: Any) -> ColumnDefinition:
    fields = {field: getattr(definition, field) for field in definition.__slots__}
    return ColumnDefinition(**{**fields, "name": name, **more})


def test_a_missing_table_is_none(place: Place) -> None:
    assert place.sink.inspect(place.target(table(ID))) is None


@pytest.mark.parametrize(
    "postgresql,mysql,said",
    [
        ("id int PRIMARY KEY, v int", "id int PRIMARY KEY, v int", None),
        ("id bigint PRIMARY KEY, v numeric(12)", "id bigint PRIMARY KEY, v bigint", None),
        ("id int PRIMARY KEY, v int, extra int", "id int PRIMARY KEY, v int, extra int", None),
        (
            "id int PRIMARY KEY, v int, x int NOT NULL DEFAULT 1",
            "id int PRIMARY KEY, v int, x int NOT NULL DEFAULT 1",
            None,
        ),
        (
            "id int PRIMARY KEY, v int, x int NOT NULL",
            "id int PRIMARY KEY, v int, x int NOT NULL",
            "column x is NOT NULL",
        ),
        ("id int PRIMARY KEY", "id int PRIMARY KEY", "no column v"),
        ("id int PRIMARY KEY, v smallint", "id int PRIMARY KEY, v smallint", "column v is smallint"),
        ("id int PRIMARY KEY, v text", "id int PRIMARY KEY, v text", "column v is text"),
        ("id int PRIMARY KEY, v int NOT NULL", "id int PRIMARY KEY, v int NOT NULL", "NULL may come"),
        ("id int, v int PRIMARY KEY", "id int, v int PRIMARY KEY", "primary key is v"),
        ("id int, v int", "id int, v int", "primary key is missing"),
        ("id int, v int, PRIMARY KEY (id, v)", "id int, v int, PRIMARY KEY (id, v)", "primary key is id, v"),
        (
            "id int PRIMARY KEY, v int GENERATED ALWAYS AS (id) STORED",
            "id int PRIMARY KEY, v int GENERATED ALWAYS AS (id) STORED",
            "column v is generated",
        ),
    ],
)
def test_an_existing_table_is_used_or_its_differences_are_named(
    place: Place, postgresql: str, mysql: str, said: str | None
) -> None:
    target = place.target(table(ID, INT))
    place.execute(f"CREATE TABLE {place.table('t')} ({postgresql if place.sink.kind == 'postgresql' else mysql})")
    existing = place.sink.inspect(target)
    assert existing is not None
    differences = place.sink.differences(target, existing)
    if said is None:
        assert differences == []
        place.apply(table(ID, INT), target, upserts=[(1, 1)])
    else:
        assert any(said in difference for difference in differences), differences


def test_triggers_are_a_difference(place: Place) -> None:
    target = place.create(table(ID, INT))
    if place.sink.kind == "postgresql":
        function = place.table("f")
        place.execute(f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        place.execute(
            f"CREATE TRIGGER tr BEFORE INSERT ON {place.table('t')} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    else:
        place.execute(
            f"CREATE TRIGGER {place.table('tr')} BEFORE INSERT ON {place.table('t')} FOR EACH ROW SET NEW.v = 1"
        )
    existing = place.sink.inspect(target)
    assert existing is not None
    assert place.sink.differences(target, existing) == ["it has the trigger tr"]


def test_an_engine_without_transactions_is_a_difference(mysql_place: Place) -> None:
    target = mysql_place.target(table(ID, INT))
    mysql_place.execute(f"CREATE TABLE {mysql_place.table('t')} (id int PRIMARY KEY, v int) ENGINE=MyISAM")
    existing = mysql_place.sink.inspect(target)
    assert existing is not None
    assert mysql_place.sink.differences(target, existing) == ["its engine MyISAM has no transactions"]


@pytest.mark.parametrize(
    "existing,source,fits",
    [
        ("double(10,2)", "double(10,2)", True),
        ("double(10,2)", "double", False),
        ("double(10,2)", "double(10,3)", False),
        ("double(30,15)", "double(30,15)", False),
        ("double", "double(30,15)", True),
    ],
)
def test_a_column_that_rounds_is_a_difference_unless_it_rounds_as_the_source(
    mysql_place: Place, existing: str, source: str, fits: bool
) -> None:
    """Reading DOUBLE(30,15) and writing it back changed the last bit of some values on every server."""
    target = mysql_place.target(table(ID, column("d", K.DOUBLE, source)))
    mysql_place.execute(f"CREATE TABLE {mysql_place.table('t')} (id int PRIMARY KEY, d {existing})")
    found = mysql_place.sink.inspect(target)
    assert found is not None
    assert (mysql_place.sink.differences(target, found) == []) is fits


def test_a_view_is_no_table(place: Place) -> None:
    target = place.target(table(ID, INT))
    place.execute(f"CREATE VIEW {place.table('t')} AS SELECT 1 AS id, 1 AS v")
    existing = place.sink.inspect(target)
    assert existing is not None
    assert "table" in place.sink.differences(target, existing)[0]


def test_a_key_under_a_looser_collation_is_a_difference(mysql_place: Place) -> None:
    source = table(column("k", K.TEXT, "varchar(9)", length=9, collation="utf8mb4_bin"), key=("k",))
    target = mysql_place.target(source)
    mysql_place.execute(f"CREATE TABLE {mysql_place.table('t')} (k varchar(9) PRIMARY KEY) CHARSET utf8mb4")
    existing = mysql_place.sink.inspect(target)
    assert existing is not None
    assert "column k is" in mysql_place.sink.differences(target, existing)[0]


@pytest.mark.parametrize("clause", ["", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED", "ON DELETE CASCADE DEFERRABLE"])
def test_a_foreign_key_on_postgresql_is_a_difference(pg_place: Place, clause: str) -> None:
    """A load commits one table after the other, in no order that a foreign key would hold for."""
    parents, children = table(ID, name="p"), table(ID, column("P", K.INTEGER, "int", length=32), name="C")
    parent, child = pg_place.create(parents), pg_place.create(children)
    statement = f'ALTER TABLE {pg_place.namespace}."C" DROP CONSTRAINT "Fk"'
    pg_place.execute(
        f'ALTER TABLE {pg_place.table("C")} ADD CONSTRAINT "Fk" FOREIGN KEY ("P") REFERENCES {pg_place.table("p")} '
        f"{clause}"
    )
    for target, said in (
        (parent, f"the foreign key Fk of {pg_place.namespace}."),
        (child, "it has the foreign key Fk"),
    ):
        existing = pg_place.sink.inspect(target)
        assert existing is not None
        (problem,) = pg_place.sink.differences(target, existing)
        assert problem.startswith(said)
        assert problem.endswith(statement)
    pg_place.execute(statement)
    for target in (parent, child):
        existing = pg_place.sink.inspect(target)
        assert existing is not None
        assert pg_place.sink.differences(target, existing) == []


def test_a_foreign_key_to_its_own_table_is_one_difference(pg_place: Place) -> None:
    target = pg_place.create(table(ID, INT))
    pg_place.execute(
        f"ALTER TABLE {pg_place.table('t')} ADD CONSTRAINT fk FOREIGN KEY (v) REFERENCES {pg_place.table('t')}"
    )
    existing = pg_place.sink.inspect(target)
    assert existing is not None
    assert len(existing.problems) == 1


def test_a_commit_that_a_deferred_constraint_refuses_names_its_table(pg_place: Place) -> None:
    """Retrying would meet the constraint again and again."""
    parents, children = table(ID, name="p"), table(ID, INT, name="c")
    parent, child = pg_place.create(parents), pg_place.create(children)
    pg_place.execute(
        f"ALTER TABLE {pg_place.table('c')} ADD CONSTRAINT fk FOREIGN KEY (v) REFERENCES {pg_place.table('p')} "
        "DEFERRABLE, ADD CONSTRAINT uq UNIQUE (v) DEFERRABLE"
    )

    def refusal(*changes: tuple[TableDefinition, TargetTable, dict[str, Any]]) -> SinkRefused:
        with pg_place.sink.transaction() as tx:
            for source, target, rows in changes:
                tx.apply(change_of(source, **rows), target)
            with pytest.raises(SinkRefused, match="the commit was refused") as caught:
                tx.commit()
        assert "DROP CONSTRAINT" in caught.value.hint
        return caught.value

    parent_rows = (parents, parent, {"upserts": [(7,)]})
    assert refusal((children, child, {"upserts": [(1, 8)]}), parent_rows).table == "shop.c"
    refused_twice = refusal(parent_rows, (children, child, {"upserts": [(1, 7), (2, 7)]}))
    assert refused_twice.table == "shop.c"
    assert '"uq"' in refused_twice.hint
    pg_place.apply(parents, parent, upserts=[(7,)])
    pg_place.apply(children, child, upserts=[(1, 7)])
    other = pg_place.create(table(ID, name="o"))
    gone = refusal((table(ID, name="o"), other, {"upserts": [(1,)]}), (parents, parent, {"deletes": [(7,)]}))
    assert gone.table == "shop.p"  # whose deletion it was
    assert (pg_place.rows(parent), pg_place.rows(child)) == ([("7",)], [("1", "7")])


def test_foreign_keys_do_not_matter_on_mysql(mysql_place: Place) -> None:
    parents, children = table(ID, name="p"), table(ID, column("p", K.INTEGER, "int", length=32), name="c")
    parent, child = mysql_place.create(parents), mysql_place.create(children)
    mysql_place.execute(
        f"ALTER TABLE {mysql_place.table('c')} ADD FOREIGN KEY (p) REFERENCES {mysql_place.table('p')} (id) "
        "ON DELETE CASCADE"
    )
    mysql_place.apply(children, child, upserts=[(1, 7)])
    mysql_place.apply(parents, parent, upserts=[(7,)])
    mysql_place.apply(parents, parent, deletes=[(7,)])
    assert mysql_place.rows(child) == [("1", "7")]


def test_a_table_that_a_view_needs_is_not_dropped(pg_place: Place) -> None:
    target = pg_place.create(table(ID))
    pg_place.execute(f"CREATE VIEW {pg_place.table('w')} AS SELECT * FROM {pg_place.table('t')}")
    with pytest.raises(SinkRefused, match="other objects depend on it"):
        pg_place.sink.drop_table(target)
    assert pg_place.sink.inspect(target) is not None


def test_a_row_too_wide_for_postgresql_is_refused_with_its_key(pg_place: Place) -> None:
    """EDGE_CASES E27: 800 columns of DECIMAL(20,4) fit both source servers."""
    columns = [column(f"c{n}", K.DECIMAL, "decimal(20,4)", precision=20, scale=4) for n in range(1000)]
    source = table(ID, *columns)
    target = pg_place.create(source)
    wide = (Decimal("1234567890123456.1234"),) * 1000
    assert refused(pg_place, source, target, [(1, *(None,) * 1000), (2, *wide)]).key == "id=2"


def test_a_key_too_wide_for_postgresqls_index_is_refused_with_its_key(pg_place: Place) -> None:
    """EDGE_CASES E28."""
    source = table(column("k", K.TEXT, "varchar(3000)", length=3000, is_nullable=False), key=("k",))
    target = pg_place.create(source)
    wide = "".join(chr(0x4E00 + (n * 7919) % 20000) for n in range(3000))  # does not compress below the limit
    error = refused(pg_place, source, target, [("a",), (wide,)])
    assert error.key is not None
    assert error.key.startswith("k='")
    assert len(error.key) < 100


def test_estimates_are_numbers_or_unknown(place: Place) -> None:
    target = place.create(table(ID))
    place.load(table(ID), target, [(n,) for n in range(100)])
    place.execute(f"ANALYZE {'' if place.sink.kind == 'postgresql' else 'TABLE '}{place.table('t')}")
    missing = target_of(table(ID, name="missing"), place.sink.kind, place.namespace)
    estimates = place.sink.estimated_rows([target, missing])
    assert estimates[str(missing)] is None
    assert estimates[str(target)] == pytest.approx(100, abs=10)


def test_reading_can_be_left_in_the_middle(place: Place) -> None:
    source = table(ID)
    target = place.create(source)
    place.load(source, target, [(n,) for n in range(50)])
    batches = place.sink.read_rows(target, batch_rows=10)
    assert len(next(batches)) == 10
    batches.close()  # type: ignore[attr-defined]  # a generator
    place.apply(source, target, deletes=[(0,)])
    assert len(place.rows(target)) == 49


def test_a_read_of_mysql_that_is_left_does_not_read_the_rest(mysql_place: Place) -> None:
    source = table(ID)
    target = mysql_place.create(source)
    mysql_place.load(source, target, [(n,) for n in range(50)])
    session = mysql_place.sink.session()
    batches = mysql_place.sink.read_rows(target, batch_rows=10)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert not mysql_place.sink.is_open()
    assert len(mysql_place.rows(target)) == 50
    assert mysql_place.sink.session() != session


# ---------------------------------------------------------------- transactions and sessions


def test_what_is_not_committed_is_rolled_back(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    with place.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, 1)]), target)
    place.apply(source, target, upserts=[(2, 2)])  # also where the staging tables went with the rollback
    assert place.rows(target) == [("2", "2")]


def test_rows_and_checkpoint_commit_together(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    place.sink.create_metadata_namespace()
    name = unique_name("test")
    place.execute(f"CREATE TABLE {place.sink.metadata_table(name)} (p int PRIMARY KEY, v varchar(20))")
    checkpoint = place.sink.metadata_table(name)
    with place.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, 1)]), target)
        assert transaction.execute_count(f"INSERT INTO {checkpoint} VALUES (%s, %s)", (1, "it's \\ %s")) == 1
    assert (place.rows(target), place.execute(f"SELECT * FROM {checkpoint}")) == ([], [])
    with place.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, 1)]), target)
        transaction.execute(f"INSERT INTO {checkpoint} VALUES (%s, %s)", (1, "it's \\ %s"))
        transaction.commit()
    assert (place.rows(target), place.execute(f"SELECT * FROM {checkpoint}")) == ([("1", "1")], [(1, "it's \\ %s")])
    place.execute(f"DROP TABLE {checkpoint}")


def test_a_transaction_is_over_after_its_commit(place: Place) -> None:
    with place.sink.transaction() as transaction:
        transaction.commit()
        with pytest.raises(InvariantBroken):
            transaction.execute("SELECT 1")


def kill_from_outside(place: Place) -> None:
    number = int(place.sink.session().partition("/")[0])
    if place.sink.kind == "postgresql":
        place.server.execute(f"SELECT pg_terminate_backend({number})")
    else:
        place.server.execute(f"KILL {number}")
    other = place.another()
    other.open()
    wait_until(lambda: other.is_session_alive(place.sink.session()) is False, what="the session's end")
    other.close()


def test_a_lost_connection_is_sink_unavailable_and_the_commits_outcome_is_not_known(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    with place.sink.transaction() as transaction:
        transaction.apply(change_of(source, upserts=[(1, 1)]), target)
        kill_from_outside(place)
        with pytest.raises(SinkUnavailable, match="not known"):
            transaction.commit()
    place.sink.open()
    assert place.rows(target) == []
    place.apply(source, target, upserts=[(1, 1)])
    with place.sink.transaction() as transaction:
        kill_from_outside(place)
        with pytest.raises(SinkUnavailable):
            transaction.apply(change_of(source, upserts=[(2, 2)]), target)
    with pytest.raises(SinkUnavailable):
        place.sink.ping()
    place.sink.open()
    place.sink.ping()


def test_a_session_is_known_to_live_until_it_ends(place: Place) -> None:
    other = place.another()
    other.open()
    session = other.session()
    assert session != place.sink.session()
    assert place.sink.is_session_alive(session) is True
    assert place.sink.is_session_alive("garbage") is None
    place.sink.kill_session(session)
    wait_until(lambda: place.sink.is_session_alive(session) is False, what="the session's end")
    place.sink.kill_session(session)
    with pytest.raises(SinkUnavailable):
        other.ping()
    other.close()


def test_a_session_number_that_is_used_again_is_another_session(place: Place) -> None:
    number = place.sink.session().partition("/")[0]
    stamp = "1" if place.sink.kind == "postgresql" else "_cdc_0123456789abcdef"
    assert place.sink.is_session_alive(f"{number}/{stamp}") is False


def test_cancel_aborts_the_statement_that_runs(place: Place) -> None:
    begun = threading.Event()

    def cancel() -> None:
        begun.wait()
        watcher = place.another()
        watcher.open()
        number = place.sink.session().partition("/")[0]
        query = (
            f"SELECT 1 FROM pg_stat_activity WHERE pid = {number} AND wait_event = 'PgSleep'"
            if place.sink.kind == "postgresql"
            else f"SELECT 1 FROM information_schema.PROCESSLIST WHERE id = {number} AND state = 'User sleep'"
        )

        def is_asleep() -> bool:
            with watcher.transaction() as transaction:
                return bool(transaction.execute(query))

        wait_until(is_asleep, what="the statement to run")
        watcher.close()
        place.sink.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    sleep = "SELECT pg_sleep(60)" if place.sink.kind == "postgresql" else "SELECT sleep(60), t.a FROM (SELECT 1 AS a) t"
    with contextlib.suppress(SinkUnavailable), place.sink.transaction() as transaction:
        begun.set()
        # MySQL's sleep() returns 1 when it is interrupted, instead of an error.
        assert transaction.execute(sleep)[0][0] == 1
    thread.join()
    place.sink.ping()


def test_cancel_does_not_wait_for_a_server_that_does_not_answer(place: Place) -> None:
    """A listener that takes connections and says nothing stands for the server that hangs."""
    sink = place.another()
    sink.open()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink._settings = replace(sink._settings, host="127.0.0.1", port=silent.getsockname()[1])
        sleep = "SELECT pg_sleep(30)" if sink.kind == "postgresql" else "SELECT sleep(30)"
        seconds: list[float] = []

        def cancel() -> None:
            time.sleep(0.3)
            began = time.monotonic()
            sink.cancel()
            seconds.append(time.monotonic() - began)

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(SinkUnavailable), sink.transaction() as transaction:
            transaction.execute(sleep)
        thread.join()
    assert seconds[0] < 4
    sink.close()


def test_a_statement_over_its_time_is_sink_unavailable(place: Place) -> None:
    sink = place.another(statement_timeout_seconds=0.5)
    sink.open()
    endless = (
        "SELECT pg_sleep(30)"
        if place.sink.kind == "postgresql"
        else "SELECT SUM(a.ordinal_position * b.ordinal_position * c.ordinal_position) "
        "FROM information_schema.columns a, information_schema.columns b, information_schema.columns c"
    )
    with sink.transaction() as transaction, pytest.raises(SinkUnavailable):
        transaction.execute(endless)
    sink.close()


def test_a_deadlock_is_sink_unavailable(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    place.load(source, target, [(1, 1), (2, 2)])
    other = place.another()
    other.open()
    errors: list[CdcError] = []
    with place.sink.transaction() as mine, other.transaction() as theirs:
        mine.apply(change_of(source, upserts=[(1, 10)]), target)
        theirs.apply(change_of(source, upserts=[(2, 20)]), target)

        def wait_for_mine() -> None:
            try:
                theirs.apply(change_of(source, upserts=[(1, 11)]), target)
            except CdcError as error:
                errors.append(error)
                other.close()  # PostgreSQL keeps its locks until it hears of the end

        thread = threading.Thread(target=wait_for_mine)
        thread.start()
        try:
            mine.apply(change_of(source, upserts=[(2, 12)]), target)
        except CdcError as error:
            errors.append(error)
            place.sink.close()
        thread.join()
    other.close()
    assert len(errors) == 1
    assert isinstance(errors[0], SinkUnavailable)


# ---------------------------------------------------------------- the border: who may what

PASSWORD = "s3cret:/@%27"


def account(place: Place, rights: Sequence[str] = ()) -> dict[str, Any]:
    """Settings for a new user with those rights and no others."""
    user = unique_name("u")
    place.users.append(user)
    if place.sink.kind == "postgresql":
        place.server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
    else:
        place.server.execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'")
    for right in rights:
        place.server.execute(f"GRANT {right} TO {user}" + ("" if place.sink.kind == "postgresql" else "@'%'"))
    return {"user": user, "password": PASSWORD}


def test_a_wrong_password_is_a_config_error_that_does_not_show_it(mysql_place: Place) -> None:
    sink = mysql_place.another(**{**account(mysql_place), "password": "wr0ng" + PASSWORD})
    with pytest.raises(ConfigError) as caught:
        sink.open()
    assert PASSWORD not in str(caught.value.to_dict())
    assert "user and password" in caught.value.hint
    assert not sink.is_open()


def test_a_role_that_does_not_exist_is_a_config_error(pg_place: Place) -> None:
    with pytest.raises(ConfigError) as caught:
        pg_place.another(user="nobody_of_that_name", password=PASSWORD).open()
    assert PASSWORD not in str(caught.value.to_dict())


def test_a_server_that_is_not_there_is_sink_unavailable(place: Place) -> None:
    with pytest.raises(SinkUnavailable) as caught:
        place.another(port=1, password=PASSWORD).open()
    assert PASSWORD not in str(caught.value.to_dict())
    assert not place.another(port=1).is_open()


def test_a_postgresql_database_that_is_missing_is_a_config_error_with_its_statement(pg_place: Place) -> None:
    with pytest.raises(ConfigError) as caught:
        pg_place.another(database='no"such').open()
    assert 'CREATE DATABASE "no""such"' in caught.value.hint


def test_a_mysql_database_that_is_missing_is_made(mysql_place: Place) -> None:
    name = unique_name()
    sink = mysql_place.another(database=name)
    sink.open()
    try:
        sink.create_metadata_namespace()
        sink.create_metadata_namespace()
        assert sink.metadata_table("checkpoint") == f"`{name}`.`_cdc_checkpoint`"
    finally:
        mysql_place.server.execute(f"DROP DATABASE {name}")
        sink.close()


def test_metadata_without_a_database_in_the_url_goes_to_one_of_its_own() -> None:
    sink = MysqlSink(MysqlSettings("s", "h", 1, "u"))
    assert sink.metadata_table("checkpoint") == "`_cdc`.`_cdc_checkpoint`"


def test_a_missing_right_is_a_config_error_with_its_grant(place: Place) -> None:
    source = table(ID, INT)
    target = place.create(source)
    is_postgres = place.sink.kind == "postgresql"
    schema = place.quoted(place.namespace)
    if is_postgres:  # the schema is in the test's own database, where the server's administrator does not look
        user = account(place)
        place.execute(f"GRANT USAGE ON SCHEMA {schema} TO {user['user']}")
    else:
        user = account(place, [f"SELECT ON {schema}.*"])
    sink = place.another(**user)
    sink.open()
    other = target_of(table(ID, name="new"), sink.kind, place.namespace)
    missing = unique_name()
    attempts: list[Callable[[], None]] = [
        lambda: sink.create_table(other),
        lambda: sink.create_namespace(missing),
        lambda: apply_once(sink, change_of(source, upserts=[(1, 1)]), target),
        lambda: apply_once(sink, change_of(source, deletes=[(1, 1)]), target),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "GRANT" in caught.value.hint
        assert user["user"] in caught.value.hint
    sink.create_namespace(place.namespace)  # exists: needs no right
    sink.close()


def apply_once(sink: AnySink, change: ChangeBatch, target: TargetTable) -> None:
    with sink.transaction() as transaction:
        transaction.apply(change, target)
        transaction.commit()


# ---------------------------------------------------------------- hostile servers

HOSTILE_MYSQL: dict[str, str | int | None] = {
    "sql_mode": "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "IGNORE_SPACE,HIGH_NOT_PRECEDENCE,PIPES_AS_CONCAT,REAL_AS_FLOAT",
    "default_time_zone": "-05:00",
    "explicit_defaults_for_timestamp": "OFF",
    "transaction_isolation": "SERIALIZABLE",
    "character_set_server": "latin1",
    "collation_server": "latin1_swedish_ci",
    "max_error_count": "0",
    "completion_type": "CHAIN",
    "autocommit": "1",
    "binlog_format": "STATEMENT",
    "max_allowed_packet": str(1 << 20),
}


@pytest.mark.parametrize("name", ["mysql97", "mariadb1011"])
def test_the_servers_defaults_do_not_matter(name: str, start_server: Callable[..., Server]) -> None:
    """EDGE_CASES E16, E17, D12, G2: every value through a server whose defaults are all against us."""
    with place_on(start_server(name, options=HOSTILE_MYSQL), unique_name()) as place:
        definitions = {n: d for n, d in MYSQL_VALUES.items() if n != "longtext"}
        for number, (definition, values) in enumerate(definitions.values()):
            source = table(
                ID,
                definition,
                column("first_timestamp", K.TIMESTAMP, "timestamp", is_nullable=False),
                column("second", K.TIMESTAMP, "timestamp"),
                name=f"t{number}",
            )
            target = place.create(source)
            rows = [(index, value, 1_000_000, None) for index, value in enumerate([*values, None])]
            expected = canonical_rows(rows_of(source, rows), target, place)
            place.load(source, target, rows)
            assert place.rows(target) == expected
            place.apply(source, target, upserts=rows, deletes=[(-1, None, 1, None)])
            assert place.rows(target) == expected
            existing = place.sink.inspect(target)
            assert existing is not None
            assert place.sink.differences(target, existing) == []


def test_the_roles_defaults_do_not_matter_on_postgresql(pg_place: Place) -> None:
    user = pg_place.quoted(account(pg_place, [pg_place.quoted("postgres")])["user"])
    for setting in (
        "timezone = 'America/New_York'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "search_path = 'nowhere'",
        "standard_conforming_strings = off",
        "default_transaction_isolation = 'serializable'",
        "client_encoding = 'LATIN1'",
    ):
        pg_place.server.execute(f"ALTER ROLE {user} SET {setting}")
    pg_place.execute(f"GRANT ALL ON SCHEMA {pg_place.quoted(pg_place.namespace)} TO {user}")
    sink = pg_place.another(user=user.strip('"'), password=PASSWORD)
    sink.open()
    mine = Place(sink, pg_place.server, pg_place.namespace, pg_place.settings)
    for number, (definition, values) in enumerate(MYSQL_VALUES.values()):
        source = table(ID, definition, name=f"t{number}")
        target = mine.create(source)
        rows = list(enumerate([*values, None]))
        mine.apply(source, target, upserts=rows)
        assert mine.rows(target) == canonical_rows(rows_of(source, rows), target, mine)
    sink.close()


def test_every_collation_of_a_source_becomes_one_that_the_sink_has(
    mysql97: Server, mariadb118: Server, mariadb1011: Server
) -> None:
    def collations(server: Server) -> set[str]:
        query = (
            "SELECT COLLATION_NAME FROM information_schema.COLLATIONS"
            if server.family == "mysql"
            else "SELECT FULL_COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY"
        )
        return {row[0] for row in server.execute(query)}

    for source, sink in ((mysql97, mariadb1011), (mysql97, mariadb118), (mariadb118, mysql97), (mariadb1011, mysql97)):
        known = collations(sink)
        for collation in collations(source) - {"binary"}:
            for is_key in (False, True):
                families: Any = (source.family, sink.family)
                charset, chosen = sink_collation(collation.split("_")[0], collation, *families, is_key=is_key)
                assert chosen in known, (collation, chosen)
                assert chosen.startswith(f"{charset}_")


def test_tls_is_used_where_it_is_asked_for(place: Place) -> None:
    sink = place.another(ssl_mode="required")
    try:
        sink.open()
    except ConfigError as error:
        assert "ssl" in (error.message + error.hint).lower()  # noqa: PT017 - a server without TLS is as good here
    else:
        sink.ping()
        sink.close()
    with pytest.raises((ConfigError, SinkUnavailable)):
        place.another(ssl_mode="verify_identity").open()
    disabled = place.another(ssl_mode="disabled")
    disabled.open()
    disabled.close()


def test_a_time_beyond_mysqls_range_is_refused_and_not_clipped(
    mysql97: Server, database: Callable[[Server], str]
) -> None:
    with place_on(mysql97, database(mysql97)) as place:
        source = table(ID, column("c", K.TIME, "time(6)", fraction_digits=6), flavor="mariadb")
        target = place.create(source)
        error = refused(place, source, target, [(1, micros(838, 59, 59)), (2, micros(838, 59, 59, 999_999))])
        assert (error.key, error.column) == ("id=2", "c")
