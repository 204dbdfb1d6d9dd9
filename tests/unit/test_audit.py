"""`make audit` tells apart: no advisory, some, and nobody to ask. A source that is away is no good news."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# pip-audit's own ways: a report and 0; a report and 1; a traceback, no report, and 1.
FAKE = """#!/bin/sh
echo "$*" >>{calls}
while [ $# -gt 1 ]; do
  case $1 in --output) output=$2;; --vulnerability-service) service=$2;; esac
  shift
done
case "{answer}-$service" in
  none-*|late-osv) echo '{{"dependencies": []}}' >"$output";;
  found-*) echo '{{"dependencies": [{{"name": "pyyaml", "vulns": ["PYSEC-2021-142"]}}]}}' >"$output"; exit 1;;
  *) echo 'Traceback'; echo 'ConnectionError: Name or service not known'; exit 1;;
esac
"""


def _audit(tmp_path: Path, answer: str) -> subprocess.CompletedProcess[str]:
    fake = tmp_path / "pip-audit"
    fake.write_text(FAKE.format(answer=answer, calls=tmp_path / "calls"))
    fake.chmod(0o755)
    return subprocess.run(
        [str(ROOT / "tools" / "audit")],
        env={**os.environ, "PIP_AUDIT": str(fake)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("answer, code, words", [
    ("none", 0, "no advisory for requirements-dev.lock (asked pypi)"),
    ("late", 0, "no advisory for requirements.lock (asked osv)"),
    ("found", 1, "requirements.lock has packages with advisories"),
    ("away", 3, "no advisory source could be reached: nothing is known of requirements.lock"),
])  # fmt: skip
def test_what_is_said(tmp_path: Path, answer: str, code: int, words: str) -> None:
    told = _audit(tmp_path, answer)

    assert told.returncode == code, told.stderr
    assert words in told.stdout + told.stderr
    if answer == "found":
        assert "PYSEC-2021-142" in told.stderr
    if answer == "away":
        assert "Name or service not known" in told.stderr


def test_both_locks_are_looked_up_by_their_hashes(tmp_path: Path) -> None:
    _audit(tmp_path, "none")

    calls = (tmp_path / "calls").read_text()
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert f"--requirement {lock} --disable-pip --require-hashes" in calls
