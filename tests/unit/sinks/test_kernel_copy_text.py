"""The compiled encoder and the reference: the same bytes and counts, or the same refusal, for all rows.

What each value's text is, test_encode_postgres.py says, over the reference; here the two are held against each other on
whatever Arrow can hold, and the kernel's own business is tested: selections, pieces, memory, arrays that lie.
"""

from __future__ import annotations

import gc
import json
import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.binlog.kernel import memory
from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ColumnDefinition, Flavor
from cdc.schema.target import Policies, TargetColumn, TargetTable
from cdc.sinks import encode_postgres
from cdc.sinks.encode_postgres import CopyReader, copy_pieces, copy_text, encode_column
from cdc.sinks.kernel.copy_text import PIECE_BYTES, CopyLines
from cdc.sinks.values import PolicyCounter, ValueRefused, column_of, refusal
from tests.unit.sinks.builders import (
    HOSTILE_TEXTS,
    ID,
    LABELS,
    MARIADB_VALUES,
    MYSQL_VALUES,
    SET64,
    K,
    array_of,
    column,
    date,
    floats,
    moment,
    point,
    rows_of,
    table,
    target_of,
)

Outcome = tuple[Any, ...]


def reference_text(
    rows: pa.RecordBatch, target: TargetTable, columns: Sequence[TargetColumn], counter: PolicyCounter
) -> bytes:
    """COPY text by the Python encoder alone."""
    encoded = []
    for target_column in columns:
        try:
            array = column_of(rows, target_column)
            encoded.append(encode_column(array, target_column, target.policies, counter))
        except ValueRefused as refused:
            raise refusal(refused, rows, target, target_column) from refused
    lines = ("\t".join("\\N" if value is None else value for value in row) for row in zip(*encoded, strict=True))
    return "".join(f"{line}\n" for line in lines).encode()


def outcome_of(
    encode: Any, rows: pa.RecordBatch, target: TargetTable, columns: Sequence[TargetColumn], *more: Any
) -> Outcome:
    """Bytes and counts, or what was raised. Values that no source sends may raise anything, but the same."""
    counter = PolicyCounter()
    try:
        text = bytes(encode(rows, target, columns, counter, *more))
    except UnsupportedData as error:
        return UnsupportedData, str(error), error.table, error.column, error.key, error.hint
    except (OverflowError, ValueError, struct.error) as error:
        return type(error), str(error)
    return text, counter.changes


def assert_same(
    rows: pa.RecordBatch,
    target: TargetTable,
    selection: pa.Int32Array | None = None,
    columns: Sequence[TargetColumn] | None = None,
) -> Outcome:
    columns = target.columns if columns is None else columns
    taken = rows if selection is None else rows.take(selection)
    expected = outcome_of(reference_text, taken, target, columns)
    found = outcome_of(copy_text, rows, target, columns, selection)
    assert found == expected
    return found


def one_column(definition: ColumnDefinition, flavor: Flavor = "mysql", **policies: Any) -> TargetTable:
    return target_of(table(ID, definition, flavor=flavor), **policies)


def rows_with(target: TargetTable, values: Sequence[Any]) -> pa.RecordBatch:
    """Those values beside ascending ids."""
    return rows_of(target.definition, list(enumerate(values)))


def is_written(target: TargetTable, values: Sequence[Any]) -> bool:
    """Does the kernel write all of them by itself?"""
    rows = rows_with(target, values)
    return CopyLines([(c, column_of(rows, c)) for c in target.columns]).write()


# ---------------------------------------------------------------- random tables


@dataclass(frozen=True)
class RandomColumn:
    definition: ColumnDefinition
    values: st.SearchStrategy[Any]
    flavor: Flavor = "mysql"


