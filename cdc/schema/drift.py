"""How a target on the sink differs from the one that the source's definition makes by the mapping.

Knows no connection: the sinks read `TargetFacts`, `sinks.base.Sink.differences` says what is broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cdc.schema.defaults import left_out
from cdc.schema.indexes import SinkIndex, TargetIndex, is_served
from cdc.schema.target import SinkKind, TargetTable

__all__ = ["ColumnFacts", "Drift", "DriftKind", "TargetFacts", "drift"]

# broken    the target cannot hold the table's rows any more: the table is parked
# lost      something that the mapping makes is not there; the rows are not touched by it
# left_out  something that the source has, and this sink cannot have
# added     somebody has added it on the sink; it stays
DriftKind = Literal["broken", "lost", "left_out", "added"]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference, as a sentence about the target."""

    kind: DriftKind
    text: str


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column on the sink."""

    name: str
    is_nullable: bool
    has_default: bool
    comment: str = ""
    is_identity: bool = False


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a table on the sink has, beside the types of its columns. `others`: views, grants, partitions, as nouns."""

    columns: tuple[ColumnFacts, ...]
    indexes: tuple[SinkIndex, ...]
    comment: str = ""
    others: tuple[str, ...] = ()


def drift(
    target: TargetTable,
    facts: TargetFacts | None,
    differences: Sequence[str],
    kind: SinkKind,
    *,
    indexes: Sequence[TargetIndex] = (),
    index_words: Sequence[str] = (),
) -> list[Drift]:
    """All differences, the worst first.

    Args:
        facts: None where there is no such table.
        differences: what `Sink.differences` says.
        indexes, index_words: what `schema.indexes.target_indexes` gives.
    """
    if facts is None:
        return [Drift("broken", "the table is gone")]
    found = [Drift("broken", text) for text in differences]
    found += [Drift("lost", text) for text in _lost(target, facts, kind, indexes)]
    found += [Drift("left_out", text) for text in (*left_out(target, kind), *index_words)]
    found += [Drift("added", text) for text in _added(target, facts, kind)]
    return found


def _fold(name: str, kind: SinkKind) -> str:
    return name if kind == "postgresql" else name.casefold()


def _lost(target: TargetTable, facts: TargetFacts, kind: SinkKind, indexes: Sequence[TargetIndex]) -> Iterator[str]:
    there = {_fold(column.name, kind): column for column in facts.columns}
    for column in target.columns:
        found = there.get(_fold(column.name, kind))
        if found is None:
            continue  # broken
        if found.is_nullable and not column.is_nullable and target.source_column is None:
            yield f"column {column.name} may be NULL there; wanted is NOT NULL"
        if column.default is not None and not found.has_default and not column.is_identity:
            yield f"column {column.name} has no default there; wanted is {column.default}"
        if column.comment and not found.comment:
            yield f"column {column.name} has lost its comment"
        if column.is_identity and not found.is_identity:
            yield f"column {column.name} numbers no rows there (identity)"
    if target.comment and not facts.comment:
        yield "it has lost its comment"
    for index in indexes:
        if not is_served(index, facts.indexes):
            columns = ", ".join(part.column for part in index.parts)
            yield f"it has no {'unique ' if index.is_unique else ''}index ({columns}), which is {index.source} there"


def _added(target: TargetTable, facts: TargetFacts, kind: SinkKind) -> Iterator[str]:
    wanted = {_fold(column.name, kind): column for column in target.columns}
    for found in facts.columns:
        column = wanted.get(_fold(found.name, kind))
        if column is None:
            yield f"the column {found.name}"
        elif found.has_default and column.default is None and not _has_own_default(column.sql_type, kind):
            yield f"a default of {found.name}"
    for index in facts.indexes:
        if not index.is_primary and index.source is None:
            yield f"the index {index.name}"
    yield from facts.others


def _has_own_default(sql_type: str, kind: SinkKind) -> bool:
    """TIMESTAMP of the MySQL family is made with a default whatever the source has."""
    return kind != "postgresql" and sql_type.lower().startswith("timestamp")
