"""A short run of the torture harness: one round. `make torture` goes on for as long as one likes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdc.demo.servers import Server
from tests.torture.harness import Settings, torture

pytestmark = pytest.mark.crash


@pytest.mark.full
@pytest.mark.parametrize("source,sinks", [("mariadb1011", ("pg15",)), ("mysql97", ("pg15", "mariadb1011"))])
@pytest.mark.timeout(900)
def test_a_round_of_faults_loses_and_doubles_nothing(
    source: str, sinks: tuple[str, ...], start_server: Callable[..., Server]
) -> None:
    """Takes half a minute: servers of its own, which are killed."""
    settings = Settings(seed=28, source=source, sinks=sinks, rounds=1, round_seconds=8, tables=4, has_disks=False)
    run = torture(settings, lambda _line: None, start_server)
    assert not run.problems, "\n".join((*run.problems, *run.schedule))
    assert run.counts["transactions"]
    assert run.counts["tables compared"]
    assert run.schedule
