"""DDL at its place in the stream, done to the target instead of loading the table again (docs/ddl.md).

What is proven to do the same is done where the statement stands: everything before it is committed, nothing after it is
read yet. On PostgreSQL the ALTER, the table's new definition and the checkpoint behind the statement are one
transaction. The MySQL family commits DDL by itself: there the intent is recorded first, then comes the one ALTER, then
definition and checkpoint. After a kill the statement comes again, finds its intent, and sees in the target's own
definition whether the ALTER was done.

DDL on whole tables (CREATE, DROP, RENAME) is in `table_steps`. What the configuration keeps from the target
(`schema.ddl_policies`) is left out here, or parks the table at the statement (`held`).

The new definition is worked out from the statement. The source's own is read afterwards, and compared where it is known
to be of the same version: at the position that was written last when it was read, unless another DDL came before
(`DefinitionAudit`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from cdc.errors import InvariantBroken, SinkRefused, SinkUnavailable, UnsupportedData
from cdc.log import Logger
from cdc.model import (
    ColumnDefinition,
    FilePos,
    SchemaChange,
    ServerIdentity,
    SourcePosition,
    TableDefinition,
    TableName,
)
from cdc.pipeline.held import held_record
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.table_steps import INTENT, SourceFacts, TableSteps
from cdc.pipeline.tables import TableRegistry
from cdc.schema.alteration import TargetAlteration, alteration, require_live_rows
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import Effect, StatementText, effect_of
from cdc.schema.ddl_policies import differences_of
from cdc.schema.moves import moves_of, reader_of
from cdc.schema.sharing import Reshaping, columns_on_sink
from cdc.schema.target import TargetTable
from cdc.sinks import versions
from cdc.sinks.base import ExistingTable, Sink
from cdc.source.connection import SourceConnection
from cdc.source.definitions import read_definition
from cdc.source.positions import written_file_pos
from cdc.source.supplementary import TableHeld
from checkpoints.checkpoint import Checkpoint, encode_position
from checkpoints.store import WORKED_OUT, InSinkStore, TableRecord

__all__ = ["DefinitionAudit", "SchemaStep", "beside_target", "with_dropped_kept"]

_STATEMENT_SHOWN_CHARS = 200
# Readers queue behind an ALTER that waits, and all other tables behind the statement.
_LOCK_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done for one statement. `alteration` is None where the table is emptied (`keeps_rows`: is not)."""

    before: TableRecord
    after: TableRecord
    target: TargetTable
    alteration: TargetAlteration | None
    intent: str
    keeps_rows: bool = False
    is_approved: bool = False
    others: Mapping[str, ColumnDefinition] | None = None
    """Of a target that other tables share: the columns that they have there."""


class _Held(Exception):
    """The configuration has the operator decide, for this reason."""


