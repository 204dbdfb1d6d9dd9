"""ALTER TABLE on PostgreSQL as pure text: what an `TargetAlteration` does to the target, inside a transaction."""

from __future__ import annotations

from collections.abc import Iterator

from cdc.schema.alteration import AddedColumn, TargetAlteration
from cdc.schema.target import TargetColumn
from cdc.sinks.base import ExistingTable
from cdc.sinks.sql_postgres import can_hold, canonical_type, comment_on_column, comment_on_table, qualified, quote

__all__ = ["alter_statements"]


def alter_statements(alteration: TargetAlteration, existing: ExistingTable) -> list[str]:
    """The statements, in order. `existing`: the target as it is; what somebody has made wider there stays so."""
    table = f"ALTER TABLE {qualified(alteration.after.namespace, alteration.after.name)}"
    renames = [f"{table} RENAME COLUMN {quote(old.name)} TO {quote(new.name)}" for old, new in alteration.renamed]
    parts = [f"DROP COLUMN {quote(column.name)}" for column in alteration.dropped]
    for old, new in alteration.retyped:
        parts += _retype(old, new, existing)
    parts += [f"ADD COLUMN {_added(added)}" for added in alteration.added]
    # The first default is for the rows that are there.
    defaults = [_default(a.column) for a in alteration.added if a.existing is not None or a.column.default is not None]
    defaults += [_default(new) for old, new in alteration.described if old.default != new.default]
    return [
        *renames,
        *(f"{table} {', '.join(some)}" for some in (parts, defaults) if some),
        *_comments(alteration),
    ]


def _default(column: TargetColumn) -> str:
    name = quote(column.name)
    if column.default is None:
        return f"ALTER COLUMN {name} DROP DEFAULT"
    return f"ALTER COLUMN {name} SET DEFAULT {column.default}"


def _comments(alteration: TargetAlteration) -> Iterator[str]:
    after = alteration.after
    if alteration.has_new_comment:
        yield comment_on_table(after)
    for added in alteration.added:
        if added.column.comment:
            yield comment_on_column(after, added.column)
    for old, new in alteration.described:
        if old.comment != new.comment:
            yield comment_on_column(after, new)


def _retype(old: TargetColumn, new: TargetColumn, existing: ExistingTable) -> Iterator[str]:
    """As `old` is called `new` by then."""
    has_type, is_nullable, _ = existing.columns[old.name]
    if not can_hold(canonical_type(has_type), canonical_type(new.sql_type)):
        yield f"ALTER COLUMN {quote(new.name)} TYPE {new.sql_type}"
    if new.is_nullable and not is_nullable:
        yield f"ALTER COLUMN {quote(new.name)} DROP NOT NULL"


def _added(added: AddedColumn) -> str:
    column = added.column
    text = f"{quote(column.name)} {column.sql_type}{'' if column.is_nullable else ' NOT NULL'}"
    if added.existing is None or added.is_for_live:
        return text
    return text + " DEFAULT '" + added.existing.replace("'", "''") + "'"
