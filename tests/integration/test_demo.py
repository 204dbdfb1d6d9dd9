"""`cdc demo` from the first line to the last: it proves what it says, and leaves nothing behind however it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.demo import demo
from cdc.demo.servers import Server, ServerKind, ServerUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture
def process(tmp_path: Path, source_and_sinks: None) -> Iterator[subprocess.Popen[str]]:
    """The demonstration as `make demo` starts it, in a process group of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "cdc", "demo", "--seconds", "15"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # where the tests run in the background of a shell, interrupts are ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as started:
        yield started
        started.kill()


@pytest.fixture
def source_and_sinks(mariadb1011: Server, pg15: Server) -> None:
    """Skips where the machine has none: the demonstration starts its own."""


def _open_ports(output: str) -> list[str]:
    """Those of the ports that the output names on which something still listens."""
    found = []
    for port in set(re.findall(r"127\.0\.0\.1:(\d+)", output)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                found.append(port)
    return found


def test_it_is_killed_in_the_middle_and_ends_equal(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240)
    lines = output.splitlines()
    assert process.returncode == 0, output
    assert lines[-1] == "all 7 tables equal on 2 sinks", output
    rows = [line.split() for line in lines if line.startswith("shop.")]
    assert len(rows) == 14
    assert all(row[2] == row[3] and row[4] == row[5] and row[-1] == "equal" for row in rows)
    assert "* kill -9" in output
    assert "* CREATE TABLE shop.reviews" in output
    assert "service ended with exit code 0" in output
    assert re.search(r"\d+ looks at the sinks", output)
    assert not _open_ports(output)


def test_an_interrupt_ends_it_and_everything_it_started(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if "transactions" in line:  # the service is started, the writer writes
            break
    process.send_signal(signal.SIGINT)
    output += process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "stopping; servers and data are removed"
    assert not _open_ports(output)


def test_without_servers_it_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(kind: ServerKind) -> Path | None:
        raise ServerUnavailable(f"{kind.label} cannot be had: no network")

    monkeypatch.setattr(ServerKind, "home", refuse)
    assert demo.run_demo(seconds=15, keep=False) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 2
    assert "MariaDB 11.8 cannot be had: no network" in said.err
    assert "hint: `make setup`" in said.err


def test_a_service_that_fails_is_shown_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source_and_sinks: None
) -> None:
    command = demo._Service._command
    broken = [sys.executable, "-c", "import sys; sys.exit('cdc: it broke')"]
    monkeypatch.setattr(demo._Service, "_command", lambda self, *a: broken if a == ("run",) else command(self, *a))
    assert demo.run_demo(seconds=15, keep=False) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "cdc demo: the service ended with exit code 1"
    assert said.err.splitlines()[-1] == "cdc: it broke"
    assert not _open_ports(said.out)
