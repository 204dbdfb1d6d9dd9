"""Tables that keep what was, on real servers: soft delete, append-only and history, judged by a naive model.

The same random changes go to a table of each mode; a PostgreSQL and a MariaDB sink follow them.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.story import Story

MODES = {"soft": "soft_delete", "log": "append_only", "past": "history"}
SINKS = ("pg", "maria")
ROW = "a, b, v, note, amount"
DAY = datetime.timedelta(days=1)


@pytest.fixture
def kept(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server) -> Iterator[Kept]:
    """A table of each mode, on a PostgreSQL and a MariaDB sink."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011) as made:
        yield Kept(made)


@pytest.fixture
def one(tmp_path: Path, mysql97: Server, pg15: Server, mariadb1011: Server) -> Iterator[Kept]:
    """The same from MySQL alone."""
    with deployment(tmp_path, mysql97, pg=pg15, maria=mariadb1011) as made:
        yield Kept(made)


@pytest.fixture
def to_mysql(tmp_path: Path, mariadb1011: Server, mysql97: Server) -> Iterator[Kept]:
    """The same from MariaDB on a MySQL sink."""
    with deployment(tmp_path, mariadb1011, mysql=mysql97) as made:
        yield Kept(made)


class Kept:
    """The tables, what has been done to them, and what is there."""

    def __init__(self, made: Deployment, *, seed: int = 1) -> None:
        self.made = made
        self.story = Story(made.source, made.source_database, tuple(MODES), random.Random(seed))
        self.set_modes(MODES)

    def set_modes(self, modes: dict[str, str], **more: Any) -> None:
        self.made.config["tables"]["overrides"] = [
            {"table": f"{self.made.source_database}.{name}", "mode": mode, **more} for name, mode in modes.items()
        ]

    def execute(self, statement: str) -> None:
        """At the source, for each table: `{}`."""
        for name in MODES:
            self.made.source.execute(statement.format(name), database=self.made.source_database)

    def at_sink(self, sink: str, statement: str) -> None:
        """`{}` is the sink's schema or database."""
        server, database = self.made.sinks[sink]
        namespace = f'"{self.made.source_database}"' if sink == "pg" else f"`{database}`"
        server.execute(statement.format(namespace, namespace), database=database)

    def rows(self, sink: str, table: str, columns: str, order: str = "1") -> list[tuple[Any, ...]]:
        server, database = self.made.sinks[sink]
        quoted = f'"{self.made.source_database}"."{table}"' if sink == "pg" else f"`{database}`.`{table}`"
        with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SET timezone = 'UTC'" if sink == "pg" else "SET time_zone = '+00:00'")
            cursor.execute(f"SELECT {columns} FROM {quoted} ORDER BY {order}")
            return [tuple(map(_plain, row)) for row in cursor.fetchall()]

    def state(self, sink: str, table: str) -> dict[str, Any]:
        name = f"{self.made.source_database}.{table}"
        return next(t for t in self.made.status()["tables"] if t["sink"] == sink and t["table"] == name)

    # -- what the model says

    def judge(self, *, loaded: int) -> None:
        """Each sink has what the model has; `loaded` rows came with the first load."""
        for sink in self.made.sinks:
            self._judge_soft(sink)
            self._judge_log(sink, loaded)
            self._judge_past(sink)

    def _judge_soft(self, sink: str) -> None:
        found = self.rows(sink, "soft", f"{ROW}, _cdc_is_deleted, _cdc_deleted_at")
        there = {row[:2]: _row(row) for row in found if row[5] == 0}
        gone = {row[:2]: _row(row) for row in found if row[5] == 1}
        assert there == {key: _row(row) for key, row in self.story.rows.items()}, sink
        assert gone == {key: _row(row) for key, row in self.story.gone.items()}, sink
        for row in found:
            assert (row[6] is None) == (row[5] == 0)
            assert row[6] is None or abs(row[6] - _now()) < DAY

    def _judge_log(self, sink: str, loaded: int) -> None:
        found = self.rows(sink, "log", f"_cdc_operation, {ROW}, _cdc_sequence, _cdc_commit_time", "_cdc_sequence")
        assert [row[6] for row in found] == list(range(1, len(found) + 1)), sink
        assert {row[0] for row in found[:loaded]} <= {"load"}
        expected = [(operation, _row(row)) for operation, row in self.story.changes]
        assert [(row[0], _row(row[1:])) for row in found[loaded:]] == expected, sink
        for row in found:
            assert (row[7] is None) == (row[0] == "load"), row

    def _judge_past(self, sink: str) -> None:
        columns = f"{ROW}, _cdc_valid_from, _cdc_valid_to, _cdc_sequence"
        found: dict[Any, list[tuple[Any, ...]]] = {}
        for row in self.rows(sink, "past", columns, "a, b, _cdc_sequence"):
            found.setdefault(row[:2], []).append(row)
        expected = {key: [(_row(v.row), v.is_current) for v in chain] for key, chain in self.story.versions.items()}
        assert {key: [(_row(row), row[6] is None) for row in chain] for key, chain in found.items()} == expected, sink
        for chain in found.values():
            times = [time for row in chain for time in row[5:7] if time is not None]
            assert times == sorted(times), chain
            assert all(abs(time - _now()) < DAY for time in times)


