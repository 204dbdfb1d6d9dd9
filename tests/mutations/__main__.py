"""`python -m tests.mutations [NAME...]`: take out each mechanism in a copy of this tree, and see the named test
fail.

A patch begins with what it takes out and the test that notices (`Takes out:`, `Test:`). The test has to pass in a
copy that is as it should be, and to fail in one where the patch has been applied. Prints a line for each; the exit
code is 1 where a test fails without the patch, or passes with it: that promise is not proven any more.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PATCHES", "ROOT", "Mutation", "applies", "mutations"]

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).parent
_SECONDS_MAX = 1200
_TESTS_FAILED = 1  # pytest's exit code; any other is no answer


@dataclass(frozen=True, slots=True)
class Mutation:
    """One patch: `takes_out` in a sentence, `tests` as pytest names them."""

    path: Path
    takes_out: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem


def mutations() -> list[Mutation]:
    """All of them, by name."""
    found = []
    for path in sorted(PATCHES.glob("*.patch")):
        head = path.read_text().partition("\n--- ")[0]
        said = dict(re.findall(r"^(Takes out|Test): (.+)$", head, re.MULTILINE))
        found.append(Mutation(path, said["Takes out"], tuple(said["Test"].split())))
    return found


def applies(mutation: Mutation, tree: Path, *, only_look: bool) -> str:
    """Apply the patch to a tree, or see whether it would; what git says against it, '' when it does."""
    command = ["git", "apply", "-C1", "--directory", "", *(["--check"] if only_look else []), str(mutation.path)]
    command = [word for word in command if word not in ("--directory", "")]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", help="of patches; all where none is named")
    names = parser.parse_args().names
    chosen = [one for one in mutations() if not names or one.name in names]
    exit_code = 0
    for one in chosen:
        _say(f"{one.name}: {one.takes_out}")
        began = time.monotonic()
        problem = _prove(one)
        exit_code |= bool(problem)
        _say(f"  {problem or 'proven: ' + ' '.join(one.tests)} ({time.monotonic() - began:.0f} s)")
    return exit_code


def _prove(one: Mutation) -> str:
    """What is wrong; '' where the test fails because of the patch, and of nothing else."""
    with tempfile.TemporaryDirectory(prefix="cdc-mutation-") as directory:
        tree = Path(directory)
        _copy_tree(tree)
        code, said = _run_tests(one, tree)
        if code:
            return f"NOT PROVEN: the test does not pass as it is (pytest {code}):\n{said}"
        if refusal := applies(one, tree, only_look=False):
            return f"NOT PROVEN: the patch does not fit any more: {refusal}"
        code, said = _run_tests(one, tree)
        if code != _TESTS_FAILED:
            return f"NOT PROVEN: with the patch the test does not fail (pytest {code}):\n{said}"
    return ""


def _copy_tree(target: Path) -> None:
    """What git knows and what is new, as it is now, and the compiled modules."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    names = {name for name in listed.split("\0") if name}
    names |= {str(path.relative_to(ROOT)) for path in (ROOT / "cdc").rglob("*.so")}
    for name in sorted(names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _run_tests(one: Mutation, tree: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *one.tests]
    # The service that a test starts is to be the copy's, too.
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return -1, f"not at an end after {_SECONDS_MAX} s"
    return done.returncode, done.stdout[-3000:]


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    sys.exit(main())
