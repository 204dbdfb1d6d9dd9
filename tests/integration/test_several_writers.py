"""Several sessions on the sink write the chunks of one table: what is promised of one session's chunks holds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import CdcError, LeaseLost, SinkUnavailable, UnsupportedData
from cdc.source.connection import SourceSettings, TableGone, connect
from checkpoints.store import InSinkStore
from snapshot.writers import WriterSessions
from tests.integration.test_resumed_loads import CHUNK_ROWS, ROWS, Load
from tests.integration.test_store import Place
from tests.support import fresh_database, fresh_pg_database

MAIN = threading.main_thread()


class _Sessions(WriterSessions):
    """`refuse`: open none. Remembers what it has opened."""

    def __init__(self, place: Place, store: Any) -> None:
        self.refusals: list[CdcError] = []
        self.refuse = False
        self.opened: list[Any] = []
        self._place = place
        super().__init__(self._closed_sink, store, count_max=2, on_refused=self.refusals.append)

    def _closed_sink(self) -> Any:
        sink = self._place.sink()
        sink.close()
        if self.refuse:

            def refused() -> None:
                raise SinkUnavailable("too many connections")

            sink.open = refused  # type: ignore[method-assign]
        self.opened.append(sink)
        return sink


@pytest.fixture(params=["pg15", "mariadb1011", "mysql97"])
def load(request: pytest.FixtureRequest, mysql97: Server) -> Iterator[Load]:
    sink: Server = request.getfixturevalue(request.param)
    fresh = fresh_pg_database if sink.family == "postgresql" else fresh_database
    with fresh_database(mysql97) as database, fresh(sink) as target, contextlib.ExitStack() as stack:
        mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL)", database=database)
        values = ", ".join(f"({n}, {n})" for n in range(1, ROWS + 1))
        mysql97.execute(f"INSERT INTO t VALUES {values}", database=database)
        connection = connect(SourceSettings(mysql97.host, mysql97.port, mysql97.user, mysql97.password, 77))
        stack.callback(connection.close)
        place = Place(sink, target, stack)
        store = place.holder()
        one = Load(mysql97, database, sink, "raw" if sink.family == "postgresql" else target, store, connection, stack)
        one.stack_database = target
        one.writers = _Sessions(place, store)
        stack.callback(one.writers.close)
        yield one


def _sessions(load: Load) -> _Sessions:
    assert isinstance(load.writers, _Sessions)
    return load.writers


def _is_beside() -> bool:
    return threading.current_thread() is not MAIN


class _Meeting:
    """Holds the first chunk of each session until all three write at once."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(3)
        self._seen: set[int] = set()

    def __call__(self, point: str) -> None:
        me = threading.get_ident()
        if point == "load_chunk" and me not in self._seen:
            self._seen.add(me)
            with contextlib.suppress(threading.BrokenBarrierError):
                self._barrier.wait(20)

    @property
    def has_happened(self) -> bool:
        return len(self._seen) == 3 and not self._barrier.broken


def test_three_transactions_are_open_at_a_time_and_all_rows_are_there_once(load: Load) -> None:
    meeting = _Meeting()
    record = load.run(load.pending(), hook=meeting)
    assert meeting.has_happened
    assert load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
    assert record.rows_loaded == ROWS
    assert record == load.record()
    with load.store.sink.transaction() as tx:
        assert tx.execute(f"SELECT number FROM {load.store.sink.metadata_table('chunks')}") == []


def test_who_takes_over_knows_every_session_that_writes(load: Load) -> None:
    load.run(load.pending(), hook=_Meeting())
    lease = load.store.read_lease()
    assert lease is not None
    assert {sink.session() for sink in _sessions(load).opened} < set(lease.sessions)
    assert len(lease.sessions) == 4, "the keeper's, the load's own, and two"


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_one_that_is_cut_off_goes_on_with_what_each_session_has_committed(load: Load, count: int) -> None:
    record = load.cut_off(count)
    before = load.target_rows()
    assert len(before) >= count * CHUNK_ROWS
    load.source.execute("UPDATE t SET v = -v", database=load.database)
    loaded = load.run(record)
    rows = load.target_rows()
    assert [key for key, _ in rows] == list(range(1, ROWS + 1))
    assert {row for row in rows if row[1] > 0} == set(before), "what was there is not read again"
    assert loaded.rows_loaded == ROWS
    assert loaded.loaded_from == record.loaded_from


