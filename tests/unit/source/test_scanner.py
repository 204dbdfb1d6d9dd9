"""The compiled scanner: any cut of the bytes, limits inside an event, what it takes in, and what it leaves."""

from __future__ import annotations

import gc
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import replace

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc.binlog import charsets
from cdc.binlog.constants import EventType
from cdc.binlog.kernel import memory
from cdc.binlog.kernel import rows as kernel_rows
from cdc.binlog.kernel.scan import Scanner, crc32
from cdc.errors import ChecksumMismatch, MalformedEvent, UnsupportedEvent
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import Flavor, RowBatch, TableName
from cdc.source.assembler import EVENTS, Assembler, CapturedTable, RunLimits
from tests.support.binlog_build import lenenc, rows_body, table_map_body
from tests.unit.source.streams import (
    COLUMNS,
    UUID,
    A,
    B,
    C,
    Session,
    Stream,
    Tables,
    all_images,
    at,
    definition,
    images,
)

OTHER = "9e11fa47-71ca-11e1-9e33-c80aa9429562"


def packet(event: bytes, number: int = 1) -> bytes:
    return (len(event) + 1).to_bytes(3, "little") + bytes((number & 255, 0)) + event


def feed_pieces(assembler: Assembler, pieces: Sequence[bytes]) -> None:
    """As a stream does: what was not taken comes again with more behind it."""
    held = b""
    for piece in pieces:
        held += piece
        held = held[assembler.consume(held) :]
    assert not held


def mixed_stream(stream: Stream) -> list[bytes]:
    events = [stream.fake_format()]
    for number in range(1, 30):
        table = (A, B, C)[number % 3]
        if number % 7 == 0:
            events += [stream.gtid(number), stream.end_query("CREATE USER x")]
        elif number % 5 == 0:
            events += [stream.gtid(number, OTHER), stream.begin(), stream.table_map(table)]
            events += [stream.insert((number, "é" * number), flags=0), stream.delete((number - 1, "x"), flags=0)]
            events += [stream.update((number, "a"), (number, "b")) if number % 2 else stream.heartbeat()]
            events += [stream.end_query("ROLLBACK") if number % 10 == 0 else stream.xid()]
        else:
            events += stream.transaction((number, "x" * number), (number + 1000, "y"), table=table, number=number)
    return events


@given(st.lists(st.integers(1, 400), max_size=60), st.integers(1, 40))
@example([], 3)
def test_any_cut_of_the_bytes_gives_the_same_runs(sizes: list[int], rows_max: int) -> None:
    events = mixed_stream(Stream())
    whole = Session(limits=RunLimits(rows_max=rows_max))
    wire = b"".join(packet(event, number) for number, event in enumerate(events))
    pieces = []
    for size in [*sizes, *([997] * len(wire))]:
        if wire:
            pieces.append(wire[:size])
            wire = wire[size:]
    feed_pieces(whole.assembler, pieces)
    whole.assembler.flush()
    single = Session(limits=RunLimits(rows_max=rows_max))
    single.feed(events)
    assert single.finish() == whole.out.runs
    assert single.position == whole.position


def test_a_plain_transaction_costs_no_handler() -> None:
    """The first one teaches the scanner the table and the form of BEGIN; from then on nothing comes to Python."""
    stream, session = Stream(), Session(start=at(4, gtid=MysqlGtidSet()))
    session.feed(stream.transaction((0, "a"), number=1))
    handled = session.assembler._slow_event_count
    for number in range(2, 200):
        session.feed(stream.transaction((number, "a"), number=number))
    assert session.assembler._slow_event_count == handled
    (run,) = session.finish()
    assert run.transaction_count == 199
    assert str(run.end.gtid) == f"{UUID}:1-199"
    assert run.ends is not None
    assert run.ends.gtid(198) == f"{UUID}:199"
    assert run.ends.offset[198].as_py() == stream.pos


def test_a_plain_mariadb_transaction_costs_no_handler() -> None:
    stream, session = Stream(), Session(flavor="mariadb", start=at(4, gtid=MariadbGtidList()))

    def transaction(number: int) -> list[bytes]:
        gtid = stream.mariadb_gtid(number, domain=number % 2)
        return [gtid, stream.table_map(), stream.insert((number, "a")), stream.xid()]

    session.feed(transaction(1))
    handled = session.assembler._slow_event_count
    for number in range(2, 100):
        session.feed(transaction(number))
    assert session.assembler._slow_event_count == handled
    (run,) = session.finish()
    assert str(run.end.gtid) == "0-1-98,1-1-99"
    assert run.ends is not None
    assert run.ends.sources == ("1-1", "0-1")
    assert run.ends.gtid(98) == "1-1-99"


