"""The HTTP server over real sockets: every route, bad requests, slow clients, hanging services, taken ports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import pytest

from cdc.dashboard import server as server_module
from cdc.dashboard.server import HttpServer, http_app
from cdc.dashboard.service import ConnectionHealth, HealthInputs, SinkHealth
from cdc.errors import ConfigError, SinkUnavailable
from cdc.metrics import Metrics
from tests.support.waiting import wait_until

JSON_PATHS = ("/", "/health", "/api/status")
TEXT_PATHS = ("/healthz", "/readyz", "/metrics")
PAGE_PATHS = ("/dashboard", "/dashboard/page.js", "/dashboard/page.css", "/dashboard/icon.svg")
STOP_SECONDS_MAX = 2.0
LARGE_ANSWER_BYTES = 20_000_000  # more than the sockets of both ends hold


class FakeService:
    """What a test wants the service to say."""

    def __init__(self) -> None:
        self.state = "streaming"
        self.error: Exception | None = None
        self.document: dict[str, Any] = {"name": "shop", "sinks": [], "tables": []}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.calls = 0

    def _answer(self) -> None:
        self.calls += 1
        self.may_answer.wait()
        if self.error is not None:
            raise self.error

    def status(self) -> dict[str, Any]:
        self._answer()
        return self.document

    def health_inputs(self) -> HealthInputs:
        self._answer()
        connection = ConnectionHealth("healthy", pool_size=3, checked_out=1)
        return HealthInputs(started_us=0, source=connection, sinks={"warehouse": SinkHealth(self.state, connection)})

    def is_ready(self) -> bool:
        self._answer()
        return self.state in ("streaming", "caught_up")


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.may_answer.set()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def start(service: FakeService, metrics: Metrics) -> Iterator[Callable[..., HttpServer]]:
    """`start(host=…, port=…)`: a running server, stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda host="127.0.0.1", port=0: stack.enter_context(HttpServer(service, metrics, host=host, port=port))


class Client:
    """Calls the application without sockets, always in the same event loop."""

    def __init__(self, service: FakeService, metrics: Metrics, runner: asyncio.Runner) -> None:
        app = http_app(service, metrics, answer_seconds_max=0.1)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://test")
        self._runner = runner

    def request(self, method: str, path: str) -> httpx.Response:
        return self._runner.run(self._http.request(method, path))

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)


@pytest.fixture
def client(service: FakeService, metrics: Metrics) -> Iterator[Client]:
    """The application alone; a service that hangs is given up after 0.1 s."""
    with asyncio.Runner() as runner:
        yield Client(service, metrics, runner)


# ---------------------------------------------------------------- routes


@pytest.mark.parametrize("path", [*JSON_PATHS, *TEXT_PATHS, *PAGE_PATHS])
def test_every_route_answers_get_and_head(start: Callable[..., HttpServer], path: str) -> None:
    url = start().url + path

    got, head = httpx.get(url), httpx.head(url)

    assert (got.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path not in ("/", "/health", "/metrics"):  # whose figures change
        assert head.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize("path", JSON_PATHS)
def test_json_routes_are_json(client: Client, path: str) -> None:
    answer = client.get(path)

    assert answer.headers["content-type"] == "application/json"
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize(
    "state,code,word", [("caught_up", 200, "healthy"), ("paused", 200, "degraded"), ("failed", 503, "unhealthy")]
)
@pytest.mark.parametrize("path", ["/", "/health"])
def test_health_is_503_when_unhealthy(
    client: Client, service: FakeService, path: str, state: str, code: int, word: str
) -> None:
    service.state = state

    answer = client.get(path)

    assert (answer.status_code, answer.json()["status"]) == (code, word)


@pytest.mark.parametrize("state,code", [("streaming", 200), ("snapshotting", 503)])
def test_readyz_follows_the_service(client: Client, service: FakeService, state: str, code: int) -> None:
    service.state = state

    assert client.get("/readyz").status_code == code


def test_healthz_does_not_ask_the_service(client: Client, service: FakeService) -> None:
    assert client.get("/healthz").text == "ok\n"
    assert service.calls == 0


def test_status_is_what_the_service_says(client: Client, service: FakeService) -> None:
    service.document = {"name": "shop", "tables": [{"table": "shop.</script><script>"}]}

    assert client.get("/api/status").json() == service.document


# ---------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    "path", ["/nope", "/health/", "/dashboard/", "/dashboard/../../etc/passwd", "/api", "//health"]
)
def test_an_unknown_path_is_404_as_json(start: Callable[..., HttpServer], path: str) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # httpx would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"application/json" in head
    assert b"location:" not in head
    assert b'"error": "Not Found"' in body


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/health", "/api/status", "/dashboard"])
def test_other_methods_are_refused(client: Client, service: FakeService, method: str, path: str) -> None:
    answer = client.request(method, path)

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert service.calls == 0


