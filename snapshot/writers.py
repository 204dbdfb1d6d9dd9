"""Chunks of one table written by several sessions on the sink, each chunk in a transaction of its own.

A sink works on what one session sends with one processor. The load's own session writes chunks as ever, and hands those
that are whole to another one that is free. Each is recorded with its rows, so that nothing is new about what a load
that is cut off goes on with; what is recorded before is where the chunk ends.

The other sessions are named in the lease before they write: who takes it over ends them. Each of their transactions
ends with the fence, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import pyarrow as pa

from cdc.errors import CdcError
from cdc.sinks.base import Sink
from checkpoints.chunks import Loaded
from checkpoints.store import InSinkStore
from snapshot.chunks import Chunk

__all__ = ["ChunkWriters", "WriterSession", "WriterSessions", "WriterStopped"]

_POLL_SECONDS = 0.2
# How long a writer has to end at a batch before its session is hung up, and then to notice that.
_JOIN_SECONDS = 5.0


class WriterStopped(Exception):
    """The load is over: nobody wants what is being written."""


@dataclass(slots=True, eq=False)
class WriterSession:
    """One more session on the sink. `name`: as the lease has it."""

    sink: Sink
    store: InSinkStore
    name: str = ""
    is_lost: bool = False
    """Has a load ended before the thread that writes in it? That one closes it, and nobody else uses it."""


class WriterSessions:
    """The sessions on the sink that write for the loads of one pipeline beside its own: opened when they are wanted,
    kept from one table to the next. Used by the pipeline's thread, but for `sinks`."""

    def __init__(
        self,
        make_sink: Callable[[], Sink],
        store: InSinkStore,
        *,
        count_max: int,
        on_refused: Callable[[CdcError], None],
    ) -> None:
        """`store` is that of the pipeline's own session, `on_refused` is told once that there are fewer."""
        self._make_sink = make_sink
        self._store = store
        self._count_max = count_max
        self._on_refused = on_refused
        self._sessions: list[WriterSession] = []

    @property
    def sinks(self) -> list[Sink]:
        """Those that are open, perhaps in the middle of a statement."""
        return [session.sink for session in self._sessions]

    def take(self) -> Sequence[WriterSession]:
        """As many as there may be, and the sink has connections for. Raises LeaseLost, SinkUnavailable."""
        self._sessions = [session for session in self._sessions if not session.is_lost]
        while len(self._sessions) < self._count_max:
            sink = self._make_sink()
            try:
                sink.open()
            except CdcError as error:
                sink.close()
                self._count_max = len(self._sessions)
                self._on_refused(error)
                break
            store = InSinkStore(sink, self._store.pipeline)
            store.epoch = self._store.epoch
            self._sessions.append(WriterSession(sink, store))
        for session in self._sessions:
            self._name(session)
        return tuple(self._sessions)

    def _name(self, session: WriterSession) -> None:
        if not session.sink.is_open():
            session.sink.open()
        if session.name == session.sink.session():
            return
        with session.sink.transaction() as tx:
            session.store.add_session(tx, session.sink.session(), instead_of=session.name)
            tx.commit()
        session.name = session.sink.session()

    def close(self) -> None:
        """There is nothing left to be written."""
        sessions, self._sessions = self._sessions, []
        for session in sessions:
            if not session.is_lost:
                session.sink.close()


_Write = Callable[[WriterSession, Chunk, Sequence[pa.RecordBatch], Callable[[], None]], Loaded]


@dataclass(slots=True, eq=False)
class _Writer:
    session: WriterSession
    thread: threading.Thread | None = None
    has_ended: bool = False
    work: tuple[Chunk, Sequence[pa.RecordBatch]] | None = None


@dataclass(slots=True, eq=False)
class _State:
    """What the threads share, under `changed`."""

    # Looked up when it is made: a simulation has its own.
    changed: threading.Condition = field(default_factory=lambda: threading.Condition())
    loaded: list[Loaded] = field(default_factory=list)
    error: BaseException | None = None
    is_stopping: bool = False


