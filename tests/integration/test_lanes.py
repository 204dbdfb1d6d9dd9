"""Several lanes into one sink: nothing lost or applied twice, whatever is killed and however their number changes."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from cdc.demo.servers import Server
from tests.integration.test_store import Place
from tests.support import wait_until
from tests.support.databases import fresh_database
from tests.support.deployment import Deployment, Process, deployment
from tests.support.writer import TransactionWriter

TABLES = tuple(f"t{n}" for n in range(6))
ROWS = 60


def _create(server: Server, database: str) -> None:
    with contextlib.closing(server.connect(database, autocommit=False)) as connection, connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, n BIGINT NOT NULL, v VARCHAR(40) NULL)")
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, 'first')", [(i, 0) for i in range(ROWS)])
        connection.commit()


class _Writer(TransactionWriter):
    """Transactions over one to four tables, in a thread. Each counts up row 0 of the tables that it changes.

    `also`: one more statement of each, with the transaction's number.
    """

    def __init__(self, server: Server, database: str, *, seed: int = 1, also: str = "") -> None:
        super().__init__(server, database, seed=seed, pause_seconds=0.003)
        self._also = also

    def transaction(self, cursor: Any) -> bool:
        for table in self.random.sample(TABLES, self.random.randint(1, 4)):
            self._change(cursor, table)
        if self._also:
            cursor.execute(self._also, (self.count % 50,))
        return True

    def _change(self, cursor: Any, table: str) -> None:
        one, other = self.random.randint(1, 90), self.random.randint(1000, 9999)
        cursor.execute(f"UPDATE {table} SET n = n + 1 WHERE id = 0")
        match self.random.randint(0, 3):
            case 0:
                cursor.execute(f"REPLACE INTO {table} VALUES (%s, %s, 'new')", (one, other))
            case 1:
                cursor.execute(f"DELETE FROM {table} WHERE id = %s", (one,))
            case 2:
                cursor.execute(f"UPDATE {table} SET v = %s, n = %s WHERE id = %s", (f"v{other}", other, one))
            case _:
                cursor.execute(f"UPDATE IGNORE {table} SET id = %s WHERE id = %s", (other, one))


class _Sampler:
    """Watches row 0 of every table on the sink: what it counts never goes back. Raises at the end if it did."""

    def __init__(self, made: Deployment) -> None:
        self._server, self._database = made.sinks["sink"]
        self._schema = made.source_database
        self._is_stopping = threading.Event()
        self._went_back: list[str] = []
        self._seen: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping.set()
        self._thread.join()
        assert not self._went_back, self._went_back
        assert min(self._seen.values()) > 0, f"nothing was watched: {self._seen}"

    def _run(self) -> None:
        is_pg = self._server.family == "postgresql"
        prefix = f'"{self._schema}".' if is_pg else ""
        with contextlib.closing(self._server.connect(self._database)) as connection:
            while not self._is_stopping.wait(0.003):
                for table in TABLES:
                    with connection.cursor() as cursor:
                        try:
                            cursor.execute(f"SELECT n FROM {prefix}{table} WHERE id = 0")
                        except Exception:  # noqa: BLE001, S112 - it is not made yet
                            continue
                        row = cursor.fetchone()
                    value = int(row[0]) if row else 0
                    if value < self._seen.get(table, 0):
                        self._went_back.append(f"{table}: {self._seen[table]}, then {value}")
                    self._seen[table] = value


@pytest.fixture(params=["pg17", "mysql97"])
def made(request: pytest.FixtureRequest, tmp_path: Path, mariadb118: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mariadb118, sink=request.getfixturevalue(request.param)) as one:
        _create(mariadb118, one.source_database)
        yield one


@pytest.fixture
def to_pg(tmp_path: Path, mariadb118: Server, pg17: Server) -> Iterator[Deployment]:
    with deployment(tmp_path, mariadb118, sink=pg17) as one:
        _create(mariadb118, one.source_database)
        yield one


def _set_lanes(one: Deployment, lanes: object) -> None:
    one.config["sinks"][0]["lanes"] = lanes


def _lanes(one: Deployment) -> dict[int, dict[str, Any]]:
    return {lane["lane"]: lane for lane in one.status()["sinks"][0]["lanes"]}


def _lane_of(one: Deployment) -> dict[str, int]:
    return {table["table"].partition(".")[2]: table["lane"] for table in one.status()["tables"]}


def _events(one: Deployment, name: str) -> list[dict[str, Any]]:
    lines = (line for line in one.log().splitlines() if line.startswith("{"))
    return [entry for entry in map(json.loads, lines) if entry["event"] == name]


def _wait_until_ready(one: Deployment, count: int = len(TABLES)) -> None:
    one.wait_for_log("table_ready", count=count)


def test_six_tables_over_three_lanes_are_equal_after_kills(made: Deployment) -> None:
    _set_lanes(made, 3)
    with _Writer(made.source, made.source_database) as writer:
        for point in ("load_chunk:4", "", "before_commit:20", "after_commit:15", ""):
            process = made.start(crash_at=point)
            if point:
                assert process.wait(60) == -signal.SIGKILL
            else:
                writer.wait_for_more(150)
                made.kill()
    made.process = None
    made.catch_up()
    made.assert_equal(*TABLES)
    assert {lane["tables"] for lane in _lanes(made).values()} == {2}
    assert set(_lanes(made)) == {1, 2, 3}
    verified = made.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "all 6 tables equal" in verified.stdout


@pytest.mark.any_server
def test_the_number_of_lanes_changes_under_load_without_loading_again(made: Deployment) -> None:
    """One table has no key: what is applied twice stays there twice."""
    database = made.source_database
    made.source.execute("CREATE TABLE keyless (n INT NOT NULL)", database=database)
    tables = (*TABLES, "keyless")
    with _Writer(made.source, database, also="INSERT INTO keyless VALUES (%s)") as writer:
        made.start()
        _wait_until_ready(made, len(tables))
        assert _pipelines(made) == {f"{made.config['name']}/sink"}
        made.stop()
        with _Sampler(made):
            for number, lanes in enumerate([3, 2, 6, [[f"{database}.t0", f"{database}.t5"], ["*"]], 3, 1]):
                _set_lanes(made, lanes)
                made.start()
                made.wait_for_log("lanes_dealt", count=number + 1)
                writer.wait_for_more(100)
                if number % 2:
                    made.kill()
                else:
                    assert made.stop() == 0
    assert len(_events(made, "table_loaded")) == len(tables)
    made.catch_up()
    made.assert_equal(*tables)
    assert set(_lane_of(made).values()) == {1}
    assert list(_lanes(made)) == [1]


def _pipelines(one: Deployment) -> set[str]:
    """Those that had a lease; a side's lets go of it, and stays."""
    server, database = one.sinks["sink"]
    metadata = "_cdc.lease" if server.family == "postgresql" else "_cdc_lease"
    rows = server.execute(f"SELECT pipeline FROM {metadata}", database=database)
    return {pipeline for (pipeline,) in rows if "~" not in pipeline}


