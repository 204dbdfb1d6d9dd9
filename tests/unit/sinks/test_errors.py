from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import psycopg2
import pymysql
import pytest

from cdc.errors import CdcError, ConfigError, SinkRefused, SinkUnavailable
from cdc.sinks import errors_mysql, errors_postgres
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings
from tests.unit.sinks.builders import ID, table, target_of


def postgres_error(code: str | None, text: str = "it failed", **diag: Any) -> psycopg2.Error:
    class Raised(psycopg2.Error):
        pgcode = code
        diag: Any

    told: dict[str, Any] = {"message_primary": text, "constraint_name": None, "column_name": None}
    Raised.diag = SimpleNamespace(**{**told, **diag})
    return Raised(text)


@pytest.mark.parametrize(
    "code,expected",
    [
        (None, SinkUnavailable),
        ("08006", SinkUnavailable),
        ("40001", SinkUnavailable),
        ("40P01", SinkUnavailable),
        ("53100", SinkUnavailable),
        ("53300", SinkUnavailable),
        ("55P03", SinkUnavailable),
        ("57014", SinkUnavailable),
        ("57P01", SinkUnavailable),
        ("57P03", SinkUnavailable),
        ("25006", SinkUnavailable),
        ("28P01", ConfigError),
        ("28000", ConfigError),
        ("3D000", ConfigError),
        ("42501", ConfigError),
        ("22001", SinkRefused),
        ("22003", SinkRefused),
        ("22P02", SinkRefused),
        ("23502", SinkRefused),
        ("23505", SinkRefused),
        ("428C9", SinkRefused),
        ("42P01", SinkRefused),
        ("42703", SinkRefused),
        ("54000", SinkRefused),
        ("P0001", SinkRefused),
        ("2BP01", SinkRefused),
        ("XX000", SinkRefused),
    ],
)
def test_postgresqls_errors_by_sqlstate(code: str | None, expected: type[CdcError]) -> None:
    error = errors_postgres.translate(postgres_error(code), sink="s", doing="write", table="shop.t", grant="GRANT x;")
    assert type(error) is expected
    assert error.hint
    assert errors_postgres.is_refusal(postgres_error(code)) == (expected is SinkRefused and code != "XX000")


def test_a_refusal_of_postgresql_names_what_is_known() -> None:
    raised = postgres_error("23502", "null value\n  in column", constraint_name="c1", column_name="v")
    error = errors_postgres.translate(raised, sink="s", doing="write to n.t", table="shop.t", key="id=1")
    assert isinstance(error, SinkRefused)
    assert (error.table, error.column, error.key) == ("shop.t", "v", "id=1")
    assert error.message == (
        "sink s: cannot write to n.t: null value in column (constraint c1) (SQLSTATE 23502) (row with id=1)"
    )


