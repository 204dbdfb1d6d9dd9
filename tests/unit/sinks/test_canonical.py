from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.model import ColumnDefinition
from cdc.schema.target import Policies, SinkKind
from cdc.sinks.canonical import canonical, canonical_from_arrow, from_mysql, from_postgres, json_text, number_text
from tests.unit.sinks.builders import ID, K, array_of, column, date, floats, micros, moment, table, target_of


def texts(
    definition: ColumnDefinition, values: Sequence[Any], kind: SinkKind, flavor: Any = "mysql", **policies: Any
) -> Any:
    target = target_of(table(ID, definition, flavor=flavor), kind, **policies)
    return canonical_from_arrow(array_of(values, definition), target.columns[1], Policies(**policies), kind)


@pytest.mark.parametrize(
    "text,expected",
    [("0", "0"), ("-0.00", "0"), ("1.50", "1.5"), ("100", "100"), ("-1E-3", "-0.001"), ("1E+3", "1000")],
)
def test_numbers_have_one_text(text: str, expected: str) -> None:
    assert number_text(Decimal(text)) == expected


@pytest.mark.parametrize(
    "left,right",
    [
        ('{"b": 1.0, "a": [1e2, -0.0]}', '{"a":[100,0],"b":1}'),
        ("1.50", "1.5"),
        ("12345678901234567890.10", "12345678901234567890.1"),
        (r'"\u00e9\/"', '"é/"'),
        ("1e400", "1" + "0" * 400),
        ("{}", " { } "),
    ],
)
def test_json_of_one_value_has_one_text(left: str, right: str) -> None:
    assert json_text(left) == json_text(right)


@pytest.mark.parametrize(
    "left,right",
    [
        ("1", '"1"'),
        ("null", '"null"'),
        ("true", "1"),
        ("[]", "{}"),
        ("[1,2]", "[2,1]"),
        ("12345678901234567890.1", "12345678901234567890.2"),
        ("1e400", "1e401"),
        ('{"a":1}', '{"A":1}'),
        ('["a,b"]', '["a","b"]'),
        ('{"a":{"b":1}}', '{"a":[{"b":1}]}'),
    ],
)
def test_json_of_two_values_has_two_texts(left: str, right: str) -> None:
    assert json_text(left) != json_text(right)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON, JSON)
def test_json_texts_are_equal_only_if_the_values_are(left: Any, right: Any) -> None:
    def same(a: Any, b: Any) -> bool:
        return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)

    assert (json_text(json.dumps(left)) == json_text(json.dumps(right, indent=1))) == same(left, right)


@given(JSON)
def test_canonical_json_is_json_of_the_same_value(value: Any) -> None:
    found = json.loads(json_text(json.dumps(value)), parse_float=lambda text: int(Decimal(text)))
    assert json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_floats_are_compared_by_their_bits() -> None:
    assert texts(column("c", K.DOUBLE, "double"), [-0.0, 0.0], "postgresql") == ["8000000000000000", "0" * 16]
    assert texts(column("c", K.DOUBLE, "double"), [-0.0, 0.0], "mysql") == ["8000000000000000", "0" * 16]
    assert texts(column("c", K.DOUBLE, "double"), [-0.0], "mariadb") == ["0" * 16]
    assert texts(column("c", K.FLOAT, "float"), [-0.0], "mariadb") == ["80000000"]
    assert canonical(K.FLOAT, 0.10000000149011612) == "3dcccccd"


def test_policies_are_part_of_what_is_expected() -> None:
    zero = column("c", K.DATE, "date")
    assert texts(zero, [0, date(2024, 1, 2)], "postgresql") == [None, "2024-01-02"]
    assert texts(zero, [0], "postgresql", zero_dates="infinity") == ["infinity"]
    assert texts(zero, [0, date(2023, 2, 30)], "mysql") == ["0000-00-00", "2023-02-30"]
    nul = column("c", K.TEXT, "text")
    assert texts(nul, ["a\0"], "postgresql") == ["a\ufffd"]
    assert texts(nul, ["a\0"], "postgresql", nul_bytes="strip") == ["a"]
    assert texts(nul, ["a\0"], "mariadb") == ["a\0"]


