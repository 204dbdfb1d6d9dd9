"""When a pipeline that a `TransientError` has ended begins again, and how often that may be.

A server that is away is tried for ever: it costs nothing but lag. What is counted are sessions that both servers had
answered, and that ended all the same: they cost the servers something each time, and that they come again and again
says that something is wrong which waiting does not mend. Knows classes and a clock; no server, no thread.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdc.clock import Clock
from cdc.errors import RetriesSpent, SinkUnavailable, TransientError

__all__ = ["NO_RETRIES", "Pause", "Retries", "RetryPolicy", "spent_hint"]

# Of a pipeline that does not run.
NO_RETRIES: Mapping[str, Any] = {"attempt": 0, "last_hour": 0, "per_hour": None, "is_spent": False}

_HOUR_SECONDS = 3600.0
# 2 to this power is beyond every pause; without an end it is beyond every float after a day's outage.
_DOUBLINGS_MAX = 30
# So often within an hour the source may end our stream for another replica's with our id, before the budget counts as
# spent: that one comes back for ours, and no waiting mends it.
_RIVALS_MAX = 5


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses and limits. `same_place_max`: 0 for no limit."""

    initial_seconds: float = 0.5
    max_seconds: float = 30.0
    per_hour: int = 240
    same_place_max: int = 0

    def pause_seconds(self, attempts: int) -> float:
        """Until the next try, after so many in a row before: doubled each time, and never the same for all."""
        seconds = min(self.max_seconds, self.initial_seconds * float(2 ** min(attempts, _DOUBLINGS_MAX)))
        return seconds * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Pause:
    """What comes of one failure: the `attempt` that it was in a row, and how long to wait.

    `has_spent`: with this one the hour's budget is spent; once, until it was not.
    """

    attempt: int
    seconds: float
    has_spent: bool = False


class Retries:
    """The failures of one pipeline. `failed` and `well` are for its own thread, the rest for any."""

    def __init__(self, policy: RetryPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._attempts = 0
        self._same_place = 0
        self._failed_at: deque[float] = deque()
        self._rival_at: deque[float] = deque()
        self._has_said = False

    def well(self) -> None:
        """It has moved on: the next failure is the first one of something else."""
        with self._lock:
            self._attempts = self._same_place = 0

    def failed(self, error: TransientError, *, has_begun: bool, place: str) -> Pause:
        """A session was ended by `error`; `has_begun`: after both servers had answered. `place`: where it was.

        A session takes several connections: one for which a server had none left is not counted, whichever it was.
        Raises RetriesSpent where the operator has set a limit, and that place has reached it.
        """
        with self._lock:
            attempts, self._attempts = self._attempts, self._attempts + 1
            seconds = self._policy.pause_seconds(attempts)
            if not has_begun or error.is_full:
                return Pause(self._attempts, seconds)
            self._same_place += 1
            if self._policy.same_place_max and self._same_place >= self._policy.same_place_max:
                raise _stuck(error, self._same_place, place) from error
            self._failed_at.append(self._clock.monotonic())
            if error.has_rival:
                self._rival_at.append(self._clock.monotonic())
            is_spent = self._is_spent()
            has_spent, self._has_said = is_spent and not self._has_said, is_spent
            if is_spent:
                spacing = _HOUR_SECONDS / self._policy.per_hour
                seconds = max(seconds, spacing * random.uniform(1.0, 1.25))
            return Pause(self._attempts, seconds, has_spent)

    @property
    def left(self) -> int:
        """How many more failures the hour's budget has; 0 when it is spent."""
        with self._lock:
            return 0 if self._is_spent() else self._policy.per_hour - self._last_hour()

    def to_dict(self) -> dict[str, Any]:
        """The `retries` object of `cdc status --json`."""
        with self._lock:
            return {
                "attempt": self._attempts,
                "last_hour": self._last_hour(),
                "per_hour": self._policy.per_hour,
                "is_spent": self._is_spent(),
            }

    def _is_spent(self) -> bool:
        return self._last_hour() >= self._policy.per_hour or self._of_last_hour(self._rival_at) >= _RIVALS_MAX

    def _last_hour(self) -> int:
        return self._of_last_hour(self._failed_at)

    def _of_last_hour(self, moments: deque[float]) -> int:
        since = self._clock.monotonic() - _HOUR_SECONDS
        while moments and moments[0] <= since:
            moments.popleft()
        return len(moments)


def spent_hint(error: TransientError) -> str:
    """What to look at when sessions end again and again, though the servers answer."""
    if error.has_rival:
        return error.hint
    if isinstance(error, SinkUnavailable):
        return "look at the sink's own log: who ends our sessions there, or holds locks or space that we wait for"
    return "look at the source's own log, at proxies that cut connections, and for another replica with our server_id"


def _stuck(error: TransientError, times: int, place: str) -> RetriesSpent:
    return RetriesSpent(
        f"{times} sessions in a row have ended at the same place, {place}: {error.message}",
        hint=f"{spent_hint(error)}; then start again (retry.same_place_max: 0 tries without end)",
        position=error.position or place,
    )
