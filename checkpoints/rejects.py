"""What was refused, kept in the sink's metadata: a row each time a table is parked.

Written with the table's state, in one transaction. The newest ones of a table stay; they also say how often it was
parked lately, for those that are to be loaded again by themselves.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from cdc.model import TableName
from checkpoints.store import InSinkStore

__all__ = ["KEPT_MAX", "RejectStore"]

KEPT_MAX = 100
"""Rows a table: what is refused over and over is the same row."""


class RejectStore:
    """The `rejects` table, as far as it is one sink's of a deployment: its lanes, sides and poller share it.

    Their names have marks (`pipeline.lanes`, `checkpoints.polls`) that no name of a deployment or a sink has.
    """

    def __init__(self, store: InSinkStore) -> None:
        self._store = store
        self.pipeline = re.split("[#~]", store.pipeline)[0]

    @property
    def _table(self) -> str:
        return str(self._store.sink.metadata_table("rejects"))

    def put(self, tx: Any, source: TableName, error: Mapping[str, Any], image: bytes | None = None) -> None:
        """Keep what an error tells (`CdcError.to_dict`): position, column, key, value and the row's values as text.

        `image`: the row itself (`UnsupportedData.image`), kept in base64 as `image` of the error.
        """
        said = {**error, "image": base64.b64encode(image).decode() if image is not None else None}
        tx.execute(
            f"INSERT INTO {self._table} (pipeline, source_table, position, error, parked_us) "
            f"VALUES (%s, %s, %s, %s, {self._store.now_us})",
            # In ASCII: a sink's database may not have other characters.
            (self.pipeline, _name(source), error.get("position"), json.dumps(said)),
        )
        old = tx.execute(
            f"SELECT id FROM {self._table} WHERE pipeline = %s AND source_table = %s ORDER BY id DESC "
            f"LIMIT 1 OFFSET {KEPT_MAX}",
            (self.pipeline, _name(source)),
        )
        if old:
            tx.execute_count(
                f"DELETE FROM {self._table} WHERE pipeline = %s AND source_table = %s AND id <= %s",
                (self.pipeline, _name(source), old[0][0]),
            )

    def ages_seconds(self, within_seconds: float) -> dict[TableName, list[float]]:
        """How long ago each table was parked, oldest first, by the sink's clock."""
        with self._store.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT source_table, ({self._store.now_us}) - parked_us FROM {self._table} WHERE pipeline = %s "
                f"AND parked_us > ({self._store.now_us}) - {int(within_seconds * 1_000_000)} ORDER BY id",
                (self.pipeline,),
            )
        found: dict[TableName, list[float]] = {}
        for source, age_us in rows:
            found.setdefault(TableName(*orjson.loads(source)), []).append(float(age_us) / 1e6)
        return found


def _name(source: TableName) -> str:
    return orjson.dumps([source.database, source.table]).decode()  # as `InSinkStore.save_table` has it
