"""The group of events at a place of the source's binlog, as the server itself lists it (SHOW BINLOG EVENTS).

For looking at, and stepping over, what the stream could not be brought past: decodes no event, so that it works where
decoding does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cdc.errors import CdcError, ConfigError
from cdc.gtid import MariadbGtidList, MysqlGtidSet, parse_mysql_gtid
from cdc.log import scrub
from cdc.model import FilePos, SourcePosition
from cdc.schema.statements import StatementKind, classify_statement
from cdc.source.connection import SourceConnection

__all__ = ["BinlogEvent", "EventGroup", "groups_from", "is_between_groups", "kept", "shown"]

_PAGE_ROWS = 5_000
_FIRST_POSITION = 4
_BEGINS = frozenset({"Gtid", "Anonymous_Gtid", "Gtid_tagged"})
# What stands between groups, and holds nothing that a sink could miss.
_BETWEEN = frozenset(
    {
        "Format_desc",
        "Previous_gtids",
        "Gtid_list",
        "Binlog_checkpoint",
        "Rotate",
        "Stop",
        "Start_encryption",
        "Heartbeat",
    }
)
_PLAIN = frozenset({*_BEGINS, "Query", "Table_map", "Xid", "Rows_query", "Annotate_rows"})
_HIDING = frozenset(
    {
        StatementKind.XA_COMMIT,
        StatementKind.DATABASE,
        StatementKind.FUNCTION,
        StatementKind.DML,
        StatementKind.UNKNOWN,
    }
)
# Before each statement that has a default database, as the server lists it.
_USE = re.compile(r"use `(?:[^`]|``)*`;\s*", re.IGNORECASE)
_ROWS = ("Write_rows", "Update_rows", "Delete_rows")
_MAPPED = re.compile(r"table_id: \d+ \((?P<name>.*)\)", re.DOTALL)
_MARIADB_GTID = re.compile(r"GTID (\d+)-(\d+)-(\d+)")
_MYSQL_GTID = re.compile(r"GTID_NEXT= '([^']+:\d+)'")
# Their text has no value of a row: positions, names of tables, transactions' names.
_WITHOUT_VALUES = frozenset({*_BEGINS, *_BETWEEN, "Table_map", "Xid", "XA_prepare", "Incident", "Transaction_payload"})
_STATEMENTS = frozenset({"Query", "Query_compressed", "Rows_query", "Annotate_rows"})
# Of these kinds the text is kept; others hold rows' values, or passwords of accounts.
_KEPT_STATEMENTS = frozenset(
    {
        StatementKind.BEGIN,
        StatementKind.COMMIT,
        StatementKind.ROLLBACK,
        StatementKind.SAVEPOINT,
        StatementKind.ROLLBACK_TO,
        StatementKind.XA_START,
        StatementKind.XA_END,
        StatementKind.XA_COMMIT,
        StatementKind.XA_ROLLBACK,
        StatementKind.DDL,
        StatementKind.DATABASE,
    }
)
_ROWS_QUERY_MARK = re.compile(r"#\s*")  # MySQL lists the text of rows as a comment
_FIRST_WORDS = re.compile(r"[a-z_]+(?:\s+[a-z_]+)?(?![^\s(])", re.IGNORECASE)
# CREATE TABLE … SELECT 'value', … VALUES ROW('value')
_QUERY_IN_DDL = re.compile(r"\b(?:SELECT|VALUES)\b", re.IGNORECASE)
_EVENTS_SHOWN_MAX = 50
_INFO_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class BinlogEvent:
    """One line of the server's list."""

    place: FilePos
    kind: str
    info: str


@dataclass(frozen=True, slots=True)
class EventGroup:
    """A transaction, a DDL statement, or an incident.

    Attributes:
        after: the source's position behind it.
        events: the first of them; `event_count` counts all.
        mapped: tables that row events are of, as the server prints them: `db.t`.
        statements: what is no row event and does something.
        is_opaque: it may be about tables that none of these names.
    """

    start: FilePos
    after: SourcePosition
    events: tuple[BinlogEvent, ...]
    event_count: int
    mapped: frozenset[str]
    statements: tuple[str, ...]
    is_opaque: bool