BYTES_OF_TEXT = st.sampled_from([b"\0", b"\\", b"\t", b"\n", b"\r", b"\v", b"a", "é".encode(), "😀".encode(), b"\xff"])
SOME_TEXT = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.text(),
    st.text(alphabet="ab\\\t\n\r\0\x0béx"),
    st.integers(0, 40).map("x".__mul__),
)
ANY_TEXT = SOME_TEXT | st.lists(BYTES_OF_TEXT).map(b"".join) | st.binary(max_size=20)
DAYS = st.builds(date, st.integers(0, 10001), st.integers(0, 15), st.integers(0, 31))
MOMENTS = st.builds(
    moment,
    st.integers(0, 10001),
    st.integers(0, 12),
    st.integers(0, 31),
    st.integers(0, 31),
    st.integers(0, 63),
    st.integers(0, 63),
    st.integers(0, 999_999) | st.integers(0, 0xFFFFFF),
)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["\0", "\\u0000", "\ud800", "C:\\users"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
JSON_TEXTS = st.one_of(
    DOCUMENTS.map(json.dumps),
    DOCUMENTS.map(lambda value: json.dumps(value, ensure_ascii=False)).filter(lambda text: "\ud800" not in text),
    st.sampled_from(['{"a\\u0000": 1, "a": 2}', '"\\ud83d\\ude00"', '"\\udc00"', '"\\\\u0000"', '"\0"', '"\\', "\\u"]),
)
HOSTILE_LABELS = (*LABELS, "nul\0", "\ud800", "tab\t", "", "😀")


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    numbers = st.integers(-(10**precision) + 1, 10**precision - 1) | st.integers(-(10**4), 10**4).filter(
        lambda number: abs(number) < 10**precision
    )
    return numbers.map(lambda number: Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale)))


def bits_column(length: int) -> RandomColumn:
    values = st.integers(0, 2**length - 1) | UINT64
    return RandomColumn(column("c", K.BIT, f"bit({length})", length=length), values)


def decimal_column(precision: int, scale: int) -> RandomColumn:
    definition = column("c", K.DECIMAL, f"decimal({precision},{scale})", precision=precision, scale=scale)
    return RandomColumn(definition, decimals(precision, scale))


