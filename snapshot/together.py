"""Load several small tables together: what a load of one table waits for is waited for once.

A load of its own (`snapshot.loader`) asks the source some fifteen questions and commits six times on the sink, which a
table of a few thousand rows takes longer for than for its rows. Here the steps are the same, each for all tables:

    1  W, the visible position before the first read of any of them
    2  the definitions; the targets, which are not there yet; all recorded as begun, in one transaction
    3  chunks, read by several sessions at a time from several tables; each is recorded with its rows, and one
       transaction takes as many tables as are there; a target that was complete is replaced in one
    4  the definitions again, V, and all recorded as loaded, in one transaction

What the metadata have is what loads of their own would have written. So whatever cuts this off, each table is taken up
by its own load, with the chunks that it has; and a table that has anything to be said of it is left to its own load
from the start, which says it.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from cdc.errors import CdcError, SinkRefused, SourceUnavailable, UnsupportedData
from cdc.model import ServerIdentity, SourcePosition, TableDefinition, TableName
from cdc.schema.modes import keeps_rows
from cdc.schema.target import TargetTable
from cdc.sinks.base import SinkTransaction
from cdc.sinks.target_facts import drop_unique
from cdc.source.cascades import read_hidden_keys
from cdc.source.connection import SourceConnection, TableDenied, TableGone
from cdc.source.definitions import read_definitions
from cdc.source.positions import visible_position, written_file_pos
from cdc.source.resultset import quote_table
from checkpoints.chunks import ChunkStore, Loaded
from checkpoints.store import TableRecord
from snapshot.chunks import FIRST_ROWS, Chunk, ChunkPlan, KeyRange, Pace
from snapshot.loader import (
    LoadCounter,
    LoadTools,
    MirrorWriter,
    added,
    is_backed,
    keep_chunk,
    load_digest,
    stale_columns,
)
from snapshot.parallel import ChunkReaders

__all__ = ["TABLES_MAX", "TableSize", "TablesTogether", "in_groups", "is_held", "table_sizes", "without_patience"]

TABLES_MAX = 64
"""So many at a time: for as long as they take together, none of them is ready."""
_ROWS_MAX = 50_000
_BYTES_MAX = 8 << 20
# One transaction of the sink takes no more, so that its locks and a repeated attempt stay small.
_COMMIT_BYTES = 8 << 20
_COMMIT_SECONDS = 1.0
# A table that cannot be read at once is loaded by itself, after the others.
_HELD_SECONDS = 1
# A wait for a lock; max_execution_time (MySQL), max_statement_time (MariaDB).
_TOOK_TOO_LONG = (1205, 3024, 1969)


@dataclass(frozen=True, slots=True)
class TableSize:
    """By the source's own estimate, which may be wrong by anything. It decides how a table is loaded, never what."""

    rows: int
    byte_count: int

    @property
    def is_small(self) -> bool:
        """Does a load take longer for its questions than for its rows?"""
        return self.rows <= _ROWS_MAX and self.byte_count <= _BYTES_MAX


def table_sizes(source: SourceConnection, tables: Sequence[TableName]) -> Mapping[TableName, TableSize]:
    """Of those that the source has an estimate of."""
    where = "TABLE_SCHEMA IN %s"
    values: tuple[Any, ...] = (sorted({table.database for table in tables}),)
    if len(tables) == 1:  # MariaDB opens each table that this leaves
        where, values = "TABLE_SCHEMA = %s AND TABLE_NAME = %s", (tables[0].database, tables[0].table)
    rows = source.query_text(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS, DATA_LENGTH FROM information_schema.TABLES "
        f"WHERE {where} AND TABLE_ROWS IS NOT NULL",
        values,
    )
    found = {TableName(d or "", t or ""): TableSize(int(count or 0), int(size or 0)) for d, t, count, size in rows}
    return {table: found[table] for table in tables if table in found}


@contextlib.contextmanager
def without_patience(source: SourceConnection) -> Iterator[None]:
    """What is asked within does not wait for a table that DDL or LOCK TABLES holds, nor looks at it for long: `is_held`
    tells the errors."""
    ours = {"lock_wait_timeout": _HELD_SECONDS}
    if source.flavor == "mariadb":
        ours["max_statement_time"] = _HELD_SECONDS
    elif source.version >= (5, 7, 8):
        ours["max_execution_time"] = _HELD_SECONDS * 1000
    (before,) = source.query_text(f"SELECT {', '.join(f'@@SESSION.{name}' for name in ours)}")
    source.query(_setting(ours))
    try:
        yield
    except CdcError:
        with contextlib.suppress(CdcError):  # a session that is gone needs no settings
            source.query(_setting(dict(zip(ours, before, strict=True))))
        raise
    source.query(_setting(dict(zip(ours, before, strict=True))))


