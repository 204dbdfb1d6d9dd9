"""Tables that are not followed by the binlog: read by a modifier, or whole, on real servers (docs/strategies.md)."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2.errors
import pymysql.err
import pytest

from cdc.app import make_sink
from cdc.config import load_config
from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment

STAMP = "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"
NO_LOG = {"log_bin": None, "gtid_strict_mode": None, "log_slave_updates": None}
POLLING = {"interval_seconds": 0.2}


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """A source and a sink of each kind; no table yet."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        made.config["polling"] = dict(POLLING)
        yield made


def overrides(made: Deployment, **tables: dict[str, Any]) -> None:
    made.config["tables"]["overrides"] = [
        {"table": f"{made.source_database}.{name}", **said} for name, said in tables.items()
    ]


def execute(made: Deployment, *statements: str) -> None:
    for statement in statements:
        made.source.execute(statement, database=made.source_database)


@contextlib.contextmanager
def session(made: Deployment) -> Iterator[Any]:
    """A cursor in a session of the test's own, which commits where the test says so."""
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET autocommit = 0")
        yield cursor


def polled(made: Deployment, table: str) -> list[dict[str, Any]]:
    """The status of the table on each sink."""
    return [t for t in made.status()["tables"] if t["table"] == f"{made.source_database}.{table}"]


def incremental(**more: Any) -> dict[str, Any]:
    return {"sync_strategy": "incremental", "modifier": "at", **more}


