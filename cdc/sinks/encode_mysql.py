"""Arrow columns as SQL literals for MySQL and MariaDB.

One function a kind of value, chosen once per column; each takes the whole column. The literals suppose a session with
backslash escapes whose character set is utf8mb4: in that one no character holds a quote or backslash as a byte, so
escaping is safe (EDGE_CASES G2). Knows no connection.

`load_lines`, `value_text` and `key_pieces` write rows by the compiled encoder (kernel/load_text.pyx), as far as their
values are usual ones: they give the numbers of the rows that are not, which are written by `row_literals` and
`key_literals`. Both write the same literals (tests/unit/sinks/test_kernel_load_text.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

from cdc.model import ColumnDefinition, ValueKind
from cdc.schema.target import SinkKind, TargetColumn, TargetTable
from cdc.sinks.canonical import is_verbatim_json
from cdc.sinks.kernel.load_text import PIECE_BYTES, RowText
from cdc.sinks.sql_mysql import key_columns, key_item, update_row
from cdc.sinks.values import (
    PolicyCounter,
    ValueRefused,
    column_of,
    date_text,
    datetime_text,
    inet_text,
    python_values,
    refusal,
    set_labels,
    time_text,
    timestamp_text,
    uuid_text,
)

__all__ = [
    "Cell",
    "LoadLines",
    "RowPieces",
    "encode_column",
    "error_members",
    "key_literals",
    "key_pieces",
    "load_lines",
    "row_literals",
    "text_literal",
    "update_statements",
    "value_text",
]

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\0": "\\0", "\x1a": "\\Z"})
# A number of at most 15 digits is as good as a double; longer ones are looked at.
_MAY_BE_INEXACT = re.compile(r"\d[\d.]{15}|[eE][+-]?\d{3}")
# Written while the server reads the last one, within a core's cache.
LOAD_PIECE_BYTES = 256 << 10
_DECIMAL_DIGITS_MAX = 65
_DECIMAL_SCALE_MAX = 30


@dataclass(frozen=True, slots=True)
class Cell:
    """What the compiled encoder wants to know of a column.

    `is_parsed`: JSON whose numbers MySQL reads; `is_raw`: UUID and INET as bytes; `is_left`: nothing of it is written
    there; `leaves_zero`: nor the error value of an ENUM, nor a DOUBLE's -0.
    """

    source: ColumnDefinition
    is_parsed: bool
    is_raw: bool
    is_left: bool
    leaves_zero: bool


@dataclass(frozen=True, slots=True)
class RowPieces:
    """Rows as text, in pieces of whole rows with how many each holds; and the numbers of the rows that are not there.

    A piece of literals ends in a comma.
    """

    pieces: tuple[tuple[memoryview, int], ...]
    left: pa.Int32Array

    @property
    def row_count(self) -> int:
        return sum(count for _, count in self.pieces)


class LoadLines:
    """Rows as the lines of `sql_mysql.load_data`, written while they are sent: the server reads one piece while the
    next one is made, and no more than one is in memory. Iterate once; what is said of the rows is true afterwards.
    """

    def __init__(self, text: RowText) -> None:
        self._text = text
        self._next = text.next_piece()
        self.row_count = 0
        """How many lines there have been."""

    @property
    def is_over(self) -> bool:
        """Is there no line to come?"""
        return self._next is None

    def __iter__(self) -> Iterator[memoryview]:
        while self._next is not None:
            block, count = self._next
            self.row_count += count
            yield memoryview(block)
            del block
            self._next = self._text.next_piece()

    def take_left(self) -> pa.Int32Array:
        """The numbers of the rows that are not among the lines."""
        return self._text.take_left()


def load_lines(
    rows: pa.RecordBatch,
    columns: Sequence[TargetColumn],
    kind: SinkKind,
    selection: pa.Int32Array | None = None,
    *,
    row_bytes_max: int,
    keeps_negative_zero: bool,
) -> LoadLines:
    """The selected rows (None: all of them)."""
    cells = [_cell(column, kind, "load", keeps_negative_zero=keeps_negative_zero) for column in columns]
    return LoadLines(
        RowText(
            list(zip(cells, [column_of(rows, column) for column in columns], strict=True)),
            selection,
            form="load",
            piece_bytes=min(LOAD_PIECE_BYTES, row_bytes_max),
            row_bytes_max=row_bytes_max,
            has_odd_zero=kind == "mariadb",
        )
    )


def value_text(
    rows: pa.RecordBatch,
    columns: Sequence[TargetColumn],
    kind: SinkKind,
    selection: pa.Int32Array | None = None,
    *,
    bytes_max: int,
    keeps_negative_zero: bool,
) -> RowPieces:
    """The selected rows as `(1,'a'),(2,NULL),`, as `row_literals` writes each. No piece has more than `bytes_max`."""
    cells = [_cell(column, kind, "values", keeps_negative_zero=keeps_negative_zero) for column in columns]
    has_odd_zero = kind == "mariadb"
    return _pieces(rows, columns, cells, selection, form="values", row_bytes_max=bytes_max, has_odd_zero=has_odd_zero)


def key_pieces(
    rows: pa.RecordBatch,
    target: TargetTable,
    kind: SinkKind,
    selection: pa.Int32Array | None = None,
    *,
    bytes_max: int,
    rows_max: int,
) -> RowPieces:
    """The selected rows' keys, of one column, as `1,2,`: each as `key_literals` writes it."""
    columns = key_columns(target)
    cells = [_cell(column, kind, "keys", keeps_negative_zero=True) for column in columns]
    return _pieces(rows, columns, cells, selection, form="keys", row_bytes_max=bytes_max, rows_max=rows_max)


