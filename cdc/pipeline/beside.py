"""Loads beside the live stream: side pipelines, and how what they have loaded joins the lane that it belongs to.

A *side* is a pipeline with its own lease, checkpoint, stream and server_id that has a group of a lane's tables while
they are loaded. It loads them and streams just them, until it is where its lane is; meanwhile the lane does not know
them, and is held up by nothing. Then the two meet:

    lane  ends its session at its checkpoint M, and waits
    side  goes on to a checkpoint S at or behind M, and ends its session
    lane  takes the records over in one sink transaction with both fences, and goes on: its stream passes over the
          tables' changes up to S (`dealing.placed`, the rule for tables that change lanes)

Whoever is killed at whatever point, each table is recorded under exactly one of the two, with the checkpoint that its
rows are of.

A table whose target is complete stays its lane's, which keeps that target current, while the side loads a *shadow* of
it beside. When they meet first, the lane gives the table up; the side then merges the shadow into the target
(`pipeline.merging`) and goes on with that, until they meet again and the table joins. Until the lane gives it up both
have a record of the table, and the side's is of the shadow alone.

Knows no rows; the sessions are those of `pipeline.runner` (docs/decisions/0021).
"""

from __future__ import annotations

import functools
import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import orjson

from cdc.clock import Clock
from cdc.errors import BinlogPurged, CdcError, UnsupportedData
from cdc.log import Logger
from cdc.model import ServerIdentity, SourcePosition, TableDefinition, TableName
from cdc.pipeline.approval import COMMANDS
from cdc.pipeline.dealing import CannotDeal, compare, has_reached, placed, side_stores
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.lanes import lane_name, side_name, sink_of
from cdc.pipeline.lease import acquire_under
from cdc.pipeline.text import iso_time
from cdc.schema.identifiers import is_shadow, shadow_name
from cdc.schema.target import TargetTable
from cdc.sinks.base import SinkTransaction
from cdc.sinks.target_facts import drop_fenced
from checkpoints.checkpoint import Checkpoint
from checkpoints.lanes import (
    command_tables,
    divide_command,
    finish_commands,
    forget_prepared,
    forget_table,
    hand_over,
    hand_over_commands,
    retire,
    set_command_message,
    tables_of_tables,
)
from checkpoints.store import Command, InSinkStore, TableRecord
from snapshot.together import TableSize

__all__ = ["Beside", "LaneBeside", "Side", "SideLink", "SidePipeline"]

# How long a lane is held for a side that said that it is near; then it goes on, and they try again later.
_HOLD_SECONDS_MAX = 10.0
_AGAIN_SECONDS, _AGAIN_SECONDS_MAX = 1.0, 60.0
_LOOK_SECONDS = 0.05
# A group is loaded by one side, and nothing of it joins before all of it is there: what the source's log has to be
# kept for. Many small tables share the price of a stream and of a join.
_GROUP_TABLES_MAX = 50
_GROUP_BYTES_MAX = 2 << 30
# A table that does not join by then does not by the next one either.
_ROUNDS_MAX = 5

_Columns = tuple[frozenset[tuple[str, str, bool]], frozenset[str]]
_State = Literal["loading", "offered", "awaited", "resting", "over"]


class SidePipeline(Protocol):
    """A pipeline, as far as it is used here."""

    tables: list[TableRecord]

    @property
    def epoch(self) -> int:
        """Of its lease."""

    def take_lease(self, is_stopping: threading.Event, applier_session: str) -> int: ...
    def release(self) -> None: ...
    def start(self) -> None: ...
    def force(self, tables: Iterable[TableName]) -> None: ...
    def request_stop(self) -> None: ...
    def cancel(self) -> None: ...
    def join(self, timeout_seconds: float | None = None) -> bool: ...
    def targets(self) -> list[TargetTable]: ...
    def queue_bytes(self) -> int: ...
    def hang_up_on_silence(self) -> bool: ...


