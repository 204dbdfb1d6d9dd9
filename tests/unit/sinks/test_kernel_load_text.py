"""The compiled encoder of LOAD DATA and of literals, and its twin in Python: the same literals, or the row is left.

What each value's literal is, test_encode_mysql.py says, over the twin; here the two are held against each other on
whatever Arrow can hold, and the fields of LOAD DATA against the literals. What servers make of either,
tests/integration/test_mysql_bulk.py shows.
"""

from __future__ import annotations

import gc
import re
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings

from cdc.binlog.kernel import memory
from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ColumnDefinition, Flavor
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks.encode_mysql import (
    LOAD_PIECE_BYTES,
    Cell,
    RowPieces,
    error_members,
    key_literals,
    key_pieces,
    load_lines,
    row_literals,
    value_text,
)
from cdc.sinks.kernel.load_text import RowText
from cdc.sinks.values import PolicyCounter, column_of, python_values
from tests.unit.sinks.builders import (
    HOSTILE_TEXTS,
    ID,
    MARIADB_VALUES,
    MYSQL_VALUES,
    SET64,
    K,
    column,
    date,
    moment,
    rows_of,
    table,
    target_of,
)
from tests.unit.sinks.test_kernel_copy_text import COLUMNS, RandomColumn, RandomRows, random_rows

KINDS: tuple[SinkKind, ...] = ("mysql", "mariadb")
ANY_BYTES = 1 << 40


def text_of(pieces: RowPieces) -> bytes:
    return b"".join(bytes(piece) for piece, _ in pieces.pieces)


def values_of(target: TargetTable, rows: pa.RecordBatch, kind: SinkKind, *more: Any, keeps: bool = False) -> RowPieces:
    return value_text(rows, target.columns, kind, *more, bytes_max=ANY_BYTES, keeps_negative_zero=keeps)


def lines_of(target: TargetTable, rows: pa.RecordBatch, kind: SinkKind, *more: Any, keeps: bool = False) -> RowPieces:
    lines = load_lines(rows, target.columns, kind, *more, row_bytes_max=ANY_BYTES, keeps_negative_zero=keeps)
    pieces = tuple((piece, bytes(piece).count(b"\n")) for piece in lines)
    text = RowPieces(pieces, lines.take_left())
    assert lines.is_over
    assert lines.row_count == text.row_count
    return text


def literal_of(row: pa.RecordBatch, target: TargetTable, kind: SinkKind, *, keeps: bool = False) -> bytes | None:
    """The twin's literals of one row; None where it refuses, counts, or writes other than a plain literal."""
    counter = PolicyCounter()
    try:
        (literal,) = row_literals(row, target, kind, counter, keeps_negative_zero=keeps)
    except (UnsupportedData, OverflowError, ValueError, struct.error):
        return None
    return None if counter.changes or error_members(row, target.columns) else literal


def is_no_value(row: pa.RecordBatch, target: TargetTable) -> bool:
    """Has it a date, time or address that no server sends?"""
    for wanted in target.columns:
        value = python_values(column_of(row, wanted), wanted.source.kind)[0]
        match wanted.source.kind, value:
            case K.DATE, int():
                is_none = value < 0 or value >> 9 > 9999
            case K.DATETIME, int():
                is_none = value < 0 or value & 0xFFFFFF > 999_999 or (value >> 46) // 13 > 9999
            case K.TIMESTAMP, int():
                is_none = not 0 <= value < 253402300800_000_000
            case K.INET6, bytes():
                is_none = len(value) != 16
            case _:
                is_none = False
        if is_none:
            return True
    return False


def is_unusual(row: pa.RecordBatch, target: TargetTable, literal: bytes | None) -> bool:
    """May the kernel leave that row, whose literals those are?"""
    if literal is None or is_no_value(row, target) or b"JSON_" in literal or b"AS JSON" in literal:
        return True
    try:
        literal.decode()
    except UnicodeDecodeError:
        return True
    return re.search(rb"\d[\d.]{15}|[eE][+-]?\d{3}", literal) is not None


def assert_as_the_twin(target: TargetTable, rows: pa.RecordBatch, kind: SinkKind, selection: Any, keeps: bool) -> None:
    chosen = range(rows.num_rows) if selection is None else selection.to_pylist()
    found = values_of(target, rows, kind, selection, keeps=keeps)
    left = found.left.to_pylist()
    written, remaining = [], list(left)
    for index in chosen:
        row = rows.slice(index, 1)
        literal = literal_of(row, target, kind, keeps=keeps)
        if remaining and remaining[0] == index:
            remaining.pop(0)
            assert is_unusual(row, target, literal)
        else:
            assert literal is not None
            written.append(literal + b",")
    assert not remaining
    assert text_of(found) == b"".join(written)
    assert found.row_count == len(written)


