"""The `cdc status --json` object, put together from what a running service knows or from the sinks' metadata.

The field names are a contract with tools outside the repository (DESIGN, section 5): fields may be added, none
renamed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cdc.model import SourcePosition, TableName
from cdc.pipeline.dealing import CannotDeal, least
from cdc.pipeline.retry import NO_RETRIES
from cdc.pipeline.text import iso_time
from checkpoints.store import TableRecord

__all__ = [
    "SinkReport",
    "SourceReport",
    "beside",
    "merged",
    "most_tried",
    "side_states",
    "status_document",
    "worst_state",
]

# What is shown of lanes that differ is the first of these that one of them is in: what needs somebody, then what is
# still on its way, then what flows. `stopped` is one that has finished before the others.
_WORST_FIRST = (
    "failed",
    "retrying",
    "paused",
    "snapshotting",
    "starting",
    "standby",
    "streaming",
    "caught_up",
    "stopped",
)
_RECENT_ERRORS_MAX = 20


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The source as last seen; everything None when it could not be asked."""

    flavor: str | None = None
    server_version: str | None = None
    position: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    """Why it could not be asked: an `error` object, as sinks have one."""


@dataclass(frozen=True, slots=True)
class SinkReport:
    """One sink, or one of its lanes. `rows` has the sink's own estimates by target; `progress` the loads under way.

    `lanes`: what was merged into this one, in order; empty for a lane.
    """

    name: str
    kind: str | None
    state: str
    position: SourcePosition | None = None
    lag_seconds: float | None = None
    last_commit: str | None = None
    error: Mapping[str, Any] | None = None
    holder: str | None = None
    tables: Sequence[TableRecord] = ()
    rows: Mapping[str, int | None] = field(default_factory=dict)
    progress: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recent_errors: Iterable[Mapping[str, Any]] = ()
    retries: Mapping[str, Any] = field(default_factory=lambda: NO_RETRIES)
    prepared: Mapping[str, Any] = field(default_factory=lambda: {"count": 0, "oldest": None})
    staging: Mapping[str, int] | None = None
    lane: int = 1
    lanes: tuple[SinkReport, ...] = ()
    polls: Mapping[TableName, Mapping[str, Any]] = field(default_factory=dict)
    """The `polling` objects of the tables that are not followed by the binlog."""


def worst_state(states: Iterable[str]) -> str:
    """The state of a sink whose lanes are in these."""
    return min(states, key=_WORST_FIRST.index)


def side_states(states: Iterable[str]) -> list[str]:
    """What the states of a lane's sides say of the lane: that it loads, or that they are in trouble. Else nothing."""
    return [state for state in states if state in ("failed", "retrying", "snapshotting")]


def beside(lane: SinkReport, sides: Sequence[SinkReport], elsewhere: Collection[TableName] = ()) -> SinkReport:
    """A lane with its sides: their tables are the lane's, and so is their trouble. The position is its own.

    The lag is the largest of all that have complete tables that only they keep current. `elsewhere`: other lanes'.
    """
    sides = [side for side in sides if side.tables]
    if not sides:
        return lane
    known = {*elsewhere, *(record.source for record in lane.tables)}
    behind = [s for s in sides if any(r.state == "ready" and r.source not in known for r in s.tables)]
    states = [lane.state, *side_states(side.state for side in sides)]
    if any(side.lag_seconds != 0 for side in behind) and lane.state == "caught_up":
        states[0] = "streaming"
    state = worst_state(states)
    lags = [one.lag_seconds for one in (lane, *behind)]
    errors = [one.error for one in (lane, *sides) if one.error and (one.state == state or one is lane)]
    found = (record for one in (*sides, lane) for record in one.tables if one is lane or record.source not in elsewhere)
    tables = {record.source: record for record in found}  # reloads: as the lane has them
    recent = sorted((error for one in (lane, *sides) for error in one.recent_errors), key=lambda e: str(e["since"]))
    return replace(
        lane,
        state=state,
        lag_seconds=None if None in lags else max(lag for lag in lags if lag is not None),
        last_commit=max((one.last_commit for one in (lane, *sides) if one.last_commit), default=None),
        error=errors[-1] if errors else None,
        tables=sorted(tables.values(), key=lambda record: record.source),
        rows={target: rows for one in (lane, *sides) for target, rows in one.rows.items()},
        progress={table: progress for one in (lane, *sides) for table, progress in one.progress.items()},
        recent_errors=recent[-_RECENT_ERRORS_MAX:],
        retries=most_tried([lane.retries, *(side.retries for side in sides)]),
    )


