"""What loads may ask of the source: rows and bytes a second, sessions at a time, and when they have to wait.

One `SourceGuard` is shared by everything in the process that loads, whatever the sink. A reader asks it before each
chunk, and never within one: a read that waits would keep its read view open. So a limit is kept over a few chunks, not
in each moment.

Source: MySQL manual "Server Status Variables" (Threads_running), "SHOW REPLICA STATUS"; MariaDB knowledge base
"SHOW REPLICA STATUS" (SHOW ALL SLAVES STATUS for several primaries).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cdc.clock import Clock, SystemClock
from cdc.errors import ConfigError
from cdc.source.connection import SourceConnection

__all__ = ["Admission", "GuardLimits", "GuardListener", "Pause", "SourceGuard"]

# How often a source is asked that has given no reason to wait, and one that has.
_ASK_SECONDS = 1.0
# How long it must have given none, before loads go on: what rises again at once would only flap.
_CALM_SECONDS = 3.0
# What may be read at once after a time in which nothing was.
_BURST_SECONDS = 1.0
_SLOT_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """The limits of all loads together; None: no limit.

    `connections`: sessions that read tables. `threads_running`: the server's own count, our sessions among it.
    `replica_lag_seconds`: of a source that is a replica itself.
    """

    rows_per_second: float | None = None
    bytes_per_second: float | None = None
    connections: int | None = None
    threads_running: int | None = None
    replica_lag_seconds: float | None = None

    @property
    def has_pause(self) -> bool:
        """Is there anything that the source is asked for?"""
        return self.threads_running is not None or self.replica_lag_seconds is not None


@dataclass(frozen=True, slots=True)
class Pause:
    """Loads wait, because of `reason`, since that time (of `Clock.monotonic`)."""

    reason: str
    since: float


class GuardListener(Protocol):
    """Is told what a guard does, by the thread that finds it out."""

    def paused(self, reason: str) -> None:
        """No chunk is begun any more."""

    def released(self, seconds: float) -> None:
        """Chunks are begun again, after so long."""

    def lag_unknown(self) -> None:
        """The source is no replica: it has no lag that loads could wait for."""


class _Silent:
    def paused(self, reason: str) -> None:
        """Nobody wants to know."""

    def released(self, seconds: float) -> None:
        """Nobody wants to know."""

    def lag_unknown(self) -> None:
        """Nobody wants to know."""


@dataclass(slots=True)
class Admission:
    """What has been reserved for a chunk, until it is known what it took."""

    rows: float
    byte_count: float


@dataclass(slots=True)
class _Bucket:
    """Fills by `rate` a second, up to a second's worth; what is taken may leave it in debt."""

    rate: float
    level: float = 0.0
    at: float | None = None

    def fill(self, now: float) -> None:
        if self.at is not None:
            self.level = min(self.level + (now - self.at) * self.rate, self.rate * _BURST_SECONDS)
        self.at = now

    @property
    def seconds_in_debt(self) -> float:
        return max(0.0, -self.level / self.rate)


