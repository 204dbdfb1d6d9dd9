"""How far the rows of tables that keep what was (append-only and history) are numbered, kept in the sink's metadata.

Read and written in the sink transaction that writes those rows, so that a mark says what the target holds: whatever is
applied again after a crash gets the numbers and times that it had before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cdc.model import TableName
from checkpoints.store import InSinkStore

__all__ = ["Mark", "MarkStore"]


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest number given to a row of a table, and the latest time (microseconds) that any of them has."""

    sequence: int = 0
    time_us: int = 0


class MarkStore:
    """The `marks` table, as far as it is one lane's: a table that goes to another takes its mark along (`lanes`)."""

    def __init__(self, store: InSinkStore) -> None:
        self._store = store
        self._pipeline = store.pipeline

    @property
    def _table(self) -> str:
        return str(self._store.sink.metadata_table("marks"))

    def read(self, tx: Any, source: TableName) -> Mark | None:
        """The table's mark; None before its first row."""
        rows = tx.execute(
            f"SELECT last_sequence, last_time_us FROM {self._table} WHERE pipeline = %s AND source_table = %s",
            (self._pipeline, _name(source)),
        )
        return Mark(int(rows[0][0]), int(rows[0][1])) if rows else None

    def put(self, tx: Any, source: TableName, mark: Mark, *, is_new: bool) -> None:
        """Write the table's mark; `is_new`: it has none yet."""
        values = (mark.sequence, mark.time_us, self._pipeline, _name(source))
        if is_new:
            tx.execute(
                f"INSERT INTO {self._table} (last_sequence, last_time_us, pipeline, source_table) "
                f"VALUES (%s, %s, %s, %s)",
                values,
            )
            return
        tx.execute_later(
            f"UPDATE {self._table} SET last_sequence = %s, last_time_us = %s WHERE pipeline = %s AND source_table = %s",
            values,
        )

    def forget(self, tx: Any, source: TableName) -> None:
        """The table's rows are not as they were left: the target says what their numbers are."""
        tx.execute_count(
            f"DELETE FROM {self._table} WHERE pipeline = %s AND source_table = %s", (self._pipeline, _name(source))
        )


def _name(source: TableName) -> str:
    return orjson.dumps([source.database, source.table]).decode()
