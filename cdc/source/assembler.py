"""From events to transaction runs: where groups begin and end, which rows count, and what stops the stream.

Bytes in, values out through an `Output`; no socket, no SQL, no clock. Every event of the stream passes here and is
either understood, known to carry nothing, or an error: there is no default branch that goes on.

The events that plain transactions are made of are taken in by the compiled `Scanner`, which also holds the state of the
open group and of the run. Whatever it leaves, and everything when it is told to leave all, comes to the handlers here.

A *group* is what the server writes as a unit: GTID, BEGIN, rows, XID; or GTID and one statement. Only group ends are
positions to resume from. Positions are counted in 64 bits from event lengths and corrected by the header's 32-bit
`log_pos` where it is sent (MariaDB 11.4 and later send 0 inside groups; files may pass 4 GiB).

Source: MySQL sql/rpl_binlog_sender.cc, sql/log_event.cc; MariaDB sql/sql_repl.cc, sql/log_event_server.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import pyarrow as pa

from cdc.binlog.constants import (
    EVENT_HEADER_BYTES,
    ChecksumAlgorithm,
    EventType,
    MariadbGtidExtraFlag,
    MariadbGtidFlag,
)
from cdc.binlog.events import (
    EventClass,
    Gtid,
    MariadbGtid,
    Query,
    classify,
    inflated_payload,
    parse_gtid,
    parse_heartbeat,
    parse_incident,
    parse_mariadb_gtid,
    parse_query,
    parse_rotate,
    parse_rows,
    parse_transaction_payload,
    parse_xa_prepare,
    parse_xid,
    uncompressed_rows_event,
)
from cdc.binlog.framing import Event, EventFramer, parse_header
from cdc.binlog.kernel.rows import ImageBuffer
from cdc.binlog.kernel.scan import EVENT, EVENTS, ODD, PACKETS, PART, PAYLOAD, RUN, Scanner
from cdc.binlog.layout import LayoutMismatch, build_layout
from cdc.binlog.table_map import TableMap, parse_table_map
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
    Xa,
    XaAction,
    XaStep,
)
from cdc.schema.statements import Statement, StatementKind, classify_statement

__all__ = [
    "EVENTS",
    "PACKETS",
    "Assembler",
    "Capture",
    "CapturedTable",
    "DefiningCapture",
    "Output",
    "PreparedXa",
    "RunLimits",
]

_SQL_MODE_ANSI_QUOTES = 0x4
_SQL_MODE_NO_BACKSLASH_ESCAPES = 0x100000
_SQL_MODES_OF_OTHER_TYPES = 0x1200  # ORACLE and MAXDB: DATE and TIMESTAMP are DATETIME, on MariaDB
# Rows events of this table id carry no rows: the server closes a statement with it.
_DUMMY_TABLE_ID = 0xFFFFFF
_U32 = 1 << 32
_NO_SLOT = -1
_COPIED_BYTES_MAX = 1 << 16
_DAMAGED_HINT = "the binlog is damaged, or a proxy mixes streams; `mysqlbinlog` on the source tells"
# How much of a statement an error shows.
_STATEMENT_SHOWN_CHARS = 160


@dataclass(frozen=True, slots=True)
class RunLimits:
    """When a run is handed over although the stream goes on."""

    rows_max: int = 10_000
    bytes_max: int = 8 << 20
    """Of decoded rows. An open transaction of this size is handed over in parts, too."""
    part_rows_max: int = 40_000
    """How many images of one open transaction are held before they are handed over as a part of it."""
    transactions_max: int = 65_536
    """Transactions without captured rows fill a run as well."""


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A table whose rows count.

    While it is not ready, `loaded_from` is the position up to which its changes are in the load already.
    """

    definition: TableDefinition
    loaded_from: SourcePosition | None = None
    is_ready: bool = True


@dataclass(frozen=True, slots=True)
class PreparedXa:
    """What is known of a prepared XA transaction: of which tables rows were stored, and which it changed besides."""

    stored: frozenset[TableName] = frozenset()
    passed: frozenset[TableName] = frozenset()


class Capture(Protocol):
    """Which tables count.

    `revision` changes with any answer that follows: what was asked before is asked again then.
    """

    revision: int

    def find(self, table: TableName) -> CapturedTable | None:
        """The table, when its rows are to be decoded; None for one that is not captured, parked or dropped."""

    def is_unknown(self, table: TableName) -> bool:
        """Is it to be captured, but was never loaded, or was dropped?"""

    def absent_at(self, table: TableName) -> SourcePosition | None:
        """For a table that is unknown: a visible position at which the source did not have it, if any."""

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        """The captured tables whose lower-cased names are among `names`."""

    def in_database(self, database: str) -> list[TableName]:
        """The captured tables of a database."""


@runtime_checkable
class DefiningCapture(Capture, Protocol):
    """One that can make a definition out of what the stream itself says of a table."""

    def define(self, table_map: TableMap) -> CapturedTable | None:
        """The table of a map for which `find` gave None; None when its rows are not wanted."""


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
class _Table:
    """A captured table of this stream. `described_by`: its map behind the id; `slot`: its place in the scanner."""

    described_by: bytes
    definition: TableDefinition
    buffer: ImageBuffer
    slot: int


