"""The metadata on real sinks: checkpoint and lease in the sink's own transactions, tables and commands as they were."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from cdc.demo.servers import Server
from cdc.errors import LeaseLost, ResyncRequired
from cdc.gtid import MysqlGtidSet
from cdc.model import ColumnDefinition, FilePos, ServerIdentity, SourcePosition, TableDefinition, TableName, ValueKind
from cdc.pipeline.dealing import Dealing, LaneState, carry_out
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from checkpoints.checkpoint import CHECKPOINT_FORMAT, Checkpoint
from checkpoints.lanes import command_tables, divide_command, pipelines_in_use, retire
from checkpoints.rejects import KEPT_MAX, RejectStore
from checkpoints.store import InSinkStore, LeaseHeld, TableRecord
from tests.support.databases import fresh_database, fresh_pg_database
from tests.support.waiting import wait_until

PIPELINE = "shop/warehouse"
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
AnySink = PostgresSink | MysqlSink


def at(pos: int, gtid: str | None = None) -> SourcePosition:
    known = None if gtid is None else MysqlGtidSet.parse(gtid)
    return SourcePosition(ServerIdentity("mysql", UUID), FilePos.of("binlog.000007", pos), known)


class Place:
    """A database of its own on a sink, and as many instances on it as a test wants."""

    def __init__(self, server: Server, database: str, stack: contextlib.ExitStack) -> None:
        self.server = server
        self.database = database
        self.stack = stack

    def sink(self) -> AnySink:
        url = urlsplit(self.server.url)
        settings: dict[str, Any] = {
            "name": "warehouse",
            "host": url.hostname,
            "port": url.port,
            "user": unquote(url.username or ""),
            "password": unquote(url.password or ""),
            "database": self.database,
        }
        sink: AnySink
        if self.server.family == "postgresql":
            sink = PostgresSink(PostgresSettings(**settings))
        else:
            sink = MysqlSink(MysqlSettings(**settings))
        sink.open()
        self.stack.callback(sink.close)
        return sink

    def store(self, pipeline: str = PIPELINE) -> InSinkStore:
        store = InSinkStore(self.sink(), pipeline)
        store.create()
        return store

    def holder(self, name: str = "one", pipeline: str = PIPELINE, seconds: float = 60) -> InSinkStore:
        store = self.store(pipeline)
        take(store, name, seconds=seconds)
        return store


def take(store: InSinkStore, holder: str, *, seconds: float = 60, was_renewed: bool = False) -> None:
    session = store.sink.session()
    store.take_lease(holder=holder, sessions=(session, session), seconds=seconds, was_renewed=was_renewed)


def save(store: InSinkStore, checkpoint: Checkpoint) -> None:
    with store.sink.transaction() as tx:
        store.save(tx, checkpoint)
        tx.commit()


@pytest.fixture(params=["pg15", "mysql97", "mariadb1011"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server: Server = request.getfixturevalue(request.param)
    fresh = fresh_pg_database if server.family == "postgresql" else fresh_database
    with fresh(server) as database, contextlib.ExitStack() as stack:
        yield Place(server, database, stack)


# ---------------------------------------------------------------- the tables themselves


def test_looking_makes_nothing_and_making_twice_is_once(place: Place) -> None:
    store = InSinkStore(place.sink(), PIPELINE)
    assert not store.exists()
    assert not store.exists()
    store.create()
    assert store.exists()
    take(store, "one")
    save(store, Checkpoint(at(5), 1))
    place.store().create()
    assert store.load_checkpoint()[0] == Checkpoint(at(5), 1)


# ---------------------------------------------------------------- the checkpoint


def test_there_is_none_before_the_first(place: Place) -> None:
    store = place.store()
    assert store.load_checkpoint() == (None, None)
    assert store.last_sequence() == 0
    take(store, "one")
    assert store.load_checkpoint() == (None, None)
    assert store.last_sequence() == 0


def test_a_checkpoint_comes_back_with_its_time_by_the_sinks_clock(place: Place) -> None:
    store = place.holder()
    position = at(5217, f"{UUID}:1-5:7:mytag:1")
    save(store, Checkpoint(position, 1))
    found, committed_us = place.store().load_checkpoint()
    assert found == Checkpoint(position, 1)
    lease = store.read_lease()
    assert lease is not None
    assert committed_us is not None
    assert 0 <= lease.now_us - committed_us < 60_000_000


def test_what_is_rolled_back_was_never_saved(place: Place) -> None:
    store = place.holder()
    save(store, Checkpoint(at(5), 1))
    with store.sink.transaction() as tx:
        store.save(tx, Checkpoint(at(9), 2))
    assert store.load_checkpoint()[0] == Checkpoint(at(5), 1)


@pytest.mark.parametrize("sequence", [0, 1, 3, 100])
def test_only_the_next_sequence_is_saved(place: Place, sequence: int) -> None:
    """A transaction whose commit was uncertain and that runs again must not hit the row twice."""
    store = place.holder()
    save(store, Checkpoint(at(5), 1))
    with pytest.raises(LeaseLost):
        save(store, Checkpoint(at(9), sequence))
    save(store, Checkpoint(at(9), 2))


def test_a_second_holder_fences_the_first(place: Place) -> None:
    first = place.holder("one", seconds=0)
    save(first, Checkpoint(at(5), 1))
    second = place.store()
    second.sink.kill_session = lambda session: None  # a sink where we may not end the old one's sessions
    take(second, "two")
    assert second.epoch == first.epoch + 1
    with pytest.raises(LeaseLost):
        save(first, Checkpoint(at(9), 2))
    with pytest.raises(LeaseLost), first.sink.transaction() as tx:
        first.fence(tx)
    with pytest.raises(LeaseLost):
        first.renew_lease(first.epoch, seconds=60, status={})
    save(second, Checkpoint(at(7), 2))
    assert second.load_checkpoint()[0] == Checkpoint(at(7), 2)


def test_the_fence_holds_while_the_lease_does(place: Place) -> None:
    store = place.holder()
    with store.sink.transaction() as tx:
        store.fence(tx)
        store.fence(tx)  # an UPDATE that changes nothing still matches its row
        tx.commit()


def test_a_taker_waits_for_the_commit_that_is_under_way_and_reads_it(place: Place) -> None:
    """The old holder's last transaction is open when the lease is taken: it counts, or it never commits."""
    first = place.holder("one", seconds=0)
    second = place.store()
    second.sink.kill_session = lambda session: None
    save(first, Checkpoint(at(5), 1))
    taker = threading.Thread(target=lambda: take(second, "two"), daemon=True)
    with first.sink.transaction() as tx:
        first.save(tx, Checkpoint(at(9), 2))
        taker.start()
        taker.join(0.3)
        assert taker.is_alive(), "the epoch was raised past an open transaction"
        tx.commit()
    taker.join(20)
    assert second.load_checkpoint()[0] == Checkpoint(at(9), 2)


