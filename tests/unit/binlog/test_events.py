"""Events: what each parser reads out of bytes built from values; nothing but a ProtocolError comes of others."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.constants import EventFlag, EventType
from cdc.binlog.events import (
    EventClass,
    Gtid,
    Heartbeat,
    MariadbGtid,
    Query,
    Rotate,
    RowsKind,
    Xa,
    classify,
    parse_gtid,
    parse_heartbeat,
    parse_incident,
    parse_mariadb_gtid,
    parse_mariadb_gtid_list,
    parse_previous_gtids,
    parse_query,
    parse_rotate,
    parse_rows,
    parse_transaction_payload,
    parse_xa_prepare,
    parse_xid,
    payload_events,
)
from cdc.binlog.framing import Event
from cdc.binlog.table_map import parse_table_map
from cdc.errors import MalformedEvent, ProtocolError, UnsupportedEvent
from cdc.gtid import MysqlGtidSet
from tests.support.binlog_build import columns_of_every_kind, event_bytes, framed, lenenc, rows_body, table_map_body

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
UUID_BYTES = uuid.UUID(UUID).bytes

# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("event_type", list(EventType))
def test_every_event_type_has_a_class(event_type: EventType) -> None:
    refused = {
        EventType.START_V3,
        EventType.LOAD,
        EventType.SLAVE,
        EventType.CREATE_FILE,
        EventType.EXEC_LOAD,
        EventType.NEW_LOAD,
        EventType.PRE_GA_WRITE_ROWS,
        EventType.PRE_GA_UPDATE_ROWS,
        EventType.PRE_GA_DELETE_ROWS,
    }
    assert (classify(event_type, 0) is EventClass.UNKNOWN) == (event_type in refused)


@pytest.mark.parametrize("event_type", [0, 43, 100, 159, 172, 200, 255])
def test_an_event_type_that_is_not_known_stops_unless_its_writer_says_it_may_be_skipped(event_type: int) -> None:
    assert classify(event_type, 0) is EventClass.UNKNOWN
    assert classify(event_type, EventFlag.IGNORABLE) is EventClass.IGNORABLE


def test_the_ignorable_flag_does_not_make_data_skippable() -> None:
    assert classify(EventType.WRITE_ROWS, EventFlag.IGNORABLE) is EventClass.ROWS


# ---------------------------------------------------------------- files


def test_rotate() -> None:
    body = (4).to_bytes(8, "little") + b"binlog.1000000"
    assert parse_rotate(framed(EventType.ROTATE, body)) == Rotate("binlog.1000000", 4, is_artificial=False)
    assert parse_rotate(framed(EventType.ROTATE, body, flags=EventFlag.ARTIFICIAL)).is_artificial


@pytest.mark.parametrize("body", [b"", bytes(7), bytes(8), bytes(8) + b"x" * 512, bytes(8) + b"\xff\xfe"])
def test_rotates_without_a_sane_name_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_rotate(framed(EventType.ROTATE, body))


def test_heartbeats_of_both_forms() -> None:
    first = framed(EventType.HEARTBEAT, b"binlog.000007", log_pos=4000)
    assert parse_heartbeat(first) == Heartbeat("binlog.000007", 4000)
    body = b"\1\x0dbinlog.000007\2\x09" + lenenc(5_000_000_000) + b"\0"
    assert parse_heartbeat(framed(EventType.HEARTBEAT_V2, body)) == Heartbeat("binlog.000007", 5_000_000_000)
    body = b"\x09\3abc\1\x01a\2\1\x04\0"  # a field of a later release first
    assert parse_heartbeat(framed(EventType.HEARTBEAT_V2, body)) == Heartbeat("a", 4)


@pytest.mark.parametrize("body", [b"", b"\0", b"\1\x01a\0", b"\2\1\x04\0", b"\1\xffa", b"\1\x05a", b"\1\1a\2\1\1\0"])
def test_heartbeats_cut_short_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_heartbeat(framed(EventType.HEARTBEAT_V2, body))


def test_a_heartbeat_before_the_first_event_is_malformed() -> None:
    with pytest.raises(MalformedEvent, match="before any event"):
        parse_heartbeat(framed(EventType.HEARTBEAT, b"binlog.000001", log_pos=3))


def test_incident() -> None:
    notice = parse_incident(framed(EventType.INCIDENT, b"\1\0\4oops"))
    assert (notice.number, notice.message) == (1, "oops")


# ---------------------------------------------------------------- statements


def query_body(
    statement: bytes, status: bytes = b"", database: bytes = b"shop", *, error: int = 0, terminator: bytes = b"\0"
) -> bytes:
    head = struct.pack("<IIBHH", 11, 2, len(database), error, len(status))
    return head + status + database + terminator + statement


def query(statement: bytes, status: bytes = b"", **fields: Any) -> Query:
    return parse_query(framed(EventType.QUERY, query_body(statement, status, **fields)))


def test_a_statement_with_its_settings() -> None:
    status = (
        b"\0\1\0\0\0"
         b"\1" + (4).to_bytes(8, "little")
        + b"\6\3std"
        + b"\3\1\0\1\0"
        + b"\4" + struct.pack("<HHH", 28, 33, 255)
        + b"\5\6+03:00"
        + b"\7\1\0"
        + b"\x08" + (8).to_bytes(2, "little")
        + b"\x0c\2a\0b\0"
        + b"\x0d" + (123456).to_bytes(3, "little")
        + b"\x10\1"
        + b"\x11" + (77).to_bytes(8, "little")
        + b"\x12\xff\0"
        + b"\x13\0\x14\1"
    )  # fmt: skip
    found = query("CREATE TABLE 表 (a INT)".encode("gbk"), status, error=1)
    assert (found.statement, found.is_exact, found.database) == ("CREATE TABLE 表 (a INT)", True, "shop")
    assert (found.thread_id, found.execution_seconds, found.error_code) == (11, 2, 1)
    one = found.status
    assert (one.flags2, one.sql_mode, one.client_collation, one.connection_collation) == (1, 4, 28, 33)
    assert (one.server_collation, one.database_collation, one.utf8mb4_collation) == (255, 8, 255)
    assert (one.time_zone, one.microseconds, one.ddl_xid) == ("+03:00", 123456, 77)
    assert (one.updated_databases, one.has_explicit_timestamp_defaults) == (("a", "b"), True)


def test_more_databases_than_are_counted_are_not_named() -> None:
    assert query(b"x", b"\x0c\xfe\x0d\1\0\0").status.microseconds == 1


def test_mariadbs_variables_may_come_before_the_charset() -> None:
    status = b"\x83\2" + bytes(8) + b"\4" + struct.pack("<HHH", 8, 8, 8) + b"\x80\1\2\3\x81" + bytes(8)
    status += b"\x82\4" + bytes(8)
    found = query("é".encode("cp1252"), status)
    assert (found.statement, found.status.client_collation, found.status.microseconds) == ("é", 8, 0x030201)


def test_what_follows_a_variable_that_is_not_known_is_left() -> None:
    assert query(b"SELECT 1", b"\xf0whatever").statement == "SELECT 1"


def test_bytes_that_are_no_text_are_shown_and_said() -> None:
    found = query(b"INSERT x'\xff'", b"\4" + struct.pack("<HHH", 255, 255, 255))
    assert (found.statement, found.is_exact, found.statement_bytes) == ("INSERT x'\\xff'", False, b"INSERT x'\xff'")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        query_body(b"")[:-1],
        query_body(b"x", terminator=b"!"),
        query_body(b"x", database=b"\xff"),
        query_body(b"x", b"\1\0\0"),
        query_body(b"x", b"\5\xff+"),
        query_body(b"x", b"\x0c\1a"),
        query_body(b"x")[:11] + b"\xff\xff" + query_body(b"x")[13:],
    ],
)
def test_statements_that_do_not_fit_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_query(framed(EventType.QUERY, body))


def record(raw: bytes, size: int | None = None, length_bytes: int = 2) -> bytes:
    """MariaDB's compressed record."""
    length = (len(raw) if size is None else size).to_bytes(length_bytes, "big")
    return bytes((0x80 | length_bytes,)) + length + zlib.compress(raw)


