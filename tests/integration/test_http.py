"""The HTTP pages of a real service on real servers: well, a sink away, the source away, a parked table, the end."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.databases import unique_name
from tests.support.deployment import Deployment, deployment
from tests.support.writer import TABLES, create_schema

HEALTH_KEYS = {
    "status",
    "timestamp",
    "version",
    "uptime_seconds",
    "database_connections",
    "last_successful_sync",
    "tables_synced",
    "sync_errors",
    "file_staging",
    "performance_metrics",
    "error_summary",
}
CONNECTION_KEYS = {"status", "pool_size", "checked_out", "overflow", "utilization_percent"}
STOP_SECONDS_MAX = 10


@dataclass(frozen=True)
class Pages:
    """A running service's pages."""

    made: Deployment
    url: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def code(self, path: str) -> int:
        return self.get(path).status_code

    def health(self) -> dict[str, Any]:
        document: dict[str, Any] = self.get("/health").json()
        return document

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self.get("/api/status").json()
        return document

    def sink(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(sink for sink in self.status()["sinks"] if sink["name"] == name)
        return found

    def metric(self, name: str, **labels: str) -> float | None:
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples)
        return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), None)

    def wait_ready(self) -> None:
        wait_until(lambda: self.code("/readyz") == 200, 60, lambda: f"/readyz; the log ends\n{self.made.log()[-3000:]}")

    def wait_health(self, status: str) -> None:
        wait_until(lambda: self.health()["status"] == status, 60, lambda: f"{status}, not {self.get('/health').text}")


def start(made: Deployment) -> Pages:
    made.config["http"] = {"host": "127.0.0.1", "port": 0}
    before = made.log().count("http_listening")
    made.start()
    made.wait_for_log("http_listening", count=before + 1)
    lines = [json.loads(line) for line in made.log().splitlines() if "http_listening" in line]
    return Pages(made, lines[-1]["url"])


@pytest.fixture
def account(mysql97: Server) -> Iterator[tuple[str, str]]:
    """User and password of an account at the source, for what must not be shown."""
    user, password = unique_name("u")[:32], "hunter2-hunter2"
    mysql97.execute(f"CREATE USER `{user}`@'%%' IDENTIFIED BY '{password}'")
    mysql97.execute(f"GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `{user}`@'%%'")
    yield user, password
    mysql97.execute(f"DROP USER `{user}`@'%%'")


def test_a_service_that_is_well(
    tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server, account: tuple[str, str]
) -> None:
    user, password = account
    with deployment(tmp_path, mysql97, warehouse=pg15, replica=mariadb1011) as made:
        made.config["source"]["url"] = f"mysql://{user}:{password}@{mysql97.host}:{mysql97.port}"
        create_schema(mysql97, made.source_database)
        pages = start(made)
        pages.wait_ready()
        for number in range(100):  # events are counted some hundreds at a time
            mysql97.execute(f"UPDATE accounts SET balance = {number}", database=made.source_database)
        for sink in made.sinks:
            wait_until(
                lambda sink=sink: (pages.metric("cdc_rows_applied_total", sink=sink, operation="upsert") or 0) > 0  # type: ignore[misc]
            )

        pages.wait_health("healthy")
        answer = pages.get("/")
        health = answer.json()
        assert answer.status_code == 200
        assert health.keys() == HEALTH_KEYS
        assert health["database_connections"].keys() == {"source", "target", "target_warehouse", "target_replica"}
        for connection in health["database_connections"].values():
            assert connection.keys() == CONNECTION_KEYS
            assert connection["status"] == "healthy"
            assert 0 <= connection["utilization_percent"] <= 100
        assert health["tables_synced"] == 2 * len(TABLES)
        assert (health["sync_errors"], health["error_summary"]) == (0, {})
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", health["last_successful_sync"])
        assert health["performance_metrics"]["active_connections"] > 0

        inside, outside = pages.status(), made.status()
        assert inside.keys() == outside.keys()
        assert [sink.keys() for sink in inside["sinks"]] == [sink.keys() for sink in outside["sinks"]]
        assert {(t["sink"], t["table"], t["state"]) for t in inside["tables"]} == {
            (sink, f"{made.source_database}.{table}", "ready") for sink in made.sinks for table in TABLES
        }

        for sink in made.sinks:
            wait_until(lambda sink=sink: pages.metric("cdc_sink_state", sink=sink, state="caught_up") == 1)  # type: ignore[misc]
            assert pages.metric("cdc_sink_lag_seconds", sink=sink) == 0
            assert pages.metric("cdc_tables", sink=sink, state="ready") == len(TABLES)
            assert (pages.metric("cdc_rows_loaded_total", sink=sink) or 0) > 0
            for name in ("cdc_transactions_total", "cdc_commits_total", "cdc_events_total", "cdc_source_bytes_total"):
                assert (pages.metric(name, sink=sink) or 0) > 0, name

        everything = "".join(pages.get(path).text for path in ("/", "/metrics", "/api/status", "/dashboard"))
        assert password not in everything
        assert made.stop() == 0


