"""From transaction runs to lines: what the two formats have in common.

Column by column: each column's values become fragments with its name before them, an image is those of a row joined,
and a format puts images into its envelope. A run holds a batch a table; its lines come out in the order of the
transactions, and inside of one table by table, in the order of the changes of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from cdc.model import (
    ColumnDefinition,
    Flavor,
    OpenTransaction,
    RowBatch,
    SchemaChange,
    TableDefinition,
    TableName,
    TransactionRun,
)
from cdc.tail.select import DDL, Selection, kept_images
from cdc.tail.values import ColumnWriter, quoted

__all__ = ["Format", "Images", "LineWriter", "Transaction"]


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a line says of its transaction. `file` and `pos`: its end, or the start of one that has not ended yet."""

    gtid: str | None
    file: str | None
    pos: int | None
    commit_us: int


@dataclass(slots=True)
class Images:
    """The images of one batch as JSON objects, with what formats need to know of them.

    `row_numbers`: the how manieth change of its table in its transaction, from 0. `keys`: the fragments of the primary
    key, where a format asks for them; None stands for a column that is absent.
    """

    definition: TableDefinition
    operations: Sequence[int]
    transactions: Sequence[int]
    objects: Sequence[str]
    row_numbers: Sequence[int] = ()
    keys: Sequence[tuple[Any, ...]] = ()


class Format(Protocol):
    """One form of lines. Every line ends in a newline."""

    needs_keys: bool
    """Does it ask for `Images.row_numbers` and `Images.keys`?"""

    def column_writer(self, column: ColumnDefinition, flavor: Flavor) -> ColumnWriter:
        """The fragments of a column's values."""

    def changes(self, images: Images, transactions: Mapping[int, Transaction]) -> tuple[list[str], list[int]]:
        """Lines in the order of the images, and the index of each one's transaction."""

    def schema_change(self, table: TableName, statement: str, transaction: Transaction) -> list[str]:
        """The line of a statement that touched `table`."""

    def abandoned(self, transaction: Transaction) -> list[str]:
        """The line that takes back what was shown of a transaction that has no end."""


@dataclass(frozen=True, slots=True)
class _TableWriter:
    """The columns of one version of a table: name and writer of each. `keys`: the indexes of the primary key's."""

    definition: TableDefinition
    columns: tuple[tuple[str, ColumnWriter], ...]
    index_of: Mapping[str, int]
    keys: tuple[int, ...]


