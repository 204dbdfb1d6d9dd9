"""Which lane of a sink a table goes through, and what a lane is called.

A sink is fed by one pipeline or by several at once, its *lanes*. A lane has a stream, a checkpoint, a lease and table
records of its own, and every table belongs to exactly one lane: so each lane promises by itself what a pipeline
promises (docs/decisions/0018-parallel-apply.md). Knows names and numbers only; the records are moved by
`pipeline.dealing`, the threads run in `pipeline.sink_lanes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cdc.model import TableName

__all__ = [
    "LaneMap",
    "LaneRule",
    "Placed",
    "choose_lanes",
    "lane_name",
    "lane_number",
    "related",
    "side_name",
    "side_number",
    "sink_of",
]

# Names of deployments and sinks have no such characters (`cdc.config`).
_MARK, _SIDE_MARK = "#", "~"


def lane_name(pipeline: str, lane: int) -> str:
    """What the metadata call lane `lane` (from 1) of `pipeline`; the first is called as the only one of old."""
    return pipeline if lane == 1 else f"{pipeline}{_MARK}{lane}"


def lane_number(pipeline: str, name: str) -> int | None:
    """The lane of `pipeline` that the metadata call `name`; None for what is none."""
    if name == pipeline:
        return 1
    number = _number(f"{pipeline}{_MARK}", name)
    return None if number == 1 else number


def side_name(pipeline: str, number: int) -> str:
    """What the metadata call side `number` (from 1) of the sink whose first lane is `pipeline` (`pipeline.beside`)."""
    return f"{pipeline}{_SIDE_MARK}{number}"


def side_number(pipeline: str, name: str) -> int | None:
    """The side of that sink that the metadata call `name`; None for what is none."""
    return _number(f"{pipeline}{_SIDE_MARK}", name)


def _number(prefix: str, name: str) -> int | None:
    number = name.removeprefix(prefix)
    if number == name or not (number.isascii() and number.isdigit()) or number.startswith("0"):
        return None
    return int(number)


def sink_of(name: str) -> str:
    """The configured name of the sink that the lane or side `name` belongs to."""
    return name.rpartition("/")[2].partition(_MARK)[0].partition(_SIDE_MARK)[0]


@dataclass(frozen=True, slots=True)
class LaneRule:
    """What the configuration says of a sink's lanes.

    `chosen` has, for each lane, whether its patterns name a table; empty where only the number of lanes is given.
    """

    count: int = 1
    chosen: tuple[Callable[[str, str], bool], ...] = ()

    def named(self, table: TableName) -> int | None:
        """The first lane whose patterns match, else the last one; None where it is ours to choose."""
        if not self.chosen:
            return None
        found = (lane for lane, matches in enumerate(self.chosen, 1) if matches(table.database, table.table))
        return next(found, self.count)


@dataclass(frozen=True, slots=True)
class Placed:
    """A table to be given a lane. `place` is its target: tables with one target go through one lane.

    `lane` is the recorded one, None for a table that is new. `weight` (bytes at the source, or any other measure)
    says how much of a lane it takes. One that `is_idle` (dropped, or captured no more) takes nothing.
    """

    table: TableName
    place: str
    lane: int | None = None
    weight: int = 0
    is_idle: bool = False


def choose_lanes(rule: LaneRule, tables: Iterable[Placed]) -> dict[TableName, int]:
    """The lane of each table, 1 to `rule.count`.

    Where only a number is configured, a table keeps its lane, and new ones go where least is; all are dealt anew when
    a recorded lane is not configured any more, or a configured one would stay empty.
    """
    groups: dict[str, list[Placed]] = {}
    for one in sorted(tables, key=lambda one: one.table):
        groups.setdefault(one.place, []).append(one)
    if rule.chosen:
        lanes = {place: min(rule.named(one.table) or 1 for one in group) for place, group in groups.items()}
    else:
        lanes = _by_weight(rule.count, groups)
    return {one.table: lanes[place] for place, group in groups.items() for one in group}


def related(table: TableName, families: Iterable[tuple[TableName, TableName]]) -> list[TableName]:
    """The tables that pairs of children and parents lead to from that one: its parents, its children, then the others,
    those that fewer steps lead to first."""
    pairs = [pair for pair in families if pair[0] != pair[1]]
    parents = {parent for child, parent in pairs if child == table}
    found = [*sorted(parents), *sorted({child for child, parent in pairs if parent == table} - parents)]
    seen = {table, *found}
    while more := {other for pair in pairs if not seen.isdisjoint(pair) for other in pair} - seen:
        found += sorted(more)
        seen |= more
    return found


def _by_weight(count: int, groups: Mapping[str, Sequence[Placed]]) -> dict[str, int]:
    live = {place: group for place, group in groups.items() if not all(one.is_idle for one in group)}
    recorded = {place: _recorded(group) for place, group in groups.items()}
    lanes = _dealt(count, live, {place: recorded[place] for place in live})
    is_outside = any((recorded[place] or 0) > count for place in live)
    has_empty = len(live) >= count and len(set(lanes.values())) < count
    if is_outside or has_empty:
        lanes = _dealt(count, live, {})
    for place in groups.keys() - live.keys():
        lane = recorded[place]
        lanes[place] = lane if lane is not None and lane <= count else 1
    return lanes


def _recorded(group: Iterable[Placed]) -> int | None:
    return min((one.lane for one in group if one.lane is not None and not one.is_idle), default=None) or min(
        (one.lane for one in group if one.lane is not None), default=None
    )


def _dealt(count: int, groups: Mapping[str, Sequence[Placed]], kept: Mapping[str, int | None]) -> dict[str, int]:
    """The heaviest first, each to the lane that has least; `kept` stay where they are."""
    lanes: dict[str, int] = {}
    loads = {lane: [0, 0] for lane in range(1, count + 1)}  # weight and number of targets

    def put(place: str, lane: int) -> None:
        lanes[place] = lane
        loads[lane][0] += _weight(groups[place])
        loads[lane][1] += 1

    for place in groups:
        lane = kept.get(place)
        if lane is not None and lane <= count:
            put(place, lane)
    for place in sorted(groups.keys() - lanes.keys(), key=lambda place: (-_weight(groups[place]), place)):
        here = {one.lane for one in groups[place]}
        put(place, min(loads, key=lambda lane: (loads[lane], lane not in here, lane)))
    return lanes


def _weight(group: Iterable[Placed]) -> int:
    return sum(one.weight for one in group if not one.is_idle)


class LaneMap:
    """The lane of every table while a service runs. Any thread may ask; the answer for a table never changes.

    Args:
        rule: what is configured.
        place: a table's target.
        lanes: the tables that are known.
        kin: those that belong into one lane with a table that is not, known or not, and the nearest first: it goes to
            the lane of the first one that is known. May raise what the source raises.
    """

    def __init__(
        self,
        rule: LaneRule,
        place: Callable[[TableName], str],
        lanes: Mapping[TableName, int],
        kin: Callable[[TableName], Iterable[TableName]] = lambda _table: (),
    ) -> None:
        self._rule = rule
        self._place = place
        self._kin = kin
        self._lock = threading.Lock()
        self._lanes = dict(lanes)
        self._by_place = {place(table): lane for table, lane in lanes.items()}
        self._counts = dict.fromkeys(range(1, rule.count + 1), 0)
        for lane in self._by_place.values():
            self._counts[lane] = self._counts.get(lane, 0) + 1

    def lane(self, table: TableName) -> int:
        """Its lane. One that comes while the service runs goes with its target, its pattern, its kin, or where fewest
        are. Raises what `kin` raises."""
        lane = self._lanes.get(table)
        if lane is not None:
            return lane
        with self._lock:
            return self._lanes.get(table) or self._add(table)

    def _add(self, table: TableName) -> int:
        place = self._place(table)
        lane = self._by_place.get(place) or self._rule.named(table)
        if lane is None and self._rule.count > 1:
            lane = next((self._lanes[other] for other in self._kin(table) if other in self._lanes), None)
        if lane is None:
            lane = min(range(1, self._rule.count + 1), key=lambda lane: (self._counts[lane], lane))
        if place not in self._by_place:
            self._by_place[place] = lane
            self._counts[lane] = self._counts.get(lane, 0) + 1
        self._lanes[table] = lane
        return lane
