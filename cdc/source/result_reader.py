"""The rows of a SELECT as record batches, read as they come, in bounded memory.

pymysql sends the statement and reads the result's head; what follows are packets of rows, which go straight from the
socket's bytes through `kernel.text_rows` into Arrow columns. What the kernel leaves, `resultset.to_record_batch`
decodes, or says what is wrong with it.

Source: MySQL manual, "Text Resultset", "MySQL Packets", "Sending More Than 16Mb".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NoReturn

import pyarrow as pa
import pymysql

from cdc.binlog.charsets import UnprovenCharset
from cdc.errors import ProtocolError, UnsupportedData
from cdc.model import TableDefinition
from cdc.source.connection import SourceConnection
from cdc.source.kernel.text_rows import Consumed, RowBuffer
from cdc.source.resultset import to_record_batch

__all__ = ["ResultReader", "raise_server_error", "row_values"]

_WINDOW_BYTES = 256 * 1024  # the server sends 16 KiB at a time; more than this made nothing faster
_KEPT_WINDOW_BYTES_MAX = 1 << 20
_HEADER_BYTES = 4
_PACKET_BYTES_MAX = 0xFFFFFF
_ROW_BYTES_MAX = 1 << 31  # two rows of max_allowed_packet at its largest: what is longer is no row
_NULL = 0xFB
_SERVER_LOST = 2013
_ERROR_BYTES_MIN = 4  # 0xFF, the number, and one of what follows


class ResultReader:
    """Reads SELECTs of `resultset.select_list(definition)` on one session, one after the other."""

    def __init__(self, connection: SourceConnection, definition: TableDefinition) -> None:
        """Raises UnsupportedData for a charset whose conversion has not been compared with the server's."""
        self._connection = connection
        self._definition = definition
        try:
            self._buffer = RowBuffer(definition)
        except UnprovenCharset as error:
            raise UnsupportedData(
                f"{definition.name} has text in {error}, whose conversion is not known",
                table=str(definition.name),
                hint="convert the column to utf8mb4, or exclude the table",
            ) from error
        self._window = memoryview(bytearray(_WINDOW_BYTES))
        self._start = self._end = 0
        self._is_at_head = True
        self._sequence = 0
        self._odd: list[pa.RecordBatch] = []
        """Batches of the rows so far, those of the twin among them, where there are any."""
        self._odd_bytes = 0

    def read(self, sql: str, *, rows_max: int, bytes_max: int) -> Iterator[pa.RecordBatch]:
        """Run the SELECT; its rows in their order, in batches of at most `rows_max` and about `bytes_max`.

        A result that is not read to its end takes the session with it.

        Raises SourceUnavailable when the connection is lost in the middle, UnsupportedData for a value that cannot be
        carried, and what the server's errors stand for.
        """
        raw: Any = self._connection.raw
        is_over = False
        try:
            with self._connection.translated():
                raw.query(sql, unbuffered=True)
                self._check_head(raw._result)
                self._start = self._end = 0
                self._is_at_head = True
                self._sequence = raw._next_seq_id
            while not is_over:
                with self._connection.translated():
                    is_over = self._collect(raw, rows_max, bytes_max)
                batch = self._take()
                if batch.num_rows:
                    yield batch
        finally:
            self._leave(raw, is_at_end=is_over)

    def _check_head(self, result: Any) -> None:
        if result.field_count != len(self._definition.columns):
            raise ProtocolError(
                f"the source answers a SELECT of {len(self._definition.columns)} columns with {result.field_count}"
            )

    def _leave(self, raw: Any, *, is_at_end: bool) -> None:
        result, raw._result = raw._result, None
        if result is not None:
            # Or pymysql would read the rest of what it takes for its own.
            is_open, result.unbuffered_active, result.connection = result.unbuffered_active, False, None
            if is_open and not is_at_end:
                raw._force_close()
        self._odd, self._odd_bytes = [], 0
        if self._buffer.row_count:
            self._buffer.take()
        if len(self._window) > _KEPT_WINDOW_BYTES_MAX:
            self._window = memoryview(bytearray(_WINDOW_BYTES))

    # ------------------------------------------------------------ packets

    def _collect(self, raw: Any, rows_max: int, bytes_max: int) -> bool:
        """Rows up to a limit, or to the end of the result: then True."""
        buffer = self._buffer
        while True:
            rows_stop = rows_max - sum(batch.num_rows for batch in self._odd)
            reason, taken, self._sequence = buffer.consume(
                self._window[self._start : self._end],
                self._sequence,
                max(0, rows_stop),
                max(0, bytes_max - self._odd_bytes),
            )
            self._start += taken
            if reason == Consumed.WANTS_MORE:
                self._receive(raw)
            elif reason == Consumed.IS_END:
                return True
            elif reason == Consumed.IS_FULL:
                return False
            elif reason in (Consumed.IS_ODD, Consumed.IS_LARGE):
                payload = self._packet(raw)
                if reason == Consumed.IS_ODD or not buffer.append_row(payload):
                    self._append_odd(payload)
            elif reason == Consumed.IS_ERROR:
                payload = self._packet(raw)
                raw._result.unbuffered_active = False  # nothing follows: the session may go on
                raise_server_error(payload)
            else:
                raise self._out_of_order()

    def _out_of_order(self) -> Exception:
        number = self._window[self._start + 3]
        if number == 0:  # MariaDB says so when it shuts down
            return pymysql.err.OperationalError(_SERVER_LOST, "Lost connection to MySQL server during query")
        return ProtocolError(f"the source sends packet {number} of a result where {self._sequence} follows")

    def _packet(self, raw: Any) -> bytes:
        """The payload at the front, put together from its packets and taken."""
        parts = []
        size, total = _PACKET_BYTES_MAX, 0
        while size == _PACKET_BYTES_MAX:
            self._need(raw, _HEADER_BYTES)
            size = int.from_bytes(self._window[self._start : self._start + 3], "little")
            if self._window[self._start + 3] != self._sequence:
                raise self._out_of_order()
            self._sequence = (self._sequence + 1) & 0xFF
            total += size
            if total > _ROW_BYTES_MAX:
                raise ProtocolError(f"the source sends a row of more than {_ROW_BYTES_MAX} bytes")
            self._need(raw, _HEADER_BYTES + size)
            self._start += _HEADER_BYTES
            parts.append(bytes(self._window[self._start : self._start + size]))
            self._start += size
        return b"".join(parts)

    def _need(self, raw: Any, size: int) -> None:
        while self._end - self._start < size:
            self._receive(raw)

    def _receive(self, raw: Any) -> None:
        """More bytes into the window, which grows to what one packet needs."""
        if self._end == len(self._window):
            held = self._end - self._start
            target = self._window
            if held > len(self._window) // 2:
                target = memoryview(bytearray(2 * len(self._window)))
            target[:held] = bytes(self._window[self._start : self._end])
            self._window, self._start, self._end = target, 0, held
        room = self._window[self._end :]
        if self._is_at_head:  # what pymysql has read ahead comes first; then, TLS or not, the socket itself
            self._is_at_head = False
            ahead = raw._rfile.read1(len(room))
            count = len(ahead)
            room[:count] = ahead
        else:
            count = raw._sock.recv_into(room)
        if not count:
            raise pymysql.err.OperationalError(_SERVER_LOST, "Lost connection to MySQL server during query")
        self._end += count

    # ------------------------------------------------------------ rows

    def _append_odd(self, payload: bytes) -> None:
        """A row that the kernel has left, by the twin."""
        if self._buffer.row_count:
            self._keep(self._buffer.take())
        self._keep(to_record_batch(self._definition, [row_values(payload, len(self._definition.columns))]))

    def _keep(self, batch: pa.RecordBatch) -> None:
        self._odd.append(batch)
        self._odd_bytes += batch.nbytes

    def _take(self) -> pa.RecordBatch:
        batch = self._buffer.take()
        if not self._odd:
            return batch
        whole = pa.Table.from_batches([*self._odd, batch]).combine_chunks()
        self._odd, self._odd_bytes = [], 0
        return whole.to_batches()[0]


