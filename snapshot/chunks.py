"""A table's rows in key order, chunk by chunk; each chunk is a statement of its own, so no read view is held open.

Borders are what the server's own ORDER BY returned, sent back to it as they came: no order is ever computed here
(EDGE_CASES D8).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cdc.model import TableDefinition
from cdc.source.connection import SourceConnection
from cdc.source.resultset import comparable, literal, quote, quote_table, select_list, to_record_batch

__all__ = ["chunk_sql", "read_chunks"]


def chunk_sql(
    definition: TableDefinition, key: tuple[str, ...], after: tuple[bytes | None, ...] | None, *, rows_max: int
) -> str:
    """The SELECT of the chunk that follows the key values `after` (None: the first one)."""
    where = ""
    if after is not None:
        literals = [literal(value, definition.column(name)) for name, value in zip(key, after, strict=True)]
        names = [comparable(definition.column(name)) for name in key]
        # (a, b) > (x, y) spelled out: row constructors do not use the index on every version.
        alternatives = []
        for depth in range(len(key)):
            terms = [f"{names[i]} = {literals[i]}" for i in range(depth)]
            terms.append(f"{names[depth]} > {literals[depth]}")
            alternatives.append("(" + " AND ".join(terms) + ")")
        where = " WHERE " + " OR ".join(alternatives)
        if len(key) > 1:  # lets the optimizer take a range on the first column
            where = f" WHERE {names[0]} >= {literals[0]} AND ({' OR '.join(alternatives)})"
    order = ", ".join(quote(name) for name in key)
    return (
        f"SELECT {select_list(definition)} FROM {quote_table(definition.name)}{where} ORDER BY {order} LIMIT {rows_max}"
    )


def read_chunks(
    connection: SourceConnection, definition: TableDefinition, key: tuple[str, ...], *, rows_max: int
) -> Iterator[pa.RecordBatch]:
    """Every row once, in key order, at most `rows_max` a batch.

    Raises TableGone when the table goes away or changes under the read, UnsupportedData for a value that cannot be
    carried.
    """
    positions = [next(i for i, c in enumerate(definition.columns) if c.name == name) for name in key]
    after: tuple[bytes | None, ...] | None = None
    while True:
        rows = connection.query(chunk_sql(definition, key, after, rows_max=rows_max))
        if rows:
            yield to_record_batch(definition, rows)
            after = tuple(rows[-1][i] for i in positions)
        if len(rows) < rows_max:
            return
