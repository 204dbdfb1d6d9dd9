"""Move tables between the lanes of a sink, in its metadata, while none of them runs.

Lanes stand at different positions, and a table is where its lane is. A table that comes to another lane lowers that
lane's checkpoint to its own position where it is further behind; the tables that are further on are recorded there as
loaded up to where they are. The stream passes over what they have, by the same rule as after any load, and takes them
up at their own place: nothing is applied twice, nothing is missed, nothing is read from the source again.

What stands in the way of that (positions of two servers, a prepared XA transaction whose rows wait with one lane) is
said, and everything stays where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import ServerIdentity, SourcePosition, TableName
from cdc.pipeline.lanes import lane_number, side_number
from cdc.sinks.base import Sink
from checkpoints.checkpoint import Checkpoint
from checkpoints.lanes import (
    command_argument,
    command_tables,
    hand_over,
    pipelines_in_use,
    retire,
    set_command_tables,
    tables_of_tables,
)
from checkpoints.prepared import PreparedStore
from checkpoints.store import Command, InSinkStore, TableRecord

__all__ = [
    "CannotDeal",
    "Dealing",
    "LaneState",
    "carry_out",
    "compare",
    "lane_stores",
    "least",
    "placed",
    "plan_dealing",
    "read_lane",
    "side_stores",
]


class CannotDeal(Exception):
    """Tables cannot change lanes now; the text says why, and when they can."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """What the metadata have of one lane; `store` holds its lease."""

    store: InSinkStore
    checkpoint: Checkpoint | None = None
    sequence: int = 0
    records: Mapping[TableName, TableRecord] = field(default_factory=dict)
    prepared_count: int = 0
    commands: Sequence[Command] = ()

    @property
    def position(self) -> SourcePosition | None:
        """Where the lane is; None before its first session."""
        return self.checkpoint.position if self.checkpoint is not None else None


def lane_stores(sink: Sink, pipeline: str, *, or_leased: bool = False) -> dict[int, InSinkStore]:
    """The metadata of every lane that has a checkpoint or tables, and always of the first. Reads only.

    `or_leased`: of those too whose lease nobody has let go.
    """
    stores = {1: InSinkStore(sink, pipeline)}
    if not stores[1].exists():
        return stores
    for name in pipelines_in_use(sink, or_leased=or_leased):
        lane = lane_number(pipeline, name)
        if lane is not None and lane > 1:
            stores[lane] = InSinkStore(sink, name)
    return dict(sorted(stores.items()))


def side_stores(sink: Sink, pipeline: str) -> dict[int, InSinkStore]:
    """The metadata of every side of the sink (`pipeline.beside`) that has a checkpoint or tables. Reads only.

    `pipeline`: the sink's first lane.
    """
    if not InSinkStore(sink, pipeline).exists():
        return {}
    found = {side_number(pipeline, name): InSinkStore(sink, name) for name in pipelines_in_use(sink)}
    return dict(sorted((number, store) for number, store in found.items() if number is not None))


def read_lane(store: InSinkStore) -> LaneState:
    """The lane as its last session left it."""
    return LaneState(
        store=store,
        checkpoint=store.load_checkpoint()[0],
        sequence=store.last_sequence(),
        records=store.load_tables(),
        prepared_count=len(PreparedStore(store).load()),
        commands=store.queued_commands(),
    )


# ---------------------------------------------------------------- positions


def compare(one: SourcePosition, other: SourcePosition) -> int | None:
    """Below 0 where `one` is behind `other`, 0 where they are the same place; None where nobody can tell."""
    if one.server == other.server and one.file is not None and other.file is not None:
        order = (one.file > other.file) - (one.file < other.file)
        if one.file.number != other.file.number and _has_same_transactions(one, other):
            return 0  # a dump by GTID begins in the file of the next one, and says nothing of those before it
        # Since a failover, what a lane has applied may lie further on in this server's log than the lane stands.
        is_nested = (order > 0 or _is_within(one, other)) and (order < 0 or _is_within(other, one))
        return order if is_nested else None
    if isinstance(one.gtid, MysqlGtidSet) and isinstance(other.gtid, MysqlGtidSet):
        is_behind, is_ahead = one.gtid.is_subset_of(other.gtid), other.gtid.is_subset_of(one.gtid)
        if is_behind or is_ahead:
            return is_ahead - is_behind
    return 0 if one == other else None


def has_reached(position: SourcePosition, goal: SourcePosition) -> bool:
    """Does who stands at `position` have all up to `goal`? False where nobody can tell."""
    order = compare(goal, position)
    return (order is not None and order <= 0) or _has_same_transactions(position, goal)


def _has_same_transactions(one: SourcePosition, other: SourcePosition) -> bool:
    """Is nothing between the two, by their GTIDs? False where they have none to go by."""
    if one.gtid is None or type(one.gtid) is not type(other.gtid):
        return False
    return _is_within(one, other) and _is_within(other, one)


def _is_within(one: SourcePosition, other: SourcePosition) -> bool:
    """Does `other` have all that `one` has, by their GTIDs? True where they have none to go by."""
    if isinstance(one.gtid, MysqlGtidSet) and isinstance(other.gtid, MysqlGtidSet):
        return one.gtid.is_subset_of(other.gtid)
    if isinstance(one.gtid, MariadbGtidList) and isinstance(other.gtid, MariadbGtidList):
        reached = {domain: sequence for domain, (_, sequence) in other.gtid.positions.items()}
        return all(sequence <= reached.get(domain, 0) for domain, (_, sequence) in one.gtid.positions.items())
    return True


def least(positions: Iterable[SourcePosition]) -> SourcePosition:
    """The one that is behind all others. Raises CannotDeal where nobody can tell."""
    found: SourcePosition | None = None
    for position in positions:
        order = -1 if found is None else compare(position, found)
        if order is None:
            raise CannotDeal(f"the lanes stand at {found} and {position}, of which nobody can tell which is first")
        found = position if order < 0 else found
    if found is None:
        raise ValueError("there is no least of no positions")
    return found


# ---------------------------------------------------------------- the plan


@dataclass(slots=True)
class Dealing:
    """What is to be written: checkpoints that change, records of tables by their new lane, and those that move."""

    checkpoints: dict[int, SourcePosition] = field(default_factory=dict)
    records: list[tuple[int, TableRecord]] = field(default_factory=list)
    moved: dict[TableName, tuple[int, int]] = field(default_factory=dict)
    """Table → the lane that it leaves, and the one that it comes to."""


def plan_dealing(states: Mapping[int, LaneState], lanes: Mapping[TableName, int], server: ServerIdentity) -> Dealing:
    """How every recorded table comes to its lane in `lanes`; nothing, where all are there.

    `server` is the source as it is now. Raises CannotDeal.
    """
    dealing = Dealing()
    here = {table: lane for lane, state in states.items() for table in state.records}
    dealing.moved = {table: (lane, lanes[table]) for table, lane in here.items() if lanes[table] != lane}
    if not dealing.moved:
        return dealing
    waiting = sum(state.prepared_count for state in states.values())
    if waiting:
        raise CannotDeal(
            f"{waiting} prepared XA transactions wait for their end: their rows are kept with the lane of their tables"
        )
    for lane in sorted({to for _, to in dealing.moved.values()}):
        coming = [table for table in here if lanes[table] == lane]
        _plan_lane(dealing, lane, {table: states[here[table]] for table in sorted(coming)}, states[lane], server)
    return dealing


def _plan_lane(
    dealing: Dealing, lane: int, tables: Mapping[TableName, LaneState], own: LaneState, server: ServerIdentity
) -> None:
    """`tables`: those of the lane from now on, with the lane that each is in now."""
    needed = [state.position for table, state in tables.items() if _is_from_stream(state.records[table])]
    if any(position is None for position in needed):
        raise CannotDeal(f"lane {lane} would get a table that is loaded, and whose lane has no checkpoint")
    start = least(position for position in needed if position is not None) if needed else own.position
    if start is not None and start != own.position:
        dealing.checkpoints[lane] = start
    for table, state in tables.items():
        before = state.records[table]
        record = before if state.position is None or start is None else placed(before, state.position, start, server)
        if record != before or table in dealing.moved:
            dealing.records.append((lane, record))


def _is_from_stream(record: TableRecord) -> bool:
    """Does it need the stream from where its lane stands? A load that is not done may be taken up where it was left."""
    return record.state in ("ready", "snapshotting")


def placed(record: TableRecord, at: SourcePosition, start: SourcePosition, server: ServerIdentity) -> TableRecord:
    """The record of a table whose lane was at `at`, in a lane that begins at `start`."""
    if record.state == "dropped":  # since then; of an other server's log there is nothing to pass over
        is_known = record.loaded_from is not None and compare(record.loaded_from, at) is not None
        return replace(record, loaded_from=_later(record.loaded_from, at) if is_known else at)
    if not _is_from_stream(record) or compare(at, start) == 0:
        return record
    if record.state == "snapshotting" and record.ready_at is None:
        return record
    if record.state == "snapshotting":
        return replace(record, loaded_from=_later(record.loaded_from, at))
    if at.file is None or at.server != server:
        raise CannotDeal(f"{record.source} is at {at}, which is no place in the source's log as it is now")
    return replace(record, state="snapshotting", loaded_from=at, ready_at=at.file, ready_server=at.server)


def _later(one: SourcePosition | None, other: SourcePosition) -> SourcePosition:
    if one is None:
        return other
    order = compare(one, other)
    if order is None:
        raise CannotDeal(f"nobody can tell which is first, {one} or {other}")
    return one if order > 0 else other


# ---------------------------------------------------------------- writing it


def carry_out(
    sink: Sink,
    states: Mapping[int, LaneState],
    lanes: Mapping[TableName, int],
    dealing: Dealing,
    *,
    retired: Collection[int],
) -> None:
    """Write it, in one transaction that holds every lane's fence: nobody has taken any of them since.

    What a lane is asked about a table of another one (`lanes`) is passed on. `retired`: lanes without tables, which are
    not run any more. Raises LeaseLost, SinkUnavailable.
    """
    misplaced = _pass_on_commands(states, lanes)
    kept_in = tables_of_tables(states[1].store)
    with sink.transaction() as tx:
        for lane, record in dealing.records:
            if record.source in dealing.moved:
                before = states[dealing.moved[record.source][0]].store
                hand_over(before, states[lane].store, tx, record.source, kept_in=kept_in)
            states[lane].store.save_table(tx, record)
        for store, command, kept in misplaced:
            set_command_tables(store, tx, command, kept)
        for lane in retired:
            retire(states[lane].store, tx)
        for lane, state in states.items():
            if lane in dealing.checkpoints:
                state.store.save(tx, Checkpoint(dealing.checkpoints[lane], state.sequence + 1))
            else:
                state.store.fence(tx)
        tx.commit()


def _pass_on_commands(
    states: Mapping[int, LaneState], lanes: Mapping[TableName, int]
) -> list[tuple[InSinkStore, Command, list[TableName]]]:
    """Ask the right lanes; the commands that were not theirs alone, by store, with the tables that are.

    In transactions of their own: asked twice, after a kill in between, a table is loaded twice.
    """
    misplaced = []
    for lane, state in states.items():
        for command in state.commands:
            by_lane: dict[int, list[TableName]] = {}
            for table in command_tables(command):
                by_lane.setdefault(lanes.get(table, lane), []).append(table)
            kept = by_lane.pop(lane, [])
            for other, tables in by_lane.items():
                passed_on = states[other].store.add_command(command.name, command_argument(command, tables))
                states[other].store.set_command(passed_on, command.state, command.message)
            if by_lane:
                misplaced.append((state.store, command, kept))
    return misplaced