def integer_column(column_type: str, length: int, *, is_unsigned: bool) -> RandomColumn:
    bits = 32 if length == 24 else length
    least, most = (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    definition = column("c", K.INTEGER, column_type, length=length, is_unsigned=is_unsigned)
    return RandomColumn(definition, st.integers(least, most))


COLUMNS: tuple[st.SearchStrategy[RandomColumn], ...] = (
    st.builds(integer_column, st.just("int"), st.sampled_from([8, 16, 24, 32, 64]), is_unsigned=st.booleans()),
    st.integers(1, 65).flatmap(lambda p: st.builds(decimal_column, st.just(p), st.integers(0, min(p, 30)))),
    st.just(RandomColumn(column("c", K.FLOAT, "float"), st.floats(width=32))),
    st.just(RandomColumn(column("c", K.DOUBLE, "double"), st.floats() | st.integers(-(10**6), 10**6).map(float))),
    st.builds(bits_column, st.integers(1, 64)),
    st.just(RandomColumn(column("c", K.YEAR, "year"), st.integers(0, 2**16 - 1))),
    st.just(RandomColumn(column("c", K.DATE, "date"), DAYS | st.integers(-(2**31), 2**31 - 1))),
    st.just(RandomColumn(column("c", K.DATETIME, "datetime(6)", fraction_digits=6), MOMENTS | INT64)),
    st.just(
        RandomColumn(
            column("c", K.TIMESTAMP, "timestamp(6)", fraction_digits=6),
            st.integers(-1, 2**32 * 10**6) | INT64 | st.integers(0, 253402300800_000_000),
        )
    ),
    st.just(RandomColumn(column("c", K.TIME, "time(6)", fraction_digits=6), INT64 | st.integers(-(10**12), 10**12))),
    st.just(RandomColumn(column("c", K.TEXT, "longtext"), ANY_TEXT)),
    st.just(RandomColumn(column("c", K.BINARY, "binary(9)", length=9), st.binary())),
    st.just(RandomColumn(column("c", K.BLOB, "blob"), st.binary(max_size=70))),
    st.just(
        RandomColumn(
            column("c", K.ENUM, "enum()", members=HOSTILE_LABELS), st.integers(0, len(HOSTILE_LABELS)) | st.just(65535)
        )
    ),
    st.just(RandomColumn(column("c", K.SET, "set()", members=HOSTILE_LABELS), st.integers(0, 2**13))),
    st.just(RandomColumn(column("c", K.SET, "set()", members=LABELS), st.integers(0, 2**7) | UINT64)),
    st.just(RandomColumn(column("c", K.SET, "set()", members=SET64), UINT64)),
    st.just(RandomColumn(column("c", K.JSON, "json"), JSON_TEXTS | ANY_TEXT)),
    st.just(RandomColumn(column("c", K.JSON, "longtext", collation="utf8mb4_bin"), JSON_TEXTS | ANY_TEXT, "mariadb")),
    st.just(
        RandomColumn(
            column("c", K.GEOMETRY, "geometry"),
            st.binary(max_size=40) | st.binary(max_size=40).map(lambda wkb: bytes(4) + wkb),
        )
    ),
    st.just(
        RandomColumn(
            column("c", K.VECTOR, "vector(3)", length=3),
            st.lists(st.floats(width=32), max_size=9).map(lambda v: floats(*v)) | st.binary(max_size=5),
        )
    ),
    st.just(RandomColumn(column("c", K.UUID, "uuid", length=16), st.binary(min_size=16, max_size=16), "mariadb")),
    st.just(RandomColumn(column("c", K.INET4, "inet4", length=4), st.binary(min_size=4, max_size=4), "mariadb")),
    st.just(
        RandomColumn(
            column("c", K.INET6, "inet6", length=16),
            st.lists(st.sampled_from([0, 0, 0, 0xFFFF, 1, 0x12]), min_size=8, max_size=8).map(
                lambda words: struct.pack(">8H", *words)
            )
            | st.binary(min_size=16, max_size=16)
            | st.binary(max_size=17),
            "mariadb",
        )
    ),
)
RANDOM_COLUMNS = st.one_of(COLUMNS)


@dataclass(frozen=True)
class RandomRows:
    target: TargetTable
    rows: pa.RecordBatch
    selection: pa.Int32Array | None
    columns: tuple[TargetColumn, ...]


@st.composite
def random_rows(draw: st.DrawFn) -> RandomRows:
    """Some columns of one flavor in any order around the key, rows out of the middle of arrays, a selection or none."""
    flavor: Flavor = draw(st.sampled_from(["mysql", "mariadb"]))
    columns = [
        RandomColumn(ColumnDefinition(**{**_fields(c.definition), "name": f"c{index}"}), c.values)
        for index, c in enumerate(draw(st.lists(RANDOM_COLUMNS, min_size=1, max_size=4)))
    ]
    definitions = [*(c.definition for c in columns)]
    definitions.insert(draw(st.integers(0, len(definitions))), ID)
    count = draw(st.integers(0, 20))
    begin, end = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    total = begin + count + end
    # a few values a column, dealt out: most of the time goes into drawing them
    pools = {c.definition.name: draw(st.lists(st.none() | c.values, min_size=1, max_size=5)) for c in columns}
    dealt = draw(st.randoms(use_true_random=False))
    values = {name: [dealt.choice(pool) for _ in range(total)] for name, pool in pools.items()}
    values["id"] = list(range(total))
    policies: dict[str, Any] = {
        "zero_dates": draw(st.sampled_from(["null", "error", "infinity"])),
        "nul_bytes": draw(st.sampled_from(["replace", "strip", "error"])),
    }
    target = target_of(table(*definitions, flavor=flavor), **policies)
    arrays = [array_of(values[d.name], d) for d in definitions]
    rows = pa.RecordBatch.from_arrays(arrays, schema=target.definition.arrow_schema).slice(begin, count)
    selection = None
    if count and draw(st.booleans()):
        picked = draw(st.lists(st.integers(0, count - 1), max_size=12))
        selection = pa.array([0, *picked, 0], pa.int32())[1 : len(picked) + 1]
    chosen = draw(st.permutations(target.columns)) if draw(st.booleans()) else target.columns
    return RandomRows(target, rows, selection, tuple(chosen))


def _fields(definition: ColumnDefinition) -> dict[str, Any]:
    return {name: getattr(definition, name) for name in definition.__dataclass_fields__}


@given(random_rows())
def test_any_rows_become_the_references_text_or_its_refusal(case: RandomRows) -> None:
    assert_same(case.rows, case.target, case.selection, case.columns)


@pytest.mark.parametrize("columns", COLUMNS, ids=range(len(COLUMNS)))
def test_any_value_becomes_the_references_text(columns: st.SearchStrategy[RandomColumn]) -> None:
    """One value at a time: few of the rows above are without a refusal."""

    @settings(max_examples=60)
    @given(columns, st.data())
    def encode(random_column: RandomColumn, data: st.DataObject) -> None:
        target = one_column(random_column.definition, random_column.flavor)
        for value in data.draw(st.lists(random_column.values, max_size=10)):
            assert_same(rows_with(target, [value, None]), target)

    encode()


@settings(max_examples=20)  # most of it is the collector's time
@given(random_rows())
def test_no_block_stays_behind(case: RandomRows) -> None:
    gc.collect()
    before = memory.live_bytes()
    outcome_of(copy_text, case.rows, case.target, case.columns, case.selection)
    gc.collect()
    assert memory.live_bytes() == before


# ---------------------------------------------------------------- what is written, and what is left


USUAL: dict[str, tuple[Flavor, ColumnDefinition, Sequence[Any]]] = {
    **{f"mysql-{name}": ("mysql", *entry) for name, entry in MYSQL_VALUES.items()},
    **{f"mariadb-{name}": ("mariadb", *entry) for name, entry in MARIADB_VALUES.items()},
}


def is_usual(kind: K, flavor: Flavor, value: Any) -> bool:
    """Is a value of the builders' tables one that no policy is about?"""
    match kind, value:
        case ((K.DATE | K.DATETIME | K.TIMESTAMP), 0):
            return False
        case K.TEXT, str():
            return "\0" not in value
        case K.JSON, str():
            return flavor == "mariadb" or "\\u" not in value
        case K.GEOMETRY, bytes():
            return not any(value[:4])
    return True


@pytest.mark.parametrize("name", [name for name in USUAL if "impossible" not in name])
def test_usual_values_of_every_kind_are_written_by_the_kernel(name: str) -> None:
    flavor, definition, values = USUAL[name]
    target = one_column(definition, flavor)
    usual = [value for value in values if is_usual(definition.kind, flavor, value)]
    assert usual
    assert is_written(target, [None, *usual])
    assert_same(rows_with(target, [None, *values]), target)


def test_every_kind_is_among_them() -> None:
    assert {definition.kind for _, definition, _ in USUAL.values()} == set(K)


@pytest.mark.parametrize(
    "definition,value",
    [
        (column("c", K.DATE, "date"), 0),
        (column("c", K.DATE, "date"), date(2023, 2, 29)),
        (column("c", K.DATE, "date"), date(1900, 2, 29)),
        (column("c", K.DATE, "date"), date(2023, 4, 31)),
        (column("c", K.DATE, "date"), date(0, 12, 31)),
        (column("c", K.DATE, "date"), date(10000, 1, 1)),
        (column("c", K.DATETIME, "datetime"), 0),
        (column("c", K.DATETIME, "datetime"), moment(2023, 0, 1)),
        (column("c", K.DATETIME, "datetime"), moment(2023, 1, 1, micro=1_000_000)),
        (column("c", K.TIMESTAMP, "timestamp"), 0),
        (column("c", K.TIMESTAMP, "timestamp"), -1),
        (column("c", K.TIMESTAMP, "timestamp"), 253402300800_000_000),
        (column("c", K.TEXT, "text"), "a\0"),
        (column("c", K.TEXT, "text"), b"\xed\xa0\x80"),
        (column("c", K.TEXT, "text"), b"a" * 99 + b"\xc3"),
        (column("c", K.DOUBLE, "double"), float("nan")),
        (column("c", K.DOUBLE, "double"), float("-inf")),
        (column("c", K.FLOAT, "float"), float("inf")),
        (column("c", K.BIT, "bit(3)", length=3), 8),
        (column("c", K.ENUM, "enum()", members=("a",)), 2),
        (column("c", K.ENUM, "enum()", members=("a\0",)), 1),
        (column("c", K.SET, "set()", members=("a",)), 2),
        (column("c", K.JSON, "json"), '"\\u0000"'),
        (column("c", K.JSON, "json"), '"\0"'),
        (column("c", K.GEOMETRY, "point"), point(1, 2, 4326)),
        (column("c", K.VECTOR, "vector(1)", length=1), floats(float("nan"))),
    ],
    ids=repr,
)
def test_a_value_that_a_policy_is_about_is_left(definition: ColumnDefinition, value: Any) -> None:
    target = one_column(definition)
    assert not is_written(target, [value])
    assert_same(rows_with(target, [None, value, None]), target)


def test_only_what_is_left_is_encoded_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def encode(array: pa.Array, column: TargetColumn, policies: Policies, counter: PolicyCounter) -> list[str | None]:
        asked.append((column.name, array.to_pylist()))
        return encode_column(array, column, policies, counter)

    monkeypatch.setattr(encode_postgres, "encode_column", encode)
    target = target_of(table(ID, column("d", K.DATE, "date"), column("t", K.TEXT, "text")))
    day = date(2024, 1, 2)
    rows = rows_of(target.definition, [(1, day, "a"), (2, 0, "b"), (3, None, "\0"), (4, day, "c"), (5, 0, "\0d")])
    assert_same(rows, target)
    assert asked == [("d", [0, 0]), ("t", ["\0", "\0d"])]


def test_columns_of_another_type_than_defined_are_left_as_a_whole() -> None:
    target = one_column(column("c", K.INTEGER, "int", length=32))
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int32()), pa.array([3, None], pa.int64())], ["id", "c"])
    assert assert_same(rows, target)[0] == b"1\t3\n2\t\\N\n"


