"""The lease keeper on a store that a test owns: who becomes holder, how it stays so, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cdc.errors import CdcError, ConfigError, LeaseLost, SinkUnavailable, Stopping
from cdc.pipeline.lease import LeaseKeeper, Standby, acquire_under
from cdc.pipeline.status import PipelineStatus
from checkpoints.store import COMMAND_HOLDER, Command, LeaseHeld, LeaseRow
from tests.support.waiting import wait_until
from tests.unit.pipeline.clocks import FakeClock

SECONDS = 10.0


class Store:
    """The metadata as the keeper uses it. `others` acts as another instance, before each look at the lease."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.epoch = 0
        self.row: LeaseRow | None = None
        self.others: Callable[[], None] = lambda: None
        self.renewals: list[Mapping[str, Any]] = []
        self.renew_errors: list[BaseException] = []
        self.renamed: list[str] = []
        self.take_errors: list[BaseException] = []
        self.released: list[int] = []
        self.commands: list[Command] = []

    def create(self) -> None:
        pass

    def held_by(self, holder: str, *, until: float, epoch: int = 1) -> None:
        now = self.clock.now_us()
        self.row = LeaseRow(holder, epoch, int(until * 1_000_000), now, "", {})

    def read_lease(self) -> LeaseRow | None:
        self.others()
        if self.row is not None:
            row = self.row
            self.row = LeaseRow(row.holder, row.epoch, row.expires_us, self.clock.now_us(), row.session, row.status)
        return self.row

    def take_lease(self, *, holder: str, sessions: Sequence[str], seconds: float, was_renewed: bool) -> None:
        row = self.row
        if self.take_errors:
            self.epoch = (row.epoch if row else 0) + 1  # as it is while its COMMIT is on its way
            raise self.take_errors.pop(0)
        if row is not None and row.holder != holder and row.expires_us > self.clock.now_us():
            raise LeaseHeld(f"run by {row.holder}")
        self.epoch = (row.epoch if row else 0) + 1
        self.held_by(holder, until=self.clock.seconds + seconds, epoch=self.epoch)

    def renew_lease(self, epoch: int, *, seconds: float, status: Mapping[str, Any], session: str) -> None:
        if self.renew_errors:
            raise self.renew_errors.pop(0)
        if session:
            self.renamed.append(session)
        self.renewals.append(status)

    def release_lease(self, epoch: int, *, status: Mapping[str, Any]) -> None:
        self.released.append(epoch)

    def queued_commands(self) -> list[Command]:
        return self.commands

    def lost(self) -> LeaseLost:
        return LeaseLost("taken over")


class Sink:
    name = "warehouse"

    def __init__(self) -> None:
        self.opened = 0
        self.is_there = False
        self.silences: list[float] = []

    def open(self) -> None:
        self.opened += 1
        self.is_there = True

    def close(self) -> None:
        self.is_there = False

    def is_open(self) -> bool:
        return self.is_there

    def end_when_silent(self, seconds: float) -> None:
        self.silences.append(seconds)

    def session(self) -> str:
        return f"keeper {self.opened}"


class Kept:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = Sink()
        self.store = Store(self.clock)
        self.heard: list[list[Command]] = []
        self.stopping = threading.Event()
        self.keeper = LeaseKeeper(
            sink=self.sink,  # type: ignore[arg-type]  # what is used of a sink
            pipeline="shop/warehouse",
            holder="us",
            seconds=SECONDS,
            clock=self.clock,
            status=lambda: {"state": "streaming"},
            on_commands=self.heard.append,
        )
        self.keeper._store = self.store  # type: ignore[assignment]

    def acquire(self) -> int:
        return self.keeper.acquire(self.stopping, "applier")


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_a_free_lease_is_taken_and_renewed_until_the_end(kept: Kept) -> None:
    assert kept.acquire() == 1
    wait_until(lambda: len(kept.store.renewals) > 3, 5, "renewals")
    kept.keeper.stop()
    assert kept.store.released == [1]
    assert not kept.sink.is_open()
    assert kept.keeper.lost is None
    assert all(status == {"state": "streaming"} for status in kept.store.renewals)


def test_a_new_connection_is_named_in_the_lease_once_it_is_written(kept: Kept) -> None:
    kept.store.renew_errors = [SinkUnavailable("cut")] * 2
    kept.acquire()
    wait_until(lambda: len(kept.store.renewals) > 3, 5, "renewals")
    kept.keeper.stop()
    assert kept.store.renamed == ["keeper 3"]  # the second was cut before it could say so


def test_each_session_raises_the_epoch_with_one_thread(kept: Kept) -> None:
    assert kept.acquire() == 1
    thread = kept.keeper._thread
    assert kept.acquire() == 2
    assert kept.keeper._thread is thread
    kept.keeper.stop()
    assert kept.store.released == [2]


