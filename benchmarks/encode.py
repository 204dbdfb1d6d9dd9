"""What a row costs as COPY text: the compiled encoder and the Python encoder, on rows like the logs' `orders`.

    python -m benchmarks.encode                     a batch as large as the service hands over at once
    python -m benchmarks.encode --rows 1000         a smaller one

Sets of rows:

    usual     none that the compiled encoder leaves
    zero      one DATETIME in a hundred is the zero date, which is left to the Python encoder
    zeros     every DATETIME is

CPU time, the best of `--rounds`; of the Python encoder, the best of two. Then each column of the usual rows by itself.
Nothing is printed of rows on which the two differ.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from benchmarks.compact import ORDERS, RUN_IMAGES
from cdc.schema.mapping import map_table
from cdc.schema.target import Policies, TargetColumn, TargetTable
from cdc.sinks.encode_postgres import copy_text, encode_column
from cdc.sinks.values import PolicyCounter, column_of

ZEROS_ONE_IN = {"usual": 0, "zero": 100, "zeros": 1}


def orders(count: int, zeros_one_in: int) -> pa.RecordBatch:
    """Rows with values as a shop has them; NULL in one note of ten."""
    chance = random.Random(1)

    def created(index: int) -> int:
        if zeros_one_in and index % zeros_one_in == 0:
            return 0
        month, day, hour = chance.randrange(1, 13), chance.randrange(1, 29), chance.randrange(24)
        date = (2024 * 13 + month) << 5 | day
        seconds = chance.randrange(60) << 30 | chance.randrange(60) << 24
        return date << 41 | hour << 36 | seconds | chance.randrange(1000) * 1000

    def note() -> str | None:
        return (
            None
            if chance.random() < 0.1
            else "leave it with the neighbours, the bell is broken "[: chance.randrange(50)] * 2
        )

    columns: Sequence[list[Any]] = (
        list(range(count)),
        [chance.randrange(50_000) for _ in range(count)],
        [chance.choice(("new", "paid", "shipped", "closed")) for _ in range(count)],
        [Decimal(chance.randrange(10**6)).scaleb(-2) for _ in range(count)],
        [chance.randrange(100) for _ in range(count)],
        [created(index) for index in range(count)],
        [(1_700_000_000 + chance.randrange(10**7)) * 1_000_000 for _ in range(count)],
        [note() for _ in range(count)],
        [chance.randrange(2) for _ in range(count)],
        [chance.randrange(10**6) / 1000 for _ in range(count)],
    )
    arrays = [pa.array(values, field.type) for values, field in zip(columns, ORDERS.arrow_schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ORDERS.arrow_schema)


def in_python(
    rows: pa.RecordBatch,
    target: TargetTable,
    columns: Sequence[TargetColumn],
    counter: PolicyCounter,
    selection: pa.Int32Array,
) -> bytes:
    """COPY text by the Python encoder: selected rows taken, columns to lists, lists to rows."""
    taken = rows.take(selection)
    encoded = [encode_column(column_of(taken, column), column, target.policies, counter) for column in columns]
    lines = ("\t".join("\\N" if value is None else value for value in row) for row in zip(*encoded, strict=True))
    return "".join(f"{line}\n" for line in lines).encode()


def best(act: Callable[[], object], rounds: int) -> float:
    """CPU seconds."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        act()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=RUN_IMAGES)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    target = map_table(
        ORDERS, kind="postgresql", namespace="bench", name="orders", key=ORDERS.primary_key, policies=Policies()
    )
    selection = pa.array(range(options.rows), pa.int32())

    def measure(rows: pa.RecordBatch, columns: Sequence[TargetColumn], name: str) -> None:
        counters = PolicyCounter(), PolicyCounter()
        text = bytes(copy_text(rows, target, columns, counters[0], selection))
        if text != in_python(rows, target, columns, counters[1], selection) or counters[0] != counters[1]:
            raise SystemExit(f"{name}: the two encoders differ")
        compiled = best(lambda: copy_text(rows, target, columns, PolicyCounter(), selection), options.rounds)
        python = best(lambda: in_python(rows, target, columns, PolicyCounter(), selection), 2)
        print(
            f"{name:12} {len(text) / options.rows:6.0f} bytes {compiled / options.rows * 1e9:8.1f} ns "
            f"{options.rows / compiled / 1e6:8.2f} M rows/s   Python {options.rows / python / 1e6:8.3f} M rows/s"
            f" {python / compiled:6.1f} x"
        )

    for name, one_in in ZEROS_ONE_IN.items():
        measure(orders(options.rows, one_in), target.columns, name)
    rows = orders(options.rows, 0)
    for column in target.columns:
        measure(rows, (column,), column.name)


if __name__ == "__main__":
    main()
