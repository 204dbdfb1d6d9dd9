"""What loads ask of the simulated source: definitions, chunks of a key, a view whose position is exact.

A SELECT sees what is *visible*, which may be less than what is logged. The planning of chunks, their readers, the
loaders and all that they record are the service's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

from cdc.errors import SourceUnavailable, UnsupportedData
from cdc.gtid import MysqlGtidSet
from cdc.model import SourcePosition, TableDefinition, TableName
from cdc.source.cascades import ForeignKey
from snapshot.exact import ExactRows
from tests.simulation.source import IDENTITY, Row, SourceSession, rows_asked_for

__all__ = [
    "ChunkReader",
    "exact_rows",
    "read_definition",
    "read_definitions",
    "read_hidden_keys",
    "require_visible_changes",
]

_SEARCH_SECONDS = 60.0


def read_definition(source: SourceSession, table: TableName) -> TableDefinition | None:
    """In place of `cdc.source.definitions.read_definition`."""
    source.ask()
    return source.tables.get(table)


def read_definitions(source: SourceSession, tables: Collection[TableName]) -> Mapping[TableName, TableDefinition]:
    """In place of `cdc.source.definitions.read_definitions`."""
    source.ask()
    return {table: source.tables[table] for table in tables if table in source.tables}


def read_hidden_keys(source: SourceSession, tables: Collection[TableName]) -> tuple[ForeignKey, ...]:
    """In place of `cdc.source.cascades.read_hidden_keys`."""
    source.ask()
    return source.hidden_keys(tables)


def require_visible_changes(source: SourceSession, table: TableName) -> None:
    """In place of `cdc.source.cascades.require_visible_changes`."""
    if read_hidden_keys(source, {table}):
        raise UnsupportedData(f"{table} is changed in silence", table=str(table))


class ChunkReader:
    """In place of `cdc.source.result_reader.ResultReader`: one SELECT after the other, a row a batch."""

    def __init__(self, source: SourceSession, definition: TableDefinition) -> None:
        self._source = source
        self._definition = definition

    def read(self, sql: str, *, rows_max: int, bytes_max: int) -> Iterator[pa.RecordBatch]:
        """The rows as they are when the statement begins."""
        self._source.ask()
        for row in rows_asked_for(sql, self._source.rows(self._definition.name)):
            self._source.take_time()
            self._source.ask()  # cut in the middle, perhaps
            yield _batch(self._definition, [row])


@contextlib.contextmanager
def exact_rows(source: SourceSession, definition: TableDefinition, **arguments: Any) -> Iterator[ExactRows]:
    """In place of `snapshot.exact.exact_rows`: a view in a moment in which all that is logged is visible."""
    arguments["on_wait"]()
    source.ask()
    if not source.wait_until_all_is_visible(_SEARCH_SECONDS):
        raise SourceUnavailable("no exact view was found")
    end, executed = source.visible_end, source.executed
    rows = source.rows(definition.name)
    source.take_time()
    source.ask()
    gtid = MysqlGtidSet.parse(executed) if source.has_gtids else None
    yield ExactRows(SourcePosition(IDENTITY, end, gtid), end, iter([_batch(definition, [row]) for row in rows]))


def _batch(definition: TableDefinition, rows: list[Row]) -> pa.RecordBatch:
    schema = definition.arrow_schema
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
