"""What a command is about, whatever else it says."""

from __future__ import annotations

import orjson
import pytest

from cdc.model import TableName
from checkpoints.lanes import command_argument, command_tables
from checkpoints.store import Command

A, B = TableName("shop", "a"), TableName("shop", "b.c")
PAIRS = [["shop", "a"], ["shop", "b.c"]]


@pytest.mark.parametrize("said", [PAIRS, {"tables": PAIRS, "where": "id = 1"}, {"tables": PAIRS, "by": "root"}])
def test_a_command_that_is_passed_on_to_another_lane_keeps_what_it_says_of_its_tables(said: object) -> None:
    command = Command(1, "any", orjson.dumps(said).decode(), "queued", "")
    assert command_tables(command) == [A, B]
    kept = orjson.loads(command_argument(command, [B]))
    assert kept == ({**said, "tables": PAIRS[1:]} if isinstance(said, dict) else PAIRS[1:])


@pytest.mark.parametrize("kept,statements", [([A], ["one"]), ([B], ["two"]), ([B, A], ["two", "one"]), ([], [])])
def test_statements_stay_with_their_tables(kept: list[TableName], statements: list[str]) -> None:
    said = {"tables": PAIRS, "by": "root", "statements": ["one", "two"]}
    command = Command(1, "ddl_apply", orjson.dumps(said).decode(), "queued", "")
    pairs = [[table.database, table.table] for table in kept]
    assert orjson.loads(command_argument(command, kept)) == {"tables": pairs, "by": "root", "statements": statements}


def test_a_command_that_an_older_version_has_cut_keeps_all_its_statements() -> None:
    said = {"tables": PAIRS[:1], "by": "root", "statements": ["one", "two"]}
    command = Command(1, "ddl_apply", orjson.dumps(said).decode(), "queued", "")
    assert orjson.loads(command_argument(command, [A])) == said
