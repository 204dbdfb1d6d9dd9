"""The assembler against streams made event by event: what counts, what is dropped, where a checkpoint may be."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.binlog.constants import EventFlag, EventType, MariadbGtidExtraFlag, MariadbGtidFlag
from cdc.binlog.layout import LayoutMismatch
from cdc.errors import (
    CdcError,
    ChecksumMismatch,
    Incident,
    MalformedEvent,
    ProtocolError,
    UnsupportedData,
    UnsupportedEvent,
)
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, SchemaChange, ServerIdentity, SourcePosition, TableName, TransactionRun
from cdc.source.assembler import CapturedTable, RunLimits
from tests.support.binlog_build import event_bytes, lenenc
from tests.unit.source.streams import (
    COLUMNS,
    FILE,
    SERVER,
    UUID,
    WHEN,
    A,
    B,
    C,
    Row,
    Session,
    Stream,
    Tables,
    all_images,
    at,
    definition,
    images,
    query_body,
)

GIB4 = 1 << 32
OTHER = "11111111-71ca-11e1-9e33-c80aa9429562"
UNCAPTURED = TableName("shop", "elsewhere")


def inserts(table: TableName, *rows: Row) -> list[tuple[str, str, Row]]:
    return [(table.table, "INSERT", row) for row in rows]


# ---------------------------------------------------------------- groups


def test_a_transaction_is_a_run_that_ends_after_its_xid() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.opening(), stream.format(), stream.transaction((1, "a"), (2, None)))
    (run,) = session.finish()
    assert images(run.batches) == inserts(A, (1, "a"), (2, None))
    assert run.end == at(stream.pos)
    assert (run.part_number, run.is_last_part, run.commit_times_us.to_pylist()) == (0, True, [WHEN * 1_000_000])


def test_nothing_is_handed_over_before_a_group_ends() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a"))[:-1])
    assert not session.assembler.has_transactions
    assert session.finish() == []
    assert session.position == at(4)


def test_every_way_to_commit_ends_the_group() -> None:
    stream, session = Stream(), Session()
    for end in (stream.xid, lambda: stream.end_query("COMMIT"), lambda: stream.end_query("commit /* x */")):
        session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((1, "a")), end())
        assert session.position == at(stream.pos)
    assert len(all_images(session.finish())) == 3


def test_rows_of_a_rolled_back_group_are_dropped_and_the_position_goes_on() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "kept")))
    session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((2, "gone")))
    session.feed(stream.end_query("ROLLBACK"), stream.transaction((3, "kept")))
    (run,) = session.finish()
    assert images(run.batches) == inserts(A, (1, "kept"), (3, "kept"))
    assert run.transaction_count == 3
    assert run.end == at(stream.pos)


def test_a_rollback_of_a_table_without_transactions_stops() -> None:
    stream = Stream()
    session = Session(tables=Tables([CapturedTable(definition(A, engine="MyISAM"))]))
    session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((1, "stays")))
    with pytest.raises(UnsupportedEvent, match="MyISAM"):
        session.feed(stream.end_query("ROLLBACK"))


def test_a_rollback_of_such_a_table_stops_also_where_its_rows_went_out_in_a_part() -> None:
    stream = Stream()
    tables = Tables([CapturedTable(definition(A, engine="MyISAM")), CapturedTable(definition(B))])
    session = Session(tables=tables, limits=RunLimits(part_rows_max=2))
    begun = stream.transaction((1, "a"), (2, "b"))[:-1]
    begun += [stream.table_map(B), stream.insert((3, "c"))]
    session.feed(begun)
    assert len(session.out.runs) == 1
    with pytest.raises(UnsupportedEvent, match="MyISAM"):
        session.feed(stream.end_query("ROLLBACK"))


def test_a_rollback_of_uncaptured_tables_is_no_trouble() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.table_map(UNCAPTURED), stream.insert((1, "x")))
    session.feed(stream.end_query("ROLLBACK"))
    assert session.finish()[0].batches == ()
    assert session.position == at(stream.pos)


def test_a_group_that_ends_in_no_way_that_is_known_stops() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a"))[:-1])
    with pytest.raises(UnsupportedEvent, match="no end"):
        session.feed(stream.gtid())


def test_a_commit_without_a_transaction_stops() -> None:
    with pytest.raises(MalformedEvent, match="without a transaction"):
        Session().feed(Stream().xid())


def test_groups_without_gtid_events_begin_with_their_first_statement() -> None:
    """MySQL 5.6 and 5.7 with gtid_mode=OFF, MySQL 5.6 always."""
    stream, session = Stream(), Session()
    session.feed(stream.begin(), stream.table_map(), stream.insert((1, "a")), stream.xid())
    session.feed(stream.end_query("CREATE USER someone"))
    (run,) = session.finish()
    assert (run.transaction_count, run.end) == (2, at(stream.pos))
    assert images(run.batches) == inserts(A, (1, "a"))


def test_transactions_without_captured_rows_move_the_position() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.end_query("COMMIT"))
    session.feed(stream.transaction((1, "x"), table=UNCAPTURED))
    assert session.assembler.has_transactions
    assert not session.assembler.has_rows
    (run,) = session.finish()
    assert (run.batches, run.transaction_count, run.end) == ((), 2, at(stream.pos))


def test_updates_and_deletes_keep_their_images_in_order() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.table_map())
    session.feed(stream.update((1, "a"), (2, "b"), flags=0), stream.delete((2, "b")), stream.xid())
    assert all_images(session.finish()) == [
        ("a", "UPDATE_BEFORE", (1, "a")),
        ("a", "UPDATE_AFTER", (2, "b")),
        ("a", "DELETE", (2, "b")),
    ]


# ---------------------------------------------------------------- a source that crashed


def test_rows_before_a_crash_of_the_source_are_dropped_when_its_next_file_begins() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "kept")))
    whole = stream.pos
    session.feed(stream.transaction((2, "lost"))[:-1])
    after = Stream(file="binlog.000008")
    session.feed(after.fake_rotate(), after.format())
    assert session.position == at(whole)
    session.feed(after.transaction((3, "kept")))
    first, second = session.finish()
    assert images(first.batches) == inserts(A, (1, "kept"))
    assert first.end == at(whole)
    assert images(second.batches) == inserts(A, (3, "kept"))
    assert second.end == at(after.pos, "binlog.000008")


def test_the_format_description_that_opens_a_stream_in_mid_file_drops_nothing() -> None:
    stream = Stream(900)
    session = Session(start=at(900))
    session.feed(stream.opening(), stream.transaction((1, "a")))
    assert all_images(session.finish()) == inserts(A, (1, "a"))
    assert session.position == at(stream.pos)


@pytest.mark.parametrize("end", ["crash", "rollback"])
def test_a_large_transaction_that_was_rolled_back_is_abandoned(end: str) -> None:
    """Parts of it are out: whoever has them in an open transaction is told to drop them."""
    stream, session = Stream(), Session(limits=RunLimits(bytes_max=1))
    *begun, _ = stream.transaction((1, "part"))
    session.feed(begun)
    if end == "crash":
        stream = Stream(file="binlog.000008")
        session.feed(stream.fake_rotate(), stream.format())
    else:
        session.feed(stream.end_query("ROLLBACK"))
    part, *rest = session.out.items
    assert isinstance(part, TransactionRun)
    assert (part.is_last_part, rest[0]) == (False, "abandoned")
    session.feed(stream.transaction((2, "kept")))
    session.finish()
    assert all_images(session.out.committed) == inserts(A, (2, "kept"))
    assert next(run.part_number for run in session.out.runs[1:]) == 0
    assert session.position == at(stream.pos, stream.file)


# ---------------------------------------------------------------- files and positions


def test_a_fake_rotate_does_not_advance_the_checkpoint() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    before = session.position
    session.feed(stream.fake_rotate("binlog.000009", 4))
    assert session.position == before
    (run,) = session.out.runs
    assert run.end == before


def test_a_run_does_not_cross_files_where_only_the_senders_own_rotate_tells_of_the_next() -> None:
    """A server that was shut down or died has written none of its own."""
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")), stream.transaction((2, "b")), stream.event(EventType.STOP, b""))
    ends = stream.pos
    after = Stream(file="binlog.000008")
    session.feed(after.fake_rotate(), after.format(), after.transaction((3, "c")))
    first, second = session.finish()
    assert first.end.file is not None
    assert (first.end.file.file, second.end) == ("binlog.000007", at(after.pos, "binlog.000008"))
    assert first.end.file.pos < ends
    assert first.ends is not None
    assert first.ends.offset.to_pylist()[-1] == first.end.file.pos
    assert second.ends is not None
    assert second.ends.offset.to_pylist() == [after.pos]


def test_a_rotate_inside_a_transaction_with_rows_is_an_error() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a"))[:-1])
    with pytest.raises(MalformedEvent, match="ROTATE event inside"):
        session.feed(stream.rotate("binlog.000008"))


def test_a_real_rotate_is_a_position_in_the_next_file_behind_the_rows_before_it() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    end = stream.pos
    session.feed(stream.rotate("binlog.000008"))
    first, second = session.out.runs
    assert (images(first.batches), first.end) == (inserts(A, (1, "a")), at(end))
    assert (second.batches, second.transaction_count, second.end) == ((), 0, at(4, "binlog.000008"))
    session.feed(stream.fake_rotate(), stream.format(), stream.transaction((2, "b")))
    assert session.position == at(stream.pos, "binlog.000008")


def test_the_millionth_file_comes_after_the_one_before_it() -> None:
    stream = Stream(file="binlog.999999")
    session = Session(start=at(4, "binlog.999999"))
    session.feed(stream.rotate("binlog.1000000"))
    (run,) = session.out.runs
    assert run.end.file is not None
    assert run.end.file > FilePos.of("binlog.999999", 10**9)


@pytest.mark.parametrize("event", ["rotate", "heartbeat"])
def test_a_file_without_a_number_is_malformed(event: str) -> None:
    stream = Stream()
    content = stream.fake_rotate("binlog") if event == "rotate" else stream.heartbeat(file="binlog")
    with pytest.raises(MalformedEvent, match="no number"):
        Session().feed(content)


def test_a_position_known_by_gtid_only_gets_its_file_from_the_streams_first_event() -> None:
    start = SourcePosition(SERVER, None, MysqlGtidSet())
    stream, session = Stream(), Session(start=start)
    session.feed(stream.fake_rotate())
    assert session.position == at(4, gtid=MysqlGtidSet())
    session.feed(stream.format(), stream.transaction((1, "a"), number=1))
    assert session.position == at(stream.pos, gtid=MysqlGtidSet.parse(f"{UUID}:1"))


def test_the_gtid_set_grows_by_whole_groups_only() -> None:
    stream = Stream()
    session = Session(start=at(4, gtid=MysqlGtidSet.parse(f"{UUID}:1-4,{OTHER}:9")))
    for number in (5, 7, 6):
        *begun, end = stream.transaction((number, "x"), number=number)
        before = session.position.gtid
        session.feed(begun)
        assert session.position.gtid == before
        session.feed(end)
    session.feed(stream.gtid(10, OTHER), stream.end_query("CREATE USER someone"))
    (run,) = session.finish()
    assert str(run.end.gtid) == f"{OTHER}:9-10,{UUID}:1-7"


def test_anonymous_groups_leave_the_gtid_set_as_it_is() -> None:
    stream = Stream()
    session = Session(start=at(4, gtid=MysqlGtidSet.parse(f"{UUID}:1")))
    session.feed(stream.transaction((1, "a")))
    assert str(session.position.gtid) == f"{UUID}:1"
    assert session.position.file == stream.here


def test_a_mariadb_list_moves_in_the_groups_domain() -> None:
    stream = Stream()
    session = Session(start=at(4, gtid=MariadbGtidList.parse("0-1-4,7-1-1")), flavor="mariadb")
    session.feed(stream.mariadb_gtid(9), stream.table_map(), stream.insert((1, "a")))
    assert str(session.position.gtid) == "0-1-4,7-1-1"
    session.feed(stream.xid(), stream.mariadb_gtid(1, domain=3), stream.xid())
    assert str(session.position.gtid) == "0-1-9,3-1-1,7-1-1"


def test_positions_go_on_past_4_gib_where_the_headers_wrap() -> None:
    stream = Stream(GIB4 - 200)
    session = Session(start=at(GIB4 - 200))
    seen = []
    for number in range(6):
        session.feed(stream.transaction((number, "x" * 20)))
        assert session.position == at(stream.pos)
        seen.append(stream.pos)
    assert seen[0] < GIB4 + 200 < seen[-1]
    assert len(all_images(session.finish())) == 6


def test_positions_past_4_gib_begin_anew_in_the_next_file() -> None:
    stream = Stream(GIB4 + 100)
    session = Session(start=at(GIB4 + 100))
    session.assembler._skip_until = session.slow._skip_until = None
    session.feed(stream.transaction((1, "a")), stream.rotate("binlog.000008"))
    assert session.position == at(4, "binlog.000008")


def test_positions_are_summed_where_a_group_hides_them() -> None:
    """MariaDB from 11.4 on writes 0 inside groups."""
    stream = Stream(hides_positions=True)
    session = Session(flavor="mariadb")
    session.feed(stream.mariadb_gtid(1), stream.table_map(), stream.insert((1, "a"), flags=0), stream.insert((2, "b")))
    assert session.assembler.file_pos == stream.here
    session.feed(stream.xid())
    assert session.position == at(stream.pos)


def test_a_stream_that_is_read_from_a_files_beginning_passes_over_all_before_its_start() -> None:
    """By file and position past 4 GiB the dump command cannot say where: neither rows nor statements of before the
    start count, nor do they move the checkpoint back."""
    stream = Stream()
    before = [stream.format(), *stream.transaction((1, "old")), stream.gtid(), stream.end_query("DROP TABLE a")]
    before += [
        stream.gtid(),
        stream.end_query("UPDATE a SET x = 1"),
        stream.gtid(),
        stream.end_query("DROP DATABASE shop"),
    ]
    stream.pos = GIB4 - 1000
    before += [*stream.transaction(*((n, "x" * 60) for n in range(20)))]
    assert stream.pos > GIB4
    start = at(stream.pos)
    session = Session(start=start)
    session.feed(Stream().fake_rotate(), before)
    assert session.position == start
    assert session.finish() == []
    session.feed(stream.transaction((2, "new")))
    assert all_images(session.finish()) == inserts(A, (2, "new"))
    assert session.position == at(stream.pos)


# ---------------------------------------------------------------- heartbeats


def test_a_heartbeat_is_progress_and_no_checkpoint() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    session.flush()
    end = session.position
    session.feed(stream.heartbeat(end.file.pos + 500 if end.file else 0))
    assert session.position == end
    (progress,) = session.out.seen
    assert progress.file == FilePos.of(FILE, stream.pos + 500)


def test_a_heartbeat_never_overtakes_rows_that_are_held_back() -> None:
    """Progress says that nothing lies between: whoever hears it takes waiting tables for ready."""
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")), stream.heartbeat())
    run, progress = session.out.items
    assert isinstance(run, TransactionRun)
    assert isinstance(progress, SourcePosition)
    assert images(run.batches) == inserts(A, (1, "a"))


def test_a_heartbeat_inside_a_group_says_nothing() -> None:
    stream, session = Stream(), Session()
    *begun, end = stream.transaction((1, "a"))
    session.feed(begun, stream.heartbeat())
    assert session.out.items == []
    session.feed(end, stream.heartbeat())
    assert len(session.out.seen) == 1


def test_a_heartbeat_of_32_bits_does_not_take_progress_back() -> None:
    stream = Stream(GIB4 + 5000)
    session = Session(start=at(GIB4 + 5000, gtid=MysqlGtidSet()))
    session.feed(stream.heartbeat(), stream.heartbeat_v2())
    assert [one.file for one in session.out.seen] == [stream.here, stream.here]


# ---------------------------------------------------------------- events that stop, and events that pass


@pytest.mark.parametrize("event_type", [200, EventType.START_V3, EventType.PRE_GA_WRITE_ROWS, 43, 159])
def test_an_unknown_event_stops_and_passes_where_its_writer_says_so(event_type: int) -> None:
    stream, session = Stream(), Session()
    with pytest.raises(UnsupportedEvent, match="not known") as caught:
        session.feed(stream.event(event_type, b"?"))
    assert caught.value.frame.endswith(b"?" + caught.value.frame[-4:])
    stream, session = Stream(), Session()
    session.feed(stream.event(event_type, b"?", flags=EventFlag.IGNORABLE), stream.transaction((1, "a")))
    assert session.position == at(stream.pos)


@pytest.mark.parametrize(
    "event_type",
    [
        EventType.STOP,
        EventType.ROWS_QUERY,
        EventType.PREVIOUS_GTIDS,
        EventType.TRANSACTION_CONTEXT,
        EventType.VIEW_CHANGE,
        EventType.MARIADB_ANNOTATE_ROWS,
        EventType.MARIADB_BINLOG_CHECKPOINT,
        EventType.MARIADB_GTID_LIST,
        EventType.MARIADB_START_ENCRYPTION,
    ],
)
def test_events_that_carry_nothing_pass_also_inside_a_group(event_type: EventType) -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.event(event_type, bytes(8)), stream.table_map())
    session.feed(stream.insert((1, "a")), stream.event(event_type, bytes(8)), stream.xid())
    assert all_images(session.finish()) == inserts(A, (1, "a"))


def test_an_incident_stops_at_the_position_before_it() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    with pytest.raises(Incident, match="LOST") as caught:
        session.feed(stream.event(EventType.INCIDENT, b"\1\0\4LOST"))
    assert caught.value.position == str(session.position)


def test_a_damaged_event_is_an_error_that_keeps_its_frame_and_position() -> None:
    stream, session = Stream(), Session()
    content = bytearray(stream.gtid())
    content[25] ^= 1
    with pytest.raises(ChecksumMismatch) as caught:
        session.feed(bytes(content))
    assert caught.value.frame == content
    assert str(session.position) in (caught.value.position or "")


@given(data=st.data())
def test_any_damage_is_a_declared_error_and_never_a_wrong_position(data: st.DataObject) -> None:
    """Flipped bits with a right checksum: the parsers behind it are what is tested."""
    stream, session = Stream(), Session()
    events = [*stream.transaction((1, "a"), number=1), *stream.transaction((2, "b"), table=B, number=2)]
    index = data.draw(st.integers(0, len(events) - 1))
    content = bytearray(events[index][:-4])
    content[data.draw(st.integers(19, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    events[index] = bytes(content) + zlib.crc32(content).to_bytes(4, "little")
    ends = {at(4).file}
    error: CdcError | None = None
    try:
        for one in events:
            if session.feed(one):
                break
            ends.add(session.assembler.file_pos)
            assert session.position.file in ends
        session.finish()
    except CdcError as caught:
        error = caught
    assert error is None or error.position


# ---------------------------------------------------------------- statements


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE a SET v63 = 'x'",
        "UPDATE `A` SET v63 = 'x'",
        "INSERT INTO elsewhere SELECT * FROM shop . a",
        "DELETE FROM other.elsewhere, b",
        "REPLACE INTO `b` VALUES (1)",
        "WITH x AS (SELECT 1) UPDATE a SET v63 = 1",
        "/*!50001 INSERT */ INTO a VALUES (1)",
        "LOAD DATA INFILE 'x' INTO TABLE a",
    ],
)
def test_a_change_by_statement_that_names_a_captured_table_stops(statement: str) -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin())
    with pytest.raises(UnsupportedEvent, match=r"shop\.[ab]"):
        session.feed(stream.query(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE elsewhere SET v = 'a'",
        "INSERT INTO ab VALUES (1) /* a */ -- b",
        "DELETE FROM shop_a.x # a",
        "UPDATE other.a SET v = 1",
        "SOMETHING NEW",
    ],
)
def test_a_change_by_statement_that_names_none_passes(statement: str) -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.query(statement), stream.xid())
    assert session.position == at(stream.pos)


def test_a_name_without_its_database_is_of_the_sessions() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.query("UPDATE a SET v = 1", database="other"), stream.xid())
    session.feed(stream.gtid(), stream.begin())
    with pytest.raises(UnsupportedEvent, match=r"shop\.a"):
        session.feed(stream.query("UPDATE shop.a SET v = 1", database="other"))


def test_a_function_that_was_logged_as_a_statement_stops_whatever_it_names() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin())
    with pytest.raises(UnsupportedEvent, match="stored function"):
        session.feed(stream.query("SELECT `other`.`f`()"))


def test_the_quoting_is_that_of_the_statements_session() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.query("""UPDATE x SET v = "a" """), stream.xid(), stream.gtid())
    with pytest.raises(UnsupportedEvent, match=r"shop\.a"):
        session.feed(stream.query("""UPDATE "a" SET v = 'x'""", sql_mode=0x4))
    session = Session()
    session.feed(stream.gtid())
    with pytest.raises(UnsupportedEvent, match=r"shop\.a"):
        session.feed(stream.query(r"UPDATE x SET v = '\' WHERE a = '", sql_mode=0x100000))


def load_query(statement: str) -> bytes:
    body = query_body(statement)
    return body[:13] + bytes(13) + body[13:]


@pytest.mark.parametrize("table", ["a", "`a`", "shop.`a`", "`my ta.ble`", '`we"ird`'])
def test_load_data_by_statement_into_a_captured_table_stops(table: str) -> None:
    tables = [CapturedTable(definition(TableName("shop", name))) for name in ("a", "my ta.ble", 'we"ird')]
    stream, session = Stream(), Session(tables=Tables(tables))
    session.feed(stream.gtid(), stream.begin(), stream.event(EventType.BEGIN_LOAD_QUERY, bytes(4) + b"1,x\n"))
    with pytest.raises(UnsupportedEvent, match="LOAD DATA"):
        session.feed(stream.event(EventType.EXECUTE_LOAD_QUERY, load_query(f"LOAD DATA INFILE 'f' INTO TABLE {table}")))


def test_load_data_by_statement_elsewhere_passes() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.event(EventType.BEGIN_LOAD_QUERY, bytes(4) + b"1,x\n"))
    session.feed(stream.event(EventType.EXECUTE_LOAD_QUERY, load_query("LOAD DATA INFILE 'a' INTO TABLE x")))
    session.feed(stream.xid())
    assert session.position == at(stream.pos)


def test_a_load_statement_that_is_cut_short_is_malformed() -> None:
    stream, session = Stream(), Session()
    with pytest.raises(MalformedEvent, match="EXECUTE_LOAD_QUERY"):
        session.feed(stream.event(EventType.EXECUTE_LOAD_QUERY, bytes(25)))


@pytest.mark.parametrize("event_type", [EventType.INTVAR, EventType.RAND, EventType.USER_VAR])
def test_context_of_a_statement_begins_its_group(event_type: EventType) -> None:
    stream, session = Stream(), Session()
    session.feed(stream.event(event_type, bytes(9)))
    assert session.position == at(4)
    session.feed(stream.end_query("INSERT INTO elsewhere VALUES (RAND())"))
    assert session.position == at(stream.pos)


def test_a_savepoint_is_no_end() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((1, "a")))
    session.feed(stream.query("SAVEPOINT s1"))
    assert session.position == at(4)
    session.feed(stream.xid())
    assert all_images(session.finish()) == inserts(A, (1, "a"))


def test_rollback_to_a_savepoint_stops_only_behind_captured_rows() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.table_map(UNCAPTURED), stream.insert((1, "x")))
    session.feed(stream.query("ROLLBACK TO `s1`"), stream.table_map(), stream.insert((1, "a")))
    with pytest.raises(UnsupportedEvent, match="SAVEPOINT"):
        session.feed(stream.query("ROLLBACK TO SAVEPOINT s1"))


# ---------------------------------------------------------------- DDL


def changes_of(session: Session) -> tuple[SchemaChange, ...]:
    return tuple(session.out.changes)


def test_a_statement_that_is_not_understood_is_a_barrier_for_the_captured_tables_in_it() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.query("SOMETHING NEW ABOUT b"))
    (change,) = changes_of(session)
    assert change.tables == (B,)
    assert change.is_exact


def test_ddl_is_a_barrier_with_the_position_after_it_which_no_run_passes() -> None:
    stream, session = Stream(), Session(start=at(4, gtid=MysqlGtidSet()))
    session.feed(stream.transaction((1, "a"), number=1))
    before = stream.pos
    assert session.feed(stream.gtid(2), stream.end_query("ALTER TABLE a ADD x INT"))
    run, change = session.out.items
    assert isinstance(run, TransactionRun)
    assert isinstance(change, SchemaChange)
    assert (run.end.file, str(run.end.gtid)) == (FilePos.of(FILE, before), f"{UUID}:1")
    assert (change.end.file, str(change.end.gtid)) == (stream.here, f"{UUID}:1-2")
    assert (change.tables, change.is_dropped, change.statement) == ((A,), frozenset(), "ALTER TABLE a ADD x INT")


@pytest.mark.parametrize(
    "statement, tables, dropped",
    [
        ("DROP TABLE `a`,`elsewhere`,`b` /* generated by server */", {A, B}, {A, B}),
        ("TRUNCATE a", {A}, set()),
        ("RENAME TABLE a TO elsewhere", {A}, {A}),
        ("RENAME TABLE a TO x, b TO a, x TO b", {A, B}, set()),
        ("ALTER TABLE a RENAME TO b", {A, B}, {A}),
        ("DROP DATABASE shop", {A, B}, {A, B}),
        ("CREATE TABLE IF NOT EXISTS a LIKE b", {A}, set()),
        ("CREATE OR REPLACE DATABASE shop", {A, B}, {A, B}),
        ("SET STATEMENT max_statement_time=10 FOR DROP TABLE a", {A}, {A}),
    ],
)
def test_what_ddl_touches_and_what_it_removes(statement: str, tables: set[TableName], dropped: set[TableName]) -> None:
    stream, session = Stream(), Session()
    assert session.feed(stream.gtid(), stream.end_query(statement))
    (change,) = changes_of(session)
    assert set(change.tables) == tables
    assert change.is_dropped == dropped


@pytest.mark.parametrize(
    "statement, database",
    [
        ("ALTER TABLE elsewhere ADD x INT", "shop"),
        ("ALTER TABLE a ADD x INT", "other"),
        ("CREATE VIEW v AS SELECT * FROM a", "shop"),
        ("CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW UPDATE b SET x = 1", "shop"),
        ("CREATE INDEX i ON a (v63)", "shop"),
        ("GRANT SELECT ON shop.a TO someone", "shop"),
        ("DROP DATABASE other", "shop"),
        ("ANALYZE TABLE a", "shop"),
    ],
)
def test_statements_that_touch_no_captured_table_are_passed(statement: str, database: str) -> None:
    stream, session = Stream(), Session()
    assert not session.feed(stream.gtid(), stream.end_query(statement, database=database))
    assert session.position == at(stream.pos)
    assert changes_of(session) == ()


def test_ddl_of_a_table_that_is_to_be_captured_is_a_barrier_too() -> None:
    stream, session = Stream(), Session(tables=Tables([CapturedTable(definition(A))], unknown=[C]))
    assert session.feed(stream.gtid(), stream.end_query("CREATE TABLE c (x INT)"))
    assert changes_of(session)[0].tables == (C,)


def test_names_are_folded_where_the_source_folds_them() -> None:
    for lower, touched in ((True, True), (False, False)):
        stream, session = Stream(), Session(lower_case_names=lower)
        assert session.feed(stream.gtid(), stream.end_query("TRUNCATE SHOP.A")) is touched


def test_ddl_that_a_load_has_seen_is_passed() -> None:
    stream = Stream()
    captured = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([captured]))
    assert not session.feed(stream.gtid(), stream.end_query("ALTER TABLE a ADD x INT"))
    stream.pos = 100_000
    session.feed(stream.fake_rotate())
    assert session.feed(stream.gtid(), stream.end_query("ALTER TABLE a ADD x INT"))


def test_ddl_inside_a_group_ends_before_the_group_which_comes_again() -> None:
    """CREATE TABLE … SELECT: rows follow in the same group."""
    stream = Stream()
    session = Session(tables=Tables([CapturedTable(definition(A))], unknown=[C]))
    session.feed(stream.transaction((1, "a")))
    before = stream.pos
    session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((2, "again")))
    assert session.feed(stream.query("CREATE TABLE `c` (`x` int) START TRANSACTION"))
    (run,), (change,) = session.out.runs, session.out.changes
    assert (images(run.batches), run.end) == (inserts(A, (1, "a")), at(before))
    assert change.end == at(before)


def test_mariadb_two_phase_alter_changes_at_its_commit() -> None:
    flags = MariadbGtidFlag.STANDALONE | MariadbGtidFlag.DDL
    extra = {phase: bytes((phase,)) for phase in MariadbGtidExtraFlag}
    stream, session = Stream(), Session(flavor="mariadb")
    alter = "ALTER TABLE a ADD x INT"
    start, commit, rollback = (
        extra[MariadbGtidExtraFlag.START_ALTER],
        extra[MariadbGtidExtraFlag.COMMIT_ALTER] + bytes(8),
        extra[MariadbGtidExtraFlag.ROLLBACK_ALTER] + bytes(8),
    )
    assert not session.feed(stream.mariadb_gtid(1, flags=flags, extra=start), stream.end_query(alter))
    session.feed(stream.mariadb_gtid(2), stream.table_map(), stream.insert((1, "old")), stream.xid())
    assert not session.feed(stream.mariadb_gtid(3, flags=flags, extra=rollback), stream.end_query(alter))
    assert session.position == at(stream.pos)
    assert not session.feed(stream.mariadb_gtid(4, flags=flags, extra=start), stream.end_query(alter))
    assert session.feed(stream.mariadb_gtid(5, flags=flags, extra=commit), stream.end_query(alter))
    assert all_images(session.out.runs) == inserts(A, (1, "old"))
    assert session.out.changes[0].end == at(stream.pos)


def test_a_mariadb_standalone_group_ends_with_its_statement() -> None:
    stream, session = Stream(), Session(flavor="mariadb")
    session.feed(stream.mariadb_gtid(1, flags=MariadbGtidFlag.STANDALONE), stream.end_query("CREATE USER someone"))
    assert session.position == at(stream.pos)
    session.feed(stream.mariadb_gtid(2), stream.query("CREATE USER someone"))
    assert session.position != at(stream.pos)


def test_ddl_that_failed_halfway_counts_as_done() -> None:
    stream, session = Stream(), Session()
    assert session.feed(stream.gtid(), stream.end_query("DROP TABLE a, missing", error=1051))


# ---------------------------------------------------------------- tables that are not loaded, or not yet


def test_an_unknown_table_is_a_barrier_before_its_transaction() -> None:
    """Rows of another table in the same transaction are not handed over: the transaction comes again."""
    stream = Stream()
    session = Session(tables=Tables([CapturedTable(definition(A))], unknown=[C]))
    session.feed(stream.transaction((1, "before")))
    end = stream.pos
    session.feed(stream.gtid(), stream.begin(), stream.table_map(A), stream.insert((2, "again")))
    assert session.feed(stream.table_map(C, 78))
    run, change = session.out.items
    assert isinstance(run, TransactionRun)
    assert isinstance(change, SchemaChange)
    assert (images(run.batches), run.end) == (inserts(A, (1, "before")), at(end))
    assert (change.tables, change.end, change.is_dropped, change.statement) == ((C,), at(end), frozenset(), "")


def test_a_table_that_the_source_did_not_have_any_more_is_not_waited_for() -> None:
    stream = Stream()
    session = Session(tables=Tables([], unknown=[C], absent={C: at(10_000)}))
    assert not session.feed(stream.transaction((1, "gone since"), table=C))
    stream.pos = 10_000
    assert session.feed(stream.fake_rotate(), stream.transaction((1, "there again"), table=C))


def test_transactions_that_a_load_has_seen_are_passed_over_for_that_table_only() -> None:
    stream = Stream()
    gtid = MysqlGtidSet.parse(f"{UUID}:1-2")
    loading = CapturedTable(definition(B), loaded_from=SourcePosition(SERVER, None, gtid), is_ready=False)
    session = Session(start=at(4, gtid=MysqlGtidSet()), tables=Tables([CapturedTable(definition(A)), loading]))
    for number in (1, 2, 3):
        session.feed(stream.gtid(number), stream.begin(), stream.table_map(A, 1), stream.table_map(B, 2))
        session.feed(stream.insert((number, "a"), table_id=1, flags=0), stream.insert((number, "b"), table_id=2))
        session.feed(stream.xid())
    runs = session.finish()
    assert all_images(runs, A) == inserts(A, (1, "a"), (2, "a"), (3, "a"))
    assert all_images(runs, B) == inserts(B, (3, "b"))


def test_by_file_a_load_has_seen_what_began_before_its_position() -> None:
    stream = Stream()
    first = stream.transaction((1, "seen"))
    border = stream.pos
    loading = CapturedTable(definition(A), loaded_from=at(border), is_ready=False)
    session = Session(tables=Tables([loading]))
    session.feed(first, stream.transaction((2, "new")))
    assert all_images(session.finish()) == inserts(A, (2, "new"))


def test_a_load_from_another_server_cannot_be_compared_by_file() -> None:
    elsewhere = SourcePosition(ServerIdentity("mysql", OTHER), FilePos.of(FILE, 10_000))
    session = Session(tables=Tables([CapturedTable(definition(A), loaded_from=elsewhere, is_ready=False)]))
    with pytest.raises(ProtocolError, match="cannot be compared"):
        session.feed(Stream().transaction((1, "a")))


def test_a_mariadb_load_is_compared_by_file_where_the_server_is_the_same() -> None:
    """Sequence numbers may go back in a domain; positions in a file may not."""
    stream = Stream()
    first = [stream.mariadb_gtid(9), stream.table_map(), stream.insert((1, "seen")), stream.xid()]
    loaded = at(stream.pos, gtid=MariadbGtidList.parse("0-1-9"))
    session = Session(
        start=at(4, gtid=MariadbGtidList()),
        tables=Tables([CapturedTable(definition(A), loaded_from=loaded, is_ready=False)]),
        flavor="mariadb",
    )
    session.feed(first, stream.mariadb_gtid(5), stream.table_map(), stream.insert((2, "new")), stream.xid())
    assert all_images(session.finish()) == inserts(A, (2, "new"))


def test_rows_of_an_older_definition_load_a_table_that_is_catching_up_again() -> None:
    stream = Stream()
    captured = CapturedTable(definition(A), loaded_from=at(4), is_ready=False)
    session = Session(tables=Tables([captured]))
    session.feed(stream.transaction((1, "x"), table=UNCAPTURED))
    end = stream.pos
    session.feed(stream.gtid(), stream.begin())
    assert session.feed(stream.table_map(A, columns=COLUMNS[:1]))
    assert (session.out.changes[0].tables, session.out.changes[0].end) == ((A,), at(end))


def test_rows_of_another_definition_are_an_error_on_a_table_that_is_ready() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin())
    with pytest.raises(LayoutMismatch) as caught:
        session.feed(stream.table_map(A, columns=COLUMNS[:1]))
    assert isinstance(caught.value, UnsupportedData)
    assert caught.value.table == "shop.a"


# ---------------------------------------------------------------- table maps


def test_a_table_id_is_another_table_after_the_source_restarted() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "of a"), table=A))
    after = Stream(file="binlog.000008")
    session.feed(after.fake_rotate(), after.format(), after.transaction((2, "of b"), table=B))
    runs = session.finish()
    assert all_images(runs, A) == inserts(A, (1, "of a"))
    assert all_images(runs, B) == inserts(B, (2, "of b"))


@pytest.mark.parametrize("between", ["format", "rotate", "statement end", "commit", "dummy"])
def test_a_table_map_ends_with_its_statement_and_with_its_file(between: str) -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin(), stream.table_map())
    if between == "format":
        session.feed(stream.format())
        session.feed(stream.gtid(), stream.begin())
    elif between == "rotate":
        session.feed(stream.fake_rotate("binlog.000008", 4))
    elif between == "statement end":
        session.feed(stream.insert((1, "a"), flags=1))
    elif between == "commit":
        session.feed(stream.xid(), stream.gtid(), stream.begin())
    else:
        session.feed(stream.event(EventType.WRITE_ROWS, b"\xff\xff\xff\0\0\0" + b"\1\0\2\0" + b"\0"))
    with pytest.raises(MalformedEvent, match="no table map"):
        session.feed(stream.insert((2, "b")))


def test_rows_without_a_table_map_are_malformed() -> None:
    stream, session = Stream(), Session()
    with pytest.raises(MalformedEvent, match="table id 5"):
        session.feed(stream.gtid(), stream.begin(), stream.insert((1, "a"), table_id=5))


def test_several_maps_may_precede_the_rows_and_a_map_may_have_none() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.begin())
    session.feed(stream.table_map(A, 1), stream.table_map(UNCAPTURED, 2), stream.table_map(B, 3))
    session.feed(stream.insert((1, "b"), table_id=3, flags=0), stream.insert((1, "x"), table_id=2, flags=0))
    session.feed(stream.insert((2, "b"), table_id=3), stream.xid())
    assert all_images(session.finish()) == inserts(B, (1, "b"), (2, "b"))


def test_a_new_map_for_a_table_in_use_keeps_the_rows_before_it_first() -> None:
    """FULL metadata switched on in mid stream: other bytes, other layout, the same table."""
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    session.feed(stream.gtid(), stream.begin(), stream.table_map(is_full=True), stream.insert((2, "b")), stream.xid())
    session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((3, "c")))
    session.feed(stream.table_map(is_full=True), stream.insert((4, "d")), stream.xid())
    (run,) = session.finish()
    assert images(run.batches) == inserts(A, (1, "a"), (2, "b"), (3, "c"), (4, "d"))
    assert [n for b in run.batches for n in b.transaction_index.to_pylist()] == [0, 1, 2, 2]


def test_an_open_transaction_is_dropped_whole_although_its_layout_changed_in_it() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "kept")), stream.gtid(), stream.begin())
    session.feed(stream.table_map(), stream.insert((2, "lost")))
    session.feed(stream.table_map(is_full=True), stream.insert((3, "lost")), stream.end_query("ROLLBACK"))
    assert all_images(session.finish()) == inserts(A, (1, "kept"))


# ---------------------------------------------------------------- XA


def xa_prepare(stream: Stream, xid: bytes = b"x1", *, one_phase: bool = False) -> bytes:
    body = bytes((one_phase,)) + (1).to_bytes(4, "little") + len(xid).to_bytes(4, "little") + bytes(4) + xid
    return stream.event(EventType.XA_PREPARE, body)


XID = f"X'{b'x1'.hex()}',X'',1"


def xa_group(stream: Stream, table: TableName, row: Row) -> list[bytes]:
    return [
        stream.gtid(),
        stream.query(f"XA START {XID}"),
        stream.table_map(table),
        stream.insert(row),
        stream.query(f"XA END {XID}"),
    ]


def test_xa_in_one_phase_is_a_commit() -> None:
    stream, session = Stream(), Session()
    session.feed(xa_group(stream, A, (1, "a")), xa_prepare(stream, one_phase=True))
    assert all_images(session.finish()) == inserts(A, (1, "a"))
    assert session.position == at(stream.pos)


def test_prepared_rows_of_a_captured_table_stop() -> None:
    stream, session = Stream(), Session()
    session.feed(xa_group(stream, A, (1, "a")))
    with pytest.raises(UnsupportedEvent, match="prepared"):
        session.feed(xa_prepare(stream))


def test_prepared_rows_that_a_load_could_not_see_stop() -> None:
    """The prepared group lies before the load's position, but its rows are not committed: no SELECT saw them."""
    stream = Stream()
    loading = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([loading]))
    session.feed(xa_group(stream, A, (1, "a")))
    with pytest.raises(UnsupportedEvent, match="prepared"):
        session.feed(xa_prepare(stream))


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_prepared_rows_of_uncaptured_tables_pass_with_their_end(end: str) -> None:
    stream, session = Stream(), Session()
    session.feed(xa_group(stream, UNCAPTURED, (1, "x")), xa_prepare(stream))
    assert session.position == at(stream.pos)
    session.feed(stream.gtid(), stream.end_query(f"XA {end} {XID}"))
    assert session.position == at(stream.pos)
    with pytest.raises(UnsupportedEvent, match="before the stream began"):  # names are reused: it ended
        session.feed(stream.gtid(), stream.end_query(f"XA COMMIT {XID}"))


