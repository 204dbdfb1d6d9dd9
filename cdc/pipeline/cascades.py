"""What foreign keys did at the source in no event, done again on the sink: at its place, in the same transaction.

`provable` says of which foreign keys it is known that a sink's rows come out as the source's do; a table with one that
is not is parked, or followed without (`policies.hidden_cascades`). `stages` puts a run's images and its cascades in
order, `CascadeStep` applies these (docs/decisions/0035-hidden-cascades.md):

    parent's row         ON DELETE, ON UPDATE     rows of the child that refer to it
    deleted              CASCADE                  are deleted, and what refers to them is treated likewise
    deleted, other key   SET NULL                 have NULL there
    other key            CASCADE                  have the new key there, and what refers to that is treated likewise
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import UnsupportedData
from cdc.model import Cascade, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks.base import SinkTransaction
from cdc.sinks.cascades import delete_children, select_children, update_children
from cdc.source.cascades import CascadeGraph, ForeignKey

__all__ = ["CascadeStep", "Provable", "cascade_refusal", "provable", "stages"]

# Kinds whose values are equal on a sink where they are equal at the source, to the bit.
_EXACT_KINDS = frozenset({ValueKind.INTEGER, ValueKind.BINARY, ValueKind.BLOB})
# Keys a statement: a few kilobytes of text.
_KEYS_MAX = 500
_ELSEWHERE = "is not followed by the same stream"
_IN_TWO_LANES = (
    "where parent and child are in two lanes: stop and start the service, which deals them to one, or name both in one "
    "list of `lanes`, and then that command; "
)


# ---------------------------------------------------------------- which can be applied


@dataclass(frozen=True, slots=True)
class Provable:
    """The foreign keys that can be applied, and of the other tables that have some why theirs cannot.

    Attributes:
        graph: those that can be applied.
        refused: the tables whose keys were to be applied and cannot be, each with why.
        keys: all that act in silence on tables that are captured.
        asked: those of them whose tables have `hidden_cascades: apply`, whether they can be or not.
    """

    graph: CascadeGraph = field(default_factory=CascadeGraph)
    refused: Mapping[TableName, str] = field(default_factory=dict)
    keys: tuple[ForeignKey, ...] = ()
    asked: tuple[ForeignKey, ...] = ()

    def reason(self, table: TableName) -> str | None:
        """Why the table cannot follow; None where it can, or nothing acts on it."""
        return self.refused.get(table)


def provable(
    keys: Sequence[ForeignKey],
    *,
    target: Callable[[TableName], TargetTable | None],
    definition: Callable[[TableName], TableDefinition | None],
    is_alone: Callable[[TableName], bool],
    is_asked: Callable[[TableName], bool],
) -> Provable:
    """Which of the foreign keys can be applied on a sink.

    Args:
        keys: all that act in silence on tables that are captured.
        target: of a table that the same stream brings to the sink; None for any other.
        definition: likewise, the table as it is at the source.
        is_alone: has its target no rows of another table?
        is_asked: is `hidden_cascades` of the table `apply`?
    """
    asked = [_spelled(key, definition(key.table), definition(key.parent_table)) for key in keys if is_asked(key.table)]
    refused: dict[TableName, str] = {}
    for key in asked:
        reason = _refusal(key, target, definition, is_alone)
        if reason is not None:
            refused.setdefault(key.table, f"{key.name} to {key.parent}: {reason}")
    unsure = {key.table for key in keys if not is_asked(key.table)}
    while True:
        graph = CascadeGraph(key for key in asked if key.table not in refused)
        more = dict(_refused_between(graph, target, unsure | refused.keys()))
        if not more:
            return Provable(graph, refused, tuple(keys), tuple(asked))
        refused |= more


def cascade_refusal(table: TableName, keys: Sequence[ForeignKey], reason: str) -> UnsupportedData:
    """Why a table is parked."""
    rules = "; ".join(f"{key.name} to {key.parent}{key.rules}" for key in keys if key.table == table)
    return UnsupportedData(
        f"{table} has foreign keys whose rules change its rows without any event in this server's binlog: {rules}; "
        f"they cannot be applied on the sink: {reason}",
        table=str(table),
        hint=f"where it was so for a time (a parent was parked, a column was renamed): `cdc snapshot {table}`; "
        f"{_IN_TWO_LANES if _ELSEWHERE in reason else ''}else replace them by RESTRICT and change the rows in the "
        "application; or exclude the table; or set policies.hidden_cascades: accept and compare with `cdc verify`; "
        "then that command",
    )


def _spelled(key: ForeignKey, child: TableDefinition | None, parent: TableDefinition | None) -> ForeignKey:
    """With the columns' names as the definitions have them: foreign keys heed no case."""

    def names(columns: Sequence[str], definition: TableDefinition | None) -> tuple[str, ...]:
        known = {column.name.lower(): column.name for column in definition.columns} if definition is not None else {}
        return tuple(known.get(name.lower(), name) for name in columns)

    return replace(key, columns=names(key.columns, child), referenced=names(key.referenced, parent))


