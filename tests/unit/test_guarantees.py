"""docs/guarantees.md and docs/threat-model.md name a test for each promise and threat: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("docs/guarantees.md", "docs/threat-model.md")
NAMED = sorted(
    {found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / page).read_text())}
)


@pytest.mark.parametrize("path,function", NAMED)
def test_a_test_that_proves_a_promise_is_there(path: str, function: str) -> None:
    text = (ROOT / path).read_text()
    assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE)


def test_every_promise_has_one() -> None:
    promises = re.split(r"^## ", (ROOT / "docs/guarantees.md").read_text(), flags=re.MULTILINE)[1:]
    numbered = [promise for promise in promises if promise[0].isdigit()]
    assert len(numbered) == 9
    assert all("`tests/" in promise for promise in numbered)


def test_every_threat_has_a_test_or_a_page() -> None:
    threats = (ROOT / "docs/threat-model.md").read_text().partition("## Threats")[2].partition("\n## ")[0]
    rows = [row for row in threats.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 10
    assert all("`tests/" in row.split("|")[3] or "](guarantees.md" in row.split("|")[3] for row in rows)
