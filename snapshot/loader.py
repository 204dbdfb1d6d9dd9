"""Load one table: from a visible position, chunk by chunk, up to a written position.

    1  W, the visible position before the first read: the load shows every change up to W
    2  the definition, the target made to fit
    3  chunks by key order, each its own statement
    4  V, the written position after the last read: the load shows no change after V

The stream then passes over the table's changes up to W, applies those after W idempotently, and from V on the table
is consistent (`ready`). A definition that changed between 2 and 3 starts the load again; one that changes later is
in the stream after W, and starts it again from there.

A target that was complete before is replaced in one transaction: readers see the old rows until they see the new
ones. One that never was is filled chunk by chunk.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from cdc.errors import SinkRefused, SourceUnavailable, UnsupportedData
from cdc.model import SourcePosition, TableDefinition, TableName
from cdc.schema.options import names_made
from cdc.schema.target import TargetTable
from cdc.sinks.base import ExistingTable, Sink, SinkTransaction
from cdc.source.cascades import require_visible_changes
from cdc.source.connection import SourceConnection, TableDenied, TableGone
from cdc.source.definitions import read_definition
from cdc.source.positions import visible_position, written_file_pos
from cdc.source.resultset import quote, quote_table
from checkpoints.store import InSinkStore, TableRecord
from snapshot.chunks import read_chunks
from snapshot.shared import SharedTargets

__all__ = ["LoadProgress", "TableLoader"]


def _stale_columns(record: TableRecord, target: TargetTable, existing: ExistingTable) -> list[str]:
    """Columns that came from the source and do no more. (Columns that somebody added on the sink may stay.)"""
    if record.definition is None:
        return []
    present = {column.name for column in target.columns}
    ours = [*(column.name for column in record.definition.columns), *sorted(names_made(record.options))]
    return [
        f"column {name} does not come from the source any more"
        for name in dict.fromkeys(ours)
        if name not in present and name in existing.columns
    ]


# How often a table whose definition keeps changing under the load is tried before it is left for the next round.
_ATTEMPTS_MAX = 5


class LoadProgress(Protocol):
    """Told how far a load is; may raise Stopping to end it."""

    def __call__(self, table: TableName, *, rows: int, rows_estimate: int | None) -> None:
        """`rows` have been read and copied; `rows_estimate` is the source's own guess of all of them."""