def test_a_compressed_statement() -> None:
    body = query_body(record(b"SELECT 1"))
    assert parse_query(framed(EventType.MARIADB_QUERY_COMPRESSED, body)).statement == "SELECT 1"


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x82",
        b"\x02\0\x01" + zlib.compress(b"a"),  # not marked as compressed
        b"\x92\0\x01" + zlib.compress(b"a"),  # another algorithm
        b"\x80" + zlib.compress(b"a"),
        b"\x85\0\0\0\0\x01" + zlib.compress(b"a"),
        record(b"abc", 2),
        record(b"abc", 4),
        record(b"abc") + b"!",
        record(b"abc")[:-2],
        record(bytes(10_000_000), 5),  # a bomb
        record(b"abc", 2**31, 4),  # more than an event can be
    ],
)
def test_damaged_compressed_statements_are_malformed(packed: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_query(framed(EventType.MARIADB_QUERY_COMPRESSED, query_body(packed)))


# ---------------------------------------------------------------- groups


def gtid_body(number: int = 5, tail: bytes = b"") -> bytes:
    return b"\1" + UUID_BYTES + number.to_bytes(8, "little") + tail


CLOCK = b"\2" + (3).to_bytes(8, "little") + (4).to_bytes(8, "little")
TIME = 1_700_000_000_123_456


def test_gtids_of_every_release() -> None:
    of_56 = parse_gtid(framed(EventType.GTID, gtid_body()))
    assert of_56 == Gtid(UUID, "", 5, 1)
    assert str(of_56) == f"{UUID}:5"
    of_57 = parse_gtid(framed(EventType.GTID, gtid_body(5, CLOCK)))
    assert of_57 == Gtid(UUID, "", 5, 1, 3, 4)
    both = (TIME | 1 << 55).to_bytes(7, "little") + (TIME - 1).to_bytes(7, "little") + lenenc(300)
    both += (80400 | 1 << 31).to_bytes(4, "little") + (80036).to_bytes(4, "little") + (9).to_bytes(8, "little")
    of_84 = parse_gtid(framed(EventType.GTID, gtid_body(5, CLOCK + both)))
    assert of_84 == Gtid(UUID, "", 5, 1, 3, 4, TIME, TIME - 1, 300, 80400, 80036, 9)
    once = TIME.to_bytes(7, "little") + lenenc(300) + (80400).to_bytes(4, "little")
    of_80 = parse_gtid(framed(EventType.GTID, gtid_body(5, CLOCK + once)))
    assert of_80 == Gtid(UUID, "", 5, 1, 3, 4, TIME, TIME, 300, 80400, 80400)


def test_anonymous_gtids_have_no_source() -> None:
    body = b"\0" + bytes(16) + bytes(8) + CLOCK
    found = parse_gtid(framed(EventType.ANONYMOUS_GTID, body))
    assert (found.source, found.number, str(found)) == (None, 0, "ANONYMOUS")


@pytest.mark.parametrize(
    "event_type, number", [(EventType.GTID, 0), (EventType.GTID, 2**63 - 1), (EventType.ANONYMOUS_GTID, 1)]
)
def test_impossible_transaction_numbers_are_malformed(event_type: EventType, number: int) -> None:
    with pytest.raises(MalformedEvent, match="transaction number"):
        parse_gtid(framed(event_type, gtid_body(number)))


def varlen(value: int) -> bytes:
    """mysql::serialization's number, as its document describes it."""
    for extra in range(9):
        bits = 7 * (extra + 1) if extra < 8 else 64
        if value < 1 << bits:
            if extra == 8:
                return b"\xff" + value.to_bytes(8, "little")
            number = value << (extra + 1) | ((1 << extra) - 1)
            return number.to_bytes(extra + 1, "little")
    raise AssertionError


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_mysql_serialization(value: int) -> None:
    from cdc.binlog.cursor import Cursor

    cursor = Cursor(varlen(value), "number")
    assert cursor.varlen() == value
    cursor.expect_end()


def tagged_body(fields: dict[int, bytes], *, last_needed: int = 0, version: int = 1, size: int | None = None) -> bytes:
    body = b"".join(varlen(number) + value for number, value in fields.items())
    head = varlen(version)
    for width in range(1, 4):
        whole = len(head) + width + len(varlen(last_needed)) + len(body)
        if len(varlen(whole)) == width:
            break
    return head + varlen(whole if size is None else size) + varlen(last_needed) + body


def tagged_fields(tag: bytes = b"mytag") -> dict[int, bytes]:
    return {
        0: varlen(1),
        1: b"".join(map(varlen, UUID_BYTES)),
        2: varlen(5 << 1),
        3: varlen(len(tag)) + tag,
        4: varlen(3 << 1),
        5: varlen(4 << 1),
        6: varlen(TIME),
        8: varlen(300),
        9: varlen(90704),
    }


def test_tagged_gtids_with_and_without_their_optional_fields() -> None:
    found = parse_gtid(framed(EventType.GTID_TAGGED, tagged_body(tagged_fields())))
    assert found == Gtid(UUID, "mytag", 5, 1, 3, 4, TIME, TIME, 300, 90704, 90704)
    assert (str(found), found.source) == (f"{UUID}:mytag:5", (UUID, "mytag"))
    fields = {**tagged_fields(), 7: varlen(TIME - 1), 10: varlen(80400), 11: varlen(8)}
    found = parse_gtid(framed(EventType.GTID_TAGGED, tagged_body(dict(sorted(fields.items())))))
    assert found == Gtid(UUID, "mytag", 5, 1, 3, 4, TIME, TIME - 1, 300, 90704, 80400, 8)


def test_a_tagged_gtid_with_a_field_of_a_later_release() -> None:
    fields = {**tagged_fields(), 12: b"whatever"}
    assert parse_gtid(framed(EventType.GTID_TAGGED, tagged_body(fields))).number == 5
    with pytest.raises(UnsupportedEvent, match="needs field 12"):
        parse_gtid(framed(EventType.GTID_TAGGED, tagged_body(fields, last_needed=12)))


@pytest.mark.parametrize(
    "body",
    [
        tagged_body(tagged_fields(), size=5),
        tagged_body({**tagged_fields(), 1: b"".join(map(varlen, [300] * 16))}),
        tagged_body(tagged_fields(b"x" * 33)),
        tagged_body(tagged_fields(b"\xff")),
        tagged_body({key: value for key, value in tagged_fields().items() if key != 1}),
        tagged_body({key: value for key, value in tagged_fields().items() if key != 2}),
        tagged_body({**tagged_fields(), 2: varlen(3)}),  # -2
        tagged_body({2: varlen(10), 1: b"".join(map(varlen, UUID_BYTES))}),
    ],
)
def test_tagged_gtids_that_do_not_fit_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_gtid(framed(EventType.GTID_TAGGED, body))


intervals = st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True)
gtid_sets = st.dictionaries(
    st.tuples(st.uuids().map(str), st.sampled_from(("", "a", "tag_2"))), intervals, max_size=4
).map(
    lambda found: MysqlGtidSet.parse(
        ",".join(f"{source}:{tag}:{n}" if tag else f"{source}:{n}" for (source, tag), ns in found.items() for n in ns)
    )
)


