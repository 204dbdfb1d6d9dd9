"""`cdc tail` on real servers: live, beside others, and over the files that they wrote.

The oracle for values is the server's own SELECT of the same row.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc.binlog.constants import BINLOG_MAGIC, EventFlag, EventType
from cdc.binlog.framing import parse_header
from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.binlog_fetch import Place, binlog_place, fetch_contents

ROOT = Path(__file__).parents[2]
COMMON_TYPES = """
    id INT PRIMARY KEY, u BIGINT UNSIGNED, d DECIMAL(30,10), f FLOAT, g DOUBLE, b BIT(12), y YEAR, dt DATE,
    dtm DATETIME, dtm3 DATETIME(3), ts TIMESTAMP(6) NULL, tm TIME(2), v VARCHAR(50), l VARCHAR(20) CHARACTER SET latin1,
    bin BINARY(4), bl BLOB, e ENUM('a','b"c','ü'), s SET('x','y','z'), j JSON
"""
ROWS = (
    """
    1, 18446744073709551615, 12345678901234567890.0000000001, 0.1, 1e300, b'101010101010', 2024, '2024-02-29',
    '0000-00-00 00:00:00', '2024-02-29 10:00:00.123', '2038-01-19 03:14:07.999999', '-838:59:59',
    'he"l\\nlo ü \\\\', 'é€', x'01020000', x'ff00', 'b"c', 'x,z', '{"a": [1, 2.50, "x\\\\ny"]}'
    """,
    "2" + ", NULL" * 18,
    """
    3, 0, -0.0000000001, -16777216, -5e-324, 0, 0, '0000-00-00', '2023-00-15 00:00:00', '1000-01-01 00:00:00',
    '0000-00-00 00:00:00', '-00:00:00.01', '', '', '', '', 'bogus', '', 'null'
    """,
)


class Follower:
    """A `cdc tail` of its own configuration, which names no sink."""

    def __init__(self, directory: Path, server: Server, database: str) -> None:
        self.directory = directory
        self.config: dict[str, Any] = {
            "name": "tail-test",
            "source": {"url": server.url, "server_id": 1_000_000 + int.from_bytes(os.urandom(3), "big")},
            "tables": {"include": [f"{database}.*"]},
        }
        self.processes: list[subprocess.Popen[str]] = []

    def command(self, *arguments: str) -> list[str]:
        (self.directory / "config.yaml").write_text(yaml.safe_dump(self.config))
        return [sys.executable, "-m", "cdc", "tail", *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, code: int = 0) -> list[Any]:
        """Run to the end; the lines."""
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == code, result.stderr
        self.stderr = result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[[Server, str], Follower]]:
    with contextlib.ExitStack() as stack:

        def make(server: Server, database: str) -> Follower:
            follower = Follower(tmp_path, server, database)
            stack.callback(follower.close)
            return follower

        yield make


def execute(server: Server, database: str, *statements: str) -> None:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = '', time_zone = '+00:00'")
        for statement in statements:
            cursor.execute(statement)
        connection.commit()


def lines_of(process: subprocess.Popen[str], count: int) -> list[Any]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def is_live(server: Server, follower: Follower) -> bool:
    """Does one of its dump sessions read the log?"""
    block = range(follower.config["source"]["server_id"], follower.config["source"]["server_id"] + 16)
    statement = "SHOW REPLICAS" if server.family == "mysql" else "SHOW SLAVE HOSTS"
    return any(int(row[0]) in block for row in server.execute(statement))


def position(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def write_file(server: Server, place: Place, directory: Path) -> Path:
    """The binlog file as it is on the server's disk: what it sends from the beginning, as far as it is written."""
    path = directory / place[0]
    with path.open("wb") as file:
        file.write(BINLOG_MAGIC)
        for content in fetch_contents(server, (place[0], 4), annotate=True):
            header = parse_header(content)
            if header.event_type == EventType.ROTATE and header.flags & EventFlag.ARTIFICIAL:
                if file.tell() > len(BINLOG_MAGIC):
                    break  # the next file begins
                continue
            file.write(content)
    return path


# ---------------------------------------------------------------- values


