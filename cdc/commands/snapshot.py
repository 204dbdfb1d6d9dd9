"""`cdc snapshot`: load tables now, through the running service where there is one, else by ourselves.

Only the holder of a pipeline's lease writes. Beside a live service the wish is put into its commands table and
followed from there; without one, this process becomes the holder, loads, catches up and leaves.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from cdc.app import Application, make_sink, parse_table, pipeline_name, sinks_named
from cdc.commands.bars import LoadBars
from cdc.commands.errors import say_error, say_failure
from cdc.config import Config, SinkSettings
from cdc.errors import CdcError, ConfigError, SinkUnavailable, TransientError
from cdc.log import configure_logging
from cdc.model import TableName
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.held import StatementHeld
from cdc.pipeline.parts import PART, part_argument
from cdc.pipeline.polled_sink import poller_stores, together
from cdc.sinks.base import Sink
from checkpoints.polls import POLLER
from checkpoints.store import Command, InSinkStore, LeaseRow, TableRecord
from snapshot.condition import condition_problem
from snapshot.progress import rows_text

__all__ = ["snapshot_part", "snapshot_tables"]

_POLL_SECONDS = 0.3
# A command that no service has taken up after this long (its lease ran out meanwhile) is given up.
_TAKE_UP_SECONDS_MAX = 60.0
# A service that is gone this long has not only changed its session or its instance.
_GONE_SECONDS_MAX = 3.0

_Wish = tuple[SinkSettings, list[TableName], dict[int, int]]
"""What is asked of a sink: the tables, and the commands' ids by lane."""
_Report = Callable[[str, Mapping[int, InSinkStore], list[TableName], Mapping[int, int]], int]
"""Says what became of that on a sink, by name; the exit code."""
_Ask = Callable[[str, Mapping[int, InSinkStore]], tuple[list[TableName], dict[int, int]] | int]
"""Asks the pipelines of a sink: the tables, and the commands' ids by lane; an exit code if it asks nothing."""


def snapshot_tables(config: Config, names: list[str], *, only_sinks: list[str]) -> int:
    """Load `names` anew on every sink; none: what is parked, and whatever else is not loaded yet. The exit code.

    Raises ConfigError for a table that the configuration does not capture, and what the servers' connections raise.
    """
    tables = [parse_table(name) for name in names]
    for table in tables:
        if not config.tables.matches(table.database, table.table):
            raise ConfigError(
                f"{table} is not captured by this configuration",
                hint="add it to tables.include (or take it out of tables.exclude)",
            )

    def ask(name: str, stores: Mapping[int, InSinkStore]) -> tuple[list[TableName], dict[int, int]] | int:
        wanted = tables or _unsettled(stores)
        if not wanted and stores[1].load_checkpoint()[0] is not None:
            sys.stdout.write(f"{name}: no table is pending, loading or parked; name the tables to load again\n")
            return 0
        return wanted, _ask(stores, tables) if tables else _ask_again(stores, wanted)

    return _on_each(config, only_sinks, ask, report=_report_all)


def snapshot_part(config: Config, names: list[str], condition: str, *, only_sinks: list[str]) -> int:
    """Load the rows of one table that meet `condition`, the source's SQL, once more, on every sink. The exit code.

    Raises ConfigError for what is no condition, and likewise.
    """
    if len(names) != 1:
        raise ConfigError(
            "--where is about one table",
            hint="name it: `cdc snapshot shop.orders --where \"created_at >= '2024-05-01'\"`",
        )
    if (problem := condition_problem(condition)) is not None:
        raise ConfigError(
            f"--where {problem}", hint="it is one condition over the table's columns, as the source's SQL has it"
        )
    table = parse_table(names[0])

    def ask(name: str, stores: Mapping[int, InSinkStore]) -> tuple[list[TableName], dict[int, int]] | int:
        lane = _lane_with(name, stores, table)
        if lane is None:
            return 1
        return [table], {lane: stores[lane].add_command(PART, part_argument(table, condition))}

    return _on_each(config, only_sinks, ask, report=_report_part)


