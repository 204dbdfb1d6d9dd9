"""Binlog files as a source of events, in the place of a dump session: no server is asked.

Reads files as the server left them: in the order of their numbers, each from its magic bytes to its end, and checks
that none is missing between them. Knows files, headers and positions; what the events mean is the assembler's to say.
"""

from __future__ import annotations

import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from cdc.binlog.constants import (
    BINLOG_MAGIC,
    EVENT_BYTES_MAX,
    EVENT_HEADER_BYTES,
    ChecksumAlgorithm,
    EventType,
)
from cdc.binlog.events import (
    parse_gtid,
    parse_mariadb_gtid,
    parse_mariadb_gtid_list,
    parse_previous_gtids,
)
from cdc.binlog.framing import EventFramer, FormatDescription, parse_header, read_up_to
from cdc.errors import CdcError, ConfigError, MalformedEvent, UnsupportedEvent
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition
from cdc.source.assembler import EVENTS

__all__ = ["STDIN", "BinlogFiles", "FileConsumer", "FileSession"]

STDIN = "-"
_INDEX_ENDINGS = (".index", ".idx")
_ENCRYPTED_MAGIC = b"\xfdbin"
_FIRST_POSITION = len(BINLOG_MAGIC)
_CHUNK_BYTES = 1 << 20
# A STOP event with and without its checksum.
_STOP_SIZES = (23, 19)
_GTID_EVENTS = (EventType.GTID, EventType.GTID_TAGGED, EventType.MARIADB_GTID)
# What may stand before the event that says the GTIDs executed before a file.
_BEFORE_GTIDS = (EventType.MARIADB_BINLOG_CHECKPOINT, EventType.HEARTBEAT, EventType.IGNORABLE)

GtidSet = MysqlGtidSet | MariadbGtidList


class FileConsumer(Protocol):
    """Who takes the events: the assembler."""

    saw_barrier: bool

    @property
    def is_odd(self) -> bool:
        """Did `consume` stop before something that is no event?"""

    def consume(self, window: memoryview, framing: int) -> int:
        """Take whole events off the front of `window`; returns their bytes."""

    def feed(self, content: bytes) -> bool:
        """Take one event. True at a barrier."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file. `number` is None where its name does not end in one."""

    name: str
    number: int | None
    open: Callable[[], BinaryIO]

    def at(self, pos: int) -> FilePos:
        return FilePos(self.number or 0, pos, self.name)


