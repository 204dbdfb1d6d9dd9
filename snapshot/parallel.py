"""Chunks read by several connections at a time, for one thread that takes them, in bounded memory.

Each reader is a thread with a session of its own: it takes the next chunk of a table, reads it batch by batch, and
goes on; of several tables, it takes one that no other reader is at, as long as there are such. The writer takes whole
chunks, those of the first table first, the lowest number first. Only where a chunk does not fit into the memory that
there is, it is handed over while it is still being read, and its read view stays open as long as the sink needs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from cdc.source.connection import SourceConnection
from cdc.source.result_reader import ResultReader
from snapshot.chunks import Chunk, ChunkPlan, read_chunk
from snapshot.guards import ReaderSlots, SourceGuard
from snapshot.staged_file import StagedChunk
from snapshot.staging import LoadFiles

__all__ = ["ChunkReaders", "SessionPool"]

_POLL_SECONDS = 0.2
# How long the readers of a load that ends early are waited for: their sessions have been hung up.
_JOIN_SECONDS = 5.0


class _Stopped(Exception):
    """The load is over: nobody wants what is being read."""


class _CutShort(Exception):
    """A result was not read to its end, and its session is of no more use. Its chunk is to be read again."""


@dataclass(slots=True, eq=False)
class _Read:
    """A chunk on its way from its reader to the writer."""

    plan: ChunkPlan
    chunk: Chunk
    batches: deque[pa.RecordBatch] = field(default_factory=deque)
    is_whole: bool = False
    is_waiting: bool = False
    """Its reader has a batch for which there is no room."""
    staged: StagedChunk | None = None
    """Where its rows are, if not in memory."""


class SessionPool:
    """Sessions on the source that tables are read by, kept from one table to the next. For several threads.

    Each has one of `slots`, also while nobody uses it.
    """

    def __init__(self, connect: Callable[[], SourceConnection], slots: ReaderSlots | None = None) -> None:
        self._connect = connect
        self._slots = slots or ReaderSlots(None)
        self._idle: list[SourceConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drop the sessions that nobody uses."""
        while (connection := self._take_idle()) is not None:
            self.drop(connection)

    @property
    def is_wanted(self) -> bool:
        """Does another load wait for a session?"""
        return self._slots.is_wanted

    def take(self, sleep: Callable[[float], None] = time.sleep) -> SourceConnection:
        """A session that nobody else uses, waited for where all slots are taken. Raises SourceUnavailable, ConfigError.

        `sleep` sleeps so many seconds at most, and raises to end the wait.
        """
        found = self._take_idle()
        if found is None:
            self._slots.take(sleep)
            found = self._open()
        return found

    def try_take(self) -> SourceConnection | None:
        """Likewise, None where it would have to be waited for."""
        found = self._take_idle()
        if found is None and self._slots.try_take():
            found = self._open()
        return found

    def give(self, connection: SourceConnection) -> None:
        """Take a session back that has read everything it asked for."""
        if self._slots.is_wanted:
            self.drop(connection)
            return
        with self._lock:
            self._idle.append(connection)

    def drop(self, connection: SourceConnection) -> None:
        """Take a session back that is of no use any more."""
        connection.close()
        self._slots.give()

    def _take_idle(self) -> SourceConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _open(self) -> SourceConnection:
        try:
            return self._connect()
        except BaseException:
            self._slots.give()
            raise


