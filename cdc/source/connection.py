"""Connections to the source, and the one place where its driver's errors become ours.

Two kinds of session: a *query* session (text results as bytes in the column's own charset, so that snapshot and
stream go through the same decoders) and the *dump* session of `source/stream.py`. Both have fixed settings: whatever
the server's globals say about time zone, sql_mode or limits does not matter here.

Source of error numbers: MySQL manual "Server Error Message Reference", "Client Error Message Reference".
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pymysql
import pymysql.converters
import pymysql.cursors

from cdc import tls
from cdc.credentials import Password, log_in
from cdc.errors import BinlogPurged, CdcError, ConfigError, ProtocolError, SourceUnavailable
from cdc.limits import limit_hint
from cdc.model import Flavor, ServerIdentity
from cdc.tls import TlsFiles, client_context, unverified_context

__all__ = [
    "ExpressionRefused",
    "SourceConnection",
    "SourceSettings",
    "SslMode",
    "SslSettings",
    "TableDenied",
    "TableGone",
    "connect",
    "hang_up",
    "open_session",
    "require_server",
    "server_identity",
    "translate_error",
]

SslMode = Literal["disabled", "preferred", "required", "verify_ca", "verify_identity"]


@dataclass(frozen=True, slots=True)
class SslSettings:
    """How far TLS is insisted on: `mode` as in the MySQL clients' --ssl-mode; file names as PEM."""

    mode: SslMode = "preferred"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """Where the source is and who we are there. `server_id` is the first of a block of `server_id_count`."""

    host: str
    port: int
    user: str
    password: Password | str = field(repr=False)
    server_id: int
    server_id_count: int = 16
    position: Literal["auto", "gtid", "file"] = "auto"
    ssl: SslSettings = SslSettings()
    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 60
    heartbeat_seconds: float = 1

    @property
    def address(self) -> str:
        """host:port, for messages."""
        return f"{self.host}:{self.port}"


class TableDenied(ConfigError):
    """A right on one table is missing (errors 1142, 1143, 1370): that table's trouble, not the source's."""


class TableGone(CdcError):
    """A table that was there a moment ago does not exist any more (error 1146, 1051)."""


class ExpressionRefused(SourceUnavailable):
    """What a statement computes has failed at a row (SIGNAL, a number out of range), or would write in a session that
    only reads. Passes only where the statement is nobody's own.
    """


def tls_context(settings: SslSettings) -> ssl.SSLContext | None:
    """The context of sessions by these settings, None for none. 'preferred' takes TLS unverified. Raises OSError."""
    if settings.mode == "disabled":
        return None
    if settings.mode == "preferred":
        return unverified_context()
    return client_context(
        TlsFiles(settings.ca, settings.cert, settings.key),
        is_verified=settings.mode != "required",
        checks_name=settings.mode == "verify_identity",
    )


# Sessions of ours never depend on the server's globals (EDGE_CASES: session settings of the snapshot).
_SESSION_SQL = (
    "SET SESSION time_zone='+00:00', sql_mode='ALLOW_INVALID_DATES', sql_select_limit=DEFAULT, sql_safe_updates=0, "
    "group_concat_max_len=1048576, lc_time_names='en_US', net_write_timeout=31536000, net_read_timeout=31536000, "
    "wait_timeout=31536000, lock_wait_timeout=30, transaction_isolation='REPEATABLE-READ'"
)
_OPTIONAL_SQL = (
    # One by one, for servers that do not know them.
    "SET SESSION max_execution_time=0",
    "SET SESSION max_statement_time=0",
    "SET SESSION old_mode=''",
    "SET SESSION show_gipk_in_create_table_and_information_schema=ON",
    "SET SESSION information_schema_stats_expiry=0",
)
_ENCODERS_ONLY: Any = {key: value for key, value in pymysql.converters.conversions.items() if not isinstance(key, int)}


