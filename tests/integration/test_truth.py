"""What the service says and how it ends when a server is frozen, half open, idle or gone: no lie, no wait for ever."""

from __future__ import annotations

import contextlib
import json
import signal
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
