"""`cdc verify` on real servers: what is equal is called equal, and one changed value is found and named."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cdc.config import load_config
from cdc.demo.servers import Server
from cdc.verify import DIFFERENCES_SHOWN_MAX, RowSum, TableResult, verify_tables
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment

TYPES = """
CREATE TABLE types (
    id BIGINT UNSIGNED PRIMARY KEY, small TINYINT NULL, price DECIMAL(20,4) NULL, f FLOAT NULL, d DOUBLE NULL,
    bits BIT(9) NULL, year YEAR NULL, day DATE NULL, at DATETIME(6) NULL, ts TIMESTAMP(3) NULL, span TIME(2) NULL,
    name VARCHAR(60) NULL, body TEXT CHARACTER SET latin1 NULL, raw VARBINARY(20) NULL, pad BINARY(4) NULL,
    kind ENUM('new','paid') NULL, flags SET('a','b','c') NULL, doc JSON NULL
)"""
ROWS = """
INSERT INTO types VALUES
    (18446744073709551615, -128, 12345678901.5000, 16777216, 0.1, b'101', 2024, '2024-02-29', '2024-02-29 10:00:00.1',
     '2038-01-19 03:14:07.5', '-838:59:59', 'Zoë 北京 علي 🙂', 'grün', x'00ff5c', x'61', 'paid', 'a,c',
     '{"b": [1, 2.50], "a": null}'),
    (1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (2, 0, 0, -0.0, -0.0, 0, 0, '1000-01-01', '1000-01-01', '1970-01-01 00:00:01', '00:00:00', '', '', '', '', 'new',
     '', '""')"""
LINES = "CREATE TABLE `lines` (a INT NOT NULL, b VARCHAR(10) NOT NULL, amount INT NULL, PRIMARY KEY (a, b))"


@pytest.fixture
def shop(tmp_path: Path, source_server: Server, pg15: Server, mariadb1011: Server, mysql97: Server) -> Iterator[Any]:
    """Two loaded tables on a PostgreSQL, a MariaDB and a MySQL sink."""
    with deployment(tmp_path, source_server, pg=pg15, maria=mariadb1011, mysql=mysql97) as made:
        yield _loaded(made)


@pytest.fixture
def pair(tmp_path: Path, mariadb1011: Server, pg15: Server, mysql97: Server) -> Iterator[Any]:
    """The same from MariaDB alone, on one sink of each kind."""
    with deployment(tmp_path, mariadb1011, pg=pg15, mysql=mysql97) as made:
        yield _loaded(made)


def _loaded(made: Deployment) -> Deployment:
    with contextlib.closing(made.source.connect(made.source_database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        for statement in (TYPES, ROWS, LINES):
            cursor.execute(statement)
        cursor.executemany("INSERT INTO `lines` VALUES (%s, %s, %s)", [(n, f"l{n % 3}", n) for n in range(30)])
    made.catch_up()
    return made


def _on_sink(made: Deployment, sink: str, sql: str) -> None:
    """Run a statement on a sink; `{}` stands for the quoted database or schema."""
    server, database = made.sinks[sink]
    quoted = f'"{made.source_database}"' if server.family == "postgresql" else f"`{database}`"
    quote = '"' if server.family == "postgresql" else "`"
    server.execute(sql.replace("{}", quoted).replace("`lines`", f"{quote}lines{quote}"), database=database)


def _verify(made: Deployment, *tables: str, sinks: Sequence[str] = ()) -> dict[tuple[str, str], TableResult]:
    """The results by sink and table; `tables` are those of the source database, by their bare names."""
    config = load_config(made.write_config(), environ={})
    results, _ = verify_tables(config, [f"{made.source_database}.{table}" for table in tables], only_sinks=sinks)
    return {(result.sink, result.table.table): result for result in results}


def _states(results: dict[tuple[str, str], TableResult]) -> dict[tuple[str, str], str]:
    return {place: result.state for place, result in results.items()}


def _found(result: TableResult) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(",".join(map(str, d.key.values())), d.kind, d.columns) for d in result.differences}


def test_loaded_tables_are_equal_on_every_kind_of_sink(shop: Deployment) -> None:
    results = _verify(shop)
    assert _states(results) == {
        (sink, table): "equal" for sink in ("pg", "maria", "mysql") for table in ("types", "lines")
    }
    assert all(result.is_equal for result in results.values())
    assert {(r.table.table, r.source_rows, r.sink_rows) for r in results.values()} == {
        ("types", 3, 3),
        ("lines", 30, 30),
    }


@pytest.mark.parametrize("sink", ["pg", "mysql"])
def test_what_was_changed_by_hand_is_found_and_named(pair: Deployment, sink: str) -> None:
    for sql in (
        "UPDATE {}.types SET price = price + 0.0001, name = concat(name, ' ') WHERE id > 5",
        "UPDATE {}.types SET name = '', body = NULL WHERE id = 1",  # body was NULL before
        "UPDATE {}.types SET span = NULL, kind = NULL WHERE id = 2",
        "DELETE FROM {}.`lines` WHERE a = 7",
        "INSERT INTO {}.`lines` VALUES (7, 'other', 7)",
        "UPDATE {}.`lines` SET amount = 9 WHERE a = 8",
    ):
        _on_sink(pair, sink, sql)
    results = _verify(pair)
    assert _states(results) == {
        (one, table): "different" if one == sink else "equal" for one in ("pg", "mysql") for table in ("types", "lines")
    }
    assert _found(results[sink, "types"]) == {
        ("18446744073709551615", "different", ("price", "name")),
        ("1", "different", ("name",)),
        ("2", "different", ("span", "kind")),
    }
    assert _found(results[sink, "lines"]) == {
        ("7,l1", "missing", ()),
        ("7,other", "extra", ()),
        ("8,l2", "different", ("amount",)),
    }


def test_a_row_that_is_there_twice_makes_a_difference(pair: Deployment) -> None:
    _on_sink(pair, "pg", "ALTER TABLE {}.`lines` DROP CONSTRAINT lines_pkey")
    _on_sink(pair, "pg", "INSERT INTO {}.`lines` SELECT * FROM {}.`lines` WHERE a = 3")
    _on_sink(pair, "pg", "DELETE FROM {}.`lines` WHERE a = 4")
    result = _verify(pair, "lines", sinks=["pg"])["pg", "lines"]
    assert (result.source_rows, result.sink_rows, result.state) == (30, 30, "different")
    assert _found(result) == {("3,l0", "extra", ()), ("4,l1", "missing", ())}


def test_the_exit_code_and_json_say_what_is_different(pair: Deployment) -> None:
    _on_sink(pair, "mysql", "DELETE FROM {}.`lines` WHERE a = 7")
    done = pair.run("verify", "--json", f"{pair.source_database}.lines")
    assert done.returncode == 1
    on_pg, on_mysql = json.loads(done.stdout)
    assert on_pg["equal"] is True
    checksums = on_mysql.pop("source_checksum"), on_mysql.pop("sink_checksum")
    assert checksums[0] == on_pg["source_checksum"] != checksums[1]
    assert on_mysql == {
        "sink": "mysql",
        "table": f"{pair.source_database}.lines",
        "target": f"{pair.sinks['mysql'][1]}.lines",
        "state": "different",
        "source_rows": 30,
        "sink_rows": 29,
        "equal": False,
        "differences": [{"key": {"a": "7", "b": "l1"}, "kind": "missing", "columns": []}],
        "notes": ["1 missing row"],
    }


def test_people_are_shown_counts_checksums_keys_and_one_last_line(pair: Deployment) -> None:
    done = pair.run("verify")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "all 2 tables equal on 2 sinks"
    _on_sink(pair, "pg", "UPDATE {}.`lines` SET amount = amount + 777")
    done = pair.run("verify")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "1 of 2 tables differ: 1 different"
    assert "30 different rows" in done.stdout
    assert done.stdout.count("different in amount") == DIFFERENCES_SHOWN_MAX
    assert "777" not in done.stdout  # row data may be private


def test_a_target_that_is_gone_is_missing(pair: Deployment) -> None:
    _on_sink(pair, "mysql", "DROP TABLE {}.`lines`")
    results = _verify(pair, "lines")
    assert _states(results) == {("pg", "lines"): "equal", ("mysql", "lines"): "missing target"}


def test_a_table_that_is_not_loaded_yet_is_pending_and_one_that_cannot_be_is_parked(pair: Deployment) -> None:
    name = "n" * 64  # characters; PostgreSQL has 63 bytes for it
    pair.source.execute("CREATE TABLE late (id INT PRIMARY KEY)", database=pair.source_database)
    pair.source.execute(f"CREATE TABLE {name} (n INT)", database=pair.source_database)
    pair.source.execute(f"INSERT INTO {name} VALUES (1), (1)", database=pair.source_database)
    results = _verify(pair, sinks=["pg"])
    assert {table: state for (_, table), state in _states(results).items()} == {
        "late": "pending",
        name: "parked",
        "types": "equal",
        "lines": "equal",
    }
    assert results["pg", name].source_rows == 2
    assert "cannot go to" in results["pg", name].notes[0]
    done = pair.run("verify")
    assert "changes not yet applied" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 of 4 tables differ: 1 parked, 1 pending"


def test_a_running_service_is_named_as_a_reason_for_differences(pair: Deployment) -> None:
    pair.start()
    wait_until(lambda: {s["state"] for s in pair.status()["sinks"]} <= {"streaming", "caught_up"}, 30, "streaming")
    _on_sink(pair, "pg", "DELETE FROM {}.`lines` WHERE a = 1")
    done = pair.run("verify", f"{pair.source_database}.lines")
    assert "at work on sink pg: a difference may be changes in flight" in done.stdout


@pytest.mark.parametrize("name", ["lines", "{}.nothing", "elsewhere.lines"])
def test_a_wrong_table_name_is_a_configuration_error(pair: Deployment, name: str) -> None:
    done = pair.run("verify", name.format(pair.source_database))
    assert done.returncode == 2
    assert "hint:" in done.stderr
    assert done.stdout == ""


def test_memory_does_not_grow_with_the_table(pair: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 000 rows of 10 kB are 30 MB, read in batches of 1 MB, of which a few copies are made."""
    monkeypatch.setattr("cdc.verify._BATCH_BYTES_MAX", 1_000_000)
    insert = "INSERT INTO wide SELECT seq, REPEAT(CHAR(65 + MOD(seq, 26)), 10000) FROM seq_1_to_3000"
    pair.source.execute("CREATE TABLE wide (id INT PRIMARY KEY, body LONGTEXT)", database=pair.source_database)
    pair.source.execute(insert, database=pair.source_database)
    pair.catch_up()
    tracemalloc.start()
    try:
        results = _verify(pair, "wide")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(_states(results).values()) == {"equal"}
    assert peak < 15e6


def test_the_checksum_knows_no_order_but_counts_duplicates() -> None:
    rows = [("1", None), ("2", "x"), ("2", "x"), ("3", "\udc80"), ("", "x")]
    one, other, fewer = RowSum(), RowSum(), RowSum()
    one.add(rows)
    for row in reversed(rows):
        other.add([row])
    fewer.add(rows[:2] + rows[3:])
    assert (one.rows, one.checksum) == (other.rows, other.checksum)
    assert fewer.checksum != one.checksum


@pytest.mark.parametrize(
    "pair", [((None, ""), ("", None)), (("a", "b"), ("ab", "")), (("null",), (None,)), (('"',), ("\\",))]
)
def test_rows_that_differ_have_checksums_that_differ(pair: tuple[Any, Any]) -> None:
    one, other = RowSum(), RowSum()
    one.add([pair[0]])
    other.add([pair[1]])
    assert one.checksum != other.checksum
