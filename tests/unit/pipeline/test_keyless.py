"""The fold of tables without a key: of any history what a multiset of rows comes to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.keyless import keyless_change, source_columns, transformed_keyless, whole_batches
from cdc.pipeline.transform import Stamp
from cdc.rowfilter import parse_filter
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Masking, Policies, TargetTable

INSERT, BEFORE, AFTER, DELETE = Operation.INSERT, Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER, Operation.DELETE
COLUMNS = (
    ColumnDefinition("n", ValueKind.INTEGER, "int", length=32, default="7"),
    ColumnDefinition("f", ValueKind.DOUBLE, "double"),
    ColumnDefinition("t", ValueKind.TEXT, "varchar(9)", charset="utf8mb4", collation="utf8mb4_bin", length=9),
)
TABLE = TableDefinition(TableName("shop", "t"), COLUMNS)
NAMES = tuple(column.name for column in COLUMNS)
Row = tuple[Any, ...]
Image = tuple[Operation, Row]
NO_OPTIONS = TableOptions()


def batch(images: Sequence[Image], lacking: Sequence[frozenset[str]] = (), **changes: Any) -> RowBatch:
    """`lacking`: what each image lacks."""
    definition = replace(TABLE, **changes)
    columns = zip(*(row for _, row in images), strict=True)
    arrays = [_array(values, column) for values, column in zip(columns, definition.columns, strict=True)]
    shapes = tuple(dict.fromkeys(lacking))
    return RowBatch(
        definition,
        pa.array([int(operation) for operation, _ in images], pa.uint8()),
        pa.array([0] * len(images), pa.uint32()),
        pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema),
        pa.array([shapes.index(one) for one in lacking], pa.uint16()) if lacking else None,
        shapes,
    )


def _array(values: Sequence[Any], column: ColumnDefinition) -> pa.Array:
    if column.kind is not ValueKind.TEXT:
        return pa.array(values, column.arrow_type)
    raw = pa.array([v.encode() if isinstance(v, str) else v for v in values], pa.large_binary())
    return raw.view(pa.large_string())


def target_of(definition: TableDefinition, options: TableOptions = NO_OPTIONS) -> TargetTable:
    return map_table(
        definition, kind="postgresql", namespace="n", name="t", key=(), policies=Policies(), options=options
    )


def fold(*batches: RowBatch, wanted: Sequence[str] = NAMES) -> ChangeBatch:
    return keyless_change(batches[-1].definition, batches, wanted)


def rows_of(images: Sequence[pa.RecordBatch]) -> list[str]:
    """By their bits: 0.0 and -0.0 print otherwise, and so do bytes that are no text."""
    rows = []
    for part in images:
        columns = [array.cast(pa.large_binary()) if name == "t" else array for name, array in zip(NAMES, part.columns)]  # noqa: B905
        rows += [repr(row) for row in zip(*(array.to_pylist() for array in columns), strict=True)]
    return sorted(rows)


def selected(change: ChangeBatch) -> tuple[list[str], list[str]]:
    """What comes and what goes."""
    return rows_of(change.upsert_images()), rows_of(change.delete_images())


def as_rows(*rows: Row) -> list[str]:
    return sorted(repr((n, f, t.encode() if isinstance(t, str) else t)) for n, f, t in rows)


A, B = (1, 0.5, "a"), (1, 0.5, "A")


@pytest.mark.parametrize(
    "images,there,gone",
    [
        ([(INSERT, A), (INSERT, A)], [A, A], []),
        ([(DELETE, A), (DELETE, A), (DELETE, B)], [], [A, A, B]),
        ([(BEFORE, A), (AFTER, B)], [B], [A]),
        ([(BEFORE, A), (AFTER, A)], [], []),
        ([(INSERT, A), (DELETE, A)], [], []),
        ([(DELETE, A), (INSERT, A)], [], []),
        ([(INSERT, A), (BEFORE, A), (AFTER, B), (DELETE, B), (DELETE, B)], [], [B]),
        ([(INSERT, A), (INSERT, A), (DELETE, A)], [A], []),
        ([(DELETE, (1, 0.0, None)), (INSERT, (1, -0.0, None))], [(1, -0.0, None)], [(1, 0.0, None)]),
        ([(DELETE, (1, None, "")), (INSERT, (1, None, None))], [(1, None, None)], [(1, None, "")]),
        (
            [(INSERT, (1, 1.0, b"\xff")), (DELETE, (1, 1.0, b"\xff")), (INSERT, (1, 1.0, b"\xfe"))],
            [(1, 1.0, b"\xfe")],
            [],
        ),
    ],
)
def test_what_comes_to_nothing_is_left_alone(images: Sequence[Image], there: list[Row], gone: list[Row]) -> None:
    assert selected(fold(batch(images))) == (as_rows(*there), as_rows(*gone))


def test_a_random_history_is_what_a_multiset_makes_of_it() -> None:
    rng = random.Random(7)
    kinds = [(n, f, t) for n in (None, 1) for f in (0.0, -0.0, None) for t in ("a", "A", "a ", None)]
    for _ in range(200):
        state: Counter[str] = Counter()
        here: list[Row] = rng.choices(kinds, k=rng.randrange(6))
        before = Counter(as_rows(*here))
        state.update(before)
        batches, images = [], []
        for _ in range(rng.randrange(1, 30)):
            what = rng.randrange(3)
            if what == 0 or not here:
                here.append(rng.choice(kinds))
                images.append((INSERT, here[-1]))
            elif what == 1:
                images.append((DELETE, here.pop(rng.randrange(len(here)))))
            else:
                at = rng.randrange(len(here))
                images.append((BEFORE, here[at]))
                here[at] = rng.choice(kinds)
                images.append((AFTER, here[at]))
            if rng.random() < 0.2:
                batches.append(batch(images))
                images = []
        batches += [batch(images)] if images else []
        there, gone = (Counter(rows) for rows in selected(fold(*batches)))
        assert not there & gone, "a kind of row both comes and goes"
        assert gone <= before, "what goes was there"
        state.subtract(gone)
        state.update(there)
        assert +state == Counter(as_rows(*here))


def test_columns_that_the_target_has_not_do_not_count() -> None:
    change = fold(batch([(BEFORE, (1, 1.0, "a")), (AFTER, (1, 1.0, "b"))]), wanted=("n", "f"))
    assert selected(change) == ([], [])


def test_operations_that_are_none_and_images_that_lack_columns_are_bugs() -> None:
    for wrong in (
        replace(batch([(INSERT, A)]), operation=pa.array([9], pa.uint8())),
        replace(batch([(INSERT, A)]), operation=pa.array([1, 1], pa.uint8())),
        batch([(INSERT, A)], [frozenset({"t"})]),
    ):
        with pytest.raises(InvariantBroken):
            fold(wrong)


# ---------------------------------------------------------------- images that lack columns

WHOLE: frozenset[str] = frozenset()


def test_an_update_takes_from_its_before_image_what_it_does_not_say() -> None:
    images = [(BEFORE, A), (AFTER, (2, None, None)), (INSERT, (None, 9.0, None)), (DELETE, B)]
    lacking = [WHOLE, frozenset({"f", "t"}), frozenset({"n", "t"}), WHOLE]
    change = fold(*whole_batches([batch(images, lacking)], target_of(TABLE)))
    assert selected(change) == (as_rows((2, 0.5, "a"), (7, 9.0, None)), as_rows(A, B))


@pytest.mark.parametrize("operation", [BEFORE, DELETE])
def test_an_image_that_does_not_say_which_row_it_was_is_refused_by_its_column(operation: Operation) -> None:
    images = [(operation, A), *([(AFTER, B)] if operation is BEFORE else [])]
    lacking = [frozenset({"f"}), *([WHOLE] if operation is BEFORE else [])]
    with pytest.raises(UnsupportedData, match="does not hold f") as caught:
        whole_batches([batch(images, lacking)], target_of(TABLE))
    assert (caught.value.table, caught.value.column) == ("shop.t", "f")
    assert "binlog_row_image=FULL" in caught.value.hint
    without = TableOptions(exclude=("f",))
    assert whole_batches([batch(images, lacking)], target_of(TABLE, without)), "what the target has not may be missing"
    filtered = replace(without, row_filter=parse_filter("f > 0"))
    with pytest.raises(UnsupportedData, match="does not hold f"):
        whole_batches([batch(images, lacking)], target_of(TABLE, filtered))


def test_a_virtual_column_that_mariadb_does_not_log_is_not_taken_from_before() -> None:
    columns = (COLUMNS[0], replace(COLUMNS[1], is_generated=True), COLUMNS[2])
    images, lacking = [(BEFORE, A), (AFTER, B)], [WHOLE, frozenset({"f"})]
    with pytest.raises(UnsupportedData, match="does not hold f"):
        whole_batches([batch(images, lacking, columns=columns, flavor="mariadb")], target_of(TABLE))
    (whole,) = whole_batches([batch(images, lacking, columns=columns)], target_of(TABLE))
    assert whole.images.column("f").to_pylist() == [0.5, 0.5]


# ---------------------------------------------------------------- towards the target


def test_rows_that_go_are_masked_as_they_were_when_they_came() -> None:
    options = TableOptions(
        columns=(ColumnOption("t", masking=Masking("keep_first", keep=1)),), metadata=(("load_id", "loaded"),)
    )
    target = target_of(TABLE, options)
    change = fold(batch([(DELETE, (1, 1.0, "secret")), (INSERT, (2, 1.0, "other"))]))
    masked = transformed_keyless(change, target, Stamp("7"))
    (there,), (gone,) = masked.upsert_images(), masked.delete_images()
    assert there.column("t").to_pylist() == ["o****"]
    assert there.column("(load_id)").to_pylist() == ["7"]
    assert gone.column("t").to_pylist() == ["s*****"]
    assert gone.schema.names == list(NAMES), "metadata tells no row from another"
    assert source_columns(target) == frozenset(NAMES)


def test_what_is_made_of_a_key_is_refused_without_one() -> None:
    with pytest.raises(UnsupportedData, match="row_id"):
        target_of(TABLE, TableOptions(metadata=(("row_id", "id"),)))
