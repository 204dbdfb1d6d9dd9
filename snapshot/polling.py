"""One run of a table that is not followed by the binlog: read what has changed, or all, and write it with its state.

    full_refresh   all rows of one read view, which go to a file first, so that no sink keeps the view open; one
                   transaction puts them in the place of those that are there
    incremental    rows whose modifier is at or past the beginning of the run's window, in batches of a statement each,
                   upserted: what is read twice changes nothing. The state commits with the last of them

A window begins at the highest modifier that the run before found, less the time that a transaction may be open: rows
carry the time at which they were written and are seen when they are committed (docs/decisions/0022). Rows without a
modifier, NULL or a zero date, are read at every run.

Knows no clock but the source's, and no schedule: `cdc.pipeline.poller` has that.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

import pyarrow as pa

from cdc.errors import SinkUnavailable, SourceUnavailable, TransientError, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.schema.mapping import map_table
from cdc.schema.strategy import Choice, TablePolling, choose, problems
from cdc.schema.target import TargetTable
from cdc.sinks import key_sets
from cdc.sinks.base import ApplyResult, Sink, SinkTransaction
from cdc.source.connection import SourceConnection, TableDenied, TableGone, connect
from cdc.source.definitions import read_definition
from cdc.source.offers import read_offer
from cdc.source.positions import VIEWED_ENGINES
from cdc.source.result_reader import ResultReader
from cdc.source.resultset import column_expression, literal, quote, quote_table, select_list
from checkpoints.polls import PollState, PollStore
from checkpoints.store import InSinkStore, TableRecord
from snapshot.chunks import BATCH_BYTES_MAX, BATCH_ROWS_MAX, Border, KeyRange, Pace, _beyond, border_sql, range_sql
from snapshot.guards import SourceGuard
from snapshot.loader import LoadPlan, RowWriter, TableLoader

__all__ = ["COUNT_ROWS_MAX", "RunTools", "TableRun", "window_begin"]

# How often a table that is altered under the run is begun again before it is left for the next one.
_ATTEMPTS_MAX = 3
# Rows of a target are counted up to here; beyond, the sink's own estimate is said to be one.
COUNT_ROWS_MAX = 1_000_000
_SPOOL_MEMORY_MAX = 16 << 20
# A batch is one statement on the source, and in memory until it is written.
_BATCH_SECONDS, _BATCH_BYTES_MAX = 1.0, 16 << 20
_TIMES = frozenset({ValueKind.TIMESTAMP, ValueKind.DATETIME, ValueKind.DATE})
# Zero dates are less than any other, and comparing with '0000-00-00' itself is an error under some sql_modes.
_FIRST_DATE = "'0001-01-01'"


class _Altered(Exception):
    """The table has another definition than at the beginning of the run."""


@dataclass(frozen=True, slots=True)
class RunTools:
    """What a run needs of who knows the configuration, the schedule and the metadata columns.

    Attributes:
        transform: rows of the source as the target takes them, without those that its filter leaves out.
        left_out: the keys of the rows that the filter leaves out, as the target has them.
        options: what the rows of a table with that key depend on.
        pause: called between two batches; raises what ends the run.
        admit: the table's record for a run that reads by that definition; raises UnsupportedData where it may not.
        guard: asked before each batch, as by all that loads; `sleep` is how a batch waits for it, and may raise.
        on_rows: told how many rows have been read; may raise.
    """

    make_target: Callable[[TableDefinition], TargetTable]
    transform: Callable[[pa.RecordBatch, TargetTable], pa.RecordBatch]
    left_out: Callable[[pa.RecordBatch, TargetTable], pa.RecordBatch]
    options: Callable[[TableName, tuple[str, ...]], object]
    make_writer: Callable[[TargetTable], RowWriter]
    batch_rows: Callable[[str, str], int]
    pause: Callable[[], None]
    admit: Callable[[TableRecord, TableDefinition], TableRecord]
    on_rows: Callable[[TableName, int], None]
    hook: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    guard: SourceGuard = field(default_factory=SourceGuard)
    spool_dir: Path | None = None


@dataclass(slots=True)
class _Counts:
    """What a run has done so far."""

    read: int = 0
    written: int = 0
    deleted: int = 0
    missed: int = 0
    undated: int = 0
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    held: list[pa.RecordBatch] = field(default_factory=list)
    """The batch that was read last: it is written with the next one, or with the state."""

    def add(self, result: ApplyResult) -> None:
        self.written += result.upserted
        self.deleted += result.deleted
        self.changes.update(result.policy_changes)


# ---------------------------------------------------------------- what the source says


@dataclass(frozen=True, slots=True)
class _Now:
    """The source's clock, and the modifier's highest value that is not beyond it (None: no row has one)."""

    time_us: int
    highest: str | None
    ahead: int


def _look(source: SourceConnection, table: TableName, column: ColumnDefinition, *, is_indexed: bool) -> _Now:
    name, is_time = quote(column.name), column.kind in _TIMES
    past = f" WHERE {name} <= NOW(6)" if is_time else ""
    clock, highest = source.query_text(f"SELECT UNIX_TIMESTAMP(NOW(6)), MAX({name}) FROM {quote_table(table)}{past}")[0]
    ahead = 0
    if is_time and is_indexed:
        ahead = int(source.query_text(f"SELECT COUNT(*) FROM {quote_table(table)} WHERE {name} > NOW(6)")[0][0] or 0)
    if is_time and highest is not None and highest.startswith("0000"):
        highest = None
    seconds, _, micros = (clock or "0").partition(".")
    return _Now(int(seconds) * 1_000_000 + int((micros + "000000")[:6]), highest, ahead)


# ---------------------------------------------------------------- windows


def window_begin(column: ColumnDefinition, state: PollState, *, lookback_seconds: float, now_us: int) -> str | None:
    """The modifier from which on, itself included, a run reads; None: from the first row on.

    Times: `lookback_seconds` before the edge. Whole numbers say nothing of time: the highest that there was so long
    before the last run. What was given out before that and is committed later was open for longer than it may be.
    """
    if column.kind in _TIMES:
        return None if state.edge is None else _earlier(state.edge, lookback_seconds, column.kind)
    if not state.marks:
        return None
    lookback_us = int(lookback_seconds * 1_000_000)
    if not state.is_settled and now_us >= state.marks[0][0] + lookback_us:
        return None  # what was open when the table was loaded has ended: once, all rows are looked at
    until = (state.began_us or 0) - lookback_us
    seen = [value for at, value in state.marks if at <= until]
    return max(seen, key=int) if seen else state.marks[0][1]


def _earlier(text: str, seconds: float, kind: ValueKind) -> str | None:
    date, _, clock = text.partition(" ")
    year, month, day = (max(1, int(part)) for part in date.split("-"))
    hour, minute, second = clock.split(":") if clock else ("0", "0", "0")
    whole, _, fraction = second.partition(".")
    micros = int((fraction + "000000")[:6])
    month = min(month, 12)
    day = min(day, calendar.monthrange(year, month)[1])  # one that its month does not have (ALLOW_INVALID_DATES)
    # Without a zone, as DATETIME is; the session gives a TIMESTAMP in UTC.
    at = datetime(year, month, day, int(hour), int(minute), int(whole), micros)  # noqa: DTZ001
    try:
        at -= timedelta(seconds=seconds)
    except OverflowError:
        return None
    return at.date().isoformat() if kind is ValueKind.DATE else at.isoformat(sep=" ", timespec="microseconds")


def _marked(state: PollState, now: _Now, lookback_seconds: float) -> tuple[tuple[int, str], ...]:
    """The marks with this run's: those that a later run may go by, and the last one before them."""
    if now.highest is None:
        return state.marks
    marks = [*state.marks, (now.time_us, now.highest)]
    until = now.time_us - int(lookback_seconds * 1_000_000)
    old = [mark for mark in marks if mark[0] <= until]
    return (*old[-1:], *(mark for mark in marks if mark[0] > until))


