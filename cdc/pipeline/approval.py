"""What the operator has said of tables that are parked at a statement, done at the beginning of a session.

`apply`: the target follows the statement where the stream stands right behind it still, else the table is loaded again:
its changes behind the statement were passed over. `skip`: the target stays as it is; the table goes on with the columns
that both have, by a load into the target as it stands where changes were passed over.

The two commands wait in the metadata with who gave them and what the statement was, and stay there (`cdc ddl pending
--settled`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from cdc.errors import SinkRefused, UnsupportedData
from cdc.log import Logger
from cdc.model import SchemaChange, TableDefinition, TableName
from cdc.pipeline.held import approved, held_change, held_statement, is_up_to_statement
from cdc.pipeline.schema_step import SchemaStep
from cdc.pipeline.tables import TableRegistry
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import Effect
from cdc.sinks.base import Sink
from checkpoints.checkpoint import Checkpoint, decode_position, encode_position
from checkpoints.store import Command, InSinkStore, TableRecord

__all__ = ["COMMANDS", "Approvals", "is_said", "not_waiting", "pending"]

COMMANDS = ("ddl_apply", "ddl_skip")


class Approvals:
    """Carries the commands out, before anything is loaded or streamed."""

    def __init__(
        self,
        *,
        sink: Sink,
        store: InSinkStore,
        step: SchemaStep,
        log: Logger,
        tables: TableRegistry,
        read_definition: Callable[[TableName], TableDefinition | None],
    ) -> None:
        self._sink = sink
        self._store = store
        self._step = step
        self._log = log
        self._tables = tables
        self._read_definition = read_definition

    def settle(self, checkpoint: Checkpoint) -> Checkpoint:
        """Carry out what waits; the checkpoint afterwards. Raises SinkUnavailable, SourceUnavailable, LeaseLost."""
        for command in self._store.queued_commands():
            if command.name in COMMANDS:
                checkpoint = self._take(command, checkpoint)
        self._take_up_columns()
        return checkpoint

    def _take(self, command: Command, checkpoint: Checkpoint) -> Checkpoint:
        said = orjson.loads(command.argument)
        problems: list[str] = []
        is_taken_up = command.state == "running"  # by a session that ended in its midst
        if is_taken_up:
            problems += [command.message] if command.message else []
        else:
            not_ours = (self._not_waiting(TableName(*pair), said) for pair in said["tables"])
            self._store.set_command(command.id, "running", "; ".join(filter(None, not_ours)))
        for database, table in said["tables"]:
            name = TableName(database, table)
            record = self._tables.record(name)
            if is_taken_up and record is not None and record.state != "parked":
                continue  # it was carried out, or was not to be: that is in the message
            if (problem := self._not_waiting(name, said)) is not None:
                problems += [] if is_said(problem, problems) else [problem]
                continue
            assert record is not None, "it waits"
            change = held_change(record)
            assert change is not None, "it waits at a statement of the stream"
            # What is done now is done where the stream stands, and to this table.
            here = replace(change, tables=(name,), is_dropped=change.is_dropped & {name}, end=checkpoint.position)
            is_at = encode_position(change.end) == encode_position(checkpoint.position) and is_up_to_statement(record)
            decide = self._apply if command.name == "ddl_apply" else self._skip
            try:
                checkpoint = decide(record, here, checkpoint, is_at=is_at)
            except (Unproven, UnsupportedData) as error:
                self._tables.put(record)
                problems.append(str(error))
                continue
            self._log.info(
                "statement_settled",
                table=str(name),
                decision=command.name.removeprefix("ddl_"),
                by=said["by"],
                statement=" ".join(change.statement.split())[:200],
                position=str(change.end),
                state=getattr(self._tables.record(name), "state", None),
            )
        self._store.set_command(command.id, "failed" if problems else "done", "; ".join(problems))
        return checkpoint

    def _not_waiting(self, name: TableName, said: Mapping[str, Any]) -> str | None:
        record = self._tables.record(name)
        problem = f"{name} waits at no statement" if record is None else not_waiting(record, said)
        if problem is None and (record is None or held_change(record) is None):
            problem = f"{name} waits at no statement of this stream"
        return problem

    # ------------------------------------------------------------ apply

    def _apply(self, record: TableRecord, change: SchemaChange, checkpoint: Checkpoint, *, is_at: bool) -> Checkpoint:
        if is_at or change.is_dropped:
            self._tables.put(replace(record, state="ready", error=None))
            try:
                if self._step.follow(self._tables, change, checkpoint, is_approved=True):
                    return checkpoint.next(change.end)
            except SinkRefused:
                self._tables.put(record)
                raise
        self._save(replace(record, state="pending", error=None, step=approved(record), left_out=()))
        return checkpoint

    # ------------------------------------------------------------ skip

    def _skip(self, record: TableRecord, change: SchemaChange, checkpoint: Checkpoint, *, is_at: bool) -> Checkpoint:
        ready = replace(record, state="ready", error=None)
        if change.is_dropped:
            self._save(replace(ready, state="dropped", step=""))
            return checkpoint
        if is_at and change.is_exact:
            self._tables.put(ready)
            # What cannot be told from the statement's words can be told from the source's definition.
            with contextlib.suppress(Unproven, UnsupportedData):
                self._step.skip(self._tables, change, checkpoint, may_hold=False)
                return checkpoint.next(change.end)
        definition = self._read_definition(record.source)
        if definition is None:
            self._save(replace(ready, state="dropped", step=""))
            return checkpoint
        beside = self._step.beside_target(self._tables, ready, Effect(definition))
        self._save(replace(beside, state="pending", step=""))
        return checkpoint

    # ------------------------------------------------------------ columns that come back

    def _take_up_columns(self) -> None:
        """Columns that a target lacked, and has now: rows to come bring their values."""
        for record in self._tables.records():
            if not record.left_out or record.definition is None or record.state != "ready":
                continue
            try:
                after = self._step.beside_target(self._tables, record, Effect(record.definition))
            except (Unproven, UnsupportedData) as error:
                self._log.warning("columns_still_left_out", table=str(record.source), reason=str(error))
                continue
            # One that somebody has dropped there since is missed by the rows that bring its values.
            if set(after.left_out) < set(record.left_out):
                self._save(replace(after, step=record.step))
                columns = sorted(set(record.left_out) - set(after.left_out))
                self._log.info("columns_taken_up", table=str(record.source), columns=columns)

    def _save(self, record: TableRecord) -> None:
        with self._sink.transaction() as tx:
            self._store.save_table(tx, record)
            self._store.fence(tx)
            tx.commit()
        self._tables.put(record)


def is_said(problem: str, said: Iterable[str]) -> bool:
    """Is it among them, also where a command that is taken up again has them in one message?

    As a whole: what is said of `x.a` is the end of what is said of `yx.a`.
    """
    return any(f"; {problem}; " in f"; {one}; " for one in said)


def not_waiting(record: TableRecord, said: Mapping[str, Any]) -> str | None:
    """Why a command is not about what the table waits for now; None where it is. `said`: the command's argument."""
    waits_for = held_statement(record)
    if waits_for is None:
        return f"{record.source} waits at no statement"
    if waits_for["text"] not in said["statements"]:
        return f"{record.source} waits for something else by now: see `cdc ddl pending`"
    return None


def pending(record: TableRecord) -> dict[str, Any] | None:
    """What `cdc ddl pending` says of a table, None for one that waits at no statement."""
    said = held_statement(record)
    if said is None or record.error is None:
        return None
    return {
        "table": str(record.source),
        "statement": said["text"],
        "reason": said["reason"],
        "found": list(said.get("found", [])),
        "position": None if said["end"] is None else decode_position(said["end"]).to_dict(),
        "since": record.error.get("since"),
    }
