"""What the mode of a table makes of its target: which key it has, and which of its rows are the source's (`Mode`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cdc.errors import UnsupportedData
from cdc.schema.target import MetadataKind, Mode, TargetTable

__all__ = ["MODE_COLUMNS", "keeps_rows", "with_mode"]

# The columns that each mode adds.
MODE_COLUMNS: dict[Mode, tuple[MetadataKind, ...]] = {
    "mirror": (),
    "soft_delete": ("is_deleted", "deleted_at"),
    "append_only": ("sequence", "change_operation", "change_time", "change_position"),
    "history": ("valid_from", "valid_to", "sequence"),
}


def keeps_rows(description: Mapping[str, Any]) -> bool:
    """Does a target with such options (`TableOptions.description`) hold rows that the source does not have any more?"""
    return bool(description.get("mode", "mirror") != "mirror")


def with_mode(target: TargetTable, mode: Mode) -> TargetTable:
    """`target`, whose columns include those of the mode, with the key and the rows that the mode gives it.

    Every column of the source but the key's may be NULL: rows that are kept have no value for one that comes later. In
    an append-only target nearly all may: a row that says that a load follows has no values.

    Raises UnsupportedData for a target that several tables share, and for a table without the key that the mode needs.
    """
    if mode == "mirror":
        return target
    table = str(target.definition.name)
    if target.source_column is not None:
        raise UnsupportedData(
            f"{table} has the mode {mode}, and goes to {target}, which other tables share",
            table=table,
            hint="route it to a target of its own, or leave it mode: mirror",
        )
    if not target.key and mode != "append_only":
        raise UnsupportedData(
            f"{table} has the mode {mode}, and no key by which a row that is gone could be told from others",
            table=table,
            hint=f"ALTER TABLE {table} ADD PRIMARY KEY (…), or name a key under tables.overrides (primary_key: […])",
        )
    columns = tuple(
        replace(column, is_nullable=True) if column.metadata is None and not column.is_key else column
        for column in target.columns
    )
    target = replace(target, columns=columns, mode=mode)
    if mode == "soft_delete":
        return replace(target, live_column=target.column_of("deleted_at").name)
    number = target.column_of("sequence").name
    is_append = mode == "append_only"
    columns = tuple(
        replace(
            column,
            is_key=column.name == number or (column.is_key and not is_append),
            is_nullable=column.is_nullable or (is_append and column.metadata not in ("sequence", "change_operation")),
        )
        for column in columns
    )
    return replace(
        target,
        columns=columns,
        key=(number,) if is_append else (*target.key, number),
        row_key=target.key,
        live_column=None if is_append else target.column_of("valid_to").name,
    )