def test_lanes_that_are_far_apart_change_places_without_loading_again(to_pg: Deployment) -> None:
    """One lane is held up by a lock on the sink while the other goes on; then the tables are dealt the other way."""
    made, database = to_pg, to_pg.source_database
    first, second = ([f"{database}.t{n}" for n in numbers] for numbers in ((0, 1), (2, 3, 4, 5)))
    _set_lanes(made, [first, second])
    made.start()
    _wait_until_ready(made)
    server, sink_database = made.sinks["sink"]
    with _Writer(made.source, database) as writer:
        with contextlib.closing(server.connect(sink_database)) as connection, connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f'LOCK TABLE "{database}".t0 IN SHARE MODE')
            made.source.execute("UPDATE t0 SET n = n + 1 WHERE id = 0", database=database)
            writer.wait_for_more(200)
            lanes = wait_until(lambda: _far_apart(made), 30, "the lanes to be apart")
            assert lanes[1]["lag_seconds"] > 0
            made.kill()
        with _Sampler(made):
            _set_lanes(made, [second, first])
            made.start()
            made.wait_for_log("lanes_dealt")
            writer.wait_for_more(100)
            made.stop()
            _set_lanes(made, [[f"{database}.t1", f"{database}.t2"], ["*"]])
            made.start()
            made.wait_for_log("lanes_dealt", count=2)
            writer.wait_for_more(100)
            made.stop()
    made.catch_up()
    made.assert_equal(*TABLES)
    assert len(_events(made, "table_loaded")) == len(TABLES)


