"""Which tables may share a target, and how it is altered for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.sharing import Reshaping, columns_on_sink, conflict, misfits, reshaping
from cdc.schema.target import Masking, Policies, SinkKind, SourceColumn, TargetTable
from cdc.sinks import sql_mysql, sql_postgres

K = ValueKind
TENANT = SourceColumn("tenant", "a", 64)
ID = ColumnDefinition("id", K.INTEGER, "int", is_nullable=False, length=32)
NAME = ColumnDefinition("name", K.TEXT, "varchar(20)", length=20, charset="utf8mb4", collation="utf8mb4_bin")
KINDS: tuple[SinkKind, ...] = ("postgresql", "mysql")
HOLDS = {"postgresql": sql_postgres.holds, "mysql": sql_mysql.holds}
FOLD: dict[str, Callable[[str], str]] = {"postgresql": str, "mysql": str.casefold}


def target(
    *columns: ColumnDefinition,
    kind: SinkKind = "postgresql",
    key: tuple[str, ...] = ("id",),
    options: TableOptions | None = None,
) -> TargetTable:
    definition = TableDefinition(TableName("tenant_a", "t"), columns, key)
    return map_table(
        definition,
        kind=kind,
        namespace="n",
        name="t",
        key=key,
        policies=Policies(),
        options=options or TableOptions(source_column=TENANT),
    )


def there(made: TargetTable, kind: SinkKind) -> dict[str, tuple[str, bool, bool]]:
    """The columns of a table that was made for that target, as a sink's `inspect` gives them."""
    canonical = sql_postgres.canonical_type if kind == "postgresql" else sql_mysql.canonical_type
    return {column.name: (canonical(column.sql_type), column.is_nullable, False) for column in made.columns}


def plan(
    wanted: TargetTable,
    made: TargetTable,
    kind: SinkKind,
    *,
    others: dict[str, ColumnDefinition] | None = None,
    former: tuple[str, ...] = (),
) -> Reshaping:
    return reshaping(
        wanted,
        there(made, kind),
        made.key,
        others=others or {},
        former=former,
        holds=HOLDS[kind],
        fold=FOLD[kind],
    )


def told(found: Reshaping) -> list[tuple[str, str, bool]]:
    return [(one.action, one.column.name, one.column.is_nullable) for one in found.alterations]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_column_comes_first_in_the_table_and_in_its_key(kind: SinkKind) -> None:
    made = target(ID, NAME, kind=kind)
    assert [column.name for column in made.columns] == ["tenant", "id", "name"]
    assert made.key == ("tenant", "id")
    assert made.source_key == ("id",)
    assert made.columns[0].is_key
    assert not made.columns[0].is_nullable
    assert made.columns[0].sql_type.startswith("varchar(64)")


@pytest.mark.parametrize("value", ["x" * 65, "a ", "a\0"])
def test_a_value_that_could_pass_for_another_is_refused(value: str) -> None:
    with pytest.raises(UnsupportedData, match=r"its value .* of the source column tenant"):
        target(ID, options=TableOptions(source_column=replace(TENANT, value=value)))


def test_a_table_without_a_key_shares_no_target() -> None:
    with pytest.raises(UnsupportedData, match="has no key, and shares its target"):
        target(ID, key=())


def test_a_column_of_the_same_name_is_refused() -> None:
    with pytest.raises(UnsupportedData, match="has the same name on the sink as"):
        target(ID, replace(NAME, name="tenant"))


