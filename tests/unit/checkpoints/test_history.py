"""The rules of the schema history: which rows there are after what a pipeline saw, and what they say of a position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import ColumnDefinition, FilePos, ServerIdentity, SourcePosition, TableDefinition, TableName, ValueKind
from checkpoints.checkpoint import decode_position, encode_position
from checkpoints.history import (
    HistoryEntry,
    HistoryRow,
    TableHistory,
    _Seen,
    described,
    has_come_to,
    histories_of,
    is_told,
    pruned,
    with_seen,
    with_texts,
    within,
    without_worked_out,
)

SERVER = ServerIdentity("mysql", "3e11fa47-71ca-11e1-9e33-c80aa9429562")
OTHER = ServerIdentity("mysql", "11111111-71ca-11e1-9e33-c80aa9429562")
NOBODY = _Seen(None)


def at(pos: int, *, gtid: str | None = None, server: ServerIdentity = SERVER, file: int = 1) -> SourcePosition:
    gtids = None if gtid is None else MysqlGtidSet.parse(gtid)
    return SourcePosition(server, FilePos.of(f"binlog.{file:06}", pos), gtids)


def text(pos: int) -> str:
    return encode_position(at(pos))


def said(rows: list[HistoryRow]) -> list[tuple[int, str | None]]:
    found = []
    for row in rows:
        file = decode_position(row.since).file
        assert file is not None
        found.append((file.pos, row.digest))
    return found


def seen(rows: list[HistoryRow], *steps: tuple[int, _Seen]) -> list[HistoryRow]:
    for pos, one in steps:
        was_told = is_told(rows, one)
        after = with_seen(rows, one, text(pos))
        assert not was_told or after == rows, "what is told already changes nothing"
        rows = after
        assert is_told(rows, one)
    return rows


def loaded(digest: str, pos: int) -> _Seen:
    return _Seen(digest, loaded_from=text(pos))


def worked_out(digest: str) -> _Seen:
    return _Seen(digest, is_worked_out=True)


def test_a_load_holds_from_where_it_began_and_a_statement_from_its_end() -> None:
    rows = seen([], (100, NOBODY), (100, loaded("a", 120)), (150, _Seen("a")), (200, worked_out("b")))
    assert said(rows) == [(120, "a"), (200, "b")]


def test_what_is_compared_with_the_source_keeps_its_place() -> None:
    rows = seen([], (120, _Seen("a")), (200, worked_out("b")), (260, _Seen("b")))
    assert [(row.known, row.digest) for row in rows] == [("source", "a"), ("source", "b")]
    assert said(rows) == [(120, "a"), (200, "b")]
    mended = seen(rows[:1], (200, worked_out("b")), (260, _Seen("b with a comment")))
    assert said(mended) == [(120, "a"), (200, "b with a comment")]


def test_a_definition_is_not_known_while_nobody_watches_its_table() -> None:
    rows = seen([], (120, _Seen("a")), (200, NOBODY), (300, loaded("b", 320)), (400, _Seen("b")))
    assert said(rows) == [(120, "a"), (200, None), (320, "b")]  # the stream went from 200 to 300 without it


def test_a_load_right_where_the_table_was_left_closes_the_gap_once_it_has_caught_up() -> None:
    rows = seen([], (120, _Seen("a")), (200, NOBODY), (200, loaded("b", 320)))
    assert said(rows) == [(120, "a"), (200, None), (320, "b")]
    assert said(seen(rows, (330, _Seen("b")))) == [(120, "a"), (200, "b")]


def test_a_reload_without_a_change_leaves_no_trace() -> None:
    assert said(seen([], (120, _Seen("a")), (200, NOBODY), (200, loaded("a", 320)), (330, _Seen("a")))) == [(120, "a")]


def test_a_statement_between_a_load_and_the_stream_leaves_the_gap() -> None:
    rows = seen([], (120, _Seen("a")), (200, NOBODY), (200, loaded("c", 320)), (250, NOBODY))
    assert said(rows) == [(120, "a"), (200, None)]  # what was loaded is of a later time than 250
    again = seen(rows, (320, loaded("c", 400)), (410, _Seen("c")))
    assert said(again) == [(120, "a"), (200, None), (400, "c")]


def test_a_table_that_is_given_up_before_it_caught_up_was_never_known() -> None:
    assert seen([], (100, loaded("a", 120)), (110, NOBODY)) == []


def test_a_definition_that_was_worked_out_wrong_is_void_from_its_statement_on() -> None:
    rows = seen([], (120, _Seen("a")), (200, worked_out("b")), (240, worked_out("c")))
    assert said(seen(without_worked_out(rows), (300, NOBODY))) == [(120, "a"), (200, None)]


def test_a_table_that_a_statement_made_was_not_there_before() -> None:
    rows = seen([], (200, worked_out("b")), (260, _Seen("b with a comment")), (270, worked_out("c")))
    assert [(row.known, row.digest) for row in rows] == [("created", "b with a comment"), ("statement", "c")]
    assert said(rows) == [(200, "b with a comment"), (270, "c")]


def test_a_second_definition_at_the_same_place_takes_the_first_ones() -> None:
    rows = seen([], (120, _Seen("a")), (200, NOBODY), (200, worked_out("b")))
    assert said(rows) == [(120, "a"), (200, "b")]


def test_the_newest_rows_stay_and_the_oldest_of_them_says_something() -> None:
    rows = seen([], (10, _Seen("a")), (20, NOBODY), (30, _Seen("b")), (40, worked_out("c")), (50, worked_out("d")))
    assert said(within(rows, 4)) == [(30, "b"), (40, "c"), (50, "d")]
    assert said(within(rows, 2)) == [(40, "c"), (50, "d")]
    assert said(within(rows, 1)) == [(50, "d")]
    assert within(rows, 99) == rows


@pytest.mark.parametrize(
    "oldest, kept",
    [
        (5, [(10, "a"), (20, "b"), (30, None), (40, "c")]),
        (19, [(10, "a"), (20, "b"), (30, None), (40, "c")]),
        (20, [(20, "b"), (30, None), (40, "c")]),
        (35, [(30, None), (40, "c")]),
        (1000, [(40, "c")]),
    ],
)
def test_what_ended_before_the_oldest_log_is_pruned_and_the_newest_stays(
    oldest: int, kept: list[tuple[int, str | None]]
) -> None:
    rows = seen([], (10, _Seen("a")), (20, worked_out("b")), (30, NOBODY), (40, _Seen("c")))
    assert said(pruned(rows, at(oldest))) == kept


def test_a_table_that_is_gone_is_pruned_to_nothing() -> None:
    rows = seen([], (10, _Seen("a")), (20, NOBODY))
    assert said(pruned(rows, at(19))) == [(10, "a"), (20, None)]
    assert pruned(rows, at(20)) == []


def test_what_cannot_be_compared_is_not_pruned() -> None:
    rows = [HistoryRow(encode_position(at(pos, server=OTHER)), "source", str(pos)) for pos in (10, 20)]
    assert pruned(rows, at(1000)) == rows


def test_a_definition_that_comes_back_shares_its_text() -> None:
    rows = with_texts(seen([], (10, _Seen("a")), (20, worked_out("b")), (30, worked_out("a")), (40, NOBODY)))
    assert [row.has_text for row in rows] == [True, True, False, False]
    assert [row.has_text for row in with_texts(rows[1:])] == [True, True, False]


# ---------------------------------------------------------------- positions


@pytest.mark.parametrize(
    "position, place, has_come",
    [
        (at(10), at(10), True),
        (at(10), at(11), False),
        (at(10, file=2), at(11), True),
        (at(10), at(10, server=OTHER), None),
        (at(10, gtid=f"{SERVER.uuid}:1-5"), at(99, gtid=f"{SERVER.uuid}:1-4", server=OTHER), True),
        (at(10, gtid=f"{SERVER.uuid}:1-3"), at(1, gtid=f"{SERVER.uuid}:1-4", server=OTHER), False),
        (at(10, gtid=f"{SERVER.uuid}:1-3"), at(1, gtid=f"{OTHER.uuid}:1-4", server=OTHER), None),
        # The end of a file and the beginning of the next one are the same place.
        (at(999, gtid=f"{SERVER.uuid}:1-3"), at(4, gtid=f"{SERVER.uuid}:1-3", file=2), True),
        (at(999, gtid=f"{SERVER.uuid}:1-3"), at(4, gtid=f"{SERVER.uuid}:1-4", file=2), False),
    ],
)
def test_which_of_two_positions_comes_first(
    position: SourcePosition, place: SourcePosition, has_come: bool | None
) -> None:
    assert has_come_to(position, place) is has_come


def test_mariadbs_lists_compare_on_one_server_alone() -> None:
    here, there = ServerIdentity("mariadb", "1"), ServerIdentity("mariadb", "2")
    early, late = MariadbGtidList.parse("0-1-5,1-1-9"), MariadbGtidList.parse("0-1-6,1-1-9")
    beside = MariadbGtidList.parse("0-1-4,1-1-10")
    assert has_come_to(SourcePosition(here, None, late), SourcePosition(here, None, early)) is True
    assert has_come_to(SourcePosition(here, None, early), SourcePosition(here, None, late)) is False
    assert has_come_to(SourcePosition(here, None, beside), SourcePosition(here, None, early)) is None
    assert has_come_to(SourcePosition(there, None, late), SourcePosition(here, None, early)) is None


# ---------------------------------------------------------------- looking up


def definition(column: str) -> TableDefinition:
    columns = (ColumnDefinition(column, ValueKind.INTEGER, "int", length=32),)
    return TableDefinition(TableName("shop", "orders"), columns)


def test_looking_up_a_position() -> None:
    a, b = definition("a"), definition("b")
    entries = (
        HistoryEntry(at(100), "source", a),
        HistoryEntry(at(200), "unknown", None),
        HistoryEntry(at(300), "statement", b),
    )
    history = TableHistory(entries, at(400))
    found = {pos: history.at(at(pos)) for pos in (99, 100, 199, 200, 299, 300, 400, 401)}
    assert found == {99: None, 100: a, 199: a, 200: None, 299: None, 300: b, 400: b, 401: None}
    assert "begins at binlog.000001:100" in history.why_unknown(at(99))
    assert "was not followed" in history.why_unknown(at(250))
    assert "cannot be compared" in history.why_unknown(at(401))
    assert "cannot be compared" in history.why_unknown(at(100, server=OTHER))
    assert not history.is_created_behind(at(99))
    created = TableHistory((HistoryEntry(at(100), "created", a),), at(400))
    assert [created.is_created_behind(at(pos)) for pos in (99, 100, 101)] == [True, False, False]
    assert histories_of(described({a.name: history})) == {a.name: history}
    assert "no history" in TableHistory((), at(400)).why_unknown(at(1))


# ---------------------------------------------------------------- a history of random steps


@given(
    altered_at=st.sets(st.integers(1, 30)),
    steps=st.lists(st.tuples(st.sampled_from(["stream", "stream", "load", "give up"]), st.integers(0, 9)), max_size=60),
    wanted=st.integers(0, 30),
)
def test_what_the_history_says_of_a_position_is_what_held_there(
    altered_at: set[int], steps: list[tuple[str, int]], wanted: int
) -> None:
    """A source that runs ahead, a stream that comes behind, loads in between: what the rows say was so."""

    def definition_at(pos: int) -> str:
        return f"d{sum(1 for one in altered_at if one <= pos)}"

    rows: list[HistoryRow] = []
    now = 0
    is_followed, loaded_from = False, None
    for step, number in steps:
        if step == "give up":
            is_followed, loaded_from = False, None
            rows = with_seen(rows, NOBODY, text(now))
        elif step == "load" and not is_followed and loaded_from is None:
            loaded_from = now + number
            rows = with_seen(rows, loaded(definition_at(loaded_from), loaded_from), text(now))
        elif step == "stream":
            now += 1
            is_altered = now in altered_at
            if is_altered and is_followed and number:
                rows = with_seen(rows, worked_out(definition_at(now)), text(now))
            elif is_altered and (is_followed or loaded_from is not None):
                is_followed, loaded_from = False, None  # to be loaded again
                rows = with_seen(rows, NOBODY, text(now))
            elif loaded_from is not None and now >= loaded_from:
                is_followed, loaded_from = True, None
                rows = with_seen(rows, _Seen(definition_at(now)), text(now))
    covering = [pos_digest for pos_digest in said(rows) if pos_digest[0] <= wanted]
    if wanted <= now and covering and covering[-1][1] is not None:
        assert covering[-1][1] == definition_at(wanted)
    assert [pos for pos, _ in said(rows)] == sorted(pos for pos, _ in said(rows))
