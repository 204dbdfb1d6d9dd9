"""What the service says and how it ends when a server is frozen, half open, idle or gone: no lie, no wait for ever."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from cdc.app import _Monitor
from cdc.clock import SystemClock
from cdc.demo.servers import Server
from cdc.source.connection import SourceSettings
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import Proxy, through
from tests.support.waiting import wait_until
from tests.support.writer import TABLES, Writer, create_schema


@contextlib.contextmanager
def _behind_proxy(one: Deployment, sink: str) -> Iterator[Proxy]:
    """The deployment's sink of that name through a proxy."""
    settings = next(entry for entry in one.config["sinks"] if entry["name"] == sink)
    with through(settings["url"]) as (proxy, url):
        settings["url"] = url
        yield proxy


def _wait_until_ready(one: Deployment) -> None:
    one.wait_for_log("table_ready", count=len(one.config["sinks"]) * len(TABLES))


# ---------------------------------------------------------------- the end, whatever hangs


@pytest.mark.parametrize("kind", ["pg17", "mysql97"])
def test_sigterm_ends_a_service_whose_sink_is_frozen(
    tmp_path: Path, mariadb118: Server, request: pytest.FixtureRequest, kind: str
) -> None:
    with deployment(tmp_path, mariadb118, sink=request.getfixturevalue(kind)) as one, _behind_proxy(one, "sink") as at:
        create_schema(mariadb118, one.source_database)
        process = one.start()
        _wait_until_ready(one)
        with Writer(one.source, one.source_database) as writer:
            writer.wait_for(20)
            at.freeze()
            writer.wait_for(writer.count + 20)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 10
        one.process = None
        assert "transaction_cancelled" in one.log()
        at.thaw()
        at.cut()
        one.catch_up()
        one.assert_equal(*TABLES)


# ---------------------------------------------------------------- a source that is silent


def test_a_frozen_source_is_told_as_unreachable_and_no_lag_is_made_up(
    tmp_path: Path, mariadb118: Server, pg17: Server
) -> None:
    with deployment(tmp_path, mariadb118, pg=pg17) as one, through(one.config["source"]["url"]) as (proxy, url):
        create_schema(mariadb118, one.source_database)
        one.config["source"] |= {"url": url, "read_timeout_seconds": 8}
        one.config["http"] = {"enabled": True, "port": 0}
        one.start()
        _wait_until_ready(one)
        pages = _pages(one)
        wait_until(lambda: _get(f"{pages}/api/status")["sinks"][0]["state"] == "caught_up", 20, "caught_up")
        proxy.freeze()
        wait_until(lambda: _source_health(pages) == "unhealthy", 9, "the source unhealthy")
        assert _get(f"{pages}/api/status")["sinks"][0]["lag_seconds"] is None
        began = time.monotonic()
        document = one.status()
        assert time.monotonic() - began < 9
        assert document["source"]["position"]["file"] is None
        assert document["sinks"][0]["lag_seconds"] is None
        proxy.thaw()
        proxy.cut()
        wait_until(lambda: _source_health(pages) == "healthy", 30, "the source healthy again")
        assert one.stop() == 0


def test_the_monitor_outlives_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.app._MONITOR_SECONDS", 0.01)
    ticks: list[bool | None] = []

    def tick() -> None:
        ticks.append(monitor.state.is_reachable)
        raise ValueError("a page cannot be made")

    settings = SourceSettings(host="127.0.0.1", port=1, user="u", password="", server_id=1)
    monitor = _Monitor(settings, tick, structlog.get_logger(), SystemClock())
    monkeypatch.setattr(monitor, "look", _raise_key_error)
    monitor.start()
    wait_until(lambda: len(ticks) >= 3, 5, "ticks")
    monitor.stop()
    assert ticks[-1] is False
    assert monitor.error_counts["KeyError"] >= 3
    assert monitor.error_counts["ValueError"] >= 3


def _raise_key_error() -> None:
    raise KeyError("not of ours")


def _pages(one: Deployment) -> str:
    one.wait_for_log("http_listening")
    line = next(line for line in one.log().splitlines() if '"http_listening"' in line)
    return str(json.loads(line)["url"])


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own service
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def _source_health(pages: str) -> Any:
    return _get(f"{pages}/health")["database_connections"]["source"]["status"]


# ---------------------------------------------------------------- lag


