"""Errors of MySQL and MariaDB as ours, by number.

Source of the numbers: MySQL's "Server Error Message Reference" and "Client Error Message Reference", MariaDB's "Error
Codes".
"""

from __future__ import annotations

import re
import ssl

import pymysql

from cdc.errors import CdcError, ConfigError, SinkRefused, SinkUnavailable
from cdc.limits import limit_hint

__all__ = [
    "LOCAL_INFILE_IS_OFF",
    "NO_TEMPORARY_TABLE",
    "ROW_TOO_LARGE",
    "error_number",
    "is_refusal",
    "is_refused_login",
    "refused_column",
    "translate",
]

_UNAVAILABLE = frozenset(
    {
        # the connection, the server's end
        0, 2002, 2003, 2005, 2006, 2012, 2013, 2014, 2027, 2055, 1040, 1041, 1042, 1043, 1053, 1077, 1078, 1079, 1080,
        1158, 1159, 1160, 1161, 1184, 1152, 1203, 1226, 1927, 4031, 1047, 3169, 3032,
        # locks, kills, time limits
        1205, 1206, 1213, 1317, 1028, 1637, 1615, 1412, 1969, 3024, 3058, 3572, 1099, 1297, 1614,
        # a savepoint of ours that is gone: the server has rolled back the transaction
        1305,
        # disk and memory
        3, 1021, 1026, 1030, 1037, 1038, 1114, 1135, 1180, 1534, 3675,
        # read-only
        1290, 1792, 1836, 1874, 3100,
    }
)  # fmt: skip
_CONFIG = frozenset(
    {
        1044, 1045, 1130, 1129, 1142, 1143, 1227, 1251, 1370, 1410, 1449, 1524, 1698, 1820, 1862, 3118, 3159, 3878,
        3955, 4151, 1787, 3748, 2026, 2049, 2054, 2058, 2059, 2061,
    }
)  # fmt: skip
# No connection left: of the server's, of the user's (max_user_connections), of an account's limits.
_FULL = frozenset({1040, 1203, 1226})
_READ_ONLY = frozenset({1290, 1792, 1836, 1874})
_DISK = frozenset({3, 1021, 1026, 1030, 1114})
# Too many wrong passwords: MySQL's FAILED_LOGIN_ATTEMPTS, MariaDB's max_password_errors. And locked by an operator.
LOCKED_OUT = frozenset({3955, 4151})
_LOCKED = 3118
_LOCKED_HINT = "ALTER USER … ACCOUNT UNLOCK on the sink (MariaDB: FLUSH PRIVILEGES); and check the password of the url"
PACKET_TOO_LARGE = frozenset({1153, 1301})
# The server refuses LOAD DATA LOCAL: "not allowed with this version", MySQL's own number for it, MariaDB's.
LOCAL_INFILE_IS_OFF = frozenset({1148, 3948, 4166})
# No right to make one; none inside a transaction (MySQL 5.7 with GTIDs; 8.0 where statements are logged as such).
NO_TEMPORARY_TABLE = frozenset({1044, 1142, 1787, 3748})
_NO_TEMPORARY_TABLE_IN_TRANSACTION = frozenset({1787, 3748})
ROW_TOO_LARGE = frozenset({1118, 139})

_MESSAGE_CHARACTERS_MAX = 300


