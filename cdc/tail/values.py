"""Values as JSON text, a whole column at a time: the forms of `docs/tail.md`, for the format `cdc`.

A *fragment* is what stands for one value in a line. Fragments are text, or numbers whose `str` is JSON. Which function
makes them is chosen once a column (`column_writer`), so that no row asks what type a value has.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any

import orjson
import pyarrow as pa

from cdc.model import ColumnDefinition, Flavor, ValueKind
from cdc.sinks.values import date_text, inet_text, python_values, uuid_text

__all__ = ["ColumnWriter", "column_writer", "each", "float_texts", "member_texts", "quoted", "vector_texts"]

# The fragments of an array's values.
ColumnWriter = Callable[[pa.Array], list[Any]]

# Arrow prints a decimal with more digits than these after its point in scientific notation when it is small.
_PLAIN_SCALE_MAX = 6
# Dates, labels and the like repeat: this many are remembered a column.
_REMEMBERED = 4096
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_SECONDS_IN_DAY = 86400

quoted: Callable[[str], str] = encode_basestring
"""A string as JSON, control characters escaped and all else as it is."""


def each(kind: ValueKind, write: Callable[[Any], Any] | None) -> ColumnWriter:
    """A writer that calls `write` for every value that is not NULL; None: the values are fragments themselves."""

    def fragments(array: pa.Array) -> list[Any]:
        values = python_values(array, kind)
        if array.null_count:
            if write is None:
                return ["null" if value is None else value for value in values]
            return ["null" if value is None else write(value) for value in values]
        return values if write is None else list(map(write, values))

    return fragments


def column_writer(column: ColumnDefinition, flavor: Flavor) -> ColumnWriter:
    """The writer of one column, in the forms of the format `cdc`."""
    digits = column.fraction_digits
    match column.kind:
        case ValueKind.INTEGER | ValueKind.BIT | ValueKind.YEAR | ValueKind.DOUBLE:
            return each(column.kind, None)
        case ValueKind.FLOAT:
            return float_texts
        case ValueKind.DECIMAL:
            return _decimal_texts if column.scale <= _PLAIN_SCALE_MAX else each(column.kind, _quoted_decimal)
        case ValueKind.DATE:
            return each(column.kind, functools.lru_cache(_REMEMBERED)(lambda packed: f'"{date_text(packed)}"'))
        case ValueKind.DATETIME:
            return each(column.kind, _datetime_writer(digits))
        case ValueKind.TIMESTAMP:
            return each(column.kind, timestamp_writer(digits))
        case ValueKind.TIME:
            return each(column.kind, functools.partial(_time_text, digits=digits))
        case ValueKind.TEXT:
            return each(column.kind, quoted)
        case ValueKind.JSON:
            return each(column.kind, None if flavor == "mysql" else _embedded_json)
        case ValueKind.ENUM | ValueKind.SET:
            return each(column.kind, member_texts(column))
        case ValueKind.VECTOR:
            return vector_texts
        case ValueKind.UUID:
            return each(column.kind, lambda value: f'"{uuid_text(value)}"')
        case ValueKind.INET4 | ValueKind.INET6:
            return each(column.kind, lambda value: f'"{inet_text(value)}"')
        case _:
            return each(column.kind, lambda value: f'"{value.hex()}"')


# ---------------------------------------------------------------- numbers


def float_texts(array: pa.Array) -> list[Any]:
    """FLOAT: the fewest digits that read back the same 32 bits."""
    texts: list[Any] = array.cast(pa.string()).to_pylist()
    if array.null_count:
        texts = ["null" if text is None else text for text in texts]
    if "-0" in texts:  # which many a reader takes for the integer 0
        texts = ["-0.0" if text == "-0" else text for text in texts]
    return texts


def vector_texts(array: pa.Array) -> list[Any]:
    """VECTOR: the list of its numbers."""
    values: list[bytes | None] = array.to_pylist()
    raw = b"".join(value for value in values if value is not None)
    numbers = pa.Array.from_buffers(pa.float32(), len(raw) // 4, [None, pa.py_buffer(raw)])
    texts: list[str] = float_texts(numbers)
    fragments: list[Any] = []
    at = 0
    for value in values:
        if value is None:
            fragments.append("null")
        else:
            end = at + len(value) // 4
            fragments.append(f"[{','.join(texts[at:end])}]")
            at = end
    return fragments


def _decimal_texts(array: pa.Array) -> list[Any]:
    texts = array.cast(pa.string()).to_pylist()
    return ["null" if text is None else f'"{text}"' for text in texts]


def _quoted_decimal(value: Any) -> str:
    return f'"{value:f}"'


# ---------------------------------------------------------------- dates and times


def fraction_text(micros: int, digits: int) -> str:
    """`.001` of so many digits; nothing for none."""
    return f".{micros:06}"[: digits + 1] if digits else ""


@functools.lru_cache(_REMEMBERED)
def _day_text(packed: int) -> str:
    """The date of a packed DATETIME, from `packed >> 41`."""
    year, month = divmod(packed >> 5, 13)
    return f"{year:04}-{month:02}-{packed & 31:02}"


def _datetime_writer(digits: int) -> Callable[[int], str]:
    def text(packed: int) -> str:
        time = f"{packed >> 36 & 31:02}:{packed >> 30 & 63:02}:{packed >> 24 & 63:02}"
        return f'"{_day_text(packed >> 41)} {time}{fraction_text(packed & 0xFFFFFF, digits)}"'

    return text


@functools.lru_cache(_REMEMBERED)
def _calendar_day(days: int) -> str:
    """The date so many days after 1970-01-01."""
    return datetime.date.fromordinal(_EPOCH + days).isoformat()


def instant_text(micros: int, digits: int) -> str:
    """`2038-01-19T03:14:07.123Z` of microseconds since the epoch."""
    seconds, micro = divmod(micros, 1_000_000)
    days, second = divmod(seconds, _SECONDS_IN_DAY)
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"{_calendar_day(days)}T{clock}{fraction_text(micro, digits)}Z"


def timestamp_writer(digits: int) -> Callable[[int], str]:
    """TIMESTAMP: the instant in UTC; the zero timestamp as the server prints it."""
    zero = f'"0000-00-00 00:00:00{fraction_text(0, digits)}"'
    return lambda micros: f'"{instant_text(micros, digits)}"' if micros else zero


def _time_text(micros: int, *, digits: int) -> str:
    seconds, micro = divmod(abs(micros), 1_000_000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f'"{"-" if micros < 0 else ""}{clock}{fraction_text(micro, digits)}"'


# ---------------------------------------------------------------- members and JSON


def member_texts(column: ColumnDefinition) -> Callable[[int], str]:
    """ENUM: the label, '' for the error value 0. SET: its labels joined by commas."""
    members = column.members
    if column.kind is ValueKind.ENUM:
        labels = ['""', *map(quoted, members)]
        return labels.__getitem__
    return functools.lru_cache(_REMEMBERED)(
        lambda bitmap: quoted(",".join(label for bit, label in enumerate(members) if bitmap >> bit & 1))
    )


def _embedded_json(text: str) -> str:
    """MariaDB keeps JSON as it was written: over several lines, or in ways that its json_valid() accepts and RFC 8259
    does not. The first becomes one line, the second a string."""
    try:
        orjson.loads(text)
    except ValueError:  # also of lone surrogates
        return quoted(text)
    # A line break inside a string would have been refused: these stand between tokens.
    return text.replace("\n", " ").replace("\r", " ") if "\n" in text or "\r" in text else text
