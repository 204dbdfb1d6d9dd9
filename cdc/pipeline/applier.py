"""Runs into the sink: net changes per table, then the checkpoint, in one transaction.

Owns no connection and no thread; the pipeline calls it from the applier thread. A large source transaction comes in
parts and stays in one open sink transaction until its last part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import Cascade, RowBatch, SourcePosition, TableDefinition, TableName, TransactionRun
from cdc.pipeline.cascades import CascadeStep, stages
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.keyless import keyless_change, source_columns, transformed_keyless, whole_batches
from cdc.pipeline.modes import KeptRows, hint_at_kept_rows, soft_deleted
from cdc.pipeline.partial import net_changes
from cdc.pipeline.prepared import PreparedRows
from cdc.pipeline.tables import TableRegistry
from cdc.pipeline.transform import Stamp, kept_batches, transformed_change
from cdc.sinks.base import ApplyResult, Sink, SinkTransaction
from checkpoints.checkpoint import Checkpoint
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["Applied", "Applier"]


@dataclass(slots=True)
class Applied:
    """What one sink transaction did."""

    transactions: int = 0
    upserted: int = 0
    deleted: int = 0
    policy_changes: Counter[str] = field(default_factory=Counter)
    last_commit_us: int | None = None
    is_committed: bool = False


class Applier:
    """Applies runs in order. After any error the open transaction is rolled back and the applier is done with."""

    def __init__(
        self,
        *,
        sink: Sink,
        store: InSinkStore,
        tables: TableRegistry,
        checkpoint: Checkpoint,
        hooks: Hooks,
        on_ready: Callable[[TableRecord], None],
        on_partial: Callable[[TableDefinition], None],
        new_load_id: Callable[[], str],
        on_cascade: Callable[[TableName, Cascade], None] = lambda _table, _cascade: None,
    ) -> None:
        """`on_cascade`: rows of a table were changed for the first time by what a foreign key did in no event."""
        self.checkpoint = checkpoint
        self.prepared = PreparedRows(store, tables)
        """What waits for its XA COMMIT; `load` it before the first run."""
        self._sink = sink
        self._store = store
        self._tables = tables
        self._hooks = hooks
        self._on_ready = on_ready
        self._on_partial = on_partial
        self._partial: set[TableName] = set()
        self._on_cascade = on_cascade
        self._cascaded: set[TableName] = set()
        self._graph = tables.cascades.graph
        self._children = frozenset(key.table for key in self._graph.keys)
        self._new_load_id = new_load_id
        self._stamp = Stamp("")
        self._kept_rows = KeptRows(sink, store)
        self._open: ExitStack | None = None
        self._tx: SinkTransaction | None = None
        self._part_number = 0
        self._applied = Applied()
        self._touched: dict[TableName, Counter[tuple[str, str]]] = {}

    @property
    def is_inside_transaction(self) -> bool:
        """Is a large source transaction half applied (and nothing of it visible)?"""
        return self._tx is not None

    def close(self) -> None:
        """Roll back what is open."""
        stack, self._open, self._tx = self._open, None, None
        if stack is not None:
            stack.close()
            self._kept_rows.rolled_back()

    def abandon(self) -> None:
        """The source rolled back the transaction whose parts have been applied: so does the sink."""
        self.close()
        self._part_number = 0

    def apply(self, run: TransactionRun) -> Applied:
        """Apply a run, or a part; commit rows and checkpoint when it is whole.

        Raises SinkUnavailable, UnsupportedData (with table and position), LeaseLost.
        """
        if run.part_number != self._part_number:
            raise InvariantBroken(f"part {run.part_number} of a transaction after part {self._part_number - 1}")
        try:
            tx = self._begin()
            self._stamp = replace(self._stamp, run=run)
            for together in self.prepared.batches(tx, run):
                if run.cascades and together is run.batches:
                    self._apply_in_stages(tx, run)
                else:
                    self._apply_rows(tx, _by_table(together))
            if not run.is_last_part:
                self._part_number += 1
                return Applied()
            return self._commit(tx, run)
        except UnsupportedData as error:
            error.position = error.position or str(run.end)
            hint_at_kept_rows(error, self._sink, self._tables)
            raise
        finally:
            if run.is_last_part:
                self.close()

    def _begin(self) -> SinkTransaction:
        if self._tx is None:
            self._open = ExitStack()
            self._tx = self._open.enter_context(self._sink.transaction())
            self._applied = Applied()
            self._touched = {}
            self._stamp = Stamp(self._new_load_id())
        return self._tx

    def _apply_in_stages(self, tx: SinkTransaction, run: TransactionRun) -> None:
        """Images, what foreign keys did behind these, further images, and so on."""
        step = CascadeStep(self._graph, self._sink.kind, self._tables.target)
        for rows, cascades in stages(_by_table(run.batches), run.cascades, self._graph):
            self._apply_rows(tx, rows)
            for cascade in cascades:
                self._hooks("before_cascade")
                deleted, changed = step.apply(tx, cascade)
                for name in deleted.keys() | changed.keys():
                    counts = Counter({("*", "hidden_cascades"): deleted[name] + changed[name]})
                    self._count(name, ApplyResult(changed[name], deleted[name], counts))
                    if name not in self._cascaded:
                        self._cascaded.add(name)
                        self._on_cascade(name, cascade)

    def _apply_rows(self, tx: SinkTransaction, by_table: Mapping[TableName, list[RowBatch]]) -> None:
        for name, batches in by_table.items():
            self._apply_table(tx, name, batches)

    def _apply_table(self, tx: SinkTransaction, name: TableName, batches: list[RowBatch]) -> None:
        target = self._tables.target(name)
        kept, left_out = kept_batches(batches if target.key else whole_batches(batches, target), target)
        self._count(name, ApplyResult(policy_changes=left_out))
        if name not in self._partial and any(batch.shape_index is not None for batch in batches):
            self._partial.add(name)
            self._on_partial(batches[-1].definition)
        if name in self._children and self._tables.is_catching_up(name):
            _require_whole(batches)
        if target.is_numbered:
            self._count(name, self._kept_rows.apply(tx, target, kept, self._stamp))
            return
        if not target.key:
            change = keyless_change(batches[-1].definition, kept, source_columns(target))
            if change.upsert_count or change.delete_count:
                self._count(name, tx.apply(transformed_keyless(change, target, self._stamp), target))
            return
        changes = net_changes(
            batches[-1].definition,
            target.source_key,
            kept,
            wanted=frozenset(column.source.name for column in target.columns),
            may_lack_rows=self._tables.is_catching_up(name),
        )
        for change in changes if kept else ():
            for part, is_gone in soft_deleted(change, target):
                result = tx.apply(transformed_change(part, target, self._stamp), target)
                self._count(name, replace(result, upserted=0, deleted=result.upserted) if is_gone else result)

    def _count(self, name: TableName, result: ApplyResult) -> None:
        self._applied.upserted += result.upserted
        self._applied.deleted += result.deleted
        for (_, policy), count in result.policy_changes.items():
            self._applied.policy_changes[policy] += count
        self._touched.setdefault(name, Counter()).update(result.policy_changes)

    def _commit(self, tx: SinkTransaction, run: TransactionRun) -> Applied:
        applied = self._applied
        applied.transactions = run.transaction_count
        times = [t for t in run.commit_times_us.to_pylist() if t is not None]
        applied.last_commit_us = times[-1] if times else None
        changed: list[TableRecord] = []
        for name, changes in self._touched.items():
            record = self._tables.record(name)
            if record is None:
                raise InvariantBroken(f"rows of {name}, which has no record")
            record = record.with_policy_changes(changes)
            changed.append(_with_last_change(record, applied.last_commit_us))
            self._store.touch_table(
                tx,
                name,
                last_change_us=applied.last_commit_us or 0,
                policy_changes=record.policy_changes if changes else None,
            )
        for record in changed:
            self._tables.put(record)
        ready = self._tables.catching_up(run.end)
        for record in ready:
            self._store.save_table(tx, record, is_known=True)
        self._hooks("before_checkpoint")
        checkpoint = self.checkpoint.next(run.end)
        self._store.save(tx, checkpoint)
        self._hooks("before_commit")
        tx.commit()
        self._kept_rows.committed()
        self._hooks("after_commit")
        self.checkpoint = checkpoint
        self._part_number = 0
        for record in ready:
            self._tables.put(record)
            self._on_ready(record)
        applied.is_committed = True
        return applied

    def seen(self, position: SourcePosition) -> None:
        """The idle stream has been seen up to `position`: tables that waited for it are ready. Moves no checkpoint."""
        ready = self._tables.catching_up(position)
        if not ready or self._tx is not None:
            return
        with self._sink.transaction() as tx:
            for record in ready:
                self._store.save_table(tx, record, is_known=True)
            self._store.fence(tx)
            tx.commit()
        for record in ready:
            self._tables.put(record)
            self._on_ready(record)


def _by_table(batches: Sequence[RowBatch]) -> dict[TableName, list[RowBatch]]:
    grouped: dict[TableName, list[RowBatch]] = {}
    for batch in batches:
        grouped.setdefault(batch.definition.name, []).append(batch)
    return grouped


def _require_whole(batches: Sequence[RowBatch]) -> None:
    """A row that foreign keys delete here, and that its load read as it was later, has to come again as a whole."""
    for batch in batches:
        if batch.shape_index is not None and any(batch.shapes[one] for one in batch.shape_index.unique().to_pylist()):
            table = str(batch.definition.name)
            raise UnsupportedData(
                f"{table}: row images lack columns while it is loaded, and foreign keys change its rows without any "
                "event (binlog_row_image is MINIMAL or NOBLOB in the writer's session)",
                table=table,
                hint="on the source: SET GLOBAL binlog_row_image=FULL, reconnect the writers, then run `cdc snapshot "
                f"{table}`; or load it while nothing writes to it",
            )


def _with_last_change(record: TableRecord, commit_us: int | None) -> TableRecord:
    return replace(record, last_change_us=commit_us) if commit_us is not None else record