@pytest.mark.parametrize("kind", KINDS)
@given(case=random_rows())
def test_any_rows_become_the_twins_literals_or_are_left(kind: SinkKind, case: RandomRows) -> None:
    target = target_of(case.target.definition, kind)
    assert_as_the_twin(target, case.rows, kind, case.selection, keeps=bool(case.rows.num_rows % 2))


@pytest.mark.parametrize("columns", COLUMNS, ids=range(len(COLUMNS)))
def test_any_value_becomes_the_twins_literal_or_is_left(columns: Any) -> None:
    """One value at a time."""

    @settings(max_examples=60)
    @given(columns.flatmap(lambda found: found.values.map(lambda value: (found, value))))
    def encode(drawn: tuple[RandomColumn, Any]) -> None:
        found, value = drawn
        for kind in KINDS:
            target = target_of(table(ID, found.definition, flavor=found.flavor), kind)
            assert_as_the_twin(target, rows_of(target.definition, [(1, value), (2, None)]), kind, None, keeps=False)

    encode()


# ---------------------------------------------------------------- the fields of LOAD DATA

LITERALS = re.compile(rb"NULL|x'[0-9a-f]*'|'(?:[^'\\]|\\.)*'|[^,()]+", re.DOTALL)
UNESCAPED = {b"t": b"\t", b"n": b"\n", b"0": b"\0", b"Z": b"\x1a"}
ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def unescaped(text: bytes) -> bytes:
    return ESCAPED.sub(lambda match: UNESCAPED.get(match[1], match[1]), text)


def fields_of(text: bytes) -> list[list[bytes | None]]:
    """Lines of LOAD DATA as a server reads them."""
    assert text[-1:] in (b"", b"\n")
    lines = text.split(b"\n")[:-1]
    return [[None if field == rb"\N" else unescaped(field) for field in line.split(b"\t")] for line in lines]


def field_of(literal: bytes, definition: ColumnDefinition, kind: SinkKind) -> bytes | None:
    """What LOAD DATA has to read for the value of that literal."""
    if literal == b"NULL":
        return None
    if literal[:1] == b"x":
        return bytes.fromhex(literal[2:-1].decode())
    if definition.kind is K.BIT:
        number = int(literal)
        return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
    if definition.kind is K.YEAR:
        return literal.rjust(4, b"0")
    if definition.kind in (K.FLOAT, K.DOUBLE):
        return repr(float(literal)).encode()
    return unescaped(literal[1:-1]) if literal[:1] == b"'" else literal


VALUES: list[tuple[Flavor, str]] = [("mysql", name) for name in MYSQL_VALUES]
VALUES += [("mariadb", name) for name in MARIADB_VALUES]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flavor,name", VALUES)
def test_a_field_is_the_value_of_its_literal(flavor: Flavor, name: str, kind: SinkKind) -> None:
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    source = table(ID, definition, flavor=flavor)
    target = target_of(source, kind)
    rows = rows_of(source, list(enumerate([*values, None])))

    text = lines_of(target, rows, kind)

    is_raw = kind == "mariadb" and definition.kind in (K.UUID, K.INET4, K.INET6)
    left = set(text.left.to_pylist())
    literals = row_literals(rows, target, kind, PolicyCounter(), keeps_negative_zero=True)
    expected = []
    for index in range(rows.num_rows):
        if index not in left:
            _, literal = LITERALS.findall(literals[index])
            raw = rows.column("c")[index].as_py() if is_raw else field_of(literal, definition, kind)
            expected.append([str(index).encode(), raw])
    found = fields_of(text_of(text))
    if definition.kind in (K.FLOAT, K.DOUBLE):
        found = [[i, None if f is None else repr(float(f)).encode()] for i, f in found]
    assert found == expected
    assert len(found) + len(left) == rows.num_rows


@pytest.mark.parametrize("definition,value", [
    (column("c", K.YEAR, "year"), 5),
    (column("c", K.ENUM, "enum()", members=("a",)), 0),
    (column("c", K.ENUM, "enum()", members=("a",)), 2),
    (column("c", K.SET, "set()", members=("a",)), 2),
    (column("c", K.SET, "set()", members=SET64[:63]), 2**63),
    (column("c", K.DOUBLE, "double"), float("inf")),
    (column("c", K.DOUBLE, "double"), float("nan")),
    (column("c", K.DOUBLE, "double"), -0.0),
    (column("c", K.TEXT, "text"), b"a\xff"),
    (column("c", K.JSON, "json"), "[0.3000000000000000444]"),
    (column("c", K.JSON, "json"), "[1e-100]"),
    (column("c", K.DATE, "date"), date(10000, 1, 1)),
    (column("c", K.DATETIME, "datetime(6)", fraction_digits=6), moment(2024, 1, 1, 0, 0, 0, 1_000_000)),
    (column("c", K.TIMESTAMP, "timestamp(6)", fraction_digits=6), -1),
], ids=repr)  # fmt: skip
def test_an_unusual_value_is_left(definition: ColumnDefinition, value: Any) -> None:
    target = target_of(table(ID, definition), "mysql")
    rows = rows_of(target.definition, [(1, value), (2, None), (3, value)])
    text = lines_of(target, rows, "mysql")
    assert text.left.to_pylist() == [0, 2]
    assert text_of(text) == b"2\t\\N\n"


