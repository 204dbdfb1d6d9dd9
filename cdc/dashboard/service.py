"""What the HTTP pages ask of the service: the border that `cdc.app` implements.

Knows no HTTP and no database; only the questions and the shape of their answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["ConnectionHealth", "ConnectionStatus", "HealthInputs", "Service", "SinkHealth"]

ConnectionStatus = Literal["healthy", "unhealthy", "unknown"]


@dataclass(frozen=True, slots=True)
class ConnectionHealth:
    """One server, as the service last found it, and the connections that it keeps there.

    `status` is `unknown` until it was tried. `checked_out` connections of a pool of `pool_size` are in use now, of
    which `overflow` were opened beyond it.
    """

    status: ConnectionStatus = "unknown"
    pool_size: int = 0
    checked_out: int = 0
    overflow: int = 0


@dataclass(frozen=True, slots=True)
class SinkHealth:
    """One sink: its state, a word of `cdc.metrics.SINK_STATES`, and its server."""

    state: str
    connection: ConnectionHealth = ConnectionHealth()
    is_budget_spent: bool = False  # `retry.per_hour`


@dataclass(frozen=True, slots=True)
class HealthInputs:
    """Everything that `/health` is made of.

    `started_us` is wall time, microseconds since the epoch. `last_successful_sync` is the latest commit on any sink,
    ISO 8601 in UTC, None before the first. `tables_synced` counts tables that are `ready`, `tables_parked` those that
    are `parked`, each once per sink. `sync_errors` and `error_summary` (class → count) are since the start.
    """

    started_us: int
    source: ConnectionHealth
    sinks: Mapping[str, SinkHealth]
    last_successful_sync: str | None = None
    tables_synced: int = 0
    tables_parked: int = 0
    sync_errors: int = 0
    error_summary: Mapping[str, int] = field(default_factory=dict)
    file_staging: Mapping[str, Any] = field(default_factory=lambda: {"enabled": False})


class Service(Protocol):
    """The running service as the pages see it.

    Each method may be called from any thread, about once a second, and answers at once from what is in memory: no
    query, no lock that is held across one.
    """

    def status(self) -> dict[str, Any]:
        """The object that `cdc status --json` prints."""

    def health_inputs(self) -> HealthInputs:
        """What is known of servers, sinks and errors now."""

    def is_ready(self) -> bool:
        """Is every sink `streaming` or `caught_up`?"""
