"""All rows of a table without a key, in one read view whose position is exact.

Rows without a key cannot be applied twice, so the load must show every change up to a position and none after it:

    MariaDB             `Binlog_snapshot_file/position` of a consistent snapshot is that position
    MySQL with GTIDs    E, `@@gtid_executed` before the view is opened, is all seen by it; what is not in the log at V,
                        the written position after, is not. The log between the two is read: where nothing in it touches
                        the table, the view shows the table at E and at V alike. Else another view is tried.
    MySQL without       likewise, from the written position of a while ago, which is as long as the engine may lag
                        behind the log

The rows go to a file first, so that no sink, however slow, keeps the view open, nor the lock on the table's definition
that comes with it. Knows no sink; docs/decisions/0015 has the reasons.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pymysql
import pymysql.cursors

from cdc.errors import SourceUnavailable, TransientError, UnsupportedData
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, SchemaChange, SourcePosition, TableDefinition, TableName, TransactionRun, Xa
from cdc.source.assembler import Assembler, Capture, CapturedTable, Output, RunLimits
from cdc.source.connection import SourceConnection, SourceSettings, TableGone, connect, translate_error
from cdc.source.definitions import read_definition
from cdc.source.positions import VIEWED_ENGINES, semi_sync_wait_seconds, uses_gtid, written_file_pos
from cdc.source.resultset import quote_table, select_list, to_record_batch
from cdc.source.stream import BinlogStream
from snapshot.guards import SourceGuard
from snapshot.parallel import SessionPool

__all__ = ["ExactRows", "exact_rows", "is_untouched", "require_view"]

# How long a view is looked for that no transaction on the table is in the way of, semi-synchronous waits aside.
_SEARCH_SECONDS = 60.0
# How long such a wait may be to be waited for.
_LAG_SECONDS_MAX = 60.0
_PAUSE_SECONDS_MAX = 0.25
# How long the engine's commit may lag behind the log on MySQL without GTIDs (as in cdc/pipeline/runner.py).
_VISIBLE_SECONDS = 1.0
_HEARTBEAT_SECONDS = 0.1
_BATCH_BYTES_MAX = 8 << 20
_COM_SET_OPTION, _MULTI_STATEMENTS_ON = 0x1B, b"\0\0"
_SPOOL_MEMORY_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class ExactRows:
    """The table's rows after every transaction up to `position` and no other; the stream is there at `ready_at`."""

    position: SourcePosition
    ready_at: FilePos
    batches: Iterator[pa.RecordBatch]


@contextlib.contextmanager
def exact_rows(
    source: SourceConnection,
    definition: TableDefinition,
    *,
    server_id: int,
    rows_max: int,
    on_wait: Callable[[], None],
    on_search: Callable[[str, float], None] = lambda _what, _seconds_max: None,
    spool_dir: Path | None = None,
    sessions: SessionPool | None = None,
    guard: SourceGuard | None = None,
) -> Iterator[ExactRows]:
    """Read the whole table, then give its rows in batches of at most `rows_max`.

    Args:
        source: for questions; the rows come by a session of their own.
        server_id: for a look at the log, which no other stream uses now.
        on_wait: called now and then, to raise what ends the load.
        on_search: told once what is waited for, and for how long at most, where no view is exact at once.
        spool_dir: where the file lies that holds the rows; None: where temporary files do.
        sessions: where the session of the view comes from, when there is one to be had; `guard` is asked before.
    Raises:
        TableGone: the table has another definition now. UnsupportedData: it has no read view, or transactions on it
        follow each other too closely to find one of which the position is known.
    """
    require_view(definition)
    sessions, guard = sessions or SessionPool(lambda: connect(source.settings)), guard or SourceGuard()
    sleep = functools.partial(_sleep, on_wait=on_wait)
    directory = None if spool_dir is None else str(spool_dir)
    if spool_dir is not None:
        spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY_MAX, dir=directory) as spool:
        with _session(sessions, sleep) as view:
            guard.wait(source, sleep)
            if source.flavor == "mariadb":
                position = _mariadb_view(source, view)
            else:
                position = _mysql_view(source, view, definition.name, server_id, on_wait, on_search)
            _spool(source, view, definition, spool, rows_max, functools.partial(guard.throttle, sleep=sleep), on_wait)
        assert position.file is not None, "a position of the view"
        yield ExactRows(position, position.file, _spooled(spool))


