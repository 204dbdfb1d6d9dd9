"""PostgreSQL as a sink: the session, the definitions, and reading back.

The contract is `sinks.base`; rows are applied in `apply_postgres`, SQL text is made in `sql_postgres`, errors in
`errors_postgres`. The session's settings are all set here, so that the server's defaults do not matter. The driver
begins no transactions: those of the pipeline begin in `apply_postgres`, everything else is a statement by itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg2
import psycopg2.extensions

from cdc.credentials import Password, log_in
from cdc.errors import CdcError, InvariantBroken, ProtocolError, SinkRefused, SinkUnavailable
from cdc.model import ColumnDefinition
from cdc.schema.alteration import TargetAlteration
from cdc.schema.column_text import Unproven
from cdc.schema.sharing import Alteration, Reshaping, misfits, reshaping
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks import sql_postgres as sql
from cdc.sinks.alter_postgres import alter_statements
from cdc.sinks.apply_postgres import BEGIN, PostgresTransaction, Workspace
from cdc.sinks.base import ExistingTable, StatementHook, mixed_unique_problem
from cdc.sinks.canonical import from_postgres
from cdc.sinks.errors_postgres import is_refused_login, translate, translate_connect, translate_set_up
from cdc.sinks.hang_up import shut_down
from cdc.sinks.rename import postgres_statements, taken_over

__all__ = ["PostgresSettings", "PostgresSink", "SslMode", "session_is_alive"]

SslMode = Literal["disabled", "preferred", "required", "verify_ca", "verify_identity"]

METADATA_SCHEMA = "_cdc"
LOCK_TIMEOUT_SECONDS = 60  # an ALTER TABLE beside us: give way and try again rather than hang

# A unique index of a table or of the catalogue; a schema, table or type of that name; a dead-lock.
_LOST_RACES = frozenset({"23505", "42P06", "42P07", "42710", "40P01"})
_LOCK_NOT_AVAILABLE = "55P03"
_CREATE_ATTEMPTS = 3
# Of two tables: the views that show the first, and whether their grants differ.
_DEPENDS_ON_NAME = (
    "SELECT (SELECT count(*) FROM pg_depend WHERE classid = 'pg_rewrite'::regclass AND deptype = 'n' "
    "AND refclassid = 'pg_class'::regclass AND refobjid = a.oid), a.relacl IS DISTINCT FROM b.relacl "
    "FROM pg_class a, pg_class b WHERE a.oid = %s::regclass AND b.oid = %s::regclass"
)
CANCEL_SECONDS = 2  # whoever cancels wants to leave
_HAS_REQUIRE_AUTH = 160000
# The one variable of libpq that counts: where a password may be, for a url that has none.
_KEPT_VARIABLE = "PGPASSFILE"

_SSL_MODES = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}


def _hide_environment() -> None:
    """Hide libpq's variables from it: what the configuration leaves out it would take from there, such as another
    address (PGHOSTADDR, PGSERVICE) or a standby instead of the primary.

    To give it each parameter does not do: no value of `service` means none. For the rest of the program, and for the
    configuration's own ${PG…}, they stay in `os.environ`.
    """
    for name in os.environ:
        if name.startswith("PG") and name != _KEPT_VARIABLE:
            os.unsetenv(name)


def _no_hook(point: str) -> None:
    """The hook of a sink that nobody watches."""


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """Where the server is and how to behave there. `statement_timeout_seconds` 0 is no limit."""

    name: str
    host: str
    port: int
    user: str
    database: str
    password: Password | str = field(default="", repr=False)
    ssl_mode: SslMode = "preferred"
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    connect_timeout_seconds: float = 10
    statement_timeout_seconds: float = 0
    application_name: str = "cdc"
    hook: StatementHook = _no_hook


class PostgresSink:
    """One PostgreSQL database as a sink (`sinks.base.Sink`). The thread that opens it owns it, except for `cancel`."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: psycopg2.extensions.connection | None = None
        self._session = ""
        self._transaction: PostgresTransaction | None = None
        self._workspace = Workspace()
        self._made_inside: list[TargetTable] = []  # by the open transaction

    # ------------------------------------------------------------ the session

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> SinkKind:
        return "postgresql"

    def has_lost_race(self, error: CdcError) -> bool:
        return getattr(error.__cause__, "pgcode", None) in _LOST_RACES

    def has_waited_for_lock(self, error: CdcError) -> bool:
        return getattr(error.__cause__, "pgcode", None) == _LOCK_NOT_AVAILABLE

    def open(self) -> None:
        self.close()
        settings = self._settings
        try:
            connection = self._log_in()
        except psycopg2.Error as error:
            password = settings.password
            if is_refused_login(error) and isinstance(password, Password) and password.may_be_rotated:
                raise SinkUnavailable(
                    f"sink {settings.name}: cannot connect to PostgreSQL at {settings.host}:{settings.port} as "
                    f"{settings.user}: {str(error).strip()}",
                    hint=f"{password.advice()}the sink's url",
                ) from error
            raise translate_connect(
                error,
                sink=settings.name,
                where=f"{settings.host}:{settings.port}",
                user=settings.user,
                database=settings.database,
            ) from error
        self._connection = connection
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"{BEGIN}; {self._session_settings()}")  # which a server in recovery refuses
                cursor.execute("COMMIT")
                cursor.execute(_OWN_SESSION)
                row: Any = cursor.fetchone()
                self._session = str(row[0])
        except psycopg2.Error as error:
            self.close()
            where = f"{settings.host}:{settings.port}"
            raise translate_set_up(error, sink=settings.name, where=where) from error
        except (TypeError, ValueError) as error:
            self.close()
            raise ProtocolError(
                f"sink {settings.name}: the server at {settings.host}:{settings.port} answers what no server says",
                hint="check that the sink's url names a PostgreSQL server, and what lies between",
            ) from error

    def _log_in(self, **parameters: Any) -> psycopg2.extensions.connection:
        def connect_with(password: str) -> psycopg2.extensions.connection:
            _hide_environment()
            try:
                made: psycopg2.extensions.connection = psycopg2.connect(
                    **{**self._connect_parameters(), "password": password, **parameters}
                )
            except UnicodeDecodeError as error:
                raise psycopg2.OperationalError("what answers there does so in no UTF-8") from error
            return made

        return log_in(self._settings.password, connect_with, is_refused_login)

    def _connect_parameters(self) -> dict[str, Any]:
        settings = self._settings
        parameters: dict[str, Any] = {
            "host": settings.host,
            "port": settings.port,
            "user": settings.user,
            "dbname": settings.database,
            "sslmode": _SSL_MODES[settings.ssl_mode],
            "gssencmode": "disable",
            "connect_timeout": max(2, round(settings.connect_timeout_seconds)),  # libpq takes whole seconds, 2 at least
            "application_name": settings.application_name,
            "client_encoding": "UTF8",
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        if (
            settings.ssl_mode not in ("verify_ca", "verify_identity")
            and psycopg2.__libpq_version__ >= _HAS_REQUIRE_AUTH
        ):
            parameters["require_auth"] = "!password"  # the password in the clear is for a server that is verified
        if settings.ssl_ca:
            parameters["sslrootcert"] = settings.ssl_ca
        elif settings.ssl_mode == "verify_identity":
            parameters["sslrootcert"] = "system"
        if settings.ssl_cert:
            parameters["sslcert"] = settings.ssl_cert
            parameters["sslkey"] = settings.ssl_key or settings.ssl_cert
        return parameters

    def _session_settings(self) -> str:
        timeout_ms = round(self._settings.statement_timeout_seconds * 1000)
        values = {
            "timezone": "UTC",
            "datestyle": "ISO, YMD",
            "intervalstyle": "postgres",
            "bytea_output": "hex",
            "extra_float_digits": "1",
            "standard_conforming_strings": "on",
            "client_min_messages": "warning",
            "search_path": "pg_catalog",
            "row_security": "off",  # a policy that hides rows is an error, not a silent difference
            "statement_timeout": str(timeout_ms),
            "lock_timeout": str(LOCK_TIMEOUT_SECONDS * 1000),
            "idle_in_transaction_session_timeout": "0",
            "jit": "off",
            "default_transaction_isolation": "read committed",
            "default_transaction_read_only": "off",
            "default_transaction_deferrable": "off",
        }
        return "; ".join(f"SET {name} = '{value}'" for name, value in values.items())

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._workspace = Workspace()
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def is_open(self) -> bool:
        return self._connection is not None and self._connection.closed == 0

    def end_when_silent(self, seconds: float) -> None:
        connection = self._live()
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SET idle_in_transaction_session_timeout = {math.ceil(seconds * 1000)}")
        except psycopg2.Error as error:
            raise self._translated(error, "limit the session's silence") from error

    def session(self) -> str:
        return self._session

    def ping(self) -> None:
        """Raise SinkUnavailable when the connection is dead."""
        connection = self._live()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise self._translated(error, "reach the server") from error

    def cancel(self) -> None:
        """Abort the statement that runs now; from any thread. The statement's own thread gets SinkUnavailable."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        is_cancelled = threading.Event()

        def cancel() -> None:
            # Not `connection.cancel()`: libpq's request waits for the server without a time limit.
            with contextlib.suppress(psycopg2.Error):
                other = self._log_in(connect_timeout=CANCEL_SECONDS)
                try:
                    with other.cursor() as cursor:
                        cursor.execute("SELECT pg_cancel_backend(%s)", (int(self._session.partition("/")[0]),))
                    is_cancelled.set()
                finally:
                    other.close()

        thread = threading.Thread(target=cancel, name=f"cancel-{self.name}", daemon=True)
        thread.start()
        thread.join(CANCEL_SECONDS)
        if not is_cancelled.is_set():  # the server cannot be asked
            self.hang_up()

    def hang_up(self) -> None:
        """End the conversation from this side; from any thread. Who waits for an answer gets SinkUnavailable."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                shut_down(connection.fileno())

    def is_session_alive(self, session: str) -> bool | None:
        """Does that session (`session()`, perhaps of another process) still live? None when it cannot be told."""
        try:
            return session_is_alive(self._live(), session)
        except psycopg2.Error as error:
            raise self._translated(error, "look at the server's sessions") from error

    def kill_session(self, session: str) -> None:
        """End that session if it still lives. Raises ConfigError when the right to do so is missing."""
        pid, _, start = session.partition("/")
        try:
            with self._live().cursor() as cursor:
                cursor.execute(f"SELECT pg_terminate_backend(pid) {_FROM_SESSIONS} AND {_START} = %s", (pid, start))
        except psycopg2.Error as error:
            user = sql.quote(self._settings.user)
            raise self._translated(
                error, f"end session {session}", grant=f"GRANT pg_signal_backend TO {user};"
            ) from error

    # ------------------------------------------------------------ transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        if self._transaction is not None:
            raise InvariantBroken("one transaction at a time")
        transaction = PostgresTransaction(
            self._live(), self._workspace, sink=self.name, hook=self._settings.hook, grant_of=self._table_grant
        )
        self._transaction = transaction
        try:
            yield transaction
        finally:
            self._transaction = None
            transaction.is_over = True
            made, self._made_inside = self._made_inside, []
            for target in made if not transaction.is_committed else ():
                self._workspace.forget(target)
            if not transaction.is_committed and self._connection is not None:
                try:
                    transaction.roll_back()
                except psycopg2.Error:
                    self.close()  # the server rolls back what it no longer hears of

    def _live(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            raise SinkUnavailable(
                f"sink {self.name}: the connection is closed", hint="the pipeline connects again by itself"
            )
        return self._connection

    def _translated(self, error: psycopg2.Error, doing: str, **where: Any) -> CdcError:
        return translate(error, sink=self.name, doing=doing, **where)

    # ------------------------------------------------------------ definitions

    def metadata_table(self, name: str) -> str:
        return sql.qualified(METADATA_SCHEMA, name)

    def create_metadata_namespace(self) -> None:
        self.create_namespace(METADATA_SCHEMA)

    def create_namespace(self, namespace: str) -> None:
        for _ in range(_CREATE_ATTEMPTS - 1):
            try:
                self._create_namespace(namespace)
            except CdcError as error:  # another session made it meanwhile, which IF NOT EXISTS does not see
                if self._transaction is not None or not self.has_lost_race(error):
                    raise
            else:
                return
        self._create_namespace(namespace)

    def _create_namespace(self, namespace: str) -> None:
        with self._definition_statement(f"make the schema {namespace}", grant=self._database_grant("CREATE")) as cursor:
            cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (namespace,))
            if cursor.fetchone() is None:  # IF NOT EXISTS would ask for the right to make it even so
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.quote(namespace)}")

    def _database_grant(self, right: str) -> str:
        return f"GRANT {right} ON DATABASE {sql.quote(self._settings.database)} TO {sql.quote(self._settings.user)};"

    @contextlib.contextmanager
    def _definition_statement(
        self, doing: str, *, table: str | None = None, grant: str = ""
    ) -> Iterator[psycopg2.extensions.cursor]:
        """A cursor for DDL or a look at the catalogue: in the open transaction, or each statement in one of its own."""
        try:
            with self._live().cursor() as cursor:
                if self._transaction is not None:
                    self._transaction.begin(cursor)
                yield cursor
        except psycopg2.Error as error:
            raise self._translated(error, doing, table=table, grant=grant) from error

    def create_table(self, target: TargetTable) -> None:
        schema, user = sql.quote(target.namespace), sql.quote(self._settings.user)
        self._require_geometry(target)
        with self._definition_statement(
            f"make the table {target}",
            table=str(target.definition.name),
            grant=f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user};",
        ) as cursor:
            cursor.execute(sql.create_table(target))
        self._workspace.made_by_us(target)
        if self._transaction is not None:
            self._made_inside.append(target)

    def _require_geometry(self, target: TargetTable) -> None:
        column = next((column for column in target.columns if column.sql_type == "geometry"), None)
        if column is None:
            return
        table = str(target.definition.name)
        with self._definition_statement("look for PostGIS", table=table) as cursor:
            cursor.execute("SELECT to_regtype('geometry') IS NOT NULL")
            found = cursor.fetchone()
        if found is None or not found[0]:
            raise SinkRefused(
                f"{table}: column {column.name} is to be a geometry, and sink {self.name} has no PostGIS",
                table=table,
                column=column.source.name,
                hint="CREATE EXTENSION postgis (in a schema of the search_path), or leave the type to the mapping",
            )

    def drop_table(self, target: TargetTable) -> None:
        with self._definition_statement(
            f"drop the table {target}",
            table=str(target.definition.name),
            grant=self._owner_grant(target),
        ) as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {sql.qualified(target.namespace, target.name)}")
        self._workspace.forget(target)

    def alter_table(self, target: TargetTable, alterations: Sequence[Alteration]) -> None:
        with self._definition_statement(
            f"alter the table {target}", table=str(target.definition.name), grant=self._owner_grant(target)
        ) as cursor:
            if self._transaction is not None:
                cursor.execute("SET LOCAL statement_timeout = 0")
            cursor.execute(sql.alter_table(target, alterations))
        self._workspace.forget(target)

    def _owner_grant(self, target: TargetTable) -> str:
        table = sql.qualified(target.namespace, target.name)
        return f"ALTER TABLE {table} OWNER TO {sql.quote(self._settings.user)};"

    def follow_ddl(self, alteration: TargetAlteration, existing: ExistingTable) -> None:
        target = alteration.after
        with self._definition_statement(
            f"alter the table {target}",
            table=str(target.definition.name),
            grant=f"ALTER TABLE {sql.qualified(target.namespace, target.name)} OWNER TO "
            f"{sql.quote(self._settings.user)};",
        ) as cursor:
            # A rewrite that was cut off would only begin again. Until the end of the transaction.
            cursor.execute("SET LOCAL statement_timeout = 0")
            for statement in alter_statements(alteration, existing):
                cursor.execute(statement)
        self._workspace.forget(target)

    def rename_tables(self, moves: Sequence[tuple[TargetTable, TargetTable]]) -> None:
        first = moves[0][0]
        with self._definition_statement(
            f"rename the table {first}", table=str(first.definition.name), grant=self._owner_grant(first)
        ) as cursor:
            for left, taker in taken_over(moves):
                places = [sql.qualified(target.namespace, target.name) for target in (left, taker)]
                cursor.execute(_DEPENDS_ON_NAME, places)
                ((view_count, has_other_grants),) = cursor.fetchall()
                if view_count or has_other_grants:
                    what = "views show it" if view_count else "it has grants of its own"
                    raise Unproven(f"{left} leaves its name to {taker}, and {what}")
            cursor.execute("SET LOCAL statement_timeout = 0")
            for statement in postgres_statements(moves):
                cursor.execute(statement)
        for target in (target for move in moves for target in move):
            self._workspace.forget(target)

    def define(self, target: TargetTable, statements: Sequence[str]) -> None:
        with self._definition_statement(
            f"define the table {target}", table=str(target.definition.name), grant=self._owner_grant(target)
        ) as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")
            for statement in statements:
                cursor.execute(statement)
        self._workspace.forget(target)

    def inspect(self, target: TargetTable) -> ExistingTable | None:
        with self._definition_statement(f"look at the table {target}", table=str(target.definition.name)) as cursor:
            cursor.execute(_FIND_TABLE, (target.namespace, target.name))
            found = cursor.fetchone()
            if found is None:
                return None
            oid, problems = found[0], [text for text in found[1:] if text]
            cursor.execute(_COLUMNS, (oid,))
            columns: dict[str, tuple[str, bool, bool]] = {}
            for name, type_text, is_not_null, is_generated, *details in cursor.fetchall():
                columns[name] = (type_text, not is_not_null, is_generated)
                problems += _column_problems(target, name, is_not_null, *details)
            cursor.execute(_PRIMARY_KEY, (oid,))
            key = tuple(row[0] for row in cursor.fetchall())
            cursor.execute(_PROBLEMS, {"oid": oid})
            problems += [row[0] for row in cursor.fetchall()]
            if not target.key:
                cursor.execute(_UNIQUE_INDEXES, (oid,))
                problems += [
                    f"it has the unique index {row[0]}, and the source has no key" for row in cursor.fetchall()
                ]
            if target.source_column is not None:
                cursor.execute(_MIXED_UNIQUE, (oid, target.source_column.name))
                problems += [mixed_unique_problem(row[0], target.source_column.name) for row in cursor.fetchall()]
            has_rows = False
            if not problems:
                shared = target.source_column
                own = sql.own_rows(target) if shared is not None and shared.name in columns else ""
                table = sql.qualified(target.namespace, target.name)
                cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {table}{own})")
                has_rows = bool(cursor.fetchone()[0])  # type: ignore[index]  # always one row
        return ExistingTable(columns, key, has_rows, tuple(problems))

    def absent(self, targets: Sequence[TargetTable]) -> list[TargetTable]:
        with self._definition_statement("look for tables") as cursor:
            cursor.execute(_NAMES, ([t.namespace for t in targets], [t.name for t in targets]))
            taken = set(cursor.fetchall())
        return [target for target in targets if (target.namespace, target.name) not in taken]

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
            fold=str,
        )

    def misfits(self, target: TargetTable, other: TargetTable) -> list[str]:
        return misfits(target, other, holds=sql.holds, fold=str)

    def stray_value(self, target: TargetTable, values: Sequence[str]) -> str | None:
        with self._definition_statement(f"look at the table {target}", table=str(target.definition.name)) as cursor:
            cursor.execute(sql.stray_value(target, values))
            found = cursor.fetchone()
        return None if found is None else str(found[0])

    def estimated_rows(self, targets: Sequence[TargetTable]) -> dict[str, int | None]:
        estimates: dict[str, int | None] = {str(target): None for target in targets}
        if not targets:
            return estimates
        with self._definition_statement("read the row estimates") as cursor:
            cursor.execute(_ESTIMATES, ([t.namespace for t in targets], [t.name for t in targets]))
            for namespace, name, live, estimate in cursor.fetchall():
                estimates[f"{namespace}.{name}"] = live or (estimate if estimate >= 0 else None)
        return estimates

    def read_rows(self, target: TargetTable, *, batch_rows: int) -> Iterator[list[tuple[Any, ...]]]:
        connection = self._live()
        is_own = self._transaction is None
        try:
            with connection.cursor() as cursor:
                if self._transaction is not None:
                    self._transaction.begin(cursor)
                else:
                    cursor.execute(BEGIN)
                cursor.execute(f"DECLARE cdc_read_rows NO SCROLL CURSOR FOR {sql.select_all(target)}")
                while True:
                    cursor.execute(f"FETCH {int(batch_rows)} FROM cdc_read_rows")
                    rows = cursor.fetchall()
                    if not rows:
                        break
                    yield from_postgres(rows, target)
                cursor.execute("CLOSE cdc_read_rows")
        except psycopg2.Error as error:
            raise self._translated(error, f"read the table {target}", table=str(target.definition.name)) from error
        finally:
            if is_own and self._transaction is None and self.is_open():
                with contextlib.suppress(psycopg2.Error), connection.cursor() as cursor:
                    cursor.execute("ROLLBACK")

    def _table_grant(self, target: TargetTable) -> str:
        """The rights that applying rows needs."""
        user = sql.quote(self._settings.user)
        return (
            f"GRANT USAGE ON SCHEMA {sql.quote(target.namespace)} TO {user}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {sql.qualified(target.namespace, target.name)} TO {user}; "
            f"{self._database_grant('TEMPORARY')}"
        )