def _refusal(
    key: ForeignKey,
    target: Callable[[TableName], TargetTable | None],
    definition: Callable[[TableName], TableDefinition | None],
    is_alone: Callable[[TableName], bool],
) -> str | None:
    child, there = target(key.table), definition(key.table)
    parent = definition(key.parent_table)
    if child is None or there is None:
        return "it cannot be mapped"
    if parent is None:
        return f"{key.parent} {_ELSEWHERE} (not captured, polled, parked, or in another lane)"
    if "SET DEFAULT" in (key.on_delete, key.on_update):
        return "SET DEFAULT is not known to be carried out"
    if not key.columns or len(key.columns) != len(key.referenced):
        return "its columns are not known"
    if child.mode != "mirror":
        return f"the table has mode: {child.mode}"
    if child.row_filter is not None:
        return "the table has a row_filter"
    if child.source_column is not None or not is_alone(key.table):
        return "other tables have the same target"
    if not child.key:
        return "the table has no key"
    for name in key.columns:
        problem = _column_problem(child, name)
        if problem is not None:
            return problem
    for name, other in zip(key.columns, key.referenced, strict=True):
        if not _is_like(_column(there, name), _column(parent, other)):
            return f"{name} and {other} of {key.parent} differ in type"
    if key.changes_rows and any(column.is_generated for column in there.columns):
        return "the table has generated columns, which may change with the key"
    if key.changes_rows and child.has_metadata:
        return "the table has metadata columns, which say what changed a row last"
    return None


def _refused_between(
    graph: CascadeGraph, target: Callable[[TableName], TargetTable | None], unsure: Collection[TableName]
) -> Iterator[tuple[TableName, str]]:
    """Tables that hang on one whose own rows are not certain, or whose key the sink does not have as it is."""
    changed = {key.table for key in graph.keys}
    for key in graph.keys:
        if key.parent_table in unsure:
            yield key.table, f"{key.name}: rows of {key.parent} change in silence, too, and that is not applied"
        elif key.parent_table in changed:
            parent = target(key.parent_table)
            problems = [_column_problem(parent, name) for name in key.referenced] if parent is not None else ["gone"]
            problem = next((problem for problem in problems if problem is not None), None)
            if problem is not None:
                yield key.table, f"{key.name} to {key.parent}: {problem}"
    yield from _reached_twice(graph)


def _reached_twice(graph: CascadeGraph) -> Iterator[tuple[TableName, str]]:
    """Tables that a row of one parent reaches in two ways, where it matters which of them comes first.

    The servers follow one way to its end before they take the next (in the order of the names of the foreign keys: seen
    on MariaDB 11.8 and MySQL 9.7), the sink takes a step on all of them. Rows that only go are gone either way, and
    columns that have nothing in common, and to which nothing refers, are set either way.
    """
    for root in sorted({key.parent_table for key in graph.keys}):
        ways: dict[TableName, list[ForeignKey]] = {}
        waiting, seen = [root], {root}
        while waiting:
            for key in graph.of(waiting.pop()):
                ways.setdefault(key.table, []).append(key)
                if key.table not in seen:
                    seen.add(key.table)
                    waiting.append(key.table)
        for table, keys in ways.items():
            if not _is_any_order(keys, {name for key in graph.of(table) for name in key.referenced}):
                names = " and ".join(sorted(key.name for key in keys))
                yield table, f"a row of {root} reaches its rows by {names}, and what comes first decides"


