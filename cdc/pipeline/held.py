"""Tables that are parked at a statement: it waits for the operator to say what becomes of it (`cdc ddl`).

The statement is kept in the table's error, with all that decides how it is read. The stream goes on behind it without
the table, so that it can be followed only as long as nothing has been committed behind it.

A load that finds other columns at the source than the target was made for waits likewise, where a policy has a
statement wait that would do this: its statement may have passed unseen, or be on its way. No such statement is
followed: the table is loaded when the operator has said so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cdc.errors import UnsupportedData
from cdc.model import SchemaChange, SourcePosition, TableName
from checkpoints.checkpoint import decode_position, encode_position
from checkpoints.store import TableRecord

__all__ = ["StatementHeld", "held_change", "held_load", "held_record", "is_up_to_statement"]


class StatementHeld(UnsupportedData):
    """A statement on a table is for the operator to decide about. `said`: what the table's error has of it."""

    said: Mapping[str, Any] | None = None

    def to_dict(self, *, since: str | None = None) -> dict[str, Any]:
        content = super().to_dict(since=since)
        return content if self.said is None else {**content, "statement": dict(self.said)}


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
    error.said = _said(change, reason, was_ready=record.state == "ready")
    return replace(
        record,
        state="parked",
        error=error.to_dict(since=since),
        ready_at=None,
        ready_server=None,
        loaded_from=None,
        step="",
    )


def held_load(record: TableRecord, at: SourcePosition, reason: str, differences: Sequence[str]) -> StatementHeld:
    """The error of a load, at that position, that would make the target another one."""
    name, text = str(record.source), "; ".join(differences)
    error = StatementHeld(
        f"{name} was to be loaded, and its columns at the source are not those that its target was made for; it waits "
        f"for your decision ({reason}): {text}",
        table=name,
        position=str(at),
        hint=f"`cdc ddl apply {name}` loads it, and makes its target anew where that has to be, `cdc ddl skip {name}` "
        f"loads it with the columns that both sides have",
    )
    change = SchemaChange((record.source,), at, f"(found by a load) {text}", 0, is_exact=False)
    error.said = _said(change, reason, was_ready=False)
    return error


def _said(change: SchemaChange, reason: str, *, was_ready: bool) -> dict[str, Any]:
    return {
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
        "was_ready": was_ready,
    }


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
