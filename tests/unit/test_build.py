"""What a checkout says before it is built, and what the build puts into the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_checkout_without_its_kernel_says_which_command_builds_it(tmp_path: Path) -> None:
    for package in ("cdc", "checkpoints", "snapshot"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "cdc", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert re.search(r"the compiled part of cdc is not built: No module named 'cdc\.\w+\.kernel\.", lines[0])
    assert lines[1] == "  hint: run `make kernel` in the clone"


def test_every_compiled_module_says_its_types() -> None:
    """mypy reads these; a module without them is Any to whoever calls it."""
    modules = sorted((ROOT / "cdc").glob("*/kernel/*.pyx"))
    assert modules
    assert sorted((ROOT / "cdc").glob("*/kernel/*.pyi")) == [path.with_suffix(".pyi") for path in modules]
