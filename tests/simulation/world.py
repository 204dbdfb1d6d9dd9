"""One crash schedule: the service's own pipeline between a simulated source and sink, under faults, by a seed.

What runs is `cdc.pipeline.runner.Pipeline` with everything below it: sessions, reader, channel, assembler,
compaction, applier, the store, the lease and its keeper. Instances of it are killed, stopped, started again and
started twice; calls fail, dead-lock, or lose the answer to their COMMIT; streams are cut or fall silent.

Some schedules begin with an empty sink, and `cdc snapshot` comes in between: tables are loaded, one by one and
together, in chunks, by SELECTs that see less than is logged, and loads that are cut off go on.

After each commit at the sink its `ready` tables hold exactly what the source's held at the checkpoint: nothing is lost,
nothing is doubled, no transaction is there in part. The checkpoint is at the end of a group, counts up by one, never
goes back, and moves only by the holder of the lease. When the faults end, the service catches up by itself; told to
stop, it leaves no session behind.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import operator
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import orjson

import cdc.source.cascades
import cdc.source.connection
import cdc.source.definitions
import cdc.source.result_reader
import cdc.source.stream
import snapshot.exact
from cdc.app import _options_beside
from cdc.errors import CdcError, LeaseLost, TransientError
from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, SourcePosition, TableName
from cdc.pipeline import runner
from cdc.pipeline.beside import SideLink
from cdc.pipeline.dealing import lane_stores
from cdc.pipeline.lanes import LaneRule, lane_name, side_name
from cdc.pipeline.retry import RetryPolicy
from cdc.pipeline.sink_lanes import LaneLink, SinkLanes
from cdc.pipeline.tables import Routing, TableRegistry
from cdc.schema.identifiers import is_shadow
from cdc.schema.keys import choose_key
from cdc.schema.options import TableOptions
from cdc.schema.target import Policies
from cdc.source.assembler import RunLimits
from cdc.source.connection import SourceSettings
from checkpoints.checkpoint import Checkpoint, decode_position
from checkpoints.store import InSinkStore, LeaseHeld, TableRecord
from snapshot.loader import LoadLimits
from tests.simulation import loads
from tests.simulation.family import FAMILY
from tests.simulation.scheduler import Instance, Scheduler, SimulatedClock, closing
from tests.simulation.sink import LOCK_SECONDS_MAX, TARGETS, Database, Faults, SimulatedSink
from tests.simulation.source import IDENTITY, TABLES, Log, Source, SourceFaults

__all__ = ["PIPELINE", "Outcome", "SimulationFailed", "Subject", "first_position", "run_after_a_lost_tail", "simulate"]

PIPELINE = "shop/sink"
LEASE_SECONDS = 10.0
SILENCE_SECONDS = 15.0
# Long enough for what is left of a crash: a lease, a server that notices who is gone, waits for locks, back-off.
CATCH_UP_SECONDS_MAX = 600.0
_TURNS_MAX = 60_000
_BY_TEXT = {orjson.dumps([table.database, table.table]).decode(): table for table in (*TABLES, *FAMILY)}
# Metadata tables whose key begins with the pipeline that a row is of.
_BY_PIPELINE = frozenset(
    f"_cdc_{name}" for name in ("lease", "tables", "checkpoint", "prepared", "chunks", "marks", "loads", "history")
)
_FIRST = FilePos.of("binlog.000001", 4)


Subject = Literal["fencing", "loads", "sides", "lanes", "cascades"]


class SimulationFailed(AssertionError):
    """A promise is broken; the seed is in the message."""


@dataclass(slots=True)
class Outcome:
    """What one schedule came to."""

    seed: int
    turns: int
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, *, trace: list[str] | None = None, about: Subject | None = None) -> Outcome:
    """Run one schedule. Raises SimulationFailed; the same seed does the same again.

    `about` chooses what there is much of:
        fencing: two instances that are stopped again and again, and cannot end each other's sessions.
        loads: tables are loaded all the time, slowly, beside a writer; each transaction is applied by itself.
        sides: likewise, beside the stream (`snapshot.beside`), in an instance that dies now and then.
        lanes: instances that die and come again with another number of lanes and sides.
        cascades: tables whose foreign keys change rows in no event.
    """
    random.seed(seed)  # the service's own jitter
    world = _World(seed, trace, about)
    match about:
        case "fencing":
            world.has_standby, world.database.shows_sessions = True, False
            world.faults.call = world.faults.commit = world.faults.death = 0.0
            world.faults.stop = 0.02
            world.lanes_max, world.sides_max = 1, 0
        case "loads" | "sides":
            world.reloads, world._write_seconds, world.source.row_seconds_max = 8, 3.0, 3.0
            world.limits = replace(world.limits, rows_max=1, transactions_max=2)
            world.sides_max = 0 if about == "loads" else 2
            world.beside_rows_min = 0
        case "cascades":  # many transactions in a run
            world.limits = RunLimits(rows_max=50, part_rows_max=1000, transactions_max=1000)
            world._write_seconds = min(world._write_seconds, 1.0)
        case "lanes":
            world.lanes_max, world.sides_max, world.faults.death = 3, 1, 0.003
    name = f"seed {seed}{f' about {about}' if about else ''}"
    for what in world.contents():
        world.count(f"schedules: {what}")
    try:
        with closing(world.scheduler), _replaced(world):
            world.run()
    except Exception as error:
        raise SimulationFailed(f"{name}: {error}") from error
    if world.scheduler.failure is not None:
        raise SimulationFailed(f"{name}: {world.scheduler.failure}") from world.scheduler.failure
    return Outcome(seed, world.scheduler.turns, world.scheduler.now - 1000, world.counts)


def run_after_a_lost_tail(*, has_gtids: bool) -> tuple[BaseException | None, Any, Any]:
    """The service follows a source to its end, which then crashes and has lost some; the service starts again.

    Returns what it ended with, and the sink's checkpoint and rows before and after.
    """
    world = next(one for one in map(_World.quiet, range(100)) if one.has_gtids == has_gtids)
    with closing(world.scheduler), _replaced(world):
        return world.run_after_a_lost_tail()


class _World:
    @classmethod
    def quiet(cls, seed: int) -> _World:
        """One without any fault, with one lane."""
        world = cls(seed, None)
        world.faults.call = world.faults.commit = world.faults.death = world.faults.stop = 0.0
        world.source_faults.cut = world.source_faults.silence = world.source_faults.refuse = 0.0
        world.lanes_max, world.sides_max = 1, 0
        return world

    def __init__(self, seed: int, trace: list[str] | None, about: Subject | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._trace = trace
        rng = random.Random(seed)
        self.scheduler = Scheduler(random.Random(rng.random()), turns_max=_TURNS_MAX)
        self.scheduler.switch_chance = rng.choice((0.05, 0.3, 0.8))
        self.clock = SimulatedClock(self.scheduler)
        self.faults = Faults(
            call=rng.choice((0.0, 0.003, 0.02)),
            commit=rng.choice((0.0, 0.05, 0.3)),
            death=rng.choice((0.0, 0.0005, 0.003)),
            stop=rng.choice((0.0, 0.0, 0.004)),
            counts=self.counts,
        )
        self.has_gtids = rng.random() < 0.5
        has_family = about == "cascades" or (about is None and rng.random() < 0.125)
        self.log = Log(rng, transactions=rng.randint(5, 25), has_gtids=self.has_gtids, has_family=has_family)
        self._last = [one for one in self.log.groups if one.number][-1]
        self.source_faults = SourceFaults(
            cut=rng.choice((0.0, 0.01)), silence=rng.choice((0.0, 0.01)), refuse=rng.choice((0.0, 0.1))
        )
        self.source = Source(self.scheduler, self.log, self.source_faults, self.count, self.point)
        self.database = Database(self.scheduler, self.faults)
        # Some begin with an empty sink: everything is to be loaded.
        self.is_empty_at_first = rng.random() < 0.4 or has_family
        at_first = _empty_at_first() if self.is_empty_at_first else _rows_at_first(self.has_gtids)
        self.database.rows = {table: dict(rows) for table, rows in at_first.items()}
        self.database.definitions = {} if self.is_empty_at_first else dict(_definitions_at_first(self.has_gtids))
        self.database.on_commit = self._on_commit
        self.database.point = self.point
        self.limits = RunLimits(
            rows_max=rng.choice((1, 4, 50)),
            part_rows_max=rng.choice((2, 6, 1000)),
            transactions_max=rng.choice((2, 1000)),
        )
        self.age_seconds = rng.choice((0.0, 0.2))
        self.queue_bytes_max = rng.choice((1, 2000, 1 << 20))
        if self.is_empty_at_first:
            # What foreign keys do shows in the stream.
            self._begin_late(rng.randint(1, max(1, len(self.log.groups) // (6 if has_family else 1))))
        self.instances: list[Instance] = []
        self.has_standby = rng.random() < 0.4
        self.database.shows_sessions = rng.random() < 0.6
        self.stops = rng.random() < 0.4
        self.reloads = rng.choice((0, 0, 1, 3))  # `cdc snapshot TABLE`, so often
        self.chunk_rows = rng.choice((1, 2, 1000))
        # Without GTIDs nothing says what is visible: the engine is behind the log by less than the service waits.
        self.visible_lag_seconds = rng.choice((0.0, 0.9, 5.0) if self.has_gtids else (0.0, 0.9))
        self._write_seconds = rng.choice((0.01, 1.0, 5.0))
        # A row may take as long to be read as the next transaction to come.
        self.source.row_seconds_max = rng.choice((0.0, 1.0, 3.0)) * self._write_seconds
        # How many lanes and sides an instance may have: each that starts has so many or fewer.
        self.lanes_max = 1 if has_family else rng.choice((1, 1, 1, 1, 1, 2))  # those of a family go through one lane
        self.sides_max = rng.choice((0, 0, 0, 0, 1, 2))
        self.beside_rows_min = rng.choice((0, 0, 3))
        # The second instance waits for its turn, or ends and is started again and again.
        self.is_standing_by = rng.random() < 0.5
        self.writers = rng.choice((1, 2))  # sessions that write the chunks of one table
        self._sequences: dict[str, int] = {} if self.is_empty_at_first else {PIPELINE: 1}
        self._positions: dict[str, SourcePosition] = {}
        self._looked_at, self._has_caught_up = -1, False
        self._is_ending = False
        self._services: dict[Instance, SinkLanes] = {}

    def contents(self) -> list[str]:
        """What the schedule has besides a stream."""
        has = {
            "with loads": self.is_empty_at_first or self.reloads > 0,
            "with sides": self.sides_max > 0,
            "with lanes": self.lanes_max > 1,
            "with hidden cascades": len(self.log.tables) > len(TABLES),
        }
        return [what for what, is_there in has.items() if is_there] or ["of a stream alone"]

    # ------------------------------------------------------------ the schedule

    def run(self) -> None:
        scheduler = self.scheduler
        scheduler.spawn(self._write, "writer", None)
        scheduler.spawn(self._ask_for_reloads, "cdc snapshot", None)
        for slot in range(2 if self.has_standby else 1):
            scheduler.spawn(functools.partial(self._operate, slot), f"operator {slot}", None)
        if self.stops:
            scheduler.spawn(self._stop_and_continue, "SIGSTOP", None)
        self._wait(lambda: self.source.written == len(self.log.groups) and not self.reloads)
        scheduler.sleep(scheduler.rng.uniform(0, scheduler.rng.choice((1, 1, 1, 20))))
        self._end_faults()
        began = scheduler.now
        self._wait(self._is_caught_up, CATCH_UP_SECONDS_MAX)
        if not self._is_caught_up() and scheduler.failure is None:
            raise AssertionError(
                f"not caught up {scheduler.now - began:.0f} s after the last fault, at "
                f"{ {name: str(position) for name, position in self._positions.items()} }; tables are {self._records()}"
            )
        has_slept = any(instance.stopped_until > scheduler.now for instance in self.instances if not instance.is_dead)
        for instance in self.instances:  # who has slept through it all wakes up
            instance.stopped_until = 0.0
        scheduler.sleep(5 if has_slept else 1)
        self._is_ending = True
        for instance, service in self._services.items():
            if not instance.is_dead:
                service.request_stop()
        self._wait(lambda: not any(not one.is_dead for one in self._services), 200)
        scheduler.sleep(100)
        if scheduler.failure is None:
            self._check_nothing_is_left()

    def run_after_a_lost_tail(self) -> tuple[BaseException | None, Any, Any]:
        self.source.written = len(self.log.groups)
        found: list[dict[str, Any]] = []
        services: list[SinkLanes] = []
        for name in ("before", "after"):
            instance = Instance(name)
            service = self._service(instance)
            services.append(service)
            self.scheduler.spawn(service.start, name, instance)
            self._wait(lambda: self._is_caught_up() if not found else services[-1].error is not None, 200)
            service.request_stop()
            assert service.join(200)
            found.append({table: dict(rows) for table, rows in self.database.rows.items() if table != "_cdc_lease"})
            lost = [one for one in self.log.groups if one.number][-1]
            self.source.written = self.log.groups.index(lost)
        if self.scheduler.failure is not None:
            raise self.scheduler.failure
        for rows in found:
            rows["_cdc_checkpoint"] = {key: row["position"] for key, row in rows["_cdc_checkpoint"].items()}
        before, after = found
        return services[-1].error, before, after

    def _wait(self, is_ready: Any, seconds: float | None = None) -> None:
        self.scheduler.wait(lambda: is_ready() or self.scheduler.failure is not None, seconds)

    def _end_faults(self) -> None:
        self.faults.call = self.faults.commit = self.faults.death = self.faults.stop = 0.0
        self.source_faults.cut = self.source_faults.silence = self.source_faults.refuse = 0.0
        self.stops = False
        self.say("the faults are over")
        live = [one for one in self._services if not one.is_dead]
        # Without the right to end its sessions, who sleeps on with locks is waited for.
        can_sleep_on = self.has_standby and len(live) == 2 and self.database.shows_sessions
        if can_sleep_on and self.scheduler.rng.random() < 0.5:
            live[0].stopped_until = float("inf")  # one sleeps on: the other takes over
            self.count("stops to the end")
            live = live[1:]
        for one in live:
            one.stopped_until = 0.0

    def _write(self) -> None:
        while self.source.written < len(self.log.groups):
            self.scheduler.sleep(self.scheduler.rng.uniform(0, self._write_seconds))
            if self.log.groups[self.source.written].is_end_of_file:  # rotation waits for what is not visible
                self.scheduler.wait(lambda: self.source.is_all_visible)
            self.source.write(lag_seconds=self.scheduler.rng.uniform(0, self.visible_lag_seconds))
            if self.log.groups[self.source.written - 1].is_end_of_file:  # the next one is begun at the same moment
                self.source.write(lag_seconds=0)
            self.count("groups")

    def _ask_for_reloads(self) -> None:
        """`cdc snapshot`, beside the service."""
        sink = SimulatedSink(self.database, None)
        while self.reloads:
            self.scheduler.sleep(self.scheduler.rng.uniform(0, self._write_seconds * len(self.log.groups) / 5))
            self.reloads -= 1
            table = self.scheduler.rng.choice(sorted(self.log.tables))
            with contextlib.suppress(TransientError):
                if not sink.is_open():
                    sink.open()
                stores = lane_stores(sink, PIPELINE)  # type: ignore[arg-type]
                if stores[1].exists("commands"):
                    known = [store for store in stores.values() if table in store.load_tables()]
                    for store in known or stores.values():
                        store.add_command("snapshot", orjson.dumps([[table.database, table.table]]).decode())
                    self.count("reloads asked for")
        sink.close()

    def _operate(self, slot: int) -> None:
        """What starts the service, and starts it again whenever it has ended."""
        number = 0
        while not self._is_ending:
            number += 1
            instance = Instance(f"instance-{slot}.{number}")
            self.instances.append(instance)
            self.count("starts")
            self.say(f"{instance.name} starts")
            process = self.scheduler.spawn(functools.partial(self._serve, instance), instance.name, instance)
            self.scheduler.wait(lambda process=process: process.is_done)  # type: ignore[misc]
            self._on_death(instance)
            self._services.pop(instance, None)
            self.scheduler.sleep(self.scheduler.rng.uniform(0, 3))

    def _serve(self, instance: Instance) -> None:
        service = self._services[instance] = self._service(instance)
        service.start()
        while not service.join(1000):
            pass
        instance.is_dead = True  # the process ends
        lease = self.database.rows.get("_cdc_lease", {}).get((PIPELINE,))
        # Who slept finds rows of the next holder, or lacks those that it has taken, before it looks at the lease.
        if isinstance(service.error, CdcError) and lease is not None and lease["holder"] != instance.name:
            self.count("ends by what the next holder has written")
            return
        if not isinstance(service.error, LeaseHeld | LeaseLost | TransientError | None):
            raise service.error

    def _on_death(self, instance: Instance) -> None:
        instance.is_dead = True
        self.say(f"{instance.name} has ended")
        for session in list(self.database.sessions.values()):
            if session.instance is instance:
                self.database.leave(session)

    def _stop_and_continue(self) -> None:
        while self.stops:
            self.scheduler.sleep(self.scheduler.rng.uniform(0, 20))
            live = [one for one in self._services if not one.is_dead]
            if live and self.stops:
                self._stop(self.scheduler.rng.choice(live))

    def _stop(self, instance: Instance) -> None:
        # A TRUNCATE that waits for longer than three tries, for locks that nobody may end, parks its table.
        longest = 60 if self.database.shows_sessions else LOCK_SECONDS_MAX
        instance.stopped_until = self.scheduler.now + self.scheduler.rng.choice((1, 15, longest))
        self.count("stops")
        self.say(f"{instance.name} is stopped until {instance.stopped_until - 1000:.2f}")

    def _service(self, instance: Instance) -> SinkLanes:
        """One sink's pipelines, put together as `cdc.app` does."""
        rng = self.scheduler.rng
        lanes = rng.randint(1, self.lanes_max) if self.lanes_max > 1 else 1
        sides = rng.randint(0, self.sides_max) if self.sides_max else 0
        whole = _routing(self.log.tables, chunk_rows=self.chunk_rows)
        target = TableRegistry(whole, SimulatedSink.kind, ()).place
        return SinkLanes(
            pipeline=PIPELINE,
            rule=LaneRule(lanes),
            make_lane=functools.partial(self._lane, instance, whole, lanes),
            make_side=functools.partial(self._side, instance, whole),
            sides=sides,
            target=target,
            captures=whole.matches,
            place=lambda table: "\0".join(target(table)),
            clock=self.clock,
            hooks=_Hooks(self, instance),  # type: ignore[arg-type]
            log=_Log(self, instance),  # type: ignore[arg-type]
        )

    def _lane(self, instance: Instance, whole: Routing, lanes: int, lane: int, link: LaneLink) -> runner.Pipeline:
        settings = self._settings(instance, lane_name(PIPELINE, lane))
        return self._pipeline(
            instance,
            replace(
                settings,
                lane=lane if lanes > 1 or lane > 1 else None,
                beside_rows_min=self.beside_rows_min,
                standby=self.is_standing_by and lane == 1,
            ),
            replace(whole, matches=lambda d, t: whole.matches(d, t) and link.owns(d, t)),
            on_lease=link.on_lease,
            on_end=link.on_end,
            beside=link.beside,
        )

    def _side(self, instance: Instance, whole: Routing, number: int, link: SideLink) -> runner.Pipeline:
        side = link.side
        routing = replace(
            whole,
            matches=lambda d, t: side.owns(d, t) and whole.matches(d, t),
            options=functools.partial(_options_beside, whole, side),
        )
        settings = replace(self._settings(instance, side_name(PIPELINE, number)), side=number)
        return self._pipeline(instance, settings, routing, on_end=link.on_end, side=side)

    def _settings(self, instance: Instance, name: str) -> runner.PipelineSettings:
        return runner.PipelineSettings(
            name=name,
            holder=instance.name,
            server_id=4242,
            limits=self.limits,
            age_seconds_max=self.age_seconds,
            queue_bytes_max=self.queue_bytes_max,
            lease_seconds=LEASE_SECONDS,
            retry=RetryPolicy(initial_seconds=0.5, max_seconds=8),
            var_dir=Path("nowhere"),
            load=LoadLimits(writers=self.writers),
        )

    def _pipeline(
        self, instance: Instance, settings: runner.PipelineSettings, routing: Routing, **more: Any
    ) -> runner.Pipeline:
        return runner.Pipeline(
            settings=settings,
            source=SourceSettings(
                "source", 3306, "repl", "", 4242, read_timeout_seconds=SILENCE_SECONDS, heartbeat_seconds=1
            ),
            make_sink=lambda: SimulatedSink(self.database, instance),  # type: ignore[arg-type,return-value]
            routing=routing,
            clock=self.clock,
            hooks=_Hooks(self, instance),  # type: ignore[arg-type]
            log=_Log(self, instance),  # type: ignore[arg-type]
            metrics=_Unmeasured(),  # type: ignore[arg-type]
            **more,
        )

    # ------------------------------------------------------------ faults and words

    def point(self, instance: Instance | None) -> None:
        """A point at which a process may be killed or stopped, or another one may have its turn."""
        scheduler, faults = self.scheduler, self.faults
        scheduler.pause()
        if instance is None:
            return
        random = scheduler.rng.random
        if random() < faults.death:
            self.count("kills")
            self.say(f"{instance.name} is killed")
            scheduler.kill(instance)
        if random() < faults.stop:
            self._stop(instance)
            scheduler.sleep(0)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def _begin_late(self, groups: int) -> None:
        """So many groups are there when the service is started for the first time."""
        while self.log.groups[groups - 1].is_end_of_file:
            groups += 1
        self.source.written = groups

    @property
    def is_traced(self) -> bool:
        return self._trace is not None

    def say(self, what: str) -> None:
        if self._trace is not None:
            self._trace.append(f"{self.scheduler.now - 1000:9.3f} {what}")

    # ------------------------------------------------------------ the promises

    def _on_commit(self, session: Any, places: list[tuple[str, Any]]) -> None:
        self.count("commits")
        tables = {table for table, _ in places}
        pipelines = {key[0] for table, key in places if table in _BY_PIPELINE}
        if session.instance is not None and tables - {"_cdc_commands"}:
            self._check_holder(session.instance.name, pipelines, tables)
        if tables == {"_cdc_lease"}:  # twice a second
            return
        if self.is_traced:
            who = f"{session.name} of {session.instance.name if session.instance else 'nobody'}"
            self.say(f"{who} commits {sorted(tables)}: {', '.join(sorted(pipelines))}")
        self._follow_checkpoints(is_dealing="_cdc_tables" in tables)
        self._compare()

    def _check_holder(self, name: str, pipelines: set[str], tables: set[str]) -> None:
        """Who writes has the lease of each pipeline that it writes for; who makes a table, one of them."""
        holders = {key[0]: row["holder"] for key, row in self.database.rows.get("_cdc_lease", {}).items()}
        for pipeline in pipelines & holders.keys():
            holder = holders[pipeline]
            assert holder == name, f"{name} commits {tables} of {pipeline}; {holder} has the lease"
        if not pipelines and holders and name not in holders.values():
            assert tables == {TARGETS}, f"{name} commits {tables}, without any lease"
            self.count("tables made by who had slept")  # before its checkpoint's row is asked for

    def _follow_checkpoints(self, *, is_dealing: bool) -> None:
        for (pipeline,), row in self.database.rows.get("_cdc_checkpoint", {}).items():
            before = self._sequences.get(pipeline, 0)
            if not row["position"]:  # before the first, or nobody runs it any more
                self._positions.pop(pipeline, None)
            else:
                position = _decoded(row["position"])
                if row["sequence"] != before:
                    assert row["sequence"] == before + 1, f"{pipeline}: sequence {row['sequence']} after {before}"
                    known = self._positions.get(pipeline)
                    # A table that comes to a lane may be behind it: then the lane passes over what the others have.
                    assert known is None or is_dealing or not _is_behind(position, known), (
                        f"the checkpoint of {pipeline} goes back from {known} to {position}"
                    )
                    self.count("checkpoints")
                    self.say(f"{pipeline} is at {position}")
                self._positions[pipeline] = position
            self._sequences[pipeline] = row["sequence"]

    def _records(self) -> list[tuple[str, TableName, str, str]]:
        """Pipeline, table, state and target of each record."""
        return [
            (pipeline, _BY_TEXT[text], row["state"], row["target"])
            for (pipeline, text), row in self.database.rows.get("_cdc_tables", {}).items()
        ]

    def _compare(self) -> None:
        """Each table that is ready is in its target as the source had it at the checkpoint of its pipeline."""
        owners: dict[str, str] = {}
        for pipeline, name, state, target in self._records():
            if state in ("ready", "snapshotting"):
                other = owners.setdefault(target, pipeline)
                assert other == pipeline, f"{target} is written by {other} and {pipeline}"
            position = self._positions.get(pipeline)
            if state != "ready" or position is None or (is_shadow(target) and not self._is_there(target)):
                continue  # what is gone of a shadow is not read by anybody, and never merged
            columns = [column.name for column in self.log.tables[name].columns]
            rows = sorted([tuple([row[c] for c in columns]) for row in self.database.rows.get(target, {}).values()])
            expected = list(self._group_at(position).tables[name])
            assert rows == expected, f"{name} in {target} at {position}: the source has {expected}, the sink {rows}"

    def _is_there(self, target: str) -> bool:
        return (target,) in self.database.rows.get(TARGETS, {})

    def _group_at(self, position: SourcePosition) -> Any:
        file = position.file
        groups = self.log.groups
        if file is None:  # @@gtid_executed, at which a stream is to begin
            assert isinstance(position.gtid, MysqlGtidSet)
            count = position.gtid.count()
            return next((one for one in groups if one.number == count), replace(groups[0], number=0))
        count = bisect.bisect_right(groups, file, key=_end_of)
        ahead = groups[count] if count < len(groups) else None
        if ahead is not None and ahead.file == file.file:
            assert not ahead.start < file.pos < ahead.end, (
                f"the checkpoint {file} is inside a group, from {ahead.start} to {ahead.end}"
            )
        if isinstance(position.gtid, MysqlGtidSet):
            number = groups[count - 1].last_number if count else 0
            assert position.gtid.count() == number, f"{position.gtid} at {file}, which is behind transaction {number}"
        return groups[count - 1] if count else replace(groups[0], number=0)

    def _is_caught_up(self) -> bool:
        if self._looked_at != self.counts["commits"]:  # it is asked at each turn
            self._looked_at, self._has_caught_up = self.counts["commits"], self._look_whether_caught_up()
        return self._has_caught_up

    def _look_whether_caught_up(self) -> bool:
        first = self._positions.get(PIPELINE)
        if first is None or not self._is_at_end(first):
            return False
        for row in self.database.rows.get("_cdc_commands", {}).values():
            # One that is given to a lane in the moment that the lane is given up stays, which `cdc snapshot` says.
            if row["state"] not in ("done", "failed") and row["pipeline"] in self._positions:
                return False
        records = self._records()
        if sorted(name for _, name, state, _ in records if state == "ready") != sorted(self.log.tables):
            return False
        used = {pipeline for pipeline, *_ in records}
        if len(records) > len(self.log.tables) or any("~" in pipeline for pipeline in used):  # sides have something yet
            return False
        return all(self._is_at_end(self._positions.get(pipeline)) for pipeline in used)

    def _is_at_end(self, position: SourcePosition | None) -> bool:
        last = self._last
        if position is None:
            return False
        if position.file is None:  # it began at the end of the log
            return isinstance(position.gtid, MysqlGtidSet) and position.gtid.count() == last.number
        return position.file >= last.end_pos

    def _check_nothing_is_left(self) -> None:
        live = [one.name for one in self._services if not one.is_dead]
        assert not live, f"{live} did not end when told to"
        assert not self.database.sessions, f"sessions were left at the sink: {sorted(self.database.sessions)}"
        assert self.source.written == len(self.log.groups)
        self._compare()


