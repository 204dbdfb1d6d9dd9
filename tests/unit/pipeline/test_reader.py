"""The reader thread on a stream that a test writes: what it hands over, when, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cdc.errors import BinlogPurged, InvariantBroken, SourceUnavailable, UnsupportedEvent
from cdc.model import SchemaChange, TransactionRun
from cdc.pipeline.channel import Channel, Failure, Item, Progress
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.reader import Reader
from cdc.source.assembler import Assembler, CapturedTable, Output, RunLimits
from cdc.source.stream import Consumer
from tests.support.waiting import wait_until
from tests.unit.pipeline.clocks import FakeClock
from tests.unit.source.streams import A, B, Stream, Tables, at, definition

Step = bytes | BaseException | Callable[[], None] | None


class Script:
    """A stream that gives these events, raises these errors, and after them nothing: each read lets its time pass."""

    def __init__(self, clock: FakeClock, steps: list[Step]) -> None:
        self.clock = clock
        self.steps = steps
        self.is_open = False
        self.close_count = 0
        self.closed_by: set[threading.Thread] = set()
        self.is_hung_up = False
        self.received: list[bytes] = []
        self.open_error: BaseException | None = None

    def open(self) -> None:
        if self.open_error is not None:
            raise self.open_error
        self.is_open = True

    def fill(self, timeout_seconds: float) -> int:
        if not self.steps:
            self.clock.wait(threading.Event(), timeout_seconds)
            return 0
        step = self.steps.pop(0)
        if isinstance(step, bytes):
            self.received.append(step)
            return len(step)
        if isinstance(step, BaseException):
            raise step
        if step is None:
            self.clock.wait(threading.Event(), timeout_seconds)
        else:
            step()
        return 0

    def deliver(self, consumer: Consumer) -> bool:
        while self.received:
            if consumer.feed(memoryview(self.received.pop(0))):
                return True
        return False

    def close(self) -> None:
        self.close_count += 1
        self.closed_by.add(threading.current_thread())

    def hang_up(self) -> None:
        self.is_hung_up = True


class Read:
    """A reader under test. Everything it hands over goes into `channel`."""

    def __init__(
        self, steps: list[Step], *, age: float = 5.0, silence: float = 60.0, limits: RunLimits | None = None
    ) -> None:
        self.clock = FakeClock()
        self.stream = Script(self.clock, steps)
        self.channel = Channel(1 << 20)
        self.received: list[tuple[int, int]] = []
        self.points: list[str] = []
        self.handed_over_at: list[float] = []
        self.tables = Tables([CapturedTable(definition(A)), CapturedTable(definition(B))])
        hooks = Hooks()

        def reached(point: str) -> None:
            self.points.append(point)
            if point == "after_decode":
                self.handed_over_at.append(self.clock.seconds - 1000)
            hooks(point)

        self.reader = Reader(
            name="test",
            stream=self.stream,  # type: ignore[arg-type]  # what is used of a stream
            make_assembler=lambda output: self.assembler(output, limits or RunLimits()),
            channel=self.channel,
            clock=self.clock,
            hooks=reached,  # type: ignore[arg-type]
            age_seconds_max=age,
            silence_seconds_max=silence,
            on_received=lambda events, size: self.received.append((events, size)),
        )

    def assembler(self, output: Output, limits: RunLimits) -> Assembler:
        return Assembler(
            start=at(4),
            flavor="mysql",
            server_version=(8, 4, 0),
            checksum_negotiated=True,
            lower_case_names=False,
            capture=self.tables,
            output=output,
            limits=limits,
        )

    def until_it_ends(self) -> list[Item]:
        self.reader.start()
        self.reader._thread.join(10)
        assert not self.reader._thread.is_alive()
        return self.handed_over()

    def handed_over(self) -> list[Item]:
        found = []
        while (item := self.channel.get(0)) is not None:
            found.append(item)
        return found


def steps_of(*parts: Any) -> list[Step]:
    return [step for part in parts for step in (part if isinstance(part, list) else [part])]


def test_an_error_comes_behind_the_runs_that_were_read_before_it() -> None:
    stream = Stream()
    error = BinlogPurged("gone")
    limits = RunLimits(rows_max=1)
    read = Read(steps_of(stream.transaction((1, "a")), stream.transaction((2, "b")), error), limits=limits)
    first, second, failure = read.until_it_ends()
    assert isinstance(first, TransactionRun)
    assert isinstance(second, TransactionRun)
    assert failure == Failure(error)
    assert read.stream.close_count


@pytest.mark.parametrize("error", [InvariantBroken("bug"), RuntimeError("anything"), SourceUnavailable("cut")])
def test_no_error_ends_the_thread_unseen(error: BaseException) -> None:
    assert Read([error]).until_it_ends() == [Failure(error)]
    read = Read([])
    read.stream.open_error = error
    assert read.until_it_ends() == [Failure(error)]


def test_nobody_takes_what_is_left_where_taking_in_broke() -> None:
    """Half of a run may be gone then: an end without its rows must not be applied."""
    stream = Stream()
    read = Read(steps_of(stream.transaction((1, "a")), stream.transaction((2, "b"))), age=0)
    deliver = read.stream.deliver
    broken = MemoryError()

    def deliver_and_break(consumer: Consumer) -> bool:
        deliver(consumer)
        if not read.stream.steps:
            raise broken
        return False

    read.stream.deliver = deliver_and_break  # type: ignore[method-assign]
    assert read.until_it_ends() == [Failure(broken)]


def test_an_event_that_is_not_understood_ends_the_reading_with_its_error() -> None:
    (failure,) = Read([Stream().event(200, b"?"), b"never read"]).until_it_ends()
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, UnsupportedEvent)


def test_a_barrier_holds_the_reading_until_it_is_dealt_with() -> None:
    """What comes behind it is one run: the statement's own transaction, which has no rows, and the next one."""
    stream = Stream()
    error = BinlogPurged("the end")
    behind = stream.transaction((2, "b"))
    read = Read(steps_of(stream.transaction((1, "a")), stream.gtid(), stream.end_query("DROP TABLE a"), behind, error))
    read.reader.start()
    items: list[Item] = []

    def has_come() -> bool:
        items.extend(read.handed_over())
        return len(items) >= 2

    wait_until(has_come)
    run, change = items
    assert isinstance(run, TransactionRun)
    assert isinstance(change, SchemaChange)
    assert read.stream.steps[-1] is error, "nothing behind it was asked for"
    read.channel.go_on()
    read.reader._thread.join(10)
    run, failure = read.handed_over()
    assert isinstance(run, TransactionRun)
    assert run.transaction_count == 2
    assert run.image_count == 1
    assert failure == Failure(error)


