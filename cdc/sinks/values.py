"""What encoders and the comparison share: reading the packed forms, policies, and naming the row that was refused.

Pure functions over Arrow values (`cdc.model`); knows no SQL.
"""

from __future__ import annotations

import ipaddress
import json
import re
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import CdcError, UnsupportedData
from cdc.model import ChangeBatch, ValueKind
from cdc.schema.target import Policies, TargetColumn, TargetTable

__all__ = [
    "PolicyCounter",
    "ValueRefused",
    "column_of",
    "date_parts",
    "date_text",
    "datetime_parts",
    "datetime_text",
    "inet_text",
    "is_calendar_date",
    "keep_refused_row",
    "key_text",
    "new_and_other",
    "python_values",
    "refusal",
    "set_labels",
    "time_text",
    "timestamp_micros",
    "timestamp_text",
    "uuid_text",
]

_DAYS_IN_MONTH = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_CHARACTERS_MAX = 64  # of a value or key in a message: enough to find the row, little enough for a log
# Of a value that is kept with the table's error, and of all of a row: it lies in a text column of the metadata.
_KEPT_CHARACTERS_MAX = 1_000
_KEPT_ROW_CHARACTERS_MAX = 20_000
_KEPT_IMAGE_BYTES_MAX = 64 * 1024


class ValueRefused(Exception):
    """Row `index` of a column cannot be written; `refusal` makes the error that names table, column and key."""

    def __init__(self, index: int, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason
        self.hint = hint


@dataclass(slots=True)
class PolicyCounter:
    """How many values of which column a policy changed."""

    changes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, column: TargetColumn, policy: str) -> None:
        self.changes[column.source.name, policy] += 1


# ---------------------------------------------------------------- new rows

Selections = tuple[pa.Int32Array, ...]


def new_and_other(change: ChangeBatch, *, few: int = 0) -> tuple[Selections, Selections]:
    """The change's upserts, batch by batch: of rows that are new, as far as is known, and the others.

    No more than `few` rows are not told apart, unless all are new.
    """
    none = tuple(selection[:0] for selection in change.upserts)
    if change.inserts:
        is_all = all(new is rows for new, rows in zip(change.inserts, change.upserts, strict=True))
    else:
        is_all = set(change.counts) == {"insert"}
    if is_all:
        return change.upserts, none
    if not change.inserts or change.upsert_count <= few:
        return none, change.upserts
    pairs = [_parted(*pair) for pair in zip(change.upserts, change.inserts, strict=True)]
    return tuple(new for new, _ in pairs), tuple(other for _, other in pairs)


def _parted(selection: pa.Int32Array, part: pa.Int32Array) -> tuple[pa.Int32Array, pa.Int32Array]:
    """What of a selection is in `part`, and what is not."""
    if part is selection:
        return selection, selection[:0]
    if not len(part):
        return part, selection
    is_in = pc.is_in(selection, part)
    return selection.filter(is_in), selection.filter(pc.invert(is_in))


# ---------------------------------------------------------------- Arrow to Python


def column_of(rows: pa.RecordBatch, column: TargetColumn) -> pa.Array:
    """The values of that column, found by the source's name."""
    return rows.column(rows.schema.get_field_index(column.source.name))


def python_values(array: pa.Array, kind: ValueKind) -> list[Any]:
    """One Python object a value: int, Decimal, float, bytes or str; TIMESTAMP as microseconds since the epoch.

    Bytes of a text that are no UTF-8 (reachable at the source, EDGE_CASES A39) become lone surrogates.
    """
    if kind is ValueKind.TIMESTAMP:
        return timestamp_micros(array)
    if kind in (ValueKind.TEXT, ValueKind.JSON):
        try:
            values: list[Any] = array.to_pylist()
        except UnicodeDecodeError:
            raw = array.cast(pa.large_binary()).to_pylist()
            return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
        return values
    others: list[Any] = array.to_pylist()
    return others


def timestamp_micros(array: pa.Array) -> list[int | None]:
    """Microseconds since the epoch, UTC."""
    micros: list[int | None] = array.cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    return micros


# ---------------------------------------------------------------- packed dates


def date_parts(packed: int) -> tuple[int, int, int]:
    """Year, month and day of `year << 9 | month << 5 | day`."""
    return packed >> 9, packed >> 5 & 15, packed & 31


def datetime_parts(packed: int) -> tuple[int, int, int, int, int, int, int]:
    """Year, month, day, hour, minute, second, microsecond of a packed DATETIME."""
    year, month = divmod(packed >> 46, 13)
    day = packed >> 41 & 31
    return year, month, day, packed >> 36 & 31, packed >> 30 & 63, packed >> 24 & 63, packed & 0xFFFFFF