def _setting(variables: Mapping[str, object]) -> str:
    return f"SET SESSION {', '.join(f'{name} = {value}' for name, value in variables.items())}"


def is_held(error: SourceUnavailable) -> bool:
    """Did it take too long to get at a table, and is all else well?"""
    cause = error.__cause__
    return cause is not None and cause.args[:1] in [(number,) for number in _TOOK_TOO_LONG]


def _look_sql(tables: Sequence[TableName], rows_max: Mapping[TableName, int]) -> str:
    """One look at all of the tables, as their reads will look at them: the numbers of those that have more rows. Every
    column is named: without the right to one, information_schema shows a table that lacks it."""
    looks = []
    for number, table in enumerate(tables):
        name = quote_table(table)
        looks.append(f"(SELECT {number} FROM {name} LIMIT 1 OFFSET {rows_max[table]})")
        looks.append(f"(SELECT {number} FROM (SELECT * FROM {name} LIMIT 0) AS t{number})")
    return " UNION ALL ".join(looks)


def in_groups(records: Sequence[TableRecord], sizes: Mapping[TableName, TableSize]) -> list[list[TableRecord]]:
    """The tables in the order in which they are to be loaded; those of one group together."""
    groups: list[list[TableRecord]] = []
    was_small = False
    for record in records:
        size = sizes.get(record.source)
        is_small = record.state == "pending" and size is not None and size.is_small
        if groups and is_small and was_small and len(groups[-1]) < TABLES_MAX:
            groups[-1].append(record)
        else:
            groups.append([record])
        was_small = is_small
    return groups


@dataclass(slots=True, eq=False)
class _Table:
    """One table on its way."""

    record: TableRecord
    target: TargetTable
    plan: ChunkPlan
    counter: LoadCounter
    replaces: bool = False
    """Does its target hold rows that readers must not lose sight of?"""
    known: set[int] = field(default_factory=set)
    before: TableRecord = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.record

    @property
    def source(self) -> TableName:
        return self.record.source


class _IsLarger(Exception):
    """A table that is to be replaced in one transaction with others is more than one chunk."""


