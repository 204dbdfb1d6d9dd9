"""What a statement makes of a definition and of a target; the page on DDL says what the code does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cdc.model import ColumnDefinition, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.schema.alteration import TargetAlteration, alteration
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import Effect, StatementText, effect_of
from cdc.schema.keys import choose_key
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Masking, Policies, SinkKind

PAGE = Path(__file__).parents[3] / "docs" / "ddl.md"
_PLAIN = TableOptions()
_TEXT = {"charset": "utf8mb4", "collation": "utf8mb4_general_ci"}


def _column(name: str, kind: ValueKind, column_type: str, **more: object) -> ColumnDefinition:
    return ColumnDefinition(name, kind, column_type, **more)  # type: ignore[arg-type]  # the table below is checked


TABLE = TableDefinition(
    name=TableName("shop", "t"),
    columns=(
        _column("id", ValueKind.INTEGER, "int", is_nullable=False, length=32),
        _column("a", ValueKind.INTEGER, "int", length=32),
        _column("b", ValueKind.TEXT, "varchar(20)", is_nullable=False, length=20, **_TEXT),
        _column("c", ValueKind.DECIMAL, "decimal(10,2)", precision=10, scale=2),
        _column("e", ValueKind.ENUM, "enum('x','y')", members=("x", "y"), **_TEXT),
    ),
    primary_key=("id",),
    unique_keys=(UniqueKey("j", ("b",)),),
    charset="utf8mb4",
    collation="utf8mb4_general_ci",
)


def effect(statement: str, table: TableDefinition = TABLE, database: str = "shop") -> Effect:
    return effect_of(StatementText(statement, database), table, server_version=(8, 4, 0))


def change(
    statement: str,
    kind: SinkKind = "postgresql",
    options: TableOptions = _PLAIN,
    table: TableDefinition = TABLE,
) -> TargetAlteration:
    """Raises Unproven."""
    made = effect(statement, table)

    def target(definition: TableDefinition) -> object:
        key = choose_key(definition)
        return map_table(definition, kind=kind, namespace="n", name="t", key=key, policies=Policies(), options=options)

    return alteration(target(table), target(made.definition), made, options)  # type: ignore[arg-type]  # by map_table


def _documented() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| `(.+?)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 40
    return rows


@pytest.mark.parametrize("statement,expected", _documented())
def test_the_page_has_the_class_of_each_form(statement: str, expected: str) -> None:
    assert _class_of(statement) == expected


def _class_of(statement: str) -> str:
    classes = set()
    for kind in ("postgresql", "mysql", "mariadb"):
        try:
            if effect(statement).is_emptied:
                classes.add("same")
                continue
            classes.add("nothing" if change(statement, kind).is_empty else "same")
        except Unproven:
            return "load"
    return "same" if "same" in classes else "nothing"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t ADD COLUMN n INT; DROP TABLE t",
        "ALTER TABLE other ADD COLUMN n INT",
        "ALTER IGNORE TABLE t ADD UNIQUE (a)",
        "ALTER TABLE t ADD COLUMN n INT DEFAULT (1)",
        "ALTER TABLE t ADD COLUMN n INT DEFAULT @x",
        "ALTER TABLE t ADD COLUMN n VARCHAR(9) DEFAULT 'a' 'b'",
        "ALTER TABLE t ADD COLUMN n VARCHAR(9) DEFAULT _latin1'a'",
        "ALTER TABLE t ADD COLUMN n VARCHAR(2) DEFAULT 'abc'",
        "ALTER TABLE t ADD COLUMN n CHAR(9) DEFAULT 'abc '",
        "ALTER TABLE t ADD COLUMN n DATE DEFAULT '2023-02-29'",
        "ALTER TABLE t ADD COLUMN n DATE DEFAULT '0000-00-00'",
        "ALTER TABLE t ADD COLUMN n FLOAT DEFAULT 0.1",
        "ALTER TABLE t ADD COLUMN n BIT(3) DEFAULT b'101'",
        "ALTER TABLE t ADD COLUMN n VARCHAR(17000)",
        "ALTER TABLE t ADD COLUMN n INT ZEROFILL",
        "ALTER TABLE t ADD COLUMN n ENUM('a ','b')",
        "ALTER TABLE t ADD COLUMN n INT, ADD COLUMN n INT",
        "ALTER TABLE t ADD COLUMN n INT AFTER nowhere",
        "ALTER TABLE t DROP COLUMN nowhere",
        "ALTER TABLE t DROP COLUMN id",
        "ALTER TABLE t MODIFY a INT, ALTER a SET DEFAULT 3",
        "ALTER TABLE t MODIFY a INT AUTO_INCREMENT",
        "ALTER TABLE t DROP COLUMN",
        "ALTER TABLE t ADD COLUMN n INT,",
        "ALTER TABLE t ADD",
        "ALTER TABLE t ADD SYSTEM VERSIONING",
        "ALTER TABLE t DROP SYSTEM VERSIONING",
        "ALTER TABLE t DISCARD TABLESPACE",
        "ALTER TABLE t RENAME TO u",
        "TRUNCATE TABLE t; DELETE FROM t",
        "SET STATEMENT max_statement_time=1 FOR ALTER TABLE t ADD COLUMN n INT",
        "INSERT INTO t VALUES (1)",
        "",
    ],
)
def test_what_is_not_known_is_not_proven(statement: str) -> None:
    with pytest.raises(Unproven):
        change(statement)


def test_names_are_found_whatever_their_case_and_quotes() -> None:
    made = effect("alter table `SHOP`.`T` drop column A, rename column `B` to `bb`")
    assert made.dropped == {"a"}
    assert made.renamed == {"b": "bb"}
    assert [column.name for column in made.definition.columns] == ["id", "bb", "c", "e"]


def test_ansi_quotes_are_read_as_the_session_did() -> None:
    text = StatementText('ALTER TABLE "t" ADD COLUMN "n""m" INT', "shop", ansi_quotes=True)
    assert effect_of(text, TABLE, server_version=(8, 4, 0)).added == {'n"m': None}
    with pytest.raises(Unproven):
        effect_of(replace(text, ansi_quotes=False), TABLE, server_version=(8, 4, 0))


def test_if_exists_is_about_the_columns_that_are_there() -> None:
    made = effect("ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT, DROP COLUMN IF EXISTS z, MODIFY IF EXISTS y BIGINT")
    assert made.definition == TABLE
    assert not made.added
    assert not made.dropped


def test_a_table_whose_key_is_a_unique_index_loads_when_the_key_changes() -> None:
    table = replace(TABLE, primary_key=(), unique_keys=(UniqueKey("j", ("b",)), UniqueKey("k", ("id", "b"))))
    assert change("ALTER TABLE t DROP INDEX k", table=table).is_empty
    assert change("ALTER TABLE t ADD COLUMN n INT", table=table).added
    with pytest.raises(Unproven, match="the key was"):
        change("ALTER TABLE t DROP INDEX j", table=table)


def test_a_change_in_a_table_with_generated_columns_is_not_proven() -> None:
    generated = _column("g", ValueKind.INTEGER, "int", length=32, is_generated=True)
    table = replace(TABLE, columns=(*TABLE.columns, generated))
    with pytest.raises(Unproven):
        effect("ALTER TABLE t MODIFY a BIGINT", table)
    assert effect("ALTER TABLE t ADD COLUMN n INT", table).added == {"n": None}


_HASH = Masking("hash", salt=b"x")


@pytest.mark.parametrize(
    "statement,options,is_followed",
    [
        ("ALTER TABLE t ADD COLUMN n INT", TableOptions(include=("id", "a")), True),
        ("ALTER TABLE t DROP COLUMN c", TableOptions(exclude=("a",)), True),
        ("ALTER TABLE t MODIFY a BIGINT", TableOptions(exclude=("a",)), False),
        (
            "ALTER TABLE t MODIFY b VARCHAR(40) NOT NULL",
            TableOptions(columns=(ColumnOption("b", masking=_HASH),)),
            False,
        ),
        ("ALTER TABLE t RENAME COLUMN c TO z", TableOptions(columns=(ColumnOption("b", rename="bb"),)), True),
        ("ALTER TABLE t MODIFY id BIGINT NOT NULL", TableOptions(metadata=(("row_id", "_row"),)), False),
        ("ALTER TABLE t MODIFY a BIGINT", TableOptions(metadata=(("row_id", "_row"),)), True),
    ],
)
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_what_an_option_is_about_is_not_changed_under_it(
    statement: str, options: TableOptions, is_followed: bool, kind: SinkKind
) -> None:
    if is_followed:
        change(statement, kind, options)
    else:
        with pytest.raises(Unproven):
            change(statement, kind, options)


def test_an_added_column_that_is_left_out_changes_nothing() -> None:
    assert change("ALTER TABLE t ADD COLUMN n INT DEFAULT 3", options=TableOptions(include=("id", "a"))).is_empty