@pytest.mark.parametrize("tail", [b"", b"\2" + bytes(16), b"\2" + bytes(16) + b"\xff" * 6 + b"\x7f" + b"\x20"])
def test_gtid_events_of_every_release_are_taken_in(tail: bytes) -> None:
    """MySQL 5.6, 5.7 and 8.0.1."""
    stream, session = Stream(), Session(start=at(4, gtid=MysqlGtidSet()))
    body = b"\1" + uuid.UUID(UUID).bytes + (7).to_bytes(8, "little") + tail
    gtid = stream.event(EventType.GTID, body)
    session.feed(gtid, stream.begin(), stream.table_map(), stream.insert((1, "a")), stream.xid())
    handled = session.assembler._slow_event_count
    gtid = stream.event(EventType.GTID, body.replace((7).to_bytes(8, "little"), (8).to_bytes(8, "little")))
    session.feed(gtid, stream.begin(), stream.table_map(), stream.insert((2, "a")), stream.xid())
    assert session.assembler._slow_event_count == handled
    (run,) = session.finish()
    assert str(run.end.gtid) == f"{UUID}:7-8"
    expected = (1 << 55) - 1 if len(tail) > 17 else 1_700_000_000_000_000
    assert run.commit_times_us.to_pylist() == [expected] * 2


def test_numbers_out_of_order_make_the_same_set() -> None:
    """Several writers: binlog_order_commits=OFF commits out of order."""
    stream, session = Stream(), Session(start=at(4, gtid=MysqlGtidSet.parse(f"{UUID}:1-3")))
    for number, source in ((6, UUID), (1, OTHER), (5, UUID), (9, UUID), (4, UUID), (2, OTHER)):
        session.feed([stream.gtid(number, source), *stream.transaction((number, "a"))[1:]])
    assert str(session.position.gtid) == f"{UUID}:1-6:9,{OTHER}:1-2"
    (run,) = session.finish()
    assert run.end.gtid == session.position.gtid


def test_an_event_larger_than_a_part_is_stopped_in() -> None:
    rows = [(number, "x" * (number % 50)) for number in range(1000)]
    stream, session = Stream(), Session(limits=RunLimits(part_rows_max=64))
    for event in (stream.gtid(), stream.begin(), stream.table_map(), stream.insert(*rows), stream.xid()):
        session.assembler.feed(event)
    runs = session.out.runs
    assert all_images(runs, A) == images([batch for run in runs for batch in run.batches])
    assert [row for _, _, row in all_images(runs, A)] == rows
    assert [run.part_number for run in runs] == list(range(len(runs)))
    sizes = [run.image_count for run in session.out.runs]
    assert sizes[:-1] == [64] * (len(sizes) - 1)
    assert not any(run.is_last_part for run in runs[:-1])
    assert runs[-1].is_last_part


def test_an_event_larger_than_a_parts_bytes_is_stopped_in() -> None:
    rows = [(number, "x" * 60) for number in range(1000)]
    stream, session = Stream(), Session(limits=RunLimits(bytes_max=4000))
    for event in (stream.gtid(), stream.begin(), stream.table_map(), stream.insert(*rows), stream.xid()):
        session.assembler.feed(event)
    assert [row for _, _, row in all_images(session.out.runs, A)] == rows
    assert max(run.image_count for run in session.out.runs) < 60
    assert len(session.out.runs) > 10


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_compressed_event_larger_than_a_part_is_stopped_in(is_fast: bool) -> None:
    """MariaDB's: what it inflates to is read as if it had come so. Event by event, there is no stopping inside one."""
    rows = [(number, "x" * (number % 50)) for number in range(1000)]
    stream, session = Stream(), Session(flavor="mariadb", limits=RunLimits(part_rows_max=64))
    assembler = session.assembler if is_fast else session.slow
    body = rows_body(COLUMNS, rows, table_id=77, flags=1, version=1)
    # table id, flags, column count, one bitmap; then what is compressed
    head, raw = body[:10], body[10:]
    record = b"\x82" + len(raw).to_bytes(2, "big") + zlib.compress(raw)
    kind = EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1
    for event in (stream.mariadb_gtid(1), stream.table_map(), stream.event(kind, head + record), stream.xid()):
        assembler.feed(event)
    runs = (session.out if is_fast else session.slow_out).runs
    assert [row for _, _, row in all_images(runs, A)] == rows
    assert len(runs) == (16 if is_fast else 2)


