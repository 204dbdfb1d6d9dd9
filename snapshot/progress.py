"""How far a load is: rows, how fast they come, and how long the rest takes, going by the source's own estimate.

The estimate of a table's rows may be wrong by half. It is never shown as less than what has been read; once more has
come than it says, the time left is not known.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from cdc.clock import Clock

__all__ = ["LoadRate", "count_text", "pace_texts", "progress_text", "rows_text"]

# The rate is that of the last so many seconds: chunks come one a second or two, and a pause must show.
_WINDOW_SECONDS = 20.0
_SAMPLE_SECONDS = 0.5
_MEASURED_SECONDS_MIN = 0.5


class LoadRate:
    """Of one table's load. For several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, int]] = deque()
        self._rows = 0
        self._rows_estimate: int | None = None
        self.waits_for: str | None = None
        self.log_seconds_left: float | None = None
        """For how long the source keeps the log that the load needs, where that is known."""

    @property
    def rows(self) -> int:
        """So many have been read and written."""
        return self._rows

    def at(self, rows: int, rows_estimate: int | None, *, waits_for: str | None = None) -> None:
        """So many rows are there now. (The first are those that an earlier attempt brought: they took no time.)"""
        now = self._clock.monotonic()
        with self._lock:
            self._rows, self._rows_estimate, self.waits_for = rows, rows_estimate, waits_for
            samples = self._samples
            if samples and rows < samples[-1][1]:
                samples.clear()  # the load began again
            if not samples or now - samples[-1][0] >= _SAMPLE_SECONDS:
                samples.append((now, rows))
            while len(samples) > 2 and now - samples[1][0] >= _WINDOW_SECONDS:
                samples.popleft()

    @property
    def rows_estimate(self) -> int | None:
        """How many rows there are about, never fewer than have been read."""
        return None if self._rows_estimate is None else max(self._rows, self._rows_estimate)

    @property
    def rows_per_second(self) -> float | None:
        """How fast they come; None until that has been measured."""
        with self._lock:
            if not self._samples:
                return None
            began, rows_before = self._samples[0]
            seconds = self._clock.monotonic() - began
            return (self._rows - rows_before) / seconds if seconds >= _MEASURED_SECONDS_MIN else None

    @property
    def seconds_left(self) -> float | None:
        """None while nobody knows: nothing comes, or more has come than there was said to be."""
        rate = self.rows_per_second
        if not rate or self._rows_estimate is None or self._rows >= self._rows_estimate:
            return None
        return (self._rows_estimate - self._rows) / rate

    def to_dict(self) -> dict[str, Any]:
        """The `progress` of a table in `cdc status --json`."""
        rate, left = self.rows_per_second, self.seconds_left
        return {
            "rows": self._rows,
            "rows_estimate": self.rows_estimate,
            "rows_per_second": None if rate is None else round(rate, 1),
            "seconds_left": None if left is None else round(left, 1),
            "waits_for": self.waits_for,
            "log_seconds_left": None if self.log_seconds_left is None else round(self.log_seconds_left),
        }


def _seconds_text(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `40 s`: as one reads it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def rows_text(count: int) -> str:
    """`1 row`, `12,345 rows`."""
    return "1 row" if count == 1 else f"{count:,} rows"


def count_text(progress: Mapping[str, Any]) -> str:
    """`120,000 of about 500,000 rows`, of a `LoadRate.to_dict`."""
    rows, estimate = int(progress["rows"] or 0), progress["rows_estimate"]
    return f"{rows:,} of about {estimate:,} rows" if estimate and estimate > rows else rows_text(rows)


def pace_texts(progress: Mapping[str, Any]) -> list[str]:
    """What is known of `40,000 rows/s`, `10 s left` and `waits: ...`."""
    found = []
    if progress.get("rows_per_second") is not None:
        found.append(f"{progress['rows_per_second']:,.0f} rows/s")
    if progress.get("seconds_left") is not None:
        found.append(f"{_seconds_text(progress['seconds_left'])} left")
    if progress.get("waits_for"):
        found.append(f"waits: {progress['waits_for']}")
    return found


def progress_text(progress: Mapping[str, Any]) -> str:
    """All of it in one line."""
    return ", ".join([count_text(progress), *pace_texts(progress)])
