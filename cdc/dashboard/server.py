"""The HTTP server: health, readiness, metrics, status and the page, from a thread of its own.

Only reads: there is no request that changes anything. With a token, only those who show it are told anything. What the
answers mean is in `health.py` and `service.py`, what the page looks like in `page.py`. docs/http.md is for those who
call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cdc import __version__
from cdc.clock import Clock, SystemClock
from cdc.credentials import Password
from cdc.dashboard.health import ProcessUsage, health_document
from cdc.dashboard.page import Asset, assets
from cdc.dashboard.service import Service
from cdc.errors import CdcError, ConfigError
from cdc.log import scrub
from cdc.metrics import Metrics

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["HttpServer", "http_app"]

# A service that takes longer to say how it is, is not well; probes usually wait for five to ten seconds.
ANSWER_SECONDS_MAX: Final = 4.0
# A request or an answer that takes longer is a client that has gone or means no good. The answers are small.
EXCHANGE_SECONDS_MAX: Final = 15.0
KEEP_ALIVE_SECONDS: Final = 5
# uvicorn looks for the wish to stop every 0.1 s and takes 0.1 s more: with 1 s for answers on their way, the whole
# stop stays under 2 s.
GRACE_SECONDS: Final = 1
STOP_SECONDS_MAX: Final = 2.0
# Nobody needs as many; it bounds what a flood can take from the pipelines.
CONNECTIONS_MAX: Final = 256
REQUEST_HEAD_BYTES_MAX: Final = 16 * 1024

# A token that was rotated in its file counts from here on, and the one before no longer.
TOKEN_SECONDS_MAX: Final = 5.0
# What is told to everybody: that the process serves, and whether it is ready; the page without any content.
_OPEN_PATHS: Final = frozenset(("/healthz", "/readyz", *(asset.path for asset in assets())))

_SECURITY_HEADERS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }.items()
)


# ---------------------------------------------------------------- answers


class _Question:
    """Asks the service something in a thread of its own, so that a service that hangs does not stop `/healthz`.

    At most one thread at a time: whoever asks meanwhile gets the same answer. The thread is a daemon: one that never
    comes back must not keep the process from ending.
    """

    def __init__(self, ask: Callable[[], Any], *, seconds_max: float) -> None:
        self._ask = ask
        self._seconds_max = seconds_max
        self._pending: asyncio.Future[Any] | None = None

    async def answer(self) -> Any:
        """What the service says. Raises HTTPException(503) when it says nothing in time, or what `ask` raised."""
        if self._pending is None:
            self._pending = self._start()
        try:
            async with asyncio.timeout(self._seconds_max):
                return await asyncio.shield(self._pending)
        except TimeoutError:
            raise HTTPException(503, f"the service did not answer within {self._seconds_max:g} s") from None

    def _start(self) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def finish(result: Any, error: Exception | None) -> None:
            self._pending = None
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
                future.exception()  # seen: with nobody waiting any more it is not worth a warning

        def run() -> None:
            result, error = None, None
            try:
                result = self._ask()
            except Exception as raised:  # noqa: BLE001 - handed to whoever asked
                error = raised
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, name="cdc-http-question", daemon=True).start()
        return future


def http_app(
    service: Service,
    metrics: Metrics,
    *,
    version: str = __version__,
    clock: Clock | None = None,
    answer_seconds_max: float = ANSWER_SECONDS_MAX,
    token: Password | None = None,
    on_token_trouble: Callable[[str], None] = lambda _trouble: None,
) -> ASGIApp:
    """The application behind the server: every route, and the headers that go with each answer.

    With a `token`, who does not show it (`Authorization: Bearer …`) is told nothing but what `_OPEN_PATHS` tell.
    `on_token_trouble` is told why it cannot be read again, once for each reason; '' when it can be.
    """
    clock = clock or SystemClock()
    usage = ProcessUsage(clock)

    def ask_health() -> tuple[int, bytes]:
        document = health_document(service.health_inputs(), version=version, now_us=clock.now_us(), usage=usage.now())
        return 503 if document["status"] == "unhealthy" else 200, _json(document)

    def ask_status() -> bytes:
        return _json(service.status())

    health_question, status_question, ready_question = (
        _Question(ask, seconds_max=answer_seconds_max) for ask in (ask_health, ask_status, service.is_ready)
    )

    async def health(_: Request) -> Response:
        code, body = await health_question.answer()
        return Response(body, code, media_type="application/json")

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        is_ready = await ready_question.answer()
        return PlainTextResponse("ready\n") if is_ready else PlainTextResponse("not ready\n", 503)

    async def prometheus(_: Request) -> Response:
        body, content_type = metrics.render()
        return Response(body, media_type=content_type)

    async def status(_: Request) -> Response:
        return Response(await status_question.answer(), media_type="application/json")

    routes = [
        Route("/", health),
        Route("/health", health),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", prometheus),
        Route("/api/status", status),
        *(Route(asset.path, _asset_endpoint(asset)) for asset in assets()),
    ]
    paths = [route.path for route in routes]

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        document: dict[str, Any] = {"error": error.detail}
        if error.status_code == 404:
            document["paths"] = paths
        return Response(_json(document), error.status_code, error.headers, media_type="application/json")

    async def cdc_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, CdcError)
        document = {"error": scrub(error.message), "hint": scrub(error.hint)}
        return Response(_json(document), 503, media_type="application/json")

    async def crashed(_: Request, error: Exception) -> Response:
        # The server logs the traceback; a stranger gets the class and no more.
        document = {"error": f"internal error: {type(error).__name__}", "hint": "the service's log has more"}
        return Response(_json(document), 500, media_type="application/json")

    app = Starlette(routes=routes, exception_handlers={HTTPException: refused, CdcError: cdc_error, Exception: crashed})
    app.router.redirect_slashes = False  # a redirect would be built from the client's own Host header
    guarded = app if token is None else _Guarded(app, token, clock, on_token_trouble)
    return _Wrapped(guarded, metrics, frozenset(paths))


def _asset_endpoint(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        return Response(asset.content, media_type=asset.media_type)

    return endpoint


def _json(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


class _Guarded:
    """Lets through who shows the token; everybody to what is open."""

    def __init__(self, app: ASGIApp, token: Password, clock: Clock, on_trouble: Callable[[str], None]) -> None:
        self._app = app
        self._token = token
        self._said = ""
        self._on_trouble = on_trouble
        self._clock = clock
        self._read_at = clock.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _OPEN_PATHS or self._is_shown(scope):
            await self._app(scope, receive, send)
            return
        document = {
            "error": "a token is needed here",
            "hint": "send the header Authorization: Bearer TOKEN, with the token of http.token",
        }
        answer = Response(_json(document), 401, {"www-authenticate": "Bearer"}, media_type="application/json")
        await answer(scope, receive, send)

    def _is_shown(self, scope: Scope) -> bool:
        if self._clock.monotonic() - self._read_at >= TOKEN_SECONDS_MAX:
            self._read_at = self._clock.monotonic()
            self._token.renew()  # one that cannot be read stays as it was, and somebody has to know
            if self._token.trouble != self._said:
                self._said = self._token.trouble
                self._on_trouble(self._said)
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token.reveal().encode())


class _Wrapped:
    """Adds the security headers to every answer, errors included, and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_SECURITY_HEADERS]
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.http_request(path, message["status"])
            await send(message)

        await self._app(scope, receive, send_with_headers)


