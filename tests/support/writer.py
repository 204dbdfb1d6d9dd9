"""Writers that keep changing tables in a thread. `Writer` has a small schema of its own: every kind of change, several
tables a transaction, moving keys.

`accounts` keeps its sum: transfers move amounts between rows, so a half-applied transaction shows in one query.
Seeded, so that a failing run can be repeated.
"""

from __future__ import annotations

import contextlib
import random
import threading
from abc import ABC, abstractmethod
from typing import Any, Self

from cdc.demo.servers import Server
from tests.support.waiting import wait_until

__all__ = ["ACCOUNTS", "TABLES", "TransactionWriter", "Writer", "create_schema"]

TABLES = ("accounts", "orders", "items")
ACCOUNTS = 40
START_BALANCE = 1000

_SCHEMA = {
    "accounts": "id INT PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(40) NULL",
    "orders": "id BIGINT UNSIGNED PRIMARY KEY, customer VARCHAR(30) NOT NULL, amount DECIMAL(12,2) NULL, "
    "placed DATETIME(3) NULL, state ENUM('new','paid','shipped') NOT NULL, raw BLOB NULL",
    "items": "order_id BIGINT UNSIGNED NOT NULL, line SMALLINT NOT NULL, name VARCHAR(60) NOT NULL, "
    "price DOUBLE NULL, PRIMARY KEY (order_id, line)",
}


def create_schema(server: Server, database: str, *, rows: int = 200, suffix: str = "") -> None:
    """Make the tables and their first rows."""
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        for name, columns in _SCHEMA.items():
            cursor.execute(f"CREATE TABLE {name} ({columns}) {suffix}")
        cursor.executemany("INSERT INTO accounts VALUES (%s, %s, NULL)", [(n, START_BALANCE) for n in range(ACCOUNTS)])
        cursor.executemany(
            "INSERT INTO orders VALUES (%s, %s, %s, '2024-02-03 04:05:06.789', 'new', %s)",
            [(n, f"Kundé {n}", f"{n}.25", bytes([n % 256, 0, 255])) for n in range(1, rows + 1)],
        )
        cursor.executemany(
            "INSERT INTO items VALUES (%s, %s, %s, %s)",
            [(n, line, f"thing {n}/{line} 東京", n / 7) for n in range(1, rows + 1) for line in (1, 2)],
        )
        connection.commit()


class TransactionWriter(ABC):
    """Writes transactions in a thread until stopped. `count` is how many were committed."""

    def __init__(self, server: Server, database: str, *, seed: int = 1, pause_seconds: float = 0.002) -> None:
        self.count = 0
        self.error: BaseException | None = None
        self.random = random.Random(seed)
        self._server = server
        self._database = database
        self._pause_seconds = pause_seconds
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, count: int) -> None:
        """Until `count` transactions have been committed since the start."""
        wait_until(lambda: self.count >= count or self.error is not None, 60, f"{count} transactions")

    def wait_for_more(self, count: int) -> None:
        """Until `count` transactions more have been committed."""
        self.wait_for(self.count + count)

    def stop(self) -> None:
        """End after the transaction at hand; raises what the writer died of."""
        self._is_stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with contextlib.closing(self._server.connect(self._database)) as connection:
                connection.autocommit(False)
                while not self._is_stopping.wait(self._pause_seconds):
                    with connection.cursor() as cursor:
                        is_kept = self.transaction(cursor)
                    if is_kept:
                        connection.commit()
                        self.count += 1
                    else:
                        connection.rollback()
        except Exception as error:  # noqa: BLE001 - handed to the test by stop()
            self.error = error

    @abstractmethod
    def transaction(self, cursor: Any) -> bool:
        """One transaction's statements; is it to be committed?"""


class Writer(TransactionWriter):
    """Writes `TABLES`, and takes back one transaction in twenty."""

    def __init__(self, server: Server, database: str, *, seed: int = 1, pause_seconds: float = 0.002) -> None:
        super().__init__(server, database, seed=seed, pause_seconds=pause_seconds)
        self._next_id = 100_000 * (seed + 1)

    def transaction(self, cursor: Any) -> bool:
        for _ in range(self.random.randint(1, 4)):
            self._change(cursor)
        return self.random.random() >= 0.05

    def _change(self, cursor: Any) -> None:
        choice = self.random.random()
        some_id = self.random.randint(1, 300)
        if choice < 0.25:
            amount = self.random.randint(1, 50)
            one, other = self.random.sample(range(ACCOUNTS), 2)
            cursor.execute("UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, one))
            cursor.execute("UPDATE accounts SET balance = balance + %s, note = %s WHERE id = %s", (amount, "+", other))
        elif choice < 0.5:
            self._next_id += 1
            cursor.execute(
                "INSERT INTO orders VALUES (%s, %s, %s, NOW(3), 'new', %s)",
                (self._next_id, "tab\there \\N 'quoted' ünï", f"{self._next_id % 977}.50", b"\\\x00\n"),
            )
            cursor.executemany(
                "INSERT INTO items VALUES (%s, %s, %s, %s)",
                [(self._next_id, line, f"line {line}", 0.1 * line) for line in range(1, self.random.randint(2, 6))],
            )
        elif choice < 0.65:
            cursor.execute("UPDATE orders SET state = 'paid', amount = amount + 1 WHERE id = %s", (some_id,))
        elif choice < 0.75:
            cursor.execute("DELETE FROM items WHERE order_id = %s", (some_id,))
            cursor.execute("DELETE FROM orders WHERE id = %s", (some_id,))
        elif choice < 0.85:  # a key that moves, and sometimes comes back
            cursor.execute("UPDATE IGNORE items SET line = line + 10 WHERE order_id = %s AND line < 20", (some_id,))
        elif choice < 0.95:
            cursor.execute(
                "REPLACE INTO orders VALUES (%s, 'again', NULL, NULL, 'shipped', NULL)", (self.random.randint(1, 300),)
            )
        else:
            cursor.execute("UPDATE items SET price = -price, name = CONCAT(name, '') WHERE order_id < %s", (some_id,))
