"""Rows of results: the kernel gives what its reference gives, or leaves the row to it; packets in any pieces."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import CdcError, ProtocolError, SourceUnavailable, UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, ValueKind
from cdc.source.connection import TableGone
from cdc.source.kernel.text_rows import RowBuffer
from cdc.source.result_reader import ResultReader, row_values
from cdc.source.resultset import to_record_batch
from tests.support.results import (
    KINDS,
    RESULT_TEXTS,
    FakeSession,
    eof_packet,
    error_packet,
    packets,
    row_payload,
    same_rows,
    table_of,
)

INT = ColumnDefinition("a", ValueKind.INTEGER, "int", length=32)
TEXT = ColumnDefinition("b", ValueKind.TEXT, "text", charset="utf8mb4")
TABLE = table_of(INT, TEXT)
NO_LIMIT = {"rows_max": 1 << 30, "bytes_max": 1 << 40}
Row = Sequence[bytes | None]


def answer(rows: Sequence[Row]) -> bytes:
    return packets([*map(row_payload, rows), eof_packet()])


def read(definition: TableDefinition, content: bytes, *sizes: int, **limits: int) -> list[pa.RecordBatch]:
    session = FakeSession([content], field_count=len(definition.columns), sizes=sizes or (1 << 20,))
    reader = ResultReader(session, definition)  # type: ignore[arg-type]
    return list(reader.read("SELECT", **{**NO_LIMIT, **limits}))


def whole(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def is_left(column: ColumnDefinition, value: bytes) -> bool:
    """Does the kernel leave the value to its reference?"""
    return not RowBuffer(table_of(column)).append_row(row_payload([value]))


# What no server sends, or the reference refuses.
ODD: dict[str, tuple[bytes, ...]] = {
    "i8": (b"128", b"-129", b"", b"-", b"+1", b"1x", b" 1"),
    "i32": (b"2147483648", b"-2147483649"),
    "i64": (b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"9" * 30),
    "u8": (b"-1", b"256"),
    "u64": (b"18446744073709551616", b"28446744073709551615", b"-0"),
    "decimal": (b"100000000.00", b"1.234", b".", b"1.", b"", b"1e5", b"--1", b"1.2.3"),
    "decimal_65": (b"9" * 36,),
    "float": (b"nan", b"inf", b"1e39", b"0x1p3", b"1e", b"1.", b"-", b"1,5"),
    "double": (b"1e999", b"1e+", b"e5", b"1" * 70, b"infinity"),
    "bit": (b"", b"\x01" * 9),
    "date": (b"2024-1-1", b"2024-13-01", b"2024/01/01", b"2024-01-32", b"20x4-01-01", b""),
    "datetime": (
        b"2024-01-01",
        b"2024-01-01T00:00:00",
        b"2024-01-01 24:00:00",
        b"2024-01-01 00:00:00.",
        b"2024-01-01 00:60:00",
    ),
    "timestamp": (b"2024-00-01 00:00:00", b"2024-01-00 00:00:00", b"0000-01-01 00:00:00"),
    "time": (b"1:00:00", b"-", b"00:00", b"00:00:00.1234567", b"00:61:00", b"1000:00:00"),
    "utf8mb4": (b"\xff", b"\xed\xa0\x80", b"abc\xc3"),
    "utf8mb3": ("😀".encode(),),
    "ascii": (b"\x80",),
    "cp1251": (b"\x98",),
    "utf16": (b"\xd8\x00", b"a"),
    "uuid": (b"6ccd780cbaba1026956405b8c656024db", b"6ccd780c-baba-1026-9564-5b8c656024dg", b""),
    "inet4": (b"1.2.3", b"1.2.3.256", b"1.2.3.4\0", b"01.2.3.4"),
    "inet6": (b":::", b"1:2", b"12345::", b"::1\0", b"x" * 100),
}


@pytest.mark.parametrize("column", KINDS, ids=lambda column: column.name)
def test_what_servers_send_is_read_by_the_kernel_as_the_reference_reads_it(column: ColumnDefinition) -> None:
    values = [*RESULT_TEXTS[column.name], None]
    definition = table_of(column)
    expected = to_record_batch(definition, [(value,) for value in values])
    assert same_rows(whole(read(definition, answer([(value,) for value in values]))), expected)
    assert not [value for value in RESULT_TEXTS[column.name] if is_left(column, value)]


@pytest.mark.parametrize("column", [c for c in KINDS if c.name in ODD], ids=lambda column: column.name)
def test_what_they_do_not_send_is_left_to_the_reference(column: ColumnDefinition) -> None:
    definition = table_of(column)
    for value in ODD[column.name]:
        assert is_left(column, value), value
        assert _outcome(lambda: whole(read(definition, answer([(value,)])))) == _outcome(  # noqa: B023
            lambda: to_record_batch(definition, [(value,)])  # noqa: B023
        )


def _outcome(call: Callable[[], pa.RecordBatch]) -> str:
    try:
        return repr(call().to_pydict())
    except UnsupportedData as error:
        return str(error)


def _texts(column: ColumnDefinition) -> st.SearchStrategy[bytes]:
    usual = RESULT_TEXTS[column.name]
    mutated = st.tuples(st.sampled_from(usual), st.binary(max_size=3), st.integers(0, 40)).map(
        lambda t: t[0][: t[2]] + t[1] + t[0][t[2] + 1 :]
    )
    digits = st.text("0123456789.-e: ", max_size=24).map(str.encode)
    return st.one_of(st.sampled_from(usual), mutated, digits, st.binary(max_size=40))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_is_what_the_reference_says_or_its_error(data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(KINDS))
    rows = data.draw(st.lists(st.tuples(st.none() | _texts(column)), min_size=1, max_size=5))
    definition = table_of(column)
    try:
        expected = to_record_batch(definition, rows)
    except UnsupportedData:
        with pytest.raises(UnsupportedData):
            read(definition, answer(rows))
        return
    assert same_rows(whole(read(definition, answer(rows))), expected)


@settings(max_examples=300, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["%r", "%.17g", "%.15g", "%.20f", "%e"]))
def test_doubles_are_the_nearest(value: float, form: str) -> None:
    column = next(column for column in KINDS if column.name == "double")
    text = (form % value).encode()
    (batch,) = read(table_of(column), answer([(text,)]))
    assert batch.column(0)[0].as_py().hex() == float(text).hex()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 4096])
def test_packets_come_in_any_pieces(size: int) -> None:
    rng = random.Random(size)
    rows = [(b"%d" % n, None if n % 7 == 0 else b"x" * rng.randrange(300)) for n in range(1000)]
    batches = read(TABLE, answer(rows), size)
    assert same_rows(whole(batches), to_record_batch(TABLE, rows))


def test_rows_are_read_in_batches_of_the_given_size_in_their_order() -> None:
    rows = [(b"%d" % n, b"y" * 100) for n in range(2500)]
    batches = read(TABLE, answer(rows), rows_max=1000)
    assert [batch.num_rows for batch in batches] == [1000, 1000, 500]
    assert same_rows(whole(batches), to_record_batch(TABLE, rows))
    assert max(batch.nbytes for batch in read(TABLE, answer(rows), bytes_max=10_000)) < 11_000


def test_rows_that_the_kernel_leaves_stand_where_they_stood() -> None:
    rows = [(b" %d" % n if n % 10 == 0 else b"%d" % n, b"z") for n in range(100)]
    (batch,) = read(TABLE, answer(rows))
    assert batch.column("a").to_pylist() == list(range(100))
    assert [one.num_rows for one in read(TABLE, answer(rows), rows_max=7)] == [7] * 14 + [2]


def test_a_row_may_be_larger_than_a_packet() -> None:
    """A payload of exactly the largest packet is followed by an empty one."""
    sizes = [0xFFFFFF - 11, 0xFFFFFF - 10, 0xFFFFFF, 0x2FFFFFF]
    rows = [(b"1", b"q" * size) for size in sizes]
    batches = read(TABLE, answer([*rows, (b"2", b"after")]))
    values = whole(batches).column("b").to_pylist()
    assert [len(value) for value in values] == [*sizes, 5]
    assert set("".join(values[:-1])) == {"q"}


def test_after_255_comes_packet_0() -> None:
    rows = [(b"%d" % n, b"") for n in range(600)]
    assert whole(read(TABLE, answer(rows), 1000)).num_rows == 600


def _session(content: bytes, answers: Sequence[bytes] = ()) -> FakeSession:
    return FakeSession([content, *answers], field_count=2)


def _failing(session: FakeSession) -> CdcError:
    reader = ResultReader(session, TABLE)  # type: ignore[arg-type]
    with pytest.raises(CdcError) as caught:
        list(reader.read("SELECT", rows_max=1 << 20, bytes_max=1 << 20))
    return caught.value


def test_an_error_in_the_middle_is_the_servers_and_leaves_the_session_usable() -> None:
    rows = [row_payload((b"1", b"x"))] * 3
    session = _session(packets([*rows, error_packet(1412, "definition has changed")]), [answer([(b"1", b"x")])])
    reader = ResultReader(session, TABLE)  # type: ignore[arg-type]
    with pytest.raises(TableGone, match="definition has changed"):
        list(reader.read("SELECT", rows_max=100, bytes_max=1 << 20))
    assert not session.is_closed
    (batch,) = reader.read("SELECT", rows_max=100, bytes_max=1 << 20)
    assert batch.num_rows == 1, "rows from before the error"


def test_a_result_that_ends_early_is_a_lost_connection_and_never_a_short_table() -> None:
    content = packets([row_payload((b"1", b"x"))] * 3)
    for cut in (len(content), len(content) - 1, len(content) - 5, 2):
        session = _session(content[:cut])
        assert isinstance(_failing(session), SourceUnavailable)
        assert session.is_closed


def test_a_packet_out_of_order_is_refused() -> None:
    session = _session(packets([row_payload((b"1", b"x"))]) + packets([eof_packet()], first=7))
    assert isinstance(_failing(session), ProtocolError)
    assert session.is_closed
    # number 0 in the middle: MariaDB shuts down
    session = _session(packets([row_payload((b"1", b"x"))]) + packets([error_packet(1927, "killed")]))
    assert isinstance(_failing(session), SourceUnavailable)


def test_a_result_that_is_left_takes_the_session_with_it() -> None:
    session = _session(answer([(b"1", b"x")] * 100))
    rows = ResultReader(session, TABLE).read("SELECT", rows_max=10, bytes_max=1 << 20)  # type: ignore[arg-type]
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert session.is_closed


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x05ab", b"\x011", b"\x011\x01x\x01y", b"\xff", b"\x011\xff", b"\xfc", b"\x011\xfe\xff", b"\x011\xfd\x01"],
)
def test_a_row_that_is_none_is_refused(payload: bytes) -> None:
    assert not RowBuffer(TABLE).append_row(payload)
    with pytest.raises(ProtocolError):
        row_values(payload, 2)


def test_other_columns_than_asked_for_are_refused() -> None:
    session = FakeSession([answer([])], field_count=3)
    assert isinstance(_failing(session), ProtocolError)


def test_text_in_an_unproven_charset_is_refused_before_it_is_read() -> None:
    with pytest.raises(UnsupportedData, match="klingon"):
        ResultReader(_session(b""), table_of(ColumnDefinition("a", ValueKind.TEXT, "text", charset="klingon")))  # type: ignore[arg-type]