# ---------------------------------------------------------------- sessions

_START = "(extract(epoch FROM backend_start) * 1000000)::bigint::text"
_FROM_SESSIONS = "FROM pg_stat_activity WHERE pid = %s"
_OWN_SESSION = f"SELECT pid || '/' || {_START} FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def session_is_alive(sink_connection: psycopg2.extensions.connection, session: str) -> bool | None:
    """Does the session `pid/start` still live on that server? None when it cannot be told."""
    pid, _, start = session.partition("/")
    if not pid.isdigit() or not start.isdigit():
        return None
    with sink_connection.cursor() as cursor:
        cursor.execute(f"SELECT {_START} {_FROM_SESSIONS}", (int(pid),))
        found = cursor.fetchone()
    if found is None:
        return False
    started = found[0]
    if started is None:  # another user's session, of which we may see no more than the pid
        return None
    return bool(started == start)


# ---------------------------------------------------------------- comparing definitions


def _column_problems(
    target: TargetTable, name: str, is_not_null: bool, identity: str, has_default: bool, loose: str | None
) -> Iterator[str]:
    """Why a column that is there stands in the way. `loose`: its collation, if texts that differ may be one to it."""
    is_wanted = any(column.name == name for column in target.columns)
    if not is_wanted and is_not_null and not has_default and not identity:
        yield f"its column {name} is NOT NULL, has no default and is not in the source"
    if is_wanted and identity == "a" and name not in target.key:
        yield f"its column {name} is GENERATED ALWAYS AS IDENTITY"
    if loose and name in target.key:
        yield f"its key's column {name} has the collation {loose}, under which texts that differ may be one"


