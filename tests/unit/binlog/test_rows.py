"""Row images: what is built from values decodes to those values, whatever the kind; what is not an image is refused.

All of it for the reference and for the compiled decoder.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog import rows as reference
from cdc.binlog.constants import EventType
from cdc.binlog.events import RowsEvent, RowsKind, parse_rows
from cdc.binlog.json_text import json_text
from cdc.binlog.kernel import rows as kernel
from cdc.binlog.layout import Codec, ColumnLayout, RowLayout, build_layout
from cdc.binlog.table_map import parse_table_map
from cdc.errors import MalformedEvent, UnsupportedData
from cdc.model import ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from tests.support.binlog_build import (
    BuiltColumn,
    JsonDocument,
    any_column,
    columns_of_every_kind,
    definition_of,
    framed,
    optional_metadata,
    rows_body,
    table_map_body,
)
from tests.support.json_build import json_bytes

EVERY_KIND = columns_of_every_kind()

ImageBuffer = reference.ImageBuffer | kernel.ImageBuffer
NewBuffer = Callable[..., ImageBuffer]


@pytest.fixture(scope="module", params=[reference, kernel], ids=["reference", "kernel"])
def new_buffer(request: pytest.FixtureRequest) -> NewBuffer:
    """The class under test."""
    return cast("NewBuffer", request.param.ImageBuffer)


def layout_of(columns: Sequence[BuiltColumn], optional: bytes = b"") -> RowLayout:
    table_map = parse_table_map(framed(EventType.TABLE_MAP, table_map_body(columns, optional=optional)))
    return build_layout(table_map, definition_of(columns), flavor="mysql", server_version=(8, 4, 0))


def rows_of(batch: RowBatch) -> list[tuple[Any, ...]]:
    columns = []
    for definition, array in zip(batch.definition.columns, batch.images.columns, strict=True):
        plain = array.cast("int64") if definition.kind is ValueKind.TIMESTAMP else array
        columns.append(plain.to_pylist())
    return list(zip(*columns, strict=True))


def comparable(value: Any) -> Any:
    """JSON documents by their text; -0.0 and 0.0 apart."""
    if isinstance(value, JsonDocument):
        return json_text(json_bytes(value.value))
    return repr(value) if isinstance(value, float) else value


def tables(column_count_max: int = 12) -> st.SearchStrategy[tuple[list[BuiltColumn], list[tuple[Any, ...]]]]:
    """Some columns, and rows of values for them, NULLs among them."""

    def with_rows(columns: list[BuiltColumn]) -> st.SearchStrategy[tuple[list[BuiltColumn], list[tuple[Any, ...]]]]:
        named = [
            replace(column, definition=replace(column.definition, name=f"c{index}"))
            for index, column in enumerate(columns)
        ]
        row = st.tuples(*(st.one_of(st.none(), column.values) for column in named))
        return st.tuples(st.just(named), st.lists(row, min_size=1, max_size=5))

    return st.lists(any_column(), min_size=1, max_size=column_count_max).flatmap(with_rows)


@given(table=tables(), version=st.sampled_from((1, 2)), spare_bits=st.booleans(), is_full=st.booleans())
def test_what_is_built_from_rows_decodes_to_those_rows(
    new_buffer: NewBuffer,
    table: tuple[list[BuiltColumn], list[tuple[Any, ...]]],
    version: int,
    spare_bits: bool,
    is_full: bool,
) -> None:
    columns, rows = table
    event_type = EventType.WRITE_ROWS if version == 2 else EventType.WRITE_ROWS_V1
    body = rows_body(columns, rows, version=version, spare_bits=spare_bits)
    buffer = new_buffer(layout_of(columns, optional_metadata(columns) if is_full else b""))
    assert buffer.append(parse_rows(framed(event_type, body)), 3) == len(rows)
    batch = buffer.take()
    assert [tuple(map(comparable, row)) for row in rows_of(batch)] == [tuple(map(comparable, row)) for row in rows]
    assert batch.operation.to_pylist() == [Operation.INSERT] * len(rows)
    assert batch.transaction_index.to_pylist() == [3] * len(rows)
    assert batch.images.schema == batch.definition.arrow_schema
    assert buffer.image_count == 0


@pytest.mark.parametrize("column", EVERY_KIND, ids=lambda column: column.definition.name)
@given(data=st.data())
def test_every_prefix_of_an_image_is_malformed(new_buffer: NewBuffer, column: BuiltColumn, data: st.DataObject) -> None:
    value = data.draw(column.values)
    whole = parse_rows(framed(EventType.WRITE_ROWS, rows_body([column], [(value,)])))
    layout = layout_of([column])
    for size in range(1, len(whole.rows)):
        buffer = new_buffer(layout)
        with pytest.raises(MalformedEvent, match="ends inside"):
            buffer.append(replace(whole, rows=whole.rows[:size]), 0)


@given(table=tables(6), data=st.data())
def test_any_flipped_bits_give_rows_or_a_declared_error(
    new_buffer: NewBuffer, table: tuple[list[BuiltColumn], list[tuple[Any, ...]]], data: st.DataObject
) -> None:
    columns, rows = table
    event = parse_rows(framed(EventType.WRITE_ROWS, rows_body(columns, rows)))
    damaged = bytearray(event.rows)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    buffer = new_buffer(layout_of(columns))
    try:
        buffer.append(replace(event, rows=bytes(damaged)), 0)
    except (MalformedEvent, UnsupportedData):
        return
    assert buffer.take().row_count >= 1


@given(table=tables(4), noise=st.binary(min_size=1, max_size=200))
def test_any_bytes_give_rows_or_a_declared_error(
    new_buffer: NewBuffer, table: tuple[list[BuiltColumn], list[tuple[Any, ...]]], noise: bytes
) -> None:
    columns, _ = table
    buffer = new_buffer(layout_of(columns))
    try:
        buffer.append(RowsEvent(RowsKind.DELETE, 1, 1, len(columns), (1 << len(columns)) - 1, 0, noise), 0)
    except (MalformedEvent, UnsupportedData):
        return
    assert buffer.take().row_count >= 1


# ---------------------------------------------------------------- events of a buffer


INT = next(column for column in EVERY_KIND if column.definition.name == "i32")
ASCII = next(column for column in EVERY_KIND if column.definition.name == "va")
PAIR = [INT, ASCII]


def append(buffer: ImageBuffer, event_type: EventType, rows: Sequence[Sequence[Any]], index: int = 0) -> int:
    body = rows_body(PAIR, rows, is_update=event_type == EventType.UPDATE_ROWS)
    return buffer.append(parse_rows(framed(event_type, body)), index)


def test_operations_and_transactions_of_several_events_stay_in_order(new_buffer: NewBuffer) -> None:
    buffer = new_buffer(layout_of(PAIR))
    assert append(buffer, EventType.WRITE_ROWS, [(1, "a"), (2, "b")], 0) == 2
    assert append(buffer, EventType.UPDATE_ROWS, [(1, "a"), (1, "c")], 1) == 2
    assert append(buffer, EventType.DELETE_ROWS, [(2, "b")], 7) == 1
    assert buffer.image_count == 5
    assert buffer.byte_count > 0
    batch = buffer.take()
    assert rows_of(batch) == [(1, "a"), (2, "b"), (1, "a"), (1, "c"), (2, "b")]
    assert batch.operation.to_pylist() == [1, 1, 2, 3, 4]
    assert batch.transaction_index.to_pylist() == [0, 0, 1, 1, 7]
    assert (buffer.image_count, buffer.byte_count) == (0, 0)


def test_a_buffer_can_be_used_again_after_take(new_buffer: NewBuffer) -> None:
    buffer = new_buffer(layout_of(PAIR))
    append(buffer, EventType.WRITE_ROWS, [(1, "a")])
    first = buffer.take()
    append(buffer, EventType.WRITE_ROWS, [(2, None)])
    assert (rows_of(first), rows_of(buffer.take())) == ([(1, "a")], [(2, None)])


def test_an_event_without_rows_adds_nothing(new_buffer: NewBuffer) -> None:
    buffer = new_buffer(layout_of(PAIR))
    assert append(buffer, EventType.WRITE_ROWS, []) == 0
    assert buffer.image_count == 0


def test_an_update_whose_after_image_is_missing_is_malformed(new_buffer: NewBuffer) -> None:
    buffer = new_buffer(layout_of(PAIR))
    with pytest.raises(MalformedEvent, match="ends inside a null bitmap"):
        append(buffer, EventType.UPDATE_ROWS, [(1, "a")])


def test_a_rows_event_with_another_column_count_is_malformed(new_buffer: NewBuffer) -> None:
    body = rows_body([INT], [(1,)])
    with pytest.raises(MalformedEvent, match="1 columns, its table map 2"):
        new_buffer(layout_of(PAIR)).append(parse_rows(framed(EventType.WRITE_ROWS, body)), 0)


@pytest.mark.parametrize(
    "kind, before, after",
    [
        (RowsKind.INSERT, 0, 0b01),
        (RowsKind.DELETE, 0b10, 0),
        (RowsKind.UPDATE, 0b01, 0b11),
        (RowsKind.UPDATE, 0b11, 0b10),
    ],
)
def test_images_without_all_columns_park_the_table(
    new_buffer: NewBuffer, kind: RowsKind, before: int, after: int
) -> None:
    with pytest.raises(UnsupportedData, match="without all columns") as caught:
        new_buffer(layout_of(PAIR)).append(RowsEvent(kind, 77, 1, 2, before, after, b""), 0)
    assert "binlog_row_image=FULL" in caught.value.hint
    assert "cdc snapshot shop.t" in caught.value.hint


def test_text_that_is_none_names_table_column_and_value(new_buffer: NewBuffer) -> None:
    event = parse_rows(framed(EventType.WRITE_ROWS, rows_body(PAIR, [(1, "a")])))
    with pytest.raises(UnsupportedData) as caught:
        new_buffer(layout_of(PAIR)).append(replace(event, rows=b"\0" + bytes(4) + b"\1\xff"), 0)
    assert caught.value.message == "shop.t.va: 0xff is no text in ascii"
    assert (caught.value.table, caught.value.column) == ("shop.t", "va")


def test_a_long_value_is_shortened_in_its_message(new_buffer: NewBuffer) -> None:
    long = next(column for column in EVERY_KIND if column.definition.name == "tl")
    event = parse_rows(framed(EventType.WRITE_ROWS, rows_body([long], [("a",)])))
    raw = b"\xff" * 5000
    with pytest.raises(UnsupportedData) as caught:
        new_buffer(layout_of([long])).append(replace(event, rows=b"\0" + (5000).to_bytes(4, "little") + raw), 0)
    assert caught.value.message == f"shop.t.tl: 0x{'ff' * 32}… (5000 bytes) is no text in gbk"


# ---------------------------------------------------------------- edge values by type


def decode(new_buffer: NewBuffer, column: ColumnLayout, raw: bytes) -> Any:
    """One value of one column."""
    definition = TableDefinition(TableName("shop", "t"), (column.definition,))
    buffer = new_buffer(RowLayout(definition, (column,)))
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 1, 0, 1, b"\0" + raw), 0)
    return rows_of(buffer.take())[0][0]


def column_layout(kind: ValueKind, codec: Codec, size: int = 0, width: int = 0, **fields: Any) -> ColumnLayout:
    charset = fields.get("charset")
    return ColumnLayout(ColumnDefinition("c", kind, "", **fields), codec, size, width, charset)


SECOND = 1_000_000
DAY = 2024 << 9 | 2 << 5 | 29
MOMENT = ((2024 * 13 + 2) << 5 | 29) << 41 | 12 << 36 | 34 << 30 | 56 << 24


@pytest.mark.parametrize(
    "codec, kind, size, raw, expected",
    [
        # from MySQL before 5.6.4, and MariaDB with mysql56_temporal_format=OFF
        (Codec.TIME_NUMBER, ValueKind.TIME, 0, (8385959).to_bytes(3, "little"), 3020399 * SECOND),
        (Codec.TIME_NUMBER, ValueKind.TIME, 0, (-8385959).to_bytes(3, "little", signed=True), -3020399 * SECOND),
        (Codec.TIME_NUMBER, ValueKind.TIME, 0, (-1).to_bytes(3, "little", signed=True), -SECOND),
        (Codec.DATETIME_NUMBER, ValueKind.DATETIME, 0, (20240229123456).to_bytes(8, "little"), MOMENT),
        (Codec.DATETIME_NUMBER, ValueKind.DATETIME, 0, bytes(8), 0),
        (Codec.TIMESTAMP_NUMBER, ValueKind.TIMESTAMP, 0, (1).to_bytes(4, "little"), SECOND),
        (Codec.TIMESTAMP_HIRES, ValueKind.TIMESTAMP, 3, b"\0\0\0\1" + (999).to_bytes(2, "big"), 1999000),
        (Codec.TIME_HIRES, ValueKind.TIME, 1, (30204000 - 1).to_bytes(4, "big"), -100000),
        (Codec.TIME_HIRES, ValueKind.TIME, 6, (3020400 * SECOND + 1).to_bytes(6, "big"), 1),
        (Codec.YEAR, ValueKind.YEAR, 1, b"\0", 0),
        (Codec.YEAR, ValueKind.YEAR, 1, b"\1", 1901),
        (Codec.YEAR, ValueKind.YEAR, 1, b"\xff", 2155),
        (Codec.DATE, ValueKind.DATE, 3, DAY.to_bytes(3, "little"), DAY),
        (Codec.DATE, ValueKind.DATE, 3, bytes(3), 0),
        (Codec.DATE, ValueKind.DATE, 3, (9999 << 9 | 12 << 5 | 31).to_bytes(3, "little"), 9999 << 9 | 12 << 5 | 31),
    ],
)
def test_edge_values(
    new_buffer: NewBuffer, codec: Codec, kind: ValueKind, size: int, raw: bytes, expected: int
) -> None:
    digits = {"fraction_digits": size} if codec is not Codec.DATE else {}
    assert decode(new_buffer, column_layout(kind, codec, size, (1 << 31) - 1, **digits), raw) == expected


@pytest.mark.parametrize(
    "codec, kind, size, raw, problem",
    [
        (Codec.DATE, ValueKind.DATE, 3, (2024 << 9 | 13 << 5 | 1).to_bytes(3, "little"), "no date"),
        (Codec.DATE, ValueKind.DATE, 3, (10000 << 9).to_bytes(3, "little"), "no date"),
        (Codec.DATETIME, ValueKind.DATETIME, 0, bytes(5), "negative"),
        (Codec.DATETIME, ValueKind.DATETIME, 0, (0x8000000000 | 24 << 12).to_bytes(5, "big"), "no date and time"),
        (Codec.DATETIME, ValueKind.DATETIME, 0, (0x8000000000 | 60 << 6).to_bytes(5, "big"), "no date and time"),
        (Codec.DATETIME, ValueKind.DATETIME, 0, (0x8000000000 | 60).to_bytes(5, "big"), "no date and time"),
        (Codec.DATETIME, ValueKind.DATETIME, 1, b"\x80\0\0\0\0\x64", "no date and time"),
        (Codec.DATETIME_NUMBER, ValueKind.DATETIME, 0, (20241301000000).to_bytes(8, "little"), "no date and time"),
        (Codec.DATETIME_NUMBER, ValueKind.DATETIME, 0, b"\xff" * 8, "no date and time"),
        (Codec.TIMESTAMP, ValueKind.TIMESTAMP, 0, b"\x80\0\0\0", "no timestamp"),
        (Codec.TIMESTAMP, ValueKind.TIMESTAMP, 6, b"\0\0\0\1\xff\xff\xff", "no timestamp"),
        (Codec.TIME, ValueKind.TIME, 0, (0x800000 + (839 << 12)).to_bytes(3, "big"), "no time"),
        (Codec.TIME, ValueKind.TIME, 0, (0x800000 + 60).to_bytes(3, "big"), "no time"),
        (Codec.TIME_NUMBER, ValueKind.TIME, 0, (99).to_bytes(3, "little"), "no time"),
        (Codec.TIME_HIRES, ValueKind.TIME, 1, bytes(4), "no time"),
        (Codec.FLOAT, ValueKind.FLOAT, 4, b"\0\0\xc0\x7f", "no finite number"),
        (Codec.FLOAT, ValueKind.FLOAT, 4, b"\0\0\x80\xff", "no finite number"),
        (Codec.DOUBLE, ValueKind.DOUBLE, 8, b"\0\0\0\0\0\0\xf0\x7f", "no finite number"),
        (Codec.DOUBLE, ValueKind.DOUBLE, 8, b"\1\0\0\0\0\0\xf0\x7f", "no finite number"),
    ],
)
def test_values_that_no_server_writes_are_malformed(
    new_buffer: NewBuffer, codec: Codec, kind: ValueKind, size: int, raw: bytes, problem: str
) -> None:
    digits = {"fraction_digits": size} if size < 7 else {}
    with pytest.raises(MalformedEvent, match=problem):
        decode(new_buffer, column_layout(kind, codec, size, (1 << 31) - 1, **digits), raw)


def test_late_timestamps_are_a_value_where_the_server_has_them(new_buffer: NewBuffer) -> None:
    column = column_layout(ValueKind.TIMESTAMP, Codec.TIMESTAMP, 6, (1 << 32) - 1, fraction_digits=6)
    assert decode(new_buffer, column, b"\xff\xff\xff\xff\x0f\x42\x3f") == 4294967295 * SECOND + 999999


@pytest.mark.parametrize("raw", [b"\xff\xff", b"\x8a\x00", b"\x80\x64", b"\x7f\x80"])
def test_a_decimal_group_above_its_digits_is_malformed(new_buffer: NewBuffer, raw: bytes) -> None:
    definition = ColumnDefinition("c", ValueKind.DECIMAL, "decimal(3,2)", precision=3, scale=2)
    with pytest.raises(MalformedEvent):
        decode(new_buffer, ColumnLayout(definition, Codec.DECIMAL), raw)


def test_bit_and_member_values_above_their_width_are_malformed(new_buffer: NewBuffer) -> None:
    with pytest.raises(MalformedEvent, match="more than 9 bits"):
        decode(new_buffer, column_layout(ValueKind.BIT, Codec.BIT, 2, 9, length=9), b"\x02\0")
    with pytest.raises(MalformedEvent, match="above 0x3"):
        decode(new_buffer, column_layout(ValueKind.ENUM, Codec.ENUM, 1, 3), b"\4")
    with pytest.raises(MalformedEvent, match="above 0x1ff"):
        decode(new_buffer, column_layout(ValueKind.SET, Codec.SET, 2, 9), b"\0\2")


def test_a_string_longer_than_its_column_is_malformed(new_buffer: NewBuffer) -> None:
    column = column_layout(ValueKind.BLOB, Codec.BYTES, 1, 5)
    with pytest.raises(MalformedEvent, match="6 bytes in a column of at most 5"):
        decode(new_buffer, column, b"\x06abcdef")


@pytest.mark.parametrize("raw, expected", [(b"", bytes(4)), (b"\1", b"\1\0\0\0"), (b"abcd", b"abcd")])
def test_binary_gets_the_zero_bytes_back_that_the_server_cut_off(
    new_buffer: NewBuffer, raw: bytes, expected: bytes
) -> None:
    column = column_layout(ValueKind.BINARY, Codec.PADDED_BYTES, 1, 4, length=4)
    assert decode(new_buffer, column, bytes((len(raw),)) + raw) == expected


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    "raw, expected",
    [
        (b"", b""),
        (b"\0", b""),
        (b"\0plain", b"plain"),
        (b"\x81\x03" + zlib.compress(b"abc"), b"abc"),
        (b"\x82\x0b\xb8" + zlib.compress(b"z" * 3000), b"z" * 3000),
        (b"\x8a\x0b\xb8" + raw_deflate(b"z" * 3000), b"z" * 3000),
    ],
)
def test_compressed_columns(new_buffer: NewBuffer, raw: bytes, expected: bytes) -> None:
    column = column_layout(ValueKind.BLOB, Codec.COMPRESSED_BYTES, 2, 65535)
    assert decode(new_buffer, column, len(raw).to_bytes(2, "little") + raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"\x70\x03abc",  # another method
        b"\x80abc",  # no length
        b"\x85\0\0\0\0\1" + zlib.compress(b"a"),  # a length of five bytes
        b"\x84\0\0\0",  # cut off in the length
        b"\x81\x04" + zlib.compress(b"abc"),  # fewer than declared
        b"\x81\x02" + zlib.compress(b"abc"),  # more than declared
        b"\x81\x03" + zlib.compress(b"abc")[:-3],
        b"\x81\x03" + zlib.compress(b"abc") + b"!",
        b"\x81\x03garbage",
        b"\x83\xff\xff\xff" + zlib.compress(b"a" * 100000),  # above the column's own length
    ],
)
def test_damaged_compressed_columns_are_malformed(new_buffer: NewBuffer, raw: bytes) -> None:
    column = column_layout(ValueKind.BLOB, Codec.COMPRESSED_BYTES, 4, 65535)
    with pytest.raises(MalformedEvent, match="compressed"):
        decode(new_buffer, column, len(raw).to_bytes(4, "little") + raw)


def test_json_and_its_plain_python_twin_agree(new_buffer: NewBuffer) -> None:
    column = column_layout(ValueKind.JSON, Codec.JSON, 4, (1 << 32) - 1)
    value = {"a": [1, "x", None, True], "b": {"": 2**64 - 1}}
    raw = json_bytes(value)
    assert json.loads(decode(new_buffer, column, len(raw).to_bytes(4, "little") + raw)) == value


def test_unsigned_bigint_and_64_bits_keep_their_top_bit(new_buffer: NewBuffer) -> None:
    unsigned = column_layout(ValueKind.INTEGER, Codec.UNSIGNED, 8, length=64, is_unsigned=True)
    assert decode(new_buffer, unsigned, b"\xff" * 8) == 2**64 - 1
    assert decode(new_buffer, column_layout(ValueKind.BIT, Codec.BIT, 8, 64, length=64), b"\x80" + bytes(7)) == 1 << 63
    assert decode(new_buffer, column_layout(ValueKind.SET, Codec.SET, 8, 64), bytes(7) + b"\x80") == 1 << 63


def test_negative_zero_stays_negative(new_buffer: NewBuffer) -> None:
    assert repr(decode(new_buffer, column_layout(ValueKind.DOUBLE, Codec.DOUBLE, 8), b"\0" * 7 + b"\x80")) == "-0.0"
    assert repr(decode(new_buffer, column_layout(ValueKind.FLOAT, Codec.FLOAT, 4), b"\0" * 3 + b"\x80")) == "-0.0"


KIND_OF = {
    Codec.SIGNED: ValueKind.INTEGER,
    Codec.UNSIGNED: ValueKind.INTEGER,
    Codec.DATETIME_NUMBER: ValueKind.DATETIME,
    Codec.DATETIME_HIRES: ValueKind.DATETIME,
    Codec.TIMESTAMP_NUMBER: ValueKind.TIMESTAMP,
    Codec.TIMESTAMP_HIRES: ValueKind.TIMESTAMP,
    Codec.TIME_NUMBER: ValueKind.TIME,
    Codec.TIME_HIRES: ValueKind.TIME,
    Codec.BYTES: ValueKind.BLOB,
    Codec.PADDED_BYTES: ValueKind.BINARY,
    Codec.COMPRESSED_TEXT: ValueKind.TEXT,
    Codec.COMPRESSED_BYTES: ValueKind.BLOB,
}


@pytest.mark.parametrize("codec", Codec)
def test_every_codec_has_a_decoder(new_buffer: NewBuffer, codec: Codec) -> None:
    kind = KIND_OF.get(codec) or ValueKind[codec.name]
    column = column_layout(kind, codec, 1, 8, charset="ascii", length=8, precision=5, scale=2)
    with pytest.raises(MalformedEvent, match="ends inside the value"):
        decode(new_buffer, column, b"")
