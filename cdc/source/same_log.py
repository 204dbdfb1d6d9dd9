"""Is the source's log still the one that a position was read from?

A server whose log was reset, or that lost its end in a crash, names files and numbers transactions as before. Once it
has written past a position, only the place itself shows that it is another log. What the server cannot say for sure
counts as the same log: the stream meets what is wrong, or there is nothing wrong.
"""

from __future__ import annotations

from cdc.errors import CdcError, SourceUnavailable
from cdc.gtid import MariadbGtidList
from cdc.model import FilePos, SourcePosition
from cdc.source.connection import SourceConnection

__all__ = ["ahead_of", "why_another_log"]

_FIRST_POSITION = 4
_OFFSET_END = 1 << 32
"""Servers cannot be asked about places behind it: BINLOG_GTID_POS has no answer, and event headers begin again at 0."""
_NO_SUCH_EVENT = 1220
# No transaction begins with these, on any version.
_INSIDE = frozenset({"Table_map", "Xid", "XA_prepare", "Transaction_payload"})
_ROWS = ("Write_rows", "Update_rows", "Delete_rows")


def ahead_of(connection: SourceConnection, applied: MariadbGtidList, *, is_same_server: bool) -> MariadbGtidList:
    """What of `applied` a MariaDB server does not have (yet): its last transaction of each such domain.

    What a replica knows by replication alone, and has nothing newer of, is not missing: nothing of that domain was to
    be logged since (it was made from a backup, the domain was idle). On the server that `applied` was read from, a
    domain that is gone beside others was deleted (FLUSH BINARY LOGS DELETE_DOMAIN_ID).
    """
    logged, replicated = _sequences(connection, "gtid_binlog_state"), _sequences(connection, "gtid_slave_pos")
    missing = {}
    for domain, (server_id, sequence) in applied.positions.items():
        there = logged.get(domain)
        if there is None:
            is_there = is_same_server and not logged.keys().isdisjoint(applied.positions)
        else:
            # Of the same server id where there is one: a promoted replica numbers on from where it was.
            is_there = there.get(server_id, max(there.values())) >= sequence
        if not is_there and replicated.get(domain, {}).get(server_id) != sequence:
            missing[domain] = (server_id, sequence)
    return MariadbGtidList(missing)


def _sequences(connection: SourceConnection, variable: str) -> dict[int, dict[int, int]]:
    """By domain and server id: the highest sequence."""
    found: dict[int, dict[int, int]] = {}
    text = connection.query_text(f"SELECT @@GLOBAL.{variable}")[0][0] or ""
    for item in filter(None, (item.strip() for item in text.split(","))):
        domain, server_id, sequence = map(int, item.split("-"))
        by_server = found.setdefault(domain, {})
        by_server[server_id] = max(sequence, by_server.get(server_id, 0))
    return found


def why_another_log(connection: SourceConnection, position: SourcePosition, *, by_gtid: bool) -> str:
    """What shows that the log was reset or has lost its end since `position` was read; '' where nothing does.

    Args:
        by_gtid: the stream goes on from the position's GTIDs. On MySQL its file may be a place inside a transaction
            then, one of those that the server has passed over.
    """
    place = position.file
    if place is None or position.server != connection.identity():
        return ""  # nobody can tell
    sizes = _sizes(connection)
    size = sizes.get(place.file)
    if not size or place.pos >= _OFFSET_END:
        return ""  # purged, or removed by hand: that is the stream's to say
    if place.pos > size:
        return f"{place.file} ends at {size}" if place.file != list(sizes)[-1] else ""
    # What is said of places in an encrypted log, nobody has tried.
    encryption = "encrypt_binlog" if connection.flavor == "mariadb" else "binlog_encryption"
    is_encrypted = (connection.variable(encryption) or "OFF").upper() != "OFF"
    kind = _event_at(connection, place) if not is_encrypted else ""
    if kind is None:
        return f"no event begins at {place}"
    if not by_gtid and (kind in _INSIDE or kind.startswith(_ROWS)):
        return f"{place} lies inside a transaction ({kind})"
    # At the beginning of a file a stream by GTIDs on a new server may just have begun, with more than lies before it.
    if by_gtid and isinstance(position.gtid, MariadbGtidList) and place.pos > _FIRST_POSITION:
        return _gtids_differ(connection, place, position.gtid)
    return ""


def _sizes(connection: SourceConnection) -> dict[str, int]:
    rows = connection.rows_by_name("SHOW BINARY LOGS")
    return {row["Log_name"] or "": int(row["File_size"] or 0) for row in rows}


def _event_at(connection: SourceConnection, place: FilePos) -> str | None:
    """The kind of the event that begins there; '' at the end of the file, or where it cannot be told; None for none."""
    try:
        rows = _listed(connection, place)
    except SourceUnavailable as error:
        if not _is_no_such_event(error):
            raise
        # Purged in this moment, or the file cannot be read at all: that says nothing of the place.
        try:
            _listed(connection, FilePos.of(place.file, _FIRST_POSITION))
        except CdcError:
            return ""
        return None
    except CdcError:
        return ""  # we may not ask
    if not rows:
        return ""
    return rows[0]["Event_type"] or "" if int(rows[0]["Pos"] or 0) == place.pos else None


def _listed(connection: SourceConnection, place: FilePos) -> list[dict[str, str | None]]:
    return connection.rows_by_name(f"SHOW BINLOG EVENTS IN %s FROM {place.pos} LIMIT 1", (place.file,))


def _is_no_such_event(error: CdcError) -> bool:
    cause = error.__cause__
    return cause is not None and cause.args[:1] == (_NO_SUCH_EVENT,)


def _gtids_differ(connection: SourceConnection, place: FilePos, applied: MariadbGtidList) -> str:
    """All that the log has up to the place has been read. What was read may be more, in some of several domains: a
    position by GTIDs need not be one place.
    """
    text = connection.query_text("SELECT BINLOG_GTID_POS(%s, %s)", (place.file, place.pos))[0][0]
    if text is None:
        return ""  # the server cannot say
    there = MariadbGtidList.parse(text)
    common = there.positions.keys() & applied.positions.keys()
    is_same = any(there.positions[domain] == applied.positions[domain] for domain in common)
    is_ahead = any(there.positions[domain][1] > applied.positions[domain][1] for domain in common)
    if not common or (is_same and not is_ahead):
        return ""
    return f"up to {place} it has {there}, and what was read up to there is {applied}"