def _plain(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime.datetime) else value


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def _row(row: Any) -> tuple[Any, ...]:
    """The source's columns of a row, as text."""
    return tuple(None if value is None else str(value) for value in row[:5])


# ---------------------------------------------------------------- the stream


def test_each_mode_is_what_the_model_makes_of_the_same_changes(kept: Kept) -> None:
    """Several runs, some of which fold many transactions, and a large one in parts."""
    kept.story.create(rows=30)
    kept.made.catch_up()
    for transactions in (1, 40, 150):
        kept.story.tell(transactions)
        kept.made.catch_up()
    kept.made.config["flush"] = {"rows_max": 7}
    kept.story.tell(60)
    kept.made.catch_up()
    kept.judge(loaded=30)
    verified = json.loads(kept.made.run("verify", "--json").stdout)
    states = {(found["sink"], found["table"].rpartition(".")[2]): found["state"] for found in verified}
    assert states == {(sink, table): "not compared" if table == "log" else "equal" for sink in SINKS for table in MODES}


def test_each_mode_on_a_mysql_sink(to_mysql: Kept) -> None:
    """Large runs by LOAD DATA, small ones by literals, and a load again that finds nothing new."""
    kept = to_mysql
    kept.story.create(rows=20)
    kept.made.catch_up()
    kept.story.tell(80)
    kept.made.catch_up()
    kept.made.config["flush"] = {"rows_max": 7}
    kept.story.tell(20)
    kept.made.catch_up()
    kept.judge(loaded=20)
    before = kept.rows("mysql", "past", "*", "a, b, _cdc_sequence")
    _reload(kept)
    assert kept.rows("mysql", "past", "*", "a, b, _cdc_sequence") == before
    kept._judge_soft("mysql")
    verified = json.loads(kept.made.run("verify", "--json").stdout)
    assert sorted(found["state"] for found in verified) == ["equal", "equal", "not compared"]


