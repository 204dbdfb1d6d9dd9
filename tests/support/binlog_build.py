"""Make binlog events out of values: the encoder that the decoder's unit tests are held against.

Written from the format's description, sharing no code with cdc/binlog but the numbers of constants.py: what it makes
is what a server would write.
"""

from __future__ import annotations

import decimal
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st

from cdc.binlog.constants import ColumnType, EventType, MetadataField
from cdc.binlog.framing import Event, EventFramer
from cdc.model import ColumnDefinition, Flavor, TableDefinition, TableName, ValueKind
from tests.support.json_build import json_bytes

__all__ = [
    "BuiltColumn",
    "any_column",
    "columns_of_every_kind",
    "definition_of",
    "event_bytes",
    "format_description_bytes",
    "framed",
    "lenenc",
    "optional_metadata",
    "rows_body",
    "table_map_body",
]


def lenenc(value: int) -> bytes:
    if value < 251:
        return bytes((value,))
    if value < 1 << 16:
        return b"\xfc" + value.to_bytes(2, "little")
    if value < 1 << 24:
        return b"\xfd" + value.to_bytes(3, "little")
    return b"\xfe" + value.to_bytes(8, "little")


# ---------------------------------------------------------------- events


def event_bytes(
    event_type: int,
    body: bytes,
    *,
    checksum: bool = True,
    timestamp: int = 1_700_000_000,
    server_id: int = 1,
    log_pos: int = 1000,
    flags: int = 0,
) -> bytes:
    size = 19 + len(body) + 4 * checksum
    content = struct.pack("<IBIIIH", timestamp, event_type, server_id, size, log_pos, flags) + body
    return content + zlib.crc32(content).to_bytes(4, "little") if checksum else content


def post_header_lengths(count: int = 42) -> bytearray:
    lengths = bytearray(count)
    for event_type, length in {2: 13, 4: 8, 15: 98, 19: 8, 23: 8, 24: 8, 25: 8, 30: 10, 31: 10, 32: 10}.items():
        if event_type <= count:
            lengths[event_type - 1] = length
    return lengths


def format_description_bytes(
    version: str = "8.4.0", *, algorithm: int | None = 1, flags: int = 0, count: int = 42, crc: bool = True
) -> bytes:
    """`algorithm=None` is a server from before checksums."""
    body = struct.pack("<H50sIB", 4, version.encode(), 0, 19) + bytes(post_header_lengths(count))
    if algorithm is not None:
        body += bytes((algorithm,))
    return event_bytes(EventType.FORMAT_DESCRIPTION, body, checksum=crc and algorithm is not None, flags=flags)


def framed(event_type: int, body: bytes, **header: Any) -> Event:
    """One event as the framer gives it, without checksum."""
    return EventFramer(initial_checksum=False).frame(event_bytes(event_type, body, checksum=False, **header))


# ---------------------------------------------------------------- columns


@dataclass(frozen=True)
class BuiltColumn:
    """A column as table map and definition say it, values for it, and their bytes in a row image."""

    definition: ColumnDefinition
    column_type: int
    metadata: bytes
    values: st.SearchStrategy[Any]
    encode: Callable[[Any], bytes]
    collation: int = 0
    members: tuple[bytes, ...] = ()

    @property
    def is_numeric(self) -> bool:
        return self.column_type in (1, 2, 3, 4, 5, 8, 9, 13, 246)