class Changes:
    """Rows inserted, updated and deleted in two tables, many of them within the same second."""

    def __init__(self, made: Deployment) -> None:
        self._made = made
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count = 0

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with session(self._made) as cursor:
            while not self._stop.wait(0.002):
                n = self.count = self.count + 1
                for table in ("inc", "whole"):
                    cursor.execute(f"INSERT INTO {table} (id, v) VALUES (%s, 'new')", (1000 + n,))
                    cursor.execute(f"UPDATE {table} SET v = %s WHERE id = %s", (f"v{n}", n % 200))
                    cursor.execute(f"DELETE FROM {table} WHERE id = %s", (1000 + n // 2,))
                cursor.execute("COMMIT")


def create(made: Deployment, *tables: str, rows: int = 200, stamp: str = STAMP) -> None:
    for name in tables:
        execute(made, f"CREATE TABLE {name} (id INT PRIMARY KEY, v VARCHAR(20) NULL, at {stamp}, KEY (at))")
        values = ", ".join(f"({n}, 'v')" for n in range(rows))
        if values:
            execute(made, f"INSERT INTO {name} (id, v) VALUES {values}")


@pytest.mark.in_turn
def test_polled_tables_end_equal_under_a_live_writer(shop: Deployment) -> None:
    """With equal values at the edge of every run; deletes by comparing keys; the followed table beside them."""
    create(shop, "inc", "whole", "followed")
    overrides(shop, inc=incremental(detect_deletes_every=2, batch_size=50), whole={"sync_strategy": "full_refresh"})
    shop.start()
    with Changes(shop) as changes:
        wait_until(lambda: changes.count > 100, 60)
        shop.wait_for_log("table_polled", count=20)
        execute(shop, "UPDATE followed SET v = 'seen' WHERE id = 7")
    assert shop.stop() == 0
    shop.catch_up()
    shop.catch_up()  # keys are compared at every second run
    shop.assert_equal("inc", "whole", "followed")
    result = shop.run("verify")
    assert result.returncode == 0, result.stdout + result.stderr
    for one in polled(shop, "inc"):
        assert one["state"] == "ready"
        assert one["polling"]["strategy"] == "incremental"
        assert one["polling"]["rows_after"] == len(shop.source_rows("inc"))
        assert one["polling"]["last_run"] < one["polling"]["next_run"]
    assert {one["polling"] for one in polled(shop, "followed")} == {None}


@pytest.mark.full
def test_a_value_equal_to_the_last_one_is_not_lost(shop: Deployment) -> None:
    create(shop, "inc", rows=0)
    overrides(shop, inc=incremental(lookback_seconds=0))
    execute(shop, "INSERT INTO inc VALUES (1, 'a', '2024-01-01 00:00:00')")
    shop.catch_up()
    execute(shop, "INSERT INTO inc VALUES (2, 'b', '2024-01-01 00:00:00')")
    shop.catch_up()
    shop.assert_equal("inc")


@pytest.mark.full
@pytest.mark.parametrize("stamp", [STAMP, "BIGINT NOT NULL"], ids=["timestamp", "integer"])
def test_a_transaction_that_commits_late_within_the_window_is_seen(shop: Deployment, stamp: str) -> None:
    create(shop, "inc", rows=0, stamp=stamp)
    overrides(shop, inc=incremental(lookback_seconds=3 if stamp != STAMP else 60))
    is_time = stamp == STAMP
    execute(shop, f"INSERT INTO inc VALUES (1, 'first', {'NOW()' if is_time else 10})")
    shop.catch_up()
    with session(shop) as late:
        late.execute(f"INSERT INTO inc VALUES (2, 'late', {'NOW() - INTERVAL 20 SECOND' if is_time else 11})")
        execute(shop, f"INSERT INTO inc VALUES (3, 'earlier', {'NOW()' if is_time else 12})")
        shop.catch_up()
        assert {row[0] for row in shop.sink_rows("pg", "inc")} == {1, 3}
        late.execute("COMMIT")
    shop.catch_up()
    shop.assert_equal("inc")


@pytest.mark.full
def test_what_was_open_during_the_first_load_is_seen_by_number(shop: Deployment) -> None:
    """Numbers have no times: once after the first load, all rows are read again."""
    create(shop, "inc", rows=0, stamp="BIGINT NOT NULL")
    overrides(shop, inc=incremental(lookback_seconds=1))
    with session(shop) as late:
        late.execute("INSERT INTO inc VALUES (1, 'late', 5)")
        execute(shop, "INSERT INTO inc VALUES (2, 'there', 9)")
        shop.catch_up()
        late.execute("COMMIT")
    shop.start()
    shop.wait_for_log("table_polled", count=2)
    wait_until(lambda: len(shop.sink_rows("pg", "inc")) == len(shop.sink_rows("maria", "inc")) == 2, 60)
    assert shop.stop() == 0
    shop.assert_equal("inc")


@pytest.mark.full
def test_what_was_open_while_the_first_number_was_found_is_seen(shop: Deployment) -> None:
    """The table was empty when it was loaded: the first numbers are found by the run that follows."""
    create(shop, "inc", rows=0, stamp="BIGINT NOT NULL")
    overrides(shop, inc=incremental(lookback_seconds=1))
    shop.catch_up()
    with session(shop) as late:
        late.execute("INSERT INTO inc VALUES (1, 'late', 1)")
        execute(shop, "INSERT INTO inc VALUES (2, 'there', 2)")
        shop.catch_up()
        assert {row[0] for row in shop.sink_rows("pg", "inc")} == {2}
        late.execute("COMMIT")
    shop.start()
    wait_until(lambda: len(shop.sink_rows("pg", "inc")) == len(shop.sink_rows("maria", "inc")) == 2, 60)
    assert shop.stop() == 0
    shop.assert_equal("inc")


@pytest.mark.full
@pytest.mark.parametrize("before", [{"sync_strategy": "full_refresh"}, incremental(modifier="other")])
def test_a_table_that_becomes_incremental_is_loaded_again(shop: Deployment, before: dict[str, Any]) -> None:
    """Rows that went before are not brought back by a window, nor taken away."""
    create(shop, "t", rows=5)
    execute(shop, "ALTER TABLE t ADD other BIGINT NOT NULL DEFAULT 1")
    overrides(shop, t=before)
    shop.catch_up()
    execute(shop, "DELETE FROM t WHERE id = 1")
    overrides(shop, t=incremental())
    shop.catch_up()
    shop.assert_equal("t")
    assert {one["polling"]["what"] for one in polled(shop, "t")} == {"load"}


@pytest.mark.full
def test_time_zones_of_server_and_session_do_not_matter(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server("mariadb1011", options={"default_time_zone": "+09:00"})
    with deployment(tmp_path, source, pg=pg15) as made:
        create(made, "inc", rows=3)
        overrides(made, inc=incremental(lookback_seconds=0))
        made.catch_up()
        for zone in ("-11:00", "+13:00", "+00:00"):
            with session(made) as cursor:
                cursor.execute(f"SET time_zone = '{zone}'")
                cursor.execute(f"UPDATE inc SET v = '{zone}' WHERE id = 1")
                cursor.execute("COMMIT")
            made.catch_up()
            made.assert_equal("inc")


@pytest.mark.full
def test_the_hour_that_comes_twice_is_read_twice(shop: Deployment) -> None:
    """A DATETIME by the writers' clock, which is set back in autumn."""
    stamp = "DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP"
    create(shop, "inc", rows=0, stamp=stamp)
    overrides(shop, inc=incremental())
    with session(shop) as cursor:
        for number, zone in enumerate(("-04:00", "-05:00"), 1):
            cursor.execute(f"SET time_zone = '{zone}'")
            cursor.execute("INSERT INTO inc (id, v) VALUES (%s, %s)", (number, zone))
            cursor.execute("COMMIT")
            shop.catch_up()
    shop.assert_equal("inc")


@pytest.mark.full
def test_odd_modifiers_are_read_at_every_run(shop: Deployment) -> None:
    """NULL, a zero date and a time to come: none of them is past the last value, or all later ones are before it."""
    create(shop, "inc", rows=2, stamp="DATETIME NULL")
    overrides(shop, inc=incremental(lookback_seconds=0))
    execute(shop, "UPDATE inc SET at = '2999-01-01'", "INSERT INTO inc VALUES (5, 'x', NOW())")
    shop.catch_up()
    execute(
        shop,
        "INSERT INTO inc VALUES (6, 'now', NOW() + INTERVAL 1 SECOND), (7, 'none', NULL)",
        "SET SESSION sql_mode = ''",
    )
    with session(shop) as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("INSERT INTO inc VALUES (8, 'zero', '0000-00-00')")
        cursor.execute("COMMIT")
    shop.catch_up()
    assert {row[0] for row in shop.sink_rows("pg", "inc")} == {0, 1, 5, 6, 7, 8}
    (one, _) = polled(shop, "inc")
    assert one["polling"]["rows_without_modifier"] == 2
    assert one["polling"]["rows_in_the_future"] >= 2


@pytest.mark.full
def test_deleted_rows_go_and_rows_that_no_run_saw_come_when_keys_are_compared(shop: Deployment) -> None:
    create(shop, "inc", rows=20)
    overrides(shop, inc=incremental(detect_deletes_every=1, batch_size=7))
    shop.catch_up()
    execute(
        shop,
        "DELETE FROM inc WHERE id IN (3, 4)",
        "INSERT INTO inc VALUES (100, 'back-dated', '2001-01-01')",
        "UPDATE inc SET id = 200, at = '2001-01-01' WHERE id = 5",
    )
    shop.catch_up()
    shop.assert_equal("inc")
    for one in polled(shop, "inc"):
        assert (one["polling"]["rows_deleted"], one["polling"]["rows_missed"]) == (3, 2)
        assert one["polling"]["rows_before"] == 20
    tables = shop.sinks["maria"][0].execute(f"SHOW TABLES FROM `{shop.sinks['maria'][1]}` LIKE '\\_cdc\\_keys%'")
    assert not tables


def staged_keys(made: Deployment) -> list[str]:
    """The tables of keys that are beside the target on PostgreSQL."""
    server, database = made.sinks["pg"]
    sql = "SELECT quote_ident(table_schema) || '.' || table_name FROM information_schema.tables"
    return [str(name) for (name,) in server.execute(f"{sql} WHERE table_name LIKE '\\_cdc\\_keys%'", database=database)]


@pytest.mark.full
def test_nothing_is_deleted_by_keys_that_somebody_has_taken_away(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15) as made:
        made.config["polling"] = {**POLLING, "batch_delay_seconds": 0.1}
        create(made, "inc", rows=20)
        overrides(made, inc=incremental(detect_deletes_every=1, batch_size=1))
        made.start()
        server, database = made.sinks["pg"]

        def has_noticed() -> bool:
            for table in staged_keys(made):
                with contextlib.suppress(psycopg2.errors.UndefinedTable):
                    server.execute(f"DELETE FROM {table}", database=database)
            return "nothing was deleted" in made.log()

        wait_until(has_noticed, 120)
        assert made.stop() == 0
        made.assert_equal("inc")


@pytest.mark.full
@pytest.mark.crash
def test_each_holder_of_the_lease_stages_keys_for_itself(tmp_path: Path, source_server: Server, pg15: Server) -> None:
    """One that wakes up behind its time drops and makes a table that the new holder has nothing to do with."""
    with deployment(tmp_path, source_server, pg=pg15) as made:
        create(made, "inc", rows=3)
        overrides(made, inc=incremental(detect_deletes_every=1))
        made.catch_up()
        left = []
        for _ in range(2):
            assert made.run("run", "--until-caught-up", crash_at="before_statement").returncode == -9
            left += staged_keys(made)
        assert len(left) == len(set(left)) == 2  # the first was dropped by the second, under its own name
        made.catch_up()
        assert staged_keys(made) == []
        made.assert_equal("inc")


@pytest.mark.full
def test_rows_that_leave_the_filter_go(shop: Deployment) -> None:
    create(shop, "inc", "whole", rows=20)
    said = {"row_filter": "v = 'v'"}
    overrides(shop, inc=incremental(detect_deletes_every=1, **said), whole={"sync_strategy": "full_refresh", **said})
    shop.catch_up()
    for table in ("inc", "whole"):
        execute(shop, f"UPDATE {table} SET v = 'out' WHERE id < 5")
    shop.catch_up()
    result = shop.run("verify")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(shop.sink_rows("pg", "inc")) == len(shop.sink_rows("maria", "whole")) == 15
    assert {one["polling"]["rows_missed"] for one in polled(shop, "inc")} == {0}


@pytest.mark.full
def test_modes_that_keep_rows(shop: Deployment) -> None:
    create(shop, "inc", "whole", "refused", rows=4)
    overrides(
        shop,
        inc=incremental(detect_deletes_every=1, mode="soft_delete"),
        whole={"sync_strategy": "full_refresh", "mode": "history"},
        refused=incremental(mode="append_only"),
    )
    assert shop.run("run", "--until-caught-up").returncode == 1  # of the one that is parked
    for table in ("inc", "whole"):
        execute(shop, f"DELETE FROM {table} WHERE id = 1", f"UPDATE {table} SET v = 'w' WHERE id = 2")
    shop.run("run", "--until-caught-up")
    result = shop.run("verify", f"{shop.source_database}.inc", f"{shop.source_database}.whole")
    assert result.returncode == 0, result.stdout + result.stderr
    for sink in ("pg", "maria"):
        assert len(shop.sink_rows(sink, "inc")) == 4  # one of them marked
        assert len(shop.sink_rows(sink, "whole")) == 5  # a version that ended, and one that follows it
    assert {one["state"] for one in polled(shop, "refused")} == {"parked"}


@pytest.mark.full
def test_a_table_without_a_key_is_read_whole(shop: Deployment) -> None:
    execute(shop, "CREATE TABLE bare (a INT, b VARCHAR(9))", "INSERT INTO bare VALUES (1, 'x'), (1, 'x'), (2, NULL)")
    overrides(shop, bare={"sync_strategy": "full_refresh"})
    shop.catch_up()
    execute(shop, "DELETE FROM bare WHERE a = 2", "INSERT INTO bare VALUES (1, 'x')")
    shop.catch_up()
    shop.assert_equal("bare")


@pytest.mark.full
def test_a_changed_definition_is_found_at_the_next_run(shop: Deployment) -> None:
    create(shop, "inc", "whole", rows=10)
    overrides(shop, inc=incremental(), whole={"sync_strategy": "full_refresh"})
    shop.start()
    shop.wait_for_log("table_polled", count=4)
    for table in ("inc", "whole"):
        execute(shop, f"ALTER TABLE {table} ADD COLUMN more INT NULL DEFAULT 4, DROP COLUMN v")
        execute(shop, f"UPDATE {table} SET more = 5 WHERE id = 3")
    for table in ("inc", "whole"):
        wait_until(lambda: {len(row) for row in _rows(shop, "pg", table)} == {3}, 60, f"{table}'s new columns")  # noqa: B023
    assert shop.stop() == 0
    shop.catch_up()
    shop.assert_equal("inc", "whole")


def _rows(made: Deployment, sink: str, table: str) -> list[Any]:
    try:
        return made.sink_rows(sink, table)
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn, pymysql.err.ProgrammingError):
        return []  # between the old target and the new one


def _types(made: Deployment, sink: str, table: str) -> dict[str, str]:
    server, database = made.sinks[sink]
    schema, column = (made.source_database, "data_type") if sink == "pg" else (database, "column_type")
    rows = server.execute(
        f"SELECT column_name, {column} FROM information_schema.columns WHERE table_schema = '{schema}' "
        f"AND table_name = '{table}'",
        database=database,
    )
    return {str(name): str(text) for name, text in rows}


def _alter_target(made: Deployment, sink: str, table: str, clause: str) -> None:
    """By hand."""
    server, database = made.sinks[sink]
    namespace = f'"{made.source_database}".' if sink == "pg" else ""
    server.execute(f"ALTER TABLE {namespace}{table} {clause}", database=database)


def _waiting(made: Deployment) -> dict[tuple[str, str], dict[str, Any]]:
    """What `cdc ddl pending` says, by sink and table."""
    rows = json.loads(made.run("ddl", "pending", "--json").stdout)
    return {(row["sink"], row["table"].partition(".")[2]): row for row in rows}


def _say(made: Deployment, decision: str, table: str) -> tuple[int, str]:
    result = made.run("ddl", decision, f"{made.source_database}.{table}")
    return result.returncode, result.stdout + result.stderr


@pytest.mark.in_turn
def test_another_type_of_a_polled_table_waits_for_the_operator(shop: Deployment) -> None:
    """What he says yes to is what he was shown: a column that becomes another one after that is asked about anew."""
    create(shop, "inc", "whole", rows=3)
    overrides(shop, inc=incremental(), whole={"sync_strategy": "full_refresh"})
    shop.config["policies"] = {"on_type_change": "park"}
    shop.catch_up()
    before = {(sink, table): _types(shop, sink, table) for sink in shop.sinks for table in ("inc", "whole")}
    for table in ("inc", "whole"):
        execute(shop, f"ALTER TABLE {table} MODIFY v TEXT, ADD COLUMN c INT", f"UPDATE {table} SET v = 'new'")
    assert shop.run("run", "--until-caught-up").returncode == 1
    waiting = _waiting(shop)
    assert waiting.keys() == before.keys()
    assert {row["reason"] for row in waiting.values()} == {"on_type_change: park"}
    assert {row["position"] for row in waiting.values()} == {None}
    assert all("column c is new" in row["found"] for row in waiting.values())
    assert "(found by a load) column v was" in shop.run("ddl", "pending").stdout
    for sink, table in before:
        assert _types(shop, sink, table) == before[sink, table]
        assert {row[1] for row in shop.sink_rows(sink, table)} == {"v"}, "no row was touched"
    execute(shop, "ALTER TABLE whole MODIFY v BLOB")
    assert _say(shop, "apply", "inc")[0] == 0
    code, text = _say(shop, "apply", "whole")
    assert code == 1
    assert "and is blob" in text
    assert _waiting(shop).keys() == {(sink, "whole") for sink in shop.sinks}
    code, text = _say(shop, "apply", "whole")
    assert code == 0, text
    shop.catch_up()
    shop.assert_equal("inc", "whole")


def test_a_column_of_a_polled_table_is_approved_or_skipped_beside_a_running_service(shop: Deployment) -> None:
    create(shop, "inc", "whole", rows=3)
    overrides(shop, inc=incremental(), whole={"sync_strategy": "full_refresh"})
    shop.config["policies"] = {"ddl": "approve"}
    shop.start()
    wait_until(lambda: all(len(_rows(shop, sink, table)) == 3 for sink in shop.sinks for table in ("inc", "whole")))
    for table in ("inc", "whole"):
        execute(shop, f"ALTER TABLE {table} ADD COLUMN c INT NOT NULL DEFAULT 4")
    wait_until(lambda: len(_waiting(shop)) == 4)
    assert _say(shop, "apply", "inc")[0] == 0
    assert _say(shop, "skip", "whole")[0] == 0
    for table in ("inc", "whole"):
        execute(shop, f"UPDATE {table} SET v = 'new', c = 5 WHERE id = 1")
        for sink in shop.sinks:
            wait_until(lambda: (1, "new") in [row[:2] for row in _rows(shop, sink, table)])  # noqa: B023
    assert not _waiting(shop)
    assert shop.stop() == 0
    shop.catch_up()
    shop.assert_equal("inc")
    for sink in shop.sinks:
        assert "c" not in _types(shop, sink, "whole")
    assert shop.run("verify").returncode == 0
    for sink in shop.sinks:
        _alter_target(shop, sink, "whole", "ADD COLUMN c INT")
    shop.catch_up()
    shop.assert_equal("whole")
    settled = json.loads(shop.run("ddl", "pending", "--settled", "--json").stdout)
    assert (
        sorted((row["decision"], row["state"]) for row in settled) == [("apply", "done")] * 2 + [("skip", "done")] * 2
    )


def test_a_column_of_a_polled_table_that_is_dropped_on_the_sink_is_none_that_was_skipped(shop: Deployment) -> None:
    create(shop, "inc", rows=3)
    overrides(shop, inc=incremental(ddl="approve"))
    shop.catch_up()
    execute(shop, "ALTER TABLE inc ADD COLUMN c INT NOT NULL DEFAULT 4")
    assert shop.run("run", "--until-caught-up").returncode == 1
    assert _say(shop, "skip", "inc")[0] == 0
    for sink in shop.sinks:
        _alter_target(shop, sink, "inc", "DROP COLUMN v")
    shop.catch_up()
    for sink in shop.sinks:
        assert {"v", "c"} & _types(shop, sink, "inc").keys() == {"v"}
        assert shop.sink_rows(sink, "inc", ["id", "v"]) == shop.source_rows("inc", ["id", "v"])


@pytest.mark.crash
@pytest.mark.parametrize("point", ["load_begun", "load_recorded"])
def test_a_decision_about_a_polled_table_is_no_failure_for_a_kill_in_its_midst(shop: Deployment, point: str) -> None:
    """Killed before its run, or between that and the answer: the next instance gives it."""
    create(shop, "inc", "other", rows=3)
    overrides(shop, inc=incremental(ddl="approve"), other=incremental())
    shop.catch_up()
    execute(shop, "ALTER TABLE inc ADD COLUMN c INT NOT NULL DEFAULT 4")
    assert shop.run("run", "--until-caught-up").returncode == 1
    result = shop.run("ddl", "apply", f"{shop.source_database}.inc", crash_at=point)
    assert result.returncode == -signal.SIGKILL, result.stderr
    shop.catch_up()
    shop.assert_equal("inc", "other")
    settled = json.loads(shop.run("ddl", "pending", "--settled", "--json").stdout)
    assert [(row["state"], row["message"]) for row in settled] == [("done", "")] * 2


def test_a_polled_target_that_cannot_stay_as_it_is_is_not_skipped(shop: Deployment) -> None:
    create(shop, "inc", rows=3)
    overrides(shop, inc=incremental(ddl="approve"))
    shop.catch_up()
    execute(shop, "ALTER TABLE inc MODIFY v MEDIUMBLOB")
    assert shop.run("run", "--until-caught-up").returncode == 1
    code, text = _say(shop, "skip", "inc")
    assert code == 1
    assert "the target cannot stay as it is" in text
    assert len(_waiting(shop)) == 2
    result = shop.run("snapshot", f"{shop.source_database}.inc")
    assert result.returncode == 0, result.stderr
    shop.assert_equal("inc")


def _require_only_logged(made: Deployment, what: str, *, rows: int = 3, **strategy: Any) -> None:
    """`what`: a run that is no load. What an ALTER changes, here or there, comes by one load of the table."""

    def require_one_load() -> None:
        for expected in ("load" if what == "incremental" else what, what):
            made.catch_up()
            assert {one["polling"]["what"] for one in polled(made, "t")} == {expected}
        columns = made.source_columns("t")
        for sink, lacking in left_out.items():
            names = [column for column in columns if column not in lacking]
            assert made.sink_rows(sink, "t", names) == made.source_rows("t", names), sink

    left_out: dict[str, set[str]] = {sink: set() for sink in made.sinks}
    create(
        made, "t", rows=rows, stamp=f"{STAMP}, price DECIMAL(10,2) NOT NULL DEFAULT 1.25, note VARCHAR(9) DEFAULT 'n'"
    )
    overrides(made, t={**strategy, "ddl": "log"})
    require_one_load()
    before = {sink: _types(made, sink, "t") for sink in made.sinks}
    note = "note VARCHAR(9) DEFAULT 'x'"
    execute(made, f"ALTER TABLE t MODIFY price DECIMAL(9,1) NOT NULL, DROP COLUMN note, ADD COLUMN {note}")
    require_one_load()
    execute(made, "ALTER TABLE t ADD COLUMN c INT NOT NULL DEFAULT 4, DROP COLUMN note")
    left_out = {sink: {"c"} for sink in made.sinks}
    require_one_load()
    for sink in made.sinks:
        assert _types(made, sink, "t") == before[sink]
        _alter_target(made, sink, "t", "ADD COLUMN c INT")
    left_out = {sink: set() for sink in made.sinks}
    require_one_load()
    assert made.run("verify").returncode == 0
    execute(made, "ALTER TABLE t MODIFY v MEDIUMBLOB")
    assert made.run("run", "--until-caught-up").returncode == 1
    for one in polled(made, "t"):
        assert one["state"] == "parked"
        assert "ddl: log" in one["error"]["message"]


@pytest.mark.parametrize("strategy", ["incremental", "full_refresh"])
def test_statements_on_polled_tables_that_are_only_logged_leave_the_target_as_it_is(
    shop: Deployment, strategy: str
) -> None:
    said = incremental() if strategy == "incremental" else {"sync_strategy": strategy}
    _require_only_logged(shop, strategy, **said)


@pytest.mark.full
@pytest.mark.parametrize("what, rows", [("incremental", 25_000), ("full_refresh", 3)])
def test_statements_are_only_logged_where_the_strategy_is_chosen(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, what: str, rows: int
) -> None:
    with deployment(tmp_path, start_server("mariadb1011", options=NO_LOG), pg=pg15) as made:
        made.config["tables"]["sync_strategy"] = "auto"
        _require_only_logged(made, what, rows=rows)


def test_a_column_that_a_polled_table_has_no_more_is_kept(shop: Deployment) -> None:
    for table in ("inc", "whole"):
        execute(
            shop, f"CREATE TABLE {table} (id INT PRIMARY KEY, a INT NOT NULL DEFAULT 3, v INT, at {STAMP}, KEY (at))"
        )
        execute(shop, f"INSERT INTO {table} (id, a) VALUES (1, 10), (2, 20)")
    overrides(shop, inc=incremental(), whole={"sync_strategy": "full_refresh"})
    shop.config["policies"] = {"on_drop_column": "keep"}
    shop.catch_up()
    for table in ("inc", "whole"):
        execute(shop, f"ALTER TABLE {table} DROP COLUMN a", f"INSERT INTO {table} (id) VALUES (3)")
    for _ in range(2):
        shop.catch_up()
        shop.assert_equal("inc", "whole")
        for sink in shop.sinks:
            assert shop.sink_rows(sink, "inc", ["id", "a"]) == [(1, 10), (2, 20), (3, None)], sink
            assert shop.sink_rows(sink, "whole", ["id", "a"]) == [(1, None), (2, None), (3, None)], sink


@pytest.mark.full
def test_a_table_that_fails_does_not_stop_the_others(shop: Deployment) -> None:
    create(shop, "inc", "gone", "wrong", rows=5)
    overrides(shop, inc=incremental(), gone={"sync_strategy": "full_refresh"}, wrong=incremental(modifier="nowhere"))
    shop.start()
    shop.wait_for_log("table_parked", count=2)
    execute(shop, "DROP TABLE gone", "UPDATE inc SET v = 'on'")
    wait_until(lambda: {one["state"] for one in polled(shop, "gone")} == {"dropped"}, 60)
    wait_until(lambda: {row[1] for row in shop.sink_rows("maria", "inc")} == {"on"}, 60)
    (one, other) = polled(shop, "wrong")
    assert one["state"] == other["state"] == "parked"
    assert "no column nowhere" in one["error"]["message"]
    assert shop.stop() == 0
    shop.assert_equal("inc")


@pytest.mark.full
@pytest.mark.slow
def test_a_table_that_cannot_be_read_now_is_tried_again_while_the_others_go_on(shop: Deployment) -> None:
    create(shop, "inc", "locked", rows=5)
    overrides(shop, inc=incremental(), locked={"sync_strategy": "full_refresh"})
    shop.start()
    shop.wait_for_log("table_polled", count=8)
    with session(shop) as cursor:
        cursor.execute("LOCK TABLES locked WRITE")
        shop.wait_for_log("table_retrying")
        assert "poller_retrying" not in shop.log()
        execute(shop, "UPDATE inc SET v = 'on'")
        wait_until(lambda: {row[1] for row in shop.sink_rows("maria", "inc")} == {"on"}, 60)
        wait_until(lambda: {row[1] for row in shop.sink_rows("pg", "inc")} == {"on"}, 60)
        cursor.execute("UPDATE locked SET v = 'at last'")
        cursor.execute("COMMIT")
        cursor.execute("UNLOCK TABLES")
    wait_until(lambda: {row[1] for row in shop.sink_rows("pg", "locked")} == {"at last"}, 120)
    assert shop.stop() == 0


@pytest.mark.full
@pytest.mark.parametrize("sink, other", [("pg", "maria"), ("maria", "pg")])
def test_only_the_holder_of_the_lease_writes(shop: Deployment, sink: str, other: str) -> None:
    """Another instance has raised the epoch, and the lease's keeper has not heard of it yet. The sink's lane ends."""
    create(shop, "inc", rows=5)
    overrides(shop, inc=incremental(interval_seconds=0.1))
    shop.catch_up()  # so that both sinks are there
    shop.start()
    shop.wait_for_log("table_polled", count=4)
    server, database = shop.sinks[sink]
    metadata = "_cdc." if sink == "pg" else "_cdc_"
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"UPDATE {metadata}checkpoint SET epoch = epoch + 1 WHERE pipeline LIKE '%#polled'")
        connection.commit()
    execute(shop, "UPDATE inc SET v = 'lost'")
    shop.wait_for_log("poller_failed")
    wait_until(lambda: {row[1] for row in shop.sink_rows(other, "inc")} == {"lost"}, 60)
    assert '"error_class": "LeaseLost"' in shop.log()
    assert {row[1] for row in shop.sink_rows(sink, "inc")} == {"v"}
    released = f"SELECT COUNT(*) FROM {metadata}lease WHERE expires_us = 0 AND pipeline NOT LIKE '%#polled'"
    wait_until(lambda: server.execute(released, database=database)[0][0] == 1, 60, "the lane to end")
    assert shop.stop() != 0


@pytest.mark.crash
@pytest.mark.in_turn
def test_a_first_load_that_was_cut_off_goes_on_with_the_chunks_that_are_missing(shop: Deployment) -> None:
    """And what changed in the others meanwhile comes by the run behind it, which begins where the load had begun."""
    create(shop, "inc", rows=60)
    execute(shop, "UPDATE inc SET at = at - INTERVAL 1 DAY")
    overrides(shop, inc=incremental(batch_size=10, detect_deletes_every=5, lookback_seconds=1))
    shop.config["sinks"] = shop.config["sinks"][:1]
    del shop.sinks["maria"]
    result = shop.run("run", "--until-caught-up", crash_at="load_chunk_committed:3")
    assert result.returncode == -9, result.stderr
    execute(shop, "DELETE FROM inc WHERE id = 3")
    # Newer than all that the first attempt has seen, and older than where a run that went by the second would begin.
    execute(shop, "UPDATE inc SET v = 'changed', at = NOW() - INTERVAL 1 HOUR WHERE id IN (2, 50)")
    execute(shop, "INSERT INTO inc (id, v, at) VALUES (100, 'new', NOW())")
    result = shop.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines() if "load_resumed" in line]
    assert [line["chunks"] for line in lines] == [3]
    shop.catch_up()
    shop.assert_equal("inc")


