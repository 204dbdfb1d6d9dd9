"""No descriptor and no thread left in our own process: said as that, and not as a server that is away."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import pytest

from cdc.demo.servers import Server
from cdc.errors import TransientError
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from cdc.source.connection import SourceSettings, connect


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open("rb") as lowest:
        number = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opener(end: str, request: pytest.FixtureRequest, host: str) -> Callable[[], Any]:
    """Opens one connection."""
    server: Server = request.getfixturevalue("pg15" if end == "pg" else "mariadb1011")
    if end == "source":
        return lambda: connect(SourceSettings(host, server.port, server.user, server.password, 88_003)).close()
    url = urlsplit(server.url)
    common = {"name": "s", "host": host, "port": server.port, "user": unquote(url.username or "")}
    common["password"] = unquote(url.password or "")
    sink: Any = MysqlSink(MysqlSettings(**common))  # type: ignore[arg-type]
    if end == "pg":
        sink = PostgresSink(PostgresSettings(database="postgres", **common))  # type: ignore[arg-type]

    def open_and_close() -> None:
        sink.open()
        sink.close()

    return open_and_close


@pytest.mark.any_server
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("end", ["source", "maria", "pg"])
def test_a_process_without_a_descriptor_left_says_so(end: str, host: str, request: pytest.FixtureRequest) -> None:
    open_one = opener(end, request, host)
    open_one()
    with no_descriptor_left(), pytest.raises(TransientError) as caught:
        open_one()
    assert "ulimit -n" in caught.value.hint, caught.value.message
    open_one()


@pytest.mark.any_server
@pytest.mark.parametrize("end", ["source", "maria"])
def test_a_process_without_a_thread_left_says_so(
    end: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_one = opener(end, request, "127.0.0.1")

    def none_left(_: threading.Timer) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", none_left)
    with pytest.raises(TransientError) as caught:
        open_one()
    assert "TasksMax" in caught.value.hint, caught.value.message
