"""`cdc check`: reach every server, then look at all that the service needs, and say what mends what is missing.

Puts the checks of `source.preflight` and `sinks.preflight` together with the configuration. Writes to no server.
docs/check.md is generated from the tables of checks (`python -m cdc.check > docs/check.md`).
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from cdc.app import (
    lane_rule,
    make_sink,
    pipeline_name,
    routing,
    side_server_ids,
    source_settings,
    table_polling,
)
from cdc.clock import Clock, SystemClock
from cdc.config import Config, SinkSettings, parse_table_name, parse_table_pattern
from cdc.errors import CdcError, ConfigError, UnsupportedData
from cdc.model import TableDefinition, TableName
from cdc.pipeline.cascades import provable
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.tables import TableRegistry
from cdc.schema.findings import Check, Finding, Severity, error, info, listed, warning
from cdc.schema.grants import account_text, quoted
from cdc.schema.keys import choose_key
from cdc.schema.target import TargetTable
from cdc.sinks.base import Sink
from cdc.sinks.preflight import (
    MYSQL_LATER_RIGHTS,
    MYSQL_RIGHTS,
    SINK_CHECKS,
    SinkFacts,
    SinkPlace,
    SourceView,
    check_sink,
    plan_targets,
    read_sink,
)
from cdc.source.cascades import ForeignKey
from cdc.source.connection import SourceConnection, connect
from cdc.source.log_use import why_no_log
from cdc.source.offers import LOG_CHECKS, polling_findings
from cdc.source.preflight import (
    SOURCE_CHECKS,
    TABLE_CHECKS,
    Captured,
    IncludePattern,
    SourceFacts,
    check_source,
    check_tables,
    read_source,
)

__all__ = ["CheckReport", "check_page", "grants_sql", "render", "run_check_command", "run_checks", "to_json"]

SinkMaker = Callable[[SinkSettings], Sink]
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Every finding, worst first; the facts of the servers that were reached."""

    findings: tuple[Finding, ...]
    source: SourceFacts | None = None
    sinks: dict[str, SinkFacts] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 without errors (warnings allowed), 2 when the configuration is wrong, else 1."""
        return max((finding.exit_code for finding in self.findings if finding.severity == "error"), default=0)

    def count(self, severity: Severity) -> int:
        """How many findings of that severity."""
        return sum(finding.severity == severity for finding in self.findings)


def run_checks(config: Config, *, clock: Clock, make: SinkMaker = make_sink) -> CheckReport:
    """Check everything. Does not raise for what is wrong with a server: that is a finding, and the rest is checked."""
    with ThreadPoolExecutor(1 + len(config.sinks)) as pool:  # one that does not answer holds up nobody
        reaching_source = pool.submit(_reach_source, config)
        reaching_sinks = [pool.submit(_reach_sink, settings, make) for settings in config.sinks]
        connection = reaching_source.result()
        sinks = [reaching.result() for reaching in reaching_sinks]
    findings = [reached for reached in (connection, *sinks) if isinstance(reached, Finding)]
    try:
        return _check_reached(config, connection, sinks, findings, clock)
    finally:
        for reached in (connection, *sinks):
            if not isinstance(reached, Finding):
                reached.close()


def _reach_source(config: Config) -> SourceConnection | Finding:
    settings = source_settings(config)
    try:
        return connect(settings)
    except CdcError as failure:
        return _unreached("source.connection", f"source {settings.address}", failure)


def _reach_sink(settings: SinkSettings, make: SinkMaker) -> Sink | Finding:
    sink = make(settings)
    try:
        sink.open()
    except CdcError as failure:
        sink.close()
        return _unreached("sink.connection", f"sink {settings.name}", failure)
    return sink


def _unreached(check: str, subject: str, failure: CdcError) -> Finding:
    is_configuration = isinstance(failure, ConfigError)
    return replace(error(subject, failure.message, failure.hint, is_configuration=is_configuration), check=check)


def _check_reached(
    config: Config,
    connection: SourceConnection | Finding,
    sinks: Sequence[Sink | Finding],
    findings: list[Finding],
    clock: Clock,
) -> CheckReport:
    histories: dict[str, _History] = {}
    for settings, sink in zip(config.sinks, sinks, strict=True):
        if not isinstance(sink, Finding):
            histories[settings.name] = _read_history(config, settings, sink, findings)
    source: SourceFacts | None = None
    if not isinstance(connection, Finding):
        try:
            source = read_source(
                connection,
                captured_tables(config),
                clock=clock,
                is_local=config.source.url.is_loopback,
                is_running=any(history.is_running for history in histories.values()),
            )
            findings += _with_strategies(config, connection, source, check_source(source) + check_tables(source))
        except CdcError as failure:
            findings.append(_unreached("source.connection", f"source {connection.settings.address}", failure))
    facts: dict[str, SinkFacts] = {}
    for settings, sink in zip(config.sinks, sinks, strict=True):
        if isinstance(sink, Finding):
            continue
        try:
            facts[settings.name] = _read_sink(config, settings, sink, source, histories[settings.name], clock)
            findings += check_sink(facts[settings.name])
        except CdcError as failure:
            findings.append(_unreached("sink.connection", f"sink {settings.name}", failure))
    for settings, sink in zip(config.sinks, sinks, strict=True):
        if not isinstance(sink, Finding) and len(settings.lanes) > 1:
            try:
                findings += _sink_lanes(config, settings, sink, source, histories[settings.name])
            except CdcError as failure:
                findings.append(_unreached("sink.connection", f"sink {settings.name}", failure))
    findings += _shared_targets(config)
    findings += _open_pages(config)
    findings += _modes(config, source)
    findings += _streams(config, source, is_running=any(history.is_running for history in histories.values()))
    findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
    return CheckReport(tuple(findings), source, facts)


def _with_strategies(
    config: Config, connection: SourceConnection, source: SourceFacts, findings: list[Finding]
) -> list[Finding]:
    """The findings without those that are about following tables which are polled, and with what those need."""
    if not config.may_poll:
        return findings
    reason = why_no_log(connection)
    polled = {
        definition.name: polling
        for definition in source.definitions
        for polling in [table_polling(config, definition.name.database, definition.name.table)]
        if polling.is_polled(has_log=not reason)
    }
    is_followed = len(polled) < len(source.definitions)
    if polled and not is_followed:
        findings = [finding for finding in findings if finding.check not in LOG_CHECKS]
        text = "every captured table is polled: no binlog is needed, and none was looked at"
        findings.append(replace(info(source.subject, text, "nothing to mend"), check="table.strategy"))
    names = set(map(str, polled))
    findings = [f for f in findings if not (f.check == "table.cascades" and f.subject in names)]
    for definition in source.definitions:
        if definition.name in polled:
            override = config.tables.override_for(definition.name.database, definition.name.table)
            key = tuple(override.primary_key) if override is not None and override.primary_key else None
            about = polling_findings(connection, definition, polled[definition.name], key, why_no_log=reason)
            findings += [replace(finding, check="table.strategy") for finding in about]
    return findings


# ---------------------------------------------------------------- from configuration to what the checks take


def captured_tables(config: Config) -> Captured:
    """`tables` of the configuration, as the source's checks take it."""
    keys = {
        TableName(*parse_table_name(override.table)): tuple(override.primary_key)
        for override in config.tables.overrides
        if override.primary_key
    }
    return Captured(
        config.tables.matches,
        tuple(map(_include_pattern, config.tables.include)),
        keys,
        accepts_hidden_cascades=lambda database, table: (
            config.policies_for(database, table).hidden_cascades == "accept"
        ),
        hidden_cascades=functools.partial(_hidden_cascades, config),
    )