def test_ddl_is_counted_by_what_became_of_it(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    with deployment(tmp_path, mysql97, warehouse=pg15) as made:
        create_schema(mysql97, made.source_database)
        pages = start(made)
        pages.wait_ready()
        for statement in ("ADD COLUMN more INT NULL", "CONVERT TO CHARACTER SET latin1"):
            mysql97.execute(f"ALTER TABLE accounts {statement}", database=made.source_database)
        for result in ("followed", "not_followed"):
            wait_until(
                lambda result=result: pages.metric("cdc_schema_changes_total", sink="warehouse", result=result) == 1  # type: ignore[misc]
            )


def test_a_sink_that_is_away_is_degraded_and_comes_back(
    tmp_path: Path, mysql97: Server, mariadb1011: Server, start_server: Callable[..., Server]
) -> None:
    away = start_server("pg15")
    with deployment(tmp_path, mysql97, warehouse=away, replica=mariadb1011) as made:
        create_schema(mysql97, made.source_database)
        pages = start(made)
        pages.wait_ready()

        away.stop()
        mysql97.execute("UPDATE accounts SET balance = balance + 1", database=made.source_database)
        pages.wait_health("degraded")
        wait_until(lambda: pages.sink("warehouse")["state"] == "retrying")
        wait_until(lambda: pages.metric("cdc_sink_state", sink="warehouse", state="retrying") == 1)

        assert pages.code("/health") == 200
        assert pages.code("/readyz") == 503
        assert pages.code("/healthz") == 200
        assert pages.sink("warehouse")["error"]["class"] == "SinkUnavailable"
        assert pages.sink("replica")["state"] in ("streaming", "caught_up")
        assert pages.health()["error_summary"]["SinkUnavailable"] >= 1
        assert (pages.metric("cdc_errors_total", sink="warehouse") or 0) >= 1

        away.restart()
        pages.wait_ready()
        pages.wait_health("healthy")
        # It stands until the stream has passed the place where it came up.
        wait_until(lambda: pages.sink("warehouse")["error"] is None)
        assert (pages.metric("cdc_restarts_total", sink="warehouse") or 0) >= 1


def test_a_source_that_is_away_is_unhealthy_and_alive(
    tmp_path: Path, pg15: Server, start_server: Callable[..., Server]
) -> None:
    away = start_server("mariadb1011")
    with deployment(tmp_path, away, warehouse=pg15) as made:
        create_schema(away, made.source_database)
        pages = start(made)
        pages.wait_ready()

        away.kill()
        pages.wait_health("unhealthy")

        wait_until(lambda: pages.health()["database_connections"]["source"]["status"] == "unhealthy")
        assert pages.code("/health") == 503
        assert pages.code("/healthz") == 200
        assert pages.code("/dashboard") == 200

        away.restart()
        pages.wait_ready()
        pages.wait_health("healthy")


def test_a_parked_table_is_degraded_and_says_why(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    """The name of the table is what a careless page would run."""
    table = "<script>alert('x')</script>"
    with deployment(tmp_path, mysql97, warehouse=pg15) as made:
        create_schema(mysql97, made.source_database)
        mysql97.execute(f"CREATE TABLE `{table}` (id INT PRIMARY KEY)", database=made.source_database)
        _, database = made.sinks["warehouse"]
        pg15.execute(f'CREATE SCHEMA "{made.source_database}"', database=database)
        pg15.execute(f'CREATE TABLE "{made.source_database}"."{table}" (other bytea PRIMARY KEY)', database=database)
        pages = start(made)
        wait_until(lambda: pages.metric("cdc_tables", sink="warehouse", state="parked") == 1, 60)

        pages.wait_ready()
        assert (pages.code("/health"), pages.health()["status"]) == (200, "degraded")
        parked = [found for found in pages.status()["tables"] if found["state"] == "parked"]
        assert [found["table"] for found in parked] == [f"{made.source_database}.{table}"]
        assert parked[0]["error"]["message"]
        wait_until(lambda: pages.health()["tables_synced"] == len(TABLES), 60)
        assert table not in pages.get("/dashboard").text


def test_a_taken_port_is_a_configuration_error_before_anything_is_written(
    tmp_path: Path, mysql97: Server, pg15: Server
) -> None:
    with deployment(tmp_path, mysql97, warehouse=pg15) as made, socket.create_server(("127.0.0.1", 0)) as taken:
        made.config["http"] = {"host": "127.0.0.1", "port": taken.getsockname()[1]}

        result = made.run("run")

        assert result.returncode == 2
        assert "another process listens on" in result.stderr
        assert "hint:" in result.stderr
        assert "Traceback" not in result.stderr
        _, database = made.sinks["warehouse"]
        found = pg15.execute("SELECT 1 FROM pg_namespace WHERE nspname = '_cdc'", database=database)
        assert found == []


def test_a_port_that_another_instance_has_is_said_to_a_standby(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    with deployment(tmp_path, mysql97, warehouse=pg15) as made:
        create_schema(mysql97, made.source_database)
        pages = start(made)
        pages.wait_ready()
        made.config["http"]["port"] = httpx.URL(pages.url).port
        for standby, code, words in (
            (True, 2, ["another process listens on", "`http.port` of its own"]),
            (False, 1, []),
        ):
            made.config["standby"] = standby
            result = made.run("run")
            assert result.returncode == code, result.stderr
            assert "is run by" in result.stderr
            assert all(word in result.stderr for word in words)
        assert made.stop() == 0


def test_slow_clients_do_not_hold_up_sigterm(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    with deployment(tmp_path, mysql97, warehouse=pg15) as made, contextlib.ExitStack() as stack:
        create_schema(mysql97, made.source_database)
        pages = start(made)
        pages.wait_ready()
        address = httpx.URL(pages.url)
        for request in (b"GET / HT", b"GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n", b""):
            connection = stack.enter_context(socket.create_connection((address.host, address.port or 80)))
            connection.sendall(request)

        began = time.monotonic()
        code = made.stop(timeout=STOP_SECONDS_MAX)

        assert code == 0
        assert time.monotonic() - began < STOP_SECONDS_MAX
