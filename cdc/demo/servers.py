"""Private, throw-away instances of real database servers, for the tests and the demo.

Knows how to find a server's files (tools/bootstrap puts them there), make a data directory, start it unprivileged on a
loopback port of its own, stop or kill it, and leave nothing behind, not even after `kill -9` of the process that
asked for it. Knows nothing of change data capture. Standard library only; drivers are imported by `connect`.

By hand: `python -m cdc.demo.servers start mysql97 pg15` runs until Ctrl-C, `... list` says what there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pwd
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from types import TracebackType

Options = Mapping[str, str | int | None]

SERVER_USER = "cdc-servers"  # mysqld and postgres refuse to run as root
START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 60.0
# Below the range that the kernel hands to outgoing connections, so that a port is still free when a server comes
# back to it after a restart.
PORTS = range(15000, 32000)
TEMPLATE_VERSION = 1  # raise it when _initialise makes something else


class ServerUnavailable(Exception):
    """This machine does not have that server; the message is one line that says why. A test may be skipped for it."""


class ServerFailed(Exception):
    """The server is here but did not start or stop; the message ends with its log. Never a reason to skip."""


class NotPrivate(Exception):
    """The server belongs to the user (given by URL): it is not ours to stop, kill or reconfigure."""


# ---------------------------------------------------------------- what there is


@dataclass(frozen=True, slots=True)
class ServerKind:
    """One server version that the project is tried on.

    Attributes:
        family: "mysql", "mariadb" or "postgresql".
        release: the Debian release whose packages tools/bootstrap unpacks into a directory of that name.
        server: the server program, relative to that directory.
        system: the same where the system has it installed; `system_version` must match what `--version` prints.
    """

    name: str
    label: str
    family: str
    release: str
    server: str
    system: str
    system_version: str
    share: str = ""

    def home(self) -> Path | None:
        """The directory it is unpacked in; None when it is the system's own.

        Raises:
            ServerUnavailable: it is neither on the system nor unpacked.
        """
        for place in server_places():
            if (place / self.release / self.server).exists():
                return place / self.release
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if os.access(self.system, os.X_OK):
                said = subprocess.run(
                    [self.system, "--version"], capture_output=True, text=True, timeout=20, check=True
                )
                if re.search(self.system_version, said.stdout):
                    return None
        raise ServerUnavailable(f"{self.label} cannot be had: {self._why_not()}")

    def program(self, name: str) -> Path:
        """A program that comes with this server, such as `mysqlbinlog` or `pg_dump`."""
        home = self.home() or Path("/")
        for folder in ((home / self.server).parent, home / "usr/bin", home / "usr/sbin"):
            if (folder / name).exists():
                return folder / name
        raise ServerUnavailable(f"{self.label} has no program {name} here")

    def _why_not(self) -> str:
        for place in server_places():
            with contextlib.suppress(OSError):
                reason = (place / f"{self.release}.reason").read_text().strip().splitlines()
                if reason:
                    return reason[0]
        return "not installed (tools/bootstrap fetches it)"


def catalogue() -> dict[str, ServerKind]:
    """Every kind by name, sources first, whether or not this machine has it."""

    def postgresql(major: int, release: str) -> ServerKind:
        server = f"usr/lib/postgresql/{major}/bin/postgres"
        return ServerKind(
            f"pg{major}", f"PostgreSQL {major}", "postgresql", release, server, f"/{server}", rf"\) {major}\."
        )

    kinds = [
        ServerKind(
            name="mysql97",
            label="MySQL 9.7",
            family="mysql",
            release="sid",
            server="usr/sbin/mysqld",
            system="/usr/sbin/mysqld",
            system_version=r"Ver 9\.\d+\.\d+(?!.*MariaDB)",
            share="usr/share/mysql",
        ),
        ServerKind(
            name="mariadb1011",
            label="MariaDB 10.11",
            family="mariadb",
            release="bookworm",
            server="usr/sbin/mariadbd",
            system="/usr/sbin/mariadbd",
            system_version=r"Ver 10\.11\.",
            share="usr/share/mysql",
        ),
        ServerKind(
            name="mariadb118",
            label="MariaDB 11.8",
            family="mariadb",
            release="trixie",
            server="usr/sbin/mariadbd",
            system="/usr/sbin/mariadbd",
            system_version=r"Ver 11\.8\.",
            share="usr/share/mariadb",
        ),
        postgresql(15, "bookworm"),
        postgresql(17, "trixie"),
    ]
    return {kind.name: kind for kind in kinds}


def server_places() -> list[Path]:
    """Where unpacked servers may be; the first is this user's own and holds the data directory templates too."""
    if chosen := os.environ.get("CDC_SERVERS_DIR"):
        return [Path(chosen)]
    shared, own = Path("/var/cache/cdc-servers"), Path.home() / ".cache/cdc-servers"
    return [shared] if os.geteuid() == 0 else [own, shared]


