"""Load one table: from a visible position, chunk by chunk, up to a written position.

    1  W, the visible position before the first read: the load shows every change up to W
    2  the definition, the target made to fit
    3  chunks of the key, each its own statement, read by several sessions at a time
    4  V, the written position after the last read: the load shows no change after V

The stream then passes over the table's changes up to W, applies those after W idempotently, and from V on the table
is consistent (`ready`). A definition that changed between 2 and 3 starts the load again; one that changes later is
in the stream after W, and starts it again from there.

A target that was complete before is replaced in one transaction: readers see the old rows until they see the new
ones. One that never was is filled chunk by chunk, each recorded with its rows; a load that was cut off goes on with the
chunks that are missing, from the W that it began with (docs/decisions/0019). Chunks that were staged need not be read
again for that (docs/decisions/0023).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa

from cdc import __version__
from cdc.errors import SinkRefused, SinkUnavailable, SourceUnavailable, UnsupportedData
from cdc.model import SourcePosition, TableDefinition, TableName
from cdc.schema.options import names_made
from cdc.schema.target import TargetTable
from cdc.sinks.base import ApplyResult, ExistingTable, Sink, SinkTransaction
from cdc.sinks.target_facts import drop_unique
from cdc.source.cascades import require_visible_changes
from cdc.source.connection import SourceConnection, TableDenied, TableGone
from cdc.source.definitions import read_definition
from cdc.source.positions import is_in_log, visible_position, written_file_pos
from cdc.source.resultset import quote, quote_table
from checkpoints.chunks import ChunkRecord, ChunkStore, Loaded
from checkpoints.store import InSinkStore, TableRecord
from snapshot.chunks import FIRST_ROWS, Chunk, ChunkPlan, KeyRange, Pace, require_no_null
from snapshot.exact import exact_rows, require_view
from snapshot.guards import SourceGuard
from snapshot.kept import fitted, is_kept
from snapshot.parallel import ChunkReaders, SessionPool
from snapshot.shared import SharedTargets
from snapshot.staging import LoadFiles, StagedLoad, StagingArea
from snapshot.writers import ChunkWriters, WriterSession

__all__ = [
    "LoadCounter",
    "LoadLimits",
    "LoadPlan",
    "LoadProgress",
    "LoadTools",
    "MirrorWriter",
    "RowWriter",
    "TableLoader",
    "added",
    "is_backed",
    "keep_chunk",
    "load_digest",
    "stale_columns",
]


def stale_columns(record: TableRecord, target: TargetTable, existing: ExistingTable) -> list[str]:
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
# How long it may take until somebody has noticed that a sink is away which cut our session.
_NOTICED_SECONDS = 1.5


class LoadProgress(Protocol):
    """Told how far a load is; may raise Stopping to end it."""

    def __call__(self, table: TableName, *, rows: int, rows_estimate: int | None) -> None:
        """`rows` have been read and copied; `rows_estimate` is the source's own guess of all of them."""


