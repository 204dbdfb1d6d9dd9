"""What goes wrong, by chance and by a seed: each fault happens, lasts a while, and is over.

Where it kills, the thing killed is started again: as an orchestrator, an init system or an operator would.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cdc.demo.servers import Server, ServerFailed
from tests.support.deployment import Deployment
from tests.support.foreign_keys import TABLES as FAMILY_TABLES
from tests.support.proxy import Proxy
from tests.torture.instances import Instances, said, twin

__all__ = ["Fault", "Faults", "Scene"]

Fault = Callable[[], None]
_LOCK_SECONDS_MAX = 6.0
_FULL_SECONDS_MAX = 4.0
_COMMAND_SECONDS_MAX, _LOADS_SECONDS_MAX = 60.0, 20.0
# How often those are done that take long, to one of the others. A sink that is silent is hung up on after a minute,
# which nothing else may end before: so that is mostly seen where it is the last fault of a round.
_RARE = {
    "a command takes the lease": 0.4,
    "a second instance follows": 0.4,
    "connections half open at source": 1.0,
    "connections half open at ": 0.4,
}
# Events of the service's log that are counted, and what they are in the summary.
_SAID = {
    "lease_taken_by_command": "(log) leases taken by commands, and gone on behind",
    "lease_taken_over": "(log) leases taken over from other instances or commands",
    "staging_failed": "(log) files of loads that could not be written",
    "sink_silent": "(log) sinks hung up on for their silence",
}


@dataclass(slots=True)
class Scene:
    """Everything that a fault may befall.

    `urls` lead to the sinks past the proxies; `disks`: sinks whose data are on a small file system of their own;
    `staging`: the one that the files of loads are on, if any.
    """

    made: Deployment
    source: Server
    sinks: dict[str, Server]
    proxies: dict[str, Proxy]
    urls: dict[str, str]
    tables: list[str]
    disks: dict[str, Path] = field(default_factory=dict)
    staging: Path | None = None


class Faults:
    """Chooses and does them. `schedule` says what was done, and when: the words of a failing run."""

    def __init__(self, scene: Scene, seed: int, *, start: Callable[[], None]) -> None:
        """`start` starts the service."""
        self.counts: Counter[str] = Counter()
        self.schedule: list[str] = []
        self._scene = scene
        self._seed = seed
        self._random = random.Random(seed)
        self._start = start
        self._began = time.monotonic()
        self._filled = set[str]()
        self._commands: list[threading.Thread] = []
        self._instances = Instances(
            scene.made, scene.urls, watch_service=self.watch_service, watch_sinks=self.watch_sinks
        )

    def all(self) -> dict[str, Fault]:
        """By name; those that this scene has."""
        sinks = list(self._scene.sinks)
        faults: dict[str, Fault] = {
            "kill -9 of the service": self._kill_service,
            "SIGTERM of the service": self._end_service,
            "SIGSTOP of the service": self._stop_service,
            "kill -9 of the source": lambda: self._kill_server(self._scene.source),
            "a table is to be loaded again": self._load_again,
            "a second instance follows the service, killed": lambda: self._take_over(is_killed=True),
            "a second instance follows the service, asleep": lambda: self._take_over(is_killed=False),
        }
        for name in sinks:
            faults[f"kill -9 of sink {name}"] = lambda name=name: self._kill_server(self._scene.sinks[name])  # type: ignore[misc]
            faults[f"locks held at sink {name}"] = lambda name=name: self._hold_locks(name)  # type: ignore[misc]
            faults[f"a command takes the lease of sink {name}"] = lambda name=name: self._overtake(name)  # type: ignore[misc]
            faults[f"sessions ended by sink {name}"] = lambda name=name: self._end_sessions(name)  # type: ignore[misc]
        for name in ("source", *sinks):
            proxy = self._scene.proxies[name]
            faults[f"connections cut at {name}"] = proxy.cut
            faults[f"connections cut in a message at {name}"] = lambda proxy=proxy: self._cut_after(proxy)  # type: ignore[misc]
            faults[f"connections half open at {name}"] = proxy.half_open
            faults[f"connections stalled at {name}"] = lambda proxy=proxy: self._stall(proxy)  # type: ignore[misc]
            faults[f"packets delayed at {name}"] = lambda proxy=proxy: self._delay(proxy)  # type: ignore[misc]
        for name in self._scene.disks:
            faults[f"disk full at sink {name}"] = lambda name=name: self._fill_disk(name)  # type: ignore[misc]
        if self._scene.staging is not None:
            faults["disk full at staging"] = lambda place=self._scene.staging: self._fill_staging(place)  # type: ignore[misc]
        return faults

    def row(self, number: int, only: tuple[str, ...] = ()) -> Iterator[tuple[str, float, float]]:
        """The faults of a round, for as long as it lasts: each with what its own chances are drawn from, and a pause.

        Nothing but the seed and the number decides them: what a fault meets, and how many there is time for, moves none
        of those that follow.
        """
        rng = random.Random(f"{self._seed}-{number}")
        names = [name for name in self.all() if not only or name.startswith(only)]
        assert names, f"this run has no fault that begins with any of {only}"
        weights = [next((_RARE[rare] for rare in _RARE if name.startswith(rare)), 1.0) for name in names]
        while True:
            yield rng.choices(names, weights)[0], rng.random(), rng.uniform(0, 1.5)

    def do(self, name: str, chance: float) -> None:
        """One of `all`, to its end; `chance` seeds how long it lasts and whatever else is random about it."""
        at = time.monotonic() - self._began
        self._random = random.Random(chance)
        self.schedule.append(f"{at:8.2f} s  {name}")
        self.counts[name] += 1
        self.all()[name]()

    def mend(self) -> None:
        """All is up and flows."""
        for proxy in self._scene.proxies.values():
            proxy.delay_seconds = 0
            proxy.thaw()
        for server in (self._scene.source, *self._scene.sinks.values()):
            if not server.is_running:
                self._restart(server)
        for command in self._commands:  # one that found no service does the work, and holds the lease meanwhile
            command.join()
        self._commands.clear()
        self.watch_service()

    def said(self) -> Counter[str]:
        """What the logs of all instances have of what these faults are for."""
        return Counter({what: sum(said(log, event) for log in self._instances.logs) for event, what in _SAID.items()})

    def watch_sinks(self) -> None:
        """Start those that a full disk has ended later than it was looked for. Others that have ended are a finding."""
        for name, server in self._scene.sinks.items():
            if not server.is_running:
                assert name in self._filled, f"sink {name} has ended, and its disk was never full"
                self.counts[f"ends of sink {name} on a full disk"] += 1
                self._restart(server)

    def watch_service(self) -> None:
        """Start it where it does not run."""
        made = self._scene.made
        if made.process is None or made.process.poll() is not None:
            if made.process is not None:
                self.counts["ends of the service by itself"] += 1
                self.schedule.append(f"{time.monotonic() - self._began:8.2f} s  (the service had ended by itself)")
            made.process = None
            self._start()

    # ------------------------------------------------------------ the service

    def _kill_service(self) -> None:
        self._scene.made.kill()
        time.sleep(self._random.choice((0, 0, 0.5)))
        self._start()

    def _end_service(self) -> None:
        self.watch_service()
        self._scene.made.stop()
        self._start()

    def _stop_service(self) -> None:
        process = self._scene.made.process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGSTOP)
            time.sleep(self._random.uniform(0.2, 4))
            process.send_signal(signal.SIGCONT)

    def _load_again(self) -> None:
        """As an operator asks for it, beside whatever else goes wrong; the next fault does not wait for it."""
        table, made = self._any_table(), self._scene.made
        command = twin(made, made.directory / f"command-{len(self._commands)}")

        def ask() -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # what is asked for stays queued
                command.run("snapshot", table, timeout=_COMMAND_SECONDS_MAX)

        self._commands.append(threading.Thread(target=ask, name=f"snapshot {table}", daemon=True))
        self._commands[-1].start()

    def _overtake(self, name: str) -> None:
        """A command that is not cut off from the sink, as the service is, loads a table itself."""
        if not self._instances.overtake(self._random, self._scene.proxies[name], name, self._any_table()):
            self.counts[f"(commands that were to take the lease of sink {name}, and could not)"] += 1

    def _take_over(self, *, is_killed: bool) -> None:
        """It is the service from then on: what follows befalls it."""
        if not self._instances.take_over(self._random, is_killed=is_killed):
            self.counts["(second instances that found no service with all leases)"] += 1

    def _any_table(self) -> str:
        return f"{self._scene.made.source_database}.{self._random.choice([*self._scene.tables, *FAMILY_TABLES])}"

    # ------------------------------------------------------------ servers

    def _kill_server(self, server: Server) -> None:
        if self._random.random() < 0.3 and server.pid is not None and server.family != "postgresql":
            os.kill(server.pid, signal.SIGSTOP)  # it hangs for a while first
            time.sleep(self._random.uniform(0.2, 2))
        server.kill()
        time.sleep(self._random.choice((0, 0.5, 3)))
        self._restart(server)

    def _restart(self, server: Server) -> None:
        for attempt in range(5):
            try:
                server.restart()
            except ServerFailed:  # what a kill has left may hold its port or files a moment longer
                if attempt == 4:
                    raise
                time.sleep(1)
            else:
                return

    def _end_sessions(self, name: str) -> None:
        server = self._scene.sinks[name]
        database = self._scene.made.sinks[name][1]
        with contextlib.suppress(Exception):  # the server may be down
            if server.family == "postgresql":
                server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = %s AND pid <> pg_backend_pid()",
                    (database,),
                )
                return
            for row in server.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"):
                with contextlib.suppress(Exception):
                    server.execute(f"KILL {row[0]}")

    def _hold_locks(self, name: str) -> None:
        """Somebody updates rows of the targets, in some order, keeps them for a while, and thinks better of it."""
        server = self._scene.sinks[name]
        database, source = self._scene.made.sinks[name][1], self._scene.made.source_database
        with contextlib.suppress(Exception), contextlib.closing(server.connect(database)) as connection:
            connection.autocommit = False if server.family == "postgresql" else connection.autocommit
            with connection.cursor() as cursor:
                if server.family == "postgresql":
                    cursor.execute("SET lock_timeout = '2s'")
                else:
                    cursor.execute("SET SESSION innodb_lock_wait_timeout = 2, autocommit = 0")
                for _ in range(3):
                    table = self._random.choice(["accounts", "accounts", *self._scene.tables])
                    place = f'"{source}"."{table}"' if server.family == "postgresql" else f"`{table}`"
                    column = "id" if table != "accounts" else "balance"
                    where = f" WHERE id = {self._random.randint(0, 19)}" if table == "accounts" else ""
                    with contextlib.suppress(Exception):
                        cursor.execute(f"UPDATE {place} SET {column} = {column}{where}")
                    time.sleep(self._random.uniform(0, _LOCK_SECONDS_MAX / 3))
            connection.rollback()

    # ------------------------------------------------------------ the network

    def _stall(self, proxy: Proxy) -> None:
        proxy.freeze()
        time.sleep(self._random.uniform(0.1, 3))
        if self._random.random() < 0.5:
            proxy.cut()
        proxy.thaw()

    def _cut_after(self, proxy: Proxy) -> None:
        proxy.cut_after(self._random.choice((1, 100, 5_000, 100_000)))
        time.sleep(self._random.uniform(0.2, 1.5))
        proxy.cut_after(1 << 60)
        proxy.thaw()

    def _delay(self, proxy: Proxy) -> None:
        proxy.delay_seconds = self._random.choice((0.005, 0.05, 0.3))
        time.sleep(self._random.uniform(0.5, 3))
        proxy.delay_seconds = 0

    # ------------------------------------------------------------ disks

    def _fill_disk(self, name: str) -> None:
        self._filled.add(name)
        with _filled(self._scene.disks[name]):
            time.sleep(self._random.uniform(0.5, _FULL_SECONDS_MAX))
        server = self._scene.sinks[name]
        time.sleep(1)
        if not server.is_running:  # some servers end where their log cannot be written
            self.counts[f"ends of sink {name} on a full disk"] += 1
            self._restart(server)

    def _fill_staging(self, place: Path) -> None:
        """While loads are on: their chunks go through memory then."""
        with _filled(place):
            for _ in range(2):
                self._load_again()
            deadline = time.monotonic() + _LOADS_SECONDS_MAX
            while any(one.is_alive() for one in self._commands) and time.monotonic() < deadline:
                time.sleep(0.1)


@contextlib.contextmanager
def _filled(place: Path) -> Iterator[None]:
    path = place / "filled"
    try:
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        yield
    finally:
        path.unlink()


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of that size at `path`; None where this machine does not let us make one."""
    path.mkdir(parents=True)
    options = f"size={megabytes}m,mode=0755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, check=False)
    if done.returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)
