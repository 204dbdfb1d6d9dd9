"""`cdc snapshot TABLE --where`: some rows of a table once more, over those that the sinks have."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.waiting import wait_until
from tests.support.writer import TABLES, Writer, create_schema

ROWS, CHUNK_ROWS = 400, 50
PART = "id BETWEEN 101 AND 300"
WRONG = 7_000_000


@pytest.fixture
def made(tmp_path: Path, mariadb118: Server, pg17: Server, mysql97: Server) -> Iterator[Deployment]:
    """A table `t` of ROWS rows, to a PostgreSQL and a MySQL sink."""
    with deployment(tmp_path, mariadb118, pg=pg17, my=mysql97) as one:
        one.config["snapshot"] = {"chunk_rows": CHUNK_ROWS}
        _execute(one, "CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL, s VARCHAR(20) NULL)")
        _execute(one, f"INSERT INTO t SELECT seq, seq, 'größer' FROM seq_1_to_{ROWS}")
        yield one


def _execute(one: Deployment, statement: str) -> None:
    one.source.execute(statement, database=one.source_database)


def _on_sink(one: Deployment, sink: str, statement: str, table: str = "t") -> list[Any]:
    """`{t}` in the statement is the table there."""
    server, database = one.sinks[sink]
    place = f'"{one.source_database}"."{table}"' if server.family == "postgresql" else f"`{database}`.`{table}`"
    return list(server.execute(statement.format(t=place), database=database))


def _make_wrong(one: Deployment, condition: str = "TRUE") -> None:
    for sink in one.sinks:
        _on_sink(one, sink, f"UPDATE {{t}} SET v = v + {WRONG} WHERE {condition}")


def _wrong_ids(one: Deployment, sink: str) -> set[int]:
    return {row[0] for row in _on_sink(one, sink, f"SELECT id FROM {{t}} WHERE v >= {WRONG}")}


def _part(one: Deployment, condition: str, *, table: str = "t", crash_at: str = "", sink: str = "") -> Any:
    chosen = ("--sink", sink) if sink else ()
    return one.run("snapshot", f"{one.source_database}.{table}", "--where", condition, *chosen, crash_at=crash_at)


def _events(log: str, event: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if f'"event": "{event}"' in line]


def test_beside_a_running_service_the_part_is_mended_and_the_rest_is_not_touched(made: Deployment) -> None:
    made.start()
    made.wait_for_log("table_ready", count=2)
    _make_wrong(made)
    for sink in made.sinks:
        _on_sink(made, sink, "DELETE FROM {t} WHERE id = 200")
    result = _part(made, f"{PART} AND s = 'größer'")
    assert result.returncode == 0, result.stderr
    for sink in made.sinks:
        assert f"{sink}: part of {made.source_database}.t loaded, 200 rows read, 200 written\n" in result.stdout
        assert _wrong_ids(made, sink) == {*range(1, 101), *range(301, ROWS + 1)}
    _execute(made, "UPDATE t SET v = -id")
    wait_until(lambda: all(_on_sink(made, s, "SELECT COUNT(*) FROM {t} WHERE v < 0") == [(ROWS,)] for s in made.sinks))
    made.assert_equal("t")
    assert {one["state"] for one in made.status()["tables"]} == {"ready"}
    assert made.stop() == 0


def test_what_the_stream_has_not_brought_yet_ends_right(made: Deployment) -> None:
    """The part is younger than where the stream stands, which brings every change of it once more."""
    made.catch_up()
    _make_wrong(made, PART)
    _execute(made, "UPDATE t SET v = v + 1 WHERE id % 2 = 0")
    _execute(made, "DELETE FROM t WHERE id % 5 = 0")
    _execute(made, "UPDATE t SET id = id + 10000 WHERE id % 7 = 0")
    _execute(made, "INSERT INTO t VALUES (105, -105, NULL), (100105, 1, 'new')")
    _execute(made, "DELETE FROM t WHERE id = 121")
    result = _part(made, "id > 100")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t")


def _execute_minimal(one: Deployment, *statements: str) -> None:
    """By a session whose images lack columns; a transaction each."""
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION binlog_row_image = MINIMAL")
        for statement in statements:
            cursor.execute(statement)
            connection.commit()


def test_a_row_that_the_target_lacks_may_be_changed_until_the_stream_has_come_there(made: Deployment) -> None:
    """The part has not brought it, as it was deleted before the read: its change is passed over, not refused."""
    made.config["flush"] = {"rows_max": 1}  # a transaction at a time: nothing is folded
    made.catch_up()
    for sink in made.sinks:
        _on_sink(made, sink, "DELETE FROM {t} WHERE id = 200")
    _execute_minimal(made, "UPDATE t SET v = -1 WHERE id = 200", "DELETE FROM t WHERE id = 200")
    _execute(made, "UPDATE t SET v = -2 WHERE id = 350")
    result = _part(made, PART)
    made.assert_equal("t")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("is_live", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_table_that_is_parked_behind_its_part_is_told(made: Deployment, is_live: bool) -> None:
    made.config["sinks"] = [one for one in made.config["sinks"] if one["name"] == "pg"]
    made.sinks = {"pg": made.sinks["pg"]}
    made.catch_up()
    if is_live:
        made.config["flush"] = {"age_ms_max": 15_000}  # so long the stream waits with what it has, also behind the part
        made.start()
        wait_until(lambda: {one["state"] for one in made.status()["sinks"]} <= {"streaming", "caught_up"})
    _execute_minimal(made, "UPDATE t SET id = 10010 WHERE id = 10")
    result = _part(made, "id = 2")
    assert result.returncode == 1, result.stdout
    assert "part of" not in result.stdout
    assert f"1 written, and {made.source_database}.t is parked since: " in result.stderr
    assert "hint: the load may have missed that row" in result.stderr
    if is_live:
        assert made.stop() == 0


@pytest.mark.parametrize("sink", ["pg", pytest.param("my", marks=pytest.mark.full)])
@pytest.mark.parametrize("point", ["load_chunk:3", pytest.param("load_done", marks=pytest.mark.full), "load_recorded"])
def test_a_kill_leaves_nothing_or_all_and_the_next_start_goes_on(made: Deployment, point: str, sink: str) -> None:
    made.config["sinks"] = [one for one in made.config["sinks"] if one["name"] == sink]
    made.sinks = {sink: made.sinks[sink]}
    made.catch_up()
    _make_wrong(made, PART)
    killed = _part(made, PART, crash_at=point)
    assert killed.returncode == -signal.SIGKILL
    is_done = point == "load_recorded"
    assert _wrong_ids(made, sink) == (set() if is_done else set(range(101, 301)))
    assert [one["state"] for one in made.status()["tables"]] == ["snapshotting" if is_done else "ready"]
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    assert [one["state"] for one in made.status()["tables"]] == ["ready"]
    begun = _events(result.stderr + result.stdout, "part_begun")
    assert [one["is_again"] for one in begun] == ([] if is_done else [True])
    made.assert_equal("t")


def test_a_part_waits_for_an_alter_that_the_stream_has_not_come_to(made: Deployment) -> None:
    made.catch_up()
    _make_wrong(made, PART)
    _execute(made, "ALTER TABLE t ADD COLUMN more INT NULL")
    _execute(made, "UPDATE t SET more = id WHERE id < 150")
    result = _part(made, "more IS NOT NULL OR id BETWEEN 101 AND 300")
    assert result.returncode == 0, result.stderr
    made.assert_equal("t")


@pytest.mark.full
def test_under_a_writer_source_and_sinks_end_equal(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    with deployment(tmp_path, mysql97, pg=pg15) as one:
        one.config["snapshot"] = {"chunk_rows": CHUNK_ROWS}
        create_schema(mysql97, one.source_database)
        one.start()
        one.wait_for_log("table_ready", count=len(TABLES))
        with Writer(mysql97, one.source_database) as writer:
            for table, condition in (("orders", "id % 3 = 0"), ("items", "line = 1"), ("accounts", "balance > 0")):
                writer.wait_for(writer.count + 20)
                result = _part(one, condition, table=table)
                assert result.returncode == 0, result.stderr
        assert one.stop() == 0
        one.catch_up()
        one.assert_equal(*TABLES)


def test_the_tables_own_options_hold_and_a_row_that_leaves_its_filter_goes(made: Deployment) -> None:
    made.config["tables"]["overrides"] = [
        {
            "table": f"{made.source_database}.t",
            "row_filter": "v <> 0",
            "columns": [{"column": "s", "rename": "text", "mask": "text", "mask_text": "hidden"}],
        }
    ]
    made.catch_up()
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0")  # nobody is told
        cursor.execute("UPDATE t SET v = 0 WHERE id IN (150, 350)")
        cursor.execute("UPDATE t SET s = 'secret', v = 5 WHERE id = 151")
        connection.commit()
    result = _part(made, f"{PART} AND (s LIKE 'gr%' OR s = 'secret')")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("200 rows read, 199 written, 1 removed that its row_filter leaves out") == 2
    for sink in made.sinks:
        assert _on_sink(made, sink, "SELECT id, v, text FROM {t} WHERE id IN (150, 151, 350) ORDER BY id") == [
            (151, 5, "hidden"),
            (350, 350, "hidden"),
        ]


@pytest.mark.full
def test_a_row_that_is_marked_as_deleted_and_is_there_is_marked_no_more(made: Deployment) -> None:
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.t", "mode": "soft_delete"}]
    made.catch_up()
    marked = "_cdc_is_deleted = 1, _cdc_deleted_at = '2024-01-01'"
    for sink in made.sinks:
        _on_sink(made, sink, f"UPDATE {{t}} SET {marked} WHERE id > 290")
    result = _part(made, PART)
    assert result.returncode == 0, result.stderr
    for sink in made.sinks:
        assert _on_sink(made, sink, "SELECT MIN(id) FROM {t} WHERE _cdc_deleted_at IS NOT NULL") == [(301,)]


def _refused(one: Deployment, condition: str, said: str, *, table: str = "t", code: int = 1) -> None:
    result = _part(one, condition, table=table, sink="pg")
    assert result.returncode == code, result.stdout + result.stderr
    assert said in result.stderr
    assert "hint:" in result.stderr


def test_what_cannot_be_loaded_in_part_is_refused_and_nothing_is_changed(made: Deployment) -> None:
    """Not parked: the tables go on as they were."""
    _execute(made, "CREATE TABLE nokey (a INT)")
    _execute(made, "CREATE TABLE kept (id INT PRIMARY KEY, v INT)")
    _execute(made, "CREATE TABLE stopped (id INT PRIMARY KEY, d DATE)")
    _execute(made, "INSERT INTO nokey VALUES (1)")
    _execute(made, "INSERT INTO kept VALUES (1, 1)")
    _execute(made, "INSERT INTO stopped VALUES (1, '0000-00-00')")
    made.config["policies"] = {"zero_dates": "error"}
    database = made.source_database
    made.config["tables"]["overrides"] = [{"table": f"{database}.kept", "mode": "history"}]
    _refused(made, "1", "is not known here")  # nothing has run yet
    made.run("run", "--until-caught-up")
    _make_wrong(made, PART)
    made.start()
    _refused(made, "id = 1; DELETE FROM t", "semicolon", code=2)
    _refused(made, "nothing = 1", "Unknown column 'nothing'")
    _refused(made, "id = ", "error in your SQL syntax")
    _refused(made, "1", "has no key", table="nokey")
    _refused(made, "1", "mode history", table="kept")
    _refused(made, "1", "is parked", table="stopped")
    _refused(made, "1", "is not known here", table="gone")
    result = made.run("snapshot", "--where", "1")
    assert (result.returncode, "--where is about one table" in result.stderr) == (2, True)
    states = {one["table"].partition(".")[2]: one["state"] for one in made.status()["tables"] if one["sink"] == "pg"}
    assert states == {"t": "ready", "nokey": "ready", "kept": "ready", "stopped": "parked"}
    assert len(_wrong_ids(made, "pg")) == 200
    assert made.stop() == 0


def test_trouble_at_the_sink_fails_the_command_and_the_stream_goes_on(made: Deployment) -> None:
    """An index's function says what the server says of a full disk."""
    made.config["sinks"] = [one for one in made.config["sinks"] if one["name"] == "pg"]
    made.sinks = {"pg": made.sinks["pg"]}
    made.catch_up()
    _make_wrong(made, PART)
    server, database = made.sinks["pg"]
    schema = made.source_database
    function = f'CREATE OR REPLACE FUNCTION "{schema}".sees(v BIGINT) RETURNS INT IMMUTABLE LANGUAGE plpgsql AS '
    server.execute(f"{function} $$ BEGIN RETURN 1; END $$", database=database)
    server.execute(f'CREATE INDEX by_sees ON "{schema}".t (("{schema}".sees(v)))', database=database)
    full = "IF v = 250 THEN RAISE EXCEPTION 'no room for that' USING ERRCODE = '53100'; END IF"
    server.execute(f"{function} $$ BEGIN {full}; RETURN 1; END $$", database=database)
    _execute(made, "UPDATE t SET v = -1 WHERE id = 400")
    result = _part(made, PART)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "trouble at the sink ended it each time" in result.stderr
    assert "no room for that" in result.stderr
    assert "hint: nothing of it is there" in result.stderr
    assert _wrong_ids(made, "pg") == set(range(101, 301))
    assert _on_sink(made, "pg", "SELECT v FROM {t} WHERE id = 400") == [(-1,)]
    assert [one["state"] for one in made.status()["tables"]] == ["ready"]


