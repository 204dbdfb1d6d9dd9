"""What the service counts and measures of itself, for Prometheus.

One `Metrics` holds a registry of its own; the pipeline hands it facts, the HTTP server renders it. Knows nothing of
either. No label is a table, a column or a key: their number has no bound, and the status API has them. docs/metrics.md
is generated from the texts here (`python -m cdc.metrics > docs/metrics.md`).
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from cdc import __version__
from cdc.clock import Clock, SystemClock

__all__ = ["SINK_STATES", "TABLE_STATES", "Metrics", "SinkMetrics", "metrics_markdown"]

SINK_STATES: Final = (
    "starting",
    "snapshotting",
    "streaming",
    "caught_up",
    "paused",
    "standby",
    "retrying",
    "failed",
    "stopped",
)
TABLE_STATES: Final = ("pending", "snapshotting", "ready", "parked", "dropped")
OPERATIONS: Final = ("upsert", "delete")
SCHEMA_CHANGE_RESULTS: Final = ("followed", "not_followed")
STAGING_RESULTS: Final = ("written", "reused", "damaged", "failed")

# Our names are plain ASCII, so every reader of the oldest text format understands them.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# A commit of one row on a local sink takes about a millisecond, a batch some hundreds; a merge of a large
# transaction takes minutes and is rare.
_COMMIT_SECONDS_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True)
class _Described:
    """A line of docs/metrics.md."""

    name: str
    kind: str
    labels: tuple[str, ...]
    documentation: str


class Metrics:
    """Every metric of one running service. Thread-safe; the values live here and nowhere else."""

    def __init__(self, *, version: str = __version__, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._registry = CollectorRegistry()
        self._described: list[_Described] = []
        self._sinks: dict[str, SinkMetrics] = {}
        self._lock = threading.Lock()
        started = self._clock.monotonic()
        process = psutil.Process()

        build = self._gauge("cdc_build_info", "Always 1; the label is the running version.", "version")
        build.labels(version).set(1)
        uptime = self._gauge("cdc_uptime_seconds", "Since the process began to serve.")
        uptime.set_function(lambda: self._clock.monotonic() - started)
        memory = self._gauge("cdc_memory_bytes", "Resident memory of the process.")
        memory.set_function(lambda: float(process.memory_info().rss))
        self._http_requests = self._counter(
            "cdc_http_requests_total",
            "HTTP requests answered, by path (`other` for all that are no page of ours) and status code.",
            "path",
            "code",
        )

        self.sink_state = self._gauge(
            "cdc_sink_state",
            f"1 for the state that the sink is in, 0 for the others: {', '.join(SINK_STATES)}.",
            "sink",
            "state",
        )
        self.sink_lag = self._gauge(
            "cdc_sink_lag_seconds",
            "How far the sink is behind the source: 0 once it has passed the last position polled, else the age of the "
            "oldest transaction not yet applied, by the source's clock. No series while it is not known.",
            "sink",
        )
        self.lane_lag = self._gauge(
            "cdc_lane_lag_seconds",
            "As `cdc_sink_lag_seconds`, of one lane of a sink that has several (`sinks[].lanes`): the sink's is the "
            "largest of them. No series for a sink with one lane.",
            "sink",
            "lane",
        )
        self.last_commit = self._gauge(
            "cdc_last_commit_timestamp_seconds",
            "When the last transaction was committed on the sink, in seconds since 1970. No series before the first.",
            "sink",
        )
        self.transactions = self._counter(
            "cdc_transactions_total",
            "Source transactions committed on the sink; each lane counts all that it passes.",
            "sink",
        )
        self.commits = self._counter(
            "cdc_commits_total", "Sink transactions committed; each holds one or more source transactions.", "sink"
        )
        self.commit_seconds = self._histogram(
            "cdc_commit_seconds",
            "Time from the first statement of a sink transaction to its commit.",
            _COMMIT_SECONDS_BUCKETS,
            "sink",
        )
        self.rows_applied = self._counter(
            "cdc_rows_applied_total",
            "Rows written from the stream after compaction: upserts and deletes.",
            "sink",
            "operation",
        )
        self.rows_loaded = self._counter("cdc_rows_loaded_total", "Rows written by snapshots.", "sink")
        self.staging_bytes = self._gauge(
            "cdc_staging_bytes", "What the sink's files in `staging.dir` take (limit: `staging.bytes_max`).", "sink"
        )
        self.staged_chunks = self._counter(
            "cdc_staged_chunks_total",
            "Chunks of loads by what became of them on their way through files: `written`, `reused` by a load that had "
            "been cut off, `damaged` and read again, or `failed` to be written, and gone past the disk.",
            "sink",
            "result",
        )
        self.events = self._counter("cdc_events_total", "Binlog events read for the sink, by each lane.", "sink")
        self.source_bytes = self._counter(
            "cdc_source_bytes_total", "Bytes of binlog read for the sink, by each lane.", "sink"
        )
        self.queue_bytes = self._gauge(
            "cdc_queue_bytes", "Decoded changes that wait in memory for the sink (limit: `queue_bytes_max`).", "sink"
        )
        self.tables = self._gauge(
            "cdc_tables", f"Captured tables of the sink by state: {', '.join(TABLE_STATES)}.", "sink", "state"
        )
        self.prepared = self._gauge(
            "cdc_prepared_transactions",
            "Prepared XA transactions whose rows wait in the sink's metadata for their XA COMMIT or XA ROLLBACK.",
            "sink",
        )
        self.targets_drifted = self._gauge(
            "cdc_targets_drifted",
            "Tables of the sink that lack something which the mapping makes: `cdc check --drift` says what.",
            "sink",
        )
        self.errors = self._counter("cdc_errors_total", "Errors of the sink's pipeline, by class.", "sink", "class")
        self.restarts = self._counter(
            "cdc_restarts_total", "Times the pipeline began again from its checkpoint after an error.", "sink"
        )
        self.retries_left = self._gauge(
            "cdc_retries_left",
            "How many more times within the hour a session may end in trouble, though its servers had answered, before "
            "the pauses grow (`retry.per_hour`; the least of lanes and loads); 0: the budget is spent.",
            "sink",
        )
        self.schema_changes = self._counter(
            "cdc_schema_changes_total",
            "DDL on captured tables: `followed` on the sink at its place in the stream, or "
            "`not_followed`: its tables are loaded again, or gone (`schema_not_followed` in the log has the reason).",
            "sink",
            "result",
        )
        self.policy_changes = self._counter(
            "cdc_policy_changes_total",
            "Values that a policy changed because the sink cannot hold them (the status says which columns), row "
            "images that a table's row_filter left out, and rows that foreign keys changed in no event "
            "(`hidden_cascades`).",
            "sink",
            "policy",
        )
        self.load_rows_per_second = self._gauge(
            "cdc_load_rows_per_second", "Rows that the loads under way bring, over the last seconds; 0 without.", "sink"
        )
        self.load_seconds_left = self._gauge(
            "cdc_load_seconds_left",
            "How long the tables that are being read now take yet, going by the source's own estimate of their rows. "
            "No series without a load, or where nobody knows.",
            "sink",
        )
        self.load_log_seconds_left = self._gauge(
            "cdc_load_log_seconds_left",
            "For how long the source keeps the log that the loads under way need, by its own settings. No series "
            "without a load, or where nothing is set up to purge it.",
            "sink",
        )
        self.load_paused = self._gauge(
            "cdc_load_paused",
            "1 while no load reads, because the source is above a limit of `snapshot.pause_when`; else 0.",
        )
        self.load_pauses = self._counter("cdc_load_pauses_total", "Times that loads have waited for the source so.")
        self.load_paused_seconds = self._counter(
            "cdc_load_paused_seconds_total", "How long loads have waited so, counted when they go on."
        )
        self.polls = self._counter(
            "cdc_polls_total",
            "Runs of polled tables, by what came of them: `done` or `failed` (tried again, or the table is parked).",
            "sink",
            "result",
        )
        self.poll_rows = self._counter(
            "cdc_poll_rows_total", "Rows that such runs have read, and what they wrote.", "sink", "operation"
        )
        self.poll_rows_before, self.poll_rows_after = (
            self._gauge(
                f"cdc_poll_rows_{when}",
                f"Rows in the targets of such tables, all together, {when} the last run of each.",
                "sink",
            )
            for when in ("before", "after")
        )
        ProcessCollector(registry=self._registry)

    def sink(self, name: str) -> SinkMetrics:
        """The metrics of one sink; the same object for the same name. Its series exist from here on, at 0."""
        with self._lock:
            if name not in self._sinks:
                self._sinks[name] = SinkMetrics(self, name, self._clock)
            return self._sinks[name]

    def http_request(self, path: str, code: int) -> None:
        """Count one answered request; `path` must be one of a fixed set."""
        self._http_requests.labels(path, str(code)).inc()

    def render(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        return generate_latest(_WithoutCreated(self._registry)), CONTENT_TYPE

    def described(self) -> Iterable[_Described]:
        """Every metric of ours with its documentation."""
        return tuple(self._described)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        self._described.append(_Described(name, "counter", labels, documentation))
        return Counter(name, documentation, labels, registry=self._registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        self._described.append(_Described(name, "gauge", labels, documentation))
        return Gauge(name, documentation, labels, registry=self._registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        self._described.append(_Described(name, "histogram", labels, documentation))
        return Histogram(name, documentation, labels, buckets=buckets, registry=self._registry)


class SinkMetrics:
    """What one sink's pipeline reports. Any thread may call any method."""

    def __init__(self, metrics: Metrics, name: str, clock: Clock) -> None:
        self.name = name
        self._metrics = metrics
        self._clock = clock
        self._transactions = metrics.transactions.labels(name)
        self._commits = metrics.commits.labels(name)
        self._commit_seconds = metrics.commit_seconds.labels(name)
        self._upserted, self._deleted = (metrics.rows_applied.labels(name, operation) for operation in OPERATIONS)
        self._loaded = metrics.rows_loaded.labels(name)
        self._staged = {result: metrics.staged_chunks.labels(name, result) for result in STAGING_RESULTS}
        self._events = metrics.events.labels(name)
        self._source_bytes = metrics.source_bytes.labels(name)
        self._queue_bytes = metrics.queue_bytes.labels(name)
        self._restarts = metrics.restarts.labels(name)
        self._prepared = metrics.prepared.labels(name)
        self._followed, self._not_followed = (
            metrics.schema_changes.labels(name, result) for result in SCHEMA_CHANGE_RESULTS
        )
        self._lanes: set[int] = set()
        self.state("starting")
        self.tables({})

    def committed(self, *, transactions: int, seconds: float) -> None:
        """One sink transaction is durable: it held so many source transactions and took so long."""
        self._transactions.inc(transactions)
        self._commits.inc()
        self._commit_seconds.observe(seconds)
        self._metrics.last_commit.labels(self.name).set(self._clock.now_us() / 1e6)

    def applied(self, *, upserts: int, deletes: int) -> None:
        """Rows written from the stream; call it once they are committed."""
        self._upserted.inc(upserts)
        self._deleted.inc(deletes)

    def loaded(self, rows: int) -> None:
        """Rows written by a snapshot; call it once they are committed."""
        self._loaded.inc(rows)

    def chunks_staged(self, result: str, count: int = 1) -> None:
        """So many chunks, by what became of them (`STAGING_RESULTS`)."""
        self._staged[result].inc(count)

    def staging(self, byte_count: int) -> None:
        """What the files take now."""
        self._metrics.staging_bytes.labels(self.name).set(byte_count)

    def received(self, *, events: int, byte_count: int) -> None:
        """Events read from the source, and their bytes."""
        self._events.inc(events)
        self._source_bytes.inc(byte_count)

    def queued(self, byte_count: int) -> None:
        """How much waits for the applier now."""
        self._queue_bytes.set(byte_count)

    def lag(self, seconds: float | None) -> None:
        """How far behind it is now; None while nobody knows, which ends the series: an old figure would be a lie."""
        if seconds is None or not math.isfinite(seconds):
            self._metrics.sink_lag.remove(self.name)
        else:
            self._metrics.sink_lag.labels(self.name).set(seconds)

    def lane_lags(self, seconds: Mapping[int, float | None]) -> None:
        """How far behind each lane is, where there are several; a lane that is not named, or not known, has none."""
        for lane in self._lanes - {lane for lane, lag in seconds.items() if lag is not None}:
            self._metrics.lane_lag.remove(self.name, str(lane))
        self._lanes = set()
        for lane, lag in seconds.items():
            if lag is not None:
                self._lanes.add(lane)
                self._metrics.lane_lag.labels(self.name, str(lane)).set(lag)

    def state(self, state: str) -> None:
        """The state it is in from now on."""
        assert state in SINK_STATES, state
        for known in SINK_STATES:
            self._metrics.sink_state.labels(self.name, known).set(known == state)

    def tables(self, counts: Mapping[str, int]) -> None:
        """How many tables are in which state; a state that is not named has none."""
        assert counts.keys() <= set(TABLE_STATES), counts
        for state in TABLE_STATES:
            self._metrics.tables.labels(self.name, state).set(counts.get(state, 0))

    def loading(
        self,
        rows_per_second: Sequence[float | None],
        seconds_left: Sequence[float | None],
        log_seconds_left: Sequence[float | None],
    ) -> None:
        """How fast each load under way is, how long it takes yet, and its log is kept; None where that is not known."""
        self._metrics.load_rows_per_second.labels(self.name).set(sum(rate or 0 for rate in rows_per_second))
        known = [seconds for seconds in seconds_left if seconds is not None]
        if known and len(known) == len(seconds_left):
            self._metrics.load_seconds_left.labels(self.name).set(max(known))
        else:
            self._metrics.load_seconds_left.remove(self.name)
        kept = [seconds for seconds in log_seconds_left if seconds is not None]
        if kept:
            self._metrics.load_log_seconds_left.labels(self.name).set(min(kept))
        else:
            self._metrics.load_log_seconds_left.remove(self.name)

    def polled(self, *, read: int, written: int, deleted: int, before: int, after: int) -> None:
        """A run of a table has ended well; `before` and `after` are the rows of all such targets."""
        self._metrics.polls.labels(self.name, "done").inc()
        for operation, count in (("read", read), ("upsert", written), ("delete", deleted)):
            self._metrics.poll_rows.labels(self.name, operation).inc(count)
        self._metrics.poll_rows_before.labels(self.name).set(before)
        self._metrics.poll_rows_after.labels(self.name).set(after)

    def poll_failed(self) -> None:
        """A run of a table has failed: it is tried again, or the table is parked."""
        self._metrics.polls.labels(self.name, "failed").inc()

    def targets_drifted(self, count: int) -> None:
        """How many targets lack something that the mapping makes."""
        self._metrics.targets_drifted.labels(self.name).set(count)

    def prepared(self, count: int) -> None:
        """So many prepared XA transactions wait."""
        self._prepared.set(count)

    def failed(self, error: BaseException) -> None:
        """One error, by its class."""
        self._metrics.errors.labels(self.name, type(error).__name__).inc()

    def restarted(self) -> None:
        """The pipeline begins again from its checkpoint."""
        self._restarts.inc()

    def retries_left(self, count: int) -> None:
        """What the hour's budget of retries has left."""
        self._metrics.retries_left.labels(self.name).set(count)

    def schema_changed(self, *, is_followed: bool) -> None:
        """DDL on captured tables has been done on the sink, or left to loads."""
        (self._followed if is_followed else self._not_followed).inc()

    def policy_changed(self, policy: str, count: int) -> None:
        """So many values were changed by that policy."""
        self._metrics.policy_changes.labels(self.name, policy).inc(count)


class _WithoutCreated:
    """A registry without the `_created` series: three of four lines would be the times of our own start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


# ---------------------------------------------------------------- documentation


_DOCUMENT_HEAD: Final = """\
# Metrics

<!-- Generated from cdc/metrics.py by `python -m cdc.metrics > docs/metrics.md`: edit there. -->

`/metrics` gives these in the Prometheus text format ([http.md](http.md)). A counter's name ends in `_total` and only
rises, until the process restarts. `sink` is the sink's `name` in the configuration. No label is a table: their number
has no bound; `/api/status` and `cdc status` have them.

| metric | kind | labels | what it says |
|---|---|---|---|
"""
_DOCUMENT_TAIL: Final = """
Beside these stand the usual `process_*` metrics of the Prometheus client: CPU time, memory, open files, start.
"""


def metrics_markdown() -> str:
    """The text of docs/metrics.md."""
    lines = []
    for metric in Metrics().described():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.documentation} |\n")
    return _DOCUMENT_HEAD + "".join(lines) + _DOCUMENT_TAIL


if __name__ == "__main__":
    sys.stdout.write(metrics_markdown())
