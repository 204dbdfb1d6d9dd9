"""Masks and hashes, value by value; and that only what is upserted is worked out."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.gtid import MysqlGtidSet
from cdc.model import (
    ColumnDefinition,
    FilePos,
    OpenTransaction,
    Operation,
    PartialUpdate,
    RowBatch,
    ServerIdentity,
    SourcePosition,
    TransactionEnds,
    TransactionRun,
)
from cdc.pipeline.compactor import compact
from cdc.pipeline.transform import Stamp, kept_batches, load_id_text, transformed_change, transformed_rows
from cdc.rowfilter import parse_filter
from cdc.schema.mapping import map_table
from cdc.schema.options import ColumnOption, TableOptions
from cdc.schema.target import Masking, Policies, TargetTable
from tests.unit.sinks.builders import ID, K, change_of, column, date, micros, moment, rows_of, table

SALT = b"a salt of the tests"
HASH = Masking("hash", salt=SALT)
NAME = column("name", K.TEXT, "varchar(20)", length=20)


def target_with(definition: ColumnDefinition, masking: Masking | None, **more: Any) -> TargetTable:
    options = TableOptions(columns=(ColumnOption(definition.name, masking=masking),), **more)
    return map_table(
        table(ID, definition),
        kind="postgresql",
        namespace="n",
        name="t",
        key=("id",),
        policies=Policies(),
        options=options,
    )


def masked(definition: ColumnDefinition, masking: Masking, values: Sequence[Any]) -> list[Any]:
    target = target_with(definition, masking)
    rows = transformed_rows(rows_of(target.definition, list(enumerate(values))), target)
    assert rows.schema.names == ["id", definition.name]
    rows.validate(full=True)
    found: list[Any] = rows.column(1).to_pylist()
    return found


def hashed(content: bytes) -> str:
    return hmac.new(SALT, content, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "masking,values,expected",
    [
        (Masking("null"), ["Ada", "", None], [None, None, None]),
        (Masking("text", text="***"), ["Ada", "", None], ["***", "***", None]),
        (Masking("text", text=""), ["Ada", None], ["", None]),
        (
            Masking("keep_first", keep=2),
            ["Lovelace", "Ada", "Ad", "A", "", None],
            ["Lo******", "Ad*", "**", "*", "", None],
        ),
        (
            Masking("keep_last", keep=2),
            ["Lovelace", "Ada", "Ad", "A", "", None],
            ["******ce", "*da", "**", "*", "", None],
        ),
        (Masking("keep_last", keep=1), ["北京市", "🙂é", "🙂"], ["**市", "*é", "*"]),
    ],
)
def test_masks_of_text(masking: Masking, values: list[str | None], expected: list[str | None]) -> None:
    assert masked(NAME, masking, values) == expected


@pytest.mark.parametrize(
    "definition,value,content",
    [
        (NAME, "Zoë 北京 ", "Zoë 北京 ".encode()),
        (NAME, "", b""),
        (column("b", K.BLOB, "blob"), b"\x00\xff", b"\x00\xff"),
        (column("b", K.BINARY, "binary(3)", length=3), b"a\0\0", b"a\0\0"),
        (column("n", K.INTEGER, "bigint unsigned", length=64), 2**64 - 1, b"18446744073709551615"),
        (column("n", K.INTEGER, "int", length=32), -1, b"-1"),
        (column("y", K.YEAR, "year"), 2024, b"2024"),
        (column("d", K.DECIMAL, "decimal(10,2)", precision=10, scale=2), Decimal("12.50"), b"12.50"),
        (column("d", K.DATE, "date"), date(2024, 2, 29), b"2024-02-29"),
        (column("d", K.DATETIME, "datetime"), moment(2024, 2, 29, 10), b"2024-02-29 10:00:00.000000"),
        (column("d", K.TIMESTAMP, "timestamp"), 1_000_000, b"1970-01-01 00:00:01.000000"),
        (column("d", K.TIME, "time"), -micros(10), b"-10:00:00.000000"),
        (column("e", K.ENUM, "enum('a','b')", members=("a", "b")), 2, b"b"),
        (column("e", K.ENUM, "enum('a','b')", members=("a", "b")), 0, b""),
        (column("s", K.SET, "set('a','b')", members=("a", "b")), 3, b"a,b"),
        (column("j", K.JSON, "json"), '{"a": 1}', b'{"a": 1}'),
        (column("u", K.UUID, "uuid", length=16), bytes(16), b"00000000-0000-0000-0000-000000000000"),
        (column("i", K.INET4, "inet4", length=4), b"\x7f\0\0\x01", b"127.0.0.1"),
    ],
    ids=lambda value: value.column_type if isinstance(value, ColumnDefinition) else None,
)
def test_a_hash_is_hmac_of_the_value_and_null_stays_null(
    definition: ColumnDefinition, value: Any, content: bytes
) -> None:
    assert masked(definition, HASH, [value, None, value]) == [hashed(content), None, hashed(content)]


def test_a_known_hash() -> None:
    """As `openssl dgst -sha256 -hmac` prints it: nobody's hashes change with a version of ours."""
    assert masked(NAME, replace(HASH, salt=b"key"), ["The quick brown fox"]) == [
        hmac.new(b"key", b"The quick brown fox", hashlib.sha256).hexdigest()
    ]
    empty = "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"  # of no key and no text
    assert masked(NAME, replace(HASH, salt=b""), [""]) == [empty]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_a_salt_may_have_any_length(length: int) -> None:
    salt = bytes(range(length))
    expected = hmac.new(salt, b"Ada", hashlib.sha256).hexdigest()
    assert masked(NAME, Masking("hash", salt=salt), ["Ada"]) == [expected]


