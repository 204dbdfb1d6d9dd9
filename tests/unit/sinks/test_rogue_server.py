"""A server that answers a query by asking for a file (EDGE_CASES G7) gets none, but rows that it was offered."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest

from cdc.errors import CdcError
from cdc.sinks.local_infile import ForeignRequest, LoadReply, load_local
from cdc.sinks.mysql import MysqlSettings, MysqlSink

# protocol 41, secure connection, plugin auth, transactions, connect with db, long password; no TLS
CAPABILITIES = 0x00000001 | 0x00000008 | 0x00000200 | 0x00002000 | 0x00008000 | 0x00080000
GREETING = (
    b"\x0a9.7.0\0"
    + struct.pack("<I", 7)
    + b"12345678\0"
    + struct.pack("<HBHHB", CAPABILITIES & 0xFFFF, 45, 2, CAPABILITIES >> 16, 21)
    + bytes(10)
    + b"123456789012\0"
    + b"mysql_native_password\0"
)
OK = b"\x00\x00\x00\x02\x00\x00\x00"


def read_packet(stream: socket.socket) -> bytes:
    head = b""
    while len(head) < 4:
        part = stream.recv(4 - len(head))
        if not part:
            return b""
        head += part
    size, body = int.from_bytes(head[:3], "little"), b""
    while len(body) < size:
        body += stream.recv(size - len(body))
    return body


def send_packet(stream: socket.socket, sequence: int, body: bytes) -> None:
    stream.sendall(len(body).to_bytes(3, "little") + bytes([sequence]) + body)


@pytest.mark.parametrize("honest_answers", range(4))
def test_a_server_that_asks_for_a_file_gets_none(honest_answers: int) -> None:
    """The file is asked for in answer to the first query, the second …: also to those of the driver itself."""
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        stream, _ = listener.accept()
        stream.settimeout(10)
        with stream, contextlib.suppress(ConnectionError):
            send_packet(stream, 0, GREETING)
            read_packet(stream)
            send_packet(stream, 2, OK)
            for _ in range(honest_answers):
                read_packet(stream)
                send_packet(stream, 1, OK)
            read_packet(stream)
            send_packet(stream, 1, b"\xfb/etc/passwd")
            while packet := read_packet(stream):
                received.append(packet)
                if packet[:1] == b"\x03":  # the driver does not look at the answer to SET NAMES, and goes on
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    sink = MysqlSink(MysqlSettings("s", "127.0.0.1", listener.getsockname()[1], "u", password="p"))
    with pytest.raises(CdcError):
        sink.open()
    sink.close()
    thread.join(10)
    listener.close()

    assert not thread.is_alive()
    assert all(packet[:1] in (b"\x01", b"\x03") for packet in received), received  # COM_QUIT, COM_QUERY
    assert not any(b"root:" in packet for packet in received)


OUR_REQUEST = object()
DONE = b"\x00\x02\x00\x02\x00\x00\x00Records: 2  Deleted: 0  Skipped: 0  Warnings: 0"
NO_COUNTS = b"\x00\x02\x00\x02\x00\x00\x00"
MORE_RESULTS = DONE[:3] + b"\x0a" + DONE[4:]
RESULT_SET = b"\x01"


@pytest.mark.parametrize(
    "request_for_file,reply,is_taken",
    [
        (OUR_REQUEST, DONE, True),
        (OUR_REQUEST, NO_COUNTS, False),
        (OUR_REQUEST, MORE_RESULTS, False),
        (OUR_REQUEST, RESULT_SET, False),
        (b"\xfb/etc/passwd", DONE, False),
        (b"\xfb", DONE, False),
        (OK, DONE, False),
        (RESULT_SET, DONE, False),
    ],
)
def test_rows_go_only_to_a_server_that_asks_for_them(request_for_file: object, reply: bytes, is_taken: bool) -> None:
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        stream, _ = listener.accept()
        stream.settimeout(10)
        with stream, contextlib.suppress(ConnectionError):
            send_packet(stream, 0, GREETING)
            read_packet(stream)
            send_packet(stream, 2, OK)
            for _ in range(2):  # SET NAMES, SET AUTOCOMMIT
                read_packet(stream)
                send_packet(stream, 1, OK)
            statement = read_packet(stream)
            wanted = b"\xfb" + statement.split(b"'")[1] if request_for_file is OUR_REQUEST else request_for_file
            assert isinstance(wanted, bytes)
            send_packet(stream, 1, wanted)
            sequence = 2
            while packet := read_packet(stream):
                received.append(packet)
                sequence += 1
            if received:
                send_packet(stream, sequence + 1, reply)

    thread = threading.Thread(target=serve)
    thread.start()
    sink = MysqlSink(MysqlSettings("s", "127.0.0.1", listener.getsockname()[1], "u", password="p"))
    connection = sink._connect()
    pieces = [memoryview(b"secret 1\n"), memoryview(b"secret 2\n")]
    try:
        if is_taken:
            assert load_local(connection, "LOAD '{}'".format, pieces, packet_bytes_max=5) == LoadReply(2, 0, 0, 0)
        else:
            with pytest.raises(ForeignRequest):
                load_local(connection, "LOAD '{}'".format, pieces, packet_bytes_max=5)
            assert not connection.open
    finally:
        connection._force_close()
    thread.join(10)
    listener.close()

    assert not thread.is_alive()
    content = [packet for packet in received if packet[:1] != b"\x01"]
    if request_for_file is OUR_REQUEST:
        assert content == [b"secre", b"t 1\n", b"secre", b"t 2\n"]
    else:
        assert content == []