def test_every_type_is_printed_as_the_server_prints_it(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    name = database(source_server)
    place = binlog_place(source_server)
    execute(source_server, name, f"CREATE TABLE t ({COMMON_TYPES})", *(f"INSERT INTO t VALUES ({row})" for row in ROWS))
    select = (
        "SELECT id, u, CAST(d AS CHAR), f + 0e0, g, CAST(b AS UNSIGNED), CAST(y AS UNSIGNED), CAST(dt AS CHAR), "
        "CAST(dtm AS CHAR), CAST(dtm3 AS CHAR), CAST(ts AS CHAR), CAST(tm AS CHAR), v, CONVERT(l USING utf8mb4), "
        "LOWER(HEX(bin)), LOWER(HEX(bl)), CAST(e AS CHAR), CAST(s AS CHAR), CAST(j AS CHAR) "
        "FROM t ORDER BY id"
    )
    with contextlib.closing(source_server.connect(name)) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(select)
        expected = [list(row) for row in cursor.fetchall()]

    lines = follow(source_server, name).run("--from", position(place), "--until-caught-up", "--operation", "insert")

    assert len(lines) == len(expected)
    for line, row in zip(lines, expected, strict=True):
        printed = dict(line["after"])
        if printed["ts"] is not None and not printed["ts"].startswith("0000"):
            printed["ts"] = printed["ts"].replace("T", " ").removesuffix("Z")
        if printed["f"] is not None:
            printed["f"] = struct.unpack("<f", struct.pack("<f", printed["f"]))[0]
        if printed["j"] is not None or row[18] == "null":
            printed["j"] = row[18] if json.loads(row[18]) == printed["j"] else printed["j"]
        assert list(printed.values()) == row


def test_types_of_mariadb_alone(
    mariadb118: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower], tmp_path: Path
) -> None:
    name = database(mariadb118)
    place = binlog_place(mariadb118)
    execute(
        mariadb118,
        name,
        "CREATE TABLE t (id INT PRIMARY KEY, u UUID, a INET6, b INET4, v VECTOR(2) NOT NULL, j JSON)",
        "INSERT INTO t VALUES (1, '123e4567-e89b-12d3-a456-426614174000', '::1', '10.0.0.1', "
        "Vec_FromText('[0.5,-2]'), '{\"a\": 1.10}')",
    )
    follower = follow(mariadb118, name)
    row = follower.run("--from", position(place), "--until-caught-up", "--operation", "insert")[0]["after"]
    assert row == {
        "id": 1,
        "u": "123e4567-e89b-12d3-a456-426614174000",
        "a": "::1",
        "b": "10.0.0.1",
        "v": [0.5, -2],
        "j": {"a": 1.1},
    }
    # The log itself knows them as bytes and text.
    file = write_file(mariadb118, place, tmp_path)
    of_file = follower.run(f"{name}.t", "--operation", "insert", "--binlog", str(file))[0]["after"]
    assert of_file["u"] == "123e4567e89b12d3a456426614174000"
    assert of_file["j"] == '{"a": 1.10}'
    asked = follower.run(f"{name}.t", "-c", "config.yaml", "--operation", "insert", "--binlog", str(file))[0]["after"]
    assert asked == row


def test_a_file_holds_what_the_server_sends(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower], tmp_path: Path
) -> None:
    name = database(source_server)
    statements = [
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), m DECIMAL(8,2))",
        "INSERT INTO t VALUES (1, 'one', 1.50), (2, NULL, NULL)",
        "UPDATE t SET v = 'uno' WHERE id = 1",
        "ALTER TABLE t ADD x INT DEFAULT 7",
        "INSERT INTO t VALUES (3, 'three', 0, NULL)",
        "CREATE TABLE other AS SELECT id, v FROM t",
        "DELETE FROM t WHERE id = 2",
    ]
    source_server.execute("FLUSH BINARY LOGS")
    place = binlog_place(source_server)
    execute(source_server, name, *statements)
    follower = follow(source_server, name)
    live = follower.run("--from", f"{place[0]}:4", "--until-caught-up")
    file = write_file(source_server, place, tmp_path)
    of_file = follower.run(f"{name}.*", "--binlog", str(file))
    assert [line["position"].pop("gtid") is not None for line in of_file].count(True) >= len(live) - 1
    for line in live:
        del line["position"]["gtid"]  # of DDL, MySQL does not tell it to who begins at a place in a file
    assert of_file == live
    shown = [(line["operation"], line["table"].removeprefix(f"{name}.")) for line in live]
    assert shown == [
        ("ddl", "t"),
        ("insert", "t"),
        ("insert", "t"),
        ("update", "t"),
        ("ddl", "t"),
        ("insert", "t"),
        ("ddl", "other"),
        ("insert", "other"),
        ("insert", "other"),
        ("insert", "other"),
        ("delete", "t"),
    ]
    # A position of a line is where the next one begins.
    at = live[3]["position"]
    place_text = f"{at['file']}:{at['pos']}"

    def seen(*arguments: str) -> list[Any]:
        return [{**line, "position": {**at, **line["position"], "gtid": None}} for line in follower.run(*arguments)]

    expected = [{**line, "position": {**line["position"], "gtid": None}} for line in live]
    assert seen(f"{name}.*", "--binlog", str(file), "--from", place_text) == expected[4:]
    assert seen("--from", place_text, "--until-caught-up") == expected[4:]
    assert seen(f"{name}.*", "--binlog", str(file), "--until", place_text) == expected[:4]


