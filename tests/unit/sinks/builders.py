"""Tables, rows and changes for tests of sinks: short to write, the types of `cdc.model` underneath."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from cdc.model import ChangeBatch, ColumnDefinition, Flavor, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.schema.mapping import map_table
from cdc.schema.target import Policies, SinkKind, TargetColumn, TargetTable

K = ValueKind
UTF8 = "utf8mb4_general_ci"  # known to every server


def column(name: str, kind: ValueKind, column_type: str, **more: Any) -> ColumnDefinition:
    """A column; unsigned by its type's text, with a character set where it has a collation."""
    if kind in (K.TEXT, K.ENUM, K.SET):
        more.setdefault("collation", UTF8)
    collation = more.get("collation")
    if collation:
        more.setdefault("charset", collation.partition("_")[0])
    more.setdefault("is_unsigned", "unsigned" in column_type)
    return ColumnDefinition(name=name, kind=kind, column_type=column_type, **more)


ID = column("id", K.INTEGER, "int", length=32, is_nullable=False)


def table(
    *columns: ColumnDefinition, key: Sequence[str] = ("id",), name: str = "t", flavor: Flavor = "mysql"
) -> TableDefinition:
    """A source table `shop.<name>`."""
    return TableDefinition(TableName("shop", name), columns, tuple(key), flavor=flavor)


def target_of(
    definition: TableDefinition, kind: SinkKind = "postgresql", namespace: str = "n", **policies: Any
) -> TargetTable:
    """Where `definition` goes, under its own name."""
    return map_table(
        definition,
        kind=kind,
        namespace=namespace,
        name=definition.name.table,
        key=definition.primary_key,
        policies=Policies(**policies),
    )


def array_of(values: Sequence[Any], definition: ColumnDefinition) -> pa.Array:
    """Values as they travel; TIMESTAMP from microseconds, TEXT also from bytes that are no UTF-8."""
    wanted = definition.arrow_type
    if pa.types.is_timestamp(wanted):
        return pa.array(values, pa.int64()).cast(pa.timestamp("us")).cast(wanted)
    if any(isinstance(value, bytes) for value in values) and pa.types.is_large_string(wanted):
        raw = pa.array([v.encode() if isinstance(v, str) else v for v in values], pa.large_binary())
        return pa.Array.from_buffers(wanted, len(raw), raw.buffers(), raw.null_count)
    return pa.array(values, wanted)