def test_a_row_in_each_of_many_tables_fills_a_run_by_what_the_tables_cost() -> None:
    """Each has its own smallest blocks of memory: counting the rows' bytes alone would let a gigabyte pass."""
    names = [TableName("shop", f"t{number}") for number in range(6000)]
    tables = Tables([CapturedTable(definition(name)) for name in names])
    stream, session = Stream(), Session(tables=tables)
    gc.collect()
    before = memory.live_bytes()
    highest = 0
    for name in names:
        for event in (stream.gtid(), stream.begin(), stream.table_map(name), stream.insert((1, "a")), stream.xid()):
            session.assembler.feed(event)
        for run in session.out.runs:
            assert run.is_last_part
            assert run.byte_count >= 5 * 4096 * len(run.batches)
        session.out.items.clear()
        highest = max(highest, memory.live_bytes() - before)
    assert highest < 72 << 20  # a run, and the one that is being made


def test_a_statements_own_table_maps_are_not_forgotten_for_want_of_room() -> None:
    stream, session = Stream(), Session()
    for number in range(20_000):
        for event in (
            stream.gtid(),
            stream.begin(),
            stream.table_map(C, table_id=1000 + 2 * number),
            stream.table_map(A, table_id=1001 + 2 * number),
            stream.insert((number, "c"), table_id=1000 + 2 * number, flags=0),
            stream.insert((number, "a"), table_id=1001 + 2 * number),
            stream.xid(),
        ):
            session.assembler.feed(event)
    session.assembler.flush()
    assert len(all_images(session.out.runs)) == 20_000


def test_large_table_maps_are_not_kept_without_limit() -> None:
    stream, session = Stream(), Session()
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(150):
        body = table_map_body(COLUMNS, table_id=number, database="shop", table="c", optional=b"\xc8" + lenenc(1 << 20))
        session.assembler.feed(stream.gtid())
        session.assembler.feed(stream.event(EventType.TABLE_MAP, body + bytes(1 << 20)))
        session.assembler.feed(stream.end_query("COMMIT"))
    assert process.memory_info().rss - before < 100 << 20