class SchemaStep:
    """Follows DDL on one sink, in the applier's thread."""

    def __init__(
        self, *, sink: Sink, store: InSinkStore, hooks: Hooks, log: Logger, facts: SourceFacts, now: Callable[[], str]
    ) -> None:
        """`now` is the time as errors have it."""
        self._sink = sink
        self._store = store
        self._hooks = hooks
        self._log = log
        self._facts = facts
        self._now = now
        self._target: TargetTable | None = None

    def follow(
        self,
        tables: TableRegistry,
        change: SchemaChange,
        checkpoint: Checkpoint,
        *,
        prepared: Collection[TableName] = (),
        is_approved: bool = False,
    ) -> bool:
        """Do what the statement did, and commit the checkpoint behind it. False: the tables have to be loaded again.

        Where the configuration wants it otherwise, the target stays as it is, or its table is parked at the statement;
        `is_approved`: the operator has said that it is to be followed. `prepared`: tables with rows that wait for an
        XA COMMIT. Nothing may be open on the sink. Raises SinkRefused where the sink does not take it (park the table),
        SinkUnavailable, LeaseLost.
        """
        if change.xa is not None or not change.statement:
            return False
        ddl = {"apply"} if is_approved else {tables.ddl_policies(name).ddl for name in self._known(tables, change)}
        if "approve" in ddl:
            return self._hold(tables, change, checkpoint, "ddl: approve")
        if "log" in ddl:
            return self.skip(tables, change, checkpoint)
        try:
            done = self._followed(tables, change, checkpoint, prepared, is_approved=is_approved)
        except _Held as held:
            return self._hold(tables, change, checkpoint, str(held))
        except SinkRefused as error:
            if any(str(record.source) == error.table for record in tables.records()):
                raise
            return self._leave(change, str(error))  # a table that is new: there is nothing to park before its load
        except (Unproven, UnsupportedData) as error:
            if not is_approved and (policy := self._type_policy(tables, change)):
                return self._hold(tables, change, checkpoint, policy)
            return self._leave(change, str(error))
        self._take_over(tables, done[0])
        self._log.info(
            "schema_followed",
            tables=[str(name) for name in change.tables],
            statement=_shown_statement(change),
            target_changed=done[1],
            position=str(change.end),
        )
        return True

    def _followed(
        self,
        tables: TableRegistry,
        change: SchemaChange,
        checkpoint: Checkpoint,
        prepared: Collection[TableName],
        *,
        is_approved: bool,
    ) -> tuple[list[TableRecord], bool]:
        """What is recorded of the tables now, and whether targets have changed. Raises Unproven besides."""
        if not change.is_exact:
            raise Unproven("it is no statement by itself, or failed, or is not known to the letter")
        steps = TableSteps(
            sink=self._sink,
            store=self._store,
            hooks=self._hooks,
            facts=self._facts,
            policies=lambda database, table: tables.ddl_policies(TableName(database, table)),
        )
        text, behind = _text(change), checkpoint.next(change.end)
        if is_approved and moves_of(text, spelled=self._facts.spelled) is not None:
            raise Unproven("the other names of a RENAME are not known any more")
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                records = steps.follow(tables, change, text, behind, prepared)
                self._target = steps.target
                if records is not None:
                    return records, True
                plan = self._plan(tables, change, text, is_approved=is_approved)
                self._target = plan.target
                self._do(plan, tables, behind)
            except SinkUnavailable as error:
                target = steps.target or self._target
                if target is None or not self._sink.has_waited_for_lock(error):
                    raise
                self._on_lock(target, change, error, tries_left)
                continue
            if plan.keeps_rows:
                self._log.warning("truncate_ignored", table=str(plan.after.source), position=str(change.end))
            return [plan.after], plan.alteration is None or not plan.alteration.is_empty
        raise InvariantBroken("the last try raises")

    def _known(self, tables: TableRegistry, change: SchemaChange) -> list[TableName]:
        """The tables of the statement that are here, complete or on their way."""
        found = ((name, tables.record(name)) for name in change.tables)
        return [
            name for name, record in found if record is not None and record.definition and record.state != "dropped"
        ]

    def _type_policy(self, tables: TableRegistry, change: SchemaChange) -> str:
        """The policy by which the table is not loaded with what may be other types; '' where there is none."""
        policies = {tables.ddl_policies(name).on_type_change for name in self._known(tables, change)} - {"apply"}
        try:
            words = {token.text.upper() for token in reader_of(_text(change)).tokens if not token.is_quoted}
        except Unproven:
            words = {"CHANGE"}  # an executable comment may do anything
        return f"on_type_change: {min(policies)}" if policies and words & {"CHANGE", "CONVERT", "MODIFY"} else ""

    def _take_over(self, tables: TableRegistry, records: list[TableRecord]) -> None:
        for record in records:
            tables.put(record)
        self._hooks("schema_recorded")

    # ------------------------------------------------------------ what is not done

    def _hold(self, tables: TableRegistry, change: SchemaChange, checkpoint: Checkpoint, reason: str) -> bool:
        """Park the tables at the statement; the stream goes on without them."""
        records = [
            held_record(record, change, reason, self._found(tables, record), since=self._now())
            for name in change.tables
            if (record := tables.record(name)) is not None and record.state != "dropped"
        ]
        self._record(records, checkpoint.next(change.end))
        self._take_over(tables, records)
        for record in records:
            said = record.error or {}
            self._log.error(
                "table_parked",
                table=str(record.source),
                error_class=said["class"],
                message=said["message"],
                hint=said["hint"],
                position=said["position"],
            )
        return True

    def _found(self, tables: TableRegistry, record: TableRecord) -> list[str]:
        """What a load would change about the target now: shown to the operator, who says yes to no more than that.

        Nothing where the source does not tell the definition now. Raises SourceUnavailable.
        """
        with contextlib.suppress(UnsupportedData, TableHeld), self._facts.connect() as source:
            definition = read_definition(source, record.source)
            if definition is not None and record.definition is not None:
                return differences_of(record.definition, definition, keeps=tables.options(record.source).keeps)
        return []

    def skip(
        self, tables: TableRegistry, change: SchemaChange, checkpoint: Checkpoint, *, may_hold: bool = True
    ) -> bool:
        """Go on behind the statement with the targets as they are, and with the columns that both sides have.

        What cannot go on so is parked at the statement; without `may_hold` raises Unproven, UnsupportedData. Raises
        SinkUnavailable, LeaseLost.
        """
        try:
            records = self._skipped(tables, change)
        except (Unproven, UnsupportedData) as error:
            if not may_hold:
                raise
            return self._hold(tables, change, checkpoint, f"the target cannot stay as it is: {error}")
        self._record(records, checkpoint.next(change.end))
        self._take_over(tables, records)
        self._log.warning(
            "schema_not_applied",
            tables=[str(name) for name in change.tables],
            statement=_shown_statement(change),
            left_out=sorted({name for record in records for name in record.left_out}),
            position=str(change.end),
        )
        return True

    def _skipped(self, tables: TableRegistry, change: SchemaChange) -> list[TableRecord]:
        if change.is_dropped == set(change.tables) and change.is_exact:
            gone = (tables.record(name) for name in change.tables)
            return [replace(r, state="dropped", step="", loaded_from=None, error=None) for r in gone if r is not None]
        record, effect = self._effect(tables, change, _text(change))
        if effect.is_emptied or effect.definition == record.definition:
            return [record]
        return [self.beside_target(tables, record, effect)]

    def beside_target(self, tables: TableRegistry, record: TableRecord, effect: Effect) -> TableRecord:
        """As `beside_target`, by what a statement's words say."""
        return replace(beside_target(self._sink, tables, record, effect.definition), step=WORKED_OUT)

    def _record(self, records: list[TableRecord], checkpoint: Checkpoint) -> None:
        with self._sink.transaction() as tx:
            for record in records:
                self._store.save_table(tx, record)
            self._store.save(tx, checkpoint)
            tx.commit()

    def _on_lock(self, target: TargetTable, change: SchemaChange, error: SinkUnavailable, tries_left: int) -> None:
        """Somebody holds a lock on the target. Raises SinkRefused when that was the last try: the rest has to go on."""
        table = str(change.tables[0])
        message = f"{error.message}; it is what `{_shown_statement(change)}` has done to {table}"
        look = _WHO_HOLDS[self._sink.kind].format(namespace=target.namespace, name=target.name)
        if tries_left:
            self._log.warning(
                "schema_waits_for_lock", table=table, error=message, tries_left=tries_left, hint=f"end it: {look}"
            )
            return
        raise SinkRefused(
            message,
            table=table,
            hint=f"a transaction that stays open, or a long query, holds a lock on the target: {look} "
            f"When it has ended, load the table again: cdc snapshot {table}",
        ) from error

    def _leave(self, change: SchemaChange, reason: str) -> bool:
        self._log.info("schema_not_followed", tables=[str(name) for name in change.tables], reason=reason)
        return False

    # ------------------------------------------------------------ what is to be done

    def _effect(self, tables: TableRegistry, change: SchemaChange, text: StatementText) -> tuple[TableRecord, Effect]:
        """Of a statement on one table. Raises Unproven."""
        if len(change.tables) != 1 or change.is_dropped:
            raise Unproven("it drops or touches several tables")
        if not change.is_exact:
            raise Unproven("it is no statement by itself, or failed, or is not known to the letter")
        record = tables.record(change.tables[0])
        if record is None or record.state != "ready" or record.definition is None:
            raise Unproven("the table has no complete version on the sink")
        return record, effect_of(text, record.definition, server_version=self._facts.version)

    def _plan(self, tables: TableRegistry, change: SchemaChange, text: StatementText, *, is_approved: bool) -> _Plan:
        """Raises Unproven; UnsupportedData for a definition that this sink or the configuration does not take."""
        record, effect = self._effect(tables, change, text)
        policies = tables.ddl_policies(record.source)
        intent = INTENT + encode_position(change.end)
        if record.step.startswith(INTENT) and record.step != intent:
            raise Unproven("another statement was begun on the target")
        if effect.is_emptied and policies.on_truncate == "park" and not is_approved:
            raise _Held("on_truncate: park")
        if policies.on_type_change == "park" and not is_approved and _has_other_types(record, effect):
            raise _Held("on_type_change: park")
        options = tables.options(record.source)
        if effect.is_emptied:
            require_live_rows(options)
        is_shared = options.source_column is not None
        if not is_shared and not tables.is_alone(record.source):
            raise Unproven("other tables have the same target")
        before = tables.target(record.source)
        if effect.is_emptied:
            is_ignored = policies.on_truncate == "ignore" and not is_approved
            return _Plan(record, record, before, None, intent, keeps_rows=is_ignored)
        after = tables.make_target(effect.definition)
        if effect.definition != record.definition:
            worked_out = replace(record, definition=effect.definition, key=after.source_key, step=WORKED_OUT)
        else:
            worked_out = record
        made = alteration(before, after, effect, options)
        if policies.on_drop_column == "keep" or after.mode != "mirror":  # what is kept is never dropped by DDL
            made = with_dropped_kept(made)
        others = self._columns_of_others(record) if is_shared else None
        if others is not None and (made.renamed or (made.dropped and policies.on_drop_column == "keep")):
            raise Unproven("a column that other tables of the target may have, too")
        return _Plan(record, worked_out, after, made, intent, is_approved=is_approved, others=others)

    def _columns_of_others(self, record: TableRecord) -> dict[str, ColumnDefinition]:
        """What other tables have in the target, those of other pipelines and those that are gone, too."""
        found: dict[str, ColumnDefinition] = {}
        for pipeline, other in self._store.load_sharing(record.target):
            if (pipeline, other.source) != (self._store.pipeline, record.source) and other.definition is not None:
                found |= columns_on_sink(other.definition, other.options)
        return found

    # ------------------------------------------------------------ doing it

    def _do(self, plan: _Plan, tables: TableRegistry, checkpoint: Checkpoint) -> None:
        alteration = plan.alteration
        if plan.others is not None and alteration is not None:
            self._do_shared(plan, alteration, plan.others, checkpoint)
            return
        is_alter = alteration is not None and not alteration.is_empty
        if alteration is not None and is_alter and self._sink.kind != "postgresql":
            self._alter_by_itself(plan, alteration, tables)
        with self._sink.transaction() as tx:
            if alteration is None:
                if not plan.keeps_rows:
                    tx.clear(plan.target)
            elif is_alter and self._sink.kind == "postgresql":
                existing = self._inspected(plan, alteration)
                if _is_begun(alteration, existing, self._sink):
                    raise Unproven("somebody has altered the target")
                self._sink.follow_ddl(alteration, existing)
                self._require_fits(plan, alteration)
                self._hooks("schema_altered")
            if alteration is not None and alteration.filled:
                values = {added.column.name: added.existing for added in alteration.filled}
                tx.rewrite(plan.target, versions.fill(plan.target, values, self._sink.kind))
            self._store.save_table(tx, plan.after)
            self._store.save(tx, checkpoint)
            tx.commit()

    def _do_shared(
        self,
        plan: _Plan,
        alteration: TargetAlteration,
        others: Mapping[str, ColumnDefinition],
        checkpoint: Checkpoint,
    ) -> None:
        """The target gets what it lacks for this table, and loses what no table has; then its rows get their values.

        Both come out the same when they are done twice, so there is no intent.
        """
        existing = self._inspected(plan, alteration)
        dropped = [column.name for column in alteration.dropped]
        reshaping = self._sink.reshaping(plan.target, existing, others=others, former=dropped)
        if reshaping.misfits:
            raise Unproven("; ".join(reshaping.misfits))
        # A column that is there already has what others, or nobody, put there.
        there = _names(existing, self._sink)
        values = {
            added.column.name: added.existing
            for added in alteration.added
            if added.existing is not None or _folded(added.column.name, self._sink) in there
        }
        needed = {_folded(name, self._sink) for name in others}
        values |= {name: None for name in dropped if _folded(name, self._sink) in needed}
        if self._sink.kind != "postgresql":
            with self._sink.transaction() as tx:  # the ALTER itself is in no transaction that could be fenced
                self._store.fence(tx)
                tx.commit()
            with self._raced(plan, alteration, existing):
                self._reshape(plan, alteration, reshaping)
        with self._raced(plan, alteration, existing), self._sink.transaction() as tx:
            if self._sink.kind == "postgresql":
                self._reshape(plan, alteration, reshaping)
            if values:
                tx.rewrite(plan.target, versions.fill(plan.target, values, self._sink.kind))
            self._store.save_table(tx, plan.after)
            self._store.save(tx, checkpoint)
            tx.commit()

    @contextlib.contextmanager
    def _raced(self, plan: _Plan, alteration: TargetAlteration, before: ExistingTable) -> Iterator[None]:
        """What is refused because the target is not as `before` is tried again: others share it, and alter it."""
        try:
            yield
        except SinkRefused as error:
            if self._inspected(plan, alteration) == before:
                raise
            raise SinkUnavailable(
                f"another pipeline has altered {plan.target} on sink {self._sink.name} at the same moment",
                hint="the statement is tried again",
            ) from error

    def _reshape(self, plan: _Plan, alteration: TargetAlteration, reshaping: Reshaping) -> None:
        if reshaping.alterations:
            self._sink.alter_table(plan.target, reshaping.alterations)
            self._hooks("schema_altered")
        self._require_fits(plan, alteration, is_shared=True)

    def _alter_by_itself(self, plan: _Plan, alteration: TargetAlteration, tables: TableRegistry) -> None:
        """On a sink that commits DDL by itself. What an earlier instance began is recognised by its intent."""
        existing = self._inspected(plan, alteration)
        if plan.before.step != plan.intent:
            if _is_begun(alteration, existing, self._sink):
                raise Unproven("somebody has altered the target")
            # A table that waited for the operator stays parked until it is done: begun twice, it is loaded again.
            if not plan.is_approved:
                self._record_intent(replace(plan.before, step=plan.intent), tables)
        elif _is_begun(alteration, existing, self._sink) and not _is_done(alteration, existing, self._sink):
            raise Unproven("half of the statement is done on the target, which no ALTER leaves")
        self._hooks("schema_intent")
        with self._sink.transaction() as tx:  # the ALTER itself is in no transaction that could be fenced
            self._store.fence(tx)
            tx.commit()
        try:
            self._sink.follow_ddl(alteration, existing)
        except SinkRefused:
            # The ALTER of an instance that was killed may have ended only now.
            existing = self._inspected(plan, alteration)
            if not _is_done(alteration, existing, self._sink):
                raise
            self._sink.follow_ddl(alteration, existing)
        self._hooks("schema_altered")
        self._require_fits(plan, alteration)

    def _record_intent(self, record: TableRecord, tables: TableRegistry) -> None:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
        tables.put(record)

    def _inspected(self, plan: _Plan, alteration: TargetAlteration) -> ExistingTable:
        existing = self._sink.inspect(plan.target)
        if existing is None:
            raise Unproven("the target is gone")
        names = _names(existing, self._sink)
        for column in alteration.before.columns:
            if column.name not in alteration.goes and _folded(column.name, self._sink) not in names:
                raise Unproven(f"somebody has dropped the target's column {column.name}")
        return existing

    def _require_fits(self, plan: _Plan, alteration: TargetAlteration, *, is_shared: bool = False) -> None:
        existing = self._inspected(plan, alteration)
        differences = self._sink.differences(plan.target, existing)
        if differences or not (is_shared or _is_done(alteration, existing, self._sink)):
            raise Unproven(f"the target is not as it should be: {'; '.join(differences)}")