def test_reset_forgets_the_position_and_goes_on_counting(place: Place) -> None:
    store = place.holder()
    save(store, Checkpoint(at(5), 1))
    save(store, Checkpoint(at(6), 2))
    with store.sink.transaction() as tx:
        store.save_table(tx, replace(RECORD, state="parked"))
        store.reset(tx)
        tx.commit()
    assert store.load_checkpoint() == (None, None)
    assert store.last_sequence() == 2
    (record,) = store.load_tables().values()
    assert (record.state, record.loaded_from, record.ready_at, record.error) == ("pending", None, None, None)
    assert record.definition == RECORD.definition
    save(store, Checkpoint(at(7), 3))


def test_a_damaged_or_unknown_checkpoint_is_refused(place: Place) -> None:
    store = place.holder()
    save(store, Checkpoint(at(5), 1))
    table = store.sink.metadata_table("checkpoint")
    for change in (
        "position = REPLACE(position, '\"pos\":5', '\"pos\":6')",
        "position = LEFT(position, 20)",
        f"format = {CHECKPOINT_FORMAT + 1}",
    ):
        with store.sink.transaction() as tx:
            assert tx.execute_count(f"UPDATE {table} SET {change}") == 1
            with pytest.raises(ResyncRequired):
                _load_in(store, tx)


def _load_in(store: InSinkStore, tx: Any) -> None:
    """As `load_checkpoint`, seen from inside the transaction that damaged it."""
    seeing = InSinkStore(_Same(store.sink, tx), store.pipeline)
    seeing.load_checkpoint()


class _Same:
    """A sink whose transactions are the open one."""

    def __init__(self, sink: Any, tx: Any) -> None:
        self.sink = sink
        self.tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sink, name)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        yield self.tx


