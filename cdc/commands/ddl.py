"""`cdc ddl`: the statements that wait for the operator, and what he says of them.

Only the holder of a pipeline's lease writes. What is said waits in the metadata, with who said it; a running service
takes it up at once, and where none runs, this process becomes the holder, carries it out, catches up and leaves.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from cdc.app import Application, make_sink, parse_table, pipeline_name, sinks_named
from cdc.commands.asker import asker
from cdc.commands.errors import say_error, say_failure
from cdc.config import Config, SinkSettings
from cdc.errors import CdcError, SinkUnavailable
from cdc.log import configure_logging
from cdc.model import TableName
from cdc.pipeline.approval import COMMANDS, pending
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.lanes import lane_number, side_number
from cdc.pipeline.polled_sink import poller_stores
from cdc.pipeline.text import iso_time
from cdc.schema.identifiers import is_shadow
from cdc.sinks.base import Sink
from checkpoints.lanes import command_tables, commands_from
from checkpoints.polls import poller_name
from checkpoints.store import Command, InSinkStore, TableRecord

__all__ = ["decide", "show_pending"]

_POLL_SECONDS = 0.3
_TAKE_UP_SECONDS_MAX = 60.0
_LOOK_SECONDS = 5.0  # between two looks at who does not take a command up
_ENDED = ("done", "failed")


def show_pending(config: Config, *, only_sinks: list[str], as_json: bool, is_settled: bool) -> int:
    """Print what waits on each sink, or (`is_settled`) what was said of statements so far. The exit code is 0."""
    rows: list[dict[str, Any]] = []
    for settings in sinks_named(config, only_sinks):
        sink = make_sink(settings)
        try:
            sink.open()
            pipeline = pipeline_name(config, settings)
            stores = [store for store in _stores(sink, pipeline) if store.exists()]
            if is_settled:
                found = [row for store in stores[:1] for row in _settled(store)]
            else:
                found = [row for store in stores for row in _waiting(store)]
            rows += [{"sink": settings.name, **row} for row in found]
        finally:
            sink.close()
    if as_json:
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for row in rows:
        sys.stdout.write(_settled_text(row) if is_settled else _pending_text(row))
    if not rows:
        sys.stdout.write("no statement was decided about yet\n" if is_settled else "no statement waits\n")
    return 0


def _stores(sink: Sink, pipeline: str) -> list[InSinkStore]:
    """Of the sink's lanes, the first of them first, of what loads beside them, and of its poller."""
    groups = (lane_stores(sink, pipeline), side_stores(sink, pipeline), poller_stores(sink, pipeline))
    return [store for group in groups for store in group.values()]


def _waiting(store: InSinkStore) -> list[dict[str, Any]]:
    return [said for record in store.load_tables().values() if (said := pending(record)) is not None]


def _settled(store: InSinkStore) -> list[dict[str, Any]]:
    """What was said to the sink whose first lane `store` is of, also to lanes and sides that are no more."""
    rows = []
    for name, command, requested_us in store.commands_named(COMMANDS):
        if not _is_of(store.pipeline, name):
            continue
        said = orjson.loads(command.argument)
        if not said["tables"]:
            continue  # its tables went to other lanes, which were asked in its place
        rows.append(
            {
                "decision": command.name.removeprefix("ddl_"),
                "at": iso_time(requested_us),
                "state": command.state,
                "message": command.message,
                **{key: said[key] for key in ("tables", "by", "statements")},
            }
        )
    return rows


def _is_of(pipeline: str, name: str) -> bool:
    """Is it what the metadata call a lane, a side or the poller of the sink whose first lane is `pipeline`?"""
    is_lane = lane_number(pipeline, name) is not None
    return is_lane or side_number(pipeline, name) is not None or name == poller_name(pipeline)


def _pending_text(row: Mapping[str, Any]) -> str:
    statement = " ".join(row["statement"].split())
    lines = [f"{row['sink']}: {row['table']} since {row['since']} ({row['reason']})", statement]
    if not statement.startswith("(found by a load)"):  # which names them already
        lines += [f"at the source {sentence}" for sentence in row["found"]]
    if (position := row["position"]) is not None:  # polled tables have none
        lines.append(f"at {position['gtid'] or '{file}:{pos}'.format(**position)}")
    return "\n  ".join(lines) + "\n"


def _settled_text(row: Mapping[str, Any]) -> str:
    names = ", ".join(".".join(name) for name in row["tables"])
    lines = [
        f"{row['sink']}: {row['at']} {row['by']}: {row['decision']} {names}: {row['state']} {row['message']}".rstrip()
    ]
    lines += [f"  {' '.join(statement.split())}" for statement in row["statements"]]
    return "\n".join(lines) + "\n"


