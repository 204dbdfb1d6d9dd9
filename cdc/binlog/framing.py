"""Cut bytes into events: header, body, checksum.

Knows the common header, the format description and CRC32; knows nothing of what events mean (events.py), nor of
sockets: one call gets one whole event. The stream's checksum algorithm is learned from format descriptions, so
an `EventFramer` belongs to one stream or file and sees all of its events, in order.

    header  [0:4] timestamp · [4] type · [5:9] server id · [9:13] event size, this header and the checksum included ·
            [13:17] end position (u32, wraps at 4 GiB; 0 in artificial events, inside compressed payloads, and inside
            groups from MariaDB 11.4) · [17:19] flags                                          all little-endian
    checksum [-4:] CRC32 of all before it, where the algorithm is CRC32
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cdc.binlog.constants import (
    BINLOG_MAGIC,
    CHECKSUM_BYTES,
    EVENT_BYTES_MAX,
    EVENT_HEADER_BYTES,
    ChecksumAlgorithm,
    EventFlag,
    EventType,
)
from cdc.binlog.cursor import Cursor
from cdc.errors import ChecksumMismatch, MalformedEvent, UnsupportedEvent

__all__ = [
    "Event",
    "EventFramer",
    "EventHeader",
    "FormatDescription",
    "parse_format_description",
    "parse_header",
    "read_binlog_file",
    "read_up_to",
    "version_numbers",
]

_HEADER = struct.Struct("<IBIIIH")
_LEADING_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
# The first MySQL and MariaDB releases whose format description ends in an algorithm byte and a checksum.
_CHECKSUM_SINCE_MYSQL = (5, 6, 1)
_CHECKSUM_SINCE_MARIADB = (5, 3)
# A format description's fixed part: version[2], server version[50], created[4], header length[1].
_FORMAT_FIXED_BYTES = 57
# The fixed parts that our parsers know, where a server writes them at all (0: it never does).
_POST_HEADER_BYTES = {
    EventType.QUERY: (13,),
    EventType.ROTATE: (8,),
    EventType.TABLE_MAP: (8,),
    EventType.WRITE_ROWS_V1: (0, 8),
    EventType.UPDATE_ROWS_V1: (0, 8),
    EventType.DELETE_ROWS_V1: (0, 8),
    EventType.WRITE_ROWS: (0, 10),
    EventType.UPDATE_ROWS: (0, 10),
    EventType.DELETE_ROWS: (0, 10),
    EventType.MARIADB_QUERY_COMPRESSED: (0, 13),
}
# Events are read from a file in pieces of at most this size, so that a lying size field cannot make us allocate.
_FILE_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class EventHeader:
    """The common header. `timestamp` is in seconds; `event_type` may be one that we do not know."""

    timestamp: int
    event_type: int
    server_id: int
    event_size: int
    log_pos: int
    flags: int

    @property
    def is_artificial(self) -> bool:
        """Was it made up by the sender, and is in no file?"""
        return bool(self.flags & EventFlag.ARTIFICIAL)

    @property
    def type_name(self) -> str:
        """The event type's name, or its number."""
        try:
            return EventType(self.event_type).name
        except ValueError:
            return f"type {self.event_type}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `body` is what lies between header and checksum, a view of the bytes that were framed."""

    header: EventHeader
    body: memoryview | bytes


@dataclass(frozen=True, slots=True)
class FormatDescription:
    """What a file's first event says about those that follow.

    `post_header_lengths[t - 1]` is the length of the fixed part of events of type `t`. `checksum` is None where the
    server is too old to know of checksums.
    """

    binlog_version: int
    server_version: str
    created: int
    header_bytes: int
    post_header_lengths: bytes
    checksum: ChecksumAlgorithm | None

    @property
    def is_mariadb(self) -> bool:
        """Was it written by MariaDB?"""
        return "mariadb" in self.server_version.lower()

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version as numbers; MariaDB's `5.5.5-` prefix is dropped."""
        return version_numbers(self.server_version)

    def post_header_length(self, event_type: int) -> int | None:
        """The fixed part's length for that type; None where this server does not know the type."""
        if 0 < event_type <= len(self.post_header_lengths):
            return self.post_header_lengths[event_type - 1]
        return None


