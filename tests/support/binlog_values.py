"""Decoded values against the server's own SELECT: the expression that shows a value exactly, and the same from Arrow.

Both sides become one canonical Python value a column kind, by code that shares nothing with the decoder.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Sequence
from typing import Any

from cdc.model import ColumnDefinition, Flavor, RowBatch, ValueKind

__all__ = ["batch_rows", "canonical", "select_expression", "selected"]

_HEX_KINDS = (ValueKind.BINARY, ValueKind.BLOB, ValueKind.GEOMETRY, ValueKind.VECTOR)


def select_expression(column: ColumnDefinition, flavor: Flavor) -> str:
    """What to SELECT so that nothing of the value is lost on its way through a text protocol."""
    name = f"`{column.name}`"
    match column.kind:
        case ValueKind.DECIMAL | ValueKind.DATE | ValueKind.DATETIME | ValueKind.TIMESTAMP | ValueKind.TIME:
            return f"CAST({name} AS CHAR)"
        case ValueKind.FLOAT | ValueKind.DOUBLE:
            return f"{name} * 1e0"
        case ValueKind.BIT | ValueKind.ENUM | ValueKind.SET | ValueKind.YEAR:
            return f"CAST({name} AS UNSIGNED)"
        case ValueKind.TEXT:
            return f"HEX(CONVERT({name} USING utf8mb4))"
        case ValueKind.JSON:
            return f"HEX(CAST({name} AS CHAR CHARACTER SET utf8mb4))" if flavor == "mysql" else f"HEX({name})"
        case ValueKind.UUID:
            return f"REPLACE({name}, '-', '')"
        case ValueKind.INET4 | ValueKind.INET6:
            return f"HEX(INET6_ATON({name}))"
        case kind if kind in _HEX_KINDS:
            return f"HEX({name})"
        case _:
            return name


def selected(column: ColumnDefinition, value: Any) -> Any:
    """What the server answered to `select_expression`, canonical."""
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("ascii")
    match column.kind:
        case ValueKind.INTEGER | ValueKind.BIT | ValueKind.YEAR | ValueKind.SET | ValueKind.ENUM:
            return int(value)
        case ValueKind.FLOAT | ValueKind.DOUBLE:
            return float(value)
        case ValueKind.DECIMAL:
            # the servers drop the zero before the point nowhere, and keep a sign on no zero
            return value
        case ValueKind.TEXT | ValueKind.JSON:
            return bytes.fromhex(value).decode("utf-8")
        case ValueKind.UUID | ValueKind.INET4 | ValueKind.INET6:
            return value.lower()
        case kind if kind in _HEX_KINDS:
            return value.lower()
        case _:
            return value


def canonical(column: ColumnDefinition, value: Any) -> Any:
    """A value of our Arrow batch (as `to_pylist` gives it, timestamps as int microseconds), canonical."""
    if value is None:
        return None
    match column.kind:
        case ValueKind.DECIMAL:
            assert isinstance(value, decimal.Decimal)
            return format(value, "f")
        case ValueKind.DATE:
            return f"{value >> 9:04}-{value >> 5 & 15:02}-{value & 31:02}"
        case ValueKind.DATETIME:
            year, month = divmod(value >> 46, 13)
            text = f"{year:04}-{month:02}-{value >> 41 & 31:02}"
            text += f" {value >> 36 & 31:02}:{value >> 30 & 63:02}:{value >> 24 & 63:02}"
            return text + _fraction(value & 0xFFFFFF, column.fraction_digits)
        case ValueKind.TIMESTAMP:
            if value == 0:
                return "0000-00-00 00:00:00" + _fraction(0, column.fraction_digits)
            seconds, micros = divmod(value, 1000000)
            at = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)  # noqa: DTZ001 - UTC as text
            return at.strftime("%Y-%m-%d %H:%M:%S") + _fraction(micros, column.fraction_digits)
        case ValueKind.TIME:
            seconds, micros = divmod(abs(value), 1000000)
            text = f"{'-' if value < 0 else ''}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            return text + _fraction(micros, column.fraction_digits)
        case kind if kind in (*_HEX_KINDS, ValueKind.UUID, ValueKind.INET4, ValueKind.INET6):
            assert isinstance(value, bytes)
            return value.hex()
        case _:
            return value


def _fraction(micros: int, digits: int) -> str:
    text = f"{micros:06}"
    assert set(text[digits:]) <= {"0"}, f"{micros} microseconds in a column of {digits} digits"
    return f".{text[:digits]}" if digits else ""


def batch_rows(batches: Sequence[RowBatch]) -> list[dict[str, Any]]:
    """All images of the batches as canonical rows."""
    rows = []
    for batch in batches:
        columns = {}
        for column, array in zip(batch.definition.columns, batch.images.columns, strict=True):
            plain = array.cast("int64") if column.kind is ValueKind.TIMESTAMP else array
            columns[column.name] = [canonical(column, value) for value in plain.to_pylist()]
        rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows
