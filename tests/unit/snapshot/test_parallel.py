"""Several readers and one writer: every batch once, in bounded memory, and everybody gone in the end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from cdc.errors import SourceUnavailable, Stopping
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from snapshot import parallel
from snapshot.chunks import Chunk, ChunkPlan, KeyRange, Pace
from snapshot.parallel import ChunkReaders, SessionPool
from tests.support import wait_until

BLOB = ColumnDefinition("b", ValueKind.BLOB, "blob", length=65535)
TABLE = TableDefinition(TableName("shop", "t"), (BLOB,), ("b",))
KIB = 1 << 10


class Session:
    """A session that is hung up, closed, or read from."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_hung_up = threading.Event()

    def close(self) -> None:
        self.is_closed = True

    def hang_up(self) -> None:
        self.is_hung_up.set()


def plan_of(count: int) -> ChunkPlan:
    """So many chunks, planned before."""
    keys = [None, *((b"%d" % number,) for number in range(1, count)), None]
    chunks = [Chunk(n + 1, KeyRange(after, upto)) for n, (after, upto) in enumerate(itertools.pairwise(keys))]
    return ChunkPlan(TABLE, ("b",), Pace(rows_max=1, seconds=1, bytes_max=1 << 20), planned=chunks)


class Reading:
    """Stands in for `read_chunk`: `batches` of 1 KiB a chunk, as `content` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: Callable[[int], Iterator[None]]) -> None:
        self._content = content
        self._lock = threading.Lock()
        self.sessions: list[Session] = []
        self.given = 0
        self.threads: set[str] = set()
        monkeypatch.setattr(parallel, "read_chunk", self._read)
        monkeypatch.setattr(parallel, "ResultReader", lambda session, definition: session)

    def connect(self) -> Session:
        with self._lock:
            self.sessions.append(Session())
            return self.sessions[-1]

    def _read(self, session: Session, plan: ChunkPlan, chunk: Chunk) -> Iterator[pa.RecordBatch]:
        self.threads.add(threading.current_thread().name)
        for index, _ in enumerate(self._content(chunk.number)):
            if session.is_hung_up.is_set():
                raise SourceUnavailable("hung up")
            with self._lock:
                self.given += 1
            value = b"%d.%d" % (chunk.number, index)
            yield pa.RecordBatch.from_arrays([pa.array([value.ljust(KIB - 16)], pa.large_binary())], names=["b"])

    def readers(self, plan: ChunkPlan, *, workers: int = 3, bytes_max: int = 1 << 20) -> ChunkReaders:
        self.pool = SessionPool(self.connect)  # type: ignore[arg-type]
        return ChunkReaders(plan, sessions=self.pool, workers=workers, bytes_max=bytes_max)


def times(count: int) -> Callable[[int], Iterator[None]]:
    return lambda number: iter([None] * count)


def nothing() -> None:
    pass


def collect(readers: ChunkReaders) -> dict[int, list[bytes]]:
    found = {}
    for chunk, batches in readers.chunks(nothing):
        found[chunk.number] = [batch.column(0)[0].as_py().strip() for batch in batches]
    return found


def test_every_batch_comes_once_with_its_chunk_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(monkeypatch, lambda number: iter([None] * (number % 5)))
    with reading.readers(plan_of(50)) as readers:
        found = collect(readers)
    assert found == {number: [b"%d.%d" % (number, i) for i in range(number % 5)] for number in range(1, 51)}


def test_readers_go_to_tables_that_no_other_reader_is_at_and_no_chunk_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chunk of each of three tables is held until all three are being read: no second one comes before."""
    arrived = threading.Barrier(3, timeout=10)
    passed = threading.Event()
    early: list[int] = []

    def content(number: int) -> Iterator[None]:
        if number == 1:
            arrived.wait()
            passed.set()
        elif not passed.is_set():
            early.append(number)
        yield None

    reading = Reading(monkeypatch, content)
    plans = [plan_of(count) for count in (4, 1, 7)]
    pool = SessionPool(reading.connect)  # type: ignore[arg-type]
    found: list[tuple[int, int]] = []
    idle = 0

    def count_idle() -> None:
        nonlocal idle
        idle += 1

    with ChunkReaders(*plans, sessions=pool, workers=3, bytes_max=1 << 20) as readers:
        for plan, chunk, batches in readers.parts(nothing, count_idle):
            assert len(list(batches)) == 1
            found.append((plans.index(plan), chunk.number))
    assert sorted(found) == [*((0, n) for n in range(1, 5)), (1, 1), *((2, n) for n in range(1, 8))]
    assert early == []
    assert len(reading.sessions) == 3
    assert idle, "the first chunk had to be waited for"


