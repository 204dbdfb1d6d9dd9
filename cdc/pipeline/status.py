"""What a pipeline says of itself while it runs. Written by the applier thread, read by all others."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from cdc.clock import Clock
from cdc.errors import CdcError
from cdc.model import FilePos, ServerIdentity, SourcePosition
from cdc.pipeline.retry import NO_RETRIES
from cdc.pipeline.text import iso_time
from snapshot.progress import LoadRate

__all__ = ["PipelineStatus"]

_RECENT_ERRORS_MAX = 20


class PipelineStatus:
    """State, position, lag and last errors of one sink's pipeline."""

    def __init__(self, clock: Clock) -> None:
        self.lag: Callable[[], float | None] = lambda: None
        """The lag now, for `to_dict`; set by who knows where the source's log ends."""
        self.retries: Callable[[], Mapping[str, Any]] = lambda: NO_RETRIES
        """The `retries` object, for `to_dict`; set by who counts them."""
        self._clock = clock
        self._lock = threading.Lock()
        self._state = "starting"
        self._position: SourcePosition | None = None
        self._seen: FilePos | None = None
        self._seen_server: ServerIdentity | None = None
        self._last_commit_us: int | None = None
        self._applied_commit_us: int | None = None
        self._caught_up_us: int | None = None
        self._error: dict[str, Any] | None = None
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT_ERRORS_MAX)
        self._counts: Counter[str] = Counter()
        self._progress: dict[str, LoadRate] = {}
        self._prepared: tuple[int, int | None] = (0, None)

    @property
    def state(self) -> str:
        """One of the contract's sink states."""
        return self._state

    def set_state(self, state: str) -> None:
        """`starting snapshotting streaming caught_up paused standby retrying failed stopped`."""
        with self._lock:
            self._state = state

    @property
    def position(self) -> SourcePosition | None:
        """What the sink has durably."""
        return self._position

    def set_checkpoint(self, position: SourcePosition, committed_us: int | None, *, is_same_server: bool) -> None:
        """What the sink has durably; its file position says where the stream is only on the same server."""
        with self._lock:
            self._position = position
            self._last_commit_us = committed_us
            self._seen = position.file if is_same_server else None
            self._seen_server = position.server

    def committed(self, position: SourcePosition, source_commit_us: int | None) -> None:
        """One more sink transaction is durable."""
        with self._lock:
            self._position = position
            self._last_commit_us = self._clock.now_us()
            if source_commit_us is not None:
                self._applied_commit_us = source_commit_us
            if position.file is not None:
                self._seen = position.file
                self._seen_server = position.server
            self._error = None

    def seen(self, position: SourcePosition, *, is_well: bool = True) -> None:
        """The stream has shown that nothing lies between here and the checkpoint; `is_well`: and nothing in trouble."""
        with self._lock:
            self._seen = position.file
            self._seen_server = position.server
            if is_well:
                self._error = None

    def failed(self, error: BaseException, table: str | None = None) -> None:
        """An error, whatever happens next."""
        if isinstance(error, CdcError):
            entry = error.to_dict(since=iso_time(self._clock.now_us()))
        else:
            entry = {
                "class": type(error).__name__,
                "message": str(error),
                "hint": "this is a bug: please report it with the log",
                "position": None,
                "key": None,
                "since": iso_time(self._clock.now_us()),
            }
        with self._lock:
            self._counts[entry["class"]] += 1
            self._recent.append({**entry, "table": table})
            if table is None:
                self._error = entry

    def progress(self, table: str, rows: int, rows_estimate: int | None, *, waits_for: str | None = None) -> LoadRate:
        """How far a load is; `waits_for`: why it reads nothing now."""
        with self._lock:
            rate = self._progress.setdefault(table, LoadRate(self._clock))
        rate.at(rows, rows_estimate, waits_for=waits_for)
        return rate

    @property
    def loads(self) -> dict[str, LoadRate]:
        """The loads under way, by table."""
        with self._lock:
            return dict(self._progress)

    def progress_done(self, table: str) -> None:
        """The load is over."""
        with self._lock:
            self._progress.pop(table, None)

    def set_prepared(self, count: int, oldest_us: int | None) -> None:
        """How many prepared XA transactions have rows waiting, and when the oldest was prepared."""
        with self._lock:
            self._prepared = (count, oldest_us)

    @property
    def prepared(self) -> dict[str, Any]:
        """The `prepared` object of `cdc status --json`."""
        count, oldest_us = self._prepared
        return {"count": count, "oldest": iso_time(oldest_us)}

    @property
    def seen_file(self) -> FilePos | None:
        """Up to where the stream has been applied or seen to be empty."""
        return self._seen

    @property
    def error_counts(self) -> dict[str, int]:
        """How many errors of each class since the start."""
        with self._lock:
            return dict(self._counts)

    @property
    def recent_errors(self) -> list[dict[str, Any]]:
        """The last errors, oldest first."""
        with self._lock:
            return list(self._recent)

    def lag_seconds(self, *, written: FilePos | None, source_now_us: int | None, oldest_us: int | None) -> float | None:
        """0 when the pipeline has passed the last written position; else the age of what is not applied.

        `oldest_us`: commit time of the oldest transaction that is read and not applied, if any is. With none, what is
        missing has not come yet: it committed after the last that was applied, and after the last time that nothing
        was missing. That the source was idle in between is no lag.
        """
        if written is None or source_now_us is None:
            return None
        if self._seen is not None and self._seen >= written:
            self._caught_up_us = source_now_us
            return 0.0
        since = oldest_us
        if since is None:
            since = max((t for t in (self._applied_commit_us, self._caught_up_us) if t is not None), default=None)
        return max(0.0, (source_now_us - since) / 1e6) if since is not None else None

    def to_dict(self) -> Mapping[str, Any]:
        """For the lease's status column and the HTTP pages."""
        lag, retries = self.lag(), dict(self.retries())
        with self._lock:
            return {
                "state": self._state,
                "position": self._position.to_dict() if self._position else None,
                "seen": _seen(self._seen, self._seen_server),
                "lag_seconds": lag,
                "last_commit": iso_time(self._last_commit_us),
                "error": self._error,
                "progress": {table: rate.to_dict() for table, rate in self._progress.items()},
                "recent_errors": list(self._recent),
                "retries": retries,
            }


def _seen(file: FilePos | None, server: ServerIdentity | None) -> dict[str, Any] | None:
    if file is None or server is None:
        return None
    return {"server": server.uuid, "file": file.file, "pos": file.pos}
