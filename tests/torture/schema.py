"""Random tables, and random values for whatever columns a table has at the moment.

Tables are made from the types that the server knows; values are made from what information_schema says, so that DDL
in between needs nothing to be told. A value is the SQL that makes it.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cdc.demo.servers import Server

__all__ = ["Column", "RandomTables", "columns_of", "value"]

_COMMON = (
    "TINYINT", "TINYINT UNSIGNED", "TINYINT(1)", "SMALLINT", "SMALLINT UNSIGNED", "MEDIUMINT",
    "MEDIUMINT UNSIGNED", "INT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED", "DECIMAL(10,2)", "DECIMAL(30,10)",
    "DECIMAL(65,30)", "FLOAT", "DOUBLE", "BIT(1)", "BIT(17)", "BIT(64)", "YEAR", "DATE", "DATETIME", "DATETIME(3)",
    "DATETIME(6)", "TIMESTAMP NULL", "TIMESTAMP(6) NULL", "TIME", "TIME(4)", "CHAR(12)", "VARCHAR(40)",
    "VARCHAR(30) CHARACTER SET latin1", "VARCHAR(20) CHARACTER SET utf16", "VARCHAR(20) CHARACTER SET gbk",
    "VARCHAR(300) COLLATE utf8mb4_bin", "TINYTEXT", "TEXT", "MEDIUMTEXT", "LONGTEXT", "BINARY(7)", "VARBINARY(40)",
    "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB", "ENUM('a','b','Ünï')", "SET('x','y','z')", "JSON", "POINT",
    "GEOMETRY",
)  # fmt: skip
_MORE: Mapping[str, tuple[str, ...]] = {
    "mysql": ("VECTOR(3)",),
    "mariadb": ("UUID", "INET6", "INET4"),
}
# Columns of the key, then the clauses that make it one.
_KEYS: tuple[tuple[str, str], ...] = (
    ("id BIGINT AUTO_INCREMENT", "PRIMARY KEY (id)"),
    ("id INT UNSIGNED NOT NULL", "PRIMARY KEY (id)"),
    ("id INT NOT NULL, part VARCHAR(8) NOT NULL", "PRIMARY KEY (id, part)"),
    ("id VARCHAR(12) NOT NULL", "PRIMARY KEY (id)"),
    ("id VARCHAR(12) COLLATE utf8mb4_bin NOT NULL", "PRIMARY KEY (id)"),
    ("id VARBINARY(9) NOT NULL", "PRIMARY KEY (id)"),
    ("id DECIMAL(8,2) NOT NULL", "PRIMARY KEY (id)"),
    ("id DATE NOT NULL, part SMALLINT NOT NULL", "PRIMARY KEY (part, id)"),
    ("id BIGINT UNSIGNED NOT NULL", "UNIQUE KEY only_one (id)"),
    ("id INT NOT NULL, part INT NULL", "PRIMARY KEY (id), UNIQUE KEY another (part)"),
    ("id INT NULL, part INT NULL", ""),
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column as information_schema has it."""

    name: str
    data_type: str
    column_type: str
    charset: str | None
    characters: int
    precision: int
    scale: int
    fraction_digits: int
    is_nullable: bool
    is_automatic: bool

    @property
    def is_key(self) -> bool:
        return self.name in ("id", "part")


class RandomTables:
    """Makes CREATE TABLE statements; keys of every kind take turns, the last of them is none."""

    def __init__(self, rng: random.Random, server: Server) -> None:
        self._rng = rng
        self._types = [*_COMMON, *_MORE["mariadb" if server.family == "mariadb" else "mysql"]]
        if server.kind.name == "mariadb1011":
            self._types.remove("INET4")  # came with 10.10, and is read by no other server of ours
        rng.shuffle(self._types)
        self._next_type = 0

    def statement(self, name: str, number: int) -> str:
        key, clause = _KEYS[number % len(_KEYS)]
        columns = [f"c{i} {self._type()}" for i in range(self._rng.randint(3, 9))]
        parts = [key, *columns, *([clause] if clause else [])]
        return f"CREATE TABLE {name} ({', '.join(parts)})"

    def _type(self) -> str:
        """All of them in turn: a few tables have every type."""
        self._next_type += 1
        kind = self._types[self._next_type % len(self._types)]
        if (
            kind in ("POINT", "GEOMETRY", "JSON")
            or kind.startswith(("TIMESTAMP", "VECTOR"))
            or self._rng.random() < 0.7
        ):
            return kind if "NULL" in kind else f"{kind} NULL"
        return f"{kind} NOT NULL"


def columns_of(cursor: object, database: str, table: str) -> list[Column]:
    """What the table has now; generated columns left out."""
    cursor.execute(  # type: ignore[attr-defined]
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, CHARACTER_MAXIMUM_LENGTH, NUMERIC_PRECISION, "
        "NUMERIC_SCALE, DATETIME_PRECISION, IS_NULLABLE, EXTRA FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION",
        (database, table),
    )
    return [
        Column(
            name=row[0],
            data_type=row[1].lower(),
            column_type=row[2],
            charset=row[3],
            characters=int(row[4] or 0),
            precision=int(row[5] or 0),
            scale=int(row[6] or 0),
            fraction_digits=int(row[7] or 0),
            is_nullable=row[8] == "YES",
            is_automatic="auto_increment" in row[9].lower(),
        )
        for row in cursor.fetchall()  # type: ignore[attr-defined]
        if "generated" not in row[9].lower() or "default_generated" in row[9].lower()
    ]


# ---------------------------------------------------------------- values

