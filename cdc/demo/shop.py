"""The demonstration's shop: its tables, their first rows, and a writer that never leaves them alone.

Plain SQL that MySQL and MariaDB share. `accounts` is there for one property: transfers move money between its rows,
so the sum of all balances is the same after every transaction; a reader that sees half of one sees another sum.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cdc.demo.servers import Server

__all__ = ["ACCOUNT_SUM", "DATABASE", "LATE_TABLE", "ShopWriter", "create_late_table", "create_shop"]

DATABASE = "shop"
LATE_TABLE = "reviews"
_ACCOUNTS, _BALANCE = 200, 10_000
ACCOUNT_SUM = _ACCOUNTS * _BALANCE
_CUSTOMERS, _PRODUCTS, _ORDERS, _EVENTS = 2_000, 400, 5_000, 3_000

_SCHEMA = (
    """CREATE TABLE accounts (id INT PRIMARY KEY, owner VARCHAR(60) NOT NULL, balance BIGINT NOT NULL)""",
    """CREATE TABLE customers (
        id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, name VARCHAR(80) NOT NULL, email VARCHAR(120) NULL,
        newsletter TINYINT(1) NOT NULL, born DATE NULL, token BINARY(16) NOT NULL,
        created TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3))""",
    """CREATE TABLE products (
        sku CHAR(8) PRIMARY KEY, title VARCHAR(120) NOT NULL, description TEXT NULL, price DECIMAL(10,2) NOT NULL,
        weight FLOAT NULL, tags SET('new','sale','gift','fragile') NOT NULL, attributes JSON NULL)""",
    """CREATE TABLE orders (
        id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, customer_id INT UNSIGNED NOT NULL,
        state ENUM('new','paid','shipped','returned') NOT NULL, total DECIMAL(12,2) NOT NULL,
        discount DOUBLE NULL, placed DATETIME(6) NOT NULL, note VARCHAR(200) NULL)""",
    """CREATE TABLE order_items (
        order_id BIGINT UNSIGNED NOT NULL, line SMALLINT NOT NULL, sku CHAR(8) NOT NULL, quantity INT NOT NULL,
        price DECIMAL(10,2) NOT NULL, PRIMARY KEY (order_id, line))""",
    """CREATE TABLE events (
        id BIGINT AUTO_INCREMENT PRIMARY KEY, at DATETIME(6) NOT NULL, kind VARCHAR(20) NOT NULL, took TIME(3) NULL,
        score DOUBLE NULL, payload BLOB NULL, year YEAR NULL)""",
)
_LATE_SCHEMA = f"""CREATE TABLE {LATE_TABLE} (
    id INT AUTO_INCREMENT PRIMARY KEY, sku CHAR(8) NOT NULL, stars TINYINT UNSIGNED NOT NULL, body TEXT NULL)"""

_NAMES = (
    "Zoë Müller",
    "Łukasz Żółć",
    "Иван Петров",
    "Ελένη Παπαδάκη",
    "李小龍",
    "山田 花子",
    "김민준",
    "فاطمة الزهراء",
    "אברהם לוי",
    "अनिता शर्मा",
    "สมชาย ใจดี",
    "O'Brien \\ Sons",
)
_TITLES = ("Chair", "Fauteuil", "Стол", "椅子", "책상", "مصباح", "Τραπέζι", "🪑 stool", "Lampe", "कुर्सी")
_NOTES = (None, "", "call first", "line one\nline two", "tab\there", "quote ' and \\ backslash", "👋🏽 thanks")
_STATES = ("new", "paid", "shipped", "returned")
_TAGS = ("", "new", "sale", "new,gift", "sale,gift,fragile")
_FIRST_DAY = datetime.datetime(2024, 1, 1)  # noqa: DTZ001 - DATETIME has no zone
_SEED_ROWS = 1_000  # per statement


# ---------------------------------------------------------------- rows


def _sku(number: int) -> str:
    return f"SKU{number:05}"


def _moment(chance: random.Random) -> datetime.datetime:
    return _FIRST_DAY + datetime.timedelta(microseconds=chance.randrange(10**13))


def _customer(chance: random.Random) -> tuple[Any, ...]:
    born = datetime.date(1930, 1, 1) + datetime.timedelta(days=chance.randrange(28_000))
    email = None if chance.random() < 0.1 else f"user{chance.randrange(10**9)}@example.org"
    return chance.choice(_NAMES), email, chance.randrange(2), chance.choice((None, born)), chance.randbytes(16)


def _product(chance: random.Random, number: int) -> tuple[Any, ...]:
    attributes = {"colour": chance.choice(("rot", "青", None)), "size": [number % 7, 2.5], "in stock": bool(number % 2)}
    return (
        _sku(number),
        f"{chance.choice(_TITLES)} {number}",
        chance.choice((None, "Made of wood. " * 5, "木製です。" * 5)),
        f"{chance.randrange(1, 99_999) / 100:.2f}",
        chance.choice((None, chance.random() * 50)),
        chance.choice(_TAGS),
        json.dumps(attributes, ensure_ascii=False),
    )


def _order(chance: random.Random) -> tuple[Any, ...]:
    return (
        chance.randrange(1, _CUSTOMERS + 1),
        chance.choice(_STATES),
        f"{chance.randrange(100, 10**6) / 100:.2f}",
        chance.choice((None, 0.1, 1 / 3)),
        _moment(chance),
        chance.choice(_NOTES),
    )


def _items(chance: random.Random, order: int, count: int) -> list[tuple[Any, ...]]:
    return [
        (order, line, _sku(chance.randrange(_PRODUCTS)), chance.randrange(1, 9), f"{chance.randrange(1, 9999) / 100}")
        for line in range(1, count + 1)
    ]


def _event(chance: random.Random) -> tuple[Any, ...]:
    took = datetime.timedelta(milliseconds=chance.randrange(-(10**6), 10**8))
    return (
        _moment(chance),
        chance.choice(("view", "click", "sök", "購入")),
        chance.choice((None, took)),
        chance.gauss(0, 1e6),
        chance.choice((None, chance.randbytes(chance.randrange(60)))),
        chance.choice((None, chance.randrange(1901, 2156))),
    )


_INSERTS = {
    "accounts": "INSERT INTO accounts (id, owner, balance) VALUES (%s, %s, %s)",
    "customers": "INSERT INTO customers (name, email, newsletter, born, token) VALUES (%s, %s, %s, %s, %s)",
    "products": "INSERT INTO products (sku, title, description, price, weight, tags, attributes) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s)",
    "orders": "INSERT INTO orders (customer_id, state, total, discount, placed, note) VALUES (%s, %s, %s, %s, %s, %s)",
    "order_items": "INSERT INTO order_items (order_id, line, sku, quantity, price) VALUES (%s, %s, %s, %s, %s)",
    "events": "INSERT INTO events (at, kind, took, score, payload, year) VALUES (%s, %s, %s, %s, %s, %s)",
    LATE_TABLE: f"INSERT INTO {LATE_TABLE} (sku, stars, body) VALUES (%s, %s, %s)",
}


def create_shop(source: Server) -> tuple[int, int]:
    """Make the database, its tables and their first rows; how many tables and rows."""
    source.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
    chance = random.Random(1)
    rows: dict[str, list[tuple[Any, ...]]] = {
        "accounts": [(n, chance.choice(_NAMES), _BALANCE) for n in range(_ACCOUNTS)],
        "customers": [_customer(chance) for _ in range(_CUSTOMERS)],
        "products": [_product(chance, n) for n in range(_PRODUCTS)],
        "orders": [_order(chance) for _ in range(_ORDERS)],
        "order_items": [item for n in range(1, _ORDERS + 1) for item in _items(chance, n, chance.randint(1, 3))],
        "events": [_event(chance) for _ in range(_EVENTS)],
    }
    with contextlib.closing(source.connect(DATABASE)) as connection, connection.cursor() as cursor:
        for statement in _SCHEMA:
            cursor.execute(statement)
        for table, values in rows.items():
            for begin in range(0, len(values), _SEED_ROWS):
                cursor.executemany(_INSERTS[table], values[begin : begin + _SEED_ROWS])
    return len(rows), sum(map(len, rows.values()))


def create_late_table(source: Server) -> None:
    """The table that comes while the service runs."""
    source.execute(_LATE_SCHEMA, database=DATABASE)


# ---------------------------------------------------------------- the writer


class ShopWriter:
    """Writes transactions in a thread until stopped.

    `transactions` and `rows` are what was committed; `error` is what it died of. `has_late_table` tells it to use that
    table too.
    """

    def __init__(self, source: Server, *, pause_seconds: float = 0.003) -> None:
        self.transactions = 0
        self.rows = 0
        self.error: BaseException | None = None
        self.has_late_table = False
        self._source = source
        self._pause_seconds = pause_seconds
        self._chance = random.Random(2)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        # What it does, and how often of 100 times.
        self._kinds: Sequence[tuple[int, Callable[[Any], int]]] = (
            (25, self._transfer),
            (25, self._buy),
            (15, self._move_on),
            (10, self._change_customer),
            (8, self._cancel),
            (6, self._change_keys),
            (6, self._reprice),
            (4, self._review),
            (1, self._bulk),
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the transaction at hand. May be called again."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        weights, kinds = zip(*self._kinds, strict=True)
        try:
            with contextlib.closing(self._source.connect(DATABASE)) as connection:
                connection.autocommit(False)
                while not self._is_stopping.wait(self._pause_seconds):
                    rows = 0
                    with connection.cursor() as cursor:
                        for kind in self._chance.choices(kinds, weights, k=self._chance.randint(1, 3)):
                            rows += kind(cursor)
                    if self._chance.random() < 0.03:
                        connection.rollback()  # never happened, for anybody
                        continue
                    connection.commit()
                    self.transactions += 1
                    self.rows += rows
        except Exception as error:  # noqa: BLE001 - handed to whoever watches the writer
            self.error = error

    # -- what it does; each returns how many rows it changed

    def _transfer(self, cursor: Any) -> int:
        amount = self._chance.randrange(1, 500)
        one, other = self._chance.sample(range(_ACCOUNTS), 2)
        cursor.execute("UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, one))
        cursor.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, other))
        return 2

    def _buy(self, cursor: Any) -> int:
        cursor.execute(_INSERTS["orders"], _order(self._chance))
        items = _items(self._chance, cursor.lastrowid, self._chance.randint(1, 6))
        cursor.executemany(_INSERTS["order_items"], items)
        cursor.execute(_INSERTS["events"], _event(self._chance))
        return 2 + len(items)

    def _move_on(self, cursor: Any) -> int:
        state, order = self._chance.choice(_STATES), self._chance.randrange(1, _ORDERS * 2)
        return int(cursor.execute("UPDATE orders SET state = %s, note = %s WHERE id = %s", (state, state, order)))

    def _change_customer(self, cursor: Any) -> int:
        name, email, newsletter, *_ = _customer(self._chance)
        customer = self._chance.randrange(1, _CUSTOMERS)
        sql = "UPDATE customers SET name = %s, email = %s, newsletter = %s WHERE id = %s"
        return int(cursor.execute(sql, (name, email, newsletter, customer)))

    def _cancel(self, cursor: Any) -> int:
        order = self._chance.randrange(1, _ORDERS * 2)
        count = int(cursor.execute("DELETE FROM order_items WHERE order_id = %s", (order,)))
        return count + int(cursor.execute("DELETE FROM orders WHERE id = %s", (order,)))

    def _change_keys(self, cursor: Any) -> int:
        """Rows whose primary key changes: gone under the old one, there under the new one."""
        order, shift = self._chance.randrange(1, _ORDERS), self._chance.choice((10, -10))
        bounds = (1, 100) if shift > 0 else (11, 200)
        sql = "UPDATE IGNORE order_items SET line = line + %s WHERE order_id = %s AND line BETWEEN %s AND %s"
        return int(cursor.execute(sql, (shift, order, *bounds)))

    def _reprice(self, cursor: Any) -> int:
        product = _product(self._chance, self._chance.randrange(_PRODUCTS))
        cursor.execute(_INSERTS["products"].replace("INSERT", "REPLACE"), product)
        return 1

    def _review(self, cursor: Any) -> int:
        if not self.has_late_table:
            return 0
        sku, stars = _sku(self._chance.randrange(_PRODUCTS)), self._chance.randrange(6)
        cursor.execute(_INSERTS[LATE_TABLE], (sku, stars, self._chance.choice(_NOTES)))
        return 1

    def _bulk(self, cursor: Any) -> int:
        """Several hundred rows of two tables in one transaction."""
        begin = self._chance.randrange(1, _EVENTS)
        count = int(cursor.execute("UPDATE events SET score = -score WHERE id BETWEEN %s AND %s + 400", (begin, begin)))
        cursor.executemany(_INSERTS["events"], [_event(self._chance) for _ in range(100)])
        return count + 100