@dataclass(slots=True)
class _OpenXa:
    """The XA transaction that the open group prepares (or commits in one phase).

    `covered`: tables whose load is newer than the group. It has not seen the rows of a transaction that is prepared,
    so these are decoded all the same. `passed`: tables whose rows are not.
    """

    xa: Xa
    covered: set[TableName] = field(default_factory=set)
    passed: set[TableName] = field(default_factory=set)


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
        prepared: dict[Xa, PreparedXa] | None = None,
        all_captured: Callable[[], list[TableName]] | None = None,
        needs_all_columns: bool = True,
        is_fast: bool = True,
    ) -> None:
        """
        Args:
            prepared: the XA transactions known to be prepared where the stream starts; kept up to date here.
            all_captured: the tables that `capture` finds, for an output that does what `TransactionRun.xa` says. None:
                rows of captured tables in a transaction that is prepared are an error.
            needs_all_columns: refuse row images that lack columns (binlog_row_image MINIMAL and NOBLOB).
            is_fast: off, every event goes through the handlers here, at their pace; the result is the same.
        """
        self._position = start
        self._file = (start.file.number, start.file.file) if start.file else None
        self._skip_until = start.file if start.gtid is None and start.file and start.file.pos >= _U32 else None
        self._flavor = flavor
        self._version = server_version
        self._lower_case_names = lower_case_names
        self._capture = capture
        self._capture_revision = capture.revision
        self._output = output
        self._needs_all_columns = needs_all_columns
        self._is_fast = is_fast
        self._framer = EventFramer(initial_checksum=checksum_negotiated)
        self._tables: dict[TableName, _Table] = {}
        self._by_slot: dict[int, _Table] = {}
        self._prepared = prepared if prepared is not None else {}
        self._all_captured = all_captured
        self._open_xa: _OpenXa | None = None
        self._xa_steps: dict[Xa, XaStep] = {}  # of groups that have ended; of each transaction the last step counts
        scan = self._scan = Scanner(is_mariadb=flavor == "mariadb")
        scan.at = start.file.pos if start.file else 0
        scan.rows_max = limits.rows_max
        scan.bytes_max = scan.part_bytes_max = limits.bytes_max
        scan.part_rows_max = limits.part_rows_max
        scan.transactions_max = limits.transactions_max
        # Batches that a change of layout, or a hand-over in the middle of a transaction, has closed.
        self._closed: list[RowBatch] = []
        self._open: list[RowBatch] = []
        self._part_number = 0
        self._part_tables: set[TableName] = set()
        self._slow_event_count = 0
        self._is_odd = False
        self.saw_barrier = False
        """Was a barrier handed over? Feed no more then: what follows needs other definitions."""
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
        return self._scan.run_rows > 0

    @property
    def has_transactions(self) -> bool:
        """Have transactions ended that have not been handed over (with rows or without)?"""
        return self._scan.transaction_count > 0

    @property
    def event_count(self) -> int:
        """How many events have been taken in; a compressed transaction counts as one and its events."""
        return self._scan.event_count + self._slow_event_count

    @property
    def file_pos(self) -> FilePos | None:
        """The end of the last event."""
        return None if self._file is None else FilePos(self._file[0], self._scan.at, self._file[1])

    @property
    def position(self) -> SourcePosition:
        """The end of the last whole group."""
        scan = self._scan
        if scan.has_uncounted:
            before = self._position
            file = None if self._file is None else FilePos(self._file[0], scan.last_end, self._file[1])
            self._position = SourcePosition(before.server, file, self._with_ended(before.gtid))
        return self._position

    def consume(self, window: memoryview | bytes, framing: int = PACKETS) -> int:
        """Take in the events that are whole in `window`; returns how many of its bytes they were.

        Stops behind the event of a barrier (`saw_barrier`), and before what is no event: a packet of another kind or
        the first of an event's several (PACKETS), an event of an impossible size (EVENTS, `is_odd`).

        Raises ProtocolError, ResyncRequired, UnsupportedData; with the position of the event.
        """
        scan = self._scan
        done = 0
        self._is_odd = False
        if self._capture_revision != self._capture.revision:
            self._capture_revision = self._capture.revision
            scan.distrust_maps()
        while not self.saw_barrier:
            code = scan.scan(window, done, framing)
            done = scan.consumed
            if code == EVENT:
                content = window[scan.event_start : scan.event_end]
                # A copy is handled faster, but an event may be as large as all the rest that is in memory.
                self._take(bytes(content) if len(content) < _COPIED_BYTES_MAX else content, is_inner=framing == PAYLOAD)
            elif code == RUN:
                assert not self._part_number, "the end of a transaction in parts is ours (`has_slow_end`)"
                self._hand_over()
            elif code == PART:
                self._hand_over_part()
            else:
                self._is_odd = code == ODD
                break
        return done

    @property
    def is_odd(self) -> bool:
        """Did `consume` stop before something that is no event, rather than for want of bytes?"""
        return self._is_odd

    def feed(self, content: bytes | memoryview) -> bool:
        """Take in one event, from its header on. True when a barrier was handed over: feed no more.

        Raises as `consume`.
        """
        size = len(content)
        is_framed = size >= EVENT_HEADER_BYTES and int.from_bytes(content[9:13], "little") == size
        if not is_framed or self.consume(content, EVENTS) != size:
            self._take(content, is_inner=False)
        return self.saw_barrier

    def flush(self) -> None:
        """Hand over the whole transactions that have been read."""
        if self._scan.transaction_count and self._part_number == 0:
            self._hand_over()

    # ------------------------------------------------------------ event by event

    def _take(self, content: bytes | memoryview, *, is_inner: bool) -> None:
        """One event that the scanner leaves to us. `is_inner`: it stood in a compressed transaction."""
        try:
            if is_inner:
                # without a checksum, at the position of the event that it came in
                event = Event(parse_header(content), content[EVENT_HEADER_BYTES:])
                if event.header.event_type == EventType.TRANSACTION_PAYLOAD:
                    raise MalformedEvent("transaction payload holds a transaction payload")
            else:
                event = self._framer.frame(content)
                self._advance(event)
            self._slow_event_count += 1
            if not self._is_before_start(event):
                self._handlers[classify(event.header.event_type, event.header.flags)](event)
        except CdcError as error:
            if error.position is None:
                error.position = f"{self.position} (event before {self.file_pos})"
            if isinstance(error, ProtocolError) and not error.frame:
                error.frame = bytes(content[: 1 << 20])
            raise
        self._settle()

    def _settle(self) -> None:
        """Tell the scanner what it may take in without us from here on."""
        format_ = self._framer.format
        scan = self._scan
        scan.has_slow_end = bool(self._part_number or self._open or self._open_xa)
        scan.is_fast = self._is_fast and format_ is not None and self._file is not None and self._skip_until is None
        scan.has_checksum = format_ is not None and format_.checksum is ChecksumAlgorithm.CRC32

    # ------------------------------------------------------------ positions

    def _advance(self, event: Event) -> None:
        header = event.header
        kind = header.event_type
        scan = self._scan
        if self._file is None or header.is_artificial or kind in (EventType.HEARTBEAT, EventType.HEARTBEAT_V2):
            return
        if kind == EventType.ROTATE and not header.log_pos:
            return
        if kind == EventType.FORMAT_DESCRIPTION and header.log_pos <= scan.at:
            return  # sent again at the beginning of a stream that starts further on in the file
        expected = scan.at + header.event_size
        if header.log_pos:
            ahead = (header.log_pos - expected) % _U32
            if scan.group_is_open and ahead >= _U32 // 2:
                raise MalformedEvent(
                    f"{header.type_name} event ends at {header.log_pos}, the one before it in its transaction at "
                    f"{scan.at}: events out of order",
                    hint=_DAMAGED_HINT,
                )
            # The header has 32 bits: the candidate next to where we are, never behind it.
            expected = (scan.at & ~(_U32 - 1)) | header.log_pos
            if expected < scan.at:
                expected += _U32
        scan.at = expected

    def _is_before_start(self, event: Event) -> bool:
        """Was it read only because the dump command cannot say a position past 4 GiB? (The start is a group's end.)"""
        at = self.file_pos
        if self._skip_until is None or at is None:
            return False
        kind = classify(event.header.event_type, event.header.flags)
        if kind is EventClass.HEARTBEAT:
            return at < self._skip_until
        if kind in (EventClass.FORMAT, EventClass.ROTATE):
            return False
        if at <= self._skip_until:
            return True
        self._skip_until = None
        return False

    def _with_ended(self, gtid: MysqlGtidSet | MariadbGtidList | None) -> MysqlGtidSet | MariadbGtidList | None:
        """`gtid` and the transactions that ended since it was asked for last."""
        scan = self._scan
        ended = scan.take_gtids()
        if isinstance(gtid, MysqlGtidSet):
            spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
            for source, first, last in ended:
                spans.setdefault(scan.source_key(source), []).append((first, last))
            return gtid.add_intervals(spans)
        if isinstance(gtid, MariadbGtidList):
            for source, _, last in ended:
                domain, server_id = scan.source_key(source)
                gtid = gtid.add(domain, server_id, last)
        return gtid

    def _group_gtid(self) -> Gtid | MariadbGtid | None:
        """The open group's."""
        scan = self._scan
        if not scan.group_is_open:
            return None
        if scan.group_gtid is not None:
            return scan.group_gtid
        if scan.group_source < 0:
            return None
        if self._flavor == "mariadb":
            domain, server_id = scan.source_key(scan.group_source)
            return MariadbGtid(domain, server_id, scan.group_number, scan.group_flags)
        server, tag = scan.source_key(scan.group_source)
        return Gtid(server, tag, scan.group_number, scan.group_flags)

    def _group_start(self) -> FilePos | None:
        return None if self._file is None else FilePos(self._file[0], self._scan.group_start, self._file[1])

    def _end_position(self) -> SourcePosition:
        """The position after the open group: its file position, and its GTID added."""
        position = self.position
        gtid = position.gtid
        mine = self._group_gtid()
        if isinstance(mine, Gtid) and mine.source is not None and isinstance(gtid, MysqlGtidSet):
            gtid = gtid.add(mine.source, mine.number)
        elif isinstance(mine, MariadbGtid) and isinstance(gtid, MariadbGtidList):
            gtid = gtid.add(mine.domain, mine.server_id, mine.sequence)
        return SourcePosition(position.server, self.file_pos, gtid)

    def _is_covered(self, upto: SourcePosition | None) -> bool:
        """Does the open group end at or before `upto`? (`upto` is a group boundary.)"""
        if upto is None:
            return False
        gtid = self._group_gtid()
        if isinstance(upto.gtid, MysqlGtidSet) and isinstance(gtid, Gtid) and gtid.source is not None:
            return upto.gtid.contains(gtid.source, gtid.number)
        start = self._group_start() if self._scan.group_is_open else self.file_pos
        if upto.file is not None and upto.server == self._position.server and start is not None:
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
        self._scan.forget_maps()
        if event.header.log_pos and not event.header.is_artificial:
            # The server crashed in the middle of a group: it is rolled back there, so it is here.
            self._discard_group()

    def _on_rotate(self, event: Event) -> None:
        rotate = parse_rotate(event)
        self._scan.forget_maps()
        try:
            at = FilePos.of(rotate.file, rotate.position)
        except ValueError as error:
            raise MalformedEvent(f"binlog file {rotate.file!r} has no number") from error
        is_real = not rotate.is_artificial and event.header.timestamp
        if is_real:
            # A real one is at the end of its file, between groups: the next file's beginning is as good a position.
            if self._scan.group_is_open and (self._scan.group_has_rows or self._scan.group_has_covered_rows):
                raise MalformedEvent(
                    f"ROTATE event inside the transaction that begins at {self._group_start()}", hint=_DAMAGED_HINT
                )
            self._discard_group()
        if is_real or self._file != (at.number, at.file):
            # No run crosses files. After a shutdown or crash only the sender's own rotate tells of the next one.
            self.flush()
        position = self.position  # in the old file
        self._file = (at.number, at.file)
        self._scan.at = at.pos
        if is_real:
            self._position = SourcePosition(position.server, at, position.gtid)
            self._output.run(self._make_run((), 0))  # so that an idle stream's checkpoint does not stay in an old file
        elif position.file is None and not self._scan.group_is_open:
            self._position = SourcePosition(position.server, at, position.gtid)

    def _on_gtid(self, event: Event) -> None:
        scan = self._scan
        if scan.group_is_open:
            raise UnsupportedEvent(
                f"the transaction that begins at {self._group_start()} has no end that is understood",
                hint="report it with the output of `mysqlbinlog` for that position",
            )
        is_mariadb = event.header.event_type == EventType.MARIADB_GTID
        if is_mariadb != (self._flavor == "mariadb"):
            raise UnsupportedEvent(
                f"{event.header.type_name} event from a server that is no {'MariaDB' if is_mariadb else 'MySQL'}",
                hint="a proxy or a replication chain mixes the two families: follow the server itself",
            )
        start = self._before(event)
        timestamp_us = event.header.timestamp * 1_000_000
        if is_mariadb:
            gtid = parse_mariadb_gtid(event)
            scan.begin_group(
                start=start,
                commit_us=timestamp_us,
                gtid=gtid,
                is_standalone=gtid.is_standalone,
                is_begun=not gtid.is_standalone,
            )
            if gtid.xa is not None and gtid.flags & MariadbGtidFlag.PREPARED_XA:
                self._begin_xa(gtid.xa)
            return
        mysql_gtid = parse_gtid(event)
        scan.begin_group(start=start, commit_us=mysql_gtid.immediate_commit_us or timestamp_us, gtid=mysql_gtid)

    def _before(self, event: Event) -> int:
        """Where this event begins in its file."""
        return max(0, self._scan.at - event.header.event_size)

    def _need_group(self, event: Event) -> None:
        """Servers without GTID events: the statement itself opens the group."""
        if not self._scan.group_is_open:
            self._scan.begin_group(start=self._before(event), commit_us=event.header.timestamp * 1_000_000, gtid=None)

    def _on_commit(self, event: Event) -> None:
        parse_xid(event)
        if not self._scan.group_is_open:
            raise MalformedEvent("a commit without a transaction", hint=_DAMAGED_HINT)
        self._finish_group()

    def _finish_group(self) -> None:
        """The open group is whole: its rows count."""
        if self._part_number and self._open_xa is not None and self._open_xa.xa not in self._xa_steps:
            raise UnsupportedEvent(
                f"the group of XA transaction {self._open_xa.xa} ends without an XA PREPARE, and parts are stored",
                hint="report it with the output of `mysqlbinlog` for that position",
            )
        self._end_xa()
        is_full = self._scan.end_group()
        self._closed.extend(self._open)
        self._open.clear()
        if self._part_number:
            self._hand_over_last_part()
        elif is_full:
            self._hand_over()

    def _discard_group(self) -> None:
        """Drop the rows of the open group: it was never committed."""
        scan = self._scan
        had_rows = scan.group_is_open and scan.group_has_rows
        self._end_xa()
        scan.close_group()
        if not had_rows:
            return
        self._open.clear()
        if self._part_number:
            self._part_number = 0
            self._part_tables.clear()
            self._output.abandon()

    # ------------------------------------------------------------ statements

    def _on_query(self, event: Event) -> None:
        query = parse_query(event)
        self._need_group(event)
        text = query.statement
        if text in ("BEGIN", "COMMIT"):
            if event.header.event_type == EventType.QUERY:
                # From the database's length on: the scanner may take the next one that begins like this for read.
                self._scan.remember_beginning(bytes(event.body[8 : -len(query.statement_bytes)]))
            if text == "BEGIN":
                self._scan.group_is_begun = True
            else:
                self._finish_group()
            return
        self._on_statement(query, _classified(query))

    def _on_statement(self, query: Query, statement: Statement) -> None:
        kind = statement.kind
        scan = self._scan
        if kind is StatementKind.BEGIN:
            scan.group_is_begun = True
        elif kind is StatementKind.COMMIT:
            self._finish_group()
        elif kind is StatementKind.ROLLBACK:
            self._on_rollback()
        elif kind in (StatementKind.SAVEPOINT, StatementKind.XA_END):
            pass
        elif kind is StatementKind.ROLLBACK_TO:
            if scan.group_has_rows:
                raise UnsupportedEvent(
                    "ROLLBACK TO SAVEPOINT inside a transaction with rows of captured tables "
                    "(it mixes tables with and without transactions)",
                    hint="use InnoDB for every table of such transactions; then load the tables again",
                )
        elif kind is StatementKind.XA_START:
            scan.group_is_begun = True
            self._begin_xa(_xa_named(query.statement))
        elif kind in (StatementKind.XA_COMMIT, StatementKind.XA_ROLLBACK):
            self._on_xa_end(query, kind)
        elif kind in (StatementKind.DDL, StatementKind.DATABASE):
            self._on_ddl(query, statement)
        elif kind is StatementKind.HARMLESS:
            self._end_if_single()
        else:
            self._on_other_statement(query, statement)

    def _end_if_single(self) -> None:
        """A statement that stands for itself is its group's end; one inside BEGIN … COMMIT is not."""
        if not self._scan.group_is_begun:
            self._finish_group()

    def _on_rollback(self) -> None:
        """The group is rolled back. Rows of tables without transactions stay, as they do at the source."""
        scan = self._scan
        if scan.group_has_rows:
            tables = self._part_tables | {batch.definition.name for batch in self._open}
            tables |= {
                buffer.layout.definition.name
                for _, buffer in scan.run_slots()
                if buffer.image_count > buffer.whole_count
            }
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
        """The open group goes on without the rows that it has had so far."""
        self._scan.drop_open_images()
        self._open.clear()
        if self._part_number:
            self._part_number = 0
            self._part_tables.clear()
            self._output.abandon()

    def _on_ddl(self, query: Query, statement: Statement) -> None:
        gtid = self._group_gtid()
        extra = gtid.extra_flags if isinstance(gtid, MariadbGtid) else 0
        if extra & (MariadbGtidExtraFlag.START_ALTER | MariadbGtidExtraFlag.ROLLBACK_ALTER):
            # Two phases: what START announces, COMMIT does. A statement that failed with an error code is taken as
            # one that was done: a DROP of several tables may have dropped some.
            self._end_if_single()
            return
        if statement.kind is StatementKind.DATABASE:
            touched = self._capture.in_database(self._case(statement.database))
            dropped = frozenset(touched)
        else:
            names = [TableName(self._case(t.database), self._case(t.table)) for t in statement.tables]
            touched = [t for t in names if self._is_touched(t)]
            gone = {TableName(self._case(t.database), self._case(t.table)) for t in statement.dropped}
            # Where a temporary table is renamed, the table of that name stays.
            dropped = frozenset(t for t in touched if t in gone and not query.is_of_session)
        if not touched:
            self._end_if_single()
            return
        self._barrier(touched, dropped, query.statement, is_over=not self._scan.group_is_begun, query=query)

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

    def _barrier(
        self,
        touched: list[TableName],
        dropped: frozenset[TableName],
        statement: str,
        *,
        is_over: bool = False,
        xa: Xa | None = None,
        query: Query | None = None,
    ) -> None:
        """Hand over what is whole before the open group, then the change.

        Where the statement is its whole group (`is_over`), the change's end is after it, and no run passes it: what
        the change means is recorded in the transaction that moves the checkpoint there. In the middle of a group the
        end is before the group, which comes again after the change.
        """
        scan = self._scan
        commit_us = scan.group_commit_us
        if self._part_number == 0:
            if scan.group_is_open and scan.group_has_rows:
                self._discard_group_rows()
            self.flush()
        end = self._end_position() if is_over else self.position
        change = SchemaChange(tuple(touched), end, statement, commit_us, dropped, xa)
        self._output.change(change if query is None else _with_session(change, query, is_over=is_over))
        self.saw_barrier = True

    def _on_other_statement(self, query: Query, statement: Statement) -> None:
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
        self._end_if_single()

    def _on_statement_data(self, event: Event) -> None:
        """Variables and file blocks of a statement: the statement itself follows, and is judged by its text."""
        self._need_group(event)
        if event.header.event_type == EventType.EXECUTE_LOAD_QUERY:
            # A QUERY event with 13 more bytes (file id, two offsets, duplicate handling) after its fixed part.
            body = bytes(event.body)
            if len(body) < 26:
                raise MalformedEvent("EXECUTE_LOAD_QUERY event ends inside its fixed part")
            header = replace(event.header, event_type=EventType.QUERY)
            query = parse_query(Event(header, body[:13] + body[26:]))
            self._on_other_statement(query, _classified(query))

    def _on_incident(self, event: Event) -> None:
        notice = parse_incident(event)
        raise Incident(
            f"the source's own binlog has a gap: incident {notice.number} {notice.message}".rstrip(),
            hint="load every table again: `cdc checkpoint reset` and `cdc run`",
            position=str(self.position),
        )

    # ------------------------------------------------------------ XA

    def _begin_xa(self, xa: Xa) -> None:
        """The open group prepares `xa`; every table in it is looked at, also those that are known."""
        if self._all_captured is not None and self._open_xa is None:
            self._open_xa = _OpenXa(xa)
            self._scan.forget_maps()

    def _end_xa(self) -> None:
        if self._open_xa is not None:
            self._open_xa = None
            self._scan.forget_maps()

    def _on_xa_prepare(self, event: Event) -> None:
        prepared = parse_xa_prepare(event)
        self._need_group(event)
        if self._all_captured is None:
            self._on_prepare_of_nothing(prepared.xa, is_one_phase=prepared.is_one_phase)
            return
        opened = self._open_xa
        if opened is None or opened.xa != prepared.xa:
            raise MalformedEvent(
                f"XA transaction {prepared.xa} is prepared in the group that began with {opened.xa if opened else '-'}",
                hint=_DAMAGED_HINT,
            )
        if prepared.is_one_phase:
            if self._part_number or opened.covered:
                self._hand_over_rest()
            if self._part_number:
                self._xa_steps[opened.xa] = XaStep(XaAction.APPLY, opened.xa, covered=frozenset(opened.covered))
            self._finish_group()
            return
        step = XaStep(XaAction.PREPARE, opened.xa, passed=frozenset(opened.passed))
        self._hand_over_rest()
        stored = frozenset(self._part_tables)
        self._prepared[opened.xa] = PreparedXa(stored, step.passed)
        self._xa_steps[opened.xa] = replace(step, stored=stored)
        self._finish_group()

    def _on_prepare_of_nothing(self, xa: Xa, *, is_one_phase: bool) -> None:
        """For an output that stores nothing: only what has no rows that count may be prepared."""
        # A load that is newer than the prepare has not seen its rows either: they are not committed yet.
        if not is_one_phase:
            if self._scan.group_has_rows or self._scan.group_has_covered_rows:
                raise UnsupportedEvent(
                    f"XA transaction {xa} with rows of captured tables is prepared: what it changes is not known to "
                    "count before its XA COMMIT, which may be days away, and nothing is kept here until then",
                    hint="begin behind it (--from), or leave its tables out",
                )
            self._prepared[xa] = PreparedXa()
        self._finish_group()

    def _hand_over_rest(self) -> None:
        """What there still is of the open group's rows becomes a part, to be stored as those before it."""
        if self._scan.open_rows or self._open:
            self._hand_over_part()

    def _on_xa_end(self, query: Query, kind: StatementKind) -> None:
        xa = _xa_named(query.statement)
        if self._scan.group_is_open and self._scan.group_has_rows:
            raise UnsupportedEvent(
                f"the XA transaction {xa} ends in the group of its rows, without an XA PREPARE",
                hint="report it with the output of `mysqlbinlog` for that position",
            )
        known = self._prepared.pop(xa, None)
        if kind is StatementKind.XA_ROLLBACK:
            if known is not None:
                self._xa_steps[xa] = XaStep(XaAction.FORGET, xa)
            self._finish_group()
        elif known is None:
            self._on_unknown_commit(xa, query.statement)
        else:
            self._on_known_commit(xa, known)

    def _on_known_commit(self, xa: Xa, known: PreparedXa) -> None:
        found = {table: self._capture.find(table) for table in known.stored | known.passed}
        captured = {table: one for table, one in found.items() if one is not None}
        covered = frozenset(table for table, one in captured.items() if self._is_covered(one.loaded_from))
        if not known.stored and not captured.keys() - covered:
            self._xa_steps[xa] = XaStep(XaAction.FORGET, xa)
            self._finish_group()
            return
        self.flush()  # what is applied is applied in its place, and alone
        self._xa_steps[xa] = XaStep(XaAction.APPLY, xa, covered=covered)
        self._scan.end_group()
        self._hand_over()

    def _on_unknown_commit(self, xa: Xa, statement: str) -> None:
        """Its rows were logged before the stream began, and no load that began before this has seen them."""
        if self._all_captured is None:
            raise UnsupportedEvent(
                f"XA COMMIT of {xa}, which was prepared before the stream began, or in a place that was not read",
                hint="its rows are in no event that follows: begin before its XA PREPARE, or behind this (--from)",
            )
        touched = []
        for table in self._all_captured():
            found = self._capture.find(table)
            if found is not None and not self._is_covered(found.loaded_from):
                touched.append(table)
        if touched:
            self._barrier(touched, frozenset(), statement, is_over=True, xa=xa)
        else:
            self._finish_group()

    def _take_xa_steps(self) -> tuple[XaStep, ...]:
        steps = tuple(self._xa_steps.values())
        self._xa_steps.clear()
        return steps

    # ------------------------------------------------------------ rows

    def _on_payload(self, event: Event) -> None:
        """A compressed transaction: its events, as they are inflated; their position is the payload's end."""
        pieces: list[bytes] = []
        held_bytes = 0
        wanted = EVENT_HEADER_BYTES
        for piece in inflated_payload(parse_transaction_payload(event)):
            pieces.append(piece)
            held_bytes += len(piece)
            if held_bytes < wanted:
                continue
            held = b"".join(pieces) if len(pieces) > 1 else piece
            done = self.consume(held, PAYLOAD)
            if self.saw_barrier:
                return
            rest = held[done:]
            pieces = [rest] if rest else []
            held_bytes = len(rest)
            wanted = EVENT_HEADER_BYTES
            if held_bytes >= EVENT_HEADER_BYTES:
                wanted = parse_header(rest).event_size
            if self._is_odd:
                raise MalformedEvent(f"transaction payload: an event says {wanted} bytes")
        if held_bytes:
            raise MalformedEvent(f"transaction payload ends inside an event, {held_bytes} bytes of which are there")

    def _on_table_map(self, event: Event) -> None:
        body = bytes(event.body)
        scan = self._scan
        self._need_group(event)
        if scan.find_map(int.from_bytes(body[:6], "little"), body) is not None:
            return
        table_map = parse_table_map(event, self._flavor)
        name = TableName(table_map.database, table_map.table)
        captured = self._capture.find(name)
        if captured is None and isinstance(self._capture, DefiningCapture):
            captured = self._capture.define(table_map)
        if captured is None:
            if self._is_new(name):
                self._barrier([name], frozenset(), "")
                return
            # One that was dropped, or is not known yet, may come to count later in the stream.
            is_lasting = not self._capture.is_unknown(name)
            if self._open_xa is not None:
                self._open_xa.passed.add(name)
            scan.map_table(body, _NO_SLOT, is_covered=False, is_lasting=is_lasting)
            return
        is_covered = self._is_covered(captured.loaded_from)
        if is_covered and self._open_xa is None:
            scan.map_table(body, _NO_SLOT, is_covered=True, is_lasting=False)
            return
        known = self._tables.get(name)
        if known is None or known.described_by != body[6:] or known.definition is not captured.definition:
            try:
                layout = build_layout(table_map, captured.definition, flavor=self._flavor, server_version=self._version)
            except LayoutMismatch:
                if captured.is_ready:
                    raise
                if is_covered and self._open_xa is not None:
                    # The commit is in the load, too, or else the table could not have been altered in between.
                    self._open_xa.passed.add(name)
                    scan.map_table(body, _NO_SLOT, is_covered=True, is_lasting=False)
                    return
                # Loaded under a definition that is newer than these rows: its DDL is still to come. Load again.
                self._barrier([name], frozenset(), "")
                return
            self._close_buffer(name)
            buffer = ImageBuffer(layout, needs_all_columns=self._needs_all_columns)
            known = _Table(body[6:], captured.definition, buffer, scan.add_buffer(buffer))
            self._tables[name] = self._by_slot[known.slot] = known
        if is_covered and self._open_xa is not None:
            self._open_xa.covered.add(name)
        scan.map_table(body, known.slot, is_covered=False, is_lasting=captured.loaded_from is None)

    def _on_rows(self, event: Event) -> None:
        scan = self._scan
        plain = uncompressed_rows_event(event)
        if plain is not None:
            # As if it had come so: the scanner can stop inside it.
            if self.consume(plain, PAYLOAD) != len(plain):
                raise MalformedEvent(f"{event.header.type_name} event holds {len(plain)} bytes, which are no event")
            return
        was_inside = scan.was_inside
        rows = parse_rows(event)
        if rows.table_id == _DUMMY_TABLE_ID:
            scan.end_statement()
            return
        mapped = scan.find_map(rows.table_id)
        if mapped is None:
            raise MalformedEvent(f"rows of table id {rows.table_id}, which no table map has named", hint=_DAMAGED_HINT)
        slot, is_covered = mapped
        if slot != _NO_SLOT:
            self._need_group(event)
            buffer = self._by_slot[slot].buffer
            before = buffer.image_count, buffer.byte_count
            try:
                buffer.append(rows, scan.transaction_count)
            except UnsupportedData as error:
                error.position = error.position or str(self._end_position())
                raise
            if was_inside:
                # The scanner took a part of it and had no memory for the next image; now there is some, and the images
                # of that part are here twice.
                raise MemoryError(f"no memory for the images of {buffer.layout.definition.name}")
            scan.touch(slot, *before)
            if rows.is_statement_end:
                scan.end_statement()
            if scan.is_part_full:
                self._hand_over_part()
            return
        if is_covered:
            self._need_group(event)
            scan.group_has_covered_rows = True
        if rows.is_statement_end:
            scan.end_statement()

    # ------------------------------------------------------------ runs

    def _close_buffer(self, table: TableName) -> None:
        """The table's layout changes: what it has buffered becomes batches of its own."""
        known = self._tables.pop(table, None)
        if known is None:
            return
        complete, rest = self._split(known.buffer)
        self._closed.extend(complete)
        self._open.extend(rest)
        self._scan.drop_buffer(known.slot)
        del self._by_slot[known.slot]
        self._settle()

    def _split(self, buffer: ImageBuffer) -> tuple[list[RowBatch], list[RowBatch]]:
        """A buffer's images of whole transactions, and those of the open one; it is empty then."""
        if not buffer.image_count:
            return [], []
        mark = buffer.whole_count
        batch = buffer.take()
        if mark >= batch.row_count:
            return [batch], []
        rest = _slice(batch, mark, batch.row_count - mark)
        return ([_slice(batch, 0, mark)] if mark else []), [rest]

    def _take_buffers(self) -> tuple[list[RowBatch], list[RowBatch]]:
        complete: list[RowBatch] = []
        rest: list[RowBatch] = []
        for _, buffer in self._scan.run_slots():
            whole, part = self._split(buffer)
            complete.extend(whole)
            rest.extend(part)
        self._scan.reset_slots()
        return complete, rest

    def _hand_over(self) -> None:
        """A run of whole transactions; rows of the open one stay."""
        byte_count = self._scan.run_bytes + self._scan.block_bytes
        complete, rest = self._take_buffers()
        run = self._make_run((*self._closed, *complete), byte_count)
        self._closed = []
        self._open = [_at_transaction(batch, 0) for batch in (*self._open, *rest)]
        self._settle()
        self._output.run(run)

    def _hand_over_part(self) -> None:
        """The open transaction is large: first what is whole before it, then what there is of it."""
        scan = self._scan
        if self._part_number == 0 and scan.transaction_count:
            self._hand_over()
        byte_count = scan.open_bytes + scan.block_bytes
        complete, rest = self._take_buffers()
        assert not complete, "whole transactions were handed over above"
        self._part_tables |= {batch.definition.name for batch in (*self._open, *rest)}
        run = TransactionRun(
            batches=tuple(_at_transaction(batch, 0) for batch in (*self._open, *rest)),
            end=self.position,
            commit_times_us=pa.array([], type=pa.int64()),
            byte_count=byte_count,
            part_number=self._part_number,
            is_last_part=False,
            open_transaction=self._open_transaction(),
            xa=() if self._open_xa is None else (XaStep(XaAction.STORE, self._open_xa.xa),),
        )
        scan.forget_open_counts()
        self._open.clear()
        self._part_number += 1
        self._settle()
        self._output.run(run)

    def _hand_over_last_part(self) -> None:
        byte_count = self._scan.run_bytes + self._scan.block_bytes
        complete, rest = self._take_buffers()
        assert not rest, "the transaction has ended"
        run = self._make_run(tuple(_at_transaction(batch, 0) for batch in (*self._closed, *complete)), byte_count)
        self._closed = []
        self._part_number = 0
        self._part_tables.clear()
        self._settle()
        self._output.run(run)

    def _make_run(self, batches: tuple[RowBatch, ...], byte_count: int) -> TransactionRun:
        """Of the transactions that have ended; the next run begins."""
        end = self.position
        scan = self._scan
        times, offsets, sources, numbers, used, count = scan.take_transactions()
        separator = "-" if self._flavor == "mariadb" else ":"
        return TransactionRun(
            batches=batches,
            end=end,
            commit_times_us=_array(pa.int64(), count, times),
            byte_count=byte_count,
            part_number=self._part_number,
            is_last_part=True,
            ends=TransactionEnds(
                offset=_array(pa.uint64(), count, offsets),
                gtid_source=_array(pa.int32(), count, sources),
                gtid_number=_array(pa.uint64(), count, numbers),
                sources=tuple(separator.join(str(part) for part in scan.source_key(one) if part != "") for one in used),
                flavor=self._flavor,
            ),
            xa=self._take_xa_steps(),
        )

    def _open_transaction(self) -> OpenTransaction | None:
        scan = self._scan
        if not scan.group_is_open:
            return None
        gtid = str(self._group_gtid()) if scan.group_source >= 0 else None
        return OpenTransaction(gtid, self._group_start(), scan.group_commit_us)

    # ------------------------------------------------------------ heartbeats

    def _on_heartbeat(self, event: Event) -> None:
        heartbeat = parse_heartbeat(event)
        if self._scan.group_is_open:
            return
        try:
            at = FilePos.of(heartbeat.file, heartbeat.position)
        except ValueError as error:
            raise MalformedEvent(f"binlog file {heartbeat.file!r} has no number") from error
        if self._file is not None and at.number == self._file[0]:
            at = FilePos(at.number, max(at.pos, self._scan.at), at.file)  # v1 has 32 bits only
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