def test_changes_of_a_table_without_a_key(one: Kept) -> None:
    """Equal rows are several, in loads, too; an UPDATE has no key that it could move."""
    one.set_modes({"nokey": "append_only"})
    database = one.made.source_database
    one.made.source.execute("CREATE TABLE nokey (n INT NULL, note VARCHAR(20) NULL)", database=database)
    one.made.source.execute("INSERT INTO nokey VALUES (1, 'a'), (1, 'a'), (NULL, NULL)", database=database)
    one.made.catch_up()
    many = "WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 909) SELECT i, 'many' FROM n"
    for statement in (
        "INSERT INTO nokey VALUES (1, 'a')",
        "UPDATE nokey SET n = 2, note = 'b' WHERE n = 1 LIMIT 2",
        "DELETE FROM nokey WHERE n IS NULL",
        f"INSERT INTO nokey {many}",
    ):
        one.made.source.execute(statement, database=database)
    one.made.catch_up()
    loaded = [("load", 1, "a")] * 2 + [("load", None, None)]
    changed = [("insert", 1, "a"), *[("update", 2, "b")] * 2, ("delete", None, None)]
    changed += [("insert", number, "many") for number in range(10, 910)]
    for sink in SINKS:
        found = one.rows(sink, "nokey", "_cdc_operation, n, note, _cdc_sequence", "_cdc_sequence")
        assert [row[3] for row in found] == list(range(1, len(found) + 1))
        assert sorted((row[:3] for row in found[:3]), key=repr) == loaded
        assert [row[:3] for row in found[3:]] == changed
    assert one.made.run("snapshot", f"{database}.nokey").returncode == 0
    one.made.source.execute("DELETE FROM nokey WHERE n = 2 LIMIT 1", database=database)
    one.made.catch_up()
    for sink in SINKS:
        found = one.rows(sink, "nokey", "_cdc_operation, n, note, _cdc_sequence", "_cdc_sequence")[3 + len(changed) :]
        assert [row[3] for row in found] == list(range(4 + len(changed), 4 + len(changed) + len(found)))
        assert [row[0] for row in found] == ["reload"] + ["load"] * 903 + ["delete"]
        assert found[-1][1:3] == (2, "b")