def _is_any_order(keys: Sequence[ForeignKey], referenced: Collection[str]) -> bool:
    if len(keys) == 1 or not any(key.changes_rows for key in keys):
        return True
    columns = Counter(name for key in keys for name in key.columns)
    return max(columns.values()) == 1 and columns.keys().isdisjoint(referenced)


def _column(definition: TableDefinition, name: str) -> ColumnDefinition | None:
    return next((column for column in definition.columns if column.name == name), None)


def _is_like(one: ColumnDefinition | None, other: ColumnDefinition | None) -> bool:
    if one is None or other is None:
        return False
    return (one.kind, one.length, one.is_unsigned) == (other.kind, other.length, other.is_unsigned)


def _column_problem(target: TargetTable, name: str) -> str | None:
    """Why rows of the target cannot be told by that column of the source."""
    column = next((one for one in target.columns if one.source.name == name and one.metadata is None), None)
    if column is None:
        return f"its column {name} is not on the sink"
    if column.masking is not None:
        return f"its column {name} is masked"
    if column.sql_type == "boolean":
        return f"its column {name} is boolean on the sink"
    original = target.definition.column(name)
    if original.kind not in _EXACT_KINDS or column.source.kind not in _EXACT_KINDS:
        return f"its column {name} is {original.column_type}, which sinks may compare otherwise than the source"
    return None


# ---------------------------------------------------------------- in which order


def stages(
    by_table: Mapping[TableName, Sequence[RowBatch]], cascades: Sequence[Cascade], graph: CascadeGraph
) -> Iterator[tuple[dict[TableName, list[RowBatch]], list[Cascade]]]:
    """A run's images and cascades as they are to be applied: some images, then cascades, and so on.

    Cascades wait for each other as long as nothing comes between them that they would meet (`_Waiting.meets`). What
    waits is applied behind more images than came before it, and comes out the same.
    """
    done: dict[TableName, int] = {}
    waiting = _Waiting(by_table, graph)
    ends = {table: sum(batch.row_count for batch in batches) for table, batches in by_table.items()}

    def stage() -> tuple[dict[TableName, list[RowBatch]], list[Cascade]]:
        limits, taken = waiting.take()
        rows = {table: _between(by_table.get(table, ()), done.get(table, 0), at) for table, at in limits.items()}
        done.update(limits)
        return {table: batches for table, batches in rows.items() if batches}, taken

    for cascade in cascades:
        if waiting.is_apart_from(cascade) or waiting.meets(cascade.tables):
            yield stage()
        waiting.add(cascade)
    if waiting.cascades:
        if not waiting.meets(ends):
            waiting.limits.update(ends)
        yield stage()
    rest = {table: _between(batches, done.get(table, 0), ends[table]) for table, batches in by_table.items()}
    if any(rest.values()):
        yield {table: batches for table, batches in rest.items() if batches}, []


