"""`cdc skip` and `cdc checkpoint` are about every lane of a sink or about none, whoever comes while they ask."""

from __future__ import annotations

import contextlib
import functools
import getpass
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdc.app import make_sink
from cdc.commands.checkpoint import reset
from cdc.commands.set_checkpoint import set_checkpoint
from cdc.commands.skip import skip
from cdc.config import Config, load_config
from cdc.demo.servers import Server
from cdc.errors import ConfigError, LeaseLost
from cdc.model import FilePos, SourcePosition, TableName
from checkpoints.checkpoint import Checkpoint
from checkpoints.store import InSinkStore
from tests.integration.test_history import place_of
from tests.integration.test_skip import write
from tests.integration.test_standby import held
from tests.support.deployment import Deployment, deployment

Command = Callable[[Config], int]


@contextlib.contextmanager
def _store(made: Deployment, lane: str = "") -> Iterator[InSinkStore]:
    (settings,) = load_config(made.write_config(), environ={}).sinks
    with contextlib.closing(make_sink(settings)) as sink:
        sink.open()
        yield InSinkStore(sink, f"{made.config['name']}/{settings.name}{lane}")


def _first_lane(made: Deployment) -> tuple[Any, ...]:
    """All that the commands change of it; and nobody holds it."""
    with _store(made) as store:
        lease = store.read_lease()
        assert lease is not None
        assert not lease.is_live
        with store.sink.transaction() as tx:
            skips = tx.execute(f"SELECT count(*) FROM {store.sink.metadata_table('skips')}", ())
        return store.load_checkpoint(), store.load_tables(), store.histories(), int(skips[0][0])


def _position(made: Deployment, lane: str) -> SourcePosition:
    with _store(made, lane) as store:
        checkpoint, _ = store.load_checkpoint()
        assert checkpoint is not None
        return checkpoint.position


@contextlib.contextmanager
def _moved(made: Deployment) -> Iterator[None]:
    """An instance has come, has moved the second lane's checkpoint, and is gone."""

    def move(to: SourcePosition) -> None:
        with _store(made, "#2") as store:
            store.take_lease(holder="elsewhere:1:2", sessions=(store.sink.session(),), seconds=60, was_renewed=False)
            checkpoint, _ = store.load_checkpoint()
            assert checkpoint is not None
            with store.sink.transaction() as tx:
                store.save(tx, checkpoint.next(to))
                tx.commit()
            store.release_lease(store.epoch, status={})

    before = _position(made, "#2")
    assert before.file is not None
    move(replace(before, file=FilePos.of(before.file.file, before.file.pos + 1)))
    yield
    move(before)


def _skips(made: Deployment) -> tuple[Command, int]:
    """The command, and how often it asks: once of each lane."""
    place = write(made, "INSERT INTO t VALUES (2)")
    return lambda config: skip(config, place, only_sinks=[], is_confirmed=False), 2


def _sets(made: Deployment) -> tuple[Command, int]:
    place = place_of(made.source)
    for table in ("t", "u"):
        made.source.execute(f"INSERT INTO {table} VALUES (2)", database=made.source_database)
    made.catch_up()
    return lambda config: set_checkpoint(
        config, place, only_sinks=[], schema=None, is_restored=False, reloads=False, is_confirmed=False
    ), 1


@pytest.mark.parametrize("sink", ["pg15", "mysql97"])
@pytest.mark.parametrize("command", [_skips, _sets], ids=["skip", "checkpoint set"])
def test_a_command_that_finds_one_lane_taken_changes_none(
    tmp_path: Path,
    mariadb1011: Server,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    sink: str,
    command: Callable[[Deployment], tuple[Command, int]],
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    with deployment(tmp_path, mariadb1011, sink=request.getfixturevalue(sink)) as made:
        made.config["sinks"][0]["lanes"] = 2
        for table in ("t", "u"):
            made.source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY)", database=made.source_database)
            made.source.execute(f"INSERT INTO {table} VALUES (1)", database=made.source_database)
        made.catch_up()
        carry_out, question_count = command(made)
        config = load_config(made.write_config(), environ={})
        name = "skip" if command is _skips else "checkpoint set"
        same = (
            f"cdc {name} by {getpass.getuser()}@{socket.gethostname()}"  # by somebody of that name, it is another one
        )
        before = _first_lane(made)
        for meanwhile, refusal in (
            (held(made, "sink", "elsewhere:1:2", lane="#2"), "#2 is being run by elsewhere:1:2"),
            (held(made, "sink", same, lane="#2"), f"#2 is being run by {same}"),
            (_moved(made), "#2 has moved from"),
        ):
            with contextlib.ExitStack() as entered:
                _answer(monkeypatch, question_count, functools.partial(entered.enter_context, meanwhile))
                with pytest.raises(ConfigError, match=refusal):
                    carry_out(config)
            assert _first_lane(made) == before
        _answer(monkeypatch, question_count, lambda: None)
        assert carry_out(config) == 0
        assert _position(made, "") == _position(made, "#2") != before[0][0].position
        made.catch_up()
        made.assert_equal("t", "u")


