"""The `cdc` arm: read one log from a live server to Arrow with the parts that the service is made of.

usage: python -m benchmarks.read_cdc SPEC RESULT     (both JSON; SPEC as decode.py writes it)

One thread receives, decodes and reads the batches. The service's second thread is the applier's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.reading import AllOf, Counting, OneTable
from cdc.errors import CdcError, InvariantBroken
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, SourcePosition, TableName
from cdc.source.assembler import Assembler, RunLimits
from cdc.source.connection import SourceSettings, SslSettings, connect
from cdc.source.definitions import read_definition
from cdc.source.stream import BinlogStream

_SILENCE_SECONDS = 30.0


def read(spec: dict[str, Any]) -> dict[str, Any]:
    """Read the log that `spec` names up to its end; what it held and how long the parts took."""
    settings = SourceSettings(
        host=spec["host"],
        port=spec["port"],
        user=spec["user"],
        password="",
        server_id=spec["server_id"],
        ssl=SslSettings("required" if spec["tls"] else "disabled"),
    )
    began = time.perf_counter()
    end = FilePos.of(spec["files"][-1], spec["end_pos"])
    with connect(settings) as session:
        identity, flavor, version = session.identity(), session.flavor, session.version
        definition = read_definition(session, TableName(spec["database"], spec["table"]))
    assert definition is not None, "the log's table is there"
    position = SourcePosition(identity, FilePos.of(spec["files"][0], 4))
    if spec["by_gtid"]:
        parse = MysqlGtidSet.parse if flavor == "mysql" else MariadbGtidList.parse
        position = SourcePosition(identity, None, parse(spec["gtid_before"]))
    counting = Counting(spec["text_columns"])
    hashing = None
    if spec["verify"]:
        from benchmarks.hashing import Hashing  # imports what a timed run does not need

        hashing = Hashing()
    stream = BinlogStream(settings, flavor=flavor, position=position, server_id=settings.server_id)
    stream.open()
    opened = time.perf_counter()
    assembler = Assembler(
        start=position,
        flavor=flavor,
        server_version=version,
        checksum_negotiated=stream.checksum_negotiated,
        lower_case_names=False,
        capture=OneTable(definition),
        output=AllOf([counting, hashing]) if hashing else counting,
        limits=RunLimits(**spec["limits"]),
    )
    try:
        _read_up_to(end, stream, assembler)
    finally:
        stream.close()
    summary = counting.summary
    summary.hash_sum = hashing.hash_sum if hashing else None
    return summary.to_dict() | {
        "batches": counting.batches,
        "transactions": counting.transactions,
        "open_seconds": round(opened - began, 4),
        "read_seconds": round(time.perf_counter() - opened, 4),
    }


def _read_up_to(end: FilePos, stream: BinlogStream, assembler: Assembler) -> None:
    while True:
        if not stream.fill(_SILENCE_SECONDS):
            raise InvariantBroken(f"the log should go on to {end}; the last event ended at {assembler.file_pos}")
        if stream.deliver(assembler):
            raise InvariantBroken("a log without DDL has a barrier")
        at = assembler.file_pos
        if at is not None and at >= end:
            assembler.flush()
            return


def main(spec: str, result: str) -> int:
    try:
        read_values = read(json.loads(Path(spec).read_text()))
    except CdcError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    Path(result).write_text(json.dumps(read_values))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
