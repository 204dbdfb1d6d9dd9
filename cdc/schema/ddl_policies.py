"""What the configuration lets DDL do to a target. A plain value, one a table; and what it keeps a load from doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from cdc.model import ColumnDefinition, TableDefinition
from cdc.schema.ddl import holds_same_values

__all__ = ["DdlPolicies", "differences_of", "withheld"]


@dataclass(frozen=True, slots=True)
class DdlPolicies:
    """What becomes of statements on one table (docs/ddl.md). The defaults make the target what the table is.

    ddl             apply: done on the sink, or the table is loaded again; log: never done on the sink; approve: the
                    table is parked at the statement until the operator says which of the two
    on_drop_column  drop: the target's too; keep: it stays, and is NULL in rows to come
    on_drop_table   keep: the target stays as it is; drop: it goes; archive: it gets another name
    on_truncate     apply: the target is emptied; ignore: it keeps its rows; park
    on_type_change  apply; widen: only where every value stays the same, else the table is parked; park: always
    """

    ddl: Literal["apply", "log", "approve"] = "apply"
    on_drop_column: Literal["drop", "keep"] = "drop"
    on_drop_table: Literal["drop", "keep", "archive"] = "keep"
    on_truncate: Literal["apply", "ignore", "park"] = "apply"
    on_type_change: Literal["apply", "widen", "park"] = "apply"


def withheld(
    policies: DdlPolicies,
    before: TableDefinition,
    after: TableDefinition,
    *,
    keeps: Callable[[str], bool] = lambda _column: True,
) -> tuple[str, list[str]]:
    """The policy by which a target made by `before` is not made one of `after` unasked, and what differs, a sentence
    each; ('', []) where there is none.

    For where no statement says what has changed (loads, a table in another's place), so columns are one by their names.
    `keeps`: does that column of the source go to the sink?
    """
    if policies.ddl == "approve":
        differences = differences_of(before, after, keeps=keeps)
        return ("ddl: approve", differences) if differences else ("", [])
    if policies.on_type_change == "apply":
        return "", []
    differences = list(_altered(before, after, keeps, policies.on_type_change))
    return (f"on_type_change: {policies.on_type_change}", differences) if differences else ("", [])


def differences_of(
    before: TableDefinition, after: TableDefinition, *, keeps: Callable[[str], bool] = lambda _column: True
) -> list[str]:
    """All that any policy may ask about, a sentence each: what the operator is shown, and says yes to."""
    return [*_come_and_gone(before, after, keeps), *_altered(before, after, keeps, "approve")]


def _come_and_gone(before: TableDefinition, after: TableDefinition, keeps: Callable[[str], bool]) -> Iterator[str]:
    had, has = ({column.name for column in one.columns if keeps(column.name)} for one in (before, after))
    yield from (f"column {name} is gone" for name in sorted(had - has))
    yield from (f"column {name} is new" for name in sorted(has - had))
    if before.primary_key != after.primary_key:
        keys = (", ".join(key) or "missing" for key in (before.primary_key, after.primary_key))
        yield "the primary key was {}, and is {}".format(*keys)


def _altered(
    before: TableDefinition, after: TableDefinition, keeps: Callable[[str], bool], policy: str
) -> Iterator[str]:
    old_columns = {column.name: column for column in before.columns}
    for column in after.columns:
        old = old_columns.get(column.name)
        if old is None or not keeps(column.name):
            continue
        if _type(old) != _type(column):
            if policy != "widen" or not holds_same_values(old, column):
                yield f"column {column.name} was {_shown(old)}, and is {_shown(column)}"
        elif policy == "approve" and old.is_nullable != column.is_nullable:
            yield f"column {column.name} {'may' if column.is_nullable else 'may not'} be NULL now"


def _type(column: ColumnDefinition) -> tuple[str | None, ...]:
    return column.column_type, column.charset, column.collation


def _shown(column: ColumnDefinition) -> str:
    return f"{column.column_type} {column.collation}" if column.collation else column.column_type
