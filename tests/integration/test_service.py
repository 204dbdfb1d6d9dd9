"""The service as its operators meet it: commands beside it, two instances, signals, status, and unknown outcomes."""

from __future__ import annotations

import json
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.writer import TABLES, Writer, create_schema


@pytest.fixture
def made(tmp_path: Path, mariadb118: Server, pg17: Server, mysql97: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mariadb118, pg=pg17, mysql=mysql97) as one:
        create_schema(mariadb118, one.source_database)
        yield one


def _tables(one: Deployment) -> dict[tuple[str, str], dict[str, Any]]:
    return {(t["sink"], t["table"].partition(".")[2]): t for t in one.status()["tables"]}


def _wait_until_ready(one: Deployment) -> None:
    one.wait_for_log("table_ready", count=len(one.sinks) * len(TABLES))


def test_snapshot_beside_a_running_service_reloads_and_the_stream_goes_on(made: Deployment) -> None:
    made.start()
    _wait_until_ready(made)
    server, database = made.sinks["pg"]
    # Before anything is written: the service and an UPDATE of all rows would lock them in orders of their own.
    server.execute(f'DELETE FROM "{made.source_database}".items WHERE order_id < 50', database=database)
    server.execute(f"UPDATE \"{made.source_database}\".items SET name = 'altered'", database=database)
    with Writer(made.source, made.source_database) as writer:
        result = made.run("snapshot", f"{made.source_database}.items", "--sink", "pg")
        assert result.returncode == 0, result.stderr
        assert "loaded" in result.stdout
        writer.wait_for(writer.count + 30)
    assert made.stop() == 0
    made.catch_up()
    made.assert_equal(*TABLES)


def test_snapshot_without_a_service_loads_by_itself(made: Deployment) -> None:
    result = made.run("snapshot")
    assert result.returncode == 0, result.stderr
    made.assert_equal(*TABLES)
    result = made.run("snapshot", f"{made.source_database}.nothing")
    assert result.returncode == 1
    result = made.run("snapshot", "elsewhere.orders")
    assert result.returncode == 2
    assert "tables.include" in result.stderr


def test_a_second_instance_leaves_with_the_holders_name_and_the_first_goes_on(made: Deployment) -> None:
    made.start()
    _wait_until_ready(made)
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert "is run by" in result.stderr
    assert "hint" in result.stderr
    made.source.execute("UPDATE accounts SET note = 'still here' WHERE id = 3", database=made.source_database)
    assert made.stop() == 0
    made.catch_up()
    made.assert_equal(*TABLES)


def test_an_instance_that_slept_through_a_takeover_writes_nothing_when_it_wakes(made: Deployment) -> None:
    made.config["lease"] = {"seconds": 3}
    process = made.start()
    _wait_until_ready(made)
    with Writer(made.source, made.source_database) as writer:
        writer.wait_for(20)
        process.send_signal(signal.SIGSTOP)
        try:
            made.catch_up()
            writer.wait_for(writer.count + 20)
        finally:
            process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 1
        assert "has taken" in made.log()
    made.process = None
    made.catch_up()
    made.assert_equal(*TABLES)


def test_sigterm_in_a_long_load_rolls_back_and_leaves_within_ten_seconds(made: Deployment) -> None:
    made.source.execute(
        "CREATE TABLE big (id INT PRIMARY KEY, v VARCHAR(50)) SELECT seq AS id, CONCAT('row ', seq) AS v "
        "FROM seq_1_to_300000",
        database=made.source_database,
    )
    made.config["snapshot"] = {"chunk_rows": 2000}
    process = made.start()
    wait_until(lambda: "big" in made.log() or _progress(made), 30, "the load of big")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    made.process = None
    made.catch_up(timeout=180)
    made.assert_equal(*TABLES, "big")


def _progress(one: Deployment) -> bool:
    return any(table["progress"] for table in one.status()["tables"])


