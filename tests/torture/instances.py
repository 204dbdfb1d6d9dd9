"""Who has the leases: an instance that waits and takes over, and a command that finds the service cut off from a sink.

Nothing else is done meanwhile, so that what has to follow can be asked for: whoever is the service afterwards runs, and
has the lease of each sink.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.deployment import Deployment, Process
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until
from tests.torture.watch import BrokenPromise

__all__ = ["Instances", "said", "twin"]

# A sink that has been left half open is hung up on after a minute.
_SERVED_SECONDS_MAX = 90.0
_FOLLOWS_SECONDS_MAX = 180.0
_COMMAND_SECONDS_MAX = 180.0
_ATTEMPTS = 3


class Instances:
    """Of one deployment: the one that is the service at the moment (`made`), and those that come after it."""

    def __init__(
        self,
        made: Deployment,
        urls: dict[str, str],
        *,
        watch_service: Callable[[], None],
        watch_sinks: Callable[[], None],
    ) -> None:
        """`urls`: of the sinks, past the proxies; the others start what has ended: a full disk may end a sink late."""
        self.logs = [made.log_path]
        self._made = made
        self._urls = urls
        self._watch_service = watch_service
        self._watch_sinks = watch_sinks

    # ------------------------------------------------------------ takeover

    def take_over(self, rng: random.Random, *, is_killed: bool) -> bool:
        """A second instance stands by, and follows one that is killed, or that sleeps for longer than its lease.

        Who wakes has lost its leases: it writes no more, says so, and ends with 1. The second is the service then.
        False where the service was not well enough to be followed.
        """
        made = self._made
        first = self._served()
        if first is None:
            return False
        second = self._second()
        begins_at = made.log_path.stat().st_size
        try:
            second.start()
            self._wait_for(second, "to wait for the service, or to follow it", self._waits_or_serves)
            waited = {name for name in made.sinks if said(second.log_path, "standby", sink=name)}
            if is_killed:
                made.kill()
            else:
                first.send_signal(signal.SIGSTOP)
            self._wait_for(second, "to follow the service", self._has_lease)
            for name in waited:
                self._wait_for(second, "to say so", functools.partial(_has_said, second, "lease_taken_over"), name)
            if not is_killed:
                time.sleep(rng.uniform(0, 4))
                first.send_signal(signal.SIGCONT)
                _require_lost(made, first, begins_at)
        except BaseException:
            second.kill()
            raise
        made.process, made.directory = second.process, second.directory
        made.config |= {name: second.config[name] for name in ("var_dir", "staging") if name in second.config}
        return True

    def _second(self) -> Deployment:
        made = self._made
        second = twin(made, self.logs[0].parent / f"instance-{len(self.logs) + 1}")
        second.config |= {"standby": True, "var_dir": str(second.directory / "var")}
        if "staging" in second.config:
            second.config["staging"]["dir"] += "+"
        second.is_forked = False
        self.logs.append(second.log_path)
        return second

    def _waits_or_serves(self, name: str, process: Process) -> bool:
        """Of a service whose connection is half open the lease names a session that is gone: it is taken at once."""
        return bool(said(self.logs[-1], "standby", sink=name)) or self._has_lease(name, process)

    def _wait_for(self, made: Deployment, what: str, is_so: Callable[[str, Process], bool], *names: str) -> None:
        """Until it is so of each sink (of `names`) that a new instance has, which must not end."""
        process = made.process
        assert process is not None
        self._wait_until(
            lambda: process.poll() is not None or all(is_so(name, process) for name in names or made.sinks),
            lambda: f"the second instance {what} at {', '.join(names or made.sinks)}:\n{made.log()[-2000:]}",
        )
        if process.poll() is not None:
            raise BrokenPromise(f"the second instance has ended with {process.poll()}:\n{made.log()[-2000:]}")

    def _wait_until(self, predicate: Callable[[], bool], what: Callable[[], str]) -> None:
        def is_so() -> bool:
            self._watch_sinks()
            return predicate()

        wait_until(is_so, _FOLLOWS_SECONDS_MAX, what)

    # ------------------------------------------------------------ a command

    def overtake(self, rng: random.Random, proxy: Proxy, name: str, table: str) -> bool:
        """Cut off from a sink, the service loses its lease to a command that is not, and goes on by itself behind it.

        It is let through again while the command is still at it, or after. False where no command took the lease.
        """
        made = self._made
        service = self._served()
        if service is None:
            return False
        seen = _said_of(made, name)
        proxy.freeze()
        proxy.cut()
        try:
            command = self._take_lease(name, table)
            if command is None:
                return False
            if rng.random() < 0.5:
                command.join()
            time.sleep(rng.uniform(0, 2))
        finally:
            proxy.thaw()
        command.join()
        self._wait_until(
            lambda: service.poll() is not None or (_said_of(made, name) > seen and self._has_lease(name, service)),
            lambda: f"the service to go on with {name}, whose lease a command took:\n{made.log()[-2000:]}",
        )
        if service.poll() is not None:
            raise BrokenPromise(f"the service has ended with {service.poll()}, for a command took the lease of {name}")
        return True

    def _take_lease(self, name: str, table: str) -> threading.Thread | None:
        """A command that has the lease of the sink, or has had it; None where all find the service still there."""
        near = twin(self._made, self._made.directory / "near")
        for sink in near.config["sinks"]:
            sink["url"] = self._urls[sink["name"]]

        def ask() -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                near.run("snapshot", table, "--sink", name, timeout=_COMMAND_SECONDS_MAX)

        for _ in range(_ATTEMPTS):
            time.sleep(0.5)  # the server needs a moment to see that nobody is there any more
            command = threading.Thread(target=ask, name=f"snapshot {table} past the proxy", daemon=True)
            command.start()
            while command.is_alive():
                if self._holder(name).startswith("cdc snapshot"):
                    return command
                time.sleep(0.1)
            if self._holder(name).startswith("cdc snapshot"):
                return command
        return None

    # ------------------------------------------------------------ leases

    def _served(self) -> Process | None:
        """The service, as soon as it has the lease of each sink; None where it takes too long."""
        deadline = time.monotonic() + _SERVED_SECONDS_MAX
        while time.monotonic() < deadline:
            self._watch_sinks()
            self._watch_service()
            process = self._made.process
            if process is not None and all(self._has_lease(name, process) for name in self._made.sinks):
                return process
            time.sleep(0.1)
        return None

    def _has_lease(self, name: str, process: Process) -> bool:
        return f":{process.pid}:" in self._holder(name, is_live=True)

    def _holder(self, name: str, *, is_live: bool = False) -> str:
        """Who has the lease of a sink's first lane, or did so last; `is_live`: only where it has not run out."""
        server, database = self._made.sinks[name]
        table = '"_cdc".lease' if server.family == "postgresql" else "_cdc_lease"
        try:
            rows = server.execute(
                f"SELECT holder, expires_us FROM {table} WHERE pipeline = %s",
                (f"{self._made.config['name']}/{name}",),
                database=database,
            )
        except Exception:  # noqa: BLE001 - the server is down, or nobody has been there yet
            return ""
        # One machine, one clock.
        return str(rows[0][0]) if rows and (not is_live or rows[0][1] > time.time_ns() // 1000) else ""


def twin(made: Deployment, directory: Path) -> Deployment:
    """The same deployment, for what runs at the same time: two must not write one configuration file."""
    directory.mkdir(exist_ok=True)
    other = Deployment(directory, made.source, made.source_database, made.sinks)
    other.config = copy.deepcopy(made.config)
    return other


def said(path: Path, event: str, *, sink: str = "", begins_at: int = 0) -> int:
    """How often a service has logged that."""
    count = 0
    with path.open("rb") as file:
        file.seek(begins_at)
        for line in file:
            if f'"event": "{event}"'.encode() in line and line.endswith(b"\n"):
                count += not sink or json.loads(line)["sink"] == sink
    return count


def _has_said(made: Deployment, event: str, name: str, _process: Process) -> bool:
    return bool(said(made.log_path, event, sink=name))


def _said_of(made: Deployment, name: str) -> int:
    return said(made.log_path, "lease_taken_by_command", sink=name)


def _require_lost(made: Deployment, sleeper: Process, begins_at: int) -> None:
    """Who has woken ends, and says why."""
    try:
        code = sleeper.wait(_FOLLOWS_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise BrokenPromise(f"who slept through a takeover goes on:\n{made.log()[-2000:]}") from None
    lines = made.log_path.read_bytes()[begins_at:].decode()
    if code != 1 or '"LeaseLost"' not in lines:
        raise BrokenPromise(f"who slept through a takeover ended with {code}:\n{lines[-2000:]}")
