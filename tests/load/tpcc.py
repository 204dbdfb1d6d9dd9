"""A load like TPC-C's: a wholesaler's nine tables with foreign keys, and threads that order, pay and deliver.

Like it, and not it: no think times, fewer rows a warehouse, no report of transactions per minute. What is kept is what
matters to a copy: transactions over many tables with parents before children, a queue of rows that are inserted and
deleted (`new_orders`), counters that every order of a district moves, rows that are touched all the time beside rows
that never are, one order in a hundred that is rolled back at its last line, and dead-locks between the threads.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pymysql

from cdc.demo.servers import Server

__all__ = ["TABLES", "TpccWriter", "create_tables"]

DISTRICTS = 10
CUSTOMERS = 60  # a district
ITEMS = 1_000
_ROWS_A_STATEMENT = 1_000
_DEADLOCKS = frozenset({1205, 1213, 1020})

_SCHEMA = {
    "warehouse": "w_id SMALLINT NOT NULL PRIMARY KEY, w_name VARCHAR(10), w_street VARCHAR(40), w_tax DECIMAL(4,4), "
    "w_ytd DECIMAL(12,2)",
    "district": "d_id TINYINT NOT NULL, d_w_id SMALLINT NOT NULL, d_name VARCHAR(10), d_tax DECIMAL(4,4), "
    "d_ytd DECIMAL(12,2), d_next_o_id INT, PRIMARY KEY (d_w_id, d_id), "
    "FOREIGN KEY (d_w_id) REFERENCES warehouse (w_id)",
    "customer": "c_id INT NOT NULL, c_d_id TINYINT NOT NULL, c_w_id SMALLINT NOT NULL, c_first VARCHAR(16), "
    "c_last VARCHAR(16), c_since DATETIME, c_credit CHAR(2), c_discount DECIMAL(4,4), c_balance DECIMAL(12,2), "
    "c_payments SMALLINT UNSIGNED, c_deliveries SMALLINT UNSIGNED, c_data TEXT, PRIMARY KEY (c_w_id, c_d_id, c_id), "
    "KEY by_name (c_w_id, c_d_id, c_last), FOREIGN KEY (c_w_id, c_d_id) REFERENCES district (d_w_id, d_id)",
    "history": "h_id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, h_c_id INT, h_c_d_id TINYINT, h_c_w_id SMALLINT, "
    "h_date DATETIME(6), h_amount DECIMAL(6,2), h_data VARCHAR(24), "
    "FOREIGN KEY (h_c_w_id, h_c_d_id, h_c_id) REFERENCES customer (c_w_id, c_d_id, c_id)",
    "orders": "o_id INT NOT NULL, o_d_id TINYINT NOT NULL, o_w_id SMALLINT NOT NULL, o_c_id INT, "
    "o_entered TIMESTAMP(3) NULL, o_carrier TINYINT, o_lines TINYINT, PRIMARY KEY (o_w_id, o_d_id, o_id), "
    "FOREIGN KEY (o_w_id, o_d_id, o_c_id) REFERENCES customer (c_w_id, c_d_id, c_id)",
    "new_orders": "no_o_id INT NOT NULL, no_d_id TINYINT NOT NULL, no_w_id SMALLINT NOT NULL, "
    "PRIMARY KEY (no_w_id, no_d_id, no_o_id), "
    "FOREIGN KEY (no_w_id, no_d_id, no_o_id) REFERENCES orders (o_w_id, o_d_id, o_id)",
    "item": "i_id INT NOT NULL PRIMARY KEY, i_name VARCHAR(24), i_price DECIMAL(5,2), i_data VARCHAR(50)",
    "stock": "s_i_id INT NOT NULL, s_w_id SMALLINT NOT NULL, s_quantity SMALLINT, s_dist CHAR(24), "
    "s_ytd DECIMAL(8,0), s_orders SMALLINT, PRIMARY KEY (s_w_id, s_i_id), "
    "FOREIGN KEY (s_w_id) REFERENCES warehouse (w_id), FOREIGN KEY (s_i_id) REFERENCES item (i_id)",
    "order_line": "ol_o_id INT NOT NULL, ol_d_id TINYINT NOT NULL, ol_w_id SMALLINT NOT NULL, "
    "ol_number TINYINT NOT NULL, ol_i_id INT, ol_delivered DATETIME NULL, ol_quantity TINYINT, ol_amount DECIMAL(8,2), "
    "ol_dist CHAR(24), PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number), "
    "FOREIGN KEY (ol_w_id, ol_d_id, ol_o_id) REFERENCES orders (o_w_id, o_d_id, o_id), "
    "FOREIGN KEY (ol_w_id, ol_i_id) REFERENCES stock (s_w_id, s_i_id)",
}
TABLES = tuple(_SCHEMA)
_NAMES = ("BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING")


def create_tables(source: Server, database: str, warehouses: int) -> None:
    """Make the nine tables and their first rows; no orders yet."""
    chance = random.Random(1)
    rows: dict[str, list[tuple[Any, ...]]] = {
        "item": [
            (n, f"item {n}", chance.randrange(100, 10_000) / 100, "ORIGINAL" * (n % 7)) for n in range(1, ITEMS + 1)
        ]
    }
    for w in range(1, warehouses + 1):
        rows.setdefault("warehouse", []).append((w, f"W{w}", "Straße 1", chance.randrange(2000) / 10_000, 300_000))
        rows.setdefault("stock", []).extend(
            (n, w, chance.randint(10, 100), "s" * 24, 0, 0) for n in range(1, ITEMS + 1)
        )
        for d in range(1, DISTRICTS + 1):
            rows.setdefault("district", []).append((d, w, f"D{d}", 0.1, 30_000, 1))
            rows.setdefault("customer", []).extend(
                (
                    c,
                    d,
                    w,
                    f"Ünal {c}",
                    _NAMES[c % 10] + _NAMES[d % 10],
                    "2024-02-29 12:00:00",
                    "GC",
                    0.05,
                    -10,
                    1,
                    0,
                    "",
                )
                for c in range(1, CUSTOMERS + 1)
            )
    with contextlib.closing(source.connect(database)) as connection, connection.cursor() as cursor:
        for table, columns in _SCHEMA.items():
            cursor.execute(f"CREATE TABLE {table} ({columns}) ENGINE=InnoDB")
        for table in TABLES:
            for begin in range(0, len(rows.get(table, ())), _ROWS_A_STATEMENT):
                chunk = rows[table][begin : begin + _ROWS_A_STATEMENT]
                cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(chunk[0]))})", chunk)


class TpccWriter:
    """Threads that write until stopped. `counts` is what was committed and what was not, by kind."""

    def __init__(self, source: Server, database: str, *, warehouses: int, threads: int) -> None:
        self.counts: Counter[str] = Counter()
        self._source = source
        self._database = database
        self._warehouses = warehouses
        self._errors: list[Exception] = []
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the transactions at hand. Raises what a thread died of."""
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        kinds: tuple[Callable[[Any, random.Random], str], ...] = (_new_order, _pay, _deliver)
        try:
            with contextlib.closing(self._source.connect(self._database, autocommit=False)) as connection:
                while not self._is_stopping.is_set():
                    (kind,) = chance.choices(kinds, (48, 46, 6))
                    outcome = self._once(connection, chance, kind)
                    with self._lock:
                        self.counts[outcome] += 1
        except Exception as error:  # noqa: BLE001 - handed on by stop()
            self._errors.append(error)

    def _once(self, connection: Any, chance: random.Random, kind: Callable[[Any, random.Random], str]) -> str:
        with connection.cursor() as cursor:
            try:
                cursor.execute("BEGIN")
                outcome = kind(_Warehouse(cursor, chance.randint(1, self._warehouses)), chance)
            except pymysql.err.MySQLError as error:
                connection.rollback()
                if error.args[0] not in _DEADLOCKS:
                    raise
                return "dead-locks"
        if outcome == "roll-backs":
            connection.rollback()
        else:
            connection.commit()
        return outcome


