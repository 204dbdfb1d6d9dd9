"""From events to transaction runs: where groups begin and end, which rows count, and what stops the stream.

Bytes in, values out through an `Output`; no socket, no SQL, no clock. Every event of the stream passes here and is
either understood, known to carry nothing, or an error: there is no default branch that goes on.

A *group* is what the server writes as a unit: GTID, BEGIN, rows, XID; or GTID and one statement. Only group ends are
positions to resume from. Positions are counted in 64 bits from event lengths and corrected by the header's 32-bit
`log_pos` where it is sent (MariaDB 11.4 and later send 0 inside groups; files may pass 4 GiB).

Source: MySQL sql/rpl_binlog_sender.cc, sql/log_event.cc; MariaDB sql/sql_repl.cc, sql/log_event_server.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from cdc.binlog.constants import EventType, MariadbGtidExtraFlag
from cdc.binlog.events import (
    EventClass,
    Gtid,
    MariadbGtid,
    Query,
    classify,
    parse_gtid,
    parse_heartbeat,
    parse_incident,
    parse_mariadb_gtid,
    parse_query,
    parse_rotate,
    parse_rows,
    parse_transaction_payload,
    parse_xa_prepare,
    payload_events,
)
from cdc.binlog.framing import Event, EventFramer
from cdc.binlog.layout import LayoutMismatch, RowLayout, build_layout
from cdc.binlog.rows import ImageBuffer
from cdc.binlog.table_map import parse_table_map
from cdc.errors import CdcError, Incident, MalformedEvent, ProtocolError, UnsupportedData, UnsupportedEvent
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import (
    FilePos,
    Flavor,
    OpenTransaction,
    RowBatch,
    SchemaChange,
    SourcePosition,
    TableDefinition,
    TableName,
    TransactionEnds,
    TransactionRun,
)
from cdc.schema.statements import Statement, StatementKind, classify_statement

__all__ = ["Assembler", "Capture", "CapturedTable", "Output", "RunLimits"]

_SQL_MODE_ANSI_QUOTES = 0x4
_SQL_MODE_NO_BACKSLASH_ESCAPES = 0x100000
# Rows events of this table id carry no rows: the server closes a statement with it.
_DUMMY_TABLE_ID = 0xFFFFFF
_U32 = 1 << 32
# How much of a statement an error shows.
_STATEMENT_SHOWN_CHARS = 160


@dataclass(frozen=True, slots=True)
class RunLimits:
    """When a run is handed over although the stream goes on."""

    rows_max: int = 10_000
    bytes_max: int = 8 << 20
    part_rows_max: int = 40_000
    """How many images of one open transaction are held before they are handed over as a part of it."""


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A table whose rows count.

    While it is not ready, `loaded_from` is the position up to which its changes are in the load already.
    """

    definition: TableDefinition
    loaded_from: SourcePosition | None = None
    is_ready: bool = True


class Capture(Protocol):
    """Which tables count."""

    def find(self, table: TableName) -> CapturedTable | None:
        """The table, when its rows are to be decoded; None for one that is not captured, parked or dropped."""

    def is_unknown(self, table: TableName) -> bool:
        """Is it to be captured, but was never loaded, or was dropped?"""

    def absent_at(self, table: TableName) -> SourcePosition | None:
        """For a table that is unknown: a visible position at which the source did not have it, if any."""

    def named(self, names: frozenset[str]) -> list[TableName]:
        """The captured tables whose lower-cased name is one of `names`."""

    def in_database(self, database: str) -> list[TableName]:
        """The captured tables of a database."""


class Output(Protocol):
    """Where the results go."""

    def run(self, run: TransactionRun) -> None:
        """Whole transactions, or a part of one."""

    def change(self, change: SchemaChange) -> None:
        """A barrier. The assembler must not be fed after it: what follows needs other definitions."""

    def progress(self, position: SourcePosition) -> None:
        """Nothing is open and all up to here has been seen."""

    def abandon(self) -> None:
        """The transaction whose parts were handed over has no end: the source rolled it back when it crashed."""


@dataclass(slots=True)
class _Group:
    """The group that is open."""

    start: FilePos | None
    gtid: Gtid | MariadbGtid | None
    commit_us: int
    is_standalone: bool = False
    is_begun: bool = False
    has_rows: bool = False
    has_covered_rows: bool = False
    saw_barrier: bool = False


