"""Every finding of `cdc check` is provoked on a real server, and a good set-up has none.

Global settings are made wrong on servers of a test's own; accounts, databases and tables on the run's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from cdc import mysql_client
from cdc.app import source_settings
from cdc.check import CheckReport, grants_sql, run_checks, to_json
from cdc.clock import SystemClock
from cdc.config import Config, load_config
from cdc.demo.servers import Server
from cdc.errors import SourceUnavailable
from cdc.model import FilePos, ServerIdentity, SourcePosition, TableName
from cdc.schema.findings import Finding
from cdc.source.analysis import read_analysis
from cdc.source.connection import SourceConnection, SourceSettings, connect
from cdc.source.definitions import read_definition
from cdc.source.preflight import Captured, read_source
from cdc.source.stream import BinlogStream
from snapshot.guards import replica_lags
from tests.support.collector import Collector, next_event
from tests.support.databases import unique_name
from tests.support.deployment import deployment

SERVER_ID = 4_000_000_000
StartServer = Callable[..., Server]
Database = Callable[[Server], str]


class ShiftedClock(SystemClock):
    """A machine whose clock is wrong."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now_us(self) -> int:
        return super().now_us() + int(self.seconds * 1e6)


def configuration(
    tmp_path: Path,
    source: str,
    sinks: Mapping[str, str] | Iterable[Mapping[str, Any]],
    include: Iterable[str],
    **more: Any,
) -> Config:
    """A configuration; `more` adds keys of `source` (server_id, position) and `tables` (overrides)."""
    listed = [{"name": name, "url": url} for name, url in sinks.items()] if isinstance(sinks, Mapping) else list(sinks)
    document = {
        "name": unique_name("check").replace("_", "-").lower(),
        "source": {"url": source, "server_id": more.get("server_id", SERVER_ID)},
        "sinks": listed,
        "tables": {"include": list(include), "overrides": more.get("overrides", [])},
        "policies": more.get("policies", {}),
    }
    if "position" in more:
        document["source"]["position"] = more["position"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_config(path, environ={})


def check(config: Config, clock: SystemClock | None = None) -> CheckReport:
    return run_checks(config, clock=clock or SystemClock())


def found(report: CheckReport, check_id: str, severity: str | None = None) -> list[Finding]:
    return [f for f in report.findings if f.check == check_id and severity in (None, f.severity)]


def one(report: CheckReport, check_id: str, severity: str) -> Finding:
    findings = found(report, check_id)
    assert [f.severity for f in findings] == [severity], [(f.check, f.severity, f.problem) for f in report.findings]
    assert findings[0].fix
    return findings[0]


def ids(report: CheckReport, severity: str) -> set[str]:
    return {f.check for f in report.findings if f.severity == severity}


@contextlib.contextmanager
def account(server: Server, *grants: str, password: str = "", database: str | None = None) -> Iterator[str]:
    """The URL of a new account with those grants (`{user}` is its name); what it owns in `database` goes with it."""
    name = unique_name("u")
    if server.family == "postgresql":
        server.execute(f"CREATE ROLE {name} LOGIN")
        user = name
    else:
        server.execute(f"CREATE USER {name}@'%' IDENTIFIED BY '{password}'")
        user = f"{name}@'%'"
    try:
        for grant in grants:
            server.execute(grant.format(user=user))
        secret = f":{password}" if password else ""
        scheme = "postgresql" if server.family == "postgresql" else "mysql"
        yield f"{scheme}://{name}{secret}@{server.host}:{server.port}"
    finally:
        if server.family == "postgresql":
            with contextlib.suppress(Exception):
                server.execute(f"DROP OWNED BY {name} CASCADE", database=database)
                server.execute(f"DROP OWNED BY {name}")
            server.execute(f"DROP ROLE {name}")
        else:
            server.execute(f"DROP USER {name}@'%'")


REPLICATION = "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}"


def source_account(server: Server, database: str) -> contextlib.AbstractContextManager[str]:
    escaped = database.replace("_", r"\_")
    return account(server, REPLICATION, f"GRANT SELECT ON `{escaped}`.* TO {{user}}")


# ---------------------------------------------------------------- a good set-up


def test_the_printed_grants_are_enough_and_a_good_set_up_has_no_errors(
    source_server: Server, pg15: Server, mysql97: Server, mariadb118: Server, tmp_path: Path
) -> None:
    """Every account gets what `cdc check --grants` prints and nothing else: enough to check and to replicate."""
    sinks = {"pg": pg15, "mysql": mysql97, "mariadb": mariadb118}
    sinks = {name: server for name, server in sinks.items() if server is not source_server}
    with deployment(tmp_path, source_server, **sinks) as made, contextlib.ExitStack() as stack:
        captured = made.source_database
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(50), born DATE)", database=captured)
        source_server.execute("INSERT INTO t VALUES (1, 'x', '2024-02-29'), (2, NULL, NULL)", database=captured)
        made.config["source"]["url"] = stack.enter_context(account(source_server))
        for sink in made.config["sinks"]:
            server, database = made.sinks[sink["name"]]
            sink["url"] = f"{stack.enter_context(account(server, database=database))}/{database}"
        config = load_config(made.write_config(), environ={})
        apply_grants(grants_sql(config), source_server, *sinks.values())
        before = written(source_server)

        report = check(config)

        assert [(f.check, f.problem) for f in report.findings if f.severity != "info"] == []
        assert report.exit_code == 0
        assert found(report, "sink.excess_rights") == []
        assert written(source_server) == before
        for name, server in sinks.items():
            assert namespaces_made(server, made.sinks[name][1], captured) == []

        command = made.run("check", "--json")
        assert command.returncode == 0, command.stderr
        assert json.loads(command.stdout)["ready"] is True

        made.catch_up()
        made.assert_equal("t")
        for name, server in sinks.items():
            view = '"_cdc".etl_load_status' if server.family == "postgresql" else "_cdc_etl_load_status"
            assert server.execute(f"SELECT load_status FROM {view}", database=made.sinks[name][1]) == [("success",)]
        again = check(config)
        assert [(f.check, f.problem) for f in again.findings if f.severity == "error"] == []
        # The server may not have noticed yet that the stream has ended.
        assert ids(again, "warning") <= {"source.replica_ids"}


