"""One run: servers, tables, clients, faults, and after each round the proof that nothing was lost or leaked."""

from __future__ import annotations

import contextlib
import json
import random
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdc.demo.servers import Options, Server
from tests.support.deployment import Deployment, deployment
from tests.support.foreign_keys import TABLES as FAMILY_TABLES
from tests.support.proxy import Proxy, through
from tests.support.waiting import wait_until
from tests.torture.faults import Faults, Scene, small_disk
from tests.torture.schema import RandomTables
from tests.torture.watch import BrokenPromise, Process, SinkReader, leftovers
from tests.torture.writers import FAMILY_MARKS, JOURNAL, MARKS, Client, DdlClient, create_fixed_tables, end_xa

__all__ = ["CLIENTS", "TABLES", "Settings", "Torture", "torture"]

# Unless told: clients that write, and random tables; each key is there more than once.
CLIENTS, TABLES = 3, 11

# What one service with two sinks may take (docs/operations.md), and the interpreter's own growth under many restarts.
MEMORY_MIB_MAX = 256 + 60 + 64
# A lane of a service that has caught up: it has about half.
THREADS_MAX, FILES_MAX = 12, 24
_DISK_MIB, _STAGING_MIB = 700, 32
_CATCH_UP_SECONDS = 600.0
_DDL_TABLES = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What one run is. The same settings make the same schema, statements and faults; the moments are the machine's."""

    seed: int
    source: str
    sinks: tuple[str, ...]
    rounds: int | None = None
    seconds: float = 180.0
    round_seconds: float = 15.0
    clients: int = CLIENTS
    has_ddl: bool = True
    has_disks: bool = True
    only: tuple[str, ...] = ()
    """Faults by their beginnings; all where empty."""
    tables: int = TABLES
    keep: Path | None = None
    """Where logs go of a run in which something is wrong."""

    @property
    def command(self) -> str:
        """What does it again."""
        words = ["--seed", self.seed, "--source", self.source]
        for name in self.sinks:
            words += ["--sink", name]
        words += ["--rounds", self.rounds] if self.rounds is not None else ["--seconds", f"{self.seconds:g}"]
        words += ["--round-seconds", f"{self.round_seconds:g}", "--tables", self.tables, "--clients", self.clients]
        for beginning in self.only:
            words += ["--only", beginning]
        words += [] if self.has_ddl else ["--no-ddl"]
        words += [] if self.has_disks else ["--no-disks"]
        return shlex.join(["python", "-m", "tests.torture", *map(str, words)])


@dataclass
class Torture:
    """A run under way, and what it came to."""

    settings: Settings
    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    schedule: list[str] = field(default_factory=list)
    memory_mib_max: int = 0


def torture(settings: Settings, say: Callable[[str], None], start: Callable[..., Server] | None = None) -> Torture:
    """Run it; what is wrong is in `problems`. `start` makes the servers (by kind, options); they are closed by it."""
    run = Torture(settings, say)
    with contextlib.ExitStack() as stack:
        _run(run, stack, start)
    return run


