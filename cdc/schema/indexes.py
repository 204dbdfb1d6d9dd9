"""Which of the source's indexes a target gets, and under what names (`targets.indexes`).

An index that is left out has a word on it. One of ours says so in its comment (`cdc: NAME`, the source's name of it),
so that the sink itself tells which may be dropped; what somebody else has made there is never touched.

A unique index is made only where its equality is no stricter than the source's, so that rows which are two there are
two here; else a plain one takes its place. Knows no connection and no SQL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cdc.model import ValueKind
from cdc.schema.identifiers import POSTGRES_NAME_BYTES_MAX
from cdc.schema.target import SinkKind, TargetColumn, TargetTable

__all__ = [
    "IndexPart",
    "SinkIndex",
    "SourceIndex",
    "TargetIndex",
    "free_name",
    "is_served",
    "lookup_indexes",
    "marker",
    "target_indexes",
]

PLAIN_KINDS = ("BTREE", "HASH")
_MARKER = "cdc: "
# A third of a page of PostgreSQL's, and what an index of InnoDB's may have (DYNAMIC rows): longer values are errors.
POSTGRES_INDEX_BYTES_MAX = 2600
POSTGRES_INDEX_COLUMNS_MAX = 32
_BYTES_A_CHARACTER = 4
_UNINDEXED_TYPES = ("json", "real[]", "geometry")
_MARKER_NAME_MAX = 64


@dataclass(frozen=True, slots=True)
class IndexPart:
    """A column of an index; `prefix`: only so many characters of it, or bytes of a binary one."""

    column: str
    prefix: int | None = None
    is_descending: bool = False


@dataclass(frozen=True, slots=True)
class SourceIndex:
    """An index of a source table; `parts` lacks those that are expressions. `kind`: BTREE, HASH, FULLTEXT, …"""

    name: str
    parts: tuple[IndexPart, ...]
    is_unique: bool = False
    kind: str = "BTREE"
    has_expression: bool = False


@dataclass(frozen=True, slots=True)
class TargetIndex:
    """An index that a target is to have; its parts are columns of the target. `source` is the source's name of it."""

    source: str
    parts: tuple[IndexPart, ...]
    is_unique: bool


@dataclass(frozen=True, slots=True)
class SinkIndex:
    """An index that is on the sink; `parts` is None for one that is not over plain columns, or of some rows only."""

    name: str
    parts: tuple[IndexPart, ...] | None
    is_unique: bool = False
    is_primary: bool = False
    is_valid: bool = True
    comment: str = ""

    @property
    def source(self) -> str | None:
        """The source's name of an index of ours; None for one that is not."""
        return self.comment.removeprefix(_MARKER) if self.comment.startswith(_MARKER) else None


def marker(index: TargetIndex) -> str:
    """The comment of an index of ours."""
    return _MARKER + index.source


def is_served(wanted: TargetIndex, existing: Iterable[SinkIndex]) -> bool:
    """Is there an index that does what this one is for, whoever made it?"""
    return any(
        index.is_valid
        and index.parts is not None
        and _plain(index.parts) == _plain(wanted.parts)
        and (index.is_unique or not wanted.is_unique)
        for index in existing
    )


def _plain(parts: Sequence[IndexPart]) -> list[tuple[str, int | None, bool]]:
    return [(part.column.casefold(), part.prefix, part.is_descending) for part in parts]


def free_name(wanted: TargetIndex, target: TargetTable, kind: SinkKind, taken: Collection[str]) -> str:
    """A name for the index: the source's on the MySQL family; `table_index` on PostgreSQL, where a schema has one
    namespace for both. What is too long, or taken, ends in a digest of what it stands for.
    """
    name = wanted.source if kind != "postgresql" else f"{target.name}_{wanted.source}"
    is_taken = name.casefold() in {other.casefold() for other in taken}
    limit = POSTGRES_NAME_BYTES_MAX if kind == "postgresql" else _MARKER_NAME_MAX
    size = len(name.encode()) if kind == "postgresql" else len(name)
    if size <= limit and not is_taken:
        return name
    text = repr((target.namespace, target.name, wanted))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    room = limit - len(digest) - 1
    cut = name.encode()[:room].decode(errors="ignore") if kind == "postgresql" else name[:room]
    return f"{cut}_{digest}"


def target_indexes(
    indexes: Iterable[SourceIndex], target: TargetTable, kind: SinkKind
) -> tuple[list[TargetIndex], list[str]]:
    """The indexes that the target is to have, and a sentence on each that it does not get or gets otherwise."""
    wanted: list[TargetIndex] = []
    words: list[str] = []
    if target.attributes.indexes == "none":
        return wanted, words
    for index in sorted(indexes, key=lambda one: one.name):
        if target.attributes.indexes == "unique" and not index.is_unique:
            continue
        if index.name == "PRIMARY" and tuple(part.column for part in index.parts) == target.source_key:
            continue
        try:
            made = _target_index(index, target, kind)
        except _LeftOut as reason:
            words.append(f"the index {index.name} is left out: {reason}")
            continue
        why = _why_not_unique(index, target, kind) if index.is_unique else ""
        if why and target.attributes.indexes == "unique":
            words.append(f"the index {index.name} is left out: it cannot be unique here, because {why}")
            continue
        if why:
            words.append(f"the index {index.name} is not unique here, because {why}")
        parts = tuple(part.column for part in made)
        if parts == target.key:
            continue  # the key's own index
        wanted.append(TargetIndex(index.name, made, index.is_unique and not why))
    return wanted, words


