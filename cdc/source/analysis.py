"""What the source says of its tables, for `cdc analyze`: sizes, definitions, and columns that rows could be read by.

Reads information_schema, and of a table itself at most one entry of an index a column: no scan, no lock that a writer
or an ALTER would wait for, no wait of ours beyond a second. Judges nothing (`schema/advice.py` does).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from cdc.errors import CdcError
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.advice import Candidate, TableFacts
from cdc.schema.grants import parse_grants, quoted
from cdc.source.connection import SourceConnection
from cdc.source.positions import VIEWED_ENGINES
from cdc.source.preflight import Captured, _read_tables, each_of

__all__ = ["Analysis", "read_analysis"]

_TIMES = (ValueKind.TIMESTAMP, ValueKind.DATETIME, ValueKind.DATE)
# A DATETIME is of no zone: the clocks of its writers may be as far ahead of UTC as Kiribati's.
_ZONE_HOURS_MAX = 14
_WAIT_SECONDS_MAX = 1
# Errors of the server that only say that this one answer was not to be had: a lock, the time limit, a right, a table
# or an index that went meanwhile.
_NO_ANSWER = frozenset({1205, 1317, 1969, 3024, 1142, 1143, 1146, 1176, 1054, 1412, 1932})


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that was read.

    Attributes:
        others: what the configuration matches and is no plain table, with its kind.
        no_stream: why this source's binlog cannot be followed; '' where it can.
        warnings: what the operator should know of the reading itself.
    """

    server: str
    tables: tuple[TableFacts, ...]
    others: tuple[tuple[TableName, str], ...] = ()
    no_stream: str = ""
    warnings: tuple[str, ...] = field(default=())


def read_analysis(connection: SourceConnection, matches: Callable[[str, str], bool]) -> Analysis:
    """Look at the tables that `matches` accepts. Writes nothing. Raises SourceUnavailable."""
    connection.query(f"SET SESSION lock_wait_timeout = {_WAIT_SECONDS_MAX}")  # somebody's ALTER goes first
    read = _read_tables(connection, Captured(matches))
    tables_read = {definition.name for definition in read.definitions}
    sizes = {
        name: tuple(int(row[fact] or 0) for fact in ("TABLE_ROWS", "DATA_LENGTH", "INDEX_LENGTH"))
        for name, row in each_of(
            connection,
            # Of the engine, as the session has information_schema_stats_expiry=0: what MySQL caches is up to a day
            # old, and a look at what it has not cached would write to its dictionary.
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS, DATA_LENGTH, INDEX_LENGTH FROM information_schema.TABLES",
            tables_read,
            "TABLE_TYPE",
        )
    }
    sets_itself: dict[TableName, set[str]] = {}
    for name, row in each_of(
        connection,
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, EXTRA FROM information_schema.COLUMNS",
        tables_read,
        "ORDINAL_POSITION",
    ):
        if "on update" in (row["EXTRA"] or "").lower():
            sets_itself.setdefault(name, set()).add(row["COLUMN_NAME"] or "")
    leading: dict[TableName, dict[str, str]] = {}
    for name, row in each_of(
        connection, "SELECT * FROM information_schema.STATISTICS", tables_read, "INDEX_NAME, SEQ_IN_INDEX"
    ):
        if _leads(row):
            leading.setdefault(name, {}).setdefault(row["COLUMN_NAME"] or "", row["INDEX_NAME"] or "")
    no_stream = _no_stream(connection)
    warnings = tuple(_warnings(connection))
    _bound_lookups(connection)
    unknown: dict[str, list[str]] = {}
    for problem in read.unsupported:
        unknown.setdefault(problem.table, []).append(problem.message)
    tables = tuple(
        _facts(
            connection,
            definition,
            size=sizes.get(definition.name, (0, 0, 0)),
            sets_itself=sets_itself.get(definition.name, ()),
            leading=leading.get(definition.name, {}),
            problems=(
                *unknown.get(str(definition.name), ()),
                *(["SELECT is not granted on all of it"] if definition.name in read.unreadable else []),
            ),
        )
        for definition in read.definitions
    )
    return Analysis(
        server=f"{connection.flavor} {connection.version_text}",
        tables=tables,
        others=read.others,
        no_stream=no_stream,
        warnings=warnings,
    )


def _bound_lookups(connection: SourceConnection) -> None:
    """Let no statement from here on run for long, as one would where an index ends in rows that wait to be purged."""
    for statement in (
        f"SET SESSION max_execution_time = {_WAIT_SECONDS_MAX * 1000}",
        f"SET SESSION max_statement_time = {_WAIT_SECONDS_MAX}",
    ):
        with contextlib.suppress(CdcError):  # each family knows one of them
            connection.query(statement)