@given(gtid_sets)
def test_the_set_before_a_file_is_read_as_it_is_encoded(executed: MysqlGtidSet) -> None:
    found = parse_previous_gtids(framed(EventType.PREVIOUS_GTIDS, executed.encode())).executed
    assert str(found) == str(executed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        (1 << 40).to_bytes(8, "little"),
        (1).to_bytes(8, "little") + UUID_BYTES + (2**63).to_bytes(8, "little"),
        (1).to_bytes(8, "little") + UUID_BYTES + (1).to_bytes(8, "little") + struct.pack("<QQ", 5, 5),
        (1).to_bytes(8, "little") + UUID_BYTES + (1).to_bytes(8, "little") + struct.pack("<QQ", 0, 5),
        (1).to_bytes(8, "little") + UUID_BYTES + (2).to_bytes(8, "little") + struct.pack("<QQQQ", 5, 9, 7, 12),
        bytes(8) + b"!",
    ],
)
def test_sets_that_do_not_fit_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_previous_gtids(framed(EventType.PREVIOUS_GTIDS, body))


def mariadb_body(flags: int, tail: bytes = b"") -> bytes:
    return ((9).to_bytes(8, "little") + (2).to_bytes(4, "little") + bytes((flags,)) + tail).ljust(19, b"\0")


