"""The decode plan of one table: what the table map says, checked against the definition that we believe.

`build_layout` is where schema drift shows (a replica with other columns, DDL under sql_log_bin=0): whatever the
table map says that the definition does not is a `LayoutMismatch`, never a guess. Knows bytes and definitions; reads no
row (rows.py does, by the plan).

Built once a distinct table map, never a row.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdc.binlog.charsets import MAX_BYTES, UnprovenCharset, charset_name, collation_charset, text_decoder
from cdc.binlog.constants import ColumnType
from cdc.binlog.table_map import CHARACTER_TYPES, TableMap
from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, Flavor, TableDefinition, TableName, ValueKind

__all__ = ["Codec", "ColumnLayout", "LayoutMismatch", "RowLayout", "build_layout", "definition_from_table_map"]

# MariaDB stores TIMESTAMP as unsigned seconds from here on; before (and on MySQL) the top bit is never set.
_UNSIGNED_TIMESTAMP_SINCE = (11, 5)
_SECONDS_MAX_SIGNED = (1 << 31) - 1
_SECONDS_MAX_UNSIGNED = (1 << 32) - 1


class LayoutMismatch(UnsupportedData):
    """The table map contradicts the definition: one of the two is of another moment, or of another server."""


class Codec(enum.IntEnum):
    """How a value lies in a row image; `ColumnLayout.size` and its fellows have the parameters (rows.py)."""

    SIGNED = 1  # little-endian, `size` bytes
    UNSIGNED = 2  # little-endian, `size` bytes
    FLOAT = 3  # IEEE 754, little-endian
    DOUBLE = 4
    DECIMAL = 5  # groups of nine digits, big-endian: `precision`, `scale`
    BIT = 6  # big-endian, `size` bytes, `width` bits
    YEAR = 7
    DATE = 8
    DATETIME = 9  # packed, big-endian, `fraction_digits`
    DATETIME_NUMBER = 10  # MySQL before 5.6.4, MariaDB mysql56_temporal_format=OFF: YYYYMMDDhhmmss
    DATETIME_HIRES = 11  # the same with fraction digits, MariaDB
    TIMESTAMP = 12  # seconds and fraction, big-endian, up to `width`
    TIMESTAMP_NUMBER = 13  # seconds, little-endian
    TIMESTAMP_HIRES = 14
    TIME = 15
    TIME_NUMBER = 16  # hhmmss
    TIME_HIRES = 17
    TEXT = 18  # `size` bytes of length, at most `width` bytes in `charset`
    BYTES = 19  # `size` bytes of length, at most `width` bytes
    PADDED_BYTES = 20  # as BYTES, filled up with zero bytes to `width`
    COMPRESSED_TEXT = 21  # MariaDB COLUMN FORMAT COMPRESSED
    COMPRESSED_BYTES = 22
    JSON = 23  # MySQL's binary JSON
    ENUM = 24  # `size` bytes, at most `width`
    SET = 25  # `size` bytes, bits below `width`


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """How to decode one column. `size`, `width`: see `Codec`."""

    definition: ColumnDefinition
    codec: Codec
    size: int = 0
    width: int = 0
    charset: str | None = None


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The plan for the row images of one table map."""

    definition: TableDefinition
    columns: tuple[ColumnLayout, ...]

    @property
    def column_count(self) -> int:
        """How many columns an image has."""
        return len(self.columns)


def build_layout(
    table_map: TableMap, definition: TableDefinition, *, flavor: Flavor, server_version: tuple[int, ...]
) -> RowLayout:
    """Compare the two, column by column, and plan the decoding.

    Args:
        definition: from information_schema, or made by `definition_from_table_map`.
        server_version: of the server that wrote the event, as numbers.
    Raises:
        LayoutMismatch: count, name, type, metadata, sign, charset or members differ; says which column and both
            sides.
        UnsupportedData: a charset whose conversion is not proven.
    """
    name = definition.name
    if (table_map.database, table_map.table) != (name.database, name.table):
        raise LayoutMismatch(
            f"the table map is of {table_map.database}.{table_map.table}, the definition of {name}", table=str(name)
        )
    if table_map.column_count != len(definition.columns):
        raise LayoutMismatch(
            f"{name} has {len(definition.columns)} columns in its definition, {table_map.column_count} in the binlog",
            table=str(name),
            hint=_MISMATCH_HINT.format(name),
        )
    seconds_max = _SECONDS_MAX_SIGNED
    if flavor == "mariadb" and server_version >= _UNSIGNED_TIMESTAMP_SINCE:
        seconds_max = _SECONDS_MAX_UNSIGNED
    real_types = table_map.real_types()
    columns = []
    for index, column in enumerate(definition.columns):
        compare = _Comparison(name, column)
        _compare_optional(compare, table_map, index)
        columns.append(_plan(compare, flavor, real_types[index], table_map.metadata[index], seconds_max))
    return RowLayout(definition, tuple(columns))


