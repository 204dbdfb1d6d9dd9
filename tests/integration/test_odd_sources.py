"""The service on sources with every odd setting on: what their logs are made of is unusual, the copies are not."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cdc.binlog.constants import EventType
from cdc.binlog.framing import Event
from cdc.demo.servers import Options, Server
from tests.support.binlog_fetch import binlog_place, fetch_events, flatten
from tests.support.deployment import Deployment, deployment

COMMON = (
    "id INT PRIMARY KEY, n BIGINT UNSIGNED NULL, name VARCHAR(60) NOT NULL, doc JSON NULL, spare JSON NULL, "
    "at DATETIME(6) NULL, kind ENUM('new','it''s','') NULL, raw BLOB NULL, price DECIMAL(12,3) NOT NULL DEFAULT 1.5"
)
MYSQL_TABLES = (
    f"CREATE TABLE odd ({COMMON}, v VECTOR(3) NULL)",
    "CREATE TABLE other (a INT, b VARCHAR(20) COLLATE utf8mb4_bin, v VECTOR NULL, PRIMARY KEY (b, a))",
)
MARIADB_TABLES = (
    (
        f"CREATE TABLE odd ({COMMON}, vc VARCHAR(2000) COMPRESSED NULL, tc LONGTEXT COMPRESSED NULL, "
        "bc BLOB COMPRESSED NULL)"
    ),
    "CREATE TABLE other (a INT, b VARCHAR(20) COLLATE utf8mb4_bin, v TINYTEXT COMPRESSED NULL, PRIMARY KEY (b, a))",
)
# One column more than the tables have: read by nobody, and in the log all the same.
MYSQL_EXCLUDED = "CREATE TABLE hidden (id INT PRIMARY KEY AUTO_INCREMENT, v VECTOR(2))"
MARIADB_EXCLUDED = "CREATE TABLE hidden (id INT PRIMARY KEY AUTO_INCREMENT, v TEXT COMPRESSED)"


# ---------------------------------------------------------------- the writer


class Odd:
    """Writes transactions over both tables in one session, its settings changed between them. Seeded."""

    def __init__(self, made: Deployment, cursor: Any, *, seed: int, settings: Sequence[Sequence[str]]) -> None:
        self._made = made
        self._cursor = cursor
        self._random = random.Random(seed)
        self._settings = settings
        self._next_id = 1000 * seed
        self._is_mysql = made.source.family == "mysql"

    def write(self, count: int) -> None:
        rng, cursor = self._random, self._cursor
        for _ in range(count):
            for choices in self._settings:
                cursor.execute(rng.choice(choices))
            cursor.execute("BEGIN")
            for _ in range(rng.randint(1, 5)):
                self._change()
            cursor.execute("COMMIT" if rng.random() < 0.95 else "ROLLBACK")

    def _some(self) -> str:
        return f"MOD(id, 7) = {self._random.randrange(7)}"

    def _document(self) -> str:
        rng = self._random
        return json.dumps({"a": rng.randrange(99), "list": [1, {"b": "é" * rng.randrange(20)}], "pad": "x" * 300})

    def _change(self) -> None:
        rng, cursor = self._random, self._cursor
        match rng.randrange(9):
            case 0 | 1:
                self._insert()
            case 2:
                cursor.execute(
                    f"UPDATE odd SET doc = JSON_SET(doc, '$.a', %s, '$.new[0]', %s) WHERE {self._some()}",
                    (rng.randrange(99), rng.choice(["ü", "z" * 50])),
                )
            case 3:
                cursor.execute(
                    f"UPDATE odd SET doc = JSON_REMOVE(JSON_REPLACE(doc, '$.list[1].b', %s), '$.new'), "
                    f"spare = JSON_SET(spare, '$.k', 1.5), n = n ^ 1 WHERE {self._some()}",
                    ("t" * rng.randrange(60),),
                )
            case 4:
                cursor.execute(f"UPDATE odd SET price = -price, at = NULL, kind = '' WHERE {self._some()}")
            case 5:
                cursor.execute(f"DELETE FROM odd WHERE {self._some()} ORDER BY id LIMIT 1")
            case 6:
                cursor.execute(f"UPDATE odd SET id = id + 100000 WHERE {self._some()} AND id < 100000 LIMIT 2")
            case 7:
                cursor.execute("INSERT INTO hidden (v) VALUES (%s)", (b"\0\0\x80\x3f\0\0\0\xc0",))
            case _:
                value = b"\0\0\x80\x3f" if self._is_mysql else "short"
                row = (rng.randrange(20), rng.choice("abÄ ñ"), rng.choice([None, value]))
                cursor.execute("REPLACE INTO other VALUES (%s, %s, %s)", row)

    def _insert(self) -> None:
        rng = self._random
        self._next_id += 1
        row: list[Any] = [
            self._next_id,
            rng.choice([None, 0, (1 << 64) - 1]),
            rng.choice(["", "\\N\t'\"", "北京 🙂" * 8]),
            self._document(),
            rng.choice([None, "{}", '{"k": 18446744073709551615}']),
            rng.choice([None, "2024-02-29 23:59:59.999999"]),
            rng.choice([None, "new", "it's"]),
            rng.choice([None, b"", b"\0\xff\\" * 40]),
            rng.choice(["0", "-12345.678"]),
        ]
        if self._is_mysql:
            row += [rng.choice([None, b"\0\0\x80\x3f\0\0\0\xc0\xcd\xcc\xcc\x3d"])]
        else:
            row += [
                rng.choice([None, "", "v" * 1500]),
                rng.choice([None, "é" * 30_000]),
                rng.choice([b"", b"\0" * 900]),
            ]
        self._cursor.execute(f"INSERT INTO odd VALUES ({', '.join(['%s'] * len(row))})", row)


@contextlib.contextmanager
def odd_writer(made: Deployment, *, seed: int, settings: Sequence[Sequence[str]]) -> Iterator[Odd]:
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")
        yield Odd(made, cursor, seed=seed, settings=settings)


def replicate(made: Deployment, settings: Sequence[Sequence[str]]) -> list[Event]:
    """Load, follow a writer, be killed and started again meanwhile; then source and sinks must be equal. Gives what
    the source wrote into its log."""
    made.config["tables"]["exclude"] = [f"{made.source_database}.hidden"]
    place = binlog_place(made.source)
    with odd_writer(made, seed=1, settings=settings) as odd:
        odd.write(20)
        made.start()
        made.wait_for_log("table_ready", count=4)
        odd.write(60)
        made.kill()
        odd.write(30)
        made.start()
        made.wait_for_log("service_started", count=2)
        odd.write(60)
    assert made.stop() == 0
    made.catch_up()
    verified = made.run("verify", "--json")
    results = json.loads(verified.stdout)
    assert {(one["table"].partition(".")[2], one["sink"], one["state"]) for one in results} == {
        (table, sink, "equal") for table in ("odd", "other") for sink in made.sinks
    }, verified.stdout + verified.stderr
    assert {one["source_rows"] > 3 for one in results} == {True}
    assert verified.returncode == 0
    return fetch_events(made.source, place)


# ---------------------------------------------------------------- every kind of source


@pytest.mark.parametrize(
    "options",
    [
        {"binlog_transaction_compression": "ON", "binlog_row_value_options": "PARTIAL_JSON"},
        {
            "binlog_transaction_compression": "ON",
            "binlog_row_value_options": "PARTIAL_JSON",
            "binlog_row_metadata": "MINIMAL",
            "binlog_checksum": "NONE",
        },
    ],
    ids=["full_metadata", "minimal_metadata_no_checksum"],
)
def test_compressed_tagged_and_partial_transactions_with_vectors_end_equal(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, mysql97: Server, options: Options
) -> None:
    source = start_server("mysql97", options=options)
    with deployment(tmp_path, source, pg=pg15, mysql=mysql97) as made:
        for statement in (*MYSQL_TABLES, MYSQL_EXCLUDED):
            source.execute(statement, database=made.source_database)
        settings = (
            tuple(f"SET SESSION gtid_next = '{tag}'" for tag in ("AUTOMATIC", "AUTOMATIC:one", "AUTOMATIC:other_tag")),
            tuple(f"SET SESSION binlog_transaction_compression = {value}" for value in (1, 1, 1, 0)),
        )
        events = replicate(made, settings)
        inner = {event.header.event_type for event in flatten(events)}
    types = {event.header.event_type for event in events}
    assert types >= {EventType.TRANSACTION_PAYLOAD, EventType.GTID, EventType.GTID_TAGGED, EventType.XID}
    assert inner >= {EventType.PARTIAL_UPDATE_ROWS, EventType.WRITE_ROWS, EventType.DELETE_ROWS}


@pytest.mark.parametrize(
    "name,sink,options",
    [
        ("mariadb118", "mariadb1011", {}),
        ("mariadb1011", "mysql97", {"binlog_row_metadata": "NO_LOG", "binlog_checksum": "NONE"}),
    ],
)
def test_compressed_events_and_compressed_columns_end_equal(
    tmp_path: Path,
    start_server: Callable[..., Server],
    pg15: Server,
    request: pytest.FixtureRequest,
    name: str,
    sink: str,
    options: Options,
) -> None:
    compression = {"log_bin_compress": "ON", "log_bin_compress_min_len": "10"}
    source = start_server(name, options={**compression, **options})
    with deployment(tmp_path, source, pg=pg15, sink=request.getfixturevalue(sink)) as made:
        for statement in (*MARIADB_TABLES, MARIADB_EXCLUDED):
            source.execute(statement, database=made.source_database)
        settings = (
            tuple(f"SET SESSION gtid_domain_id = {number}" for number in (0, 0, 0, 7)),
            # an annotate event is one that is sent only to those who ask for it: it must not move a position
            tuple(f"SET SESSION binlog_annotate_row_events = {value}" for value in (0, 1)),
        )
        events = replicate(made, settings)
    types = {event.header.event_type for event in events}
    assert types >= {
        EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1,
        EventType.MARIADB_UPDATE_ROWS_COMPRESSED_V1,
        EventType.MARIADB_DELETE_ROWS_COMPRESSED_V1,
    }


# ---------------------------------------------------------------- members that are renumbered


@pytest.mark.parametrize("metadata", ["names", "no_names"])
@pytest.mark.parametrize("name", ["mysql97", "mariadb118"])
def test_members_renumbered_while_the_service_is_stopped(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, mariadb1011: Server, name: str, metadata: str
) -> None:
    """The number in an old event means the member that it was then (A17)."""
    options = {}
    if metadata == "no_names":
        options["binlog_row_metadata"] = "MINIMAL" if name == "mysql97" else "NO_LOG"
    with deployment(tmp_path, start_server(name, options=options), pg=pg15, maria=mariadb1011) as made:

        def execute(statement: str) -> None:
            made.source.execute(statement, database=made.source_database)

        execute("CREATE TABLE t (id INT PRIMARY KEY, e ENUM('a','b','c'), s SET('x','y','z'))")
        execute("INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', 'y,z')")
        made.catch_up()
        execute("INSERT INTO t VALUES (3, 'a', 'x'), (4, 'c', 'z')")
        execute("UPDATE t SET e = 'b', s = 'x,y' WHERE id = 1")
        execute("ALTER TABLE t MODIFY e ENUM('c','b','a','d'), MODIFY s SET('z','x','y')")
        execute("INSERT INTO t VALUES (5, 'a', 'x'), (6, 'd', 'z')")
        made.catch_up()
        made.assert_equal("t")


# ---------------------------------------------------------------- changes that are logged as statements


def test_a_change_logged_as_a_statement_stops_before_it_and_names_it(
    tmp_path: Path, source_server: Server, pg15: Server
) -> None:
    """binlog_format can be MIXED in one session alone. What came before is applied, the checkpoint stays there."""
    with deployment(tmp_path, source_server, pg=pg15) as made:
        database = made.source_database
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, v INT)", database=database)
        source_server.execute("INSERT INTO t VALUES (1, 1), (2, 2)", database=database)
        made.catch_up()
        source_server.execute("INSERT INTO t VALUES (3, 3)", database=database)
        expected = made.source_rows("t")
        place = binlog_place(source_server)
        with source_server.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION binlog_format = 'MIXED'")
            cursor.execute("UPDATE t SET v = v * 10 WHERE id < 3")
            connection.commit()
        source_server.execute("INSERT INTO t VALUES (4, 4)", database=database)
        for _ in range(2):  # stopped once, it stops there again
            began = time.monotonic()
            result = made.run("run", "--until-caught-up")
            assert result.returncode == 1
            said = [line for line in result.stderr.splitlines() if not line.startswith("{")]
            assert any("UPDATE t SET v = v * ? WHERE id < ?" in line and f"{database}.t" in line for line in said), said
            assert any("binlog_format=ROW" in line for line in said), said
            assert made.sink_rows("pg", "t") == expected
            (checkpoint,) = json.loads(made.run("checkpoint", "show", "--json").stdout)
            assert (checkpoint["position"]["file"], checkpoint["position"]["pos"]) == place
            assert time.monotonic() - began < 30
