"""The leases of a command that writes by itself: all that it needs, or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdc.errors import CdcError, ConfigError
from checkpoints.store import COMMAND_HOLDER, InSinkStore, LeaseHeld

__all__ = ["leases_taken"]

_LEASE_SECONDS = 60


@contextlib.contextmanager
def leases_taken(stores: Sequence[InSinkStore], command: str, *, who: str) -> Iterator[None]:
    """Hold the leases of all `stores` for as long as the command writes: a service that was cut off from the sink comes
    back by itself, and may be the holder of some of them by now. What they said of themselves is left as it was.

    Raises ConfigError, with none of them held, where somebody else holds one.
    """
    holder = f"{COMMAND_HOLDER}{command} by {who}:{os.getpid()}"  # of two by one person neither takes the other's
    with contextlib.ExitStack() as taken:
        for store in stores:
            lease = store.read_lease()
            status = dict(lease.status) if lease is not None else {}
            try:
                store.take_lease(
                    holder=holder, sessions=(store.sink.session(),), seconds=_LEASE_SECONDS, was_renewed=False
                )
            except LeaseHeld as error:
                what = f"{store.pipeline} is being run by {error.holder}" if error.holder else error.message
                raise ConfigError(what, hint="stop that instance first") from error
            taken.callback(_release, store, status)
        yield


def _release(store: InSinkStore, status: Mapping[str, Any]) -> None:
    with contextlib.suppress(CdcError):  # what was done is done; the lease of a session that is gone is free
        store.release_lease(store.epoch, status=status)
