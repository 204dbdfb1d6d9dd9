"""A source transaction larger than memory may be: in parts into one open sink transaction, all of it or nothing.

Each test stops the service in the middle of it, without luck: somebody holds the row that the transaction changes
after its first tenth, so that the service waits there for as long as the test wants. Meanwhile nothing is visible;
then something goes wrong; in the end everything is there.

30 000 rows; a million with `CDC_CRASH_TESTS=all`, or as many as `CDC_LARGE_ROWS` says.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.beside import Beside, Holder
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import through

ROWS = int(os.environ.get("CDC_LARGE_ROWS") or (1_000_000 if os.environ.get("CDC_CRASH_TESTS") == "all" else 30_000))
PAD_BYTES = 100
PART_BYTES = 128 * 1024
PATIENCE_SECONDS = 120 + ROWS / 2_000

pytestmark = [pytest.mark.crash, pytest.mark.timeout(5 * PATIENCE_SECONDS)]

PLACES = [
    ("mariadb1011", "pg15"),
    ("mysql97", "mariadb1011"),
    pytest.param(("mariadb1011", "mysql97"), marks=pytest.mark.full),
]


def _numbers(rows: int) -> str:
    """A derived table of the numbers from 1 to at least `rows`, in the SQL that MySQL and MariaDB share."""
    digits = "(SELECT 0 AS d UNION ALL " + " UNION ALL ".join(f"SELECT {n}" for n in range(1, 10)) + ")"
    places = range(len(str(rows - 1)))
    total = " + ".join(f"{10**place} * t{place}.d" for place in places)
    return f"(SELECT 1 + {total} AS n FROM {', '.join(f'{digits} t{place}' for place in places)})"


def _create(source: Server, database: str) -> None:
    for statement in (
        "CREATE TABLE big (id INT PRIMARY KEY, v MEDIUMTEXT NOT NULL, w INT NULL)",
        "CREATE TABLE pivot (id INT PRIMARY KEY, v VARCHAR(20))",
        "CREATE TABLE accounts (id INT PRIMARY KEY, v VARCHAR(20), balance INT NOT NULL)",
        "CREATE TABLE checked (id INT PRIMARY KEY, v VARCHAR(20))",
        "INSERT INTO pivot VALUES (1, 'first'), (2, 'second')",
        "INSERT INTO accounts VALUES (1, 'one', 1000), (2, 'two', 1000)",
        "INSERT INTO checked VALUES (1, 'before')",
    ):
        source.execute(statement, database=database)


def _write(source: Server, database: str, rows: int = ROWS, pad_bytes: int = PAD_BYTES) -> None:
    """The large transaction. What it does to one row comes in parts far from each other."""
    insert = f"INSERT INTO big SELECT n, RPAD(CONCAT('row ', n), {pad_bytes}, '.'), n FROM {_numbers(rows)} AS x WHERE"
    with contextlib.closing(source.connect(database)) as connection, connection.cursor() as cursor:
        for statement in (
            "BEGIN",
            "UPDATE accounts SET balance = balance - 400 WHERE id = 1",
            f"{insert} n <= {rows // 10} ORDER BY n",
            "UPDATE pivot SET v = 'changed' WHERE id = 1",
            f"{insert} n > {rows // 10} AND n <= {rows // 2} ORDER BY n",
            "INSERT INTO checked VALUES (6, 'fine'), (7, 'refused'), (8, 'fine')",
            f"{insert} n > {rows // 2} AND n <= {rows} ORDER BY n",
            "UPDATE pivot SET v = 'changed' WHERE id = 2",
            f"UPDATE big SET w = -w WHERE id <= {rows // 20}",
            f"DELETE FROM big WHERE id > {rows - rows // 20} AND id % 2 = 0",
            f"UPDATE big SET id = id + {10 * rows} WHERE id BETWEEN {rows // 2} AND {rows // 2 + 100}",
            "UPDATE accounts SET balance = balance + 400 WHERE id = 2",
            "COMMIT",
        ):
            cursor.execute(statement)


@pytest.fixture(params=PLACES, ids=lambda place: "-to-".join(place))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose tables are loaded; nothing runs."""
    source_name, sink_name = request.param
    with deployment(tmp_path, request.getfixturevalue(source_name), sink=request.getfixturevalue(sink_name)) as one:
        yield _loaded(one)


def _loaded(one: Deployment) -> Deployment:
    one.config["flush"] = {"bytes_max": PART_BYTES}
    one.config["queue_bytes_max"] = 1 << 20
    _create(one.source, one.source_database)
    one.catch_up()
    return one


class Middle:
    """The service waits in the middle of the large transaction: for `holder`, by its `session` on the sink."""

    def __init__(self, sink: Beside, holder: Holder, session: int) -> None:
        self.sink = sink
        self.holder = holder
        self.session = session


@contextlib.contextmanager
def _in_the_middle(made: Deployment, rows: int = ROWS, pad_bytes: int = PAD_BYTES) -> Iterator[Middle]:
    """The service as a process of its own, stuck; nothing of what it has put into the sink is visible."""
    sink = Beside(made)
    before = 0 if not sink.is_postgresql else sink.changed_bytes("big", 0)
    with sink.holding("pivot", 1) as holder:
        made.start()
        _write(made.source, made.source_database, rows, pad_bytes)
        session = sink.waiter(holder, PATIENCE_SECONDS)
        assert sink.changed_bytes("big", session) > before, "parts have been put into the open transaction"
        _assert_nothing_is_there(sink)
        yield Middle(sink, holder, session)


def _assert_nothing_is_there(sink: Beside) -> None:
    assert sink.count("big") == 0
    assert sorted(sink.execute(f"SELECT id, balance FROM {sink.table('accounts')}")) == [(1, 1000), (2, 1000)]
    assert sink.execute(f"SELECT count(*) FROM {sink.table('pivot')} WHERE v = 'changed'") == _one_row(0)
    assert sink.count("checked") == 1


def _one_row(value: Any) -> list[tuple[Any]]:
    return [(value,)]


def _assert_all_is_there(made: Deployment) -> None:
    """Both sides are the same: the large table by count and checksum."""
    sink = Beside(made)
    of_source = made.source.execute(_checksum("big", is_postgresql=False), database=made.source_database)
    assert [tuple(map(int, row)) for row in sink.execute(_checksum(sink.table("big"), sink.is_postgresql))] == [
        tuple(map(int, row)) for row in of_source
    ]
    assert of_source[0][0] == sink.count("big") > 0
    made.assert_equal("pivot", "accounts", "checked")


def _checksum(table: str, is_postgresql: bool) -> str:
    row = "concat_ws(',', id, v, w)"
    if is_postgresql:
        number = f"('x' || substr(encode(sha256(convert_to({row}, 'UTF8')), 'hex'), 1, 8))::bit(32)::bigint"
    else:
        number = f"CONV(SUBSTR(SHA2({row}, 256), 1, 8), 16, 10)"
    return f"SELECT count(*), sum(id), sum(w), sum({number}) FROM {table}"


def _wait_until_there(made: Deployment) -> None:
    sink = Beside(made)
    statement = f"SELECT balance FROM {sink.table('accounts')} WHERE id = 2"
    wait_until(lambda: sink.execute(statement) == _one_row(1400), PATIENCE_SECONDS * 3, "the large transaction")


def test_kill_9_leaves_nothing_and_the_restart_brings_all(made: Deployment) -> None:
    with _in_the_middle(made) as middle:
        made.kill()
        _assert_nothing_is_there(middle.sink)
        middle.holder.release()
        middle.sink.wait_until_gone(middle.session)
        _assert_nothing_is_there(middle.sink)
    made.catch_up(timeout=PATIENCE_SECONDS * 3)
    _assert_all_is_there(made)


def test_a_restart_does_not_wait_for_the_session_that_the_killed_one_left_behind(made: Deployment) -> None:
    """It waits for the held row, with all its rows and locks: the next instance ends it."""
    with _in_the_middle(made) as middle:
        made.kill()
        made.start()
        middle.sink.wait_until_gone(middle.session)
        assert middle.sink.waiter(middle.holder, PATIENCE_SECONDS) != middle.session
        _assert_nothing_is_there(middle.sink)
        middle.holder.release()
    _wait_until_there(made)
    _assert_all_is_there(made)


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_kill_9_around_the_commit(made: Deployment, point: str) -> None:
    """All of it or nothing, and never twice."""
    _write(made.source, made.source_database)
    code = made.start(crash_at=point).wait(PATIENCE_SECONDS * 3)
    assert code == -9, made.log()[-3000:]
    made.process = None
    sink = Beside(made)
    if point == "after_commit":
        wait_until(lambda: sink.count("checked") == 4, 30, "the commit")
    else:
        _assert_nothing_is_there(sink)
    made.catch_up(timeout=PATIENCE_SECONDS * 3)
    _assert_all_is_there(made)


def test_the_sinks_session_is_killed(made: Deployment) -> None:
    with _in_the_middle(made) as middle:
        middle.sink.end(middle.session)
        middle.sink.wait_until_gone(middle.session)
        made.wait_for_log("pipeline_retrying")
        _assert_nothing_is_there(middle.sink)
        middle.holder.release()
    _wait_until_there(made)
    _assert_all_is_there(made)