def most_tried(retries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of several pipelines' `retries`, those of the one in most trouble."""
    return max(retries, key=lambda one: (one["is_spent"], one["last_hour"], one["attempt"]))


def merged(lanes: Sequence[SinkReport]) -> SinkReport:
    """One sink out of its lanes: the worst state, the least position, the largest lag, everything else together.

    `prepared` counts a transaction once for each lane that has rows of it.
    """
    first = lanes[0]
    if len(lanes) == 1:
        return replace(first, lanes=(first,))
    state = worst_state(lane.state for lane in lanes)
    lags = [lane.lag_seconds for lane in lanes]
    errors = [lane.error for lane in lanes if lane.state == state and lane.error]
    errors += [lane.error for lane in lanes if lane.error]
    recent = sorted((error for lane in lanes for error in lane.recent_errors), key=lambda error: str(error["since"]))
    return SinkReport(
        name=first.name,
        kind=next((lane.kind for lane in lanes if lane.kind), None),
        state=state,
        position=_least_position(lanes),
        lag_seconds=None if None in lags else max(lag for lag in lags if lag is not None),
        last_commit=max((lane.last_commit for lane in lanes if lane.last_commit), default=None),
        error=errors[0] if errors else None,
        holder=next((lane.holder for lane in lanes if lane.holder), None),
        tables=sorted((record for lane in lanes for record in lane.tables), key=lambda record: record.source),
        rows={target: rows for lane in lanes for target, rows in lane.rows.items()},
        progress={table: progress for lane in lanes for table, progress in lane.progress.items()},
        recent_errors=recent[-_RECENT_ERRORS_MAX:],
        retries=most_tried(lane.retries for lane in lanes),
        prepared={
            "count": sum(lane.prepared["count"] for lane in lanes),
            "oldest": min((lane.prepared["oldest"] for lane in lanes if lane.prepared["oldest"]), default=None),
        },
        staging=first.staging,
        lanes=tuple(lanes),
    )


def _least_position(lanes: Sequence[SinkReport]) -> SourcePosition | None:
    """None while one of them has none, or where they follow different servers, as for a moment after a failover."""
    positions = [lane.position for lane in lanes]
    try:
        return None if None in positions else least(position for position in positions if position is not None)
    except CannotDeal:
        return None


_NOWHERE = {"gtid": None, "file": None, "pos": None}


def status_document(
    *, name: str, version: str, now_us: int, source: SourceReport, sinks: Iterable[SinkReport]
) -> dict[str, Any]:
    """The object, sinks and tables in order."""
    reports = list(sinks)
    return {
        "name": name,
        "version": version,
        "time": iso_time(now_us),
        "source": {
            "flavor": source.flavor,
            "server_version": source.server_version,
            "position": dict(source.position or _NOWHERE),
            "error": None if source.error is None else dict(source.error),
        },
        "sinks": [
            {
                "name": sink.name,
                "kind": sink.kind,
                "state": sink.state,
                "position": _position(sink),
                "lag_seconds": sink.lag_seconds,
                "last_commit": sink.last_commit,
                "error": sink.error,
                "holder": sink.holder,
                "recent_errors": list(sink.recent_errors),
                "retries": dict(sink.retries),
                "prepared": dict(sink.prepared),
                "staging": None if sink.staging is None else dict(sink.staging),
                "lanes": [_lane(lane) for lane in sink.lanes],
            }
            for sink in reports
        ],
        "tables": [
            _table(sink, record, lanes.get(record.source, 1))
            for sink in reports
            for lanes in [_lanes_by_table(sink)]
            for record in sink.tables
        ],
    }


def _position(sink: SinkReport) -> dict[str, Any]:
    return dict(sink.position.to_dict() if sink.position is not None else _NOWHERE)


def _lane(lane: SinkReport) -> dict[str, Any]:
    return {
        "lane": lane.lane,
        "state": lane.state,
        "position": _position(lane),
        "lag_seconds": lane.lag_seconds,
        "last_commit": lane.last_commit,
        "tables": len(lane.tables),
        "error": lane.error,
    }


def _lanes_by_table(sink: SinkReport) -> dict[TableName, int]:
    return {record.source: lane.lane for lane in sink.lanes for record in lane.tables}


def _table(sink: SinkReport, record: TableRecord, lane: int) -> dict[str, Any]:
    return {
        "sink": sink.name,
        "lane": lane,
        "table": str(record.source),
        "target": record.target,
        "state": record.state,
        "rows": sink.rows.get(record.target),
        "last_change": iso_time(record.last_change_us),
        "policy_changes": {column: dict(counts) for column, counts in record.policy_changes.items()},
        "left_out": list(record.left_out),
        "error": record.error,
        "options": dict(record.options),
        "progress": sink.progress.get(str(record.source)),
        "polling": sink.polls.get(record.source) if lane == 0 else None,
    }
