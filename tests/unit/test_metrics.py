"""What /metrics says: names, labels and values, by the client library's own parser."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc.errors import SinkRefused
from cdc.metrics import SINK_STATES, TABLE_STATES, Metrics, metrics_markdown

ROOT = Path(__file__).resolve().parents[2]


class StoppedClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000
        self.seconds = 100.0

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        raise NotImplementedError


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the rendered text by name and labels."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


def test_ddl_is_counted_by_what_became_of_it_from_zero_on() -> None:
    metrics = Metrics()
    sink = metrics.sink("warehouse")
    assert value(metrics, "cdc_schema_changes_total", sink="warehouse", result="not_followed") == 0
    sink.schema_changed(is_followed=True)
    sink.schema_changed(is_followed=True)
    sink.schema_changed(is_followed=False)
    assert value(metrics, "cdc_schema_changes_total", sink="warehouse", result="followed") == 2
    assert value(metrics, "cdc_schema_changes_total", sink="warehouse", result="not_followed") == 1


def test_a_commit_counts_transactions_and_time() -> None:
    clock = StoppedClock()
    metrics = Metrics(clock=clock)

    metrics.sink("warehouse").committed(transactions=3, seconds=0.2)

    assert value(metrics, "cdc_transactions_total", sink="warehouse") == 3
    assert value(metrics, "cdc_commits_total", sink="warehouse") == 1
    assert value(metrics, "cdc_commit_seconds_sum", sink="warehouse") == pytest.approx(0.2)
    assert value(metrics, "cdc_commit_seconds_bucket", sink="warehouse", le="0.1") == 0
    assert value(metrics, "cdc_commit_seconds_bucket", sink="warehouse", le="0.3") == 1
    assert value(metrics, "cdc_last_commit_timestamp_seconds", sink="warehouse") == 1_700_000_000


def test_rows_events_bytes_and_errors_are_counted_per_sink() -> None:
    metrics = Metrics()
    warehouse, replica = metrics.sink("warehouse"), metrics.sink("replica")

    warehouse.applied(upserts=5, deletes=2)
    warehouse.loaded(1000)
    warehouse.received(events=7, byte_count=4096)
    warehouse.queued(512)
    warehouse.policy_changed("zero_dates", 4)
    replica.failed(SinkRefused("no", table="shop.orders"))
    replica.restarted()

    assert value(metrics, "cdc_rows_applied_total", sink="warehouse", operation="upsert") == 5
    assert value(metrics, "cdc_rows_applied_total", sink="warehouse", operation="delete") == 2
    assert value(metrics, "cdc_rows_loaded_total", sink="warehouse") == 1000
    assert value(metrics, "cdc_events_total", sink="warehouse") == 7
    assert value(metrics, "cdc_source_bytes_total", sink="warehouse") == 4096
    assert value(metrics, "cdc_queue_bytes", sink="warehouse") == 512
    assert value(metrics, "cdc_policy_changes_total", sink="warehouse", policy="zero_dates") == 4
    assert samples(metrics)["cdc_errors_total", (("class", "SinkRefused"), ("sink", "replica"))] == 1
    assert value(metrics, "cdc_restarts_total", sink="replica") == 1
    assert value(metrics, "cdc_restarts_total", sink="warehouse") == 0


def test_a_sink_is_in_exactly_one_state() -> None:
    metrics = Metrics()
    metrics.sink("warehouse").state("retrying")

    found = {state: value(metrics, "cdc_sink_state", sink="warehouse", state=state) for state in SINK_STATES}

    assert found == {state: 1.0 if state == "retrying" else 0.0 for state in SINK_STATES}


def test_an_unknown_state_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Metrics().sink("warehouse").state("dancing")


def test_tables_are_counted_by_state_and_an_unnamed_state_has_none() -> None:
    metrics = Metrics()
    sink = metrics.sink("warehouse")
    sink.tables({"ready": 10, "parked": 1})
    sink.tables({"ready": 11})

    found = {state: value(metrics, "cdc_tables", sink="warehouse", state=state) for state in TABLE_STATES}

    assert found == {state: 11.0 if state == "ready" else 0.0 for state in TABLE_STATES}


@pytest.mark.parametrize("unknown", [None, float("nan"), float("inf")])
def test_an_unknown_lag_ends_the_series(unknown: float | None) -> None:
    metrics = Metrics()
    sink = metrics.sink("warehouse")
    sink.lag(12.5)
    assert value(metrics, "cdc_sink_lag_seconds", sink="warehouse") == 12.5

    sink.lag(unknown)

    assert value(metrics, "cdc_sink_lag_seconds", sink="warehouse") is None


def test_series_of_a_sink_exist_before_anything_happens() -> None:
    metrics = Metrics()
    metrics.sink("warehouse")

    assert value(metrics, "cdc_transactions_total", sink="warehouse") == 0
    assert value(metrics, "cdc_sink_state", sink="warehouse", state="starting") == 1


def test_one_name_is_one_sink() -> None:
    metrics = Metrics()

    assert metrics.sink("warehouse") is metrics.sink("warehouse")


def test_build_uptime_and_memory_are_there() -> None:
    clock = StoppedClock()
    metrics = Metrics(version="1.2.3", clock=clock)
    clock.seconds += 42

    assert value(metrics, "cdc_build_info", version="1.2.3") == 1
    assert value(metrics, "cdc_uptime_seconds") == 42
    assert (value(metrics, "cdc_memory_bytes") or 0) > 1_000_000
    assert value(metrics, "process_open_fds") is not None


def test_no_created_series_and_two_registries_do_not_meet() -> None:
    one, two = Metrics(), Metrics()
    one.sink("warehouse").restarted()

    assert not [name for name, _ in samples(one) if name.endswith("_created")]
    assert value(two, "cdc_restarts_total", sink="warehouse") is None


def test_no_label_is_a_table_or_a_column() -> None:
    metrics = Metrics()

    labels = {label for described in metrics.described() for label in described.labels}

    assert labels == {"version", "path", "code", "sink", "lane", "state", "operation", "class", "policy", "result"}


def test_counters_from_many_threads_lose_nothing() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(1000):
            metrics.sink("warehouse").applied(upserts=1, deletes=0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert value(metrics, "cdc_rows_applied_total", sink="warehouse", operation="upsert") == 8000


def test_the_documentation_is_in_step() -> None:
    """docs/metrics.md is `python -m cdc.metrics`."""
    assert (ROOT / "docs/metrics.md").read_text() == metrics_markdown()


def test_a_lanes_lag_is_there_only_while_there_are_several_and_it_is_known() -> None:
    metrics = Metrics()
    sink = metrics.sink("replica")
    sink.lane_lags({1: 0.0, 2: 4.5})
    assert value(metrics, "cdc_lane_lag_seconds", sink="replica", lane="2") == 4.5
    sink.lane_lags({1: 1.0, 2: None})
    assert value(metrics, "cdc_lane_lag_seconds", sink="replica", lane="1") == 1.0
    assert value(metrics, "cdc_lane_lag_seconds", sink="replica", lane="2") is None
    sink.lane_lags({})
    assert not [name for name, _ in samples(metrics) if name == "cdc_lane_lag_seconds"]
