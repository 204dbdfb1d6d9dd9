"""JSON: documents built in the binary form print as the server prints them, and damaged ones are refused in time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.json_text import NESTING_MAX, apply_json_diffs, double_text, json_text
from cdc.binlog.kernel import json_text as kernel
from cdc.errors import MalformedEvent
from tests.support.json_build import Change, Large, changes_bytes, json_bytes

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=300),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=20), inner, max_size=8)),
    max_leaves=30,
)


@given(DOCUMENTS)
def test_what_is_built_from_a_document_reads_back_as_that_document(document: Any) -> None:
    assert json.loads(json_text(json_bytes(document))) == document


@pytest.mark.parametrize(
    "document, text",
    [
        (None, "null"),
        (True, "true"),
        (-32768, "-32768"),
        (2**64 - 1, "18446744073709551615"),
        ({}, "{}"),
        ([], "[]"),
        ([1, [2], {"a": 3}], '[1, [2], {"a": 3}]'),
        ({"bb": 1, "a": 2, "": 3}, '{"": 3, "a": 2, "bb": 1}'),  # as stored: by length, then by bytes
        ('\0\b\t\n\f\r\x1f"\\/é😀\u2028\x7f', '"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/é😀\u2028\x7f"'),
    ],
)
def test_text_is_spaced_and_escaped_as_the_server_does(document: Any, text: str) -> None:
    assert json_text(json_bytes(document)) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (100.0, "100.0"),
        (0.1, "0.1"),
        (1e14, "100000000000000.0"),
        (1e15, "1e15"),
        (123456789012345.0, "123456789012345.0"),
        (1234567890123456.0, "1.234567890123456e15"),
        (1234567890123456.8, "1234567890123456.8"),
        (9007199254740992.0, "9.007199254740992e15"),
        (1e20, "1e20"),
        (1.5e300, "1.5e300"),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (5e-324, "5e-324"),
        (1e-4, "0.0001"),
        (1e-7, "0.0000001"),
        (1e-15, "0.000000000000001"),
        (1.5e-15, "0.0000000000000015"),
        (1e-16, "1e-16"),
        (-1.5e-100, "-1.5e-100"),
    ],
)
def test_doubles_print_as_on_the_server(value: float, text: str) -> None:
    """Each seen on MySQL 9.7; thousands more are compared in tests/integration."""
    assert double_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_double_loses_a_bit_in_its_text(value: float) -> None:
    text = double_text(value)
    assert struct.pack("<d", float(text)) == struct.pack("<d", value)
    assert set(text) & set(".e")


def opaque(column_type: int, raw: bytes) -> bytes:
    assert len(raw) < 128
    return bytes((0x0F, column_type, len(raw))) + raw


def packed(value: int) -> bytes:
    return value.to_bytes(8, "little", signed=True)


MOMENT = ((2020 * 13 + 1) << 5 | 2) << 41 | 3 << 36 | 4 << 30 | 5 << 24 | 6


@pytest.mark.parametrize(
    "raw, text",
    [
        (opaque(10, packed(MOMENT >> 41 << 41)), '"2020-01-02"'),
        (opaque(10, packed(0)), '"0000-00-00"'),
        (opaque(12, packed(MOMENT)), '"2020-01-02 03:04:05.000006"'),
        (opaque(7, packed(MOMENT)), '"2020-01-02 03:04:05.000006"'),
        (opaque(11, packed(838 << 36 | 59 << 30 | 59 << 24)), '"838:59:59.000000"'),
        (opaque(11, packed(-1)), '"-00:00:00.000001"'),
        (opaque(246, b"\x05\x02\x80\x01\x0a"), "1.10"),
        (opaque(246, b"\x05\x02\x7f\xfe\xf5"), "-1.10"),
        (opaque(246, b"\x01\x01\x80"), "0.0"),
        (opaque(15, b"\x00\xff"), '"base64:type15:AP8="'),
        (opaque(16, b"\x05"), '"base64:type16:BQ=="'),
        (opaque(252, b""), '"base64:type252:"'),
        (opaque(252, bytes(58)), '"base64:type252:' + "A" * 76 + '\\nAA=="'),  # a line break after 57 bytes
    ],
)
def test_opaque_values(raw: bytes, text: str) -> None:
    assert json_text(raw) == text


def test_no_bytes_are_the_json_null() -> None:
    assert json_text(b"") == "null"


def test_large_containers_have_large_offsets() -> None:
    document = [["x" * 70_000, 1, True, -70_000, 70_000, 3_000_000_000], 2]
    raw = json_bytes(document)
    assert raw[0] == 0x03
    assert json.loads(json_text(raw)) == document


def nested(depth: int) -> bytes:
    document: list[Any] = []
    for _ in range(depth - 1):
        document = [document]
    return json_bytes(document)


def test_nesting_has_a_limit() -> None:
    assert json_text(nested(NESTING_MAX)) == "[" * NESTING_MAX + "]" * NESTING_MAX
    with pytest.raises(MalformedEvent, match="nested deeper"):
        json_text(nested(NESTING_MAX + 1))


def array_of(count: int, size: int, entries: bytes, rest: bytes = b"") -> bytes:
    return b"\2" + count.to_bytes(2, "little") + size.to_bytes(2, "little") + entries + rest


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0d",
        b"\x0b" + b"\0" * 6 + b"\xf0\x7f",  # infinity
        b"\x0b\0",
        b"\4\3",
        b"\5\1",
        b"\x0c\5abc",
        b"\x0c\xff\xff\xff\xff\xff\1",
        b"\x0f\x0b\4\0\0\0\0",
        b"\x0f\xf6\1\5",
        b"\x0f\xf6\2\x42\0",
        b"\x0f\xf6\3\5\6\x80",
        b"\x0f\xf6\4\1\0\x8a\0",
        b"\x0f\xf6\3\1\0\x8a",
        b"\2\0",
        array_of(1, 4, b""),
        array_of(1, 7, b"\4\3\0"),  # a literal that is none
        array_of(1, 7, b"\x02\0\0"),  # an array that holds itself
        array_of(1, 7, b"\x02\xff\xff"),
        array_of(65535, 7, b"\4\0\0"),
        array_of(0, 100, b""),
        array_of(2, 14, b"\x0c\x0a\0\x0c\x0a\0", b"\3abc"),  # one string for two
        b"\0\1\0\x0b\0\x0b\0\5\0\4\0\0",  # a key past the end
    ],
)
def test_damaged_documents_are_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEvent):
        json_text(raw)


def test_text_that_is_no_utf8_is_said_so() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        json_text(b"\x0c\1\xff")


def test_a_document_whose_parts_are_shared_a_million_times_is_refused_at_once() -> None:
    """Twenty nested arrays of two offsets each to the next: 2**20 values, if each were read every time."""
    levels = 20
    raw = bytearray()
    for level in range(levels):
        size = 10 * (levels - level) + 1
        raw += array_of(2, size, b"\x02\x0a\0\x02\x0a\0")[1 if level else 0 :]
    raw += bytes(12)
    with pytest.raises(MalformedEvent):
        json_text(bytes(raw))


@given(st.binary(max_size=200))
def test_any_bytes_give_text_or_a_declared_error(noise: bytes) -> None:
    try:
        text = json_text(noise)
    except (MalformedEvent, ValueError):
        return
    assert len(text) <= 40 * len(noise) + 10


@given(document=DOCUMENTS, data=st.data())
def test_any_damage_gives_text_or_a_declared_error(document: Any, data: st.DataObject) -> None:
    damaged = bytearray(json_bytes(document))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        json_text(bytes(damaged))
    except (MalformedEvent, ValueError):
        return


# ---------------------------------------------------------------- partial updates

BOTH = pytest.mark.parametrize("apply", [apply_json_diffs, kernel.apply_json_diffs], ids=["twin", "kernel"])
Apply = Callable[[bytes, bytes], str]


def change(operation: int, path: str, value: Any = None) -> bytes:
    """One change with its path as text."""
    raw = path.encode()
    assert len(raw) < 251
    out = bytes((operation, len(raw))) + raw
    if operation != 2:
        value_raw = json_bytes(value)
        assert len(value_raw) < 251
        out += bytes((len(value_raw),)) + value_raw
    return out


REPLACE, INSERT, REMOVE = 0, 1, 2


@BOTH
@pytest.mark.parametrize(
    "document, changes, text",
    [
        # what MySQL 9.7 logs for JSON_SET, JSON_REPLACE and JSON_REMOVE, and what it selects afterwards
        ({"a": [1, 2, 3]}, [(REPLACE, "$.a[1]", 7)], '{"a": [1, 7, 3]}'),
        ({"a": [1, 2, 3]}, [(REPLACE, "$.a[last]", 7)], '{"a": [1, 2, 7]}'),
        ({"a": [1, 2, 3]}, [(REPLACE, "$.a[last-1]", 8)], '{"a": [1, 8, 3]}'),
        ({"a": [1, 2, 3]}, [(INSERT, "$.a[last-10]", 8)], '{"a": [8, 1, 2, 3]}'),
        ({"a": [1, 2, 3]}, [(INSERT, "$.a[3]", 9)], '{"a": [1, 2, 3, 9]}'),
        ({"a": [1, 2, 3]}, [(INSERT, "$.a[100]", 9)], '{"a": [1, 2, 3, 9]}'),
        ({"s": 5, "b": 1}, [(REPLACE, "$.s", [5, 9])], '{"b": 1, "s": [5, 9]}'),
        ({"a": 1, "pad": "y"}, [(INSERT, "$.new", {"x": 1})], '{"a": 1, "new": {"x": 1}, "pad": "y"}'),
        ({"pad": 1}, [(INSERT, '$."odd key"', 1), (INSERT, '$.""', 2)], '{"": 2, "pad": 1, "odd key": 1}'),
        ({"a": 1}, [(INSERT, '$."q\\"u\\\\\\n\\u0001\x7f/é"', 1)], '{"a": 1, "q\\"u\\\\\\n\\u0001\x7f/é": 1}'),
        ({"a": 1}, [(INSERT, "$.é", 1), (INSERT, '$."😀"', 2)], '{"a": 1, "é": 1, "😀": 2}'),
        ({"a": [1, 2, 3]}, [(REMOVE, "$.a[0]"), (REMOVE, "$.a[0]")], '{"a": [3]}'),
        ({"a": [1, 2, 3]}, [(REMOVE, "$.a[last]")], '{"a": [1, 2]}'),
        ({"a": 1, "b": {"c": 2}}, [(REMOVE, "$.b.c"), (REMOVE, "$.a")], '{"b": {}}'),
        (
            {"z": 1},
            [(INSERT, '$."a.b[0]"', 1), (INSERT, '$."1a"', 2), (INSERT, "$.$x_1", 3)],
            '{"z": 1, "1a": 2, "$x_1": 3, "a.b[0]": 1}',
        ),
        ({"a": 1}, [], '{"a": 1}'),
        # changes of what was changed before
        ([], [(INSERT, "$[5]", 1), (REPLACE, "$[0]", {}), (INSERT, "$[0].a", 2)], '[{"a": 2}]'),
        ([[], 1], [(INSERT, "$[0][last]", 1), (INSERT, "$[0][0]", 2), (INSERT, "$[0][1]", 3)], "[[2, 3, 1], 1]"),
        ({"a": 1, "b": 2}, [(REMOVE, "$.a"), (INSERT, "$.a", 3), (REMOVE, "$.b")], '{"a": 3}'),
        (Large({"a": 70_000, "b": 2}), [(REPLACE, "$.b", 1)], '{"a": 70000, "b": 1}'),
        ([1, 2, 3, 4, 5], [(INSERT, "$[2]", 0), (REMOVE, "$[4]"), (REPLACE, "$[last]", 9)], "[1, 2, 0, 3, 9]"),
    ],
)
def test_changes_of_a_document(apply: Apply, document: Any, changes: list[tuple[Any, ...]], text: str) -> None:
    assert apply(json_bytes(document), b"".join(change(*one) for one in changes)) == text


@BOTH
def test_no_bytes_are_the_json_null_before_no_changes_too(apply: Apply) -> None:
    assert apply(b"", b"") == "null"


@BOTH
def test_a_change_may_be_long(apply: Apply) -> None:
    key, value = "k" * 300, "v" * 70_000
    text = apply(json_bytes({"a": 1}), changes_bytes([Change(INSERT, (key,), value)]))
    assert json.loads(text) == {"a": 1, key: value}


def unsorted_object() -> bytes:
    return b"\0\2\0\x14\0\x12\0\1\0\x13\0\1\0\4\0\0\4\0\0ba"


@BOTH
@pytest.mark.parametrize(
    "document, changes",
    [
        ({"a": 1}, change(REPLACE, "$.b", 1)),
        ({"a": 1}, change(REMOVE, "$.b")),
        ({"a": 1}, change(INSERT, "$.a", 1)),
        ({"a": 1}, change(INSERT, "$.b.c", 1)),
        ({"a": 1}, change(INSERT, "$.a.c", 1)),
        ({"a": 1}, change(INSERT, "$[0]", 1)),
        ({"a": 1}, change(REPLACE, "$[0]", 1)),
        ([1], change(INSERT, "$.a", 1)),
        ([1], change(REPLACE, "$[1]", 1)),
        ([1], change(REMOVE, "$[last-1]")),
        ([1], change(REPLACE, "$[0][0]", 1)),  # the server logs such a path without its [0]
        ([1], change(REPLACE, "$", 1)),  # it logs the whole document in place of that
        (5, change(REPLACE, "$[0]", 1)),
        (None, change(INSERT, "$.a", 1)),
        ([1], change(3, "$[0]", 1)),
        ([1], change(REMOVE, "$[0]") + b"\2"),
        ([1], change(REMOVE, "$[0]") + b"\2\4$[0]"),
        ([1], b"\0\4$[0]"),
        ([1], b"\0\4$[0]\0"),
        ([1], b"\0\4$[0]\4\5\1"),
        ([1], b"\0\xfb"),
        ([1], b"\2\xfe\xff\xff\xff\xff\xff\xff\xff\xff$[0]"),
        ([1], change(REMOVE, "[0]")),
        ([1], change(REMOVE, "")),
        ([1], change(REMOVE, "$[0")),
        ([1], change(REMOVE, "$[]")),
        ([1], change(REMOVE, "$[ 0]")),
        ([1], change(REMOVE, "$[-0]")),
        ([1], change(REMOVE, "$[last-]")),
        ([1], change(REMOVE, "$[lost]")),
        ([1], change(REMOVE, "$[*]")),
        ([1], change(INSERT, "$[4294967296]", 1)),
        ([1], change(REMOVE, "$[0 to 0]")),
        ({"a": 1}, change(REMOVE, "$.*")),
        ({"a": 1}, change(REMOVE, "$**.a")),
        ({"a": 1}, change(REMOVE, "$.")),
        ({"a": 1}, change(REMOVE, '$."a')),
        ({"a": 1}, change(REMOVE, "$ .a")),
        ({"a": 1}, change(REMOVE, '$."\\u0061"')),
        ({"1": 1}, change(REMOVE, "$.1")),
        ({"a\n": 1}, change(REMOVE, '$."a\n"')),
    ],
)
def test_changes_that_do_not_apply_are_malformed(apply: Apply, document: Any, changes: bytes) -> None:
    with pytest.raises(MalformedEvent if apply is apply_json_diffs else ValueError):
        apply(json_bytes(document), changes)


@BOTH
def test_an_object_whose_keys_are_out_of_order_is_not_changed(apply: Apply) -> None:
    assert json_text(unsorted_object()) == '{"b": null, "a": null}'
    with pytest.raises(MalformedEvent if apply is apply_json_diffs else ValueError):
        apply(unsorted_object(), change(REPLACE, "$.a", 1))
