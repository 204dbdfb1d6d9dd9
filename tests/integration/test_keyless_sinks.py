"""Tables without a key on real sinks: of every row that goes one equal row, by what the sink itself holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from cdc.errors import SinkRefused, UnsupportedData
from cdc.model import TableDefinition
from cdc.schema.target import TargetTable
from cdc.sinks import keyless_mysql
from tests.integration.test_sinks import REFUSED, SERVERS, VALUES, Place, canonical_rows, place_on
from tests.support.databases import fresh_database, fresh_pg_database, unique_name
from tests.support.pool import ServerPool
from tests.unit.sinks.builders import ID, MARIADB_VALUES, MYSQL_VALUES, K, column, rows_of, table

pytestmark = pytest.mark.integration

Rows = Sequence[Sequence[Any]]
CI = "utf8mb4_general_ci"
MIXED = table(
    column("n", K.INTEGER, "int", length=32),
    column("t", K.TEXT, "varchar(20)", length=20, collation=CI),
    column("f", K.DOUBLE, "double"),
    column("j", K.JSON, "json"),
    column("b", K.BLOB, "blob", length=65535),
    key=(),
)
TEXTS = ("a", "A", "á", "a ", "", "ß", "ss", None)
DOUBLES = (0.0, -0.0, 1.5, None)
DOCUMENTS = ('{"a": 1}', '{"a": 1.0}', "[]", None)
BLOBS = (b"", b"\x00", b"a", None)


@pytest.fixture(scope="module", params=SERVERS)
def server_place(request: pytest.FixtureRequest, server_pool: ServerPool) -> Iterator[Place]:
    server = server_pool.get(request.param)
    fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
    with fresh(server) as database, place_on(server, database, None) as made:
        yield made


@pytest.fixture
def place(server_place: Place) -> Iterator[Place]:
    made = Place(server_place.sink, server_place.server, unique_name("n"), server_place.settings)
    made.sink.create_namespace(made.namespace)
    yield made
    kind = "SCHEMA" if made.sink.kind == "postgresql" else "DATABASE"
    cascade = " CASCADE" if kind == "SCHEMA" else ""
    made.execute(f"DROP {kind} {made.quoted(made.namespace)}{cascade}")


@pytest.fixture(params=["compared", "by image"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How MySQL and MariaDB find the rows; PostgreSQL has one way."""
    if request.param == "by image":
        monkeypatch.setattr(keyless_mysql, "COMPARED_ROWS_MAX", 0)
    return str(request.param)


def fit(place: Place, target: TargetTable) -> None:
    existing = place.sink.inspect(target)
    assert existing is not None
    assert existing.primary_key == ()
    assert place.sink.differences(target, existing) == []


def expected(place: Place, target: TargetTable, definition: TableDefinition, rows: Rows) -> list[tuple[Any, ...]]:
    return canonical_rows(rows_of(definition, rows), target, place) if rows else []


@pytest.mark.parametrize("flavor,name", VALUES)
def test_of_three_equal_rows_one_goes_whatever_they_hold(place: Place, flavor: Any, name: str, way: str) -> None:
    """Every value of every type, beside a column that tells nothing apart."""
    if place.sink.kind == "postgresql" and way != "compared":
        pytest.skip("PostgreSQL has one way")
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    if not REFUSED.isdisjoint({(place.sink.kind, name), (place.server.kind.name, name)}) and flavor == "mariadb":
        pytest.skip("the sink holds no such value")
    source = table(column("same", K.INTEGER, "int", length=32), definition, flavor=flavor, key=())
    if (place.server.kind.name, flavor, name) == ("mariadb1011", "mariadb", "vector"):
        pytest.skip("the sink has no such type")
    target = place.create(source)
    fit(place, target)
    rows = [(1, value) for value in [*values, None]]
    place.load(source, target, [row for row in rows for _ in range(3)])

    result = place.apply(source, target, deletes=rows)

    assert result.deleted == len(rows)
    assert place.rows(target) == expected(place, target, source, [*rows, *rows])
    assert place.apply(source, target, deletes=[*rows, *rows]).deleted == 2 * len(rows)
    assert place.rows(target) == []


def test_a_random_history_is_what_a_multiset_of_rows_makes_of_it(place: Place, way: str) -> None:
    """The sink's own SELECT is the judge, of values that collations, `=` and padding take for one another."""
    rng = random.Random(11)
    target = place.create(MIXED)
    kinds = [(n, t, f, j, b) for n in (1, None) for t in TEXTS for f in DOUBLES for j in DOCUMENTS for b in BLOBS]
    few = rng.sample(kinds, 40)
    model: list[Any] = []
    for round_number in range(25):
        gone = rng.sample(model, rng.randrange(len(model) + 1)) if model else []
        there = rng.choices(few, k=rng.randrange(40))
        result = place.apply(MIXED, target, deletes=gone, upserts=there)
        assert (result.deleted, result.upserted) == (len(gone), len(there))
        for row in gone:
            model.remove(_same(model, row))
        model += there
        assert place.rows(target) == expected(place, target, MIXED, model), f"round {round_number}"