@pytest.mark.parametrize("bytes_max", [1, 3 * KIB, 10 * KIB])
def test_memory_is_bounded_and_chunks_larger_than_it_get_through(
    monkeypatch: pytest.MonkeyPatch, bytes_max: int
) -> None:
    """With the writer waiting in each of them: the others' batches never take the room of the one it waits for."""
    reading = Reading(monkeypatch, times(20))
    taken = 0
    held_most = 0
    with reading.readers(plan_of(9), bytes_max=bytes_max) as readers:
        numbers = []
        for chunk, batches in readers.chunks(nothing):
            numbers.append(chunk.number)
            for _ in batches:
                taken += 1
                held_most = max(held_most, readers._byte_count)
    assert sorted(numbers) == list(range(1, 10))
    assert taken == 9 * 20
    # one batch more than there is room for: the one that the writer waited for
    assert held_most <= max(bytes_max, KIB + 64) + KIB + 64


def test_one_chunk_needs_one_session_and_many_need_no_more_than_there_are_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = Reading(monkeypatch, times(1))
    with reading.readers(plan_of(1)) as readers:
        collect(readers)
    assert len(reading.sessions) == 1
    arrived = threading.Barrier(3, timeout=10)

    def content(number: int) -> Iterator[None]:
        if number <= 3:
            arrived.wait()  # three are read at a time
        yield None

    reading = Reading(monkeypatch, content)
    with reading.readers(plan_of(40), workers=3) as readers:
        collect(readers)
    assert len(reading.sessions) == 3


def test_sessions_are_kept_for_the_next_table_and_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(monkeypatch, times(1))
    pool = SessionPool(reading.connect)  # type: ignore[arg-type]
    for _ in range(3):
        with ChunkReaders(plan_of(1), sessions=pool, workers=3, bytes_max=1 << 20) as readers:
            collect(readers)
    (session,) = reading.sessions
    assert not session.is_closed
    pool.close()
    assert session.is_closed


def test_what_one_reader_meets_ends_the_load_after_the_chunks_that_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def content(number: int) -> Iterator[None]:
        yield None
        if number == 4:
            raise SourceUnavailable("cut")

    reading = Reading(monkeypatch, content)
    found = []

    def write() -> None:
        with reading.readers(plan_of(6), workers=1) as readers:
            for chunk, batches in readers.chunks(nothing):
                found.append((chunk.number, len(list(batches))))

    with pytest.raises(SourceUnavailable, match="cut"):
        write()
    assert found == [(1, 1), (2, 1), (3, 1)]
    wait_until(lambda: all(session.is_closed for session in reading.sessions), 5, "the sessions to be closed")


def test_a_writer_that_leaves_hangs_up_what_still_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def content(number: int) -> Iterator[None]:
        yield None
        release.wait(10)  # the server does not answer
        yield None

    reading = Reading(monkeypatch, content)

    def stop() -> None:
        if reading.given:
            raise Stopping("asked to stop")

    original = Session.hang_up

    def hang_up(self: Session) -> None:
        original(self)
        release.set()  # a read from a socket that is shut down ends

    monkeypatch.setattr(Session, "hang_up", hang_up)
    began = time.monotonic()

    def write() -> None:
        with reading.readers(plan_of(5)) as readers:
            assert list(readers.chunks(stop)) == [], "no chunk is whole"

    with pytest.raises(Stopping):
        write()
    assert time.monotonic() - began < 5
    assert all(session.is_closed for session in reading.sessions)
    assert not any(thread.name.startswith("load-") for thread in threading.enumerate())
