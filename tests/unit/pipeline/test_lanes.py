"""Which lane a table goes through: names, patterns, sizes, and what stays where it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from cdc.model import TableName
from cdc.pipeline.lanes import LaneMap, LaneRule, Placed, choose_lanes, lane_name, lane_number, related, sink_of


def table(name: str) -> TableName:
    return TableName("shop", name)


def placed(name: str, lane: int | None = None, weight: int = 0, *, place: str = "", is_idle: bool = False) -> Placed:
    return Placed(table(name), place or name, lane, weight, is_idle)


def chosen(rule: LaneRule, *tables: Placed) -> dict[str, int]:
    return {name.table: lane for name, lane in choose_lanes(rule, tables).items()}


def test_the_first_lane_is_called_as_the_only_one_of_old() -> None:
    assert [lane_name("shop/replica", lane) for lane in (1, 2, 12)] == [
        "shop/replica",
        "shop/replica#2",
        "shop/replica#12",
    ]
    assert {sink_of(lane_name("shop/replica", lane)) for lane in (1, 2, 12)} == {"replica"}


@pytest.mark.parametrize(
    "name, lane",
    [
        ("shop/replica", 1),
        ("shop/replica#2", 2),
        ("shop/replica#10", 10),
        ("shop/replica#1", None),
        ("shop/replica#02", None),
        ("shop/replica#", None),
        ("shop/replica#x", None),
        ("shop/replica2", None),
        ("shop/replica_a", None),
        ("other/replica#2", None),
    ],
)
def test_only_its_own_lanes_are_a_sinks(name: str, lane: int | None) -> None:
    assert lane_number("shop/replica", name) == lane


def test_two_large_tables_never_meet_in_one_of_two_lanes() -> None:
    lanes = chosen(LaneRule(2), placed("a", weight=1), placed("b", weight=900), placed("c", weight=1000), placed("d"))
    assert lanes["b"] != lanes["c"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_no_lane_stays_empty_while_another_has_two_tables(count: int) -> None:
    for weights in ([0] * 7, [1000, 0, 0, 0, 0, 0, 0], [7, 6, 5, 4, 3, 2, 1]):
        lanes = chosen(LaneRule(count), *(placed(f"t{n}", weight=weight) for n, weight in enumerate(weights)))
        assert set(lanes.values()) == set(range(1, count + 1))


def test_a_recorded_table_keeps_its_lane_whatever_it_weighs_by_now() -> None:
    rule = LaneRule(2)
    lanes = chosen(rule, placed("a", 1, 10), placed("b", 1, 900), placed("c", 2, 1), placed("d", None, 5))
    assert lanes == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_more_lanes_than_before_are_filled() -> None:
    lanes = chosen(LaneRule(3), *(placed(f"t{n}", 1 + n % 2, 10) for n in range(6)))
    assert Counter(lanes.values()) == {1: 2, 2: 2, 3: 2}


def test_fewer_lanes_than_before_take_all_tables() -> None:
    lanes = chosen(LaneRule(2), *(placed(f"t{n}", 1 + n % 3, 10) for n in range(6)))
    assert Counter(lanes.values()) == {1: 3, 2: 3}
    assert set(chosen(LaneRule(1), *(placed(f"t{n}", 1 + n % 3) for n in range(6))).values()) == {1}


def test_dropped_tables_neither_fill_a_lane_nor_empty_one() -> None:
    lanes = chosen(LaneRule(2), placed("a", 1, 10), placed("b", 2, 10), placed("gone", 2, 99, is_idle=True))
    assert lanes == {"a": 1, "b": 2, "gone": 2}
    lanes = chosen(LaneRule(2), placed("a", 1), placed("b", 1), placed("gone", 3, is_idle=True))
    assert lanes["gone"] <= 2
    assert lanes["a"] != lanes["b"]


def test_tables_with_one_target_share_a_lane() -> None:
    lanes = chosen(LaneRule(2), placed("a", 1, 9, place="t"), placed("b", 2, 9, place="t"), placed("c", 2, 1))
    assert lanes == {"a": 1, "b": 1, "c": 2}


def test_the_first_pattern_counts_and_the_last_lane_takes_the_rest() -> None:
    def begins(first: str) -> Callable[[str, str], bool]:
        return lambda _, name: name.startswith(first)

    rule = LaneRule(3, (begins("a"), begins("ab"), begins("c")))
    lanes = chosen(rule, placed("ab", 2), placed("c", 1), placed("z", None))
    assert lanes == {"ab": 1, "c": 3, "z": 3}


def test_a_table_that_comes_later_goes_where_fewest_are_and_stays() -> None:
    lanes = LaneMap(LaneRule(2), lambda name: name.table, {table("a"): 1, table("b"): 1, table("c"): 2})
    assert [lanes.lane(table(name)) for name in ("d", "e", "f", "d", "a")] == [2, 1, 2, 2, 1]


def test_a_table_that_comes_later_goes_with_its_target() -> None:
    lanes = LaneMap(LaneRule(3), lambda name: name.table[0], {table("a1"): 3, table("b1"): 1})
    assert lanes.lane(table("a2")) == 3
    assert lanes.lane(table("c1")) == lanes.lane(table("c2")) == 2


def test_a_table_that_comes_later_goes_with_its_kin() -> None:
    kin = {"child": ["new", "parent"], "new": ["child", "parent"]}
    asked: list[str] = []

    def find(name: TableName) -> list[TableName]:
        asked.append(name.table)
        return [table(one) for one in kin.get(name.table, ())]

    known = {table("parent"): 1, table("a"): 1, table("b"): 2, table("c"): 3}
    lanes = LaneMap(LaneRule(3), lambda name: name.table, known, find)
    assert [lanes.lane(table(name)) for name in ("child", "other", "new", "child")] == [1, 2, 1, 1]
    assert asked == ["child", "other", "new"], "once, and of new tables only"


def test_kin_is_not_asked_for_where_a_pattern_or_the_target_says_the_lane() -> None:
    def find(_: TableName) -> list[TableName]:
        raise AssertionError

    rule = LaneRule(2, (lambda _, name: name == "a", lambda *_: False))
    assert LaneMap(rule, lambda name: name.table, {}, find).lane(table("b")) == 2
    lanes = LaneMap(LaneRule(2), lambda name: name.table[0], {table("a1"): 2}, find)
    assert lanes.lane(table("a2")) == 2
    assert LaneMap(LaneRule(1), lambda name: name.table, {}, find).lane(table("a")) == 1


def test_what_is_related_is_so_over_any_number_of_steps() -> None:
    pairs = [("d", "c"), ("b", "a"), ("c", "b"), ("x", "y"), ("a", "a")]
    named = [(table(one), table(other)) for one, other in pairs]
    assert set(related(table("c"), named)) == {table("a"), table("b"), table("d")}
    assert related(table("a"), named) == [table("b"), table("c"), table("d")]
    assert related(table("new"), named) == []


def test_parents_are_nearer_than_children_and_those_than_others() -> None:
    """Children and parents, also one that is both."""
    pairs = [("new", "p2"), ("new", "p1"), ("z_child", "new"), ("p1", "new"), ("a_sibling", "p1"), ("a", "a_sibling")]
    found = related(table("new"), [(table(one), table(other)) for one, other in pairs])
    assert [one.table for one in found] == ["p1", "p2", "z_child", "a_sibling", "a"]


def test_a_new_child_goes_to_its_parent_and_not_to_a_sibling_in_a_lower_lane() -> None:
    families = [(table("c1"), table("p")), (table("c2"), table("p")), (table("g"), table("c1"))]
    known = {table("p"): 2, table("c1"): 1}
    lanes = LaneMap(LaneRule(3), lambda name: name.table, known, lambda name: related(name, families))
    assert [lanes.lane(table(name)) for name in ("c2", "g")] == [2, 1]


def test_a_new_parent_goes_to_its_child_and_not_to_its_childs_other_parent() -> None:
    families = [(table("c"), table("p1")), (table("c"), table("p2"))]
    known = {table("p1"): 1, table("c"): 2}
    lanes = LaneMap(LaneRule(3), lambda name: name.table, known, lambda name: related(name, families))
    assert lanes.lane(table("p2")) == 2