def _cell(
    column: TargetColumn, kind: SinkKind, form: Literal["load", "values", "keys"], *, keeps_negative_zero: bool
) -> Cell:
    source = column.source
    is_lost_zero = source.kind is ValueKind.DOUBLE and not keeps_negative_zero
    return Cell(
        source=source,
        is_parsed=source.kind is ValueKind.JSON and not is_verbatim_json(column),
        is_raw=form == "load" and kind == "mariadb",
        is_left=form == "keys" and source.kind is ValueKind.SET,
        leaves_zero=form != "keys" and (source.kind is ValueKind.ENUM or is_lost_zero),
    )


def _pieces(
    rows: pa.RecordBatch,
    columns: Sequence[TargetColumn],
    cells: Sequence[Cell],
    selection: pa.Int32Array | None,
    *,
    form: Literal["values", "keys"],
    row_bytes_max: int,
    rows_max: int = 1 << 31,
    has_odd_zero: bool = False,
) -> RowPieces:
    arrays = [column_of(rows, column) for column in columns]
    text = RowText(
        list(zip(cells, arrays, strict=True)),
        selection,
        form=form,
        piece_bytes=min(PIECE_BYTES, row_bytes_max),
        piece_rows_max=rows_max,
        row_bytes_max=row_bytes_max,
        has_odd_zero=has_odd_zero,
    )
    pieces = []
    while (piece := text.next_piece()) is not None:
        block, count = piece
        pieces.append((memoryview(block), count))
    return RowPieces(tuple(pieces), text.take_left())


def row_literals(
    rows: pa.RecordBatch, target: TargetTable, kind: SinkKind, counter: PolicyCounter, *, keeps_negative_zero: bool
) -> list[bytes]:
    """`(1, 'a', NULL)` for each row, as sent.

    Raises UnsupportedData with table, column and key for a value that the sink cannot take.
    """
    encoded = _columns(rows, target, target.columns, kind, counter, keeps_negative_zero=keeps_negative_zero)
    return [f"({','.join(row)})".encode("utf-8", "surrogateescape") for row in zip(*encoded, strict=True)]


def update_statements(
    rows: pa.RecordBatch,
    target: TargetTable,
    columns: Sequence[TargetColumn],
    kind: SinkKind,
    counter: PolicyCounter,
    *,
    keeps_negative_zero: bool,
) -> list[bytes]:
    """An UPDATE of those columns for each row. Raises as `row_literals`."""
    values = _columns(rows, target, columns, kind, counter, keeps_negative_zero=keeps_negative_zero)
    keys = _columns(rows, target, key_columns(target), kind, PolicyCounter(), is_compared=True)
    pairs = zip(zip(*values, strict=True), zip(*keys, strict=True), strict=True)
    statements = (update_row(target, columns, row, key_item(target, key)) for row, key in pairs)
    return [statement.encode("utf-8", "surrogateescape") for statement in statements]