def test_a_holder_that_is_seen_to_renew_is_left_alone(kept: Kept) -> None:
    kept.store.held_by("them", until=kept.clock.seconds + 5)

    def renew() -> None:
        kept.store.held_by("them", until=kept.clock.seconds + 5)

    kept.store.others = renew
    with pytest.raises(LeaseHeld, match="them"):
        kept.acquire()
    assert kept.clock.seconds < 1000 + SECONDS
    assert kept.store.epoch == 0


def test_a_holder_that_renews_no_more_is_waited_for_and_taken_over(kept: Kept) -> None:
    kept.store.held_by("them", until=kept.clock.seconds + 5, epoch=7)
    assert kept.acquire() == 8
    assert 1005 <= kept.clock.seconds < 1007
    kept.keeper.stop()


def test_a_lease_that_never_ends_is_not_waited_for_for_ever(kept: Kept) -> None:
    kept.store.held_by("them", until=kept.clock.seconds + 10_000)
    with pytest.raises(LeaseHeld):
        kept.acquire()
    assert kept.clock.seconds < 1000 + SECONDS + 5


def test_a_holder_that_lets_go_by_itself_is_waited_for(kept: Kept) -> None:
    """However long that takes; `on_standby` knows which one does."""
    asked: list[LeaseHeld] = []
    kept.keeper._on_standby = lambda held: not asked.append(held)  # type: ignore[func-returns-value]
    until = kept.clock.seconds + 20 * SECONDS

    def renew() -> None:
        kept.store.held_by("them", until=min(until, kept.clock.seconds + 5), epoch=3)

    kept.store.others = renew
    assert kept.acquire() == 4
    assert kept.clock.seconds >= until
    assert asked
    kept.keeper.stop()


def test_a_stop_ends_the_waiting(kept: Kept) -> None:
    kept.store.held_by("them", until=kept.clock.seconds + 10_000)
    kept.stopping.set()
    with pytest.raises(Stopping):
        kept.acquire()


def test_who_slept_while_another_held_it_does_not_take_turns(kept: Kept) -> None:
    """Even when the other one has left again: it has written, and what this instance has in memory is old."""
    kept.acquire()
    kept.store.held_by("them", until=0, epoch=5)
    with pytest.raises(LeaseLost):
        kept.acquire()
    assert kept.keeper.lost is not None
    kept.keeper.stop()


def test_a_holder_whose_commit_never_came_is_the_holder_still(kept: Kept) -> None:
    assert kept.acquire() == 1
    kept.store.take_errors = [SinkUnavailable("the connection was lost while committing")]
    with pytest.raises(SinkUnavailable):
        kept.acquire()
    assert kept.acquire() == 2
    assert kept.keeper.lost is None
    kept.keeper.stop()


def test_whose_first_commit_never_came_waits_as_any_other(kept: Kept) -> None:
    kept.store.take_errors = [SinkUnavailable("the connection was lost while committing")]
    with pytest.raises(SinkUnavailable):
        kept.acquire()
    assert not kept.sink.is_there, "its session would be ended while nobody uses it"
    kept.store.held_by("them", until=kept.clock.seconds + 5)
    assert kept.acquire() == 2
    kept.keeper.stop()


def test_its_session_is_ended_by_the_server_when_it_stands_still(kept: Kept) -> None:
    """One that was opened since is not in the lease yet, so the next holder could not end it."""
    kept.acquire()
    kept.keeper.stop()
    assert kept.sink.silences == [SECONDS]


def test_the_loss_of_the_lease_ends_the_keeping_and_nothing_is_released(kept: Kept) -> None:
    kept.acquire()
    kept.store.renew_errors = [LeaseLost("taken over by them")]
    wait_until(lambda: kept.keeper.lost is not None, 5, "the loss")
    count = len(kept.store.renewals)
    kept.keeper.stop()
    assert kept.store.released == []
    assert len(kept.store.renewals) == count
    assert str(kept.keeper.lost) == "taken over by them"


@pytest.mark.parametrize(
    "error", [LeaseLost("taken over"), ConfigError("no right any more")], ids=["taken", "kept_no_more"]
)
def test_who_has_lost_the_lease_has_the_applier_hung_up_on(kept: Kept, error: CdcError) -> None:
    """It need not find out by itself: its connection may be half open."""
    kept.acquire()
    assert not kept.keeper.take_lost()
    kept.store.renew_errors = [error]
    wait_until(lambda: kept.keeper.lost is not None, 5, "the loss")
    assert kept.keeper.take_lost()
    assert kept.keeper.take_lost(), "it may have been between two connections"
    kept.keeper.stop()


