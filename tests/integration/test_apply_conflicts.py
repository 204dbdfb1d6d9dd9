"""Changes that are in each other's way: unique values that wander, keys that move, keys that only the source takes for
one. Whatever the order in which they happened, and however many went into one batch, every sink ends as the source.

The sinks' tables get the unique indexes of the source before the changes are written: on one PostgreSQL as indexes, on
the other as deferrable constraints. All of a run's cases are written while the service is away, so that it meets them
in one batch, or, with `rows_max: 1`, in one batch a transaction.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest

from tests.support.beside import Beside
from tests.support.deployment import Deployment, deployment
from tests.support.pool import ServerPool

pytestmark = pytest.mark.integration

Transaction = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A table `{t}`, its rows before, and what happens to it. `unique` are the columns of each further unique index."""

    columns: str
    rows: str
    transactions: Sequence[Transaction]
    unique: tuple[str, ...] = ()

    def ballast(self) -> str:
        """Rows that are in nobody's way, so many that a batch with them is not one of few rows."""
        kinds = [text.split()[1] for text in self.columns.split(", ") if not text.startswith(("PRIMARY", "b)"))]
        row = ", ".join("{n}" if kind == "INT" else "'ballast {n}'" for kind in kinds)
        return ", ".join("(" + row.format(n=1000 + number) + ")" for number in range(BALLAST_ROWS))


BALLAST_ROWS = 250
NUMBER = "id INT PRIMARY KEY, u INT NULL, v INT NOT NULL DEFAULT 0"
TEN = "(1, 10, 0), (2, 20, 0), (3, 30, 0)"
GENERAL = "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
UNICODE = "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
SPELLED = f"k {GENERAL} NOT NULL PRIMARY KEY, v INT NOT NULL"


def _each(*statements: str) -> tuple[Transaction, ...]:
    """A transaction for each statement."""
    return tuple((statement,) for statement in statements)


_SWAP = (
    "UPDATE {t} SET u = NULL WHERE id = 1",
    "UPDATE {t} SET u = 10 WHERE id = 2",
    "UPDATE {t} SET u = 20 WHERE id = 1",
)
_SWAP_30 = tuple(statement.replace("= 10", "= 30").replace("= 20", "= 10") for statement in _SWAP)
_ROTATE = (
    "UPDATE {t} SET u = -1 WHERE id = 3",
    "UPDATE {t} SET u = u + 10 WHERE id IN (1, 2) ORDER BY id DESC",
    "UPDATE {t} SET u = 10 WHERE id = 3",
)
_RING = (
    "UPDATE {t} SET id = -1 WHERE id = 3",
    "UPDATE {t} SET id = id + 1 WHERE id IN (1, 2) ORDER BY id DESC",
    "UPDATE {t} SET id = 1 WHERE id = -1",
)

