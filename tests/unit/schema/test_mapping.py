from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, Flavor, ValueKind
from cdc.schema.mapping import RULES, map_table, rule_for, sink_collation, type_mapping_page
from cdc.schema.target import Policies, SinkKind
from tests.unit.sinks.builders import ID, MARIADB_VALUES, MYSQL_VALUES, K, column, table, target_of

PAGE = Path(__file__).parents[3] / "docs/type-mapping.md"


@pytest.mark.parametrize(
    "definition,flavor,postgresql",
    [
        (column("c", K.INTEGER, "tinyint", length=8), "mysql", "smallint"),
        (column("c", K.INTEGER, "tinyint(1)", length=8), "mysql", "smallint"),
        (column("c", K.INTEGER, "smallint", length=16), "mysql", "smallint"),
        (column("c", K.INTEGER, "mediumint", length=24), "mysql", "integer"),
        (column("c", K.INTEGER, "int", length=32), "mysql", "integer"),
        (column("c", K.INTEGER, "bigint", length=64), "mysql", "bigint"),
        (column("c", K.INTEGER, "tinyint unsigned", length=8), "mysql", "integer"),
        (column("c", K.INTEGER, "smallint unsigned", length=16), "mysql", "integer"),
        (column("c", K.INTEGER, "mediumint unsigned", length=24), "mysql", "bigint"),
        (column("c", K.INTEGER, "int unsigned", length=32), "mysql", "bigint"),
        (column("c", K.INTEGER, "bigint unsigned", length=64), "mysql", "numeric(20)"),
        (column("c", K.DECIMAL, "decimal(65,30)", precision=65, scale=30), "mysql", "numeric(65,30)"),
        (column("c", K.FLOAT, "float"), "mysql", "real"),
        (column("c", K.DOUBLE, "double unsigned"), "mysql", "double precision"),
        (column("c", K.BIT, "bit(9)", length=9), "mysql", "bit(9)"),
        (column("c", K.YEAR, "year(4)"), "mysql", "smallint"),
        (column("c", K.DATE, "date"), "mysql", "date"),
        (column("c", K.DATETIME, "datetime(3)", fraction_digits=3), "mysql", "timestamp(3)"),
        (column("c", K.TIMESTAMP, "timestamp"), "mysql", "timestamptz(0)"),
        (column("c", K.TIME, "time(6)", fraction_digits=6), "mysql", "interval(6)"),
        (column("c", K.TEXT, "char(7)", length=7), "mysql", "varchar(7)"),
        (column("c", K.TEXT, "varchar(0)", length=0), "mysql", "varchar(1)"),
        (column("c", K.TEXT, "longtext", length=2**32 - 1), "mysql", "text"),
        (column("c", K.ENUM, "enum('a')", members=("a",)), "mysql", "text"),
        (column("c", K.SET, "set('a')", members=("a",)), "mysql", "text"),
        (column("c", K.BINARY, "binary(16)", length=16), "mysql", "bytea"),
        (column("c", K.BLOB, "varbinary(16)", length=16), "mysql", "bytea"),
        (column("c", K.BLOB, "longblob"), "mysql", "bytea"),
        (column("c", K.JSON, "json"), "mysql", "jsonb"),
        (column("c", K.JSON, "longtext"), "mariadb", "json"),
        (column("c", K.GEOMETRY, "point"), "mysql", "bytea"),
        (column("c", K.VECTOR, "vector(3)", length=3), "mysql", "real[]"),
        (column("c", K.UUID, "uuid", length=16), "mariadb", "uuid"),
        (column("c", K.INET4, "inet4", length=4), "mariadb", "inet"),
        (column("c", K.INET6, "inet6", length=16), "mariadb", "inet"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_the_contract_of_types_on_postgresql(definition: ColumnDefinition, flavor: Flavor, postgresql: str) -> None:
    assert target_of(table(ID, definition, flavor=flavor)).columns[1].sql_type == postgresql


@pytest.mark.parametrize(
    "definition,source,sink,expected",
    [
        (column("c", K.INTEGER, "int(11)", length=32), "mariadb", "mysql", "int"),
        (column("c", K.INTEGER, "int(5) unsigned zerofill", length=32), "mysql", "mariadb", "int(5) unsigned zerofill"),
        (column("c", K.DOUBLE, "double(10,2) unsigned"), "mysql", "mysql", "double unsigned"),
        (column("c", K.YEAR, "year(4)"), "mariadb", "mysql", "year"),
        (column("c", K.DATETIME, "datetime /* mariadb-5.3 */"), "mariadb", "mariadb", "datetime"),
        (
            column("c", K.TEXT, "varchar(9) /*M!100301 COMPRESSED*/", collation="latin1_swedish_ci"),
            "mariadb",
            "mysql",
            "varchar(9) CHARACTER SET latin1 COLLATE latin1_swedish_ci",
        ),
        (
            column("c", K.ENUM, "whatever", members=("it's", "a\\b", "x,y")),
            "mysql",
            "mariadb",
            r"enum('it''s','a\\b','x,y') CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        ),
        (column("c", K.JSON, "json"), "mysql", "mysql", "json"),
        (column("c", K.JSON, "json"), "mysql", "mariadb", "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (column("c", K.JSON, "longtext"), "mariadb", "mysql", "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (column("c", K.GEOMETRY, "geomcollection"), "mysql", "mariadb", "geometrycollection"),
        (column("c", K.VECTOR, "vector(3)", length=3), "mysql", "mysql", "vector(3)"),
        (column("c", K.VECTOR, "vector(3)", length=3), "mysql", "mariadb", "varbinary(12)"),
        (column("c", K.VECTOR, "vector(16383)", length=16383), "mariadb", "mysql", "mediumblob"),
        (column("c", K.UUID, "uuid", length=16), "mariadb", "mysql", "char(36) CHARACTER SET ascii COLLATE ascii_bin"),
        (column("c", K.UUID, "uuid", length=16), "mariadb", "mariadb", "uuid"),
        (column("c", K.INET6, "inet6"), "mariadb", "mysql", "varchar(45) CHARACTER SET ascii COLLATE ascii_bin"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_between_the_mysql_family_the_own_type_is_kept_or_translated(
    definition: ColumnDefinition, source: Flavor, sink: SinkKind, expected: str
) -> None:
    assert target_of(table(ID, definition, flavor=source), sink).columns[1].sql_type == expected


@pytest.mark.parametrize(
    "charset,collation,source,sink,value_collation,key_collation",
    [
        ("utf8mb4", "utf8mb4_general_ci", "mysql", "mariadb", "utf8mb4_general_ci", "utf8mb4_general_ci"),
        ("utf8", "utf8_bin", "mysql", "mysql", "utf8mb3_bin", "utf8mb3_bin"),
        ("utf8mb4", "utf8mb4_0900_ai_ci", "mysql", "mysql", "utf8mb4_0900_ai_ci", "utf8mb4_0900_ai_ci"),
        ("utf8mb4", "utf8mb4_0900_ai_ci", "mysql", "mariadb", "utf8mb4_unicode_520_ci", "utf8mb4_nopad_bin"),
        ("utf8mb4", "utf8mb4_ja_0900_as_cs_ks", "mysql", "mariadb", "utf8mb4_bin", "utf8mb4_nopad_bin"),
        ("utf8mb4", "utf8mb4_0900_bin", "mysql", "mariadb", "utf8mb4_bin", "utf8mb4_nopad_bin"),
        ("gb18030", "gb18030_chinese_ci", "mysql", "mariadb", "utf8mb4_unicode_520_ci", "utf8mb4_nopad_bin"),
        ("utf8mb3", "utf8mb3_tolower_ci", "mysql", "mariadb", "utf8mb3_unicode_520_ci", "utf8mb3_nopad_bin"),
        ("utf8mb4", "utf8mb4_uca1400_ai_ci", "mariadb", "mysql", "utf8mb4_0900_ai_ci", "utf8mb4_0900_bin"),
        ("utf8mb4", "utf8mb4_uca1400_czech_nopad_as_cs", "mariadb", "mysql", "utf8mb4_0900_as_cs", "utf8mb4_0900_bin"),
        ("utf16", "utf16_uca1400_as_cs", "mariadb", "mysql", "utf16_bin", "utf16_bin"),
        ("latin1", "latin1_swedish_nopad_ci", "mariadb", "mysql", "latin1_swedish_ci", "utf8mb4_0900_bin"),
        ("latin1", "latin1_nopad_bin", "mariadb", "mysql", "latin1_bin", "utf8mb4_0900_bin"),
        ("ucs2", "ucs2_myanmar_ci", "mariadb", "mysql", "ucs2_unicode_520_ci", "ucs2_bin"),
    ],
)
def test_a_collation_that_the_sink_lacks_becomes_the_nearest_and_a_binary_one_in_a_key(
    charset: str, collation: str, source: Flavor, sink: Flavor, value_collation: str, key_collation: str
) -> None:
    assert sink_collation(charset, collation, source, sink, is_key=False)[1] == value_collation
    assert sink_collation(charset, collation, source, sink, is_key=True)[1] == key_collation


def test_every_kind_has_a_rule_and_an_example() -> None:
    for kind in ValueKind:
        assert any(example.kind is kind for rule in RULES for example, _ in rule.examples)
    for definition, _ in MYSQL_VALUES.values():
        assert rule_for(definition, "mysql").title
    for definition, _ in MARIADB_VALUES.values():
        assert rule_for(definition, "mariadb").title


def test_the_page_of_types_is_in_step_with_the_code() -> None:
    assert PAGE.read_text() == type_mapping_page(), "python -m cdc.schema.mapping > docs/type-mapping.md"


def test_generated_and_invisible_columns_become_plain_ones() -> None:
    columns = (
        ID,
        column("v", K.INTEGER, "int", length=32, is_generated=True),
        column("my_row_id", K.INTEGER, "bigint unsigned", length=64, is_invisible=True, is_auto_increment=True),
    )
    target = target_of(table(*columns), "mysql")

    assert [(c.name, c.sql_type) for c in target.columns] == [
        ("id", "int"),
        ("v", "int"),
        ("my_row_id", "bigint unsigned"),
    ]


@pytest.mark.parametrize("kind", ["postgresql", "mysql", "mariadb"])
@pytest.mark.parametrize("zero_dates", ["null", "error", "infinity"])
@pytest.mark.parametrize("source", [K.DATE, K.DATETIME, K.TIMESTAMP, K.TIME, K.INTEGER])
def test_a_column_is_nullable_only_where_null_may_come(kind: SinkKind, zero_dates: Any, source: ValueKind) -> None:
    definition = column("c", source, source.value, is_nullable=False, length=32 if source is K.INTEGER else 0)

    target = target_of(table(ID, definition), kind, zero_dates=zero_dates)

    may_turn_null = kind == "postgresql" and zero_dates == "null" and source in (K.DATE, K.DATETIME, K.TIMESTAMP)
    assert target.columns[1].is_nullable == may_turn_null
    assert not target.columns[0].is_nullable


def test_a_key_column_is_not_nullable_whatever_the_policy() -> None:
    definition = column("d", K.DATE, "date")

    target = target_of(table(definition, key=("d",)), zero_dates="null")

    assert not target.columns[0].is_nullable
    assert target.columns[0].is_key


def map_names(columns: Sequence[ColumnDefinition], kind: SinkKind, *, namespace: str = "n", name: str = "t") -> None:
    map_table(table(*columns), kind=kind, namespace=namespace, name=name, key=("id",), policies=Policies())


@pytest.mark.parametrize(
    "kind,namespace,name,column_name,said",
    [
        ("postgresql", "n", "t" * 64, "c", "64 bytes"),
        ("postgresql", "n", "表" * 22, "c", "66 bytes"),
        ("postgresql", "n", "t", "列" * 22, "66 bytes"),
        ("postgresql", "s" * 64, "t", "c", "64 bytes"),
        ("postgresql", "pg_x", "t", "c", "keeps for itself"),
        ("postgresql", "information_schema", "t", "c", "keeps for itself"),
        ("postgresql", "_cdc", "t", "c", "schema of the metadata"),
        ("postgresql", "n", "t", "xmin", "system column"),
        ("postgresql", "n", "t", "ctid", "system column"),
        ("mysql", "mysql", "t", "c", "database of the server"),
        ("mariadb", "Sys", "t", "c", "database of the server"),
        ("mysql", "n", "_cdc_checkpoint", "c", "begins with _cdc_"),
        ("mysql", "n", "t" * 65, "c", "65 characters"),
    ],
)
def test_a_name_that_the_sink_cannot_hold_is_refused_and_never_shortened(
    kind: SinkKind, namespace: str, name: str, column_name: str, said: str
) -> None:
    with pytest.raises(UnsupportedData, match=said) as caught:
        map_names([ID, column(column_name, K.INTEGER, "int", length=32)], kind, namespace=namespace, name=name)
    assert caught.value.table == "shop.t"
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["postgresql", "mysql", "mariadb"])
def test_names_at_the_limit_and_strange_ones_are_kept(kind: SinkKind) -> None:
    strange = ["列" * 21, "Xmin", "a b", 'quo"te', "back`tick", "%s", "1", "$", "a.b", "\u202e"]

    map_names([ID, *(column(name, K.INTEGER, "int", length=32) for name in strange)], kind, name="t" * 63)


def test_two_columns_with_one_name_are_refused_by_the_sinks_case_rules() -> None:
    columns = [ID, *(column(name, K.INTEGER, "int", length=32) for name in ("Name", "name"))]

    map_names(columns, "postgresql")
    with pytest.raises(UnsupportedData, match="same name on the sink as Name"):
        map_names(columns, "mysql")


def test_more_columns_than_postgresql_holds_are_refused() -> None:
    columns = [ID, *(column(f"c{n}", K.INTEGER, "int", length=32) for n in range(1600))]

    map_names(columns[:1600], "postgresql")
    with pytest.raises(UnsupportedData, match="1601 columns"):
        map_names(columns, "postgresql")


@pytest.mark.parametrize("key,said", [(("id", "gone"), "no column gone"), (("id", "id"), "names a column twice")])
def test_a_wrong_key_is_refused(key: tuple[str, ...], said: str) -> None:
    with pytest.raises(UnsupportedData, match=said):
        map_table(table(ID), kind="mysql", namespace="n", name="t", key=key, policies=Policies())


@pytest.mark.parametrize(
    "definition,postgresql,mysql",
    [
        (column("c", K.TEXT, "varchar(9)", length=9), True, True),
        (column("c", K.TEXT, "text"), True, False),
        (column("c", K.BLOB, "varbinary(9)", length=9), True, True),
        (column("c", K.BLOB, "blob"), True, False),
        (column("c", K.JSON, "json"), False, False),
        (column("c", K.GEOMETRY, "point"), False, False),
        (column("c", K.VECTOR, "vector(3)", length=3), False, False),
        (column("c", K.ENUM, "enum('a')", members=("a",)), True, True),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_a_key_column_of_a_type_that_cannot_be_a_key_is_refused(
    definition: ColumnDefinition, postgresql: bool, mysql: bool
) -> None:
    for kind, can in (("postgresql", postgresql), ("mysql", mysql), ("mariadb", mysql)):
        if can:
            target_of(table(definition, key=("c",)), kind)  # type: ignore[arg-type]  # a literal of the loop
        else:
            with pytest.raises(UnsupportedData, match="cannot be in a key") as caught:
                target_of(table(definition, key=("c",)), kind)  # type: ignore[arg-type]  # a literal of the loop
            assert caught.value.column == "c"