def _run(run: Torture, stack: contextlib.ExitStack, start: Callable[..., Server] | None) -> None:
    settings = run.settings
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdc-torture-", dir="/tmp")))
    directory.chmod(0o755)

    def started(kind: str, place: Path | None = None, options: Options | None = None) -> Server:
        if start is not None:
            return start(kind, options=options)
        return stack.enter_context(Server.start(kind, place, options=options))

    source = started(settings.source)
    disks: dict[str, Path] = {}
    sinks: dict[str, Server] = {}
    for kind in settings.sinks:
        name = kind.rstrip("0123456789")
        place = stack.enter_context(small_disk(directory / f"disk-{name}", _DISK_MIB)) if settings.has_disks else None
        if place is None:
            run.skipped.append(f"disk full at sink {name}")
        else:
            disks[name] = place
        sinks[name] = started(kind, place)
    made = stack.enter_context(deployment(directory, source, **sinks))
    rng = random.Random(settings.seed)
    tables = _create(made, rng, settings)
    urls = {sink["name"]: sink["url"] for sink in made.config["sinks"]}
    proxies = _put_proxies(made, stack)
    _configure(made, rng)
    staging, is_staged, retention_hours = None, rng.random() < 0.5, rng.choice((0, 1))
    if settings.has_disks and is_staged:
        staging = stack.enter_context(small_disk(directory / "disk-staging", _STAGING_MIB))
    if staging is not None:
        made.config["staging"] = {"dir": str(staging / "files"), "retention_hours": retention_hours}
    elif is_staged:
        run.skipped.append("disk full at staging")
    scene = Scene(made, source, sinks, proxies, urls, tables, disks, staging)
    faults = Faults(scene, settings.seed, start=lambda: _start(made))
    run.schedule = faults.schedule
    _start(made)
    # Before anybody writes: of what is loaded, the journal has one change.
    _set_mark(made, 0)
    wait_until(lambda: _is_settled(made, 0), _CATCH_UP_SECONDS, lambda: f"the first load: {_told(scene)}")
    with _clients(run, scene, rng) as clients:
        readers = [SinkReader(made, name) for name in sinks]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + settings.seconds
        number = 0
        while not run.problems:
            if number == settings.rounds or (settings.rounds is None and time.monotonic() > deadline):
                break
            number += 1
            _round(run, number, scene, faults, clients, readers)
    for reader in readers:
        reader.stop()
        run.problems += reader.problems
        run.counts += reader.counts
    run.counts += faults.counts + faults.said()
    if not run.problems:
        made.stop()
        run.problems += [f"left behind: {one}" for one in leftovers(made)]
    if run.problems and settings.keep is not None:
        _keep(settings.keep / f"{settings.source}-{settings.seed}", directory)


def _keep(place: Path, directory: Path) -> None:
    """The logs of service and commands, and what they were configured with."""
    for path in (*directory.rglob("*.log"), *directory.rglob("config.yaml")):
        copy = place / path.relative_to(directory)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def _create(made: Deployment, rng: random.Random, settings: Settings) -> list[str]:
    create_fixed_tables(made.source, made.source_database)
    random_tables = RandomTables(rng, made.source)
    names = []
    for number in range(settings.tables):
        name = f"t{number}"
        made.source.execute(random_tables.statement(name, number), database=made.source_database)
        names.append(name)
    return names


def _put_proxies(made: Deployment, stack: contextlib.ExitStack) -> dict[str, Proxy]:
    """Between the service and each server."""
    proxies = {}
    for name, section in [("source", made.config["source"]), *((one["name"], one) for one in made.config["sinks"])]:
        proxies[name], section["url"] = stack.enter_context(through(section["url"]))
    return proxies


def _configure(made: Deployment, rng: random.Random) -> None:
    made.config["source"] |= {"read_timeout_seconds": 8, "heartbeat_seconds": 1}
    made.config["flush"] = {"rows_max": rng.choice((50, 1000, 100_000))}
    made.config["lease"] = {"seconds": 8}
    made.config["standby"] = rng.random() < 0.5
    made.config["snapshot"] = {
        "chunk_rows": 200,
        "beside": rng.choice((0, 2, 2)),
        "beside_rows_min": rng.choice((0, 100, 50_000)),
    }
    made.config["queue_bytes_max"] = "32MiB"
    # What the source's foreign keys do in no event is done by one lane: parents and children are in the same.
    made.config["policies"] = {"hidden_cascades": "apply"}
    if rng.random() < 0.5:
        family = [f"{made.source_database}.{name}" for name in (*FAMILY_TABLES, FAMILY_MARKS)]
        for sink in made.config["sinks"]:
            sink["lanes"] = [family, [f"{made.source_database}.*"]]
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.{JOURNAL}", "mode": "append_only"}]
    made.write_config()