def test_mariadb_gtids() -> None:
    found = parse_mariadb_gtid(framed(EventType.MARIADB_GTID, mariadb_body(0x29), server_id=7))
    assert found == MariadbGtid(2, 7, 9, 0x29)
    assert (str(found), found.is_standalone, found.is_ddl) == ("2-7-9", True, True)
    grouped = parse_mariadb_gtid(framed(EventType.MARIADB_GTID, mariadb_body(2, (77).to_bytes(8, "little"))))
    assert grouped.commit_id == 77
    named = b"\7\0\0\0\2\1abc"
    prepared = parse_mariadb_gtid(framed(EventType.MARIADB_GTID, mariadb_body(0x40, named)))
    assert prepared.xa == Xa(7, b"ab", b"c")
    alter = b"\x14" + (4).to_bytes(8, "little") + (5).to_bytes(4, "little")
    committed = parse_mariadb_gtid(framed(EventType.MARIADB_GTID, mariadb_body(1, alter)))
    assert (committed.extra_flags, committed.alter_sequence, committed.thread_id) == (0x14, 4, 5)


@pytest.mark.parametrize(
    "body", [b"", bytes(12), bytes(12) + b"\2", bytes(12) + b"\x40", bytes(12) + b"\x40\0\0\0\0\x41\0" + bytes(80)]
)
def test_mariadb_gtids_that_promise_more_than_is_there_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_mariadb_gtid(framed(EventType.MARIADB_GTID, body))


