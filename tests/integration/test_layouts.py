"""The layouts of docs/layouts.md under a writer: a mirror of a mirror, and both at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from cdc.demo.servers import Server
from tests.support.databases import fresh_pg_database
from tests.support.deployment import Deployment, _plain, deployment
from tests.support.writer import TransactionWriter

TABLES = ("orders", "lines_", "late")
DEFINITIONS = (
    (
        "CREATE TABLE orders (id INT PRIMARY KEY, customer VARCHAR(40) NOT NULL, total DECIMAL(12,2) NULL, "
        "at DATETIME(6) NULL, state ENUM('new','paid') NULL)"
    ),
    "CREATE TABLE lines_ (order_id INT, number INT, what VARCHAR(40) NULL, PRIMARY KEY (order_id, number))",
)


class Writer(TransactionWriter):
    """Inserts, updates, deletes and moves keys until it is left, in transactions of a few statements."""

    def transaction(self, cursor: Any) -> bool:
        chance = self.random
        for _ in range(chance.randint(1, 4)):
            n = chance.randint(1, 300)
            cursor.execute(
                "INSERT INTO orders (id, customer, total, at, state) "
                "VALUES (%s, 'Zoë 北', 1.5, NOW(6), 'new') ON DUPLICATE KEY UPDATE "
                "total = COALESCE(total, 0) + 1, state = 'paid', at = NOW(6)",
                (n,),
            )
            cursor.execute("REPLACE INTO lines_ VALUES (%s, %s, REPEAT('x', %s))", (n, n % 3, n % 30))
            cursor.execute("DELETE FROM lines_ WHERE order_id = %s", (chance.randint(1, 300),))
            cursor.execute("UPDATE orders SET id = id + 1000 WHERE id = %s", (chance.randint(1, 300),))
            cursor.execute("DELETE FROM orders WHERE id > 1000")
        return True


def raw_rows(server: Server, database: str, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Of the schema `raw`; [] while the table, or one of its columns, is not there."""
    listed = ", ".join(f'"{name}"' for name in columns)
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        try:
            cursor.execute(f'SELECT {listed} FROM raw."{table}"')
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn):
            return []
        return sorted((tuple(map(_plain, row)) for row in cursor.fetchall()), key=repr)


def assert_raw_equals(made: Deployment, server: Server, database: str) -> None:
    for table in TABLES:
        columns = made.source_columns(table)
        assert raw_rows(server, database, table, columns) == made.source_rows(table, columns), table


@contextlib.contextmanager
def second_hop(directory: Path, first: Deployment, middle: Server, warehouse: Server) -> Iterator[Deployment]:
    """The first deployment's replica as the source of another one, into the schema `raw`."""
    directory.mkdir()
    replica = first.sinks["replica"][1]
    with fresh_pg_database(warehouse) as database:
        second = Deployment(directory, middle, replica, {"warehouse": (warehouse, database)})
        second.config["sinks"][0]["schema"] = "raw"
        try:
            yield second
        finally:
            second.kill()


def prepare(server: Server, database: str) -> None:
    for statement in DEFINITIONS:
        server.execute(statement, database=database)


def change_definitions(server: Server, database: str) -> None:
    server.execute("CREATE TABLE late (id INT PRIMARY KEY, at TIMESTAMP(3) NULL)", database=database)
    server.execute("INSERT INTO late VALUES (1, '2024-05-06 07:08:09.5'), (2, NULL)", database=database)
    server.execute("ALTER TABLE orders ADD note VARCHAR(10) NULL DEFAULT 'x'", database=database)


@pytest.mark.in_turn
@pytest.mark.parametrize("middle_name", ["mysql97", pytest.param("mariadb118", marks=pytest.mark.full)])
def test_a_mirror_of_a_mirror_under_a_writer(
    tmp_path: Path, source_server: Server, middle_name: str, request: pytest.FixtureRequest, pg15: Server
) -> None:
    """Both services are killed on the way, a table comes and one is altered; in the end all three are equal."""
    middle: Server = request.getfixturevalue(middle_name)
    with deployment(tmp_path, source_server, replica=middle) as first:
        prepare(source_server, first.source_database)
        with second_hop(tmp_path / "second", first, middle, pg15) as second:
            with Writer(source_server, first.source_database, seed=7, pause_seconds=0.01) as writer:
                first.start()
                first.wait_for_log("table_ready", count=2)
                second.start()
                second.wait_for_log("table_ready", count=2)
                writer.wait_for_more(30)
                first.kill()
                writer.wait_for_more(30)
                first.start()
                second.kill()
                change_definitions(source_server, first.source_database)
                second.start()
                writer.wait_for_more(30)
            first.stop()
            first.catch_up()
            second.stop()
            second.catch_up()
            warehouse, database = second.sinks["warehouse"]
            first.assert_equal(*TABLES)
            assert_raw_equals(first, warehouse, database)
            made = warehouse.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'raw'", database=database)
            assert {name for (name,) in made} == set(TABLES)  # none of the first hop's metadata


@pytest.mark.in_turn
def test_both_at_once_under_a_writer(tmp_path: Path, source_server: Server, mysql97: Server, pg15: Server) -> None:
    """One service feeds a replica and the schema `raw`, is killed, and finds other definitions when it is back."""
    with deployment(tmp_path, source_server, replica=mysql97, warehouse=pg15) as made:
        made.config["sinks"][1]["schema"] = "raw"
        prepare(source_server, made.source_database)
        with Writer(source_server, made.source_database, seed=7, pause_seconds=0.01) as writer:
            made.start()
            made.wait_for_log("table_ready", count=4)
            writer.wait_for_more(30)
            made.kill()
            change_definitions(source_server, made.source_database)
            made.start()
            writer.wait_for_more(30)
        made.stop()
        made.catch_up()
        warehouse, database = made.sinks.pop("warehouse")
        made.assert_equal(*TABLES)
        assert_raw_equals(made, warehouse, database)