# ---------------------------------------------------------------- a running server


@dataclass(slots=True)
class Server:
    """One server: ours, private and thrown away on `close`, or the user's own, given by URL (`private` is False).

    Make one by `Server.start` or `Server.external`. Safe to use from several threads.
    """

    kind: ServerKind
    url: str
    version: str = ""
    start_seconds: float = 0.0
    private: bool = True
    options: dict[str, str | int | None] = field(default_factory=dict)
    directory: Path | None = None
    _keeper: _Keeper | None = None

    # -- making one

    @classmethod
    def start(cls, kind: ServerKind | str, base_dir: Path | None = None, *, options: Options | None = None) -> Server:
        """Start a private server and return once it accepts connections.

        Args:
            base_dir: where its directory is made (default: the system's temporary directory). The user that the
                server runs as must be able to enter it.
            options: server settings on top of ours, by their names in the configuration file; None drops one of ours.
        Raises:
            ServerUnavailable: this machine does not have it.
            ServerFailed: it did not start.
        """
        if isinstance(kind, str):
            kind = catalogue()[kind]
        began = time.monotonic()
        kind.home()
        directory = Path(tempfile.mkdtemp(prefix=f"cdc-{kind.name}-", dir=base_dir or _temporary_directory()))
        keeper = _Keeper.start(directory)
        server = cls(kind, "", options=_normal(options), directory=directory, _keeper=keeper)
        try:
            _give_to_server_user(directory)
            _copy_template(kind, directory / "data")
            (directory / "tmp").mkdir()
            _give_to_server_user(directory / "tmp")
            server._start_on_a_free_port()
        except BaseException:
            server.close()
            raise
        server.start_seconds = time.monotonic() - began
        return server

    @classmethod
    def external(cls, kind: ServerKind | str, url: str) -> Server:
        """Wrap a server of the user's own. Raises ServerFailed when it cannot be reached."""
        if isinstance(kind, str):
            kind = catalogue()[kind]
        began = time.monotonic()
        server = cls(kind, url, private=False)
        try:
            ask = "SHOW server_version" if kind.family == "postgresql" else "SELECT VERSION()"
            server.version = str(server.execute(ask)[0][0])
        except Exception as error:
            raise ServerFailed(f"{server.safe_url} does not answer: {error}") from error
        server.start_seconds = time.monotonic() - began
        return server

    # -- what it is

    @property
    def family(self) -> str:
        """mysql, mariadb or postgresql."""
        return self.kind.family

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (5432 if self.family == "postgresql" else 3306)

    @property
    def user(self) -> str:
        return unquote(urlsplit(self.url).username or ("postgres" if self.family == "postgresql" else "root"))

    @property
    def password(self) -> str:
        return unquote(urlsplit(self.url).password or "")

    @property
    def safe_url(self) -> str:
        """The URL without its password, for messages."""
        return re.sub(r"(//[^:/@]*):[^@]*@", r"\1:***@", self.url)

    @property
    def pid(self) -> int | None:
        """Of the server process; None when it is not running or not ours."""
        return self._keeper.pid if self._keeper else None

    @property
    def is_running(self) -> bool:
        """True also for the user's own server, of which we know nothing else."""
        return not self.private or self.pid is not None

    @property
    def log(self) -> str:
        """All that the server has written to its log."""
        if self.directory is None:
            return ""
        with contextlib.suppress(OSError):
            return (self.directory / "server.log").read_text(errors="replace")
        return ""

    def url_for(self, database: str) -> str:
        """The same server's URL with another database in it."""
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()

    # -- using it

    def connect(self, database: str | None = None, **arguments: Any) -> Any:
        """A driver connection (PyMySQL or psycopg2) in autocommit mode, as the URL's user. The caller closes it."""
        if self.family == "postgresql":
            import psycopg2

            name = database or urlsplit(self.url).path.lstrip("/") or "postgres"
            connection: Any = psycopg2.connect(
                host=self.host, port=self.port, user=self.user, password=self.password or None, dbname=name, **arguments
            )
            connection.autocommit = True
            return connection
        import pymysql

        settings: dict[str, Any] = {"charset": "utf8mb4", "autocommit": True, "local_infile": True, **arguments}
        if self.private and not any(name.startswith("ssl") for name in settings):
            settings["ssl_disabled"] = True  # making a context for TLS costs 50 times the connection
        return pymysql.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, database=database, **settings
        )

    def execute(self, sql: str, parameters: Sequence[Any] | None = None, *, database: str | None = None) -> list[Any]:
        """Run one statement on a connection of its own and return its rows (none: an empty list)."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    # -- its life

    def stop(self) -> None:
        """Shut down in order and wait for it; the data stay. Does nothing when it is not running."""
        self._ours("stop").stop("SIGINT" if self.family == "postgresql" else "SIGTERM")

    def kill(self) -> None:
        """SIGKILL to the server and every process it started; the data stay as the crash left them."""
        self._ours("kill").kill()

    def restart(self, *, options: Options | None = None) -> None:
        """Stop (when running) and start on the same port and data.

        Args:
            options: changes to the options it was started with, kept for later restarts too.
        """
        keeper = self._ours("restart")
        if keeper.pid is not None:
            self.stop()
        self.options |= _normal(options)
        self._start_on(self.port)

    def close(self) -> None:
        """Kill it and remove its directory. Does nothing to the user's own server; may be called again."""
        if self._keeper is not None:
            self._keeper.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def require_private(self, what: str) -> None:
        """Raise NotPrivate unless the server is ours to do `what` to; the test suite skips a test for it."""
        self._ours(what)

    def _ours(self, what: str) -> _Keeper:
        if self._keeper is None:
            raise NotPrivate(f"{what} needs a private server; {self.safe_url} is the user's own")
        return self._keeper

    def _start_on_a_free_port(self) -> None:
        for attempt in range(5):
            port = _free_port()
            path = (
                "postgresql://postgres@127.0.0.1:{}/postgres"
                if self.family == "postgresql"
                else "mysql://root@127.0.0.1:{}/"
            )
            self.url = path.format(port)
            try:
                return self._start_on(port)
            except ServerFailed:
                # somebody took it between our look and the server's bind
                taken = re.search(r"Address already in use|could not bind|Can't start server: Bind", self.log)
                if not taken or attempt == 4:
                    raise
        return None

    def _start_on(self, port: int) -> None:
        assert self._keeper is not None
        assert self.directory is not None
        command = _command(self.kind, self.directory, port, self.options)
        log_length = len(self.log)
        pid = self._keeper.launch(command)
        deadline = time.monotonic() + START_SECONDS_MAX
        while (version := _greeting(self.family, port)) is None:
            if self._keeper.pid != pid:
                raise ServerFailed(f"{self.kind.label} ended while starting; its log:\n{_tail(self.log[log_length:])}")
            if time.monotonic() > deadline:
                self._keeper.kill()
                said = _tail(self.log[log_length:])
                raise ServerFailed(f"{self.kind.label} not ready after {START_SECONDS_MAX:g} s; its log:\n{said}")
            time.sleep(0.02)
        if self._keeper.pid != pid:  # the greeting was another server's
            raise ServerFailed(f"{self.kind.label} ended while starting; its log:\n{_tail(self.log[log_length:])}")
        self.version = version


