"""What each event says: one frozen value and one `parse_…` a kind, and what a kind is to the caller (`classify`).

Bytes in, values out; knows no state: which table map a rows event belongs to, where a transaction ends and what may
be skipped is the caller's business. Statement text of ROWS_QUERY and ANNOTATE events is never kept (it may hold
passwords). Every parser raises MalformedEvent for bytes that do not fit, and nothing else but UnsupportedEvent.

Sources: MySQL libs/mysql/binlog/event/*.cpp (trunk, 9.x); MariaDB sql/log_event.cc, sql/log_event_server.cc (11.8);
all of it compared with events of live servers (tests/integration/test_binlog_types.py).
"""

from __future__ import annotations

import enum
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from cdc.binlog.charsets import UnprovenCharset, collation_charset, text_decoder
from cdc.binlog.constants import (
    EVENT_BYTES_MAX,
    EVENT_HEADER_BYTES,
    EventFlag,
    EventType,
    MariadbGtidExtraFlag,
    MariadbGtidFlag,
    QueryVariable,
    RowsFlag,
)
from cdc.binlog.cursor import Cursor
from cdc.binlog.framing import Event, FormatDescription, parse_format_description, parse_header, read_up_to
from cdc.errors import MalformedEvent, UnsupportedEvent
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import Xa

__all__ = [
    "COLUMN_COUNT_MAX",
    "PAYLOAD_BYTES_MAX",
    "EventClass",
    "FormatDescription",
    "Gtid",
    "Heartbeat",
    "IncidentNotice",
    "MariadbGtid",
    "MariadbGtidListEvent",
    "PreviousGtids",
    "Query",
    "Rotate",
    "RowsEvent",
    "RowsKind",
    "TransactionPayload",
    "Xa",
    "XaPrepare",
    "Xid",
    "classify",
    "parse_format_description",
    "parse_gtid",
    "parse_heartbeat",
    "parse_incident",
    "parse_mariadb_gtid",
    "parse_mariadb_gtid_list",
    "parse_previous_gtids",
    "parse_query",
    "parse_rotate",
    "parse_rows",
    "parse_transaction_payload",
    "parse_xa_prepare",
    "parse_xid",
    "payload_events",
    "uncompressed_rows_event",
]

# What a compressed event may grow to, whatever it declares; the servers' own limit of an event.
PAYLOAD_BYTES_MAX = 1 << 30
# The servers' limit (MAX_FIELDS).
COLUMN_COUNT_MAX = 4096
# File names in events: FN_REFLEN of the servers, less the terminator.
_FILE_NAME_BYTES_MAX = 511
# How much is asked of a decompressor at a time.
_INFLATE_CHUNK_BYTES = 1 << 20


class EventClass(enum.Enum):
    """What an event is to whoever follows the stream."""

    FORMAT = "format"  # a file begins
    ROTATE = "rotate"  # another file follows
    GTID = "gtid"  # a group begins
    QUERY = "query"  # a statement: DDL, BEGIN, COMMIT, or DML by statement
    XID = "xid"  # a group ends: commit
    TABLE_MAP = "table_map"
    ROWS = "rows"
    PAYLOAD = "payload"  # a whole transaction, compressed
    HEARTBEAT = "heartbeat"
    INCIDENT = "incident"  # the source's log has a gap
    XA_PREPARE = "xa_prepare"  # a group ends: prepared, or committed in one phase
    INFORMATIONAL = "informational"  # known, carries no data
    STATEMENT_DATA = "statement_data"  # context or data of a statement that follows: statement-based logging
    IGNORABLE = "ignorable"  # not known, and its writer says that it may be skipped
    UNKNOWN = "unknown"  # not known: stop


