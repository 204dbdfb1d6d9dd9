"""Readers that share their sessions with other loads, and ask before each chunk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cdc.errors import Stopping
from snapshot.guards import Admission, ReaderSlots, SourceGuard
from snapshot.parallel import ChunkReaders, SessionPool
from tests.support import wait_until
from tests.unit.snapshot.test_parallel import Reading, Session, collect, plan_of, times


class Sessions:
    """Opened ones, and how many there were at a time at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0
        self.most = 0

    def connect(self) -> Session:
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
        session = Session()
        session.close = self._close  # type: ignore[method-assign]
        return session

    def _close(self) -> None:
        with self._lock:
            self.open -= 1


@pytest.mark.parametrize("loads, slots", [(2, 1), (5, 1), (3, 2), (2, 4)])
def test_loads_take_turns_where_there_are_fewer_sessions_and_each_reads_all_of_its_own(
    monkeypatch: pytest.MonkeyPatch, loads: int, slots: int
) -> None:
    Reading(monkeypatch, times(2))
    sessions, shared = Sessions(), ReaderSlots(slots)
    found: dict[int, dict[int, list[bytes]]] = {}

    def load(number: int) -> None:
        pool = SessionPool(sessions.connect, shared)  # type: ignore[arg-type]
        with ChunkReaders(plan_of(6), sessions=pool, workers=4, bytes_max=1 << 20) as readers:
            found[number] = collect(readers)
        pool.close()

    threads = [threading.Thread(target=load, args=(number,), daemon=True) for number in range(loads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    expected = {number: [b"%d.%d" % (number, index) for index in range(2)] for number in range(1, 7)}
    assert found == dict.fromkeys(range(loads), expected)
    assert sessions.most <= slots
    assert (sessions.open, shared.used) == (0, 0)


def test_a_load_gives_its_only_session_up_after_a_chunk_that_another_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not only once it is done: a table may take hours."""
    shared = ReaderSlots(1)
    first_chunk, go_on = threading.Event(), threading.Event()

    def content(number: int) -> Iterator[None]:
        if number == 1:
            first_chunk.set()
            assert go_on.wait(60)
        yield None

    reading = Reading(monkeypatch, content)
    pool = SessionPool(reading.connect, shared)  # type: ignore[arg-type]
    other = SessionPool(reading.connect, shared)  # type: ignore[arg-type]
    got: list[Any] = []
    with ChunkReaders(plan_of(3), sessions=pool, workers=1, bytes_max=1 << 20) as readers:
        assert first_chunk.wait(60)
        waiting = threading.Thread(target=lambda: got.append(other.take()), daemon=True)
        waiting.start()
        wait_until(lambda: shared.is_wanted, 60, "the other load to wait")
        go_on.set()
        waiting.join(60)
        assert len(got) == 1
        assert reading.given == 1, "it has read a chunk, and no more"
        other.drop(got[0])
        assert sorted(collect(readers)) == [1, 2, 3]


def test_a_session_that_has_just_become_free_goes_to_who_waits_and_to_nobody_else() -> None:
    shared = ReaderSlots(1)
    shared.take(lambda _seconds: None)
    asleep, wake = threading.Event(), threading.Event()

    def sleep(_seconds: float) -> None:
        asleep.set()
        assert wake.wait(60)

    waiting = threading.Thread(target=shared.take, args=(sleep,), daemon=True)
    waiting.start()
    assert asleep.wait(60)
    shared.give()
    assert not shared.try_take()
    wake.set()
    waiting.join(60)
    assert shared.used == 1


class Guard(SourceGuard):
    """Counts what it is asked, and lets nobody through once `limit` chunks are."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.asked: list[int] = []
        self.read: list[tuple[int, int]] = []
        self.limit = limit

    def admit(self, connection: Any, rows: int, sleep: Callable[[float], None]) -> Admission:
        self.asked.append(rows)
        while self.limit is not None and len(self.asked) > self.limit:
            sleep(0.01)
        return super().admit(connection, rows, sleep)

    def settle(self, admission: Admission, *, rows: int, byte_count: int) -> None:
        self.read.append((rows, byte_count))
        super().settle(admission, rows=rows, byte_count=byte_count)


def test_the_guard_is_asked_before_each_chunk_and_told_how_large_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(monkeypatch, times(3))
    guard = Guard()
    pool = SessionPool(reading.connect)  # type: ignore[arg-type]
    plan = plan_of(7)
    with ChunkReaders(plan, sessions=pool, workers=1, bytes_max=1 << 20, guard=guard) as readers:
        collect(readers)
    assert guard.asked == [plan.pace.rows] * 7
    assert [rows for rows, _ in guard.read] == [3] * 7
    assert all(byte_count >= 3 * 1000 for _, byte_count in guard.read)


def test_a_reader_that_the_guard_holds_back_is_gone_with_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(monkeypatch, times(1))
    pool = SessionPool(reading.connect)  # type: ignore[arg-type]
    guard = Guard(limit=2)

    def stop() -> None:
        if len(guard.asked) > 2:
            raise Stopping("asked to stop")

    began = time.monotonic()

    def write() -> None:
        with ChunkReaders(plan_of(5), sessions=pool, workers=1, bytes_max=1 << 20, guard=guard) as readers:
            for _, batches in readers.chunks(stop):
                list(batches)

    with pytest.raises(Stopping):
        write()
    assert time.monotonic() - began < 30
    assert reading.given == 2
    assert all(session.is_closed for session in reading.sessions)


def test_a_load_that_waits_for_its_first_session_is_gone_as_soon_as_it_is_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = Reading(monkeypatch, times(1))
    shared = ReaderSlots(1)
    shared.take(lambda _seconds: None)
    pool = SessionPool(reading.connect, shared)  # type: ignore[arg-type]
    with ChunkReaders(plan_of(2), sessions=pool, workers=2, bytes_max=1 << 20):
        wait_until(lambda: shared.is_wanted, 60, "the load to wait")
    assert not shared.is_wanted
