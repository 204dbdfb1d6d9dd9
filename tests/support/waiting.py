"""Wait for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS_MAX = 0.1


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 120.0,
    what: str | Callable[[], str] = "the condition",
    *,
    poll_seconds: float = 0.02,
) -> T:
    """Call `predicate` until it returns something true, and return that.

    Args:
        timeout: seconds; that is for a test that hangs, not for one on a busy machine.
        what: names what is waited for in the failure; a function is called then, to tell the state reached.
        poll_seconds: after the first look; the longer it takes, the rarer are the looks, up to a tenth of a second.
    Raises:
        TimeoutError: not within `timeout`. Errors of the predicate itself travel at once.
    """
    deadline = time.monotonic() + timeout
    while True:
        if result := predicate():
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what() if callable(what) else what}")
        time.sleep(poll_seconds)
        poll_seconds = max(poll_seconds, min(poll_seconds * 1.2, _POLL_SECONDS_MAX))
