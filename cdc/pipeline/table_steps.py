"""DDL on whole tables at its place in the stream: what CREATE, DROP and RENAME TABLE do to targets, without a load.

A table that is made is empty: so is its target, and what follows are its rows. One that gets another name keeps its
rows, and so does its target, under the name that the configuration gives to the new one. What is not proven is left to
loads (`Unproven`).

Exactly once, as `schema_step` has it: on PostgreSQL everything is in the transaction of the checkpoint. On the MySQL
family what is done here can be done twice, or its names say whether it was done.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from cdc.model import Flavor, SchemaChange, TableDefinition, TableName
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.tables import TableRegistry
from cdc.schema.alteration import require_mirror
from cdc.schema.column_text import Unproven
from cdc.schema.creation import Defaults, created_definition
from cdc.schema.ddl import StatementText
from cdc.schema.ddl_policies import DdlPolicies, withheld
from cdc.schema.moves import moves_of
from cdc.schema.target import TargetTable
from cdc.sinks.base import ExistingTable, Sink
from cdc.source.connection import SourceConnection
from cdc.source.definitions import read_definition
from checkpoints.checkpoint import Checkpoint, encode_position
from checkpoints.store import MAKING, WORKED_OUT, InSinkStore, TableRecord

__all__ = ["INTENT", "SourceFacts", "TableSteps", "settled"]

INTENT = "begun "  # in TableRecord.step
# PostgreSQL's limit in bytes is the lowest.
_NAME_BYTES_MAX = 63


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is asked of the source about a statement, as it is now. Raises SourceUnavailable."""

    connect: Callable[[], SourceConnection]
    flavor: Flavor
    version: tuple[int, ...]
    lower_case_names: bool

    def spelled(self, table: TableName) -> TableName:
        """The name as the server knows the table by, of one in a statement."""
        return table.lower() if self.lower_case_names else table

    def defaults(self, database: str) -> Defaults:
        """What a CREATE TABLE without a word about it gets."""
        with self.connect() as source:
            rows = source.query_text(
                "SELECT DEFAULT_COLLATION_NAME, @@GLOBAL.default_storage_engine FROM information_schema.SCHEMATA "
                "WHERE SCHEMA_NAME = %s",
                (database,),
            )
        if not rows or rows[0][0] is None or rows[0][1] is None:
            raise Unproven(f"the database {database} is not there any more")
        return Defaults(rows[0][0], rows[0][1])

    def require_no_temporary(self, moves: Mapping[TableName, TableName]) -> None:
        """MariaDB logs RENAME TABLE of a temporary table like any other: then the table of that name stays.

        Raises Unproven where the source as it is says so (or has renamed it back since).
        """
        if self.flavor != "mariadb":
            return
        taken = set(moves.values())
        with self.connect() as source:
            for old, new in moves.items():
                if old not in taken and read_definition(source, old) and read_definition(source, new) is None:
                    raise Unproven(f"{old} is there still: what was renamed may be a temporary table")


@dataclass(slots=True)
class _Move:
    record: TableRecord
    before: TargetTable
    after: TargetTable

    @property
    def is_of_target(self) -> bool:
        """Does the target get another place, too?"""
        return str(self.before) != str(self.after)


