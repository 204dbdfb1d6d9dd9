"""What the configuration's flush section makes of runs and of parts of large transactions."""

from __future__ import annotations

import pytest

from cdc.app import run_limits
from cdc.config import FlushSettings
from cdc.source.assembler import RunLimits


@pytest.mark.parametrize("rows_max, part_rows_max", [(60, RunLimits().part_rows_max), (1_000_000, 1_000_000)])
def test_a_part_is_no_smaller_because_runs_are(rows_max: int, part_rows_max: int) -> None:
    """Each part is a merge at the sink: many small ones would only take longer."""
    limits = run_limits(FlushSettings(rows_max=rows_max))
    assert (limits.rows_max, limits.part_rows_max) == (rows_max, part_rows_max)


def test_bytes_limit_runs_and_parts() -> None:
    assert run_limits(FlushSettings(bytes_max=1 << 20)).bytes_max == 1 << 20