def _hidden_cascades(
    config: Config, definitions: Sequence[TableDefinition], keys: Sequence[ForeignKey]
) -> dict[TableName, str]:
    """Why what foreign keys do in silence cannot be applied to a table, on any sink; '' where it can."""
    known = {
        one.name: one
        for one in definitions
        if not table_polling(config, one.name.database, one.name.table).is_polled(has_log=True)
    }
    reasons: dict[TableName, str] = {}
    for sink in config.sinks:
        rules = routing(config, sink)
        registry = TableRegistry(rules, sink.url.kind, ())
        names = {name for key in keys for name in (key.table, key.parent_table)} & known.keys()
        targets = {name: target for name in names if (target := _target(registry, known[name])) is not None}
        asked = {name for name in names if rules.applies_hidden_cascades(name.database, name.table)}
        lane_of = lane_rule(sink).named  # None for all where they are dealt: those that belong together go to one
        for lane in sorted({lane_of(name) or 0 for name in names}):
            here = {name: known[name] for name in names if (lane_of(name) or 0) == lane}
            found = provable(
                [key for key in keys if key.table in here],
                target=targets.get,
                definition=here.get,
                is_alone=lambda _table: True,  # what goes to one target without a source column is parked
                is_asked=asked.__contains__,
            )
            for key in found.graph.keys:
                reasons.setdefault(key.table, "")
            reasons |= {table: f"{reason} (sink {sink.name})" for table, reason in found.refused.items()}
    return reasons