class Side:
    """Where a side's thread and its lane's meet. What each may call is said of each method."""

    def __init__(
        self,
        number: int,
        lane: int,
        tables: Collection[TableName],
        *,
        clock: Clock,
        lane_position: Callable[[], SourcePosition | None],
        shadowed: Collection[TableName] = (),
        live: Collection[TableName] = (),
    ) -> None:
        """`shadowed`: those of the tables whose shadow it has; `live`: those of them that their lane has, too."""
        self.number = number
        self.lane = lane
        self.tables = frozenset(tables)
        self.shadowed = frozenset(shadowed)
        self.live = frozenset(live)
        self.had_shadow = frozenset(shadowed)
        """The tables of which a shadow may be there."""
        self.altered: tuple[Mapping[TableName, _Columns], SourcePosition] | None = None
        """What its lane had not seen of its live tables when they met last, and where the side was."""
        self.error: BinlogPurged | None = None
        """Why it cannot go on, though its lane can."""
        self._clock = clock
        self._lane_position = lane_position
        self._changed = threading.Condition()
        self._state: _State = "loading"
        self._goal: SourcePosition | None = None
        self._has_arrived = False
        self._not_before = 0.0
        self._again_seconds = _AGAIN_SECONDS
        self.pipeline: SidePipeline  # set before anybody else knows it

    def owns(self, database: str, table: str) -> bool:
        """Is the table loaded by it? Any thread."""
        return TableName(database, table) in self.tables

    def found(
        self, tables: Collection[TableName], shadowed: Collection[TableName], live: Collection[TableName]
    ) -> None:
        """Before it begins: what another instance has left to it."""
        self.tables = frozenset(tables)
        self.shadowed, self.live, self.had_shadow = frozenset(shadowed), frozenset(live), self.tables

    def has_joined_target(self, table: TableName) -> None:
        """In the side's thread: the table is merged into its target, or is to be loaded there, and has no shadow."""
        self.shadowed -= {table}

    def is_to_merge(self, table: TableName) -> bool:
        """Has the lane given the table up, and is its shadow still to be merged?"""
        return table in self.shadowed and table not in self.live

    # ------------------------------------------------------------ the side's thread

    def ends_session(self, position: SourcePosition, *, is_settled: bool, is_at_end: bool) -> bool:
        """Between two transactions: is this where it meets its lane?

        Args:
            position: its checkpoint.
            is_settled: no table is on its way.
            is_at_end: the stream has nothing more for now.
        """
        with self._changed:
            if not is_settled:
                if self._state != "loading":
                    self._become("loading")
            elif self._state == "loading":
                if self._clock.monotonic() >= self._not_before and (is_at_end or self._is_level(position)):
                    self._become("offered")
            elif self._state == "awaited" and self._goal is not None:
                order = compare(self._goal, position)
                self._has_arrived = order is not None and order <= 0
            return self._has_arrived and self._state == "awaited"

    def _is_level(self, position: SourcePosition) -> bool:
        there = self._lane_position()
        order = compare(there, position) if there is not None else None
        return order is not None and order <= 0

    def rest(self, is_stopping: threading.Event) -> bool:
        """Between two sessions: wait for what the lane does where they have met; True when there is no next one."""
        with self._changed:
            if self._has_arrived and self._state == "awaited":
                self._become("resting")
            self._has_arrived = False
            while self._state == "resting" and not is_stopping.is_set():
                self._changed.wait(_LOOK_SECONDS)
            return self._state == "over"

    # ------------------------------------------------------------ the lane's thread

    @property
    def wants_lane(self) -> bool:
        """Is it near enough, or at its end? Any thread."""
        return self._state in ("offered", "resting") or (self.error is not None and self._state != "over")

    @property
    def has_complete(self) -> bool:
        """Has it tables that readers see as ready, and that only its own stream keeps current? Any thread."""
        ours = self.tables - self.live
        return any(r.state == "ready" and r.source in ours for r in self.pipeline.tables) and not self.is_over

    @property
    def is_over(self) -> bool:
        """Have its tables joined their lane? Any thread."""
        return self._state == "over"

    def meet(self, goal: SourcePosition, check_alive: Callable[[], None]) -> bool:
        """The lane stands at `goal` and waits; True once the side rests at a checkpoint of its own.

        False where that takes too long, or is not possible just now: both go on. `check_alive` may raise.
        """
        deadline = self._clock.monotonic() + _HOLD_SECONDS_MAX
        with self._changed:
            if self._is("offered"):
                self._goal = goal
                self._become("awaited")
            try:
                while self._is("awaited") and self._clock.monotonic() < deadline:
                    self._changed.wait(_LOOK_SECONDS)
                    check_alive()
            finally:
                if self._is("awaited"):
                    self._go_on()
            return self._is("resting")

    def go_on(self, *, is_soon: bool = False) -> None:
        """They do not join now: it takes up its stream again. `is_soon`: they may meet again at once."""
        with self._changed:
            self._go_on()
            if is_soon:
                self._not_before, self._again_seconds = 0.0, _AGAIN_SECONDS

    def give_up(self, tables: Collection[TableName], failed: Collection[TableName]) -> None:
        """The lane has these tables no more; those that have `failed` it has, and the side has them no more."""
        self.tables -= frozenset(failed)
        self.shadowed -= frozenset(failed)
        self.live -= frozenset(tables) | frozenset(failed)

    def _go_on(self) -> None:
        self._not_before = self._clock.monotonic() + self._again_seconds
        self._again_seconds = min(_AGAIN_SECONDS_MAX, 2 * self._again_seconds)
        self._become("loading")

    def finish(self) -> None:
        """Its tables are the lane's: it ends."""
        with self._changed:
            self._become("over")

    def _is(self, state: _State) -> bool:
        return self._state == state

    def _become(self, state: _State) -> None:
        self._state = state
        if state != "awaited":
            self._goal = None
        self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class SideLink:
    """What a side's pipeline is given to be one."""

    side: Side
    on_end: Callable[[BaseException | None], None]