# ---------------------------------------------------------------- the server


class HttpServer:
    """Serves `http_app` from a daemon thread, between `start` and `stop`; also a context manager."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        *,
        host: str,
        port: int,
        version: str = __version__,
        clock: Clock | None = None,
        token: Password | None = None,
        on_token_trouble: Callable[[str], None] = lambda _trouble: None,
    ) -> None:
        self._host = host
        self._asked_port = port
        self._app = http_app(
            service, metrics, version=version, clock=clock, token=token, on_token_trouble=on_token_trouble
        )
        self._sockets: list[socket.socket] = []
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on: the one that was free where 0 was asked for. Only while started."""
        assert self._sockets, "not started"
        return int(self._sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104 - to compare
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Listen, then serve in the background.

        Raises:
            ConfigError: the address cannot be listened on; the hint says what to set.
        """
        assert self._thread is None, "started already"
        self._sockets = _listen(self._host, self._asked_port)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=_Connection,
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,  # the service's own set-up of logging stays
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
                limit_concurrency=CONNECTIONS_MAX,
                h11_max_incomplete_event_size=REQUEST_HEAD_BYTES_MAX,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run_until_stopped, args=(self._sockets,), name="cdc-http", daemon=True
        )
        self._thread.start()
        self._server.has_started.wait(STOP_SECONDS_MAX)

    def stop(self) -> None:
        """Stop listening, let answers on their way finish for a second, cut what is left. Harmless when not started."""
        if self._thread is None or self._server is None:
            return
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS_MAX)
        for listener in self._sockets:
            listener.close()
        self._thread = None
        self._sockets = []

    def __enter__(self) -> HttpServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Server(uvicorn.Server):
    """uvicorn's server, that says when it serves and leaves no connection behind."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    def run_until_stopped(self, sockets: list[socket.socket]) -> None:
        asyncio.run(self._serve_and_abort(sockets))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    async def _serve_and_abort(self, sockets: list[socket.socket]) -> None:
        await self.serve(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the loop closes the sockets in its next round


class _Connection(H11Protocol):
    """One client. Dropped when it is with the same request, or without any, at two looks in a row.

    uvicorn ends connections that are idle between requests, but waits for ever for the rest of a request, and for a
    client to take its answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self, seen: Any) -> None:
        self._look = self.loop.call_later(EXCHANGE_SECONDS_MAX, self._drop_if_stuck, seen)

    def _drop_if_stuck(self, seen: Any) -> None:
        # An idle connection is closed after KEEP_ALIVE_SECONDS, so one that is still here with the same request is not.
        if self.cycle is seen:
            self.transport.abort()
        else:
            self._look_again(self.cycle)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of `host`, all on one port. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"http.host: {host!r} is no address of this machine ({error})",
            hint="set http.host to 127.0.0.1 (this machine only) or 0.0.0.0 (every network)",
        ) from error
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            listeners.append(_bind(family, (address[0], port, *address[2:])))
        except OSError as error:
            # `localhost` has two addresses, and a machine without IPv6 only one of them.
            failure = failure or error
            if error.errno == errno.EADDRINUSE:
                break
        else:
            port = port or listeners[0].getsockname()[1]
    if failure is not None and (failure.errno == errno.EADDRINUSE or not listeners):
        for listener in listeners:
            listener.close()
        raise _not_listening(host, port, failure) from failure
    return listeners


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # So that a restart finds the port free though old connections linger; another listener still refuses.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        listener.bind(address)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _not_listening(host: str, port: int, error: OSError) -> ConfigError:
    place = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"http.port: another process listens on {place} already",
            hint=f"set http.port to a free port (0 takes any), or end the other one: ss -ltnp 'sport = :{port}'",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(
            f"http.port: this user may not listen on {place} ({error.strerror})",
            hint="set http.port to 1024 or more",
        )
    return ConfigError(
        f"http.host: cannot listen on {place} ({error.strerror})",
        hint="set http.host to 127.0.0.1 (this machine only) or 0.0.0.0 (every network)",
    )