def _later(one: str | None, other: str | None, kind: ValueKind) -> str | None:
    if one is None or other is None:
        return one or other
    return max(one, other) if kind in _TIMES else max(one, other, key=int)


# ---------------------------------------------------------------- batches


@dataclass(frozen=True, slots=True)
class _Window:
    """Rows to be read, and by which columns they are ordered."""

    condition: str
    order: tuple[str, ...]
    is_undated: bool = False


def _windows(key: tuple[str, ...], column: ColumnDefinition, begin: str | None) -> list[_Window]:
    if begin is None:
        return [_Window("TRUE", key)]
    name = quote(column.name)
    found = []
    if column.is_nullable:
        found.append(f"{name} IS NULL")
    if column.kind in _TIMES:
        found.append(f"{name} < {_FIRST_DATE}")
    dated = _Window(
        f"{name} >= {literal(begin.encode(), column)}", (column.name, *(one for one in key if one != column.name))
    )
    return [_Window(f"({' OR '.join(found)})", key, is_undated=True), dated] if found else [dated]


def _batch_sql(definition: TableDefinition, window: _Window, after: Border | None, upto: Border | None) -> str:
    """Rows of the window behind `after`, up to and with `upto`, in order."""
    conditions = [window.condition]
    if after is not None:
        conditions.append(_beyond(definition, window.order, after, ">", ">"))
    if upto is not None:
        conditions.append(_beyond(definition, window.order, upto, "<", "<="))
    order = ", ".join(map(quote, window.order))
    return f"FROM {quote_table(definition.name)} WHERE {' AND '.join(conditions)} ORDER BY {order}"