class _Warehouse:
    """A cursor, and the warehouse that its terminal belongs to."""

    def __init__(self, cursor: Any, number: int) -> None:
        self.execute = cursor.execute
        self.executemany = cursor.executemany
        self.fetchone = cursor.fetchone
        self.number = number


def _new_order(at: _Warehouse, chance: random.Random) -> str:
    w, d, c = at.number, chance.randint(1, DISTRICTS), chance.randint(1, CUSTOMERS)
    at.execute("SELECT d_next_o_id FROM district WHERE d_w_id = %s AND d_id = %s FOR UPDATE", (w, d))
    (order,) = at.fetchone()
    at.execute("UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = %s AND d_id = %s", (w, d))
    lines = chance.randint(5, 15)
    at.execute("INSERT INTO orders VALUES (%s, %s, %s, %s, NOW(3), NULL, %s)", (order, d, w, c, lines))
    at.execute("INSERT INTO new_orders VALUES (%s, %s, %s)", (order, d, w))
    rows = []
    for number, item in enumerate(chance.sample(range(1, ITEMS + 1), lines), 1):
        quantity = chance.randint(1, 10)
        at.execute(
            "UPDATE stock SET s_quantity = IF(s_quantity >= %s, s_quantity - %s, s_quantity - %s + 91), "
            "s_ytd = s_ytd + %s, s_orders = s_orders + 1 WHERE s_w_id = %s AND s_i_id = %s",
            (quantity + 10, quantity, quantity, quantity, w, item),
        )
        rows.append(
            (order, d, w, number, item, None, quantity, quantity * chance.randrange(100, 10_000) / 100, "x" * 24)
        )
    at.executemany("INSERT INTO order_line VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", rows)
    return "roll-backs" if chance.random() < 0.01 else "orders"


