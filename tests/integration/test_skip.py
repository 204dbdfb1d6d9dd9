"""`cdc skip`: one transaction is stepped over, its tables are loaded again, and it is written down who did it."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from cdc.commands.skip import skip
from cdc.config import load_config
from cdc.demo.servers import Server
from cdc.errors import ConfigError
from tests.support.deployment import Deployment, deployment


def end_of_log(source: Server) -> tuple[str, int]:
    try:
        row = source.execute("SHOW BINARY LOG STATUS")[0]
    except Exception:  # noqa: BLE001 - MariaDB, and MySQL before 8.2, call it otherwise
        row = source.execute("SHOW MASTER STATUS")[0]
    return str(row[0]), int(row[1])


def write(made: Deployment, statement: str) -> str:
    """Run one statement; the place of its last event's beginning, or thereabouts."""
    made.source.execute(statement, database=made.source_database)
    file, pos = end_of_log(made.source)
    return f"{file}:{pos - 1}"


def skips(made: Deployment, sink: str) -> list[dict[str, Any]]:
    server, database = made.sinks[sink]
    table = '"_cdc".skips' if server.family == "postgresql" else "_cdc_skips"
    rows = server.execute(f"SELECT pipeline, who, place, what FROM {table} ORDER BY id", database=database)
    return [{"pipeline": row[0], "who": row[1], "place": row[2], **json.loads(row[3])} for row in rows]


def loads(result: Any, sink: str) -> list[str]:
    lines = [json.loads(line) for line in result.stderr.splitlines() if '"table_loaded"' in line]
    return sorted(line["table"].partition(".")[2] for line in lines if line["sink"] == sink)


@pytest.mark.in_turn
def test_a_transaction_is_stepped_over_and_its_tables_are_loaded_again(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97) as made:
        for table in ("a", "b"):
            made.source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, v INT)", database=made.source_database)
        made.source.execute("INSERT INTO a VALUES (1, 1)", database=made.source_database)
        made.catch_up()
        made.source.execute("FLUSH BINARY LOGS")  # so that what follows is in another file than the checkpoint
        place = write(made, "INSERT INTO a VALUES (2, 2), (3, 3)")
        later = write(made, "INSERT INTO b VALUES (1, 1)")

        too_far = made.run("skip", later, "--yes")
        assert too_far.returncode == 2
        assert "no sink's checkpoint is right before" in too_far.stderr
        unasked = made.run("skip", place)
        assert unasked.returncode == 2
        assert "asks for confirmation" in unasked.stderr
        assert [skips(made, sink) for sink in made.sinks] == [[], []]

        result = made.run("skip", place, "--yes")
        assert result.returncode == 0, result.stderr
        assert "Write_rows" in result.stdout
        for sink in made.sinks:
            (said,) = skips(made, sink)
            assert said["place"] == place
            assert said["tables"] == [[made.source_database, "a"]]
            assert "@" in said["who"]
            assert said["before"] != said["after"]
        assert made.run("skip", place, "--yes").returncode == 2  # it is behind the checkpoint now

        went_on = made.run("run", "--until-caught-up")
        assert went_on.returncode == 0, went_on.stderr
        made.assert_equal("a", "b")
        assert {sink: loads(went_on, sink) for sink in made.sinks} == {"pg": ["a"], "mysql": ["a"]}


@pytest.mark.in_turn
def test_a_statement_that_is_stepped_over_loads_the_tables_that_it_names(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15) as made:
        for table in ("a", "b"):
            made.source.execute(f"CREATE TABLE {table}_rows (id INT PRIMARY KEY)", database=made.source_database)
        made.catch_up()
        place = write(made, "ALTER TABLE a_rows ADD v INT NULL")
        made.source.execute("INSERT INTO a_rows VALUES (1, 2)", database=made.source_database)
        made.source.execute("INSERT INTO b_rows VALUES (1)", database=made.source_database)
        assert made.run("skip", place, "--yes").returncode == 0
        went_on = made.run("run", "--until-caught-up")
        assert went_on.returncode == 0, went_on.stderr
        made.assert_equal("a_rows", "b_rows")
        assert loads(went_on, "pg") == ["a_rows"]


def everything(made: Deployment, sink: str) -> dict[str, str]:
    """Each table of the sink's database, the service's own among them."""
    server, database = made.sinks[sink]
    tables = server.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
        database=database,
    )
    return {
        f"{schema}.{table}": repr(server.execute(f'SELECT * FROM "{schema}"."{table}"', database=database))
        for schema, table in tables
    }


SECRET = "ssn-123-45-6789"


