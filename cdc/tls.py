"""One TLS context for all sessions with the same settings: to make one takes several times as long as to connect.

Knows pymysql and nothing of what is asked over the connection.
"""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from cdc.mysql_client import GuardedConnection

__all__ = ["TlsFiles", "client_context", "connect", "unverified_context"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Names of PEM files: who may have signed the server's certificate, and what we show it."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def client_context(files: TlsFiles, *, is_verified: bool, checks_name: bool) -> ssl.SSLContext:
    """The context of every session with these settings, made anew once one of the files has changed.

    `is_verified`: the server's certificate must be signed by `ca`, or by the system's authorities; `checks_name`: for
    its host name. Raises OSError for a file that is not there or holds something else.
    """
    stamps = tuple(_stamp(name) for name in (files.ca, files.cert, files.key))
    return _context(files, stamps, is_verified, checks_name)


def unverified_context() -> ssl.SSLContext:
    """Encrypts, whoever the server is."""
    return client_context(TlsFiles(), is_verified=False, checks_name=False)


def connect(
    context: ssl.SSLContext | None, *, is_required: bool, **arguments: Any
) -> pymysql.connections.Connection[Any]:
    """A session, with TLS by `context` (None: without); unless `is_required`, without where none is offered.

    The driver would make a context of its own for each session whose TLS is not required. Raises what it raises.
    """
    if context is None:
        return GuardedConnection(ssl_disabled=True, **arguments)
    raw = GuardedConnection(ssl=context, defer_connect=True, **arguments)
    raw._ssl_required = is_required  # it has no public name
    if not is_required:
        raw.client_flag &= ~CLIENT.SSL  # added where TLS is offered; MySQL 5.6 takes the flag alone for a bad handshake
    raw.connect()
    return raw


def _stamp(name: str | None) -> tuple[int, int, int] | None:
    if not name:
        return None
    found = Path(name).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=32)
def _context(files: TlsFiles, _stamps: object, is_verified: bool, checks_name: bool) -> ssl.SSLContext:
    if is_verified:
        context = ssl.create_default_context(cafile=files.ca or None)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if files.ca:
            context.load_verify_locations(files.ca)  # not asked, but to be told of a wrong name now
    context.check_hostname = is_verified and checks_name
    if files.cert:
        context.load_cert_chain(files.cert, files.key)
    return context