def test_status_has_the_contracted_fields_running_and_stopped(made: Deployment) -> None:
    made.start()
    _wait_until_ready(made)
    wait_until(lambda: {s["state"] for s in made.status()["sinks"]} == {"caught_up"}, 30, "caught_up")
    running = made.status()
    assert made.stop() == 0
    stopped = made.status()
    for document in (running, stopped):
        assert set(document) >= {"name", "version", "time", "source", "sinks", "tables"}
        assert set(document["source"]) >= {"flavor", "server_version", "position"}
        for sink in document["sinks"]:
            assert set(sink) >= {"name", "kind", "state", "position", "lag_seconds", "last_commit", "error"}
            assert set(sink["position"]) == {"gtid", "file", "pos"}
            assert sink["position"]["file"]
            assert sink["last_commit"]
        for table in document["tables"]:
            assert set(table) >= {
                "sink",
                "table",
                "target",
                "state",
                "rows",
                "last_change",
                "policy_changes",
                "error",
            }
            assert table["state"] == "ready"
    assert [s["kind"] for s in stopped["sinks"]] == ["postgresql", "mysql"]
    assert {s["state"] for s in stopped["sinks"]} == {"stopped"}
    assert {s["lag_seconds"] for s in stopped["sinks"]} == {0}


def test_lag_grows_while_a_sink_is_down_and_the_other_sink_goes_on(
    tmp_path: Path, start_server: Callable[..., Server], mariadb1011: Server
) -> None:
    pg = start_server("pg15")
    with deployment(tmp_path, mariadb1011, pg=pg, maria=mariadb1011) as one:
        create_schema(mariadb1011, one.source_database)
        one.config["http"] = {"enabled": True, "port": 0}
        one.start()
        _wait_until_ready(one)
        url = next(json.loads(x)["url"] for x in one.log().splitlines() if '"http_listening"' in x)
        pg.kill()
        with Writer(mariadb1011, one.source_database) as writer:
            writer.wait_for(50)
        one.wait_for_log("pipeline_retrying")
        wait_until(
            lambda: sorted(one.sink_rows("maria", "accounts")) == sorted(one.source_rows("accounts")), 30, "maria"
        )
        document = _get(f"{url}/api/status")
        states = {sink["name"]: sink["state"] for sink in document["sinks"]}
        assert states["pg"] == "retrying"
        assert states["maria"] in ("streaming", "caught_up")
        assert document["sinks"][0]["error"]["class"] == "SinkUnavailable"
        assert _get(f"{url}/health")["status"] == "degraded"
        pg.restart()
        assert one.process is not None
        wait_until(lambda: _get(f"{url}/health")["status"] == "healthy", 60, "healthy again")
        assert one.stop() == 0
        one.catch_up()
        one.assert_equal(*TABLES)


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own service
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def test_a_killed_connection_in_the_middle_of_a_transaction_loses_and_doubles_nothing(made: Deployment) -> None:
    """The sinks' sessions of the service are killed again and again: also between COMMIT and its answer."""
    made.start()
    _wait_until_ready(made)
    is_over = threading.Event()

    def kill_sessions() -> None:
        while not is_over.wait(0.3):
            pg, database = made.sinks["pg"]
            pg.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{database}' AND application_name LIKE 'cdc%%' AND pid <> pg_backend_pid()"
            )

    killer = threading.Thread(target=kill_sessions)
    killer.start()
    try:
        with Writer(made.source, made.source_database) as writer:
            writer.wait_for(400)
    finally:
        is_over.set()
        killer.join()
    assert made.stop() == 0
    assert "pipeline_retrying" in made.log()
    made.catch_up()
    made.assert_equal(*TABLES)


def test_a_target_made_just_before_a_kill_is_still_known_as_ours(made: Deployment) -> None:
    """Made, killed, and the source's table altered meanwhile: the next run makes it anew instead of refusing it."""
    made.start(crash_at="target_made:1")
    made.wait_until_killed()
    for table in TABLES:
        made.source.execute(
            f"ALTER TABLE {table} ADD COLUMN colour VARCHAR(9) NULL FIRST", database=made.source_database
        )
    made.catch_up()
    made.assert_equal(*TABLES)
