"""Our own reader as the service builds it (stream, assembler, batches), with an output that reads every batch and
lets it go.

What a reader makes of a batch is kept cheap, so that what is measured is decoding: every buffer is read once
(buffers.py), and the sums of summary.py fall out of that. What proves every byte (hashing.py) runs by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import pyarrow as pa

from benchmarks.buffers import BufferReader
from benchmarks.summary import Summary
from cdc.errors import InvariantBroken
from cdc.model import (
    ColumnDefinition,
    Operation,
    RowBatch,
    SchemaChange,
    SourcePosition,
    TableDefinition,
    TableName,
    TransactionRun,
    ValueKind,
)
from cdc.source.assembler import CapturedTable

__all__ = ["AllOf", "Counting", "FinishedLog", "OneTable"]

_BINARY_KINDS = frozenset({ValueKind.BINARY, ValueKind.BLOB})
_TEXT_KINDS = frozenset({ValueKind.TEXT, ValueKind.JSON})


class OneTable:
    """A capture of one table, ready."""

    revision = 0

    def __init__(self, definition: TableDefinition) -> None:
        self._captured = CapturedTable(definition)

    def find(self, table: TableName) -> CapturedTable | None:
        return self._captured if table == self._captured.definition.name else None

    def is_unknown(self, table: TableName) -> bool:  # noqa: ARG002
        return False

    def absent_at(self, table: TableName) -> SourcePosition | None:  # noqa: ARG002
        return None

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        name = self._captured.definition.name
        return [name] if name.lower() in names else []

    def in_database(self, database: str) -> list[TableName]:
        name = self._captured.definition.name
        return [name] if name.database == database else []


class FinishedLog:
    """The parts of an output that a finished log never reaches."""

    def change(self, change: SchemaChange) -> None:
        raise InvariantBroken(f"a log without DDL has a barrier: {change.statement!r} on {change.tables}")

    def progress(self, position: SourcePosition) -> None:
        """Nothing is kept."""

    def abandon(self) -> None:
        raise InvariantBroken("a log without a crash has an abandoned transaction")


class _Reader(Protocol):
    def run(self, run: TransactionRun) -> None:
        """Read the run's batches."""


class AllOf(FinishedLog):
    """Hands every run to each of several."""

    def __init__(self, outputs: Sequence[_Reader]) -> None:
        self._outputs = outputs

    def run(self, run: TransactionRun) -> None:
        for output in self._outputs:
            output.run(run)


class Counting(FinishedLog):
    """Reads every buffer of every batch once, and counts."""

    def __init__(self, text_columns: Iterable[str]) -> None:
        self.summary = Summary()
        self.batches = 0
        self.transactions = 0
        self._text_columns = frozenset(text_columns)
        self._buffers = BufferReader()
        self._plans: dict[int, tuple[TableDefinition, list[Callable[[pa.Array], None]]]] = {}

    def run(self, run: TransactionRun) -> None:
        self.transactions += run.transaction_count
        for batch in run.batches:
            self.batches += 1
            self.add(batch)

    def add(self, batch: RowBatch) -> None:
        """Read one batch."""
        summary, count = self.summary, self._buffers.count
        operation = batch.operation
        summary.inserts += count(operation, Operation.INSERT)
        summary.updates += count(operation, Operation.UPDATE_AFTER)
        summary.deletes += count(operation, Operation.DELETE)
        self._buffers.read_fixed(batch.transaction_index)
        for read, column in zip(self._plan(batch.definition), batch.images.columns, strict=True):
            summary.null_count += column.null_count
            read(column)

    def _plan(self, definition: TableDefinition) -> list[Callable[[pa.Array], None]]:
        known = self._plans.get(id(definition))
        if known is None:
            known = self._plans[id(definition)] = (definition, [self._reader(c) for c in definition.columns])
        return known[1]

    def _reader(self, column: ColumnDefinition) -> Callable[[pa.Array], None]:
        if column.name == "id":
            return self._read_id
        if column.name == "amount":
            return self._read_amount
        if column.kind in _TEXT_KINDS or column.kind in _BINARY_KINDS:
            return self._read_counted_text if column.name in self._text_columns else self._read_other_text
        return self._buffers.read_fixed

    def _read_id(self, array: pa.Array) -> None:
        self.summary.id_sum += self._buffers.integer_sum(array)

    def _read_amount(self, array: pa.Array) -> None:
        self.summary.amount_sum += self._buffers.decimal_sum(array)

    def _read_counted_text(self, array: pa.Array) -> None:
        self.summary.text_bytes += self._buffers.read_text(array)

    def _read_other_text(self, array: pa.Array) -> None:
        self._buffers.read_text(array)
