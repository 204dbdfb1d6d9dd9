"""Loads through files, killed: what was read once is in a file, and is applied from there by whoever comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.crash.test_resumed_loads import CHUNK_ROWS, KEYS, Mover, fill
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import through

pytestmark = pytest.mark.crash

POINTS = (
    "load_begun:1",
    "load_chunk_staged:2",
    "load_chunk:2",
    "load_chunk_staged:5",
    "load_chunk_committed:3",
    "load_begun:1",
    "load_chunk:4",
    "load_chunk_staged:1",
    "load_chunk_committed:5",
    "load_done:1",
    "load_recorded:1",
)


def _lines(made: Deployment, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in made.log().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


@pytest.mark.any_server
@pytest.mark.parametrize(
    "key_name", ["composite", *(pytest.param(name, marks=pytest.mark.full) for name in ("int", "varchar_ci", "binary"))]
)
@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011"])
def test_a_staged_load_that_is_killed_again_and_again_ends_equal(
    key_name: str, source_server: Server, sink_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with deployment(tmp_path, source_server, sink=request.getfixturevalue(sink_name)) as made:
        made.config["snapshot"] = {"chunk_rows": CHUNK_ROWS, "workers": 3}
        made.config["staging"] = {"dir": str(tmp_path / "staging")}
        fill(source_server, made.source_database, KEYS[key_name])
        mover = Mover(source_server, made.source_database, KEYS[key_name])
        mover.start()
        try:
            for point in POINTS:
                made.start(crash_at=point)
                made.wait_until_killed()
        finally:
            mover.stop()
        assert mover.count > 20, "a writer that does nothing shows nothing"
        made.catch_up()
        made.assert_equal("t")
        resumed = _lines(made, "load_resumed")
        assert resumed[-1]["chunks"] > 0
        assert sum(line["staged"] for line in resumed) > 0
        assert not _lines(made, "staged_chunk_damaged")
        assert not [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]


@pytest.mark.any_server
@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011"])
def test_what_is_read_while_the_sink_is_away_outlives_the_process(
    source_server: Server, sink_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sink: Server = request.getfixturevalue(sink_name)
    rows = 60
    with (
        deployment(tmp_path, source_server, sink=sink) as made,
        through(made.config["sinks"][0]["url"]) as (proxy, url_through),
    ):
        url, made.config["sinks"][0]["url"] = made.config["sinks"][0]["url"], url_through
        made.config["snapshot"] = {"chunk_rows": 1, "workers": 2}
        made.config["staging"] = {"dir": str(tmp_path / "staging")}
        made.config["lease"] = {"seconds": 3}
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT)", database=made.source_database)
        for number in range(rows):
            source_server.execute(
                "INSERT INTO t VALUES (%s, REPEAT('x', 100000))", (number,), database=made.source_database
            )
        made.start()
        files = tmp_path / "staging"
        wait_until(lambda: any(files.rglob("*.json")), 120, "a file", poll_seconds=0.001)
        proxy.freeze()
        wait_until(lambda: len(list(files.rglob("*.json"))) >= 5, 120, "files")
        proxy.cut()
        wait_until(lambda: _lines(made, "load_reads_on"), 120, lambda: made.log()[-3000:])
        source_server.execute("UPDATE t SET v = 'changed' WHERE id % 7 = 0", database=made.source_database)

        def is_all_read() -> bool:
            notes = (json.loads(path.read_bytes().partition(b"\n")[0]) for path in files.rglob("*.json"))
            return any(note["chunk"]["upto"] is None for note in notes)

        wait_until(is_all_read, 120, "the last chunk in a file")
        made.kill()
        proxy.thaw()
        made.config["sinks"][0]["url"] = url
        made.start()
        made.wait_for_log("table_loaded")
        (resumed,) = _lines(made, "load_resumed")
        assert resumed["staged"] > rows // 2, "the sink was far behind"
        assert resumed["chunks"] + resumed["staged"] >= rows - 1, (
            "what was not read at the kill: at most a chunk a reader"
        )
        assert not _lines(made, "staged_chunk_damaged")
        assert made.stop() == 0
        made.catch_up()
        made.assert_equal("t")