def test_extra_flags_of_a_later_mariadb_stop() -> None:
    with pytest.raises(UnsupportedEvent, match="flags 0x20"):
        parse_mariadb_gtid(framed(EventType.MARIADB_GTID, mariadb_body(0, b"\x20")))


def test_mariadb_gtid_lists() -> None:
    body = (2 | 1 << 28).to_bytes(4, "little") + struct.pack("<IIQIIQ", 0, 1, 5, 0, 2, 9)
    found = parse_mariadb_gtid_list(framed(EventType.MARIADB_GTID_LIST, body))
    assert (str(found.positions), found.is_until_reached) == ("0-2-9", True)
    with pytest.raises(MalformedEvent):
        parse_mariadb_gtid_list(framed(EventType.MARIADB_GTID_LIST, b"\xff\xff\xff\x0f"))


def test_xid_and_xa_prepare() -> None:
    assert parse_xid(framed(EventType.XID, (2**63).to_bytes(8, "little"))).xid == 2**63
    body = b"\1" + struct.pack("<iII", -1, 3, 1) + b"abcd"
    found = parse_xa_prepare(framed(EventType.XA_PREPARE, body))
    assert (str(found.xa), found.is_one_phase) == ("X'616263',X'64',-1", True)
    with pytest.raises(MalformedEvent):
        parse_xa_prepare(framed(EventType.XA_PREPARE, b"\1" + struct.pack("<iII", 1, 65, 1) + bytes(66)))


# ---------------------------------------------------------------- rows


COLUMNS = columns_of_every_kind()[:3]


def test_rows_events_of_both_versions() -> None:
    row = (1, 2, 3)
    second = parse_rows(framed(EventType.UPDATE_ROWS, rows_body(COLUMNS, [row, row], is_update=True)))
    assert (second.kind, second.table_id, second.column_count) == (RowsKind.UPDATE, 77, 3)
    assert (second.present_before, second.present_after) == (7, 7)  # the unused bits are not taken
    assert second.is_statement_end
    first = parse_rows(framed(EventType.DELETE_ROWS_V1, rows_body(COLUMNS, [row], version=1, flags=0)))
    assert (first.kind, first.present_before, first.present_after) == (RowsKind.DELETE, 7, 0)
    assert not first.is_statement_end
    assert first.rows == second.rows[: len(first.rows)]


def test_extra_row_info_is_passed_over() -> None:
    """Its length counts itself."""
    plain = parse_rows(framed(EventType.WRITE_ROWS, rows_body(COLUMNS, [(1, 2, 3)])))
    with_info = parse_rows(framed(EventType.WRITE_ROWS, rows_body(COLUMNS, [(1, 2, 3)], extra=b"\1\0\3\0\2\0")))
    assert plain == with_info


