"""pg_chameleon as a peer: its replay of a log into PostgreSQL, and its first load, in a Python environment of its own.

It is not among the project's requirements, so it has to be installed once (`INSTALL`; it refuses to run as root, so
with a Python that others may run); where it is not, its arm is skipped. It is made to begin where the log begins: it
loads the source's table, which is as at the log's end, then its target is emptied and its positions set back. From its
start to the log's last row on the target is what is timed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.decode import ArmUnavailable
from benchmarks.deployment import LogSource, Place
from benchmarks.logs import PLACE
from cdc.demo.servers import Server

__all__ = ["INSTALL", "Chameleon", "Program", "require_chameleon"]

_ENVIRONMENT = PLACE / "chameleon"
INSTALL = f"python3 -m venv {_ENVIRONMENT} && {_ENVIRONMENT}/bin/pip install pg_chameleon==2.0.21"

_SOURCE = "mysql"
_SECONDS_MAX = 1800.0
_POLL_SECONDS = 0.5
_STOP_SECONDS_MAX = 30.0
_SAID_CHARS = 300


def require_chameleon() -> None:
    """Raises ArmUnavailable where it is not installed."""
    if not (_ENVIRONMENT / "bin/chameleon").exists():
        raise ArmUnavailable(f"chameleon: skipped, not installed: {INSTALL}")


@dataclass(frozen=True, slots=True)
class Program:
    """pg_chameleon with its configuration and its files in `directory`."""

    directory: Path

    @property
    def user(self) -> str | None:
        """It refuses to run as root."""
        return "nobody" if os.geteuid() == 0 else None

    def prepare(self, source: Server, source_database: str, sink: Server, database: str, namespace: str) -> None:
        """Its schema on the sink, and nothing else of it or of the target's."""
        shutil.rmtree(self.directory, ignore_errors=True)
        for folder in ("configuration", "logs", "pid"):
            (self.directory / ".pg_chameleon" / folder).mkdir(parents=True)
        self._write_configuration(source, source_database, sink, database, namespace)
        if self.user is not None:
            self.directory.parent.chmod(0o711)
            for made in (self.directory, *self.directory.rglob("*")):
                shutil.chown(made, self.user)
        for schema in (namespace, "sch_chameleon"):
            sink.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE', database=database)
        self.run("create_replica_schema")
        self.run("add_source", "--source", _SOURCE)

    def load(self) -> None:
        """Its first load of everything. Raises ArmUnavailable."""
        self.run("init_replica", "--source", _SOURCE, "--debug")

    def _write_configuration(
        self, source: Server, source_database: str, sink: Server, database: str, namespace: str
    ) -> None:
        content = {
            "pid_dir": f"{self.directory}/.pg_chameleon/pid/",
            "log_dir": f"{self.directory}/.pg_chameleon/logs/",
            "log_dest": "file",
            "log_level": "info",
            "log_days_keep": 10,
            "rollbar_key": "",
            "rollbar_env": "",
            "type_override": {},
            "pg_conn": {
                "host": sink.host,
                "port": str(sink.port),
                "user": sink.user,
                "password": "none",
                "database": database,
                "charset": "utf8",
            },
            "sources": {
                _SOURCE: {
                    "db_conn": {
                        "host": source.host,
                        "port": str(source.port),
                        "user": source.user,
                        "password": "",
                        "charset": "utf8",
                        "connect_timeout": 10,
                    },
                    "schema_mappings": {source_database: namespace},
                    "limit_tables": [],
                    "skip_tables": [],
                    "grant_select_to": [],
                    "lock_timeout": "120s",
                    "my_server_id": 52_000_001,
                    "replica_batch_size": 10_000,
                    "replay_max_rows": 10_000,
                    "batch_retention": "1 day",
                    "copy_max_memory": "300M",
                    "copy_mode": "file",
                    "out_dir": str(self.directory),
                    "sleep_loop": 1,
                    "on_error_replay": "exit",
                    "on_error_read": "exit",
                    "auto_maintenance": "disabled",
                    "gtid_enable": False,
                    "type": "mysql",
                    "keep_existing_schema": False,
                }
            },
        }
        path = self.directory / ".pg_chameleon/configuration/default.yml"
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML

    def command(self, *arguments: str) -> list[str]:
        """Its command line."""
        return [str(_ENVIRONMENT / "bin/chameleon"), *arguments, "--config", "default"]

    def environment(self) -> dict[str, str]:
        """Its files are below HOME."""
        return os.environ | {"HOME": str(self.directory)}

    def run(self, *arguments: str) -> None:
        """Run a command of it to its end. Raises ArmUnavailable."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            cwd=self.directory,
            user=self.user,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS_MAX,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-_SAID_CHARS:]
            raise ArmUnavailable(f"chameleon {arguments[0]} failed: {said}")


@dataclass(frozen=True, slots=True)
class Chameleon:
    """One replica of one log."""

    directory: Path
    source: LogSource

    @classmethod
    def find(cls, directory: Path, source: LogSource) -> Chameleon:
        """Raises ArmUnavailable where it is not installed."""
        require_chameleon()
        return cls(directory / "chameleon", source)

    @property
    def _program(self) -> Program:
        return Program(self.directory)

    def prepare(self, place: Place, insert_before: Callable[[Place], None]) -> None:
        """Its schema, its table as before the log, its position at the log's beginning."""
        server, namespace = place.server, place.target.namespace
        self._program.prepare(self.source.server, self.source.log.database, server, place.database, namespace)
        self._program.load()
        server.execute(f'TRUNCATE "{namespace}"."{place.target.name}"', database=place.database)
        insert_before(place)
        for statement in (
            "UPDATE sch_chameleon.t_replica_batch SET t_binlog_name = %s, i_binlog_position = 4",
            # Up to a table's own position its rows are passed over.
            "UPDATE sch_chameleon.t_replica_tables SET t_binlog_name = %s, i_binlog_position = 4",
            "UPDATE sch_chameleon.t_sources SET b_consistent = true WHERE %s <> ''",
        ):
            server.execute(statement, (self.source.log.files[0],), database=place.database)

    def replay(self, place: Place) -> None:
        """Start it, wait until the sink has what the log leaves, stop it. Raises ArmUnavailable when it does not."""
        with (self.directory / "replay.log").open("wb") as log:
            process = subprocess.Popen(
                self._program.command("start_replica", "--source", _SOURCE, "--debug"),
                env=self._program.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                user=self._program.user,
                start_new_session=True,  # it has children, which are to end with it
            )
        try:
            self._wait(place, process)
        finally:
            self._stop(process)

    def _wait(self, place: Place, process: subprocess.Popen[bytes]) -> None:
        table, after = self.source.table, self.source.after
        count = f'SELECT count(*) FROM "{place.target.namespace}"."{place.target.name}"'
        deadline = time.monotonic() + _SECONDS_MAX
        while time.monotonic() < deadline and process.poll() is None:
            rows = place.server.execute(count, database=place.database)[0][0]
            if rows == after.rows and place.fingerprint(table) == after:
                return
            time.sleep(_POLL_SECONDS)
        said = (self.directory / "replay.log").read_text(errors="replace")[-_SAID_CHARS:]
        raise ArmUnavailable(f"chameleon: it does not arrive at the log's rows: {place.fingerprint(table)}; {said}")

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its own children only: the session is theirs
        except ProcessLookupError:
            return
