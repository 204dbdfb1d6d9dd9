"""Load a part of a table again: the source's rows that meet a condition, over those of their keys in the target.

    1  the stream stands at M, and every SELECT sees what is before M
    2  the rows that meet the condition, chunk by chunk, upserted in one transaction of the sink: each is as old as its
       read, M or younger
    3  V, the written position after the last read, recorded as where the table is consistent again, and the commit

The stream goes on from M: of what happened between M and V, each key gets every change once more, in order, so that it
ends right wherever step 2 found it; from V on the table is `ready`. Readers see the rows of before until they see the
new ones, none is ever gone meanwhile, and a kill leaves either nothing or all of it (docs/decisions/0032).

What the condition says is asked at the source alone. So a row of the target that the source does not have any more is
not found: it may have met the condition or not. One that the source has and the table's own row filter leaves out is
removed, as the stream would.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pyarrow as pa

from cdc.errors import CdcError, ProtocolError, UnsupportedData
from cdc.model import TableDefinition, TableName
from cdc.schema.target import TargetTable
from cdc.sinks.base import ApplyResult, Sink, SinkTransaction
from cdc.sinks.target_facts import drop_unique
from cdc.source.connection import ExpressionRefused, SourceConnection, TableDenied, TableGone
from cdc.source.definitions import read_definition
from cdc.source.positions import written_file_pos
from cdc.source.resultset import quote, quote_table
from checkpoints.store import InSinkStore, TableRecord
from snapshot.chunks import ChunkPlan, Pace, require_no_null
from snapshot.loader import LoadLimits, LoadProgress, is_backed
from snapshot.parallel import ChunkReaders, SessionPool
from snapshot.polling import _change

__all__ = ["NotThereYet", "PartLoader", "PartRows", "require_part"]


class NotThereYet(CdcError):
    """The source has another definition of the table than the stream has come to."""


@dataclass(slots=True)
class PartRows:
    """What a load of a part has done. Removed is what the table's own filter leaves out."""

    read: int = 0
    written: int = 0
    removed: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, result: ApplyResult) -> None:
        """One call did this."""
        self.written += result.upserted
        self.removed += result.deleted
        self.changes.update(result.policy_changes)


def require_part(target: TargetTable) -> None:
    """Raises UnsupportedData for a table of which no part can be loaded so that it ends right."""
    table = target.definition.name
    if target.is_numbered:
        problem = f"has the mode {target.mode}: what is read would be put beside what is there, as further changes"
    elif not target.source_key:
        problem = "has no key: nothing tells which rows of the target are those that are read"
    elif target.mode != "mirror" and target.row_filter is not None:
        problem = (
            f"has the mode {target.mode} and a row_filter: a row that leaves the filter is to be marked, not removed"
        )
    else:
        return
    raise UnsupportedData(f"{table} {problem}", table=str(table), hint=f"load the whole of it: `cdc snapshot {table}`")


