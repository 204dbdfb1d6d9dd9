"""Make the corpus anew: `python -m tests.fuzz.capture [NAME...]` starts private servers and keeps what they log.

Each capture is a binlog file as `mysqlbinlog` reads it, beside it the definitions of its tables as JSON. Together they
hold every event type and column type that these servers write, in small values: damage finds more in short events.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from cdc.binlog.constants import BINLOG_MAGIC, EventType
from cdc.binlog.framing import parse_header
from cdc.demo.servers import Options, Server
from cdc.errors import UnsupportedData
from cdc.model import TableDefinition, TableName
from cdc.source.connection import SourceSettings, SslSettings, connect
from cdc.source.definitions import read_definition
from tests.fuzz.corpus import DIRECTORY, definitions_to_json
from tests.integration.test_binlog_types import CASES, Case
from tests.support.binlog_fetch import Place, binlog_place, fetch_contents, flavor_of

DATABASE = "fuzz"
# Values that are long only to be long say nothing that short ones do not.
_VALUE_REPEATED_MAX = 300
_EVENT_BYTES_MAX = 6_000


@dataclass(frozen=True)
class Capture:
    """`cases` names the tables of test_binlog_types to write (None: all of them); `statements` are run after them."""

    kind: str
    options: Options = field(default_factory=dict)
    session: tuple[str, ...] = ()
    cases: frozenset[str] | None = None
    row_count_max: int = 100
    statements: tuple[str, ...] = ()
    starts_at_file: bool = False


# 300 columns say no more than 70.
_CASES = {
    **{name: case for name, case in CASES.items() if name != "wide"},
    "many": Case(
        ", ".join(f"c{number} TINYINT" for number in range(70)),
        (", ".join(str(number) for number in range(70)), ", ".join(["NULL"] * 70)),
    ),
}
_NO_OTHER_ON_MARIADB = {"charsets", "partitioned", "longest_times", "invalid_dates", "many"}
_SOME = frozenset(("integers", "decimals", "times", "bits", "generated_and_invisible", "myisam_dynamic"))
_CHANGES = (
    "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v INT, b TEXT, j JSON)",
    "CREATE TABLE m (id INT) ENGINE=MyISAM",
    "BEGIN",
    "INSERT INTO t (id, v) VALUES (1, 1), (10, 10)",
    "SAVEPOINT s1",
    "INSERT INTO t (id, v) VALUES (11, 11)",
    "ROLLBACK TO s1",
    "UPDATE t SET v = v + 1, b = 'text'",
    "DELETE FROM t WHERE id = 10",
    "COMMIT",
    "XA START 'x', 'b', 7",
    "INSERT INTO t (id, v) VALUES (2, 2)",
    "XA END 'x', 'b', 7",
    "XA PREPARE 'x', 'b', 7",
    "XA COMMIT 'x', 'b', 7",
    "XA START 'y'",
    "INSERT INTO t (id, v) VALUES (3, 2)",
    "XA END 'y'",
    "XA COMMIT 'y' ONE PHASE",
    "SET SESSION binlog_row_image = 'MINIMAL'",
    "UPDATE t SET v = 100 WHERE id = 1",
    "INSERT INTO t (v) VALUES (7)",
    "DELETE FROM t WHERE v = 7",
    "SET SESSION binlog_row_image = 'NOBLOB'",
    "UPDATE t SET v = 101 WHERE id = 1",
    "SET SESSION binlog_row_image = 'FULL'",
    "INSERT INTO m VALUES (1), (2)",
    "CREATE TABLE u AS SELECT id, v FROM t",
    "ALTER TABLE t ADD w VARCHAR(10) DEFAULT 'é', ALGORITHM=INPLACE",
    "INSERT INTO t (v, w) VALUES (8, 'w')",
    "RENAME TABLE u TO u2",
    "TRUNCATE TABLE u2",
    "DROP TABLE u2",
    "CREATE INDEX v ON t (v)",
    "SET SESSION binlog_format = 'STATEMENT'",
    "SET @v = 5, @s = _latin1 x'E9', @d = 1.25",
    "INSERT INTO t (v) VALUES (@v + RAND() + @d)",
    "INSERT INTO t (b) VALUES (@s)",
    "INSERT INTO t (v) SELECT LAST_INSERT_ID()",
    "SET SESSION binlog_format = 'ROW'",
    "FLUSH BINARY LOGS",
    "INSERT INTO t (v) VALUES (9)",
)
_MYSQL_CHANGES = (
    "SET SESSION binlog_rows_query_log_events = 1",
    *_CHANGES,
    "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
    """INSERT INTO t (id, j) VALUES (50, '{"a": 1, "b": [1, 2, {"c": 3}], "long": "xxxxxxxxxxxxxxxxxxxxxxxxxxxx"}')""",
    "UPDATE t SET j = JSON_REPLACE(j, '$.a', 2) WHERE id = 50",
    "UPDATE t SET j = JSON_SET(j, '$.b[2].c', 'text', '$.new', TRUE), v = 3 WHERE id = 50",
    "UPDATE t SET j = JSON_REMOVE(j, '$.b[0]', '$.a') WHERE id = 50",
    "UPDATE t SET v = 4 WHERE id = 50",
    "SET SESSION binlog_row_value_options = ''",
    "SET gtid_next = 'AUTOMATIC:mytag'",
    "INSERT INTO t (v) VALUES (60)",
    "SET gtid_next = 'AUTOMATIC:other_tag_of_32_characters_12345'",
    "INSERT INTO t (v) VALUES (61)",
    "SET gtid_next = 'AUTOMATIC'",
    "CREATE USER someone IDENTIFIED BY 'secret'",
    "FLUSH BINARY LOGS",
    "INSERT INTO t (v) VALUES (62)",
)
_MARIADB_CHANGES = (
    *_CHANGES,
    "SET SESSION gtid_domain_id = 5",
    "INSERT INTO t (v) VALUES (70)",
    "SET SESSION gtid_domain_id = 0, binlog_alter_two_phase = 1",
    "ALTER TABLE t ADD z INT, ALGORITHM=COPY",
    "BEGIN",
    "INSERT INTO t (v) VALUES (71)",
    "INSERT INTO m VALUES (3)",
    "COMMIT",
    "FLUSH BINARY LOGS",
    "INSERT INTO t (v) VALUES (72)",
)
_COMPRESSED_EVENTS: Options = {"log_bin_compress": "ON", "log_bin_compress_min_len": "10"}
CAPTURES: dict[str, Capture] = {
    "mysql97-types": Capture("mysql97"),
    "mysql97-minimal": Capture(
        "mysql97",
        {"binlog_row_metadata": "MINIMAL"},
        ("SET SESSION binlog_row_image = 'MINIMAL'",),
        frozenset(_CASES) - {"enums_and_sets", "charsets", "gb18030", "partitioned", "longest_times", "invalid_dates"},
        row_count_max=1,
    ),
    "mysql97-compressed": Capture(
        "mysql97",
        session=("SET SESSION binlog_transaction_compression = ON",),
        cases=_SOME | {"mysql_json"},
        row_count_max=3,
    ),
    "mysql97-changes": Capture("mysql97", statements=_MYSQL_CHANGES, cases=frozenset(), starts_at_file=True),
    "mysql97-anonymous": Capture(
        "mysql97",
        {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF", "binlog_checksum": "NONE"},
        statements=_CHANGES,
        cases=frozenset(),
        starts_at_file=True,
    ),
    "mariadb118-types": Capture("mariadb118", cases=frozenset(_CASES) - _NO_OTHER_ON_MARIADB),
    "mariadb118-old": Capture(
        "mariadb118",
        {"mysql56_temporal_format": "OFF", "binlog_row_metadata": "NO_LOG", **_COMPRESSED_EVENTS},
        cases=_SOME | {"dates", "timestamps", "late_timestamps", "mariadb_compressed", "many", "strings"},
        row_count_max=6,
    ),
    "mariadb118-changes": Capture("mariadb118", statements=_MARIADB_CHANGES, cases=frozenset(), starts_at_file=True),
    "mariadb1011-changes": Capture(
        "mariadb1011",
        _COMPRESSED_EVENTS,
        statements=_MARIADB_CHANGES,
        cases=_SOME | {"mariadb_compressed"},
        row_count_max=3,
        starts_at_file=True,
    ),
}


def _is_short(row: str) -> bool:
    """Does it repeat nothing more than a few hundred times?"""
    counts = [part.split(")")[0] for part in row.split("REPEAT(")[1:]]
    return all(int(count.rpartition(",")[2]) <= _VALUE_REPEATED_MAX for count in counts)


def _statements(name: str, case: Case, row_count_max: int) -> Iterator[str]:
    """The table, all its rows in one transaction, and some of them changed and deleted."""
    yield f"CREATE TABLE `{name}` (id INT PRIMARY KEY, {case.columns}) {case.options}"
    yield f"SET SESSION sql_mode = '{case.mode}'"
    rows = [f"({number}, {row})" for number, row in enumerate(filter(_is_short, case.rows), 1)][:row_count_max]
    names = "(id, a, v, s, inv)" if "INVISIBLE" in case.columns else ""
    yield "BEGIN"
    yield f"INSERT INTO `{name}` {names} VALUES {', '.join(rows)}"
    yield f"UPDATE `{name}` SET id = id + 1000 WHERE id < 3"
    yield f"DELETE FROM `{name}` WHERE id = 1001"
    yield "COMMIT"


def _definitions(server: Server, tables: Sequence[str]) -> list[TableDefinition]:
    found = []
    settings = SourceSettings(
        server.host, server.port, server.user, server.password, server_id=950_000, ssl=SslSettings("disabled")
    )
    source = connect(settings)
    try:
        for table in tables:
            try:
                definition = read_definition(source, TableName(DATABASE, table))
            except UnsupportedData:
                continue
            assert definition is not None
            found.append(definition)
    finally:
        source.close()
    return found


def _is_kept(content: bytes) -> bool:
    """Not what only repeats itself at length; and not the rotate before the file's own first event."""
    header = parse_header(content)
    return len(content) <= _EVENT_BYTES_MAX and not (header.event_type == EventType.ROTATE and header.is_artificial)