def test_a_condition_can_write_nothing_at_the_source(made: Deployment) -> None:
    """Not even one that the server runs before it looks at a row, nor where keys are asked for that are there twice."""
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.unbacked", "primary_key": ["v"]}]
    _execute(made, "CREATE TABLE unbacked (v INT NOT NULL)")
    _execute(made, "INSERT INTO unbacked VALUES (1), (2)")
    made.catch_up()
    _execute(made, "CREATE TABLE other (n INT)")
    _execute(
        made,
        "CREATE FUNCTION writes(n INT) RETURNS INT DETERMINISTIC BEGIN INSERT INTO other VALUES (n); RETURN n; END",
    )
    writes = f"`{made.source_database}`.writes"
    _refused(made, f"{writes}(id) > 0", "refuses the condition")
    _refused(made, f"{writes}(1) > 0", "READ ONLY")
    _refused(made, f"{writes}(v) > 0", "READ ONLY", table="unbacked")
    assert made.source_rows("other") == []


@pytest.mark.full
def test_a_condition_that_fails_at_a_row_is_refused(made: Deployment) -> None:
    made.catch_up()
    _execute(
        made,
        "CREATE FUNCTION raises(n INT) RETURNS INT DETERMINISTIC "
        "BEGIN IF n = 7 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not seven'; END IF; RETURN n; END",
    )
    for condition in (f"`{made.source_database}`.raises(id) > 0", "CAST(id AS UNSIGNED) - 1000 > 0"):
        _refused(made, condition, "the source refuses the condition")