def test_the_description_has_name_and_value_and_not_the_room_for_others() -> None:
    options = TableOptions(source_column=TENANT)
    assert options.description == {"source_column": {"name": "tenant", "value": "a"}}


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_is_left_as_it_is(kind: SinkKind) -> None:
    made = target(ID, NAME, kind=kind)
    assert plan(made, made, kind) == Reshaping()


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_is_added_nullable(kind: SinkKind) -> None:
    wanted = target(ID, replace(NAME, is_nullable=False), kind=kind)
    assert told(plan(wanted, target(ID, kind=kind), kind)) == [("add", "name", True)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_others_have_stays_and_may_be_null(kind: SinkKind) -> None:
    made = target(ID, replace(NAME, is_nullable=False), kind=kind)
    wanted = target(ID, kind=kind)
    assert told(plan(wanted, made, kind, others={"name": NAME}, former=("name",))) == [("change", "name", True)]
    assert told(plan(wanted, target(ID, NAME, kind=kind), kind, others={"name": NAME}, former=("name",))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_nobody_has_any_more_goes_and_one_of_somebody_else_stays(kind: SinkKind) -> None:
    made = target(ID, NAME, kind=kind)
    assert told(plan(target(ID, kind=kind), made, kind, former=("id", "name"))) == [("drop", "name", True)]
    assert told(plan(target(ID, kind=kind), made, kind, former=("id",))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_wider_type_is_taken_whichever_comes_first(kind: SinkKind) -> None:
    wide = target(
        replace(ID, column_type="bigint", length=64), replace(NAME, column_type="varchar(50)", length=50), kind=kind
    )
    narrow = target(ID, NAME, kind=kind)
    found = plan(wide, narrow, kind)
    assert told(found) == [("change", "id", False), ("change", "name", True)]
    assert all(one.has_new_type for one in found.alterations)
    assert plan(narrow, wide, kind) == Reshaping()
    assert misfits(wide, narrow, holds=HOLDS[kind], fold=FOLD[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_types_of_which_neither_holds_the_other_are_told(kind: SinkKind) -> None:
    date = ColumnDefinition("name", K.DATE, "date")
    wanted, made = target(ID, date, kind=kind), target(ID, NAME, kind=kind)
    (problem,) = plan(wanted, made, kind).misfits
    assert problem.startswith("column name is ")
    assert "wanted is date" in problem
    assert len(misfits(wanted, made, holds=HOLDS[kind], fold=FOLD[kind])) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_another_key_is_told(kind: SinkKind) -> None:
    other = replace(NAME, is_nullable=False)
    made = target(ID, other, kind=kind)
    wanted = target(ID, other, kind=kind, key=("id", "name"))
    problems = plan(wanted, made, kind).misfits
    assert problems[-1] == "the primary key is tenant, id; wanted is tenant, id, name"
    assert misfits(wanted, made, holds=HOLDS[kind], fold=FOLD[kind])


def test_names_are_compared_as_the_sink_does() -> None:
    upper = replace(NAME, name="NAME")
    assert told(plan(target(ID, upper, kind="mysql"), target(ID, NAME, kind="mysql"), "mysql")) == []
    assert told(plan(target(ID, upper), target(ID, NAME), "postgresql")) == [("add", "NAME", True)]


def test_a_generated_column_cannot_be_written() -> None:
    made = target(ID, NAME)
    columns = there(made, "postgresql") | {"name": ("character varying(20)", True, True)}
    found = reshaping(made, columns, made.key, others={}, former=(), holds=sql_postgres.holds, fold=str)
    assert found.misfits == ("column name is generated on the sink",)


def test_columns_on_the_sink_follow_what_the_metadata_say_of_the_options() -> None:
    definition = TableDefinition(TableName("d", "t"), (ID, NAME, replace(NAME, name="gone")), ("id",))
    options = TableOptions(
        exclude=("gone",),
        columns=(ColumnOption("name", rename="title", masking=Masking("text", text="*")),),
        metadata=(("load_id", "loaded"),),
        source_column=TENANT,
    )
    assert set(columns_on_sink(definition, options.description)) == {"id", "title", "loaded"}
    assert set(columns_on_sink(definition, {"include": ["id"]})) == {"id"}


def test_statements_alter_a_target_in_one_go() -> None:
    wide = target(
        replace(ID, column_type="bigint", length=64),
        NAME,
        replace(NAME, name="more", is_nullable=False),
        kind="postgresql",
    )
    made = target(ID, replace(NAME, is_nullable=False), replace(NAME, name="old"))
    found = plan(wide, made, "postgresql", former=("old",))
    assert sql_postgres.alter_table(wide, found.alterations) == (
        'ALTER TABLE "n"."t" ALTER COLUMN "id" TYPE bigint, ALTER COLUMN "name" DROP NOT NULL, '
        'ADD COLUMN "more" varchar(20), DROP COLUMN "old"'
    )
    wide = replace(wide, columns=target(*wide.definition.columns, kind="mysql").columns)
    made = target(ID, replace(NAME, is_nullable=False), replace(NAME, name="old"), kind="mysql")
    statement = sql_mysql.alter_table(wide, plan(wide, made, "mysql", former=("old",)).alterations, "mysql")
    text = "varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL"
    assert statement == (
        f"ALTER TABLE `n`.`t` MODIFY COLUMN `id` bigint NOT NULL, MODIFY COLUMN `name` {text}, "
        f"ADD COLUMN `more` {text}, DROP COLUMN `old`"
    )


@pytest.mark.parametrize(
    "column,first,problem",
    [
        (replace(TENANT, value="b"), TENANT, None),
        (TENANT, TENANT, "with the same value 'a' of tenant"),
        (None, TENANT, "goes to the same target as d.first"),
        (TENANT, None, "goes to the same target as d.first"),
        (SourceColumn("other", "b", 64), TENANT, "whose source column is tenant, and not other"),
    ],
)
def test_tables_share_a_target_by_different_values_of_one_column(
    column: SourceColumn | None, first: SourceColumn | None, problem: str | None
) -> None:
    name = TableName("d", "first")
    found: Any = conflict(column, (name, first), {} if first is None else {first.value: name})
    assert found is None if problem is None else problem in found


HOSTILE = SourceColumn('te`n"ant', "a'b\\", 64)


def test_a_condition_quotes_what_it_is_given() -> None:
    made = replace(target(ID), source_column=HOSTILE)
    assert sql_postgres.clear(made) == 'DELETE FROM "n"."t" WHERE "te`n""ant" = E\'a\'\'b\\\\\''
    assert sql_mysql.clear(made) == "DELETE FROM `n`.`t` WHERE `te``n\"ant` = 'a''b\\\\'"
    assert sql_postgres.own_rows(replace(made, source_column=None)) == ""
