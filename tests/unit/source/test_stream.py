"""Packets out of a socket, however the network cuts them; and what the server's last words become."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import BinlogPurged, CdcError, ConfigError, ProtocolError, SourceUnavailable
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition
from cdc.source import stream as stream_module
from cdc.source.connection import SourceSettings
from cdc.source.stream import EVENT_BYTES_MAX, LOW_WATER_BYTES, BinlogStream, PacketReader
from tests.support.collector import Collector, next_event

FULL = 0xFFFFFF
SETTINGS = SourceSettings("db.example", 3306, "repl", "secret", server_id=4242)
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


def packets(payload: bytes, sequence: int = 0) -> bytes:
    """A payload as the server sends it: in pieces of 16 MiB less one, ended by a shorter one."""
    out = bytearray()
    while True:
        piece, payload = payload[:FULL], payload[FULL:]
        out += len(piece).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + piece
        sequence += 1
        if len(piece) < FULL:
            return bytes(out)


class Chunks:
    """A socket that gives these pieces, one a receive, then nothing more: a timeout, or the end of the connection."""

    def __init__(self, pieces: Sequence[bytes], *, is_closed: bool = False) -> None:
        self.pieces = list(pieces)
        self.is_closed = is_closed
        self.timeouts: list[float] = []

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def recv_into(self, target: memoryview) -> int:
        if self.pieces:
            piece = self.pieces.pop(0)
            assert 0 < len(piece) <= len(target)
            target[: len(piece)] = piece
            return len(piece)
        if self.is_closed:
            return 0
        raise TimeoutError


def read(reader: PacketReader, seconds: float) -> bytes | None:
    while (payload := reader.packet()) is None:
        if not reader.fill(seconds):
            return None
    return bytes(payload)


def read_all(reader: PacketReader) -> list[bytes]:
    found = []
    while (payload := read(reader, 0.01)) is not None:
        found.append(payload)
    return found


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), max_size=80))
def test_any_chunking_of_the_bytes_gives_the_same_packets(payloads: list[bytes], sizes: list[int]) -> None:
    wire = b"".join(map(packets, payloads))
    pieces = []
    for size in [*sizes, *([1] * len(wire))]:
        if wire:
            pieces.append(wire[:size])
            wire = wire[size:]
    assert read_all(PacketReader(Chunks(pieces))) == payloads


@given(st.data())
def test_a_timeout_in_any_place_loses_nothing(data: st.DataObject) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
    wire = b"".join(map(packets, payloads))
    cut = data.draw(st.integers(0, len(wire)))
    source = Chunks([wire[:cut]] if cut else [])
    reader = PacketReader(source)
    found = read_all(reader)
    assert read(reader, 0.01) is None
    source.pieces = [wire[cut:]] if cut < len(wire) else []
    assert found + read_all(reader) == payloads


@pytest.mark.parametrize("size", [0, 1, FULL - 1, FULL, FULL + 1, 2 * FULL - 1, 2 * FULL, 2 * FULL + 1])
def test_payloads_around_multiples_of_16_mib_come_whole(size: int) -> None:
    """A multiple ends in an empty packet. Sent through a real socket, with another packet right behind."""
    ours, theirs = socket.socketpair()
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(packets(payload) + packets(b"next"),))
        sender.start()
        reader = PacketReader(ours)
        assert read(reader, 10) == payload
        assert read(reader, 10) == b"next"
        sender.join()
        assert read(reader, 0.01) is None


def test_the_window_is_what_was_received_and_not_taken() -> None:
    wire = packets(b"one") + packets(b"two") + packets(b"three")[:-1]
    reader = PacketReader(Chunks([wire, b"e"]))
    assert not reader.window
    assert reader.fill(1) == len(wire)
    assert reader.window == wire
    reader.advance(7)
    assert bytes(reader.packet() or b"") == b"two"
    assert reader.packet() is None
    assert reader.fill(1) == 1
    assert reader.window == packets(b"three")


def test_the_buffer_grows_for_a_large_packet_and_is_small_again_afterwards() -> None:
    payload = bytes(range(256)) * 40_000
    wire = packets(payload) + packets(b"next")
    reader = PacketReader(Chunks([wire[n : n + 100_000] for n in range(0, len(wire), 100_000)] + [packets(b"last")]))
    assert read(reader, 1) == payload
    assert read(reader, 1) == b"next"
    assert read(reader, 1) == b"last"
    assert len(reader._buffer) < len(payload) // 10


def test_a_payload_larger_than_any_event_is_refused_before_it_is_received(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVENT_BYTES_MAX > 1 << 30
    monkeypatch.setattr(stream_module, "EVENT_BYTES_MAX", FULL + 10)
    wire = packets(bytes(FULL + 11))[: FULL + 8]  # the second head is there, its content is not
    reader = PacketReader(Chunks([wire[n : n + 100_000] for n in range(0, len(wire), 100_000)]))
    with pytest.raises(ProtocolError, match="more than"):
        read(reader, 1)


@pytest.mark.parametrize("before", [b"", packets(b"abc")[:-1], packets(b"abc")[:2]])
def test_the_end_of_the_connection_is_an_error_also_inside_a_packet(before: bytes) -> None:
    reader = PacketReader(Chunks([before] if before else [], is_closed=True))
    with pytest.raises(ConnectionResetError):
        read(reader, 1)


def test_the_sockets_timeout_is_set_only_when_it_changes() -> None:
    source = Chunks([packets(b"a"), packets(b"b"), packets(b"c")])
    reader = PacketReader(source)
    for seconds in (1, 1, 2):
        read(reader, seconds)
    assert source.timeouts == [1, 2]


def _low_water(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@contextlib.contextmanager
def _connected(tls: TlsPair | None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection over loopback, the reader's first."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        with theirs:
            if tls is None:
                yield ours, theirs
                return
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                shaken = pool.submit(tls.server.wrap_socket, theirs, server_side=True)
                with tls.client.wrap_socket(ours) as ours_tls, shaken.result() as theirs_tls:
                    yield ours_tls, theirs_tls


@dataclasses.dataclass(frozen=True)
class TlsPair:
    client: ssl.SSLContext
    server: ssl.SSLContext


@pytest.fixture(scope="module", params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TlsPair | None:
    if request.param == "plain":
        return None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db.example")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return TlsPair(client, server)


def test_a_source_in_a_rush_is_received_in_large_pieces_and_its_last_packet_comes_all_the_same(
    tls: TlsPair | None,
) -> None:
    """The socket holds back what is less than a piece; at the end of the log there is no more to wait for."""
    payload = bytes(60_000)
    with _connected(tls) as (ours, theirs):
        reader = PacketReader(ours)
        sender = threading.Thread(target=theirs.sendall, args=(packets(payload) * 1000,))
        sender.start()
        largest = 0
        for _ in range(1000):
            assert read(reader, 10) == payload
            largest = max(largest, _low_water(ours))
        sender.join()
        assert largest == LOW_WATER_BYTES
        theirs.sendall(packets(b"last"))
        assert read(reader, 10) == b"last"
        assert reader.fill(0.01) == 0
        assert _low_water(ours) == 1
        theirs.sendall(packets(b"next"))
        assert read(reader, 10) == b"next"


def test_in_a_rush_much_is_received_at_once_also_where_tls_hands_out_small_records(tls: TlsPair | None) -> None:
    """What is delivered together costs one call of the assembler, not one a record."""
    with _connected(tls) as (ours, theirs):
        reader = PacketReader(ours)
        size = 40_000_000
        sender = threading.Thread(target=theirs.sendall, args=(bytes(size),))
        sender.start()
        total = largest = 0
        while total < size:
            received = reader.fill(10)
            reader.advance(len(reader.window))
            total, largest = total + received, max(largest, received)
        sender.join()
        assert total == size
        assert largest >= 10 * 16_384


def test_what_a_source_said_before_it_closed_is_read_before_the_end_is_seen(tls: TlsPair | None) -> None:
    payload = bytes(60_000)
    with _connected(tls) as (ours, theirs):
        reader = PacketReader(ours)

        def send() -> None:
            theirs.sendall(packets(payload) * 300 + packets(b"\xff the last words"))
            theirs.close()

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(300):
            assert read(reader, 10) == payload
        sender.join()
        assert read(reader, 10) == b"\xff the last words"
        with pytest.raises(OSError, match=r"closed|EOF"):
            read(reader, 10)


def test_a_trickle_is_never_held_back(tls: TlsPair | None) -> None:
    with _connected(tls) as (ours, theirs):
        reader = PacketReader(ours)
        for _ in range(200):
            theirs.sendall(packets(b"few"))
            assert read(reader, 10) == b"few"
            assert _low_water(ours) == 1


# ---------------------------------------------------------------- the session


class Raw:
    """What is used of a pymysql connection: keeps what it was told."""

    def __init__(self, answers: Sequence[bytes] = (), checksum: str = "CRC32", *, is_closed: bool = False) -> None:
        self._sock = Chunks([packets(answer) for answer in answers], is_closed=is_closed)
        self.statements: list[str] = []
        self.commands: list[tuple[int, bytes]] = []
        self.checksum = checksum
        self.is_open = True

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Raw]:
        yield self

    def execute(self, statement: str) -> None:
        self.statements.append(statement)

    def fetchone(self) -> tuple[str]:
        return (self.checksum,)

    def _execute_command(self, command: int, payload: bytes) -> None:
        self.commands.append((command, payload))

    def _read_packet(self) -> None:
        pass

    def _force_close(self) -> None:
        self.is_open = False


def opened(
    monkeypatch: pytest.MonkeyPatch, raw: Raw, position: SourcePosition, flavor: Flavor = "mysql"
) -> BinlogStream:
    monkeypatch.setattr("cdc.tls.connect", lambda _context, *, is_required, **_: raw)
    stream = BinlogStream(SETTINGS, flavor=flavor, position=position, server_id=4243)
    stream.open()
    return stream


def at(file: str | None = "binlog.000007", pos: int = 1234, gtid: Any = None) -> SourcePosition:
    return SourcePosition(ServerIdentity("mysql", UUID), FilePos.of(file, pos) if file else None, gtid)


def test_a_dump_by_file_and_position(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw()
    opened(monkeypatch, raw, at())
    assert raw.commands == [
        (0x15, struct.pack("<I", 4243) + bytes(3 + 2 + 4 + 4)),
        (0x12, struct.pack("<IHI", 1234, 0, 4243) + b"binlog.000007"),
    ]


def test_a_position_past_4_gib_is_read_from_the_files_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw()
    opened(monkeypatch, raw, at(pos=(1 << 32) + 5))
    assert raw.commands[1] == (0x12, struct.pack("<IHI", 4, 0, 4243) + b"binlog.000007")
    raw = Raw()
    opened(monkeypatch, raw, at(pos=(1 << 32) - 1))
    assert raw.commands[1][1].startswith(b"\xff\xff\xff\xff")


def test_a_dump_by_gtid_set_also_by_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", f"{UUID}:1-5", f"{UUID}:1:mytag:4"):
        gtid = MysqlGtidSet.parse(text)
        raw = Raw()
        opened(monkeypatch, raw, at(None, gtid=gtid))
        encoded = gtid.encode()
        payload = struct.pack("<HII", 4, 4243, 0) + struct.pack("<QI", 4, len(encoded)) + encoded
        assert raw.commands[1] == (0x1E, payload)


def test_a_mariadb_dump_by_list_also_by_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "0-1-5,7-2-9"):
        raw = Raw()
        opened(monkeypatch, raw, at(gtid=MariadbGtidList.parse(text)), flavor="mariadb")
        assert f"SET @slave_connect_state = '{text}'" in raw.statements
        assert "SET @mariadb_slave_capability = 4" in raw.statements
        assert raw.commands[1] == (0x12, struct.pack("<IHI", 4, 0, 4243))


def test_mariadb_by_file_says_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw()
    opened(monkeypatch, raw, at(), flavor="mariadb")
    assert not any("slave_connect_state" in one for one in raw.statements)
    assert raw.commands[1][1].endswith(b"binlog.000007")


def test_no_position_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw()
    with pytest.raises(ConfigError):
        opened(monkeypatch, raw, at(None))


@pytest.mark.parametrize("value, expected", [("CRC32", True), ("NONE", False), ("none", False)])
def test_what_the_server_says_of_checksums_is_kept(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    assert opened(monkeypatch, Raw(checksum=value), at()).checksum_negotiated is expected


def test_the_replicas_uuid_is_the_same_at_each_start_and_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = Raw(), Raw()
    opened(monkeypatch, first, at())
    opened(monkeypatch, again, at())
    (told,) = (one for one in first.statements if "slave_uuid" in one)
    assert told in again.statements
    assert UUID not in told


def test_events_come_without_the_packets_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(monkeypatch, Raw([b"\0event one", b"\0", b"\0\xff"]), at())
    collector = Collector()
    assert [next_event(stream, collector, 1) for _ in range(4)] == [b"event one", b"", b"\xff", None]


def test_an_event_of_several_packets_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    event = bytes(range(256)) * 65536 + b"end"
    stream = opened(monkeypatch, Raw([]), at())
    wire = packets(b"\0" + event) + packets(b"\0next")
    stream._packets = PacketReader(Chunks([wire[n : n + 60_000] for n in range(0, len(wire), 60_000)]))
    collector = Collector()
    while not collector.events or collector.events[-1] != b"next":
        assert stream.fill(1)
        assert not stream.deliver(collector)
    assert collector.events == [event, b"next"]


def error_packet(number: int, text: str) -> bytes:
    return b"\xff" + number.to_bytes(2, "little") + b"#HY000" + text.encode()


@pytest.mark.parametrize(
    "payload, error",
    [
        (b"\xfe\0\0\2\0", SourceUnavailable),
        (b"\xfe", SourceUnavailable),
        (b"\xfe" + bytes(20), ProtocolError),
        (b"", ProtocolError),
        (b"\1abc", ProtocolError),
        (b"\xfbfile", ProtocolError),
        (error_packet(1236, "Could not find first log file name in binary log index file"), BinlogPurged),
        (error_packet(1053, "Server shutdown in progress"), SourceUnavailable),
        (error_packet(1227, "Access denied; you need REPLICATION SLAVE"), ConfigError),
    ],
)
def test_the_servers_last_words(monkeypatch: pytest.MonkeyPatch, payload: bytes, error: type[CdcError]) -> None:
    stream = opened(monkeypatch, Raw([payload]), at())
    with pytest.raises(error):
        next_event(stream, Collector(), 1)


def test_a_cut_connection_is_unavailable_and_close_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Raw(is_closed=True)
    stream = opened(monkeypatch, raw, at())
    with pytest.raises(SourceUnavailable, match="cut the stream"):
        next_event(stream, Collector(), 1)
    stream.close()
    stream.close()
    assert not raw.is_open
