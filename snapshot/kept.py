"""A target that keeps rows which the source does not have (`schema.modes`), and is to be loaded again.

It is never dropped by itself: columns that come are added to it, those that go stay, and what cannot be done without
loss parks the table. Only `cdc snapshot` after a change of the configuration throws away what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdc.errors import SinkRefused
from cdc.schema.modes import keeps_rows
from cdc.schema.target import TargetTable
from cdc.sinks import versions
from cdc.sinks.base import ExistingTable, Sink
from cdc.source.connection import SourceConnection
from checkpoints.store import TableRecord

__all__ = ["fitted", "is_kept", "load_time_us"]


def load_time_us(source: SourceConnection) -> int:
    """When a load begins, in microseconds, by the clock that commit times are of."""
    return int(source.query_text("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)")[0][0] or 0)


def is_kept(record: TableRecord, target: TargetTable, existing: ExistingTable) -> bool:
    """Does the target hold what this deployment has kept there?

    Of a first load that did not finish nothing is. Of a target with triggers nobody has looked for rows.
    """
    is_ours = record.definition is not None and record.target == str(target) and record.is_complete
    return is_ours and keeps_rows(record.options) and (existing.has_rows or bool(existing.problems))


def fitted(
    sink: Sink,
    record: TableRecord,
    target: TargetTable,
    existing: ExistingTable,
    *,
    options: Mapping[str, Any],
    may_replace: bool,
) -> ExistingTable | None:
    """Make the kept target fit, as it is afterwards; None where what it holds may be thrown away.

    Args:
        options: what the configuration says now (`TableOptions.description`).
        may_replace: somebody has asked for this load (`cdc snapshot`).
    Raises:
        SinkRefused: it cannot be made to fit, or not without loss.
    """
    table = str(record.source)
    is_same = record.options == options and (not record.key or record.key == target.source_key)
    if not is_same:
        if may_replace:
            return None
        raise SinkRefused(
            f"{table}: {target} on sink {sink.name} keeps rows (mode: {record.options['mode']}) that were written by "
            f"other options, another key or another mode",
            table=table,
            hint=f"`cdc snapshot {table}` throws away all that it holds and loads anew (rename it on the sink before, "
            "to keep it); or configure what was",
        )
    there = {_folded(name, sink) for name in existing.columns}
    missing = [
        column
        for column in target.columns
        if _folded(column.name, sink) not in there and column.metadata is None and not column.is_key
    ]
    if missing and not existing.problems:
        with sink.transaction() as tx:
            tx.execute(versions.add_columns(target, missing, sink.kind))
            tx.commit()
        existing = sink.inspect(target) or existing
    differences = sink.differences(target, existing)
    if differences:
        raise SinkRefused(
            f"{table}: {target} on sink {sink.name} keeps rows (mode: {target.mode}) and does not fit any more: "
            f"{'; '.join(differences)}",
            table=table,
            hint="alter it so that it fits, or rename it on the sink and a new one is made; then "
            f"`cdc snapshot {table}`",
        )
    return existing


def _folded(name: str, sink: Sink) -> str:
    return name if sink.kind == "postgresql" else name.casefold()
