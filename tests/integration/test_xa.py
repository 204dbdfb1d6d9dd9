"""XA transactions on real servers: rows of a prepared one wait in the sinks until its end, whatever happens between."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.pool import ServerPool

TABLES = ("orders", "items")
# A quote, a zero byte and bytes that are no text; a branch and a format.
ODD = "X'00ff2761',X'62',7"


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server) -> Iterator[Deployment]:
    """Two tables with rows, to PostgreSQL and MySQL at once."""
    with deployed(tmp_path, source_server, pg=pg15, mysql=mysql97) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20), n DECIMAL(12,2), b BLOB)")
        execute(made, "CREATE TABLE items (id INT PRIMARY KEY, order_id INT)")
        execute(made, "INSERT INTO orders VALUES (1, 'one', 1.5, x'00ff'), (2, 'two', NULL, NULL), (3, 'three', 3, '')")
        execute(made, "INSERT INTO items VALUES (1, 1), (2, 2), (3, 3)")
        yield made


@contextlib.contextmanager
def deployed(directory: Path, source: Server, **sinks: Server) -> Iterator[Deployment]:
    """As `deployment`; whatever a test leaves prepared ends first, or its database could not be dropped."""
    with deployment(directory, source, **sinks) as made:
        try:
            yield made
        finally:
            is_mysql = source.family == "mysql"
            for format_id, global_bytes, _, name in source.execute(f"XA RECOVER {'CONVERT XID' if is_mysql else ''}"):
                raw = bytes.fromhex(name[2:]) if is_mysql else bytes(name)
                with contextlib.suppress(pymysql.err.MySQLError):
                    xid = f"X'{raw[:global_bytes].hex()}',X'{raw[global_bytes:].hex()}',{format_id}"
                    source.execute(f"XA ROLLBACK {xid}")


def execute(made: Deployment, *statements: str) -> None:
    """Statements of one session, with autocommit; it locks no gaps, so that others get past what is prepared."""
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        for statement in statements:
            cursor.execute(statement)


def prepare(made: Deployment, xid: str, *statements: str) -> None:
    """A transaction that is prepared, and whose session has gone."""
    execute(made, f"XA START {xid}", *statements, f"XA END {xid}", f"XA PREPARE {xid}")

    def is_free() -> bool:  # while its session is still about, nobody else may end it
        with contextlib.closing(made.source.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = %s", (made.source_database,))
            return bool(cursor.fetchone()[0] == 0)

    wait_until(is_free, 10, "the session to be gone")


CHANGES = (
    "INSERT INTO orders VALUES (10, 'ten', 10.01, x'0001')",
    "UPDATE orders SET v = 'zwei' WHERE id = 2",
    "UPDATE orders SET id = 30 WHERE id = 3",
    "DELETE FROM items WHERE id = 1",
    "INSERT INTO items VALUES (4, 10)",
)


def waiting(made: Deployment) -> list[int]:
    return [sink["prepared"]["count"] for sink in made.status()["sinks"]]


def stored(made: Deployment) -> list[int]:
    """How many rows the metadata holds for prepared transactions, sink by sink."""
    found = []
    for server, database in made.sinks.values():
        if server.family == "postgresql":
            found.append(server.execute('SELECT count(*) FROM "_cdc"."prepared"', database=database)[0][0])
        else:
            found.append(server.execute("SELECT count(*) FROM _cdc_prepared", database=database)[0][0])
    return found


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_rows_wait_across_a_restart_of_the_service(shop: Deployment, end: str) -> None:
    shop.catch_up()
    prepare(shop, ODD, *CHANGES)
    execute(shop, "INSERT INTO orders VALUES (11, 'after', 1, NULL)", "DELETE FROM items WHERE id = 2")
    shop.catch_up()
    shop.assert_equal(*TABLES)  # nothing of it is committed at the source either
    assert waiting(shop) == [1, 1]
    assert all(item["prepared"]["oldest"] for item in shop.status()["sinks"])
    execute(shop, f"XA {end} {ODD}")
    shop.catch_up()
    shop.assert_equal(*TABLES)
    assert ("ten" in [row[1] for row in shop.source_rows("orders")]) == (end == "COMMIT")
    assert waiting(shop) == [0, 0]
    assert stored(shop) == [0, 0]


def test_transactions_prepared_before_the_first_load_and_between_loads_arrive(shop: Deployment) -> None:
    """No load sees their rows, wherever its position is; only those of the second one are in the stream."""
    prepare(shop, "'early'", "INSERT INTO orders VALUES (20, 'early', 1, NULL)", "DELETE FROM items WHERE id = 3")
    prepare(shop, "'undone'", "INSERT INTO orders VALUES (21, 'undone', 1, NULL)")
    shop.catch_up()
    shop.assert_equal(*TABLES)
    prepare(shop, ODD, *CHANGES[:2], *CHANGES[4:])
    assert shop.run("snapshot", f"{shop.source_database}.orders").returncode == 0
    shop.assert_equal(*TABLES)
    execute(shop, f"XA COMMIT {ODD}")
    prepare(shop, "'late'", "INSERT INTO orders VALUES (40, 'late', 1, NULL)", "UPDATE orders SET v = 'x' WHERE id = 1")
    shop.catch_up()
    shop.assert_equal(*TABLES)
    # Now the load is newer than the commit, and than what came after it.
    execute(shop, "XA COMMIT 'late'", "DELETE FROM orders WHERE id = 40", "UPDATE orders SET v = 'y' WHERE id = 1")
    assert shop.run("snapshot", f"{shop.source_database}.orders").returncode == 0
    shop.assert_equal("orders")
    execute(shop, "XA ROLLBACK 'undone'", "XA COMMIT 'early'", "INSERT INTO items VALUES (5, 5)")
    result = shop.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    shop.assert_equal(*TABLES)
    assert result.stderr.count("prepared_rows_not_known") == len(shop.sinks), result.stderr
    assert stored(shop) == [0, 0]


def test_rows_of_a_table_that_was_not_captured_when_they_passed_arrive(
    tmp_path: Path, mariadb118: Server, pg15: Server
) -> None:
    with deployed(tmp_path, mariadb118, pg=pg15) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20))", "INSERT INTO orders VALUES (1, 'one')")
        execute(made, "CREATE TABLE items (id INT PRIMARY KEY, v VARCHAR(20))", "INSERT INTO items VALUES (1, 'one')")
        made.config["tables"]["exclude"] = [f"{made.source_database}.items"]
        made.catch_up()
        both = ("INSERT INTO orders VALUES (2, 'two')", "INSERT INTO items VALUES (2, 'two')")
        prepare(made, "'both'", *both)
        prepare(made, "'one'", "INSERT INTO items VALUES (3, 'three')")
        made.catch_up()
        del made.config["tables"]["exclude"]
        made.catch_up()
        made.assert_equal("orders", "items")
        execute(made, "XA COMMIT 'both'")
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert "prepared_rows_do_not_fit" in result.stderr
        made.assert_equal("orders", "items")
        execute(made, "XA COMMIT 'one'")
        made.catch_up()
        made.assert_equal("orders", "items")
        assert stored(made) == [0]


@pytest.mark.full
@pytest.mark.parametrize("kind", ["mysql97", "mariadb1011", "mariadb118"])
def test_no_server_renames_a_table_whose_rows_are_prepared(start_server: Callable[..., Server], kind: str) -> None:
    """Stored rows are found again by the table's name (cdc/pipeline/prepared.py)."""
    source = start_server(kind)
    source.execute("CREATE DATABASE d")

    def require_refused() -> None:
        with contextlib.closing(source.connect("d")) as connection, connection.cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 1")
            cursor.execute("SET innodb_lock_wait_timeout = 1")
            for statement in ("RENAME TABLE t TO u", "ALTER TABLE t RENAME TO u"):
                with pytest.raises(pymysql.err.OperationalError, match="1205"):
                    cursor.execute(statement)

    with contextlib.closing(source.connect("d")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT PRIMARY KEY)")
        for statement in ("XA START 'x'", "INSERT INTO t VALUES (1)", "XA END 'x'", "XA PREPARE 'x'"):
            cursor.execute(statement)
        require_refused()
    require_refused()
    source.restart()
    require_refused()
    source.execute("XA COMMIT 'x'")
    assert source.execute("SELECT id FROM d.t") == [(1,)]


