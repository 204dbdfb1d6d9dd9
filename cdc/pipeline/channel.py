"""The bounded queue between the reader thread and the applier thread.

The bound is in bytes of decoded rows, so memory in flight has one limit whatever the rows are like. An item larger
than the bound passes when the queue is empty.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cdc.errors import Stopping
from cdc.model import SchemaChange, SourcePosition, TransactionRun

__all__ = ["Abandoned", "Channel", "Failure", "Item", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """The stream has been seen up to here, and nothing is open: a heartbeat of an idle source.

    Never checkpointed: it proves that nothing lies between, not that a transaction ends there.
    """

    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Failure:
    """The reader ended with this error; what it read before is ahead of it in the queue."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The large transaction whose parts were queued before was never committed at the source."""


Item = TransactionRun | SchemaChange | Progress | Failure | Abandoned


def _nothing() -> None:
    """Nobody has anything to give."""


def _byte_count(item: Item) -> int:
    return item.byte_count if isinstance(item, TransactionRun) else 0


class Channel:
    """Items in order, `bytes_max` of them at a time."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._is_closed = False
        self._is_waited_for = False
        self._may_go_on = False
        self._changed = threading.Condition()
        self.on_hungry: Callable[[], None] = _nothing
        """Called by a `get` that finds nothing, before it waits; what it puts is what that `get` returns."""

    @property
    def byte_count(self) -> int:
        """Decoded bytes queued now."""
        return self._bytes

    @property
    def is_hungry(self) -> bool:
        """Is the applier waiting with nothing to do?"""
        return self._is_waited_for and not self._items

    def put(self, item: Item) -> None:
        """Queue an item, waiting for room. Raises Stopping once the channel is closed."""
        size = _byte_count(item)
        with self._changed:
            while not self._is_closed and self._bytes and self._bytes + size > self._bytes_max:
                self._changed.wait()
            if self._is_closed:
                raise Stopping("the channel is closed")
            if isinstance(item, Progress) and self._items and isinstance(self._items[-1], Progress):
                self._items[-1] = item  # only the latest counts
            else:
                self._items.append(item)
            self._bytes += size
            self._changed.notify_all()

    def get(self, timeout_seconds: float) -> Item | None:
        """The next item, or None when none came within the time."""
        if not self._items:
            self._is_waited_for = True
            try:
                self.on_hungry()
                with self._changed:
                    if not self._items:
                        self._changed.wait(timeout_seconds)
            finally:
                self._is_waited_for = False
        with self._changed:
            if not self._items:
                return None
            item = self._items.popleft()
            self._bytes -= _byte_count(item)
            self._changed.notify_all()
            return item

    def go_on(self) -> None:
        """The barrier that was taken out last is dealt with: what is behind it may come."""
        with self._changed:
            self._may_go_on = True
            self._changed.notify_all()

    def wait_at_barrier(self) -> None:
        """For the reader, behind a barrier that it has put: until `go_on`. Raises Stopping once it is closed."""
        with self._changed:
            while not self._may_go_on and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                raise Stopping("the channel is closed")
            self._may_go_on = False

    def head_commit_us(self) -> int | None:
        """When the oldest queued transaction committed at the source."""
        with self._changed:
            for item in self._items:
                if isinstance(item, TransactionRun) and item.transaction_count:
                    value = item.commit_times_us[0].as_py()
                    return int(value) if value is not None else None
        return None

    def close(self) -> None:
        """Drop what is queued and turn the reader away."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()
