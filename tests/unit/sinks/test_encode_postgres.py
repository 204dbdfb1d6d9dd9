from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition
from cdc.schema.target import Policies
from cdc.sinks.encode_postgres import copy_text, encode_column, plain_values
from cdc.sinks.values import PolicyCounter, ValueRefused
from tests.unit.sinks.builders import (
    HOSTILE_TEXTS,
    ID,
    K,
    array_of,
    column,
    date,
    floats,
    micros,
    moment,
    point,
    rows_of,
    table,
    target_column,
    target_of,
)

ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def encoded(definition: ColumnDefinition, values: Sequence[Any], flavor: Any = "mysql", **policies: Any) -> list[Any]:
    target = target_column(definition, "postgresql", flavor)
    return plain_values(array_of(values, definition), target, Policies(**policies), PolicyCounter())


def read_copy(text: str) -> list[list[str | None]]:
    """COPY text as PostgreSQL reads it (manual, COPY, "Text Format")."""
    named = {"t": "\t", "n": "\n", "r": "\r"}
    lines = text.split("\n")
    assert lines.pop() == ""
    return [
        [None if f == "\\N" else ESCAPED.sub(lambda m: named.get(m[1], m[1]), f) for f in line.split("\t")]
        for line in lines
    ]


@pytest.mark.parametrize(
    "definition,value,text",
    [
        (column("c", K.INTEGER, "bigint unsigned", length=64), 2**64 - 1, "18446744073709551615"),
        (column("c", K.DECIMAL, "decimal(65,30)", precision=65, scale=30), Decimal("-1e-30"), "-0." + "0" * 29 + "1"),
        (column("c", K.DECIMAL, "decimal(65,0)", precision=65), Decimal("1e64"), "1" + "0" * 64),
        (column("c", K.FLOAT, "float"), -0.0, "-0.0"),
        (column("c", K.DOUBLE, "double"), 5e-324, "5e-324"),
        (column("c", K.BIT, "bit(5)", length=5), 5, "00101"),
        (column("c", K.BIT, "bit(64)", length=64), 2**64 - 1, "1" * 64),
        (column("c", K.YEAR, "year"), 0, "0"),
        (column("c", K.DATE, "date"), date(1, 2, 3), "0001-02-03"),
        (column("c", K.DATE, "date"), 0, None),
        (column("c", K.DATE, "date"), date(2023, 2, 29), None),
        (column("c", K.DATE, "date"), date(2000, 2, 29), "2000-02-29"),
        (column("c", K.DATE, "date"), date(1900, 2, 29), None),
        (column("c", K.DATE, "date"), date(0, 12, 31), None),
        (column("c", K.DATETIME, "datetime(6)"), moment(9999, 12, 31, 23, 59, 59, 1), "9999-12-31 23:59:59.000001"),
        (column("c", K.TIMESTAMP, "timestamp"), 0, None),
        (column("c", K.TIMESTAMP, "timestamp"), 1, "1970-01-01 00:00:00.000001+00"),
        (column("c", K.TIMESTAMP, "timestamp"), 4294967295_999_999, "2106-02-07 06:28:15.999999+00"),
        (column("c", K.TIME, "time(6)"), -1, "-00:00:00.000001"),
        (column("c", K.TIME, "time(6)"), -micros(838, 59, 59, 999_999), "-838:59:59.999999"),
        (column("c", K.TEXT, "text"), "a\0b\0", "a\ufffdb\ufffd"),
        (column("c", K.BLOB, "blob"), b"\0\\", r"\x005c"),
        (column("c", K.ENUM, "enum()", members=("a", "b")), 2, "b"),
        (column("c", K.ENUM, "enum()", members=("a", "b")), 0, ""),
        (column("c", K.SET, "set()", members=("a", "b", "c")), 0b101, "a,c"),
        (column("c", K.SET, "set()", members=("a", "b", "c")), 0, ""),
        (column("c", K.JSON, "json"), r'{"a": "\\u0000 \u0000"}', r'{"a": "\\u0000 \ufffd"}'),
        (column("c", K.JSON, "json"), r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
        (column("c", K.GEOMETRY, "point"), point(1, 2), r"\x" + point(1, 2)[4:].hex()),
        (column("c", K.VECTOR, "vector(2)", length=2), floats(1, -0.5), "{1.0,-0.5}"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_a_value_becomes_the_text_that_postgresql_reads(
    definition: ColumnDefinition, value: Any, text: str | None
) -> None:
    assert encoded(definition, [None, value]) == [None, text]


def test_addresses_and_uuids_are_printed_as_usual() -> None:
    six = bytes.fromhex("00000000000000000000ffff01020304")
    assert encoded(column("c", K.INET6, "inet6"), [six, bytes(16)], "mariadb") == ["::ffff:1.2.3.4", "::"]
    assert encoded(column("c", K.INET4, "inet4"), [b"\1\2\3\4"], "mariadb") == ["1.2.3.4"]
    assert encoded(column("c", K.UUID, "uuid"), [bytes(15) + b"\1"], "mariadb") == [
        "00000000-0000-0000-0000-000000000001"
    ]


@pytest.mark.parametrize("zero_dates,text", [("null", None), ("infinity", "infinity")])
def test_impossible_dates_go_by_their_policy_and_are_counted(zero_dates: Any, text: str | None) -> None:
    for definition, zero in (
        (column("c", K.DATE, "date"), 0),
        (column("c", K.DATETIME, "datetime"), moment(2023, 0, 1)),
        (column("c", K.TIMESTAMP, "timestamp"), 0),
    ):
        counter = PolicyCounter()
        values = plain_values(
            array_of([zero, None], definition), target_column(definition), Policies(zero_dates), counter
        )
        assert values == [text, None]
        assert counter.changes == Counter({("c", "zero_dates"): 1})


@pytest.mark.parametrize(
    "definition,value,said",
    [
        (column("c", K.DATE, "date"), 0, "no date 0000-00-00"),
        (column("c", K.TEXT, "text"), "\0", "U\\+0000"),
        (column("c", K.JSON, "json"), r'"\u0000"', "U\\+0000"),
    ],
)
def test_the_policy_error_refuses_and_names_the_setting(definition: ColumnDefinition, value: Any, said: str) -> None:
    with pytest.raises(ValueRefused, match=said) as caught:
        encoded(definition, [None, value], zero_dates="error", nul_bytes="error")
    assert caught.value.index == 1
    assert "policies." in caught.value.hint


@pytest.mark.parametrize(
    "definition,value",
    [
        (column("c", K.DOUBLE, "double"), float("nan")),
        (column("c", K.DOUBLE, "double"), float("inf")),
        (column("c", K.FLOAT, "float"), float("-inf")),
        (column("c", K.ENUM, "enum()", members=("a",)), 2),
        (column("c", K.SET, "set()", members=("a",)), 2),
        (column("c", K.BIT, "bit(3)", length=3), 8),
        (column("c", K.TEXT, "text"), b"\xed\xa0\x80"),
        (column("c", K.TEXT, "text"), b"\xff"),
        (column("c", K.JSON, "json"), r'"\ud800"'),
        (column("c", K.JSON, "json"), r'"\ud800\n\udc00"'),
        (column("c", K.JSON, "json"), r'"\ud800 \udc00"'),
        (column("c", K.JSON, "json"), r'"\udc00\ud800"'),
    ],
    ids=repr,
)
def test_what_neither_postgresql_nor_a_policy_takes_is_refused(definition: ColumnDefinition, value: Any) -> None:
    with pytest.raises(ValueRefused):
        encoded(definition, [value])


@pytest.mark.parametrize(
    "nul_bytes,value", [("strip", r'{"a\u0000": 1, "a": 2}'), ("replace", r'{"\u0000":1,"\ufffd":2}')]
)
def test_keys_of_json_that_a_policy_would_merge_are_refused(nul_bytes: str, value: str) -> None:
    with pytest.raises(ValueRefused, match="two keys"):
        encoded(column("c", K.JSON, "json"), [value], nul_bytes=nul_bytes)


def test_mariadbs_json_keeps_its_text() -> None:
    text = r'{"a":1,"a":2} "\u0000\ud800"'
    assert encoded(column("c", K.JSON, "longtext"), [text], "mariadb", nul_bytes="error") == [text]


def test_an_srid_that_is_left_out_is_counted() -> None:
    counter = PolicyCounter()
    definition = column("c", K.GEOMETRY, "point")
    plain_values(array_of([point(1, 2), point(1, 2, 4326)], definition), target_column(definition), Policies(), counter)
    assert counter.changes == Counter({("c", "srid"): 1})


def test_a_refusal_names_table_column_and_key_without_control_characters() -> None:
    source = table(
        column("a", K.TEXT, "varchar(99)", length=99, is_nullable=False),
        column("b", K.DATE, "date", is_nullable=False),
        column("c", K.TEXT, "text"),
        key=("b", "a"),
    )
    rows = rows_of(source, [("x", date(2024, 1, 1), "ok"), ("\x1b[31m\n" + "y" * 99, date(2024, 1, 2), "\0")])
    target = target_of(source, nul_bytes="error")
    with pytest.raises(UnsupportedData) as caught:
        copy_text(rows, target, target.columns, PolicyCounter())
    assert (caught.value.table, caught.value.column) == ("shop.t", "c")
    assert caught.value.key is not None
    assert caught.value.key.startswith(r"b=2024-01-02, a='\x1b[31m\nyyy")
    assert len(caught.value.key) < 100


def test_no_policy_touches_a_key() -> None:
    source = table(column("k", K.TEXT, "varchar(9)", length=9), key=("k",))
    target = target_of(source)
    with pytest.raises(UnsupportedData, match="no policy changes a key column"):
        copy_text(rows_of(source, [("\0",)]), target, target.columns, PolicyCounter())


TEXTS = st.lists(st.none() | st.sampled_from(HOSTILE_TEXTS) | st.text(), max_size=8)


@given(st.lists(st.tuples(TEXTS, st.none() | st.binary()), min_size=1, max_size=5))
def test_any_text_and_bytes_survive_copy(parts: list[tuple[list[str | None], bytes | None]]) -> None:
    source = table(ID, column("t", K.TEXT, "longtext"), column("b", K.BLOB, "longblob"))
    rows = [(index, text, blob) for index, (texts, blob) in enumerate(parts) for text in texts]
    target = target_of(source)
    expected = [
        [
            str(index),
            None if text is None else text.replace("\0", "\ufffd"),
            None if blob is None else "\\x" + blob.hex(),
        ]
        for index, text, blob in rows
    ]
    text = bytes(copy_text(rows_of(source, rows), target, target.columns, PolicyCounter()))
    assert read_copy(text.decode()) == expected


@given(st.lists(st.none() | st.text()))
def test_copy_text_holds_no_raw_separators(values: list[str | None]) -> None:
    definition = column("c", K.TEXT, "text")
    texts = encode_column(array_of(values, definition), target_column(definition), Policies(), PolicyCounter())
    for text in texts:
        assert text is None or not set("\t\n\r") & set(text)
        assert text != "\\N"