@pytest.mark.in_turn
@pytest.mark.parametrize(
    "settings",
    [
        ["SET SESSION binlog_format = ROW"],
        ["SET SESSION binlog_format = STATEMENT", f"SET @other = '{SECRET}'"],
    ],
    ids=["rows", "statement"],
)
def test_what_is_kept_of_it_shows_no_value(
    tmp_path: Path, source_server: Server, pg15: Server, settings: list[str]
) -> None:
    """A server writes the statements beside the rows: with values of columns and tables that are left out."""
    with deployment(tmp_path, source_server, pg=pg15) as made:
        database = made.source_database
        for table in ("a", "b"):
            made.source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, ssn VARCHAR(99))", database=database)
        made.config["tables"] |= {
            "exclude": [f"{database}.b"],
            "overrides": [{"table": f"{database}.a", "exclude_columns": ["ssn"]}],
        }
        made.catch_up()
        with contextlib.closing(made.source.connect(database)) as session, session.cursor() as cursor:
            if made.source.family == "mysql":
                cursor.execute("SET SESSION binlog_rows_query_log_events = ON")
            for statement in (
                *settings,
                "BEGIN",
                f"INSERT INTO a VALUES (1, '{SECRET}')",
                f"INSERT INTO b VALUES (1, '{SECRET}')",
                f"INSERT INTO b VALUES (2, coalesce(@other, '{SECRET}'))",
                "COMMIT",
            ):
                cursor.execute(statement)
        file, pos = end_of_log(made.source)
        result = made.run("skip", f"{file}:{pos - 1}", "--yes")
        assert result.returncode == 0, result.stderr
        assert SECRET in result.stdout  # the log that is stepped over has it, and who steps over it may see it
        made.catch_up()
        assert made.sink_rows("pg", "a") == [(1,)]
        kept = everything(made, "pg")
        (said,) = skips(made, "pg")
        assert any(line.endswith(" INSERT INTO …") for line in said["events"])
        assert [name for name, rows in kept.items() if SECRET in rows or SECRET.encode().hex() in rows] == []


@pytest.mark.in_turn
@pytest.mark.parametrize("kind", ["mysql97", "mariadb118"])
@pytest.mark.parametrize("what", ["prepared", "view"])
def test_what_a_statement_hides_loads_every_table(
    tmp_path: Path, request: pytest.FixtureRequest, pg15: Server, kind: str, what: str
) -> None:
    """The end of a prepared transaction names no table at all, and DML that is logged as a statement names a view."""
    source = request.getfixturevalue(kind)
    with deployment(tmp_path, source, pg=pg15) as made, contextlib.ExitStack() as stack:
        made.source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=made.source_database)
        made.source.execute("CREATE VIEW seen AS SELECT * FROM a", database=made.source_database)
        if what == "prepared":
            made.catch_up()  # so that what follows is kept until its end
            name = f"'{made.source_database}'"
            with contextlib.closing(source.connect(made.source_database)) as session, session.cursor() as cursor:
                for statement in (
                    f"XA START {name}",
                    "INSERT INTO a VALUES (1)",
                    f"XA END {name}",
                    f"XA PREPARE {name}",
                ):
                    cursor.execute(statement)
            made.catch_up()
            assert made.status()["sinks"][0]["prepared"]["count"] == 1
            place = write(made, f"XA COMMIT {name}")
        else:
            made.catch_up()
            session = stack.enter_context(contextlib.closing(source.connect(made.source_database)))
            with session.cursor() as cursor:
                cursor.execute("SET binlog_format = STATEMENT")
                cursor.execute("INSERT INTO seen VALUES (1)")
                cursor.execute("COMMIT")
            file, pos = end_of_log(source)
            place = f"{file}:{pos - 1}"
        result = made.run("skip", place, "--yes")
        assert result.returncode == 0, result.stderr
        assert f"loaded again afterwards: {made.source_database}.a" in result.stdout
        assert made.status()["sinks"][0]["prepared"]["count"] == 0  # nobody would end it any more
        made.catch_up()
        made.assert_equal("a")


def test_a_checkpoint_that_has_moved_meanwhile_does_not_go_back(
    tmp_path: Path, mariadb118: Server, pg15: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=made.source_database)
        made.catch_up()
        place = write(made, "INSERT INTO a VALUES (1)")
        config = load_config(made.write_config(), environ={})
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("typer.confirm", lambda *_, **__: made.catch_up())
        with pytest.raises(ConfigError, match="has moved"):
            skip(config, place, only_sinks=[], is_confirmed=False)
        assert skips(made, "pg") == []
        went_on = made.run("run", "--until-caught-up")
        assert loads(went_on, "pg") == []
        made.assert_equal("a")


@pytest.mark.full
@pytest.mark.crash
def test_those_that_load_beside_a_lane_step_over_it_as_well(tmp_path: Path, mariadb118: Server, pg15: Server) -> None:
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.config["snapshot"] = {"beside": 2, "beside_rows_min": 0}
        made.source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=made.source_database)
        made.start(crash_at="beside_met")
        assert made.process is not None
        made.process.wait(120)
        place = write(made, "INSERT INTO a VALUES (1)")
        result = made.run("skip", place, "--yes")
        assert result.returncode == 0, result.stderr
        stepped = {one["pipeline"]: one["tables"] for one in skips(made, "pg")}
        assert [[made.source_database, "a"]] in stepped.values()
        assert any("~" in pipeline for pipeline in stepped)
        made.kill()
        made.catch_up()
        made.assert_equal("a")


def test_nothing_is_stepped_over_beside_an_instance_that_lives(
    tmp_path: Path, mariadb1011: Server, pg15: Server
) -> None:
    with deployment(tmp_path, mariadb1011, pg=pg15) as made:
        made.config["lease"] = {"seconds": 300}
        made.source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=made.source_database)
        process = made.start()
        made.wait_for_log("table_ready")
        process.send_signal(signal.SIGSTOP)  # so that what is written now stays before it
        try:
            place = write(made, "INSERT INTO a VALUES (1)")
            result = made.run("skip", place, "--yes")
        finally:
            process.send_signal(signal.SIGCONT)
        assert result.returncode == 2
        assert "is being run by" in result.stderr
        made.stop()
        made.catch_up()
        made.assert_equal("a")
        assert skips(made, "pg") == []
        assert made.run("skip", "here", "--yes").returncode == 2