def _integer(name: str, bits: int, column_type: int, *, is_unsigned: bool) -> BuiltColumn:
    size = bits // 8
    low, high = (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    definition = ColumnDefinition(
        name,
        ValueKind.INTEGER,
        f"int{bits}" + " unsigned" * is_unsigned,
        length=bits,
        is_unsigned=is_unsigned,
    )
    return BuiltColumn(
        definition,
        column_type,
        b"",
        st.integers(low, high),
        lambda value: value.to_bytes(size, "little", signed=not is_unsigned),
    )


_DIGIT_BYTES = {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4, 9: 4}


def encode_decimal(value: decimal.Decimal, precision: int, scale: int) -> bytes:
    """Digit by digit from the text, as the manual explains it."""
    text = f"{value.copy_abs():.{scale}f}" if value else "0." + "0" * scale
    whole, _, fraction = text.partition(".")
    whole = whole.rjust(precision - scale, "0")[len(whole.rjust(precision - scale, "0")) - (precision - scale) :]
    groups = []
    first = len(whole) % 9
    if first:
        groups.append(whole[:first])
    groups += [whole[at : at + 9] for at in range(first, len(whole), 9)]
    groups += [fraction[at : at + 9] for at in range(0, len(fraction), 9)]
    raw = bytearray(b"".join(int(group).to_bytes(_DIGIT_BYTES[len(group)], "big") for group in groups))
    if value < 0:
        raw = bytearray(byte ^ 0xFF for byte in raw)
    raw[0] ^= 0x80
    return bytes(raw)


def _decimal(name: str, precision: int, scale: int) -> BuiltColumn:
    definition = ColumnDefinition(
        name, ValueKind.DECIMAL, f"decimal({precision},{scale})", precision=precision, scale=scale
    )
    limit = 10**precision - 1
    context = decimal.Context(prec=80)
    values = st.integers(-limit, limit).map(lambda number: decimal.Decimal(number).scaleb(-scale, context))
    return BuiltColumn(
        definition,
        ColumnType.NEWDECIMAL,
        bytes((precision, scale)),
        values,
        lambda value: encode_decimal(value, precision, scale),
    )


def _fraction_bytes(micros: int, digits: int) -> bytes:
    size = (digits + 1) // 2
    return (micros // 10 ** (6 - 2 * size)).to_bytes(size, "big") if size else b""


def _micros(digits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 10**digits - 1).map(lambda part: part * 10 ** (6 - digits))


def _datetime(name: str, digits: int) -> BuiltColumn:
    parts = st.tuples(
        st.integers(0, 9999),
        st.integers(0, 12),
        st.integers(0, 31),
        st.integers(0, 23),
        st.integers(0, 59),
        st.integers(0, 59),
        _micros(digits),
    )

    def pack(value: tuple[int, ...]) -> int:
        year, month, day, hour, minute, second, micro = value
        date = ((year * 13 + month) << 5) | day
        return (date << 41) | (hour << 36) | (minute << 30) | (second << 24) | micro

    def encode(value: int) -> bytes:
        whole = (value >> 24) + 0x8000000000
        return whole.to_bytes(5, "big") + _fraction_bytes(value & 0xFFFFFF, digits)

    definition = ColumnDefinition(name, ValueKind.DATETIME, f"datetime({digits})", fraction_digits=digits)
    return BuiltColumn(definition, ColumnType.DATETIME2, bytes((digits,)), parts.map(pack), encode)


def _timestamp(name: str, digits: int) -> BuiltColumn:
    values = st.tuples(st.integers(0, 2**31 - 1), _micros(digits)).map(lambda pair: pair[0] * 1000000 + pair[1])
    definition = ColumnDefinition(name, ValueKind.TIMESTAMP, f"timestamp({digits})", fraction_digits=digits)
    return BuiltColumn(
        definition,
        ColumnType.TIMESTAMP2,
        bytes((digits,)),
        values,
        lambda value: (value // 1000000).to_bytes(4, "big") + _fraction_bytes(value % 1000000, digits),
    )


def encode_time(value: int, digits: int) -> bytes:
    """Signed microseconds to TIME2: the packed number, cut to its column's digits, offset so that it is positive."""
    seconds, micro = divmod(abs(value), 1000000)
    packed = (seconds // 3600 << 12 | seconds // 60 % 60 << 6 | seconds % 60) << 24 | micro
    size = (digits + 1) // 2
    if size == 3:
        return ((-packed if value < 0 else packed) + (0x800000 << 24)).to_bytes(6, "big")
    unit: int = 10 ** (6 - 2 * size)
    number: int = (packed >> 24 << 8 * size) + (packed & 0xFFFFFF) // unit
    return ((-number if value < 0 else number) + (0x800000 << 8 * size)).to_bytes(3 + size, "big")


def _time(name: str, digits: int) -> BuiltColumn:
    seconds = 838 * 3600 + 59 * 60 + 59
    values = st.tuples(st.integers(0, seconds), _micros(digits), st.sampled_from((1, -1))).map(
        lambda parts: (parts[0] * 1000000 + parts[1]) * parts[2]
    )
    definition = ColumnDefinition(name, ValueKind.TIME, f"time({digits})", fraction_digits=digits)
    return BuiltColumn(definition, ColumnType.TIME2, bytes((digits,)), values, lambda value: encode_time(value, digits))


def _date(name: str) -> BuiltColumn:
    values = st.tuples(st.integers(0, 9999), st.integers(0, 12), st.integers(0, 31)).map(
        lambda parts: parts[0] << 9 | parts[1] << 5 | parts[2]
    )
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.DATE, "date"),
        ColumnType.DATE,
        b"",
        values,
        lambda value: value.to_bytes(3, "little"),
    )


def _float(name: str) -> BuiltColumn:
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.FLOAT, "float"),
        ColumnType.FLOAT,
        b"\4",
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        lambda value: struct.pack("<f", value),
    )


