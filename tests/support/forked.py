"""`python -m cdc ...` as a process of its own that need not import anything: forked from one that has.

Importing the service costs most of a second of CPU, and the suite starts it a thousand times. A process of this module
imports it once and forks for every command: the copy has its own pid, working directory, environment, standard streams
and signals, and can be killed like any other. Only the start of the interpreter is missing: for a test of that,
of memory, or of what is imported when, start the program itself (`Deployment.is_forked = False`).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

__all__ = ["Forked", "fork"]

_IMPORTED = (
    "cdc.app",
    "cdc.check",
    "cdc.cli",
    "cdc.commands.checkpoint",
    "cdc.commands.snapshot",
    "cdc.commands.status_text",
    "cdc.verify",
    "psycopg2",
    "pymysql",
)
_REQUEST_BYTES_MAX = 1 << 20
_ROOT = Path(__file__).parents[2]


class Forked:
    """As much of `subprocess.Popen` as is needed of a process that somebody else forked."""

    def __init__(self, arguments: Sequence[str], pid: int, channel: socket.socket) -> None:
        self.args = list(arguments)
        self.pid = pid
        self.returncode: int | None = None
        self._channel = channel

    def poll(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Does nothing to a process that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._channel], [], [], timeout)[0]:
            said = self._channel.recv(64)
            self._channel.close()
            if not said:
                raise RuntimeError(f"the process that forked {self.args} is gone")
            self.returncode = int(said)
        return self.returncode


def fork(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
) -> Forked:
    """Run `python -m cdc` with `arguments`, its input empty, as a process of its own."""
    return _fork_server().fork(arguments, cwd=cwd, env=env, stdout=stdout, stderr=stderr)


class _ForkServer:
    """Our end: a request and two files go to it, the pid and then the exit code come back on a channel of its own."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forked", str(theirs.fileno())],
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> Forked:
        request = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}).encode()
        assert len(request) < _REQUEST_BYTES_MAX
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            files = array.array("i", [theirs.fileno(), stdout.fileno(), stderr.fileno()])
            self._requests.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        pid = channel.recv(64)
        if not pid:
            raise RuntimeError(f"the process that forks is gone (exit {self._process.poll()})")
        return Forked(arguments, int(pid), channel)

    def close(self) -> None:
        """End it, and whatever it has forked that still runs."""
        self._requests.close()
        self._process.wait(60)


@functools.cache
def _fork_server() -> _ForkServer:
    server = _ForkServer()
    atexit.register(server.close)
    return server


# ---------------------------------------------------------------- the process that forks


def _serve(requests: socket.socket) -> None:
    """Fork for every request, and tell of every end, until nobody asks any more. One thread, and nothing started."""
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    running: dict[int, socket.socket] = {}

    def forget() -> None:
        """In the copy: all that is the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
        selector.close()
        for descriptor in (wake_read, wake_write):
            os.close(descriptor)
        requests.close()
        for channel in running.values():
            channel.close()

    while True:
        ready = [key.fd for key, _ in selector.select()]
        if wake_read in ready:
            os.read(wake_read, 4096)
            _tell_ends(running)
        if requests.fileno() in ready and not _answer(requests, running, forget):
            break
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _tell_ends(running: dict[int, socket.socket]) -> None:
    for pid, channel in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del running[pid]
            _say(channel, os.waitstatus_to_exitcode(status))
            channel.close()


def _say(channel: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody wants to know
        channel.send(b"%d" % number)


def _answer(requests: socket.socket, running: dict[int, socket.socket], forget: Callable[[], None]) -> bool:
    """Fork for one request; False when there are no more."""
    message, files, _, _ = socket.recv_fds(requests, _REQUEST_BYTES_MAX, 3)
    if not message:
        return False
    channel_file, stdout, stderr = files
    with socket.socket(fileno=channel_file) as channel:
        pid = os.fork()
        if pid == 0:
            channel.close()
            forget()
            _become(json.loads(message), stdout, stderr)
        _say(channel, pid)
        running[pid] = channel.dup()
    os.close(stdout)
    os.close(stderr)
    return True


def _become(request: dict[str, Any], stdout: int, stderr: int) -> NoReturn:
    """Be the program; what it raises ends the interpreter of the copy, as it would end the program's own."""
    for descriptor, number in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    import cdc.__main__ as program
    from cdc.cli import main

    sys.modules["__main__"] = program  # usage errors name it
    sys.argv[:] = [str(program.__file__), *request["arguments"]]
    main()
    sys.exit(0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _serve(asked)