def version_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a server version, () where there are none: `10.11.19-MariaDB-log` is (10, 11, 19)."""
    if text.startswith("5.5.5-") and "mariadb" in text.lower():
        text = text.removeprefix("5.5.5-")
    found = _LEADING_NUMBERS.match(text)
    # int() refuses absurdly long digit strings; a version has at most three digits a part
    return tuple(int(part[:9]) for part in found.group().split(".")) if found else ()


def _has_checksum_byte(server_version: str) -> bool:
    since = _CHECKSUM_SINCE_MARIADB if "mariadb" in server_version.lower() else _CHECKSUM_SINCE_MYSQL
    return version_numbers(server_version) >= since


def parse_header(content: bytes | memoryview) -> EventHeader:
    """Parse the common header. Raises MalformedEvent when there are fewer than 19 bytes."""
    if len(content) < EVENT_HEADER_BYTES:
        raise MalformedEvent(f"event of {len(content)} bytes is shorter than its header", frame=bytes(content))
    return EventHeader(*_HEADER.unpack_from(content))


def parse_format_description(body: bytes | memoryview) -> FormatDescription:
    """Parse a format description's body, checksum algorithm byte included, CRC not.

    `[0:2] binlog version · [2:52] server version, NUL-padded · [52:56] created · [56] header length (19) ·
    [57:] post-header lengths, one byte a type · [-1] checksum algorithm, from MySQL 5.6.1 and MariaDB 5.3 on`

    Raises:
        MalformedEvent: it is too short, or contradicts itself.
        UnsupportedEvent: another binlog version, header length or checksum algorithm than those known.
    """
    cursor = Cursor(body, "format description")
    binlog_version = cursor.uint(2)
    server_version = cursor.take(50).split(b"\0", 1)[0].decode("ascii", "replace")
    created = cursor.uint(4)
    header_bytes = cursor.uint(1)
    if binlog_version != 4:
        raise UnsupportedEvent(f"binlog version {binlog_version} (server {server_version!r}); only 4 is known")
    if header_bytes != EVENT_HEADER_BYTES:
        raise UnsupportedEvent(f"event headers of {header_bytes} bytes; only {EVENT_HEADER_BYTES} are known")
    lengths = cursor.rest()
    checksum: ChecksumAlgorithm | None = None
    if _has_checksum_byte(server_version):
        if not lengths:
            raise MalformedEvent(f"format description of server {server_version!r} lacks its checksum algorithm")
        lengths, algorithm = lengths[:-1], lengths[-1]
        try:
            checksum = ChecksumAlgorithm(algorithm)
        except ValueError:
            raise UnsupportedEvent(f"checksum algorithm {algorithm}; only NONE and CRC32 are known") from None
    if len(lengths) < EventType.FORMAT_DESCRIPTION:
        raise MalformedEvent(f"format description lists only {len(lengths)} event types")
    for event_type, known in _POST_HEADER_BYTES.items():
        if event_type <= len(lengths) and lengths[event_type - 1] not in known:
            raise UnsupportedEvent(
                f"server {server_version!r} writes {event_type.name} events with a fixed part of "
                f"{lengths[event_type - 1]} bytes; known: {known[-1]}"
            )
    return FormatDescription(binlog_version, server_version, created, header_bytes, lengths, checksum)


class EventFramer:
    """Frames the events of one stream, and learns from its format descriptions whether they carry a checksum.

    Args:
        verify_checksum: compare each event's CRC32; off only for measuring what it costs.
        initial_checksum: do events before the first format description (the fake rotate that opens every dump)
            carry a checksum? A client knows: it is what it told the server by `SET @master_binlog_checksum`.
            None: find out from the event itself, by whether its last four bytes are its CRC.
    """

    def __init__(self, *, verify_checksum: bool = True, initial_checksum: bool | None = None) -> None:
        self._verify = verify_checksum
        self._initial = initial_checksum
        self.format: FormatDescription | None = None

    def frame(self, content: bytes | memoryview) -> Event:
        """Split one event, `content` from byte 0 of its header to the end of its checksum.

        Raises:
            MalformedEvent: too short, or its length field is not the length of `content`.
            ChecksumMismatch: the CRC32 is not that of the bytes.
            UnsupportedEvent: a format description of a version that is not known.
        """
        header = parse_header(content)
        if header.event_size != len(content):
            # Two events in one packet, or one cut short: never read on past the header's word (MDEV-40648).
            raise MalformedEvent(
                f"{header.type_name} event says {header.event_size} bytes, came with {len(content)}",
                frame=bytes(content),
            )
        view = memoryview(content)
        if header.event_type == EventType.FORMAT_DESCRIPTION:
            return self._frame_format(header, view)
        if not self._has_checksum(view):
            return Event(header, view[EVENT_HEADER_BYTES:])
        self._check(header, view)
        return Event(header, view[EVENT_HEADER_BYTES:-CHECKSUM_BYTES])

    def _has_checksum(self, view: memoryview) -> bool:
        if self.format is not None:
            return self.format.checksum is ChecksumAlgorithm.CRC32
        if self._initial is not None:
            return self._initial
        return len(view) >= EVENT_HEADER_BYTES + CHECKSUM_BYTES and _crc(view) == _stored_crc(view)

    def _check(self, header: EventHeader, view: memoryview) -> None:
        if len(view) < EVENT_HEADER_BYTES + CHECKSUM_BYTES:
            raise MalformedEvent(f"{header.type_name} event has no room for its checksum", frame=bytes(view))
        if self._verify and _crc(view) != _stored_crc(view):
            raise ChecksumMismatch(
                f"{header.type_name} event of {len(view)} bytes, end position {header.log_pos}: "
                f"CRC32 is {_crc(view):08x}, the server wrote {_stored_crc(view):08x}",
                hint="damaged in the file or on the way; `mysqlbinlog --verify-binlog-checksum` on the source tells",
                frame=bytes(view),
            )

    def _frame_format(self, header: EventHeader, view: memoryview) -> Event:
        """A format description always has room for a CRC when its server knows checksums, and then always carries
        one, whatever the algorithm byte says about the events after it.

        Source: MySQL sql/binlog_reader.cc, MariaDB sql/log_event.cc (`Log_event::read_log_event`).
        """
        body = view[EVENT_HEADER_BYTES:]
        if len(body) < _FORMAT_FIXED_BYTES:
            raise MalformedEvent(f"format description of {len(body)} bytes is too short", frame=bytes(view))
        server_version = bytes(body[2:52]).split(b"\0", 1)[0].decode("ascii", "replace")
        if _has_checksum_byte(server_version):
            if len(body) < _FORMAT_FIXED_BYTES + CHECKSUM_BYTES:
                raise MalformedEvent("format description has no room for its checksum", frame=bytes(view))
            body = body[:-CHECKSUM_BYTES]
            # With checksums off the dump thread changes the event (position, creation time) without a new CRC.
            if body[-1] != ChecksumAlgorithm.NONE:
                self._check_format(header, view)
        self.format = parse_format_description(body)
        return Event(header, body)

    def _check_format(self, header: EventHeader, view: memoryview) -> None:
        if not self._verify or _crc(view) == _stored_crc(view):
            return
        # IN_USE is cleared in place when a file is closed, without a new checksum, and set while it is written: the
        # CRC is that of the event with the flag off. (MySQL sql/log_event.cc, event_checksum_test.)
        cleared = bytearray(view)
        cleared[EVENT_HEADER_BYTES - 2] &= ~EventFlag.BINLOG_IN_USE & 0xFF
        if _crc(memoryview(cleared)) == _stored_crc(view):
            return
        self._check(header, view)


def _crc(view: memoryview) -> int:
    return zlib.crc32(view[:-CHECKSUM_BYTES])


def _stored_crc(view: memoryview) -> int:
    return int.from_bytes(view[-CHECKSUM_BYTES:], "little")


def read_binlog_file(stream: BinaryIO, *, verify_checksum: bool = True) -> Iterator[Event]:
    """Frame the events of a binlog file, one at a time; the format description comes first.

    Raises MalformedEvent, which names the byte offset, when the file is no binlog, ends inside an event, or an
    event is larger than any server writes.
    """
    magic = stream.read(len(BINLOG_MAGIC))
    if magic != BINLOG_MAGIC:
        raise MalformedEvent(
            f"not a binlog file: it begins with {magic.hex() or 'nothing'}",
            hint="an encrypted binlog begins with fd62696e: read it through the server instead",
        )
    framer = EventFramer(verify_checksum=verify_checksum)
    offset = len(BINLOG_MAGIC)
    while True:
        head = read_up_to(stream, EVENT_HEADER_BYTES)
        if not head:
            return
        if len(head) < EVENT_HEADER_BYTES:
            raise MalformedEvent(f"the file ends inside an event header, at offset {offset}", frame=head)
        size = parse_header(head).event_size
        if not EVENT_HEADER_BYTES <= size <= EVENT_BYTES_MAX:
            raise MalformedEvent(f"event at offset {offset} says {size} bytes", frame=head)
        content = head + read_up_to(stream, size - EVENT_HEADER_BYTES)
        if len(content) < size:
            raise MalformedEvent(f"the file ends inside the event at offset {offset}: {len(content)} of {size} bytes")
        event = framer.frame(content)
        if framer.format is None:
            raise MalformedEvent(f"the file begins with a {event.header.type_name} event, not a format description")
        yield event
        offset += size


def read_up_to(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, or fewer at the end of the file. In pieces: what a file does not hold is never allocated."""
    pieces = []
    while size:
        piece = stream.read(min(size, _FILE_CHUNK_BYTES))
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