def _target(registry: TableRegistry, definition: TableDefinition) -> TargetTable | None:
    try:
        return registry.make_target(definition)
    except UnsupportedData:
        return None


def _include_pattern(text: str) -> IncludePattern:
    matches = parse_table_pattern(text).matches
    try:
        database, table = parse_table_name(text)
    except ValueError:
        return IncludePattern(text, matches, _exact_database(text))
    return IncludePattern(text, matches, database, table)


def _exact_database(text: str) -> str | None:
    """The database that a pattern names without a wildcard."""
    for dot in (index for index, character in enumerate(text) if character == "."):
        try:
            return parse_table_name(f"{text[:dot]}.t")[0]
        except ValueError:
            continue
    return None


@dataclass(frozen=True, slots=True)
class _History:
    """What a sink's metadata say of this deployment."""

    known: frozenset[TableName] = frozenset()
    is_running: bool = False
    lanes: dict[TableName, int] = field(default_factory=dict)


def _read_history(config: Config, settings: SinkSettings, sink: Sink, findings: list[Finding]) -> _History:
    try:
        stores = lane_stores(sink, pipeline_name(config, settings))
        if not stores[1].exists():
            return _History()
        leases = [store.read_lease() for store in stores.values()]
        found = {lane: store.load_tables() for lane, store in stores.items()}
        sides = [store.load_tables() for store in side_stores(sink, pipeline_name(config, settings)).values()]
    except CdcError as failure:
        text = f"this deployment's metadata could not be read: {failure.message}"
        findings.append(replace(error(f"sink {settings.name}", text, failure.hint), check="sink.metadata"))
        return _History()
    known = frozenset(
        name
        for records in (*found.values(), *sides)
        for name, record in records.items()
        if record.definition is not None
    )
    return _History(
        known,
        any(lease is not None and lease.is_live for lease in leases),
        {name: lane for lane, records in found.items() for name in records},
    )


def _read_sink(
    config: Config,
    settings: SinkSettings,
    sink: Sink,
    source: SourceFacts | None,
    history: _History,
    clock: Clock,
) -> SinkFacts:
    url = settings.url
    place = SinkPlace(
        name=settings.name,
        host=url.host,
        port=url.port,
        user=url.user,
        database=url.database,
        schema=settings.schema_name,
        ssl_mode=settings.ssl_mode,
        is_local=url.is_loopback,
    )
    definitions = source.definitions if source is not None else ()
    broken = {problem.table for problem in source.unsupported} if source is not None else set()
    chosen = routing(config, settings)

    def key(definition: TableDefinition) -> tuple[str, ...] | None:
        try:
            return choose_key(definition, chosen.key(definition.name.database, definition.name.table))
        except UnsupportedData:  # table.key says so
            return None

    planned = plan_targets(
        [definition for definition in definitions if definition.columns and str(definition.name) not in broken],
        kind=sink.kind,
        place=place,
        key=key,
        policies=chosen.policies,
        options=chosen.options,
    )
    return read_sink(
        sink,
        place,
        planned=planned,
        known=history.known,
        source=SourceView(source.variables if source is not None else {}, config.tables.matches),
        clock=clock,
    )


def _modes(config: Config, source: SourceFacts | None) -> Iterator[Finding]:
    """Which tables keep what was, and what is to be known of it."""
    for mode, text in _MODE_TEXTS.items():
        names = [
            definition.name
            for definition in (source.definitions if source is not None else ())
            if config.tables.mode_for(definition.name.database, definition.name.table) == mode
        ]
        if names:
            yield replace(info(listed(names), f"mode: {mode}: {text}", ""), check="table.mode")


