"""Make the files anew: `python -m tests.golden.capture [NAME...]` starts private servers and keeps what they log.

Of each: `NAME.binlog`, a whole binlog file, and `NAME.json`: the tables' rows after every statement, from the server's
own SELECT, with the place in the file that they belong to; the error at which reading must stop, if any; the tables'
definitions where the file itself does not name their columns. Nothing of ours decodes a row here.

A file from a server that is not among the private ones: `--url mysql://root@host:port NAME`.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from cdc.binlog.constants import BINLOG_MAGIC, EventType
from cdc.binlog.framing import parse_header
from cdc.demo.servers import Options, Server, catalogue
from cdc.errors import UnsupportedData
from cdc.model import TableDefinition, TableName
from cdc.source.connection import connect
from cdc.source.definitions import read_definition
from tests.fuzz.capture import _is_short
from tests.fuzz.corpus import definitions_to_json
from tests.golden import BYTES_MAX, DATABASE, DIRECTORY
from tests.integration.test_binlog_types import CASES, select_rows, source_settings
from tests.support.binlog_fetch import binlog_place, fetch_contents, flavor_of

# What they do to rows is in no rows event: the state after them is given, not checked.
_DDL = re.compile(r"\s*(ALTER|RENAME|TRUNCATE|DROP|CREATE (?!TABLE u))", re.IGNORECASE)
_FULL: Options = {"binlog_row_metadata": "FULL"}


@dataclass(frozen=True)
class Scene:
    """What is written on which server.

    Attributes:
        names_columns: does the log say the columns' names (binlog_row_metadata=FULL)?
        error: what reading must stop with, in its message; the rows before it count.
        tables: those that are followed and compared; None for all.
        is_encrypted: keep the file as it lies on disk, encrypted, and not what a replica is sent.
    """

    kind: str
    statements: tuple[str, ...]
    options: Options = field(default_factory=dict)
    names_columns: bool = True
    error: str = ""
    tables: tuple[str, ...] | None = None
    is_encrypted: bool = False


# ---------------------------------------------------------------- types, by groups

_GROUPS = {
    "numbers": ("integers", "signedness", "decimals", "floats", "bits"),
    "times": ("dates", "invalid_dates", "times", "longest_times", "timestamps", "late_timestamps"),
    "text": ("strings", "charsets", "gb18030", "collations", "mariadb_collations", "myisam_dynamic"),
    "members": ("enums_and_sets", "binary_members", "generated_and_invisible", "partitioned"),
    "documents": (
        "mysql_json",
        "mariadb_json",
        "geometry",
        "spatial",
        "mysql_geometry",
        "geometry_among_text",
        "mysql_vector",
        "vector_before_text",
        "vector_between_text",
        "mariadb_vector",
        "mariadb_addresses",
        "mariadb_compressed",
    ),
}
_SMALL = ("integers", "decimals", "floats", "bits", "times", "strings", "charsets", "generated_and_invisible")


def _type_statements(names: Sequence[str], flavor: str, version: tuple[int, ...], row_count_max: int) -> list[str]:
    """A table a case: all its short rows at once, then two of them changed and one deleted."""
    # MariaDB's comments on rows events are as long as these
    statements = ["SET SESSION binlog_annotate_row_events = 0"] if flavor == "mariadb" else []
    for name in names:
        case = CASES[name]
        if (case.flavor and case.flavor != flavor) or version < case.since:
            continue
        rows = [f"({number}, {row})" for number, row in enumerate(filter(_is_short, case.rows), 1)][:row_count_max]
        columns = "(id, a, v, s, inv)" if "INVISIBLE" in case.columns else ""
        statements += [
            f"SET SESSION sql_mode = '{case.mode}'",
            f"CREATE TABLE `{name}` (id INT PRIMARY KEY, {case.columns}) {case.options}",
            f"INSERT INTO `{name}` {columns} VALUES {', '.join(rows)}",
            f"UPDATE `{name}` SET id = id + 1000 WHERE id < 3",
            f"DELETE FROM `{name}` WHERE id = 1001",
        ]
    return statements


_VERSIONS = {
    "mysql97": ("mysql", (9, 7)),
    "mariadb1011": ("mariadb", (10, 11)),
    "mariadb118": ("mariadb", (11, 8)),
    "mariadb105": ("mariadb", (10, 5)),
    "mysql56": ("mysql", (5, 6)),
}


def _types(kind: str, names: Sequence[str], row_count_max: int = 20, **more: Any) -> Scene:
    return Scene(kind, tuple(_type_statements(names, *_VERSIONS[kind], row_count_max)), **more)


# ---------------------------------------------------------------- features

_TABLE = "CREATE TABLE t (id INT PRIMARY KEY, v INT DEFAULT 7, name VARCHAR(20) DEFAULT 'x', b TEXT, j JSON)"
_TRANSACTIONS = (
    _TABLE,
    "CREATE TABLE m (id INT PRIMARY KEY, v INT) ENGINE=MyISAM",
    "BEGIN",
    "INSERT INTO t (id, v) VALUES (1, 1), (10, 10)",
    "SAVEPOINT s1",
    "INSERT INTO t (id, v) VALUES (11, 11)",
    "ROLLBACK TO s1",
    "UPDATE t SET v = v + 1, b = 'text'",
    "DELETE FROM t WHERE id = 10",
    "COMMIT",
    "XA START 'one', 'b', 7",
    "INSERT INTO t (id, v) VALUES (2, 2)",
    "XA END 'one', 'b', 7",
    "XA COMMIT 'one', 'b', 7 ONE PHASE",
    "BEGIN",
    "INSERT INTO t (id) VALUES (3)",
    "ROLLBACK",
    "INSERT INTO m VALUES (1, 1), (2, 2)",
    "UPDATE m SET v = v * 10",
    "REPLACE INTO t (id, v) VALUES (1, 100), (4, 4)",
    "INSERT INTO t (id, v) VALUES (4, 5), (5, 5) ON DUPLICATE KEY UPDATE v = v + 1",
    "UPDATE t SET id = id + 100",
    "DELETE FROM m WHERE id = 1",
    "DELETE FROM t",
)
_IMAGES = (
    _TABLE,
    "CREATE TABLE nokey (id INT, v INT, b BLOB)",
    "SET SESSION binlog_row_image = 'MINIMAL'",
    "INSERT INTO t (id) VALUES (1), (2)",
    "INSERT INTO t (id, v, b) VALUES (3, 3, 'b')",
    "INSERT INTO nokey VALUES (1, 1, 'one')",
    "UPDATE t SET v = id * 10",
    "UPDATE t SET id = id + 10, name = NULL WHERE id > 1",
    "UPDATE nokey SET v = 2",
    "DELETE FROM t WHERE id = 12",
    "SET SESSION binlog_row_image = 'NOBLOB'",
    "INSERT INTO t (id, b) VALUES (4, 'blob')",
    "UPDATE t SET v = 5 WHERE id = 4",
    "UPDATE t SET b = 'other', j = '[1]' WHERE id = 4",
    "DELETE FROM t WHERE id = 4",
    "SET SESSION binlog_row_image = 'FULL'",
    "UPDATE t SET v = 0",
)
_DDL_STATEMENTS = (
    _TABLE,
    "INSERT INTO t (id, v) VALUES (1, 1), (2, 2)",
    "ALTER TABLE t ADD w VARCHAR(10) DEFAULT 'é' AFTER id",
    "UPDATE t SET v = v + 1",
    "INSERT INTO t (id, w) VALUES (3, 'w')",
    "ALTER TABLE t MODIFY v BIGINT UNSIGNED NULL, DROP COLUMN name",
    "UPDATE t SET v = 18446744073709551615 WHERE id = 3",
    "RENAME TABLE t TO t2",
    "DELETE FROM t2 WHERE id = 1",
    "CREATE TABLE u (PRIMARY KEY (id)) AS SELECT id, v FROM t2",
    "UPDATE u SET v = 1",
    "TRUNCATE TABLE t2",
    "INSERT INTO t2 (id) VALUES (9)",
    "DROP TABLE u",
    "ALTER TABLE t2 RENAME TO t",
    "UPDATE t SET b = 'end'",
)
_MANY = ", ".join(f"({number}, {number % 7}, 'name {number}', REPEAT('text', 20), '{{}}')" for number in range(1, 80))
_COMPRESSIBLE = (
    _TABLE,
    f"INSERT INTO t VALUES {_MANY}",
    "UPDATE t SET v = v + 1 WHERE id < 40",
    "BEGIN",
    "DELETE FROM t WHERE id BETWEEN 10 AND 70",
    "UPDATE t SET name = CONCAT(name, '!') WHERE id < 5",
    "COMMIT",
    "DELETE FROM t",
)
_PARTIAL = (
    "CREATE TABLE t (id INT PRIMARY KEY, v INT, j JSON, k JSON)",
    "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
    """INSERT INTO t VALUES (1, 1, '{"a": 1, "b": [1, 2, {"c": 3}], "long": "xxxxxxxxxxxxxxxxxxxxxxxx"}', '[]')""",
    """INSERT INTO t VALUES (2, 2, '{"a": "é", "long": "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"}', NULL)""",
    "UPDATE t SET j = JSON_REPLACE(j, '$.a', 2)",
    "UPDATE t SET j = JSON_SET(j, '$.b[2].c', 'text', '$.new', TRUE), v = 3 WHERE id = 1",
    "UPDATE t SET j = JSON_REMOVE(j, '$.b[0]', '$.a'), k = JSON_ARRAY_APPEND(k, '$', 1.5)",
    "UPDATE t SET j = JSON_SET(j, '$.long', CAST('2020-01-02 03:04:05.6' AS DATETIME(6)))",
    "UPDATE t SET v = 4, j = j",
    "SET SESSION binlog_row_value_options = ''",
    "UPDATE t SET j = JSON_SET(j, '$.z', 1)",
    "DELETE FROM t",
)
_TAGGED = (
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "SET gtid_next = 'AUTOMATIC:mytag'",
    "INSERT INTO t VALUES (1, 1)",
    "SET gtid_next = 'AUTOMATIC:other_tag_of_32_characters_12345'",
    "UPDATE t SET v = 2",
    "SET gtid_next = 'AUTOMATIC'",
    "INSERT INTO t VALUES (3, 3)",
    "SET gtid_next = 'AUTOMATIC:mytag'",
    "DELETE FROM t WHERE id = 1",
)
_PREPARED = (
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "INSERT INTO t VALUES (1, 1)",
    "XA START 'two'",
    "INSERT INTO t VALUES (2, 2)",
    "XA END 'two'",
    "XA PREPARE 'two'",
    "XA COMMIT 'two'",
)
_STATEMENT = (
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "INSERT INTO t VALUES (1, 1), (2, 2)",
    "SET SESSION binlog_format = 'MIXED'",
    "UPDATE t SET v = v * ? WHERE id = ?",
)
# Rows of a table without transactions that the statement's cache cannot hold: they stay, and are in no event.
_INCIDENT = (
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "CREATE TABLE m (id INT PRIMARY KEY, b LONGBLOB) ENGINE=MyISAM",
    "INSERT INTO t VALUES (1, 1)",
    "?INSERT INTO m VALUES (1, REPEAT('x', 60000)), (2, REPEAT('x', 60000))",
)
_TWO_PHASE = (
    "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
    "INSERT INTO t VALUES (1, 1)",
    "SET SESSION gtid_domain_id = 5",
    "INSERT INTO t VALUES (2, 2)",
    "SET SESSION gtid_domain_id = 0, binlog_alter_two_phase = 1",
    "ALTER TABLE t ADD z INT DEFAULT 3, ALGORITHM=COPY",
    "UPDATE t SET v = v + z",
    "INSERT INTO t VALUES (3, 3, 3)",
)
_COMPRESSED_EVENTS: Options = {**_FULL, "log_bin_compress": "ON", "log_bin_compress_min_len": "10"}
_SMALL_CACHE: Options = {**_FULL, "max_binlog_stmt_cache_size": "4096", "binlog_stmt_cache_size": "4096"}
_KEY = "1;770A8A65DA156D24EE2A093277530142\n"


def _scenes() -> dict[str, Scene]:
    scenes: dict[str, Scene] = {}
    for kind in ("mysql97", "mariadb1011", "mariadb118"):
        for group, names in _GROUPS.items():
            scenes[f"{kind}-{group}"] = _types(kind, names, 6 if group == "text" else 20, options=_FULL)
        defaults: Options = {"binlog_row_metadata": "MINIMAL" if kind == "mysql97" else "NO_LOG"}
        scenes[f"{kind}-nonames"] = _types(kind, _SMALL, 1, options=defaults, names_columns=False)
        extra = ("SET SESSION binlog_rows_query_log_events = 1",) if kind == "mysql97" else ()
        scenes[f"{kind}-transactions"] = Scene(kind, (*extra, *_TRANSACTIONS), _FULL)
        scenes[f"{kind}-images"] = Scene(kind, _IMAGES, _FULL)
        scenes[f"{kind}-ddl"] = Scene(kind, _DDL_STATEMENTS, _FULL)
        scenes[f"{kind}-prepared"] = Scene(kind, _PREPARED, _FULL, error="XA transaction X'74776f'")
        scenes[f"{kind}-statement"] = Scene(
            kind, _STATEMENT, _FULL, error="as a statement, not as rows: UPDATE t SET v = v * ? WHERE id = ?"
        )
        scenes[f"{kind}-incident"] = Scene(kind, _INCIDENT, _SMALL_CACHE, error="has a gap: incident 1")
    scenes["mysql97-anonymous"] = Scene(
        "mysql97",
        _TRANSACTIONS,
        {**_FULL, "gtid_mode": "OFF", "enforce_gtid_consistency": "OFF", "binlog_checksum": "NONE"},
    )
    scenes["mysql97-compressed"] = Scene("mysql97", _COMPRESSIBLE, {**_FULL, "binlog_transaction_compression": "ON"})
    scenes["mysql97-partial"] = Scene("mysql97", _PARTIAL, _FULL)
    scenes["mysql97-tagged"] = Scene("mysql97", _TAGGED, _FULL)
    scenes["mariadb118-compressed"] = Scene("mariadb118", _COMPRESSIBLE, _COMPRESSED_EVENTS)
    scenes["mariadb1011-compressed"] = Scene("mariadb1011", _COMPRESSIBLE, _COMPRESSED_EVENTS)
    scenes["mariadb118-two_phase"] = Scene("mariadb118", _TWO_PHASE, _FULL)
    scenes["mariadb118-nodup"] = Scene(
        "mariadb118", (_TABLE, "SET SESSION binlog_row_image = 'FULL_NODUP'", *_TRANSACTIONS[1:]), _FULL
    )
    old: Options = {**_COMPRESSED_EVENTS, "mysql56_temporal_format": "OFF", "binlog_row_metadata": "NO_LOG"}
    scenes["mariadb1011-old_times"] = _types("mariadb1011", _GROUPS["times"], 6, options=old, names_columns=False)
    scenes["mariadb1011-encrypted"] = Scene(
        "mariadb1011", ("CREATE TABLE t (id INT PRIMARY KEY)",), error="is encrypted", is_encrypted=True
    )
    documents = ("mariadb_json", "geometry", "spatial", "geometry_among_text", "mariadb_compressed")
    scenes["mariadb105-types"] = _types("mariadb105", _SMALL, 1)
    scenes["mariadb105-documents"] = _types("mariadb105", documents)
    scenes["mariadb105-times"] = _types("mariadb105", _GROUPS["times"], 6)
    scenes["mariadb105-transactions"] = Scene("mariadb105", _TRANSACTIONS)
    scenes["mariadb105-ddl"] = Scene("mariadb105", _DDL_STATEMENTS)
    scenes["mysql56-types"] = _types("mysql56", _SMALL[:-1], 3, names_columns=False)
    scenes["mysql56-times"] = _types("mysql56", ("dates", "times", "timestamps"), 6, names_columns=False)
    scenes["mysql56-transactions"] = Scene(
        "mysql56",
        tuple(statement.replace(", j JSON", "") for statement in _TRANSACTIONS if "XA " not in statement),
        names_columns=False,
    )
    return scenes


SCENES = _scenes()
BY_HAND = frozenset(name for name, scene in SCENES.items() if scene.kind not in catalogue())


# ---------------------------------------------------------------- capturing


@dataclass
class _State:
    """A table's rows behind `pos`. `is_given`: no rows event made them so."""

    pos: int
    table: str
    columns: list[str]
    rows: list[list[Any]]
    is_given: bool


