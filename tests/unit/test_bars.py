"""How loads are shown: bars where there is a terminal, a line every ten seconds where there is none."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cdc.commands.bars import LoadBars


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(rows: int, estimate: int | None, **more: Any) -> dict[str, Any]:
    return {"rows": rows, "rows_estimate": estimate, **more}


def on(*, is_terminal: bool, is_able: bool = True) -> tuple[LoadBars, Console, Clock]:
    clock = Clock()
    kind = {"TERM": "xterm" if is_able else "dumb"}
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=160, _environ=kind)
    return LoadBars(console, monotonic=clock), console, clock


@pytest.mark.parametrize("is_terminal", [False, True], ids=["no terminal", "a dumb terminal"])
def test_a_line_comes_every_ten_seconds_a_table(capsys: pytest.CaptureFixture[str], is_terminal: bool) -> None:
    bars, _, clock = on(is_terminal=is_terminal, is_able=False)
    for second in range(25):
        clock.now = 100.0 + second
        loads = {"pg: shop.orders": progress(second * 100, 5000, rows_per_second=100.0, seconds_left=30.0)}
        if second >= 5:
            loads["pg: shop.more"] = progress(second, None)
        bars.show(loads)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "pg: shop.orders: 1,000 of about 5,000 rows, 100 rows/s, 30 s left",
        "pg: shop.more: 15 rows",
        "pg: shop.orders: 2,000 of about 5,000 rows, 100 rows/s, 30 s left",
    ]


def test_a_load_that_is_over_within_ten_seconds_has_no_line_and_a_new_one_its_own_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bars, _, clock = on(is_terminal=False)
    for second in range(18):
        clock.now = 100.0 + second
        bars.show({"pg: a.t" if second % 9 else "pg: a.u": progress(second, None)})
    assert capsys.readouterr().err == ""


def test_a_terminal_has_bars_while_there_are_loads_and_nothing_before_or_after() -> None:
    bars, console, _ = on(is_terminal=True)
    out: Any = console.file
    with bars:
        bars.show({})
        assert out.getvalue() == ""
        bars.show({"pg: shop.[b]orders": progress(2500, 10_000, rows_per_second=10.0, seconds_left=750.0)})
        assert bars._progress is not None
        (task,) = bars._progress.tasks
        assert (task.percentage, task.total) == (25, 10_000)
        bars._progress.refresh()
        assert "shop.[b]orders" in out.getvalue()
        assert "10 rows/s, 12 min 30 s left" in out.getvalue()
        bars.show({})
        assert bars._progress is None


@pytest.mark.parametrize("estimate", [None, 0, 99, 100])
def test_more_rows_than_there_were_said_to_be_are_no_hundred_percent(estimate: int | None) -> None:
    bars, _, _ = on(is_terminal=True)
    with bars:
        bars.show({"pg: a.t": progress(100, estimate)})
        assert bars._progress is not None
        (task,) = bars._progress.tasks
        assert task.total is None, "a bar that only moves"
        bars.show({"pg: a.t": progress(100, 400)})
        assert task.percentage == 25


def test_each_load_has_a_bar_as_long_as_it_lasts() -> None:
    bars, _, _ = on(is_terminal=True)
    with bars:
        bars.show({"pg: a.t": progress(1, 2), "pg: a.u": progress(1, 2)})
        bars.show({"pg: a.u": progress(2, 2), "pg: a.v": progress(0, 2)})
        assert bars._progress is not None
        assert [task.description for task in bars._progress.tasks] == ["pg: a.u", "pg: a.v"]
