"""The `cdc status --json` object, put together from what a running service knows or from the sinks' metadata.

The field names are a contract with tools outside the repository (DESIGN, section 5): fields may be added, none
renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cdc.pipeline.text import iso_time
from checkpoints.store import TableRecord

__all__ = ["SinkReport", "SourceReport", "status_document"]


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The source as last seen; everything None when it could not be asked."""

    flavor: str | None = None
    server_version: str | None = None
    position: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SinkReport:
    """One sink's pipeline. `rows` has the sink's own estimates by target; `progress` the loads under way."""

    name: str
    kind: str | None
    state: str
    position: Mapping[str, Any] | None = None
    lag_seconds: float | None = None
    last_commit: str | None = None
    error: Mapping[str, Any] | None = None
    holder: str | None = None
    tables: Iterable[TableRecord] = ()
    rows: Mapping[str, int | None] = field(default_factory=dict)
    progress: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recent_errors: Iterable[Mapping[str, Any]] = ()
    prepared: Mapping[str, Any] = field(default_factory=lambda: {"count": 0, "oldest": None})


_NOWHERE = {"gtid": None, "file": None, "pos": None}


def status_document(
    *, name: str, version: str, now_us: int, source: SourceReport, sinks: Iterable[SinkReport]
) -> dict[str, Any]:
    """The object, sinks and tables in order."""
    reports = list(sinks)
    return {
        "name": name,
        "version": version,
        "time": iso_time(now_us),
        "source": {
            "flavor": source.flavor,
            "server_version": source.server_version,
            "position": dict(source.position or _NOWHERE),
        },
        "sinks": [
            {
                "name": sink.name,
                "kind": sink.kind,
                "state": sink.state,
                "position": dict(sink.position or _NOWHERE),
                "lag_seconds": sink.lag_seconds,
                "last_commit": sink.last_commit,
                "error": sink.error,
                "holder": sink.holder,
                "recent_errors": list(sink.recent_errors),
                "prepared": dict(sink.prepared),
            }
            for sink in reports
        ],
        "tables": [_table(sink, record) for sink in reports for record in sink.tables],
    }


def _table(sink: SinkReport, record: TableRecord) -> dict[str, Any]:
    return {
        "sink": sink.name,
        "table": str(record.source),
        "target": record.target,
        "state": record.state,
        "rows": sink.rows.get(record.target),
        "last_change": iso_time(record.last_change_us),
        "policy_changes": {column: dict(counts) for column, counts in record.policy_changes.items()},
        "error": record.error,
        "options": dict(record.options),
        "progress": sink.progress.get(str(record.source)),
    }
