"""Tables without a key, by the service: loads at an exact position, duplicates, and what is refused."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.writer import TransactionWriter

EVERYTHING = """
CREATE TABLE t (
    n INT NULL, u BIGINT UNSIGNED NULL,
    c VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NULL, x TEXT NULL,
    f FLOAT NULL, g DOUBLE NULL, d DECIMAL(20,4) NULL, b BLOB NULL, v VARBINARY(9) NULL, e ENUM('a','A2') NULL,
    s SET('x','y') NULL, i BIT(9) NULL, day DATE NULL, at DATETIME(3) NULL, ts TIMESTAMP(6) NULL, tm TIME(2) NULL,
    y YEAR NULL, j JSON NULL
)"""
VALUES: dict[str, Sequence[str]] = {
    "n": ("NULL", "0", "1"),
    "u": ("NULL", "18446744073709551615"),
    "c": ("NULL", "''", "'a'", "'A'", "'á'", "'a '"),
    "x": ("NULL", "'text'", "'TEXT'", "REPEAT('long', 3000)"),
    "f": ("NULL", "0e0", "-0e0", "16777216", "0.1", "1e-40"),
    "g": ("NULL", "0e0", "-0e0", "0.1", "1e300"),
    "d": ("NULL", "0", "1.5", "-1.5"),
    "b": ("NULL", "''", "x'00'", "x'00ff5c27'"),
    "v": ("NULL", "x'61'", "x'6100'"),
    "e": ("NULL", "'a'", "'A2'"),
    "s": ("NULL", "''", "'x,y'"),
    "i": ("NULL", "0", "257"),
    "day": ("NULL", "'0000-00-00'", "'2023-02-30'", "'2024-02-29'"),
    "at": ("NULL", "'0000-00-00'", "'2024-02-29 01:02:03.004'"),
    "ts": ("NULL", "'2024-02-29 01:02:03.000004'"),
    "tm": ("NULL", "'-838:59:59'", "'00:00:00.01'"),
    "y": ("NULL", "0", "2024"),
    "j": ("NULL", "'{\"a\": 1}'", "'{\"a\": 1.0}'", "'[]'"),
}


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """Every source, on a PostgreSQL and a MariaDB sink."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        yield made


@pytest.fixture
def pair(tmp_path: Path, mysql97: Server, pg15: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mysql97, sink=pg15) as made:
        yield made


def execute(made: Deployment, *statements: str) -> None:
    """In one session, which takes dates that are none, each statement in a transaction of its own."""
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'")
        connection.autocommit(True)
        for statement in statements:
            cursor.execute(statement)


def tables(made: Deployment) -> dict[str, dict[str, Any]]:
    return {table["table"].partition(".")[2]: table for table in made.status()["tables"]}


def assert_verified(made: Deployment, *names: str) -> None:
    """Equal as `cdc verify` reckons: rows counted, values to the last bit."""
    result = made.run("verify", "--json", *(f"{made.source_database}.{name}" for name in names))
    assert result.returncode == 0, result.stdout + result.stderr
    assert {table["state"] for table in json.loads(result.stdout)} == {"equal"}


def a_row(rng: random.Random) -> str:
    return f"({', '.join(rng.choice(values) for values in VALUES.values())})"


def a_condition(rng: random.Random) -> str:
    name = rng.choice(["n", "c", "day", "e", "g"])
    value = rng.choice(VALUES[name])
    return f"{name} <=> {value}"


def a_change(rng: random.Random, rows: Sequence[str]) -> str:
    what = rng.randrange(6)
    if what < 2:
        return f"INSERT INTO t VALUES {', '.join(rng.choices(rows, k=rng.randrange(1, 6)))}"
    if what == 2:
        return f"DELETE FROM t WHERE {a_condition(rng)} LIMIT {rng.randrange(1, 4)}"
    name = rng.choice(list(VALUES))
    limit = "" if what == 3 else f" LIMIT {rng.randrange(1, 4)}"
    return f"UPDATE t SET {name} = {rng.choice(VALUES[name])} WHERE {a_condition(rng)}{limit}"


def test_rows_of_every_type_come_and_go_one_by_one(shop: Deployment) -> None:
    """Random changes of few kinds of rows: many are equal, and many differ in what a collation or `=` heeds not."""
    rng = random.Random(5)
    rows = [a_row(rng) for _ in range(12)]
    execute(shop, EVERYTHING, f"INSERT INTO t VALUES {', '.join(rng.choices(rows, k=60))}")
    shop.catch_up()
    assert_verified(shop, "t")
    for _ in range(4):
        execute(shop, *(a_change(rng, rows) for _ in range(30)))
        shop.catch_up()
        assert_verified(shop, "t")
    execute(shop, "DELETE FROM t")
    shop.catch_up()
    assert shop.sink_rows("pg", "t") == shop.sink_rows("maria", "t") == []


