"""The table map: what the server says about a table for the rows events that follow.

Bytes in, value out; knows no definition of any table (layout.py compares the two).

    [0:6] table id · [6:8] flags · database length[lenenc], database, NUL · table length[lenenc], table, NUL ·
    column count[lenenc] · one type byte a column · metadata length[lenenc], metadata · nullable bitmap[(n+7)/8] ·
    optional metadata: type[1] length[lenenc] value, to the end of the event

Source: MySQL libs/mysql/binlog/event/rows_event.{h,cpp} (Table_map_event), sql/log_event.cc (Table_map_log_event);
MariaDB sql/log_event_client.cc, sql/log_event_server.cc.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

from cdc.binlog.constants import ColumnType, MetadataField
from cdc.binlog.cursor import Cursor
from cdc.binlog.decimals import PRECISION_MAX, SCALE_MAX
from cdc.binlog.events import COLUMN_COUNT_MAX
from cdc.binlog.framing import Event
from cdc.errors import UnsupportedEvent
from cdc.model import Flavor

__all__ = ["CHARACTER_TYPES", "TableMap", "TableMapMetadata", "parse_table_map", "real_type"]

T = TypeVar("T")

# An ENUM has at most this many members (MySQL MAX_ENUM_VALUES); a SET 64.
_MEMBERS_MAX = 65535
# Identifiers: 64 characters of the system charset (utf8mb3).
_NAME_BYTES_MAX = 192
# Columns that hold characters or bytes, by the type byte of the map; the charset fields count these and others.
CHARACTER_TYPES = frozenset(
    {
        ColumnType.STRING,
        ColumnType.VAR_STRING,
        ColumnType.VARCHAR,
        ColumnType.BLOB,
        ColumnType.MARIADB_BLOB_COMPRESSED,
        ColumnType.MARIADB_VARCHAR_COMPRESSED,
    }
)
# Beside them, columns that are stored as a BLOB and have the charset binary: VECTOR on MySQL (seen on 9.7), GEOMETRY on
# MariaDB, which asks each field for its charset.
_WITH_CHARSET: dict[Flavor, frozenset[int]] = {
    "mysql": CHARACTER_TYPES | {ColumnType.VECTOR},
    "mariadb": CHARACTER_TYPES | {ColumnType.GEOMETRY},
}
# Columns that the signedness bitmap counts (MySQL is_numeric_type): YEAR is one (and always unsigned), BIT is not.
NUMERIC_TYPES = frozenset(
    {
        ColumnType.TINY,
        ColumnType.SHORT,
        ColumnType.INT24,
        ColumnType.LONG,
        ColumnType.LONGLONG,
        ColumnType.NEWDECIMAL,
        ColumnType.FLOAT,
        ColumnType.DOUBLE,
        ColumnType.YEAR,
    }
)
# How many bytes of metadata a column of that type has; a type that is not here is not known.
_METADATA_BYTES: dict[int, int] = {
    ColumnType.TINY: 0,
    ColumnType.SHORT: 0,
    ColumnType.LONG: 0,
    ColumnType.LONGLONG: 0,
    ColumnType.INT24: 0,
    ColumnType.NULL: 0,
    ColumnType.TIMESTAMP: 0,
    ColumnType.DATE: 0,
    ColumnType.TIME: 0,
    ColumnType.DATETIME: 0,
    ColumnType.YEAR: 0,
    ColumnType.NEWDATE: 0,
    ColumnType.FLOAT: 1,  # bytes of the value
    ColumnType.DOUBLE: 1,  # bytes of the value
    ColumnType.TIMESTAMP2: 1,  # fraction digits
    ColumnType.DATETIME2: 1,
    ColumnType.TIME2: 1,
    ColumnType.BLOB: 1,  # bytes of the length
    ColumnType.TINY_BLOB: 1,
    ColumnType.MEDIUM_BLOB: 1,
    ColumnType.LONG_BLOB: 1,
    ColumnType.GEOMETRY: 1,
    ColumnType.JSON: 1,
    ColumnType.VECTOR: 1,
    ColumnType.MARIADB_BLOB_COMPRESSED: 1,
    ColumnType.VARCHAR: 2,  # bytes at most
    ColumnType.VAR_STRING: 2,
    ColumnType.MARIADB_VARCHAR_COMPRESSED: 2,
    ColumnType.BIT: 2,  # bits beyond whole bytes, whole bytes
    ColumnType.NEWDECIMAL: 2,  # precision, scale
    ColumnType.STRING: 2,  # real type and length, folded: real_type()
}


@dataclass(frozen=True, slots=True)
class TableMapMetadata:
    """The optional metadata, one value a *column* (None where that column is of no such kind); None: not sent.

    `members` are bytes in the column's charset. `primary_key` has (column index, prefix in characters, 0 for whole);
    where a table has no primary key the servers name its first unique one without NULLs.
    """

    is_unsigned: tuple[bool | None, ...] | None = None
    collations: tuple[int | None, ...] | None = None
    member_collations: tuple[int | None, ...] | None = None
    names: tuple[str, ...] | None = None
    enum_members: tuple[tuple[bytes, ...] | None, ...] | None = None
    set_members: tuple[tuple[bytes, ...] | None, ...] | None = None
    geometry_types: tuple[int | None, ...] | None = None
    primary_key: tuple[tuple[int, int], ...] | None = None
    is_visible: tuple[bool, ...] | None = None
    vector_dimensions: tuple[int | None, ...] | None = None

    @property
    def is_full(self) -> bool:
        """Was it written under binlog_row_metadata=FULL?"""
        return self.names is not None


@dataclass(frozen=True, slots=True)
class TableMap:
    """One table map. `metadata[i]` is column i's metadata bytes as sent; `is_nullable[i]` says it may hold NULL."""

    table_id: int
    flags: int
    database: str
    table: str
    column_types: tuple[int, ...]
    metadata: tuple[bytes, ...]
    is_nullable: tuple[bool, ...]
    optional: TableMapMetadata

    @property
    def column_count(self) -> int:
        """How many columns a row image of this table has."""
        return len(self.column_types)

    def real_types(self) -> tuple[int, ...]:
        """The types with ENUM and SET told from STRING."""
        return tuple(map(real_type, self.column_types, self.metadata))


