"""`python -m tests.simulation [--seconds 60] [--seed N] [--trace]`: crash schedules, one after the other, from a
seed on.

Prints how many there were and what was in them. Where a promise is broken it prints the seed and what happened, and
the exit code is 1; `--seed N --trace` runs that schedule alone again, and shows every commit of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.world import SimulationFailed, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=1, help="the first schedule (1)")
    parser.add_argument("--trace", action="store_true", help="only that schedule, with all that happens in it")
    arguments = parser.parse_args()
    if arguments.trace:
        return _show(arguments.seed)
    began = time.monotonic()
    seed, turns, simulated, failures = arguments.seed, 0, 0.0, 0
    counts: Counter[str] = Counter()
    while time.monotonic() - began < arguments.seconds:
        try:
            outcome = simulate(seed)
        except SimulationFailed as error:
            failures += 1
            _say(f"{error}\n  again, with all that happens: python -m tests.simulation --seed {seed} --trace")
            if failures == 5:
                break
        else:
            counts += outcome.counts
            turns += outcome.turns
            simulated += outcome.seconds
        seed += 1
    took = time.monotonic() - began
    schedules = seed - arguments.seed
    _say(
        f"{schedules:,} schedules from seed {arguments.seed} in {took:.0f} s ({schedules / took * 60:,.0f} a minute), "
        f"{simulated / 3600:,.1f} hours of simulated time, {turns:,} turns; {failures} failed"
    )
    for what, count in sorted(counts.items()):
        _say(f"  {count:12,} {what}")
    return 1 if failures else 0


def _show(seed: int) -> int:
    trace: list[str] = []
    try:
        simulate(seed, trace=trace)
    except SimulationFailed as error:
        _say(*trace, str(error))
        return 1
    _say(*trace, f"seed {seed}: nothing is wrong")
    return 0


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    sys.exit(main())
