"""The lease keeper: a thread with a sink session of its own that stays the holder and says how the pipeline is.

It renews the lease, publishes the pipeline's status for `cdc status`, and looks for commands. It never writes rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cdc.clock import Clock
from cdc.errors import CdcError, LeaseLost, Stopping, TransientError
from cdc.log import Logger
from cdc.pipeline.status import PipelineStatus
from cdc.sinks.base import Sink
from checkpoints.store import COMMAND_HOLDER, Command, InSinkStore, LeaseHeld

__all__ = ["SILENT_SECONDS", "LeaseKeeper", "Standby", "acquire_under", "is_overtaken"]

_TICK_SECONDS = 0.5
# A session that is used at every tick, and silent for so long, is nobody's any more.
_SILENCE_SECONDS_MIN = 10.0
# A holder that has renewed this lately lives, whether its session can be seen or not: it may have a new one.
_RENEWED_SECONDS = 3.0
# Who loses the lease of a sink's first lane has mostly let go of the others after so long, open transactions included.
_LET_GO_SECONDS = 30.0
# Without an answer for so long the sink is not well, and for so long it is taken for gone: a server that is frozen, or
# a connection that is half open. A server that is only busy has answered the few words of a renewal long before.
_UNWELL_SECONDS, SILENT_SECONDS = 10.0, 60.0


def acquire_under(
    ours: InSinkStore, acquire: Callable[[], int], clock: Clock, log: Logger, *, is_standby: bool = False
) -> int:
    """The epoch of a further lease on a sink of which we have a lane already: another lane's, or a side's.

    Who has lost that lane, and holds the other lease still, ends within moments and lets go of it: that is waited for.
    It may be in a statement that no timeout ends: a standby waits on, else nobody would be left behind it; and a
    command lets go once it is done.

    Raises LeaseHeld where it does not let go, LeaseLost where the lane is not `ours` any more, and what `acquire`
    raises.
    """
    is_said, deadline = False, clock.monotonic() + _LET_GO_SECONDS
    while True:
        try:
            return acquire()
        except LeaseHeld as held:
            if clock.monotonic() > deadline and not is_standby and not held.is_by_command:
                raise
            if not is_said:
                log.warning("lane_waits", message=held.message)
                is_said = True
        lease = ours.read_lease()
        if lease is None or lease.epoch != ours.epoch:
            raise ours.lost()


def is_overtaken(error: BaseException, holder: str) -> bool:
    """Did a command end by `error` because a service came first? It follows that one then."""
    return isinstance(error, LeaseHeld) and holder.startswith(COMMAND_HOLDER)


class Standby:
    """Says for whom an instance waits, and when it has taken over: its session may break and begin anew meanwhile."""

    def __init__(self, status: PipelineStatus, log: Logger) -> None:
        self._status = status
        self._log = log
        self._said = ""

    def waits(self, held: LeaseHeld) -> None:
        """The lease is held, and that is waited for."""
        if self._status.state != "standby":
            self._status.set_state("standby")
        if self._said != held.message:
            self._log.info("standby", message=held.message)
            self._said = held.message

    def has_lease(self) -> None:
        """The lease is ours: nothing to say where it was not waited for."""
        if self._said:
            self._said = ""
            self._status.set_state("starting")
            self._log.info("lease_taken_over")


class LeaseKeeper:
    """Holds the lease for the pipeline's whole life; `lost` is set when another instance has it."""

    def __init__(
        self,
        *,
        sink: Sink,
        pipeline: str,
        holder: str,
        seconds: float,
        clock: Clock,
        status: Callable[[], Mapping[str, Any]],
        on_commands: Callable[[list[Command]], None],
        on_error: Callable[[Exception], None] = lambda _error: None,
        on_standby: Callable[[LeaseHeld], bool] = lambda _held: False,
    ) -> None:
        """`on_standby`: says whether to wait for as long as that instance is the holder; else it is an error."""
        self._sink = sink
        self._store = InSinkStore(sink, pipeline)
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._status = status
        self._on_commands = on_commands
        self._on_error = on_error
        self._on_standby = on_standby
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()  # around every use of the sink session: this thread's and `acquire`
        self._thread: threading.Thread | None = None
        self._has_held = False
        self._is_answered: bool | None = None
        self._applier_session = ""
        self._named_session = ""  # ours, as the lease has it
        self._hang_ups = 0  # 1: our session was hung up on; 2: and that has been noticed
        self._is_applier_lost = False
        self._is_reached = True  # could there be a session at the last renewal?
        self._asked_at: float | None = None  # since when an answer has been waited for
        self.lost: LeaseLost | None = None

    def acquire(self, is_stopping: threading.Event, applier_session: str) -> int:
        """Become the holder, or raise the epoch as the holder, at the beginning of each session; the epoch.

        A transaction of an earlier session whose fate is unknown is waited for here, so that the checkpoint that is
        read next is the last one. While another holder's lease has not run out, waits to see whether it is renewed:
        that tells a live instance from one that was killed. A standby waits on, until that one lets go, dies or loses
        its lease; for a command everybody does.

        Raises LeaseHeld (with the holder's name), LeaseLost when we held it and do no more, Stopping,
        SinkUnavailable, ConfigError.
        """
        with self._lock:
            self._applier_session = applier_session
            try:
                with self._asking():
                    self._open()
                    self._store.create()
                self._take(is_stopping, applier_session)
            except TransientError:
                if self._thread is None:  # nobody uses the session until the next try, which may be long from now
                    self._sink.close()
                raise
        self._has_held = True
        self._is_answered = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"lease-{self._sink.name}", daemon=True)
            self._thread.start()
        return self._store.epoch

    def _take(self, is_stopping: threading.Event, applier_session: str) -> None:
        seen: int | None = None
        moved_at, moves = self._clock.monotonic(), 0
        deadline = self._clock.monotonic() + self._seconds + 2
        while True:
            with self._asking():
                lease = self._store.read_lease()
            if self._has_held and (lease is None or lease.holder != self._holder):
                # We held it and slept: another instance took over, even if it has left again. Two never take turns.
                self.lost = self._store.lost()
                raise self.lost
            expires = lease.expires_us if lease else None
            if seen is not None and expires is not None and expires > seen:
                moved_at, moves = self._clock.monotonic(), moves + 1
            seen = expires
            # Once may be the last renewal of one that is dead: its COMMIT was on its way. And the last moments count: a
            # holder that is waited for may have died since.
            was_renewed = moves > 1 and self._clock.monotonic() - moved_at < _RENEWED_SECONDS
            try:
                session = self._sink.session()
                with self._asking():
                    self._store.take_lease(
                        holder=self._holder,
                        sessions=(session, applier_session),
                        seconds=self._seconds,
                        was_renewed=was_renewed,
                    )
            except LeaseHeld as held:
                if (self._has_held or not self._on_standby(held)) and (
                    was_renewed or self._clock.monotonic() > deadline
                ):
                    raise
            else:
                self._named_session = session
                return
            if self._clock.wait(is_stopping, _TICK_SECONDS):
                raise Stopping("stopped while waiting for the lease")

    @property
    def is_sink_healthy(self) -> bool | None:
        """Could the lease be renewed the last time, without a long wait? None before the first."""
        return False if self._unanswered_seconds() > _UNWELL_SECONDS else self._is_answered

    def hang_up_on_silence(self) -> bool:
        """End the conversation with a sink that has left the keeper without an answer for long; from any thread.

        Nothing comes, and nothing fails: the server is frozen, the connection is half open, or a commit waits for a
        standby. A new session tells what holds of the applier's (`take_lost`). True when that was done.
        """
        if self._unanswered_seconds() < SILENT_SECONDS:
            return False
        self._hang_ups = self._hang_ups or 1
        self._sink.hang_up()
        return True

    def require(self, error: Exception | None = None) -> None:
        """Raises LeaseLost where the lease is lost, whatever who was hung up on for it says (`error`)."""
        if self.lost is not None and self.lost is not error:
            raise self.lost from error

    def take_lost(self) -> bool:
        """Is the applier to be hung up on? True once for each time that it waits in vain, and always once the lease is
        lost: nothing may be written any more, and the applier need not find that out where its connection is half open.
        """
        is_lost, self._is_applier_lost = self._is_applier_lost, False
        return is_lost or self.lost is not None

    def _look_at_applier(self) -> None:
        """Behind a silence the sink answers again: is the session still there that the applier waits in?"""
        if self._hang_ups:
            self._hang_ups = 0
            self._is_applier_lost = self._sink.is_session_alive(self._applier_session) is False

    def _count_failure(self) -> None:
        """Behind a silence the first failure is its end; where no session can be had then, nobody answers at all."""
        if self._hang_ups == 2 and not self._is_reached:
            self._hang_ups, self._is_applier_lost = 0, True
        elif self._hang_ups:
            self._hang_ups = 2

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        self._asked_at = self._clock.monotonic()
        try:
            yield
        finally:
            self._asked_at = None

    def _unanswered_seconds(self) -> float:
        asked_at = self._asked_at
        return self._clock.monotonic() - asked_at if asked_at is not None else 0.0

    @property
    def epoch(self) -> int:
        """The number of this holder's latest session; 0 before the first."""
        return self._store.epoch

    def stop(self) -> None:
        """Stop renewing and, if the lease is still ours, let the next instance start at once."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self.lost is None and self._sink.is_open():
                with contextlib.suppress(CdcError), self._asking():
                    self._store.release_lease(self._store.epoch, status=self._status())
        self._sink.close()

    def _run(self) -> None:
        while not self._clock.wait(self._is_stopping, _TICK_SECONDS):
            with self._lock:
                try:
                    with self._asking():
                        self._renew()
                        self._look_at_applier()
                    self._is_answered = True
                except LeaseLost as error:
                    self.lost = error
                    return
                except TransientError:
                    self._is_answered = False
                    self._count_failure()
                    self._sink.close()  # the applier's own session notices; the fence guards what is written meanwhile
                except CdcError as error:
                    self.lost = LeaseLost(f"the lease cannot be kept: {error.message}", hint=error.hint)
                    return
                except Exception as error:  # noqa: BLE001 - a bug: without this thread the lease would run out unseen
                    self._is_answered = False
                    self._on_error(error)
                    with contextlib.suppress(Exception):
                        self._sink.close()

    def _open(self) -> None:
        if not self._sink.is_open():
            self._sink.open()
            # The next holder ends the sessions that the lease names, and this one is not named before it has written
            # there. Should we stand still in the middle of that, its locks must not outlive the lease for long.
            self._sink.end_when_silent(max(self._seconds, _SILENCE_SECONDS_MIN))

    def _renew(self) -> None:
        self._is_reached = False
        self._open()
        self._is_reached = True
        session = self._sink.session()
        self._store.renew_lease(
            self._store.epoch,
            seconds=self._seconds,
            status=self._status(),
            session=session if session != self._named_session else "",
        )
        self._named_session = session
        commands = self._store.queued_commands()
        if commands:
            self._on_commands(commands)