@pytest.mark.full
@pytest.mark.crash
@pytest.mark.parametrize(
    "point", ["load_begun", "load_chunk_committed", "load_done", "before_checkpoint", "before_commit", "after_commit"]
)
def test_a_kill_at_any_point_loses_nothing(shop: Deployment, point: str) -> None:
    create(shop, "inc", "whole", rows=60)
    overrides(shop, inc=incremental(batch_size=10, detect_deletes_every=2), whole={"sync_strategy": "full_refresh"})
    for count in (1, 2):
        result = shop.run("run", "--until-caught-up", crash_at=f"{point}:{count}")
        assert result.returncode in (0, -9), result.stderr
        execute(shop, f"UPDATE inc SET v = 'r{count}'", f"DELETE FROM inc WHERE id = {count}")
        execute(shop, f"UPDATE whole SET v = 'r{count}'", f"DELETE FROM whole WHERE id = {count}")
    shop.catch_up()
    shop.catch_up()
    shop.assert_equal("inc", "whole")


@pytest.mark.full
def test_readers_never_see_an_empty_table_while_it_is_refreshed(shop: Deployment) -> None:
    create(shop, "whole", rows=500)
    overrides(shop, whole={"sync_strategy": "full_refresh"})
    shop.catch_up()
    shop.start()
    shop.wait_for_log("service_started")
    seen: set[int] = set()
    while shop.log().count('"event": "table_polled"') < 10:
        seen |= {len(shop.sink_rows(sink, "whole")) for sink in ("pg", "maria")}
    assert seen == {500}
    assert shop.stop() == 0