@contextlib.contextmanager
def _clients(run: Torture, scene: Scene, rng: random.Random) -> Iterator[list[Client | DdlClient]]:
    settings, made = run.settings, scene.made
    clients: list[Client | DdlClient] = [
        Client(made.source, made.source_database, scene.tables, f"{settings.seed}-{n}", pause_seconds=0.05 * n)
        for n in range(settings.clients)
    ]
    if settings.has_ddl:
        altered = scene.tables[:_DDL_TABLES]
        clients.append(
            DdlClient(
                made.source,
                made.source_database,
                altered,
                rng.randrange(1 << 30),
                pause_seconds=4,
                on_ddl=lambda statement: run.schedule.append(f"{'':10}  {statement[:150]}"),
            )
        )
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            try:
                client.stop()
            except Exception as error:  # noqa: BLE001 - told with the others
                run.problems.append(f"{type(client).__name__}: {error!r}")
            run.counts += client.counts
        # After a round that failed in its middle: what is still prepared would keep the database from being dropped.
        for _ in range(3):
            with contextlib.suppress(Exception):  # the source may be down
                end_xa(scene.source, rng)
            time.sleep(0.5)


def _round(
    run: Torture,
    number: int,
    scene: Scene,
    faults: Faults,
    clients: list[Client | DdlClient],
    readers: list[SinkReader],
) -> None:
    """Faults for a while, then quiet, then the proof."""
    run.say(f"round {number}")
    rng = random.Random(f"{run.settings.seed}-{number}-prepared")
    for client in clients:
        client.release()
    until = time.monotonic() + run.settings.round_seconds
    try:
        for name, chance, pause_seconds in faults.row(number, run.settings.only):
            if time.monotonic() > until:
                break
            faults.do(name, chance)
            faults.watch_service()
            time.sleep(pause_seconds)
        faults.mend()
        for client in clients:
            client.hold()
        wait_until(lambda: _is_quiet(run, scene, clients, rng), _CATCH_UP_SECONDS, "the clients to rest")
        mark = _set_mark(scene.made, number)
        wait_until(lambda: _settle(scene, faults, mark), _CATCH_UP_SECONDS, lambda: f"to catch up: {_told(scene)}")
        _prove(run, scene)
        _prove_no_leak(run, scene)
        _drop_sink_logs(scene)
    except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
        run.problems.append(f"round {number}: {error}")
    run.problems += [problem for reader in readers for problem in reader.problems]
    run.counts["rounds"] += 1


def _drop_sink_logs(scene: Scene) -> None:
    """Nobody reads them, and after an hour they alone would fill the small disks."""
    for server in scene.sinks.values():
        if server.family != "postgresql":
            server.execute("FLUSH BINARY LOGS")
            server.execute("PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 SECOND")


def _is_quiet(run: Torture, scene: Scene, clients: list[Client | DdlClient], rng: random.Random) -> bool:
    """What is prepared holds locks that clients wait for, so it is ended first."""
    is_quiet = all(client.is_idle for client in clients)
    run.counts["XA transactions ended by others"] += end_xa(scene.source, rng)
    return is_quiet


def _start(made: Deployment) -> None:
    """As a program of its own, for its memory is measured; other commands are forked, which is cheaper."""
    made.is_forked = False
    try:
        made.start()
    finally:
        made.is_forked = True


# ---------------------------------------------------------------- caught up


def _settle(scene: Scene, faults: Faults, mark: int) -> bool:
    faults.watch_sinks()
    faults.watch_service()
    document = _status(scene.made)
    if document is None:
        return False
    parked = [table["table"] for table in document["tables"] if table["state"] == "parked"]
    for table in dict.fromkeys(parked):  # as an operator does: what was parked for a fault is loaded again
        scene.made.run("snapshot", table, timeout=_CATCH_UP_SECONDS)
    return _is_settled(scene.made, mark)


def _set_mark(made: Deployment, mark: int) -> int:
    for table in (MARKS, FAMILY_MARKS):
        made.source.execute(f"INSERT INTO {table} VALUES ({mark})", database=made.source_database)
    return mark


def _status(made: Deployment) -> dict[str, Any] | None:
    result = made.run("status", "--json")
    with contextlib.suppress(json.JSONDecodeError):
        document: dict[str, Any] = json.loads(result.stdout)
        return document
    return None


