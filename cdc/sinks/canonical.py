"""One text per value, equal on both sides if and only if the values are: what `cdc verify` compares.

`canonical_from_arrow` makes it from what the source holds, policies applied; `from_postgres` and `from_mysql` from what
the sinks' own SELECT (`sql_postgres.select_all`, `sql_mysql.select_all`) prints.

    kind                canonical text
    INTEGER, YEAR, BIT  decimal digits
    DECIMAL             digits without trailing zeros or exponent; there is no -0
    FLOAT, DOUBLE       the bits, big-endian, in hex (a DOUBLE on MariaDB: -0 is 0, as that sink stores it)
    DATE                as the server writes it: `2023-02-30`
    DATETIME, TIMESTAMP `2038-01-19 03:14:07.000000`, TIMESTAMP in UTC; `infinity` after that policy
    TIME                signed microseconds
    TEXT                itself
    ENUM, SET           the label and the labels on PostgreSQL, index and bitmap on the MySQL family
    JSON                of MySQL: keys sorted, numbers by value; of MariaDB: its text
    others              bytes in hex (UUID and INET the address's bytes, VECTOR little-endian float32)
"""

from __future__ import annotations

import ipaddress
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from cdc.model import ValueKind
from cdc.schema.target import Policies, SinkKind, TargetColumn, TargetTable
from cdc.sinks.encode_postgres import plain_values
from cdc.sinks.values import (
    PolicyCounter,
    date_text,
    datetime_text,
    python_values,
    timestamp_text,
)

__all__ = ["canonical", "canonical_from_arrow", "from_mysql", "from_postgres", "json_text", "number_text"]


def canonical(kind: ValueKind, value: Any) -> str:
    """The canonical text of a value of `cdc.model`'s form, without policies: as on the MySQL family.

    TIMESTAMP is microseconds since the epoch; JSON is taken for MySQL's.
    """
    return _FROM_VALUE[kind](value)


def number_text(number: Decimal) -> str:
    """Digits without trailing zeros, without exponent; 0 has no sign."""
    if not number:
        return "0"
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def json_text(text: str) -> str:
    """JSON with its keys sorted and its numbers by value, exact to the last digit."""
    parts: list[str] = []
    _write_json(json.loads(text, parse_int=_Number, parse_float=_Number), parts)
    return "".join(parts)


class _Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


def _write_json(value: Any, parts: list[str]) -> None:
    match value:
        case _Number():
            parts.append(_json_number(value))
        case dict():
            separator = "{"
            for name in sorted(value):
                parts.append(f"{separator}{json.dumps(name)}:")
                _write_json(value[name], parts)
                separator = ","
            parts.append("}" if value else "{}")
        case list():
            separator = "["
            for item in value:
                parts.append(separator)
                _write_json(item, parts)
                separator = ","
            parts.append("]" if value else "[]")
        case _:
            parts.append(json.dumps(value))


def _json_number(text: str) -> str:
    """Significant digits and exponent: 1e400 stays short."""
    number = Decimal(text)
    if not number:
        return "0"
    sign, digits, exponent = number.as_tuple()
    trimmed = "".join(map(str, digits)).rstrip("0")
    shift = int(exponent) + len(digits) - len(trimmed)
    return f"{'-' if sign else ''}{trimmed}" + (f"e{shift}" if shift else "")


def _float_bits(value: float) -> str:
    return struct.pack(">f", value).hex()


def _double_bits(value: float) -> str:
    return struct.pack(">d", value).hex()


_FROM_VALUE: dict[ValueKind, Callable[[Any], str]] = {
    ValueKind.INTEGER: str,
    ValueKind.DECIMAL: number_text,
    ValueKind.FLOAT: _float_bits,
    ValueKind.DOUBLE: _double_bits,
    ValueKind.BIT: str,
    ValueKind.YEAR: str,
    ValueKind.DATE: date_text,
    ValueKind.DATETIME: datetime_text,
    ValueKind.TIMESTAMP: timestamp_text,
    ValueKind.TIME: str,
    ValueKind.TEXT: str,
    ValueKind.BINARY: bytes.hex,
    ValueKind.BLOB: bytes.hex,
    ValueKind.ENUM: str,
    ValueKind.SET: str,
    ValueKind.JSON: json_text,
    ValueKind.GEOMETRY: bytes.hex,
    ValueKind.VECTOR: bytes.hex,
    ValueKind.UUID: bytes.hex,
    ValueKind.INET4: bytes.hex,
    ValueKind.INET6: bytes.hex,
}


# ---------------------------------------------------------------- from the source's values


def canonical_from_arrow(array: pa.Array, column: TargetColumn, policies: Policies, kind: SinkKind) -> list[str | None]:
    """What a sink of that kind holds for these values once they are applied.

    Raises ValueRefused where it cannot hold one.
    """
    if kind == "postgresql":
        return _postgres_from_arrow(array, column, policies)
    to_text = _mysql_form(column, kind)
    return [None if value is None else to_text(value) for value in python_values(array, column.source.kind)]


def _mysql_form(column: TargetColumn, kind: SinkKind) -> Callable[[Any], str]:
    if column.source.kind is ValueKind.JSON and is_verbatim_json(column):
        return str
    if column.source.kind is ValueKind.DOUBLE and kind == "mariadb":
        return lambda value: _double_bits(value + 0.0)  # -0.0 + 0.0 is 0.0
    return _FROM_VALUE[column.source.kind]


