"""ALTER TABLE of tables that keep rows (`mode`) and of those without a key: done in place, on real servers."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.ddl_targets import mark, on_sink, on_source, unmarked
from tests.support.deployment import Deployment, deployment

MODES = ("soft_delete", "history", "append_only")
COLUMNS = "id INT PRIMARY KEY, a INT NOT NULL, b VARCHAR(20)"


@pytest.fixture
def made(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mysql97, pg=pg15, my=mariadb1011) as one:
        yield one


def _begin(made: Deployment, mode: str, columns: str = COLUMNS) -> None:
    """Rows 1, 3 and 5 are there, and nothing comes to 5 later; 2 was, and is kept."""
    made.config["tables"]["overrides"] = [{"table": f"{made.source_database}.t", "mode": mode}]
    on_source(made, f"CREATE TABLE t ({columns})")
    on_source(made, "INSERT INTO t (id, a, b) VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three'), (5, 50, 'five')")
    made.catch_up()
    on_source(made, "DELETE FROM t WHERE id = 2")
    on_source(made, "UPDATE t SET a = 11 WHERE id = 1")
    made.catch_up()


def _log(made: Deployment) -> str:
    result = made.run("run", "--until-caught-up")
    assert result.returncode == 0, result.stderr
    return result.stderr


def _loads(log: str) -> int:
    return log.count('"event": "table_loaded"')


def _rows(made: Deployment, sink: str, columns: str, where: str = "1 = 1") -> list[Any]:
    return sorted(map(tuple, on_sink(made, sink, f"SELECT {columns} FROM {{0}}t WHERE {where}")), key=repr)


LIVE = {
    "soft_delete": "_cdc_deleted_at IS NULL",
    "history": "_cdc_valid_to IS NULL",
    # The last change of a key, where that is none by which it went.
    "append_only": "_cdc_operation NOT IN ('delete', 'reload') AND _cdc_sequence IN "
    "(SELECT MAX(_cdc_sequence) FROM {0}t GROUP BY id)",
}


def _require_live(made: Deployment, mode: str, columns: list[str]) -> None:
    expected = made.source_rows("t", columns)
    for sink in made.sinks:
        assert _rows(made, sink, ", ".join(columns), LIVE[mode]) == expected, sink


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_stays_and_no_reload_is_written(made: Deployment, mode: str) -> None:
    """Columns that come, go, get another name and become wider, each with changes of rows behind it."""
    _begin(made, mode)
    value = "NULL" if mode == "append_only" else "NOT NULL DEFAULT 7"
    on_source(made, f"ALTER TABLE t ADD COLUMN c INT {value} AFTER id, ADD INDEX (a), COMMENT = 'x'")
    on_source(made, "INSERT INTO t VALUES (4, 8, 40, 'four')")
    on_source(made, "ALTER TABLE t RENAME COLUMN a TO z, MODIFY b VARCHAR(200) COMMENT 'longer'")
    on_source(made, "UPDATE t SET z = 12, b = REPEAT('b', 100) WHERE id = 1")
    on_source(made, "ALTER TABLE t DROP COLUMN b, ADD COLUMN n BIGINT NULL")
    on_source(made, "UPDATE t SET n = 5 WHERE id = 3")
    on_source(made, "DELETE FROM t WHERE id = 4")
    log = _log(made)
    assert not _loads(log), log
    assert log.count('"event": "schema_followed"') == 3 * len(made.sinks)
    _require_live(made, mode, ["id", "c", "z", "n"])
    for sink in made.sinks:
        kept = _rows(made, sink, "id, c, z, b, n", "id = 2")
        assert kept[0] == (2, None, 20, "two", None), sink
        changes = _rows(made, sink, "id")
        assert len(changes) == {"soft_delete": 5, "history": 8, "append_only": 10}[mode], changes
    if mode != "append_only":
        result = made.run("verify", f"{made.source_database}.t")
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_value_of_every_row_is_a_load_of_an_append_only_target(made: Deployment) -> None:
    """The rows that are there are changes; the last one of a key says what became of it."""
    _begin(made, "append_only")
    on_source(made, "ALTER TABLE t ADD COLUMN c INT NOT NULL DEFAULT 7")
    assert _loads(_log(made)) == len(made.sinks)
    _require_live(made, "append_only", ["id", "a", "b", "c"])


def test_truncate_of_what_is_kept_is_a_load(made: Deployment) -> None:
    _begin(made, "soft_delete")
    on_source(made, "TRUNCATE TABLE t")
    assert _loads(_log(made)) == len(made.sinks)
    for sink in made.sinks:
        assert len(_rows(made, sink, "id")) == 4
        assert not _rows(made, sink, "id", LIVE["soft_delete"])


@pytest.mark.crash
@pytest.mark.in_turn
@pytest.mark.parametrize(
    "point", ["schema_intent", "schema_altered", pytest.param("schema_recorded", marks=pytest.mark.full)]
)
@pytest.mark.parametrize("mode", ["soft_delete", pytest.param("history", marks=pytest.mark.full)])
@pytest.mark.parametrize("sink_name", ["pg15", "mariadb1011", "mysql97"])
def test_a_kill_around_a_column_that_comes_with_a_value(
    tmp_path: Path, mysql97: Server, mode: str, point: str, sink_name: str, request: pytest.FixtureRequest
) -> None:
    """On the MySQL family the column is there before its values are."""
    sink: Server = request.getfixturevalue(sink_name)
    if point == "schema_intent" and sink.family == "postgresql":
        pytest.skip("PostgreSQL needs no intent: its DDL is part of the transaction")
    with deployment(tmp_path, mysql97, sink=sink) as made:
        _begin(made, mode)
        on_source(made, "ALTER TABLE t ADD COLUMN c VARCHAR(9) NOT NULL DEFAULT 'it''s'")
        killed = made.run("run", "--until-caught-up", crash_at=point)
        on_source(made, "UPDATE t SET c = 'new' WHERE id = 3")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not _loads(_log(made))
        _require_live(made, mode, ["id", "a", "b", "c"])
        assert _rows(made, "sink", "c", "id = 2") == [(None,)]
        result = made.run("verify", f"{made.source_database}.t")
        assert result.returncode == 0, result.stdout + result.stderr


# ---------------------------------------------------------------- without a key


def test_alter_of_a_table_without_a_key_is_done_in_place(made: Deployment) -> None:
    """Rows are told apart by all columns: those that were there are found by the new ones, too."""
    on_source(made, "CREATE TABLE t (id INT, a INT NOT NULL, b VARCHAR(20), e ENUM('x', 'y'))")
    on_source(
        made, "INSERT INTO t VALUES (1, 10, 'one', 'x'), (1, 10, 'one', 'x'), (2, 20, NULL, 'y'), (3, 30, 'c', NULL)"
    )
    made.catch_up()
    mark(made, "t")
    on_source(made, "ALTER TABLE t ADD COLUMN c DECIMAL(8,2) NOT NULL DEFAULT 1.50 FIRST, ADD COLUMN d DATE NULL")
    on_source(made, "DELETE FROM t WHERE id = 1 LIMIT 1")
    on_source(
        made,
        "ALTER TABLE t RENAME COLUMN a TO z, MODIFY b VARCHAR(200), MODIFY e ENUM('x', 'y', 'w'), MODIFY id BIGINT",
    )
    on_source(made, "UPDATE t SET z = 12, e = 'w' WHERE id = 2")
    on_source(made, "ALTER TABLE t DROP COLUMN b, MODIFY c DECIMAL(12,2) NOT NULL DEFAULT 2.50")
    on_source(made, "INSERT INTO t (id, z, e) VALUES (3, 30, NULL)")
    on_source(made, "DELETE FROM t WHERE id = 3 LIMIT 1")
    log = _log(made)
    assert not _loads(log), log
    made.assert_equal("t")
    for sink in made.sinks:
        assert unmarked(made, sink, "t") <= 2, "rows that did not change were not written again"
    on_source(made, "ALTER TABLE t ADD UNIQUE KEY (z), MODIFY z INT NOT NULL")
    made.catch_up()
    made.assert_equal("t")


@pytest.mark.crash
@pytest.mark.in_turn
@pytest.mark.parametrize(
    "point",
    [
        pytest.param("schema_intent", marks=pytest.mark.full),
        "schema_altered",
        pytest.param("schema_recorded", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("sink_name", ["mariadb1011", "pg15", "mysql97"])
def test_a_kill_around_an_alter_of_a_table_without_a_key(
    tmp_path: Path, mysql97: Server, point: str, sink_name: str, request: pytest.FixtureRequest
) -> None:
    sink: Server = request.getfixturevalue(sink_name)
    if point == "schema_intent" and sink.family == "postgresql":
        pytest.skip("PostgreSQL needs no intent: its DDL is part of the transaction")
    with deployment(tmp_path, mysql97, sink=sink) as made:
        on_source(made, "CREATE TABLE t (a INT, b VARCHAR(20))")
        on_source(made, "INSERT INTO t VALUES (1, 'one'), (1, 'one'), (2, NULL)")
        made.catch_up()
        made.start(crash_at=point)
        on_source(made, "ALTER TABLE t ADD COLUMN c VARCHAR(9) NOT NULL DEFAULT 'it''s', MODIFY b TEXT")
        on_source(made, "DELETE FROM t WHERE a = 1 LIMIT 1")
        made.wait_until_killed()
        made.start()
        on_source(made, "UPDATE t SET c = 'new'")
        wait_until(lambda: made.source_rows("t") == made.sink_rows("sink", "t"))
        assert made.stop() == 0
        assert not _loads(made.log()), made.log()[-3000:]


# ---------------------------------------------------------------- at random


class _Alters:
    """Actions that are followed, on tables with the same columns, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names = {"a": "INT", "b": "VARCHAR(20)"}
        self._count = 0

    def next(self) -> str:
        self._count += 1
        name, kind = f"c{self._count}", self._random.choice(("add", "add", "add", "drop", "rename", "widen"))
        if kind == "add" or len(self._names) < 3:
            text = self._random.choice(
                ("INT NULL", "INT NOT NULL DEFAULT 7", "VARCHAR(9) NOT NULL DEFAULT 'so'", "DATE NULL")
            )
            self._names[name] = text
            return f"ADD COLUMN {name} {text}{self._random.choice(('', ' FIRST'))}"
        old = self._random.choice(sorted(self._names))
        text = self._names.pop(old)
        if kind == "drop":
            return f"DROP COLUMN {old}"
        if kind == "rename":
            self._names[name] = text
            return f"RENAME COLUMN {old} TO {name}"
        wide = (
            text.replace("INT", "BIGINT")
            if text.startswith("INT")
            else text.replace("(9)", "(19)").replace("(20)", "(40)")
        )
        self._names[old] = wide
        return f"MODIFY {old} {wide}"