_end_of = operator.attrgetter("end_pos")
_decoded = functools.lru_cache(maxsize=10_000)(decode_position)


def _is_behind(position: SourcePosition, other: SourcePosition) -> bool:
    return position.file is not None and other.file is not None and position.file < other.file


class _Hooks:
    """Every crash point is a point at which the process may be killed."""

    def __init__(self, world: _World, instance: Instance) -> None:
        self._world = world
        self._instance = instance

    def __call__(self, point: str) -> None:
        self._world.point(self._instance)


class _Log:
    """What the service says goes into the trace."""

    def __init__(self, world: _World, instance: Instance) -> None:
        self._world = world
        self._instance = instance

    def bind(self, **fields: object) -> _Log:
        return self

    def _say(self, event: str, **fields: object) -> None:
        self._world.count(f"log: {event}{' together' if 'together' in fields else ''}")
        if self._world.is_traced:
            fields.pop("exc_info", None)
            self._world.say(f"{self._instance.name} says {event} {fields}")

    debug = info = warning = error = _say


class _Unmeasured:
    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_fields: None


# ---------------------------------------------------------------- what stands in for the outside


@contextlib.contextmanager
def _replaced(world: _World) -> Iterator[None]:
    """In the service's modules: threads that take turns, and the simulated source."""
    stand_ins: dict[int, Any] = {
        id(threading): world.scheduler.threads,
        id(cdc.source.connection.connect): world.source.connect,
        id(cdc.source.stream.BinlogStream): world.source.stream,
        id(cdc.source.definitions.read_definition): loads.read_definition,
        id(cdc.source.definitions.read_definitions): loads.read_definitions,
        id(cdc.source.cascades.require_visible_changes): loads.require_visible_changes,
        id(cdc.source.cascades.read_hidden_keys): loads.read_hidden_keys,
        id(cdc.source.result_reader.ResultReader): loads.ChunkReader,
        id(snapshot.exact.exact_rows): loads.exact_rows,
        id(time): SimpleNamespace(monotonic=world.clock.monotonic, sleep=world.scheduler.sleep),
    }
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for module, name in _places():
            original = getattr(module, name)
            setattr(module, name, stand_ins[id(original)])
            replaced.append((module, name, original))
        # Looking after targets (indexes, drift) is catalogues and DDL: it is tried on real servers.
        if (upkeep := sys.modules.get("cdc.pipeline.upkeep")) is not None:
            replaced.append((upkeep.TargetUpkeep, "step", upkeep.TargetUpkeep.step))
            upkeep.TargetUpkeep.step = lambda _upkeep, _position: None
        if (guards := sys.modules.get("snapshot.retention")) is not None:  # how long the source keeps its log: likewise
            replaced.append((guards.LogGuard, "check", guards.LogGuard.check))
            guards.LogGuard.check = lambda _guard, _source, **_fields: None
        yield
    finally:
        for module, name, original in replaced:
            setattr(module, name, original)