def is_verbatim_json(column: TargetColumn) -> bool:
    """Does the sink keep the text as it is, as LONGTEXT and PostgreSQL's json do?"""
    return column.sql_type not in ("json", "jsonb") or (
        column.sql_type == "json" and not column.source.column_type.lower().startswith("json")
    )


_AS_SENT = frozenset({ValueKind.DATE, ValueKind.DATETIME, ValueKind.TIMESTAMP, ValueKind.TEXT, ValueKind.ENUM})
_AS_SENT_OR_BYTES = _AS_SENT | {ValueKind.SET, ValueKind.JSON, ValueKind.GEOMETRY}


def _postgres_from_arrow(array: pa.Array, column: TargetColumn, policies: Policies) -> list[str | None]:
    source = column.source.kind
    if source not in _AS_SENT_OR_BYTES:
        to_text = _FROM_VALUE[source]
        return [None if value is None else to_text(value) for value in python_values(array, source)]
    sent = plain_values(array, column, policies, PolicyCounter())
    normal = _postgres_reader(column, is_sent=True)
    return [None if text is None else normal(text) for text in sent]


# ---------------------------------------------------------------- from a sink's SELECT


def from_postgres(rows: Iterable[Sequence[Any]], target: TargetTable) -> list[tuple[Any, ...]]:
    """Canonical texts of rows that `sql_postgres.select_all` selected."""
    readers = [_postgres_reader(column, is_sent=False) for column in target.columns]
    return [
        tuple(None if text is None else read(text) for read, text in zip(readers, row, strict=True)) for row in rows
    ]


def _postgres_reader(column: TargetColumn, *, is_sent: bool) -> Callable[[str], str]:
    """The text that PostgreSQL prints, or (`is_sent`) that was sent to it, as canonical text."""
    match column.source.kind:
        case ValueKind.DECIMAL:
            return lambda text: number_text(Decimal(text))
        case ValueKind.BIT:
            return lambda text: str(int(text, 2))
        case ValueKind.DATETIME:
            return _postgres_moment
        case ValueKind.TIMESTAMP:
            return lambda text: _postgres_moment(text.removesuffix("+00"))
        case ValueKind.JSON:
            return str if is_verbatim_json(column) else json_text
        case ValueKind.GEOMETRY if is_sent:
            return lambda text: text.removeprefix("\\x")
        case ValueKind.VECTOR:
            return _vector_bits
        case ValueKind.UUID:
            return lambda text: text.replace("-", "")
        case ValueKind.INET4 | ValueKind.INET6:
            return address_bits
        case _:
            return str


def _postgres_moment(text: str) -> str:
    """PostgreSQL leaves out zeros at the end of the fraction."""
    if not text[0].isdigit():
        return text  # infinity
    base, _, fraction = text.partition(".")
    return f"{base}.{fraction:0<6}"


def _vector_bits(text: str) -> str:
    elements = [float(element) for element in text[1:-1].split(",") if element]
    return struct.pack(f"<{len(elements)}f", *elements).hex()


def address_bits(text: str) -> str:
    """An IPv4 or IPv6 address as hex."""
    return ipaddress.ip_address(text).packed.hex()


def from_mysql(rows: Iterable[Sequence[Any]], target: TargetTable, kind: SinkKind) -> list[tuple[Any, ...]]:
    """Canonical texts of rows that `sql_mysql.select_all` selected: floats come as two values, number and sign of 0."""
    readers = [_mysql_reader(column, kind) for column in target.columns]
    result = []
    for row in rows:
        values = iter(row)
        result.append(tuple(read(values) for read in readers))
    return result


def _mysql_reader(column: TargetColumn, kind: SinkKind) -> Callable[[Any], str | None]:
    source = column.source.kind
    if source in (ValueKind.FLOAT, ValueKind.DOUBLE):
        bits = _float_bits if source is ValueKind.FLOAT else _double_bits

        def read_float(values: Any) -> str | None:
            number, is_negative_zero = next(values), next(values)
            if number is None:
                return None
            value = float(number)
            if not value:
                keeps_sign = source is ValueKind.FLOAT or kind == "mysql"
                value = -0.0 if is_negative_zero and keeps_sign else 0.0
            return bits(value)

        return read_float
    to_text = _mysql_text(column)

    def read(values: Any) -> str | None:
        value = next(values)
        return None if value is None else to_text(_decoded(value))

    return read


def _decoded(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _mysql_text(column: TargetColumn) -> Callable[[str], str]:
    match column.source.kind:
        case ValueKind.INTEGER:
            return lambda text: str(int(text))  # ZEROFILL
        case ValueKind.DECIMAL:
            return lambda text: number_text(Decimal(text))
        case ValueKind.DATETIME | ValueKind.TIMESTAMP:
            return _postgres_moment
        case ValueKind.TIME:
            return _time_micros
        case ValueKind.JSON:
            return str if is_verbatim_json(column) else json_text
        case ValueKind.BINARY | ValueKind.BLOB | ValueKind.GEOMETRY | ValueKind.VECTOR:
            return str.lower
        case ValueKind.UUID:
            return lambda text: text.replace("-", "").lower()
        case ValueKind.INET4 | ValueKind.INET6:
            return address_bits
        case _:
            return str


def _time_micros(text: str) -> str:
    sign = -1 if text.startswith("-") else 1
    hours, minutes, rest = text.lstrip("-").split(":")
    seconds, _, fraction = rest.partition(".")
    micros = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000 + int(f"{fraction:0<6}")
    return str(sign * micros)


assert math.copysign(1, -0.0 + 0.0) == 1  # IEEE 754, round to nearest
