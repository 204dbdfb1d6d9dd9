"""A table's rows in chunks: ranges of its key, each read by a statement of its own, so that no read view stays open.

Borders are key values that the server's own ORDER BY returned, sent back to it as they came: no order is ever computed
here, and none is compared between servers (EDGE_CASES D8). Chunks are numbered in key order.

A key may not be NULL. Where the source lets it be, it may become so at any time: such a row is in the chunk where the
server's order, NULL first, puts it, for whoever takes the rows to refuse; as a border it is refused here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from cdc.errors import UnsupportedData
from cdc.model import TableDefinition
from cdc.source.connection import SourceConnection
from cdc.source.result_reader import ResultReader
from cdc.source.resultset import column_expression, comparable, literal, quote, quote_table, select_list

__all__ = [
    "FIRST_ROWS",
    "Border",
    "Chunk",
    "ChunkPlan",
    "KeyRange",
    "Pace",
    "border_sql",
    "range_sql",
    "read_chunk",
    "read_chunks",
    "require_no_null",
]

Border = tuple[bytes | None, ...]

# How many of the borders before it a chunk names. More chunks than a load has sessions are never read at a time, and
# hardly one has more than this.
TRAIL_MAX = 16

FIRST_ROWS = 10_000
"""Of the first chunk of a table of which nothing is known."""

# A batch of so many rows or bytes costs a sink little more than its rows; a whole chunk at once would only take memory.
BATCH_ROWS_MAX = 64 * 1024
BATCH_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys behind `after`, up to and with `upto`. None: from the first one on, to the last one whatever comes."""

    after: Border | None = None
    upto: Border | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of the key, and its place among all of them, from 1 on.

    `trail`: where the chunks before it end, the last of them last, `TRAIL_MAX` at most.
    """

    number: int
    range: KeyRange
    trail: tuple[Border, ...] = field(default=(), compare=False)

    @classmethod
    def behind(cls, before: Chunk | None, upto: Border | None) -> Chunk:
        """The chunk that follows `before`, or is the first."""
        if before is None:
            return cls(1, KeyRange(None, upto))
        after = before.range.upto
        assert after is not None, "nothing follows the last chunk"
        return cls(before.number + 1, KeyRange(after, upto), (*before.trail, after)[-TRAIL_MAX:])


# ---------------------------------------------------------------- statements


def _beyond(definition: TableDefinition, key: Sequence[str], border: Border, operator: str, last: str) -> str:
    """(a, b) `operator` (x, y), and `last` for the last column, spelled out: row constructors do not use the index on
    every version. NULL is less than all else."""
    if None in border:
        raise _null_in_key(definition, key)
    columns = [definition.column(name) for name in key]
    literals = [literal(value, column) for value, column in zip(border, columns, strict=True)]
    names = [comparable(column) for column in columns]

    def compared(index: int, operator: str) -> str:
        found = f"{names[index]} {operator} {literals[index]}"
        may_be_null = columns[index].is_nullable and operator.startswith("<")
        return f"({found} OR {names[index]} IS NULL)" if may_be_null else found

    alternatives = []
    for depth in range(len(key)):
        terms = [f"{names[i]} = {literals[i]}" for i in range(depth)]
        terms.append(compared(depth, last if depth == len(key) - 1 else operator))
        alternatives.append("(" + " AND ".join(terms) + ")")
    if len(key) == 1:
        return alternatives[0]
    # The first term lets the optimizer take a range on the first column.
    return f"({compared(0, operator + '=')} AND ({' OR '.join(alternatives)}))"


def _null_in_key(definition: TableDefinition, key: Sequence[str]) -> UnsupportedData:
    return UnsupportedData(
        f"{definition.name}: the configured primary_key ({', '.join(key)}) is NULL in some rows, which it cannot tell "
        "apart",
        table=str(definition.name),
        hint="name columns under tables.overrides that are never NULL, or give those rows values; a table without "
        "primary_key there, and without a key of its own, is replicated by whole rows",
    )


def _where(definition: TableDefinition, key: Sequence[str], keys: KeyRange, condition: str) -> str:
    conditions = [f"({condition})"] if condition else []
    if keys.after is not None:
        conditions.append(_beyond(definition, key, keys.after, ">", ">"))
    if keys.upto is not None:
        conditions.append(_beyond(definition, key, keys.upto, "<", "<="))
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _from(definition: TableDefinition, key: Sequence[str], keys: KeyRange, condition: str) -> str:
    order = ", ".join(quote(name) for name in key)
    return f"FROM {quote_table(definition.name)}{_where(definition, key, keys, condition)} ORDER BY {order}"


def range_sql(definition: TableDefinition, key: Sequence[str], keys: KeyRange, condition: str = "") -> str:
    """The SELECT of all rows of the range, in key order; of those that meet the condition, where there is one."""
    return f"SELECT {select_list(definition)} {_from(definition, key, keys, condition)}"


def border_sql(
    definition: TableDefinition, key: Sequence[str], keys: KeyRange, *, rows: int, condition: str = ""
) -> str:
    """The SELECT of the key of the row number `rows`, from 1 on, of the same rows: none where there are fewer."""
    columns = ", ".join(column_expression(definition.column(name)) for name in key)
    return f"SELECT {columns} {_from(definition, key, keys, condition)} LIMIT 1 OFFSET {rows - 1}"


def require_no_null(connection: SourceConnection, definition: TableDefinition, key: Sequence[str]) -> None:
    """Raises UnsupportedData where the key is NULL, or a column of it, in a row that is there now."""
    for name in key:
        if not definition.column(name).is_nullable:
            continue
        if connection.query(f"SELECT 1 FROM {quote_table(definition.name)} WHERE {quote(name)} IS NULL LIMIT 1"):
            raise _null_in_key(definition, key)


# ---------------------------------------------------------------- planning


class Pace:
    """How many rows the next chunk has: what takes about `seconds` and `bytes_max`, going by those read before.

    For several threads.
    """

    _STEP = 4.0  # from one chunk to the next: the first measure may be of a few rows, or of a cold cache

    def __init__(self, *, rows_max: int, seconds: float, bytes_max: int, first_rows: int = FIRST_ROWS) -> None:
        """`first_rows`: of the first chunk, of which nothing is known."""
        self._rows_max = rows_max
        self._seconds = seconds
        self._bytes_max = bytes_max
        self._rows = float(min(rows_max, first_rows))
        self._lock = threading.Lock()

    @property
    def bytes_max(self) -> int:
        """Bytes that a chunk is not to be much larger than."""
        return self._bytes_max

    @property
    def rows(self) -> int:
        """Rows of the next chunk, at least 1."""
        with self._lock:
            return max(1, int(self._rows))

    def measured(self, *, rows: int, byte_count: int, seconds: float) -> None:
        """A chunk of so many rows took so long to read."""
        if not rows:
            return
        wanted = min(self._seconds * rows / max(seconds, 1e-6), self._bytes_max * rows / max(byte_count, 1))
        with self._lock:
            self._rows = min(max(wanted, self._rows / self._STEP), self._rows * self._STEP, float(self._rows_max))
            self._rows = max(1.0, self._rows)


class ChunkPlan:
    """Gives out the chunks of one table, and cuts them as they are asked for. For several threads.

    `planned` are the chunks of an earlier attempt, in key order and without a gap, of which those in `done` are not
    given out again; what lies behind the last of them is cut anew. `unrecorded` are those at their end that count as
    cut by this one.
    """

    def __init__(
        self,
        definition: TableDefinition,
        key: Sequence[str],
        pace: Pace,
        *,
        planned: Iterable[Chunk] = (),
        done: Iterable[int] = (),
        unrecorded: Iterable[Chunk] = (),
        condition: str = "",
        is_one: bool = False,
    ) -> None:
        """`condition`: only rows that meet it are read (`snapshot.condition`). `is_one`: somebody has looked, a moment
        ago, whether the table is more than the first chunk, and it is not."""
        cut = list(unrecorded)
        chunks, finished = [*planned, *cut], frozenset(done)
        self.definition = definition
        self.key = tuple(key)
        self.pace = pace
        self.condition = condition
        self._is_one = is_one
        self._waiting = deque(chunk for chunk in chunks if chunk.number not in finished)
        self._cut = cut
        self._last = chunks[-1] if chunks else None
        self._rest: KeyRange | None = KeyRange()
        if chunks:
            upto = chunks[-1].range.upto
            self._rest = None if upto is None else KeyRange(after=upto)
        self._lock = threading.Lock()

    @property
    def has_more(self) -> bool:
        """Are there chunks that have not been given out?"""
        with self._lock:
            return bool(self._waiting) or self._rest is not None

    def next(self, connection: SourceConnection) -> Chunk | None:
        """The next chunk to read; None when all of them have been given out. The last one has no end."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._rest is None:
                return None
            upto = self._border(connection, self._rest) if not self._is_one else None
            chunk = self._last = Chunk.behind(self._last, upto)
            self._rest = None if upto is None else KeyRange(after=upto)
            self._cut.append(chunk)
            return chunk

    def _border(self, connection: SourceConnection, rest: KeyRange) -> Border | None:
        sql = border_sql(self.definition, self.key, rest, rows=self.pace.rows, condition=self.condition)
        found = connection.query(sql)
        return found[0] if found else None

    def again(self, chunk: Chunk) -> None:
        """Give out a chunk once more that could not be read."""
        with self._lock:
            self._waiting.appendleft(chunk)

    def take_cut(self) -> list[Chunk]:
        """The chunks that have been cut since this was last asked, in key order."""
        with self._lock:
            cut, self._cut = self._cut, []
            return cut