def test_a_dead_lock_with_somebody_else(made: Deployment) -> None:
    """Whoever else is in it is left alone: the sink rolls back ours, and the transaction starts again."""
    sink = Beside(made)
    if not sink.is_postgresql:
        sink.execute(f"CREATE TABLE {sink.table('weight')} (id INT) ENGINE=MyISAM")
    with sink.holding("pivot", 2) as other, _in_the_middle(made) as middle:
        if sink.is_postgresql:
            other.execute("SET deadlock_timeout = '1h'")  # whose runs out first is the one that is aborted
        else:
            other.execute(f"INSERT INTO {sink.table('weight')} VALUES (1)")  # InnoDB aborts who can be undone
        statement = f"UPDATE {sink.table('accounts')} SET v = 'held' WHERE id = 1"
        waits = threading.Thread(target=other.execute, args=(statement,), daemon=True)
        waits.start()
        wait_until(lambda: _waits(sink, other), 30, "the other one to wait for our row")
        middle.holder.release()
        made.wait_for_log("pipeline_retrying", timeout=PATIENCE_SECONDS)
        waits.join(PATIENCE_SECONDS)
        assert not waits.is_alive()
        assert "40P01" in made.log() if sink.is_postgresql else "1213" in made.log()
        _assert_nothing_is_there(sink)
        other.release()
    _wait_until_there(made)
    _assert_all_is_there(made)


def _waits(sink: Beside, holder: Holder) -> bool:
    if sink.is_postgresql:
        statement = f"SELECT 1 FROM pg_stat_activity WHERE pid = {holder.session} AND wait_event_type = 'Lock'"
    else:
        statement = (
            "SELECT 1 FROM information_schema.INNODB_TRX "
            f"WHERE trx_mysql_thread_id = {holder.session} AND trx_state = 'LOCK WAIT'"
        )
    return bool(sink.execute(statement))


def test_a_refused_row_parks_its_table_and_the_others_rows_arrive(made: Deployment) -> None:
    sink = Beside(made)
    sink.execute(f"ALTER TABLE {sink.table('checked')} ADD CONSTRAINT polite CHECK (v <> 'refused')")
    made.start()
    _write(made.source, made.source_database)
    made.wait_for_log("table_parked", timeout=PATIENCE_SECONDS * 3)
    _wait_until_there(made)
    assert sink.count("checked") == 1
    (error,) = [t["error"] for t in made.status()["tables"] if t["error"]]
    assert error["class"] == "SinkRefused"
    assert error["key"] == "id=7"
    assert f"{made.source_database}.checked" in error["message"] + error["hint"]
    assert "polite" in error["message"]
    assert "cdc snapshot" in error["hint"]
    drop = "DROP CONSTRAINT polite"
    sink.execute(f"ALTER TABLE {sink.table('checked')} {drop}")
    result = made.run("snapshot", f"{made.source_database}.checked")
    assert result.returncode == 0, result.stderr
    made.wait_for_log("table_ready")
    _assert_all_is_there(made)


@contextlib.contextmanager
def _behind_proxy(made: Deployment) -> Iterator[Any]:
    with through(made.config["source"]["url"]) as (proxy, url):
        made.config["source"]["url"] = url
        yield proxy


def test_the_sources_dump_is_cut(made: Deployment) -> None:
    sink = Beside(made)
    with _behind_proxy(made) as proxy:
        made.start()
        proxy.cut_after(ROWS * PAD_BYTES // 2)
        _write(made.source, made.source_database)
        made.wait_for_log("pipeline_retrying", timeout=PATIENCE_SECONDS)
        assert "SourceUnavailable" in made.log()
        _assert_nothing_is_there(sink)
        proxy.thaw()
        _wait_until_there(made)
        _assert_all_is_there(made)


NET_WRITE_SECONDS = 1
# 60 MB in few rows: more than what the kernel's buffers hold between the source and a service that does not read.
WIDE_ROWS, WIDE_BYTES = 1_200, 50_000


@pytest.mark.parametrize("source_name", ["mariadb1011", "mysql97"])
def test_a_merge_longer_than_the_sources_net_write_timeout_does_not_cut_the_stream(
    tmp_path: Path, source_name: str, start_server: Callable[..., Server], pg15: Server
) -> None:
    """The dump session has a limit of its own: nothing is cut, nothing starts again."""
    source = start_server(source_name, options={"net_write_timeout": NET_WRITE_SECONDS})
    with deployment(tmp_path, source, sink=pg15) as made:
        _loaded(made)
        with _in_the_middle(made, WIDE_ROWS, WIDE_BYTES) as middle:
            wait_until(lambda: _has_unsent_bytes(source), 30, "the source to have more to send than it can")
            since = time.monotonic()
            wait_until(
                lambda: time.monotonic() > since + 3 * NET_WRITE_SECONDS or not _has_unsent_bytes(source),
                30,
                "the source to lose patience",
            )
            assert _has_unsent_bytes(source)
            assert "pipeline_retrying" not in made.log()
            middle.holder.release()
        _wait_until_there(made)
        assert "pipeline_retrying" not in made.log()
        _assert_all_is_there(made)


def _has_unsent_bytes(source: Server) -> bool:
    """Is there a connection to the server whose other side takes no more? By the kernel's table of sockets."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == source.port and int(queues.partition(":")[0], 16):
            return True
    return False