def test_one_of_three_equal_rows_is_deleted(shop: Deployment) -> None:
    execute(
        shop, "CREATE TABLE t (a INT, b VARCHAR(9))", "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, NULL)"
    )
    shop.catch_up()
    execute(shop, "DELETE FROM t WHERE a = 1 LIMIT 1")
    shop.catch_up()
    shop.assert_equal("t")
    assert len(shop.sink_rows("pg", "t")) == 3
    execute(shop, "UPDATE t SET a = 1, b = 'x' WHERE a = 2", "UPDATE t SET b = NULL LIMIT 1")
    shop.catch_up()
    shop.assert_equal("t")


class DuplicateWriter(TransactionWriter):
    """Keeps writing few kinds of rows into `t`, until stopped."""

    def __init__(self, made: Deployment, seed: int, pause_seconds: float = 0.005) -> None:
        super().__init__(made.source, made.source_database, seed=seed, pause_seconds=pause_seconds)

    def transaction(self, cursor: Any) -> bool:
        rng = self.random
        for _ in range(rng.randrange(1, 4)):
            a, b = rng.randrange(5), rng.choice(["'x'", "'X'", "NULL"])
            cursor.execute(
                rng.choice(
                    [
                        f"INSERT INTO t VALUES ({a}, {b}), ({a}, {b})",
                        f"DELETE FROM t WHERE a = {a} LIMIT 2",
                        f"UPDATE t SET a = {rng.randrange(5)} WHERE a = {a} LIMIT 2",
                    ]
                )
            )
        return True


@pytest.mark.parametrize(
    "crash_at", ["", "load_begun", "load_chunk:2", "load_done", "load_recorded", "before_commit:2"]
)
def test_a_load_beside_a_writer_of_duplicates_has_each_row_as_often_as_the_source(
    shop: Deployment, crash_at: str
) -> None:
    """Without a kill, and killed in the load and right after it."""
    shop.config["snapshot"] = {"chunk_rows": 100}
    execute(shop, "CREATE TABLE t (a INT, b VARCHAR(9))")
    values = ", ".join(f"({n % 5}, 'x')" for n in range(1000))
    execute(shop, f"INSERT INTO t VALUES {values}")
    with DuplicateWriter(shop, seed=len(crash_at)) as writer:
        wait_until(lambda: writer.count > 5 or writer.error is not None, 30, "some transactions")
        shop.start(crash_at=crash_at)
        if crash_at:
            shop.wait_until_killed()
            shop.start()
        wait_until(
            lambda: {t["state"] for t in shop.status()["tables"]} == {"ready"},
            60,
            lambda: f"the tables to be ready: {shop.status()['tables']}\n{shop.log()[-3000:]}",
        )
        seen = writer.count
        wait_until(lambda: writer.count > seen + 20 or writer.error is not None, 30, "more transactions")
        shop.stop()
    shop.catch_up()
    shop.assert_equal("t")
    assert_verified(shop, "t")


def test_rows_that_are_logged_and_not_yet_visible_come_once(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    """A transaction on the table is in the log, and no SELECT sees it: no view of that time has an exact position."""
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, sink=pg15) as made:
        execute(made, "CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1), (1)")
        for name, value in (
            ("enabled", 1),
            ("wait_point", "'AFTER_SYNC'"),
            ("wait_no_slave", 1),
            ("timeout", 5000),
        ):
            source.execute(f"SET GLOBAL rpl_semi_sync_master_{name} = {value}")
        before = source.execute("SHOW MASTER STATUS")
        waiting = threading.Thread(target=execute, args=(made, "INSERT INTO t VALUES (1)"))
        waiting.start()
        wait_until(lambda: source.execute("SHOW MASTER STATUS") != before, 5, "the row in the binlog")
        made.start()
        made.wait_for_log("table_loaded")
        was_waiting = waiting.is_alive()
        waiting.join()
        made.wait_for_log("table_ready")
        assert made.stop() == 0
        assert was_waiting, "the source answered before the load: the test shows nothing"
        made.catch_up()
        made.assert_equal("t")


