"""`cdc skip`: step over one transaction that a sink cannot be brought past, and load again the tables that it is about.

The checkpoint moves behind it, and nothing else moves: what lies before must have been applied. Who did it, when and
over what is written down in the sink's metadata, in the same transaction.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import typer

from cdc.app import make_sink, pipeline_name, sinks_named, source_settings
from cdc.commands.asker import asker
from cdc.commands.leases import leases_taken
from cdc.config import Config, SinkSettings
from cdc.errors import ConfigError
from cdc.model import FilePos, SourcePosition, TableName, Xa
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.sinks.base import Sink, SinkTransaction
from cdc.source.assembler import xa_named
from cdc.source.connection import SourceConnection, connect
from cdc.source.groups import EventGroup, groups_from, kept, shown
from checkpoints.checkpoint import Checkpoint
from checkpoints.prepared import PreparedStore
from checkpoints.skips import put_skip
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["skip"]

_XA_END = re.compile(r"(XA\s+(?:COMMIT|ROLLBACK)\s+X'[0-9a-f]*',X'[0-9a-f]*',-?\d+)\s*$", re.IGNORECASE)
_PLACE = re.compile(r"(?P<file>[^\s:]+\.\d+):(?P<pos>\d+)")


def skip(config: Config, place: str, *, only_sinks: list[str], is_confirmed: bool) -> int:
    """Step over the transaction that contains `place` (FILE:POS), on each sink whose checkpoint is right before it.

    Raises ConfigError where no sink's is, or an instance runs one of them.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ConfigError(f"{place!r} is no place in a binlog", hint="give FILE:POS, as errors and `cdc status` say it")
    wanted = FilePos.of(match["file"], int(match["pos"]))
    done = 0
    with connect(source_settings(config)) as source:
        for settings in sinks_named(config, only_sinks):
            done += _skip_on(config, settings, source, wanted, is_confirmed=is_confirmed)
    if not done:
        raise ConfigError(
            f"no sink's checkpoint is right before the transaction that contains {place}",
            hint="`cdc checkpoint show` says where they are; `cdc run` brings them to where they cannot go on",
        )
    return 0


@dataclass(frozen=True, slots=True)
class _Step:
    """Of a lane, or of what loads beside one: from `before` over the group."""

    store: InSinkStore
    before: SourcePosition
    group: EventGroup


def _skip_on(
    config: Config, settings: SinkSettings, source: SourceConnection, wanted: FilePos, *, is_confirmed: bool
) -> int:
    """How many of the sink's lanes, and of those that load beside them, have stepped over it."""
    sink = make_sink(settings)
    try:
        sink.open()
        name = pipeline_name(config, settings)
        stores = lane_stores(sink, name)
        if not stores[1].exists():
            return 0
        stores[1].create()
        steps = []
        for store in (*stores.values(), *side_stores(sink, name).values()):
            checkpoint, _ = store.load_checkpoint()
            group = _group_before(config, source, store, checkpoint, wanted) if checkpoint is not None else None
            if checkpoint is not None and group is not None:
                _require_idle(store)
                steps.append(_Step(store, checkpoint.position, group))
        if not steps:
            return 0
        for step in steps:
            _say(settings.name, step.group, _affected(step.group, step.store.load_tables().values()))
            if not is_confirmed:
                if not sys.stdin.isatty():
                    raise ConfigError("skip asks for confirmation", hint="give --yes where nobody can answer")
                typer.confirm("Step over it", abort=True)
        _carry_out(sink, steps, place=str(wanted))
        for step in steps:
            typer.echo(f"{settings.name}: the checkpoint is {step.group.after} now")
        return len(steps)
    finally:
        sink.close()


def _group_before(
    config: Config, source: SourceConnection, store: InSinkStore, checkpoint: Checkpoint, wanted: FilePos
) -> EventGroup | None:
    """The group with `wanted` in it, if nothing that this pipeline follows lies between its checkpoint and there."""
    records = list(store.load_tables().values())
    for group in groups_from(source, checkpoint.position, wanted):
        end = group.after.file
        if group.start <= wanted and end is not None and wanted < end:
            return group
        mapped = (name.partition(".") for name in group.mapped)
        if any(config.tables.matches(database, table) for database, _, table in mapped) or _affected(group, records):
            return None
    return None


def _require_idle(store: InSinkStore) -> None:
    lease = store.read_lease()
    if lease is not None and store.is_holder_alive(lease):
        raise ConfigError(f"{store.pipeline} is being run by {lease.holder}", hint="stop that instance first")


def _affected(group: EventGroup, records: Iterable[TableRecord]) -> list[TableRecord]:
    """The tables that may lack something without it: by its rows, by name in its statements, else all."""
    followed = [record for record in records if record.state in ("ready", "snapshotting", "pending")]
    if group.is_opaque:
        return followed
    return [r for r in followed if str(r.source) in group.mapped or any(_names(s, r.source) for s in group.statements)]


def _xas_ended(group: EventGroup) -> list[Xa]:
    """The prepared XA transactions that it commits or rolls back."""
    return [xa_named(found[1]) for found in map(_XA_END.search, group.statements) if found is not None]


def _names(statement: str, table: TableName) -> bool:
    """Are the table and its database in the text? (The server puts the session's own database before it.)"""
    return all(
        re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", statement, re.IGNORECASE)
        for name in (table.database, table.table)
    )


def _say(sink: str, group: EventGroup, affected: Sequence[TableRecord]) -> None:
    typer.echo(f"{sink}: the transaction at {group.start}")
    for line in shown(group):
        typer.echo(f"  {line}")
    tables = ", ".join(str(record.source) for record in affected) or "none"
    typer.echo(f"  loaded again afterwards: {tables}")


def _carry_out(sink: Sink, steps: Sequence[_Step], *, place: str) -> None:
    """In one transaction. Raises ConfigError, with nothing stepped over, where a checkpoint is not the one any more by
    which its group was found, or somebody else holds a lease.
    """
    who = asker()
    with leases_taken([step.store for step in steps], "skip", who=who):
        found = [_require_unmoved(step) for step in steps]
        with sink.transaction() as tx:
            for step, (checkpoint, affected) in zip(steps, found, strict=True):
                _step_over(tx, step, checkpoint, affected, who=who, place=place)
            tx.commit()


def _require_unmoved(step: _Step) -> tuple[Checkpoint, list[TableRecord]]:
    """The checkpoint, and the tables that may lack something."""
    checkpoint, _ = step.store.load_checkpoint()
    # While it was asked for, an instance may have come and gone: the checkpoint never goes back.
    if checkpoint is None or checkpoint.position != step.before:
        raise ConfigError(
            f"the checkpoint of {step.store.pipeline} has moved from {step.before} meanwhile",
            hint="see where it is (`cdc checkpoint show`), and whether there is still something to step over",
        )
    return checkpoint, _affected(step.group, step.store.load_tables().values())


def _step_over(
    tx: SinkTransaction, step: _Step, checkpoint: Checkpoint, affected: Sequence[TableRecord], *, who: str, place: str
) -> None:
    store, group = step.store, step.group
    tables: list[TableName] = [record.source for record in affected]
    for record in affected:
        store.save_table(
            tx,
            replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, error=None, step=""),
        )
    # What was stored of it is in the loads; nobody would end it any more.
    PreparedStore(store).forget(tx, _xas_ended(group))
    put_skip(
        store,
        tx,
        who=who,
        place=place,
        before=checkpoint.position,
        after=group.after,
        tables=tables,
        content=list(kept(group)),
    )
    store.save(tx, checkpoint.next(group.after))