def test_json_of_mariadb_is_compared_as_text() -> None:
    definition = column("c", K.JSON, "longtext")
    for kind in ("postgresql", "mysql", "mariadb"):
        assert texts(definition, ['{"b": 1.0, "a":1}'], kind, "mariadb") == ['{"b": 1.0, "a":1}']
    assert texts(column("c", K.JSON, "json"), ['{"b": 1.0, "a":1}'], "mariadb") == ['{"b": 1.0, "a":1}']
    assert texts(column("c", K.JSON, "json"), ['{"b": 1.0, "a":1}'], "mysql") == ['{"a":1,"b":1}']


@pytest.mark.parametrize(
    "definition,value,printed",
    [
        (column("c", K.INTEGER, "int", length=32), -5, "-5"),
        (column("c", K.DECIMAL, "decimal(10,2)", precision=10, scale=2), Decimal("-1.50"), "-1.50"),
        (column("c", K.DOUBLE, "double"), 0.1, "3fb999999999999a"),
        (column("c", K.BIT, "bit(4)", length=4), 5, "0101"),
        (column("c", K.DATETIME, "datetime(3)"), moment(2024, 1, 2, 3, 4, 5, 120000), "2024-01-02 03:04:05.12"),
        (column("c", K.DATETIME, "datetime"), moment(2024, 1, 2), "2024-01-02 00:00:00"),
        (column("c", K.TIMESTAMP, "timestamp"), 1_000_000, "1970-01-01 00:00:01+00"),
        (column("c", K.TIME, "time(6)"), -1, "-1"),
        (column("c", K.TEXT, "text"), "\\N", "\\N"),
        (column("c", K.BLOB, "blob"), b"\0", "00"),
        (column("c", K.ENUM, "enum()", members=("a",)), 1, "a"),
        (column("c", K.SET, "set()", members=("a", "b")), 3, "a,b"),
        (column("c", K.VECTOR, "vector(2)", length=2), floats(0.1, -1), "{0.1,-1}"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_what_postgresql_prints_is_what_is_expected(definition: ColumnDefinition, value: Any, printed: str) -> None:
    target = target_of(table(ID, definition))
    assert from_postgres([("1", printed), ("2", None)], target) == [
        ("1", *texts(definition, [value], "postgresql")),
        ("2", None),
    ]


@pytest.mark.parametrize(
    "definition,value,printed",
    [
        (column("c", K.INTEGER, "int(5) unsigned zerofill", length=32), 5, ["00005"]),
        (column("c", K.DOUBLE, "double"), -0.0, ["0", 1]),
        (column("c", K.FLOAT, "float"), 0.5, [0.5, 0]),
        (column("c", K.DATETIME, "datetime(3)"), moment(2023, 0, 2, 3, 4, 5, 120000), ["2023-00-02 03:04:05.120"]),
        (column("c", K.TIME, "time(1)"), -micros(838, 0, 0, 100_000), ["-838:00:00.1"]),
        (column("c", K.TEXT, "text"), b"\xed\xa0\x80", [b"\xed\xa0\x80"]),
        (column("c", K.BLOB, "blob"), b"\xab", ["AB"]),
        (column("c", K.ENUM, "enum()", members=("a",)), 0, [0]),
        (column("c", K.SET, "set()", members=("a", "b")), 3, [3]),
        (column("c", K.JSON, "json"), '{"b":1,"a":2}', [b'{"a": 2.0, "b": 1}']),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_what_mysql_prints_is_what_is_expected(definition: ColumnDefinition, value: Any, printed: list[Any]) -> None:
    target = target_of(table(ID, definition), "mysql")
    assert from_mysql([["1", *printed]], target, "mysql") == [("1", *texts(definition, [value], "mysql"))]


@given(st.integers(-3020399_999_999, 3020399_999_999))
def test_a_time_is_read_back_as_its_microseconds(value: int) -> None:
    from cdc.sinks.values import time_text

    target = target_of(table(ID, column("c", K.TIME, "time(6)", fraction_digits=6)), "mysql")
    assert from_mysql([["1", time_text(value)]], target, "mysql") == [("1", str(value))]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=10, min_value=-(10**20), max_value=10**20))
def test_scale_does_not_matter(number: Decimal) -> None:
    assert number_text(number) == number_text(Decimal(f"{number:f}000"))
    assert Decimal(number_text(number)) == number