def _normal(options: Options | None) -> dict[str, str | int | None]:
    return {name.replace("-", "_"): value for name, value in (options or {}).items()}


def _tail(text: str, line_count: int = 25) -> str:
    return "\n".join(text.splitlines()[-line_count:])


# ---------------------------------------------------------------- settings


def _mysql_settings(kind: ServerKind, directory: Path) -> dict[str, str | int | None]:
    settings: dict[str, str | int | None] = {
        "datadir": f"{directory}/data",
        "socket": f"{directory}/socket",
        "pid_file": f"{directory}/server.pid",
        "tmpdir": f"{directory}/tmp",  # noqa: S108 - inside a directory that mkdtemp made
        "bind_address": "127.0.0.1",
        "skip_name_resolve": 1,
        "log_bin": "binlog",
        "relay_log": "relay",
        "binlog_format": "ROW",
        "binlog_row_image": "FULL",
        "binlog_row_metadata": "FULL",
        # A process may be killed and lose nothing; only the machine itself must not crash.
        "sync_binlog": 0,
        "innodb_flush_log_at_trx_commit": 2,
        "innodb_buffer_pool_size": "128M",
        "local_infile": 1,
        "secure_file_priv": '""',
        "max_allowed_packet": "64M",
        "max_connections": 200,
        "character_set_server": "utf8mb4",
    }
    home = kind.home()
    if home is not None:
        share = home / kind.share
        settings |= {
            "basedir": str(home / "usr"),
            "lc_messages_dir": str(share),
            "character_sets_dir": str(share / "charsets"),
            "plugin_dir": str(home / "usr/lib/mysql/plugin"),
        }
    if kind.family == "mysql":
        settings |= {
            "gtid_mode": "ON",
            "enforce_gtid_consistency": "ON",
            "innodb_redo_log_capacity": "64M",
            "loose_mysqlx": "OFF",
            "skip_replica_start": 1,
            "log_error_verbosity": 2,
        }
        with contextlib.suppress(KeyError):
            del settings["binlog_format"]  # ROW is all it should be; naming it is deprecated
    else:
        settings |= {
            "gtid_strict_mode": 1,
            "gtid_domain_id": 0,
            "log_slave_updates": 1,
            "innodb_log_file_size": "64M",
            "skip_slave_start": 1,
        }
    return settings