def lookup_indexes(
    lookups: Iterable[tuple[str, tuple[str, ...]]],
    target: TargetTable,
    kind: SinkKind,
    others: Sequence[TargetIndex],
    existing: Iterable[SinkIndex],
) -> list[TargetIndex]:
    """Indexes that find rows by some columns: those of `lookups` that no index of the target begins with.

    Args:
        lookups: a name, and the source's columns.
        others: the target's own by its configuration, made or not yet. `existing`: what is there, whoever made it.
    """
    begins = [target.key, *(tuple(part.column for part in index.parts) for index in others)]
    begins += [
        tuple(part.column for part in index.parts)
        for index in existing
        if index.is_valid and index.parts is not None and index.source is None
    ]
    wanted: list[TargetIndex] = []
    for name, columns in sorted(lookups):
        spelled = {column.source.name.lower(): column.source.name for column in target.columns if not column.metadata}
        parts = tuple(IndexPart(spelled.get(column.lower(), column)) for column in columns)
        try:
            made = _target_index(SourceIndex(name, parts), target, kind)
        except _LeftOut:
            continue  # too wide: rows are found without
        found = {part.column.casefold() for part in made}
        if any({column.casefold() for column in begin[: len(made)]} == found for begin in begins):
            continue
        begins.append(tuple(part.column for part in made))
        wanted.append(TargetIndex(name, made, is_unique=False))
    return wanted


class _LeftOut(Exception):
    """Why an index is not made."""


def _target_index(index: SourceIndex, target: TargetTable, kind: SinkKind) -> tuple[IndexPart, ...]:
    if index.has_expression or not index.parts:
        raise _LeftOut("it is over an expression")
    if index.kind.upper() not in PLAIN_KINDS:
        raise _LeftOut(f"it is a {index.kind} index")
    columns = {column.source.name: column for column in target.columns if column.metadata is None}
    parts = []
    size = 0
    for part in index.parts:
        column = columns.get(part.column)
        if column is None:
            raise _LeftOut(f"the column {part.column} does not go there")
        if kind == "postgresql":
            size += _postgres_bytes(part, column)
        parts.append(IndexPart(column.name, _prefix(part, column), part.is_descending))
    if size > POSTGRES_INDEX_BYTES_MAX:
        raise _LeftOut(
            f"its values may have {size} bytes, and an index of PostgreSQL's takes {POSTGRES_INDEX_BYTES_MAX}"
        )
    if kind == "postgresql" and len(parts) > POSTGRES_INDEX_COLUMNS_MAX:
        raise _LeftOut(f"it has {len(parts)} columns, and PostgreSQL's take {POSTGRES_INDEX_COLUMNS_MAX}")
    return tuple(parts)


def _postgres_bytes(part: IndexPart, column: TargetColumn) -> int:
    """What a value may have, where that is much."""
    if part.prefix is not None:
        raise _LeftOut(f"it has only the beginning of {part.column}, which PostgreSQL's do not")
    if column.sql_type.startswith(_UNINDEXED_TYPES) and column.sql_type != "jsonb":
        raise _LeftOut(f"PostgreSQL has none over {column.sql_type}")
    source = column.source
    if source.kind is ValueKind.TEXT:
        return source.length * _BYTES_A_CHARACTER
    if source.kind in (ValueKind.ENUM, ValueKind.SET):
        labels = [len(member.encode()) for member in source.members]
        return max(labels, default=0) if source.kind is ValueKind.ENUM else sum(labels) + len(labels)
    if source.kind in (ValueKind.BLOB, ValueKind.BINARY, ValueKind.GEOMETRY, ValueKind.JSON):
        return source.length or POSTGRES_INDEX_BYTES_MAX + 1
    return 0


def _prefix(part: IndexPart, column: TargetColumn) -> int | None:
    if part.prefix is None or column.masking is None:
        return part.prefix
    raise _LeftOut(f"it has only the beginning of {part.column}, which is masked")


# ---------------------------------------------------------------- unique


def _why_not_unique(index: SourceIndex, target: TargetTable, kind: SinkKind) -> str:
    """Why rows that are two at the source could be one to a unique index here; '' where they could not."""
    if not target.key:
        return "the target has no key"
    if target.mode != "mirror":
        return f"the target keeps rows that are gone (mode {target.mode})"
    if target.source_column is not None:
        return "other tables have rows there"
    columns = {column.source.name: column for column in target.columns if column.metadata is None}
    for part in index.parts:
        column = columns[part.column]
        if column.masking is not None:
            return f"{part.column} is masked"
        if kind == "postgresql":
            if column.source.kind in _DATES and target.policies.zero_dates == "infinity":
                return f"zero dates of {part.column} become one (zero_dates: infinity)"
        elif _is_coarser(column, target):
            return f"the collation of {part.column} is another here"
    return ""


_DATES = (ValueKind.DATE, ValueKind.DATETIME, ValueKind.TIMESTAMP)


def _is_coarser(column: TargetColumn, target: TargetTable) -> bool:
    """May the sink take two texts for one that the source tells apart? Not by the same collation, nor by the bytes."""
    _, _, collation = column.sql_type.partition(" COLLATE ")
    if not collation or collation.endswith("nopad_bin") or collation == "utf8mb4_0900_bin":
        return False
    source = target.definition.column(column.source.name).collation or ""
    return collation.replace("utf8mb3_", "utf8_") != source.replace("utf8mb3_", "utf8_")
