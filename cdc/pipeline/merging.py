"""A shadow into its target: the last step of a reload beside the live stream (`pipeline.beside`).

The shadow is where the side's checkpoint is; the target is behind, and nobody else's. In one transaction the target
gets what it lacks and loses what is gone, and the table's record is that of the target: readers see the rows of before,
then those of after. A target that does not fit any more (altered in between, or dropped) is left to a load.
"""

from __future__ import annotations

from dataclasses import replace

from cdc.errors import UnsupportedData
from cdc.log import Logger
from cdc.pipeline.beside import Side
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.tables import TableRegistry
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from cdc.sinks.target_facts import drop_fenced
from checkpoints.store import InSinkStore, TableRecord
from snapshot.loader import stale_columns

__all__ = ["ShadowMerge"]


class ShadowMerge:
    """Merges the shadows of one side, at the beginning of its session."""

    def __init__(
        self, *, sink: Sink, store: InSinkStore, tables: TableRegistry, side: Side, hooks: Hooks, log: Logger
    ) -> None:
        self._sink = sink
        self._store = store
        self._tables = tables
        self._side = side
        self._hooks = hooks
        self._log = log

    def waiting(self) -> list[TableRecord]:
        """The tables whose lanes have given them up, and whose shadows are there."""
        return [r for r in self._tables.records() if self._side.is_to_merge(r.source) and r.state == "ready"]

    def merge(self, record: TableRecord) -> None:
        """Make the shadow's table the target's. Raises UnsupportedData, which parks it; SinkUnavailable."""
        name = record.source
        shadow = self._tables.target(name)
        self._side.has_joined_target(name)  # from here on the registry has the target's place
        try:
            assert record.definition is not None, "a shadow that is ready has a definition"
            target = self._tables.make_target(record.definition)
            reasons = self._misfits(record, target)
            after = replace(record, target=str(target), is_complete=True)
            if reasons:
                self._log.info("shadow_not_merged", table=str(name), reasons=reasons)
                after = replace(after, state="pending", loaded_from=None, ready_at=None, ready_server=None)
                self._save(after)
            else:
                self._write(after, target, shadow)
        except UnsupportedData:
            self._put(replace(record, target=".".join(self._tables.place(name)), is_complete=True))
            raise
        except BaseException:
            self._side.shadowed |= {name}
            raise
        self._put(after)
        self._hooks("beside_merged")
        drop_fenced(self._sink, shadow, self._store.fence)

    def _misfits(self, record: TableRecord, target: TargetTable) -> list[str]:
        if target.mode != "mirror" or not target.key or target.source_column is not None:
            return ["what the configuration says of it is other than when its reload began"]
        existing = self._sink.inspect(target)
        if existing is None:
            return ["the target is not there"]
        return [*self._sink.differences(target, existing), *stale_columns(record, target, existing)]

    def _write(self, after: TableRecord, target: TargetTable, shadow: TargetTable) -> None:
        with self._sink.transaction() as tx:
            result = tx.merge(target, shadow)
            self._store.save_table(tx, after)
            self._store.fence(tx)
            self._hooks("beside_merging")
            tx.commit()
        self._log.info("shadow_merged", table=str(after.source), deleted=result.deleted, inserted=result.upserted)

    def _put(self, record: TableRecord) -> None:
        self._tables.remove(record.source)  # with the shadow's place, which it remembers
        self._tables.put(record)

    def _save(self, record: TableRecord) -> None:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
