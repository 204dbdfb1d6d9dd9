"""Small tables are loaded together: one position, few transactions, and what a load of its own would have recorded."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.model import TableDefinition, TableName
from cdc.schema.mapping import map_table
from cdc.schema.target import Policies, SinkKind, TargetTable
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.definitions import read_definition, read_definitions
from checkpoints.store import TableRecord
from snapshot.loader import LoadLimits, TableLoader
from snapshot.parallel import SessionPool
from snapshot.together import TABLES_MAX, TableSize, TablesTogether, in_groups, table_sizes
from tests.integration.test_store import Place
from tests.support import fresh_database, fresh_pg_database
from tests.support.deployment import deployment

CASES = [("mysql97", "pg15"), ("mariadb118", "mariadb1011")]
COUNT = 12
ROWS = 20


class _CutOffError(Exception):
    """What the test ends a load with."""


@dataclass
class Loads:
    """Tables at the source, a sink with its metadata, and loads of the ones into the other."""

    source: Server
    database: str
    sink: Server
    sink_database: str
    store: Any
    connection: SourceConnection
    stack: contextlib.ExitStack
    statements: list[str] = field(default_factory=list)
    fences: int = 0
    chunk_rows: int = 1000

    def __post_init__(self) -> None:
        fence = self.store.fence

        def counted(tx: Any) -> None:
            self.fences += 1
            fence(tx)

        self.store.fence = counted
        self.watch(self.connection)

    def watch(self, connection: SourceConnection) -> None:
        original = connection.raw.query

        def query(sql: Any, unbuffered: bool = False) -> Any:
            self.statements.append(sql if isinstance(sql, str) else sql.decode())
            return original(sql, unbuffered)

        connection.raw.query = query  # type: ignore[method-assign]

    def _connect(self) -> SourceConnection:
        connection = connect(self.connection.settings)
        self.stack.callback(connection.close)
        self.watch(connection)
        return connection

    @property
    def namespace(self) -> str:
        return "raw" if self.sink.family == "postgresql" else self.sink_database

    def _target(self, definition: TableDefinition) -> TargetTable:
        kind: SinkKind = "postgresql" if self.sink.family == "postgresql" else "mariadb"
        return map_table(
            definition,
            kind=kind,
            namespace=self.namespace,
            name=definition.name.table,
            key=definition.primary_key,
            policies=Policies(),
        )

    def loader(self, hook: Callable[[str], None] = lambda _point: None) -> TableLoader:
        return TableLoader(
            source=self.connection,
            sink=self.store.sink,
            store=self.store,
            make_target=self._target,
            transform=lambda rows, _target: rows,
            options=lambda _table, _key: {},
            chunk_rows=lambda _database, _table: self.chunk_rows,
            sessions=SessionPool(self._connect),
            limits=LoadLimits(workers=2),
            accepts_hidden_cascades=lambda _database, _table: False,
            hook=hook,
            on_progress=lambda table, *, rows, rows_estimate: None,
        )

    def names(self) -> list[TableName]:
        return [TableName(self.database, f"t{n:02}") for n in range(COUNT)]

    def together(self, hook: Callable[[str], None] = lambda _point: None) -> dict[TableName, TableRecord]:
        pending = [TableRecord(source=name, target="", state="pending") for name in self.names()]
        self.save(pending)
        return self.load(pending, hook)

    def again(self, records: Sequence[TableRecord]) -> list[TableRecord]:
        """Complete, and to be loaded once more."""
        again = {"state": "pending", "is_complete": True, "loaded_from": None, "ready_at": None, "ready_server": None}
        found = [replace(record, **again) for record in records]  # type: ignore[arg-type]
        self.save(found)
        return found

    def save(self, records: Sequence[TableRecord]) -> None:
        with self.store.sink.transaction() as tx:
            for record in records:
                self.store.save_table(tx, record)
            self.store.fence(tx)
            tx.commit()

    def load(
        self, pending: Sequence[TableRecord], hook: Callable[[str], None] = lambda _point: None
    ) -> dict[TableName, TableRecord]:
        self.statements.clear()
        self.fences = 0
        sizes = table_sizes(self.connection, self.names())
        return TablesTogether(self.loader(hook).tools).load(pending, sizes)

    def rows(self, name: str) -> list[tuple[Any, ...]]:
        found = self.sink.execute(f"SELECT id, v FROM {self.namespace}.{name} ORDER BY id", database=self.sink_database)
        return [tuple(row) for row in found]

    def recorded(self) -> dict[TableName, TableRecord]:
        found: dict[TableName, TableRecord] = self.store.load_tables()
        return found


def _expected(number: int) -> list[tuple[int, int]]:
    return [(n, n * 100 + number) for n in range(ROWS)]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def loads(request: pytest.FixtureRequest) -> Iterator[Loads]:
    source, sink = (request.getfixturevalue(name) for name in request.param)
    fresh = fresh_pg_database if sink.family == "postgresql" else fresh_database
    with fresh_database(source) as database, fresh(sink) as target, contextlib.ExitStack() as stack:
        for number in range(COUNT):
            source.execute(f"CREATE TABLE t{number:02} (id INT PRIMARY KEY, v INT NOT NULL)", database=database)
            values = ", ".join(f"({n}, {v})" for n, v in _expected(number))
            source.execute(f"INSERT INTO t{number:02} VALUES {values}", database=database)
        settings = SourceSettings(source.host, source.port, source.user, source.password, 77)
        connection = connect(settings)
        stack.callback(connection.close)
        store = Place(sink, target, stack).holder()
        yield Loads(source, database, sink, target, store, connection, stack)


def test_all_have_one_position_and_the_sink_commits_a_few_times(loads: Loads) -> None:
    """By themselves, each asks for two positions and commits four times at least."""
    records = loads.together()
    assert [record.source for record in records.values() if record.ready_at is not None] == loads.names()
    assert len({str(record.loaded_from) for record in records.values()}) == 1
    asked = [sql for sql in loads.statements if "gtid_executed" in sql or ("Binlog" in sql and "SHOW STATUS" in sql)]
    assert len(asked) == 1
    assert loads.fences <= COUNT + 2, "each table's chunk in a transaction of its own would be as many"
    reads = [sql for sql in loads.statements if "ORDER BY" in sql and f"`{loads.database}`.`t" in sql]
    assert len(reads) == COUNT, "one look at all of them says that each is one chunk"
    looks = [sql for sql in loads.statements if sql.startswith(("(SELECT 0 FROM", "SELECT * FROM `"))]
    assert len(looks) == 1
    definitions = [sql for sql in loads.statements if "information_schema.COLUMNS" in sql]
    assert len(definitions) == 2, "before the reads, and after them"
    assert records == loads.recorded()
    assert [record.rows_loaded for record in records.values()] == [ROWS] * COUNT
    for number, name in enumerate(loads.names()):
        assert loads.rows(name.table) == _expected(number)
    with loads.store.sink.transaction() as tx:
        assert tx.execute(f"SELECT number FROM {loads.store.sink.metadata_table('chunks')}") == []


def test_chunks_that_are_there_share_a_transaction(loads: Loads) -> None:
    """While one is written, the readers get ahead of the writer, which is slow here."""

    def slow(point: str) -> None:
        if point == "load_chunk":
            time.sleep(0.05)

    loads.together(slow)
    assert loads.fences <= 2 + COUNT // 2


def test_a_load_that_is_cut_off_keeps_the_tables_that_were_written(loads: Loads) -> None:
    """Their rows are changed between the two: they are not read again, the stream brings the changes."""
    committed = 0

    def cut_off(point: str) -> None:
        nonlocal committed
        committed += point == "load_chunk_committed"
        if committed == COUNT // 2:
            raise _CutOffError

    with pytest.raises(_CutOffError):
        loads.together(cut_off)
    with loads.store.sink.transaction() as tx:
        rows = tx.execute(
            f"SELECT source_table FROM {loads.store.sink.metadata_table('chunks')} WHERE number = 1 ORDER BY 1"
        )
    done = {json.loads(name)[1] for (name,) in rows}
    assert COUNT // 2 <= len(done) <= COUNT
    for name in loads.names():
        loads.source.execute(f"UPDATE {name.table} SET v = -v", database=loads.database)
    begun = loads.recorded()
    loads.statements.clear()
    loader = loads.loader()
    for number, name in enumerate(loads.names()):
        after = loader.load(begun[name], may_replace=False)
        assert after.ready_at is not None
        assert after.rows_loaded == ROWS
        if name.table in done:
            assert after.loaded_from == begun[name].loaded_from
        sign = 1 if name.table in done else -1
        assert loads.rows(name.table) == [(key, sign * value) for key, value in _expected(number)]
        reads = [sql for sql in loads.statements if f"FROM `{loads.database}`.`{name.table}` ORDER BY" in sql]
        assert bool(reads) == (name.table not in done)


def test_complete_targets_are_replaced_together(loads: Loads) -> None:
    """Those that are empty by now, too; one with other columns, and one that is gone, by loads of their own."""
    records = loads.again(list(loads.together().values()))
    execute, database = loads.source.execute, loads.database
    execute("DELETE FROM t01", database=database)
    execute("UPDATE t02 SET id = id + 100 WHERE id < 5", database=database)
    execute("ALTER TABLE t03 ADD COLUMN c INT", database=database)
    loads.sink.execute(f"DROP TABLE {loads.namespace}.t04", database=loads.sink_database)
    seen: list[list[tuple[Any, ...]]] = []

    def look(point: str) -> None:
        if point == "load_chunk":
            seen.append(loads.rows("t02"))

    after = loads.load(records, look)
    assert {name.table for name, record in after.items() if record.ready_at is not None} == {
        name.table for name in loads.names() if name.table != "t03"
    }
    assert loads.fences <= COUNT + 2
    assert {name.table for name, record in after.items() if record.is_complete} == {
        name.table for name in loads.names() if name.table not in ("t03", "t04")
    }
    assert loads.rows("t01") == []
    changed = sorted((key + 100 * (key < 5), value) for key, value in _expected(2))
    assert loads.rows("t02") == changed
    assert {len(rows) for rows in seen} == {ROWS}, "readers see the old rows until they see the new ones"
    assert loads.rows("t04") == _expected(4)
    assert loads.recorded() == {**{record.source: record for record in records}, **after}


def test_a_target_of_more_than_one_chunk_is_replaced_by_a_load_of_its_own(loads: Loads) -> None:
    records = loads.again(list(loads.together().values()))
    loads.chunk_rows = ROWS // 2
    loads.source.execute("UPDATE t03 SET v = -1", database=loads.database)
    after = loads.load(records)
    assert all(record.ready_at is None and record.is_complete for record in after.values())
    assert loads.rows("t03") == _expected(3)
    loaded = loads.loader().load(after[TableName(loads.database, "t03")], may_replace=False)
    assert loaded.ready_at is not None
    assert loads.rows("t03") == [(n, -1) for n in range(ROWS)]


@pytest.mark.parametrize("point", ["load_begun", "load_done"])
def test_one_that_is_altered_meanwhile_is_left_to_its_own_load(loads: Loads, point: str) -> None:
    is_altered = False

    def alter(reached: str) -> None:
        nonlocal is_altered
        if reached == point and not is_altered:
            is_altered = True
            loads.source.execute("ALTER TABLE t03 ADD COLUMN c INT NOT NULL DEFAULT 7 FIRST", database=loads.database)

    records = loads.together(alter)
    assert is_altered
    altered = records[TableName(loads.database, "t03")]
    assert altered.ready_at is None
    assert altered == loads.recorded()[altered.source]
    after = loads.loader().load(altered, may_replace=False)
    assert after.ready_at is not None
    found = loads.sink.execute(f"SELECT c, id FROM {loads.namespace}.t03 ORDER BY id", database=loads.sink_database)
    assert [tuple(row) for row in found] == [(7, n) for n in range(ROWS)]


def test_what_is_no_plain_first_load_is_not_begun(loads: Loads) -> None:
    """A target that is there, no key, a key that may be NULL, foreign keys that change rows in silence; and a table
    that is gone."""
    execute, database = loads.source.execute, loads.database
    loads.store.sink.create_namespace(loads.namespace)
    loads.sink.execute(f"CREATE TABLE {loads.namespace}.t00 (id INT)", database=loads.sink_database)
    execute("ALTER TABLE t01 DROP PRIMARY KEY", database=database)
    execute("DROP TABLE t02", database=database)
    execute("ALTER TABLE t03 ADD FOREIGN KEY (id) REFERENCES t04 (id) ON DELETE CASCADE", database=database)
    records = loads.together()
    left = {name.table for name in loads.names() if name not in records}
    is_logged = loads.connection.flavor == "mysql"  # what foreign keys do, from 9.6 on
    assert left == ({"t00", "t01", "t02"} if is_logged else {"t00", "t01", "t02", "t03"})
    assert all(record.ready_at is not None for record in records.values())


def test_one_that_may_not_be_read_whole_holds_up_no_other(loads: Loads) -> None:
    """A dictionary shows such a table without the columns that its reader has no right to."""
    user, settings = f"u_{loads.database}"[:32], loads.connection.settings
    loads.source.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'word'")
    try:
        right = "BINLOG MONITOR" if loads.connection.flavor == "mariadb" else "REPLICATION CLIENT"
        loads.source.execute(f"GRANT {right} ON *.* TO '{user}'@'%'")
        for name in loads.names():
            columns = " (id)" if name.table == "t03" else ""
            loads.source.execute(f"GRANT SELECT{columns} ON {name.database}.{name.table} TO '{user}'@'%'")
        loads.connection = connect(replace(settings, user=user, password="word"))
        loads.stack.callback(loads.connection.close)
        records = loads.together()
        assert {name.table for name in loads.names() if name not in records} == {"t03"}
        assert all(record.ready_at is not None for record in records.values())
    finally:
        loads.source.execute(f"DROP USER '{user}'@'%'")


def test_one_that_is_larger_than_its_estimate_is_read_in_chunks(loads: Loads) -> None:
    loads.chunk_rows = 100
    values = ", ".join(f"({n}, {n})" for n in range(100, 350))
    loads.source.execute(f"INSERT INTO t05 VALUES {values}", database=loads.database)
    records = loads.together()
    assert all(record.ready_at is not None for record in records.values())
    assert len(loads.rows("t05")) == ROWS + 250
    reads = [sql for sql in loads.statements if "ORDER BY" in sql and "`t05`" in sql and "LIMIT" not in sql]
    assert len(reads) == 3


def test_groups_are_of_small_tables_side_by_side_in_their_order() -> None:
    records = [TableRecord(source=TableName("d", f"t{n:03}"), target="", state="pending") for n in range(140)]
    sizes = {record.source: TableSize(1000, 1 << 20) for record in records}
    sizes[records[3].source] = TableSize(50_001, 1 << 20)
    sizes[records[4].source] = TableSize(1000, (8 << 20) + 1)
    del sizes[records[70].source]
    groups = in_groups(records, sizes)
    assert [record for group in groups for record in group] == records
    assert [len(group) for group in groups] == [3, 1, 1, TABLES_MAX, 1, 1, TABLES_MAX, 5]


@pytest.mark.parametrize("server_name", ["mysql97", "mariadb118"])
def test_definitions_read_at_once_are_those_read_one_by_one(server_name: str, request: pytest.FixtureRequest) -> None:
    """Whether a load may go on is decided by comparing the two."""
    server: Server = request.getfixturevalue(server_name)
    tables: Sequence[str] = (
        "plain (id INT PRIMARY KEY, v VARCHAR(20) NOT NULL DEFAULT 'x', UNIQUE u_v (v), UNIQUE a_v (v, id))",
        "`od d``t` (a BIGINT UNSIGNED, b JSON, e ENUM('x', 'it''s') NOT NULL, d DECIMAL(20, 5), ts TIMESTAMP(3) NULL)",
        "pre (a VARCHAR(99) CHARACTER SET latin1 NOT NULL COMMENT 'said', UNIQUE (a(9))) COMMENT 'of it'",
        "made (a INT, g INT AS (a + 1) STORED, v INT AS (a + 2) VIRTUAL, PRIMARY KEY (a))",
    )
    with fresh_database(server) as database, fresh_database(server) as other:
        for table in tables:
            server.execute(f"CREATE TABLE {table}", database=database)
        server.execute("CREATE TABLE plain (other INT)", database=other)
        server.execute("CREATE VIEW seen AS SELECT 1 AS a", database=database)
        names = [TableName(database, name) for name in ("plain", "od d`t", "pre", "made", "seen", "gone")]
        names.append(TableName(other, "plain"))
        with connect(SourceSettings(server.host, server.port, server.user, server.password, 77)) as source:
            found = read_definitions(source, names)
            assert found == {
                name: read_definition(source, name) for name in names if name.table not in ("seen", "gone")
            }


def test_a_value_that_cannot_be_carried_parks_its_table_alone(tmp_path: Path, mariadb118: Server, pg17: Server) -> None:
    with deployment(tmp_path, mariadb118, sink=pg17) as made:
        made.config["policies"] = {"zero_dates": "error"}
        for number in range(5):
            made.source.execute(
                f"CREATE TABLE t{number} (id INT PRIMARY KEY, d DATE NULL)", database=made.source_database
            )
            day = "0000-00-00" if number == 2 else "2024-02-29"
            made.source.execute(f"INSERT INTO t{number} VALUES (1, '{day}')", database=made.source_database)
        run = made.run("run", "--until-caught-up")
        assert run.returncode == 1
        (left,) = [json.loads(line) for line in run.stderr.splitlines() if '"group_left"' in line]
        assert left["table"] == f"{made.source_database}.t2"
        assert "0000-00-00" in left["reason"]
        assert left["table"] in left["tables"]
        states = {table["table"].partition(".")[2]: table["state"] for table in made.status()["tables"]}
        assert states == {"t0": "ready", "t1": "ready", "t2": "parked", "t3": "ready", "t4": "ready"}
        made.source.execute("UPDATE t2 SET d = NULL", database=made.source_database)
        result = made.run("snapshot")
        assert result.returncode == 0, result.stderr
        made.assert_equal("t0", "t1", "t2", "t3", "t4")


def test_the_service_loads_small_tables_together_and_follows_them(
    tmp_path: Path, mysql97: Server, mariadb1011: Server
) -> None:
    with deployment(tmp_path, mysql97, sink=mariadb1011) as made:
        names = ("a", "b", "c")
        for name in names:
            made.source.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, v INT)", database=made.source_database)
            made.source.execute(f"INSERT INTO {name} VALUES (1, 1), (2, 2)", database=made.source_database)
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 0, result.stderr
        lines = [json.loads(line) for line in (result.stdout + result.stderr).splitlines() if line.startswith("{")]
        loaded = [line for line in lines if line["event"] == "table_loaded"]
        assert [(line["rows"], line["together"]) for line in loaded] == [(2, 3)] * 3
        for name in names:
            made.source.execute(f"UPDATE {name} SET v = 7 WHERE id = 2", database=made.source_database)
        made.catch_up()
        made.assert_equal(*names)


def test_a_target_that_somebody_else_makes_meanwhile_is_theirs(loads: Loads) -> None:
    """What is begun counts as ours: a load of its own would clear it."""
    has_come = False

    def come_between(point: str) -> None:
        nonlocal has_come
        if point == "target_made" and not has_come:
            has_come = True
            for statement in ("CREATE TABLE {}.t05 (id INT PRIMARY KEY, v INT)", "INSERT INTO {}.t05 VALUES (1, 4711)"):
                loads.sink.execute(statement.format(loads.namespace), database=loads.sink_database)

    records = loads.together(come_between)
    assert has_come
    assert loads.rows("t05") == [(1, 4711)]
    recorded = loads.recorded()
    for name in loads.names()[5:]:
        for found in (records.get(name), recorded.get(name)):
            assert found is None or (found.state, found.definition, found.loaded_from) == ("pending", None, None)