def decide(config: Config, decision: Literal["apply", "skip"], names: list[str], *, only_sinks: list[str]) -> int:
    """Say of the statements that `names` wait at that they are followed, or left. The exit code: 1 where one failed.

    What a sink raises is said, and the others are asked even so; of several exit codes it is the worst.
    """
    wanted = {parse_table(name) for name in names}
    codes = [0]
    alone: list[_Asked] = []
    for settings in sinks_named(config, only_sinks):
        try:
            said = _decide_on(config, settings, decision, wanted)
        except CdcError as error:
            say_error(error)
            said = error.exit_code
        if isinstance(said, int):
            codes.append(said)
        else:
            alone.append(said)
    if alone:
        try:
            codes.append(_carry_out_alone(config, alone))
        except CdcError as error:
            say_error(error)
            codes.append(error.exit_code)
    return max(codes)


def _decide_on(config: Config, settings: SinkSettings, decision: str, wanted: set[TableName]) -> int | _Asked:
    """The exit code of what the running service made of it; what was asked, where none runs."""
    sink = make_sink(settings)
    try:
        sink.open()
        stores = _stores(sink, pipeline_name(config, settings))
        held = [(store, found) for store in stores if (found := _held(store, wanted))]
        if not held:
            sys.stderr.write(f"cdc: {settings.name}: none of these tables waits at a statement\n")
            return 1
        asked = _ask(settings, decision, held)
        if any(_is_live(store) for store in (stores[0], *(store for store, _ in held))):
            return _follow(sink, stores, asked)
        return asked
    finally:
        sink.close()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one sink is asked for, by a command to each that has some of the tables: a lane, a side, the poller.

    A command may go to another lane with its tables, or be cut, and its other part passed on by a new command.
    """

    settings: SinkSettings
    request: str
    """What all these commands have in their arguments."""
    first_id: int
    statements: Mapping[TableName, str]

    def commands(self, store: InSinkStore) -> list[Command]:
        """As they are now; `store`: any of the sink's."""
        found = commands_from(store, self.first_id, COMMANDS)
        return [command for command in found if self.is_in(command)]

    def is_in(self, command: Command) -> bool:
        """Is it one of them?"""
        return bool(orjson.loads(command.argument).get("request") == self.request)


def _held(store: InSinkStore, wanted: set[TableName]) -> dict[TableName, str]:
    """Those of the tables that wait here, with their statements."""
    if not store.exists():
        return {}
    records = {name: record for name, record in store.load_tables().items() if not is_shadow(record.target)}
    return {
        name: said["statement"]
        for name in sorted(wanted & records.keys())
        if (said := pending(records[name])) is not None
    }


def _ask(settings: SinkSettings, decision: str, held: list[tuple[InSinkStore, dict[TableName, str]]]) -> _Asked:
    request, ids = secrets.token_hex(8), []
    for store, statements in held:
        argument = {
            "tables": [[name.database, name.table] for name in statements],
            "by": asker(),
            "statements": list(statements.values()),
            "request": request,
        }
        ids.append(store.add_command(f"ddl_{decision}", orjson.dumps(argument).decode()))
    return _Asked(settings, request, min(ids), {name: text for _, found in held for name, text in found.items()})


def _is_live(store: InSinkStore) -> bool:
    lease = store.read_lease()
    return lease is not None and store.is_holder_alive(lease)


def _follow(sink: Sink, stores: list[InSinkStore], asked: _Asked) -> int:
    """Wait for what the running service makes of it. `stores`: those of the sink when it was asked, the first first."""
    look_at = time.monotonic() + _TAKE_UP_SECONDS_MAX
    is_told = False
    while any(command.state not in _ENDED for command in asked.commands(stores[0])):
        if time.monotonic() > look_at:
            look_at = time.monotonic() + _LOOK_SECONDS
            others = _stores(sink, stores[0].pipeline)  # lanes may have been dealt anew
            waiting = _not_taken_up({store.pipeline: store for store in (*stores, *others)}, asked)
            if waiting and not is_told:
                sys.stderr.write(
                    f"cdc: {asked.settings.name}: {', '.join(waiting)} does not run, and has not taken the command up; "
                    "waiting. The command stays where this one is ended\n"
                )
                is_told = True
        time.sleep(_POLL_SECONDS)
    return _say(sink, stores[0].pipeline, asked)


