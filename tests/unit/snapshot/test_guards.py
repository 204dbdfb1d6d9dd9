"""What loads may ask of the source: limits over all that read, pauses that end by themselves, sessions in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from snapshot.guards import GuardLimits, Pause, ReaderSlots, SourceGuard
from snapshot.parallel import SessionPool
from tests.support import wait_until


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 1, "it is not waited for longer than a second without a look"
        self.now += seconds


class Source:
    """What a server says of itself, in turn; the last answer again and again."""

    flavor = "mysql"
    version = (8, 4, 0)

    def __init__(self, *running: int, lags: list[list[str | None]] | None = None) -> None:
        self.running = list(running)
        self.lags = lags or []
        self.asked = 0

    def query_text(self, sql: str) -> list[tuple[str, str]]:
        assert "Threads" in sql
        self.asked += 1
        return [("Threads_running", str(self.running.pop(0) if len(self.running) > 1 else self.running[0]))]

    def rows_by_name(self, sql: str) -> list[dict[str, str | None]]:
        assert sql == "SHOW REPLICA STATUS"
        lags = self.lags.pop(0) if len(self.lags) > 1 else self.lags[0]
        return [{"Seconds_Behind_Source": lag} for lag in lags]


class Listener:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def paused(self, reason: str) -> None:
        self.said.append(reason)

    def released(self, seconds: float) -> None:
        self.said.append(seconds)

    def lag_unknown(self) -> None:
        self.said.append("unknown")


def read(guard: SourceGuard, clock: Clock, source: Any, rows: int, *, byte_count: int = 0, chunk: int = 0) -> None:
    admission = guard.admit(source, chunk or rows, clock.sleep)
    guard.settle(admission, rows=rows, byte_count=byte_count)


@pytest.mark.parametrize("chunk", [1000, 10, 5000])
def test_rows_come_no_faster_than_the_limit_whatever_was_expected_of_a_chunk(chunk: int) -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(rows_per_second=1000), clock=clock)
    for _ in range(21):
        read(guard, clock, None, 1000, chunk=chunk)
    # The last chunk is read at once, and paid for by nobody.
    assert clock.now - 1000 == pytest.approx(20, abs=0.01)


def test_bytes_are_limited_too_and_the_stricter_limit_holds() -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(rows_per_second=1000, bytes_per_second=10_000), clock=clock)
    for _ in range(11):
        read(guard, clock, None, 100, byte_count=5000)
    assert clock.now - 1000 == pytest.approx(5, abs=0.01)


def test_a_limit_is_one_for_all_readers() -> None:
    """A second reader that asks before the first one's chunk is read finds it reserved."""
    clock = Clock()
    guard = SourceGuard(GuardLimits(rows_per_second=100), clock=clock)
    first = guard.admit(None, 100, clock.sleep)  # type: ignore[arg-type]  # it is not asked without limits to pause at
    guard.admit(None, 100, clock.sleep)  # type: ignore[arg-type]
    assert clock.now == pytest.approx(1001)
    guard.settle(first, rows=0, byte_count=0)
    guard.admit(None, 100, clock.sleep)  # type: ignore[arg-type]
    assert clock.now == pytest.approx(1001), "what was reserved and not read is given back"


def test_time_in_which_nothing_is_read_is_no_credit_for_a_flood() -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(rows_per_second=100), clock=clock)
    read(guard, clock, None, 1)
    clock.now += 3600
    began = clock.now
    for _ in range(5):
        read(guard, clock, None, 100)
    assert clock.now - began == pytest.approx(3, abs=0.02)


def test_chunks_are_cut_so_small_that_each_keeps_the_limit() -> None:
    guard = SourceGuard(GuardLimits(rows_per_second=1000, bytes_per_second=4096))
    assert guard.rows_max(200_000, 0.5) == 500
    assert guard.bytes_max(1 << 20, 0.5) == 2048
    assert (SourceGuard().rows_max(200_000, 0.5), SourceGuard().bytes_max(1 << 20, 0.5)) == (200_000, 1 << 20)
    assert SourceGuard(GuardLimits(rows_per_second=1)).rows_max(10, 0.1) == 1


def test_rows_of_an_open_view_are_throttled_and_never_paused_for() -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(rows_per_second=100, threads_running=2), clock=clock)
    guard.throttle(rows=300, byte_count=1, sleep=clock.sleep)
    assert clock.now == pytest.approx(1003)


def test_loads_wait_while_the_source_is_busy_and_go_on_once_it_is_calm() -> None:
    clock, listener = Clock(), Listener()
    guard = SourceGuard(GuardLimits(threads_running=10), clock=clock, listener=listener)
    source = Source(11, 50, 10, 12, 3)
    read(guard, clock, source, 1)
    assert listener.said == ["Threads_running is 11, more than 10", clock.now - 1000]
    assert clock.now - 1000 == 7, "three seconds below, counted anew from the last time that it was above"
    assert guard.pause is None


