"""Loads that are cut off go on with the chunks that are missing, whatever the key is and whatever moves meanwhile.

kill -9 at every point of a load, again and again, under a writer that inserts, updates, deletes and changes keys all
over the table: in the end the target is the source. `load_resumed` in the log says that chunks were kept;
tests/integration/test_resumed_loads.py shows that they are not read again.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.pool import SOURCES

pytestmark = pytest.mark.crash

ROWS = 600
CHUNK_ROWS = 15
# How often each point is passed before it kills: in each run a few chunks more are done, until all of them are.
POINTS = (
    "load_begun:1",
    "load_chunk:3",
    "load_chunk_committed:3",
    "load_chunk:5",
    "load_chunk_committed:4",
    "load_begun:1",
    "load_chunk:2",
    "load_chunk_committed:6",
    "load_done:1",
    "load_recorded:1",
)


@dataclass(frozen=True)
class Key:
    """A key's columns, and the values of key number n, as SQL parameters; numbers are spread by chance."""

    columns: str
    names: tuple[str, ...]
    values: Callable[[int], tuple[Any, ...]]


def _word(number: int) -> str:
    """Words of which a case-insensitive order makes something else than a binary one."""
    letters = "aBcDéFgHßJ"
    text = "".join(letters[int(digit)] for digit in f"{number * 7919 % 1_000_000:06}")
    return text.upper() if number % 3 == 0 and "ß" not in text else text


KEYS = {
    "int": Key("k INT NOT NULL", ("k",), lambda n: (n * 7919 % 1_000_003 - 500_000,)),
    "composite": Key(
        "a VARCHAR(20) NOT NULL, b SMALLINT UNSIGNED NOT NULL, c BIGINT NOT NULL",
        ("a", "b", "c"),
        lambda n: (f"group {n % 3}", n % 50, -n),  # few values of the first column: borders lie inside them
    ),
    "varchar_ci": Key(
        "k VARCHAR(30) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL",
        ("k",),
        lambda n: (f"{_word(n)}{n}",),
    ),
    "binary": Key(
        "k BINARY(16) NOT NULL", ("k",), lambda n: ((n * 0x9E3779B97F4A7C15 % 2**128).to_bytes(16, "little"),)
    ),
    "date": Key(
        "k DATE NOT NULL, j DATETIME(3) NOT NULL",
        ("k", "j"),
        lambda n: (
            f"{1000 + n % 97}-{n % 12 + 1:02}-{n % 28 + 1:02}",
            f"2024-01-01 00:{n // 60 % 60:02}:{n % 60:02}.{n % 1000:03}",
        ),
    ),
}


class Mover(threading.Thread):
    """Changes rows all over the table, their keys too, until it is stopped."""

    def __init__(self, server: Server, database: str, key: Key) -> None:
        super().__init__(daemon=True)
        self._server, self._database, self._key = server, database, key
        self._random = random.Random(5)
        self._is_stopping = threading.Event()
        self.count = 0
        self.error: BaseException | None = None

    def stop(self) -> None:
        self._is_stopping.set()
        self.join()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            with contextlib.closing(self._server.connect(self._database)) as connection:
                cursor = connection.cursor()
                while not self._is_stopping.wait(0.002):
                    self._change(cursor)
                    connection.commit()
                    self.count += 1
        except Exception as error:  # noqa: BLE001 - raised by stop()
            self.error = error

    def _change(self, cursor: Any) -> None:
        key = self._key
        where = " AND ".join(f"{name} = %s" for name in key.names)
        moved = ", ".join(f"{name} = %s" for name in key.names)
        one, other = (key.values(self._random.randrange(2 * ROWS)) for _ in range(2))
        choice = self._random.random()
        if choice < 0.4:
            cursor.execute(f"UPDATE IGNORE t SET {moved}, v = v + 1 WHERE {where}", (*other, *one))
        elif choice < 0.6:
            cursor.execute(f"UPDATE t SET v = v + 1, s = REPEAT('x', v %% 50) WHERE {where}", one)
        elif choice < 0.8:
            cursor.execute(f"DELETE FROM t WHERE {where}", one)
        else:
            marks = ", ".join(["%s"] * len(key.names))
            cursor.execute(f"INSERT IGNORE INTO t VALUES ({marks}, 0, 'new')", one)


def _cases() -> list[tuple[str, str, str]]:
    return [
        (name, SOURCES[(number + offset) % len(SOURCES)], sink)
        for number, name in enumerate(KEYS)
        for offset, sink in enumerate(("pg15", "mariadb1011"))
    ]


@pytest.mark.parametrize("key_name,source_name,sink_name", _cases())
def test_a_load_that_is_killed_again_and_again_goes_on_and_ends_equal(
    key_name: str, source_name: str, sink_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Server = request.getfixturevalue(source_name)
    sink: Server = request.getfixturevalue(sink_name)
    with deployment(tmp_path, source, sink=sink) as made:
        made.config["snapshot"] = {"chunk_rows": CHUNK_ROWS, "workers": 3}
        key = KEYS[key_name]
        fill(source, made.source_database, key)
        mover = Mover(source, made.source_database, key)
        mover.start()
        try:
            for point in POINTS:
                made.start(crash_at=point)
                made.wait_until_killed()
        finally:
            mover.stop()
        assert mover.count > 20, "a writer that does nothing shows nothing"
        made.catch_up()
        made.assert_equal("t")
        kept = [line["chunks"] for line in _lines(made, "load_resumed")]
        assert len(kept) >= 5, kept
        assert kept[-1] > kept[0], "chunks of one run are there for the next"


def fill(server: Server, database: str, key: Key) -> None:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE t ({key.columns}, v INT NOT NULL, s VARCHAR(200) NULL, PRIMARY KEY ({', '.join(key.names)}))"
        )
        marks = ", ".join(["%s"] * len(key.names))
        rows = [(*key.values(n), n, f"row {n}") for n in range(ROWS)]
        cursor.executemany(f"INSERT INTO t VALUES ({marks}, %s, %s)", rows)
        connection.commit()


def _lines(made: Deployment, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in made.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]
