"""What a poller does with the commands that its lease keeper has read."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.model import TableName
from cdc.pipeline.poller import _Session
from checkpoints.store import Command, TableRecord


@pytest.mark.parametrize("state,is_taken", [("done", False), ("failed", False), ("queued", True), ("running", True)])
def test_a_command_that_was_read_before_it_was_done_is_not_carried_out_again(state: str, is_taken: bool) -> None:
    """The keeper reads them in its own thread: taken twice, a decision would fail the second time."""
    argument = orjson.dumps({"tables": [["shop", "t"]], "by": "somebody", "statements": ["ALTER TABLE t"]}).decode()
    command = Command(7, "ddl_apply", argument, "queued", "")
    said: list[str] = []
    session: Any = object.__new__(_Session)
    session._p = SimpleNamespace(_commands_lock=threading.Lock(), _commands=[command])
    session._asked, session._records = {}, {}
    session._store = SimpleNamespace(
        read_command=lambda _id: replace(command, state=state),
        set_command=lambda _id, state, _message: said.append(state),
    )
    session._take_commands()
    assert said == (["running", "failed"] if is_taken else [])


@pytest.mark.parametrize(
    "record_state, message, ends",
    [
        ("ready", "loading", [("running", "loading"), ("done", "")]),
        ("snapshotting", "loading", [("running", "loading")]),
        (
            "ready",
            "shop.u waits at no statement",
            [("running", "shop.u waits at no statement"), ("failed", "shop.u waits at no statement")],
        ),
    ],
    ids=["has_run", "runs", "had_failed_in_part"],
)
def test_a_command_that_an_ended_session_took_up_is_answered_by_what_came_of_it(
    record_state: str, message: str, ends: list[tuple[str, str]]
) -> None:
    argument = orjson.dumps({"tables": [["shop", "t"]], "by": "somebody", "statements": ["ALTER TABLE t"]}).decode()
    command = Command(7, "ddl_apply", argument, "running", message)
    record = TableRecord(TableName("shop", "t"), "shop.t", record_state)
    said: list[tuple[str, str]] = []
    session: Any = object.__new__(_Session)
    session._p = SimpleNamespace(_commands_lock=threading.Lock(), _commands=[command])
    session._asked, session._records, session._due = {}, {record.source: record}, {}
    session._again, session._clock = set(), SimpleNamespace(monotonic=lambda: 1.0)
    session._store = SimpleNamespace(
        read_command=lambda _id: command,
        set_command=lambda _id, state, message: said.append((state, message)),
    )
    session._take_commands()
    assert said == ends
    assert not session._again, "a load that was begun goes on"
