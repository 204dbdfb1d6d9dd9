"""Crash schedules from fixed seeds: the sample of what `make simulate` goes on with for as long as one likes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.world import Subject, simulate

_SCHEDULES = 100
_SUBJECTS: dict[Subject | None, int] = {None: 40, "sides": 15, "lanes": 15, "cascades": 15}


@pytest.mark.parametrize("first_seed", [1, 1001, 2001, 3001])
def test_whatever_fails_the_sink_is_the_source_at_its_checkpoint(first_seed: int) -> None:
    """Takes seconds: each schedule is some thousand turns of a dozen threads."""
    for seed in range(first_seed, first_seed + _SCHEDULES):
        simulate(seed)


def test_who_wakes_up_in_the_middle_of_a_transaction_commits_nothing() -> None:
    for seed in range(40):
        simulate(seed, about="fencing")


def test_loads_that_take_as_long_as_many_transactions_end_equal() -> None:
    for seed in range(60):
        simulate(seed, about="loads")


def test_what_is_loaded_beside_the_stream_joins_its_lane() -> None:
    for seed in range(40):
        simulate(seed, about="sides")


def test_a_table_that_changes_lanes_loses_and_doubles_nothing() -> None:
    for seed in range(60):
        simulate(seed, about="lanes")


def test_what_foreign_keys_do_in_no_event_is_done_on_the_sink() -> None:
    for seed in range(60):
        simulate(seed, about="cascades")


@pytest.mark.parametrize("about", [None, "sides", "lanes", "cascades"])
def test_a_seed_decides_everything(about: Subject | None) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        simulate(7, trace=trace, about=about)
    assert traces[0] == traces[1]
    assert traces[0]


def test_schedules_hold_what_they_are_for() -> None:
    """A simulation in which nothing fails would prove nothing."""
    counts = Counter[str]()
    for about, schedules in _SUBJECTS.items():
        for seed in range(schedules):
            counts += simulate(seed, about=about).counts
    wanted = (
        "kills",
        "stops",
        "stops to the end",
        "cuts at the sink",
        "cuts at the source",
        "streams that fell silent",
        "commits whose answer was lost",
        "commits that never came",
        "commits that came late",
        "lock waits",
        "sessions ended",
        "roll-backs by the server",
        "log: standby",
        "log: schema_followed",
        "log: table_loaded",
        "log: table_loaded together",
        "log: load_resumed",
        "cuts of a load at the source",
        "reloads asked for",
        "log: side_begun",
        "log: side_resumed",
        "log: side_dissolved",
        "log: side_joined",
        "log: shadow_merged",
        "log: lanes_dealt",
        "log: hidden_cascades_applied",
        "log: children_loaded_again",
    )
    assert not [what for what in wanted if not counts[what]]