def test_a_reader_that_waits_at_a_barrier_is_stopped() -> None:
    stream = Stream()
    read = Read(steps_of(stream.gtid(), stream.end_query("DROP TABLE a"), b"never read"))
    read.reader.start()
    wait_until(lambda: read.handed_over())
    read.reader.stop()
    assert read.stream.steps == [b"never read"]
    assert read.stream.is_hung_up
    assert read.stream.closed_by == {read.reader._thread}, "no session is closed under a read"


def test_silence_is_an_error_only_after_its_time_by_the_clock() -> None:
    read = Read([Stream().heartbeat()], silence=30)
    progress, failure = read.until_it_ends()
    assert isinstance(progress, Progress)
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, SourceUnavailable)
    assert "heartbeat" in failure.error.message
    assert 30 < read.clock.seconds - 1000 < 32


def test_any_event_ends_a_silence() -> None:
    """A long seek by GTID sends heartbeats only: each of them says that the source lives."""
    stream = Stream()
    steps: list[Step] = []
    for _ in range(5):
        steps += [*[None] * 50, stream.heartbeat()]  # 25 s each
    read = Read(steps, silence=30)
    items = read.until_it_ends()
    assert isinstance(items[-1], Failure)
    assert read.clock.seconds - 1000 > 5 * 25


def test_what_is_held_back_comes_before_the_error_that_ends_the_reading() -> None:
    read = Read([*Stream().transaction((1, "a")), SourceUnavailable("cut")])
    run, failure = read.until_it_ends()
    assert isinstance(run, TransactionRun)
    assert isinstance(failure, Failure)


def test_rows_gather_while_the_applier_is_busy_however_old_they_get() -> None:
    stream = Stream()
    read = Read([], age=0)
    queued: list[int] = []

    def look() -> None:
        queued.append(read.channel.byte_count)

    steps = steps_of(stream.transaction((1, "a")), [None] * 20, look, stream.transaction((2, "b")), [None] * 20, look)
    read.stream.steps += [*steps, SourceUnavailable("cut")]
    run, failure = read.until_it_ends()
    assert queued == [0, 0]
    assert isinstance(run, TransactionRun)
    assert run.transaction_count == 2
    assert isinstance(failure, Failure)


def read_by_a_hungry_applier(read: Read) -> list[TransactionRun]:
    """The runs that an applier gets which waits all the time."""
    runs: list[TransactionRun] = []

    def take() -> None:
        while not isinstance(item := read.channel.get(10), Failure):
            if isinstance(item, TransactionRun):
                runs.append(item)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    wait_until(lambda: read.channel.is_hungry, 5, "the applier to be hungry")
    read.reader.start()
    thread.join(10)
    assert not thread.is_alive()
    return runs