def _write(cursor: Any, statements: Sequence[str]) -> None:
    for statement in statements:
        cursor.execute(statement)


def make(name: str, capture: Capture) -> int:
    """Write `name`'s two files; returns how many events there are."""
    with closing(Server.start(capture.kind, options=capture.options)) as server:
        server.execute(f"CREATE DATABASE {DATABASE}")
        server.execute("FLUSH BINARY LOGS")
        place: Place = binlog_place(server)
        if capture.starts_at_file:
            place = (place[0], 4)
        flavor, version = flavor_of(server)
        cases = {
            name: case
            for name, case in _CASES.items()
            if (not case.flavor or case.flavor == flavor) and version >= case.since
            if capture.cases is None or name in capture.cases
        }
        for table, case in cases.items():
            with closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
                _write(cursor, ("SET SESSION time_zone = '+00:00'", *capture.session))
                _write(cursor, list(_statements(table, case, capture.row_count_max)))
        with closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
            _write(cursor, (*capture.session, *capture.statements))
        tables = [*cases, *(("t", "m") if capture.statements else ())]
        contents = [
            content for content in fetch_contents(server, place, annotate=bool(capture.statements)) if _is_kept(content)
        ]
        DIRECTORY.mkdir(exist_ok=True)
        (DIRECTORY / f"{name}.binlog").write_bytes(BINLOG_MAGIC + b"".join(contents))
        (DIRECTORY / f"{name}.json").write_text(definitions_to_json(flavor, version, _definitions(server, tables)))
    return len(contents)


def main() -> None:
    for name in sys.argv[1:] or CAPTURES:
        count = make(name, CAPTURES[name])
        size = sum(path.stat().st_size for path in DIRECTORY.glob(f"{name}.*"))
        print(f"{name}: {count} events, {size} bytes")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
