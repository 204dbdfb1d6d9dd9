"""What a poller does with the commands that its lease keeper has read."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.pipeline.poller import _Session
from checkpoints.store import Command


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