class _Waiting:
    """Cascades that have not been applied yet, and up to which image of each table they have waited."""

    def __init__(self, by_table: Mapping[TableName, Sequence[RowBatch]], graph: CascadeGraph) -> None:
        self.cascades: list[Cascade] = []
        self.limits: dict[TableName, int] = {}
        self._by_table = by_table
        self._graph = graph
        self._gone: dict[ForeignKey, set[tuple[Any, ...]]] = {}  # what the rows have that the rules are about

    def add(self, cascade: Cascade) -> None:
        """It waits, too, behind the images that it comes after."""
        self.cascades.append(cascade)
        self.limits.update(cascade.tables)
        names = cascade.old.schema.names
        for key in self._graph.of(cascade.parent):
            if set(key.referenced) <= set(names):
                self._gone.setdefault(key, set()).update(_rows(cascade.old.select(list(key.referenced))))

    def is_apart_from(self, cascade: Cascade) -> bool:
        """Does it count the images of some tables that are changed by those that wait, and not those of the others?

        What it does not count may hang on what it does: a row that is put there again under a key that went.
        """
        mine, theirs = self.limits.keys(), cascade.tables.keys()
        return mine != theirs and not mine.isdisjoint(theirs)

    def take(self) -> tuple[dict[TableName, int], list[Cascade]]:
        """All that waits; nothing does, then."""
        taken = self.limits, self.cascades
        self.limits, self.cascades, self._gone = {}, [], {}
        return taken

    def meets(self, ends: Mapping[TableName, int]) -> bool:
        """Would it matter if they came behind the tables' images up to `ends`?

        Not where these only delete rows: such rows are gone either way, or others. Nor where they put rows into a table
        that no other refers to, which do not refer to what is gone. (A row of a table that others refer to may be there
        again under a key that went; a unique value, too.) Where keys were changed any image may be of one of them.
        """
        moves = any(cascade.new is not None for cascade in self.cascades)
        for table, start in self.limits.items():
            found = _between(self._by_table.get(table, ()), start, ends.get(table, start))
            if found and (moves or any(self._is_met_by(batch) for batch in found)):
                return True
        return False

    def _is_met_by(self, batch: RowBatch) -> bool:
        table = batch.definition.name
        puts = pc.is_in(batch.operation, value_set=_PUTS)
        if not pc.any(puts).as_py():
            return False
        if self._graph.of(table) or batch.definition.unique_keys or batch.shape_index is not None:
            return True
        if any(key.table == table and key.parent_table in self.limits for key in self._graph.keys):
            return True  # what it refers to went by a rule, and nobody knows here which
        keys = [(key, gone) for key, gone in self._gone.items() if key.table == table]
        return any(
            not gone.isdisjoint(_rows(batch.images.select(list(key.columns)).filter(puts))) for key, gone in keys
        )


_PUTS = pa.array([int(Operation.INSERT), int(Operation.UPDATE_AFTER)], pa.uint8())


def _between(batches: Sequence[RowBatch], start: int, end: int) -> list[RowBatch]:
    """Images `start` to `end` of a table's batches, counted through."""
    found = []
    at = 0
    for batch in batches:
        first, last = max(start - at, 0), min(end - at, batch.row_count)
        if first == 0 and last == batch.row_count:
            found.append(batch)
        elif first < last:
            found.append(_slice(batch, first, last - first))
        at += batch.row_count
    return found


def _slice(batch: RowBatch, offset: int, length: int) -> RowBatch:
    return replace(
        batch,
        operation=batch.operation.slice(offset, length),
        transaction_index=batch.transaction_index.slice(offset, length),
        images=batch.images.slice(offset, length),
        shape_index=None if batch.shape_index is None else batch.shape_index.slice(offset, length),
    )


# ---------------------------------------------------------------- applying them


@dataclass(frozen=True, slots=True)
class _Change:
    """Rows of `parent` with `old` in `columns` are gone, or have `new` there."""

    parent: TableName
    columns: tuple[str, ...]
    old: Sequence[tuple[Any, ...]]
    new: Sequence[tuple[Any, ...]] | None


