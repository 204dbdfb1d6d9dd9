"""PostgreSQL as a sink: COPY into session staging tables, then delete and upsert in SQL.

The contract is `sinks.base`; SQL text is made in `sql_postgres`, values in `encode_postgres`, errors in
`errors_postgres`. The session's settings are all set here, so that the server's defaults do not matter.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import psycopg2
import psycopg2.extensions
import pyarrow as pa

from cdc.errors import CdcError, InvariantBroken, SinkRefused, SinkUnavailable
from cdc.model import ChangeBatch
from cdc.schema.target import SinkKind, TargetColumn, TargetTable
from cdc.sinks import sql_postgres as sql
from cdc.sinks.base import ApplyResult, ExistingTable, StatementHook
from cdc.sinks.canonical import from_postgres
from cdc.sinks.encode_postgres import CopyText, copy_text
from cdc.sinks.errors_postgres import (
    is_integrity_error,
    is_refusal,
    translate,
    translate_connect,
    translate_set_up,
)
from cdc.sinks.hang_up import shut_down
from cdc.sinks.kernel.copy_text import PIECE_BYTES
from cdc.sinks.narrowing import first_refused
from cdc.sinks.values import PolicyCounter, key_text

__all__ = ["PostgresSettings", "PostgresSink", "SslMode", "session_is_alive"]

SslMode = Literal["disabled", "preferred", "required", "verify_ca", "verify_identity"]

METADATA_SCHEMA = "_cdc"
# Each target has two temporary tables, and every commit empties them all one by one: few are kept.
STAGED_TARGETS_MAX = 32
LOCK_TIMEOUT_SECONDS = 60  # an ALTER TABLE beside us: give way and try again rather than hang

# A unique index of a table or of the catalogue; a schema, table or type of that name; a dead-lock.
_LOST_RACES = frozenset({"23505", "42P06", "42P07", "42710", "40P01"})
_CREATE_ATTEMPTS = 3
CANCEL_SECONDS = 2  # whoever cancels wants to leave

_SSL_MODES = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}


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
    password: str = field(default="", repr=False)
    ssl_mode: SslMode = "preferred"
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None
    connect_timeout_seconds: float = 10
    statement_timeout_seconds: float = 0
    application_name: str = "cdc"
    hook: StatementHook = _no_hook


@dataclass(frozen=True, slots=True)
class _Stage:
    """The two staging tables of one target: rows to be there, and keys to be gone."""

    rows: str
    keys: str
    columns: tuple[TargetColumn, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the sink's own table demands of a merge.

    `must_replace`: another unique index than the key's, or a key that cannot be an arbiter, so that touched rows are
    deleted before they are inserted. `has_deferrable`: constraints to be checked at the commit.
    """

    must_replace: bool
    has_deferrable: bool