def rows(first: int, count: int) -> list[str]:
    return [
        "INSERT INTO orders (id, v) VALUES " + ", ".join(f"({n}, 'row {n}')" for n in range(at, at + 500))
        for at in range(first, first + count, 500)
    ]


def test_a_large_one_is_stored_in_parts_and_arrives_whole(
    tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server
) -> None:
    """Rows larger than a piece, more of them than a part holds, changed again and again; in two phases and in one."""
    with deployed(tmp_path, mysql97, pg=pg15, maria=mariadb1011) as made:
        made.config["flush"] = {"rows_max": 100, "bytes_max": "64KiB", "age_ms_max": 50}
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(200), b LONGBLOB)")
        made.catch_up()
        changes = [
            "UPDATE orders SET b = CONCAT(REPEAT(RANDOM_BYTES(1024), 3000), x'00ff27') WHERE id IN (7, 3000)",
            "UPDATE orders SET v = 'again' WHERE id % 3 = 0",
            "DELETE FROM orders WHERE id % 7 = 1",
            "UPDATE orders SET id = id + 10000 WHERE id % 5 = 0",
        ]
        prepare(made, ODD, *rows(0, 4000), *changes)
        made.catch_up()
        made.assert_equal("orders")
        parts = pg15.execute('SELECT count(DISTINCT part) FROM "_cdc"."prepared"', database=made.sinks["pg"][1])
        assert parts[0][0] > 5
        execute(made, f"XA COMMIT {ODD}")
        again = "UPDATE orders SET v = 'in one phase' WHERE id % 2 = 0"
        execute(made, "XA START 'p'", *rows(30_000, 2000), again, "XA END 'p'", "XA COMMIT 'p' ONE PHASE")
        made.catch_up()
        made.assert_equal("orders")
        assert stored(made) == [0, 0]


