"""Names of tables that are two at the source and one on the sink (`lower_case_table_names`): never two in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cdc.demo.servers import Server
from tests.support import wait_until
from tests.support.ddl_targets import on_source
from tests.support.deployment import Deployment, deployment

StartServer = Callable[..., Server]


def _states(made: Deployment) -> dict[str, tuple[str, str]]:
    rows = made.status()["tables"]
    return {row["table"].partition(".")[2]: (row["state"], (row["error"] or {}).get("message", "")) for row in rows}


def test_of_two_tables_that_the_sink_cannot_tell_apart_one_is_parked(
    tmp_path: Path, mysql97: Server, start_server: StartServer
) -> None:
    """At the start, and when one comes by CREATE or by RENAME; what is there already goes on."""
    sink = start_server("mariadb1011", options={"lower_case_table_names": 1})
    with deployment(tmp_path, mysql97, my=sink) as made:
        for name in ("Orders", "orders", "items", "spare"):
            on_source(made, f"CREATE TABLE {name} (id INT PRIMARY KEY, a INT)")
            on_source(made, f"INSERT INTO {name} VALUES (1, 10)")
        on_source(made, "INSERT INTO orders VALUES (2, 20)")
        result = made.run("run", "--until-caught-up")
        assert result.returncode == 1, result.stderr
        states = _states(made)
        assert {name for name, (state, _) in states.items() if state == "ready"} == {"Orders", "items", "spare"}
        assert "not differ by case alone" in states["orders"][1]
        assert ".Orders" in states["orders"][1]
        assert made.sink_rows("my", "orders") == [(1, 10)]
        made.start()
        made.wait_for_log("service_started")
        on_source(made, "CREATE TABLE Items (id INT PRIMARY KEY, a INT)")
        on_source(made, "INSERT INTO Items VALUES (7, 70)")
        wait_until(lambda: _states(made).get("Items", ("", ""))[0] == "parked")
        on_source(made, "INSERT INTO items VALUES (3, 30)")
        on_source(made, "RENAME TABLE spare TO ITEMS")
        wait_until(lambda: _states(made).get("ITEMS", ("", ""))[0] == "parked")
        wait_until(lambda: made.sink_rows("my", "items") == [(1, 10), (3, 30)])
        on_source(made, "DROP TABLE Orders")
        on_source(made, "INSERT INTO orders VALUES (3, 30)")
        wait_until(lambda: _states(made)["Orders"][0] == "dropped")
        assert made.stop() == 0
