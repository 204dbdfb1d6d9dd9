"""Time and pauses, passed in so that tests can own them."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Wall time for what people read, monotonic time for every deadline."""

    def now_us(self) -> int:
        """Wall clock, microseconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set (true) or `seconds` have passed (false)."""


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)