def test_text_that_is_no_utf8_is_hashed_by_its_bytes_and_not_cut_into_characters() -> None:
    assert masked(NAME, HASH, ["a", b"\xff\xfe"]) == [hashed(b"a"), hashed(b"\xff\xfe")]
    with pytest.raises(UnsupportedData, match=r"name: the text is not valid UTF-8.*id=1") as caught:
        masked(NAME, Masking("keep_last", keep=1), ["a", b"\xff\xfe"])
    assert (caught.value.table, caught.value.column, caught.value.key) == ("shop.t", "name", "id=1")


def test_a_refused_row_shows_nothing_of_the_columns_that_are_masked() -> None:
    """Those behind the refused one are as they came."""
    secret = column("secret", K.TEXT, "varchar(20)", length=20)
    masking = Masking("keep_last", keep=1)
    target = map_table(
        table(ID, NAME, secret),
        kind="postgresql",
        namespace="n",
        name="t",
        key=(),
        policies=Policies(),
        options=TableOptions(columns=tuple(ColumnOption(name, masking=masking) for name in ("name", "secret"))),
    )
    with pytest.raises(UnsupportedData) as caught:
        transformed_rows(rows_of(target.definition, [(7, b"\xff\xfe", "the secret")]), target)
    assert caught.value.key == "id=7, name=…, secret=…"
    assert "the secret" not in str(caught.value)


def test_an_enum_value_without_a_member_is_refused_with_its_row() -> None:
    with pytest.raises(UnsupportedData, match="beyond its 1 members") as caught:
        masked(column("e", K.ENUM, "enum('a')", members=("a",)), HASH, [1, 2])
    assert caught.value.key == "id=1"


def test_a_change_is_masked_where_it_is_upserted() -> None:
    target = target_with(NAME, HASH)
    change = change_of(target.definition, deletes=[(1, "gone"), (2, "gone too")], upserts=[(3, "Ada"), (4, None)])

    images = transformed_change(change, target).batches[0].images

    assert images.column("id").to_pylist() == [1, 2, 3, 4]
    assert images.column("name").to_pylist() == [None, None, hashed(b"Ada"), None]


