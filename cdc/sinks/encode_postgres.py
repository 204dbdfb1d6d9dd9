r"""Arrow columns as the text format of PostgreSQL's COPY.

In COPY text a field is the value's own text with backslash, tab, newline and carriage return escaped, and NULL is `\N`.
`copy_text` writes rows by the compiled encoder (kernel/copy_text.pyx), which leaves every value that is not a usual one
to the functions here: one a kind of value, chosen once per column. They also say what all texts are: `encode_column`
takes any value, and both give the same (tests/unit/sinks/test_kernel_copy_text.py). Knows no connection.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from cdc.errors import InvariantBroken
from cdc.model import ValueKind
from cdc.schema.target import Policies, TargetColumn, TargetTable
from cdc.sinks.kernel.copy_text import CopyLines
from cdc.sinks.values import (
    DATE_HINT,
    NUL_HINT,
    PolicyCounter,
    ValueRefused,
    apply_nul_policy,
    column_of,
    date_parts,
    date_text,
    datetime_parts,
    datetime_text,
    inet_text,
    is_calendar_date,
    json_for_jsonb,
    python_values,
    refusal,
    set_labels,
    time_text,
    timestamp_text,
    uuid_text,
)

__all__ = ["CopyReader", "CopyText", "copy_pieces", "copy_text", "encode_column", "float_text", "plain_values"]

_COPY_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# Kinds whose text holds none of the characters that COPY escapes.
_NEEDS_ESCAPE = frozenset(
    {ValueKind.TEXT, ValueKind.JSON, ValueKind.ENUM, ValueKind.SET, ValueKind.BINARY, ValueKind.BLOB}
    | {ValueKind.GEOMETRY}
)


@dataclass(frozen=True, slots=True)
class CopyText:
    """Rows as COPY text: pieces of whole lines, one line a row, and how many lines each holds."""

    pieces: tuple[tuple[memoryview, int], ...]

    @property
    def row_count(self) -> int:
        return sum(count for _, count in self.pieces)

    def reader(self) -> CopyReader:
        """The text from its begin, for psycopg2's copy_expert."""
        return CopyReader(piece for piece, _ in self.pieces)

    def __bytes__(self) -> bytes:
        return b"".join(piece for piece, _ in self.pieces)


class CopyReader:
    """What of a file psycopg2's copy_expert asks for. A piece is made when it is asked for, so that the server reads
    one while the next is made; it goes out as it is, or in parts where it is larger than asked for.
    """

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest: memoryview | None = None
        self.error: BaseException | None = None
        """What making a piece has raised: the driver turns it into an error of the server, and says no more of it."""

    def read(self, size: int, /) -> bytes:
        """At most `size` > 0 bytes, none at the end."""
        piece = self._rest
        if piece is None:
            try:
                piece = next(self._pieces, None)
            except BaseException as error:
                self.error = error
                raise
            if piece is None:
                return b""
        self._rest = piece[size:] if len(piece) > size else None
        return bytes(piece[:size])


def copy_text(
    rows: pa.RecordBatch,
    target: TargetTable,
    columns: Sequence[TargetColumn],
    counter: PolicyCounter,
    selection: pa.Int32Array | None = None,
) -> CopyText:
    """All of `copy_pieces` at once."""
    return CopyText(tuple(copy_pieces(rows, target, columns, counter, selection)))


def copy_pieces(
    rows: pa.RecordBatch,
    target: TargetTable,
    columns: Sequence[TargetColumn],
    counter: PolicyCounter,
    selection: pa.Int32Array | None = None,
) -> Iterator[tuple[memoryview, int]]:
    """The rows of that selection (None: all of them) as COPY text for those columns, one line a row: pieces of whole
    lines, and how many lines each holds, made as they are asked for.

    Raises UnsupportedData with table, column and key for a value that neither the sink nor a policy takes.
    """
    arrays = [column_of(rows, column) for column in columns]
    lines = CopyLines(list(zip(columns, arrays, strict=True)), selection)
    has_given = is_written = False
    while not is_written:
        is_written = lines.write(1)
        if lines.is_left:
            if has_given:
                raise InvariantBroken(f"{target.definition.name}: a value is neither written nor left")
            has_given = True
            for index, (column, array) in enumerate(zip(columns, arrays, strict=True)):
                left = lines.left(index)
                if not len(left):
                    continue
                try:
                    texts = encode_column(array.take(left), column, target.policies, counter)
                except ValueRefused as refused:
                    refused.index = left[refused.index].as_py()
                    raise refusal(refused, rows, target, column) from refused
                lines.give(index, pa.array(texts, pa.large_string()))
        else:
            for block, count in lines.take():
                yield memoryview(block), count


