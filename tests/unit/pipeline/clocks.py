"""A clock that a test owns: waiting is what makes its time pass."""

from __future__ import annotations

import threading


class FakeClock:
    """`wait` lets the seconds pass at once; other threads get a turn."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.waits: list[float] = []

    def now_us(self) -> int:
        return int(self.seconds * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.seconds += seconds
        return event.wait(0.0005)
