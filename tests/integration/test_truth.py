"""What the service says and how it ends when a server is frozen, half open, idle or gone: no lie, no wait for ever."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import Proxy, through
from tests.support.writer import TABLES, Writer, create_schema


@contextlib.contextmanager
def _behind_proxy(one: Deployment, sink: str) -> Iterator[Proxy]:
    """The deployment's sink of that name through a proxy."""
    settings = next(entry for entry in one.config["sinks"] if entry["name"] == sink)
    with through(settings["url"]) as (proxy, url):
        settings["url"] = url
        yield proxy


def _wait_until_ready(one: Deployment) -> None:
    one.wait_for_log("table_ready", count=len(one.config["sinks"]) * len(TABLES))


# ---------------------------------------------------------------- the end, whatever hangs


@pytest.mark.parametrize("kind", ["pg17", "mysql97"])
def test_sigterm_ends_a_service_whose_sink_is_frozen(
    tmp_path: Path, mariadb118: Server, request: pytest.FixtureRequest, kind: str
) -> None:
    with deployment(tmp_path, mariadb118, sink=request.getfixturevalue(kind)) as one, _behind_proxy(one, "sink") as at:
        create_schema(mariadb118, one.source_database)
        process = one.start()
        _wait_until_ready(one)
        with Writer(one.source, one.source_database) as writer:
            writer.wait_for(20)
            at.freeze()
            writer.wait_for(writer.count + 20)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 10
        one.process = None
        assert "transaction_cancelled" in one.log()
        at.thaw()
        at.cut()
        one.catch_up()
        one.assert_equal(*TABLES)