def test_xa_without_captured_rows_may_follow_a_transaction_that_has_some() -> None:
    """Each group answers for its own rows, also one that is opened event by event, as this one is by its GTID."""
    stream, session = Stream(), Session(start=at(4, gtid=MariadbGtidList()), flavor="mariadb")
    session.feed(stream.opening(), stream.format())
    session.feed(stream.mariadb_gtid(1), stream.table_map(A), stream.insert((1, "a")), stream.xid())
    name = (1).to_bytes(4, "little") + bytes((2, 0)) + b"x1"
    session.feed(stream.mariadb_gtid(2, flags=MariadbGtidFlag.PREPARED_XA, extra=name), stream.query(f"XA START {XID}"))
    session.feed(stream.query(f"XA END {XID}"), xa_prepare(stream))
    assert session.position.gtid == MariadbGtidList({0: (1, 2)})


def test_xa_commit_of_what_was_prepared_before_the_stream_stops_and_rollback_passes() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.gtid(), stream.end_query(f"XA ROLLBACK {XID}"))
    assert session.position == at(stream.pos)
    with pytest.raises(UnsupportedEvent, match="before the stream began"):
        session.feed(stream.gtid(), stream.end_query(f"XA COMMIT {XID}"))


# ---------------------------------------------------------------- compressed transactions


