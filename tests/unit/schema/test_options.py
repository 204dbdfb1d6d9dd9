"""Columns left out, renamed and masked: what the target becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cdc.errors import UnsupportedData
from cdc.rowfilter import parse_filter
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions, names_made
from cdc.schema.target import Masking, Policies, SinkKind, TargetTable
from tests.unit.sinks.builders import ID, K, column, table

NAME = column("name", K.TEXT, "varchar(20)", length=20, is_nullable=False)
BORN = column("born", K.DATE, "date", is_nullable=False)
PRICE = column("price", K.DOUBLE, "double")
CUSTOMERS = table(ID, NAME, BORN, PRICE)
HASH = Masking("hash", salt=b"0123456789abcdef")
KINDS: tuple[SinkKind, ...] = ("postgresql", "mysql", "mariadb")


def mapped(options: TableOptions, kind: SinkKind = "postgresql", **more: Any) -> TargetTable:
    return map_table(
        CUSTOMERS, kind=kind, namespace="n", name="t", key=("id",), policies=Policies(), options=options, **more
    )


def test_without_options_every_column_is_there_under_its_own_name() -> None:
    target = mapped(TableOptions())

    assert [c.name for c in target.columns] == ["id", "name", "born", "price"]
    assert target.key == target.source_key == ("id",)


@pytest.mark.parametrize(
    "options,names",
    [
        (TableOptions(exclude=("born",)), ["id", "name", "price"]),
        (TableOptions(include=("price", "id")), ["id", "price"]),
        (TableOptions(columns=(ColumnOption("name", rename="full name"),)), ["id", "full name", "born", "price"]),
        (
            TableOptions(columns=(ColumnOption("name", rename="born"), ColumnOption("born", rename="name"))),
            ["id", "born", "name", "price"],
        ),
    ],
)
def test_columns_are_left_out_and_renamed(options: TableOptions, names: list[str]) -> None:
    target = mapped(options)

    assert [c.name for c in target.columns] == names
    assert [c.source.name for c in target.columns] == [c.name for c in CUSTOMERS.columns if options.keeps(c.name)]


def test_a_renamed_key_has_its_names_on_both_sides() -> None:
    target = mapped(TableOptions(columns=(ColumnOption("id", rename="customer"),)))

    assert target.key == ("customer",)
    assert target.source_key == ("id",)
    assert target.columns[0].is_key


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_column_has_the_type_of_what_the_mask_makes(kind: SinkKind) -> None:
    text = Masking("text", text="hidden")
    options = TableOptions(
        columns=(
            ColumnOption("name", masking=HASH),
            ColumnOption("born", masking=text),
            ColumnOption("price", masking=Masking("null")),
        )
    )
    _, name, born, price = mapped(options, kind).columns

    assert name.sql_type.startswith("varchar(64)")
    assert born.sql_type.startswith("varchar(6)")
    assert (name.source.kind, born.source.kind, price.source.kind) == (K.TEXT, K.TEXT, K.DOUBLE)
    assert not name.is_nullable
    assert not born.is_nullable
    assert mapped(TableOptions(columns=(ColumnOption("born", masking=Masking("null")),)), kind).columns[2].is_nullable


@pytest.mark.parametrize(
    "options,column_name,said",
    [
        (TableOptions(exclude=("nmae",)), "nmae", "has no column nmae"),
        (TableOptions(include=("id", "nmae")), "nmae", "has no column nmae"),
        (TableOptions(columns=(ColumnOption("nmae", masking=HASH),)), "nmae", "has no column nmae"),
        (TableOptions(exclude=("id",)), "id", "part of the key .id. and cannot be left out"),
        (TableOptions(include=("name",)), "id", "part of the key .id. and cannot be left out"),
        (TableOptions(columns=(ColumnOption("id", masking=HASH),)), "id", "part of the key .* masked or hashed"),
        (TableOptions(columns=(ColumnOption("price", masking=HASH),)), "price", "cannot be hashed"),
        (TableOptions(columns=(ColumnOption("born", masking=Masking("keep_last", keep=1)),)), "born", "is no text"),
        (TableOptions(columns=(ColumnOption("name", rename="born"),)), "born", "the same name on the sink as born"),
        (TableOptions(columns=(ColumnOption("name", rename="ctid"),)), "name", "system column"),
        (TableOptions(columns=(ColumnOption("name", rename="n" * 64),)), "name", "64 bytes"),
    ],
)
def test_options_that_cannot_be_kept_to_are_refused_with_the_column(
    options: TableOptions, column_name: str, said: str
) -> None:
    with pytest.raises(UnsupportedData, match=said) as caught:
        mapped(options)
    assert caught.value.column == column_name
    assert caught.value.table == "shop.t"
    assert caught.value.hint


def test_a_column_that_the_sink_could_not_hold_may_be_left_out_or_renamed() -> None:
    definition = table(ID, column("xmin", K.INTEGER, "int", length=32))
    for options in (TableOptions(exclude=("xmin",)), TableOptions(columns=(ColumnOption("xmin", rename="x"),))):
        map_table(
            definition, kind="postgresql", namespace="n", name="t", key=("id",), policies=Policies(), options=options
        )


def test_the_description_tells_options_apart_and_no_secret() -> None:
    every = [
        TableOptions(),
        TableOptions(include=("id",)),
        TableOptions(exclude=("id",)),
        TableOptions(columns=(ColumnOption("name", rename="n"),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("null")),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("text", text="a")),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("text", text="b")),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("keep_first", keep=2)),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("keep_last", keep=2)),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("keep_last", keep=3)),)),
        TableOptions(columns=(ColumnOption("name", masking=HASH),)),
        TableOptions(columns=(ColumnOption("name", masking=Masking("hash", salt=b"another salt....")),)),
        TableOptions(row_filter=parse_filter("id = 1")),
        TableOptions(row_filter=parse_filter("id = 2")),
        TableOptions(metadata=(("load_id", "a"),)),
        TableOptions(metadata=(("row_id", "a"),)),
        TableOptions(metadata=(("load_id", "b"),)),
    ]
    descriptions = [options.description for options in every]

    assert descriptions[0] == {}
    assert all(descriptions.count(one) == 1 for one in descriptions)
    assert not any(salt in repr(descriptions) + repr(every) for salt in ("0123456789abcdef", "another salt"))


def test_the_order_of_entries_makes_no_other_options() -> None:
    one, other = ColumnOption("name", rename="n"), ColumnOption("born", masking=HASH)

    assert TableOptions(exclude=("a", "b"), columns=(one, other)).description == (
        TableOptions(exclude=("b", "a"), columns=(other, one)).description
    )
    assert names_made(TableOptions(columns=(one, other)).description) == {"n"}


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_columns_stand_behind_those_of_the_source(kind: SinkKind) -> None:
    every = (("load_id", "l"), ("row_id", "r"), ("commit_time", "c"), ("operation", "o"), ("position", "p"))
    target = mapped(TableOptions(exclude=("price",), metadata=every), kind)  # type: ignore[arg-type]  # literals

    assert [column.name for column in target.columns] == ["id", "name", "born", "l", "r", "c", "o", "p"]
    assert [column.metadata for column in target.columns] == [None, None, None, *(of for of, _ in every)]
    assert [column.is_nullable for column in target.columns[3:]] == [False, False, True, False, True]
    assert [column.name for column in target.without_metadata().columns] == ["id", "name", "born"]
    assert target.without_metadata().key == target.key == ("id",)


def test_a_metadata_column_takes_no_name_of_the_source() -> None:
    with pytest.raises(UnsupportedData, match="column name has the same name on the sink as name"):
        mapped(TableOptions(metadata=(("load_id", "name"),)))
    renamed = TableOptions(columns=(ColumnOption("name", rename="other"),), metadata=(("load_id", "name"),))
    assert [column.name for column in mapped(renamed).columns] == ["id", "other", "born", "price", "name"]


def test_a_column_that_is_called_as_metadata_are_here_is_refused_and_not_mixed_up() -> None:
    with pytest.raises(UnsupportedData, match="stands for a metadata column") as caught:
        map_table(
            table(ID, column("(load_id)", K.TEXT, "varchar(20)", length=20)),
            kind="mysql",
            namespace="n",
            name="t",
            key=("id",),
            policies=Policies(),
            options=TableOptions(metadata=(("load_id", "l"),)),
        )
    assert caught.value.column == "(load_id)"
