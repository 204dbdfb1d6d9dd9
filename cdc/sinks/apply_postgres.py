"""Rows into PostgreSQL's tables: one open transaction, and three ways to apply a change (docs/decisions/0011).

    at once   a few rows: literals in the text of the statements, one round trip a kind of change
    direct    new rows: COPY straight into the table, after what else there is has been merged
    merged    everything else: COPY into the session's staging tables, then UPDATE, DELETE and INSERT from there

The first two are tries. What the server refuses is undone within the transaction and the change is merged, which ends
the same or finds the row to blame; so there is one place that says what a change means, `_merge`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2
import psycopg2.extensions
import pyarrow as pa

from cdc.errors import CdcError, InvariantBroken, SinkRefused, SinkUnavailable, UnsupportedData
from cdc.model import ChangeBatch, PartialUpdate
from cdc.schema.target import TargetColumn, TargetTable
from cdc.sinks import merging, versions
from cdc.sinks import sql_postgres as sql
from cdc.sinks.base import ApplyResult, StatementHook
from cdc.sinks.encode_postgres import CopyReader, copy_pieces, copy_text
from cdc.sinks.errors_postgres import is_integrity_error, is_refusal, translate
from cdc.sinks.kernel.copy_text import PIECE_BYTES
from cdc.sinks.keyless_postgres import apply_keyless
from cdc.sinks.narrowing import first_refused
from cdc.sinks.values import PolicyCounter, column_of, keep_refused_row, key_text, new_and_other

__all__ = ["BEGIN", "PostgresTransaction", "Workspace"]

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE"
# Each target has up to three temporary tables; each is a file, and rows of the server's catalogue.
STAGED_TARGETS_MAX = 128
# What stays in a target's staging tables until their next use, on the server's disk.
STAGED_BYTES_KEPT_MAX = 1 << 20
# What goes at once. Above, a COPY and a join cost less than reading literals (docs/decisions/0011).
AT_ONCE_ROWS_MAX = 100
AT_ONCE_CELLS_MAX = 2000
AT_ONCE_BYTES_MAX = 256 << 10
# Of versions that end: more make a statement of some hundred kilobytes, which nothing gains by.
ENDED_AT_ONCE_MAX = 2000
# After a direct COPY that met a row: so many batches are merged before the next try, twice as many each time.
MERGES_AFTER_MISS_MAX = 64

Place = tuple[str, str]


# ---------------------------------------------------------------- what a session keeps


@dataclass(frozen=True, slots=True)
class _Stage:
    """The staging tables of one target: rows to be there, keys to be gone, and changed columns of rows."""

    rows: str
    keys: str
    parts: str
    columns: tuple[TargetColumn, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the sink's own table demands of a change.

    `must_replace`: another unique index than the key's, or a key that cannot be an arbiter, so that touched rows are
    deleted before they are inserted. `has_deferrable`: constraints to be checked at the commit; `has_late_unique`:
    among them unique ones. `unique_columns`: those that unique indexes other than the key's depend on.
    """

    must_replace: bool
    has_deferrable: bool
    has_late_unique: bool
    unique_columns: frozenset[str]


@dataclass(slots=True)
class _Miss:
    """Direct COPYs of one table that met a row that was there: how many batches to merge before the next try."""

    merges_left: int = 1
    merges_next: int = 2


@dataclass(slots=True)
class Workspace:
    """What a session on the server has, and has learnt, by place of the target; goes with the session."""

    stages: OrderedDict[Place, _Stage] = field(default_factory=OrderedDict)
    made: set[str] = field(default_factory=set)  # staging tables that exist
    dirty: set[str] = field(default_factory=set)  # those of them that may hold rows
    stage_count: int = 0
    facts: dict[Place, _Facts] = field(default_factory=dict)
    new: set[Place] = field(default_factory=set)  # targets that it has made: what a load has to know of them is known
    misses: dict[Place, _Miss] = field(default_factory=dict)

    def forget(self, target: TargetTable) -> None:
        """The table was made anew, or is not what it was taken for."""
        place = _place(target)
        self.facts.pop(place, None)
        self.misses.pop(place, None)
        self.new.discard(place)

    def made_by_us(self, target: TargetTable) -> None:
        """The table is as it was made: without any index but the key's, and without constraints."""
        self.forget(target)
        self.new.add(_place(target))

    def may_go_direct(self, target: TargetTable) -> bool:
        """Is it time to try a direct COPY (again)? Counts the batches that wait."""
        miss = self.misses.get(_place(target))
        if miss is None or miss.merges_left == 0:
            return True
        miss.merges_left -= 1
        return False

    def missed(self, target: TargetTable) -> None:
        """A direct COPY met a row: the next ones probably will, too."""
        miss = self.misses.setdefault(_place(target), _Miss())
        miss.merges_left = miss.merges_next - 1
        miss.merges_next = min(2 * miss.merges_next, MERGES_AFTER_MISS_MAX)

    def hit(self, target: TargetTable) -> None:
        """A direct COPY went through."""
        self.misses.pop(_place(target), None)


