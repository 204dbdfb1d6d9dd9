"""`python -m tests.fuzz [--seconds 60] [--seed N] [TARGET...]`: damage for as long as is asked for.

Each target runs in a process of its own. What it works on lies in memory that we share, so an input that ends it (a
segmentation fault, a sanitizer's report, an error that is none of the declared ones, 20 seconds without an end, memory
out of proportion) is kept as tests/fuzz/crashers/TARGET-HASH, which tests/fuzz/test_fuzz.py replays for ever. The
kernel can be a sanitized one: `tools/sanitize --python -m tests.fuzz`.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import hashlib
import json
import mmap
import os
import random
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target

CRASHERS = Path(__file__).parent / "crashers"
_SLOT_BYTES = 8 << 20
_HANG_SECONDS = 20.0
# What one input may make the process grow by: the corpus's events are kilobytes, and compressed ones inflate to a
# thousand times their size at most.
_GROWTH_KIB_MAX = 96 << 10
_FINDINGS_MAX = 3
_FINDING = 3


class _Slot:
    """Memory shared with the worker: `runs[8] size[8] words size[8]`, the input at hand, then the words as JSON."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * _SLOT_BYTES)

    def begin(self, raw: bytes) -> None:
        self._memory[8:16] = len(raw).to_bytes(8, "little")
        self._memory[64 : 64 + len(raw)] = raw

    def count(self, runs: int) -> None:
        self._memory[:8] = runs.to_bytes(8, "little")

    def tell(self, words: dict[str, int]) -> None:
        text = json.dumps(words).encode()
        self._memory[16:24] = len(text).to_bytes(8, "little")
        self._memory[_SLOT_BYTES : _SLOT_BYTES + len(text)] = text

    @property
    def runs(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @property
    def input(self) -> bytes:
        size = int.from_bytes(self._memory[8:16], "little")
        return self._memory[64 : 64 + size]

    @property
    def words(self) -> dict[str, int]:
        size = int.from_bytes(self._memory[16:24], "little")
        found: dict[str, int] = json.loads(self._memory[_SLOT_BYTES : _SLOT_BYTES + size] or b"{}")
        return found


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _work(target: Target, seed: int, seconds: float, slot: _Slot) -> int:
    """In the worker: run until the time is over or something is wrong."""
    rng = random.Random(seed)
    words: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    runs = 0
    try:
        peak = _peak_kib()
        while time.monotonic() < end:
            raw = target.input(rng)
            if len(raw) > _SLOT_BYTES // 2:
                continue
            slot.begin(raw)
            words[target.run(raw)] += 1
            runs += 1
            slot.count(runs)
            grown, peak = _peak_kib() - peak, _peak_kib()
            assert runs < 50 or grown < _GROWTH_KIB_MAX, f"{len(raw)} bytes made the process grow by {grown} KiB"
    except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
        traceback.print_exc()
        return _FINDING
    finally:
        slot.tell(words)
    return 0


@dataclass
class _Result:
    runs: int = 0
    seconds: float = 0.0
    words: collections.Counter[str] = field(default_factory=collections.Counter)
    kept: list[Path] = field(default_factory=list)


def _one_worker(target: Target, seed: int, seconds: float, result: _Result) -> None:
    """Start one, wait for it, keep what ended it."""
    slot = _Slot()
    sys.stdout.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _work(target, seed, seconds, slot)
        finally:
            sys.stderr.flush()
            os._exit(code)
    seen, since = -1, time.monotonic()
    status = 0
    reason = ""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if slot.runs != seen:
            seen, since = slot.runs, time.monotonic()
        elif time.monotonic() - since > _HANG_SECONDS:
            reason = f"no end after {_HANG_SECONDS:.0f} s"
            os.kill(child, signal.SIGABRT)
            os.waitpid(child, 0)
            break
        time.sleep(0.05)
    result.runs += slot.runs
    result.seconds += time.monotonic() - began
    result.words.update(slot.words)
    code = os.waitstatus_to_exitcode(status)
    if not reason and code == 0:
        return
    reason = reason or (signal.Signals(-code).name if code < 0 else f"exit code {code}")
    path = CRASHERS / f"{target.name}-{hashlib.sha256(slot.input).hexdigest()[:10]}"
    CRASHERS.mkdir(exist_ok=True)
    path.write_bytes(slot.input)
    result.kept.append(path)
    _say(f"{target.name}: {reason} in run {slot.runs} of seed {seed}; kept as {path.relative_to(Path.cwd())}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fuzz(target: Target, seed: int, seconds: float) -> _Result:
    """All of one target's time, with a new worker after each finding."""
    target.seeds()  # once, before the workers
    result = _Result()
    end = time.monotonic() + seconds
    while len(result.kept) < _FINDINGS_MAX and (left := end - time.monotonic()) > 0:
        _one_worker(target, seed, left, result)
        seed += 1
    words = ", ".join(f"{word} {count}" for word, count in result.words.most_common(8))
    _say(f"{target.name}: {result.runs} runs in {result.seconds:.0f} s, {len(result.kept)} findings ({words})")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damage real events; see the module.")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=" ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="in all, shared by the targets")
    parser.add_argument("--seed", type=int, help="to see the same damage again")
    arguments = parser.parse_args()
    if not any("san" in Path(name).name for name in os.environ.get("LD_PRELOAD", "").split(":") if name):
        faulthandler.enable()
    seed = int.from_bytes(os.urandom(4), "little") if arguments.seed is None else arguments.seed
    names = arguments.targets or list(TARGETS)
    _say(f"seed {seed}, {arguments.seconds:.0f} s for {len(names)} targets")
    results = [_fuzz(TARGETS[name], seed, arguments.seconds / len(names)) for name in names]
    kept = [path for result in results for path in result.kept]
    _say(f"{sum(result.runs for result in results)} runs, {len(kept)} findings")
    return 1 if kept else 0


if __name__ == "__main__":
    sys.exit(main())
