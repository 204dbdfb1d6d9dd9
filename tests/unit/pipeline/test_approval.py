"""What becomes of a decision that an earlier session has taken up and not answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.model import TableName
from cdc.pipeline.approval import Approvals
from checkpoints.store import Command, TableRecord

T, U = TableName("shop", "t"), TableName("shop", "u")


def _answers(command: Command, *records: TableRecord) -> list[tuple[str, str]]:
    by_name = {record.source: record for record in records}
    said: list[tuple[str, str]] = []
    store: Any = SimpleNamespace(
        queued_commands=lambda: [command],
        set_command=lambda _id, state, message="": said.append((state, message)),
    )
    tables: Any = SimpleNamespace(record=by_name.get, records=lambda: list(records))
    none: Any = None
    Approvals(sink=none, store=store, step=none, log=none, tables=tables, read_definition=none).settle(none)
    return said


@pytest.mark.parametrize(
    "state, message, ends",
    [
        ("queued", "", [("running", "{0}; {1}"), ("failed", "{0}; {1}")]),
        ("running", "", [("done", "")]),
        ("running", "{1}", [("failed", "{1}")]),
    ],
    ids=["new", "taken_up", "taken_up_for_one_of_two"],
)
def test_a_table_that_waits_no_more_was_seen_to_by_who_took_the_command_up(
    state: str, message: str, ends: list[tuple[str, str]]
) -> None:
    """What was wrong when it was taken up is wrong still."""
    texts = [f"{name} waits at no statement" for name in (T, U)]
    argument = {"tables": [["shop", "t"], ["shop", "u"]], "by": "me", "statements": ["ALTER TABLE t", "ALTER TABLE u"]}
    command = Command(7, "ddl_apply", orjson.dumps(argument).decode(), state, message.format(*texts))
    answers = _answers(command, TableRecord(T, "shop.t", "pending"), TableRecord(U, "shop.u", "ready"))
    assert answers == [(end, text.format(*texts)) for end, text in ends]


@pytest.mark.parametrize("state, message", [("queued", ""), ("running", "yx.a waits at no statement")])
def test_what_is_said_of_a_table_is_not_taken_for_what_is_said_of_another(state: str, message: str) -> None:
    argument = {"tables": [["yx", "a"], ["x", "a"]], "by": "me", "statements": ["ALTER TABLE a"]}
    command = Command(7, "ddl_apply", orjson.dumps(argument).decode(), state, message)
    assert _answers(command)[-1] == ("failed", "yx.a waits at no statement; x.a waits at no statement")
