"""Chunks that other sessions write: what is said of those that were committed when a load ends early."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoints.chunks import Loaded
from checkpoints.store import InSinkStore
from snapshot import writers as of_writers
from snapshot.chunks import Chunk, KeyRange
from snapshot.writers import ChunkWriters, WriterSession, WriterSessions
from tests.support.waiting import wait_until


def test_what_was_committed_before_a_load_was_cut_off_is_told() -> None:
    told: list[str] = []
    session: Any = WriterSession(None, None)  # type: ignore[arg-type]  # nothing is asked of either
    writers = ChunkWriters(lambda: [session], lambda *_: Loaded(1, 1), lambda: told.append("committed"))
    with writers:
        assert writers.has_free
        writers.give(Chunk(1, KeyRange()), [])
        writers.wait(lambda: None)
        assert told == [], "a load that goes on asks"
    assert told == ["committed"]


class _Sink:
    """A session that is there, and says what was done to it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def is_open(self) -> bool:
        return True

    def session(self) -> str:
        return f"session {id(self)}"

    def transaction(self) -> Any:
        return contextlib.nullcontext(SimpleNamespace(commit=lambda: None))

    def __getattr__(self, name: str) -> Any:
        return lambda: self.said.append(name)


def test_a_session_whose_thread_does_not_end_is_used_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the middle of a statement, or of what takes long before one: two threads would share a connection."""
    monkeypatch.setattr(of_writers, "_JOIN_SECONDS", 0.05)
    monkeypatch.setattr(InSinkStore, "add_session", lambda *_, **__: None)
    may_end = threading.Event()

    def write(*_: Any) -> Loaded:
        may_end.wait(20)
        return Loaded(1, 1)

    store: Any = SimpleNamespace(pipeline="shop/warehouse", epoch=1)
    sessions = WriterSessions(_Sink, store, count_max=2, on_refused=lambda _: None)
    with ChunkWriters(sessions.take, write, lambda: None) as writers:
        assert writers.has_free
        busy, idle = sessions.take()
        writers.give(Chunk(1, KeyRange()), [])
    of_busy, of_idle = (session.sink.said for session in (busy, idle))  # type: ignore[attr-defined]
    assert "hang_up" in of_busy
    after = sessions.take()
    assert idle in after
    assert busy not in after
    assert len(after) == 2
    sessions.close()
    assert of_idle[-1] == "close"
    assert "close" not in of_busy, "its thread does that"
    may_end.set()
    wait_until(lambda: of_busy[-1] == "close", 5, "the end of the thread")
