"""A process that connects to hostile servers as the service does, and tells what became of it: class, time and memory.

Its address space is limited, so that what a server makes it hold cannot take the machine's. One line of JSON a case, in
and out: `python -m tests.support.hostile_client`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from cdc.errors import CdcError
from cdc.model import FilePos, ServerIdentity, SourcePosition
from cdc.sinks.mysql import MysqlSettings, MysqlSink
from cdc.sinks.postgres import PostgresSettings, PostgresSink
from cdc.source.connection import SourceSettings, SslSettings, connect
from cdc.source.stream import BinlogStream

ADDRESS_SPACE_BYTES_MAX = 4 << 30
CONNECT_SECONDS = 2


def source(port: int, ssl_mode: Any, password: str) -> None:
    settings = SourceSettings(
        "127.0.0.1", port, "u", password, 77, ssl=SslSettings(ssl_mode), connect_timeout_seconds=CONNECT_SECONDS,
        read_timeout_seconds=3,
    )  # fmt: skip
    with connect(settings) as connection:
        for _ in range(3):
            connection.query_text("SELECT 1, 2")
        connection.identity()


def stream(port: int, ssl_mode: Any, password: str) -> None:
    settings = SourceSettings(
        "127.0.0.1", port, "u", password, 77, ssl=SslSettings(ssl_mode), connect_timeout_seconds=CONNECT_SECONDS,
        read_timeout_seconds=3,
    )  # fmt: skip
    position = SourcePosition(ServerIdentity("mysql", "uuid"), FilePos(1, 4, "binlog.000001"))
    made = BinlogStream(settings, flavor="mysql", position=position, server_id=77)
    try:
        made.open()
    finally:
        made.close()


def mysql(port: int, ssl_mode: Any, password: str) -> None:
    sink = MysqlSink(
        MysqlSettings(
            "s", "127.0.0.1", port, "u", password=password, ssl_mode=ssl_mode, connect_timeout_seconds=CONNECT_SECONDS,
            statement_timeout_seconds=3,
        )
    )  # fmt: skip
    try:
        sink.open()
        sink.ping()
        sink.create_metadata_namespace()
    finally:
        sink.close()


def postgresql(port: int, ssl_mode: Any, password: str) -> None:
    sink = PostgresSink(
        PostgresSettings(
            "s", "127.0.0.1", port, "u", "d", password=password, ssl_mode=ssl_mode,
            connect_timeout_seconds=CONNECT_SECONDS,
        )
    )  # fmt: skip
    try:
        sink.open()
        sink.ping()
        sink.create_metadata_namespace()
    finally:
        sink.close()


CLIENTS = {"source": source, "stream": stream, "mysql": mysql, "postgresql": postgresql}


def memory_bytes() -> tuple[int, int]:
    """Resident now, and at most since the last reset."""
    values = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm")
    )
    return int(values["VmRSS"].split()[0]) * 1024, int(values["VmHWM"].split()[0]) * 1024


def answer(case: dict[str, Any]) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it is now
    before, _ = memory_bytes()
    began = time.monotonic()
    told: dict[str, Any] = {"ours": True, "class": "", "message": "", "hint": ""}
    try:
        CLIENTS[case["client"]](case["port"], case["ssl_mode"], case["password"])
    except CdcError as error:
        told |= {"class": type(error).__name__, "message": error.message, "hint": error.hint}
    except BaseException as error:  # noqa: BLE001 - that is what is asked
        told |= {"ours": False, "class": type(error).__name__, "message": traceback.format_exc()}
    _, highest = memory_bytes()
    return told | {"seconds": time.monotonic() - began, "bytes": max(0, highest - before)}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES_MAX, ADDRESS_SPACE_BYTES_MAX))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
