"""Is the source fit to be followed? Reads what it says of itself once, then looks at that (`cdc check`).

Reading takes a dozen queries, however many tables there are, writes nothing, and needs no right beyond the documented
ones: where the server does not let us look, the check says so. What to do about each finding is said for the flavor,
version and hosting at hand. The tables of checks are at the end; docs/check.md is made of them.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cdc.binlog.charsets import UnprovenCharset, text_decoder
from cdc.clock import Clock
from cdc.errors import CdcError, UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.schema.findings import Check, Finding, error, info, listed, run, warning
from cdc.schema.grants import Grants, account_text, grant_pattern, parse_grants, quoted
from cdc.schema.keys import choose_key
from cdc.source.cascades import ACTIVE_RULES, ForeignKey, logs_cascades, read_foreign_keys
from cdc.source.connection import SourceConnection, SourceSettings
from cdc.source.definitions import SYSTEM_DATABASES, column_of
from cdc.source.positions import VIEWED_ENGINES
from cdc.source.resultset import are_members_told
from cdc.source.supplementary import TableHeld, told

__all__ = [
    "SOURCE_CHECKS",
    "TABLE_CHECKS",
    "Answer",
    "Captured",
    "ForeignKey",
    "IncludePattern",
    "SourceFacts",
    "check_source",
    "check_tables",
    "managed_service",
    "read_source",
]

RETENTION_SECONDS_MIN = 24 * 3600  # an outage over night must not cost a reload
CLOCK_OFFSET_SECONDS_MAX = 1.0  # lag is shown in seconds: beyond this it is wrong
Service = Literal["Amazon RDS", "Amazon Aurora", "Azure Database for MySQL", "Google Cloud SQL"]


# ---------------------------------------------------------------- what is known


@dataclass(frozen=True, slots=True)
class IncludePattern:
    """One pattern of `tables.include`. `database` and `table` are set where that half has no wildcard."""

    text: str
    matches: Callable[[str, str], bool]
    database: str | None = None
    table: str | None = None


HiddenCascadesFound = Callable[[Sequence[TableDefinition], Sequence[ForeignKey]], Mapping[TableName, str]]


@dataclass(frozen=True, slots=True)
class Captured:
    """Which tables are captured, as the configuration says; `keys` are those that it names itself."""

    matches: Callable[[str, str], bool]
    include: tuple[IncludePattern, ...] = ()
    keys: Mapping[TableName, tuple[str, ...]] = field(default_factory=dict)
    accepts_hidden_cascades: Callable[[str, str], bool] = lambda _database, _table: False
    hidden_cascades: HiddenCascadesFound = lambda _definitions, _keys: {}
    """Of the tables to which what foreign keys do in silence is applied: why it cannot be, '' where it can."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a statement that we may not be allowed to run: then `refusal` is what the server said."""

    rows: tuple[Mapping[str, str | None], ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """All that the checks look at.

    Attributes:
        variables: SHOW GLOBAL VARIABLES.
        clock_offset_seconds: the source's clock minus ours; `clock_error_seconds` is how far off that may be.
        unreadable: captured tables with columns that lack SELECT (all of them: empty tuple).
        by_column: captured tables that are readable by grants on single columns, with what the server answered to
            `SELECT *` ('' when it ran).
        others: what the patterns match and is no plain table, with its kind.
        row_estimates: how many rows a captured table has, as the server guesses.
        is_local: the source is on this machine: what is said to it crosses no network.
        is_running: a live instance holds this deployment's lease on some sink.
    """

    settings: SourceSettings
    flavor: str
    version: tuple[int, ...]
    version_text: str
    variables: Mapping[str, str]
    user: str
    grants: Grants
    is_encrypted: bool
    clock_offset_seconds: float
    clock_error_seconds: float
    log_status: Answer
    replicas: Answer
    replica_status: Answer
    is_replicating: bool
    dump_sessions: int
    prepared: Answer
    rds_retention: Answer
    transactional_engines: frozenset[str]
    captured: Captured
    definitions: tuple[TableDefinition, ...]
    unreadable: Mapping[TableName, tuple[str, ...]]
    by_column: Mapping[TableName, str]
    unsupported: tuple[UnsupportedData, ...]
    others: tuple[tuple[TableName, str], ...]
    foreign_keys: tuple[ForeignKey, ...]
    row_estimates: Mapping[TableName, int] = field(default_factory=dict)
    is_local: bool = False
    is_running: bool = False

    @property
    def subject(self) -> str:
        """How findings call this server."""
        return f"source {self.settings.address}"

    @property
    def service(self) -> Service | None:
        """Whose managed service it is, if any."""
        return managed_service(self.variables, self.version_text, self.settings.host)

    @property
    def account(self) -> str:
        """`'user'@'host'`, quoted for GRANT."""
        return account_text(self.user)

    def variable(self, name: str) -> str:
        """In lower case; '' where the server does not know it."""
        return self.variables.get(name, "").lower()

    def number(self, name: str) -> int:
        """0 where the server does not know it. MariaDB's expire_logs_days has a fraction."""
        try:
            return int(float(self.variables.get(name, "") or 0))
        except ValueError:
            return 0

    def set_global(self, name: str, value: str) -> str:
        """How to set a variable that can be set while the server runs, so that it also outlives a restart."""
        if self.service is not None:
            return _managed_setting(self.service, name, value)
        literal = value if re.fullmatch(r"\d+", value) else f"'{value}'"
        if self.flavor == "mysql" and self.version >= (8, 0, 0):
            return f"SET PERSIST {name} = {literal};"
        return f"SET GLOBAL {name} = {literal}; (and {name} = {value} under [mysqld] in the server's option file)"

    def set_at_start(self, settings: str) -> str:
        """How to set what only a restart sets; `settings` as `name=value`."""
        if self.service is not None:
            return f"set {settings} in the {_parameters_of(self.service)}, then restart the instance"
        return f"put {settings} under [mysqld] in the server's option file, and restart it"


def managed_service(variables: Mapping[str, str], version_text: str, host: str) -> Service | None:
    """Whose managed service it is, by what gives it away: variables, the version's suffix, the host's name."""
    host = host.lower()
    if "aurora_version" in variables:
        return "Amazon Aurora"
    if variables.get("basedir", "").startswith("/rdsdbbin") or host.endswith(".rds.amazonaws.com"):
        return "Amazon RDS"
    if "-google" in version_text or any(name.startswith("cloudsql_") for name in variables):
        return "Google Cloud SQL"
    if host.endswith(".mysql.database.azure.com") or any(name.startswith("azure_") for name in variables):
        return "Azure Database for MySQL"
    return None


def _parameters_of(service: Service) -> str:
    return {
        "Amazon RDS": "DB parameter group",
        "Amazon Aurora": "DB cluster parameter group",
        "Azure Database for MySQL": "server parameters",
        "Google Cloud SQL": "database flags",
    }[service]


def _managed_setting(service: Service, name: str, value: str) -> str:
    if service == "Azure Database for MySQL":
        return f"az mysql flexible-server parameter set --name {name} --value {value} (and the server's name and group)"
    if service == "Google Cloud SQL":
        return f"gcloud sql instances patch INSTANCE --database-flags={name}={value} (with the flags already set)"
    return f"set {name} = {value} in the {_parameters_of(service)}"


# ---------------------------------------------------------------- reading


def read_source(
    connection: SourceConnection, captured: Captured, *, clock: Clock, is_local: bool = False, is_running: bool = False
) -> SourceFacts:
    """Ask the source everything that the checks look at. Reads only; raises SourceUnavailable."""
    variables = {name or "": value or "" for name, value in connection.query_text("SHOW GLOBAL VARIABLES")}
    grant_lines = [row[0] or "" for row in connection.query_text("SHOW GRANTS")]
    cipher = connection.query_text("SHOW STATUS WHERE Variable_name = 'Ssl_cipher'")
    slaves = connection.query_text("SHOW GLOBAL STATUS WHERE Variable_name IN ('Slaves_running', 'Slave_running')")
    offset, uncertainty = _clock_offset(connection, clock)
    grants = parse_grants(grant_lines, has_literal_databases=variables.get("partial_revokes") == "ON")
    connection.query("SET SESSION lock_wait_timeout = 2")  # an ALTER in progress must not hold up a look
    tables = _read_tables(connection, captured)
    return SourceFacts(
        settings=connection.settings,
        flavor=connection.flavor,
        version=connection.version,
        version_text=connection.version_text,
        variables=variables,
        user=connection.query_text("SELECT CURRENT_USER()")[0][0] or "",
        grants=parse_grants(grant_lines, has_literal_databases=variables.get("partial_revokes") == "ON"),
        is_encrypted=bool(cipher and cipher[0][1]),
        clock_offset_seconds=offset,
        clock_error_seconds=uncertainty,
        log_status=_look(connection, "SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"),
        replicas=_look(connection, "SHOW REPLICAS", "SHOW SLAVE HOSTS"),
        replica_status=_look(connection, "SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW SLAVE STATUS"),
        is_replicating=any(value not in (None, "", "OFF", "0") for _, value in slaves),
        dump_sessions=sum(
            (row.get("Command") or "").startswith("Binlog Dump") for row in _look(connection, "SHOW PROCESSLIST").rows
        ),
        # Plainly asked, servers give the bytes of the names as if they were text.
        prepared=_look(connection, "XA RECOVER CONVERT XID", "XA RECOVER FORMAT='SQL'", "XA RECOVER"),
        rds_retention=_look(
            connection, "SELECT value AS value FROM mysql.rds_configuration WHERE name = 'binlog retention hours'"
        ),
        transactional_engines=frozenset(
            (name or "").lower()
            for name, transactions in connection.query_text(
                "SELECT ENGINE, TRANSACTIONS FROM information_schema.ENGINES"
            )
            if transactions == "YES"
        ),
        captured=captured,
        definitions=tables.definitions,
        unreadable=tables.unreadable,
        by_column=_try_by_column(connection, grants, tables),
        unsupported=tables.unsupported,
        others=tables.others,
        foreign_keys=read_foreign_keys(connection, {definition.name for definition in tables.definitions}),
        row_estimates={
            TableName(database or "", table or ""): int(rows or 0)
            for database, table, rows in connection.query_text(
                "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES "
                "WHERE TABLE_ROWS IS NOT NULL"
            )
        },
        is_local=is_local,
        is_running=is_running,
    )


_SYNTAX_ERROR = 1064


def _look(connection: SourceConnection, *statements: str) -> Answer:
    """The rows of the first statement that this server knows, or why we may not see them."""
    refusal = ""
    for statement in statements:
        try:
            return Answer(tuple(connection.rows_by_name(statement)))
        except CdcError as failure:
            number, text = _server_error(failure)
            if not number:
                raise
            refusal = text
            if number != _SYNTAX_ERROR:
                break
    return Answer(refusal=refusal)


def _server_error(failure: CdcError) -> tuple[int, str]:
    """Number and text of what the server itself said; 0 for what the client noticed (connection lost: 2000 to 2999)."""
    arguments = failure.__cause__.args if failure.__cause__ is not None else ()
    number = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    if number < 1000 or 2000 <= number < 3000:
        return 0, ""
    return number, f"{arguments[1] if len(arguments) > 1 else failure} (error {number})"


def _clock_offset(connection: SourceConnection, clock: Clock) -> tuple[float, float]:
    """Of three tries the one with the shortest way: the server answered somewhere within it."""
    tries = []
    for _ in range(3):
        before = clock.now_us()
        text = connection.query_text("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0] or "0"
        after = clock.now_us()
        tries.append(((after - before) / 2e6, float(text) - (before + after) / 2e6))
    uncertainty, offset = min(tries)
    return offset, uncertainty


@dataclass(frozen=True, slots=True)
class _Tables:
    definitions: tuple[TableDefinition, ...]
    unreadable: Mapping[TableName, tuple[str, ...]]
    unsupported: tuple[UnsupportedData, ...]
    others: tuple[tuple[TableName, str], ...]


def _read_tables(connection: SourceConnection, captured: Captured) -> _Tables:
    """Every captured table in a few queries. A column that we have no right on at all is not shown by the server."""
    plain: dict[TableName, tuple[str, str, str]] = {}
    others: list[tuple[TableName, str]] = []
    for database, table, kind, engine, collation, comment in connection.query_text(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_COLLATION, TABLE_COMMENT FROM "
        "information_schema.TABLES WHERE TABLE_SCHEMA NOT IN %s",
        (sorted(SYSTEM_DATABASES),),
    ):
        if not database or not table or not captured.matches(database, table):
            continue
        name = TableName(database, table)
        if kind == "BASE TABLE":
            plain[name] = (engine or "", collation or "", comment or "")
        else:
            others.append((name, (kind or "").lower()))
    columns = _read_columns(connection, plain)
    keys = _read_keys(connection, plain)
    definitions: list[TableDefinition] = []
    unsupported: list[UnsupportedData] = []
    unreadable: dict[TableName, tuple[str, ...]] = {}
    for name, (engine, collation, comment) in sorted(plain.items()):
        found = columns.get(name, _Columns())
        if found.denied or not found.count:
            unreadable[name] = tuple(found.denied) if len(found.denied) < found.count else ()
        unsupported += found.unsupported
        definition = TableDefinition(
            name=name,
            columns=tuple(found.made),
            primary_key=next((key.columns for key in keys.get(name, ()) if key.name == "PRIMARY"), ()),
            unique_keys=tuple(key for key in keys.get(name, ()) if key.name != "PRIMARY"),
            engine=engine,
            charset=collation.partition("_")[0] or None,
            collation=collation or None,
            comment=comment,
            flavor=connection.flavor,
        )
        with contextlib.suppress(TableHeld):  # somebody's ALTER goes first; a load asks again
            definition = told(connection, definition)
        definitions.append(definition)
    return _Tables(tuple(definitions), unreadable, tuple(unsupported), tuple(sorted(others)))


@dataclass(slots=True)
class _Columns:
    """Of one table: those that are known, those that may not be read, those of unknown types, and how many in all."""

    made: list[ColumnDefinition] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    unsupported: list[UnsupportedData] = field(default_factory=list)
    count: int = 0


def _read_columns(connection: SourceConnection, tables: Collection[TableName]) -> dict[TableName, _Columns]:
    json_columns = _json_columns(connection, sorted({table.database for table in tables}))
    found: dict[TableName, _Columns] = {}
    for name, row in each_of(connection, "SELECT * FROM information_schema.COLUMNS", tables, "ORDINAL_POSITION"):
        columns = found.setdefault(name, _Columns())
        columns.count += 1
        if "select" not in (row["PRIVILEGES"] or "").lower().split(","):
            columns.denied.append(row["COLUMN_NAME"] or "")
        try:
            columns.made.append(column_of(name, row, json_columns.get(name, frozenset())))
        except UnsupportedData as problem:
            columns.unsupported.append(problem)
    return found


def _read_keys(connection: SourceConnection, tables: Collection[TableName]) -> dict[TableName, list[UniqueKey]]:
    parts: dict[TableName, list[tuple[str | None, ...]]] = {}
    for name, row in each_of(
        connection,
        "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS",
        tables,
        "INDEX_NAME, SEQ_IN_INDEX",
        "NON_UNIQUE = 0",
    ):
        parts.setdefault(name, []).append((row["INDEX_NAME"], row["COLUMN_NAME"], row["SUB_PART"]))
    return {name: _unique_keys(listed) for name, listed in parts.items()}


def _try_by_column(connection: SourceConnection, grants: Grants, tables: _Tables) -> dict[TableName, str]:
    """Columns that we have no right on are not shown; only `SELECT *` tells whether there are any."""
    names = [definition.name for definition in tables.definitions if definition.name not in tables.unreadable]
    return {
        table: _look(connection, f"SELECT * FROM {quoted(table.database)}.{quoted(table.table)} LIMIT 0").refusal
        for table in names
        if grants.scope("SELECT", table.database, table.table) == "columns"
    }


def each_of(
    connection: SourceConnection, select: str, tables: Collection[TableName], order: str, condition: str = "1 = 1"
) -> Iterator[tuple[TableName, Mapping[str, str | None]]]:
    """The rows of those tables, one after the other: a large database's are no answer to be held in memory.

    `connection` is busy until the last one has been taken.
    """
    # With one equality, servers that build information_schema from files open one folder.
    for database in sorted({table.database for table in tables}):
        for row in connection.each_by_name(
            f"{select} WHERE TABLE_SCHEMA = %s AND {condition} ORDER BY TABLE_NAME, {order}", (database,)
        ):
            name = TableName(database, row["TABLE_NAME"] or "")
            if name in tables:
                yield name, row


def _unique_keys(rows: Iterable[tuple[str | None, ...]]) -> list[UniqueKey]:
    """As `definitions` does: indexes over expressions are left out. `rows`: index, column, prefix."""
    parts: dict[str, list[tuple[str | None, str | None]]] = {}
    for index, column, prefix in rows:
        parts.setdefault(index or "", []).append((column, prefix))
    return [
        UniqueKey(name, tuple(c for c, _ in columns if c is not None), any(prefix is not None for _, prefix in columns))
        for name, columns in parts.items()
        if all(c is not None for c, _ in columns)
    ]


def _json_columns(connection: SourceConnection, databases: Sequence[str]) -> dict[TableName, frozenset[str]]:
    if connection.flavor != "mariadb" or not databases:
        return {}
    found: dict[TableName, set[str]] = {}
    for database, table, clause in connection.query_text(
        "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE "
        "CONSTRAINT_SCHEMA IN %s",
        (list(databases),),
    ):
        match = re.fullmatch(r"json_valid\(`((?:[^`]|``)+)`\)", clause or "")
        if match:
            found.setdefault(TableName(database or "", table or ""), set()).add(match[1].replace("``", "`"))
    return {table: frozenset(columns) for table, columns in found.items()}


def check_source(facts: SourceFacts) -> list[Finding]:
    """Every finding about the server itself."""
    return run(SOURCE_CHECKS, facts)


def check_tables(facts: SourceFacts) -> list[Finding]:
    """Every finding about the captured tables at the source."""
    return run(TABLE_CHECKS, facts)


# ---------------------------------------------------------------- rights


def _monitor_right(facts: SourceFacts) -> str:
    is_renamed = facts.flavor == "mariadb" and facts.version >= (10, 5, 0)
    return "BINLOG MONITOR" if is_renamed else "REPLICATION CLIENT"


def _replication_client(facts: SourceFacts) -> Iterator[Finding]:
    if facts.log_status.refusal:
        right = _monitor_right(facts)
        yield error(
            facts.subject,
            f"{facts.user} lacks {right}: the end of the binlog cannot be asked for, so no load can finish "
            f"({facts.log_status.refusal})",
            f"GRANT {right} ON *.* TO {facts.account};",
        )


def _replication_slave(facts: SourceFacts) -> Iterator[Finding]:
    # Where SHOW REPLICAS asks for this very right (MySQL; MariaDB asks for another), its answer is the proof.
    is_proven = facts.flavor == "mysql" and not facts.replicas.refusal
    if is_proven or facts.grants.scope("REPLICATION SLAVE", "") == "global":
        return
    inactive = f" The roles {listed(facts.grants.roles)} are granted: are they active?" if facts.grants.roles else ""
    activate = ""
    if facts.grants.roles:
        activate = (
            f" or, if a role has it: SET DEFAULT ROLE ALL TO {facts.account};"
            if facts.flavor == "mysql"
            else f" or, if a role has it: SET DEFAULT ROLE {quoted(facts.grants.roles[0])} FOR {facts.account};"
        )
    yield error(
        facts.subject,
        f"{facts.user} lacks REPLICATION SLAVE: the server will not send its binlog.{inactive}",
        f"GRANT REPLICATION SLAVE ON *.* TO {facts.account};{activate}",
    )


_TOO_MUCH = ("SUPER", "INSERT", "UPDATE", "DELETE", "DROP", "ALTER", "CREATE USER", "FILE", "SHUTDOWN", "RELOAD")


def _excess_rights(facts: SourceFacts) -> Iterator[Finding]:
    everywhere = facts.grants.everywhere
    excess = ["ALL PRIVILEGES"] if "ALL PRIVILEGES" in everywhere else [r for r in _TOO_MUCH if r in everywhere]
    if excess:
        yield warning(
            facts.subject,
            f"{facts.user} has {', '.join(excess)} on *.*, which following the binlog does not need: whoever gets "
            "hold of this password can change the source",
            f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {facts.account}; then GRANT only SELECT on the captured "
            f"tables, and GRANT REPLICATION SLAVE, {_monitor_right(facts)} ON *.* TO {facts.account};",
        )


# ---------------------------------------------------------------- the binlog


def _log_bin(facts: SourceFacts) -> Iterator[Finding]:
    if facts.variable("log_bin") not in ("on", "1"):
        fix = facts.set_at_start(f"log_bin=binlog and server_id={facts.number('server_id') or 1}")
        if facts.service in ("Amazon RDS", "Amazon Aurora"):
            fix = (
                "switch automated backups on (RDS), or set binlog_format = ROW in the cluster parameter group (Aurora)"
            )
        elif facts.service == "Google Cloud SQL":
            fix = "gcloud sql instances patch INSTANCE --enable-bin-log"
        yield error(facts.subject, "log_bin is OFF: the server writes no binlog, so there is nothing to follow", fix)


def _binlog_format(facts: SourceFacts) -> Iterator[Finding]:
    value = facts.variables.get("binlog_format", "")
    if value and value.upper() != "ROW":
        yield error(
            facts.subject,
            f"binlog_format is {value}: changes are logged as statements, without the rows they touched, and the "
            "stream stops at the first one on a captured table",
            f"{facts.set_global('binlog_format', 'ROW')} Sessions that are open keep the old format: have them "
            "reconnect",
        )


def _row_image(facts: SourceFacts) -> Iterator[Finding]:
    value = facts.variables.get("binlog_row_image", "").upper()
    if not value or value == "FULL":
        return
    costs = ""
    if value != "FULL_NODUP":
        costs = (
            ", changed rows are updated by those that are logged, which is slower than writing them whole, and a table "
            "is parked whose log does not tell a value: the default of a column that an INSERT does not name (FLOAT, "
            "and what else information_schema does not show exactly), a configured key, a key that is changed while "
            "its table is loaded"
        )
    if facts.flavor == "mariadb":
        costs += "; a table with VIRTUAL columns is parked by its next UPDATE"
    if facts.flavor == "mariadb" and value != "FULL_NODUP":
        costs += (
            "; a REPLACE over a row that is there does not log what falls back to its default, so that sinks (and this "
            "server's own replicas) keep the old values"
        )
    yield warning(
        facts.subject,
        f"binlog_row_image is {value}: row images lack columns{costs}",
        f"{facts.set_global('binlog_row_image', 'FULL')} Sessions that are open keep the old value: have them "
        "reconnect",
    )


def _row_value_options(facts: SourceFacts) -> Iterator[Finding]:
    value = facts.variables.get("binlog_row_value_options", "")
    if value and facts.variables.get("binlog_row_image", "").upper() != "MINIMAL":
        yield info(
            facts.subject,
            f"binlog_row_value_options is {value}: updates of JSON columns are logged as differences, which are "
            "applied to the document before; no session may set binlog_row_image=MINIMAL, or that is not there",
            "nothing to do",
        )
    elif value:
        yield error(
            facts.subject,
            f"binlog_row_value_options is {value}: updates of JSON columns are logged as differences, and with this "
            "binlog_row_image the document before is not logged",
            "SET PERSIST binlog_row_value_options = ''; Sessions that are open keep the old value: have them reconnect"
            if facts.service is None
            else facts.set_global("binlog_row_value_options", "''"),
        )


def _row_metadata(facts: SourceFacts) -> Iterator[Finding]:
    value = facts.variables.get("binlog_row_metadata")
    if value is None:
        yield info(
            facts.subject,
            f"{facts.version_text} knows no binlog_row_metadata: column names and types come from the schema "
            "history, so a start from a position before it needs a new load",
            "nothing to set; a later version (MySQL 8.0, MariaDB 10.5) sends them",
        )
    elif value.upper() != "FULL":
        yield warning(
            facts.subject,
            f"binlog_row_metadata is {value}: rows come without column names, so a column that is renamed or moved "
            "between two looks at the source is noticed late, and the table is loaded again",
            facts.set_global("binlog_row_metadata", "FULL"),
        )


def _compression(facts: SourceFacts) -> Iterator[Finding]:
    if facts.variable("binlog_transaction_compression") in ("on", "1"):
        yield info(
            facts.subject,
            "binlog_transaction_compression is ON: transactions arrive compressed and are unpacked here, which "
            "costs this machine some processor time and saves network",
            "nothing to do; SET PERSIST binlog_transaction_compression = OFF; where it is not wanted",
        )


def _gtid(facts: SourceFacts) -> Iterator[Finding]:
    if facts.flavor == "mariadb":
        if facts.variable("gtid_strict_mode") in ("off", "0"):
            yield info(
                facts.subject,
                "gtid_strict_mode is OFF: writes on two servers may give one domain's numbers twice, and after a "
                "failover the position may not be found",
                facts.set_global("gtid_strict_mode", "1"),
            )
        return
    mode = facts.variables.get("gtid_mode", "OFF").upper()
    if mode == "ON":
        return
    if facts.version < (5, 7, 6) and "gtid_mode" in facts.variables:
        steps = facts.set_at_start("gtid_mode=ON, enforce_gtid_consistency=ON and log_slave_updates=ON")
    else:
        verb = "SET PERSIST" if facts.version >= (8, 0, 0) else "SET GLOBAL"
        order = ("OFF", "OFF_PERMISSIVE", "ON_PERMISSIVE", "ON")
        following = order[order.index(mode) + 1 :] if mode in order else order[1:]
        steps = f"{verb} enforce_gtid_consistency = ON; " + " ".join(f"{verb} gtid_mode = {m};" for m in following)
        if facts.service is not None:
            steps = facts.set_at_start("gtid_mode=ON and enforce_gtid_consistency=ON")
    if facts.settings.position == "gtid":
        yield error(
            facts.subject,
            f"gtid_mode is {mode}, and source.position is gtid: the stream cannot start",
            f"{steps} or set source.position: file",
            is_configuration=True,
        )
        return
    yield warning(
        facts.subject,
        f"gtid_mode is {mode}: the position is a file and an offset of this one server, so that after a failover "
        "every table has to be loaded again",
        steps,
    )


def _storage_engine(facts: SourceFacts) -> Iterator[Finding]:
    value = facts.variables.get("binlog_storage_engine", "")
    if value:
        yield error(
            facts.subject,
            f"binlog_storage_engine is {value}: this format of the binlog is not supported",
            facts.set_at_start("binlog_storage_engine= (empty)"),
        )


def _filters(facts: SourceFacts) -> Iterator[Finding]:
    row = next(iter(facts.log_status.rows), {})
    do = _names(row.get("Binlog_Do_DB"))
    ignore = _names(row.get("Binlog_Ignore_DB"))
    databases = sorted({definition.name.database for definition in facts.definitions})
    hit = [name for name in databases if name in ignore or (do and name not in do)]
    if hit:
        which = f"binlog_do_db={','.join(sorted(do))}" if do else f"binlog_ignore_db={','.join(sorted(ignore))}"
        yield error(
            facts.subject,
            f"{which} keeps changes in {listed(hit)} out of the binlog: captured tables there would never change",
            f"take {which} out of the server's option file, and restart it",
        )


def _names(text: str | None) -> frozenset[str]:
    return frozenset(name.strip() for name in (text or "").split(",") if name.strip())


def _replica_updates(facts: SourceFacts) -> Iterator[Finding]:
    value = facts.variable("log_replica_updates") or facts.variable("log_slave_updates")
    if value not in ("off", "0"):
        return
    name = "log_replica_updates" if facts.flavor == "mysql" and facts.version >= (8, 0, 26) else "log_slave_updates"
    if facts.replica_status.rows or facts.is_replicating:
        yield error(
            facts.subject,
            f"the source is a replica with {name} OFF: what it replicates is not in its own binlog",
            f"{facts.set_at_start(f'{name}=ON')}, or follow its primary",
        )
    elif facts.replica_status.refusal:
        yield info(
            facts.subject,
            f"{name} is OFF, and whether this server replicates from another could not be looked at "
            f"({facts.replica_status.refusal}); no replication runs right now",
            f"if it is a replica: {facts.set_at_start(f'{name}=ON')}",
        )


def _error_action(facts: SourceFacts) -> Iterator[Finding]:
    if facts.variable("binlog_error_action") == "ignore_error":
        yield warning(
            facts.subject,
            "binlog_error_action is IGNORE_ERROR: with a full disk the server goes on without its binlog, and those "
            "changes are lost",
            facts.set_global("binlog_error_action", "ABORT_SERVER"),
        )


def _checksum(facts: SourceFacts) -> Iterator[Finding]:
    if facts.variable("binlog_checksum") == "none":
        yield info(
            facts.subject,
            "binlog_checksum is NONE: an event damaged on disk or on the way is not noticed by its checksum",
            facts.set_global("binlog_checksum", "CRC32"),
        )


def _durability(facts: SourceFacts) -> Iterator[Finding]:
    wanted = ("sync_binlog", "innodb_flush_log_at_trx_commit")
    loose = [name for name in wanted if facts.variables.get(name, "1") != "1"]
    if loose and facts.service is None:
        values = " and ".join(f"{name} = {facts.variables[name]}" for name in loose)
        has_persist = facts.flavor == "mysql" and facts.version >= (8, 0, 0)
        fix = " ".join(f"SET {'PERSIST' if has_persist else 'GLOBAL'} {name} = 1;" for name in loose)
        yield info(
            facts.subject,
            f"{values}: if the source's machine crashes, it may forget transactions that the sinks have",
            fix if has_persist else f"{fix} (and the same under [mysqld] in the server's option file)",
        )


# ---------------------------------------------------------------- retention


def _retention(facts: SourceFacts) -> Iterator[Finding]:
    if facts.variable("log_bin") not in ("on", "1"):
        return
    if facts.service in ("Amazon RDS", "Amazon Aurora"):
        yield from _amazon_retention(facts)
        return
    if facts.number("max_binlog_total_size") or facts.number("binlog_space_limit"):
        size = facts.number("max_binlog_total_size") or facts.number("binlog_space_limit")
        yield info(
            facts.subject,
            f"binlogs are purged beyond {size} bytes in all, however young they are",
            facts.set_global("max_binlog_total_size", "0"),
        )
    seconds = _retention_seconds(facts)
    if facts.service == "Azure Database for MySQL" and seconds is None:
        yield error(
            facts.subject,
            "binlog_expire_logs_seconds is 0, which on Azure means that binlogs go as soon as nobody reads them: "
            "any interruption costs a reload",
            facts.set_global("binlog_expire_logs_seconds", str(RETENTION_SECONDS_MIN)),
        )
    elif seconds is not None and seconds < RETENTION_SECONDS_MIN:
        name, value = "binlog_expire_logs_seconds", RETENTION_SECONDS_MIN
        if name not in facts.variables:
            name, value = "expire_logs_days", 1
        fix = facts.set_global(name, str(value))
        if facts.service == "Google Cloud SQL":
            fix = "gcloud sql instances patch INSTANCE --retained-transaction-log-days=7"
        yield warning(
            facts.subject,
            f"binlogs are kept for {seconds / 3600:g} h: when the service or a sink is away for longer, every table "
            "has to be loaded again",
            fix,
        )


def _retention_seconds(facts: SourceFacts) -> int | None:
    """None: for ever."""
    if facts.variable("binlog_expire_logs_auto_purge") in ("off", "0"):
        return None
    seconds = facts.number("binlog_expire_logs_seconds")
    days = float(facts.variables.get("expire_logs_days") or 0)
    return seconds or int(days * 86400) or None


def _amazon_retention(facts: SourceFacts) -> Iterator[Finding]:
    fix = "CALL mysql.rds_set_configuration('binlog retention hours', 168);"
    if facts.rds_retention.refusal or not facts.rds_retention.rows:
        yield warning(
            facts.subject,
            f"how long {facts.service} keeps binlogs could not be looked at; unless it was set, they go as soon as "
            "they can",
            f"CALL mysql.rds_show_configuration; as the administrator, then {fix}",
        )
        return
    value = facts.rds_retention.rows[0].get("value")
    if value is None or value == "":
        yield error(
            facts.subject,
            f"'binlog retention hours' is not set: {facts.service} purges binlogs as soon as it can, and any "
            "interruption costs a reload",
            fix,
        )
    elif float(value) * 3600 < RETENTION_SECONDS_MIN:
        yield warning(
            facts.subject,
            f"'binlog retention hours' is {value}: when the service or a sink is away for longer, every table has to "
            "be loaded again",
            fix,
        )


# ---------------------------------------------------------------- who else is there


def _server_id(facts: SourceFacts) -> Iterator[Finding]:
    own = facts.number("server_id")
    settings = facts.settings
    block = range(settings.server_id, settings.server_id + settings.server_id_count)
    if own == 0:
        yield error(
            facts.subject,
            "the source has server_id 0, with which it sends its binlog to nobody",
            facts.set_global("server_id", "1") if facts.version >= (5, 7, 0) else facts.set_at_start("server_id=1"),
        )
    elif own in block:
        yield error(
            facts.subject,
            f"the source itself has server_id {own}, which is in this service's block {block[0]}..{block[-1]}",
            "set source.server_id so that the block is free, such as "
            f"{block[-1] + 1 if own == block[0] else own + 1000}",
            is_configuration=True,
        )


def _replica_uuid(settings: SourceSettings, server_id: int) -> str:
    """What `source.stream` calls itself for that id."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"cdc://{settings.address}/{server_id}"))


def _replica_ids(facts: SourceFacts) -> Iterator[Finding]:
    settings = facts.settings
    block = range(settings.server_id, settings.server_id + settings.server_id_count)
    if facts.replicas.refusal:
        is_renamed = facts.flavor == "mysql" and facts.version >= (8, 0, 22)
        statement = "SHOW REPLICAS" if is_renamed else "SHOW SLAVE HOSTS"
        others = f" ({facts.dump_sessions} streams of {facts.user} run now)" if facts.dump_sessions else ""
        yield info(
            facts.subject,
            f"the ids of the other replicas could not be looked at{others}: {facts.replicas.refusal}. Two replicas "
            "with one id cut each other's stream",
            f"make sure that no other replica has an id in {block[0]}..{block[-1]}; {statement}; as an administrator "
            "lists them",
        )
        return
    for row in facts.replicas.rows:
        values = {name.lower(): value or "" for name, value in row.items()}
        number = int(values.get("server_id") or 0)
        if number not in block:
            continue
        their_uuid = values.get("replica_uuid") or values.get("slave_uuid") or ""
        # MariaDB shows no uuid; a replica server tells it its port, this service tells 0.
        is_ours = their_uuid == _replica_uuid(settings, number) if their_uuid else values.get("port") in ("0", "")
        if is_ours and facts.is_running:
            continue
        where = f" at {values['host']}:{values.get('port', '')}" if values.get("host") else ""
        fix = f"set source.server_id so that the block of {settings.server_id_count} ids from it on is free"
        if is_ours:
            yield warning(
                facts.subject,
                f"a cdc service streams with server_id {number}, and no instance of this deployment is live: either "
                "one that has just ended, or another deployment with the same ids, and the two would cut each "
                "other's stream",
                fix,
            )
        else:
            yield error(
                facts.subject,
                f"another replica{where} has server_id {number}, which is in this service's block "
                f"{block[0]}..{block[-1]}: the two would cut each other's stream",
                fix,
                is_configuration=True,
            )


def _clock(facts: SourceFacts) -> Iterator[Finding]:
    if abs(facts.clock_offset_seconds) - facts.clock_error_seconds > CLOCK_OFFSET_SECONDS_MAX:
        ahead = "ahead of" if facts.clock_offset_seconds > 0 else "behind"
        yield warning(
            facts.subject,
            f"its clock is {abs(facts.clock_offset_seconds):.1f} s {ahead} this machine's: lag is shown wrong by as "
            "much",
            "synchronise the clocks (chrony or systemd-timesyncd on both machines)",
        )


def _tls(facts: SourceFacts) -> Iterator[Finding]:
    settings = facts.settings
    if facts.is_local:
        return
    if not facts.is_encrypted:
        yield warning(
            facts.subject,
            "the connection is in the clear: rows, and what leads to the password, can be read on the network",
            "enable TLS on the server (ssl_cert, ssl_key), and set source.ssl_mode: verify_identity with source.ssl_ca",
        )
    elif settings.ssl.mode in ("preferred", "required"):
        yield info(
            facts.subject,
            f"the connection is encrypted, but ssl_mode {settings.ssl.mode} does not check whom it is with",
            "set source.ssl_mode: verify_identity, and source.ssl_ca to the authority's PEM file",
        )


def _prepared(facts: SourceFacts) -> Iterator[Finding]:
    if facts.prepared.refusal:
        yield info(
            facts.subject,
            "whether XA transactions are prepared could not be looked at "
            + ("(MySQL wants XA_RECOVER_ADMIN for that)" if facts.flavor == "mysql" else f"({facts.prepared.refusal})"),
            "where XA is not used: nothing to do; else XA RECOVER; as an administrator lists them",
        )
    elif facts.prepared.rows:
        names = [str(row.get("data") or "") for row in facts.prepared.rows]
        yield warning(
            facts.subject,
            f"{len(names)} XA transactions are prepared and not finished ({listed(names)}): a first load that begins "
            "now cannot see their rows, and at the XA COMMIT of each of them the tables are loaded again",
            "XA COMMIT or XA ROLLBACK each of them before the first load",
        )


# ---------------------------------------------------------------- tables


def _matched(facts: SourceFacts) -> Iterator[Finding]:
    names = [definition.name for definition in facts.definitions]
    seen = [*names, *(name for name, _ in facts.others)]
    for pattern in facts.captured.include:
        if any(pattern.matches(name.database, name.table) for name in seen):
            continue
        subject = f"tables.include {pattern.text}"
        database = pattern.database
        if database is not None and facts.grants.scope("SELECT", database, pattern.table) is None:
            place = f"{grant_pattern(database)}.*"
            if pattern.table is not None:
                place = f"{quoted(database)}.{quoted(pattern.table)}"
            yield error(
                subject,
                f"{facts.user} may see nothing of it: there is no SELECT on {place}",
                f"GRANT SELECT ON {place} TO {facts.account};",
            )
            continue
        yield warning(
            subject,
            "matches no table at the source that may be seen: nothing is captured by it until one is made",
            "correct the pattern (case counts), or make the table",
        )


def _select(facts: SourceFacts) -> Iterator[Finding]:
    for table, columns in facts.unreadable.items():
        place = f"{quoted(table.database)}.{quoted(table.table)}"
        what = f"on its columns {listed(columns)}" if columns else "on it"
        yield error(
            table,
            f"{facts.user} lacks SELECT {what}: the table cannot be loaded",
            f"GRANT SELECT ON {place} TO {facts.account};",
        )
    for table, refusal in facts.by_column.items():
        fix = f"GRANT SELECT ON {quoted(table.database)}.{quoted(table.table)} TO {facts.account};"
        if refusal:
            yield error(
                table,
                f"{facts.user} has SELECT on single columns, and not on all of them: the values of the others, which "
                f"it may not even see, would be missing ({refusal})",
                fix,
            )
        else:
            yield warning(
                table,
                f"{facts.user} has SELECT on single columns: all of today's, but a column added later could not be "
                "read",
                fix,
            )


def _later_tables(facts: SourceFacts) -> Iterator[Finding]:
    for pattern in facts.captured.include:
        if pattern.table is not None:
            continue
        databases = (
            [pattern.database]
            if pattern.database is not None
            else sorted({d.name.database for d in facts.definitions if pattern.matches(d.name.database, d.name.table)})
        )
        narrow = [d for d in databases if facts.grants.scope("SELECT", d) is None]
        if narrow and any(definition.name.database in narrow for definition in facts.definitions):
            yield warning(
                f"tables.include {pattern.text}",
                f"{facts.user} has SELECT on single tables of {listed(narrow)} only: a table made later matches, and "
                "cannot be loaded",
                " ".join(f"GRANT SELECT ON {grant_pattern(d)}.* TO {facts.account};" for d in narrow),
            )


def _key(facts: SourceFacts) -> Iterator[Finding]:
    for definition in facts.definitions:
        override = facts.captured.keys.get(definition.name)
        if not definition.columns or definition.name in facts.unreadable:
            continue
        try:
            key = choose_key(definition, override)
        except UnsupportedData as problem:
            yield error(definition.name, problem.message, problem.hint, is_configuration=True)
            continue
        if not key:
            yield _keyless(facts, definition)
        elif override:
            yield from _override(definition, key)
        elif not definition.primary_key:
            yield info(
                definition.name,
                f"has no primary key: its unique key over {', '.join(key)} stands in for one",
                "nothing to do as long as that key stays",
            )


def _keyless(facts: SourceFacts, definition: TableDefinition) -> Finding:
    place = f"{quoted(definition.name.database)}.{quoted(definition.name.table)}"
    problem = "has no primary key and no unique key over NOT NULL columns"
    name_a_key = "name the columns that identify a row in tables.overrides (primary_key)"
    if definition.engine.lower() not in VIEWED_ENGINES:
        return error(
            definition.name,
            f"{problem}, and its engine {definition.engine} has no read view: it cannot be loaded at an exact position",
            f"ALTER TABLE {place} ENGINE = InnoDB; or {name_a_key}, or exclude the table",
        )
    rows = facts.row_estimates.get(definition.name)
    return warning(
        definition.name,
        f"{problem}: its rows are told apart by all columns together. Changes that delete or update rows read the "
        f"whole target, on MySQL and MariaDB several times{'' if rows is None else f' (some {rows:,} rows)'}; inserts "
        "do not",
        f"ALTER TABLE {place} ADD PRIMARY KEY (...); or {name_a_key}; an index on the target, over columns that few "
        "rows share, helps too",
    )


def _override(definition: TableDefinition, key: tuple[str, ...]) -> Iterator[Finding]:
    columns = {column.name: column for column in definition.columns}
    unique = [definition.primary_key, *(k.columns for k in definition.unique_keys if not k.has_prefix)]
    place = f"{quoted(definition.name.database)}.{quoted(definition.name.table)}"
    names = ", ".join(quoted(name) for name in key)
    nullable = [name for name in key if columns[name].is_nullable]
    if nullable:
        yield warning(
            definition.name,
            f"the configured primary_key holds {', '.join(nullable)}, which may be NULL: a row with NULL there stops "
            "the table",
            f"ALTER TABLE {place} MODIFY ... NOT NULL; or name other columns",
        )
    if not any(candidate and set(candidate) <= set(key) for candidate in unique):
        yield warning(
            definition.name,
            f"nothing at the source keeps the configured primary_key ({', '.join(key)}) unique: rows that share it "
            "become one row on the sink",
            f"ALTER TABLE {place} ADD UNIQUE KEY ({names});",
        )


def _engine(facts: SourceFacts) -> Iterator[Finding]:
    for definition in facts.definitions:
        if definition.engine and definition.engine.lower() not in facts.transactional_engines:
            what = "its changes are not part of transactions: a failed statement stays half done, here and on the sinks"
            if definition.engine.upper() == "MEMORY":
                what += "; a restart of the source empties it"
            yield warning(
                definition.name,
                f"has the engine {definition.engine}: {what}",
                f"ALTER TABLE {quoted(definition.name.database)}.{quoted(definition.name.table)} ENGINE = InnoDB;",
            )


def _cascades(facts: SourceFacts) -> Iterator[Finding]:
    if logs_cascades(facts.flavor, facts.version, facts.variable("innodb_native_foreign_keys")):
        return
    problems = facts.captured.hidden_cascades(facts.definitions, facts.foreign_keys)
    for key in facts.foreign_keys:
        rules = []
        if key.on_delete in ACTIVE_RULES:
            rules.append(("DELETE", key.on_delete))
        if key.on_update in ACTIVE_RULES:
            rules.append(("UPDATE", key.on_update))
        clauses = " ".join(f"ON {event} {action}" for event, action in rules)
        lost = " and ".join(
            f"rows of {key.table} that are {'removed' if (event, action) == ('DELETE', 'CASCADE') else 'changed'} "
            f"because a row of {key.parent} is {'deleted' if event == 'DELETE' else 'given another key'}"
            for event, action in rules
        )
        place = f"{quoted(key.table.database)}.{quoted(key.table.table)}"
        say = warning if facts.captured.accepts_hidden_cascades(key.table.database, key.table.table) else error
        native = facts.flavor == "mysql" and facts.version >= (9, 6, 0)
        problem = problems.get(key.table)
        can = "set policies.hidden_cascades: apply, and the sinks do the same where it is proven; or "
        can = "" if problem else can
        fix = (
            f"{can}ALTER TABLE {place} DROP FOREIGN KEY {quoted(key.name)}; add it again with ON DELETE RESTRICT ON "
            "UPDATE RESTRICT, and let the application change these rows itself; or exclude the table; or set "
            "policies.hidden_cascades: accept, and compare with `cdc verify`"
        )
        if native:
            fix = f"{facts.set_at_start('innodb_native_foreign_keys=OFF')} (the server then logs cascades)"
        if problem == "":
            text = f"foreign key {key.name} has {clauses}, which this server does in the engine and does not log: the "
            yield info(
                key.table, f"{text}sinks do the same with rows of {key.table}", fix if native else "nothing to mend"
            )
            continue
        yield say(
            key.table,
            f"foreign key {key.name} has {clauses}, which this server does in the engine and does not log: {lost} "
            "never reach the sinks" + (f", nor can the sinks do the same: {problem}" if problem else ""),
            fix,
        )


def _kinds(facts: SourceFacts) -> Iterator[Finding]:
    exact = {(pattern.database, pattern.table) for pattern in facts.captured.include if pattern.table is not None}
    for table, kind in facts.others:
        fix = f"put {table} under tables.exclude"
        if (table.database, table.table) in exact:
            yield error(table, f"is a {kind}, which cannot be captured", fix, is_configuration=True)
        elif kind == "system versioned":
            yield warning(
                table,
                "is system-versioned, which is not supported: it is not captured",
                f"{fix}, or ALTER TABLE {quoted(table.database)}.{quoted(table.table)} DROP SYSTEM VERSIONING;",
            )
        else:
            yield info(table, f"is a {kind}: it has no rows of its own in the binlog and is not captured", fix)


def _column_types(facts: SourceFacts) -> Iterator[Finding]:
    for problem in facts.unsupported:
        yield error(problem.table, problem.message, problem.hint)
    for definition in facts.definitions:
        for column in definition.columns:
            if not _is_known_charset(column):
                yield error(
                    definition.name,
                    f"column {column.name} has the character set {column.charset}, whose conversion to UTF-8 is not "
                    "known",
                    f"ALTER TABLE {quoted(definition.name.database)}.{quoted(definition.name.table)} MODIFY "
                    f"{quoted(column.name)} {column.column_type} CHARACTER SET utf8mb4; or exclude the table",
                )
            if not are_members_told(column):
                yield warning(
                    definition.name,
                    f"members of {column.name} may have characters beyond U+FFFF: the source shows `?` for each, and "
                    "does not say which; a value of such a member parks the table when it is loaded, and comes with "
                    "the `?` when it is streamed",
                    "nothing, where the members have `?` of their own; else exclude the table, or move to MySQL 8.0",
                )


def _is_known_charset(column: ColumnDefinition) -> bool:
    if column.charset is None or column.kind not in (ValueKind.TEXT, ValueKind.ENUM, ValueKind.SET):
        return True
    try:
        text_decoder(column.charset)
    except UnprovenCharset:
        return False
    return True


# ---------------------------------------------------------------- the tables of checks

SOURCE_CHECKS: tuple[Check[SourceFacts], ...] = (
    Check(
        "source.replication_client",
        _replication_client,
        looks="runs SHOW BINARY LOG STATUS (SHOW MASTER STATUS), which needs the right",
        breaks="no load can finish: it ends at the written end of the binlog",
        mends="`GRANT REPLICATION CLIENT` (MariaDB 10.5 and later: `BINLOG MONITOR`) `ON *.* TO user`",
    ),
    Check(
        "source.replication_slave",
        _replication_slave,
        looks="runs SHOW REPLICAS, which needs the right on MySQL; reads SHOW GRANTS, active roles included",
        breaks="the server does not send its binlog",
        mends="`GRANT REPLICATION SLAVE ON *.* TO user`; where a role has it, make the role active by default",
    ),
    Check(
        "source.excess_rights",
        _excess_rights,
        looks="SHOW GRANTS: SUPER, ALL, rights to write on `*.*`",
        breaks="nothing; a stolen password would do more harm than it must",
        mends="`REVOKE`, and grant what is needed",
    ),
    Check(
        "source.log_bin",
        _log_bin,
        looks="`log_bin`",
        breaks="there is no binlog to follow",
        mends="`log_bin` and `server_id` in the option file and a restart; automated backups on Amazon RDS",
    ),
    Check(
        "source.binlog_format",
        _binlog_format,
        looks="`binlog_format` is ROW",
        breaks="statements are logged in place of rows; the stream stops at the first on a captured table",
        mends="`SET PERSIST binlog_format = 'ROW'` (`SET GLOBAL` before MySQL 8 and on MariaDB)",
    ),
    Check(
        "source.binlog_row_image",
        _row_image,
        looks="`binlog_row_image` is FULL",
        breaks="row images lack columns: slower, and a table is parked whose log does not tell a value "
        "([what works](decisions/0012-partial-images.md))",
        mends="`SET PERSIST binlog_row_image = 'FULL'`",
    ),
    Check(
        "source.binlog_row_value_options",
        _row_value_options,
        looks="`binlog_row_value_options` is empty, or `binlog_row_image` is not MINIMAL",
        breaks="JSON updates are logged as differences without the document before",
        mends="`SET PERSIST binlog_row_value_options = ''`",
    ),
    Check(
        "source.binlog_row_metadata",
        _row_metadata,
        looks="`binlog_row_metadata` is FULL",
        breaks="column names are not in the stream: a changed table costs a look at the source, or a reload",
        mends="`SET PERSIST binlog_row_metadata = 'FULL'`",
    ),
    Check(
        "source.binlog_transaction_compression",
        _compression,
        looks="`binlog_transaction_compression`",
        breaks="nothing",
        mends="nothing to mend",
    ),
    Check(
        "source.gtid",
        _gtid,
        looks="`gtid_mode` (MySQL), `gtid_strict_mode` (MariaDB), `source.position`",
        breaks="without GTIDs a position holds on one server only, so a failover costs a reload; with `position: "
        "gtid` the stream cannot start",
        mends="`enforce_gtid_consistency` and then `gtid_mode` step by step to ON",
    ),
    Check(
        "source.binlog_storage_engine",
        _storage_engine,
        looks="`binlog_storage_engine` (MariaDB 12.3) is empty",
        breaks="that format of the binlog is not supported",
        mends="empty it in the option file, and restart",
    ),
    Check(
        "source.filters",
        _filters,
        looks="`binlog_do_db` and `binlog_ignore_db` against the captured tables",
        breaks="changes in the databases left out never reach the binlog",
        mends="take the filter out of the option file, and restart",
    ),
    Check(
        "source.log_replica_updates",
        _replica_updates,
        looks="`log_replica_updates` (`log_slave_updates`) where the source is itself a replica",
        breaks="what it replicates is not in its own binlog",
        mends="`log_replica_updates=ON` in the option file, and restart; or follow the primary",
    ),
    Check(
        "source.binlog_error_action",
        _error_action,
        looks="`binlog_error_action` is not IGNORE_ERROR",
        breaks="with a full disk the server stops logging, not writing",
        mends="`SET PERSIST binlog_error_action = 'ABORT_SERVER'`",
    ),
    Check(
        "source.binlog_checksum",
        _checksum,
        looks="`binlog_checksum` is CRC32",
        breaks="damage is not noticed by its checksum",
        mends="`SET PERSIST binlog_checksum = 'CRC32'`",
    ),
    Check(
        "source.durability",
        _durability,
        looks="`sync_binlog` and `innodb_flush_log_at_trx_commit` are 1",
        breaks="after a crash of its machine the source may lack transactions that the sinks have",
        mends="set both to 1",
    ),
    Check(
        "source.retention",
        _retention,
        looks="`binlog_expire_logs_seconds`, `expire_logs_days`, limits of size; `mysql.rds_configuration` on Amazon",
        breaks="when the service is away for longer than binlogs are kept, every table is loaded again",
        mends="`SET PERSIST binlog_expire_logs_seconds = 86400` or more; `CALL mysql.rds_set_configuration('binlog "
        "retention hours', 168)`; server parameters on Azure; `--retained-transaction-log-days` on Cloud SQL",
    ),
    Check(
        "source.server_id",
        _server_id,
        looks="the source's own `server_id`: not 0, and not in the block `server_id`..`server_id` + "
        "`server_id_count` - 1",
        breaks="with 0 the source sends no binlog; with an id of ours it takes us for itself",
        mends="`source.server_id` in the configuration",
    ),
    Check(
        "source.replica_ids",
        _replica_ids,
        looks="SHOW REPLICAS (SHOW SLAVE HOSTS) for ids in the block",
        breaks="two replicas with one id cut each other's stream, over and over",
        mends="`source.server_id` in the configuration",
    ),
    Check(
        "source.clock",
        _clock,
        looks="its clock against this machine's",
        breaks="lag is shown wrong",
        mends="synchronise the clocks",
    ),
    Check(
        "source.tls",
        _tls,
        looks="whether the connection is encrypted, unless it stays on this machine",
        breaks="what crosses the network can be read, or comes from somebody else",
        mends="TLS on the server, `source.ssl_mode: verify_identity` and `source.ssl_ca`",
    ),
    Check(
        "source.prepared",
        _prepared,
        looks="XA RECOVER",
        breaks="one that was prepared before the first load is in no event that follows: at its XA COMMIT tables load "
        "again",
        mends="`XA COMMIT` or `XA ROLLBACK` before the first load",
    ),
)

TABLE_CHECKS: tuple[Check[SourceFacts], ...] = (
    Check(
        "table.matched",
        _matched,
        looks="each pattern of `tables.include` matches a table that may be seen",
        breaks="nothing is captured by it",
        mends="`GRANT SELECT`, or the pattern",
    ),
    Check(
        "table.select",
        _select,
        looks="SELECT on every column of every captured table, as the server reckons it, roles included; grants on "
        "single columns",
        breaks="the table cannot be loaded, or lacks columns that may not be seen",
        mends="`GRANT SELECT ON db.t TO user`",
    ),
    Check(
        "table.later",
        _later_tables,
        looks="SELECT on the whole database where a pattern has a wildcard for the table",
        breaks="a table made later cannot be loaded",
        mends="`GRANT SELECT ON db.* TO user`",
    ),
    Check(
        "table.key",
        _key,
        looks="a primary key, a unique key over NOT NULL columns, or a key named in `tables.overrides`",
        breaks="rows are told apart by all their columns: each run of changes that deletes or updates some reads the "
        "whole target; a table of an engine without read views is parked",
        mends="`ALTER TABLE ... ADD PRIMARY KEY (...)`, or `primary_key` in `tables.overrides`",
    ),
    Check(
        "table.engine",
        _engine,
        looks="engines without transactions",
        breaks="a failed statement stays half done; MEMORY tables are emptied by a restart",
        mends="`ALTER TABLE ... ENGINE = InnoDB`",
    ),
    Check(
        "table.cascades",
        _cascades,
        looks="foreign keys of captured tables with CASCADE, SET NULL or SET DEFAULT, on servers that do not log "
        "what these do (every MariaDB; MySQL before 9.6, or with `innodb_native_foreign_keys=ON`)",
        breaks="the rows that the engine removes or changes by itself never reach the sinks, but where these can do "
        "the same (`policies.hidden_cascades`); the finding says why they cannot",
        mends="foreign keys with RESTRICT, or exclude the table",
    ),
    Check(
        "table.kind",
        _kinds,
        looks="views, sequences and system-versioned tables that `include` matches",
        breaks="they are not captured",
        mends="`tables.exclude`",
    ),
    Check(
        "table.column_types",
        _column_types,
        looks="column types and character sets that are not carried",
        breaks="the table is parked",
        mends="change the column, or exclude the table",
    ),
)