UNIQUE_CASES = {
    "swapped_in_one": Case(NUMBER, TEN, [_SWAP], ("u",)),
    "swapped_over_several": Case(NUMBER, TEN, _each(*_SWAP), ("u",)),
    "rotated_in_one": Case(NUMBER, TEN, [_ROTATE], ("u",)),
    "rotated_over_several": Case(NUMBER, TEN, _each(*_ROTATE), ("u",)),
    "shifted_by_one_statement": Case(
        NUMBER, "(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 4, 0)", [("UPDATE {t} SET u = u + 1 ORDER BY u DESC",)], ("u",)
    ),
    "handed_to_a_new_row": Case(
        NUMBER, TEN, [("UPDATE {t} SET u = 11 WHERE id = 1", "INSERT INTO {t} VALUES (4, 10, 1)")], ("u",)
    ),
    "handed_to_a_new_row_later": Case(
        NUMBER, TEN, _each("UPDATE {t} SET u = 11 WHERE id = 3", "INSERT INTO {t} VALUES (0, 30, 1)"), ("u",)
    ),
    "handed_over_by_a_deleted_row": Case(
        NUMBER, TEN, [("DELETE FROM {t} WHERE id = 3", "UPDATE {t} SET u = 30 WHERE id = 1")], ("u",)
    ),
    "handed_over_by_a_row_that_came_and_went": Case(
        NUMBER,
        TEN,
        _each(
            "INSERT INTO {t} VALUES (9, 90, 0)", "DELETE FROM {t} WHERE id = 9", "UPDATE {t} SET u = 90 WHERE id = 2"
        ),
        ("u",),
    ),
    "handed_over_with_the_key": Case(NUMBER, TEN, _each("UPDATE {t} SET id = 7 WHERE id = 1"), ("u",)),
    "taken_from_a_row_that_is_deleted_and_back": Case(
        NUMBER,
        TEN,
        [("DELETE FROM {t} WHERE id = 1", "INSERT INTO {t} VALUES (1, 40, 1)", "INSERT INTO {t} VALUES (5, 10, 2)")],
        ("u",),
    ),
    "replaced_by_another_key": Case(NUMBER, TEN, _each("REPLACE INTO {t} VALUES (9, 20, 9)"), ("u",)),
    "replaced_two_rows": Case(NUMBER, TEN, _each("REPLACE INTO {t} VALUES (1, 30, 9)"), ("u",)),
    "rewritten_by_the_sources_on_duplicate_key": Case(
        NUMBER, TEN, _each("INSERT INTO {t} VALUES (9, 20, 5) ON DUPLICATE KEY UPDATE v = 5"), ("u",)
    ),
    "of_two_indexes": Case(
        "id INT PRIMARY KEY, a INT NULL, b INT NULL",
        "(1, 10, 100), (2, 20, 200), (3, 30, 300)",
        [
            (
                "UPDATE {t} SET a = NULL WHERE id = 1",
                "UPDATE {t} SET b = NULL WHERE id = 2",
                "INSERT INTO {t} VALUES (4, 10, 200)",
            ),
            ("UPDATE {t} SET a = 20, b = NULL WHERE id = 2", "UPDATE {t} SET b = 400, a = 10 WHERE id = 4"),
        ],
        ("a", "b"),
    ),
    "of_an_index_over_two": Case(
        "id INT PRIMARY KEY, a INT NULL, b INT NULL",
        "(1, 1, 1), (2, 1, 2), (3, 2, NULL), (4, 2, NULL)",
        [
            (
                "UPDATE {t} SET b = 9 WHERE id = 1",
                "UPDATE {t} SET b = 1 WHERE id = 2",
                "UPDATE {t} SET b = 2 WHERE id = 1",
            )
        ],
        ("a, b",),
    ),
    "of_a_text_whose_case_does_not_count": Case(
        f"id INT PRIMARY KEY, u {GENERAL} NULL",
        "(1, 'a'), (2, 'B')",
        [
            (
                "UPDATE {t} SET u = NULL WHERE id = 1",
                "UPDATE {t} SET u = 'A' WHERE id = 2",
                "UPDATE {t} SET u = 'b' WHERE id = 1",
            ),
            ("DELETE FROM {t} WHERE id = 2", "INSERT INTO {t} VALUES (3, 'a  ')"),
        ],
        ("u",),
    ),
}

KEY_CASES = {
    "moved_in_a_ring": Case(NUMBER, TEN, [_RING]),
    "moved_in_a_ring_over_several": Case(NUMBER, TEN, _each(*_RING)),
    "moved_in_a_ring_with_their_unique_values": Case(
        NUMBER, TEN, [(*_RING, *_SWAP_30), *_each("DELETE FROM {t} WHERE id = 3")], ("u",)
    ),
    "moved_up_by_one_statement": Case(NUMBER, TEN, _each("UPDATE {t} SET id = id + 1 ORDER BY id DESC")),
    "moved_down_by_one_statement": Case(NUMBER, TEN, _each("UPDATE {t} SET id = id - 1 ORDER BY id")),
    "moved_there_and_back": Case(
        NUMBER, TEN, [("UPDATE {t} SET id = 8 WHERE id = 1", "UPDATE {t} SET id = 1, v = 1 WHERE id = 8")]
    ),
    "moved_onto_a_deleted_one": Case(
        NUMBER, TEN, [("DELETE FROM {t} WHERE id = 2", "UPDATE {t} SET id = 2 WHERE id = 1")]
    ),
    "moved_away_from_under_a_new_one": Case(
        NUMBER, TEN, _each("UPDATE {t} SET id = 8 WHERE id = 1", "INSERT INTO {t} VALUES (1, 15, 1)")
    ),
    "moved_and_deleted": Case(NUMBER, TEN, [("UPDATE {t} SET id = 8 WHERE id = 1", "DELETE FROM {t} WHERE id = 8")]),
    "of_two_columns_turned": Case(
        "a INT, b INT, v INT, PRIMARY KEY (a, b)",
        "(1, 2, 12), (2, 1, 21)",
        [
            (
                "UPDATE {t} SET a = 0, b = 0 WHERE a = 1 AND b = 2",
                "UPDATE {t} SET a = 1, b = 2 WHERE a = 2 AND b = 1",
                "UPDATE {t} SET a = 2, b = 1 WHERE a = 0 AND b = 0",
            )
        ],
    ),
    "deleted_and_inserted_in_one": Case(
        NUMBER, TEN, [("DELETE FROM {t} WHERE id = 2", "INSERT INTO {t} VALUES (2, 25, 2)")]
    ),
    "deleted_and_inserted_over_several": Case(
        NUMBER,
        TEN,
        _each("DELETE FROM {t} WHERE id = 2", "INSERT INTO {t} VALUES (2, 25, 2)", "DELETE FROM {t} WHERE id = 3"),
    ),
    "inserted_and_deleted": Case(NUMBER, TEN, [("INSERT INTO {t} VALUES (4, 40, 0)", "DELETE FROM {t} WHERE id = 4")]),
    "inserted_deleted_and_inserted": Case(
        NUMBER,
        TEN,
        _each("INSERT INTO {t} VALUES (4, 1, 1)", "DELETE FROM {t} WHERE id = 4", "INSERT INTO {t} VALUES (4, 2, 2)"),
    ),
    "updated_again_and_again": Case(NUMBER, TEN, _each(*["UPDATE {t} SET v = v + 1 WHERE id = 1"] * 5)),
}

