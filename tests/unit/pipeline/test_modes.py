"""What becomes of images in tables that keep what was, without a sink: chains of versions, images as changes."""

from __future__ import annotations

import random
from dataclasses import replace

import pyarrow as pa
import pytest

from cdc.errors import UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.compactor import compact
from cdc.pipeline.modes import _as_changes, _chained, soft_deleted
from cdc.schema.mapping import map_table
from cdc.schema.modes import MODE_COLUMNS
from cdc.schema.options import TableOptions
from cdc.schema.target import Mode, Policies, SinkKind, SourceColumn, TargetTable

DEFINITION = TableDefinition(
    TableName("shop", "things"),
    (
        ColumnDefinition("id", ValueKind.INTEGER, "int", is_nullable=False, length=32),
        ColumnDefinition("note", ValueKind.TEXT, "varchar(20)", length=20, charset="utf8mb4"),
        ColumnDefinition("v", ValueKind.INTEGER, "int", is_nullable=False, length=32),
    ),
    primary_key=("id",),
)
INSERT, BEFORE, AFTER, DELETE = Operation


def _target(
    mode: Mode, *, kind: SinkKind = "postgresql", key: tuple[str, ...] = ("id",), shared: SourceColumn | None = None
) -> TargetTable:
    columns = tuple((of, f"_{of}") for of in MODE_COLUMNS[mode])
    options = TableOptions(mode=mode, mode_columns=columns, source_column=shared)
    return map_table(DEFINITION, kind=kind, namespace="s", name="t", key=key, policies=Policies(), options=options)


def _batch(*images: tuple[Operation, int]) -> RowBatch:
    """Images with their id; the note says which image it is."""
    count = len(images)
    arrays = [
        pa.array([key for _, key in images], pa.int32()),
        pa.array([str(number) for number in range(count)], pa.large_string()),
        pa.array([0] * count, pa.int32()),
    ]
    return RowBatch(
        definition=DEFINITION,
        operation=pa.array([int(operation) for operation, _ in images], pa.uint8()),
        transaction_index=pa.array([0] * count, pa.uint32()),
        images=pa.RecordBatch.from_arrays(arrays, schema=DEFINITION.arrow_schema),
    )


def test_images_of_a_key_are_chained_in_their_order() -> None:
    """Against the plainest way, for keys of every kind that Arrow sorts."""
    rng = random.Random(5)
    for _ in range(50):
        count = rng.randint(1, 40)
        numbers = [rng.randint(0, 4) for _ in range(count)]
        texts = [rng.choice((b"", b"a", b"A", b"\xff")) for _ in range(count)]
        floats = [rng.choice((0.0, -0.0, 1.5)) for _ in range(count)]
        keys = [pa.array(numbers, pa.uint64()), pa.array(texts, pa.large_binary()), pa.array(floats, pa.float64())]
        is_first, following = _chained(keys)
        rows = [(n, t, str(f)) for n, t, f in zip(numbers, texts, floats, strict=True)]
        assert is_first.to_pylist() == [row not in rows[:index] for index, row in enumerate(rows)]
        assert following.to_pylist() == [
            next((later for later in range(index + 1, count) if rows[later] == row), None)
            for index, row in enumerate(rows)
        ]


@pytest.mark.parametrize(
    "values,kind",
    [([3, 1, 3], pa.decimal128(38, 0)), ([3, 1, 3], pa.decimal256(60, 0)), ([3, 1, 3], pa.timestamp("us", tz="UTC"))],
)
def test_keys_of_odd_types_are_chained(values: list[int], kind: pa.DataType) -> None:
    is_first, following = _chained([pa.array(values, pa.int64()).cast(kind)])
    assert (is_first.to_pylist(), following.to_pylist()) == ([True, True, False], [2, None, None])


def test_an_update_is_its_image_after_and_one_that_moves_a_key_two_changes() -> None:
    batch = _batch((INSERT, 1), (BEFORE, 1), (AFTER, 1), (BEFORE, 1), (AFTER, 2), (DELETE, 2), (INSERT, 2))
    changes = _as_changes(batch, ("id",))
    found = list(zip(changes.operation.to_pylist(), changes.images.column("note").to_pylist(), strict=True))
    assert found == [(INSERT, "0"), (AFTER, "2"), (DELETE, "3"), (INSERT, "4"), (DELETE, "5"), (INSERT, "6")]


def test_without_a_key_no_update_moves_one() -> None:
    changes = _as_changes(_batch((BEFORE, 1), (AFTER, 2)), ())
    assert changes.operation.to_pylist() == [AFTER]


def test_what_is_gone_is_written_before_what_is_there() -> None:
    batch = _batch((DELETE, 1), (INSERT, 2), (BEFORE, 3), (AFTER, 4))
    change = compact(DEFINITION, ("id",), [batch])
    gone, there = soft_deleted(change, _target("soft_delete"))
    assert [is_gone for _, is_gone in (gone, there)] == [True, False]
    assert _upserted(gone[0]) == ["0", "2"]
    assert _upserted(there[0]) == ["1", "3"]
    assert not gone[0].delete_count
    assert not there[0].delete_count


def test_a_mirror_takes_a_change_as_it_is() -> None:
    change = compact(DEFINITION, ("id",), [_batch((DELETE, 1))])
    assert list(soft_deleted(change, _target("mirror"))) == [(change, False)]


def _upserted(change: ChangeBatch) -> list[str]:
    return [note for images in change.upsert_images() for note in images.column("note").to_pylist()]


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("kind", ["postgresql", "mysql", "mariadb"])
def test_the_key_of_each_mode(kind: SinkKind) -> None:
    assert _target("soft_delete", kind=kind).key == ("id",)
    assert _target("append_only", kind=kind).key == ("_sequence",)
    assert _target("history", kind=kind).key == ("id", "_sequence")
    for mode in ("soft_delete", "append_only", "history"):
        assert _target(mode, kind=kind).source_key == ("id",)


def test_columns_may_be_null_where_rows_are_kept() -> None:
    """A NOT NULL column of the source that comes later has no value in rows that are there."""
    assert [c.is_nullable for c in _target("mirror").columns] == [False, True, False]
    assert [c.is_nullable for c in _target("history").columns[:3]] == [False, True, True]
    assert [c.is_nullable for c in _target("append_only").columns[:3]] == [True, True, True]


def test_what_is_compared_has_the_key_of_the_source() -> None:
    compared = _target("history").without_metadata()
    assert [column.name for column in compared.columns] == ["id", "note", "v"]
    assert (compared.key, compared.live_column) == (("id",), "_valid_to")


def test_a_shared_target_has_no_mode() -> None:
    with pytest.raises(UnsupportedData, match="which other tables share"):
        _target("history", shared=SourceColumn("origin", "shop", 20))


def test_a_change_of_the_mode_or_its_names_is_another_description() -> None:
    options = TableOptions(mode="history", mode_columns=(("valid_to", "until"),))
    described = {
        repr(one.description)
        for one in (TableOptions(), options, replace(options, mode_columns=(("valid_to", "end"),)))
    }
    assert len(described) == 3
