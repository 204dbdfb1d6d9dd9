"""When a parked table is loaded again by itself."""

from __future__ import annotations

import pytest

from cdc.clock import SystemClock
from cdc.model import TableName
from cdc.pipeline.lanes import lane_name, side_name
from cdc.pipeline.recovery import AutoReload, Recovery, wait_seconds
from checkpoints.polls import poller_name
from checkpoints.rejects import RejectStore
from checkpoints.store import InSinkStore, TableRecord

HOUR, DAY = 3600.0, 86_400.0


@pytest.mark.parametrize(
    "ages, loads_per_day, seconds, is_spent",
    [
        ([0.0], 3, 100.0, False),
        ([30.0], 3, 70.0, False),
        ([500.0], 3, 0.0, False),
        ([400.0, 0.0], 3, 200.0, False),
        ([1400.0, 1000.0, 0.0], 3, 400.0, False),
        ([HOUR, 2000.0, 1000.0, 0.0], 3, DAY - HOUR, True),
        ([HOUR, 0.0], 1, DAY - HOUR, True),
        ([DAY - 10, HOUR, HOUR / 2, 0.0], 3, 800.0, False),
    ],
)
def test_pauses_double_and_a_day_has_so_many_loads(
    ages: list[float], loads_per_day: int, seconds: float, is_spent: bool
) -> None:
    assert wait_seconds(ages, Recovery(loads_per_day=loads_per_day, first_seconds=100.0)) == (seconds, is_spent)


@pytest.mark.parametrize(
    "options, error",
    [
        ({}, "StatementHeld"),
        ({}, "BinlogPurged"),
        ({}, "TargetConflict"),
        ({"mode": "history"}, "UnsupportedData"),
        ({"mode": "append_only"}, "UnsupportedData"),
    ],
)
def test_what_waits_for_a_word_or_has_a_gap_is_not_loaded_by_itself(options: dict[str, str], error: str) -> None:
    table = TableName("shop", "t")
    record = TableRecord(table, "shop.t", "parked", options=options, error={"class": error})
    store = InSinkStore(None, "shop/pg")  # nobody asks it when there is nothing to load
    assert AutoReload(store, [record], Recovery(loads_per_day=3), SystemClock()).due() == []


@pytest.mark.parametrize("name", ["shop/pg", lane_name("shop/pg", 2), side_name("shop/pg", 3), poller_name("shop/pg")])
def test_what_is_refused_counts_for_the_sink_whichever_pipeline_had_the_table(name: str) -> None:
    assert RejectStore(InSinkStore(None, name)).pipeline == "shop/pg"
