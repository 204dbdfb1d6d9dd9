"""Servers that misbehave: each ends in one of our errors, in bounded time and memory, and is given nothing.

The clients are those of the service, in a process of their own whose memory is looked at
(tests/support/hostile_client); the servers are in tests/support/hostile_servers. `CDC_HOSTILE_ROUNDS` adds rounds of
random damage (`make hostile`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_servers import MYSQL, POSTGRESQL, mutated_mysql, serve

ROOT = Path(__file__).parents[2]
PASSWORD = "hunter2-é-swordfish"
MYSQL_CLIENTS = ("source", "stream", "mysql")
SECONDS_MAX = 60.0  # two for a log-in, three for silence; what an answer may have takes some on a busy machine
BYTES_MAX = 400 << 20  # ANSWER_BYTES_MAX, and as much again of garbage
ROUNDS = int(os.environ.get("CDC_HOSTILE_ROUNDS", "0"))
DAMAGED = 30 * (1 + ROUNDS)

# What is well behaved as far as that client goes.
SLOW = ("rows without end", "empty rows without end", "results without end")
AFTER_THE_STREAM = ("2^62", "65000", "columns", "rows", "empty", "a row", "a value")
HARMLESS = {("stream", name) for name in MYSQL if name.startswith(AFTER_THE_STREAM)}


class Client:
    """The process that connects."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hostile_client"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def connect(self, client: str, port: int, ssl_mode: str = "preferred", password: str = PASSWORD) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        case = {"client": client, "port": port, "ssl_mode": ssl_mode, "password": password}
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._start()
            pytest.fail(f"the client has died with {code}")
        self.tried[client] += 1
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client()
    yield made
    made.close()
    told = ", ".join(f"{count} by {name}" for name, count in sorted(made.tried.items()))
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\nhostile servers: {sum(made.tried.values())} connections, {told}: all refused or harmless")  # noqa: T201


def _check(told: dict[str, Any], *, is_refused: bool = True) -> None:
    assert told["ours"], told["message"]
    assert told["seconds"] < SECONDS_MAX, told
    assert told["bytes"] < BYTES_MAX, told
    assert PASSWORD not in told["message"] + told["hint"]
    assert "\x1b" not in told["message"]
    if is_refused:
        assert told["class"], "it was taken for a good server"
        assert told["message"]


def _gives_nothing(lines: list[Any]) -> None:
    for line in lines:
        assert PASSWORD.encode() not in line.received
        assert PASSWORD.encode("latin1") not in line.received
        assert b"root:" not in line.received, "the content of a file"


SAID = {
    "asks for the password in the clear": "asks for the password in the clear",
    "asks for the password's old hash": "mysql_old_password, which gives the password away",
    "2^62 columns": "columns: hung up",
    "begins TLS with silence": "has not let us in within 2 s",
}

# Each with one client in the sample, in turn.
CASES = [
    pytest.param(kind, name, marks=() if number % 3 == turn and name not in SLOW else pytest.mark.full)
    for number, name in enumerate(MYSQL)
    for turn, kind in enumerate(MYSQL_CLIENTS)
]


@pytest.mark.parametrize("kind, name", CASES)
def test_a_mysql_server_that_misbehaves_is_refused(client: Client, kind: str, name: str) -> None:
    with serve(MYSQL[name], seed=len(name)) as (port, lines):
        told = client.connect(kind, port)

    _check(told, is_refused=(kind, name) not in HARMLESS)
    assert SAID.get(name, "") in told["message"]
    _gives_nothing(lines)


@pytest.mark.parametrize("name", POSTGRESQL)
def test_a_postgresql_server_that_misbehaves_is_refused(client: Client, name: str) -> None:
    with serve(POSTGRESQL[name], seed=len(name)) as (port, lines):
        told = client.connect("postgresql", port)

    _check(told)
    _gives_nothing(lines)


@pytest.mark.parametrize("ssl_mode", ["required", "verify_ca", "verify_identity"])
@pytest.mark.parametrize("kind", [*MYSQL_CLIENTS, "postgresql"])
def test_a_server_without_tls_is_shown_nothing_where_tls_is_required(client: Client, kind: str, ssl_mode: str) -> None:
    """EDGE_CASES: whoever sits in between takes the capability for TLS out of the greeting."""

    def plain(line: Any) -> None:
        if kind == "postgresql":
            line.let_in_pg()
        else:
            line.let_in()
            line.honest(100)

    with serve(plain) as (port, lines):
        told = client.connect(kind, port, ssl_mode)

    _check(told)
    assert told["class"] == "ConfigError"
    assert all(b"u\0" not in line.received for line in lines), "neither the user nor an answer to the salt"


def test_a_server_whose_bytes_are_damaged_is_taken_or_refused_and_nothing_else(client: Client) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(DAMAGED):
        kind = MYSQL_CLIENTS[seed % len(MYSQL_CLIENTS)]
        with serve(mutated_mysql, seed=seed) as (port, lines):
            told = client.connect(kind, port)
        try:
            _check(told, is_refused=False)
            _gives_nothing(lines)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {kind}: {error}") from error
        outcomes[told["class"] or "taken"] += 1
    assert len(outcomes) > 1, outcomes
