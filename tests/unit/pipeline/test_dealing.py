"""How tables come to another lane: each lane begins at the least position of its tables, and passes over what the
others have. Positions only; tests/integration/test_lanes.py has the servers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableName
from cdc.pipeline.dealing import CannotDeal, Dealing, LaneState, compare, has_reached, least, plan_dealing
from checkpoints.checkpoint import Checkpoint
from checkpoints.store import InSinkStore, TableRecord

HERE = ServerIdentity("mariadb", "here")
THERE = ServerIdentity("mariadb", "there")


def at(pos: int, server: ServerIdentity = HERE) -> SourcePosition:
    return SourcePosition(server, FilePos.of("binlog.000001", pos), None)


def by_gtid(text: str, pos: int | None = None, uuid: str = "here", *, file_number: int = 1) -> SourcePosition:
    file = FilePos.of(f"binlog.00000{file_number}", pos) if pos is not None else None
    numbers = MysqlGtidSet.parse(f"11111111-1111-1111-1111-111111111111:{text}")
    return SourcePosition(ServerIdentity("mysql", uuid), file, numbers)


def by_list(text: str, pos: int, *, file_number: int = 1) -> SourcePosition:
    return SourcePosition(HERE, FilePos.of(f"binlog.00000{file_number}", pos), MariadbGtidList.parse(text))


def table(name: str) -> TableName:
    return TableName("shop", name)


def record(name: str, state: str = "ready", **fields: Any) -> TableRecord:
    return TableRecord(source=table(name), target=name, state=state, **fields)


def lane(position: SourcePosition | None, *records: TableRecord, prepared: int = 0) -> LaneState:
    store = InSinkStore(None, "shop/replica")
    checkpoint = Checkpoint(position, 7) if position is not None else None
    return LaneState(store, checkpoint, 7, {one.source: one for one in records}, prepared)


def plan(states: dict[int, LaneState], **lanes: int) -> Dealing:
    return plan_dealing(states, {table(name): number for name, number in lanes.items()}, HERE)


def by_name(dealing: Dealing) -> dict[str, tuple[int, TableRecord]]:
    return {one.source.table: (number, one) for number, one in dealing.records}


def test_nothing_is_written_where_every_table_is_in_its_lane() -> None:
    dealing = plan({1: lane(at(10), record("a")), 2: lane(at(20), record("b"), prepared=3)}, a=1, b=2)
    assert (dealing.checkpoints, dealing.records, dealing.moved) == ({}, [], {})


def test_a_lane_that_gets_a_table_from_behind_begins_there_and_passes_over_what_its_own_have() -> None:
    dealing = plan({1: lane(at(10), record("a"), record("c")), 2: lane(at(20), record("b"))}, a=2, b=2, c=1)
    assert dealing.checkpoints == {2: at(10)}
    assert dealing.moved == {table("a"): (1, 2)}
    found = by_name(dealing)
    assert found["a"] == (2, record("a"))
    ahead = record("b", "snapshotting", loaded_from=at(20), ready_at=at(20).file, ready_server=HERE)
    assert found["b"] == (2, ahead)
    assert "c" not in found


def test_a_table_from_further_on_is_passed_over_up_to_where_it_is() -> None:
    dealing = plan({1: lane(at(10), record("a")), 2: lane(at(20), record("b"), record("c"))}, a=1, b=1, c=2)
    assert dealing.checkpoints == {}
    lane_number, moved = by_name(dealing)["b"]
    assert (lane_number, moved.state, moved.loaded_from, moved.ready_at) == (1, "snapshotting", at(20), at(20).file)
    assert "a" not in by_name(dealing)


def test_tables_that_change_places_both_come_to_the_least_position() -> None:
    dealing = plan({1: lane(at(10), record("a")), 2: lane(at(20), record("b"))}, a=2, b=1)
    assert dealing.checkpoints == {2: at(10), 1: at(20)}
    assert by_name(dealing) == {"a": (2, record("a")), "b": (1, record("b"))}


def test_a_new_lane_begins_where_its_tables_are() -> None:
    dealing = plan({1: lane(at(10), record("a"), record("b")), 2: lane(None)}, a=1, b=2)
    assert dealing.checkpoints == {2: at(10)}
    assert by_name(dealing) == {"b": (2, record("b"))}


def test_what_is_not_loaded_yet_needs_no_position() -> None:
    parked = record("p", "parked", error={"message": "no"})
    dealing = plan({1: lane(at(10), record("a"), record("b", "pending"), parked), 2: lane(None)}, a=1, b=2, p=2)
    assert dealing.checkpoints == {}
    assert by_name(dealing) == {"b": (2, record("b", "pending")), "p": (2, parked)}


def test_a_load_that_is_catching_up_keeps_what_it_has_and_where_it_is_ready() -> None:
    loaded = record("b", "snapshotting", loaded_from=at(15), ready_at=at(30).file, ready_server=HERE)
    dealing = plan({1: lane(at(10), record("a")), 2: lane(at(20), loaded)}, a=1, b=1)
    assert by_name(dealing)["b"][1].loaded_from == at(20)  # applied that far since
    assert by_name(dealing)["b"][1].ready_at == at(30).file
    dealing = plan({1: lane(at(10), record("a")), 2: lane(at(12), loaded)}, a=1, b=1)
    assert by_name(dealing)["b"][1].loaded_from == at(15)  # the load is further on than its lane


def test_a_dropped_table_is_absent_up_to_where_its_lane_is() -> None:
    dealing = plan({1: lane(at(10), record("a")), 2: lane(at(20), record("b", "dropped"))}, a=1, b=1)
    assert by_name(dealing)["b"] == (1, record("b", "dropped", loaded_from=at(20)))


@pytest.mark.parametrize("prepared", [(1, 0), (0, 1)])
def test_nothing_moves_while_a_prepared_transaction_waits(prepared: tuple[int, int]) -> None:
    states = {
        1: lane(at(10), record("a"), prepared=prepared[0]),
        2: lane(at(20), record("b"), prepared=prepared[1]),
    }
    with pytest.raises(CannotDeal, match="prepared XA"):
        plan(states, a=2, b=2)


def test_positions_of_two_servers_are_not_compared() -> None:
    states = {1: lane(at(10), record("a")), 2: lane(at(20, THERE), record("b"))}
    with pytest.raises(CannotDeal, match="nobody can tell"):
        plan(states, a=2, b=2)


def test_a_place_of_another_server_is_none_in_this_ones_log() -> None:
    states = {1: lane(at(10, THERE), record("a")), 2: lane(at(20, THERE), record("b"))}
    with pytest.raises(CannotDeal, match="no place in the source's log"):
        plan(states, a=2, b=2)
    assert plan({1: lane(at(10, THERE), record("a"), record("b")), 2: lane(None)}, a=1, b=2).checkpoints


def test_a_loaded_table_of_a_lane_without_a_checkpoint_does_not_move() -> None:
    with pytest.raises(CannotDeal, match="no checkpoint"):
        plan({1: lane(None, record("a")), 2: lane(None)}, a=2)


@pytest.mark.parametrize(
    "one, other, order",
    [
        (at(10), at(20), -1),
        (at(20), at(20), 0),
        (at(21), at(20), 1),
        (at(10), at(20, THERE), None),
        (by_gtid("1-5"), by_gtid("1-9", 400), -1),
        (by_gtid("1-9"), by_gtid("1-9", 400, "there"), 0),
        (by_gtid("1-9", 400), by_gtid("1-5", 200), 1),
        (by_gtid("1-5"), by_gtid("3-9"), None),
        (by_gtid("1-5:7"), by_gtid("1-5", 200, "there"), 1),
        (by_gtid("1-5", 200), by_gtid("1-5", 400), -1),
        # After a failover: 9 lies behind both places in the new server's log, and only one lane has it from the old.
        (by_gtid("1-5:9", 200), by_gtid("1-7", 400), None),
        (by_gtid("1-7", 400), by_gtid("1-5:9", 200), None),
        (by_gtid("1-5:9", 200), by_gtid("1-5", 200), None),
        (by_list("0-1-5,1-1-9", 200), by_list("0-1-6,1-1-9", 400), -1),
        (by_list("0-1-5", 200), by_list("0-1-6,1-1-9", 400), -1),
        (by_list("0-1-5,1-1-9", 200), by_list("0-1-6,1-1-8", 400), None),
        (by_list("0-1-5,1-1-9", 200), by_list("0-1-6", 400), None),
        (by_list("0-1-5", 200), at(400), -1),
        # The log was rotated, and nothing written since: one dump was told so, the other began in the new file.
        (by_list("0-1-5,1-1-9", 200), by_list("0-1-5,1-1-9", 4, file_number=2), 0),
        (by_list("0-1-5,1-1-9", 200), by_list("0-1-5,1-1-10", 400, file_number=2), -1),
        (by_gtid("1-5", 4, file_number=2), by_gtid("1-5", 200), 0),
        (by_gtid("1-6", 400, file_number=2), by_gtid("1-5", 200), 1),
        (at(200), replace(at(4), file=FilePos.of("binlog.000002", 4)), -1),
        (by_list("0-1-5", 200), replace(at(4), file=FilePos.of("binlog.000002", 4)), -1),
    ],
)
def test_positions_are_compared_by_file_or_by_gtid_set(
    one: SourcePosition, other: SourcePosition, order: int | None
) -> None:
    assert compare(one, other) == order


def test_what_is_behind_the_last_transaction_need_not_be_reached() -> None:
    assert has_reached(at(20), at(20))
    assert not has_reached(at(10), at(20))
    assert has_reached(by_list("0-1-5", 4), by_list("0-1-5", 385))
    assert not has_reached(by_list("0-1-5", 4), by_list("0-1-6", 385))


def test_what_one_lane_has_from_before_a_failover_and_the_next_one_has_not_does_not_move() -> None:
    states = {1: lane(by_gtid("1-5:9", 200), record("a")), 2: lane(by_gtid("1-7", 400), record("b"))}
    with pytest.raises(CannotDeal, match="nobody can tell"):
        plan_dealing(states, {table("a"): 2, table("b"): 2}, ServerIdentity("mysql", "here"))


def test_the_least_of_several() -> None:
    assert least([at(30), at(10), at(20)]) == at(10)
    with pytest.raises(CannotDeal):
        least([at(30), at(10, THERE)])
    with pytest.raises(ValueError, match="no positions"):
        least([])