def _is_settled(made: Deployment, mark: int) -> bool:
    """Has each sink the mark, behind everything else, and is no table on its way?"""
    try:
        for table in (MARKS, FAMILY_MARKS):
            if not all((mark,) in made.sink_rows(name, table, ("id",)) for name in made.sinks):
                return False
    except Exception:  # noqa: BLE001 - it is not there yet
        return False
    document = _status(made)
    if document is None or not document["tables"] or len(document["sinks"]) != len(made.sinks):
        return False
    return all(sink["state"] in ("streaming", "caught_up") for sink in document["sinks"]) and all(
        table["state"] in ("ready", "dropped") for table in document["tables"]
    )


def _told(scene: Scene) -> str:
    made, document = scene.made, _status(scene.made)
    if document is not None:
        disks = {name: f"{shutil.disk_usage(place).free >> 20} MiB free" for name, place in scene.disks.items()}
        tables = [
            (one["sink"], one["table"], one["state"], (one["error"] or {}).get("message"))
            for one in document["tables"]
            if one["state"] != "ready"
        ]
        return (
            f"{[(one['name'], one['state'], one['lag_seconds'], one['error']) for one in document['sinks']]} {tables} "
            f"{disks}"
        )
    return made.log()[-2000:]


# ---------------------------------------------------------------- the proof


def _prove(run: Torture, scene: Scene) -> None:
    made = scene.made
    result = made.run("verify", timeout=_CATCH_UP_SECONDS)
    if result.returncode:
        raise BrokenPromise(f"cdc verify:\n{result.stdout}\n{result.stderr}")
    made.assert_equal("accounts", *FAMILY_TABLES)
    expected = {row[0]: row[1] for row in made.source_rows(JOURNAL, ("id", "version"))}
    for name in made.sinks:
        counted: Counter[int] = Counter(row[0] for row in made.sink_rows(name, JOURNAL, ("id",)))
        if dict(counted) != expected:
            wrong = [
                (at, expected.get(at), counted.get(at))
                for at in {*expected, *counted}
                if expected.get(at) != counted.get(at)
            ]
            raise BrokenPromise(
                f"{JOURNAL} on {name}: {len(wrong)} rows have not one change for each of their versions; "
                f"(id, versions, changes): {sorted(wrong, key=repr)[:10]}"
            )
        run.counts["append-only rows compared"] += sum(counted.values())
    run.counts["tables compared"] += (len(scene.tables) + len(FAMILY_TABLES)) * len(made.sinks)
    run.counts |= {
        "changes of children that the log does not show": max(
            run.counts["changes of children that the log does not show"], _cascades(made)
        )
    }


def _cascades(made: Deployment) -> int:
    """How many the running service has applied."""
    tables = (_status(made) or {"tables": []})["tables"]
    return sum(one["policy_changes"].get("*", {}).get("hidden_cascades", 0) for one in tables)


def _prove_no_leak(run: Torture, scene: Scene) -> None:
    """A quiet service has so much, however often it was hurt; a moment may pass until the last of it is gone."""
    process_of = scene.made.process
    assert process_of is not None
    process = Process(process_of.pid)
    lanes = sum(len(sink.get("lanes", [1])) for sink in scene.made.config["sinks"])
    threads_max, files_max = lanes * THREADS_MAX, lanes * FILES_MAX
    wait_until(
        lambda: process.threads <= threads_max and process.files <= files_max,
        60,
        lambda: f"{process.threads} threads and {process.files} files to be {threads_max} and {files_max} at most",
    )
    run.counts["threads at most"] = max(run.counts["threads at most"], process.threads)
    run.counts["files at most"] = max(run.counts["files at most"], process.files)
    run.memory_mib_max = max(run.memory_mib_max, process.memory_mib_max)
    if process.memory_mib_max > MEMORY_MIB_MAX:
        raise BrokenPromise(f"the service took {process.memory_mib_max} MiB, and may take {MEMORY_MIB_MAX}")
