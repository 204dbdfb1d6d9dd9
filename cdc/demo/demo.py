"""`cdc demo`: the whole thing on private servers, with a live writer and a `kill -9` in the middle, and the proof.

Everything runs as it would at an operator's: the service and `cdc check` and `cdc verify` are processes of their own
with a config.yaml and accounts of few rights, and what is told of them comes from their output and `/api/status`.
Nothing is left behind, however it ends. See cdc/demo/shop.py for the tables and the writer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cdc
from cdc.demo.servers import PORTS, Server, ServerFailed, ServerUnavailable, catalogue
from cdc.demo.shop import ACCOUNT_SUM, DATABASE, LATE_TABLE, ShopWriter, create_late_table, create_shop
from cdc.model import FilePos

__all__ = ["run_demo"]

_SOURCES = ("mariadb118", "mariadb1011", "mysql97")
_MYSQL_SINKS = ("mariadb1011", "mysql97", "mariadb118")
_POSTGRES_SINKS = ("pg17", "pg15")
_SINK_DATABASE = "shop_copy"

_TICK_SECONDS = 0.25
_LINES = 10  # of progress, about, over the writer's time
_DOWN_SECONDS = 2.0  # between the kill and the restart: the writer goes on meanwhile
_READY_SECONDS_MAX = 60.0
_CATCH_UP_SECONDS_MAX = 120.0
_STOP_SECONDS_MAX = 15.0
_LOG_LINES_SHOWN = 15


class DemoFailed(Exception):
    """What went wrong, in a line, and the end of the log that explains it."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def run_demo(*, seconds: float, keep: bool) -> int:
    """Run it; the exit code: 0 when source and sinks are equal at the end.

    Args:
        seconds: how long the writer runs; the whole takes a little more.
        keep: leave everything running at the end, until Ctrl-C.
    """
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            demo = _Demo(stack, seconds)
            try:
                return demo.run(keep=keep)
            except KeyboardInterrupt:
                _say("\nstopping; servers and data are removed")
                return 0 if demo.is_kept else 130
            except ServerUnavailable as error:
                _complain(f"cdc demo: {error}")
                _complain(
                    "  hint: `make setup` fetches the servers; `python -m cdc.demo.servers list` says what is here"
                )
                return 1
            except (DemoFailed, ServerFailed) as error:
                _complain(f"cdc demo: {error}")
                if isinstance(error, DemoFailed) and error.log:
                    _complain(f"the end of the service's log:\n{error.log}")
                return 1
            finally:
                for number in previous:  # what follows ends everything, and is not to be interrupted
                    signal.signal(number, signal.SIG_IGN)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(line: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


# ---------------------------------------------------------------- servers


@dataclass(frozen=True, slots=True)
class _Servers:
    """What the shop runs on. `sinks` by their names in the configuration."""

    source: Server
    sinks: Mapping[str, Server]


def _start_servers(stack: contextlib.ExitStack) -> _Servers:
    """One source and two sinks, started side by side. Raises ServerUnavailable when one of them cannot be had."""
    source = _first_available(_SOURCES)
    replica = _first_available([name for name in _MYSQL_SINKS if name != source] + [source])
    kinds = {"source": source, "warehouse": _first_available(_POSTGRES_SINKS), "replica": replica}
    started: dict[str, Future[Server]] = {}
    try:
        with ThreadPoolExecutor(len(kinds)) as pool:
            for role, kind in kinds.items():
                started[role] = pool.submit(Server.start, kind)
    finally:
        for one in started.values():
            if one.done() and one.exception() is None:
                stack.callback(one.result().close)
    servers = {role: one.result() for role, one in started.items()}
    return _Servers(servers.pop("source"), servers)


def _first_available(names: Sequence[str]) -> str:
    reasons = []
    for name in names:
        try:
            catalogue()[name].home()
        except ServerUnavailable as error:
            reasons.append(str(error))
        else:
            return name
    raise ServerUnavailable("; ".join(reasons))


def _make_accounts(servers: _Servers) -> list[dict[str, str]]:
    """Accounts with no more rights than the service needs, and databases of theirs; the sinks' configuration."""
    servers.source.execute("CREATE USER cdc@'%' IDENTIFIED BY 'demo'")
    # On MariaDB REPLICATION CLIENT is another name of BINLOG MONITOR.
    servers.source.execute("GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO cdc@'%'")
    warehouse, replica = servers.sinks["warehouse"], servers.sinks["replica"]
    warehouse.execute("CREATE ROLE cdc LOGIN PASSWORD 'demo'")
    warehouse.execute(f"CREATE DATABASE {_SINK_DATABASE} OWNER cdc")
    replica.execute(f"CREATE DATABASE {_SINK_DATABASE} CHARACTER SET utf8mb4")
    replica.execute("CREATE USER cdc@'%' IDENTIFIED BY 'demo'")
    replica.execute(f"GRANT ALL ON {_SINK_DATABASE}.* TO cdc@'%'")
    return [
        {"name": "warehouse", "url": f"postgresql://cdc:demo@127.0.0.1:{warehouse.port}/{_SINK_DATABASE}"},
        {"name": "replica", "url": f"mysql://cdc:demo@127.0.0.1:{replica.port}/{_SINK_DATABASE}"},
    ]


def _free_port() -> int:
    while True:
        port = random.SystemRandom().choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


# ---------------------------------------------------------------- the service


class _Service:
    """`cdc run` as a process of its own, which ends with ours; and the other commands on the same configuration."""

    def __init__(self, directory: Path, servers: _Servers, sinks: list[dict[str, str]]) -> None:
        self.port = _free_port()
        self.config_path = directory / "config.yaml"
        self.log_path = directory / "service.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        config = {
            "name": "demo",
            "source": {"url": f"mysql://cdc:demo@127.0.0.1:{servers.source.port}", "server_id": 4242},
            "sinks": sinks,
            "tables": {"include": [f"{DATABASE}.*"]},
            "http": {"host": "127.0.0.1", "port": self.port},
        }
        self.config_path.write_text(json.dumps(config, indent=2) + "\n")  # JSON is YAML
        self.config_path.chmod(0o600)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> int:
        """Its process id."""
        libc = ctypes.CDLL(None)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command("run"),
                cwd=self._directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end it in order
                preexec_fn=lambda: libc.prctl(1, signal.SIGKILL, 0, 0, 0),  # PR_SET_PDEATHSIG
            )
        return self.process.pid

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command to its end."""
        return subprocess.run(
            self._command(*arguments),
            cwd=self._directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cdc", *arguments, "-c", str(self.config_path)]

    @staticmethod
    def _environment() -> dict[str, str]:
        # The demonstration is about its own configuration, whatever else this shell is set up for.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CDC_")}
        return inherited | {"PYTHONPATH": str(Path(cdc.__file__).parents[1])}

    def status(self) -> dict[str, Any] | None:
        """`/api/status`; None while it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/status", timeout=2) as answer:  # noqa: S310 - our own page
                document: dict[str, Any] = json.load(answer)
        except (OSError, urllib.error.URLError, ValueError):
            return None
        return document

    def require_alive(self) -> None:
        """Raises DemoFailed when it has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            raise DemoFailed(f"the service ended with exit code {self.process.returncode}", log=self.log_tail())

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """SIGTERM, as an operator would; its exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            code = self.process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"the service ignores SIGTERM for {_STOP_SECONDS_MAX:g} s", log=self.log_tail()) from error
        self.process = None
        return code

    def log_tail(self) -> str:
        """Its last lines."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])
        return ""


# ---------------------------------------------------------------- looking at the sinks


@dataclass(slots=True)
class _SumWatch:
    """Looks at the sum of all balances on each sink: another one than the source's is half a transaction."""

    servers: _Servers
    looks: int = 0
    wrong: list[str] = field(default_factory=list)
    _ready: set[str] = field(default_factory=set)

    def look(self, status: Mapping[str, Any] | None) -> None:
        """One look at each sink whose table was ever ready (with the service dead, too)."""
        if status is not None:
            self._ready |= {
                table["sink"]
                for table in status["tables"]
                if table["table"] == f"{DATABASE}.accounts" and table["state"] == "ready"
            }
        for name in sorted(self._ready):
            server = self.servers.sinks[name]
            table = f"{DATABASE}.accounts" if server.family == "postgresql" else "accounts"
            found = server.execute(f"SELECT SUM(balance) FROM {table}", database=_SINK_DATABASE)[0][0]
            self.looks += 1
            if found != ACCOUNT_SUM:
                self.wrong.append(f"{name}: {found}")


