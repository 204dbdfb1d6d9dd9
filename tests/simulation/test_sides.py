"""Taking up the sides that an instance has left, where that does not go through."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.errors import LeaseLost, SinkUnavailable
from cdc.model import TableName
from cdc.pipeline.beside import Beside
from cdc.pipeline.lanes import lane_name, side_name
from cdc.schema.identifiers import shadow_name
from checkpoints.checkpoint import Checkpoint
from checkpoints.lanes import forget_table, tables_of_tables
from checkpoints.store import InSinkStore, LeaseHeld, TableRecord
from tests.simulation.scheduler import Scheduler, closing
from tests.simulation.sink import Database, Faults, SimulatedSink
from tests.simulation.world import PIPELINE, first_position

T = TableName("shop", "a")


class _SidePipeline:
    """One whose sessions nobody runs."""

    def __init__(self, sink: SimulatedSink, holder: str) -> None:
        self.tables: list[TableRecord] = []
        self.said: list[str] = []
        self.failures = 0
        self.others_rounds = 0
        self.on_lease: Callable[[], None] = lambda: None
        self._store = InSinkStore(sink, side_name(PIPELINE, 1))
        self._holder = holder

    def take_lease(self, _is_stopping: threading.Event, session: str) -> int:
        if self.failures:
            self.failures -= 1
            raise SinkUnavailable("away")
        if self.others_rounds:
            self.others_rounds -= 1
            raise LeaseHeld("run by another instance")
        self.on_lease()
        self._store.take_lease(holder=self._holder, sessions=(session,), seconds=10, was_renewed=False)
        return self._store.epoch

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.said.append(name)


class _Sink:
    """A sink of which one instance holds the lane, and has left a side with a table."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.database = Database(scheduler, Faults())
        self.store = self.lane_store("first")
        self.warnings: list[str] = []
        side = InSinkStore(self.store.sink, side_name(PIPELINE, 1))
        side.take_lease(holder="first", sessions=("gone",), seconds=1, was_renewed=False)
        with side.sink.transaction() as tx:
            side.save_table(tx, TableRecord(source=T, target="shop.a", state="pending"))
            side.save(tx, Checkpoint(first_position(has_gtids=True), 1))
            tx.commit()
        side.release_lease(side.epoch, status={})

    def lane_store(self, holder: str) -> InSinkStore:
        """The lane's metadata, of who has just taken the lease."""
        sink = SimulatedSink(self.database, None)
        sink.open()
        store = InSinkStore(sink, PIPELINE)
        store.create()
        store.take_lease(holder=holder, sessions=(sink.session(),), seconds=0, was_renewed=False)
        return store

    def beside(self, pipeline: _SidePipeline, *, count_max: int) -> Beside:
        log: Any = SimpleNamespace(
            bind=lambda **_: log, info=lambda *_, **__: None, warning=lambda event, **_: self.warnings.append(event)
        )
        return Beside(
            pipeline=PIPELINE,
            count_max=count_max,
            make_side=lambda _number, _link: pipeline,
            place=lambda table: (table.database, table.table),
            lane_position=lambda _: None,
            on_error=lambda _: None,
            clock=self.database.clock,
            hooks=lambda _: None,  # type: ignore[arg-type]
            log=log,
        )


@pytest.fixture
def sink() -> Iterator[_Sink]:
    with closing(Scheduler(random.Random(0), turns_max=10_000)) as scheduler:
        yield _Sink(scheduler)


def _sink_of(store: InSinkStore) -> SimulatedSink:
    found: Any = store.sink
    assert isinstance(found, SimulatedSink)
    return found


def test_a_side_that_could_not_be_given_up_is_given_up_by_the_next_session(sink: _Sink) -> None:
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    pipeline.failures = 1
    beside = sink.beside(pipeline, count_max=0)
    with pytest.raises(SinkUnavailable):
        beside.adopt({1: sink.store}, lambda _: 1)
    assert not beside.has(T)
    beside.adopt({1: sink.store}, lambda _: 1)
    assert [record.state for record in sink.store.load_tables().values()] == ["pending"]
    assert not beside.has(T)


def test_what_a_side_was_asked_is_not_waited_for_when_it_is_given_up(sink: _Sink) -> None:
    side = InSinkStore(sink.store.sink, side_name(PIPELINE, 1))
    side.add_command("snapshot", '[["shop","a"]]')
    sink.beside(_SidePipeline(_sink_of(sink.store), "first"), count_max=0).adopt({1: sink.store}, lambda _: 1)
    assert side.queued_commands() == []


