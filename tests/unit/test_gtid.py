"""GTID sets are sets: every operation agrees with Python's own on the numbers; lists hold one position a domain."""

from __future__ import annotations

import itertools
import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.binlog.constants import EventType
from cdc.binlog.events import parse_previous_gtids
from cdc.gtid import MariadbGtidList, MysqlGtidSet, Source, parse_mysql_gtid
from tests.support.binlog_build import framed

U1, U2 = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "00000000-0000-0000-0000-00000000000a"
LAST = 2**63 - 2
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

Numbers = dict[Source, set[int]]

sources: st.SearchStrategy[Source] = st.tuples(st.sampled_from((U1, U2)), st.sampled_from(("", "a", "mytag", "_" * 32)))
# Few numbers, so that sets meet, touch and overlap.
numbers: st.SearchStrategy[Numbers] = st.dictionaries(sources, st.sets(st.integers(1, 24), min_size=1), max_size=4)


def made(content: Numbers) -> MysqlGtidSet:
    """By adding one transaction after the other, in no order of theirs."""
    result = MysqlGtidSet()
    for source, some in content.items():
        for number in sorted(some, key=lambda n: n * 7 % 25):
            result = result.add(source, number)
    return result


def content(of: MysqlGtidSet) -> Numbers:
    return {s: {n for a, b in spans for n in range(a, b + 1)} for s, spans in of.intervals.items()}


def assert_normal(some: MysqlGtidSet) -> None:
    """Sorted, disjoint and with a gap between each two: equal sets are equal values."""
    for spans in some.intervals.values():
        assert spans
        for (_, last), (first, _) in itertools.pairwise(spans):
            assert last + 1 < first


@given(numbers)
def test_a_set_is_what_was_added_whatever_the_order(a: Numbers) -> None:
    assert content(made(a)) == a
    assert_normal(made(a))


@given(numbers)
def test_text_goes_round(a: Numbers) -> None:
    some = made(a)
    assert MysqlGtidSet.parse(str(some)) == some
    assert str(MysqlGtidSet.parse(str(some))) == str(some)


@given(numbers, numbers)
def test_union_and_difference_are_those_of_the_numbers(a: Numbers, b: Numbers) -> None:
    union, rest = made(a).union(made(b)), made(a).subtract(made(b))
    assert content(union) == {s: a.get(s, set()) | b.get(s, set()) for s in a.keys() | b.keys()}
    assert content(rest) == {s: left for s in a if (left := a[s] - b.get(s, set()))}
    assert_normal(union)
    assert_normal(rest)


@given(numbers, numbers)
def test_a_subset_is_one_of_which_nothing_is_left(a: Numbers, b: Numbers) -> None:
    assert made(a).is_subset_of(made(b)) == all(a[s] <= b.get(s, set()) for s in a)
    assert made(a).is_subset_of(made(a).union(made(b)))


@given(numbers, sources, st.integers(1, 26))
def test_contains_what_it_has_and_nothing_else(a: Numbers, source: Source, number: int) -> None:
    assert made(a).contains(source, number) == (number in a.get(source, set()))
    grown = made(a).add(source, number)
    assert grown.contains(source, number)
    assert grown.count() == made(a).count() + (number not in a.get(source, set()))


@given(numbers)
def test_count_is_how_many(a: Numbers) -> None:
    assert made(a).count() == sum(map(len, a.values()))
    assert bool(made(a)) == bool(a)


@given(numbers)
def test_the_dump_commands_form_is_read_back_as_the_same_set(a: Numbers) -> None:
    """Read by the parser of PREVIOUS_GTIDS, which has the same form and its own tests on real servers."""
    event = framed(EventType.PREVIOUS_GTIDS, made(a).encode())
    assert parse_previous_gtids(event).executed == made(a)


def test_the_dump_commands_form_byte_by_byte() -> None:
    plain = MysqlGtidSet.parse(f"{U1}:1-3:5")
    spans = struct.pack("<QQQQQ", 2, 1, 4, 5, 6)
    assert plain.encode() == struct.pack("<Q", 1) + uuid.UUID(U1).bytes + spans
    tagged = MysqlGtidSet.parse(f"{U1}:1-3:5,{U1}:mytag:1")
    assert tagged.encode() == (
        b"\x01\x02\0\0\0\0\0\x01"
        + uuid.UUID(U1).bytes + b"\0" + spans
        + uuid.UUID(U1).bytes + b"\x0amytag" + struct.pack("<QQQ", 1, 1, 2)
    )  # fmt: skip
    assert MysqlGtidSet().encode() == bytes(8)