def encode_column(
    array: pa.Array, column: TargetColumn, policies: Policies, counter: PolicyCounter
) -> list[str | None]:
    """Each value's COPY text, None for NULL.

    Raises ValueRefused with the index of the first row that cannot be written.
    """
    values = plain_values(array, column, policies, counter)
    if column.source.kind in _NEEDS_ESCAPE:
        return [None if value is None else value.translate(_COPY_ESCAPES) for value in values]
    return values


def plain_values(array: pa.Array, column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
    """Each value's text as PostgreSQL's input function takes it, with the policies applied; None for NULL."""
    encoder = _ENCODERS[column.source.kind]
    values = python_values(array, column.source.kind)
    return encoder(values, column, column.policies or policies, counter)


Encoder = Callable[[list[Any], TargetColumn, Policies, PolicyCounter], list[str | None]]


def _each(to_text: Callable[[Any], str]) -> Encoder:
    """An encoder that needs nothing but the value."""

    def encode(
        values: list[Any], _column: TargetColumn, _policies: Policies, _counter: PolicyCounter
    ) -> list[str | None]:
        return [None if value is None else to_text(value) for value in values]

    return encode


def float_text(value: float) -> str:
    """The shortest decimal that is this double. A float32 widened to one reads back as the same float32."""
    return repr(value)


def _floats(values: list[Any], _column: TargetColumn, _policies: Policies, _counter: PolicyCounter) -> list[str | None]:
    for index, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            raise ValueRefused(index, f"the value {value} is no number that MySQL or MariaDB can store")
    return [None if value is None else float_text(value) for value in values]


def _bits(values: list[Any], column: TargetColumn, _policies: Policies, _counter: PolicyCounter) -> list[str | None]:
    length = column.source.length
    for index, value in enumerate(values):
        if value is not None and value >> length:
            raise ValueRefused(index, f"the value {value} has more than {length} bits")
    return [None if value is None else f"{value:0{length}b}" for value in values]


def _dates(parts: Callable[[int], tuple[int, ...]], to_text: Callable[[int], str]) -> Encoder:
    """DATE and DATETIME: what no calendar has goes by the policy `zero_dates`."""

    def encode(values: list[Any], column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
        encoded: list[str | None] = []
        for index, value in enumerate(values):
            if value is None:
                encoded.append(None)
                continue
            year, month, day, *_ = parts(value)
            is_real = is_calendar_date(year, month, day)
            encoded.append(to_text(value) if is_real else _zero_date(to_text(value), index, column, policies, counter))
        return encoded

    return encode


def _zero_date(text: str, index: int, column: TargetColumn, policies: Policies, counter: PolicyCounter) -> str | None:
    if column.is_key:
        raise ValueRefused(index, f"PostgreSQL has no date {text}, and no policy changes a key column")
    if policies.zero_dates == "error":
        raise ValueRefused(index, f"PostgreSQL has no date {text}", hint=DATE_HINT)
    counter.add(column, "zero_dates")
    return "infinity" if policies.zero_dates == "infinity" else None


def _timestamps(
    values: list[Any], column: TargetColumn, policies: Policies, counter: PolicyCounter
) -> list[str | None]:
    encoded: list[str | None] = []
    for index, value in enumerate(values):
        if value is None:
            encoded.append(None)
        elif value == 0:
            encoded.append(_zero_date(timestamp_text(value), index, column, policies, counter))
        else:
            encoded.append(timestamp_text(value) + "+00")
    return encoded


def _texts(values: list[Any], column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
    for index, value in enumerate(values):
        if value is None:
            continue
        if not value.isascii():
            _refuse_surrogates(value, index)
        if "\0" in value:
            values[index] = _without_nul(value, index, column, policies, counter)
    return values


def _refuse_surrogates(value: str, index: int) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueRefused(index, "the text is not valid UTF-8, and PostgreSQL holds nothing else") from None


def _without_nul(value: str, index: int, column: TargetColumn, policies: Policies, counter: PolicyCounter) -> str:
    if column.is_key:
        raise ValueRefused(index, "the text holds U+0000, which PostgreSQL refuses, and no policy changes a key column")
    if policies.nul_bytes == "error":
        raise ValueRefused(index, "the text holds U+0000, which PostgreSQL refuses", hint=NUL_HINT)
    counter.add(column, "nul_bytes")
    return apply_nul_policy(value, policies)


def _enums(values: list[Any], column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
    labels = ("", *column.source.members)
    for index, value in enumerate(values):
        if value is not None and value >= len(labels):
            raise ValueRefused(index, f"the ENUM index {value} is beyond its {len(labels) - 1} members")
    return _texts([None if value is None else labels[value] for value in values], column, policies, counter)


def _sets(values: list[Any], column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
    members = column.source.members
    labels = [None if value is None else set_labels(value, members, index) for index, value in enumerate(values)]
    return _texts(labels, column, policies, counter)


def _json(values: list[Any], column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
    if column.sql_type != "jsonb":  # json keeps its text, escapes included
        return _texts(values, column, policies, counter)
    for index, value in enumerate(values):
        if value is None:
            continue
        if not value.isascii():
            _refuse_surrogates(value, index)
        values[index], is_changed = json_for_jsonb(value, policies, index)
        if is_changed:
            counter.add(column, "nul_bytes")
    return values


def _geometries(
    values: list[Any], column: TargetColumn, _policies: Policies, counter: PolicyCounter
) -> list[str | None]:
    """WKB: the four bytes of the SRID go; those other than 0 are counted. PostGIS takes them with it, as EWKB."""
    if column.sql_type == "geometry":
        return [None if value is None else _ewkb_text(value) for value in values]
    encoded: list[str | None] = []
    for value in values:
        if value is None:
            encoded.append(None)
            continue
        if any(value[:4]):
            counter.add(column, "srid")
        encoded.append("\\x" + value[4:].hex())
    return encoded


_EWKB_HAS_SRID = 0x20000000


def _ewkb_text(value: bytes) -> str:
    """`SRID, byte order, type, rest`, all little-endian, as the hexadecimal `byte order, type | flag, SRID, rest`."""
    srid, wkb = value[:4], value[4:]
    if not any(srid):
        return wkb.hex()
    (kind,) = struct.unpack_from("<I", wkb, 1)
    return (wkb[:1] + struct.pack("<I", kind | _EWKB_HAS_SRID) + srid + wkb[5:]).hex()


def _vector_text(value: bytes) -> str:
    return "{" + ",".join(map(_element_text, struct.unpack(f"<{len(value) // 4}f", value))) + "}"


def _element_text(value: float) -> str:
    if math.isfinite(value):
        return float_text(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


def _bytea_text(value: bytes) -> str:
    return "\\x" + value.hex()


_ENCODERS: dict[ValueKind, Encoder] = {
    ValueKind.INTEGER: _each(str),
    ValueKind.DECIMAL: _each(_decimal_text),
    ValueKind.FLOAT: _floats,
    ValueKind.DOUBLE: _floats,
    ValueKind.BIT: _bits,
    ValueKind.YEAR: _each(str),
    ValueKind.DATE: _dates(date_parts, date_text),
    ValueKind.DATETIME: _dates(datetime_parts, datetime_text),
    ValueKind.TIMESTAMP: _timestamps,
    ValueKind.TIME: _each(time_text),
    ValueKind.TEXT: _texts,
    ValueKind.BINARY: _each(_bytea_text),
    ValueKind.BLOB: _each(_bytea_text),
    ValueKind.ENUM: _enums,
    ValueKind.SET: _sets,
    ValueKind.JSON: _json,
    ValueKind.GEOMETRY: _geometries,
    ValueKind.VECTOR: _each(_vector_text),
    ValueKind.UUID: _each(uuid_text),
    ValueKind.INET4: _each(inet_text),
    ValueKind.INET6: _each(inet_text),
}
