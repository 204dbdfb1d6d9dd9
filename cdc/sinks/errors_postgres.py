"""PostgreSQL's errors as ours, by SQLSTATE.

libpq gives no SQLSTATE for a connection that failed to open, so there, and only there, the server's text is read.
"""

from __future__ import annotations

import re

import psycopg2

from cdc.errors import CdcError, ConfigError, SinkRefused, SinkUnavailable
from cdc.limits import limit_hint

__all__ = ["is_integrity_error", "is_refusal", "is_refused_login", "translate", "translate_connect", "translate_set_up"]

# Try again later: the connection, the server's state, a lock, a full disk, a read-only server.
_UNAVAILABLE_CLASSES = ("08", "40", "53", "57", "58")
_TOO_MANY_CONNECTIONS = "53300"
_UNAVAILABLE = frozenset({"55P03", "55006", "25006", "25P03", "25P04"})
# The operator: authentication, a missing database, a missing right.
_CONFIG_CLASSES = ("28",)
_CONFIG = frozenset({"3D000", "42501"})
# A value, a constraint, a definition, a limit, a trigger that objects.
_REFUSED_CLASSES = ("0A", "21", "22", "23", "2B", "2F", "34", "3F", "42", "44", "54", "P0")
_REFUSED = frozenset({"55000"})

_MESSAGE_CHARACTERS_MAX = 300


def is_refusal(error: psycopg2.Error) -> bool:
    """Did the server refuse a value, a key or a definition (as opposed to being away, or to wanting a right)?"""
    code = error.pgcode or ""
    return code in _REFUSED or (code.startswith(_REFUSED_CLASSES) and code not in _CONFIG)


def is_integrity_error(error: psycopg2.Error) -> bool:
    """Did a constraint refuse it?"""
    return (error.pgcode or "").startswith("23")


def translate(
    error: psycopg2.Error,
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
    code = error.pgcode or ""
    text = _text(error)
    message = f"sink {sink}: cannot {doing}: {text}" + (f" (SQLSTATE {code})" if code else "")
    if code in _CONFIG or code.startswith(_CONFIG_CLASSES):
        return ConfigError(message, hint=f"run on the sink: {grant}" if grant else "give the sink's user that right")
    if not code or code in _UNAVAILABLE or code.startswith(_UNAVAILABLE_CLASSES):
        return SinkUnavailable(message, hint=_unavailable_hint(code), is_full=code == _TOO_MANY_CONNECTIONS)
    if table is None:
        return ConfigError(message, hint="check the sink's metadata tables and the rights of its user")
    where = f" (row with {key})" if key else ""
    return SinkRefused(
        f"{message}{where}",
        table=table,
        column=column or _column(error),
        key=key,
        hint=f"correct the row or the sink's table, then load it again: cdc snapshot {table}",
    )


def _unavailable_hint(code: str) -> str:
    if code == "53100":
        return "make room on the sink's disk; the pipeline goes on by itself"
    if code == "25006":
        return "the sink is read-only: a standby, or default_transaction_read_only is on"
    return "the pipeline tries again by itself"


def _column(error: psycopg2.Error) -> str | None:
    return error.diag.column_name or None


def _text(error: psycopg2.Error) -> str:
    """The first line of what the server says, without the row that it quotes."""
    text = error.diag.message_primary or str(error).strip() or type(error).__name__
    if error.diag.constraint_name and error.diag.constraint_name not in text:
        text += f" (constraint {error.diag.constraint_name})"
    return re.sub(r"\s+", " ", text)[:_MESSAGE_CHARACTERS_MAX]


_BAD_LOGIN = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects|role .* does not exist"
    r"|is not permitted to log in|permission denied for database"
)
_CLEAR_PASSWORD = re.compile(r"requested a cleartext password")
_NO_DATABASE = re.compile(r'database "(.*)" does not exist')
_BAD_TLS = re.compile(r"SSL|certificate|TLS", re.IGNORECASE)
# Also in the middle of the handshake: what is wrong with TLS is said in an alert.
_CUT = re.compile(r"server closed the connection|SSL SYSCALL error|unexpected eof|closed unexpectedly", re.IGNORECASE)
# The server's (also of a role or a database), and PgBouncer's.
_FULL = re.compile(r"too many (?:clients|connections)|connection slots are reserved|no more connections allowed")


_FULL_HINT = (
    "nothing, if it passes; else raise max_connections, or the CONNECTION LIMIT of role or database, on the sink"
)
_REFUSED_LOGIN = re.compile(r"authentication failed|no password supplied")


def is_refused_login(error: Exception) -> bool:
    """Does the server refuse the password?"""
    return isinstance(error, psycopg2.Error) and _REFUSED_LOGIN.search(str(error)) is not None


def translate_connect(error: psycopg2.Error, *, sink: str, where: str, user: str, database: str) -> CdcError:
    """The error of ours for a connection that could not be opened. `where` is `host:port`."""
    text = re.sub(r"\s+", " ", str(error).strip())[:_MESSAGE_CHARACTERS_MAX]
    message = f"sink {sink}: cannot connect to PostgreSQL at {where} as {user}: {text}"
    own_limit = limit_hint(error)
    if own_limit:
        return SinkUnavailable(message, hint=own_limit)
    if _NO_DATABASE.search(text):
        quoted = '"' + database.replace('"', '""') + '"'
        return ConfigError(message, hint=f"make it: CREATE DATABASE {quoted};")
    if _CLEAR_PASSWORD.search(text):
        return ConfigError(
            message,
            hint="the password is shown in the clear only to a server whose certificate is verified: ssl_mode "
            "verify_identity, or scram-sha-256 instead of password in the server's pg_hba.conf",
        )
    if _BAD_LOGIN.search(text):
        return ConfigError(message, hint="check user and password of the sink's url, and the server's pg_hba.conf")
    if _BAD_TLS.search(text) and not _CUT.search(text):
        return ConfigError(message, hint="check ssl_mode, ssl_ca, ssl_cert and ssl_key of the sink")
    is_full = _FULL.search(text) is not None
    hint = _FULL_HINT if is_full else "check that the server runs and that host and port are right"
    return SinkUnavailable(message, hint=hint, is_full=is_full)


def translate_set_up(error: psycopg2.Error, *, sink: str, where: str) -> CdcError:
    """The error of ours for a session that could not be set up. `where` is `host:port`."""
    if error.pgcode == "0A000":  # READ WRITE "during recovery": the only thing of the setup that a server may not have
        return ConfigError(
            f"sink {sink}: the server at {where} is a standby (in recovery) and takes no writes: {_text(error)}",
            hint="name the primary in the sink's url",
        )
    return translate(error, sink=sink, doing="set up the session")