@pytest.mark.crash
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (2, 3))])
def test_random_alters_with_rows_and_kills_end_equal_without_a_load(made: Deployment, seed: int) -> None:
    """One row of statements on a table of each mode, and on one without a key."""
    tables = {"s": "soft_delete", "h": "history", "k": "mirror"}
    made.config["tables"]["overrides"] = [
        {"table": f"{made.source_database}.{table}", "mode": mode} for table, mode in tables.items()
    ]
    for table in tables:
        key = "INT" if table == "k" else "INT PRIMARY KEY"
        on_source(made, f"CREATE TABLE {table} (id {key}, a INT, b VARCHAR(20))")
        on_source(made, f"INSERT INTO {table} (id, a) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)")
    made.catch_up()
    alters, number, choose = _Alters(seed), 5, random.Random(seed)
    for point in ("schema_altered:3", "schema_intent:2", "schema_recorded:4", "before_commit:9"):
        made.start(crash_at=point)
        for _ in range(4):
            clause = alters.next()
            for table in tables:
                on_source(made, f"ALTER TABLE {table} {clause}")
                number += 1
                on_source(made, f"INSERT INTO {table} (id) VALUES ({number})")
                on_source(made, f"UPDATE {table} SET id = id + 1000 WHERE id = {choose.randint(1, number)}")
                on_source(made, f"DELETE FROM {table} WHERE id = {choose.randint(1, number)}")
        made.wait_until_killed()
    log = _log(made)
    assert not _loads(log + made.log()), log
    assert "definition_worked_out_wrong" not in log + made.log()
    made.assert_equal("k")
    result = made.run("verify")
    assert result.returncode == 0, result.stdout + result.stderr
