"""What a run says of foreign keys that acted in no event: which rows, on which tables, and between which images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.errors import UnsupportedData
from cdc.model import Cascade, TableName, TransactionRun, XaAction
from cdc.source.assembler import CapturedTable, RunLimits
from cdc.source.cascades import CascadeGraph, ForeignKey, Reach, Standing
from tests.unit.source.streams import A, B, C, Session, Stream, Tables, at, definition
from tests.unit.source.test_xa import X1, named, xa_prepare

NO_CHECKS = 3  # the end of a statement, and of a session with foreign_key_checks = 0


def key(child: TableName, parent: TableName, on_delete: str = "CASCADE", on_update: str = "CASCADE") -> ForeignKey:
    """Of the child's key to the parent's."""
    return ForeignKey(
        child, f"{child.table}_{parent.table}", str(parent), on_delete, on_update, parent, *[("i32",)] * 2
    )


GRAPH = CascadeGraph([key(B, A), key(C, B)])


def session(*, limits: RunLimits | None = None, graph: CascadeGraph = GRAPH, **captured: CapturedTable) -> Session:
    """A is referred to by B, and B by C."""
    tables = {name.table: CapturedTable(definition(name)) for name in (A, B, C)} | captured
    return Session(tables=Tables(tables.values()), limits=limits, cascades=graph)


def begun(stream: Stream, number: int = 1) -> list[bytes]:
    head = [stream.gtid(number), stream.begin()]
    return head + [stream.table_map(table, 77 + index) for index, table in enumerate((A, B, C))]


def found(runs: list[TransactionRun]) -> list[Cascade]:
    return [cascade for run in runs for cascade in run.cascades]


def test_a_delete_says_what_goes_and_which_images_come_before() -> None:
    one, stream = session(), Stream()
    one.feed(
        begun(stream),
        stream.insert((1, "x"), table_id=78, flags=0),
        stream.delete((5, "five"), (6, "six"), flags=0),
        stream.insert((2, "x"), (3, "x"), table_id=78),
        stream.xid(),
    )
    (cascade,) = found(one.finish())
    assert cascade.parent == A
    assert cascade.old.to_pydict() == {"i32": [5, 6]}
    assert cascade.new is None
    assert dict(cascade.tables) == {B: 1, C: 0}


def test_only_updates_of_what_is_referred_to_count() -> None:
    one, stream = session(), Stream()
    one.feed(
        begun(stream),
        stream.update((1, "x"), (1, "y"), flags=0),
        stream.update((1, "y"), (9, "y")),
        stream.xid(),
    )
    (cascade,) = found(one.finish())
    assert cascade.new is not None
    assert (cascade.old.to_pydict(), cascade.new.to_pydict()) == ({"i32": [1]}, {"i32": [9]})


@pytest.mark.parametrize("is_update", [False, True])
def test_a_session_without_foreign_key_checks_does_not_cascade(is_update: bool) -> None:
    one, stream = session(), Stream()
    one.feed(begun(stream))
    if is_update:
        one.feed(stream.update((1, "x"), (2, "x"), flags=NO_CHECKS))
    else:
        one.feed(stream.delete((1, "x"), flags=NO_CHECKS))
    one.feed(stream.xid())
    assert not found(one.finish())


def test_what_is_rolled_back_was_not() -> None:
    one, stream = session(), Stream()
    one.feed(begun(stream), stream.delete((1, "x")), stream.end_query("ROLLBACK"))
    one.feed(begun(stream, 2), stream.delete((2, "x")), stream.xid())
    (cascade,) = found(one.finish())
    assert cascade.old.to_pydict() == {"i32": [2]}


def test_counts_go_on_from_part_to_part() -> None:
    """Each part counts its own images."""
    one, stream = session(limits=RunLimits(part_rows_max=2)), Stream()
    one.feed(begun(stream))
    for number in range(4):
        one.feed(stream.insert((number, "x"), table_id=78, flags=0), stream.delete((number, "x"), flags=0))
    one.feed(stream.delete((9, "x")), stream.xid())
    runs = one.finish()
    assert len(runs) > 2
    for run in runs:
        images = sum(batch.row_count for batch in run.batches if batch.definition.name == B)
        counts = [cascade.tables[B] for cascade in run.cascades]
        assert counts == sorted(counts)
        assert all(count <= images for count in counts)
    assert [cascade.old.column(0).to_pylist() for cascade in found(runs)] == [[0], [1], [2], [3], [9]]
    assert [cascade.tables[B] for cascade in found(runs[:1])] == [1]


def test_a_cascade_of_an_open_transaction_goes_with_it() -> None:
    """The run before it is handed over in its middle, and takes the images of that one along."""
    one, stream = session(limits=RunLimits(part_rows_max=6)), Stream()
    one.feed(begun(stream), stream.insert((1, "x"), (2, "x"), table_id=78), stream.xid())
    one.feed(begun(stream, 2), stream.insert((3, "x"), table_id=78, flags=0), stream.delete((1, "x"), flags=0))
    for number in range(4, 9):
        one.feed(stream.insert((number, "x"), table_id=78, flags=0))
    one.feed(stream.insert((10, "x"), table_id=78), stream.xid())
    runs = one.finish()
    assert not runs[0].cascades
    (cascade,) = found(runs)
    assert cascade.tables[B] == 1


def test_the_rows_of_a_parent_whose_load_is_newer_count_for_its_children() -> None:
    later = CapturedTable(definition(A), loaded_from=at(1 << 20), is_ready=False)
    one, stream = session(a=later), Stream()
    one.feed(begun(stream), stream.insert((7, "x"), flags=0), stream.delete((5, "x")), stream.xid())
    runs = one.finish()
    (cascade,) = found(runs)
    assert dict(cascade.tables) == {B: 0, C: 0}
    assert not any(run.batches for run in runs)


def test_a_child_whose_load_is_newer_has_seen_it() -> None:
    later = CapturedTable(definition(B), loaded_from=at(1 << 20), is_ready=False)
    one, stream = session(b=later, graph=CascadeGraph([key(B, A)])), Stream()
    one.feed(begun(stream), stream.delete((5, "x")), stream.xid())
    assert not found(one.finish())


@pytest.mark.parametrize("loaded_from", [None, at(1 << 20)])
def test_what_goes_through_a_table_that_is_not_there_yet_is_loaded_again(loaded_from: object) -> None:
    """Rows of B may be gone already by its load; what they took with them of C nobody knows."""
    later = CapturedTable(definition(B), loaded_from=loaded_from, is_ready=False)  # type: ignore[arg-type]
    one, stream = session(b=later), Stream()
    before = one.position
    assert one.feed(begun(stream), stream.insert((4, "x"), table_id=79, flags=0), stream.delete((5, "x")))
    (change,) = one.out.changes
    assert (change.tables, change.end) == ((C,), before)
    assert not any(run.cascades or run.batches for run in one.out.runs)


def test_a_key_that_changes_under_a_child_that_is_catching_up_loads_it_again() -> None:
    graph = CascadeGraph([key(B, A)])
    one, stream = session(b=CapturedTable(definition(B), is_ready=False), graph=graph), Stream()
    assert one.feed(begun(stream), stream.update((5, "x"), (6, "x")))
    (change,) = one.out.changes
    assert change.tables == (B,)


def xa_session(*captured: CapturedTable, limits: RunLimits | None = None, graph: CascadeGraph = GRAPH) -> Session:
    by_name = {one.definition.name.table: one for one in captured}
    tables = Tables([by_name.get(name.table, CapturedTable(definition(name))) for name in (A, B, C)])
    return Session(tables=tables, limits=limits, cascades=graph, stores_prepared=True)


def xa_begun(stream: Stream) -> list[bytes]:
    head = [stream.gtid(1), stream.query(f"XA START {named(X1)}")]
    return head + [stream.table_map(table, 77 + index) for index, table in enumerate((A, B, C))]


def test_a_parent_in_a_prepared_transaction_parks_the_child() -> None:
    one, stream = xa_session(), Stream()
    one.feed(xa_begun(stream), stream.delete((1, "x")))
    with pytest.raises(UnsupportedData, match=r"shop\.b.*XA transaction that is prepared") as raised:
        one.feed(xa_prepare(stream))
    assert raised.value.table == "shop.b"


def test_a_transaction_that_is_committed_in_one_phase_is_as_any_other() -> None:
    one, stream = xa_session(), Stream()
    one.feed(xa_begun(stream), stream.insert((2, "x"), table_id=78, flags=0), stream.delete((1, "x")))
    one.feed(xa_prepare(stream, one_phase=True))
    (run,) = one.finish()
    (cascade,) = run.cascades
    assert (cascade.old.to_pydict(), dict(cascade.tables)) == ({"i32": [1]}, {B: 1, C: 0})
    assert not run.xa


def test_in_one_phase_what_is_not_there_yet_is_loaded_again() -> None:
    one, stream = xa_session(CapturedTable(definition(B), is_ready=False)), Stream()
    before = one.position
    one.feed(xa_begun(stream), stream.insert((4, "x"), table_id=79, flags=0), stream.delete((5, "x")))
    assert one.feed(xa_prepare(stream, one_phase=True))
    (change,) = one.out.changes
    assert (change.tables, change.end) == ((C,), before)
    assert not one.out.runs


def test_a_large_transaction_in_one_phase_parks_the_child() -> None:
    """Its rows are stored before it is known that it is not prepared."""
    one, stream = xa_session(limits=RunLimits(part_rows_max=2)), Stream()
    one.feed(xa_begun(stream), stream.delete((1, "x"), flags=0))
    one.feed(*[stream.insert((number, "x"), table_id=78, flags=0) for number in range(4)])
    with pytest.raises(UnsupportedData, match=r"shop\.b: an XA transaction whose rows were stored until its end"):
        one.feed(xa_prepare(stream, one_phase=True))
    assert one.out.runs
    assert not found(one.out.runs)


@pytest.mark.parametrize("later", [{B, C}, {C}])
def test_children_that_were_loaded_between_prepare_and_commit_are_loaded_again(later: set[TableName]) -> None:
    """No load before the commit has seen what it does, however much newer than the prepare it is."""
    loaded = [CapturedTable(definition(name), loaded_from=at(1 << 20)) for name in later]
    graph = CascadeGraph([key(name, A) for name in later])
    stream, one = Stream(), xa_session(*loaded, graph=graph)
    one.feed(xa_begun(stream), stream.delete((1, "x")), xa_prepare(stream))
    (prepare,) = [step for run in one.finish() for step in run.xa if step.action is XaAction.PREPARE]
    assert prepare.passed == later


def test_a_child_that_was_loaded_since_parks_nothing_where_no_key_changed() -> None:
    stream, one = Stream(), xa_session(CapturedTable(definition(B), loaded_from=at(1 << 20)))
    one.feed(xa_begun(stream), stream.update((1, "x"), (1, "y")), xa_prepare(stream))
    (prepare,) = [step for run in one.finish() for step in run.xa if step.action is XaAction.PREPARE]
    assert not prepare.passed


def test_a_table_that_refers_to_itself() -> None:
    graph = CascadeGraph([key(A, A, "CASCADE", "RESTRICT")])
    one, stream = session(graph=graph), Stream()
    one.feed(begun(stream), stream.insert((5, "x"), flags=0), stream.delete((1, "x"), flags=0), stream.insert((6, "x")))
    one.feed(stream.xid())
    (cascade,) = found(one.finish())
    assert dict(cascade.tables) == {A: 2}


def _standing(**stands: Standing) -> dict[TableName, Standing]:
    return {TableName("shop", name): one for name, one in stands.items()}


@pytest.mark.parametrize(
    "is_update,stands,expected",
    [
        (False, {"b": Standing.EXACT, "c": Standing.EXACT}, Reach(frozenset({B, C}), frozenset())),
        (False, {"b": Standing.AHEAD, "c": Standing.EXACT}, Reach(frozenset({B}), frozenset({C}))),
        (False, {"b": Standing.AWAY, "c": Standing.AHEAD}, Reach(frozenset(), frozenset({C}))),
        (False, {"b": Standing.EXACT, "c": Standing.AWAY}, Reach(frozenset({B}), frozenset())),
        (True, {"b": Standing.EXACT, "c": Standing.AHEAD}, Reach(frozenset({B}), frozenset({C}))),
    ],
)
def test_what_a_change_reaches(is_update: bool, stands: dict[str, Standing], expected: Reach) -> None:
    standing = _standing(**stands)
    assert GRAPH.reach(A, is_update=is_update, standing=standing.__getitem__) == expected


def test_a_rule_that_only_sets_null_goes_no_further() -> None:
    keys = [key(B, A, "SET NULL", "RESTRICT"), key(C, B)]
    apart = [replace(keys[0], columns=("v63",)), keys[1]]
    standing = _standing(b=Standing.EXACT, c=Standing.EXACT)
    assert CascadeGraph(apart).reach(A, is_update=False, standing=standing.__getitem__).tables == {B}
    assert CascadeGraph(keys).reach(A, is_update=False, standing=standing.__getitem__).tables == {B, C}
    assert not CascadeGraph(apart).acts_on(A, is_update=True)


@pytest.mark.parametrize(
    "followed, passed",
    [
        pytest.param({A}, {B, C}, id="children that are parked"),
        pytest.param({A, B}, {C}, id="a grandchild"),
        pytest.param({B, C}, {A, B, C}, id="a parent that is parked"),
        pytest.param(set(), {A, B, C}, id="all"),
    ],
)
def test_who_is_not_followed_when_it_is_prepared_is_loaded_again_behind_its_end(
    followed: set[TableName], passed: set[TableName]
) -> None:
    """A load between the two has not seen what becomes of its rows. Keys of tables that are parked are not applied."""
    tables = Tables([CapturedTable(definition(name)) for name in sorted(followed)])
    stream = Stream()
    one = Session(tables=tables, cascades=CascadeGraph(), hidden_keys=GRAPH, stores_prepared=True)
    one.feed(xa_begun(stream)[:3], stream.delete((1, "x")), xa_prepare(stream))
    (prepare,) = [step for run in one.finish() for step in run.xa if step.action is XaAction.PREPARE]
    assert prepare.passed == passed