def test_lanes_of_which_one_was_taken_meanwhile_are_not_dealt_even_where_nothing_moves(place: Place) -> None:
    """What runs from there on has every lease at one moment, or nothing at all."""
    first, other = place.holder("one", PIPELINE, seconds=0), place.holder("one", f"{PIPELINE}#2")
    states = {1: LaneState(first), 2: LaneState(other)}
    other.sink = first.sink
    carry_out(first.sink, states, {}, Dealing(), retired=())
    second = place.store()
    second.sink.kill_session = lambda session: None
    take(second, "two")
    with pytest.raises(LeaseLost):
        carry_out(first.sink, states, {}, Dealing(), retired=())


def test_only_leases_that_were_not_let_go_make_a_pipeline_one_in_use(place: Place) -> None:
    store, gone = place.holder("one", f"{PIPELINE}#2"), place.holder("one", f"{PIPELINE}#3")
    gone.release_lease(gone.epoch, status={})
    assert pipelines_in_use(store.sink) == []
    assert pipelines_in_use(store.sink, or_leased=True) == [f"{PIPELINE}#2"]


def test_pipelines_do_not_see_each_other(place: Place) -> None:
    one, other = place.holder("one", "a/x"), place.holder("two", "a/X")
    save(one, Checkpoint(at(5), 1))
    assert other.load_checkpoint() == (None, None)
    with one.sink.transaction() as tx:
        one.save_table(tx, RECORD)
        tx.commit()
    assert other.load_tables() == {}
    one.add_command("snapshot", "[]")
    assert other.queued_commands() == []
    save(other, Checkpoint(at(6), 1))
    assert one.load_checkpoint()[0] == Checkpoint(at(5), 1)


# ---------------------------------------------------------------- the lease


def test_a_live_holder_is_named_to_the_next_one(place: Place) -> None:
    place.holder("host-a:123")
    second = place.store()
    with pytest.raises(LeaseHeld, match="host-a:123"):
        take(second, "host-b:4")
    with pytest.raises(LeaseHeld, match="host-a:123"):
        take(second, "host-b:4", was_renewed=True)
    assert second.epoch == 0
    lease = second.read_lease()
    assert lease is not None
    assert (lease.holder, lease.epoch, lease.is_live) == ("host-a:123", 1, True)


def test_a_holder_whose_session_is_gone_is_taken_over_at_once(place: Place) -> None:
    first = place.holder("one", seconds=3600)
    second = place.store()
    first.sink.close()

    def taken() -> bool:
        try:
            take(second, "two")
        except LeaseHeld:  # the server has not noticed yet
            return False
        return True

    wait_until(taken, 10, "the lease of the dead session")
    assert second.epoch == 2


def test_a_holder_that_was_seen_to_renew_is_alive_whatever_its_session_says(place: Place) -> None:
    """Behind a connection pool, the recorded session may be another one's by now."""
    first = place.holder("one", seconds=3600)
    second = place.store()
    first.sink.close()
    with pytest.raises(LeaseHeld):
        take(second, "two", was_renewed=True)


def test_a_lease_that_ran_out_is_free_and_its_sessions_are_ended(place: Place) -> None:
    first = place.holder("one", seconds=0)
    session = first.sink.session()
    second = place.store()
    assert second.sink.is_session_alive(session)
    take(second, "two")
    wait_until(lambda: second.sink.is_session_alive(session) is False, 10, "the old session's end")


def test_the_holder_itself_may_take_it_again_with_a_higher_epoch(place: Place) -> None:
    store = place.holder("one")
    take(store, "one")
    assert store.epoch == 2
    save(store, Checkpoint(at(5), 1))


def test_a_released_lease_is_free_and_keeps_its_last_status(place: Place) -> None:
    first = place.holder("one")
    first.renew_lease(first.epoch, seconds=60, status={"state": "streaming", "text": "😀'\"\\"})
    first.release_lease(first.epoch, status={"state": "stopped", "text": "😀'\"\\"})
    second = place.store()
    lease = second.read_lease()
    assert lease is not None
    assert (lease.is_live, lease.status) == (False, {"state": "stopped", "text": "😀'\"\\"})
    take(second, "two")