class BinlogFiles:
    """The files of one server's log, in order. `warn` takes what the user has to know and is no error.

    Raises ConfigError for files that cannot be ordered, MalformedEvent where one is missing between them.
    """

    def __init__(self, names: Sequence[str], *, warn: Callable[[str], None], stdin: BinaryIO | None = None) -> None:
        self._warn = warn
        # A pattern of the shell takes in the indexes that stand beside the logs.
        logs = [name for name in names if not name.endswith(_INDEX_ENDINGS)] or names
        self._files = _in_order([_file(name, stdin) for name in logs])

    def start(self, at: FilePos | None = None) -> SourcePosition:
        """Where reading begins: at the first file's beginning, or at a group's end in one of the files.

        The GTIDs executed before it are those that the file's head names, and those that stand before `at`.
        Raises ConfigError where no file holds `at`, and what `open` raises.
        """
        file, pos = self._files[0], _FIRST_POSITION
        if at is not None:
            file, pos = self._holding(at), at.pos
        with file.open() as stream:
            head = _Head(file, stream)
            server = ServerIdentity(head.flavor, "")
            return SourcePosition(server, file.at(pos), head.gtids_at(pos))

    def open(self, position: SourcePosition) -> FileSession:
        """Read on from a position inside the files.

        Raises MalformedEvent for what is no binlog, UnsupportedEvent for one that is encrypted; with file and offset.
        """
        assert position.file is not None, "a place in the files"
        file = self._holding(position.file)
        stream = file.open()
        try:
            return FileSession(file, stream, position.file.pos)
        except BaseException:
            stream.close()
            raise

    def after(self, ended: FilePos, reached: SourcePosition) -> SourcePosition | None:
        """The beginning of the file that follows the one in which `ended` lies; None after the last.

        Args:
            reached: the position after all of its events: in the file that a rotate event names, where there is one.
        Raises MalformedEvent where that is not the next of the files, or transactions are missing between the two.
        """
        file = self._holding(ended)
        index = self._files.index(file)
        if index + 1 == len(self._files):
            return None
        following = self._files[index + 1]
        begin = self.start(following.at(_FIRST_POSITION))
        named = reached.file
        if named is not None and named.number != ended.number:
            if not following.name.endswith(named.file):
                raise MalformedEvent(
                    f"{file.name} is followed by {named.file}, as its rotate event says, and not by {following.name}",
                    hint="give all the files of one server",
                )
        elif missing := _missing(reached.gtid, begin.gtid):
            raise MalformedEvent(
                f"transactions are missing between {file.name} and {following.name}: {missing}",
                hint=f"{file.name} was copied before it was full: copy it again",
            )
        elif not self._ends_in_stop(file):
            self._warn(
                f"{file.name} has no end: the server crashed there, or the file was copied before it was full; "
                f"it goes on with {following.name}"
            )
        return SourcePosition(reached.server, begin.file, reached.gtid if reached.gtid is not None else begin.gtid)

    def _holding(self, at: FilePos) -> _File:
        for file in self._files:
            if (file.number or 0) == at.number:
                return file
        names = f"{self._files[0].name} to {self._files[-1].name}" if len(self._files) > 1 else self._files[0].name
        raise ConfigError(f"{at} is in none of the files given: {names}", hint="give the file that holds it")

    @staticmethod
    def _ends_in_stop(file: _File) -> bool:
        """Did the server shut down there in order?"""
        with file.open() as stream:
            length = stream.seek(0, io.SEEK_END)
            for size in _STOP_SIZES:
                if length - size >= _FIRST_POSITION:
                    stream.seek(-size, io.SEEK_END)
                    header = parse_header(read_up_to(stream, EVENT_HEADER_BYTES))
                    if header.event_type == EventType.STOP and header.event_size == size:
                        return True
        return False