SPELLING_CASES = {
    "case": Case(SPELLED, "('a', 1), ('b', 2)", _each("UPDATE {t} SET k = 'A' WHERE k = 'a'")),
    "accent": Case(SPELLED, "('e', 1)", _each("UPDATE {t} SET k = 'é' WHERE k = 'e'")),
    "sharp_s": Case(f"k {UNICODE} NOT NULL PRIMARY KEY, v INT", "('ss', 1)", _each("UPDATE {t} SET k = 'ß'")),
    "trailing_spaces": Case(SPELLED, "('a', 1)", _each("UPDATE {t} SET k = 'a  ' WHERE k = 'a'")),
    "there_and_back": Case(SPELLED, "('a', 1)", [("UPDATE {t} SET k = 'A'", "UPDATE {t} SET k = 'a', v = 2")]),
    "through_many": Case(
        SPELLED, "('e', 1)", _each(*[f"UPDATE {{t}} SET k = '{k}', v = v + 1" for k in ("E", "é", "E ", "É  ", "ê")])
    ),
    "deleted_and_inserted": Case(
        SPELLED, "('a', 1)", [("DELETE FROM {t} WHERE k = 'A'", "INSERT INTO {t} VALUES ('A', 2)")]
    ),
    "deleted_and_inserted_over_several": Case(
        SPELLED, "('a', 1)", _each("DELETE FROM {t} WHERE k = 'a '", "INSERT INTO {t} VALUES ('A ', 2)")
    ),
    "deleted_at_last": Case(
        SPELLED, "('a', 1), ('b', 1)", _each("UPDATE {t} SET k = 'A' WHERE k = 'a'", "DELETE FROM {t} WHERE k = 'a'")
    ),
    "found_by_another_spelling": Case(SPELLED, "('a', 1)", _each("UPDATE {t} SET v = 7 WHERE k = 'A '")),
    "rewritten_by_on_duplicate_key": Case(
        SPELLED,
        "('a', 1)",
        _each("INSERT INTO {t} VALUES ('A', 5) ON DUPLICATE KEY UPDATE v = 6", "REPLACE INTO {t} VALUES ('Á', 8)"),
    ),
    "swapped_by_case": Case(
        SPELLED,
        "('a', 1), ('b', 2)",
        [
            (
                "UPDATE {t} SET k = 'x' WHERE k = 'a'",
                "UPDATE {t} SET k = 'A' WHERE k = 'b'",
                "UPDATE {t} SET k = 'B' WHERE k = 'x'",
            )
        ],
    ),
    "two_where_bytes_count": Case(
        "k VARBINARY(20) NOT NULL PRIMARY KEY, v INT",
        "('a', 1), ('A', 2)",
        _each(
            "INSERT INTO {t} VALUES ('a ', 3)", "DELETE FROM {t} WHERE k = 'A'", "UPDATE {t} SET k = 'A' WHERE k = 'a'"
        ),
    ),
}


def _random_numbers(seed: int) -> Case:
    """Six keys and six unique values that meet all the time; what the source refuses has not happened."""
    chance = random.Random(seed)

    def statement() -> str:
        key, other, value = chance.randint(1, 6), chance.randint(1, 6), chance.choice((*range(1, 7), "NULL"))
        return chance.choice(
            (
                f"INSERT IGNORE INTO {{t}} VALUES ({key}, {value}, {chance.randint(0, 99)})",
                f"UPDATE IGNORE {{t}} SET u = {value} WHERE id = {key}",
                f"UPDATE IGNORE {{t}} SET id = {key} WHERE id = {other}",
                f"UPDATE IGNORE {{t}} SET id = {key}, u = {value}, v = v + 1 WHERE u = {other}",
                f"REPLACE INTO {{t}} VALUES ({key}, {value}, {chance.randint(0, 99)})",
                f"DELETE FROM {{t}} WHERE id = {key}",
            )
        )

    history = [tuple(statement() for _ in range(chance.randint(1, 6))) for _ in range(100)]
    return Case(NUMBER, TEN.replace("0, 0", "0, 1"), history, ("u",))