def _place(target: TargetTable) -> Place:
    return target.namespace, target.name


# ---------------------------------------------------------------- a change, encoded


@dataclass(slots=True, eq=False)
class _Lines:
    """Selected rows (None: all of them) of a batch as COPY text of those columns, a line a row.

    The text is made while it is sent, each time anew; `policies` and `byte_count` are of the last time. Of few rows,
    `short_text` is kept.
    """

    rows: pa.RecordBatch
    selection: pa.Int32Array | None
    target: TargetTable
    columns: Sequence[TargetColumn]
    policies: PolicyCounter = field(default_factory=PolicyCounter)
    byte_count: int = 0
    short_text: bytes = b""

    @property
    def row_count(self) -> int:
        return self.rows.num_rows if self.selection is None else len(self.selection)

    def row_of(self, line: int) -> int:
        return line if self.selection is None else int(self.selection[line].as_py())

    def pieces(self) -> Iterator[memoryview]:
        """Raises UnsupportedData for a value that cannot be written."""
        self.policies, self.byte_count = PolicyCounter(), 0
        for piece, _ in copy_pieces(self.rows, self.target, self.columns, self.policies, self.selection):
            self.byte_count += len(piece)
            yield piece

    def is_short(self, bytes_max: int) -> bool:
        """Has the text no more bytes? Then it is kept."""
        pieces = []
        for piece in self.pieces():
            pieces.append(piece)
            if self.byte_count > bytes_max:
                return False
        self.short_text = b"".join(pieces)
        return True

    def beginning(self, row_count: int) -> _Lines:
        """The first rows."""
        if self.selection is None:
            return replace(self, rows=self.rows.slice(0, row_count))
        return replace(self, selection=self.selection[:row_count])


@dataclass(frozen=True, slots=True)
class _Part:
    """Changed columns of rows. `columns` are those of the target that the text holds, key first, then the old key's."""

    lines: _Lines
    columns: tuple[TargetColumn, ...]
    old_key: tuple[TargetColumn, ...]

    @property
    def changed(self) -> tuple[TargetColumn, ...]:
        return tuple(column for column in self.columns if not column.is_key)


@dataclass(frozen=True, slots=True)
class _Work:
    """What one `apply` puts into one target. `new`: rows that are not there, as far as is known."""

    target: TargetTable
    gone: Sequence[_Lines]
    there: Sequence[_Lines]
    parts: Sequence[_Part]
    new: Sequence[_Lines] = ()
    may_lack_rows: bool = False

    @property
    def all_lines(self) -> Sequence[_Lines]:
        return [*self.gone, *self.there, *self.new, *(part.lines for part in self.parts)]

    @property
    def row_count(self) -> int:
        return _row_count(self.all_lines)

    @property
    def changed_count(self) -> int:
        """Rows that are there afterwards and differ."""
        return self.row_count - _row_count(self.gone)

    @property
    def byte_count(self) -> int:
        """Of what has been sent."""
        return sum(lines.byte_count for lines in self.all_lines)

    def is_small(self) -> bool:
        """Can it go at once? Then its texts are kept."""
        rows, left = self.row_count, AT_ONCE_BYTES_MAX
        if rows > AT_ONCE_ROWS_MAX or rows * len(self.target.columns) > AT_ONCE_CELLS_MAX:
            return False
        for lines in self.all_lines:
            if not lines.is_short(left):
                return False
            left -= lines.byte_count
        return True

    def merged(self) -> _Work:
        """All of it for the merge, which asks nobody whether a row is there."""
        return replace(self, there=[*self.there, *self.new], new=())

    def policy_changes(self) -> Counter[tuple[str, str]]:
        changes: Counter[tuple[str, str]] = Counter()
        for lines in self.all_lines:
            changes.update(lines.policies.changes)
        return changes


def _work_of(change: ChangeBatch, target: TargetTable) -> _Work:
    new, other = new_and_other(change, few=AT_ONCE_ROWS_MAX)  # they go at once, or are merged together
    return _Work(
        target,
        _selected(change, change.deletes, target, sql.key_columns(target)),
        _selected(change, other, target, target.columns),
        [_part(update, target) for update in change.updates if update.images.num_rows],
        _selected(change, new, target, target.columns),
        may_lack_rows=change.may_lack_rows,
    )


def _selected(
    change: ChangeBatch,
    selections: Sequence[pa.Int32Array],
    target: TargetTable,
    columns: Sequence[TargetColumn],
) -> list[_Lines]:
    """The selected rows of each of the change's batches, without those of which none are."""
    return [
        _Lines(batch.images, selection, target, columns)
        for batch, selection in zip(change.batches, selections, strict=True)
        if len(selection)
    ]