class TableSteps:
    """Follows them on one sink, in the applier's thread."""

    def __init__(
        self,
        *,
        sink: Sink,
        store: InSinkStore,
        hooks: Hooks,
        facts: SourceFacts,
        policies: Callable[[str, str], DdlPolicies],
    ) -> None:
        self._sink = sink
        self._store = store
        self._hooks = hooks
        self._facts = facts
        self._policies = policies
        self.target: TargetTable | None = None
        """The one that is being worked on, for messages."""

    def follow(
        self,
        tables: TableRegistry,
        change: SchemaChange,
        text: StatementText,
        checkpoint: Checkpoint,
        prepared: Collection[TableName],
    ) -> list[TableRecord] | None:
        """Do what the statement did, commit `checkpoint` with it; the records that are new. None: it is none of these.

        `prepared`: tables with rows that wait for an XA COMMIT. Raises Unproven, UnsupportedData, SinkRefused,
        SinkUnavailable, LeaseLost.
        """
        self.target = None
        moves = moves_of(text, spelled=self._facts.spelled)
        if moves is not None:
            return self._rename(tables, change, moves, checkpoint, prepared)
        if change.is_dropped:
            return self._drop(tables, change, checkpoint)
        record = tables.record(change.tables[0])
        if len(change.tables) > 1 or (record is not None and record.state != "dropped"):
            return None
        definition = created_definition(
            text,
            change.tables[0],
            flavor=self._facts.flavor,
            server_version=self._facts.version,
            spelled=self._facts.spelled,
            find=lambda table: _ready_definition(tables, table),
            defaults=lambda: self._facts.defaults(change.tables[0].database),
            # One that a load did not find may be hidden from this user only.
            is_absent=record is not None and record.loaded_from is None,
        )
        return None if definition is None else [self._create(tables, definition, record, checkpoint)]

    def _fence(self) -> None:
        """Raises LeaseLost. What follows is in no transaction that could be fenced."""
        with self._sink.transaction() as tx:
            self._store.fence(tx)
            tx.commit()

    @property
    def _is_transactional(self) -> bool:
        return self._sink.kind == "postgresql"

    # ------------------------------------------------------------ CREATE

    def _create(
        self, tables: TableRegistry, definition: TableDefinition, record: TableRecord | None, checkpoint: Checkpoint
    ) -> TableRecord:
        name = definition.name
        require_mirror(tables.options(name))
        if tables.has_own_key(name):
            raise Unproven("the configuration names its key")
        target = self.target = tables.make_target(definition)
        if not target.key and definition.engine.lower() != "innodb":
            raise Unproven("it has no key and no transactions")
        _require_alone(tables, name, target)
        key = target.source_key
        known = record or TableRecord(source=name, target=str(target), state="dropped")
        made = replace(
            known,
            target=str(target),
            state="ready",
            definition=definition,
            key=key,
            options=tables.description(name, key),
            is_complete=True,
            loaded_from=None,
            ready_at=None,
            ready_server=None,
            rows_loaded=0,
            policy_changes={},
            error=None,
            step=WORKED_OUT,
        )
        self._sink.create_namespace(target.namespace)
        existing = self._sink.inspect(target)
        if existing is not None:
            self._require_usable(known, target, existing)
        is_ours = known.definition is not None and known.target == str(target)
        is_made_anew = existing is not None and is_ours and not self._fits(known, target, existing)
        if is_made_anew:
            self._require_allowed(known.definition, definition)
        if not self._is_transactional:
            # The intent comes first: a table that is made and not recorded would pass for somebody else's.
            self._begin([] if is_ours else [replace(made, state="dropped", is_complete=False, step=MAKING)])
            self._hooks("schema_intent")
            self._make(target, existing, is_made_anew=is_made_anew)
        with self._sink.transaction() as tx:
            if self._is_transactional:
                self._make(target, existing, is_made_anew=is_made_anew)
            if existing is not None and existing.has_rows and not is_made_anew:
                tx.clear(target)
            self._hooks("schema_altered")
            self._store.save_table(tx, made)
            self._store.save(tx, checkpoint)
            tx.commit()
        return made

    def _require_allowed(self, before: TableDefinition | None, after: TableDefinition) -> None:
        """A target that is one of `before` to its readers becomes one of `after`. Raises Unproven: the load asks."""
        if before is None:
            return
        policies = self._policies(after.name.database, after.name.table)
        reason, differences = withheld(policies, before, after)
        if policies.ddl == "log":
            reason, differences = "ddl: log", ["the target would be another one"]
        if reason:
            raise Unproven(f"{reason}: {'; '.join(differences)}")

    def _make(self, target: TargetTable, existing: ExistingTable | None, *, is_made_anew: bool) -> None:
        if is_made_anew:
            self._sink.drop_table(target)
        if existing is None or is_made_anew:
            self._sink.create_table(target)

    def _require_usable(self, record: TableRecord, target: TargetTable, existing: ExistingTable) -> None:
        """What is there has to be the target of the table that had the name before, or empty and fitting."""
        if record.definition is not None and record.target == str(target):
            return
        if existing.has_rows or existing.problems or self._sink.differences(target, existing):
            raise Unproven(f"there is a table {target} that is not this deployment's")

    def _fits(self, record: TableRecord, target: TargetTable, existing: ExistingTable) -> bool:
        """Can the target of the table that had the name before be emptied and go on?"""
        before = record.definition.columns if record.definition is not None else ()
        names = {column.name for column in target.columns}
        is_stale = any(column.name not in names and column.name in existing.columns for column in before)
        return not is_stale and record.key == target.source_key and not self._sink.differences(target, existing)

    # ------------------------------------------------------------ DROP

    def _drop(self, tables: TableRegistry, change: SchemaChange, checkpoint: Checkpoint) -> list[TableRecord]:
        if set(change.is_dropped) != set(change.tables):
            raise Unproven("it does more than drop")
        gone = []
        moves: list[tuple[TargetTable, TargetTable]] = []
        dropped: list[TargetTable] = []
        for name in change.tables:
            record = tables.record(name)
            if record is None or record.state == "dropped":
                continue  # IF EXISTS
            if record.state != "ready":
                raise Unproven(f"{name} has no complete version on the sink")
            left = replace(record, state="dropped", step="", loaded_from=None, ready_at=None, ready_server=None)
            policy = self._policies(name.database, name.table).on_drop_table
            target = tables.target(name)
            if policy != "keep" and _is_mirror(tables, name) and tables.is_alone(name):
                self.target = target
                left = replace(left, definition=None, is_complete=False)
                if policy == "drop":
                    dropped.append(target)
                elif self._sink.inspect(target) is not None:
                    moves.append((target, self._archive(target, change)))
            gone.append(left)
        if not self._is_transactional and (dropped or moves):
            # A target that is gone before its table is would look as if somebody had dropped it.
            intent = INTENT + encode_position(change.end)
            going = [record for record in gone if record.definition is None]
            self._begin([replace(record, step=intent) for r in going if (record := tables.record(r.source))])
            self._fence()
            self._remove(dropped, moves)
        with self._sink.transaction() as tx:
            if self._is_transactional:
                self._remove(dropped, moves)
            self._hooks("schema_altered")
            for record in gone:
                self._store.save_table(tx, record)
            self._store.save(tx, checkpoint)
            tx.commit()
        return gone

    def _remove(self, dropped: list[TargetTable], moves: list[tuple[TargetTable, TargetTable]]) -> None:
        for target in dropped:
            self._sink.drop_table(target)
        for move in moves:
            self._sink.rename_tables([move])

    def _archive(self, target: TargetTable, change: SchemaChange) -> TargetTable:
        """A free name that says when the table was dropped at the source."""
        at = datetime.datetime.fromtimestamp(change.commit_time_us / 1e6, datetime.UTC)
        for number in range(1, 1000):
            end = f"_dropped_{at:%Y%m%d_%H%M%S}" + (f"_{number}" if number > 1 else "")
            name = target.name.encode()[: _NAME_BYTES_MAX - len(end)].decode(errors="ignore") + end
            archived = replace(target, name=name)
            if self._sink.inspect(archived) is None:
                return archived
        raise Unproven(f"no name is free for what {target} was")

    # ------------------------------------------------------------ RENAME

    def _rename(
        self,
        tables: TableRegistry,
        change: SchemaChange,
        moves: Mapping[TableName, TableName],
        checkpoint: Checkpoint,
        prepared: Collection[TableName],
    ) -> list[TableRecord]:
        planned = [self._move(tables, old, new, prepared) for old, new in moves.items() if old in change.tables]
        if len(planned) < len(moves):
            raise Unproven("a table that is not captured comes or goes with it")
        self._facts.require_no_temporary(moves)
        of_targets = [move for move in planned if move.is_of_target]
        self.target = planned[0].before if planned else None
        intent = INTENT + encode_position(change.end)
        is_begun = bool(planned) and planned[0].record.step == intent
        if any(move.record.step.startswith(INTENT) and move.record.step != intent for move in planned):
            raise Unproven("another statement was begun on a target")
        leaving = {str(move.before) for move in of_targets}
        for move in planned:
            there = tables.record(move.after.definition.name)
            if there is not None and there.is_complete and move.is_of_target:
                self._require_allowed(there.definition, move.after.definition)
            after = str(move.after)
            others = (r for r in tables.others_at(after, move.record.source) if r.source not in moves)
            if any(r.state != "dropped" and not _is_awaited(r, moves) for r in others):
                raise Unproven(f"another table's target is {after}")
        if is_begun and self._is_renamed(of_targets):
            of_targets = []
        stale = [self._leftover(tables, move) for move in of_targets if str(move.after) not in leaving]
        leftovers = [target for target in stale if target is not None]
        for move in of_targets:
            self._require_movable(move, is_taken=str(move.before) in {str(one.after) for one in of_targets})
            self._sink.create_namespace(move.after.namespace)
        pairs = [(move.before, move.after) for move in of_targets]
        if pairs and not self._is_transactional:
            require_no_ring(pairs)
            if not is_begun:
                self._begin([replace(move.record, step=intent) for move in planned])
            self._hooks("schema_intent")
            self._fence()
            self._exchange(leftovers, pairs)
        records = self._moved(tables, planned, moves)
        with self._sink.transaction() as tx:
            if pairs and self._is_transactional:
                self._exchange(leftovers, pairs)
            self._hooks("schema_altered")
            for record in records:
                self._store.save_table(tx, record)
            self._store.save(tx, checkpoint)
            tx.commit()
        return records

    def _exchange(self, leftovers: list[TargetTable], pairs: list[tuple[TargetTable, TargetTable]]) -> None:
        for target in leftovers:
            self._sink.drop_table(target)
        self._sink.rename_tables(pairs)

    def _begin(self, records: list[TableRecord]) -> None:
        """Record what is about to be done."""
        with self._sink.transaction() as tx:
            for record in records:
                self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()

    def _move(self, tables: TableRegistry, old: TableName, new: TableName, prepared: Collection[TableName]) -> _Move:
        record = tables.record(old)
        if record is None or record.state != "ready" or record.definition is None:
            raise Unproven(f"{old} has no complete version on the sink")
        if not tables.wants(new):
            raise Unproven(f"{new} is not captured")
        if {old, new} & set(prepared):
            raise Unproven(f"rows of {old} wait for an XA COMMIT")
        require_mirror(tables.options(old))
        require_mirror(tables.options(new))
        before, after = tables.target(old), tables.make_target(replace(record.definition, name=new))
        alike = replace(after, namespace=before.namespace, name=before.name, definition=before.definition)
        if alike != before or tables.description(new, record.key) != record.options:
            raise Unproven(f"the configuration says of {new} otherwise than of {old}")
        if not tables.is_alone(old):
            raise Unproven("other tables have the same target")
        return _Move(record, before, after)

    def _leftover(self, tables: TableRegistry, move: _Move) -> TargetTable | None:
        """What stands where the target goes: nothing, or what a table that is gone has left there."""
        there = self._sink.inspect(move.after)
        if there is None:
            return None
        for record in tables.records():
            if record.target == str(move.after) and record.state == "dropped" and record.definition is not None:
                return move.after
        raise Unproven(f"there is a table {move.after} already")

    def _require_movable(self, move: _Move, *, is_taken: bool) -> None:
        existing = self._sink.inspect(move.before)
        if existing is None:
            raise Unproven(f"the target {move.before} is gone")
        added = existing.columns.keys() - {column.name for column in move.before.columns}
        if is_taken and added:
            raise Unproven(f"somebody has added {', '.join(sorted(added))} to {move.before}, whose place another takes")

    def _is_renamed(self, moves: list[_Move]) -> bool:
        """Does no target stand any more where none is to be? (It was one statement, without a ring.)"""
        taken = {str(move.after) for move in moves}
        left = [move for move in moves if str(move.before) not in taken]
        return bool(left) and all(self._sink.inspect(move.before) is None for move in left)

    def _moved(
        self, tables: TableRegistry, planned: list[_Move], moves: Mapping[TableName, TableName]
    ) -> list[TableRecord]:
        taken = set(moves.values())
        records = [
            TableRecord(source=old, target=".".join(tables.place(old)), state="dropped")
            for old in moves
            if old not in taken
        ]
        for move in planned:
            definition = move.after.definition
            records.append(
                replace(
                    move.record, source=definition.name, target=str(move.after), definition=definition, step=WORKED_OUT
                )
            )
        return records


