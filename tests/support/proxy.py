"""A TCP proxy that a test can freeze, thaw and cut: a network that swallows packets, without a firewall."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["Proxy", "through"]

_CHUNK_BYTES = 65_536


class Proxy:
    """Forwards to one server from a port of its own.

    Frozen, it still takes connections and forwards no byte either way, and no end either: to both sides the other is
    silent, as a hung server or a half-open connection is. `delay_seconds` is how long each piece is held back.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flows = threading.Event()
        self._flows.set()
        self._is_closed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._bytes_left: float = float("inf")
        self._half_open: set[socket.socket] = set()
        self.delay_seconds = 0.0
        self._taken = 0
        self._diverted: dict[int, tuple[str, int]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def freeze(self) -> None:
        """Forward nothing more, and tell nobody."""
        self._flows.clear()

    def thaw(self) -> None:
        """Forward again, beginning with what was held back."""
        self._flows.set()

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        with self._lock:
            sockets = [*self._sockets, *self._half_open]
            self._sockets = []
            self._half_open.clear()
        for one in sockets:
            _end(one)

    def half_open(self) -> None:
        """End every connection towards the server alone: its client is not told, and never hears anything again."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
            servers = [one for one in sockets if _leads_to(one, self._target)]
            self._half_open.update(one for one in sockets if one not in servers)
        for one in servers:
            _end(one)

    def cut_after(self, byte_count: int) -> None:
        """Forward that many bytes more, either way, then cut and freeze."""
        self._bytes_left = byte_count

    def divert(self, number: int, host: str, port: int) -> None:
        """The connection of that number, the next one being 1, leads there, and no other does."""
        self._taken = 0
        self._diverted = {number: (host, port)}

    def close(self) -> None:
        """End every connection and take no more."""
        self._is_closed = True
        _end(self._listener)
        self.cut()
        self._flows.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._taken += 1
            target = self._diverted.get(self._taken, self._target)
            threading.Thread(target=self._serve, args=(client, target), daemon=True).start()

    def _serve(self, client: socket.socket, leads_to: tuple[str, int]) -> None:
        with self._lock:
            self._sockets.append(client)
        self._flows.wait()
        try:
            server = socket.create_connection(leads_to)
        except OSError:
            _end(client)
            return
        with self._lock:
            self._sockets.append(server)
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while content := source.recv(_CHUNK_BYTES):
                self._flows.wait()
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                target.sendall(content)
                self._count(len(content))
            self._flows.wait()
        except OSError:
            self._flows.wait()
        finally:
            for one in (source, target):
                if one not in self._half_open:
                    _end(one)

    def _count(self, byte_count: int) -> None:
        with self._lock:
            before, self._bytes_left = self._bytes_left, self._bytes_left - byte_count
            is_over = before > 0 >= self._bytes_left
        if is_over:
            self.freeze()
            self.cut()


def _leads_to(one: socket.socket, target: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        return bool(one.getpeername()[1] == target[1])
    return False


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        one.close()


@contextlib.contextmanager
def through(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the server of `url`, and the URL that leads through it."""
    parts = urlsplit(url)
    with Proxy(parts.hostname or "127.0.0.1", parts.port or 0) as proxy:
        account = parts.netloc.rpartition("@")[0]
        yield proxy, parts._replace(netloc=f"{account}@{proxy.host}:{proxy.port}").geturl()