# ---------------------------------------------------------------- reading


def read_chunk(reader: ResultReader, plan: ChunkPlan, chunk: Chunk) -> Iterator[pa.RecordBatch]:
    """The rows of the chunk in key order, in batches.

    Raises TableGone when the table goes away or changes under the read, UnsupportedData for a value that cannot be
    carried, and for a border that is NULL.
    """
    sql = range_sql(plan.definition, plan.key, chunk.range, plan.condition)
    return reader.read(sql, rows_max=BATCH_ROWS_MAX, bytes_max=BATCH_BYTES_MAX)


def read_chunks(
    connection: SourceConnection, definition: TableDefinition, key: Sequence[str], *, rows_max: int
) -> Iterator[pa.RecordBatch]:
    """Every row once, in key order, one chunk after the other, at most `rows_max` a batch. Raises as `read_chunk`."""
    plan = ChunkPlan(definition, key, Pace(rows_max=rows_max, seconds=1.0, bytes_max=BATCH_BYTES_MAX))
    reader = ResultReader(connection, definition)
    while (chunk := plan.next(connection)) is not None:
        sql = range_sql(definition, plan.key, chunk.range)
        yield from reader.read(sql, rows_max=min(rows_max, BATCH_ROWS_MAX), bytes_max=BATCH_BYTES_MAX)