class TablesTogether:
    """Loads groups of small tables into one sink, on the applier's thread."""

    def __init__(self, tools: LoadTools) -> None:
        self._tools = tools
        self._chunks = ChunkStore(tools.store)
        self._records: dict[TableName, TableRecord] = {}
        self.problem: CdcError | None = None
        """What has ended the last group before its end: tables of it are to be loaded by themselves because of it."""

    @property
    def is_possible(self) -> bool:
        """May tables be loaded together at all? Files are one load's."""
        return self._tools.limits.staging is None

    def load(
        self, records: Sequence[TableRecord], sizes: Mapping[TableName, TableSize]
    ) -> dict[TableName, TableRecord]:
        """Load as many of the tables as can be: what the metadata have of those that were begun.

        Those with a `ready_at` are loaded. All others are to be loaded by themselves, from that record, if they have
        one here. Raises TransientError, and what `on_progress` raises.
        """
        self._records = {}
        self.problem = None
        try:
            visible = visible_position(self._tools.source)
            if plain := self._plain(records, sizes):
                with self._readers(plain) as readers:  # they begin while the targets are made
                    self._begin(plain, visible)
                    self._copy(plain, readers)
                self._end(plain, visible.server)
        except (UnsupportedData, TableGone, TableDenied) as error:
            self.problem = error  # the table's own load meets it, too
        except _IsLarger as error:
            self.problem = UnsupportedData(f"{error} is larger than its estimate", table=str(error))
        return dict(self._records)

    # ------------------------------------------------------------ which

    def _plain(self, records: Sequence[TableRecord], sizes: Mapping[TableName, TableSize]) -> list[_Table]:
        """Those that are loaded as most tables are: whole, by a key, into a target that is to be made."""
        tools = self._tools
        paces = {record.source: self._pace(record.source, sizes) for record in records}
        there, whole = self._there(records, {table: pace.rows for table, pace in paces.items()})
        definitions = read_definitions(tools.source, [record.source for record in there])
        hidden = self._with_hidden_changes(list(definitions))
        found: list[tuple[TableRecord, TargetTable]] = []
        taken = set[str]()
        namespaces = set[str]()
        for record in there:
            definition = definitions.get(record.source)
            target = self._target(definition) if definition is not None and record.source not in hidden else None
            if target is None or str(target).casefold() in taken:
                continue  # on a sink that folds names, the second one is not the first one's
            taken.add(str(target).casefold())
            if target.namespace not in namespaces:
                tools.sink.create_namespace(target.namespace)
                namespaces.add(target.namespace)
            found.append((record, target))
        absent = {str(target) for target in tools.sink.absent([target for _, target in found])} if found else set()
        planned = []
        for record, target in found:
            replaces = str(target) not in absent
            if not replaces or self._is_replaceable(record, target):
                pace = paces[record.source]
                plan = ChunkPlan(target.definition, target.source_key, pace, is_one=record.source in whole)
                size = sizes.get(record.source)
                counter = LoadCounter(tools.on_progress, record.source, size.rows if size is not None else 0)
                planned.append(_Table(record, target, plan, counter, replaces))
        return planned

    def _pace(self, table: TableName, sizes: Mapping[TableName, TableSize]) -> Pace:
        size = sizes.get(table)
        return self._tools.pace(table, first_rows=max(FIRST_ROWS, 2 * size.rows if size is not None else 0))

    def _is_replaceable(self, record: TableRecord, target: TargetTable) -> bool:
        """Is it a target of ours that is complete, and whose rows alone are to be others?"""
        is_ours = record.is_complete and record.target == str(target) and record.definition == target.definition
        if not is_ours or record.key != target.source_key or record.left_out or keeps_rows(record.options):
            return False
        existing = self._tools.sink.inspect(target)
        if existing is None or not existing.has_rows or stale_columns(record, target, existing):
            return False
        return not self._tools.sink.differences(target, existing)

    def _there(
        self, records: Sequence[TableRecord], rows_max: Mapping[TableName, int]
    ) -> tuple[Sequence[TableRecord], Collection[TableName]]:
        """Without those that DDL or LOCK TABLES holds: no other waits for them, and their own load does. And which of
        them are known to have no more rows than that."""
        source, tables = self._tools.source, [record.source for record in records]
        with without_patience(source):
            try:
                larger = {tables[int(row[0] or 0)] for row in source.query(_look_sql(tables, rows_max))}
            except CdcError:  # of one of them, or of the session: whatever it is, it is met again
                return [record for record in records if self._is_there(record.source)], ()
            return records, set(tables) - larger

    def _is_there(self, table: TableName) -> bool:
        """And does nobody hold it?"""
        try:
            self._tools.source.query(f"SELECT * FROM {quote_table(table)} LIMIT 0")
        except (TableGone, TableDenied):
            return False
        except SourceUnavailable as error:
            if not is_held(error):
                raise
            return False
        return True

    def _with_hidden_changes(self, tables: Sequence[TableName]) -> set[TableName]:
        accepts = self._tools.accepts_hidden_cascades
        asked = {table for table in tables if not accepts(table.database, table.table)}
        return {key.table for key in read_hidden_keys(self._tools.source, asked)} if asked else set()

    def _target(self, definition: TableDefinition) -> TargetTable | None:
        """None where its load is another one than most."""
        try:
            target = self._tools.make_target(definition)
        except UnsupportedData:
            return None
        key = target.source_key
        is_plain = target.mode == "mirror" and target.source_column is None and is_backed(definition, key)
        return target if is_plain and not any(definition.column(name).is_nullable for name in key) else None

    # ------------------------------------------------------------ the steps

    def _begin(self, tables: Sequence[_Table], visible: SourcePosition) -> None:
        """Recorded, and with targets. A target that is made and not recorded would pass for somebody else's."""
        tools = self._tools
        has_ddl_inside = tools.sink.kind == "postgresql"
        for table in tables:
            if table.replaces:  # chunks are of different moments: rows may be two that never were at once
                drop_unique(tools.sink, table.target, tools.store.fence)
            begun = tools.begun(table.record, table.target, visible)
            table.record = replace(begun, is_complete=table.replaces)
        with tools.sink.transaction() as tx:
            for table in tables:
                tools.store.save_table(tx, table.record, is_known=True)
                digest = load_digest(table.target, table.record.options)
                self._chunks.begin(tx, table.source, plan=digest, load_id=secrets.token_hex(16))
                if has_ddl_inside and not table.replaces:
                    self._make(table)
            tools.store.fence(tx)
            tx.commit()
        self._records |= {table.source: table.record for table in tables}
        if not has_ddl_inside:
            self._make_each([table for table in tables if not table.replaces])
        for _ in tables:
            tools.hook("load_begun")

    def _make_each(self, tables: Sequence[_Table]) -> None:
        """Where somebody else has made one meanwhile, it is theirs, as are those that are not made yet: they are as
        before, and their own loads look again."""
        for number, table in enumerate(tables):
            try:
                self._make(table)
            except SinkRefused:
                self._put_back(tables[number:])
                raise

    def _put_back(self, tables: Sequence[_Table]) -> None:
        tools = self._tools
        with tools.sink.transaction() as tx:
            for table in tables:
                tools.store.save_table(tx, table.before)
                self._chunks.forget(tx, table.source)
            tools.store.fence(tx)
            tx.commit()
        self._records |= {table.source: table.before for table in tables}

    def _make(self, table: _Table) -> None:
        self._tools.sink.create_table(table.target)
        self._tools.hook("target_made")

    def _readers(self, tables: Sequence[_Table]) -> ChunkReaders:
        limits = self._tools.limits
        return ChunkReaders(
            *(table.plan for table in tables),
            sessions=self._tools.sessions,
            workers=limits.workers,
            bytes_max=limits.bytes_max,
            guard=limits.guard,
        )

    def _copy(self, tables: Sequence[_Table], readers: ChunkReaders) -> None:
        by_plan = {table.plan: table for table in tables}
        writing = _Writing(self._tools, self._chunks)
        showing = tables[0]

        def show() -> None:
            showing.counter.show()

        with contextlib.closing(writing):
            for plan, chunk, batches in readers.parts(show, writing.commit):
                showing = by_plan[plan]
                writing.write(showing, chunk, batches)
            writing.commit()

    def _end(self, tables: Sequence[_Table], server: ServerIdentity) -> None:
        """Those that were not altered meanwhile are loaded."""
        tools = self._tools
        for _ in tables:
            tools.hook("load_done")
        definitions = read_definitions(tools.source, [table.source for table in tables])
        ready_at = written_file_pos(tools.source)
        loaded = {}
        for table in tables:
            if definitions.get(table.source) == table.target.definition:
                total = table.counter.total
                record = replace(
                    table.record, ready_at=ready_at, ready_server=server, rows_loaded=total.rows, policy_changes={}
                )
                loaded[table.source] = record.with_policy_changes(total.policy_changes)
        with tools.sink.transaction() as tx:
            for record in loaded.values():
                tools.store.save_table(tx, record, is_known=True)
                self._chunks.forget(tx, record.source)
            tools.store.fence(tx)
            tx.commit()
        self._records |= loaded
        for _ in loaded:
            tools.hook("load_recorded")