def payload(stream: Stream, inner: list[bytes], *, is_packed: bool = True) -> bytes:
    raw = b"".join(inner)
    packed = raw
    if is_packed:
        out = io.BytesIO()
        with pa.CompressedOutputStream(out, "zstd") as zstd:
            zstd.write(raw)
            zstd.flush()
            packed = pa.compress(raw, codec="zstd", asbytes=True)
    fields = b""
    for kind, value in ((1, len(packed)), (2, 0 if is_packed else 255), (3, len(raw))):
        fields += lenenc(kind) + lenenc(len(lenenc(value))) + lenenc(value)
    return stream.event(EventType.TRANSACTION_PAYLOAD, fields + b"\0" + packed)


def inside(*events: bytes) -> list[bytes]:
    """Events as a payload holds them: no checksum, no position."""
    found = []
    for event in events:
        kind, flags = event[4], int.from_bytes(event[17:19], "little")
        found.append(event_bytes(kind, event[19:-4], checksum=False, log_pos=0, flags=flags, timestamp=WHEN))
    return found


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_compressed_transaction_counts_and_its_end_is_the_payloads(is_packed: bool) -> None:
    stream, session, scratch = Stream(), Session(start=at(4, gtid=MysqlGtidSet())), Stream()
    inner = inside(scratch.begin(), scratch.table_map(), scratch.insert((1, "a"), (2, "b")), scratch.xid())
    session.feed(stream.gtid(1), payload(stream, inner, is_packed=is_packed))
    (run,) = session.finish()
    assert images(run.batches) == inserts(A, (1, "a"), (2, "b"))
    assert run.end == at(stream.pos, gtid=MysqlGtidSet.parse(f"{UUID}:1"))