_MODE_TEXTS = {
    "soft_delete": "rows that are gone stay on the sinks, marked; row images have to be whole (binlog_row_image=FULL)",
    "append_only": "every change is a row on the sinks, which only grow; row images have to be whole "
    "(binlog_row_image=FULL); `cdc verify` does not compare them",
    "history": "every version is a row on the sinks, which only grow; row images have to be whole "
    "(binlog_row_image=FULL)",
}


def _shared_targets(config: Config) -> Iterator[Finding]:
    """Two sinks that write to one place undo each other's deletes."""
    seen: dict[tuple[Any, ...], str] = {}
    for settings in config.sinks:
        url = settings.url
        place = (url.kind, url.host.lower(), url.port, url.database, settings.schema_name)
        if place in seen:
            text = f"it writes to the same place as sink {seen[place]}: the two would take turns with the same rows"
            finding = error(
                f"sink {settings.name}", text, "give it a database or schema of its own", is_configuration=True
            )
            yield replace(finding, check="sink.shared_target")
        seen.setdefault(place, settings.name)


def _open_pages(config: Config) -> Iterator[Finding]:
    http = config.http
    if http.enabled and not http.is_loopback and http.token is None:
        text = f"the pages listen on {http.host}, beyond this machine, and want no token: who reaches them reads them"
        fix = "set http.token, or http.host: 127.0.0.1, or see that only a network that is trusted reaches the port"
        yield replace(warning("http", text, fix), check="http.open")


# ---------------------------------------------------------------- several lanes


def _streams(config: Config, source: SourceFacts | None, *, is_running: bool) -> Iterator[Finding]:
    """Every lane of every sink streams from the source at once, with an id of its own."""
    count = sum(len(sink.lanes) for sink in config.sinks)
    block = config.source.server_id_count
    if count > block:
        text = f"{count} streams (one a lane of a sink) need an id each, and the block has {block}: two with one id "
        text += "cut each other's stream, and ids beyond the block may be another replica's"
        fix = f"source.server_id_count: {count + 2} (`cdc tail` needs one, too), and as many free from server_id on"
        yield replace(error("source", text, fix, is_configuration=True), check="source.lanes")
    else:
        yield from _sides(config, count)
    if source is None or is_running or count == len(config.sinks):
        return
    needed = 2 * count + 1
    most = source.number("max_connections")
    if most and needed >= most:
        text = f"{count} streams keep {needed} connections to the source, whose max_connections is {most}"
        yield replace(
            error(source.subject, text, "fewer `lanes`, or a larger max_connections at the source"),
            check="source.lanes",
        )


def _sides(config: Config, lanes: int) -> Iterator[Finding]:
    """Loads beside the stream take an id of the block each; sinks that get none load in the stream."""
    wanted = config.snapshot.beside
    short = [f"sink {name}: {len(ids)}" for name, ids in side_server_ids(config).items() if len(ids) < wanted]
    if short:
        text = (
            f"the block has {config.source.server_id_count} ids, of which the streams take {lanes} and `cdc tail` one: "
        )
        text += f"of {wanted} loads beside the stream there is room for fewer ({listed(short)}), and without any a "
        text += "sink's other tables wait while one loads"
        needed = lanes + wanted * len(config.sinks) + 1
        fix = f"source.server_id_count: {needed}, and as many free from server_id on; or snapshot.beside: 0"
        yield replace(warning("source", text, fix), check="source.lanes")


def _sink_lanes(
    config: Config, settings: SinkSettings, sink: Sink, source: SourceFacts | None, history: _History
) -> Iterator[Finding]:
    subject, needed = f"sink {settings.name}", 2 * len(settings.lanes) + 1
    free = _free_connections(sink)
    if not history.is_running and free < needed:
        text = f"{len(settings.lanes)} lanes keep {needed} connections, and {free} are free"
        yield replace(
            error(subject, text, "fewer `lanes`, or a larger max_connections on the sink"), check="sink.lanes"
        )
    if source is None:
        return
    apart = _apart(config, settings, sink, source, history)
    if apart:
        text = f"foreign keys of the targets lead from one lane to another ({listed(apart)}): "
        text += "readers of the sink may see a row before the one that it refers to"
        fix = "name tables that are changed together in one lane: `lanes` as lists of patterns"
        yield replace(warning(subject, text, fix), check="sink.lanes")