def _double(name: str) -> BuiltColumn:
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.DOUBLE, "double"),
        ColumnType.DOUBLE,
        b"\x08",
        st.floats(allow_nan=False, allow_infinity=False),
        lambda value: struct.pack("<d", value),
    )


def _bit(name: str, bits: int) -> BuiltColumn:
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.BIT, f"bit({bits})", length=bits),
        ColumnType.BIT,
        bytes((bits % 8, bits // 8)),
        st.integers(0, 2**bits - 1),
        lambda value: value.to_bytes((bits + 7) // 8, "big"),
    )


def _year(name: str) -> BuiltColumn:
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.YEAR, "year"),
        ColumnType.YEAR,
        b"",
        st.one_of(st.just(0), st.integers(1901, 2155)),
        lambda value: bytes((value - 1900 if value else 0,)),
    )


def _prefixed(raw: bytes, size: int) -> bytes:
    return len(raw).to_bytes(size, "little") + raw


# charset: Python's codec, bytes a character, a collation id
_CHARSETS = {
    "utf8mb4": ("utf-8", 4, 255),
    "utf8mb3": ("utf-8", 3, 33),
    "latin1": ("latin-1", 1, 8),
    "utf16": ("utf-16-be", 4, 54),
    "ucs2": ("utf-16-be", 2, 35),
    "gbk": ("gbk", 2, 28),
    "ascii": ("ascii", 1, 11),
}


def _texts(charset: str, size_max: int) -> st.SearchStrategy[str]:
    codec = _CHARSETS[charset][0]
    if charset == "gbk":  # the whole of it is compared with the servers; here a few characters of each length do
        return st.text("aZ~表中文ソ", max_size=size_max)
    if charset == "latin1":  # the servers' is cp1252: keep to what the two share
        return st.text(st.characters(codec="ascii"), max_size=size_max)
    if charset in ("ucs2", "utf8mb3"):
        return st.text(st.characters(max_codepoint=0xFFFF, codec="utf-8"), max_size=size_max)
    return st.text(st.characters(codec=codec), max_size=size_max)


def _text(name: str, word: str, length: int, charset: str) -> BuiltColumn:
    codec, width, collation = _CHARSETS[charset]
    kinds = {"tinytext": 1, "text": 2, "mediumtext": 3, "longtext": 4}
    definition = ColumnDefinition(
        name,
        ValueKind.TEXT,
        word if word in kinds else f"{word}({length})",
        length=length,
        charset=charset,
    )
    size_max = length * width
    if word in kinds:
        column_type, metadata, size = ColumnType.BLOB, bytes((kinds[word],)), kinds[word]
        characters = min(length // width, 60)
    elif word == "varchar":
        column_type, metadata, size = ColumnType.VARCHAR, size_max.to_bytes(2, "little"), 1 + (size_max > 255)
        characters = length
    else:
        folded = ColumnType.STRING ^ ((size_max & 0x300) >> 4)
        column_type, metadata, size = ColumnType.STRING, bytes((folded, size_max & 0xFF)), 1 + (size_max > 255)
        characters = length
    return BuiltColumn(
        definition,
        column_type,
        metadata,
        _texts(charset, min(characters, 60)),
        lambda value: _prefixed(value.encode(codec), size),
        collation,
    )


def _binary(name: str, word: str, length: int) -> BuiltColumn:
    kinds = {"tinyblob": 1, "blob": 2, "mediumblob": 3, "longblob": 4}
    fixed = word == "binary"
    definition = ColumnDefinition(
        name,
        ValueKind.BINARY if fixed else ValueKind.BLOB,
        word if word in kinds else f"{word}({length})",
        length=length,
    )
    if word in kinds:
        column_type, metadata, size = ColumnType.BLOB, bytes((kinds[word],)), kinds[word]
    elif fixed:
        column_type, metadata, size = ColumnType.STRING, bytes((ColumnType.STRING, length)), 1
    else:
        column_type, metadata, size = ColumnType.VARCHAR, length.to_bytes(2, "little"), 1 + (length > 255)
    values = st.binary(min_size=length if fixed else 0, max_size=min(length, 80))

    def encode(value: bytes) -> bytes:
        # zero bytes at the end of BINARY are cut off
        return _prefixed(value.rstrip(b"\0") if fixed else value, size)

    return BuiltColumn(definition, column_type, metadata, values, encode, 63)


def _enum(name: str, count: int) -> BuiltColumn:
    size = 1 if count < 256 else 2
    members = tuple(f"m{number}" for number in range(count))
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.ENUM, "enum(…)", charset="utf8mb4", members=members),
        ColumnType.STRING,
        bytes((ColumnType.ENUM, size)),
        st.integers(0, count),
        lambda value: value.to_bytes(size, "little"),
        255,
        tuple(member.encode() for member in members),
    )


