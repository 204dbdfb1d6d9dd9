"""Masks and hashes, value by value; and that only what is upserted is worked out."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, PartialUpdate
from cdc.pipeline.transform import transformed_change, transformed_rows
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Masking, Policies, TargetTable
from tests.unit.sinks.builders import ID, K, change_of, column, date, micros, moment, rows_of, table

SALT = b"a salt of the tests"
HASH = Masking("hash", salt=SALT)
NAME = column("name", K.TEXT, "varchar(20)", length=20)


def target_with(definition: ColumnDefinition, masking: Masking | None, **more: Any) -> TargetTable:
    options = TableOptions(columns=(ColumnOption(definition.name, masking=masking),), **more)
    return map_table(
        table(ID, definition),
        kind="postgresql",
        namespace="n",
        name="t",
        key=("id",),
        policies=Policies(),
        options=options,
    )


def masked(definition: ColumnDefinition, masking: Masking, values: Sequence[Any]) -> list[Any]:
    target = target_with(definition, masking)
    rows = transformed_rows(rows_of(target.definition, list(enumerate(values))), target)
    assert rows.schema.names == ["id", definition.name]
    rows.validate(full=True)
    found: list[Any] = rows.column(1).to_pylist()
    return found


def hashed(content: bytes) -> str:
    return hmac.new(SALT, content, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "masking,values,expected",
    [
        (Masking("null"), ["Ada", "", None], [None, None, None]),
        (Masking("text", text="***"), ["Ada", "", None], ["***", "***", None]),
        (Masking("text", text=""), ["Ada", None], ["", None]),
        (
            Masking("keep_first", keep=2),
            ["Lovelace", "Ada", "Ad", "A", "", None],
            ["Lo******", "Ad*", "**", "*", "", None],
        ),
        (
            Masking("keep_last", keep=2),
            ["Lovelace", "Ada", "Ad", "A", "", None],
            ["******ce", "*da", "**", "*", "", None],
        ),
        (Masking("keep_last", keep=1), ["北京市", "🙂é", "🙂"], ["**市", "*é", "*"]),
    ],
)
def test_masks_of_text(masking: Masking, values: list[str | None], expected: list[str | None]) -> None:
    assert masked(NAME, masking, values) == expected


@pytest.mark.parametrize(
    "definition,value,content",
    [
        (NAME, "Zoë 北京 ", "Zoë 北京 ".encode()),
        (NAME, "", b""),
        (column("b", K.BLOB, "blob"), b"\x00\xff", b"\x00\xff"),
        (column("b", K.BINARY, "binary(3)", length=3), b"a\0\0", b"a\0\0"),
        (column("n", K.INTEGER, "bigint unsigned", length=64), 2**64 - 1, b"18446744073709551615"),
        (column("n", K.INTEGER, "int", length=32), -1, b"-1"),
        (column("y", K.YEAR, "year"), 2024, b"2024"),
        (column("d", K.DECIMAL, "decimal(10,2)", precision=10, scale=2), Decimal("12.50"), b"12.50"),
        (column("d", K.DATE, "date"), date(2024, 2, 29), b"2024-02-29"),
        (column("d", K.DATETIME, "datetime"), moment(2024, 2, 29, 10), b"2024-02-29 10:00:00.000000"),
        (column("d", K.TIMESTAMP, "timestamp"), 1_000_000, b"1970-01-01 00:00:01.000000"),
        (column("d", K.TIME, "time"), -micros(10), b"-10:00:00.000000"),
        (column("e", K.ENUM, "enum('a','b')", members=("a", "b")), 2, b"b"),
        (column("e", K.ENUM, "enum('a','b')", members=("a", "b")), 0, b""),
        (column("s", K.SET, "set('a','b')", members=("a", "b")), 3, b"a,b"),
        (column("j", K.JSON, "json"), '{"a": 1}', b'{"a": 1}'),
        (column("u", K.UUID, "uuid", length=16), bytes(16), b"00000000-0000-0000-0000-000000000000"),
        (column("i", K.INET4, "inet4", length=4), b"\x7f\0\0\x01", b"127.0.0.1"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_a_hash_is_hmac_of_the_value_and_null_stays_null(
    definition: ColumnDefinition, value: Any, content: bytes
) -> None:
    assert masked(definition, HASH, [value, None, value]) == [hashed(content), None, hashed(content)]


def test_a_known_hash() -> None:
    """As `openssl dgst -sha256 -hmac` prints it: nobody's hashes change with a version of ours."""
    assert masked(NAME, replace(HASH, salt=b"key"), ["The quick brown fox"]) == [
        hmac.new(b"key", b"The quick brown fox", hashlib.sha256).hexdigest()
    ]
    empty = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"  # of no key and no text
    assert masked(NAME, replace(HASH, salt=b""), [""]) == [empty]


