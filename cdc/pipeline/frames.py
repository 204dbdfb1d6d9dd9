"""Events that were not understood, kept as files for whoever looks into it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["FRAMES_MAX", "keep_frame"]

FRAMES_MAX = 20
"""So many of a pipeline are kept: who is started over and over meets the same event each time."""


def keep_frame(directory: Path, pipeline: str, frame: bytes, now_us: int) -> Path:
    """Write the event into a file that only we can read, and remove the oldest above `FRAMES_MAX`; its path.

    Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    begin = f"frame-{pipeline.replace('/', '-')}-"
    path = directory / f"{begin}{now_us}.bin"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(frame)
    except OSError:
        path.unlink(missing_ok=True)  # a full disk: a part of it is of no use
        raise
    times = {one: one.name.removeprefix(begin).removesuffix(".bin") for one in directory.glob("frame-*.bin")}
    others = sorted((int(time), one) for one, time in times.items() if time.isdecimal() and one != path)
    with contextlib.suppress(OSError):  # this one is kept all the same
        for _, one in others[: 1 - FRAMES_MAX]:
            one.unlink(missing_ok=True)
    return path
