"""Table maps: types, metadata and the optional fields in all their forms; what does not fit is malformed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.constants import ColumnType, EventType, MetadataField
from cdc.binlog.table_map import TableMap, parse_table_map, real_type
from cdc.errors import MalformedEvent, ProtocolError, UnsupportedEvent
from cdc.model import ValueKind
from tests.support.binlog_build import (
    BuiltColumn,
    columns_of_every_kind,
    framed,
    lenenc,
    optional_metadata,
    table_map_body,
)

COLUMNS = columns_of_every_kind()
BY_NAME = {column.definition.name: column for column in COLUMNS}


def parse(columns: Sequence[BuiltColumn], optional: bytes = b"") -> TableMap:
    return parse_table_map(framed(EventType.TABLE_MAP, table_map_body(columns, optional=optional)))


def field(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + lenenc(len(value)) + value


def test_a_table_map_without_optional_metadata() -> None:
    found = parse(COLUMNS)
    assert (found.table_id, found.flags, found.database, found.table) == (77, 1, "shop", "t")
    assert found.column_types == tuple(column.column_type for column in COLUMNS)
    assert found.metadata == tuple(column.metadata for column in COLUMNS)
    assert found.is_nullable == (True,) * len(COLUMNS)
    assert not found.optional.is_full
    assert found.optional.is_unsigned is None


@pytest.mark.parametrize("by_default", [True, False])
def test_full_metadata_lands_on_its_columns(by_default: bool) -> None:
    """Numerics, texts, enums and sets are counted apart, in both forms of charsets."""
    optional = parse(COLUMNS, optional_metadata(COLUMNS, by_default=by_default)).optional
    assert optional.names == tuple(column.definition.name for column in COLUMNS)
    assert optional.is_unsigned == tuple(
        (column.definition.is_unsigned or column.definition.kind is ValueKind.YEAR) if column.is_numeric else None
        for column in COLUMNS
    )
    assert optional.collations == tuple(
        column.collation if column.collation and not column.members else None for column in COLUMNS
    )
    assert optional.member_collations == tuple(column.collation if column.members else None for column in COLUMNS)
    assert optional.enum_members == tuple(
        column.members if column.definition.kind is ValueKind.ENUM else None for column in COLUMNS
    )
    assert optional.set_members == tuple(
        column.members if column.definition.kind is ValueKind.SET else None for column in COLUMNS
    )


def test_year_counts_among_the_numeric_columns_and_bit_does_not() -> None:
    """One bit too many or too few shifts the sign of every later column."""
    columns = [BY_NAME[name] for name in ("i32u", "year", "i32", "d9_0", "f", "b8", "e3", "i64u")]
    found = parse(columns, field(MetadataField.SIGNEDNESS, bytes((0b11000100,)))).optional.is_unsigned
    assert found == (True, True, False, False, False, None, None, True)


def test_primary_keys_of_both_forms() -> None:
    columns = [BY_NAME["i32"], BY_NAME["v63"]]
    assert parse(columns, field(MetadataField.SIMPLE_PRIMARY_KEY, b"\1\0")).optional.primary_key == ((1, 0), (0, 0))
    prefixed = parse(columns, field(MetadataField.PRIMARY_KEY_WITH_PREFIX, b"\0\0\1\x0a"))
    assert prefixed.optional.primary_key == ((0, 0), (1, 10))


def test_visibility_geometry_types_and_dimensions() -> None:
    def plain(kind: ColumnType) -> BuiltColumn:
        return BuiltColumn(BY_NAME["bl"].definition, kind, b"\4", st.binary(), bytes)

    columns = [plain(ColumnType.GEOMETRY), plain(ColumnType.VECTOR), BY_NAME["i32"]]
    optional = (
        field(MetadataField.COLUMN_VISIBILITY, bytes((0b10100000,)))
        + field(MetadataField.GEOMETRY_TYPE, b"\1")
        + field(MetadataField.VECTOR_DIMENSIONALITY, lenenc(2048))
    )
    found = parse(columns, optional).optional
    assert found.is_visible == (True, False, True)
    assert found.geometry_types == (1, None, None)
    assert found.vector_dimensions == (None, 2048, None)


def test_a_field_that_is_not_known_is_passed_over() -> None:
    optional = field(200, b"whatever") + optional_metadata(COLUMNS) + field(14, bytes(300))
    assert parse(COLUMNS, optional).optional.names is not None


I32 = [BY_NAME["i32"], BY_NAME["v63"], BY_NAME["e3"]]


@pytest.mark.parametrize(
    "optional",
    [
        b"\1",
        b"\1\5\0",  # longer than what is left
        b"\xc8\xfe" + b"\xff" * 8,
        b"\1\xff",
        field(MetadataField.SIGNEDNESS, b""),
        field(MetadataField.SIGNEDNESS, b"\0\0"),
        field(MetadataField.SIGNEDNESS, b"\0") * 2,
        field(MetadataField.DEFAULT_CHARSET, b""),
        field(MetadataField.DEFAULT_CHARSET, b"\x21\5\x21"),  # exception for a column that is not there
        field(MetadataField.DEFAULT_CHARSET, b"\x21\0"),
        field(MetadataField.DEFAULT_CHARSET, b"\x21") + field(MetadataField.COLUMN_CHARSET, b"\x21"),
        field(MetadataField.COLUMN_CHARSET, b""),
        field(MetadataField.COLUMN_CHARSET, b"\x21\x21"),
        field(MetadataField.COLUMN_NAME, b"\1a\1b"),
        field(MetadataField.COLUMN_NAME, b"\1a\1b\1c\1d"),
        field(MetadataField.COLUMN_NAME, b"\1a\1b\xfc\xff\xff"),
        field(MetadataField.COLUMN_NAME, b"\1a\1b\1\xff"),
        field(MetadataField.ENUM_STR_VALUE, b"\xfe" + b"\xff" * 8),
        field(MetadataField.ENUM_STR_VALUE, b"\2\1a"),
        field(MetadataField.ENUM_STR_VALUE, b"\1\xfca"),
        field(MetadataField.SET_STR_VALUE, b"\0"),  # no column is a set
        field(MetadataField.SIMPLE_PRIMARY_KEY, b"\3"),
        field(MetadataField.SIMPLE_PRIMARY_KEY, b"\xfc"),
        field(MetadataField.PRIMARY_KEY_WITH_PREFIX, b"\0"),
        field(MetadataField.SIMPLE_PRIMARY_KEY, b"\0") + field(MetadataField.PRIMARY_KEY_WITH_PREFIX, b"\0\0"),
        field(MetadataField.COLUMN_VISIBILITY, b""),
        field(MetadataField.VECTOR_DIMENSIONALITY, b"\1"),
    ],
)
def test_optional_metadata_that_does_not_fit_is_malformed(optional: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse(I32, optional)


def test_lengths_of_char_columns_hide_in_the_real_type() -> None:
    """255 characters of utf8mb4 are 1020 bytes."""
    assert BY_NAME["c255"].metadata == bytes((0xCE, 0xFC))
    assert real_type(ColumnType.STRING, BY_NAME["c255"].metadata) == ColumnType.STRING
    assert real_type(ColumnType.STRING, bytes((ColumnType.ENUM, 1))) == ColumnType.ENUM
    assert real_type(ColumnType.STRING, bytes((ColumnType.SET, 8))) == ColumnType.SET


def raw_map(types: bytes, metadata: bytes, *, count: bytes | None = None, nulls: bytes = b"\xff") -> bytes:
    head = bytes(6) + b"\1\0" + b"\4shop\0\1t\0"
    return head + (lenenc(len(types)) if count is None else count) + types + lenenc(len(metadata)) + metadata + nulls


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(7),
        bytes(8) + b"\4shop!\1t\0",
        bytes(8) + b"\4shop\0\1t!",
        bytes(8) + b"\xfc\0\1" + b"x" * 256 + b"\0\1t\0",  # a name of 256 bytes
        bytes(8) + b"\1\xff\0\1t\0",
        raw_map(b"\3", b"", count=b"\xfe" + b"\xff" * 8),
        raw_map(b"\3", b"", count=b"\xfd\0\0\1"),
        raw_map(b"\3", b"", count=b"\xfb"),
        raw_map(b"\3", b"\0"),  # metadata that no column has
        raw_map(b"\x0f", b"\1"),  # less than the type needs
        raw_map(b"\xf6", b"\x42\0"),  # a precision of 66
        raw_map(b"\xf6", b"\5\6"),
        raw_map(b"\xf6", b"\0\0"),
        raw_map(b"\x12", b"\7"),
        raw_map(b"\x10", b"\x08\1"),
        raw_map(b"\x10", b"\1\x08"),
        raw_map(b"\x10", b"\0\0"),
        raw_map(b"\xfe", b"\xf7\3"),
        raw_map(b"\xfe", b"\xf8\5"),
        raw_map(b"\xfe", b"\xff\1"),
        raw_map(b"\xfc", b"\5"),
        raw_map(b"\4", b"\x08"),
        raw_map(b"\3", b"", nulls=b""),
    ],
)
def test_table_maps_that_do_not_fit_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_table_map(framed(EventType.TABLE_MAP, body))


@pytest.mark.parametrize("column_type", [0, 20, 139, 142, 241, 243, 244, 247, 248])
def test_a_column_type_that_is_not_known_stops(column_type: int) -> None:
    with pytest.raises(UnsupportedEvent, match=f"type {column_type}"):
        parse_table_map(framed(EventType.TABLE_MAP, raw_map(bytes((column_type,)), b"\0\0")))


def test_a_table_of_4096_columns_is_read_and_one_more_is_not() -> None:
    body = raw_map(b"\3" * 4096, b"", nulls=bytes(512))
    assert parse_table_map(framed(EventType.TABLE_MAP, body)).column_count == 4096
    with pytest.raises(MalformedEvent, match="4097 columns"):
        parse_table_map(framed(EventType.TABLE_MAP, raw_map(b"\3" * 4097, b"", nulls=bytes(513))))


@given(optional=st.binary(max_size=100))
def test_any_optional_metadata_gives_a_table_map_or_a_protocol_error(optional: bytes) -> None:
    try:
        parse(COLUMNS, optional)
    except ProtocolError:
        return


@given(data=st.data())
def test_any_damage_to_full_metadata_gives_a_table_map_or_a_protocol_error(data: st.DataObject) -> None:
    damaged = bytearray(table_map_body(COLUMNS, optional=optional_metadata(COLUMNS)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_table_map(framed(EventType.TABLE_MAP, bytes(damaged)))
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "sent,expected",
    [
        # as MariaDB 11.8 wrote them for (id INT, v VARCHAR utf8mb4, l VARCHAR latin1, p POINT)
        (field(MetadataField.COLUMN_CHARSET, bytes.fromhex("fc0009083f")), (None, 2304, 8, 63)),
        (field(MetadataField.DEFAULT_CHARSET, bytes.fromhex("0802fc0009")), (None, 8, 8, 2304)),
    ],
)
def test_mariadb_counts_geometry_among_the_columns_with_a_charset(
    sent: bytes, expected: tuple[int | None, ...]
) -> None:
    types = bytes((ColumnType.LONG, ColumnType.VARCHAR, ColumnType.VARCHAR, ColumnType.GEOMETRY))
    event = framed(EventType.TABLE_MAP, raw_map(types, b"\x50\0\x14\0\4", nulls=b"\0") + sent)
    assert parse_table_map(event, "mariadb").optional.collations == expected


def test_mysql_counts_vectors_among_them() -> None:
    """As MySQL 9.7 wrote it for (id INT, p VECTOR(2), v VARCHAR utf8mb4, bl BLOB, l and l2 VARCHAR latin1)."""
    types = bytes(
        (
            ColumnType.LONG,
            ColumnType.VECTOR,
            ColumnType.VARCHAR,
            ColumnType.BLOB,
            ColumnType.VARCHAR,
            ColumnType.VARCHAR,
        )
    )
    sent = field(MetadataField.COLUMN_CHARSET, bytes.fromhex("3ffcff003f0808"))
    event = framed(EventType.TABLE_MAP, raw_map(types, b"\4\x50\0\2\x14\0\x14\0", nulls=b"\0") + sent)
    assert parse_table_map(event).optional.collations == (None, 63, 255, 63, 8, 8)


def test_mysql_does_not_count_geometry() -> None:
    types = bytes((ColumnType.VARCHAR, ColumnType.GEOMETRY, ColumnType.VARCHAR))
    sent = field(MetadataField.COLUMN_CHARSET, bytes.fromhex("fcff0008"))
    event = framed(EventType.TABLE_MAP, raw_map(types, b"\x50\0\4\x14\0", nulls=b"\0") + sent)
    assert parse_table_map(event).optional.collations == (255, None, 8)
