"""A command forked from a process that has imported the service is the command: pid, place, environment, end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.forked import Forked, fork
from tests.support.waiting import wait_until

ASKER = """
import os, sys, time
from pathlib import Path
from tests.support.forked import fork
with open(os.devnull, "wb") as null:
    process = fork(
        ["config", "show", "-c", sys.argv[1]], cwd=Path(sys.argv[2]), env=os.environ, stdout=null, stderr=null
    )
print(process.pid, flush=True)
time.sleep(600)
"""


def forked(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    with (directory / "out").open("w+b") as out, (directory / "err").open("w+b") as err:
        env = dict(os.environ if environment is None else environment)
        code = fork(arguments, cwd=directory, env=env, stdout=out, stderr=err).wait(60)
    return subprocess.CompletedProcess(
        arguments, code, (directory / "out").read_bytes(), (directory / "err").read_bytes()
    )


@contextmanager
def waiting(directory: Path) -> Iterator[Forked]:
    """A command that waits for the other end of its configuration, a pipe that nobody writes."""
    os.mkfifo(directory / "config.yaml")
    with (directory / "log").open("wb") as log:
        process = fork(["config", "show"], cwd=directory, env=os.environ, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("stat",), ("config", "show"), ("config", "show", "-c", "x.yaml"), ("config", "schema")],
)
def test_it_says_and_ends_as_the_program_does(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: x\nsource: {url: 'mysql://h/'}\nsinks: [{name: a, url: 'mysql://${HOST}/'}]"
    )
    environment = {**os.environ, "HOST": "elsewhere"}
    program = subprocess.run(
        [sys.executable, "-m", "cdc", *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    copy = forked(tmp_path, *arguments, environment=environment)
    assert (copy.returncode, copy.stdout, copy.stderr) == (program.returncode, program.stdout, program.stderr)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_it_and_is_its_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    with waiting(tmp_path) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(60) == -number
        assert process.poll() == -number
        process.kill()  # nobody else's process, by now


def test_many_run_at_a_time(tmp_path: Path) -> None:
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    with waiting(places[0]) as first, waiting(places[1]) as second, waiting(places[2]) as third:
        assert len({first.pid, second.pid, third.pid, os.getpid()}) == 4
        second.kill()
        assert second.wait(60) == -signal.SIGKILL
        assert (first.poll(), third.poll()) == (None, None)


def test_it_ends_with_the_one_who_asked_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER, str(tmp_path / "config.yaml"), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asker.stdout is not None
    with asker, asker.stdout:
        pid = int(asker.stdout.readline())
        os.kill(pid, 0)
        asker.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60, "the end of what it had started")