_MISMATCH_HINT = "changed outside the binlog, or read at another moment: run `cdc snapshot {}`"


class _Comparison:
    """One column of one table, for messages."""

    def __init__(self, table: TableName, column: ColumnDefinition) -> None:
        self.table = table
        self.column = column

    def mismatch(self, what: str, in_definition: Any, in_binlog: Any) -> LayoutMismatch:
        return LayoutMismatch(
            f"{self.table}.{self.column.name} ({self.column.column_type}): {what} is {in_definition} in the "
            f"definition, {in_binlog} in the binlog",
            table=str(self.table),
            column=self.column.name,
            hint=_MISMATCH_HINT.format(self.table),
        )

    def equal(self, what: str, in_definition: Any, in_binlog: Any) -> None:
        if in_definition != in_binlog:
            raise self.mismatch(what, in_definition, in_binlog)

    def unsupported(self, problem: str, hint: str = "") -> UnsupportedData:
        return UnsupportedData(
            f"{self.table}.{self.column.name} ({self.column.column_type}): {problem}",
            table=str(self.table),
            column=self.column.name,
            hint=hint,
        )


# ---------------------------------------------------------------- names, signs, charsets, members


_SIGNED_KINDS = (ValueKind.INTEGER, ValueKind.DECIMAL, ValueKind.FLOAT, ValueKind.DOUBLE)


def _compare_optional(compare: _Comparison, table_map: TableMap, index: int) -> None:
    """What the server chose to send beyond the types, by binlog_row_metadata."""
    column, optional = compare.column, table_map.optional
    if optional.names is not None:
        compare.equal("the name", column.name, optional.names[index])
    if optional.is_unsigned is not None and column.kind in _SIGNED_KINDS:
        sign = {True: "unsigned", False: "signed", None: "none"}
        compare.equal("the sign", sign[column.is_unsigned], sign[optional.is_unsigned[index]])
    if optional.collations is not None:
        _compare_charset(compare, optional.collations[index])
    if optional.member_collations is not None and column.kind in (ValueKind.ENUM, ValueKind.SET):
        _compare_charset(compare, optional.member_collations[index])
    for sent in (optional.enum_members, optional.set_members):
        members = None if sent is None else sent[index]
        if members is not None:
            compare.equal("the list of members", column.members, _member_texts(compare, members))


def _compare_charset(compare: _Comparison, collation: int | None) -> None:
    if collation is None:
        return
    charset = collation_charset(collation)
    if charset is None:
        raise compare.unsupported(f"collation {collation} is not known")
    # A column without a charset is binary in the binlog: BLOB kinds, and what MariaDB keeps as bytes.
    compare.equal("the charset", charset_name(compare.column.charset or "binary"), charset)


def _member_texts(compare: _Comparison, members: Sequence[bytes]) -> tuple[str, ...]:
    decode = _decoder(compare, _member_charset(compare.column.charset))
    try:
        return tuple(decode(member) for member in members)
    except ValueError as error:
        raise compare.unsupported(f"a member is no text in its charset: {error}") from error


def _member_charset(charset: str | None) -> str:
    """Members of an ENUM in the binary charset are the bytes that the client sent, which information_schema shows as
    UTF-8."""
    return "utf8mb4" if charset in (None, "binary") else charset


def _decoder(compare: _Comparison, charset: str | None) -> Any:
    try:
        return text_decoder(charset or "binary")
    except UnprovenCharset:
        raise compare.unsupported(
            f"charset {charset} is not supported",
            hint=f"convert it at the source: ALTER TABLE {compare.table} MODIFY … CHARACTER SET utf8mb4",
        ) from None


# ---------------------------------------------------------------- types and metadata


