"""The main job on real servers: load, catch up, follow, restart; every source, both sink kinds at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment
from tests.support.writer import TABLES, Writer, create_schema


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    """Three tables with rows, to PostgreSQL and MariaDB at once."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        create_schema(source_server, made.source_database)
        yield made


@pytest.mark.parametrize("position", ["gtid", "file"])
def test_until_caught_up_leaves_source_and_sinks_equal(shop: Deployment, position: str) -> None:
    shop.config["source"]["position"] = position
    with Writer(shop.source, shop.source_database) as writer:
        shop.catch_up()
        writer.wait_for(50)
    shop.catch_up()
    shop.assert_equal(*TABLES)


@pytest.mark.any_server
def test_a_running_service_follows_and_stops_on_sigterm(shop: Deployment) -> None:
    shop.start()
    shop.wait_for_log("service_started")
    with Writer(shop.source, shop.source_database) as writer:
        writer.wait_for(200)
        assert shop.stop() == 0
    shop.catch_up()
    shop.assert_equal(*TABLES)


@pytest.mark.any_server
def test_a_table_created_while_it_runs_is_loaded_and_followed(shop: Deployment) -> None:
    shop.start()
    shop.wait_for_log("table_ready", count=2 * len(TABLES))
    execute = shop.source.execute
    execute("CREATE TABLE late (id INT PRIMARY KEY, v VARCHAR(10))", database=shop.source_database)
    execute("INSERT INTO late VALUES (1, 'one'), (2, 'two')", database=shop.source_database)
    execute("UPDATE late SET v = 'zwei' WHERE id = 2", database=shop.source_database)
    wait_until(lambda: _state(shop, "late") == {"ready"}, 30, "late to be ready on both sinks")
    execute("DELETE FROM late WHERE id = 1", database=shop.source_database)
    assert shop.stop() == 0
    shop.catch_up()
    shop.assert_equal("late", *TABLES)


def _state(made: Deployment, table: str) -> set[str]:
    return {t["state"] for t in made.status()["tables"] if t["table"] == f"{made.source_database}.{table}"}


# Each on a table of its own (id INT PRIMARY KEY, a INT, b VARCHAR(20), c DOUBLE); {t} is the table's name.
DDL = {
    "add": "ALTER TABLE {t} ADD COLUMN extra INT NULL DEFAULT 7 AFTER id",
    "drop": "ALTER TABLE {t} DROP COLUMN c",
    "modify": "ALTER TABLE {t} MODIFY a DECIMAL(20,3) NULL",
    "swap_names": "ALTER TABLE {t} CHANGE a b VARCHAR(20), CHANGE b a VARCHAR(20) NULL",
    "truncate": "TRUNCATE TABLE {t}",
    "rename": "ALTER TABLE {t} RENAME TO {t}_moved",
    "exchange": "RENAME TABLE {t} TO {t}_x, {other} TO {t}_y, {t}_x TO {other}, {t}_y TO {t}",
    "key": "ALTER TABLE {t} DROP PRIMARY KEY, ADD PRIMARY KEY (id, b)",
    "select": "CREATE TABLE {t}_copy (PRIMARY KEY (id)) SELECT id, b FROM {t}",
    "like": "CREATE TABLE {t}_like LIKE {t}",
    "comment": "/*!50001 ALTER TABLE {t} */ ADD/**/COLUMN `z``z` INT # tail",
    "drop_table": "DROP TABLE {t}",
}


@pytest.mark.in_turn
@pytest.mark.parametrize("is_running", [False, True], ids=["stopped", "running"])
def test_every_ddl_ends_equal(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server, is_running: bool
) -> None:
    """Rows from before a DDL must not be read by the columns of after it, nor the other way round."""
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97) as made:
        _change_everything(made, is_running=is_running)