def beside_target(sink: Sink, tables: TableRegistry, record: TableRecord, definition: TableDefinition) -> TableRecord:
    """The table by its new definition, without the columns that the target lacks. Raises Unproven, UnsupportedData."""
    whole = tables.make_target(definition, left_out=())
    existing = sink.inspect(whole)
    if existing is None:
        raise Unproven("the target is gone")
    names = _names(existing, sink)
    lacks = [column for column in whole.columns if column.metadata is None and _folded(column.name, sink) not in names]
    if any(column.is_key for column in lacks):
        raise Unproven("the target lacks a column of the key")
    left_out = tuple(column.source.name for column in lacks)
    target = tables.make_target(definition, left_out=left_out)
    if differences := sink.differences(target, existing):
        raise Unproven("; ".join(differences))
    return replace(record, definition=definition, left_out=left_out, key=target.source_key)


def _text(change: SchemaChange) -> StatementText:
    return StatementText(
        change.statement,
        change.database,
        ansi_quotes=change.has_ansi_quotes,
        backslash_escapes=change.has_backslash_escapes,
    )


def _has_other_types(record: TableRecord, effect: Effect) -> bool:
    """Does a column that stays get another type?"""
    if record.definition is None:
        return False
    names = {new: old for old, new in effect.renamed.items()}
    before = {column.name: column for column in record.definition.columns}
    return any(
        (old.column_type, old.charset, old.collation) != (column.column_type, column.charset, column.collation)
        for column in effect.definition.columns
        if column.name not in effect.added and (old := before.get(names.get(column.name, column.name))) is not None
    )


