"""DDL at its place in the stream, done to the target instead of loading the table again (docs/ddl.md).

What is proven to do the same is done where the statement stands: everything before it is committed, nothing after it is
read yet. On PostgreSQL the ALTER, the table's new definition and the checkpoint behind the statement are one
transaction. The MySQL family commits DDL by itself: there the intent is recorded first, then comes the one ALTER, then
definition and checkpoint. After a kill the statement comes again, finds its intent, and sees in the target's own
definition whether the ALTER was done.

The new definition is worked out from the statement. The source's own is read afterwards, and compared where it is known
to be of the same version: at the position that was written last when it was read, unless another DDL came before
(`DefinitionAudit`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cdc.errors import SinkRefused, SinkUnavailable, UnsupportedData
from cdc.log import Logger
from cdc.model import FilePos, SchemaChange, ServerIdentity, SourcePosition, TableDefinition, TableName
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.tables import TableRegistry
from cdc.schema.alteration import TargetAlteration, alteration, require_mirror
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import StatementText, effect_of
from cdc.schema.target import TargetTable
from cdc.sinks.base import ExistingTable, Sink
from cdc.source.connection import SourceConnection
from cdc.source.definitions import read_definition
from cdc.source.positions import written_file_pos
from checkpoints.checkpoint import Checkpoint, encode_position
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["DefinitionAudit", "SchemaStep"]

# In TableRecord.step: the definition was worked out, and not yet compared with the source's.
_WORKED_OUT = "worked out"
_INTENT = "begun "
_STATEMENT_SHOWN_CHARS = 200
# Readers queue behind an ALTER that waits, and all other tables behind the statement.
_LOCK_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done for one statement. `alteration` is None where the table is emptied."""

    before: TableRecord
    after: TableRecord
    target: TargetTable
    alteration: TargetAlteration | None
    intent: str