def rows_of(definition: TableDefinition, rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Rows as a record batch with the definition's types."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(definition.columns)
    arrays = [array_of(values, c) for values, c in zip(columns, definition.columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema)


def change_of(
    definition: TableDefinition, *, upserts: Sequence[Sequence[Any]] = (), deletes: Sequence[Sequence[Any]] = ()
) -> ChangeBatch:
    """One row batch with the deletes first, and the selections that say which is which."""
    images = rows_of(definition, [*deletes, *upserts])
    operations = [Operation.DELETE] * len(deletes) + [Operation.INSERT] * len(upserts)
    batch = RowBatch(
        definition,
        pa.array(operations, pa.uint8()),
        pa.array([0] * len(operations), pa.uint32()),
        images,
    )
    gone = pa.array(range(len(deletes)), pa.int32())
    there = pa.array(range(len(deletes), len(operations)), pa.int32())
    return ChangeBatch(definition, definition.primary_key, (batch,), (there,), (gone,))


def target_column(
    definition: ColumnDefinition, kind: SinkKind = "postgresql", flavor: Flavor = "mysql"
) -> TargetColumn:
    """That column on a sink, beside a key `id`."""
    return target_of(table(ID, definition, flavor=flavor), kind).columns[1]


# ---------------------------------------------------------------- values


def date(year: int, month: int, day: int) -> int:
    """A packed DATE."""
    return year << 9 | month << 5 | day


def moment(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0, micro: int = 0) -> int:
    """A packed DATETIME."""
    return ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | micro


def micros(hours: int, minutes: int = 0, seconds: int = 0, fraction: int = 0) -> int:
    """A TIME, positive."""
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction


def point(x: float, y: float, srid: int = 0) -> bytes:
    """A POINT as the servers hold it."""
    return struct.pack("<IBIdd", srid, 1, 1, x, y)


def floats(*values: float) -> bytes:
    """A VECTOR."""
    return struct.pack(f"<{len(values)}f", *values)


# Text that looks like syntax somewhere between here and a sink's table.
HOSTILE_TEXTS = (
    "",
    " ",
    "\\N",
    "NULL",
    "\\.",
    "\\",
    "\\\\",
    "'",
    "''",
    "\\'",
    '"',
    "`",
    "%",
    "%s",
    "%(x)s",
    "{}",
    "$1",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\v\f\b\x1a",
    "\x1c\u0085\u2028",
    "'; DROP TABLE x; --",
    "\\' OR 1=1 -- ",
    "é",
    "表ソ",
    "😀",
    "\u202eevil",
    "\ufeff",
    "a\u0000b",
    "\u0000",
)
DIGITS = "9" * 35 + "." + "9" * 30
SET64 = tuple(f"s{index}" for index in range(64))
LABELS = ("a", "it's", "x,y", "naïve", "back\\slash", "%s", " c")

# name: (column, values). Every value is one that a MySQL source can hold.
MYSQL_VALUES: Mapping[str, tuple[ColumnDefinition, Sequence[Any]]] = {
    "tinyint": (column("c", K.INTEGER, "tinyint", length=8), [-128, -1, 0, 127]),
    "tinyint1": (column("c", K.INTEGER, "tinyint(1)", length=8), [-5, 0, 1, 2]),
    "tinyint_unsigned": (column("c", K.INTEGER, "tinyint unsigned", length=8), [0, 128, 255]),
    "smallint_unsigned": (column("c", K.INTEGER, "smallint unsigned", length=16), [0, 32768, 65535]),
    "mediumint": (column("c", K.INTEGER, "mediumint", length=24), [-8388608, -1, 8388607]),
    "int_unsigned": (column("c", K.INTEGER, "int(10) unsigned", length=32), [0, 2**31, 2**32 - 1]),
    "zerofill": (column("c", K.INTEGER, "int(5) unsigned zerofill", length=32), [0, 42, 99999]),
    "bigint": (column("c", K.INTEGER, "bigint", length=64), [-(2**63), -1, 0, 2**63 - 1]),
    "bigint_unsigned": (column("c", K.INTEGER, "bigint unsigned", length=64), [0, 2**63, 2**64 - 1]),
    "decimal_65_30": (
        column("c", K.DECIMAL, "decimal(65,30)", precision=65, scale=30),
        [Decimal(DIGITS), Decimal(f"-{DIGITS}"), Decimal("-1e-30"), Decimal("1e-30"), Decimal(0), Decimal("-12.50")],
    ),
    "decimal_65_0": (
        column("c", K.DECIMAL, "decimal(65,0)", precision=65),
        [Decimal("9" * 65), Decimal("-" + "9" * 65), Decimal(10), Decimal(0)],
    ),
    "decimal_10_9": (column("c", K.DECIMAL, "decimal(10,9)", precision=10, scale=9), [Decimal("-9.000000001")]),
    "float": (
        column("c", K.FLOAT, "float"),
        [-0.0, 0.0, 16777216.0, 0.1, 3.4028234663852886e38, 1.1754943508222875e-38, 1.401298464324817e-45, -1.5],
    ),
    "double": (
        column("c", K.DOUBLE, "double"),
        [-0.0, 0.0, 0.1, 1.7976931348623157e308, -2.2250738585072014e-308, 5e-324, 9007199254740993.0, 1e16, 123.0],
    ),
    "float_7_3": (
        column("c", K.FLOAT, "float(7,3)"),
        [0.0, 123.45600128173828, 9999.9990234375, -0.0010000000474974513],
    ),
    "double_20_10": (column("c", K.DOUBLE, "double(20,10)"), [0.0, 1234567890.0123456, -0.3, 0.30000000000000004]),
    "float_unsigned": (column("c", K.FLOAT, "float unsigned"), [0.0, 3.5]),
    "decimal_zerofill": (
        column("c", K.DECIMAL, "decimal(8,2) unsigned zerofill", precision=8, scale=2),
        [Decimal("0.10"), Decimal("12.50")],
    ),
    "bit1": (column("c", K.BIT, "bit(1)", length=1), [0, 1]),
    "bit9": (column("c", K.BIT, "bit(9)", length=9), [0, 1, 256, 511]),
    "bit64": (column("c", K.BIT, "bit(64)", length=64), [0, 2**63, 2**64 - 1, 2**63 + 1]),
    "year": (column("c", K.YEAR, "year"), [0, 1901, 1970, 2155]),
    "date": (column("c", K.DATE, "date"), [date(1, 1, 1), date(1000, 1, 1), date(2024, 2, 29), date(9999, 12, 31)]),
    "impossible_dates": (
        column("c", K.DATE, "date"),
        [0, date(2023, 0, 15), date(2023, 5, 0), date(2023, 2, 30), date(0, 12, 31), date(1900, 2, 29)],
    ),
    "datetime": (column("c", K.DATETIME, "datetime"), [moment(1000, 1, 1), moment(9999, 12, 31, 23, 59, 59)]),
    "datetime3": (
        column("c", K.DATETIME, "datetime(3)", fraction_digits=3),
        [moment(2024, 2, 29, 1, 2, 3, 4000), moment(9999, 12, 31, 23, 59, 59, 999000)],
    ),
    "datetime6": (
        column("c", K.DATETIME, "datetime(6)", fraction_digits=6),
        [moment(1, 1, 1, 0, 0, 0, 1), moment(9999, 12, 31, 23, 59, 59, 999999)],
    ),
    "impossible_datetimes": (
        column("c", K.DATETIME, "datetime(6)", fraction_digits=6),
        [0, moment(2023, 0, 0, 0, 0, 0, 1), moment(2023, 2, 31, 10), moment(0, 12, 31, 23, 59, 59, 900000)],
    ),
    "timestamp": (column("c", K.TIMESTAMP, "timestamp"), [0, 1_000_000, 2147483647_000_000]),
    "timestamp6": (
        column("c", K.TIMESTAMP, "timestamp(6)", fraction_digits=6),
        [0, 1_000_001, 2147483647_999_999, 1792886400_000_000, 1792890000_000_000],  # one wall time in Berlin, twice
    ),
    "time": (column("c", K.TIME, "time"), [0, micros(838, 59, 59), -micros(838, 59, 59), -micros(0, 0, 1)]),
    "time1": (column("c", K.TIME, "time(1)", fraction_digits=1), [-100_000, micros(23, 59, 59, 900_000)]),
    "time6": (
        column("c", K.TIME, "time(6)", fraction_digits=6),
        [-1, 1, -999_999, -micros(838, 59, 58, 999_999), micros(838, 59, 59), micros(24)],
    ),
    "varchar": (column("c", K.TEXT, "varchar(100)", length=100), HOSTILE_TEXTS),
    "char": (column("c", K.TEXT, "char(5)", length=5), ["", "a", "a\0", "é" * 5]),
    "char255": (column("c", K.TEXT, "char(255)", length=255), ["é" * 255]),
    "varchar0": (column("c", K.TEXT, "varchar(0)", length=0), [""]),
    "latin1": (
        column("c", K.TEXT, "varchar(20)", length=20, collation="latin1_swedish_ci"),
        ["€\u0081\u008d\u008f\u0090\u009dŸÿ", "\\'"],
    ),
    "utf16": (column("c", K.TEXT, "varchar(20)", length=20, collation="utf16_general_ci"), ["😀é"]),
    "sjis": (column("c", K.TEXT, "varchar(20)", length=20, collation="sjis_japanese_ci"), ["表ソ"]),
    "gbk": (column("c", K.TEXT, "varchar(20)", length=20, collation="gbk_chinese_ci"), ["中文"]),
    "tinytext": (column("c", K.TEXT, "tinytext", length=255), ["", "a\0b"]),
    "longtext": (column("c", K.TEXT, "longtext", length=2**32 - 1), (*HOSTILE_TEXTS, "x" * 70_000)),
    "binary": (column("c", K.BINARY, "binary(5)", length=5), [b"\0\0\0\0\0", b"a\0\0\0\0", b"     "]),
    "varbinary": (column("c", K.BLOB, "varbinary(10)", length=10), [b"", b"\0", b"\\x00", b"'\xff\xfe", b"\t\n\\."]),
    "blob": (column("c", K.BLOB, "blob", length=65535), [b"", bytes(range(256)), b"\xbf\x27 OR 1=1"]),
    "enum": (column("c", K.ENUM, "enum()", members=LABELS), [0, *range(1, len(LABELS) + 1)]),
    "enum_with_empty": (column("c", K.ENUM, "enum()", members=("a", "")), [0, 1, 2]),
    "set": (column("c", K.SET, "set()", members=("a", "b", "c d", "naïve")), [0, 1, 0b1011, 0b1111]),
    "set64": (column("c", K.SET, "set()", members=SET64), [0, 1, 2**63, 2**64 - 1]),
    "json": (
        column("c", K.JSON, "json"),
        [
            "null",
            "{}",
            "[]",
            '""',
            "true",
            '"\\\\ \\" \\n \\t \' %s"',
            '"a\\u0000b"',
            '{"a\\u0000": "\\\\u0000"}',
            "18446744073709551615",
            "-9223372036854775808",
            "[1.0, 1, 0.1, 1e-7, 1.7976931348623157e308]",
            "12345678901234567890.123456789",
            '{"k": [-0.000000000000000000000000000001, {"d": 1.50, "s": "12345678901234567890.123"}], "é": "😀"}',
            '{"": 0, "b": true, "c": false, "d": null, "aa": 1}',
            "[" * 30 + "1" + "]" * 30,
            '["' + "x" * 70_000 + '"]',
        ],
    ),
    "geometry": (column("c", K.GEOMETRY, "geometry"), [point(1, 2), point(1, 2, 4326), b"\0\0\0\0\1\7\0\0\0\0\0\0\0"]),
    "point": (column("c", K.GEOMETRY, "point"), [point(-0.0, 5e-324)]),
    "vector": (column("c", K.VECTOR, "vector(3)", length=3), [floats(1, -2.5, 0.1), floats(0, -0.0, 3.4e38)]),
}
# What only a MariaDB source holds.
MARIADB_VALUES: Mapping[str, tuple[ColumnDefinition, Sequence[Any]]] = {
    "uuid": (
        column("c", K.UUID, "uuid", length=16),
        [
            bytes(16),
            bytes.fromhex("123e4567e89b12d3a456426614174000"),
            bytes.fromhex("00112233445566778899aabbccddee00"),
        ],
    ),
    "inet4": (column("c", K.INET4, "inet4", length=4), [bytes(4), b"\1\2\3\4", b"\xff\xff\xff\xff"]),
    "inet6": (
        column("c", K.INET6, "inet6", length=16),
        [
            bytes(16),
            bytes(15) + b"\1",
            bytes.fromhex("00000000000000000000ffff01020304"),
            bytes.fromhex("00000000000000000000000001020304"),
            bytes.fromhex("20010db8000000000000000000000000"),
            bytes.fromhex("00010000000200000000000300000000"),
        ],
    ),
    "json": (
        column("c", K.JSON, "longtext", collation="utf8mb4_bin"),
        ['{"a":1,"a":2}', "[1.0,1e400]  ", '"a\\u0000b"', "-0.0"],
    ),
    "compressed": (
        column("c", K.TEXT, "varchar(100) /*M!100301 COMPRESSED*/", length=100, collation="utf8mb4_uca1400_ai_ci"),
        ["", "x" * 100, None],
    ),
    "vector": (column("c", K.VECTOR, "vector(3)", length=3), [floats(1, -2.5, 0.1)]),
    "timestamp_2106": (
        column("c", K.TIMESTAMP, "timestamp(6)", fraction_digits=6),
        [2147483648_000_000, 4294967295_999_999],
    ),
    "time_max": (column("c", K.TIME, "time(6)", fraction_digits=6), [micros(838, 59, 59, 999_999)]),
}