def _free_connections(sink: Sink) -> int:
    with sink.transaction() as tx:
        if sink.kind == "postgresql":
            rows = tx.execute(
                "SELECT current_setting('max_connections')::int "
                "- current_setting('superuser_reserved_connections')::int "
                "- (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
            )
            return int(rows[0][0])
        most = int(tx.execute("SELECT @@GLOBAL.max_connections")[0][0])
        return most - int(tx.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1])


def _apart(config: Config, settings: SinkSettings, sink: Sink, source: SourceFacts, history: _History) -> list[str]:
    """Foreign keys between targets whose tables are not known to be in one lane, as texts."""
    if sink.kind == "postgresql":
        return []  # targets with foreign keys are refused there
    rule = lane_rule(settings)
    registry = TableRegistry(routing(config, settings), sink.kind, ())
    lanes = {
        registry.place(definition.name): rule.named(definition.name) or history.lanes.get(definition.name)
        for definition in source.definitions
    }
    namespaces = sorted({namespace for namespace, _ in lanes})
    if not namespaces:
        return []
    with sink.transaction() as tx:
        rows = tx.execute(
            "SELECT DISTINCT TABLE_SCHEMA, TABLE_NAME, REFERENCED_TABLE_SCHEMA, REFERENCED_TABLE_NAME "
            "FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL "
            f"AND TABLE_SCHEMA IN ({', '.join(['%s'] * len(namespaces))})",
            namespaces,
        )
    pairs = sorted(((str(row[0]), str(row[1])), (str(row[2]), str(row[3]))) for row in rows)
    return [
        f"{'.'.join(child)} to {'.'.join(parent)}"
        for child, parent in pairs
        if child != parent and child in lanes and parent in lanes
        if lanes[child] is None or lanes[child] != lanes[parent]
    ]


# ---------------------------------------------------------------- saying it

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def render(report: CheckReport) -> Text:
    """The report for people; `str()` of it is plain text."""
    text = Text()
    if report.source is not None:
        text.append(f"{report.source.subject}: {report.source.flavor} {report.source.version_text}, ")
        text.append(f"{len(report.source.definitions)} tables captured\n")
    for name, facts in report.sinks.items():
        text.append(f"sink {name}: {facts.kind} {facts.version_text.removeprefix('PostgreSQL ')}\n")
    if report.source is not None or report.sinks:
        text.append("\n")
    for finding in report.findings:
        text.append(f"{finding.severity:8}", style=_STYLES[finding.severity])
        text.append(f"{finding.subject}", style="bold")
        text.append(f"  [{finding.check}]\n", style="dim")
        text.append(f"        {finding.problem}\n")
        if finding.fix:
            text.append("        fix: ", style="green")
            text.append(f"{finding.fix}\n")
    counts = ", ".join(_counted(report.count(severity), severity) for severity in _SEVERITIES)
    text.append(f"{'not ready' if report.exit_code else 'ready'}: {counts}\n")
    return text


def _counted(count: int, severity: Severity) -> str:
    return f"{count} {severity}{'' if count == 1 or severity == 'info' else 's'}"