def _with_session(change: SchemaChange, query: Query, *, is_over: bool) -> SchemaChange:
    """`change` with what decides how its statement is read."""
    sql_mode = query.status.sql_mode or 0
    return replace(
        change,
        is_exact=is_over
        and query.is_exact
        and not query.is_of_session
        and not query.error_code
        and not sql_mode & _SQL_MODES_OF_OTHER_TYPES,
        database=query.database,
        has_ansi_quotes=bool(sql_mode & _SQL_MODE_ANSI_QUOTES),
        has_backslash_escapes=not sql_mode & _SQL_MODE_NO_BACKSLASH_ESCAPES,
    )


def _xa_named(statement: str) -> Xa:
    """The transaction that an XA statement names, as servers write it: `XA START X'6162',X'',1`."""
    try:
        global_id, branch, format_id = (part.strip() for part in statement.split(None, 2)[2].split(","))
        return Xa(_signed32(int(format_id)), _hex_literal(global_id), _hex_literal(branch))
    except (IndexError, ValueError) as error:
        shown = " ".join(statement.split())[:_STATEMENT_SHOWN_CHARS]
        raise UnsupportedEvent(
            f"the XA transaction that a statement names is not understood: {shown}",
            hint="report it with the output of `mysqlbinlog` for that position",
        ) from error


def _hex_literal(text: str) -> bytes:
    if text[:2] not in ("X'", "x'") or text[-1:] != "'":
        raise ValueError(text)
    return bytes.fromhex(text[2:-1])


def _signed32(value: int) -> int:
    """A format id as XA PREPARE events have it, which the servers print with or without its sign."""
    value &= _U32 - 1
    return value - _U32 if value >> 31 else value


def _array(arrow_type: pa.DataType, count: int, block: object) -> pa.Array:
    return pa.Array.from_buffers(arrow_type, count, [None, pa.py_buffer(block) if count else pa.py_buffer(b"")])


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
        transaction_index=pa.repeat(pa.scalar(index, pa.uint32()), batch.row_count),
        images=batch.images,
        shape_index=batch.shape_index,
        shapes=batch.shapes,
    )