def groups_from(connection: SourceConnection, position: SourcePosition, upto: FilePos) -> Iterator[EventGroup]:
    """The groups behind `position` that begin at or before `upto`, in order.

    Raises ConfigError where the position is another server's, or the server cannot list what is there.
    """
    if position.server != connection.identity():
        raise ConfigError(
            f"the checkpoint {position} is of another server than {connection.settings.address}",
            hint="point source.url at the server that the checkpoint is of",
        )
    events: list[_Listed] = []
    for listed in _events(connection, _start(connection, position, upto)):
        kind = listed.event.kind
        is_head = kind in _BEGINS or kind == "Incident"
        if events and (is_head or kind in _BETWEEN):
            group = _group(events, position)
            if group is not None:
                position = group.after
                yield group
            events = []
        if listed.event.place > upto and not events:
            return
        if kind in _BETWEEN:
            continue
        if not events and not is_head:
            raise ConfigError(
                f"{listed.event.place} is a {kind} event, with which no transaction begins",
                hint="a source that writes no GTID events (before MySQL 5.7) cannot be stepped over",
            )
        events.append(listed)
    group = _group(events, position) if events else None
    if group is not None:
        yield group


def is_between_groups(connection: SourceConnection, place: FilePos) -> bool:
    """Is that a place where one group ends and another one begins, or the log ends? By the first event behind it.

    A source that writes no GTID events (before MySQL 5.7) has no such place but the beginnings and ends of its files.
    """
    try:
        rows = connection.rows_by_name(f"SHOW BINLOG EVENTS IN %s FROM {place.pos} LIMIT 1", (place.file,))
    except CdcError:
        return False  # in the middle of an event
    if not rows:
        sizes = {row["Log_name"]: int(row["File_size"] or 0) for row in connection.rows_by_name("SHOW BINARY LOGS")}
        return sizes.get(place.file) == place.pos
    kind = rows[0]["Event_type"] or ""
    return int(rows[0]["Pos"] or 0) == place.pos and (kind in _BEGINS or kind in _BETWEEN or kind == "Incident")


@dataclass(frozen=True, slots=True)
class _Listed:
    event: BinlogEvent
    ends_at: FilePos | None


def _group(events: list[_Listed], position: SourcePosition) -> EventGroup | None:
    """None where the position has it already."""
    kinds = [listed.event.kind for listed in events]
    gtid = _gtid_after(position, events[0].event.info)
    is_known = gtid == position.gtid and isinstance(gtid, MysqlGtidSet) and kinds[0] in ("Gtid", "Gtid_tagged")
    ends = [listed.ends_at for listed in events if listed.ends_at is not None]
    if is_known or not ends:
        return None
    infos = [(listed.event.kind, listed.event.info) for listed in events]
    statements = tuple(info for kind, info in infos if kind == "Query" and info not in ("BEGIN", "COMMIT"))
    return EventGroup(
        start=events[0].event.place,
        after=SourcePosition(position.server, ends[-1], gtid),
        events=tuple(listed.event for listed in events[:_EVENTS_SHOWN_MAX]),
        event_count=len(events),
        mapped=frozenset(m["name"] for kind, info in infos if kind == "Table_map" and (m := _MAPPED.search(info))),
        statements=statements,
        # Else compressed, prepared, an incident, or something that nobody knows.
        is_opaque=not all(kind in _PLAIN or kind.startswith(_ROWS) for kind in kinds) or any(map(_hides, statements)),
    )


def _hides(statement: str) -> bool:
    """May it change rows of tables that it does not name?

    The end of a prepared transaction, the drop of a database, and rows that are logged as a statement, which may go
    through a view, a trigger or a foreign key.
    """
    use = _USE.match(statement)
    return classify_statement(statement[use.end() if use else 0 :]).kind in _HIDING


def _start(connection: SourceConnection, position: SourcePosition, upto: FilePos) -> FilePos:
    """Where to read from: everything before it is in the position."""
    if position.file is not None:
        return position.file
    assert isinstance(position.gtid, MysqlGtidSet), "a position without a place is a GTID set"
    for row in reversed(connection.rows_by_name("SHOW BINARY LOGS")):
        file = FilePos.of(row["Log_name"] or "", _FIRST_POSITION)
        head = connection.rows_by_name("SHOW BINLOG EVENTS IN %s LIMIT 3", (file.file,)) if file <= upto else []
        before = [line["Info"] or "" for line in head if line["Event_type"] == "Previous_gtids"]
        if before and not MysqlGtidSet.parse(before[0].replace("\n", "")).subtract(position.gtid):
            return file
    raise ConfigError(
        f"the source has no log any more that begins before {position}", hint="`cdc checkpoint reset` loads anew"
    )


