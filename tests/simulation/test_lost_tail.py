"""A source that came back without its last transactions: the sink is ahead of it."""

from __future__ import annotations

import pytest

from cdc.errors import SourceChanged
from tests.simulation.world import run_after_a_lost_tail


@pytest.mark.parametrize("has_gtids", [True, False], ids=["gtid", "file"])
def test_a_source_that_lost_its_tail_is_refused_and_the_sink_left_alone(has_gtids: bool) -> None:
    error, before, after = run_after_a_lost_tail(has_gtids=has_gtids)
    assert isinstance(error, SourceChanged)
    assert before == after