def test_images_are_not_doubled_when_memory_was_short_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the event went out, the scanner cannot go on, the handler could: that would be the whole event."""
    text = replace(COLUMNS[1].definition, charset="ucs2", length=31)  # 62 bytes at most, two a character
    columns = (COLUMNS[0], replace(COLUMNS[1], definition=text, metadata=(62).to_bytes(2, "little")))
    real, calls = charsets.text_decoder("ucs2"), []

    def decode(raw: bytes) -> str:
        calls.append(raw)
        if len(calls) == 5:
            raise MemoryError
        return real(raw)

    monkeypatch.setattr(kernel_rows, "text_decoder", lambda _charset: decode)
    tables = Tables([CapturedTable(definition(A, columns))])
    stream, session = Stream(), Session(tables=tables, limits=RunLimits(part_rows_max=2))
    for event in (stream.gtid(), stream.begin(), stream.table_map(columns=columns)):
        session.assembler.feed(event)
    with pytest.raises(MemoryError):
        session.assembler.feed(stream.insert(*((number, "xy") for number in range(8)), columns=columns))
    assert [row[0] for _, _, row in all_images(session.out.runs)] == [0, 1, 2, 3]


def test_bad_rows_behind_a_part_are_an_error_and_the_position_stays() -> None:
    stream, session = Stream(), Session(limits=RunLimits(part_rows_max=10))
    session.feed(stream.gtid(), stream.begin(), stream.table_map())
    start = session.position
    content = stream.insert(*((number, "xyz") for number in range(25)))
    cut = content[:-9]  # inside the last row
    cut = cut[:9] + (len(cut) + 4).to_bytes(4, "little") + cut[13:]
    with pytest.raises(MalformedEvent) as caught:
        session.assembler.feed(cut + zlib.crc32(cut).to_bytes(4, "little"))
    assert caught.value.frame
    assert session.assembler.position == start
    assert not any(run.is_last_part for run in session.out.runs)


def test_a_bad_checksum_is_an_error_and_nothing_of_the_event_counts() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")), stream.gtid(), stream.begin(), stream.table_map())
    content = bytearray(stream.insert((2, "b")))
    content[-6] ^= 1
    with pytest.raises(ChecksumMismatch) as caught:
        session.feed(bytes(content))
    assert caught.value.frame == bytes(content)
    assert "WRITE_ROWS" in caught.value.message
    assert session.out.runs == []


def test_events_out_of_order_inside_a_transaction_are_an_error() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.table_map())
    first, second = stream.insert((1, "a"), flags=0), stream.insert((2, "b"))
    session.feed(second)
    with pytest.raises(MalformedEvent, match="out of order"):
        session.feed(first)


def test_two_events_in_one_packet_are_an_error() -> None:
    stream, session = Stream(), Session()
    with pytest.raises(MalformedEvent, match="came with"):
        session.feed(stream.gtid() + stream.begin())


@pytest.mark.parametrize("flavor", ["mysql", "mariadb"])
def test_the_other_familys_gtid_is_an_error(flavor: Flavor) -> None:
    stream, session = Stream(), Session(flavor=flavor)
    with pytest.raises(UnsupportedEvent, match=r"no (MariaDB|MySQL)"):
        session.feed(stream.gtid(1) if flavor == "mariadb" else stream.mariadb_gtid(1))


def test_a_file_is_consumed_without_packets_and_an_impossible_size_is_odd() -> None:
    events = mixed_stream(Stream())
    content = b"".join(events)
    session, expected = Session(), Session()
    expected.feed(events)
    assert session.assembler.consume(content, EVENTS) == len(content)
    session.assembler.flush()
    assert session.out.runs == expected.finish()
    assert not session.assembler.is_odd
    assert session.assembler.consume(content[:30] + bytes(50), EVENTS) == 0
    broken = events[1][:9] + (5).to_bytes(4, "little") + events[1][13:]
    assert session.assembler.consume(broken, EVENTS) == 0
    assert session.assembler.is_odd


def test_blocks_go_back_when_the_runs_are_gone() -> None:
    gc.collect()
    before = memory.live_bytes()
    for rows_max in (1, 7, 10_000):
        session = Session(limits=RunLimits(rows_max=rows_max))
        session.feed(mixed_stream(Stream()))
        session.finish()
        assert memory.live_bytes() > before
        del session
    gc.collect()  # an assembler and its handlers hold each other
    assert memory.live_bytes() == before


def test_many_tables_and_ids_that_are_used_again() -> None:
    """More ids than the scanner keeps, and each id for another table later."""
    stream, session = Stream(), Session()
    for number in range(40_000):
        table = A if number // 20_000 else B
        if number % 500 == 0:
            for event in (
                stream.gtid(),
                stream.begin(),
                stream.table_map(table, table_id=number % 20_000),
                stream.insert((number, "a"), table_id=number % 20_000),
                stream.xid(),
            ):
                session.assembler.feed(event)
        else:
            events = [stream.gtid(), stream.begin(), stream.table_map(C, table_id=number % 20_000), stream.xid()]
            for event in events:
                session.assembler.feed(event)
    session.assembler.flush()
    found = all_images(session.out.runs)
    assert [(table, row[0]) for table, _, row in found if table == "b"] == [("b", n) for n in range(0, 20_000, 500)]
    assert [(table, row[0]) for table, _, row in found if table == "a"] == [
        ("a", n) for n in range(20_000, 40_000, 500)
    ]


def test_a_scanner_that_knows_no_format_takes_nothing() -> None:
    scanner = Scanner(is_mariadb=False)
    assert not scanner.is_fast
    assert scanner.transaction_count == 0
    with pytest.raises(IndexError):
        _ = scanner.last_end


@given(st.binary(max_size=300), st.integers(0, 20))
@example(bytes(range(256)) * 40, 3)
def test_the_checksum_is_zlibs(data: bytes, skipped: int) -> None:
    """Any length and alignment: tables alone, and folding."""
    view = memoryview(data)[skipped:]
    assert crc32(view) == zlib.crc32(view)


def test_batches_stay_as_they_are_while_the_stream_goes_on() -> None:
    """Blocks go round: one that Arrow still reads must not be written to."""
    stream, session = Stream(), Session(limits=RunLimits(rows_max=2))
    kept: list[tuple[RowBatch, list[object]]] = []
    for number in range(50):
        session.assembler.feed(stream.gtid())
        for event in (stream.begin(), stream.table_map(), stream.insert((number, "x" * number), (number, "y"))):
            session.assembler.feed(event)
        session.assembler.feed(stream.xid())
        run = session.out.runs[-1]
        kept += [(batch, batch.images.to_pylist()) for batch in run.batches]
        if number % 3 == 0:
            session.out.items.clear()
            kept = kept[-5:]
    assert all(batch.images.to_pylist() == rows for batch, rows in kept)