def _events(connection: SourceConnection, start: FilePos) -> Iterator[_Listed]:
    """Every event from a place on, to the end of the log, with where it ends as far as the server says."""
    files = [row["Log_name"] or "" for row in connection.rows_by_name("SHOW BINARY LOGS")]
    if start.file not in files:
        raise ConfigError(f"the source does not have {start.file} any more", hint="`cdc checkpoint reset` loads anew")
    for file in files[files.index(start.file) :]:
        after = start.pos if file == start.file else _FIRST_POSITION
        is_first_page = True
        while True:
            try:
                rows = connection.rows_by_name(f"SHOW BINLOG EVENTS IN %s FROM {after} LIMIT {_PAGE_ROWS}", (file,))
            except CdcError as error:
                raise ConfigError(
                    f"the server cannot list its events from {file}:{after} on: {error.message}",
                    hint="its log is damaged there: load anew with `cdc checkpoint reset`",
                ) from error
            for row in rows if is_first_page else rows[1:]:
                pos, ends_at = int(row["Pos"] or 0), int(row["End_log_pos"] or 0)
                info = (row["Info"] or "").strip()
                event = BinlogEvent(FilePos.of(file, pos), row["Event_type"] or "", info)
                # MySQL: behind its own event; MariaDB has 0 for those that it copied in from a cache.
                yield _Listed(event, FilePos.of(file, ends_at) if ends_at > pos else None)
            if len(rows) < _PAGE_ROWS:
                break
            after, is_first_page = int(rows[-1]["Pos"] or 0), False


def _gtid_after(position: SourcePosition, info: str) -> MysqlGtidSet | MariadbGtidList | None:
    if isinstance(position.gtid, MysqlGtidSet) and (match := _MYSQL_GTID.search(info)):
        return position.gtid.add(*parse_mysql_gtid(match[1]))
    if isinstance(position.gtid, MariadbGtidList) and (match := _MARIADB_GTID.search(info)):
        domain, server_id, sequence = map(int, match.groups())
        return position.gtid.add(domain, server_id, sequence)
    return position.gtid


def shown(group: EventGroup) -> Iterator[str]:
    """The group, a line an event, for who is at the terminal: statements with the values that stand in them."""
    yield from _lines(group, lambda event: event.info)


def kept(group: EventGroup) -> Iterator[str]:
    """The group, a line an event, to be stored: without values of rows, which may be of columns that are left out, and
    without passwords of URLs. Literals of DDL stay: defaults, conditions, comments.
    """
    yield from _lines(group, lambda event: scrub(_without_values(event)))


def _lines(group: EventGroup, text: Callable[[BinlogEvent], str]) -> Iterator[str]:
    for event in group.events:
        yield f"{event.place}  {event.kind:<16} {' '.join(text(event).split())[:_INFO_CHARACTERS_MAX]}".rstrip()
    if group.event_count > len(group.events):
        yield f"… and {group.event_count - len(group.events)} more"


def _without_values(event: BinlogEvent) -> str:
    if event.kind in _WITHOUT_VALUES or event.kind.startswith(_ROWS):
        return event.info
    if event.kind not in _STATEMENTS:
        return "…" if event.info else ""  # what a statement was given, or nobody knows
    mark = _ROWS_QUERY_MARK.match(event.info) if event.kind == "Rows_query" else None
    use = _USE.match(event.info)
    start = use.end() if use else mark.end() if mark else 0
    head, statement = event.info[:start], event.info[start:]
    if classify_statement(statement).kind not in _KEPT_STATEMENTS:
        words = _FIRST_WORDS.match(statement)
        return f"{head}{words[0] if words else ''} …"
    query = _QUERY_IN_DDL.search(statement)
    return f"{head}{statement[: query.start()]}…" if query else event.info
