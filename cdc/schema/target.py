"""What a captured table looks like on one sink: names, types, nullability, policies.

A plain value made by `schema.mapping`, used by the sinks' SQL text functions and encoders. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from cdc.model import ColumnDefinition, TableDefinition
from cdc.rowfilter import RowFilter

__all__ = [
    "Attributes",
    "DefaultsKept",
    "IndexesMade",
    "Masking",
    "MetadataKind",
    "Mode",
    "Policies",
    "SinkKind",
    "SourceColumn",
    "TargetColumn",
    "TargetTable",
]

SinkKind = Literal["postgresql", "mysql", "mariadb"]


@dataclass(frozen=True, slots=True)
class Policies:
    """What happens to values that a sink cannot hold. No policy ever changes a key column: there it is an error."""

    zero_dates: Literal["null", "error", "infinity"] = "null"
    nul_bytes: Literal["replace", "strip", "error"] = "replace"


# Which defaults of the source's columns those of a target get; which of its indexes.
DefaultsKept = Literal["none", "constant", "all"]
IndexesMade = Literal["none", "unique", "all"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a target gets of the source's definition beside columns, types and key. Nothing of it is about the rows."""

    defaults: DefaultsKept = "constant"
    comments: bool = True
    identity: bool = False
    indexes: IndexesMade = "none"


@dataclass(frozen=True, slots=True)
class Masking:
    """What becomes of a column's values before they reach the sink. NULL stays NULL.

    null         NULL, every one
    text         `text`
    keep_first   the first `keep` characters, `*` for each of the others; all of them where there are no more
    keep_last    likewise the last ones
    hash         HMAC-SHA-256 of the value with `salt`, as 64 hexadecimal digits
    """

    form: Literal["null", "text", "keep_first", "keep_last", "hash"]
    text: str = ""
    keep: int = 0
    salt: bytes = field(default=b"", repr=False)


# What a metadata column holds: the load or transaction of ours that wrote the row, a digest of its key, and of the
# source's transaction that last changed it the time, what it did to the row, and its position.
MetadataKind = Literal[
    "load_id",
    "row_id",
    "commit_time",
    "operation",
    "position",
    # Those that the modes of a table need (`Mode`).
    "is_deleted",
    "deleted_at",
    "sequence",
    "change_operation",
    "change_time",
    "change_position",
    "valid_from",
    "valid_to",
]

# What a target holds of the source's rows.
#     mirror       those that are there
#     soft_delete  those too that are gone, marked
#     append_only  every change, as a row of its own
#     history      every version, with the time from which and to which it was there
Mode = Literal["mirror", "soft_delete", "append_only", "history"]


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """The column of a target that several tables share which says whose a row is, and what it says of this table's.

    It is the first of the target's key. `length` is how many characters it holds, for every table of the route.
    """

    name: str
    value: str
    length: int


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """One column of the sink table and the source column that feeds it.

    `default`, `comment` and `is_identity` are for whoever else writes there: our rows have every column's value.

    `source` describes the values as the sink gets them: where `masking` is set, those that it makes. Its name is that
    of the column at the source, `name` is the one on the sink.
    """

    source: ColumnDefinition
    name: str
    sql_type: str
    is_nullable: bool
    is_key: bool = False
    masking: Masking | None = None
    metadata: MetadataKind | None = None  # then no column of the source feeds it
    default: str | None = None  # as the sink's DDL has it
    comment: str = ""
    is_identity: bool = False
    policies: Policies | None = None  # its own, where they are not the table's
    characters_max: int | None = None  # of a `varchar(N)` that was asked for: no server cuts spaces but in silence


@dataclass(frozen=True, slots=True)
class TargetTable:
    """The sink table of one captured table. `namespace` is the schema (PostgreSQL) or database (MySQL family).

    `key` has the names that the key's columns have on the sink; () where all columns together tell a row.
    `row_filter`, bound to the definition, says which rows of the source are here. Where `source_column` is set, other
    tables have rows in it, too: those of this one are the rows with its value.

    Of the modes that keep rows, `row_key` has the names on the sink of the columns that tell the source's rows apart,
    where the target's key is another; `live_column` is NULL in the rows that the source has.
    """

    namespace: str
    name: str
    columns: tuple[TargetColumn, ...]
    key: tuple[str, ...]
    definition: TableDefinition
    policies: Policies = Policies()
    row_filter: RowFilter | None = None
    source_column: SourceColumn | None = None
    mode: Mode = "mirror"
    row_key: tuple[str, ...] = ()
    live_column: str | None = None
    comment: str = ""
    attributes: Attributes = Attributes()

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"

    @property
    def is_numbered(self) -> bool:
        """Is every row a change or a version, with a number of its own?"""
        return self.mode in ("append_only", "history")

    def column_of(self, kind: MetadataKind) -> TargetColumn:
        """The metadata column of that kind; KeyError when there is none."""
        for column in self.columns:
            if column.metadata == kind:
                return column
        raise KeyError(f"{self} has no column {kind}")

    @property
    def has_metadata(self) -> bool:
        """Are there columns that do not come from the source?"""
        return any(column.metadata is not None for column in self.columns)

    def without_metadata(self) -> TargetTable:
        """The columns that come from the source: what can be compared with it."""
        columns = tuple(column for column in self.columns if column.metadata is None)
        if self.is_numbered:
            return replace(self, columns=columns, key=self.row_key)
        return replace(self, columns=columns)

    @property
    def source_key(self) -> tuple[str, ...]:
        """The key's columns as the source calls them, without the source column."""
        sources = {column.name: column.source.name for column in self.columns}
        if self.is_numbered:
            return tuple(sources[name] for name in self.row_key)
        return tuple(sources[name] for name in (self.key if self.source_column is None else self.key[1:]))