class _MappedTable:
    """What a table id stands for until its statement ends. `is_covered`: captured, and its load is newer."""

    __slots__ = ("body", "buffer", "is_covered", "name")

    def __init__(self, name: TableName, body: bytes, buffer: ImageBuffer | None, *, is_covered: bool = False) -> None:
        self.name = name
        self.body = body
        self.buffer = buffer
        self.is_covered = is_covered


class Assembler:
    """The state machine of one stream, fed one event at a time."""

    def __init__(
        self,
        *,
        start: SourcePosition,
        flavor: Flavor,
        server_version: tuple[int, ...],
        checksum_negotiated: bool,
        lower_case_names: bool,
        capture: Capture,
        output: Output,
        limits: RunLimits,
        idle_xids: set[str] | None = None,
    ) -> None:
        """`idle_xids`: XA transactions known to be prepared without rows of captured tables; kept up to date here."""
        self.position = start
        """The end of the last whole group."""
        self._at: FilePos | None = start.file
        self._skip_until = start.file if start.gtid is None and start.file and start.file.pos >= _U32 else None
        self._flavor = flavor
        self._version = server_version
        self._lower_case_names = lower_case_names
        self._capture = capture
        self._output = output
        self._limits = limits
        self._framer = EventFramer(initial_checksum=checksum_negotiated)
        self._group: _Group | None = None
        self._maps: dict[int, _MappedTable] = {}
        self._layouts: dict[TableName, tuple[bytes, TableDefinition, RowLayout]] = {}
        self._idle_xids = idle_xids if idle_xids is not None else set()
        # The run being put together: buffers by table, batches already closed, ends of whole transactions.
        self._buffers: dict[TableName, ImageBuffer] = {}
        self._marks: dict[TableName, int] = {}
        self._closed: list[RowBatch] = []
        self._open: list[RowBatch] = []
        self._commit_times: list[int] = []
        self._ends: list[tuple[int, str, int]] = []
        self._row_count = 0
        self._byte_count = 0
        self._open_bytes = 0
        self._part_number = 0
        self._handlers: dict[EventClass, Callable[[Event], None]] = {
            EventClass.FORMAT: self._on_format,
            EventClass.ROTATE: self._on_rotate,
            EventClass.GTID: self._on_gtid,
            EventClass.QUERY: self._on_query,
            EventClass.XID: self._on_commit,
            EventClass.TABLE_MAP: self._on_table_map,
            EventClass.ROWS: self._on_rows,
            EventClass.PAYLOAD: self._on_payload,
            EventClass.HEARTBEAT: self._on_heartbeat,
            EventClass.INCIDENT: self._on_incident,
            EventClass.XA_PREPARE: self._on_xa_prepare,
            EventClass.INFORMATIONAL: self._on_nothing,
            EventClass.STATEMENT_DATA: self._on_statement_data,
            EventClass.IGNORABLE: self._on_nothing,
            EventClass.UNKNOWN: self._on_unknown,
        }

    # ------------------------------------------------------------ what the reader calls

    @property
    def has_rows(self) -> bool:
        """Are there rows of whole transactions that have not been handed over?"""
        return self._row_count > 0

    @property
    def has_transactions(self) -> bool:
        """Have transactions ended that have not been handed over (with rows or without)?"""
        return bool(self._commit_times)

    def feed(self, content: bytes) -> bool:
        """Take in one event, from its header on. True when a barrier was handed over: feed no more.

        Raises ProtocolError, ResyncRequired, UnsupportedData; with the position of the event.
        """
        try:
            event = self._framer.frame(content)
            self._advance(event)
            if self._is_before_start(event):
                return False
            self._handlers[classify(event.header.event_type, event.header.flags)](event)
        except CdcError as error:
            if error.position is None:
                error.position = f"{self.position} (event before {self._at})"
            if isinstance(error, ProtocolError) and not error.frame:
                error.frame = content[: 1 << 20]
            raise
        return self._group.saw_barrier if self._group else False

    def flush(self) -> None:
        """Hand over the whole transactions that have been read."""
        if self._commit_times and self._part_number == 0:
            self._hand_over()

    # ------------------------------------------------------------ positions

    def _advance(self, event: Event) -> None:
        header = event.header
        kind = header.event_type
        if self._at is None or header.is_artificial or kind in (EventType.HEARTBEAT, EventType.HEARTBEAT_V2):
            return
        if kind == EventType.ROTATE and not header.log_pos:
            return
        if kind == EventType.FORMAT_DESCRIPTION and header.log_pos <= self._at.pos:
            return  # sent again at the beginning of a stream that starts further on in the file
        expected = self._at.pos + header.event_size
        if header.log_pos:
            # The header has 32 bits: the candidate next to where we are, never behind it.
            expected = (self._at.pos & ~(_U32 - 1)) | header.log_pos
            if expected < self._at.pos:
                expected += _U32
        self._at = FilePos(self._at.number, expected, self._at.file)

    def _is_before_start(self, event: Event) -> bool:
        """Was it read only because the dump command cannot say a position past 4 GiB? (The start is a group's end.)"""
        if self._skip_until is None or self._at is None:
            return False
        kind = classify(event.header.event_type, event.header.flags)
        if kind is EventClass.HEARTBEAT:
            return self._at < self._skip_until
        if kind in (EventClass.FORMAT, EventClass.ROTATE):
            return False
        if self._at <= self._skip_until:
            return True
        self._skip_until = None
        return False

    def _end_position(self) -> SourcePosition:
        """The position after the open group: its file position, and its GTID added."""
        gtid = self.position.gtid
        mine = self._group.gtid if self._group else None
        if isinstance(mine, Gtid) and mine.source is not None and isinstance(gtid, MysqlGtidSet):
            gtid = gtid.add(mine.source, mine.number)
        elif isinstance(mine, MariadbGtid) and isinstance(gtid, MariadbGtidList):
            gtid = gtid.add(mine.domain, mine.server_id, mine.sequence)
        return SourcePosition(self.position.server, self._at, gtid)

    def _is_covered(self, upto: SourcePosition | None) -> bool:
        """Does the open group end at or before `upto`? (`upto` is a group boundary.)"""
        if upto is None:
            return False
        group = self._group
        gtid = group.gtid if group else None
        if isinstance(upto.gtid, MysqlGtidSet) and isinstance(gtid, Gtid) and gtid.source is not None:
            return upto.gtid.contains(gtid.source, gtid.number)
        start = group.start if group else self._at
        if upto.file is not None and upto.server == self.position.server and start is not None:
            return start < upto.file
        if isinstance(upto.gtid, MariadbGtidList) and isinstance(gtid, MariadbGtid):
            known = upto.gtid.positions.get(gtid.domain)
            return known is not None and gtid.sequence <= known[1]
        raise ProtocolError(
            f"transaction at {start} cannot be compared with {upto}, from which a table was loaded",
            hint="the server changed while a table was being loaded: `cdc snapshot` that table again",
        )

    # ------------------------------------------------------------ files and groups

    def _on_nothing(self, _event: Event) -> None:
        """Carries no data and ends nothing."""

    def _on_unknown(self, event: Event) -> None:
        raise UnsupportedEvent(
            f"event {event.header.type_name} is not known",
            hint="this server is newer than this version of cdc: upgrade it",
        )

    def _on_format(self, event: Event) -> None:
        """A file begins (or the sender describes the one it starts in): table ids mean nothing any more."""
        self._maps.clear()
        if event.header.log_pos and not event.header.is_artificial:
            # The server crashed in the middle of a group: it is rolled back there, so it is here.
            self._discard_group()

    def _on_rotate(self, event: Event) -> None:
        rotate = parse_rotate(event)
        self._maps.clear()
        try:
            self._at = FilePos.of(rotate.file, rotate.position)
        except ValueError as error:
            raise MalformedEvent(f"binlog file {rotate.file!r} has no number") from error
        if not rotate.is_artificial and event.header.timestamp:
            # A real one is at the end of its file, between groups: the next file's beginning is as good a position.
            self._discard_group()
            self.flush()
            self.position = SourcePosition(self.position.server, self._at, self.position.gtid)
            self._output.run(self._make_run((), 0))  # so that an idle stream's checkpoint does not stay in an old file
        elif self.position.file is None and self._group is None:
            self.position = SourcePosition(self.position.server, self._at, self.position.gtid)

    def _on_gtid(self, event: Event) -> None:
        if self._group is not None:
            raise UnsupportedEvent(
                f"the transaction that begins at {self._group.start} has no end that is understood",
                hint="report it with the output of `mysqlbinlog` for that position",
            )
        start = self._before(event)
        if event.header.event_type == EventType.MARIADB_GTID:
            gtid = parse_mariadb_gtid(event)
            self._group = _Group(start, gtid, event.header.timestamp * 1_000_000, is_standalone=gtid.is_standalone)
            self._group.is_begun = not gtid.is_standalone
            return
        mysql_gtid = parse_gtid(event)
        commit_us = mysql_gtid.immediate_commit_us or event.header.timestamp * 1_000_000
        self._group = _Group(start, mysql_gtid, commit_us)

    def _before(self, event: Event) -> FilePos | None:
        """Where this event begins."""
        if self._at is None:
            return None
        return FilePos(self._at.number, self._at.pos - event.header.event_size, self._at.file)

    def _need_group(self, event: Event) -> _Group:
        if self._group is None:  # servers without GTID events: the statement itself opens the group
            self._group = _Group(self._before(event), None, event.header.timestamp * 1_000_000)
        return self._group

    def _on_commit(self, _event: Event) -> None:
        if self._group is None:
            raise MalformedEvent("a commit without a transaction")
        self._finish_group()

    def _finish_group(self) -> None:
        """The open group is whole: its rows count."""
        group = self._group
        assert group is not None
        self.position = self._end_position()
        self._ends.append((self._at.pos if self._at else 0, *_gtid_parts(group.gtid)))
        if self._part_number:
            self._commit_times.append(group.commit_us)
            self._group = None
            self._maps.clear()
            self._hand_over_last_part()
            return
        self._commit_times.append(group.commit_us)
        self._closed.extend(self._open)
        self._open.clear()
        for table, buffer in self._buffers.items():
            self._marks[table] = buffer.image_count
        self._row_count = sum(b.row_count for b in self._closed) + sum(self._marks.values())
        self._byte_count += self._open_bytes
        self._open_bytes = 0
        self._group = None
        self._maps.clear()
        if self._row_count >= self._limits.rows_max or self._byte_count >= self._limits.bytes_max:
            self._hand_over()

    def _discard_group(self) -> None:
        """Drop the rows of the open group: it was never committed."""
        group, self._group = self._group, None
        if group is None or not group.has_rows:
            return
        if self._part_number:
            self._part_number = 0
            self._output.abandon()
        complete, _ = self._take_buffers()
        self._closed.extend(complete)
        self._open.clear()
        self._open_bytes = 0

    # ------------------------------------------------------------ statements

    def _on_query(self, event: Event) -> None:
        query = parse_query(event)
        group = self._need_group(event)
        text = query.statement
        if text == "BEGIN":
            group.is_begun = True
            return
        if text == "COMMIT":
            self._finish_group()
            return
        self._on_statement(group, query, _classified(query))

    def _on_statement(self, group: _Group, query: Query, statement: Statement) -> None:
        kind = statement.kind
        if kind is StatementKind.BEGIN:
            group.is_begun = True
        elif kind is StatementKind.COMMIT:
            self._finish_group()
        elif kind is StatementKind.ROLLBACK:
            self._on_rollback(group)
        elif kind in (StatementKind.SAVEPOINT, StatementKind.XA_END):
            pass
        elif kind is StatementKind.ROLLBACK_TO:
            if group.has_rows:
                raise UnsupportedEvent(
                    "ROLLBACK TO SAVEPOINT inside a transaction with rows of captured tables "
                    "(it mixes tables with and without transactions)",
                    hint="use InnoDB for every table of such transactions; then load the tables again",
                )
        elif kind is StatementKind.XA_START:
            group.is_begun = True
        elif kind in (StatementKind.XA_COMMIT, StatementKind.XA_ROLLBACK):
            self._on_xa_end(query, kind)
        elif kind in (StatementKind.DDL, StatementKind.DATABASE):
            self._on_ddl(group, query, statement)
        elif kind is StatementKind.HARMLESS:
            self._end_if_single(group)
        else:
            self._on_other_statement(group, query, statement)

    def _end_if_single(self, group: _Group) -> None:
        """A statement that stands for itself is its group's end; one inside BEGIN … COMMIT is not."""
        if not group.is_begun:
            self._finish_group()

    def _on_rollback(self, group: _Group) -> None:
        """The group is rolled back. Rows of tables without transactions stay, as they do at the source."""
        if group.has_rows:
            tables = {batch.definition.name for batch in self._open}
            tables |= {t for t, buffer in self._buffers.items() if buffer.image_count > self._marks.get(t, 0)}
            engines = {found.definition.engine for table in tables if (found := self._capture.find(table))}
            if {engine.lower() for engine in engines} - {"innodb", "rocksdb", "ndbcluster"}:
                names = ", ".join(sorted(engines))
                raise UnsupportedEvent(
                    f"ROLLBACK of a transaction that changed tables of {names}, which stay changed",
                    hint="use InnoDB for captured tables; then load them again with `cdc snapshot`",
                )
            self._discard_group_rows()
        self._finish_group()

    def _discard_group_rows(self) -> None:
        group = self._group
        self._discard_group()
        self._group = group
        if group is not None:
            group.has_rows = False

    def _on_ddl(self, group: _Group, query: Query, statement: Statement) -> None:
        extra = group.gtid.extra_flags if isinstance(group.gtid, MariadbGtid) else 0
        if extra & (MariadbGtidExtraFlag.START_ALTER | MariadbGtidExtraFlag.ROLLBACK_ALTER):
            # Two phases: what START announces, COMMIT does. A statement that failed with an error code is taken as
            # one that was done: a DROP of several tables may have dropped some.
            self._end_if_single(group)
            return
        if statement.kind is StatementKind.DATABASE:
            touched = self._capture.in_database(self._case(statement.database))
            dropped = frozenset(touched)
        else:
            names = [TableName(self._case(t.database), self._case(t.table)) for t in statement.tables]
            touched = [t for t in names if self._is_touched(t)]
            gone = {TableName(self._case(t.database), self._case(t.table)) for t in statement.dropped}
            dropped = frozenset(t for t in touched if t in gone)
        self._end_or_barrier(group, touched, dropped, query.statement)

    def _case(self, name: str) -> str:
        return name.lower() if self._lower_case_names else name

    def _is_touched(self, table: TableName) -> bool:
        found = self._capture.find(table)
        if found is not None:
            return not self._is_covered(found.loaded_from)
        return self._is_new(table)

    def _is_new(self, table: TableName) -> bool:
        """Must the table be loaded before its rows can be applied? (Rows of one that is gone since never are.)"""
        return self._capture.is_unknown(table) and not self._is_covered(self._capture.absent_at(table))

    def _end_or_barrier(
        self, group: _Group, touched: list[TableName], dropped: frozenset[TableName], statement: str
    ) -> None:
        if not touched:
            self._end_if_single(group)
            return
        self._barrier(touched, dropped, statement, group.commit_us, is_over=not group.is_begun)

    def _barrier(
        self,
        touched: list[TableName],
        dropped: frozenset[TableName],
        statement: str,
        commit_us: int,
        *,
        is_over: bool = False,
    ) -> None:
        """Hand over what is whole before the open group, then the change.

        Where the statement is its whole group (`is_over`), the change's end is after it, and no run passes it: what
        the change means is recorded in the transaction that moves the checkpoint there. In the middle of a group the
        end is before the group, which comes again after the change.
        """
        if self._part_number == 0:
            if self._group is not None and self._group.has_rows:
                self._discard_group_rows()
            self.flush()
        if is_over:
            self.position = self._end_position()
        self._output.change(SchemaChange(tuple(touched), self.position, statement, commit_us, dropped))
        self._group = _Group(None, None, 0, saw_barrier=True)

    def _on_other_statement(self, group: _Group, query: Query, statement: Statement) -> None:
        """Rows changed by statement, or a statement that is not understood: only harmless when no captured table is
        named in it."""
        shown = " ".join(query.statement.split())[:_STATEMENT_SHOWN_CHARS]
        if statement.kind is StatementKind.FUNCTION:
            raise UnsupportedEvent(
                f"the source logged the call of a stored function as a statement, not the rows it changed: {shown}",
                hint="SET GLOBAL binlog_format=ROW and reconnect the writers; if the function changes captured tables, "
                "load them again: `cdc checkpoint reset` and `cdc run`",
            )
        touched = self._capture.named(statement.names)
        if touched:
            tables = ", ".join(map(str, touched))
            if statement.kind is StatementKind.DML:
                raise UnsupportedEvent(
                    f"the source logged a change of {tables} as a statement, not as rows: {shown}",
                    hint="SET GLOBAL binlog_format=ROW and reconnect the writers; then load the table again: "
                    "`cdc checkpoint reset` and `cdc run`",
                )
            raise UnsupportedEvent(
                f"a statement that names {tables} is not understood: {shown}",
                hint="report it; `cdc checkpoint reset` and `cdc run` load the tables anew",
            )
        self._end_if_single(group)

    def _on_statement_data(self, event: Event) -> None:
        """Variables and file blocks of a statement: the statement itself follows, and is judged by its text."""
        group = self._need_group(event)
        if event.header.event_type == EventType.EXECUTE_LOAD_QUERY:
            # A QUERY event with 13 more bytes (file id, two offsets, duplicate handling) after its fixed part.
            body = bytes(event.body)
            if len(body) < 26:
                raise MalformedEvent("EXECUTE_LOAD_QUERY event ends inside its fixed part")
            header = replace(event.header, event_type=EventType.QUERY)
            query = parse_query(Event(header, body[:13] + body[26:]))
            self._on_other_statement(group, query, _classified(query))

    def _on_incident(self, event: Event) -> None:
        notice = parse_incident(event)
        raise Incident(
            f"the source's own binlog has a gap: incident {notice.number} {notice.message}".rstrip(),
            hint="load every table again: `cdc checkpoint reset` and `cdc run`",
            position=str(self.position),
        )

    # ------------------------------------------------------------ XA

    def _on_xa_prepare(self, event: Event) -> None:
        prepared = parse_xa_prepare(event)
        group = self._need_group(event)
        if prepared.is_one_phase:
            self._finish_group()
            return
        # A load that is newer than the prepare has not seen its rows either: they are not committed yet.
        if group.has_rows or group.has_covered_rows:
            raise UnsupportedEvent(
                f"XA transaction {prepared.xa} with rows of captured tables is prepared: not carried in this version",
                hint="use plain transactions for captured tables, or XA COMMIT … ONE PHASE; then load them again",
            )
        self._idle_xids.add(_xid_key(str(prepared.xa)))
        self._finish_group()

    def _on_xa_end(self, query: Query, kind: StatementKind) -> None:
        xid = _xid_key(query.statement.strip().split(None, 2)[2]) if query.statement.count(" ") >= 2 else ""
        if xid not in self._idle_xids and kind is StatementKind.XA_COMMIT:
            raise UnsupportedEvent(
                f"XA COMMIT of a transaction that was prepared before the stream began: {query.statement[:80]}",
                hint="its rows are in no event that follows: load the tables again with `cdc checkpoint reset` "
                "and `cdc run` once `XA RECOVER` on the source shows none",
            )
        self._idle_xids.discard(xid)
        self._finish_group()

    # ------------------------------------------------------------ rows

    def _on_payload(self, event: Event) -> None:
        """A compressed transaction: its events, one by one; their position is the payload's end."""
        for inner in payload_events(parse_transaction_payload(event)):
            self._handlers[classify(inner.header.event_type, inner.header.flags)](inner)
            if self._group is not None and self._group.saw_barrier:
                return

    def _on_table_map(self, event: Event) -> None:
        body = bytes(event.body)
        table_id = int.from_bytes(body[:6], "little")
        group = self._need_group(event)
        mapped = self._maps.get(table_id)
        if mapped is not None and mapped.body == body:
            return
        table_map = parse_table_map(event)
        name = TableName(table_map.database, table_map.table)
        captured = self._capture.find(name)
        if captured is None:
            if self._is_new(name):
                self._barrier([name], frozenset(), "", group.commit_us)
                return
            self._maps[table_id] = _MappedTable(name, body, None)
            return
        if self._is_covered(captured.loaded_from):
            self._maps[table_id] = _MappedTable(name, body, None, is_covered=True)
            return
        known = self._layouts.get(name)
        if known is None or known[0] != body[6:] or known[1] is not captured.definition:
            try:
                layout = build_layout(table_map, captured.definition, flavor=self._flavor, server_version=self._version)
            except LayoutMismatch:
                if captured.is_ready:
                    raise
                # Loaded under a definition that is newer than these rows: its DDL is still to come. Load again.
                self._barrier([name], frozenset(), "", group.commit_us)
                return
            self._close_buffer(name)
            self._layouts[name] = known = (body[6:], captured.definition, layout)
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = self._buffers[name] = ImageBuffer(known[2])
        self._maps[table_id] = _MappedTable(name, body, buffer)

    def _on_rows(self, event: Event) -> None:
        rows = parse_rows(event)
        if rows.table_id == _DUMMY_TABLE_ID:
            self._maps.clear()
            return
        mapped = self._maps.get(rows.table_id)
        if mapped is None:
            raise MalformedEvent(f"rows of table id {rows.table_id}, which no table map has named")
        if mapped.buffer is not None:
            group = self._need_group(event)
            before = mapped.buffer.byte_count
            try:
                mapped.buffer.append(rows, len(self._commit_times))
            except UnsupportedData as error:
                error.position = error.position or str(self._end_position())
                raise
            group.has_rows = True
            self._open_bytes += mapped.buffer.byte_count - before
            if self._open_bytes >= self._limits.bytes_max or self._open_rows() >= self._limits.part_rows_max:
                self._hand_over_part()
        elif mapped.is_covered:
            self._need_group(event).has_covered_rows = True
        if rows.is_statement_end:
            self._maps.clear()

    # ------------------------------------------------------------ runs

    def _close_buffer(self, table: TableName) -> None:
        """The table's layout changes: what it has buffered becomes batches of its own."""
        if table in self._buffers:
            complete, rest = self._split(table, self._buffers.pop(table))
            self._closed.extend(complete)
            self._open.extend(rest)
            self._marks.pop(table, None)

    def _split(self, table: TableName, buffer: ImageBuffer) -> tuple[list[RowBatch], list[RowBatch]]:
        """A buffer's images of whole transactions, and those of the open one."""
        if not buffer.image_count:
            return [], []
        mark = self._marks.get(table, 0)
        batch = buffer.take()
        if mark >= batch.row_count:
            return [batch], []
        rest = _slice(batch, mark, batch.row_count - mark)
        return ([_slice(batch, 0, mark)] if mark else []), [rest]

    def _take_buffers(self) -> tuple[list[RowBatch], list[RowBatch]]:
        complete: list[RowBatch] = []
        rest: list[RowBatch] = []
        for table, buffer in self._buffers.items():
            whole, part = self._split(table, buffer)
            complete.extend(whole)
            rest.extend(part)
        self._buffers.clear()
        self._marks.clear()
        for mapped in self._maps.values():  # the maps of the open statement go on with new buffers
            if mapped.buffer is not None:
                layout = self._layouts[mapped.name][2]
                mapped.buffer = self._buffers.setdefault(mapped.name, ImageBuffer(layout))
        return complete, rest

    def _hand_over(self) -> None:
        """A run of whole transactions; rows of the open one stay."""
        complete, rest = self._take_buffers()
        batches = (*self._closed, *complete)
        self._open.extend(rest)
        self._open = [_at_transaction(batch, 0) for batch in self._open]
        run = self._make_run(batches, self._byte_count)
        self._reset_run()
        self._output.run(run)

    def _open_rows(self) -> int:
        """Images of the open transaction that have not been handed over."""
        buffered = sum(buffer.image_count - self._marks.get(table, 0) for table, buffer in self._buffers.items())
        return buffered + sum(batch.row_count for batch in self._open)

    def _hand_over_part(self) -> None:
        """The open transaction is large: first what is whole before it, then what there is of it."""
        if self._part_number == 0 and self._commit_times:
            self._hand_over()
        complete, rest = self._take_buffers()
        assert not complete or self._part_number, "whole transactions were handed over above"
        run = TransactionRun(
            batches=tuple(_at_transaction(batch, 0) for batch in (*self._closed, *complete, *self._open, *rest)),
            end=self.position,
            commit_times_us=pa.array([], type=pa.int64()),
            byte_count=self._open_bytes,
            part_number=self._part_number,
            is_last_part=False,
            open_transaction=self._open_transaction(),
        )
        self._reset_run()
        self._open.clear()
        self._open_bytes = 0
        self._part_number += 1
        self._output.run(run)

    def _hand_over_last_part(self) -> None:
        complete, rest = self._take_buffers()
        batches = tuple(_at_transaction(batch, 0) for batch in (*self._closed, *complete, *self._open, *rest))
        run = self._make_run(batches, self._open_bytes)
        self._reset_run()
        self._open.clear()
        self._open_bytes = 0
        self._part_number = 0
        self._output.run(run)

    def _make_run(self, batches: tuple[RowBatch, ...], byte_count: int) -> TransactionRun:
        return TransactionRun(
            batches=batches,
            end=self.position,
            commit_times_us=pa.array(self._commit_times, type=pa.int64()),
            byte_count=byte_count,
            part_number=self._part_number,
            is_last_part=True,
            ends=_transaction_ends(self._ends, self._flavor),
        )

    def _open_transaction(self) -> OpenTransaction | None:
        group = self._group
        if group is None:
            return None
        gtid = str(group.gtid) if group.gtid and _gtid_parts(group.gtid)[0] else None
        return OpenTransaction(gtid, group.start, group.commit_us)

    def _reset_run(self) -> None:
        self._closed = []
        self._commit_times = []
        self._ends = []
        self._row_count = 0
        self._byte_count = 0

    # ------------------------------------------------------------ heartbeats

    def _on_heartbeat(self, event: Event) -> None:
        heartbeat = parse_heartbeat(event)
        if self._group is not None:
            return
        try:
            at = FilePos.of(heartbeat.file, heartbeat.position)
        except ValueError as error:
            raise MalformedEvent(f"binlog file {heartbeat.file!r} has no number") from error
        if self._at is not None and at.number == self._at.number:
            at = FilePos(at.number, max(at.pos, self._at.pos), at.file)  # v1 has 32 bits only
        self.flush()  # what is held back for a fuller run comes before "all up to here"
        self._output.progress(SourcePosition(self.position.server, at, self.position.gtid))