def _is_awaited(record: TableRecord, moves: Mapping[TableName, TableName]) -> bool:
    """Has the session found the table's new name at its start, and left it until the stream says what it is?"""
    is_left = record.state == "pending" and record.ready_at is not None and record.definition is None
    return is_left and record.source in moves.values()


def settled(record: TableRecord, sink: Sink, target: TargetTable | None) -> TableRecord:
    """A record that is `MAKING`, when its session has ended: is what stands there ours? `target`: of its definition.

    Only what is just as it would have been made, and empty; all else somebody may have put there.
    """
    existing = sink.inspect(target) if target is not None and str(target) == record.target else None
    is_ours = (
        target is not None
        and existing is not None
        and not existing.has_rows
        and set(existing.columns) == {column.name for column in target.columns}
        and not sink.differences(target, existing)
    )
    return replace(record, step="", definition=record.definition if is_ours else None)


def require_no_ring(pairs: list[tuple[TargetTable, TargetTable]]) -> None:
    """Raises Unproven where the names are the same afterwards: then nothing says whether it was done."""
    after = {str(old): str(new) for old, new in pairs}
    for start in after:
        at = after[start]
        while at in after and at != start:
            at = after[at]
        if at == start:
            raise Unproven(f"{start} and others exchange their names, which this kind of sink cannot tell afterwards")


def _ready_definition(tables: TableRegistry, table: TableName) -> TableDefinition | None:
    record = tables.record(table)
    return record.definition if record is not None and record.state == "ready" else None


def _is_mirror(tables: TableRegistry, table: TableName) -> bool:
    try:
        require_mirror(tables.options(table))
    except Unproven:
        return False
    return True


def _require_alone(tables: TableRegistry, name: TableName, target: TargetTable) -> None:
    if any(r.state != "dropped" for r in tables.others_at(str(target), name)):
        raise Unproven("other tables have the same target")
