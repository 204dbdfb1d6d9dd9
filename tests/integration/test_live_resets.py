"""The source's log is reset, or another server comes to its address, under the stream: it stops, and says so."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import Proxy, through
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

StartServer = Callable[..., Server]
_GTIDS = {"gtid_mode": "ON", "enforce_gtid_consistency": "ON"}


def _reset(server: Server) -> None:
    server.execute("RESET BINARY LOGS AND GTIDS" if server.family == "mysql" else "RESET MASTER")


def _insert(made: Deployment, server: Server, first: int, last: int) -> None:
    for number in range(first, last + 1):
        server.execute(f"INSERT INTO t VALUES ({number})", database=made.source_database)


def _last_error(made: Deployment) -> dict[str, Any]:
    lines = [json.loads(line) for line in made.log().splitlines() if '"pipeline_failed"' in line]
    return dict(lines[-1]) if lines else {}


@pytest.mark.parametrize(
    "kind, options, position",
    [("mysql97", _GTIDS, "auto"), ("mysql97", {}, "file"), ("mariadb1011", {}, "auto")],
    ids=["mysql-by-gtid", "mysql-by-file", "mariadb"],
)
def test_a_log_that_is_reset_under_the_stream_stops_it(
    tmp_path: Path, start_server: StartServer, pg15: Server, kind: str, options: dict[str, str], position: str
) -> None:
    """It would wait for events of a file that is gone, at no lag, while everything that is written is lost."""
    source = start_server(kind, options=options)
    with deployment(tmp_path, source, pg=pg15) as made:
        made.config["source"]["position"] = position
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        _insert(made, source, 1, 20)
        made.start()
        made.wait_for_log("table_ready")
        _insert(made, source, 21, 30)
        wait_until(lambda: len(made.sink_rows("pg", "t")) == 30, what="the rows")
        _reset(source)
        _insert(made, source, 31, 33)
        made.wait_for_log("pipeline_failed")
        error = _last_error(made)
        assert error["error_class"] == "SourceChanged"
        assert "reset" in error["message"] + error["hint"]
        assert made.process is not None
        assert made.process.wait(60) == 1
        made.process = None


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10):  # noqa: S310 - our own
            return True
    except urllib.error.HTTPError:
        return False


def _source_health(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:  # noqa: S310 - our own
            body = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        body = json.loads(error.read())
    return str(body["database_connections"]["source"]["status"])


def test_another_server_at_the_address_is_found_though_the_stream_is_well(
    tmp_path: Path, start_server: StartServer, pg15: Server
) -> None:
    """Who goes on writing does so there; the old one is idle, and sends heartbeats."""
    one, other = start_server("mysql97"), start_server("mysql97")
    with deployment(tmp_path, one, pg=pg15) as made, through(made.config["source"]["url"]) as (proxy, url):
        made.config["source"] |= {"url": url, "position": "file"}
        one.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        made.start()
        made.wait_for_log("table_ready")
        _lead_to(proxy, other)
        _cut_monitor(made, one)
        made.wait_for_log("pipeline_failed")
        assert "leads to server" in made.log()
        assert _last_error(made)["error_class"] == "SourceChanged"
        assert made.process is not None
        assert made.process.wait(60) == 1
        made.process = None


def _lead_to(proxy: Proxy, server: Server) -> None:
    """New connections; those that are there stay."""
    proxy._target = (server.host, server.port)


def _cut_monitor(made: Deployment, server: Server) -> None:
    """Every session of the service but the stream's."""
    for (thread,) in server.execute(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND NOT LIKE 'Binlog Dump%' AND ID <> CONNECTION_ID() "
        "AND COMMAND <> 'Daemon'"
    ):
        server.execute(f"KILL {thread}")


def test_a_stream_that_is_silent_is_not_ready_long_before_it_is_given_up(
    tmp_path: Path, mariadb1011: Server, pg15: Server
) -> None:
    with deployment(tmp_path, mariadb1011, pg=pg15) as made, through(made.config["source"]["url"]) as (proxy, url):
        made.config["source"]["url"] = url
        made.config["http"] = {"enabled": True, "port": 0}
        mariadb1011.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        made.start()
        made.wait_for_log("table_ready")
        line = next(line for line in made.log().splitlines() if '"http_listening"' in line)
        pages = json.loads(line)["url"]
        wait_until(lambda: _ready(pages), what="the service to be ready")
        proxy.half_open()
        wait_until(lambda: not _ready(pages), 20, "the service not to be ready")
        wait_until(lambda: _source_health(pages) == "healthy", 20, "the monitor's new connection")
        assert not _ready(pages)
        assert "pipeline_retrying" not in made.log()
        assert made.stop() == 0
