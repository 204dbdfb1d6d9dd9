"""The real pt-online-schema-change, with writers beside it and the service killed in the middle of its work.

Where the tool is not installed (Debian: percona-toolkit) the tests here are skipped; the statements that it and gh-ost
send are in test_ddl_tables.py.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2.errors
import pymysql
import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.ddl_targets import on_sink, on_source
from tests.support.deployment import Deployment, deployment
from tests.support.writer import TransactionWriter

TOOL = "pt-online-schema-change"
ROWS = 12_000
_DEADLOCK, _LOCK_TIMEOUT = 1213, 1205
# Before it exchanges the tables the tool waits for a word that they are where the test wants them.
_PLUGIN = """package pt_online_schema_change_plugin;
sub new { return bless {}, shift; }
sub before_swap_tables { select(undef, undef, undef, 0.05) until -e "SIGNAL"; }
1;
"""

pytestmark = [
    pytest.mark.full,
    pytest.mark.crash,
    pytest.mark.skipif(shutil.which(TOOL) is None, reason=f"{TOOL} is not installed (Debian: percona-toolkit)"),
]


class _Writer(TransactionWriter):
    """Inserts, updates, deletes and moves keys of `t`, a few rows a transaction, until the end of the block."""

    def __init__(self, made: Deployment, seed: int) -> None:
        super().__init__(made.source, made.source_database, seed=seed)

    def transaction(self, cursor: Any) -> bool:
        pick = self.random
        try:
            for _ in range(pick.randint(1, 4)):
                row = pick.randint(1, ROWS)
                statement = pick.choice(
                    (
                        f"INSERT INTO t (a, b) VALUES ({row}, 'in {row}')",
                        f"UPDATE t SET a = a + 1, b = CONCAT('up ', a) WHERE id = {row}",
                        f"UPDATE t SET b = NULL WHERE id BETWEEN {row} AND {row + 5}",
                        f"DELETE FROM t WHERE id = {row}",
                        f"UPDATE IGNORE t SET id = id + {10 * ROWS} WHERE id = {row}",
                    )
                )
                cursor.execute(statement)
        except pymysql.err.OperationalError as error:
            if error.args[0] not in (_DEADLOCK, _LOCK_TIMEOUT):
                raise
            return False  # the tool's triggers and the writer have met
        return True


@pytest.fixture(params=[("mysql97", "mariadb1011"), ("mariadb1011", "mysql97")], ids=["mysql97", "mariadb1011"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, pg15: Server) -> Iterator[Deployment]:
    source, sink = request.param
    with deployment(tmp_path, request.getfixturevalue(source), pg=pg15, my=request.getfixturevalue(sink)) as made:
        yield made


def _tool(made: Deployment, alter: str, may_swap: Path) -> subprocess.Popen[str]:
    server = made.source
    plugin = made.directory / "plugin.pm"
    plugin.write_text(_PLUGIN.replace("SIGNAL", str(may_swap)))
    dsn = f"h={server.host},P={server.port},u={server.user},D={made.source_database},t=t"
    dsn += f",p={server.password}" if server.password else ""
    return subprocess.Popen(
        [
            TOOL, "--alter", alter, "--execute", "--recursion-method=none", "--no-version-check", "--chunk-size=250",
            "--chunk-time=0", "--sleep=0.05", "--plugin", str(plugin), dsn,
        ],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _has_begun(made: Deployment) -> bool:
    """Are the first rows of the tool's copy where they come to: at every sink, or at the source if it is excluded?"""
    if made.config["tables"].get("exclude"):
        return _has_rows(lambda: made.source.execute("SELECT 1 FROM _t_new LIMIT 1", database=made.source_database))
    return all(
        _has_rows(functools.partial(on_sink, made, sink, "SELECT 1 FROM {}_t_new LIMIT 1")) for sink in made.sinks
    )


def _has_rows(asked: Callable[[], list[Any]]) -> bool:
    try:
        return bool(asked())
    except (pymysql.err.ProgrammingError, psycopg2.errors.UndefinedTable):
        return False  # not yet, or not any more


