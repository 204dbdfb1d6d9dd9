"""A stream that is ended from another thread, and the sessions that come after it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from cdc.clock import SystemClock
from cdc.demo.servers import Server
from cdc.model import ServerIdentity, SourcePosition
from cdc.pipeline.channel import Channel
from cdc.pipeline.hooks import Hooks
from cdc.pipeline.reader import Reader
from cdc.source.assembler import Assembler, Output, RunLimits
from cdc.source.connection import SourceSettings, SslSettings, connect
from cdc.source.positions import written_file_pos
from cdc.source.stream import BinlogStream
from tests.support.waiting import wait_until
from tests.unit.source.streams import Tables

_CONTENT = b"what a stranger is sent"


def test_a_stopped_tls_stream_reads_nothing_of_the_session_that_is_given_its_descriptor(
    mysql97: Server, database: Callable[[Server], str]
) -> None:
    """OpenSSL reads by number: a stream closed under its reader took five bytes of whoever had the number next."""
    settings = SourceSettings(
        mysql97.host,
        mysql97.port,
        mysql97.user,
        mysql97.password,
        server_id=79,
        ssl=SslSettings("required"),
        heartbeat_seconds=60,
    )
    with connect(settings) as source:
        start = SourcePosition(ServerIdentity("mysql", "x"), written_file_pos(source))
    stream = BinlogStream(settings, flavor="mysql", position=start, server_id=79)
    received: list[int] = []

    def make_assembler(output: Output) -> Assembler:
        return Assembler(
            start=start,
            flavor="mysql",
            server_version=(9, 7, 0),
            checksum_negotiated=stream.checksum_negotiated,
            lower_case_names=False,
            capture=Tables([]),
            output=output,
            limits=RunLimits(),
        )

    reader = Reader(
        name="test",
        stream=stream,
        make_assembler=make_assembler,
        channel=Channel(1 << 20),
        clock=SystemClock(),
        hooks=Hooks(),
        age_seconds_max=5,
        silence_seconds_max=60,
        on_received=lambda _events, size: received.append(size),
    )
    reader.start()
    wait_until(lambda: received, what="the first events")
    number = stream._raw._sock.fileno()  # type: ignore[union-attr]
    pairs: list[tuple[socket.socket, socket.socket]] = []
    try:
        stopper = threading.Thread(target=reader.stop)
        stopper.start()
        # The lowest number that is free is given away first.
        wait_until(lambda: _is_free(number), what="the descriptor to be closed", poll_seconds=0.001)
        pairs.extend(socket.socketpair() for _ in range(20))
        ours, theirs = next((one, other) for a, b in pairs for one, other in ((a, b), (b, a)) if one.fileno() == number)
        theirs.sendall(_CONTENT)
        database(mysql97)  # an event: a stream that is still read is read now
        stopper.join(60)
        assert not stopper.is_alive()
        assert ours.recv(100) == _CONTENT
    finally:
        for one in (one for pair in pairs for one in pair):
            one.close()


def _is_free(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