@pytest.mark.parametrize("path", ["/health", "/nope", "/dashboard", "/api/status"])
def test_every_answer_carries_the_security_headers(client: Client, service: FakeService, path: str) -> None:
    service.error = RuntimeError("boom")

    headers = client.get(path).headers

    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "request_bytes", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9\r\n\r\n", b"x" * 70_000]
)
def test_garbage_is_refused_and_the_server_goes_on(start: Callable[..., HttpServer], request_bytes: bytes) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request_bytes + b"\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")

    assert httpx.get(f"{server.url}/healthz").status_code == 200


# ---------------------------------------------------------------- a service in trouble


@pytest.mark.parametrize("path", ["/health", "/api/status", "/readyz"])
def test_an_error_of_the_service_is_503_with_its_hint(client: Client, service: FakeService, path: str) -> None:
    service.error = SinkUnavailable("mysql://cdc:hunter2@db2 is away", hint="look at it")

    answer = client.get(path)

    assert answer.status_code == 503
    assert answer.json() == {"error": "mysql://cdc:***@db2 is away", "hint": "look at it"}


def test_a_bug_is_500_and_its_text_stays_inside(client: Client, service: FakeService) -> None:
    service.error = RuntimeError("mysql://repl:hunter2@db1")

    answer = client.get("/api/status")

    assert answer.status_code == 500
    assert "RuntimeError" in answer.json()["error"]
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/api/status", "/readyz"])
def test_a_service_that_hangs_is_503_and_alive(client: Client, service: FakeService, path: str) -> None:
    service.may_answer.clear()

    answer = client.get(path)

    assert answer.status_code == 503
    assert "did not answer" in answer.json()["error"]
    assert client.get("/healthz").status_code == 200
    assert client.get("/metrics").status_code == 200


def test_whoever_asks_meanwhile_shares_one_answer(client: Client, service: FakeService) -> None:
    """However many ask, a service that hangs costs one thread."""
    service.may_answer.clear()

    for _ in range(5):
        assert client.get("/api/status").status_code == 503

    assert service.calls == 1


def test_the_service_is_asked_again_after_an_error(client: Client, service: FakeService) -> None:
    service.error = SinkUnavailable("away")
    assert client.get("/api/status").status_code == 503

    service.error = None

    assert client.get("/api/status").status_code == 200


# ---------------------------------------------------------------- counting


def test_requests_are_counted_by_known_path_and_code(client: Client) -> None:
    for path in ("/healthz", "/healthz", "/nope", "/another"):
        client.get(path)

    text = client.get("/metrics").text

    assert 'cdc_http_requests_total{code="200",path="/healthz"} 2.0' in text
    assert 'cdc_http_requests_total{code="404",path="other"} 2.0' in text
    assert "nope" not in text


# ---------------------------------------------------------------- start and stop


def test_port_0_takes_a_free_port_and_says_which(start: Callable[..., HttpServer]) -> None:
    one, two = start(), start()

    assert one.port != two.port
    assert httpx.get(f"{two.url}/healthz").status_code == 200


