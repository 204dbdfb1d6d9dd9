"""A short run of the torture harness: one round. `make torture` goes on for as long as one likes."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc.demo.servers import Server
from tests.support.proxy import Proxy
from tests.torture.__main__ import settings_of
from tests.torture.faults import Faults, Scene
from tests.torture.harness import Settings, torture


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 7200.0, "only": ("kill -9", "SIGSTOP of the service"), "has_ddl": False},
        {"rounds": 3, "round_seconds": 4.5, "has_disks": False, "tables": 4, "clients": 1},
    ],
)
def test_the_command_that_is_printed_makes_the_same_settings(changes: dict[str, Any]) -> None:
    settings = dataclasses.replace(Settings(seed=7, source="mysql97", sinks=("pg15", "mariadb1011")), **changes)
    changed = {one.name for one in dataclasses.fields(Settings) if getattr(settings, one.name) != one.default}
    assert changed == {"seed", "source", "sinks", *changes}
    words = shlex.split(settings.command)
    assert words[:3] == ["python", "-m", "tests.torture"]
    assert list(settings_of(words[3:])) == [settings]


def test_nothing_that_a_fault_meets_moves_those_that_follow() -> None:
    nothing = cast("Any", None)
    with Proxy("127.0.0.1", 1) as proxy:
        made = SimpleNamespace(log_path=nothing)
        scene = Scene(cast("Any", made), nothing, {"pg": nothing}, {"source": proxy, "pg": proxy}, {}, ["t0"])

        def row(number: int, *only: str) -> list[tuple[str, float, float]]:
            faults = Faults(scene, 7, start=lambda: None)
            return list(itertools.islice(faults.row(number, only), 500))

        assert row(1) == row(1) != row(2)
        every = {name for name, _, _ in row(3)}
        assert every == set(Faults(scene, 7, start=lambda: None).all())
        assert {name for name, _, _ in row(4, "kill -9")} == {name for name in every if name.startswith("kill -9")}


@pytest.mark.crash
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
