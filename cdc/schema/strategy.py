"""How a table's changes are found: from the binlog, by a column that says when a row changed, or by reading all of it.

    cdc           row by row from the binlog, transactions whole, deletes included
    incremental   rows whose modifier is at or past where the last run ended; deletes only by comparing keys
    full_refresh  every row, each time
    auto          the first of these that the table allows

What a table offers is told by its definition and its indexes: nothing here asks a server.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cdc.errors import UnsupportedData
from cdc.model import TableDefinition, ValueKind

__all__ = [
    "AUTO_REFRESH_ROWS_MAX",
    "DATETIME_LOOKBACK_SECONDS",
    "LOOKBACK_SECONDS",
    "Choice",
    "Offer",
    "Strategy",
    "TablePolling",
    "choose",
    "problems",
]

Strategy = Literal["cdc", "incremental", "full_refresh", "auto"]

# Up to so many rows a table is read whole at every run, where it is ours to choose: it costs next to nothing, and
# sees deletes, which no modifier does.
AUTO_REFRESH_ROWS_MAX = 10_000
# A transaction is seen when it commits, and its rows carry the time at which they were written.
LOOKBACK_SECONDS = 300.0
# What has no time zone is set back by an hour once a year, wherever the writers' zone does that.
DATETIME_LOOKBACK_SECONDS = 3600.0 + LOOKBACK_SECONDS

_TIMES = frozenset({ValueKind.TIMESTAMP, ValueKind.DATETIME, ValueKind.DATE})
_MODIFIERS = frozenset({*_TIMES, ValueKind.INTEGER})


@dataclass(frozen=True, slots=True)
class TablePolling:
    """What the configuration says of one table that may be polled; None is what is not said."""

    strategy: Strategy = "cdc"
    modifier: str | None = None
    interval_seconds: float = 60.0
    lookback_seconds: float | None = None
    detect_deletes_every: int = 0

    def is_polled(self, *, has_log: bool) -> bool:
        """Is such a table read by a poller, rather than followed by the binlog?"""
        return self.strategy in ("incremental", "full_refresh") or (self.strategy == "auto" and not has_log)

    def lookback(self, kind: ValueKind) -> float:
        """How far behind the last value a run begins, by what the modifier is."""
        if self.lookback_seconds is not None:
            return self.lookback_seconds
        return LOOKBACK_SECONDS if kind in (ValueKind.TIMESTAMP, ValueKind.INTEGER) else DATETIME_LOOKBACK_SECONDS


@dataclass(frozen=True, slots=True)
class Offer:
    """What a table has to be polled by.

    Attributes:
        key: the columns that tell its rows apart, () where none do.
        indexed: columns that are the first of an index.
        on_update: columns that the server itself sets whenever a row changes.
        rows: the server's own guess of how many there are, None where it has none.
        why_no_log: why its changes cannot be read from the binlog; '' where they can.
    """

    definition: TableDefinition
    key: tuple[str, ...]
    indexed: Collection[str] = ()
    on_update: Collection[str] = ()
    rows: int | None = None
    why_no_log: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done with the table, and why."""

    strategy: Literal["cdc", "incremental", "full_refresh"]
    reason: str
    modifier: str | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """For the status."""
        return {"strategy": self.strategy, "reason": self.reason, "modifier": self.modifier}


def choose(polling: TablePolling, offer: Offer) -> Choice:
    """The strategy for a table, by configuration and by what it offers.

    Raises UnsupportedData where it is told to be `incremental` and has not what that needs.
    """
    if polling.strategy in ("cdc", "full_refresh"):
        return Choice(polling.strategy, "configured")
    if polling.strategy == "incremental":
        wrong = _cannot_be_incremental(polling.modifier, offer)
        if wrong:
            raise UnsupportedData(
                f"{offer.definition.name} cannot be incremental: {wrong[0]}",
                table=str(offer.definition.name),
                hint=wrong[1],
            )
        return Choice("incremental", "configured", polling.modifier)
    if not offer.why_no_log:
        return Choice("cdc", "the source's binlog has its changes")
    return _polled(polling, offer)


