"""Images that lack columns, folded: the same table as after every image in turn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ChangeBatch, ColumnDefinition, Operation, RowBatch, TableDefinition, TableName, ValueKind
from cdc.pipeline.partial import net_changes
from tests.support.applied import AppliedTable, Row

INSERT, BEFORE, AFTER, DELETE = Operation.INSERT, Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER, Operation.DELETE
COLLATION = "utf8mb4_general_ci"
COLUMNS = (
    ColumnDefinition("a", ValueKind.INTEGER, "int", is_nullable=False, length=32, default="1"),
    ColumnDefinition("v", ValueKind.INTEGER, "int", length=32, default="7"),
    ColumnDefinition("b", ValueKind.TEXT, "varchar(9)", is_nullable=False, charset="utf8mb4", collation=COLLATION),
    ColumnDefinition("w", ValueKind.TEXT, "text", charset="utf8mb4", collation=COLLATION),
    ColumnDefinition("x", ValueKind.DECIMAL, "decimal(5,2)", precision=5, scale=2, default="1.50"),
)
TABLE = TableDefinition(TableName("shop", "t"), COLUMNS, primary_key=("b", "a"))
NAMES = tuple(column.name for column in COLUMNS)
DEFAULTS: Row = {"a": 1, "v": 7, "b": "", "w": None, "x": "1.50"}
Image = tuple[Operation, Row, frozenset[str]]  # the row, and what the image lacks of it


# ---------------------------------------------------------------- a source


class Source:
    """A table at a source that takes keys for equal whatever their letters' case; logs as it is told to."""

    def __init__(self, key: tuple[str, ...]) -> None:
        self.key = key
        self.rows: dict[Any, Row] = {}
        self.log: list[list[Image]] = []

    def key_of(self, row: Row) -> Any:
        return tuple(folded(row[name]) for name in self.key)

    def do(self, action: str, image: str, values: Row, where: int, other: int) -> None:
        here = sorted(self.rows, key=repr)
        if action == "insert" or not here:
            self.insert(image, values)
            return
        key, second = here[where % len(here)], here[other % len(here)]
        if action == "update":
            self.update(key, values, image)
        elif action == "delete":
            row = self.rows.pop(key)
            self.log.append([(DELETE, row, self.lacks(image, set(self.key)))])
        elif action == "replace":
            row = self.rows.pop(key)
            self.log.append([(DELETE, row, self.lacks(image, set(self.key)))])
            self.insert(image, {name: row[name] for name in self.key} | {"v": values.get("v", 0)})
        elif action == "swap" and key != second:
            one, two = ({name: self.rows[k][name] for name in self.key} for k in (key, second))
            self.update(key, {"a": 99}, image)
            self.update(second, one, image)
            self.update(self.key_of(one | {"a": 99}), two, image)

    def insert(self, image: str, values: Row) -> None:
        row = DEFAULTS | values
        if self.key_of(row) not in self.rows:
            self.rows[self.key_of(row)] = row
            self.log.append([(INSERT, row, self.lacks(image, set(values)))])

    def update(self, key: Any, values: Row, image: str) -> None:
        row = self.rows.get(key)
        if row is None or not values:
            return
        changed = row | values
        there = self.key_of(changed)
        if there != key and there in self.rows:
            return
        del self.rows[key]
        self.rows[there] = changed
        lacks_before = frozenset() if image == "FULL_NODUP" else self.lacks(image, set(self.key))
        lacks_after = frozenset(NAMES) - set(values) if image == "FULL_NODUP" else self.lacks(image, set(values))
        self.log.append([(BEFORE, row, lacks_before), (AFTER, changed, lacks_after)])

    def lacks(self, image: str, named: set[str]) -> frozenset[str]:
        if image == "MINIMAL":
            return frozenset(NAMES) - named
        return frozenset({"w"}) - named if image == "NOBLOB" else frozenset()


def folded(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def batch_of(images: Sequence[Image], definition: TableDefinition = TABLE) -> RowBatch:
    shapes = list(dict.fromkeys(lacks for *_, lacks in images))
    arrays = []
    for column in definition.columns:
        values = [None if column.name in lacks else row[column.name] for _, row, lacks in images]
        if column.kind is ValueKind.DECIMAL:
            arrays.append(pa.array(values, pa.large_string()).cast(column.arrow_type))
        else:
            arrays.append(pa.array(values, column.arrow_type))
    has_shapes = shapes != [frozenset()]
    return RowBatch(
        definition,
        pa.array([operation for operation, *_ in images], pa.uint8()),
        pa.array([0] * len(images), pa.uint32()),
        pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema),
        pa.array([shapes.index(lacks) for *_, lacks in images], pa.uint16()) if has_shapes else None,
        tuple(shapes) if has_shapes else (),
    )