class ChunkReaders:
    """Reads all chunks of the plans, within a `with`: behind it, no session is in use and no thread runs.

    As many readers as there are chunks to read at a time, `workers` at most, and sessions for them. `bytes_max` is what
    may be held in memory; a single batch is, however large it is. `guard` is asked before each chunk.

    With `files`, the chunks of the only plan go through them as far as there is room on disk: no read waits for the
    writer then, and the readers go on while there is none (`read_on`).
    """

    def __init__(
        self,
        *plans: ChunkPlan,
        sessions: SessionPool,
        workers: int,
        bytes_max: int,
        guard: SourceGuard | None = None,
        files: LoadFiles | None = None,
    ) -> None:
        assert plans, "nothing to read"
        assert files is None or len(plans) == 1, "files are one load's"
        self._plans = plans
        self._readers_at: Counter[ChunkPlan] = Counter()
        self._files = files
        self._guard = guard or SourceGuard()
        self._sessions = sessions
        self._workers = workers
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._reads: list[_Read] = []
        self._byte_count = 0
        self._writing: _Read | None = None
        self._error: BaseException | None = None
        self._is_stopping = False
        self._running = 0
        self._reader_count = 0
        self._in_use: list[SourceConnection] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ChunkReaders:
        self._start_reader()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            for connection in self._in_use:
                connection.hang_up()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_reader(self) -> None:
        """One more, if there may be one more. The first one stays until all chunks are read."""
        with self._changed:
            is_first = not self._running
            is_wanted_elsewhere = self._sessions.is_wanted and not is_first
            if self._is_stopping or self._running == self._workers or is_wanted_elsewhere:
                return
            self._reader_count += 1
            name = f"load-{self._plans[0].definition.name}-{self._reader_count}"
            thread = threading.Thread(target=self._run, args=(is_first,), name=name, daemon=True)
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            self._running += 1
            thread.start()

    # ------------------------------------------------------------ the writer

    def chunks(self, on_wait: Callable[[], None]) -> Iterator[tuple[Chunk, Iterator[pa.RecordBatch]]]:
        """Every chunk once, each with its batches, which must be taken before the next chunk is asked for.

        `on_wait` is called while there is nothing to do, a few times a second; it may raise. Raises what a reader
        raised.
        """
        return ((chunk, batches) for _, chunk, batches in self.parts(on_wait))

    def parts(
        self, on_wait: Callable[[], None], on_idle: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[ChunkPlan, Chunk, Iterator[pa.RecordBatch]]]:
        """Likewise, with the plan that each is of. `on_idle` is called once before a chunk has to be waited for."""
        while (read := self._next(on_wait, on_idle)) is not None:
            if read.staged is None:
                yield read.plan, read.chunk, self._batches(read, on_wait)
                continue
            assert self._files is not None, "it was written there"
            if self._files.is_whole(read.staged):
                yield read.plan, read.chunk, self._files.read(read.staged)
                self._files.applied(read.staged)
            else:
                read.plan.again(read.chunk)

    @property
    def is_whole(self) -> bool:
        """Is all in memory of the chunk that was handed out last?"""
        with self._changed:
            return self._writing is not None and self._writing.is_whole and self._writing.staged is None

    def read_on(self, is_wanted: Callable[[], bool]) -> None:
        """Go on reading into files for as long as `is_wanted`, which may raise; the writer takes nothing meanwhile."""
        while is_wanted():
            with self._changed:
                if self._error is not None or not self._running:
                    return
                self._changed.wait(_POLL_SECONDS)

    def _next(self, on_wait: Callable[[], None], on_idle: Callable[[], None]) -> _Read | None:
        is_idle = False
        while True:
            with self._changed:
                self._writing = None
                found = self._choose()
                if found is not None:
                    self._writing = found
                    self._reads.remove(found)
                    self._changed.notify_all()
                    return found
                if is_idle and self._error is None and not self._running:
                    if not any(plan.has_more for plan in self._plans):
                        return None
                    self._start_reader()  # a file was damaged: its chunk is to be read again
                if is_idle:
                    self._raise_or_wait()
            if is_idle:
                on_wait()
            else:
                is_idle = True
                on_idle()

    def _choose(self) -> _Read | None:
        """The first whole chunk; else, if a reader has to wait for room, the first of those that do."""
        reads = sorted(self._reads, key=lambda read: (self._plans.index(read.plan), read.chunk.number))
        whole = next((read for read in reads if read.is_whole), None)
        return whole or next((read for read in reads if read.is_waiting), None)

    def _batches(self, read: _Read, on_wait: Callable[[], None]) -> Iterator[pa.RecordBatch]:
        while True:
            with self._changed:
                if read.batches:
                    batch = read.batches.popleft()
                    self._byte_count -= batch.nbytes
                    self._changed.notify_all()
                elif read.is_whole:
                    return
                else:
                    self._raise_or_wait()
                    batch = None
            if batch is not None:
                yield batch
            else:
                on_wait()

    def _raise_or_wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._changed.wait(_POLL_SECONDS)

    # ------------------------------------------------------------ the readers

    def _run(self, is_first: bool) -> None:
        try:
            while (connection := self._take_session(must_wait=is_first)) is not None:
                is_clean = False
                try:
                    self._read_all(connection)
                    is_clean = True
                except _CutShort:
                    is_first = True  # somebody has to read that chunk
                except BaseException:
                    self._drop_session(connection)
                    raise
                self._drop_session(connection, is_clean=is_clean)
                if not is_first or self._is_stopping or not self._has_more():
                    break
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - the writer's thread raises it
            with self._changed:
                if self._error is None and not self._is_stopping:
                    self._error = error
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _take_session(self, *, must_wait: bool) -> SourceConnection | None:
        connection = self._sessions.take(self._sleep) if must_wait else self._sessions.try_take()
        if connection is not None:
            with self._changed:
                self._in_use.append(connection)
        return connection

    def _drop_session(self, connection: SourceConnection, *, is_clean: bool = False) -> None:
        with self._changed:
            self._in_use.remove(connection)
            is_clean = is_clean and not self._is_stopping  # else it has been hung up
        if is_clean:
            self._sessions.give(connection)
        else:
            self._sessions.drop(connection)

    def _sleep(self, seconds: float) -> None:
        """Raises _Stopped."""
        with self._changed:
            if not self._is_stopping:
                self._changed.wait(seconds)
            if self._is_stopping:
                raise _Stopped

    def _in_turn(self) -> list[ChunkPlan]:
        """Those that no reader is at come first. (Another one's reader may hold its plan for as long as a query.)"""
        with self._changed:
            return sorted(self._plans, key=lambda plan: self._readers_at[plan])

    def _has_more(self) -> bool:
        return any(plan.has_more for plan in self._in_turn())

    @contextlib.contextmanager
    def _at_next_plan(self) -> Iterator[ChunkPlan | None]:
        """The plan whose chunk is to be read next; None when all have been given out."""
        plan = next((plan for plan in self._in_turn() if plan.has_more), None)
        if plan is None:
            yield None
            return
        with self._changed:
            self._readers_at[plan] += 1
        try:
            yield plan
        finally:
            with self._changed:
                self._readers_at[plan] -= 1

    def _read_all(self, connection: SourceConnection) -> None:
        """Chunks until there are no more, or another load wants the session."""
        reader = ResultReader(connection, self._plans[0].definition)
        at = self._plans[0]
        while not self._is_stopping:
            with self._at_next_plan() as plan:
                if plan is None:
                    return
                if plan is not at:
                    at, reader = plan, ResultReader(connection, plan.definition)
                admission = self._guard.admit(connection, plan.pace.rows, self._sleep)
                chunk = plan.next(connection)
                rows = byte_count = 0
                if chunk is not None:
                    if self._has_more():
                        self._start_reader()
                    rows, byte_count = self._read(reader, plan, chunk)
                self._guard.settle(admission, rows=rows, byte_count=byte_count)
            if self._sessions.is_wanted:
                return

    def _read(self, reader: ResultReader, plan: ChunkPlan, chunk: Chunk) -> tuple[int, int]:
        """Its rows and bytes."""
        if self._files is not None:
            found = self._files.take_found(chunk)
            if found is not None:
                self._hand_over(plan, chunk, found)
                return 0, 0
            if reserved := self._reserve(self._files, plan, chunk):
                return self._stage(self._files, reader, plan, chunk, reserved)
        read = _Read(plan, chunk)
        with self._changed:
            self._reads.append(read)
        rows = byte_count = 0
        waited = 0.0
        began = time.monotonic()
        for batch in read_chunk(reader, plan, chunk):
            rows += batch.num_rows
            byte_count += batch.nbytes
            waited += self._put(read, batch)
        plan.pace.measured(rows=rows, byte_count=byte_count, seconds=time.monotonic() - began - waited)
        with self._changed:
            read.is_whole = True
            self._changed.notify_all()
        return rows, byte_count

    def _hand_over(self, plan: ChunkPlan, chunk: Chunk, staged: StagedChunk) -> None:
        with self._changed:
            self._reads.append(_Read(plan, chunk, is_whole=True, staged=staged))
            self._changed.notify_all()

    def _reserve(self, files: LoadFiles, plan: ChunkPlan, chunk: Chunk) -> int:
        """Room on disk for the chunk, waited for while the writer has others of this load to apply; 0 where there is
        none. Raises _Stopped."""
        while files.takes(chunk):
            if reserved := files.reserve(chunk, plan.pace.bytes_max):
                return reserved
            with self._changed:
                held = [*self._reads, self._writing]
                if not any(read is not None and read.staged is not None for read in held):
                    return 0
            self._sleep(_POLL_SECONDS)
        return 0

    def _stage(
        self, files: LoadFiles, reader: ResultReader, plan: ChunkPlan, chunk: Chunk, reserved: int
    ) -> tuple[int, int]:
        """Its rows and bytes; it is in a file then. Raises _CutShort where the disk does not take it."""
        rows = byte_count = 0

        def counted() -> Generator[pa.RecordBatch, None, None]:
            nonlocal rows, byte_count
            for batch in read_chunk(reader, plan, chunk):
                rows += batch.num_rows
                byte_count += batch.nbytes
                yield batch
                if self._is_stopping:
                    raise _Stopped

        began = time.monotonic()
        with contextlib.closing(counted()) as batches:
            staged = files.write(chunk, batches, reserved=reserved)
        if staged is None:
            plan.again(chunk)
            raise _CutShort
        plan.pace.measured(rows=rows, byte_count=byte_count, seconds=time.monotonic() - began)
        self._hand_over(plan, chunk, staged)
        return rows, byte_count

    def _put(self, read: _Read, batch: pa.RecordBatch) -> float:
        """Hand a batch over; the seconds that it took until there was room. Raises _Stopped."""
        began = time.monotonic()
        with self._changed:
            while not self._has_room(read, batch.nbytes):
                if self._is_stopping:
                    raise _Stopped
                if not read.is_waiting:
                    read.is_waiting = True
                    self._changed.notify_all()
                self._changed.wait(_POLL_SECONDS)
            read.is_waiting = False
            if self._is_stopping:
                raise _Stopped
            read.batches.append(batch)
            self._byte_count += batch.nbytes
            self._changed.notify_all()
        return time.monotonic() - began

    def _has_room(self, read: _Read, size: int) -> bool:
        # What the writer waits for always goes through: else the others' chunks could fill the memory for ever.
        return (
            not self._byte_count
            or self._byte_count + size <= self._bytes_max
            or (self._writing is read and not read.batches)
        )