class _Recorder:
    """Keeps what each table holds, whenever that has changed."""

    def __init__(self, server: Server, tables: tuple[str, ...] | None) -> None:
        self._server = server
        self._tables = tables
        self.states: list[_State] = []
        self.definitions: dict[str, TableDefinition] = {}

    def look(self, statement: str) -> None:
        pos = binlog_place(self._server)[1]
        with connect(source_settings(self._server)) as source:
            names = [row[0] for row in source.query_text("SHOW TABLES FROM " + DATABASE)]
            for name in names:
                assert name is not None
                if self._tables is not None and name not in self._tables:
                    continue
                with suppress(UnsupportedData):
                    definition = read_definition(source, TableName(DATABASE, name))
                    assert definition is not None
                    self._keep(pos, definition, is_given=bool(_DDL.match(statement)))

    def _keep(self, pos: int, definition: TableDefinition, *, is_given: bool) -> None:
        name = definition.name.table
        columns = [column.name for column in definition.columns]
        rows = [list(row.values()) for row in select_rows(self._server, definition)]
        last = next((state for state in reversed(self.states) if state.table == name), None)
        self.definitions.setdefault(name, definition)
        if last is None or (last.columns, last.rows) != (columns, rows):
            self.states.append(_State(pos, name, columns, rows, is_given or (last is None and not rows)))


