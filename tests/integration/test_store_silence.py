"""What is a sign of life of a holder, and what is not: silence, a COMMIT that came late or never, a new session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import LeaseLost, SinkUnavailable
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from checkpoints.store import InSinkStore, LeaseHeld
from tests.support.waiting import wait_until

PIPELINE = "shop/warehouse"
Make = Callable[[], InSinkStore]


@pytest.fixture(params=["pg15", "mariadb1011", "mysql97"])
def make_store(
    request: pytest.FixtureRequest, database: Callable[[Server], str]
) -> Iterator[Callable[[], InSinkStore]]:
    server: Server = request.getfixturevalue(request.param)
    name = database(server)
    with ExitStack() as stack:

        def make() -> InSinkStore:
            if server.family == "postgresql":
                sink: Any = PostgresSink(PostgresSettings("sink", server.host, server.port, server.user, name))
            else:
                sink = MysqlSink(MysqlSettings("sink", server.host, server.port, server.user, name))
            sink.open()
            stack.callback(sink.close)
            return InSinkStore(sink, PIPELINE)

        yield make


def _take(store: InSinkStore, holder: str) -> None:
    store.take_lease(holder=holder, sessions=(), seconds=60, was_renewed=False)


def test_the_locks_of_a_session_that_stands_still_end_with_its_silence(
    make_store: Callable[[], InSinkStore],
) -> None:
    """A session that was opened after the lease was taken is not named in it: nobody else could end it."""
    sleeper, other = make_store(), make_store()
    sleeper.create()
    _take(sleeper, "sleeper")
    sleeper.sink.end_when_silent(1)
    with sleeper.sink.transaction() as tx:
        sleeper.fence(tx)
        with other.sink.transaction() as waiting:
            other.epoch = sleeper.epoch
            other.fence(waiting)  # waits for the row until the server has ended the other session
            waiting.commit()
        with pytest.raises(SinkUnavailable):
            tx.commit()


def test_the_number_of_a_lease_that_was_never_committed_neither_renews_nor_releases_the_next_ones(
    make_store: Callable[[], InSinkStore],
) -> None:
    believer, holder = make_store(), make_store()
    believer.create()
    _take(believer, "believer")
    believer.release_lease(believer.epoch, status={})
    believer.epoch += 1  # its COMMIT never came
    _take(holder, "holder")
    assert holder.epoch == believer.epoch
    with pytest.raises(LeaseLost):
        believer.renew_lease(believer.epoch, seconds=1000, status={"state": "mine"})
    believer.release_lease(believer.epoch, status={"state": "mine"})
    lease = holder.read_lease()
    assert lease is not None
    assert (lease.holder, lease.is_live, dict(lease.status)) == ("holder", True, {})


def test_the_holder_renews_by_the_number_of_a_commit_that_never_came(make_store: Callable[[], InSinkStore]) -> None:
    store = make_store()
    store.create()
    _take(store, "holder")
    store.epoch += 1
    store.renew_lease(store.epoch, seconds=1000, status={"state": "streaming"})
    lease = store.read_lease()
    assert lease is not None
    assert dict(lease.status) == {"state": "streaming"}


def test_a_session_that_was_named_by_a_commit_without_an_answer_is_named_no_more(make_store: Make) -> None:
    """The keeper knows the session only that it has lost: its renewal by the next one came through all the same."""
    store = _holder(make_store, "one")
    before = _sessions(store)
    first, second = make_store().sink, make_store().sink
    store.renew_lease(store.epoch, seconds=60, status={}, session=first.session())
    first.close()
    store.renew_lease(store.epoch, seconds=60, status={}, session=second.session())
    assert _sessions(store) == [second.session(), *before[1:]]
    with pytest.raises(LeaseHeld):
        _take(make_store(), "two")


def _holder(make_store: Make, holder: str) -> InSinkStore:
    store = make_store()
    store.create()
    _take(store, holder)
    return store


def _sessions(store: InSinkStore) -> list[str]:
    lease = store.read_lease()
    assert lease is not None
    return lease.sessions


def _seemingly_dead(make_store: Make) -> tuple[InSinkStore, InSinkStore, str]:
    """A holder, who comes next, and the session that the lease names, which is gone."""
    first, taker, keeper = make_store(), make_store(), make_store().sink
    first.create()
    gone = keeper.session()
    keeper.close()
    wait_until(lambda: taker.sink.is_session_alive(gone) is False, 10, "the old session's end")
    first.take_lease(holder="one", sessions=(gone,), seconds=60, was_renewed=False)
    return first, taker, gone


def test_who_comes_back_between_the_look_at_the_lease_and_its_taking_keeps_it(make_store: Make) -> None:
    first, taker, gone = _seemingly_dead(make_store)
    look, again = taker.sink.is_session_alive, first.sink.session()

    def look_and_see_it_renewed(session: str) -> bool | None:
        is_alive: bool | None = look(session)
        if session == gone:
            first.renew_lease(first.epoch, seconds=60, status={}, session=again)
        return is_alive

    taker.sink.is_session_alive = look_and_see_it_renewed
    with pytest.raises(LeaseHeld):
        _take(taker, "two")
    lease = taker.read_lease()
    assert lease is not None
    assert (lease.holder, lease.epoch, lease.sessions) == ("one", first.epoch, [again])
    with first.sink.transaction() as tx:
        first.fence(tx)


def test_the_last_renewal_of_a_dead_one_that_comes_late_does_not_keep_the_lease(make_store: Make) -> None:
    """Its COMMIT was on its way when it was killed; the next one waited for its lock."""
    first, taker, _ = _seemingly_dead(make_store)
    takes = threading.Thread(target=_take, args=(taker, "two"), daemon=True)
    with first.sink.transaction() as tx:
        tx.execute_count(f"UPDATE {first.sink.metadata_table('lease')} SET expires_us = expires_us + 1")
        takes.start()
        takes.join(0.5)
        assert takes.is_alive()
        tx.commit()
    takes.join(20)
    assert taker.epoch == first.epoch + 1


def test_what_the_one_before_said_of_itself_is_not_said_of_the_next(make_store: Make) -> None:
    first = _holder(make_store, "one")
    said = {"state": "stopped", "seen": {"server": "uuid", "file": "binlog.000007", "pos": 5}}
    first.release_lease(first.epoch, status=said)
    second = _holder(make_store, "two")
    lease = second.read_lease()
    assert lease is not None
    assert lease.status == {"seen": said["seen"]}
    second.renew_lease(second.epoch, seconds=60, status={"state": "streaming"})
    _take(second, "two")  # its next session
    lease = second.read_lease()
    assert lease is not None
    assert lease.status == {"state": "streaming"}