class CascadeStep:
    """Does what the rules of foreign keys did, in the open transaction of a sink."""

    def __init__(self, graph: CascadeGraph, kind: SinkKind, target: Callable[[TableName], TargetTable]) -> None:
        self._graph = graph
        self._kind = kind
        self._target = target

    def apply(self, tx: SinkTransaction, cascade: Cascade) -> tuple[Counter[TableName], Counter[TableName]]:
        """Rows deleted and rows changed, by table."""
        deleted, changed = Counter[TableName](), Counter[TableName]()
        new = _rows(cascade.new) if cascade.new is not None else None
        waiting = deque([_Change(cascade.parent, tuple(cascade.old.schema.names), _rows(cascade.old), new)])
        while waiting:
            change = waiting.popleft()
            for key in self._graph.of(change.parent):
                action = key.on_delete if change.new is None else key.on_update
                if key.table not in cascade.tables or not set(key.referenced) <= set(change.columns):
                    continue
                if action == "CASCADE" and change.new is None:
                    keys = _values(change, key)
                    waiting.extend(self._follow_delete(tx, key, keys))
                    deleted[key.table] += self._each(tx, delete_children, key, keys)
                elif action == "CASCADE":
                    for before, after in _moves(change, key):
                        waiting.extend(self._follow_update(tx, key, [before], after))
                        changed[key.table] += self._update(tx, key, [before], after)
                elif action == "SET NULL":
                    keys = _values(change, key)
                    nothing = (None,) * len(key.columns)
                    waiting.extend(self._follow_update(tx, key, keys, nothing))
                    changed[key.table] += self._update(tx, key, keys, nothing)
        return +deleted, +changed

    def _follow_delete(self, tx: SinkTransaction, key: ForeignKey, keys: Sequence[tuple[Any, ...]]) -> list[_Change]:
        """What refers to the rows that are about to go."""
        if not self._graph.acts_on(key.table, is_update=False):
            return []
        columns = self._graph.columns(key.table)
        rows = self._select(tx, key, columns, keys)
        return [_Change(key.table, columns, rows, None)] if rows else []

    def _follow_update(
        self, tx: SinkTransaction, key: ForeignKey, keys: Sequence[tuple[Any, ...]], after: tuple[Any, ...]
    ) -> list[_Change]:
        """What refers to the values that are about to change."""
        columns = self._graph.columns(key.table)
        if not set(columns) & set(key.columns) or not self._graph.acts_on(key.table, is_update=True):
            return []
        rows = self._select(tx, key, columns, keys)
        values = dict(zip(key.columns, after, strict=True))
        new = [tuple(values.get(name, value) for name, value in zip(columns, row, strict=True)) for row in rows]
        return [_Change(key.table, columns, rows, new)] if rows else []

    def _select(
        self, tx: SinkTransaction, key: ForeignKey, columns: Sequence[str], keys: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        target = self._target(key.table)
        kinds = [target.definition.column(name).kind for name in columns]
        found: list[tuple[Any, ...]] = []
        for some in _chunks(keys):
            sql = select_children(target, key.columns, columns, len(some), self._kind)
            rows = tx.execute(sql, _flat(some))
            found.extend(tuple(_plain(value, kind) for value, kind in zip(row, kinds, strict=True)) for row in rows)
        return found

    def _each(
        self,
        tx: SinkTransaction,
        statement: Callable[[TargetTable, Sequence[str], int, SinkKind], str],
        key: ForeignKey,
        keys: Sequence[tuple[Any, ...]],
        first: Sequence[Any] = (),
    ) -> int:
        target = self._target(key.table)
        return sum(
            tx.execute_on(target, statement(target, key.columns, len(some), self._kind), [*first, *_flat(some)])
            for some in _chunks(keys)
        )

    def _update(
        self, tx: SinkTransaction, key: ForeignKey, keys: Sequence[tuple[Any, ...]], after: Sequence[Any]
    ) -> int:
        return self._each(tx, update_children, key, keys, after)


def _rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _values(change: _Change, key: ForeignKey) -> list[tuple[Any, ...]]:
    """What the child's rows have that refer to rows that are gone, or have another key; nothing refers to NULL."""
    places = [change.columns.index(name) for name in key.referenced]
    found: dict[tuple[Any, ...], None] = {}
    for index, row in enumerate(change.old):
        before = tuple(row[place] for place in places)
        is_same = change.new is not None and before == tuple(change.new[index][place] for place in places)
        if not is_same and None not in before:
            found[before] = None
    return list(found)


def _moves(change: _Change, key: ForeignKey) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Old and new key, row by row, as the engine went."""
    assert change.new is not None, "the rows are there"
    places = [change.columns.index(name) for name in key.referenced]
    for row, other in zip(change.old, change.new, strict=True):
        before, after = tuple(row[place] for place in places), tuple(other[place] for place in places)
        if before != after and None not in before:
            yield before, after


def _chunks(keys: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    for start in range(0, len(keys), _KEYS_MAX):
        yield keys[start : start + _KEYS_MAX]


def _flat(keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [value for key in keys for value in key]


def _plain(value: Any, kind: ValueKind) -> Any:
    """A value of the sink as the source's comes: BIGINT UNSIGNED is a number with a scale there."""
    if value is None:
        return None
    return int(value) if kind is ValueKind.INTEGER else bytes(value)