def _postgresql_settings(directory: Path) -> dict[str, str | int | None]:
    return {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(directory),
        # A process may be killed and lose nothing; only the machine itself must not crash.
        "fsync": "off",
        "shared_buffers": "128MB",
        "max_wal_size": "2GB",
        "max_connections": 200,
        "max_prepared_transactions": 20,
        "timezone": "UTC",
        "dynamic_shared_memory_type": "mmap",  # inside the data directory, so it goes with it
        "log_line_prefix": "%m [%p] %q%u@%d ",
    }


def _command(kind: ServerKind, directory: Path, port: int, options: Options) -> list[str]:
    """Write the configuration and return the command that starts the server with it."""
    server = str((kind.home() or Path("/")) / kind.server)
    if kind.family == "postgresql":
        settings = _postgresql_settings(directory) | {"port": port} | dict(options)
        chosen = [f"--{name}={value}" for name, value in settings.items() if value is not None]
        return [server, "-D", f"{directory}/data", *chosen]
    return [server, _write_mysql_configuration(kind, directory, {"port": port, "server_id": port, **options})]


def _write_mysql_configuration(kind: ServerKind, directory: Path, options: Options) -> str:
    settings = _mysql_settings(kind, directory) | dict(options)
    text = "".join(f"{name}={value}\n" for name, value in settings.items() if value is not None)
    path = directory / "server.cnf"
    path.write_text(f"[mysqld]\n{text}")
    path.chmod(0o644)
    return f"--defaults-file={path}"