def test_a_place_that_the_log_does_not_have_is_refused(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    follower = follow(source_server, database(source_server))
    last = source_server.execute("SHOW BINARY LOGS")[-1]
    assert follower.run("--from", f"{last[0]}9:4", "--until-caught-up", code=2) == []
    assert "the source has no such file; it has" in follower.stderr
    assert follower.run("--from", f"{last[0]}:999999999999", "--until-caught-up", code=2) == []
    assert "that file ends at" in follower.stderr


def test_gtids_say_where_to_begin_and_to_end(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    name = database(source_server)
    execute(source_server, name, "CREATE TABLE t (id INT PRIMARY KEY)")
    variable = "gtid_executed" if source_server.family == "mysql" else "gtid_binlog_pos"

    def executed() -> str:
        return str(source_server.execute(f"SELECT @@GLOBAL.{variable}")[0][0]).replace("\n", "")

    before = executed()
    execute(source_server, name, "INSERT INTO t VALUES (1)")
    execute(source_server, name, "ALTER TABLE t ADD x INT")
    middle = executed()
    execute(source_server, name, "INSERT INTO t VALUES (2, 2)")
    follower = follow(source_server, name)
    assert len(follower.run("--from", before, "--until-caught-up")) == 3
    ended = follower.run("--from", before, "--until", middle)
    assert [line["operation"] for line in ended] == ["insert", "ddl"]
    gtid = ended[1]["position"]["gtid"]
    assert gtid is not None
    assert follower.run("--from", before, "--until-caught-up", "--gtid", gtid) == [ended[1]]
    assert [line["after"]["id"] for line in follower.run("--from", middle, "--until-caught-up")] == [2]


# ---------------------------------------------------------------- live


def test_changes_appear_while_they_are_made_and_sigterm_ends_it(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    name = database(source_server)
    execute(
        source_server, name, "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20))", "INSERT INTO t VALUES (1, 'old')"
    )
    follower = follow(source_server, name)
    process = follower.start(f"{name}.t")
    wait_until(lambda: is_live(source_server, follower), what="its dump session")
    for number in range(2, 5):
        execute(source_server, name, f"INSERT INTO t VALUES ({number}, 'new')")
        assert lines_of(process, 1)[0]["after"] == {"id": number, "v": "new"}  # one at a time: nothing is held back
    execute(source_server, name, "ALTER TABLE t ADD x INT")
    execute(source_server, name, "UPDATE t SET x = 5 WHERE id = 1")
    ddl, update = lines_of(process, 2)
    assert ddl["statement"] == "ALTER TABLE t ADD x INT"
    assert update["after"] == {"id": 1, "v": "old", "x": 5}
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_it_ends_when_its_reader_leaves_although_nothing_happens(
    mysql97: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    follower = follow(mysql97, database(mysql97))
    process = follower.start()
    wait_until(lambda: is_live(mysql97, follower), what="its dump session")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(10) == 0


def test_two_run_beside_each_other_with_ids_of_their_own_and_a_third_finds_none(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    name = database(source_server)
    execute(source_server, name, "CREATE TABLE t (id INT PRIMARY KEY)")
    follower = follow(source_server, name)
    follower.config["source"]["server_id_count"] = 3
    follower.config["snapshot"] = {"beside": 0}  # whose sides had ids of the block, too
    follower.config["sinks"] = [{"name": "one", "url": "postgresql://nobody@127.0.0.1:1/none"}]
    first = follower.start()
    wait_until(lambda: is_live(source_server, follower), what="the first dump session")
    base = follower.config["source"]["server_id"]
    statement = "SHOW REPLICAS" if source_server.family == "mysql" else "SHOW SLAVE HOSTS"

    def ids() -> list[int]:
        return sorted(int(row[0]) for row in source_server.execute(statement) if base <= int(row[0]) < base + 3)

    second = follower.start()
    wait_until(lambda: ids() == [base + 1, base + 2], what=lambda: f"two dump sessions, not {ids()}")
    follower.run(code=2)
    assert "no server_id is left" in follower.stderr
    execute(source_server, name, "INSERT INTO t VALUES (1)")
    assert [lines_of(process, 1)[0]["after"]["id"] for process in (first, second)] == [1, 1]


def test_images_without_all_columns_compressed_transactions_and_tags(
    mysql97: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    name = database(mysql97)
    place = binlog_place(mysql97)
    execute(
        mysql97,
        name,
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20), bl BLOB)",
        "SET SESSION binlog_transaction_compression = ON",
        "INSERT INTO t VALUES (1, 'one', 'x'), (2, 'two', 'y')",
        "SET SESSION binlog_transaction_compression = OFF, binlog_row_image = MINIMAL",
        "UPDATE t SET v = NULL WHERE id = 1",
        "DELETE FROM t WHERE id = 1",
        "SET SESSION binlog_row_image = NOBLOB",
        "UPDATE t SET v = 'zwei' WHERE id = 2",
        "SET SESSION binlog_row_image = FULL",
        "SET gtid_next = 'AUTOMATIC:cdc_tail'",
        "INSERT INTO t VALUES (3, 'tag', NULL)",
        "SET gtid_next = 'AUTOMATIC'",
    )
    follower = follow(mysql97, name)
    lines = follower.run("--from", position(place), "--until-caught-up", "--operation", "insert,update,delete")
    assert [(line["before"], line["after"]) for line in lines] == [
        (None, {"id": 1, "v": "one", "bl": "78"}),
        (None, {"id": 2, "v": "two", "bl": "79"}),
        ({"id": 1}, {"v": None}),
        ({"id": 1}, None),
        ({"id": 2, "v": "two"}, {"id": 2, "v": "zwei"}),
        (None, {"id": 3, "v": "tag", "bl": None}),
    ]
    assert ":cdc_tail:" in lines[-1]["position"]["gtid"]
    envelopes = follower.run("--from", position(place), "--until-caught-up", "--format", "debezium", "--tombstones")
    assert [one and one["op"] for one in envelopes] == ["c", "c", "u", "d", None, "u", "c"]
    assert envelopes[0]["source"]["name"] == "tail-test"


def test_a_log_that_names_no_columns_is_read_with_the_names_of_today(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower], tmp_path: Path
) -> None:
    default = "MINIMAL" if source_server.family == "mysql" else "NO_LOG"
    name = database(source_server)
    source_server.execute("FLUSH BINARY LOGS")
    place = binlog_place(source_server)
    source_server.execute(f"SET GLOBAL binlog_row_metadata = {default}")
    try:
        execute(
            source_server, name, "CREATE TABLE t (id INT PRIMARY KEY, e ENUM('a','b'))", "INSERT INTO t VALUES (1, 'b')"
        )
    finally:
        source_server.execute("SET GLOBAL binlog_row_metadata = FULL")
    follower = follow(source_server, name)
    file = str(write_file(source_server, place, tmp_path))
    selected: Sequence[str] = (f"{name}.t", "--operation", "insert", "--binlog", file)
    lines = follower.run("-c", "config.yaml", *selected)
    assert lines[0]["after"] == {"id": 1, "e": "b"}
    assert "names are those of today" in follower.stderr
    assert follower.run(*selected, code=1) == []
    assert "does not name its columns" in follower.stderr
    assert follower.run(*selected, "--skip-bad") == []
    assert "1 table passed over" in follower.stderr
    live = follower.run("--from", f"{place[0]}:4", "--until-caught-up", "--operation", "insert")
    assert live == lines


def test_a_transaction_larger_than_memory_is_printed_in_parts_and_a_rolled_back_one_not_at_all(
    source_server: Server, database: Callable[[Server], str], follow: Callable[[Server, str], Follower]
) -> None:
    name = database(source_server)
    place = binlog_place(source_server)
    values = ",".join(f"({number})" for number in range(1000))
    with contextlib.closing(source_server.connect(name)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (id INT)")
        cursor.execute("BEGIN")
        for _ in range(90):
            cursor.execute(f"INSERT INTO t VALUES {values}")
        connection.commit()
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (5)")
        connection.rollback()
    lines = follow(source_server, name).run("--from", position(place), "--until-caught-up", "--operation", "insert")
    assert len(lines) == 90_000
    assert [line["after"]["id"] for line in lines] == [*range(1000)] * 90
    ends = sorted({line["position"]["pos"] for line in lines})
    assert len(ends) == 2
    assert lines[0]["position"]["pos"] == ends[0] < lines[-1]["position"]["pos"]
