"""Rows of a SELECT as Arrow, value for value what the stream gives for the same row.

The SELECT list is rewritten per type where the server's text form is inexact (FLOAT prints six digits, DOUBLE(m,d) d
of them after the point) or ambiguous (ENUM and SET by index and bitmap); text comes in the column's own charset and
goes through the decoder that the stream uses.

This is the reference for `kernel/text_rows.pyx`, which reads nearly all rows (`result_reader.py`): it decodes those
that the kernel leaves, and has the errors.
"""

from __future__ import annotations

import decimal
import ipaddress
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from cdc.binlog.charsets import text_decoder
from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.dictionary_text import is_beyond_dictionaries, may_hide

__all__ = [
    "are_members_told",
    "column_expression",
    "comparable",
    "literal",
    "quote",
    "quote_table",
    "select_list",
    "to_record_batch",
]

Parser = Callable[[bytes], Any]


def quote(name: str) -> str:
    """An identifier of the MySQL family, quoted."""
    return "`" + name.replace("`", "``") + "`"


def quote_table(table: TableName) -> str:
    """`db`.`table`, quoted."""
    return f"{quote(table.database)}.{quote(table.table)}"


_UNTOLD = b"untold"


def are_members_told(column: ColumnDefinition) -> bool:
    """Whether no `?` among the members can stand for a character that the dictionaries do not show.

    One that they would not show says that the members are from elsewhere: the log, a statement, the server itself.
    """
    members = "".join(column.members)
    return column.is_told or not may_hide(members, column.charset) or any(map(is_beyond_dictionaries, members))


def select_list(definition: TableDefinition) -> str:
    """One expression a column, in source order, invisible and generated columns included."""
    return ", ".join(column_expression(column) for column in definition.columns)


def column_expression(column: ColumnDefinition) -> str:
    """The column in a SELECT list, so that its text says its value."""
    name = quote(column.name)
    if column.kind is ValueKind.FLOAT or (column.kind is ValueKind.DOUBLE and "(" in column.column_type):
        # The stored bits as a double: the plain form prints 16777216 as 16777200, and of DOUBLE(20,10) ten digits only,
        # where -5.96046448e-8 is stored as something next to -0.0000000596. Keeps -0.
        return f"{name} * 1e0"
    if column.kind in (ValueKind.ENUM, ValueKind.SET):
        number = f"CAST({name} AS UNSIGNED)"
        if are_members_told(column):
            return number
        # What the dictionary shows as `?` has a byte from F0 on in UTF-8 (source/supplementary.py).
        beyond = f"HEX(CONVERT({name} USING utf8mb4)) REGEXP '^(..)*F'"
        return f"IF({beyond}, '{_UNTOLD.decode()}', {number})"
    return name


def comparable(column: ColumnDefinition) -> str:
    """The column as it is compared with a `literal` of its values."""
    name = quote(column.name)
    if column.kind is ValueKind.SET and len(column.members) == 64:
        return f"CAST({name} AS UNSIGNED)"  # the 64th member is the sign of what a plain comparison takes it for
    return name


def literal(value: bytes | None, column: ColumnDefinition) -> str:
    """A value that `select_list` returned, as a literal equal to it beside `comparable(column)`.

    Strings go back as hexadecimal in the column's own charset and collation, so no client-side order or escaping is
    involved.
    """
    if value is None:
        return "NULL"
    kind = column.kind
    if kind in (ValueKind.INTEGER, ValueKind.DECIMAL, ValueKind.YEAR, ValueKind.ENUM, ValueKind.SET):
        return value.decode("ascii")
    if kind in (ValueKind.DOUBLE, ValueKind.FLOAT):
        return value.decode("ascii") + ("" if b"e" in value else "e0")
    if kind is ValueKind.BIT:
        return f"CAST(0x{value.hex()} AS UNSIGNED)"
    if kind is ValueKind.TEXT:
        return f"_{column.charset} 0x{value.hex()} COLLATE {column.collation}" if value else "''"
    if kind in (ValueKind.DATE, ValueKind.DATETIME, ValueKind.TIMESTAMP, ValueKind.TIME):
        return f"'{value.decode('ascii')}'"
    if kind in (ValueKind.UUID, ValueKind.INET4, ValueKind.INET6):
        return f"'{value.decode('ascii')}'"
    return f"0x{value.hex()}" if value else "''"


