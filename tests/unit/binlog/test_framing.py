"""Framing: lengths, checksums and what files may look like."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.constants import BINLOG_MAGIC, ChecksumAlgorithm, EventFlag, EventType
from cdc.binlog.framing import EventFramer, read_binlog_file, version_numbers
from cdc.errors import ChecksumMismatch, MalformedEvent, ProtocolError, UnsupportedEvent
from tests.support.binlog_build import event_bytes, format_description_bytes, post_header_lengths

ROTATE_BODY = (4).to_bytes(8, "little") + b"binlog.000002"
XID_BODY = (7).to_bytes(8, "little")


def ready(version: str = "8.4.0", algorithm: int = 1) -> EventFramer:
    """A framer that has seen the format description."""
    framer = EventFramer(initial_checksum=True)
    framer.frame(format_description_bytes(version, algorithm=algorithm))
    return framer


def fake_rotate(*, checksum: bool) -> bytes:
    return event_bytes(
        EventType.ROTATE, ROTATE_BODY, checksum=checksum, timestamp=0, log_pos=0, flags=EventFlag.ARTIFICIAL
    )


def test_an_event_is_its_header_and_the_body_without_checksum() -> None:
    event = ready().frame(event_bytes(EventType.XID, XID_BODY, log_pos=55, server_id=9, flags=8))
    assert bytes(event.body) == XID_BODY
    assert (event.header.log_pos, event.header.server_id, event.header.flags) == (55, 9, 8)
    assert event.header.type_name == "XID"


@pytest.mark.parametrize("initial", [True, None])
def test_fake_rotate_before_the_format_keeps_its_whole_name_with_checksum(initial: bool | None) -> None:
    event = EventFramer(initial_checksum=initial).frame(fake_rotate(checksum=True))
    assert bytes(event.body) == ROTATE_BODY
    assert event.header.is_artificial


@pytest.mark.parametrize("initial", [False, None])
def test_fake_rotate_before_the_format_keeps_its_whole_name_without_checksum(initial: bool | None) -> None:
    assert bytes(EventFramer(initial_checksum=initial).frame(fake_rotate(checksum=False)).body) == ROTATE_BODY


def test_a_damaged_fake_rotate_is_noticed_where_a_checksum_was_agreed() -> None:
    damaged = bytearray(fake_rotate(checksum=True))
    damaged[-6] ^= 1
    with pytest.raises(ChecksumMismatch):
        EventFramer(initial_checksum=True).frame(bytes(damaged))


def test_the_format_carries_a_checksum_even_where_the_events_do_not() -> None:
    framer = ready(algorithm=0)
    assert framer.format is not None
    assert framer.format.checksum is ChecksumAlgorithm.NONE
    assert bytes(framer.frame(event_bytes(EventType.XID, XID_BODY, checksum=False)).body) == XID_BODY


def test_the_algorithm_may_change_with_every_file() -> None:
    framer = ready(algorithm=1)
    framer.frame(event_bytes(EventType.XID, XID_BODY, checksum=True))
    framer.frame(format_description_bytes(algorithm=0))
    framer.frame(event_bytes(EventType.XID, XID_BODY, checksum=False))
    framer.frame(format_description_bytes(algorithm=1))
    with pytest.raises(ChecksumMismatch):
        framer.frame(event_bytes(EventType.XID, XID_BODY, checksum=False))


def test_servers_before_checksums_have_none_and_no_algorithm_byte() -> None:
    framer = EventFramer()
    framer.frame(format_description_bytes("5.5.62-log", algorithm=None, count=27))
    assert framer.format is not None
    assert (framer.format.checksum, len(framer.format.post_header_lengths)) == (None, 27)
    assert bytes(framer.frame(event_bytes(EventType.XID, XID_BODY, checksum=False)).body) == XID_BODY


@pytest.mark.parametrize("flags", [0, EventFlag.BINLOG_IN_USE])
def test_the_in_use_flag_of_a_format_may_change_under_its_checksum(flags: int) -> None:
    content = bytearray(format_description_bytes(flags=0))
    content[17] = flags
    EventFramer().frame(bytes(content))


@pytest.mark.parametrize("position", [20, 60, 100, 118])
def test_a_damaged_format_is_a_checksum_mismatch(position: int) -> None:
    content = bytearray(format_description_bytes())
    content[position] ^= 0x10
    with pytest.raises(ChecksumMismatch):
        EventFramer().frame(bytes(content))


@given(at=st.integers(19, 40), bit=st.integers(0, 7))
def test_any_flipped_bit_of_body_or_checksum_is_noticed(at: int, bit: int) -> None:
    content = bytearray(event_bytes(EventType.QUERY, bytes(18)))
    content[at] ^= 1 << bit
    with pytest.raises(ChecksumMismatch) as caught:
        ready().frame(bytes(content))
    assert caught.value.frame == bytes(content)


def test_checksums_can_be_left_unverified_but_not_unread() -> None:
    framer = EventFramer(verify_checksum=False, initial_checksum=True)
    framer.frame(format_description_bytes())
    content = event_bytes(EventType.XID, XID_BODY)[:-4] + b"\0\0\0\0"
    assert bytes(framer.frame(content).body) == XID_BODY


@pytest.mark.parametrize("change", [-1, 1, 23])
def test_an_event_of_another_length_than_its_header_says_is_malformed(change: int) -> None:
    """One byte short, one long, and two events in one packet."""
    content = event_bytes(EventType.XID, XID_BODY)
    wrong = content[:change] if change < 0 else content + content[:change]
    with pytest.raises(MalformedEvent, match="XID event says 31 bytes, came with"):
        ready().frame(wrong)


@pytest.mark.parametrize("size", [0, 1, 18])
def test_less_than_a_header_is_malformed(size: int) -> None:
    with pytest.raises(MalformedEvent, match="shorter than its header"):
        ready().frame(bytes(size))


def test_an_event_without_room_for_its_checksum_is_malformed() -> None:
    with pytest.raises(MalformedEvent, match="no room for its checksum"):
        ready().frame(event_bytes(EventType.STOP, b"", checksum=False))


@given(st.binary(max_size=300))
def test_any_bytes_give_an_event_or_a_protocol_error(noise: bytes) -> None:
    for framer in (EventFramer(), ready(), EventFramer(initial_checksum=False)):
        try:
            framer.frame(noise)
        except ProtocolError:
            continue


@given(st.binary(max_size=200))
def test_any_format_description_gives_a_format_or_a_protocol_error(noise: bytes) -> None:
    framer = EventFramer(verify_checksum=False)
    try:
        framer.frame(event_bytes(EventType.FORMAT_DESCRIPTION, noise))
    except ProtocolError:
        assert framer.format is None


# ---------------------------------------------------------------- the format description


def test_the_format_tells_server_version_and_fixed_parts() -> None:
    framer = ready("9.7.4-2")
    assert framer.format is not None
    assert (framer.format.version, framer.format.is_mariadb) == ((9, 7, 4), False)
    assert framer.format.post_header_length(EventType.QUERY) == 13
    assert framer.format.post_header_length(200) is None


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("9.7.4-2", (9, 7, 4)),
        ("10.11.19-MariaDB-0+deb12u1-log", (10, 11, 19)),
        ("5.5.5-10.2.9-MariaDB", (10, 2, 9)),
        ("5.5.5-log", (5, 5, 5)),
        ("garbage", ()),
        ("", ()),
    ],
)
def test_version_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers


def changed_format(**change: int) -> bytes:
    content = format_description_bytes()
    body = bytearray(content[19:-4])
    if "version" in change:
        body[0:2] = change["version"].to_bytes(2, "little")
    if "header" in change:
        body[56] = change["header"]
    if "algorithm" in change:
        body[-1] = change["algorithm"]
    if "query" in change:
        body[57 + EventType.QUERY - 1] = change["query"]
    return event_bytes(EventType.FORMAT_DESCRIPTION, bytes(body))


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"version": 3}, "binlog version 3"),
        ({"header": 27}, "headers of 27 bytes"),
        ({"algorithm": 2}, "checksum algorithm 2"),
        ({"query": 11}, "QUERY events with a fixed part of 11 bytes"),
    ],
)
def test_formats_that_are_not_known_are_refused(change: dict[str, int], problem: str) -> None:
    with pytest.raises(UnsupportedEvent, match=problem):
        EventFramer().frame(changed_format(**change))


def test_a_format_with_too_few_event_types_is_malformed() -> None:
    whole = format_description_bytes()
    body = whole[19 : 19 + 57] + bytes(post_header_lengths(10)) + b"\1"
    with pytest.raises(MalformedEvent, match="lists only 10 event types"):
        EventFramer().frame(event_bytes(EventType.FORMAT_DESCRIPTION, body))


# ---------------------------------------------------------------- files

FILE = BINLOG_MAGIC + format_description_bytes() + event_bytes(EventType.XID, XID_BODY) + fake_rotate(checksum=True)


def test_a_file_gives_its_events_format_first() -> None:
    events = list(read_binlog_file(io.BytesIO(FILE)))
    assert [event.header.event_type for event in events] == [15, 16, 4]


def test_an_empty_binlog_has_no_events() -> None:
    assert list(read_binlog_file(io.BytesIO(BINLOG_MAGIC))) == []


@pytest.mark.parametrize("content", [b"", b"\xfebi", b"\xfdbin" + bytes(100), b"SQLite format 3\0"])
def test_what_is_no_binlog_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedEvent, match="not a binlog file"):
        list(read_binlog_file(io.BytesIO(content)))


@given(st.integers(5, len(FILE) - 1))
def test_a_file_that_ends_inside_an_event_names_the_offset(size: int) -> None:
    ends = {4, 4 + len(format_description_bytes()), 4 + len(format_description_bytes()) + 31}
    if size in ends:
        list(read_binlog_file(io.BytesIO(FILE[:size])))
        return
    with pytest.raises(MalformedEvent, match="offset"):
        list(read_binlog_file(io.BytesIO(FILE[:size])))


def test_a_file_whose_event_claims_a_gigabyte_is_read_no_further_than_it_goes() -> None:
    head = event_bytes(EventType.XID, XID_BODY)[:9] + (1 << 30).to_bytes(4, "little") + bytes(6)
    with pytest.raises(MalformedEvent, match="25 of 1073741824 bytes"):
        list(read_binlog_file(io.BytesIO(BINLOG_MAGIC + format_description_bytes() + head + bytes(6))))


@pytest.mark.parametrize("size", [0, 18, (1 << 32) - 1])
def test_a_file_with_an_impossible_event_size_is_refused(size: int) -> None:
    head = bytes(9) + size.to_bytes(4, "little") + bytes(6)
    with pytest.raises(MalformedEvent, match=f"says {size} bytes"):
        list(read_binlog_file(io.BytesIO(BINLOG_MAGIC + format_description_bytes() + head)))


def test_a_file_that_begins_with_another_event_is_refused() -> None:
    with pytest.raises(MalformedEvent, match="begins with a XID event"):
        list(read_binlog_file(io.BytesIO(BINLOG_MAGIC + event_bytes(EventType.XID, XID_BODY))))