def test_a_large_one_in_one_phase_has_all_its_parts_whatever_waits_under_its_name(
    tmp_path: Path, mysql97: Server, pg15: Server
) -> None:
    """The end of the one that waits is in no log: it was rolled back by a session that logs nothing."""
    with deployed(tmp_path, mysql97, pg=pg15) as made:
        made.config["flush"] = {"rows_max": 100, "bytes_max": "64KiB"}
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(200), b LONGBLOB)")
        made.catch_up()
        prepare(made, "'p'", "INSERT INTO orders (id, v) VALUES (1, 'gone')")
        made.catch_up()
        assert waiting(made) == [1]
        execute(made, "SET sql_log_bin = 0", "XA ROLLBACK 'p'")
        execute(made, "XA START 'p'", *rows(30_000, 5000), "XA END 'p'", "XA COMMIT 'p' ONE PHASE")
        made.catch_up()
        made.assert_equal("orders")
        assert stored(made) == [0]


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["pg15", "mysql97"])
def test_a_kill_at_any_commit_leaves_all_or_nothing(
    tmp_path: Path, mariadb1011: Server, server_pool: ServerPool, kind: str
) -> None:
    with deployed(tmp_path, mariadb1011, sink=server_pool.get(kind)) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20), n INT)")
        made.catch_up()
        points = ("after_statement", "before_commit", "after_commit")
        for number, (point, nth) in enumerate((point, nth) for point in points for nth in (1, 2, 3)):
            base = 10 * number
            prepare(made, "'a'", f"INSERT INTO orders VALUES ({base}, 'a', 1), ({base + 1}, 'a', 1)")
            prepare(made, "'b'", f"INSERT INTO orders VALUES ({base + 2}, 'b', 1)")
            execute(made, "XA COMMIT 'a'", f"UPDATE orders SET n = 2 WHERE id = {base}", "XA ROLLBACK 'b'")
            prepare(made, "'a'", f"UPDATE orders SET n = 100 WHERE id = {base}")  # the name again
            execute(made, "XA COMMIT 'a'", f"DELETE FROM orders WHERE id = {base + 1}")
            killed = made.run("run", "--until-caught-up", crash_at=f"{point}:{nth}")
            assert killed.returncode == -9, (point, nth, killed.stderr)
            if number % 3 == 2:
                made.catch_up()
                made.assert_equal("orders")
        assert stored(made) == [0]