class PostgresSink:
    """One PostgreSQL database as a sink (`sinks.base.Sink`). The thread that opens it owns it, except for `cancel`."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: psycopg2.extensions.connection | None = None
        self._session = ""
        self._transaction: _PostgresTransaction | None = None
        self._stages: OrderedDict[tuple[str, str], _Stage] = OrderedDict()
        self._stage_count = 0
        self._facts: dict[tuple[str, str], _Facts] = {}

    # ------------------------------------------------------------ the session

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> SinkKind:
        return "postgresql"

    def has_lost_race(self, error: CdcError) -> bool:
        return getattr(error.__cause__, "pgcode", None) in _LOST_RACES

    def open(self) -> None:
        self.close()
        settings = self._settings
        try:
            connection = psycopg2.connect(**self._connect_parameters())
        except psycopg2.Error as error:
            raise translate_connect(
                error,
                sink=settings.name,
                where=f"{settings.host}:{settings.port}",
                user=settings.user,
                database=settings.database,
            ) from error
        self._connection = connection
        try:
            connection.set_session(isolation_level="READ COMMITTED", readonly=False, deferrable=False, autocommit=False)
            with connection.cursor() as cursor:
                cursor.execute(self._session_settings())
                cursor.execute(_OWN_SESSION)
                self._session = str(cursor.fetchone()[0])
            connection.commit()
        except psycopg2.Error as error:
            self.close()
            where = f"{settings.host}:{settings.port}"
            raise translate_set_up(error, sink=settings.name, where=where) from error

    def _connect_parameters(self) -> dict[str, Any]:
        settings = self._settings
        parameters: dict[str, Any] = {
            "host": settings.host,
            "port": settings.port,
            "user": settings.user,
            "password": settings.password,
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
        }
        return "; ".join(f"SET {name} = '{value}'" for name, value in values.items())

    def close(self) -> None:
        connection, self._connection = self._connection, None
        self._stages.clear()
        self._facts.clear()
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def is_open(self) -> bool:
        return self._connection is not None and self._connection.closed == 0

    def session(self) -> str:
        return self._session

    def ping(self) -> None:
        """Raise SinkUnavailable when the connection is dead."""
        connection = self._live()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            self._end_own_transaction()
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
            parameters = {**self._connect_parameters(), "connect_timeout": CANCEL_SECONDS}
            with contextlib.suppress(psycopg2.Error):
                other = psycopg2.connect(**parameters)
                try:
                    with other.cursor() as cursor:
                        cursor.execute("SELECT pg_cancel_backend(%s)", (int(self._session.partition("/")[0]),))
                    is_cancelled.set()
                finally:
                    other.close()

        thread = threading.Thread(target=cancel, name=f"cancel-{self.name}", daemon=True)
        thread.start()
        thread.join(CANCEL_SECONDS)
        if not is_cancelled.is_set():  # the server cannot be asked: end the conversation from this side
            with contextlib.suppress(psycopg2.Error):
                shut_down(connection.fileno())

    def is_session_alive(self, session: str) -> bool | None:
        """Does that session (`session()`, perhaps of another process) still live? None when it cannot be told."""
        try:
            alive = session_is_alive(self._live(), session)
            self._end_own_transaction()
        except psycopg2.Error as error:
            raise self._translated(error, "look at the server's sessions") from error
        return alive

    def kill_session(self, session: str) -> None:
        """End that session if it still lives. Raises ConfigError when the right to do so is missing."""
        pid, _, start = session.partition("/")
        try:
            with self._live().cursor() as cursor:
                cursor.execute(f"SELECT pg_terminate_backend(pid) {_FROM_SESSIONS} AND {_START} = %s", (pid, start))
            self._end_own_transaction()
        except psycopg2.Error as error:
            user = sql.quote(self._settings.user)
            raise self._translated(
                error, f"end session {session}", grant=f"GRANT pg_signal_backend TO {user};"
            ) from error

    # ------------------------------------------------------------ transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[_PostgresTransaction]:
        if self._transaction is not None:
            raise InvariantBroken("one transaction at a time")
        transaction = _PostgresTransaction(self, self._live())
        self._transaction = transaction
        try:
            yield transaction
        finally:
            self._transaction = None
            if not transaction.is_committed:
                self._roll_back(transaction)

    def _roll_back(self, transaction: _PostgresTransaction) -> None:
        for key in transaction.new_stages:
            self._stages.pop(key, None)
        connection = self._connection
        if connection is None:
            return
        try:
            connection.rollback()
        except psycopg2.Error:
            self.close()  # the server rolls back what it no longer hears of

    def _live(self) -> psycopg2.extensions.connection:
        if self._connection is None or self._connection.closed:
            raise SinkUnavailable(
                f"sink {self.name}: the connection is closed", hint="the pipeline connects again by itself"
            )
        return self._connection

    def _end_own_transaction(self) -> None:
        """After a statement outside the pipeline's transactions."""
        if self._transaction is None:
            self._live().commit()

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
        """A cursor for DDL or a look at the catalogue: in the open transaction, or in one of its own."""
        connection = self._live()
        try:
            with connection.cursor() as cursor:
                yield cursor
            self._end_own_transaction()
        except psycopg2.Error as error:
            if self._transaction is None:
                with contextlib.suppress(psycopg2.Error):
                    connection.rollback()
            raise self._translated(error, doing, table=table, grant=grant) from error

    def create_table(self, target: TargetTable) -> None:
        schema, user = sql.quote(target.namespace), sql.quote(self._settings.user)
        with self._definition_statement(
            f"make the table {target}",
            table=str(target.definition.name),
            grant=f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user};",
        ) as cursor:
            cursor.execute(sql.create_table(target))
        self._forget(target)

    def drop_table(self, target: TargetTable) -> None:
        with self._definition_statement(
            f"drop the table {target}",
            table=str(target.definition.name),
            grant=f"ALTER TABLE {sql.qualified(target.namespace, target.name)} OWNER TO "
            f"{sql.quote(self._settings.user)};",
        ) as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {sql.qualified(target.namespace, target.name)}")
        self._forget(target)

    def _forget(self, target: TargetTable) -> None:
        self._facts.pop((target.namespace, target.name), None)

    def inspect(self, target: TargetTable) -> ExistingTable | None:
        with self._definition_statement(f"look at the table {target}", table=str(target.definition.name)) as cursor:
            cursor.execute(_FIND_TABLE, (target.namespace, target.name))
            found = cursor.fetchone()
            if found is None:
                return None
            oid, problems = found[0], [text for text in found[1:] if text]
            cursor.execute(_COLUMNS, (oid,))
            columns: dict[str, tuple[str, bool, bool]] = {}
            wanted = {column.name for column in target.columns}
            for name, type_text, is_not_null, is_generated, is_identity, has_default in cursor.fetchall():
                columns[name] = (type_text, not is_not_null, is_generated)
                if name not in wanted and is_not_null and not has_default and not is_identity:
                    problems.append(f"its column {name} is NOT NULL, has no default and is not in the source")
                if is_identity == "a" and name in wanted and name not in target.key:
                    problems.append(f"its column {name} is GENERATED ALWAYS AS IDENTITY")
            cursor.execute(_PRIMARY_KEY, (oid,))
            key = tuple(row[0] for row in cursor.fetchall())
            cursor.execute(_PROBLEMS, {"oid": oid})
            problems += [row[0] for row in cursor.fetchall()]
            has_rows = False
            if not problems:
                cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {sql.qualified(target.namespace, target.name)})")
                has_rows = bool(cursor.fetchone()[0])  # type: ignore[index]  # always one row
        return ExistingTable(columns, key, has_rows, tuple(problems))

    def differences(self, target: TargetTable, existing: ExistingTable) -> list[str]:
        return table_differences(target, existing)

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
        try:
            with connection.cursor(name="cdc_read_rows") as cursor:
                cursor.itersize = batch_rows
                cursor.execute(sql.select_all(target))
                while rows := cursor.fetchmany(batch_rows):
                    yield from_postgres(rows, target)
            self._end_own_transaction()
        except psycopg2.Error as error:
            raise self._translated(error, f"read the table {target}", table=str(target.definition.name)) from error
        finally:
            if self._transaction is None and self.is_open():
                with contextlib.suppress(psycopg2.Error):
                    connection.rollback()

    # ------------------------------------------------------------ for the transaction

    def facts(self, target: TargetTable, cursor: psycopg2.extensions.cursor) -> _Facts:
        """What the table's indexes and constraints demand; read once a session."""
        key = (target.namespace, target.name)
        if key not in self._facts:
            cursor.execute(_FACTS, key)
            row = cursor.fetchone()
            self._facts[key] = _Facts(bool(row and row[0]), bool(row and row[1]))
        return self._facts[key]

    def forget_facts(self, target: TargetTable) -> None:
        """Read them again at the next use."""
        self._forget(target)

    def stage(
        self, target: TargetTable, cursor: psycopg2.extensions.cursor, new_stages: set[tuple[str, str]]
    ) -> _Stage:
        """The target's staging tables, made when missing; `new_stages` learns of those that a rollback takes away."""
        key = (target.namespace, target.name)
        stage = self._stages.get(key)
        if stage is not None and stage.columns == target.columns:
            self._stages.move_to_end(key)
            return stage
        if stage is not None:
            self._drop_stage(key, cursor)
        while len(self._stages) >= STAGED_TARGETS_MAX:
            self._drop_stage(next(iter(self._stages)), cursor)
        self._stage_count += 1
        stage = _Stage(f"_cdc_rows_{self._stage_count}", f"_cdc_keys_{self._stage_count}", target.columns)
        cursor.execute(sql.stage_table(stage.rows, target.columns))
        cursor.execute(sql.stage_table(stage.keys, sql.key_columns(target)))
        self._stages[key] = stage
        new_stages.add(key)
        return stage

    def _drop_stage(self, key: tuple[str, str], cursor: psycopg2.extensions.cursor) -> None:
        stage = self._stages.pop(key)
        cursor.execute(f"DROP TABLE IF EXISTS pg_temp.{sql.quote(stage.rows)}, pg_temp.{sql.quote(stage.keys)}")

    @property
    def hook(self) -> StatementHook:
        return self._settings.hook

    def table_grant(self, target: TargetTable) -> str:
        """The rights that applying rows needs."""
        user = sql.quote(self._settings.user)
        return (
            f"GRANT USAGE ON SCHEMA {sql.quote(target.namespace)} TO {user}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {sql.qualified(target.namespace, target.name)} TO {user}; "
            f"{self._database_grant('TEMPORARY')}"
        )


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Selected rows and their COPY text, line by line."""

    rows: pa.RecordBatch
    selection: pa.Int32Array
    text: CopyText


def _encoded(
    change: ChangeBatch,
    selections: Sequence[pa.Int32Array],
    target: TargetTable,
    columns: Sequence[TargetColumn],
    counter: PolicyCounter,
) -> list[_Encoded]:
    """The selected rows of each of the change's batches, without those of which none are."""
    return [
        _Encoded(batch.images, selection, copy_text(batch.images, target, columns, counter, selection))
        for batch, selection in zip(change.batches, selections, strict=True)
        if len(selection)
    ]


