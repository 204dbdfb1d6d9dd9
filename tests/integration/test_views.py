"""`etl_load_status` and `etl_copy_status`: the metadata as people and dashboards read it, on each kind of sink."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.sinks.preflight import MYSQL_LATER_RIGHTS, MYSQL_RIGHTS
from checkpoints.views import VIEWS
from tests.support.databases import unique_name
from tests.support.deployment import Deployment, deployment

NAMES = "pipeline source_database table_name target {s}_status state rows_{d} load_began last_{d} duration_seconds "
NAMES += "last_changed error_class error_message error_hint updated_at"
COLUMNS = {
    "etl_load_status": NAMES.format(s="load", d="loaded").split(),
    "etl_copy_status": NAMES.format(s="copy", d="copied").split(),
}
GOOD = 'orders "é" 北'


def metadata(made: Deployment, sink: str, name: str) -> str:
    server, database = made.sinks[sink]
    return f'"_cdc"."{name}"' if server.family == "postgresql" else f"`{database}`.`_cdc_{name}`"


def rows(made: Deployment, sink: str, view: str) -> dict[str, dict[str, Any]]:
    """By table name, as a session with a time zone of its own sees them."""
    server, database = made.sinks[sink]
    zone = "SET TIME ZONE '-07:00'" if server.family == "postgresql" else "SET time_zone = '-07:00'"
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(zone)
        cursor.execute(f"SELECT * FROM {metadata(made, sink, view)}")
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    assert names == COLUMNS[view]
    return {row["table_name"]: row for row in found}


def utc(value: datetime.datetime) -> datetime.datetime:
    """PostgreSQL gives the moment, the MySQL family UTC without a zone."""
    return value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)


def execute(made: Deployment, sink: str, sql: str) -> None:
    server, database = made.sinks[sink]
    server.execute(sql, database=database)


@pytest.mark.in_turn
def test_each_table_is_one_row_in_both_vocabularies(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server, mariadb1011: Server
) -> None:
    began = datetime.datetime.now(datetime.UTC)
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97, maria=mariadb1011) as made:
        database = made.source_database
        for statement in (
            f"CREATE TABLE `{GOOD}` (id INT PRIMARY KEY)",
            f"INSERT INTO `{GOOD}` VALUES (1), (2), (3)",
            "CREATE TABLE bad (code INT NULL)",
            "INSERT INTO bad VALUES (NULL)",
        ):
            source_server.execute(statement, database=database)
        made.config["tables"]["overrides"] = [{"table": f"{database}.bad", "primary_key": ["code"]}]
        assert made.run("run", "--until-caught-up").returncode == 1  # one is parked
        source_server.execute(f"INSERT INTO `{GOOD}` VALUES (4)", database=database)
        made.run("run", "--until-caught-up")
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)  # clocks of one machine, and slack
        for sink in made.sinks:
            found = rows(made, sink, "etl_load_status")
            good, bad = found[GOOD], found["bad"]
            assert set(found) == {GOOD, "bad"}
            assert (good["source_database"], good["pipeline"]) == (database, f"{made.config['name']}/{sink}")
            assert (good["load_status"], good["state"], good["rows_loaded"]) == ("success", "ready", 3)
            assert began - datetime.timedelta(seconds=60) < utc(good["load_began"]) <= utc(good["last_loaded"]) < now
            seconds = (good["last_loaded"] - good["load_began"]).total_seconds()
            assert abs(float(good["duration_seconds"]) - seconds) < 0.002
            assert utc(good["last_loaded"]) <= utc(good["last_changed"]) + datetime.timedelta(seconds=60)
            assert (good["error_class"], good["error_message"]) == (None, None)
            assert (bad["load_status"], bad["state"]) == ("failed", "parked")
            assert "NULL" in bad["error_message"]
            assert bad["error_hint"]
            copied = rows(made, sink, "etl_copy_status")[GOOD]
            assert (copied["copy_status"], copied["rows_copied"]) == ("success", 3)
            assert copied["last_copied"] == good["last_loaded"]

        # Characters that JSON has and a database's text may not have, in what somebody is told.
        message = r'{"class": "X", "message": "a\u0000b \ud83d\ude42", "hint": ""}'
        for sink in made.sinks:
            text = message if sink == "pg" else message.replace("\\", "\\\\")
            execute(made, sink, f"UPDATE {metadata(made, sink, 'tables')} SET error = '{text}' WHERE state = 'parked'")
            assert rows(made, sink, "etl_load_status")["bad"]["error_message"].startswith("a")

        # Metadata that an older version made.
        for sink in made.sinks:
            for view in VIEWS:
                execute(made, sink, f"DROP VIEW {metadata(made, sink, view)}")
            execute(made, sink, f"DROP TABLE {metadata(made, sink, 'loads')}")
        made.run("run", "--until-caught-up")
        for sink in made.sinks:
            good = rows(made, sink, "etl_load_status")[GOOD]
            assert (good["load_status"], good["load_began"], good["duration_seconds"]) == ("success", None, None)
        assert made.run("snapshot", f"{database}.{GOOD}").returncode == 0
        for sink in made.sinks:
            good = rows(made, sink, "etl_load_status")[GOOD]
            assert good["rows_loaded"] == 4
            assert good["duration_seconds"] is not None


def test_a_sink_that_lets_us_make_no_views_does_without(tmp_path: Path, mariadb1011: Server, mysql97: Server) -> None:
    user = unique_name("u")
    with deployment(tmp_path, mariadb1011, mysql=mysql97) as made:
        database = made.sinks["mysql"][1]
        mysql97.execute(f"CREATE USER {user}@'%' IDENTIFIED BY 'pw'")
        try:
            escaped = database.replace("_", r"\_")
            rights = ", ".join((*MYSQL_RIGHTS, *MYSQL_LATER_RIGHTS))
            mysql97.execute(f"GRANT {rights} ON `{escaped}`.* TO {user}@'%'")
            made.config["sinks"][0]["url"] = f"mysql://{user}:pw@{mysql97.host}:{mysql97.port}/{database}"
            mariadb1011.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
            result = made.run("run", "--until-caught-up")
            assert result.returncode == 0, result.stderr
            said = [line for line in (result.stdout + result.stderr).splitlines() if "views_not_made" in line]
            assert len(said) == 1
            assert "CREATE VIEW" in said[0]
            made.assert_equal("t")
        finally:
            mysql97.execute(f"DROP USER {user}@'%'")
