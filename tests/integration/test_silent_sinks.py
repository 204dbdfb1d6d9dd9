"""A sink that takes connections and answers nothing, or has forgotten ours: told, hung up on, and come back to."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cdc.demo.servers import Server
from tests.support.deployment import Deployment, deployment
from tests.support.proxy import through
from tests.support.waiting import wait_until
from tests.support.writer import TABLES, Writer, create_schema

pytestmark = pytest.mark.integration

# How long a sink may be silent is not for configuration: the service of these tests is less patient.
_IMPATIENT = """
from cdc.cli import main
from cdc.pipeline import lease
assert lease._UNWELL_SECONDS < lease.SILENT_SECONDS
lease._UNWELL_SECONDS, lease.SILENT_SECONDS = 1.0, 3.0
main()
"""


def impatient(made: Deployment) -> None:
    """Its service hangs up on a silent sink after three seconds."""
    command = made.command
    made.command = lambda *words: [sys.executable, "-c", _IMPATIENT, *command(*words)[3:]]  # type: ignore[method-assign]


def _is_well(made: Deployment) -> bool:
    """What /health says of the connection to the sink."""
    line = next(line for line in made.log().splitlines() if '"http_listening"' in line)
    try:
        with urllib.request.urlopen(f"{json.loads(line)['url']}/health", timeout=10) as answer:  # noqa: S310 - our own
            body = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        body = json.loads(error.read())
    return bool(body["database_connections"]["target"]["status"] == "healthy")


@pytest.mark.parametrize("kind", ["pg17", "mysql97"])
@pytest.mark.parametrize("how", ["half_open", "freeze"])
def test_a_sink_that_is_silent_is_hung_up_on_and_goes_on(
    tmp_path: Path, mariadb118: Server, request: pytest.FixtureRequest, kind: str, how: str
) -> None:
    with deployment(tmp_path, mariadb118, sink=request.getfixturevalue(kind)) as made:
        (settings,) = made.config["sinks"]
        with through(settings["url"]) as (proxy, url):
            settings["url"] = url
            create_schema(mariadb118, made.source_database)
            impatient(made)
            made.config["http"] = {"enabled": True, "port": 0}
            made.start()
            made.wait_for_log("table_ready", count=len(TABLES))
            with Writer(made.source, made.source_database) as writer:
                writer.wait_for(20)
                getattr(proxy, how)()
                wait_until(lambda: not _is_well(made), 60, "the page to say so")
                made.wait_for_log("sink_silent")
                made.wait_for_log("pipeline_retrying")
                if how == "freeze":
                    proxy.thaw()
                writer.wait_for(writer.count + 20)
            written = made.source_rows(TABLES[0])
            wait_until(lambda: made.sink_rows("sink", TABLES[0]) == written, 120, "the sink to be current again")
            assert _is_well(made)
            assert made.stop() == 0
        made.assert_equal(*TABLES)