class LineWriter:
    """Writes runs and schema changes as lines of one format."""

    def __init__(self, form: Format, selection: Selection) -> None:
        self._format = form
        self._selection = selection
        self._writers: dict[TableName, _TableWriter] = {}
        # Where the count of a table's changes stands in a transaction that is handed over in parts.
        self._counts: dict[TableName, int] = {}

    def run(self, run: TransactionRun, count: int) -> list[str]:
        """The lines of the run's first `count` transactions, or of a part that is not the last one."""
        transactions = _transactions(run, count)
        selection = self._selection
        if selection.only is None and selection.after is None:
            is_shown = [True] * len(transactions)
        else:
            is_shown = [selection.has_transaction(transaction.gtid) for transaction in transactions]
        # An open transaction has no end to be counted by.
        is_shown += [False] * (max(run.transaction_count, 1) - len(is_shown))
        lines: list[str] = []
        order: list[int] = []
        by_index = dict(enumerate(transactions))
        for batch in run.batches:
            images = self._images(batch, is_shown)
            if images is not None:
                new_lines, new_order = self._format.changes(images, by_index)
                lines += new_lines
                order += new_order
        if run.is_last_part:
            self._counts.clear()
        if len(run.batches) > 1 and len(transactions) > 1:
            lines = [lines[index] for index in sorted(range(len(lines)), key=order.__getitem__)]
        return lines

    def change(self, change: SchemaChange, gtid: str | None) -> list[str]:
        """The lines of a statement, one a table that it touched."""
        if DDL not in self._selection.operations or not self._selection.has_transaction(gtid):
            return []
        file = change.end.file
        transaction = Transaction(gtid, file.file if file else None, file.pos if file else None, change.commit_time_us)
        return [
            line for table in change.tables for line in self._format.schema_change(table, change.statement, transaction)
        ]

    def abandoned(self, opened: OpenTransaction) -> list[str]:
        """The line for a transaction of which parts were shown and that was rolled back, or is shown again."""
        self._counts.clear()
        return self._format.abandoned(_open_transaction(opened))

    def _images(self, batch: RowBatch, is_shown: Sequence[bool]) -> Images | None:
        operations: list[int] = batch.operation.to_pylist()
        transactions: list[int] = batch.transaction_index.to_pylist()
        writer = self._writer(batch.definition)
        numbers = self._row_numbers(batch, operations, transactions) if self._format.needs_keys else []

        def fragments(name: str) -> list[Any] | None:
            at = writer.index_of.get(name)
            return None if at is None else writer.columns[at][1](batch.images.column(at))

        kept = kept_images(
            batch,
            operations,
            transactions,
            selection=self._selection,
            is_shown=is_shown,
            fragments=fragments,
        )
        if kept is not None:
            if not kept:
                return None
            if len(kept) < batch.row_count:
                operations = [operations[index] for index in kept]
                transactions = [transactions[index] for index in kept]
                numbers = [numbers[index] for index in kept] if numbers else []
                batch = _taken(batch, kept)
        columns = [write(array) for (_, write), array in zip(writer.columns, batch.images.columns, strict=True)]
        keys: list[tuple[Any, ...]] = []
        if self._format.needs_keys and writer.keys:
            keys = list(
                zip(*(self._key_fragments(batch, writer, columns, index) for index in writer.keys), strict=True)
            )
        return Images(batch.definition, operations, transactions, self._objects(batch, writer, columns), numbers, keys)

    def _writer(self, definition: TableDefinition) -> _TableWriter:
        writer = self._writers.get(definition.name)
        if writer is None or writer.definition is not definition:
            columns = tuple(
                (column.name, self._format.column_writer(column, definition.flavor)) for column in definition.columns
            )
            index_of = {name: index for index, (name, _) in enumerate(columns)}
            keys = tuple(index_of[name] for name in definition.primary_key if name in index_of)
            writer = self._writers[definition.name] = _TableWriter(definition, columns, index_of, keys)
        return writer

    def _objects(self, batch: RowBatch, writer: _TableWriter, columns: Sequence[Sequence[Any]]) -> list[str]:
        """Each image as a JSON object, in the order of the table's columns, without those that are absent."""
        named: list[tuple[str, list[str]]] = []
        chosen = self._selection.columns
        for (name, _), values in zip(writer.columns, columns, strict=True):
            if chosen is None or name in chosen:
                key = f"{quoted(name)}:"
                named.append((name, [f"{key}{value}" for value in values]))
        if not named:
            return ["{}"] * batch.row_count
        if batch.shape_index is None:
            return [f"{{{','.join(row)}}}" for row in zip(*(values for _, values in named), strict=True)]
        present = [[values for name, values in named if name not in absent] for absent in batch.shapes]
        return [
            f"{{{','.join([values[index] for values in present[shape]])}}}"
            for index, shape in enumerate(batch.shape_index.to_pylist())
        ]

    @staticmethod
    def _key_fragments(
        batch: RowBatch, writer: _TableWriter, columns: Sequence[Sequence[Any]], index: int
    ) -> Sequence[Any]:
        if batch.shape_index is None:
            return columns[index]
        is_absent = [writer.columns[index][0] in absent for absent in batch.shapes]
        shapes = batch.shape_index.to_pylist()
        return [None if is_absent[shape] else value for value, shape in zip(columns[index], shapes, strict=True)]

    def _row_numbers(self, batch: RowBatch, operations: Sequence[int], transactions: Sequence[int]) -> list[int]:
        """Counted over all images, shown or not, and on from part to part."""
        table = batch.definition.name
        number, current = self._counts.get(table, 0) - 1, 0
        numbers = []
        for operation, transaction in zip(operations, transactions, strict=True):
            if transaction != current:
                number, current = -1, transaction
            if operation != _UPDATE_AFTER:
                number += 1
            numbers.append(number)
        self._counts[table] = number + 1
        return numbers


_UPDATE_AFTER = 3


def _taken(batch: RowBatch, kept: Sequence[int]) -> RowBatch:
    indexes = pa.array(kept, pa.int64())
    return RowBatch(
        definition=batch.definition,
        operation=batch.operation.take(indexes),
        transaction_index=batch.transaction_index.take(indexes),
        images=batch.images.take(indexes),
        shape_index=None if batch.shape_index is None else batch.shape_index.take(indexes),
        shapes=batch.shapes,
    )


def _open_transaction(opened: OpenTransaction) -> Transaction:
    start = opened.start
    return Transaction(opened.gtid, start.file if start else None, start.pos if start else None, opened.commit_time_us)


def _transactions(run: TransactionRun, count: int) -> list[Transaction]:
    """The first `count` finished transactions; of a part that is not the last one, the open one."""
    if run.open_transaction is not None:
        return [_open_transaction(run.open_transaction)] if count else []
    ends = run.ends
    assert ends is not None, "a run without an open transaction has ends"
    file = run.end.file.file if run.end.file is not None else None
    separator = ":" if ends.flavor == "mysql" else "-"
    heads = [f"{source}{separator}" for source in ends.sources]
    return [
        Transaction(None if source < 0 else f"{heads[source]}{number}", file, offset, commit_us)
        for source, number, offset, commit_us in zip(
            ends.gtid_source.slice(0, count).to_pylist(),
            ends.gtid_number.slice(0, count).to_pylist(),
            ends.offset.slice(0, count).to_pylist(),
            run.commit_times_us.slice(0, count).to_pylist(),
            strict=True,
        )
    ]
