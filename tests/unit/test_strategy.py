"""Which strategy a table gets, and where the window of an incremental run begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.strategy import Offer, TablePolling, choose, problems
from checkpoints.polls import PollState
from snapshot.polling import window_begin

ID = ColumnDefinition("id", ValueKind.INTEGER, "int", is_nullable=False, length=32)
AT = ColumnDefinition("at", ValueKind.TIMESTAMP, "timestamp", is_nullable=False)
NAME = ColumnDefinition("name", ValueKind.TEXT, "varchar(9)", length=9)
TABLE = TableDefinition(TableName("shop", "t"), (ID, AT, NAME), primary_key=("id",))
OFFER = Offer(TABLE, ("id",), indexed={"id", "at"}, on_update={"at"}, rows=1_000_000, why_no_log="no log")


def offer(**more: Any) -> Offer:
    return replace(OFFER, **more)


@pytest.mark.parametrize(
    "given, expected, word",
    [
        (offer(why_no_log=""), "cdc", "binlog"),
        (OFFER, "incremental", "NOT NULL and indexed"),
        (offer(rows=None), "incremental", "NOT NULL and indexed"),
        (offer(rows=500), "full_refresh", "about 500 rows"),
        (offer(key=()), "full_refresh", "no key"),
        (offer(indexed={"id"}), "full_refresh", "no column is set by the server"),
        (offer(on_update=()), "full_refresh", "no column is set by the server"),
        (
            offer(definition=replace(TABLE, columns=(ID, replace(AT, is_nullable=True), NAME))),
            "full_refresh",
            "no column is set by the server",
        ),
    ],
)
def test_auto_takes_the_first_that_the_table_allows(given: Offer, expected: str, word: str) -> None:
    choice = choose(TablePolling("auto"), given)
    assert choice.strategy == expected
    assert word in choice.reason


def test_auto_by_a_named_modifier_says_what_it_lacks() -> None:
    choice = choose(TablePolling("auto", modifier="at"), offer(indexed={"id"}))
    assert (choice.strategy, choice.reason) == (
        "full_refresh",
        "no log; the modifier at is the first column of no index",
    )
    assert choose(TablePolling("auto", modifier="at"), offer(on_update=())).strategy == "incremental"


@pytest.mark.parametrize(
    "modifier, given, word",
    [
        ("gone", OFFER, "has no column gone"),
        ("name", OFFER, "is varchar(9)"),
        ("at", offer(key=()), "no key"),
        (None, OFFER, "no modifier"),
    ],
)
def test_incremental_needs_a_modifier_and_a_key(modifier: str | None, given: Offer, word: str) -> None:
    with pytest.raises(UnsupportedData, match=word.replace("(", r"\(").replace(")", r"\)")):
        choose(TablePolling("incremental", modifier=modifier), given)


def test_what_fits_badly_is_said() -> None:
    polling = TablePolling("incremental", modifier="at", lookback_seconds=60)
    column = ColumnDefinition("at", ValueKind.DATETIME, "datetime", is_nullable=True)
    given = offer(definition=replace(TABLE, columns=(ID, column)), indexed=(), on_update=())
    said = [problem for problem, _ in problems(choose(polling, given), polling, given)]
    assert len(said) == 5
    for word in ("no index", "may be NULL", "not set by the server", "no time zone", "deleted rows"):
        assert any(word in problem for problem in said), word
    assert not problems(choose(TablePolling("full_refresh"), given), polling, given)


NUMBER = ColumnDefinition("n", ValueKind.INTEGER, "bigint", is_nullable=False, length=64)
DATETIME = ColumnDefinition("d", ValueKind.DATETIME, "datetime")
DATE = ColumnDefinition("d", ValueKind.DATE, "date")


@pytest.mark.parametrize(
    "column, edge, lookback, expected",
    [
        (AT, None, 300, None),
        (AT, "2024-03-31 00:01:00", 300, "2024-03-30 23:56:00.000000"),
        (AT, "2024-03-31 00:01:00.250000", 0, "2024-03-31 00:01:00.250000"),
        (DATETIME, "2024-02-31 10:00:00", 0, "2024-02-29 10:00:00.000000"),  # ALLOW_INVALID_DATES
        (DATETIME, "2024-00-00 10:00:00", 0, "2024-01-01 10:00:00.000000"),
        (DATETIME, "0001-01-01 00:00:10", 60, None),
        (DATE, "2024-03-01", 3900, "2024-02-29"),
        (DATE, "2024-03-01", 0, "2024-03-01"),
    ],
)
def test_a_window_of_times_begins_before_the_edge(
    column: ColumnDefinition, edge: str | None, lookback: float, expected: str | None
) -> None:
    state = PollState(edge=edge)
    assert window_begin(column, state, lookback_seconds=lookback, now_us=0) == expected


SECOND = 1_000_000


@pytest.mark.parametrize(
    "marks, began, now, is_settled, expected",
    [
        ((), 0, 10, True, None),  # an empty table
        (((100, "7"),), 100, 105, False, "7"),  # new rows only, until what was open has ended
        (((100, "7"),), 100, 110, False, None),  # then all of them, once
        (((100, "7"), (105, "9")), 110, 115, True, "7"),  # the last run has seen all below 7, and not yet below 9
        (((100, "7"), (105, "9"), (110, "12")), 115, 120, True, "9"),
        (((100, "7"), (105, "10")), 140, 145, True, "10"),  # as numbers, not as text
    ],
)
def test_a_window_of_numbers_begins_at_what_was_given_out_long_enough_ago(
    marks: tuple[tuple[int, str], ...], began: int, now: int, is_settled: bool, expected: str | None
) -> None:
    state = PollState(
        marks=tuple((at * SECOND, value) for at, value in marks), began_us=began * SECOND, is_settled=is_settled
    )
    assert window_begin(NUMBER, state, lookback_seconds=10, now_us=now * SECOND) == expected
