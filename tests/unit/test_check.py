"""Checks that no server of the test run can provoke (managed services, versions to come), and what needs no server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdc.check import CheckReport, all_checks, captured_tables, check_page, grants_sql, render, to_json
from cdc.config import Config, load_config
from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, TableDefinition, TableName, ValueKind
from cdc.schema.findings import Finding, listed
from cdc.schema.grants import account_text, grant_pattern, parse_grants
from cdc.source.connection import SourceSettings
from cdc.source.preflight import (
    Answer,
    Captured,
    SourceFacts,
    check_source,
    check_tables,
    managed_service,
)

PAGE = Path(__file__).parents[2] / "docs/check.md"
RDS = "CALL mysql.rds_set_configuration('binlog retention hours', 168);"


def facts(variables: Mapping[str, str] | None = None, **changes: Any) -> SourceFacts:
    """A MySQL 9.7 that has nothing to be said of, with `variables` and `changes` on top."""
    good = {
        "log_bin": "ON",
        "binlog_format": "ROW",
        "binlog_row_image": "FULL",
        "binlog_row_metadata": "FULL",
        "gtid_mode": "ON",
        "server_id": "1",
        "binlog_expire_logs_seconds": "2592000",
    }
    made = SourceFacts(
        settings=SourceSettings("db.example", 3306, "cdc", "", 4242),
        flavor="mysql",
        version=(9, 7, 4),
        version_text="9.7.4",
        variables={**good, **(variables or {})},
        user="cdc@%",
        grants=parse_grants(["GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `cdc`@`%`"]),
        is_encrypted=True,
        clock_offset_seconds=0.0,
        clock_error_seconds=0.0,
        log_status=Answer(({"File": "binlog.000001", "Position": "4"},)),
        replicas=Answer(),
        replica_status=Answer(),
        is_replicating=False,
        dump_sessions=0,
        prepared=Answer(),
        rds_retention=Answer(refusal="SELECT command denied (error 1142)"),
        transactional_engines=frozenset({"innodb"}),
        captured=Captured(lambda database, table: True),
        definitions=(),
        unreadable={},
        by_column={},
        unsupported=(),
        others=(),
        foreign_keys=(),
        is_local=True,
    )
    return replace(made, **changes)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_a_good_source_has_no_findings() -> None:
    assert check_source(facts()) == []
    assert check_tables(facts()) == []


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == check_page(), "python -m cdc.check > docs/check.md"


def test_every_check_has_an_id_of_its_own_and_says_what_breaks_and_what_mends() -> None:
    ids = [check.id for check in all_checks()]

    assert len(set(ids)) == len(ids)
    assert all(check.looks and check.breaks and check.mends for check in all_checks())
    assert not any("|" in text for check in all_checks() for text in (check.looks, check.breaks, check.mends))


# ---------------------------------------------------------------- managed services


@pytest.mark.parametrize(
    "variables,version,host,service",
    [
        ({}, "9.7.4", "db.example", None),
        ({"basedir": "/rdsdbbin/mysql-8.4.3/"}, "8.4.3", "10.0.0.1", "Amazon RDS"),
        ({}, "8.0.40", "shop.c0ffee.eu-west-1.rds.amazonaws.com", "Amazon RDS"),
        ({"aurora_version": "3.08.0", "basedir": "/rdsdbbin/oscar/"}, "8.0.39", "10.0.0.1", "Amazon Aurora"),
        ({}, "8.0.31-google", "10.0.0.1", "Google Cloud SQL"),
        ({"cloudsql_iam_authentication": "ON"}, "8.0.31", "10.0.0.1", "Google Cloud SQL"),
        ({}, "8.0.40-azure", "shop.mysql.database.azure.com", "Azure Database for MySQL"),
    ],
)
def test_a_managed_service_is_recognised(variables: dict[str, str], version: str, host: str, service: str) -> None:
    assert managed_service(variables, version, host) == service


AMAZON = {"basedir": "/rdsdbbin/mysql/"}


@pytest.mark.parametrize(
    "answer,severity,text",
    [
        (Answer(({"value": None},)), "error", "is not set"),
        (Answer(({"value": "4"},)), "warning", "is 4"),
        (Answer(refusal="SELECT command denied (error 1142)"), "warning", "could not be looked at"),
    ],
)
def test_retention_on_amazon_rds_is_read_from_its_own_table(answer: Answer, severity: str, text: str) -> None:
    finding = only(check_source(facts(AMAZON, rds_retention=answer)))

    assert (finding.check, finding.severity) == ("source.retention", severity)
    assert text in finding.problem
    assert RDS in finding.fix


def test_long_retention_on_amazon_rds_is_fine() -> None:
    assert check_source(facts(AMAZON, rds_retention=Answer(({"value": "168"},)))) == []


def test_no_expiry_on_azure_means_at_once() -> None:
    settings = replace(facts().settings, host="shop.mysql.database.azure.com")
    finding = only(check_source(facts({"binlog_expire_logs_seconds": "0"}, settings=settings)))

    assert (finding.check, finding.severity) == ("source.retention", "error")
    assert "az mysql flexible-server parameter set --name binlog_expire_logs_seconds" in finding.fix


def test_settings_of_a_managed_service_are_set_in_its_own_way() -> None:
    amazon = only(check_source(facts({**AMAZON, "binlog_format": "MIXED"}, rds_retention=Answer(({"value": "168"},)))))
    google = only(check_source(facts({"binlog_row_image": "MINIMAL"}, version_text="8.0.31-google")))

    assert "set binlog_format = ROW in the DB parameter group" in amazon.fix
    assert "gcloud sql instances patch INSTANCE --database-flags=binlog_row_image=FULL" in google.fix


# ---------------------------------------------------------------- versions and settings not at hand


def test_the_innodb_binlog_of_mariadb_12_3_is_refused() -> None:
    finding = only(
        check_source(
            facts(
                {"binlog_storage_engine": "innodb"}, flavor="mariadb", version=(12, 3, 1), version_text="12.3.1-MariaDB"
            )
        )
    )

    assert (finding.check, finding.severity) == ("source.binlog_storage_engine", "error")


def test_an_old_server_without_row_metadata_is_said() -> None:
    made = facts(version=(5, 6, 51), version_text="5.6.51")
    variables = {name: value for name, value in made.variables.items() if name != "binlog_row_metadata"}

    finding = only(check_source(replace(made, variables=variables)))

    assert (finding.check, finding.severity) == ("source.binlog_row_metadata", "info")


def test_variables_are_persisted_where_the_server_can() -> None:
    wrong = {"binlog_format": "MIXED"}

    assert "SET PERSIST binlog_format = 'ROW';" in only(check_source(facts(wrong))).fix
    old = only(check_source(facts(wrong, version=(5, 7, 44))))
    assert "SET GLOBAL binlog_format = 'ROW';" in old.fix
    assert "option file" in old.fix


@pytest.mark.parametrize(
    "mode,steps",
    [
        ("OFF", ["OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]),
        ("OFF_PERMISSIVE", ["ON_PERMISSIVE", "ON"]),
        ("ON_PERMISSIVE", ["ON"]),
    ],
)
def test_gtid_mode_is_raised_step_by_step(mode: str, steps: list[str]) -> None:
    finding = only(check_source(facts({"gtid_mode": mode})))

    assert [f"SET PERSIST gtid_mode = {step};" in finding.fix for step in steps] == [True] * len(steps)
    assert finding.fix.count("gtid_mode =") == len(steps)


def test_a_clear_connection_matters_only_beyond_this_machine() -> None:
    finding = only(check_source(facts(is_local=False, is_encrypted=False)))

    assert (finding.check, finding.severity) == ("source.tls", "warning")
    assert check_source(facts(is_local=True, is_encrypted=False)) == []


def test_an_encrypted_connection_with_nobody_knows_whom_is_said() -> None:
    finding = only(check_source(facts(is_local=False)))

    assert (finding.check, finding.severity) == ("source.tls", "info")
    assert "preferred does not check" in finding.problem


def test_column_types_and_character_sets_that_are_not_known_stop_their_table() -> None:
    text = ColumnDefinition("t", ValueKind.TEXT, "text", length=65535, charset="klingon1", collation="klingon1_bin")
    number = ColumnDefinition("id", ValueKind.INTEGER, "int", is_nullable=False, length=32)
    table = TableDefinition(TableName("shop", "orders"), (number, text), ("id",))
    unknown = UnsupportedData("shop.x.y has the type xmltype, which is not known", table="shop.x", hint="exclude it")

    findings = check_tables(facts(definitions=(table,), unsupported=(unknown,)))

    assert [(f.check, f.severity, f.subject) for f in findings] == [
        ("table.column_types", "error", "shop.x"),
        ("table.column_types", "error", "shop.orders"),
    ]
    assert "klingon1" in findings[1].problem


def test_members_that_an_old_source_does_not_tell_are_warned_of() -> None:
    kind = "enum('a?','b')"
    text = ColumnDefinition("t", ValueKind.ENUM, kind, charset="utf8mb4", members=("a?", "b"))
    table = TableDefinition(TableName("shop", "orders"), (text,), ("t",))
    narrow = replace(table, name=TableName("shop", "narrow"), columns=(replace(text, charset="latin1"),))
    told = replace(table, name=TableName("shop", "told"), columns=(replace(text, members=("a?", "b💥")),))

    findings = check_tables(facts(definitions=(table, narrow, told)))

    assert [(f.check, f.severity, f.subject) for f in findings] == [("table.column_types", "warning", "shop.orders")]


# ---------------------------------------------------------------- grants


@pytest.mark.parametrize(
    "line,privilege,database,table,scope",
    [
        ("GRANT SELECT ON *.* TO `u`@`%`", "SELECT", "any", "t", "global"),
        ("GRANT ALL PRIVILEGES ON *.* TO `u`@`%` WITH GRANT OPTION", "SELECT", "any", None, "global"),
        ("GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `u`@`%`", "REPLICATION CLIENT", "", None, "global"),
        ("GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*AB'", "SELECT", "db", "t", None),
        (r"GRANT SELECT ON `my\_db`.* TO `u`@`%`", "SELECT", "my_db", "t", "database"),
        (r"GRANT SELECT ON `my\_db`.* TO `u`@`%`", "SELECT", "myxdb", "t", None),
        ("GRANT SELECT ON `my_db`.* TO `u`@`%`", "SELECT", "myxdb", None, "database"),
        (r"GRANT SELECT ON `shop\_%`.* TO `u`@`%`", "SELECT", "shop_de", "t", "database"),
        (r"GRANT SELECT ON `shop\_%`.* TO `u`@`%`", "SELECT", "shopde", "t", None),
        ("GRANT SELECT, INSERT ON `db`.`t` TO `u`@`%`", "SELECT", "db", "t", "table"),
        ("GRANT SELECT, INSERT ON `db`.`t` TO `u`@`%`", "SELECT", "db", "other", None),
        ("GRANT SELECT, INSERT ON `db`.`t` TO `u`@`%`", "SELECT", "db", None, None),
        ("GRANT SELECT (`a`, `b,c`), INSERT ON `db`.`t` TO `u`@`%`", "SELECT", "db", "t", "columns"),
        ("GRANT SELECT (`a`, `b,c`), INSERT ON `db`.`t` TO `u`@`%`", "INSERT", "db", "t", "table"),
        ("GRANT SELECT ON `we``ird`.* TO `u`@`%`", "SELECT", "we`ird", "t", "database"),
        ("GRANT SELECT ON `db`.* TO 'u'@'%'", "SELECT", "db", "t", "database"),
        ("GRANT EXECUTE ON PROCEDURE `db`.`p` TO `u`@`%`", "EXECUTE", "db", "p", None),
        ("GRANT PROXY ON ''@'%' TO 'u'@'%'", "PROXY", "db", "t", None),
        ("GRANT SELECT ON `DB`.* TO `u`@`%`", "SELECT", "db", "t", None),
    ],
)
def test_show_grants_is_understood(line: str, privilege: str, database: str, table: str | None, scope: str) -> None:
    assert parse_grants([line]).scope(privilege, database, table) == scope


def test_partial_revokes_take_back_and_make_patterns_literal() -> None:
    lines = [
        "GRANT SELECT ON *.* TO `u`@`%`",
        "REVOKE SELECT ON `secret`.* FROM `u`@`%`",
        "GRANT INSERT ON `a_b`.* TO `u`@`%`",
    ]
    grants = parse_grants(lines, has_literal_databases=True)

    assert grants.scope("SELECT", "secret", "t") is None
    assert grants.scope("SELECT", "shop", "t") == "global"
    assert grants.scope("INSERT", "a_b") == "database"
    assert grants.scope("INSERT", "axb") is None


@pytest.mark.parametrize(
    "line,roles",
    [
        ("GRANT `reader`@`%` TO `u`@`%`", ("reader",)),
        ("GRANT `reader`@`%`,`writer`@`%` TO `u`@`%`", ("reader", "writer")),
        ("GRANT `reader` TO `u`@`%`", ("reader",)),
        ("SET DEFAULT ROLE `reader` FOR `u`@`%`", ()),
    ],
)
def test_roles_are_seen(line: str, roles: tuple[str, ...]) -> None:
    assert parse_grants([line]).roles == roles


def test_names_are_quoted_for_grant() -> None:
    assert account_text("o'neil@10.%") == r"'o\'neil'@'10.%'"
    assert account_text("a@b@localhost") == "'a@b'@'localhost'"
    assert grant_pattern("my_db") == r"`my\_db`"


def configuration(tmp_path: Path, *include: str) -> Config:
    path = tmp_path / "config.yaml"
    patterns = ", ".join(f"'{text}'" for text in include)
    path.write_text(
        "name: shop\n"
        "source: {url: 'mysql://repl:secret@db1', server_id: 4242}\n"
        "sinks:\n"
        "  - {name: warehouse, url: 'postgresql://cdc:secret@pg/analytics'}\n"
        "  - {name: replica, url: 'mysql://cdc:secret@db2/shop_copy'}\n"
        f"tables: {{include: [{patterns}]}}\n"
    )
    return load_config(path, environ={})


def test_the_least_grants_follow_the_patterns(tmp_path: Path) -> None:
    text = grants_sql(configuration(tmp_path, "shop.*", "shop_de.orders", "tenant_*.t?", "*.audit"))

    assert "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'repl'@'%';" in text
    assert "GRANT SELECT ON `shop`.* TO 'repl'@'%';" in text
    assert "GRANT SELECT ON `shop_de`.`orders` TO 'repl'@'%';" in text
    assert r"GRANT SELECT ON `tenant\_%`.* TO 'repl'@'%';" in text
    assert "GRANT SELECT ON *.* TO 'repl'@'%';" in text
    assert 'GRANT CONNECT, CREATE, TEMPORARY ON DATABASE "analytics" TO "cdc";' in text
    assert r"ON `shop\_copy`.* TO 'cdc'@'%';" in text
    assert "secret" not in text


def test_the_grants_have_the_right_to_see_a_lag_where_one_is_asked_for(tmp_path: Path) -> None:
    config = configuration(tmp_path, "shop.*")
    assert "REPLICA MONITOR" not in grants_sql(config)
    asked = {"snapshot": {"pause_when": {"replica_lag_seconds": 5}}}
    text = grants_sql(Config.model_validate({**config.model_dump(by_alias=True), **asked}))
    assert "\n-- on MariaDB 10.5 and later also: GRANT REPLICA MONITOR ON *.* TO 'repl'@'%';\n" in text


def test_the_grants_reach_the_databases_that_tables_are_routed_to(tmp_path: Path) -> None:
    config = configuration(tmp_path, "shop.*")
    routes = {"tables": {"include": ["shop.*"], "routes": [{"tables": "shop.a_*", "target_schema": "raw_a"}]}}

    text = grants_sql(Config.model_validate({**config.model_dump(by_alias=True), **routes}))

    assert r"ON `raw\_a`.* TO 'cdc'@'%';" in text
    assert r"ON `shop\_copy`.* TO 'cdc'@'%';" in text


def test_patterns_know_the_half_that_has_no_wildcard(tmp_path: Path) -> None:
    patterns = captured_tables(configuration(tmp_path, "shop.*", "a.b", r"my\.db.t*", "s*.x")).include

    assert [(p.database, p.table) for p in patterns] == [("shop", None), ("a", "b"), ("my.db", None), (None, None)]


# ---------------------------------------------------------------- the report


def finding(severity: Any, exit_code: Any = 1) -> Finding:
    return Finding(
        severity, "source.log_bin", "source db:3306", "log_bin is OFF: nothing to follow", "switch it on", exit_code
    )


@pytest.mark.parametrize(
    "findings,exit_code",
    [
        ([], 0),
        ([finding("warning"), finding("info", 2)], 0),
        ([finding("error"), finding("warning", 2)], 1),
        ([finding("error"), finding("error", 2)], 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst_error(findings: list[Finding], exit_code: int) -> None:
    assert CheckReport(tuple(findings)).exit_code == exit_code


def test_the_report_says_cause_and_fix() -> None:
    report = CheckReport((finding("error"), finding("info")))

    text = str(render(report))
    assert "error   source db:3306  [source.log_bin]" in text
    assert "log_bin is OFF: nothing to follow" in text
    assert "fix: switch it on" in text
    assert text.endswith("not ready: 1 error, 0 warnings, 1 info\n")
    assert '"exit_code": 1' in to_json(report)


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list(range(20))).endswith("10, 11 and 8 more")