class FileSession:
    """The events of one file from a position on, in the place of a dump session."""

    def __init__(self, file: _File, stream: BinaryIO, pos: int) -> None:
        head = _Head(file, stream)
        self.name = file.name
        self.start = file.at(pos)
        self.flavor: Flavor = head.flavor
        self.version = head.format.version
        self.server_id = head.server_id
        self.checksum_negotiated = head.format.checksum is ChecksumAlgorithm.CRC32
        self.lower_case_names = False
        self._stream = stream
        self._opening: bytes | None = head.content  # every consumer has to see it
        self._offset = max(pos, head.end)
        self._start = 0
        self._held = bytearray()
        self._is_read = False
        stream.seek(self._offset)

    @property
    def is_at_end(self) -> bool:
        """Has all of it been delivered?"""
        return self._is_read and self._start == len(self._held)

    def fill(self, timeout_seconds: float) -> int:  # noqa: ARG002 - a file never keeps waiting
        """Read on; how many bytes, 0 at the end.

        Raises ConfigError when the file cannot be read.
        """
        try:
            piece = self._stream.read(_CHUNK_BYTES)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        # A new one each time: an error's traceback may still hold a view of the last, which then cannot be resized.
        held = self._held[self._start :]
        held += piece
        self._held, self._start = held, 0
        self._is_read = not piece
        return len(piece)

    def deliver(self, consumer: FileConsumer) -> bool:
        """Hand over all events that are there whole. True at a barrier: the consumer takes no more.

        Raises MalformedEvent where the file ends inside an event or holds what is none, and what the consumer raises.
        """
        if self._opening is not None:
            opening, self._opening = self._opening, None
            if consumer.feed(opening):
                return True
        with memoryview(self._held) as window, window[self._start :] as rest:
            taken = consumer.consume(rest, EVENTS)
        self._start += taken
        self._offset += taken
        if consumer.saw_barrier:
            return True
        left = len(self._held) - self._start
        if consumer.is_odd or (left >= EVENT_HEADER_BYTES and self._size_at_front() > EVENT_BYTES_MAX):
            raise MalformedEvent(f"the event at offset {self._offset} says {self._size_at_front()} bytes")
        if self._is_read and left:
            size = f" of {self._size_at_front()}" if left >= EVENT_HEADER_BYTES else ""
            raise MalformedEvent(
                f"the file ends inside the event at offset {self._offset}: {left}{size} bytes",
                hint="it was copied while the server wrote it, or the server crashed there",
            )
        return False

    def _size_at_front(self) -> int:
        return int.from_bytes(self._held[self._start + 9 : self._start + 13], "little")

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class _Head:
    """A file's magic bytes and format description; `end` is where the next event begins.

    Raises MalformedEvent, UnsupportedEvent, with the file's name.
    """

    def __init__(self, file: _File, stream: BinaryIO) -> None:
        self._stream = stream
        self._file = file
        try:
            self._read_magic()
            offset, self.content = next(_contents(stream, _FIRST_POSITION), (0, b""))
            if not self.content:
                raise MalformedEvent("the file holds no event")
            self._framer = EventFramer()
            event = self._framer.frame(self.content)
            if self._framer.format is None:
                raise MalformedEvent(f"the file begins with a {event.header.type_name} event, no format description")
            self.end = offset + len(self.content)
            self._refuse_encryption()
        except CdcError as error:
            error.message = f"{file.name}: {error.message}"
            raise
        self.format: FormatDescription = self._framer.format
        self.flavor: Flavor = "mariadb" if self.format.is_mariadb else "mysql"
        self.server_id = event.header.server_id

    def _read_magic(self) -> None:
        self._stream.seek(0)
        try:
            magic = self._stream.read(_FIRST_POSITION)
        except OSError as error:
            raise _unreadable(self._file.name, error) from error
        if magic == _ENCRYPTED_MAGIC:
            raise UnsupportedEvent("the file is encrypted (from offset 0)", hint=_DECRYPT_HINT)
        if magic != BINLOG_MAGIC:
            raise MalformedEvent(
                f"not a binlog file: at offset 0 it has {magic.hex() or 'nothing'}, not {BINLOG_MAGIC.hex()}",
                hint="a compressed file has to be unpacked first; give files as the server wrote them",
            )

    def _refuse_encryption(self) -> None:
        """MariaDB says in an event that all that follows is encrypted; it stands right behind the first."""
        self._stream.seek(self.end)
        head = read_up_to(self._stream, EVENT_HEADER_BYTES)
        if len(head) == EVENT_HEADER_BYTES and parse_header(head).event_type == EventType.MARIADB_START_ENCRYPTION:
            raise UnsupportedEvent(f"the file is encrypted (from offset {self.end})", hint=_DECRYPT_HINT)

    def gtids_at(self, pos: int) -> GtidSet | None:
        """What had been executed at `pos`, as the file says it; None where it does not.

        Raises MalformedEvent when no event begins at `pos`.
        """
        gtids: GtidSet | None = None
        self._stream.seek(self.end)
        offset = self.end
        while True:
            if pos > self.end and offset >= pos:
                break
            head = read_up_to(self._stream, EVENT_HEADER_BYTES)
            if len(head) < EVENT_HEADER_BYTES:
                break
            header = parse_header(head)
            kind = header.event_type
            if not EVENT_HEADER_BYTES <= header.event_size <= EVENT_BYTES_MAX:
                raise MalformedEvent(
                    f"{self._file.name}: the event at offset {offset} says {header.event_size} bytes", frame=head
                )
            if kind in (EventType.PREVIOUS_GTIDS, EventType.MARIADB_GTID_LIST, *_GTID_EVENTS):
                if kind in _GTID_EVENTS and pos <= self.end:
                    break
                content = head + read_up_to(self._stream, header.event_size - EVENT_HEADER_BYTES)
                gtids = self._with(gtids, content)
            elif pos <= self.end and kind not in _BEFORE_GTIDS:
                break
            offset += header.event_size
            self._stream.seek(offset)
        if pos > self.end and offset != pos:
            raise MalformedEvent(
                f"{self._file.name}: no event begins at {pos}",
                hint=f"give the end of a transaction, as `position` in the lines says it; the nearest is {offset}"
                if offset > pos
                else f"the file ends at {offset}",
            )
        return gtids

    def _with(self, gtids: GtidSet | None, content: bytes) -> GtidSet | None:
        event = self._framer.frame(content)
        match event.header.event_type:
            case EventType.PREVIOUS_GTIDS:
                return parse_previous_gtids(event).executed
            case EventType.MARIADB_GTID_LIST:
                return parse_mariadb_gtid_list(event).positions
            case EventType.MARIADB_GTID if isinstance(gtids, MariadbGtidList):
                mine = parse_mariadb_gtid(event)
                return gtids.add(mine.domain, mine.server_id, mine.sequence)
            case EventType.GTID | EventType.GTID_TAGGED if isinstance(gtids, MysqlGtidSet):
                source = parse_gtid(event)
                return gtids.add(source.source, source.number) if source.source is not None else gtids
        return gtids