def to_json(report: CheckReport) -> str:
    """The report for programs."""
    document = {
        "ready": report.exit_code == 0,
        "exit_code": report.exit_code,
        "counts": {severity: report.count(severity) for severity in _SEVERITIES},
        "findings": [finding.to_dict() for finding in report.findings],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def run_check_command(config: Config, *, as_json: bool, grants: bool) -> int:
    """`cdc check`: print the report, or the grants; the exit code."""
    report = run_checks(config, clock=SystemClock())
    if grants:
        sys.stdout.write(grants_sql(config, report))
        return 0
    if as_json:
        sys.stdout.write(to_json(report) + "\n")
    else:
        Console(soft_wrap=True, highlight=False).print(render(report), end="")
    return report.exit_code


# ---------------------------------------------------------------- grants


def grants_sql(config: Config, report: CheckReport | None = None) -> str:
    """The least that source and sinks must grant, as SQL for their administrators.

    With a report, the accounts are those that the servers took us for, and MariaDB's rights have their own names.
    """
    lines = list(_source_grants(config, report.source if report is not None else None))
    for settings in config.sinks:
        facts = report.sinks.get(settings.name) if report is not None else None
        lines += ["", *_sink_grants(config, settings, facts, report.source if report is not None else None)]
    return "\n".join(lines) + "\n"


def _account(user: str, facts_user: str | None) -> str:
    return account_text(facts_user or f"{user}@%")


def _source_grants(config: Config, facts: SourceFacts | None) -> Iterator[str]:
    account = _account(config.source.url.user, facts.user if facts is not None else None)
    is_mariadb = facts is not None and facts.flavor == "mariadb" and facts.version >= (10, 5, 0)
    yield f"-- source {config.source.url.host}:{config.source.url.port}"
    monitor = "BINLOG MONITOR" if is_mariadb else "REPLICATION CLIENT"
    yield f"GRANT REPLICATION SLAVE, {monitor} ON *.* TO {account};"
    if config.snapshot.pause_when.replica_lag_seconds is not None and (is_mariadb or facts is None):
        # Elsewhere the right above is enough.
        unknown = "" if is_mariadb else "-- on MariaDB 10.5 and later also: "
        yield f"{unknown}GRANT REPLICA MONITOR ON *.* TO {account};"
    for place in dict.fromkeys(map(_grant_place, config.tables.include)):
        yield f"GRANT SELECT ON {place} TO {account};"


def _grant_place(text: str) -> str:
    """What a pattern of `tables.include` needs SELECT on: GRANT knows wildcards for databases, not for tables."""
    pattern = _include_pattern(text)
    if pattern.database is not None and pattern.table is not None:
        return f"{quoted(pattern.database)}.{quoted(pattern.table)}"
    half = re.match(r"(?:\\.|[^.\\])*", text)
    units = re.findall(r"\\.|.", half[0] if half else "*", re.DOTALL)
    wild = {"*": "%", "?": "_"}
    names = [wild.get(unit) or re.sub(r"([_%\\])", r"\\\1", unit.removeprefix("\\")) for unit in units]
    database = "".join(names)
    return "*.*" if database == "%" else f"{quoted(database)}.*"


def _sink_grants(
    config: Config, settings: SinkSettings, facts: SinkFacts | None, source: SourceFacts | None
) -> Iterator[str]:
    url = settings.url
    routed = [route.target_schema for route in config.tables.routes if route.target_schema is not None]
    yield f"-- sink {settings.name}: {url.host}:{url.port}"
    if url.kind == "postgresql":
        role = '"' + (facts.user if facts is not None else url.user).replace('"', '""') + '"'
        database = '"' + (url.database or "").replace('"', '""') + '"'
        yield f"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO {role};"
        for name in dict.fromkeys((settings.schema_name, *routed)):
            if name is not None and facts is not None and name in facts.namespaces:
                schema = '"' + name.replace('"', '""') + '"'
                yield f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};"
        return
    account = _account(url.user, facts.user if facts is not None else None)
    places = ["*.*"]
    if url.database is not None:
        places = [quoted(re.sub(r"([_%\\])", r"\\\1", url.database)) + ".*"]
    elif source is not None or config.tables.include:
        places = list(
            dict.fromkeys([re.sub(r"(`)\.`.*$", r"\1.*", p) for p in map(_grant_place, config.tables.include)])
        )
        places.append(quoted(r"\_cdc") + ".*")
    places += [quoted(re.sub(r"([_%\\])", r"\\\1", database)) + ".*" for database in dict.fromkeys(routed)]
    for place in places:
        yield f"GRANT {', '.join((*MYSQL_RIGHTS, *MYSQL_LATER_RIGHTS))} ON {place} TO {account};"
    # For the views over the metadata; the service runs without.
    metadata = quoted(r"\_cdc") + ".*" if url.database is None else places[0]
    yield f"GRANT CREATE VIEW ON {metadata} TO {account};"


# ---------------------------------------------------------------- the page


def _nothing(_facts: Any) -> Iterator[Finding]:
    return iter(())


