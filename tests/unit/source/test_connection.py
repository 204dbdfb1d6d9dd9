"""Error numbers of the source become ours: who has to act, and whether waiting helps."""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path

import pymysql
import pytest

from cdc.errors import BinlogPurged, CdcError, ConfigError, ProtocolError, SourceUnavailable, TransientError
from cdc.sinks import errors_mysql
from cdc.source.connection import (
    SourceSettings,
    SslSettings,
    TableDenied,
    TableGone,
    check_encryption,
    classify_1236,
    is_refused_login,
    open_session,
    tls_context,
    translate_error,
)
from tests.support.hostile_servers import CAPABILITIES, SSL, Line, serve

SETTINGS = SourceSettings("db.example", 3306, "repl", "sesame", server_id=1)
Operational, Programming, Internal = (
    pymysql.err.OperationalError,
    pymysql.err.ProgrammingError,
    pymysql.err.InternalError,
)

# As the servers of the tests' rig said it, or as their sources have it.
TEXTS_1236: list[tuple[str, type[CdcError]]] = [
    ("Could not find first log file name in binary log index file", BinlogPurged),
    ("could not find next log; the first event 'binlog.000001' at 4", ProtocolError),
    (
        (
            "Cannot replicate because the source purged required binary logs. Replicate the missing transactions from "
            "elsewhere, or provision a new replica from backup."
        ),
        BinlogPurged,
    ),
    (
        (
            "The slave is connecting using CHANGE MASTER TO MASTER_AUTO_POSITION = 1, but the master has purged "
            "binary logs containing GTIDs that the slave requires."
        ),
        BinlogPurged,
    ),
    (
        (
            "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and "
            "required binlog files have been purged."
        ),
        BinlogPurged,
    ),
    (
        "Error: connecting slave requested to start from GTID 0-1-99999999, which is not in the master's binlog",
        BinlogPurged,
    ),
    (
        (
            "Error: connecting slave requested to start from GTID 0-7-1, which is not in the master's binlog. "
            "Since the master's binlog contains GTIDs with higher sequence numbers, it probably "
            "means that the slave has diverged"
        ),
        BinlogPurged,
    ),
    (
        (
            "Replica has more GTIDs than the source has, using the source's SERVER_UUID. This may indicate that "
            "the the last binary log file was truncated or lost, e.g., after a power failure when sync_binlog != 1."
        ),
        BinlogPurged,
    ),
    ("Slave has more GTIDs than the master has, using the master's SERVER_UUID.", BinlogPurged),
    ("Client requested master to start replication from position > file size", BinlogPurged),
    (
        (
            "A slave with the same server_uuid/server_id as this slave has connected to the master; the first event "
            "'binlog.000001' at 4"
        ),
        SourceUnavailable,
    ),
    (
        (
            "A replica with the same server_uuid/server_id as this replica has connected to the source; the first "
            "event '' at 4, the last event read from '/x/binlog.000001' at 126"
        ),
        SourceUnavailable,
    ),
    (
        (
            "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on source; the first event "
            "'binlog.000003' at 130"
        ),
        ProtocolError,
    ),
    ("bogus data in log event; the first event 'binlog.000003' at 130", ProtocolError),
    ("binlog truncated in the middle of event; consider out of disk space on source", ProtocolError),
    (
        "Slave can not handle replication events with the checksum that master is configured to log; the first event",
        ProtocolError,
    ),
    ("something new", ProtocolError),
]