def with_dropped_kept(made: TargetAlteration) -> TargetAlteration:
    """Columns that the source drops stay, and take the rows to come, which have nothing for them: NULL, no default."""
    pairs = [(column, replace(column, is_nullable=True, default=None)) for column in made.dropped]
    loose = tuple((column, kept) for column, kept in pairs if not column.is_nullable)
    plain = tuple((column, kept) for column, kept in pairs if column.default is not None)
    return replace(made, dropped=(), retyped=(*made.retyped, *loose), described=(*made.described, *plain))


# Who is to be asked for a lock, by kind of sink.
_WHO_HOLDS = {
    "postgresql": "SELECT pid, usename, state, query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks "
    """WHERE granted AND relation = '"{namespace}"."{name}"'::regclass);""",
    "mysql": "SELECT * FROM sys.processlist WHERE thd_id IN (SELECT OWNER_THREAD_ID FROM "
    "performance_schema.metadata_locks WHERE OBJECT_SCHEMA = '{namespace}' AND OBJECT_NAME = '{name}');",
    "mariadb": "SELECT * FROM information_schema.PROCESSLIST JOIN information_schema.INNODB_TRX ON ID = "
    "trx_mysql_thread_id;",
}


def _shown_statement(change: SchemaChange) -> str:
    return " ".join(change.statement.split())[:_STATEMENT_SHOWN_CHARS]