def _pay(at: _Warehouse, chance: random.Random) -> str:
    w, d, c = at.number, chance.randint(1, DISTRICTS), chance.randint(1, CUSTOMERS)
    amount = chance.randrange(100, 500_000) / 100
    at.execute("UPDATE warehouse SET w_ytd = w_ytd + %s WHERE w_id = %s", (amount, w))
    at.execute("UPDATE district SET d_ytd = d_ytd + %s WHERE d_w_id = %s AND d_id = %s", (amount, w, d))
    at.execute(
        "UPDATE customer SET c_balance = c_balance - %s, c_payments = c_payments + 1, "
        "c_data = LEFT(CONCAT(%s, ' ', c_data), 300) WHERE c_w_id = %s AND c_d_id = %s AND c_id = %s",
        (amount, f"{c} {d} {w} {amount}", w, d, c),
    )
    at.execute(
        "INSERT INTO history (h_c_id, h_c_d_id, h_c_w_id, h_date, h_amount, h_data) "
        "VALUES (%s, %s, %s, NOW(6), %s, %s)",
        (c, d, w, amount, f"W{w}    D{d}"),
    )
    return "payments"


def _deliver(at: _Warehouse, chance: random.Random) -> str:
    """The oldest new order of every district."""
    w, carrier = at.number, chance.randint(1, 10)
    for d in range(1, DISTRICTS + 1):
        at.execute("SELECT MIN(no_o_id) FROM new_orders WHERE no_w_id = %s AND no_d_id = %s", (w, d))
        (order,) = at.fetchone()
        if order is None:
            continue
        if not at.execute("DELETE FROM new_orders WHERE no_w_id = %s AND no_d_id = %s AND no_o_id = %s", (w, d, order)):
            continue  # another thread delivers it
        of_order = (w, d, order)
        at.execute(
            "UPDATE orders SET o_carrier = %s WHERE o_w_id = %s AND o_d_id = %s AND o_id = %s", (carrier, *of_order)
        )
        at.execute(
            "UPDATE order_line SET ol_delivered = NOW() WHERE ol_w_id = %s AND ol_d_id = %s AND ol_o_id = %s", of_order
        )
        at.execute(
            "UPDATE customer SET c_deliveries = c_deliveries + 1, c_balance = c_balance + (SELECT SUM(ol_amount) "
            "FROM order_line WHERE ol_w_id = %s AND ol_d_id = %s AND ol_o_id = %s) WHERE c_w_id = %s AND c_d_id = %s "
            "AND c_id = (SELECT o_c_id FROM orders WHERE o_w_id = %s AND o_d_id = %s AND o_id = %s)",
            (*of_order, w, d, *of_order),
        )
    return "deliveries"