def _on_each(config: Config, only_sinks: list[str], ask: _Ask, *, report: _Report) -> int:
    """Ask every sink, so that they are at it at the same time, then say of each what became of it. The worst exit code.

    What a sink's connection raises is said when the others are done.
    """
    codes = [0]
    alone: list[_Wish] = []
    followed: list[_Wish] = []
    trouble: list[CdcError] = []
    for settings in sinks_named(config, only_sinks):
        try:
            with _opened(config, settings, creates=True) as stores:
                wish = ask(settings.name, stores)
                if isinstance(wish, int):
                    codes.append(wish)
                else:
                    (followed if any(map(_is_live, stores.values())) else alone).append((settings, *wish))
        except CdcError as error:
            trouble.append(error)
    for settings, wanted, asked in followed:
        try:
            with _opened(config, settings) as stores:
                codes.append(_follow(settings.name, stores, asked, wanted, report=report))
        except CdcError as error:
            trouble.append(error)
    if alone:
        try:
            codes.append(_load_alone(config, alone, report=report))
        except CdcError as error:
            trouble.append(error)
    for one in trouble:
        say_error(one)
    return max([*codes, *(one.exit_code for one in trouble)])


@contextlib.contextmanager
def _opened(config: Config, settings: SinkSettings, *, creates: bool = False) -> Iterator[dict[int, InSinkStore]]:
    """The metadata of a sink's lanes, and of its poller, over a session of its own; `creates`: made if need be."""
    sink = make_sink(settings)
    try:
        sink.open()
        if creates:
            InSinkStore(sink, pipeline_name(config, settings)).create()
        yield _stores(config, sink, pipeline_name(config, settings))
    finally:
        sink.close()


def _lane_with(name: str, stores: Mapping[int, InSinkStore], table: TableName) -> int | None:
    """The lane that has rows of the table; where none has, that is said."""
    for lane, store in stores.items():
        record = store.load_tables().get(table)
        if record is not None and lane == POLLER:
            _say(name, f"{table} is not followed by the binlog, and is read by runs of its own", "see `cdc status`")
            return None
        if record is not None and record.is_complete and record.state in ("ready", "snapshotting"):
            return lane
    record = _records(stores).get(table)
    state = record.state if record is not None else "not known here"
    _say(name, f"{table} is {state}: a part is of a table that is loaded", f"`cdc snapshot {table}` loads all of it")
    return None


def _say(name: str, message: str, hint: str) -> None:
    sys.stderr.write(f"cdc: {name}: {message}\n" + (f"  hint: {hint}\n" if hint else ""))


def _report_part(
    name: str, stores: Mapping[int, InSinkStore], tables: list[TableName], asked: Mapping[int, int]
) -> int:
    """What became of a part; 1 where it was not loaded, or its table has not come through what followed."""
    ((lane, command_id),) = asked.items()
    command = stores[lane].read_command(command_id)
    if command is None or command.state != "done":
        message, _, hint = (command.message if command is not None else "the command is gone").partition("\n")
        _say(name, message or "the part was not loaded", hint)
        return 1
    record = _caught_up(stores[lane], tables[0])
    if record is not None and record.state in ("parked", "snapshotting"):
        problem = "the service is gone before the stream has passed it"
        hint = f"start it again: `cdc status` shows when {tables[0]} is ready"
        if record.state == "parked":
            problem = f"{tables[0]} is parked since: {(record.error or {}).get('message', '')}"
            hint = str((record.error or {}).get("hint", ""))
        _say(name, f"the part was loaded, {command.message}, and {problem}", hint)
        return 1
    sys.stdout.write(f"{name}: part of {tables[0]} loaded, {command.message}\n")
    sys.stdout.write("  rows that are gone at the source stay on the sink: `cdc verify` finds them\n")
    return 0


def _caught_up(store: InSinkStore, table: TableName) -> TableRecord | None:
    """The table's record, as soon as the stream has passed what a load has read, or nobody goes there any more."""
    well_at = time.monotonic()
    while True:
        record = store.load_tables().get(table)
        if record is None or record.state != "snapshotting":
            return record
        lease = store.read_lease()
        if lease is not None and store.is_holder_alive(lease) and lease.status.get("state") != "failed":
            well_at = time.monotonic()
        elif time.monotonic() - well_at > _GONE_SECONDS_MAX:
            return record
        time.sleep(_POLL_SECONDS)


def _stores(config: Config, sink: Sink, pipeline: str) -> dict[int, InSinkStore]:
    """The metadata of every lane, and of the poller where one may run."""
    return {**lane_stores(sink, pipeline), **(poller_stores(sink, pipeline) if config.may_poll else {})}