def test_the_printed_grants_let_a_replicas_lag_be_seen_where_loads_wait_for_it(
    source_server: Server, pg15: Server, tmp_path: Path
) -> None:
    with deployment(tmp_path, source_server, pg=pg15) as made, account(source_server) as url:
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        source_server.execute("INSERT INTO t VALUES (1)", database=made.source_database)
        made.config["source"]["url"] = url
        unasked = load_config(made.write_config(), environ={})
        made.config["snapshot"] = {"pause_when": {"replica_lag_seconds": 60}}
        asked = load_config(made.write_config(), environ={})

        printed = grants_sql(asked, check(asked))
        assert ("GRANT REPLICA MONITOR" in printed) == (source_server.family == "mariadb")
        assert "REPLICA MONITOR" not in grants_sql(unasked, check(unasked))
        apply_grants(printed.split("\n\n")[0], source_server)
        with connect(source_settings(asked)) as connection:
            assert replica_lags(connection) == []
        made.catch_up()  # whose load looks for a lag
        made.assert_equal("t")


def written(server: Server) -> str:
    """The end of its log."""
    status = "SHOW BINARY LOG STATUS" if server.family == "mysql" else "SHOW MASTER STATUS"
    return str(server.execute(status)[0][:2])


def namespaces_made(server: Server, database: str, captured: str) -> list[Any]:
    """What a check must not have made on a sink."""
    if server.family != "postgresql":
        return server.execute(f"SHOW TABLES IN `{database}`")
    sql = "SELECT nspname FROM pg_namespace WHERE nspname IN ('_cdc', %s)"
    return server.execute(sql, (captured,), database=database)


def apply_grants(text: str, *servers: Server) -> None:
    """Run each section of the printed grants on the server that it is for, in the sections' order."""
    sections = [section.splitlines()[1:] for section in text.strip().split("\n\n")]
    for server, statements in zip(servers, sections, strict=True):
        for statement in statements:
            server.execute(statement)


# ---------------------------------------------------------------- connections