_CLASSES: dict[int, EventClass] = {
    EventType.START_V3: EventClass.UNKNOWN,  # binlog versions 1 and 3: no server that we can follow writes it
    EventType.QUERY: EventClass.QUERY,
    EventType.STOP: EventClass.INFORMATIONAL,  # the server shut down; a rotate to the next file follows
    EventType.ROTATE: EventClass.ROTATE,
    EventType.INTVAR: EventClass.STATEMENT_DATA,  # LAST_INSERT_ID or INSERT_ID for the statement that follows
    EventType.LOAD: EventClass.UNKNOWN,  # LOAD DATA of MySQL before 5.0.3
    EventType.SLAVE: EventClass.UNKNOWN,  # never written by any release
    EventType.CREATE_FILE: EventClass.UNKNOWN,  # as LOAD
    EventType.APPEND_BLOCK: EventClass.STATEMENT_DATA,  # a further block of a LOAD DATA file
    EventType.EXEC_LOAD: EventClass.UNKNOWN,  # as LOAD
    EventType.DELETE_FILE: EventClass.STATEMENT_DATA,  # LOAD DATA failed: forget its blocks
    EventType.NEW_LOAD: EventClass.UNKNOWN,  # as LOAD
    EventType.RAND: EventClass.STATEMENT_DATA,  # seeds of RAND() for the statement that follows
    EventType.USER_VAR: EventClass.STATEMENT_DATA,  # a user variable for the statement that follows
    EventType.FORMAT_DESCRIPTION: EventClass.FORMAT,
    EventType.XID: EventClass.XID,
    EventType.BEGIN_LOAD_QUERY: EventClass.STATEMENT_DATA,  # first block of a LOAD DATA file
    EventType.EXECUTE_LOAD_QUERY: EventClass.STATEMENT_DATA,  # the LOAD DATA statement itself
    EventType.TABLE_MAP: EventClass.TABLE_MAP,
    EventType.PRE_GA_WRITE_ROWS: EventClass.UNKNOWN,  # rows of 5.1 beta releases, another layout
    EventType.PRE_GA_UPDATE_ROWS: EventClass.UNKNOWN,
    EventType.PRE_GA_DELETE_ROWS: EventClass.UNKNOWN,
    EventType.WRITE_ROWS_V1: EventClass.ROWS,
    EventType.UPDATE_ROWS_V1: EventClass.ROWS,
    EventType.DELETE_ROWS_V1: EventClass.ROWS,
    EventType.INCIDENT: EventClass.INCIDENT,
    EventType.HEARTBEAT: EventClass.HEARTBEAT,
    EventType.IGNORABLE: EventClass.IGNORABLE,  # by its own definition
    EventType.ROWS_QUERY: EventClass.INFORMATIONAL,  # the statement's text; never kept
    EventType.WRITE_ROWS: EventClass.ROWS,
    EventType.UPDATE_ROWS: EventClass.ROWS,
    EventType.DELETE_ROWS: EventClass.ROWS,
    EventType.GTID: EventClass.GTID,
    EventType.ANONYMOUS_GTID: EventClass.GTID,
    EventType.PREVIOUS_GTIDS: EventClass.INFORMATIONAL,  # the set executed before this file
    EventType.TRANSACTION_CONTEXT: EventClass.INFORMATIONAL,  # group replication's certification data
    EventType.VIEW_CHANGE: EventClass.INFORMATIONAL,  # group replication's membership
    EventType.XA_PREPARE: EventClass.XA_PREPARE,
    EventType.PARTIAL_UPDATE_ROWS: EventClass.ROWS,
    EventType.TRANSACTION_PAYLOAD: EventClass.PAYLOAD,
    EventType.HEARTBEAT_V2: EventClass.HEARTBEAT,
    EventType.GTID_TAGGED: EventClass.GTID,
    EventType.MARIADB_ANNOTATE_ROWS: EventClass.INFORMATIONAL,  # the statement's text; never kept
    EventType.MARIADB_BINLOG_CHECKPOINT: EventClass.INFORMATIONAL,  # the oldest file that crash recovery needs
    EventType.MARIADB_GTID: EventClass.GTID,
    EventType.MARIADB_GTID_LIST: EventClass.INFORMATIONAL,  # the state before this file; never ends a group
    EventType.MARIADB_START_ENCRYPTION: EventClass.INFORMATIONAL,  # the sender has decrypted what follows
    EventType.MARIADB_QUERY_COMPRESSED: EventClass.QUERY,
    EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1: EventClass.ROWS,
    EventType.MARIADB_UPDATE_ROWS_COMPRESSED_V1: EventClass.ROWS,
    EventType.MARIADB_DELETE_ROWS_COMPRESSED_V1: EventClass.ROWS,
    EventType.MARIADB_WRITE_ROWS_COMPRESSED: EventClass.ROWS,
    EventType.MARIADB_UPDATE_ROWS_COMPRESSED: EventClass.ROWS,
    EventType.MARIADB_DELETE_ROWS_COMPRESSED: EventClass.ROWS,
}


def classify(event_type: int, flags: int) -> EventClass:
    """What an event of this type is to the caller, who stops at UNKNOWN."""
    known = _CLASSES.get(event_type)
    if known is not None and known is not EventClass.UNKNOWN:
        return known
    return EventClass.IGNORABLE if flags & EventFlag.IGNORABLE else EventClass.UNKNOWN


# ---------------------------------------------------------------- files and positions