def test_a_checkpoint_is_not_set_back_over_what_was_loaded_or_is_being_loaded_meanwhile(
    tmp_path: Path, mariadb1011: Server, pg15: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither moves the checkpoint of a lane."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    with deployment(tmp_path, mariadb1011, sink=pg15) as made:
        for table in ("t", "u"):
            made.source.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY)", database=made.source_database)
        made.catch_up()
        carry_out, question_count = _sets(made)
        config = load_config(made.write_config(), environ={})
        before = _position(made, "")
        with _side(made) as begin:
            _answer(monkeypatch, question_count, begin)
            with pytest.raises(ConfigError, match="are being loaded beside the stream of sink sink"):
                carry_out(config)
        _answer(monkeypatch, question_count, lambda: _reload(made, "t"))
        with pytest.raises(ConfigError, match=rf"{made.source_database}\.t of .*: loaded or changed meanwhile"):
            carry_out(config)
        assert _position(made, "") == before
        made.catch_up()
        made.assert_equal("t", "u")


@contextlib.contextmanager
def _side(made: Deployment) -> Iterator[Callable[[], None]]:
    """What begins a load beside the lane; it is forgotten in the end."""
    with _store(made, "~1") as side:

        def begin() -> None:
            side.take_lease(holder="elsewhere:1:2", sessions=("gone",), seconds=0, was_renewed=False)
            with side.sink.transaction() as tx:
                side.save(tx, Checkpoint(_position(made, ""), 1))
                tx.commit()

        yield begin
        with side.sink.transaction() as tx:
            side.reset(tx)
            tx.commit()


def _reload(made: Deployment, table: str) -> None:
    """As an instance does that has come, and has begun with it."""
    with _store(made) as store:
        record = store.load_tables()[TableName(made.source_database, table)]
        with store.sink.transaction() as tx:
            store.save_table(tx, replace(record, state="pending"))
            tx.commit()


def test_who_was_cut_off_does_not_go_on_over_a_reset(tmp_path: Path, mariadb1011: Server, pg15: Server) -> None:
    """Its next commit would bring back the checkpoint of tables that are to be loaded again."""
    with deployment(tmp_path, mariadb1011, sink=pg15) as made:
        made.config["sinks"][0]["lanes"] = 2
        made.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        made.catch_up()
        config = load_config(made.write_config(), environ={})
        with held(made, "sink", "elsewhere:1:2", lane="#2"):
            before = _first_lane(made)
            with pytest.raises(ConfigError, match="#2 is being run by elsewhere:1:2"):
                reset(config, only_sinks=[], is_confirmed=True)
            assert _first_lane(made) == before
        with _store(made) as store:
            store.take_lease(holder="elsewhere:1:2", sessions=("gone",), seconds=0, was_renewed=False)
            checkpoint, _ = store.load_checkpoint()
            assert checkpoint is not None
            assert reset(config, only_sinks=[], is_confirmed=True) == 0
            with pytest.raises(LeaseLost), store.sink.transaction() as tx:
                store.save(tx, checkpoint.next(checkpoint.position))
            assert store.load_checkpoint() == (None, None)
        with _store(made, "~1") as side:  # who loads a table beside the stream
            side.take_lease(holder="elsewhere:1:2", sessions=("gone",), seconds=0, was_renewed=False)
            with side.sink.transaction() as tx:
                side.save(tx, Checkpoint(checkpoint.position, 1))
                tx.commit()
        with held(made, "sink", "elsewhere:1:2", lane="~1"):
            before = _first_lane(made)
            with pytest.raises(ConfigError, match="~1 is being run by elsewhere:1:2"):
                reset(config, only_sinks=[], is_confirmed=True)
            assert _first_lane(made) == before
        made.catch_up()
        made.assert_equal("t")


def _answer(monkeypatch: pytest.MonkeyPatch, question_count: int, then: Callable[[], object]) -> None:
    """Yes to each question, and `then` at the last one."""
    asked = []

    def confirm(question: str, *, abort: bool) -> None:
        assert abort
        asked.append(question)
        if len(asked) == question_count:
            then()

    monkeypatch.setattr("typer.confirm", confirm)
