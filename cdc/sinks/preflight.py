"""Is a sink fit to be written to, and can it hold what is captured? (`cdc check`)

Asks an open sink a few questions in transactions that are rolled back, however many tables there are; only targets
that exist already and were not made by this deployment are looked at one by one. Writes nothing. The table of checks
is at the end; docs/check.md is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdc.clock import Clock
from cdc.errors import CdcError, ConfigError, UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.findings import Check, Finding, error, info, listed, run, warning
from cdc.schema.grants import Grants, account_text, grant_pattern, parse_grants
from cdc.schema.identifiers import column_name_problem, namespace_problem, table_name_problem
from cdc.schema.mapping import map_table, rule_for
from cdc.schema.options import TableOptions, kept_columns
from cdc.schema.routing import route
from cdc.schema.sharing import conflict, misfits
from cdc.schema.target import Policies, SinkKind, TargetTable
from cdc.sinks.base import ExistingTable, Sink
from cdc.sinks.sql_mysql import holds as mysql_holds
from cdc.sinks.sql_postgres import holds as postgres_holds

__all__ = [
    "SINK_CHECKS",
    "Planned",
    "SinkFacts",
    "SinkPlace",
    "SourceView",
    "check_sink",
    "plan_targets",
    "read_sink",
    "server_identity",
]

CLOCK_OFFSET_SECONDS_MAX = 1.0
POSTGRES_VERSION_MIN = 130000  # server_version_num; older ones are out of support and not tried
MAX_ALLOWED_PACKET_MAX = 1 << 30
MYSQL_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP")
MYSQL_LATER_RIGHTS = ("ALTER", "INDEX", "CREATE TEMPORARY TABLES")
METADATA_NAME = "_cdc"


# ---------------------------------------------------------------- what is known


@dataclass(frozen=True, slots=True)
class SinkPlace:
    """Where the sink is and where tables go there, as configured."""

    name: str
    host: str
    port: int
    user: str
    database: str | None
    schema: str | None
    ssl_mode: str
    is_local: bool  # on this machine: what is said to it crosses no network


@dataclass(frozen=True, slots=True)
class SourceView:
    """What a sink's checks need to know of the source. `variables` is empty when it could not be reached."""

    variables: Mapping[str, str]
    matches: Callable[[str, str], bool]
    definitions: tuple[TableDefinition, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """A captured table and its place on the sink. `target` is None where it cannot be mapped, as `problem` says."""

    definition: TableDefinition
    namespace: str
    name: str
    policies: Policies
    options: TableOptions
    target: TargetTable | None = None
    problem: UnsupportedData | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def column_names(self) -> list[str]:
        """Of the columns that go there, as they are called there."""
        return [name for _, name in kept_columns(self.definition, self.options)]


@dataclass(frozen=True, slots=True)
class _Namespace:
    """A schema or database that is there. On the MySQL family the grants say what we may do in it."""

    can_use: bool = True
    can_create: bool = True


@dataclass(frozen=True, slots=True)
class _Found:
    """A target that is there: what we may not do with it, and (where it was looked at) what it is like.

    `table` is the one it was looked at for: of several that share it, one.
    """

    missing_rights: tuple[str, ...] = ()
    is_owner: bool = True
    existing: ExistingTable | None = None
    differences: tuple[str, ...] = ()
    refusal: CdcError | None = None
    table: TableName | None = None

    def is_about(self, one: Planned) -> bool:
        """Was it looked at for that table?"""
        return one.options.source_column is None or self.table == one.definition.name


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """All that the checks look at.

    Attributes:
        variables: SHOW GLOBAL VARIABLES of the MySQL family; a handful of settings on PostgreSQL.
        user: as the server calls us: `user@host`, or the role.
        known: captured tables that this deployment has loaded here before.
        metadata_namespace: schema or database of the metadata tables.
        refusals: what could not be looked at, with the reason.
    """

    place: SinkPlace
    kind: SinkKind
    version: int
    version_text: str
    variables: Mapping[str, str]
    user: str
    grants: Grants
    is_superuser: bool
    can_create_namespace: bool
    can_make_temporary: bool
    is_encrypted: bool
    clock_offset_seconds: float
    clock_error_seconds: float
    namespaces: Mapping[str, _Namespace]
    found: Mapping[tuple[str, str], _Found]
    metadata_namespace: str
    planned: tuple[Planned, ...]
    known: frozenset[TableName]
    source: SourceView

    @property
    def subject(self) -> str:
        """How findings call this server."""
        return f"sink {self.place.name}"

    @property
    def is_postgresql(self) -> bool:
        """Else it is of the MySQL family."""
        return self.kind == "postgresql"

    @property
    def account(self) -> str:
        """Who we are, quoted for GRANT."""
        return _quote(self.user) if self.is_postgresql else account_text(self.user)

    @property
    def wanted_namespaces(self) -> list[str]:
        """Every schema or database that rows or metadata go to."""
        return sorted({self.metadata_namespace, *(planned.namespace for planned in self.planned)})

    def number(self, name: str) -> int:
        """0 where the server does not know it."""
        text = self.variables.get(name, "")
        return int(text) if text.isdigit() else 0

    def set_global(self, name: str, value: str) -> str:
        """For variables of the MySQL family that can be set while the server runs."""
        if self.kind == "mysql" and self.version >= 80000:
            return f"SET PERSIST {name} = {value};"
        return f"SET GLOBAL {name} = {value}; (and {name} = {value} under [mysqld] in the server's option file)"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def server_identity(variables: Mapping[str, str]) -> str:
    """Which server of the MySQL family these variables are of: its uuid, or what stands in for it on MariaDB."""
    own = variables.get("server_uuid") or variables.get("server_uid")
    return own or "/".join(variables.get(name, "") for name in ("hostname", "port", "datadir", "socket"))


def plan_targets(
    definitions: Sequence[TableDefinition],
    *,
    kind: SinkKind,
    place: SinkPlace,
    key: Callable[[TableDefinition], tuple[str, ...] | None],
    policies: Callable[[str, str], Policies],
    options: Callable[[str, str], TableOptions],
) -> tuple[Planned, ...]:
    """Where each captured table goes. `key` gives None where it is misnamed, which is another check's business."""
    planned = []
    for definition in definitions:
        table = definition.name
        chosen = policies(table.database, table.table)
        optional = options(table.database, table.table)
        namespace, name = route(kind, table, optional, schema=place.schema, database=place.database)
        columns = key(definition)
        target, problem = None, None
        if columns is not None:
            try:
                target = map_table(
                    definition,
                    kind=kind,
                    namespace=namespace,
                    name=name,
                    key=columns,
                    policies=chosen,
                    options=optional,
                )
            except UnsupportedData as failure:
                problem = failure
        planned.append(Planned(definition, namespace, name, chosen, optional, target, problem))
    return tuple(planned)


# ---------------------------------------------------------------- reading


def read_sink(
    sink: Sink,
    place: SinkPlace,
    *,
    planned: tuple[Planned, ...],
    known: frozenset[TableName],
    source: SourceView,
    clock: Clock,
) -> SinkFacts:
    """Ask an open sink everything that the checks look at. Raises SinkUnavailable."""
    namespace = _metadata_namespace(sink)
    read = _read_postgresql if sink.kind == "postgresql" else _read_mysql
    return read(sink, place, planned, known, source, clock, namespace)


def _metadata_namespace(sink: Sink) -> str:
    """Of `"_cdc"."checkpoint"` or `` `db`.`_cdc_checkpoint` ``."""
    quoted_name = re.match(r'"((?:[^"]|"")+)"|`((?:[^`]|``)+)`', sink.metadata_table("checkpoint"))
    if quoted_name is None:
        return METADATA_NAME
    name = (quoted_name[1] or "").replace('""', '"') or (quoted_name[2] or "").replace("``", "`")
    return name.replace("%%", "%")  # it is meant for statements with parameters


def _query(sink: Sink, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with sink.transaction() as transaction:
        return transaction.execute(sql, parameters)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)


def _clock_offset(sink: Sink, clock: Clock, sql: str) -> tuple[float, float]:
    """Of three tries the one with the shortest way: the server answered somewhere within it."""
    tries = []
    for _ in range(3):
        with sink.transaction() as transaction:
            transaction.execute("SELECT 1")  # the transaction has begun
            before = clock.now_us()
            value = float(_text(transaction.execute(sql)[0][0]))
            after = clock.now_us()
        tries.append(((after - before) / 2e6, value - (before + after) / 2e6))
    uncertainty, offset = min(tries)
    return offset, uncertainty


_POSTGRES_SERVER = """
SELECT current_setting('server_version_num'), version(), current_setting('server_encoding'), pg_is_in_recovery(),
       (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'), current_user,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP'),
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), current_database()"""
_POSTGRES_NAMESPACES = """
SELECT nspname, has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE')
FROM pg_namespace WHERE nspname = ANY(%s)"""
_POSTGRES_TABLES = """
SELECT n.nspname, c.relname, pg_has_role(c.relowner, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"""
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def _read_postgresql(
    sink: Sink,
    place: SinkPlace,
    planned: tuple[Planned, ...],
    known: frozenset[TableName],
    source: SourceView,
    clock: Clock,
    metadata_namespace: str,
) -> SinkFacts:
    (row,) = _query(sink, _POSTGRES_SERVER)
    number, version, encoding, recovers, read_only, user, superuser, can_create, can_temp, encrypted, database = row
    names = sorted({metadata_namespace, *(one.namespace for one in planned)})
    offset, uncertainty = _clock_offset(sink, clock, "SELECT extract(epoch FROM clock_timestamp())::float8::text")
    wanted = {one.place for one in planned}
    rights = {
        (namespace, name): (bool(owner), tuple(r for r, has in zip(_RIGHTS, given, strict=True) if not has))
        for namespace, name, owner, *given in _query(sink, _POSTGRES_TABLES, (names,))
        if (namespace, name) in wanted
    }
    return SinkFacts(
        place=place,
        kind="postgresql",
        version=int(number),
        version_text=_text(version).partition(",")[0],
        variables={
            "server_encoding": _text(encoding),
            "in_recovery": "on" if recovers else "off",
            "default_transaction_read_only": _text(read_only),
            "database": _text(database),
        },
        user=_text(user),
        grants=Grants(),
        is_superuser=bool(superuser),
        can_create_namespace=bool(can_create),
        can_make_temporary=bool(can_temp),
        is_encrypted=bool(encrypted),
        clock_offset_seconds=offset,
        clock_error_seconds=uncertainty,
        namespaces={
            _text(name): _Namespace(bool(can_use), bool(may_create))
            for name, can_use, may_create in _query(sink, _POSTGRES_NAMESPACES, (names,))
        },
        found={
            one.place: _inspect(sink, one, _known_to_share(one, planned, known), missing, is_owner)
            for one in planned
            if (held := rights.get(one.place)) is not None
            for is_owner, missing in [held]
        },
        metadata_namespace=metadata_namespace,
        planned=planned,
        known=known,
        source=source,
    )


def _read_mysql(
    sink: Sink,
    place: SinkPlace,
    planned: tuple[Planned, ...],
    known: frozenset[TableName],
    source: SourceView,
    clock: Clock,
    metadata_namespace: str,
) -> SinkFacts:
    variables = {_text(name): _text(value) for name, value in _query(sink, "SHOW GLOBAL VARIABLES")}
    grants = parse_grants(
        [_text(row[0]) for row in _query(sink, "SHOW GRANTS")],
        has_literal_databases=variables.get("partial_revokes") == "ON",
    )
    cipher = _query(sink, "SHOW STATUS WHERE Variable_name = 'Ssl_cipher'")
    offset, uncertainty = _clock_offset(sink, clock, "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) AS CHAR)")
    names = sorted({metadata_namespace, *(one.namespace for one in planned)})
    holders = ", ".join(["%s"] * len(names))
    there = [
        _text(row[0])
        for row in _query(
            sink, f"SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN ({holders})", names
        )
    ]
    tables = {
        (_text(database), _text(table))
        for database, table in _query(
            sink,
            f"SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({holders})",
            names,
        )
    }
    number = re.match(r"(\d+)\.(\d+)\.(\d+)", variables.get("version", "").removeprefix("5.5.5-"))
    version = (
        sum(int(part) * scale for part, scale in zip(number.groups(), (10000, 100, 1), strict=True)) if number else 0
    )
    # Names differ in nothing but case there: what we find is what we would write to.
    folds = variables.get("lower_case_table_names", "0") != "0"
    folded = {_folded(one, folds): one for one in tables}
    return SinkFacts(
        place=place,
        kind=sink.kind,
        version=version,
        version_text=variables.get("version", ""),
        variables=variables,
        user=_text(_query(sink, "SELECT CURRENT_USER()")[0][0]),
        grants=grants,
        is_superuser="SUPER" in grants.everywhere or "ALL PRIVILEGES" in grants.everywhere,
        can_create_namespace=True,
        can_make_temporary=True,
        is_encrypted=bool(cipher and _text(cipher[0][1])),
        clock_offset_seconds=offset,
        clock_error_seconds=uncertainty,
        namespaces={name: _Namespace() for name in there},
        found={
            one.place: _inspect(sink, one, _known_to_share(one, planned, known))
            for one in planned
            if _folded(one.place, folds) in folded
        },
        metadata_namespace=metadata_namespace,
        planned=planned,
        known=known,
        source=source,
    )


def _folded(place: tuple[str, str], folds: bool) -> tuple[str, str]:
    return (place[0].lower(), place[1].lower()) if folds else place


def _known_to_share(one: Planned, planned: Sequence[Planned], known: frozenset[TableName]) -> frozenset[TableName]:
    """`known`, and with it a table whose target this deployment has made for another one: the load makes it fit."""
    names = {other.definition.name for other in planned if other.place == one.place}
    return known | {one.definition.name} if one.options.source_column is not None and names & known else known


def _inspect(
    sink: Sink, one: Planned, known: frozenset[TableName], missing: tuple[str, ...] = (), is_owner: bool = True
) -> _Found:
    """Look at a target that is there, unless this deployment made it or we may not read it."""
    if one.target is None or one.definition.name in known or "SELECT" in missing:
        return _Found(missing, is_owner)
    try:
        existing = sink.inspect(one.target)
    except (ConfigError, UnsupportedData) as refusal:
        return _Found(missing, is_owner, refusal=refusal)
    differences = tuple(sink.differences(one.target, existing)) if existing is not None else ()
    return _Found(missing, is_owner, existing, differences, table=one.definition.name)


def check_sink(facts: SinkFacts) -> list[Finding]:
    """Every finding about the sink and the targets on it."""
    return run(SINK_CHECKS, facts)


# ---------------------------------------------------------------- the server


def _version(facts: SinkFacts) -> Iterator[Finding]:
    if facts.is_postgresql and facts.version < POSTGRES_VERSION_MIN:
        yield warning(
            facts.subject,
            f"it is {facts.version_text}: versions before 13 are not tried, and have no security fixes any more",
            "upgrade it to PostgreSQL 15 or later",
        )


def _encoding(facts: SinkFacts) -> Iterator[Finding]:
    encoding = facts.variables.get("server_encoding", "UTF8")
    if facts.is_postgresql and encoding != "UTF8":
        database = facts.variables["database"]
        yield error(
            facts.subject,
            f"the database {database} has the encoding {encoding}: characters that it lacks cannot be stored, and "
            "stop their table",
            f"CREATE DATABASE {_quote(database + '_utf8')} ENCODING 'UTF8' TEMPLATE template0; and name it in the "
            "sink's url",
        )


def _read_only(facts: SinkFacts) -> Iterator[Finding]:
    if facts.is_postgresql:
        if facts.variables["in_recovery"] == "on":
            yield error(
                facts.subject,
                "it is a standby: nothing can be written to it",
                "name the primary in the sink's url, or promote this one: SELECT pg_promote();",
            )
        elif facts.variables["default_transaction_read_only"] == "on":
            yield warning(
                facts.subject,
                "default_transaction_read_only is on; this service writes all the same, which somebody may not have "
                "meant",
                f"ALTER ROLE {facts.account} IN DATABASE {_quote(facts.variables['database'])} SET "
                "default_transaction_read_only = off;",
            )
        return
    # MariaDB 11.8 has values beyond ON: NO_LOCK and others.
    is_on = facts.variables.get("read_only", "OFF").upper() not in ("OFF", "0", "")
    super_on = facts.variables.get("super_read_only", "OFF").upper() in ("ON", "1")
    may_anyway = _may_write_read_only(facts)
    if super_on or (is_on and not may_anyway):
        name = "super_read_only" if super_on else "read_only"
        yield error(
            facts.subject,
            f"{name} is ON: nothing can be written to it (is it a replica?)",
            f"name the primary in the sink's url, or {facts.set_global('read_only', 'OFF')}",
        )
    elif is_on:
        yield warning(
            facts.subject,
            f"read_only is ON, and {facts.user} may write all the same: rows written to a replica make it differ "
            "from its primary",
            "name the primary in the sink's url",
        )
    if facts.variables.get("innodb_read_only", "OFF").upper() in ("ON", "1"):
        yield error(
            facts.subject,
            "innodb_read_only is ON: nothing can be written to it",
            "take innodb_read_only out of the server's option file, and restart it",
        )


def _may_write_read_only(facts: SinkFacts) -> bool:
    names = {"ALL PRIVILEGES", "CONNECTION_ADMIN", "READ_ONLY ADMIN", "READ ONLY ADMIN"}
    if facts.kind == "mysql" or facts.version < 101100:  # since MariaDB 10.11, SUPER is no longer enough
        names.add("SUPER")
    return bool(names & facts.grants.everywhere)


def _clock(facts: SinkFacts) -> Iterator[Finding]:
    if abs(facts.clock_offset_seconds) - facts.clock_error_seconds > CLOCK_OFFSET_SECONDS_MAX:
        ahead = "ahead of" if facts.clock_offset_seconds > 0 else "behind"
        yield warning(
            facts.subject,
            f"its clock is {abs(facts.clock_offset_seconds):.1f} s {ahead} this machine's: times in the metadata and "
            "in the status are wrong by as much",
            "synchronise the clocks (chrony or systemd-timesyncd on both machines)",
        )


def _tls(facts: SinkFacts) -> Iterator[Finding]:
    if facts.place.is_local:
        return
    if not facts.is_encrypted:
        yield warning(
            facts.subject,
            "the connection is in the clear: rows, and what leads to the password, can be read on the network",
            "enable TLS on the server, and set the sink's ssl_mode: verify_identity and ssl_ca",
        )
    elif facts.place.ssl_mode in ("preferred", "required"):
        yield info(
            facts.subject,
            f"the connection is encrypted, but ssl_mode {facts.place.ssl_mode} does not check whom it is with",
            "set the sink's ssl_mode: verify_identity, and ssl_ca to the authority's PEM file",
        )


def _excess_rights(facts: SinkFacts) -> Iterator[Finding]:
    if facts.is_superuser:
        what = "a superuser" if facts.is_postgresql else "an account with SUPER or ALL on *.*"
        yield info(
            facts.subject,
            f"{facts.user} is {what}, which writing rows does not need",
            "make an account of its own for this service; `cdc check --grants` prints what it needs",
        )


# ---------------------------------------------------------------- rights


def _namespaces(facts: SinkFacts) -> Iterator[Finding]:
    """PostgreSQL: what we may do in the database and its schemas."""
    if not facts.is_postgresql:
        return
    database = _quote(facts.variables["database"])
    missing = [name for name in facts.wanted_namespaces if name not in facts.namespaces]
    if missing and not facts.can_create_namespace:
        yield error(
            facts.subject,
            f"the schema {listed(missing)} is missing, and {facts.user} may not make schemas in {database}",
            f"GRANT CREATE ON DATABASE {database} TO {facts.account}; or, for each: CREATE SCHEMA "
            f"{_quote(missing[0])} AUTHORIZATION {facts.account};",
        )
    if not facts.can_make_temporary:
        yield error(
            facts.subject,
            f"{facts.user} lacks TEMPORARY on {database}: rows are staged in temporary tables",
            f"GRANT TEMPORARY ON DATABASE {database} TO {facts.account};",
        )
    for name, rights in sorted(facts.namespaces.items()):
        if name not in facts.wanted_namespaces:
            continue
        makes_tables = name == facts.metadata_namespace or any(
            one.namespace == name and one.place not in facts.found for one in facts.planned
        )
        lacking = [
            right
            for right, has in (("USAGE", rights.can_use), ("CREATE", rights.can_create or not makes_tables))
            if not has
        ]
        if lacking:
            yield error(
                facts.subject,
                f"{facts.user} lacks {' and '.join(lacking)} on the schema {name}: tables there cannot be "
                f"{'used' if 'USAGE' in lacking else 'made'}",
                f"GRANT {', '.join(lacking)} ON SCHEMA {_quote(name)} TO {facts.account};",
            )


def _table_rights(facts: SinkFacts) -> Iterator[Finding]:
    """PostgreSQL: what we may do with targets that are there."""
    for one in facts.planned:
        found = facts.found.get(one.place)
        if found is not None and found.missing_rights:
            yield error(
                f"{facts.place.name}: {one.namespace}.{one.name}",
                f"{facts.user} lacks {', '.join(found.missing_rights)} on it",
                f"GRANT {', '.join(found.missing_rights)} ON {_quote(one.namespace)}.{_quote(one.name)} TO "
                f"{facts.account};",
            )


def _mysql_rights(facts: SinkFacts) -> Iterator[Finding]:
    if facts.is_postgresql:
        return
    for database in facts.wanted_namespaces:
        missing = [right for right in MYSQL_RIGHTS if facts.grants.scope(right, database) is None]
        later = [right for right in MYSQL_LATER_RIGHTS if facts.grants.scope(right, database) is None]
        place = f"{grant_pattern(database)}.*"
        roles = ""
        if facts.grants.roles:
            roles = f" (the roles {listed(facts.grants.roles)} count only while they are active by default)"
        if missing:
            is_there = database in facts.namespaces
            breaks = "tables cannot be written there" if is_there else "the database is missing and could not be used"
            yield error(
                facts.subject,
                f"{facts.user} lacks {', '.join(missing)} on {place}: {breaks}{roles}",
                f"GRANT {', '.join([*missing, *later])} ON {place} TO {facts.account};",
            )
        elif later:
            yield warning(
                facts.subject,
                f"{facts.user} lacks {', '.join(later)} on {place}, needed to follow changes of definitions in place "
                f"and to load rows in bulk{roles}",
                f"GRANT {', '.join(later)} ON {place} TO {facts.account};",
            )


# ---------------------------------------------------------------- limits


def _local_infile(facts: SinkFacts) -> Iterator[Finding]:
    if not facts.is_postgresql and facts.variables.get("local_infile", "OFF").upper() not in ("ON", "1"):
        yield info(
            facts.subject,
            "local_infile is OFF: rows are written by multi-row statements, which is slower than LOAD DATA LOCAL",
            facts.set_global("local_infile", "ON"),
        )


def _splits_loads(facts: SinkFacts) -> Iterator[Finding]:
    if all(facts.variables.get(name, "OFF").upper() == "ON" for name in ("wsrep_on", "wsrep_load_data_splitting")):
        yield info(
            facts.subject,
            "wsrep_load_data_splitting is ON: LOAD DATA commits by itself in parts, so rows are written by multi-row "
            "statements, which is slower",
            facts.set_global("wsrep_load_data_splitting", "OFF"),
        )


_ROW_LOGGING_RIGHTS = frozenset({"ALL PRIVILEGES", "SUPER", "SYSTEM_VARIABLES_ADMIN", "SESSION_VARIABLES_ADMIN"})


def _temporary_tables(facts: SinkFacts) -> Iterator[Finding]:
    """MySQL: CREATE TEMPORARY TABLE within a transaction, where GTIDs are enforced (errors 1787, 3748)."""
    enforces = facts.variables.get("enforce_gtid_consistency", "OFF").upper() in ("ON", "1")
    if facts.kind != "mysql" or not enforces:
        return
    why = "images that lack columns, and keys that move, are written by way of temporary tables, which enforced GTIDs"
    if facts.version < 80013:
        yield warning(
            facts.subject,
            f"{why} forbid within a transaction: such a change ends the pipeline",
            "keep binlog_row_image=FULL at the source; or upgrade the sink to MySQL 8.0.13 or later",
        )
    elif (
        facts.variables.get("binlog_format", "ROW").upper() == "STATEMENT"
        and facts.variables.get("log_bin", "OFF").upper() in ("ON", "1")
        and not facts.grants.everywhere & _ROW_LOGGING_RIGHTS
    ):
        yield warning(
            facts.subject,
            f"{why} forbid with binlog_format STATEMENT, and {facts.user} may not set that for its session: such a "
            "change ends the pipeline",
            f"{facts.set_global('binlog_format', 'ROW')} or: GRANT SESSION_VARIABLES_ADMIN ON *.* TO {facts.account};",
        )


_UNBOUNDED = 1 << 32
_FIXED_BYTES = 64  # more than any number, date or address takes as text


def _row_bytes_max(definition: TableDefinition) -> int:
    return sum(_column_bytes_max(column) for column in definition.columns)


def _column_bytes_max(column: ColumnDefinition) -> int:
    if column.kind in (ValueKind.JSON, ValueKind.GEOMETRY):
        return _UNBOUNDED
    if column.kind is ValueKind.TEXT:
        is_long = column.column_type.lower().startswith(("tinytext", "text", "mediumtext", "longtext"))
        return column.length if is_long else 4 * column.length  # character_maximum_length of the TEXTs is in bytes
    if column.kind in (ValueKind.BLOB, ValueKind.BINARY):
        return column.length
    return 4 * column.length if column.kind is ValueKind.VECTOR else _FIXED_BYTES


def _max_allowed_packet(facts: SinkFacts) -> Iterator[Finding]:
    limit = facts.number("max_allowed_packet")
    if facts.is_postgresql or not limit:
        return
    source_text = facts.source.variables.get("max_allowed_packet", "")
    source_limit = int(source_text) if source_text.isdigit() else MAX_ALLOWED_PACKET_MAX
    if limit >= source_limit:
        return
    tables = [one.definition.name for one in facts.planned if _row_bytes_max(one.definition) > limit]
    if tables:
        yield warning(
            facts.subject,
            f"max_allowed_packet is {limit} here and {source_limit} at the source: a row of {listed(tables)} may be "
            "larger than the sink takes, and would stop its table",
            facts.set_global("max_allowed_packet", str(min(2 * source_limit, MAX_ALLOWED_PACKET_MAX))),
        )


# ---------------------------------------------------------------- targets


def _loop(facts: SinkFacts) -> Iterator[Finding]:
    if facts.is_postgresql or not facts.source.variables:
        return
    if server_identity(facts.variables) != server_identity(facts.source.variables):
        return
    fix = "name another database in the sink's url, and exclude it in tables.exclude"
    same = [
        one.definition.name
        for one in facts.planned
        if one.place == (one.definition.name.database, one.definition.name.table)
    ]
    if same:
        yield error(
            facts.subject,
            f"it is the source itself, and {listed(same)} would be written onto themselves, each change making the "
            "next",
            fix,
            is_configuration=True,
        )
        return
    captured = [f"{one.namespace}.{one.name}" for one in facts.planned if facts.source.matches(one.namespace, one.name)]
    if facts.source.matches(facts.metadata_namespace, f"{METADATA_NAME}_checkpoint"):
        captured.append(f"{facts.metadata_namespace}.{METADATA_NAME}_checkpoint")
    if captured:
        yield error(
            facts.subject,
            f"it is the source itself, and tables.include matches what is written there ({listed(captured)}): each "
            "change makes the next",
            fix,
            is_configuration=True,
        )


def _names(facts: SinkFacts) -> Iterator[Finding]:
    for one in facts.planned:
        table = one.definition.name
        for what, problem in (
            (
                f"the {'schema' if facts.is_postgresql else 'database'} {one.namespace}",
                namespace_problem(one.namespace, facts.kind),
            ),
            (f"the table {one.name}", table_name_problem(one.name, facts.kind)),
            *((f"the column {c}", column_name_problem(c, facts.kind)) for c in one.column_names),
        ):
            if problem:
                yield error(
                    f"{facts.place.name}: {table}",
                    f"{what} {problem}: the table cannot be made there",
                    "rename it: the table in tables.routes, the column in tables.overrides; or exclude the table",
                )


def _clashes(facts: SinkFacts) -> Iterator[Finding]:
    folds = not facts.is_postgresql and facts.variables.get("lower_case_table_names", "0") != "0"
    places: dict[tuple[str, str], list[Planned]] = {}
    for one in facts.planned:
        places.setdefault(_folded(one.place, folds), []).append(one)
    for several in places.values():
        if any(one.options.source_column is not None for one in several):
            yield from _shared(facts, several)
        elif len(several) > 1:
            names = [one.definition.name for one in several]
            is_routed = any(one.options.target_table or one.options.target_schema for one in several)
            why = (
                "on this sink names differ not by case alone"
                if folds
                else "tables.routes sends them there"
                if is_routed
                else "they come from several databases"
            )
            fix = "route them apart in tables.routes (target_schema, target_table), or exclude all but one of them"
            if not folds and not is_routed:
                fix = (
                    "leave the sink's `schema` unset (one schema per source database)"
                    if facts.is_postgresql
                    else "leave the database out of the sink's url (one database per source database)"
                ) + ", route them apart in tables.routes, or exclude all but one of them"
            yield error(
                facts.subject,
                f"{listed(names)} would all go to {several[0].namespace}.{several[0].name}: {why}, and their rows "
                "would mix",
                fix,
                is_configuration=True,
            )


def _shared(facts: SinkFacts, several: Sequence[Planned]) -> Iterator[Finding]:
    """Tables that share a target by a source column, and those that may not."""
    first, *others = several
    name, column = first.definition.name, first.options.source_column
    taken = {column.value: name} if column is not None else {}
    holds, fold = (postgres_holds, str) if facts.is_postgresql else (mysql_holds, str.casefold)
    for other in others:
        own = other.options.source_column
        problem = conflict(own, (name, column), taken)
        if problem is not None:
            yield error(
                f"{facts.place.name}: {other.definition.name}",
                f"it {problem}: {other.namespace}.{other.name}, and their rows would mix",
                "route them apart in tables.routes, give both a source_column by which they differ, or exclude one",
                is_configuration=True,
            )
            continue
        if own is not None:
            taken[own.value] = other.definition.name
        reasons = []
        if first.target is not None and other.target is not None:
            reasons = misfits(other.target, first.target, holds=holds, fold=fold)
        if reasons:
            yield error(
                f"{facts.place.name}: {other.definition.name}",
                f"it shares {other.namespace}.{other.name} with {name}, and does not fit: {'; '.join(reasons)}",
                "alter one of them at the source; or route it apart in tables.routes",
            )


def _mapping(facts: SinkFacts) -> Iterator[Finding]:
    for one in facts.planned:
        if one.problem is None or _has_name_problem(one, facts.kind):
            continue
        yield error(f"{facts.place.name}: {one.definition.name}", one.problem.message, one.problem.hint)


_BLOB_TYPES = re.compile("text|blob|json|geom|point|line|polygon|vector")


def _whole_images(facts: SinkFacts) -> Iterator[Finding]:
    """What the writers' sessions have counts; this is what new ones begin with."""
    image = facts.source.variables.get("binlog_row_image", "FULL").upper()
    concerned = [
        one.definition.name
        for one in facts.planned
        if (one.options.metadata or one.options.row_filter)
        and (image == "MINIMAL" or any(_BLOB_TYPES.search(c.column_type.lower()) for c in one.definition.columns))
    ]
    if image in ("MINIMAL", "NOBLOB") and concerned:
        yield error(
            facts.subject,
            f"binlog_row_image is {image} at the source, and row_filter or metadata columns of {listed(concerned)} "
            "need whole row images: a change that lacks columns would park the table",
            "at the source: SET GLOBAL binlog_row_image = FULL; sessions that are open keep the old value. Or take "
            "these options back",
        )


def _has_name_problem(one: Planned, kind: SinkKind) -> bool:
    return (
        namespace_problem(one.namespace, kind) is not None
        or table_name_problem(one.name, kind) is not None
        or any(column_name_problem(name, kind) for name in one.column_names)
    )


def _differences(facts: SinkFacts) -> Iterator[Finding]:
    for one in facts.planned:
        found = facts.found.get(one.place)
        if found is None or not found.is_about(one):
            continue
        subject = f"{facts.place.name}: {one.namespace}.{one.name}"
        if found.refusal is not None:
            yield error(subject, f"it is there and cannot be looked at: {found.refusal.message}", found.refusal.hint)
        if found.differences:
            yield error(
                subject,
                f"it is there and cannot hold the rows of {one.definition.name}: {'; '.join(found.differences)}",
                "alter or drop it (the service then makes it itself), or put the table under tables.exclude",
            )


def _foreign_rows(facts: SinkFacts) -> Iterator[Finding]:
    for one in facts.planned:
        found = facts.found.get(one.place)
        if found is None or found.existing is None or found.differences or not found.existing.has_rows:
            continue
        if not found.is_about(one):
            continue
        yield error(
            f"{facts.place.name}: {one.namespace}.{one.name}",
            f"it holds rows that this deployment did not write, so {one.definition.name} is not loaded over them",
            f"`cdc snapshot {one.definition.name}` replaces them by the source's; or empty the table",
        )


# ---------------------------------------------------------------- policies


def _zero_dates(facts: SinkFacts) -> Iterator[Finding]:
    if not facts.is_postgresql or not facts.source.variables:
        return
    modes = set(facts.source.variables.get("sql_mode", "").upper().split(","))
    strict = modes & {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES", "TRADITIONAL"}
    if strict and {"NO_ZERO_DATE", "NO_ZERO_IN_DATE"} <= modes and "ALLOW_INVALID_DATES" not in modes:
        return
    yield from _by_policy(
        facts,
        lambda column, flavor: rule_for(column, flavor).may_turn_null,
        lambda policies: policies.zero_dates,
        {
            "null": "becomes NULL",
            "infinity": "becomes an infinite one",
            "error": "stops its table",
        },
        what="the source's sql_mode lets zero and invalid dates in ('0000-00-00', '2024-02-31'), which PostgreSQL "
        "cannot hold: such a date",
        setting="policies.zero_dates (null, error or infinity), also per table; or sql_mode with NO_ZERO_DATE, "
        "NO_ZERO_IN_DATE and STRICT_TRANS_TABLES at the source",
    )


def _nul_bytes(facts: SinkFacts) -> Iterator[Finding]:
    if facts.is_postgresql:
        yield from _by_policy(
            facts,
            lambda column, _flavor: column.kind is ValueKind.TEXT or column.kind is ValueKind.JSON,
            lambda policies: policies.nul_bytes,
            {
                "replace": "is replaced by U+FFFD",
                "strip": "is left out",
                "error": "stops its table",
            },
            what="PostgreSQL cannot hold the character U+0000 in text: one",
            setting="policies.nul_bytes (replace, strip or error), also per table",
        )


def _by_policy(
    facts: SinkFacts,
    concerns: Callable[[ColumnDefinition, Any], bool],
    choice: Callable[[Policies], str],
    becomes: Mapping[str, str],
    *,
    what: str,
    setting: str,
) -> Iterator[Finding]:
    """One finding a policy in force, with the columns that it is about; key columns apart, which no policy changes."""
    columns: dict[str, list[str]] = {}
    for one in facts.planned:
        if one.target is None:
            continue
        for column in one.target.columns:
            if concerns(column.source, one.definition.flavor):
                chosen = "error" if column.is_key else choice(column.policies or one.policies)
                columns.setdefault(chosen, []).append(f"{one.definition.name}.{column.name}")
    for chosen, names in sorted(columns.items()):
        yield info(
            facts.subject,
            f"{what} {becomes[chosen]} in {len(names)} columns: {listed(names)}",
            f"as you wish: {setting}",
        )


# ---------------------------------------------------------------- the table of checks

SINK_CHECKS: tuple[Check[SinkFacts], ...] = (
    Check(
        "sink.version",
        _version,
        looks="PostgreSQL 13 or later",
        breaks="older ones are not tried",
        mends="upgrade",
    ),
    Check(
        "sink.encoding",
        _encoding,
        looks="the PostgreSQL database has the encoding UTF8",
        breaks="characters that the encoding lacks stop their table",
        mends="`CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0`",
    ),
    Check(
        "sink.read_only",
        _read_only,
        looks="PostgreSQL: a standby, `default_transaction_read_only`; MySQL family: `read_only`, "
        "`super_read_only`, `innodb_read_only`",
        breaks="nothing can be written",
        mends="the primary in the sink's url; `SET GLOBAL read_only = OFF`",
    ),
    Check(
        "sink.clock",
        _clock,
        looks="its clock against this machine's",
        breaks="times in the metadata and the status are wrong",
        mends="synchronise the clocks",
    ),
    Check(
        "sink.tls",
        _tls,
        looks="whether the connection is encrypted, unless it stays on this machine",
        breaks="what crosses the network can be read, or goes to somebody else",
        mends="TLS on the server, `ssl_mode: verify_identity` and `ssl_ca`",
    ),
    Check(
        "sink.excess_rights",
        _excess_rights,
        looks="superusers; SUPER or ALL on `*.*`",
        breaks="nothing; a stolen password would do more harm than it must",
        mends="an account of its own",
    ),
    Check(
        "sink.schemas",
        _namespaces,
        looks="PostgreSQL: CREATE and TEMPORARY on the database, USAGE and CREATE on the schemas",
        breaks="schemas, tables or staging tables cannot be made",
        mends="`GRANT CREATE, TEMPORARY ON DATABASE d TO role`, `GRANT USAGE, CREATE ON SCHEMA s TO role`",
    ),
    Check(
        "sink.table_rights",
        _table_rights,
        looks="PostgreSQL: SELECT, INSERT, UPDATE, DELETE on targets that are there",
        breaks="rows cannot be written",
        mends="`GRANT SELECT, INSERT, UPDATE, DELETE ON s.t TO role`",
    ),
    Check(
        "sink.rights",
        _mysql_rights,
        looks="MySQL family: SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, CREATE TEMPORARY TABLES on "
        "each database",
        breaks="tables cannot be made or written",
        mends="`GRANT ... ON db.* TO user`",
    ),
    Check(
        "sink.local_infile",
        _local_infile,
        looks="MySQL family: `local_infile`",
        breaks="nothing; writing is slower",
        mends="`SET PERSIST local_infile = ON`",
    ),
    Check(
        "sink.load_splitting",
        _splits_loads,
        looks="Galera: `wsrep_load_data_splitting` is OFF",
        breaks="nothing; writing is slower",
        mends="`SET GLOBAL wsrep_load_data_splitting = OFF`",
    ),
    Check(
        "sink.temporary_tables",
        _temporary_tables,
        looks="MySQL with enforced GTIDs: temporary tables may be made within a transaction",
        breaks="changes that come without all columns, or move many keys, end the pipeline",
        mends="`SET PERSIST binlog_format = ROW`, or the right `SESSION_VARIABLES_ADMIN`",
    ),
    Check(
        "sink.max_allowed_packet",
        _max_allowed_packet,
        looks="MySQL family: `max_allowed_packet` against the source's, where a table can have rows that large",
        breaks="a row that is larger stops its table",
        mends="`SET PERSIST max_allowed_packet = 1073741824`",
    ),
    Check(
        "sink.loop",
        _loop,
        looks="the sink is another server than the source, or what is written there is not captured",
        breaks="each change makes the next, without end",
        mends="another database in the sink's url, and `tables.exclude`",
    ),
    Check(
        "sink.names",
        _names,
        looks="names of schemas, tables and columns that the sink cannot hold: too long (PostgreSQL: 63 bytes), "
        "reserved",
        breaks="the table cannot be made; names are never shortened",
        mends="rename at the source, or `tables.exclude`",
    ),
    Check(
        "sink.name_clash",
        _clashes,
        looks="two captured tables that would go to one target, by routing or because case does not count there, and "
        "share it by no source column, or with definitions that do not fit",
        breaks="their rows would mix",
        mends="`schema` unset, no database in the url, `source_column` in `tables.routes`, or `tables.exclude`",
    ),
    Check(
        "sink.mapping",
        _mapping,
        looks="tables that cannot be mapped: key columns of a type that cannot be one there, too many columns, options "
        "that name a column which is not there, or leave out or mask one of the key",
        breaks="the table is parked",
        mends="`tables.overrides`, or `tables.exclude`",
    ),
    Check(
        "sink.whole_images",
        _whole_images,
        looks="tables with `row_filter` or metadata columns, where `binlog_row_image` of the source is not FULL",
        breaks="a change that lacks columns parks the table",
        mends="`SET GLOBAL binlog_row_image = FULL` at the source",
    ),
    Check(
        "sink.table_differs",
        _differences,
        looks="targets that are there and were not made by this deployment: columns, types, key, triggers, foreign "
        "keys",
        breaks="the table is parked",
        mends="alter or drop the target",
    ),
    Check(
        "sink.table_rows",
        _foreign_rows,
        looks="targets that hold rows that this deployment did not write",
        breaks="the table is not loaded over them",
        mends="`cdc snapshot db.t`, or empty the target",
    ),
    Check(
        "sink.zero_dates",
        _zero_dates,
        looks="PostgreSQL: date columns, where the source's `sql_mode` lets zero or invalid dates in",
        breaks="nothing: the policy `zero_dates` says what becomes of them; in a key they stop the table",
        mends="`policies.zero_dates`",
    ),
    Check(
        "sink.nul_bytes",
        _nul_bytes,
        looks="PostgreSQL: text columns",
        breaks="nothing: the policy `nul_bytes` says what becomes of U+0000; in a key it stops the table",
        mends="`policies.nul_bytes`",
    ),
)
