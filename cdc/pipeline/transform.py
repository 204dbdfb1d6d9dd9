"""What the options of a table make of its rows on their way to the sink: Arrow in, Arrow out.

Stands between decoding and the sink, for loads, for the stream and for the comparison alike, so that a row comes out
the same whichever way it came. Columns are replaced in place: a batch keeps the columns of its definition, of which
the sink takes those that the target names.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, PartialUpdate, RowBatch, ValueKind
from cdc.schema.target import Masking, TargetColumn, TargetTable
from cdc.sinks.values import (
    ValueRefused,
    date_text,
    datetime_text,
    inet_text,
    key_text,
    python_values,
    set_labels,
    time_text,
    timestamp_text,
    uuid_text,
)

__all__ = ["transformed_change", "transformed_rows"]


def transformed_rows(rows: pa.RecordBatch, target: TargetTable) -> pa.RecordBatch:
    """Rows of the source as the target takes them. Raises UnsupportedData with column and key."""
    return _masked(rows, target, None)


def transformed_change(change: ChangeBatch, target: TargetTable) -> ChangeBatch:
    """A change as the target takes it; of its images only the values that are upserted are worked out."""
    masked = [column for column in target.columns if column.masking is not None]
    if masked:
        batches = zip(change.batches, change.upserts, strict=True)
        change = replace(change, batches=tuple(_masked_batch(batch, target, rows) for batch, rows in batches))
    kept = {column.source.name for column in target.columns}
    if all(kept.issuperset(update.columns) for update in change.updates) and not masked:
        return change
    updates = (_transformed_update(update, target, kept) for update in change.updates)
    return replace(change, updates=tuple(update for update in updates if update is not None))


def _masked_batch(batch: RowBatch, target: TargetTable, selection: pa.Int32Array) -> RowBatch:
    return replace(batch, images=_masked(batch.images, target, selection)) if len(selection) else batch


def _transformed_update(update: PartialUpdate, target: TargetTable, kept: set[str]) -> PartialUpdate | None:
    """None where nothing is left to be changed on the sink."""
    columns = tuple(name for name in update.columns if name in kept)
    if not columns and update.old_keys is None:
        return None
    return replace(update, columns=columns, images=_masked(update.images, target, None, only=frozenset(columns)))


def _masked(
    rows: pa.RecordBatch, target: TargetTable, selection: pa.Int32Array | None, *, only: frozenset[str] | None = None
) -> pa.RecordBatch:
    """`rows` with every masked column replaced. What stands outside the selection means nothing, and is NULL."""
    for column in target.columns:
        if column.masking is None or (only is not None and column.source.name not in only):
            continue
        at = rows.schema.get_field_index(column.source.name)
        array = rows.column(at)
        if selection is not None:
            array = array.take(selection)
        original = target.definition.column(column.source.name)
        try:
            values = _MASKS[column.masking.form](array, original, column.masking)
        except ValueRefused as refused:
            index = refused.index if selection is None else selection[refused.index].as_py()
            raise _refusal(refused, rows, target, column, index) from refused
        if selection is not None:
            values = _scattered(values, selection, rows.num_rows)
        rows = rows.set_column(at, pa.field(column.source.name, values.type), values)
    return rows


def _scattered(values: pa.Array, selection: pa.Int32Array, row_count: int) -> pa.Array:
    """An array of `row_count` with `values` at the selected rows, NULL elsewhere."""
    places = pa.nulls(row_count, pa.int32()).to_pylist()
    for place, row in enumerate(selection.to_pylist()):  # row numbers only; the values move in one take
        places[row] = place
    return values.take(pa.array(places, pa.int32()))


def _refusal(
    refused: ValueRefused, rows: pa.RecordBatch, target: TargetTable, column: TargetColumn, index: int
) -> UnsupportedData:
    table, name, key = str(target.definition.name), column.source.name, key_text(rows, target, index)
    return UnsupportedData(
        f"{table}.{name}: {refused.reason} (row with {key})",
        table=table,
        column=name,
        key=key,
        hint=f"mask it with `null` or `text` in tables.overrides, or correct the row; then `cdc snapshot {table}`",
    )


# ---------------------------------------------------------------- masks

Mask = Callable[[pa.Array, ColumnDefinition, Masking], pa.Array]


def _null(array: pa.Array, _column: ColumnDefinition, _masking: Masking) -> pa.Array:
    return pa.nulls(len(array), array.type)


def _text(array: pa.Array, _column: ColumnDefinition, masking: Masking) -> pa.Array:
    text = pa.scalar(masking.text, pa.large_string())
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.large_string()))


def _kept_part(array: pa.Array, _column: ColumnDefinition, masking: Masking) -> pa.Array:
    """The first or last characters; a text of no more than those is hidden whole."""
    _check_utf8(array)
    lengths = pc.utf8_length(array)
    if masking.form == "keep_first":
        part = pc.utf8_slice_codeunits(array, 0, masking.keep)
    else:
        part = pc.utf8_slice_codeunits(array, -masking.keep)
    is_short = pc.less_equal(lengths, masking.keep)
    part = pc.if_else(is_short, pa.scalar("", pa.large_string()), part)
    hidden = pc.if_else(is_short, lengths, pc.subtract(lengths, masking.keep))
    stars = pc.binary_repeat(pa.scalar("*", pa.large_string()), hidden)
    pieces = (part, stars) if masking.form == "keep_first" else (stars, part)
    return pc.binary_join_element_wise(*pieces, pa.scalar("", pa.large_string()))


def _check_utf8(array: pa.Array) -> None:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        values: Sequence[bytes | None] = array.cast(pa.large_binary()).to_pylist()
        index = next(index for index, value in enumerate(values) if not _is_utf8(value or b""))
        raise ValueRefused(index, "the text is not valid UTF-8, so its characters cannot be masked") from None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hash(array: pa.Array, column: ColumnDefinition, masking: Masking) -> pa.Array:
    salt, digest = masking.salt, hmac.digest
    # A call into OpenSSL a value; Arrow has no such function.
    return pa.array(
        [None if value is None else digest(salt, value, "sha256").hex() for value in _bytes_of(array, column)],
        pa.large_string(),
    )


def _bytes_of(array: pa.Array, column: ColumnDefinition) -> list[bytes | None]:
    """What is hashed: the bytes of a binary or text value, else the UTF-8 of the text that the source prints."""
    if column.kind in _AS_BYTES:
        values: list[bytes | None] = array.cast(pa.large_binary()).to_pylist()
        return values
    if column.kind in (ValueKind.ENUM, ValueKind.SET):
        return [
            None if value is None else _label(value, column, index).encode()
            for index, value in enumerate(array.to_pylist())
        ]
    to_text = _TEXTS.get(column.kind, str)
    return [None if value is None else to_text(value).encode() for value in python_values(array, column.kind)]


def _label(value: int, column: ColumnDefinition, index: int) -> str:
    if column.kind is ValueKind.SET:
        return set_labels(value, column.members, index)
    if value > len(column.members):
        raise ValueRefused(index, f"the ENUM index {value} is beyond its {len(column.members)} members")
    return ("", *column.members)[value]


_AS_BYTES = frozenset({ValueKind.TEXT, ValueKind.JSON, ValueKind.BINARY, ValueKind.BLOB})
_TEXTS: dict[ValueKind, Callable[[Any], str]] = {
    ValueKind.DECIMAL: lambda value: format(value, "f"),
    ValueKind.DATE: date_text,
    ValueKind.DATETIME: datetime_text,
    ValueKind.TIMESTAMP: timestamp_text,
    ValueKind.TIME: time_text,
    ValueKind.UUID: uuid_text,
    ValueKind.INET4: inet_text,
    ValueKind.INET6: inet_text,
}
_MASKS: dict[str, Mask] = {
    "null": _null,
    "text": _text,
    "keep_first": _kept_part,
    "keep_last": _kept_part,
    "hash": _hash,
}
