"""When a session looks at its targets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cdc.pipeline.runner import _Session


@pytest.mark.parametrize(
    "is_due,is_side,is_inside,waits",
    [
        (True, False, False, False),
        (False, False, False, True),
        pytest.param(True, True, False, True, id="a side takes an item that does not come for its stream's end"),
        pytest.param(True, False, True, True, id="nothing is looked at inside a transaction"),
    ],
)
def test_no_item_is_waited_for_while_targets_are_to_be_looked_at(
    is_due: bool, is_side: bool, is_inside: bool, waits: bool
) -> None:
    """One is looked at between two items: waiting for each, a hundred would take twenty seconds."""
    session: Any = object.__new__(_Session)
    session._p = SimpleNamespace(_side=object() if is_side else None)
    session._upkeep = SimpleNamespace(is_due=is_due)
    applier: Any = SimpleNamespace(is_inside_transaction=is_inside)
    assert (session._wait_seconds(applier) > 0) is waits