class PartLoader:
    """Loads parts into one sink, on the applier's thread, while its stream stands.

    `connect` opens a session of the source for nothing but reading; `left_out` gives the rows that the target's filter
    does not keep, as the target has them.
    """

    def __init__(
        self,
        *,
        source: SourceConnection,
        sink: Sink,
        store: InSinkStore,
        connect: Callable[[], SourceConnection],
        make_target: Callable[[TableDefinition], TargetTable],
        transform: Callable[[pa.RecordBatch, TargetTable], pa.RecordBatch],
        left_out: Callable[[pa.RecordBatch, TargetTable], pa.RecordBatch],
        chunk_rows: Callable[[str, str], int],
        limits: LoadLimits,
        hook: Callable[[str], None],
        on_progress: LoadProgress,
    ) -> None:
        self._source = source
        self._sink = sink
        self._store = store
        self._connect = connect
        self._make_target = make_target
        self._transform = transform
        self._left_out = left_out
        self._chunk_rows = chunk_rows
        self._limits = limits
        self._hook = hook
        self._on_progress = on_progress

    def load(
        self, record: TableRecord, condition: str, finish: Callable[[SinkTransaction, PartRows], None]
    ) -> tuple[TableRecord, PartRows]:
        """The table's record afterwards, written with the rows; `finish` is called in the same transaction.

        `record` is of a table that is loaded. Raises NotThereYet, UnsupportedData (the table is as it was),
        TransientError.
        """
        table = record.source
        sessions = SessionPool(self._connect, self._limits.guard.slots)
        try:
            target = self._target(record)
            require_part(target)
            self._require_condition(sessions, target, condition)
            drop_unique(self._sink, target, self._store.fence)  # rows are of different moments until V
            self._hook("load_begun")
            return self._copy(sessions, record, target, condition, finish)
        except (TableGone, TableDenied) as error:
            raise UnsupportedData(
                f"{table} cannot be read: {error.message}", table=str(table), hint=error.hint
            ) from error
        except (ProtocolError, ExpressionRefused) as error:  # the server's, which the condition has brought about
            raise self._refused(table, error) from error
        finally:
            sessions.close()

    def _target(self, record: TableRecord) -> TargetTable:
        definition = read_definition(self._source, record.source)
        target = self._make_target(definition) if definition is not None else None
        if target is None or target.definition != record.definition:
            raise NotThereYet(
                f"{record.source} was altered at the source, and the stream has not come to it yet",
                hint="try again when `cdc status` shows no lag; where it stays so, load the whole of it: "
                f"`cdc snapshot {record.source}`",
            )
        return target

    def _require_condition(self, sessions: SessionPool, target: TargetTable, condition: str) -> None:
        """Does the source take it, and does the key tell the rows apart that meet it?

        Asked by a session that only reads: a function of constants is run before there is a row.
        """
        definition, key = target.definition, target.source_key
        where = f"FROM {quote_table(definition.name)} WHERE ({condition})"
        source = sessions.take(functools.partial(self._wait, definition.name))
        try:
            self._require_taken(source, definition.name, f"SELECT 1 {where} LIMIT 0")
            require_no_null(source, definition, key)
            columns = ", ".join(map(quote, key))
            if not is_backed(definition, key) and source.query(
                f"SELECT 1 {where} GROUP BY {columns} HAVING COUNT(*) > 1 LIMIT 1"
            ):
                raise UnsupportedData(
                    f"{definition.name}: the configured primary_key ({', '.join(key)}) is not unique: "
                    "several rows have the same value",
                    table=str(definition.name),
                    hint="name columns that tell rows apart under tables.overrides",
                )
        finally:
            sessions.give(source)

    def _require_taken(self, source: SourceConnection, table: TableName, sql: str) -> None:
        try:
            source.query(sql)
        except CdcError as error:
            if not source.raw.open:
                raise
            raise self._refused(table, error) from error

    def _wait(self, table: TableName, seconds: float) -> None:
        """For a session; ends when the service does."""
        self._on_progress(table, rows=0, rows_estimate=None)
        time.sleep(seconds)

    def _refused(self, table: TableName, error: CdcError) -> UnsupportedData:
        return UnsupportedData(
            f"{table}: the source refuses the condition: {error.message}",
            table=str(table),
            hint="--where is the source's own SQL over one row, by the names that its columns have there; it may not "
            "write",
        )

    def _copy(
        self,
        sessions: SessionPool,
        record: TableRecord,
        target: TargetTable,
        condition: str,
        finish: Callable[[SinkTransaction, PartRows], None],
    ) -> tuple[TableRecord, PartRows]:
        rows = PartRows()
        plan = ChunkPlan(target.definition, target.source_key, self._pace(record.source), condition=condition)
        with (
            ChunkReaders(
                plan,
                sessions=sessions,
                workers=self._limits.workers,
                bytes_max=self._limits.bytes_max,
                guard=self._limits.guard,
            ) as readers,
            self._sink.transaction() as tx,
        ):
            for _, batches in readers.chunks(lambda: self._show(record, rows)):
                for batch in batches:
                    self._put(tx, batch, target, rows)
                    self._show(record, rows)
            self._hook("load_done")
            if read_definition(self._source, record.source) != target.definition:
                raise NotThereYet(f"{record.source} was altered while a part of it was read")
            record = self._read(record).with_policy_changes(rows.changes)
            self._store.save_table(tx, record)
            finish(tx, rows)
            self._store.fence(tx)
            tx.commit()
        self._hook("load_recorded")
        return record, rows

    def _read(self, record: TableRecord) -> TableRecord:
        """All rows are read: from here on the stream makes the table consistent again."""
        return replace(
            record,
            state="snapshotting",
            ready_at=written_file_pos(self._source),
            ready_server=self._source.identity(),
        )

    def _put(self, tx: SinkTransaction, batch: pa.RecordBatch, target: TargetTable, rows: PartRows) -> None:
        kept = self._transform(batch, target)
        if kept.num_rows < batch.num_rows:
            gone = self._left_out(batch, target)
            rows.add(tx.apply(_change(target, gone, is_gone=True), target))
            rows.changes["*", "row_filter"] += gone.num_rows
        if kept.num_rows:
            rows.add(tx.apply(_change(target, kept, is_gone=False), target))
        rows.read += batch.num_rows
        self._hook("load_chunk")

    def _show(self, record: TableRecord, rows: PartRows) -> None:
        self._on_progress(record.source, rows=rows.read, rows_estimate=None)

    def _pace(self, table: TableName) -> Pace:
        limits = self._limits
        return Pace(
            rows_max=limits.guard.rows_max(self._chunk_rows(table.database, table.table), limits.chunk_seconds),
            seconds=limits.chunk_seconds,
            bytes_max=limits.guard.bytes_max(limits.bytes_max // (limits.workers + 1), limits.chunk_seconds),
        )
