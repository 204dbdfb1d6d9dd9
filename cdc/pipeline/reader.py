"""The reader thread: receives, frames, decodes, and hands runs to the applier.

A run that is full (`RunLimits`) goes into the queue at once. What is not full waits until the applier has nothing to do
and its oldest transaction has been held for `age_seconds_max`; then the applier gets it in that moment. So a trickle is
applied transaction by transaction, and while a commit takes its time what comes gathers: the batches grow with what a
commit takes, up to where they are full.

It waits at a barrier (DDL, a new table). Where the pipeline does on the sink what the statement did, it goes on behind
it (`Channel.go_on`); else it is stopped there, and a new reader starts from the checkpoint, with the definitions of
that time. Errors travel through the channel, behind all that was read before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from cdc.clock import Clock
from cdc.errors import CdcError, InvariantBroken, SourceUnavailable, Stopping
from cdc.model import SchemaChange, SourcePosition, TransactionRun
from cdc.pipeline.channel import Abandoned, Channel, Failure, Progress
from cdc.pipeline.hooks import Hooks
from cdc.source.assembler import Assembler, Output
from cdc.source.stream import BinlogStream

__all__ = ["EMPTY_RUN_SECONDS", "Reader"]

# How long a receive waits when nothing is due sooner; only bounds how soon a stop is noticed.
_IDLE_WAIT_SECONDS = 0.5
# Transactions without captured rows move the checkpoint this often.
EMPTY_RUN_SECONDS = 1.0


class Reader(Output):
    """One stream, read in a thread of its own until an error or `stop`."""

    def __init__(
        self,
        *,
        name: str,
        stream: BinlogStream,
        make_assembler: Callable[[Output], Assembler],
        channel: Channel,
        clock: Clock,
        hooks: Hooks,
        age_seconds_max: float,
        silence_seconds_max: float,
        on_received: Callable[[int, int], None],
        empty_run_seconds: float = EMPTY_RUN_SECONDS,
    ) -> None:
        """`empty_run_seconds`: how often transactions without captured rows move the checkpoint."""
        self._empty_run_seconds = empty_run_seconds
        self._stream = stream
        self._make_assembler = make_assembler
        self._channel = channel
        self._clock = clock
        self._hooks = hooks
        self._age_seconds_max = age_seconds_max
        self._silence_seconds_max = silence_seconds_max
        self._on_received = on_received
        self._is_stopping = threading.Event()
        # Around every use of the assembler: this thread's, and the applier's when it runs out of work.
        self._lock = threading.Lock()
        self._assembler: Assembler | None = None
        self._held_since: float | None = None
        self._waits_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"reader-{name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._channel.on_hungry = self._on_hungry
        self._thread.start()

    def stop(self) -> None:
        """Turn the thread away and wait for it; what it had not handed over is read again from the checkpoint."""
        self._is_stopping.set()
        self._channel.close()
        self._stream.hang_up()  # the thread closes it: not under its own read
        self._thread.join()

    def silent_seconds(self) -> float:
        """For how long it has waited for the source; 0 while it has something to do. From any thread."""
        since = self._waits_since
        return self._clock.monotonic() - since if since is not None else 0.0

    # -- Output

    def run(self, run: TransactionRun) -> None:
        self._held_since = None
        self._hooks("after_decode")
        self._channel.put(run)

    def change(self, change: SchemaChange) -> None:
        self._channel.put(change)

    def progress(self, position: SourcePosition) -> None:
        self._channel.put(Progress(position))

    def abandon(self) -> None:
        self._channel.put(Abandoned())

    # -- the thread

    def _run(self) -> None:
        try:
            self._stream.open()
            self._read()
        except Stopping:
            pass
        except (CdcError, InvariantBroken) as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - nothing may end this thread unseen: it travels to the applier
            if not self._is_stopping.is_set():  # a socket shut down under a read shows up as anything
                self._fail(error)
        finally:
            self._stream.close()

    def _fail(self, error: BaseException) -> None:
        if not self._is_stopping.is_set():
            try:
                self._channel.put(Failure(error))
            except Stopping:
                return

    def _read(self) -> None:
        assembler = self._assembler = self._make_assembler(self)
        try:
            self._read_into(assembler)
        except Stopping:
            raise
        except CdcError:
            # What is whole before it counts: the checkpoint that stays is the one right before the trouble.
            with self._lock:
                assembler.flush()
            raise

    def _read_into(self, assembler: Assembler) -> None:
        heard_at = self._clock.monotonic()
        counted = 0
        while not self._is_stopping.is_set():
            self._waits_since = heard_at
            received = self._stream.fill(self._wait_seconds(assembler))
            self._waits_since = None
            now = self._clock.monotonic()
            if received:
                self._hooks("after_fetch")
                heard_at = now
                try:
                    while self._take_in(assembler, now):
                        self._channel.wait_at_barrier()
                        with self._taking():
                            assembler.resume()
                        now = heard_at = self._clock.monotonic()
                finally:
                    self._on_received(assembler.event_count - counted, received)
                    counted = assembler.event_count
            elif now - heard_at > self._silence_seconds_max:
                raise SourceUnavailable(
                    f"the source has sent nothing, not even a heartbeat, for {now - heard_at:.0f} s",
                    hint="the connection is half open or the server hangs; the stream is opened again",
                )
            # Not before the lock has been let go: an applier that found it taken relies on this look.
            if self._is_due(assembler, now):
                with self._taking():
                    assembler.flush()
        raise Stopping("the reader was told to stop")

    def _take_in(self, assembler: Assembler, now: float) -> bool:
        """All that has been received. True at a barrier."""
        with self._taking():
            is_over = self._stream.deliver(assembler)
            if self._held_since is None and assembler.has_transactions:
                self._held_since = now
            return is_over

    @contextlib.contextmanager
    def _taking(self) -> Iterator[None]:
        """The assembler is this thread's. What is raised in its middle may leave half of a run: nobody takes that."""
        with self._lock:
            try:
                yield
            except CdcError:
                raise
            except BaseException:
                self._assembler = None
                raise

    def _wait_seconds(self, assembler: Assembler) -> float:
        """How long a receive may take: until what is held is due by its age, should the applier wait for it then."""
        held_since = self._held_since
        if held_since is None:
            return _IDLE_WAIT_SECONDS
        age = self._clock.monotonic() - held_since
        left = (self._age_seconds_max if assembler.has_rows else self._empty_run_seconds) - age
        # None left: who waits has been served, and who will wait takes it by himself (`_on_hungry`).
        return min(left, _IDLE_WAIT_SECONDS) if left > 0 else _IDLE_WAIT_SECONDS

    def _is_due(self, assembler: Assembler, now: float) -> bool:
        held_since = self._held_since
        if held_since is None:
            return False
        age = now - held_since
        if not assembler.has_rows:
            return age >= self._empty_run_seconds
        return age >= self._age_seconds_max and self._channel.is_hungry

    def _on_hungry(self) -> None:
        """In the applier's thread, which has nothing to do: take what is held, unless more is being taken in."""
        assembler = self._assembler
        if assembler is None or not self._lock.acquire(blocking=False):
            return
        try:
            if self._is_due(assembler, self._clock.monotonic()):
                assembler.flush()
        finally:
            self._lock.release()
