"""Clients of the source: random transactions on every table, over several connections, through whatever goes wrong.

What the server refuses is part of it: duplicate keys, dead-locks, values that do not fit a column that DDL has just
made smaller, connections that are gone. A client goes on until it is told to stop; what it committed is what the
server says.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pymysql

from cdc.demo.servers import Server
from cdc.model import TableName
from cdc.source.connection import SourceSettings, connect
from cdc.source.definitions import read_definition
from tests.support.foreign_keys import FAMILY, family_statement
from tests.support.random_ddl import RandomDdl
from tests.torture.schema import Column, columns_of, value

__all__ = [
    "ACCOUNTS",
    "BALANCE",
    "FAMILY_MARKS",
    "JOURNAL",
    "MARKS",
    "Client",
    "DdlClient",
    "create_fixed_tables",
    "end_xa",
]

ACCOUNTS = 20
BALANCE = 1000
JOURNAL = "journal"
MARKS, FAMILY_MARKS = "marks", "family_marks"
_BULK_ROWS = 3000


def create_fixed_tables(server: Server, database: str) -> None:
    """`accounts` has a sum that stays, `journal` is kept as changes, the marks say how far the lanes of a sink are.

    Behind them the family of foreign keys.
    """
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL)")
        cursor.execute(f"CREATE TABLE {MARKS} (id INT PRIMARY KEY)")
        cursor.execute(f"CREATE TABLE {FAMILY_MARKS} (id INT PRIMARY KEY)")
        cursor.executemany("INSERT INTO accounts VALUES (%s, %s)", [(n, BALANCE) for n in range(ACCOUNTS)])
        cursor.execute(
            f"CREATE TABLE {JOURNAL} (id BIGINT AUTO_INCREMENT PRIMARY KEY, version INT NOT NULL, note TEXT)"
        )
        for statement in FAMILY:
            cursor.execute(statement)


class _Thread:
    """Works until told to stop; `error` is what it died of."""

    def __init__(self, name: str) -> None:
        self.counts: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._is_stopping = threading.Event()
        self._is_held = threading.Event()
        self._is_idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hold(self) -> None:
        """Rest after what is being done now (`is_idle`); it goes on with `release`."""
        self._is_idle.clear()
        self._is_held.set()

    @property
    def is_idle(self) -> bool:
        """Does it rest, with nothing open?"""
        return self._is_idle.is_set() or not self._thread.is_alive()

    def release(self) -> None:
        self._is_held.clear()

    def stop(self) -> None:
        self._is_stopping.set()
        self._is_held.clear()
        self._thread.join(60)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set():
                if self._is_held.is_set():
                    self._rest()
                    self._is_idle.set()
                    time.sleep(0.02)
                    continue
                self._work()
        except BaseException as error:  # noqa: BLE001 - raised by stop()
            self.error = error
        finally:
            self._rest()

    def _work(self) -> None:
        raise NotImplementedError

    def _rest(self) -> None:
        """Leave nothing open."""


class Client(_Thread):
    """One connection, and what it does to `tables`."""

    def __init__(self, server: Server, database: str, tables: list[str], seed: str, *, pause_seconds: float) -> None:
        super().__init__(f"client {seed}")
        self._server = server
        self._database = database
        self._tables = tables
        self._random = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._connection: Any = None
        self._columns: dict[str, list[Column]] = {}
        self._xa_count = 0
        self._seed = seed

    def _work(self) -> None:
        try:
            if self._connection is None:
                self._connection = self._server.connect(self._database, autocommit=False, connect_timeout=5)
                self._connection.cursor().execute("SET SESSION innodb_lock_wait_timeout = 3, lock_wait_timeout = 5")
            self._transaction()
        except (pymysql.err.OperationalError, pymysql.err.InterfaceError, OSError) as error:
            self.counts[f"client error {error.args[0] if error.args else type(error).__name__}"] += 1
            if error.args and error.args[0] in (1205, 1213, 1412, 1615, 3572):
                self._columns.clear()
                self._roll_back()
            else:
                self._hang_up()
                time.sleep(0.1)
        except (pymysql.err.MySQLError, ValueError) as error:
            self.counts[f"client error {error.args[0] if error.args else type(error).__name__}"] += 1
            self._columns.clear()
            self._roll_back()
        time.sleep(self._random.uniform(0, self._pause_seconds))

    def _rest(self) -> None:
        self._hang_up()

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except (pymysql.err.MySQLError, OSError):
            self._hang_up()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    # ------------------------------------------------------------ transactions

    def _transaction(self) -> None:
        rng = self._random
        with self._connection.cursor() as cursor:
            choice = rng.random()
            if choice < 0.05:
                self._xa(cursor)
                return
            if choice < 0.08:
                self._bulk(cursor)
            elif choice < 0.2:
                self._family(cursor)
            else:
                for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
                    self._change(cursor)
            if rng.random() < 0.06:
                self._connection.rollback()
                self.counts["transactions rolled back"] += 1
                return
            self._connection.commit()
            self.counts["transactions"] += 1

    def _family(self, cursor: Any) -> None:
        """Parents and children; what one statement is refused is no reason to give the others up."""
        has_checks = self._random.random() > 0.06
        cursor.execute(f"SET foreign_key_checks = {int(has_checks)}")
        try:
            for _ in range(self._random.choice((1, 1, 2, 6))):
                with contextlib.suppress(pymysql.err.IntegrityError):
                    self.counts["rows"] += cursor.execute(family_statement(self._random))
                    self.counts["statements on parents and children"] += 1
        finally:
            if not has_checks:
                cursor.execute("SET foreign_key_checks = 1")

    def _xa(self, cursor: Any) -> None:
        """Prepared, and ended at once, later by another connection (`end_xa`), or rolled back."""
        self._xa_count += 1
        name = f"'t{self._seed}','{self._xa_count}'"
        self._connection.rollback()
        cursor.execute(f"XA START {name}")
        try:
            self._change(cursor)
            self._change(cursor)
        finally:
            cursor.execute(f"XA END {name}")
        cursor.execute(f"XA PREPARE {name}")
        self.counts["XA transactions"] += 1
        if self._random.random() < 0.3:
            self._hang_up()  # it stays prepared until somebody ends it
            return
        cursor.execute(f"XA {self._random.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))} {name}")

    def _bulk(self, cursor: Any) -> None:
        """Thousands of rows at once."""
        cursor.execute(f"INSERT INTO {JOURNAL} (version, note) VALUES " + ",".join(["(1,'bulk')"] * _BULK_ROWS))
        self.counts["rows"] += _BULK_ROWS
        if self._random.random() < 0.5:
            table = self._random.choice(self._tables)
            self.counts["rows"] += cursor.execute(f"DELETE FROM {table}")
        self.counts["bulk transactions"] += 1

    # ------------------------------------------------------------ statements

    def _change(self, cursor: Any) -> None:
        choice = self._random.random()
        if choice < 0.15:
            self._transfer(cursor)
        elif choice < 0.25:
            self._journal(cursor)
        else:
            table = self._random.choice(self._tables)
            self.counts["rows"] += self._change_of(cursor, table)

    def _transfer(self, cursor: Any) -> None:
        one, other = self._random.sample(range(ACCOUNTS), 2)
        amount = self._random.randint(1, 50)
        cursor.execute("UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, one))
        cursor.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, other))
        self.counts["rows"] += 2

    def _journal(self, cursor: Any) -> None:
        if self._random.random() < 0.6:
            cursor.execute(f"INSERT INTO {JOURNAL} (version, note) VALUES (1, 'new'), (1, NULL)")
            self.counts["rows"] += 2
        else:
            at = self._random.randint(1, 200)
            self.counts["rows"] += cursor.execute(
                f"UPDATE {JOURNAL} SET version = version + 1 WHERE id BETWEEN {at} AND {at + 3}"
            )

    def _change_of(self, cursor: Any, table: str) -> int:
        rng = self._random
        columns = self._columns.get(table)
        if columns is None:
            columns = self._columns[table] = columns_of(cursor, self._database, table)
        if not columns:
            return 0
        names = ", ".join(f"`{c.name.replace('`', '``')}`" for c in columns if not c.is_automatic)
        choice = rng.random()
        if choice < 0.5:
            verb = rng.choice(("INSERT", "INSERT", "REPLACE", "INSERT IGNORE"))
            rows = ", ".join(self._row(columns) for _ in range(rng.choice((1, 1, 1, 3, 30))))
            return int(cursor.execute(f"{verb} INTO {table} ({names}) VALUES {rows}"))
        where, limit = self._where(columns), rng.choice(("LIMIT 1", "LIMIT 5", ""))
        if choice < 0.8:
            changed = rng.sample(columns, min(len(columns), rng.randint(1, 3)))
            assignments = ", ".join(f"`{c.name.replace('`', '``')}` = {value(c, rng)}" for c in changed)
            ignore = "IGNORE " if rng.random() < 0.3 else ""
            return int(cursor.execute(f"UPDATE {ignore}{table} SET {assignments} WHERE {where} {limit}"))
        return int(cursor.execute(f"DELETE FROM {table} WHERE {where} {limit or 'LIMIT 20'}"))

    def _row(self, columns: list[Column]) -> str:
        return "(" + ", ".join(value(c, self._random) for c in columns if not c.is_automatic) + ")"

    def _where(self, columns: list[Column]) -> str:
        keys = [c for c in columns if c.is_key]
        if not keys:
            return "1"
        key = self._random.choice(keys)
        return f"{key.name} {self._random.choice(('=', '>=', '<='))} {value(key, self._random)}"


class DdlClient(_Thread):
    """DDL now and then, on the tables that may have any."""

    def __init__(
        self,
        server: Server,
        database: str,
        tables: list[str],
        seed: int,
        *,
        pause_seconds: float,
        on_ddl: Callable[[str], None],
    ) -> None:
        super().__init__("ddl")
        self._server = server
        self._database = database
        self._tables = tables
        self._random = random.Random(seed)
        self._ddl = RandomDdl(seed)
        self._pause_seconds = pause_seconds
        self._on_ddl = on_ddl

    def _work(self) -> None:
        until = time.monotonic() + self._random.uniform(0, 2 * self._pause_seconds)
        while time.monotonic() < until and not self._is_held.is_set() and not self._is_stopping.is_set():
            time.sleep(0.05)
        if self._is_held.is_set() or self._is_stopping.is_set():
            return
        table = self._random.choice(self._tables)
        statement = f"TRUNCATE TABLE {table}" if self._random.random() < 0.1 else self._alter(table)
        if statement is None:
            return
        if self._ddl.execute(self._server, self._database, statement):
            self.counts["DDLs"] += 1
            self._on_ddl(statement)
        else:
            self.counts["DDLs refused"] += 1

    def _alter(self, table: str) -> str | None:
        server = self._server
        settings = SourceSettings(server.host, server.port, server.user, server.password, 7)
        try:
            with connect(settings) as source:
                definition = read_definition(source, TableName(self._database, table))
        except Exception:  # noqa: BLE001 - the server may just be down
            return None
        return None if definition is None else f"ALTER TABLE {table} {self._ddl.actions(definition)}"


def end_xa(server: Server, rng: random.Random) -> int:
    """End what is prepared and nobody's any more: half of it is committed."""
    count = 0
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("XA RECOVER")
        for format_id, length, _, data in cursor.fetchall():
            raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data)
            verb = rng.choice(("COMMIT", "ROLLBACK"))
            with contextlib.suppress(pymysql.err.MySQLError):  # its own session may still be about to end it
                cursor.execute(f"XA {verb} x'{raw[:length].hex()}', x'{raw[length:].hex()}', {format_id}")
                count += 1
    return count
