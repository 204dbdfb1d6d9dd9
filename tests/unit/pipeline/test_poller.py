"""What a poller does with the commands that its lease keeper has read."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.errors import CdcError
from cdc.model import TableName
from cdc.pipeline import poller
from cdc.pipeline.poller import _Asked, _Session
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


@pytest.mark.parametrize(
    "state, is_present, ends",
    [
        ("pending", False, ("failed", "shop.t is not at the source any more, or not captured")),
        ("parked", True, None),
    ],
    ids=["dropped", "parked"],
)
def test_who_asked_for_a_table_that_waits_for_a_worker_is_answered_where_it_goes_away(
    monkeypatch: pytest.MonkeyPatch, state: str, is_present: bool, ends: tuple[str, str] | None
) -> None:
    """And one that is parked keeps its turn: it was asked for."""
    name = TableName("shop", "t")
    said: list[tuple[str, str]] = []
    session: Any = object.__new__(_Session)
    session._p = SimpleNamespace(_source_settings=None, _routing=SimpleNamespace(matches=lambda *_: True))
    session._log = SimpleNamespace(info=lambda *_, **__: None)
    session._registry = SimpleNamespace(place=lambda _: ("shop", "t"))
    session._records, session._states = {name: TableRecord(name, "shop.t", state)}, {}
    session._has_begun, session._running = True, set()
    session._due, session._left, session._again, session._forced = {name: 1.0}, {name}, {name}, {name}
    session._asked = {7: _Asked(Command(7, "snapshot", "[]", "running", "loading"), {name})}
    session._sink = SimpleNamespace(transaction=lambda: contextlib.nullcontext(SimpleNamespace(commit=lambda: None)))
    session._polls = SimpleNamespace(put=lambda *_: None)
    session._store = SimpleNamespace(
        save_table=lambda *_: None,
        fence=lambda *_: None,
        set_command=lambda _id, state, message: said.append((state, message)),
    )

    def gone(_statement: str) -> None:
        raise CdcError("no such table")

    source = SimpleNamespace(query=gone)
    monkeypatch.setattr(poller, "connect", lambda _: contextlib.nullcontext(source))
    monkeypatch.setattr(poller, "list_tables", lambda *_: ([name] if is_present else [], []))
    session._discover()
    session._finish_commands()
    assert said == ([] if ends is None else [ends])
    assert (name in session._due, name in session._again) == (is_present, is_present)