def _far_apart(one: Deployment) -> dict[int, dict[str, Any]]:
    """The lanes once they are, else none."""
    lanes = _lanes(one)
    return lanes if lanes[2]["position"]["pos"] > lanes[1]["position"]["pos"] + 10_000 else {}


@pytest.mark.any_server
def test_a_parked_table_leaves_the_other_lanes_and_comes_back_by_its_own(made: Deployment) -> None:
    _set_lanes(made, 3)
    made.start()
    _wait_until_ready(made)
    server, database = made.sinks["sink"]
    target = f'"{made.source_database}".t4' if server.family == "postgresql" else "t4"
    server.execute(f"DROP TABLE {target}", database=database)
    with _Writer(made.source, made.source_database) as writer:
        made.wait_for_log("table_parked")
        writer.wait_for_more(50)
        parked = {t["table"].partition(".")[2]: t["lane"] for t in made.status()["tables"] if t["state"] == "parked"}
        assert parked == {"t4": 2}
        result = made.run("snapshot", f"{made.source_database}.t4")
        assert result.returncode == 0, result.stderr
        writer.wait_for_more(50)
    assert made.stop() == 0
    made.catch_up()
    made.assert_equal(*TABLES)
    loads = _events(made, "table_loaded")
    assert [entry["lane"] for entry in loads if entry["table"].endswith(".t4")] == [parked["t4"]] * 2
    assert len(loads) == len(TABLES) + 1


def test_a_second_instance_gets_none_of_the_lanes(to_pg: Deployment) -> None:
    _set_lanes(to_pg, 3)
    to_pg.start()
    _wait_until_ready(to_pg)
    result = to_pg.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert "is run by" in result.stderr
    _set_lanes(to_pg, 1)
    result = to_pg.run("run", "--until-caught-up")
    assert result.returncode == 1
    assert "is run by" in result.stderr
    result = to_pg.run("checkpoint", "reset", "--yes")
    assert result.returncode == 2
    to_pg.source.execute("UPDATE t3 SET v = 'still here' WHERE id = 3", database=to_pg.source_database)
    assert to_pg.stop() == 0
    to_pg.catch_up()
    to_pg.assert_equal(*TABLES)


@pytest.mark.any_server
def test_a_takeover_takes_every_lane_and_the_sleeper_writes_nothing(made: Deployment) -> None:
    made.config["lease"] = {"seconds": 3}
    _set_lanes(made, 3)
    process = made.start()
    _wait_until_ready(made)
    with _Writer(made.source, made.source_database) as writer, _Sampler(made):
        writer.wait_for_more(20)
        process.send_signal(signal.SIGSTOP)
        try:
            made.catch_up()
            writer.wait_for_more(20)
        finally:
            process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 1
        assert "has taken" in made.log()
    made.process = None
    made.catch_up()
    made.assert_equal(*TABLES)


def test_fewer_lanes_take_the_lease_of_one_that_its_sleeping_holder_has_not_used_yet(to_pg: Deployment) -> None:
    """Nothing but the lease says that there is a third lane."""
    made = to_pg
    made.config["lease"] = {"seconds": 3}
    process = _start_and_stop_before_it_deals(made)
    try:
        before = _epoch(made, 3)
        _set_lanes(made, 2)
        made.catch_up()
        taken = _epoch(made, 3)
        assert taken > before
        assert list(_lanes(made)) == [1, 2]
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 1
    assert "has taken" in made.log()
    made.process = None
    made.catch_up()
    made.assert_equal(*TABLES)
    assert _epoch(made, 3) == taken, "a lease that was let go is nobody's"


def _start_and_stop_before_it_deals(one: Deployment) -> Process:
    """With three lanes; SIGSTOP comes when it has all leases, and nothing else."""
    _set_lanes(one, 3)
    server, database = one.sinks["sink"]
    with contextlib.ExitStack() as stack:
        Place(server, database, stack).store("another/sink")  # makes the metadata tables
        connection = stack.enter_context(contextlib.closing(server.connect(database)))
        cursor = stack.enter_context(connection.cursor())
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE _cdc.prepared IN ACCESS EXCLUSIVE MODE")
        process = one.start()
        wait_until(lambda: _epoch(one, 3), 30, "the lease of the third lane")
        process.send_signal(signal.SIGSTOP)
    return process


