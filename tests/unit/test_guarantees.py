"""docs/guarantees.md names a test for each promise: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/guarantees.md").read_text())))


@pytest.mark.parametrize("path,function", NAMED)
def test_a_test_that_proves_a_promise_is_there(path: str, function: str) -> None:
    text = (ROOT / path).read_text()
    assert not function or re.search(rf"^def {function}\(", text, re.MULTILINE)


def test_every_promise_has_one() -> None:
    promises = re.split(r"^## ", (ROOT / "docs/guarantees.md").read_text(), flags=re.MULTILINE)[1:]
    numbered = [promise for promise in promises if promise[0].isdigit()]
    assert len(numbered) == 8
    assert all("`tests/" in promise for promise in numbered)