def test_renewing_moves_the_expiry_by_the_sinks_clock(place: Place) -> None:
    store = place.holder("one", seconds=1)
    before = store.read_lease()
    store.renew_lease(store.epoch, seconds=100, status={})
    after = store.read_lease()
    assert before is not None
    assert after is not None
    assert 90_000_000 < after.expires_us - after.now_us <= 100_000_000
    assert after.expires_us > before.expires_us


def test_only_the_holders_epoch_can_release(place: Place) -> None:
    store = place.holder("one")
    store.release_lease(store.epoch - 1, status={})
    lease = store.read_lease()
    assert lease is not None
    assert lease.is_live


# ---------------------------------------------------------------- the tables' states

DEFINITION = TableDefinition(
    TableName("shop", "t"),
    (ColumnDefinition("id", ValueKind.INTEGER, "int", length=32, is_nullable=False, comment="it's \\ 😀"),),
    ("id",),
)
RECORD = TableRecord(
    source=TableName("shop", "t"),
    target="raw.t",
    state="snapshotting",
    definition=DEFINITION,
    loaded_from=at(5, f"{UUID}:1-5"),
    ready_at=FilePos.of("binlog.000009", 2**40),
    ready_server=ServerIdentity("mysql", UUID),
    rows_loaded=2**40,
    last_change_us=1_790_000_000_000_001,
    policy_changes={"col'umn": {"nul_bytes: replace": 3}},
    error={"class": "SinkRefused", "message": 'it\'s "bad" \\ 😀', "hint": "", "position": None},
)


@pytest.mark.parametrize(
    "name",
    [
        TableName("shop", "t"),
        TableName("a.b", "c"),
        TableName("a", "b.c"),
        TableName('q"uo`te', "it's"),
        TableName("back\\slash", '", "'),
        TableName("表", "naïve %s"),
        TableName("SHOP", "T"),
        TableName("x" * 64, "表" * 64),
    ],
    ids=str,
)
def test_a_tables_record_comes_back_as_it_was(place: Place, name: TableName) -> None:
    store = place.holder()
    record = replace(RECORD, source=name)
    plain = TableRecord(source=TableName("shop", "other"), target="raw.other", state="pending")
    with store.sink.transaction() as tx:
        store.save_table(tx, record)
        store.save_table(tx, plain)
        tx.commit()
    found = store.load_tables()
    assert found == {name: record, plain.source: plain}
    assert list(found) == sorted(found)
    ready_at = found[name].ready_at
    assert ready_at is not None
    assert ready_at.file == "binlog.000009"
    changed = replace(record, state="ready", ready_at=None, ready_server=None, loaded_from=None, error=None)
    with store.sink.transaction() as tx:
        store.save_table(tx, changed)
        tx.commit()
    assert store.load_tables()[name] == changed
    with store.sink.transaction() as tx:
        store.touch_table(tx, name, last_change_us=7, policy_changes=None)
        tx.commit()
    assert store.load_tables()[name] == replace(changed, last_change_us=7)
    with store.sink.transaction() as tx:
        store.touch_table(tx, name, last_change_us=8, policy_changes={"c": {"p": 1}})
        tx.commit()
    assert store.load_tables()[name] == replace(changed, last_change_us=8, policy_changes={"c": {"p": 1}})


def test_names_that_look_alike_are_tables_of_their_own(place: Place) -> None:
    """`a.b`.`c` and `a`.`b.c` are both written a.b.c; t and T differ on a source that tells cases apart."""
    store = place.holder()
    names = [
        TableName("a.b", "c"),
        TableName("a", "b.c"),
        TableName("s", "t"),
        TableName("s", "T"),
        TableName("s", "t "),
    ]
    with store.sink.transaction() as tx:
        for number, name in enumerate(names):
            store.save_table(tx, TableRecord(source=name, target="x", state="ready", rows_loaded=number))
        tx.commit()
    assert {name: record.rows_loaded for name, record in store.load_tables().items()} == {
        name: number for number, name in enumerate(names)
    }


def test_a_record_in_a_transaction_without_a_commit_is_not_there(place: Place) -> None:
    store = place.holder()
    with store.sink.transaction() as tx:
        store.save_table(tx, RECORD)
    assert store.load_tables() == {}


# ---------------------------------------------------------------- commands


