"""The one word of /health and the figures around it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from cdc.dashboard.health import HealthStatus, ProcessUsage, Usage, health_document, health_status
from cdc.dashboard.service import ConnectionHealth, ConnectionStatus, HealthInputs, SinkHealth
from cdc.metrics import SINK_STATES

NOW_US = 1_700_000_100_250_000
WELL = ConnectionHealth("healthy", pool_size=3, checked_out=1, overflow=-2)
ILL = ConnectionHealth("unhealthy")


def inputs(
    *states: str, parked: int = 0, source: ConnectionHealth = WELL, sink: ConnectionHealth = WELL
) -> HealthInputs:
    sinks = {f"sink{number}": SinkHealth(state, sink) for number, state in enumerate(states, 1)}
    return HealthInputs(started_us=NOW_US - 90_000_000, source=source, sinks=sinks, tables_parked=parked)


@pytest.mark.parametrize(
    "given,expected",
    [
        (inputs("streaming", "caught_up"), "healthy"),
        (inputs("starting"), "healthy"),
        (inputs("snapshotting", "streaming"), "healthy"),
        (inputs("standby"), "healthy"),
        (inputs("starting", source=ConnectionHealth()), "healthy"),
        (inputs("streaming", parked=1), "degraded"),
        (inputs("streaming", "retrying"), "degraded"),
        (inputs("streaming", "paused"), "degraded"),
        (inputs("paused"), "degraded"),
        (inputs("streaming", "stopped"), "degraded"),
        (inputs("streaming", sink=ILL), "degraded"),
        (inputs("streaming", "failed"), "unhealthy"),
        (inputs("failed"), "unhealthy"),
        (inputs("retrying", "retrying"), "unhealthy"),
        (inputs("retrying", "stopped"), "unhealthy"),
        (inputs("streaming", source=ILL), "unhealthy"),
        (inputs("streaming", parked=1, source=ILL), "unhealthy"),
        (inputs(), "unhealthy"),
    ],
)
def test_status(given: HealthInputs, expected: HealthStatus) -> None:
    assert health_status(given) == expected


@pytest.mark.parametrize("state", SINK_STATES)
def test_every_state_of_a_single_sink_has_a_status(state: str) -> None:
    expected = {"retrying": "unhealthy", "failed": "unhealthy", "stopped": "unhealthy", "paused": "degraded"}

    assert health_status(inputs(state)) == expected.get(state, "healthy")


def document(given: HealthInputs) -> dict[str, object]:
    return health_document(given, version="1.2.3", now_us=NOW_US, usage=Usage(48_250_000, 12.345))


def test_the_document_has_the_contracted_keys_and_no_others() -> None:
    given = replace(
        inputs("streaming"),
        last_successful_sync="2023-11-14T22:15:00.000000Z",
        tables_synced=7,
        sync_errors=2,
        error_summary={"SinkRefused": 2},
    )
    sink = {"status": "healthy", "pool_size": 3, "checked_out": 1, "overflow": 0, "utilization_percent": 33.3}

    assert document(given) == {
        "status": "healthy",
        "timestamp": "2023-11-14T22:15:00.250000Z",
        "version": "1.2.3",
        "uptime_seconds": 90.0,
        "database_connections": {"source": sink, "target": sink, "target_sink1": sink},
        "last_successful_sync": "2023-11-14T22:15:00.000000Z",
        "tables_synced": 7,
        "sync_errors": 2,
        "file_staging": {"enabled": False},
        "performance_metrics": {"memory_usage_mb": 48.2, "cpu_usage_percent": 12.3, "active_connections": 2},
        "error_summary": {"SinkRefused": 2},
    }


@pytest.mark.parametrize(
    "statuses,together",
    [
        (("healthy", "healthy"), "healthy"),
        (("healthy", "unknown"), "unknown"),
        (("unknown", "unhealthy"), "unhealthy"),
        ((), "unknown"),
    ],
)
def test_target_is_every_sink_together(statuses: tuple[ConnectionStatus, ...], together: ConnectionStatus) -> None:
    sinks = {
        f"sink{number}": SinkHealth("streaming", ConnectionHealth(status, pool_size=2, checked_out=3, overflow=1))
        for number, status in enumerate(statuses)
    }

    connections = document(replace(inputs(), sinks=sinks))["database_connections"]

    assert isinstance(connections, dict)
    count = len(statuses)
    assert connections["target"] == {
        "status": together,
        "pool_size": 2 * count,
        "checked_out": 3 * count,
        "overflow": count,
        "utilization_percent": 100.0 if count else 0.0,
    }


def test_a_clock_set_back_does_not_make_the_uptime_negative() -> None:
    assert document(replace(inputs("streaming"), started_us=NOW_US + 1))["uptime_seconds"] == 0


class SteppingClock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_us(self) -> int:
        return NOW_US

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        raise NotImplementedError


def test_usage_counts_cpu_since_the_last_look() -> None:
    clock = SteppingClock()
    usage = ProcessUsage(clock)
    clock.seconds = 10_000.0

    found = usage.now()

    assert 0 <= found.cpu_percent < 5
    assert found.memory_bytes > 1_000_000


def test_two_looks_at_once_give_the_same_cpu_figure() -> None:
    clock = SteppingClock()
    usage = ProcessUsage(clock)
    clock.seconds = 1.0
    first = usage.now()
    sum(range(200_000))
    clock.seconds = 1.1

    assert usage.now().cpu_percent == first.cpu_percent
