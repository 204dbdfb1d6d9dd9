"""The token of the HTTP pages: who is told what without it, how it is compared, and how it is rotated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdc.check import _open_pages
from cdc.config import Config, load_config
from cdc.credentials import Password
from cdc.dashboard.page import assets
from cdc.dashboard.server import TOKEN_SECONDS_MAX, http_app
from cdc.dashboard.service import ConnectionHealth, HealthInputs, SinkHealth
from cdc.errors import ConfigError
from cdc.metrics import Metrics

TOKEN = "0123456789abcdef-é"
CLOSED = ("/", "/health", "/api/status", "/metrics", "/nope", "/dashboard/", "/healthz/", "//healthz")
OPEN = ("/healthz", "/readyz", *(asset.path for asset in assets()))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "ANYTHING")


class FakeService:
    """Says who asked it."""

    def __init__(self) -> None:
        self.calls = 0

    def status(self) -> dict[str, Any]:
        self.calls += 1
        return {"name": "shop", "sinks": [], "tables": []}

    def health_inputs(self) -> HealthInputs:
        self.calls += 1
        well = ConnectionHealth("healthy")
        return HealthInputs(started_us=0, source=well, sinks={"s": SinkHealth("streaming", well)})

    def is_ready(self) -> bool:
        return True


class Clock:
    """Stands still until it is told."""

    seconds = 100.0

    def now_us(self) -> int:
        return int(self.seconds * 1e6)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, event: Any, seconds: float) -> bool:
        raise NotImplementedError


class Client:
    """Calls the application without sockets."""

    def __init__(self, runner: asyncio.Runner, token: Password | None) -> None:
        self.service, self.metrics, self.clock = FakeService(), Metrics(), Clock()
        self.troubles: list[str] = []
        app = http_app(self.service, self.metrics, clock=self.clock, token=token, on_token_trouble=self.troubles.append)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://test")
        self._runner = runner

    def request(self, method: str, path: str, *authorizations: str | bytes) -> httpx.Response:
        headers = [
            (b"authorization", value if isinstance(value, bytes) else value.encode()) for value in authorizations
        ]
        return self._runner.run(self._http.request(method, path, headers=headers))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture
def client(runner: asyncio.Runner) -> Client:
    return Client(runner, Password(TOKEN))


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", METHODS)
def test_without_the_token_nothing_is_told_and_nothing_asked(client: Client, method: str, path: str) -> None:
    answer = client.request(method, path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert method == "HEAD" or set(answer.json()) == {"error", "hint"}
    assert client.service.calls == 0
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_the_empty_page_need_none(client: Client, path: str) -> None:
    answer = client.request("GET", path)

    assert answer.status_code == 200
    assert client.service.calls == 0
    assert "shop" not in answer.text


@pytest.mark.parametrize(
    "path", [path for path in (*CLOSED, *OPEN) if path not in ("/nope", "/dashboard/", "/healthz/", "//healthz")]
)
def test_with_the_token_all_is_as_without_one(client: Client, runner: asyncio.Runner, path: str) -> None:
    plain = Client(runner, None)

    answer = client.request("GET", path, f"Bearer {TOKEN}")

    assert answer.status_code == plain.request("GET", path).status_code == 200


@pytest.mark.parametrize("has_token", [True, False])
@pytest.mark.parametrize("path", ["/", "/health", "/api/status", "/metrics", *OPEN])
@pytest.mark.parametrize("method", METHODS[2:])
def test_no_request_changes_anything(runner: asyncio.Runner, has_token: bool, method: str, path: str) -> None:
    """Whoever asks, and with whatever: there is no method but GET and HEAD."""
    client = Client(runner, Password(TOKEN) if has_token else None)

    answer = client.request(method, path, f"Bearer {TOKEN}")

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert client.service.calls == 0


@pytest.mark.parametrize(
    "shown",
    [
        [""],
        ["Bearer"],
        ["Bearer "],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer x{TOKEN}"],
        [f"Bearer {TOKEN.upper()}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        [b"Bearer " + TOKEN.encode("latin1")],
        [b"Bearer \xff\xfe"],
    ],
)
def test_only_the_token_itself_is_the_token(client: Client, shown: list[str | bytes]) -> None:
    assert client.request("GET", "/api/status", *shown).status_code == 401
    assert client.service.calls == 0


def test_the_scheme_is_written_as_one_likes(client: Client) -> None:
    assert client.request("GET", "/api/status", f"bearer  {TOKEN} ").status_code == 200


def test_a_rotated_token_counts_within_seconds_and_the_old_one_no_longer(runner: asyncio.Runner) -> None:
    file = ["old-old-old-old-"]
    client = Client(runner, Password(file[0], lambda: file[0]))
    assert client.request("GET", "/health", "Bearer old-old-old-old-").status_code == 200
    file[0] = "new-new-new-new-"
    client.clock.seconds += TOKEN_SECONDS_MAX

    assert client.request("GET", "/health", "Bearer old-old-old-old-").status_code == 401
    assert client.request("GET", "/health", "Bearer new-new-new-new-").status_code == 200


def test_a_file_that_cannot_be_read_keeps_the_token_and_is_said_once(runner: asyncio.Runner) -> None:
    trouble: list[Exception] = []

    def read() -> str:
        if trouble:
            raise trouble[0]
        return TOKEN

    client = Client(runner, Password(TOKEN, read))
    for now in ("", "gone", "gone", "", ""):
        trouble[:] = [FileNotFoundError(now)] if now else []
        client.clock.seconds += TOKEN_SECONDS_MAX
        assert client.request("GET", "/health", f"Bearer {TOKEN}").status_code == 200

    assert client.troubles == ["gone", ""]


def test_a_flood_of_wrong_tokens_does_not_read_the_file_each_time(runner: asyncio.Runner) -> None:
    reads: list[str] = []

    def read() -> str:
        reads.append("once more")
        return TOKEN

    client = Client(runner, Password(TOKEN, read))
    for _ in range(50):
        client.request("GET", "/health", "Bearer wrong")
    assert len(reads) <= 1


def test_refusals_are_counted(client: Client) -> None:
    client.request("GET", "/health")

    lines = client.metrics.render()[0].decode().splitlines()
    assert any('"/health"' in line and '"401"' in line and line.endswith(" 1.0") for line in lines)


# ---------------------------------------------------------------- out of the configuration


def _load(**settings: str) -> Config:
    environ = {
        "CDC__NAME": "shop",
        "CDC__SOURCE__URL": "mysql://repl@db1",
        "CDC__SOURCE__SERVER_ID": "1",
        "CDC__SINKS__0__NAME": "s",
        "CDC__SINKS__0__URL": "postgresql://u@h/d",
        "CDC__TABLES__INCLUDE": '["shop.*"]',
    }
    return load_config(None, environ={**environ, **settings})


@pytest.mark.parametrize("token", ["hunter2", "hunter2 hunter2 hunter2", "hunter2hunter2hunter2\x07"])
def test_a_token_that_is_none_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.token|CDC__HTTP__TOKEN") as caught:
        _load(CDC__HTTP__TOKEN=token)
    assert "hunter2" not in str(caught.value)


def test_a_token_of_a_file_is_read_again_and_one_that_is_none_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old-old-old-old-\n")
    config = _load(CDC__HTTP__TOKEN_FILE=str(file))
    token = config.http.current_token
    assert token is not None
    assert token.reveal() == "old-old-old-old-"

    file.write_text("short\n")
    assert not token.renew()
    assert token.reveal() == "old-old-old-old-", "an empty file must not open the pages"
    file.write_text("new-new-new-new-\n")
    assert token.renew()
    assert token.reveal() == "new-new-new-new-"


@pytest.mark.parametrize(
    "settings, is_told",
    [
        ({}, False),
        ({"CDC__HTTP__HOST": "localhost"}, False),
        ({"CDC__HTTP__HOST": "::1"}, False),
        ({"CDC__HTTP__HOST": "0.0.0.0"}, True),
        ({"CDC__HTTP__HOST": "::"}, True),
        ({"CDC__HTTP__HOST": "cdc.example"}, True),
        ({"CDC__HTTP__HOST": "::", "CDC__HTTP__TOKEN": TOKEN}, False),
        ({"CDC__HTTP__HOST": "::", "CDC__HTTP__ENABLED": "false"}, False),
    ],
)
def test_check_warns_of_an_open_address_without_a_token(settings: dict[str, str], is_told: bool) -> None:
    findings = list(_open_pages(_load(**settings)))

    told = [("http.open", "warning")] if is_told else []
    assert [(finding.check, finding.severity) for finding in findings] == told
