"""What CREATE TABLE makes, and what is left to loads. The servers own answers are in tests/integration."""

from __future__ import annotations

import pytest

from cdc.model import TableDefinition, TableName
from cdc.schema.column_text import Unproven
from cdc.schema.creation import Defaults, created_definition
from cdc.schema.ddl import StatementText

NAME = TableName("d", "t")


def _created(text: str, like: TableDefinition | None = None) -> TableDefinition | None:
    return created_definition(
        StatementText(text, "d"),
        NAME,
        flavor="mysql",
        server_version=(8, 4, 0),
        spelled=lambda table: table,
        find=lambda table: like if like is not None and table == like.name else None,
        defaults=lambda: Defaults("utf8mb4_0900_ai_ci", "InnoDB"),
    )


def test_columns_keys_and_options() -> None:
    made = _created(
        "CREATE TABLE IF NOT EXISTS `t` (id BIGINT UNSIGNED AUTO_INCREMENT, `A b` VARCHAR(9) NOT NULL DEFAULT 'x,)', "
        "c INT UNIQUE, KEY k (c), CONSTRAINT p PRIMARY KEY (`ID`), UNIQUE INDEX u (`a b`(3), c DESC)) ENGINE InnoDB, "
        "AUTO_INCREMENT = 7 DEFAULT CHARSET=latin1 COLLATE latin1_bin COMMENT 'it''s'"
    )
    assert made is not None
    assert [(c.name, c.column_type, c.is_nullable, c.collation) for c in made.columns] == [
        ("id", "bigint unsigned", False, None),
        ("A b", "varchar(9)", False, "latin1_bin"),
        ("c", "int", True, None),
    ]
    assert made.primary_key == ("id",)
    assert [(key.name, key.columns, key.has_prefix) for key in made.unique_keys] == [
        ("c", ("c",), False),
        ("u", ("A b", "c"), True),
    ]
    assert (made.engine, made.collation, made.comment) == ("InnoDB", "latin1_bin", "it's")


def test_like_is_the_other_by_another_name() -> None:
    other = _created("CREATE TABLE t (id INT PRIMARY KEY, b TEXT)")
    assert other is not None
    made = _created("CREATE TABLE t LIKE d.t", other)
    assert made == other


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE t (id INT) SELECT 1 AS id",
        "CREATE TABLE t (id INT) AS SELECT 1 AS id",
        "CREATE TABLE t (id INT) START TRANSACTION",
        "CREATE TABLE t SELECT 1 AS id",
        "CREATE TABLE t (id INT) PARTITION BY HASH (id) SELECT 1 AS id",
        "CREATE TABLE t LIKE unknown",
        "CREATE TABLE t (id INT, FOREIGN KEY (id) REFERENCES u (id))",
        "CREATE TABLE t (id INT REFERENCES u (id))",
        "CREATE TABLE t (id INT, b INT AS (id))",
        "CREATE TABLE t (id INT) ENGINE=MEMORY",
        "CREATE TABLE t (id INT) CHARSET=utf8mb4",
        "CREATE TABLE t (id INT) WITH SYSTEM VERSIONING",
        "CREATE TABLE t (id INT, PRIMARY KEY (x))",
        "CREATE TABLE t (id INT, Id INT)",
        "CREATE TABLE t (id INT",
        "CREATE TABLE t (a TEXT, PRIMARY KEY (a(10)))",
        "CREATE TABLE t (id TIMESTAMP)",
        "CREATE TABLE u (id INT)",
        "CREATE TABLE t (id INT /*!80000 , b INT */)",
    ],
)
def test_what_is_not_proven(text: str) -> None:
    with pytest.raises(Unproven):
        _created(text)


@pytest.mark.parametrize("text", ["CREATE OR REPLACE TABLE t (id INT)", "DROP TABLE t", "ALTER TABLE t ADD b INT"])
def test_other_statements_are_none_of_these(text: str) -> None:
    assert _created(text) is None


def test_if_not_exists_is_proven_only_where_the_table_is_known_to_be_absent() -> None:
    for words, is_proven in (("IF NOT EXISTS t", False), ("t", True)):
        statement = StatementText(f"CREATE TABLE {words} (id INT PRIMARY KEY)", "d")

        def made(statement: StatementText = statement) -> TableDefinition | None:
            return created_definition(
                statement,
                NAME,
                flavor="mysql",
                server_version=(8, 4, 0),
                spelled=lambda table: table,
                find=lambda _table: None,
                defaults=lambda: Defaults("utf8mb4_0900_ai_ci", "InnoDB"),
                is_absent=False,
            )

        if is_proven:
            assert made() is not None
        else:
            with pytest.raises(Unproven, match="IF NOT EXISTS"):
                made()