def test_a_refused_value_of_a_change_is_named_by_its_own_row() -> None:
    target = target_with(NAME, Masking("keep_first", keep=1))
    change = change_of(target.definition, deletes=[(1, "gone")], upserts=[(3, "Ada"), (4, b"\xff")])

    with pytest.raises(UnsupportedData) as caught:
        transformed_change(change, target)
    assert caught.value.key == "id=4"


def test_a_table_without_masks_is_handed_through_as_it_is() -> None:
    target = target_with(NAME, None)
    change = change_of(target.definition, upserts=[(3, "Ada")])

    assert transformed_change(change, target) is change
    rows = change.batches[0].images
    assert transformed_rows(rows, target) is rows


def update_of(target: TargetTable, columns: tuple[str, ...], *, has_moved: bool = False) -> PartialUpdate:
    images = rows_of(target.definition, [(1, "Ada")])
    return PartialUpdate(columns, images, images.select(["id"]) if has_moved else None)


def test_a_partial_update_is_masked_too() -> None:
    target = target_with(NAME, HASH)
    change = replace(change_of(target.definition), updates=(update_of(target, ("name",)), update_of(target, ("id",))))

    named, keyed = transformed_change(change, target).updates

    assert named.images.column("name").to_pylist() == [hashed(b"Ada")]
    assert keyed.columns == ("id",)


def test_a_partial_update_loses_the_columns_that_do_not_go_to_the_sink() -> None:
    target = map_table(
        table(ID, NAME),
        kind="postgresql",
        namespace="n",
        name="t",
        key=("id",),
        policies=Policies(),
        options=TableOptions(exclude=("name",)),
    )
    updates = (
        update_of(target, ("id", "name")),
        update_of(target, ("name",)),
        update_of(target, ("name",), has_moved=True),
    )
    change = replace(change_of(target.definition), updates=updates)

    left = transformed_change(change, target).updates

    assert [update.columns for update in left] == [("id",), ()]
    assert left[1].old_keys is not None


def test_the_masked_arrays_have_the_types_that_the_encoders_take() -> None:
    for masking in (HASH, Masking("text", text="x"), Masking("keep_first", keep=1), Masking("null")):
        target = target_with(NAME, masking)
        rows = transformed_rows(rows_of(target.definition, [(1, "Ada"), (2, None)]), target)
        assert rows.column("name").type == target.columns[1].source.arrow_type == pa.large_string()


# ---------------------------------------------------------------- row filters

NUMBER = column("n", K.INTEGER, "int", length=32)


def filtered_target(text: str, *columns: ColumnDefinition) -> TargetTable:
    return map_table(
        table(ID, *(columns or (NUMBER,))),
        kind="postgresql",
        namespace="n",
        name="t",
        key=("id",),
        policies=Policies(),
        options=TableOptions(row_filter=parse_filter(text)),
    )


def batch_of(target: TargetTable, images: Sequence[tuple[Operation, tuple[Any, ...]]]) -> RowBatch:
    rows = rows_of(target.definition, [image for _, image in images])
    operations = pa.array([int(operation) for operation, _ in images], pa.uint8())
    return RowBatch(target.definition, operations, pa.array(range(len(images)), pa.uint32()), rows)


def kept(target: TargetTable, *images: tuple[Operation, tuple[Any, ...]]) -> tuple[list[Any], int]:
    """The images that are left, and how many are not."""
    batches, left_out = kept_batches([batch_of(target, images)], target)
    found = []
    for batch in batches:
        rows = zip(*(one.to_pylist() for one in batch.images.columns), strict=True)
        found += list(zip(map(Operation, batch.operation.to_pylist()), rows, strict=True))
    return found, left_out["*", "row_filter"]


INSERT, BEFORE, AFTER, DELETE = Operation.INSERT, Operation.UPDATE_BEFORE, Operation.UPDATE_AFTER, Operation.DELETE