class Beside:
    """The sides of one sink.

    Args:
        pipeline: the name of the sink's first lane in the metadata.
        count_max: how many there may be at a time; 0: none.
        make_side: a side's pipeline, not started.
        place: a table's target on this sink: namespace and name.
        lane_position: where the sink has durably what a lane brought.
        on_error: a side has come to its end by an error that is not its alone.
        is_standby: does it wait for as long as another instance has a lease?
    """

    def __init__(
        self,
        *,
        pipeline: str,
        count_max: int,
        make_side: Callable[[int, SideLink], SidePipeline],
        place: Callable[[TableName], tuple[str, str]],
        lane_position: Callable[[int], SourcePosition | None],
        on_error: Callable[[BaseException], None],
        clock: Clock,
        hooks: Hooks,
        log: Logger,
        is_standby: bool = False,
    ) -> None:
        self.count_max = count_max
        self._is_standby = is_standby
        self._pipeline = pipeline
        self._make_side = make_side
        self._place = place
        self._lane_position = lane_position
        self._on_error = on_error
        self._clock = clock
        self._hooks = hooks
        self._log = log.bind(sink=sink_of(pipeline))
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._sides: Mapping[int, Side] = {}  # replaced, never changed: other threads go through it
        self.failed: dict[TableName, str] = {}
        """Tables whose reload was given up, with the reason: their lanes have them as before."""
        self._rounds: Counter[TableName] = Counter()  # how often each was given to a side, and has not joined
        self._leaving: list[SidePipeline] = []  # of sides that are none any more: they let their leases go

    # ------------------------------------------------------------ any thread

    @property
    def sides(self) -> list[Side]:
        """Those that there are, in order; one whose tables have joined, until its lane shows them."""
        return list(self._sides.values())

    def has(self, table: TableName) -> bool:
        """Is the table a side's now, and not its lane's?"""
        return any(table in side.tables - side.live for side in self._sides.values() if not side.is_over)

    def is_reloading(self, table: TableName) -> bool:
        """Does a side load a shadow of the table, which its lane has, too?"""
        return any(table in side.live for side in self._sides.values() if not side.is_over)

    def place(self, table: TableName) -> str:
        """Where the table goes, as text in one case: servers may not tell names by it."""
        return "\0".join(self._place(table)).casefold()

    def has_place(self, place: str) -> bool:
        """Does a side load a table that goes there?"""
        return any(self.place(table) == place for s in self._sides.values() if not s.is_over for table in s.tables)

    def request_stop(self, lane: int | None = None) -> None:
        """Finish the open sink transactions, then leave; `lane`: those of that lane alone."""
        if lane is None:
            self._is_stopping.set()
        for side in self.sides:
            if lane is None or side.lane == lane:
                side.pipeline.request_stop()

    def cancel(self) -> None:
        """Do not wait for the running statements."""
        for side in self.sides:
            side.pipeline.cancel()

    def join(self, deadline: float) -> bool:
        """Wait for the end of all, until `deadline` (monotonic); True when it has come."""
        pipelines = [*(side.pipeline for side in self.sides), *self._leaving]
        return all(pipeline.join(max(0.0, deadline - self._clock.monotonic())) for pipeline in pipelines)

    # ------------------------------------------------------------ lanes' threads

    def adopt(self, stores: Mapping[int, InSinkStore], lane_of: Callable[[TableName], int]) -> None:
        """Take up the sides that the metadata have: an instance that is gone left them, or a commit without an answer.

        `stores`: those of the lanes, whose leases are held. Tables of a side that may not be run (fewer are
        configured, or its tables are of several lanes now) become their lanes' again, to be loaded anew.
        """
        for number, store in side_stores(stores[1].sink, self._pipeline).items():
            records = store.load_tables()
            if number in self._sides or not records:
                continue
            lanes = {lane_of(table) for table in records}
            if number > self.count_max or len(lanes) > 1:
                self._dissolve(number, store, records, stores, lane_of)
                continue
            lane = lanes.pop()
            side = self._reserve(number, lane, list(records), *self._shadows(lane, store, records))
            if side is not None and (found := self._take_up(side, store, stores[1])):
                shadowed, live = self._shadows(lane, store, found)
                side.found(list(found), shadowed, live)
                side.pipeline.tables = list(found.values())
                self._start(side)
                self._log.info("side_resumed", side=number, tables=[str(table) for table in found])

    def _shadows(
        self, lane: int, store: InSinkStore, records: Mapping[TableName, TableRecord]
    ) -> tuple[list[TableName], list[TableName]]:
        """Of which of a side's tables it has the shadow, and which of those its lane has, too."""
        shadowed = [record.source for record in records.values() if is_shadow(record.target)]
        lane_store = InSinkStore(store.sink, lane_name(self._pipeline, lane))
        known = lane_store.load_tables() if shadowed else {}
        return shadowed, [table for table in shadowed if table in known]

    def _take_up(self, side: Side, store: InSinkStore, lane_store: InSinkStore) -> Mapping[TableName, TableRecord]:
        """Have the side's lease while the lane has its own: who has slept may find both another's, it gone.

        What the side has by then: who had the lease may have written until it was let go. Nothing where it is none any
        more, or has other tables, which are taken up by who gave them.
        """
        try:
            store.epoch = self._take_lease(side, store, lane_store)
            with store.sink.transaction() as tx:
                lane_store.fence(tx)
                store.fence(tx)
                tx.commit()
            records = store.load_tables()
        except BaseException:
            side.pipeline.release()
            self._remove(side)
            raise
        if records and records.keys() <= side.tables:
            return records
        side.pipeline.release()
        self._remove(side)
        return {}

    def _take_lease(self, side: Side, store: InSinkStore, lane_store: InSinkStore) -> int:
        acquire = functools.partial(side.pipeline.take_lease, self._is_stopping, store.sink.session())
        return acquire_under(lane_store, acquire, self._clock, self._log, is_standby=self._is_standby)

    def _dissolve(
        self,
        number: int,
        store: InSinkStore,
        records: Mapping[TableName, TableRecord],
        stores: Mapping[int, InSinkStore],
        lane_of: Callable[[TableName], int],
    ) -> None:
        side = self._reserve(number, 1, list(records))
        if side is None:
            return
        try:
            records = self._hand_back(side, store, stores, lane_of)
        finally:
            side.pipeline.release()
            self._remove(side)  # also where the sink failed: else the tables would pass for a side's for ever
        if records:
            self._log.info("side_dissolved", side=number, tables=[str(table) for table in records])

    def _hand_back(
        self,
        side: Side,
        store: InSinkStore,
        stores: Mapping[int, InSinkStore],
        lane_of: Callable[[TableName], int],
    ) -> Mapping[TableName, TableRecord]:
        """Its tables are their lanes'; those that it had."""
        store.epoch = self._take_lease(side, store, stores[1])
        records = store.load_tables()  # who had the lease may have written until it was let go
        if not records:
            return records
        kept_in = tables_of_tables(store)
        heirs = {table: stores[lane_of(table)] for table in records}
        asked = [command for command in store.queued_commands() if command.name in COMMANDS]
        for table in records:
            self._drop_shadow(store, table)
        known = {table for lane_store in stores.values() for table in lane_store.load_tables()}
        with store.sink.transaction() as tx:
            for record in records.values():
                to = heirs[record.source]
                if is_shadow(record.target):
                    forget_table(store, tx, record.source, kept_in=kept_in)
                    if record.source in known:
                        self.failed[record.source] = (
                            f"{record.source}: its reload was given up at a start, as its side may not be run any more "
                            "(snapshot.beside, lanes)"
                        )
                        continue
                    to.save_table(tx, _anew(self._without_shadow(record)))
                    continue
                hand_over(store, to, tx, record.source, kept_in=kept_in)
                to.save_table(tx, _anew(record))
            for command in asked:
                divide_command(tx, command, _by_heir(command, heirs))
            _leave(store, tx, next(iter(heirs.values())))
            for lane_store in dict.fromkeys(heirs.values()):
                lane_store.fence(tx)
            tx.commit()
        return records

    def begin(
        self,
        lane: int,
        store: InSinkStore,
        records: list[TableRecord],
        *,
        shadowed: Collection[TableName],
        forced: Collection[TableName],
    ) -> Side | None:
        """Give a lane's tables to a new side; None where there may be no more of them, or it has tables already.

        Those that are `shadowed` stay the lane's. `forced`: those of which rows may be replaced that this deployment
        did not write.
        """
        names = [record.source for record in records]
        shadows = [name for name in names if name in shadowed]
        side = self._reserve(None, lane, names, shadows, shadows)
        if side is None:
            return None
        side_store = InSinkStore(store.sink, side_name(self._pipeline, side.number))
        try:
            side_store.epoch = self._take_lease(side, side_store, store)
            if side_store.load_tables():  # by a commit of another lane that had no answer: it is taken up (`adopt`)
                side.pipeline.release()
                self._remove(side)
                return None
            kept_in = tables_of_tables(store)
            with store.sink.transaction() as tx:
                given = [self._given(record, is_shadowed=record.source in side.shadowed) for record in records]
                for record in given:
                    if record.source not in side.shadowed:
                        hand_over(store, side_store, tx, record.source, kept_in=kept_in)
                    side_store.save_table(tx, record)
                store.fence(tx)
                side_store.fence(tx)
                self._hooks("beside_giving")
                tx.commit()
        except BaseException:
            side.pipeline.release()
            self._remove(side)
            raise
        self._hooks("beside_given")
        for name in names:
            self.failed.pop(name, None)  # of an earlier reload
        self._rounds.update(names)
        side.pipeline.tables = given
        side.pipeline.force(name for name in names if name in forced)
        self._start(side)
        self._log.info(
            "side_begun", side=side.number, tables=[str(name) for name in names], shadowed=[str(n) for n in shadows]
        )
        return side

    def _given(self, record: TableRecord, *, is_shadowed: bool) -> TableRecord:
        if not is_shadowed:
            return _anew(record)
        namespace, name = self._place(record.source)
        return TableRecord(source=record.source, target=f"{namespace}.{shadow_name(name)}", state="pending")

    def join_lane(
        self,
        lane: int,
        store: InSinkStore,
        checkpoint: Checkpoint,
        server: ServerIdentity,
        check_alive: Callable[[], None],
    ) -> None:
        """At the beginning of a lane's session, at `checkpoint`: take over what its sides have ready.

        Raises what the sink raises; whether the records are the lane's then is asked by the next session.
        """
        for side in self.sides:
            if side.lane != lane or not side.wants_lane:
                continue
            if side.error is not None:
                self._take_back(side, store)
            elif side.meet(checkpoint.position, check_alive):
                self._hooks("beside_met")
                try:
                    self._take_over(side, store, checkpoint.position, server)
                except CannotDeal as error:
                    self._log.info("side_goes_on", side=side.number, message=str(error))
                    side.go_on()

    def published(self, lane: int) -> None:
        """The lane shows what it has taken over."""
        for side in self.sides:
            if side.lane == lane and side.is_over:
                self._remove(side)

    def ask(self, side: Side, store: InSinkStore, name: str, argument: str) -> None:
        """Put a command before the side's pipeline."""
        InSinkStore(store.sink, side_name(self._pipeline, side.number)).add_command(name, argument)

    def take_endless(self, table: TableName) -> UnsupportedData | None:
        """Why the table is not given to a side once more, as that would not end; once."""
        rounds = self._rounds[table]
        if rounds < _ROUNDS_MAX:
            return None
        del self._rounds[table]
        return UnsupportedData(
            f"{table} was loaded {rounds} times beside the stream, and could not join it once",
            table=str(table),
            hint="the log says why (side_goes_on, reload_failed); drop the target, which is made anew then, or set "
            f"snapshot.beside: 0; and run `cdc snapshot {table}`",
        )

    # ------------------------------------------------------------ the parts

    def _reserve(
        self,
        number: int | None,
        lane: int,
        tables: Collection[TableName],
        shadowed: Collection[TableName] = (),
        live: Collection[TableName] = (),
    ) -> Side | None:
        with self._lock:
            if number is None:
                number = next((n for n in range(1, self.count_max + 1) if n not in self._sides), None)
            if number is None or number in self._sides:
                return None
            side = Side(
                number,
                lane,
                tables,
                clock=self._clock,
                lane_position=lambda: self._lane_position(lane),
                shadowed=shadowed,
                live=live,
            )
            side.pipeline = self._make_side(number, SideLink(side, lambda error: self._on_end(side, error)))
            self._sides = dict(sorted({**self._sides, number: side}.items()))
            return side

    def _remove(self, side: Side) -> None:
        with self._lock:
            self._sides = {number: other for number, other in self._sides.items() if other is not side}
            if side.is_over:
                self._leaving = [pipeline for pipeline in self._leaving if not pipeline.join(0)] + [side.pipeline]

    def _start(self, side: Side) -> None:
        side.pipeline.start()
        if self._is_stopping.is_set():
            side.pipeline.request_stop()

    def _on_end(self, side: Side, error: BaseException | None) -> None:
        """In the thread of a side that has ended."""
        if isinstance(error, BinlogPurged):
            side.error = error
        elif error is not None:
            self._on_error(error)

    def _store_of(self, side: Side, store: InSinkStore) -> InSinkStore:
        """The side's metadata, in the lane's sink session, by the side's own epoch."""
        found = InSinkStore(store.sink, side_name(self._pipeline, side.number))
        found.epoch = side.pipeline.epoch
        return found

    def _take_over(self, side: Side, store: InSinkStore, at: SourcePosition, server: ServerIdentity) -> None:
        """Raises CannotDeal where they have not met after all."""
        side_store = self._store_of(side, store)
        with store.sink.transaction() as tx:
            side_store.fence(tx)  # waits for what its last session had under way
            tx.commit()
        records = side_store.load_tables()
        if records:
            there = side_store.load_checkpoint()[0]
            order = compare(at, there.position) if there is not None else None
            if there is None or order is None or order > 0:
                raise CannotDeal(f"the lane is at {at}, the side at {there.position if there is not None else None}")
            if side_store.queued_commands() or any(r.state in ("pending", "snapshotting") for r in records.values()):
                raise CannotDeal("it has been asked to load tables again")
            if side.live:
                self._give_up(side, side_store, store, records, at, there.position)
                return
            if any(is_shadow(record.target) and record.state == "ready" for record in records.values()):
                raise CannotDeal("a shadow is not merged yet")
            moved = [placed(self._without_shadow(r), there.position, at, server) for r in records.values()]
            for table in side.had_shadow:
                self._drop_shadow(store, table)
            self._move(side_store, store, moved)
            self._log.info(
                "side_joined",
                side=side.number,
                tables=[str(table) for table in records],
                position=str(at),
                side_position=str(there.position),
            )
        side.finish()

    def _give_up(
        self,
        side: Side,
        side_store: InSinkStore,
        store: InSinkStore,
        records: Mapping[TableName, TableRecord],
        at: SourcePosition,
        there: SourcePosition,
    ) -> None:
        """The side's shadows are where the lane's targets are, or further: from here on the tables are the side's.

        The lane is at `at`, the side `there`. Raises CannotDeal.
        """
        kept_in = tables_of_tables(store)
        known = store.load_tables()
        failed = {table for table in side.live if table not in records or records[table].state != "ready"}
        altered = {t for t in side.live - failed if t in known and _columns(known[t]) != _columns(records[t])}
        if unseen := {table: _columns(records[table]) for table in altered if known[table].state == "ready"}:
            self._require_passed(side, unseen, at, there)
        failed |= altered  # the lane has seen it, and does not follow it: the shadow is of no use to that target
        given = side.live - failed
        reasons = {table: self._why_failed(records.get(table), table, altered, unseen) for table in failed}
        why = {table: reason for table, reason in reasons.items() if reason is not None}
        asked = _commands_about(store, why)
        for table in failed:
            self._drop_shadow(store, table)
        with store.sink.transaction() as tx:
            for table in given:
                forget_table(store, tx, table, kept_in=kept_in, heir=side_store)
            for table in failed:
                error = records[table].error if table in records else None
                before = known.get(table)
                if before is not None and before.state == "pending" and error is not None:
                    store.save_table(tx, replace(before, state="parked", error=error))
                forget_table(side_store, tx, table, kept_in=kept_in)
            store.fence(tx)
            for command, tables in asked:
                set_command_message(store, tx, command, _with_failures(command, [why[table] for table in tables]))
            if not records.keys() - failed:
                _leave(side_store, tx, store)
            else:
                side_store.fence(tx)
            self._hooks("beside_giving_up")
            tx.commit()
        self._hooks("beside_given_up")
        for table, message in why.items():
            self.failed[table] = message
            if table in unseen or (table in records and records[table].error is not None):
                self._rounds.pop(table, None)
            self._log.error("reload_failed", table=str(table), message=message)
        side.give_up(given, failed)
        if side.tables:
            side.go_on(is_soon=True)
        else:
            side.finish()

    def _why_failed(
        self,
        record: TableRecord | None,
        table: TableName,
        altered: Collection[TableName],
        unseen: Collection[TableName],
    ) -> str | None:
        """Why its lane keeps the table as it is; None: the lane has it loaded anew, or says why not."""
        if table in unseen:
            return f"{table}: it was altered meanwhile, and its target was not"
        if table in altered:
            return None
        error = record.error if record is not None else None
        return f"{table}: {(error or {}).get('message', 'the source does not have it any more')}"

    def _require_passed(
        self, side: Side, unseen: Mapping[TableName, _Columns], at: SourcePosition, there: SourcePosition
    ) -> None:
        """Raises CannotDeal while the lane may still come to the statements that gave the tables those columns."""
        before = side.altered
        if before is None or before[0] != unseen:
            before = side.altered = unseen, there
        if not has_reached(at, before[1]):
            raise CannotDeal("a table was altered, and the lane has not seen it yet")

    def _drop_shadow(self, store: InSinkStore, table: TableName) -> None:
        namespace, name = self._place(table)
        shadow = TargetTable(namespace, shadow_name(name), (), (), TableDefinition(table, ()))
        if store.sink.inspect(shadow) is not None:
            drop_fenced(store.sink, shadow, store.fence)

    def _take_back(self, side: Side, store: InSinkStore) -> None:
        """The source has purged what the side had not read yet: its tables are parked, and nobody else's trouble."""
        error = side.error
        assert error is not None
        side_store = self._store_of(side, store)
        records = []
        for record in side_store.load_tables().values():
            if is_shadow(record.target):
                self._drop_shadow(store, record.source)
                if record.source in side.live:
                    continue  # its lane has it
            record = self._without_shadow(record)
            if record.state not in ("parked", "dropped"):
                problem = BinlogPurged(
                    error.message,
                    hint=f"keep the source's log for longer than the load takes, then `cdc snapshot {record.source}`",
                )
                fields = problem.to_dict(since=iso_time(self._clock.now_us()))
                record = replace(_anew(record), state="parked", error=fields)
                self._log.error(
                    "table_parked", table=str(record.source), error_class="BinlogPurged", message=error.message
                )
            records.append(record)
        self._move(side_store, store, records)
        for table in side.live:
            self.failed[table] = f"{table}: {error.message}"
        side.finish()

    def _without_shadow(self, record: TableRecord) -> TableRecord:
        """Its lane has given it up: what is not merged is not there; the target is complete, and behind."""
        if not is_shadow(record.target):
            return record
        return replace(record, target=".".join(self._place(record.source)), is_complete=True)

    def _move(self, side_store: InSinkStore, store: InSinkStore, records: Sequence[TableRecord]) -> None:
        kept_in = tables_of_tables(store)
        left = side_store.load_tables().keys() - {record.source for record in records}
        with store.sink.transaction() as tx:
            for record in records:
                hand_over(side_store, store, tx, record.source, kept_in=kept_in)
                store.save_table(tx, record)
            for table in left:
                forget_table(side_store, tx, table, kept_in=kept_in)
            store.fence(tx)
            _leave(side_store, tx, store)
            self._hooks("beside_joining")
            tx.commit()
        for record in records:
            self._rounds.pop(record.source, None)
        self._hooks("beside_joined")


