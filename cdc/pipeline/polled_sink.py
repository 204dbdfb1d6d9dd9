"""A sink some of whose tables are polled: its lanes, if it has any, and its poller, as one group to whoever runs it.

The poller counts as lane 0 of the sink. What ends one of the two for good ends the other.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cdc.clock import Clock
from cdc.model import TableName
from cdc.pipeline.poller import Poller
from cdc.pipeline.report import SinkReport, most_tried, worst_state
from cdc.pipeline.runner import Pipeline
from cdc.pipeline.sink_lanes import SinkLanes
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from checkpoints.polls import POLLER, PollState, PollStore, poller_name
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["PolledSink", "poll_states", "poller_stores", "together", "with_poller"]


@dataclass(frozen=True, slots=True)
class _NoSides:
    """Nothing loads beside a stream where there is none."""

    sides: tuple[Any, ...] = ()


class PolledSink:
    """What `SinkLanes` is to its owner, for a sink with a poller. `lanes` is None where every table is polled."""

    def __init__(self, lanes: SinkLanes | None, poller: Poller, clock: Clock) -> None:
        self.poller = poller
        self._streams = lanes
        self._clock = clock
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Begin."""
        if self._streams is not None:
            self._streams.start()
        self.poller.start()

    def request_stop(self) -> None:
        """Finish the open sink transactions, then leave."""
        self._is_stopping.set()
        self.poller.request_stop()
        if self._streams is not None:
            self._streams.request_stop()

    def cancel(self) -> None:
        """Do not wait for the running statements: they are rolled back."""
        self.poller.cancel()
        if self._streams is not None:
            self._streams.cancel()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end of all; True when it has come."""
        deadline = self._clock.monotonic() + timeout_seconds
        if self.error is not None and not self._is_stopping.is_set():
            self.request_stop()  # one has failed: the other ends as well
        if self._streams is not None and not self._streams.join(timeout_seconds):
            return False
        return self.poller.join(max(0.0, deadline - self._clock.monotonic()))

    @property
    def error(self) -> BaseException | None:
        """Why they ended, None while they run, and when they were stopped or have finished."""
        of_lanes = self._streams.error if self._streams is not None else None
        return of_lanes or self.poller.error

    @property
    def lanes(self) -> Mapping[int, Pipeline]:
        """The pipelines of the lanes, without the poller."""
        return self._streams.lanes if self._streams is not None else {}

    @property
    def beside(self) -> Any:
        """Who loads tables beside the lanes."""
        return getattr(self._streams, "beside", _NoSides())

    @property
    def tables(self) -> list[TableRecord]:
        """The tables of the lanes and of the poller, sorted by name; one that has changed over is where it is now."""
        streamed = self._streams.tables if self._streams is not None else []
        return together(streamed, self.poller.tables)

    def targets(self) -> list[TargetTable]:
        """The targets of the tables that are loaded."""
        return [*(self._streams.targets() if self._streams is not None else []), *self.poller.targets()]

    def queue_bytes(self) -> int:
        """Decoded bytes that wait for the sink."""
        return self._streams.queue_bytes() if self._streams is not None else 0

    @property
    def is_sink_healthy(self) -> bool | None:
        """Did the sink answer the last time it was asked? None before the first."""
        found = {self.poller.is_sink_healthy, self._streams.is_sink_healthy if self._streams is not None else None}
        found.discard(None)
        return None if not found else False not in found


def together(streamed: list[TableRecord], polled: list[TableRecord]) -> list[TableRecord]:
    """Of a table that has changed over between stream and poller, the record of who has it now; sorted by name."""
    found = {record.source: record for record in streamed}
    for record in polled:
        other = found.get(record.source)
        if other is None or other.state == "dropped":
            found[record.source] = record
    return [found[name] for name in sorted(found)]


# ---------------------------------------------------------------- from the metadata


def poller_stores(sink: Sink, pipeline: str) -> dict[int, InSinkStore]:
    """The metadata of the poller of the sink whose first lane is `pipeline`, by its lane; {} where it never ran."""
    store = InSinkStore(sink, poller_name(pipeline))
    if not store.exists() or not store.exists("polls") or store.read_lease() is None:
        return {}
    return {POLLER: store}


def poll_states(store: InSinkStore) -> dict[TableName, PollState]:
    """How far the tables are that the poller of `store` has."""
    return PollStore(store).load()


# ---------------------------------------------------------------- the status


def with_poller(sink: SinkReport | None, poller: SinkReport) -> SinkReport:
    """A sink with its poller: its tables and troubles are the sink's. Position and lag are those of the stream."""
    if sink is None:
        return replace(poller, lanes=(poller,))
    tables = together(list(sink.tables), list(poller.tables))
    own = {record.source for record in poller.tables if any(record is one for one in tables)}
    poller = replace(poller, tables=[record for record in poller.tables if record.source in own])
    error = sink.error or poller.error
    if poller.error and worst_state([sink.state, poller.state]) == poller.state != sink.state:
        error = poller.error
    return replace(
        sink,
        state=worst_state([sink.state, poller.state]) if poller.state != "stopped" else sink.state,
        last_commit=max((one.last_commit for one in (sink, poller) if one.last_commit), default=None),
        error=error,
        holder=sink.holder or poller.holder,
        tables=tables,
        rows={**poller.rows, **sink.rows},
        progress={**poller.progress, **sink.progress},
        recent_errors=sorted([*sink.recent_errors, *poller.recent_errors], key=lambda e: str(e["since"]))[-20:],
        retries=most_tried([sink.retries, poller.retries]),
        polls=poller.polls,
        lanes=(*sink.lanes, poller),
    )
