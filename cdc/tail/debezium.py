"""The format `debezium`: the envelope of Debezium 3's connectors for MySQL and MariaDB, without schemas.

As their documentation describes it, with the default modes: `decimal.handling.mode=precise`,
`time.precision.mode=adaptive_time_microseconds`, `bigint.unsigned.handling.mode=long`, `binary.handling.mode=bytes`
(JSON has base64 for bytes). Where the envelope cannot say what the log says, or we do not know what it asks for,
docs/tail.md says what is printed.

Source: debezium.io, "Debezium connector for MySQL": data change events, data type mappings; the connector for MariaDB.
"""

from __future__ import annotations

import binascii
import datetime
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import cdc
from cdc.model import ColumnDefinition, Flavor, Operation, TableName, ValueKind
from cdc.sinks.values import date_parts, datetime_parts, is_calendar_date
from cdc.tail.lines import Images, Transaction
from cdc.tail.values import ColumnWriter, column_writer, each, instant_text, member_texts, quoted

__all__ = ["DebeziumFormat", "DebeziumSource"]

_INSERT, _BEFORE, _AFTER = int(Operation.INSERT), int(Operation.UPDATE_BEFORE), int(Operation.UPDATE_AFTER)
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_MICROS_IN_DAY = 86_400_000_000
_SIGNED_LIMIT = 1 << 63
# DATETIME with more digits is sent in microseconds.
_MILLISECOND_DIGITS = 3


@dataclass(frozen=True, slots=True)
class DebeziumSource:
    """What `source` says of where changes come from: the logical name, and whose log it is."""

    name: str
    connector: Flavor
    server_id: int


class DebeziumFormat:
    """`{"before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"}`.

    An update that changes the primary key is a delete and a create, as there. `tombstones`: a line `null` follows each
    delete.
    """

    needs_keys = True

    def __init__(self, source: DebeziumSource, *, tombstones: bool, now_us: Callable[[], int]) -> None:
        self._tombstones = tombstones
        self._now_us = now_us
        self._connector = source.connector
        self._server_id = source.server_id
        self._lead = (
            f'"version":{quoted(cdc.__version__)},"connector":"{source.connector}","name":{quoted(source.name)}'
        )

    def column_writer(self, column: ColumnDefinition, flavor: Flavor) -> ColumnWriter:
        write = _writer(column)
        return each(column.kind, write) if write is not None else column_writer(column, flavor)

    def changes(self, images: Images, transactions: Mapping[int, Transaction]) -> tuple[list[str], list[int]]:
        name = images.definition.name
        sources = {index: self._source(transactions[index], name) for index in set(images.transactions)}
        tail = f',"transaction":null,"op":"%s",{self._times()}}}\n'
        create, update, delete = (tail % op for op in "cud")
        if self._tombstones:
            delete += "null\n"
        lines: list[str] = []
        order: list[int] = []
        keys = images.keys
        for at, (operation, index, number) in enumerate(
            zip(images.operations, images.transactions, images.row_numbers, strict=True)
        ):
            if operation == _BEFORE:
                continue
            image = images.objects[at]
            source = f'"source":{sources[index]}"row":{number},"thread":null,"query":null}}'
            if operation == _INSERT:
                lines.append(f'{{"before":null,"after":{image},{source}{create}')
            elif operation != _AFTER:
                lines.append(f'{{"before":{image},"after":null,{source}{delete}')
            elif keys and _is_other(keys[at - 1], keys[at]):
                lines.append(f'{{"before":{images.objects[at - 1]},"after":null,{source}{delete}')
                lines.append(f'{{"before":null,"after":{image},{source}{create}')
                order.append(index)
            else:
                lines.append(f'{{"before":{images.objects[at - 1]},"after":{image},{source}{update}')
            order.append(index)
        return lines, order

    def schema_change(self, table: TableName, statement: str, transaction: Transaction) -> list[str]:
        source = f'"source":{self._source(transaction, table)}"row":0,"thread":null,"query":null}}'
        database = quoted(table.database)
        named = f'"databaseName":{database},"schemaName":null,"ddl":{quoted(statement)},"tableChanges":[]'
        return [f"{{{source},{self._times()},{named}}}\n"]

    def abandoned(self, transaction: Transaction) -> list[str]:  # noqa: ARG002 - it has no word for that
        return []

    def _times(self) -> str:
        """When this line was made."""
        now = self._now_us()
        return f'"ts_ms":{now // 1000},"ts_us":{now},"ts_ns":{now * 1000}'

    def _source(self, transaction: Transaction, table: TableName) -> str:
        """The members of `source` up to `pos`."""
        micros = transaction.commit_us
        gtid = "null" if transaction.gtid is None else quoted(transaction.gtid)
        server_id = self._server_id
        if self._connector == "mariadb" and transaction.gtid is not None:
            server_id = int(transaction.gtid.split("-")[1])
        return (
            f'{{{self._lead},"ts_ms":{micros // 1000},"snapshot":"false","db":{quoted(table.database)},'
            f'"sequence":null,"ts_us":{micros},"ts_ns":{micros * 1000},"table":{quoted(table.table)},'
            f'"server_id":{server_id},"gtid":{gtid},"file":{quoted(transaction.file or "")},'
            f'"pos":{transaction.pos or 0},'
        )