@dataclass(frozen=True, slots=True)
class _Merge:
    """What one `apply` puts into one target."""

    target: TargetTable
    stage: _Stage
    gone: Sequence[_Encoded]
    there: Sequence[_Encoded]


class _PostgresTransaction:
    """`sinks.base.SinkTransaction` on PostgreSQL."""

    def __init__(self, sink: PostgresSink, connection: psycopg2.extensions.connection) -> None:
        self._sink = sink
        self._connection = connection
        self._dirty: set[str] = set()  # staging tables that this transaction has filled
        self._is_deferred = False
        self._touched: dict[tuple[str, str], str] = {}  # place on the sink → source table
        self.new_stages: set[tuple[str, str]] = set()
        self.is_committed = False

    # ------------------------------------------------------------ rows

    def apply(self, change: ChangeBatch, target: TargetTable) -> ApplyResult:
        counter = PolicyCounter()
        gone = _encoded(change, change.deletes, target, sql.key_columns(target), counter)
        there = _encoded(change, change.upserts, target, target.columns, counter)
        with self._cursor(f"apply changes to {target}", target) as cursor:
            facts = self._prepare(cursor, target)
            merge = _Merge(target, self._sink.stage(target, cursor, self.new_stages), gone, there)
            self._empty(cursor, merge.stage)
            cursor.execute("SAVEPOINT cdc_apply")
            while True:
                try:
                    deleted = self._merge(cursor, merge, facts)
                    break
                except psycopg2.Error as error:
                    if not is_refusal(error):
                        raise
                    cursor.execute("ROLLBACK TO SAVEPOINT cdc_apply")
                    # An index made on the sink since its facts were read calls for another merge.
                    self._sink.forget_facts(target)
                    fresh = self._prepare(cursor, target)
                    if fresh == facts:
                        raise self._refused(cursor, error, merge, facts) from error
                    facts = fresh
            cursor.execute("RELEASE SAVEPOINT cdc_apply")
        return ApplyResult(sum(encoded.text.row_count for encoded in there), deleted, counter.changes)

    def _prepare(self, cursor: psycopg2.extensions.cursor, target: TargetTable) -> _Facts:
        self._touched[target.namespace, target.name] = str(target.definition.name)
        facts = self._sink.facts(target, cursor)
        if facts.has_deferrable and not self._is_deferred:
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            self._is_deferred = True
        return facts

    def _empty(self, cursor: psycopg2.extensions.cursor, stage: _Stage) -> None:
        """A second batch for the same table in one transaction finds the first one still staged."""
        for table in (stage.rows, stage.keys):
            if table in self._dirty:
                cursor.execute(f"TRUNCATE pg_temp.{sql.quote(table)}")
                self._dirty.discard(table)

    def _merge(self, cursor: psycopg2.extensions.cursor, merge: _Merge, facts: _Facts) -> int:
        """Delete, then upsert; how many rows were deleted."""
        target, stage, deleted = merge.target, merge.stage, 0
        if merge.gone:
            for encoded in merge.gone:
                self._stage_copy(cursor, stage.keys, sql.key_columns(target), encoded.text)
            deleted = self._change(cursor, sql.delete_staged(target, stage.keys))
        if merge.there:
            for encoded in merge.there:
                self._stage_copy(cursor, stage.rows, target.columns, encoded.text)
            if facts.must_replace:
                self._change(cursor, sql.delete_staged(target, stage.rows))
                self._change(cursor, sql.insert_staged(target, stage.rows))
            else:
                self._change(cursor, sql.upsert_staged(target, stage.rows))
        return deleted

    def _stage_copy(
        self, cursor: psycopg2.extensions.cursor, table: str, columns: Sequence[TargetColumn], text: CopyText
    ) -> None:
        self._dirty.add(table)
        _copy(cursor, sql.copy_into(f"pg_temp.{sql.quote(table)}", columns), text)

    def _change(self, cursor: psycopg2.extensions.cursor, statement: str) -> int:
        self._sink.hook("before_statement")
        cursor.execute(statement)
        self._sink.hook("after_statement")
        return cursor.rowcount

    def load(self, rows: pa.RecordBatch, target: TargetTable) -> ApplyResult:
        counter = PolicyCounter()
        text = copy_text(rows, target, target.columns, counter)
        statement = sql.copy_into(sql.qualified(target.namespace, target.name), target.columns)
        with self._cursor(f"load rows into {target}", target) as cursor:
            self._prepare(cursor, target)
            cursor.execute("SAVEPOINT cdc_apply")
            try:
                self._sink.hook("before_statement")
                _copy(cursor, statement, text)
                self._sink.hook("after_statement")
            except psycopg2.Error as error:
                if not is_refusal(error):
                    raise
                cursor.execute("ROLLBACK TO SAVEPOINT cdc_apply")
                index = self._first_refused(cursor, text, lambda part: _copy(cursor, statement, part))
                raise self._blamed(cursor, error, target, rows, index) from error
            cursor.execute("RELEASE SAVEPOINT cdc_apply")
        return ApplyResult(upserted=rows.num_rows, policy_changes=counter.changes)

    def clear(self, target: TargetTable) -> int:
        with self._cursor(f"empty {target}", target) as cursor:
            self._prepare(cursor, target)
            return self._change(cursor, f"DELETE FROM {sql.qualified(target.namespace, target.name)}")

    # ------------------------------------------------------------ which row it was

    def _refused(
        self, cursor: psycopg2.extensions.cursor, error: psycopg2.Error, merge: _Merge, facts: _Facts
    ) -> CdcError:
        """Apply ever shorter beginnings of the upserts, each after all deletes, to name the row that was refused."""
        for position, encoded in enumerate(merge.there):

            def attempt(part: CopyText, position: int = position) -> None:
                self._empty(cursor, merge.stage)
                last = replace(merge.there[position], text=part)
                self._merge(cursor, replace(merge, there=[*merge.there[:position], last]), facts)

            index = self._first_refused(cursor, encoded.text, attempt)
            if index is not None:
                row = encoded.selection[index].as_py()
                return self._blamed(cursor, error, merge.target, encoded.rows, row)
        return self._blamed(cursor, error, merge.target, None, None)

    def _first_refused(
        self, cursor: psycopg2.extensions.cursor, text: CopyText, attempt: Callable[[CopyText], None]
    ) -> int | None:
        def is_refused(count: int) -> bool:
            try:
                attempt(text.beginning(count))
            except psycopg2.Error as error:
                if not is_refusal(error):
                    raise
                return True
            finally:
                if not self._connection.closed:
                    cursor.execute("ROLLBACK TO SAVEPOINT cdc_apply")
            return False

        return first_refused(text.row_count, is_refused)

    def _blamed(
        self,
        cursor: psycopg2.extensions.cursor,
        error: psycopg2.Error,
        target: TargetTable,
        rows: pa.RecordBatch | None,
        index: int | None,
    ) -> CdcError:
        table = str(target.definition.name)
        key = column = None
        if rows is not None and index is not None:
            key = key_text(rows, target, index)
            column = self._refused_column(cursor, rows.slice(index, 1), target)
        return self._sink_error(error, f"write to {target}", table=table, column=column, key=key)

    def _refused_column(
        self, cursor: psycopg2.extensions.cursor, row: pa.RecordBatch, target: TargetTable
    ) -> str | None:
        """The first column whose value alone is refused by a staging table of the target's types; else None."""
        stage = self._sink.stage(target, cursor, self.new_stages)
        cursor.execute("SAVEPOINT cdc_column")
        for column in target.columns:
            text = copy_text(row, target, (column,), PolicyCounter())
            try:
                _copy(cursor, sql.copy_into(f"pg_temp.{sql.quote(stage.rows)}", (column,)), text)
            except psycopg2.Error as error:
                if not is_refusal(error):
                    raise
                cursor.execute("ROLLBACK TO SAVEPOINT cdc_column")
                return column.name
        return None

    # ------------------------------------------------------------ metadata

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._cursor("run a metadata statement", None) as cursor:
            _execute(cursor, statement, parameters)
            return [tuple(map(_plain, row)) for row in cursor.fetchall()] if cursor.description else []

    def execute_count(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        with self._cursor("run a metadata statement", None) as cursor:
            _execute(cursor, statement, parameters)
            return cursor.rowcount

    def commit(self) -> None:
        self._check_open()
        try:
            self._connection.commit()
        except psycopg2.Error as error:
            if is_integrity_error(error):  # of a deferred constraint: trying again would meet it again
                raise self._commit_refused(error) from error
            if error.pgcode and is_refusal(error):
                raise SinkUnavailable(
                    f"sink {self._sink.name}: the commit was refused: {error.diag.message_primary}",
                    hint="something on the sink objects to the transaction; it is tried again",
                ) from error
            raise SinkUnavailable(
                f"sink {self._sink.name}: the connection was lost while committing: it is not known whether the "
                "transaction is there",
                hint="the pipeline reads the checkpoint from the sink and goes on from there",
            ) from error
        self.is_committed = True

    def _commit_refused(self, error: psycopg2.Error) -> SinkRefused:
        """Which table a deferred constraint refused: the one that has it, or the one that its rows refer to."""
        diag = error.diag
        constraint = (diag.schema_name or "", diag.table_name or "", diag.constraint_name or "")
        places = [constraint[:2]]
        if places[0] not in self._touched:
            with contextlib.suppress(psycopg2.Error), self._connection.cursor() as cursor:
                self._connection.rollback()
                cursor.execute(_REFERRED, constraint)
                places += cursor.fetchall()
        touched = [self._touched[place] for place in places if place in self._touched]
        table = touched[0] if touched else ".".join(places[0])
        if not touched and len(self._touched) == 1:
            (table,) = self._touched.values()
        drop = f"ALTER TABLE {sql.qualified(*constraint[:2])} DROP CONSTRAINT {sql.quote(constraint[2])};"
        return SinkRefused(
            f"sink {self._sink.name}: the commit was refused: {diag.message_primary} (SQLSTATE {error.pgcode})",
            table=table,
            hint=f"the constraint is not the source's: run {drop} on the sink, then load the table again: "
            f"cdc snapshot {table}",
        )

    # ------------------------------------------------------------ border

    def _check_open(self) -> None:
        if self.is_committed or self._sink._transaction is not self:
            raise InvariantBroken("this transaction is over")

    @contextlib.contextmanager
    def _cursor(self, doing: str, target: TargetTable | None) -> Iterator[psycopg2.extensions.cursor]:
        self._check_open()
        try:
            with self._connection.cursor() as cursor:
                yield cursor
        except psycopg2.Error as error:
            where = (
                {}
                if target is None
                else {"table": str(target.definition.name), "grant": self._sink.table_grant(target)}
            )
            raise self._sink_error(error, doing, **where) from error

    def _sink_error(self, error: psycopg2.Error, doing: str, **where: Any) -> CdcError:
        return translate(error, sink=self._sink.name, doing=doing, **where)


def _copy(cursor: psycopg2.extensions.cursor, statement: str, text: CopyText) -> None:
    cursor.copy_expert(statement, text.reader(), size=PIECE_BYTES)  # type: ignore[arg-type]  # it asks for no readline


def _execute(cursor: psycopg2.extensions.cursor, statement: str, parameters: Sequence[Any]) -> None:
    """`%s` and `%%` mean the same with and without parameters."""
    if parameters:
        cursor.execute(statement, tuple(parameters))
    else:
        cursor.execute(statement.replace("%%", "%"))


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


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
        found.append(f"the primary key is {has_key}; wanted is {', '.join(target.key)}")
    return found


_FIND_TABLE = """
SELECT c.oid,
       CASE WHEN c.relkind NOT IN ('r', 'p') THEN 'it is no table (relkind ' || c.relkind::text || ')' END,
       CASE WHEN c.relpersistence = 'u' THEN 'it is UNLOGGED: PostgreSQL empties it after a crash' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""

_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated <> '', attidentity::text, atthasdef
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""

_PRIMARY_KEY = """
SELECT a.attname
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisprimary AND k.position <= i.indnkeyatts ORDER BY k.position"""

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

# The table that a foreign key refers to: what an error tells is the table that has it.
_REFERRED = """
SELECT n.nspname, c.relname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.conrelid = to_regclass(format('%%I.%%I', %s, %s)) AND k.conname = %s"""

# Deferrable are also unique constraints, and foreign keys (of other tables too) that came after `inspect`.
_FACTS = """
SELECT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
               AND (NOT i.indisprimary OR NOT i.indimmediate)),
       EXISTS (SELECT 1 FROM pg_constraint k WHERE (k.conrelid = c.oid OR k.confrelid = c.oid) AND k.condeferrable)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s"""

_ESTIMATES = """
SELECT n.nspname, c.relname, pg_stat_get_live_tuples(c.oid), c.reltuples::bigint
FROM unnest(%s::text[], %s::text[]) AS wanted(namespace, name)
JOIN pg_namespace n ON n.nspname = wanted.namespace
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name"""
