"""Tables that are parked at a statement, and what is remembered of them."""

from __future__ import annotations

import dataclasses

import pytest

from cdc.model import FilePos, SchemaChange, ServerIdentity, SourcePosition, TableName
from cdc.pipeline.held import held_change, held_record, is_up_to_statement
from checkpoints.store import TableRecord

NAME = TableName("shop", "t")


@pytest.mark.parametrize("state,is_up", [("ready", True), ("snapshotting", False), ("pending", False)])
def test_a_table_that_was_on_its_way_is_not_taken_for_a_whole_one(state: str, is_up: bool) -> None:
    position = SourcePosition(ServerIdentity("mysql", "uuid"), FilePos(1, 4, "binlog.000001"), None)
    change = SchemaChange(tables=(NAME,), end=position, statement="ALTER TABLE t ADD c INT", commit_time_us=0)
    record = dataclasses.replace(TableRecord(source=NAME, target="shop.t", state="pending"), state=state)
    held = held_record(record, change, "ddl: approve", [], since=None)
    assert held_change(held) is not None
    assert is_up_to_statement(held) is is_up
    assert not is_up_to_statement(record)
