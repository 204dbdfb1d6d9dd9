"""The value that a column has in a row whose INSERT does not name it, as far as the column's definition tells.

Wanted for row images that lack columns (`binlog_row_image` MINIMAL, NOBLOB). The servers leave out what was taken from
a plain literal and log what an expression gave (CURRENT_TIMESTAMP, `(uuid())`), so only literals are looked at here.
information_schema does not show every literal exactly: six digits of a FLOAT, `?` for a character beyond the BMP, a
TIMESTAMP of MySQL in a time zone that nobody knows, binary strings of MySQL up to their first NUL. What may be inexact
is refused.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pyarrow as pa

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, ValueKind
from cdc.schema.dictionary_text import has_whole_unicode, is_beyond_dictionaries
from cdc.source.definitions import unescaped
from cdc.source.resultset import to_record_batch

__all__ = ["default_value"]

_NUMBERS = frozenset({ValueKind.INTEGER, ValueKind.DECIMAL, ValueKind.FLOAT, ValueKind.DOUBLE, ValueKind.YEAR})
_TEXTS = frozenset({ValueKind.TEXT, ValueKind.JSON})
_BYTES = frozenset({ValueKind.BINARY, ValueKind.BLOB})
# What a NOT NULL column without a default gets where sql_mode is not strict.
_IMPLICIT: dict[ValueKind, bytes] = {
    **dict.fromkeys(_NUMBERS, b"0"),
    **dict.fromkeys((ValueKind.TEXT, *_BYTES), b""),
    ValueKind.BIT: b"\0",
    ValueKind.DATE: b"0000-00-00",
    ValueKind.DATETIME: b"0000-00-00 00:00:00",
    ValueKind.TIME: b"00:00:00",
    ValueKind.ENUM: b"1",
    ValueKind.SET: b"0",
}
_QUOTED = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_HEXADECIMAL = re.compile(r"x'((?:[0-9a-f]{2})*)'", re.IGNORECASE)
_BITS = re.compile(r"b'([01]+)'")


class _NotExact(Exception):
    """The definition does not say what the value is."""


def default_value(definition: TableDefinition, column: ColumnDefinition) -> pa.Scalar:
    """The column's default, of its Arrow type; null where that is NULL.

    Raises UnsupportedData with table and column where it cannot be told exactly.
    """
    try:
        text = _selected(definition, column)
        # As a SELECT would print it, but in UTF-8 whatever the column's character set is.
        alone = replace(column, charset="utf8mb4" if column.charset else None)
        batch = to_record_batch(replace(definition, columns=(alone,)), [(text,)])
    except (_NotExact, UnsupportedData) as error:
        raise UnsupportedData(
            f"{definition.name}.{column.name}: an INSERT does not log the column (binlog_row_image is not FULL in the "
            f"writer's session), and its definition does not tell its value: {error}",
            table=str(definition.name),
            column=column.name,
            hint="SET GLOBAL binlog_row_image=FULL on the source and reconnect the writers, or let them name the "
            f"column; then run `cdc snapshot {definition.name}`",
        ) from error
    return batch.column(0)[0]


def _selected(definition: TableDefinition, column: ColumnDefinition) -> bytes | None:
    """The default as SELECT prints the value, text in UTF-8."""
    kind, default = column.kind, column.default
    is_mariadb = definition.flavor == "mariadb"
    if column.is_generated:
        raise _NotExact("the column is generated")
    if default is None or (is_mariadb and default == "NULL"):
        if column.is_nullable:
            return None
        if kind not in _IMPLICIT or column.is_auto_increment:
            raise _NotExact("it has no default")
        return _IMPLICIT[kind]
    if _takes_expressions_only(column, is_mariadb=is_mariadb):
        raise _NotExact(f"the default is the expression {default}")
    if kind in _NUMBERS:
        return _number(column, default)
    if kind is ValueKind.BIT:
        match = _BITS.fullmatch(default)
        if match is None:
            raise _NotExact(f"the default is {default}")
        return int(match[1], 2).to_bytes(8, "big")
    if kind in _BYTES:
        return _binary(default, is_mariadb=is_mariadb)
    return _label_or_text(column, _unquoted(default) if is_mariadb else default, is_mariadb=is_mariadb)


def _takes_expressions_only(column: ColumnDefinition, *, is_mariadb: bool) -> bool:
    """MySQL's EXTRA would tell an expression from a literal; where it matters, the type does."""
    if column.kind in (ValueKind.GEOMETRY, ValueKind.VECTOR):
        return True
    is_long = column.kind is ValueKind.JSON or column.column_type.lower().endswith(("text", "blob"))
    return is_long and not is_mariadb


def _number(column: ColumnDefinition, default: str) -> bytes:
    try:
        value = float(default)
    except ValueError:
        raise _NotExact(f"the default is {default}") from None
    if column.kind is ValueKind.FLOAT and value != 0:
        raise _NotExact(f"the server shows six digits of its default, {default}")
    if column.kind is ValueKind.DOUBLE and "(" in column.column_type:
        raise _NotExact(f"the server rounds what it shows of its default, {default}")
    return default.encode()


def _binary(default: str, *, is_mariadb: bool) -> bytes:
    if is_mariadb:
        match = _HEXADECIMAL.fullmatch(default)
        if match is not None:
            return bytes.fromhex(match[1])
        text = _unquoted(default)
        if text.isascii() and "?" not in text:
            return text.encode()
    elif default == "":
        return b""
    raise _NotExact(f"the server does not show all bytes of its default, {default}")


def _label_or_text(column: ColumnDefinition, text: str, *, is_mariadb: bool) -> bytes:
    if column.kind is ValueKind.ENUM:
        return str(_place(column, text) + 1).encode()
    if column.kind is ValueKind.SET:
        labels = text.split(",") if text else []
        return str(sum(1 << _place(column, label) for label in labels)).encode()
    if column.kind is ValueKind.TIMESTAMP and not is_mariadb and not text.startswith("0000-00-00 "):
        raise _NotExact(f"the server shows its default, {text}, in the time zone of the session that defined it")
    is_told = any(map(is_beyond_dictionaries, text))  # by the server itself, which was asked
    if column.kind in _TEXTS and "?" in text and has_whole_unicode(column.charset or "utf8mb4") and not is_told:
        raise _NotExact(f"the server shows ? for characters beyond the BMP, and its default is {text}")
    return text.encode()


def _place(column: ColumnDefinition, label: str) -> int:
    if column.members.count(label) != 1:
        raise _NotExact(f"its default is {label}, which is not one of its members")
    return column.members.index(label)


def _unquoted(default: str) -> str:
    """A literal of MariaDB, which quotes it; what it does not quote is an expression."""
    match = _QUOTED.fullmatch(default)
    if match is None:
        raise _NotExact(f"the default is the expression {default}")
    return unescaped(match[1])