def _records(stores: Mapping[int, InSinkStore]) -> dict[TableName, TableRecord]:
    """The tables of every lane, of those that load them (`pipeline.beside`), and of the poller, as the status does."""
    sides = side_stores(stores[1].sink, stores[1].pipeline).values()
    lanes = [store for lane, store in stores.items() if lane != POLLER]
    streamed = {table: record for store in (*sides, *lanes) for table, record in store.load_tables().items()}
    polled = stores[POLLER].load_tables() if POLLER in stores else {}
    return {record.source: record for record in together(list(streamed.values()), list(polled.values()))}


def _unsettled(stores: Mapping[int, InSinkStore]) -> list[TableName]:
    """What is waited for where no table is named."""
    return [r.source for r in _records(stores).values() if r.state in ("pending", "snapshotting", "parked")]


def _ask(stores: Mapping[int, InSinkStore], wanted: list[TableName]) -> dict[int, int]:
    """Ask each lane for its tables, and every one for those that none has; the command's id by lane."""
    recorded = {
        lane: {record.source for record in store.load_tables().values() if record.state != "dropped"}
        for lane, store in stores.items()
    }
    known = set[TableName]().union(*recorded.values())
    asked = {}
    for lane, store in stores.items():
        tables = [table for table in wanted if table in recorded[lane] or table not in known]
        if tables:
            asked[lane] = store.add_command("snapshot", _argument(tables))
    return asked


def _ask_again(stores: Mapping[int, InSinkStore], wanted: list[TableName]) -> dict[int, int]:
    """Ask each lane with tables of `wanted` (none: every lane) for those that are parked; the command's id by lane.

    What else is not loaded yet is on its way without being asked for, and done once the lane carries out the command.
    """
    asked = {}
    by_lane = {lane: store.load_tables() for lane, store in stores.items()}
    known = set[TableName]().union(*by_lane.values())
    beside = [table for table in wanted if table not in known]  # each lane knows what its sides load
    for lane, store in stores.items():
        records = by_lane[lane]
        if not wanted or beside or any(table in records for table in wanted):
            parked = [record.source for record in records.values() if _is_retried(record)]
            asked[lane] = store.add_command("retry", _argument([*parked, *beside]))
    return asked


def _is_retried(record: TableRecord) -> bool:
    """What waits for the operator at a statement is loaded when he names it, or says `cdc ddl apply`."""
    return record.state == "parked" and (record.error or {}).get("class") != StatementHeld.__name__


def _argument(tables: list[TableName]) -> str:
    return orjson.dumps([[table.database, table.table] for table in tables]).decode()


def _is_live(store: InSinkStore) -> bool:
    lease = store.read_lease()
    return lease is not None and store.is_holder_alive(lease)


def _follow(
    name: str,
    stores: Mapping[int, InSinkStore],
    asked: Mapping[int, int],
    wanted: list[TableName],
    *,
    report: _Report,
) -> int:
    """Watch the running service carry the commands out, one after the other; 1 when it ends before it has."""
    deadline = time.monotonic() + _TAKE_UP_SECONDS_MAX
    with LoadBars() as bars:
        for lane, command_id in asked.items():
            error = _follow_one(name, stores, lane, command_id, bars, deadline)
            if error is not None:
                return _say_gone(name, error)
    return report(name, stores, wanted, asked)


def _report_all(name: str, stores: Mapping[int, InSinkStore], wanted: list[TableName], asked: Mapping[int, int]) -> int:
    return _report(name, stores, wanted, _failures(stores, asked, wanted))


def _failures(stores: Mapping[int, InSinkStore], asked: Mapping[int, int], wanted: list[TableName]) -> list[str]:
    """What the commands that failed say, except where all were asked and the tables are another one's."""
    concerned = [lane for lane in asked if lane in stores and not stores[lane].load_tables().keys().isdisjoint(wanted)]
    commands = [stores[lane].read_command(asked[lane]) for lane in concerned]
    return [command.message for command in commands if command is not None and command.state == "failed"]


def _follow_one(
    name: str, stores: Mapping[int, InSinkStore], lane: int, command_id: int, bars: LoadBars, deadline: float
) -> Mapping[str, Any] | None:
    """None once the command is done or has failed; what the pipeline said last ({}: nothing) when it is gone."""
    well_at = time.monotonic()
    while True:
        command = stores[lane].read_command(command_id)
        leases = [store.read_lease() for store in stores.values()]
        bars.show({table: progress for lease in leases for table, progress in _loads(name, lease).items()})
        if command is None or command.state in ("done", "failed"):
            return None
        lease = stores[lane].read_lease()
        is_alive = lease is not None and stores[lane].is_holder_alive(lease)
        has_failed = lease is not None and lease.status.get("state") == "failed"
        if is_alive and not has_failed:
            well_at = time.monotonic()
        # A live lease with an old instance's failure in it belongs to one that has just begun: it gets its time.
        elif (has_failed and not is_alive) or time.monotonic() - well_at > _GONE_SECONDS_MAX:
            return (lease.status.get("error") if lease and has_failed else None) or {}
        _require_taken_up(name, command, deadline)
        time.sleep(_POLL_SECONDS)


