"""The compiled row decoder and the reference: the same batch, or the same error, for every event.

What an image means is tested in test_rows.py, over both; here they are held against each other on whatever can be
thrown at them, and the kernel's own business is tested: memory, limits, what stays after an event that is refused.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.binlog import rows as reference
from cdc.binlog.charset_tables import SINGLE_BYTE
from cdc.binlog.charsets import MAX_BYTES
from cdc.binlog.constants import EventType
from cdc.binlog.decimals import decimal_groups
from cdc.binlog.events import RowsEvent, RowsKind, parse_rows
from cdc.binlog.kernel import memory
from cdc.binlog.kernel import rows as kernel
from cdc.binlog.layout import Codec, ColumnLayout, RowLayout, build_layout
from cdc.binlog.table_map import parse_table_map
from cdc.errors import MalformedEvent, UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from tests.support.binlog_build import (
    columns_of_every_kind,
    definition_of,
    framed,
    lenenc,
    table_map_body,
)
from tests.support.json_build import Change, changes_bytes, json_bytes
from tests.support.row_batches import assert_same_batch

TAKEN, STOPPED, REFUSED = 0, 1, -1
NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class RawColumn:
    """A column's plan, and values for it as they stand in an image."""

    layout: ColumnLayout
    raw: st.SearchStrategy[bytes | None]


def _prefixed(raw: bytes, size: int) -> bytes:
    return len(raw).to_bytes(size, "little") + raw


def _compressed(value: bytes, *, is_packed: bool, is_bare: bool) -> bytes:
    if not is_packed:
        return b"\0" + value if value else b""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS)
    head = bytes((0x82 | 8 * is_bare,)) + len(value).to_bytes(2, "big")
    return head + packer.compress(value) + packer.flush()


def _compressed_values(value: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda raw, is_packed, is_bare: _prefixed(_compressed(raw, is_packed=is_packed, is_bare=is_bare), 2),
        value,
        st.booleans(),
        st.booleans(),
    )


def _numbers(
    size: int, order: Literal["big", "little"], high: int, *, low: int = 0, modulus: int = 0
) -> st.SearchStrategy[bytes]:
    """Numbers of that size; where a modulus is given, what is left of them."""
    return st.integers(low, min(high, 256**size - 1)).map(
        lambda value: (value % modulus if modulus else value).to_bytes(size, order)
    )


def _layout(name: str, kind: ValueKind, codec: Codec, size: int = 0, width: int = 0, **fields: Any) -> ColumnLayout:
    definition = ColumnDefinition(name, kind, "", **fields)
    return ColumnLayout(definition, codec, size, width, definition.charset)


SECONDS_MAX = (1 << 32) - 1
_CODECS = {"utf16le": "utf-16-le", "utf32": "utf-32-be"}
DATES = st.builds(
    lambda y, m, d, h, i, s: ((((y * 100 + m) * 100 + d) * 100 + h) * 100 + i) * 100 + s,
    st.integers(0, 9999),
    st.integers(0, 12),
    st.integers(0, 31),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
)