@contextlib.contextmanager
def _session(sessions: SessionPool, sleep: Callable[[float], None]) -> Iterator[SourceConnection]:
    """One that ends with the `with`: it has a read view."""
    view = sessions.take(sleep)
    try:
        yield view
    finally:
        sessions.drop(view)


def require_view(definition: TableDefinition) -> None:
    """Raises UnsupportedData for a table of an engine without read views."""
    if definition.engine.lower() in VIEWED_ENGINES:
        return
    table = definition.name
    raise UnsupportedData(
        f"{table} has no key, and its engine {definition.engine} no read view: which changes a load has seen cannot "
        "be told",
        table=str(table),
        hint=f"ALTER TABLE {quote_table(table)} ENGINE=InnoDB; or name the columns that identify a row in "
        "tables.overrides (primary_key), or exclude the table",
    )


# ---------------------------------------------------------------- the view


def _mariadb_view(source: SourceConnection, view: SourceConnection) -> SourcePosition:
    view.query("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    status = {row[0]: row[1] for row in view.query_text("SHOW STATUS LIKE 'Binlog\\_snapshot\\_%'")}
    file = FilePos.of(status.get("Binlog_snapshot_file") or "", int(status.get("Binlog_snapshot_position") or 0))
    gtid = None
    if uses_gtid(source):
        text = view.query_text("SELECT BINLOG_GTID_POS(%s, %s)", (file.file, file.pos))[0][0]
        gtid = MariadbGtidList.parse(text or "")
    return SourcePosition(source.identity(), file, gtid)


def _mysql_view(
    source: SourceConnection,
    view: SourceConnection,
    table: TableName,
    server_id: int,
    on_wait: Callable[[], None],
    on_search: Callable[[str, float], None],
) -> SourcePosition:
    """Open views until one lies where nothing on the table was in flight."""
    identity, by_gtid = source.identity(), uses_gtid(source)
    lag_seconds = semi_sync_wait_seconds(source)
    if not by_gtid and lag_seconds > _LAG_SECONDS_MAX:
        raise _lags_too_long(table, lag_seconds)
    quiet_seconds = 0.0 if by_gtid else _VISIBLE_SECONDS + lag_seconds
    search_seconds = _SEARCH_SECONDS + min(lag_seconds, _LAG_SECONDS_MAX)
    deadline = time.monotonic() + search_seconds
    pause = 0.01
    tries = 0
    while True:
        if tries == int(by_gtid):  # a moment is not worth a word until it is missed
            what = f"{quiet_seconds:g} s" if quiet_seconds else "a moment"
            on_search(f"{what} without a transaction on the table in flight", search_seconds)
        tries += 1
        if not by_gtid:
            before = written_file_pos(view)
            _sleep(quiet_seconds, on_wait)
        executed, written = _open_view(view)
        seen = SourcePosition(identity, None, executed) if by_gtid else SourcePosition(identity, before, None)
        if is_untouched(source, table, since=seen, upto=written, server_id=server_id, on_wait=on_wait):
            return SourcePosition(identity, written, seen.gtid)
        view.query("ROLLBACK")
        if time.monotonic() > deadline:
            raise _too_busy(table, by_gtid=by_gtid, lag_seconds=lag_seconds)
        _sleep(pause, on_wait)
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)