def _epoch(one: Deployment, lane: int) -> int:
    """Of the lane's lease; 0 where it has none."""
    server, database = one.sinks["sink"]
    name = f"{one.config['name']}/sink#{lane}"
    rows = server.execute("SELECT epoch FROM _cdc.lease WHERE pipeline = %s", (name,), database=database)
    return int(rows[0][0]) if rows else 0


def test_a_table_that_is_recorded_in_two_lanes_is_named_and_nothing_is_written(to_pg: Deployment) -> None:
    _set_lanes(to_pg, 2)
    to_pg.catch_up()
    server, database = to_pg.sinks["sink"]
    table = next(table for table, lane in _lane_of(to_pg).items() if lane == 1)
    name, source = f"{to_pg.config['name']}/sink", f'["{to_pg.source_database}","{table}"]'
    server.execute(
        "INSERT INTO _cdc.tables SELECT (jsonb_populate_record(t, jsonb_build_object('pipeline', %s))).* "
        "FROM _cdc.tables t WHERE pipeline = %s AND source_table = %s",
        (f"{name}#2", name, source),
        database=database,
    )
    to_pg.source.execute(f"UPDATE {table} SET v = 'later'", database=to_pg.source_database)
    result = to_pg.run("run", timeout=60)
    assert result.returncode == 1
    assert f"{to_pg.source_database}.{table} is recorded in two lanes, 1 and 2" in result.stderr
    assert f"pipeline {name}#2" in result.stderr
    assert "later" not in str(to_pg.sink_rows("sink", table))
    server.execute(
        "DELETE FROM _cdc.tables WHERE pipeline = %s AND source_table = %s", (f"{name}#2", source), database=database
    )
    to_pg.catch_up()
    to_pg.assert_equal(*TABLES)


@pytest.mark.any_server
def test_a_lane_that_fails_for_good_ends_them_all(made: Deployment) -> None:
    """Its checkpoint is damaged while it runs, and read again when it has to load a table."""
    _set_lanes(made, 2)
    made.catch_up()
    process = made.start()
    wait_until(lambda: made.status()["sinks"][0]["state"] == "caught_up", 30, "caught_up")
    table = next(table for table, lane in _lane_of(made).items() if lane == 2)
    server, database = made.sinks["sink"]
    metadata = "_cdc.checkpoint" if server.family == "postgresql" else "_cdc_checkpoint"
    name = f"{made.config['name']}/sink#2"
    right = server.execute(f"SELECT position FROM {metadata} WHERE pipeline = '{name}'", database=database)[0][0]
    server.execute(f"UPDATE {metadata} SET position = 'torn' WHERE pipeline = '{name}'", database=database)
    assert made.run("snapshot", f"{made.source_database}.{table}").returncode == 1
    assert process.wait(30) == 1
    made.process = None
    assert "damaged" in made.log()
    assert made.run("run", timeout=60).returncode == 1  # nor does it start so
    assert made.status()["sinks"][0]["state"] == "failed"
    server.execute(f"UPDATE {metadata} SET position = '{right}' WHERE pipeline = '{name}'", database=database)
    made.source.execute("UPDATE t1 SET v = 'after' WHERE id < 20", database=made.source_database)
    made.catch_up()
    made.assert_equal(*TABLES)


def test_status_is_one_sink_with_its_lanes_running_and_stopped(to_pg: Deployment) -> None:
    _set_lanes(to_pg, 2)
    to_pg.start()
    _wait_until_ready(to_pg)
    wait_until(lambda: to_pg.status()["sinks"][0]["state"] == "caught_up", 30, "caught_up")
    running = to_pg.status()
    text = to_pg.run("status").stdout
    assert to_pg.stop() == 0
    stopped = to_pg.status()
    for document, state in ((running, "caught_up"), (stopped, "stopped")):
        (sink,) = document["sinks"]
        assert set(sink) >= {"name", "kind", "state", "position", "lag_seconds", "last_commit", "error"}
        assert (sink["state"], sink["lag_seconds"], sink["error"]) == (state, 0, None)
        assert [lane["lane"] for lane in sink["lanes"]] == [1, 2]
        assert sink["position"]["pos"] == min(lane["position"]["pos"] for lane in sink["lanes"])
        for lane in sink["lanes"]:
            assert set(lane) >= {"lane", "state", "position", "lag_seconds", "last_commit", "tables", "error"}
            assert (lane["state"], lane["lag_seconds"], lane["tables"]) == (state, 0, 3)
        assert [table["table"].partition(".")[2] for table in document["tables"]] == list(TABLES)
        assert sorted(table["lane"] for table in document["tables"]) == [1, 1, 1, 2, 2, 2]
    assert "lane 1" in text
    shown = json.loads(to_pg.run("checkpoint", "show", "--json").stdout)
    assert [lane["lane"] for lane in shown[0]["lanes"]] == [1, 2]
    assert shown[0]["position"] == stopped["sinks"][0]["position"]