def test_the_first_column_that_refuses_names_its_first_row() -> None:
    """Not the first row that is refused: columns are looked at one after the other."""
    target = target_of(table(ID, column("a", K.DOUBLE, "double"), column("b", K.TEXT, "text")), nul_bytes="error")
    nan = float("nan")
    rows = rows_of(target.definition, [(7, 1.0, "x"), (8, 1.0, "\0"), (9, nan, "x"), (10, nan, "x")])
    assert assert_same(rows, target)[3:5] == ("a", "id=9")
    assert assert_same(rows, target, pa.array([3, 1, 2, 0], pa.int32()))[3:5] == ("a", "id=10")
    assert assert_same(rows, target, pa.array([0, 1], pa.int32()))[3:5] == ("b", "id=8")


@pytest.mark.parametrize("kind", [K.TEXT, K.JSON])
@pytest.mark.parametrize("special", ["\\", "\t", "\n", "\r", "\0", "\x0b", "\x01", "é", "😀", "\\u0041"], ids=repr)
def test_special_characters_are_found_wherever_they_stand(kind: K, special: str) -> None:
    """In every place of a block, in a value's last bytes, and at the end of the buffer."""
    target = one_column(column("c", kind, "text"))
    for before in range(36):
        text = "x" * before + special
        for after in (0, 1, 15, 40):
            assert_same(rows_with(target, [text + "y" * after]), target)
            assert_same(rows_with(target, ["z" * 3, text + "y" * after, "\n" * 20]), target)