@pytest.mark.parametrize("text, expected", TEXTS_1236, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_error_1236_is_told_by_its_text(text: str, expected: type[CdcError]) -> None:
    error = classify_1236(text, "source db.example:3306", f"{'0-1-5'}")
    assert type(error) is expected
    assert text in error.message
    assert error.hint
    if expected is not SourceUnavailable:
        assert "0-1-5" in error.message
    assert type(translate_error(Operational(1236, text), SETTINGS, position="0-1-5")) is expected


@pytest.mark.parametrize(
    "number, text",
    [
        (1236, "A replica with the same server_uuid/server_id as this replica has connected to the source"),
        (4052, "A slave with the same server_uuid/server_id is already connected"),
        (4052, "A slave with the same server_id is already connected"),
        (4052, "A slave with the same server_uuid/server_id as this slave has connected to the master"),
        (4052, "A slave with the same server_id as this slave has connected to the master"),
    ],
)
def test_another_replica_with_our_id_is_named_by_whichever_number_it_comes(number: int, text: str) -> None:
    found = translate_error(Operational(number, text), SETTINGS, position="0-1-5")
    assert isinstance(found, SourceUnavailable)
    assert found.has_rival
    assert "another replica uses our server_id" in found.message
    assert "source.server_id" in found.hint


@pytest.mark.parametrize("number, expected", [(1040, True), (1203, True), (1226, True), (1041, False), (2013, False)])
def test_a_server_without_a_connection_left_is_told_from_one_in_trouble(number: int, expected: bool) -> None:
    found = translate_error(Operational(number, "none left"), SETTINGS)
    assert isinstance(found, SourceUnavailable)
    assert found.is_full is expected
    assert ("max_user_connections" in found.hint) is expected


@pytest.mark.parametrize(
    "cause, expected",
    [
        (ssl.SSLCertVerificationError("certificate verify failed"), ConfigError),
        (ssl.SSLEOFError("EOF occurred in violation of protocol"), SourceUnavailable),
    ],
)
def test_what_is_wrong_with_tls_is_no_outage_and_an_end_in_the_handshake_is_one(
    cause: ssl.SSLError, expected: type[CdcError]
) -> None:
    raised = Operational(2003, f"Can't connect to MySQL server on 'h' ({cause})")
    raised.original_exception = cause  # type: ignore[attr-defined]  # as pymysql does
    found = translate_error(raised, SETTINGS)
    assert type(found) is expected
    assert ("source.ssl_ca" in found.hint) is (expected is ConfigError)


ERRORS: list[tuple[Exception, type[CdcError]]] = [
    *[(Operational(n, "denied"), ConfigError) for n in (1044, 1045, 1130, 1227, 1698, 1820, 3118, 3955, 4151)],
    *[(Operational(n, "denied"), TableDenied) for n in (1142, 1143, 1370)],
    *[(Programming(n, "gone"), TableGone) for n in (1051, 1146)],
    *[(Operational(n, "changed"), TableGone) for n in (1412, 1054, 1356)],
    (Operational(2026, "SSL connection error"), ConfigError),
    *[(Operational(n, "lost"), SourceUnavailable) for n in (1040, 1053, 1158, 1159, 1160, 2002, 2003, 2006, 2013)],
    *[(Internal(n, "try again"), SourceUnavailable) for n in (1205, 1213, 1317, 3024, 1969)],
    (pymysql.err.InterfaceError(0, ""), SourceUnavailable),
    (ConnectionResetError(104, "Connection reset by peer"), SourceUnavailable),
    (TimeoutError("timed out"), SourceUnavailable),
    (ssl.SSLError("handshake"), SourceUnavailable),
    (Programming(1064, "You have an error in your SQL syntax"), ProtocolError),
    (pymysql.err.DataError(1264, "Out of range"), ProtocolError),
    (pymysql.err.Error(), ProtocolError),
]


@pytest.mark.parametrize("error, expected", ERRORS, ids=repr)
def test_error_numbers_say_who_has_to_act(error: Exception, expected: type[CdcError]) -> None:
    found = translate_error(error, SETTINGS)
    assert type(found) is expected
    assert isinstance(found, TransientError) == (expected is SourceUnavailable)
    assert "db.example:3306" in found.message
    assert "sesame" not in found.message + found.hint


def test_a_wrong_password_and_a_missing_right_have_different_hints() -> None:
    password = translate_error(Operational(1045, "Access denied"), SETTINGS)
    right = translate_error(Operational(1227, "Access denied"), SETTINGS)
    assert "password" in password.hint
    assert "GRANT" in right.hint


def test_an_account_that_is_locked_says_how_it_is_unlocked_and_whether_a_password_did_it() -> None:
    for number, is_for_a_password in ((3955, True), (4151, True), (3118, False)):
        error = Operational(number, "Access denied")
        assert "ACCOUNT UNLOCK" in translate_error(error, SETTINGS).hint
        assert is_refused_login(error) == errors_mysql.is_refused_login(error) == is_for_a_password


def test_the_password_is_in_no_repr() -> None:
    assert "sesame" not in repr(SETTINGS)


def test_tls_verifies_no_more_and_no_less_than_the_mode_says() -> None:
    assert tls_context(SslSettings("disabled")) is None
    for mode, verifies, checks_name in (
        ("preferred", ssl.CERT_NONE, False),
        ("required", ssl.CERT_NONE, False),
        ("verify_ca", ssl.CERT_REQUIRED, False),
        ("verify_identity", ssl.CERT_REQUIRED, True),
    ):
        context = tls_context(SslSettings(mode))  # type: ignore[arg-type]  # literals in a loop
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (verifies, checks_name)


def test_sessions_share_a_context_until_a_file_of_it_changes(tmp_path: Path) -> None:
    assert tls_context(SslSettings()) is tls_context(SslSettings())
    authority = tmp_path / "ca.pem"
    content = (Path(__file__).parents[2] / "support" / "no_authority.pem").read_text()
    authority.write_text(content)
    settings = SslSettings("verify_ca", ca=str(authority))
    first = tls_context(settings)
    assert tls_context(settings) is first
    authority.write_text(content + "\n")
    assert tls_context(settings) is not first


def test_a_session_in_the_clear_is_refused_where_tls_is_required() -> None:
    class Raw:
        _sock = object()
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    for mode in ("required", "verify_ca", "verify_identity"):
        raw = Raw()
        settings = SourceSettings("h", 1, "u", "p", server_id=1, ssl=SslSettings(mode))
        with pytest.raises(ConfigError, match="no TLS"):
            check_encryption(raw, settings)  # type: ignore[arg-type]  # what is used of a connection
        assert raw.is_closed
    check_encryption(Raw(), SourceSettings("h", 1, "u", "p", server_id=1))  # type: ignore[arg-type]


def test_a_ca_file_that_is_not_there_fails_before_any_connection(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"."):
        tls_context(SslSettings("verify_ca", ca=str(tmp_path / "missing.pem")))


def test_tls_is_not_begun_where_it_is_not_offered() -> None:
    """MySQL 5.6 without TLS takes a login that says TLS for a bad handshake."""

    def without_tls(line: Line) -> None:
        line.let_in()
        line.stream.shutdown(socket.SHUT_WR)

    with serve(without_tls) as (port, lines), pytest.raises(pymysql.err.OperationalError):
        open_session(SourceSettings("127.0.0.1", port, "u", "", server_id=1, ssl=SslSettings("preferred")))
    (line,) = lines
    flags = struct.unpack_from("<I", line.received, 4)[0]
    assert flags & CAPABILITIES
    assert not flags & SSL