def test_every_server_is_reached_whatever_the_others_do(
    mysql97: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(mysql97)
    mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    base = pg15.url.rpartition("/")[0]
    with account(mysql97, password="right") as url:
        sinks = {
            "fine": pg15.url,
            "nowhere": "postgresql://postgres@127.0.0.1:9/x",
            "missing": f"{base}/{unique_name('no_such')}",
            "refused": url.replace(":right@", ":wrong@") + "/x",
        }
        report = check(configuration(tmp_path, mysql97.url, sinks, [f"{captured}.*"]))

    findings = {f.subject: f for f in found(report, "sink.connection")}
    assert set(findings) == {"sink nowhere", "sink missing", "sink refused"}
    assert "Connection refused" in findings["sink nowhere"].problem
    assert findings["sink nowhere"].exit_code == 1
    assert "does not exist" in findings["sink missing"].problem
    assert "CREATE DATABASE" in findings["sink missing"].fix
    assert "1045" in findings["sink refused"].problem
    assert "password" in findings["sink refused"].fix
    assert all("wrong" not in f.problem for f in findings.values())
    assert report.exit_code == 2
    assert report.source is not None
    assert set(report.sinks) == {"fine"}


@pytest.mark.parametrize("url,exit_code", [("mysql://nobody:wrong@{}:{}", 2), ("mysql://root@127.0.0.1:9", 1)])
def test_a_source_that_cannot_be_used_leaves_the_sinks_to_be_checked(
    mariadb1011: Server, pg15: Server, tmp_path: Path, url: str, exit_code: int
) -> None:
    source = url.format(mariadb1011.host, mariadb1011.port)

    report = check(configuration(tmp_path, source, {"pg": pg15.url}, ["shop.*"]))

    finding = one(report, "source.connection", "error")
    assert finding.exit_code == report.exit_code == exit_code
    assert "pg" in report.sinks


# ---------------------------------------------------------------- rights at the source


def test_missing_rights_at_the_source_are_named_with_their_grant(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, x INT)", database=captured)
    with account(source_server, f"GRANT INSERT ON `{captured}`.* TO {{user}}") as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"]))

        assert {"source.replication_client", "source.replication_slave", "table.select"} <= ids(report, "error")
        for check_id in ("source.replication_client", "source.replication_slave", "table.select", "table.later"):
            for finding in found(report, check_id):
                for statement in finding.fix.split("; or")[0].rstrip(";").split("; "):
                    source_server.execute(statement.rstrip(";"))
        mended = check(configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"]))

    assert [
        (f.check, f.problem)
        for f in mended.findings
        if f.check.startswith(("source.repl", "table.")) and f.severity != "info"
    ] == []
    assert report.exit_code == 1


def test_a_role_that_is_not_active_does_not_count_and_is_pointed_at(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured, role = database(source_server), unique_name("r")
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    source_server.execute(f"CREATE ROLE {role}")
    try:
        for grant in (REPLICATION, f"GRANT SELECT ON `{captured}`.* TO {{user}}"):
            source_server.execute(grant.format(user=role))
        with account(source_server, f"GRANT {role} TO {{user}}") as url:
            config = configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"])

            report = check(config)
            finding = one(report, "source.replication_slave", "error")
            assert role in finding.problem
            source_server.execute(finding.fix.partition("a role has it: ")[2].rstrip(";"))

            assert check(config).exit_code == 0
    finally:
        source_server.execute(f"DROP ROLE {role}")


def test_grants_on_single_columns_are_tried(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    """A column without any right is not even visible: only a SELECT of all columns tells."""
    captured = database(source_server)
    source_server.execute("CREATE TABLE part (id INT PRIMARY KEY, x INT, y INT)", database=captured)
    source_server.execute("CREATE TABLE whole (id INT PRIMARY KEY, x INT)", database=captured)
    grants = (
        REPLICATION,
        f"GRANT SELECT (id, x) ON `{captured}`.part TO {{user}}",
        f"GRANT SELECT (id, x) ON `{captured}`.whole TO {{user}}",
    )
    with account(source_server, *grants) as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"]))

    by_table = {f.subject: f for f in found(report, "table.select")}
    assert by_table[f"{captured}.part"].severity == "error"
    assert by_table[f"{captured}.whole"].severity == "warning"
    assert f"GRANT SELECT ON `{captured}`.`part`" in by_table[f"{captured}.part"].fix
    assert one(report, "table.later", "warning").fix.startswith("GRANT SELECT ON")


def test_a_pattern_that_sees_nothing_says_whether_a_right_is_missing(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured, hidden = database(source_server), database(source_server)
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=hidden)
    with source_account(source_server, captured) as url:
        include = [f"{captured}.*", f"{captured}.later", f"{hidden}.*", f"{hidden}.t"]
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, include))

    findings = {f.subject.partition("include ")[2]: f for f in found(report, "table.matched")}
    assert {text: f.severity for text, f in findings.items()} == {
        f"{captured}.later": "warning",
        f"{hidden}.*": "error",
        f"{hidden}.t": "error",
    }
    assert f"GRANT SELECT ON `{hidden}`.`t`" in findings[f"{hidden}.t"].fix


def test_an_administrator_is_more_than_is_needed(
    source_server: Server, mysql_sink_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    sinks = {"pg": pg15.url, "my": mysql_sink_server.url_for("x")}

    report = check(configuration(tmp_path, source_server.url, sinks, [f"{captured}.*"]))

    assert "REVOKE ALL PRIVILEGES" in one(report, "source.excess_rights", "warning").fix
    assert {f.subject for f in found(report, "sink.excess_rights", "info")} == {"sink pg", "sink my"}


# ---------------------------------------------------------------- the source's settings


def test_wrong_settings_of_mysql(start_server: StartServer, pg15: Server, tmp_path: Path) -> None:
    server = start_server(
        "mysql97",
        options={
            "binlog_format": "MIXED",
            "binlog_row_image": "MINIMAL",
            "binlog_row_value_options": "PARTIAL_JSON",
            "binlog_row_metadata": "MINIMAL",
            "binlog_transaction_compression": "ON",
            "binlog_expire_logs_seconds": 3600,
            "binlog_ignore_db": "ignored",
            "binlog_error_action": "IGNORE_ERROR",
            "binlog_checksum": "NONE",
            "gtid_mode": "OFF",
            "enforce_gtid_consistency": "OFF",
            "log_replica_updates": "OFF",
            "server_id": SERVER_ID + 3,
            "innodb_native_foreign_keys": "ON",
        },
    )
    server.execute("CREATE DATABASE ignored")
    server.execute("CREATE TABLE p (id INT PRIMARY KEY)", database="ignored")
    server.execute(
        "CREATE TABLE c (id INT PRIMARY KEY, p INT, CONSTRAINT fk FOREIGN KEY (p) REFERENCES p (id) ON DELETE SET "
        "NULL)",
        database="ignored",
    )
    server.execute("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 9, SOURCE_USER = 'x'")
    config = configuration(tmp_path, server.url, {"pg": pg15.url}, ["ignored.*"])

    report = check(config)

    for check_id, severity, text in (
        ("source.binlog_format", "error", "SET PERSIST binlog_format = 'ROW';"),
        ("source.binlog_row_image", "warning", "SET PERSIST binlog_row_image = 'FULL';"),
        ("source.binlog_row_value_options", "error", "SET PERSIST binlog_row_value_options = '';"),
        ("source.binlog_row_metadata", "warning", "SET PERSIST binlog_row_metadata = 'FULL';"),
        ("source.binlog_transaction_compression", "info", "nothing to do"),
        ("source.retention", "warning", "SET PERSIST binlog_expire_logs_seconds = 86400;"),
        ("source.filters", "error", "binlog_ignore_db=ignored"),
        ("source.binlog_error_action", "warning", "SET PERSIST binlog_error_action = 'ABORT_SERVER';"),
        ("source.binlog_checksum", "info", "SET PERSIST binlog_checksum = 'CRC32';"),
        ("source.gtid", "warning", "SET PERSIST gtid_mode = ON;"),
        ("source.log_replica_updates", "error", "log_replica_updates=ON"),
        ("source.server_id", "error", "source.server_id"),
        ("source.durability", "info", "SET PERSIST sync_binlog = 1;"),
        ("table.cascades", "error", "innodb_native_foreign_keys=OFF"),
    ):
        assert text in one(report, check_id, severity).fix
    assert report.exit_code == 2  # server_id is ours to change
    assert "ON DELETE SET NULL" in one(report, "table.cascades", "error").problem

    # What can be mended while the server runs is mended by just what the findings say.
    for check_id in (
        "binlog_format",
        "binlog_row_image",
        "binlog_row_value_options",
        "binlog_row_metadata",
        "retention",
    ):
        server.execute(found(report, f"source.{check_id}")[0].fix.partition(";")[0])
    for statement in found(report, "source.gtid")[0].fix.rstrip(";").split("; "):
        server.execute(statement)
    mended = check(config)
    assert not {f.check for f in mended.findings} & {
        "source.binlog_format",
        "source.binlog_row_image",
        "source.binlog_row_value_options",
        "source.binlog_row_metadata",
        "source.retention",
        "source.gtid",
    }

    server.restart(options={"disable_log_bin": 1, "log_bin": None, "gtid_mode": "OFF"})
    server.execute("SET GLOBAL server_id = 0")
    config = configuration(tmp_path, server.url, {"pg": pg15.url}, ["ignored.*"], position="gtid")
    report = check(config)
    assert "log_bin=binlog" in one(report, "source.log_bin", "error").fix
    assert "server_id 0" in one(report, "source.server_id", "error").problem


def test_gtid_positions_need_gtid_mode(start_server: StartServer, pg15: Server, tmp_path: Path) -> None:
    server = start_server("mysql97", options={"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"})

    report = check(configuration(tmp_path, server.url, {"pg": pg15.url}, ["shop.*"], position="gtid"))

    finding = one(report, "source.gtid", "error")
    assert "source.position: file" in finding.fix
    assert report.exit_code == 2


@pytest.mark.parametrize("name", ["mariadb1011", "mariadb118"])
def test_wrong_settings_of_mariadb(start_server: StartServer, pg15: Server, tmp_path: Path, name: str) -> None:
    server = start_server(
        name,
        options={
            "binlog_format": "MIXED",
            "binlog_row_image": "NOBLOB",
            "binlog_row_metadata": "NO_LOG",
            "binlog_expire_logs_seconds": 7200,
            "binlog_do_db": "other",
            "binlog_checksum": "NONE",
            "gtid_strict_mode": 0,
            "log_slave_updates": None,
            "server_id": SERVER_ID,
        },
    )
    server.execute("CREATE DATABASE shop")
    server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database="shop")
    server.execute("CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 9, MASTER_USER = 'x'")
    config = configuration(tmp_path, server.url, {"pg": pg15.url}, ["shop.*"])

    report = check(config)

    for check_id, severity, text in (
        ("source.binlog_format", "error", "SET GLOBAL binlog_format = 'ROW';"),
        ("source.binlog_row_image", "warning", "SET GLOBAL binlog_row_image = 'FULL';"),
        ("source.binlog_row_metadata", "warning", "SET GLOBAL binlog_row_metadata = 'FULL';"),
        ("source.retention", "warning", "SET GLOBAL binlog_expire_logs_seconds = 86400;"),
        ("source.filters", "error", "binlog_do_db=other"),
        ("source.binlog_checksum", "info", "SET GLOBAL binlog_checksum = 'CRC32';"),
        ("source.gtid", "info", "SET GLOBAL gtid_strict_mode = 1;"),
        ("source.log_replica_updates", "error", "log_slave_updates=ON"),
        ("source.server_id", "error", "source.server_id"),
    ):
        assert text in one(report, check_id, severity).fix

    for check_id in ("binlog_format", "binlog_row_image", "binlog_row_metadata", "retention", "gtid"):
        server.execute(found(report, f"source.{check_id}")[0].fix.partition(";")[0])
    with source_account(server, "shop") as url:
        mended = check(configuration(tmp_path, url, {"pg": pg15.url}, ["shop.*"], server_id=77))
    assert ids(mended, "error") == {"source.filters"}
    assert found(mended, "source.log_replica_updates")[0].severity == "info"  # this account may not look

    server.restart(options={"log_bin": None, "binlog_do_db": None})
    assert "log_bin=binlog" in one(check(config), "source.log_bin", "error").fix


# ---------------------------------------------------------------- who else is there


@contextlib.contextmanager
def registered(server: Server, server_id: int, host: str) -> Iterator[None]:
    """Another replica, as far as the server can tell."""
    raw: Any = pymysql.connect(host=server.host, port=server.port, user=server.user, password=server.password)
    try:
        raw.query("SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'")
        name = host.encode()
        payload = server_id.to_bytes(4, "little") + bytes([len(name)]) + name + b"\0\0" + b"\xea\x0c" + bytes(8)
        raw.query(f"SET @slave_uuid = '{'0' * 8}-0000-0000-0000-{server_id:012d}'")
        raw._execute_command(0x15, payload)
        raw._read_packet()
        # MariaDB knows a replica only while it reads the log.
        raw._execute_command(0x12, (4).to_bytes(4, "little") + b"\0\0" + server_id.to_bytes(4, "little"))
        raw._read_packet()
        yield
    finally:
        raw._force_close()


def test_another_replica_with_an_id_of_ours_is_found(source_server: Server, pg15: Server, tmp_path: Path) -> None:
    config = configuration(tmp_path, source_server.url, {"pg": pg15.url}, ["shop.*"], server_id=91_000)
    with registered(source_server, 91_005, "elsewhere"):
        finding = one(check(config), "source.replica_ids", "error")

    assert "elsewhere" in finding.problem
    assert "91005" in finding.problem
    assert finding.exit_code == 2


def test_a_stream_of_our_own_that_no_live_instance_holds_is_a_warning(
    source_server: Server, pg15: Server, tmp_path: Path
) -> None:
    config = configuration(tmp_path, source_server.url, {"pg": pg15.url}, ["shop.*"], server_id=92_000)
    settings = SourceSettings(source_server.host, source_server.port, source_server.user, "", 92_000)
    first = str(source_server.execute("SHOW BINARY LOGS")[0][0])
    stream = BinlogStream(
        settings,
        flavor="mysql" if source_server.family == "mysql" else "mariadb",
        position=SourcePosition(ServerIdentity("mysql", ""), FilePos.of(first, 4)),
        server_id=92_001,
    )
    stream.open()
    try:
        assert next_event(stream, Collector(), 10) is not None
        assert "92001" in one(check(config), "source.replica_ids", "warning").problem
    finally:
        stream.close()


def test_what_may_not_be_looked_at_is_said(mysql97: Server, mariadb118: Server, pg15: Server, tmp_path: Path) -> None:
    with account(mysql97, REPLICATION) as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, ["shop.*"]))
    assert "XA_RECOVER_ADMIN" in one(report, "source.prepared", "info").problem
    assert found(report, "source.replica_ids") == []

    with account(mariadb118, REPLICATION) as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, ["shop.*"]))
    assert "REPLICATION MASTER ADMIN" in one(report, "source.replica_ids", "info").problem
    assert found(report, "source.prepared") == []


