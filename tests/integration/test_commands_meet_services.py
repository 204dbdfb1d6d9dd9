"""A command and a service that did not know of each other: one of them has the lease, and neither fails for it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.integration.test_silent_sinks import impatient
from tests.integration.test_standby import held, insert, twin, wait_for_rows
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import Proxy, through
from tests.support.waiting import wait_until

# What a command would do that has looked for a service before there was one.
_SEES_NO_SERVICE = """
from cdc.cli import main
from cdc.commands import ddl, snapshot
assert ddl._is_live and snapshot._is_live
ddl._is_live = snapshot._is_live = lambda _store: False
main()
"""


def _blind(made: Deployment) -> None:
    command = made.command
    made.command = lambda *words: [sys.executable, "-c", _SEES_NO_SERVICE, *command(*words)[3:]]  # type: ignore[method-assign]


@contextlib.contextmanager
def _behind_a_proxy(directory: Path, source: Server, **sinks: Server) -> Iterator[tuple[Deployment, Deployment, Proxy]]:
    """A service whose first sink is behind a proxy, and the same deployment without that."""
    with deployment(directory, source, **sinks) as made, twin(directory / "twin", made) as near:
        near.config["sinks"] = [dict(sink) for sink in made.config["sinks"]]
        with through(made.config["sinks"][0]["url"]) as (proxy, url):
            made.config["sinks"][0]["url"] = url
            impatient(made)
            source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
            made.start()
            made.wait_for_log("table_ready", count=len(sinks))
            yield made, near, proxy


@contextlib.contextmanager
def _cut_off(directory: Path, source: Server, **sinks: Server) -> Iterator[tuple[Deployment, Deployment, Proxy]]:
    """The same, with the service cut off from that sink."""
    with _behind_a_proxy(directory, source, **sinks) as (made, near, proxy):
        proxy.freeze()
        proxy.cut()
        yield made, near, proxy


@pytest.mark.parametrize("kind", ["pg15", "mysql97"])
def test_a_service_goes_on_after_a_command_that_found_it_cut_off(
    tmp_path: Path, mariadb1011: Server, request: pytest.FixtureRequest, kind: str
) -> None:
    with _cut_off(tmp_path, mariadb1011, sink=request.getfixturevalue(kind)) as (made, near, proxy):
        insert(made, 1)
        result = near.run("snapshot", f"{made.source_database}.t")
        assert result.returncode == 0, result.stderr
        proxy.thaw()
        made.wait_for_log("lease_taken_by_command")
        insert(made, 2)
        wait_for_rows(made, 2)
        wait_until(lambda: near.status()["sinks"][0]["state"] == "caught_up", what="a status of the service")
        assert made.stop() == 0
        made.assert_equal("t")


def test_a_service_waits_for_the_command_that_has_taken_its_lease_and_for_no_other_instance(
    tmp_path: Path, mariadb1011: Server, pg15: Server, pg17: Server
) -> None:
    with _cut_off(tmp_path, mariadb1011, first=pg15, second=pg17) as (made, near, proxy):
        for sink in made.config["sinks"]:
            assert "lanes" not in sink
        with held(near, "first", "cdc snapshot elsewhere:1:2"):
            proxy.thaw()
            made.wait_for_log("standby")
            insert(made, 1)
            wait_until(lambda: len(made.sink_rows("second", "t")) == 1, what="the row on the other sink")
            assert not made.sink_rows("first", "t")
        wait_for_rows(made, 1)
        proxy.freeze()
        proxy.cut()
        with held(near, "first", "elsewhere:1:2"):
            proxy.thaw()
            made.wait_for_log("pipeline_failed", count=2)
            insert(made, 2)
            wait_until(lambda: len(made.sink_rows("second", "t")) == 2, what="the row on the other sink")
        said = [json.loads(line) for line in made.log().splitlines() if '"pipeline_failed"' in line]
        assert [line["error_class"] for line in said] == ["LeaseLost"] * 2
        assert made.log().count("lease_taken_by_command") == 1
        assert len(made.sink_rows("first", "t")) == 1
        assert made.stop() == 1


@pytest.mark.parametrize("kind", ["pg15", "mysql97"])
def test_who_loses_its_lease_while_its_applier_waits_in_a_half_open_connection_goes_on(
    tmp_path: Path, mariadb1011: Server, request: pytest.FixtureRequest, kind: str
) -> None:
    """The keeper finds out over a new connection; nothing ever comes to the applier."""
    with _behind_a_proxy(tmp_path, mariadb1011, sink=request.getfixturevalue(kind)) as (made, near, proxy):
        proxy.half_open()
        insert(made, 1)
        with held(near, "sink", "cdc snapshot elsewhere:1:2"):
            made.wait_for_log("lease_taken_by_command")
            made.wait_for_log("standby")
            assert not made.sink_rows("sink", "t")
        wait_for_rows(made, 1)
        insert(made, 2)
        wait_for_rows(made, 2)
        assert made.stop() == 0
        assert made.log().count('"LeaseLost"') == 1
        made.assert_equal("t")


def test_the_service_that_came_first_carries_a_load_out(tmp_path: Path, mariadb1011: Server, pg15: Server) -> None:
    with deployment(tmp_path, mariadb1011, sink=pg15) as made:
        made.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        insert(made, 1)
        made.start()
        made.wait_for_log("table_ready")
        _blind(made)
        result = made.run("snapshot", f"{made.source_database}.t")
        assert (result.returncode, result.stderr) == (0, "")
        assert "loaded, 1 row" in result.stdout
        result = made.run("snapshot", f"{made.source_database}.t", "--where", "nothing = 1")
        assert result.returncode == 1
        assert "Unknown column 'nothing'" in result.stderr
        assert made.stop() == 0


def test_the_service_that_came_first_carries_a_decision_out(tmp_path: Path, mariadb1011: Server, pg15: Server) -> None:
    with deployment(tmp_path, mariadb1011, sink=pg15) as made:
        made.config["policies"] = {"ddl": "approve"}
        made.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        made.start()
        made.wait_for_log("table_ready")
        made.source.execute("ALTER TABLE t ADD COLUMN c INT", database=made.source_database)
        made.wait_for_log("table_parked")
        _blind(made)
        result = made.run("ddl", "apply", f"{made.source_database}.t")
        assert (result.returncode, result.stderr) == (0, "")
        assert "is ready" in result.stdout
        assert made.stop() == 0
