"""The replication stream: a session that asks for the binlog and hands over its packets.

Opens with pymysql (handshake, authentication, TLS), says what a replica says before it asks for the log, and then
reads the socket itself. python-mysql-replication's reader is not used here: it cannot be given a GTID set with tags,
takes an empty one for unset, ignores file and position on MariaDB, and hides what it drops (docs/decisions/0002).

Source: MySQL internals manual, COM_REGISTER_SLAVE, COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID;
MariaDB knowledge base "Replication protocol".
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import uuid
from typing import Any, Protocol

import pymysql

from cdc.errors import CdcError, ConfigError, ProtocolError, SourceUnavailable
from cdc.gtid import MysqlGtidSet
from cdc.model import Flavor, ServerIdentity, SourcePosition
from cdc.source.connection import (
    SourceSettings,
    hang_up,
    open_session,
    require_server,
    server_identity,
    translate_error,
)

__all__ = ["BinlogStream", "Consumer", "PacketReader"]

_COM_REGISTER_SLAVE = 0x15
_COM_BINLOG_DUMP = 0x12
_COM_BINLOG_DUMP_GTID = 0x1E
_BINLOG_THROUGH_GTID = 0x04
_PACKET_MAX = 0xFFFFFF
# The largest event a server can write is max_allowed_packet's upper limit, 1 GiB, and its header.
EVENT_BYTES_MAX = (1 << 30) + (1 << 20)
# Larger ones bring nothing (measured from 64 KiB on); it is filled up to where less than the minimum is left.
_BUFFER_BYTES = 512 * 1024
_RECEIVE_BYTES_MIN = 128 * 1024
_FIRST_POSITION = 4
# A source that sends without pause is received in pieces of so many bytes, not in each of its 16 KiB: a third less CPU
# time on one-row transactions. It counts as one after so many receives in a row of so much, and no longer once it is
# silent for so long, which is what a receive may come late by.
LOW_WATER_BYTES = 256 * 1024
_RUSH_RECEIVES, _RUSH_BYTES_MIN = 64, 4096
_LOW_WATER_SECONDS = 0.002
_RECORD_BYTES_MAX = 16 * 1024  # of a TLS record's content


class PacketReader:
    """Receives MySQL packets from a connected socket into one buffer, and shows what is in it.

    The buffer grows while a packet is larger than it, by what has been received, and is cut back afterwards.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._timeout: float | None = -1
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._has_low_water = isinstance(sock, socket.socket)
        self._is_low_water = False
        self._receives_in_rush = 0

    @property
    def window(self) -> memoryview:
        """What has been received and not been taken; void after the next `fill`."""
        return self._buffer[self._start : self._end]

    def advance(self, count: int) -> None:
        """`count` bytes of `window` have been taken."""
        self._start += count
        assert self._start <= self._end, "no more than there was"

    def fill(self, timeout_seconds: float) -> int:
        """Receive what is there; how many bytes, 0 when none came within the time.

        Raises OSError when the connection is gone.
        """
        self._make_room()
        received = 0
        if self._is_low_water:
            received = self._receive(min(timeout_seconds, _LOW_WATER_SECONDS))
            if not received:
                self._set_low_water(is_low=False)
            elif self._is_tls:
                received += self._receive_records(LOW_WATER_BYTES - received)
        if not received:
            received = self._receive(timeout_seconds)
        self._receives_in_rush = self._receives_in_rush + 1 if received >= _RUSH_BYTES_MIN else 0
        if self._receives_in_rush == _RUSH_RECEIVES and self._has_low_water:
            self._set_low_water(is_low=True)
        return received

    def _receive_records(self, wanted: int) -> int:
        """Receive up to `wanted` bytes more of what is there: TLS hands out a record (16 KiB) a time.

        What is wrong with the connection shows at the next `fill`, behind what has come.
        """
        self._set_timeout(0)
        total = 0
        while total < wanted and len(self._buffer) - self._end >= _RECORD_BYTES_MAX:
            try:
                received: int = self._sock.recv_into(self._buffer[self._end :])
            except OSError:
                break
            if not received:
                break
            self._end += received
            total += received
        return total

    def _set_timeout(self, seconds: float) -> None:
        if self._timeout != seconds:
            self._sock.settimeout(seconds)
            self._timeout = seconds

    def _receive(self, timeout_seconds: float) -> int:
        self._set_timeout(timeout_seconds)
        try:
            received: int = self._sock.recv_into(self._buffer[self._end :])
        except TimeoutError:
            return 0
        if not received:
            raise ConnectionResetError("the source closed the connection")
        self._end += received
        return received

    def _set_low_water(self, *, is_low: bool) -> None:
        self._is_low_water, self._receives_in_rush = is_low, 0
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW_WATER_BYTES if is_low else 1)

    def _make_room(self) -> None:
        held = self._end - self._start
        if not held:
            self._start = self._end = 0
            if len(self._buffer) > _BUFFER_BYTES:
                self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        if len(self._buffer) - self._end >= _RECEIVE_BYTES_MIN:
            return
        target = self._buffer
        if held > len(self._buffer) // 2:
            # Twice as much, or what the packet that is being received needs, if that is less.
            wanted = 4 + int.from_bytes(self._buffer[self._start : self._start + 3], "little") + _RECEIVE_BYTES_MIN
            size = 2 * len(self._buffer)
            target = memoryview(bytearray(min(size, wanted) if wanted - held >= _RECEIVE_BYTES_MIN else size))
        target[:held] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = target, 0, held

    def packet(self) -> memoryview | None:
        """The payload at the front, put together from its packets and taken; None while it is not whole.

        It lies in the buffer (an event may be as large as all the rest that we hold), void after the next `fill`.
        Raises ProtocolError for one larger than any event.
        """
        end = self._complete_at()
        if end is None:
            return None
        buffer = self._buffer
        at = self._start
        start = size = at + 4  # of the payload: where it begins, and where it ends so far
        while at < end:
            length = int.from_bytes(buffer[at : at + 3], "little")
            if size != at + 4:
                buffer[size : size + length] = buffer[at + 4 : at + 4 + length]
            size += length
            at += 4 + length
        self._start = end
        return buffer[start:size]

    def _complete_at(self) -> int | None:
        """Where the payload that begins at `_start` ends, if all of it is there."""
        at, total = self._start, 0
        while self._end - at >= 4:
            length = int.from_bytes(self._buffer[at : at + 3], "little")
            total += length
            if total > EVENT_BYTES_MAX:
                raise ProtocolError(
                    f"the source sends a packet of more than {EVENT_BYTES_MAX} bytes",
                    hint="this is no binlog event; check that source.url names a MySQL or MariaDB server",
                )
            at += 4 + length
            if self._end < at:
                return None
            if length < _PACKET_MAX:
                return at
        return None


