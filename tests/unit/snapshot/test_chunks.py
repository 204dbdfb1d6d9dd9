"""The SELECTs of chunks, as text, and how chunks are cut. That literals are equal to their rows is
tests/integration/test_chunks.py's."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.source.resultset import literal, select_list, to_record_batch
from snapshot.chunks import Chunk, ChunkPlan, KeyRange, Pace, border_sql, range_sql

INT = ColumnDefinition("a", ValueKind.INTEGER, "int", is_nullable=False, length=32)
TEXT = ColumnDefinition(
    "b", ValueKind.TEXT, "varchar(9)", is_nullable=False, charset="utf8mb4", collation="utf8mb4_bin"
)
FLOAT = ColumnDefinition("c`", ValueKind.FLOAT, "float", is_nullable=False)
TABLE = TableDefinition(TableName("sh`op", "t.1"), (INT, TEXT, FLOAT), ("a",))
SELECT = f"SELECT {select_list(TABLE)} FROM `sh``op`.`t.1`"


def test_the_only_chunk_is_the_whole_table() -> None:
    assert range_sql(TABLE, ("a",), KeyRange()) == f"{SELECT} ORDER BY `a`"


def test_a_chunk_begins_behind_a_key_and_ends_with_one() -> None:
    assert (
        range_sql(TABLE, ("a",), KeyRange((b"-7",), (b"9",)))
        == f"{SELECT} WHERE (`a` > -7) AND (`a` <= 9) ORDER BY `a`"
    )
    assert range_sql(TABLE, ("a",), KeyRange((b"-7",))) == f"{SELECT} WHERE (`a` > -7) ORDER BY `a`"
    assert range_sql(TABLE, ("a",), KeyRange(upto=(b"9",))) == f"{SELECT} WHERE (`a` <= 9) ORDER BY `a`"


def test_a_border_is_the_key_of_the_last_row_of_a_chunk() -> None:
    key = ("c`", "a")
    assert border_sql(TABLE, key, KeyRange(), rows=5) == (
        "SELECT `c``` * 1e0, `a` FROM `sh``op`.`t.1` ORDER BY `c```, `a` LIMIT 1 OFFSET 4"
    )


def test_a_key_of_several_columns_is_spelled_out_and_keeps_a_range_on_the_first() -> None:
    x, y = (f"_utf8mb4 0x{code} COLLATE utf8mb4_bin" for code in ("78", "79"))
    assert range_sql(TABLE, ("a", "b", "c`"), KeyRange((b"1", b"x", b"0.5"), (b"2", b"y", b"1"))) == (
        f"{SELECT} WHERE (`a` >= 1 AND ((`a` > 1) OR (`a` = 1 AND `b` > {x}) "
        f"OR (`a` = 1 AND `b` = {x} AND `c``` > 0.5e0))) "
        f"AND (`a` <= 2 AND ((`a` < 2) OR (`a` = 2 AND `b` < {y}) "
        f"OR (`a` = 2 AND `b` = {y} AND `c``` <= 1e0))) ORDER BY `a`, `b`, `c```"
    )


def test_a_null_that_may_come_is_before_all_borders() -> None:
    table = replace(TABLE, columns=(replace(INT, is_nullable=True), TEXT, replace(FLOAT, is_nullable=True)))
    assert range_sql(table, ("a",), KeyRange((b"-7",), (b"9",))).endswith(
        "WHERE (`a` > -7) AND ((`a` <= 9 OR `a` IS NULL)) ORDER BY `a`"
    )
    assert range_sql(table, ("a", "c`"), KeyRange((b"1", b"1"), (b"2", b"2"))).endswith(
        "WHERE (`a` >= 1 AND ((`a` > 1) OR (`a` = 1 AND `c``` > 1e0))) AND ((`a` <= 2 OR `a` IS NULL) "
        "AND (((`a` < 2 OR `a` IS NULL)) OR (`a` = 2 AND (`c``` <= 2e0 OR `c``` IS NULL)))) ORDER BY `a`, `c```"
    )


@pytest.mark.parametrize("border", [KeyRange((b"1", None)), KeyRange(upto=(None, b"x"))])
def test_a_border_that_is_null_is_refused(border: KeyRange) -> None:
    with pytest.raises(UnsupportedData, match="NULL"):
        range_sql(TABLE, ("a", "b"), border)
    with pytest.raises(UnsupportedData, match="NULL"):
        border_sql(TABLE, ("a", "b"), KeyRange(after=(None, b"x")), rows=5)


@pytest.mark.parametrize("value", [b"'", b"\\", b"' OR 1=1 -- ", b"\xbf\x27", b"\0"])
def test_no_text_is_ever_between_quotes(value: bytes) -> None:
    """Whatever the session's charset and sql_mode: strings go back as hexadecimal."""
    assert literal(value, TEXT) == f"_utf8mb4 0x{value.hex()} COLLATE utf8mb4_bin"