_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")
_BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
_WORDS = ("", "a", "A", "b ", "O'Brien", "tab\there", "back\\slash", "\\N", "line\nend", "0", "NULL", "%s", "x" * 30)
_WIDE = ("Zoë", "北京", "😀", "\u2028")


def value(column: Column, rng: random.Random) -> str:
    """SQL for a value of the column, often an odd one."""
    if column.is_nullable and rng.random() < 0.15 and not column.is_key:
        return "NULL"
    if column.is_key:
        return _key_value(column, rng)
    kind = column.data_type
    if kind in _BITS:
        return _integer(column, rng)
    if kind in _TEXTS:
        return _text(column, rng)
    if kind in _BYTES:
        size = min(column.characters, rng.choice((0, 1, 5, 40, 300)))
        return f"x'{rng.randbytes(size).hex()}'"
    makers: dict[str, Callable[[Column, random.Random], str]] = {
        "decimal": _decimal,
        "float": lambda _, r: r.choice(("0", "-0.5", "0.1", "16777217", "1e-30", "3.4e38", repr(r.uniform(-1e6, 1e6)))),
        "double": lambda _, r: r.choice(("0", "0.1", "-1e308", "5e-324", "9007199254740993", repr(r.gauss(0, 1e9)))),
        "bit": lambda c, r: str(r.getrandbits(c.precision)),
        "year": lambda _, r: str(r.choice((0, 1901, 2155, r.randint(1901, 2155)))),
        "date": lambda _, r: f"'{_date(r)}'",
        "datetime": lambda c, r: f"'{_date(r)} {_clock(c, r)}'",
        "timestamp": lambda c, r: (
            f"'{r.randint(1971, 2037)}-{r.randint(1, 12):02}-{r.randint(1, 28):02} {_clock(c, r)}'"
        ),
        "time": _time,
        "enum": lambda c, r: str(r.randint(1, len(_members(c)))),
        "set": lambda c, r: str(r.getrandbits(len(_members(c)))),
        "json": _json,
        "point": lambda _, r: f"ST_GeomFromText('POINT({r.randint(-9, 9)} {r.randint(-9, 9)})')",
        "geometry": lambda _, r: f"ST_GeomFromText('LINESTRING(0 0,{r.randint(1, 9)} {r.randint(1, 9)})')",
        "vector": lambda _, r: f"x'{b''.join(_float32(r) for _ in range(3)).hex()}'",
        "uuid": lambda _, r: f"'{r.getrandbits(128):032x}'",
        "inet4": lambda _, r: f"'10.{r.randint(0, 255)}.0.{r.randint(0, 255)}'",
        "inet6": lambda _, r: f"'fe80::{r.getrandbits(16):x}'",
    }
    assert kind in makers, f"no values for {column.column_type}"
    return makers[kind](column, rng)


def _float32(rng: random.Random) -> bytes:
    return struct.pack("<f", rng.choice((0.0, 1.5, -2.25, 1e10)))


def _key_value(column: Column, rng: random.Random) -> str:
    """Few different ones, so that keys meet, go and come back."""
    number = rng.randint(1, 60)
    if column.data_type in _BITS or column.data_type == "decimal":
        return str(number)
    if column.data_type == "date":
        return f"'2024-01-{1 + number % 28:02}'"
    if column.data_type in _BYTES:
        return f"x'{number:04x}'"
    return _quoted(rng.choice(("k", "K", "é", "k'")) + str(number % 20))


def _integer(column: Column, rng: random.Random) -> str:
    bits = _BITS[column.data_type]
    if "(1)" in column.column_type:
        return str(rng.randint(0, 1))
    low, high = (0, (1 << bits) - 1) if "unsigned" in column.column_type else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return str(rng.choice((low, high, 0, 1, rng.randint(low, high))))


def _decimal(column: Column, rng: random.Random) -> str:
    digits = rng.randint(1, column.precision)
    number = str(rng.randint(0, 10**digits - 1)).rjust(column.scale + 1, "0")
    whole, fraction = (number[: -column.scale], number[-column.scale :]) if column.scale else (number, "0")
    return f"{rng.choice(('', '-'))}{whole}.{fraction}"


def _text(column: Column, rng: random.Random) -> str:
    words = list(_WORDS)
    if column.charset in ("utf8mb4", "utf16"):
        words += _WIDE
    elif column.charset == "gbk":
        words.append("北京")
    elif column.charset == "latin1":
        words.append("Zoë")
    text = rng.choice(words)
    if column.characters > 1000 and rng.random() < 0.05:
        text *= rng.randint(1, 3000)
    return _quoted(text[: min(column.characters or 40, 60_000) // 4 or 1])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _date(rng: random.Random) -> str:
    year = rng.choice((1000, 1970, 2024, 9999, rng.randint(1000, 9999)))
    return f"{year}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _clock(column: Column, rng: random.Random) -> str:
    clock = rng.choice(("00:00:00", "23:59:58", f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:07"))
    return (
        f"{clock}.{rng.randint(0, 10**column.fraction_digits - 1):0{column.fraction_digits}}"
        if (column.fraction_digits)
        else clock
    )


def _time(column: Column, rng: random.Random) -> str:
    return f"'{rng.choice(('', '-'))}{rng.choice((0, 1, 23, 100, 837)):02}:{_clock(column, rng)[3:]}'"


def _json(_: Column, rng: random.Random) -> str:
    number = rng.choice(("1", "-0.5", "1e100", "18446744073709551615", "null", "true", '"Zoë\\\\u0041"', "[]"))
    return f"""'{{"a": {number}, "b": [{rng.randint(0, 9)}, "x"], "n": {{"k": {rng.randint(0, 99)}}}}}'"""


def _members(column: Column) -> list[str]:
    return re.findall(r"'(?:[^']|'')*'", column.column_type)
