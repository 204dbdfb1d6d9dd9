"""Tables that are parked at a statement: it waits for the operator to say what becomes of it (`cdc ddl`).

The statement is kept in the table's error, with all that decides how it is read. The stream goes on behind it without
the table, so that it can be followed only as long as nothing has been committed behind it.

A load that finds other columns at the source than the target was made for waits likewise, where a policy has a
statement wait that would do this: its statement may have passed unseen, or be on its way. No such statement is
followed: the table is loaded when the operator has said so.

What he says yes to is what he was shown: the statement, and how the columns at the source differed from the target's
when it was found. A load that finds other differences by then asks again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cdc.errors import UnsupportedData
from cdc.model import SchemaChange, SourcePosition, TableDefinition, TableName
from cdc.schema.ddl_policies import DdlPolicies, differences_of, withheld
from checkpoints.checkpoint import decode_position, encode_position
from checkpoints.store import APPROVED, TableRecord

__all__ = [
    "StatementHeld",
    "approved",
    "held_change",
    "held_load",
    "held_record",
    "held_statement",
    "is_approved",
    "is_up_to_statement",
    "require_allowed",
]


class StatementHeld(UnsupportedData):
    """A statement on a table is for the operator to decide about. `said`: what the table's error has of it."""

    said: Mapping[str, Any] | None = None

    def to_dict(self, *, since: str | None = None) -> dict[str, Any]:
        content = super().to_dict(since=since)
        return content if self.said is None else {**content, "statement": dict(self.said)}


def held_record(
    record: TableRecord, change: SchemaChange, reason: str, found: Sequence[str], *, since: str | None
) -> TableRecord:
    """The table, parked at the statement. `found`: by what the source's columns differ from the target's now."""
    name = str(record.source)
    error = StatementHeld(
        f"{name} waits at a statement for your decision ({reason}): {' '.join(change.statement.split())}",
        table=name,
        position=str(change.end),
        hint=f"`cdc ddl apply {name}` has the target follow it (by a load of the table where it has to), "
        f"`cdc ddl skip {name}` leaves the target's definition as it is",
    )
    error.said = _said(change, reason, found, was_ready=record.state == "ready")
    return replace(
        record,
        state="parked",
        error=error.to_dict(since=since),
        ready_at=None,
        ready_server=None,
        loaded_from=None,
        step="",
    )


def require_allowed(
    record: TableRecord,
    definition: TableDefinition,
    policies: DdlPolicies,
    keeps: Callable[[str], bool],
    at: SourcePosition | None,
) -> None:
    """Raises StatementHeld where the operator is to be asked before the table is loaded by that definition.

    One whose target never held a whole version of it is loaded as it is. `at` is None without a stream.
    """
    if not record.is_complete or record.definition is None:
        return
    reason, differences = withheld(policies, record.definition, definition, keeps=keeps)
    found = differences_of(record.definition, definition, keeps=keeps)
    if reason and not is_approved(record, found):
        raise held_load(record, at, reason, differences, found)


def held_load(
    record: TableRecord, at: SourcePosition | None, reason: str, differences: Sequence[str], found: Sequence[str]
) -> StatementHeld:
    """The error of a load, at that position, that would make the target another one.

    `found`: all differences, of which the policy asks about `differences`.
    """
    name, text = str(record.source), "; ".join(differences)
    error = StatementHeld(
        f"{name} was to be loaded, and its columns at the source are not those that its target was made for; it waits "
        f"for your decision ({reason}): {text}",
        table=name,
        position=None if at is None else str(at),
        hint=f"`cdc ddl apply {name}` loads it, and makes its target anew where that has to be, `cdc ddl skip {name}` "
        f"loads it with the columns that both sides have",
    )
    error.said = {
        "text": f"(found by a load) {text}",
        "end": None if at is None else encode_position(at),
        "tables": [[record.source.database, record.source.table]],
        "dropped": [],
        "database": "",
        "commit_time_us": 0,
        "is_exact": False,
        "has_ansi_quotes": False,
        "has_backslash_escapes": True,
        "reason": reason,
        "was_ready": False,
        "found": list(found),
    }
    return error


def _said(change: SchemaChange, reason: str, found: Sequence[str], *, was_ready: bool) -> dict[str, Any]:
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
        "found": list(found),
    }


def approved(record: TableRecord) -> str:
    """`TableRecord.step` once the operator has said yes to what the table waits for."""
    found = (record.error or {}).get("statement", {}).get("found")
    return APPROVED if found is None else f"{APPROVED} {_digest(found)}"  # None: held by an older version


def is_approved(record: TableRecord, found: Sequence[str]) -> bool:
    """Has he said yes to a load that finds these differences? One that finds none is not asked about."""
    return record.step in (APPROVED, f"{APPROVED} {_digest(found)}")


def _digest(found: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:32]


def is_up_to_statement(record: TableRecord) -> bool:
    """Had the table all rows up to the statement that it is parked at? (It may have been catching up with a load.)"""
    return bool((record.error or {}).get("statement", {}).get("was_ready"))


def held_statement(record: TableRecord) -> Mapping[str, Any] | None:
    """What is kept of the statement that a table is parked at, if it is."""
    said: Mapping[str, Any] | None = (record.error or {}).get("statement")
    return said if record.state == "parked" and isinstance(said, Mapping) else None


def held_change(record: TableRecord) -> SchemaChange | None:
    """The statement that a table is parked at, if it is, and has a place in the stream."""
    said = held_statement(record)
    if said is None or said["end"] is None:
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
