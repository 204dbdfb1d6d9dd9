"""`python -m tests.simulation [--seconds 60] [--seed N] [--jobs N] [--about sides] [--trace]`: crash schedules.

They run in a process for each processor, side by side: of N processes the first has every N-th seed from the first one
on, and so on. Prints how many there were, a minute from when the processes are ready on, and what was in them; a
schedule is one seed, from the start of the service to its end, with all the faults that come in between. Where a
promise is broken it prints the seed and what happened, and the exit code is 1; `--seed N --trace` runs that schedule
alone again, and shows every commit of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import get_args

from tests.simulation.work import Tally, say, work
from tests.simulation.world import SimulationFailed, Subject, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=1, help="the first schedule (1)")
    parser.add_argument("--jobs", type=int, default=_processors(), help="how many processes (one a processor)")
    parser.add_argument("--about", choices=get_args(Subject), help="much of one thing (a mixture)")
    parser.add_argument("--trace", action="store_true", help="only that schedule, with all that happens in it")
    arguments = parser.parse_args()
    if arguments.trace:
        return _show(arguments.seed, arguments.about)
    jobs = arguments.jobs
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as processes:
        seeds = range(arguments.seed, arguments.seed + jobs)
        begun = [processes.submit(work, seed, jobs, arguments.seconds, arguments.about) for seed in seeds]
        tally = sum((one.result() for one in begun), start=Tally())
    say(
        f"{tally.schedules:,} schedules from seed {arguments.seed} in {arguments.seconds:.0f} s, {jobs} at a time "
        f"({tally.per_minute:,.0f} a minute), {tally.simulated_seconds / 3600:,.1f} hours of simulated time, "
        f"{tally.turns:,} turns; {tally.failures} failed"
    )
    for what, count in sorted(tally.counts.items()):
        say(f"  {count:12,} {what}")
    return 1 if tally.failures else 0


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _show(seed: int, about: Subject | None) -> int:
    trace: list[str] = []
    try:
        simulate(seed, trace=trace, about=about)
    except SimulationFailed as error:
        say(*trace, str(error))
        return 1
    say(*trace, f"seed {seed}: nothing is wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