def test_no_session_writes_once_the_lease_is_another_ones(load: Load) -> None:
    """It is taken while all three have rows in open transactions: none of them is committed."""
    taken = threading.Event()
    meeting = _Meeting()

    def lose(point: str) -> None:
        meeting(point)
        if point != "load_chunk":
            return
        if not _is_beside() and not taken.is_set():
            _take_over(load)
            taken.set()
        taken.wait(20)

    with pytest.raises((LeaseLost, SinkUnavailable)):
        load.run(load.pending(), hook=lose)
    assert taken.is_set()
    assert load.target_rows() == []


def _take_over(load: Load) -> None:
    """Without ending the old one's sessions, as if they could not be reached: the fence alone has to hold."""
    other = Place(load.sink, load.stack_database, load.stack).store()
    with other.sink.transaction() as tx:
        for name in ("lease", "checkpoint"):
            tx.execute_count(f"UPDATE {other.sink.metadata_table(name)} SET epoch = epoch + 1")
        tx.commit()


def test_a_value_that_is_refused_in_another_session_is_the_loads_own_error(load: Load) -> None:
    def refuse(point: str) -> None:
        if point == "load_chunk" and _is_beside():
            raise UnsupportedData("a value that cannot be written", table=f"{load.database}.t")

    with pytest.raises(UnsupportedData, match="cannot be written"):
        load.run(load.pending(), hook=refuse)
    record = load.record()
    assert (record.state, record.ready_at) == ("snapshotting", None)
    assert load.run(record).rows_loaded == ROWS
    assert load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]


def test_a_session_that_is_ended_ends_the_load_which_goes_on(load: Load) -> None:
    ended = threading.Event()

    def end(point: str) -> None:
        if point == "load_chunk" and _is_beside() and not ended.is_set():
            ended.set()
            for sink in _sessions(load).opened:
                sink.hang_up()

    with pytest.raises(SinkUnavailable):
        load.run(load.pending(), hook=end)
    loaded = load.run(load.record())
    assert loaded.rows_loaded == ROWS
    assert load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
    lease = load.store.read_lease()
    assert lease is not None
    assert {sink.session() for sink in _sessions(load).opened} < set(lease.sessions)


def test_where_the_sink_has_no_connection_left_one_session_writes_all(load: Load) -> None:
    sessions = _sessions(load)
    sessions.refuse = True
    assert load.run(load.pending()).rows_loaded == ROWS
    assert load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
    assert len(sessions.refusals) == 1


def test_a_table_of_one_chunk_takes_no_further_session(load: Load) -> None:
    load.source.execute(f"DELETE FROM t WHERE id > {CHUNK_ROWS // 2}", database=load.database)
    assert load.run(load.pending()).rows_loaded == CHUNK_ROWS // 2
    assert _sessions(load).opened == []


def test_a_load_that_ends_early_waits_for_no_writer(load: Load) -> None:
    """One that is in a long statement is hung up."""
    started = threading.Event()

    def stick(point: str) -> None:
        if point == "load_chunk" and _is_beside():
            started.set()
            time.sleep(1)
        elif point == "load_chunk_committed" and not _is_beside():
            started.wait(20)
            raise _StoppedError

    with pytest.raises(_StoppedError):
        load.run(load.pending(), hook=stick)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write-")]


class _StoppedError(Exception):
    """What the test ends a load with."""


def test_what_a_session_commits_late_is_cleared_away_by_the_next_attempt(load: Load) -> None:
    """Its COMMIT is on its way when the attempt ends, and the source has not had the row since."""
    late = InSinkStore(_sessions(load)._closed_sink(), load.store.pipeline)
    late.epoch = load.store.epoch
    begun: list[threading.Thread] = []

    def commit_late(is_open: threading.Event) -> None:
        with late.sink.transaction() as tx:
            quote = '"' if load.sink.family == "postgresql" else "`"
            tx.execute(f"INSERT INTO {quote}{load.namespace}{quote}.t VALUES (999999, 0)")
            late.fence(tx)
            is_open.set()
            time.sleep(1.5)
            tx.commit()

    def end_first(point: str) -> None:
        if point == "load_begun" and not begun:
            is_open = threading.Event()
            late.sink.open()
            begun.append(threading.Thread(target=commit_late, args=(is_open,)))
            begun[0].start()
            assert is_open.wait(20)
            raise TableGone("t was emptied under the load")

    load.run(load.pending(), hook=end_first)
    begun[0].join()
    assert load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