def _rare_columns() -> Iterator[RawColumn]:
    """What binlog_build has no column for: formats of old servers, compressed values, more charsets and decimals."""
    yield RawColumn(
        _layout("dtn", ValueKind.DATETIME, Codec.DATETIME_NUMBER), DATES.map(lambda value: value.to_bytes(8, "little"))
    )
    yield RawColumn(
        _layout("tsn", ValueKind.TIMESTAMP, Codec.TIMESTAMP_NUMBER, 0, SECONDS_MAX), _numbers(4, "little", SECONDS_MAX)
    )
    yield RawColumn(
        _layout("tn", ValueKind.TIME, Codec.TIME_NUMBER),
        st.builds(
            lambda h, m, s, sign: (sign * ((h * 100 + m) * 100 + s)).to_bytes(3, "little", signed=True),
            st.integers(0, 838),
            st.integers(0, 59),
            st.integers(0, 59),
            st.sampled_from((1, -1)),
        ),
    )
    for digits in range(7):
        date_high = 130000 * 32 * 86400 * 10**digits - 1
        yield RawColumn(
            _layout(f"dth{digits}", ValueKind.DATETIME, Codec.DATETIME_HIRES, digits, fraction_digits=digits),
            _numbers((5, 6, 6, 7, 7, 7, 8)[digits], "big", date_high),
        )
        yield RawColumn(
            _layout(f"th{digits}", ValueKind.TIME, Codec.TIME_HIRES, digits, fraction_digits=digits),
            _numbers((3, 4, 4, 5, 5, 5, 6)[digits], "big", 2 * 3020400 * 10**digits - 1, low=1),
        )
        yield RawColumn(
            _layout(
                f"tsh{digits}", ValueKind.TIMESTAMP, Codec.TIMESTAMP_HIRES, digits, SECONDS_MAX, fraction_digits=digits
            ),
            st.tuples(
                _numbers(4, "big", SECONDS_MAX), _numbers((0, 1, 1, 2, 2, 3, 3)[digits], "big", 10**digits - 1)
            ).map(b"".join),
        )
    for precision, scale in (
        (2, 0),
        (16, 8),
        (18, 0),
        (18, 8),
        (19, 2),
        (27, 27),
        (28, 1),
        (37, 30),
        (39, 0),
        (64, 29),
    ):
        yield RawColumn(
            _layout(f"x{precision}_{scale}", ValueKind.DECIMAL, Codec.DECIMAL, precision=precision, scale=scale),
            st.tuples(
                st.booleans(),
                *(_numbers(size, "big", 256**size, modulus=scale) for size, scale in decimal_groups(precision, scale)),
            ).map(_signed_decimal),
        )
    for charset in (*SINGLE_BYTE, "gb18030", "utf16le", "utf32", "sjis", "ujis", "big5"):
        width = MAX_BYTES[charset]
        values = st.one_of(
            st.text("azAZ09 ~", max_size=40).map(partial(str.encode, encoding=_CODECS.get(charset, "ascii"))),
            st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(b"".join),
        )
        yield RawColumn(
            _layout(f"c_{charset}", ValueKind.TEXT, Codec.TEXT, 2, 400 * width, charset=charset),
            values.map(partial(_prefixed, size=2)),
        )
    # long strings, in which one byte may be no ASCII: every way of copying, and both ends of every block
    yield RawColumn(
        _layout("long", ValueKind.TEXT, Codec.TEXT, 2, 65535, charset="utf8mb4"),
        st.builds(
            lambda size, at, what: _prefixed(b"a" * (size * at // 300) + what + b"b" * (size - size * at // 300), 2),
            st.integers(0, 200),
            st.integers(0, 300),
            st.sampled_from(
                (b"", "é".encode(), "\U0001f600".encode(), "\ufffd".encode(), b"\xff", b"\xed\xa0\x80", b"\0")
            ),
        ),
    )
    yield RawColumn(_layout("wide", ValueKind.BINARY, Codec.PADDED_BYTES, 1, 255, length=255), _strings(60, 1))
    yield RawColumn(
        _layout("zt", ValueKind.TEXT, Codec.COMPRESSED_TEXT, 2, 900, charset="utf8mb3"), _compressed_texts()
    )
    yield RawColumn(_layout("zl", ValueKind.TEXT, Codec.COMPRESSED_TEXT, 2, 900, charset="latin1"), _compressed_texts())
    yield RawColumn(
        _layout("zb", ValueKind.BLOB, Codec.COMPRESSED_BYTES, 2, 900), _compressed_values(st.binary(max_size=99))
    )


def _signed_decimal(parts: tuple[Any, ...]) -> bytes:
    is_negative, *groups = parts
    raw = int.from_bytes(b"".join(groups), "big")
    size = len(b"".join(groups))
    if is_negative:
        raw ^= (1 << 8 * size) - 1
    return (raw ^ 1 << (8 * size - 1)).to_bytes(size, "big")


def _strings(size_max: int, length_bytes: int) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=size_max).map(lambda raw: _prefixed(raw, length_bytes))


def _compressed_texts() -> st.SearchStrategy[bytes]:
    return _compressed_values(st.text(st.characters(max_codepoint=0xFFFF, codec="utf-8"), max_size=30).map(str.encode))


@cache
def raw_columns() -> tuple[RawColumn, ...]:
    """A column of every plan that can be made, and some more."""
    found = []
    for column in columns_of_every_kind():
        table_map = parse_table_map(framed(EventType.TABLE_MAP, table_map_body([column])))
        layout = build_layout(table_map, definition_of([column]), flavor="mysql", server_version=(8, 4, 0))
        found.append(RawColumn(layout.columns[0], column.values.map(column.encode)))
    return (*found, *_rare_columns())


BIGINT = next(column for column in raw_columns() if column.layout.definition.name == "i64")
TEXT = next(column for column in raw_columns() if column.layout.definition.name == "v63")


def layout_of(columns: Sequence[RawColumn]) -> RowLayout:
    """Their plan together, as columns c0, c1 and so on of shop.t."""
    named = tuple(
        replace(column.layout, definition=replace(column.layout.definition, name=f"c{index}"))
        for index, column in enumerate(columns)
    )
    return RowLayout(TableDefinition(TableName("shop", "t"), tuple(column.definition for column in named)), named)


Buffer = reference.ImageBuffer | kernel.ImageBuffer
Problem = tuple[type[BaseException], str, str]


def problem_of(buffer: Buffer, event: RowsEvent, index: int = 0) -> Problem | None:
    """What `append` raises."""
    try:
        buffer.append(event, index)
    except (MalformedEvent, UnsupportedData) as error:
        return type(error), error.message, error.hint
    return None


def assert_both_agree(layout: RowLayout, events: Sequence[RowsEvent], *, needs_all_columns: bool = True) -> None:
    """Each event gives both the same error, or the same images; one that is refused leaves nothing behind."""
    twin = reference.ImageBuffer(layout, needs_all_columns=needs_all_columns)
    compiled = kernel.ImageBuffer(layout, needs_all_columns=needs_all_columns)
    for index, event in enumerate(events):
        assert problem_of(compiled, event, index) == problem_of(twin, event, index)
        assert (compiled.image_count, compiled.byte_count) == (twin.image_count, twin.byte_count)
    if twin.image_count:
        assert_same_batch(compiled.take(), twin.take())
    assert (compiled.image_count, compiled.byte_count) == (0, 0)


# ---------------------------------------------------------------- events of whole images


def image_bytes(columns: Sequence[RawColumn], row: Sequence[bytes | None], present: int, spare_bits: int = 0) -> bytes:
    """An image of the columns that `present` names. `spare_bits` are what the unused ones of the bitmap are set to."""
    cells = [cell for index, cell in enumerate(row) if present >> index & 1]
    nulls = sum(1 << index for index, cell in enumerate(cells) if cell is None)
    size = (len(cells) + 7) // 8
    nulls |= spare_bits << len(cells) & (1 << 8 * size) - 1
    return nulls.to_bytes(size, "little") + b"".join(cell for cell in cells if cell is not None)


@st.composite
def tables(
    draw: st.DrawFn, *, column_count_max: int = 10, event_count_max: int = 4
) -> tuple[list[RawColumn], list[RowsEvent]]:
    """Some columns, and events of whole images with NULLs among the values."""
    columns = draw(st.lists(st.sampled_from(raw_columns()), min_size=1, max_size=column_count_max))
    # a table of many columns: as many bits in the bitmap
    columns = columns * draw(st.sampled_from((1, 1, 1, 8, 20)))
    row = st.tuples(*(st.one_of(column.raw, column.raw, st.none()) for column in columns))
    full = (1 << len(columns)) - 1
    events = []
    for _ in range(draw(st.integers(1, event_count_max))):
        kind = draw(st.sampled_from(RowsKind))
        count = draw(st.integers(0, 4)) * (2 if kind is RowsKind.UPDATE else 1)
        spare_bits = draw(st.sampled_from((0, 0xFF)))
        rows = b"".join(image_bytes(columns, draw(row), full, spare_bits) for _ in range(count))
        events.append(
            RowsEvent(
                kind,
                1,
                1,
                len(columns),
                0 if kind is RowsKind.INSERT else full,
                0 if kind is RowsKind.DELETE else full,
                rows,
            )
        )
    return columns, events


@given(table=tables())
def test_both_give_the_same_batch(table: tuple[list[RawColumn], list[RowsEvent]]) -> None:
    columns, events = table
    assert_both_agree(layout_of(columns), events)


@pytest.mark.parametrize("column", raw_columns(), ids=lambda column: column.layout.definition.name)
@settings(max_examples=40)
@given(data=st.data())
def test_both_give_the_same_for_every_plan_and_for_every_damaged_value_of_it(
    column: RawColumn, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.one_of(column.raw, st.none()), min_size=1, max_size=4))
    rows = b"".join(image_bytes([column], [value], 1) for value in values)
    event = RowsEvent(RowsKind.INSERT, 1, 1, 1, 0, 1, rows)
    assert_both_agree(layout_of([column]), [event, damaged(event, data), event])


