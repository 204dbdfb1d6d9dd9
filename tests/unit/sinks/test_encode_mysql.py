from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition
from cdc.schema.target import SinkKind
from cdc.sinks.encode_mysql import encode_column, error_members, key_literals, row_literals, text_literal
from cdc.sinks.values import PolicyCounter, ValueRefused
from tests.unit.sinks.builders import (
    ID,
    K,
    array_of,
    column,
    date,
    micros,
    moment,
    rows_of,
    table,
    target_column,
    target_of,
)

ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def encoded(definition: ColumnDefinition, values: Sequence[Any], kind: SinkKind = "mysql", **more: Any) -> list[str]:
    return encode_column(array_of(values, definition), target_column(definition, kind), kind, **more)


@pytest.mark.parametrize(
    "definition,value,literal",
    [
        (column("c", K.INTEGER, "bigint unsigned", length=64), 2**64 - 1, "18446744073709551615"),
        (column("c", K.DECIMAL, "decimal(65,30)", precision=65, scale=30), Decimal("-1e-30"), "-0." + "0" * 29 + "1"),
        (column("c", K.FLOAT, "float"), 0.10000000149011612, "0.10000000149011612e0"),
        (column("c", K.DOUBLE, "double"), -0.0, "-0.0e0"),
        (column("c", K.DOUBLE, "double"), 1e16, "1e+16"),
        (column("c", K.BIT, "bit(64)", length=64), 2**63, "9223372036854775808"),
        (column("c", K.YEAR, "year"), 0, "0"),
        (column("c", K.DATE, "date"), 0, "'0000-00-00'"),
        (column("c", K.DATE, "date"), date(2023, 2, 30), "'2023-02-30'"),
        (column("c", K.DATETIME, "datetime(6)"), moment(0, 12, 31, 1, 2, 3, 4), "'0000-12-31 01:02:03.000004'"),
        (column("c", K.TIMESTAMP, "timestamp"), 0, "'0000-00-00 00:00:00.000000'"),
        (column("c", K.TIMESTAMP, "timestamp"), 1_000_000, "'1970-01-01 00:00:01.000000'"),
        (column("c", K.TIME, "time(6)"), -micros(838, 59, 59, 999_999), "'-838:59:59.999999'"),
        (column("c", K.TEXT, "text"), "'\\\0\x1a\n%s\"", "'\\'\\\\\\0\\Z\n%s\"'"),
        (column("c", K.BLOB, "blob"), b"", "x''"),
        (column("c", K.BINARY, "binary(2)"), b"\0'", "x'0027'"),
        (column("c", K.ENUM, "enum()", members=("a", "b")), 2, "2"),
        (column("c", K.ENUM, "enum()", members=("a", "b")), 0, "0"),
        (column("c", K.SET, "set()", members=("a", "b")), 3, "3"),
        (column("c", K.JSON, "json"), '{"a": 1.5}', "'{\"a\": 1.5}'"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_a_value_becomes_a_literal(definition: ColumnDefinition, value: Any, literal: str) -> None:
    assert encoded(definition, [None, value]) == ["NULL", literal]


def test_minus_zero_reaches_a_float_of_mariadb_by_way_of_a_number_too_small() -> None:
    definition = column("c", K.FLOAT, "float")
    assert encoded(definition, [-0.0, 0.0], "mariadb") == ["-1e-300", "0.0e0"]
    assert encoded(definition, [-0.0], "mariadb", is_compared=True) == ["-0.0e0"]


def test_a_set_is_compared_by_its_text() -> None:
    definition = column("c", K.SET, "set()", members=("a", "it's"))
    assert encoded(definition, [3, 0], is_compared=True) == ["'a,it\\'s'", "''"]


@pytest.mark.parametrize(
    "definition,value",
    [
        (column("c", K.DOUBLE, "double"), float("nan")),
        (column("c", K.DOUBLE, "double"), float("inf")),
        (column("c", K.ENUM, "enum()", members=("a",)), 2),
        (column("c", K.SET, "set()", members=("a",)), 2),
        (column("c", K.JSON, "json"), "[" + "9" * 66 + "]"),
        (column("c", K.JSON, "json"), "[0." + "3" * 31 + "]"),
    ],
    ids=repr,
)
def test_what_the_sink_cannot_hold_is_refused(definition: ColumnDefinition, value: Any) -> None:
    with pytest.raises(ValueRefused):
        encoded(definition, [value])


def test_a_key_that_is_null_is_refused_by_name() -> None:
    source = table(ID, column("k", K.INTEGER, "int", length=32), key=("id", "k"))
    with pytest.raises(UnsupportedData, match="key is NULL") as caught:
        key_literals(rows_of(source, [(1, 1), (2, None)]), target_of(source, "mysql"), "mysql")
    assert (caught.value.column, caught.value.key) == ("k", "id=2, k=NULL")


def test_keys_and_rows_are_put_together() -> None:
    source = table(
        column("b", K.TEXT, "varchar(9)", length=9), column("a`", K.INTEGER, "int", length=32), key=("a`", "b")
    )
    rows, target = rows_of(source, [("x", 1)]), target_of(source, "mysql")
    assert key_literals(rows, target, "mysql") == [b"(`a``` = 1 AND `b` = 'x')"]
    assert row_literals(rows, target, "mysql", PolicyCounter(), keeps_negative_zero=True) == [b"('x',1)"]


def test_error_members_are_found() -> None:
    source = table(ID, *(column(n, K.ENUM, "enum()", members=("a",)) for n in ("e", "f")))
    rows = rows_of(source, [(1, 1, 0), (2, 1, 1), (3, 0, 0), (4, None, None)])
    assert error_members(rows, target_of(source, "mysql").columns) == {0: ["f"], 2: ["e", "f"]}


def unquoted(literal: bytes) -> bytes:
    """A quoted literal as a server with backslash escapes reads it; fails where it would end early."""
    assert literal[:1] == literal[-1:] == b"'"
    body = literal[1:-1]
    assert not re.search(rb"(?<!\\)(?:\\\\)*'", body)
    return ESCAPED.sub(lambda m: {b"0": b"\0", b"Z": b"\x1a"}.get(m[1], m[1]), body)


@given(st.text())
def test_any_text_survives_quoting(text: str) -> None:
    assert unquoted(text_literal(text).encode()) == text.encode()


@given(st.binary())
def test_any_bytes_in_a_text_survive_quoting(raw: bytes) -> None:
    definition = column("t", K.TEXT, "longtext")
    source = table(ID, definition)
    (row,) = row_literals(
        rows_of(source, [(1, raw)]), target_of(source, "mysql"), "mysql", PolicyCounter(), keeps_negative_zero=True
    )
    assert unquoted(row.removeprefix(b"(1,").removesuffix(b")")) == raw


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_literal_is_a_double_and_exact(value: float) -> None:
    (literal,) = encoded(column("c", K.DOUBLE, "double"), [value])
    assert "e" in literal
    assert struct.pack(">d", float(literal)) == struct.pack(">d", value)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_literal_is_the_stored_number(value: float) -> None:
    (literal,) = encoded(column("c", K.FLOAT, "float"), [value])
    assert float(literal) == value
    assert math.copysign(1, float(literal)) == math.copysign(1, value)


def test_json_with_numbers_beyond_a_double_is_put_together_by_functions() -> None:
    definition = column("c", K.JSON, "json")
    text = '{"it\'s": [1.0, 12345678901234567890.5, null, "x"]}'
    expression = (
        "JSON_OBJECT('it\\'s', JSON_ARRAY(CAST('1.0' AS JSON), "
        "JSON_EXTRACT(JSON_ARRAY(CAST('12345678901234567890.5' AS DECIMAL(21,1))), '$[0]'), "
        "CAST('null' AS JSON), CAST('\"x\"' AS JSON)))"
    )
    assert encoded(definition, [text]) == [expression]
    assert encoded(definition, [text], "mariadb") == [text_literal(text)]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.integers(-(2**63), 2**64 - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(JSON)
def test_json_whose_numbers_are_integers_or_doubles_is_sent_as_it_is(value: Any) -> None:
    text = json.dumps(value)
    assert encoded(column("c", K.JSON, "json"), [text]) == [text_literal(text)]