@dataclass(frozen=True, slots=True)
class Rotate:
    """The stream goes on in `file` at `position`.

    An artificial one (timestamp 0) is made up by the sender: it names the file that follows and is itself in no
    file, so it must not advance a checkpoint.
    """

    file: str
    position: int
    is_artificial: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The source is alive, and has sent all up to here. Not a position that anything was applied at."""

    file: str
    position: int


@dataclass(frozen=True, slots=True)
class IncidentNotice:
    """The source says that its own log has a gap (`LOST_EVENTS` is number 1)."""

    number: int
    message: str


def _file_name(raw: bytes, cursor: Cursor) -> str:
    if not 0 < len(raw) <= _FILE_NAME_BYTES_MAX:
        raise cursor.fail(f"file name of {len(raw)} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise cursor.fail(f"file name {raw[:40].hex()} is not UTF-8") from None


def parse_rotate(event: Event) -> Rotate:
    """`[0:8] position · [8:] file name, without terminator`"""
    cursor = Cursor(event.body, "rotate event")
    position = cursor.uint(8)
    return Rotate(_file_name(cursor.rest(), cursor), position, event.header.is_artificial)


def parse_heartbeat(event: Event) -> Heartbeat:
    """v1: `[0:] file name`, the position is the header's. v2: fields `type[lenenc] length[lenenc] value`, of which
    1 is the file name and 2 the position (lenenc); type 0 ends them.

    Source: MySQL codecs/binary.cpp, Heartbeat::decode.
    """
    cursor = Cursor(event.body, "heartbeat event")
    if event.header.event_type == EventType.HEARTBEAT:
        if event.header.log_pos < 4:
            raise cursor.fail(f"position {event.header.log_pos} is before any event")
        return Heartbeat(_file_name(cursor.rest(), cursor), event.header.log_pos)
    file: str | None = None
    position: int | None = None
    while cursor.left:
        kind = cursor.lenenc()
        if kind == 0:
            break
        value = cursor.window(cursor.lenenc(), "heartbeat field")
        if kind == 1:
            file = _file_name(value.rest(), cursor)
        elif kind == 2:
            position = value.lenenc()
    if file is None or position is None or position < 4:
        raise cursor.fail(f"no file name or position (file {file!r}, position {position})")
    return Heartbeat(file, position)


def parse_incident(event: Event) -> IncidentNotice:
    """`[0:2] number · [2] message length · [3:] message`"""
    cursor = Cursor(event.body, "incident event")
    number = cursor.uint(2)
    message = cursor.take(cursor.uint(1)) if cursor.left else b""
    return IncidentNotice(number, message.decode("utf-8", "backslashreplace"))


# ---------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Query:
    """A statement as the source logged it.

    `statement` is decoded by the client's charset; where its bytes are no text in it, `is_exact` is False and the
    odd bytes are shown as `\\xNN`. `status` has what was understood of the session's settings. `is_of_session`: a
    table in it is a temporary one of its session, which may have the name of a base table.
    """

    database: str
    statement: str
    statement_bytes: bytes
    is_exact: bool
    is_of_session: bool
    thread_id: int
    execution_seconds: int
    error_code: int
    status: QueryStatus


@dataclass(frozen=True, slots=True)
class QueryStatus:
    """The session's settings under which a statement ran; None where the event does not say.

    The three collations are ids: of character_set_client, collation_connection and collation_server.
    `database_collation` is that of the default database. `microseconds` is the fraction of the event's timestamp.
    """

    flags2: int | None = None
    sql_mode: int | None = None
    client_collation: int | None = None
    connection_collation: int | None = None
    server_collation: int | None = None
    database_collation: int | None = None
    utf8mb4_collation: int | None = None
    time_zone: str | None = None
    microseconds: int | None = None
    has_explicit_timestamp_defaults: bool | None = None
    ddl_xid: int | None = None
    updated_databases: tuple[str, ...] = ()


def parse_query(event: Event) -> Query:
    """A QUERY event, or MariaDB's compressed form of it.

    `[0:4] thread id · [4:8] execution seconds · [8] database length · [9:11] error code · [11:13] status length ·
    status variables · database · NUL · statement` (compressed: a compressed record, `_inflate_record`)
    """
    cursor = Cursor(event.body, "query event")
    thread_id = cursor.uint(4)
    execution_seconds = cursor.uint(4)
    database_bytes = cursor.uint(1)
    error_code = cursor.uint(2)
    status = _parse_query_status(cursor.window(cursor.uint(2), "query event's status variables"))
    database = _name(cursor.take(database_bytes), cursor)
    if cursor.uint(1) != 0:
        raise cursor.fail("the database name does not end in NUL")
    raw = cursor.rest()
    if event.header.event_type == EventType.MARIADB_QUERY_COMPRESSED:
        raw = _inflate_record(raw, PAYLOAD_BYTES_MAX)
    statement, is_exact = _statement_text(raw, status.client_collation)
    is_of_session = bool(event.header.flags & EventFlag.THREAD_SPECIFIC)
    return Query(database, statement, raw, is_exact, is_of_session, thread_id, execution_seconds, error_code, status)


def _statement_text(raw: bytes, collation: int | None) -> tuple[str, bool]:
    charset = collation_charset(collation) if collation is not None else "utf8mb4"
    try:
        return text_decoder(charset or "utf8mb4")(raw), True
    except (ValueError, UnprovenCharset):
        # A literal may hold any bytes whatever the client's charset is (`_binary'…'`): show them, say so.
        return raw.decode("utf-8", "backslashreplace"), False


def _name(raw: bytes, cursor: Cursor) -> str:
    """An identifier; in events always UTF-8 (the servers' system charset)."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise cursor.fail(f"name {raw[:40].hex()} is not UTF-8") from None


# How long the variables are that have one length and are of no use to us.
_QUERY_VARIABLE_BYTES: dict[int, int] = {
    QueryVariable.AUTO_INCREMENT: 4,
    QueryVariable.LC_TIME_NAMES: 2,
    QueryVariable.TABLE_MAP_FOR_UPDATE: 8,
    QueryVariable.MASTER_DATA_WRITTEN: 4,
    QueryVariable.SQL_REQUIRE_PRIMARY_KEY: 1,
    QueryVariable.DEFAULT_TABLE_ENCRYPTION: 1,
    QueryVariable.ENABLE_CASCADE_TRIGGERS: 1,
    QueryVariable.MARIADB_XID: 8,
}


def _parse_query_status(cursor: Cursor) -> QueryStatus:
    """`code[1] value` each, in growing order of code, but that MariaDB writes its 131 before 4 from 11.5 on.

    What follows a code that is not known cannot be read (a value does not say its length) and is left, as the
    servers do.
    """
    found: dict[str, int | str | bool | tuple[str, ...]] = {}
    while cursor.left:
        code = cursor.uint(1)
        if code == QueryVariable.FLAGS2:
            found["flags2"] = cursor.uint(4)
        elif code == QueryVariable.SQL_MODE:
            found["sql_mode"] = cursor.uint(8)
        elif code == QueryVariable.CATALOG:
            cursor.skip(cursor.uint(1) + 1)
        elif code == QueryVariable.CATALOG_NZ:
            cursor.skip(cursor.uint(1))
        elif code == QueryVariable.CHARSET:
            found["client_collation"] = cursor.uint(2)
            found["connection_collation"] = cursor.uint(2)
            found["server_collation"] = cursor.uint(2)
        elif code == QueryVariable.TIME_ZONE:
            found["time_zone"] = cursor.take(cursor.uint(1)).decode("utf-8", "backslashreplace")
        elif code == QueryVariable.CHARSET_DATABASE:
            found["database_collation"] = cursor.uint(2)
        elif code == QueryVariable.INVOKER:
            cursor.skip(cursor.uint(1))
            cursor.skip(cursor.uint(1))
        elif code == QueryVariable.UPDATED_DB_NAMES:
            found["updated_databases"] = _updated_databases(cursor)
        elif code in (QueryVariable.MICROSECONDS, QueryVariable.MARIADB_HRNOW):
            found["microseconds"] = cursor.uint(3)
        elif code == QueryVariable.EXPLICIT_DEFAULTS_FOR_TIMESTAMP:
            found["has_explicit_timestamp_defaults"] = bool(cursor.uint(1))
        elif code == QueryVariable.DDL_LOGGED_WITH_XID:
            found["ddl_xid"] = cursor.uint(8)
        elif code == QueryVariable.DEFAULT_COLLATION_FOR_UTF8MB4:
            found["utf8mb4_collation"] = cursor.uint(2)
        elif code == QueryVariable.MARIADB_GTID_FLAGS3:
            flags = cursor.uint(1)
            if flags & (MariadbGtidExtraFlag.COMMIT_ALTER | MariadbGtidExtraFlag.ROLLBACK_ALTER):
                cursor.skip(8)
        elif code == QueryVariable.MARIADB_CHARACTER_SET_COLLATIONS:
            cursor.skip(cursor.uint(1) * 4)
        elif code in _QUERY_VARIABLE_BYTES:
            cursor.skip(_QUERY_VARIABLE_BYTES[code])
        else:
            break
    return QueryStatus(**found)  # type: ignore[arg-type]  # the names above are the fields'


def _updated_databases(cursor: Cursor) -> tuple[str, ...]:
    """`count[1]`, then NUL-terminated names; 254 stands for "more than 16" and no names follow."""
    count = cursor.uint(1)
    if count > 16:
        return ()
    names = []
    for _ in range(count):
        raw = bytes(cursor.data[cursor.pos : cursor.end])
        length = raw.find(b"\0")
        if length < 0:
            raise cursor.fail("a database name does not end in NUL")
        names.append(_name(cursor.take(length), cursor))
        cursor.skip(1)
    return tuple(names)


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, slots=True)
class Gtid:
    """MySQL's group begin. `uuid` is None and `number` 0 for an anonymous one. Times are microseconds.

    What older servers do not send is None: the logical clock before 5.7, the times before 8.0.1.
    """

    uuid: str | None
    tag: str
    number: int
    flags: int
    last_committed: int | None = None
    sequence_number: int | None = None
    immediate_commit_us: int | None = None
    original_commit_us: int | None = None
    transaction_length: int | None = None
    immediate_server_version: int | None = None
    original_server_version: int | None = None
    commit_group_ticket: int | None = None

    @property
    def source(self) -> tuple[str, str] | None:
        """The `(uuid, tag)` that `MysqlGtidSet` counts by; None for an anonymous one."""
        return None if self.uuid is None else (self.uuid, self.tag)

    def __str__(self) -> str:
        if self.uuid is None:
            return "ANONYMOUS"
        return f"{self.uuid}:{self.tag}:{self.number}" if self.tag else f"{self.uuid}:{self.number}"