def damaged(event: RowsEvent, data: st.DataObject) -> RowsEvent:
    """Bits flipped, bytes cut off or put in."""
    rows = bytearray(event.rows)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(rows)))
        how = data.draw(st.integers(0, 3))
        if how == 0:
            rows[at:] = b""
        elif how == 1:
            rows[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif how == 2 and at < len(rows):
            rows[at] = data.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFE, 0xFF)))
        elif at < len(rows):
            rows[at] ^= 1 << data.draw(st.integers(0, 7))
    return replace(event, rows=bytes(rows))


@given(table=tables(column_count_max=6, event_count_max=2), data=st.data())
def test_both_say_the_same_of_damaged_events(
    table: tuple[list[RawColumn], list[RowsEvent]], data: st.DataObject
) -> None:
    columns, events = table
    mixed = [event for one in events for event in (one, damaged(one, data), damaged(one, data), one)]
    assert_both_agree(layout_of(columns), mixed)


@given(table=tables(column_count_max=6, event_count_max=1), noise=st.binary(max_size=300))
def test_both_say_the_same_of_any_bytes(table: tuple[list[RawColumn], list[RowsEvent]], noise: bytes) -> None:
    columns, events = table
    assert_both_agree(layout_of(columns), [replace(events[0], rows=noise)])


@pytest.mark.parametrize("length_bytes", [1, 2])
@pytest.mark.parametrize("charset", ["utf8mb4", "latin1", "ascii"])
def test_a_short_string_far_from_the_end_may_not_be_longer_than_its_column(length_bytes: int, charset: str) -> None:
    """Read in the loop itself, where there is room for a block."""
    text = RawColumn(_layout("t", ValueKind.TEXT, Codec.TEXT, length_bytes, 5, charset=charset), st.nothing())
    layout = layout_of([text, BIGINT, BIGINT, BIGINT, BIGINT, BIGINT])
    numbers = bytes(40)
    for raw in (b"", b"12345", b"123456", b"x" * 32, b"x" * 33, b"1234\xff"):
        # after a first one, which makes the room
        rows = b"".join(b"\0" + _prefixed(one, length_bytes) + numbers for one in (b"12345", raw))
        event = RowsEvent(RowsKind.INSERT, 1, 1, 6, 0, 0b111111, rows)
        assert_both_agree(layout, [event, event])
        assert (problem_of(kernel.ImageBuffer(layout), event) is None) == (
            len(raw) <= 5 and (raw.isascii() or charset == "latin1")
        )