def test_a_taken_port_is_a_config_error_with_a_hint(start: Callable[..., HttpServer]) -> None:
    port = start().port

    with pytest.raises(ConfigError, match=rf"another process listens on 127\.0\.0\.1:{port} already") as caught:
        start(port=port)

    assert "http.port" in caught.value.hint


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "x" * 300])
def test_an_address_of_another_machine_is_a_config_error(start: Callable[..., HttpServer], host: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.host") as caught:
        start(host=host)

    assert "0.0.0.0" in caught.value.hint


def test_a_name_with_several_addresses_is_one_port_on_each(start: Callable[..., HttpServer]) -> None:
    server = start(host="localhost")

    assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_network_includes_this_machine(start: Callable[..., HttpServer], host: str) -> None:
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    server = start(host=host)

    assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_after_stop_the_port_is_free_again(service: FakeService, metrics: Metrics) -> None:
    first = HttpServer(service, metrics, host="127.0.0.1", port=0)
    first.start()
    port = first.port
    httpx.get(f"{first.url}/healthz")

    first.stop()

    with HttpServer(service, metrics, host="127.0.0.1", port=port) as second:
        assert httpx.get(f"{second.url}/healthz").status_code == 200


def test_stop_without_start_and_twice_is_harmless(service: FakeService, metrics: Metrics) -> None:
    server = HttpServer(service, metrics, host="127.0.0.1", port=0)
    server.stop()
    server.start()
    server.stop()
    server.stop()


def half_a_request(server: HttpServer, service: FakeService) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    return connection


def idle_after_a_request(server: HttpServer, service: FakeService) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(1000)
    return connection


def does_not_read_its_answer(server: HttpServer, service: FakeService) -> socket.socket:
    service.document = {"name": "x" * LARGE_ANSWER_BYTES}
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(b"GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(100)
    return connection


def waits_for_a_hanging_service(server: HttpServer, service: FakeService) -> socket.socket:
    service.may_answer.clear()
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


SLOW_CLIENTS = [half_a_request, idle_after_a_request, does_not_read_its_answer, waits_for_a_hanging_service]


@pytest.mark.parametrize("slow_client", SLOW_CLIENTS)
def test_a_slow_client_holds_up_neither_others_nor_the_end(
    start: Callable[..., HttpServer],
    service: FakeService,
    slow_client: Callable[[HttpServer, FakeService], socket.socket],
) -> None:
    server = start()
    with slow_client(server, service) as connection:
        assert httpx.get(f"{server.url}/healthz").status_code == 200

        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < STOP_SECONDS_MAX

        connection.settimeout(5)
        everything_from(connection)  # ends
    assert "cdc-http" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("slow_client", [half_a_request, does_not_read_its_answer])
def test_a_client_that_is_stuck_is_dropped(
    start: Callable[..., HttpServer],
    service: FakeService,
    slow_client: Callable[[HttpServer, FakeService], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "EXCHANGE_SECONDS_MAX", 0.3)
    server = start()
    with slow_client(server, service) as connection:
        wait_until(lambda: not is_connected(server), what="the server to drop the client")

        connection.settimeout(5)
        assert len(everything_from(connection)) < LARGE_ANSWER_BYTES


def is_connected(server: HttpServer) -> bool:
    """Does this process hold an open connection that came in on the server's port?"""
    connections = psutil.Process().net_connections("tcp4")
    return any(c.laddr.port == server.port and c.status == psutil.CONN_ESTABLISHED for c in connections)


def everything_from(connection: socket.socket) -> bytes:
    """What still comes until the other end closes or resets."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 20):
            received += chunk
    return bytes(received)


def test_a_client_that_uses_its_connection_is_not_dropped(
    start: Callable[..., HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "EXCHANGE_SECONDS_MAX", 0.1)
    url = f"{start().url}/healthz"
    ports = set()
    with httpx.Client() as client:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            answer = client.get(url)
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr")[1])

    assert len(ports) == 1
