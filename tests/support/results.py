"""Results of SELECTs as the server would send them, for tests without a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.source.connection import SourceConnection, SourceSettings

__all__ = [
    "KINDS",
    "RESULT_TEXTS",
    "FakeSession",
    "eof_packet",
    "error_packet",
    "packets",
    "row_payload",
    "same_rows",
    "table_of",
]

_PACKET_BYTES_MAX = 0xFFFFFF

KINDS: tuple[ColumnDefinition, ...] = (
    *(ColumnDefinition(f"i{bits}", ValueKind.INTEGER, "int", length=bits) for bits in (8, 16, 24, 32, 64)),
    *(ColumnDefinition(f"u{bits}", ValueKind.INTEGER, "int", True, True, length=bits) for bits in (8, 16, 24, 32, 64)),
    ColumnDefinition("decimal", ValueKind.DECIMAL, "decimal(10,2)", precision=10, scale=2),
    ColumnDefinition("decimal_38", ValueKind.DECIMAL, "decimal(38,10)", precision=38, scale=10),
    ColumnDefinition("decimal_65", ValueKind.DECIMAL, "decimal(65,30)", precision=65, scale=30),
    ColumnDefinition("float", ValueKind.FLOAT, "float"),
    ColumnDefinition("double", ValueKind.DOUBLE, "double"),
    ColumnDefinition("bit", ValueKind.BIT, "bit(64)", length=64),
    ColumnDefinition("year", ValueKind.YEAR, "year"),
    ColumnDefinition("date", ValueKind.DATE, "date"),
    ColumnDefinition("datetime", ValueKind.DATETIME, "datetime(6)", fraction_digits=6),
    ColumnDefinition("timestamp", ValueKind.TIMESTAMP, "timestamp(6)", fraction_digits=6),
    ColumnDefinition("time", ValueKind.TIME, "time(6)", fraction_digits=6),
    ColumnDefinition("utf8mb4", ValueKind.TEXT, "text", charset="utf8mb4"),
    ColumnDefinition("utf8mb3", ValueKind.TEXT, "text", charset="utf8mb3"),
    ColumnDefinition("ascii", ValueKind.TEXT, "text", charset="ascii"),
    ColumnDefinition("latin1", ValueKind.TEXT, "text", charset="latin1"),
    ColumnDefinition("cp1251", ValueKind.TEXT, "text", charset="cp1251"),
    ColumnDefinition("sjis", ValueKind.TEXT, "text", charset="sjis"),
    ColumnDefinition("utf16", ValueKind.TEXT, "text", charset="utf16"),
    ColumnDefinition("json", ValueKind.JSON, "json"),
    ColumnDefinition("binary", ValueKind.BINARY, "binary(6)", length=6),
    ColumnDefinition("blob", ValueKind.BLOB, "blob", length=65535),
    ColumnDefinition("geometry", ValueKind.GEOMETRY, "geometry"),
    ColumnDefinition("vector", ValueKind.VECTOR, "vector(2)", length=2),
    ColumnDefinition("enum", ValueKind.ENUM, "enum('a','b')", members=("a", "b")),
    ColumnDefinition("set", ValueKind.SET, "set('a','b')", members=("a", "b")),
    ColumnDefinition("uuid", ValueKind.UUID, "uuid", length=16),
    ColumnDefinition("inet4", ValueKind.INET4, "inet4", length=4),
    ColumnDefinition("inet6", ValueKind.INET6, "inet6", length=16),
)
"""A column of every kind, and of every way to read one."""


RESULT_TEXTS: dict[str, tuple[bytes, ...]] = {
    "i8": (b"-128", b"127", b"0", b"-1"),
    "i16": (b"-32768", b"32767"),
    "i24": (b"-8388608", b"8388607"),
    "i32": (b"-2147483648", b"2147483647"),
    "i64": (b"-9223372036854775808", b"9223372036854775807", b"0"),
    "u8": (b"0", b"255", b"007"),
    "u16": (b"65535",),
    "u24": (b"16777215",),
    "u32": (b"4294967295", b"0000000001"),
    "u64": (b"18446744073709551615", b"9223372036854775808", b"0" * 255),
    "decimal": (b"0.00", b"-0.01", b"99999999.99", b"-99999999.99", b"00000001.50", b"1.5", b"7"),
    "decimal_38": (b"9" * 28 + b"." + b"9" * 10, b"-1.0000000001", b"0.0000000000"),
    "decimal_65": (b"9" * 35 + b"." + b"9" * 30, b"-" + b"9" * 35 + b"." + b"9" * 30, b"-0." + b"0" * 29 + b"1"),
    "float": (b"0.10000000149011612", b"-0", b"0", b"3.4028234663852886e38", b"1.401298464324817e-45", b"16777216"),
    "double": (b"0.1", b"-0", b"1.7976931348623157e308", b"5e-324", b"2.2250738585072014e-308", b"1e22", b"123456.789"),
    "bit": (b"\0", b"\xff" * 8, b"\x01\x00"),
    "year": (b"0000", b"1901", b"2155"),
    "date": (b"0000-00-00", b"9999-12-31", b"2023-02-30", b"2023-00-15", b"0000-12-31"),
    "datetime": (
        b"0000-00-00 00:00:00",
        b"9999-12-31 23:59:59.999999",
        b"2024-01-01 00:00:00.5",
        b"2023-00-15 10:00:00",
    ),
    "timestamp": (
        b"0000-00-00 00:00:00.000000",
        b"1970-01-01 00:00:01",
        b"2038-01-19 03:14:07.999999",
        b"2106-02-07 06:28:15",
    ),
    "time": (b"-838:59:59.000000", b"838:59:59", b"00:00:00.000001", b"-00:00:00.1", b"100:00:00"),
    "utf8mb4": (b"", b"abc", "é😀".encode(), b"x" * 300, b"\0", b"a" * 31 + "ß".encode()),
    "utf8mb3": ("表é".encode(), b"abc"),
    "ascii": (b"abc", b""),
    "latin1": (b"abc", b"\xe9\x80", b""),
    "cp1251": ("дом".encode("cp1251"), b"abc"),
    "sjis": (b"abc", "表ソ".encode("shift-jis")),
    "utf16": ("aé😀".encode("utf-16-be"),),
    "json": (b'{"a": "\xc3\xa9"}', b"null"),
    "binary": (b"", b"\x01", b"123456"),
    "blob": (b"", b"\xff\0", b"y" * 70_000),
    "geometry": (b"\0\0\0\0\x01",),
    "vector": (b"\0" * 8,),
    "enum": (b"0", b"1", b"65535"),
    "set": (b"0", b"18446744073709551615"),
    "uuid": (b"6ccd780c-baba-1026-9564-5b8c656024db", b"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
    "inet4": (b"0.0.0.0", b"255.255.255.255"),
    "inet6": (b"::", b"2001:db8::1", b"::ffff:10.0.0.1", b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
}
"""Values as servers send them: none of these may be left to the reference, which is a hundred times slower."""


def table_of(*columns: ColumnDefinition) -> TableDefinition:
    """A table of these columns."""
    return TableDefinition(TableName("shop", "t"), columns)


def row_payload(values: Iterable[bytes | None]) -> bytes:
    """A row as the text protocol has it."""
    return b"".join(b"\xfb" if value is None else _length(len(value)) + value for value in values)


def _length(size: int) -> bytes:
    if size < 251:
        return bytes((size,))
    if size < 1 << 16:
        return b"\xfc" + size.to_bytes(2, "little")
    if size < 1 << 24:
        return b"\xfd" + size.to_bytes(3, "little")
    return b"\xfe" + size.to_bytes(8, "little")


def eof_packet() -> bytes:
    """The payload that ends a result."""
    return b"\xfe\0\0\x02\0"


def error_packet(number: int, text: str) -> bytes:
    """The payload of an error."""
    return b"\xff" + number.to_bytes(2, "little") + b"#HY000" + text.encode()


def packets(payloads: Iterable[bytes], *, first: int = 0) -> bytes:
    """Payloads as packets, numbered from `first`; large ones in several."""
    out = bytearray()
    number = first
    for payload in payloads:
        at, size = 0, _PACKET_BYTES_MAX
        while size == _PACKET_BYTES_MAX:
            size = min(_PACKET_BYTES_MAX, len(payload) - at)
            out += size.to_bytes(3, "little") + bytes((number & 0xFF,)) + payload[at : at + size]
            at += size
            number += 1
    return bytes(out)


class _Result:
    def __init__(self, field_count: int) -> None:
        self.field_count = field_count
        self.unbuffered_active = True
        self.connection: object = self


class _Pieces:
    """Bytes that come in pieces of given sizes, the last size again and again."""

    def __init__(self, content: bytes, sizes: Sequence[int]) -> None:
        self._content, self._at, self._sizes, self._count = content, 0, list(sizes), 0

    def read1(self, size: int = -1, /) -> bytes:
        target = memoryview(bytearray(size))
        return bytes(target[: self.recv_into(target)])

    def recv_into(self, target: memoryview) -> int:
        size = self._sizes[min(self._count, len(self._sizes) - 1)]
        self._count += 1
        piece = self._content[self._at : self._at + min(size, len(target))]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class FakeSession:
    """What `ResultReader` uses of a `SourceConnection`: it answers each statement by the bytes given for it."""

    translated = SourceConnection.translated
    settings = SourceSettings("source", 3306, "cdc", "", 77)

    def __init__(self, answers: Iterable[bytes], *, field_count: int, sizes: Sequence[int] = (1 << 20,)) -> None:
        self._answers = iter(answers)
        self._field_count = field_count
        self._sizes = sizes
        self.statements: list[str] = []
        self.is_closed = False
        self.raw: Any = self
        self._result: _Result | None = None
        self._next_seq_id = 0
        self._rfile: Any = None
        self._sock: Any = None

    def query(self, sql: str, *, unbuffered: bool) -> None:
        """pymysql's, up to the head of the result."""
        assert unbuffered
        self.statements.append(sql)
        self._rfile = self._sock = _Pieces(next(self._answers), self._sizes)
        self._result = _Result(self._field_count)

    def _force_close(self) -> None:
        self.is_closed = True


def same_rows(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """To the last bit: -0.0 is not 0.0, and NaN is NaN."""
    if one.schema != other.schema or one.num_rows != other.num_rows:
        return False
    for left, right in zip(one.columns, other.columns, strict=True):
        if pa.types.is_floating(left.type):
            width = pa.int32() if pa.types.is_float32(left.type) else pa.int64()
            left, right = left.view(width), right.view(width)
        if not left.equals(right):
            return False
    return True