def _same(model: list[Any], row: Any) -> Any:
    return next(one for one in model if repr(one) == repr(row))


def test_a_row_that_is_not_there_is_an_error_that_counts(place: Place, way: str) -> None:
    target = place.create(MIXED)
    rows = [(1, "a", 0.5, "[]", b""), (2, "a", 0.5, "[]", b"")]
    place.load(MIXED, target, rows)
    missing = [(1, "a", 0.5, "[]", b"")] * 3 + [(9, None, None, None, None)]
    with pytest.raises(UnsupportedData, match="does not have 3") as caught:
        place.apply(MIXED, target, deletes=missing)
    assert caught.value.table == "shop.t"
    assert caught.value.key
    assert caught.value.key.startswith(("n=1, t='a'", "n=9, t=NULL"))
    assert "cdc snapshot shop.t" in caught.value.hint
    assert place.rows(target) == expected(place, target, MIXED, rows), "nothing is changed"


@pytest.mark.parametrize("other", ["A", "á", "a ", "a\t"])
def test_a_text_is_told_from_its_like(place: Place, way: str, other: str) -> None:
    target = place.create(MIXED)
    place.load(MIXED, target, [(1, other, 0.0, None, None)])
    with pytest.raises(UnsupportedData, match="does not have 1"):
        place.apply(MIXED, target, deletes=[(1, "a", 0.0, None, None)])


def test_columns_that_only_the_sink_has_stay_with_the_rows_that_stay(place: Place, way: str) -> None:
    source = table(column("n", K.INTEGER, "int", length=32), key=())
    target = place.create(source)
    place.load(source, target, [(1,), (1,), (1,), (2,)])
    place.execute(f"ALTER TABLE {place.table('t')} ADD COLUMN own INT DEFAULT 5")
    assert place.apply(source, target, deletes=[(1,)]).deleted == 1
    rows = place.execute(f"SELECT n, own FROM {place.table('t')} ORDER BY 1")
    assert [tuple(map(int, row)) for row in rows] == [(1, 5), (1, 5), (2, 5)]


@pytest.mark.parametrize("name", ["i", "s", "f"])
def test_a_target_may_have_a_name_of_one_letter(place: Place, way: str, name: str) -> None:
    source = table(*MIXED.columns, key=(), name=name)
    target = place.create(source)
    row = (1, "a", 0.5, "[]", b"")
    place.load(source, target, [row] * 3)
    assert place.apply(source, target, deletes=[row]).deleted == 1
    assert place.rows(target) == expected(place, target, source, [row] * 2)


def test_what_is_left_of_a_transaction_that_failed_is_in_nobodys_way(place: Place, way: str) -> None:
    source = table(column("n", K.INTEGER, "int", length=32), key=())
    target = place.create(source)
    place.load(source, target, [(1,), (1,)])
    for _ in range(2):
        with pytest.raises(UnsupportedData):
            place.apply(source, target, deletes=[(1,), (3,)])
    assert place.apply(source, target, deletes=[(1,)]).deleted == 1
    assert place.rows(target) == [("1",)]


def test_many_rows_go_in_one_pass(place: Place) -> None:
    """Twenty thousand kinds of rows of a table of forty thousand: nothing quadratic."""
    source = table(column("n", K.INTEGER, "int", length=32), column("t", K.TEXT, "varchar(20)", length=20), key=())
    target = place.create(source)
    rows = [(n, f"row {n}") for n in range(20_000)]
    place.load(source, target, [*rows, *rows])
    assert place.apply(source, target, deletes=rows).deleted == len(rows)
    assert Counter(place.rows(target)) == Counter(expected(place, target, source, rows))


def test_a_target_with_a_unique_index_is_refused_by_its_name(place: Place) -> None:
    source = table(column("n", K.INTEGER, "int", length=32), key=())
    target = place.create(source)
    place.execute(f"CREATE UNIQUE INDEX only_once ON {place.table('t')} (n)")
    existing = place.sink.inspect(target)
    assert existing is not None
    assert any("unique index only_once" in problem for problem in place.sink.differences(target, existing))


def test_a_target_with_a_primary_key_is_none_for_a_table_without(place: Place) -> None:
    place.create(table(ID))
    target = place.target(table(ID, key=()))
    existing = place.sink.inspect(target)
    assert existing is not None
    assert "the primary key is id; wanted is none" in place.sink.differences(target, existing)


def test_a_row_that_is_refused_is_named_by_its_columns(place: Place) -> None:
    source = table(column("n", K.INTEGER, "int", length=32), column("t", K.TEXT, "varchar(3)", length=3), key=())
    target = place.create(source)
    with pytest.raises(SinkRefused) as caught:
        place.apply(source, target, upserts=[(1, "abc"), (2, "abcd")])
    assert caught.value.key == "n=2, t='abcd'"
