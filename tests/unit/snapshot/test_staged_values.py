"""Every kind of value through every kind of file, to the last bit."""

from __future__ import annotations

import decimal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from snapshot.chunks import Chunk, KeyRange
from snapshot.staged_file import Compression, check_whole, read_rows, write_chunk
from tests.support.row_batches import bits

_FLOATS = ["00000000", "00000080", "0100807f", "0000c07f", "ffffffff", "00007f7f", "01000000", "0000807f", "000080ff"]
_DOUBLES = ["0000000000000080", "010000000000f07f", "ffffffffffffffff", "0100000000000000", "000000000000f0ff"]


def _integers(kind: ValueKind, width: int, *, is_unsigned: bool) -> ColumnDefinition:
    return ColumnDefinition("c", kind, "", length=width, is_unsigned=is_unsigned)


def _decimal(precision: int, scale: int) -> ColumnDefinition:
    return ColumnDefinition("c", ValueKind.DECIMAL, "", precision=precision, scale=scale)


def _digits(precision: int, scale: int) -> list[Any]:
    unit = decimal.Decimal(1).scaleb(-scale)
    with decimal.localcontext(prec=80):
        most = (decimal.Decimal(10) ** precision - 1) * unit
        return [most, -most, decimal.Decimal(0), unit, -unit, None]


_WIDE = 9 << 20
_INTEGERS = [(width, unsigned) for width in (8, 16, 24, 32, 64) for unsigned in (False, True)]
_DECIMALS = [(1, 0), (1, 1), (18, 9), (19, 0), (38, 0), (38, 38), (39, 0), (65, 0), (65, 30), (65, 38)]
_TEXTS = ["", "\0", "a\0b", "é߀😀\U0010ffff", "﻿", " x ", "NULL", "x" * _WIDE, None]
_BYTES = [b"", b"\0", bytes(range(256)), b"\xff\xfe", b"x" * _WIDE, None]


def _cases() -> dict[str, tuple[ColumnDefinition, list[Any]]]:
    cases: dict[str, tuple[ColumnDefinition, list[Any]]] = {}
    for width, unsigned in _INTEGERS:
        column = _integers(ValueKind.INTEGER, width, is_unsigned=unsigned)
        bits_held = 32 if width == 24 else width
        edges = [0, 2**bits_held - 1] if unsigned else [-(2 ** (bits_held - 1)), -1, 0, 2 ** (bits_held - 1) - 1]
        cases[f"integer{width}{'u' * unsigned}"] = column, [*edges, None]
    for precision, scale in _DECIMALS:
        cases[f"decimal{precision}.{scale}"] = _decimal(precision, scale), _digits(precision, scale)
    for kind in (ValueKind.TEXT, ValueKind.JSON):
        cases[kind.value] = ColumnDefinition("c", kind, ""), _TEXTS
    for kind in ValueKind:
        if kind.value not in cases and ColumnDefinition("c", kind, "", length=8, precision=1).arrow_type == (
            pa.large_binary()
        ):
            cases[kind.value] = ColumnDefinition("c", kind, ""), _BYTES
    for kind in (ValueKind.BIT, ValueKind.SET):
        cases[kind.value] = ColumnDefinition("c", kind, ""), [0, 1, 2**63, 2**64 - 1, None]
    for kind in (ValueKind.YEAR, ValueKind.ENUM):
        cases[kind.value] = ColumnDefinition("c", kind, ""), [0, 1, 2155, 2**16 - 1, None]
    cases["date"] = ColumnDefinition("c", ValueKind.DATE, ""), [0, 31, (9999 << 9) | (12 << 5) | 31, None]
    for kind in (ValueKind.DATETIME, ValueKind.TIME):
        cases[kind.value] = ColumnDefinition("c", kind, ""), [0, -1, -(2**63), 2**63 - 1, 3_020_399_999_999, None]
    cases["timestamp"] = ColumnDefinition("c", ValueKind.TIMESTAMP, ""), [0, 1, 2**31 * 10**6 - 1, None]
    cases["float"] = ColumnDefinition("c", ValueKind.FLOAT, ""), [*map(bytes.fromhex, _FLOATS), None]
    cases["double"] = ColumnDefinition("c", ValueKind.DOUBLE, ""), [*map(bytes.fromhex, _DOUBLES), None]
    return cases


CASES = _cases()


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_floating(kind):
        return pa.array(values, kind)
    width = kind.bit_width // 8
    numbers = [None if value is None else int.from_bytes(value, "little") for value in values]
    unsigned = pa.array(numbers, pa.uint32() if width == struct.calcsize("f") else pa.uint64())
    return unsigned.view(kind)


def _through_a_file(directory: Path, column: ColumnDefinition, arrays: list[pa.Array], compression: Any) -> None:
    definition = TableDefinition(TableName("d", "t"), (column,))
    schema = definition.arrow_schema
    batches = [pa.record_batch([array], schema=schema) for array in arrays]
    staged = write_chunk(
        directory,
        Chunk(1, KeyRange()),
        iter(batches),
        schema=schema,
        head={},
        compression=compression,
        on_size=lambda _size: None,
    )
    check_whole(staged)
    found = list(read_rows(staged, schema))
    assert len(found) == len([batch for batch in batches if batch.num_rows])
    for before, after in zip(batches, found, strict=True):
        after.validate(full=True)
        assert after.schema == schema
        assert after.column(0).null_count == before.column(0).null_count
        assert bits(after.column(0)).equals(bits(before.column(0)))


def test_every_kind_of_value_is_a_case() -> None:
    kinds = {column.kind for column, _ in CASES.values()}
    assert kinds == set(ValueKind)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("compression", get_args(Compression))
def test_every_kind_of_value_comes_back_as_it_was(tmp_path: Path, case: str, compression: str) -> None:
    column, values = CASES[case]
    kind = column.arrow_type
    arrays = [_array(values, kind), _array([None] * 3, kind), _array([v for v in values if v is not None], kind)]
    arrays.append(_array(values, kind).slice(1, 2))  # a part of a larger array
    _through_a_file(tmp_path, column, arrays, compression)


_NUMBERS: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "double": lambda: st.binary(min_size=8, max_size=8),
    "integer64u": lambda: st.integers(0, 2**64 - 1),
    "decimal65.30": lambda: st.integers(-(10**65) + 1, 10**65 - 1).map(
        lambda n: decimal.Decimal(n).scaleb(-30, decimal.Context(prec=80))
    ),
    "text": lambda: st.text(st.characters(exclude_categories=["Cs"])),
    "blob": st.binary,
}


@pytest.mark.parametrize("case", _NUMBERS)
def test_whatever_the_values_are(tmp_path_factory: pytest.TempPathFactory, case: str) -> None:
    column = CASES[case][0]
    directory = tmp_path_factory.mktemp(case.replace(".", "_"))

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | _NUMBERS[case](), min_size=1, max_size=50))
    def check(values: list[Any]) -> None:
        _through_a_file(directory, column, [_array(values, column.arrow_type)], "zstd")

    check()
