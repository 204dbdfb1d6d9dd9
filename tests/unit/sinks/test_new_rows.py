"""Which upserts are new, as the sinks take it from what the compactor says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pytest

from cdc.model import ChangeBatch
from cdc.sinks.values import new_and_other
from tests.unit.sinks.builders import ID, change_of, table

TABLE = table(ID)


def parted(
    upserts: Sequence[int], inserts: Sequence[int] | None, counts: Mapping[str, int], few: int = 0
) -> tuple[list[int], list[int]]:
    change = change_of(TABLE, upserts=[(index,) for index in range(10)])
    rows = pa.array(upserts, pa.int32())
    given = () if inserts is None else (pa.array(inserts, pa.int32()),)
    new, other = new_and_other(replace(change, upserts=(rows,), inserts=given, counts=counts), few=few)
    return new[0].to_pylist(), other[0].to_pylist()


@pytest.mark.parametrize(
    "upserts,inserts,counts,new,other",
    [
        ([1, 2, 3], None, {"insert": 3}, [1, 2, 3], []),
        ([1, 2, 3], None, {"insert": 3, "update": 1}, [], [1, 2, 3]),
        ([1, 2, 3], None, {}, [], [1, 2, 3]),
        ([1, 2, 3], [], {"insert": 3}, [], [1, 2, 3]),
        ([1, 2, 3, 7], [2, 7], {"insert": 2, "update": 2}, [2, 7], [1, 3]),
        ([1, 2, 3], [1, 2, 3], {"update": 1}, [1, 2, 3], []),
        # what is said of rows that are not among the upserts, as where a mode has put the deletes in their place
        ([4, 5], [1, 2], {"delete": 2}, [], [4, 5]),
    ],
)
def test_upserts_are_new_or_not(
    upserts: list[int], inserts: list[int] | None, counts: dict[str, int], new: list[int], other: list[int]
) -> None:
    assert parted(upserts, inserts, counts) == (new, other)


def test_a_few_are_new_only_where_all_are() -> None:
    assert parted([1, 2, 3], [2], {"insert": 1}, few=3) == ([], [1, 2, 3])
    assert parted([1, 2, 3], [2], {"insert": 1}, few=2) == ([2], [1, 3])
    assert parted([1, 2, 3], None, {"insert": 3}, few=3) == ([1, 2, 3], [])


def test_the_same_selection_is_not_looked_through() -> None:
    change: ChangeBatch = change_of(TABLE, upserts=[(1,), (2,)])
    new, other = new_and_other(replace(change, inserts=change.upserts), few=100)
    assert new is change.upserts
    assert [len(rows) for rows in other] == [0]