@functools.cache
def _places() -> tuple[tuple[Any, str], ...]:
    originals = (
        threading,
        time,
        cdc.source.connection.connect,
        cdc.source.stream.BinlogStream,
        cdc.source.definitions.read_definition,
        cdc.source.definitions.read_definitions,
        cdc.source.cascades.require_visible_changes,
        cdc.source.cascades.read_hidden_keys,
        cdc.source.result_reader.ResultReader,
        snapshot.exact.exact_rows,
    )
    return tuple(
        (module, name)
        for key, module in sorted(sys.modules.items())
        if key.startswith(("cdc.pipeline.", "snapshot."))
        for name, value in vars(module).items()
        if any(value is original for original in originals)
    )


def _routing(tables: Collection[TableName], *, chunk_rows: int = 1000) -> Routing:
    return Routing(
        matches=lambda database, table: TableName(database, table) in tables,
        policies=lambda _database, _table: Policies(),
        key=lambda _database, _table: None,
        chunk_rows=lambda _database, _table: chunk_rows,
        accepts_hidden_cascades=lambda _database, _table: False,
        applies_hidden_cascades=lambda database, table: TableName(database, table) in FAMILY,
        options=lambda _database, _table: TableOptions(),
    )


def first_position(*, has_gtids: bool) -> SourcePosition:
    return SourcePosition(IDENTITY, _FIRST, MysqlGtidSet.parse("") if has_gtids else None)


