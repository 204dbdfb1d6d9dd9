"""Row filters and a table: literals become the values that its columns hold, or are refused with the column."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition
from cdc.rowfilter import Compare, OneOf, parse_filter
from cdc.schema.filters import bind
from tests.unit.sinks.builders import ID, K, column, date, micros, moment, table

COLUMNS = (
    ID,
    column("tiny", K.INTEGER, "tinyint(1)", length=8),
    column("big", K.INTEGER, "bigint unsigned", length=64),
    column("bits", K.BIT, "bit(9)", length=9),
    column("year", K.YEAR, "year"),
    column("price", K.DECIMAL, "decimal(5,2)", precision=5, scale=2),
    column("f", K.FLOAT, "float"),
    column("day", K.DATE, "date"),
    column("at", K.DATETIME, "datetime(6)"),
    column("ts", K.TIMESTAMP, "timestamp"),
    column("span", K.TIME, "time"),
    column("name", K.TEXT, "varchar(9)", length=9),
    column("kind", K.ENUM, "enum('new','old')", members=("new", "old")),
    column("raw", K.BLOB, "varbinary(9)", length=9),
    column("pad", K.BINARY, "binary(4)", length=4),
    column("doc", K.JSON, "json"),
)
CUSTOMERS = table(*COLUMNS)


def bound(text: str) -> Any:
    return bind(parse_filter(text), CUSTOMERS).condition


@pytest.mark.parametrize(
    "text,value",
    [
        ("tiny = TRUE", 1),
        ("big = 18446744073709551615", 2**64 - 1),
        ("bits = 5", 5),
        ("year > 2020", 2020),
        ("price >= 1.5", Decimal("1.5")),
        ("f < 1e3", 1000.0),
        ("day = '2024-02-29'", date(2024, 2, 29)),
        ("day > '0000-00-00'", 0),
        ("at = '2024-02-29'", moment(2024, 2, 29)),
        ("at = '2024-02-29 10:11:12.5'", moment(2024, 2, 29, 10, 11, 12, 500000)),
        ("ts = '1970-01-01 00:00:01'", 1_000_000),
        ("ts = '1970-01-02T00:00'", 86_400_000_000),
        ("ts = '0000-00-00 00:00:00'", 0),
        ("span > '-838:59:59'", -micros(838, 59, 59)),
        ("span = '10:00'", micros(10)),
        ("name = 'Zoë'", "Zoë"),
        ("kind = 'old'", 2),
        ("kind = ''", 0),
        ("raw = x'00'", b"\0"),
        ("pad = x'01'", b"\x01\0\0\0"),
    ],
)
def test_a_literal_becomes_the_columns_value(text: str, value: Any) -> None:
    condition = bound(text)
    assert isinstance(condition, Compare)
    assert condition.value == value
    assert type(condition.value) is type(value)


def test_every_literal_of_a_list_does() -> None:
    assert bound("kind IN ('old', 'new')") == OneOf("kind", (2, 1))


@pytest.mark.parametrize(
    "text,name,said",
    [
        ("nmae = 'x'", "nmae", "has no column nmae"),
        ("NOT (id = 1 OR nmae IS NULL)", "nmae", "has no column nmae"),
        ("tiny = 128", "tiny", "cannot hold 128"),
        ("big = -1", "big", "cannot hold -1"),
        ("id = 1.5", "id", "holds whole numbers"),
        ("id = '1'", "id", "is a number, and the literal is none"),
        ("price = 1.005", "price", "cannot hold 1.005"),
        ("price = 1000", "price", "cannot hold 1000"),
        ("day = '2024-13-01'", "day", "holds no '2024-13-01'"),
        ("day = '2024-01-01 10:00:00'", "day", "is not compared with '2024-01-01 10:00:00'"),
        ("day = 20240101", "day", "is not compared with 20240101"),
        ("ts = '2024-02-30'", "ts", "day is out of range"),
        ("at = 'yesterday'", "at", "write it as"),
        ("span = '839:00:00'", "span", "write it as"),
        ("name > 'a'", "name", "= <> and IN only"),
        ("name = 1", "name", "is not compared with 1"),
        ("kind = 'gone'", "kind", "has no member 'gone'"),
        ("kind > 'new'", "kind", "= <> and IN only"),
        ("raw = 'x'", "raw", "is not compared with 'x'"),
        ("doc = 'x'", "doc", "is not compared with 'x'"),
        ("name", "name", "is no number, so it is neither true nor false"),
    ],
)
def test_what_a_column_can_never_be_is_refused_with_the_column(text: str, name: str, said: str) -> None:
    with pytest.raises(UnsupportedData, match=said) as caught:
        bound(text)
    assert (caught.value.table, caught.value.column) == ("shop.t", name)
    assert caught.value.hint


def test_every_column_may_be_null() -> None:
    for definition in COLUMNS:
        assert isinstance(definition, ColumnDefinition)
        bound(f"`{definition.name}` IS NOT NULL")