def table_differences(target: TargetTable, existing: ExistingTable) -> list[str]:
    """Why `existing` cannot hold `target`'s rows, one sentence each; [] when it can."""
    found = list(existing.problems)
    for column in target.columns:
        if column.name not in existing.columns:
            found.append(f"it has no column {column.name}; wanted is {column.sql_type}")
            continue
        type_text, is_nullable, is_generated = existing.columns[column.name]
        has, wants = sql.canonical_type(type_text), sql.canonical_type(column.sql_type)
        if is_generated:
            found.append(f"column {column.name} is generated on the sink")
        if not sql.can_hold(has, wants):
            found.append(f"column {column.name} is {has}; wanted is {wants}")
        if column.is_nullable and not is_nullable:
            found.append(f"column {column.name} is NOT NULL, and NULL may come")
    if existing.primary_key != target.key:
        has_key = ", ".join(existing.primary_key) or "missing"
        found.append(f"the primary key is {has_key}; wanted is {', '.join(target.key) or 'none'}")
    return found


_FIND_TABLE = """
SELECT c.oid,
       CASE WHEN c.relkind NOT IN ('r', 'p') THEN 'it is no table (relkind ' || c.relkind::text || ')' END,
       CASE WHEN c.relpersistence = 'u' THEN 'it is UNLOGGED: PostgreSQL empties it after a crash' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""

_NAMES = """
SELECT n.nspname, c.relname
FROM unnest(%s::text[], %s::text[]) AS wanted(namespace, name)
JOIN pg_namespace n ON n.nspname = wanted.namespace
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name"""

_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated <> '', attidentity::text, atthasdef,
       (SELECT collname FROM pg_collation c WHERE c.oid = attcollation AND NOT collisdeterministic)
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""

_PRIMARY_KEY = """
SELECT a.attname
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisprimary AND k.position <= i.indnkeyatts ORDER BY k.position"""

_UNIQUE_INDEXES = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %s AND i.indisunique AND NOT i.indisprimary ORDER BY c.relname"""