@given(table=tables(column_count_max=6), data=st.data())
def test_truncate_leaves_the_first_images_and_room_for_others(
    table: tuple[list[RawColumn], list[RowsEvent]], data: st.DataObject
) -> None:
    columns, events = table
    layout = layout_of(columns)
    both: tuple[Buffer, Buffer] = reference.ImageBuffer(layout), kernel.ImageBuffer(layout)
    for event in [*events, *events]:
        problems = [problem_of(buffer, event) for buffer in both]
        assert problems[0] == problems[1]
        keep = data.draw(st.integers(0, both[0].image_count + 1))
        whole = data.draw(st.integers(0, both[0].image_count))
        for buffer in both:
            buffer.whole_count = whole
            buffer.truncate(keep)
            assert buffer.image_count <= keep
            assert buffer.whole_count == min(whole, buffer.image_count, keep)
        assert both[0].byte_count == both[1].byte_count
    if both[0].image_count:
        assert_same_batch(both[1].take(), both[0].take())


# ---------------------------------------------------------------- images that lack columns, and partial JSON


JSON_COLUMN = RawColumn(
    _layout("j", ValueKind.JSON, Codec.JSON, 4, (1 << 32) - 1),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=6,
    ).map(lambda value: _prefixed(json_bytes(value), 4)),
)
DIFFS = st.lists(
    st.builds(
        Change,
        st.sampled_from((0, 0, 0, 1, 2)),
        st.sampled_from(((), ("a",), ("b",), ("a", "b"), (0,), ("a", 0))),
        st.sampled_from((None, 1, "x", [], {"a": 1})),
    ),
    max_size=2,
).map(lambda changes: _prefixed(changes_bytes(changes), 4))


