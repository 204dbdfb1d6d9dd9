"""What becomes of a sink whose lease was taken from a service that runs.

Another instance is left alone: two never take turns. A command (`cdc snapshot`, `cdc skip`, …) takes a lease over where
its holder's sessions are gone from the sink: the service was cut off, and was not back yet. It lets go when it is done,
so the service begins anew with that sink, and waits for the command as one does that starts meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cdc.errors import CdcError, LeaseLost, TransientError
from cdc.log import Logger
from checkpoints.store import COMMAND_HOLDER

__all__ = ["DisplacedSinks"]

_PAUSE_SECONDS = 1.0


class DisplacedSinks:
    """Begins anew with the sinks whose leases commands have taken, each in a thread that ends with that.

    Args:
        holder: who holds the lease of a pipeline on a sink, or did so last; '' where nobody has. Raises as a sink does.
        begin_anew: with the sink of that name.
    """

    def __init__(
        self,
        *,
        holder: Callable[[str, str], str],
        begin_anew: Callable[[str], None],
        is_stopping: threading.Event,
        log: Logger,
    ) -> None:
        self._holder = holder
        self._begin_anew = begin_anew
        self._is_stopping = is_stopping
        self._log = log
        self._seen: dict[str, LeaseLost] = {}
        self._threads: dict[str, threading.Thread] = {}

    def may_go_on(self, name: str, error: BaseException | None) -> bool:
        """Every pipeline of the sink has ended, `error` is why: is it looked into now? Once for the same end."""
        if not isinstance(error, LeaseLost) or not error.pipeline or self._seen.get(name) is error:
            return False
        self._seen[name] = error
        thread = threading.Thread(target=self._follow_up, args=(name, error), name=f"displaced-{name}", daemon=True)
        self._threads[name] = thread
        thread.start()
        return True

    def are_open(self) -> bool:
        """Is one of them being looked into?"""
        return any(thread.is_alive() for thread in self._threads.values())

    def join(self, timeout_seconds: float) -> None:
        """Once `is_stopping` is set: wait for who is just beginning anew."""
        for thread in self._threads.values():
            thread.join(timeout_seconds)

    def _follow_up(self, name: str, error: LeaseLost) -> None:
        while not self._is_stopping.is_set():
            try:
                holder = self._holder(name, error.pipeline)
            except TransientError:
                self._is_stopping.wait(_PAUSE_SECONDS)
                continue
            except CdcError:
                return  # the sink refuses us; what the pipelines ended with stands
            if holder.startswith(COMMAND_HOLDER):
                self._log.warning(
                    "lease_taken_by_command",
                    sink=name,
                    holder=holder,
                    hint="the service was cut off from the sink; it goes on as soon as the command is done",
                )
                self._begin_anew(name)
            return