def test_lag_is_the_age_of_what_waits_and_the_command_says_what_the_pages_say(
    tmp_path: Path, mariadb118: Server, pg17: Server
) -> None:
    with deployment(tmp_path, mariadb118, pg=pg17) as one:
        create_schema(mariadb118, one.source_database)
        one.config["http"] = {"enabled": True, "port": 0}
        one.start()
        _wait_until_ready(one)
        pages = _pages(one)
        _change(one, "first")
        wait_until(lambda: _note(one) == "first", 20, "the first change")
        time.sleep(6)  # idle: no part of any lag
        with _locked(one, "accounts"):
            began = time.monotonic()
            _change(one, "second")
            wait_until(lambda: (_pages_sink(pages)["lag_seconds"] or 0) > 3, 20, "lag")
            told = one.status()["sinks"][0]
            shown = _pages_sink(pages)
            elapsed = time.monotonic() - began
        assert shown["lag_seconds"] <= elapsed + 2  # whole seconds in the log
        assert told["lag_seconds"] == pytest.approx(shown["lag_seconds"], abs=2.5)
        assert told["state"] == shown["state"] == "streaming"
        wait_until(lambda: _pages_sink(pages)["state"] == "caught_up", 20, "caught_up")
        wait_until(lambda: one.status()["sinks"][0]["state"] == "caught_up", 20, "caught_up by the command too")
        assert one.status()["sinks"][0]["lag_seconds"] == 0


def test_a_stopped_pipeline_that_is_behind_has_no_made_up_lag(tmp_path: Path, mariadb118: Server, pg17: Server) -> None:
    with deployment(tmp_path, mariadb118, pg=pg17) as one:
        create_schema(mariadb118, one.source_database)
        one.catch_up()
        assert one.status()["sinks"][0]["lag_seconds"] == 0
        _change(one, "late")
        told = one.status()["sinks"][0]
        assert told["state"] == "stopped"
        assert told["lag_seconds"] is None


def _change(one: Deployment, note: str) -> None:
    one.source.execute("UPDATE accounts SET note = %s WHERE id = 1", (note,), database=one.source_database)


def _note(one: Deployment) -> Any:
    return next(row[2] for row in one.sink_rows("pg", "accounts") if row[0] == 1)


def _pages_sink(pages: str) -> Any:
    return _get(f"{pages}/api/status")["sinks"][0]


@contextlib.contextmanager
def _locked(one: Deployment, table: str) -> Iterator[None]:
    """The target on sink `pg`, locked so that nothing can be applied to it."""
    server, database = one.sinks["pg"]
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f'LOCK TABLE "{one.source_database}"."{table}" IN ACCESS EXCLUSIVE MODE')
        yield
        cursor.execute("ROLLBACK")


# ---------------------------------------------------------------- `cdc snapshot` beside a service


def test_snapshot_leaves_when_the_service_that_loads_is_killed(
    tmp_path: Path, mariadb118: Server, pg17: Server
) -> None:
    with deployment(tmp_path, mariadb118, pg=pg17) as one:
        create_schema(mariadb118, one.source_database)
        one.start()
        _wait_until_ready(one)
        with _locked(one, "accounts"), _started(one, "snapshot", f"{one.source_database}.accounts") as command:
            one.wait_for_log("snapshot_begun", count=2)
            one.kill()
            _, said = command.communicate(timeout=20)
        assert command.returncode == 1
        assert "it is gone" in said
        assert "hint: " in said
        one.catch_up()
        one.assert_equal(*TABLES)


def test_snapshot_leaves_with_the_error_of_a_pipeline_that_fails(
    tmp_path: Path, mariadb118: Server, pg17: Server
) -> None:
    with deployment(tmp_path, mariadb118, pg=pg17) as one:
        create_schema(mariadb118, one.source_database)
        one.start()
        _wait_until_ready(one)
        server, database = one.sinks["pg"]
        server.execute("UPDATE _cdc.checkpoint SET format = 99", database=database)
        with _started(one, "snapshot", f"{one.source_database}.accounts") as command:
            _, said = command.communicate(timeout=20)
        assert command.returncode == 1
        assert "the checkpoint has format 99" in said
        assert "run the version that wrote it" in said


def test_snapshot_of_one_sink_leaves_the_stream_of_another_alone(
    tmp_path: Path, mariadb118: Server, pg17: Server, mysql97: Server
) -> None:
    """Each sink's stream has a server_id by its place in the configuration, also where only some sinks run."""
    with deployment(tmp_path, mariadb118, a=pg17, b=mysql97) as one:
        create_schema(mariadb118, one.source_database)
        every = one.config["sinks"]
        one.config["sinks"] = every[:1]
        one.start()
        _wait_until_ready(one)
        one.config["sinks"] = every
        result = one.run("snapshot", "--sink", "b")
        assert result.returncode == 0, result.stderr
        assert one.stop() == 0
        assert "pipeline_retrying" not in one.log()
        one.catch_up()
        one.assert_equal(*TABLES)


@contextlib.contextmanager
def _started(one: Deployment, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command of `cdc` that runs beside the test; ended with it."""
    with subprocess.Popen(
        one.command(*arguments),
        cwd=one.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