def key_literals(rows: pa.RecordBatch, target: TargetTable, kind: SinkKind) -> list[bytes]:
    """Each row's key as `sql_mysql.key_condition` wants it."""
    columns = key_columns(target)
    encoded = _columns(rows, target, columns, kind, PolicyCounter(), is_compared=True)
    return [key_item(target, row).encode("utf-8", "surrogateescape") for row in zip(*encoded, strict=True)]


def _columns(
    rows: pa.RecordBatch,
    target: TargetTable,
    columns: Sequence[TargetColumn],
    kind: SinkKind,
    counter: PolicyCounter,
    *,
    is_compared: bool = False,
    keeps_negative_zero: bool = True,
) -> list[list[str]]:
    encoded = []
    for column in columns:
        array = column_of(rows, column)
        try:
            if column.source.kind is ValueKind.DOUBLE and not keeps_negative_zero:
                _count_negative_zeros(array, column, counter)
            encoded.append(encode_column(array, column, kind, is_compared=is_compared))
        except ValueRefused as refused:
            raise refusal(refused, rows, target, column) from refused
    return encoded


def encode_column(array: pa.Array, column: TargetColumn, kind: SinkKind, *, is_compared: bool = False) -> list[str]:
    """Each value's literal, `NULL` for NULL; `is_compared` for one that stands in a condition on a key.

    Raises ValueRefused with the index of the first row that cannot be written.
    """
    values = python_values(array, column.source.kind)
    if is_compared and None in values:
        raise ValueRefused(values.index(None), "the key is NULL")
    encoder = _encoder(column, kind, is_compared=is_compared)
    return ["NULL" if value is None else encoder(value, index) for index, value in enumerate(values)]


def error_members(rows: pa.RecordBatch, columns: Sequence[TargetColumn]) -> dict[int, list[str]]:
    """Row number to the ENUM columns that hold the error value there (index 0), which strict mode refuses."""
    found: dict[int, list[str]] = {}
    for column in columns:
        if column.source.kind is ValueKind.ENUM:
            for index, value in enumerate(column_of(rows, column).to_pylist()):
                if value == 0:
                    found.setdefault(index, []).append(column.name)
    return found


def _count_negative_zeros(array: pa.Array, column: TargetColumn, counter: PolicyCounter) -> None:
    """MariaDB 10 stores -0 in a DOUBLE as 0: the same number, but not the same bits."""
    for value in array.to_pylist():
        if value == 0 and math.copysign(1, value) < 0:
            counter.add(column, "negative_zero")


# ---------------------------------------------------------------- one value

Encoder = Callable[[Any, int], str]


def _encoder(column: TargetColumn, kind: SinkKind, *, is_compared: bool) -> Encoder:
    source = column.source.kind
    if source is ValueKind.FLOAT and kind == "mariadb" and not is_compared:
        return _mariadb_float
    if source is ValueKind.JSON and not is_verbatim_json(column):
        return _json
    if source is ValueKind.ENUM:
        count = len(column.source.members)
        return lambda value, index: _bounded(value, index, count, f"the ENUM index {value} is beyond {count} members")
    if source is ValueKind.SET and is_compared:
        # As a number, a SET of 64 members whose last one is in compares as a negative one.
        members = column.source.members
        return lambda value, index: text_literal(set_labels(value, members, index))
    if source is ValueKind.SET:
        count = len(column.source.members)
        limit = (1 << count) - 1
        return lambda value, index: _bounded(value, index, limit, f"the SET value {value} is beyond {count} members")
    return _ENCODERS[source]


def _bounded(value: int, index: int, limit: int, reason: str) -> str:
    if value > limit:
        raise ValueRefused(index, reason)
    return str(value)


def text_literal(value: str) -> str:
    """A quoted text."""
    return f"'{value.translate(_ESCAPES)}'"


def _text(value: str, _index: int) -> str:
    return text_literal(value)


