"""XA transactions in the stream, for an output that stores the rows of prepared ones: what it is told of them."""

from __future__ import annotations

import pytest

from cdc.binlog.constants import EventType, MariadbGtidFlag
from cdc.errors import MalformedEvent, UnsupportedEvent
from cdc.gtid import MariadbGtidList
from cdc.model import TableName, TransactionRun, Xa, XaAction, XaStep
from cdc.source.assembler import CapturedTable, PreparedXa, RunLimits
from tests.unit.source.streams import A, B, Row, Session, Stream, Tables, all_images, at, definition, images
from tests.unit.source.test_assembler import inside, payload

ELSEWHERE = TableName("shop", "elsewhere")
X1 = Xa(1, b"x1", b"")
X2 = Xa(-2, b"\0\xff'", b"b")


def xa_prepare(stream: Stream, xa: Xa = X1, *, one_phase: bool = False) -> bytes:
    return stream.event(EventType.XA_PREPARE, prepare_body(xa, one_phase=one_phase))


def prepare_body(xa: Xa, *, one_phase: bool = False) -> bytes:
    sizes = (xa.format_id & 0xFFFFFFFF, len(xa.global_id), len(xa.branch))
    return bytes((one_phase,)) + b"".join(n.to_bytes(4, "little") for n in sizes) + xa.global_id + xa.branch


def group(stream: Stream, *rows: Row, table: TableName = A, xa: Xa = X1) -> list[bytes]:
    """Up to its XA END."""
    return [
        stream.gtid(),
        stream.query(f"XA START {named(xa)}"),
        stream.table_map(table),
        *[stream.insert(row, flags=row is rows[-1]) for row in rows],
        stream.query(f"XA END {named(xa)}"),
    ]


def named(xa: Xa) -> str:
    """As servers print it: the format without its sign."""
    return f"X'{xa.global_id.hex()}',X'{xa.branch.hex()}',{xa.format_id & 0xFFFFFFFF}"


def end(stream: Stream, how: str, xa: Xa = X1) -> list[bytes]:
    return [stream.gtid(), stream.end_query(f"XA {how} {named(xa)}")]


def steps(runs: list[TransactionRun]) -> list[tuple[str, Xa]]:
    return [(step.action.value, step.xa) for run in runs for step in run.xa]


def inserts(table: TableName, *rows: Row) -> list[tuple[str, str, Row]]:
    return [(table.table, "INSERT", row) for row in rows]


# ---------------------------------------------------------------- prepare


@pytest.mark.parametrize("xa", [X1, X2], ids=["plain", "odd"])
def test_rows_of_a_prepared_transaction_are_stored_in_a_run_of_its_own(xa: Xa) -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(stream.transaction((1, "before")), group(stream, (2, "x"), xa=xa))
    before = at(stream.pos)
    session.feed(xa_prepare(stream, xa), stream.transaction((3, "after")))
    first, part, last, after = session.finish()
    assert images(first.batches) == inserts(A, (1, "before"))
    assert images(part.batches) == inserts(A, (2, "x"))
    assert images(after.batches) == inserts(A, (3, "after"))
    assert (part.is_last_part, part.part_number, part.xa) == (False, 0, (XaStep(XaAction.STORE, xa),))
    assert part.end == first.end != before  # no checkpoint may pass it before the prepare does
    assert (last.is_last_part, last.part_number, last.batches, last.transaction_count) == (True, 1, (), 1)
    assert last.xa == (XaStep(XaAction.PREPARE, xa, stored=frozenset({A})),)
    assert (first.xa, after.xa) == ((), ())


def test_a_large_prepared_transaction_is_stored_in_parts() -> None:
    stream, session = Stream(), Session(stores_prepared=True, limits=RunLimits(part_rows_max=2))
    session.feed(group(stream, *[(n, "x") for n in range(5)]), xa_prepare(stream))
    runs = session.finish()
    assert [run.part_number for run in runs] == list(range(len(runs)))
    assert len(runs) > 3
    assert steps(runs) == [("store", X1)] * (len(runs) - 1) + [("prepare", X1)]
    assert all_images(runs) == inserts(A, *[(n, "x") for n in range(5)])


def test_rows_that_a_load_could_not_see_are_stored_although_the_load_is_newer() -> None:
    """The prepared group lies before the load's position, but its rows are not committed: no SELECT saw them."""
    stream = Stream()
    loading = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([loading]), stores_prepared=True)
    session.feed(stream.transaction((1, "seen")), group(stream, (2, "x")), xa_prepare(stream))
    session.feed(stream.transaction((3, "seen")))
    runs = session.finish()
    assert all_images(runs) == inserts(A, (2, "x"))
    assert steps(runs) == [("store", X1), ("prepare", X1)]


