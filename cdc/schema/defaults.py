"""What else a target's columns get of the source's: defaults, comments, the numbering of AUTO_INCREMENT.

Rows that we write name every column, so nothing here is about them: it is for those who write to the sink besides us,
or instead of us after a failover. What cannot be kept is left out, and `left_out` has a word on each.

How information_schema prints a default: MySQL as the bare value, an expression marked in EXTRA; MariaDB since 10.2.7 as
SQL, texts between quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Literal

from cdc.model import ColumnDefinition, Flavor, ValueKind
from cdc.schema.target import Attributes, DefaultsKept, SinkKind, TargetColumn, TargetTable

__all__ = ["NotKept", "left_out", "sink_default", "with_attributes"]


class NotKept(Exception):
    """Why a column's default cannot be the sink's, as the end of a sentence that begins with it."""


@dataclass(frozen=True, slots=True)
class _Default:
    """`text` is the value, the expression, or the digits behind the second of CURRENT_TIMESTAMP."""

    form: Literal["value", "now", "expression"]
    text: str


def with_attributes(target: TargetTable, attributes: Attributes, kind: SinkKind) -> TargetTable:
    """The target with defaults, comments and identity as far as they are asked for and can be."""
    columns = tuple(_with_attributes(target, column, attributes, kind) for column in target.columns)
    comment = _comment(target.definition.comment) if attributes.comments and target.source_column is None else ""
    return replace(target, columns=columns, comment=comment, attributes=attributes)


def _with_attributes(target: TargetTable, column: TargetColumn, attributes: Attributes, kind: SinkKind) -> TargetColumn:
    source = _source_of(target, column)
    if source is None:
        return column
    try:
        default = sink_default(target, column, attributes.defaults, kind)
    except NotKept:
        default = None
    return replace(
        column,
        default=default,
        comment=_comment(source.comment) if attributes.comments else "",
        is_identity=attributes.identity and source.is_auto_increment and not _identity_problem(target, column, kind),
    )


def left_out(target: TargetTable, kind: SinkKind) -> Iterator[str]:
    """A sentence on each default and numbering that was asked for and is not there."""
    for column in target.columns:
        source = _source_of(target, column)
        if source is None:
            continue
        try:
            sink_default(target, column, target.attributes.defaults, kind)
        except NotKept as reason:
            yield f"the default of {column.name} {reason}"
        is_asked = target.attributes.identity and source.is_auto_increment
        if is_asked and (problem := _identity_problem(target, column, kind)):
            yield f"the numbering of {column.name} {problem}"


def _source_of(target: TargetTable, column: TargetColumn) -> ColumnDefinition | None:
    """The column at the source, with what its server says of it; None for one that is ours."""
    if column.metadata is not None or (target.source_column is not None and column.name == target.source_column.name):
        return None
    return target.definition.column(column.source.name)


def _comment(text: str) -> str:
    return text.replace("\0", "")


def _identity_problem(target: TargetTable, column: TargetColumn, kind: SinkKind) -> str:
    """Why a column that is AUTO_INCREMENT at the source does not number rows here; '' where it does."""
    if target.mode not in ("mirror", "soft_delete") or target.source_column is not None or column.masking is not None:
        return "is left out: the target has other rows than the source's table"
    if target.key[:1] != (column.name,):
        return "is left out: it is not the first column of the key"
    if kind == "postgresql" and column.sql_type not in ("smallint", "integer", "bigint"):
        return f"is left out: PostgreSQL numbers no {column.sql_type}"
    if column.source.kind is not ValueKind.INTEGER:
        return f"is left out: it is {column.source.column_type}"
    return ""


# ---------------------------------------------------------------- what the source says

_NOW = re.compile(r"(?:current_timestamp|now|localtime|localtimestamp)(?:\((\d*)\))?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?", re.IGNORECASE)
_BITS = re.compile(r"b'([01]*)'", re.IGNORECASE)
_QUOTED = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPED = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "0": "\0", "Z": "\x1a"}
_TIMES = (ValueKind.DATETIME, ValueKind.TIMESTAMP)


def _default_of(column: ColumnDefinition, flavor: Flavor) -> _Default | None:
    text = column.default
    if text is None or column.is_generated or column.is_auto_increment:
        return None
    if column.kind in _TIMES and (now := _NOW.fullmatch(text)):
        return _Default("now", str(int(now[1] or 0)))
    if flavor == "mysql":
        return _Default("expression" if column.has_default_expression else "value", text)
    if text.upper() == "NULL":
        return None
    if quoted := _QUOTED.fullmatch(text):
        return _Default("value", _ESCAPED.sub(lambda m: "'" if m[1] is None else _ESCAPES.get(m[1], m[1]), quoted[1]))
    is_value = _NUMBER.fullmatch(text) or _BITS.fullmatch(text)
    return _Default("value" if is_value else "expression", text)


def sink_default(target: TargetTable, column: TargetColumn, kept: DefaultsKept, kind: SinkKind) -> str | None:
    """The column's default as the sink's DDL has it; None where there is none, or it is not asked for.

    Raises NotKept where the sink has no such default.
    """
    source, flavor = target.definition.column(column.source.name), target.definition.flavor
    default = _default_of(source, flavor) if kept != "none" else None
    if default is None:
        return None
    if column.masking is not None:
        raise NotKept("is left out: the column is masked")
    if default.form == "now":
        return _now(column, default, kind)
    if default.form == "expression":
        return _expression(default, flavor, kept, kind)
    if kind == "postgresql":
        return _on_postgres(source, column, default.text)
    return _on_mysql(source, column, default.text, kind)


def _now(column: TargetColumn, default: _Default, kind: SinkKind) -> str:
    digits = "" if default.text == "0" else f"({default.text})"
    if kind != "postgresql":
        return f"CURRENT_TIMESTAMP{digits}"
    # As at the source: a TIMESTAMP is an instant, a DATETIME what the session's clock shows.
    return f"{'CURRENT_TIMESTAMP' if column.source.kind is ValueKind.TIMESTAMP else 'LOCALTIMESTAMP'}({default.text})"


# Nothing between quotes, which are printed in several ways, and no names of columns, which may be others on the sink.
_SAME_EXPRESSION = re.compile(
    r"\(*(?:(?:uuid|rand|curdate|curtime|current_date|current_time|utc_date|utc_time|utc_timestamp|unix_timestamp)"
    r"(?:\(\d?\))?|[\d.+*/() -])+\)*",
    re.IGNORECASE,
)


def _expression(default: _Default, flavor: Flavor, kept: DefaultsKept, kind: SinkKind) -> str:
    if kept != "all":
        raise NotKept("is left out: it is an expression; `targets.defaults: all` keeps some on a sink of the same kind")
    if flavor != kind or not _SAME_EXPRESSION.fullmatch(default.text):
        raise NotKept(f"is left out: the expression {default.text} is not known to be the same on {kind}")
    return f"({default.text})"


_INSTANT = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?: \d\d:\d\d:\d\d(?:\.\d{1,6})?)?")
_TIME = re.compile(r"-?\d{1,3}:\d\d:\d\d(?:\.\d{1,6})?")
_DAYS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TEXT_KINDS = (ValueKind.TEXT, ValueKind.ENUM, ValueKind.SET)
_BOOLEANS = {"0": "false", "1": "true"}


def _on_postgres(source: ColumnDefinition, column: TargetColumn, text: str) -> str:
    unknown = NotKept(f"is left out: PostgreSQL has none such as {text!r} for {column.sql_type}")
    match source.kind:
        case ValueKind.INTEGER | ValueKind.YEAR | ValueKind.DECIMAL | ValueKind.FLOAT | ValueKind.DOUBLE:
            number = _number(source, text)
            if number is None or (column.sql_type == "boolean" and number not in _BOOLEANS):
                raise unknown
            return _BOOLEANS[number] if column.sql_type == "boolean" else number
        case ValueKind.BIT:
            return f"B'{_bits(source, text):0{source.length}b}'"
        case ValueKind.DATE | ValueKind.DATETIME | ValueKind.TIMESTAMP:
            if not _is_in_calendar(text):
                raise unknown
            return f"'{text}{'+00' if source.kind is ValueKind.TIMESTAMP else ''}'"
        case ValueKind.TIME:
            if not _TIME.fullmatch(text):
                raise unknown
            return f"'{text}'"
        case _ if source.kind in _TEXT_KINDS and "\0" not in text:
            return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    raise unknown


_WITHOUT_DEFAULT = ("tinytext", "text", "mediumtext", "longtext")


def _on_mysql(source: ColumnDefinition, column: TargetColumn, text: str, kind: SinkKind) -> str:
    match source.kind:
        case ValueKind.INTEGER | ValueKind.YEAR | ValueKind.DECIMAL | ValueKind.FLOAT | ValueKind.DOUBLE:
            number = _number(source, text)
            if number is not None:
                return number
        case ValueKind.BIT:
            return f"b'{_bits(source, text):b}'"
        case ValueKind.DATE | ValueKind.DATETIME | ValueKind.TIMESTAMP if _INSTANT.fullmatch(text):
            return f"'{text}'"
        case ValueKind.TIME if _TIME.fullmatch(text):
            return f"'{text}'"
        case _ if source.kind in _TEXT_KINDS:
            if kind == "mysql" and column.sql_type.split(" ")[0].lower() in _WITHOUT_DEFAULT:
                raise NotKept("is left out: MySQL has none for TEXT")
            return "'" + text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0") + "'"
    raise NotKept(f"is left out: {text!r} for {source.column_type} has no one form")


def _number(source: ColumnDefinition, text: str) -> str | None:
    """A number as both kinds of sink read it."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if source.kind in (ValueKind.FLOAT, ValueKind.DOUBLE):
        return repr(float(value)) if math.isfinite(float(value)) else None
    if not value.is_finite() or (source.kind is not ValueKind.DECIMAL and value != value.to_integral_value()):
        return None
    return format(value, "f") if source.kind is ValueKind.DECIMAL else str(int(value))


def _bits(source: ColumnDefinition, text: str) -> int:
    if match := _BITS.fullmatch(text):
        value = int(match[1] or "0", 2)
    elif text.isdigit():
        value = int(text)
    else:
        raise NotKept(f"is left out: {text!r} is no bits that are known")
    if value >> source.length:
        raise NotKept(f"is left out: {text!r} has more than {source.length} bits")
    return value


def _is_in_calendar(text: str) -> bool:
    match = _INSTANT.fullmatch(text)
    if match is None:
        return False
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    if year == 0 or not 1 <= month <= 12 or not 1 <= day <= _DAYS[month]:
        return False
    return month != 2 or day < 29 or (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