@pytest.mark.full
def test_a_source_without_a_binlog(tmp_path: Path, start_server: Callable[..., Server], pg15: Server) -> None:
    source = start_server("mariadb1011", options=NO_LOG)
    with deployment(tmp_path, source, pg=pg15) as made:
        create(made, "inc", "whole", "chosen", rows=10)
        made.config["tables"]["sync_strategy"] = "auto"
        overrides(made, inc=incremental(detect_deletes_every=1), whole={"sync_strategy": "full_refresh"})
        made.catch_up()
        execute(made, "UPDATE inc SET v = 'w' WHERE id = 1", "DELETE FROM inc WHERE id = 2", "DELETE FROM whole")
        made.catch_up()
        made.assert_equal("inc", "whole", "chosen")
        assert made.run("verify").returncode == 0
        (one,) = polled(made, "chosen")
        assert one["polling"]["strategy"] == "full_refresh"
        assert "log_bin is OFF" in one["polling"]["reason"]
        (sink,) = made.status()["sinks"]
        assert (sink["error"], sink["lag_seconds"]) == (None, None)
        made.start()
        execute(made, "CREATE TABLE later (id INT PRIMARY KEY)", "INSERT INTO later VALUES (1)")
        made.wait_for_log("table_polled", count=3)
        wait_until(lambda: [t["state"] for t in polled(made, "later")] == ["ready"], 60)
        assert made.stop() == 0


