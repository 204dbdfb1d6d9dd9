"""The same random changes to several tables, and what each mode of a table has to make of them: the naive model.

Row by row, so that the order of the images is known. Keys move, come back, and are deleted and inserted in one
transaction; some transactions are rolled back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cdc.demo.servers import Server

__all__ = ["COLUMNS", "Story", "Version"]

COLUMNS = """
    a INT NOT NULL, b VARCHAR(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, v INT NULL,
    note VARCHAR(40) CHARACTER SET utf8mb4 NULL, amount DECIMAL(8,2) NULL, PRIMARY KEY (a, b)"""
ROWS_MAX = 60
_NOTES = (None, "", "plain", "O'Brien\t\\N", "Zoë 北京\u2028", "A", "a")

Row = tuple[Any, ...]
Key = tuple[Any, ...]


@dataclass(slots=True)
class Version:
    """One version of a row, and whether it is the current one."""

    row: Row
    is_current: bool = True


@dataclass(slots=True)
class Story:
    """Changes the tables `names` of one database alike; each row is (a, b, v, note, amount)."""

    server: Server
    database: str
    names: Sequence[str]
    rng: random.Random
    rows: dict[Key, Row] = field(default_factory=dict)
    gone: dict[Key, Row] = field(default_factory=dict)
    """The last image of each key that is not there any more."""
    changes: list[tuple[str, Row]] = field(default_factory=list)
    versions: dict[Key, list[Version]] = field(default_factory=dict)

    def create(self, *, rows: int) -> None:
        """Make the tables with some rows, which are no changes: they are there when the tables are loaded."""
        with contextlib.closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
            for name in self.names:
                cursor.execute(f"CREATE TABLE {name} ({COLUMNS})")
            for number in range(rows):
                row = (number, "loaded", *self._values())
                self._insert(cursor, row)
                self.rows[row[:2]] = row
                self.versions[row[:2]] = [Version(row)]
            connection.commit()

    def tell(self, transactions: int) -> None:
        """Commit so many transactions; some more are rolled back."""
        with contextlib.closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
            connection.autocommit(False)
            for _ in range(transactions):
                if self.rng.random() < 0.1:
                    self._change(cursor, Story(self.server, self.database, self.names, self.rng, dict(self.rows)))
                    connection.rollback()
                for _ in range(self.rng.randint(1, 5)):
                    self._change(cursor, self)
                connection.commit()

    def beside(self, statement: str) -> None:
        """Change the tables where no log shows it; `{}` is the table."""
        with contextlib.closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_log_bin = 0")
            for name in self.names:
                cursor.execute(statement.format(name))
            connection.commit()

    # ------------------------------------------------------------ changes

    def _values(self) -> Row:
        value = self.rng.choice((None, self.rng.randint(-5, 5)))
        return value, self.rng.choice(_NOTES), self.rng.choice((None, f"{self.rng.randint(0, 999)}.50"))

    def _change(self, cursor: Any, model: Story) -> None:
        choice = self.rng.random()
        if (choice < 0.3 and len(model.rows) < ROWS_MAX) or not model.rows:
            self._do_insert(cursor, model, self._free_key(model))
        elif choice < 0.6:
            self._do_update(cursor, model, self.rng.choice(list(model.rows)))
        elif choice < 0.75:
            self._do_move(cursor, model, self.rng.choice(list(model.rows)), self._free_key(model))
        elif choice < 0.9:
            self._do_delete(cursor, model, self.rng.choice(list(model.rows)))
        else:  # gone and back in one transaction
            key = self.rng.choice(list(model.rows))
            self._do_delete(cursor, model, key)
            self._do_insert(cursor, model, key)

    def _free_key(self, model: Story) -> Key:
        while True:
            key = (self.rng.randint(0, 60), self.rng.choice(("x", "X", "y\\'")))
            if key not in model.rows:
                return key

    def _insert(self, cursor: Any, row: Row) -> None:
        for name in self.names:
            cursor.execute(f"INSERT INTO {name} VALUES (%s, %s, %s, %s, %s)", row)

    def _do_insert(self, cursor: Any, model: Story, key: Key) -> None:
        row = (*key, *self._values())
        self._insert(cursor, row)
        model.changes.append(("insert", row))
        model._begin(key, row)

    def _do_update(self, cursor: Any, model: Story, key: Key) -> None:
        before = model.rows[key]
        row = (*key, (before[2] or 0) + 1, *self._values()[1:])
        for name in self.names:
            cursor.execute(
                f"UPDATE {name} SET v = %s, note = %s, amount = %s WHERE a = %s AND b = %s", (*row[2:], *key)
            )
        model.changes.append(("update", row))
        model._end(key)
        model._begin(key, row)

    def _do_move(self, cursor: Any, model: Story, key: Key, new_key: Key) -> None:
        row = (*new_key, *model.rows[key][2:])
        for name in self.names:
            cursor.execute(f"UPDATE {name} SET a = %s, b = %s WHERE a = %s AND b = %s", (*new_key, *key))
        model.changes.append(("delete", model.rows[key]))
        model.changes.append(("insert", row))
        model._end(key)
        model._begin(new_key, row)

    def _do_delete(self, cursor: Any, model: Story, key: Key) -> None:
        for name in self.names:
            cursor.execute(f"DELETE FROM {name} WHERE a = %s AND b = %s", key)
        model.changes.append(("delete", model.rows[key]))
        model._end(key)

    # ------------------------------------------------------------ the model

    def _begin(self, key: Key, row: Row) -> None:
        self.rows[key] = row
        self.gone.pop(key, None)
        self.versions.setdefault(key, []).append(Version(row))

    def _end(self, key: Key) -> None:
        self.gone[key] = self.rows.pop(key)
        for version in self.versions.get(key, []):
            version.is_current = False