def _anew(record: TableRecord) -> TableRecord:
    """To be loaded from the beginning. (A load that was cut off elsewhere is of another stream.)"""
    if record.state not in ("pending", "snapshotting", "ready"):
        return record
    return replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None)


def _commands_about(store: InSinkStore, tables: Collection[TableName]) -> list[tuple[Command, list[TableName]]]:
    """The loads under way that name one of the tables, with those that they name."""
    found = []
    for command in store.queued_commands() if tables else []:
        if command.name == "snapshot" and command.state == "running":
            named = [name for pair in orjson.loads(command.argument) if (name := TableName(*pair)) in tables]
            found += [(command, named)] if named else []
    return found


def _by_heir(command: Command, heirs: Mapping[TableName, InSinkStore]) -> list[tuple[InSinkStore, list[TableName]]]:
    """Who is to be asked for which of the command's tables; for those that have no heir, the first of all."""
    found: dict[str, tuple[InSinkStore, list[TableName]]] = {}
    for table in command_tables(command):
        store = heirs.get(table) or next(iter(heirs.values()))
        found.setdefault(store.pipeline, (store, []))[1].append(table)
    return list(found.values())


def _with_failures(command: Command, messages: Sequence[str]) -> str:
    """Its message, with more; that it waits for another table stays in it."""
    said = [] if command.message in ("", "loading") else [command.message]
    return "; ".join([*said, *messages])


