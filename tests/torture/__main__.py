"""`python -m tests.torture [--seconds 180] [--seed N] [--source mysql97] [--sink pg15]`: hours, if you like.

For each source: private servers, a service with two sinks behind proxies, random tables with every type and every
kind of key, clients that write at random, DDL in between, and a fault a second: kill -9 of the service, of the
source and of each sink, SIGSTOP, connections cut, stalled, half open and delayed, locks held, full disks, a second
instance that follows the service killed or asleep and is the service then, a command that takes the lease of a sink
the service is cut off from. After each round the clients pause, the service has to catch up, and then every table is
compared (`cdc verify`), kept changes are counted, and threads, files, memory and sessions are looked at; all the while
readers of the sinks look for half of a transaction and for a checkpoint that goes back. Prints the counts, those of the
service's log among them; where something is wrong, what it was, the faults in order, and the command that does the same
again. The seed decides tables, statements and the faults of each round; when each takes effect is up to the machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cdc.demo.servers import ServerUnavailable
from tests.torture.harness import CLIENTS, TABLES, Settings, Torture, torture

SOURCES = ("mysql97", "mariadb1011")
SINKS = {"mysql97": ("pg15", "mariadb1011"), "mariadb1011": ("pg15", "mysql97"), "mariadb118": ("pg17", "mariadb1011")}


def settings_of(words: list[str] | None) -> Iterator[Settings]:
    """What a command line asks for, by source; None: ours."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180, help="how long the rounds of each source go on (180)")
    parser.add_argument("--hours", type=float, help="the same in hours")
    parser.add_argument("--rounds", type=int, help="so many rounds, however long they take")
    parser.add_argument("--round-seconds", type=float, default=15, help="faults between two comparisons (15)")
    parser.add_argument("--seed", type=int, help="of a run that is to be done again")
    parser.add_argument("--source", action="append", choices=tuple(SINKS), help="both families, unless named")
    parser.add_argument("--sink", action="append", help="as the source has them, unless named")
    parser.add_argument("--tables", type=int, default=TABLES, help=f"random ones ({TABLES})")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"that write ({CLIENTS})")
    parser.add_argument("--only", action="append", default=[], help="only faults that begin so, as in `kill -9`")
    parser.add_argument("--no-ddl", action="store_true")
    parser.add_argument("--no-disks", action="store_true", help="no full disks, which need the right to mount")
    parser.add_argument("--keep", type=Path, help="where the service's logs go of a run in which something is wrong")
    arguments = parser.parse_args(words)
    for number, source in enumerate(arguments.source or SOURCES):
        seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 30) + number
        yield Settings(
            seed=seed,
            source=source,
            sinks=tuple(arguments.sink or SINKS[source]),
            rounds=arguments.rounds,
            seconds=arguments.hours * 3600 if arguments.hours else arguments.seconds,
            round_seconds=arguments.round_seconds,
            has_ddl=not arguments.no_ddl,
            has_disks=not arguments.no_disks,
            only=tuple(arguments.only),
            tables=arguments.tables,
            clients=arguments.clients,
            keep=arguments.keep,
        )


def main() -> int:
    exit_code = 0
    for settings in settings_of(None):
        _say(f"{settings.source} to {', '.join(settings.sinks)}, seed {settings.seed}")
        began = time.monotonic()
        try:
            run = torture(settings, _say)
        except ServerUnavailable as error:
            _say(f"  SKIPPED, {error}")
            continue
        _tell(run, time.monotonic() - began)
        exit_code |= bool(run.problems)
    return exit_code


def _tell(run: Torture, seconds: float) -> None:
    for what, count in sorted(run.counts.items()):
        _say(f"  {count:10,} {what}")
    _say(f"  {run.memory_mib_max:10,} MiB of memory at most")
    for what in run.skipped:
        _say(f"  not done: {what} (this machine does not let us mount a small file system, or --no-disks)")
    if run.problems:
        _say("WRONG:", *run.problems, "what was done:", *run.schedule, f"again: {run.settings.command}")
    else:
        _say(f"  {run.counts['rounds']} rounds in {seconds:.0f} s: everything equal, nothing left behind")


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    sys.exit(main())