@pytest.mark.parametrize(
    "name,options",
    [
        ("mysql97", {"binlog_row_metadata": "MINIMAL", "gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}),
        ("mariadb1011", {"binlog_row_metadata": "NO_LOG", "log_bin_compress": 1, "binlog_checksum": "NONE"}),
    ],
)
def test_every_ddl_ends_equal_where_the_log_has_no_names(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, name: str, options: dict[str, object]
) -> None:
    """The servers' defaults: the log says neither the columns' names nor (MariaDB) their signs."""
    with deployment(tmp_path, start_server(name, options=options), pg=pg15) as made:
        _change_everything(made, is_running=False)
        _change_everything(made, is_running=True, prefix="again_")


def _change_everything(made: Deployment, *, is_running: bool, prefix: str = "") -> None:
    def execute(statement: str) -> None:
        made.source.execute(statement, database=made.source_database)

    names = [f"{prefix}{name}" for name in DDL]
    for name in names:
        execute(f"CREATE TABLE {name}_ddl (id INT PRIMARY KEY, a INT, b VARCHAR(20) NOT NULL, c DOUBLE)")
        execute(f"INSERT INTO {name}_ddl VALUES (1, 10, 'one', 1.5), (2, 20, 'two', 2.5)")
    made.catch_up()
    if is_running:
        made.start()
        made.wait_for_log("service_started")
    for number, (name, statement) in enumerate(DDL.items()):
        table = f"{prefix}{name}_ddl"
        execute(f"INSERT INTO {table} VALUES (3, 30, 'three', 3.5), (4, 40, 'four', 4.5)")
        execute(f"UPDATE {table} SET a = a + 1, id = id + 100 WHERE id = 2")
        execute(statement.format(t=table, other=f"{prefix}add_ddl"))
        if name not in ("rename", "drop_table"):
            execute(f"INSERT INTO {table} (id, b) VALUES ({50 + number}, 'five')")
            execute(f"DELETE FROM {table} WHERE id = 1")
    if is_running:
        assert made.stop() == 0
    made.catch_up()
    tables = {row[0] for row in made.source.execute("SHOW TABLES", database=made.source_database)}
    assert len(tables) >= len(DDL) - 1 + 2, tables  # one was dropped, two were made
    made.assert_equal(*sorted(tables))
    assert _state(made, f"{prefix}drop_table_ddl") == {"dropped"}


@pytest.mark.any_server
def test_ddl_under_load_by_file_position_ends_equal(shop: Deployment) -> None:
    """By file and position a load can only start at the file's beginning: the history in that file must not harm."""
    shop.config["source"]["position"] = "file"
    database = shop.source_database
    shop.start()
    shop.wait_for_log("service_started")
    with Writer(shop.source, database, seed=5) as writer:
        writer.wait_for(30)
        shop.source.execute("ALTER TABLE accounts ADD COLUMN colour VARCHAR(9) NULL FIRST", database=database)
        writer.wait_for(80)
        shop.source.execute("ALTER TABLE accounts DROP COLUMN note", database=database)
        wait_until(lambda: writer.error is not None, 30, "the writer to meet the column that is gone, and end")
        writer.error = None
    assert shop.stop() == 0
    shop.catch_up()
    shop.assert_equal(*TABLES)


@pytest.mark.any_server
def test_a_dropped_table_is_no_longer_followed_and_comes_back_when_made_again(shop: Deployment) -> None:
    shop.catch_up()
    database = shop.source_database
    shop.source.execute("DROP TABLE items", database=database)
    shop.catch_up()
    assert _state(shop, "items") == {"dropped"}
    shop.source.execute("CREATE TABLE items (a INT PRIMARY KEY, b INT)", database=database)
    shop.source.execute("INSERT INTO items VALUES (1, 2)", database=database)
    shop.catch_up()
    shop.assert_equal("items")


@pytest.mark.any_server
def test_a_table_that_came_and_went_while_stopped_does_not_stop_the_stream(shop: Deployment) -> None:
    shop.catch_up()
    database = shop.source_database
    shop.source.execute("CREATE TABLE brief (a INT PRIMARY KEY)", database=database)
    shop.source.execute("INSERT INTO brief VALUES (1)", database=database)
    shop.source.execute("DROP TABLE brief", database=database)
    shop.source.execute("UPDATE accounts SET note = 'after' WHERE id = 1", database=database)
    shop.catch_up()
    shop.assert_equal(*TABLES)


def test_a_transaction_larger_than_a_batch_arrives_whole(shop: Deployment) -> None:
    shop.config["flush"] = {"rows_max": 100, "bytes_max": "64KiB", "age_ms_max": 50}
    shop.catch_up()
    database = shop.source_database
    with contextlib.closing(shop.source.connect(database)) as connection, connection.cursor() as cursor:
        connection.autocommit(False)
        for start in range(0, 20_000, 500):
            values = ", ".join(f"({50_000 + n}, 1, 'row {n}', {n})" for n in range(start, start + 500))
            cursor.execute(f"INSERT INTO items VALUES {values}")
        cursor.execute("UPDATE items SET line = 2 WHERE order_id >= 50000 AND order_id % 3 = 0")
        cursor.execute("DELETE FROM items WHERE order_id >= 50000 AND order_id % 7 = 0")
        connection.commit()
    shop.catch_up()
    shop.assert_equal(*TABLES)


@pytest.mark.any_server
def test_readers_of_the_sink_never_see_half_a_transaction(shop: Deployment) -> None:
    """Transfers keep the sum of balances: every read of a ready table must find it."""
    shop.start()
    shop.wait_for_log("table_ready", count=2 * len(TABLES))
    sums: set[int] = set()
    with Writer(shop.source, shop.source_database) as writer:
        while writer.count < 300:
            for name in shop.sinks:
                sums.add(sum(row[1] for row in shop.sink_rows(name, "accounts")))
    assert sums == {40_000}
    assert shop.stop() == 0


@pytest.mark.any_server
def test_source_names_that_look_like_sql_arrive(
    tmp_path: Path, source_server: Server, pg17: Server, mysql97: Server
) -> None:
    table = 'a`; DROP TABLE x;-- "q" %s'
    quoted = "`" + table.replace("`", "``") + "`"
    with deployment(tmp_path, source_server, pg=pg17, mysql=mysql97) as made:
        made.source.execute(
            f'CREATE TABLE {quoted} (`select` INT, `%d "x"` VARCHAR(20), PRIMARY KEY (`select`))',
            database=made.source_database,
        )
        made.source.execute(f"INSERT INTO {quoted} VALUES (1, 'a'), (2, '%s')", None, database=made.source_database)
        made.catch_up()
        made.source.execute(f"UPDATE {quoted} SET `select` = 3 WHERE `select` = 1", None, database=made.source_database)
        made.catch_up()
        for server, database in made.sinks.values():
            if server.family == "postgresql":
                name = '"' + table.replace('"', '""') + '"'
                rows = server.execute(
                    f'SELECT * FROM "{made.source_database}".{name} ORDER BY 1', None, database=database
                )
            else:
                rows = server.execute(f"SELECT * FROM {quoted} ORDER BY 1", None, database=database)
            assert [tuple(row) for row in rows] == [(2, "%s"), (3, "a")]


def test_the_service_survives_a_restart_of_source_and_sinks(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    source, maria, pg = start_server("mysql97"), start_server("mariadb1011"), start_server("pg15")
    with deployment(tmp_path, source, pg=pg, maria=maria) as made:
        create_schema(source, made.source_database)
        made.start()
        made.wait_for_log("table_ready", count=2 * len(TABLES))
        for seed, server in enumerate((source, maria, pg)):
            with Writer(source, made.source_database, seed=seed) as writer:
                writer.wait_for(20)
            server.kill()
            server.restart()
        with Writer(source, made.source_database, seed=9) as writer:
            writer.wait_for(20)
        assert made.process is not None
        assert made.process.poll() is None, made.log()
        assert made.stop() == 0
        made.catch_up()
        made.assert_equal(*TABLES)