def test_what_was_said_of_tables_that_wait_goes_with_each_to_its_lane(sink: _Sink) -> None:
    """And the first of them has the command that `cdc ddl` looks at."""
    other = TableName("shop", "b")
    _write(sink, TableRecord(source=other, target="shop.b", state="parked", error={"message": "waits"}))
    second = InSinkStore(sink.store.sink, lane_name(PIPELINE, 2))
    second.take_lease(holder="first", sessions=("applier",), seconds=0, was_renewed=False)
    side = InSinkStore(sink.store.sink, side_name(PIPELINE, 1))
    said = {"tables": [["shop", "a"], ["shop", "b"]], "by": "root", "statements": ["one", "two"]}
    asked = side.add_command("ddl_apply", orjson.dumps(said).decode())
    side.set_command(asked, "running", "loading")
    beside = sink.beside(_SidePipeline(_sink_of(sink.store), "first"), count_max=1)
    beside.adopt({1: sink.store, 2: second}, lambda table: 2 if table == other else 1)
    [here], [there] = sink.store.queued_commands(), second.queued_commands()
    assert [(one.name, one.state, one.message) for one in (here, there)] == [("ddl_apply", "running", "loading")] * 2
    assert here.id == asked
    assert orjson.loads(here.argument) == {"tables": [["shop", "a"]], "by": "root", "statements": ["one"]}
    assert orjson.loads(there.argument) == {"tables": [["shop", "b"]], "by": "root", "statements": ["two"]}
    assert not side.queued_commands()


def test_a_side_that_has_tables_of_a_commit_without_an_answer_gets_no_others(sink: _Sink) -> None:
    """Another lane has given them, and has not taken the side up yet."""
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    beside = sink.beside(pipeline, count_max=1)
    other = TableRecord(source=TableName("shop", "b"), target="shop.b", state="pending")
    assert beside.begin(2, sink.store, [other], shadowed=(), forced=()) is None
    assert not beside.sides
    assert InSinkStore(sink.store.sink, side_name(PIPELINE, 1)).load_tables().keys() == {T}


def test_a_side_whose_lease_another_instance_still_has_is_waited_for(sink: _Sink) -> None:
    """That one has lost its lanes, and ends within moments."""
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    sink.beside(pipeline, count_max=0).adopt({1: sink.store}, lambda _: 1)
    pipeline.others_rounds = 2
    records = list(sink.store.load_tables().values())
    side = sink.beside(pipeline, count_max=1).begin(1, sink.store, records, shadowed=(), forced=())
    assert side is not None
    assert sink.warnings == ["lane_waits"]
    assert InSinkStore(sink.store.sink, side_name(PIPELINE, 1)).load_tables().keys() == {T}


def _write(sink: _Sink, *records: TableRecord) -> None:
    """What the instance that still has the side commits while its lease is waited for; nothing: it has no tables."""
    connection = SimulatedSink(sink.database, None)
    connection.open()
    store = InSinkStore(connection, side_name(PIPELINE, 1))
    store.epoch = 1
    with store.sink.transaction() as tx:
        for record in records:
            store.save_table(tx, record)
        if not records:
            forget_table(store, tx, T, kept_in=tables_of_tables(store))
        store.fence(tx)
        tx.commit()


@pytest.mark.parametrize("sides", [0, 1], ids=["given back", "taken up"])
def test_what_a_side_has_is_read_once_nobody_else_writes_it(sink: _Sink, sides: int) -> None:
    """Who has lost it may park a table of it until then, or merge a shadow, or give its tables to their lane."""
    error = {"message": "refused"}
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    parked = TableRecord(source=T, target="shop.a", state="parked", error=error)
    pipeline.on_lease = lambda: _write(sink, parked)
    beside = sink.beside(pipeline, count_max=sides)
    beside.adopt({1: sink.store}, lambda _: 1)
    records = sink.store.load_tables().values() if not sides else pipeline.tables
    assert [(record.state, record.error) for record in records] == [("parked", error)]


def test_a_shadow_that_is_merged_meanwhile_is_none(sink: _Sink) -> None:
    _write(sink, TableRecord(source=T, target=f"shop.{shadow_name('a')}", state="ready"))
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    pipeline.on_lease = lambda: _write(sink, TableRecord(source=T, target="shop.a", state="ready"))
    beside = sink.beside(pipeline, count_max=1)
    beside.adopt({1: sink.store}, lambda _: 1)
    assert [side.shadowed for side in beside.sides] == [frozenset()]
    assert [side.had_shadow for side in beside.sides] == [{T}]


@pytest.mark.parametrize("sides", [0, 1], ids=["given back", "taken up"])
def test_a_side_whose_tables_have_joined_meanwhile_is_none(sink: _Sink, sides: int) -> None:
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    pipeline.on_lease = lambda: _write(sink)
    beside = sink.beside(pipeline, count_max=sides)
    beside.adopt({1: sink.store}, lambda _: 1)
    assert not beside.sides
    assert pipeline.said == ["release"]
    assert not sink.store.load_tables()


def test_a_side_that_has_got_tables_of_another_lane_meanwhile_is_left_to_it(sink: _Sink) -> None:
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    pipeline.on_lease = lambda: _write(sink, TableRecord(source=TableName("shop", "b"), target="shop.b", state="ready"))
    beside = sink.beside(pipeline, count_max=1)
    beside.adopt({1: sink.store}, lambda _: 1)
    assert not beside.sides
    assert pipeline.said == ["release"]


def test_who_has_slept_takes_up_no_side(sink: _Sink) -> None:
    """The next holder may have given the tables back to the lane by then: two would write to one target."""
    pipeline = _SidePipeline(_sink_of(sink.store), "first")
    beside = sink.beside(pipeline, count_max=1)
    sink.database.shows_sessions = False  # else the session would be ended
    sink.lane_store("second")
    with pytest.raises(LeaseLost):
        beside.adopt({1: sink.store}, lambda _: 1)
    assert "start" not in pipeline.said
    assert not beside.sides
