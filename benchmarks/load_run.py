"""`cdc run --until-caught-up` as a process of its own: what its loads took, and what it took itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.decode import RowsDiffer
from cdc.demo.servers import Server

__all__ = ["LoadRun", "configuration", "run_load"]

_RUN_SECONDS_MAX = 3600
_SAID_CHARS = 600


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One run: the whole of it, from the process's start to its end, and what it logged."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    lines: Sequence[Mapping[str, Any]]

    @property
    def load_seconds(self) -> float:
        """The sum of its tables', as the service says."""
        return sum(float(line["seconds"]) for line in self.events("table_loaded"))

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """Lines of the log."""
        return [line for line in self.lines if line.get("event") == name]


def configuration(
    source: Server, sink: str, *, tables: Sequence[str], directory: Path, snapshot: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a deployment with one sink, by its URL."""
    return {
        "name": "bench",
        "source": {"url": source.url, "server_id": 50_000_100},
        "sinks": [{"name": "sink", "url": sink}],
        "tables": {"include": list(tables)},
        "snapshot": dict(snapshot),
        "http": {"enabled": False},
        "var_dir": str(directory / "var"),
    }


def run_load(config: Mapping[str, Any], directory: Path, arm: str) -> LoadRun:
    """Load what is to be loaded, and catch up. Raises RowsDiffer when it fails."""
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    command = [sys.executable, "-m", "cdc", "run", "--until-caught-up", "-c", str(file)]
    environment = {**os.environ, "CDC__LOG__FORMAT": "json"}
    began = time.monotonic()
    with (directory / "cdc.log").open("w+") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        limit = threading.Timer(_RUN_SECONDS_MAX, process.kill)
        limit.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            limit.cancel()
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read()
    if process.returncode:
        raise RowsDiffer(f"{arm} ended with {process.returncode}: {said[-_SAID_CHARS:]}")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return LoadRun(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, lines)
