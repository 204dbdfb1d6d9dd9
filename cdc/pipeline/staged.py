"""What becomes of chunks on their way through files, said in the log and in the metrics."""

from __future__ import annotations

from cdc.log import Logger
from cdc.metrics import SinkMetrics

__all__ = ["StagingReport"]


class StagingReport:
    """Listens to a `snapshot.staging.StagingArea`."""

    def __init__(self, log: Logger, metrics: SinkMetrics) -> None:
        self._log = log.bind(sink=metrics.name)
        self._metrics = metrics

    def staged(self, byte_count: int) -> None:
        """A chunk is in a file."""
        self._metrics.chunks_staged("written")
        self._log.debug("chunk_staged", bytes=byte_count)

    def damaged(self, table: str, problem: str) -> None:
        """A file is not what was written."""
        self._metrics.chunks_staged("damaged")
        self._log.warning(
            "staged_chunk_damaged",
            table=table,
            message=problem,
            hint="its chunk is read again from the source; look at the disk under staging.dir, and at who writes there",
        )

    def failed(self, table: str, problem: str, hint: str) -> None:
        """A file cannot be written."""
        self._metrics.chunks_staged("failed")
        self._log.warning("staging_failed", table=table, message=problem, hint=hint)