def test_tables_whose_rows_are_not_stored_are_named() -> None:
    """They may come to be captured before the commit: whatever the scanner knew of them before the group."""
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(stream.transaction((1, "x"), table=ELSEWHERE), stream.transaction((1, "x"), table=ELSEWHERE))
    session.feed(group(stream, (2, "x"), table=ELSEWHERE), xa_prepare(stream))
    (run,) = session.finish()
    assert run.xa == (XaStep(XaAction.PREPARE, X1, passed=frozenset({ELSEWHERE})),)
    assert not run.batches
    assert run.transaction_count == 3


def test_a_prepare_that_names_another_transaction_than_its_group_is_damage() -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(group(stream, (1, "x")))
    with pytest.raises(MalformedEvent, match="X'00ff27',X'62',-2 is prepared in the group that began with X'7831'"):
        session.feed(xa_prepare(stream, X2))


@pytest.mark.parametrize("statement", ["XA START", "XA START 'x1'", "XA START X'7831',X''", "XA START X'7',X'',1"])
def test_a_name_that_is_not_understood_stops(statement: str) -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    with pytest.raises(UnsupportedEvent, match="not understood: XA START"):
        session.feed(stream.gtid(), stream.query(statement))


def test_mariadb_names_it_in_its_gtid() -> None:
    stream, session = (
        Stream(hides_positions=True),
        Session(start=at(4, gtid=MariadbGtidList()), flavor="mariadb", stores_prepared=True),
    )
    session.feed(stream.opening(), stream.format())
    name = (1).to_bytes(4, "little") + bytes((2, 0)) + b"x1"
    session.feed(stream.mariadb_gtid(1, flags=MariadbGtidFlag.PREPARED_XA, extra=name))
    session.feed(stream.table_map(), stream.insert((1, "x")), stream.query(f"XA END {named(X1)}"), xa_prepare(stream))
    session.feed(stream.mariadb_gtid(2, flags=MariadbGtidFlag.COMPLETED_XA, extra=name))
    session.feed(stream.end_query(f"XA COMMIT {named(X1)}"))
    runs = session.finish()
    assert steps(runs) == [("store", X1), ("prepare", X1), ("apply", X1)]
    assert session.position.gtid == MariadbGtidList({0: (1, 2)})


def test_a_compressed_one_is_prepared_as_any_other() -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    scratch = Stream()
    inner = inside(scratch.query(f"XA START {named(X1)}"), scratch.table_map(), scratch.insert((1, "x")))
    inner += inside(scratch.query(f"XA END {named(X1)}"), xa_prepare(scratch))
    session.feed(stream.gtid(), payload(stream, inner))
    runs = session.finish()
    assert steps(runs) == [("store", X1), ("prepare", X1)]
    assert all_images(runs) == inserts(A, (1, "x"))


# ---------------------------------------------------------------- one phase


def test_one_phase_is_a_commit() -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(stream.transaction((0, "before")), group(stream, (1, "a")), xa_prepare(stream, one_phase=True))
    (run,) = session.finish()
    assert images(run.batches) == inserts(A, (0, "before"), (1, "a"))
    assert run.xa == ()


def test_a_large_one_in_one_phase_is_applied_at_its_end() -> None:
    """Its parts come before it is known how it ends."""
    stream, session = Stream(), Session(stores_prepared=True, limits=RunLimits(part_rows_max=2))
    session.feed(group(stream, (1, "a"), (2, "b"), (3, "c")), xa_prepare(stream, one_phase=True))
    runs = session.finish()
    assert set(steps(runs[:-1])) == {("store", X1)}
    assert runs[-1].xa == (XaStep(XaAction.APPLY, X1),)
    assert all_images(runs) == inserts(A, (1, "a"), (2, "b"), (3, "c"))
    session.feed(end(stream, "ROLLBACK"))  # nothing of it is known any more
    assert session.finish()[-1].xa == ()


def test_rows_in_one_phase_that_a_load_has_seen_are_not_applied() -> None:
    stream = Stream()
    loading = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([loading]), stores_prepared=True)
    session.feed(group(stream, (2, "x")), xa_prepare(stream, one_phase=True))
    assert session.finish()[-1].xa == (XaStep(XaAction.APPLY, X1, covered=frozenset({A})),)


def test_one_phase_that_only_maps_a_table_that_a_load_has_seen_is_nothing() -> None:
    """MySQL maps every table that a trigger may write."""
    stream = Stream()
    loading = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([loading]), stores_prepared=True)
    session.feed(stream.transaction((1, "before"), table=B), group(stream), xa_prepare(stream, one_phase=True))
    assert [step for run in session.finish() for step in run.xa] == []


# ---------------------------------------------------------------- the end


def prepared(*, stored: TableName | None = None, passed: TableName | None = None) -> dict[Xa, PreparedXa]:
    """As the metadata has it after a restart."""
    return {X1: PreparedXa(frozenset({stored} if stored else ()), frozenset({passed} if passed else ()))}


