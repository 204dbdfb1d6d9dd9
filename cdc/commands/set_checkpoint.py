"""`cdc checkpoint set`: have a stream come again from an older position, with the tables' definitions of that time.

For targets that were restored from a backup of that time without the metadata, or that have lost what came since. The
definitions are taken from the schema history, else from a file; where neither has them and the source's log does not
name its columns, the command refuses. A table that cannot be brought forward from there is loaded again: one whose
target is not as it was then, one that was made since, and one whose changes may not be applied twice.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from cdc.app import make_sink, pipeline_name, routing, service_ids, sinks_named, source_settings
from cdc.binlog.constants import EventType
from cdc.commands.asker import asker
from cdc.commands.leases import leases_taken
from cdc.config import Config, SinkSettings
from cdc.errors import BinlogPurged, ConfigError, SourceChanged, SourceUnavailable, UnsupportedData
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, SourcePosition, TableDefinition, TableName
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.tables import TableRegistry
from cdc.schema.modes import keeps_rows
from cdc.sinks.base import Sink, SinkTransaction
from cdc.source.cascades import read_hidden_keys
from cdc.source.connection import SourceConnection, connect
from cdc.source.groups import is_between_groups
from cdc.source.positions import is_in_log, uses_gtid
from cdc.source.schema_file import SchemaFile, read_schema_file
from cdc.source.stream import BinlogStream
from cdc.tail.live import free_server_id
from checkpoints.checkpoint import Checkpoint
from checkpoints.history import TableHistory, has_come_to
from checkpoints.lanes import forget_prepared
from checkpoints.marks import MarkStore
from checkpoints.skips import put_skip
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["set_checkpoint"]

_ANSWER_SECONDS_MAX = 60.0
_PLACE = re.compile(r"(?P<file>[^\s:,]+\.\d+):(?P<pos>\d+)")


@dataclass(frozen=True, slots=True)
class _Plan:
    """One lane. `before`, `found`: its checkpoint and its tables, as they were when it was looked at; `reasons`: of the
    tables that are loaded again; `unknown`: of those among them whose definition is not known; `changed`: those that go
    on with other columns; `children`: those that foreign keys change in no event; `others`: records of tables that are
    not followed."""

    store: InSinkStore
    before: Checkpoint
    found: Mapping[TableName, TableRecord]
    records: list[TableRecord]
    reasons: dict[str, str]
    changed: list[str]
    unknown: dict[str, str]
    histories: Mapping[TableName, TableHistory]
    children: Set[TableName]
    others: list[TableRecord] = field(default_factory=list)


def set_checkpoint(
    config: Config,
    place: str,
    *,
    only_sinks: list[str],
    schema: Path | None,
    is_restored: bool,
    reloads: bool,
    is_confirmed: bool,
) -> int:
    """Set the checkpoints of the sinks back to `place`: a GTID set or list, or FILE:POS.

    Args:
        schema: a file with definitions of that time, for tables whose history does not reach so far.
        is_restored: the targets are exactly as they were then.
        reloads: load the tables again whose definitions are not known.
    Raises ConfigError where that cannot be, with nothing changed.
    """
    file = read_schema_file(schema) if schema is not None else None
    with connect(source_settings(config)) as source:
        position = _position(source, place, taken_ids=service_ids(config))
        for settings in sinks_named(config, only_sinks):
            sink = make_sink(settings)
            try:
                sink.open()
                plans = _plans(config, settings, sink, source, position, file, is_restored=is_restored, reloads=reloads)
                _say(settings.name, position, plans)
                _confirm(is_confirmed=is_confirmed)
                _carry_out(sink, pipeline_name(config, settings), plans, position)
                typer.echo(f"{settings.name}: the checkpoint is {position} now")
            finally:
                sink.close()
    return 0


def _confirm(*, is_confirmed: bool) -> None:
    if not is_confirmed:
        if not sys.stdin.isatty():
            raise ConfigError("checkpoint set asks for confirmation", hint="give --yes where nobody can answer")
        typer.confirm("Set it back", abort=True)


def _plans(
    config: Config,
    settings: SinkSettings,
    sink: Sink,
    source: SourceConnection,
    position: SourcePosition,
    file: SchemaFile | None,
    *,
    is_restored: bool,
    reloads: bool,
) -> list[_Plan]:
    """One for each lane that has a checkpoint. Raises ConfigError."""
    name = pipeline_name(config, settings)
    stores = lane_stores(sink, name)
    if not stores[1].exists():
        raise ConfigError(f"sink {settings.name} has no checkpoint yet", hint="`cdc run` begins one")
    stores[1].create()
    _require_no_sides(sink, name)
    plans = []
    for store in stores.values():
        lease = store.read_lease()
        if lease is not None and store.is_holder_alive(lease):
            raise ConfigError(f"{store.pipeline} is being run by {lease.holder}", hint="stop that instance first")
        checkpoint, _ = store.load_checkpoint()
        if checkpoint is None:
            continue
        if not has_come_to(checkpoint.position, position):
            raise ConfigError(
                f"{position} is not behind the checkpoint of {store.pipeline}, {checkpoint.position}",
                hint="a checkpoint is only ever set back; `cdc skip` steps over what cannot be passed",
            )
        found = store.load_tables()
        tables = TableRegistry(routing(config, settings), sink.kind, found.values())
        plan = _Plan(store, checkpoint, found, [], {}, [], {}, store.histories(), _children(config, source, tables))
        for record in tables.records():
            if record.state == "ready" and record.definition is not None:
                _decide(plan, tables, record, position, file, is_restored=is_restored)
            else:
                plan.others.append(record)
        if plan.unknown and not reloads:
            raise ConfigError(
                f"the definitions at {position} are not known: "
                f"{'; '.join(f'{k}: {v}' for k, v in plan.unknown.items())}",
                hint="give a file with their CREATE TABLE of that time (--schema FILE), or have them loaded again "
                "(--reload)",
            )
        plans.append(plan)
    return plans


def _require_no_sides(sink: Sink, pipeline: str) -> None:
    if side_stores(sink, pipeline):
        raise ConfigError(
            f"tables are being loaded beside the stream of sink {sink.name}",
            hint="let `cdc run --until-caught-up` finish that first",
        )


# ---------------------------------------------------------------- the place


def _position(source: SourceConnection, place: str, *, taken_ids: int) -> SourcePosition:
    """Raises ConfigError for what is no end of a transaction in the log of this source.

    `taken_ids`: so many ids of the block belong to the service.
    """
    identity = source.identity()
    place = place.partition(" @ ")[0]  # of `GTIDS @ FILE:POS`, as positions are printed, the GTIDs say it all
    match = _PLACE.fullmatch(place)
    if match is None:
        try:
            gtid = MysqlGtidSet.parse(place) if source.flavor == "mysql" else MariadbGtidList.parse(place)
        except ValueError as error:
            raise ConfigError(
                f"{place!r} is no position of a {source.flavor} server: {error}",
                hint="give a GTID set or list, or FILE:POS, as `cdc checkpoint history` prints them",
            ) from None
        if not uses_gtid(source):
            raise ConfigError(f"{place} is a GTID position, and the source is followed by file", hint="give FILE:POS")
        position = SourcePosition(identity, None, gtid)
        if source.flavor == "mysql":
            _require_in_log(source, position)
        else:
            _require_sent(source, position, free_server_id(source, taken=taken_ids))
        return position
    return _file_position(source, FilePos.of(match["file"], int(match["pos"])))


def _require_in_log(source: SourceConnection, position: SourcePosition) -> None:
    if not is_in_log(source, position):
        raise ConfigError(
            f"the source {source.settings.address} does not have its log from {position} on",
            hint="SHOW BINARY LOGS says what it has; load again what it has purged: cdc snapshot",
        )


def _require_sent(source: SourceConnection, position: SourcePosition, server_id: int) -> None:
    """MariaDB alone knows whether its log goes on from a GTID list, and says so when it is asked to send."""
    stream = BinlogStream(
        source.settings, flavor=source.flavor, position=position, server_id=server_id, server=source.identity()
    )
    first = _FirstOfLog()
    deadline = time.monotonic() + _ANSWER_SECONDS_MAX
    try:
        stream.open()
        while not stream.deliver(first):
            if time.monotonic() > deadline:
                raise SourceUnavailable(f"source {source.settings.address} does not begin to send its log")
            stream.fill(1.0)
    except (BinlogPurged, SourceChanged) as error:
        raise ConfigError(
            f"the source {source.settings.address} does not have its log from {position} on: {error.message}",
            hint="give a list that `cdc checkpoint history`, `cdc checkpoint show` or the log prints; SHOW BINARY LOGS "
            "says what the source has; load again what it has purged: cdc snapshot",
        ) from error
    finally:
        stream.close()


class _FirstOfLog:
    """Waits for what a server sends only once it has found the place: an event of a group, or that there is none."""

    saw_barrier = False
    _BEFORE = frozenset(
        {
            EventType.ROTATE,
            EventType.FORMAT_DESCRIPTION,
            EventType.MARIADB_GTID_LIST,
            EventType.MARIADB_BINLOG_CHECKPOINT,
            EventType.MARIADB_START_ENCRYPTION,
        }
    )

    def consume(self, window: memoryview) -> int:  # noqa: ARG002 - the protocol's
        return 0  # one by one

    def feed(self, content: memoryview) -> bool:
        return content[4] not in self._BEFORE


def _file_position(source: SourceConnection, file: FilePos) -> SourcePosition:
    if source.flavor == "mysql" and uses_gtid(source):
        raise ConfigError(
            f"the source is followed by GTID, and {file} does not say one",
            hint="give the GTID set; `cdc checkpoint history` and the log name it beside the file",
        )
    _require_in_log(source, SourcePosition(source.identity(), file, None))
    if not is_between_groups(source, file):
        raise ConfigError(f"no transaction ends at {file}", hint="`mysqlbinlog` says where they do (end_log_pos)")
    gtid = None
    if source.flavor == "mariadb" and uses_gtid(source):
        text = source.query_text("SELECT BINLOG_GTID_POS(%s, %s)", (file.file, file.pos))[0][0]
        gtid = MariadbGtidList.parse(text) if text is not None else None
    return SourcePosition(source.identity(), file, gtid)


# ---------------------------------------------------------------- what is to be done


def _decide(
    plan: _Plan,
    tables: TableRegistry,
    record: TableRecord,
    position: SourcePosition,
    file: SchemaFile | None,
    *,
    is_restored: bool,
) -> None:
    """How one table goes on from there. Raises ConfigError."""
    assert record.definition is not None, "it is ready"
    name = str(record.source)
    history = plan.histories.get(record.source, TableHistory((), plan.before.position))
    definition = history.at(position)
    if definition is None and file is not None:
        definition = file.find(record.source, record.definition.flavor, position)
    reason = _why_load(record, history, position, is_restored=is_restored)
    if reason is None and not is_restored and record.source in plan.children:
        reason = "foreign keys change its rows in no event, and would change rows that are newer"
    # Whether the log of then names columns is not to be seen today, and what does not fit today's parks its table.
    if reason is None and definition is None:
        reason = plan.unknown[name] = history.why_unknown(position)
    if reason is None and definition is not None:
        reason = _misfit(tables, plan.store.sink, record, definition)
    if reason is not None:
        plan.reasons[name] = reason
        again = replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, step="")
        plan.records.append(again)
    elif definition is not None and definition != record.definition:
        plan.changed.append(name)
        key = tables.make_target(definition).source_key
        plan.records.append(replace(record, definition=definition, key=key, step=""))
    else:
        plan.records.append(replace(record, step=""))


def _why_load(record: TableRecord, history: TableHistory, position: SourcePosition, *, is_restored: bool) -> str | None:
    """Why its changes cannot come again, None where they can. Raises ConfigError where no load would help, either."""
    if not is_restored and keeps_rows(record.options):
        raise ConfigError(
            f"{record.source} keeps what was (mode: {record.options['mode']}), and would have its changes twice",
            hint="restore its target as it was at that position, and say so: --restored",
        )
    if not is_restored and not record.key:
        return "it has no key, so that its changes may not be applied twice (--restored, where its target is as it was)"
    if history.is_created_behind(position):
        return "it was made later"
    if record.left_out:
        return "its target lacks columns"
    return None


def _children(config: Config, source: SourceConnection, tables: TableRegistry) -> Set[TableName]:
    """The tables to which cascades are applied that are in no event (`policies.hidden_cascades`)."""
    captured = {record.source for record in tables.records() if record.state != "dropped"}
    asked = {t for t in captured if config.policies_for(t.database, t.table).hidden_cascades == "apply"}
    return {key.table for key in read_hidden_keys(source, asked)} if asked else set()


def _misfit(tables: TableRegistry, sink: Sink, record: TableRecord, definition: TableDefinition) -> str | None:
    """Why the table's target cannot be the one of that definition."""
    try:
        now, then = tables.target(record.source), tables.make_target(definition)
    except UnsupportedData as error:
        return error.message
    existing = sink.inspect(then)
    if existing is None:
        return "its target is gone"
    differences = sink.differences(then, existing)
    names = {column.name for column in then.columns}
    later = [c.name for c in now.columns if c.name not in names and c.name in existing.columns]
    if later:
        differences = [*differences, f"it has {', '.join(later)}, which came later"]
    return f"its target is not as it was: {'; '.join(differences)}" if differences else None