def parse_gtid(event: Event) -> Gtid:
    """A GTID, ANONYMOUS_GTID or GTID_TAGGED event.

    Untagged: `[0] flags · [1:17] uuid · [17:25] number · [25] 2 · [26:34] last committed · [34:42] sequence number ·
    immediate commit[7], its top bit says that original commit[7] follows · transaction length[lenenc] · immediate
    server version[4], its top bit likewise · commit group ticket[8]`; every server release ends it somewhere else.

    Source: MySQL control_events.cpp, Gtid_event.
    """
    if event.header.event_type == EventType.GTID_TAGGED:
        return _parse_tagged_gtid(event)
    cursor = Cursor(event.body, "GTID event")
    flags = cursor.uint(1)
    source = str(uuid.UUID(bytes=cursor.take(16)))
    number = cursor.uint(8)
    is_anonymous = event.header.event_type == EventType.ANONYMOUS_GTID
    _check_number(number, cursor, is_anonymous=is_anonymous)
    last_committed = sequence_number = immediate = original = length = None
    immediate_version = original_version = ticket = None
    if cursor.left >= 17 and cursor.uint(1) == 2:
        last_committed = cursor.uint(8)
        sequence_number = cursor.uint(8)
        if cursor.left >= 7:
            immediate = original = cursor.uint(7)
            if immediate >> 55:
                immediate &= (1 << 55) - 1
                original = cursor.uint(7)
        if cursor.left:
            length = cursor.lenenc()
        if cursor.left >= 4:
            immediate_version = original_version = cursor.uint(4)
            if immediate_version >> 31:
                immediate_version &= (1 << 31) - 1
                original_version = cursor.uint(4)
        if cursor.left >= 8:
            ticket = cursor.uint(8)
    return Gtid(
        uuid=None if is_anonymous else source,
        tag="",
        number=number,
        flags=flags,
        last_committed=last_committed,
        sequence_number=sequence_number,
        immediate_commit_us=immediate,
        original_commit_us=original,
        transaction_length=length,
        immediate_server_version=immediate_version,
        original_server_version=original_version,
        commit_group_ticket=ticket,
    )


def _check_number(number: int, cursor: Cursor, *, is_anonymous: bool) -> None:
    if is_anonymous != (number == 0) or number >= 2**63 - 1:
        raise cursor.fail(f"transaction number {number}")


# Field ids of the tagged GTID event, in the order of Gtid_event::define_fields (control_events.h).
_TAGGED_FLAGS, _TAGGED_UUID, _TAGGED_NUMBER, _TAGGED_TAG = 0, 1, 2, 3
_TAGGED_REST = (
    "last_committed",
    "sequence_number",
    "immediate_commit_us",
    "original_commit_us",
    "transaction_length",
    "immediate_server_version",
    "original_server_version",
    "commit_group_ticket",
)
_TAGGED_SIGNED = ("last_committed", "sequence_number")


