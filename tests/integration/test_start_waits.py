"""Servers that are away when the service starts are waited for; a command that is to end says so instead."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import through
from tests.support.waiting import wait_until
from tests.support.writer import TABLES, create_schema

pytestmark = pytest.mark.integration


def _section(made: Deployment, which: str) -> dict[str, Any]:
    section: dict[str, Any] = made.config["source"] if which == "source" else made.config["sinks"][0]
    section["connect_timeout_seconds"] = 1
    return section


def _answer(made: Deployment, path: str) -> tuple[int, bytes]:
    line = next(line for line in made.log().splitlines() if '"http_listening"' in line)
    try:
        with urllib.request.urlopen(f"{json.loads(line)['url']}{path}", timeout=10) as answer:  # noqa: S310 - our own
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("which", ["source", "sink"])
def test_the_service_waits_and_begins(tmp_path: Path, mariadb118: Server, pg17: Server, which: str) -> None:
    with deployment(tmp_path, mariadb118, sink=pg17) as made:
        create_schema(mariadb118, made.source_database)
        section = _section(made, which)
        with through(section["url"]) as (proxy, url):
            section["url"] = url
            proxy.freeze()
            made.config["http"] = {"enabled": True, "port": 0}
            made.start()
            made.wait_for_log("start_retrying", count=2)
            assert "service_started" not in made.log()
            assert {path: _answer(made, path)[0] for path in ("/healthz", "/health", "/readyz", "/metrics")} == {
                "/healthz": 200,
                "/health": 503,
                "/readyz": 503,
                "/metrics": 200,
            }
            assert json.loads(_answer(made, "/health")[1])["status"] == "unhealthy"
            status = json.loads(_answer(made, "/api/status")[1])
            assert status["sinks"] == []
            said = status["source"]["error"]
            assert (said is not None and (said["class"], bool(said["since"]))) == (
                which == "source" and ("SourceUnavailable", True)
            )
            proxy.cut()
            proxy.thaw()
            made.wait_for_log("table_ready", count=len(TABLES))
            made.assert_equal(*TABLES)
            assert made.stop() == 0


def test_it_can_be_stopped_while_it_waits(tmp_path: Path, mariadb118: Server, pg17: Server) -> None:
    with deployment(tmp_path, mariadb118, sink=pg17) as made:
        section = _section(made, "source")
        with through(section["url"]) as (proxy, url):
            section["url"] = url
            proxy.freeze()
            made.start()
            made.wait_for_log("start_retrying")
            assert made.stop() == 0
            wait_until(lambda: "service_stopped" in made.log(), 60, "the last line")


def test_a_run_that_is_to_end_fails(tmp_path: Path, mariadb118: Server, pg17: Server) -> None:
    with deployment(tmp_path, mariadb118, sink=pg17) as made:
        section = _section(made, "source")
        with through(section["url"]) as (proxy, url):
            section["url"] = url
            proxy.freeze()
            result = made.run("run", "--until-caught-up")
            assert result.returncode == 1
            assert "cannot be used" in result.stderr