@st.composite
def sparse_tables(draw: st.DrawFn) -> tuple[list[RawColumn], list[RowsEvent]]:
    """Events of images that lack columns, and partial updates, valid and not."""
    simple = [
        column for column in raw_columns() if column.layout.definition.name in ("i8", "i64u", "v63", "c_latin1", "d9_0")
    ]
    columns = draw(st.lists(st.sampled_from([*simple, JSON_COLUMN]), min_size=1, max_size=11))
    count = len(columns)
    row = st.tuples(*(st.one_of(column.raw, column.raw, st.none()) for column in columns))
    bitmaps = st.one_of(st.just((1 << count) - 1), st.integers(0, (1 << count) - 1))
    events = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from((RowsKind.UPDATE, RowsKind.UPDATE, RowsKind.INSERT, RowsKind.DELETE)))
        is_partial = kind is RowsKind.UPDATE and draw(st.booleans())
        before, after = draw(bitmaps), draw(bitmaps)
        rows = bytearray()
        for _ in range(draw(st.integers(0, 3))):
            if kind is not RowsKind.INSERT:
                rows += image_bytes(columns, draw(row), before)
            if kind is RowsKind.DELETE:
                continue
            cells = list(draw(row))
            if is_partial:
                options = draw(st.sampled_from((0, 1, 1, 1, 1, 2)))
                bits = draw(st.integers(0, (1 << count) - 1)) if options == 1 else 0
                json_at = [index for index, column in enumerate(columns) if column is JSON_COLUMN]
                for number, index in enumerate(json_at):
                    if bits >> number & 1 and cells[index] is not None:
                        cells[index] = draw(DIFFS)
                bits &= (1 << len(json_at)) - 1
                rows += lenenc(options)
                if options & 1:
                    rows += bits.to_bytes((len(json_at) + 7) // 8, "little")
            rows += image_bytes(columns, cells, after)
        events.append(
            RowsEvent(
                kind,
                1,
                1,
                count,
                0 if kind is RowsKind.INSERT else before,
                0 if kind is RowsKind.DELETE else after,
                bytes(rows),
                is_partial=is_partial,
            )
        )
    return columns, events


@given(table=sparse_tables(), needs_all_columns=st.sampled_from((False, False, True)))
def test_both_take_in_images_that_lack_columns_and_partial_updates(
    table: tuple[list[RawColumn], list[RowsEvent]], needs_all_columns: bool
) -> None:
    columns, events = table
    assert_both_agree(layout_of(columns), events, needs_all_columns=needs_all_columns)


@given(table=sparse_tables(), data=st.data())
def test_both_say_the_same_of_damaged_sparse_events(
    table: tuple[list[RawColumn], list[RowsEvent]], data: st.DataObject
) -> None:
    columns, events = table
    mixed = [event for one in events for event in (one, damaged(one, data), one)]
    assert_both_agree(layout_of(columns), mixed, needs_all_columns=False)


@given(table=sparse_tables(), data=st.data())
def test_shapes_survive_truncate(table: tuple[list[RawColumn], list[RowsEvent]], data: st.DataObject) -> None:
    columns, events = table
    layout = layout_of(columns)
    both: tuple[Buffer, Buffer] = (
        reference.ImageBuffer(layout, needs_all_columns=False),
        kernel.ImageBuffer(layout, needs_all_columns=False),
    )
    for event in [*events, *events]:
        problems = [problem_of(buffer, event) for buffer in both]
        assert problems[0] == problems[1]
        keep = data.draw(st.integers(0, both[0].image_count))
        for buffer in both:
            buffer.truncate(keep)
    if both[0].image_count:
        assert_same_batch(both[1].take(), both[0].take())


def json_cell(value: Any) -> bytes:
    return _prefixed(json_bytes(value), 4)


def diff_cell(*changes: Change) -> bytes:
    return _prefixed(changes_bytes(changes), 4)


def partial_update(
    columns: Sequence[RawColumn],
    before: int,
    after: int,
    pairs: Sequence[tuple[Sequence[bytes | None], int, Sequence[bytes | None]]],
) -> RowsEvent:
    """Of each row the cells before, the bitmap of JSON columns whose cells are diffs, and the cells after."""
    json_count = sum(column is JSON_COLUMN for column in columns)
    rows = b"".join(
        image_bytes(columns, old, before)
        + b"\1"
        + bits.to_bytes((json_count + 7) // 8, "little")
        + image_bytes(columns, new, after)
        for old, bits, new in pairs
    )
    return RowsEvent(RowsKind.UPDATE, 1, 1, len(columns), before, after, rows, is_partial=True)


def test_the_bitmap_of_diffs_has_a_bit_for_json_columns_that_the_image_lacks() -> None:
    columns = [BIGINT, JSON_COLUMN, JSON_COLUMN]
    number = (1).to_bytes(8, "little")
    old = [number, json_cell({"a": 1}), json_cell({"a": 2})]
    new = [number, None, diff_cell(Change(0, ("a",), 3))]
    event = partial_update(columns, 0b111, 0b101, [(old, 0b10, new)])
    assert_both_agree(layout_of(columns), [event, replace(event, rows=event.rows[:-1])], needs_all_columns=False)
    buffer = kernel.ImageBuffer(layout_of(columns), needs_all_columns=False)
    buffer.append(event, 0)
    batch = buffer.take()
    assert batch.images.column(2).to_pylist() == ['{"a": 2}', '{"a": 3}']
    assert batch.shape_index is not None
    assert (batch.shapes, batch.shape_index.to_pylist()) == ((frozenset(), frozenset({"c1"})), [0, 1])


def test_a_diff_is_not_applied_to_the_document_of_another_row() -> None:
    columns = [JSON_COLUMN]
    change = diff_cell(Change(0, ("a",), 3))
    first, second = [json_cell({"a": 1})], [None]
    event = partial_update(columns, 1, 1, [(first, 1, [change]), (second, 1, [change])])
    assert_both_agree(layout_of(columns), [event])
    with pytest.raises(UnsupportedData, match="the document before is not in the event"):
        kernel.ImageBuffer(layout_of(columns)).append(event, 0)


def test_a_document_that_did_not_change_and_is_not_in_the_event_is_no_column_of_that_image() -> None:
    """MINIMAL: of one row the document changed, of the other it did not."""
    columns = [BIGINT, JSON_COLUMN, JSON_COLUMN]
    number = (1).to_bytes(8, "little")
    old: list[bytes | None] = [number, None, None]
    event = partial_update(
        columns,
        0b001,
        0b111,
        [
            (old, 0b01, [number, diff_cell(), json_cell(1)]),
            (old, 0b10, [number, json_cell(2), diff_cell()]),
            (old, 0b00, [number, json_cell(3), None]),
        ],
    )
    assert_both_agree(layout_of(columns), [event, event], needs_all_columns=False)
    buffer = kernel.ImageBuffer(layout_of(columns), needs_all_columns=False)
    buffer.append(event, 0)
    batch = buffer.take()
    assert batch.shape_index is not None
    lacks = [set(batch.shapes[shape]) for shape in batch.shape_index.to_pylist()]
    assert lacks == [{"c1", "c2"}, {"c1"}, {"c1", "c2"}, {"c2"}, {"c1", "c2"}, set()]
    assert batch.images.column(1).to_pylist() == [None, None, None, "2", None, "3"]


@pytest.mark.usefixtures("no_leak")
def test_more_shapes_than_can_be_numbered_are_refused() -> None:
    tiny = next(column for column in raw_columns() if column.layout.definition.name == "i8")
    columns = [tiny] * 17
    buffer = kernel.ImageBuffer(layout_of(columns), needs_all_columns=False)
    for present in range(1, 65536):
        event = lenenc(17) + present.to_bytes(3, "little") + b"\0" * ((present.bit_count() + 7) // 8)
        body = event + b"\1" * present.bit_count()
        assert buffer.append_body(RowsKind.INSERT, False, body, 0, 0, NO_LIMIT, NO_LIMIT)[0] == TAKEN
    one_more = RowsEvent(RowsKind.INSERT, 1, 1, 17, 0, 1 << 16, b"\0\1")
    with pytest.raises(UnsupportedData, match="more than 65535 different sets of columns"):
        buffer.append(one_more, 0)
    buffer.append(replace(one_more, present_after=1), 0)
    batch = buffer.take()
    assert batch.row_count == 65536
    assert len(batch.shapes) == 65535
    assert batch.shapes[0] == frozenset(f"c{index}" for index in range(1, 17))
    buffer.append(one_more, 0)
    del batch, buffer


# ---------------------------------------------------------------- bodies, as the scanner hands them over


PAIR = [BIGINT, TEXT]


def pair_image(number: int, text: str | None) -> bytes:
    cell = None if text is None else _prefixed(text.encode(), 1)
    return image_bytes(PAIR, [number.to_bytes(8, "little"), cell], 0b11)


def body_of(rows: bytes, *, bitmaps: bytes = b"\3", count: int = 2) -> bytes:
    return lenenc(count) + bitmaps + rows


def column_of(buffer: kernel.ImageBuffer, index: int = 0) -> list[Any]:
    found: list[Any] = buffer.take().images.column(index).to_pylist()
    return found


def test_a_body_is_read_in_pieces_of_as_many_rows_as_are_wanted() -> None:
    body = body_of(b"".join(pair_image(number, f"row {number}") for number in range(10)))
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    offset, taken = 0, []
    for _ in range(3):
        result, offset = buffer.append_body(RowsKind.INSERT, False, body, offset, 0, 3, NO_LIMIT)
        assert (result, buffer.image_count) == (STOPPED, 3)
        taken += column_of(buffer)
    assert buffer.append_body(RowsKind.INSERT, False, body, offset, 0, 3, NO_LIMIT)[0] == TAKEN
    assert [*taken, *column_of(buffer)] == list(range(10))


def test_a_limit_that_is_reached_with_the_last_image_does_not_stop() -> None:
    body = body_of(b"".join(pair_image(number, "x") for number in range(3)))
    assert kernel.ImageBuffer(layout_of(PAIR)).append_body(RowsKind.INSERT, False, body, 0, 0, 3, NO_LIMIT) == (
        TAKEN,
        0,
    )


def test_updates_stop_after_a_pair() -> None:
    body = body_of(b"".join(pair_image(number, "x") for number in range(6)), bitmaps=b"\3\3")
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    result, offset = buffer.append_body(RowsKind.UPDATE, False, body, 0, 0, 1, NO_LIMIT)
    assert (result, buffer.image_count) == (STOPPED, 2)
    assert buffer.append_body(RowsKind.UPDATE, False, body, offset, 0, NO_LIMIT, NO_LIMIT)[0] == TAKEN
    batch = buffer.take()
    assert batch.operation.to_pylist() == [2, 3] * 3
    assert batch.images.column(0).to_pylist() == list(range(6))


def test_bytes_stop_an_event_as_rows_do() -> None:
    body = body_of(b"".join(pair_image(number, "x" * 50) for number in range(10)))
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    result, _ = buffer.append_body(RowsKind.INSERT, False, body, 0, 0, NO_LIMIT, 200)
    # an image: 8 for the number, 8 for the offset, 1 for validity, 5 for operation and transaction, 50 for the text
    assert (result, buffer.image_count, buffer.byte_count) == (STOPPED, 3, 3 * 72)


def test_a_hostile_event_of_nothing_but_nulls_reaches_the_bytes_limit() -> None:
    body = body_of(b"\3" * 100_000)
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    result, offset = buffer.append_body(RowsKind.INSERT, False, body, 0, 0, NO_LIMIT, 22_000)
    assert (result, buffer.image_count, offset) == (STOPPED, 1000, 2 + 1000)


@pytest.mark.parametrize("count", [20_000, 33_000, 70_000, 100_000])
def test_a_batch_like_the_last_one_holds_little_more_memory_than_its_rows(count: int) -> None:
    """Blocks go round: what of them is not filled has been touched before, and is lost to everybody."""
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    gc.collect()
    before = memory.live_bytes()
    for index, more in enumerate((0, 0, 300, -500, 500)):
        body = body_of(b"".join(pair_image(number, f"row number {number}") for number in range(count + more)))
        assert buffer.append_body(RowsKind.INSERT, False, body, 0, 0, NO_LIMIT, NO_LIMIT)[0] == TAKEN
        size = buffer.byte_count
        batch = buffer.take()
        held = memory.live_bytes() - before
        assert size * 0.9 < held  # NULL bits are counted though there are none
        assert held < size * 1.6 or index == 0
        del batch
    gc.collect()
    assert memory.live_bytes() == before


def test_batches_of_other_sizes_leave_few_blocks_of_theirs_behind() -> None:
    """In use and kept together there is about what the largest batch takes, and 8 MiB."""
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    gc.collect()
    memory.drop_kept()
    text = "x" * 200
    before, largest = memory.live_bytes(), 0
    for count in (30_000, 36_000, 43_000, 50_000, 25_000, 40_000, 29_000, 46_000):
        body = body_of(b"".join(pair_image(number, text) for number in range(count)))
        assert buffer.append_body(RowsKind.INSERT, False, body, 0, 0, NO_LIMIT, NO_LIMIT)[0] == TAKEN
        batch = buffer.take()
        largest = max(largest, memory.live_bytes() - before)
        assert memory.kept_bytes() + memory.live_bytes() - before < largest + (14 << 20)
        del batch
    assert memory.live_bytes() == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xfb",
        b"\xff",
        b"\xfc\2",
        b"\2",
        body_of(b"", count=3),
        body_of(b"\0"),
        body_of(pair_image(1, "a")[:-1]),
        body_of(b"", bitmaps=b"\1"),
    ],
)
def test_a_body_that_is_none_is_refused_and_changes_nothing(body: bytes) -> None:
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    good = body_of(pair_image(7, "seven"))
    assert buffer.append_body(RowsKind.INSERT, False, good, 0, 0, NO_LIMIT, NO_LIMIT)[0] == TAKEN
    held = buffer.byte_count
    assert buffer.append_body(RowsKind.INSERT, False, body, 0, 0, NO_LIMIT, NO_LIMIT)[0] == REFUSED
    assert (buffer.image_count, buffer.byte_count) == (1, held)
    assert column_of(buffer, 1) == ["seven"]


@pytest.mark.parametrize("offset", [1, 1000])
def test_an_offset_that_is_no_image_is_refused(offset: int) -> None:
    body = body_of(pair_image(7, "seven"))
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    assert buffer.append_body(RowsKind.INSERT, False, body, offset, 0, NO_LIMIT, NO_LIMIT)[0] == REFUSED


@given(table=tables(column_count_max=5), size=st.integers(1, 4), is_wide=st.booleans())
def test_a_body_gives_what_the_event_gives(
    table: tuple[list[RawColumn], list[RowsEvent]], size: int, is_wide: bool
) -> None:
    """However it is cut, and with the count of columns as one byte or as three."""
    columns, events = table
    layout = layout_of(columns)
    twin, compiled = reference.ImageBuffer(layout), kernel.ImageBuffer(layout)
    for event in events:
        count = b"\xfc" + len(columns).to_bytes(2, "little") if is_wide else lenenc(len(columns))
        bitmaps = b"\xff" * ((len(columns) + 7) // 8) * (2 if event.kind is RowsKind.UPDATE else 1)
        body = count + bitmaps + event.rows
        offset, result = 0, STOPPED
        problem = problem_of(twin, event)
        start = compiled.image_count
        while result == STOPPED:
            result, offset = compiled.append_body(
                event.kind, False, body, offset, 0, compiled.image_count + size, NO_LIMIT
            )
        assert (result == REFUSED) == (problem is not None)
        if problem is not None:
            compiled.truncate(start)
    if twin.image_count:
        assert_same_batch(compiled.take(), twin.take())


# ---------------------------------------------------------------- memory


@pytest.fixture
def no_leak() -> Iterator[None]:
    """All blocks that the test takes are given back when it is over."""
    gc.collect()
    before = memory.live_bytes()
    yield
    gc.collect()
    assert memory.live_bytes() == before


@pytest.mark.usefixtures("no_leak")
@settings(max_examples=50)
@given(table=tables(column_count_max=6, event_count_max=2), data=st.data(), is_taken=st.booleans())
def test_memory_is_given_back_whatever_happened(
    table: tuple[list[RawColumn], list[RowsEvent]], data: st.DataObject, is_taken: bool
) -> None:
    columns, events = table
    before = memory.live_bytes()
    buffer = kernel.ImageBuffer(layout_of(columns), needs_all_columns=False)
    for event in events:
        problem_of(buffer, event)
        problem_of(buffer, damaged(event, data))
        buffer.truncate(data.draw(st.integers(0, buffer.image_count)))
    if is_taken and buffer.image_count:
        batch = buffer.take()
        del batch
        for event in events:
            problem_of(buffer, event)
    del buffer
    assert memory.live_bytes() == before


@pytest.mark.usefixtures("no_leak")
def test_a_batch_keeps_its_memory_when_the_buffer_is_gone() -> None:
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    rows = b"".join(pair_image(number, None if number % 3 else f"row {number}") for number in range(5000))
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, rows), 9)
    batch = buffer.take()
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, pair_image(-1 & (1 << 63) - 1, "other")), 0)
    del buffer
    assert memory.live_bytes() > 0
    assert batch.images.column(0).to_pylist() == list(range(5000))
    assert batch.images.column(1).to_pylist() == [None if number % 3 else f"row {number}" for number in range(5000)]
    assert batch.transaction_index.to_pylist() == [9] * 5000


