"""MySQL or MariaDB as a sink: deletes by key, then LOAD DATA LOCAL from memory (docs/decisions/0010-load-data.md).

The contract is `sinks.base`; SQL text is made in `sql_mysql`, values in `encode_mysql`, errors in `errors_mysql`; rows
are sent to LOAD DATA by `local_infile`. The session's settings are all set here, so that the server's defaults do not
matter; strict mode refuses what it notices, and a statement with so much as a warning is undone.

What goes in bulk has a judge: when the server does not take all of it as it is, it is undone and written again by
strict multi-row INSERTs, which take it or name the row that is refused. They also write what the compiled encoder
leaves, and everything where `local_infile` is off. Few rows go by INSERT at once: a change in one round trip.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import re
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pyarrow as pa
import pymysql
import pymysql.cursors
from pymysql.constants import CLIENT

from cdc import tls
from cdc.credentials import Password, log_in
from cdc.errors import (
    CdcError,
    ConfigError,
    InvariantBroken,
    ProtocolError,
    SinkRefused,
    SinkUnavailable,
    UnsupportedData,
)
from cdc.limits import limit_hint
from cdc.model import ChangeBatch, ColumnDefinition, Flavor, PartialUpdate, ValueKind
from cdc.schema.alteration import TargetAlteration
from cdc.schema.dictionary_text import may_hide, members_query
from cdc.schema.grants import grant_pattern
from cdc.schema.sharing import Alteration, Reshaping, misfits, reshaping
from cdc.schema.target import SinkKind, TargetColumn, TargetTable
from cdc.sinks import merging, versions
from cdc.sinks import sql_mysql as sql
from cdc.sinks.alter_mysql import alter_statements, drop_defaults
from cdc.sinks.base import ApplyResult, ExistingTable, StatementHook, mixed_unique_problem
from cdc.sinks.canonical import from_mysql
from cdc.sinks.encode_mysql import (
    LoadLines,
    RowPieces,
    error_members,
    key_literals,
    key_pieces,
    load_lines,
    row_literals,
    update_statements,
    value_text,
)
from cdc.sinks.errors_mysql import (
    LOCAL_INFILE_IS_OFF,
    NO_TEMPORARY_TABLE,
    ROW_TOO_LARGE,
    error_number,
    is_refusal,
    is_refused_login,
    translate,
)
from cdc.sinks.hang_up import shut_down
from cdc.sinks.keyless_mysql import apply_keyless
from cdc.sinks.local_infile import ForeignRequest, LoadReply, load_local
from cdc.sinks.narrowing import first_refused
from cdc.sinks.rename import mysql_statement
from cdc.sinks.values import PolicyCounter, column_of, keep_refused_row, key_text, new_and_other

__all__ = ["MysqlSettings", "MysqlSink", "SslMode", "session_is_alive"]

SslMode = Literal["disabled", "preferred", "required", "verify_ca", "verify_identity"]
Connection = Any  # pymysql's, whose type information leaves out what is used here

METADATA_DATABASE = "_cdc"
STATEMENT_BYTES_MAX = 4 << 20  # larger ones gain nothing, and hold both sides' memory
STATEMENT_ROWS_MAX = 5000
DELETE_KEYS_MAX = 5000  # further statements cost less than range analysis of more
DELETE_CONDITIONS_MAX = 1000  # the same, for keys of several columns
STATEMENTS_AT_ONCE = 200  # in one round trip
STAGED_KEYS_MIN = 100  # of several columns; fewer are deleted by a list of conditions
FEW_ROWS_MAX = 50  # so many changes of a table go in one round trip; LOAD DATA has three
PACKET_HEAD_BYTES = 64 << 10  # for what surrounds the rows of a statement: names of up to 4096 columns
LOCK_WAIT_SECONDS = 50
DOUBLE_DIGITS = 15  # decimal digits that every double keeps

_STRICT = "STRICT_ALL_TABLES"
_MODES = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION"
# What the server says beside the point: 1592 is about its own binlog, should that be in STATEMENT format.
_BENIGN_WARNINGS = frozenset({1592})


_SYNTAX_ERROR = 1064
_LOST_RACES = frozenset({1007, 1050, 1062, 1213})  # a database, a table, a row; CREATE TABLEs dead-lock with each other
_LOCK_WAIT_TIMEOUT = 1205
CANCEL_SECONDS = 2  # for each step of a KILL QUERY: whoever cancels wants to leave


def _no_hook(point: str) -> None:
    """The hook of a sink that nobody watches."""


@dataclass(frozen=True, slots=True)
class MysqlSettings:
    """Where the server is and how to behave there.

    `database` is the one of the URL; it holds the metadata tables, and is made when missing. Without it they are in a
    database `_cdc`. `statement_timeout_seconds` 0 is no limit.
    """

    name: str
    host: str
    port: int
    user: str
    database: str | None = None
    password: Password | str = field(default="", repr=False)
    ssl_mode: SslMode = "preferred"
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    connect_timeout_seconds: float = 10
    statement_timeout_seconds: float = 0
    application_name: str = "cdc"
    hook: StatementHook = _no_hook


class MysqlSink:
    """One MySQL or MariaDB server as a sink (`sinks.base.Sink`). The thread that opens it owns it, but for `cancel`."""

    def __init__(self, settings: MysqlSettings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self._session = ""
        self._transaction: _MysqlTransaction | None = None
        self._is_abandoned = False  # the connection was dropped with a result on its way: `_live` makes another
        self._kind: SinkKind = "mysql"
        self.version: tuple[int, ...] = ()
        self.packet_bytes_max = 0
        self.can_load = False  # does the server take LOAD DATA LOCAL?
        self.can_stage = True  # may this user make temporary tables, as far as is known?
        self.facts: dict[tuple[str, str], _Facts] = {}

    # ------------------------------------------------------------ the session

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> SinkKind:
        return self._kind

    @property
    def hook(self) -> StatementHook:
        return self._settings.hook

    @property
    def has_row_alias(self) -> bool:
        """MySQL from 8.0.20 on warns of VALUES() in ON DUPLICATE KEY UPDATE."""
        return self._kind == "mysql" and self.version >= (8, 0, 20)

    @property
    def keeps_negative_zero(self) -> bool:
        """MariaDB 10.11 stores -0 in a DOUBLE as 0, 11.8 as it is."""
        return self._kind == "mysql" or self.version >= (11, 8)

    def has_lost_race(self, error: CdcError) -> bool:
        cause = error.__cause__
        return isinstance(cause, pymysql.err.MySQLError) and error_number(cause) in _LOST_RACES

    def has_waited_for_lock(self, error: CdcError) -> bool:
        cause = error.__cause__
        return isinstance(cause, pymysql.err.MySQLError) and error_number(cause) == _LOCK_WAIT_TIMEOUT

    def open(self) -> None:
        self.close()
        self._connection = self._connect()
        try:
            self._set_up_session()
        except pymysql.err.MySQLError as error:
            self.close()
            raise self._translated(error, "set up the session") from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            self.close()
            where = f"{self._settings.host}:{self._settings.port}"
            raise ProtocolError(
                f"sink {self.name}: the server at {where} answers what no server says",
                hint="check that the sink's url names a MySQL or MariaDB server, and what lies between",
            ) from error

    def _connect(self, timeout_seconds: float | None = None) -> Connection:
        settings = self._settings
        where = f"connect to {settings.host}:{settings.port} as {settings.user}"

        def connect_with(password: str) -> Connection:
            return tls.connect(
                self._tls_context(),
                # With certificates, it was always asked for.
                is_required=settings.ssl_mode != "preferred" or bool(settings.ssl_ca or settings.ssl_cert),
                host=settings.host,
                port=settings.port,
                user=settings.user,
                password=password.encode(errors="surrogateescape"),  # pymysql would encode a str as latin1
                charset="utf8mb4",
                # Rows are sent by `load_local` only; the driver's own handler, which opens files, stays off.
                client_flag=CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS | CLIENT.LOCAL_FILES,
                local_infile=False,
                autocommit=False,
                connect_timeout=timeout_seconds or max(1, round(settings.connect_timeout_seconds)),
                read_timeout=timeout_seconds or settings.statement_timeout_seconds or None,
                write_timeout=timeout_seconds,
                program_name=settings.application_name,
            )

        try:
            connection = log_in(settings.password, connect_with, is_refused_login)
        except pymysql.err.MySQLError as error:
            password = settings.password
            if is_refused_login(error) and isinstance(password, Password) and password.may_be_rotated:
                raise SinkUnavailable(
                    f"sink {settings.name}: cannot {where}: {error.args[1]} (error {error.args[0]})",
                    hint=f"{password.advice()}the sink's url",
                ) from error
            raise self._translated(error, where) from error
        except (OSError, ValueError, RuntimeError) as error:  # unreadable certificates; a plugin that is not supported
            if own_limit := limit_hint(error):
                raise SinkUnavailable(f"sink {settings.name}: cannot {where}: {error}", hint=own_limit) from error
            raise ConfigError(
                f"sink {settings.name}: cannot {where}: {error}", hint="check ssl_ca, ssl_cert and ssl_key of the sink"
            ) from error
        sock = getattr(connection, "_sock", None)
        if settings.ssl_mode not in ("disabled", "preferred") and not isinstance(sock, ssl.SSLSocket):
            connection.close()
            raise ConfigError(
                f"sink {settings.name}: {settings.host}:{settings.port} offers no TLS, and ssl_mode is "
                f"{settings.ssl_mode}",
                hint="enable TLS on the server, or set ssl_mode: preferred where the network is trusted",
            )
        _keep_alive(sock)
        return connection

    def _tls_context(self) -> ssl.SSLContext | None:
        settings = self._settings
        if settings.ssl_mode == "disabled":
            return None
        return tls.client_context(
            tls.TlsFiles(settings.ssl_ca, settings.ssl_cert, settings.ssl_key),
            is_verified=settings.ssl_mode in ("verify_ca", "verify_identity"),
            checks_name=settings.ssl_mode == "verify_identity",
        )

    def _set_up_session(self) -> None:
        version, packet, binlog_format, local_infile = self._row(
            "SELECT VERSION(), @@max_allowed_packet, IF(@@log_bin, @@binlog_format, ''), @@local_infile"
        )
        self._kind = "mariadb" if "mariadb" in version.lower() else "mysql"
        digits = re.match(r"(?:5\.5\.5-)?(\d+(?:\.\d+)*)", version)
        self.version = tuple(map(int, digits[1].split("."))) if digits else ()
        self.packet_bytes_max = int(packet)
        self.can_load = bool(int(local_infile))
        self.can_stage = True
        self.facts.clear()
        if binlog_format == "STATEMENT":
            # Logged as rows, statements of ours mean the same on its replicas, and temporary tables may be made within
            # a transaction where GTIDs are enforced (error 3748). Wants a right.
            self._set_if_known("binlog_format", "ROW")
            (binlog_format,) = self._row("SELECT @@SESSION.binlog_format")
        # READ COMMITTED takes no gap locks, but a server that logs statements refuses to write under it.
        isolation = "REPEATABLE READ" if binlog_format == "STATEMENT" else "READ COMMITTED"
        self._query("SET NAMES utf8mb4 COLLATE utf8mb4_bin")
        self._query(f"SET SESSION {', '.join(f'{name} = {value}' for name, value in _SESSION.items())}")
        self._query(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}, READ WRITE")
        self._set_if_known("max_error_count", "65535")  # wants a right on MySQL; see `_MysqlTransaction._change`
        if self._kind == "mariadb" and len(self._query(_SPLITS_LOADS)) == 2:
            self.can_load = False  # LOAD DATA would commit by itself, every ten thousand rows
        for name, value in (_MYSQL_SESSION if self._kind == "mysql" else _MARIADB_SESSION).items():
            self._set_if_known(name, value)
        if self._kind == "mariadb" and self._settings.statement_timeout_seconds:
            self._set_if_known("max_statement_time", str(self._settings.statement_timeout_seconds))
        (modes,) = self._row("SELECT @@SESSION.sql_mode")
        if set(modes.split(",")) != {_STRICT, *_MODES.split(",")}:
            raise ConfigError(
                f"sink {self.name}: the session's sql_mode is {modes} after it was set to {_STRICT},{_MODES}",
                hint="connect to the server itself: something between changes the session",
            )
        lock = f"_cdc_{secrets.token_hex(12)}"
        connection_id, is_locked = self._row(f"SELECT CONNECTION_ID(), GET_LOCK('{lock}', 0)")
        self._session = f"{connection_id}/{lock if is_locked else ''}"
        self._live().commit()

    def _set_if_known(self, name: str, value: str) -> None:
        """Not every version knows every variable, nor may every user set it."""
        try:
            self._query(f"SET SESSION {name} = {value}")
        except pymysql.err.MySQLError as error:
            if error_number(error) not in (1193, 1227, 1231):
                raise

    def close(self) -> None:
        self._is_abandoned = False
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(pymysql.err.MySQLError, OSError):
                connection.close()

    def is_open(self) -> bool:
        return self._connection is not None and bool(self._connection.open)

    def end_when_silent(self, seconds: float) -> None:
        # In a transaction or not: there is no other such limit on every server.
        try:
            self._query(f"SET SESSION wait_timeout = {math.ceil(seconds)}")
        except pymysql.err.MySQLError as error:
            raise self._translated(error, "limit the session's silence") from error

    def session(self) -> str:
        return self._session

    def ping(self) -> None:
        """Raise SinkUnavailable when the connection is dead."""
        try:
            self._query("SELECT 1")
            self._end_own_transaction()
        except pymysql.err.MySQLError as error:
            raise self._translated(error, "reach the server") from error

    def cancel(self) -> None:
        """Abort the statement that runs now; from any thread. The statement's own thread gets SinkUnavailable."""
        connection = self._connection
        if connection is None:
            return
        try:
            other = self._connect(CANCEL_SECONDS)
            try:
                other.query(f"KILL QUERY {int(connection.thread_id())}")
            finally:
                other.close()
        except (CdcError, pymysql.err.MySQLError, OSError):  # the server cannot be asked
            self.hang_up()

    def hang_up(self) -> None:
        """End the conversation from this side; from any thread. Who waits for an answer gets SinkUnavailable."""
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            shut_down(sock.fileno())

    def is_session_alive(self, session: str) -> bool | None:
        """Does that session (`session()`, perhaps of another process) still live? None when it cannot be told."""
        try:
            alive = session_is_alive(self._live(), session)
            self._end_own_transaction()
        except pymysql.err.MySQLError as error:
            raise self._translated(error, "look at the server's sessions") from error
        return alive

    def kill_session(self, session: str) -> None:
        """End that session if it still lives. Raises ConfigError when the right to do so is missing."""
        if not self.is_session_alive(session):
            return
        try:
            self._query(f"KILL {int(session.partition('/')[0])}")
        except pymysql.err.MySQLError as error:
            if error_number(error) != 1094:  # it went by itself
                right = "CONNECTION_ADMIN" if self._kind == "mysql" else "CONNECTION ADMIN"
                grant = f"GRANT {right} ON *.* TO {self._account()};"
                raise self._translated(error, f"end session {session}", grant=grant) from error

    # ------------------------------------------------------------ transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[_MysqlTransaction]:
        if self._transaction is not None:
            raise InvariantBroken("one transaction at a time")
        self._live()
        transaction = _MysqlTransaction(self)
        self._transaction = transaction
        try:
            yield transaction
        finally:
            self._transaction = None
            if not transaction.is_committed:
                self._roll_back()

    def _roll_back(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except (pymysql.err.MySQLError, OSError):
            self.close()  # the server rolls back what it no longer hears of

    def _live(self) -> Connection:
        if self._is_abandoned and self._transaction is None:
            self.open()
        if self._connection is None or not self._connection.open:
            raise SinkUnavailable(
                f"sink {self.name}: the connection is closed", hint="the pipeline connects again by itself"
            )
        return self._connection

    def _end_own_transaction(self) -> None:
        """After a statement outside the pipeline's transactions."""
        if self._transaction is None:
            self._live().commit()

    def is_current(self, transaction: _MysqlTransaction) -> bool:
        """Is that the open transaction?"""
        return self._transaction is transaction

    def translated(self, error: BaseException, doing: str, **where: Any) -> CdcError:
        """The error of ours that `error` is."""
        return translate(error, sink=self.name, doing=doing, **where)

    _translated = translated

    def run(self, statement: str | bytes, parameters: Sequence[Any] = ()) -> pymysql.cursors.Cursor:
        """Execute one statement; the cursor holds its whole result. Raises the driver's errors."""
        cursor = cast(pymysql.cursors.Cursor, self._live().cursor())
        with self._no_file_asked_for():
            # The driver sends bytes as they are, which its type information does not say.
            cursor.execute(cast(str, statement), tuple(parameters) or None)
        return cursor

    @contextlib.contextmanager
    def _no_file_asked_for(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the answer asks for a local file: what no honest server does
            self.close()
            raise ProtocolError(f"sink {self.name}: {error}", hint="find out what answers at that address") from error

    def run_all(self, statements: Sequence[bytes]) -> Iterator[pymysql.cursors.Cursor]:
        """Execute statements in one round trip; a cursor for each, as its result comes.

        Raises the driver's errors at the statement that failed; those after it have not been executed.
        """
        cursor = self.run(b";".join(statements))
        yield cursor
        for _ in statements[1:]:
            with self._no_file_asked_for():
                is_there = cursor.nextset()
            if not is_there:
                self.close()
                raise ProtocolError(f"sink {self.name}: a result is missing", hint="is this MySQL or MariaDB?")
            yield cursor

    def load(self, statement: Callable[[str], str], lines: LoadLines) -> LoadReply:
        """LOAD DATA LOCAL of `lines`. Raises the driver's errors."""
        try:
            return load_local(self._live(), statement, lines, packet_bytes_max=self.packet_bytes_max // 2)
        except ForeignRequest as error:
            self.close()
            raise ProtocolError(f"sink {self.name}: {error}", hint="find out what answers at that address") from error

    def _query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return list(self.run(statement, parameters).fetchall())

    def _row(self, statement: str) -> tuple[Any, ...]:
        """The one row of a SELECT without a table."""
        rows = self._query(statement)
        if not rows:
            self.close()
            raise ProtocolError(f"sink {self.name}: no row came for {statement}", hint="is this MySQL or MariaDB?")
        return rows[0]

    # ------------------------------------------------------------ definitions

    @property
    def _metadata_database(self) -> str:
        return self._settings.database or METADATA_DATABASE

    def metadata_table(self, name: str) -> str:
        """For `execute`, where a `%` is doubled."""
        return sql.qualified(self._metadata_database, f"_cdc_{name}").replace("%", "%%")

    def create_metadata_namespace(self) -> None:
        self.create_namespace(self._metadata_database)

    def create_namespace(self, namespace: str) -> None:
        grant = f"GRANT CREATE ON {grant_pattern(namespace)}.* TO {self._account()};"
        with self._definition_statement(f"make the database {namespace}", grant=grant):
            if not self._query("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", (namespace,)):
                self._refuse_open_transaction()
                self.run(f"CREATE DATABASE IF NOT EXISTS {sql.quote(namespace)} CHARACTER SET utf8mb4")

    def _account(self) -> str:
        user = self._settings.user.replace("\\", "\\\\").replace("'", "''")
        return f"'{user}'@'%'"

    @contextlib.contextmanager
    def _definition_statement(self, doing: str, *, table: str | None = None, grant: str = "") -> Iterator[None]:
        try:
            yield
            self._end_own_transaction()
        except pymysql.err.MySQLError as error:
            raise self._translated(error, doing, table=table, grant=grant) from error

    def _refuse_open_transaction(self) -> None:
        if self._transaction is not None:
            raise InvariantBroken("DDL would commit the open transaction")

    def create_table(self, target: TargetTable) -> None:
        self._refuse_open_transaction()
        table = str(target.definition.name)
        with self._definition_statement(f"make the table {target}", table=table, grant=self.table_grant(target)):
            self.run(sql.create_table(target, self._kind))

    def drop_table(self, target: TargetTable) -> None:
        self._refuse_open_transaction()
        table = str(target.definition.name)
        with self._definition_statement(f"drop the table {target}", table=table, grant=self.table_grant(target)):
            self.run(f"DROP TABLE IF EXISTS {sql.qualified(target.namespace, target.name)}")

    def alter_table(self, target: TargetTable, alterations: Sequence[Alteration]) -> None:
        self._refuse_open_transaction()
        table = str(target.definition.name)
        with (
            self._definition_statement(f"alter the table {target}", table=table, grant=self.table_grant(target)),
            self._without_time_limit(),
        ):
            self.run(sql.alter_table(target, alterations, self._kind))

    def follow_ddl(self, alteration: TargetAlteration, existing: ExistingTable) -> None:
        self._refuse_open_transaction()
        target = alteration.after
        table = str(target.definition.name)
        statements = [*alter_statements(alteration, existing, self._kind, self.version), *drop_defaults(alteration)]
        with (
            self._definition_statement(f"alter the table {target}", table=table, grant=self.table_grant(target)),
            self._without_time_limit(),
        ):
            for statement in statements:
                self.run(statement)

    def rename_tables(self, moves: Sequence[tuple[TargetTable, TargetTable]]) -> None:
        self._refuse_open_transaction()
        first = moves[0][0]
        table = str(first.definition.name)
        with (
            self._definition_statement(f"rename the table {first}", table=table, grant=self.table_grant(first)),
            self._without_time_limit(),
        ):
            self.run(mysql_statement(moves))
        for place in ((target.namespace, target.name) for move in moves for target in move):
            self.facts.pop(place, None)

    def define(self, target: TargetTable, statements: Sequence[str]) -> None:
        self._refuse_open_transaction()
        table = str(target.definition.name)
        with (
            self._definition_statement(f"define the table {target}", table=table, grant=self.table_grant(target)),
            self._without_time_limit(),
        ):
            for statement in statements:
                self.run(statement)

    @contextlib.contextmanager
    def _without_time_limit(self) -> Iterator[None]:
        """For what would only begin again, or go on unseen, if it were cut off."""
        seconds = self._settings.statement_timeout_seconds
        if not seconds:
            yield
            return
        connection = self._live()
        if self._kind == "mariadb":
            self._set_if_known("max_statement_time", "0")
        connection._read_timeout = None  # pymysql has no other way
        try:
            yield
        finally:
            connection._read_timeout = seconds
            if self._kind == "mariadb":
                with contextlib.suppress(pymysql.err.MySQLError):  # what the ALTER said is what counts
                    self._set_if_known("max_statement_time", str(seconds))

    def table_grant(self, target: TargetTable) -> str:
        """The rights on a target's database."""
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, CREATE TEMPORARY TABLES"
        return f"GRANT {rights} ON {grant_pattern(target.namespace)}.* TO {self._account()};"

    def inspect(self, target: TargetTable) -> ExistingTable | None:
        place = (target.namespace, target.name)
        with self._definition_statement(f"look at the table {target}", table=str(target.definition.name)):
            found = self._query(_FIND_TABLE, place)
            if not found:
                return None
            problems = [_text(row[0]) for row in self._query(_PROBLEMS, place * 3)]
            columns: dict[str, tuple[str, bool, bool]] = {}
            wanted = {column.name.casefold() for column in target.columns}
            for row in self._query(_COLUMNS, place):
                name, type_text, charset, collation, is_nullable, extra, default = map(_text, row)
                is_generated = "GENERATED" in extra.upper().replace("DEFAULT_GENERATED", "")
                if sql.is_list_of_members(type_text) and may_hide(type_text, charset):
                    type_text = self._told(place, name, type_text)
                canonical = sql.canonical_type(type_text, charset or None, collation or None)
                columns[name] = (canonical, is_nullable == "YES", is_generated)
                has_value = is_nullable == "YES" or row[-1] is not None or default or extra
                if name.casefold() not in wanted and not has_value:
                    problems.append(f"its column {name} is NOT NULL, has no default and is not in the source")
            shared = target.source_column
            if shared is not None:
                mixed = self._query(_MIXED_UNIQUE, (*place, shared.name))
                problems += [mixed_unique_problem(_text(row[0]), shared.name) for row in mixed]
            key = self._query(_PRIMARY_KEY, place)
            if any(part is not None for _, part in key):
                problems.append("its primary key covers only the beginning of a column")
            if not target.key:
                problems += [
                    f"it has the unique index {_text(row[0])}, and the source has no key"
                    for row in self._query(_UNIQUE_INDEXES, place)
                ]
            has_rows = False
            if not problems:
                there = {name.casefold() for name in columns}
                own = sql.own_rows(target) if shared is not None and shared.name.casefold() in there else ""
                has_rows = bool(self._query(f"SELECT EXISTS (SELECT 1 FROM {sql.qualified(*place)}{own})")[0][0])
        return ExistingTable(columns, tuple(_text(name) for name, _ in key), has_rows, tuple(problems))

    def _told(self, place: tuple[str, str], column: str, shown: str) -> str:
        """The type with its members as they are, of which the dictionary may show some as `?`; MySQL 5.7 cannot say."""
        kind, _, listed = shown.partition("(")
        members = sql.members_of(listed)
        flavor: Flavor = "mariadb" if self.kind == "mariadb" else "mysql"
        is_set = kind.lower() == "set"
        query = members_query(flavor, sql.qualified(*place), sql.quote(column), len(members), is_set=is_set)
        try:
            found = [_text(row[0]) for row in self._query(query)]
        except pymysql.err.ProgrammingError as error:
            if error.args[0] != _SYNTAX_ERROR:
                raise
            return shown
        return f"{kind}({','.join(map(sql.text_literal, found))})"

    def differences(self, target: TargetTable, existing: ExistingTable) -> list[str]:
        return table_differences(target, existing)

    def reshaping(
        self,
        target: TargetTable,
        existing: ExistingTable,
        *,
        others: Mapping[str, ColumnDefinition],
        former: Collection[str],
    ) -> Reshaping:
        return reshaping(
            target,
            existing.columns,
            existing.primary_key,
            others=others,
            former=former,
            holds=sql.holds,
            fold=str.casefold,
        )

    def absent(self, targets: Sequence[TargetTable]) -> list[TargetTable]:
        taken = set()  # in one case: this server may not tell names by it
        with self._definition_statement("look for tables"):
            for namespace in dict.fromkeys(target.namespace for target in targets):
                names = [target.name for target in targets if target.namespace == namespace]
                names = list(dict.fromkeys([*names, *(name.lower() for name in names)]))
                found = self._query(f"{_NAMES} ({', '.join(['%s'] * len(names))})", (namespace, *names))
                taken |= {(namespace, _text(row[0]).casefold()) for row in found}
        return [target for target in targets if (target.namespace, target.name.casefold()) not in taken]

    def misfits(self, target: TargetTable, other: TargetTable) -> list[str]:
        return misfits(target, other, holds=sql.holds, fold=str.casefold)

    def stray_value(self, target: TargetTable, values: Sequence[str]) -> str | None:
        with self._definition_statement(f"look at the table {target}", table=str(target.definition.name)):
            found = self._query(sql.stray_value(target, values))
        return _text(found[0][0]) if found else None

    def estimated_rows(self, targets: Sequence[TargetTable]) -> dict[str, int | None]:
        estimates: dict[str, int | None] = {str(target): None for target in targets}
        with self._definition_statement("read the row estimates"):
            for namespace in {target.namespace for target in targets}:
                for name, rows in self._query(_ESTIMATES, (namespace,)):
                    if f"{namespace}.{_text(name)}" in estimates:
                        estimates[f"{namespace}.{_text(name)}"] = None if rows is None else int(rows)
        return estimates

    def read_rows(self, target: TargetTable, *, batch_rows: int) -> Iterator[list[tuple[Any, ...]]]:
        connection = self._live()
        with self._definition_statement(f"read the table {target}", table=str(target.definition.name)):
            cursor = connection.cursor(pymysql.cursors.SSCursor)
            try:
                cursor.execute(sql.select_all(target))
                while rows := cursor.fetchmany(batch_rows):
                    yield from_mysql(rows, target, self._kind)
            finally:
                result = cursor._result
                if result is not None and result.unbuffered_active:  # left early: closing would read all that is left
                    result.unbuffered_active = False
                    connection._force_close()
                    self._is_abandoned = True
                else:
                    cursor.close()
                    self._end_own_transaction()


class _MysqlTransaction:
    """`sinks.base.SinkTransaction` on MySQL and MariaDB; it begins with its first statement."""

    def __init__(self, sink: MysqlSink) -> None:
        self._sink = sink
        self._checked: set[tuple[str, str]] = set()  # places whose facts hold until the end: their definition is locked
        self.is_committed = False

    # ------------------------------------------------------------ rows

    def apply(self, change: ChangeBatch, target: TargetTable) -> ApplyResult:
        if not target.key:
            return apply_keyless(self, change, target)
        counter = PolicyCounter()
        with self._border(f"apply changes to {target}", target):
            deleted = None
            if change.upsert_count + change.delete_count <= FEW_ROWS_MAX and not change.updates:
                deleted = self._apply_few(change, target)
            if deleted is None:
                deleted = self._apply_many(change, target, counter)
        updated = sum(update.images.num_rows for update in change.updates)
        return ApplyResult(change.upsert_count + updated, deleted, counter.changes)

    def load(self, rows: pa.RecordBatch, target: TargetTable) -> ApplyResult:
        counter = PolicyCounter()
        with self._border(f"load rows into {target}", target):
            self._put((rows, None), target, "insert", counter)
        return ApplyResult(upserted=rows.num_rows, policy_changes=counter.changes)

    def end_versions(self, rows: pa.RecordBatch, target: TargetTable) -> None:
        current, kind = versions.ending(target), self._sink.kind
        times = column_of(rows, current.columns[-1]).cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
        statements: list[bytes] = []
        at = 0
        for time_us, group in itertools.groupby(times):  # few times to many keys, but for one-row transactions
            count = sum(1 for _ in group)
            keys = key_literals(rows.slice(at, count), current, kind)
            at += count
            some = sql.chunks(keys, bytes_max=self._statement_bytes_max // 2, count_max=DELETE_CONDITIONS_MAX)
            statements += [versions.end_keys(current, chosen, time_us, kind) for chosen in some]
        with self._border(f"end versions in {target}", target):
            for together in sql.chunks(statements, bytes_max=self._statement_bytes_max, count_max=STATEMENTS_AT_ONCE):
                self._sink.hook("before_statement")
                warnings = sum(cursor.warning_count for cursor in self._sink.run_all(together))
                self._sink.hook("after_statement")
                if warnings:
                    raise pymysql.err.DataError(1105, f"{warnings} warnings where versions end")

    def clear(self, target: TargetTable) -> int:
        with self._border(f"empty {target}", target):
            return self._change(sql.clear(target).encode()).rowcount

    def merge(self, target: TargetTable, new: TargetTable) -> ApplyResult:
        with self._border(f"merge {new} into {target}", target), self._sink._without_time_limit():
            kind = self._sink.kind
            deleted = self._change(merging.delete_others(target, new, kind).encode()).rowcount
            inserted = self._change(merging.insert_missing(target, new, kind).encode()).rowcount
        return ApplyResult(upserted=inserted, deleted=deleted)

    def _apply_many(self, change: ChangeBatch, target: TargetTable, counter: PolicyCounter) -> int:
        """Delete, update, upsert; how many rows were deleted.

        Of a table with another unique index all rows touched are deleted before any is inserted: a value may go from
        one to the other. Rows that are new at the source are tried without.
        """
        gone, there = _selected(change, change.deletes), _selected(change, change.upserts)
        if not there and not change.updates:
            return sum(self._delete_rows(rows, target) for rows in gone)
        facts = self._facts(target)
        must_replace = facts.must_replace
        new: list[_Rows] = []
        if must_replace and not change.updates and not change.may_lack_rows:
            new, there = (_selected(change, selections) for selections in new_and_other(change))
        whole = [update for update in change.updates if must_replace or update.old_keys is not None]
        if not must_replace:  # rows that keep their keys, in a table with no other index, are in nobody's way
            for update in change.updates:
                if update.old_keys is None:
                    self._update(update, change, target, counter)
        if whole:
            self._stage_whole(whole, change, target, counter)
        deleted = sum(self._delete_rows(rows, target) for rows in gone)
        if must_replace:
            for rows in there:
                self._delete_rows(rows, target)
        if new and not self._put_new(new, target, counter):
            for rows in new:
                self._delete_rows(rows, target)
            there = [*there, *new]
        if whole:
            self._change(sql.insert_staged(target).encode())
            self._sink.run(sql.drop_stage(sql.stage_of(target, ())))
        # REPLACE would give columns that are not the source's their defaults.
        keeps_more = facts.column_count > len(target.columns)
        mode: _Mode = "insert" if must_replace else "upsert" if keeps_more else "replace"
        for rows in there:
            self._put(rows, target, mode, counter)
        return deleted

    # ------------------------------------------------------------ partial updates

    def _update(self, update: PartialUpdate, change: ChangeBatch, target: TargetTable, counter: PolicyCounter) -> None:
        """Change columns of rows that keep their keys, in a table without another unique index."""
        columns = _given(update, target)
        count = update.images.num_rows
        if count <= FEW_ROWS_MAX:
            self._update_rows(update, columns, change, target, counter)
            return
        stage = self._stage([(update, columns)], columns, target, counter)
        matched = self._change(sql.update_staged(target, columns).encode()).rowcount
        if matched != count and not change.may_lack_rows:
            self._change(sql.complete_staged(target, 0, (), by_new_key=False).encode())
            raise self._missing([update], target)
        self._sink.run(sql.drop_stage(stage))

    def _update_rows(
        self,
        update: PartialUpdate,
        columns: Sequence[TargetColumn],
        change: ChangeBatch,
        target: TargetTable,
        counter: PolicyCounter,
    ) -> None:
        """As `_update`, row by row."""
        sink, rows, table = self._sink, update.images, str(target.definition.name)
        if not columns:  # nothing but columns that the sink has not
            return
        statements = update_statements(
            rows, target, columns, sink.kind, counter, keeps_negative_zero=sink.keeps_negative_zero
        )
        errors = error_members(rows, columns)
        if not errors and self._update_at_once(statements, may_lack_rows=change.may_lack_rows):
            return
        for index, statement in enumerate(statements):
            try:
                with self._unstrict(bool(errors.get(index))):
                    matched = self._change(statement, errors.get(index, ())).rowcount
            except pymysql.err.MySQLError as error:
                if not is_refusal(error):
                    raise
                key = key_text(rows, target, index)
                refused = sink.translated(error, f"write to {target}", table=table, key=key)
                raise keep_refused_row(refused, rows, target, index) from error
            if matched != 1 and not change.may_lack_rows:
                raise _row_is_missing(update, target, index)

    def _update_at_once(self, statements: Sequence[bytes], *, may_lack_rows: bool) -> bool:
        """Run UPDATEs of a row each in one round trip; False, with nothing done, where one has to be looked at."""
        if sum(map(len, statements)) > self._statement_bytes_max:
            return False
        is_plain, seen = True, 0
        try:
            for cursor in self._sink.run_all([b"SAVEPOINT cdc_rows", *statements]):
                if seen:
                    self._sink.hook("after_statement")
                    is_plain = is_plain and not cursor.warning_count and (may_lack_rows or cursor.rowcount == 1)
                if seen < len(statements):
                    self._sink.hook("before_statement")
                seen += 1
        except pymysql.err.MySQLError as error:
            if not is_refusal(error):
                raise
            is_plain = False
        if not is_plain:
            self._sink.run("ROLLBACK TO SAVEPOINT cdc_rows")
        return is_plain

    def _stage_whole(
        self, updates: Sequence[PartialUpdate], change: ChangeBatch, target: TargetTable, counter: PolicyCounter
    ) -> None:
        """Put whole rows into the staging table, with what the updates do not say from the target; delete these there.

        `sql.insert_staged` inserts them. Where rows may be lacking, one that is not in its old place may be in the new
        one already.
        """
        given = [(update, [*_given(update, target), *sql.key_columns(target)]) for update in updates]
        self._stage(given, target.columns, target, counter)
        found = 0
        for number, (_, columns) in enumerate(given):
            names = {column.name for column in columns}
            missing = [column for column in target.columns if column.name not in names]
            for by_new_key in (False, True) if change.may_lack_rows else (False,):
                statement = sql.complete_staged(target, number, missing, by_new_key=by_new_key)
                found += self._change(statement.encode()).rowcount
        if not change.may_lack_rows and found != sum(update.images.num_rows for update in updates):
            raise self._missing(updates, target)
        self._change(sql.delete_staged(target).encode())
        self._change(sql.delete_staged(target, by_new_key=True).encode())

    def _stage(
        self,
        given: Sequence[tuple[PartialUpdate, Sequence[TargetColumn]]],
        columns: Sequence[TargetColumn],
        target: TargetTable,
        counter: PolicyCounter,
    ) -> TargetTable:
        """Make the staging table with those columns, and fill it with what each update gives."""
        stage = sql.stage_of(target, columns)
        self._make_stage(stage)
        for number, (update, given_columns) in enumerate(given):
            part = sql.stage_of(target, given_columns)
            self._put((_staged_rows(update, part, target, number), None), part, "insert", counter)
        return stage

    def _missing(self, updates: Sequence[PartialUpdate], target: TargetTable) -> UnsupportedData:
        ((number, row),) = self._sink.run(sql.unmatched_staged(target)).fetchall()
        return _row_is_missing(updates[number], target, row)

    @contextlib.contextmanager
    def _unstrict(self, is_wanted: bool) -> Iterator[None]:
        """For the error value of an ENUM, which strict mode refuses."""
        if is_wanted:
            self._sink.run(f"SET SESSION sql_mode = '{_MODES}'")
        try:
            yield
        finally:
            if is_wanted and self._sink.is_open():
                self._sink.run(f"SET SESSION sql_mode = '{_STRICT},{_MODES}'")

    # ------------------------------------------------------------ few rows: one round trip

    def _apply_few(self, change: ChangeBatch, target: TargetTable) -> int | None:
        """Delete and upsert in one round trip; how many rows were deleted.

        None, with nothing done, where it takes more: a row that is left, a refusal, a warning, another definition than
        the one known. The longer way finds out what that is.
        """
        place = (target.namespace, target.name)
        facts = self._sink.facts.get(place) or self._facts(target)
        statements = None if facts.is_noisy else self._few_statements(change, target, facts)
        if statements is None:
            return None
        checks = [] if place in self._checked else [text.encode() for text in sql.definition_check(target)]
        deleted, seen, is_quiet, is_same = 0, 0, True, True
        try:
            self._sink.hook("before_statement")
            for cursor in self._sink.run_all([*checks, b"SAVEPOINT cdc_rows", *statements]):
                seen += 1
                if checks and seen == len(checks):
                    is_same = _definition(cursor) == facts.definition
                elif seen > len(checks) + 1:
                    is_quiet = is_quiet and not cursor.warning_count
                    deleted += cursor.rowcount if seen == len(checks) + 2 and change.delete_count else 0
                    self._sink.hook("after_statement")
                    if seen <= len(checks) + len(statements):
                        self._sink.hook("before_statement")
        except pymysql.err.MySQLError as error:
            if not is_refusal(error):
                raise
            is_quiet = False
        if is_same and is_quiet:
            self._checked.add(place)
            return deleted
        if seen > len(checks):
            self._sink.run("ROLLBACK TO SAVEPOINT cdc_rows")
        if is_same:
            facts.is_noisy = seen == len(checks) + 1 + len(statements)
        else:
            self._sink.facts.pop(place, None)
        return None

    def _few_statements(self, change: ChangeBatch, target: TargetTable, facts: _Facts) -> list[bytes] | None:
        """The delete and the upsert, those of both that are wanted; None where a row is left or they are too large."""
        kind = self._sink.kind
        gone = [key for rows in change.delete_images() for key in key_literals(rows, target, kind)]
        statements = [sql.delete_keys(target, gone)] if gone else []
        if change.upsert_count:
            texts = [self._value_text(rows, target) for rows in _selected(change, change.upserts)]
            if any(len(text.left) or len(text.pieces) > 1 for text in texts):
                return None
            if facts.must_replace:
                touched = [key for rows in change.upsert_images() for key in key_literals(rows, target, kind)]
                statements.append(sql.delete_keys(target, touched))
            values = b"".join(piece for text in texts for piece, _ in text.pieces)
            tail = "" if facts.must_replace else sql.upsert_suffix(target, has_row_alias=self._sink.has_row_alias)
            statements.append(sql.insert_prefix(target).encode() + values[:-1] + tail.encode())
        return statements if statements and sum(map(len, statements)) < self._statement_bytes_max else None

    # ------------------------------------------------------------ many rows

    def _put(self, rows: _Rows, target: TargetTable, mode: _Mode, counter: PolicyCounter) -> None:
        """Write rows, by LOAD DATA where that may be; what it does not take, or is not encoded for it, by INSERTs."""
        batch, selection = rows
        self._sink.run("SAVEPOINT cdc_rows")
        try:
            left = self._write(rows, target, mode)
        except pymysql.err.MySQLError as error:
            if not is_refusal(error):
                raise
            self._sink.run("ROLLBACK TO SAVEPOINT cdc_rows")
            self._put_exactly(batch if selection is None else batch.take(selection), target, mode, counter)
            return
        if len(left):
            self._put_exactly(batch.take(left), target, mode, counter)

    def _put_new(self, there: Sequence[_Rows], target: TargetTable, counter: PolicyCounter) -> bool:
        """Insert rows that are new at the source; False, with nothing done, where some are there, as on a replay."""
        self._sink.run("SAVEPOINT cdc_new")
        try:
            left = [self._write(rows, target, "insert") for rows in there]
        except pymysql.err.MySQLError as error:
            if not is_refusal(error):
                raise
            self._sink.run("ROLLBACK TO SAVEPOINT cdc_new")
            return False
        for (batch, _), rows in zip(there, left, strict=True):
            if len(rows):
                keys = key_literals(batch.take(rows), target, self._sink.kind)
                self._delete(keys, target)  # one of them may be there, on a replay
                self._put_exactly(batch.take(rows), target, "insert", counter)
        return True

    def _write(self, rows: _Rows, target: TargetTable, mode: _Mode) -> pa.Int32Array:
        """Write rows in bulk; the numbers of those that the encoder left. Raises the driver's DataError for a warning.

        After any error some of the rows may be there.
        """
        sink, (batch, selection) = self._sink, rows
        if sink.can_load and mode != "upsert":
            lines = load_lines(
                batch,
                target.columns,
                sink.kind,
                selection,
                row_bytes_max=(sink.packet_bytes_max - PACKET_HEAD_BYTES) // 2,  # its literals fit a statement
                keeps_negative_zero=sink.keeps_negative_zero,
            )
            if self._load(lines, target, replaces=mode == "replace"):
                return lines.take_left()
        text = self._value_text(rows, target)
        head = sql.insert_prefix(target).encode()
        tail = b""
        if mode != "insert":
            tail = sql.upsert_suffix(target, has_row_alias=sink.has_row_alias).encode()
        for piece, _ in text.pieces:
            self._change(b"".join((head, piece[:-1], tail)))
        return text.left

    def _value_text(self, rows: _Rows, target: TargetTable) -> RowPieces:
        sink, (batch, selection) = self._sink, rows
        return value_text(
            batch,
            target.columns,
            sink.kind,
            selection,
            bytes_max=self._statement_bytes_max,
            keeps_negative_zero=sink.keeps_negative_zero,
        )

    def _load(self, lines: LoadLines, target: TargetTable, *, replaces: bool) -> bool:
        """LOAD DATA; False where the server turns out not to take it. Raises DataError unless it took all as it is.

        Without REPLACE, LOCAL means IGNORE even in strict mode: cut values and skipped rows are warnings.
        """
        if lines.is_over:
            return True
        table = sql.qualified(target.namespace, target.name)
        self._sink.hook("before_statement")
        try:
            reply = self._sink.load(lambda token: sql.load_data(token, table, target.columns, replaces=replaces), lines)
        except pymysql.err.MySQLError as error:
            if error_number(error) in LOCAL_INFILE_IS_OFF:
                self._sink.can_load = False
                return False
            raise
        self._sink.hook("after_statement")
        if reply.warnings:
            self._require_expected(reply.warnings)
        if reply.skipped or reply.records != lines.row_count:
            raise pymysql.err.DataError(
                1105, f"of {lines.row_count} rows {reply.records} were read and {reply.skipped} of these skipped"
            )
        return True

    def _delete_rows(self, rows: _Rows, target: TargetTable) -> int:
        """Delete by key, however many of them are there; how many were."""
        batch, selection = rows
        deleted = 0
        left = selection
        if len(target.key) == 1:
            limit = self._statement_bytes_max
            text = key_pieces(batch, target, self._sink.kind, selection, bytes_max=limit, rows_max=DELETE_KEYS_MAX)
            before, _, after = (part.encode() for part in sql.key_condition(target))
            head = sql.delete_prefix(target).encode() + before
            for piece, _ in text.pieces:
                deleted += self._change(b"".join((head, piece[:-1], after))).rowcount
            left = text.left
        elif (batch.num_rows if selection is None else len(selection)) >= STAGED_KEYS_MIN:
            staged = self._delete_staged(rows, target)
            if staged is not None:
                return staged
        if left is None or len(left):
            chosen = batch if left is None else batch.take(left)
            deleted += self._delete(key_literals(chosen, target, self._sink.kind), target)
        return deleted

    def _delete_staged(self, rows: _Rows, target: TargetTable) -> int | None:
        """Delete by a join with a temporary table of keys; None, with nothing done, where none may be made."""
        batch, selection = rows
        if not self._sink.can_stage:
            return None
        stage = sql.keys_stage_of(target)
        try:
            self._make_stage(stage)
        except pymysql.err.MySQLError as error:
            if error_number(error) not in NO_TEMPORARY_TABLE:
                raise
            self._sink.can_stage = False
            return None
        columns = zip(stage.key, sql.key_columns(target), strict=True)
        keys = pa.RecordBatch.from_pydict({name: column_of(batch, column) for name, column in columns})
        self._put((keys, selection), stage, "insert", PolicyCounter())
        deleted = self._change(sql.delete_staged_keys(target).encode()).rowcount
        self._sink.run(sql.drop_stage(stage))
        return deleted

    def _make_stage(self, stage: TargetTable) -> None:
        self._sink.run(sql.drop_stage(stage))
        try:
            self._sink.run(sql.create_stage(stage, self._sink.kind))
        except pymysql.err.MySQLError as error:
            if error_number(error) not in ROW_TOO_LARGE:
                raise
            # It has the key twice, and more columns than the target: what the target holds, it may not.
            self._sink.run(sql.create_stage(sql.slim_stage(stage), self._sink.kind))

    # ------------------------------------------------------------ exactly: every value, every error

    def _put_exactly(self, rows: pa.RecordBatch, target: TargetTable, mode: _Mode, counter: PolicyCounter) -> None:
        part = self._encoded(rows, target, counter)
        if part.errors and mode != "insert":
            errors = rows.take(pa.array(sorted(part.errors), pa.int32()))
            self._delete(key_literals(errors, target, self._sink.kind), target)
        self._insert(part, target, is_upsert=mode != "insert")

    def _encoded(self, rows: pa.RecordBatch, target: TargetTable, counter: PolicyCounter) -> _Encoded:
        sink = self._sink
        literals = row_literals(rows, target, sink.kind, counter, keeps_negative_zero=sink.keeps_negative_zero)
        limit = sink.packet_bytes_max - PACKET_HEAD_BYTES
        for index, literal in enumerate(literals):
            if len(literal) > limit:
                table, key = str(target.definition.name), key_text(rows, target, index)
                raise SinkRefused(
                    f"sink {sink.name}: a row of {table} needs a statement of {len(literal)} bytes, and "
                    f"max_allowed_packet is {sink.packet_bytes_max} (row with {key})",
                    table=table,
                    key=key,
                    hint=f"SET GLOBAL max_allowed_packet = {min(2 * len(literal), 1 << 30)} on the sink, then load the "
                    f"table again: cdc snapshot {table}",
                )
        return _Encoded(rows, literals, error_members(rows, target.columns))

    @property
    def _statement_bytes_max(self) -> int:
        return min(STATEMENT_BYTES_MAX, self._sink.packet_bytes_max - PACKET_HEAD_BYTES)

    def _facts(self, target: TargetTable) -> _Facts:
        """What the definition is now, which no other session can change before the end of this transaction."""
        place = (target.namespace, target.name)
        found = self._sink.facts.get(place)
        if found is None or place not in self._checked:
            *_, cursor = self._sink.run_all([text.encode() for text in sql.definition_check(target)])
            definition = _definition(cursor)
            if found is None or found.definition != definition:
                ((unique_count, column_count),) = self._sink.run(_FACTS, (*place, *place)).fetchall()
                found = self._sink.facts[place] = _Facts(definition, bool(unique_count), int(column_count))
            self._checked.add(place)
        return found

    def _delete(self, keys: Sequence[bytes], target: TargetTable) -> int:
        deleted = 0
        for chunk in sql.chunks(keys, bytes_max=self._statement_bytes_max, count_max=DELETE_CONDITIONS_MAX):
            deleted += self._change(sql.delete_keys(target, chunk)).rowcount
        return deleted

    def _insert(self, part: _Encoded, target: TargetTable, *, is_upsert: bool) -> None:
        """Put the rows of `part` there. Those with an error member are inserted: apply has deleted them."""
        plain = [index for index in range(part.rows.num_rows) if index not in part.errors]
        head = sql.insert_prefix(target).encode()
        tail = sql.upsert_suffix(target, has_row_alias=self._sink.has_row_alias).encode() if is_upsert else b""
        position = 0
        literals = (part.literals[index] for index in plain)
        for chunk in sql.chunks(literals, bytes_max=self._statement_bytes_max, count_max=STATEMENT_ROWS_MAX):
            # A statement that is refused for a warning has done its work: `_blamed` undoes it.
            self._sink.run("SAVEPOINT cdc_rows")
            try:
                self._change(head + b",".join(chunk) + tail)
            except pymysql.err.MySQLError as error:
                if not is_refusal(error):
                    raise
                indexes = plain[position : position + len(chunk)]
                raise self._blamed(error, part, indexes, target, head, tail) from error
            position += len(chunk)
        if part.errors:
            self._insert_error_members(part, target, head)

    def _insert_error_members(self, part: _Encoded, target: TargetTable, head: bytes) -> None:
        """Rows with the error value of an ENUM, which strict mode refuses: one by one without it.

        Every warning has to be the one about an error value, once for each column that holds one.
        """
        with self._unstrict(True):
            for index in sorted(part.errors):
                try:
                    self._change(head + part.literals[index], part.errors[index])
                except pymysql.err.MySQLError as error:
                    if not is_refusal(error):
                        raise
                    raise self._refused(error, part, index, target) from error

    def _refused(self, error: BaseException, part: _Encoded, index: int | None, target: TargetTable) -> CdcError:
        """The error for row `index`; None: nobody knows which."""
        table = str(target.definition.name)
        key = None if index is None else key_text(part.rows, target, index)
        refused = self._sink.translated(error, f"write to {target}", table=table, key=key)
        return refused if index is None else keep_refused_row(refused, part.rows, target, index)

    def _change(self, statement: bytes, error_columns: Sequence[str] = ()) -> pymysql.cursors.Cursor:
        """Run a statement that changes rows.

        Raises the driver's DataError for so much as a warning, except for one about each of `error_columns`.
        """
        self._sink.hook("before_statement")
        cursor = self._sink.run(statement)
        self._sink.hook("after_statement")
        if cursor.warning_count or error_columns:
            expected = error_columns if cursor.rowcount else ()  # of a row that was not there, there is nothing to say
            self._require_expected(cursor.warning_count, expected)
        return cursor

    def _require_expected(self, warning_count: int, error_columns: Sequence[str] = ()) -> None:
        """Raise the driver's DataError for a warning of the last statement that is none of those expected."""
        expected = Counter(error_columns)
        told = self._sink.run("SHOW WARNINGS").fetchall() if warning_count else ()
        if len(told) < warning_count:  # max_error_count is smaller, and not ours to set
            raise pymysql.err.DataError(1105, f"{warning_count} warnings, of which the server tells {told}")
        for _, number, raw in told:
            text = _text(raw)
            match = _TRUNCATED.fullmatch(text)
            if number == 1265 and match is not None and expected[match[1]]:
                expected[match[1]] -= 1
            elif number not in _BENIGN_WARNINGS:
                raise pymysql.err.DataError(number, text)
        if +expected:
            raise InvariantBroken(f"no warning came for the error members of {', '.join(+expected)}")

    # ------------------------------------------------------------ which row it was

    def _blamed(
        self,
        error: pymysql.err.MySQLError,
        part: _Encoded,
        indexes: Sequence[int],
        target: TargetTable,
        head: bytes,
        tail: bytes,
    ) -> CdcError:
        """Try ever shorter beginnings of the refused statement, each undone, to name the row."""
        self._sink.run("ROLLBACK TO SAVEPOINT cdc_rows")
        latest: BaseException = error

        def is_refused(count: int) -> bool:
            nonlocal latest
            literals = [part.literals[index] for index in indexes[:count]]
            try:
                self._change(head + b",".join(literals) + tail)
            except pymysql.err.MySQLError as refused:
                if not is_refusal(refused):  # a dead-lock, say: then the savepoint is gone, too
                    raise
                latest, was_refused = refused, True
            else:
                was_refused = False
            self._sink.run("ROLLBACK TO SAVEPOINT cdc_rows")
            return was_refused

        position = first_refused(len(indexes), is_refused)
        return self._refused(latest, part, None if position is None else indexes[position], target)

    # ------------------------------------------------------------ metadata

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._border("run a metadata statement", None):
            cursor = self._sink.run(statement if parameters else statement.replace("%%", "%"), parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def execute_count(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        with self._border("run a metadata statement", None):
            return self._sink.run(statement if parameters else statement.replace("%%", "%"), parameters).rowcount

    def execute_on(self, target: TargetTable, statement: str, parameters: Sequence[Any] = ()) -> int:
        with self._border(f"change rows of {target}", target):
            return self._sink.run(statement if parameters else statement.replace("%%", "%"), parameters).rowcount

    def rewrite(self, target: TargetTable, statement: str) -> int:
        with self._border(f"fill columns of {target}", target), self._sink._without_time_limit():
            return self._sink.run(statement.replace("%%", "%")).rowcount

    def execute_later(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self.execute_count(statement, parameters)

    def commit(self) -> None:
        self._check_open()
        try:
            self._sink.run("COMMIT")
        except pymysql.err.MySQLError as error:
            raise SinkUnavailable(
                f"sink {self._sink.name}: the connection was lost while committing: it is not known whether the "
                f"transaction is there (error {error_number(error)})",
                hint="the pipeline reads the checkpoint from the sink and goes on from there",
            ) from error
        self.is_committed = True

    # ------------------------------------------------------------ border

    def _check_open(self) -> None:
        if self.is_committed or not self._sink.is_current(self):
            raise InvariantBroken("this transaction is over")

    @contextlib.contextmanager
    def _border(self, doing: str, target: TargetTable | None) -> Iterator[None]:
        self._check_open()
        try:
            yield
        except pymysql.err.MySQLError as error:
            where: dict[str, Any] = {}
            if target is not None:
                where = {"table": str(target.definition.name), "grant": self._sink.table_grant(target)}
            raise self._sink.translated(error, doing, **where) from error


_Mode = Literal["insert", "replace", "upsert"]  # LOAD DATA has no ON DUPLICATE KEY UPDATE, which the last one is
_Rows = tuple[pa.RecordBatch, pa.Int32Array | None]  # and which of them; None: all


def _selected(change: ChangeBatch, selections: Sequence[pa.Int32Array]) -> list[_Rows]:
    """The selected rows of each of the change's batches, without those of which none are."""
    pairs = zip(change.batches, selections, strict=True)
    return [(batch.images, selection) for batch, selection in pairs if len(selection)]


def _given(update: PartialUpdate, target: TargetTable) -> list[TargetColumn]:
    """The target's columns that the update gives, but for the key's."""
    return [column for column in target.columns if column.source.name in update.columns and not column.is_key]


def _staged_rows(update: PartialUpdate, part: TargetTable, target: TargetTable, number: int) -> pa.RecordBatch:
    """The rows of an update as the columns of `part`, a staging table, want them."""
    keys = update.images if update.old_keys is None else update.old_keys
    count = update.images.num_rows
    arrays = {name: column_of(keys, column) for name, column in zip(part.key, sql.key_columns(target), strict=True)}
    arrays |= {
        column.source.name: column_of(update.images, column)
        for column in part.columns
        if column.name not in (*part.key, sql.SET_COLUMN, sql.ROW_COLUMN)
    }
    arrays[sql.SET_COLUMN] = pa.array([number] * count, pa.int32())
    arrays[sql.ROW_COLUMN] = pa.array(range(count), pa.int32())
    return pa.RecordBatch.from_pydict(arrays)


def _row_is_missing(update: PartialUpdate, target: TargetTable, index: int) -> UnsupportedData:
    key = key_text(update.images if update.old_keys is None else update.old_keys, target, index)
    table = str(target.definition.name)
    return UnsupportedData(
        f"{table}: an update gives {', '.join(update.columns)} of a row that {target} does not have (row with {key})",
        table=table,
        key=key,
        hint=f"the sink's table was changed by somebody else: load it again, cdc snapshot {table}",
    )


@dataclass(slots=True)
class _Facts:
    """What of a target's definition decides how its rows are written; and a digest of that, to tell a new one.

    `must_replace`: it has a unique index besides its primary key, so that rows touched are deleted before they are
    inserted. `is_noisy`: its statements have warnings that are none.
    """

    definition: bytes
    must_replace: bool
    column_count: int
    is_noisy: bool = False


def _definition(cursor: pymysql.cursors.Cursor) -> bytes:
    """A digest of what SHOW CREATE TABLE prints, without what every insert may change."""
    rows = cursor.fetchall()
    text = _AUTO_INCREMENT.sub("", _text(rows[0][1])) if rows else ""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


_AUTO_INCREMENT = re.compile(r" AUTO_INCREMENT=\d+")


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Rows, their value lists, and which of them hold the error value of which ENUM columns."""

    rows: pa.RecordBatch
    literals: list[bytes]
    errors: dict[int, list[str]]


_TRUNCATED = re.compile(r"Data truncated for column '(.*)' at row \d+", re.DOTALL)


def _text(value: Any) -> str:
    """information_schema's texts; some servers say binary."""
    if value is None:
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)


def _keep_alive(sock: Any) -> None:
    """A peer that is gone without a word is noticed within a minute or so."""
    if sock is None:
        return
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


# Everything that could change what a statement of ours does, whatever the server's defaults are.
_SESSION = {
    "sql_mode": f"'{_STRICT},{_MODES}'",
    "time_zone": "'+00:00'",
    "lc_messages": "'en_US'",
    "foreign_key_checks": "0",
    "unique_checks": "1",
    "sql_safe_updates": "0",
    "sql_notes": "1",
    "completion_type": "0",
    "sql_auto_is_null": "0",
    "sql_big_selects": "1",
    "sql_select_limit": "18446744073709551615",
    "innodb_lock_wait_timeout": str(LOCK_WAIT_SECONDS),
    "lock_wait_timeout": str(LOCK_WAIT_SECONDS),
    "net_read_timeout": "600",
    "net_write_timeout": "600",
    "wait_timeout": "86400",
    "autocommit": "0",
}
_MYSQL_SESSION = {
    "max_execution_time": "0",
    "range_optimizer_max_mem_size": "0",  # a long list of keys never becomes a scan of the table
    "information_schema_stats_expiry": "0",
}
# Two rows on a Galera cluster that cuts LOAD DATA into transactions of its own; nothing where there is no Galera.
_SPLITS_LOADS = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('wsrep_on', 'wsrep_load_data_splitting') AND Value = 'ON'"
)
_MARIADB_SESSION = {"old_mode": "''", "max_statement_time": "0", "idle_transaction_timeout": "0"}


def session_is_alive(sink_connection: Connection, session: str) -> bool | None:
    """Does the session `id/lock` still live on that server? None when it cannot be told.

    A session holds a lock of a name of its own, which ends with it: ids are used again after a restart, and the
    processes of other users are not for everybody to see.
    """
    connection_id, _, lock = session.partition("/")
    if not connection_id.isdigit() or not lock:
        return None
    with sink_connection.cursor() as cursor:
        cursor.execute("SELECT IS_USED_LOCK(%s)", (lock,))
        (holder,) = cursor.fetchone()
    return holder is not None


# ---------------------------------------------------------------- comparing definitions


def table_differences(target: TargetTable, existing: ExistingTable) -> list[str]:
    """Why `existing` cannot hold `target`'s rows, one sentence each; [] when it can."""
    found = list(existing.problems)
    columns = {name.casefold(): described for name, described in existing.columns.items()}
    for column in target.columns:
        if column.name.casefold() not in columns:
            found.append(f"it has no column {column.name}; wanted is {column.sql_type}")
            continue
        has, is_nullable, is_generated = columns[column.name.casefold()]
        wants = sql.canonical_type(column.sql_type)
        if is_generated:
            found.append(f"column {column.name} is generated on the sink")
        if not sql.can_hold(has, wants, is_key=column.is_key) and not _rounds_as_the_source(has, column):
            found.append(f"column {column.name} is {has}; wanted is {wants}")
        if column.is_nullable and not is_nullable:
            found.append(f"column {column.name} is NOT NULL, and NULL may come")
    is_made_by_server = not target.key and existing.primary_key == (_GENERATED_KEY,)
    if [n.casefold() for n in existing.primary_key] != [n.casefold() for n in target.key] and not is_made_by_server:
        has_key = ", ".join(existing.primary_key) or "missing"
        found.append(f"the primary key is {has_key}; wanted is {', '.join(target.key) or 'none'}")
    return found


def _rounds_as_the_source(has: str, column: TargetColumn) -> bool:
    """A FLOAT(M,D) or DOUBLE(M,D) like the source's, of few enough digits that rounding again changes nothing."""
    if column.source.kind not in (ValueKind.FLOAT, ValueKind.DOUBLE):
        return False
    digits = re.match(r"(?:float|double)\((\d+),", has)
    is_small = digits is not None and int(digits[1]) <= DOUBLE_DIGITS
    return is_small and has == sql.canonical_type(column.source.column_type)


_FIND_TABLE = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"

_NAMES = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN"

_COLUMNS = (
    "SELECT COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, COLLATION_NAME, IS_NULLABLE, EXTRA, COLUMN_DEFAULT "
    "FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION"
)

_PRIMARY_KEY = (
    "SELECT COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX"
)

_GENERATED_KEY = "my_row_id"  # what MySQL adds where sql_generate_invisible_primary_key is on

_UNIQUE_INDEXES = (
    "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
    "AND NON_UNIQUE = 0 AND INDEX_NAME <> 'PRIMARY'"
)

# How many parts of unique indexes besides the primary key, and how many columns that are not generated.
_FACTS = (
    "SELECT (SELECT COUNT(*) FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
    "AND NON_UNIQUE = 0 AND INDEX_NAME <> 'PRIMARY'), "
    "(SELECT COUNT(*) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
    "AND EXTRA NOT IN ('VIRTUAL GENERATED', 'STORED GENERATED'))"
)

_PROBLEMS = (
    "SELECT CONCAT('it is no plain table (', LOWER(TABLE_TYPE), ')') FROM information_schema.TABLES "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND TABLE_TYPE <> 'BASE TABLE' "
    "UNION ALL SELECT CONCAT('its engine ', ENGINE, ' has no transactions') FROM information_schema.TABLES "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND TABLE_TYPE = 'BASE TABLE' AND ENGINE NOT IN "
    "(SELECT ENGINE FROM information_schema.ENGINES WHERE TRANSACTIONS = 'YES') "
    "UNION ALL SELECT CONCAT('it has the trigger ', TRIGGER_NAME) FROM information_schema.TRIGGERS "
    "WHERE EVENT_OBJECT_SCHEMA = %s AND EVENT_OBJECT_TABLE = %s"
)

# Unique indexes besides the primary key that do not have a column.
_MIXED_UNIQUE = (
    "SELECT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
    "AND NON_UNIQUE = 0 AND INDEX_NAME <> 'PRIMARY' GROUP BY INDEX_NAME HAVING SUM(COLUMN_NAME = %s) = 0"
)

_ESTIMATES = "SELECT TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