def _written(source: Server) -> FilePos:
    """Where the source's log ends."""
    statement = "SHOW BINARY LOG STATUS" if source.family == "mysql" else "SHOW MASTER STATUS"
    file, position, *_ = source.execute(statement)[0]
    return FilePos.of(str(file), int(position))


def _has_passed(status: Mapping[str, Any] | None, place: FilePos) -> bool:
    """Has every sink committed all up to there, with no table on its way?"""
    if status is None or not status["tables"]:
        return False
    for sink in status["sinks"]:
        position = sink["position"]
        if not position["file"] or FilePos.of(position["file"], position["pos"]) < place:
            return False
    return not any(table["state"] in ("pending", "snapshotting") for table in status["tables"])


def _sink_text(sink: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]) -> str:
    """`streaming, 0.4 s behind`, or how far the load is."""
    if sink["error"]:
        return f"{sink['state']}: {sink['error']['class']}"
    loading = [table for table in tables if table["sink"] == sink["name"] and table["state"] == "snapshotting"]
    if sink["state"] == "snapshotting" and loading:
        return f"loading {loading[0]['table']}"
    lag = sink["lag_seconds"]
    behind = "" if lag is None or sink["state"] == "caught_up" else f", {lag:.1f} s behind"
    return f"{sink['state'].replace('_', ' ')}{behind}"