def test_a_stopped_lane_shows_in_the_sinks_state(to_pg: Deployment) -> None:
    """The sink is as its worst lane: one that waits for a lock is behind, and so is the sink."""
    _set_lanes(to_pg, [[f"{to_pg.source_database}.t0"], ["*"]])
    to_pg.start()
    _wait_until_ready(to_pg)
    server, database = to_pg.sinks["sink"]
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f'LOCK TABLE "{to_pg.source_database}".t0 IN SHARE MODE')
        to_pg.source.execute("UPDATE t0 SET v = 'waits'", database=to_pg.source_database)
        to_pg.source.execute("UPDATE t5 SET v = 'passes'", database=to_pg.source_database)
        wait_until(lambda: to_pg.sink_rows("sink", "t5")[1][2] == "passes", 30, "the other lane")
        sink = wait_until(lambda: _behind(to_pg), 30, "a lag")
        assert sink["state"] == "streaming"
        assert sink["position"] == sink["lanes"][0]["position"]
        cursor.execute("ROLLBACK")
    wait_until(lambda: to_pg.status()["sinks"][0]["state"] == "caught_up", 30, "caught_up")


def _behind(one: Deployment) -> dict[str, Any]:
    """The sink once one lane of it is."""
    sink: dict[str, Any] = one.status()["sinks"][0]
    return sink if (sink["lag_seconds"] or 0) > 1 and sink["lanes"][1]["state"] == "caught_up" else {}


@pytest.mark.any_server
def test_a_table_that_comes_while_lanes_run_is_followed_by_one_of_them(made: Deployment) -> None:
    _set_lanes(made, 3)
    made.start()
    _wait_until_ready(made)
    for name in ("new1", "new2", "new3"):
        made.source.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, n INT)", database=made.source_database)
        made.source.execute(f"INSERT INTO {name} VALUES (1, 1), (2, 2)", database=made.source_database)
    made.wait_for_log("schema_followed", count=3)
    assert made.stop() == 0
    made.catch_up()
    made.assert_equal(*TABLES, "new1", "new2", "new3")
    lanes = _lane_of(made)
    assert {lanes[name] for name in ("new1", "new2", "new3")} == {1, 2, 3}
    assert len(_events(made, "table_loaded")) == len(TABLES)  # a table that is seen to be made has no rows to load


def test_ddl_reaches_the_lanes_of_all_tables_that_it_names(made: Deployment) -> None:
    _set_lanes(made, 3)
    made.start()
    _wait_until_ready(made)
    for statement in (
        "ALTER TABLE t1 ADD COLUMN more INT NOT NULL DEFAULT 7",
        "UPDATE t1 SET more = id WHERE id > 30",
        "TRUNCATE TABLE t2",
        "INSERT INTO t2 VALUES (1, 1, 'after')",
        "RENAME TABLE t3 TO was_t3, t4 TO t3",
        "UPDATE t3 SET v = 'was t4' WHERE id < 20",
        "UPDATE was_t3 SET v = 'was t3' WHERE id < 20",
        "DROP TABLE t0, t5",
    ):
        made.source.execute(statement, database=made.source_database)
    made.stop()
    _set_lanes(made, 2)
    made.catch_up()
    made.assert_equal("t1", "t2", "t3", "was_t3")
    states = {table["table"].partition(".")[2]: table["state"] for table in made.status()["tables"]}
    assert {name for name, state in states.items() if state == "ready"} == {"t1", "t2", "t3", "was_t3"}
    gone = {name for name, state in states.items() if state == "dropped"}
    # Of t4, which has another name now, the next session says no more.
    assert {"t0", "t5"} <= gone <= {"t0", "t4", "t5"}