def test_a_barrier_inside_a_compressed_transaction_ends_the_reading() -> None:
    stream, scratch = Stream(), Stream()
    session = Session(tables=Tables([CapturedTable(definition(A))], unknown=[C]))
    inner = inside(scratch.begin(), scratch.table_map(A), scratch.insert((1, "a")), scratch.table_map(C, 78))
    inner += inside(scratch.insert((1, "c"), table_id=78), scratch.xid())
    assert session.feed(stream.gtid(), payload(stream, inner))
    assert session.out.runs == []
    assert session.out.changes[0].end == at(4)


def test_an_unknown_event_inside_a_compressed_transaction_stops() -> None:
    stream, session, scratch = Stream(), Session(), Stream()
    session.feed(stream.gtid())
    with pytest.raises(UnsupportedEvent):
        session.feed(payload(stream, inside(scratch.begin(), scratch.event(200, b"?"))))


# ---------------------------------------------------------------- runs and parts


def test_a_run_is_handed_over_when_it_holds_enough_rows() -> None:
    stream, session = Stream(), Session(limits=RunLimits(rows_max=3))
    for number in range(7):
        session.feed(stream.transaction((number, "x")))
    assert [run.image_count for run in session.out.runs] == [3, 3]
    assert [run.transaction_count for run in session.out.runs] == [3, 3]
    session.finish()
    assert [n for run in session.out.runs for n in run.batches[0].transaction_index.to_pylist()] == [
        0,
        1,
        2,
        0,
        1,
        2,
        0,
    ]


