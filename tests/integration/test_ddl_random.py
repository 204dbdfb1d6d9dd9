"""Random DDL and DML over many tables, with kills: the sinks end as the source, whatever was followed or loaded.

Rows by comparing them, definitions by what `cdc check --drift` finds. What a run has done is printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from cdc.source.connection import SourceSettings, connect
from tests.support.deployment import Deployment, deployment
from tests.support.random_tables import RandomTables

POINTS = ("schema_altered:2", "schema_change:5", "schema_recorded:3", "schema_intent:1", "after_statement:3")
# Each seed is a round. `CDC_DDL_SECONDS`: rounds with further seeds until then (`make ddl-torture`).
SEEDS = {"mysql97": 11, "mariadb1011": 12, "mariadb118": 13}


@pytest.mark.crash
def test_a_random_run_over_many_tables_with_kills_ends_equal(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server
) -> None:
    seed = int(os.environ.get("CDC_DDL_SEED", SEEDS[source_server.kind.name]))
    ends_at = time.monotonic() + float(os.environ.get("CDC_DDL_SECONDS", "0"))
    done: Counter[str] = Counter()
    while True:
        directory = tmp_path / str(seed)
        directory.mkdir()
        with deployment(directory, source_server, pg=pg15, my=mysql97) as made:
            _round(made, source_server, seed, done)
        done["rounds"] += 1
        if time.monotonic() >= ends_at:
            what = ", ".join(f"{count} {what}" for what, count in sorted(done.items()))
            sys.stdout.write(f"\n{source_server.kind.name}: {what}\n")
            return
        seed += 100


def _round(made: Deployment, server: Server, seed: int, done: Counter[str]) -> None:
    settings = SourceSettings(server.host, server.port, server.user, server.password, 7)
    with connect(settings) as source:
        changes = RandomTables(seed, server, made.source_database, source)
        while len(changes.tables) < 3:
            changes.step()
        made.catch_up()
        for point in POINTS if "CDC_DDL_SECONDS" in os.environ else POINTS[:3]:
            process = made.start(crash_at=point)
            for _ in range(60):
                changes.step()
                if process.poll() is not None:
                    break
            if process.poll() is None:  # what it waits for did not come up: that says nothing of the others
                assert made.stop() == 0, f"seed {seed}, {point}"
            else:
                assert process.wait(60) == -signal.SIGKILL, f"seed {seed}, {point}: {made.log()[-3000:]}"
                done["kills"] += 1
                made.process = None
        made.start()
        for _ in range(15):
            changes.step()
        assert made.stop() == 0, f"seed {seed}"
    try:
        made.catch_up(timeout=300)
        made.assert_equal(*sorted(changes.tables))
        drift = made.run("check", "--drift", "--json")
        assert drift.returncode == 0, [one for one in json.loads(drift.stdout) if one["is_drifted"]]
        log = made.log()
        assert log.count('"schema_followed"') > 0, f"{changes.counts}"
        assert "definition_worked_out_wrong" not in log
        done["tables equal on both sinks"] += len(changes.tables)
        done.update(changes.counts)
        for event in ("schema_followed", "schema_not_followed", "table_loaded"):
            done[event] += log.count(f'"event": "{event}"')
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {dict(changes.counts)}: {error}") from error