class ChunkWriters:
    """Writes chunks of one table beside the load's own session, within a `with`: behind it, no thread writes.

    But for one that does not notice in time that its session was hung up: nobody else uses that session any more.

    `take` gives the sessions, asked once the first chunk is offered. `write` writes one chunk, in a thread of its own,
    and calls what it is given between two batches, which raises where the load has ended. `on_commit` is told of each
    chunk that was committed and that nobody asked for any more, because the load ended early.
    """

    def __init__(
        self, take: Callable[[], Sequence[WriterSession]], write: _Write, on_commit: Callable[[], None]
    ) -> None:
        self._take = take
        self._write = write
        self._on_commit = on_commit
        self._writers: list[_Writer] | None = None
        self._state = _State()

    def __enter__(self) -> ChunkWriters:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with self._state.changed:
            self._state.is_stopping = True
            self._state.changed.notify_all()
        started = [writer for writer in self._writers or () if writer.thread is not None]
        self._join(started)
        for writer in started:
            if writer.thread is not None and writer.thread.is_alive():
                writer.session.sink.hang_up()
        self._join(started)
        with self._state.changed:
            for writer in started:
                writer.session.is_lost = not writer.has_ended
        for _ in self.written():
            self._on_commit()

    @staticmethod
    def _join(writers: Sequence[_Writer]) -> None:
        deadline = time.monotonic() + _JOIN_SECONDS
        for writer in writers:
            if writer.thread is not None:
                writer.thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def has_free(self) -> bool:
        """Is there a session that has nothing to do?"""
        if self._writers is None:
            self._writers = [_Writer(session) for session in self._take()]
        with self._state.changed:
            return any(writer.work is None for writer in self._writers)

    def give(self, chunk: Chunk, batches: Sequence[pa.RecordBatch]) -> None:
        """Have a session that is free write it; where it ends is recorded already."""
        with self._state.changed:
            writer = next(writer for writer in self._writers or () if writer.work is None)
            writer.work = (chunk, batches)
            if writer.thread is None:
                name = f"write-{chunk.number}"
                writer.thread = threading.Thread(target=self._run, args=(writer,), name=name, daemon=True)
                writer.thread.start()
            self._state.changed.notify_all()

    def written(self) -> list[Loaded]:
        """What has been committed since this was last asked."""
        with self._state.changed:
            loaded, self._state.loaded = self._state.loaded, []
        return loaded

    def check(self) -> None:
        """Raises what a writer raised."""
        if self._state.error is not None:
            raise self._state.error

    def wait(self, on_wait: Callable[[], None]) -> None:
        """Until all is written. `on_wait` is called a few times a second, and may raise."""
        while True:
            with self._state.changed:
                is_busy = any(writer.work is not None for writer in self._writers or ())
                if self._state.error is not None or not is_busy:
                    return
                self._state.changed.wait(_POLL_SECONDS)
            on_wait()

    def _run(self, writer: _Writer) -> None:
        self._write_chunks(writer)
        with self._state.changed:
            writer.has_ended = True
            is_lost = writer.session.is_lost
        if is_lost:
            writer.session.sink.close()

    def _write_chunks(self, writer: _Writer) -> None:
        state = self._state
        while True:
            with state.changed:
                while writer.work is None and not state.is_stopping:
                    state.changed.wait()
                if writer.work is None:
                    return
                chunk, batches = writer.work
            loaded, error = None, None
            try:
                loaded = self._write(writer.session, chunk, batches, self._check_wanted)
            except BaseException as problem:  # noqa: BLE001 - the load's thread raises it
                error = problem
            del batches
            with state.changed:
                writer.work = None
                if loaded is not None:
                    state.loaded.append(loaded)
                elif not state.is_stopping and state.error is None:
                    state.error = error
                state.changed.notify_all()

    def _check_wanted(self) -> None:
        if self._state.is_stopping:
            raise WriterStopped
