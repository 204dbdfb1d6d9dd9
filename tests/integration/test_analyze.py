"""`cdc analyze` on real servers: what it sees, what it asks of them, what changed since, and that its file runs."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc.clock import SystemClock
from cdc.commands.analyze import AnalyzeOptions, analyze
from cdc.config import load_source_config
from cdc.demo.servers import Server
from cdc.errors import ConfigError
from cdc.schema.advice import advise
from cdc.source.analysis import read_analysis
from cdc.source.connection import SourceConnection, SourceSettings, connect
from tests.support.databases import fresh_database, unique_name
from tests.support.deployment import deployment
from tests.support.waiting import wait_until

ROWS = 30_000
TABLES = (
    (
        "CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, customer INT NOT NULL, note VARCHAR(20) NULL, "
        "created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP, "
        "updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, "
        "modified_on DATETIME NULL, edited DATE NOT NULL DEFAULT '2024-01-01', "
        "KEY u (updated_at), KEY c (created_at, id), KEY m (modified_on))"
    ),
    (
        "CREATE TABLE plans (id INT PRIMARY KEY, changed_at DATETIME(3) NOT NULL, version BIGINT NOT NULL, "
        "KEY ch (changed_at), KEY v (version))"
    ),
    "INSERT INTO plans VALUES (1, '2999-01-01', 7)",
    "CREATE TABLE remarks (at TIMESTAMP NULL, body TEXT)",
    "CREATE VIEW open_orders AS SELECT * FROM orders",
)


def settings(server: Server, user: str = "root", password: str | None = None) -> SourceSettings:
    return SourceSettings(
        host=server.host,
        port=server.port,
        user=user,
        password=server.password if password is None else password,
        server_id=1,
    )


@contextlib.contextmanager
def shop(server: Server) -> Iterator[str]:
    with fresh_database(server, "an") as database:
        for statement in TABLES:
            server.execute(statement, database=database)
        fill(server, database)
        yield database


def fill(server: Server, database: str) -> None:
    with contextlib.closing(server.connect(database)) as connection, connection.cursor() as cursor:
        for first in range(0, ROWS, 5_000):
            cursor.executemany("INSERT INTO orders (customer) VALUES (%s)", [(n,) for n in range(first, first + 5_000)])
        connection.commit()
        cursor.execute("ANALYZE TABLE orders, plans, remarks")


def run(directory: Path, server: Server, database: str, capsys: pytest.CaptureFixture[str], **options: Any) -> Any:
    """`cdc analyze --json`, into `directory`."""
    (directory / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "shop",
                "source": {"url": server.url, "server_id": 42},
                "tables": {"include": [f"{database}.*"]},
            }
        )
    )
    config = load_source_config(directory / "config.yaml", environ={})
    chosen = AnalyzeOptions(output=directory / "tables.yml", as_json=True, **options)
    capsys.readouterr()
    assert analyze(config, chosen, clock=SystemClock()) == 0
    return json.loads(capsys.readouterr().out)


def test_sizes_and_columns_are_judged(
    tmp_path: Path, source_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with shop(source_server) as database:
        seen = run(tmp_path, source_server, database, capsys)
    tables = {name.partition(".")[2]: record for name, record in seen["tables"].items()}
    assert {name: record["size"] for name, record in tables.items()} == {
        "orders": "small",
        "plans": "tiny",
        "remarks": "tiny",
    }
    assert tables["orders"]["data_bytes"] > ROWS * 20
    candidates = {
        (name, candidate["column"]): candidate for name, record in tables.items() for candidate in record["candidates"]
    }
    qualities = {where: candidate["quality"] for where, candidate in candidates.items()}
    assert qualities == {
        ("orders", "updated_at"): "good",
        ("orders", "created_at"): "poor",
        ("orders", "modified_on"): "poor",
        ("orders", "edited"): "usable",
        ("plans", "changed_at"): "poor",
        ("plans", "version"): "usable",
        ("remarks", "at"): "poor",
    }
    assert candidates["orders", "updated_at"]["in_future"] is False
    assert candidates["plans", "changed_at"]["in_future"] is True
    assert candidates["plans", "version"]["greatest"] == "7"
    assert candidates["orders", "edited"]["greatest"] is None  # no index has it at its end
    assert seen["not_captured"] == {f"{database}.open_orders": "view"}
    assert {record["strategy"] for record in tables.values()} == {"cdc"}
    assert "no key" in " ".join(tables["remarks"]["warnings"])


def test_no_table_is_read_beyond_the_ends_of_its_indexes(source_server: Server) -> None:
    with shop(source_server) as database, connect(settings(source_server)) as connection:
        before = rows_read(connection)
        read_analysis(connection, lambda name, _table: name == database)
        assert rows_read(connection) - before < ROWS / 2


def rows_read(connection: SourceConnection) -> int:
    found = connection.query_text("SHOW SESSION STATUS LIKE 'Handler_read%'")
    return sum(int(value or 0) for _, value in found)


def test_it_waits_for_nobody_and_nobody_waits_for_it(source_server: Server) -> None:
    """A table that another session has locked, with an ALTER waiting behind: what is not to be had is said."""
    with shop(source_server) as database, contextlib.ExitStack() as stack:
        holder = stack.enter_context(contextlib.closing(source_server.connect(database)))
        with holder.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO orders (customer) VALUES (1)")
        alter = threading.Thread(
            target=source_server.execute, args=("ALTER TABLE orders ADD more INT",), kwargs={"database": database}
        )
        alter.start()
        try:
            waits = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table metadata%'"
            wait_until(lambda: source_server.execute(waits)[0][0], what="the ALTER to wait")
            began = time.monotonic()
            with connect(settings(source_server)) as connection:
                analysis = read_analysis(connection, lambda name, _table: name == database)
            assert time.monotonic() - began < 60  # three columns, a second each; not the thirty that sessions wait
            assert alter.is_alive()
        finally:
            holder.rollback()
            alter.join(60)
    orders = next(facts for facts in analysis.tables if facts.definition.name.table == "orders")
    assert size_is_known(orders.rows)
    assert {c.no_answer != "" for c in orders.candidates if c.index is not None} == {True}
    assert [c.no_answer for facts in analysis.tables for c in facts.candidates if facts is not orders] == [""] * 3


def size_is_known(rows: int) -> bool:
    return ROWS / 2 < rows < ROWS * 2


@pytest.mark.any_server
def test_a_second_run_tells_what_has_changed(
    tmp_path: Path, source_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with shop(source_server) as database:
        first = run(tmp_path, source_server, database, capsys)
        files = {path.name: path.read_bytes() for path in tmp_path.glob("tables.*")}
        again = run(tmp_path, source_server, database, capsys)
        assert (first["is_first"], again["is_first"], again["changes"]) == (True, False, [])
        assert {path.name: path.read_bytes() for path in tmp_path.glob("tables.*")} == files
        for statement in (
            (
                "ALTER TABLE plans DROP COLUMN version, ADD owner INT NULL, MODIFY changed_at DATETIME(6) NOT NULL, "
                "ADD UNIQUE KEY o (owner), DROP PRIMARY KEY, ADD PRIMARY KEY (id, changed_at)"
            ),
            "RENAME TABLE remarks TO notes",
            "CREATE TABLE fresh (id INT PRIMARY KEY)",
            "TRUNCATE TABLE orders",
            "ANALYZE TABLE orders",
        ):
            source_server.execute(statement, database=database)
        found = run(tmp_path, source_server, database, capsys)["changes"]
    changes = [text.replace(f"{database}.", "") for text in found]
    assert changes == [
        "`fresh` is new: tiny, about 0 rows",
        "`notes` is new: tiny, about 0 rows (the definition that `remarks` had: renamed?)",
        "`remarks` is not there any more; it was tiny",
        "`orders`: size class is tiny, was small",
        "`plans`: column `owner` is new: int" + ("" if source_server.family == "mysql" else "(11)"),
        "`plans`: column `version` is gone: bigint" + ("" if source_server.family == "mysql" else "(20)") + " not null",
        "`plans`: column `changed_at` is datetime(6) not null, was datetime(3) not null",
        "`plans`: primary key is (id, changed_at), was (id)",
        "`plans`: unique key `o` is (owner), was none",
    ]
    log = (tmp_path / "tables.changelog.md").read_text().replace(f"{database}.", "")
    assert [line.removeprefix("- ") for line in log.splitlines() if line.startswith("- ")] == changes


def test_what_is_broken_is_left_as_it_is(
    tmp_path: Path, mariadb1011: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with shop(mariadb1011) as database:
        for text in ("- no mapping\n", f"{database}.orders: {{priority: high}}\n", f"{database}.orders: {{nope: 1}}\n"):
            (tmp_path / "tables.yml").write_text(text)
            with pytest.raises(ConfigError, match=r"tables\.yml"):
                run(tmp_path, mariadb1011, database, capsys)
            assert (tmp_path / "tables.yml").read_text() == text
            assert not (tmp_path / "tables.analysis.json").exists()
        (tmp_path / "tables.yml").unlink()
        run(tmp_path, mariadb1011, database, capsys, dry_run=True)
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_without_the_right_to_the_binlog_another_strategy_is_advised(source_server: Server) -> None:
    """An account that may only SELECT."""
    user = unique_name("u")
    with shop(source_server) as database:
        source_server.execute(f"CREATE USER {user}@'%' IDENTIFIED BY 'pw'")
        try:
            source_server.execute(f"GRANT SELECT ON `{database}`.* TO {user}@'%'")
            with connect(settings(source_server, user, "pw")) as connection:
                analysis = read_analysis(connection, lambda name, _table: name == database)
        finally:
            source_server.execute(f"DROP USER {user}@'%'")
    assert analysis.no_stream == "REPLICATION SLAVE is not granted"
    advised = {f.definition.name.table: advise(f, no_stream=analysis.no_stream).strategy for f in analysis.tables}
    assert advised == {"orders": "incremental", "plans": "full_refresh", "remarks": "full_refresh"}


@pytest.mark.in_turn
def test_what_it_writes_is_a_configuration_that_runs(
    tmp_path: Path, source_server: Server, pg15: Server, mysql97: Server
) -> None:
    with deployment(tmp_path, source_server, pg=pg15, mysql=mysql97) as made:
        for statement in TABLES[:4]:
            source_server.execute(statement, database=made.source_database)
        fill(source_server, made.source_database)
        written = tmp_path / "tables.yml"
        result = made.run("analyze", "--output", str(written))
        assert result.returncode == 0, result.stderr
        assert "tables.file" in result.stdout
        made.config["tables"]["file"] = str(written)
        loaded = made.run("run", "--until-caught-up")
        assert loaded.returncode == 0, loaded.stderr
        made.assert_equal("orders", "plans", "remarks")
        for sink in made.sinks:
            lines = [json.loads(line) for line in loaded.stderr.splitlines() if '"table_loaded"' in line]
            order = [line["table"].partition(".")[2] for line in lines if line["sink"] == sink]
            assert sorted(order) == ["orders", "plans", "remarks"]
            assert order.index("plans") < order.index("orders")  # tiny ones first; without a key it goes by itself
        shown = json.loads(made.run("config", "show").stdout)
        overrides = {entry["table"]: entry for entry in shown["tables"]["overrides"]}
        assert overrides[f"{made.source_database}.orders"]["priority"] == 20
        again = made.run("analyze")
        assert again.returncode == 0, again.stderr
        assert "nothing has changed" in again.stdout
