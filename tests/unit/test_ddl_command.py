"""How long `cdc ddl` waits for a command that nobody takes up."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.commands import ddl
from cdc.errors import SinkUnavailable
from cdc.model import TableName
from checkpoints.store import Command

T = TableName("shop", "t")


class Sink:
    """Lane 1 runs; what was asked waits with somebody else, who does not (yet)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, waits_with: str, tables: set[TableName]) -> None:
        argument = {"tables": [["shop", "t"]], "by": "me", "statements": ["ALTER TABLE t"], "request": "1"}
        self.command = Command(7, "ddl_apply", orjson.dumps(argument).decode(), "queued", "")
        self.live = {"sink"}
        self.tables = tables
        self.waits_with = waits_with
        self.slept = 0
        self.then: Callable[[], None] = lambda: None
        self.stores: Any = [self._store("sink"), self._store(waits_with)]
        self.asked = ddl._Asked(SimpleNamespace(name="sink"), "1", 7, {T: "ALTER TABLE t"})  # type: ignore[arg-type]
        monkeypatch.setattr(ddl, "_TAKE_UP_SECONDS_MAX", -1.0)
        monkeypatch.setattr(ddl, "_stores", lambda _sink, _pipeline: self.stores)
        monkeypatch.setattr(ddl, "_is_live", lambda store: store.pipeline in self.live)
        monkeypatch.setattr(ddl, "_say", lambda *_: int(self.command.state != "done"))
        monkeypatch.setattr(ddl, "commands_from", lambda *_: [self.command])
        monkeypatch.setattr(time, "sleep", self._sleep)

    def follow(self) -> int:
        return ddl._follow(None, self.stores, self.asked)  # type: ignore[arg-type]

    def end(self, state: str, message: str = "") -> None:
        self.command = Command(7, "ddl_apply", self.command.argument, state, message)

    def _store(self, pipeline: str) -> Any:
        has_it = pipeline == self.waits_with
        return SimpleNamespace(
            pipeline=pipeline,
            load_tables=lambda: dict.fromkeys(self.tables if has_it else ()),
            queued_commands=lambda: [self.command] if has_it and self.command.state == "queued" else [],
            set_command=lambda _id, state, message: self.end(state, message),
        )

    def _sleep(self, _seconds: float) -> None:
        self.slept += 1
        if self.slept == 5:
            self.then()
        assert self.slept < 10, "waits for ever"


@pytest.mark.parametrize("waits_with", ["sink#polled", "sink#beside1"])
def test_a_command_is_waited_for_while_who_has_its_table_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], waits_with: str
) -> None:
    """A poller may have failed beside its lane, a side be taken up once the source is back."""
    sink = Sink(monkeypatch, waits_with=waits_with, tables={T})
    sink.then = lambda: sink.end("done")
    assert sink.follow() == 0
    assert capsys.readouterr().err.count(f"{waits_with} does not run") == 1


def test_a_command_to_a_side_that_has_no_table_any_more_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(monkeypatch, waits_with="sink#beside1", tables=set())
    assert sink.follow() == 1
    assert (sink.command.state, "say it again" in sink.command.message) == ("failed", True)


def test_a_service_that_is_gone_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(monkeypatch, waits_with="sink#polled", tables={T})
    sink.then = sink.live.clear
    with pytest.raises(SinkUnavailable, match="the running service is gone"):
        sink.follow()
    assert sink.command.state == "queued", "the next one carries it out"