def _run(server: Server, scene: Scene, recorder: _Recorder) -> None:
    is_open = False
    with closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION time_zone = '+00:00', sql_mode = '', autocommit = 1")
        for statement in scene.statements:
            # a question mark before it: it is to fail
            if statement.startswith("?"):
                with suppress(pymysql.err.Error):
                    cursor.execute(statement[1:])
                    raise AssertionError(f"{statement} did not fail")
            else:
                cursor.execute(statement)
            if scene.error and statement is scene.statements[-1]:
                return  # what it did is beyond where reading stops
            if statement == "BEGIN" or statement.startswith(("XA START", "XA END")):
                is_open = True
            elif statement in ("COMMIT", "ROLLBACK") or statement.startswith(("XA COMMIT", "XA PREPARE")):
                is_open = False
            if not is_open and not statement.startswith("SET"):
                recorder.look(statement)


def capture(name: str, server: Server) -> int:
    """Write `name`'s two files; how many bytes the first one has."""
    scene = SCENES[name]
    server.execute(f"CREATE DATABASE {DATABASE}")
    server.execute("FLUSH BINARY LOGS" if scene.kind != "mysql56" else "FLUSH LOGS")
    file, _ = binlog_place(server)
    flavor, version = flavor_of(server)
    recorder = _Recorder(server, scene.tables)
    _run(server, scene, recorder)
    if scene.is_encrypted:
        assert server.directory is not None
        (path,) = server.directory.rglob(file)
        content = path.read_bytes()
    else:
        content = BINLOG_MAGIC + b"".join(map(_kept, fetch_contents(server, (file, 4), annotate=True)))
    assert len(content) < BYTES_MAX, f"{name}: {len(content)} bytes"
    definitions = json.loads(definitions_to_json(flavor, version, list(recorder.definitions.values())))
    document = {
        "server": server.version,
        "flavor": flavor,
        "version": version,
        "error": scene.error,
        "definitions": [] if scene.names_columns else definitions,
        "states": [vars(state) for state in recorder.states],
    }
    (DIRECTORY / f"{name}.binlog").write_bytes(content)
    (DIRECTORY / f"{name}.json").write_text(_lines(document))
    return len(content)