def test_a_hungry_applier_gets_rows_at_once() -> None:
    read = Read([*Stream().transaction((1, "a")), *[None] * 10, SourceUnavailable("cut")], age=0)
    assert len(read_by_a_hungry_applier(read)) == 1
    assert read.handed_over_at == [0]


def test_rows_are_held_for_their_age_though_the_applier_is_hungry() -> None:
    """A receive waits 0.5 s at most, and no longer than until the oldest row is old enough."""
    stream = Stream()
    steps = steps_of(stream.transaction((1, "a")), None, stream.transaction((2, "b")), [None] * 10)
    read = Read([*steps, SourceUnavailable("cut")], age=0.8)
    (run,) = read_by_a_hungry_applier(read)
    assert run.transaction_count == 2
    assert read.handed_over_at == [pytest.approx(0.8)]


def test_an_applier_that_runs_out_of_work_gets_what_is_held_while_the_reader_waits_for_the_source() -> None:
    is_waiting, may_go_on = threading.Event(), threading.Event()

    def wait_for_the_source() -> None:
        is_waiting.set()
        assert may_go_on.wait(10)

    read = Read([*Stream().transaction((1, "a")), wait_for_the_source, SourceUnavailable("cut")], age=0)
    read.reader.start()
    assert is_waiting.wait(10)
    assert read.channel.byte_count == 0
    run = read.channel.get(0)
    assert isinstance(run, TransactionRun)
    assert read.channel.get(0) is None
    may_go_on.set()
    read.reader._thread.join(10)


def test_an_applier_that_runs_out_of_work_does_not_get_what_is_too_young() -> None:
    is_waiting, may_go_on = threading.Event(), threading.Event()

    def wait_for_the_source() -> None:
        is_waiting.set()
        assert may_go_on.wait(10)

    read = Read([*Stream().transaction((1, "a")), wait_for_the_source, SourceUnavailable("cut")], age=1)
    read.reader.start()
    assert is_waiting.wait(10)
    assert read.channel.get(0) is None
    read.clock.seconds += 1
    assert isinstance(read.channel.get(0), TransactionRun)
    may_go_on.set()
    read.reader._thread.join(10)


def test_an_applier_that_runs_out_of_work_while_events_are_taken_in_gets_them_right_after() -> None:
    """It finds the assembler in use and waits; the reader looks for it before it waits for the source."""
    read = Read([*Stream().transaction((1, "a"))], age=0)
    found: list[Item | None] = []
    taker = threading.Thread(target=lambda: found.append(read.channel.get(10)), daemon=True)
    is_over = threading.Event()
    last = read.stream.steps[-1]
    deliver = read.stream.deliver

    def deliver_slowly(consumer: Consumer) -> bool:
        if read.stream.received == [last]:
            taker.start()
            wait_until(lambda: read.channel.is_hungry, 5, "the applier to be hungry")
        return deliver(consumer)

    def wait_until_it_is_over() -> None:
        assert is_over.wait(10)

    read.stream.deliver = deliver_slowly  # type: ignore[method-assign]
    read.stream.steps.append(wait_until_it_is_over)
    read.reader.start()
    wait_until(lambda: bool(found), 5, "what was taken in")
    is_over.set()
    read.reader.stop()
    assert isinstance(found[0], TransactionRun)


def test_transactions_without_rows_move_the_checkpoint_within_a_second_or_two() -> None:
    stream = Stream()
    read = Read(steps_of(stream.gtid(), stream.end_query("CREATE USER x")), silence=10)
    run, failure = read.until_it_ends()
    assert isinstance(run, TransactionRun)
    assert (run.batches, run.end) == ((), at(stream.pos))
    assert isinstance(failure, Failure)


def test_stop_ends_a_reader_that_waits_for_room_and_hands_over_nothing_more() -> None:
    stream = Stream()
    steps = steps_of(*(stream.transaction((n, "x" * 60)) for n in range(20)))
    read = Read(steps, limits=RunLimits(rows_max=1))
    read.channel = Channel(1)
    read.reader._channel = read.channel
    read.reader.start()
    wait_until(lambda: read.channel.byte_count > 0, 5, "a run")
    read.reader.stop()
    assert not read.reader._thread.is_alive()
    assert read.handed_over() == []


def test_events_and_bytes_are_counted_also_those_before_an_error() -> None:
    stream = Stream()
    events = stream.transaction((1, "a"))
    read = Read([*events, SourceUnavailable("cut")])
    read.until_it_ends()
    assert sum(count for count, _ in read.received) == len(events)
    assert sum(size for _, size in read.received) == sum(map(len, events))


def test_its_crash_points_are_reached() -> None:
    stream = Stream()
    read = Read([*stream.transaction((1, "a")), SourceUnavailable("cut")], limits=RunLimits(rows_max=1))
    read.until_it_ends()
    assert read.points == ["after_fetch"] * 5 + ["after_decode"]
