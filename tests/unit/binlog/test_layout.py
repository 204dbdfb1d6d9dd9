"""Layouts: a table map that means what the definition says is planned; any difference is a mismatch that names both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.constants import ColumnType, EventType
from cdc.binlog.layout import (
    Codec,
    LayoutMismatch,
    RowLayout,
    build_layout,
    definition_from_table_map,
)
from cdc.binlog.table_map import TableMap, parse_table_map
from cdc.errors import ProtocolError, UnsupportedData
from cdc.model import ColumnDefinition, Flavor, TableName, ValueKind
from tests.support.binlog_build import (
    BuiltColumn,
    columns_of_every_kind,
    definition_of,
    framed,
    optional_metadata,
    table_map_body,
)

COLUMNS = columns_of_every_kind()
BY_NAME = {column.definition.name: column for column in COLUMNS}


def map_of(columns: Sequence[BuiltColumn], *, is_full: bool = False) -> TableMap:
    optional = optional_metadata(columns) if is_full else b""
    return parse_table_map(framed(EventType.TABLE_MAP, table_map_body(columns, optional=optional)))


def plan(
    column: BuiltColumn,
    *,
    definition: ColumnDefinition | None = None,
    is_full: bool = False,
    flavor: Flavor = "mysql",
    version: tuple[int, ...] = (8, 4, 0),
) -> RowLayout:
    table = definition_of([column], flavor=flavor)
    if definition is not None:
        table = replace(table, columns=(definition,))
    return build_layout(map_of([column], is_full=is_full), table, flavor=flavor, server_version=version)


def other(
    kind: ValueKind, column_type: ColumnType, metadata: bytes, text: str, collation: int = 0, **fields: Any
) -> BuiltColumn:
    """A column that only some servers write."""
    definition = ColumnDefinition("c", kind, text, **fields)
    return BuiltColumn(definition, column_type, metadata, st.nothing(), bytes, collation)


@pytest.mark.parametrize("is_full", [False, True])
def test_every_kind_is_accepted_with_and_without_full_metadata(is_full: bool) -> None:
    layout = build_layout(
        map_of(COLUMNS, is_full=is_full), definition_of(COLUMNS), flavor="mysql", server_version=(8, 4, 0)
    )
    assert layout.column_count == len(COLUMNS)
    assert [column.definition for column in layout.columns] == [column.definition for column in COLUMNS]


@pytest.mark.parametrize(
    "column, flavor, codec, size, width",
    [
        (other(ValueKind.DATETIME, ColumnType.DATETIME, b"", "datetime"), "mysql", Codec.DATETIME_NUMBER, 0, None),
        (
            other(ValueKind.DATETIME, ColumnType.DATETIME, b"", "datetime(3)", fraction_digits=3),
            "mariadb",
            Codec.DATETIME_HIRES,
            3,
            None,
        ),
        (other(ValueKind.TIMESTAMP, ColumnType.TIMESTAMP, b"", "timestamp"), "mysql", Codec.TIMESTAMP_NUMBER, 0, None),
        (other(ValueKind.TIME, ColumnType.TIME, b"", "time"), "mysql", Codec.TIME_NUMBER, 0, None),
        (
            other(ValueKind.TIME, ColumnType.TIME, b"", "time(6)", fraction_digits=6),
            "mariadb",
            Codec.TIME_HIRES,
            6,
            None,
        ),
        (other(ValueKind.GEOMETRY, ColumnType.GEOMETRY, b"\4", "point"), "mysql", Codec.BYTES, 4, None),
        (other(ValueKind.VECTOR, ColumnType.VECTOR, b"\4", "vector(3)", length=3), "mysql", Codec.BYTES, 4, None),
        (
            other(ValueKind.VECTOR, ColumnType.VARCHAR, b"\x0c\0", "vector(3)", 63, length=3),
            "mariadb",
            Codec.BYTES,
            1,
            12,
        ),
        (other(ValueKind.UUID, ColumnType.STRING, b"\xfe\x10", "uuid", 63), "mariadb", Codec.PADDED_BYTES, 1, 16),
        (other(ValueKind.INET6, ColumnType.STRING, b"\xfe\x10", "inet6", 63), "mariadb", Codec.PADDED_BYTES, 1, 16),
        (other(ValueKind.INET4, ColumnType.STRING, b"\xfe\x04", "inet4", 63), "mariadb", Codec.PADDED_BYTES, 1, 4),
        (
            other(ValueKind.JSON, ColumnType.BLOB, b"\4", "longtext", 46, charset="utf8mb4"),
            "mariadb",
            Codec.TEXT,
            4,
            None,
        ),
        (
            other(
                ValueKind.TEXT,
                ColumnType.MARIADB_VARCHAR_COMPRESSED,
                b"\x91\1",
                "varchar(100) /*M!100301 COMPRESSED*/",
                45,
                charset="utf8mb4",
                length=100,
            ),
            "mariadb",
            Codec.COMPRESSED_TEXT,
            2,
            401,
        ),
        (
            other(ValueKind.BLOB, ColumnType.MARIADB_BLOB_COMPRESSED, b"\2", "blob /*M!100301 COMPRESSED*/", 63),
            "mariadb",
            Codec.COMPRESSED_BYTES,
            2,
            65535,
        ),
    ],
)
def test_kinds_of_single_servers(
    column: BuiltColumn, flavor: Flavor, codec: Codec, size: int, width: int | None
) -> None:
    (found,) = plan(column, is_full=True, flavor=flavor).columns
    assert (found.codec, found.size) == (codec, size)
    assert width is None or found.width == width


@pytest.mark.parametrize(
    "flavor, version, seconds_max",
    [
        ("mysql", (9, 7, 4), 2**31 - 1),
        ("mariadb", (11, 4, 9), 2**31 - 1),
        ("mariadb", (11, 5, 0), 2**32 - 1),
        ("mariadb", (11, 8, 6), 2**32 - 1),
    ],
)
def test_timestamps_are_unsigned_from_mariadb_11_5_on(
    flavor: Flavor, version: tuple[int, ...], seconds_max: int
) -> None:
    assert plan(BY_NAME["ts3"], flavor=flavor, version=version).columns[0].width == seconds_max


# ---------------------------------------------------------------- differences


def changed(column_name: str, **change: Any) -> tuple[BuiltColumn, ColumnDefinition]:
    return BY_NAME[column_name], replace(BY_NAME[column_name].definition, **change)


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("i32", {"length": 64}, "the type is LONGLONG (8) in the definition, LONG (3) in the binlog"),
        ("i32", {"kind": ValueKind.DOUBLE}, "the type is DOUBLE (5) in the definition, LONG (3) in the binlog"),
        ("f", {"kind": ValueKind.DOUBLE}, "the type"),
        ("d10_9", {"precision": 11}, "the precision and scale is (11, 9) in the definition, (10, 9) in the binlog"),
        ("dt3", {"fraction_digits": 6}, "the number of fraction digits is 6 in the definition, 3 in the binlog"),
        ("dt3", {"kind": ValueKind.TIMESTAMP}, "the type"),
        ("b9", {"length": 10}, "the number of bits is 10 in the definition, 9 in the binlog"),
        ("c10", {"length": 11}, "the length in bytes is 44 in the definition, 40 in the binlog"),
        ("c10", {"charset": "latin1"}, "the length in bytes is 10 in the definition, 40 in the binlog"),
        ("c10", {"column_type": "varchar(10)"}, "the type"),
        ("v63", {"length": 64}, "the length in bytes is 256 in the definition, 252 in the binlog"),
        ("v63", {"column_type": "text"}, "the type"),
        ("bin", {"length": 15}, "the length in bytes is 15 in the definition, 16 in the binlog"),
        ("bin", {"kind": ValueKind.UUID, "column_type": "uuid"}, ""),
        ("bin", {"kind": ValueKind.INET4, "column_type": "inet4"}, "the length in bytes is 4 in the definition, 16"),
        ("tiny", {"column_type": "text"}, "the size of the length is 2 in the definition, 1 in the binlog"),
        ("e3", {"members": ("x",) * 300}, "the size is 2 in the definition, 1 in the binlog"),
        ("e3", {"kind": ValueKind.SET}, "the type is SET (248) in the definition, ENUM (247) in the binlog"),
        ("s9", {"members": ("x",)}, "the size is 1 in the definition, 2 in the binlog"),
        ("j", {"kind": ValueKind.GEOMETRY}, "the type is GEOMETRY (255) in the definition, JSON (245) in the binlog"),
        ("date", {"kind": ValueKind.YEAR}, "the type"),
    ],
)
def test_another_type_or_size_is_a_mismatch(name: str, change: dict[str, Any], said: str) -> None:
    column, definition = changed(name, **change)
    if not said:
        plan(column, definition=definition)
        return
    with pytest.raises(LayoutMismatch) as caught:
        plan(column, definition=definition)
    assert said in caught.value.message
    assert (caught.value.table, caught.value.column) == ("shop.t", name)
    assert "cdc snapshot shop.t" in caught.value.hint


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("i32", {"name": "other"}, "the name is other in the definition, i32 in the binlog"),
        ("i32", {"is_unsigned": True}, "the sign is unsigned in the definition, signed in the binlog"),
        ("i8u", {"is_unsigned": False}, "the sign is signed in the definition, unsigned in the binlog"),
        ("tiny", {"charset": "latin1"}, "the charset is latin1 in the definition, utf8mb4 in the binlog"),
        ("bl", {"kind": ValueKind.TEXT, "charset": "utf8mb4", "column_type": "longtext"}, "the charset"),
        ("tl", {"kind": ValueKind.BLOB, "charset": None, "column_type": "longblob"}, "the charset is binary"),
        ("e3", {"members": ("m0", "m2", "m1")}, "the list of members"),
        ("e3", {"charset": "latin1"}, "the charset"),
        ("s9", {"members": tuple("abcdefghi")}, "the list of members"),
    ],
)
def test_full_metadata_is_compared_too(name: str, change: dict[str, Any], said: str) -> None:
    column, definition = changed(name, **change)
    with pytest.raises(LayoutMismatch) as caught:
        plan(column, definition=definition, is_full=True)
    assert said in caught.value.message


def test_utf8_is_the_old_name_of_utf8mb3() -> None:
    column, definition = changed("v300", charset="utf8")
    assert plan(column, definition=definition, is_full=True).columns[0].charset == "utf8mb3"


def test_another_number_of_columns_is_a_mismatch() -> None:
    with pytest.raises(LayoutMismatch, match="1 columns in its definition, 2 in the binlog"):
        build_layout(map_of(COLUMNS[:2]), definition_of(COLUMNS[:1]), flavor="mysql", server_version=(8, 4, 0))


def test_another_tables_map_is_a_mismatch() -> None:
    definition = replace(definition_of(COLUMNS[:1]), name=TableName("shop", "other"))
    with pytest.raises(LayoutMismatch, match=r"of shop\.t, the definition of shop\.other"):
        build_layout(map_of(COLUMNS[:1]), definition, flavor="mysql", server_version=(8, 4, 0))


def test_a_charset_that_is_not_proven_parks_the_table() -> None:
    column, definition = changed("tiny", charset="klingon")
    with pytest.raises(UnsupportedData, match="charset klingon is not supported") as caught:
        plan(column, definition=definition)
    assert not isinstance(caught.value, LayoutMismatch)
    assert "utf8mb4" in caught.value.hint


def test_a_collation_that_is_not_known_parks_the_table() -> None:
    column = replace(BY_NAME["v63"], collation=9999)
    with pytest.raises(UnsupportedData, match="collation 9999 is not known"):
        plan(column, is_full=True)


def test_old_temporal_types_with_a_fraction_are_mariadbs() -> None:
    column = other(ValueKind.TIME, ColumnType.TIME, b"", "time(3)", fraction_digits=3)
    with pytest.raises(LayoutMismatch, match="the type is TIME2"):
        plan(column, flavor="mysql")


# ---------------------------------------------------------------- definitions out of table maps


def test_full_metadata_gives_a_definition_that_decodes_the_same() -> None:
    table_map = map_of(COLUMNS, is_full=True)
    made = definition_from_table_map(table_map, "mysql")
    assert made is not None
    ours = build_layout(table_map, made, flavor="mysql", server_version=(8, 4, 0))
    theirs = build_layout(table_map, definition_of(COLUMNS), flavor="mysql", server_version=(8, 4, 0))
    for one, two in zip(ours.columns, theirs.columns, strict=True):
        assert (one.codec, one.size, one.width, one.charset) == (two.codec, two.size, two.width, two.charset)
        assert one.definition.arrow_type == two.definition.arrow_type


def test_less_than_full_metadata_gives_none() -> None:
    assert definition_from_table_map(map_of(COLUMNS), "mysql") is None


@given(data=st.data())
def test_any_table_map_gives_a_definition_or_none_and_a_plan_or_a_declared_error(data: st.DataObject) -> None:
    damaged = bytearray(table_map_body(COLUMNS, optional=optional_metadata(COLUMNS)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        table_map = parse_table_map(framed(EventType.TABLE_MAP, bytes(damaged)))
    except ProtocolError:
        return
    for flavor in ("mysql", "mariadb"):
        made = definition_from_table_map(table_map, flavor)
        for definition in (made, definition_of(COLUMNS)):
            if definition is None:
                continue
            try:
                build_layout(table_map, definition, flavor=flavor, server_version=(8, 4, 0))
            except UnsupportedData:
                continue