def _no_stream(connection: SourceConnection) -> str:
    if (connection.variable("log_bin") or "OFF").upper() not in ("ON", "1"):
        return "log_bin is OFF"
    binlog_format = (connection.variable("binlog_format") or "ROW").upper()
    if binlog_format != "ROW":
        return f"binlog_format is {binlog_format}"
    grants = parse_grants(row[0] or "" for row in connection.query_text("SHOW GRANTS"))
    roles = f" (the roles {', '.join(grants.roles)} may have it: make them active by default)" if grants.roles else ""
    return "" if grants.scope("REPLICATION SLAVE", "") == "global" else f"REPLICATION SLAVE is not granted{roles}"


def _warnings(connection: SourceConnection) -> Iterator[str]:
    if (connection.variable("innodb_stats_on_metadata") or "OFF").upper() in ("ON", "1"):
        yield (
            "innodb_stats_on_metadata is ON: each look at information_schema has the server sample its tables anew; "
            "SET GLOBAL innodb_stats_on_metadata = OFF"
        )


def _facts(
    connection: SourceConnection,
    definition: TableDefinition,
    *,
    size: tuple[int, ...],
    sets_itself: Collection[str],
    leading: Mapping[str, str],
    problems: tuple[str, ...],
) -> TableFacts:
    """`size`: rows, bytes, bytes of indexes. `leading`: an index that a column leads, by column."""
    rows, data_bytes, index_bytes = size
    candidates = []
    for column in definition.columns:
        if column.kind in _TIMES or (column.kind is ValueKind.INTEGER and not column.is_generated):
            index = leading.get(column.name)
            if column.kind is ValueKind.INTEGER and (index is None or column.name in definition.primary_key):
                continue  # any number could be one: an index of its own is what hints at it
            candidate = Candidate(
                column=column.name,
                column_type=column.column_type,
                is_time=column.kind in _TIMES,
                is_nullable=column.is_nullable,
                index=index,
                sets_itself=column.name in sets_itself,
            )
            candidates.append(_with_greatest(connection, definition, column, candidate))
    return TableFacts(
        definition=definition,
        rows=rows,
        data_bytes=data_bytes,
        index_bytes=index_bytes,
        candidates=tuple(candidates),
        problems=problems,
    )


def _leads(row: Mapping[str, str | None]) -> bool:
    """Is this the first part of an index: the column whole, in a sorted index, and one that the server uses?"""
    is_used = row.get("IS_VISIBLE", "YES") != "NO" and row.get("IGNORED", "NO") != "YES"
    is_whole = row["SUB_PART"] is None and row["COLUMN_NAME"] is not None
    return row["SEQ_IN_INDEX"] == "1" and is_whole and is_used and row["INDEX_TYPE"] == "BTREE"


def _with_greatest(
    connection: SourceConnection, definition: TableDefinition, column: ColumnDefinition, candidate: Candidate
) -> Candidate:
    """With the column's greatest value, where an index has it at its end and reading it holds up nobody."""
    if candidate.index is None or definition.engine.lower() not in VIEWED_ENGINES:
        return candidate
    name = quoted(column.name)
    ahead_hours = 0 if column.kind is ValueKind.TIMESTAMP else _ZONE_HOURS_MAX
    is_future = f"{name} > UTC_TIMESTAMP() + INTERVAL {ahead_hours} HOUR" if candidate.is_time else "NULL"
    sql = (
        f"SELECT {name}, {is_future} FROM {quoted(definition.name.database)}.{quoted(definition.name.table)} "
        f"FORCE INDEX ({quoted(candidate.index)}) ORDER BY {name} DESC LIMIT 1"
    )
    try:
        rows = connection.query_text(sql)
    except CdcError as failure:
        return candidate.with_no_answer(_no_answer(failure))
    if not rows:
        return candidate
    greatest, future = rows[0]
    return candidate.with_greatest(greatest, is_future=None if future is None else future == "1")


def _no_answer(failure: CdcError) -> str:
    """What the server said; raises the failure where it says more than that this table cannot be looked at now."""
    arguments = failure.__cause__.args if failure.__cause__ is not None else ()
    number = arguments[0] if arguments and isinstance(arguments[0], int) else 0
    if number not in _NO_ANSWER:
        raise failure
    return f"{arguments[1] if len(arguments) > 1 else failure} (error {number})"
