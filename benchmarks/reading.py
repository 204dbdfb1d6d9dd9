"""Our own reader as the service builds it (stream, assembler, batches), with an output that reads every batch and
lets it go.

What a reader makes of a batch is kept cheap, so that what is measured is decoding: every buffer is read once by an
Arrow kernel, and the sums of summary.py fall out of that. `Hashing` renders every value as the server's SELECT prints
it and hashes the rows: for the run that checks them, not for one that is timed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.summary import HASH_HEX_DIGITS, Summary
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

__all__ = ["AllOf", "Counting", "Hashing", "OneTable", "canonical_text"]

_LETTERS = {
    Operation.INSERT: "I",
    Operation.UPDATE_BEFORE: "B",
    Operation.UPDATE_AFTER: "A",
    Operation.DELETE: "D",
}
_INSERT, _UPDATE_AFTER, _DELETE = (
    pa.scalar(int(operation), pa.uint8()) for operation in (Operation.INSERT, Operation.UPDATE_AFTER, Operation.DELETE)
)
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


class _Output:
    """The parts of an output that a finished log never reaches."""

    def change(self, change: SchemaChange) -> None:
        raise InvariantBroken(f"a log without DDL has a barrier: {change.statement!r} on {change.tables}")

    def progress(self, position: SourcePosition) -> None:
        """Nothing is kept."""

    def abandon(self) -> None:
        raise InvariantBroken("a log without a crash has an abandoned transaction")


class AllOf(_Output):
    """Hands every run to each of several."""

    def __init__(self, outputs: Sequence[Counting | Hashing]) -> None:
        self._outputs = outputs

    def run(self, run: TransactionRun) -> None:
        for output in self._outputs:
            output.run(run)


class Counting(_Output):
    """Reads every buffer of every batch once, and counts."""

    def __init__(self, text_columns: Iterable[str]) -> None:
        self.summary = Summary()
        self.batches = 0
        self.transactions = 0
        self._text_columns = frozenset(text_columns)
        self._plans: dict[int, tuple[TableDefinition, list[Callable[[pa.Array], None]]]] = {}
        # What nobody asks for has still to be read: sums of everything else end here.
        self._rest = 0

    def run(self, run: TransactionRun) -> None:
        self.transactions += run.transaction_count
        for batch in run.batches:
            self.batches += 1
            self.add(batch)

    def add(self, batch: RowBatch) -> None:
        """Read one batch."""
        summary = self.summary
        operation = batch.operation
        summary.inserts += pc.equal(operation, _INSERT).true_count
        summary.updates += pc.equal(operation, _UPDATE_AFTER).true_count
        summary.deletes += pc.equal(operation, _DELETE).true_count
        self._rest += pc.sum(batch.transaction_index).as_py()
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
            scale = 10**column.scale
            return lambda array: self._read_amount(array, scale)
        if column.kind in _TEXT_KINDS or column.kind in _BINARY_KINDS:
            return self._read_counted_text if column.name in self._text_columns else self._read_other_text
        if column.kind is ValueKind.TIMESTAMP:
            return lambda array: self._read_number(array.view(pa.int64()))
        return self._read_number

    def _read_id(self, array: pa.Array) -> None:
        self.summary.id_sum += pc.sum(array).as_py() or 0

    def _read_amount(self, array: pa.Array, scale: int) -> None:
        self.summary.amount_sum += int((pc.sum(array).as_py() or 0) * scale)

    def _read_number(self, array: pa.Array) -> None:
        self._rest += pc.sum(array).as_py() is None

    def _read_counted_text(self, array: pa.Array) -> None:
        self.summary.text_bytes += self._read_text(array)

    def _read_other_text(self, array: pa.Array) -> None:
        self._read_text(array)

    def _read_text(self, array: pa.Array) -> int:
        _validity, offsets, content = array.buffers()
        view = memoryview(offsets)
        (start,) = struct.unpack_from("<q", view, array.offset * 8)
        (end,) = struct.unpack_from("<q", view, (array.offset + len(array)) * 8)
        whole = (end - start) // 8  # as words: the fastest way to have every byte read
        if whole:
            self._rest += pc.sum(pa.Array.from_buffers(pa.uint64(), whole, [None, content.slice(start)])).as_py() & 1
        return int(end - start)


class Hashing(_Output):
    """Adds up the hashes of the images' canonical texts (logs.py)."""

    def __init__(self) -> None:
        self.hash_sum = 0

    def run(self, run: TransactionRun) -> None:
        for batch in run.batches:
            if batch.shape_index is not None:
                raise InvariantBroken("a log with full images has some that lack columns")
            letters = pc.take(pa.array(["", *(_LETTERS[op] for op in Operation)], pa.large_string()), batch.operation)
            texts = [
                pc.fill_null(canonical_text(array, column), "~")
                for column, array in zip(batch.definition.columns, batch.images.columns, strict=True)
            ]
            lines = pc.binary_join_element_wise(letters, *texts, pa.scalar("|", pa.large_string()))
            sha256, digest_bytes = hashlib.sha256, HASH_HEX_DIGITS // 2
            self.hash_sum += sum(
                int.from_bytes(sha256(line).digest()[:digest_bytes], "big")
                for line in lines.cast(pa.large_binary()).to_pylist()
            )


