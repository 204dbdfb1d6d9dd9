"""The `/health` object: what is wrong, in one word and in figures.

Pure but for `ProcessUsage`, which asks the kernel about this process. docs/http.md describes every key.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from cdc.clock import Clock
from cdc.dashboard.service import ConnectionHealth, ConnectionStatus, HealthInputs
from cdc.pipeline.text import iso_time

__all__ = ["HealthStatus", "ProcessUsage", "Usage", "health_document", "health_status"]

HealthStatus = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process uses: resident bytes; CPU in percent of one core since the last look."""

    memory_bytes: int
    cpu_percent: float


class ProcessUsage:
    """Measures this process. Thread-safe."""

    # psutil's own figure is since the last call too, and two scrapes in the same millisecond would divide by nothing.
    _SECONDS_MIN = 0.5

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._percent = 0.0
        self._at = clock.monotonic()
        self._cpu_seconds = self._used()

    def _used(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def now(self) -> Usage:
        """Memory now, CPU since the last look that was at least half a second ago."""
        with self._lock:
            passed = self._clock.monotonic() - self._at
            if passed >= self._SECONDS_MIN:
                used = self._used()
                self._percent = 100 * (used - self._cpu_seconds) / passed
                self._at += passed
                self._cpu_seconds = used
            return Usage(self._process.memory_info().rss, self._percent)


def health_status(inputs: HealthInputs) -> HealthStatus:
    """The one word.

    unhealthy: data does not flow, or will not without an operator: the source cannot be reached, a sink `failed`, or
    no sink is anything but `retrying` or `stopped`.
    degraded: it flows, but not all of it: a parked table, a sink `retrying`, `paused` or `stopped`, a sink's server
    that did not answer when last asked, a sink whose sessions ended more often within the hour than is allowed for.
    healthy: the rest, `starting`, `snapshotting` and `standby` included.
    """
    states = [sink.state for sink in inputs.sinks.values()]
    if inputs.source.status == "unhealthy" or "failed" in states or {"retrying", "stopped"}.issuperset(states):
        return "unhealthy"
    if inputs.tables_parked or not {"retrying", "paused", "stopped"}.isdisjoint(states):
        return "degraded"
    if any(sink.connection.status == "unhealthy" or sink.is_budget_spent for sink in inputs.sinks.values()):
        return "degraded"
    return "healthy"


def health_document(inputs: HealthInputs, *, version: str, now_us: int, usage: Usage) -> dict[str, Any]:
    """The JSON object of `/health`.

    `database_connections` has `source`, `target` (every sink together) and `target_<name>` for each sink.
    """
    targets = {name: sink.connection for name, sink in inputs.sinks.items()}
    connections = {"source": inputs.source, "target": _together(targets.values())}
    connections |= {f"target_{name}": connection for name, connection in targets.items()}
    return {
        "status": health_status(inputs),
        "timestamp": iso_time(now_us),
        "version": version,
        "uptime_seconds": round(max(now_us - inputs.started_us, 0) / 1e6, 3),
        "database_connections": {name: _connection(connection) for name, connection in connections.items()},
        "last_successful_sync": inputs.last_successful_sync,
        "tables_synced": inputs.tables_synced,
        "sync_errors": inputs.sync_errors,
        "file_staging": dict(inputs.file_staging),
        "performance_metrics": {
            "memory_usage_mb": round(usage.memory_bytes / 1e6, 1),
            "cpu_usage_percent": round(usage.cpu_percent, 1),
            "active_connections": sum(connection.checked_out for connection in (inputs.source, *targets.values())),
        },
        "error_summary": dict(inputs.error_summary),
    }


def _together(connections: Iterable[ConnectionHealth]) -> ConnectionHealth:
    """The worst status and the sums."""
    every = list(connections)
    found = {connection.status for connection in every}
    worst: tuple[ConnectionStatus, ...] = ("unhealthy", "unknown", "healthy")
    return ConnectionHealth(
        status=next((status for status in worst if status in found), "unknown"),
        pool_size=sum(connection.pool_size for connection in every),
        checked_out=sum(connection.checked_out for connection in every),
        overflow=sum(max(connection.overflow, 0) for connection in every),
    )


def _connection(connection: ConnectionHealth) -> dict[str, Any]:
    # SQLAlchemy counts overflow up from -pool_size: below 0 it says that the pool was not yet filled.
    overflow = max(connection.overflow, 0)
    size = connection.pool_size + overflow
    return {
        "status": connection.status,
        "pool_size": connection.pool_size,
        "checked_out": connection.checked_out,
        "overflow": overflow,
        "utilization_percent": round(100 * connection.checked_out / size, 1) if size else 0.0,
    }
