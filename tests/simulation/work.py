"""What one process of `make simulate` does: schedules, one after the other."""

from __future__ import annotations

import gc
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.world import SimulationFailed, Subject, simulate

__all__ = ["Tally", "say", "work"]

_FAILURES_MAX = 5  # of a process


@dataclass(slots=True)
class Tally:
    """What the schedules of a process came to."""

    schedules: int = 0
    per_minute: float = 0.0
    turns: int = 0
    simulated_seconds: float = 0.0
    failures: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.schedules + other.schedules,
            self.per_minute + other.per_minute,
            self.turns + other.turns,
            self.simulated_seconds + other.simulated_seconds,
            self.failures + other.failures,
            self.counts + other.counts,
        )


def work(first: int, step: int, seconds: float, about: Subject | None) -> Tally:
    """Every `step`-th seed from the first one on, for so long."""
    gc.freeze()  # what was imported stays: to look through it again and again takes a sixth of the time
    tally = Tally()
    seed, began = first, time.monotonic()
    while time.monotonic() - began < seconds and tally.failures < _FAILURES_MAX:
        try:
            outcome = simulate(seed, about=about)
        except SimulationFailed as error:
            tally.failures += 1
            chosen = f" --about {about}" if about else ""
            say(f"{error}\n  again, with all that happens: python -m tests.simulation --seed {seed}{chosen} --trace")
        else:
            tally.counts += outcome.counts
            tally.turns += outcome.turns
            tally.simulated_seconds += outcome.seconds
        tally.schedules += 1
        seed += step
    tally.per_minute = tally.schedules / (time.monotonic() - began) * 60
    return tally


def say(*lines: str) -> None:
    """Print them."""
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a command
