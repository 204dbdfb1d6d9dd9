"""What folding a run costs an image: the compiled compactor and its Python twin, on rows like the logs' `orders`.

    python -m benchmarks.compact                    a million images in each history
    python -m benchmarks.compact --images 100000    fewer

Histories:

    bulk     inserts, each with a key of its own
    hot      updates of 10 000 rows at random
    mixed    the bulk log's: 100 inserts, then 25 updates and 5 deletes of what they inserted
    far      bulk, with keys that lie 2**32 apart: their low bits are the same

Each is folded as one run, and in runs of as many images as the service hands over at once. CPU time, the best of
`--rounds` for the kernel, one round of the twin. Peak memory is that of folding one run in a process of its own, above
what that had before. Nothing is printed of a history on which the two differ.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cdc.binlog.kernel.memory import drop_kept
from cdc.config import FlushSettings
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.compactor import compact, compact_in_python

ORDERS = TableDefinition(
    TableName("bench", "orders"),
    (
        ColumnDefinition("id", ValueKind.INTEGER, "bigint", length=64),
        ColumnDefinition("customer_id", ValueKind.INTEGER, "int", length=32),
        ColumnDefinition("status", ValueKind.TEXT, "varchar(20)"),
        ColumnDefinition("amount", ValueKind.DECIMAL, "decimal(12,2)", precision=12, scale=2),
        ColumnDefinition("qty", ValueKind.INTEGER, "smallint", length=16),
        ColumnDefinition("created", ValueKind.DATETIME, "datetime(3)", fraction_digits=3),
        ColumnDefinition("updated", ValueKind.TIMESTAMP, "timestamp"),
        ColumnDefinition("note", ValueKind.TEXT, "varchar(100)"),
        ColumnDefinition("flag", ValueKind.BIT, "bit(1)", length=1),
        ColumnDefinition("ratio", ValueKind.DOUBLE, "double"),
    ),
    primary_key=("id",),
)
KEYS = {"BIGINT": ("id",), "two VARCHAR": ("status", "note")}
RUN_IMAGES = FlushSettings().rows_max
HOT_ROWS = 10_000
FAR = 1 << 32

Fold = Callable[[TableDefinition, tuple[str, ...], Sequence[RowBatch]], ChangeBatch]


def rows(ids: pa.Int64Array) -> pa.RecordBatch:
    """The images of these rows."""

    def modulo(count: int) -> pa.Int64Array:
        return pc.subtract(ids, pc.multiply(pc.divide(ids, count), count))

    status = pa.array(("new", "paid", "shipped", "closed"), pa.large_string())
    amounts = pa.array(range(1000), pa.int64()).cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2))
    arrays = {
        "id": ids,
        "customer_id": modulo(50_000),
        "status": status.take(modulo(4)),
        "amount": amounts.take(modulo(1000)),
        "qty": modulo(100),
        "created": pc.add(ids, 1 << 56),
        "updated": ids.view(pa.timestamp("us", tz="UTC")),
        "note": pc.binary_join_element_wise(
            pa.scalar("order note number", pa.large_string()),
            ids.cast(pa.large_string()),
            pa.scalar(" ", pa.large_string()),
        ),
        "flag": modulo(2),
        "ratio": pc.divide(ids.cast(pa.float64()), 7.0),
    }
    schema = ORDERS.arrow_schema
    return pa.RecordBatch.from_arrays([arrays[field.name].cast(field.type) for field in schema], schema=schema)


def histories(count: int) -> Iterator[tuple[str, list[int], list[int]]]:
    """Name, operations and ids of the images, `count` of them or a few less."""
    rng = random.Random(20240101)
    yield "bulk", [Operation.INSERT] * count, list(range(count))
    hot = [rng.randrange(HOT_ROWS) for _ in range(count // 2)]
    yield "hot", [Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER] * len(hot), [row for row in hot for _ in range(2)]
    unit = count // 155
    updated = [row for row in range(25 * unit) for _ in range(2)]
    yield (
        "mixed",
        [
            *repeat(Operation.INSERT, 100 * unit),
            *[Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER] * (25 * unit),
            *repeat(Operation.DELETE, 5 * unit),
        ],
        [*range(100 * unit), *updated, *range(50 * unit, 55 * unit)],
    )
    yield "far", [Operation.INSERT] * count, [row * FAR for row in range(count)]


def runs_of(batch: RowBatch, images: int) -> list[list[RowBatch]]:
    """The batch cut into runs."""
    return [
        [
            RowBatch(
                ORDERS,
                batch.operation.slice(first, images),
                batch.transaction_index.slice(first, images),
                batch.images.slice(first, images),
            )
        ]
        for first in range(0, batch.row_count, images)
    ]


def fold_all(fold: Fold, key: tuple[str, ...], runs: Sequence[Sequence[RowBatch]]) -> float:
    """CPU seconds for all runs, one after the other."""
    began = time.thread_time()
    for batches in runs:
        fold(ORDERS, key, batches)
    return time.thread_time() - began


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _peak(fold: Fold, key: tuple[str, ...], batches: Sequence[RowBatch], answer: object) -> None:
    drop_kept()
    ctypes.CDLL(None).malloc_trim(0)  # what is free, but resident, would hide what is needed
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS:")
    change = fold(ORDERS, key, batches)
    answer.send(_status("VmHWM:") - before)  # type: ignore[attr-defined]  # the end of a pipe
    del change


def peak_bytes(fold: Fold, key: tuple[str, ...], batches: Sequence[RowBatch]) -> int:
    """What folding these needs at its height, beside them."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(fold, key, batches, theirs))
    process.start()
    theirs.close()
    found = int(mine.recv())
    process.join()
    return found


def is_same(one: ChangeBatch, other: ChangeBatch) -> bool:
    """Did they select the same rows?"""
    return (one.upserts, one.deletes, one.counts) == (other.upserts, other.deletes, other.counts)


def main(arguments: Sequence[str]) -> int:
    """Prints a line for each history, key and size of runs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compact", description="What folding costs an image.")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    print(
        f"{'history':8} {'key':12} {'run':>8} {'upserts':>8} {'kernel':>10} {'twin':>10} {'ratio':>7} "
        f"{'peak: kernel':>13} {'twin':>9}"
    )
    for name, operations, ids in histories(chosen.images):
        count = len(operations)
        whole = RowBatch(
            ORDERS,
            pa.array(operations, pa.uint8()),
            pa.array([0], pa.uint32()).take(pa.array([0] * count)),
            rows(pa.array(ids, pa.int64())),
        )
        for key_name, key in KEYS.items():
            change = compact(ORDERS, key, [whole])
            if not is_same(change, compact_in_python(ORDERS, key, [whole])):
                print(f"{name} by {key_name}: kernel and twin differ")
                return 1
            for images in (count, RUN_IMAGES):
                runs = runs_of(whole, images)
                kernel = min(fold_all(compact, key, runs) for _ in range(chosen.rounds)) / count
                twin = fold_all(compact_in_python, key, runs) / count
                peaks = [peak_bytes(fold, key, runs[0]) / 1e6 for fold in (compact, compact_in_python)]
                print(
                    f"{name:8} {key_name:12} {images:8} {change.upsert_count:8} {kernel * 1e9:7.1f} ns "
                    f"{twin * 1e9:7.0f} ns {twin / kernel:6.0f}x  {peaks[0]:9.1f} MB {peaks[1]:6.1f} MB",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
