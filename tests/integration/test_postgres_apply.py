"""The three ways in which PostgreSQL's sink applies a change: each ends the same, and what is refused is named."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg2.extensions
import pyarrow as pa
import pytest

from cdc.demo.servers import Server
from cdc.errors import CdcError, InvariantBroken, SinkRefused, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, PartialUpdate, TableDefinition
from cdc.schema.mapping import rule_for
from cdc.schema.target import TargetTable
from cdc.sinks import apply_postgres, sql_postgres
from cdc.sinks.canonical import canonical_from_arrow
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from tests.support.databases import fresh_pg_database, unique_name
from tests.unit.sinks.builders import (
    HOSTILE_TEXTS,
    ID,
    MARIADB_VALUES,
    MYSQL_VALUES,
    K,
    change_of,
    column,
    rows_of,
    table,
    target_of,
)

pytestmark = pytest.mark.integration

INT = column("v", K.INTEGER, "int", length=32)
U = column("u", K.INTEGER, "int", length=32)
TEXT = column("w", K.TEXT, "varchar(100)", length=100)
PLAIN = table(ID, INT, TEXT)
UNIQUE = table(ID, U, TEXT)

Rows = Sequence[Sequence[Any]]


class RecordingCursor(psycopg2.extensions.cursor):
    """Says what is sent, a round trip each."""

    sent: list[str]

    def execute(self, query: Any, *parameters: Any) -> None:
        self.sent.append(query.decode() if isinstance(query, bytes) else str(query))
        super().execute(query, *parameters)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        self.sent.append(str(sql))
        super().copy_expert(sql, file, size)


@dataclass
class Here:
    """A sink and a schema of its own."""

    sink: PostgresSink
    namespace: str
    sent: list[str]

    def create(self, definition: TableDefinition, *more: str) -> TargetTable:
        target = target_of(definition, "postgresql", self.namespace)
        self.sink.create_table(target)
        for statement in more:
            self.execute(statement.replace("@", f'"{self.namespace}"."{target.name}"'))
        return target

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.sink.transaction() as transaction:
            rows = transaction.execute(statement)
            transaction.commit()
        return rows

    def apply(self, target: TargetTable, *changes: ChangeBatch) -> None:
        """All in one transaction."""
        with self.sink.transaction() as transaction:
            for change in changes:
                transaction.apply(change, target)
            transaction.commit()

    def put(self, target: TargetTable, rows: Rows) -> None:
        self.apply(target, change_of(target.definition, upserts=rows))

    def rows(self, target: TargetTable) -> list[tuple[Any, ...]]:
        return sorted(itertools.chain.from_iterable(self.sink.read_rows(target, batch_rows=1000)), key=repr)

    def ids(self, target: TargetTable) -> list[int]:
        return sorted(int(row[0]) for row in self.rows(target))


def make_sink(server: Server, database: str) -> PostgresSink:
    url = urlsplit(server.url)
    return PostgresSink(
        PostgresSettings(
            name="sink",
            host=url.hostname or "",
            port=url.port or 0,
            user=unquote(url.username or ""),
            password=unquote(url.password or ""),
            database=database,
        )
    )


# What libpq reads where it is not told otherwise.
ENVIRONMENT = {
    "PGHOST": "127.0.0.9",
    "PGHOSTADDR": "127.0.0.9",  # nobody listens there
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGPASSWORD": "wrong",
    "PGDATABASE": "nothing",
    "PGSERVICE": "nowhere",
    "PGSERVICEFILE": "/dev/null",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/dev/null/none.pem",
    "PGSSLCERT": "/dev/null/none.pem",
    "PGREQUIREAUTH": "none",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREPEER": "nobody",
    "PGCLIENTENCODING": "LATIN1",
    "PGTZ": "Nowhere/Nothing",
    "PGDATESTYLE": "none",
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_the_environment_leads_libpq_nowhere_else(pg15: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, ENVIRONMENT[name])
    sink = make_sink(pg15, "postgres")
    sink.open()
    try:
        sink.cancel()  # by a connection of its own
        sink.ping()
        assert os.environ[name] == ENVIRONMENT[name], "for the configuration's ${...}"
    finally:
        sink.close()


@pytest.fixture(scope="module", params=["pg15", "pg17"])
def sink(request: pytest.FixtureRequest) -> Iterator[PostgresSink]:
    server: Server = request.getfixturevalue("server_pool").get(request.param)
    with fresh_pg_database(server) as database:
        sink = make_sink(server, database)
        sink.open()
        yield sink
        sink.close()


@pytest.fixture
def here(sink: PostgresSink) -> Iterator[Here]:
    sent: list[str] = []
    assert sink._connection is not None
    sink._connection.cursor_factory = type("Cursor", (RecordingCursor,), {"sent": sent})
    name = unique_name("n")
    sink.create_namespace(name)
    here = Here(sink, name, sent)
    yield here
    here.execute(f'DROP SCHEMA "{name}" CASCADE')


@pytest.fixture(params=["at once", "merged"])
def way(request: pytest.FixtureRequest, here: Here, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whatever a test applies goes that way, few rows as they are."""
    if request.param == "merged":
        monkeypatch.setattr(apply_postgres, "AT_ONCE_ROWS_MAX", 0)
    yield request.param
    staged = any("pg_temp" in statement for statement in here.sent)
    assert staged or request.param == "at once"


def merge_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_postgres, "AT_ONCE_ROWS_MAX", 0)


def inserts_of(definition: TableDefinition, rows: Rows) -> ChangeBatch:
    """Nothing but new rows, as the compactor says it."""
    return replace(change_of(definition, upserts=rows), counts={"insert": len(rows)})


def updates_of(definition: TableDefinition, *parts: PartialUpdate, **more: Any) -> ChangeBatch:
    return replace(change_of(definition, **more), updates=parts, counts={"update": 1})


def part(
    definition: TableDefinition, columns: Sequence[str], rows: Rows, old_keys: Sequence[Any] | None = None
) -> PartialUpdate:
    """Rows of which `columns` count; `old_keys` are of tables whose key is `id`."""
    old = None if old_keys is None else pa.RecordBatch.from_arrays([pa.array(old_keys, pa.int32())], names=["id"])
    return PartialUpdate(tuple(columns), rows_of(definition, rows), old)


