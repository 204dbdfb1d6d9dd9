"""Rows of prepared XA transactions, kept in the sink's metadata until their XA COMMIT or XA ROLLBACK.

Written and removed in the sink transaction whose checkpoint passes the statement, so that they are there exactly while
the checkpoint lies between the two. Knows names, parts and bytes; what the bytes hold is cdc/pipeline/prepared.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from cdc.errors import ResyncRequired
from cdc.model import TableName, Xa
from checkpoints.store import InSinkStore

__all__ = ["PreparedRecord", "PreparedStore"]

_FORMAT = 1
# What one statement carries: servers of the MySQL family take 16 MB by default, and bytes grow when they are quoted.
_PIECE_BYTES = 1 << 20
_FORGET_AT_ONCE_MAX = 200


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """A prepared XA transaction. Positions are behind its XA PREPARE; `prepared_us` is by the source's clock.

    `image_count` row images of it are kept, in `part_count` parts (0 when it changed no table that was captured).
    `stored` are the tables of these, `passed` those that it changed and of which nothing is kept.
    """

    xa: Xa
    prepared_us: int
    position: str
    part_count: int = 0
    image_count: int = 0
    stored: frozenset[TableName] = frozenset()
    passed: frozenset[TableName] = frozenset()


class PreparedStore:
    """The `prepared` table, as far as it is one pipeline's. Parts are numbered from 1; part 0 is the record."""

    def __init__(self, store: InSinkStore) -> None:
        self._store = store

    @property
    def _table(self) -> str:
        return str(self._store.sink.metadata_table("prepared"))

    def load(self) -> dict[Xa, PreparedRecord]:
        """Every transaction that waits. Raises ResyncRequired for what another version wrote."""
        with self._store.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT xid, content FROM {self._table} WHERE pipeline = %s AND part = 0", (self._store.pipeline,)
            )
        records = [_decode(str(xid), bytes(content)) for xid, content in rows]
        return {record.xa: record for record in records}

    def waiting(self) -> tuple[int, int | None]:
        """How many transactions with rows wait, and since when the oldest does."""
        with self._store.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT count(*), min(prepared_us) FROM {self._table} "
                f"WHERE pipeline = %s AND part = 0 AND image_count > 0",
                (self._store.pipeline,),
            )
        return int(rows[0][0]), None if rows[0][1] is None else int(rows[0][1])

    def put_part(self, tx: Any, xa: Xa, part: int, content: bytes) -> None:
        """Keep one part."""
        for piece, start in enumerate(range(0, len(content), _PIECE_BYTES)):
            self._insert(tx, xa, part, piece, content[start : start + _PIECE_BYTES], 0, 0)

    def put(self, tx: Any, record: PreparedRecord) -> None:
        """Keep what there is to say of a transaction whose parts have been kept."""
        content = {
            "format": _FORMAT,
            "xa": [record.xa.format_id, record.xa.global_id.hex(), record.xa.branch.hex()],
            "position": record.position,
            "parts": record.part_count,
            "stored": [[table.database, table.table] for table in sorted(record.stored)],
            "passed": [[table.database, table.table] for table in sorted(record.passed)],
            "images": record.image_count,
            "prepared_us": record.prepared_us,
        }
        self._insert(tx, record.xa, 0, 0, orjson.dumps(content), record.image_count, record.prepared_us)

    def _insert(
        self, tx: Any, xa: Xa, part: int, piece: int, content: bytes, image_count: int, prepared_us: int
    ) -> None:
        tx.execute(
            f"INSERT INTO {self._table} (pipeline, xid, part, piece, image_count, prepared_us, content) "
            f"VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (self._store.pipeline, _key(xa), part, piece, image_count, prepared_us, content),
        )

    def parts(self, tx: Any, xa: Xa, count: int) -> Iterator[bytes]:
        """The parts in order, one in memory at a time. Raises ResyncRequired when one of the `count` is missing."""
        for part in range(1, count + 1):
            rows = tx.execute(
                f"SELECT content FROM {self._table} WHERE pipeline = %s AND xid = %s AND part = %s ORDER BY piece",
                (self._store.pipeline, _key(xa), part),
            )
            if not rows:
                raise ResyncRequired(
                    f"part {part} of {count} of the rows of the prepared XA transaction {xa} is missing from "
                    f"{self._table}",
                    hint="restore it, or load again with `cdc checkpoint reset`",
                )
            yield b"".join(bytes(row[0]) for row in rows)

    def forget(self, tx: Any, xas: Iterable[Xa]) -> None:
        """Nothing of them is kept any more."""
        keys = [_key(xa) for xa in xas]
        for start in range(0, len(keys), _FORGET_AT_ONCE_MAX):
            chosen = keys[start : start + _FORGET_AT_ONCE_MAX]
            marks = ", ".join(["%s"] * len(chosen))
            tx.execute_count(
                f"DELETE FROM {self._table} WHERE pipeline = %s AND xid IN ({marks})", (self._store.pipeline, *chosen)
            )


def _key(xa: Xa) -> str:
    return str(xa)


def _decode(xid: str, content: bytes) -> PreparedRecord:
    try:
        fields = orjson.loads(content)
        version = fields["format"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        version = None
    if version != _FORMAT:
        raise ResyncRequired(
            f"what the sink's metadata says of the prepared XA transaction {xid} is damaged, or was written by another "
            "version of cdc",
            hint="run the version that wrote it, or load again with `cdc checkpoint reset`",
        )
    format_id, global_id, branch = fields["xa"]
    return PreparedRecord(
        xa=Xa(format_id, bytes.fromhex(global_id), bytes.fromhex(branch)),
        prepared_us=fields["prepared_us"],
        position=fields["position"],
        part_count=fields["parts"],
        image_count=fields["images"],
        stored=frozenset(TableName(database, table) for database, table in fields["stored"]),
        passed=frozenset(TableName(database, table) for database, table in fields["passed"]),
    )
