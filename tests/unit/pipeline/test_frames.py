"""Events that are kept in files: whose they are, who may read them, and how many there are."""

from __future__ import annotations

import stat
from pathlib import Path

from cdc.pipeline.frames import FRAMES_MAX, keep_frame


def test_only_we_can_read_an_event_and_its_directory(tmp_path: Path) -> None:
    path = keep_frame(tmp_path / "var", "shop/sink", b"rows", 17)
    assert (path.name, path.read_bytes()) == ("frame-shop-sink-17.bin", b"rows")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_latest_of_a_pipeline_are_kept_and_those_of_others(tmp_path: Path) -> None:
    other, lane = keep_frame(tmp_path, "shop/other", b"o", 1), keep_frame(tmp_path, "shop/sink#2", b"l", 2)
    for now_us in range(8, 8 + FRAMES_MAX + 3):
        keep_frame(tmp_path, "shop/sink", b"s", now_us)
    kept = {path.name for path in tmp_path.iterdir()} - {other.name, lane.name}
    assert kept == {f"frame-shop-sink-{now_us}.bin" for now_us in range(11, 11 + FRAMES_MAX)}
    earlier = keep_frame(tmp_path, "shop/sink", b"s", 5)  # the clock was set back
    assert earlier.exists()
    assert sum(path.name.startswith("frame-shop-sink-") for path in tmp_path.iterdir()) == FRAMES_MAX
    assert other.exists()
    assert lane.exists()
