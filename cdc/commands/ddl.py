"""`cdc ddl`: the statements that wait for the operator, and what he says of them.

Only the holder of a pipeline's lease writes. What is said waits in the metadata, with who said it; a running service
takes it up at once, and where none runs, this process becomes the holder, carries it out, catches up and leaves.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from cdc.app import Application, make_sink, parse_table, pipeline_name, sinks_named
from cdc.config import Config, SinkSettings
from cdc.errors import CdcError, SinkUnavailable
from cdc.log import configure_logging
from cdc.model import TableName
from cdc.pipeline.approval import COMMANDS, pending
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.polled_sink import poller_stores
from cdc.pipeline.text import iso_time
from cdc.schema.identifiers import is_shadow
from cdc.sinks.base import Sink
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["decide", "show_pending"]

_POLL_SECONDS = 0.3
_TAKE_UP_SECONDS_MAX = 60.0


def show_pending(config: Config, *, only_sinks: list[str], as_json: bool, is_settled: bool) -> int:
    """Print what waits on each sink, or (`is_settled`) what was said of statements so far. The exit code is 0."""
    rows: list[dict[str, Any]] = []
    for settings in sinks_named(config, only_sinks):
        sink = make_sink(settings)
        try:
            sink.open()
            pipeline = pipeline_name(config, settings)
            for store in _stores(sink, pipeline):
                if store.exists():
                    found = _settled(store) if is_settled else _waiting(store)
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
    return [
        {
            "decision": command.name.removeprefix("ddl_"),
            "at": iso_time(requested_us),
            "state": command.state,
            "message": command.message,
            **orjson.loads(command.argument),
        }
        for command, requested_us in store.commands_named(COMMANDS)
    ]


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
    """Say of the statements that `names` wait at that they are followed, or left. The exit code: 1 where one failed."""
    wanted = {parse_table(name) for name in names}
    code = 0
    asked: list[tuple[SinkSettings, int]] = []
    for settings in sinks_named(config, only_sinks):
        sink = make_sink(settings)
        try:
            sink.open()
            stores = _stores(sink, pipeline_name(config, settings))
            given = [(store, found) for store in stores if (found := _ask(store, decision, wanted))]
            if not given:
                sys.stderr.write(f"cdc: {settings.name}: none of these tables waits at a statement\n")
                code = 1
            elif any(_is_live(store) for store in (stores[0], *(store for store, _ in given))):
                for store, command_id in given:
                    code |= _follow(settings.name, stores, store, command_id)
            else:
                asked += [(settings, command_id) for _, command_id in given]
        finally:
            sink.close()
    return code | (_carry_out_alone(config, asked) if asked else 0)


def _ask(store: InSinkStore, decision: str, wanted: set[TableName]) -> int | None:
    """The command's id, None where none of the tables waits here."""
    if not store.exists():
        return None
    records = {name: record for name, record in store.load_tables().items() if not is_shadow(record.target)}
    held = {name: said for name in sorted(wanted & records.keys()) if (said := pending(records[name])) is not None}
    if not held:
        return None
    argument = {
        "tables": [[name.database, name.table] for name in held],
        "by": f"{_user()}@{socket.gethostname()}",
        "statements": [said["statement"] for said in held.values()],
    }
    return store.add_command(f"ddl_{decision}", orjson.dumps(argument).decode())


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _is_live(store: InSinkStore) -> bool:
    lease = store.read_lease()
    return lease is not None and store.is_holder_alive(lease)


def _follow(name: str, stores: list[InSinkStore], store: InSinkStore, command_id: int) -> int:
    deadline = time.monotonic() + _TAKE_UP_SECONDS_MAX
    while True:
        command = store.read_command(command_id)
        if command is None or command.state in ("done", "failed"):
            return _say(name, stores, command_id)
        if time.monotonic() > deadline and not _is_live(store):
            if _is_live(stores[0]):
                if command_id in {waiting.id for waiting in store.queued_commands()}:
                    # What loaded the table beside its lane ended while the command was being written.
                    message = "the table went to its lane before the command was taken up; say it again"
                    store.set_command(command_id, "failed", message)
                time.sleep(_POLL_SECONDS)
                continue
            raise SinkUnavailable(
                f"{name}: the running service is gone and has not taken the command up",
                hint="see its log; the next `cdc run` carries the command out",
            )
        time.sleep(_POLL_SECONDS)


def _say(name: str, stores: list[InSinkStore], command_id: int) -> int:
    command = stores[0].read_command(command_id)
    if command is None or command.state != "done":
        sys.stderr.write(f"cdc: {name}: {command.message if command is not None else 'the command is gone'}\n")
        return 1
    records: dict[TableName, TableRecord] = {}
    for store in reversed(stores):  # a lane's counts, also of a table that has come from elsewhere meanwhile
        found = store.load_tables() if store.exists() else {}
        records |= {table: r for table, r in found.items() if r.state != "dropped" or table not in records}
    said = orjson.loads(command.argument)
    code = 0
    for (database, table), statement in zip(said["tables"], said["statements"], strict=True):
        record = records.get(TableName(database, table))
        state = "gone" if record is None else record.state
        loads = ", loaded again" if state in ("pending", "snapshotting") else ""
        sys.stdout.write(f"{name}: {database}.{table} is {state}{loads}\n  {' '.join(statement.split())}\n")
        if record is not None and record.state == "parked":
            sys.stderr.write(f"cdc: {name}: {(record.error or {}).get('message', '')}\n")
            code = 1
    return code


def _carry_out_alone(config: Config, asked: list[tuple[SinkSettings, int]]) -> int:
    """No service runs: run one here, for these sinks, until it has caught up."""
    own = config.model_copy(update={"http": config.http.model_copy(update={"enabled": False})})
    log = configure_logging("warning", config.log.format)
    only = {settings.name for settings, _ in asked}
    service = Application(own, log=log, environ=dict(os.environ), only_sinks=only, command="ddl")
    service.start(until_caught_up=True)
    while not service.has_ended(_POLL_SECONDS):
        pass
    service.stop()
    code = 0
    for name, error in service.failures():
        sys.stderr.write(f"cdc: {name}: {error}\n")
        code = error.exit_code if isinstance(error, CdcError) else 1
    for settings, command_id in asked:
        sink = make_sink(settings)
        try:
            sink.open()
            code |= _say(settings.name, _stores(sink, pipeline_name(config, settings)), command_id)
        finally:
            sink.close()
    return code
