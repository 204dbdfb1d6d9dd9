"""The lease names the session that renews it, also when its connection was cut alone: else it would look abandoned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import deployment
from tests.support.waiting import wait_until


@pytest.mark.parametrize("kind", ["pg15", "mariadb1011", "mysql97"])
def test_a_lease_that_is_renewed_by_another_connection_stays_ours(
    kind: str, tmp_path: Path, mariadb118: Server, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(kind)
    with deployment(tmp_path, mariadb118, sink=server) as made:
        made.source.execute("CREATE TABLE t (id INT PRIMARY KEY)", database=made.source_database)
        made.start()
        made.wait_for_log("table_ready")
        _, database = made.sinks["sink"]
        is_pg = server.family == "postgresql"

        def sessions() -> list[str]:
            lease = "_cdc.lease" if is_pg else "_cdc_lease"
            return list(json.loads(server.execute(f"SELECT session FROM {lease}", database=database)[0][0]))

        before = sessions()
        number = before[0].split("/")[0]
        server.execute(f"SELECT pg_terminate_backend({number})" if is_pg else f"KILL {number}", database=database)
        wait_until(lambda: sessions()[0] != before[0], what="another session in the lease")
        assert sessions()[1:] == before[1:]
        assert made.status()["sinks"][0]["state"] in ("streaming", "caught_up")
        second = made.run("run")
        assert second.returncode == 1
        assert "is run by" in second.stderr
        assert made.stop() == 0