_PROBLEMS = """
SELECT 'it has the trigger ' || tgname FROM pg_trigger
WHERE tgrelid = %(oid)s AND NOT tgisinternal AND tgenabled IN ('O', 'A')
UNION ALL
SELECT 'it has the rule ' || rulename FROM pg_rewrite WHERE ev_class = %(oid)s AND rulename <> '_RETURN'
UNION ALL
SELECT CASE WHEN k.conrelid = %(oid)s THEN 'it has the foreign key ' || k.conname
       ELSE format('the foreign key %%s of %%I.%%I refers to it', k.conname, n.nspname, c.relname) END
       || format(', which refuses a table that comes before the one it refers to: '
                 'ALTER TABLE %%I.%%I DROP CONSTRAINT %%I', n.nspname, c.relname, k.conname)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (k.conrelid = %(oid)s OR k.confrelid = %(oid)s) AND k.contype = 'f'"""

# Unique indexes besides the primary key that do not have a column.
_MIXED_UNIQUE = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %s AND i.indisunique AND NOT i.indisprimary AND NOT EXISTS (
    SELECT 1 FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = %s)"""

_ESTIMATES = """
SELECT n.nspname, c.relname, pg_stat_get_live_tuples(c.oid), c.reltuples::bigint
FROM unnest(%s::text[], %s::text[]) AS wanted(namespace, name)
JOIN pg_namespace n ON n.nspname = wanted.namespace
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name"""