# ---------------------------------------------------------------- the story


class _Demo:
    """One run, from starting the servers to the proof. What has to be ended is on `stack`."""

    def __init__(self, stack: contextlib.ExitStack, seconds: float) -> None:
        self._stack = stack
        self._seconds = seconds
        self.is_kept = False
        self._servers: _Servers
        self._service: _Service
        self._writer: ShopWriter
        self._sums: _SumWatch
        self._has_late_table = False
        self._began = 0.0
        self._next_line = 0.0

    def run(self, *, keep: bool) -> int:
        self._prepare()
        self._begin()
        self._go_on(0.3 * self._seconds)
        create_late_table(self._servers.source)
        self._writer.has_late_table = True
        self._event(f"CREATE TABLE {DATABASE}.{LATE_TABLE}, while the service runs; the writer uses it at once")
        self._go_on(0.5 * self._seconds)
        self._kill_and_restart()
        self._go_on(self._seconds)
        if keep:
            self._keep_running()
        return self._prove()

    # -- before

    def _prepare(self) -> None:
        self._servers = _start_servers(self._stack)
        source, sinks = self._servers.source, self._servers.sinks
        # The server's own directory goes with it, even when this process is killed.
        assert source.directory is not None
        directory = source.directory / "demo"
        directory.mkdir()
        self._sums = _SumWatch(self._servers)
        _say("A shop's database, replicated live to two others; the service is killed with kill -9 in the middle.")
        _say()
        for role, server in (("source", source), *sinks.items()):
            name = f"{server.kind.label.split()[0]} {server.version.split('-')[0].split(' ')[0]}"
            _say(f"  {role:10} {name:18} 127.0.0.1:{server.port:<6} started in {server.start_seconds:.1f} s")
        tables, rows = create_shop(source)
        _say(f"  {'seeded':10} {tables} tables, {rows:,} rows, in database {DATABASE} of the source")
        self._service = _Service(directory, self._servers, _make_accounts(self._servers))
        self._stack.callback(self._service.kill)
        self._check()

    def _check(self) -> None:
        checked = self._service.command("check")
        said = checked.stdout.strip().splitlines()
        last = said[-1] if said else checked.stderr.strip()
        if checked.returncode != 0 or (said and not last.startswith("ready")):
            raise DemoFailed(f"`cdc check` is not content:\n{checked.stdout}{checked.stderr}")
        _say(f"  {'cdc check':10} {last}")

    def _begin(self) -> None:
        pid = self._service.start()
        _say(f"  {'cdc run':10} process {pid}, page at {self._service.url}/dashboard")
        _say()
        self._writer = ShopWriter(self._servers.source)
        self._stack.callback(self._writer.stop)
        self._writer.start()
        self._began = time.monotonic()
        width = max(len(name) for name in self._servers.sinks) + 22
        _say(
            f"{'':4}time  transactions     rows  " + "".join(f"{name:{width}}" for name in self._servers.sinks).rstrip()
        )

    # -- while it runs

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _go_on(self, until: float) -> None:
        """Let the writer and the service run until `until` seconds after the start, and tell how it goes."""
        while self._elapsed < until:
            self._look()
            time.sleep(min(_TICK_SECONDS, max(0.0, until - self._elapsed)))

    def _look(self) -> dict[str, Any] | None:
        """Is all well? Prints a line when one is due. Raises DemoFailed."""
        if self._writer.error is not None:
            raise DemoFailed(f"the writer failed: {self._writer.error}")
        self._service.require_alive()
        status = self._service.status()
        self._require_no_trouble(status)
        self._sums.look(status)
        if self._sums.wrong:
            raise DemoFailed(f"a sink showed half a transaction: sum of balances {self._sums.wrong[0]}")
        self._tell_of_late_table(status)
        if self._elapsed >= self._next_line:
            self._next_line = self._elapsed + max(1.0, self._seconds / _LINES)
            self._line(status)
        return status

    def _require_no_trouble(self, status: Mapping[str, Any] | None) -> None:
        for one in (*status["sinks"], *status["tables"]) if status else ():
            if one["state"] in ("failed", "parked") and one["error"]:
                name = one.get("name") or f"{one['sink']}: {one['table']}"
                message = f"{name} is {one['state']}: {one['error']['message']}"
                raise DemoFailed(message, log=self._service.log_tail())

    def _tell_of_late_table(self, status: Mapping[str, Any] | None) -> None:
        tables = status["tables"] if status else ()
        states = [table["state"] for table in tables if table["table"] == f"{DATABASE}.{LATE_TABLE}"]
        if not self._has_late_table and states == ["ready"] * len(self._servers.sinks):
            self._has_late_table = True
            self._event(f"{DATABASE}.{LATE_TABLE} is loaded and followed on both sinks")

    def _line(self, status: Mapping[str, Any] | None) -> None:
        width = max(len(name) for name in self._servers.sinks) + 22
        texts = [_sink_text(sink, status["tables"]) for sink in status["sinks"]] if status else ["starting"] * 2
        counts = f"{self._writer.transactions:12,} {self._writer.rows:8,}"
        _say(f"  {self._elapsed:4.0f} s  {counts}  " + "".join(f"{text:{width}}" for text in texts).rstrip())

    def _event(self, text: str) -> None:
        _say(f"  {self._elapsed:4.0f} s  * {text}")

    def _kill_and_restart(self) -> None:
        process = self._service.process
        assert process is not None
        self._service.require_alive()
        self._service.kill()
        self._event(f"kill -9 {process.pid}: the service is gone; the writer goes on")
        down_until = self._elapsed + min(_DOWN_SECONDS, 0.1 * self._seconds)
        while self._elapsed < down_until:
            self._sums.look(None)
            time.sleep(_TICK_SECONDS)
        place = _written(self._servers.source)
        pid = self._service.start()
        started = self._elapsed
        self._event(f"started again as process {pid}; it goes on from the sinks' own checkpoints")
        self._wait_until_passed(place, "come back")
        self._event(f"both sinks have what was written meanwhile, {self._elapsed - started:.1f} s after the start")

    def _wait_until_passed(self, place: FilePos, what: str) -> None:
        deadline = time.monotonic() + _CATCH_UP_SECONDS_MAX
        while not _has_passed(self._look(), place):
            if time.monotonic() > deadline:
                message = f"the sinks did not {what} within {_CATCH_UP_SECONDS_MAX:g} s"
                raise DemoFailed(message, log=self._service.log_tail())
            time.sleep(_TICK_SECONDS)

    def _keep_running(self) -> None:
        self.is_kept = True
        source, sinks = self._servers.source, self._servers.sinks
        _say()
        _say("All of it keeps running. Ctrl-C stops it and removes everything.")
        _say()
        _say(f"  {'page':10} {self._service.url}/dashboard")
        _say(f"  {'source':10} {source.url_for(DATABASE)}")
        for name, server in sinks.items():
            _say(f"  {name:10} {server.url_for(_SINK_DATABASE)}")
        _say(f"  {'status':10} {Path(sys.executable)} -m cdc status -c {self._service.config_path}")
        _say(f"  {'log':10} {self._service.log_path}")
        while True:
            if self._writer.error is not None:
                raise DemoFailed(f"the writer failed: {self._writer.error}")
            self._service.require_alive()
            time.sleep(1)

    # -- after

    def _prove(self) -> int:
        self._writer.stop()
        place = _written(self._servers.source)
        self._event("the writer has stopped")
        before = self._elapsed
        self._wait_until_passed(place, "catch up")
        self._event(f"both sinks have everything, {self._elapsed - before:.1f} s later")
        code = self._service.stop()
        self._event(f"SIGTERM: the service ended with exit code {code}")
        if code != 0:
            raise DemoFailed(f"the service ended with exit code {code} on SIGTERM", log=self._service.log_tail())
        _say()
        _say(
            f"{self._writer.transactions:,} transactions, {self._writer.rows:,} changed rows, one kill -9. "
            f"{self._sums.looks:,} looks at the sinks"
        )
        _say(f"all along found the accounts' sum at {ACCOUNT_SUM:,}: no half transaction was ever seen.")
        _say()
        _say("cdc verify, every row of source and sinks (a checksum is of the values as that sink holds them):")
        _say()
        verified = self._service.command("verify")
        if verified.stderr:
            _complain(verified.stderr.rstrip())
        sys.stdout.write(verified.stdout)
        sys.stdout.flush()
        last = verified.stdout.strip().rpartition("\n")[2]
        return 0 if verified.returncode == 0 and last.startswith("all ") else 1
