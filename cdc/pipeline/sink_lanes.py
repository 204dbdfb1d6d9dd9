"""The pipelines of one sink: a group that starts, stops and fails as one.

The first lane's lease stands for the sink: in its first session the first lane takes the leases of all others, deals
the tables (`pipeline.dealing`) and only then starts the others. What ends one lane for good ends them all, so that no
other instance can take some of them over while this one runs the rest.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cdc.clock import Clock
from cdc.errors import ConfigError, ResyncRequired
from cdc.log import Logger
from cdc.model import SourcePosition, TableName
from cdc.pipeline.beside import Beside, LaneBeside, SideLink
from cdc.pipeline.dealing import (
    CannotDeal,
    Dealing,
    LaneState,
    carry_out,
    lane_stores,
    plan_dealing,
    read_lane,
    side_stores,
)
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.lanes import LaneMap, LaneRule, Placed, choose_lanes, lane_name, sink_of
from cdc.pipeline.lease import acquire_under
from cdc.pipeline.runner import Pipeline
from cdc.schema.target import TargetTable
from cdc.source.connection import SourceConnection
from cdc.source.definitions import list_tables
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["LaneLink", "SinkLanes"]


@dataclass(frozen=True, slots=True)
class LaneLink:
    """What a lane's pipeline is given to be one of several."""

    owns: Callable[[str, str], bool]
    """Is the table of this lane?"""
    on_lease: Callable[[InSinkStore, SourceConnection], None]
    on_end: Callable[[BaseException | None], None]
    beside: LaneBeside


