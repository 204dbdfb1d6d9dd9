"""Finds, from look to look, that the source's log is not the one any more that is being followed.

A reset, a restored backup, another server behind the address: the stream need not notice. It waits for events of a file
that is gone, or comes from a server that nobody writes to any more. Whoever is told begins a new session, which checks
its checkpoint against the source, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, ServerIdentity

__all__ = ["Followed", "LogEnd", "LogWatch"]


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where the log of `server` ends. `executed`: MySQL's `gtid_executed`, None elsewhere and without GTIDs."""

    server: ServerIdentity
    written: FilePos
    executed: MysqlGtidSet | None = None

    def lacks(self, earlier: LogEnd) -> bool:
        """Is something gone that was there at an earlier look? Neither end ever goes back, unless the log was reset."""
        if self.server != earlier.server:
            return False  # another log
        before, now = earlier.executed, self.executed
        if before is not None and now is not None and before != now and not before.is_subset_of(now):
            return True
        return self.written < earlier.written


@dataclass(frozen=True, slots=True)
class Followed:
    """The server that a stream comes from, and how far it has come; None where nothing has come yet."""

    server: ServerIdentity
    seen: FilePos | None


class LogWatch:
    """What the service's streams follow, held against where the source's log ends."""

    def __init__(self) -> None:
        self._end: LogEnd | None = None
        self._streams: Mapping[Hashable, Followed] = {}
        self._strange: set[Hashable] = set()

    def look(self, end: LogEnd, streams: Mapping[Hashable, Followed]) -> dict[Hashable, str]:
        """For whom the log is another one, and why.

        `end` was looked at after the call before: what a stream had come to by then has to be there. A server that is
        another one counts at the second look only; `is_strange` until then, for the look may be at the old one.
        """
        was_reset = self._end is not None and end.lacks(self._end)
        found, strange = {}, set()
        for key, before in self._streams.items():
            if streams.get(key) is None or streams[key].server != before.server:
                continue  # it ended, or has begun anew since
            if before.server != end.server:
                strange.add(key)
                if key in self._strange:
                    found[key] = (
                        f"its address leads to server {end.server.uuid} now, and the stream comes from "
                        f"{before.server.uuid}"
                    )
            elif was_reset or (before.seen is not None and end.written < before.seen):
                found[key] = f"its log ends at {end.written}, and had more: it was reset, or the server restored"
        self._end, self._streams, self._strange = end, dict(streams), strange
        return found

    @property
    def is_strange(self) -> bool:
        """Was another server found than a stream comes from? Look at it over a new connection."""
        return bool(self._strange)