def raise_server_error(payload: bytes) -> NoReturn:
    """The error of an error packet. Raises ProtocolError where it is none."""
    if len(payload) < _ERROR_BYTES_MIN:
        raise ProtocolError("an error packet ends inside its head", frame=payload)
    try:
        pymysql.err.raise_mysql_exception(payload)
    except UnicodeDecodeError as error:
        raise ProtocolError("an error packet has a state that is no text", frame=payload) from error
    raise AssertionError("pymysql raises")


def row_values(payload: bytes, column_count: int) -> tuple[bytes | None, ...]:
    """The values of a row's packet. Raises ProtocolError where it is none."""
    values: list[bytes | None] = []
    at = 0
    try:
        while at < len(payload):
            first = payload[at]
            at += 1
            if first == _NULL:
                values.append(None)
                continue
            size = first
            if first > _NULL:
                size_bytes = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
                (size,) = struct.unpack("<Q", payload[at : at + size_bytes].ljust(8, b"\0"))
                at += size_bytes
            if at + size > len(payload):
                raise ProtocolError("a row of a result ends inside a value", frame=payload[:4096])
            values.append(payload[at : at + size])
            at += size
    except KeyError as error:
        raise ProtocolError("a row of a result has a length that is none", frame=payload[:4096]) from error
    if len(values) != column_count:
        raise ProtocolError(f"a row of a result has {len(values)} values, not {column_count}", frame=payload[:4096])
    return tuple(values)