def _columns(record: TableRecord) -> _Columns:
    """Its columns with their types, and the names of those that its target lacks."""
    columns = record.definition.columns if record.definition is not None else ()
    return frozenset((c.name, c.column_type, c.is_nullable) for c in columns), frozenset(record.left_out)


def _leave(store: InSinkStore, tx: SinkTransaction, heir: InSinkStore) -> None:
    """The side has nothing any more, and is asked for nothing; only its lease stays, and its epoch.

    What was said of statements that its tables wait at goes to the `heir`, which has them now. Loads it was asked for
    by its lane, which has been asked itself.
    """
    store.fence(tx)
    retire(store, tx)
    forget_prepared(store, tx)
    hand_over_commands(store, heir, tx, COMMANDS)
    finish_commands(store, tx, "its tables are the lane's")


class LaneBeside:
    """The sides of one lane, for the lane's sessions."""

    def __init__(self, beside: Beside, lane: int, lane_of: Callable[[TableName], int]) -> None:
        self._beside = beside
        self._lane = lane
        self._lane_of = lane_of
        self._is_unsure = False
        self._has_more = False
        self._wishes: set[TableName] = set()

    def has(self, table: TableName) -> bool:
        """Is the table a side's now?"""
        return self._beside.has(table)

    def is_under_way(self, table: TableName) -> bool:
        """Is it a side's, or reloaded by one, or does it wait for that?"""
        sides = [side for side in self._beside.sides if side.lane == self._lane and not side.is_over]
        return table in self._wishes or any(table in side.tables for side in sides)

    def is_reloading(self, table: TableName) -> bool:
        """Does a side load a shadow of the table, which is the lane's?"""
        return self._beside.is_reloading(table)

    @property
    def is_on(self) -> bool:
        """May there be sides?"""
        return self._beside.count_max > 0

    @property
    def has_sides(self) -> bool:
        """Are there any, of this lane or another?"""
        return bool(self._beside.sides)

    @property
    def is_idle(self) -> bool:
        """Does none of the lane's tables wait for a side, or for its end?"""
        return not self._has_more and not any(side.lane == self._lane for side in self._beside.sides)

    @property
    def wants_session(self) -> bool:
        """Is there something to do between two sessions?"""
        sides = self._beside.sides
        if any(side.lane == self._lane and side.wants_lane for side in sides):
            return True
        return self._has_more and len(sides) < self._beside.count_max

    def join(
        self, store: InSinkStore, checkpoint: Checkpoint, server: ServerIdentity, check_alive: Callable[[], None]
    ) -> None:
        """Take over what is ready. Raises what the sink raises."""
        try:
            if self._is_unsure:
                self._beside.adopt({self._lane: store, 1: store}, self._lane_of)
                self._is_unsure = False
            self._beside.join_lane(self._lane, store, checkpoint, server, check_alive)
        except CdcError:
            self._is_unsure = True
            raise

    def published(self) -> None:
        """The lane shows what it has taken over."""
        self._beside.published(self._lane)

    def wish(self, table: TableName) -> None:
        """Reload a table that is ready, by a shadow."""
        self._wishes.add(table)

    def keep(self, table: TableName) -> None:
        """It is not to be reloaded by a shadow (any more)."""
        self._wishes.discard(table)

    def is_place_free(self, table: TableName, records: Iterable[TableRecord]) -> bool:
        """Does none of the lane's other tables (its `records`), and no side's, go to the table's target?"""
        place = self._beside.place(table)
        others = (r.source for r in records if r.state != "dropped" and r.source != table)
        return not self._beside.has_place(place) and all(self._beside.place(other) != place for other in others)

    def take_endless(self, table: TableName) -> UnsupportedData | None:
        """Why the table is to be parked rather than given to a side once more; once."""
        return None if self.is_under_way(table) else self._beside.take_endless(table)

    def take_failure(self, table: TableName) -> str | None:
        """Why its reload was given up, once."""
        return self._beside.failed.pop(table, None)

    def has_wishes(self, tables: Iterable[TableName]) -> bool:
        """Does one of them wait for its reload to begin?"""
        return not self._wishes.isdisjoint(tables)

    def assign(
        self,
        store: InSinkStore,
        records: Sequence[TableRecord],
        *,
        is_to_load: Callable[[TableRecord], bool],
        is_shared: Callable[[TableName], bool],
        is_shadowed: Callable[[TableRecord], bool],
        forced: Collection[TableName],
        in_stream: Callable[[Sequence[TableRecord], Sequence[TableRecord], bool], Collection[TableName]],
        sizes: Callable[[Collection[TableName]], Mapping[TableName, TableSize]],
    ) -> tuple[set[TableName], set[TableName]]:
        """Give the tables that are to be loaded to sides: those that went, and those that wait for one.

        What is in neither is loaded in the lane's own stream: where there may be no sides, what shares a target
        (`is_shared`, or with another of the `records`, which are all that the lane has, in the order of their loads),
        and what `in_stream` chooses, by the `records`, those of them that sides could load, and whether there are any.
        `is_shadowed`: the table's target is complete, and can take a merge.
        """
        self._has_more = False
        if not self.is_on:
            return set(), set()
        places = Counter(self._beside.place(record.source) for record in records if record.state != "dropped")
        queue, gone, left = [], set[TableName](), set[TableName]()
        self._wishes &= {record.source for record in records if record.state == "ready"}
        for record in records:
            if not is_to_load(record) and record.source not in self._wishes:
                continue
            place = self._beside.place(record.source)
            if self._beside.has_place(place):
                left.add(record.source)  # nothing else writes there now
            elif places[place] == 1 and not is_shared(record.source):
                queue.append(record)
        has_sides = any(side.lane == self._lane and not side.is_over for side in self._beside.sides)
        stays = in_stream(records, [record for record in queue if record.source not in self._wishes], has_sides)
        queue = [record for record in queue if record.source not in stays]
        by_size = sizes([record.source for record in queue]) if len(queue) > 1 else {}
        try:
            while queue:
                free = self._beside.count_max - len(self._beside.sides)
                group = _group(queue, by_size, free)
                shadowed = {r.source for r in group if r.source in self._wishes or is_shadowed(r)}
                side = self._beside.begin(self._lane, store, group, shadowed=shadowed, forced=forced) if group else None
                if side is None:
                    self._is_unsure = self._is_unsure or bool(group)  # perhaps one that is free has tables
                    break
                gone |= side.tables - side.live
                left |= side.live
                self._wishes -= side.tables
                queue = queue[len(group) :]
        except CdcError:
            self._is_unsure = True
            raise
        left |= {record.source for record in queue}
        self._has_more = bool(queue)
        return gone, left

    def pass_on(self, store: InSinkStore, name: str, table: TableName, argument: str) -> None:
        """Ask the side that has the table, or its shadow."""
        for side in self._beside.sides:
            if side.lane == self._lane and table in side.tables and not side.is_over:
                self._beside.ask(side, store, name, argument)


def _group(queue: list[TableRecord], sizes: Mapping[TableName, TableSize], free: int) -> list[TableRecord]:
    """The tables from the first on that one side takes, of so many that are free."""
    if free < 1:
        return []
    count = min(_GROUP_TABLES_MAX, math.ceil(len(queue) / free))
    group: list[TableRecord] = []
    left = _GROUP_BYTES_MAX
    for record in queue[:count]:
        size = sizes.get(record.source)
        left -= size.byte_count if size is not None else 0
        if left < 0 and group:
            break
        group.append(record)
    return group
