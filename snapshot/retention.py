"""Does the source keep its log as long as a load needs it?

A load needs the log from W, the position at which it began, until the stream has passed it. The server purges a file
when it is older than it keeps files (its age counts from its last change: from when the next one began), or when all
of them are larger than they may be; each is looked at when a file is begun. Somebody may purge by hand at any time.

    the log from W is there for longer than the load takes     nothing is said
    it may not be                                              it is said, once
    it is about to go, and the load is far from its end        the load is stopped, while the stream can begin at W
    it is gone                                                 the load ends at once

One `LogRetention` belongs to one W. Knows no sink and no table.

Source: MySQL manual "binlog_expire_logs_seconds", "SHOW BINLOG EVENTS"; MySQL 8.4 sql/binlog.cc
purge_logs_before_date; MariaDB knowledge base "max_binlog_total_size", sql/log.cc real_purge_logs_by_size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cdc.clock import Clock, SystemClock
from cdc.errors import BinlogPurged, SourceUnavailable, UnsupportedData
from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, SourcePosition
from cdc.source.connection import SourceConnection
from cdc.source.positions import is_in_log
from cdc.source.stream import BinlogStream

__all__ = ["LogExpiry", "LogGuard", "LogOutlook", "LogRetention", "LogTooShort"]

_LOOK_SECONDS_MAX = 10.0
_LOOK_SECONDS_MIN = 1.0
# A load is stopped this long before its log may go, or a fifth of the time for which logs are kept: the stream has to
# begin at W before.
_MARGIN_SECONDS = 60.0
_MARGIN_SHARE = 5.0
_GROWTH_SECONDS_MIN = 5.0
_FORMAT_DESCRIPTION_EVENT = 15
_FORMAT_SECONDS_MAX = 10.0


class LogTooShort(UnsupportedData):
    """The source purges its log sooner than the table is loaded."""


@dataclass(frozen=True, slots=True)
class LogExpiry:
    """When the server purges by itself: None of both where it does not."""

    seconds: float | None = None
    seconds_setting: str = ""
    bytes_max: int | None = None
    bytes_setting: str = ""


@dataclass(frozen=True, slots=True)
class LogOutlook:
    """Is the log from W there, and for how long at least? `seconds_left` is None where nothing is set up to purge it.

    `rule`: the setting that purges it first. `kept_seconds`: how long that keeps a file in all, if it goes by age.
    """

    is_there: bool
    file: str | None = None
    seconds_left: float | None = None
    rule: str = ""
    kept_seconds: float | None = None

    @property
    def margin_seconds(self) -> float:
        """How long before the log may go a load has to be stopped."""
        if self.kept_seconds is None:
            return _MARGIN_SECONDS
        return min(_MARGIN_SECONDS, self.kept_seconds / _MARGIN_SHARE)


def log_expiry(source: SourceConnection) -> LogExpiry:
    """What the server's settings say."""
    names = (
        "binlog_expire_logs_seconds",
        "expire_logs_days",
        "binlog_expire_logs_auto_purge",  # MySQL from 8.0.29 on
        "binlog_space_limit",  # Percona; MariaDB's other name for the next
        "max_binlog_total_size",  # MariaDB from 11.4 on
    )
    listed = ", ".join(f"'{name}'" for name in names)
    rows = source.query_text(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({listed})")
    values = {(name or "").lower(): value or "" for name, value in rows}
    found = LogExpiry()
    seconds, days = float(values.get(names[0]) or 0), float(values.get(names[1]) or 0)
    if values.get(names[2], "ON").upper() not in ("OFF", "0"):
        if seconds:
            found = replace(found, seconds=seconds, seconds_setting=f"{names[0]} is {seconds:.0f}")
        elif days:
            found = replace(found, seconds=days * 86400, seconds_setting=f"{names[1]} is {days:g}")
    for name in names[3:]:
        if size := int(values.get(name) or 0):
            found = replace(found, bytes_max=size, bytes_setting=f"{name} is {size}")
    return found


class LogRetention:
    """Looks at the log from one position on, now and then, on one thread."""

    def __init__(self, since: SourcePosition, *, server_id: int, clock: Clock | None = None) -> None:
        """`server_id`: for a look into the log, while no other stream uses it."""
        self.since = since
        self._server_id = server_id
        self._clock = clock or SystemClock()
        self._file: str | None = None
        self._was_last_at: float | None = None
        self._closed_at: float | None = None
        self._first_size: tuple[float, int] | None = None

    def look(self, source: SourceConnection) -> LogOutlook:
        """How it is now. Raises what the source's connection raises."""
        identity = source.identity()
        logs = [(row["Log_name"] or "", int(row["File_size"] or 0)) for row in source.rows_by_name("SHOW BINARY LOGS")]
        names = [name for name, _ in logs]
        if self.since.file is None and not isinstance(self.since.gtid, MysqlGtidSet):
            return LogOutlook(True)  # a list alone (`checkpoint set`): MariaDB says at the dump whether it has it
        if self.since.server == identity:
            if not is_in_log(source, self.since):
                return LogOutlook(False, self._file or (self.since.file.file if self.since.file else None))
        elif not isinstance(self.since.gtid, MysqlGtidSet):
            return LogOutlook(True)  # the file is another server's, and nobody knows which one it would be here
        if self._file is None:
            self._file = self._find_file(source, names)
        if self._file not in names:
            return LogOutlook(False, self._file)
        return self._outlook(source, logs, names.index(self._file))

    def _find_file(self, source: SourceConnection, names: Sequence[str]) -> str | None:
        """The file that the log is needed from."""
        if self.since.server == source.identity() and self.since.file is not None:
            return self.since.file.file
        assert isinstance(self.since.gtid, MysqlGtidSet), "a position with a file or a GTID set"
        low, high = 0, len(names)  # those before `low` begin with nothing that W lacks, those from `high` on with some
        while low < high:
            middle = (low + high) // 2
            if _previous_gtids(source, names[middle]).subtract(self.since.gtid):
                high = middle
            else:
                low = middle + 1
        return names[low - 1] if low else None

    def _outlook(self, source: SourceConnection, logs: Sequence[tuple[str, int]], index: int) -> LogOutlook:
        expiry = log_expiry(source)
        now = float(source.query_text("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0] or 0)
        found = LogOutlook(True, self._file)
        if expiry.seconds is not None:
            left = self._closed_since(source, logs, index, now) + expiry.seconds - now
            found = replace(found, seconds_left=left, rule=expiry.seconds_setting, kept_seconds=expiry.seconds)
        by_size = self._seconds_by_size(sum(size for _, size in logs[index:]), expiry.bytes_max)
        if by_size is not None and (found.seconds_left is None or by_size < found.seconds_left):
            found = replace(found, seconds_left=by_size, rule=expiry.bytes_setting, kept_seconds=None)
        return found

    def _closed_since(self, source: SourceConnection, logs: Sequence[tuple[str, int]], index: int, now: float) -> float:
        """When W's file was last changed, by the server's clock: now, if it is the one that is written."""
        if index == len(logs) - 1:
            self._was_last_at = now
            return now
        if self._closed_at is None:
            seen = self._was_last_at  # it was then: a little too early is on the safe side
            self._closed_at = _begun_at(source, logs[index + 1][0], self._server_id) if seen is None else seen
        return self._closed_at

    def _seconds_by_size(self, needed: int, bytes_max: int | None) -> float | None:
        """Until what is needed fills all the room, as fast as the log has grown since the first look."""
        now = self._clock.monotonic()
        if self._first_size is None:
            self._first_size = (now, needed)
        began, size_before = self._first_size
        if bytes_max is None:
            return None
        if needed >= bytes_max:
            return 0.0
        if now - began < _GROWTH_SECONDS_MIN or needed <= size_before:
            return None
        return (bytes_max - needed) * (now - began) / (needed - size_before)


def _previous_gtids(source: SourceConnection, file: str) -> MysqlGtidSet:
    """What was in the log before that file."""
    for row in source.rows_by_name("SHOW BINLOG EVENTS IN %s LIMIT 3", (file,)):
        if row["Event_type"] == "Previous_gtids":
            return MysqlGtidSet.parse((row["Info"] or "").replace("\n", ""))
    return MysqlGtidSet.parse("")


class _FirstEvent:
    """Waits for the head of a file, which says when it was begun."""

    saw_barrier = False

    def __init__(self) -> None:
        self.begun_at: int | None = None

    def consume(self, window: memoryview) -> int:  # noqa: ARG002 - the protocol's
        return 0  # one by one

    def feed(self, content: memoryview) -> bool:
        seconds, kind = int.from_bytes(content[:4], "little"), content[4]
        if kind == _FORMAT_DESCRIPTION_EVENT and seconds:
            self.begun_at = seconds
        return self.begun_at is not None


def _begun_at(source: SourceConnection, file: str, server_id: int) -> float:
    """When the server began that file of its log, in seconds since 1970."""
    position = SourcePosition(source.identity(), FilePos.of(file, 4), None)
    stream = BinlogStream(source.settings, flavor=source.flavor, position=position, server_id=server_id)
    event = _FirstEvent()
    deadline = time.monotonic() + _FORMAT_SECONDS_MAX
    try:
        stream.open()
        while not stream.deliver(event):
            if time.monotonic() > deadline:
                raise SourceUnavailable(
                    f"source {source.settings.address} does not send the head of {file} within "
                    f"{_FORMAT_SECONDS_MAX:.0f} s",
                    hint="the load is tried again",
                )
            stream.fill(1.0)
    finally:
        stream.close()
    assert event.begun_at is not None, "the barrier"
    return float(event.begun_at)


@dataclass(slots=True)
class LogGuard:
    """Asked whether to go on with a load, as often as one likes; looks every few seconds.

    `on_warning` is told once, of a load that may take longer than its log is kept.
    """

    retention: LogRetention
    on_warning: Callable[[LogOutlook, float], None]
    clock: Clock
    outlook: LogOutlook | None = None
    _looked_at: float | None = None
    _has_warned: bool = False

    def check(self, source: SourceConnection, *, what: str, seconds_left: float | None) -> None:
        """Raises LogTooShort before the log is purged that `what` needs, BinlogPurged when it is.

        `seconds_left`: how long loading takes yet, where that is known. `source` must have no query under way.
        """
        now = self.clock.monotonic()
        if self._looked_at is not None and now - self._looked_at < self._look_seconds():
            return
        self._looked_at = now
        self.outlook = outlook = self.retention.look(source)
        if not outlook.is_there:
            raise self._gone(source, outlook, what)
        if outlook.seconds_left is None:
            return
        room = outlook.seconds_left - outlook.margin_seconds
        if room <= 0 and (seconds_left is None or seconds_left > outlook.seconds_left / 2):
            raise self._too_short(outlook, what, seconds_left)
        if seconds_left is not None and seconds_left > room and not self._has_warned:
            self._has_warned = True
            self.on_warning(outlook, seconds_left)

    def _look_seconds(self) -> float:
        if self.outlook is None or self.outlook.seconds_left is None:
            return _LOOK_SECONDS_MAX
        # Ten looks at least before a load would have to be stopped.
        return min(_LOOK_SECONDS_MAX, max(_LOOK_SECONDS_MIN, self.outlook.margin_seconds / 10))

    def _gone(self, source: SourceConnection, outlook: LogOutlook, what: str) -> BinlogPurged:
        return BinlogPurged(
            f"source {source.settings.address} has purged its log from {self.retention.since} on"
            + (f" ({outlook.file})" if outlook.file else "")
            + f" while {what} was being loaded, which needs it",
            hint="keep binlogs longer (binlog_expire_logs_seconds, expire_logs_days, and whatever else purges them), "
            "then load again with `cdc checkpoint reset` and `cdc run`",
            position=str(self.retention.since),
        )

    def _too_short(self, outlook: LogOutlook, what: str, seconds_left: float | None) -> LogTooShort:
        takes = "nobody knows how long" if seconds_left is None else f"about {seconds_left:.0f} s"
        return LogTooShort(
            f"{what}: its load takes {takes} yet, and the source may purge the log that it needs "
            f"(from {outlook.file} on) in {max(0.0, outlook.seconds_left or 0):.0f} s: {outlook.rule}",
            table=what,
            hint="keep binlogs longer at the source (binlog_expire_logs_seconds, expire_logs_days, "
            "max_binlog_total_size), or load faster (snapshot.workers, snapshot.rows_per_second), then "
            f"`cdc snapshot {what}`",
            position=str(self.retention.since),
        )