@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("charset", ["gbk", "utf16"])
def test_an_error_inside_a_python_decoder_leaves_nothing(charset: str) -> None:
    column = RawColumn(_layout("t", ValueKind.TEXT, Codec.TEXT, 1, 255, charset=charset), st.nothing())
    buffer = kernel.ImageBuffer(layout_of([column]))
    event = RowsEvent(RowsKind.INSERT, 1, 1, 1, 0, 1, b"\0\2\xff\xff" if charset == "gbk" else b"\0\2\xd8\0")
    for _ in range(100):
        with pytest.raises(UnsupportedData, match="is no text in"):
            buffer.append(event, 0)
    assert buffer.image_count == 0


def test_a_buffer_grows_to_what_the_last_batch_needed_in_one_step() -> None:
    """And begins small: a run of one row holds one block a column."""
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    rows = b"".join(pair_image(number, "x" * 60) for number in range(20_000))
    before = memory.live_bytes()
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, rows), 0)
    large = memory.live_bytes() - before
    buffer.take()
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, pair_image(1, "x")), 0)
    assert memory.live_bytes() - before < 10 * 4096 * 2
    assert large > 1 << 20


def test_null_slots_hold_zeroes() -> None:
    """What the memory held before is nobody's business."""
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    full = b"".join(pair_image(-1 & (1 << 64) - 1, "x") for _ in range(100))
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, full), 0)
    buffer.take()
    buffer.append(RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, b"\3" * 100), 0)
    column = buffer.take().images.column(0)
    assert column.null_count == 100
    assert pa.Array.from_buffers(pa.int64(), 100, [None, column.buffers()[1]]).to_pylist() == [0] * 100