def test_compressed_rows() -> None:
    plain = rows_body(COLUMNS, [(1, 2, 3)], version=1)
    head = len(rows_body(COLUMNS, [], version=1))
    packed = plain[:head] + record(plain[head:])
    found = parse_rows(framed(EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1, packed))
    assert found == parse_rows(framed(EventType.WRITE_ROWS_V1, plain))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(9),
        bytes(8) + b"\1\0" + bytes(10),  # extra info shorter than its length
        bytes(8) + b"\xff\xff" + bytes(10),
        bytes(8) + b"\2\0" + b"\xfd\0\0\1",  # 65536 columns
        bytes(8) + b"\2\0" + b"\xfe" + b"\xff" * 8,
        bytes(8) + b"\2\0\x64\xff",  # bitmap shorter than the columns
        bytes(8) + b"\2\0\xff",
    ],
)
def test_rows_events_that_do_not_fit_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_rows(framed(EventType.WRITE_ROWS, body))


def test_pre_ga_rows_are_refused() -> None:
    with pytest.raises(UnsupportedEvent, match="PRE_GA_WRITE_ROWS"):
        parse_rows(framed(EventType.PRE_GA_WRITE_ROWS, bytes(20)))


# ---------------------------------------------------------------- compressed transactions


INNER = [
    event_bytes(EventType.QUERY, query_body(b"BEGIN"), checksum=False, log_pos=0),
    event_bytes(EventType.XID, bytes(8), checksum=False, log_pos=0),
]


def payload_body(
    plain: bytes, *, declared: int | None = -1, compression: int = 0, packed: bytes | None = None, extra: bytes = b""
) -> bytes:
    if packed is None:
        packed = pa.compress(plain, codec="zstd", asbytes=True) if compression == 0 else plain
    body = b"\2" + lenenc(len(lenenc(compression))) + lenenc(compression)
    if declared is not None:
        size = lenenc(len(plain) if declared == -1 else declared)
        body += b"\3" + lenenc(len(size)) + size
    size = lenenc(len(packed))
    return body + b"\1" + lenenc(len(size)) + size + extra + b"\0" + packed


def inner_of(body: bytes, **limits: int) -> list[Event]:
    return list(payload_events(parse_transaction_payload(framed(EventType.TRANSACTION_PAYLOAD, body)), **limits))


@pytest.mark.parametrize("compression", [0, 255])
@pytest.mark.parametrize("declared", [-1, None])
def test_a_payload_gives_its_events(compression: int, declared: int | None) -> None:
    events = inner_of(payload_body(b"".join(INNER), compression=compression, declared=declared, extra=b"\x09\2ab"))
    assert [event.header.event_type for event in events] == [EventType.QUERY, EventType.XID]
    assert [event.header.log_pos for event in events] == [0, 0]
    assert [bytes(event.body) for event in events] == [content[19:] for content in INNER]


def test_an_empty_payload_has_no_events() -> None:
    assert inner_of(payload_body(b"", compression=255)) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        payload_body(b"".join(INNER))[:-1],
        payload_body(b"".join(INNER)) + b"!",
        payload_body(b"".join(INNER), declared=5),
        payload_body(b"".join(INNER), declared=5000),
        payload_body(b"".join(INNER)[:-1]),
        payload_body(b"".join(INNER)[:25]),
        payload_body(b"", declared=100, packed=b"garbage that is no zstd"),
        payload_body(b"".join(INNER), packed=pa.compress(b"".join(INNER), codec="zstd", asbytes=True)[:-4]),
        payload_body(event_bytes(EventType.TRANSACTION_PAYLOAD, b"", checksum=False)),
        payload_body(bytes(9) + b"\x05\0\0\0" + bytes(6)),
        payload_body(bytes(9) + b"\xff\xff\xff\xff" + bytes(6)),
    ],
)
def test_damaged_payloads_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        inner_of(body)


def test_a_payload_above_the_limit_is_refused_before_or_while_it_is_inflated() -> None:
    big = event_bytes(EventType.ROWS_QUERY, bytes(1_000_000), checksum=False)
    with pytest.raises(UnsupportedEvent, match="payload_bytes_max"):
        inner_of(payload_body(big), payload_bytes_max=1000)
    with pytest.raises(UnsupportedEvent, match="payload_bytes_max"):
        inner_of(payload_body(big, declared=None), payload_bytes_max=1000)


