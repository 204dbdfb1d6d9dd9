"""The `pymysqlreplication` arm: the same log read by python-mysql-replication.

usage: python -m benchmarks.read_pymysqlreplication SPEC RESULT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import RotateEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from benchmarks.summary import Summary


def read(spec: dict[str, Any]) -> Summary:
    """Read the log that `spec` names up to its end."""
    summary = Summary()
    text_columns = spec["text_columns"]

    def count(values: dict[str, Any]) -> None:
        summary.id_sum += values["id"]
        if (amount := values.get("amount")) is not None:
            summary.amount_sum += int(amount * 100)
        summary.null_count += sum(value is None for value in values.values())
        for name in text_columns:
            value = values[name]
            if value is not None:
                summary.text_bytes += len(value.encode() if isinstance(value, str) else value)

    connection = {"host": spec["host"], "port": spec["port"], "user": spec["user"], "passwd": ""}
    stream = BinLogStreamReader(
        connection_settings=connection | {"ssl_disabled": not spec["tls"]},
        server_id=spec["server_id"],
        log_file=spec["files"][0],
        log_pos=4,
        resume_stream=True,
        blocking=True,
        only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent, RotateEvent],
    )
    files_left = len(spec["files"])
    for event in stream:
        match event:
            case RotateEvent():
                if event.timestamp:  # not made up by the sender: a file ends
                    files_left -= 1
                    if not files_left:
                        break
            case WriteRowsEvent():
                summary.inserts += len(event.rows)
                for row in event.rows:
                    count(row["values"])
            case DeleteRowsEvent():
                summary.deletes += len(event.rows)
                for row in event.rows:
                    count(row["values"])
            case UpdateRowsEvent():
                summary.updates += len(event.rows)
                for row in event.rows:
                    count(row["before_values"])
                    count(row["after_values"])
    return summary


def main(spec: str, result: str) -> int:
    Path(result).write_text(json.dumps(read(json.loads(Path(spec).read_text())).to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
