"""Defaults, comments and numberings of targets: what of the source's is kept, in the sink's words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.model import ColumnDefinition, Flavor, TableDefinition, TableName, ValueKind
from cdc.schema.defaults import NotKept, left_out, sink_default
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Attributes, DefaultsKept, Masking, Policies, SinkKind, TargetTable

K = ValueKind
ID = ColumnDefinition("id", K.INTEGER, "bigint", is_nullable=False, length=64, is_auto_increment=True)


def _target(
    column: ColumnDefinition,
    kind: SinkKind,
    flavor: Flavor = "mysql",
    options: TableOptions = TableOptions(),  # noqa: B008 - frozen
    key: tuple[str, ...] = ("id",),
) -> TargetTable:
    definition = TableDefinition(TableName("d", "t"), (ID, column), ("id",), flavor=flavor, comment="a table")
    return map_table(definition, kind=kind, namespace="n", name="t", key=key, policies=Policies(), options=options)


def _default(
    column: ColumnDefinition, kind: SinkKind, flavor: Flavor = "mysql", kept: DefaultsKept = "constant"
) -> str | None:
    target = _target(column, kind, flavor)
    return sink_default(target, target.columns[1], kept, kind)


def _column(kind: ValueKind, column_type: str, default: str | None, **more: object) -> ColumnDefinition:
    return replace(ColumnDefinition("c", kind, column_type, default=default), **more)  # type: ignore[arg-type]


TEXT = {"length": 20, "charset": "utf8mb4", "collation": "utf8mb4_bin"}
CASES = [
    (_column(K.INTEGER, "int", "5", length=32), "5", "5"),
    (_column(K.INTEGER, "int(5) unsigned zerofill", "00007", length=32, is_unsigned=True), "7", "7"),
    (_column(K.DECIMAL, "decimal(10,2)", "-1.50", precision=10, scale=2), "-1.50", "-1.50"),
    (_column(K.DOUBLE, "double", "1.5"), "1.5", "1.5"),
    (_column(K.BIT, "bit(4)", "b'101'", length=4), "B'0101'", "b'101'"),
    (_column(K.YEAR, "year", "2024"), "2024", "2024"),
    (_column(K.DATE, "date", "2024-02-29"), "'2024-02-29'", "'2024-02-29'"),
    (_column(K.TIMESTAMP, "timestamp", "2024-01-02 03:04:05"), "'2024-01-02 03:04:05+00'", "'2024-01-02 03:04:05'"),
    (_column(K.TIME, "time", "-12:00:00"), "'-12:00:00'", "'-12:00:00'"),
    (_column(K.TEXT, "varchar(20)", "it's \\ here", **TEXT), "E'it''s \\\\ here'", "'it''s \\\\ here'"),
    (_column(K.TEXT, "varchar(20)", "CURRENT_TIMESTAMP", **TEXT), "E'CURRENT_TIMESTAMP'", "'CURRENT_TIMESTAMP'"),
    (_column(K.ENUM, "enum('a','b')", "b", members=("a", "b"), **TEXT), "E'b'", "'b'"),
    (
        _column(K.DATETIME, "datetime(3)", "CURRENT_TIMESTAMP(3)", fraction_digits=3, has_default_expression=True),
        "LOCALTIMESTAMP(3)",
        "CURRENT_TIMESTAMP(3)",
    ),
    (_column(K.TIMESTAMP, "timestamp", "CURRENT_TIMESTAMP"), "CURRENT_TIMESTAMP(0)", "CURRENT_TIMESTAMP"),
    (_column(K.TEXT, "varchar(20)", None, **TEXT), None, None),
]


@pytest.mark.parametrize("column, postgres, mysql", CASES, ids=lambda value: getattr(value, "column_type", ""))
def test_constants_and_the_time_are_kept_in_the_sinks_words(
    column: ColumnDefinition, postgres: str | None, mysql: str | None
) -> None:
    assert _default(column, "postgresql") == postgres
    assert _default(column, "mysql") == mysql
    assert _default(column, "postgresql", kept="none") is None


MARIADB = [
    ("'it''s'", "E'it''s'"),
    ("NULL", None),
    ("'NULL'", "E'NULL'"),
    ("5", "E'5'"),
]


@pytest.mark.parametrize("printed, expected", MARIADB)
def test_mariadb_prints_defaults_as_sql(printed: str, expected: str | None) -> None:
    assert _default(_column(K.TEXT, "varchar(20)", printed, **TEXT), "postgresql", "mariadb") == expected


NOT_KEPT: list[tuple[ColumnDefinition, SinkKind, Flavor]] = [
    (_column(K.DATE, "date", "0000-00-00"), "postgresql", "mysql"),
    (_column(K.DATE, "date", "2023-02-29"), "postgresql", "mysql"),
    (_column(K.TEXT, "varchar(36)", "uuid()", has_default_expression=True, **TEXT), "postgresql", "mysql"),
    (_column(K.TEXT, "varchar(36)", "uuid()", **TEXT), "mariadb", "mariadb"),
    (_column(K.BLOB, "varbinary(9)", "0x61", length=9), "mysql", "mysql"),
    (_column(K.JSON, "json", "json_object()", has_default_expression=True), "mysql", "mysql"),
    (_column(K.TEXT, "text", "'x'", **TEXT), "mysql", "mariadb"),
]


@pytest.mark.parametrize("column, kind, flavor", NOT_KEPT)
def test_what_the_sink_cannot_have_is_left_out_with_a_word(
    column: ColumnDefinition, kind: SinkKind, flavor: Flavor
) -> None:
    with pytest.raises(NotKept):
        _default(column, kind, flavor)
    target = _target(column, kind, flavor)
    assert target.columns[1].default is None
    assert [text for text in left_out(target, kind) if "the default of c is left out" in text]


def test_expressions_are_kept_on_a_sink_of_the_same_kind_if_asked() -> None:
    column = _column(K.TEXT, "varchar(36)", "uuid()", has_default_expression=True, **TEXT)
    assert _default(column, "mysql", kept="all") == "(uuid())"
    for kind in ("mariadb", "postgresql"):
        with pytest.raises(NotKept, match="not known to be the same"):
            _default(column, kind, kept="all")
    other = replace(column, default="concat(`id`,_utf8mb4\\'x\\')")
    with pytest.raises(NotKept):
        _default(other, "mysql", kept="all")


def test_a_masked_column_has_no_default_which_would_be_as_good_as_a_value() -> None:
    column = _column(K.TEXT, "varchar(20)", "secret", **TEXT)
    options = TableOptions(columns=(ColumnOption("c", masking=Masking("text", text="***")),))
    target = _target(column, "postgresql", options=options)
    assert target.columns[1].default is None


def test_identity_is_for_the_first_column_of_the_key_and_off_by_default() -> None:
    column = _column(K.INTEGER, "int", None, length=32)
    asked = TableOptions(attributes=Attributes(identity=True))
    assert not _target(column, "postgresql").columns[0].is_identity
    assert [c.is_identity for c in _target(column, "postgresql", options=asked).columns] == [True, False]
    other_key = _target(column, "mysql", options=asked, key=("c",))
    assert not other_key.columns[0].is_identity
    assert list(left_out(other_key, "mysql")) == [
        "the numbering of id is left out: it is not the first column of the key"
    ]


def test_comments_come_along_unless_they_are_not_wanted() -> None:
    column = _column(K.INTEGER, "int", None, length=32, comment="it's \\ 5 % of\nall")
    target = _target(column, "mysql")
    assert (target.comment, target.columns[1].comment) == ("a table", "it's \\ 5 % of\nall")
    bare = _target(column, "mysql", options=TableOptions(attributes=Attributes(comments=False)))
    assert (bare.comment, bare.columns[1].comment) == ("", "")
