"""Whose limit it is: what a server says is its own, and may quote a value."""

from __future__ import annotations

import errno

import psycopg2
import pymysql
import pytest

from cdc.errors import SinkRefused, SinkUnavailable
from cdc.limits import NO_THREAD, limit_hint
from cdc.sinks import errors_mysql

_OUT_OF_FILES = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    "error, word",
    [
        (pymysql.err.OperationalError(2003, f"Can't connect to MySQL server on 'h' ({_OUT_OF_FILES})"), "ulimit -n"),
        (psycopg2.OperationalError("could not create socket: Too many open files"), "ulimit -n"),
        (_OUT_OF_FILES, "ulimit -n"),
        (RuntimeError(NO_THREAD), "ulimit -u"),
        (pymysql.err.IntegrityError(1062, "Duplicate entry 'too many open files' for key 'msg'"), ""),
        (pymysql.err.DataError(1366, f"Incorrect string value: '{NO_THREAD}'"), ""),
        (pymysql.err.OperationalError(1016, 'Can\'t open file (Errcode: 24 "Too many open files")'), ""),
        (psycopg2.OperationalError('FATAL:  could not open file "base/1": Too many open files'), ""),
    ],
)
def test_a_limit_is_ours_where_no_server_says_so(error: BaseException, word: str) -> None:
    assert word in limit_hint(error) if word else limit_hint(error) == ""


def test_a_value_that_reads_like_a_limit_parks_its_table_and_stops_no_sink() -> None:
    raised = pymysql.err.IntegrityError(1062, "Duplicate entry 'too many open files' for key 'msg'")
    error = errors_mysql.translate(raised, sink="s", doing="write", table="shop.t")
    assert isinstance(error, SinkRefused)
    assert not isinstance(error, SinkUnavailable)
