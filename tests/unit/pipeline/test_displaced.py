"""Sinks whose lease was taken: which of them are begun with anew, and which are left."""

from __future__ import annotations

import threading

import pytest
import structlog

from cdc.errors import CdcError, ConfigError, LeaseLost, SinkUnavailable
from cdc.pipeline import displaced
from cdc.pipeline.displaced import DisplacedSinks

COMMAND, SERVICE = "cdc snapshot elsewhere:1:2", "elsewhere:1:2"


class Sinks:
    """What holds on a sink, by one answer after the other: a holder, or the error that the question meets."""

    def __init__(self, *answers: str | CdcError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.begun: list[str] = []
        self.stopping = threading.Event()
        self.displaced = DisplacedSinks(
            holder=self._holder,
            begin_anew=self.begun.append,
            is_stopping=self.stopping,
            log=structlog.stdlib.get_logger(),
        )

    def _holder(self, sink: str, pipeline: str) -> str:
        self.asked.append((sink, pipeline))
        answer = self.answers.pop(0)
        if isinstance(answer, CdcError):
            raise answer
        return answer

    def end(self, error: BaseException | None) -> bool:
        """The pipelines have ended; was that looked into?"""
        is_open = self.displaced.may_go_on("sink", error)
        self.displaced.join(10)
        assert not self.displaced.are_open()
        return is_open


def lost(pipeline: str = "shop/sink#2") -> LeaseLost:
    return LeaseLost("taken over", pipeline=pipeline)


@pytest.mark.parametrize("holder, begun", [(COMMAND, ["sink"]), (SERVICE, []), ("", [])])
def test_only_a_command_gives_the_lease_back(holder: str, begun: list[str]) -> None:
    sinks = Sinks(holder)
    assert sinks.end(lost())
    assert (sinks.asked, sinks.begun) == ([("sink", "shop/sink#2")], begun)


@pytest.mark.parametrize("error", [None, lost(""), SinkUnavailable("cut"), ValueError("a bug")])
def test_what_is_no_loss_to_somebody_is_not_looked_into(error: BaseException | None) -> None:
    assert not Sinks().end(error)


def test_an_end_is_looked_into_once_and_the_next_one_again() -> None:
    sinks, first = Sinks(COMMAND, COMMAND), lost()
    assert [sinks.end(first), sinks.end(first), sinks.end(lost())] == [True, False, True]
    assert sinks.begun == ["sink", "sink"]


def test_a_sink_that_is_away_is_asked_again_until_the_service_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displaced, "_PAUSE_SECONDS", 0.01)
    sinks = Sinks(SinkUnavailable("away"), SinkUnavailable("away"), COMMAND)
    assert sinks.end(lost())
    assert (len(sinks.asked), sinks.begun) == (3, ["sink"])
    sinks = Sinks(SinkUnavailable("away"))
    sinks.stopping.set()
    assert sinks.end(lost())
    assert not sinks.asked


def test_a_sink_that_refuses_us_is_left() -> None:
    sinks = Sinks(ConfigError("wrong password"))
    assert sinks.end(lost())
    assert not sinks.begun
