"""Which tables a lane loads in its own stream though sides could: those for which nobody has to wait, or not for long.

A side (`pipeline.beside`) costs a stream, sessions and a meeting or two. Where nothing is current yet there is nothing
that a load could hold up, and a table of a few thousand rows is there before its side would have begun. Decided by the
source's estimates, and by a look at the table: one that somebody holds, or that is larger than it was thought to be,
is loaded beside (docs/decisions/0034).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from cdc.errors import CdcError, UnsupportedData
from cdc.model import TableName
from cdc.source.connection import SourceConnection, TableDenied, TableGone
from cdc.source.resultset import quote_table
from checkpoints.store import TableRecord
from snapshot.together import TableSize, table_sizes, without_patience

__all__ = ["FIRST_BYTES_MAX", "StreamLoads"]

FIRST_BYTES_MAX = 2 << 30
"""What a lane loads at most where nothing is current yet: as much as a side has, as the log is needed for as long."""
# Together with `rows_max`, a second on a machine of two processors.
_BYTES_MAX = 8 << 20
_TABLES_MAX = 16


class StreamLoads:
    """What one session of a lane loads in its stream. Asks the source, on a session without a query under way."""

    def __init__(
        self,
        source: SourceConnection,
        *,
        rows_max: int,
        is_limited: bool,
        has_key: Callable[[TableName], bool],
    ) -> None:
        """`rows_max`: of all small tables together; 0: everything goes to sides.

        `is_limited`: loads may have to wait for the source (`snapshot.guards`).
        `has_key`: may the table be read in chunks? Without a key, an exact view has to be found first.
        """
        self._source = source
        self._rows_max = rows_max
        self._is_limited = is_limited
        self._has_key = has_key
        self._sizes: dict[TableName, TableSize] = {}
        self._asked: set[TableName] = set()
        self._brief: dict[TableName, bool] = {}
        self._rows = self._bytes = 0
        self._looks = _TABLES_MAX

    def sizes(self, tables: Collection[TableName]) -> Mapping[TableName, TableSize]:
        """The source's estimates, as far as it has them; asked for once."""
        if new := [table for table in tables if table not in self._asked]:
            self._asked.update(new)
            self._sizes |= table_sizes(self._source, new)
        return {table: self._sizes[table] for table in tables if table in self._sizes}

    def is_brief(self, table: TableName) -> bool:
        """May a stream wait for the table's load, and for those that were said to be so before?"""
        if table not in self._brief:
            is_possible = self._rows_max > 0 and not self._is_limited
            is_brief = is_possible and self._has_room(table) and self._is_as_thought(table)
            self._brief[table] = is_brief
            if is_brief:
                size = self._sizes[table]
                self._rows, self._bytes = self._rows + size.rows, self._bytes + size.byte_count
        return self._brief[table]

    def chosen(self, records: Sequence[TableRecord], waiting: Sequence[TableRecord], has_sides: bool) -> set[TableName]:
        """Those of the `waiting` tables that are loaded in the stream; `records` are all that it has.

        A load that was cut off there goes on there, with the chunks that it has. `has_sides`: tables are loaded beside
        the stream already, so that this is no first start.
        """
        begun = {record.source for record in waiting if _is_begun(record)}
        others = [record for record in waiting if record.source not in begun]
        if not self._rows_max:
            return begun
        names = [record.source for record in others]
        sizes = self.sizes(names)
        if has_sides or any(_is_current(record) for record in records):
            return begun | {table for table in names if self.is_brief(table)}
        return begun | _first(others, sizes)

    def _has_room(self, table: TableName) -> bool:
        if self._looks <= 0:
            return False
        size = self.sizes([table]).get(table)
        if size is None:
            return False
        return self._rows + size.rows < self._rows_max and self._bytes + size.byte_count <= _BYTES_MAX

    def _is_as_thought(self, table: TableName) -> bool:
        """Has it so few rows, can they be read now, and chunk by chunk? Whatever the server says instead: no."""
        self._looks -= 1
        beyond = f"SELECT 1 FROM {quote_table(table)} LIMIT 1 OFFSET {self._rows_max}"
        try:
            with without_patience(self._source):
                if self._source.query(beyond):
                    return False
            return self._has_key(table)
        except (TableGone, TableDenied, UnsupportedData):
            return True  # its load says so
        except CdcError:
            self._looks = 0  # a look may have taken its second, and there is one to spend
            self._source.query("SELECT 1")  # that it is the session, and not the table, is for others to handle
            return False


def _is_begun(record: TableRecord) -> bool:
    is_loading = record.state == "snapshotting" and record.ready_at is None
    return is_loading and record.loaded_from is not None and not record.is_complete


def _is_current(record: TableRecord) -> bool:
    """Or will be, as soon as the stream goes on."""
    return record.state == "ready" or (record.state == "snapshotting" and record.ready_at is not None)


def _first(records: Sequence[TableRecord], sizes: Mapping[TableName, TableSize]) -> set[TableName]:
    """Where nothing is current: all, or of more than a lane is to have at a time, the small ones.

    Tables that are complete, and not small, are loaded beside: there they are read on after a kill.
    """
    found = {record.source: sizes.get(record.source) for record in records}
    complete = {record.source for record in records if record.is_complete}
    known = [size for size in found.values() if size is not None]
    is_all = len(found) == 1 or sum(size.byte_count for size in known) <= FIRST_BYTES_MAX
    chosen, left = set[TableName](), FIRST_BYTES_MAX
    for table, size in found.items():
        is_small = size is not None and size.is_small
        if (is_all and (is_small or table not in complete)) or (
            not is_all and size is not None and is_small and size.byte_count <= left
        ):
            chosen.add(table)
            left -= size.byte_count if size is not None else 0
    return chosen