class SchemaStep:
    """Follows DDL on one sink, in the applier's thread."""

    def __init__(
        self, *, sink: Sink, store: InSinkStore, hooks: Hooks, log: Logger, server_version: tuple[int, ...]
    ) -> None:
        self._sink = sink
        self._store = store
        self._hooks = hooks
        self._log = log
        self._server_version = server_version

    def follow(self, tables: TableRegistry, change: SchemaChange, checkpoint: Checkpoint) -> bool:
        """Do what the statement did, and commit the checkpoint behind it. False: the tables have to be loaded again.

        Nothing may be open on the sink. Raises SinkRefused where the sink does not take it (park the table),
        SinkUnavailable, LeaseLost.
        """
        for tries_left in reversed(range(_LOCK_TRIES)):
            try:
                plan = self._plan(tables, change)
            except (Unproven, UnsupportedData) as error:
                return self._leave(change, str(error))
            try:
                self._do(plan, tables, checkpoint.next(change.end))
                break
            except Unproven as error:
                return self._leave(change, str(error))
            except SinkUnavailable as error:
                if not self._sink.has_waited_for_lock(error):
                    raise
                self._on_lock(plan.target, change, error, tries_left)
        tables.put(plan.after)
        self._hooks("schema_recorded")
        self._log.info(
            "schema_followed",
            table=str(plan.after.source),
            statement=_shown_statement(change),
            target_changed=plan.alteration is None or not plan.alteration.is_empty,
            position=str(change.end),
        )
        return True

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

    def _plan(self, tables: TableRegistry, change: SchemaChange) -> _Plan:
        """Raises Unproven; UnsupportedData for a definition that this sink or the configuration does not take."""
        if len(change.tables) != 1 or change.is_dropped:
            raise Unproven("it drops or touches several tables")
        if not change.is_exact:
            raise Unproven("it is no statement by itself, or failed, or is not known to the letter")
        record = tables.record(change.tables[0])
        if record is None or record.state != "ready" or record.definition is None:
            raise Unproven("the table has no complete version on the sink")
        intent = _INTENT + encode_position(change.end)
        if record.step.startswith(_INTENT) and record.step != intent:
            raise Unproven("another statement was begun on the target")
        text = StatementText(
            change.statement,
            change.database,
            ansi_quotes=change.has_ansi_quotes,
            backslash_escapes=change.has_backslash_escapes,
        )
        effect = effect_of(text, record.definition, server_version=self._server_version)
        options = tables.options(record.source)
        require_mirror(options)
        if any(other.target == record.target and other.source != record.source for other in tables.records()):
            raise Unproven("other tables have the same target")
        before = tables.target(record.source)
        if effect.is_emptied:
            return _Plan(record, record, before, None, intent)
        after = tables.make_target(effect.definition)
        if effect.definition != record.definition:
            worked_out = replace(record, definition=effect.definition, key=after.source_key, step=_WORKED_OUT)
        else:
            worked_out = record
        return _Plan(record, worked_out, after, alteration(before, after, effect, options), intent)

    # ------------------------------------------------------------ doing it

    def _do(self, plan: _Plan, tables: TableRegistry, checkpoint: Checkpoint) -> None:
        alteration = plan.alteration
        is_alter = alteration is not None and not alteration.is_empty
        if alteration is not None and is_alter and self._sink.kind != "postgresql":
            self._alter_by_itself(plan, alteration, tables)
        with self._sink.transaction() as tx:
            if alteration is None:
                tx.clear(plan.target)
            elif is_alter and self._sink.kind == "postgresql":
                existing = self._inspected(plan, alteration)
                if _is_begun(alteration, existing, self._sink):
                    raise Unproven("somebody has altered the target")
                self._sink.follow_ddl(alteration, existing)
                self._require_fits(plan, alteration)
                self._hooks("schema_altered")
            self._store.save_table(tx, plan.after)
            self._store.save(tx, checkpoint)
            tx.commit()

    def _alter_by_itself(self, plan: _Plan, alteration: TargetAlteration, tables: TableRegistry) -> None:
        """On a sink that commits DDL by itself. What an earlier instance began is recognised by its intent."""
        existing = self._inspected(plan, alteration)
        if plan.before.step != plan.intent:
            if _is_begun(alteration, existing, self._sink):
                raise Unproven("somebody has altered the target")
            record = replace(plan.before, step=plan.intent)
            with self._sink.transaction() as tx:
                self._store.save_table(tx, record)
                self._store.fence(tx)
                tx.commit()
            tables.put(record)
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

    def _inspected(self, plan: _Plan, alteration: TargetAlteration) -> ExistingTable:
        existing = self._sink.inspect(plan.target)
        if existing is None:
            raise Unproven("the target is gone")
        names = _names(existing, self._sink)
        for column in alteration.before.columns:
            if column.name not in alteration.goes and _folded(column.name, self._sink) not in names:
                raise Unproven(f"somebody has dropped the target's column {column.name}")
        return existing

    def _require_fits(self, plan: _Plan, alteration: TargetAlteration) -> None:
        existing = self._inspected(plan, alteration)
        differences = self._sink.differences(plan.target, existing)
        if differences or not _is_done(alteration, existing, self._sink):
            raise Unproven(f"the target is not as it should be: {'; '.join(differences)}")


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
            if record.state != "ready" or record.step != _WORKED_OUT or record.definition is None:
                continue
            try:
                found = read_definition(source, record.source)
            except UnsupportedData:
                found = None  # of a later version: its DDL is on its way
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
        self._save(replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, step=""))

    def _save(self, record: TableRecord) -> None:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
        self._tables.put(record)


def _has_same_rows(one: TableDefinition, other: TableDefinition) -> bool:
    """Are the two alike in all that decides how rows are read and where they go?"""

    def plain(definition: TableDefinition) -> list[object]:
        return [replace(column, default=None, comment="") for column in definition.columns]

    return one.primary_key == other.primary_key and plain(one) == plain(other)


def _shown(definition: TableDefinition | None) -> str:
    if definition is None:
        return "no table"
    return ", ".join(f"{column.name} {column.column_type}" for column in definition.columns)
