"""When a pipeline that was ended by something that passes begins again."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cdc.errors import RetriesSpent, SinkUnavailable, SourceUnavailable
from cdc.pipeline.report import most_tried
from cdc.pipeline.retry import Retries, RetryPolicy, spent_hint
from tests.unit.pipeline.clocks import FakeClock

AWAY = SinkUnavailable("the sink is away")


def _failed(retries: Retries, *, has_begun: bool = True) -> Any:
    return retries.failed(AWAY, has_begun=has_begun, place="binlog.000001:4")


def test_pauses_double_up_to_the_longest_and_are_never_the_same_for_all() -> None:
    policy = RetryPolicy(initial_seconds=0.5, max_seconds=30)
    for attempts, longest in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        pauses = {policy.pause_seconds(attempts) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)


def test_a_server_that_is_away_for_a_month_is_tried_all_the_time() -> None:
    """2 to the number of attempts was no float any more after the 1024th, some six hours of outage."""
    clock = FakeClock()
    retries = Retries(RetryPolicy(same_place_max=3), clock)
    pauses = [_failed(retries, has_begun=False) for _ in range(100_000)]
    assert [pause.attempt for pause in pauses[-2:]] == [99_999, 100_000]
    assert max(pause.seconds for pause in pauses) <= 30
    assert not any(pause.has_spent for pause in pauses)
    assert retries.to_dict() == {"attempt": 100_000, "last_hour": 0, "per_hour": 240, "is_spent": False}


def test_a_server_that_has_one_connection_left_and_not_the_next_is_not_counted() -> None:
    """The session had begun: it was a further one of its connections."""
    retries = Retries(RetryPolicy(per_hour=10, same_place_max=3), FakeClock())
    full = SourceUnavailable("Too many connections", is_full=True)
    pauses = [retries.failed(full, has_begun=True, place="binlog.000001:4") for _ in range(50)]
    assert [pause.attempt for pause in pauses] == list(range(1, 51))
    assert (retries.left, retries.to_dict()["last_hour"]) == (10, 0)
    _failed(retries)
    assert retries.left == 9


def test_what_moves_on_begins_with_the_shortest_pause_again() -> None:
    retries = Retries(RetryPolicy(), FakeClock())
    for _ in range(9):
        _failed(retries)
    retries.well()
    pause = _failed(retries)
    assert (pause.attempt, pause.seconds <= 0.5) == (1, True)


def test_a_spent_budget_is_said_once_spreads_the_attempts_and_comes_back() -> None:
    clock = FakeClock()
    retries = Retries(RetryPolicy(per_hour=60), clock)
    pauses = []
    for _ in range(100):
        pauses.append(_failed(retries))
        retries.well()  # each session moves on a little: it is the budget that holds them back, not the doubling
        clock.seconds += 1
    assert [number for number, pause in enumerate(pauses, 1) if pause.has_spent] == [60]
    assert all(pause.seconds <= 0.5 for pause in pauses[:59])
    assert all(60 <= pause.seconds <= 75 for pause in pauses[59:])
    assert (retries.left, retries.to_dict()["is_spent"]) == (0, True)
    clock.seconds += 3600 - 45
    assert (retries.left, retries.to_dict()["last_hour"]) == (16, 44)
    assert _failed(retries).seconds <= 0.5
    assert [_failed(retries).has_spent for _ in range(16)].index(True) == 14  # spent anew, said anew


def test_a_replica_with_our_id_spends_the_budget_at_once_for_no_waiting_mends_it() -> None:
    clock = FakeClock()
    retries = Retries(RetryPolicy(), clock)
    rival = SourceUnavailable("another replica", hint="an id of its own", has_rival=True)
    pauses = []
    for _ in range(20):
        pauses.append(retries.failed(rival, has_begun=True, place="binlog.000001:4"))
        retries.well()  # until the other one comes back
        clock.seconds += 1
    assert [number for number, pause in enumerate(pauses, 1) if pause.has_spent] == [5]
    assert all(pause.seconds >= 15 for pause in pauses[4:])
    assert (retries.left, retries.to_dict()["is_spent"], retries.to_dict()["last_hour"]) == (0, True, 20)
    assert spent_hint(rival) == "an id of its own"
    clock.seconds += 3600 - 5
    assert (retries.left, retries.to_dict()["is_spent"]) == (240 - 4, False)
    assert _failed(retries).seconds <= 0.5


def test_attempts_in_a_row_at_one_place_end_where_the_operator_says_so() -> None:
    retries = Retries(RetryPolicy(same_place_max=4), FakeClock())
    for _ in range(3):
        _failed(retries)
    retries.well()
    for _ in range(3):
        _failed(retries)
        _failed(retries, has_begun=False)  # the server is away in between: that is no attempt at anything
    with pytest.raises(RetriesSpent, match="4 sessions in a row have ended at the same place") as end:
        _failed(retries)
    assert "retry.same_place_max" in end.value.hint
    assert (end.value.position, "binlog.000001:4" in end.value.message) == ("binlog.000001:4", True)
    assert "the sink is away" in end.value.message


def test_without_a_limit_they_do_not_end() -> None:
    retries = Retries(RetryPolicy(), FakeClock())
    assert math.isfinite(sum(_failed(retries).seconds for _ in range(2000)))


def test_the_hint_is_about_the_server_in_trouble() -> None:
    assert "server_id" in spent_hint(SourceUnavailable("cut"))
    assert "sink" in spent_hint(AWAY)


def test_of_lanes_and_loads_the_status_shows_the_one_in_most_trouble() -> None:
    calm = {"attempt": 0, "last_hour": 3, "per_hour": 240, "is_spent": False}
    spent = {"attempt": 0, "last_hour": 10, "per_hour": 10, "is_spent": True}
    assert most_tried([calm, spent, {**calm, "last_hour": 9}]) == spent