def test_a_commit_is_applied_alone_and_in_its_place() -> None:
    stream, session = Stream(), Session(stores_prepared=True, prepared=prepared(stored=A))
    session.feed(stream.transaction((1, "before")), end(stream, "COMMIT"), stream.transaction((2, "after")))
    first, commit, after = session.finish()
    assert (images(first.batches), images(after.batches)) == (inserts(A, (1, "before")), inserts(A, (2, "after")))
    assert (commit.xa, commit.batches) == ((XaStep(XaAction.APPLY, X1),), ())
    assert (commit.transaction_count, commit.is_last_part, commit.part_number) == (1, True, 0)
    assert first.end != commit.end != after.end


def test_a_commit_says_which_tables_were_loaded_since() -> None:
    stream = Stream()
    loaded = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    older = CapturedTable(definition(B), loaded_from=at(4), is_ready=False)
    known = {X1: PreparedXa(stored=frozenset({A, B}))}
    session = Session(tables=Tables([loaded, older]), stores_prepared=True, prepared=known)
    session.feed(stream.transaction((9, "x"), table=ELSEWHERE), end(stream, "COMMIT"))
    assert session.finish()[-1].xa == (XaStep(XaAction.APPLY, X1, covered=frozenset({A})),)


def test_a_rollback_forgets() -> None:
    stream, session = Stream(), Session(stores_prepared=True, prepared=prepared(stored=A))
    session.feed(end(stream, "ROLLBACK"), stream.transaction((1, "after")))
    (run,) = session.finish()
    assert run.xa == (XaStep(XaAction.FORGET, X1),)
    assert images(run.batches) == inserts(A, (1, "after"))


@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK"])
def test_one_without_rows_that_count_is_forgotten_at_its_end(how: str) -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(group(stream, (1, "x"), table=ELSEWHERE), xa_prepare(stream), end(stream, how))
    (run,) = session.finish()
    assert run.xa == (XaStep(XaAction.FORGET, X1),)


def test_a_commit_of_rows_that_were_passed_is_applied_where_their_table_is_captured_by_now() -> None:
    stream, session = Stream(), Session(stores_prepared=True, prepared=prepared(passed=A))
    session.feed(end(stream, "COMMIT"))
    assert session.finish()[-1].xa == (XaStep(XaAction.APPLY, X1),)


def test_a_name_may_be_used_again() -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    for number in range(3):
        session.feed(group(stream, (number, "x")), xa_prepare(stream), end(stream, "COMMIT"))
    assert steps(session.finish()) == [("store", X1), ("prepare", X1), ("apply", X1)] * 3


def test_the_rollback_of_what_was_prepared_before_the_stream_passes() -> None:
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(end(stream, "ROLLBACK"))
    assert session.finish()[-1].xa == ()
    assert session.position == at(stream.pos)


def test_the_commit_of_what_was_prepared_before_the_stream_touches_every_table_not_loaded_since() -> None:
    stream = Stream()
    loaded = CapturedTable(definition(B), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([CapturedTable(definition(A)), loaded]), stores_prepared=True)
    session.feed(stream.transaction((1, "before")))
    assert session.feed(end(stream, "COMMIT"))
    (change,) = session.out.changes
    assert (change.tables, change.xa, change.is_dropped) == ((A,), X1, frozenset())
    assert change.end == at(stream.pos)
    assert all_images(session.out.runs) == inserts(A, (1, "before"))


def test_the_commit_of_what_was_prepared_before_the_stream_passes_where_all_was_loaded_since() -> None:
    stream = Stream()
    loaded = CapturedTable(definition(A), loaded_from=at(100_000), is_ready=False)
    session = Session(tables=Tables([loaded]), stores_prepared=True)
    assert not session.feed(end(stream, "COMMIT"))
    assert session.finish()[-1].xa == ()


def test_a_crash_of_the_source_in_its_middle_abandons_what_was_stored() -> None:
    stream, session = Stream(), Session(stores_prepared=True, limits=RunLimits(part_rows_max=2))
    session.feed(stream.opening(), stream.format(), group(stream, (1, "x"), (2, "x"), (3, "x")))
    session.feed(stream.format())
    session.feed(stream.transaction((4, "after")))
    session.flush()
    assert all_images(session.out.committed) == inserts(A, (4, "after"))
    assert [run.xa for run in session.out.committed] == [()]


def test_a_group_that_ends_as_a_plain_transaction_is_one() -> None:
    """No server known writes it; but what follows must not pass for the transaction that it began."""
    stream, session = Stream(), Session(stores_prepared=True)
    session.feed(stream.opening(), stream.format(), stream.transaction((0, "x")))
    session.feed(group(stream, (1, "x")), stream.xid(), group(stream, (2, "x"), xa=X2), xa_prepare(stream, X2))
    runs = session.finish()
    assert all_images(runs) == inserts(A, (0, "x"), (1, "x"), (2, "x"))
    assert steps(runs) == [("store", X2), ("prepare", X2)]
