"""`standby: true`: a second instance waits, and takes over within seconds from one that stops, dies or sleeps."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.app import make_sink
from cdc.config import load_config
from cdc.demo.servers import Server
from checkpoints.store import InSinkStore, LeaseHeld
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until

LEASE_SECONDS = 120  # nothing here may wait for it to run out


@contextlib.contextmanager
def twin(directory: Path, first: Deployment) -> Iterator[Deployment]:
    """Another instance of the same deployment, with a log of its own."""
    directory.mkdir()
    second = Deployment(directory, first.source, first.source_database, first.sinks)
    second.config = {**first.config, "var_dir": str(directory / "var")}
    try:
        yield second
    finally:
        second.kill()


@contextlib.contextmanager
def pair(
    directory: Path, source: Server, lease_seconds: int = LEASE_SECONDS, **sinks: Server
) -> Iterator[tuple[Deployment, Deployment]]:
    with deployment(directory, source, **sinks) as first:
        first.config |= {"standby": True, "lease": {"seconds": lease_seconds}}
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=first.source_database)
        with twin(directory / "twin", first) as second:
            first.start()
            first.wait_for_log("table_ready", count=len(sinks))
            second.start()
            second.wait_for_log("standby", count=len(sinks))
            yield first, second


def insert(made: Deployment, *numbers: int) -> None:
    for number in numbers:
        made.source.execute(f"INSERT INTO t VALUES ({number})", database=made.source_database)


def wait_for_rows(made: Deployment, count: int) -> None:
    for sink in made.sinks:
        wait_until(functools.partial(has_rows, made, sink, count), what=f"{count} rows on {sink}")


def has_rows(made: Deployment, sink: str, count: int) -> bool:
    return len(made.sink_rows(sink, "t")) == count


def expiry(made: Deployment) -> Any:
    """When the lease on PostgreSQL runs out."""
    server, database = made.sinks["pg"]
    return server.execute('SELECT expires_us FROM "_cdc".lease', database=database)


def wait_for_renewals(made: Deployment) -> None:
    """Until the lease was renewed several times: whoever waits for it has seen that."""
    seen: set[str] = set()

    def has_moved() -> bool:
        seen.add(str(expiry(made)))
        return len(seen) > 5

    wait_until(has_moved, what="renewals of the lease")


@pytest.mark.in_turn
def test_a_standby_takes_over_from_one_that_is_killed_and_one_that_stops(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server
) -> None:
    with pair(tmp_path, source_server, pg=pg15, mysql=mysql97) as (first, second):
        insert(first, 1)
        wait_for_rows(first, 1)
        assert second.process is not None
        assert second.process.poll() is None
        wait_for_renewals(first)
        began = time.monotonic()
        first.kill()
        insert(first, 2)
        second.wait_for_log("lease_taken_over", count=2, timeout=LEASE_SECONDS / 2)
        wait_for_rows(first, 2)
        assert time.monotonic() - began < LEASE_SECONDS / 2
        first.start()
        first.wait_for_log("standby", count=2)
        assert second.stop() == 0
        insert(first, 3)
        first.wait_for_log("lease_taken_over", count=2, timeout=LEASE_SECONDS / 2)
        wait_for_rows(first, 3)
        assert first.stop() == 0
        first.assert_equal("t")


@pytest.mark.in_turn
def test_one_that_sleeps_loses_the_lease_and_leaves_when_it_wakes(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    with pair(tmp_path, source_server, lease_seconds=4, pg=pg15) as (first, second):
        sleeper = first.process
        assert sleeper is not None
        sleeper.send_signal(signal.SIGSTOP)
        try:
            insert(first, 1, 2)
            second.wait_for_log("lease_taken_over")
            wait_for_rows(first, 2)
        finally:
            sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(120) == 1
        assert "LeaseLost" in first.log()
        insert(first, 3)
        wait_for_rows(first, 3)
        assert second.stop() == 0


def test_a_standby_can_be_stopped_and_waits_for_no_command(tmp_path: Path, mariadb1011: Server, pg15: Server) -> None:
    with pair(tmp_path, mariadb1011, pg=pg15) as (first, second):
        result = second.run("run", "--until-caught-up")
        assert result.returncode == 1  # it has to end, so it does not wait
        assert "is run by" in result.stderr
        assert second.stop() == 0
        assert first.process is not None
        assert first.process.poll() is None


@contextlib.contextmanager
def held(made: Deployment, sink: str, holder: str, *, lane: str = "") -> Iterator[None]:
    """Somebody else has the lease, and renews it."""
    is_over = threading.Event()
    settings = next(one for one in load_config(made.write_config(), environ={}).sinks if one.name == sink)
    with contextlib.closing(make_sink(settings)) as connection:
        connection.open()
        store = InSinkStore(connection, f"{made.config['name']}/{sink}{lane}")
        store.create()
        session = connection.session()

        def has_taken() -> bool:
            with contextlib.suppress(LeaseHeld):  # the sessions of who was cut off are there for a moment longer
                store.take_lease(holder=holder, sessions=(session, session), seconds=3, was_renewed=False)
                return True
            return False

        wait_until(has_taken, 10, "the lease to be free")

        def renew() -> None:
            while not is_over.wait(0.2):
                store.renew_lease(store.epoch, seconds=3, status={})
            store.release_lease(store.epoch, status={})

        keeper = threading.Thread(target=renew)
        keeper.start()
        try:
            yield
        finally:
            is_over.set()
            keeper.join()


def _ready(made: Deployment, sink: str) -> set[str]:
    """The tables that have been loaded there."""
    lines = [json.loads(line) for line in made.log().splitlines(keepends=True) if line.endswith("\n")]
    found = (line for line in lines if line.get("event") == "table_ready" and line["sink"] == sink)
    return {line["table"].partition(".")[2] for line in found}


@pytest.mark.parametrize(
    "holder, lane, event, seconds",
    [
        pytest.param("cdc snapshot elsewhere:1:2", "", "standby", 4, id="a command"),
        pytest.param("elsewhere:1:2", "#2", "lane_waits", 4, id="who has lost the first lane"),
        pytest.param("elsewhere:1:2", "~1", "lane_waits", 4, id="who has lost the lane of a side"),
        pytest.param("cdc snapshot elsewhere:1:2", "#2", "lane_waits", 4, id="a command that has lost the first lane"),
        # Who is no standby waits half a minute.
        pytest.param("elsewhere:1:2", "#2", "lane_waits", 35, id="standby", marks=pytest.mark.full),
        pytest.param("elsewhere:1:2", "~1", "lane_waits", 35, id="standby, a side", marks=pytest.mark.full),
    ],
)
def test_who_lets_go_by_itself_is_waited_for(
    tmp_path: Path, mariadb1011: Server, pg15: Server, holder: str, lane: str, event: str, seconds: float
) -> None:
    """Else the sink would have failed for good, beside another one that keeps the process alive."""
    with deployment(tmp_path, mariadb1011, pg=pg15, maria=mariadb1011) as made:
        for sink in made.config["sinks"]:
            sink["lanes"] = 2
        made.config["standby"] = seconds > 30
        if lane.startswith("~"):
            made.config["snapshot"] = {"beside": 1, "beside_rows_min": 0}
        for table in ("t", "u"):
            made.source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY)", database=made.source_database)
        with held(made, "maria", holder, lane=lane):
            made.start()
            made.wait_for_log(event)
            wait_until(lambda: _ready(made, "pg") == {"t", "u"}, what="the tables on the other sink")
            time.sleep(seconds)  # longer than a lease that nobody renews
            assert not _ready(made, "maria")
        wait_until(lambda: _ready(made, "maria") == {"t", "u"}, what="the tables on this sink")
        insert(made, 1)
        wait_for_rows(made, 1)
        assert made.stop() == 0
        assert "pipeline_failed" not in made.log()
        made.assert_equal("t", "u")