def to_record_batch(definition: TableDefinition, rows: Sequence[Sequence[bytes | None]]) -> pa.RecordBatch:
    """Rows of `select_list` as one record batch with the definition's Arrow types.

    Raises UnsupportedData naming table and column for a value that cannot be carried.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(definition.columns)
    arrays = []
    for column, values in zip(definition.columns, columns, strict=True):
        parse = _parser(column)
        try:
            parsed = [None if value is None else parse(value) for value in values]
            arrays.append(pa.array(parsed, type=column.arrow_type))
        except (ValueError, OverflowError, decimal.InvalidOperation, pa.ArrowInvalid) as error:
            raise UnsupportedData(
                f"{definition.name}.{column.name}: a value of type {column.column_type} cannot be read: {error}",
                table=str(definition.name),
                column=column.name,
                hint="correct the value at the source, or exclude the table",
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema)


def _parser(column: ColumnDefinition) -> Parser:
    kind = column.kind
    if kind is ValueKind.TEXT:
        return text_decoder(column.charset or "utf8mb4")
    if kind is ValueKind.JSON:
        return text_decoder("utf8mb4")
    if kind is ValueKind.BINARY:
        length = column.length
        return lambda value: value.ljust(length, b"\0")
    return _PARSERS[kind]


def _decimal(value: bytes) -> decimal.Decimal:
    return decimal.Decimal(value.decode("ascii"))


def _member_number(value: bytes) -> int:
    if value == _UNTOLD:
        raise ValueError("its member has a character beyond U+FFFF, which the source's dictionary shows as `?`")
    return int(value)


def _date(value: bytes) -> int:
    year, month, day = value.split(b"-")
    return int(year) << 9 | int(month) << 5 | int(day)


def _micros(fraction: bytes) -> int:
    return int(fraction.ljust(6, b"0")) if fraction else 0


def _datetime(value: bytes) -> int:
    date, _, clock = value.partition(b" ")
    year, month, day = date.split(b"-")
    hour, minute, seconds = clock.split(b":")
    second, _, fraction = seconds.partition(b".")
    return (
        ((int(year) * 13 + int(month)) << 5 | int(day)) << 41
        | int(hour) << 36
        | int(minute) << 30
        | int(second) << 24
        | _micros(fraction)
    )


def _days_from_civil(year: int, month: int, day: int) -> int:
    # Days since 1970-01-01 in the proleptic Gregorian calendar (era arithmetic with March as the first month).
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


def _timestamp(value: bytes) -> int:
    date, _, clock = value.partition(b" ")
    year, month, day = map(int, date.split(b"-"))
    if year == 0:
        return 0
    hour, minute, seconds = clock.split(b":")
    second, _, fraction = seconds.partition(b".")
    total = _days_from_civil(year, month, day) * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)
    return total * 1_000_000 + _micros(fraction)


def _time(value: bytes) -> int:
    is_negative = value.startswith(b"-")
    hour, minute, seconds = value.lstrip(b"-").split(b":")
    second, _, fraction = seconds.partition(b".")
    total = (int(hour) * 3600 + int(minute) * 60 + int(second)) * 1_000_000 + _micros(fraction)
    return -total if is_negative else total


_PARSERS: dict[ValueKind, Parser] = {
    ValueKind.INTEGER: int,
    ValueKind.DECIMAL: _decimal,
    ValueKind.FLOAT: float,
    ValueKind.DOUBLE: float,
    ValueKind.BIT: lambda value: int.from_bytes(value, "big"),
    ValueKind.YEAR: int,
    ValueKind.DATE: _date,
    ValueKind.DATETIME: _datetime,
    ValueKind.TIMESTAMP: _timestamp,
    ValueKind.TIME: _time,
    ValueKind.BLOB: bytes,
    ValueKind.GEOMETRY: bytes,
    ValueKind.VECTOR: bytes,
    ValueKind.ENUM: _member_number,
    ValueKind.SET: _member_number,
    ValueKind.UUID: lambda value: uuid.UUID(value.decode("ascii")).bytes,
    ValueKind.INET4: lambda value: ipaddress.IPv4Address(value.decode("ascii")).packed,
    ValueKind.INET6: lambda value: ipaddress.IPv6Address(value.decode("ascii")).packed,
}
