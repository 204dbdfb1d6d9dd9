"""Carries out `cdc snapshot TABLE --where`: loads of parts, between two streams of the lane that has the table.

The command is done, with what it says of the rows, in the transaction that has the rows: one that a kill has cut off
begins again, one that was committed does not. A part that cannot be loaded fails its command and leaves the table as it
was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from cdc.clock import Clock
from cdc.errors import CdcError, SinkUnavailable, TransientError, UnsupportedData
from cdc.log import Logger
from cdc.metrics import SinkMetrics
from cdc.model import TableName
from cdc.pipeline.tables import TableRegistry
from cdc.sinks.base import SinkTransaction
from cdc.source.connection import SourceConnection
from checkpoints.lanes import finish_command
from checkpoints.store import Command, InSinkStore, TableRecord
from snapshot.part import NotThereYet, PartLoader, PartRows
from snapshot.progress import rows_text

__all__ = ["PART", "PartAttempts", "PartLoads", "part_argument", "part_of", "read_only_session"]

PART = "part"
"""The name of the command."""

# How often one is begun in this process. The source may refuse a condition only when it comes to a row (a function that
# raises), and tells it like a session that was cut; the sink, what is too large for one transaction.
_ATTEMPTS_MAX = 3
# What is said of one under way: found at a start, it was cut off.
_BEGUN = "loading"


def part_argument(table: TableName, condition: str) -> str:
    """The command's argument."""
    return orjson.dumps({"tables": [[table.database, table.table]], "where": condition}).decode()


def part_of(command: Command) -> tuple[TableName, str]:
    """The table and the condition that a command is about."""
    said = orjson.loads(command.argument)
    ((database, table),) = said["tables"]
    return TableName(database, table), str(said["where"])


def read_only_session(connect: Callable[[], SourceConnection]) -> SourceConnection:
    """A session of the source that can write nothing, whatever functions a condition calls."""
    connection = connect()
    try:
        connection.query("SET SESSION TRANSACTION READ ONLY")
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class PartAttempts:
    """How often each command was begun, by its id, over the sessions of a process, and what ended the last attempt."""

    begun: Counter[int] = field(default_factory=Counter)
    ended_by: dict[int, TransientError] = field(default_factory=dict)

    def spent(self, command_id: int) -> TransientError | None:
        """What a command failed of that is not to be begun again; None for one that is."""
        return self.ended_by.get(command_id) if self.begun[command_id] >= _ATTEMPTS_MAX else None


class PartLoads:
    """The commands about parts that one session of a pipeline finds."""

    def __init__(
        self,
        *,
        store: InSinkStore,
        tables: TableRegistry,
        is_elsewhere: Callable[[TableName], bool],
        attempts: PartAttempts,
        clock: Clock,
        log: Logger,
        metrics: SinkMetrics,
    ) -> None:
        self._store = store
        self._tables = tables
        self._is_elsewhere = is_elsewhere
        self._attempts = attempts
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self.has_put_off = False
        """Is there one that waits until the stream has come to what happened to its table?"""

    def carry_out(self, commands: Sequence[Command], make_loader: Callable[[TableName], PartLoader]) -> None:
        """Load what the commands ask for, one after the other. Raises TransientError."""
        for command in commands:
            table, condition = part_of(command)
            if (trouble := self._attempts.spent(command.id)) is not None:
                self._fail(command, table, _given_up(table, trouble))
                continue
            try:
                record = self._record(table)
                self._load(command, record, condition, make_loader(table))
            except NotThereYet as error:
                if self._attempts.begun[command.id] >= _ATTEMPTS_MAX:
                    self._fail(command, table, error)
                    continue
                self.has_put_off = True
                self._store.set_command(command.id, "running", error.message)
                self._log.info("part_put_off", table=str(table), command=command.id, message=error.message)
            except TransientError as error:
                # What it has done at the sink ends with the session: the next one fails the command where that is due.
                self._attempts.ended_by[command.id] = error
                raise
            except UnsupportedData as error:
                self._fail(command, table, error)

    def _record(self, table: TableName) -> TableRecord:
        """Raises UnsupportedData where there are no rows of which some could be loaded again."""
        record = self._tables.record(table)
        if self._is_elsewhere(table):
            problem, hint = "is being loaded as a whole", "try again when that is done: `cdc status` shows it"
        elif record is None or record.state == "dropped":
            problem, hint = "is not at the source", "check its spelling and our SELECT right on it"
        elif record.state == "parked":
            why = (record.error or {}).get("message", "")
            problem, hint = f"is parked: {why}", f"load the whole of it: `cdc snapshot {table}`"
        elif self._tables.find(table) is None:
            problem, hint = f"is {record.state}: it is not loaded yet", "try again when it is: `cdc status` shows it"
        else:
            return record
        raise UnsupportedData(f"{table} {problem}", table=str(table), hint=hint)

    def _load(self, command: Command, record: TableRecord, condition: str, loader: PartLoader) -> None:
        table, is_again = record.source, (command.state, command.message) == ("running", _BEGUN)
        self._attempts.begun[command.id] += 1
        self._store.set_command(command.id, "running", _BEGUN)
        self._log.info("part_begun", table=str(table), command=command.id, is_again=is_again)
        began = self._clock.monotonic()

        def finish(tx: SinkTransaction, rows: PartRows) -> None:
            finish_command(self._store, tx, command, _said(rows, is_again=is_again))

        record, rows = loader.load(record, condition, finish)
        self._tables.put(record)
        self._metrics.loaded(rows=rows.written)
        for (_, policy), count in rows.changes.items():
            self._metrics.policy_changed(policy, count)
        self._log.info(
            "part_loaded",
            table=str(table),
            command=command.id,
            rows=rows.read,
            written=rows.written,
            removed=rows.removed,
            seconds=round(self._clock.monotonic() - began, 2),
        )

    def _fail(self, command: Command, table: TableName, error: CdcError) -> None:
        self._store.set_command(command.id, "failed", "\n".join(filter(None, (error.message, error.hint))))
        self._log.error("part_failed", table=str(table), command=command.id, message=error.message, hint=error.hint)


def _given_up(table: TableName, error: TransientError) -> UnsupportedData:
    where = "sink" if isinstance(error, SinkUnavailable) else "source"
    return UnsupportedData(
        f"{table}: the part was begun {_ATTEMPTS_MAX} times, and trouble at the {where} ended it each time, at last: "
        f"{error.message}",
        table=str(table),
        hint="nothing of it is there, and the stream goes on; mend that, or ask for smaller parts (all of one is one "
        "transaction on the sink), and ask again",
    )


def _said(rows: PartRows, *, is_again: bool) -> str:
    said = f"{rows_text(rows.read)} read, {rows.written:,} written"
    if rows.removed:
        said += f", {rows.removed:,} removed that its row_filter leaves out"
    return said + (" (begun again: the first attempt was cut off)" if is_again else "")