@pytest.mark.parametrize("seconds", [30.0, -30.0])
def test_clocks_that_differ_are_found(
    source_server: Server, mysql_sink_server: Server, pg15: Server, tmp_path: Path, seconds: float
) -> None:
    config = configuration(
        tmp_path, source_server.url, {"pg": pg15.url, "my": mysql_sink_server.url_for("x")}, ["shop.*"]
    )

    report = check(config, ShiftedClock(seconds))

    said = "behind" if seconds > 0 else "ahead of"
    assert f"30.0 s {said}" in one(report, "source.clock", "warning").problem
    assert {f.subject for f in found(report, "sink.clock", "warning")} == {"sink pg", "sink my"}
    assert found(check(config), "source.clock") == []


def test_prepared_xa_transactions_are_found(start_server: StartServer, pg15: Server, tmp_path: Path) -> None:
    server = start_server("mysql97")
    server.execute("CREATE DATABASE shop")
    server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database="shop")
    with contextlib.closing(server.connect("shop")) as connection, connection.cursor() as cursor:
        for statement in ("XA START 'x1'", "INSERT INTO t VALUES (1)", "XA END 'x1'", "XA PREPARE 'x1'"):
            cursor.execute(statement)

    assert (
        "7831"  # x1, whose bytes might be no text
        in one(
            check(configuration(tmp_path, server.url, {"pg": pg15.url}, ["shop.*"])), "source.prepared", "warning"
        ).problem
    )


