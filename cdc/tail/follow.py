"""Read events from where they come, and print what they hold: the loop of `cdc tail`.

Reading is in *sessions*: a dump session of a server, or one file. A session ends at DDL on a followed table (what
follows needs other definitions), at the end of a file, or at an error; the next one begins at the end of what has been
printed. There is one place where events are taken in (`_read`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from cdc.binlog.layout import LayoutMismatch
from cdc.errors import CdcError, ProtocolError, SourceUnavailable, UnsupportedData
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, Flavor, OpenTransaction, SchemaChange, SourcePosition, TransactionRun, Xa
from cdc.source.assembler import Assembler, Output, PreparedXa, RunLimits
from cdc.tail.lines import LineWriter
from cdc.tail.select import Until
from cdc.tail.tables import FollowedTables

__all__ = ["EventSession", "EventSource", "Follower", "Printer"]

# How long a receive may wait; bounds how soon a stop, or a reader that has left, is noticed.
_WAIT_SECONDS = 0.2
# A group at a time: while it matters where exactly one ends.
_ONE_BY_ONE = RunLimits(rows_max=1, transactions_max=1)


class EventSession(Protocol):
    """Events from one position on, from one server version, in one file or stream."""

    name: str
    flavor: Flavor
    version: tuple[int, ...]
    checksum_negotiated: bool
    lower_case_names: bool

    @property
    def start(self) -> FilePos | None:
        """Where it begins; None where a GTID set alone says it."""

    @property
    def is_at_end(self) -> bool:
        """Has a file ended? Never true of a stream."""

    def fill(self, timeout_seconds: float) -> int:
        """Receive what is there; how many bytes, 0 when none came within the time or the file has ended."""

    def deliver(self, consumer: Any) -> bool:
        """Hand what was received to the assembler. True at a barrier."""

    def close(self) -> None:
        """Leave."""


class EventSource(Protocol):
    """Where events come from."""

    def open(self, position: SourcePosition) -> EventSession:
        """Begin to read at a group's end."""

    def after(self, ended: FilePos, reached: SourcePosition) -> SourcePosition | None:
        """Where to go on after a file that has ended; None where nothing follows."""


class _Enough(Exception):
    """All that was asked for has been printed."""


class _Again(Exception):
    """Open the next session: what the present one was opened for is done."""