class SourceGuard:
    """The limits, and what they allow now. For several threads."""

    def __init__(
        self,
        limits: GuardLimits | None = None,
        *,
        clock: Clock | None = None,
        listener: GuardListener | None = None,
    ) -> None:
        self.limits = limits or GuardLimits()
        self._clock = clock or SystemClock()
        self._listener = listener or _Silent()
        self._lock = threading.Lock()
        self._rows = _bucket(self.limits.rows_per_second)
        self._bytes = _bucket(self.limits.bytes_per_second)
        self._row_bytes = 0.0  # of the rows so far
        self._asking = threading.Lock()
        self._asked_at: float | None = None
        self._calm_at = float("-inf")
        self._pause: Pause | None = None
        self._has_said_no_lag = False
        self.slots = ReaderSlots(self.limits.connections)

    @property
    def pause(self) -> Pause | None:
        """Why loads wait now."""
        return self._pause

    def rows_max(self, rows: int, seconds: float) -> int:
        """The rows of a chunk, that it takes no more than `seconds` of the limit."""
        rate = self.limits.rows_per_second
        return rows if rate is None else max(1, min(rows, int(rate * seconds)))

    def bytes_max(self, byte_count: int, seconds: float) -> int:
        """Likewise its bytes."""
        rate = self.limits.bytes_per_second
        return byte_count if rate is None else max(1, min(byte_count, int(rate * seconds)))

    # ------------------------------------------------------------ before and after a chunk

    def admit(self, connection: SourceConnection, rows: int, sleep: Callable[[float], None]) -> Admission:
        """Wait until a chunk of about so many rows may be read.

        `connection` is asked how the source is. `sleep` sleeps so many seconds at most, and raises to end the wait.
        """
        while self._is_to_pause(connection):
            sleep(_ASK_SECONDS)
        while True:
            with self._lock:
                seconds = self._seconds_in_debt()
                if not seconds:
                    return self._reserve(rows)
            sleep(min(seconds, _ASK_SECONDS))

    def settle(self, admission: Admission, *, rows: int, byte_count: int) -> None:
        """The chunk is read, and was so large."""
        with self._lock:
            if rows:
                size = byte_count / rows
                self._row_bytes = size if not self._row_bytes else (3 * self._row_bytes + size) / 4
            if self._rows is not None:
                self._rows.level += admission.rows - rows
            if self._bytes is not None:
                self._bytes.level += admission.byte_count - byte_count

    def throttle(self, *, rows: int, byte_count: int, sleep: Callable[[float], None]) -> None:
        """Rows that had to be read: wait until more may be. For a view that stays open in any case.

        Nothing is paused for here: that would hold the view for as long as the source is in trouble.
        """
        self.settle(Admission(0, 0), rows=rows, byte_count=byte_count)
        while True:
            with self._lock:
                seconds = self._seconds_in_debt()
            if not seconds:
                return
            sleep(min(seconds, _ASK_SECONDS))

    def wait(self, connection: SourceConnection, sleep: Callable[[float], None]) -> None:
        """Wait until a read may begin that cannot be cut into chunks. `connection` and `sleep` as in `admit`."""
        self.admit(connection, 0, sleep)

    def _seconds_in_debt(self) -> float:
        now = self._clock.monotonic()
        longest = 0.0
        for bucket in (self._rows, self._bytes):
            if bucket is not None:
                bucket.fill(now)
                longest = max(longest, bucket.seconds_in_debt)
        return longest

    def _reserve(self, rows: int) -> Admission:
        admission = Admission(float(rows), rows * self._row_bytes)
        if self._rows is not None:
            self._rows.level -= admission.rows
        if self._bytes is not None:
            self._bytes.level -= admission.byte_count
        return admission

    # ------------------------------------------------------------ how the source is

    def _is_to_pause(self, connection: SourceConnection) -> bool:
        if not self.limits.has_pause:
            return False
        # One thread asks for all. The first answer is waited for, later the last one counts while another asks.
        if self._asking.acquire(blocking=self._asked_at is None):
            try:
                self._ask(connection)
            finally:
                self._asking.release()
        return self._pause is not None

    def _ask(self, connection: SourceConnection) -> None:
        now = self._clock.monotonic()
        if self._asked_at is not None and now - self._asked_at < _ASK_SECONDS:
            return
        reason = self._reason(connection)
        self._asked_at = now
        if reason is not None:
            self._calm_at = float("inf")
            if self._pause is None:
                self._pause = Pause(reason, now)
                self._listener.paused(reason)
            else:
                self._pause = Pause(reason, self._pause.since)
            return
        self._calm_at = min(self._calm_at, now)
        if self._pause is not None and now - self._calm_at >= _CALM_SECONDS:
            seconds = now - self._pause.since
            self._pause = None
            self._listener.released(seconds)

    def _reason(self, connection: SourceConnection) -> str | None:
        limits = self.limits
        if limits.threads_running is not None:
            running = threads_running(connection)
            if running > limits.threads_running:
                return f"Threads_running is {running}, more than {limits.threads_running}"
        if limits.replica_lag_seconds is not None:
            return self._lag_reason(connection, limits.replica_lag_seconds)
        return None

    def _lag_reason(self, connection: SourceConnection, seconds_max: float) -> str | None:
        lags = replica_lags(connection)
        if not lags:
            if not self._has_said_no_lag:
                self._has_said_no_lag = True
                self._listener.lag_unknown()
            return None
        if None in lags:
            return "the source is a replica whose replication is stopped: its lag is not known"
        worst = max(lag for lag in lags if lag is not None)
        return f"the source lags {worst} s behind its own, more than {seconds_max:g} s" if worst > seconds_max else None


def _bucket(rate: float | None) -> _Bucket | None:
    return None if rate is None else _Bucket(rate)


def threads_running(connection: SourceConnection) -> int:
    """How many sessions the server works for at this moment, by its own count."""
    rows = connection.query_text("SHOW GLOBAL STATUS LIKE 'Threads\\_running'")
    return int(rows[0][1] or 0)


def replica_lags(connection: SourceConnection) -> list[int | None]:
    """How far a source that is a replica is behind, for each of those that it follows; None: nobody knows.

    Empty where it is no replica. Raises ConfigError where we may not ask.
    """
    if connection.flavor == "mariadb":
        sql = "SHOW ALL SLAVES STATUS"
    else:
        sql = "SHOW REPLICA STATUS" if connection.version >= (8, 0, 22) else "SHOW SLAVE STATUS"
    try:
        rows = connection.rows_by_name(sql)
    except ConfigError as error:
        error.hint = (
            f"GRANT {'REPLICA MONITOR' if connection.flavor == 'mariadb' else 'REPLICATION CLIENT'} ON *.* TO the user "
            "of source.url, or take snapshot.pause_when.replica_lag_seconds out of the configuration"
        )
        raise
    found = [row.get("Seconds_Behind_Source", row.get("Seconds_Behind_Master")) for row in rows]
    return [None if lag is None else int(lag) for lag in found]


@dataclass(slots=True)
class ReaderSlots:
    """Sessions that read tables, of which there are `limit` at most. Who asked first has the next one.

    A load waits for its first session only; others it takes where nobody waits.
    """

    limit: int | None
    _used: int = 0
    _queue: deque[object] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def used(self) -> int:
        """How many there are."""
        return self._used

    @property
    def is_wanted(self) -> bool:
        """Does a load wait for its first?"""
        return bool(self._queue)

    def try_take(self) -> bool:
        """One more, if there is one that nobody waits for."""
        with self._lock:
            if self.limit is not None and (self._used >= self.limit or self._queue):
                return False
            self._used += 1
            return True

    def take(self, sleep: Callable[[float], None]) -> None:
        """One more, as soon as there is one. `sleep` as in `SourceGuard.admit`."""
        if self.try_take():
            return
        ticket = object()
        with self._lock:
            self._queue.append(ticket)
        try:
            while not self._take_in_turn(ticket):
                sleep(_SLOT_POLL_SECONDS)
        except BaseException:
            with self._lock:
                if ticket in self._queue:
                    self._queue.remove(ticket)
            raise

    def _take_in_turn(self, ticket: object) -> bool:
        with self._lock:
            if self._queue[0] is not ticket or (self.limit is not None and self._used >= self.limit):
                return False
            self._queue.popleft()
            self._used += 1
            return True

    def give(self) -> None:
        """One less."""
        with self._lock:
            assert self._used > 0, "what was taken"
            self._used -= 1