class RowWriter(Protocol):
    """Puts the rows of one load into its target, in the loader's transactions.

    Chunk by chunk into an empty target, there is only `put`; else `begin`, all rows and `end` in one transaction.
    """

    def begin(self, tx: SinkTransaction) -> None:
        """The target may hold rows, which readers must not lose sight of."""

    def put(self, tx: SinkTransaction, rows: pa.RecordBatch) -> ApplyResult:
        """Rows as the target takes them."""

    def end(self, tx: SinkTransaction) -> None:
        """All rows are there."""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How tables are read: by up to `workers` sessions, in chunks of about `chunk_seconds`, at most `bytes_max` of
    rows in memory that are not at the sink yet."""

    workers: int = 2
    chunk_seconds: float = 1.0
    bytes_max: int = 32 << 20
    guard: SourceGuard = field(default_factory=SourceGuard)
    """Shared by all loads."""
    staging: StagingArea | None = None
    """Of the sink; None: nothing is staged."""
    writers: int = 1
    """Sessions on the sink that write chunks of one table, the load's own among them."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What one attempt to load a table does.

    `record` is what the metadata says of it from its begin on. `replaces`: the target holds rows that readers must not
    lose sight of. `chunks`: those of the attempt that this one goes on with, in key order; `cut`: those behind them
    that only `files` tell of.
    """

    record: TableRecord
    target: TargetTable
    replaces: bool = False
    chunks: tuple[ChunkRecord, ...] = ()
    cut: tuple[Chunk, ...] = ()
    files: LoadFiles | None = None

    @property
    def source(self) -> TableName:
        """The table."""
        return self.record.source

    @property
    def loaded(self) -> list[Loaded]:
        """What its chunks have brought that are in the target."""
        return [chunk.loaded for chunk in self.chunks if chunk.loaded is not None]

    @property
    def staged_count(self) -> int:
        """How many chunks are in files already."""
        return self.files.found_count if self.files is not None else 0


class MirrorWriter:
    """The rows of a mirror: all of them are replaced."""

    def __init__(self, target: TargetTable) -> None:
        self._target = target

    def begin(self, tx: SinkTransaction) -> None:
        tx.clear(self._target)

    def put(self, tx: SinkTransaction, rows: pa.RecordBatch) -> ApplyResult:
        return tx.load(rows, self._target)

    def end(self, tx: SinkTransaction) -> None:
        """There is nothing left to do."""


@dataclass(frozen=True, slots=True)
class LoadTools:
    """What loads work with: the arguments of `TableLoader` of the same names."""

    source: SourceConnection
    sink: Sink
    store: InSinkStore
    make_target: Callable[[TableDefinition], TargetTable]
    transform: Callable[[pa.RecordBatch, TargetTable], pa.RecordBatch]
    options: Callable[[TableName, tuple[str, ...]], Mapping[str, Any]]
    chunk_rows: Callable[[str, str], int]
    sessions: SessionPool
    limits: LoadLimits
    accepts_hidden_cascades: Callable[[str, str], bool]
    hook: Callable[[str], None]
    on_progress: LoadProgress
    on_commit: Callable[[], None]

    def pace(self, table: TableName, *, first_rows: int = FIRST_ROWS) -> Pace:
        """How large the table's chunks are."""
        limits = self.limits
        return Pace(
            rows_max=limits.guard.rows_max(self.chunk_rows(table.database, table.table), limits.chunk_seconds),
            seconds=limits.chunk_seconds,
            bytes_max=limits.guard.bytes_max(
                limits.bytes_max // (limits.workers + limits.writers),  # those are at the sink
                limits.chunk_seconds,
            ),
            first_rows=first_rows,
        )

    def put(self, writer: RowWriter, tx: SinkTransaction, batch: pa.RecordBatch, target: TargetTable) -> Loaded:
        """One batch of a chunk."""
        changes: Counter[tuple[str, str]] = Counter()
        kept = self.transform(batch, target)
        if kept.num_rows:
            changes.update(writer.put(tx, kept).policy_changes)
        if kept.num_rows < batch.num_rows:
            changes["*", "row_filter"] += batch.num_rows - kept.num_rows
        self.hook("load_chunk")
        return Loaded(batch.num_rows, kept.num_rows, changes)

    def begun(self, record: TableRecord, target: TargetTable, visible: SourcePosition | None) -> TableRecord:
        """The record of a load from its start, into a target without rows."""
        return replace(
            self.intent(record, target),
            loaded_from=visible,
            rows_loaded=0,
            error=None,
            step="",
        )

    def intent(self, record: TableRecord, target: TargetTable) -> TableRecord:
        """The table is about to be loaded into that target; nothing is there yet."""
        return replace(
            record,
            target=str(target),
            state="snapshotting",
            definition=target.definition,
            key=target.source_key,
            options=self.options(record.source, target.source_key),
            is_complete=False,
            loaded_from=None,
            ready_at=None,
            ready_server=None,
        )


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
        options: Callable[[TableName, tuple[str, ...]], Mapping[str, Any]],
        chunk_rows: Callable[[str, str], int],
        sessions: SessionPool,
        limits: LoadLimits,
        accepts_hidden_cascades: Callable[[str, str], bool],
        hook: Callable[[str], None],
        on_progress: LoadProgress,
        on_commit: Callable[[], None] = lambda: None,
        on_resume: Callable[[LoadPlan], None] = lambda _plan: None,
        on_search: Callable[[TableName, str, float], None] = lambda _table, _what, _seconds_max: None,
        make_writer: Callable[[TargetTable], RowWriter] = MirrorWriter,
        is_sink_away: Callable[[SinkUnavailable], bool] = lambda _error: False,
        server_id: int | None = None,
        spool_dir: Path | None = None,
        may_remake: Callable[[TableName], bool] = lambda _table: True,
        more_writers: Callable[[], Sequence[WriterSession]] = tuple,
    ) -> None:
        """`options` says what the rows of a table with that key depend on.

        `on_commit` is called once rows are there that a further attempt need not bring again.

        `on_resume` is told of a load that goes on where an earlier one was cut off, `on_search` what a load of a table
        without a key waits for, and for how long at most.

        `is_sink_away` is asked, after the error that says so, for how long a load reads on into files; it may raise.

        `server_id`, for a look at the log: no other stream uses it now. `spool_dir`: where large files may lie.

        `may_remake`: may a target with a whole version of the table be made anew where its columns differ?

        `more_writers`: sessions on the sink that write chunks beside `sink`; asked for a table of several chunks.
        """
        self._source = source
        self._server_id = source.settings.server_id if server_id is None else server_id
        self._spool_dir = spool_dir
        self._sink = sink
        self._store = store
        self._make_target = make_target
        self._options = options
        self._chunks = ChunkStore(store)
        self._chunk_rows = chunk_rows
        self._sessions = sessions
        self._limits = limits
        self._accepts_hidden_cascades = accepts_hidden_cascades
        self._hook = hook
        self._on_progress = on_progress
        self._on_resume = on_resume
        self._on_search = on_search
        self._make_writer = make_writer
        self._is_sink_away = is_sink_away
        self.tools = LoadTools(
            source=source,
            sink=sink,
            store=store,
            make_target=make_target,
            transform=transform,
            options=options,
            chunk_rows=chunk_rows,
            sessions=sessions,
            limits=limits,
            accepts_hidden_cascades=accepts_hidden_cascades,
            hook=hook,
            on_progress=on_progress,
            on_commit=on_commit,
        )
        self._may_remake = may_remake
        self._more_writers = more_writers
        self._written: TableRecord | None = None
        self._load_id = ""
        self.shared = SharedTargets(
            sink=sink,
            store=store,
            read_definition=functools.partial(read_definition, source),
            make_target=make_target,
            options=lambda table: options(table, ()),
            record=self._record,
            hook=hook,
        )

    def load(self, record: TableRecord, *, may_replace: bool) -> TableRecord:
        """Load the table; its new record, already written to the metadata.

        `may_replace`: rows that this deployment did not write may be replaced (an explicit `cdc snapshot`).
        A table that is not at the source any more comes back as `dropped`.

        Raises UnsupportedData (park it), TransientError.
        """
        for attempt in range(_ATTEMPTS_MAX):
            if attempt:
                self._settle()
            self._written = record
            self._load_id = ""
            try:
                loaded = self._try_load(record, may_replace=may_replace)
            except UnsupportedData:
                self._end_files()
                raise
            self._end_files()
            if loaded is not None:
                return loaded
            # What the attempt wrote is what the next one finds: a target that it made is ours.
            record = self._written
        raise SourceUnavailable(
            f"{record.source} changed its definition {_ATTEMPTS_MAX} times while it was being loaded",
            hint="the load is tried again; finish the ALTERs on that table first",
        )

    def _settle(self) -> None:
        """Wait for what another session was committing when the attempt ended: it holds the checkpoint's row till then.

        What the next attempt finds, and clears away, is all that there will be of this one.
        """
        with self._sink.transaction() as tx:
            self._store.fence(tx)
            tx.commit()

    def begin(self, record: TableRecord, target: TargetTable, *, may_replace: bool) -> LoadPlan:
        """The target made to fit, and a load recorded that has no position: for who follows no log.

        Raises UnsupportedData, SinkRefused.
        """
        if target.source_key:
            self._require_unique(target.definition, target.source_key)
        return self._begun(record, target, None, may_replace=may_replace)

    def resume(self, record: TableRecord, target: TargetTable) -> LoadPlan | None:
        """The load that `begin` has begun and that was cut off, if its rows are as good as a new one's were then.

        What has changed since then is for the caller to find.
        """
        plan = self._cut_off(record, target)
        if plan is not None:
            self._on_resume(plan)
        return plan

    def forget(self, tx: SinkTransaction, table: TableName) -> None:
        """In the transaction that records such a load as done."""
        self._chunks.forget(tx, table)

    def copy(self, plan: LoadPlan) -> Loaded:
        """All rows of a table with a key, for a load that `begin` has begun."""
        self._writer = self._make_writer(plan.target)
        return self._copy(plan)

    def sweep(self, records: Iterable[TableRecord]) -> None:
        """Remove the files of loads that nobody goes on with; `records` are all of this pipeline."""
        area = self._limits.staging
        if area is None:
            return
        there = set(area.loads())
        loading = {record.source for record in records if record.state == "snapshotting"}
        mine = self._store.pipeline
        known = self._chunks.loads() if there else []
        area.end(there - {load_id for pipeline, table, load_id in known if pipeline != mine or table in loading})

    def _end_files(self) -> None:
        if self._limits.staging is not None and self._load_id:
            self._limits.staging.end([self._load_id])

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
            plan = self._resumed(record, target)
            if plan is not None:
                self._on_resume(plan)
            else:
                plan = self._begun(record, target, visible, may_replace=may_replace)
            self._written = plan.record
            self._writer = self._make_writer(target)
            self._hook("load_begun")
            if target.source_key:
                loaded = self._copy(plan)
            else:
                plan, loaded = self._copy_exactly(plan)
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
            plan.record,
            ready_at=plan.record.ready_at or written_file_pos(self._source),
            ready_server=visible.server,
            # What the stream makes of rows that are kept from here on, no further load may clear.
            is_complete=plan.record.is_complete or target.mode != "mirror",
            rows_loaded=loaded.rows,
            policy_changes={},
        ).with_policy_changes(loaded.policy_changes)
        self._record(record, lambda tx: self._chunks.forget(tx, table))
        self._hook("load_recorded")
        return record

    # ------------------------------------------------------------ where to begin

    def _begun(
        self, record: TableRecord, target: TargetTable, visible: SourcePosition | None, *, may_replace: bool
    ) -> LoadPlan:
        """A load from its start, recorded as such, into a target that fits."""
        was_complete = self._prepare_target(record, target, may_replace=may_replace)
        # Chunks are of different moments: rows may be two that never were at once.
        drop_unique(self._sink, target, self._store.fence)
        begun = replace(self.tools.begun(record, target, visible), is_complete=was_complete)
        before, self._load_id = self._begun_before(record.source), secrets.token_hex(16)
        plan = load_digest(target, begun.options)
        self._record(begun, lambda tx: self._chunks.begin(tx, begun.source, plan=plan, load_id=self._load_id))
        if self._limits.staging is not None:
            self._limits.staging.end(before)
        return LoadPlan(begun, target, replaces=was_complete, files=self._files(begun, target))

    def _begun_before(self, table: TableName) -> list[str]:
        """The load of the table that the next one takes the place of, if it may have files."""
        is_staged = self._limits.staging is not None and self._limits.staging.loads()
        return [load_id for load_id in [self._chunks.load_id(table)] if load_id] if is_staged else []

    def _files(self, record: TableRecord, target: TargetTable) -> LoadFiles | None:
        area = self._limits.staging
        if area is None or not target.source_key or not self._load_id or record.loaded_from is None:
            return None
        load = StagedLoad(self._load_id, self._store.pipeline, target.definition, target.source_key, record.loaded_from)
        return area.load(load, self._hook)

    def _resumed(self, record: TableRecord, target: TargetTable) -> LoadPlan | None:
        """The load that was cut off, if the rows that it brought are as good as those that a new one would.

        What has changed at the source since then comes by the stream, from the position at which it began: the log
        must have it. (So does what was altered, and altered back.)
        """
        if record.loaded_from is None:
            return None
        plan = self._cut_off(record, target)
        return plan if plan is not None and is_in_log(self._source, record.loaded_from) else None

    def _cut_off(self, record: TableRecord, target: TargetTable) -> LoadPlan | None:
        is_cut_off = record.state == "snapshotting" and record.ready_at is None and not record.is_complete
        if not is_cut_off or record.definition != target.definition:
            return None
        options = self._options(record.source, target.source_key)
        if (record.target, record.key, record.options) != (str(target), target.source_key, options):
            return None
        chunks = self._chunks.load(record.source, plan=load_digest(target, options))
        plan = self._with_files(LoadPlan(replace(record, error=None), target, chunks=tuple(chunks)))
        if not (plan.loaded or plan.staged_count):
            return None
        existing = self._sink.inspect(target)
        if existing is None or self._sink.differences(target, existing) or stale_columns(record, target, existing):
            return None
        if any(one.rows for one in plan.loaded) and not existing.has_rows:
            return None  # somebody has emptied it
        if not plan.loaded and existing.has_rows and target.source_column is None:
            return None  # somebody has filled it
        return plan

    def _with_files(self, plan: LoadPlan) -> LoadPlan:
        """The same, with what an earlier attempt has left in files."""
        if self._limits.staging is None:
            return plan
        self._load_id = self._chunks.load_id(plan.source)
        files = self._files(plan.record, plan.target)
        if files is None:
            return plan
        done = [chunk.number for chunk in plan.chunks if chunk.loaded is not None]
        return replace(plan, files=files, cut=tuple(files.find(_as_planned(plan.chunks), done=done)))

    def _require_unique(self, definition: TableDefinition, key: tuple[str, ...]) -> None:
        """A key that no unique index backs must be looked at: chunks would pass over the second of two equal keys. So
        must one that may be NULL.

        Without a key, no chunk is read, and a view is needed.
        """
        if not key:
            require_view(definition)
            return
        require_no_null(self._source, definition, key)
        if is_backed(definition, key):
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

    def _record(self, record: TableRecord, more: Callable[[SinkTransaction], None] | None = None) -> TableRecord:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            if more is not None:
                more(tx)
            self._store.fence(tx)
            tx.commit()
        self._written = record
        return record

    def _prepare_target(self, record: TableRecord, target: TargetTable, *, may_replace: bool) -> bool:
        """Make the target fit. True when it holds rows that readers must not lose sight of.

        Raises SinkRefused when what is there is not ours to change.
        """
        self._sink.create_namespace(target.namespace)
        intent = self.tools.intent(record, target)
        if target.source_column is not None:
            return self.shared.prepare(record, intent, target, target.source_column, may_replace=may_replace)
        existing = self._sink.inspect(target)
        if existing is None:
            # The intent comes first: a table that is made and not recorded would pass for somebody else's.
            self._record(intent)
            self._make(target)
            self._hook("target_made")
            return False
        if is_kept(record, target, existing):
            options = self._options(record.source, target.source_key)
            fitting = fitted(self._sink, record, target, existing, options=options, may_replace=may_replace)
            if fitting is None:
                self._drop(record, target)
                self._sink.create_table(target)
            return fitting is not None
        is_ours = record.definition is not None and record.target == str(target)
        differences = self._sink.differences(target, existing)
        differences += stale_columns(record, target, existing)
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

    def _make(self, target: TargetTable) -> None:
        """Perhaps a session of ours, whose answer never came, has made it since it was looked for: that will do."""
        try:
            self._sink.create_table(target)
        except SinkRefused:
            existing = self._sink.inspect(target)
            if existing is None or existing.has_rows or self._sink.differences(target, existing):
                raise

    def _drop(self, record: TableRecord, target: TargetTable) -> None:
        if record.is_complete and not self._may_remake(record.source):
            raise SinkRefused(
                f"{record.source} has other columns now, and its target {target} is not changed (ddl: log)",
                table=str(record.source),
                hint=f"alter the target, or have it follow (ddl: apply); then `cdc snapshot {record.source}`",
            )
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

    # ------------------------------------------------------------ the rows

    def _copy(self, plan: LoadPlan) -> Loaded:
        """All chunks that are not in the target yet; what the whole load brought."""
        limits, table = self._limits, plan.source
        planned = _as_planned(plan.chunks)
        pace = self.tools.pace(table)
        done = [chunk.number for chunk in plan.chunks if chunk.loaded is not None]
        chunk_plan = ChunkPlan(
            plan.target.definition, plan.target.source_key, pace, planned=planned, done=done, unrecorded=plan.cut
        )
        counter = LoadCounter(self._on_progress, table, self._estimate(table))
        for loaded in plan.loaded:
            counter.add(loaded)
        counter.show()
        try:
            with ChunkReaders(
                chunk_plan,
                sessions=self._sessions,
                workers=limits.workers,
                # What other sessions write is in memory as well.
                bytes_max=max(1, limits.bytes_max - (limits.writers - 1) * pace.bytes_max),
                guard=limits.guard,
                files=plan.files,
            ) as readers:
                if plan.replaces:
                    self._replace(plan, readers.chunks(counter.show), counter)
                else:
                    with self._reading_on(readers, plan), self._writers(plan) as writers:
                        self._fill(plan, readers, counter, chunk_plan, writers)
        except UnsupportedData as error:
            error.position = error.position or "the load"
            raise
        return counter.total

    @contextlib.contextmanager
    def _reading_on(self, readers: ChunkReaders, plan: LoadPlan) -> Iterator[None]:
        """While the sink is away, which ends the load, chunks are read into files: the next attempt has them."""
        try:
            yield
        except SinkUnavailable as error:
            if plan.files is not None and not self._is_sink_there():
                until, away = time.monotonic() + _NOTICED_SECONDS, error
                readers.read_on(lambda: self._is_sink_away(away) or time.monotonic() < until)
            raise

    def _is_sink_there(self) -> bool:
        try:
            self._sink.ping()
        except SinkUnavailable:
            return False
        return True

    def _copy_exactly(self, plan: LoadPlan) -> tuple[LoadPlan, Loaded]:
        """All rows of a table without a key, in one transaction; the plan with their exact position."""
        table = plan.source
        counter = LoadCounter(self._on_progress, table, self._estimate(table))
        try:
            with exact_rows(
                self._source,
                plan.target.definition,
                server_id=self._server_id,
                rows_max=self._chunk_rows(table.database, table.table),
                on_wait=counter.show,
                on_search=functools.partial(self._on_search, table),
                spool_dir=self._spool_dir,
                sessions=self._sessions,
                guard=self._limits.guard,
            ) as exact:
                self._replace(plan, iter([(Chunk(1, KeyRange()), exact.batches)]), counter)
        except UnsupportedData as error:
            error.position = error.position or "the load"
            raise
        record = replace(plan.record, loaded_from=exact.position, ready_at=exact.ready_at)
        return replace(plan, record=record), counter.total

    def _replace(self, plan: LoadPlan, chunks: _Chunks, counter: LoadCounter) -> None:
        """All rows of the target by all chunks, in one transaction."""
        with self._sink.transaction() as tx:
            self._writer.begin(tx)
            for _, batches in chunks:
                for batch in batches:
                    counter.add(self.tools.put(self._writer, tx, batch, plan.target))
                    counter.show()
            self._writer.end(tx)
            self._store.fence(tx)
            tx.commit()

    def _fill(
        self,
        plan: LoadPlan,
        readers: ChunkReaders,
        counter: LoadCounter,
        chunk_plan: ChunkPlan,
        writers: ChunkWriters | None,
    ) -> None:
        """Each chunk in a transaction of its own, recorded with its rows."""
        known = {chunk.number for chunk in plan.chunks}
        for chunk, batches in readers.chunks(counter.show):
            self._count_written(writers, counter)
            is_one_of_several = chunk.range.upto is not None
            if writers is not None and is_one_of_several and readers.is_whole and writers.has_free:
                self._record_cut(plan.source, chunk_plan, chunk, known)
                writers.give(chunk, list(batches))
                continue
            first = next(batches, None)
            if first is None and chunk.range == KeyRange():
                continue  # the whole table, and it is empty
            loaded = Loaded()
            with self._sink.transaction() as tx:
                batch = first
                while batch is not None:
                    loaded = added(loaded, self.tools.put(self._writer, tx, batch, plan.target))
                    counter.show(loaded.rows_read)
                    batch = next(batches, None)
                keep_chunk(self._chunks, tx, chunk_plan, chunk, loaded, known)
                self._store.fence(tx)
                tx.commit()
            self._hook("load_chunk_committed")
            self._count(loaded, counter)
        if writers is not None:
            writers.wait(counter.show)
            self._count_written(writers, counter)

    def _writers(self, plan: LoadPlan) -> contextlib.AbstractContextManager[ChunkWriters | None]:
        """Sessions that write beside the load's own, where what a chunk writes depends on no other."""
        if self._limits.writers == 1 or plan.files is not None or plan.target.mode != "mirror":
            return contextlib.nullcontext()
        return ChunkWriters(self._more_writers, functools.partial(self._write_beside, plan), self.tools.on_commit)

    def _write_beside(
        self,
        plan: LoadPlan,
        session: WriterSession,
        chunk: Chunk,
        batches: Sequence[pa.RecordBatch],
        check: Callable[[], None],
    ) -> Loaded:
        """In a thread of its own: a chunk of which it is recorded where it ends, with the record that it is there."""
        writer, loaded = MirrorWriter(plan.target), Loaded()
        with session.sink.transaction() as tx:
            for batch in batches:
                check()
                loaded = added(loaded, self.tools.put(writer, tx, batch, plan.target))
            check()
            ChunkStore(session.store).replace(tx, plan.source, _record_of(chunk, loaded))
            session.store.fence(tx)
            tx.commit()
        self._hook("load_chunk_committed")
        return loaded

    def _record_cut(self, table: TableName, plan: ChunkPlan, chunk: Chunk, known: set[int]) -> None:
        """Before another session writes it: that chunk, and those that have been cut since."""
        if chunk.number in known:
            return
        cut = plan.take_cut()
        with self._sink.transaction() as tx:
            self._chunks.put(tx, table, [_record_of(one, None) for one in cut])
            self._store.fence(tx)
            tx.commit()
        known.update(one.number for one in cut)
        assert chunk.number in known, "a chunk that nobody cut"

    def _count_written(self, writers: ChunkWriters | None, counter: LoadCounter) -> None:
        if writers is None:
            return
        for loaded in writers.written():
            self._count(loaded, counter)
        writers.check()

    def _count(self, loaded: Loaded, counter: LoadCounter) -> None:
        self.tools.on_commit()
        counter.add(loaded)
        counter.show()

    def _estimate(self, table: TableName) -> int | None:
        rows = self._source.query_text(
            "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            (table.database, table.table),
        )
        return int(rows[0][0]) if rows and rows[0][0] is not None else None


