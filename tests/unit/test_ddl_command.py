"""How long `cdc ddl` waits for a command that nobody takes up, and what it says of each table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cdc.commands import ddl
from cdc.errors import SinkUnavailable
from cdc.model import TableName
from checkpoints.store import Command, TableRecord

T, U = TableName("shop", "t"), TableName("shop", "u")


class Sink:
    """Lane 1 runs; what was asked waits with somebody else, who does not (yet)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, waits_with: str, tables: set[TableName]) -> None:
        argument = {"tables": [["shop", "t"]], "by": "me", "statements": ["ALTER TABLE t"], "request": "1"}
        self.command = Command(7, "ddl_apply", orjson.dumps(argument).decode(), "queued", "")
        self.live = {"sink"}
        self.tables = tables
        self.waits_with = waits_with
        self.now = 0.0
        self.reads: list[str] = []
        self.then: Callable[[], None] = lambda: None
        self.stores: Any = [self._store("sink"), self._store(waits_with)]
        self.asked = ddl._Asked(SimpleNamespace(name="sink"), "1", 7, {T: "ALTER TABLE t"})  # type: ignore[arg-type]
        monkeypatch.setattr(ddl, "_stores", lambda _sink, _pipeline: self.stores)
        monkeypatch.setattr(ddl, "_is_live", lambda store: store.pipeline in self.live)
        monkeypatch.setattr(ddl, "_say", lambda *_: int(self.command.state != "done"))
        monkeypatch.setattr(ddl, "commands_from", lambda *_: [self.command])
        monkeypatch.setattr(ddl, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))

    def follow(self) -> int:
        return ddl._follow(None, self.stores, self.asked)  # type: ignore[arg-type]

    def end(self, state: str, message: str = "") -> None:
        self.command = Command(7, "ddl_apply", self.command.argument, state, message)

    def _store(self, pipeline: str) -> Any:
        has_it = pipeline == self.waits_with

        def load_tables() -> dict[TableName, None]:
            self.reads.append(pipeline)
            return dict.fromkeys(self.tables if has_it else ())

        return SimpleNamespace(
            pipeline=pipeline,
            load_tables=load_tables,
            queued_commands=lambda: [self.command] if has_it and self.command.state == "queued" else [],
            set_command=lambda _id, state, message: self.end(state, message),
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 120.0:
            self.then()
        assert self.now < 180.0, "waits for ever"


@pytest.mark.parametrize("waits_with", ["sink#polled", "sink#beside1"])
def test_a_command_is_waited_for_while_who_has_its_table_does_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], waits_with: str
) -> None:
    """A poller may have failed beside its lane, a side be taken up once the source is back."""
    sink = Sink(monkeypatch, waits_with=waits_with, tables={T})
    sink.then = lambda: sink.end("done")
    assert sink.follow() == 0
    assert capsys.readouterr().err.count(f"{waits_with} does not run") == 1


def test_who_does_not_take_a_command_up_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables come with their definitions: only those of who has the command are read, for as long as it takes."""
    sink = Sink(monkeypatch, waits_with="sink#polled", tables={T})
    sink.then = lambda: sink.end("done")
    assert sink.follow() == 0
    assert set(sink.reads) == {"sink#polled"}
    assert 10 <= len(sink.reads) <= 13, "of the minute behind the first one"


def test_a_command_to_a_side_that_has_no_table_any_more_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(monkeypatch, waits_with="sink#beside1", tables=set())
    assert sink.follow() == 1
    assert sink.command.state == "failed"
    assert sink.command.message == "shop.t went to another lane before the command was taken up; say it again"


def test_a_command_that_goes_to_a_lane_while_it_is_looked_at_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(monkeypatch, waits_with="sink#beside1", tables=set())

    def load_tables() -> dict[TableName, None]:
        sink.end("done")  # by the lane, to which tables and command went meanwhile
        return {}

    sink.stores[1].load_tables = load_tables
    assert sink.follow() == 0


def test_a_service_that_is_gone_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(monkeypatch, waits_with="sink#polled", tables={T})
    sink.then = sink.live.clear
    with pytest.raises(SinkUnavailable, match="the running service is gone"):
        sink.follow()
    assert sink.command.state == "queued", "the next one carries it out"


# ---------------------------------------------------------------- what is said


ASKED: Mapping[TableName, str] = {T: "ALTER TABLE t ADD COLUMN c INT", U: "ALTER TABLE u DROP COLUMN a"}


def _waiting_at(table: TableName, statement: str) -> TableRecord:
    said = {"text": statement, "reason": "ddl: approve", "end": None}
    error = {"class": "StatementHeld", "message": f"waits at {statement}", "statement": said}
    return TableRecord(source=table, target=table.table, state="parked", error=error)


def _said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, *records: TableRecord
) -> tuple[int, str, str]:
    """What is said of one command about both tables: the exit code, what is printed, and what as an error."""
    argument = {"tables": [[name.database, name.table] for name in ASKED], "request": "1"}
    command = Command(7, "ddl_apply", orjson.dumps(argument).decode(), state, "why it failed")
    tables = {record.source: record for record in records}
    store = SimpleNamespace(exists=lambda: True, load_tables=lambda: tables)
    monkeypatch.setattr(ddl, "_stores", lambda *_: [store])
    monkeypatch.setattr(ddl, "commands_from", lambda *_: [command])
    asked = ddl._Asked(SimpleNamespace(name="pg"), "1", 7, ASKED)  # type: ignore[arg-type]
    code = ddl._say(None, "shop/pg", asked)  # type: ignore[arg-type]
    return code, *capsys.readouterr()


def test_what_has_become_of_a_table_is_said_where_another_one_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = TableRecord(source=T, target="t", state="pending")
    code, out, err = _said(monkeypatch, capsys, "failed", loads, _waiting_at(U, ASKED[U]))
    assert (code, err) == (1, "cdc: pg: why it failed\n")
    assert out == f"pg: shop.t is pending, loaded again\n  {ASKED[T]}\n", "the other one waits as before"


def test_a_table_that_waits_for_something_else_by_now_is_said_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = TableRecord(source=T, target="t", state="ready")
    code, out, err = _said(monkeypatch, capsys, "failed", ready, _waiting_at(U, "TRUNCATE TABLE u"))
    assert (code, err) == (1, "cdc: pg: why it failed\ncdc: pg: waits at TRUNCATE TABLE u\n")
    assert "pg: shop.t is ready\n" in out
    assert "pg: shop.u is parked\n" in out


def test_nothing_is_said_to_have_failed_where_nothing_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = _said(monkeypatch, capsys, "done", TableRecord(source=T, target="t", state="ready"))
    assert (code, err) == (0, "")
    assert "pg: shop.t is ready\n" in out
    assert "pg: shop.u is gone\n" in out


# ---------------------------------------------------------------- what was decided


def test_decisions_are_listed_of_all_that_the_sink_ever_had_and_of_no_other_sink() -> None:
    """Whether these run now, and have tables, is not asked."""
    argument = orjson.dumps({"tables": [["shop", "t"]], "by": "me", "statements": ["TRUNCATE TABLE t"]}).decode()
    own = ["shop/pg", "shop/pg#3", "shop/pg~2", "shop/pg#polled"]
    others = ["shop/pg2", "shop/my", "shop/my#3", "other/pg", "other/pg~2", "shop/pg2#polled"]
    given = [(name, Command(n, "ddl_skip", argument, "done", name), n) for n, name in enumerate([*others, *own])]
    store: Any = SimpleNamespace(pipeline="shop/pg", commands_named=lambda _names: given)
    assert [row["message"] for row in ddl._settled(store)] == own