def _set(name: str, count: int) -> BuiltColumn:
    size = (count + 7) // 8
    size = 8 if size > 4 else size
    members = tuple(f"s{number}" for number in range(count))
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.SET, "set(…)", charset="utf8mb4", members=members),
        ColumnType.STRING,
        bytes((ColumnType.SET, size)),
        st.integers(0, 2**count - 1),
        lambda value: value.to_bytes(size, "little"),
        255,
        tuple(member.encode() for member in members),
    )


def _json(name: str) -> BuiltColumn:
    scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=200))
    documents = st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=10), inner, max_size=6)),
        max_leaves=20,
    )
    return BuiltColumn(
        ColumnDefinition(name, ValueKind.JSON, "json"),
        ColumnType.JSON,
        b"\4",
        documents.map(JsonDocument),
        lambda value: _prefixed(json_bytes(value.value), 4),
    )


@dataclass(frozen=True)
class JsonDocument:
    """A JSON value, told apart from the values of other columns."""

    value: Any


@cache
def columns_of_every_kind() -> tuple[BuiltColumn, ...]:
    """One column of every kind and size that differ in a row image."""
    types = {8: 1, 16: 2, 24: 9, 32: 3, 64: 8}
    columns = [
        _integer(f"i{bits}{'u' * is_unsigned}", bits, column_type, is_unsigned=is_unsigned)
        for bits, column_type in types.items()
        for is_unsigned in (False, True)
    ]
    columns += [_decimal(f"d{p}_{s}", p, s) for p, s in ((1, 0), (1, 1), (9, 0), (10, 9), (18, 9), (38, 7), (65, 30))]
    columns += [_float("f"), _double("g"), _date("date"), _year("year"), _json("j")]
    columns += [_datetime(f"dt{digits}", digits) for digits in range(7)]
    columns += [_timestamp(f"ts{digits}", digits) for digits in range(7)]
    columns += [_time(f"t{digits}", digits) for digits in range(7)]
    columns += [_bit(f"b{bits}", bits) for bits in (1, 7, 8, 9, 63, 64)]
    columns += [
        _text("c10", "char", 10, "utf8mb4"),
        _text("c255", "char", 255, "utf8mb4"),
        _text("v63", "varchar", 63, "utf8mb4"),
        _text("v300", "varchar", 300, "utf8mb3"),
        _text("vl", "varchar", 20, "latin1"),
        _text("va", "varchar", 20, "ascii"),
        _text("tiny", "tinytext", 255, "utf8mb4"),
        _text("t16", "text", 65535, "utf16"),
        _text("tm", "mediumtext", 16777215, "ucs2"),
        _text("tl", "longtext", 4294967295, "gbk"),
        _binary("bin", "binary", 16),
        _binary("vb", "varbinary", 300),
        _binary("bt", "tinyblob", 255),
        _binary("bl", "longblob", 4294967295),
        _enum("e3", 3),
        _enum("e300", 300),
        *(_set(f"s{count}", count) for count in (1, 9, 17, 25, 33, 64)),
    ]
    return tuple(columns)


def any_column() -> st.SearchStrategy[BuiltColumn]:
    return st.sampled_from(columns_of_every_kind())


def definition_of(columns: Sequence[BuiltColumn], *, flavor: Flavor = "mysql") -> TableDefinition:
    return TableDefinition(TableName("shop", "t"), tuple(column.definition for column in columns), flavor=flavor)


