"""What foreign keys do at the source in no row event, done again on the sinks: at its place, and once.

The judge is the source: after any writes its tables and the targets hold the same rows.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import random
import subprocess
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.foreign_keys import FAMILY, TABLES, family_statement
from tests.support.waiting import wait_until


class Writer:
    """Random writes of everything that acts on those tables. What the source refuses is nothing."""

    def __init__(self, made: Deployment, seed: int) -> None:
        self.random = random.Random(seed)
        self.connection = made.source.connect(made.source_database)
        self.statements = 0

    def write(self, transactions: int) -> None:
        chance = self.random
        with self.connection.cursor() as cursor:
            for _ in range(transactions):
                has_checks = chance.random() > 0.06
                cursor.execute(f"SET foreign_key_checks = {int(has_checks)}")
                for _ in range(chance.choice((1, 1, 1, 2, 5))):
                    try:
                        cursor.execute(family_statement(chance))
                        self.statements += 1
                    except (pymysql.err.IntegrityError, pymysql.err.OperationalError):
                        continue  # no parent, a key that is there; a cycle, 15 levels
                self.connection.rollback() if chance.random() < 0.05 else self.connection.commit()


@pytest.fixture
def family(tmp_path: Path, mariadb1011: Server, pg15: Server) -> Iterator[Deployment]:
    """MariaDB with those tables, to both kinds of sinks."""
    with deployment(tmp_path, mariadb1011, pg=pg15, maria=mariadb1011) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        for statement in FAMILY:
            made.source.execute(statement, database=made.source_database)
        yield made


def _policy_counts(made: Deployment, table: str) -> list[int]:
    return [
        one["policy_changes"].get("*", {}).get("hidden_cascades", 0)
        for one in made.status()["tables"]
        if one["table"] == f"{made.source_database}.{table}"
    ]


def _states(made: Deployment, sink: str = "pg") -> dict[str, str]:
    return {one["table"].split(".")[-1]: one["state"] for one in made.status()["tables"] if one["sink"] == sink}


def _error(made: Deployment, table: str) -> str:
    found = [one["error"] for one in made.status()["tables"] if one["table"].endswith(f".{table}")]
    return json.dumps(found)


@pytest.mark.parametrize("rows_max", [10_000, pytest.param(3, marks=pytest.mark.full)])
@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.full) for n in range(2, 8))])
def test_random_writes_of_parents_and_children(family: Deployment, seed: int, rows_max: int) -> None:
    """First all that was written in one go, in large runs; then beside the running service."""
    family.config["flush"] = {"rows_max": rows_max}
    family.catch_up()
    writer = Writer(family, seed)
    for transactions in (40, 400):
        writer.write(transactions)
        family.catch_up()
        family.assert_equal(*TABLES)
    family.start()
    writer.write(200)
    family.wait_for_log("hidden_cascades_applied")
    family.stop()
    family.catch_up()
    family.assert_equal(*TABLES)
    assert set(_states(family).values()) == {"ready"}
    assert all(count > 0 for table in TABLES[1:] for count in _policy_counts(family, table))


def test_targets_get_an_index_where_cascades_look_for_rows(family: Deployment) -> None:
    """Unless the key, or one that is there, begins with the same columns; `targets.indexes` makes none here."""
    family.catch_up()
    server, database = family.sinks["pg"]
    found = server.execute(
        "SELECT tablename, regexp_replace(indexdef, '.*[(]', '(') FROM pg_indexes WHERE schemaname = %s "
        "AND indexname NOT LIKE '%%pkey'",
        (family.source_database,),
        database=database,
    )
    expected = [("c", "p"), ("g", "c"), ("line", "c"), ("line", "up"), ("s", "code"), ("tree", "up")]
    expected += [("twig", "root"), ("twig", "t")]
    assert sorted(found) == [(table, f"({column})") for table, column in expected]
    server, database = family.sinks["maria"]
    found = server.execute(
        "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s "
        "AND INDEX_NAME <> 'PRIMARY' AND TABLE_NAME NOT LIKE '\\_cdc%%'",
        (database,),
    )
    assert sorted(found) == expected


def test_a_child_waits_for_a_parent_that_is_loaded_beside(tmp_path: Path, mariadb118: Server, pg15: Server) -> None:
    """They are not in one stream for as long as that takes; then they are."""
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        database = made.source_database
        made.source.execute("CREATE TABLE a (id INT PRIMARY KEY)", database=database)
        made.source.execute("CREATE TABLE p (id INT PRIMARY KEY)", database=database)
        made.source.execute("INSERT INTO p SELECT seq FROM seq_1_to_600", database=database)
        made.config["tables"]["include"] = [f"{database}.a"]
        made.catch_up()
        made.config["tables"]["include"] = [f"{database}.*"]
        made.config["snapshot"] = {"rows_per_second": 100, "chunk_rows": 50}
        made.start()
        made.wait_for_log("side_begun")
        made.source.execute(
            "CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
            database=database,
        )
        made.source.execute("INSERT INTO c SELECT id, id FROM p", database=database)
        made.source.execute("DELETE FROM p WHERE id % 3 = 0", database=database)
        made.wait_for_log("side_joined")
        wait_until(lambda: set(_states(made).values()) == {"ready"}, 60, "every table is ready")
        made.source.execute("DELETE FROM p WHERE id % 5 = 0", database=database)
        assert made.stop() == 0
        assert "table_parked" not in made.log()
        made.catch_up()
        made.assert_equal("a", "p", "c")


_AGAIN = (
    "DELETE FROM p WHERE id = 1",
    "INSERT INTO p VALUES (1)",
    "INSERT INTO c VALUES (1, 1)",
    "INSERT INTO g VALUES (101, 1, NULL)",
    "DELETE FROM q WHERE id = 9",
)
_DROP = "ALTER TABLE c DROP FOREIGN KEY c_p"
_ADD = "ALTER TABLE c ADD CONSTRAINT c_p FOREIGN KEY (pid) REFERENCES p (id) ON DELETE CASCADE"


@pytest.mark.parametrize(
    "before, statements",
    [
        pytest.param((), ("BEGIN", *_AGAIN, "COMMIT"), id="there again, in one transaction"),
        pytest.param((), _AGAIN, id="there again"),
        pytest.param(
            (),
            ("DELETE FROM p WHERE id = 3", "SET foreign_key_checks = 0", "INSERT INTO g VALUES (103, 3, NULL)"),
            id="an orphan",
        ),
        pytest.param((), ("DELETE FROM p WHERE id = 5", _DROP), id="a key that is gone"),
        pytest.param((), ("DELETE FROM p WHERE id = 5", "ALTER TABLE c DROP CONSTRAINT c_p"), id="a constraint"),
        pytest.param(
            (_DROP,),
            ("DELETE FROM p WHERE id = 7", "UPDATE c SET pid = NULL WHERE pid = 7", _ADD),
            id="a key that was not there yet",
        ),
    ],
)
def test_what_hangs_on_a_child(
    tmp_path: Path, mariadb118: Server, pg15: Server, before: tuple[str, ...], statements: tuple[str, ...]
) -> None:
    """Rows two steps from the parent, which no image of theirs brings back, nor takes away."""
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
            for statement in (
                "CREATE TABLE p (id INT PRIMARY KEY)",
                "CREATE TABLE q (id INT PRIMARY KEY)",
                "CREATE TABLE c (id INT PRIMARY KEY, pid INT)",
                _ADD,
                (
                    "CREATE TABLE g (id INT PRIMARY KEY, cid INT, qid INT, FOREIGN KEY (cid) REFERENCES c (id) "
                    "ON DELETE CASCADE, FOREIGN KEY (qid) REFERENCES q (id) ON DELETE CASCADE)"
                ),
                "INSERT INTO p SELECT seq FROM seq_1_to_9",
                "INSERT INTO q SELECT seq FROM seq_1_to_9",
                "INSERT INTO c SELECT seq, seq FROM seq_1_to_9",
                "INSERT INTO g SELECT seq, seq, seq FROM seq_1_to_9",
                *before,
            ):
                cursor.execute(statement)
            connection.commit()
            made.catch_up()
            connection.autocommit(True)
            for statement in statements:
                cursor.execute(statement)
        made.catch_up()
        made.assert_equal("p", "q", "c", "g")
        assert set(_states(made).values()) == {"ready"}


def test_a_checkpoint_that_is_set_back_loads_the_children_again(
    tmp_path: Path, mariadb118: Server, pg15: Server
) -> None:
    """Done again, a cascade would take rows that came later, and of which no image comes again."""
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}

        def write(*statements: str) -> None:
            for statement in statements:
                made.source.execute(statement, database=made.source_database)

        write(
            "CREATE TABLE p (id INT PRIMARY KEY)",
            "CREATE TABLE c (id INT PRIMARY KEY, pid INT, FOREIGN KEY (pid) REFERENCES p (id) ON DELETE CASCADE)",
            "CREATE TABLE g (id INT PRIMARY KEY, cid INT, FOREIGN KEY (cid) REFERENCES c (id) ON DELETE CASCADE)",
            "INSERT INTO p VALUES (1), (300), (301)",
            "INSERT INTO c VALUES (300, 301)",
            "INSERT INTO g VALUES (300, 300)",
        )
        made.catch_up()
        place = made.status()["sinks"][0]["position"]["gtid"]
        write("DELETE FROM p WHERE id = 300", "INSERT INTO p VALUES (300)", "UPDATE c SET pid = 300 WHERE id = 300")
        made.catch_up()
        done = made.run("checkpoint", "set", place, "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("foreign keys change its rows in no event") == 2
        made.catch_up()
        made.assert_equal("p", "c", "g")


def test_what_the_sink_refuses_parks_the_child(tmp_path: Path, mariadb118: Server, pg15: Server) -> None:
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        for statement in (
            "CREATE TABLE p (id INT PRIMARY KEY)",
            "CREATE TABLE c (id INT PRIMARY KEY, pid INT, FOREIGN KEY (pid) REFERENCES p (id) ON DELETE CASCADE)",
            "INSERT INTO p VALUES (1), (2)",
            "INSERT INTO c VALUES (1, 1), (2, 2)",
        ):
            made.source.execute(statement, database=made.source_database)
        made.catch_up()
        server, database = made.sinks["pg"]
        name = f'"{made.source_database}"'
        server.execute(f"CREATE TABLE {name}.mine (c integer REFERENCES {name}.c (id))", database=database)
        server.execute(f"INSERT INTO {name}.mine VALUES (1)", database=database)
        made.source.execute("DELETE FROM p WHERE id = 1", database=made.source_database)
        made.source.execute("INSERT INTO p VALUES (7)", database=made.source_database)
        assert made.run("run", "--until-caught-up").returncode == 1
        assert _states(made) == {"p": "ready", "c": "parked"}
        assert "mine" in _error(made, "c")
        assert made.sink_rows("pg", "p") == [(2,), (7,)]


@pytest.mark.crash
@pytest.mark.in_turn
@pytest.mark.parametrize("point", ["before_cascade", "before_statement", "before_commit", "after_commit"])
def test_kills_between_rows_and_what_follows_from_them(family: Deployment, point: str) -> None:
    family.catch_up()
    writer = Writer(family, len(point))
    writer.write(30)
    for count in (1, 4, 9):
        process = family.start(crash_at=f"{point}:{count}")
        while process.poll() is None:
            writer.write(3)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)  # it is to come to the point, not to catch up with a faster writer
        family.wait_until_killed()
    family.catch_up()
    family.assert_equal(*TABLES)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.full) for n in range(2, 6))])
def test_writes_while_parents_and_children_are_loaded(family: Deployment, seed: int) -> None:
    """Their loads are of different moments; what acts between these is not lost, nor done to rows that came later."""
    family.config["snapshot"] = {"chunk_rows": 100}
    writer = Writer(family, seed)
    writer.write(100)
    family.start()
    family.wait_for_log("table_loaded", count=len(TABLES) * len(family.sinks))
    for tables in (("c",), ("p", "g"), ("i", "d", "tree"), ("p",)):
        writer.write(30)
        command = ("snapshot", *(f"{family.source_database}.{table}" for table in tables))
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(family.run, *command)
            while not loading.done():
                writer.write(3)
                concurrent.futures.wait([loading], 0.1)
        done = loading.result()
        assert done.returncode == 0 or "is pending" in done.stderr, done.stderr
    writer.write(20)
    family.stop()
    family.catch_up()
    family.assert_equal(*TABLES)
    assert set(_states(family).values()) == {"ready"}


def test_foreign_keys_that_come_and_go(family: Deployment) -> None:
    """The stream is further back than the source, and followed by the foreign keys of now until it meets their DDL."""
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("CREATE TABLE later (id INT PRIMARY KEY, p INT NULL)")
    execute("INSERT INTO p VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, NULL, 'c')")
    execute("INSERT INTO c VALUES (1, 1, 0), (2, 2, 0), (3, 3, 0)")
    execute("INSERT INTO later VALUES (1, 1), (2, 2), (3, 3)")
    family.catch_up()
    name = execute(
        "SELECT CONSTRAINT_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME = 'p' AND "
        f"TABLE_NAME = 'c' AND TABLE_SCHEMA = '{family.source_database}'"
    )[0][0]
    execute("DELETE FROM p WHERE id = 1")  # what it does to c is known no more when the stream comes here
    execute(f"ALTER TABLE c DROP FOREIGN KEY {name}")
    execute("DELETE FROM p WHERE id = 2")  # c keeps its row
    execute("DELETE FROM later WHERE id < 3")
    execute("ALTER TABLE later ADD CONSTRAINT new_one FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE")
    execute("INSERT INTO p VALUES (4, NULL, 'd')")
    execute("INSERT INTO later VALUES (4, 4)")
    execute("DELETE FROM p WHERE id IN (3, 4)")
    family.catch_up()
    family.assert_equal(*TABLES, "later")
    execute("INSERT INTO p VALUES (5, NULL, 'd')")
    execute("INSERT INTO later VALUES (5, 5)")
    execute("DELETE FROM p WHERE id = 5")
    family.catch_up()
    family.assert_equal(*TABLES, "later")


def test_a_child_that_is_reached_in_two_ways_of_which_one_has_to_be_the_first(family: Deployment) -> None:
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute(
        "CREATE TABLE both_ways (id INT PRIMARY KEY, p INT, n INT, "
        "CONSTRAINT b1 FOREIGN KEY (p, n) REFERENCES i (p, n) ON DELETE SET NULL, "
        "CONSTRAINT b2 FOREIGN KEY (p) REFERENCES p (id) ON DELETE SET NULL)"
    )
    execute("INSERT INTO p VALUES (1, NULL, 'a')")
    execute("INSERT INTO i VALUES (1, 5, 0)")
    execute("INSERT INTO both_ways VALUES (1, 1, 5)")
    for statement in ("DELETE FROM p WHERE id = 99", "DELETE FROM p WHERE id = 1"):
        execute(statement)
        assert family.run("run", "--until-caught-up").returncode == 1  # one table is parked
    family.assert_equal(*TABLES)
    assert _states(family)["both_ways"] == "parked"
    assert "by b1 and b2, and what comes first decides" in _error(family, "both_ways")


def test_lanes_that_are_dealt_keep_parents_and_children_together(family: Deployment) -> None:
    for sink in family.config["sinks"]:
        sink["lanes"] = 3
    family.source.execute("CREATE TABLE alone (id INT PRIMARY KEY)", database=family.source_database)
    family.catch_up()
    lanes = {one["table"].split(".")[-1]: one["lane"] for one in family.status()["tables"] if one["sink"] == "pg"}
    assert len({lanes[table] for table in TABLES if table not in ("tree", "twig")}) == 1
    assert lanes["tree"] == lanes["twig"]
    Writer(family, 5).write(60)
    family.catch_up()
    family.assert_equal(*TABLES)
    assert set(_states(family).values()) == {"ready"}


def _lanes(made: Deployment) -> dict[str, int]:
    return {one["table"].split(".")[-1]: one["lane"] for one in made.status()["tables"] if one["sink"] == "pg"}


def _start(made: Deployment, table: str, values: str) -> None:
    """Once it returns, the lanes have been dealt: a row has come through one of each sink."""
    made.start()
    made.source.execute(f"INSERT INTO {table} VALUES {values}", database=made.source_database)
    for sink in made.sinks:
        wait_until(functools.partial(_has_rows_as_source, made, sink, table))


def _has_rows_as_source(made: Deployment, sink: str, table: str) -> bool:
    return len(made.sink_rows(sink, table)) == len(made.source_rows(table))


def _wait_for_states(made: Deployment, tables: Collection[str], state: str) -> None:
    for sink in made.sinks:
        wait_until(
            lambda sink=sink: {_states(made, sink).get(table) for table in tables} == {state},  # type: ignore[misc]
            what=lambda: str(made.status()["tables"]),
        )


def test_a_child_that_comes_while_lanes_run_goes_to_its_parents(family: Deployment) -> None:
    """Not to the lane that has fewest: one lane does both what a parent's rows say and what follows from them."""
    for sink in family.config["sinks"]:
        sink["lanes"] = 3
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("CREATE TABLE alone (id INT PRIMARY KEY)")
    family.catch_up()
    _start(family, "alone", "(1)")
    execute("CREATE TABLE late (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)")
    execute("CREATE TABLE later (id INT PRIMARY KEY, l INT, FOREIGN KEY (l) REFERENCES late (id) ON DELETE CASCADE)")
    execute("INSERT INTO p VALUES (901, NULL, 'a'), (902, NULL, 'b')")
    execute("INSERT INTO late VALUES (1, 901), (2, 902)")
    execute("INSERT INTO later VALUES (1, 1), (2, 2)")
    execute("DELETE FROM p WHERE id = 901")
    _wait_for_states(family, ("late", "later"), "ready")
    assert family.stop() == 0
    family.catch_up()
    family.assert_equal(*TABLES, "late", "later")
    lanes = _lanes(family)
    assert lanes["late"] == lanes["later"] == lanes["p"] != lanes["alone"]


