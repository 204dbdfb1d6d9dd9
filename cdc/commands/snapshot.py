"""`cdc snapshot`: load tables now, through the running service where there is one, else by ourselves.

Only the holder of a pipeline's lease writes. Beside a live service the wish is put into its commands table and
followed from there; without one, this process becomes the holder, loads, catches up and leaves.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cdc.app import Application, make_sink, parse_table, pipeline_name, sinks_named
from cdc.config import Config, SinkSettings
from cdc.errors import CdcError, ConfigError, SinkUnavailable
from cdc.log import configure_logging
from cdc.model import TableName
from checkpoints.store import InSinkStore

__all__ = ["snapshot_tables"]

_POLL_SECONDS = 0.3
# A command that no service has taken up after this long (its lease ran out meanwhile) is given up.
_TAKE_UP_SECONDS_MAX = 60.0
# A service that is gone this long has not only changed its session or its instance.
_GONE_SECONDS_MAX = 3.0


class _Bars:
    """Progress bars on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, name: str, rows: int, rows_estimate: int | None) -> None:
        """How far one table is."""
        if not self._console.is_terminal:
            last_rows, at = self._last.get(name, (-1, 0.0))
            if rows != last_rows and time.monotonic() - at >= 2:
                about = f" of about {rows_estimate:,}" if rows_estimate else ""
                sys.stderr.write(f"{name}: {rows:,} rows{about}\n")
                self._last[name] = (rows, time.monotonic())
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=rows_estimate)
        self._progress.update(self._tasks[name], completed=rows, total=max(rows_estimate or 0, rows))


def snapshot_tables(config: Config, names: list[str], *, only_sinks: list[str]) -> int:
    """Load `names` (none: what is pending or parked) on every sink; the exit code.

    Raises ConfigError for a table that the configuration does not capture, and what the servers' connections raise.
    """
    tables = [parse_table(name) for name in names]
    for table in tables:
        if not config.tables.matches(table.database, table.table):
            raise ConfigError(
                f"{table} is not captured by this configuration",
                hint="add it to tables.include (or take it out of tables.exclude)",
            )
    exit_code = 0
    alone: dict[str, tuple[SinkSettings, list[TableName]]] = {}
    for settings in sinks_named(config, only_sinks):
        sink = make_sink(settings)
        try:
            sink.open()
            store = InSinkStore(sink, pipeline_name(config, settings))
            store.create()
            wanted = tables or _unsettled(store)
            if not wanted and store.load_checkpoint()[0] is not None:
                sys.stdout.write(f"{settings.name}: no table is pending or parked; name the tables to load again\n")
                continue
            command = store.add_command("snapshot", orjson.dumps([[t.database, t.table] for t in wanted]).decode())
            if _is_live(store):
                exit_code |= _follow(settings.name, store, command, wanted)
            else:
                alone[settings.name] = (settings, wanted)
        finally:
            sink.close()
    if alone:
        exit_code |= _load_alone(config, list(alone.values()))
    return exit_code


def _unsettled(store: InSinkStore) -> list[TableName]:
    return [r.source for r in store.load_tables().values() if r.state in ("pending", "snapshotting", "parked")]


def _is_live(store: InSinkStore) -> bool:
    lease = store.read_lease()
    return lease is not None and store.is_holder_alive(lease)


def _follow(name: str, store: InSinkStore, command_id: int, wanted: list[TableName]) -> int:
    """Watch the running service carry the command out; 1 when it ends before it has."""
    deadline = time.monotonic() + _TAKE_UP_SECONDS_MAX
    well_at = time.monotonic()
    with _Bars() as bars:
        while True:
            command = store.read_command(command_id)
            lease = store.read_lease()
            for table, progress in (lease.status.get("progress", {}) if lease else {}).items():
                bars.show(f"{name}: {table}", int(progress["rows"] or 0), progress["rows_estimate"])
            if command is None or command.state in ("done", "failed"):
                break
            is_alive = lease is not None and store.is_holder_alive(lease)
            has_failed = lease is not None and lease.status.get("state") == "failed"
            if is_alive and not has_failed:
                well_at = time.monotonic()
            # A live lease with an old instance's failure in it belongs to one that has just begun: it gets its time.
            elif (has_failed and not is_alive) or time.monotonic() - well_at > _GONE_SECONDS_MAX:
                return _say_gone(name, (lease.status.get("error") if lease and has_failed else None) or {})
            if command.state == "queued" and time.monotonic() > deadline:
                raise SinkUnavailable(
                    f"{name}: the running service has not taken the command up within {_TAKE_UP_SECONDS_MAX:.0f} s",
                    hint="`cdc status` shows what it does",
                )
            time.sleep(_POLL_SECONDS)
    return _report(name, store, wanted)


def _say_gone(name: str, error: Mapping[str, Any]) -> int:
    what = f"its pipeline failed: {error.get('message', '')}" if error else "it is gone"
    sys.stderr.write(f"cdc: {name}: the running service has not finished the load: {what}\n")
    hint = f"{error['hint']}; then" if error.get("hint") else "see its log; then"
    sys.stderr.write(f"  hint: {hint} start it again: the next `cdc run` or `cdc snapshot` carries the load out\n")
    return 1


def _report(name: str, store: InSinkStore, wanted: list[TableName]) -> int:
    records = store.load_tables()
    code = 0
    for table in wanted or list(records):
        record = records.get(table)
        if record is None or record.state in ("parked", "dropped"):
            code = 1
            why = (record.error or {}).get("message", "") if record else ""
            state = record.state if record else "not at the source"
            sys.stderr.write(f"cdc: {name}: {table} is {state}{': ' if why else ''}{why}\n")
            hint = (record.error or {}).get("hint", "") if record else "check its spelling and our SELECT right on it"
            if hint:
                sys.stderr.write(f"  hint: {hint}\n")
        else:
            sys.stdout.write(f"{name}: {table} loaded, {record.rows_loaded:,} rows\n")
    return code


def _load_alone(config: Config, wishes: list[tuple[SinkSettings, list[TableName]]]) -> int:
    """No service runs: run one here, for these sinks, until it has caught up."""
    own = config.model_copy(update={"http": config.http.model_copy(update={"enabled": False})})
    log = configure_logging("warning", config.log.format)
    only = {settings.name for settings, _ in wishes}
    service = Application(own, log=log, environ=dict(os.environ), only_sinks=only)
    service.start(until_caught_up=True)
    with _Bars() as bars:
        _watch(service, lambda name, rows, estimate: bars.show(name, rows, estimate))
    service.stop()
    code = 0
    for name, error in service.failures():
        hint = f"\n  hint: {error.hint}" if isinstance(error, CdcError) and error.hint else ""
        sys.stderr.write(f"cdc: {name}: {error}{hint}\n")
        code = error.exit_code if isinstance(error, CdcError) else 1
    if code:
        return code
    for settings, wanted in wishes:
        sink = make_sink(settings)
        try:
            sink.open()
            code |= _report(settings.name, InSinkStore(sink, pipeline_name(config, settings)), wanted)
        finally:
            sink.close()
    return code


def _watch(service: Application, show: Callable[[str, int, int | None], None]) -> None:
    while not service.has_ended(_POLL_SECONDS):
        for table in service.status()["tables"]:
            if table["progress"]:
                name = f"{table['sink']}: {table['table']}"
                show(name, table["progress"]["rows"], table["progress"]["rows_estimate"])