def _kept(content: bytes) -> bytes:
    """An event; nothing for the rotate that a replica is sent first, which is in no file."""
    header = parse_header(content)
    return b"" if header.event_type == EventType.ROTATE and header.is_artificial else content


def _lines(document: dict[str, Any]) -> str:
    """JSON with a line a state and a definition: differences are read by people."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list):
            lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in value)
            parts.append(f'"{key}": [\n{lines}\n]' if value else f'"{key}": []')
        else:
            parts.append(f'"{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{" + ",\n".join(parts) + "}\n"


def _capture_on_private(name: str, scene: Scene) -> int:
    with tempfile.TemporaryDirectory() as folder:
        options = dict(scene.options)
        if scene.is_encrypted:
            Path(folder).chmod(0o755)  # the server is another user
            keys = Path(folder, "keys.txt")
            keys.write_text(_KEY)
            options |= {
                "plugin_load_add": "file_key_management",
                "file_key_management_filename": str(keys),
                "encrypt_binlog": "ON",
            }
        with closing(Server.start(scene.kind, options=options)) as server:
            return capture(name, server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENES))
    parser.add_argument("--url", help="the server to write on, for names of a kind that is not private")
    arguments = parser.parse_args()
    for name in arguments.names or sorted(SCENES.keys() - BY_HAND):
        scene = SCENES[name]
        if arguments.url:
            # of the kinds that there are, it only says the family
            server = Server.external(catalogue()["mysql97"], arguments.url)
            with closing(server):
                size = capture(name, server)
        else:
            size = _capture_on_private(name, scene)
        print(f"{name}: {size} bytes")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
