"""What the configuration keeps from targets, and `cdc ddl`: on real servers, both sink kinds."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.app import make_sink, pipeline_name
from cdc.config import load_config
from cdc.demo.servers import Server
from checkpoints.store import InSinkStore
from tests.support import wait_until
from tests.support.ddl_targets import mark, on_sink, on_source, targets, unmarked
from tests.support.deployment import Deployment, deployment


@pytest.fixture
def made(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mysql97, pg=pg15, my=mariadb1011) as one:
        yield one


def _begin(made: Deployment, *tables: str, **policies: str) -> None:
    made.config["policies"] = policies
    for table in tables:
        on_source(made, f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT NOT NULL, b VARCHAR(20))")
        on_source(made, f"INSERT INTO {table} VALUES (1, 10, 'one'), (2, 20, 'two')")
    made.catch_up()


def _run(made: Deployment, code: int = 0) -> str:
    result = made.run("run", "--until-caught-up", timeout=300)
    assert result.returncode == code, result.stderr
    return result.stderr


def _count(log: str, event: str) -> int:
    return log.count(f'"event": "{event}"')


def _state(made: Deployment, sink: str, table: str) -> dict[str, Any]:
    name = f"{made.source_database}.{table}"
    return next(row for row in made.status()["tables"] if row["sink"] == sink and row["table"] == name)


def _pending(made: Deployment) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(made.run("ddl", "pending", "--json").stdout)
    return rows


def _settled(made: Deployment) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(made.run("ddl", "pending", "--settled", "--json").stdout)
    return rows


# ---------------------------------------------------------------- columns


def test_a_dropped_column_is_kept_and_is_null_from_then_on(made: Deployment) -> None:
    _begin(made, "t", on_drop_column="keep")
    on_source(made, "ALTER TABLE t DROP COLUMN a, ADD COLUMN c INT")
    on_source(made, "INSERT INTO t VALUES (3, 'three', 30)")
    on_source(made, "UPDATE t SET b = 'uno' WHERE id = 1")
    assert not _count(_run(made), "table_loaded")
    made.assert_equal("t")
    for sink in made.sinks:
        assert made.sink_rows(sink, "t", ["id", "a"]) == [(1, 10), (2, 20), (3, None)]
    result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t")
    for sink in made.sinks:
        assert {row[1] for row in made.sink_rows(sink, "t", ["id", "a"])} == {None}, "a load leaves the column, empty"


@pytest.mark.parametrize(
    "policy,statement,is_done",
    [
        pytest.param("widen", "MODIFY a BIGINT NOT NULL", True, marks=pytest.mark.full),
        ("widen", "MODIFY b VARCHAR(2)", False),
        pytest.param("widen", "CONVERT TO CHARACTER SET latin1", False, marks=pytest.mark.full),
        ("park", "MODIFY a BIGINT NOT NULL", False),
        pytest.param("park", "MODIFY b VARCHAR(2)", False, marks=pytest.mark.full),
        pytest.param("park", "ADD COLUMN c INT, MODIFY a INT NULL", True, marks=pytest.mark.full),
    ],
)
def test_other_types_of_columns(made: Deployment, policy: str, statement: str, is_done: bool) -> None:
    _begin(made, "t", "other", on_type_change=policy)
    on_source(made, "UPDATE t SET b = 'x'")
    on_source(made, f"ALTER TABLE t {statement}")
    on_source(made, "INSERT INTO other VALUES (3, 30, 'three')")
    log = _run(made, 0 if is_done else 1)
    assert not _count(log, "table_loaded")
    made.assert_equal("other")
    if is_done:
        made.assert_equal("t")
        return
    for sink in made.sinks:
        row = _state(made, sink, "t")
        assert row["state"] == "parked"
        assert statement in row["error"]["message"]
        assert f"on_type_change: {policy}" in row["error"]["message"]
    result = made.run("ddl", "apply", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal("t", "other")


# ---------------------------------------------------------------- tables


def test_a_dropped_table_is_dropped_kept_or_archived(made: Deployment) -> None:
    made.config["tables"]["overrides"] = [
        {"table": f"{made.source_database}.{policy}_it", "on_drop_table": policy} for policy in ("keep", "archive")
    ]
    _begin(made, "drop_it", "keep_it", "archive_it", on_drop_table="drop")
    on_source(made, "DROP TABLE drop_it, keep_it, archive_it")
    assert not _count(_run(made), "table_loaded")
    for sink in made.sinks:
        archived = targets(made, sink) - {"keep_it"}
        assert len(archived) == 1
        assert archived.pop().startswith("archive_it_dropped_20")
        assert len(made.sink_rows(sink, "keep_it")) == 2
    for table in ("drop_it", "keep_it", "archive_it"):
        on_source(made, f"CREATE TABLE {table} (id INT PRIMARY KEY)")
        on_source(made, f"INSERT INTO {table} VALUES (5)")
    _run(made)
    made.assert_equal("drop_it", "keep_it", "archive_it")
    for sink in made.sinks:
        assert len(targets(made, sink)) == 4


@pytest.mark.full
def test_a_dropped_database_drops_every_target(made: Deployment) -> None:
    _begin(made, "t", "u", on_drop_table="drop")
    on_source(made, f"DROP DATABASE {made.source_database}")
    made.source.execute(f"CREATE DATABASE {made.source_database}")
    _run(made)
    for sink in made.sinks:
        assert not targets(made, sink)


def test_a_truncate_is_ignored_or_parks_the_table(made: Deployment) -> None:
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.u", "on_truncate": "park"}]
    _begin(made, "t", "u", on_truncate="ignore")
    for table in ("t", "u"):
        on_source(made, f"TRUNCATE TABLE {table}")
        on_source(made, f"INSERT INTO {table} VALUES (1, 11, 'new'), (3, 30, 'three')")
    log = _run(made, 1)
    assert _count(log, "truncate_ignored") == 2
    for sink in made.sinks:
        assert made.sink_rows(sink, "t", ["id", "a"]) == [(1, 11), (2, 20), (3, 30)]
        assert made.sink_rows(sink, "u", ["id", "a"]) == [(1, 10), (2, 20)]
    assert {row["table"] for row in _pending(made)} == {f"{made.source_database}.u"}
    assert made.run("ddl", "apply", f"{made.source_database}.u").returncode == 0
    made.catch_up()
    made.assert_equal("u")


# ---------------------------------------------------------------- ddl: log


def test_statements_that_are_only_logged_leave_the_target_as_it_is(made: Deployment) -> None:
    """Until the operator has given it the column: rows to come bring their values then."""
    _begin(made, "t", ddl="log")
    for sink in made.sinks:
        on_sink(made, sink, f"ALTER TABLE {{}}t {'ALTER a DROP NOT NULL' if sink == 'pg' else 'MODIFY a INT NULL'}")
    for statement in ("ADD COLUMN c INT DEFAULT 5 FIRST", "DROP COLUMN a", "ADD INDEX by_b (b)"):
        on_source(made, f"ALTER TABLE t {statement}")
        on_source(made, "INSERT IGNORE INTO t (id, b) SELECT MAX(id) + 1, 'more' FROM t")
    on_source(made, "TRUNCATE TABLE t")
    on_source(made, "INSERT INTO t (id, b) VALUES (1, 'uno')")
    log = _run(made)
    assert not _count(log, "table_loaded"), log
    assert _count(log, "schema_not_applied") == 8
    for sink in made.sinks:
        assert made.sink_rows(sink, "t", ["id", "b"])[0] == (1, "uno")
        assert len(made.sink_rows(sink, "t", ["id", "a", "b"])) == 5
        on_sink(made, sink, "ALTER TABLE {}t ADD COLUMN c INT NULL")
    on_source(made, "INSERT INTO t (id, b, c) VALUES (77, 'x', 8)")
    assert _count(_run(made), "columns_taken_up") == 2
    for sink in made.sinks:
        assert (77, 8) in made.sink_rows(sink, "t", ["id", "c"])


@pytest.mark.full
def test_a_target_that_cannot_stay_as_it_is_parks_the_table(made: Deployment) -> None:
    """Rows without the column would be refused: it is NOT NULL at the sink."""
    _begin(made, "t", ddl="log")
    on_source(made, "ALTER TABLE t DROP COLUMN a")
    _run(made, 1)
    assert {(row["sink"], row["statement"]) for row in _pending(made)} == {
        (sink, "ALTER TABLE t DROP COLUMN a") for sink in made.sinks
    }


# ---------------------------------------------------------------- ddl: approve


def test_a_statement_waits_and_is_followed_where_the_stream_stands_behind_it(made: Deployment) -> None:
    _begin(made, "t", ddl="approve")
    mark(made, "t")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7")
    _run(made, 1)
    rows = _pending(made)
    assert {row["sink"] for row in rows} == set(made.sinks)
    assert {row["statement"] for row in rows} == {"ALTER TABLE t ADD COLUMN c INT DEFAULT 7"}
    assert "ddl: approve" in made.run("ddl", "pending").stdout
    result = made.run("ddl", "apply", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    assert not _pending(made)
    settled = _settled(made)
    assert [(row["decision"], row["state"]) for row in settled] == [("apply", "done")] * 2
    assert all("@" in row["by"] and row["at"] for row in settled)
    on_source(made, "INSERT INTO t VALUES (3, 30, 'three', 8)")
    _run(made)
    made.assert_equal("t")
    for sink in made.sinks:
        assert unmarked(made, sink, "t") == 1, "no load"


@pytest.mark.parametrize("decision", ["apply", "skip"])
def test_a_statement_is_decided_about_beside_a_running_service(made: Deployment, decision: str) -> None:
    """The stream has gone on meanwhile: the table is loaded, with the column or without it."""
    _begin(made, "t", "other", ddl="approve")
    made.start()
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7, DROP COLUMN b")
    on_source(made, "INSERT INTO t VALUES (3, 30, 8)")
    on_source(made, "INSERT INTO other VALUES (3, 30, 'goes on')")
    wait_until(lambda: all(len(made.sink_rows(sink, "other")) == 3 for sink in made.sinks))
    result = made.run("ddl", decision, f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    on_source(made, "INSERT INTO t VALUES (4, 40, 9)")
    wait_until(lambda: all(len(made.sink_rows(sink, "t")) == 4 for sink in made.sinks))
    assert made.stop() == 0
    _run(made)
    for sink in made.sinks:
        if decision == "apply":
            made.assert_equal("t")
        else:
            rows = made.sink_rows(sink, "t", ["id", "a", "b"])
            assert [row[:2] for row in rows] == [(1, 10), (2, 20), (3, 30), (4, 40)]
    assert '"decision": "' + decision in made.log()
    assert made.run("ddl", decision, f"{made.source_database}.t").returncode == 1, "nothing waits any more"


def test_what_is_approved_is_what_was_shown(made: Deployment) -> None:
    """A statement that comes behind the one that waits is asked about by the load, with all that it would change."""
    _begin(made, "t", "other", ddl="approve")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7")
    _run(made, 1)
    assert all(row["found"] == ["column c is new"] for row in _pending(made))
    assert "at the source column c is new" in made.run("ddl", "pending").stdout
    before = {sink: _types(made, sink, "t") for sink in made.sinks}
    on_source(made, "INSERT INTO other VALUES (3, 30, 'goes on')")
    on_source(made, "ALTER TABLE t DROP COLUMN b")
    _run(made, 1)
    result = made.run("ddl", "apply", f"{made.source_database}.t")
    assert result.returncode == 1, result.stdout
    assert "column b is gone; column c is new" in result.stderr
    _held(made, "t", "ddl: approve")
    assert {sink: _types(made, sink, "t") for sink in made.sinks} == before
    result = made.run("ddl", "apply", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t", "other")


def test_a_decision_about_another_statement_than_the_one_that_waits_is_none(made: Deployment) -> None:
    _begin(made, "t", ddl="approve")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7")
    _run(made, 1)
    config = load_config(made.write_config(), environ={})
    for settings in config.sinks:
        sink = make_sink(settings)
        sink.open()
        said = {
            "tables": [[made.source_database, "t"]],
            "by": "somebody",
            "statements": ["ALTER TABLE t DROP COLUMN b"],
        }
        InSinkStore(sink, pipeline_name(config, settings)).add_command("ddl_apply", json.dumps(said))
        sink.close()
    _run(made, 1)
    settled = _settled(made)
    assert {row["state"] for row in settled} == {"failed"}
    assert all("waits for something else by now" in row["message"] for row in settled)
    assert len(_pending(made)) == len(made.sinks)


def test_skipped_where_the_stream_stands_behind_it(made: Deployment) -> None:
    _begin(made, "t", "gone", ddl="approve", on_drop_table="drop")
    on_source(made, "DROP TABLE gone")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7 AFTER id")
    _run(made, 1)
    for table in ("t", "gone"):
        assert made.run("ddl", "skip", f"{made.source_database}.{table}").returncode == 0
    on_source(made, "INSERT INTO t VALUES (3, 8, 30, 'three')")
    _run(made)
    result = made.run("verify", f"{made.source_database}.t")
    assert result.returncode == 0, result.stdout
    for sink in made.sinks:
        assert made.sink_rows(sink, "t") == [(1, 10, "one"), (2, 20, "two"), (3, 30, "three")]
        assert len(made.sink_rows(sink, "gone")) == 2
        assert _state(made, sink, "t")["left_out"] == ["c"]
    assert "c: left out" in " ".join(made.run("status").stdout.split())


def test_a_column_that_is_dropped_on_the_sink_is_none_that_was_skipped(made: Deployment) -> None:
    _begin(made, "t", ddl="approve")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT NOT NULL DEFAULT 4")
    _run(made, 1)
    assert made.run("ddl", "skip", f"{made.source_database}.t").returncode == 0
    for sink in made.sinks:
        on_sink(made, sink, "ALTER TABLE {}t DROP COLUMN b")
    on_source(made, "INSERT INTO t (id, a, b, c) VALUES (9, 90, 'not to be lost', 9)")
    _run(made, 1)
    errors = [one["error"]["message"] for one in made.status()["tables"] if one["table"].endswith(".t")]
    assert len(errors) == len(made.sinks)
    assert all("b" in re.findall(r"\w+", message) for message in errors), errors


def test_a_drop_that_was_approved_later_is_done(made: Deployment) -> None:
    _begin(made, "t", "other", ddl="approve", on_drop_table="archive")
    on_source(made, "DROP TABLE t")
    on_source(made, "INSERT INTO other VALUES (3, 30, 'goes on')")
    _run(made, 1)
    on_source(made, "INSERT INTO other VALUES (4, 40, 'and on')")
    assert made.run("ddl", "apply", f"{made.source_database}.t").returncode == 0
    _run(made)
    made.assert_equal("other")
    for sink in made.sinks:
        assert "t" not in targets(made, sink)
        assert len(targets(made, sink)) == 2


def test_what_cannot_be_skipped_by_its_words_is_skipped_by_a_load(made: Deployment) -> None:
    """Nothing was committed behind the statement; a decision that comes to nothing is no `done`."""
    _begin(made, "t", "u", ddl="approve")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT AS (a + 1)")
    on_source(made, "ALTER TABLE u DROP COLUMN a")
    _run(made, 1)
    result = made.run("ddl", "skip", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    assert {row["table"] for row in _pending(made)} == {f"{made.source_database}.u"}
    for sink in made.sinks:
        assert _state(made, sink, "t")["state"] == "ready"
    assert made.run("ddl", "skip", f"{made.source_database}.u").returncode == 1, "a is NOT NULL on the sinks"
    assert {row["table"] for row in _pending(made)} == {f"{made.source_database}.u"}
    settled = _settled(made)
    assert {row["state"] for row in settled if row["tables"][0][1] == "u"} == {"failed"}


def test_a_load_leaves_a_target_alone_whose_statements_are_only_logged(made: Deployment) -> None:
    """Also where the table was parked meanwhile, so that a statement passed unseen."""
    _begin(made, "t", "u", ddl="log")
    for table in ("t", "u"):
        mark(made, table)
        for sink in made.sinks:
            on_sink(made, sink, f"ALTER TABLE {{}}{table} ADD CONSTRAINT no_nines CHECK (a <> 99)")
        on_source(made, f"INSERT INTO {table} VALUES (3, 99, 'refused')")
    _run(made, 1)
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 5")
    on_source(made, "ALTER TABLE u MODIFY id VARCHAR(20)")
    for table in ("t", "u"):
        on_source(made, f"UPDATE {table} SET a = 98 WHERE a = 99")
    made.run("snapshot", f"{made.source_database}.t", f"{made.source_database}.u")
    for sink in made.sinks:
        assert _state(made, sink, "t")["state"] == "ready"
        assert made.sink_rows(sink, "t", ["id", "a"]) == [(1, 10), (2, 20), (3, 98)]
        on_sink(made, sink, "SELECT mine FROM {}t")  # it was not made anew
        row = _state(made, sink, "u")
        assert row["state"] == "parked"
        assert "ddl: log" in row["error"]["message"]
        assert made.sink_rows(sink, "u", ["id", "mine"]) == [(1, "1"), (2, "2")]
    made.config["policies"]["ddl"] = "apply"
    result = made.run("snapshot", f"{made.source_database}.t", f"{made.source_database}.u")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t", "u")


# ---------------------------------------------------------------- loads


@pytest.mark.crash
@pytest.mark.parametrize("sink, point", [("pg", "schema_altered"), ("my", "schema_intent"), ("my", "schema_recorded")])
def test_a_decision_is_no_failure_for_a_kill_in_its_midst(
    tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server, sink: str, point: str
) -> None:
    """One of the tables is loaded by it already, or is even done, when the next instance takes it up again."""
    with deployment(tmp_path, mysql97, **{sink: {"pg": pg15, "my": mariadb1011}[sink]}) as made:
        _begin(made, "t", "u", ddl="approve")
        for table in ("t", "u"):
            on_source(made, f"ALTER TABLE {table} ADD COLUMN c INT DEFAULT 7")
        _run(made, 1)
        names = [f"{made.source_database}.{table}" for table in ("t", "u")]
        killed = made.run("ddl", "apply", *names, crash_at=point)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        _run(made)
        made.assert_equal("t", "u")
        settled = _settled(made)
        assert [(row["state"], row["message"]) for row in settled] == [("done", "")]


def test_a_decision_that_fails_for_one_table_tells_of_the_others(made: Deployment) -> None:
    _begin(made, "t", "u", ddl="approve")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7")
    on_source(made, "ALTER TABLE u DROP COLUMN a")
    _run(made, 1)
    names = [f"{made.source_database}.{table}" for table in ("t", "u")]
    result = made.run("ddl", "skip", *names)
    assert result.returncode == 1, "a is NOT NULL on the sinks"
    assert {row["table"] for row in _pending(made)} == {names[1]}
    for sink in made.sinks:
        assert f"cdc: {sink}: " in result.stderr
        assert f"{sink}: {names[0]} is ready\n  ALTER TABLE t ADD COLUMN c" in result.stdout
        assert f"{sink}: {names[1]} is" not in result.stdout
    assert [row["state"] for row in _settled(made)] == ["failed"] * len(made.sinks)


@pytest.mark.parametrize(
    "decision, statement, code",
    [("apply", "ADD COLUMN c INT DEFAULT 7", 0), ("skip", "DROP COLUMN a", 1)],
    ids=["done", "failed"],
)
def test_what_became_of_a_decision_is_told_where_its_tables_go_to_other_lanes(
    made: Deployment, decision: str, statement: str, code: int
) -> None:
    """The deal cuts the command: one of the tables goes on to a lane that was not there when it was given."""
    _begin(made, "t", "u", ddl="approve")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT DEFAULT 7")
    on_source(made, f"ALTER TABLE u {statement}")
    _run(made, 1)
    made.config["source"]["server_id_count"] = 8
    for sink in made.config["sinks"]:
        sink["lanes"] = [[f"{made.source_database}.t"], [f"{made.source_database}.u"]]
    names = [f"{made.source_database}.{table}" for table in ("t", "u")]
    result = made.run("ddl", decision, *names)
    assert result.returncode == code, result.stderr
    for sink in made.sinks:
        assert f"{sink}: {names[0]} is ready\n  ALTER TABLE t ADD COLUMN c" in result.stdout
        assert {_state(made, sink, table)["lane"] for table in ("t", "u")} == {1, 2}
        if code:
            assert f"cdc: {sink}: " in result.stderr
            assert f"{names[1]} is" not in result.stdout
        else:
            assert f"{sink}: {names[1]} is ready\n  ALTER TABLE u ADD COLUMN c" in result.stdout
    settled = _settled(made)
    assert sorted((row["sink"], row["tables"], row["state"]) for row in settled) == sorted(
        (sink, [[made.source_database, table]], "failed" if code and table == "u" else "done")
        for sink in made.sinks
        for table in ("t", "u")
    )
    for sink in made.config["sinks"]:
        sink["lanes"] = 1
    _run(made, code)
    assert _settled(made) == settled, "also what was said to a lane that is no more"
    if not code:
        made.assert_equal("t", "u")


def _types(made: Deployment, sink: str, table: str) -> dict[str, str]:
    server, database = made.sinks[sink]
    schema, column = (made.source_database, "data_type") if sink == "pg" else (database, "column_type")
    rows = server.execute(
        f"SELECT column_name, {column} FROM information_schema.columns WHERE table_schema = '{schema}' "
        f"AND table_name = '{table}'",
        database=database,
    )
    return {str(name): str(text) for name, text in rows}


def _held(made: Deployment, table: str, policy: str) -> None:
    for sink in made.sinks:
        row = _state(made, sink, table)
        assert row["state"] == "parked", row
        assert policy in row["error"]["message"], row
        assert "was to be loaded" in row["error"]["message"], row


@pytest.mark.parametrize(
    "policy,statement,is_held",
    [
        ({"on_type_change": "park"}, "MODIFY a BIGINT NOT NULL", True),
        pytest.param({"on_type_change": "widen"}, "MODIFY b CHAR(20)", True, marks=pytest.mark.full),
        pytest.param({"on_type_change": "widen"}, "MODIFY a BIGINT NOT NULL", False, marks=pytest.mark.full),
        pytest.param({"on_type_change": "park"}, "ADD COLUMN c INT NOT NULL", False, marks=pytest.mark.full),
        ({"ddl": "approve"}, "ADD COLUMN c INT NOT NULL", True),
        pytest.param({"ddl": "approve"}, "ADD INDEX (a)", False, marks=pytest.mark.full),
    ],
)
def test_a_statement_that_passed_unseen_is_asked_about_by_the_load(
    made: Deployment, policy: dict[str, str], statement: str, is_held: bool
) -> None:
    """The table was parked meanwhile. Naming a table that waits is consent; what the load of all parked ones is not."""
    _begin(made, "t", **policy)
    for sink in made.sinks:
        on_sink(made, sink, "ALTER TABLE {}t ADD CONSTRAINT no_nines CHECK (a <> 99)")
    before = {sink: _types(made, sink, "t") for sink in made.sinks}
    on_source(made, "INSERT INTO t VALUES (3, 99, 'refused')")
    _run(made, 1)
    on_source(made, f"ALTER TABLE t {statement}")
    on_source(made, "UPDATE t SET a = 98 WHERE a = 99")
    result = made.run("snapshot")
    if is_held:
        assert result.returncode == 1, result.stderr
        _held(made, "t", "ddl: approve" if "ddl" in policy else "on_type_change: ")
        assert {row["table"] for row in _pending(made)} == {f"{made.source_database}.t"}
        for sink in made.sinks:
            assert _types(made, sink, "t") == before[sink]
            assert made.sink_rows(sink, "t", ["id", "a"]) == [(1, 10), (2, 20)]
        assert made.run("snapshot").returncode == 1, "tables that wait are not tried again"
        result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t")
    assert not _pending(made)


def test_a_reload_does_not_run_ahead_of_a_statement_that_is_on_its_way(made: Deployment) -> None:
    """`cdc snapshot` of a table that waits at nothing says nothing of an ALTER that the stream has not come to."""
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.u", "ddl": "approve"}]
    _begin(made, "t", "u", on_type_change="park")
    before = {sink: _types(made, sink, "t") for sink in made.sinks}
    on_source(made, "ALTER TABLE t MODIFY b VARCHAR(10) NOT NULL")
    on_source(made, "ALTER TABLE u ADD COLUMN c TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6), DROP COLUMN b")
    result = made.run("snapshot", f"{made.source_database}.t", f"{made.source_database}.u")
    assert result.returncode == 1, result.stdout
    waiting = _pending(made)
    assert len(waiting) == 4
    assert {row["table"] for row in waiting} == {f"{made.source_database}.{table}" for table in ("t", "u")}
    for sink in made.sinks:
        assert _types(made, sink, "t") == before[sink]
        assert made.sink_rows(sink, "u") == made.sink_rows(sink, "t"), "untouched"
    for decision, table in (("apply", "t"), ("skip", "u")):
        on_source(made, f"INSERT INTO {table} (id, a, {'b' if table == 't' else 'c'}) VALUES (7, 70, '2026-01-01')")
        result = made.run("ddl", decision, f"{made.source_database}.{table}")
        assert result.returncode == 0, result.stderr
    made.assert_equal("t")
    for sink in made.sinks:
        assert made.sink_rows(sink, "u", ["id", "a"]) == [(1, 10), (2, 20), (7, 70)]
        assert "c" not in _types(made, sink, "u")


@pytest.mark.full
@pytest.mark.parametrize("statement", ["MODIFY a DOUBLE NOT NULL", "CONVERT TO CHARACTER SET latin1"])
def test_a_load_beside_the_stream_asks_as_well(made: Deployment, statement: str) -> None:
    """A side finds the other columns. When it has joined its lane, the table waits there; what is said goes back."""
    made.config["snapshot"] = {"beside": 2, "beside_rows_min": 0}
    _begin(made, "t", "other", on_type_change="park")
    for sink in made.sinks:
        on_sink(made, sink, "ALTER TABLE {}t ADD CONSTRAINT no_nines CHECK (a <> 99)")
    before = {sink: _types(made, sink, "t") for sink in made.sinks}
    on_source(made, "INSERT INTO t VALUES (3, 99, 'refused')")
    _run(made, 1)
    on_source(made, f"ALTER TABLE t {statement}")
    on_source(made, "UPDATE t SET a = 98 WHERE a = 99")
    made.start()
    on_source(made, "INSERT INTO other VALUES (3, 30, 'goes on')")
    wait_until(lambda: all(len(made.sink_rows(sink, "other")) == 3 for sink in made.sinks))
    made.run("snapshot")
    wait_until(lambda: len(_pending(made)) == len(made.sinks))
    _held(made, "t", "on_type_change: park")
    assert {sink: _types(made, sink, "t") for sink in made.sinks} == before
    result = made.run("snapshot", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    assert made.stop() == 0
    assert made.log().count('"event": "side_joined"') >= 4, "two loads a sink were a side's"
    _run(made)
    made.assert_equal("t", "other")


@pytest.mark.crash
@pytest.mark.parametrize("sides", [2, 0], ids=["there", "by_its_lane"])
def test_what_waits_beside_the_stream_is_decided_about(
    tmp_path: Path, mysql97: Server, pg15: Server, sides: int
) -> None:
    """A kill where the lane meets its side: the table waits in the side's metadata, and `cdc ddl` finds it.

    Where the configuration has no sides by then, its lane takes the table with what was said of it.
    """
    with deployment(tmp_path, mysql97, pg=pg15) as made:
        made.config["snapshot"] = {"beside": 2, "beside_rows_min": 0}
        _begin(made, "t", on_type_change="park")
        on_sink(made, "pg", "ALTER TABLE {}t ADD CONSTRAINT no_nines CHECK (a <> 99)")
        on_source(made, "INSERT INTO t VALUES (3, 99, 'refused')")
        _run(made, 1)
        on_source(made, "ALTER TABLE t MODIFY a DOUBLE NOT NULL")
        on_source(made, "UPDATE t SET a = 98 WHERE a = 99")
        killed = made.run("snapshot", crash_at="beside_met")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert [row["reason"] for row in _pending(made)] == ["on_type_change: park"]
        made.config["snapshot"]["beside"] = sides
        result = made.run("ddl", "apply", f"{made.source_database}.t")
        assert result.returncode == 0, result.stderr
        assert not _pending(made)
        _run(made)
        made.assert_equal("t")
        assert [(row["state"], row["tables"]) for row in _settled(made)] == [("done", [[made.source_database, "t"]])]


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE t", "CREATE TABLE t (id INT PRIMARY KEY, a DOUBLE NOT NULL, b VARCHAR(20))"],
        ["RENAME TABLE t TO t_old, t_new TO t"],
        pytest.param(["DROP TABLE t", "RENAME TABLE t_new TO t"], marks=pytest.mark.full),
        pytest.param(["ALTER TABLE t DROP COLUMN a, ADD COLUMN a DOUBLE NOT NULL"], marks=pytest.mark.full),
        pytest.param(["CREATE TABLE t_x LIKE t_new", "DROP TABLE t", "RENAME TABLE t_x TO t"], marks=pytest.mark.full),
    ],
)
def test_another_table_in_the_place_of_one_is_another_type_too(made: Deployment, statements: list[str]) -> None:
    on_source(made, "CREATE TABLE t_new (id INT PRIMARY KEY, a DOUBLE NOT NULL, b VARCHAR(20))")
    on_source(made, "INSERT INTO t_new VALUES (1, 0.5, 'half')")
    _begin(made, "t", on_type_change="park")
    before = {sink: _types(made, sink, "t") for sink in made.sinks}
    for statement in statements:
        on_source(made, statement)
    on_source(made, "INSERT INTO t (id, a, b) VALUES (9, 9.5, 'nine')")
    _run(made, 1)
    _held(made, "t", "on_type_change: park")
    for sink in made.sinks:
        assert _types(made, sink, "t") == before[sink]
        assert len(made.sink_rows(sink, "t")) == 2
    if "t_old" in statements[0]:
        made.assert_equal("t_old")
    result = made.run("ddl", "apply", f"{made.source_database}.t")
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal("t")


# ---------------------------------------------------------------- kills


@pytest.mark.crash
@pytest.mark.in_turn
@pytest.mark.parametrize(
    "point",
    [
        pytest.param("schema_change", marks=pytest.mark.full),
        "schema_intent",
        "schema_altered",
        pytest.param("schema_recorded", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011", "mysql97"])
def test_a_kill_around_a_statement_on_tables_does_it_once(
    tmp_path: Path, mysql97: Server, point: str, sink_name: str, request: pytest.FixtureRequest
) -> None:
    """A name that is new to the next session is loaded there, unless the metadata say that a rename was begun."""
    sink: Server = request.getfixturevalue(sink_name)
    statements = ["RENAME TABLE t TO t_old, t_new TO t", "DROP TABLE archived", "CREATE TABLE made LIKE t"]
    if point == "schema_intent":
        statements = statements[:1]
        if sink.family == "postgresql":
            pytest.skip("PostgreSQL needs no intent: its DDL is part of the transaction")
    with deployment(tmp_path, mysql97, sink=sink) as made:
        _begin(made, "t", "t_new", "archived", on_drop_table="archive")
        on_source(made, "INSERT INTO t_new VALUES (3, 30, 'three')")
        made.catch_up()
        for statement in statements:
            process = made.start(crash_at=point)
            on_source(made, "INSERT INTO t (id, a) SELECT MAX(id) + 1, 5 FROM t")
            wait_until(lambda: len(made.sink_rows("sink", "t")) == len(made.source_rows("t")))
            on_source(made, statement)
            on_source(made, "INSERT INTO t (id, a) SELECT MAX(id) + 1, 5 FROM t")
            assert process.wait(120) == -signal.SIGKILL, made.log()[-3000:]
            made.process = None
            log = _run(made)
            is_told = point == "schema_recorded" or (
                sink.family != "postgresql" and point in ("schema_intent", "schema_altered")
            )
            if is_told and "CREATE" not in statement:
                assert not _count(log, "table_loaded"), log
        made.assert_equal("t", "t_old", *(["made"] if len(statements) > 1 else []))
        archived = [name for name in targets(made, "sink") if name.startswith("archived")]
        assert len(archived) == 1
        assert (archived == ["archived"]) == (len(statements) == 1)


@pytest.mark.crash
@pytest.mark.in_turn
@pytest.mark.parametrize("sink_name", ["mariadb1011", pytest.param("mysql97", marks=pytest.mark.full)])
def test_a_name_of_a_begun_rename_is_not_loaded_where_the_old_name_is_there_again(
    tmp_path: Path, mysql97: Server, sink_name: str, request: pytest.FixtureRequest
) -> None:
    """Nothing is gone at the source then: only the metadata say whose the new name is."""
    with deployment(tmp_path, mysql97, sink=request.getfixturevalue(sink_name)) as made:
        _begin(made, "t")
        made.catch_up()
        process = made.start(crash_at="schema_altered")
        on_source(made, "INSERT INTO t (id, a) SELECT MAX(id) + 1, 5 FROM t")
        wait_until(lambda: len(made.sink_rows("sink", "t")) == len(made.source_rows("t")))  # it streams
        on_source(made, "RENAME TABLE t TO t_old")
        assert process.wait(120) == -signal.SIGKILL, made.log()[-3000:]
        made.process = None
        on_source(made, "CREATE TABLE t LIKE t_old")
        on_source(made, "INSERT INTO t (id, a) VALUES (7, 5)")
        on_source(made, "INSERT INTO t_old (id, a) SELECT MAX(id) + 1, 5 FROM t_old")
        loaded = [line for line in _run(made).splitlines() if '"table_loaded"' in line]
        assert not [line for line in loaded if "t_old" in line], loaded
        made.assert_equal("t", "t_old")
