"""Servers that speak just enough of MySQL's or PostgreSQL's protocol to be listened to, and then misbehave.

Each behaviour is a function of one connection, a `Line`; it returns when it has done its worst. What the client sends
is kept, so that a test can see what it gave away.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["MYSQL", "POSTGRESQL", "Line", "mutated_mysql", "serve"]

# protocol 41, secure connection, plugin auth, transactions, connect with db, long password
CAPABILITIES = 0x00000001 | 0x00000008 | 0x00000200 | 0x00002000 | 0x00008000 | 0x00080000
SSL = 0x00000800
OK = b"\x00\x00\x00\x02\x00\x00\x00"
EOF = b"\xfe\x00\x00\x02\x00"
PACKET_MAX = (1 << 24) - 1
SECONDS_MAX = 90.0  # of one behaviour: what a client does not end, ends here


def greeting(version: bytes = b"9.7.0", *, plugin: bytes = b"mysql_native_password", capabilities: int = 0) -> bytes:
    flags = CAPABILITIES | capabilities
    return (
        b"\x0a" + version + b"\0" + struct.pack("<I", 7) + b"12345678\0"
        + struct.pack("<HBHHB", flags & 0xFFFF, 45, 2, flags >> 16, 21) + bytes(10) + b"123456789012\0" + plugin + b"\0"
    )  # fmt: skip


def text(value: bytes | None) -> bytes:
    if value is None:
        return b"\xfb"
    return (bytes([len(value)]) if len(value) < 251 else b"\xfd" + struct.pack("<I", len(value))[:3]) + value


def column(name: bytes = b"c") -> bytes:
    return (
        text(b"def")
        + text(b"") * 3
        + text(name)
        + text(name)
        + b"\x0c"
        + struct.pack("<HIBHB", 45, 99, 253, 0, 0)
        + b"\0\0"
    )


def error(number: int, message: bytes = b"#HY000no") -> bytes:
    return b"\xff" + struct.pack("<H", number) + message


class Line:
    """One client, seen from the server."""

    def __init__(self, stream: socket.socket, seed: int = 0) -> None:
        self.stream = stream
        self.random = random.Random(seed)
        self.received = b""
        self.ends_at = time.monotonic() + SECONDS_MAX
        self.sequence = 0

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self.ends_at

    def take(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            part = self.stream.recv(count - len(got))
            if not part:
                raise ConnectionResetError("the client hung up")
            got += part
        self.received += got
        return got

    def raw(self, data: bytes) -> None:
        self.stream.sendall(data)

    # -- MySQL

    def packet(self) -> bytes:
        head = self.take(4)
        self.sequence = head[3] + 1
        return self.take(int.from_bytes(head[:3], "little"))

    def send(self, *bodies: bytes) -> None:
        for body in bodies:
            self.raw(len(body).to_bytes(3, "little") + bytes([self.sequence % 256]) + body)
            self.sequence += 1

    def skip(self, count: int) -> None:
        """Packets that never come."""
        self.sequence += count

    def let_in(self, **arguments: bytes | int) -> None:
        self.sequence = 0
        self.send(greeting(**arguments))  # type: ignore[arg-type]
        self.packet()
        self.send(OK)

    def rows(self, names: int, *rows: tuple[bytes | None, ...]) -> None:
        self.send(
            bytes([names]), *(column() for _ in range(names)), EOF, *(b"".join(map(text, row)) for row in rows), EOF
        )

    def answer(self, query: bytes) -> None:
        """What an honest server says to the statements at the beginning of a session."""
        if b"SELECT VERSION(), @@max" in query:
            self.rows(4, (b"9.7.0", b"67108864", b"ROW", b"1"))
        elif b"SELECT VERSION()" in query:
            self.rows(1, (b"9.7.0",))
        elif b"sql_mode" in query and query[1:7] == b"SELECT":
            self.rows(1, (b"STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",))
        elif query[1:7] == b"SELECT":
            self.rows(2, (b"1", b"1"))
        else:
            self.send(OK)

    def honest(self, count: int) -> bytes:
        """So many honest answers; then the next statement."""
        for _ in range(count):
            self.answer(self.packet())
        return self.packet()

    # -- PostgreSQL

    def startup(self) -> bytes:
        """The startup packet, after no to TLS."""
        while True:
            size = struct.unpack(">I", self.take(4))[0]
            body = self.take(size - 4)
            if struct.unpack(">I", body[:4])[0] not in (80877103, 80877104):
                return body
            self.raw(b"N")

    def message(self, kind: bytes, body: bytes = b"", *, size: int | None = None) -> None:
        self.raw(kind + struct.pack(">I", (len(body) + 4 if size is None else size) & 0xFFFFFFFF) + body)

    def let_in_pg(self) -> None:
        self.startup()
        self.message(b"R", struct.pack(">I", 0))
        for name, value in (
            (b"server_version", b"15.0"),
            (b"client_encoding", b"UTF8"),
            (b"standard_conforming_strings", b"on"),
        ):
            self.message(b"S", name + b"\0" + value + b"\0")
        self.message(b"K", struct.pack(">II", 7, 7))
        self.message(b"Z", b"I")

    def query_pg(self) -> bytes:
        kind = self.take(1)
        return kind + self.take(struct.unpack(">I", self.take(4))[0] - 4)


Behaviour = Callable[[Line], None]


@contextlib.contextmanager
def serve(behaviour: Behaviour, *, seed: int = 0) -> Iterator[tuple[int, list[Line]]]:
    """A server on loopback; its port, and the connections that it had."""
    listener = socket.create_server(("127.0.0.1", 0))
    lines: list[Line] = []
    is_over = threading.Event()

    def one(stream: socket.socket) -> None:
        line = Line(stream, seed)
        lines.append(line)
        stream.settimeout(SECONDS_MAX)
        with stream, contextlib.suppress(OSError, struct.error):
            behaviour(line)
            stream.settimeout(0.5)
            while not is_over.is_set() and line.is_on and (rest := stream.recv(65536)):  # what it still gives away
                line.received += rest

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = listener.accept()
                threading.Thread(target=one, args=(stream,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], lines
    finally:
        is_over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


# ---------------------------------------------------------------- what they do


def _endless(line: Line, chunk: bytes) -> None:
    while line.is_on:
        line.raw(chunk)


def _then(*steps: Callable[[Line], object]) -> Behaviour:
    """One after the other."""

    def behave(line: Line) -> None:
        for step in steps:
            step(line)

    return behave


def _every_time(misbehave: Callable[[Line], object]) -> Callable[[Line], None]:
    """In answer to each statement."""

    def behave(line: Line) -> None:
        while line.is_on:
            line.packet()
            misbehave(line)

    return behave


def _dribble(line: Line, data: bytes) -> None:
    for byte in data:
        line.raw(bytes([byte]))
        time.sleep(0.3)
        if not line.is_on:
            return


def _silent(line: Line) -> None:
    line.take(1)


def _switch_to(plugin: bytes, data: bytes = b"12345678901234567890\0") -> Behaviour:
    def behave(line: Line) -> None:
        line.send(greeting())
        line.packet()
        line.send(b"\xfe" + plugin + b"\0" + data)
        line.packet()
        line.send(OK)
        line.honest(50)

    return behave


def _greeted(
    *answers: bytes, endless: bool = False, plugin: bytes = b"mysql_native_password", capabilities: int = 0
) -> Behaviour:
    def behave(line: Line) -> None:
        line.send(greeting(plugin=plugin, capabilities=capabilities))
        line.packet()
        line.send(*answers)
        while endless and line.is_on:
            line.packet()
            line.send(*answers)

    return behave


def _at(count: int, misbehave: Callable[[Line], None]) -> Behaviour:
    def behave(line: Line) -> None:
        line.let_in()
        line.honest(count)
        misbehave(line)

    return behave


def _split(line: Line) -> None:
    """A payload in packets of 16 MiB, without an end."""
    zeros = bytes(PACKET_MAX)
    while line.is_on:
        line.send(zeros)


def _endless_rows(value: bytes) -> Callable[[Line], None]:
    def misbehave(line: Line) -> None:
        line.send(b"\x01", column(), EOF)
        row = text(value)
        while line.is_on:
            line.raw(
                b"".join(len(row).to_bytes(3, "little") + bytes([(line.sequence + n) % 256]) + row for n in range(256))
            )

    return misbehave


def _endless_columns(line: Line) -> None:
    line.send(b"\xfe" + struct.pack("<Q", 1 << 62))
    while line.is_on:
        line.send(column(b"x" * 200))


def _endless_results(line: Line) -> None:
    while line.is_on:
        line.send(b"\x00\x00\x00\x0a\x00\x00\x00")


def _answers(*bodies: bytes) -> Callable[[Line], None]:
    return lambda line: line.send(*bodies)


def _every(body: bytes) -> Behaviour:
    def behave(line: Line) -> None:
        line.let_in()
        while line.is_on:
            line.packet()
            line.send(body)

    return behave


def _random_errors(line: Line) -> None:
    line.let_in()
    while line.is_on:
        line.packet()
        line.send(error(line.random.randrange(65536), b"#HY000" + line.random.randbytes(line.random.randrange(400))))


def _garbage(line: Line) -> None:
    line.raw(line.random.randbytes(line.random.choice((1, 3, 4, 80, 5000))))
    if line.random.random() < 0.5:
        line.stream.shutdown(socket.SHUT_WR)


def _garbage_after(count: int) -> Behaviour:
    def behave(line: Line) -> None:
        line.let_in()
        line.honest(count)
        _garbage(line)

    return behave


MYSQL: dict[str, Behaviour] = {
    "silent": _silent,
    "closes": lambda line: None,
    "garbage": _garbage,
    "dribbles its greeting": lambda line: _dribble(line, len(greeting()).to_bytes(3, "little") + b"\0" + greeting()),
    "dribbles a packet of 16 MiB": lambda line: _dribble(line, b"\xff\xff\xff\x00" + bytes(200)),
    "greets without end": _split,
    "greets with zeros": lambda line: _endless(line, bytes(65536)),
    "greets with an endless version": lambda line: line.send(b"\x0a" + b"9" * 10_000_000),
    "greets with a part": lambda line: line.send(greeting()[:20]),
    "greets with nothing": lambda line: line.send(b""),
    "greets with an error": lambda line: line.send(error(1040, b"Too many connections" * 5000)),
    "greets with an error of no number": lambda line: line.send(b"\xff"),
    "greets without capabilities": lambda line: line.send(b"\x0a9.7.0\0" + struct.pack("<I", 7) + b"12345678\0\0\0"),
    "asks for the password in the clear": _switch_to(b"mysql_clear_password"),
    "asks for the password by a dialog": _switch_to(b"dialog", b"\x04Password: "),
    "asks for the password's old hash": _switch_to(b"mysql_old_password", b"12345678\0"),
    "asks for an unknown plugin": _switch_to(b"\xff\xfe no such plugin"),
    "asks for the password in the clear at once": _greeted(b"\x01\x04", plugin=b"mysql_clear_password"),
    "switches plugins without end": _greeted(b"\xfemysql_native_password\x0012345678901234567890\0", endless=True),
    "sends keys without end": _greeted(b"\x01\x04", endless=True, plugin=b"caching_sha2_password"),
    "sends a key that is none": _greeted(b"\x01\x04", b"\x01 no key", plugin=b"caching_sha2_password"),
    "sends a key of 60 MiB": _then(
        _greeted(b"\x01\x04", plugin=b"caching_sha2_password"),
        lambda line: line.packet(),
        lambda line: _split(line),
    ),
    "says something else to the password": _greeted(b"\x42\x42"),
    "refuses with a flood": _then(
        lambda line: line.send(greeting()),
        lambda line: line.packet(),
        lambda line: _split(line),
    ),
    "begins TLS with garbage": _then(
        lambda line: line.send(greeting(capabilities=SSL)),
        lambda line: line.packet(),
        lambda line: _endless(line, b"\x16\x03\x03\xff\xff" + bytes(100)),
    ),
    "begins TLS with silence": _then(
        lambda line: line.send(greeting(capabilities=SSL)),
        lambda line: line.packet(),
        lambda line: line.take(1 << 20),
    ),
    "begins TLS a byte at a time": _then(
        lambda line: line.send(greeting(capabilities=SSL)),
        lambda line: line.packet(),
        lambda line: _dribble(line, b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb" + bytes(200)),
    ),
    "asks for a file": _every(b"\xfb/etc/passwd"),
    "asks for a file of no name": _every(b"\xfb"),
    "asks for a file in the second answer": _at(1, _answers(b"\xfb/etc/passwd")),
    "asks for a file in the fourth answer": _at(3, _answers(b"\xfb/etc/passwd")),
    "errors without end": _every(error(1064, b"#42000no")),
    "errors with long texts": _every(error(1064, b"#42000" + b"\x1b[2J" * 1000)),
    "errors of every number": _random_errors,
    "errors cut short": _every(b"\xff\x10"),
    "an OK that is cut": _every(b"\x00"),
    "nothing for an answer": _every(b""),
    "2^62 columns": _at(3, _endless_columns),
    "65000 columns": _at(3, _answers(b"\xfc" + struct.pack("<H", 65000))),
    "columns that are none": _at(3, _answers(b"\x02", b"\xff\xff", b"x")),
    "rows without end": _at(3, _endless_rows(b"x" * 50)),
    "empty rows without end": _at(3, _endless_rows(b"")),
    "a row without end": _at(3, _then(
        lambda line: line.send(b"\x01", column(), EOF),
        lambda line: _split(line),
    )),
    "a value longer than its row": _at(
        3, _answers(b"\x01", column(), EOF, b"\xfe" + struct.pack("<Q", 1 << 60) + b"x")
    ),
    "a result without rows or end": _at(3, _answers(b"\x01", column())),
    "results without end": _at(3, _endless_results),
    "packets out of order": _at(3, _then(
        lambda line: line.skip(77),
        lambda line: line.send(OK),
    )),
    "a version that is none": _then(
        lambda line: line.let_in(version=b""),
        _every_time(lambda line: line.rows(1, (b"\xff\xfe",))),
    ),
    "NULL for everything": _then(
        lambda line: line.let_in(),
        _every_time(lambda line: line.rows(4, (None,) * 4)),
    ),
    "one column for everything": _then(
        lambda line: line.let_in(),
        _every_time(lambda line: line.rows(1, (b"x",))),
    ),
    "no row for everything": _then(
        lambda line: line.let_in(),
        _every_time(lambda line: line.rows(1)),
    ),
    "a thousand rows for everything": _then(
        lambda line: line.let_in(),
        _every_time(lambda line: line.rows(4, *((b"1",) * 4,) * 1000)),
    ),
    **{f"garbage after {count} answers": _garbage_after(count) for count in range(6)},
}  # fmt: skip


def mutated_mysql(line: Line) -> None:
    """An honest server, some of whose bytes are others."""
    plain = line.raw
    at = line.random.randrange(4000)
    sent = 0

    def raw(data: bytes) -> None:
        nonlocal sent
        if sent <= at < sent + len(data):
            changed = bytearray(data)
            where = at - sent
            match line.random.randrange(4):
                case 0:
                    changed[where] ^= 1 << line.random.randrange(8)
                case 1:
                    changed[where] = line.random.choice((0, 1, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF))
                case 2:
                    del changed[where]
                case 3:
                    changed[where:where] = line.random.randbytes(line.random.choice((1, 2, 30)))
            data = bytes(changed)
        sent += len(data)
        plain(data)

    line.raw = raw  # type: ignore[method-assign]
    line.let_in()
    while line.is_on:
        line.answer(line.packet())


# -- PostgreSQL


def _pg(misbehave: Callable[[Line], None]) -> Behaviour:
    def behave(line: Line) -> None:
        line.startup()
        misbehave(line)

    return behave


def _pg_query(misbehave: Callable[[Line], None]) -> Behaviour:
    def behave(line: Line) -> None:
        line.let_in_pg()
        line.query_pg()
        misbehave(line)

    return behave


def _tls_answer(answer: bytes) -> Behaviour:
    def behave(line: Line) -> None:
        line.take(8)
        line.raw(answer)
        line.take(1 << 20)

    return behave


POSTGRESQL: dict[str, Behaviour] = {
    "silent": _silent,
    "closes": lambda line: None,
    "garbage": _garbage,
    "answers the wish for TLS with garbage": _tls_answer(b"X" * 100),
    "answers the wish for TLS with a flood of error": _tls_answer(b"E" + b"x" * 1_000_000),
    "begins TLS with garbage": _tls_answer(b"S" + bytes(100_000)),
    "dribbles": _then(
        lambda line: line.startup(),
        lambda line: _dribble(line, b"R\0\0\0\x08\0\0\0\0" * 50),
    ),
    "asks for the password in the clear": _pg(_then(
        lambda line: line.message(b"R", struct.pack(">I", 3)),
        lambda line: line.take(1),
    )),
    "asks for an unknown way to log in": _pg(lambda line: line.message(b"R", struct.pack(">I", 99))),
    "asks for a log-in of 2 GiB": _pg(_then(
        lambda line: line.message(b"R", b"", size=0x7FFFFFFF),
        lambda line: _endless(line, bytes(65536)),
    )),
    "asks for a log-in of a negative size": _pg(_then(
        lambda line: line.message(b"R", b"", size=-1),
        lambda line: _endless(line, bytes(65536)),
    )),
    "offers SASL that is none": _pg(lambda line: line.message(b"R", struct.pack(">I", 10) + b"NONE\0\0")),
    "SASL without end": _pg(_then(
        lambda line: line.message(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0"),
        lambda line: line.query_pg(),
        lambda line: line.message(b"R", struct.pack(">I", 11) + b"r=x,s=AAAA,i=999999999999"),
    )),
    "refuses with a text without an end": _pg(_then(
        lambda line: line.message(b"E", b"SFATAL\0M" + b"x" * 20_000, size=25_000),
        lambda line: line.take(1),
    )),
    "closes after the log-in": lambda line: line.let_in_pg(),
    "garbage for an answer": _pg_query(_garbage),
    "an answer of 2 GiB": _pg_query(lambda line: line.message(b"D", b"", size=0x7FFFFFFF)),
    "an answer of a negative size": _pg_query(lambda line: line.message(b"D", b"", size=-5)),
    "rows without columns": _pg_query(lambda line: line.message(b"D", struct.pack(">H", 9))),
    "negative columns": _pg_query(lambda line: line.message(b"T", struct.pack(">h", -1))),
    "65535 columns that are none": _pg_query(lambda line: line.message(b"T", struct.pack(">H", 65535))),
    "a COPY that nobody wants": _pg_query(_then(
        lambda line: line.message(b"G", b"\0\0\0"),
        lambda line: line.take(1 << 20),
    )),
    "an error of no fields": _pg_query(_then(
        lambda line: line.message(b"E", b"\0"),
        lambda line: line.message(b"Z", b"I"),
        lambda line: line.take(1 << 20),
    )),
    "an error of every kind": _pg_query(_then(
        lambda line: line.message(b"E", b"SERROR\0CXX000\0M" + b"\x1b[2J" * 5000 + b"\0\0"),
        lambda line: line.message(b"Z", b"I"),
        lambda line: line.take(1 << 20),
    )),
    "an empty answer": _pg_query(_then(
        lambda line: line.message(b"I"),
        lambda line: line.message(b"Z", b"I"),
        lambda line: line.take(1 << 20),
    )),
}  # fmt: skip
