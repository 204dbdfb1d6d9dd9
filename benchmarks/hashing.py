"""What the rows of a log hash to, each value as the server's SELECT prints it: slow, and proves every byte of it."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.reading import FinishedLog
from benchmarks.summary import HASH_HEX_DIGITS
from cdc.errors import InvariantBroken
from cdc.model import ColumnDefinition, Operation, TransactionRun, ValueKind

__all__ = ["Hashing", "canonical_text"]

_LETTERS = {
    Operation.INSERT: "I",
    Operation.UPDATE_BEFORE: "B",
    Operation.UPDATE_AFTER: "A",
    Operation.DELETE: "D",
}


class Hashing(FinishedLog):
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
