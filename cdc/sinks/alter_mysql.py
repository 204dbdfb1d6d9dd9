"""ALTER TABLE on MySQL and MariaDB as pure text: what an `TargetAlteration` does to the target.

One statement does all that can be seen of it, so that the definition tells afterwards whether it was done. A second
one takes away defaults that are for the rows that were there; done twice, it changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from cdc.model import ValueKind
from cdc.schema.alteration import AddedColumn, TargetAlteration
from cdc.schema.column_text import Unproven
from cdc.schema.target import SinkKind, TargetColumn
from cdc.sinks.base import ExistingTable
from cdc.sinks.sql_mysql import can_hold, canonical_type, column_definition, qualified, quote, text_literal

__all__ = ["alter_statements", "drop_defaults"]

_WITHOUT_DEFAULT = ("tinytext", "text", "mediumtext", "longtext", "tinyblob", "blob", "mediumblob", "longblob", "json")
_IMPLICIT = {ValueKind.TEXT: "", ValueKind.BLOB: ""}


def alter_statements(
    alteration: TargetAlteration, existing: ExistingTable, kind: SinkKind, version: tuple[int, ...]
) -> list[str]:
    """At most one statement; none where it has been done already.

    `existing`: the target as it is; what somebody has made wider there stays so. `version` is the server's. Raises
    Unproven for a value that no default of this kind can give, and for a wider column that the server cannot rename.
    """
    there = {name.lower(): found for name, found in existing.columns.items()}
    renamed = {old.name for old, _ in alteration.renamed}
    parts = [f"DROP COLUMN {quote(column.name)}" for column in alteration.dropped if column.name.lower() in there]
    described = {old.name for old, _ in alteration.described}
    for old, new in alteration.renamed:
        if old.name.lower() in there:
            found = there[old.name.lower()]
            parts.append(_renamed(old, new, found, kind, version, is_described=old.name in described))
    for old, new in dict.fromkeys((*alteration.retyped, *alteration.described)):
        if old.name in renamed:
            continue
        is_same = old.name not in described and _is_there(old, new, there[new.name.lower()])
        if not is_same:
            parts.append(f"MODIFY COLUMN {_redefined(old, new, there[new.name.lower()], kind)}")
    if alteration.has_new_comment:
        parts.append(f"COMMENT = {text_literal(alteration.after.comment)}")
    for added in alteration.added:
        text = f"ADD COLUMN {_added(added, kind)}"
        if added.column.name.lower() not in there:
            parts.append(text)
    table = qualified(alteration.after.namespace, alteration.after.name)
    return [f"ALTER TABLE {table} {', '.join(parts)}"] if parts else []


def drop_defaults(alteration: TargetAlteration) -> list[str]:
    """At most one statement, for a table that has the new columns; those that are filled get theirs by it."""
    parts = [
        f"ALTER COLUMN {quote(added.column.name)} {'SET DEFAULT NULL' if added.column.is_nullable else 'DROP DEFAULT'}"
        for added in alteration.added
        if _has_default(added)
    ]
    parts += [
        f"ALTER COLUMN {quote(added.column.name)} SET DEFAULT {added.column.default}"
        for added in alteration.filled
        if added.column.default is not None
    ]
    table = qualified(alteration.after.namespace, alteration.after.name)
    return [f"ALTER TABLE {table} {', '.join(parts)}"] if parts else []


def _renamed(
    old: TargetColumn,
    new: TargetColumn,
    found: tuple[str, bool, bool],
    kind: SinkKind,
    version: tuple[int, ...],
    *,
    is_described: bool,
) -> str:
    if is_described or not _is_there(old, new, found):
        return f"CHANGE COLUMN {quote(old.name)} {_redefined(old, new, found, kind)}"
    if version >= ((10, 5, 2) if kind == "mariadb" else (8,)):
        return f"RENAME COLUMN {quote(old.name)} TO {quote(new.name)}"
    if found[0] != canonical_type(new.sql_type):
        raise Unproven(f"the target's column {old.name} is {found[0]}, and RENAME COLUMN is not known to its server")
    return f"CHANGE COLUMN {quote(old.name)} {_redefined(old, new, found, kind)}"


def _redefined(old: TargetColumn, new: TargetColumn, found: tuple[str, bool, bool], kind: SinkKind) -> str:
    """NULL stays where it was allowed, and a wider type where somebody has made it wider."""
    is_wider = _is_there(old, new, found) and found[0] != canonical_type(new.sql_type)
    sql_type = found[0] if is_wider else new.sql_type
    return column_definition(replace(new, sql_type=sql_type, is_nullable=new.is_nullable or found[1]), kind)


def _is_there(old: TargetColumn, new: TargetColumn, found: tuple[str, bool, bool]) -> bool:
    """Is the column as it becomes, or has somebody made it wider than that?"""
    has_type, is_nullable, _ = found
    if new.is_nullable and not is_nullable:
        return False
    wanted = canonical_type(new.sql_type)
    is_ours = has_type == canonical_type(old.sql_type)
    return has_type == wanted or (not is_ours and can_hold(has_type, wanted, is_key=new.is_key))


def _has_default(added: AddedColumn) -> bool:
    """Where the value is the column's own default, or the one that it gets without any, there is none beside."""
    if added.existing is None or added.column.default is not None or added.is_for_live:
        return False
    return added.column.is_nullable or added.existing != _IMPLICIT.get(added.column.source.kind)


def _added(added: AddedColumn, kind: SinkKind) -> str:
    column = replace(added.column, default=None) if added.is_for_live else added.column
    text = column_definition(column, kind)
    if _has_default(added):
        if column.sql_type.split(" ")[0] in _WITHOUT_DEFAULT:
            raise Unproven(f"a default of {column.name}, which {column.sql_type} cannot have everywhere")
        text += " DEFAULT '" + (added.existing or "").replace("'", "''") + "'"
    if added.after is None:
        return text
    return f"{text} AFTER {quote(added.after)}" if added.after else f"{text} FIRST"