class TableLoader:
    """Loads tables into one sink, one after the other, on the applier's thread."""

    def __init__(
        self,
        *,
        source: SourceConnection,
        sink: Sink,
        store: InSinkStore,
        make_target: Callable[[TableDefinition], TargetTable],
        transform: Callable[[pa.RecordBatch, TargetTable], pa.RecordBatch],
        options: Callable[[TableName], Mapping[str, Any]],
        chunk_rows: Callable[[str, str], int],
        accepts_hidden_cascades: Callable[[str, str], bool],
        hook: Callable[[str], None],
        on_progress: LoadProgress,
    ) -> None:
        self._source = source
        self._sink = sink
        self._store = store
        self._make_target = make_target
        self._transform = transform
        self._options = options
        self._chunk_rows = chunk_rows
        self._accepts_hidden_cascades = accepts_hidden_cascades
        self._hook = hook
        self._on_progress = on_progress
        self._written: TableRecord | None = None
        self.shared = SharedTargets(
            sink=sink,
            store=store,
            read_definition=functools.partial(read_definition, source),
            make_target=make_target,
            options=options,
            record=self._record,
            hook=hook,
        )

    def load(self, record: TableRecord, *, may_replace: bool) -> TableRecord:
        """Load the table; its new record, already written to the metadata.

        `may_replace`: rows that this deployment did not write may be replaced (an explicit `cdc snapshot`).
        A table that is not at the source any more comes back as `dropped`.

        Raises UnsupportedData (park it), TransientError.
        """
        for _ in range(_ATTEMPTS_MAX):
            self._written = record
            loaded = self._try_load(record, may_replace=may_replace)
            if loaded is not None:
                return loaded
            # What the attempt wrote is what the next one finds: a target that it made is ours.
            record = self._written
        raise SourceUnavailable(
            f"{record.source} changed its definition {_ATTEMPTS_MAX} times while it was being loaded",
            hint="the load is tried again; finish the ALTERs on that table first",
        )

    def _try_load(self, record: TableRecord, *, may_replace: bool) -> TableRecord | None:
        """One attempt; None when the definition changed under it."""
        table = record.source
        visible = visible_position(self._source)
        # Where the table turns out to be gone: whatever the log shows of it up to here was before that.
        written = SourcePosition(visible.server, written_file_pos(self._source), None)
        try:
            self._wait_for_ddl(table)
            definition = read_definition(self._source, table)
            if definition is None:
                return self._record(replace(record, state="dropped", loaded_from=written, ready_at=None, error=None))
            if not self._accepts_hidden_cascades(table.database, table.table):
                require_visible_changes(self._source, table)
            target = self._make_target(definition)
            self._require_unique(definition, target.source_key)
            was_complete = self._prepare_target(record, target, may_replace=may_replace)
            record = self._record(
                replace(
                    record,
                    target=str(target),
                    state="snapshotting",
                    definition=definition,
                    key=target.source_key,
                    options=self._options(table),
                    is_complete=was_complete,
                    loaded_from=visible,
                    ready_at=None,
                    ready_server=None,
                    rows_loaded=0,
                    error=None,
                )
            )
            self._hook("load_begun")
            rows, changes = self._copy(definition, target, in_one_transaction=was_complete)
            self._hook("load_done")
            if read_definition(self._source, table) != definition:
                return None
        except TableGone:
            return None
        except TableDenied as error:
            raise UnsupportedData(
                f"{table} may not be read: {error.message}",
                table=str(table),
                hint=f"GRANT SELECT ON {quote_table(table)} TO {self._source.settings.user}, every column of it; "
                f"then `cdc snapshot {table}`",
            ) from error
        record = replace(
            record,
            ready_at=written_file_pos(self._source),
            ready_server=visible.server,
            rows_loaded=rows,
            policy_changes={},
        ).with_policy_changes(changes)
        self._record(record)
        self._hook("load_recorded")
        return record

    def _require_unique(self, definition: TableDefinition, key: tuple[str, ...]) -> None:
        """A key that no unique index backs must be looked at: chunks would pass over the second of two equal keys."""
        indexes = [definition.primary_key] if definition.primary_key else []
        indexes += [index.columns for index in definition.unique_keys if not index.has_prefix]
        if any(set(index) <= set(key) for index in indexes):
            return
        columns = ", ".join(quote(name) for name in key)
        doubled = self._source.query(
            f"SELECT 1 FROM {quote_table(definition.name)} GROUP BY {columns} HAVING COUNT(*) > 1 LIMIT 1"
        )
        if doubled:
            raise UnsupportedData(
                f"{definition.name}: the configured primary_key ({', '.join(key)}) is not unique: "
                "several rows have the same value",
                table=str(definition.name),
                hint="name columns that tell rows apart under tables.overrides, or exclude the table",
            )

    def _wait_for_ddl(self, table: TableName) -> None:
        """A DDL that the stream has shown may not be done yet: wait for its metadata lock before reading on."""
        try:
            # All columns: with grants on single ones information_schema would show a table of just those.
            self._source.query(f"SELECT * FROM {quote_table(table)} LIMIT 0")
        except TableGone:
            return

    def _record(self, record: TableRecord) -> TableRecord:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
        self._written = record
        return record

    def _prepare_target(self, record: TableRecord, target: TargetTable, *, may_replace: bool) -> bool:
        """Make the target fit. True when it holds rows that readers must not lose sight of.

        Raises SinkRefused when what is there is not ours to change.
        """
        self._sink.create_namespace(target.namespace)
        intent = replace(
            record,
            target=str(target),
            state="snapshotting",
            definition=target.definition,
            key=target.source_key,
            options=self._options(record.source),
            is_complete=False,
            loaded_from=None,
            ready_at=None,
            ready_server=None,
        )
        if target.source_column is not None:
            return self.shared.prepare(record, intent, target, target.source_column, may_replace=may_replace)
        existing = self._sink.inspect(target)
        if existing is None:
            # The intent comes first: a table that is made and not recorded would pass for somebody else's.
            self._record(intent)
            self._sink.create_table(target)
            self._hook("target_made")
            return False
        is_ours = record.definition is not None and record.target == str(target)
        differences = self._sink.differences(target, existing)
        differences += _stale_columns(record, target, existing)
        if is_ours and record.key and record.key != target.source_key:
            differences.append(f"its key was ({', '.join(record.key)})")
        if differences and is_ours:
            self.shared.require_alone(record, target)
            self._drop(record, target)
            self._sink.create_table(target)
            return False
        if differences:
            reasons = "; ".join(differences)
            raise SinkRefused(
                f"{record.source}: the target {target} on sink {self._sink.name} does not fit: {reasons}",
                table=str(record.source),
                hint="alter or drop the target, or map the table elsewhere",
            )
        if existing.has_rows and not is_ours and not may_replace:
            raise SinkRefused(
                f"{record.source}: the target {target} on sink {self._sink.name} holds rows that this deployment "
                "did not write",
                table=str(record.source),
                hint=f"`cdc snapshot {record.source}` replaces them by the source's; or empty the target",
            )
        if existing.has_rows and is_ours and not record.is_complete:
            self._clear(target)  # the remains of a load that did not finish
            return False
        return existing.has_rows

    def _drop(self, record: TableRecord, target: TargetTable) -> None:
        try:
            self._sink.drop_table(target)
        except SinkRefused as error:
            error.message = f"{record.source} has other columns now, and its target must be made anew: {error.message}"
            error.hint = (
                f"drop what depends on {target} on sink {self._sink.name} (views, foreign keys), then "
                f"`cdc snapshot {record.source}`, then make them again"
            )
            raise

    def _clear(self, target: TargetTable) -> None:
        with self._sink.transaction() as tx:
            tx.clear(target)
            self._store.fence(tx)
            tx.commit()

    def _copy(
        self, definition: TableDefinition, target: TargetTable, *, in_one_transaction: bool
    ) -> tuple[int, Counter[tuple[str, str]]]:
        rows = read = 0
        changes: Counter[tuple[str, str]] = Counter()
        table = definition.name
        estimate = self._estimate(table)
        self._on_progress(table, rows=0, rows_estimate=estimate)
        chunks = read_chunks(
            self._source,
            definition,
            target.source_key,
            rows_max=self._chunk_rows(table.database, table.table),
        )

        def put(tx: SinkTransaction, chunk: Any) -> None:
            nonlocal rows, read
            kept = self._transform(chunk, target)
            if kept.num_rows:
                changes.update(tx.load(kept, target).policy_changes)
            if kept.num_rows < chunk.num_rows:
                changes["*", "row_filter"] += chunk.num_rows - kept.num_rows
            rows += kept.num_rows
            read += chunk.num_rows
            self._hook("load_chunk")

        try:
            if in_one_transaction:
                with self._sink.transaction() as tx:
                    tx.clear(target)
                    for chunk in chunks:
                        put(tx, chunk)
                        self._on_progress(table, rows=read, rows_estimate=estimate)
                    self._store.fence(tx)
                    tx.commit()
                return rows, changes
            for chunk in chunks:
                with self._sink.transaction() as tx:
                    put(tx, chunk)
                    self._store.fence(tx)
                    tx.commit()
                self._hook("load_chunk_committed")
                self._on_progress(table, rows=read, rows_estimate=estimate)
        except UnsupportedData as error:
            error.position = error.position or "the load"
            raise
        return rows, changes

    def _estimate(self, table: TableName) -> int | None:
        rows = self._source.query_text(
            "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            (table.database, table.table),
        )
        return int(rows[0][0]) if rows and rows[0][0] is not None else None