_Chunks = Iterator[tuple[Chunk, Iterator[pa.RecordBatch]]]


class LoadCounter:
    """What a load has brought so far, shown to `on_progress`, which may raise to end it."""

    def __init__(self, on_progress: LoadProgress, table: TableName, estimate: int | None) -> None:
        self._on_progress = on_progress
        self._table = table
        self._estimate = estimate
        self.total = Loaded()

    def add(self, loaded: Loaded) -> None:
        """These rows, too."""
        self.total = added(self.total, loaded)

    def show(self, more: int = 0) -> None:
        """Say how far it is; `more` rows are written and not committed."""
        self._on_progress(self._table, rows=self.total.rows_read + more, rows_estimate=self._estimate)


def keep_chunk(
    chunks: ChunkStore, tx: SinkTransaction, plan: ChunkPlan, chunk: Chunk, loaded: Loaded, known: set[int]
) -> None:
    """Record a chunk in the transaction that has its rows, and those that have been cut meanwhile. `known` are the
    numbers of those that are recorded, these among them afterwards."""
    table, cut = plan.definition.name, plan.take_cut()
    chunks.put(tx, table, [_record_of(one, loaded if one == chunk else None) for one in cut])
    if chunk not in cut:
        assert chunk.number in known, "a chunk that nobody cut"
        chunks.replace(tx, table, _record_of(chunk, loaded))
    known.update(one.number for one in cut)