def is_calendar_date(year: int, month: int, day: int) -> bool:
    """Is there such a day, in a year that a calendar without the year 0 has?"""
    if not 1 <= year <= 9999 or not 1 <= month <= 12 or not 1 <= day <= _DAYS_IN_MONTH[month]:
        return False
    return not (month == 2 and day == 29) or (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))


def date_text(packed: int) -> str:
    """`2023-02-30`, as it is."""
    year, month, day = date_parts(packed)
    return f"{year:04}-{month:02}-{day:02}"


def datetime_text(packed: int) -> str:
    """`2023-02-30 10:00:00.000001`, always with six digits."""
    year, month, day, hour, minute, second, micro = datetime_parts(packed)
    return f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micro:06}"


def timestamp_text(micros: int) -> str:
    """`2038-01-19 03:14:07.000000` in UTC; the zero timestamp as MySQL writes it."""
    if micros == 0:
        return "0000-00-00 00:00:00.000000"
    return (_EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%d %H:%M:%S.%f")


def time_text(micros: int) -> str:
    """`-838:59:59.000000`: sign, hours, minutes, seconds, six digits."""
    sign = "-" if micros < 0 else ""
    seconds, micro = divmod(abs(micros), 1_000_000)
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{micro:06}"


# ---------------------------------------------------------------- other texts


def uuid_text(value: bytes) -> str:
    """`123e4567-e89b-12d3-a456-426614174000`; the bytes stand in textual order."""
    return str(uuid.UUID(bytes=value))


def inet_text(value: bytes) -> str:
    """An address as MariaDB and PostgreSQL print it: `::ffff:1.2.3.4` where IPv4 is embedded."""
    if len(value) == 4:
        return str(ipaddress.IPv4Address(value))
    words = struct.unpack(">8H", value)
    if not any(words[:5]) and (words[5] == 0xFFFF or (words[5] == 0 and words[6] != 0)):
        prefix = "::ffff:" if words[5] else "::"
        return prefix + str(ipaddress.IPv4Address(value[12:]))
    return str(ipaddress.IPv6Address(value))


def set_labels(bitmap: int, members: Sequence[str], index: int) -> str:
    """The labels of a SET in the order of its definition, joined by commas."""
    if bitmap >> len(members):
        raise ValueRefused(index, f"the SET value {bitmap} has bits beyond its {len(members)} members")
    return ",".join(label for bit, label in enumerate(members) if bitmap >> bit & 1)


# ---------------------------------------------------------------- NUL and JSON

_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def apply_nul_policy(text: str, policies: Policies) -> str:
    """`text` without NUL characters, by policy `replace` or `strip`."""
    return text.replace("\0", "\ufffd" if policies.nul_bytes == "replace" else "")


def json_for_jsonb(text: str, policies: Policies, index: int) -> tuple[str, bool]:
    """JSON text as jsonb takes it; and whether the NUL policy changed it.

    Raises ValueRefused for a lone surrogate, and where two keys of an object would become one.
    """
    if "\\u" not in text and "\0" not in text:
        return text, False
    has_nul = False
    pending = 0  # end of a high surrogate that waits for its other half, or 0

    def replace(match: re.Match[str]) -> str:
        nonlocal has_nul, pending
        if match[1] is None:
            return match[0]
        unit = int(match[1], 16)
        is_low = 0xDC00 <= unit <= 0xDFFF
        if pending and not (is_low and match.start() == pending):
            raise ValueRefused(index, "a JSON string holds a lone surrogate, which jsonb refuses")
        if is_low and not pending:
            raise ValueRefused(index, "a JSON string holds a lone surrogate, which jsonb refuses")
        pending = match.end() if 0xD800 <= unit <= 0xDBFF else 0
        if unit:
            return match[0]
        has_nul = True
        return "\\ufffd" if policies.nul_bytes == "replace" else ""

    changed = _JSON_ESCAPE.sub(replace, text)
    if pending:
        raise ValueRefused(index, "a JSON string holds a lone surrogate, which jsonb refuses")
    if not has_nul:
        return text, False
    if policies.nul_bytes == "error":
        raise ValueRefused(index, "a JSON string holds U+0000, which jsonb refuses", hint=NUL_HINT)
    _refuse_merged_keys(changed, index)
    return changed, True


NUL_HINT = "set policies.nul_bytes, or the table's nul_bytes in tables.overrides, to replace or strip"
DATE_HINT = "set policies.zero_dates, or the table's zero_dates in tables.overrides, to null or infinity"


def _refuse_merged_keys(text: str, index: int) -> None:
    def pairs(items: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in items}) < len(items):
            raise ValueRefused(index, "without its U+0000 two keys of a JSON object would be one")

    json.loads(text, object_pairs_hook=pairs)