def test_images_of_rows_that_do_not_pass_are_left_out_and_counted() -> None:
    target = filtered_target("n > 0")
    images = [(INSERT, (1, 1)), (INSERT, (2, 0)), (INSERT, (3, None)), (DELETE, (4, -1)), (DELETE, (5, 5))]
    assert kept(target, *images) == ([(INSERT, (1, 1)), (DELETE, (5, 5))], 3)


def test_an_update_that_leaves_the_filter_deletes_and_one_that_enters_inserts() -> None:
    target = filtered_target("n > 0")
    stays, leaves = [(BEFORE, (1, 1)), (AFTER, (1, 2))], [(BEFORE, (2, 1)), (AFTER, (2, 0))]
    enters, never = [(BEFORE, (3, 0)), (AFTER, (3, 1))], [(BEFORE, (4, 0)), (AFTER, (4, None))]
    assert kept(target, *stays, *leaves, *enters, *never) == ([*stays, (DELETE, (2, 1)), (INSERT, (3, 1))], 4)


def test_the_rest_of_a_kept_image_stays_with_it() -> None:
    target = filtered_target("n > 0")
    batch = replace(
        batch_of(target, [(INSERT, (1, 0)), (INSERT, (2, 1)), (DELETE, (3, 1))]),
        shape_index=pa.array([0, 1, 0], pa.uint16()),
        shapes=(frozenset(), frozenset()),
    )
    (found,), _ = kept_batches([batch], target)
    assert found.transaction_index.to_pylist() == [1, 2]
    assert found.shape_index is not None
    assert found.shape_index.to_pylist() == [1, 0]


def test_a_batch_of_which_nothing_is_left_is_none() -> None:
    target = filtered_target("n > 0")
    assert kept(target, (INSERT, (1, 0))) == ([], 1)
    batches, left_out = kept_batches([batch_of(target, [(INSERT, (1, 0))])], target)
    assert (list(batches), left_out.total()) == ([], 1)


def test_without_a_filter_batches_are_handed_through() -> None:
    target = target_with(NUMBER, None)
    batches = [batch_of(target, [(INSERT, (1, 0))])]
    assert kept_batches(batches, target)[0] is batches


def shaped(target: TargetTable, absent: str, images: Sequence[tuple[Operation, tuple[Any, ...]]]) -> RowBatch:
    """A batch whose images all lack that column."""
    index = pa.array([1] * len(images), pa.uint16())
    return replace(batch_of(target, images), shape_index=index, shapes=(frozenset(), frozenset({absent})))


def test_an_image_without_a_column_of_the_filter_is_refused() -> None:
    target = filtered_target("n > 0")
    with pytest.raises(UnsupportedData, match="row_filter looks at n, which row images lack") as caught:
        kept_batches([shaped(target, "n", [(DELETE, (1, None))])], target)
    assert (caught.value.table, caught.value.column) == ("shop.t", "n")
    assert "binlog_row_image=FULL" in caught.value.hint


def test_a_row_that_enters_the_filter_needs_its_whole_image() -> None:
    target = filtered_target("n > 0", NUMBER, NAME)
    stays = [(BEFORE, (1, 1, None)), (AFTER, (1, 2, None))]
    enters = [(BEFORE, (1, 0, None)), (AFTER, (1, 2, None))]
    ((batch,), _) = kept_batches([shaped(target, "name", stays)], target)
    assert batch.row_count == 2
    with pytest.raises(UnsupportedData, match="a row comes to pass its row_filter, and its image lacks name"):
        kept_batches([shaped(target, "name", enters)], target)


def test_the_filter_sees_values_before_they_are_masked_and_columns_that_are_left_out() -> None:
    target = map_table(
        table(ID, NUMBER, NAME),
        kind="postgresql",
        namespace="n",
        name="t",
        key=("id",),
        policies=Policies(),
        options=TableOptions(
            exclude=("n",),
            columns=(ColumnOption("name", masking=Masking("null")),),
            row_filter=parse_filter("n > 0 AND name = 'Ada'"),
        ),
    )
    rows = transformed_rows(rows_of(target.definition, [(1, 1, "Ada"), (2, 1, "ada"), (3, 0, "Ada")]), target)
    assert rows.column("id").to_pylist() == [1]
    assert rows.column("name").to_pylist() == [None]