def _parse_tagged_gtid(event: Event) -> Gtid:
    """mysql::serialization: `format version · message size · last field that must be known`, then `field id · value`
    in growing order of id; every number is a varlen (`Cursor.varlen`), signed ones zigzag. Strings are
    `length · bytes`; the uuid is 16 numbers, one a byte.

    Source: MySQL libs/mysql/serialization/readme.md, control_events.h Gtid_event::define_fields.
    """
    outer = Cursor(event.body, "tagged GTID event")
    version = outer.varlen()
    if version != 1:
        raise UnsupportedEvent(f"tagged GTID event of serialization format {version}; only 1 is known")
    size = outer.varlen()
    if size != outer.end:
        raise outer.fail(f"message size {size} is not the event's")
    last_needed = outer.varlen()
    known_last = _TAGGED_TAG + len(_TAGGED_REST)
    if last_needed > known_last:
        raise UnsupportedEvent(f"tagged GTID event needs field {last_needed}; {known_last} is the last one known")
    flags = number = 0
    source = tag = ""
    rest: dict[str, int] = {}
    previous = -1
    while outer.left:
        field_id = outer.varlen()
        if field_id <= previous:
            raise outer.fail(f"field {field_id} after field {previous}")
        previous = field_id
        if field_id > known_last:
            break  # of a later release, and ignorable by `last_needed`
        if field_id == _TAGGED_FLAGS:
            flags = outer.varlen()
        elif field_id == _TAGGED_UUID:
            source = _uuid_of_numbers(outer)
        elif field_id == _TAGGED_NUMBER:
            number = _zigzag(outer.varlen())
        elif field_id == _TAGGED_TAG:
            tag = _tag(outer.take(outer.varlen()), outer)
        else:
            name = _TAGGED_REST[field_id - _TAGGED_TAG - 1]
            value = outer.varlen()
            rest[name] = _zigzag(value) if name in _TAGGED_SIGNED else value
    if not source:
        raise outer.fail("no uuid")
    if number < 0:
        raise outer.fail(f"transaction number {number}")
    _check_number(number, outer, is_anonymous=False)
    # What is equal on both servers is written once.
    if "immediate_commit_us" in rest:
        rest.setdefault("original_commit_us", rest["immediate_commit_us"])
    if "immediate_server_version" in rest:
        rest.setdefault("original_server_version", rest["immediate_server_version"])
    return Gtid(source, tag, number, flags, **rest)


def _uuid_of_numbers(cursor: Cursor) -> str:
    numbers = [cursor.varlen() for _ in range(16)]
    if max(numbers) > 255:
        raise cursor.fail("a uuid byte above 255")
    return str(uuid.UUID(bytes=bytes(numbers)))


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def _tag(raw: bytes, cursor: Cursor) -> str:
    if len(raw) > 32:
        raise cursor.fail(f"tag of {len(raw)} bytes")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise cursor.fail(f"tag {raw.hex()} is not ASCII") from None


@dataclass(frozen=True, slots=True)
class PreviousGtids:
    """The set that the server had executed before this file."""

    executed: MysqlGtidSet


def parse_previous_gtids(event: Event) -> PreviousGtids:
    """The binary form of `MysqlGtidSet.encode`: `source count[8]`, then per source `uuid[16] interval count[8]` and
    `first[8] end[8]`. With tags the top byte is 1, the count in bytes 1 to 6, and a tag follows each uuid.

    Source: MySQL sql/rpl_gtid_set.cc, Gtid_set::add_gtid_encoding.
    """
    cursor = Cursor(event.body, "previous GTIDs event")
    head = cursor.uint(8)
    form = head >> 56
    if form > 1:
        raise UnsupportedEvent(f"GTID set of encoding {form}; only 0 and 1 are known")
    count = (head >> 8) & 0xFFFFFFFFFFFF if form else head
    found: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}
    # No loop below can run longer than the event has bytes: each turn reads some.
    for _ in range(count):
        source = str(uuid.UUID(bytes=cursor.take(16)))
        tag = _tag(cursor.take(cursor.varlen()), cursor) if form else ""
        spans: list[tuple[int, int]] = []
        for _ in range(cursor.uint(8)):
            first, end = cursor.uint(8), cursor.uint(8)
            if not 0 < first < end < 2**63 or (spans and first <= spans[-1][1]):
                raise cursor.fail(f"interval {first} to {end}")
            spans.append((first, end - 1))
        if (source, tag) in found:
            raise cursor.fail(f"{source}:{tag} stands twice")
        if spans:
            found[source, tag] = tuple(spans)
    cursor.expect_end()
    return PreviousGtids(MysqlGtidSet(found))


@dataclass(frozen=True, slots=True)
class MariadbGtid:
    """MariaDB's group begin. `server_id` is the header's. A STANDALONE group is one statement without COMMIT.

    `alter_sequence` is the GTID sequence of the START ALTER that a COMMIT or ROLLBACK ALTER ends.
    """

    domain: int
    server_id: int
    sequence: int
    flags: int
    extra_flags: int = 0
    commit_id: int | None = None
    xa: Xa | None = None
    alter_sequence: int | None = None
    thread_id: int | None = None

    @property
    def is_standalone(self) -> bool:
        """Is the group one statement, with no commit after it?"""
        return bool(self.flags & MariadbGtidFlag.STANDALONE)

    @property
    def is_ddl(self) -> bool:
        """Does it hold DDL?"""
        return bool(self.flags & MariadbGtidFlag.DDL)

    def __str__(self) -> str:
        return f"{self.domain}-{self.server_id}-{self.sequence}"


