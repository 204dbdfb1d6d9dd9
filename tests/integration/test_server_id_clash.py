"""Two replicas with one server_id: the source ends one stream for the other, and both are told why."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from cdc.errors import CdcError, SourceUnavailable
from cdc.model import FilePos
from tests.integration.test_gtid import dump
from tests.integration.test_skip import end_of_log
from tests.support.collector import Collector, next_event
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until


@pytest.mark.parametrize("is_ours", [True, False], ids=["same-uuid", "other-uuid"])
def test_whose_stream_was_ended_for_another_replica_is_told_so(
    source_server: Server, is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL tells replicas apart by their uuid alone: with another one, both have their streams."""
    at = FilePos.of(*end_of_log(source_server))
    with dump(source_server, None, at) as first:
        assert next_event(first, Collector(), 10) is not None
        if not is_ours:
            monkeypatch.setattr(uuid, "uuid5", lambda *_: uuid.uuid4())
        with dump(source_server, None, at) as second:
            assert next_event(second, Collector(), 10) is not None
            if not is_ours and source_server.family == "mysql":
                for _ in range(5):
                    assert next_event(first, Collector(), 10) is not None
                return
            ended: list[CdcError] = []

            def is_ended() -> bool:
                try:
                    next_event(first, Collector(), 1)
                except CdcError as error:
                    ended.append(error)
                return bool(ended)

            wait_until(is_ended, 60, "the first stream to be ended")
            assert isinstance(ended[0], SourceUnavailable)
            assert "another replica uses our server_id" in ended[0].message
            assert "source.server_id" in ended[0].hint
            assert ended[0].has_rival


@pytest.mark.in_turn
def test_two_services_with_one_id_say_so_slow_down_and_lose_nothing(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    """They end each other's stream in turn; once that is plain, each waits as with a spent budget."""
    (tmp_path / "other").mkdir()
    with (
        deployment(tmp_path, source_server, pg=pg15) as one,
        deployment(tmp_path / "other", source_server, pg=pg15) as other,
    ):
        other.config["source"] = dict(one.config["source"])
        for made in (one, other):
            made.config["retry"]["per_hour"] = 1800  # spread over the hour: one in two seconds
            made.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
            made.start()
        for made in (one, other):
            made.wait_for_log("retry_budget_spent")
            wait_until(lambda made=made: made.status()["sinks"][0]["retries"]["is_spent"])  # type: ignore[misc]
            assert "another replica uses our server_id" in made.run("status").stdout
            made.source.execute("INSERT INTO t VALUES (1), (2)", database=made.source_database)
        for made in (one, other):
            wait_until(lambda made=made: len(made.sink_rows("pg", "t")) == 2, 60, "its rows")  # type: ignore[misc]
            assert _pauses(made)[4:]
            assert all(pause >= 2 for pause in _pauses(made)[4:]), _pauses(made)
            assert made.stop() == 0


def _pauses(made: Deployment) -> list[float]:
    """After each end of its stream, all of which name the cause."""
    lines = [json.loads(line) for line in made.log().splitlines() if '"pipeline_retrying"' in line]
    assert all("another replica uses our server_id" in line["message"] for line in lines), lines
    assert all("source.server_id" in line["hint"] for line in lines)
    return [line["delay_s"] for line in lines]
