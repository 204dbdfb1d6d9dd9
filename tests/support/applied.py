"""A table at a sink, kept by `ChangeBatch`es in the plainest way: a dictionary, a row at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cdc.model import ChangeBatch, PartialUpdate, RowBatch, TableDefinition
from tests.support.binlog_values import batch_rows

__all__ = ["AppliedTable", "image_rows"]

Row = dict[str, Any]
Key = tuple[Any, ...]


def image_rows(definition: TableDefinition, images: pa.RecordBatch) -> list[Row]:
    """Images as canonical rows."""
    nothing = pa.array([0] * images.num_rows)
    return batch_rows([RowBatch(definition, nothing.cast(pa.uint8()), nothing.cast(pa.uint32()), images)])


def same(value: Any) -> Any:
    """Nothing but itself is equal to it."""
    return value


@dataclass(slots=True)
class AppliedTable:
    """What the contract of `ChangeBatch` makes of a table, where it leaves an order open in any order.

    `as_one`: what the sink takes for one key.
    """

    definition: TableDefinition
    key: tuple[str, ...]
    rng: random.Random
    as_one: Callable[[Any], Any] = same
    rows: dict[Key, Row] = field(default_factory=dict)

    def key_of(self, row: Row) -> Key:
        return tuple(self.as_one(row[name]) for name in self.key)

    def put(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.rows[self.key_of(row)] = dict(row)

    def apply(self, change: ChangeBatch) -> None:
        deletes = [row for images in change.delete_images() for row in image_rows(self.definition, images)]
        upserts = [row for images in change.upsert_images() for row in image_rows(self.definition, images)]
        updates = [one for update in change.updates for one in self._updates(update)]
        self._check(deletes, upserts, [row for _, row, _ in updates])
        for row in deletes:
            self.rows.pop(self.key_of(row), None)
        self.rng.shuffle(updates)
        for old, row, columns in updates:
            self._update(old, row, columns, may_lack_row=change.may_lack_rows)
        self.rng.shuffle(upserts)
        self.put(upserts)

    def _updates(self, update: PartialUpdate) -> list[tuple[Key, Row, tuple[str, ...]]]:
        rows = image_rows(self.definition, update.images)
        assert rows
        assert update.columns
        order = [column.name for column in self.definition.columns]
        assert list(update.columns) == sorted(update.columns, key=order.index)
        if update.old_keys is None:
            assert not set(update.columns) & set(self.key)
            return [(self.key_of(row), row, update.columns) for row in rows]
        assert set(self.key) <= set(update.columns)
        assert update.old_keys.schema.names == list(self.key)
        whole = [
            update.old_keys.column(column.name) if column.name in self.key else pa.nulls(len(rows), column.arrow_type)
            for column in self.definition.columns
        ]
        old = image_rows(self.definition, pa.RecordBatch.from_arrays(whole, schema=self.definition.arrow_schema))
        return [(self.key_of(before), row, update.columns) for before, row in zip(old, rows, strict=True)]

    def _update(self, old: Key, row: Row, columns: tuple[str, ...], *, may_lack_row: bool) -> None:
        if may_lack_row and old not in self.rows:
            return
        here = self.rows.pop(old)
        there = here | {name: row[name] for name in columns}
        assert self.key_of(there) not in self.rows, "two rows of one key"
        self.rows[self.key_of(there)] = there

    def _check(self, deletes: list[Row], upserts: list[Row], updated: list[Row]) -> None:
        """No key twice: by its bits, which a sink may not tell apart."""
        met = [repr([row[name] for name in self.key]) for row in (*deletes, *upserts, *updated)]
        assert len(set(met)) == len(met)
