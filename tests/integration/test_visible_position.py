"""A load starts at a position that a SELECT can see, although the log has been written further.

Under semi-synchronous replication (AFTER_SYNC) without a replica, a transaction is in the binlog, and its position is
written, seconds before any SELECT sees it. A load that started from the written position would never get its row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.deployment import deployment

WAIT_MS = 7000
OPTIONS = {
    "rpl_semi_sync_master_enabled": 1,
    "rpl_semi_sync_master_wait_point": "AFTER_SYNC",
    "rpl_semi_sync_master_wait_no_slave": 1,
    "rpl_semi_sync_master_timeout": WAIT_MS,
}


def written(server: Server) -> tuple[str, int]:
    row = server.execute("SHOW MASTER STATUS")[0]
    return str(row[0]), int(row[1])


@pytest.mark.parametrize("position", ["gtid", "file"])
def test_a_row_that_is_logged_and_not_yet_visible_is_not_lost(
    tmp_path: Path, start_server: Callable[..., Server], pg15: Server, position: str
) -> None:
    source = start_server("mariadb1011")
    with deployment(tmp_path, source, sink=pg15) as made:
        made.config["source"]["position"] = position
        database = made.source_database
        source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=database)
        source.execute("INSERT INTO t VALUES (1)", database=database)
        for name, value in OPTIONS.items():
            source.execute(f"SET GLOBAL {name} = {value!r}")
        before = written(source)
        waiting = threading.Thread(
            target=source.execute, args=("INSERT INTO t VALUES (2)",), kwargs={"database": database}
        )
        waiting.start()
        wait_until(lambda: written(source) > before, 5, "the row in the binlog")
        assert source.execute("SELECT count(*) FROM t", database=database)[0][0] == 1, "the row is visible already"
        process = made.start()
        made.wait_for_log("table_loaded")
        was_waiting = waiting.is_alive()
        waiting.join()
        made.wait_for_log("table_ready")
        assert made.stop() == 0
        assert was_waiting, "the source answered before the load: the test shows nothing"
        assert process.returncode == 0
        made.catch_up()
        made.assert_equal("t")