@pytest.mark.parametrize(
    "text,expected,hint",
    [
        ('FATAL:  password authentication failed for user "cdc"', ConfigError, "user and password"),
        ("fe_sendauth: no password supplied", ConfigError, "user and password"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "cdc", no encryption', ConfigError, "pg_hba.conf"),
        ('FATAL:  role "cdc" does not exist', ConfigError, "user and password"),
        ('FATAL:  database "d" does not exist', ConfigError, 'CREATE DATABASE "d";'),
        ("server does not support SSL, but SSL was required", ConfigError, "ssl_mode"),
        ("SSL error: certificate verify failed", ConfigError, "ssl_ca"),
        ("SSL SYSCALL error: EOF detected", SinkUnavailable, "host and port"),
        ("SSL error: unexpected eof while reading", SinkUnavailable, "host and port"),
        ("SSL connection has been closed unexpectedly", SinkUnavailable, "host and port"),
        ("Connection refused\n\tIs the server running on that host?", SinkUnavailable, "host and port"),
        ("FATAL:  the database system is starting up", SinkUnavailable, "host and port"),
        ("FATAL:  sorry, too many clients already", SinkUnavailable, "max_connections"),
        ("server closed the connection unexpectedly", SinkUnavailable, "host and port"),
    ],
)
def test_a_connection_to_postgresql_that_fails_says_who_acts(text: str, expected: type[CdcError], hint: str) -> None:
    error = errors_postgres.translate_connect(
        psycopg2.OperationalError(text), sink="s", where="h:1", user="cdc", database="d"
    )
    assert type(error) is expected
    assert hint in error.hint


@pytest.mark.parametrize(
    "text,expected",
    [
        ("FATAL:  sorry, too many clients already", True),
        ('FATAL:  too many connections for role "cdc"', True),
        ("FATAL:  remaining connection slots are reserved for non-replication superuser connections", True),
        ("FATAL:  no more connections allowed (max_client_conn)", True),
        ("FATAL:  the database system is starting up", False),
    ],
)
def test_a_postgresql_without_a_connection_left_is_told_from_one_in_trouble(text: str, expected: bool) -> None:
    error = errors_postgres.translate_connect(
        psycopg2.OperationalError(text), sink="s", where="h:1", user="cdc", database="d"
    )
    assert isinstance(error, SinkUnavailable)
    assert error.is_full is expected
    assert ("max_connections" in error.hint) is expected


@pytest.mark.parametrize("number,expected", [(1040, True), (1203, True), (1226, True), (1041, False), (1205, False)])
def test_a_mysql_without_a_connection_left_is_told_from_one_in_trouble(number: int, expected: bool) -> None:
    raised = pymysql.err.OperationalError(number, "none left")
    error = errors_mysql.translate(raised, sink="s", doing="connect")
    assert isinstance(error, SinkUnavailable)
    assert error.is_full is expected
    assert ("max_connections" in error.hint) is expected


@pytest.mark.parametrize(
    "number,expected",
    [
        (0, SinkUnavailable),
        (2003, SinkUnavailable),
        (2006, SinkUnavailable),
        (2013, SinkUnavailable),
        (1040, SinkUnavailable),
        (1053, SinkUnavailable),
        (1205, SinkUnavailable),
        (1213, SinkUnavailable),
        (1317, SinkUnavailable),
        (1021, SinkUnavailable),
        (1114, SinkUnavailable),
        (1290, SinkUnavailable),
        (1836, SinkUnavailable),
        (1927, SinkUnavailable),
        (1969, SinkUnavailable),
        (3024, SinkUnavailable),
        (4031, SinkUnavailable),
        (1044, ConfigError),
        (1045, ConfigError),
        (1142, ConfigError),
        (1227, ConfigError),
        (1787, ConfigError),
        (3118, ConfigError),
        (3955, ConfigError),
        (4151, ConfigError),
        (2026, ConfigError),
        (3748, ConfigError),
        (1048, SinkRefused),
        (1062, SinkRefused),
        (1146, SinkRefused),
        (1153, SinkRefused),
        (1264, SinkRefused),
        (1265, SinkRefused),
        (1273, SinkRefused),
        (1292, SinkRefused),
        (1366, SinkRefused),
        (1406, SinkRefused),
        (3105, SinkRefused),
        (3819, SinkRefused),
        (4025, SinkRefused),
    ],
)
def test_mysqls_errors_by_number(number: int, expected: type[CdcError]) -> None:
    raised = pymysql.err.OperationalError(number, "it failed")
    error = errors_mysql.translate(raised, sink="s", doing="write", table="shop.t", grant="GRANT x;")
    assert type(error) is expected
    assert error.hint
    assert errors_mysql.is_refusal(raised) == (expected is SinkRefused)


@pytest.mark.parametrize(
    "text,column",
    [
        ("Data too long for column 'v' at row 3", "v"),
        ("Column 'v' cannot be null", "v"),
        ("Incorrect datetime value: '2038' for column `d`.`t`.`v` at row 1", "v"),
        ("Duplicate entry '1' for key 'PRIMARY'", None),
    ],
)
def test_the_column_in_mysqls_message_is_named(text: str, column: str | None) -> None:
    error = errors_mysql.translate(pymysql.err.DataError(1406, text), sink="s", doing="write", table="shop.t")
    assert isinstance(error, SinkRefused)
    assert error.column == column


def test_a_certificate_that_does_not_verify_is_the_operators_business() -> None:
    raised = pymysql.err.OperationalError(2003, "Can't connect")
    raised.original_exception = ssl.SSLError("certificate verify failed")  # type: ignore[attr-defined]  # as pymysql does
    assert isinstance(errors_mysql.translate(raised, sink="s", doing="connect"), ConfigError)


def test_a_connection_that_is_cut_in_the_tls_handshake_is_tried_again() -> None:
    raised = pymysql.err.OperationalError(2003, "Can't connect")
    raised.original_exception = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")  # type: ignore[attr-defined]
    assert isinstance(errors_mysql.translate(raised, sink="s", doing="connect"), SinkUnavailable)


def test_the_hint_for_a_missing_right_is_its_grant() -> None:
    for error in (
        errors_mysql.translate(
            pymysql.err.OperationalError(1142, "denied"), sink="s", doing="write", table="t", grant="GRANT x;"
        ),
        errors_postgres.translate(postgres_error("42501"), sink="s", doing="write", table="t", grant="GRANT x;"),
    ):
        assert "GRANT x;" in error.hint


@pytest.mark.parametrize(
    "number,text,hint",
    [
        (1114, "The table '_cdc_stage' is full", "innodb_temp_data_file_path"),
        (3, "Error writing file '/tmp/MLfd=47' (OS errno 28 - No space left on device)", "tmpdir"),
        (1114, "The table 'orders' is full", "make room on the sink's disk"),
        (3748, "CREATE TEMPORARY TABLE and DROP TEMPORARY TABLE are not allowed", "SET GLOBAL binlog_format = ROW"),
        (1118, "Row size too large. The maximum row size is 65535", "exclude_columns"),
    ],
)
def test_an_error_about_our_own_temporary_tables_says_what_they_need(number: int, text: str, hint: str) -> None:
    raised = pymysql.err.OperationalError(number, text)
    assert hint in errors_mysql.translate(raised, sink="s", doing="write", table="shop.t").hint


def test_a_refused_metadata_statement_parks_no_table() -> None:
    assert isinstance(errors_postgres.translate(postgres_error("42P01"), sink="s", doing="read"), ConfigError)
    assert isinstance(
        errors_mysql.translate(pymysql.err.ProgrammingError(1146, "x"), sink="s", doing="read"), ConfigError
    )


def test_settings_do_not_show_their_password() -> None:
    for settings in (PostgresSettings("s", "h", 1, "u", "d", "s3cret"), MysqlSettings("s", "h", 1, "u", "d", "s3cret")):
        assert settings.password == "s3cret"
        assert "s3cret" not in repr(settings)


def test_a_standby_is_the_operators_business() -> None:
    raised = postgres_error("0A000", "cannot set transaction read-write mode during recovery")
    error = errors_postgres.translate_set_up(raised, sink="s", where="h:1")
    assert isinstance(error, ConfigError)
    assert "standby" in error.message
    assert "primary" in error.hint
    assert isinstance(errors_postgres.translate_set_up(postgres_error(None), sink="s", where="h:1"), SinkUnavailable)


def test_wildcards_in_the_name_of_a_database_are_escaped_in_a_grant() -> None:
    sink = MysqlSink(MysqlSettings("s", "h", 1, "u"))
    assert r"ON `a\_b\%`.* TO" in sink.table_grant(target_of(table(ID), "mysql", "a_b%"))
