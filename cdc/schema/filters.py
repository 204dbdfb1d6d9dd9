"""A row filter and a table: its literals as the values of the columns that they are compared with.

column                      literal              compared
integers, YEAR, BIT         a whole number       by value
DECIMAL                     a number that fits   by value
FLOAT, DOUBLE               a number             as doubles
DATE, DATETIME, TIMESTAMP   '2024-02-29', '2024-02-29 10:00:00.5'; TIMESTAMP in UTC; zero dates too
TIME                        '-10:00:00'
CHAR, VARCHAR, TEXT kinds   text                 = <> IN only, character by character, whatever the collation
ENUM                        one of the labels    = <> IN only
BINARY, VARBINARY, BLOB     x'hex'               = <> IN only; BINARY is padded with zero bytes
the others                                       IS NULL only
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, ValueKind
from cdc.rowfilter import Both, Compare, Condition, Either, IsTrue, Not, OneOf, RowFilter, Value

__all__ = ["bind"]


def bind(row_filter: RowFilter, definition: TableDefinition) -> RowFilter:
    """The filter with its literals in the form in which the table's values travel.

    Raises UnsupportedData, with the column, where it names one that the table does not have, or compares one with what
    it can never hold.
    """
    return replace(row_filter, condition=_bound(row_filter.condition, definition))


def _bound(condition: Condition, definition: TableDefinition) -> Condition:
    match condition:
        case Both(left, right):
            return Both(_bound(left, definition), _bound(right, definition))
        case Either(left, right):
            return Either(_bound(left, definition), _bound(right, definition))
        case Not(operand):
            return Not(_bound(operand, definition))
    column = _column(condition.column, definition)
    match condition:
        case Compare(_, operator, value):
            is_equality = operator in ("=", "<>")
            return Compare(column.name, operator, _value(value, column, definition, is_equality=is_equality))
        case OneOf(_, values):
            return OneOf(column.name, tuple(_value(value, column, definition, is_equality=True) for value in values))
        case IsTrue() if column.kind not in _NUMBERS:
            raise _refused(definition, column, "is no number, so it is neither true nor false")
    return condition


def _column(name: str, definition: TableDefinition) -> ColumnDefinition:
    try:
        return definition.column(name)
    except KeyError:
        table = str(definition.name)
        raise UnsupportedData(
            f"{table} has no column {name}, which its row_filter in tables.overrides names",
            table=table,
            column=name,
            hint=f"its columns are {', '.join(column.name for column in definition.columns)}",
        ) from None


def _refused(definition: TableDefinition, column: ColumnDefinition, reason: str) -> UnsupportedData:
    table = str(definition.name)
    return UnsupportedData(
        f"{table}: the row_filter and column {column.name} ({column.column_type}) do not go together: it {reason}",
        table=table,
        column=column.name,
        hint="correct row_filter in tables.overrides; docs/options.md says what is compared with what",
    )


_INTEGERS = frozenset({ValueKind.INTEGER, ValueKind.YEAR, ValueKind.BIT})
_NUMBERS = _INTEGERS | {ValueKind.DECIMAL, ValueKind.FLOAT, ValueKind.DOUBLE}
_UNORDERED = frozenset({ValueKind.TEXT, ValueKind.ENUM, ValueKind.BINARY, ValueKind.BLOB})
_MOMENTS = frozenset({ValueKind.DATE, ValueKind.DATETIME, ValueKind.TIMESTAMP})


def _value(value: Value, column: ColumnDefinition, definition: TableDefinition, *, is_equality: bool) -> Value:
    if column.kind in _UNORDERED and not is_equality:
        raise _refused(definition, column, "is compared with = <> and IN only")
    try:
        return _converted(value, column)
    except ValueError as error:
        raise _refused(definition, column, str(error)) from None


def _converted(value: Value, column: ColumnDefinition) -> Value:
    """Raises ValueError, as the end of a sentence about the column."""
    if column.kind in _NUMBERS:
        if not isinstance(value, Decimal):
            raise ValueError("is a number, and the literal is none")
        return _number(value, column)
    if column.kind in _MOMENTS and isinstance(value, str):
        return _moment(value, column.kind)
    if column.kind is ValueKind.TIME and isinstance(value, str):
        return _time(value)
    if column.kind is ValueKind.TEXT and isinstance(value, str):
        return value
    if column.kind is ValueKind.ENUM and isinstance(value, str):
        if value and value not in column.members:
            raise ValueError(f"has no member {value!r}")
        return column.members.index(value) + 1 if value in column.members else 0
    if column.kind in (ValueKind.BINARY, ValueKind.BLOB) and isinstance(value, bytes):
        return value.ljust(column.length, b"\0") if column.kind is ValueKind.BINARY else value
    raise ValueError(f"is not compared with {_shown(value)}")


def _number(value: Decimal, column: ColumnDefinition) -> Value:
    if column.kind in (ValueKind.FLOAT, ValueKind.DOUBLE):
        return float(value)
    converted: int | Decimal = value
    if column.kind is not ValueKind.DECIMAL:
        if value != value.to_integral_value():
            raise ValueError(f"holds whole numbers, and {value} is none")
        converted = int(value)
    try:
        pa.scalar(converted, column.arrow_type)
    except (pa.ArrowInvalid, OverflowError):
        raise ValueError(f"cannot hold {value}") from None
    return converted


_DATE = r"(\d{4})-(\d{2})-(\d{2})"
_CLOCK = r"(\d{2,3}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?"


def _moment(text: str, kind: ValueKind) -> int:
    match = re.fullmatch(rf"{_DATE}(?:[ T]{_CLOCK})?", text, re.ASCII)
    if match is None or (kind is ValueKind.DATE and match[4] is not None):
        raise ValueError(f"is not compared with {text!r}: write it as '2024-02-29' or '2024-02-29 10:00:00'")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    micro = int((match[7] or "").ljust(6, "0"))
    if month > 12 or day > 31 or hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"holds no {text!r}")
    if kind is ValueKind.DATE:
        return year << 9 | month << 5 | day
    if kind is ValueKind.DATETIME:
        return ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | micro
    if not (year or month or day):
        return 0  # the zero timestamp
    moment = datetime(year, month, day, hour, minute, second, micro, tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _time(text: str) -> int:
    match = re.fullmatch(rf"(-?){_CLOCK}", text, re.ASCII)
    if match is None or int(match[2]) > 838 or int(match[3]) > 59 or int(match[4] or 0) > 59:
        raise ValueError(f"is not compared with {text!r}: write it as '-10:00:00'")
    seconds = (int(match[2]) * 60 + int(match[3])) * 60 + int(match[4] or 0)
    micros = seconds * 1_000_000 + int((match[5] or "").ljust(6, "0"))
    return -micros if match[1] else micros


def _shown(value: Value) -> str:
    return f"x'{value.hex()}'" if isinstance(value, bytes) else repr(value) if isinstance(value, str) else str(value)