def test_the_source_is_asked_once_a_second_however_many_chunks_are_read() -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(threads_running=10), clock=clock)
    source = Source(1)
    for _ in range(100):
        read(guard, clock, source, 1)
        clock.now += 0.1
    assert source.asked == 10


def test_while_one_reader_asks_the_others_go_by_the_last_answer() -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(threads_running=10), clock=clock)
    guard.admit(Source(1), 1, clock.sleep)  # type: ignore[arg-type]
    clock.now += 5
    asking, release = threading.Event(), threading.Event()

    class Slow(Source):
        def query_text(self, sql: str) -> list[tuple[str, str]]:
            asking.set()
            assert release.wait(60)
            return super().query_text(sql)

    slow = threading.Thread(target=guard.admit, args=(Slow(1), 1, clock.sleep), daemon=True)
    slow.start()
    assert asking.wait(60)
    guard.admit(Source(99), 1, clock.sleep)  # type: ignore[arg-type]  # or it would wait for ever
    release.set()
    slow.join(60)
    assert not slow.is_alive()


@pytest.mark.parametrize(
    "lags, reason",
    [
        (["3"], None),
        (["4", "11", "2"], "the source lags 11 s behind its own, more than 5 s"),
        (["0", None], "the source is a replica whose replication is stopped: its lag is not known"),
    ],
)
def test_the_worst_lag_of_a_source_that_is_a_replica_counts(lags: list[str | None], reason: str | None) -> None:
    clock, listener = Clock(), Listener()
    guard = SourceGuard(GuardLimits(replica_lag_seconds=5), clock=clock, listener=listener)
    read(guard, clock, Source(0, lags=[lags, ["0"]]), 1)
    assert listener.said[:1] == ([] if reason is None else [reason])


def test_a_source_that_is_no_replica_is_said_once_and_waited_for_never() -> None:
    clock, listener = Clock(), Listener()
    guard = SourceGuard(GuardLimits(replica_lag_seconds=0), clock=clock, listener=listener)
    for _ in range(3):
        read(guard, clock, Source(0, lags=[[]]), 1)
        clock.now += 2
    assert listener.said == ["unknown"]


def test_a_wait_ends_by_what_sleep_raises() -> None:
    clock = Clock()
    guard = SourceGuard(GuardLimits(threads_running=2), clock=clock)

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard.admit(Source(3), 1, stop)  # type: ignore[arg-type]
    assert guard.pause == Pause("Threads_running is 3, more than 2", 1000)


# ---------------------------------------------------------------- sessions


class Session:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def pool_of(slots: ReaderSlots) -> SessionPool:
    return SessionPool(Session, slots)  # type: ignore[arg-type]


def refuse(_seconds: float) -> None:
    raise AssertionError("there is a session to be had")


def test_there_are_never_more_sessions_than_slots_those_that_wait_for_the_next_table_among_them() -> None:
    slots = ReaderSlots(2)
    one, other = pool_of(slots), pool_of(slots)
    first, second = one.take(refuse), one.try_take()
    assert second is not None
    assert other.try_take() is None
    one.give(first)
    assert other.try_take() is None, "the first pool keeps it open"
    assert one.try_take() is first
    one.drop(first)
    assert other.try_take() is not None
    assert slots.used == 2


def test_loads_that_wait_have_their_first_session_in_turn() -> None:
    slots = ReaderSlots(1)
    holder = pool_of(slots)
    session: Any = holder.take(refuse)
    got: list[int] = []
    threads = []

    def load(number: int) -> None:
        pool = pool_of(slots)
        taken = pool.take(lambda _seconds: None)
        got.append(number)
        pool.drop(taken)

    for number in range(3):
        threads.append(threading.Thread(target=load, args=(number,), daemon=True))
        threads[-1].start()
        wait_until(lambda number=number: len(slots._queue) == number + 1, what="the load to wait")  # type: ignore[misc]
    assert holder.is_wanted
    assert holder.try_take() is None, "who waits comes first"
    holder.give(session)
    assert session.is_closed, "a session that is kept open would take the slot along"
    for thread in threads:
        thread.join(60)
    assert got == [0, 1, 2]
    assert slots.used == 0


def test_who_stops_waiting_leaves_the_queue() -> None:
    slots = ReaderSlots(1)
    held = pool_of(slots)
    held.take(refuse)

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool_of(slots).take(stop)
    assert not slots.is_wanted


@pytest.mark.parametrize("take", [lambda pool: pool.take(refuse), lambda pool: pool.try_take()])
def test_a_session_that_cannot_be_opened_takes_no_slot(take: Callable[[SessionPool], object]) -> None:
    slots = ReaderSlots(1)

    def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        take(SessionPool(fail, slots))  # type: ignore[arg-type]
    assert slots.used == 0


def test_a_pool_that_is_closed_gives_its_slots_back() -> None:
    slots = ReaderSlots(3)
    pool = pool_of(slots)
    sessions: list[Any] = [pool.take(refuse) for _ in range(3)]
    for session in sessions:
        pool.give(session)
    pool.close()
    assert slots.used == 0
    assert all(session.is_closed for session in sessions)
