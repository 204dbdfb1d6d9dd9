"""Random statements on tables that come, go and change names, with rows in between; from a seed.

The statements are the same for a seed and a server; which of them a kill falls on is not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from cdc.demo.servers import Server
from cdc.model import TableName
from cdc.source.connection import SourceConnection
from cdc.source.definitions import read_definition
from tests.support.random_ddl import RandomDdl

__all__ = ["RandomTables"]

_COLUMNS = (
    "a INT",
    "b VARCHAR(20) NOT NULL DEFAULT 'so'",
    "c DECIMAL(10,2)",
    "d DATETIME(3) NULL",
    "e ENUM('x','y')",
    "f BIGINT UNSIGNED NOT NULL",
    "g TEXT",
)
_NAMES = tuple(f"n{number}" for number in range(6))


class RandomTables:
    """A handful of names in one database, each of a table or free. Every table has the primary key `id INT`."""

    def __init__(self, seed: int, server: Server, database: str, source: SourceConnection) -> None:
        """`source` reads definitions."""
        self.tables: set[str] = set()
        self.counts: Counter[str] = Counter()
        """How many of each kind the server took."""
        self._random = random.Random(seed)
        self._ddl = RandomDdl(seed, is_simple=True)
        self._server = server
        self._database = database
        self._source = source
        self._number = 0

    def step(self) -> None:
        """One statement of DDL, and some on rows around it."""
        self._rows()
        kinds: list[Callable[[], None]] = [self._alter] * 4
        kinds += [self._create, self._like, self._drop, self._remake, self._rename, self._exchange, self._truncate]
        self._random.choice(kinds)()
        self._rows()

    # ------------------------------------------------------------ rows

    def _rows(self) -> None:
        for table in sorted(self.tables):
            if self._random.random() < 0.5:
                continue
            self._number += 1
            number = self._number
            self._try("rows", f"INSERT IGNORE INTO {table} (id) VALUES ({number}), ({number + 500000})")
            if self._random.random() < 0.4:
                self._try("rows", f"UPDATE {table} SET id = id + 1000000 WHERE id % 7 = {number % 7}")
            if self._random.random() < 0.4:
                self._try("rows", f"DELETE FROM {table} WHERE id % 5 = {number % 5}")

    def _try(self, kind: str, statement: str) -> bool:
        """False where the server refuses it."""
        is_done = self._ddl.execute(self._server, self._database, statement)
        self.counts[kind] += is_done
        return is_done

    # ------------------------------------------------------------ tables

    def _one(self) -> str | None:
        return self._random.choice(sorted(self.tables)) if self.tables else None

    def _free(self) -> str | None:
        free = sorted(set(_NAMES) - self.tables)
        return self._random.choice(free) if free else None

    def _create(self) -> None:
        if (name := self._free()) is not None and self._try("create", f"CREATE TABLE {name} ({self._columns()})"):
            self.tables.add(name)

    def _columns(self) -> str:
        chosen = self._random.sample(_COLUMNS, self._random.randint(1, 4))
        return ", ".join(("id INT PRIMARY KEY", *chosen))

    def _like(self) -> None:
        name, like = self._free(), self._one()
        if name is not None and like is not None and self._try("like", f"CREATE TABLE {name} LIKE {like}"):
            self.tables.add(name)
            self._try("rows", f"INSERT INTO {name} SELECT * FROM {like}")

    def _drop(self) -> None:
        if len(self.tables) > 2 and (name := self._one()) is not None and self._try("drop", f"DROP TABLE {name}"):
            self.tables.remove(name)

    def _remake(self) -> None:
        if (name := self._one()) is not None and self._try("drop", f"DROP TABLE {name}"):
            self.tables.remove(name)
            if self._try("create", f"CREATE TABLE {name} ({self._columns()})"):
                self.tables.add(name)

    def _rename(self) -> None:
        name, free = self._one(), self._free()
        if name is None or free is None:
            return
        words = self._random.choice(("RENAME TABLE {} TO {}", "ALTER TABLE {} RENAME TO {}"))
        if self._try("rename", words.format(name, free)):
            self.tables.remove(name)
            self.tables.add(free)

    def _exchange(self) -> None:
        """As the tools do it, or a ring."""
        if len(self.tables) < 2:
            return
        one, other = self._random.sample(sorted(self.tables), 2)
        if (free := self._free()) is not None and self._random.random() < 0.6:
            if self._try("exchange", f"RENAME TABLE {one} TO {free}, {other} TO {one}"):
                self.tables.remove(other)
                self.tables.add(free)
            return
        self._try("ring", f"RENAME TABLE {one} TO between_, {other} TO {one}, between_ TO {other}")

    def _truncate(self) -> None:
        if (name := self._one()) is not None:
            self._try("truncate", f"TRUNCATE TABLE {name}")

    def _alter(self) -> None:
        if (name := self._one()) is None:
            return
        definition = read_definition(self._source, TableName(self._database, name))
        if definition is not None:
            self._try("alter", f"ALTER TABLE {name} {self._ddl.actions(definition)}")