class _Writing:
    """The sink's transaction that chunks of one table after the other go into, each with its record."""

    def __init__(self, tools: LoadTools, chunks: ChunkStore) -> None:
        self._tools = tools
        self._chunks = chunks
        self._stack = contextlib.ExitStack()
        self._tx: SinkTransaction | None = None
        self._written: list[tuple[_Table, Loaded]] = []
        self._byte_count = 0
        self._began = 0.0

    def write(self, table: _Table, chunk: Chunk, batches: Iterator[pa.RecordBatch]) -> None:
        """One chunk. Committed at once where it is not the whole table, which is larger than it was thought to be; else
        with those before it, once they are enough."""
        is_whole = chunk.range == KeyRange()
        if table.replaces and not is_whole:
            raise _IsLarger(table.source)
        first = next(batches, None)
        if first is None and is_whole and not table.replaces:
            return  # it is empty
        tx = self._open()
        writer, loaded = MirrorWriter(table.target), Loaded()
        if table.replaces:
            writer.begin(tx)
        batch = first
        while batch is not None:
            self._byte_count += batch.nbytes
            loaded = added(loaded, self._tools.put(writer, tx, batch, table.target))
            table.counter.show(loaded.rows_read)
            batch = next(batches, None)
        if not table.replaces:
            keep_chunk(self._chunks, tx, table.plan, chunk, loaded, table.known)
        self._written.append((table, loaded))
        is_enough = self._byte_count >= _COMMIT_BYTES or time.monotonic() - self._began >= _COMMIT_SECONDS
        if is_enough or not is_whole:
            self.commit()

    def commit(self) -> None:
        """What has been written is there."""
        if self._tx is None:
            return
        self._tools.store.fence(self._tx)
        self._tx.commit()
        self._tools.on_commit()
        self.close()
        written, self._written = self._written, []
        for table, loaded in written:
            self._tools.hook("load_chunk_committed")
            table.counter.add(loaded)
            table.counter.show()

    def close(self) -> None:
        """What has not been committed is not there."""
        self._tx, self._byte_count = None, 0
        self._stack.close()

    def _open(self) -> SinkTransaction:
        if self._tx is None:
            self._tx = self._stack.enter_context(self._tools.sink.transaction())
            self._began = time.monotonic()
        return self._tx