def test_a_payload_of_another_algorithm_is_refused() -> None:
    with pytest.raises(UnsupportedEvent, match="algorithm 7"):
        inner_of(payload_body(b"", compression=7))


# ---------------------------------------------------------------- any bytes


PARSERS: list[tuple[EventType, Callable[[Event], object], bytes]] = [
    (EventType.ROTATE, parse_rotate, bytes(8) + b"binlog.000001"),
    (EventType.HEARTBEAT, parse_heartbeat, b"binlog.000001"),
    (EventType.HEARTBEAT_V2, parse_heartbeat, b"\1\x01a\2\1\x04\0"),
    (EventType.INCIDENT, parse_incident, b"\1\0\4oops"),
    (EventType.QUERY, parse_query, query_body(b"SELECT 1", b"\0\1\0\0\0\4\x08\0\x08\0\x08\0\x0c\1a\0")),
    (EventType.MARIADB_QUERY_COMPRESSED, parse_query, query_body(record(b"SELECT 1"))),
    (EventType.GTID, parse_gtid, gtid_body(5, CLOCK + TIME.to_bytes(7, "little") + lenenc(300) + bytes(12))),
    (EventType.ANONYMOUS_GTID, parse_gtid, bytes(25) + CLOCK),
    (EventType.GTID_TAGGED, parse_gtid, tagged_body(tagged_fields())),
    (EventType.PREVIOUS_GTIDS, parse_previous_gtids, MysqlGtidSet.parse(f"{UUID}:1-3:5:tag:7").encode()),
    (EventType.MARIADB_GTID, parse_mariadb_gtid, mariadb_body(0x42, bytes(8) + b"\7\0\0\0\2\1abc\x14" + bytes(12))),
    (EventType.MARIADB_GTID_LIST, parse_mariadb_gtid_list, b"\1\0\0\0" + bytes(16)),
    (EventType.XID, parse_xid, bytes(8)),
    (EventType.XA_PREPARE, parse_xa_prepare, b"\1" + struct.pack("<iII", 1, 3, 1) + b"abcd"),
    (EventType.WRITE_ROWS, parse_rows, rows_body(COLUMNS, [(1, 2, 3)])),
    (EventType.UPDATE_ROWS_V1, parse_rows, rows_body(COLUMNS, [(1, 2, 3)] * 2, is_update=True, version=1)),
    (EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1, parse_rows, rows_body(COLUMNS, [], version=1) + record(bytes(20))),
    (EventType.TABLE_MAP, parse_table_map, table_map_body(columns_of_every_kind())),
    (EventType.TRANSACTION_PAYLOAD, lambda event: list(payload_events(parse_transaction_payload(event))),
     payload_body(b"".join(INNER))),
]  # fmt: skip
_IDS = [event_type.name for event_type, _, _ in PARSERS]


@pytest.mark.parametrize("event_type, parse, body", PARSERS, ids=_IDS)
def test_every_seed_parses(event_type: EventType, parse: Callable[[Event], object], body: bytes) -> None:
    parse(framed(event_type, body))


@pytest.mark.parametrize("event_type, parse, body", PARSERS, ids=_IDS)
def test_every_prefix_gives_a_value_or_a_protocol_error(
    event_type: EventType, parse: Callable[[Event], object], body: bytes
) -> None:
    for size in range(len(body)):
        try:
            parse(framed(event_type, body[:size]))
        except ProtocolError:
            continue


@pytest.mark.parametrize("event_type, parse, body", PARSERS, ids=_IDS)
@given(data=st.data())
def test_any_bytes_give_a_value_or_a_protocol_error(
    event_type: EventType, parse: Callable[[Event], object], body: bytes, data: st.DataObject
) -> None:
    if data.draw(st.booleans()):
        damaged = bytearray(body)
        for _ in range(data.draw(st.integers(1, 5))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    else:
        damaged = bytearray(data.draw(st.binary(max_size=200)))
    try:
        parse(framed(event_type, bytes(damaged)))
    except ProtocolError:
        return