def _classified(query: Query) -> Statement:
    """The statement, read as its session did."""
    sql_mode = query.status.sql_mode or 0
    return classify_statement(
        query.statement,
        database=query.database,
        ansi_quotes=bool(sql_mode & _SQL_MODE_ANSI_QUOTES),
        backslash_escapes=not sql_mode & _SQL_MODE_NO_BACKSLASH_ESCAPES,
    )


def _xid_key(text: str) -> str:
    return "".join(text.split()).lower()


def _gtid_parts(gtid: Gtid | MariadbGtid | None) -> tuple[str, int]:
    """What `TransactionEnds` counts it by; ('', 0) where there is none."""
    if isinstance(gtid, MariadbGtid):
        return f"{gtid.domain}-{gtid.server_id}", gtid.sequence
    if gtid is None or gtid.uuid is None:
        return "", 0
    return (f"{gtid.uuid}:{gtid.tag}" if gtid.tag else gtid.uuid), gtid.number


def _transaction_ends(ends: list[tuple[int, str, int]], flavor: Flavor) -> TransactionEnds:
    sources = {source: index for index, source in enumerate(dict.fromkeys(s for _, s, _ in ends if s))}
    return TransactionEnds(
        offset=pa.array([offset for offset, _, _ in ends], pa.uint64()),
        gtid_source=pa.array([sources.get(source, -1) for _, source, _ in ends], pa.int32()),
        gtid_number=pa.array([number for _, _, number in ends], pa.uint64()),
        sources=tuple(sources),
        flavor=flavor,
    )


def _slice(batch: RowBatch, offset: int, length: int) -> RowBatch:
    return RowBatch(
        definition=batch.definition,
        operation=batch.operation.slice(offset, length),
        transaction_index=batch.transaction_index.slice(offset, length),
        images=batch.images.slice(offset, length),
        shape_index=None if batch.shape_index is None else batch.shape_index.slice(offset, length),
        shapes=batch.shapes,
    )


def _at_transaction(batch: RowBatch, index: int) -> RowBatch:
    """The same images as transaction number `index` of another run."""
    return RowBatch(
        definition=batch.definition,
        operation=batch.operation,
        transaction_index=pa.array([index] * batch.row_count, type=pa.uint32()),
        images=batch.images,
        shape_index=batch.shape_index,
        shapes=batch.shapes,
    )