def test_loads_run_at_once(to_pg: Deployment) -> None:
    """Lane 1's load is held up by a lock on the source; lane 2 loads meanwhile."""
    database = to_pg.source_database
    _set_lanes(to_pg, [[f"{database}.t0"], ["*"]])
    with contextlib.closing(to_pg.source.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES t0 WRITE")
        to_pg.start()
        to_pg.wait_for_log("table_loaded", count=5)
        assert {entry["lane"] for entry in _events(to_pg, "table_loaded")} == {2}
    _wait_until_ready(to_pg)
    assert to_pg.stop() == 0
    to_pg.catch_up()
    to_pg.assert_equal(*TABLES)


def test_tables_stay_where_they_are_while_a_prepared_transaction_waits(made: Deployment) -> None:
    _set_lanes(made, 2)
    made.start()
    _wait_until_ready(made)
    database = made.source_database
    with _prepared(made):
        wait_until(lambda: made.status()["sinks"][0]["prepared"]["count"] == 2, 30, "both lanes to keep its rows")
        before = _lane_of(made)
        made.stop()
        _set_lanes(made, 1)
        made.start()
        made.wait_for_log("lanes_not_dealt")
        made.source.execute("UPDATE t5 SET v = 'on its way' WHERE id = 8", database=database)
        made.source.execute("XA COMMIT 'waiting'")
    wait_until(lambda: made.status()["sinks"][0]["prepared"]["count"] == 0, 30, "its end")
    assert _lane_of(made) == before
    made.stop()
    made.catch_up()
    made.assert_equal(*TABLES)
    assert set(_lane_of(made).values()) == {1}
    assert len(_events(made, "table_loaded")) == len(TABLES)


@contextlib.contextmanager
def _prepared(one: Deployment) -> Iterator[None]:
    """An XA transaction over all tables, prepared; rolled back where nobody has ended it, for the sake of its locks."""
    with contextlib.closing(one.source.connect(one.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("XA START 'waiting'")
        for table in TABLES:
            cursor.execute(f"UPDATE {table} SET v = 'prepared' WHERE id = 7")
        cursor.execute("XA END 'waiting'")
        cursor.execute("XA PREPARE 'waiting'")
    try:
        yield
    finally:
        with contextlib.suppress(pymysql.MySQLError):
            one.source.execute("XA ROLLBACK 'waiting'")


def test_a_snapshot_is_carried_out_after_its_table_changed_lanes(to_pg: Deployment) -> None:
    """`cdc snapshot` without a service, with another number of lanes: rows that are not ours are replaced."""
    made = to_pg
    made.catch_up()
    server, sink_database = made.sinks["sink"]
    for table in TABLES:
        server.execute(f"UPDATE \"{made.source_database}\".{table} SET v = 'altered'", database=sink_database)
    _set_lanes(made, 3)
    result = made.run("snapshot", *(f"{made.source_database}.{table}" for table in TABLES))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(" loaded, ") == len(TABLES)
    assert set(server.execute("SELECT state FROM _cdc.commands", database=sink_database)) == {("done",)}
    made.assert_equal(*TABLES)
    assert set(_lane_of(made).values()) == {1, 2, 3}


def test_a_reset_forgets_every_lane(to_pg: Deployment) -> None:
    _set_lanes(to_pg, 3)
    to_pg.catch_up()
    result = to_pg.run("checkpoint", "reset", "--yes")
    assert result.returncode == 0, result.stderr
    assert all(lane["position"]["file"] is None for lane in _lanes(to_pg).values())
    to_pg.start()
    to_pg.wait_for_log("table_loaded", count=len(TABLES))
    assert to_pg.stop() == 0
    to_pg.catch_up()
    to_pg.assert_equal(*TABLES)


def test_lanes_of_a_source_with_gtids_change_without_loading_again(
    tmp_path: Path, mysql97: Server, pg17: Server
) -> None:
    with deployment(tmp_path, mysql97, sink=pg17) as made:
        _create(mysql97, made.source_database)
        with _Writer(mysql97, made.source_database) as writer:
            for number, lanes in enumerate((3, 1, 2)):
                _set_lanes(made, lanes)
                made.start()
                if number == 0:
                    _wait_until_ready(made)
                made.wait_for_log("lanes_dealt", count=number)
                writer.wait_for_more(100)
                made.kill()
        made.catch_up()
        made.assert_equal(*TABLES)
        assert len(_events(made, "table_loaded")) == len(TABLES)
        assert len(_events(made, "lanes_dealt")) == 2


def test_tables_with_one_target_share_a_lane_and_one_is_parked(to_pg: Deployment) -> None:
    with fresh_database(to_pg.source) as other:
        to_pg.source.execute("CREATE TABLE t0 (id INT PRIMARY KEY, n BIGINT NOT NULL, v VARCHAR(40))", database=other)
        to_pg.config["tables"]["include"].append(f"{other}.*")
        to_pg.config["sinks"][0]["schema"] = "together"
        _set_lanes(to_pg, 3)
        assert to_pg.run("run", "--until-caught-up").returncode == 1
        tables = [table for table in to_pg.status()["tables"] if table["target"] == "together.t0"]
    assert sorted(table["state"] for table in tables) == ["parked", "ready"]
    assert len({table["lane"] for table in tables}) == 1


def test_without_every_lease_no_lane_writes_and_those_taken_are_left(to_pg: Deployment) -> None:
    """Another instance holds the last lane only: the others write nothing, and let their leases go."""
    _set_lanes(to_pg, 3)
    to_pg.config["lease"] = {"seconds": 3}
    to_pg.catch_up()
    before = {table: to_pg.sink_rows("sink", table) for table in TABLES}
    for table in TABLES:
        to_pg.source.execute(f"UPDATE {table} SET v = 'later' WHERE id < 20", database=to_pg.source_database)
    server, database = to_pg.sinks["sink"]
    name = f"{to_pg.config['name']}/sink#3"
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(0.2):
                with connection.cursor() as own:
                    own.execute(
                        "UPDATE _cdc.lease SET holder = 'somebody', session = '[]', expires_us = "
                        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 3000000 WHERE pipeline = %s",
                        (name,),
                    )

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            time.sleep(0.5)
            result = to_pg.run("run", timeout=60)
        finally:
            stop.set()
            thread.join()
        assert result.returncode == 1
        assert "is run by somebody" in result.stderr
        assert {table: to_pg.sink_rows("sink", table) for table in TABLES} == before
        cursor.execute("SELECT expires_us FROM _cdc.lease WHERE pipeline <> %s", (name,))
        assert cursor.fetchall() == [(0,), (0,)]
    to_pg.catch_up()
    to_pg.assert_equal(*TABLES)


def _check(one: Deployment, check: str) -> list[dict[str, Any]]:
    findings = json.loads(one.run("check", "--json").stdout)["findings"]
    return [finding for finding in findings if finding["check"] == check]


def test_check_warns_of_foreign_keys_from_lane_to_lane(tmp_path: Path, mariadb118: Server, mysql97: Server) -> None:
    with deployment(tmp_path, mariadb118, sink=mysql97) as made:
        database = made.source_database
        for server, name in ((mariadb118, database), made.sinks["sink"]):
            server.execute("CREATE TABLE parent (id INT PRIMARY KEY)", database=name)
            server.execute(
                "CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id))", database=name
            )
        _set_lanes(made, [[f"{database}.child"], ["*"]])
        (finding,) = _check(made, "sink.lanes")
        assert finding["severity"] == "warning"
        assert "child to " in finding["problem"]
        _set_lanes(made, 2)  # who knows
        assert _check(made, "sink.lanes")
        for together in ([[f"{database}.child", f"{database}.parent"], ["*"]], 1):
            _set_lanes(made, together)
            assert not _check(made, "sink.lanes")


def test_check_counts_the_connections_that_are_free(
    tmp_path: Path, mariadb118: Server, start_server: Callable[..., Server]
) -> None:
    small = start_server("pg17", options={"max_connections": 12})
    with deployment(tmp_path, mariadb118, sink=small) as made:
        _create(mariadb118, made.source_database)
        _set_lanes(made, 6)
        (finding,) = _check(made, "sink.lanes")
        assert finding["severity"] == "error"
        assert "6 lanes keep 13 connections" in finding["problem"]
        _set_lanes(made, 2)
        assert not _check(made, "sink.lanes")
