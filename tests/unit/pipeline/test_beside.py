"""What a lane asks of the sides: its own alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cdc.clock import SystemClock
from cdc.model import TableName
from cdc.pipeline.beside import LaneBeside, Side
from checkpoints.store import TableRecord

T = TableName("shop", "t")


def _lanes(side: Side) -> tuple[LaneBeside, LaneBeside, list[Any]]:
    asked: list[Any] = []
    beside: Any = SimpleNamespace(sides=[side], ask=lambda *words: asked.append(words))
    return LaneBeside(beside, 1, lambda _: 1), LaneBeside(beside, 2, lambda _: 1), asked


def test_only_the_lane_of_a_side_passes_a_command_on() -> None:
    side = Side(1, 1, [T], clock=SystemClock(), lane_position=lambda: None)
    first, second, asked = _lanes(side)
    store: Any = None
    second.pass_on(store, "snapshot", T, "[]")
    assert asked == []
    first.pass_on(store, "snapshot", T, "[]")
    assert len(asked) == 1


def test_a_side_has_what_nobody_else_keeps_current() -> None:
    side = Side(1, 1, [T], clock=SystemClock(), lane_position=lambda: None, shadowed=[T], live=[T])
    pipeline: Any = SimpleNamespace(tables=[TableRecord(source=T, target="t", state="ready")])
    side.pipeline = pipeline
    seen = [side.has_complete]
    side.give_up([T], [])
    seen.append(side.has_complete)
    side.finish()
    seen.append(side.has_complete)
    assert seen == [False, True, False]