def test_a_row_that_the_sink_has_not_parks_the_table_with_its_place(pair: Deployment) -> None:
    execute(pair, "CREATE TABLE t (a INT, b VARCHAR(9))", "INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    pair.catch_up()
    server, database = pair.sinks["sink"]
    server.execute(f'DELETE FROM "{pair.source_database}".t WHERE a = 1', database=database)
    execute(pair, "UPDATE t SET b = 'z' WHERE a = 1", "DELETE FROM t WHERE a = 2")
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 1
    error = tables(pair)["t"]["error"]
    assert "of 2 rows that the source has deleted or changed" in error["message"]
    assert "does not have 1 (such as a=1, b='x')" in error["message"]
    assert error["position"]
    assert "cdc snapshot" in error["hint"]
    assert pair.run("snapshot", f"{pair.source_database}.t").returncode == 0
    pair.catch_up()
    pair.assert_equal("t")


def test_a_key_may_come_and_go(shop: Deployment) -> None:
    """By DDL, and by the configuration."""
    execute(shop, "CREATE TABLE t (a INT NOT NULL, b INT)", "INSERT INTO t VALUES (1, 1), (1, 1)")
    shop.catch_up()
    execute(shop, "DELETE FROM t LIMIT 1", "ALTER TABLE t ADD PRIMARY KEY (a)", "UPDATE t SET b = 2")
    shop.catch_up()
    shop.assert_equal("t")
    execute(shop, "ALTER TABLE t DROP PRIMARY KEY", "INSERT INTO t VALUES (1, 2)", "DELETE FROM t LIMIT 1")
    shop.catch_up()
    shop.assert_equal("t")
    shop.config["tables"]["overrides"] = [{"table": f"{shop.source_database}.t", "primary_key": "a"}]
    shop.catch_up()
    shop.config["tables"].pop("overrides")
    execute(shop, "INSERT INTO t VALUES (1, 2)")
    shop.catch_up()
    shop.assert_equal("t")
    assert len(shop.sink_rows("pg", "t")) == 2


def test_a_column_that_comes_or_goes_is_one_more_or_less_to_tell_rows_apart_by(shop: Deployment) -> None:
    execute(shop, "CREATE TABLE t (a INT, b INT)", "INSERT INTO t VALUES (1, 1), (1, 1), (1, 2)")
    shop.catch_up()
    execute(shop, "ALTER TABLE t ADD COLUMN c VARCHAR(9) DEFAULT 'c'", "UPDATE t SET c = 'd' WHERE b = 1 LIMIT 1")
    execute(shop, "DELETE FROM t WHERE b = 2")
    shop.catch_up()
    shop.assert_equal("t")
    execute(shop, "ALTER TABLE t DROP COLUMN c", "DELETE FROM t LIMIT 1")
    shop.catch_up()
    shop.assert_equal("t")
    assert shop.sink_rows("pg", "t") == [(1, 1)]


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_images_that_lack_columns_are_whole_where_they_have_to_be(shop: Deployment, image: str) -> None:
    execute(shop, "CREATE TABLE t (a INT, b INT DEFAULT 7, c BLOB, d VARCHAR(9) DEFAULT 'd')")
    execute(shop, "INSERT INTO t VALUES (1, 1, 'blob', 'x'), (1, 1, 'blob', 'x'), (2, NULL, NULL, NULL)")
    shop.catch_up()
    set_image = f"SET SESSION binlog_row_image = {image}"
    execute(
        shop,
        set_image,
        "INSERT INTO t (a) VALUES (3), (3)",
        "UPDATE t SET b = 5 WHERE a = 1 LIMIT 1",
        "UPDATE t SET c = 'other' WHERE a = 2",
        "DELETE FROM t WHERE a = 3 LIMIT 1",
    )
    shop.catch_up()
    assert_verified(shop, "t")


def test_options_of_a_table_without_a_key(shop: Deployment) -> None:
    """Filter, masks, a hash, a column left out and one renamed: what goes is found as it came."""
    execute(
        shop,
        "CREATE TABLE t (a INT, mail VARCHAR(40), phone VARCHAR(20), secret INT, kind INT)",
        "INSERT INTO t VALUES (1, 'a@b', '12345', 1, 1), (1, 'a@b', '12345', 2, 1), (2, 'c', '6', 3, 2)",
    )
    shop.config["tables"] |= {
        "hash_salt": "a salt of these tests",
        "overrides": [
            {
                "table": f"{shop.source_database}.t",
                "row_filter": "kind = 1",
                "exclude_columns": ["secret"],
                "columns": [
                    {"column": "mail", "hash": True, "rename": "mail_hash"},
                    {"column": "phone", "mask": "keep_last", "mask_keep": 2},
                ],
            }
        ],
        "metadata_columns": {
            "tables": [f"{shop.source_database}.t"],
            "operation": "how",
            "load_id": "which",
        },
    }
    shop.catch_up()
    assert_verified(shop, "t")
    execute(
        shop,
        "DELETE FROM t WHERE secret = 1",
        "UPDATE t SET kind = 1 WHERE a = 2",
        "UPDATE t SET secret = 9 WHERE secret = 2",
        "INSERT INTO t VALUES (5, NULL, NULL, 5, 1), (6, 'f', '7', 5, 3)",
        "UPDATE t SET kind = 3 WHERE a = 5",
        "UPDATE t SET phone = '99' WHERE a = 2",
    )
    shop.catch_up()
    assert_verified(shop, "t")
    assert len(shop.sink_rows("pg", "t")) == 2


def test_changed_policies_load_a_table_without_a_key_again(
    tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server
) -> None:
    """Only that, and only where policies change values: rows that are written otherwise now would not be found."""
    with deployment(tmp_path, mysql97, pg=pg15, maria=mariadb1011) as made:
        columns = "id INT NOT NULL, day DATE NULL, x TEXT NULL"
        for name, more in (("t", ""), ("k", ", PRIMARY KEY (id)")):
            execute(made, f"CREATE TABLE {name} ({columns}{more})")
            execute(made, f"INSERT INTO {name} VALUES (1, '0000-00-00', NULL), (2, NULL, 'a\\0b')")
        made.catch_up()
        for policies in ({"zero_dates": "infinity"}, {"zero_dates": "infinity", "nul_bytes": "strip"}, {}):
            made.config["policies"] = policies
            execute(made, "UPDATE t SET id = id + 1")
            result = made.run("run", "--until-caught-up")
            assert result.returncode == 0, result.stderr[-3000:]
            assert result.stderr.count("table_options_changed") == 1
            assert_verified(made, "t")
        assert made.run("run", "--until-caught-up").stderr.count("table_options_changed") == 0


def test_xa_transactions_of_a_table_without_a_key(shop: Deployment) -> None:
    execute(shop, "CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1), (1), (1)")
    shop.catch_up()
    execute(
        shop,
        "XA START 'kl'",
        "DELETE FROM t LIMIT 2",
        "INSERT INTO t VALUES (2), (2)",
        "XA END 'kl'",
        "XA PREPARE 'kl'",
    )
    shop.catch_up()
    assert len(shop.sink_rows("pg", "t")) == 3
    execute(shop, "XA COMMIT 'kl'")
    shop.catch_up()
    shop.assert_equal("t")


def test_an_engine_without_a_read_view_is_refused(pair: Deployment) -> None:
    execute(pair, "CREATE TABLE t (a INT) ENGINE=MyISAM", "INSERT INTO t VALUES (1)")
    result = pair.run("run", "--until-caught-up")
    assert result.returncode == 1
    error = tables(pair)["t"]["error"]
    assert "MyISAM" in error["message"]
    assert "ENGINE=InnoDB" in error["hint"]


def test_rows_that_differ_are_shown_by_verify(pair: Deployment) -> None:
    execute(pair, "CREATE TABLE t (a INT, b VARCHAR(9))", "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (2, NULL)")
    pair.catch_up()
    server, database = pair.sinks["sink"]
    server.execute(f"INSERT INTO \"{pair.source_database}\".t VALUES (2, NULL), (3, 'new')", database=database)
    server.execute(f'DELETE FROM "{pair.source_database}".t WHERE a = 1', database=database)
    result = pair.run("verify", "--json")
    assert result.returncode == 1
    (table,) = json.loads(result.stdout)
    assert (table["source_rows"], table["sink_rows"]) == (3, 3)
    found = sorted((d["kind"], d["key"]["a"], d["key"]["b"]) for d in table["differences"])
    assert found == [("extra", "2", None), ("extra", "3", "new"), ("missing", "1", "x"), ("missing", "1", "x")]


def test_a_busy_table_is_parked_where_no_view_is_exact(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server
) -> None:
    """MySQL by file: a table that is written to all the time has no quiet second, and says so."""
    source = start_server("mysql97", options={"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"})
    with deployment(tmp_path, source, sink=pg15) as made:
        execute(made, "CREATE TABLE t (a INT, b VARCHAR(9))", "INSERT INTO t VALUES (1, 'x')")
        made.catch_up()
        execute(made, "DELETE FROM t LIMIT 1", "INSERT INTO t VALUES (1, 'x'), (1, 'x')")
        made.catch_up()
        made.assert_equal("t")
        with DuplicateWriter(made, seed=3):
            result = made.run("snapshot", f"{made.source_database}.t", timeout=120)
        assert result.returncode == 1
        error = tables(made)["t"]["error"]
        assert "follow each other so closely" in error["message"]
        assert "primary_key" in error["hint"]
        assert "gtid_mode=ON" in error["hint"]
        assert made.run("snapshot", f"{made.source_database}.t").returncode == 0
        made.catch_up()
        made.assert_equal("t")