def test_a_transaction_in_parts_is_in_one_sink_transaction(one: Kept) -> None:
    one.made.config["flush"] = {"bytes_max": 65536}
    one.story.create(rows=5)
    one.made.catch_up()
    database = one.made.source_database
    numbers = "WITH RECURSIVE n (i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 1099) SELECT i FROM n"
    with contextlib.closing(one.made.source.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION cte_max_recursion_depth = 5000")
        for name in MODES:
            cursor.execute(f"INSERT INTO {name} (a, b, v) SELECT i, 'big', 0 FROM ({numbers}) AS numbers")
        for name in MODES:
            cursor.execute(f"UPDATE {name} SET v = 1 WHERE b = 'big'")
            cursor.execute(f"DELETE FROM {name} WHERE b = 'big' AND a % 2 = 0")
        connection.commit()
    one.made.catch_up()
    for sink in SINKS:
        marks = [row[0] for row in one.rows(sink, "soft", "_cdc_is_deleted, a, b") if row[2] == "big"]
        assert (marks.count(0), marks.count(1)) == (500, 500)
        log = [row[0] for row in one.rows(sink, "log", "_cdc_operation, b", "_cdc_sequence") if row[1] == "big"]
        assert log == ["insert"] * 1000 + ["update"] * 1000 + ["delete"] * 500
        past = [row for row in one.rows(sink, "past", "a, v, _cdc_valid_to, b", "a, _cdc_sequence") if row[3] == "big"]
        assert [(a, v, end is None) for a, v, end, _ in past] == [
            version for a in range(100, 1100) for version in ((a, 0, False), (a, 1, a % 2 == 1))
        ]


def test_times_of_a_history_never_go_back(tmp_path: Path, mariadb1011: Server, pg15: Server) -> None:
    """A writer says that it commits an hour ago, which MariaDB writes to its log."""
    with deployment(tmp_path, mariadb1011, pg=pg15, maria=mariadb1011) as made:
        kept = Kept(made)
        kept.story.create(rows=1)
        made.catch_up()
        with contextlib.closing(mariadb1011.connect(made.source_database)) as connection, connection.cursor() as cursor:
            cursor.execute("SET TIMESTAMP = UNIX_TIMESTAMP() - 3600")
            cursor.execute("UPDATE past SET v = 7")
            connection.commit()
        made.catch_up()
        for sink in SINKS:
            (first, second) = kept.rows(sink, "past", "_cdc_valid_from, _cdc_valid_to", "_cdc_sequence")
            assert first[0] <= first[1] == second[0]
            assert second[1] is None


def test_tables_that_change_lanes_go_on_counting(tmp_path: Path, mariadb1011: Server, pg15: Server) -> None:
    """Though readers have emptied one, and a writer says that it commits an hour ago: there and back again."""
    with deployment(tmp_path, mariadb1011, pg=pg15, maria=mariadb1011) as made:
        kept = Kept(made)
        kept.story.create(rows=2)
        made.catch_up()
        numbered = 2
        for lanes in ([[f"{made.source_database}.soft"], ["*"]], 1, 3):
            for sink in made.config["sinks"]:
                sink["lanes"] = lanes
            for name in SINKS:
                kept.at_sink(name, "DELETE FROM {}.log")
            with contextlib.closing(mariadb1011.connect(made.source_database)) as connection:
                with connection.cursor() as cursor:
                    cursor.execute("SET TIMESTAMP = UNIX_TIMESTAMP() - 3600")
                    for table in MODES:
                        cursor.execute(f"UPDATE {table} SET v = coalesce(v, 0) + 1")
                connection.commit()
            made.catch_up()
            for name in SINKS:
                rows = kept.rows(name, "log", "_cdc_sequence, _cdc_operation")
                assert rows == [(numbered + 1, "update"), (numbered + 2, "update")], (lanes, name)
                past = kept.rows(name, "past", "a, _cdc_valid_from, _cdc_valid_to, _cdc_sequence", "a, _cdc_sequence")
                assert sorted(row[3] for row in past) == list(range(1, numbered + 3))
                for key in (0, 1):
                    times = [time for row in past if row[0] == key for time in row[1:3] if time is not None]
                    assert times == sorted(times), (lanes, name)
            numbered += 2


def test_names_of_the_columns_are_configured(one: Kept) -> None:
    one.made.config["tables"]["mode_columns"] = {
        "is_deleted": "gone", "deleted_at": "gone at", "sequence": "number", "operation": "what",
        "commit_time": "when", "position": "where", "valid_from": "since", "valid_to": "until",
    }  # fmt: skip
    one.story.create(rows=1)
    one.made.catch_up()
    one.execute("DELETE FROM {}")
    one.made.catch_up()
    for sink, quote in (("pg", '"'), ("maria", "`")):
        assert one.rows(sink, "soft", f"gone, {quote}gone at{quote} IS NULL") == [(1, False)]
        found = one.rows(
            sink, "log", f"{quote}number{quote}, what, {quote}when{quote} IS NULL, {quote}where{quote} IS NULL"
        )
        assert found == [(1, "load", True, True), (2, "delete", False, False)]
        assert one.rows(sink, "past", f"since <= {quote}until{quote}") == [(True,)]


def test_a_row_that_leaves_the_filter_is_deleted(one: Kept) -> None:
    one.set_modes(MODES, row_filter="v > 0", columns=[{"column": "note", "mask": "text"}])
    one.story.create(rows=0)
    one.made.catch_up()
    one.execute("INSERT INTO {} VALUES (1, 'k', 1, 'secret', NULL), (2, 'k', 0, 'secret', NULL)")
    one.execute("UPDATE {} SET v = v - 1 WHERE a = 1")
    one.execute("UPDATE {} SET v = 5 WHERE a = 2")
    one.made.catch_up()
    for sink in SINKS:
        assert one.rows(sink, "soft", "a, v, note, _cdc_is_deleted") == [(1, 1, "***", 1), (2, 5, "***", 0)]
        assert one.rows(sink, "log", "a, v, note, _cdc_operation", "_cdc_sequence") == [
            (1, 1, "***", "insert"),
            (1, 1, "***", "delete"),
            (2, 5, "***", "insert"),
        ]
        past = one.rows(sink, "past", "a, v, note, _cdc_valid_to IS NULL", "_cdc_sequence")
        assert past == [(1, 1, "***", False), (2, 5, "***", True)]


def test_rows_of_an_xa_transaction_are_kept_at_its_commit(one: Kept) -> None:
    one.story.create(rows=1)
    one.made.catch_up()
    database, name = one.made.source_database, f"'{one.made.source_database}'"
    with contextlib.closing(one.made.source.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"XA START {name}")
        for table in MODES:
            cursor.execute(f"INSERT INTO {table} (a, b, v) VALUES (7, 'xa', 1)")
            cursor.execute(f"UPDATE {table} SET v = 2 WHERE a = 7")
        cursor.execute(f"XA END {name}")
        cursor.execute(f"XA PREPARE {name}")
    try:
        one.made.catch_up()
        one.execute("INSERT INTO {} (a, b, v) VALUES (-8, 'before', 1)")
        one.made.catch_up()
    finally:
        one.made.source.execute(f"XA COMMIT {name}", database=database)
    one.made.catch_up()
    for sink in SINKS:
        log = one.rows(sink, "log", "_cdc_operation, a, v", "_cdc_sequence")
        assert log[1:] == [("insert", -8, 1), ("insert", 7, 1), ("update", 7, 2)]
        past = one.rows(sink, "past", "a, v, _cdc_valid_to IS NULL", "_cdc_sequence")
        assert past[1:] == [(-8, 1, True), (7, 1, False), (7, 2, True)]


def test_a_partial_image_parks_the_table(one: Kept) -> None:
    one.story.create(rows=3)
    one.made.catch_up()
    database = one.made.source_database
    with contextlib.closing(one.made.source.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION binlog_row_image = 'MINIMAL'")
        for name in MODES:
            cursor.execute(f"UPDATE {name} SET v = 77 WHERE a = 1")
        connection.commit()
    _catch_up_but_for_parked(one)
    for table, mode in MODES.items():
        for sink in SINKS:
            found = one.state(sink, table)
            assert found["state"] == "parked"
            assert f"mode: {mode}, which needs whole row images" in found["error"]["message"]
            assert "binlog_row_image=FULL" in found["error"]["hint"]


def test_a_row_that_is_kept_and_an_index_of_the_sink(one: Kept) -> None:
    """A unique index that somebody made on the sink meets a row that is gone: the table is parked, with the reason."""
    one.story.create(rows=0)
    one.made.catch_up()
    for sink in SINKS:
        one.at_sink(sink, "ALTER TABLE {}.soft ADD CONSTRAINT only_one UNIQUE (note)")
    one.execute("INSERT INTO {} VALUES (1, 'k', 1, 'taken', NULL)")
    one.execute("DELETE FROM {}")
    one.execute("INSERT INTO {} VALUES (2, 'k', 1, 'taken', NULL)")
    _catch_up_but_for_parked(one)
    for sink in SINKS:
        found = one.state(sink, "soft")
        assert found["state"] == "parked"
        assert "rows that are gone are kept" in found["error"]["hint"]


# ---------------------------------------------------------------- reloads


def test_a_reload_keeps_what_was(kept: Kept) -> None:
    """What differs is closed and opened, what is gone is marked or closed; an unchanged row keeps its version."""
    kept.story.create(rows=20)
    kept.made.catch_up()
    kept.story.tell(40)
    kept.made.catch_up()
    kept.judge(loaded=20)
    before = {sink: kept.rows(sink, "past", "*", "a, b, _cdc_sequence") for sink in SINKS}
    _reload(kept)
    assert {sink: kept.rows(sink, "past", "*", "a, b, _cdc_sequence") for sink in SINKS} == before
    rows = [_row(row) for row in kept.story.rows.values()]
    for sink in SINKS:
        log = kept.rows(sink, "log", f"_cdc_operation, {ROW}", "_cdc_sequence")[20 + len(kept.story.changes) :]
        assert log[0][0] == "reload"
        assert [row[0] for row in log[1:]] == ["load"] * len(rows)
        assert sorted((_row(row[1:]) for row in log[1:]), key=repr) == sorted(rows, key=repr)
        kept._judge_soft(sink)


@pytest.mark.parametrize("fixture", ["one", "to_mysql"])
def test_a_reload_finds_what_no_log_has_shown(fixture: str, request: pytest.FixtureRequest) -> None:
    one: Kept = request.getfixturevalue(fixture)
    one.story.create(rows=0)
    one.execute("INSERT INTO {} VALUES (1, 'same', 1, 'a', 1), (2, 'other', 1, 'a', 1), (3, 'gone', 1, 'a', 1)")
    one.made.catch_up()
    one.story.beside("UPDATE {} SET note = 'A' WHERE a = 2")  # the same to the collation, and another value
    one.story.beside("DELETE FROM {} WHERE a = 3")
    one.story.beside("INSERT INTO {} VALUES (4, 'new', NULL, NULL, NULL)")
    _reload(one)
    for sink in one.made.sinks:
        assert one.rows(sink, "soft", "a, note, _cdc_is_deleted, _cdc_deleted_at IS NULL") == [
            (1, "a", 0, True),
            (2, "A", 0, True),
            (3, "a", 1, False),
            (4, None, 0, True),
        ]
        past = one.rows(sink, "past", "a, note, _cdc_valid_to IS NULL", "a, _cdc_sequence")
        assert past == [(1, "a", True), (2, "a", False), (2, "A", True), (3, "a", False), (4, None, True)]
        versions = one.rows(sink, "past", "_cdc_valid_from, _cdc_valid_to", "a, _cdc_sequence")
        assert versions[1][1] == versions[2][0] == versions[3][1] == versions[4][0] > versions[0][0]
    one.execute("UPDATE {} SET v = 9")
    one.made.catch_up()
    for sink in one.made.sinks:
        past = one.rows(sink, "past", "a, v, _cdc_valid_to IS NULL", "a, _cdc_sequence")
        assert [row for row in past if row[2]] == [(1, 9, True), (2, 9, True), (4, 9, True)]


def _reload(kept: Kept) -> None:
    result = kept.made.run("snapshot", *(f"{kept.made.source_database}.{name}" for name in MODES))
    assert result.returncode == 0, result.stderr
    kept.made.catch_up()


# ---------------------------------------------------------------- definitions and configuration


def test_a_column_that_comes_is_added_to_what_is_kept(kept: Kept) -> None:
    kept.story.create(rows=2)
    kept.made.catch_up()
    kept.execute("DELETE FROM {} WHERE a = 0")
    kept.execute("ALTER TABLE {} ADD COLUMN more INT NULL")
    kept.execute("UPDATE {} SET more = 5")
    kept.made.catch_up()
    for sink in SINKS:
        assert [kept.state(sink, table)["state"] for table in MODES] == ["ready"] * 3
        assert kept.rows(sink, "soft", "a, more, _cdc_is_deleted") == [(0, None, 1), (1, 5, 0)]
        past = kept.rows(sink, "past", "a, more, _cdc_valid_to IS NULL", "_cdc_sequence")
        assert past == [(0, None, False), (1, None, False), (1, 5, True)]
        log = kept.rows(sink, "log", "a, more, _cdc_operation", "_cdc_sequence")
        assert log[:3] == [(0, None, "load"), (1, None, "load"), (0, None, "delete")]
        assert log[3:] == [(1, 5, "update")], "no reload is written"


def test_a_column_that_goes_stays_where_it_was_kept(one: Kept) -> None:
    one.story.create(rows=0)
    one.execute("INSERT INTO {} VALUES (1, 'k', 1, 'text', 2.5)")
    one.made.catch_up()
    one.execute("ALTER TABLE {} DROP COLUMN note")
    one.execute("INSERT INTO {} VALUES (2, 'k', 1, 3.5)")
    one.made.catch_up()
    for sink in SINKS:
        past = one.rows(sink, "past", "a, note, _cdc_valid_to IS NULL", "_cdc_sequence")
        assert past == [(1, "text", True), (2, None, True)]
        assert one.rows(sink, "log", "a, note", "_cdc_sequence")[0] == (1, "text")


def test_another_type_parks_the_table_and_drops_nothing(one: Kept) -> None:
    one.story.create(rows=0)
    one.execute("INSERT INTO {} VALUES (1, 'k', 1, 'text', 2.5)")
    one.made.catch_up()
    one.execute("ALTER TABLE {} MODIFY COLUMN v VARCHAR(20) NULL")
    _catch_up_but_for_parked(one)
    for sink in SINKS:
        for table in MODES:
            found = one.state(sink, table)
            assert found["state"] == "parked", table
            assert "rename it on the sink" in found["error"]["hint"]
        assert len(one.rows(sink, "past", "a")) == 1
    _snapshot_fails(one)
    for sink in SINKS:
        assert len(one.rows(sink, "past", "a")) == 1
        for table in MODES:
            place = "" if sink == "pg" else "{0}."
            one.at_sink(sink, f"ALTER TABLE {{0}}.{table} RENAME TO {place}{table}_old")
    _reload(one)
    for sink in SINKS:
        assert one.rows(sink, "past", "a, v, _cdc_valid_to IS NULL") == [(1, "1", True)]
        assert len(one.rows(sink, "past_old", "a")) == 1


def test_another_mode_needs_an_explicit_snapshot(one: Kept) -> None:
    """Nothing that is kept goes by a change of the configuration alone."""
    one.story.create(rows=2)
    one.made.catch_up()
    one.execute("DELETE FROM {} WHERE a = 0")
    one.made.catch_up()
    one.set_modes(dict.fromkeys(MODES, "mirror"))
    _catch_up_but_for_parked(one)
    for sink in SINKS:
        for table in MODES:
            found = one.state(sink, table)
            assert found["state"] == "parked"
            assert "cdc snapshot" in found["error"]["hint"]
            assert len(one.rows(sink, table, "a")) >= 2
    _reload(one)
    for sink in SINKS:
        for table in MODES:
            assert one.rows(sink, table, "*")[0][:2] == (1, "loaded")
            assert len(one.rows(sink, table, "*")[0]) == 5


def test_a_mirror_becomes_a_history_by_itself(one: Kept) -> None:
    one.set_modes(dict.fromkeys(MODES, "mirror"))
    one.story.create(rows=4)
    one.made.catch_up()
    one.set_modes(MODES)
    one.made.catch_up()
    one.story.tell(10)
    one.made.catch_up()
    one.judge(loaded=4)


def _catch_up_but_for_parked(kept: Kept) -> None:
    result = kept.made.run("run", "--until-caught-up")
    assert result.returncode == 1, result.stderr
    assert "is parked" in result.stderr


def _snapshot_fails(kept: Kept) -> None:
    result = kept.made.run("snapshot", *(f"{kept.made.source_database}.{name}" for name in MODES))
    assert result.returncode == 1


def test_mode_is_told(one: Kept) -> None:
    """In the status, by `cdc check` and in the text that `cdc verify` prints."""
    one.story.create(rows=1)
    one.made.catch_up()
    for table, mode in MODES.items():
        assert one.state("pg", table)["options"]["mode"] == mode
    status = one.made.run("status").stdout
    assert "append_only" in status
    checked = json.loads(one.made.run("check", "--json").stdout)
    said = [found["problem"] for found in checked["findings"] if found["check"] == "table.mode"]
    assert any("history" in problem for problem in said)
    verified = one.made.run("verify")
    assert verified.returncode == 0, verified.stdout
    assert "not compared" in verified.stdout