def _say(sink: str, position: SourcePosition, plans: Sequence[_Plan]) -> None:
    for plan in plans:
        typer.echo(f"{sink}: from {plan.before.position} back to {position}")
        for table in plan.changed:
            typer.echo(f"  {table}: with its definition of that time")
        for table, reason in plan.reasons.items():
            typer.echo(f"  {table}: loaded again; {reason}")


# ---------------------------------------------------------------- doing it


def _carry_out(sink: Sink, pipeline: str, plans: Sequence[_Plan], position: SourcePosition) -> None:
    """In one transaction. Raises ConfigError, with nothing changed, where somebody has moved a checkpoint or loaded a
    table meanwhile, or holds a lease; LeaseLost.
    """
    who = asker()
    with leases_taken([plan.store for plan in plans], "checkpoint set", who=who):
        _require_no_sides(sink, pipeline)
        for plan in plans:
            _require_unmoved(plan)
        with sink.transaction() as tx:
            for plan in plans:
                _set_back(tx, plan, position, who=who)
            tx.commit()


def _require_unmoved(plan: _Plan) -> None:
    checkpoint, _ = plan.store.load_checkpoint()
    if checkpoint != plan.before:
        raise ConfigError(
            f"the checkpoint of {plan.store.pipeline} has moved from {plan.before.position} meanwhile",
            hint="see where it is (`cdc checkpoint show`), and give the command again",
        )
    now = plan.store.load_tables()
    if changed := sorted(str(name) for name in {*plan.found, *now} if plan.found.get(name) != now.get(name)):
        raise ConfigError(
            f"{', '.join(changed)} of {plan.store.pipeline}: loaded or changed meanwhile",
            hint="see how they are (`cdc status`), and give the command again",
        )


def _set_back(tx: SinkTransaction, plan: _Plan, position: SourcePosition, *, who: str) -> None:
    store = plan.store
    store.history.set_back(tx, position)
    # Of those that are not followed the history says so again: what it said from later on is gone.
    for record in [*plan.records, *plan.others]:
        store.save_table(tx, record)
    for record in plan.records:
        if keeps_rows(record.options):  # as many rows and as late ones as the target has, which was restored
            MarkStore(store).forget(tx, record.source)
    forget_prepared(store, tx)
    put_skip(
        store,
        tx,
        who=who,
        place=str(position),
        before=plan.before.position,
        after=position,
        tables=[record.source for record in plan.records if record.state == "pending"],
        content=["cdc checkpoint set"],
    )
    store.save(tx, plan.before.next(position))