def _random_spellings(seed: int) -> Case:
    chance = random.Random(seed)
    words = ("a", "A", "á", "a ", "b", "B", "b  ", "", " ")

    def statement() -> str:
        key, other = chance.choice(words), chance.choice(words)
        return chance.choice(
            (
                f"INSERT IGNORE INTO {{t}} VALUES ('{key}', {chance.randint(0, 99)})",
                f"UPDATE IGNORE {{t}} SET k = '{key}' WHERE k = '{other}'",
                f"REPLACE INTO {{t}} VALUES ('{key}', {chance.randint(0, 99)})",
                f"DELETE FROM {{t}} WHERE k = '{key}'",
            )
        )

    history = [tuple(statement() for _ in range(chance.randint(1, 5))) for _ in range(60)]
    return Case(SPELLED, "('a', 1), ('b', 2)", history)


CASES = {
    **{f"unique_{name}": case for name, case in UNIQUE_CASES.items()},
    **{f"key_{name}": case for name, case in KEY_CASES.items()},
    **{f"spelling_{name}": case for name, case in SPELLING_CASES.items()},
    **{f"random_numbers_{seed}": _random_numbers(seed) for seed in range(3)},
    **{f"random_spellings_{seed}": _random_spellings(seed) for seed in range(2)},
}


@dataclass(slots=True)
class Run:
    """All cases, applied."""

    made: Deployment
    exit_code: int
    said: str


# One batch of few rows a table, a batch a transaction, one batch of many rows a table; with CDC_CRASH_TESTS=all each
# from both sources.
RUNS = [("mysql97", 10_000, False), ("mariadb1011", 1, False), ("mariadb1011", 100_000, True)]
if os.environ.get("CDC_CRASH_TESTS") == "all":
    RUNS += [("mariadb1011", 10_000, False), ("mysql97", 1, False), ("mysql97", 100_000, True)]


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: f"{run[0]}-rows_max_{run[1]}{'-with_ballast' * run[2]}")
def run(
    request: pytest.FixtureRequest, server_pool: ServerPool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """The cases written behind the service's back, then met all at once."""
    source_name, rows_max, has_ballast = request.param
    sinks = {name: server_pool.get(name) for name in ("pg15", "pg17", "mariadb1011", "mysql97")}
    with deployment(tmp_path_factory.mktemp("conflicts"), server_pool.get(source_name), **sinks) as made:
        made.config["flush"] = {"rows_max": rows_max}
        _create(made)
        made.catch_up()
        for sink in sinks:
            _add_unique_indexes(Beside(made, sink), is_deferrable=sink == "pg17")
        _write(made, has_ballast=has_ballast)
        result = made.run("run", "--until-caught-up")
        yield Run(made, result.returncode, result.stderr)


def _create(made: Deployment) -> None:
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        for table, case in CASES.items():
            indexes = "".join(f", UNIQUE KEY ({columns})" for columns in case.unique)
            cursor.execute(f"CREATE TABLE {table} ({case.columns}{indexes})")
            cursor.execute(f"INSERT INTO {table} VALUES {case.rows}")


def _add_unique_indexes(sink: Beside, *, is_deferrable: bool) -> None:
    for table, case in CASES.items():
        for columns in case.unique:
            how = " DEFERRABLE INITIALLY IMMEDIATE" if is_deferrable else ""
            sink.execute(f"ALTER TABLE {sink.table(table)} ADD UNIQUE ({columns}){how}")


def _write(made: Deployment, *, has_ballast: bool) -> None:
    with contextlib.closing(made.source.connect(made.source_database, autocommit=False)) as connection:
        for table, case in CASES.items():
            for transaction in case.transactions:
                _commit(connection, [statement.format(t=table) for statement in transaction])
            if has_ballast:
                _commit(connection, [f"INSERT INTO {table} VALUES {case.ballast()}"])


def _commit(connection: Any, statements: Sequence[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            with contextlib.suppress(pymysql.err.Warning):
                cursor.execute(statement)
    connection.commit()


@pytest.mark.parametrize("table", CASES)
def test_every_sink_ends_as_the_source(run: Run, table: str) -> None:
    run.made.assert_equal(table)


def test_nothing_was_parked_or_tried_again(run: Run) -> None:
    assert run.exit_code == 0, run.said
    assert "pipeline_retrying" not in run.said