@pytest.mark.full
def test_a_followed_table_on_a_source_without_a_binlog_is_an_error(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server("mariadb1011", options=NO_LOG)
    with deployment(tmp_path, source, pg=pg15) as made:
        create(made, "inc", "followed", rows=1)
        overrides(made, inc=incremental())
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 2
        assert "log_bin is OFF" in result.stderr


@pytest.mark.full
def test_a_user_without_the_right_to_replicate(shop: Deployment) -> None:
    create(shop, "inc", rows=5)
    user = f"poll_{shop.source_database}"[:30]
    execute(
        shop,
        f"CREATE USER `{user}`@`%` IDENTIFIED BY 'Secret-1'",
        f"GRANT SELECT ON `{shop.source_database}`.* TO `{user}`@`%`",
    )
    try:
        url = f"mysql://{user}:Secret-1@{shop.source.host}:{shop.source.port}"
        shop.config["source"]["url"] = url
        overrides(shop, inc={"sync_strategy": "auto", "modifier": "at"})
        shop.catch_up()
        shop.assert_equal("inc")
        assert all(one["polling"]["strategy"] == "full_refresh" for one in polled(shop, "inc"))
    finally:
        execute(shop, f"DROP USER `{user}`@`%`")


@pytest.mark.full
def test_a_table_whose_right_to_be_read_is_gone_is_parked(shop: Deployment) -> None:
    """It looks as if it had been dropped, and nobody may say so."""
    create(shop, "inc", "gone", "closed", rows=5)
    user = f"poll_{shop.source_database}"[:30]
    execute(
        shop,
        f"CREATE USER `{user}`@`%` IDENTIFIED BY 'Secret-1'",
        f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `{user}`@`%`",
        *(f"GRANT SELECT ON `{shop.source_database}`.{name} TO `{user}`@`%`" for name in ("inc", "gone", "closed")),
    )
    try:
        shop.config["source"]["url"] = f"mysql://{user}:Secret-1@{shop.source.host}:{shop.source.port}"
        overrides(shop, inc=incremental(), gone=incremental(), closed=incremental())
        shop.catch_up()
        execute(shop, f"REVOKE SELECT ON `{shop.source_database}`.closed FROM `{user}`@`%`", "DROP TABLE gone")
        assert shop.run("run", "--until-caught-up").returncode == 1
        assert {one["state"] for one in polled(shop, "gone")} == {"dropped"}
        for one in polled(shop, "closed"):
            assert one["state"] == "parked"
            assert "may not be read" in one["error"]["message"]
        shop.assert_equal("inc")
    finally:
        execute(shop, f"DROP USER `{user}`@`%`")


@pytest.mark.full
def test_who_takes_over_ends_the_sessions_that_write(shop: Deployment) -> None:
    create(shop, "inc", rows=5)
    overrides(shop, inc=incremental())
    shop.config["lease"] = {"seconds": 5}
    shop.catch_up()
    process = shop.start()
    shop.wait_for_log("table_polled", count=4)
    server, database = shop.sinks["pg"]
    held = "SELECT session FROM _cdc.lease WHERE pipeline LIKE '%#polled'"

    def sessions() -> list[str]:
        return list(json.loads(server.execute(held, database=database)[0][0]))

    wait_until(lambda: len(sessions()) > 2, 60, "more than the lease's own and the poller's: those of its workers")
    process.send_signal(signal.SIGSTOP)
    named = sessions()
    try:
        execute(shop, "UPDATE inc SET v = 'taken'")
        shop.catch_up()
        shop.assert_equal("inc")
        with contextlib.closing(make_sink(load_config(shop.write_config(), environ={}).sinks[0])) as sink:
            sink.open()
            assert [sink.is_session_alive(one) for one in named] == [False] * len(named)
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 1, "it finds that it is the holder no more"


@pytest.mark.full
def test_reads_of_polled_tables_keep_to_the_limits_of_loads(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15) as made:
        create(made, "inc", "whole", rows=150)
        overrides(made, inc=incremental(detect_deletes_every=1), whole={"sync_strategy": "full_refresh"})
        made.catch_up()
        made.config["snapshot"] = {"rows_per_second": 50}
        began = time.monotonic()
        made.catch_up()
        assert time.monotonic() - began > 6  # 450 rows: all of one table, and the keys and the window of the other


@pytest.mark.full
@pytest.mark.parametrize("is_followed_first", [True, False], ids=["followed first", "polled first"])
def test_a_table_keeps_its_target_when_its_strategy_changes(shop: Deployment, is_followed_first: bool) -> None:
    create(shop, "t", rows=5)
    strategies = [{}, incremental(), {"sync_strategy": "full_refresh"}, {}, incremental()]
    for number, said in enumerate(strategies[0 if is_followed_first else 1 :]):
        overrides(shop, t={"sync_strategy": "cdc", **said})
        shop.catch_up()
        execute(shop, f"UPDATE t SET v = 'n{number}' WHERE id = {number}")
        shop.catch_up()
        shop.assert_equal("t")
        assert {one["state"] for one in polled(shop, "t")} == {"ready"}


@pytest.mark.full
def test_commands_know_who_has_a_table_that_has_changed_over(shop: Deployment) -> None:
    create(shop, "t", "inc", rows=5)
    overrides(shop, t=incremental(), inc=incremental())
    shop.catch_up()
    for said in ({"inc": incremental()}, {}):  # the poller has another table, then none at all
        overrides(shop, **said)
        shop.catch_up()
        verified = shop.run("verify", f"{shop.source_database}.t")
        assert verified.returncode == 0, verified.stdout
        loaded = shop.run("snapshot", f"{shop.source_database}.t")
        assert loaded.returncode == 0, loaded.stderr
        server, database = shop.sinks["pg"]
        asked = "SELECT COUNT(*) FROM _cdc.commands WHERE pipeline LIKE '%#polled'"
        assert server.execute(asked, database=database) == [(0,)]


@pytest.mark.full
def test_a_reset_forgets_polled_tables_and_is_refused_while_they_are_polled(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    source = start_server("mariadb1011", options=NO_LOG)
    with deployment(tmp_path, source, pg=pg15) as made:
        create(made, "inc", rows=5)
        made.config["tables"]["sync_strategy"] = "auto"
        overrides(made, inc=incremental())
        made.start()
        made.wait_for_log("table_polled", count=2)
        beside = made.run("checkpoint", "reset", "--yes")
        assert beside.returncode == 2
        assert "is being run by" in beside.stderr
        assert made.stop() == 0
        execute(made, "DELETE FROM inc WHERE id = 1")
        assert made.run("checkpoint", "reset", "--yes").returncode == 0
        made.catch_up()
        made.assert_equal("inc")
        assert [one["polling"]["what"] for one in polled(made, "inc")] == ["load"]


@pytest.mark.full
def test_a_snapshot_is_taken_of_a_polled_table_by_the_running_service(shop: Deployment) -> None:
    create(shop, "inc", rows=5)
    overrides(shop, inc=incremental(interval_seconds=3600))
    shop.start()
    shop.wait_for_log("table_polled", count=2)
    execute(shop, "DELETE FROM inc WHERE id = 1", "INSERT INTO inc VALUES (9, 'old', '2001-01-01')")
    result = shop.run("snapshot", f"{shop.source_database}.inc")
    assert result.returncode == 0, result.stderr
    shop.assert_equal("inc")
    assert shop.stop() == 0


@pytest.mark.full
def test_the_table_file_of_the_earlier_system(shop: Deployment) -> None:
    create(shop, "inc", "whole", "other", rows=5)
    entries = [
        {"table": "inc", "primary_key": "id", "modifier": "at", "sync_strategy": "incremental", "batch_size": 2},
        {"table": f"{shop.source_database}.whole", "primary_key": ["id"], "sync_strategy": "full_refresh"},
    ]
    (shop.directory / "tables.json").write_text(json.dumps(entries))
    shop.config["tables"]["file"] = "tables.json"
    shop.catch_up()
    shop.assert_equal("inc", "whole", "other")
    assert {one["polling"]["strategy"] for one in polled(shop, "inc")} == {"incremental"}
    assert {one["polling"] for one in polled(shop, "other")} == {None}
