"""Crash points: a name that is wrong is told at the start, a name that is right kills at the n-th time."""

from __future__ import annotations

import os
import signal

import pytest

from cdc.errors import ConfigError
from cdc.pipeline.hooks import CRASH_POINTS, Hooks


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


@pytest.mark.parametrize("crash_at", ["nowhere", "before_commit:x", "before_commit:-1", "before_commit:1:2", "x:1"])
def test_a_point_that_does_not_exist_is_a_configuration_error(crash_at: str) -> None:
    with pytest.raises(ConfigError, match="crash point") as caught:
        Hooks.from_environment({"CDC_CRASH_AT": crash_at})
    assert "before_commit" in caught.value.hint


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_it_kills_at_the_nth_time_and_at_that_point_only(point: str, kills: list[tuple[int, int]]) -> None:
    made = Hooks.from_environment({"CDC_CRASH_AT": f"{point}:3"})
    for _ in range(2):
        for other in CRASH_POINTS:
            made(other)
    assert kills == []
    made(point)
    assert kills == [(os.getpid(), signal.SIGKILL)]


def test_without_a_count_it_is_the_first_time(kills: list[tuple[int, int]]) -> None:
    Hooks("after_commit")("after_commit")
    assert len(kills) == 1


def test_unset_nothing_is_killed(kills: list[tuple[int, int]]) -> None:
    made = Hooks.from_environment({})
    for point in CRASH_POINTS:
        made(point)
    assert kills == []
