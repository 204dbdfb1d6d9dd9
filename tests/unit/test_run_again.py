"""CI's second look at tests that failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/run-again"
TESTS = """
from pathlib import Path

def test_good():
    pass

def test_bad():
    assert False
"""


def run_again(root: Path, failed: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The tool in a project of its own, where these are noted as failed."""
    (root / "tools").mkdir()
    shutil.copy(TOOL, root / "tools/run-again")
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / "pytest.ini").write_text("[pytest]\n")
    (root / "test_it.py").write_text(TESTS)
    cache = root / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    return subprocess.run([sys.executable, root / "tools/run-again"], capture_output=True, text=True, timeout=120)


def test_what_passes_the_second_time_is_named(tmp_path: Path) -> None:
    result = run_again(tmp_path, ["test_it.py::test_good"])
    assert result.returncode == 0, result.stdout
    assert "UNSTABLE" in result.stdout.split("test_it.py::test_good")[-2]


@pytest.mark.parametrize(
    "failed",
    [
        ["test_it.py::test_good", "test_it.py::test_bad"],
        [],
        ["test_it.py"],
        ["test_it.py::test_that_is_not_there"],
        [f"test_it.py::test_good[{number}]" for number in range(4)],
    ],
    ids=["fails twice", "none", "no import", "gone", "many"],
)
def test_what_is_broken_stays_so(tmp_path: Path, failed: Sequence[str]) -> None:
    result = run_again(tmp_path, failed)
    assert result.returncode == 1
    assert "UNSTABLE" not in result.stdout