VALUES = st.one_of(st.none(), st.integers(-1, 1))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), VALUES, st.booleans()), max_size=20), st.randoms())
def test_the_sink_ends_with_the_rows_that_pass(steps: list[tuple[int, int, int | None, bool]], random: Any) -> None:
    """Any history, cut into batches anywhere but inside an update, ends as the filter over the source's last rows."""
    target = filtered_target("n > 0 OR n = -1")
    source: dict[int, int | None] = {}
    batches: list[list[tuple[Operation, tuple[Any, ...]]]] = [[]]
    for key, new_key, value, is_delete in steps:
        if random.random() < 0.3:
            batches.append([])
        if key not in source:
            batches[-1].append((INSERT, (key, value)))
            source[key] = value
        elif is_delete:
            batches[-1].append((DELETE, (key, source.pop(key))))
        elif new_key == key or new_key not in source:
            batches[-1] += [(BEFORE, (key, source.pop(key))), (AFTER, (new_key, value))]
            source[new_key] = value
    sink: dict[int, int | None] = {}
    for run in ([batch] for batch in batches if batch):
        found, _ = kept_batches([batch_of(target, images) for images in run], target)
        if not found:
            continue
        change = compact(target.definition, ("id",), found)
        for rows in change.delete_images():
            for key in rows.column("id").to_pylist():
                sink.pop(key, None)
        for rows in change.upsert_images():
            sink.update(zip(rows.column("id").to_pylist(), rows.column("n").to_pylist(), strict=True))
    assert sink == {key: value for key, value in source.items() if value is not None and (value > 0 or value == -1)}


# ---------------------------------------------------------------- metadata columns

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
EVERY = (("load_id", "l"), ("row_id", "r"), ("commit_time", "c"), ("operation", "o"), ("position", "p"))


def stamped_target(*columns: ColumnDefinition, key: tuple[str, ...] = ("id",)) -> TargetTable:
    return map_table(
        table(ID, *(columns or (NUMBER,)), key=key),
        kind="postgresql",
        namespace="n",
        name="t",
        key=key,
        policies=Policies(),
        options=TableOptions(metadata=EVERY),  # type: ignore[arg-type]  # literals
    )


def run_of(
    batch: RowBatch, *, gtids: Sequence[int | None] = (), opened: OpenTransaction | None = None
) -> TransactionRun:
    """Transactions 1 s apart from 1970-01-01 00:00:01, ending at 100, 200 …; None is one without a GTID."""
    count = len(gtids)
    ends = TransactionEnds(
        pa.array([100 * (n + 1) for n in range(count)], pa.uint64()),
        pa.array([-1 if number is None else 0 for number in gtids], pa.int32()),
        pa.array([number or 0 for number in gtids], pa.uint64()),
        (UUID,),
        "mysql",
    )
    position = SourcePosition(ServerIdentity("mysql", UUID), FilePos.of("binlog.000009", 900), MysqlGtidSet.parse(""))
    times = pa.array([1_000_000 * (n + 1) for n in range(count)], pa.int64())
    return TransactionRun(
        (batch,),
        position,
        times,
        1,
        is_last_part=opened is None,
        ends=None if opened else ends,
        open_transaction=opened,
    )


def stamped(target: TargetTable, batch: RowBatch, run: TransactionRun) -> dict[str, list[Any]]:
    """The metadata of what is upserted, by name on the sink."""
    change = compact(target.definition, target.source_key, [batch])
    change = transformed_change(change, target, Stamp("17.000001", run))
    (rows,) = change.upsert_images()
    return {c.name: rows.column(c.source.name).to_pylist() for c in target.columns if c.metadata or c.is_key}