def _is_other(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Did an update change the key? What an image lacks did not change."""
    if before == after:
        return False
    return any(a is not None and b is not None and a != b for a, b in zip(before, after, strict=True))


# ---------------------------------------------------------------- values


def _writer(column: ColumnDefinition) -> Callable[[Any], Any] | None:
    """What makes a value's fragment; None where the format `cdc` has the same."""
    match column.kind:
        case ValueKind.INTEGER if column.is_unsigned and column.length == 64:
            return _as_long
        case ValueKind.BIT:
            return _flag if column.length == 1 else functools.partial(_bits, size=(column.length + 7) // 8)
        case ValueKind.DECIMAL:
            return functools.partial(_unscaled, scale=column.scale)
        case ValueKind.DATE:
            return functools.partial(_days, zero="null" if column.is_nullable else 0)
        case ValueKind.DATETIME:
            divisor = 1000 if column.fraction_digits <= _MILLISECOND_DIGITS else 1
            return functools.partial(_since_epoch, divisor=divisor, zero="null" if column.is_nullable else 0)
        case ValueKind.TIMESTAMP:
            digits = column.fraction_digits
            zero = "null" if column.is_nullable else '"1970-01-01T00:00:00Z"'
            return lambda micros: f'"{instant_text(micros, digits)}"' if micros else zero
        case ValueKind.TIME:
            return str  # microseconds
        case ValueKind.JSON:
            return quoted
        case ValueKind.ENUM | ValueKind.SET:
            return member_texts(column)
        case ValueKind.BINARY | ValueKind.BLOB:
            return _base64
        case ValueKind.GEOMETRY:
            return _geometry
    return None


def _as_long(value: int) -> int:
    """A 64-bit number in a signed type: those above 2**63 - 1 come out negative."""
    return value - (_SIGNED_LIMIT << 1) if value >= _SIGNED_LIMIT else value


def _base64(value: bytes) -> str:
    return f'"{binascii.b2a_base64(value, newline=False).decode()}"'


def _flag(value: int) -> str:
    return "true" if value else "false"


def _bits(value: int, *, size: int) -> str:
    return _base64(value.to_bytes(size, "little"))


def _unscaled(value: Decimal, *, scale: int) -> str:
    """The digits as one big-endian number in two's complement, in as few bytes as hold it."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "no server stores NaN"
    number = int("".join(map(str, digits))) * 10 ** (scale + exponent)
    number = -number if sign else number
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1
    return _base64(number.to_bytes(size, "big", signed=True))


def _day_number(year: int, month: int, day: int) -> int | None:
    """Days since the epoch; None for what no calendar has."""
    return datetime.date(year, month, day).toordinal() - _EPOCH if is_calendar_date(year, month, day) else None


@functools.lru_cache(4096)
def _days(packed: int, *, zero: Any) -> Any:
    days = _day_number(*date_parts(packed))
    return zero if days is None else days


def _since_epoch(packed: int, *, divisor: int, zero: Any) -> Any:
    year, month, day, hour, minute, second, micro = datetime_parts(packed)
    days = _day_number(year, month, day)
    if days is None:
        return zero
    return (days * _MICROS_IN_DAY + ((hour * 60 + minute) * 60 + second) * 1_000_000 + micro) // divisor


def _geometry(value: bytes) -> str:
    """SRID (null for 0) and WKB."""
    srid = int.from_bytes(value[:4], "little")
    return f'{{"wkb":{_base64(value[4:])},"srid":{srid or "null"}}}'
