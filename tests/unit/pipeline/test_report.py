"""One sink out of its lanes: what `cdc status` and the pages show."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from cdc.metrics import SINK_STATES
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableName
from cdc.pipeline.report import SinkReport, SourceReport, beside, merged, status_document, worst_state
from checkpoints.store import TableRecord

HERE = ServerIdentity("mariadb", "here")


def at(pos: int, server: ServerIdentity = HERE) -> SourcePosition:
    return SourcePosition(server, FilePos.of("binlog.000001", pos), None)


def lane(number: int, state: str = "streaming", **fields: Any) -> SinkReport:
    fields.setdefault("position", at(10 * number))
    return SinkReport(name="replica", kind="mysql", state=state, lane=number, **fields)


def error(message: str, since: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"class": "SinkUnavailable", "message": message, "hint": None, "position": None, "key": None, "since": since}


def table(name: str) -> TableRecord:
    return TableRecord(source=TableName("shop", name), target=name, state="ready")


def document(*lanes: SinkReport) -> dict[str, Any]:
    return status_document(name="d", version="1", now_us=0, source=SourceReport(), sinks=[merged(lanes)])


@pytest.mark.parametrize(
    "states, shown",
    [
        (("caught_up", "streaming"), "streaming"),
        (("caught_up", "failed", "retrying"), "failed"),
        (("streaming", "retrying"), "retrying"),
        (("streaming", "snapshotting"), "snapshotting"),
        (("starting", "streaming"), "starting"),
        (("stopped", "snapshotting"), "snapshotting"),
        (("stopped", "stopped"), "stopped"),
    ],
)
def test_the_worst_state_is_the_sinks(states: tuple[str, ...], shown: str) -> None:
    for order in permutations(states):
        assert worst_state(order) == shown


def test_every_state_has_its_rank() -> None:
    for state in SINK_STATES:
        assert worst_state([state, "stopped"]) == state


def test_a_sink_is_where_its_last_lane_is_and_behind_by_its_largest_lag() -> None:
    sink = merged([lane(2, lag_seconds=0.0), lane(1, lag_seconds=7.5), lane(3, lag_seconds=1.0)])
    assert (sink.position, sink.lag_seconds) == (at(10), 7.5)


def test_a_lane_is_behind_by_the_lag_of_a_side_that_alone_has_a_complete_table() -> None:
    first = lane(1, "caught_up", lag_seconds=0.0, tables=[table("a")])
    other = lane(1, "streaming", lag_seconds=9.0, tables=[table("b")])
    assert (beside(first, [other]).lag_seconds, beside(first, [other]).state) == (9.0, "streaming")
    reload = lane(1, "streaming", lag_seconds=9.0, tables=[table("a")])
    assert (beside(first, [reload]).lag_seconds, beside(first, [reload]).state) == (0.0, "caught_up")
    elsewhere = {TableName("shop", "b")}
    shown = beside(first, [other], elsewhere)
    assert (shown.lag_seconds, [one.source.table for one in shown.tables]) == (0.0, ["a"])


def test_what_one_lane_does_not_know_the_sink_does_not() -> None:
    sink = merged([lane(1, lag_seconds=1.0), lane(2, lag_seconds=None, position=None)])
    assert (sink.position, sink.lag_seconds) == (None, None)
    elsewhere = lane(2, position=at(5, ServerIdentity("mariadb", "there")))
    assert merged([lane(1), elsewhere]).position is None


def test_the_error_shown_is_of_the_lane_that_is_worst() -> None:
    lanes = [lane(1, error=error("over")), lane(2, "retrying", error=error("stands")), lane(3)]
    assert (merged(lanes).error or {})["message"] == "stands"
    assert (merged([lane(1), lane(2, error=error("over"))]).error or {})["message"] == "over"
    assert merged([lane(1), lane(2)]).error is None


def test_recent_errors_are_in_order_and_no_more_than_of_one() -> None:
    every = [error(str(n), f"2026-01-01T00:00:{n:02}Z") for n in range(30)]
    recent = list(merged([lane(1, recent_errors=every[::2]), lane(2, recent_errors=every[1::2])]).recent_errors)
    assert [entry["message"] for entry in recent] == [str(n) for n in range(10, 30)]


def test_the_document_has_one_sink_its_lanes_and_every_table_with_its_lane() -> None:
    told = document(
        lane(1, tables=[table("a"), table("c")], lag_seconds=0.0, last_commit="2026-01-01T00:00:01Z"),
        lane(2, "retrying", tables=[table("b")], lag_seconds=3.0, last_commit="2026-01-01T00:00:05Z"),
    )
    (sink,) = told["sinks"]
    assert (sink["state"], sink["position"]["pos"], sink["last_commit"]) == ("retrying", 10, "2026-01-01T00:00:05Z")
    assert [(one["lane"], one["state"], one["tables"]) for one in sink["lanes"]] == [
        (1, "streaming", 2),
        (2, "retrying", 1),
    ]
    assert [(one["table"], one["lane"]) for one in told["tables"]] == [("shop.a", 1), ("shop.b", 2), ("shop.c", 1)]


def test_one_lane_is_the_sink_itself() -> None:
    told = document(lane(1, tables=[table("a")], lag_seconds=1.0))
    (sink,) = told["sinks"]
    (only,) = sink["lanes"]
    assert {key: sink[key] for key in only if key in sink} == {key: only[key] for key in only if key in sink}


def test_prepared_transactions_wait_since_the_oldest() -> None:
    sink = merged(
        [
            lane(1, prepared={"count": 1, "oldest": "2026-01-02"}),
            lane(2, prepared={"count": 2, "oldest": "2026-01-01"}),
            lane(3),
        ]
    )
    assert sink.prepared == {"count": 3, "oldest": "2026-01-01"}