@pytest.mark.parametrize(
    "text, printed",
    [
        ("", ""),
        ("  ", ""),
        (f"{U1}:1", f"{U1}:1"),
        (f"{U1.upper()}:1-3", f"{U1}:1-3"),
        (f"{U1}:1-3:4-5", f"{U1}:1-5"),
        (f"{U1}:7:1-3:2-4", f"{U1}:1-4:7"),
        (f"{U1}:5-4", ""),  # the server takes an interval that ends before it begins for an empty one
        (f"{U1}:1-3,\n{U2}:1-9", f"{U2}:1-9,{U1}:1-3"),
        (f" {U1} : 1 - 3 : 5 ", f"{U1}:1-3:5"),
        (f"{U1}:1-3:mytag:4:6", f"{U1}:1-3:mytag:4:6"),
        (f"{U1}:mytag:4,{U1}:1", f"{U1}:1:mytag:4"),
        (f"{U1}:MyTag:4", f"{U1}:mytag:4"),
        (f"{U1}:1-{LAST}", f"{U1}:1-{LAST}"),
    ],
)
def test_what_servers_print_and_operators_write(text: str, printed: str) -> None:
    assert str(MysqlGtidSet.parse(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        U1,
        f"{U1}:",
        f"{U1}:0",
        f"{U1}:0-3",
        f"{U1}:1-",
        f"{U1}:-1",
        f"{U1}:1--3",
        f"{U1}:{LAST + 1}",
        f"{U1}:1-{2**64}",
        f"{U1}:1tag:1",
        f"{U1}:{'t' * 33}:1",
        f"{U1}:täg:1",
        f"{U1}:mytag",
        f"{U1}:1_0",
        f"{U1}:١",
        "not-a-uuid:1",
        "0-1-5",
        f"{U1}:1 2",
        "1",
    ],
)
def test_what_is_no_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        MysqlGtidSet.parse(text)


def test_one_gtid() -> None:
    assert parse_mysql_gtid(f"{U1}:5") == ((U1, ""), 5)
    assert parse_mysql_gtid(f" {U1.upper()}:MyTag:5\n") == ((U1, "mytag"), 5)
    for wrong in ("", U1, f"{U1}:0", f"{U1}:1-2", f"{U1}:a:b:1", f"{U1}:{LAST + 1}", f"{U1}:1_0"):
        with pytest.raises(ValueError, match=r"."):
            parse_mysql_gtid(wrong)


# ---------------------------------------------------------------- MariaDB

positions = st.dictionaries(
    st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 2**32 - 1), st.integers(1, 2**64 - 1)), max_size=5
)


@given(positions)
def test_lists_go_round(some: dict[int, tuple[int, int]]) -> None:
    made = MariadbGtidList(some)
    assert MariadbGtidList.parse(str(made)) == made
    assert bool(made) == bool(some)


@given(positions, st.integers(0, 3), st.integers(1, 9), st.integers(1, 9))
def test_a_transaction_moves_its_own_domain_only(
    some: dict[int, tuple[int, int]], domain: int, server: int, sequence: int
) -> None:
    grown = MariadbGtidList(some).add(domain, server, sequence)
    assert grown.positions == {**some, domain: (server, sequence)}


def test_a_sequence_that_goes_back_is_taken_as_it_comes() -> None:
    """Sequences out of order are legal without gtid_strict_mode: the position is the last one, not the highest."""
    assert str(MariadbGtidList.parse("0-1-9").add(0, 2, 5)) == "0-2-5"


def test_of_several_servers_in_a_domain_the_highest_sequence_counts() -> None:
    assert str(MariadbGtidList.parse("0-1-5, 0-2-9,0-3-7,1-1-1")) == "0-2-9,1-1-1"


@pytest.mark.parametrize("text", ["1", "1-2", "1-2-3-4", "a-1-1", "-1-2-3", "0-1-", f"{U1}:1", "0-1-1_0"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        MariadbGtidList.parse(text)