def test_no_null_no_bitmap() -> None:
    buffer = kernel.ImageBuffer(layout_of(PAIR))
    event = RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 3, pair_image(1, "a"))
    buffer.append(event, 0)
    buffer.append(replace(event, rows=pair_image(1, None)), 0)
    buffer.truncate(1)
    assert [column.buffers()[0] for column in buffer.take().images.columns] == [None, None]


def test_a_plan_that_contradicts_its_column_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="is no blob"):
        kernel.ImageBuffer(layout_of([RawColumn(_layout("b", ValueKind.BLOB, Codec.SIGNED, 4), st.nothing())]))


def test_the_reference_parses_the_events_that_the_tests_build() -> None:
    """`parse_rows` gives `append` what these tests give it."""
    rows = pair_image(5, "five")
    body = (77).to_bytes(6, "little") + b"\1\0" + b"\2\0" + body_of(rows)
    event = parse_rows(framed(EventType.WRITE_ROWS, body))
    assert (event.present_before, event.present_after, event.rows) == (0, 3, rows)


@pytest.mark.parametrize("charset", ["utf8mb4", "utf8mb3"])
def test_long_texts_are_checked_at_every_place_of_a_block(charset: str) -> None:
    """Long ones are read sixteen bytes a step: what begins in one step and ends in the next, or nowhere."""
    layout = layout_of([RawColumn(_layout("long", ValueKind.TEXT, Codec.TEXT, 2, 65535, charset=charset), st.none())])
    pieces: list[str | bytes] = [
        *("é", "中", "퟿", "\ue000", "𐍈", "\U0010ffff"),
        *(b"\x80", b"\xc1\x80", b"\xc2", b"\xc2a", b"\xe0\x9f\x80", b"\xe1\x80", b"\xed\xa0\x80", b"\xef\xbf"),
        *(b"\xf0\x8f\x80\x80", b"\xf1\x80\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xc2\x80\x80"),
        *(b"\xe1\x80\x80\x80", b"\xf1\x80\x80\x80\x80"),
    ]
    for piece in pieces:
        raw = piece.encode() if isinstance(piece, str) else piece
        for before in range(34):
            for behind in (0, 1, 2, 3, 15, 16, 40):
                text = ("ä" * (before // 2) + "a" * (before % 2)).encode() + raw + b"b" * behind
                value = text.rjust(32, b".")
                event = RowsEvent(RowsKind.INSERT, 77, 1, 1, 0, 1, b"\0" + _prefixed(value, 2))
                assert_both_agree(layout, [event])


OUT_OF_MEMORY = """
import resource
from cdc.binlog import rows as reference
from tests.unit.binlog.test_kernel_rows import *

columns = [BIGINT, JSON_COLUMN]
cells = [(1).to_bytes(8, "little"), json_cell("\\1" * (24 << 20))]  # printed, six times as long
event = RowsEvent(RowsKind.INSERT, 1, 1, 2, 0, 0b11, image_bytes(columns, cells, 0b11))
buffer = kernel.ImageBuffer(layout_of(columns))

class Accepting:  # in its own right the twin would have no memory either
    def __init__(self, layout, *, needs_all_columns): pass
    def append(self, event, transaction_index): pass

reference.ImageBuffer = Accepting
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
try:
    buffer.append(event, 0)
except BaseException as error:
    print(type(error).__name__, buffer.image_count)
"""


def test_a_document_that_there_is_no_memory_to_print_is_no_broken_invariant() -> None:
    """In a process of its own: the limit is the process's."""
    result = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (result.stdout, result.stderr) == ("MemoryError 0\n", "")