# ---------------------------------------------------------------- which way


def is_direct(statement: str) -> bool:
    return statement.startswith("COPY") and "pg_temp" not in statement


def numbered(first: int, count: int) -> list[tuple[Any, ...]]:
    return [(index, index, f"row {index}") for index in range(first, first + count)]


def test_many_new_rows_are_copied_straight_into_the_table(here: Here) -> None:
    target = here.create(PLAIN)
    here.sent.clear()
    here.apply(target, inserts_of(PLAIN, numbered(0, 1000)))
    assert [is_direct(s) for s in here.sent if s.startswith("COPY")] == [True]
    assert not any("pg_temp" in s for s in here.sent)
    assert here.ids(target) == list(range(1000))


def test_new_rows_that_are_there_already_are_merged_in_the_same_transaction(here: Here) -> None:
    """As after a crash, and while a table catches up with its load. What came before in the transaction stays."""
    target = here.create(PLAIN)
    here.put(target, [(500, -1, "old"), (2000, -1, "old")])
    before = change_of(PLAIN, upserts=[(3000, 1, "first")])
    here.apply(target, before, inserts_of(PLAIN, numbered(0, 1000)))
    assert any(is_direct(s) for s in here.sent)
    assert here.ids(target) == [*range(1000), 2000, 3000]
    assert ("500", "500", "row 500") in here.rows(target)


def test_after_a_miss_more_and_more_batches_are_merged_before_the_next_direct_copy(here: Here) -> None:
    target = here.create(PLAIN)
    here.put(target, [(index * 1000, -1, "old") for index in range(20)])
    tries = []
    for index in range(16):
        here.sent.clear()
        here.apply(target, inserts_of(PLAIN, numbered(index * 1000, 200)))
        tries.append(any(is_direct(s) for s in here.sent))
    assert tries == [True, False, True, False, False, False, True] + [False] * 7 + [True, False]
    assert len(here.rows(target)) == 16 * 200 + 4


def test_a_direct_copy_that_goes_through_ends_the_waiting(here: Here) -> None:
    """And the next miss counts as the first."""
    target = here.create(PLAIN)
    here.put(target, [(0, -1, "old"), (3000, -1, "old")])
    tries = []
    for index in range(7):
        here.sent.clear()
        here.apply(target, inserts_of(PLAIN, numbered(index * 1000, 200)))
        tries.append(any(is_direct(s) for s in here.sent))
    assert tries == [True, False, True, True, False, True, True]


def test_what_is_not_all_new_is_not_copied_straight(here: Here) -> None:
    target = here.create(PLAIN)
    here.sent.clear()
    rows = numbered(0, 200)
    here.apply(target, change_of(PLAIN, upserts=rows))
    here.apply(target, replace(change_of(PLAIN, upserts=rows), counts={"insert": 199, "update": 1}))
    here.apply(target, replace(change_of(PLAIN, upserts=rows, deletes=rows[:1]), counts={"insert": 1, "delete": 1}))
    assert not any(is_direct(s) for s in here.sent)


def mixed(definition: TableDefinition, new: Rows, *, others: Rows = (), deletes: Rows = ()) -> ChangeBatch:
    """New rows among other changes, every second upsert, as the compactor says it."""
    upserts: list[Sequence[Any]] = []
    is_new: list[bool] = []
    for index in range(max(len(new), len(others))):
        for rows, kind in ((new, True), (others, False)):
            if index < len(rows):
                upserts.append(rows[index])
                is_new.append(kind)
    change = change_of(definition, upserts=upserts, deletes=deletes)
    inserts = change.upserts[0].filter(pa.array(is_new))
    return replace(change, inserts=(inserts,), counts={"insert": len(new), "update": len(others)})


def copies(here: Here) -> list[tuple[bool, str]]:
    """Whether each COPY went straight into the table."""
    return [(is_direct(s), s) for s in here.sent if s.startswith("COPY")]


def test_new_rows_among_others_go_straight_in_after_the_others_are_merged(here: Here) -> None:
    target = here.create(PLAIN)
    here.put(target, [(index, -1, "old") for index in range(50)])
    here.sent.clear()
    change = mixed(PLAIN, numbered(100, 200), others=numbered(0, 30), deletes=[(index, 0, "") for index in (40, 41)])
    with here.sink.transaction() as transaction:
        result = transaction.apply(change, target)
        transaction.commit()
    assert (result.upserted, result.deleted) == (230, 2)
    assert [direct for direct, _ in copies(here)] == [False, False, True]
    expected = numbered(100, 200) + numbered(0, 30) + [(i, -1, "old") for i in range(30, 50) if i not in (40, 41)]
    assert here.rows(target) == sorted([tuple(map(str, row)) for row in expected], key=repr)


def test_a_few_new_rows_among_others_are_merged_with_them(here: Here) -> None:
    target = here.create(PLAIN)
    here.apply(target, mixed(PLAIN, numbered(1000, 100), others=numbered(0, 101)))
    assert not any(direct for direct, _ in copies(here))
    assert len(here.rows(target)) == 201


def test_new_rows_among_others_that_are_there_already_undo_the_merge_and_are_merged(here: Here) -> None:
    """Whatever the merge did before is done once: what came before in the transaction stays."""
    target = here.create(PLAIN)
    here.put(target, [(150, -1, "old"), (5, -1, "old"), (40, -1, "old")])
    before = change_of(PLAIN, upserts=[(3000, 1, "first")])
    here.apply(target, before, mixed(PLAIN, numbered(100, 200), others=numbered(0, 30), deletes=[(40, 0, "")]))
    assert any(direct for direct, _ in copies(here))
    assert here.ids(target) == [*range(30), *range(100, 300), 3000]
    assert ("150", "150", "row 150") in here.rows(target)
    here.sent.clear()
    here.apply(target, mixed(PLAIN, numbered(400, 200), others=numbered(0, 30)))
    assert not any(direct for direct, _ in copies(here))  # waits, as any other