def test_text_that_is_no_utf8_is_hashed_by_its_bytes_and_not_cut_into_characters() -> None:
    assert masked(NAME, HASH, ["a", b"\xff\xfe"]) == [hashed(b"a"), hashed(b"\xff\xfe")]
    with pytest.raises(UnsupportedData, match=r"name: the text is not valid UTF-8.*id=1") as caught:
        masked(NAME, Masking("keep_last", keep=1), ["a", b"\xff\xfe"])
    assert (caught.value.table, caught.value.column, caught.value.key) == ("shop.t", "name", "id=1")


def test_an_enum_value_without_a_member_is_refused_with_its_row() -> None:
    with pytest.raises(UnsupportedData, match="beyond its 1 members") as caught:
        masked(column("e", K.ENUM, "enum('a')", members=("a",)), HASH, [1, 2])
    assert caught.value.key == "id=1"


def test_a_change_is_masked_where_it_is_upserted() -> None:
    target = target_with(NAME, HASH)
    change = change_of(target.definition, deletes=[(1, "gone"), (2, "gone too")], upserts=[(3, "Ada"), (4, None)])

    images = transformed_change(change, target).batches[0].images

    assert images.column("id").to_pylist() == [1, 2, 3, 4]
    assert images.column("name").to_pylist() == [None, None, hashed(b"Ada"), None]


def test_a_refused_value_of_a_change_is_named_by_its_own_row() -> None:
    target = target_with(NAME, Masking("keep_first", keep=1))
    change = change_of(target.definition, deletes=[(1, "gone")], upserts=[(3, "Ada"), (4, b"\xff")])

    with pytest.raises(UnsupportedData) as caught:
        transformed_change(change, target)
    assert caught.value.key == "id=4"


def test_a_table_without_masks_is_handed_through_as_it_is() -> None:
    target = target_with(NAME, None)
    change = change_of(target.definition, upserts=[(3, "Ada")])

    assert transformed_change(change, target) is change
    rows = change.batches[0].images
    assert transformed_rows(rows, target) is rows


def update_of(target: TargetTable, columns: tuple[str, ...], *, has_moved: bool = False) -> PartialUpdate:
    images = rows_of(target.definition, [(1, "Ada")])
    return PartialUpdate(columns, images, images.select(["id"]) if has_moved else None)


def test_a_partial_update_is_masked_too() -> None:
    target = target_with(NAME, HASH)
    change = replace(change_of(target.definition), updates=(update_of(target, ("name",)), update_of(target, ("id",))))

    named, keyed = transformed_change(change, target).updates

    assert named.images.column("name").to_pylist() == [hashed(b"Ada")]
    assert keyed.columns == ("id",)


def test_a_partial_update_loses_the_columns_that_do_not_go_to_the_sink() -> None:
    target = map_table(
        table(ID, NAME),
        kind="postgresql",
        namespace="n",
        name="t",
        key=("id",),
        policies=Policies(),
        options=TableOptions(exclude=("name",)),
    )
    updates = (
        update_of(target, ("id", "name")),
        update_of(target, ("name",)),
        update_of(target, ("name",), has_moved=True),
    )
    change = replace(change_of(target.definition), updates=updates)

    left = transformed_change(change, target).updates

    assert [update.columns for update in left] == [("id",), ()]
    assert left[1].old_keys is not None


def test_the_masked_arrays_have_the_types_that_the_encoders_take() -> None:
    for masking in (HASH, Masking("text", text="x"), Masking("keep_first", keep=1), Masking("null")):
        target = target_with(NAME, masking)
        rows = transformed_rows(rows_of(target.definition, [(1, "Ada"), (2, None)]), target)
        assert rows.column("name").type == target.columns[1].source.arrow_type == pa.large_string()