CONNECTION_CHECKS: tuple[Check[Any], ...] = (
    Check(
        "source.connection",
        _nothing,
        looks="connects to the source",
        breaks="there is nothing to follow; exit code 2 when the server refuses us, 1 when it cannot be reached",
        mends="host, port, user, password and TLS of `source`",
    ),
    Check(
        "sink.connection",
        _nothing,
        looks="connects to each sink",
        breaks="nothing can be written there; exit code 2 when the server refuses us or the database is missing, 1 "
        "when it cannot be reached",
        mends="host, port, user, password, database and TLS of the sink",
    ),
    Check(
        "sink.metadata",
        _nothing,
        looks="reads this deployment's metadata on the sink, where there are any",
        breaks="the checkpoint cannot be found",
        mends="rights on the metadata tables, or a restore of them",
    ),
    Check(
        "table.mode",
        _nothing,
        looks="tables whose `mode` is not `mirror`",
        breaks="nothing; their targets grow, and need whole row images",
        mends="nothing to mend",
    ),
    Check(
        "table.strategy",
        _nothing,
        looks="tables whose `sync_strategy` is not `cdc`: their key and modifier, and what `auto` makes of them",
        breaks="a table without its modifier is parked; one that is not indexed is read whole at every run; deletes, "
        "and statements that leave the modifier alone, are not seen ([strategies](strategies.md))",
        mends="an index, NOT NULL and ON UPDATE CURRENT_TIMESTAMP on the modifier; `detect_deletes_every`; another "
        "`sync_strategy`",
    ),
    Check(
        "sink.shared_target",
        _nothing,
        looks="two sinks of the configuration with the same server, database and schema",
        breaks="the two would take turns with the same rows",
        mends="a database or schema of its own for each",
    ),
    Check(
        "http.open",
        _nothing,
        looks="whether `http.host` is beyond this machine without `http.token`",
        breaks="whoever reaches the port reads names of servers and tables, errors and metrics",
        mends="`http.token`, or `http.host: 127.0.0.1`, or a network that lets nobody else in",
    ),
    Check(
        "source.lanes",
        _nothing,
        looks="whether each lane of each sink has an id of the block `server_id`..`server_id` + `server_id_count` - 1, "
        "and so each load beside the stream (`snapshot.beside`); and the source enough connections for all of them",
        breaks="two streams with one id cut each other; lanes that are refused a connection wait; with fewer loads "
        "beside the stream, tables that load hold up the sink's others",
        mends="`source.server_id_count` or `sinks[].lanes` in the configuration",
    ),
    Check(
        "sink.lanes",
        _nothing,
        looks="with several lanes: the connections that are free, and foreign keys of the targets from lane to lane",
        breaks="lanes that are refused a connection wait; readers may see a row before the one that it refers to",
        mends="`sinks[].lanes` in the configuration, as lists that keep tables together",
    ),
)

_HEAD = """\
<!-- Generated by `python -m cdc.check > docs/check.md`; edit the tables of checks in cdc/source/preflight.py,
     cdc/sinks/preflight.py and cdc/check.py instead. -->

# What `cdc check` looks at

`cdc check` reaches every server, then checks what the service needs. It only reads, and needs no rights beyond those
of the service: where it may not look, it says so. Each finding says what is wrong, what that breaks, and the SQL or
setting that mends it, for the server at hand.

- **error**: the service would not work, or would lose changes. **warning**: it works now; it will break, or is
  dangerous. **info**: worth knowing, or could not be looked at.
- Exit code: 0 without errors, 2 when the configuration is wrong (a refused password, a missing database, two sinks at
  one place), 1 when something else fails. `--json` prints the findings for programs, `--grants` the rights that are
  needed, as SQL.

"""


def all_checks() -> tuple[Check[Any], ...]:
    """Every check there is, in the order of the page."""
    return (*CONNECTION_CHECKS[:1], *SOURCE_CHECKS, *TABLE_CHECKS, *CONNECTION_CHECKS[1:], *SINK_CHECKS)


def check_page() -> str:
    """docs/check.md."""
    lines = ["| id | looks at | what goes wrong otherwise | what mends it |", "|---|---|---|---|"]
    lines += [f"| `{check.id}` | {check.looks} | {check.breaks} | {check.mends} |" for check in all_checks()]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(check_page())