def _names(existing: ExistingTable, sink: Sink) -> set[str]:
    return {_folded(name, sink) for name in existing.columns}


def _folded(name: str, sink: Sink) -> str:
    return name if sink.kind == "postgresql" else name.lower()


def _is_begun(alteration: TargetAlteration, existing: ExistingTable, sink: Sink) -> bool:
    """Has a name come or gone?"""
    names = _names(existing, sink)
    return any(_folded(n, sink) in names for n in alteration.comes) or any(
        _folded(n, sink) not in names for n in alteration.goes
    )


def _is_done(alteration: TargetAlteration, existing: ExistingTable, sink: Sink) -> bool:
    """Have all names come and gone?"""
    names = _names(existing, sink)
    return all(_folded(n, sink) in names for n in alteration.comes) and not any(
        _folded(n, sink) in names for n in alteration.goes
    )


# ---------------------------------------------------------------- comparing with the source


class DefinitionAudit:
    """Compares definitions that were worked out with the source's own, once those are of the same version."""

    def __init__(self, *, sink: Sink, store: InSinkStore, log: Logger, tables: TableRegistry) -> None:
        self._sink = sink
        self._store = store
        self._log = log
        self._tables = tables
        self._waiting: dict[TableName, tuple[TableDefinition, TableDefinition | None, FilePos, ServerIdentity]] = {}

    def begin(self, source: SourceConnection) -> None:
        """Read the definitions at the beginning of a session."""
        for record in self._tables.records():
            if record.state != "ready" or record.step != WORKED_OUT or record.definition is None:
                continue
            try:
                found = read_definition(source, record.source)
            except UnsupportedData:
                found = None  # of a later version: its DDL is on its way
            except TableHeld:
                continue  # the next session looks again
            if found == record.definition:
                self._settle(record, found)
                continue
            self._waiting[record.source] = (record.definition, found, written_file_pos(source), source.identity())

    def passed(self, position: SourcePosition) -> bool:
        """The stream is at `position`, and all before it is committed. True: a table is to be loaded again."""
        is_wrong = False
        for name, (worked_out, found, written, server) in list(self._waiting.items()):
            if position.file is None or position.server != server or position.file < written:
                continue
            del self._waiting[name]
            record = self._tables.record(name)
            if record is None or record.state != "ready" or record.definition != worked_out:
                continue
            if found is not None and _has_same_rows(worked_out, found):
                self._settle(record, found)
            else:
                self._load_again(record, found)
                is_wrong = True
        return is_wrong

    def _settle(self, record: TableRecord, found: TableDefinition) -> None:
        self._save(replace(record, definition=found, step=""))

    def _load_again(self, record: TableRecord, found: TableDefinition | None) -> None:
        self._log.warning(
            "definition_worked_out_wrong",
            table=str(record.source),
            worked_out=_shown(record.definition),
            source=_shown(found),
            hint="the table is loaded again; please report the last DDL on it",
        )
        again = replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, step="")
        self._save(again, is_wrong=True)

    def _save(self, record: TableRecord, *, is_wrong: bool = False) -> None:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            if is_wrong:
                self._store.history.note_wrong(record.source)
            self._store.fence(tx)
            tx.commit()
        self._tables.put(record)


def _has_same_rows(one: TableDefinition, other: TableDefinition) -> bool:
    """Are the two alike in all that decides how rows are read and where they go?"""

    def plain(definition: TableDefinition) -> list[object]:
        return [replace(c, default=None, comment="", has_default_expression=False) for c in definition.columns]

    return one.primary_key == other.primary_key and plain(one) == plain(other)


def _shown(definition: TableDefinition | None) -> str:
    if definition is None:
        return "no table"
    return ", ".join(f"{column.name} {column.column_type}" for column in definition.columns)
