"""What has to be done to a target so that it is the one of the table's new definition, rows and all.

Made of the two targets and the effect of the statement; the sinks make SQL of it (`alter_postgres`, `alter_mysql`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cdc.schema.column_text import Unproven
from cdc.schema.ddl import Effect
from cdc.schema.options import TableOptions
from cdc.schema.target import TargetColumn, TargetTable

__all__ = ["AddedColumn", "TargetAlteration", "alteration", "require_live_rows", "require_mirror"]


@dataclass(frozen=True, slots=True)
class AddedColumn:
    """A new column, and the text of what the rows that are there hold in it (None: NULL).

    `after` is the name of the column before it in the target; '' where it is the first, None where it is the last.
    `is_for_live`: only the rows that the source has hold it; those that the target keeps besides hold NULL.
    """

    column: TargetColumn
    existing: str | None
    after: str | None
    is_for_live: bool = False


@dataclass(frozen=True, slots=True)
class TargetAlteration:
    """The difference between two targets of one place; names are those on the sink.

    `renamed` and `retyped` have the column as it was and as it becomes; one that is renamed may be retyped as well.
    `described`: columns that get another default or comment, likewise; they may be in any part but the other two.
    No name is in two of the parts, but that of a column which is both. The order does not matter.
    """

    before: TargetTable
    after: TargetTable
    added: tuple[AddedColumn, ...] = ()
    dropped: tuple[TargetColumn, ...] = ()
    renamed: tuple[tuple[TargetColumn, TargetColumn], ...] = ()
    retyped: tuple[tuple[TargetColumn, TargetColumn], ...] = ()
    described: tuple[tuple[TargetColumn, TargetColumn], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Is there nothing to be done on the sink?"""
        is_alike = not (self.added or self.dropped or self.renamed or self.retyped or self.described)
        return is_alike and not self.has_new_comment

    @property
    def has_new_comment(self) -> bool:
        """Does the table's own comment change?"""
        return self.before.comment != self.after.comment

    @property
    def goes(self) -> frozenset[str]:
        """Names that are there before, and not afterwards."""
        return frozenset((*(c.name for c in self.dropped), *(old.name for old, _ in self.renamed)))

    @property
    def comes(self) -> frozenset[str]:
        """Names that are there afterwards, and not before."""
        return frozenset((*(a.column.name for a in self.added), *(new.name for _, new in self.renamed)))

    @property
    def filled(self) -> tuple[AddedColumn, ...]:
        """New columns whose values no DEFAULT can give, because not all rows of the target hold them."""
        return tuple(added for added in self.added if added.is_for_live and added.existing is not None)


def alteration(before: TargetTable, after: TargetTable, effect: Effect, options: TableOptions) -> TargetAlteration:
    """Raises Unproven where it is more than columns whose values are known."""
    _require_plain(before, after, effect, options)
    old_columns = {column.source.name: column for column in before.columns if column.metadata is None}
    names_before = {new: old for old, new in effect.renamed.items()}
    added, renamed, retyped, described = [], [], [], []
    for index, column in enumerate(after.columns):
        if column.metadata is not None:
            continue
        name = column.source.name
        if name in effect.added:
            is_for_live = after.live_column is not None
            added.append(AddedColumn(column, effect.added[name], _after(after, index), is_for_live))
            continue
        old = old_columns[names_before.get(name, name)]
        if old.name != column.name:
            renamed.append((old, column))
        if old.is_nullable != column.is_nullable or old.sql_type != column.sql_type:
            _require_wider(old, column)
            retyped.append((old, column))
        if (old.default, old.comment) != (column.default, column.comment):
            described.append((old, column))
    dropped = [old_columns[name] for name in effect.dropped if name in old_columns]
    made = TargetAlteration(
        before, after, tuple(added), tuple(dropped), tuple(renamed), tuple(retyped), tuple(described)
    )
    _require_clear_names(made)
    return made


def _after(target: TargetTable, index: int) -> str | None:
    if index == len(target.columns) - 1:
        return None
    return target.columns[index - 1].name if index else ""


def _require_plain(before: TargetTable, after: TargetTable, effect: Effect, options: TableOptions) -> None:
    """The key stays, and nothing that changes is what an option is about."""
    renamed = effect.renamed
    if tuple(renamed.get(name, name) for name in before.source_key) != after.source_key:
        raise Unproven(f"the key was ({', '.join(before.source_key)}) and is ({', '.join(after.source_key)})")
    if before.mode == "append_only" and any(value is not None for value in effect.added.values()):
        raise Unproven("the rows of an append-only target are changes, and this one of every row is in none of them")
    changed = {*effect.dropped, *effect.renamed, *effect.renamed.values(), *_modified(effect, before)}
    watched = set(options.named_columns)
    if options.row_filter is not None:
        watched |= set(options.row_filter.columns)
    if watched & (changed | effect.added.keys()):
        named = ", ".join(sorted(watched & (changed | effect.added.keys())))
        raise Unproven(f"the configuration names {named}")
    if changed & set(before.source_key) and any(column.metadata == "row_id" for column in before.columns):
        raise Unproven("the digest of a key that changes")


def require_mirror(options: TableOptions) -> None:
    """The target holds the table's rows as they are, and no others. Raises Unproven."""
    if options.description.keys() & {"mode", "source_column"}:
        raise Unproven("the target is not one table's alone, or keeps rows that are gone")


def require_live_rows(options: TableOptions) -> None:
    """What the table has in its target are the rows that the source has, and no others. Raises Unproven."""
    if "mode" in options.description:
        raise Unproven("the target keeps rows that are gone")


def _modified(effect: Effect, before: TargetTable) -> Iterator[str]:
    """The columns of before that hold the same values, and are declared otherwise."""
    names_before = {new: old for old, new in effect.renamed.items()}
    old_columns = {column.name: column for column in before.definition.columns}
    for column in effect.definition.columns:
        old = old_columns.get(names_before.get(column.name, column.name))
        if old is None or column.name in effect.added:
            continue
        if replace(column, name=old.name, default=old.default, comment=old.comment) != old:
            yield old.name


def _require_wider(old: TargetColumn, new: TargetColumn) -> None:
    if old.is_nullable and not new.is_nullable:
        raise Unproven(f"column {new.name} of the target may hold NULL")
    if old.is_key and old.source.collation != new.source.collation:
        raise Unproven(f"the collation of the key's column {new.name}")


def _require_clear_names(made: TargetAlteration) -> None:
    """Each name says by itself whether the change has been made: none comes and goes in one statement."""
    come = [name.lower() for name in made.comes]
    go = {name.lower() for name in made.goes}
    if go & set(come) or len(set(come)) < len(come):
        raise Unproven("a name that one column leaves and another takes")
