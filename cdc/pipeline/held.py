"""Tables that are parked at a statement: it waits for the operator to say what becomes of it (`cdc ddl`).

The statement is kept in the table's error, with all that decides how it is read. The stream goes on behind it without
the table, so that it can be followed only as long as nothing has been committed behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cdc.errors import UnsupportedData
from cdc.model import SchemaChange, TableName
from checkpoints.checkpoint import decode_position, encode_position
from checkpoints.store import TableRecord

__all__ = ["StatementHeld", "held_change", "held_record", "is_up_to_statement"]


class StatementHeld(UnsupportedData):
    """A statement on a table is for the operator to decide about."""


def held_record(record: TableRecord, change: SchemaChange, reason: str, *, since: str | None) -> TableRecord:
    """The table, parked at the statement."""
    name = str(record.source)
    error = StatementHeld(
        f"{name} waits at a statement for your decision ({reason}): {' '.join(change.statement.split())}",
        table=name,
        position=str(change.end),
        hint=f"`cdc ddl apply {name}` has the target follow it (by a load of the table where it has to), "
        f"`cdc ddl skip {name}` leaves the target's definition as it is",
    )
    said = {
        **error.to_dict(since=since),
        "statement": {
            "text": change.statement,
            "end": encode_position(change.end),
            "tables": [[table.database, table.table] for table in change.tables],
            "dropped": [[table.database, table.table] for table in sorted(change.is_dropped)],
            "database": change.database,
            "commit_time_us": change.commit_time_us,
            "is_exact": change.is_exact,
            "has_ansi_quotes": change.has_ansi_quotes,
            "has_backslash_escapes": change.has_backslash_escapes,
            "reason": reason,
            "was_ready": record.state == "ready",
        },
    }
    return replace(record, state="parked", error=said, ready_at=None, ready_server=None, loaded_from=None, step="")


def is_up_to_statement(record: TableRecord) -> bool:
    """Had the table all rows up to the statement that it is parked at? (It may have been catching up with a load.)"""
    return bool((record.error or {}).get("statement", {}).get("was_ready"))


def held_change(record: TableRecord) -> SchemaChange | None:
    """The statement that a table is parked at, if it is."""
    said: Mapping[str, Any] | None = (record.error or {}).get("statement")
    if record.state != "parked" or not isinstance(said, Mapping):
        return None
    return SchemaChange(
        tables=tuple(TableName(*name) for name in said["tables"]),
        end=decode_position(said["end"]),
        statement=said["text"],
        commit_time_us=said["commit_time_us"],
        is_dropped=frozenset(TableName(*name) for name in said["dropped"]),
        is_exact=said["is_exact"],
        database=said["database"],
        has_ansi_quotes=said["has_ansi_quotes"],
        has_backslash_escapes=said["has_backslash_escapes"],
    )