@pytest.mark.parametrize("size", [32767, 32768, 32769, 65536, 70000])
def test_long_texts_are_escaped_step_by_step(size: int) -> None:
    target = one_column(column("c", K.TEXT, "longtext"))
    for text in ("x" * size, "\\" * size, "x" * (size - 1) + "\n", "é" * (size // 2), "x" * size + "\0"):
        assert_same(rows_with(target, ["a", text, "b"]), target)


def test_a_text_may_be_larger_than_a_piece() -> None:
    target = one_column(column("c", K.TEXT, "longtext"))
    for text in ("x" * (3 * PIECE_BYTES) + "\n", "x" * (3 * PIECE_BYTES) + "\0"):
        assert_same(rows_with(target, ["a", text, "b"]), target)


def test_doubles_of_all_magnitudes_are_printed_as_python_prints_them() -> None:
    source = random.Random(4)
    doubles = [struct.unpack("<d", source.randbytes(8))[0] for _ in range(5_000)]
    doubles += [source.randrange(10**9) / 10 ** source.randrange(12) for _ in range(5_000)]
    doubles += [sign * 10.0**power for power in range(-324, 309) for sign in (1, -1)]
    doubles += [10.0**power - 10.0 ** (power - 16) for power in range(-20, 20)]
    usual = [value for value in doubles if value - value == 0]
    target = one_column(column("c", K.DOUBLE, "double"))
    assert is_written(target, usual)
    assert_same(rows_with(target, usual), target)


def test_days_from_1970_to_2110_are_printed() -> None:
    target = one_column(column("c", K.TIMESTAMP, "timestamp(6)", fraction_digits=6))
    moments = [day * 86_400_000_000 + 86_399_999_999 for day in range(0, 51_500, 3)]
    assert is_written(target, moments)
    assert_same(rows_with(target, moments), target)


@pytest.mark.parametrize("kind,packed", [(K.DATE, date), (K.DATETIME, moment)])
def test_the_calendar_is_the_references(kind: K, packed: Any) -> None:
    """Every 29 February, and every day that two years could have."""
    target = one_column(column("c", kind, "date"))
    days = [packed(year, 2, 29) for year in range(10_002)]
    days += [packed(year, month, day) for year in (2023, 2024) for month in range(13) for day in range(32)]
    outcome = assert_same(rows_with(target, days), target)
    assert outcome[1]["c", "zero_dates"] == 10_002 - 2424 + 2 * 13 * 32 - 365 - 366


@pytest.mark.parametrize("width,scale", [(128, 0), (128, 2), (128, 19), (128, 20), (128, 38), (256, 0), (256, 76)])
def test_decimals_of_any_size_are_printed(width: int, scale: int) -> None:
    """Also those that their precision does not allow: whatever is in the buffer."""
    most = 2 ** (width - 1)
    source = random.Random(5)
    numbers = [0, 1, -1, 99, 100, -100, most - 1, -most, 1 - most]
    numbers += [sign * 10**power + more for power in range(38) for sign in (1, -1) for more in (0, -1, 1)]
    numbers += [source.randrange(-(2**bits), 2**bits) for bits in range(1, width - 1)]
    raw = b"".join(number.to_bytes(width // 8, "little", signed=True) for number in numbers)
    arrow_type = pa.decimal128(38, scale) if width == 128 else pa.decimal256(76, scale)
    array = pa.Array.from_buffers(arrow_type, len(numbers), [None, pa.py_buffer(raw)])
    definition = column("c", K.DECIMAL, "decimal", precision=arrow_type.precision, scale=scale)
    target = one_column(definition)
    lines = CopyLines([(target.columns[1], array)])
    assert lines.write()
    ((block, count),) = lines.take()
    assert count == len(numbers)
    for number, line in zip(numbers, bytes(block).decode().splitlines(), strict=True):
        digits = str(abs(number)).rjust(scale + 1, "0")
        text = f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits
        assert line == ("-" if number < 0 else "") + text


# ---------------------------------------------------------------- pieces


@pytest.fixture(scope="module")
def many() -> tuple[TargetTable, pa.RecordBatch]:
    """Rows for several pieces, some of them larger than the room at a piece's end, some left."""
    target = one_column(column("c", K.TEXT, "longtext"))
    source = random.Random(6)
    values = [
        "x" * source.randrange(200_000 if index % 500 == 0 else 300) + ("\0" if index % 7 == 0 else "")
        for index in range(20_000)
    ]
    return target, rows_with(target, values)


def test_text_comes_in_pieces_of_whole_lines(many: tuple[TargetTable, pa.RecordBatch]) -> None:
    target, rows = many
    text = copy_text(rows, target, target.columns, PolicyCounter())
    assert len(text.pieces) > 2
    assert text.row_count == rows.num_rows
    assert [bytes(piece).count(b"\n") for piece, _ in text.pieces] == [count for _, count in text.pieces]
    assert all(bytes(piece).endswith(b"\n") for piece, _ in text.pieces)
    assert max(len(piece) for piece, _ in text.pieces) < PIECE_BYTES + 200_000
    assert bytes(text) == reference_text(rows, target, target.columns, PolicyCounter())


def test_ordinary_rows_stay_inside_the_piece() -> None:
    target = one_column(column("c", K.TEXT, "longtext"))
    text = copy_text(rows_with(target, ["x" * 100] * 40_000), target, target.columns, PolicyCounter())
    sizes = [len(piece) for piece, _ in text.pieces]
    assert len(sizes) > 3
    assert PIECE_BYTES * 0.9 < min(sizes[:-1]) <= max(sizes) <= PIECE_BYTES


def pieces_of(many: tuple[TargetTable, pa.RecordBatch]) -> Iterator[memoryview]:
    target, rows = many
    return (piece for piece, _ in copy_pieces(rows, target, target.columns, PolicyCounter()))


def test_a_reader_gives_all_bytes_in_parts_of_the_size_asked_for(many: tuple[TargetTable, pa.RecordBatch]) -> None:
    target, rows = many
    text = bytes(copy_text(rows, target, target.columns, PolicyCounter()))
    for size in (PIECE_BYTES, 77_777):
        reader = CopyReader(pieces_of(many))
        parts = []
        while part := reader.read(size):
            parts.append(part)
        assert all(0 < len(part) <= size for part in parts)
        assert b"".join(parts) == text
        assert reader.read(size) == b""


def test_text_is_made_when_it_is_asked_for(many: tuple[TargetTable, pa.RecordBatch]) -> None:
    """A piece, and what the twin has made for it; and all of it goes back to the pool."""
    gc.collect()
    before = memory.live_bytes()
    reader = CopyReader(pieces_of(many))
    first = reader.read(100)
    assert memory.live_bytes() - before < 4 * PIECE_BYTES
    while reader.read(PIECE_BYTES):
        pass
    del reader
    gc.collect()
    assert memory.live_bytes() == before
    assert len(first) == 100


def test_a_reader_keeps_what_making_a_piece_has_raised() -> None:
    """The driver makes an error of the server of it."""
    target = one_column(column("c", K.TEXT, "longtext"), nul_bytes="error")
    rows = rows_with(target, ["x" * PIECE_BYTES] * 3 + ["\0"])
    reader = CopyReader(pieces_of((target, rows)))
    assert reader.read(100)
    with pytest.raises(UnsupportedData) as raised:
        list(iter(lambda: reader.read(PIECE_BYTES), b""))
    assert reader.error is raised.value
    assert raised.value.key == "id=3"


def test_a_small_text_takes_a_small_block() -> None:
    target = one_column(column("c", K.TEXT, "longtext"))
    gc.collect()
    before = memory.live_bytes()
    text = copy_text(rows_with(target, ["a"]), target, target.columns, PolicyCounter())
    assert memory.live_bytes() - before <= 4096
    assert bytes(text) == b"0\ta\n"


def test_no_rows_are_no_text() -> None:
    target = one_column(column("c", K.TEXT, "longtext"))
    rows = rows_with(target, ["a"])
    for empty in (rows_with(target, []), rows.slice(1)):
        assert copy_text(empty, target, target.columns, PolicyCounter()).pieces == ()
    assert copy_text(rows, target, target.columns, PolicyCounter(), pa.array([], pa.int32())).pieces == ()


def test_policies_are_counted_once_a_value() -> None:
    target = target_of(table(ID, column("d", K.DATE, "date"), column("g", K.GEOMETRY, "point")))
    rows = rows_of(target.definition, [(i, 0 if i % 3 else None, point(1, 2, i % 2)) for i in range(100)])
    counter = PolicyCounter()
    copy_text(rows, target, target.columns, counter, pa.array(range(0, 100, 5), pa.int32()))
    assert counter.changes == Counter({("d", "zero_dates"): 13, ("g", "srid"): 10})


# ---------------------------------------------------------------- arrays that lie


@pytest.mark.parametrize("ends", [(0, 9, 8), (0, 6, 4, 8), (0, -1, 8), (0, -(2**63), 8), (0, 2**63 - 1, 8)], ids=str)
def test_offsets_that_contradict_themselves_are_not_followed(ends: tuple[int, ...]) -> None:
    """Arrow looks at the first and the last one when an array is made."""
    offsets = pa.py_buffer(struct.pack(f"<{len(ends)}q", *ends))
    array = pa.Array.from_buffers(pa.large_string(), len(ends) - 1, [None, offsets, pa.py_buffer(b"12345678")])
    target = one_column(column("c", K.TEXT, "text"))
    with pytest.raises(InvariantBroken):
        CopyLines([(target.columns[1], array)]).write()


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
    target = one_column(column("c", K.TEXT, "text"))
    with pytest.raises(InvariantBroken):
        copy_text(rows_with(target, ["a", "b", "c"]), target, target.columns, PolicyCounter(), selection)


def test_a_selection_is_checked_where_rows_are_left_too() -> None:
    target = one_column(column("c", K.DATE, "date"))
    with pytest.raises(InvariantBroken):
        copy_text(rows_with(target, [0]), target, target.columns, PolicyCounter(), pa.array([0, 1], pa.int32()))


def test_columns_are_of_one_length_and_some() -> None:
    target = one_column(column("c", K.TEXT, "text"))
    first, second = target.columns
    with pytest.raises(InvariantBroken):
        CopyLines([(first, pa.array([1, 2], pa.int32())), (second, pa.array(["a"], pa.large_string()))])
    with pytest.raises(InvariantBroken):
        CopyLines([])


def test_texts_are_given_for_the_cells_that_are_left() -> None:
    target = one_column(column("c", K.DATE, "date"))
    lines = CopyLines([(target.columns[1], pa.array([0, date(2024, 1, 1), 0], pa.int32()))])
    assert not lines.write()
    assert lines.left(0).to_pylist() == [0, 2]
    for texts in (pa.array(["a"], pa.large_string()), pa.array(["a", "b"]), pa.array(["a"] * 3, pa.large_string())[1:]):
        with pytest.raises(InvariantBroken):
            lines.give(0, texts)
    with pytest.raises(IndexError):
        lines.left(1)
    with pytest.raises(IndexError):
        lines.give(1, pa.array([], pa.large_string()))
    lines.give(0, pa.array(["first", None], pa.large_string()))
    assert lines.write()
    assert [bytes(block) for block, _ in lines.take()] == [b"first\n2024-01-01\n\\N\n"]