def test_commands_are_queued_in_order_until_they_are_done(place: Place) -> None:
    store = place.holder()
    argument = '[["shop", "it\'s \\"t\\" 😀"]]'
    first, second, third = (store.add_command("snapshot", argument) for _ in range(3))
    assert first < second < third
    assert [command.id for command in store.queued_commands()] == [first, second, third]
    store.set_command(first, "running", "loading")
    store.set_command(second, "done", "all rows")
    assert [(c.id, c.state) for c in store.queued_commands()] == [(first, "running"), (third, "queued")]
    found = store.read_command(second)
    assert found is not None
    assert (found.name, found.argument, found.state, found.message) == ("snapshot", argument, "done", "all rows")
    assert store.read_command(10**9) is None


def test_who_asks_has_the_id_of_his_own_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one's, of the same name, comes and is committed before his is."""
    mine, other = place.store(), place.store()
    put, theirs = mine.put_command, []

    def put_first(*said: Any) -> int:
        found = put(*said)
        theirs.append(other.add_command("snapshot", "[2]"))
        return found

    monkeypatch.setattr(mine, "put_command", put_first)
    own = mine.add_command("snapshot", "[1]")
    found = {command.id: command.argument for command in mine.queued_commands()}
    assert found == {own: "[1]", theirs[0]: "[2]"}


def test_commands_are_listed_also_of_a_pipeline_that_is_not_run_any_more(place: Place) -> None:
    first, gone = place.holder(), place.holder("one", f"{PIPELINE}#2")
    save(gone, Checkpoint(at(5), 1))
    ids = [store.add_command("ddl_skip", "{}") for store in (gone, first)]
    first.add_command("snapshot", "[]")
    with gone.sink.transaction() as tx:
        retire(gone, tx)
        tx.commit()
    assert pipelines_in_use(first.sink) == []
    listed = first.commands_named(("ddl_apply", "ddl_skip"))
    assert [(name, command.id, command.name) for name, command, _ in listed] == [
        (gone.pipeline, ids[0], "ddl_skip"),
        (first.pipeline, ids[1], "ddl_skip"),
    ]
    now = first.read_lease()
    assert now is not None
    assert all(0 <= now.now_us - requested_us < 60_000_000 for *_, requested_us in listed)


def test_a_command_is_divided_among_the_pipelines_of_its_tables(place: Place) -> None:
    side, first, second = place.holder(), place.store("shop/first"), place.store("shop/second")
    a, b = TableName("shop", "a"), TableName("shop", "it's b")
    asked = side.add_command("ddl_skip", '{"tables":[["shop","a"],["shop","it\'s b"]],"statements":["one","two"]}')
    side.set_command(asked, "running")
    [command] = side.queued_commands()
    with side.sink.transaction() as tx:
        divide_command(tx, command, [(InSinkStore(side.sink, first.pipeline), [a])])
    assert side.queued_commands() == [command], "not without a commit"
    with side.sink.transaction() as tx:
        stores = [InSinkStore(side.sink, store.pipeline) for store in (first, second)]
        divide_command(tx, command, [(stores[0], [a]), (stores[1], [b])])
        tx.commit()
    assert side.queued_commands() == []
    [one], [two] = first.queued_commands(), second.queued_commands()
    assert (one.id, one.state, command_tables(one)) == (asked, "running", [a])
    assert (two.name, two.state, command_tables(two)) == ("ddl_skip", "running", [b])


@pytest.mark.every_server
def test_the_newest_refused_rows_of_a_table_are_kept_and_no_more(place: Place) -> None:
    store = place.store()
    noisy, quiet = TableName("shop", "noisy"), TableName("shop", "quiet")
    other = place.store("other/sink")
    with store.sink.transaction() as tx:
        RejectStore(store).put(tx, quiet, {"message": "quiet"})
        RejectStore(other).put(tx, noisy, {"message": "another deployment's"})
        for number in range(KEPT_MAX + 5):
            RejectStore(store).put(tx, noisy, {"message": number})
        tx.commit()
    with store.sink.transaction() as tx:
        rows = tx.execute(f"SELECT pipeline, error FROM {store.sink.metadata_table('rejects')} ORDER BY id", ())
    kept = [(row[0], json.loads(row[1])["message"]) for row in rows]
    ours = RejectStore(store).pipeline
    assert kept[:2] == [(ours, "quiet"), (RejectStore(other).pipeline, "another deployment's")]
    assert kept[2:] == [(ours, number) for number in range(5, KEPT_MAX + 5)]