def parse_mariadb_gtid(event: Event) -> MariadbGtid:
    """`[0:8] sequence · [8:12] domain · [12] flags · commit id[8] if GROUP_COMMIT_ID · format id[4] gtrid length[1]
    bqual length[1] both if an XA flag · extra flags[1] · extra engines[1] if MULTI_ENGINE · sequence of the start[8]
    if COMMIT or ROLLBACK ALTER · thread id[4] if THREAD_ID`, padded with zeroes to at least 19 bytes

    Source: MariaDB sql/log_event.cc, Gtid_log_event::Gtid_log_event.
    """
    cursor = Cursor(event.body, "MariaDB GTID event")
    sequence, domain, flags = cursor.uint(8), cursor.uint(4), cursor.uint(1)
    commit_id = cursor.uint(8) if flags & MariadbGtidFlag.GROUP_COMMIT_ID else None
    xa = None
    if flags & (MariadbGtidFlag.PREPARED_XA | MariadbGtidFlag.COMPLETED_XA):
        format_id = _signed32(cursor.uint(4))
        global_bytes, branch_bytes = cursor.uint(1), cursor.uint(1)
        xa = _xa(cursor, format_id, global_bytes, branch_bytes)
    extra = cursor.uint(1) if cursor.left else 0
    if extra & ~sum(MariadbGtidExtraFlag):
        raise UnsupportedEvent(f"MariaDB GTID event {domain}-{event.header.server_id}-{sequence}: flags {extra:#x}")
    if extra & MariadbGtidExtraFlag.MULTI_ENGINE:
        cursor.skip(1)
    ends_alter = extra & (MariadbGtidExtraFlag.COMMIT_ALTER | MariadbGtidExtraFlag.ROLLBACK_ALTER)
    alter_sequence = cursor.uint(8) if ends_alter else None
    thread_id = cursor.uint(4) if extra & MariadbGtidExtraFlag.THREAD_ID else None
    return MariadbGtid(
        domain=domain,
        server_id=event.header.server_id,
        sequence=sequence,
        flags=flags,
        extra_flags=extra,
        commit_id=commit_id,
        xa=xa,
        alter_sequence=alter_sequence,
        thread_id=thread_id,
    )