def canonical_text(array: pa.Array, column: ColumnDefinition) -> pa.Array:
    """The values as the server's SELECT prints them."""
    match column.kind:
        case ValueKind.TEXT | ValueKind.JSON:
            return array
        case ValueKind.ENUM:
            return pc.take(pa.array(["", *column.members], pa.large_string()), array)
        case ValueKind.FLOAT | ValueKind.DOUBLE:
            printed = pc.cast(array, pa.large_string())
            return pc.replace_substring_regex(printed, r"\.0$", "")
        case ValueKind.DATE:
            days = _days(pc.shift_right(array, 9), _bits(array, 5, 0xF), _bits(array, 0, 0x1F))
            return pc.cast(pc.cast(pc.cast(days, pa.int32()), pa.date32()), pa.large_string())
        case ValueKind.DATETIME:
            return _timestamp_text(_datetime_us(array), column.fraction_digits)
        case ValueKind.TIMESTAMP:
            return _timestamp_text(array.view(pa.int64()), column.fraction_digits)
        case ValueKind.TIME:
            return pc.cast(pc.cast(pc.divide(array, 1_000_000), pa.int32()).view(pa.time32("s")), pa.large_string())
        case _:
            return pc.cast(array, pa.large_string())


def _bits(array: pa.Array, shift: int, mask: int) -> pa.Array:
    return pc.bit_wise_and(pc.shift_right(array, pa.scalar(shift, array.type)), pa.scalar(mask, array.type))


def _days(year: pa.Array, month: pa.Array, day: pa.Array) -> pa.Array:
    """Days since 1970-01-01 of the Gregorian calendar (years after 0), the year counted from March."""
    year, month, day = (pc.cast(part, pa.int64()) for part in (year, month, day))
    is_early = pc.cast(pc.less_equal(month, 2), pa.int64())
    year = pc.subtract(year, is_early)
    month = pc.add(pc.subtract(month, 3), pc.multiply(is_early, 12))
    in_year = pc.add(pc.divide(pc.add(pc.multiply(month, 153), 2), 5), pc.subtract(day, 1))
    leaps = pc.add(pc.subtract(pc.divide(year, 4), pc.divide(year, 100)), pc.divide(year, 400))
    return pc.subtract(pc.add(pc.add(pc.multiply(year, 365), leaps), in_year), 719_468)


def _datetime_us(array: pa.Array) -> pa.Array:
    """Microseconds since 1970-01-01 00:00:00 of a packed DATETIME (model.py)."""
    months = pc.shift_right(array, 46)
    year, month = pc.divide(months, 13), pc.subtract(months, pc.multiply(pc.divide(months, 13), 13))
    hours = pc.add(pc.multiply(_days(year, month, _bits(array, 41, 0x1F)), 24), _bits(array, 36, 0x1F))
    seconds = pc.add(pc.multiply(pc.add(pc.multiply(hours, 60), _bits(array, 30, 0x3F)), 60), _bits(array, 24, 0x3F))
    return pc.add(pc.multiply(seconds, 1_000_000), _bits(array, 0, 0xFFFFFF))


def _timestamp_text(microseconds: pa.Array, fraction_digits: int) -> pa.Array:
    text = pc.cast(microseconds.view(pa.timestamp("us")), pa.large_string())
    cut = 6 - fraction_digits
    return pc.utf8_slice_codeunits(text, 0, 26 - cut - (fraction_digits == 0))
