"""How far the load of a table is: its chunks, kept in the sink's metadata until the table is loaded.

A chunk is recorded as loaded in the transaction that writes its rows. So a load that was cut off knows which rows the
target holds, and goes on with the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cdc.model import TableName
from checkpoints.store import InSinkStore

__all__ = ["ChunkRecord", "ChunkStore", "Loaded"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a chunk brought: rows read, rows kept, values that a policy changed by (column, policy)."""

    rows_read: int = 0
    rows: int = 0
    policy_changes: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A chunk of a load, from 1 on in the order of the key: up to and with the key `upto`, None for the last one.

    `loaded` is None until its rows are in the target.
    """

    number: int
    upto: tuple[bytes | None, ...] | None
    loaded: Loaded | None = None


class ChunkStore:
    """The `chunks` table, as far as it is one pipeline's. Row 0 of a table says what the load was begun with."""

    def __init__(self, store: InSinkStore) -> None:
        self._store = store

    @property
    def _table(self) -> str:
        return str(self._store.sink.metadata_table("chunks"))

    def load(self, source: TableName, *, plan: str) -> list[ChunkRecord]:
        """The chunks of a load that was begun with this `plan`, by number; [] when there is none."""
        with self._store.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT number, content FROM {self._table} WHERE pipeline = %s AND source_table = %s ORDER BY number",
                (self._store.pipeline, _name(source)),
            )
        contents = [(int(number), orjson.loads(content)) for number, content in rows]
        if not contents or contents[0][0] or not _says(contents[0][1], plan):
            return []
        return [_decode(number, content) for number, content in contents[1:]]

    def loads(self) -> list[tuple[str, TableName, str]]:
        """Pipeline, table and name of each load of this sink that has begun and is not done, whosoever it is."""
        with self._store.sink.transaction() as tx:
            rows = tx.execute(f"SELECT pipeline, source_table, content FROM {self._table} WHERE number = 0")
        return [
            (str(pipeline), TableName(*orjson.loads(source)), orjson.loads(content).get("load", ""))
            for pipeline, source, content in rows
        ]

    def load_id(self, source: TableName) -> str:
        """The name of this pipeline's load of the table; '' where there is none."""
        mine = (self._store.pipeline, source)
        return next((load_id for pipeline, table, load_id in self.loads() if (pipeline, table) == mine), "")

    def begin(self, tx: Any, source: TableName, *, plan: str, load_id: str = "") -> None:
        """Forget an earlier load of the table; `plan` is what the new one depends on, `load_id` a name of its own."""
        self.forget(tx, source)
        self._insert(tx, source, 0, {"format": _FORMAT, "plan": plan, "load": load_id})

    def put(self, tx: Any, source: TableName, records: Iterable[ChunkRecord]) -> None:
        """Keep chunks that are not known yet."""
        for record in records:
            self._insert(tx, source, record.number, _encode(record))

    def replace(self, tx: Any, source: TableName, record: ChunkRecord) -> None:
        """Keep what is new of a chunk that is known."""
        tx.execute_later(
            f"UPDATE {self._table} SET content = %s WHERE pipeline = %s AND source_table = %s AND number = %s",
            (orjson.dumps(_encode(record)).decode(), self._store.pipeline, _name(source), record.number),
        )

    def forget(self, tx: Any, source: TableName) -> None:
        """Nothing is kept of the table's load any more."""
        tx.execute_later(
            f"DELETE FROM {self._table} WHERE pipeline = %s AND source_table = %s",
            (self._store.pipeline, _name(source)),
        )

    def _insert(self, tx: Any, source: TableName, number: int, content: Mapping[str, Any]) -> None:
        tx.execute_later(
            f"INSERT INTO {self._table} (pipeline, source_table, number, content) VALUES (%s, %s, %s, %s)",
            (self._store.pipeline, _name(source), number, orjson.dumps(content).decode()),
        )


def _name(source: TableName) -> str:
    return orjson.dumps([source.database, source.table]).decode()  # as `InSinkStore.save_table` has it


def _says(content: Mapping[str, Any], plan: str) -> bool:
    return (content.get("format"), content.get("plan")) == (_FORMAT, plan)


def _encode(record: ChunkRecord) -> dict[str, Any]:
    upto = record.upto
    content: dict[str, Any] = {"upto": upto and [None if value is None else value.hex() for value in upto]}
    if record.loaded is not None:
        changes = [[column, policy, count] for (column, policy), count in record.loaded.policy_changes.items()]
        content["loaded"] = {"read": record.loaded.rows_read, "rows": record.loaded.rows, "changes": changes}
    return content


def _decode(number: int, content: Mapping[str, Any]) -> ChunkRecord:
    upto, loaded = content["upto"], content.get("loaded")
    return ChunkRecord(
        number,
        None if upto is None else tuple(None if value is None else bytes.fromhex(value) for value in upto),
        None
        if loaded is None
        else Loaded(
            loaded["read"],
            loaded["rows"],
            {(column, policy): count for column, policy, count in loaded["changes"]},
        ),
    )
