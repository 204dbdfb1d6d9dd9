"""Memory of the service while a sink is much slower than the source's log is read: bounded, whatever is behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import Deployment, deployment

_ROW_COUNT = 300_000
_TEXT_BYTES = 500
_RESIDENT_BYTES_MAX = 256 << 20


def _peak_resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmHWM")


def _rows_on(made: Deployment, sink: str) -> int:
    server, database = made.sinks[sink]
    name = f'"{made.source_database}".t' if server.family == "postgresql" else "t"
    return int(server.execute(f"SELECT count(*) FROM {name}", database=database)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("transactions", [1, 60])
def test_a_log_of_150_mb_passes_in_less_than_256_mib(
    tmp_path: Path, mariadb1011: Server, pg15: Server, transactions: int
) -> None:
    """As one transaction, which comes in parts, and as many, which gather in the queue."""
    with deployment(tmp_path, mariadb1011, sink=pg15) as made:
        made.is_forked = False  # what it imports counts
        execute, database = made.source.execute, made.source_database
        execute("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)", database=database)
        made.catch_up()
        step = _ROW_COUNT // transactions
        for first in range(1, _ROW_COUNT + 1, step):
            numbers = f"seq_{first}_to_{first + step - 1}"
            execute(f"INSERT INTO t SELECT seq, repeat('x', {_TEXT_BYTES}) FROM {numbers}", database=database)
        process = made.start()
        wait_until(lambda: _rows_on(made, "sink") == _ROW_COUNT, 240, "all rows on the sink")
        peak = _peak_resident_bytes(process.pid)
        assert made.stop() == 0
    assert peak < _RESIDENT_BYTES_MAX