def _double(value: float, index: int) -> str:
    """With an exponent, which makes it a double: 0.1 would be a DECIMAL."""
    if not math.isfinite(value):
        raise ValueRefused(index, f"the value {value} is no number that MySQL or MariaDB can store")
    text = repr(value)
    return text if "e" in text else f"{text}e0"


def _mariadb_float(value: float, index: int) -> str:
    """MariaDB 10 stores -0 as 0, but a negative number too small for a FLOAT as -0."""
    if value == 0 and math.copysign(1, value) < 0:
        return "-1e-300"
    return _double(value, index)


def _hex(value: bytes, _index: int) -> str:
    return f"x'{value.hex()}'"


def _json(value: str, index: int) -> str:
    """JSON for a JSON column of MySQL, whose parser makes every number that is no integer a double.

    A document with numbers that a double cannot hold (DECIMALs at the source) is put together by functions instead.
    """
    if not _MAY_BE_INEXACT.search(value):
        return text_literal(value)
    is_exact = True

    def check_number(text: str) -> None:
        nonlocal is_exact
        is_exact = is_exact and _is_double(text)

    def check_integer(text: str) -> None:
        nonlocal is_exact
        is_exact = is_exact and (len(text) < 19 or -(1 << 63) <= int(text) < 1 << 64 or _is_double(text))

    try:
        json.loads(value, parse_float=check_number, parse_int=check_integer)
    except ValueError:
        return text_literal(value)  # the server says what is wrong with it
    if is_exact:
        return text_literal(value)
    return _json_expression(json.loads(value, parse_float=Decimal, parse_int=Decimal), index)


def _is_double(text: str) -> bool:
    value = float(text)
    return math.isfinite(value) and Decimal(text) == Decimal(repr(value))


def _json_expression(value: Any, index: int) -> str:
    match value:
        case Decimal():
            return _json_number(value, index)
        case dict():
            pairs = (f"{text_literal(name)}, {_json_expression(item, index)}" for name, item in value.items())
            return f"JSON_OBJECT({', '.join(pairs)})"
        case list():
            return f"JSON_ARRAY({', '.join(_json_expression(item, index) for item in value)})"
        case _:
            return f"CAST({text_literal(json.dumps(value, ensure_ascii=False))} AS JSON)"


def _json_number(number: Decimal, index: int) -> str:
    text = format(number, "f")
    scale = len(text.partition(".")[2])
    digits = len(text.lstrip("-").replace(".", ""))
    if (scale == 0 and -(1 << 63) <= number < 1 << 64) or _is_double(str(number)):
        return f"CAST('{number}' AS JSON)"
    if digits > _DECIMAL_DIGITS_MAX or scale > _DECIMAL_SCALE_MAX:
        raise ValueRefused(index, f"the JSON number {number} has more digits than MySQL holds")
    # A document at the top, or a member of one, has to be JSON itself.
    return f"JSON_EXTRACT(JSON_ARRAY(CAST('{text}' AS DECIMAL({digits},{scale}))), '$[0]')"


def _quoted(to_text: Callable[[Any], str]) -> Encoder:
    """A literal of digits and punctuation only, in quotes."""
    return lambda value, _index: f"'{to_text(value)}'"


def _number(value: Any, _index: int) -> str:
    return str(value)


def _decimal(value: Decimal, _index: int) -> str:
    return format(value, "f")


_ENCODERS: dict[ValueKind, Encoder] = {
    ValueKind.INTEGER: _number,
    ValueKind.DECIMAL: _decimal,
    ValueKind.FLOAT: _double,
    ValueKind.DOUBLE: _double,
    ValueKind.BIT: _number,
    ValueKind.YEAR: _number,
    ValueKind.DATE: _quoted(date_text),
    ValueKind.DATETIME: _quoted(datetime_text),
    ValueKind.TIMESTAMP: _quoted(timestamp_text),
    ValueKind.TIME: _quoted(time_text),
    ValueKind.TEXT: _text,
    ValueKind.BINARY: _hex,
    ValueKind.BLOB: _hex,
    ValueKind.JSON: _text,
    ValueKind.GEOMETRY: _hex,
    ValueKind.VECTOR: _hex,
    ValueKind.UUID: _quoted(uuid_text),
    ValueKind.INET4: _quoted(inet_text),
    ValueKind.INET6: _quoted(inet_text),
}