def _signed32(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def _xa(cursor: Cursor, format_id: int, global_bytes: int, branch_bytes: int) -> Xa:
    if global_bytes > 64 or branch_bytes > 64:
        raise cursor.fail(f"XA name of {global_bytes} and {branch_bytes} bytes")
    return Xa(format_id, cursor.take(global_bytes), cursor.take(branch_bytes))


@dataclass(frozen=True, slots=True)
class MariadbGtidListEvent:
    """The state before a file: `(domain, server id, sequence)`; where a domain stands several times, the last counts.

    `is_until_reached` marks the made-up one that ends a stream with an UNTIL condition.
    """

    entries: tuple[tuple[int, int, int], ...]
    is_until_reached: bool = False

    @property
    def positions(self) -> MariadbGtidList:
        """One position a domain: the newest (the server writes it last)."""
        return MariadbGtidList({domain: (server, sequence) for domain, server, sequence in self.entries})


def parse_mariadb_gtid_list(event: Event) -> MariadbGtidListEvent:
    """`[0:4] count (low 28 bits) and flags`, then `domain[4] server id[4] sequence[8]` each."""
    cursor = Cursor(event.body, "MariaDB GTID list event")
    head = cursor.uint(4)
    count = head & 0x0FFFFFFF
    if count * 16 > cursor.left:
        raise cursor.fail(f"{count} entries do not fit")
    entries = tuple((cursor.uint(4), cursor.uint(4), cursor.uint(8)) for _ in range(count))
    return MariadbGtidListEvent(entries, is_until_reached=bool(head & 0x10000000))


@dataclass(frozen=True, slots=True)
class Xid:
    """The group is committed."""

    xid: int


def parse_xid(event: Event) -> Xid:
    """`[0:8] the engine's transaction number`"""
    cursor = Cursor(event.body, "XID event")
    xid = cursor.uint(8)
    cursor.expect_end()
    return Xid(xid)


@dataclass(frozen=True, slots=True)
class XaPrepare:
    """The group is an XA transaction that is now prepared; or committed, when `is_one_phase`."""

    xa: Xa
    is_one_phase: bool


def parse_xa_prepare(event: Event) -> XaPrepare:
    """`[0] one phase · [1:5] format id · [5:9] gtrid length · [9:13] bqual length · both`"""
    cursor = Cursor(event.body, "XA prepare event")
    is_one_phase = bool(cursor.uint(1))
    format_id, global_bytes, branch_bytes = _signed32(cursor.uint(4)), cursor.uint(4), cursor.uint(4)
    return XaPrepare(_xa(cursor, format_id, global_bytes, branch_bytes), is_one_phase)


# ---------------------------------------------------------------- rows


class RowsKind(enum.Enum):
    """What a rows event does."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


_ROWS_KINDS: dict[int, tuple[RowsKind, int]] = {  # kind and version of the layout
    EventType.WRITE_ROWS_V1: (RowsKind.INSERT, 1),
    EventType.UPDATE_ROWS_V1: (RowsKind.UPDATE, 1),
    EventType.DELETE_ROWS_V1: (RowsKind.DELETE, 1),
    EventType.WRITE_ROWS: (RowsKind.INSERT, 2),
    EventType.UPDATE_ROWS: (RowsKind.UPDATE, 2),
    EventType.DELETE_ROWS: (RowsKind.DELETE, 2),
    EventType.PARTIAL_UPDATE_ROWS: (RowsKind.UPDATE, 2),
    EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1: (RowsKind.INSERT, 1),
    EventType.MARIADB_UPDATE_ROWS_COMPRESSED_V1: (RowsKind.UPDATE, 1),
    EventType.MARIADB_DELETE_ROWS_COMPRESSED_V1: (RowsKind.DELETE, 1),
    EventType.MARIADB_WRITE_ROWS_COMPRESSED: (RowsKind.INSERT, 2),
    EventType.MARIADB_UPDATE_ROWS_COMPRESSED: (RowsKind.UPDATE, 2),
    EventType.MARIADB_DELETE_ROWS_COMPRESSED: (RowsKind.DELETE, 2),
}
# MariaDB's compressed rows events, and what they are inside.
_UNCOMPRESSED_TYPES: dict[int, EventType] = {
    EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1: EventType.WRITE_ROWS_V1,
    EventType.MARIADB_UPDATE_ROWS_COMPRESSED_V1: EventType.UPDATE_ROWS_V1,
    EventType.MARIADB_DELETE_ROWS_COMPRESSED_V1: EventType.DELETE_ROWS_V1,
    EventType.MARIADB_WRITE_ROWS_COMPRESSED: EventType.WRITE_ROWS,
    EventType.MARIADB_UPDATE_ROWS_COMPRESSED: EventType.UPDATE_ROWS,
    EventType.MARIADB_DELETE_ROWS_COMPRESSED: EventType.DELETE_ROWS,
}


@dataclass(frozen=True, slots=True)
class RowsEvent:
    """One rows event with its images still as bytes.

    `present_before` and `present_after` are bitmaps of the columns that its images hold, bit 0 the first column;
    0 where there is no such image. `is_partial` marks PARTIAL_UPDATE_ROWS, whose after images are of another form.
    """

    kind: RowsKind
    table_id: int
    flags: int
    column_count: int
    present_before: int
    present_after: int
    rows: bytes
    is_partial: bool = False

    @property
    def is_statement_end(self) -> bool:
        """Is it the last rows event of its statement?"""
        return bool(self.flags & RowsFlag.STMT_END)


def parse_rows(event: Event) -> RowsEvent:
    """Everything of a rows event but the images; compressed ones are inflated.

    `[0:6] table id · [6:8] flags · v2: extra length[2], which counts itself, and extra info · column count[lenenc] ·
    bitmap of present columns[(n+7)/8], in updates a second one · images`
    """
    try:
        kind, version = _ROWS_KINDS[event.header.event_type]
    except KeyError:
        raise UnsupportedEvent(f"{event.header.type_name} is not a rows event that is known") from None
    cursor = Cursor(event.body, f"{event.header.type_name} event")
    table_id = cursor.uint(6)
    flags = cursor.uint(2)
    if version == 2:
        extra_bytes = cursor.uint(2)
        if extra_bytes < 2:
            raise cursor.fail(f"extra info of {extra_bytes} bytes")
        cursor.skip(extra_bytes - 2)  # partition numbers, NDB's: nothing that changes the rows
    count = cursor.lenenc()
    if count > COLUMN_COUNT_MAX:
        raise cursor.fail(f"{count} columns")
    first = _bitmap(cursor, count)
    second = _bitmap(cursor, count) if kind is RowsKind.UPDATE else 0
    rows = cursor.rest()
    if event.header.event_type >= EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1:
        rows = _inflate_record(rows, PAYLOAD_BYTES_MAX)
    return RowsEvent(
        kind=kind,
        table_id=table_id,
        flags=flags,
        column_count=count,
        present_before=0 if kind is RowsKind.INSERT else first,
        present_after=first if kind is RowsKind.INSERT else second,
        rows=rows,
        is_partial=event.header.event_type == EventType.PARTIAL_UPDATE_ROWS,
    )


def uncompressed_rows_event(event: Event) -> bytes | None:
    """A compressed rows event (MariaDB) as the one that the server would have written without compression, from its
    header on, without checksum and end position; None for any other event.
    """
    plain_type = _UNCOMPRESSED_TYPES.get(event.header.event_type)
    if plain_type is None:
        return None
    cursor = Cursor(event.body, f"{event.header.type_name} event")
    kind, version = _ROWS_KINDS[event.header.event_type]
    cursor.skip(8)
    if version == 2:
        extra_bytes = cursor.uint(2)
        if extra_bytes < 2:
            raise cursor.fail(f"extra info of {extra_bytes} bytes")
        cursor.skip(extra_bytes - 2)
    count = cursor.lenenc()
    if count > COLUMN_COUNT_MAX:
        raise cursor.fail(f"{count} columns")
    cursor.skip((count + 7) // 8 * (2 if kind is RowsKind.UPDATE else 1))
    head = bytes(event.body[: cursor.pos])
    body = head + _inflate_record(cursor.rest(), PAYLOAD_BYTES_MAX)
    header = event.header
    size = EVENT_HEADER_BYTES + len(body)
    return struct.pack("<IBIIIH", header.timestamp, plain_type, header.server_id, size, 0, header.flags) + body


def _bitmap(cursor: Cursor, count: int) -> int:
    """A bitmap of `count` bits; MariaDB sets the unused ones of the last byte."""
    return cursor.uint((count + 7) // 8) & ((1 << count) - 1)


def _inflate_record(record: bytes, bytes_max: int) -> bytes:
    """MariaDB's compressed record.

    `[0] bit 7 set, bits 4 to 6 the algorithm (0 zlib), bits 0 to 2 the length's length · original length,
    big-endian · zlib stream`
    Source: MariaDB sql/log_event.cc, binlog_buf_uncompress.
    """
    cursor = Cursor(record, "compressed record")
    head = cursor.uint(1)
    length_bytes = head & 0x07
    if head & 0xF8 != 0x80 or not 1 <= length_bytes <= 4:
        raise cursor.fail(f"head {head:#x} is not zlib")
    size = int.from_bytes(cursor.take(length_bytes), "big")
    if size > bytes_max:
        raise cursor.fail(f"{size} bytes declared, {bytes_max} allowed")
    return inflate(cursor.rest(), size, "compressed record")


def inflate(packed: bytes, size: int, what: str, *, window_bits: int = zlib.MAX_WBITS) -> bytes:
    """Inflate to exactly `size` bytes.

    The output grows with what the stream really holds: neither a lying size nor a lying stream makes us allocate.
    Raises MalformedEvent when the stream is damaged, or holds more or fewer bytes.
    """
    stream = zlib.decompressobj(window_bits)
    pieces = []
    count = 0
    try:
        while count <= size and not stream.eof:
            piece = stream.decompress(packed, min(_INFLATE_CHUNK_BYTES, size + 1 - count))
            packed = stream.unconsumed_tail
            if not piece and not packed:
                break
            pieces.append(piece)
            count += len(piece)
    except zlib.error as error:
        raise MalformedEvent(f"{what}: {error}") from error
    if count != size or not stream.eof or stream.unused_data:
        raise MalformedEvent(f"{what}: {size} bytes declared, {'more than ' if count > size else ''}{count} found")
    return b"".join(pieces)


# ---------------------------------------------------------------- compressed transactions


@dataclass(frozen=True, slots=True)
class TransactionPayload:
    """A whole transaction in one event: all but its GTID. `compression` is 0 for zstd, 255 for none."""

    compression: int
    uncompressed_size: int | None
    payload: memoryview | bytes


_PAYLOAD_ZSTD, _PAYLOAD_PLAIN = 0, 255


def parse_transaction_payload(event: Event) -> TransactionPayload:
    """Fields `type[lenenc] length[lenenc] value[lenenc]`: 1 is the payload's size, 2 the compression, 3 the size
    uncompressed; type 0 ends them, and the payload follows.

    Source: MySQL codecs/binary.cpp, Transaction_payload::decode.
    """
    cursor = Cursor(event.body, "transaction payload event")
    found: dict[int, int] = {}
    while True:
        kind = cursor.lenenc()
        if kind == 0:
            break
        value = cursor.window(cursor.lenenc(), "transaction payload field")
        if kind in (1, 2, 3):
            found[kind] = value.lenenc()
    if 1 not in found or 2 not in found:
        raise cursor.fail("no payload size or compression type")
    if found[2] not in (_PAYLOAD_ZSTD, _PAYLOAD_PLAIN):
        raise UnsupportedEvent(f"transaction payload compressed by algorithm {found[2]}; only zstd is known")
    if found[1] != cursor.left:
        raise cursor.fail(f"payload of {found[1]} bytes, {cursor.left} are there")
    return TransactionPayload(found[2], found.get(3), event.body[cursor.pos :])


def payload_events(payload: TransactionPayload, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> Iterator[Event]:
    """The events inside, one at a time, inflated as they are asked for: only one is in memory.

    They have no checksum, and 0 for a position: the position of all of them is the payload event's.

    Raises:
        MalformedEvent: the payload is damaged, ends inside an event, is not of the declared size, or holds another
            payload.
        UnsupportedEvent: it is larger than `payload_bytes_max`.
    """
    if (payload.uncompressed_size or 0) > payload_bytes_max:
        raise UnsupportedEvent(
            f"transaction payload of {payload.uncompressed_size} bytes; payload_bytes_max is {payload_bytes_max}"
        )
    stream = _payload_stream(payload)
    count = 0
    while True:
        head = _read_payload(stream, EVENT_HEADER_BYTES)
        if not head:
            break
        if len(head) < EVENT_HEADER_BYTES:
            raise MalformedEvent(f"transaction payload ends inside an event header, at byte {count}")
        header = parse_header(head)
        if not EVENT_HEADER_BYTES <= header.event_size <= EVENT_BYTES_MAX:
            raise MalformedEvent(f"transaction payload: event at byte {count} says {header.event_size} bytes")
        count += header.event_size
        if count > payload_bytes_max:
            raise UnsupportedEvent(f"transaction payload grows past payload_bytes_max, {payload_bytes_max} bytes")
        if header.event_type == EventType.TRANSACTION_PAYLOAD:
            raise MalformedEvent("transaction payload holds a transaction payload")
        body = _read_payload(stream, header.event_size - EVENT_HEADER_BYTES)
        if len(body) != header.event_size - EVENT_HEADER_BYTES:
            raise MalformedEvent(f"transaction payload ends inside its {header.type_name} event, at byte {count}")
        yield Event(header, body)
    if payload.uncompressed_size is not None and count != payload.uncompressed_size:
        raise MalformedEvent(f"transaction payload: {payload.uncompressed_size} bytes declared, {count} found")


def inflated_payload(
    payload: TransactionPayload, *, payload_bytes_max: int | None = None, piece_bytes: int = _INFLATE_CHUNK_BYTES
) -> Iterator[bytes]:
    """The bytes of the events inside, in pieces of at most `piece_bytes`, inflated as they are asked for.

    A transaction may be of any size: servers limit what it takes compressed. Each event in it has its own limit.

    Raises:
        MalformedEvent: the payload is damaged, or not of the declared size.
        UnsupportedEvent: it is larger than `payload_bytes_max`.
    """
    declared = payload.uncompressed_size
    stream = _payload_stream(payload)
    count = 0
    while piece := _read_payload(stream, piece_bytes):
        count += len(piece)
        if payload_bytes_max is not None and count > payload_bytes_max:
            raise UnsupportedEvent(f"transaction payload grows past payload_bytes_max, {payload_bytes_max} bytes")
        yield piece
    if declared is not None and count != declared:
        raise MalformedEvent(f"transaction payload: {declared} bytes declared, {count} found")


def _payload_stream(payload: TransactionPayload) -> BinaryIO:
    source = pa.BufferReader(pa.py_buffer(payload.payload))
    if payload.compression == _PAYLOAD_PLAIN:
        return source  # type: ignore[no-any-return]  # pyarrow has no type information
    return pa.CompressedInputStream(source, "zstd")  # type: ignore[no-any-return]


def _read_payload(stream: BinaryIO, size: int) -> bytes:
    try:
        return read_up_to(stream, size)
    except (OSError, pa.ArrowException) as error:
        raise MalformedEvent(f"transaction payload: {error}") from error
