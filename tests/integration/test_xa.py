"""XA transactions on real servers: rows of a prepared one wait in the sinks until its end, whatever happens between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment

TABLES = ("orders", "items")
# A quote, a zero byte and bytes that are no text; a branch and a format.
ODD = "X'00ff2761',X'62',7"


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server) -> Iterator[Deployment]:
    """Two tables with rows, to PostgreSQL and MySQL at once."""
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20), n DECIMAL(12,2), b BLOB)")
        execute(made, "CREATE TABLE items (id INT PRIMARY KEY, order_id INT)")
        execute(made, "INSERT INTO orders VALUES (1, 'one', 1.5, x'00ff'), (2, 'two', NULL, NULL), (3, 'three', 3, '')")
        execute(made, "INSERT INTO items VALUES (1, 1), (2, 2), (3, 3)")
        yield made


def execute(made: Deployment, *statements: str) -> None:
    """Statements of one session, with autocommit."""
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def prepare(made: Deployment, xid: str, *statements: str) -> None:
    """A transaction that is prepared, and whose session has gone."""
    execute(made, f"XA START {xid}", *statements, f"XA END {xid}", f"XA PREPARE {xid}")

    def is_free() -> bool:  # while its session is still about, nobody else may end it
        with contextlib.closing(made.source.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = %s", (made.source_database,))
            return bool(cursor.fetchone()[0] == 0)

    wait_until(is_free, 10, "the session to be gone")


CHANGES = (
    "INSERT INTO orders VALUES (10, 'ten', 10.01, x'0001')",
    "UPDATE orders SET v = 'zwei' WHERE id = 2",
    "UPDATE orders SET id = 30 WHERE id = 3",
    "DELETE FROM items WHERE id = 1",
    "INSERT INTO items VALUES (4, 10)",
)


def waiting(made: Deployment) -> list[int]:
    return [sink["prepared"]["count"] for sink in made.status()["sinks"]]


def stored(made: Deployment) -> list[int]:
    """How many rows the metadata holds for prepared transactions, sink by sink."""
    found = []
    for server, database in made.sinks.values():
        if server.family == "postgresql":
            found.append(server.execute('SELECT count(*) FROM "_cdc"."prepared"', database=database)[0][0])
        else:
            found.append(server.execute("SELECT count(*) FROM _cdc_prepared", database=database)[0][0])
    return found


def log_events(made: Deployment, text: str, event: str) -> list[str]:
    return [line for line in text.splitlines() if f'"{event}"' in line]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_rows_wait_across_a_restart_of_the_service(shop: Deployment, end: str) -> None:
    shop.catch_up()
    prepare(shop, ODD, *CHANGES)
    execute(shop, "INSERT INTO orders VALUES (11, 'after', 1, NULL)", "DELETE FROM items WHERE id = 2")
    shop.catch_up()
    shop.assert_equal(*TABLES)  # nothing of it is committed at the source either
    assert waiting(shop) == [1, 1]
    assert all(item["prepared"]["oldest"] for item in shop.status()["sinks"])
    execute(shop, f"XA {end} {ODD}")
    shop.catch_up()
    shop.assert_equal(*TABLES)
    assert ("ten" in [row[1] for row in shop.source_rows("orders")]) == (end == "COMMIT")
    assert waiting(shop) == [0, 0]
    assert stored(shop) == [0, 0]
