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
from cdc.pipeline.text import iso_time
from checkpoints.store import InSinkStore

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
            for store in (*lane_stores(sink, pipeline).values(), *side_stores(sink, pipeline).values()):
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
    where = row["position"]["gtid"] or f"{row['position']['file']}:{row['position']['pos']}"
    return (
        f"{row['sink']}: {row['table']} since {row['since']} ({row['reason']})\n"
        f"  {' '.join(row['statement'].split())}\n  at {where}\n"
    )


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
    asked: list[tuple[SinkSettings, int, int]] = []
    for settings in sinks_named(config, only_sinks):
        sink = make_sink(settings)
        try:
            sink.open()
            stores = lane_stores(sink, pipeline_name(config, settings))
            given = {lane: found for lane, store in stores.items() if (found := _ask(store, decision, wanted))}
            if not given:
                sys.stderr.write(f"cdc: {settings.name}: none of these tables waits at a statement\n")
                code = 1
            elif _is_live(stores[1]):
                for lane, command_id in given.items():
                    code |= _follow(settings.name, stores[lane], command_id)
            else:
                asked += [(settings, lane, command_id) for lane, command_id in given.items()]
        finally:
            sink.close()
    return code | (_carry_out_alone(config, asked) if asked else 0)


def _ask(store: InSinkStore, decision: str, wanted: set[TableName]) -> int | None:
    """The command's id, None where none of the tables waits here."""
    if not store.exists():
        return None
    records = store.load_tables()
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


def _follow(name: str, store: InSinkStore, command_id: int) -> int:
    deadline = time.monotonic() + _TAKE_UP_SECONDS_MAX
    while True:
        command = store.read_command(command_id)
        if command is None or command.state in ("done", "failed"):
            return _say(name, store, command_id)
        if time.monotonic() > deadline and not _is_live(store):
            raise SinkUnavailable(
                f"{name}: the running service is gone and has not taken the command up",
                hint="see its log; the next `cdc run` carries the command out",
            )
        time.sleep(_POLL_SECONDS)


def _say(name: str, store: InSinkStore, command_id: int) -> int:
    command = store.read_command(command_id)
    if command is None or command.state != "done":
        sys.stderr.write(f"cdc: {name}: {command.message if command is not None else 'the command is gone'}\n")
        return 1
    records = store.load_tables()
    for database, table in orjson.loads(command.argument)["tables"]:
        record = records.get(TableName(database, table))
        state = "gone" if record is None else record.state
        loads = ", loaded again" if state in ("pending", "snapshotting") else ""
        sys.stdout.write(f"{name}: {database}.{table} is {state}{loads}\n")
    return 0


def _carry_out_alone(config: Config, asked: list[tuple[SinkSettings, int, int]]) -> int:
    """No service runs: run one here, for these sinks, until it has caught up."""
    own = config.model_copy(update={"http": config.http.model_copy(update={"enabled": False})})
    log = configure_logging("warning", config.log.format)
    only = {settings.name for settings, _, _ in asked}
    service = Application(own, log=log, environ=dict(os.environ), only_sinks=only)
    service.start(until_caught_up=True)
    while not service.has_ended(_POLL_SECONDS):
        pass
    service.stop()
    code = 0
    for name, error in service.failures():
        sys.stderr.write(f"cdc: {name}: {error}\n")
        code = error.exit_code if isinstance(error, CdcError) else 1
    for settings, lane, command_id in asked:
        sink = make_sink(settings)
        try:
            sink.open()
            code |= _say(settings.name, lane_stores(sink, pipeline_name(config, settings))[lane], command_id)
        finally:
            sink.close()
    return code
