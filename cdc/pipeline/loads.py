"""What loads do, and what their guard does, said in the log and in the metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cdc.clock import Clock
from cdc.log import Logger
from cdc.metrics import Metrics
from cdc.model import SourcePosition, TableName
from cdc.pipeline.status import PipelineStatus
from cdc.source.connection import SourceConnection
from snapshot.guards import SourceGuard
from snapshot.progress import LoadRate
from snapshot.retention import LogGuard, LogOutlook, LogRetention

__all__ = ["GuardReport", "LoadLines", "LoadWatch"]

_LINE_SECONDS = 10.0


class GuardReport:
    """Listens to a `snapshot.guards.SourceGuard`."""

    def __init__(self, log: Logger, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics

    def paused(self, reason: str) -> None:
        """No chunk is begun any more."""
        self._metrics.load_paused.set(1)
        self._log.warning("loads_paused", reason=reason, hint="they go on by themselves; snapshot.pause_when")

    def released(self, seconds: float) -> None:
        """Chunks are begun again."""
        self._metrics.load_paused.set(0)
        self._metrics.load_pauses.inc()
        self._metrics.load_paused_seconds.inc(seconds)
        self._log.info("loads_go_on", paused_seconds=round(seconds, 1))

    def lag_unknown(self) -> None:
        """The source is no replica."""
        self._log.warning(
            "replica_lag_unknown",
            hint="the source is no replica: it has no lag to wait for, and its own replicas' it does not know; "
            "snapshot.pause_when.replica_lag_seconds does nothing here",
        )


class LoadLines:
    """A line in the log for each load under way, every ten seconds."""

    def __init__(self, log: Logger, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._said_at: dict[tuple[str, str], float] = {}

    def show(self, loads: Mapping[tuple[str, str], LoadRate]) -> None:
        """These are under way now, by sink and table, and no others."""
        now = self._clock.monotonic()
        self._said_at = {name: self._said_at.get(name, now) for name in loads}
        for (sink, table), rate in loads.items():
            if now - self._said_at[sink, table] >= _LINE_SECONDS:
                self._said_at[sink, table] = now
                self._log.info("load_progress", sink=sink, table=table, **rate.to_dict())


class LoadWatch:
    """Watches the loads of one session: how far they are, and whether the source keeps its log as long.

    On the thread that loads, beside a session on the source that has no query under way.
    """

    def __init__(
        self,
        *,
        source: SourceConnection,
        since: SourcePosition,
        tables: Collection[TableName],
        server_id: int,
        guard: SourceGuard,
        status: PipelineStatus,
        log: Logger,
        clock: Clock,
    ) -> None:
        """`since`: where the log is needed from. `tables`: those that are to be loaded one after the other."""
        self._source = source
        self._guard = guard
        self._status = status
        self._log = log
        retention = LogRetention(since, server_id=server_id, clock=clock)
        self._log_guard = LogGuard(retention, self._warn, clock)
        self._waiting = set(tables)
        self._rows_waiting: Mapping[TableName, int] | None = None

    def __call__(self, table: TableName, *, rows: int, rows_estimate: int | None) -> None:
        """A load is so far. Raises LogTooShort, BinlogPurged."""
        self._waiting.discard(table)
        pause = self._guard.pause
        rate = self._status.progress(str(table), rows, rows_estimate, waits_for=pause.reason if pause else None)
        self._log_guard.check(self._source, what=str(table), seconds_left=self._seconds_left(rate))
        outlook = self._log_guard.outlook
        rate.log_seconds_left = outlook.seconds_left if outlook is not None else None

    def _seconds_left(self, rate: LoadRate) -> float | None:
        """Of this table, and of those behind it as fast as this one."""
        left, rows_per_second = rate.seconds_left, rate.rows_per_second
        if left is None or not rows_per_second:
            return None
        if self._rows_waiting is None:
            self._rows_waiting = estimated_rows(self._source, self._waiting)
        waiting = sum(rows for table, rows in self._rows_waiting.items() if table in self._waiting)
        return left + waiting / rows_per_second

    def _warn(self, outlook: LogOutlook, seconds_left: float) -> None:
        self._log.warning(
            "load_may_outlast_log",
            seconds_left=round(seconds_left),
            log_seconds_left=round(outlook.seconds_left or 0),
            file=outlook.file,
            reason=outlook.rule,
            hint="keep binlogs longer at the source, or load faster: loads are stopped before their log is purged",
        )


def estimated_rows(source: SourceConnection, tables: Collection[TableName]) -> dict[TableName, int]:
    """The source's own estimate of the rows of each, as far as it has one."""
    if not tables:
        return {}
    databases = sorted({table.database for table in tables})
    rows = source.query_text(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM information_schema.TABLES "
        f"WHERE TABLE_SCHEMA IN ({', '.join(['%s'] * len(databases))})",
        databases,
    )
    found = {TableName(schema or "", name or ""): int(count) for schema, name, count in rows if count is not None}
    return {table: found[table] for table in tables if table in found}
