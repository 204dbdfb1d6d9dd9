"""How far loads are: a bar each on a terminal, a line each every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from snapshot.progress import count_text, pace_texts, progress_text

__all__ = ["LoadBars"]

LINE_SECONDS = 10.0

Loads = Mapping[str, Mapping[str, Any]]
"""The `progress` of each load under way, by what it is called."""


class LoadBars:
    """Shows loads on stderr, within a `with`; nothing while there are none."""

    def __init__(self, console: Console | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._monotonic = monotonic
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> LoadBars:
        return self

    def __exit__(self, *_: object) -> None:
        self.show({})

    def show(self, loads: Loads) -> None:
        """These are under way now, and no others."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:  # on a dumb one bars are never drawn
            self._show_bars(loads)
        else:
            self._say(loads)

    def _say(self, loads: Loads) -> None:
        now = self._monotonic()
        self._said_at = {name: self._said_at.get(name, now) for name in loads}
        for name, progress in loads.items():
            if now - self._said_at[name] >= LINE_SECONDS:
                self._said_at[name] = now
                sys.stderr.write(f"{name}: {progress_text(progress)}\n")

    def _show_bars(self, loads: Loads) -> None:
        if not loads:
            if self._progress is not None:
                self._progress.stop()
            self._progress, self._tasks = None, {}
            return
        if self._progress is None:
            self._progress = _bars(self._console)
            self._progress.start()
        for name in self._tasks.keys() - loads.keys():
            self._progress.remove_task(self._tasks.pop(name))
        for name, progress in loads.items():
            self._show_bar(self._progress, name, progress)

    def _show_bar(self, bars: Progress, name: str, progress: Mapping[str, Any]) -> None:
        if name not in self._tasks:
            self._tasks[name] = bars.add_task(name, total=None, count="", rest="")
        rows, estimate = int(progress["rows"] or 0), progress["rows_estimate"]
        # More rows than there were said to be: nobody knows how many are to come, and the bar says so.
        (task,) = (one for one in bars.tasks if one.id == self._tasks[name])
        task.total = estimate if estimate and estimate > rows else None  # `update` would take None for not given
        bars.update(task.id, completed=rows, count=count_text(progress), rest=", ".join(pace_texts(progress)))


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[rest]}", markup=False),
        console=console,
        transient=True,
    )
