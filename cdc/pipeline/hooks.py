"""Named points of the data path where a crash test kills the process.

`CDC_CRASH_AT=before_commit:3` kills the process with SIGKILL the third time it gets there: no handler runs, nothing is
flushed, just as after a power cut. Unset, a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from cdc.errors import ConfigError

__all__ = ["CRASH_POINTS", "Hooks"]

CRASH_POINTS = (
    "after_fetch",  # bytes have been received
    "after_decode",  # a run has been decoded and is queued
    "before_statement",  # each statement that changes rows in the sink
    "after_statement",
    "before_cascade",  # of what foreign keys did in no event nothing is done, but the rows before it
    "before_checkpoint",  # all rows are in the transaction, the checkpoint is not
    "before_commit",
    "after_commit",
    "after_lease",  # the lease is taken, nothing is read yet
    "target_made",  # a target table has been created, nothing is recorded of its load
    "load_begun",  # a table's load is recorded, no row is copied
    "load_chunk_staged",  # a chunk is in a file
    "load_chunk",  # a chunk of a load is in the sink's transaction
    "load_chunk_committed",
    "load_done",  # all chunks are there, the position to catch up to is not recorded
    "load_recorded",
    "beside_giving",  # tables become a side's in the open transaction
    "beside_given",  # and it is committed; the side has not begun
    "beside_met",  # lane and side stand still, to join
    "beside_giving_up",  # a lane lets go of tables whose shadows are there, in the open transaction
    "beside_given_up",  # and it is committed
    "beside_merging",  # a shadow is merged into its target in the open transaction
    "beside_merged",  # and it is committed; the shadow is still there
    "beside_joining",  # tables become their lane's in the open transaction
    "beside_joined",  # and it is committed; the lane has not gone on
    "schema_change",  # DDL in the stream is about to be followed or recorded
    "schema_intent",  # on a sink that commits DDL by itself: the intent is recorded, the target is as it was
    "schema_altered",  # the target is altered, nothing is recorded of it
    "schema_recorded",  # the target is altered, and the checkpoint behind the statement
)


class Hooks:
    """Counts how often each point was reached, and kills the process at the one asked for."""

    def __init__(self, crash_at: str = "") -> None:
        point, _, count = crash_at.partition(":")
        is_count = not count or (count.isascii() and count.isdigit() and int(count) > 0)
        if point and (point not in CRASH_POINTS or not is_count):
            raise ConfigError(
                f"CDC_CRASH_AT={crash_at} names no crash point",
                hint=f"one of {', '.join(CRASH_POINTS)}, with :n for the n-th time",
            )
        self._point = point
        self._left = int(count) if count and is_count else 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Hooks:
        """As `CDC_CRASH_AT` says. Raises ConfigError for a point that does not exist."""
        return cls(environ.get("CDC_CRASH_AT", ""))

    def __call__(self, point: str) -> None:
        """This point is reached now."""
        if point != self._point:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
