"""Chunks that other sessions write: what is said of those that were committed when a load ends early."""

from __future__ import annotations

from typing import Any

from checkpoints.chunks import Loaded
from snapshot.chunks import Chunk, KeyRange
from snapshot.writers import ChunkWriters, WriterSession


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