def added(one: Loaded, other: Loaded) -> Loaded:
    """Both together."""
    changes = Counter(one.policy_changes)
    changes.update(other.policy_changes)
    return Loaded(one.rows_read + other.rows_read, one.rows + other.rows, changes)


def _record_of(chunk: Chunk, loaded: Loaded | None) -> ChunkRecord:
    return ChunkRecord(chunk.number, chunk.range.upto, loaded)


def _as_planned(records: tuple[ChunkRecord, ...]) -> list[Chunk]:
    """Each chunk begins where the one before it ends."""
    chunks: list[Chunk] = []
    for record in records:
        assert record.number == len(chunks) + 1, "a chunk is missing from the metadata"
        chunks.append(Chunk.behind(chunks[-1] if chunks else None, record.upto))
    return chunks


def is_backed(definition: TableDefinition, key: tuple[str, ...]) -> bool:
    """Is there an index of the source's that lets no two rows have one key? (NULL aside.)"""
    indexes = [definition.primary_key] if definition.primary_key else []
    indexes += [index.columns for index in definition.unique_keys if not index.has_prefix]
    return any(set(index) <= set(key) for index in indexes)


def load_digest(target: TargetTable, options: Mapping[str, Any]) -> str:
    """What the values in the target depend on, beside the definition: how each column is made of its source."""
    said = (__version__, str(target), target.columns, target.key, target.policies, orjson.dumps(options).decode())
    return hashlib.sha256(repr(said).encode()).hexdigest()