def test_a_child_that_becomes_one_in_another_lane_is_dealt_to_its_parents_by_a_start(family: Deployment) -> None:
    """A table does not change lanes while they run: it is parked, and the hint says how it goes on."""
    for sink in family.config["sinks"]:
        sink["lanes"] = 3
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("CREATE TABLE alone (id INT PRIMARY KEY, p INT)")
    execute("INSERT INTO p VALUES (901, NULL, 'a'), (902, NULL, 'b')")
    execute("INSERT INTO alone VALUES (1, 901), (2, 902)")
    family.catch_up()
    _start(family, "alone", "(3, NULL)")
    execute("ALTER TABLE alone ADD FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE")
    execute("DELETE FROM p WHERE id = 901")
    _wait_for_states(family, ["alone"], "parked")
    assert "stop and start the service, which deals them to one" in _error(family, "alone")
    assert family.stop() == 0
    family.start()
    family.wait_for_log("lanes_dealt", count=2)
    assert family.run("snapshot", f"{family.source_database}.alone").returncode == 0
    execute("DELETE FROM p WHERE id = 902")
    assert family.stop() == 0
    family.catch_up()
    family.assert_equal(*TABLES, "alone")
    lanes = _lanes(family)
    assert lanes["alone"] == lanes["p"]


@pytest.mark.full
def test_a_child_that_is_renamed_behind_what_happened_to_it(family: Deployment) -> None:
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("INSERT INTO p VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, NULL, 'c')")
    execute("INSERT INTO c VALUES (1, 1, 0), (2, 2, 0), (3, 3, 0)")
    family.catch_up()
    execute("DELETE FROM p WHERE id = 1")
    execute("RENAME TABLE c TO c2")
    execute("DELETE FROM p WHERE id = 2")
    family.catch_up()
    execute("DELETE FROM p WHERE id = 3")
    family.catch_up()
    family.assert_equal("c2", *(table for table in TABLES if table != "c"))


