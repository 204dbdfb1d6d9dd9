"""A load that was cut off: what it keeps, what it reads again, and when it has to begin anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import SinkUnavailable
from cdc.model import TableDefinition, TableName
from cdc.schema.mapping import map_table
from cdc.schema.target import Policies, SinkKind, TargetTable
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.positions import is_in_log, visible_position
from checkpoints.store import TableRecord
from snapshot.loader import LoadLimits, LoadPlan, TableLoader
from snapshot.parallel import SessionPool
from snapshot.staging import StagingArea
from snapshot.writers import WriterSessions
from tests.integration.test_store import Place
from tests.support import fresh_database, fresh_pg_database

ROWS = 500
CHUNK_ROWS = 50


class _CutOffError(Exception):
    """What the test ends a load with."""


@dataclass
class Load:
    """A table at the source, a sink with its metadata, and loads of the one into the other."""

    source: Server
    database: str
    sink: Server
    namespace: str
    store: Any
    connection: SourceConnection
    stack: contextlib.ExitStack

    def __post_init__(self) -> None:
        self.statements: list[str] = []
        self.resumed: list[LoadPlan] = []
        self.policies = Policies()
        self.options: dict[str, Any] = {}
        self.staging: StagingArea | None = None
        self.writers: WriterSessions | None = None
        self.is_sink_away: Callable[[SinkUnavailable], bool] = lambda _error: False

    def _connect(self) -> SourceConnection:
        connection = connect(self.connection.settings)
        original = connection.raw.query
        self.stack.callback(connection.close)

        def query(sql: Any, unbuffered: bool = False) -> Any:
            self.statements.append(sql if isinstance(sql, str) else sql.decode())
            return original(sql, unbuffered)

        connection.raw.query = query  # type: ignore[method-assign]
        return connection

    def _target(self, definition: TableDefinition) -> TargetTable:
        kind: SinkKind = "postgresql" if self.sink.family == "postgresql" else "mariadb"
        return map_table(
            definition,
            kind=kind,
            namespace=self.namespace,
            name="t",
            key=definition.primary_key,
            policies=self.policies,
        )

    def run(
        self, record: TableRecord, *, cut_off_after: int | None = None, hook: Callable[[str], None] | None = None
    ) -> TableRecord:
        """Load; `cut_off_after`: end with an exception once so many chunks are committed."""
        self.statements.clear()
        committed = 0

        def reached(point: str) -> None:
            nonlocal committed
            committed += point == "load_chunk_committed"
            if hook is not None:
                hook(point)
            if committed == cut_off_after:
                raise _CutOffError

        loader = TableLoader(
            source=self.connection,
            sink=self.store.sink,
            store=self.store,
            make_target=self._target,
            transform=lambda rows, _target: rows,
            options=lambda _table, _key: self.options,
            chunk_rows=lambda _database, _table: CHUNK_ROWS,
            sessions=SessionPool(self._connect),
            limits=LoadLimits(workers=3, staging=self.staging, writers=1 if self.writers is None else 3),
            accepts_hidden_cascades=lambda _database, _table: True,
            hook=reached,
            on_progress=lambda table, *, rows, rows_estimate: None,
            on_resume=self.resumed.append,
            is_sink_away=self.is_sink_away,
            more_writers=tuple if self.writers is None else self.writers.take,
        )
        return loader.load(record, may_replace=False)

    def cut_off(self, count: int) -> TableRecord:
        """The record of a load that ended after so many chunks."""
        with pytest.raises(_CutOffError):
            self.run(self.pending(), cut_off_after=count)
        return self.record()

    def pending(self) -> TableRecord:
        return TableRecord(source=TableName(self.database, "t"), target="", state="pending")

    def record(self) -> TableRecord:
        """As the metadata has it."""
        found: TableRecord = self.store.load_tables()[TableName(self.database, "t")]
        return found

    def chunk_reads(self) -> list[str]:
        """The statements that read rows of the table, and not just a border."""
        return [sql for sql in self.statements if " OFFSET " not in sql and f"FROM `{self.database}`.`t`" in sql]

    def target_rows(self) -> list[tuple[Any, ...]]:
        rows = self.sink.execute(f"SELECT id, v FROM {self.namespace}.t ORDER BY id", None, database=self._place)
        return [tuple(row) for row in rows]

    @property
    def _place(self) -> str:
        return str(self.stack_database)

    stack_database: str = ""


@pytest.fixture(params=["pg15", "mariadb1011"])
def load(request: pytest.FixtureRequest, source_server: Server) -> Iterator[Load]:
    sink: Server = request.getfixturevalue(request.param)
    fresh = fresh_pg_database if sink.family == "postgresql" else fresh_database
    with fresh_database(source_server) as database, fresh(sink) as target, contextlib.ExitStack() as stack:
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL)", database=database)
        values = ", ".join(f"({n}, {n})" for n in range(1, ROWS + 1))
        source_server.execute(f"INSERT INTO t VALUES {values}", database=database)
        settings = SourceSettings(
            source_server.host, source_server.port, source_server.user, source_server.password, 77
        )
        connection = connect(settings)
        stack.callback(connection.close)
        store = Place(sink, target, stack).holder()
        namespace = "raw" if sink.family == "postgresql" else target
        one = Load(source_server, database, sink, namespace, store, connection, stack)
        one.stack_database = target
        yield one


def test_finished_chunks_are_not_read_again(load: Load) -> None:
    """All rows are changed between the two: those of finished chunks stay as they were (the stream brings them)."""
    record = load.cut_off(4)
    before = load.target_rows()
    assert len(before) == 4 * CHUNK_ROWS
    load.source.execute("UPDATE t SET v = -v", database=load.database)
    loaded = load.run(record)
    rows = load.target_rows()
    assert [key for key, _ in rows] == list(range(1, ROWS + 1))
    assert {row for row in rows if row[1] > 0} == set(before)
    assert len(load.chunk_reads()) == ROWS // CHUNK_ROWS + 1 - 4  # the last one is open, and empty
    assert loaded.rows_loaded == ROWS
    assert loaded.loaded_from == record.loaded_from, "the changes since the first read are to come"
    (plan,) = load.resumed
    assert len(plan.loaded) == 4


def test_rows_behind_the_last_border_are_read_by_the_chunk_without_an_end(load: Load) -> None:
    record = load.cut_off(9)
    load.source.execute("INSERT INTO t VALUES (0, 0), (100000, 1)", database=load.database)
    load.run(record)
    keys = [key for key, _ in load.target_rows()]
    assert keys[-1] == 100_000
    assert 0 not in keys, "in a chunk that is done: the stream brings it"


def test_a_load_is_resumed_more_than_once_and_every_row_is_there_once(load: Load) -> None:
    record = load.cut_off(2)
    for _ in range(3):
        with pytest.raises(_CutOffError):
            load.run(record, cut_off_after=2)
        record = load.record()
    loaded = load.run(record)
    assert load.target_rows() == [(n, n) for n in range(1, ROWS + 1)]
    assert loaded.rows_loaded == ROWS
    assert [len(plan.loaded) for plan in load.resumed] == [2, 4, 6, 8]


def test_nothing_is_kept_of_a_load_that_is_done(load: Load) -> None:
    load.run(load.cut_off(3))
    with load.store.sink.transaction() as tx:
        ((count,),) = tx.execute(f"SELECT count(*) FROM {load.store.sink.metadata_table('chunks')}")
    assert count == 0


def _emptied(load: Load, record: TableRecord) -> TableRecord:
    load.sink.execute(f"DELETE FROM {load.namespace}.t", None, database=load.stack_database)
    return record


def _dropped(load: Load, record: TableRecord) -> TableRecord:
    load.sink.execute(f"DROP TABLE {load.namespace}.t", None, database=load.stack_database)
    return record


def _altered(load: Load, record: TableRecord) -> TableRecord:
    load.source.execute("ALTER TABLE t MODIFY v BIGINT NOT NULL", database=load.database)
    return record


def _other_options(load: Load, record: TableRecord) -> TableRecord:
    load.options = {"row_filter": "v > 0"}
    return record


def _other_policies(load: Load, record: TableRecord) -> TableRecord:
    load.policies = Policies(zero_dates="error")
    return record


def _other_server(load: Load, record: TableRecord) -> TableRecord:
    assert record.loaded_from is not None
    server = replace(record.loaded_from.server, uuid="another")
    return replace(record, loaded_from=replace(record.loaded_from, server=server))


def _asked_for(load: Load, record: TableRecord) -> TableRecord:
    return replace(record, state="pending", loaded_from=None)


@pytest.mark.parametrize(
    "change", [_emptied, _dropped, _altered, _other_options, _other_policies, _other_server, _asked_for]
)
def test_a_load_begins_anew_where_what_it_brought_is_not_what_it_would_bring_now(
    load: Load, change: Callable[[Load, TableRecord], TableRecord]
) -> None:
    record = change(load, load.cut_off(4))
    load.source.execute("UPDATE t SET v = v + 1000", database=load.database)
    load.run(record)
    assert load.resumed == []
    assert load.target_rows() == [(n, n + 1000) for n in range(1, ROWS + 1)]


@pytest.mark.parametrize("name, gtid", [("mysql97", True), ("mysql97", False), ("mariadb1011", True)])
def test_a_position_is_in_the_log_until_it_is_purged_or_the_server_lost_what_was_before_it(
    start_server: Callable[..., Server], name: str, gtid: bool
) -> None:
    """With the log of the first attempt gone, what changed since its first read could not come by the stream."""
    source = start_server(name)
    settings = SourceSettings(source.host, source.port, source.user, source.password, 77)
    settings = settings if gtid else replace(settings, position="file")
    with connect(settings) as connection:
        source.execute("CREATE DATABASE d")
        position = visible_position(connection)
        assert is_in_log(connection, position)
        source.execute("CREATE TABLE d.t (id INT PRIMARY KEY)")
        source.execute("FLUSH BINARY LOGS")
        assert is_in_log(connection, position)
        ahead = visible_position(connection)
        newest = source.execute("SHOW BINARY LOGS")[-1][0]
        source.execute(f"PURGE BINARY LOGS TO '{newest}'")
        assert not is_in_log(connection, position)
        assert is_in_log(connection, ahead)
        is_old = connection.flavor == "mariadb" or connection.version < (8, 2)
        source.execute("RESET MASTER" if is_old else "RESET BINARY LOGS AND GTIDS")
        assert not is_in_log(connection, ahead)
        other = replace(ahead, server=replace(ahead.server, uuid="another"))
        assert not is_in_log(connection, other)
