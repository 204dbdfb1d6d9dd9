"""What is loaded again by itself: tables whose changes the source has purged, and parked ones, within limits.

Decides and writes the tables' states; loading them is the next session's. Knows no rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cdc.clock import Clock
from cdc.errors import BinlogPurged, TargetConflict
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import SourcePosition, TableName
from cdc.pipeline.held import StatementHeld
from cdc.pipeline.text import iso_time
from cdc.schema.modes import keeps_rows
from cdc.source.connection import SourceConnection
from cdc.source.positions import visible_position
from checkpoints.rejects import RejectStore
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["AutoReload", "Recovery", "is_purged", "seed_again"]

_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the configuration says of it."""

    on_purged: Literal["stop", "resnapshot"] = "stop"
    loads_per_day: int = 0
    """How often a parked table is loaded again within 24 hours."""
    first_seconds: float = 300.0
    """Before the first such load; doubled with each that ended in the table being parked again."""


# ---------------------------------------------------------------- a purged log


def is_purged(source: SourceConnection, position: SourcePosition) -> bool:
    """Has the source thrown away log that follows the position, and is nothing else wrong?

    False where it lacks what the position has, too: a source that lost transactions is not mended by loads.
    """
    if isinstance(position.gtid, MysqlGtidSet):
        executed, purged = (
            MysqlGtidSet.parse(source.query_text(f"SELECT @@GLOBAL.{name}")[0][0] or "")
            for name in ("gtid_executed", "gtid_purged")
        )
        return not position.gtid.subtract(executed) and bool(purged.subtract(position.gtid))
    is_there = position.server == source.identity()
    rows = source.rows_by_name("SHOW BINARY LOGS") if is_there or position.gtid is not None else []
    if not rows:
        return False
    first = rows[0]["Log_name"] or ""
    if is_there and position.file is not None:
        number = first.rpartition(".")[2]
        return number.isdigit() and position.file.number < int(number)
    # MariaDB after a failover: files have other numbers there, GTIDs do not.
    return position.gtid is not None and _is_before(source, position.gtid, first)


def _is_before(source: SourceConnection, position: MariadbGtidList, first: str) -> bool:
    """Does the server's first log file begin behind the position in some domain, and has it written all that the
    position has? It cannot tell of transactions in purged files whether they were the same: it goes by their numbers.
    """
    written = MariadbGtidList.parse(source.query_text("SELECT @@GLOBAL.gtid_binlog_pos")[0][0] or "").positions
    begin = source.query_text("SELECT BINLOG_GTID_POS(%s, 4)", (first,))[0][0]
    if begin is None:
        return False
    for domain, (server_id, sequence) in position.positions.items():
        last = written.get(domain, (0, 0))
        if last[1] < sequence or (last[1] == sequence and last[0] != server_id):
            return False
    known = position.positions
    return any(
        seq > known.get(domain, (0, 0))[1] for domain, (_, seq) in MariadbGtidList.parse(begin).positions.items()
    )


def seed_again(
    store: InSinkStore,
    source: SourceConnection,
    records: Sequence[TableRecord],
    error: BinlogPurged,
    *,
    clock: Clock,
) -> list[TableRecord]:
    """Go on from where the source is now, with every table that was followed up to the gap to be loaded again.

    One that keeps what was (`tables.mode`) is parked instead: no load brings back the changes that it lacks. Prepared
    XA transactions are forgotten: what was stored of them is in the loads, or comes with their end.

    Returns the records that were changed. Everything is written in one transaction, with the checkpoint.
    """
    position = visible_position(source)
    checkpoint, _ = store.load_checkpoint()
    assert checkpoint is not None, "there was one to stream from"
    changed = [_seeded(record, error, clock) for record in records if _is_followed(record)]
    with store.sink.transaction() as tx:
        for record in changed:
            store.save_table(tx, record)
            if record.error is not None:
                RejectStore(store).put(tx, record.source, record.error)
        tx.execute_count(f"DELETE FROM {store.sink.metadata_table('prepared')} WHERE pipeline = %s", (store.pipeline,))
        store.fence(tx)  # what is noted of the tables holds from where the stream was left, not from where it goes on
        store.save(tx, checkpoint.next(position))
        tx.commit()
    return changed


def _is_followed(record: TableRecord) -> bool:
    return record.state in ("ready", "snapshotting") or (record.state == "pending" and record.ready_at is not None)


def _seeded(record: TableRecord, error: BinlogPurged, clock: Clock) -> TableRecord:
    anew = replace(record, loaded_from=None, ready_at=None, ready_server=None, error=None, step="")
    if not keeps_rows(record.options):
        return replace(anew, state="pending")
    gap = BinlogPurged(
        f"{record.source} keeps what was (mode: {record.options['mode']}), and the source has purged changes of it: "
        f"{error.message}",
        hint=f"`cdc snapshot {record.source}` goes on from the rows that the source has now; what happened between is "
        "lost",
        position=error.position,
    )
    return replace(
        anew, state="parked", error={**gap.to_dict(since=iso_time(clock.now_us())), "table": str(record.source)}
    )


# ---------------------------------------------------------------- parked tables


class AutoReload:
    """Which parked tables are due, as one session sees it: parking one ends the session."""

    def __init__(self, store: InSinkStore, records: Sequence[TableRecord], settings: Recovery, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[TableName, float] = {}
        self.spent: dict[TableName, float] = {}
        """Tables that have used up their loads, with how many seconds it is until the next one."""
        parked = [record for record in records if _is_retried(record)]
        if not settings.loads_per_day or not parked:
            return
        ages = RejectStore(store).ages_seconds(_DAY_SECONDS)
        now = clock.monotonic()
        for record in parked:
            wait, is_spent = wait_seconds(ages.get(record.source, [0.0]), settings)
            self._due[record.source] = now + wait
            if is_spent:
                self.spent[record.source] = wait

    def due(self) -> list[TableName]:
        """The tables that are to be loaded now."""
        if not self._due:
            return []
        now = self._clock.monotonic()
        return [table for table, at in self._due.items() if at <= now]


def _is_retried(record: TableRecord) -> bool:
    """Conflicts over a target are tried again whenever a session starts; a statement waits for the operator.

    A table that keeps what was has a gap since it was parked, which no load mends.
    """
    return (
        record.state == "parked"
        and not keeps_rows(record.options)
        and (record.error or {}).get("class")
        not in (TargetConflict.__name__, BinlogPurged.__name__, StatementHeld.__name__)
    )


def wait_seconds(ages: Sequence[float], settings: Recovery) -> tuple[float, bool]:
    """How long until a table is loaded again that was parked so long ago (oldest first); does the limit say so?"""
    backoff = settings.first_seconds * 2.0 ** (len(ages) - 1) - ages[-1]
    until_free = 0.0
    if len(ages) > settings.loads_per_day:  # the first one was no load of ours
        until_free = _DAY_SECONDS - ages[-settings.loads_per_day - 1]
    return max(0.0, backoff, until_free), until_free > max(0.0, backoff)
