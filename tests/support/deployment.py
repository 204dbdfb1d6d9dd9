"""A deployment under test: a configuration of its own, and the real service as a process of its own."""

from __future__ import annotations

import contextlib
import decimal
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import yaml

from cdc.demo.servers import Server
from tests.support.databases import fresh_database, fresh_pg_database, unique_name
from tests.support.forked import fork
from tests.support.waiting import wait_until

__all__ = ["Deployment", "Process", "deployment"]


class Process(Protocol):
    """A command that runs, as `subprocess.Popen` has it."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Deployment:
    """One source database replicated to the given sinks. `source_database` is the one that is captured.

    `is_forked` is False where a test is about the program from its very start; else what it runs is forked from a
    process that has imported it (tests/support/forked.py).
    """

    def __init__(
        self, directory: Path, source: Server, source_database: str, sinks: Mapping[str, tuple[Server, str]]
    ) -> None:
        self.directory = directory
        self.source = source
        self.source_database = source_database
        self.sinks = dict(sinks)
        self.is_forked = True
        self.process: Process | None = None
        self._crash_at = ""
        self.config: dict[str, Any] = {
            "name": unique_name("d").replace("_", "-").lower(),
            "source": {"url": source.url, "server_id": 10_000 + int.from_bytes(os.urandom(3), "big")},
            "sinks": [
                {"name": name, "url": _with_database(server, database)} for name, (server, database) in sinks.items()
            ],
            "tables": {"include": [f"{source_database}.*"]},
            "retry": {"initial_seconds": 0.1, "max_seconds": 1},
            "http": {"enabled": False},
            "var_dir": str(directory / "var"),
        }

    # -- running it

    def write_config(self) -> Path:
        path = self.directory / "config.yaml"
        # Moved into its place whole: a service that is only just starting may be reading it.
        unfinished = path.with_suffix(".new")
        unfinished.write_text(yaml.safe_dump(self.config))
        unfinished.replace(path)
        return path

    def command(self, *arguments: str) -> list[str]:
        """The command line, with the configuration written to its file."""
        return [sys.executable, "-m", "cdc", *arguments, "-c", str(self.write_config())]

    def _environment(self, crash_at: str) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("CDC_CRASH_AT", None)
        if crash_at:
            environment["CDC_CRASH_AT"] = crash_at
        return environment

    def run(self, *arguments: str, timeout: float = 180, crash_at: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of `cdc` to its end."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self._launch(arguments, crash_at, stdout, stderr)
            try:
                process.wait(timeout)
            except BaseException:
                process.kill()
                process.wait()
                sys.stderr.write(_text(stderr))  # pytest shows it with the failure
                raise
            assert process.returncode is not None
            return subprocess.CompletedProcess(list(arguments), process.returncode, _text(stdout), _text(stderr))

    def catch_up(self, timeout: float = 180) -> None:
        """`cdc run --until-caught-up`, which must succeed."""
        result = self.run("run", "--until-caught-up", timeout=timeout)
        assert result.returncode == 0, f"exit code {result.returncode}\n{result.stderr}"

    def start(self, *, crash_at: str = "") -> Process:
        """Start `cdc run`; `stop` or `kill` ends it."""
        assert self.process is None or self.process.poll() is not None
        self._crash_at = crash_at
        with self.log_path.open("ab") as log:
            self.process = self._launch(("run",), crash_at, log, log)
        return self.process

    def _launch(self, arguments: tuple[str, ...], crash_at: str, stdout: IO[bytes], stderr: IO[bytes]) -> Process:
        command = self.command(*arguments)
        environment = self._environment(crash_at)
        if self.is_forked and command[:3] == [sys.executable, "-m", "cdc"]:
            return fork(command[3:], cwd=self.directory, env=environment, stdout=stdout, stderr=stderr)
        return subprocess.Popen(
            command, cwd=self.directory, env=environment, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL
        )

    @property
    def log_path(self) -> Path:
        return self.directory / "service.log"

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM, as an operator would; the exit code. (That ten seconds are enough is test_service.py's to show.)"""
        process = self.process
        assert process is not None
        # Before it has installed its handler, the signal would end it as it ends any program.
        wait_until(lambda: process.poll() is not None or _catches(process.pid, signal.SIGTERM))
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        code = process.wait(timeout)
        self.process = None
        return code

    def wait_until_killed(self, timeout: float = 120) -> None:
        """Until the service has killed itself at the point that `start` was given."""
        assert self.process is not None
        code = self.process.wait(timeout)
        assert code == -signal.SIGKILL, f"exit code {code} instead of a kill at {self._crash_at}\n{self.log()[-3000:]}"
        self.process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            self.process = None

    def status(self) -> dict[str, Any]:
        result = self.run("status", "--json")
        assert result.stdout, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def wait_for_log(self, event: str, *, count: int = 1, timeout: float = 120) -> None:
        """Until the service has logged `event` `count` times."""
        wait_until(lambda: self.log().count(f'"event": "{event}"') >= count, timeout, f"{event} x {count} in the log")

    # -- what is there

    def source_columns(self, table: str) -> list[str]:
        """Their names, in order; those that are invisible, too."""
        rows = self.source.execute(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = "
            f"'{self.source_database}' AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
        )
        return [str(name) for (name,) in rows]

    def source_rows(self, table: str, columns: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        return _mysql_rows(self.source, self.source_database, table, columns)

    def sink_rows(self, sink: str, table: str, columns: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        """Of those columns; all that the sink has, in its order, where none are given."""
        server, database = self.sinks[sink]
        if server.family == "postgresql":
            with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
                cursor.execute("SET timezone = 'UTC'")
                cursor.execute(f'SELECT {_listed(columns, chr(34))} FROM "{self.source_database}"."{table}"')
                return sorted((tuple(map(_plain, row)) for row in cursor.fetchall()), key=repr)
        return _mysql_rows(server, database or self.source_database, table, columns)

    def assert_equal(self, *tables: str) -> None:
        """Every table has the same rows on source and sinks, by the servers' own answers."""
        for table in tables:
            columns = self.source_columns(table)  # a sink may have them in another order, and others besides
            expected = self.source_rows(table, columns)
            for sink in self.sinks:
                actual = self.sink_rows(sink, table, columns)
                if actual == expected:
                    continue
                missing = sorted(set(expected) - set(actual), key=repr)[:5]
                extra = sorted(set(actual) - set(expected), key=repr)[:5]
                raise AssertionError(
                    f"{table} on {sink}: {len(expected)} rows at the source, {len(actual)} at the sink; "
                    f"missing {missing}, extra {extra}"
                )


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _catches(pid: int, number: int) -> bool:
    """Has the process installed a handler for the signal? False once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(mask >> (number - 1) & 1)


def _with_database(server: Server, database: str) -> str:
    return server.url_for(database)


def _listed(columns: Sequence[str], quote: str) -> str:
    return ", ".join(f"{quote}{name.replace(quote, quote * 2)}{quote}" for name in columns) or "*"


def _mysql_rows(server: Server, database: str, table: str, columns: Sequence[str] = ()) -> list[tuple[Any, ...]]:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(f"SELECT {_listed(columns, '`')} FROM `{table}`")
        return sorted((tuple(map(_plain, row)) for row in cursor.fetchall()), key=repr)


def _plain(value: Any) -> Any:
    """A driver's value as what both drivers agree on."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, decimal.Decimal) and value.as_tuple().exponent == 0:
        return int(value)  # BIGINT UNSIGNED is numeric(20) on PostgreSQL
    if hasattr(value, "tzinfo") and value.tzinfo is not None:
        return value.replace(tzinfo=None)
    return value


@contextlib.contextmanager
def deployment(directory: Path, source: Server, **sinks: Server) -> Iterator[Deployment]:
    """A deployment over databases of its own; ends its service and drops them afterwards."""
    with contextlib.ExitStack() as stack:
        source_database = stack.enter_context(fresh_database(source))
        places = {}
        for name, server in sinks.items():
            fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
            places[name] = (server, stack.enter_context(fresh(server)))
        made = Deployment(directory, source, source_database, places)
        stack.callback(made.kill)
        yield made