# ---------------------------------------------------------------- naming a refused row


def key_text(rows: pa.RecordBatch, target: TargetTable, index: int, *, hidden: Collection[str] = ()) -> str:
    """`id=7, lang='de'` of row `index`, for messages; of a table without a key its first columns.

    Of the `hidden` columns the names alone.
    """
    columns = {column.name: column for column in target.columns}
    names = target.row_key if target.is_numbered else target.key
    if not names:
        return row_text(rows, target, index, hidden=hidden)
    parts = []
    for name in names:
        column = columns[name]
        if name in hidden:
            parts.append(f"{name}=…")
            continue
        value = python_values(column_of(rows, column).slice(index, 1), column.source.kind)[0]
        parts.append(f"{name}={shown(value, column.source.kind)}")
    return ", ".join(parts)


_SHOWN_COLUMNS_MAX = 6


def row_text(rows: pa.RecordBatch, target: TargetTable, index: int, *, hidden: Collection[str] = ()) -> str:
    """The values of row `index` in its first columns, for messages; of the `hidden` ones the names alone."""
    parts = []
    for column in target.columns[:_SHOWN_COLUMNS_MAX]:
        if column.metadata is not None:
            continue
        if column.name in hidden:
            parts.append(f"{column.name}=…")
            continue
        value = python_values(column_of(rows, column).slice(index, 1), column.source.kind)[0]
        parts.append(f"{column.name}={shown(value, column.source.kind)}")
    return ", ".join(parts) + (", …" if len(target.columns) > _SHOWN_COLUMNS_MAX else "")


def shown(value: Any, kind: ValueKind, characters_max: int = _SHOWN_CHARACTERS_MAX) -> str:
    """A value as messages show it: cut, without control characters (EDGE_CASES G4)."""
    match value:
        case None:
            return "NULL"
        case bytes():
            text = uuid_text(value) if kind is ValueKind.UUID and len(value) == 16 else "0x" + value.hex()
        case Decimal():
            text = format(value, "f")
        case str():
            text = repr(value)
        case _:
            text = _SHOWN.get(kind, str)(value)
    return text if len(text) <= characters_max else text[:characters_max] + "…"


_SHOWN: dict[ValueKind, Callable[[Any], str]] = {
    ValueKind.DATE: date_text,
    ValueKind.DATETIME: datetime_text,
    ValueKind.TIMESTAMP: timestamp_text,
    ValueKind.TIME: time_text,
}


def keep_refused_row(error: CdcError, rows: pa.RecordBatch, target: TargetTable, index: int) -> CdcError:
    """`error`, with row `index` as it was to be written: its values, that of the column that it names, its image."""
    if isinstance(error, UnsupportedData):
        row = {column.name: _kept(rows, column, index, _KEPT_CHARACTERS_MAX) for column in target.columns}
        if sum(map(len, row.values())) > _KEPT_ROW_CHARACTERS_MAX:
            row = {column.name: _kept(rows, column, index, _SHOWN_CHARACTERS_MAX) for column in target.columns}
        error.row = row
        named = (column.name for column in target.columns if error.column in (column.name, column.source.name))
        error.value = row.get(next(named, ""))
        error.image = _image(rows, target, index)
    return error


def _image(rows: pa.RecordBatch, target: TargetTable, index: int) -> bytes | None:
    """The row as it was to be written, as Arrow's IPC stream; None where that is too much to be kept."""
    # By the target's columns: what else is in `rows` is not to leave the source.
    values = [column_of(rows, column).slice(index, 1) for column in target.columns]
    row = pa.RecordBatch.from_arrays(values, [column.name for column in target.columns])
    if row.nbytes > _KEPT_IMAGE_BYTES_MAX:
        return None
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, row.schema) as writer:
        writer.write_batch(row)
    image: bytes = out.getvalue().to_pybytes()
    return image if len(image) <= _KEPT_IMAGE_BYTES_MAX else None


def _kept(rows: pa.RecordBatch, column: TargetColumn, index: int, characters_max: int) -> str:
    kind = column.source.kind
    return shown(python_values(column_of(rows, column).slice(index, 1), kind)[0], kind, characters_max)


def refusal(refused: ValueRefused, rows: pa.RecordBatch, target: TargetTable, column: TargetColumn) -> UnsupportedData:
    """The error for a value that an encoder refused."""
    key = key_text(rows, target, refused.index)
    table = str(target.definition.name)
    error = UnsupportedData(
        f"{table}.{column.source.name}: {refused.reason} (row with {key})",
        table=table,
        column=column.source.name,
        key=key,
        hint=refused.hint or f"correct the row at the source, then load the table again: cdc snapshot {table}",
    )
    keep_refused_row(error, rows, target, refused.index)
    return error