def _plan(compare: _Comparison, flavor: Flavor, kind: int, metadata: bytes, seconds_max: int) -> ColumnLayout:
    """The codec for a column of real type `kind`, after checking that the definition means the same."""
    column = compare.column
    match column.kind:
        case ValueKind.INTEGER:
            return _plan_integer(compare, kind)
        case ValueKind.FLOAT:
            _expect(compare, kind, ColumnType.FLOAT)
            compare.equal("the size", 4, metadata[0])
            return ColumnLayout(column, Codec.FLOAT, 4)
        case ValueKind.DOUBLE:
            _expect(compare, kind, ColumnType.DOUBLE)
            compare.equal("the size", 8, metadata[0])
            return ColumnLayout(column, Codec.DOUBLE, 8)
        case ValueKind.DECIMAL:
            _expect(compare, kind, ColumnType.NEWDECIMAL)
            compare.equal("the precision and scale", (column.precision, column.scale), tuple(metadata))
            return ColumnLayout(column, Codec.DECIMAL)
        case ValueKind.BIT:
            _expect(compare, kind, ColumnType.BIT)
            compare.equal("the number of bits", column.length, metadata[1] * 8 + metadata[0])
            return ColumnLayout(column, Codec.BIT, (column.length + 7) // 8, column.length)
        case ValueKind.YEAR:
            _expect(compare, kind, ColumnType.YEAR)
            return ColumnLayout(column, Codec.YEAR, 1)
        case ValueKind.DATE:
            _expect(compare, kind, ColumnType.DATE, ColumnType.NEWDATE)
            return ColumnLayout(column, Codec.DATE, 3)
        case ValueKind.DATETIME | ValueKind.TIMESTAMP | ValueKind.TIME:
            return _plan_temporal(compare, flavor, kind, metadata, seconds_max)
        case ValueKind.ENUM:
            _expect(compare, kind, ColumnType.ENUM)
            compare.equal("the size", 1 if len(column.members) < 256 else 2, metadata[1])
            return ColumnLayout(column, Codec.ENUM, metadata[1], len(column.members))
        case ValueKind.SET:
            _expect(compare, kind, ColumnType.SET)
            compare.equal("the size", _set_bytes(len(column.members)), metadata[1])
            return ColumnLayout(column, Codec.SET, metadata[1], len(column.members))
        case ValueKind.JSON if flavor == "mysql":
            _expect(compare, kind, ColumnType.JSON)
            return _blob(compare, Codec.JSON, metadata[0], 4)
        case ValueKind.GEOMETRY:
            _expect(compare, kind, ColumnType.GEOMETRY)
            return _blob(compare, Codec.BYTES, metadata[0], 4)
        case ValueKind.VECTOR:
            return _plan_vector(compare, flavor, kind, metadata)
        case ValueKind.UUID | ValueKind.INET4 | ValueKind.INET6:
            _expect(compare, kind, ColumnType.STRING)
            width = _FIXED_BYTES[column.kind]
            compare.equal("the length in bytes", width, _string_length(metadata))
            return ColumnLayout(column, Codec.PADDED_BYTES, 1, width)
        case _:
            return _plan_string(compare, kind, metadata)


_FIXED_BYTES = {ValueKind.UUID: 16, ValueKind.INET4: 4, ValueKind.INET6: 16}
_INTEGER_BYTES: dict[int, int] = {
    ColumnType.TINY: 1,
    ColumnType.SHORT: 2,
    ColumnType.INT24: 3,
    ColumnType.LONG: 4,
    ColumnType.LONGLONG: 8,
}


def _type_name(kind: int) -> str:
    try:
        return f"{ColumnType(kind).name} ({kind})"
    except ValueError:
        return str(kind)


def _expect(compare: _Comparison, kind: int, *accepted: ColumnType) -> None:
    if kind not in accepted:
        raise compare.mismatch("the type", " or ".join(_type_name(one) for one in accepted), _type_name(kind))


def _plan_integer(compare: _Comparison, kind: int) -> ColumnLayout:
    column = compare.column
    size = _INTEGER_BYTES.get(kind)
    if size is None or size * 8 != column.length:
        wanted = next((one for one, width in _INTEGER_BYTES.items() if width * 8 == column.length), 0)
        raise compare.mismatch("the type", _type_name(wanted), _type_name(kind))
    return ColumnLayout(column, Codec.UNSIGNED if column.is_unsigned else Codec.SIGNED, size)


# kind: new type, old type, codecs of new, old, and old with fraction digits
_TEMPORAL = {
    ValueKind.DATETIME: (
        ColumnType.DATETIME2,
        ColumnType.DATETIME,
        Codec.DATETIME,
        Codec.DATETIME_NUMBER,
        Codec.DATETIME_HIRES,
    ),
    ValueKind.TIMESTAMP: (
        ColumnType.TIMESTAMP2,
        ColumnType.TIMESTAMP,
        Codec.TIMESTAMP,
        Codec.TIMESTAMP_NUMBER,
        Codec.TIMESTAMP_HIRES,
    ),
    ValueKind.TIME: (ColumnType.TIME2, ColumnType.TIME, Codec.TIME, Codec.TIME_NUMBER, Codec.TIME_HIRES),
}


def _plan_temporal(compare: _Comparison, flavor: Flavor, kind: int, metadata: bytes, seconds_max: int) -> ColumnLayout:
    """The old types have no metadata: how long their values are, only the definition knows."""
    column = compare.column
    new, old, codec, number, hires = _TEMPORAL[column.kind]
    _expect(compare, kind, new, old)
    if not 0 <= column.fraction_digits <= 6:
        raise compare.unsupported(f"{column.fraction_digits} fraction digits")
    if kind == new:
        compare.equal("the number of fraction digits", column.fraction_digits, metadata[0])
        return ColumnLayout(column, codec, column.fraction_digits, seconds_max)
    if not column.fraction_digits:
        return ColumnLayout(column, number, 0, seconds_max)
    if flavor != "mariadb":
        raise compare.mismatch("the type", _type_name(new), _type_name(kind))
    return ColumnLayout(column, hires, column.fraction_digits, seconds_max)


def _set_bytes(member_count: int) -> int:
    size = (member_count + 7) // 8
    return 8 if size > 4 else size


def _string_length(metadata: bytes) -> int:
    """STRING's length in bytes, up to 1023 (`table_map.real_type`)."""
    return ((metadata[0] & 0x30) ^ 0x30) << 4 | metadata[1]


def _plan_vector(compare: _Comparison, flavor: Flavor, kind: int, metadata: bytes) -> ColumnLayout:
    """MySQL has a type of its own; MariaDB sends a VARBINARY of four bytes a dimension."""
    if flavor == "mysql":
        _expect(compare, kind, ColumnType.VECTOR)
        return _blob(compare, Codec.BYTES, metadata[0], 4)
    _expect(compare, kind, ColumnType.VARCHAR)
    width = int.from_bytes(metadata, "little")
    compare.equal("the length in bytes", compare.column.length * 4, width)
    return ColumnLayout(compare.column, Codec.BYTES, 2 if width > 255 else 1, width)


_FIRST_WORD = re.compile(r"[a-z0-9]+")
_BLOB_LENGTH_BYTES = {
    "tinytext": 1,
    "tinyblob": 1,
    "text": 2,
    "blob": 2,
    "mediumtext": 3,
    "mediumblob": 3,
    "longtext": 4,
    "longblob": 4,
    "json": 4,
}


def _plan_string(compare: _Comparison, kind: int, metadata: bytes) -> ColumnLayout:
    """CHAR, VARCHAR, BINARY, VARBINARY, TEXT and BLOB of every length; MariaDB's JSON; COMPRESSED columns."""
    column = compare.column
    charset: str | None = None
    if column.kind in (ValueKind.TEXT, ValueKind.JSON):
        charset = charset_name(column.charset or "utf8mb4")
        _decoder(compare, charset)
    elif column.kind not in (ValueKind.BINARY, ValueKind.BLOB):
        raise compare.unsupported(f"values of kind {column.kind} are not supported")
    found = _FIRST_WORD.match(column.column_type.lower())
    word = found.group() if found else ""
    is_text = charset is not None
    if word in _BLOB_LENGTH_BYTES:
        _expect(compare, kind, ColumnType.BLOB, ColumnType.MARIADB_BLOB_COMPRESSED)
        compare.equal("the size of the length", _BLOB_LENGTH_BYTES[word], metadata[0])
        if kind == ColumnType.MARIADB_BLOB_COMPRESSED:
            codec = Codec.COMPRESSED_TEXT if is_text else Codec.COMPRESSED_BYTES
        else:
            codec = Codec.TEXT if is_text else Codec.BYTES
        return ColumnLayout(column, codec, metadata[0], (1 << 8 * metadata[0]) - 1, charset)
    width = column.length * (MAX_BYTES[charset] if charset else 1)
    if word in ("char", "binary"):
        _expect(compare, kind, ColumnType.STRING)
        compare.equal("the length in bytes", width, _string_length(metadata))
        codec = Codec.TEXT if is_text else Codec.PADDED_BYTES
        return ColumnLayout(column, codec, 2 if width > 255 else 1, width, charset)
    if word not in ("varchar", "varbinary"):
        raise compare.unsupported("the type is not known")
    _expect(compare, kind, ColumnType.VARCHAR, ColumnType.MARIADB_VARCHAR_COMPRESSED)
    sent = int.from_bytes(metadata, "little")
    if kind == ColumnType.MARIADB_VARCHAR_COMPRESSED:
        # one byte more than the column may hold: the head of the compressed form
        compare.equal("the length in bytes", width + 1, sent)
        codec = Codec.COMPRESSED_TEXT if is_text else Codec.COMPRESSED_BYTES
    else:
        compare.equal("the length in bytes", width, sent)
        codec = Codec.TEXT if is_text else Codec.BYTES
    return ColumnLayout(column, codec, 2 if sent > 255 else 1, sent, charset)


def _blob(compare: _Comparison, codec: Codec, sent: int, length_bytes: int) -> ColumnLayout:
    compare.equal("the size of the length", length_bytes, sent)
    return ColumnLayout(compare.column, codec, length_bytes, (1 << 8 * length_bytes) - 1)


# ---------------------------------------------------------------- a definition out of the table map alone


def definition_from_table_map(table_map: TableMap, flavor: Flavor) -> TableDefinition | None:
    """The definition that a table map with FULL metadata carries; None where it does not carry enough.

    For reading files without a server. MariaDB's UUID, INET4, INET6, VECTOR and JSON travel as BINARY, VARBINARY and
    LONGTEXT and are taken for those: their values arrive as bytes and text. Where a table has no primary key, both
    servers name the first unique key without NULLs as one.
    """
    optional = table_map.optional
    if optional.names is None:
        return None
    columns = []
    for index, kind in enumerate(table_map.real_types()):
        shape = _shape(table_map, index, kind, flavor)
        if shape is None:
            return None
        columns.append(
            ColumnDefinition(
                name=optional.names[index],
                is_nullable=table_map.is_nullable[index],
                is_invisible=optional.is_visible is not None and not optional.is_visible[index],
                **shape,
            )
        )
    name = TableName(table_map.database, table_map.table)
    return TableDefinition(
        name=name,
        columns=tuple(columns),
        primary_key=tuple(columns[index].name for index, _ in optional.primary_key or ()),
        engine="",
        flavor=flavor,
    )


_INTEGER_NAMES: dict[int, str] = {
    ColumnType.TINY: "tinyint",
    ColumnType.SHORT: "smallint",
    ColumnType.INT24: "mediumint",
    ColumnType.LONG: "int",
    ColumnType.LONGLONG: "bigint",
}
_PLAIN: dict[int, tuple[ValueKind, str]] = {
    ColumnType.FLOAT: (ValueKind.FLOAT, "float"),
    ColumnType.DOUBLE: (ValueKind.DOUBLE, "double"),
    ColumnType.YEAR: (ValueKind.YEAR, "year"),
    ColumnType.DATE: (ValueKind.DATE, "date"),
    ColumnType.NEWDATE: (ValueKind.DATE, "date"),
    ColumnType.JSON: (ValueKind.JSON, "json"),
    ColumnType.GEOMETRY: (ValueKind.GEOMETRY, "geometry"),
}
_NEW_TEMPORAL: dict[int, ValueKind] = {
    ColumnType.DATETIME2: ValueKind.DATETIME,
    ColumnType.TIMESTAMP2: ValueKind.TIMESTAMP,
    ColumnType.TIME2: ValueKind.TIME,
}
_OLD_TEMPORAL: dict[int, ValueKind] = {
    ColumnType.DATETIME: ValueKind.DATETIME,
    ColumnType.TIMESTAMP: ValueKind.TIMESTAMP,
    ColumnType.TIME: ValueKind.TIME,
}


def _shape(table_map: TableMap, index: int, kind: int, flavor: Flavor) -> dict[str, Any] | None:
    """The fields of a `ColumnDefinition` that type and metadata tell; None when they do not tell enough."""
    metadata, optional = table_map.metadata[index], table_map.optional
    is_unsigned = bool(optional.is_unsigned and optional.is_unsigned[index])
    sign = " unsigned" if is_unsigned else ""
    if kind in _INTEGER_NAMES:
        # MySQL sends no bitmap where no column is numeric, and one for all where any is
        if optional.is_unsigned is None:
            return None
        bits = _INTEGER_BYTES[kind] * 8
        name = _INTEGER_NAMES[kind] + sign
        return {"kind": ValueKind.INTEGER, "column_type": name, "length": bits, "is_unsigned": is_unsigned}
    if kind in _PLAIN:
        value_kind, name = _PLAIN[kind]
        is_signed_kind = value_kind in _SIGNED_KINDS
        return {
            "kind": value_kind,
            "column_type": name + (sign if is_signed_kind else ""),
            "is_unsigned": is_unsigned and is_signed_kind,
        }
    if kind == ColumnType.NEWDECIMAL:
        precision, scale = metadata
        name = f"decimal({precision},{scale}){sign}"
        return {
            "kind": ValueKind.DECIMAL,
            "column_type": name,
            "precision": precision,
            "scale": scale,
            "is_unsigned": is_unsigned,
        }
    if kind == ColumnType.BIT:
        bits = metadata[1] * 8 + metadata[0]
        return {"kind": ValueKind.BIT, "column_type": f"bit({bits})", "length": bits}
    if kind in _NEW_TEMPORAL:
        value_kind = _NEW_TEMPORAL[kind]
        name = f"{value_kind}({metadata[0]})" if metadata[0] else str(value_kind)
        return {"kind": value_kind, "column_type": name, "fraction_digits": metadata[0]}
    if kind in _OLD_TEMPORAL:
        # on MariaDB such a value may have fraction digits, and its length nobody tells
        if flavor == "mariadb":
            return None
        return {"kind": _OLD_TEMPORAL[kind], "column_type": str(_OLD_TEMPORAL[kind])}
    if kind == ColumnType.VECTOR:
        count = (optional.vector_dimensions or {index: None})[index]
        if count is None:
            return None
        return {"kind": ValueKind.VECTOR, "column_type": f"vector({count})", "length": count}
    if kind in (ColumnType.ENUM, ColumnType.SET):
        return _member_shape(table_map, index, kind)
    return _string_shape(table_map, index, kind)


def _charset_of(collations: tuple[int | None, ...] | None, index: int) -> str | None:
    collation = collations[index] if collations is not None else None
    return None if collation is None else collation_charset(collation)


def _member_shape(table_map: TableMap, index: int, kind: int) -> dict[str, Any] | None:
    optional = table_map.optional
    sent = optional.enum_members if kind == ColumnType.ENUM else optional.set_members
    raw = sent[index] if sent is not None else None
    charset = _charset_of(optional.member_collations, index)
    if raw is None or charset is None:
        return None
    try:
        decode = text_decoder(_member_charset(charset))
        members = tuple(decode(member) for member in raw)
    except (UnprovenCharset, ValueError):
        return None
    value_kind = ValueKind.ENUM if kind == ColumnType.ENUM else ValueKind.SET
    quoted = ",".join("'" + member.replace("'", "''") + "'" for member in members)
    return {
        "kind": value_kind,
        "column_type": f"{value_kind}({quoted})",
        "charset": None if charset == "binary" else charset,
        "members": members,
    }


def _string_shape(table_map: TableMap, index: int, kind: int) -> dict[str, Any] | None:
    metadata = table_map.metadata[index]
    charset = _charset_of(table_map.optional.collations, index)
    if kind not in CHARACTER_TYPES or charset is None:
        return None
    is_text = charset != "binary"
    shape: dict[str, Any] = {"charset": charset if is_text else None}
    if kind in (ColumnType.BLOB, ColumnType.MARIADB_BLOB_COMPRESSED):
        size = metadata[0]
        if not 1 <= size <= 4:
            return None
        word = ("tiny", "", "medium", "long")[size - 1] + ("text" if is_text else "blob")
        kinds = ValueKind.TEXT if is_text else ValueKind.BLOB
        return {**shape, "kind": kinds, "column_type": word, "length": (1 << 8 * size) - 1}
    if kind == ColumnType.STRING:
        width, words, kinds = _string_length(metadata), ("char", "binary"), ValueKind.BINARY
    else:
        width, words, kinds = int.from_bytes(metadata, "little"), ("varchar", "varbinary"), ValueKind.BLOB
        if kind == ColumnType.MARIADB_VARCHAR_COMPRESSED:
            width -= 1
    length = width // MAX_BYTES[charset]
    word = words[0] if is_text else words[1]
    return {
        **shape,
        "kind": ValueKind.TEXT if is_text else kinds,
        "column_type": f"{word}({length})",
        "length": length,
    }