class Said:
    """What a `Standby` says, as states and events."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.status = PipelineStatus(FakeClock())
        log: Any = SimpleNamespace(info=lambda event, **fields: self.words.append(" ".join([event, *fields.values()])))
        self.standby = Standby(self.status, log)


def test_a_lease_that_was_not_waited_for_is_not_taken_over() -> None:
    said = Said()
    said.standby.has_lease()
    assert said.words == []
    assert said.status.state == "starting"


def test_a_takeover_is_said_though_the_session_broke_while_it_was_waited_for() -> None:
    said = Said()
    said.standby.waits(LeaseHeld("run by them"))
    said.standby.waits(LeaseHeld("run by them"))
    assert said.status.state == "standby"
    said.status.set_state("retrying")
    said.standby.waits(LeaseHeld("run by them"))
    assert said.status.state == "standby"
    said.standby.waits(LeaseHeld("run by others"))
    said.status.set_state("retrying")
    said.standby.has_lease()
    assert said.status.state == "starting"
    said.standby.has_lease()
    assert said.words == ["standby run by them", "standby run by others", "lease_taken_over"]


def test_a_sink_that_is_away_is_tried_again(kept: Kept) -> None:
    kept.acquire()
    wait_until(lambda: kept.store.renewals, 5, "a renewal")
    opened = kept.sink.opened
    kept.store.renew_errors = [SinkUnavailable("away"), SinkUnavailable("away")]
    wait_until(lambda: not kept.store.renew_errors and kept.sink.opened >= opened + 2, 5, "two more connections")
    count = len(kept.store.renewals)
    wait_until(lambda: len(kept.store.renewals) > count, 5, "renewals again")
    assert kept.keeper.lost is None
    kept.keeper.stop()


def test_any_other_error_counts_as_the_loss(kept: Kept) -> None:
    kept.acquire()
    kept.store.renew_errors = [ConfigError("no right any more", hint="GRANT it")]
    wait_until(lambda: kept.keeper.lost is not None, 5, "the loss")
    assert kept.keeper.lost is not None
    assert "no right any more" in kept.keeper.lost.message
    assert kept.keeper.lost.hint == "GRANT it"
    kept.keeper.stop()


def test_commands_are_passed_on(kept: Kept) -> None:
    kept.store.commands = [Command(1, "snapshot", "[]", "queued", "")]
    kept.acquire()
    wait_until(lambda: kept.heard, 5, "the command")
    kept.keeper.stop()
    assert kept.heard[0] == kept.store.commands


def test_stop_before_any_lease_is_quiet(kept: Kept) -> None:
    kept.keeper.stop()
    assert kept.store.released == []


def test_a_bug_in_a_renewal_is_told_and_the_keeping_goes_on(kept: Kept) -> None:
    errors: list[Exception] = []
    kept.keeper._on_error = errors.append
    kept.acquire()
    kept.store.renew_errors = [ValueError("not of ours"), AssertionError("nor this")]
    wait_until(lambda: len(errors) == 2, 5, "both errors")
    count = len(kept.store.renewals)
    wait_until(lambda: len(kept.store.renewals) > count, 5, "renewals again")
    assert kept.keeper.lost is None
    assert kept.keeper.is_sink_healthy
    kept.keeper.stop()
    assert kept.store.released == [1]


class Further:
    """Another lease of the sink: held for `seconds` more by `holder`, who renews it."""

    def __init__(self, kept: Kept, seconds: float, holder: str = "them") -> None:
        self.clock, self.store = kept.clock, kept.store
        self.until = self.clock.seconds + seconds
        self.holder = holder
        self.warnings: list[str] = []
        self.on_try: Callable[[], None] = lambda: None
        self.store.held_by("us", until=self.until + 1000, epoch=4)
        self.store.epoch = 4

    def acquire(self) -> int:
        self.on_try()
        if self.clock.seconds < self.until:
            self.clock.wait(threading.Event(), 1)
            raise LeaseHeld(f"run by {self.holder}", holder=self.holder)
        return 9

    def acquire_under(self, *, is_standby: bool) -> int:
        log: Any = SimpleNamespace(warning=lambda event, **_: self.warnings.append(event))
        ours: Any = self.store
        return acquire_under(ours, self.acquire, self.clock, log, is_standby=is_standby)


@pytest.mark.parametrize(
    "seconds, holder, is_standby",
    [(20, "them", False), (600, "them", True), (600, f"{COMMAND_HOLDER}snapshot them", False)],
    ids=["for a while", "by a standby", "where a command has it"],
)
def test_a_further_lease_is_waited_for(kept: Kept, seconds: float, holder: str, is_standby: bool) -> None:
    further = Further(kept, seconds, holder)
    assert further.acquire_under(is_standby=is_standby) == 9
    assert further.warnings == ["lane_waits"]


def test_a_further_lease_that_is_not_let_go_is_an_error_in_the_end(kept: Kept) -> None:
    further = Further(kept, 600)
    with pytest.raises(LeaseHeld, match="them"):
        further.acquire_under(is_standby=False)
    assert 1030 < kept.clock.seconds < 1035


@pytest.mark.parametrize("holder", ["them", f"{COMMAND_HOLDER}snapshot them"])
def test_who_loses_its_first_lease_waits_for_no_further_one(kept: Kept, holder: str) -> None:
    further = Further(kept, 600, holder)
    further.on_try = lambda: kept.store.held_by("others", until=kept.clock.seconds + 5, epoch=5)
    with pytest.raises(LeaseLost):
        further.acquire_under(is_standby=True)
    assert kept.clock.seconds < 1005