def test_a_new_row_takes_the_unique_value_of_one_that_goes_or_changes(here: Here) -> None:
    target = unique_table(here)
    here.put(target, [(index, index, "old") for index in range(400)])
    here.sent.clear()
    new = [(1000 + index, index, "new") for index in range(200)]
    others = [(index, 1000 + index, "changed") for index in range(100)]
    here.apply(target, mixed(UNIQUE, new, others=others, deletes=[(i, i, "") for i in range(100, 200)]))
    assert any(direct for direct, _ in copies(here))
    expected = new + others + [(index, index, "old") for index in range(200, 400)]
    assert here.rows(target) == sorted([tuple(map(str, row)) for row in expected], key=repr)


def test_a_missing_row_of_an_update_beside_new_rows_is_named(here: Here) -> None:
    target = here.create(PLAIN)
    update = part(PLAIN, ["v"], [(7, 1, None)])
    change = replace(mixed(PLAIN, numbered(100, 200)), updates=(update,), counts={"insert": 200, "update": 1})
    with pytest.raises(UnsupportedData) as caught:
        here.apply(target, change)
    assert caught.value.key == "id=7"
    assert here.rows(target) == []


def test_policies_are_counted_once_although_a_try_is_undone(here: Here) -> None:
    """And one text that is made while it is sent is refused with its key, on every way."""
    source = table(ID, column("d", K.DATE, "date"))
    target = here.create(source)
    here.put(target, [(150, None)])
    change = replace(change_of(source, upserts=[(index, 0) for index in range(200)]), counts={"insert": 200})
    with here.sink.transaction() as transaction:
        result = transaction.apply(change, target)
        transaction.commit()
    assert result.policy_changes == {("d", "zero_dates"): 200}
    assert any(direct for direct, _ in copies(here))
    strict = target_of(source, "postgresql", here.namespace, zero_dates="error")
    for rows in (150, 30_000):
        refused = change_of(source, upserts=[(1000 + index, None) for index in range(rows)] + [(999_999, 0)])
        for counts in ({"insert": 1}, {"update": 1}):
            with pytest.raises(UnsupportedData, match="no date 0000-00-00") as caught:
                here.apply(strict, replace(refused, counts=counts))
            assert (caught.value.column, caught.value.key) == ("d", "id=999999")
    assert len(here.rows(target)) == 200


