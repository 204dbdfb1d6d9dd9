"""What is looked at while everything goes wrong, and after: promises that hold at every moment, and leaks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from cdc.model import FilePos
from tests.support.deployment import Deployment
from tests.torture.writers import ACCOUNTS, BALANCE

__all__ = ["BrokenPromise", "Process", "SinkReader", "leftovers"]


class BrokenPromise(AssertionError):
    """What the service promises did not hold."""


class SinkReader(threading.Thread):
    """A client of one sink: the accounts' sum is always what it was, and the checkpoint never goes back."""

    def __init__(self, made: Deployment, name: str) -> None:
        super().__init__(name=f"reader of {name}", daemon=True)
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self._made = made
        self._name = name
        self._pipeline = f"{made.config['name']}/{name}"
        self._server, self._database = made.sinks[name]
        self._is_over = threading.Event()
        self._sequence = 0
        self._file: FilePos | None = None

    def stop(self) -> None:
        self._is_over.set()
        self.join(60)

    def run(self) -> None:
        while not self._is_over.wait(0.05):
            try:
                with contextlib.closing(self._server.connect(self._database, connect_timeout=3)) as connection:
                    while not self._is_over.wait(0.05):
                        self._look(connection)
            except AssertionError as error:
                self.problems.append(str(error))
                return
            except Exception:  # noqa: BLE001 - the server is down, or has ended our session
                self.counts["looks in vain"] += 1

    def _look(self, connection: Any) -> None:
        is_pg = self._server.family == "postgresql"
        source = self._made.source_database
        accounts = f'"{source}".accounts' if is_pg else "accounts"
        tables, checkpoint = ('"_cdc"."tables"', '"_cdc"."checkpoint"') if is_pg else ("_cdc_tables", "_cdc_checkpoint")
        with connection.cursor() as cursor:
            # Of the sink's own pipeline: side pipelines come and go.
            cursor.execute(f"SELECT sequence, position FROM {checkpoint} WHERE pipeline = %s", (self._pipeline,))
            rows = cursor.fetchall()
            if rows and rows[0][1]:
                self._see_checkpoint(*rows[0])
            # The state before the sum and after it: between them the table was what a reader may believe.
            states = []
            for _ in range(2):
                cursor.execute(f"SELECT state FROM {tables} WHERE source_table LIKE '%%accounts%%'")
                states.append(cursor.fetchall())
                if len(states) == 1:
                    cursor.execute(f"SELECT sum(balance), count(*) FROM {accounts}")
                    total, count = cursor.fetchall()[0]
            if [[row[0] for row in one] for one in states] == [["ready"], ["ready"]]:
                self.counts["looks"] += 1
                assert (int(total or 0), count) == (ACCOUNTS * BALANCE, ACCOUNTS), (
                    f"a reader of {self._name} sees {count} accounts with {total}: part of a transaction"
                )

    def _see_checkpoint(self, sequence: int, text: str) -> None:
        assert sequence >= self._sequence, f"the checkpoint of {self._name} went from {self._sequence} to {sequence}"
        self._sequence = sequence
        position = orjson.loads(text)
        if position["file"] is None:
            return
        file = FilePos.of(position["file"], position["pos"])
        assert self._file is None or file >= self._file, f"{self._name} went back from {self._file} to {file}"
        self._file = file


class Process:
    """What the operating system says of the running service."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(name + ":")).split()[1])

    @property
    def threads(self) -> int:
        return self._status("Threads")

    @property
    def memory_mib_max(self) -> int:
        """The most that has been resident since its start."""
        return self._status("VmHWM") // 1024

    @property
    def files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def leftovers(made: Deployment) -> list[str]:
    """What a service that has ended has left at the sinks: sessions, open transactions, temporary tables."""
    found: list[str] = []
    for name, (server, database) in made.sinks.items():
        deadline = time.monotonic() + 60
        while True:
            if server.family == "postgresql":
                rows = server.execute(
                    "SELECT pid, state, query FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                    (database,),
                )
                rows += server.execute(
                    "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
                    "WHERE relpersistence = 't' AND relkind = 'r'",
                    database=database,
                )
            else:
                rows = server.execute(
                    "SELECT ID, COMMAND, INFO FROM information_schema.PROCESSLIST "
                    "WHERE DB = %s AND ID <> CONNECTION_ID()",
                    (database,),
                )
            if not rows or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found += [f"{name}: {row}" for row in rows]
    return found
