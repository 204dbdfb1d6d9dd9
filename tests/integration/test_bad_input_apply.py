"""What the sink does not take: the table is parked with all that an operator needs, or the transaction tried again.

A refusal is the table's: it is set aside with table, key, column, value and a hint, its rows stay as they were, the
rows of the other tables arrive, and `cdc snapshot` brings it back. What passes by itself (a lock, a full disk) is tried
again, the whole transaction, until it has passed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.beside import Beside
from tests.support.deployment import Deployment, deployment
from tests.support.pool import ServerPool

pytestmark = pytest.mark.integration

PLACES = {"pg15": "mysql97", "mariadb1011": "mysql97", "mysql97": "mariadb1011"}  # sink: source


@dataclass(frozen=True, slots=True)
class Refusal:
    """What somebody did to the target `{t}`, and the rows that it then refuses.

    `values` are the source's rows; `key` and `column` are what the error has to name (None: nothing to name);
    `words` stand in its message. `mend` makes the target take the rows.
    """

    postgresql: tuple[str, ...]
    mysql: tuple[str, ...]
    values: str
    key: str | None
    column: str | None = None
    value: str | None = None
    words: tuple[str, ...] = ()
    mend: str = ""


_ROWS = "(6, 'fine', 1), (7, 'refused', 300), (8, 'fine', 2)"
REFUSALS = {
    "check_constraint": Refusal(
        ("ALTER TABLE {t} ADD CONSTRAINT polite CHECK (v <> 'refused')",),
        ("ALTER TABLE {t} ADD CONSTRAINT polite CHECK (v <> 'refused')",),
        _ROWS,
        key="id=7",
        words=("polite",),
        mend="ALTER TABLE {t} DROP CONSTRAINT polite",
    ),
    "too_small": Refusal(
        ("ALTER TABLE {t} ALTER COLUMN v TYPE varchar(5)",),
        ("ALTER TABLE {t} MODIFY v VARCHAR(5)",),
        _ROWS,
        key="id=7",
        column="v",
        value="'refused'",
    ),
    "out_of_range": Refusal(
        ("ALTER TABLE {t} ALTER COLUMN n TYPE smallint",),
        ("ALTER TABLE {t} MODIFY n SMALLINT",),
        _ROWS.replace("300", "70000"),
        key="id=7",
        column="n",
        value="70000",
    ),
    "not_null": Refusal(
        ("ALTER TABLE {t} ALTER COLUMN v SET NOT NULL",),
        ("ALTER TABLE {t} MODIFY v VARCHAR(20) NOT NULL",),
        _ROWS.replace("'refused'", "NULL"),
        key="id=7",
        column="v",
        value="NULL",
    ),
    "other_type": Refusal(
        ("ALTER TABLE {t} ALTER COLUMN v TYPE integer USING NULL",),
        ("ALTER TABLE {t} DROP COLUMN v, ADD COLUMN v INT",),
        _ROWS.replace("'fine'", "'12'"),
        key=None,
        words=("v",),
    ),
    "trigger_objects": Refusal(
        (
            (
                "CREATE FUNCTION {t}_objects() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN IF NEW.v = 'refused' THEN RAISE 'the trigger objects'; END IF; RETURN NEW; END $$"
            ),
            "CREATE TRIGGER objects BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_objects()",
        ),
        (
            (
                "CREATE TRIGGER {t}_objects BEFORE INSERT ON {t} FOR EACH ROW IF NEW.v = 'refused' THEN "
                "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the trigger objects'; END IF"
            ),
        ),
        _ROWS,
        key="id=7",
        words=("the trigger objects",),
    ),
    "another_unique_index": Refusal(
        ("ALTER TABLE {t} ADD CONSTRAINT only_here UNIQUE (n)",),
        ("ALTER TABLE {t} ADD CONSTRAINT only_here UNIQUE (n)",),
        "(6, 'fine', 1), (7, 'refused', 1), (8, 'fine', 2)",
        key="id=7",
        words=("only_here",),
        mend="ALTER TABLE {t} DROP CONSTRAINT only_here",
    ),
    "missing_column": Refusal(
        ("ALTER TABLE {t} DROP COLUMN v",), ("ALTER TABLE {t} DROP COLUMN v",), _ROWS, key=None, words=("v",)
    ),
    "missing_table": Refusal(("DROP TABLE {t}",), ("DROP TABLE {t}",), _ROWS, key=None, words=("missing_table",)),
}


@dataclass(slots=True)
class Parked:
    """A deployment whose sink has refused rows of every table but one."""

    made: Deployment
    sink: Beside
    exit_code: int
    said: str
    errors: dict[str, Any]


@pytest.fixture(scope="module", params=PLACES)
def parked(
    request: pytest.FixtureRequest, server_pool: ServerPool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Parked]:
    """One transaction with rows for all of them, between two rows of the table that nothing is wrong with."""
    source, sink_server = server_pool.get(PLACES[request.param]), server_pool.get(request.param)
    with deployment(tmp_path_factory.mktemp("refused"), source, sink=sink_server) as made:
        for table in (*REFUSALS, "fine"):
            source.execute(
                f"CREATE TABLE {table} (id INT PRIMARY KEY, v VARCHAR(20) NULL, n INT NULL)",
                database=made.source_database,
            )
            source.execute(f"INSERT INTO {table} VALUES (1, '1', 0)", database=made.source_database)
        made.config["targets"] = {"indexes": "none"}  # else each session looks at its targets anew
        made.start()
        sink = Beside(made)
        # Each target is looked at once when it is ready, one at the least between two rows. What is altered then is met
        # by the rows themselves.
        wait_until(lambda: {one["state"] for one in made.status()["tables"]} == {"ready"}, 60, "all to be ready")
        for row in range(len(REFUSALS) + 2):
            source.execute(f"INSERT INTO fine VALUES ({10 + row}, 'a look', {10 + row})", database=made.source_database)
            wait_until(functools.partial(_has_rows, sink, row + 2), 60, "the row behind a look")
        for table, refusal in REFUSALS.items():
            for statement in refusal.postgresql if sink.is_postgresql else refusal.mysql:
                _execute(sink, table, statement)
        with contextlib.closing(source.connect(made.source_database, autocommit=False)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO fine VALUES (2, 'first', 2)")
                for table, refusal in REFUSALS.items():
                    cursor.execute(f"INSERT INTO {table} VALUES {refusal.values}")
                cursor.execute("INSERT INTO fine VALUES (3, 'last', 3)")
            connection.commit()
        wait_until(lambda: len(_errors(made)) == len(REFUSALS), 120, lambda: f"all to be parked: {_errors(made)}")
        wait_until(lambda: sink.count("fine") == len(REFUSALS) + 5, 60, "the rows of the other table")
        assert made.stop() == 0
        result = made.run("run", "--until-caught-up")
        errors = _errors(made)
        yield Parked(made, sink, result.returncode, result.stderr, errors)


def _has_rows(sink: Beside, count: int) -> bool:
    return sink.count("fine") == count


def _errors(made: Deployment) -> dict[str, Any]:
    """Those of the tables that are parked."""
    tables = made.status()["tables"]
    return {one["table"].partition(".")[2]: one["error"] for one in tables if one["state"] == "parked"}


def _execute(sink: Beside, table: str, statement: str) -> None:
    # The trigger's function stands beside the table under a name made from it.
    name = sink.table(table)
    sink.execute(statement.replace("{t}_objects", name[:-1] + "_objects" + name[-1]).replace("{t}", name))


@pytest.mark.parametrize("table", REFUSALS)
def test_a_refused_table_is_parked_with_what_an_operator_needs(parked: Parked, table: str) -> None:
    refusal, error = REFUSALS[table], parked.errors[table]
    name = f"{parked.made.source_database}.{table}"
    assert error["class"] == "SinkRefused"
    assert error["table"] == name
    assert error["position"]
    assert f"cdc snapshot {name}" in error["hint"]
    assert name in parked.said
    for word in refusal.words:
        assert word in error["message"]
    if refusal.key is not None:
        assert error["key"] == refusal.key
        assert refusal.key in error["message"]
    if refusal.column is not None:
        assert (error["column"], error["value"]) == (refusal.column, refusal.value)


@pytest.mark.parametrize("table", [table for table, refusal in REFUSALS.items() if refusal.key])
def test_what_was_refused_is_kept_for_inspection(parked: Parked, table: str) -> None:
    (values,) = [row for row in REFUSALS[table].values.replace("), (", ");(").split(";") if row.startswith("(7")]
    row = parked.errors[table]["row"]
    assert [row["id"], row["v"], row["n"]] == values.strip("()").split(", ")


@pytest.mark.parametrize("table", [table for table in REFUSALS if table != "missing_table"])
def test_nothing_of_the_transaction_is_in_a_parked_target(parked: Parked, table: str) -> None:
    assert parked.sink.execute(f"SELECT id FROM {parked.sink.table(table)}") in ([(1,)], ((1,),))


def test_the_other_tables_rows_of_the_same_transaction_arrive(parked: Parked) -> None:
    assert parked.exit_code == 1
    assert set(parked.errors) == set(REFUSALS)
    parked.made.assert_equal("fine")


def test_snapshot_brings_them_back(parked: Parked) -> None:
    """Where the target is in the way, an operator mends it; where it no longer fits, the load makes it anew."""
    made, sink = parked.made, parked.sink
    for table, refusal in REFUSALS.items():
        if refusal.mend:
            _execute(sink, table, refusal.mend)
    made.source.execute("UPDATE too_small SET v = 'still' WHERE id = 8", database=made.source_database)
    result = made.run("snapshot", *[f"{made.source_database}.{table}" for table in REFUSALS])
    assert result.returncode == 0, result.stderr
    made.catch_up()
    made.assert_equal(*REFUSALS, "fine")
    assert {(t["state"], t["error"]) for t in made.status()["tables"]} == {("ready", None)}


# ---------------------------------------------------------------- what passes by itself

_LOCK_SECONDS = 1
# How long the service waits for a lock is not for configuration: the one of this test is less patient.
_IMPATIENT = f"""
from cdc.cli import main
from cdc.sinks import mysql, postgres
assert postgres.LOCK_TIMEOUT_SECONDS > {_LOCK_SECONDS} and "innodb_lock_wait_timeout" in mysql._SESSION
postgres.LOCK_TIMEOUT_SECONDS = {_LOCK_SECONDS}
mysql._SESSION["innodb_lock_wait_timeout"] = "{_LOCK_SECONDS}"
main()
"""


@contextlib.contextmanager
def _small(tmp_path: Path, source: Server, sink: Server) -> Iterator[tuple[Deployment, Beside]]:
    """A deployment of three tables, loaded."""
    with deployment(tmp_path, source, sink=sink) as made:
        for table in ("first", "held", "last"):
            source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, v MEDIUMTEXT)", database=made.source_database)
            source.execute(f"INSERT INTO {table} VALUES (1, 'one'), (2, 'two')", database=made.source_database)
        made.catch_up()
        yield made, Beside(made)


def _write(made: Deployment, value: str) -> None:
    """One transaction over all three tables."""
    with contextlib.closing(made.source.connect(made.source_database, autocommit=False)) as connection:
        with connection.cursor() as cursor:
            for table in ("first", "held", "last"):
                cursor.execute(f"UPDATE {table} SET v = %s WHERE id = 1", (value,))
        connection.commit()


def _retries(made: Deployment) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in made.log().splitlines() if '"pipeline_retrying"' in line)
    return [line for line in lines if line["error_class"] == "SinkUnavailable"]


def _has(sink: Beside, value: str) -> bool:
    return all(
        sink.execute(f"SELECT count(*) FROM {sink.table(table)} WHERE id = 1 AND v = '{value}'")[0][0] == 1
        for table in ("first", "held", "last")
    )


@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011", "mysql97"])
def test_a_row_that_somebody_holds_is_waited_for_and_the_whole_transaction_tried_again(
    tmp_path: Path, request: pytest.FixtureRequest, sink_name: str
) -> None:
    source: Server = request.getfixturevalue("mysql97" if sink_name == "mariadb1011" else "mariadb1011")
    sink_server: Server = request.getfixturevalue(sink_name)
    with _small(tmp_path, source, sink_server) as (made, sink):
        command = made.command
        made.command = lambda *words: [sys.executable, "-c", _IMPATIENT, *command(*words)[3:]]  # type: ignore[method-assign]
        with sink.holding("held", 1) as holder:
            made.start()
            _write(made, "new")
            wait_until(lambda: len(_retries(made)) >= 3, 60, "three attempts")
            for table in ("first", "last"):
                assert sink.execute(f"SELECT v FROM {sink.table(table)} WHERE id = 1")[0][0] == "one"
            holder.release()
        wait_until(lambda: _has(sink, "new"), 60, "the transaction")
        retries = _retries(made)
        assert [retry["attempt"] for retry in retries] == list(range(1, len(retries) + 1))
        assert "55P03" in retries[0]["message"] if sink.is_postgresql else "1205" in retries[0]["message"]
        assert "table_parked" not in made.log()
        assert made.stop() == 0
        made.assert_equal("first", "held", "last")
        assert made.status()["sinks"][0]["error"] is None


@pytest.mark.full
def test_what_comes_back_again_and_again_is_said_and_stops_the_sink_where_that_is_asked_for(
    tmp_path: Path, mariadb118: Server, pg15: Server
) -> None:
    """Twenty seconds: each try waits a second for the lock. The rules themselves: tests/unit/pipeline/test_retry.py."""
    with _small(tmp_path, mariadb118, pg15) as (made, sink):
        command = made.command
        made.command = lambda *words: [sys.executable, "-c", _IMPATIENT, *command(*words)[3:]]  # type: ignore[method-assign]
        made.config["retry"] = {"initial_seconds": 0.01, "max_seconds": 0.01, "per_hour": 10}
        with sink.holding("held", 1):
            made.start()
            _write(made, "new")
            made.wait_for_log("retry_budget_spent")
            (retries,) = [one["retries"] for one in made.status()["sinks"]]
            assert (retries["last_hour"], retries["per_hour"], retries["is_spent"]) == (10, 10, True)
            assert made.stop() == 0  # in the middle of a pause of minutes

            made.config["retry"]["same_place_max"] = 3
            process = made.start()
            assert process.wait(120) == 1
            lines = [json.loads(line) for line in made.log().splitlines() if '"pipeline_failed"' in line]
            assert [line["error_class"] for line in lines] == ["RetriesSpent"]
            assert "3 sessions in a row have ended at the same place" in lines[0]["message"]
        made.config["retry"]["same_place_max"] = 0
        made.catch_up()
        made.assert_equal("first", "held", "last")


# ---------------------------------------------------------------- a full disk

_DISK_BYTES = 48 << 20
_WIDE_BYTES = 4_000_000


@contextlib.contextmanager
def _small_disk(server: Server) -> Iterator[str]:
    """A directory of the server's with a file system of a few megabytes under it."""
    assert server.directory is not None
    path = server.directory / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        owner = (server.directory / "data").stat()
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o700)
        yield str(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextlib.contextmanager
def _with_little_room(name: str, start_server: Callable[..., Server]) -> Iterator[Server]:
    """A server with room for a few megabytes."""
    if name != "pg15":
        space = f"ibdata1:12M:autoextend:max:{_DISK_BYTES >> 20}M"
        yield start_server(name, options={"innodb_file_per_table": 0, "innodb_data_file_path": space})
        return
    server = start_server(name)
    with _small_disk(server) as path:
        server.execute(f"CREATE TABLESPACE small LOCATION '{path}'")
        server.execute("ALTER ROLE postgres SET default_tablespace = 'small'")
        try:
            yield server
        finally:
            server.stop()


def _fill(sink: Beside) -> None:
    """Until not much more goes in; DROP TABLE wants a little room too."""
    filler = sink.table("filler")
    sink.execute(f"CREATE TABLE {filler} (id INT PRIMARY KEY, v {'text' if sink.is_postgresql else 'LONGTEXT'})")
    if sink.is_postgresql:
        for table in (filler, sink.table("held")):  # not compressed
            sink.execute(f"ALTER TABLE {table} ALTER COLUMN v SET STORAGE EXTERNAL")
    for size in (1_000_000, 200_000):
        with contextlib.suppress(psycopg2.errors.DiskFull, pymysql.err.OperationalError):
            while True:
                sink.execute(f"INSERT INTO {filler} SELECT count(*), REPEAT('x', {size}) FROM {filler}")


# Not MariaDB: once its system tablespace is full it drops no table either, and a full file system ends it.
@pytest.mark.parametrize("sink_name", ["pg15", "mysql97"])
def test_a_full_disk_is_waited_for(
    tmp_path: Path, request: pytest.FixtureRequest, start_server: Callable[..., Server], sink_name: str
) -> None:
    source: Server = request.getfixturevalue("mariadb1011")
    with (
        _with_little_room(sink_name, start_server) as sink_server,
        _small(tmp_path, source, sink_server) as (made, sink),
    ):
        _fill(sink)
        made.start()
        rows = ", ".join(f"({number}, REPEAT('{number}', {_WIDE_BYTES}))" for number in (3, 4))
        source.execute(f"INSERT INTO held VALUES {rows}", database=made.source_database)
        wait_until(lambda: len(_retries(made)) >= 2, 60, "two attempts")
        assert sink.count("held") == 2
        sink.execute(f"DROP TABLE {sink.table('filler')}")
        wait_until(lambda: sink.count("held") == 4, 60, "the rows")
        assert "make room on the sink's disk" in made.log()
        assert "table_parked" not in made.log()
        assert made.stop() == 0
        made.assert_equal("first", "held", "last")