def test_rows_of_the_stream_are_stamped_with_their_last_transaction() -> None:
    target = stamped_target()
    batch = batch_of(
        target,
        [(INSERT, (1, 1)), (INSERT, (2, 1)), (BEFORE, (2, 1)), (AFTER, (2, 2)), (INSERT, (3, 1)), (DELETE, (4, 0))],
    )
    batch = replace(batch, transaction_index=pa.array([0, 0, 1, 1, 2, 2], pa.uint32()))

    found = stamped(target, batch, run_of(batch, gtids=(7, 8, None)))

    assert found["id"] == [1, 2, 3]
    assert found["l"] == ["17.000001"] * 3
    assert found["o"] == ["insert", "update", "insert"]
    assert found["p"] == [f"{UUID}:7", f"{UUID}:8", "binlog.000009:300"]
    assert [moment.timestamp() for moment in found["c"]] == [1, 2, 3]


@pytest.mark.parametrize("gtid,position", [(f"{UUID}:9", f"{UUID}:9"), (None, "binlog.000008:4")])
def test_a_part_of_a_large_transaction_is_stamped_with_that_transaction(gtid: str | None, position: str) -> None:
    target = stamped_target()
    batch = replace(batch_of(target, [(INSERT, (1, 1))]), transaction_index=pa.array([0], pa.uint32()))
    opened = OpenTransaction(gtid, FilePos.of("binlog.000008", 4), 5_000_000)

    found = stamped(target, batch, run_of(batch, opened=opened))

    assert found["p"] == [position]
    assert found["c"][0].timestamp() == 5


def test_rows_of_a_load_have_no_time_and_no_position() -> None:
    target = stamped_target()
    rows = transformed_rows(rows_of(target.definition, [(1, 1), (2, 2)]), target, Stamp(load_id_text(17_000_001)))

    values = [rows.column(column.source.name).to_pylist() for column in target.columns if column.metadata]
    load_ids, row_ids, *others = values
    assert load_ids == ["17.000001"] * 2
    assert len(set(row_ids)) == 2
    assert others == [[None, None], ["load", "load"], [None, None]]
    for one in target.columns:
        assert rows.column(one.source.name).type == one.source.arrow_type


def row_ids(target: TargetTable, *rows: tuple[Any, ...]) -> list[str]:
    found: list[str] = (
        transformed_rows(rows_of(target.definition, rows), target, Stamp("1.0")).column("(row_id)").to_pylist()
    )
    return found


def test_a_row_id_is_of_the_table_and_the_key_and_the_same_from_load_and_stream() -> None:
    target = stamped_target()
    batch = batch_of(target, [(DELETE, (9, 9)), (INSERT, (1, 5))])
    batch = replace(batch, transaction_index=pa.array([0, 0], pa.uint32()))

    (one, two) = row_ids(target, (1, 1), (2, 1))
    assert one != two
    assert stamped(target, batch, run_of(batch, gtids=(1,)))["r"] == [one]
    assert one == hashlib.sha256(b'["shop","t"]' + (1).to_bytes(8, "little") + b"1").hexdigest()[:32]


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    first, second = (column(name, K.TEXT, "varchar(9)", length=9, is_nullable=False) for name in "ab")
    target = stamped_target(first, second, key=("a", "b"))
    assert len(set(row_ids(target, (1, "ab", "c"), (1, "a", "bc"), (1, "", "abc")))) == 3


def test_what_has_no_one_transaction_is_refused_where_metadata_would_tell_it() -> None:
    target = stamped_target(NAME)
    whole = shaped(target, "name", [(INSERT, (1, None))])
    with pytest.raises(UnsupportedData, match="metadata columns, which need whole row images, and one lacks name"):
        kept_batches([whole], target)
    change = replace(change_of(target.definition), updates=(update_of(target, ("name",)),))
    with pytest.raises(InvariantBroken):
        transformed_change(change, target, Stamp("1.0"))
    with pytest.raises(InvariantBroken):
        transformed_rows(rows_of(target.definition, [(1, "x")]), target)