def _migrate(made: Deployment, alter: str, crash_at: str) -> None:
    """Run the tool to its end, with the service killed while it copies and again at `crash_at` of its exchange."""
    may_swap = made.directory / "may_swap"
    may_swap.unlink(missing_ok=True)
    made.start()
    _wait_for_stream(made)  # a copy that a session finds at its start is loaded
    tool = _tool(made, alter, may_swap)
    try:
        wait_until(lambda: _has_begun(made) or tool.poll() is not None, what="rows in the tool's copy")
        made.kill()
        made.start(crash_at=crash_at)
        _wait_for_stream(made)
        may_swap.touch()
        told, _ = tool.communicate(timeout=240)
    finally:
        tool.kill()
        tool.wait()
    assert tool.returncode == 0, told
    made.wait_until_killed()
    made.start()
    _wait_for_stream(made)


def _wait_for_stream(made: Deployment) -> None:
    """A row of now has come to every sink."""
    number = made.source.execute("SELECT UUID_SHORT()")[0][0] % 1_000_000_000
    on_source(made, f"INSERT INTO other VALUES ({number})")
    wait_until(lambda: all((number,) in made.sink_rows(sink, "other") for sink in made.sinks))


def _loads(made: Deployment) -> list[str]:
    lines = [json.loads(line) for line in made.log().splitlines() if '"event": "table_loaded"' in line]
    return [f"{line['sink']} {line['table'].partition('.')[2]}" for line in lines]


def _assert_arrived(made: Deployment) -> None:
    made.catch_up()
    made.assert_equal("t")
    states = {(row["sink"], row["table"].partition(".")[2]): row["state"] for row in made.status()["tables"]}
    assert all(state == "ready" or table != "t" for (_, table), state in states.items()), states
    assert not {"parked", "pending", "snapshotting"} & set(states.values()), states
    drift = made.run("check", "--drift", "--json")
    assert drift.returncode == 0, drift.stdout + drift.stderr
    assert "definition_worked_out_wrong" not in made.log()


def _begin(made: Deployment) -> None:
    on_source(made, "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, a INT NOT NULL, b VARCHAR(30), KEY (a))")
    on_source(made, "CREATE TABLE other (id INT PRIMARY KEY)")
    for start in range(0, ROWS, 3000):
        rows = ", ".join(f"({n}, {n % 7}, 'row {n}')" for n in range(start + 1, start + 3001))
        on_source(made, f"INSERT INTO t VALUES {rows}")
    on_source(made, "ANALYZE TABLE t")  # else the tool may take it for a small one, which it copies at once
    made.catch_up()


def test_a_migration_of_captured_tables_is_followed_through_kills(pair: Deployment) -> None:
    """No load: the tool's copy has come to a target of its own, and the two change their names."""
    _begin(pair)
    with _Writer(pair, seed=7) as writer:
        _migrate(pair, "ADD COLUMN c INT NOT NULL DEFAULT 5, MODIFY b VARCHAR(90), ADD INDEX (b)", "schema_altered:1")
        assert pair.stop() == 0
        # What the first run has left on the sinks (the old table, which is dropped) is there now.
        _migrate(pair, "ADD COLUMN d VARCHAR(9) NOT NULL DEFAULT 'new', DROP INDEX a", "schema_recorded:1")
    assert writer.count > 100
    assert pair.stop() == 0
    _assert_arrived(pair)
    assert pair.source_columns("t") == ["id", "a", "b", "c", "d"]
    assert _loads(pair) == []


def test_a_migration_with_excluded_shadows_loads_the_table_once(pair: Deployment) -> None:
    pair.config["tables"]["exclude"] = [f"{pair.source_database}._t_*"]
    _begin(pair)
    with _Writer(pair, seed=8) as writer:
        _migrate(pair, "ADD COLUMN c INT NOT NULL DEFAULT 5, DROP INDEX a", "schema_change:1")
    assert writer.count > 100
    assert pair.stop() == 0
    _assert_arrived(pair)
    assert sorted(set(_loads(pair))) == ["my t", "pg t"]