def _polled(polling: TablePolling, offer: Offer) -> Choice:
    """Of `auto`, where the binlog is of no use."""
    why = offer.why_no_log
    modifier = polling.modifier or _own_modifier(offer)
    if modifier is None:
        return Choice(
            "full_refresh",
            f"{why}; no column is set by the server whenever a row changes, and NOT NULL and indexed besides (name "
            "one as modifier)",
        )
    wrong = _cannot_be_incremental(modifier, offer)
    if wrong:
        return Choice("full_refresh", f"{why}; {wrong[0]}")
    if offer.definition.column(modifier).is_nullable or modifier not in offer.indexed:
        lacks = "may be NULL" if offer.definition.column(modifier).is_nullable else "is the first column of no index"
        return Choice("full_refresh", f"{why}; the modifier {modifier} {lacks}")
    if offer.rows is not None and offer.rows <= AUTO_REFRESH_ROWS_MAX:
        return Choice("full_refresh", f"{why}; about {offer.rows} rows are read whole, which sees deletes as well")
    return Choice("incremental", f"{why}; {modifier} is NOT NULL and indexed", modifier)


def _own_modifier(offer: Offer) -> str | None:
    """A column that cannot be wrong: a name such as `updated_at` promises nothing."""
    fit = [name for name in sorted(offer.on_update) if name in offer.indexed]
    return next((name for name in fit if not offer.definition.column(name).is_nullable), None)


def _cannot_be_incremental(modifier: str | None, offer: Offer) -> tuple[str, str] | None:
    """What is missing, and what mends it."""
    definition = offer.definition
    if modifier is None:
        return "no modifier is named", "name the column that says when a row changed (modifier), or use full_refresh"
    column = next((column for column in definition.columns if column.name == modifier), None)
    if column is None:
        names = ", ".join(column.name for column in definition.columns)
        return f"it has no column {modifier}", f"its columns are {names}; name one of them as modifier"
    if column.kind not in _MODIFIERS:
        return (
            f"its modifier {modifier} is {column.column_type}",
            "a modifier is a TIMESTAMP, DATETIME, DATE or whole number that never goes back; else use full_refresh",
        )
    if not offer.key:
        return (
            "it has no key by which a row that changed could be told",
            f"ALTER TABLE {definition.name} ADD PRIMARY KEY (…), name its key (primary_key: […]), or use full_refresh",
        )
    return None


def problems(choice: Choice, polling: TablePolling, offer: Offer) -> list[tuple[str, str]]:
    """What works and costs or promises less than it seems to: each with what mends it."""
    if choice.strategy != "incremental" or choice.modifier is None:
        return []
    found = []
    table, column = offer.definition.name, offer.definition.column(choice.modifier)
    if column.name not in offer.indexed:
        found.append(
            (
                f"its modifier {column.name} is the first column of no index: each run reads the whole table",
                f"CREATE INDEX … ON {table} ({column.name})",
            )
        )
    if column.is_nullable:
        found.append(
            (
                f"its modifier {column.name} may be NULL: each run reads all rows in which it is",
                f"make it NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP: ALTER TABLE {table} …",
            )
        )
    if column.name not in offer.on_update and column.kind in _TIMES:
        found.append(
            (
                f"its modifier {column.name} is not set by the server: a statement that leaves it alone is not seen",
                "declare it ON UPDATE CURRENT_TIMESTAMP, or see to it that every writer sets it",
            )
        )
    if column.kind in (ValueKind.DATETIME, ValueKind.DATE) and polling.lookback(column.kind) < 3600:
        found.append(
            (
                f"its modifier {column.name} has no time zone: with lookback_seconds below 3600 an hour may be missed",
                "raise lookback_seconds to 3900, or make the column a TIMESTAMP",
            )
        )
    if not polling.detect_deletes_every:
        found.append(
            (
                "no run looks for deleted rows: they stay on the sinks",
                "set detect_deletes_every, or use full_refresh, or cdc",
            )
        )
    return found