def real_type(column_type: int, metadata: bytes) -> int:
    """STRING's metadata hides the real type: ENUM, SET or STRING.

    `[0] real type, whose bits 4 and 5 are inverted bits 8 and 9 of the length · [1] the length's low byte`; for
    lengths above 255 the first byte is no type at all until those bits are set again.
    Source: MySQL sql/log_event.cc (log_event_print_value), sql/field.cc Field_string::do_save_field_metadata.
    """
    if column_type != ColumnType.STRING:
        return column_type
    return metadata[0] if metadata[0] & 0x30 == 0x30 else metadata[0] | 0x30


def parse_table_map(event: Event, flavor: Flavor = "mysql") -> TableMap:
    """Parse a TABLE_MAP event.

    Args:
        flavor: of the server that wrote it; the two do not count the same columns among those with a charset.
    Raises:
        MalformedEvent: the bytes do not fit together.
        UnsupportedEvent: a column type that is not known (nobody can tell how long its metadata is).
    """
    cursor = Cursor(event.body, "table map event")
    table_id = cursor.uint(6)
    flags = cursor.uint(2)
    database = _terminated_name(cursor)
    table = _terminated_name(cursor)
    cursor.what = f"table map of {database}.{table}"
    count = cursor.lenenc()
    if count > COLUMN_COUNT_MAX:
        raise cursor.fail(f"{count} columns")
    types = tuple(cursor.take(count))
    metadata = _column_metadata(cursor.window(cursor.lenenc(), f"column metadata of {database}.{table}"), types)
    nulls = cursor.uint((count + 7) // 8)
    real_types = tuple(map(real_type, types, metadata))
    return TableMap(
        table_id=table_id,
        flags=flags,
        database=database,
        table=table,
        column_types=types,
        metadata=metadata,
        is_nullable=tuple(bool(nulls >> index & 1) for index in range(count)),
        optional=_parse_optional(cursor, real_types, flavor),
    )


def _terminated_name(cursor: Cursor) -> str:
    length = cursor.lenenc()
    if length > _NAME_BYTES_MAX:
        raise cursor.fail(f"name of {length} bytes")
    raw = cursor.take(length)
    if cursor.uint(1) != 0:
        raise cursor.fail("a name does not end in NUL")
    return _text(raw, cursor)


def _text(raw: bytes, cursor: Cursor) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise cursor.fail(f"name {raw[:40].hex()} is not UTF-8") from None


def _column_metadata(cursor: Cursor, types: tuple[int, ...]) -> tuple[bytes, ...]:
    found = []
    for index, column_type in enumerate(types):
        size = _METADATA_BYTES.get(column_type)
        if size is None:
            raise UnsupportedEvent(f"{cursor.what}: column {index} has type {column_type}, which is not known")
        metadata = cursor.take(size)
        if not _is_possible(column_type, metadata):
            raise cursor.fail(f"column {index} of type {column_type} has metadata {metadata.hex()}")
        found.append(metadata)
    cursor.expect_end()
    return tuple(found)


def _is_possible(column_type: int, metadata: bytes) -> bool:
    """Is it metadata that a server can write? What follows relies on these limits."""
    match column_type:
        case ColumnType.NEWDECIMAL:
            precision, scale = metadata
            return 0 < precision <= PRECISION_MAX and scale <= min(precision, SCALE_MAX)
        case ColumnType.TIMESTAMP2 | ColumnType.DATETIME2 | ColumnType.TIME2:
            return metadata[0] <= 6
        case ColumnType.BIT:
            return metadata[0] < 8 and 0 < metadata[1] * 8 + metadata[0] <= 64
        case ColumnType.FLOAT:
            return metadata[0] == 4
        case ColumnType.DOUBLE:
            return metadata[0] == 8
        case ColumnType.STRING:
            kind = real_type(column_type, metadata)
            if kind == ColumnType.ENUM:
                return metadata[1] in (1, 2)
            if kind == ColumnType.SET:
                return metadata[1] in (1, 2, 3, 4, 8)
            return kind == ColumnType.STRING
        case ColumnType.VARCHAR | ColumnType.VAR_STRING | ColumnType.MARIADB_VARCHAR_COMPRESSED:
            return True
        case _:
            return not metadata or 1 <= metadata[0] <= 4


# ---------------------------------------------------------------- optional metadata


def _parse_optional(cursor: Cursor, types: tuple[int, ...], flavor: Flavor) -> TableMapMetadata:
    """All fields to the end of the event.

    One that is not known is passed over by its length. One that stands twice, or does not say as much as the columns
    need, is malformed.
    """
    fields: dict[int, Cursor] = {}
    what = cursor.what
    while cursor.left:
        kind = cursor.uint(1)
        field = cursor.window(cursor.lenenc(), f"{what}: metadata field {kind}")
        if kind in fields:
            raise cursor.fail(f"metadata field {kind} stands twice")
        fields[kind] = field
    fields_of = _FieldReader(fields, types)
    with_charset = _WITH_CHARSET[flavor]
    return TableMapMetadata(
        is_unsigned=fields_of.signedness(),
        collations=fields_of.collations(MetadataField.DEFAULT_CHARSET, MetadataField.COLUMN_CHARSET, with_charset),
        member_collations=fields_of.collations(
            MetadataField.ENUM_AND_SET_DEFAULT_CHARSET,
            MetadataField.ENUM_AND_SET_COLUMN_CHARSET,
            {ColumnType.ENUM, ColumnType.SET},
        ),
        names=fields_of.names(),
        enum_members=fields_of.members(MetadataField.ENUM_STR_VALUE, ColumnType.ENUM),
        set_members=fields_of.members(MetadataField.SET_STR_VALUE, ColumnType.SET),
        geometry_types=fields_of.numbers(MetadataField.GEOMETRY_TYPE, ColumnType.GEOMETRY),
        primary_key=fields_of.primary_key(),
        is_visible=fields_of.visibility(),
        vector_dimensions=fields_of.numbers(MetadataField.VECTOR_DIMENSIONALITY, ColumnType.VECTOR),
    )


class _FieldReader:
    """Reads the raw fields of one table map onto its columns.

    Most fields have one value a column *of some kind*, in column order, and do not name the columns.
    """

    def __init__(self, fields: dict[int, Cursor], types: tuple[int, ...]) -> None:
        self._fields = fields
        self._types = types

    def _columns(self, kinds: Collection[int]) -> list[int]:
        return [index for index, kind in enumerate(self._types) if kind in kinds]

    def _spread(self, columns: list[int], values: list[T]) -> tuple[T | None, ...]:
        """`values` at the places of `columns`, None elsewhere."""
        spread: list[T | None] = [None] * len(self._types)
        for index, value in zip(columns, values, strict=True):
            spread[index] = value
        return tuple(spread)

    def _bits(self, field: Cursor, count: int) -> list[bool]:
        """A bitmap of `count` bits, the first one in the top bit of the first byte."""
        raw = field.take((count + 7) // 8)
        field.expect_end()
        return [bool(raw[index >> 3] & 0x80 >> (index & 7)) for index in range(count)]

    def signedness(self) -> tuple[bool | None, ...] | None:
        field = self._fields.get(MetadataField.SIGNEDNESS)
        if field is None:
            return None
        columns = self._columns(NUMERIC_TYPES)
        return self._spread(columns, self._bits(field, len(columns)))

    def visibility(self) -> tuple[bool, ...] | None:
        field = self._fields.get(MetadataField.COLUMN_VISIBILITY)
        return None if field is None else tuple(self._bits(field, len(self._types)))

    def collations(
        self, by_default: MetadataField, by_column: MetadataField, kinds: Collection[int]
    ) -> tuple[int | None, ...] | None:
        """Two forms: one id and `index among that kind[lenenc] id[lenenc]` for the others; or an id for each."""
        columns = self._columns(kinds)
        field = self._fields.get(by_default)
        if field is not None:
            if by_column in self._fields:
                raise field.fail(f"fields {by_default:d} and {by_column:d} together")
            default = field.lenenc()
            ids = [default] * len(columns)
            while field.left:
                index, collation = field.lenenc(), field.lenenc()
                if index >= len(columns):
                    raise field.fail(f"column {index} of {len(columns)}")
                ids[index] = collation
            return self._spread(columns, ids)
        field = self._fields.get(by_column)
        if field is None:
            return None
        ids = [field.lenenc() for _ in columns]
        field.expect_end()
        return self._spread(columns, ids)

    def names(self) -> tuple[str, ...] | None:
        field = self._fields.get(MetadataField.COLUMN_NAME)
        if field is None:
            return None
        names = tuple(_text(field.take(field.lenenc()), field) for _ in self._types)
        field.expect_end()
        return names

    def members(self, wanted: MetadataField, kind: ColumnType) -> tuple[tuple[bytes, ...] | None, ...] | None:
        """Per column `count[lenenc]`, then `length[lenenc] bytes` each."""
        field = self._fields.get(wanted)
        if field is None:
            return None
        columns = self._columns({kind})
        lists = []
        for _ in columns:
            count = field.lenenc()
            if count > _MEMBERS_MAX:
                raise field.fail(f"{count} members")
            lists.append(tuple(field.take(field.lenenc()) for _ in range(count)))
        field.expect_end()
        return self._spread(columns, lists)

    def numbers(self, wanted: MetadataField, kind: ColumnType) -> tuple[int | None, ...] | None:
        """One number a column."""
        field = self._fields.get(wanted)
        if field is None:
            return None
        columns = self._columns({kind})
        values = [field.lenenc() for _ in columns]
        field.expect_end()
        return self._spread(columns, values)

    def primary_key(self) -> tuple[tuple[int, int], ...] | None:
        """Column indexes in key order; in the other form each with the length of its prefix, 0 for the whole."""
        simple = self._fields.get(MetadataField.SIMPLE_PRIMARY_KEY)
        prefixed = self._fields.get(MetadataField.PRIMARY_KEY_WITH_PREFIX)
        if simple is not None and prefixed is not None:
            raise simple.fail("two primary keys")
        field = simple or prefixed
        if field is None:
            return None
        parts: list[tuple[int, int]] = []
        while field.left:
            index = field.lenenc()
            if index >= len(self._types):
                raise field.fail(f"key column {index} of {len(self._types)}")
            parts.append((index, field.lenenc() if prefixed is not None else 0))
        return tuple(parts)