def error_number(error: BaseException) -> int:
    """The server's or client's number; 0 where the driver gives none."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def is_refused_login(error: BaseException) -> bool:
    """Does the server refuse user and password, or lock the account out that it has refused too often (MySQL 3955,
    MariaDB 4151)?"""
    return isinstance(error, pymysql.err.MySQLError) and error_number(error) in (1045, *LOCKED_OUT)


def is_refusal(error: BaseException) -> bool:
    """Did the server refuse a value, a key or a definition (as opposed to being away, or to wanting a right)?"""
    number = error_number(error)
    return isinstance(error, pymysql.err.MySQLError) and number not in _UNAVAILABLE and number not in _CONFIG


# `column 'a' at row 3` (1264, 1265, 1366, 1406 …), `Column 'a' cannot be null` (1048), and MariaDB's way to say the
# former, "for column `db`.`t`.`a` at row 3".
_COLUMN = re.compile(r"[Cc]olumn (?:'(?P<plain>.*?)'|(?:`[^`]*`\.)*`(?P<quoted>[^`]*)`)", re.DOTALL)


def refused_column(error: BaseException) -> str | None:
    """The column that the server's message names; the session's messages are in English."""
    match = _COLUMN.search(str(error.args[1]) if len(error.args) > 1 else "")
    return (match["plain"] or match["quoted"]) if match else None


def translate(
    error: BaseException,
    *,
    sink: str,
    doing: str,
    table: str | None = None,
    column: str | None = None,
    key: str | None = None,
    grant: str = "",
) -> CdcError:
    """The error of ours that `error` is.

    Args:
        doing: what failed, as in "cannot {doing}".
        table: the source table as `db.table`; without it nothing can be parked, and a refusal is a ConfigError.
        grant: the SQL that gives the right that this needs.
    """
    number, text = error_number(error), _text(error)
    message = f"sink {sink}: cannot {doing}: {text}" + (f" (error {number})" if number else "")
    own_limit = limit_hint(error)
    if own_limit:
        return SinkUnavailable(message, hint=own_limit)
    cause = getattr(error, "original_exception", None)
    # One that ended in the middle of the handshake is gone, as any other; what is wrong with TLS is said in an alert.
    is_cut = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    if (isinstance(cause, ssl.SSLError) and not is_cut) or number == 2026:
        return ConfigError(message, hint="check ssl_mode, ssl_ca, ssl_cert and ssl_key of the sink")
    if number in (1045, 1698):
        return ConfigError(message, hint="check user and password of the sink's url")
    if number in LOCKED_OUT or number == _LOCKED:
        return ConfigError(message, hint=_LOCKED_HINT)
    if number in _NO_TEMPORARY_TABLE_IN_TRANSACTION:
        return ConfigError(
            message,
            hint="run on the sink: SET GLOBAL binlog_format = ROW; or give the sink's user the right to set it for its "
            "session: SESSION_VARIABLES_ADMIN (before MySQL 8.0.13 it takes enforce_gtid_consistency = OFF)",
        )
    if number in _CONFIG:
        return ConfigError(message, hint=f"run on the sink: {grant}" if grant else "give the sink's user that right")
    if number in _UNAVAILABLE:
        return SinkUnavailable(message, hint=_unavailable_hint(number, text), is_full=number in _FULL)
    if table is None:
        return ConfigError(message, hint="check the sink's metadata tables and the rights of its user")
    where = f" (row with {key})" if key else ""
    hint = f"correct the row or the sink's table, then load it again: cdc snapshot {table}"
    if number in ROW_TOO_LARGE:
        hint = (
            "its columns take more than a row may have there: leave some out (exclude_columns in tables.overrides), "
            f"then `cdc snapshot {table}`"
        )
    if number in PACKET_TOO_LARGE:
        hint = f"raise max_allowed_packet on the sink, then load the table again: cdc snapshot {table}"
    return SinkRefused(f"{message}{where}", table=table, column=column or refused_column(error), key=key, hint=hint)


_OF_TEMPORARY_TABLE = re.compile(r"_cdc_(?:stage|keys)|#sql|/tmp|ibtmp")


def _unavailable_hint(number: int, text: str) -> str:
    if number in _DISK and _OF_TEMPORARY_TABLE.search(text):
        return (
            "make room for temporary tables on the sink: its tmpdir, and innodb_temp_data_file_path where that has a "
            "max; the pipeline goes on by itself"
        )
    if number in _DISK:
        return "make room on the sink's disk; the pipeline goes on by itself"
    if number in _READ_ONLY:
        return "the sink is read-only: SET GLOBAL read_only = OFF, or write to the primary"
    if number in _FULL:
        return "nothing, if it passes; else raise max_connections, or max_user_connections of the account, on the sink"
    if number in (2002, 2003, 2005):
        return "check that the server runs and that host and port are right"
    return "the pipeline tries again by itself"


def _text(error: BaseException) -> str:
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    return re.sub(r"\s+", " ", text)[:_MESSAGE_CHARACTERS_MAX] or type(error).__name__