def _open_view(view: SourceConnection) -> tuple[MysqlGtidSet, FilePos]:
    """What is executed right before a view is opened, and what is written right after it.

    In one packet: what a client takes from one answer to the next statement is time for transactions to come between.
    """
    status = "SHOW BINARY LOG STATUS" if view.version >= (8, 2, 0) else "SHOW MASTER STATUS"
    statements = ("SELECT @@GLOBAL.gtid_executed", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", status)
    raw: Any = view.raw
    try:
        raw._execute_command(_COM_SET_OPTION, _MULTI_STATEMENTS_ON)
        raw._read_packet()
        with raw.cursor() as cursor:
            cursor.execute("; ".join(statements))
            results = [cursor.fetchall()]
            while cursor.nextset():
                results.append(cursor.fetchall())
    except (pymysql.err.Error, OSError) as error:
        raise translate_error(error, view.settings) from error
    executed, _, written = results
    text = (executed[0][0] or b"").decode()
    return MysqlGtidSet.parse(text), FilePos.of(written[0][0].decode(), int(written[0][1]))


def _sleep(seconds: float, on_wait: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    on_wait()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
        on_wait()


def _too_busy(table: TableName, *, by_gtid: bool, lag_seconds: float) -> UnsupportedData:
    return UnsupportedData(
        f"{table} has no key, and its transactions follow each other so closely that no read view of it has a position "
        "that is known exactly, which its load needs",
        table=str(table),
        hint="name the columns that identify a row in tables.overrides (primary_key); or run "
        f"`cdc snapshot {table}` while less is written to it"
        + ("" if by_gtid else "; with gtid_mode=ON a moment is enough")
        + (f"; commits of the source may wait {lag_seconds:g} s for a semi-synchronous replica" if lag_seconds else ""),
    )


def _lags_too_long(table: TableName, lag_seconds: float) -> UnsupportedData:
    return UnsupportedData(
        f"{table} has no key, and a commit of the source may wait {lag_seconds:g} s for a semi-synchronous replica "
        "before a SELECT sees it: without GTIDs no read view has a position that is known exactly before that time is "
        "over, which the table's load needs",
        table=str(table),
        hint="set gtid_mode=ON at the source, or rpl_semi_sync_source_timeout (rpl_semi_sync_master_timeout) to "
        f"{_LAG_SECONDS_MAX * 1000:.0f} ms at most; or name the columns that identify a row in tables.overrides "
        f"(primary_key); then `cdc snapshot {table}`",
    )


# ---------------------------------------------------------------- a look at the log


class _Watch(Output, Capture):
    """Listens for one table, as for one that is new: whatever touches it is a barrier."""

    def __init__(self, table: TableName) -> None:
        self.revision = 0
        self.is_touched = False
        self.seen: FilePos | None = None  # up to where the log has been read
        self._table = table

    def find(self, table: TableName) -> CapturedTable | None:  # noqa: ARG002 - the protocol's
        return None

    def is_unknown(self, table: TableName) -> bool:
        return table == self._table

    def absent_at(self, table: TableName) -> SourcePosition | None:  # noqa: ARG002 - the protocol's
        return None

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        return [self._table] if self._table.lower() in names else []

    def in_database(self, database: str) -> list[TableName]:
        return [self._table] if self._table.database == database else []

    def run(self, run: TransactionRun) -> None:
        self.seen = run.end.file or self.seen

    def change(self, change: SchemaChange) -> None:  # noqa: ARG002 - the protocol's
        self.is_touched = True

    def progress(self, position: SourcePosition) -> None:
        self.seen = position.file or self.seen

    def abandon(self) -> None:
        """Nothing was handed over."""


class _PreparedBefore(Exception):
    """An XA transaction ends that was prepared before: its rows, of whatever table, are in no event from here on."""


class _WatchAssembler(Assembler):
    def _on_unknown_commit(self, xa: Xa, statement: str) -> None:
        raise _PreparedBefore(xa, statement)


def is_untouched(
    source: SourceConnection,
    table: TableName,
    *,
    since: SourcePosition,
    upto: FilePos,
    server_id: int,
    on_wait: Callable[[], None],
) -> bool:
    """Is there nothing on that table in the log between the two?

    The XA COMMIT of what was prepared before counts as something. Raises SourceUnavailable, and what a stream raises
    for an event that is not understood.
    """
    settings = replace(source.settings, heartbeat_seconds=_HEARTBEAT_SECONDS)
    stream = BinlogStream(settings, flavor=source.flavor, position=since, server_id=server_id)
    watch = _Watch(table)
    try:
        stream.open()
        assembler = _WatchAssembler(
            start=since,
            flavor=source.flavor,
            server_version=source.version,
            checksum_negotiated=stream.checksum_negotiated,
            lower_case_names=(source.variable("lower_case_table_names") or "0") != "0",
            capture=watch,
            output=watch,
            limits=RunLimits(),
        )
        _read_until(stream, assembler, watch, upto, settings, on_wait)
    except _PreparedBefore:
        return False
    finally:
        stream.close()
    return not watch.is_touched


def _read_until(
    stream: BinlogStream,
    assembler: Assembler,
    watch: _Watch,
    upto: FilePos,
    settings: SourceSettings,
    on_wait: Callable[[], None],
) -> None:
    heard_at = time.monotonic()
    while not watch.is_touched:
        on_wait()
        if stream.fill(_HEARTBEAT_SECONDS):
            heard_at = time.monotonic()
            if stream.deliver(assembler):
                return
            assembler.flush()
            if watch.seen is not None and watch.seen >= upto:
                return
        elif time.monotonic() - heard_at > settings.read_timeout_seconds:
            raise SourceUnavailable(
                f"source {settings.address} has sent nothing for {settings.read_timeout_seconds:g} s",
                hint="the connection is half open or the server hangs; the load is tried again",
            )


# ---------------------------------------------------------------- the rows


def _spool(
    source: SourceConnection,
    view: SourceConnection,
    definition: TableDefinition,
    spool: IO[bytes],
    rows_max: int,
    throttle: Callable[..., None],
    on_wait: Callable[[], None],
) -> None:
    """All rows of the view into the file. Raises TableGone where the table is another one than `definition` says."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    try:
        with pa.ipc.new_stream(spool, definition.arrow_schema, options=options) as writer:
            is_first = True
            for rows in _select(view, definition, rows_max):
                if is_first and read_definition(source, definition.name) != definition:
                    raise TableGone(f"{definition.name} was altered while its load began")
                is_first = False
                if rows:
                    batch = to_record_batch(definition, rows)
                    writer.write_batch(batch)
                    throttle(rows=batch.num_rows, byte_count=batch.nbytes)
                on_wait()
    except OSError as error:
        raise TransientError(
            f"{definition.name}: the file that holds its rows on their way cannot be written: {error}",
            hint="the rows of a table without a key are kept there until the sink has them: free or add space",
        ) from error


def _select(view: SourceConnection, definition: TableDefinition, rows_max: int) -> Iterator[Sequence[Any]]:
    """The rows of the view, in lists; the first one, which may be empty, once the table's definition is locked."""
    cursor: Any = view.raw.cursor(pymysql.cursors.SSCursor)
    is_over = False
    try:
        cursor.execute(f"SELECT {select_list(definition)} FROM {quote_table(definition.name)}")
        yield []
        rows: list[Any] = []
        size = 0
        while (row := cursor.fetchone()) is not None:
            rows.append(row)
            size += sum(len(value) for value in row if value is not None)
            if len(rows) >= rows_max or size >= _BATCH_BYTES_MAX:
                yield rows
                rows, size = [], 0
        is_over = True
        yield rows
    except (pymysql.err.Error, OSError) as error:
        raise translate_error(error, view.settings) from error
    finally:
        # Closing the cursor would first read the rest of the table; the session ends instead.
        if not is_over and cursor._result is not None:
            cursor._result.unbuffered_active = False
            cursor.connection = None


def _spooled(spool: IO[bytes]) -> Iterator[pa.RecordBatch]:
    spool.seek(0)
    with pa.ipc.open_stream(spool) as reader:
        yield from reader