class SourceConnection:
    """One session on the source. Every value of a result is bytes or None."""

    def __init__(self, settings: SourceSettings, raw: pymysql.connections.Connection[Any]) -> None:
        self.settings = settings
        self.raw = raw
        self._identity: ServerIdentity | None = None
        version_text = self.query_text("SELECT VERSION()")[0][0] or ""
        self.version_text = version_text
        self.flavor: Flavor = "mariadb" if "mariadb" in version_text.lower() else "mysql"
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", version_text)
        self.version = tuple(map(int, match.groups())) if match else (0, 0, 0)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[bytes | None, ...]]:
        """Run one statement; its rows with every value as the server's bytes."""
        with self.translated(), self.raw.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cast("list[tuple[bytes | None, ...]]", list(cursor.fetchall() or ()))

    def query_text(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[str | None, ...]]:
        """Like `query`, with values decoded as UTF-8: for what the server says of itself."""
        rows = self.query(sql, parameters)
        with self.translated():
            return [tuple(None if v is None else v.decode() for v in row) for row in rows]

    def rows_by_name(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, str | None]]:
        """Like `query_text`, a dictionary a row (SHOW statements differ in columns from version to version)."""
        with self.translated(), self.raw.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            names = [column[0] for column in cursor.description or ()]
            rows = cast("list[tuple[bytes | None, ...]]", list(cursor.fetchall() or ()))
            return [dict(zip(names, (None if v is None else v.decode() for v in row), strict=True)) for row in rows]

    def each_by_name(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[dict[str, str | None]]:
        """Like `rows_by_name`, row by row as they come: for what may be more than one answer may be in memory.

        Nothing else may be asked of this session until the last row has been taken, or the iterator is closed.
        """
        with self.translated(), self.raw.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute(sql, parameters or None)
            names = [column[0] for column in cursor.description or ()]
            while (row := cursor.fetchone()) is not None:
                yield dict(zip(names, (None if v is None else v.decode() for v in row), strict=True))

    def variable(self, name: str) -> str | None:
        """A global variable's value, None where the server does not know it."""
        rows = self.query_text("SHOW GLOBAL VARIABLES LIKE %s", (name.replace("_", r"\_"),))
        return rows[0][1] if rows else None

    def identity(self) -> ServerIdentity:
        """Which server this is, asked once. MariaDB has no server_uuid: server_uid and server_id stand in for it."""
        if self._identity is None:
            self._identity = self._ask_identity()
        return self._identity

    def _ask_identity(self) -> ServerIdentity:
        return server_identity(self.flavor, self.variable)

    def close(self) -> None:
        """Drop the session; an open read view ends with it."""
        with contextlib.suppress(Exception):
            self.raw.close()

    def __enter__(self) -> SourceConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hang_up(self) -> None:
        """From another thread: end the conversation, so that whoever waits for the server's answer is told."""
        hang_up(self.raw)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """What the driver raises inside comes out as one of our errors."""
        try:
            yield
        except (pymysql.err.Error, OSError) as error:
            raise translate_error(error, self.settings) from error
        except UnicodeDecodeError as error:
            raise _nonsense(self.settings) from error


def server_identity(flavor: Flavor, variable: Callable[[str], str | None]) -> ServerIdentity:
    """Which server it is that these global variables are of."""
    if flavor == "mysql":
        return ServerIdentity("mysql", variable("server_uuid") or "")
    uid = variable("server_uid") or variable("log_bin_basename") or ""
    return ServerIdentity("mariadb", f"{uid}/{variable('server_id') or ''}")


def require_server(found: ServerIdentity, expected: ServerIdentity, settings: SourceSettings) -> None:
    """Every session that reads for a stream is of one server: what was checked of it holds for no other.

    Raises SourceUnavailable.
    """
    if found != expected:
        raise SourceUnavailable(
            f"source {settings.address} is two servers: one session is on {expected.uuid}, another one on {found.uuid}",
            hint="the address (a proxy, a virtual IP, a DNS name) was switched, or leads to several servers by turns: "
            "it has to lead to one; which one is there is checked before anything is read from it",
        )


def connect(settings: SourceSettings, *, read_timeout_seconds: float | None = None) -> SourceConnection:
    """Open a query session.

    Args:
        read_timeout_seconds: longest silence of the server, SourceUnavailable after it; the settings' own when not
            given. A server that is frozen, or a connection that is half open, is noticed by nothing else.
    Raises SourceUnavailable when it cannot be reached, ConfigError when it refuses us.
    """
    silence_seconds_max = settings.read_timeout_seconds if read_timeout_seconds is None else read_timeout_seconds
    try:
        raw = open_session(
            settings,
            use_unicode=False,
            conv=_ENCODERS_ONLY,
            read_timeout=silence_seconds_max,
            write_timeout=silence_seconds_max,
        )
        with raw.cursor() as cursor:
            try:
                cursor.execute(_SESSION_SQL)
            except pymysql.err.OperationalError as error:
                if error.args[0] != 1193:  # MySQL 5.6 and MariaDB before 11.1 call it tx_isolation
                    raise
                cursor.execute(_SESSION_SQL.replace("transaction_isolation", "tx_isolation"))
            for sql in _OPTIONAL_SQL:
                try:
                    cursor.execute(sql)
                except (pymysql.err.OperationalError, pymysql.err.InternalError):
                    if not raw.open:
                        raise
            # Text as it is stored, in the column's own charset: snapshot and stream share one decoder.
            cursor.execute("SET SESSION character_set_results=NULL")
    except (pymysql.err.Error, OSError) as error:
        raise translate_error(error, settings) from error
    try:
        return SourceConnection(settings, raw)
    except (IndexError, TypeError, ValueError) as error:
        raise _nonsense(settings) from error


def _nonsense(settings: SourceSettings) -> ProtocolError:
    return ProtocolError(
        f"source {settings.address} answers what no server says",
        hint="check that source.url names a MySQL or MariaDB server, and what lies between",
    )


def open_session(settings: SourceSettings, **arguments: Any) -> pymysql.connections.Connection[Any]:
    """A session of the driver, logged in, encrypted where that is required. `arguments` are the driver's.

    Raises the driver's errors; ConfigError where TLS is missing; SourceUnavailable for a password that was good and is
    refused, while another may come.
    """

    def connect_with(password: str) -> pymysql.connections.Connection[Any]:
        raw = tls.connect(
            tls_context(settings.ssl),
            is_required=settings.ssl.mode != "preferred",
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=password.encode(errors="surrogateescape"),  # pymysql would encode a str as latin1
            charset="utf8mb4",
            autocommit=True,
            local_infile=False,
            connect_timeout=max(1, int(settings.connect_timeout_seconds)),
            program_name="cdc",
            **arguments,
        )
        check_encryption(raw, settings)
        return raw

    try:
        return log_in(settings.password, connect_with, is_refused_login)
    except pymysql.err.OperationalError as error:
        if isinstance(settings.password, str) or not is_refused_login(error) or not settings.password.may_be_rotated:
            raise
        raise SourceUnavailable(
            f"source {settings.address} refuses us: {error.args[1]} (error {error.args[0]})",
            hint=f"{settings.password.advice()}source.url",
        ) from error


def is_refused_login(error: Exception) -> bool:
    """Does the server refuse user and password (1045), or lock the account out that it has refused too often?"""
    return isinstance(error, pymysql.err.MySQLError) and error.args[:1] in ((1045,), *((n,) for n in _LOCKED_OUT))


def hang_up(raw: pymysql.connections.Connection[Any]) -> None:
    """From another thread than the session's: end the conversation. The session's own thread is told, and closes it.

    Never close it from here: the reader would go on with the descriptor's number, where another session may be by then.
    """
    sock = getattr(raw, "_sock", None)
    if sock is None:
        return
    # By a descriptor of its own: shutting down a TLS socket object would pull it from under its reader.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as other:
        # The close that follows is a reset: a server that waits for room to send would else wait on, for minutes,
        # with its read view and the lock on the table's definition.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.shutdown(socket.SHUT_RDWR)


def check_encryption(raw: pymysql.connections.Connection[Any], settings: SourceSettings) -> None:
    """Refuse a session in the clear where TLS is required. pymysql goes on without when the server offers none."""
    if settings.ssl.mode in ("required", "verify_ca", "verify_identity"):
        sock = getattr(raw, "_sock", None)
        if not isinstance(sock, ssl.SSLSocket):
            raw.close()
            raise ConfigError(
                f"source {settings.address} offers no TLS, and ssl_mode is {settings.ssl.mode}",
                hint="enable TLS on the server, or set source.ssl_mode: preferred where the network is trusted",
            )


_GRANT_HINT = (
    "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO the user of source.url "
    "(MariaDB: REPLICATION SLAVE, BINLOG MONITOR); `cdc check` says which one is missing"
)
# Too many wrong passwords: MySQL's FAILED_LOGIN_ATTEMPTS, MariaDB's max_password_errors. And locked by an operator.
_LOCKED_OUT = {3955, 4151}
_LOCKED = 3118
_LOCKED_HINT = (
    "ALTER USER … ACCOUNT UNLOCK on the source (MariaDB: FLUSH PRIVILEGES); and check the password of source.url"
)
_DENIED = {1044, 1045, 1095, 1130, 1131, 1184, 1227, 1251, 1698, 1820, 1862, _LOCKED, *_LOCKED_OUT}
_TABLE_DENIED = {1142, 1143, 1370}
_GONE = {1051, 1146, 1109, 1356}
# No connection left: of the server's, of the user's (max_user_connections), of an account's limits. Not 1041, out of
# memory: that may be a statement's own trouble.
_FULL = {1040, 1203, 1226}
_FULL_HINT = "nothing, if it passes; else raise max_connections, or max_user_connections of the account, on the source"
_CHANGED = {1412, 1054}
# MariaDB's number for a dump that another one with its server_id has ended; MySQL and older MariaDB say it under 1236.
_RIVAL = 4052
_EXPRESSION_REFUSED = {1644, 1690, 1792}


def translate_error(error: Exception, settings: SourceSettings, *, position: str | None = None) -> CdcError:
    """The source's driver error as one of ours, by number (1236 alone by its text: it is shared)."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1] if len(error.args) > 1 else error)
    where = f"source {settings.address}"
    own_limit = limit_hint(error)
    if own_limit:
        return SourceUnavailable(f"{where} cannot be used: {text}", hint=own_limit)
    if number == _RIVAL:
        return _has_rival(text, where)
    if number == 1236:
        return classify_1236(text, where, position)
    if number in _TABLE_DENIED:
        return TableDenied(f"{where} refuses us: {text} (error {number})", hint=_GRANT_HINT)
    if number in _DENIED:
        hint = _GRANT_HINT if number not in (1045, 1698) else "check user and password in source.url"
        if number == _LOCKED or number in _LOCKED_OUT:
            hint = _LOCKED_HINT
        return ConfigError(f"{where} refuses us: {text} (error {number})", hint=hint)
    if number in _GONE or number in _CHANGED:
        return TableGone(f"{where}: {text} (error {number})")
    cause = getattr(error, "original_exception", None)
    # One that ended in the middle of the handshake is gone, as any other; what is wrong with TLS is said in an alert.
    is_cut = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    if number == 2026 or (isinstance(cause, ssl.SSLError) and not is_cut):
        return ConfigError(
            f"{where}: no TLS session: {text} (error {number})",
            hint="enable TLS on the server, check source.ssl_ca and the server's certificate, "
            "or set source.ssl_mode: preferred where the network is trusted",
        )
    if number in _EXPRESSION_REFUSED:
        return ExpressionRefused(f"{where}: {text} (error {number})", hint="see what the statement calls")
    if isinstance(error, (OSError, pymysql.err.OperationalError, pymysql.err.InterfaceError)) or number in (
        1205,
        1213,
        1317,
        3024,
        1969,
    ):
        what = f" (error {number})" if number else ""
        return SourceUnavailable(
            f"{where} cannot be used: {text}{what}",
            hint=_FULL_HINT if number in _FULL else _unreachable_hint(text),
            is_full=number in _FULL,
        )
    return ProtocolError(f"{where}: {text} (error {number})", hint="see the server's error log")


def _unreachable_hint(text: str) -> str:
    hint = "check host, port and network in source.url, and that the server is up"
    return f"{hint}; source.read_timeout_seconds is how long it may be silent" if "timed out" in text else hint


def _has_rival(text: str, where: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"{where}: another replica uses our server_id: {text}",
        hint="give this service a source.server_id of its own (a block of server_id_count ids)",
        has_rival=True,
    )


def classify_1236(text: str, where: str, position: str | None) -> CdcError:
    """Error 1236 stands for half a dozen things; its text says which (MySQL 5.6 to 9.7, MariaDB 10.2 to 11.8)."""
    lower = text.lower()
    at = f"; the checkpoint is {position}" if position else ""
    if "same server_uuid/server_id" in lower or "same server_id" in lower or "a slave with the same" in lower:
        return _has_rival(text, where)
    purged = (
        "could not find first log file name",
        "purged",
        "could not find gtid state requested by slave in any binlog files",
        "binary log doesn't exist",
        "log file name in binary log index",
    )
    ahead = (
        "which is not in the master's binlog",
        "to start replication from position > file size",
        "to start replication from impossible position",
    )
    if any(phrase in lower for phrase in purged):
        return BinlogPurged(
            f"{where} no longer has the binlog that follows the checkpoint (MySQL error 1236: {text}){at}",
            hint="load again: `recovery.on_purged: resnapshot` has it done, else `cdc checkpoint reset` and `cdc run`; "
            "and keep binlogs longer (binlog_expire_logs_seconds, expire_logs_days)",
            position=position,
        )
    if any(phrase in lower for phrase in ahead) or "more gtids than the master has" in lower or "gtid" in lower:
        return BinlogPurged(
            f"{where} does not have our position in its binlog (MySQL error 1236: {text}){at}",
            hint="the server lost transactions, was reset or is another one: load again with "
            "`cdc checkpoint reset` and `cdc run`",
            position=position,
        )
    return ProtocolError(
        f"{where} ended the stream (MySQL error 1236: {text}){at}",
        hint="'max_allowed_packet' here means a position inside an event, or an event over 1 GiB; "
        "see the server's error log",
        position=position,
    )