@functools.cache
def _at_first(has_gtids: bool) -> SimpleNamespace:
    """The sink of a service that has loaded its tables, which were empty, and has read nothing yet."""
    scheduler = Scheduler(random.Random(0), turns_max=100_000)
    database = Database(scheduler, Faults())
    sink = SimulatedSink(database, None)
    sink.open()
    store = InSinkStore(sink, PIPELINE)
    store.create()
    store.take_lease(holder="the first", sessions=(sink.session(),), seconds=1, was_renewed=False)
    tables = TableRegistry(_routing(TABLES), sink.kind, ())
    with sink.transaction() as tx:
        for name, definition in TABLES.items():
            target = tables.make_target(definition)
            sink.create_table(target)
            record = TableRecord(
                source=name,
                target=".".join(tables.place(name)),
                state="ready",
                definition=definition,
                key=choose_key(definition),
                options=tables.description(name, target.key),
                is_complete=True,
            )
            store.save_table(tx, record)
        store.save(tx, Checkpoint(first_position(has_gtids=has_gtids), 1))
        tx.commit()
    store.release_lease(store.epoch, status={})
    sink.close()
    scheduler.close()
    return SimpleNamespace(rows=database.rows, definitions=database.definitions)


def _empty_at_first() -> dict[str, Any]:
    return {TARGETS: {}}


def _rows_at_first(has_gtids: bool) -> dict[str, Any]:
    rows: dict[str, Any] = _at_first(has_gtids).rows
    return rows


def _definitions_at_first(has_gtids: bool) -> dict[str, Any]:
    definitions: dict[str, Any] = _at_first(has_gtids).definitions
    return definitions