def runs_of(log: Sequence[list[Image]], rng: random.Random) -> Iterator[list[RowBatch]]:
    """The log in runs of batches, cut at random."""
    rest = list(log)
    while rest:
        run, rest = rest[: (size := rng.randrange(1, len(rest) + 1))], rest[size:]
        batches = []
        while run:
            size = rng.randrange(1, len(run) + 1)
            batches.append(batch_of([image for change in run[:size] for image in change]))
            run = run[size:]
        yield batches


values = st.fixed_dictionaries(
    {},
    optional={
        "a": st.integers(1, 3),
        "v": st.none() | st.integers(0, 9),
        "b": st.sampled_from(("", "x", "X", "é", "É")),
        "w": st.none() | st.sampled_from(("", "text")),
        "x": st.none() | st.sampled_from(("0.00", "-1.25")),
    },
)
actions = st.lists(
    st.tuples(
        st.sampled_from(("insert", "insert", "update", "update", "update", "delete", "replace", "swap")),
        st.sampled_from(("MINIMAL", "MINIMAL", "NOBLOB", "FULL", "FULL_NODUP")),
        values,
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=30,
)
keys = st.sampled_from((("b", "a"), ("a",), ("a", "b")))


@given(actions, actions, keys, st.randoms(use_true_random=False), st.booleans())
def test_the_net_changes_are_the_history_applied_image_by_image(
    before: list[Any], history: list[Any], key: tuple[str, ...], rng: random.Random, tells_case: bool
) -> None:
    source = Source(key)
    for action in before:
        source.do(*action)
    sink = AppliedTable(TABLE, key, rng) if tells_case else AppliedTable(TABLE, key, rng, folded)
    sink.put(list(source.rows.values()))
    source.log.clear()
    for action in history:
        source.do(*action)
    for batches in runs_of(source.log, rng):
        for change in net_changes(TABLE, key, batches):
            sink.apply(change)
    assert spelled(sink.rows.values()) == spelled(source.rows.values())


@given(actions, actions, keys, st.randoms(use_true_random=False))
def test_a_table_that_was_loaded_while_it_changed_ends_as_its_source_or_is_refused(
    before: list[Any], history: list[Any], key: tuple[str, ...], rng: random.Random
) -> None:
    """A load reads rows in the order of their keys, each in some later state of the table; then all changes come."""
    source = Source(key)
    for action in before:
        source.do(*action)
    source.log.clear()
    sink = AppliedTable(TABLE, key, rng, folded)
    steps, read = sorted(rng.randrange(len(history) + 1) for _ in range(3)), []
    bounds = [None, *sorted(rng.choice(((1, ""), (2, ""), (3, ""))) for _ in range(2)), None]
    for number, action in enumerate([*history, None]):
        for chunk, step in enumerate(steps):
            if step == number:
                read += [row for row in source.rows.values() if is_between(row, bounds[chunk], bounds[chunk + 1])]
        if action is not None:
            source.do(*action)
    sink.put(read)
    error = replayed(source.log, sink, rng)
    if error is None:
        assert spelled(sink.rows.values()) == spelled(source.rows.values())
        return
    assert "a key was changed while the table was being loaded" in error.message
    updates = [change for change in source.log if change[0][0] is BEFORE]
    assert any(before[1][name] != after[1][name] for before, after in updates for name in key)


def replayed(log: Sequence[list[Image]], sink: AppliedTable, rng: random.Random) -> UnsupportedData | None:
    try:
        for batches in runs_of(log, rng):
            for change in net_changes(TABLE, sink.key, batches, may_lack_rows=True):
                assert change.may_lack_rows
                sink.apply(change)
    except UnsupportedData as error:
        return error
    return None


def is_between(row: Row, low: tuple[int, str] | None, high: tuple[int, str] | None) -> bool:
    at = (row["a"], row["b"])
    return (low is None or at >= low) and (high is None or at < high)


def spelled(rows: Any) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


# ---------------------------------------------------------------- cases


def row_of(**values: Any) -> Row:
    return DEFAULTS | values


def minimal_update(old: Row, key: tuple[str, ...] = ("a",), **values: Any) -> list[Image]:
    return [
        (BEFORE, old, frozenset(NAMES) - set(key)),
        (AFTER, old | values, frozenset(NAMES) - set(values)),
    ]


def changes_of(*images: Image, key: tuple[str, ...] = ("a",), **arguments: Any) -> list[ChangeBatch]:
    return list(net_changes(TABLE, key, [batch_of(images)], **arguments))


def only(changes: list[ChangeBatch]) -> ChangeBatch:
    (change,) = changes
    return change


def test_an_update_of_some_columns_is_a_partial_update() -> None:
    change = only(changes_of(*minimal_update(row_of(a=5), v=1, x="2.00"), *minimal_update(row_of(a=6), x="3.00", v=4)))
    assert (change.upsert_count, change.delete_count, change.counts) == (0, 0, {"update": 2})
    (update,) = change.updates
    assert (update.columns, update.old_keys) == (("v", "x"), None)
    assert update.images.select(["a", "v"]).to_pylist() == [{"a": 5, "v": 1}, {"a": 6, "v": 4}]


def test_updates_of_one_row_become_one_with_the_columns_of_all() -> None:
    row = row_of(a=5)
    change = only(changes_of(*minimal_update(row, v=1), *minimal_update(row, w="x"), *minimal_update(row, v=None)))
    (update,) = change.updates
    assert update.columns == ("v", "w")
    assert update.images.select(["a", "v", "w"]).to_pylist() == [{"a": 5, "v": None, "w": "x"}]


def test_a_row_that_was_inserted_is_whole_whatever_was_updated_of_it() -> None:
    row = row_of(a=5, b="k")
    inserted = (INSERT, row, frozenset({"v", "w", "x"}))
    change = only(changes_of(inserted, *minimal_update(row, w="later")))
    assert change.updates == ()
    (images,) = change.upsert_images()
    assert [str(value) for value in images.to_pylist()[0].values()] == ["5", "7", "k", "later", "1.50"]


def test_a_row_whose_images_together_have_all_columns_is_upserted() -> None:
    """FULL_NODUP: all before, and after what has changed."""
    row = row_of(a=5, b="k", v=3)
    change = only(changes_of((BEFORE, row, frozenset()), (AFTER, row | {"a": 6}, frozenset(NAMES) - {"a"})))
    assert change.updates == ()
    assert [images.column("a").to_pylist() for images in change.delete_images()] == [[5]]
    assert [images.select(["a", "v", "b"]).to_pylist() for images in change.upsert_images()] == [
        [{"a": 6, "v": 3, "b": "k"}]
    ]


def test_a_moved_key_says_where_it_was() -> None:
    row = row_of(a=5)
    change = only(changes_of(*minimal_update(row, a=6, v=1), *minimal_update(row_of(a=6), a=7)))
    (update,) = change.updates
    assert (change.delete_count, update.columns) == (0, ("a", "v"))
    assert update.images.select(["a", "v"]).to_pylist() == [{"a": 7, "v": 1}]
    assert update.old_keys is not None
    assert update.old_keys.to_pylist() == [{"a": 5}]


def test_a_key_moves_to_one_that_was_left_before_in_a_batch_of_its_own() -> None:
    changes = changes_of(*minimal_update(row_of(a=2), a=3), *minimal_update(row_of(a=1), a=2))
    moves = [
        (u.old_keys.to_pylist(), u.images.column("a").to_pylist()) for c in changes for u in c.updates if u.old_keys
    ]
    assert moves == [([{"a": 2}], [3]), ([{"a": 1}], [2])]
    assert [change.counts for change in changes] == [{"update": 1}, {"update": 1}]


def test_keys_that_a_collation_takes_for_equal_are_not_moved_to_and_from_in_one_batch() -> None:
    key = ("b",)
    out = minimal_update(row_of(b="a"), key, b="t")
    assert len(changes_of(*out, *minimal_update(row_of(b="s"), key, b="u"), key=key)) == 1
    for there in ("A", "a ", "\N{LATIN SMALL LETTER A WITH ACUTE}"):
        assert len(changes_of(*out, *minimal_update(row_of(b="s"), key, b=there), key=key)) == 2


def test_a_moved_row_that_is_deleted_is_deleted_where_it_was() -> None:
    change = only(
        changes_of(*minimal_update(row_of(a=5), a=6), (DELETE, row_of(a=6), frozenset(NAMES) - {"a"})),
    )
    assert change.updates == ()
    assert sorted(a for images in change.delete_images() for a in images.column("a").to_pylist()) == [5, 6]


def test_a_row_that_comes_and_goes_where_another_was_moved_from_leaves_that_one_alone() -> None:
    gone = row_of(a=5, b="k")
    change = only(
        changes_of(
            *minimal_update(row_of(a=5), a=6), (INSERT, gone, frozenset()), (DELETE, gone, frozenset(NAMES) - {"a"})
        )
    )
    assert change.delete_count == 0
    assert [update.old_keys.to_pylist() for update in change.updates if update.old_keys] == [[{"a": 5}]]


def test_a_key_column_that_an_insert_does_not_name_is_its_default() -> None:
    change = only(changes_of((INSERT, row_of(b="k"), frozenset(NAMES) - {"b"}), key=("b", "a")))
    assert [images.column("a").to_pylist() for images in change.upsert_images()] == [[1]]


def test_an_update_that_says_nothing_changes_nothing() -> None:
    """As of a partial JSON update whose diffs are none."""
    row = row_of(a=5)
    change = only(changes_of((BEFORE, row, frozenset(NAMES) - {"a"}), (AFTER, row, frozenset(NAMES))))
    assert (change.updates, change.upsert_count, change.delete_count) == ((), 0, 0)


def test_columns_that_nobody_wants_are_neither_updated_nor_missed() -> None:
    generated = replace(COLUMNS[1], is_generated=True, default=None)
    table = replace(TABLE, columns=(COLUMNS[0], generated, *COLUMNS[2:]), flavor="mariadb")
    images = [(INSERT, row_of(a=9), frozenset({"v"})), *minimal_update(row_of(a=5), w="x")]
    batches = [batch_of(images, table)]
    (change,) = net_changes(table, ("a",), batches, wanted={"a", "b", "w", "x"})
    assert [update.columns for update in change.updates] == [("w",)]
    assert [rows.column("v").to_pylist() for rows in change.upsert_images()] == [[None]]
    with pytest.raises(UnsupportedData, match="does not log the generated column v"):
        list(net_changes(table, ("a",), batches))


def test_whole_images_go_the_usual_way_whatever_else_is_in_the_run() -> None:
    change = only(changes_of((INSERT, row_of(a=5), frozenset()), may_lack_rows=True))
    assert (change.upsert_count, change.may_lack_rows, len(change.batches)) == (1, True, 1)


# ---------------------------------------------------------------- what is refused


def refusal(*images: Image, table: TableDefinition = TABLE, **arguments: Any) -> UnsupportedData:
    with pytest.raises(UnsupportedData) as caught:
        list(net_changes(table, arguments.pop("key", ("a",)), [batch_of(images, table)], **arguments))
    assert caught.value.table == "shop.t"
    assert "shop.t" in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_key_that_the_before_image_does_not_hold_is_refused_by_name() -> None:
    error = refusal(*minimal_update(row_of(a=5), v=1), key=("b",))
    assert error.column == "b"
    assert "does not hold b" in error.message
    assert "it holds a" in error.message
    assert "primary_key" in error.hint


def test_an_insert_without_a_column_of_which_nobody_knows_the_value_is_refused_by_name() -> None:
    columns = (*COLUMNS[:4], replace(COLUMNS[4], is_generated=True))
    error = refusal((INSERT, row_of(a=5), frozenset({"x"})), table=replace(TABLE, columns=columns))
    assert error.column == "x"
    assert "generated" in error.message


def test_a_generated_column_that_mariadb_does_not_log_after_an_update_is_refused() -> None:
    columns = (*COLUMNS[:4], replace(COLUMNS[4], is_generated=True))
    changed = minimal_update(row_of(a=5), v=1)
    assert refusal(*changed, table=replace(TABLE, columns=columns, flavor="mariadb")).column == "x"
    (change,) = net_changes(replace(TABLE, columns=columns), ("a",), [batch_of(changed)])
    assert [update.columns for update in change.updates] == [("v",)]


def test_a_key_that_moves_while_the_table_catches_up_is_refused_unless_the_row_is_whole() -> None:
    moved = minimal_update(row_of(a=5), a=6)
    assert "cdc snapshot shop.t" in refusal(*moved, may_lack_rows=True).hint
    deleted = (DELETE, row_of(a=6), frozenset(NAMES) - {"a"})
    assert only(changes_of(*moved, deleted, may_lack_rows=True)).delete_count == 2


def test_a_row_that_a_load_may_have_read_on_its_way_is_deleted_there() -> None:
    moved = (*minimal_update(row_of(a=5), a=6), *minimal_update(row_of(a=6), a=7))
    deleted = (DELETE, row_of(a=7), frozenset(NAMES) - {"a"})
    change = only(changes_of(*moved, deleted, may_lack_rows=True))
    assert sorted(row["a"] for rows in change.delete_images() for row in rows.to_pylist()) == [5, 6, 7]
    whole: tuple[Image, ...] = ((BEFORE, row_of(a=7), frozenset()), (AFTER, row_of(a=7, v=1), frozenset()))
    change = only(changes_of(*moved, *whole, may_lack_rows=True))
    assert sorted(row["a"] for rows in change.delete_images() for row in rows.to_pylist()) == [5, 6]
    assert change.upsert_count == 1


def test_an_update_of_a_row_that_is_gone_is_refused() -> None:
    gone = (DELETE, row_of(a=5), frozenset(NAMES) - {"a"})
    assert "has been deleted" in refusal(gone, *minimal_update(row_of(a=5), v=1)).message


def test_halves_of_updates_are_broken_invariants() -> None:
    before, after = minimal_update(row_of(a=5), v=1)
    for images in ([before], [before, before], [after], [(DELETE, *after[1:]), after]):
        with pytest.raises(InvariantBroken, match="has the operation"):
            changes_of(*images)