# ---------------------------------------------------------------- one run


class TableRun:
    """Runs tables, one after the other, on one session of the source and one of the sink."""

    def __init__(
        self, *, source: SourceConnection, sink: Sink, store: InSinkStore, loader: TableLoader, tools: RunTools
    ) -> None:
        self._source = source
        self._sink = sink
        self._store = store
        self._polls = PollStore(store)
        self._loader = loader
        self._tools = tools

    def run(
        self, record: TableRecord, state: PollState, polling: TablePolling, *, why_no_log: str, may_replace: bool
    ) -> tuple[TableRecord, PollState]:
        """What the table's record and state are afterwards, both written to the metadata with its rows.

        A table that is not at the source any more comes back as `dropped`. Raises UnsupportedData (park it),
        TransientError.
        """
        for _ in range(_ATTEMPTS_MAX):
            try:
                return self._try(record, state, polling, why_no_log=why_no_log, may_replace=may_replace)
            except (_Altered, TableGone) as error:
                if isinstance(error, TableGone) and read_definition(self._source, record.source) is None:
                    return self._dropped(record, state)
                # What the attempt wrote is what the next one finds: a target that it made is ours. Its rows are not
                # gone on with, though the table may be as before by then: they may have been others meanwhile.
                record = replace(self._store.load_tables().get(record.source, record), state="pending")
            except TableDenied as error:
                raise UnsupportedData(
                    f"{record.source} may not be read: {error.message}",
                    table=str(record.source),
                    hint=f"GRANT SELECT ON {quote_table(record.source)} TO {self._source.settings.user}, every column "
                    f"of it; then `cdc snapshot {record.source}`",
                ) from error
        raise SourceUnavailable(
            f"{record.source} changed its definition {_ATTEMPTS_MAX} times while it was being read",
            hint="it is tried again; finish the ALTERs on that table first",
        )

    def _try(
        self, record: TableRecord, state: PollState, polling: TablePolling, *, why_no_log: str, may_replace: bool
    ) -> tuple[TableRecord, PollState]:
        table = record.source
        # Waits for DDL that is under way, and says what we may not read: information_schema would show less.
        self._source.query(f"SELECT * FROM {quote_table(table)} LIMIT 0")
        definition = read_definition(self._source, table)
        if definition is None:
            return self._dropped(record, state)
        record = self._tools.admit(record, definition)
        target = self._tools.make_target(definition)
        offer = read_offer(self._source, definition, target.source_key, why_no_log=why_no_log)
        choice = choose(polling, offer)
        if choice.strategy == "cdc":
            raise UnsupportedData(
                f"{table} is to be followed by the binlog, and {why_no_log}",
                table=str(table),
                hint="give it sync_strategy: auto, incremental or full_refresh (tables.overrides), or see to the "
                "binlog (`cdc check`) and start again",
            )
        _require_mode(target, choice)
        has_changed = (choice.strategy, choice.modifier) != (state.strategy, state.modifier)
        if has_changed:
            state = state.forgotten()
        state = replace(
            state,
            strategy=choice.strategy,
            reason=choice.reason,
            modifier=choice.modifier,
            problems=tuple(problem for problem, _ in problems(choice, polling, offer)),
        )
        # What a whole refresh replaces at every run, a window only adds to: rows that are gone would stay.
        is_new = self._is_to_load(record, target) or (has_changed and choice.strategy == "incremental")
        plan = None
        if is_new:
            if choice.strategy == "incremental" and state.load_began_us is not None:
                plan = self._loader.resume(record, target)
            plan = plan or self._loader.begin(record, target, may_replace=may_replace)
            record = plan.record
            self._tools.hook("load_begun")
        if choice.strategy == "full_refresh":
            return self._refresh(record, state, target)
        assert choice.modifier is not None
        column = definition.column(choice.modifier)
        is_indexed = column.name in offer.indexed
        if plan is not None:
            return self._load(plan, state, column, polling, is_indexed=is_indexed)
        return self._poll(record, state, target, column, polling, is_indexed=is_indexed)

    def _is_to_load(self, record: TableRecord, target: TargetTable) -> bool:
        """Has it to be loaded anew, perhaps into a target of other columns?"""
        if record.state != "ready" or record.definition != target.definition:
            return True
        options = self._tools.options(record.source, target.source_key)
        if (record.target, record.key, record.options) != (str(target), target.source_key, options):
            return True
        existing = self._sink.inspect(target)
        return existing is None or bool(self._sink.differences(target, existing))

    def _dropped(self, record: TableRecord, state: PollState) -> tuple[TableRecord, PollState]:
        record = replace(record, state="dropped", loaded_from=None, ready_at=None, error=None)
        state = replace(state.forgotten(), attempts=0, error=None)
        with self._sink.transaction() as tx:
            self._write(tx, record, state)
            tx.commit()
        return record, state

    # ------------------------------------------------------------ the state

    def _write(self, tx: SinkTransaction, record: TableRecord, state: PollState) -> None:
        """The last statements of a transaction, before its commit."""
        self._tools.hook("before_checkpoint")
        self._store.save_table(tx, record)
        self._polls.put(tx, record.source, state)
        self._store.fence(tx)
        self._tools.hook("before_commit")

    def _count(self, target: TargetTable) -> tuple[int | None, bool]:
        """How many rows the target has, and whether that is only an estimate."""
        estimate = self._sink.estimated_rows([target]).get(str(target))
        if estimate is not None and estimate > COUNT_ROWS_MAX:
            return estimate, True
        with self._sink.transaction() as tx:
            ((count,),) = tx.execute(key_sets.count_rows(target, self._sink.kind))
        return int(count), False

    def _done(
        self, record: TableRecord, state: PollState, counts: _Counts, *, what: str, began_us: int, is_whole: bool
    ) -> tuple[TableRecord, PollState]:
        """Record and state of a run that has put all its rows into the open transaction."""
        if is_whole:
            record = replace(record, rows_loaded=counts.written, policy_changes={})
        has_changed = bool(counts.written or counts.deleted or is_whole)
        record = replace(
            record.with_policy_changes(counts.changes),
            state="ready",
            is_complete=True,
            loaded_from=None,
            ready_at=None,
            ready_server=None,
            error=None,
            step="",
            last_change_us=began_us if has_changed else record.last_change_us,
        )
        state = replace(
            state,
            runs=state.runs + 1,
            began_us=began_us,
            what=what,
            rows_read=counts.read,
            rows_written=counts.written,
            rows_deleted=counts.deleted,
            rows_missed=counts.missed,
            undated=counts.undated,
            attempts=0,
            error=None,
        )
        return record, state

    # ------------------------------------------------------------ all rows

    def _refresh(self, record: TableRecord, state: PollState, target: TargetTable) -> tuple[TableRecord, PollState]:
        """All rows in the place of those that are there, in one transaction."""
        definition, counts = target.definition, _Counts()
        before, is_estimate = self._count(target)
        began_us = self._clock_us()
        writer = self._tools.make_writer(target)
        with self._spooled(definition) as batches:
            if read_definition(self._source, definition.name) != definition:
                raise _Altered
            with self._sink.transaction() as tx:
                writer.begin(tx)
                for batch in batches:
                    kept = self._tools.transform(batch, target)
                    if kept.num_rows:
                        counts.add(writer.put(tx, kept))
                    self._left_out(counts, batch.num_rows - kept.num_rows)
                    self._count_read(counts, target, batch.num_rows)
                    self._tools.hook("load_chunk")
                writer.end(tx)
                record, state = self._done(record, state, counts, what="full_refresh", began_us=began_us, is_whole=True)
                state = replace(state, rows_before=before, rows_after=counts.written, is_estimate=is_estimate)
                self._write(tx, record, state)
                tx.commit()
        self._tools.hook("after_commit")
        return record, state

    @contextlib.contextmanager
    def _spooled(self, definition: TableDefinition) -> Iterator[Iterator[pa.RecordBatch]]:
        """All rows of one read view, in a file: then the view is closed."""
        directory = self._tools.spool_dir
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = None if directory is None else str(directory)
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY_MAX, dir=place) as spool:
            self._tools.guard.wait(self._source, self._tools.sleep)
            with connect(self._source.settings) as view:
                self._spool(view, definition, spool)
            spool.seek(0)
            yield iter(pa.ipc.open_stream(spool))

    def _spool(self, view: SourceConnection, definition: TableDefinition, spool: IO[bytes]) -> None:
        if definition.engine.lower() in VIEWED_ENGINES:
            view.query("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        # Without read views, a copy of the server's lets writers go on.
        copied = "" if definition.engine.lower() in VIEWED_ENGINES else "SQL_BUFFER_RESULT "
        sql = f"SELECT {copied}{select_list(definition)} FROM {quote_table(definition.name)}"
        rows_max = min(self._tools.batch_rows(definition.name.database, definition.name.table), BATCH_ROWS_MAX)
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        try:
            with pa.ipc.new_stream(spool, definition.arrow_schema, options=options) as writer:
                for batch in ResultReader(view, definition).read(sql, rows_max=rows_max, bytes_max=BATCH_BYTES_MAX):
                    writer.write_batch(batch)
                    self._tools.on_rows(definition.name, 0)
                    self._tools.guard.throttle(rows=batch.num_rows, byte_count=batch.nbytes, sleep=self._tools.sleep)
        except OSError as error:
            raise TransientError(
                f"{definition.name}: the file that holds its rows on their way cannot be written: {error}",
                hint="a table that is read whole is kept there until the sink has it: free or add space",
            ) from error

    # ------------------------------------------------------------ the first rows of an incremental table

    def _load(
        self, plan: LoadPlan, state: PollState, column: ColumnDefinition, polling: TablePolling, *, is_indexed: bool
    ) -> tuple[TableRecord, PollState]:
        """All rows, chunk by chunk, from a modifier that was the highest before the first of them was read."""
        target, definition = plan.target, plan.target.definition
        lookback = polling.lookback(column.kind)
        before, is_estimate = self._count(target)
        now = _look(self._source, definition.name, column, is_indexed=is_indexed)
        if plan.chunks and state.load_began_us is not None:  # rows of it are of that time
            now = replace(now, time_us=state.load_began_us, highest=state.load_edge)
        else:
            state = replace(state, load_began_us=now.time_us, load_edge=now.highest)
            self._keep(definition.name, state)
        loaded = self._loader.copy(plan)
        self._tools.hook("load_done")
        if read_definition(self._source, definition.name) != definition:
            raise _Altered
        counts = _Counts(read=loaded.rows_read, written=loaded.rows, changes=Counter(loaded.policy_changes))
        record, state = self._done(
            plan.record, state.forgotten(), counts, what="load", began_us=now.time_us, is_whole=True
        )
        after, _ = self._count(target)
        state = replace(
            state,
            edge=now.highest,
            marks=((now.time_us, now.highest),) if now.highest is not None else (),
            is_settled=column.kind in _TIMES or lookback == 0,
            rows_before=before,
            rows_after=after,
            is_estimate=is_estimate,
            ahead=now.ahead,
            # What was deleted since the chunks that an earlier attempt has brought is there: the next run compares.
            since_comparison=polling.detect_deletes_every if plan.chunks else 0,
        )
        with self._sink.transaction() as tx:
            self._loader.forget(tx, definition.name)
            self._write(tx, record, state)
            tx.commit()
        self._tools.hook("load_recorded")
        return record, state

    def _keep(self, table: TableName, state: PollState) -> None:
        with self._sink.transaction() as tx:
            self._polls.put(tx, table, state)
            self._store.fence(tx)
            tx.commit()

    # ------------------------------------------------------------ what has changed

    def _poll(
        self,
        record: TableRecord,
        state: PollState,
        target: TargetTable,
        column: ColumnDefinition,
        polling: TablePolling,
        *,
        is_indexed: bool,
    ) -> tuple[TableRecord, PollState]:
        definition, lookback = target.definition, polling.lookback(column.kind)
        counts = _Counts()
        every = polling.detect_deletes_every
        is_comparing = bool(every) and state.since_comparison + 1 >= every
        staged, keys_count = self._stage_keys(target, counts) if is_comparing else (None, 0)
        now = _look(self._source, definition.name, column, is_indexed=is_indexed)
        begin = window_begin(column, state, lookback_seconds=lookback, now_us=now.time_us)
        before: int | None = state.rows_after
        is_estimate = state.is_estimate
        if before is None or staged is not None:
            before, is_estimate = self._count(target)
        # Before the window is read: what it brings may be younger than the keys.
        if staged is not None:
            self._remove_gone(target, staged, keys_count, now.time_us, counts)
        for window in _windows(target.source_key, column, begin):
            self._read_window(target, window, counts)
        if staged is not None:
            self._fetch_missed(target, staged, counts)
            self._sink.drop_table(staged)
        if read_definition(self._source, definition.name) != definition:
            raise _Altered  # what was written is right by the old definition; the state stays where it was
        with self._sink.transaction() as tx:
            self._upsert(tx, target, counts)
            after = before
            if not is_estimate and (counts.written or counts.deleted):
                ((count,),) = tx.execute(key_sets.count_rows(target, self._sink.kind))
                after = int(count)
            record, state = self._polled(
                record, state, column, counts, now, lookback, begin=begin, is_comparing=is_comparing
            )
            state = replace(state, rows_before=before, rows_after=after, is_estimate=is_estimate)
            self._write(tx, record, state)
            tx.commit()
        self._tools.hook("after_commit")
        return record, state

    def _polled(
        self,
        record: TableRecord,
        state: PollState,
        column: ColumnDefinition,
        counts: _Counts,
        now: _Now,
        lookback: float,
        *,
        begin: str | None,
        is_comparing: bool,
    ) -> tuple[TableRecord, PollState]:
        """Record and state behind a window that began at `begin`."""
        record, new = self._done(
            record,
            state,
            counts,
            what="incremental, keys compared" if is_comparing else "incremental",
            began_us=now.time_us,
            is_whole=False,
        )
        new = replace(
            new,
            edge=_later(state.edge, now.highest, column.kind),
            marks=_marked(state, now, lookback),
            is_settled=state.is_settled or (begin is None and bool(state.marks)),
            since_comparison=0 if is_comparing else state.since_comparison + 1,
            ahead=now.ahead,
        )
        return record, new

    def _read_window(self, target: TargetTable, window: _Window, counts: _Counts) -> None:
        """Batch by batch, each in a transaction of its own: begun again, it writes the same.

        The last one is held, to be written with the state.
        """
        definition = target.definition
        rows_max = self._tools.batch_rows(definition.name.database, definition.name.table)
        pace = Pace(rows_max=rows_max, seconds=_BATCH_SECONDS, bytes_max=_BATCH_BYTES_MAX)
        reader = ResultReader(self._source, definition)
        columns = ", ".join(column_expression(definition.column(name)) for name in window.order)
        after: Border | None = None
        while True:
            rest = _batch_sql(definition, window, after, None)
            admission = self._tools.guard.admit(self._source, pace.rows, self._tools.sleep)
            border = self._source.query(f"SELECT {columns} {rest} LIMIT 1 OFFSET {pace.rows - 1}")
            upto = border[0] if border else None
            sql = f"SELECT {select_list(definition)} {_batch_sql(definition, window, after, upto)}"
            self._write_held(target, counts)
            began = time.monotonic()
            batches = list(reader.read(sql, rows_max=BATCH_ROWS_MAX, bytes_max=BATCH_BYTES_MAX))
            rows, size = sum(batch.num_rows for batch in batches), sum(batch.nbytes for batch in batches)
            pace.measured(rows=rows, byte_count=size, seconds=time.monotonic() - began)
            self._tools.guard.settle(admission, rows=rows, byte_count=size)
            counts.held = batches
            counts.undated += rows if window.is_undated else 0
            self._count_read(counts, target, rows)
            if upto is None:
                return
            after = upto
            self._tools.pause()

    def _write_held(self, target: TargetTable, counts: _Counts) -> None:
        if not counts.held:
            return
        with self._sink.transaction() as tx:
            self._upsert(tx, target, counts)
            self._store.fence(tx)
            tx.commit()
        self._tools.hook("load_chunk_committed")

    def _upsert(self, tx: SinkTransaction, target: TargetTable, counts: _Counts) -> None:
        for batch in counts.held:
            kept = self._tools.transform(batch, target)
            if kept.num_rows < batch.num_rows:
                gone = self._tools.left_out(batch, target)
                counts.add(tx.apply(_change(target, gone, is_gone=True), target))
                self._left_out(counts, gone.num_rows)
            if kept.num_rows:
                counts.add(tx.apply(_change(target, kept, is_gone=False), target))
        counts.held = []

    def _left_out(self, counts: _Counts, rows: int) -> None:
        if rows:
            counts.add(ApplyResult(policy_changes=Counter({("*", "row_filter"): rows})))

    def _count_read(self, counts: _Counts, target: TargetTable, rows: int) -> None:
        counts.read += rows
        self._tools.on_rows(target.definition.name, counts.read)

    # ------------------------------------------------------------ keys

    def _stage_keys(self, target: TargetTable, counts: _Counts) -> tuple[TargetTable, int]:
        """All keys that the source has now, in a table beside the target that is this holder's alone; how many."""
        definition, kind = target.definition, self._sink.kind
        needed = {*target.source_key, *(target.row_filter.columns if target.row_filter is not None else ())}
        narrow = replace(definition, columns=tuple(c for c in definition.columns if c.name in needed), unique_keys=())
        keys = replace(narrow, columns=tuple(definition.column(name) for name in target.source_key))
        digest = hashlib.sha256(f"{self._store.pipeline}\0{definition.name}".encode()).hexdigest()[:16]
        staged = map_table(
            keys,
            kind=kind,
            namespace=target.namespace,
            name=target.name,
            key=target.source_key,
            policies=target.policies,
        )
        # A name that no table of the source may have there, and no other holder of the lease: one that wakes up makes
        # and drops its own.
        staged = self._own_stage(staged, f"_cdc_keys_{digest}_")
        self._sink.create_table(staged)
        keys_count = 0
        rows_max = self._tools.batch_rows(definition.name.database, definition.name.table)
        reader = ResultReader(self._source, narrow)
        filtered = replace(target, definition=narrow)
        after: Border | None = None
        while True:
            admission, rows, size = self._tools.guard.admit(self._source, rows_max, self._tools.sleep), 0, 0
            found = self._source.query(border_sql(narrow, target.source_key, KeyRange(after), rows=rows_max))
            upto = found[0] if found else None
            sql = range_sql(narrow, target.source_key, KeyRange(after, upto))
            with self._sink.transaction() as tx:
                for batch in reader.read(sql, rows_max=BATCH_ROWS_MAX, bytes_max=BATCH_BYTES_MAX):
                    rows, size = rows + batch.num_rows, size + batch.nbytes
                    kept = self._kept_keys(batch, filtered)
                    if kept.num_rows:
                        tx.load(kept, staged)
                    keys_count += kept.num_rows
                    self._tools.on_rows(definition.name, counts.read)
                self._store.fence(tx)
                tx.commit()
            self._tools.guard.settle(admission, rows=rows, byte_count=size)
            if upto is None:
                return staged, keys_count
            after = upto
            self._tools.pause()

    def _own_stage(self, staged: TargetTable, prefix: str) -> TargetTable:
        """The table by our epoch; what runs that were killed have left is dropped, of earlier holders, too."""
        sql, parameters = key_sets.tables_with_prefix(staged.namespace, prefix)
        with self._sink.transaction() as tx:
            names = [str(name) for (name,) in tx.execute(sql, parameters)]
        for name in names:
            epoch = name.removeprefix(prefix)
            if epoch.isdigit() and int(epoch) <= self._store.epoch:
                self._sink.drop_table(replace(staged, name=name))
        return replace(staged, name=f"{prefix}{self._store.epoch}")

    def _kept_keys(self, batch: pa.RecordBatch, target: TargetTable) -> pa.RecordBatch:
        if target.row_filter is not None:
            gone = self._tools.left_out(batch, target).num_rows
            if gone == batch.num_rows:
                return batch.slice(0, 0)
            if gone:
                batch = self._tools.transform(batch, _bare(target))
        return batch.select(list(target.source_key))

    def _remove_gone(
        self, target: TargetTable, staged: TargetTable, keys_count: int, time_us: int, counts: _Counts
    ) -> None:
        """Delete, or mark, what has no key in `staged`, which must have all of them when that is done."""
        sql, parameters = key_sets.remove_gone(target, staged, self._sink.kind, time_us)
        with self._sink.transaction() as tx:
            self._tools.hook("before_statement")
            ((count,),) = tx.execute(key_sets.count_rows(staged, self._sink.kind))
            if int(count) != keys_count:
                raise SinkUnavailable(
                    f"{target.definition.name}: {staged} has {count} keys, and {keys_count} were put there",
                    hint="somebody else has changed that table: nothing was deleted, and the run begins again",
                )
            counts.deleted += tx.execute_count(sql, parameters)
            self._tools.hook("after_statement")
            self._store.fence(tx)
            tx.commit()

    def _fetch_missed(self, target: TargetTable, staged: TargetTable, counts: _Counts) -> None:
        """Rows that the source had before the window was read, and that are not in it: all rows are read."""
        sql, parameters = key_sets.count_missing(target, staged, self._sink.kind)
        with self._sink.transaction() as tx:
            ((missing,),) = tx.execute(sql, parameters)
        if missing:
            counts.missed = int(missing)
            self._write_held(target, counts)
            self._read_window(target, _Window("TRUE", target.source_key), counts)

    def _clock_us(self) -> int:
        seconds, _, micros = (self._source.query_text("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0] or "0").partition(".")
        return int(seconds) * 1_000_000 + int((micros + "000000")[:6])


def _bare(target: TargetTable) -> TargetTable:
    """The target without what is made of its rows: only its filter counts."""
    columns = tuple(column for column in target.columns if column.is_key and column.metadata is None)
    return replace(target, columns=columns, source_column=None)


def _require_mode(target: TargetTable, choice: Choice) -> None:
    """Raises UnsupportedData for a mode that such a table has no changes for."""
    table = str(target.definition.name)
    if target.mode == "append_only":
        raise UnsupportedData(
            f"{table} has the mode append_only, and is read without its changes (sync_strategy: {choice.strategy})",
            table=table,
            hint="give it mode: history, or sync_strategy: cdc",
        )
    if choice.strategy == "incremental" and (
        target.mode == "history" or (target.mode != "mirror" and target.row_filter)
    ):
        raise UnsupportedData(
            f"{table} has the mode {target.mode}"
            f"{' and a row_filter' if target.mode != 'history' else ''}, which an incremental run cannot keep",
            table=table,
            hint="give it sync_strategy: full_refresh, or cdc",
        )


def _change(target: TargetTable, rows: pa.RecordBatch, *, is_gone: bool) -> ChangeBatch:
    count = rows.num_rows
    everything, nothing = pa.array(range(count), pa.int32()), pa.array([], pa.int32())
    batch = RowBatch(
        definition=target.definition,
        operation=pa.repeat(pa.scalar(int(Operation.DELETE if is_gone else Operation.INSERT), pa.uint8()), count),
        transaction_index=pa.repeat(pa.scalar(0, pa.uint32()), count),
        images=rows,
    )
    return ChangeBatch(
        definition=target.definition,
        key=target.source_key,
        batches=(batch,),
        upserts=(nothing if is_gone else everything,),
        deletes=(everything if is_gone else nothing,),
        counts={"delete" if is_gone else "update": count},
        may_lack_rows=True,
    )