class Printer(Output):
    """Prints runs and changes, and knows how far it has come.

    Args:
        write: takes the text of whole lines.
        limit: how many lines are printed, None for all.
    """

    def __init__(
        self,
        writer: LineWriter,
        tables: FollowedTables,
        write: Callable[[str], None],
        *,
        start: SourcePosition,
        until: Until | None = None,
        limit: int | None = None,
    ) -> None:
        self.done = start
        """All up to here has been printed: where to go on."""
        self.line_count = 0
        self._writer = writer
        self._tables = tables
        self._write = write
        self._until = until
        self._limit = limit
        self._open: OpenTransaction | None = None
        tables.at = start

    # -- Output

    def run(self, run: TransactionRun) -> None:
        count = run.transaction_count
        if run.open_transaction is not None:
            start = run.open_transaction.start
            if self._until is not None and self._until.is_reached(SourcePosition(run.end.server, start, None)):
                raise _Enough
            count = 1
        elif self._until is not None:
            count = self._until.count(run, self.done)
            if not count:
                self._take_back()  # parts of a transaction that ends behind the last position asked for
        self._print(self._writer.run(run, count))
        self._open = run.open_transaction
        self._reach(run.end)
        if self._open is None and self._tables.reached(run.end.file):
            raise _Again

    def change(self, change: SchemaChange) -> None:
        # In the middle of a group the change's end is before the group: it is read again, without this statement.
        is_whole = change.end.file is None or self.done.file is None or change.end.file > self.done.file
        if self._until is not None and self._until.excludes(change.end):
            raise _Enough
        self._take_back()
        gtid = _gtid_between(self.done, change.end) if is_whole else None
        self._print(self._writer.change(change, gtid))
        self._tables.forget(change.tables)
        if not is_whole:
            self._tables.announce(change.tables, change.end.file)
        self._reach(change.end)

    def progress(self, position: SourcePosition) -> None:
        self._reach(position)

    def abandon(self) -> None:
        self._take_back()

    # -- what the follower says

    def file_ended(self, following: SourcePosition) -> None:
        """Reading goes on in the next file; a transaction that had not ended is rolled back there."""
        self._take_back()
        self.done = self._tables.at = following

    def group_restarts(self) -> None:
        """The group of which parts may have been printed is read again from its beginning."""
        self._take_back()

    def heard(self, position: SourcePosition) -> None:
        """The stream is there: of a start by GTID it says the file."""
        if self.done.file is None:
            self.done = self._tables.at = position

    @property
    def has_all(self) -> bool:
        """Is there nothing to be printed to begin with?"""
        return self._until is not None and self._until.is_reached(self.done)

    # -- helpers

    def _print(self, lines: list[str]) -> None:
        if self._limit is not None:
            lines = lines[: self._limit - self.line_count]
        if lines:
            self._write("".join(lines))
            self.line_count += len(lines)
        if self._limit is not None and self.line_count >= self._limit:
            raise _Enough

    def _take_back(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            self._print(self._writer.abandoned(opened))

    def _reach(self, position: SourcePosition) -> None:
        self.done = self._tables.at = position
        if self._until is not None and self._open is None and self._until.is_reached(position):
            raise _Enough


def _place(session: EventSession, assembler: Assembler, error: CdcError) -> str:
    """Where an event was not understood: beside the event that ends there or begins there."""
    at = assembler.file_pos
    if error.position is None or at is None:
        return session.name
    return str(at) if at.file == session.name else f"{session.name}, {at}"


def _is_before(done: SourcePosition, reached: SourcePosition) -> bool:
    """Are there whole groups between what is printed and what was read?"""
    return reached.file is not None and (done.file is None or done.file < reached.file)


def _gtid_between(before: SourcePosition, after: SourcePosition) -> str | None:
    """The GTID of the one group between two positions, where they say it."""
    match before.gtid, after.gtid:
        case MysqlGtidSet() as old, MysqlGtidSet() as new:
            added = new.subtract(old)
            return str(added) if added.count() == 1 else None
        case MariadbGtidList() as old, MariadbGtidList() as new:
            changed = {domain: place for domain, place in new.positions.items() if old.positions.get(domain) != place}
            return str(MariadbGtidList(changed)) if len(changed) == 1 else None
    return None


class Follower:
    """Reads until there is no more, all that was asked for is printed, or `is_stopping` says so.

    Args:
        skips_bad: pass tables over that cannot be decoded, and say so through `warn`; else they are errors.
    """

    def __init__(
        self,
        source: EventSource,
        tables: FollowedTables,
        printer: Printer,
        *,
        is_stopping: Callable[[], bool],
        warn: Callable[[str], None],
        skips_bad: bool,
        silence_seconds_max: float | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self.skipped: dict[str, str] = {}
        """Tables that were passed over, with the reason."""
        self._source = source
        self._tables = tables
        self._printer = printer
        self._is_stopping = is_stopping
        self._warn = warn
        self._skips_bad = skips_bad
        self._silence_seconds_max = silence_seconds_max
        self._monotonic = monotonic
        self._is_careful = False
        self._forgot_at: tuple[FilePos | None, str] | None = None
        self._prepared: dict[Xa, PreparedXa] = {}

    def run(self) -> None:
        """Raises what cannot be read or decoded, once all before it is printed."""
        with contextlib.suppress(_Enough):
            while not self._is_stopping() and not self._printer.has_all:
                with contextlib.closing(self._source.open(self._printer.done)) as session:
                    if not self._follow(session):
                        return

    def _follow(self, session: EventSession) -> bool:
        """One session; False when nothing follows it."""
        self._tables.flavor, self._tables.version = session.flavor, session.version
        assembler = Assembler(
            start=self._printer.done,
            flavor=session.flavor,
            server_version=session.version,
            checksum_negotiated=session.checksum_negotiated,
            lower_case_names=session.lower_case_names,
            capture=self._tables,
            output=self._printer,
            limits=_ONE_BY_ONE if self._is_careful or self._tables.has_announced else RunLimits(),
            prepared=self._prepared,
            needs_all_columns=False,
        )
        try:
            self._read(session, assembler)
        except _Again:
            return True
        except CdcError as error:
            self._settle(session, assembler, error)
            return True
        if not session.is_at_end or assembler.saw_barrier:
            return True
        assert session.start is not None, "only files end"
        following = self._source.after(session.start, self._printer.done)
        if following is not None:
            self._printer.file_ended(following)
        return following is not None

    def _read(self, session: EventSession, assembler: Assembler) -> None:
        """The one place where events are taken in: until a barrier, the end of a file, or a stop."""
        heard_at = self._monotonic()
        while not self._is_stopping():
            received = session.fill(_WAIT_SECONDS)
            now = self._monotonic()
            if received:
                heard_at = now
            elif self._silence_seconds_max is not None and now - heard_at > self._silence_seconds_max:
                raise SourceUnavailable(
                    f"the source has sent nothing, not even a heartbeat, for {now - heard_at:.0f} s",
                    hint="the connection is half open, or the server hangs",
                )
            if session.deliver(assembler):
                return
            self._printer.heard(assembler.position)
            assembler.flush()  # all that was received has been taken in: nobody waits for more
            if session.is_at_end:
                return

    def _settle(self, session: EventSession, assembler: Assembler, error: CdcError) -> None:
        """Go on after an error, in another session, where that can be; else raise it."""
        is_of_content = isinstance(error, (ProtocolError, UnsupportedData))
        if is_of_content and not self._is_careful and _is_before(self._printer.done, assembler.position):
            # What was whole before it is held by an assembler that is of no further use: read it again, group by
            # group, and the error comes again right behind what is printed then.
            self._is_careful = True
            return
        self._is_careful = False
        if not is_of_content:
            assembler.flush()
        here = self._printer.done.file
        if isinstance(error, LayoutMismatch) and self._forgot_at != (here, error.table):
            # The table was changed by a statement that is not in the log, or not read as one: define it anew.
            self._forgot_at = (here, error.table)
            self._tables.forget_one(error.table)
        elif isinstance(error, UnsupportedData) and self._skips_bad:
            table = str(self._tables.skip(error.table))
            self.skipped[table] = error.message
            self._warn(f"{table} is passed over from {here} on: {error.message}")
        else:
            if is_of_content:
                error.message = f"{_place(session, assembler, error)}: {error.message}"
            raise error
        self._printer.group_restarts()
