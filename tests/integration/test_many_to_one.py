"""Many source tables in one target, told apart by a source column: loads, stream, DDL and conflicts of each alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.writer import Writer, create_schema

ORDERS = "id INT PRIMARY KEY, state ENUM('new','paid') NOT NULL, amount DECIMAL(10,2) NULL, note VARCHAR(20) NULL"
TENANTS = ("a", "b", "c")


class Fleet:
    """Databases `<prefix>_a`, `_b` and `_c` at the source, and one schema or database for all of them on each sink."""

    def __init__(self, made: Deployment, databases: dict[str, str]) -> None:
        self.made = made
        self.databases = databases
        self.namespace = f"{made.source_database}_all"

    def execute(self, tenant: str, *statements: str, session: str | None = None) -> None:
        """Statements in one tenant's database, in one transaction where they can be."""
        with contextlib.closing(self.made.source.connect(self.databases[tenant])) as connection:
            with connection.cursor() as cursor:
                for statement in (session, *statements) if session else statements:
                    cursor.execute(statement)
            connection.commit()

    def source(self, tenant: str, columns: str = "*", table: str = "orders") -> list[tuple[Any, ...]]:
        with (
            contextlib.closing(self.made.source.connect(self.databases[tenant])) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SELECT {columns} FROM `{table}` ORDER BY 1, 2")
            return [tuple(row) for row in cursor.fetchall()]

    def sink_query(self, sink: str, query: str, *, table: str = "orders") -> list[tuple[Any, ...]]:
        """`{}` in the query stands for the target."""
        server, database = self.made.sinks[sink]
        mark = '"' if server.family == "postgresql" else "`"
        with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(query.format(f"{mark}{self.namespace}{mark}.{mark}{table}{mark}"))
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            connection.commit()
            return rows

    def rows(self, sink: str, tenant: str, columns: str = "id, state, amount, note") -> list[tuple[Any, ...]]:
        value = self.databases[tenant].rpartition("_")[2]
        return self.sink_query(sink, f"SELECT {columns} FROM {{}} WHERE tenant = '{value}' ORDER BY 1")

    def assert_equal(self, columns: str = "id, state, amount, note", tenants: Sequence[str] = TENANTS) -> None:
        """By the servers' own answers, and by `cdc verify`."""
        if not tenants:
            return
        for sink in self.made.sinks:
            for tenant in tenants:
                assert self.rows(sink, tenant, columns) == self.source(tenant, columns), (sink, tenant)
        result = self.made.run("verify", "--json")
        states = {(one["sink"], one["table"]): one["state"] for one in json.loads(result.stdout)}
        names = {f"{self.databases[tenant]}.orders" for tenant in tenants}
        assert {state for (_, table), state in states.items() if table in names} == {"equal"}, result.stdout

    def states(self, sink: str = "pg", table: str = "orders") -> dict[str, str]:
        found = {}
        for one in self.made.status()["tables"]:
            database, _, name = one["table"].partition(".")
            if one["sink"] == sink and name == table:
                found[database.rpartition("_")[2]] = one["state"]
        return found

    def error(self, tenant: str, sink: str = "pg") -> dict[str, Any]:
        name = f"{self.databases[tenant]}.orders"
        return next(
            one["error"] for one in self.made.status()["tables"] if one["table"] == name and one["sink"] == sink
        )

    def touch(self, sink: str) -> None:
        """Mark the rows that are there: what is written anew loses it."""
        self.sink_query(sink, "ALTER TABLE {} ADD COLUMN mark INT NULL")
        self.sink_query(sink, "UPDATE {} SET mark = 1")

    def untouched(self, sink: str) -> dict[str, int]:
        """How many rows of each tenant still have the mark."""
        rows = self.sink_query(sink, "SELECT tenant, count(mark) FROM {} GROUP BY tenant")
        return {tenant: int(count) for tenant, count in rows}


@contextlib.contextmanager
def _fleet(tmp_path: Path, source: Server, **sinks: Server) -> Iterator[Fleet]:
    with deployment(tmp_path, source, **sinks) as made, contextlib.ExitStack() as stack:
        databases = {}
        for tenant in TENANTS:
            name = f"{made.source_database}_{tenant}"
            source.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
            stack.callback(source.execute, f"DROP DATABASE IF EXISTS `{name}`")
            databases[tenant] = name
        fleet = Fleet(made, databases)
        for server, _ in made.sinks.values():
            if server.family != "postgresql":
                stack.callback(server.execute, f"DROP DATABASE IF EXISTS `{fleet.namespace}`")
        stack.callback(made.kill)
        made.config["tables"] = {
            "include": [f"{made.source_database}_*.*"],
            "exclude": [f"{fleet.namespace}.*"],
            "routes": [
                {
                    "tables": f"{made.source_database}_*.*",
                    "target_schema": fleet.namespace,
                    "source_column": {"name": "tenant", "value": "{1}"},
                }
            ],
        }
        yield fleet


@pytest.fixture
def fleet(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Fleet]:
    """Three databases, each with `orders` of the same keys, from MySQL."""
    with _fleet(tmp_path, mysql97, pg=pg15, maria=mariadb1011) as made:
        _fill(made)
        yield made


@pytest.fixture
def fleets(tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server) -> Iterator[Fleet]:
    """The same from every kind of source, with MySQL as the other sink."""
    with _fleet(tmp_path, source_server, pg=pg15, maria=mysql97) as made:
        _fill(made)
        yield made


def _fill(made: Fleet) -> None:
    for number, tenant in enumerate(TENANTS):
        made.execute(
            tenant,
            f"CREATE TABLE orders ({ORDERS})",
            f"INSERT INTO orders VALUES (1, 'new', {number}.50, '{tenant}'), (2, 'paid', NULL, NULL), "
            f"(3, 'new', 3, 'x')",
        )


def test_load_and_stream_keep_the_sources_apart(fleets: Fleet) -> None:
    assert fleets.made.run("check").returncode == 0
    fleets.made.catch_up()
    fleets.assert_equal()

    fleets.execute(
        "a",
        "UPDATE orders SET amount = 7 WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
        "UPDATE orders SET id = 30 WHERE id = 3",
        "INSERT INTO orders VALUES (4, 'new', 1, 'new')",
    )
    fleets.execute("b", "DELETE FROM orders WHERE id = 1", "INSERT INTO orders VALUES (30, 'paid', 9, NULL)")
    fleets.made.catch_up()
    fleets.assert_equal()
    for sink in fleets.made.sinks:
        assert fleets.sink_query(sink, "SELECT count(*) FROM {}") == [(9,)]
    assert fleets.states() == {"a": "ready", "b": "ready", "c": "ready"}
    targets = {one["target"] for one in fleets.made.status()["tables"]}
    assert targets == {f"{fleets.namespace}.orders"}


def test_many_changes_at_once_are_of_their_source_alone(fleet: Fleet) -> None:
    """By COPY and LOAD DATA, staging tables and joins, beside the few that go by literals."""
    fleet.made.catch_up()
    rows = ", ".join(f"({n}, 'new', {n}, 'n')" for n in range(10, 1500))
    for tenant in ("a", "b"):
        fleet.execute(tenant, f"INSERT INTO orders VALUES {rows}")
    fleet.made.catch_up()
    fleet.execute(
        "a",
        "UPDATE orders SET id = id + 10000 WHERE id BETWEEN 100 AND 700",
        "DELETE FROM orders WHERE id BETWEEN 800 AND 1200",
        "UPDATE orders SET note = 'changed', amount = amount + 1 WHERE id > 1200",
    )
    fleet.made.catch_up()
    fleet.assert_equal()


@pytest.mark.parametrize("count", [3, 400])
def test_images_that_lack_columns(fleet: Fleet, count: int) -> None:
    fleet.made.catch_up()
    rows = ", ".join(f"({n}, 'new', {n}, 'n')" for n in range(10, 10 + count))
    for tenant in ("a", "b"):
        fleet.execute(tenant, f"INSERT INTO orders VALUES {rows}")
    fleet.made.catch_up()
    fleet.execute(
        "b",
        "UPDATE orders SET note = 'partial' WHERE id >= 10",
        "UPDATE orders SET id = id + 5000 WHERE id % 3 = 0",
        "DELETE FROM orders WHERE id % 5 = 0",
        session="SET SESSION binlog_row_image = MINIMAL",
    )
    fleet.made.catch_up()
    fleet.assert_equal()


def test_options_and_prepared_transactions(fleet: Fleet) -> None:
    fleet.made.config["tables"]["metadata_columns"] = {"row_id": "row_id", "operation": "did"}
    fleet.made.config["tables"]["overrides"] = [
        {
            "table": f"{fleet.databases[tenant]}.orders",
            "row_filter": "id <> 2",
            "columns": [{"column": "note", "mask": "keep_first", "mask_keep": 1}],
        }
        for tenant in TENANTS
    ]
    fleet.made.catch_up()
    fleet.execute(
        "a", "XA START 'one'", "UPDATE orders SET note = 'abc' WHERE id = 1", "XA END 'one'", "XA PREPARE 'one'"
    )
    fleet.execute("b", "UPDATE orders SET id = 20 WHERE id = 2")
    fleet.made.catch_up()
    fleet.execute("c", "XA COMMIT 'one'")
    fleet.made.catch_up()
    for sink in fleet.made.sinks:
        assert fleet.rows(sink, "a", "id, note, did") == [(1, "a**", "update"), (3, "*", "load")]
        assert fleet.rows(sink, "b", "id, note") == [(1, "*"), (3, "*"), (20, None)]
        ids = fleet.sink_query(sink, "SELECT count(DISTINCT row_id) FROM {}")
        assert ids == [(7,)], "the id of a row is of its source table and its key"
    result = json.loads(fleet.made.run("verify", "--json").stdout)
    assert {one["state"] for one in result} == {"equal"}


def test_a_reload_of_one_leaves_the_rows_of_the_others(fleet: Fleet) -> None:
    fleet.made.config["snapshot"] = {"chunk_rows": 1}
    fleet.made.catch_up()
    for sink in fleet.made.sinks:
        fleet.touch(sink)
        fleet.sink_query(sink, "DELETE FROM {} WHERE tenant = 'b' AND id = 1")
    result = fleet.made.run("snapshot", f"{fleet.databases['b']}.orders")
    assert result.returncode == 0, result.stderr
    fleet.assert_equal()
    for sink in fleet.made.sinks:
        assert fleet.untouched(sink) == {"a": 3, "b": 0, "c": 3}


def test_verify_compares_one_source_and_names_its_row(fleet: Fleet) -> None:
    fleet.made.catch_up()
    fleet.sink_query("maria", "UPDATE {} SET note = 'other' WHERE tenant = 'b' AND id = 3")
    result = json.loads(fleet.made.run("verify", "--json").stdout)
    found = {(one["sink"], one["table"].rpartition(".")[0][-1]): one for one in result}
    assert [key for key, one in found.items() if one["state"] != "equal"] == [("maria", "b")]
    assert found["maria", "b"]["differences"] == [{"key": {"id": "3"}, "kind": "different", "columns": ["note"]}]


def test_a_source_table_that_goes_leaves_the_others(fleet: Fleet) -> None:
    """Its rows stay, as those of any table that is dropped do; when it comes back they are replaced."""
    fleet.made.catch_up()
    fleet.execute("a", "DROP TABLE orders")
    fleet.execute("b", "UPDATE orders SET note = 'after' WHERE id = 1")
    fleet.made.catch_up()
    fleet.assert_equal(tenants=("b", "c"))
    assert fleet.states() == {"a": "dropped", "b": "ready", "c": "ready"}
    for sink in fleet.made.sinks:
        assert len(fleet.rows(sink, "a")) == 3
        fleet.touch(sink)
    fleet.execute("a", f"CREATE TABLE orders ({ORDERS})", "INSERT INTO orders VALUES (9, 'new', 9, 'back')")
    fleet.made.catch_up()
    fleet.assert_equal()
    for sink in fleet.made.sinks:
        assert fleet.untouched(sink) == {"a": 0, "b": 3, "c": 3}


ALTERATIONS = {
    "a column more": ("ADD COLUMN extra INT NOT NULL DEFAULT 7 AFTER id", "id, extra, note"),
    "a column fewer": ("DROP COLUMN amount", "id, state, note"),
    "another name": ("CHANGE note remark VARCHAR(20) NULL", "id, state, amount, remark"),
    "a wider type": ("MODIFY id BIGINT NOT NULL, MODIFY note VARCHAR(50) NOT NULL DEFAULT ''", "id, amount, note"),
    "a member more": ("MODIFY state ENUM('new','paid','sent') NULL", "id, state"),
}


# Of these no row is read again.
IN_PLACE = ("a column more", "a column fewer", "a member more")


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_a_fleet_is_migrated_one_after_the_other(fleet: Fleet, alteration: str) -> None:
    clause, columns = ALTERATIONS[alteration]
    for tenant in TENANTS:
        fleet.execute(tenant, "UPDATE orders SET note = '' WHERE note IS NULL")
    fleet.made.catch_up()
    for sink in fleet.made.sinks:
        fleet.touch(sink)
    untouched = {"a": 3, "b": 3, "c": 3}
    for number, tenant in enumerate(TENANTS):
        fleet.execute(tenant, f"ALTER TABLE orders {clause}")
        fleet.execute(tenant, "UPDATE orders SET state = 'paid' WHERE id = 1")
        for other in TENANTS[number + 1 :]:
            fleet.execute(other, f"UPDATE orders SET note = 'at {number}' WHERE id = 3")
        fleet.made.catch_up()
        if alteration not in IN_PLACE:
            untouched[tenant] = 0
        assert fleet.states() == {"a": "ready", "b": "ready", "c": "ready"}
        for sink in fleet.made.sinks:
            assert fleet.untouched(sink) == untouched, f"{sink}: rows of the others were written anew"
        fleet.assert_equal(columns, TENANTS[: number + 1])
        fleet.assert_equal("id, state, amount, note", TENANTS[number + 1 :])
    if alteration == "a column fewer":
        for sink in fleet.made.sinks:
            rows = fleet.sink_query(
                sink,
                f"SELECT count(*) FROM information_schema.columns WHERE table_schema = '{fleet.namespace}' "
                "AND table_name = 'orders' AND column_name = 'amount'",
            )
            assert rows == [(0,)], "nobody has it any more"


@pytest.mark.parametrize("policy", ["apply", "ignore"])
def test_a_truncate_of_one_empties_its_rows_alone(fleet: Fleet, policy: str) -> None:
    """No table is read again."""
    fleet.made.config["policies"] = {**fleet.made.config.get("policies", {}), "on_truncate": policy}
    fleet.made.catch_up()
    for sink in fleet.made.sinks:
        fleet.touch(sink)
    fleet.execute("b", "TRUNCATE TABLE orders", "INSERT INTO orders VALUES (9, 'new', 9, 'behind')")
    result = fleet.made.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert "table_loaded" not in result.stderr
    for sink in fleet.made.sinks:
        assert fleet.untouched(sink) == {"a": 3, "b": 0 if policy == "apply" else 3, "c": 3}
        assert len(fleet.rows(sink, "b")) == (1 if policy == "apply" else 4)
    fleet.assert_equal(tenants=("a", "b", "c") if policy == "apply" else ("a", "c"))


def test_another_type_waits_until_all_have_it(fleet: Fleet) -> None:
    fleet.made.catch_up()
    fleet.execute("a", "ALTER TABLE orders MODIFY amount VARCHAR(30) NULL")
    result = fleet.made.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert fleet.states() == {"a": "parked", "b": "ready", "c": "ready"}
    for sink in fleet.made.sinks:
        error = fleet.error("a", sink)
        assert error["class"] == "TargetConflict"
        assert "column amount is " in error["message"]
        assert f"{fleet.databases['b']}.orders: column amount is" in error["hint"]
        assert len(fleet.rows(sink, "a")) == 3, "what was there stays"
    fleet.execute("b", "ALTER TABLE orders MODIFY amount VARCHAR(30) NULL")
    fleet.execute("c", "UPDATE orders SET note = 'meanwhile' WHERE id = 2")
    fleet.made.run("run", "--until-caught-up")
    assert fleet.states() == {"a": "parked", "b": "parked", "c": "ready"}
    fleet.assert_equal(tenants=("c",))
    fleet.execute("c", "ALTER TABLE orders MODIFY amount VARCHAR(30) NULL")
    fleet.made.catch_up()
    fleet.assert_equal()


def test_rows_that_no_load_would_bring_back_keep_their_target(fleet: Fleet) -> None:
    fleet.made.catch_up()
    fleet.execute("c", "DROP TABLE orders")
    fleet.made.catch_up()
    for tenant in ("a", "b"):
        fleet.execute(tenant, "ALTER TABLE orders MODIFY amount VARCHAR(30) NULL")
    fleet.made.run("run", "--until-caught-up")
    for sink in fleet.made.sinks:
        assert len(fleet.rows(sink, "c")) == 3
        assert "tenant = 'c'" in fleet.error("a", sink)["hint"]
        fleet.sink_query(sink, "DROP TABLE {}")
    fleet.made.catch_up()
    fleet.assert_equal(tenants=("a", "b"))


def test_a_target_that_somebody_has_dropped_is_filled_by_all_its_tables(fleet: Fleet) -> None:
    fleet.made.catch_up()
    for sink in fleet.made.sinks:
        fleet.sink_query(sink, "DROP TABLE {}")
    fleet.made.run("snapshot", f"{fleet.databases['a']}.orders")
    fleet.made.catch_up()
    fleet.assert_equal()


@pytest.mark.parametrize("is_running", [False, True])
def test_a_target_of_two_deployments_that_somebody_has_dropped_is_filled_by_both(
    fleet: Fleet, is_running: bool
) -> None:
    """The one that makes it has the other load its tables again, which thinks that they are ready."""
    other = _beside(fleet, "c")
    fleet.made.config["tables"]["include"] = [f"{fleet.databases[tenant]}.*" for tenant in "ab"]
    fleet.made.catch_up()
    other.made.catch_up()
    if is_running:
        fleet.made.start()
        fleet.execute("a", "UPDATE orders SET note = 'streams' WHERE id = 1")
        wait_until(lambda: all(("streams",) in fleet.rows(sink, "a", "note") for sink in fleet.made.sinks), 60, "it")
    for sink in fleet.made.sinks:
        fleet.sink_query(sink, "DROP TABLE {}")
    result = other.made.run("snapshot", f"{fleet.databases['c']}.orders")
    assert result.returncode == 0, result.stderr
    fleet.execute("b", "UPDATE orders SET note = 'after' WHERE id = 1")
    if is_running:
        expected = {tenant: fleet.source(tenant) for tenant in "ab"}
        wait_until(
            lambda: all(
                fleet.rows(sink, tenant, "id, state, amount, note") == expected[tenant]
                for sink in fleet.made.sinks
                for tenant in "ab"
            ),
            60,
            "the rows of the other",
        )
        fleet.made.stop()
    else:
        assert fleet.states() == {"a": "pending", "b": "pending"}
    fleet.made.catch_up()
    other.made.catch_up()
    fleet.assert_equal(tenants=("a", "b"))
    other.assert_equal(tenants=("c",))
    assert fleet.states() == {"a": "ready", "b": "ready"}


def _beside(fleet: Fleet, tenant: str) -> Fleet:
    """Another deployment with the same sinks, of that tenant."""
    directory = fleet.made.directory / "beside"
    directory.mkdir()
    made = Deployment(directory, fleet.made.source, fleet.made.source_database, fleet.made.sinks)
    made.config["tables"] = {**fleet.made.config["tables"], "include": [f"{fleet.databases[tenant]}.*"]}
    return Fleet(made, fleet.databases)


def test_values_that_are_the_same_do_not_mix(fleet: Fleet) -> None:
    fleet.made.config["tables"]["routes"][0]["source_column"]["value"] = "{table}"
    check = fleet.made.run("check")
    assert check.returncode == 2
    assert "with the same value 'orders' of tenant" in " ".join(check.stdout.split())
    result = fleet.made.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert fleet.states() == {"a": "ready", "b": "parked", "c": "parked"}
    for sink in fleet.made.sinks:
        assert fleet.sink_query(sink, "SELECT count(*) FROM {}") == [(3,)]

    fleet.made.config["tables"]["routes"][0]["source_column"]["value"] = "{1}"
    fleet.made.catch_up()
    fleet.assert_equal()
    for sink in fleet.made.sinks:
        assert fleet.sink_query(sink, "SELECT count(*) FROM {}") == [(9,)], "the rows of the old value are gone"


def test_a_target_of_one_becomes_a_target_of_many_and_not_back_by_mistake(fleet: Fleet) -> None:
    source_column = fleet.made.config["tables"]["routes"][0].pop("source_column")
    result = fleet.made.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert fleet.states() == {"a": "ready", "b": "parked", "c": "parked"}

    fleet.made.config["tables"]["routes"][0]["source_column"] = source_column
    fleet.made.catch_up()
    fleet.assert_equal()

    del fleet.made.config["tables"]["routes"][0]["source_column"]
    fleet.made.run("run", "--until-caught-up")
    assert set(fleet.states().values()) == {"parked"}
    assert "holds rows of others" in fleet.error("a")["message"]
    for sink in fleet.made.sinks:
        assert fleet.sink_query(sink, "SELECT count(*) FROM {}") == [(9,)]

    fleet.made.config["tables"]["routes"][0]["source_column"] = source_column
    fleet.made.catch_up()
    fleet.assert_equal()


def test_rows_and_indexes_of_somebody_else_are_respected(fleet: Fleet) -> None:
    """A target that is there: rows with other values stay, rows with a value of ours are not ours to replace."""
    columns = (
        "tenant varchar(64) {c} NOT NULL, id int NOT NULL, state varchar(9) {c} NOT NULL, amount decimal(10,2) NULL"
    )
    for sink in ("pg",):
        server, database = fleet.made.sinks[sink]
        server.execute(f'CREATE SCHEMA "{fleet.namespace}"', database=database)
        fleet.sink_query(
            sink,
            f"CREATE TABLE {{}} ({columns.format(c='')}, note varchar(20), PRIMARY KEY (tenant, id))".replace(
                "state varchar(9)", "state text"
            ),
        )
        fleet.sink_query(sink, "INSERT INTO {} VALUES ('z', 1, 'old', 1, NULL), ('b', 77, 'old', 1, NULL)")
    fleet.made.run("run", "--until-caught-up")
    assert fleet.states() == {"a": "ready", "b": "parked", "c": "ready"}
    assert "tenant = 'b'" in fleet.error("b")["message"]
    fleet.made.run("snapshot", f"{fleet.databases['b']}.orders")
    assert fleet.states() == {"a": "ready", "b": "ready", "c": "ready"}
    fleet.assert_equal()
    assert fleet.sink_query("pg", "SELECT id FROM {} WHERE tenant = 'z'") == [(1,)]


@pytest.mark.parametrize("sink", ["pg", "maria"])
def test_a_unique_index_over_all_sources_is_refused(fleet: Fleet, sink: str) -> None:
    fleet.made.catch_up()
    fleet.sink_query(sink, "UPDATE {} SET amount = NULL")
    index = f"CREATE UNIQUE INDEX over_all ON {fleet.namespace}.orders (amount)"
    server, database = fleet.made.sinks[sink]
    server.execute(index, database=database)
    fleet.made.run("snapshot", f"{fleet.databases['a']}.orders")
    assert "unique index over_all lacks tenant" in fleet.error("a", sink)["message"]


def test_an_alter_of_one_is_taken_up_where_a_kill_left_it(fleet: Fleet) -> None:
    fleet.made.catch_up()
    for point in ("target_made:1", "load_begun:1", "load_chunk:1", "load_recorded:1"):
        # What is computed is read again.
        fleet.execute("b", f"ALTER TABLE orders ADD COLUMN {point.partition(':')[0]} INT NULL DEFAULT (1)")
        fleet.made.start(crash_at=point).wait(60)
        fleet.made.process = None
        for sink in fleet.made.sinks:
            assert len(fleet.rows(sink, "a")) == 3
    fleet.made.catch_up()
    fleet.assert_equal(tenants=("a", "c"))
    fleet.assert_equal("id, note, target_made, load_begun, load_chunk, load_recorded", ("b",))


@pytest.mark.parametrize(
    "point",
    [
        "schema_altered:1",
        pytest.param("schema_altered:2", marks=pytest.mark.full),
        pytest.param("schema_recorded:1", marks=pytest.mark.full),
    ],
)
def test_an_alter_that_is_followed_is_taken_up_where_a_kill_left_it(fleet: Fleet, point: str) -> None:
    """What others have in the column meanwhile is theirs, and what the table had there before it went is gone."""
    fleet.made.catch_up()
    for sink in fleet.made.sinks:
        fleet.touch(sink)
    fleet.execute("a", "ALTER TABLE orders ADD COLUMN extra INT NOT NULL DEFAULT 7, DROP COLUMN note")
    fleet.execute("a", "UPDATE orders SET extra = 8 WHERE id = 1")
    fleet.made.start(crash_at=point).wait(60)
    fleet.made.process = None
    fleet.execute("b", "ALTER TABLE orders ADD COLUMN extra INT NULL, MODIFY note VARCHAR(90) NULL")
    fleet.execute("a", "ALTER TABLE orders ADD COLUMN note VARCHAR(30) NULL")
    fleet.made.catch_up()
    fleet.assert_equal("id, state, amount, extra, note", ("a", "b"))
    fleet.assert_equal(tenants=("c",))
    for sink in fleet.made.sinks:
        assert fleet.untouched(sink) == {"a": 3, "b": 3, "c": 3}, sink
        assert {row[1] for row in fleet.rows(sink, "c", "id, extra")} == {None}


def test_a_target_made_anew_is_taken_up_where_a_kill_left_it(fleet: Fleet) -> None:
    fleet.made.catch_up()
    for tenant in TENANTS:
        fleet.execute(tenant, "ALTER TABLE orders MODIFY amount VARCHAR(30) NULL")
    for point in ("target_made:1", "load_begun:2", "load_chunk:2", "load_recorded:2"):
        fleet.made.start(crash_at=point).wait(60)
        fleet.made.process = None
    fleet.made.catch_up()
    fleet.assert_equal()


POINTS = ("load_chunk_committed:7", "after_statement:40", "before_commit:15", "target_made:1")


@pytest.mark.crash
@pytest.mark.parametrize("source_name,sink_name", [("mysql97", "pg15"), ("mariadb1011", "mysql97")])
def test_three_databases_under_writers_and_kills(
    source_name: str, sink_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Three writers, kill -9 at several points, an ALTER of each after the other, a reload: equal at the end."""
    source: Server = request.getfixturevalue(source_name)
    with _fleet(tmp_path, source, sink=request.getfixturevalue(sink_name)) as fleet, contextlib.ExitStack() as stack:
        fleet.made.config["snapshot"] = {"chunk_rows": 70}
        fleet.made.config["flush"] = {"rows_max": 60, "age_ms_max": 20}
        writers = []
        for number, database in enumerate(fleet.databases.values()):
            create_schema(source, database, rows=120)
            writers.append(stack.enter_context(Writer(source, database, seed=number + 1, pause_seconds=0.01)))
        for number, point in enumerate(POINTS):
            fleet.made.start(crash_at=point)
            if number == len(POINTS) - 1:
                for tenant in TENANTS:
                    fleet.execute(tenant, "ALTER TABLE accounts ADD COLUMN extra INT NULL DEFAULT (5)")
            fleet.made.wait_until_killed()
        fleet.made.start()
        writers[0].wait_for(writers[0].count + 20)
        fleet.made.run("snapshot", f"{fleet.databases['b']}.items")
        for writer in writers:
            writer.stop()
        fleet.made.stop()
        fleet.made.catch_up()
        for table in ("accounts", "orders", "items"):
            for tenant in TENANTS:
                expected = _told(fleet.source(tenant, _COLUMNS[table], table))
                query = f"SELECT {_COLUMNS[table]} FROM {{}} WHERE tenant = '{tenant}'"
                assert _told(fleet.sink_query("sink", query, table=table)) == expected, (table, tenant)
        result = fleet.made.run("verify", "--json")
        assert {one["state"] for one in json.loads(result.stdout)} == {"equal"}, result.stdout


_COLUMNS = {
    "accounts": "id, balance, note, extra",
    "orders": "customer, amount, placed, state",
    "items": "order_id, line, name, price",
}


def _told(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows as sorted text; BIGINT UNSIGNED is numeric(20) on PostgreSQL, and a Decimal to its driver."""
    return sorted(
        repr(tuple(int(v) if isinstance(v, Decimal) and v.as_tuple().exponent == 0 else v for v in row)) for row in rows
    )
