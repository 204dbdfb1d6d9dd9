"""What a sink's settings and limits put in the way of staging tables, loads and texts, each with its way out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdc.demo.servers import Server
from cdc.errors import ConfigError
from cdc.model import PartialUpdate
from cdc.sinks.mysql import MysqlSink
from tests.integration.test_mysql_bulk import PAIR, pairs
from tests.integration.test_sinks import account, canonical_rows, place_on
from tests.support.databases import unique_name
from tests.support.deployment import deployment
from tests.unit.sinks.builders import K, change_of, column, rows_of, table

StartServer = Callable[..., Server]


def moved(count: int) -> PartialUpdate:
    """`count` rows of PAIR get other keys: by way of the staging table."""
    old = pairs(count)
    rows = [(name, number + 10_000, value) for name, number, value in old]
    return PartialUpdate(("name", "id"), rows_of(PAIR, rows), rows_of(PAIR, old).select([0, 1]))


def test_statement_logging_is_set_aside_where_that_may_be(start_server: StartServer) -> None:
    """MySQL with enforced GTIDs makes no temporary table within a transaction that is logged as statements (3748)."""
    server = start_server("mysql97", options={"binlog_format": "STATEMENT"})
    with place_on(server, unique_name()) as place:
        target = place.create(PAIR)
        place.load(PAIR, target, pairs(100))
        with place.sink.transaction() as transaction:
            transaction.apply(replace(change_of(PAIR), updates=(moved(100),)), target)
            transaction.commit()
        expected = [(name, number + 10_000, value) for name, number, value in pairs(100)]
        assert place.rows(target) == canonical_rows(rows_of(PAIR, expected), target, place)

        place.apply(PAIR, target, upserts=pairs(100))
        poor = place.another(**account(place, [f"ALL ON {place.quoted(place.namespace)}.*"]))
        poor.open()
        with poor.transaction() as transaction, pytest.raises(ConfigError, match="3748") as caught:
            transaction.apply(replace(change_of(PAIR), updates=(moved(100),)), target)
        assert "SET GLOBAL binlog_format = ROW" in caught.value.hint
        assert "SESSION_VARIABLES_ADMIN" in caught.value.hint
        poor.close()
        place.drop_users()


def test_a_table_as_wide_as_it_may_be_is_staged(mysql_sink_server: Server) -> None:
    """The staging table has the key twice: more than the 65535 bytes that a row may declare (1118)."""
    wide = table(
        column("a", K.TEXT, "varchar(350)", length=350, is_nullable=False, collation="utf8mb4_bin"),
        column("b", K.BINARY, "varbinary(1000)", length=1000, is_nullable=False),
        column("v", K.TEXT, "varchar(15700)", length=15700, collation="utf8mb4_bin"),
        key=("a", "b"),
    )
    name = unique_name()
    mysql_sink_server.execute(f"CREATE DATABASE {name}")
    try:
        with place_on(mysql_sink_server, name) as place:
            target = place.create(wide)
            rows = [(f"ä{n}", bytes([n, 0, 255]), f"text {n} 東京" * 100) for n in range(120)]
            place.load(wide, target, rows)
            old = rows_of(wide, rows[:60]).select([0, 1])
            renamed = [(f"{a} moved", b, v) for a, b, v in rows[:60]]
            update = PartialUpdate(("a", "b"), rows_of(wide, [(a, b, "wrong") for a, b, _ in renamed]), old)
            with place.sink.transaction() as transaction:
                transaction.apply(replace(change_of(wide), updates=(update,)), target)
                transaction.commit()
            assert place.rows(target) == canonical_rows(rows_of(wide, renamed + rows[60:]), target, place)

            gone = change_of(wide, deletes=[*renamed, *rows[60:]])
            with place.sink.transaction() as transaction:
                assert transaction.apply(gone, target).deleted == 120
                transaction.commit()
            assert place.rows(target) == []
    finally:
        mysql_sink_server.execute(f"DROP DATABASE {name}")


def test_a_galera_node_that_cuts_loads_is_given_statements(start_server: StartServer) -> None:
    """With wsrep_load_data_splitting LOAD DATA commits by itself, which the checkpoint would not know of."""
    options = {"wsrep_on": "ON", "wsrep_load_data_splitting": "ON", "innodb_autoinc_lock_mode": "2"}
    with place_on(start_server("mariadb1011", options=options), unique_name()) as place:
        assert isinstance(place.sink, MysqlSink)
        assert not place.sink.can_load
        target = place.create(PAIR)
        with place.sink.transaction() as transaction:
            transaction.load(rows_of(PAIR, pairs(25_000)), target)
        assert place.rows(target) == [], "rolled back, and nothing was committed on the way"
        place.execute("SET GLOBAL wsrep_load_data_splitting = OFF")
        place.sink.open()
        assert place.sink.can_load


def test_a_text_that_a_latin1_database_cannot_hold_is_named(tmp_path: Path, mysql97: Server, pg15: Server) -> None:
    name = unique_name("latin")
    pg15.execute(
        f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0", database="postgres"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(pg15.execute, f"DROP DATABASE {name} WITH (FORCE)", database="postgres")
        made = stack.enter_context(deployment(tmp_path, mysql97, pg=pg15))
        made.sinks["pg"] = (pg15, name)
        made.config["sinks"][0]["url"] = pg15.url_for(name)
        source = made.source_database
        mysql97.execute("CREATE TABLE good (id INT PRIMARY KEY, t VARCHAR(20), e ENUM('東','西'))", database=source)
        mysql97.execute("CREATE TABLE bad (id INT PRIMARY KEY, t VARCHAR(20), other INT)", database=source)
        mysql97.execute("INSERT INTO good VALUES (1, 'Zoë', NULL)", database=source)
        made.catch_up()

        mysql97.execute("INSERT INTO good VALUES (2, 'ü', NULL)", database=source)
        mysql97.execute("INSERT INTO bad VALUES (1, 'ok', 1), (2, '東京', 2)", database=source)
        result = made.run("run", "--until-caught-up")

        assert result.returncode == 1
        tables: dict[str, dict[str, Any]] = {one["table"]: one for one in made.status()["tables"]}
        assert tables[f"{source}.good"]["state"] == "ready"
        error = tables[f"{source}.bad"]["error"]
        assert (error["class"], error["column"], error["key"]) == ("SinkRefused", "t", "id=2")
        assert error["row"]["t"] == "'東京'"
        states = {one["table"]: one["state"] for one in json.loads(made.run("verify", "--json").stdout)}
        assert states[f"{source}.good"] == "equal"