class Consumer(Protocol):
    """Who takes the events: the assembler."""

    saw_barrier: bool

    def consume(self, window: memoryview) -> int:
        """Take whole packets of events off the front of `window`; returns their bytes."""

    def feed(self, content: memoryview) -> bool:
        """Take one event that came in several packets. True at a barrier. `content` is void afterwards."""


class BinlogStream:
    """One dump session, from a position on. Hands on the events' bytes; interprets nothing but OK, ERR and EOF."""

    def __init__(
        self,
        settings: SourceSettings,
        *,
        flavor: Flavor,
        position: SourcePosition,
        server_id: int,
        server: ServerIdentity | None = None,
    ) -> None:
        """`server`: the one that it has to be; None for whichever answers."""
        self.settings = settings
        self._server = server
        self.flavor = flavor
        self.position = position
        self.server_id = server_id
        self.checksum_negotiated = True
        self._raw: pymysql.connections.Connection[Any] | None = None
        self._packets: PacketReader | None = None
        self._closing = threading.Lock()

    def open(self) -> None:
        """Connect and ask for the log from `position`.

        Raises SourceUnavailable (also for another server than it has to be), ConfigError. What is wrong with the
        position shows at the first `read`.
        """
        settings = self.settings
        try:
            raw = open_session(settings, read_timeout=settings.read_timeout_seconds)
        except (pymysql.err.Error, OSError) as error:
            raise translate_error(error, settings, position=str(self.position)) from error
        self._raw = raw
        try:
            self._require_server(raw)
            self._introduce(raw)
            self._register(raw)
            self._dump(raw)
        except (pymysql.err.Error, OSError) as error:
            self.close()
            raise self._translated(error) from error
        except CdcError:
            self.close()
            raise
        self._packets = PacketReader(raw._sock)  # type: ignore[attr-defined]  # after the command, the socket is ours

    def _translated(self, error: Exception) -> CdcError:
        """An error of the session once it is open: 'access denied' is no wrong password any more."""
        if error.args and error.args[0] in (1045, 1227):
            return ConfigError(
                f"source {self.settings.address} does not let {self.settings.user} read the binlog "
                f"(error {error.args[0]}): the REPLICATION SLAVE privilege is missing",
                hint=f"GRANT REPLICATION SLAVE ON *.* TO '{self.settings.user}'@'%'",
            )
        return translate_error(error, self.settings, position=str(self.position))

    def _require_server(self, raw: pymysql.connections.Connection[Any]) -> None:
        """On this connection, as no other one says where it leads to."""
        if self._server is None:
            return

        def variable(name: str) -> str | None:
            with raw.cursor() as cursor:
                cursor.execute("SHOW GLOBAL VARIABLES LIKE %s", (name.replace("_", r"\_"),))
                row = cursor.fetchone()
            return str(row[1]) if row else None

        require_server(server_identity(self.flavor, variable), self._server, self.settings)

    def _introduce(self, raw: pymysql.connections.Connection[Any]) -> None:
        heartbeat_ns = int(self.settings.heartbeat_seconds * 1_000_000_000)
        # A replica's uuid that is the same at each start of this server_id: the server ends our own zombie dump
        # thread when we come back, and tells two services with one id apart by the error it gives.
        replica_uuid = uuid.uuid5(uuid.NAMESPACE_URL, f"cdc://{self.settings.address}/{self.server_id}")
        statements = [
            "SET @master_binlog_checksum = @@global.binlog_checksum",
            "SET @source_binlog_checksum = @@global.binlog_checksum",
            f"SET @master_heartbeat_period = {heartbeat_ns}, @source_heartbeat_period = {heartbeat_ns}",
            f"SET @slave_uuid = '{replica_uuid}', @replica_uuid = '{replica_uuid}'",
            # A long merge at the sink must not cut the stream: the server may wait for hours to send.
            "SET SESSION net_write_timeout = 31536000, net_read_timeout = 31536000, wait_timeout = 31536000",
        ]
        if self.flavor == "mariadb":
            # 4: the server sends GTID, annotate and compressed events as they are.
            statements.append("SET @mariadb_slave_capability = 4")
            if self.position.gtid is not None:
                statements.append(f"SET @slave_connect_state = '{self.position.gtid}'")
                statements.append("SET @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0")
        with raw.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("SELECT @@global.binlog_checksum")
            row = cursor.fetchone()
            self.checksum_negotiated = bool(row) and str(row[0]).upper() not in ("NONE", "0")

    def _register(self, raw: pymysql.connections.Connection[Any]) -> None:
        # server_id[4], lengths and texts of host, user and password (empty: shown by SHOW REPLICAS), port[2],
        # rank[4], source id[4]
        raw._execute_command(  # type: ignore[attr-defined]
            _COM_REGISTER_SLAVE, struct.pack("<I", self.server_id) + b"\0\0\0" + struct.pack("<HII", 0, 0, 0)
        )
        raw._read_packet()  # type: ignore[no-untyped-call]

    def _dump(self, raw: pymysql.connections.Connection[Any]) -> None:
        position = self.position
        if isinstance(position.gtid, MysqlGtidSet):
            encoded = position.gtid.encode()
            payload = (
                struct.pack("<HII", _BINLOG_THROUGH_GTID, self.server_id, 0)
                + struct.pack("<QI", _FIRST_POSITION, len(encoded))
                + encoded
            )
            raw._execute_command(_COM_BINLOG_DUMP_GTID, payload)  # type: ignore[attr-defined]
            return
        if position.gtid is not None:  # MariaDB: @slave_connect_state says where
            file, offset = b"", _FIRST_POSITION
        elif position.file is None:
            raise ConfigError("a stream by file and position needs both", hint="`cdc checkpoint reset` starts anew")
        else:
            # The command holds 32 bits: past 4 GiB the file is read from its start and passed over up to there.
            offset = position.file.pos if position.file.pos < 1 << 32 else _FIRST_POSITION
            file = position.file.file.encode()
        raw._execute_command(  # type: ignore[attr-defined]
            _COM_BINLOG_DUMP, struct.pack("<IHI", offset, 0, self.server_id) + file
        )

    def fill(self, timeout_seconds: float) -> int:
        """Receive what the source has sent; how many bytes, 0 when none came within the time.

        Raises SourceUnavailable when the connection is gone.
        """
        assert self._packets is not None, "open() first"
        try:
            return self._packets.fill(timeout_seconds)
        except (OSError, pymysql.err.Error) as error:
            raise SourceUnavailable(
                f"source {self.settings.address} cut the stream: {error}", hint="see the server's error log"
            ) from error

    def deliver(self, consumer: Consumer) -> bool:
        """Hand over all events that have been received whole. True at a barrier: the consumer takes no more.

        Raises what the consumer raises; SourceUnavailable when the server ended the stream, and what error 1236 stands
        for.
        """
        packets = self._packets
        assert packets is not None, "open() first"
        while True:
            packets.advance(consumer.consume(packets.window))
            if consumer.saw_barrier:
                return True
            payload = packets.packet()
            if payload is None:
                return False
            if not len(payload) or payload[0] != 0:
                raise self._end_of_stream(bytes(payload))
            if consumer.feed(payload[1:]):
                return True

    def _end_of_stream(self, payload: bytes) -> CdcError:
        if payload[:1] == b"\xff":
            try:
                pymysql.err.raise_mysql_exception(payload)
            except pymysql.err.Error as error:
                return self._translated(error)
            except (struct.error, UnicodeDecodeError):
                pass  # no error that a server sends
        if payload[:1] == b"\xfe" and len(payload) < 9:
            return SourceUnavailable(
                f"source {self.settings.address} ended the stream (EOF)",
                hint="the server is shutting down, or was told to",
            )
        return ProtocolError(
            f"source {self.settings.address} sent a packet that is no event: {payload[:16].hex()}", frame=payload[:4096]
        )

    def hang_up(self) -> None:
        """From another thread: end the conversation, so that who reads is told. He closes the session himself.

        A TLS session reads by the descriptor's number: closed under its reader, it would take what belongs to the
        session that is given the number next.
        """
        with self._closing:
            if self._raw is not None:
                hang_up(self._raw)

    def close(self) -> None:
        """Drop the session, in the thread that reads it. The server's dump thread ends at its next write."""
        with self._closing:
            raw, self._raw, self._packets = self._raw, None, None
            if raw is not None:
                with contextlib.suppress(Exception):
                    raw._force_close()  # type: ignore[attr-defined]  # no COM_QUIT: it is in the middle of a dump