# ---------------------------------------------------------------- data directory templates


def _copy_template(kind: ServerKind, target: Path) -> None:
    """Put a fresh data directory at `target`: the template, made once per machine and version, copied."""
    server = (kind.home() or Path("/")) / kind.server
    state = server.stat()
    settings = {} if kind.family == "postgresql" else _mysql_settings(kind, Path("/"))
    identity = repr((TEMPLATE_VERSION, str(server), state.st_size, state.st_mtime_ns, settings))
    place = server_places()[0] / "templates"
    _make_directory(place)
    path = place / f"{kind.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    with _locked(place / f".lock-{kind.name}"):
        if not (path / "ready").exists():
            for old in place.glob(f"{kind.name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            path.mkdir()
            _give_to_server_user(path)
            _initialise(kind, path)
            (path / "ready").touch()
        _run_cp(path / "data", target)


def _run_cp(source: Path, target: Path) -> None:
    # keeps the owner and, where the file system can, copies nothing until it is written to
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=auto", str(source), str(target)], check=True)


def _initialise(kind: ServerKind, path: Path) -> None:
    server = (kind.home() or Path("/")) / kind.server
    if kind.family == "postgresql":
        _run(
            [
                *(str(server.with_name("initdb")), "-D", f"{path}/data", "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            path,
        )
        return
    (path / "tmp").mkdir()
    _give_to_server_user(path / "tmp")
    unlogged: dict[str, str | int | None] = {"log_bin": None, "gtid_strict_mode": None, "log_slave_updates": None}
    zones = _time_zones(kind)
    if kind.family == "mysql":
        accounts = ["CREATE USER root@'%' IDENTIFIED BY ''", "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION"]
        script = path / "accounts.sql"
        script.write_text("".join(f"{s};\n" for s in accounts) + "USE mysql;\n" + zones)
        script.chmod(0o644)
        unlogged |= {"disable_log_bin": 1, "gtid_mode": None, "enforce_gtid_consistency": None, "server_id": 1}
        configuration = _write_mysql_configuration(kind, path, unlogged)
        _run([str(server), configuration, "--initialize-insecure", f"--init-file={script}"], path)
    else:
        (path / "data").mkdir()
        _give_to_server_user(path / "data")
        configuration = _write_mysql_configuration(kind, path, unlogged | {"server_id": 1})
        feed = _mariadb_system_tables(kind) + zones.encode()
        _run([str(server), configuration, "--bootstrap", "--log-warnings=0"], path, feed)
        (path / "data/mysql_upgrade_info").touch()
    # every copy gets a server_uuid of its own
    (path / "data/auto.cnf").unlink(missing_ok=True)


def _mariadb_system_tables(kind: ServerKind) -> bytes:
    """What mariadb-install-db feeds to the server, and root from anywhere without a password."""
    share = (kind.home() or Path("/")) / kind.share
    parts = [b"create database if not exists mysql;\nuse mysql;\nSET @auth_root_socket=NULL;\n"]
    names = ("system_tables", "performance_tables", "system_tables_data")
    files = [share / f"{prefix}_{name}.sql" for name in names for prefix in ("mysql", "mariadb")]
    files += [
        share / "maria_add_gis_sp_bootstrap.sql",
        share / "mysql_sys_schema.sql",
        share / "mariadb_sys_schema.sql",
    ]
    parts += [file.read_bytes() for file in files if file.exists()]
    if len(parts) < 3:
        raise ServerUnavailable(f"{kind.label} cannot be had: no system table scripts in {share}")
    parts.append(
        b"use mysql;\n"
        b"REPLACE INTO global_priv SELECT '%', User, Priv FROM global_priv"
        b" WHERE User = 'root' AND Host = 'localhost';\n"
        b"DELETE FROM global_priv WHERE User = '' OR Host NOT IN ('localhost', '%');\n"
        b"DELETE FROM proxies_priv WHERE User = '' OR Host NOT IN ('localhost', '%');\n"
    )
    return b"\n".join(parts)


def _time_zones(kind: ServerKind) -> str:
    """SQL that fills the time zone tables, one statement per line; empty when the system has no zone files."""
    zoneinfo = Path("/usr/share/zoneinfo")
    try:
        tool = kind.program("mariadb-tzinfo-to-sql" if kind.family == "mariadb" else "mysql_tzinfo_to_sql")
    except ServerUnavailable:
        return ""
    if not zoneinfo.is_dir():
        return ""
    # Its exit code tells of files that are no time zones, which every system has there.
    script = subprocess.run(
        [str(tool), str(zoneinfo)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout
    joined = re.sub(r"\n(?=[ ,;])", "", script)
    # What else it prints switches engines and locks tables, which a server that is being set up neither needs nor can.
    lines = [s for s in joined.splitlines() if s.startswith(("INSERT INTO time_zone", "SET @time_zone_id"))]
    return "".join(f"{line}\n" for line in ["START TRANSACTION;", *lines, "COMMIT;"])


def _run(command: list[str], directory: Path, feed: bytes | None = None) -> None:
    """Run a program to its end as the server user, within `directory`."""
    with (directory / "setup.log").open("w+b") as log:
        done = subprocess.run(
            command,
            input=b"" if feed is None else feed,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_environment(),
            check=False,
            **_as_server_user(),
        )
        if done.returncode:
            log.seek(0)
            text = log.read().decode(errors="replace")
            raise ServerFailed(f"{Path(command[0]).name} failed ({done.returncode}):\n{_tail(text)}")


# ---------------------------------------------------------------- the unprivileged user


def _as_server_user() -> dict[str, Any]:
    """Arguments for subprocess that drop root's rights; nothing for anybody else."""
    if os.geteuid() != 0:
        return {}
    account = _server_account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _server_account() -> pwd.struct_passwd:
    """The system user that servers run as, made when missing.

    One at a time on this machine: two `useradd` of one name that run together both succeed, and the second gives the
    name another number than the one that files were given to meanwhile.
    """
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    directory = server_places()[0]
    _make_directory(directory)
    with _locked(directory / ".lock-account"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        made = subprocess.run(
            [*command, "--shell", "/usr/sbin/nologin", SERVER_USER], capture_output=True, text=True, check=False
        )
        try:
            return pwd.getpwnam(SERVER_USER)
        except KeyError:
            raise ServerUnavailable(f"no system user {SERVER_USER} to run servers as: {made.stderr.strip()}") from None


def _give_to_server_user(path: Path) -> None:
    if os.geteuid() == 0:
        account = _server_account()
        os.chown(path, account.pw_uid, account.pw_gid)


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent"}


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServerUnavailable(f"cannot make {path} for servers: {error.strerror}") from None


def _temporary_directory() -> Path:
    """A temporary directory that the server user can enter, with a short path (a Unix socket's has 107 bytes)."""
    for place in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp comes on top
        can_enter = all(folder.stat().st_mode & 0o001 for folder in (place, *place.parents))
        if place.is_dir() and len(str(place)) < 60 and (can_enter or os.geteuid() != 0):
            return place
    raise ServerUnavailable("no temporary directory that an unprivileged server can enter")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- ports and greetings


def _free_port() -> int:
    while True:
        port = random.SystemRandom().choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _greeting(family: str, port: int) -> str | None:
    """The version that a server on this port announces, or None while it does not accept connections."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            return (_postgresql_greeting if family == "postgresql" else _mysql_greeting)(connection)
    except (OSError, EOFError):
        return None


def _mysql_greeting(connection: socket.socket) -> str | None:
    """Handshake v10: [0:3] length, [3] sequence, [4] protocol 10, [5:] version, NUL. Protocol 255 is an error."""
    stream = connection.makefile("rb")
    body = _exactly(stream, int.from_bytes(_exactly(stream, 4)[:3], "little"))
    if body[0] != 10:
        return None
    return body[1 : body.index(0, 1)].decode("ascii", "replace").removeprefix("5.5.5-")


def _postgresql_greeting(connection: socket.socket) -> str | None:
    """Start a session as postgres; messages are [0] type, [1:5] length with itself, body."""
    body = struct.pack("!I", 196608) + b"user\0postgres\0database\0postgres\0\0"
    connection.sendall(struct.pack("!I", len(body) + 4) + body)
    stream = connection.makefile("rb")
    version = None
    while True:
        head = _exactly(stream, 5)
        message = _exactly(stream, int.from_bytes(head[1:], "big") - 4)
        if head[:1] == b"S" and message.startswith(b"server_version\0"):
            version = message.split(b"\0")[1].decode().split(" ")[0]
        elif head[:1] == b"E":  # still starting up
            return None
        elif head[:1] == b"Z":
            connection.sendall(b"X\0\0\0\4")
            return version


def _exactly(stream: IO[bytes], byte_count: int) -> bytes:
    data = stream.read(byte_count)
    if len(data) < byte_count:
        raise EOFError
    return data


# ---------------------------------------------------------------- the keeper
#
# A process of its own per server. It is the server's parent and the reaper of all its descendants, and it sees the end
# of the process that asked for the server as the end of its input, whatever ended that process: then it kills them all
# and removes the directory. (PR_SET_PDEATHSIG alone would not do: it follows the thread that started the server,
# not the process, and PostgreSQL's backends would not get it.)


class _Keeper:
    """Our end: commands go to its input, one JSON line each; `pid N` and `exit N` lines come back."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin: IO[bytes] = process.stdin
        self._stdout: IO[bytes] = process.stdout
        self._lock = threading.RLock()
        self._pid: int | None = None
        self._launched: list[int] = []
        self._read = b""
        os.set_blocking(self._stdout.fileno(), False)

    @classmethod
    def start(cls, directory: Path) -> _Keeper:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, "keep", str(directory), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is for the one who asked
        )
        return cls(process)

    @property
    def pid(self) -> int | None:
        """Of the running server."""
        with self._lock:
            self._listen(0)
            return self._pid

    def launch(self, command: list[str]) -> int:
        """Start the server and return its pid; it may have ended by then."""
        with self._lock:
            self._launched.clear()
            self._say({"do": "start", "command": command})
            if not self._until(lambda: bool(self._launched), 30):
                raise ServerFailed(f"the keeper of the server did not start it (exit {self._process.poll()})")
            return self._launched[-1]

    def stop(self, signal_name: str) -> None:
        with self._lock:
            if self.pid is None:
                return
            self._say({"do": "signal", "signal": signal_name})
            if not self._until(lambda: self._pid is None, STOP_SECONDS_MAX):
                self.kill()
                raise ServerFailed(f"the server did not stop within {STOP_SECONDS_MAX:g} s and was killed")

    def kill(self) -> None:
        with self._lock:
            if self.pid is not None:
                self._say({"do": "signal", "signal": "SIGKILL"})
                self._until(lambda: self._pid is None, 30)

    def close(self) -> None:
        with self._lock:
            if not self._stdin.closed:
                self._stdin.close()
                self._process.wait(30)
                self._stdout.close()
            self._pid = None

    def _say(self, command: dict[str, Any]) -> None:
        try:
            self._stdin.write(json.dumps(command).encode() + b"\n")
        except OSError as error:
            raise ServerFailed(f"the keeper of the server is gone (exit {self._process.poll()})") from error

    def _until(self, is_reached: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not is_reached():
            left = deadline - time.monotonic()
            if left <= 0 or not self._listen(left):
                return is_reached()
        return True

    def _listen(self, seconds: float) -> bool:
        """Take in what the keeper says, waiting at most `seconds` for it; False when it says nothing or is gone."""
        if self._stdout.closed or not select.select([self._stdout], [], [], seconds)[0]:
            return False
        data = self._stdout.read(4096)
        if not data:
            self._pid = None
            return False
        *lines, self._read = (self._read + data).split(b"\n")
        for line in lines:
            word, number = line.split()
            self._pid = None
            if word == b"pid":
                self._pid = int(number)
                self._launched.append(self._pid)
        return True


def _keep(directory: Path, asker: int) -> None:
    """What the keeper process does, until its input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(1))
    server: subprocess.Popen[bytes] | None = None
    pending = b""
    try:
        while os.getppid() == asker:  # a forked copy of the asker may hold the other end of our input
            ready = select.select([0, wake_read], [], [], 1.0)[0]
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    while os.read(wake_read, 4096):
                        pass
            if server is not None and (status := _reap(server.pid)) is not None:
                _end_descendants()
                server = None
                os.write(1, b"exit %d\n" % status)
            if 0 not in ready:
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                if order["do"] == "start":
                    server = _launch(order["command"], directory, libc)
                    os.write(1, b"pid %d\n" % server.pid)
                elif server is not None:
                    os.kill(server.pid, signal.Signals[order["signal"]])
    finally:
        if server is not None:
            os.kill(server.pid, signal.SIGKILL)
        _end_descendants()
        _remove(directory, libc)


def _launch(command: list[str], directory: Path, libc: ctypes.CDLL) -> subprocess.Popen[bytes]:
    (directory / "data/postmaster.pid").unlink(missing_ok=True)  # left by a kill; a reused pid would make it look live
    with (directory / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_environment(),
            # PR_SET_PDEATHSIG, should the keeper itself be killed
            preexec_fn=lambda: libc.prctl(1, signal.SIGKILL, 0, 0, 0),
            **_as_server_user(),
        )


def _reap(server_pid: int) -> int | None:
    """Collect every child that has ended; the server's exit status when it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == server_pid:
                found = os.waitstatus_to_exitcode(status)
    return found


def _end_descendants() -> None:
    """Kill what the server has left; orphans become our children, so this ends when there are none."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in _children(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == parent and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return found


def _remove(directory: Path, libc: ctypes.CDLL) -> None:
    # Line 7 of postmaster.pid has the id of a System V shared memory segment, which nobody else would remove.
    with contextlib.suppress(OSError, IndexError, ValueError):
        segment = (directory / "data/postmaster.pid").read_text().splitlines()[6].split()[1]
        libc.shmctl(int(segment), 0, None)  # IPC_RMID
    shutil.rmtree(directory, ignore_errors=True)


# ---------------------------------------------------------------- by hand


def main(arguments: Sequence[str]) -> int:
    """`list`, or `start KIND...`: run them until Ctrl-C and print their URLs."""
    kinds = catalogue()
    if len(arguments) >= 2 and arguments[0] == "start" and all(name in kinds for name in arguments[1:]):
        with contextlib.ExitStack() as stack:
            try:
                for name in arguments[1:]:
                    server = stack.enter_context(Server.start(name))
                    _print(f"{name:12} {server.version:32} {server.url}   log: {server.directory}/server.log")
                _print("Ctrl-C stops them and removes their data.")
                signal.pause()
            except KeyboardInterrupt:
                return 0
            except (ServerUnavailable, ServerFailed) as error:
                _print(str(error))
                return 1
    if list(arguments) == ["list"]:
        for kind in kinds.values():
            try:
                _print(f"{kind.name:12} {(kind.home() or Path('/')) / kind.server}")
            except ServerUnavailable as error:
                _print(f"{kind.name:12} {error}")
        return 0
    _print(f"usage: python -m cdc.demo.servers list | start KIND...   kinds: {' '.join(kinds)}")
    return 2


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _main() -> NoReturn:
    if len(sys.argv) == 4 and sys.argv[1] == "keep":
        _keep(Path(sys.argv[2]), int(sys.argv[3]))
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    _main()