_DECRYPT_HINT = "only its server can read it: leave --binlog away and follow the server itself"


def _contents(stream: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    """The events of a file from there on, each with its offset. Raises MalformedEvent."""
    while True:
        head = read_up_to(stream, EVENT_HEADER_BYTES)
        if not head:
            return
        size = parse_header(head).event_size
        if not EVENT_HEADER_BYTES <= size <= EVENT_BYTES_MAX:
            raise MalformedEvent(f"the event at offset {offset} says {size} bytes")
        content = head + read_up_to(stream, size - EVENT_HEADER_BYTES)
        if len(content) < size:
            raise MalformedEvent(f"the file ends inside the event at offset {offset}: {len(content)} of {size} bytes")
        yield offset, content
        offset += size


# ---------------------------------------------------------------- which files, in which order


def _file(name: str, stdin: BinaryIO | None) -> _File:
    if name == STDIN:
        if stdin is None:
            raise ConfigError("standard input cannot be read here", hint="give the file by its name")
        # Kept in a file: after DDL, reading goes back.
        spooled = tempfile.NamedTemporaryFile(prefix="cdc-tail-")  # noqa: SIM115 - it goes when the process does
        shutil.copyfileobj(stdin, spooled)
        spooled.flush()
        return _File("standard input", None, lambda: Path(spooled.name).open("rb"))
    path = Path(name)
    digits = path.name.rpartition(".")[2]

    def opened() -> BinaryIO:
        try:
            return path.open("rb")
        except OSError as error:
            raise _unreadable(name, error) from error

    return _File(path.name, int(digits) if digits.isascii() and digits.isdigit() else None, opened)


def _in_order(files: list[_File]) -> list[_File]:
    if len(files) == 1:
        return files
    for file in files:
        if file.number is None:
            raise ConfigError(
                f"{file.name} has no number at the end of its name, so its place among the files is not known",
                hint="keep the names that the server gave: binlog.000001 and so on",
            )
    files = sorted(files, key=lambda file: file.number or 0)
    for before, after in itertools.pairwise(files):
        assert before.number is not None
        if before.number == after.number:
            raise ConfigError(f"{before.name} and {after.name} have the same number", hint="give each file once")
        if after.number != before.number + 1:
            raise MalformedEvent(
                f"a file is missing: {after.name} does not follow {before.name}",
                hint="give all the files from the first to the last",
            )
    return files


def _missing(reached: GtidSet | None, before: GtidSet | None) -> str:
    """What was executed before a file and is not in what was reached; '' where nothing is, or nobody knows."""
    match reached, before:
        case MysqlGtidSet(), MysqlGtidSet():
            return str(before.subtract(reached))
        case MariadbGtidList(), MariadbGtidList():
            ahead = {
                domain: place
                for domain, place in before.positions.items()
                if domain not in reached.positions or reached.positions[domain][1] < place[1]
            }
            return f"up to {MariadbGtidList(ahead)}" if ahead else ""
    return ""


def _unreadable(name: str, error: OSError) -> ConfigError:
    return ConfigError(f"{name} cannot be read: {error.strerror or error}", hint="check the name and its permissions")
