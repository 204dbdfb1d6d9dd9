"""What becomes of a sink whose lease was taken from a service that runs.

Another instance is left alone: two never take turns. A command (`cdc snapshot`, `cdc skip`, …) takes a lease over where
its holder's sessions are gone from the sink: the service was cut off, and was not back yet. It lets go when it is done,
so the service begins anew with that sink, and waits for the command as one does that starts meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cdc.clock import Clock
from cdc.errors import CdcError, LeaseLost, TransientError
from cdc.log import Logger
from cdc.pipeline.lease import SILENT_SECONDS
from cdc.sinks.base import Sink
from checkpoints.store import COMMAND_HOLDER, InSinkStore

__all__ = ["DisplacedSinks", "read_holder"]

_PAUSE_SECONDS = 1.0


def read_holder(sink: Sink, pipeline: str) -> str:
    """Who holds the pipeline's lease, or did so last; '' where nobody has. Raises as the sink does."""
    lease = InSinkStore(sink, pipeline).read_lease()
    return lease.holder if lease is not None else ""


class DisplacedSinks:
    """Begins anew with the sinks whose leases commands have taken, each in a thread that ends with that.

    Args:
        make_sink: a connection of its own to the sink of that name, not open.
        begin_anew: with the sink of that name.
        is_stopping: of the service.
    """

    def __init__(
        self,
        *,
        make_sink: Callable[[str], Sink],
        begin_anew: Callable[[str], None],
        is_stopping: threading.Event,
        clock: Clock,
        log: Logger,
        holder: Callable[[Sink, str], str] = read_holder,
    ) -> None:
        self._make_sink = make_sink
        self._begin_anew = begin_anew
        self._is_stopping = is_stopping
        self._clock = clock
        self._log = log
        self._holder = holder
        self._seen: dict[str, LeaseLost] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._asked: dict[str, tuple[Sink, float]] = {}

    def look_into(self, name: str, error: BaseException | None) -> bool:
        """Every pipeline of the sink has ended, `error` is why: see whether it goes on.

        In a thread: `are_open` until then. False where it is plain that it does not, or was seen already.
        """
        if not isinstance(error, LeaseLost) or not error.pipeline or self._seen.get(name) is error:
            return False
        self._seen[name] = error
        thread = threading.Thread(target=self._run, args=(name, error), name=f"displaced-{name}", daemon=True)
        self._threads[name] = thread
        thread.start()
        return True

    def are_open(self) -> bool:
        """Is one of them being looked into?"""
        return any(thread.is_alive() for thread in self._threads.values())

    def hang_up_on_silence(self) -> None:
        """End the conversation with a sink that leaves the question without an answer; it is asked again then."""
        for sink, asked_at in list(self._asked.values()):
            if self._clock.monotonic() - asked_at > SILENT_SECONDS:
                sink.hang_up()

    def join(self, timeout_seconds: float) -> None:
        """Once the service is stopping: wait for who is just beginning anew."""
        deadline = self._clock.monotonic() + timeout_seconds
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - self._clock.monotonic()))

    def _run(self, name: str, error: LeaseLost) -> None:
        try:
            holder = self._ask(name, error.pipeline)
            if holder.startswith(COMMAND_HOLDER) and not self._is_stopping.is_set():
                self._log.warning(
                    "lease_taken_by_command",
                    sink=name,
                    holder=holder,
                    hint="the service was cut off from the sink; it goes on as soon as the command is done",
                )
                self._begin_anew(name)
        except CdcError as trouble:  # what the pipelines ended with stands
            self._log.error("lease_not_looked_into", sink=name, message=trouble.message, hint=trouble.hint)
        except Exception as bug:  # noqa: BLE001 - likewise: the sink is shown as failed, and the process ends with that
            self._log.error("lease_not_looked_into", sink=name, message=str(bug), exc_info=bug)

    def _ask(self, name: str, pipeline: str) -> str:
        """Who has the lease; '' when the service stops before the sink has answered."""
        is_said = False
        while not self._is_stopping.is_set():
            sink = self._make_sink(name)
            self._asked[name] = sink, self._clock.monotonic()
            try:
                sink.open()
                return self._holder(sink, pipeline)
            except TransientError as error:
                if not is_said:
                    self._log.warning("lease_asked_again", sink=name, message=error.message, hint=error.hint)
                    is_said = True
            finally:
                del self._asked[name]
                sink.close()
            self._clock.wait(self._is_stopping, _PAUSE_SECONDS)
        return ""