@pytest.mark.parametrize("when", ["DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
def test_a_table_whose_unique_constraint_is_checked_late_is_merged(here: Here, when: str) -> None:
    """A direct COPY would find out at the commit, where there is no way back."""
    target = here.create(UNIQUE, f"ALTER TABLE @ ADD CONSTRAINT late UNIQUE (u) {when}")
    here.put(target, [(5, 5, "old"), (6, 600, "old")])
    here.apply(target, inserts_of(UNIQUE, numbered(0, 200)))
    assert not any(is_direct(s) for s in here.sent)
    assert ("6", "6", "row 6") in here.rows(target)


def test_new_rows_beyond_one_batch_go_by_one_copy(here: Here) -> None:
    target = here.create(PLAIN)
    first, second = inserts_of(PLAIN, numbered(0, 200)), inserts_of(PLAIN, numbered(200, 200))
    change = replace(
        first,
        batches=first.batches + second.batches,
        upserts=first.upserts + second.upserts,
        deletes=first.deletes + second.deletes,
    )
    here.sent.clear()
    here.apply(target, change)
    assert sum(is_direct(s) for s in here.sent) == 1
    assert here.ids(target) == list(range(400))


def test_a_transaction_of_one_row_with_its_checkpoint_takes_three_round_trips(here: Here) -> None:
    target = here.create(PLAIN)
    here.execute(f'CREATE TABLE "{here.namespace}".m (p int PRIMARY KEY, v int)')
    here.execute(f'INSERT INTO "{here.namespace}".m VALUES (1, 0), (2, 0)')
    here.put(target, [(1, 1, "a")])
    here.sent.clear()
    with here.sink.transaction() as transaction:
        transaction.apply(change_of(PLAIN, upserts=[(1, 2, "b")]), target)
        transaction.execute_later(f'UPDATE "{here.namespace}".m SET v = %s WHERE p = %s', (7, 2))
        assert transaction.execute_count(f'UPDATE "{here.namespace}".m SET v = %s WHERE p < %s', (8, 2)) == 1
        transaction.commit()
    assert len(here.sent) == 3
    assert here.rows(target) == [("1", "2", "b")]
    assert here.execute(f'SELECT p, v FROM "{here.namespace}".m ORDER BY p') == [(1, 8), (2, 7)]


def test_what_is_to_be_executed_later_is_executed_with_the_commit(here: Here) -> None:
    here.execute(f'CREATE TABLE "{here.namespace}".m (p int PRIMARY KEY)')
    with here.sink.transaction() as transaction:
        transaction.execute_later(f'INSERT INTO "{here.namespace}".m VALUES (%s)', (1,))
        transaction.commit()
    assert here.execute(f'SELECT * FROM "{here.namespace}".m') == [(1,)]


@pytest.mark.parametrize("rows,is_at_once", [(100, True), (101, False)])
def test_up_to_a_hundred_rows_go_without_staging(here: Here, rows: int, is_at_once: bool) -> None:
    target = here.create(PLAIN)
    here.sent.clear()
    here.put(target, numbered(0, rows))
    assert any("pg_temp" in s for s in here.sent) != is_at_once


@pytest.mark.parametrize("rows", [1, 10])
def test_a_table_of_many_columns_goes_at_once(here: Here, rows: int) -> None:
    source = table(ID, *(column(f"c{index}", K.INTEGER, "int", length=32) for index in range(150)))
    target = here.create(source)
    here.sent.clear()
    wide = [(index, *range(150)) for index in range(rows)]
    here.put(target, wide)
    assert not any("pg_temp" in s for s in here.sent)
    assert here.rows(target) == sorted([tuple(map(str, row)) for row in wide], key=repr)


def test_large_values_go_by_copy(here: Here) -> None:
    source = table(ID, column("b", K.BLOB, "longblob"))
    target = here.create(source)
    here.sent.clear()
    here.put(target, [(1, b"x" * (200 << 10))])
    assert any("pg_temp" in s for s in here.sent)


# ---------------------------------------------------------------- values


def assert_nothing_was_refused(here: Here, way: str) -> None:
    """What is refused at once is merged, and arrives all the same."""
    assert way == "merged" or not any("pg_temp" in statement for statement in here.sent)
    assert not any("ROLLBACK" in statement for statement in here.sent)


VALUES = [("mysql", name) for name in MYSQL_VALUES] + [("mariadb", name) for name in MARIADB_VALUES]


@pytest.mark.parametrize("flavor,name", VALUES)
def test_every_value_arrives_as_it_is(here: Here, way: str, flavor: Any, name: str) -> None:
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    source = table(ID, definition, flavor=flavor)
    target = here.create(source)
    rows = [(index, value) for index, value in enumerate([*values, None])]

    def expected(rows: Rows) -> list[tuple[Any, ...]]:
        batch = rows_of(source, rows)
        columns = [
            canonical_from_arrow(batch.column(c.source.name), c, target.policies, "postgresql") for c in target.columns
        ]
        return sorted(zip(*columns, strict=True), key=repr)

    here.put(target, rows)
    assert_nothing_was_refused(here, way)
    assert here.rows(target) == expected(rows)
    here.sent.clear()
    moved = [(index, rows[index - 1][1]) for index in range(len(rows))]
    update = part(source, ["c"], moved)
    here.apply(target, updates_of(source, update))
    assert_nothing_was_refused(here, way)
    assert here.rows(target) == expected(moved)
    here.sent.clear()
    for row in rows:  # which makes other literals
        here.put(target, [row])
    assert_nothing_was_refused(here, way)
    assert here.rows(target) == expected(rows)


def keys_of_every_type() -> Iterator[Any]:
    for flavor, name in VALUES:
        definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
        rule = rule_for(definition, "mysql" if flavor == "mysql" else "mariadb")
        usable = [v for v in values if v is not None and repr(v) != "-0.0"]  # which is one key with 0
        usable = [v for v in usable if not isinstance(v, str) or (len(v) <= 1000 and "\0" not in v)]
        if definition.kind in (K.DATE, K.DATETIME, K.TIMESTAMP, K.ENUM):
            usable = [value for value in usable if value]
        if rule.can_be_key[0] and "impossible" not in name and len(set(map(repr, usable))) > 1:
            yield pytest.param(flavor, definition, usable, id=f"{flavor}-{name}")


@pytest.mark.parametrize("flavor,definition,values", list(keys_of_every_type()))
def test_an_update_finds_its_row_by_a_key_of_every_type(
    here: Here, way: str, flavor: Any, definition: ColumnDefinition, values: Sequence[Any]
) -> None:
    source = table(definition, INT, key=("c",), flavor=flavor)
    target = here.create(source)
    here.put(target, [(value, index) for index, value in enumerate(values)])
    for some in (values, values[:1]):
        before = {row[1] for row in here.rows(target)}
        here.sent.clear()
        here.apply(target, updates_of(source, part(source, ["v"], [(v, 100 + i) for i, v in enumerate(some)])))
        assert_nothing_was_refused(here, way)
        changed = {str(100 + index) for index in range(len(some))}
        assert {row[1] for row in here.rows(target)} == changed | (before if len(some) < len(values) else set())


TRAPS = [
    "E'\\N'",
    "\\N",
    "'\\N'",
    "E'",
    "',E'",
    "'),(E'",
    "\\",
    "\\'",
    "''",
    "\t",
    "\n",
    "\r\n",
    "a\tb\nc\\",
    "%s",
    "%%",
]


def test_no_text_escapes_from_its_literal(here: Here, way: str) -> None:
    rng = random.Random(11)
    source = table(ID, column("a", K.TEXT, "longtext"), column("b", K.TEXT, "longtext"))
    target = here.create(source)
    texts = [*TRAPS, *(text for text in HOSTILE_TEXTS if "\0" not in text)]
    texts += [
        "".join(rng.choices(["'", '"', "\\", "N", "E", ",", "\t", "\n", "(", ")", "é", "\U0001f600"], k=9))
        for _ in range(40)
    ]
    rows = [(index, text, rng.choice([None, text])) for index, text in enumerate(texts)]
    for some in (rows[:30], *([row] for row in rows), rows[30:]):
        here.put(target, some)
    assert_nothing_was_refused(here, way)
    assert here.rows(target) == sorted([(str(i), a, b) for i, a, b in rows], key=repr)


def test_no_text_escapes_from_the_literal_of_a_key(here: Here, way: str) -> None:
    source = table(column("k", K.TEXT, "varchar(40)", length=40, is_nullable=False), ID, INT, key=("k", "id"))
    target = here.create(source)
    rows = [(text, index, 0) for index, text in enumerate(TRAPS)]
    here.put(target, rows)
    here.apply(target, updates_of(source, part(source, ["v"], [(text, index, 1) for text, index, _ in rows[::2]])))
    here.apply(target, change_of(source, deletes=rows[1::2]))
    assert_nothing_was_refused(here, way)
    assert here.rows(target) == sorted([(text, str(index), "1") for text, index, _ in rows[::2]], key=repr)


# ---------------------------------------------------------------- order and uniqueness


def unique_table(here: Here) -> TargetTable:
    return here.create(UNIQUE, "CREATE UNIQUE INDEX ON @ (u)")


@pytest.fixture(params=["index", "deferrable constraint"])
def unique(request: pytest.FixtureRequest, here: Here) -> TargetTable:
    """A table with a second unique key, `u`."""
    if request.param == "index":
        return unique_table(here)
    return here.create(UNIQUE, "ALTER TABLE @ ADD UNIQUE (u) DEFERRABLE")


def test_unique_values_go_round_between_rows(here: Here, way: str, unique: TargetTable) -> None:
    here.put(unique, [(1, 10, "a"), (2, 20, "b"), (3, 30, "c"), (4, 40, "d")])
    here.put(unique, [(1, 20, "a"), (2, 30, "b"), (3, 10, "c")])
    assert here.rows(unique) == [("1", "20", "a"), ("2", "30", "b"), ("3", "10", "c"), ("4", "40", "d")]


def test_unique_values_go_round_at_once_without_a_refusal(here: Here, unique: TargetTable) -> None:
    here.put(unique, [(1, 10, "a"), (2, 20, "b")])
    here.sent.clear()
    here.put(unique, [(1, 20, "a"), (2, 10, "b")])
    assert len(here.sent) == 2
    assert not any("pg_temp" in s for s in here.sent)


def test_unique_values_go_round_by_updates_of_the_column_alone(here: Here, way: str, unique: TargetTable) -> None:
    here.put(unique, [(1, 10, "a"), (2, 20, "b"), (3, 30, "c")])
    swap = part(UNIQUE, ["u"], [(1, 20, None), (2, 30, None)])
    here.apply(unique, updates_of(UNIQUE, swap, upserts=[(3, 10, "c")]))
    assert here.rows(unique) == [("1", "20", "a"), ("2", "30", "b"), ("3", "10", "c")]


def test_a_unique_value_is_handed_over_by_a_row_that_goes(here: Here, way: str, unique: TargetTable) -> None:
    here.put(unique, [(1, 10, "a"), (2, 20, "b")])
    here.apply(unique, change_of(UNIQUE, deletes=[(1, 10, "a")], upserts=[(2, 10, "b"), (3, 20, "c")]))
    assert here.rows(unique) == [("2", "10", "b"), ("3", "20", "c")]


def test_an_upsert_never_rewrites_the_row_that_has_its_unique_value(here: Here, way: str) -> None:
    target = unique_table(here)
    here.put(target, [(1, 10, "a"), (2, 20, "b")])
    with pytest.raises(SinkRefused) as caught:
        here.put(target, [(4, 40, "d"), (3, 20, "c"), (5, 50, "e")])
    assert (caught.value.table, caught.value.key) == ("shop.t", "id=3")
    with pytest.raises(SinkRefused) as caught:
        here.apply(target, updates_of(UNIQUE, part(UNIQUE, ["u"], [(1, 20, None)])))
    assert (caught.value.table, caught.value.key) == ("shop.t", "id=1")
    assert here.rows(target) == [("1", "10", "a"), ("2", "20", "b")]


def test_keys_that_only_the_source_takes_for_equal(here: Here, way: str) -> None:
    source = table(column("k", K.TEXT, "varchar(9)", length=9, is_nullable=False), INT, key=("k",))
    target = here.create(source)
    here.put(target, [("a", 1)])
    here.apply(target, change_of(source, deletes=[("a", 1)], upserts=[("A", 2)]))
    assert here.rows(target) == [("A", "2")]


def test_keys_that_only_the_sink_takes_for_equal(here: Here, way: str) -> None:
    """One that goes and one that comes end as the one that comes; two that come are refused by name.

    One that comes after another would take its row in silence, so such a table is no target.
    """
    source = table(column("k", K.TEXT, "varchar(9)", length=9, is_nullable=False), INT, key=("k",))
    target = target_of(source, "postgresql", here.namespace)
    schema = f'"{here.namespace}"'
    here.execute(f"CREATE COLLATION {schema}.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    here.execute(f"CREATE TABLE {schema}.t (k varchar(9) COLLATE {schema}.ci PRIMARY KEY, v int)")
    existing = here.sink.inspect(target)
    assert existing is not None
    assert [p for p in existing.problems if "collation ci" in p]
    here.put(target, [("a", 1)])
    here.apply(target, change_of(source, deletes=[("a", 1)], upserts=[("A", 2)]))
    assert here.rows(target) == [("A", "2")]
    with pytest.raises(SinkRefused) as caught:
        here.put(target, [("b", 1), ("B", 2)])
    assert caught.value.key == "k='B'"
    assert here.rows(target) == [("A", "2")]


def test_a_unique_index_made_while_the_sink_is_open_counts_at_once(here: Here, way: str) -> None:
    target = here.create(UNIQUE)
    here.put(target, [(1, 10, "a"), (2, 20, "b")])
    here.execute(f'CREATE UNIQUE INDEX ON "{here.namespace}".t (u)')
    here.put(target, [(1, 20, "a"), (2, 10, "b")])
    here.execute(f'CREATE UNIQUE INDEX ON "{here.namespace}".t (w)')
    here.apply(target, updates_of(UNIQUE, part(UNIQUE, ["w"], [(1, 0, "b"), (2, 0, "a")])))
    assert here.rows(target) == [("1", "20", "b"), ("2", "10", "a")]


def test_constraints_are_still_deferred_after_a_refusal(here: Here) -> None:
    """A transaction that begins again defers them again: here the child comes before its parent."""
    parents = table(ID, name="p")
    parent, child = here.create(parents), here.create(UNIQUE)
    schema = f'"{here.namespace}"'
    here.execute(f"ALTER TABLE {schema}.t ADD FOREIGN KEY (id) REFERENCES {schema}.p DEFERRABLE")
    here.apply(parent, change_of(parents, upserts=[(1,), (2,)]))
    here.put(child, [(1, 10, "a"), (2, 20, "b")])
    here.execute(f"CREATE UNIQUE INDEX ON {schema}.t (u)")
    here.sent.clear()
    with here.sink.transaction() as transaction:
        transaction.apply(change_of(UNIQUE, upserts=[(1, 20, "a"), (2, 10, "b"), (3, 30, "c")]), child)
        transaction.apply(change_of(parents, upserts=[(3,)]), parent)
        transaction.commit()
    assert here.sent.count("ROLLBACK") == 1
    assert here.rows(child) == [("1", "20", "a"), ("2", "10", "b"), ("3", "30", "c")]


def test_changes_of_one_table_in_one_transaction_add_up(here: Here, way: str) -> None:
    target = here.create(PLAIN)
    here.apply(
        target,
        change_of(PLAIN, upserts=[(1, 1, "a"), (2, 2, "b"), (3, 3, "c")]),
        change_of(PLAIN, upserts=[(2, 20, "b")], deletes=[(1, 1, "a")]),
        updates_of(PLAIN, part(PLAIN, ["v"], [(2, 21, None)])),
        change_of(PLAIN, deletes=[(3, 3, "c")]),
    )
    assert here.rows(target) == [("2", "21", "b")]


def test_what_an_earlier_transaction_staged_is_not_applied_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_all(monkeypatch)
    target = here.create(PLAIN)
    here.put(target, [(1, 1, "a"), (2, 2, "b")])
    here.apply(target, change_of(PLAIN, deletes=[(1, 1, "a")]))
    here.apply(target, updates_of(PLAIN, part(PLAIN, ["v"], [(2, 5, None)])))
    with here.sink.transaction() as transaction:  # and is rolled back
        transaction.apply(change_of(PLAIN, upserts=[(9, 9, "z")], deletes=[(2, 2, "b")]), target)
    here.put(target, [(1, 7, "new")])
    here.apply(target, change_of(PLAIN, deletes=[(3, 3, "c")]))
    here.apply(target, updates_of(PLAIN, part(PLAIN, ["w"], [(1, 0, "newer")])))
    assert here.rows(target) == [("1", "7", "newer"), ("2", "5", "b")]


def test_staging_tables_that_a_rollback_took_away_are_made_again(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_all(monkeypatch)
    target = here.create(PLAIN)
    with here.sink.transaction() as transaction:
        transaction.apply(change_of(PLAIN, upserts=[(9, 9, "z")], deletes=[(2, 2, "b")]), target)
    here.put(target, [(1, 1, "a")])
    assert here.rows(target) == [("1", "1", "a")]


def test_what_is_staged_of_a_large_change_does_not_stay_on_the_servers_disk(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = here.create(PLAIN)
    change = change_of(PLAIN, upserts=numbered(0, 500), deletes=numbered(900, 5))
    size = (
        "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ '^_cdc_(rows|keys)_' AND relpersistence = 't'"
    )
    here.apply(target, change)
    before = here.execute(size)[0][0]
    monkeypatch.setattr(apply_postgres, "STAGED_BYTES_KEPT_MAX", 100)
    here.apply(target, change)
    assert here.execute(size)[0][0] < before
    assert here.ids(target) == list(range(500))


def test_what_is_defined_in_a_transaction_goes_with_it(here: Here) -> None:
    target = target_of(PLAIN, "postgresql", here.namespace)
    with here.sink.transaction():
        here.sink.create_table(target)
    assert here.sink.inspect(target) is None
    with here.sink.transaction() as transaction:
        here.sink.create_table(target)
        transaction.apply(change_of(PLAIN, upserts=[(1, 1, "a")]), target)
        assert here.rows(target) == [("1", "1", "a")]
        transaction.commit()
    assert here.rows(target) == [("1", "1", "a")]


def test_more_tables_than_are_staged_at_a_time(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_all(monkeypatch)
    monkeypatch.setattr(apply_postgres, "STAGED_TARGETS_MAX", 2)
    definitions = [table(ID, INT, name=f"t{index}") for index in range(5)]
    targets = [here.create(definition) for definition in definitions]
    for value in (1, 2):
        for definition, target in zip(definitions, targets, strict=True):
            here.apply(target, change_of(definition, upserts=[(1, value)], deletes=[(2, 0)]))
    assert [here.rows(target) for target in targets] == [[("1", "2")]] * 5


def test_a_merge_never_reads_the_whole_table(here: Here) -> None:
    """Nothing is known of staging tables, nor of a table that has just been filled: a hash join would read it all."""
    target = here.create(PLAIN)
    with here.sink.transaction() as transaction:
        transaction.load(rows_of(PLAIN, numbered(0, 20_000)), target)
        transaction.commit()
    count = f"SELECT coalesce(seq_tup_read, 0) FROM pg_stat_user_tables WHERE schemaname = '{here.namespace}'"
    before = here.execute(count)

    here.apply(target, change_of(PLAIN, upserts=numbered(0, 5000), deletes=numbered(6000, 5000)))
    here.apply(target, updates_of(PLAIN, part(PLAIN, ["v"], [(i, 0, None) for i in range(12_000, 15_000)])))

    here.execute("SELECT pg_stat_force_next_flush()")
    assert here.execute(count) == before
    assert len(here.rows(target)) == 15_000


# ---------------------------------------------------------------- updates of some columns


def test_an_update_changes_the_columns_that_it_names(here: Here, way: str) -> None:
    target = here.create(PLAIN)
    here.put(target, [(1, 1, "a"), (2, 2, "b"), (3, 3, "c"), (4, 4, "d")])
    here.apply(
        target,
        updates_of(
            PLAIN,
            part(PLAIN, ["v"], [(1, 10, "not this"), (2, None, "nor this")]),
            part(PLAIN, ["w"], [(3, -1, "C")]),
            deletes=[(4, 4, "d")],
            upserts=[(5, 5, "e")],
        ),
    )
    assert here.rows(target) == [("1", "10", "a"), ("2", None, "b"), ("3", "3", "C"), ("5", "5", "e")]


@pytest.mark.parametrize("makes", [PLAIN, UNIQUE], ids=["plain", "unique"])
def test_an_update_of_a_row_that_is_not_there_names_it(here: Here, way: str, makes: TableDefinition) -> None:
    target = here.create(makes) if makes is PLAIN else unique_table(here)
    column = makes.columns[1].name
    here.put(target, [(1, 1, "a"), (3, 3, "c")])
    change = updates_of(makes, part(makes, [column], [(1, 10, None), (2, 20, None), (3, 30, None)]))
    with pytest.raises(UnsupportedData) as caught:
        here.apply(target, change)
    assert (caught.value.table, caught.value.key) == ("shop.t", "id=2")
    assert "cdc snapshot shop.t" in caught.value.hint
    assert here.rows(target) == [("1", "1", "a"), ("3", "3", "c")]

    here.apply(target, replace(change, may_lack_rows=True))
    assert here.rows(target) == [("1", "10", "a"), ("3", "30", "c")]


def test_keys_move_along_a_chain(here: Here, way: str) -> None:
    """`UPDATE t SET id = id + 1 ORDER BY id DESC`, and a new row where the first one was."""
    target = here.create(PLAIN)
    here.put(target, [(1, 1, "a"), (2, 2, "b"), (3, 3, "c")])
    moves = part(PLAIN, ["id"], [(2, 0, None), (3, 0, None), (4, 0, None)], old_keys=[1, 2, 3])
    here.apply(target, updates_of(PLAIN, moves, upserts=[(1, 100, "new")]))
    assert here.rows(target) == [("1", "100", "new"), ("2", "1", "a"), ("3", "2", "b"), ("4", "3", "c")]


def test_a_key_moves_where_a_row_was_that_is_not_mentioned(here: Here, way: str, unique: TargetTable) -> None:
    """What was deleted at the new key is in no other place of the change: no key is in two."""
    here.put(unique, [(1, 10, "a"), (2, 20, "b")])
    here.apply(unique, updates_of(UNIQUE, part(UNIQUE, ["id", "u"], [(2, 20, None)], old_keys=[1])))
    assert here.rows(unique) == [("2", "20", "a")]


def test_keys_that_are_exchanged(here: Here, way: str, unique: TargetTable) -> None:
    here.put(unique, [(1, 10, "a"), (2, 20, "b")])
    here.apply(unique, updates_of(UNIQUE, part(UNIQUE, ["id"], [(2, 0, None), (1, 0, None)], old_keys=[1, 2])))
    assert here.rows(unique) == [("1", "20", "b"), ("2", "10", "a")]


def test_a_key_that_moves_from_a_row_that_is_not_there_names_it(here: Here, way: str) -> None:
    """Also where rows may be missing: the load may have passed both places while the row was at the other."""
    target = here.create(PLAIN)
    here.put(target, [(1, 1, "a")])
    change = updates_of(PLAIN, part(PLAIN, ["id"], [(2, 0, None), (8, 0, None)], old_keys=[1, 7]))
    for one in (change, replace(change, may_lack_rows=True)):
        with pytest.raises(UnsupportedData) as caught:
            here.apply(target, one)
        assert (caught.value.table, caught.value.key) == ("shop.t", "id=8")
    assert here.rows(target) == [("1", "1", "a")]


def test_a_composite_key_moves_by_one_of_its_columns(here: Here, way: str) -> None:
    name = column("_cdc_old0", K.TEXT, "varchar(9)", length=9, is_nullable=False)
    source = table(INT, name, ID, key=("id", "_cdc_old0"))
    target = here.create(source)
    here.put(target, [(1, "x", 1), (2, "y", 1)])
    old = pa.RecordBatch.from_arrays([pa.array([1], pa.int32()), pa.array(["x"], pa.large_string())], ["id", name.name])
    update = PartialUpdate(("_cdc_old0",), rows_of(source, [(0, "z", 1)]), old)
    here.apply(target, updates_of(source, update))
    assert here.rows(target) == [("1", "z", "1"), ("2", "y", "1")]


def test_deletes_are_counted_without_the_keys_that_moved(here: Here, way: str) -> None:
    target = here.create(PLAIN)
    here.put(target, [(1, 1, "a"), (2, 2, "b"), (3, 3, "c")])
    move = part(PLAIN, ["id"], [(9, 0, None)], old_keys=[1])
    with here.sink.transaction() as transaction:
        result = transaction.apply(updates_of(PLAIN, move, deletes=[(2, 2, "b"), (7, 7, "-")]), target)
        transaction.commit()
    assert (result.upserted, result.deleted) == (1, 1)
    assert here.rows(target) == [("3", "3", "c"), ("9", "1", "a")]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("count", [3, 300])
@pytest.mark.parametrize("is_new", [True, False])
def test_rows_that_a_trigger_discards_are_missed(here: Here, way: str, count: int, is_new: bool) -> None:
    """One that was made after the table was looked at: the server says nothing."""
    target = here.create(PLAIN)
    here.put(target, numbered(10_000, 1))
    function = f'"{here.namespace}".discard'
    here.execute(f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    table = f'"{here.namespace}"."{target.name}"'
    here.execute(f"CREATE TRIGGER t BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()")
    change = inserts_of(PLAIN, numbered(0, count)) if is_new else change_of(PLAIN, upserts=numbered(0, count))
    with pytest.raises(SinkRefused, match=f"of {count} rows .* took 0") as caught:
        here.apply(target, change)
    assert "trigger" in caught.value.hint
    assert here.ids(target) == [10_000]


def test_a_transaction_that_has_failed_is_not_taken_for_committed(here: Here) -> None:
    """The server answers its COMMIT with ROLLBACK, and no error."""
    with here.sink.transaction() as transaction:
        with pytest.raises(CdcError):
            transaction.execute("SELECT 1/0")
        with pytest.raises(InvariantBroken, match="ROLLBACK"):
            transaction.commit()


@pytest.fixture
def narrow(here: Here) -> TargetTable:
    """A table that takes less than the source."""
    target = target_of(PLAIN, "postgresql", here.namespace)
    here.execute(
        f'CREATE TABLE "{here.namespace}".t '
        "(id int PRIMARY KEY, v int NOT NULL CONSTRAINT small CHECK (v < 100), w varchar(3))"
    )
    here.put(target, [(1, 1, "a"), (2, 2, "b")])
    return target


@pytest.mark.parametrize(
    "row,column",
    [((3, None, "c"), "v"), ((3, 3, "abcd"), "w"), ((3, 300, "c"), None)],
    ids=["null", "too long", "check"],
)
def test_a_refused_row_is_named_and_nothing_of_its_change_stays(
    here: Here, way: str, narrow: TargetTable, row: Sequence[Any], column: str | None
) -> None:
    with here.sink.transaction() as transaction:
        transaction.apply(change_of(PLAIN, upserts=[(9, 9, "k")]), narrow)
        with pytest.raises(SinkRefused) as caught:
            transaction.apply(change_of(PLAIN, upserts=[(2, 0, "x"), row, (4, 4, "d")], deletes=[(1, 1, "a")]), narrow)
        transaction.commit()
    assert (caught.value.table, caught.value.key, caught.value.column) == ("shop.t", "id=3", column)
    assert here.rows(narrow) == [("1", "1", "a"), ("2", "2", "b"), ("9", "9", "k")]


def test_a_refused_update_is_named(here: Here, way: str, narrow: TargetTable) -> None:
    change = updates_of(
        PLAIN, part(PLAIN, ["w"], [(1, 0, "x")]), part(PLAIN, ["v"], [(2, 200, None)]), upserts=[(3, 3, "c")]
    )
    with pytest.raises(SinkRefused) as caught:
        here.apply(narrow, change)
    assert (caught.value.table, caught.value.key) == ("shop.t", "id=2")
    assert here.rows(narrow) == [("1", "1", "a"), ("2", "2", "b")]


def test_a_row_that_a_direct_copy_refuses_is_named(here: Here, narrow: TargetTable) -> None:
    rows = [(index, 1, "x") for index in range(10, 600)]
    rows[400] = (410, 1, "long")
    with pytest.raises(SinkRefused) as caught:
        here.apply(narrow, inserts_of(PLAIN, rows))
    assert any(is_direct(s) for s in here.sent)
    assert (caught.value.table, caught.value.key) == ("shop.t", "id=410")
    assert here.rows(narrow) == [("1", "1", "a"), ("2", "2", "b")]


# ---------------------------------------------------------------- random histories


@dataclass
class Row:
    """A row, and the key under which the sink has it (None: not yet)."""

    u: int | None
    w: str
    origin: int | None


State = dict[int, Row]


def step(rng: random.Random, rows: State) -> None:
    """One change as the source would make it: keys and `u` stay unique."""
    free = [key for key in range(12) if key not in rows]
    taken = {row.u for row in rows.values()}
    values = [value for value in range(12) if value not in taken]
    what = rng.choice(["insert", "insert", "delete", "u", "w", "move", "swap", "cycle"])
    some = rng.sample(sorted(rows), min(len(rows), 3))
    if what == "insert" and free:
        rows[rng.choice(free)] = Row(rng.choice([None, *values]), rng.choice("abc'\\\t"), None)
    elif what == "delete" and some:
        del rows[some[0]]
    elif what == "u" and some:
        rows[some[0]].u = rng.choice([None, *values])
    elif what == "w" and some:
        rows[some[0]].w = rng.choice("abc'\\\t")
    elif what == "move" and some and free:
        rows[rng.choice(free)] = rows.pop(some[0])
    elif what == "swap" and len(some) > 1:
        one, other = rows[some[0]], rows[some[1]]
        one.u, other.u = other.u, one.u
    elif what == "cycle" and len(some) > 2:
        moving = [rows.pop(key) for key in some]
        rows.update(zip(some[1:] + some[:1], moving, strict=True))


def net_change(rng: random.Random, before: State, after: State) -> ChangeBatch:
    """What leads from one to the other: whole rows, or changed columns of rows that the sink has."""
    upserts: list[tuple[Any, ...]] = []
    groups: dict[tuple[tuple[str, ...], bool], list[tuple[tuple[Any, ...], int]]] = {}
    left: set[int] = set()
    for key, row in after.items():
        old = None if row.origin is None else before[row.origin]
        changed = () if old is None else tuple(n for n in ("u", "w") if getattr(old, n) != getattr(row, n))
        is_moved = row.origin != key
        if old is None or row.origin is None or rng.random() < 0.3:
            if is_moved or changed or rng.random() < 0.2:
                upserts.append((key, row.u, row.w))
        elif is_moved or changed:
            names = (("id",) if is_moved else ()) + changed
            groups.setdefault((names, is_moved), []).append(((key, row.u, row.w), row.origin))
            if is_moved:
                left.add(row.origin)
    parts = [
        part(UNIQUE, names, [row for row, _ in rows], [old for _, old in rows] if is_moved else None)
        for (names, is_moved), rows in groups.items()
    ]
    deletes = [(key, row.u, row.w) for key, row in before.items() if key not in after and key not in left]
    is_new = upserts and not deletes and not parts  # though some may be there: as when a log is replayed
    change = replace(
        updates_of(UNIQUE, *parts, upserts=upserts, deletes=deletes),
        counts={"insert": len(upserts)} if is_new else {"update": 1},
    )
    if rng.random() < 0.5:
        return change
    # Said of rows that are, and now and then of others.
    born = [after[row[0]].origin is None or rng.random() < 0.05 for row in upserts]
    return replace(change, inserts=(change.upserts[0].filter(pa.array(born, pa.bool_())),))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("makes", [lambda here: here.create(UNIQUE), unique_table], ids=["plain", "unique"])
def test_random_changes_however_they_are_split_end_as_the_model_says(
    here: Here, monkeypatch: pytest.MonkeyPatch, makes: Callable[[Here], TargetTable], seed: int
) -> None:
    rng = random.Random(seed)
    target = makes(here)
    rows: State = {}
    for _ in range(40):
        with here.sink.transaction() as transaction:
            for _ in range(rng.choice((1, 1, 3))):
                before = {key: replace(row) for key, row in rows.items()}
                for key, row in rows.items():
                    row.origin = key
                for _ in range(rng.choice((1, 2, 8))):
                    step(rng, rows)
                monkeypatch.setattr(apply_postgres, "AT_ONCE_ROWS_MAX", rng.choice((0, 0, 100)))
                transaction.apply(net_change(rng, before, rows), target)
            transaction.commit()
        expected = [(str(key), None if row.u is None else str(row.u), row.w) for key, row in rows.items()]
        assert here.rows(target) == sorted(expected, key=repr)


def test_of_a_table_that_it_has_made_a_load_asks_nothing(here: Here) -> None:
    """Unless that was undone: what is there then is somebody else's. What is applied later asks all the same."""
    target = here.create(PLAIN)
    here.sent.clear()
    with here.sink.transaction() as transaction:
        transaction.load(rows_of(PLAIN, [(1, 1, "a")]), target)
        transaction.commit()
    assert not [sql for sql in here.sent if "pg_index" in sql]
    with here.sink.transaction() as transaction:
        transaction.apply(change_of(PLAIN, upserts=[(1, 2, "b")]), target)
        transaction.commit()
    assert [sql for sql in here.sent if "pg_index" in sql]
    here.sink.drop_table(target)
    with here.sink.transaction():
        here.sink.create_table(target)
    here.execute(sql_postgres.create_table(target))
    here.sent.clear()
    with here.sink.transaction() as transaction:
        transaction.load(rows_of(PLAIN, [(1, 1, "a")]), target)
        transaction.commit()
    assert [sql for sql in here.sent if "pg_index" in sql]
