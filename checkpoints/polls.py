"""How far tables have been polled, kept in the sink's metadata and written in the transaction that writes their rows.

One row a table that is not followed by the binlog, of the pipeline that polls the sink's tables (`POLLER`): it has a
lease and table records of its own, like a lane, and no position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import orjson

from cdc.model import TableName
from checkpoints.store import InSinkStore, TableRecord

__all__ = ["POLLER", "PollState", "PollStore", "adopted", "polled_before", "poller_name"]

POLLER = 0
"""The number that the poller has among a sink's lanes, which count from 1."""
_MARK = "#polled"


def poller_name(pipeline: str) -> str:
    """What the metadata call the poller of the sink whose first lane is `pipeline`."""
    return f"{pipeline}{_MARK}"


@dataclass(frozen=True, slots=True)
class PollState:
    """What is known of a table's runs. Times are microseconds since the epoch, values the text that the source gave.

    Attributes:
        strategy: what is done, `incremental` or `full_refresh`, and why; `modifier` is the column that it goes by.
        edge: the modifier's highest value when the last run began, not beyond the source's clock.
        marks: whole numbers say nothing of time, so what the highest was at which time, oldest first.
        is_settled: of whole numbers: False until all rows have been read once after the time that a transaction may be
            open, counted from the first run that found a number.
        runs: how many have ended well; `since_comparison` of them since keys were compared.
        rows_before, rows_after: in the target, exact or (`is_estimate`) the sink's guess; None where nobody counted.
        undated, ahead: rows that have no modifier, and rows whose modifier lies in the future.
        attempts: failed in a row, of which `error` says the last reason.
        load_began_us, load_edge: of a load that is not done: the source's time and the modifier's highest value before
            its first row was read. It is gone on with when it is cut off, and the first run behind it begins there.
    """

    strategy: str = ""
    reason: str = ""
    modifier: str | None = None
    edge: str | None = None
    marks: tuple[tuple[int, str], ...] = ()
    is_settled: bool = True
    runs: int = 0
    since_comparison: int = 0
    began_us: int | None = None
    seconds: float | None = None
    what: str = ""
    rows_read: int = 0
    rows_written: int = 0
    rows_deleted: int = 0
    rows_missed: int = 0
    rows_before: int | None = None
    rows_after: int | None = None
    is_estimate: bool = False
    undated: int = 0
    ahead: int = 0
    attempts: int = 0
    error: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = field(default=())
    load_began_us: int | None = None
    load_edge: str | None = None

    def forgotten(self) -> PollState:
        """The table is going to be read from its beginning."""
        begun = replace(self, load_began_us=None, load_edge=None)
        return replace(begun, edge=None, marks=(), is_settled=False, since_comparison=0)


_FORMAT = 1
_KEYS = frozenset(one.name for one in fields(PollState))


class PollStore:
    """The `polls` table, as far as it is one poller's."""

    def __init__(self, store: InSinkStore) -> None:
        self._store = store

    @property
    def _table(self) -> str:
        return str(self._store.sink.metadata_table("polls"))

    def load(self) -> dict[TableName, PollState]:
        """The state of every table."""
        with self._store.sink.transaction() as tx:
            rows = tx.execute(
                f"SELECT source_table, content FROM {self._table} WHERE pipeline = %s", (self._store.pipeline,)
            )
        found = {}
        for name, content in rows:
            database, table = orjson.loads(name)
            found[TableName(database, table)] = _decode(orjson.loads(content))
        return found

    def put(self, tx: Any, source: TableName, state: PollState) -> None:
        """Write one table's state as part of a sink transaction."""
        content = orjson.dumps({**asdict(state), "format": _FORMAT}).decode("ascii", "surrogateescape")
        name = orjson.dumps([source.database, source.table]).decode()
        count = tx.execute_count(
            f"UPDATE {self._table} SET content = %s WHERE pipeline = %s AND source_table = %s",
            (content, self._store.pipeline, name),
        )
        if not count:
            tx.execute(
                f"INSERT INTO {self._table} (content, pipeline, source_table) VALUES (%s, %s, %s)",
                (content, self._store.pipeline, name),
            )


def _decode(content: Mapping[str, Any]) -> PollState:
    known = {key: value for key, value in content.items() if key in _KEYS}
    known["marks"] = tuple((int(at), str(value)) for at, value in known.get("marks", ()))
    known["problems"] = tuple(known.get("problems", ()))
    return PollState(**known)


def adopted(store: InSinkStore, source: TableName, target: str) -> TableRecord | None:
    """The record that another pipeline of this sink has of the table, to be loaded again by this one.

    A table whose strategy changes goes from the stream to the poller, or back: the target is ours all the same.
    """
    own = _sink_pipeline(store.pipeline)
    for pipeline, record in store.load_sharing(target):
        if pipeline != store.pipeline and _sink_pipeline(pipeline) == own and record.source == source:
            return replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, error=None)
    return None


def polled_before(store: InSinkStore) -> dict[TableName, TableRecord]:
    """The records that the poller of `store`'s sink has, each to be loaded again by who follows the table now."""
    records = InSinkStore(store.sink, poller_name(_sink_pipeline(store.pipeline))).load_tables()
    return {
        name: replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, error=None)
        for name, record in records.items()
        if record.definition is not None
    }


def _sink_pipeline(pipeline: str) -> str:
    """The first lane of the sink that the pipeline, a lane, side or poller, belongs to."""
    return re.split("[#~]", pipeline, maxsplit=1)[0]