def test_a_run_is_handed_over_when_it_holds_enough_bytes() -> None:
    stream, session = Stream(), Session(limits=RunLimits(bytes_max=300))
    for number in range(8):
        session.feed(stream.transaction((number, "x" * 60)))
    # an image takes about 90 bytes of Arrow's memory
    assert [run.transaction_count for run in session.out.runs] == [4, 4]
    assert all(run.is_last_part and run.byte_count >= 300 for run in session.out.runs)


def test_a_large_transaction_comes_in_numbered_parts_and_only_the_last_passes_it() -> None:
    stream, session = Stream(), Session(limits=RunLimits(bytes_max=150), start=at(4, gtid=MysqlGtidSet()))
    session.feed(stream.transaction((0, "small"), number=1))
    before = session.position
    session.feed(stream.gtid(2), stream.begin(), stream.table_map())
    for number in range(1, 8):
        session.feed(stream.insert((number, "x" * 60), flags=0))
    session.feed(stream.delete((8, "x"), flags=1), stream.xid())
    first, *parts = session.out.runs
    assert (first.part_number, first.is_last_part, first.transaction_count) == (0, True, 1)
    assert [part.part_number for part in parts] == list(range(len(parts)))
    assert len(parts) > 2
    assert [part.is_last_part for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [part.transaction_count for part in parts] == [0] * (len(parts) - 1) + [1]
    assert all(part.end == before for part in parts[:-1])
    assert parts[-1].end == at(stream.pos, gtid=MysqlGtidSet.parse(f"{UUID}:1-2"))
    assert [row for _, _, row in all_images(parts)] == [(n, "x" * 60) for n in range(1, 8)] + [(8, "x")]
    assert {n for part in parts for batch in part.batches for n in batch.transaction_index.to_pylist()} == {0}
    session.feed(stream.transaction((9, "after"), number=3))
    (last,) = session.finish()[len(parts) + 1 :]
    assert (last.part_number, images(last.batches)) == (0, inserts(A, (9, "after")))


def test_a_flush_inside_a_large_transaction_does_not_end_it() -> None:
    stream, session = Stream(), Session(limits=RunLimits(bytes_max=1))
    session.feed(stream.transaction((1, "part"))[:-1])
    before = len(session.out.runs)
    session.flush()
    assert len(session.out.runs) == before


def test_a_barrier_in_a_large_transaction_ends_before_it() -> None:
    stream = Stream()
    session = Session(tables=Tables([CapturedTable(definition(A))], unknown=[C]), limits=RunLimits(bytes_max=1))
    session.feed(stream.transaction((0, "before")))
    end = stream.pos
    session.feed(stream.gtid(), stream.begin(), stream.table_map(), stream.insert((1, "part")))
    assert session.feed(stream.table_map(C, 78))
    assert not session.out.runs[-1].is_last_part
    assert session.out.changes[0].end == at(end)


def test_open_rows_stay_behind_when_the_whole_ones_before_them_go() -> None:
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    *begun, end = stream.transaction((2, "b"))
    session.feed(begun)
    session.flush()
    assert all_images(session.out.runs) == inserts(A, (1, "a"))
    session.feed(end)
    (_, run) = session.finish()
    assert images(run.batches) == inserts(A, (2, "b"))
    assert run.batches[0].transaction_index.to_pylist() == [0]


Piece = tuple[str, int]
pieces: st.SearchStrategy[Piece] = st.tuples(st.sampled_from("abx"), st.integers(1, 4))
histories = st.lists(
    st.tuples(st.lists(pieces, max_size=4), st.sampled_from(("commit", "commit", "commit", "rollback", "layout"))),
    min_size=1,
    max_size=8,
)


def play(history: list[tuple[list[Piece], str]], limits: RunLimits, flushes: set[int]) -> list[TransactionRun]:
    """One session over the history's events; flushed after the events of these numbers."""
    stream, session = Stream(), Session(limits=limits)
    key = count = 0
    for statements, end in history:
        events = [stream.gtid(), stream.begin()]
        for table, rows in statements:
            name = UNCAPTURED if table == "x" else TableName("shop", table)
            events.append(stream.table_map(name, is_full=end == "layout"))
            events += [stream.insert((key := key + 1, "x" * key), flags=n == rows) for n in range(1, rows + 1)]
        events.append(stream.end_query("ROLLBACK") if end == "rollback" else stream.xid())
        for event in events:
            session.feed(event)
            count += 1
            if count in flushes:
                session.flush()
    session.finish()
    assert session.position == at(stream.pos)
    return session.out.committed


@given(histories, st.integers(1, 12), st.integers(20, 2000), st.sets(st.integers(1, 120)))
def test_any_split_into_runs_and_parts_gives_the_same_images(
    history: list[tuple[list[Piece], str]], rows_max: int, bytes_max: int, flushes: set[int]
) -> None:
    expected = play(history, RunLimits(), set())
    split = play(history, RunLimits(rows_max=rows_max, bytes_max=bytes_max), flushes)
    for table in (A, B):
        assert all_images(split, table) == all_images(expected, table)
    assert sum(run.transaction_count for run in split) == len(history)
    ends = [run.end.file for run in split if run.end.file is not None]
    assert ends == sorted(ends)
    number = 0
    for run in split:
        assert run.part_number == number
        number = 0 if run.is_last_part else number + 1
        indices = [n for batch in run.batches for n in batch.transaction_index.to_pylist()]
        assert all(n < max(run.transaction_count, 1) for n in indices)
    assert number == 0


def test_a_definition_of_later_gives_a_batch_of_its_own() -> None:
    """The registry replaces a definition between two runs: the old layout must not be used for it."""
    stream, session = Stream(), Session()
    session.feed(stream.transaction((1, "a")))
    changed = replace(definition(A), comment="new")
    session.tables.captured[A] = CapturedTable(changed)
    session.tables.revision += 1
    session.feed(stream.transaction((2, "b")))
    (run,) = session.finish()
    assert [batch.definition.comment for batch in run.batches] == ["", "new"]
    assert images(run.batches) == inserts(A, (1, "a"), (2, "b"))
