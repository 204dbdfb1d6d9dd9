"""Of several sinks the worst exit code counts: neither their sum, nor that of the last one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cdc.commands import ddl, snapshot
from cdc.errors import CdcError, ConfigError, SinkUnavailable

REFUSED = ConfigError("the sink refuses us", hint="correct its url")
AWAY = SinkUnavailable("the sink is away")
ORDERS = list(itertools.permutations([REFUSED, AWAY, None]))
SINKS = tuple(SimpleNamespace(name=name) for name in "abc")


class _Run:
    """`Application` where no service runs: each sink's ends with one of `errors`, or well."""

    def __init__(self, errors: Sequence[BaseException | None]) -> None:
        self._errors = errors

    def __call__(self, *_: object, **__: object) -> _Run:
        return self

    def start(self, *, until_caught_up: bool) -> None:
        assert until_caught_up

    def has_ended(self, _seconds: float) -> bool:
        return True

    def stop(self) -> None:
        pass

    def failures(self) -> list[tuple[str, BaseException]]:
        named = zip(SINKS, self._errors, strict=True)
        return [(settings.name, error) for settings, error in named if error is not None]

    def held_elsewhere(self) -> set[str]:
        return set()


@pytest.fixture(autouse=True)
def _no_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (ddl, snapshot):
        monkeypatch.setattr(command, "configure_logging", lambda *_: None)
        monkeypatch.setattr(command, "sinks_named", lambda *_: SINKS)


@pytest.fixture
def config() -> Any:
    copied = SimpleNamespace(model_copy=lambda **_: None)
    return SimpleNamespace(http=copied, log=SimpleNamespace(format="json"), model_copy=lambda **_: None)


@pytest.mark.parametrize("errors", ORDERS)
def test_a_run_by_itself_ends_with_the_worst_of_its_sinks(
    monkeypatch: pytest.MonkeyPatch, config: Any, errors: tuple[CdcError | None, ...]
) -> None:
    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[dict[int, Any]]:
        yield {}

    monkeypatch.setattr(snapshot, "Application", _Run(errors))
    monkeypatch.setattr(snapshot, "_opened", opened)
    # One more table that was not loaded, on the sink whose run ended well.
    code = snapshot._on_each(config, [], lambda *_: ([], {}), report=lambda *_: 1)
    assert code == ConfigError.exit_code

    monkeypatch.setattr(ddl, "Application", _Run(errors))
    monkeypatch.setattr(ddl, "_decide_on", lambda _config, settings, *_: SimpleNamespace(settings=settings))
    monkeypatch.setattr(ddl, "make_sink", lambda _: SimpleNamespace(open=lambda: None, close=lambda: None))
    monkeypatch.setattr(ddl, "pipeline_name", lambda *_: "")
    monkeypatch.setattr(ddl, "_say", lambda *_: 1)
    assert ddl.decide(config, "apply", [], only_sinks=[]) == ConfigError.exit_code


@pytest.mark.parametrize("errors", ORDERS)
def test_a_sink_that_cannot_be_asked_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
    config: Any,
    capsys: pytest.CaptureFixture[str],
    errors: tuple[CdcError | None, ...],
) -> None:
    by_name = {settings.name: error for settings, error in zip(SINKS, errors, strict=True)}

    @contextlib.contextmanager
    def opened(_config: object, settings: Any, **_: object) -> Iterator[dict[int, Any]]:
        error = by_name[settings.name]
        if error is not None:
            raise error
        yield {}

    def decide_on(_config: object, settings: Any, *_: object) -> int:
        with opened(_config, settings):
            return 1

    monkeypatch.setattr(snapshot, "_opened", opened)
    assert snapshot._on_each(config, [], lambda *_: 1, report=lambda *_: 0) == ConfigError.exit_code
    monkeypatch.setattr(ddl, "_decide_on", decide_on)
    assert ddl.decide(config, "skip", [], only_sinks=[]) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert said.count(f"cdc: {AWAY.message}\n") == 2
    assert said.count(f"cdc: {REFUSED.message}\n  hint: {REFUSED.hint}\n") == 2