# ---------------------------------------------------------------- tables


def test_tables_without_a_key_are_found_unless_something_stands_in(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    for statement in (
        "CREATE TABLE keyless (a INT, b INT)",
        "INSERT INTO keyless VALUES (1, 2), (1, 2)",
        "ANALYZE TABLE keyless",
        "CREATE TABLE viewless (a INT) ENGINE = MyISAM",
        "CREATE TABLE nullable (a INT, UNIQUE (a))",
        "CREATE TABLE prefixed (a VARCHAR(100) NOT NULL, UNIQUE (a(10)))",
        "CREATE TABLE stands_in (a INT NOT NULL, UNIQUE (a))",
        "CREATE TABLE named (a INT NOT NULL, b INT NOT NULL)",
        "CREATE TABLE misnamed (id INT PRIMARY KEY)",
    ):
        source_server.execute(statement, database=captured)
    overrides = [
        {"table": f"{captured}.named", "primary_key": ["a", "b"]},
        {"table": f"{captured}.misnamed", "primary_key": ["idd"]},
    ]
    with source_account(source_server, captured) as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"], overrides=overrides))

    findings = {f.subject.rpartition(".")[2]: f for f in found(report, "table.key")}
    assert {name: f.severity for name, f in findings.items()} == {
        "keyless": "warning",
        "nullable": "warning",
        "prefixed": "warning",
        "viewless": "error",
        "stands_in": "info",
        "named": "warning",
        "misnamed": "error",
    }
    assert f"ALTER TABLE `{captured}`.`keyless` ADD PRIMARY KEY" in findings["keyless"].fix
    assert "some 2 rows" in findings["keyless"].problem
    assert "no read view" in findings["viewless"].problem
    assert "idd" in findings["misnamed"].problem
    assert report.exit_code == 2  # the override names a column that is not there


def test_engines_without_transactions_are_found(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    for engine in ("MyISAM", "MEMORY", "InnoDB"):
        source_server.execute(
            f"CREATE TABLE {engine.lower()} (id INT PRIMARY KEY) ENGINE = {engine}", database=captured
        )
    with source_account(source_server, captured) as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"]))

    findings = {f.subject.rpartition(".")[2]: f for f in found(report, "table.engine", "warning")}
    assert set(findings) == {"myisam", "memory"}
    assert "a restart of the source empties it" in findings["memory"].problem
    source_server.execute(findings["myisam"].fix)


@pytest.mark.parametrize("is_administrator", [True, False])
def test_cascades_are_found_where_the_server_does_not_log_them(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path, is_administrator: bool
) -> None:
    """MariaDB hides the rules of foreign keys from an account that has only SELECT; they are found all the same."""
    captured = database(source_server)
    for statement in (
        "CREATE TABLE p (id INT PRIMARY KEY)",
        (
            "CREATE TABLE deletes (id INT PRIMARY KEY, p INT, CONSTRAINT `fk``1` FOREIGN KEY (p) REFERENCES p (id) "
            "ON DELETE CASCADE ON UPDATE SET NULL)"
        ),
        (
            "CREATE TABLE updates (id INT PRIMARY KEY, p INT, CONSTRAINT fk2 FOREIGN KEY (p) REFERENCES p (id) "
            "ON UPDATE CASCADE)"
        ),
        (
            "CREATE TABLE restricts (id INT PRIMARY KEY, p INT, CONSTRAINT fk3 FOREIGN KEY (p) REFERENCES p (id) "
            "ON DELETE RESTRICT)"
        ),
    ):
        source_server.execute(statement, database=captured)
    apply = {"hidden_cascades": "apply"}
    with source_account(source_server, captured) as url:
        source = source_server.url if is_administrator else url
        report = check(configuration(tmp_path, source, {"pg": pg15.url}, [f"{captured}.*"]))
        applied = check(configuration(tmp_path, source, {"pg": pg15.url}, [f"{captured}.*"], policies=apply))

    findings = {f.subject.rpartition(".")[2]: f for f in found(applied, "table.cascades")}
    assert {f.severity for f in findings.values()} <= {"info"}, "a column of numbers is the same everywhere"
    findings = {f.subject.rpartition(".")[2]: f for f in found(report, "table.cascades")}
    if source_server.family == "mysql":
        assert findings == {}  # 9.6 and later log them
        return
    assert {name: f.severity for name, f in findings.items()} == {"deletes": "error", "updates": "error"}
    assert "fk`1" in findings["deletes"].problem
    assert "ON DELETE CASCADE ON UPDATE SET NULL" in findings["deletes"].problem
    assert f"a row of {captured}.p is deleted" in findings["deletes"].problem
    assert findings["deletes"].fix.startswith("set policies.hidden_cascades: apply")
    source_server.execute(findings["deletes"].fix.partition("; or ")[2].partition(";")[0])


def test_why_what_foreign_keys_do_cannot_be_applied(
    mariadb118: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(mariadb118)
    for statement in (
        "CREATE TABLE p (id INT PRIMARY KEY, name VARCHAR(20) NOT NULL UNIQUE, code INT UNIQUE)",
        "CREATE TABLE text (id INT PRIMARY KEY, p VARCHAR(20), FOREIGN KEY (p) REFERENCES p (name) ON DELETE CASCADE)",
        "CREATE TABLE masked (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
        "CREATE TABLE below (id INT PRIMARY KEY, t INT, FOREIGN KEY (t) REFERENCES text (id) ON DELETE SET NULL)",
        "CREATE TABLE filtered (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
        (
            "CREATE TABLE made (id INT PRIMARY KEY, p INT, g INT AS (id + 1), FOREIGN KEY (p) REFERENCES p (id) "
            "ON DELETE SET NULL)"
        ),
        "CREATE TABLE kind (id TINYINT(1) PRIMARY KEY)",
        "CREATE TABLE flag (id INT PRIMARY KEY, k TINYINT(1), FOREIGN KEY (k) REFERENCES kind (id) ON DELETE CASCADE)",
        "CREATE TABLE apart (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
    ):
        mariadb118.execute(statement, database=captured)
    overrides = [
        {"table": f"{captured}.masked", "columns": [{"column": "p", "mask": "null"}]},
        {"table": f"{captured}.filtered", "row_filter": "id > 3"},
        {"table": f"{captured}.apart", "mode": "soft_delete"},
        {"table": f"{captured}.flag", "columns": [{"column": "k", "type": "boolean"}]},
    ]
    policies = {"hidden_cascades": "apply"}
    tables = [f"{captured}.*"]
    report = check(
        configuration(tmp_path, mariadb118.url, {"pg": pg15.url}, tables, overrides=overrides, policies=policies)
    )
    problems = {f.subject.rpartition(".")[2]: f.problem for f in found(report, "table.cascades", "error")}
    for table, reason in (
        ("text", "varchar(20), which sinks may compare otherwise"),
        ("masked", "masked"),
        ("below", "change in silence, too"),
        ("filtered", "row_filter"),
        ("made", "generated columns"),
        ("apart", "soft_delete"),
        ("flag", "boolean on the sink"),
    ):
        assert reason in problems.pop(table)
    assert not problems


def test_what_is_no_plain_table_is_said(mariadb118: Server, pg15: Server, database: Database, tmp_path: Path) -> None:
    captured = database(mariadb118)
    for statement in (
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "CREATE VIEW v AS SELECT id FROM t",
        "CREATE SEQUENCE s",
        "CREATE TABLE h (id INT PRIMARY KEY) WITH SYSTEM VERSIONING",
    ):
        mariadb118.execute(statement, database=captured)
    report = check(configuration(tmp_path, mariadb118.url, {"pg": pg15.url}, [f"{captured}.*"]))
    findings = {f.subject.rpartition(".")[2]: f.severity for f in found(report, "table.kind")}
    assert findings == {"v": "info", "s": "info", "h": "warning"}

    report = check(configuration(tmp_path, mariadb118.url, {"pg": pg15.url}, [f"{captured}.v"]))
    assert one(report, "table.kind", "error").exit_code == 2


def captured_database(name: str) -> Captured:
    return Captured(lambda database, _table: database == name)


def test_reading_takes_as_many_queries_for_many_tables_as_for_one(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = database(source_server), database(source_server)
    with contextlib.closing(source_server.connect()) as connection, connection.cursor() as cursor:
        for name, count in ((few, 1), (many, 60)):
            for number in range(count):
                cursor.execute(f"CREATE TABLE `{name}`.t{number} (id INT PRIMARY KEY, a TEXT, b DATE)")
    counts = {}
    for name in (few, many):
        with connect(SourceSettings(source_server.host, source_server.port, source_server.user, "", 1)) as connection:
            queries = 0

            def counted(
                self: SourceConnection, sql: str, parameters: Any = (), run: Any = SourceConnection.query
            ) -> Any:
                nonlocal queries
                queries += 1
                return run(self, sql, parameters)

            monkeypatch.setattr(SourceConnection, "query", counted)
            facts = read_source(connection, captured_database(name), clock=SystemClock())
            monkeypatch.undo()
            counts[name] = (len(facts.definitions), queries)

    assert counts[few][0] == 1
    assert counts[many][0] == 60
    assert counts[few][1] == counts[many][1] < 30


def test_a_catalogue_that_is_more_than_one_answer_may_be_is_read_in_parts(
    source_server: Server, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 000 columns are 256 MiB as one answer; 3 000 are as much as is allowed here."""
    name = database(source_server)
    columns = ", ".join(f"c{number} INT COMMENT 'what c{number} is for'" for number in range(300))
    source_server.execute(f"CREATE TABLE t0 (id INT PRIMARY KEY, {columns})", database=name)
    for number in range(1, 10):
        source_server.execute(f"CREATE TABLE t{number} LIKE t0", database=name)
    monkeypatch.setattr(mysql_client, "ANSWER_BYTES_MAX", 2 << 20)
    settings = SourceSettings(source_server.host, source_server.port, source_server.user, "", 1)
    whole = f"SELECT * FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{name}'"
    with connect(settings) as connection, pytest.raises(SourceUnavailable, match="more than one answer may have"):
        connection.query(whole)
    with connect(settings) as connection:
        facts = read_source(connection, captured_database(name), clock=SystemClock())
        assert list(facts.definitions) == [
            read_definition(connection, TableName(name, f"t{number}")) for number in range(10)
        ]
        analysis = read_analysis(connection, captured_database(name).matches)
        assert [len(table.definition.columns) for table in analysis.tables] == [301] * 10


# ---------------------------------------------------------------- PostgreSQL sinks


def test_rights_on_postgresql_are_named_with_their_grant(
    mariadb1011: Server, pg_server: Server, database: Database, tmp_path: Path
) -> None:
    captured, target = database(mariadb1011), database(pg_server)
    mariadb1011.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    mariadb1011.execute("CREATE TABLE u (id INT PRIMARY KEY)", database=captured)
    pg_server.execute(f'REVOKE TEMPORARY ON DATABASE "{target}" FROM PUBLIC')
    pg_server.execute("CREATE SCHEMA raw", database=target)
    pg_server.execute("CREATE TABLE raw.t (id integer PRIMARY KEY)", database=target)
    with account(pg_server, database=target) as url:
        config = configuration(
            tmp_path, mariadb1011.url, [{"name": "pg", "url": f"{url}/{target}", "schema": "raw"}], [f"{captured}.*"]
        )

        report = check(config)
        assert {"sink.schemas", "sink.table_rights"} == {c for c in ids(report, "error") if c.startswith("sink")}
        problems = " ".join(f.problem for f in found(report, "sink.schemas"))
        assert "the schema _cdc is missing" in problems
        assert "lacks TEMPORARY" in problems
        assert "lacks USAGE and CREATE on the schema raw" in problems
        for finding in (*found(report, "sink.schemas"), *found(report, "sink.table_rights")):
            pg_server.execute(finding.fix.partition(";")[0], database=target)

        assert check(config).exit_code == 0


def test_a_postgresql_database_that_is_not_utf8_is_found(mysql97: Server, pg_server: Server, tmp_path: Path) -> None:
    name = unique_name("latin")
    pg_server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        report = check(configuration(tmp_path, mysql97.url, {"pg": pg_server.url_for(name)}, ["shop.*"]))
        assert "ENCODING 'UTF8'" in one(report, "sink.encoding", "error").fix
    finally:
        pg_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_role_that_is_meant_to_read_only_is_a_warning(
    mysql97: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    target = database(pg15)
    with account(pg15, "ALTER ROLE {user} SET default_transaction_read_only = on") as url:
        report = check(configuration(tmp_path, mysql97.url, {"pg": f"{url}/{target}"}, ["shop.*"]))

    assert "SET default_transaction_read_only = off" in one(report, "sink.read_only", "warning").fix


def test_a_standby_is_refused(mysql97: Server, start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("pg15")
    assert server.directory is not None
    server.stop()
    (server.directory / "data/standby.signal").touch()
    server.restart()

    report = check(configuration(tmp_path, mysql97.url, {"pg": server.url}, ["shop.*"]))

    findings = [*found(report, "sink.connection", "error"), *found(report, "sink.read_only", "error")]
    assert len(findings) == 1
    assert "recovery" in findings[0].problem or "standby" in findings[0].problem
    assert report.exit_code != 0


def test_targets_that_are_there_are_compared(
    mysql97: Server, pg_server: Server, mysql_sink_server: Server, database: Database, tmp_path: Path
) -> None:
    captured, pg_target, my_target = database(mysql97), database(pg_server), database(mysql_sink_server)
    for table in ("differs", "filled", "fits"):
        mysql97.execute(f"CREATE TABLE {table} (id INT PRIMARY KEY, name VARCHAR(20))", database=captured)
    pg_server.execute(f'CREATE SCHEMA "{captured}"', database=pg_target)
    for server, target, prefix in ((pg_server, pg_target, f'"{captured}".'), (mysql_sink_server, my_target, "")):
        server.execute(f"CREATE TABLE {prefix}differs (id INT PRIMARY KEY, name DATE)", database=target)
        # InnoDB and its collation as the source has them, or the two differ for another reason.
        charset = "" if server is pg_server else " CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci"
        if server.family == "mariadb":
            charset = " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci"
        for table in ("filled", "fits"):
            server.execute(
                f"CREATE TABLE {prefix}{table} (id INT PRIMARY KEY, name VARCHAR(20){charset})", database=target
            )
        server.execute(f"INSERT INTO {prefix}filled VALUES (1, 'x')", database=target)
    sinks = {"pg": pg_server.url_for(pg_target), "my": mysql_sink_server.url_for(my_target)}

    report = check(configuration(tmp_path, mysql97.url, sinks, [f"{captured}.*"]))

    assert {f.subject for f in found(report, "sink.table_differs", "error")} == {
        f"pg: {captured}.differs",
        f"my: {my_target}.differs",
    }
    assert all(
        "name" in f.problem and "id" not in f.problem.partition("rows of")[2].partition(":")[2]
        for f in found(report, "sink.table_differs")
    )
    rows = found(report, "sink.table_rows", "error")
    assert {f.subject for f in rows} == {f"pg: {captured}.filled", f"my: {my_target}.filled"}
    assert f"cdc snapshot {captured}.filled" in rows[0].fix


def test_names_that_postgresql_cannot_hold_are_found(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    long = "é" * 32
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY, xmin INT)", database=captured)
    source_server.execute(f"CREATE TABLE u (id INT PRIMARY KEY, `{long}` INT)", database=captured)
    source_server.execute(f"CREATE TABLE {'n' * 64} (id INT PRIMARY KEY)", database=captured)
    with source_account(source_server, captured) as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, [f"{captured}.*"]))

    problems = " | ".join(f.problem for f in found(report, "sink.names", "error"))
    assert "the column xmin has the name of a system column" in problems
    assert f"the column {long} has a name of 64 bytes, and PostgreSQL holds 63" in problems
    assert f"the table {'n' * 64} has a name of 64 bytes" in problems
    assert found(report, "sink.mapping") == []


def test_a_key_that_a_sink_cannot_index_is_found(
    source_server: Server, mariadb1011: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    source_server.execute("CREATE TABLE t (k TEXT NOT NULL, x INT)", database=captured)
    overrides = [{"table": f"{captured}.t", "primary_key": ["k"]}]

    report = check(
        configuration(
            tmp_path, source_server.url, {"my": mariadb1011.url_for("x")}, [f"{captured}.*"], overrides=overrides
        )
    )

    assert "k has the type text" in one(report, "sink.mapping", "error").problem


def test_tables_that_would_meet_on_the_sink_are_found(
    source_server: Server, mariadb1011: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    first, second = database(source_server), database(source_server)
    for name in (first, second):
        source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=name)
    sinks = [
        {"name": "one", "url": pg15.url, "schema": "raw"},
        {"name": "my", "url": mariadb1011.url_for("x")},
        {"name": "apart", "url": pg15.url},
        {"name": "again", "url": pg15.url},
    ]

    report = check(configuration(tmp_path, source_server.url, sinks, [f"{first}.*", f"{second}.*"]))

    findings = {f.subject: f for f in found(report, "sink.name_clash", "error")}
    assert set(findings) == {"sink one", "sink my"}
    assert "schema" in findings["sink one"].fix
    assert "sink apart" in one(report, "sink.shared_target", "error").problem
    assert report.exit_code == 2


def test_names_that_differ_by_case_alone_meet_where_case_does_not_count(
    mysql97: Server, start_server: StartServer, database: Database, tmp_path: Path
) -> None:
    server = start_server("mariadb118", options={"lower_case_table_names": 1})
    captured = database(mysql97)
    for name in ("Orders", "orders"):
        mysql97.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY)", database=captured)

    report = check(configuration(tmp_path, mysql97.url, {"my": server.url_for("x")}, [f"{captured}.*"]))

    assert "not by case alone" in one(report, "sink.name_clash", "error").problem


def test_policies_are_said_with_their_columns(
    source_server: Server, pg15: Server, database: Database, tmp_path: Path
) -> None:
    captured = database(source_server)
    source_server.execute("CREATE TABLE t (id VARCHAR(10), day DATE, note TEXT, PRIMARY KEY (id))", database=captured)
    policies = {"nul_bytes": "strip", "zero_dates": "infinity"}

    report = check(configuration(tmp_path, source_server.url, {"pg": pg15.url}, [f"{captured}.*"], policies=policies))

    said = [f.problem for f in found(report, "sink.nul_bytes", "info")]
    assert any("is left out in 1 columns" in text and f"{captured}.t.note" in text for text in said)
    assert any("stops its table in 1 columns" in text and f"{captured}.t.id" in text for text in said)  # a key
    zero = found(report, "sink.zero_dates")
    if source_server.family == "mariadb":  # its default sql_mode lets them in
        assert "becomes an infinite one in 1 columns" in zero[0].problem
        assert f"{captured}.t.day" in zero[0].problem
    else:
        assert zero == []


# ---------------------------------------------------------------- sinks of the MySQL family


def test_rights_on_the_mysql_family_are_named_with_their_grant(
    mysql97: Server, mysql_sink_server: Server, database: Database, tmp_path: Path
) -> None:
    captured, target = database(mysql97), database(mysql_sink_server)
    mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    with account(mysql_sink_server, f"GRANT SELECT, INSERT ON `{target}`.* TO {{user}}") as url:
        config = configuration(tmp_path, mysql97.url, {"my": f"{url}/{target}"}, [f"{captured}.*"])

        finding = one(check(config), "sink.rights", "error")
        assert "lacks UPDATE, DELETE, CREATE, DROP on" in finding.problem
        mysql_sink_server.execute(finding.fix.rstrip(";"))
        report = check(config)
        assert found(report, "sink.rights") == []
        assert report.exit_code == 0

        mysql_sink_server.execute(finding.fix.rstrip(";").replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
        mysql_sink_server.execute(finding.fix.rstrip(";").replace("ALTER, INDEX, CREATE TEMPORARY TABLES", "SELECT"))
        assert "ALTER, INDEX, CREATE TEMPORARY TABLES" in one(check(config), "sink.rights", "warning").problem


@pytest.mark.parametrize("name", ["mysql97", "mariadb118"])
def test_settings_of_a_mysql_sink(
    mariadb1011: Server, database: Database, start_server: StartServer, tmp_path: Path, name: str
) -> None:
    server = start_server(name, options={"local_infile": 0, "max_allowed_packet": "1M", "read_only": 1})
    captured = database(mariadb1011)
    mariadb1011.execute("CREATE TABLE small (id INT PRIMARY KEY, t VARCHAR(200))", database=captured)
    mariadb1011.execute("CREATE TABLE large (id INT PRIMARY KEY, t LONGTEXT)", database=captured)
    config = configuration(tmp_path, mariadb1011.url, {"my": server.url_for("x")}, [f"{captured}.*"])

    report = check(config)

    assert "local_infile = ON" in one(report, "sink.local_infile", "info").fix
    packet = one(report, "sink.max_allowed_packet", "warning")
    assert f"{captured}.large" in packet.problem
    assert f"{captured}.small" not in packet.problem
    server.execute(packet.fix.partition(";")[0])
    assert found(check(config), "sink.max_allowed_packet") == []
    one(report, "sink.read_only", "warning")  # root may write all the same

    with account(server, "GRANT ALL ON x.* TO {user}") as url:
        config = configuration(tmp_path, mariadb1011.url, {"my": f"{url}/x"}, [f"{captured}.*"])
        assert "read_only" in one(check(config), "sink.read_only", "error").fix
    if name == "mysql97":
        server.execute("SET GLOBAL super_read_only = 1")
        config = configuration(tmp_path, mariadb1011.url, {"my": server.url_for("x")}, [f"{captured}.*"])
        assert "super_read_only" in one(check(config), "sink.read_only", "error").problem
        server.execute("SET GLOBAL super_read_only = 0")


def test_a_mysql_sink_that_forbids_staging_tables(
    mysql97: Server, database: Database, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("mysql97", options={"binlog_format": "STATEMENT"})
    captured = database(mysql97)
    mysql97.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    server.execute("CREATE USER poor@'%' IDENTIFIED BY 'poor'")
    server.execute("GRANT ALL ON x.* TO poor@'%'")
    url = server.url_for("x")
    poor = "mysql://poor:poor@" + url.rpartition("@")[2]
    assert (
        found(check(configuration(tmp_path, mysql97.url, {"my": url}, [f"{captured}.*"])), "sink.temporary_tables")
        == []
    )
    config = configuration(tmp_path, mysql97.url, {"my": poor}, [f"{captured}.*"])

    problem = one(check(config), "sink.temporary_tables", "warning")

    server.execute(problem.fix.rpartition("or: ")[2].rstrip(";"))
    assert found(check(config), "sink.temporary_tables") == []


def test_a_sink_that_would_feed_the_source_is_refused(
    source_server: Server, database: Database, tmp_path: Path
) -> None:
    captured, target = database(source_server), database(source_server)
    source_server.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=captured)
    base = source_server.url.rstrip("/")

    onto_itself = check(configuration(tmp_path, source_server.url, {"my": base}, [f"{captured}.*"]))
    assert "onto themselves" in one(onto_itself, "sink.loop", "error").problem
    assert onto_itself.exit_code == 2

    fed = check(
        configuration(tmp_path, source_server.url, {"my": f"{base}/{target}"}, [f"{captured}.*", f"{target}.*"])
    )
    assert f"{target}.t" in one(fed, "sink.loop", "error").problem

    apart = check(configuration(tmp_path, source_server.url, {"my": f"{base}/{target}"}, [f"{captured}.*"]))
    assert found(apart, "sink.loop") == []


def test_the_report_for_programs_holds_no_password(mysql97: Server, pg15: Server, tmp_path: Path) -> None:
    with account(mysql97, REPLICATION, password="s3cret") as url:
        report = check(configuration(tmp_path, url, {"pg": pg15.url}, ["shop.*"]))

    text = to_json(report)
    assert "s3cret" not in text
    assert '"check": "source.durability"' in text
