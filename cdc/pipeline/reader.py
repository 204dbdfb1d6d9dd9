"""The reader thread: receives, frames, decodes, and hands runs to the applier.

It ends at a barrier (DDL, a new table): the pipeline records what the barrier means and starts a new reader from the
checkpoint, with the definitions of that time. Errors travel through the channel, behind all that was read before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cdc.clock import Clock
from cdc.errors import CdcError, InvariantBroken, SourceUnavailable, Stopping
from cdc.model import SchemaChange, SourcePosition, TransactionRun
from cdc.pipeline.channel import Abandoned, Channel, Failure, Progress
from cdc.pipeline.hooks import Hooks
from cdc.source.assembler import Assembler, Output
from cdc.source.stream import BinlogStream

__all__ = ["Reader"]

# How long a receive may wait while rows of whole transactions are being held back for a fuller batch.
_HELD_WAIT_SECONDS = 0.02
# How long it waits otherwise; only bounds how soon a stop is noticed.
_IDLE_WAIT_SECONDS = 0.5
# Transactions without captured rows move the checkpoint this often.
_EMPTY_RUN_SECONDS = 1.0


class Reader(Output):
    """One stream, read in a thread of its own until a barrier, an error or `stop`."""

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
    ) -> None:
        self._stream = stream
        self._make_assembler = make_assembler
        self._channel = channel
        self._clock = clock
        self._hooks = hooks
        self._age_seconds_max = age_seconds_max
        self._silence_seconds_max = silence_seconds_max
        self._on_received = on_received
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reader-{name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Turn the thread away and wait for it; what it had not handed over is read again from the checkpoint."""
        self._is_stopping.set()
        self._channel.close()
        self._stream.close()
        self._thread.join()

    # -- Output

    def run(self, run: TransactionRun) -> None:
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
            if not self._is_stopping.is_set():  # a closed socket under a read shows up as anything
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
        assembler = self._make_assembler(self)
        heard_at = held_since = self._clock.monotonic()
        was_holding = False
        counted = 0
        while not self._is_stopping.is_set():
            received = self._stream.fill(_HELD_WAIT_SECONDS if assembler.has_rows else _IDLE_WAIT_SECONDS)
            now = self._clock.monotonic()
            if received:
                self._hooks("after_fetch")
                heard_at = now
                try:
                    if self._stream.deliver(assembler):
                        return
                except CdcError:
                    # What is whole before it counts: the checkpoint that stays is the one right before the trouble.
                    assembler.flush()
                    raise
                finally:
                    self._on_received(assembler.event_count - counted, received)
                    counted = assembler.event_count
            elif now - heard_at > self._silence_seconds_max:
                raise SourceUnavailable(
                    f"the source has sent nothing, not even a heartbeat, for {now - heard_at:.0f} s",
                    hint="the connection is half open or the server hangs; the stream is opened again",
                )
            if not assembler.has_transactions:
                was_holding = False
                continue
            if not was_holding:
                was_holding, held_since = True, now
            age = now - held_since
            # All that was received has been taken in: who waits for rows gets what there is.
            due = assembler.has_rows and (age >= self._age_seconds_max or self._channel.is_hungry)
            if due or (not assembler.has_rows and age >= _EMPTY_RUN_SECONDS):
                assembler.flush()
                was_holding = False
        raise Stopping("the reader was told to stop")