class Source:
    """Says the borders of a table that holds the integers from 1 to `count`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.statements: list[str] = []

    def query(self, sql: str) -> list[tuple[bytes | None, ...]]:
        self.statements.append(sql)
        after = int(sql.partition(" > ")[2].partition(")")[0] or 0)
        row = after + int(sql.rpartition(" ")[2]) + 1
        return [(b"%d" % row,)] if row <= self.count else []


def cut(plan: ChunkPlan, source: Source) -> list[Chunk]:
    found = []
    while (chunk := plan.next(source)) is not None:  # type: ignore[arg-type]
        found.append(chunk)
    return found


def plan_of(rows_max: int, *planned: Chunk, done: tuple[int, ...] = ()) -> ChunkPlan:
    return ChunkPlan(TABLE, ("a",), Pace(rows_max=rows_max, seconds=1, bytes_max=1 << 20), planned=planned, done=done)


def ranges(*borders: int | None) -> list[KeyRange]:
    keys = [None if border is None else (b"%d" % border,) for border in borders]
    return [KeyRange(*pair) for pair in itertools.pairwise(keys)]


@pytest.mark.parametrize(
    "count, borders",
    [(0, (None, None)), (2, (None, None)), (3, (None, 3, None)), (4, (None, 3, None)), (6, (None, 3, 6, None))],
)
def test_chunks_follow_each_other_without_a_gap_and_the_last_one_has_no_end(count: int, borders: tuple[int]) -> None:
    chunks = cut(plan_of(3), Source(count))
    assert [chunk.range for chunk in chunks] == ranges(*borders)
    assert [chunk.number for chunk in chunks] == list(range(1, len(chunks) + 1))


@given(st.integers(0, 30), st.integers(1, 7), st.data())
def test_what_is_left_of_a_plan_is_all_that_is_not_done(count: int, rows_max: int, data: st.DataObject) -> None:
    """Whatever the size of the new chunks is: together with those that are done they have every key once."""
    before = cut(plan_of(3), Source(count))
    known = before[: data.draw(st.integers(0, len(before)))]
    done = {chunk for chunk in known if data.draw(st.booleans())}
    plan = plan_of(rows_max, *known, done=tuple(chunk.number for chunk in done))
    after = cut(plan, Source(count))
    together = sorted([*done, *after], key=lambda chunk: chunk.number)
    assert [chunk.number for chunk in together] == list(range(1, len(together) + 1))
    assert together[0].range.after is None
    assert together[-1].range.upto is None
    assert all(one.range.upto == next_.range.after for one, next_ in itertools.pairwise(together))
    assert plan.take_cut() == [chunk for chunk in after if chunk not in known]
    assert plan.take_cut() == []
    assert not plan.has_more


def test_chunks_become_as_long_as_they_should_take() -> None:
    pace = Pace(rows_max=100_000, seconds=2.0, bytes_max=1 << 40)
    first = pace.rows
    pace.measured(rows=first, byte_count=1, seconds=1.0)
    assert pace.rows == 2 * first
    pace.measured(rows=first, byte_count=1, seconds=0.0001)
    assert pace.rows == 8 * first, "not more than four times as many at once"
    for _ in range(10):
        pace.measured(rows=1000, byte_count=1, seconds=0.0001)
    assert pace.rows == 100_000, "nor more than the largest"
    for _ in range(30):
        pace.measured(rows=10, byte_count=1, seconds=100.0)
    assert pace.rows == 1
    pace.measured(rows=0, byte_count=0, seconds=1.0)
    assert pace.rows == 1, "an empty chunk says nothing"


def test_chunks_of_wide_rows_are_smaller() -> None:
    pace = Pace(rows_max=100_000, seconds=1.0, bytes_max=1 << 20)
    for _ in range(10):
        pace.measured(rows=100, byte_count=100 << 10, seconds=0.001)
    assert pace.rows == 1024


def test_a_value_that_cannot_be_read_names_its_column() -> None:
    with pytest.raises(UnsupportedData, match=r"t\.1\.a") as caught:
        to_record_batch(TABLE, [(b"not a number", None, None)])
    assert (caught.value.table, caught.value.column) == ("sh`op.t.1", "a")


def test_one_that_is_known_to_be_one_chunk_is_not_looked_at() -> None:
    plan = ChunkPlan(TABLE, ("a",), Pace(rows_max=10, seconds=1, bytes_max=1000), is_one=True)
    assert plan.next(None) == Chunk(1, KeyRange())  # type: ignore[arg-type]  # nobody is asked
    assert not plan.has_more