@pytest.mark.parametrize("name", ["mysql97", "mariadb1011", "mariadb118"])
def test_many_at_a_time_across_kills_of_the_service_and_the_source(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, mysql97: Server, name: str
) -> None:
    """Four names, used again and again, each for rows of its own, beside plain transactions."""
    choose = random.Random(name)
    with deployed(tmp_path, start_server(name), pg=pg15, mysql=mysql97) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20), n INT)")
        execute(made, "INSERT INTO orders VALUES " + ", ".join(f"({n}, 'first', 0)" for n in range(80)))
        made.start()
        made.wait_for_log("table_ready", count=2)
        open_names: set[int] = set()
        for turn in range(90):
            slot = choose.randrange(5)
            own = [5 * choose.randrange(16) + slot for _ in range(3)]
            changes = [
                *[f"UPDATE orders SET n = n + 1, v = 'turn {turn}' WHERE id = {one}" for one in own],
                f"INSERT INTO orders VALUES ({1000 + 5 * turn + slot}, 'new', {turn})",
                f"DELETE FROM orders WHERE id = {5 * choose.randrange(16) + slot}",
            ]
            if slot == 4:
                execute(made, *changes)
            elif slot in open_names:
                execute(made, f"XA {choose.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])} 'slot','{slot}'")
                open_names.remove(slot)
            else:
                prepare(made, f"'slot','{slot}'", *changes)
                open_names.add(slot)
            if turn in (30, 60):
                made.kill()
                made.start()
            if turn == 45:
                # MariaDB may have forgotten an XA ROLLBACK after a crash: the name is still taken then.
                (made.source.kill if name == "mysql97" else made.source.stop)()
                made.source.restart()
        for slot in open_names:
            execute(made, f"XA COMMIT 'slot','{slot}'")
        assert made.process is not None
        assert made.process.poll() is None, made.log()
        assert made.stop() == 0
        made.catch_up()
        made.assert_equal("orders")
        assert stored(made) == [0, 0]
        assert "prepared_rows_not_known" not in made.log()


def test_metadata_of_an_older_version_and_a_reset(tmp_path: Path, mariadb118: Server, pg15: Server) -> None:
    with deployed(tmp_path, mariadb118, pg=pg15) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20))")
        made.catch_up()
        pg15.execute('DROP TABLE "_cdc"."prepared"', database=made.sinks["pg"][1])  # as before there was one
        assert waiting(made) == [0]
        assert made.run("checkpoint", "reset", "--yes").returncode == 0
        prepare(made, "'a'", "INSERT INTO orders VALUES (1, 'a')")
        made.catch_up()
        prepare(made, "'b'", "INSERT INTO orders VALUES (2, 'b')")
        made.catch_up()
        assert waiting(made) == [1]
        assert made.run("checkpoint", "reset", "--yes").returncode == 0
        assert stored(made) == [0]
        made.catch_up()
        execute(made, "XA COMMIT 'b'", "XA COMMIT 'a'")
        made.catch_up()
        made.assert_equal("orders")


def test_row_images_that_are_not_whole_wait_as_they_are(
    tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server
) -> None:
    with deployed(tmp_path, mysql97, pg=pg15, maria=mariadb1011) as made:
        execute(made, "CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(20), n INT, b BLOB)")
        execute(made, "INSERT INTO orders VALUES (1, 'one', 1, 'b'), (2, 'two', 2, 'b'), (3, 'three', 3, 'b')")
        made.catch_up()
        execute(
            made,
            "SET SESSION binlog_row_image = 'MINIMAL'",
            "XA START 'a'",
            "UPDATE orders SET n = NULL WHERE id = 1",
            "UPDATE orders SET id = 20, v = 'x' WHERE id = 2",
            "DELETE FROM orders WHERE id = 3",
            "INSERT INTO orders (id, v) VALUES (4, 'four')",
            "XA END 'a'",
            "XA PREPARE 'a'",
        )
        made.catch_up()
        made.assert_equal("orders")
        assert stored(made)[0] > 0
        execute(made, "XA COMMIT 'a'")
        made.catch_up()
        made.assert_equal("orders")
