"""What the configuration makes of one table on its way to a sink: its place, its rows, its columns.

A plain value, made of the configuration once a table. `schema.mapping` turns it into the target's columns,
`pipeline.transform` into the values. What a table was loaded with is kept in the metadata (`description`): rows
loaded by other options must not stay.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cdc.model import ColumnDefinition, TableDefinition
from cdc.rowfilter import RowFilter
from cdc.schema.target import Attributes, Masking, MetadataKind, Mode, Policies, SourceColumn

__all__ = ["ColumnOption", "TableOptions", "kept_columns", "names_made"]


@dataclass(frozen=True, slots=True)
class ColumnOption:
    """What differs for one column: its name and type on the sink, and what becomes of its values.

    `zero_dates` and `nul_bytes` are its own policies, None for the table's.
    """

    column: str
    rename: str | None = None
    masking: Masking | None = None
    type: str | None = None
    zero_dates: Literal["null", "error", "infinity"] | None = None
    nul_bytes: Literal["replace", "strip", "error"] | None = None

    def policies(self, of_table: Policies) -> Policies:
        """Those of its table, with its own."""
        return Policies(self.zero_dates or of_table.zero_dates, self.nul_bytes or of_table.nul_bytes)


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Options of one table; the default changes nothing. `include` empty means every column.

    `metadata` are the columns of that kind that are added, with their names. `target_schema` (a database on the MySQL
    family) and `target_table` are the place on every sink, where set; `source_column` tells its rows from those of
    other tables there. `mode_columns` are those that its `mode` adds, with their names. `attributes`: what
    else the target gets of the source's definition. `types`: the type asked for each column of a type of the source's,
    by its text without blanks (`tinyint(1)`).
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    columns: tuple[ColumnOption, ...] = ()
    target_schema: str | None = None
    target_table: str | None = None
    row_filter: RowFilter | None = None
    metadata: tuple[tuple[MetadataKind, str], ...] = ()
    source_column: SourceColumn | None = None
    mode: Mode = "mirror"
    mode_columns: tuple[tuple[MetadataKind, str], ...] = ()
    attributes: Attributes = field(default_factory=Attributes)
    types: tuple[tuple[str, str], ...] = ()

    def of_column(self, name: str) -> ColumnOption:
        """What is said of that column of the source."""
        return next((option for option in self.columns if option.column == name), ColumnOption(name))

    def type_of(self, column: ColumnDefinition) -> str | None:
        """The type that is asked for that column; None where the mapping decides."""
        own = self.of_column(column.name).type
        if own is not None:
            return own
        text = column.column_type.lower()
        return next((asked for of, asked in self.types if of in (text, text.partition("(")[0].split(" ")[0])), None)

    def keeps(self, name: str) -> bool:
        """Does that column of the source go to the sink?"""
        return name not in self.exclude and (not self.include or name in self.include)

    @property
    def named_columns(self) -> tuple[str, ...]:
        """Every column of the source that these options name."""
        return tuple(dict.fromkeys((*self.include, *self.exclude, *(option.column for option in self.columns))))

    @property
    def description(self) -> dict[str, Any]:
        """As the metadata and the status have it: equal if and only if the rows come out equal. {} for the default.

        Without the place, which they have of their own, and the attributes, on which no row depends. Holds no secret:
        a salt is told apart by what it makes of a constant.
        """
        said: dict[str, Any] = {}
        if self.include:
            said["include"] = sorted(self.include)
        if self.exclude:
            said["exclude"] = sorted(self.exclude)
        rename = {option.column: option.rename for option in self.columns if option.rename is not None}
        mask = {option.column: _described(option.masking) for option in self.columns if option.masking is not None}
        types = {option.column: option.type for option in self.columns if option.type is not None}
        if types:
            said["types"] = dict(sorted(types.items()))
        if rename:
            said["rename"] = dict(sorted(rename.items()))
        if mask:
            said["mask"] = dict(sorted(mask.items()))
        if self.row_filter is not None:
            said["row_filter"] = self.row_filter.text
        if self.metadata:
            said["metadata"] = dict(self.metadata)
        if self.mode != "mirror":
            said["mode"] = self.mode
            said["mode_columns"] = dict(self.mode_columns)
        if self.source_column is not None:
            said["source_column"] = {"name": self.source_column.name, "value": self.source_column.value}
        return said


def _described(masking: Masking) -> str:
    match masking.form:
        case "text":
            return f"text {masking.text}"
        case "keep_first" | "keep_last":
            return f"{masking.form} {masking.keep}"
        case "hash":
            return f"hash {hmac.digest(masking.salt, b'cdc: which salt', 'sha256').hex()[:16]}"
        case _:
            return masking.form


def kept_columns(definition: TableDefinition, options: TableOptions) -> list[tuple[ColumnDefinition, str]]:
    """The columns that go to the sink, in source order, each with its name there."""
    return [
        (column, options.of_column(column.name).rename or column.name)
        for column in definition.columns
        if options.keeps(column.name)
    ]


def names_made(description: Mapping[str, Any]) -> set[str]:
    """The names of columns on the sink that only options have made, by what the metadata say of them."""
    made = {*description.get("rename", {}).values(), *description.get("metadata", {}).values()}
    made |= set(description.get("mode_columns", {}).values())
    return made | {description["source_column"]["name"]} if "source_column" in description else made