def _part(update: PartialUpdate, target: TargetTable) -> _Part:
    columns = [*sql.key_columns(target)]
    columns += [column for column in target.columns if column.source.name in update.columns and not column.is_key]
    old_key: list[TargetColumn] = []
    images = update.images
    if update.old_keys is not None:
        arrays = list(images.columns)
        names = list(images.schema.names)
        for column, name in zip(sql.key_columns(target), sql.old_key_names(target), strict=True):
            arrays.append(column_of(update.old_keys, column))
            names.append(name)
            old_key.append(replace(column, name=name, source=replace(column.source, name=name)))
        images = pa.RecordBatch.from_arrays(arrays, names=names)
    return _Part(_Lines(images, None, target, [*columns, *old_key]), tuple(columns), tuple(old_key))


class _RowMissing(Exception):
    """A partial update whose row the sink does not have."""


# ---------------------------------------------------------------- the transaction


class PostgresTransaction:
    """`sinks.base.SinkTransaction` on PostgreSQL. Begins with its first statement, in the same round trip."""

    def __init__(
        self,
        connection: psycopg2.extensions.connection,
        workspace: Workspace,
        *,
        sink: str,
        hook: StatementHook,
        grant_of: Callable[[TargetTable], str],
    ) -> None:
        self._connection = connection
        self._workspace = workspace
        self._sink = sink
        self._hook = hook
        self._grant_of = grant_of
        self._owed: list[bytes] = [BEGIN.encode()]  # goes before the next statement, in its round trip
        self._later: list[bytes] = []  # metadata statements that wait for another, or for the commit
        self._new: set[str] = set()  # staging tables that it has made, and a rollback takes away
        # A text that its database cannot hold is refused with all the statements around it, before the first one runs,
        # the savepoint among them. By COPY it is a row's.
        self._may_go_at_once = connection.get_parameter_status("server_encoding") == "UTF8"
        self._savepoint = ""
        self._savepoint_count = 0
        self._has_changed = False
        self._is_deferred = self._is_guided = False
        self._touched: dict[Place, str] = {}  # place on the sink → source table
        self.is_committed = False
        self.is_over = False

    # ------------------------------------------------------------ statements

    def begin(self, cursor: psycopg2.extensions.cursor) -> None:
        """Make sure that what is executed next, by others, is in this transaction."""
        self._has_changed = True
        if self._owed:
            self._send(cursor)

    def _send(self, cursor: psycopg2.extensions.cursor, *statements: str | bytes) -> None:
        """Run statements in one round trip, after those that are owed; the cursor has the last one's result."""
        texts = [*self._owed, *(s.encode() if isinstance(s, str) else s for s in statements)]
        try:
            if texts:
                cursor.execute(b";\n".join(texts))
        finally:
            if self._is_begun():  # else the text was not even read
                self._owed.clear()

    def _is_begun(self) -> bool:
        idle = psycopg2.extensions.TRANSACTION_STATUS_IDLE
        return self._connection.closed != 0 or self._connection.info.transaction_status != idle

    def _change(self, cursor: psycopg2.extensions.cursor, *statements: str | bytes) -> int:
        """Run statements that change rows; how many the last one did."""
        self._hook("before_statement")
        self._has_changed = True
        self._send(cursor, *statements)
        self._hook("after_statement")
        return cursor.rowcount

    def _mark(self) -> list[str]:
        """Statements that make the place to go back to: none where the transaction itself can begin again.

        Each place has a name of its own, so that nobody can go back to an earlier one by mistake.
        """
        statements = [f"RELEASE SAVEPOINT {self._savepoint}"] if self._savepoint else []
        self._savepoint = ""
        if self._has_changed:
            self._savepoint_count += 1
            self._savepoint = f"cdc_{self._savepoint_count}"
            statements.append(f"SAVEPOINT {self._savepoint}")
        return statements

    def _undo(self, cursor: psycopg2.extensions.cursor) -> None:
        """Back to the mark."""
        if self._savepoint:
            self._send(cursor, f"ROLLBACK TO SAVEPOINT {self._savepoint}")
            return
        self.roll_back()
        self._owed = [BEGIN.encode()]
        self._has_changed = self._is_deferred = self._is_guided = False

    def roll_back(self) -> None:
        """Undo everything. Raises psycopg2.Error."""
        self._owed.clear()
        self._workspace.made -= self._new
        self._workspace.dirty -= self._new
        self._new.clear()
        if self._is_begun():
            with self._connection.cursor() as cursor:
                cursor.execute("ROLLBACK")

    # ------------------------------------------------------------ rows

    def apply(self, change: ChangeBatch, target: TargetTable) -> ApplyResult:
        if not target.key:
            return apply_keyless(self, change, target)
        work = _work_of(change, target)
        if not work.row_count:
            return ApplyResult()
        with self._cursor(f"apply changes to {target}", target) as cursor:
            deleted = self._try(cursor, work, self._prepare(cursor, target))
            if deleted is None:
                work = work.merged()
                deleted = self._merged(cursor, work)
        return ApplyResult(work.changed_count, deleted, work.policy_changes())

    def _try(self, cursor: psycopg2.extensions.cursor, work: _Work, facts: _Facts) -> int | None:
        """The cheap way for that change; how many rows it deleted, or None: it has to be merged."""
        way: Callable[[psycopg2.extensions.cursor, _Work, _Facts], int]
        if self._may_go_at_once and work.is_small():
            if any(not _is_plain(part, facts) for part in work.parts):
                return None
            way = self._at_once
        elif _is_worth_direct(work) and not facts.has_late_unique and self._workspace.may_go_direct(work.target):
            way = self._direct
        else:
            return None
        try:
            return way(cursor, work, facts)
        except (psycopg2.Error, _RowMissing) as error:
            if isinstance(error, psycopg2.Error) and not is_refusal(error):
                raise
            self._undo(cursor)
            self._prepare(cursor, work.target)
            return None

    def _at_once(self, cursor: psycopg2.extensions.cursor, work: _Work, facts: _Facts) -> int:
        """By literals: the deletes, then the updates and upserts."""
        target, statements, deleted = work.target, self._mark(), 0
        there = [*work.there, *work.new]
        if work.gone:
            deleted = self._change(cursor, *statements, sql.delete_lines(target, _short_text(work.gone)))
            statements = []
        for part in work.parts:
            text = _short_text([part.lines])
            statements += sql.update_lines(target, text, part.columns, must_hit=not work.may_lack_rows)
        if there:
            if facts.must_replace:
                statements.append(sql.delete_lines(target, _key_text(there)))
            statements.append(sql.insert_lines(target, _short_text(there), is_upsert=not facts.must_replace))
        if statements:
            taken = self._change(cursor, *statements)
            if there:
                self._require_taken(target, facts, taken, _row_count(there))
        return deleted

    def _direct(self, cursor: psycopg2.extensions.cursor, work: _Work, facts: _Facts) -> int:
        """By COPY into the table itself: the new rows, after the others have been merged."""
        target, deleted = work.target, 0
        others = replace(work, new=())
        stage = self._staged(cursor, others) if others.row_count else None
        if stage is not None:
            deleted = self._merge(cursor, others, stage, facts)
        else:
            self._send(cursor, *self._mark())
        try:
            self._copy_in(cursor, target, work.new)
        except psycopg2.Error:
            self._workspace.missed(target)
            raise
        self._workspace.hit(target)
        if stage is not None:
            self._tidy(cursor, others, stage)
        return deleted

    def _copy_in(self, cursor: psycopg2.extensions.cursor, target: TargetTable, texts: Sequence[_Lines]) -> None:
        self._hook("before_statement")
        self._has_changed = True
        _copy(cursor, sql.copy_into(sql.qualified(target.namespace, target.name), target.columns), texts)
        self._hook("after_statement")
        if cursor.rowcount != _row_count(texts):
            raise self._swallowed(target, cursor.rowcount, _row_count(texts))

    def _require_taken(self, target: TargetTable, facts: _Facts, taken: int, given: int) -> None:
        """Every row that is inserted or overwritten counts; one that is all key, and there, does not."""
        if taken != given and (facts.must_replace or any(not column.is_key for column in target.columns)):
            raise self._swallowed(target, taken, given)

    def _swallowed(self, target: TargetTable, taken: int, given: int) -> SinkRefused:
        table = str(target.definition.name)
        return SinkRefused(
            f"sink {self._sink}: of {given} rows {target} took {taken}, and no error was raised",
            table=table,
            hint=f"a trigger or a rule on {target} discards rows: drop it, then load the table again: "
            f"cdc snapshot {table}",
        )

    def _merged(self, cursor: psycopg2.extensions.cursor, work: _Work) -> int:
        """By way of the staging tables; how many rows were deleted."""
        target = work.target
        facts = self._prepare(cursor, target)
        stage = self._staged(cursor, work)
        while True:
            try:
                deleted = self._merge(cursor, work, stage, facts)
            except (psycopg2.Error, _RowMissing) as error:
                if isinstance(error, psycopg2.Error) and not is_refusal(error):
                    raise
                self._undo(cursor)
                # An index made on the sink since its facts were read calls for another merge.
                self._workspace.forget(target)
                fresh = self._prepare(cursor, target)
                if fresh == facts:
                    raise self._refused(cursor, error, work, stage, facts) from error
                facts = fresh
            else:
                self._tidy(cursor, work, stage)
                return deleted

    def _staged(self, cursor: psycopg2.extensions.cursor, work: _Work) -> _Stage:
        """The staging tables for a merge, made and empty; and the mark to go back to, after which they stay."""
        stage = self._stage(cursor, work)
        self._empty(cursor, *_used(work, stage))
        self._has_changed = True
        self._send(cursor, *self._guidance(), *self._mark())
        return stage

    def _tidy(self, cursor: psycopg2.extensions.cursor, work: _Work, stage: _Stage) -> None:
        if work.byte_count > STAGED_BYTES_KEPT_MAX:
            self._empty(cursor, *_used(work, stage))

    def _guidance(self) -> Sequence[str]:
        """Settings by which every join with a staging table looks its rows up by the target's key.

        The planner knows nothing of staging tables; its other ways read the whole target (docs/decisions/0011).
        """
        if self._is_guided:
            return ()
        self._is_guided = True
        return [f"SET LOCAL enable_{way} = off" for way in ("hashjoin", "mergejoin", "seqscan")]

    def _prepare(self, cursor: psycopg2.extensions.cursor, target: TargetTable) -> _Facts:
        """What the table demands, read once a session; its deferrable constraints are deferred."""
        place = _place(target)
        self._touched[place] = str(target.definition.name)
        facts = self._workspace.facts.get(place)
        if facts is None:
            self._send(cursor, cursor.mogrify(_FACTS, place))
            row = cursor.fetchone()
            facts = (
                _Facts(row[0], row[1], row[2], frozenset(row[3])) if row else _Facts(False, False, False, frozenset())
            )
            self._workspace.facts[place] = facts
        if facts.has_deferrable and not self._is_deferred:
            self._owed.append(b"SET CONSTRAINTS ALL DEFERRED")
            self._is_deferred = True
        return facts

    # ------------------------------------------------------------ the merge

    def _merge(self, cursor: psycopg2.extensions.cursor, work: _Work, stage: _Stage, facts: _Facts) -> int:
        """What a change means: updates that move nothing, deletes, and rows that are put there whole.

        Updates of what a unique index heeds, and of keys, become whole rows: their other columns come from the table.
        No row is put there before all that are to go have gone, so that values may be handed over between rows.
        """
        target, deleted, moved, given = work.target, 0, 0, 0
        whole = [part for part in work.parts if not _is_plain(part, facts)]
        for part in work.parts:
            if _is_plain(part, facts):
                self._update(cursor, work, stage, part)
        if work.gone:
            self._stage_copy(cursor, stage.keys, sql.key_columns(target), work.gone)
        for part in whole:
            completed, left = self._complete(cursor, work, stage, part)
            given, moved = given + completed, moved + left
        if work.gone or moved:
            deleted = self._change(cursor, sql.delete_staged(target, stage.keys)) - moved
        if work.there:
            self._stage_copy(cursor, stage.rows, target.columns, work.there)
            given += _row_count(work.there)
        if work.there or whole:
            if facts.must_replace:
                self._change(cursor, sql.delete_staged(target, stage.rows))
                taken = self._change(cursor, sql.insert_staged(target, stage.rows))
            else:
                taken = self._change(cursor, sql.upsert_staged(target, stage.rows))
            self._require_taken(target, facts, taken, given)
        return deleted

    def _update(self, cursor: psycopg2.extensions.cursor, work: _Work, stage: _Stage, part: _Part) -> None:
        self._stage_part(cursor, stage, part)
        found = self._change(cursor, sql.update_staged(work.target, stage.parts, part.changed))
        self._require_rows(work, part, found)

    def _complete(self, cursor: psycopg2.extensions.cursor, work: _Work, stage: _Stage, part: _Part) -> tuple[int, int]:
        """Stage the rows as they will be; the keys that they leave, too. How many rows and keys these are."""
        self._stage_part(cursor, stage, part)
        self._workspace.dirty |= {stage.rows, stage.keys}
        old = [column.name for column in part.old_key] or list(work.target.key)
        self._send(cursor, sql.complete_staged(work.target, stage.parts, stage.rows, part.changed, old))
        completed = cursor.rowcount
        self._require_rows(work, part, completed)
        if not part.old_key:
            return completed, 0
        self._send(cursor, sql.stage_old_keys(work.target, stage.parts, stage.keys, old))
        return completed, cursor.rowcount

    def _stage_part(self, cursor: psycopg2.extensions.cursor, stage: _Stage, part: _Part) -> None:
        self._empty(cursor, stage.parts)
        self._stage_copy(cursor, stage.parts, [*part.columns, *part.old_key], [part.lines])

    @staticmethod
    def _require_rows(work: _Work, part: _Part, found: int) -> None:
        if found != part.lines.row_count and (part.old_key or not work.may_lack_rows):
            raise _RowMissing

    def _stage_copy(
        self, cursor: psycopg2.extensions.cursor, table: str, columns: Sequence[TargetColumn], texts: Sequence[_Lines]
    ) -> None:
        self._workspace.dirty.add(table)
        _copy(cursor, sql.copy_into(f"pg_temp.{sql.quote(table)}", columns), texts)

    def _empty(self, cursor: psycopg2.extensions.cursor, *tables: str) -> None:
        """Take out what an earlier use has left. It counts as there until the commit, after a rollback it is there."""
        if dirty := [table for table in tables if table in self._workspace.dirty]:
            self._send(cursor, "TRUNCATE " + ", ".join(f"pg_temp.{sql.quote(table)}" for table in dirty))

    # ------------------------------------------------------------ staging tables

    def _stage(self, cursor: psycopg2.extensions.cursor, work: _Work) -> _Stage:
        """The target's staging tables, of which those that this change needs are there."""
        workspace, target, place = self._workspace, work.target, _place(work.target)
        stage = workspace.stages.get(place)
        if stage is not None and stage.columns != target.columns:
            self._drop_stage(cursor, place)
            stage = None
        if stage is None:
            while len(workspace.stages) >= STAGED_TARGETS_MAX:
                self._drop_stage(cursor, next(iter(workspace.stages)))
            workspace.stage_count += 1
            number = workspace.stage_count
            names = (f"_cdc_rows_{number}", f"_cdc_keys_{number}", f"_cdc_parts_{number}")
            stage = _Stage(*names, columns=target.columns)
            workspace.stages[place] = stage
        workspace.stages.move_to_end(place)
        key = sql.key_columns(target)
        old_key = [replace(column, name=name) for column, name in zip(key, sql.old_key_names(target), strict=True)]
        columns = {stage.rows: target.columns, stage.keys: key, stage.parts: (*target.columns, *old_key)}
        for table in _used(work, stage):
            if table not in workspace.made:
                self._send(cursor, sql.stage_table(table, columns[table]))
                workspace.made.add(table)
                self._new.add(table)
        return stage

    def _drop_stage(self, cursor: psycopg2.extensions.cursor, place: Place) -> None:
        stage = self._workspace.stages.pop(place)
        tables = [table for table in (stage.rows, stage.keys, stage.parts) if table in self._workspace.made]
        if tables:
            self._send(cursor, "DROP TABLE IF EXISTS " + ", ".join(f"pg_temp.{sql.quote(table)}" for table in tables))
            self._workspace.made.difference_update(tables)
            self._workspace.dirty.difference_update(tables)
            self._new.difference_update(tables)

    # ------------------------------------------------------------ loads

    def load(self, rows: pa.RecordBatch, target: TargetTable) -> ApplyResult:
        lines = _Lines(rows, None, target, target.columns)
        with self._cursor(f"load rows into {target}", target) as cursor:
            if _place(target) in self._workspace.new:
                self._touched[_place(target)] = str(target.definition.name)
            else:
                self._prepare(cursor, target)
            self._has_changed = True
            self._send(cursor, *self._mark())
            try:
                self._copy_in(cursor, target, [lines])
            except psycopg2.Error as error:
                if not is_refusal(error):
                    raise
                self._undo(cursor)
                index = self._first_refused(cursor, lines, lambda part: self._copy_in(cursor, target, [part]))
                raise self._blamed(cursor, error, target, rows, index) from error
        return ApplyResult(upserted=rows.num_rows, policy_changes=lines.policies.changes)

    def end_versions(self, rows: pa.RecordBatch, target: TargetTable) -> None:
        current = versions.ending(target)
        lines = bytes(copy_text(rows, current, current.columns, PolicyCounter())).decode().split("\n")[:-1]
        with self._cursor(f"end versions in {target}", target) as cursor:
            self._prepare(cursor, target)
            guidance = self._guidance()
            for start in range(0, len(lines), ENDED_AT_ONCE_MAX):
                some = "\n".join([*lines[start : start + ENDED_AT_ONCE_MAX], ""])
                self._change(cursor, *guidance, *versions.end_lines(current, some))
                guidance = ()

    def clear(self, target: TargetTable) -> int:
        with self._cursor(f"empty {target}", target) as cursor:
            self._prepare(cursor, target)
            return self._change(cursor, sql.clear(target))

    def merge(self, target: TargetTable, new: TargetTable) -> ApplyResult:
        with self._cursor(f"merge {new} into {target}", target) as cursor:
            self._prepare(cursor, target)
            self._send(cursor, "SET LOCAL statement_timeout = 0")
            deleted = self._change(cursor, merging.delete_others(target, new, "postgresql"))
            inserted = self._change(cursor, merging.insert_missing(target, new, "postgresql"))
        return ApplyResult(upserted=inserted, deleted=deleted)

    # ------------------------------------------------------------ which row it was

    def _refused(
        self,
        cursor: psycopg2.extensions.cursor,
        error: psycopg2.Error | _RowMissing,
        work: _Work,
        stage: _Stage,
        facts: _Facts,
    ) -> CdcError:
        """Apply ever shorter beginnings of the updates, then of the upserts, to name the row that was refused."""
        steps = [part.lines for part in work.parts] + list(work.there)
        for position, lines in enumerate(steps):

            def attempt(first: _Lines, position: int = position) -> None:
                self._merge(cursor, _beginning(work, position, first), stage, facts)

            index = self._first_refused(cursor, lines, attempt)
            if index is not None:
                return self._blamed(cursor, error, work.target, lines.rows, lines.row_of(index))
        return self._blamed(cursor, error, work.target, None, None)

    def _first_refused(
        self, cursor: psycopg2.extensions.cursor, lines: _Lines, attempt: Callable[[_Lines], None]
    ) -> int | None:
        def is_refused(count: int) -> bool:
            try:
                attempt(lines.beginning(count))
            except (psycopg2.Error, _RowMissing) as error:
                if isinstance(error, psycopg2.Error) and not is_refusal(error):
                    raise
                return True
            finally:
                if not self._connection.closed:
                    self._undo(cursor)
            return False

        return first_refused(lines.row_count, is_refused)

    def _blamed(
        self,
        cursor: psycopg2.extensions.cursor,
        error: psycopg2.Error | _RowMissing,
        target: TargetTable,
        rows: pa.RecordBatch | None,
        index: int | None,
    ) -> CdcError:
        table = str(target.definition.name)
        key = None
        if rows is not None and index is not None:
            key = key_text(rows, target, index)
        if isinstance(error, _RowMissing):
            return UnsupportedData(
                f"sink {self._sink}: {target} has no row of which an update names the changed columns alone "
                f"(row with {key})",
                table=table,
                key=key,
                hint=f"the copy is not what the source has: load the table again: cdc snapshot {table}",
            )
        if rows is None or index is None:
            return self._sink_error(error, f"write to {target}", table=table)
        column = self._refused_column(cursor, rows.slice(index, 1), target)
        refused = self._sink_error(error, f"write to {target}", table=table, column=column, key=key)
        return keep_refused_row(refused, rows, target, index)

    def _refused_column(
        self, cursor: psycopg2.extensions.cursor, row: pa.RecordBatch, target: TargetTable
    ) -> str | None:
        """The first column whose value alone is refused by a table of the types that the sink's has; else None."""
        name, refused = "_cdc_column", None
        self._send(cursor, sql.empty_copy(target, name))
        for column in target.columns:
            lines = _Lines(row, None, target, (column,))
            try:
                _copy(cursor, sql.copy_into(f"pg_temp.{sql.quote(name)}", (column,)), [lines])
            except psycopg2.Error as error:
                if not is_refusal(error):
                    raise
                refused = column.name
                break
        self._undo(cursor)
        return refused

    # ------------------------------------------------------------ metadata

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._cursor("run a metadata statement", None) as cursor:
            self._has_changed = True  # for all that is known
            self._send(cursor, *self._take_later(), _mogrified(cursor, statement, parameters))
            return [tuple(map(_plain, row)) for row in cursor.fetchall()] if cursor.description else []

    def execute_count(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        with self._cursor("run a metadata statement", None) as cursor:
            self._has_changed = True
            self._send(cursor, *self._take_later(), _mogrified(cursor, statement, parameters))
            return cursor.rowcount

    def execute_on(self, target: TargetTable, statement: str, parameters: Sequence[Any] = ()) -> int:
        with self._cursor(f"change rows of {target}", target) as cursor:
            self._has_changed = True
            self._send(cursor, *self._take_later(), _mogrified(cursor, statement, parameters))
            return cursor.rowcount

    def rewrite(self, target: TargetTable, statement: str) -> int:
        with self._cursor(f"fill columns of {target}", target) as cursor:
            self._has_changed = True
            # One that was cut off would only begin again. Until the end of the transaction.
            unlimited = b"SET LOCAL statement_timeout = 0"
            self._send(cursor, *self._take_later(), unlimited, _mogrified(cursor, statement, ()))
            return cursor.rowcount

    def execute_later(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run one metadata statement with the next one that has a result, at the latest with the commit."""
        with self._cursor("run a metadata statement", None) as cursor:
            self._later.append(_mogrified(cursor, statement, parameters))

    def _take_later(self) -> list[bytes]:
        later, self._later = self._later, []
        return later

    def commit(self) -> None:
        if self._later:
            with self._cursor("run a metadata statement", None) as cursor:
                self._send(cursor, *self._take_later())
        self._check_open()
        try:
            if self._is_begun():
                with self._connection.cursor() as cursor:
                    cursor.execute("COMMIT")
                    if cursor.statusmessage != "COMMIT":  # which is how the server ends a transaction that has failed
                        raise InvariantBroken(f"a failed transaction was to be committed: {cursor.statusmessage}")
        except psycopg2.Error as error:
            if is_integrity_error(error):  # of a deferred constraint: trying again would meet it again
                raise self._commit_refused(error) from error
            if error.pgcode and is_refusal(error):
                raise SinkUnavailable(
                    f"sink {self._sink}: the commit was refused: {error.diag.message_primary}",
                    hint="something on the sink objects to the transaction; it is tried again",
                ) from error
            raise SinkUnavailable(
                f"sink {self._sink}: the connection was lost while committing: it is not known whether the "
                "transaction is there",
                hint="the pipeline reads the checkpoint from the sink and goes on from there",
            ) from error
        self.is_committed = True

    def _commit_refused(self, error: psycopg2.Error) -> SinkRefused:
        """Which table a deferred constraint refused: the one that has it, or the one that its rows refer to."""
        diag = error.diag
        constraint = (diag.schema_name or "", diag.table_name or "", diag.constraint_name or "")
        places = [constraint[:2]]
        if places[0] not in self._touched:
            with contextlib.suppress(psycopg2.Error), self._connection.cursor() as cursor:
                cursor.execute(_REFERRED, constraint)
                places += cursor.fetchall()
        touched = [self._touched[place] for place in places if place in self._touched]
        table = touched[0] if touched else ".".join(places[0])
        if not touched and len(self._touched) == 1:
            (table,) = self._touched.values()
        drop = f"ALTER TABLE {sql.qualified(*constraint[:2])} DROP CONSTRAINT {sql.quote(constraint[2])};"
        return SinkRefused(
            f"sink {self._sink}: the commit was refused: {diag.message_primary} (SQLSTATE {error.pgcode})",
            table=table,
            hint=f"the constraint is not the source's: run {drop} on the sink, then load the table again: "
            f"cdc snapshot {table}",
        )

    # ------------------------------------------------------------ border

    def _check_open(self) -> None:
        if self.is_committed or self.is_over:
            raise InvariantBroken("this transaction is over")

    @contextlib.contextmanager
    def _cursor(self, doing: str, target: TargetTable | None) -> Iterator[psycopg2.extensions.cursor]:
        self._check_open()
        try:
            with self._connection.cursor() as cursor:
                yield cursor
        except psycopg2.Error as error:
            where = {} if target is None else {"table": str(target.definition.name), "grant": self._grant_of(target)}
            raise self._sink_error(error, doing, **where) from error

    def _sink_error(self, error: psycopg2.Error, doing: str, **where: Any) -> CdcError:
        return translate(error, sink=self._sink, doing=doing, **where)


# ---------------------------------------------------------------- leaves


def _is_plain(part: _Part, facts: _Facts) -> bool:
    """May the rows be updated where they are: no key moves, and no unique index heeds what changes?"""
    return bool(part.changed) and not part.old_key and facts.unique_columns.isdisjoint(c.name for c in part.changed)


def _used(work: _Work, stage: _Stage) -> list[str]:
    """The staging tables that this work fills."""
    tables = [stage.rows] if work.there or work.parts else []
    tables += [stage.keys] if work.gone or work.parts else []
    return [*tables, stage.parts] if work.parts else tables


def _beginning(work: _Work, position: int, last: _Lines) -> _Work:
    """The work up to the update, or upsert, at `position` among both, which is `last`."""
    count = len(work.parts)
    if position < count:
        return replace(work, parts=[*work.parts[:position], replace(work.parts[position], lines=last)], there=[])
    return replace(work, there=[*work.there[: position - count], last])


def _is_worth_direct(work: _Work) -> bool:
    """Are the new rows all there is, or enough of it to go by themselves?"""
    new = _row_count(work.new)
    return new > AT_ONCE_ROWS_MAX or 0 < new == work.row_count


def _row_count(texts: Iterable[_Lines]) -> int:
    return sum(lines.row_count for lines in texts)


def _short_text(texts: Sequence[_Lines]) -> str:
    return b"".join(lines.short_text for lines in texts).decode()


def _key_text(there: Sequence[_Lines]) -> str:
    """The keys of those rows. No policy changes a key, so there is nothing to count."""
    pieces = (replace(lines, columns=sql.key_columns(lines.target)).pieces() for lines in there)
    return b"".join(itertools.chain.from_iterable(pieces)).decode()


def _copy(cursor: psycopg2.extensions.cursor, statement: str, texts: Sequence[_Lines]) -> None:
    reader = CopyReader(itertools.chain.from_iterable(lines.pieces() for lines in texts))
    try:
        cursor.copy_expert(statement, reader, size=PIECE_BYTES)  # type: ignore[arg-type]  # it asks for no readline
    except psycopg2.Error:
        if reader.error is not None:
            raise reader.error from None
        raise


def _mogrified(cursor: psycopg2.extensions.cursor, statement: str, parameters: Sequence[Any]) -> bytes:
    """`%s` and `%%` mean the same with and without parameters."""
    if parameters:
        return cursor.mogrify(statement, tuple(parameters))
    return statement.replace("%%", "%").encode()


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


# The table that a foreign key refers to: what an error tells is the table that has it.
_REFERRED = """
SELECT n.nspname, c.relname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.conrelid = to_regclass(format('%%I.%%I', %s, %s)) AND k.conname = %s"""

# Deferrable are also unique constraints, and foreign keys (of other tables too) that came after `inspect`. What an
# index's expressions and its WHERE read is among what it depends on.
_FACTS = """
SELECT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
               AND (NOT i.indisprimary OR NOT i.indimmediate)),
       EXISTS (SELECT 1 FROM pg_constraint k WHERE (k.conrelid = c.oid OR k.confrelid = c.oid) AND k.condeferrable),
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indimmediate),
       ARRAY(SELECT DISTINCT a.attname::text
             FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0
             WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary
               AND (a.attnum = ANY (i.indkey)
                    OR EXISTS (SELECT 1 FROM pg_depend d
                               WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                                 AND d.refobjsubid = a.attnum)))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s"""
