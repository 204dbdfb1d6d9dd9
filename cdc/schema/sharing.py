"""Several source tables in one target: whether they may share it, and how a target is made to hold one more of them.

The target has the columns of all of them: a row holds NULL in those that its own table does not have. What differs
otherwise is mended where no value changes by it (a wider type, a column that may be NULL), and told column by column
where that cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.mapping import METADATA_COLUMNS
from cdc.schema.target import SourceColumn, TargetColumn, TargetTable

__all__ = ["Alteration", "Reshaping", "columns_on_sink", "conflict", "misfits", "reshaping"]

# Does a column of the first type hold every value of the second unchanged? Both as the sink writes types; whether it
# is part of the key counts as well.
Holds = Callable[[str, str, bool], bool]


@dataclass(frozen=True, slots=True)
class Alteration:
    """One column of a target to be altered.

    add      it is not there yet; it is nullable, because rows of other tables have no value for it
    change   it gets the type (`has_new_type`) or the nullability of `column`, by which no value changes
    drop     no table has it any more
    """

    action: Literal["add", "change", "drop"]
    column: TargetColumn
    has_new_type: bool = False


@dataclass(frozen=True, slots=True)
class Reshaping:
    """How a target is made to hold one more table; `misfits` says, a sentence each, why it cannot be."""

    alterations: tuple[Alteration, ...] = ()
    misfits: tuple[str, ...] = ()


def conflict(
    column: SourceColumn | None, first: tuple[TableName, SourceColumn | None], taken: Mapping[str, TableName]
) -> str | None:
    """Why a table may not share the target of `first`; None where it may. `taken`: by value, who has it already."""
    name, other = first
    if column is None or other is None:
        return f"goes to the same target as {name}"
    if column.name != other.name:
        return f"goes to the same target as {name}, whose source column is {other.name}, and not {column.name}"
    if column.value in taken:
        return (
            f"goes to the same target as {taken[column.value]}, with the same value {column.value!r} of {column.name}"
        )
    return None


def columns_on_sink(definition: TableDefinition, description: Mapping[str, Any]) -> dict[str, ColumnDefinition]:
    """By their names on the sink, the columns of a table with such options (`TableOptions.description`).

    Masked ones are texts there, as far as that counts here.
    """
    include, exclude = description.get("include", ()), description.get("exclude", ())
    rename, mask = description.get("rename", {}), description.get("mask", {})
    found = {}
    for column in definition.columns:
        if column.name in exclude or (include and column.name not in include):
            continue
        is_text = mask.get(column.name, "null") != "null"
        found[rename.get(column.name, column.name)] = replace(column, kind=ValueKind.TEXT) if is_text else column
    return found | {name: METADATA_COLUMNS[of] for of, name in description.get("metadata", {}).items()}


def reshaping(
    target: TargetTable,
    columns: Mapping[str, tuple[str, bool, bool]],
    primary_key: Sequence[str],
    *,
    others: Mapping[str, ColumnDefinition],
    former: Iterable[str],
    holds: Holds,
    fold: Callable[[str], str],
) -> Reshaping:
    """How the table that is there becomes one that holds `target`'s rows as well.

    Args:
        columns: those that are there (`ExistingTable.columns`).
        others: the columns that other tables have there, by name.
        former: names that this table had there when it was loaded last.
        fold: names that are equal when folded are one to the sink.
    """
    there = {fold(name): (name, *described) for name, described in columns.items()}
    wanted = {fold(column.name) for column in target.columns}
    needed = {fold(name): column for name, column in others.items()}
    found: list[Alteration] = []
    problems: list[str] = []
    for column in target.columns:
        alteration, problem = _of_column(column, there.get(fold(column.name)), holds)
        found += [alteration] if alteration is not None else []
        problems += [problem] if problem is not None else []
    ours = {fold(name) for name in former}
    for folded, (name, has, is_nullable, is_generated) in there.items():
        if folded in wanted or is_generated:
            continue
        if folded in needed and not is_nullable:
            column = TargetColumn(replace(needed[folded], name=name), name, has, is_nullable=True)
            found.append(Alteration("change", column))
        elif folded in ours and folded not in needed:
            column = TargetColumn(ColumnDefinition(name, ValueKind.TEXT, has), name, has, is_nullable=True)
            found.append(Alteration("drop", column))
    if [fold(name) for name in primary_key] != [fold(name) for name in target.key]:
        problems.append(f"the primary key is {', '.join(primary_key) or 'missing'}; wanted is {', '.join(target.key)}")
    return Reshaping(tuple(found), tuple(problems))


def _of_column(
    column: TargetColumn, there: tuple[str, str, bool, bool] | None, holds: Holds
) -> tuple[Alteration | None, str | None]:
    """What is to be done for a column that is wanted, or why nothing can be."""
    if there is None:
        if column.is_key:
            return None, f"it has no column {column.name}, which is in the key"
        return Alteration("add", replace(column, is_nullable=True, default=None)), None
    name, has, is_nullable, is_generated = there
    if is_generated:
        return None, f"column {name} is generated on the sink"
    wants_null = column.is_nullable and not is_nullable
    if holds(has, column.sql_type, column.is_key):
        kept = replace(column, name=name, sql_type=has, is_nullable=True)
        return (Alteration("change", kept) if wants_null else None), None
    if holds(column.sql_type, has, column.is_key):
        wider = replace(column, name=name, is_nullable=not column.is_key and (column.is_nullable or is_nullable))
        return Alteration("change", wider, has_new_type=True), None
    return None, f"column {name} is {has}; wanted is {column.sql_type}"


def misfits(target: TargetTable, other: TargetTable, *, holds: Holds, fold: Callable[[str], str]) -> list[str]:
    """Why two tables cannot share a target, one sentence a column; [] where one can be made that holds both."""
    columns = {fold(column.name): column for column in other.columns}
    found = []
    for column in target.columns:
        same = columns.get(fold(column.name))
        if same is None or holds(same.sql_type, column.sql_type, column.is_key):
            continue
        if not holds(column.sql_type, same.sql_type, column.is_key):
            found.append(f"column {column.name} is {column.sql_type}, and {same.sql_type} there")
    if [fold(name) for name in target.key] != [fold(name) for name in other.key]:
        found.append(f"the key is {', '.join(target.key)}, and {', '.join(other.key)} there")
    return found