class SinkLanes:
    """Every pipeline of one sink.

    Args:
        pipeline: the name of the first lane in the metadata.
        make_lane: a lane's pipeline, not started.
        make_side: a side's pipeline, not started (`pipeline.beside`).
        sides: how many of them there may be at a time.
        captures: does the configuration want the table?
        target: a table's target on this sink: namespace and name.
        place: both as text, in one case.
        families: of the tables, each child with a parent whose cascades are applied to it by us.
        kin: likewise, all that a table which comes while the service runs is to be with; asks the source.
        is_standby: does it wait for as long as another instance has one of its leases?
    """

    def __init__(
        self,
        *,
        pipeline: str,
        rule: LaneRule,
        make_lane: Callable[[int, LaneLink], Pipeline],
        make_side: Callable[[int, SideLink], Pipeline],
        sides: int,
        target: Callable[[TableName], tuple[str, str]],
        captures: Callable[[str, str], bool],
        place: Callable[[TableName], str],
        clock: Clock,
        hooks: Hooks,
        log: Logger,
        families: Callable[
            [SourceConnection, Collection[TableName]], Sequence[tuple[TableName, TableName]]
        ] = lambda _source, _tables: (),
        kin: Callable[[TableName], Collection[TableName]] = lambda _table: (),
        is_standby: bool = False,
    ) -> None:
        self.error: BaseException | None = None
        """Why the lanes ended, None while they run, and when they were stopped or have finished."""
        self._pipeline = pipeline
        self._rule = rule
        self._make_lane = make_lane
        self._captures = captures
        self._place = place
        self._families = families
        self._kin = kin
        self._is_standby = is_standby
        self._clock = clock
        self._log = log.bind(sink=sink_of(pipeline))
        self._is_stopping = threading.Event()
        self._map: LaneMap | None = None
        self.beside = Beside(
            pipeline=pipeline,
            count_max=sides,
            make_side=make_side,
            place=target,
            lane_position=self._lane_position,
            on_error=self._on_error,
            clock=clock,
            hooks=hooks,
            log=log,
            is_standby=is_standby,
        )
        """Who loads their tables."""
        self._lanes: Mapping[int, Pipeline] = {}  # replaced, never changed: other threads go through it
        for lane in range(1, rule.count + 1):
            self._add(lane)

    # ------------------------------------------------------------ from outside

    def start(self) -> None:
        """Begin with the first lane; it starts the others."""
        self._lanes[1].start()

    def request_stop(self) -> None:
        """Finish the open sink transactions, then leave."""
        self._is_stopping.set()
        for pipeline in self._lanes.values():
            pipeline.request_stop()
        self.beside.request_stop()

    def cancel(self) -> None:
        """Do not wait for the running statements: they are rolled back."""
        for pipeline in self._lanes.values():
            pipeline.cancel()
        self.beside.cancel()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end of all; True when it has come."""
        deadline = self._clock.monotonic() + timeout_seconds
        # Only the first lane starts others: once it has ended, none is added.
        if not self._lanes[1].join(timeout_seconds):
            return False
        started = [pipeline for pipeline in self._lanes.values() if pipeline.is_started]
        has_ended = all(pipeline.join(max(0.0, deadline - self._clock.monotonic())) for pipeline in started)
        return has_ended and self.beside.join(deadline)  # only lanes begin sides

    @property
    def lanes(self) -> Mapping[int, Pipeline]:
        """The pipelines by lane, in order."""
        return self._lanes

    @property
    def tables(self) -> list[TableRecord]:
        """The tables of all lanes and sides, sorted by name."""
        # What a lane has, too, is shown as the lane has it.
        pipelines = [*(side.pipeline for side in self.beside.sides), *self._lanes.values()]
        found = {record.source: record for pipeline in pipelines for record in pipeline.tables}
        return sorted(found.values(), key=lambda record: record.source)

    def targets(self) -> list[TargetTable]:
        """The targets of the tables that are loaded."""
        sides = [target for side in self.beside.sides for target in side.pipeline.targets()]
        return [target for pipeline in self._lanes.values() for target in pipeline.targets()] + sides

    def queue_bytes(self) -> int:
        """Decoded bytes that wait for the sink."""
        sides = sum(side.pipeline.queue_bytes() for side in self.beside.sides)
        return sides + sum(pipeline.queue_bytes() for pipeline in self._lanes.values())

    @property
    def is_sink_healthy(self) -> bool | None:
        """Did the sink answer every lane the last time it was asked? None before the first."""
        found = {pipeline.is_sink_healthy for pipeline in self._lanes.values()} - {None}
        return None if not found else False not in found

    # ------------------------------------------------------------ the first lane's first session

    def _add(self, lane: int) -> Pipeline:
        link = LaneLink(
            owns=lambda database, table: self._is_of(lane, TableName(database, table)),
            on_lease=self._on_first_lease if lane == 1 else _nothing,
            on_end=lambda error: self._on_end(lane, error),
            beside=LaneBeside(self.beside, lane, lambda table: self._lane_of(table)),
        )
        pipeline = self._make_lane(lane, link)
        self._lanes = dict(sorted({**self._lanes, lane: pipeline}.items()))
        return pipeline

    def _is_of(self, lane: int, table: TableName) -> bool:
        if self.beside.has(table):
            return False
        return len(self._lanes) == 1 or self._lane_of(table) == lane

    def _lane_of(self, table: TableName) -> int:
        assert self._map is not None, "tables are asked for before they are dealt"
        return self._map.lane(table)

    def _lane_position(self, lane: int) -> SourcePosition | None:
        pipeline = self._lanes.get(lane)
        return pipeline.status.position if pipeline is not None else None

    def _on_first_lease(self, store: InSinkStore, source: SourceConnection) -> None:
        if self._map is not None:
            return
        # A lease that was not let go may be of an instance that sleeps: it must not write when it wakes.
        stores = {**lane_stores(store.sink, self._pipeline, or_leased=True), 1: store}
        for lane in range(2, self._rule.count + 1):
            stores.setdefault(lane, InSinkStore(store.sink, lane_name(self._pipeline, lane)))
        for lane in sorted(stores.keys() - {1}):
            pipeline = self._lanes.get(lane) or self._add(lane)
            stores[lane].epoch = acquire_under(
                store,
                functools.partial(pipeline.take_lease, self._is_stopping, store.sink.session()),
                self._clock,
                self._log,
                is_standby=self._is_standby,
            )
        lanes: Mapping[TableName, int] = {}
        if len(stores) > 1:
            lanes = self._deal(source, {lane: read_lane(stores[lane]) for lane in sorted(stores)})
            lanes = self._with_sides(store, lanes)
        dealt = LaneMap(self._rule, self._place, lanes, self._kin)
        self.beside.adopt(stores, dealt.lane)
        self._map = dealt
        wanted = {*lanes.values(), *range(1, self._rule.count + 1)}
        for lane, pipeline in self._lanes.items():
            if lane not in wanted:
                pipeline.release()
            elif lane > 1:
                pipeline.start()
        self._lanes = {lane: pipeline for lane, pipeline in self._lanes.items() if lane in wanted}

    def _deal(self, source: SourceConnection, states: Mapping[int, LaneState]) -> Mapping[TableName, int]:
        """Bring every table to its lane; the lanes of all that are recorded."""
        here = _recorded_lanes(states)
        lanes = choose_lanes(self._rule, self._placed(source, states))
        try:
            dealing = plan_dealing(states, lanes, source.identity())
        except CannotDeal as error:
            self._log.warning(
                "lanes_not_dealt",
                message=str(error),
                hint="the tables stay in the lanes that they are in; the next start deals them as configured",
            )
            self._require_together(here, str(error))
            dealing, lanes = Dealing(), here
        unused = [lane for lane in states if lane > self._rule.count and lane not in lanes.values()]
        retired = [lane for lane in unused if states[lane].checkpoint is not None]
        carry_out(states[1].store.sink, states, lanes, dealing, retired=retired)
        if dealing.moved or retired:
            self._log.info(
                "lanes_dealt",
                lanes=self._rule.count,
                moved=len(dealing.moved),
                retired=retired,
                positions={lane: str(position) for lane, position in dealing.checkpoints.items()},
            )
        return lanes

    def _placed(self, source: SourceConnection, states: Mapping[int, LaneState]) -> list[Placed]:
        """Every table that is recorded, or that the source has and the configuration wants."""
        present = list_tables(source, self._captures)[0]
        weights = self._weights(source, present)
        together = self._together(states[1].store, source, present)
        found: dict[TableName, Placed] = {}

        def place(table: TableName) -> str:
            here = self._place(table)
            return together.get(here, here)

        for table in present:
            found[table] = Placed(table, place(table), None, weights.get(table, 0))
        for lane, state in states.items():
            for table, record in state.records.items():
                is_idle = record.state == "dropped" or not self._captures(table.database, table.table)
                found[table] = Placed(table, place(table), lane, weights.get(table, 0), is_idle)
        return list(found.values())

    def _together(self, store: InSinkStore, source: SourceConnection, present: Collection[TableName]) -> dict[str, str]:
        """For targets whose tables go to one lane, one of them.

        Those of a side, which goes on with that lane, and those of parents and children: one lane does both what a
        parent's rows say and what foreign keys did in silence.
        """
        sides = [sorted(side.load_tables()) for side in side_stores(store.sink, self._pipeline).values()]
        pairs = [(tables[0], other) for tables in sides for other in tables[1:]]
        if not self._rule.chosen and self._rule.count > 1:
            pairs += self._families(source, present)
        found: dict[str, str] = {}

        def first(place: str) -> str:
            while (further := found.get(place, place)) != place:
                place = further
            return place

        for one, other in pairs:
            mine, theirs = sorted((first(self._place(one)), first(self._place(other))))
            found[theirs] = mine
        return {place: first(place) for place in found}

    def _with_sides(self, store: InSinkStore, lanes: Mapping[TableName, int]) -> dict[TableName, int]:
        """What else a side has (gone at the source, or not dealt) is of the lane that the side is of."""
        found = dict(lanes)
        places = {self._place(table) for table in lanes}
        for side in side_stores(store.sink, self._pipeline).values():
            tables = sorted(side.load_tables())
            lane = next((lanes[table] for table in tables if table in lanes), 1)
            found |= {table: lane for table in tables if table not in found and self._place(table) not in places}
        return found

    def _weights(self, source: SourceConnection, present: Collection[TableName]) -> dict[TableName, int]:
        """The tables' bytes by the source's own estimate: what is large is mostly changed much, too."""
        if self._rule.count == 1 or self._rule.chosen or not present:
            return {}
        rows = source.query_text(
            "SELECT TABLE_SCHEMA, TABLE_NAME, DATA_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA IN %s",
            (sorted({table.database for table in present}),),
        )
        return {TableName(database or "", table or ""): int(size or 0) for database, table, size in rows}

    def _require_together(self, lanes: Mapping[TableName, int], why: str) -> None:
        """Two lanes never write to one target."""
        seen: dict[str, TableName] = {}
        for table, lane in lanes.items():
            if not self._captures(table.database, table.table):
                continue
            other = seen.setdefault(self._place(table), table)
            if lanes[other] != lane:
                raise ConfigError(
                    f"{other} and {table} have one target now and are in lanes {lanes[other]} and {lane}, "
                    f"which cannot be changed now: {why}",
                    hint="route them as before until then",
                )

    def _on_error(self, error: BaseException) -> None:
        self.error = self.error or error
        self.request_stop()

    def _on_end(self, lane: int, error: BaseException | None) -> None:
        """In the thread of a lane that has ended."""
        if error is not None:
            self._on_error(error)
        self.beside.request_stop(lane)
        for pipeline in self._lanes.values():
            if self._map is None and not pipeline.is_started:  # the first lane came to its end before it dealt
                pipeline.release()


def _recorded_lanes(states: Mapping[int, LaneState]) -> dict[TableName, int]:
    """The lane of every table. Raises ResyncRequired for one that has two: nobody knows which has applied what."""
    here: dict[TableName, int] = {}
    for lane, state in states.items():
        for table in state.records:
            if here.setdefault(table, lane) != lane:
                raise ResyncRequired(
                    f"{table} is recorded in two lanes, {here[table]} and {lane}",
                    hint=f"stop every instance, delete its row of pipeline {state.store.pipeline} from the metadata "
                    f"table `tables` on the sink, then `cdc snapshot {table}`",
                )
    return here


def _nothing(*_: object) -> None:
    """Only the first lane deals."""