def _not_taken_up(stores: Mapping[str, InSinkStore], asked: _Asked) -> list[str]:
    """Who has one of the commands and does not run, while the service does: a poller that failed, a side that has not
    been taken up since a restart. Raises SinkUnavailable where the service does not, either.
    """
    first, waiting = next(iter(stores.values())), []
    for pipeline, store in stores.items():
        if not _left(store, asked):
            continue
        # In this order: tables and commands go to a lane at once.
        is_empty = not store.load_tables()
        left = _left(store, asked)
        if not left or _is_live(store):
            continue
        if not _is_live(first):
            raise SinkUnavailable(
                f"{asked.settings.name}: the running service is gone and has not taken the command up",
                hint="see its log; the next `cdc run` carries the command out",
            )
        if not is_empty:
            waiting.append(pipeline)
            continue
        # What loaded the table beside its lane ended while the command was being written.
        for command in left:
            names = ", ".join(map(str, command_tables(command)))
            message = f"{names} went to another lane before the command was taken up; say it again"
            store.set_command(command.id, "failed", message)
    return waiting


def _left(store: InSinkStore, asked: _Asked) -> list[Command]:
    return [command for command in store.queued_commands() if command.name in COMMANDS and asked.is_in(command)]


def _say(sink: Sink, pipeline: str, asked: _Asked) -> int:
    """Print what has become of each table that was asked for; 1 where one failed."""
    stores, code = _stores(sink, pipeline), 0
    commands = asked.commands(stores[0])
    done = {table for command in commands if command.state == "done" for table in command_tables(command)}
    for command in commands:
        tables = command_tables(command)
        # One that a killed deal of the lanes has passed on twice is of no use the second time.
        if command.state != "done" and not done.issuperset(tables):
            done.difference_update(tables)
            text = f"{', '.join(map(str, tables))}: not done yet; the next `cdc run` carries the command out"
            if command.state == "failed":
                text = command.message
            sys.stderr.write(f"cdc: {asked.settings.name}: {text}\n")
            code = 1
    records: dict[TableName, TableRecord] = {}
    for store in reversed(stores):  # a lane's counts, also of a table that has come from elsewhere meanwhile
        found = store.load_tables() if store.exists() else {}
        records |= {table: r for table, r in found.items() if r.state != "dropped" or table not in records}
    known = {table for command in commands for table in command_tables(command)}
    failed = {table for command in commands if command.state == "failed" for table in command_tables(command)}
    for table, statement in asked.statements.items():
        if table not in known:
            sys.stderr.write(f"cdc: {asked.settings.name}: {table}: the command is gone\n")
            code = 1
        elif table in done or (table in failed and not _waits_at(records.get(table), statement)):
            code = max(code, _say_of(asked.settings.name, table, records.get(table), statement))
    return code


def _waits_at(record: TableRecord | None, statement: str) -> bool:
    said = None if record is None else pending(record)
    return said is not None and bool(said["statement"] == statement)


def _say_of(name: str, table: TableName, record: TableRecord | None, statement: str) -> int:
    state = "gone" if record is None else record.state
    loads = ", loaded again" if state in ("pending", "snapshotting") else ""
    sys.stdout.write(f"{name}: {table} is {state}{loads}\n  {' '.join(statement.split())}\n")
    if record is None or record.state != "parked":
        return 0
    sys.stderr.write(f"cdc: {name}: {(record.error or {}).get('message', '')}\n")
    return 1


def _carry_out_alone(config: Config, alone: list[_Asked]) -> int:
    """No service runs: run one here, for these sinks, until it has caught up."""
    own = config.model_copy(update={"http": config.http.model_copy(update={"enabled": False})})
    log = configure_logging("warning", config.log.format)
    only = {asked.settings.name for asked in alone}
    service = Application(own, log=log, environ=dict(os.environ), only_sinks=only, command="ddl")
    service.start(until_caught_up=True)
    while not service.has_ended(_POLL_SECONDS):
        pass
    service.stop()
    codes, overtaken = [0], service.held_elsewhere()
    for name, error in service.failures():
        if name not in overtaken:
            codes.append(say_failure(name, error))
    for asked in alone:
        try:
            codes.append(_say_or_follow(config, asked, is_overtaken=asked.settings.name in overtaken))
        except CdcError as trouble:
            say_error(trouble)
            codes.append(trouble.exit_code)
    return max(codes)


def _say_or_follow(config: Config, asked: _Asked, *, is_overtaken: bool) -> int:
    """`is_overtaken`: by a service that has begun meanwhile; it takes the commands up."""
    sink, pipeline = make_sink(asked.settings), pipeline_name(config, asked.settings)
    try:
        sink.open()
        return _follow(sink, _stores(sink, pipeline), asked) if is_overtaken else _say(sink, pipeline, asked)
    finally:
        sink.close()