def _loads(name: str, lease: LeaseRow | None) -> Mapping[str, Mapping[str, Any]]:
    said = lease.status.get("progress", {}) if lease else {}
    return {f"{name}: {table}": progress for table, progress in said.items()}


def _require_taken_up(name: str, command: Command, deadline: float) -> None:
    if command.state == "queued" and time.monotonic() > deadline:
        raise SinkUnavailable(
            f"{name}: the running service has not taken the command up within {_TAKE_UP_SECONDS_MAX:.0f} s",
            hint="`cdc status` shows what it does",
        )


def _say_gone(name: str, error: Mapping[str, Any]) -> int:
    what = f"its pipeline failed: {error.get('message', '')}" if error else "it is gone"
    sys.stderr.write(f"cdc: {name}: the running service has not finished the load: {what}\n")
    hint = f"{error['hint']}; then" if error.get("hint") else "see its log; then"
    sys.stderr.write(f"  hint: {hint} start it again: the next `cdc run` or `cdc snapshot` carries the load out\n")
    return 1


def _report(name: str, stores: Mapping[int, InSinkStore], wanted: list[TableName], failures: list[str]) -> int:
    """What became of the tables; 1 where one was not loaded. A table whose reload failed is as ready as before."""
    records = _records(stores)
    code, is_unsaid = 0, False
    for table in wanted or list(records):
        record = records.get(table)
        if record is None or record.state in ("pending", "parked", "dropped"):
            code = 1
            why = (record.error or {}).get("message", "") if record else ""
            state = record.state if record else "not at the source"
            sys.stderr.write(f"cdc: {name}: {table} is {state}{': ' if why else ''}{why}\n")
            hint = (record.error or {}).get("hint", "") if record else "check its spelling and our SELECT right on it"
            if record is not None and record.state == "pending":
                hint = hint or "it is loaded once the stream has passed what happened to it: `cdc status` shows it"
            if hint:
                sys.stderr.write(f"  hint: {hint}\n")
        elif any(f"{table}: " in failure for failure in failures):
            is_unsaid = True  # of it the record says nothing
        else:
            sys.stdout.write(f"{name}: {table} loaded, {rows_text(record.rows_loaded)}\n")
    if failures and (is_unsaid or not code):
        sys.stderr.writelines(f"cdc: {name}: {failure}\n" for failure in failures)
    return 1 if failures else code


def _load_alone(config: Config, wishes: Sequence[_Wish], *, report: _Report) -> int:
    """No service runs: run one here, for these sinks, until it has caught up."""
    own = config.model_copy(update={"http": config.http.model_copy(update={"enabled": False})})
    log = configure_logging("warning", config.log.format)
    only = {settings.name for settings, _, _ in wishes}
    service = Application(
        own, log=log, environ=dict(os.environ), only_sinks=only, logs_progress=False, command="snapshot"
    )
    try:
        service.start(until_caught_up=True)
    except TransientError:
        sys.stderr.write("cdc: the tables stay asked for: the next `cdc run` loads them\n")
        raise
    with LoadBars() as bars:
        while not service.has_ended(_POLL_SECONDS):
            bars.show(service.loads())
    service.stop()
    codes, failures = [0], dict(service.failures())
    overtaken = service.held_elsewhere()
    for name, error in failures.items():
        if name not in overtaken:
            codes.append(say_failure(name, error))
    for settings, wanted, asked in wishes:
        if settings.name in failures and settings.name not in overtaken:
            continue
        try:
            with _opened(config, settings) as stores:
                if settings.name in overtaken:  # by a service that has begun meanwhile: it takes the commands up
                    codes.append(_follow(settings.name, stores, asked, wanted, report=report))
                else:
                    codes.append(report(settings.name, stores, wanted, asked))
        except CdcError as trouble:
            say_error(trouble)
            codes.append(trouble.exit_code)
    return max(codes)