@pytest.mark.full
def test_a_parent_that_is_parked_takes_its_children_along(family: Deployment) -> None:
    family.config["policies"]["zero_dates"] = "error"
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("ALTER TABLE i ADD COLUMN at DATE NULL")
    execute("INSERT INTO p VALUES (1, NULL, 'a')")
    execute("INSERT INTO i VALUES (1, 1, 1, NULL)")
    execute("INSERT INTO d VALUES (1, 1, 1)")
    family.catch_up()
    execute("SET STATEMENT sql_mode = '' FOR UPDATE i SET at = '0000-00-00'")
    result = family.run("run", "--until-caught-up")
    assert result.returncode == 1
    states = _states(family)
    assert (states["i"], states["d"], states["p"]) == ("parked", "parked", "ready")
    assert "not followed by the same stream" in _error(family, "d")
    execute("DELETE FROM p WHERE id = 1")
    database = family.source_database
    assert family.run("snapshot", f"{database}.i", f"{database}.d").returncode == 0
    family.catch_up()
    family.assert_equal(*TABLES)


def test_where_cascades_are_logged_they_are_not_done_twice(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    with deployment(tmp_path, mysql97, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        for statement in FAMILY:
            made.source.execute(statement, database=made.source_database)
        made.catch_up()
        for statement in (
            "INSERT INTO p VALUES (1, 7, 'a'), (2, 8, 'b')",
            "INSERT INTO c VALUES (1, 1, 1), (2, 2, 2)",
            "INSERT INTO g VALUES (1, 1, 1), (2, 2, 2)",
            "INSERT INTO s VALUES (1, 7), (2, 8)",
            "UPDATE p SET id = 5 WHERE id = 2",
            "DELETE FROM p WHERE id = 1",
        ):
            made.source.execute(statement, database=made.source_database)
        made.catch_up()
        made.assert_equal(*TABLES)
        assert _policy_counts(made, "c") == [0]


@pytest.mark.parametrize("policy", ["apply", pytest.param("park", marks=pytest.mark.full)])
def test_a_server_that_is_started_again_and_logs_cascades_no_more(
    tmp_path: Path, policy: str, start_server: Callable[..., Server], pg15: Server
) -> None:
    """While the service runs: the next session sees it, whatever an earlier one has been told.

    A transaction that is committed in one phase is applied there as any other, which only MySQL logs as XA.
    """
    source = start_server("mysql97")
    with deployment(tmp_path, source, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": policy}
        database = made.source_database
        for statement in (
            *FAMILY[:2],
            "INSERT INTO p VALUES (1, 7, 'a'), (2, 8, 'b')",
            "INSERT INTO c VALUES (1, 1, 1), (2, 2, 2)",
        ):
            source.execute(statement, database=database)
        made.start()
        made.wait_for_log("table_ready", count=2)
        source.restart(options={"innodb_native_foreign_keys": "ON"})
        source.execute("DELETE FROM p WHERE id = 1", database=database)
        made.wait_for_log("hidden_cascades_applied" if policy == "apply" else "table_parked")
        with contextlib.closing(source.connect(database)) as connection, connection.cursor() as cursor:
            for statement in ("XA START 'x'", "DELETE FROM p WHERE id = 2", "XA END 'x'", "XA COMMIT 'x' ONE PHASE"):
                cursor.execute(statement)
        made.stop()
        assert made.run("run", "--until-caught-up").returncode == (policy == "park")  # where one table is parked
        if policy == "apply":
            made.assert_equal("p", "c")
        else:
            made.assert_equal("p")
            assert "without any event" in _error(made, "c")
        assert _states(made) == {"p": "ready", "c": "ready" if policy == "apply" else "parked"}


def test_children_that_are_loaded_while_a_parent_is_prepared(tmp_path: Path, mariadb118: Server, pg15: Server) -> None:
    """No load before the XA COMMIT has seen what becomes of their rows."""
    with deployment(tmp_path, mariadb118, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        database = made.source_database
        for statement in (
            *FAMILY[:3],
            "INSERT INTO p VALUES (1, 7, 'a'), (2, 8, 'b')",
            "INSERT INTO c VALUES (1, 1, 1), (2, 2, 2)",
            "INSERT INTO g VALUES (1, 1, 1), (2, 2, 2)",
        ):
            made.source.execute(statement, database=database)
        made.catch_up()
        with contextlib.closing(made.source.connect(database)) as connection, connection.cursor() as cursor:
            for statement in ("XA START '{}'", "DELETE FROM p WHERE id = 1", "XA END '{}'", "XA PREPARE '{}'"):
                cursor.execute(statement.format(database))
        try:
            assert made.run("snapshot", f"{database}.c", f"{database}.g").returncode == 0
        finally:
            made.source.execute(f"XA COMMIT '{database}'")
        made.catch_up()
        made.assert_equal("p", "c", "g")
        assert set(_states(made).values()) == {"ready"}


def test_children_whose_cascades_are_accepted_are_not_loaded_again_behind_each_xa(
    tmp_path: Path, mariadb1011: Server, pg15: Server
) -> None:
    """A parent that nobody follows changes in XA transactions; another table's cascades are applied."""
    with deployment(tmp_path, mariadb1011, pg=pg15) as made:
        database = made.source_database
        made.config["policies"] = {"hidden_cascades": "apply"}
        made.config["tables"] |= {
            "exclude": [f"{database}.away"],
            "overrides": [{"table": f"{database}.accepting", "hidden_cascades": "accept"}],
        }
        for statement in (
            *FAMILY[:2],
            "CREATE TABLE away (id INT PRIMARY KEY)",
            (
                "CREATE TABLE accepting (id INT PRIMARY KEY, a INT, FOREIGN KEY (a) REFERENCES away (id) "
                "ON DELETE CASCADE)"
            ),
            "INSERT INTO p VALUES (1, 7, 'a')",
        ):
            made.source.execute(statement, database=database)
        made.catch_up()
        with contextlib.closing(made.source.connect(database)) as connection, connection.cursor() as cursor:
            for key in (1, 2):
                for statement in (
                    "XA START '{}'",
                    f"INSERT INTO away VALUES ({key})",
                    f"INSERT INTO accepting VALUES ({key}, {key})",
                    "XA END '{}'",
                    "XA PREPARE '{}'",
                    "XA COMMIT '{}'",
                ):
                    cursor.execute(statement.format(database))
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        assert "prepared_rows_do_not_fit" not in result.stderr
        made.assert_equal("p", "c", "accepting")
        assert set(_states(made).values()) == {"ready"}


@pytest.mark.full
def test_images_without_what_a_foreign_key_refers_to_park_the_child(family: Deployment) -> None:
    """Of the primary key MINIMAL images are enough."""
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("INSERT INTO p VALUES (1, 7, 'a'), (2, 8, 'b')")
    execute("INSERT INTO c VALUES (1, 1, 1), (2, 2, 2)")
    execute("INSERT INTO s VALUES (1, 7), (2, 8)")
    family.catch_up()
    with family.source.connect(family.source_database) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION binlog_row_image = 'MINIMAL'")
        cursor.execute("UPDATE p SET id = 9 WHERE id = 1")
        cursor.execute("DELETE FROM p WHERE id = 2")
        connection.commit()
    assert family.run("run", "--until-caught-up").returncode == 1
    assert _states(family)["s"] == "parked"
    assert "lacks code" in _error(family, "s")
    family.assert_equal("p", "c", "g", "i", "d")
    assert family.run("snapshot", f"{family.source_database}.s").returncode == 0
    family.catch_up()
    family.assert_equal(*TABLES)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["mariadb118", "mysql97"])
def test_random_writes_at_other_servers_that_do_not_log_it(
    tmp_path: Path, kind: str, start_server: Callable[..., Server], pg15: Server
) -> None:
    """MySQL 9.7 as the versions before 9.6 are."""
    source = start_server(kind, options={"innodb_native_foreign_keys": "ON"} if kind == "mysql97" else {})
    with deployment(tmp_path, source, pg=pg15) as made:
        made.config["policies"] = {"hidden_cascades": "apply"}
        for statement in FAMILY:
            made.source.execute(statement, database=made.source_database)
        made.catch_up()
        writer = Writer(made, 11)
        for transactions in (200, 200):
            writer.write(transactions)
            made.catch_up()
            made.assert_equal(*TABLES)
        assert all(count > 0 for table in ("c", "g", "i", "d", "s", "tree") for count in _policy_counts(made, table))


@pytest.mark.full
def test_keys_of_bytes(family: Deployment) -> None:
    execute = functools.partial(family.source.execute, database=family.source_database)
    execute("CREATE TABLE bp (id BINARY(4) PRIMARY KEY)")
    execute(
        "CREATE TABLE bc (id VARBINARY(6) PRIMARY KEY, p BINARY(4) NULL, FOREIGN KEY (p) REFERENCES bp (id) "
        "ON DELETE CASCADE ON UPDATE CASCADE)"
    )
    execute(
        "CREATE TABLE bg (id INT PRIMARY KEY, c VARBINARY(6) NULL, FOREIGN KEY (c) REFERENCES bc (id) "
        "ON DELETE SET NULL ON UPDATE CASCADE)"
    )
    execute("INSERT INTO bp VALUES (X'00FF2500'), (X'01'), (X'0127')")
    execute("INSERT INTO bc VALUES (X'0000', X'00FF2500'), (X'00', X'01'), (X'5C27', X'0127')")
    execute("INSERT INTO bg VALUES (1, X'0000'), (2, X'00'), (3, X'5C27')")
    family.catch_up()
    execute("DELETE FROM bp WHERE id = X'00FF2500'")
    execute("UPDATE bp SET id = X'FF5C' WHERE id = X'01000000'")
    execute("UPDATE bc SET id = X'2500' WHERE id = X'5C27'")
    family.catch_up()
    family.assert_equal("bp", "bc", "bg")
    assert {_states(family)[table] for table in ("bp", "bc", "bg")} == {"ready"}