# ---------------------------------------------------------------- table maps and rows


def table_map_body(
    columns: Sequence[BuiltColumn],
    *,
    table_id: int = 77,
    optional: bytes = b"",
    database: str = "shop",
    table: str = "t",
) -> bytes:
    metadata = b"".join(column.metadata for column in columns)
    nullable = sum(1 << index for index in range(len(columns)))
    return (
        table_id.to_bytes(6, "little")
        + b"\1\0"
        + lenenc(len(database.encode()))
        + database.encode()
        + b"\0"
        + lenenc(len(table.encode()))
        + table.encode()
        + b"\0"
        + lenenc(len(columns))
        + bytes(column.column_type for column in columns)
        + lenenc(len(metadata))
        + metadata
        + nullable.to_bytes((len(columns) + 7) // 8, "little")
        + optional
    )


def _field(kind: MetadataField, value: bytes) -> bytes:
    return bytes((kind,)) + lenenc(len(value)) + value


def _bits(flags: Sequence[bool]) -> bytes:
    text = "".join("1" if flag else "0" for flag in flags)
    text = text.ljust((len(text) + 7) // 8 * 8, "0")
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


def optional_metadata(columns: Sequence[BuiltColumn], *, by_default: bool = True) -> bytes:
    """FULL metadata for the columns; charsets as a default and exceptions, or one a column."""
    numeric = [column.definition.is_unsigned or column.column_type == 13 for column in columns if column.is_numeric]
    members = [column for column in columns if column.members]
    texts = [column for column in columns if column.collation and not column.members]
    out = _field(MetadataField.SIGNEDNESS, _bits(numeric)) if numeric else b""
    for kind_default, kind_column, some in (
        (MetadataField.DEFAULT_CHARSET, MetadataField.COLUMN_CHARSET, texts),
        (MetadataField.ENUM_AND_SET_DEFAULT_CHARSET, MetadataField.ENUM_AND_SET_COLUMN_CHARSET, members),
    ):
        if some and by_default:
            exceptions = [(i, one.collation) for i, one in enumerate(some) if one.collation != some[0].collation]
            pairs = b"".join(lenenc(index) + lenenc(collation) for index, collation in exceptions)
            out += _field(kind_default, lenenc(some[0].collation) + pairs)
        elif some:
            out += _field(kind_column, b"".join(lenenc(one.collation) for one in some))
    out += _field(
        MetadataField.COLUMN_NAME,
        b"".join(lenenc(len(c.definition.name.encode())) + c.definition.name.encode() for c in columns),
    )
    for kind, value_kind in (
        (MetadataField.SET_STR_VALUE, ValueKind.SET),
        (MetadataField.ENUM_STR_VALUE, ValueKind.ENUM),
    ):
        lists = [
            lenenc(len(one.members)) + b"".join(lenenc(len(member)) + member for member in one.members)
            for one in members
            if one.definition.kind is value_kind
        ]
        if lists:
            out += _field(kind, b"".join(lists))
    return out


def image_bytes(columns: Sequence[BuiltColumn], row: Sequence[Any], *, spare_bits: bool = False) -> bytes:
    """`spare_bits`: set the unused bits of the null bitmap, as MariaDB does."""
    size = (len(columns) + 7) // 8
    nulls = sum(1 << index for index, value in enumerate(row) if value is None)
    if spare_bits:
        nulls |= ((1 << 8 * size) - 1) & ~((1 << len(columns)) - 1)
    values = b"".join(column.encode(value) for column, value in zip(columns, row, strict=True) if value is not None)
    return nulls.to_bytes(size, "little") + values


def rows_body(
    columns: Sequence[BuiltColumn],
    rows: Sequence[Sequence[Any]],
    *,
    is_update: bool = False,
    version: int = 2,
    table_id: int = 77,
    flags: int = 1,
    spare_bits: bool = False,
    extra: bytes = b"",
) -> bytes:
    present = b"\xff" * ((len(columns) + 7) // 8)
    return (
        table_id.to_bytes(6, "little")
        + flags.to_bytes(2, "little")
        + ((2 + len(extra)).to_bytes(2, "little") + extra if version == 2 else b"")
        + lenenc(len(columns))
        + present * (2 if is_update else 1)
        + b"".join(image_bytes(columns, row, spare_bits=spare_bits) for row in rows)
    )
