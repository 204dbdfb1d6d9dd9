"""Sinks whose lease was taken: which of them are begun with anew, and which are left."""

from __future__ import annotations

import threading

import pytest
import structlog

from cdc.errors import ConfigError, LeaseLost, SinkUnavailable
from cdc.pipeline import lease
from cdc.pipeline.displaced import DisplacedSinks
from tests.support.waiting import wait_until
from tests.unit.pipeline.clocks import FakeClock

COMMAND, SERVICE, SILENCE = "cdc snapshot elsewhere:1:2", "elsewhere:1:2", "nothing at all"


class Connection:
    """To a sink, by one answer after the other: a holder, or the error that the question meets."""

    def __init__(self, sinks: Sinks, name: str) -> None:
        self._sinks = sinks
        self.name = name
        self.hung_up = threading.Event()

    def open(self) -> None:
        self._sinks.opened += 1

    def close(self) -> None:
        self._sinks.opened -= 1

    def hang_up(self) -> None:
        self.hung_up.set()

    def holder(self, pipeline: str) -> str:
        self._sinks.asked.append((self.name, pipeline))
        answer = self._sinks.answers.pop(0)
        if answer == SILENCE:
            assert self.hung_up.wait(10)
            raise SinkUnavailable("hung up")
        if isinstance(answer, threading.Event):
            assert answer.wait(10)
            return COMMAND
        if isinstance(answer, Exception):
            raise answer
        return answer


class Sinks:
    def __init__(self, *answers: str | Exception | threading.Event) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.begun: list[str] = []
        self.opened = 0
        self.stopping = threading.Event()
        self.clock = FakeClock()
        self.displaced = DisplacedSinks(
            make_sink=lambda name: Connection(self, name),  # type: ignore[arg-type,return-value]  # what is used of one
            begin_anew=self.begun.append,
            is_stopping=self.stopping,
            clock=self.clock,
            log=structlog.stdlib.get_logger(),
            holder=Connection.holder,  # type: ignore[arg-type]
        )

    def end(self, error: BaseException | None) -> bool:
        """The pipelines have ended; was that looked into?"""
        is_open = self.displaced.look_into("sink", error)
        wait_until(lambda: not self.displaced.are_open(), 10, "the answer")
        assert self.opened == 0
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


def test_a_sink_that_is_away_is_asked_again_until_the_service_stops() -> None:
    sinks = Sinks(SinkUnavailable("away"), SinkUnavailable("away"), COMMAND)
    assert sinks.end(lost())
    assert (len(sinks.asked), sinks.begun) == (3, ["sink"])
    sinks = Sinks(SinkUnavailable("away"))
    sinks.stopping.set()
    assert sinks.end(lost())
    assert not sinks.asked


def test_an_answer_that_comes_when_the_service_stops_begins_nothing() -> None:
    answer = threading.Event()
    sinks = Sinks(answer)
    assert sinks.displaced.look_into("sink", lost())
    wait_until(lambda: sinks.asked, 10, "the question")
    sinks.stopping.set()
    answer.set()
    wait_until(lambda: not sinks.displaced.are_open(), 10, "the end")
    assert not sinks.begun


def test_who_leaves_the_question_without_an_answer_is_hung_up_on_and_asked_again() -> None:
    sinks = Sinks(SILENCE, COMMAND)
    assert sinks.displaced.look_into("sink", lost())
    wait_until(lambda: sinks.asked, 10, "the question")
    sinks.displaced.hang_up_on_silence()
    sinks.clock.seconds += lease.SILENT_SECONDS + 1
    assert sinks.displaced.are_open()
    sinks.displaced.hang_up_on_silence()
    wait_until(lambda: not sinks.displaced.are_open(), 10, "the answer")
    assert (len(sinks.asked), sinks.begun) == (2, ["sink"])


@pytest.mark.parametrize("error", [ConfigError("wrong password"), ValueError("a bug")])
def test_a_sink_that_cannot_be_asked_is_left_and_that_is_said(error: Exception) -> None:
    with structlog.testing.capture_logs() as lines:
        sinks = Sinks(error)
        assert sinks.end(lost())
    assert not sinks.begun
    assert [(line["event"], line["message"]) for line in lines] == [("lease_not_looked_into", str(error))]