def test_columns_of_another_type_than_defined_are_left_as_a_whole() -> None:
    target = target_of(table(ID, column("c", K.INTEGER, "int", length=32)), "mysql")
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int32()), pa.array([1, 2], pa.int64())], names=["id", "c"])
    assert lines_of(target, rows, "mysql").left.to_pylist() == [0, 1]


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flavor,name", VALUES)
def test_keys_are_the_twins(flavor: Flavor, name: str, kind: SinkKind) -> None:
    """A NULL, and a SET, is left: the one is refused there, the other compared by its text."""
    definition, values = (MYSQL_VALUES if flavor == "mysql" else MARIADB_VALUES)[name]
    source = table(definition, ID, key=("c",), flavor=flavor)
    try:
        target = target_of(source, kind)
    except UnsupportedData:
        return
    rows = rows_of(source, [(value, 0) for value in [*values, None]])
    text = key_pieces(rows, target, kind, bytes_max=ANY_BYTES, rows_max=3)
    left = text.left.to_pylist()
    assert left[-1] == len(values)
    assert definition.kind is not K.SET or len(left) == rows.num_rows
    kept = [index for index in range(rows.num_rows) if index not in left]
    expected = key_literals(rows.take(pa.array(kept, pa.int32())), target, kind)
    assert text_of(text) == b"".join(literal + b"," for literal in expected)
    assert [count for _, count in text.pieces] == [3] * (len(kept) // 3) + [len(kept) % 3] * (len(kept) % 3 > 0)


# ---------------------------------------------------------------- pieces, selections, memory


def texts(count: int, text: str = "x" * 1000) -> tuple[TargetTable, pa.RecordBatch]:
    source = table(ID, column("c", K.TEXT, "longtext"))
    return target_of(source, "mysql"), rows_of(source, [(index, f"{index} {text}") for index in range(count)])


def test_pieces_have_whole_rows_and_keep_their_size() -> None:
    target, rows = texts(5000)
    text = lines_of(target, rows, "mysql")
    assert len(text.pieces) > 4
    assert text.row_count == 5000
    assert all(len(piece) <= LOAD_PIECE_BYTES and bytes(piece[-1:]) == b"\n" for piece, _ in text.pieces)
    assert [line[0] for line in fields_of(text_of(text))] == [str(index).encode() for index in range(5000)]


@pytest.mark.parametrize("size", [1010, 2020, 5000])
def test_small_pieces_keep_their_size_too(size: int) -> None:
    target, rows = texts(50)
    text = value_text(rows, target.columns, "mysql", bytes_max=size, keeps_negative_zero=True)
    assert len(text.left) == 0 or size < 1020
    assert all(len(piece) <= size for piece, _ in text.pieces)
    assert text.row_count + len(text.left) == 50


def test_a_row_beyond_the_limit_is_left() -> None:
    source = table(ID, column("c", K.TEXT, "longtext"))
    target = target_of(source, "mysql")
    rows = rows_of(source, [(1, "a"), (2, "b" * 100), (3, "c")])
    lines = load_lines(rows, target.columns, "mysql", row_bytes_max=50, keeps_negative_zero=True)
    assert (b"".join(lines), lines.take_left().to_pylist()) == (b"1\ta\n3\tc\n", [1])


@pytest.mark.parametrize("size", [32767, 32768, 32769, 65536, 3 << 20])
def test_long_values_are_escaped_step_by_step(size: int) -> None:
    source = table(ID, column("t", K.TEXT, "longtext"), column("b", K.BLOB, "longblob"))
    target = target_of(source, "mysql")
    value = ("\t\\\n'\0" + "é" * 7) * (size // 19 + 1)
    rows = rows_of(source, [(1, value, value.encode()), (2, "", b"")])
    assert fields_of(text_of(lines_of(target, rows, "mysql"))) == [
        [b"1", value.encode(), value.encode()],
        [b"2", b"", b""],
    ]


@pytest.mark.parametrize("special", [*"\\\t\n\r\0\x1a'\"", "é", "😀"], ids=repr)
def test_special_characters_are_found_wherever_they_stand(special: str) -> None:
    """In blocks of sixteen bytes, before and behind them, at the end of the buffer."""
    source = table(ID, column("c", K.TEXT, "longtext"))
    values = ["x" * before + special + "y" * after for before in range(34) for after in (0, 1, 15, 16, 17)]
    rows = rows_of(source, list(enumerate(values)))
    for kind in KINDS:
        target = target_of(source, kind)
        assert [field[1] for field in fields_of(text_of(lines_of(target, rows, kind)))] == [v.encode() for v in values]
        assert_as_the_twin(target, rows, kind, None, keeps=True)


def test_hostile_texts_are_fields_of_their_own() -> None:
    source = table(ID, column("c", K.TEXT, "longtext"))
    rows = rows_of(source, list(enumerate(HOSTILE_TEXTS)))
    found = fields_of(text_of(lines_of(target_of(source, "mysql"), rows, "mysql")))
    assert [field[1] for field in found] == [text.encode() for text in HOSTILE_TEXTS]


def test_no_rows_are_no_text() -> None:
    target, rows = texts(3)
    for empty, selection in ((rows.slice(3), None), (rows, pa.array([], pa.int32()))):
        text = lines_of(target, empty, "mysql", selection)
        assert text.pieces == ()
        assert text.left.to_pylist() == []


def test_lines_are_written_when_they_are_asked_for() -> None:
    """One piece beside the one that is sent, however many there will be."""
    target, rows = texts(5000)
    gc.collect()
    before = memory.live_bytes()
    lines = load_lines(rows, target.columns, "mysql", row_bytes_max=ANY_BYTES, keeps_negative_zero=True)
    assert not lines.is_over
    most = total = 0
    for piece in lines:
        total += len(piece)
        most = max(most, memory.live_bytes() - before)
        del piece
    assert total > 15 * LOAD_PIECE_BYTES
    assert most <= 3 * LOAD_PIECE_BYTES
    assert lines.row_count == 5000


@settings(max_examples=20)  # most of it is the collector's time
@given(case=random_rows())
def test_no_block_stays_behind(case: RandomRows) -> None:
    target = target_of(case.target.definition, "mysql")
    gc.collect()
    before = memory.live_bytes()
    values_of(target, case.rows, "mysql", case.selection)
    lines_of(target, case.rows, "mysql", case.selection)
    gc.collect()
    assert memory.live_bytes() == before


# ---------------------------------------------------------------- arrays that lie


def cell(definition: ColumnDefinition) -> Cell:
    return Cell(definition, is_parsed=False, is_raw=False, is_left=False, leaves_zero=False)


def write(columns: Sequence[tuple[Cell, pa.Array]], selection: Any = None, form: Any = "load") -> Any:
    text = RowText(columns, selection, form=form, row_bytes_max=ANY_BYTES, has_odd_zero=False)
    pieces = []
    while (piece := text.next_piece()) is not None:
        pieces.append(piece)
    return pieces, text.take_left()


@pytest.mark.parametrize("ends", [(0, 9, 8), (0, 6, 4, 8), (0, -1, 8), (0, -(2**63), 8), (0, 2**63 - 1, 8)], ids=str)
def test_offsets_that_contradict_themselves_are_not_followed(ends: tuple[int, ...]) -> None:
    offsets = pa.py_buffer(struct.pack(f"<{len(ends)}q", *ends))
    array = pa.Array.from_buffers(pa.large_string(), len(ends) - 1, [None, offsets, pa.py_buffer(b"12345678")])
    with pytest.raises(InvariantBroken):
        write([(cell(column("c", K.TEXT, "text")), array)])


@pytest.mark.parametrize(
    "selection",
    [
        pa.array([0, 3], pa.int32()),
        pa.array([-1], pa.int32()),
        pa.array([2**31 - 1], pa.int32()),
        pa.array([0, None], pa.int32()),
        pa.array([0], pa.int64()),
    ],
    ids=["behind", "negative", "largest", "null", "int64"],
)
def test_a_selection_points_at_rows(selection: pa.Array) -> None:
    with pytest.raises(InvariantBroken):
        write([(cell(ID), pa.array([1, 2, 3], pa.int32()))], selection)


def test_columns_are_of_one_length_and_some() -> None:
    ids = (cell(ID), pa.array([1, 2], pa.int32()))
    for columns, form in (([], "load"), ([ids, (cell(ID), pa.array([1], pa.int32()))], "load"), ([ids, ids], "keys")):
        with pytest.raises(InvariantBroken):
            write(columns, form=form)
    with pytest.raises(InvariantBroken):
        write([ids], form="other")
