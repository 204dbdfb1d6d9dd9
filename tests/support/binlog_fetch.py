"""Read a server's binlog over the protocol, in the shortest way that a test can use.

Independent of cdc/source: the decoder's tests must not hang on the reader that feeds it. Rows are decoded by the kernel
and by its Python twin, which must agree in everything; the caller gets what the kernel made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Protocol

import pymysql

from cdc.binlog.constants import EventType
from cdc.binlog.events import EventClass, RowsEvent, classify, parse_rows, parse_transaction_payload, payload_events
from cdc.binlog.framing import Event, EventFramer
from cdc.binlog.kernel.rows import ImageBuffer
from cdc.binlog.layout import RowLayout, build_layout
from cdc.binlog.rows import ImageBuffer as TwinBuffer
from cdc.binlog.table_map import TableMap, parse_table_map
from cdc.errors import CdcError
from cdc.model import Flavor, RowBatch, TableDefinition
from tests.support.row_batches import assert_same_batch

__all__ = ["Place", "binlog_place", "decode_table", "fetch_contents", "fetch_events", "flatten", "flavor_of"]

_COM_BINLOG_DUMP = 0x12
_NON_BLOCK = 0x01
_SEND_ANNOTATE = 0x02
# Ids that no replica of the tests uses; a second dump with one id would end the first.
_FIRST_SERVER_ID = 900_000

Place = tuple[str, int]


class ServerLike(Protocol):
    """What is asked of a server: an open connection to it."""

    def connect(self, database: str | None = None, **arguments: Any) -> Any: ...


def flavor_of(server: ServerLike) -> tuple[Flavor, tuple[int, ...]]:
    """The family of a server, and its version as numbers."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        text = str(cursor.fetchone()[0])
    version = tuple(int(part) for part in text.split("-")[0].split("."))
    return ("mariadb" if "mariadb" in text.lower() else "mysql"), version


def binlog_place(server: ServerLike) -> Place:
    """Where the server writes now."""
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in ("SHOW BINARY LOG STATUS", "SHOW BINLOG STATUS", "SHOW MASTER STATUS"):
            try:
                cursor.execute(statement)
            except pymysql.err.Error:
                continue
            file, position = cursor.fetchone()[:2]
            return str(file), int(position)
    raise AssertionError("the server writes no binlog")


def fetch_contents(server: ServerLike, place: Place, *, annotate: bool = False, capability: int = 4) -> Iterator[bytes]:
    """Every event from `place` to the end of the log, header and checksum included; then the server says EOF."""
    with server.connect(ssl_disabled=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT VERSION(), CONNECTION_ID()")
            version, connection_id = cursor.fetchone()
            cursor.execute(
                "SET @master_binlog_checksum = @@global.binlog_checksum, "
                "@source_binlog_checksum = @@global.binlog_checksum"
            )
            if "mariadb" in version.lower():
                cursor.execute(f"SET @mariadb_slave_capability = {capability}")
        file, position = place
        flags = _NON_BLOCK | (_SEND_ANNOTATE if annotate else 0)
        server_id = _FIRST_SERVER_ID + int(connection_id)
        connection._execute_command(_COM_BINLOG_DUMP, struct.pack("<IHI", position, flags, server_id) + file.encode())
        while True:
            packet = connection._read_packet()
            if packet.is_eof_packet():
                return
            yield bytes(packet._data[1:])


def fetch_events(server: ServerLike, place: Place, *, annotate: bool = False) -> list[Event]:
    """Those events framed, checksums verified."""
    framer = EventFramer(initial_checksum=None)
    return [framer.frame(content) for content in fetch_contents(server, place, annotate=annotate)]


def flatten(events: list[Event]) -> Iterator[Event]:
    """The events, those inside compressed transactions in the place of these."""
    for event in events:
        if event.header.event_type == EventType.TRANSACTION_PAYLOAD:
            yield from payload_events(parse_transaction_payload(event))
        else:
            yield event


class _BothBuffers:
    """The kernel's buffer and the twin's, given the same events."""

    def __init__(self, layout: RowLayout, *, needs_all_columns: bool) -> None:
        self._kernel = ImageBuffer(layout, needs_all_columns=needs_all_columns)
        self._twin = TwinBuffer(layout, needs_all_columns=needs_all_columns)

    @property
    def image_count(self) -> int:
        assert self._kernel.image_count == self._twin.image_count
        return self._kernel.image_count

    def append(self, event: RowsEvent, transaction_index: int) -> None:
        """Raises what both raise."""
        said = [_outcome(buffer, event, transaction_index) for buffer in (self._kernel, self._twin)]
        kernel, twin = said
        if isinstance(kernel, CdcError):
            assert isinstance(twin, CdcError)
            assert (type(kernel), str(kernel)) == (type(twin), str(twin))
            raise kernel
        assert kernel == twin

    def take(self) -> RowBatch:
        """The kernel's batch."""
        assert self._kernel.byte_count == self._twin.byte_count
        batch = self._kernel.take()
        assert_same_batch(batch, self._twin.take())
        return batch


def _outcome(buffer: ImageBuffer | TwinBuffer, event: RowsEvent, transaction_index: int) -> int | CdcError:
    try:
        return buffer.append(event, transaction_index)
    except CdcError as error:
        return error


def decode_table(
    events: list[Event],
    definition: TableDefinition,
    server_version: tuple[int, ...],
    *,
    needs_all_columns: bool = True,
) -> tuple[list[RowBatch], list[TableMap]]:
    """All images of one table in those events, one batch a distinct table map; and the table maps."""
    name = definition.name
    maps: dict[int, TableMap] = {}
    seen: list[TableMap] = []
    buffers: list[_BothBuffers] = []
    for event in flatten(events):
        kind = classify(event.header.event_type, event.header.flags)
        assert kind not in (EventClass.UNKNOWN, EventClass.INCIDENT), event.header
        if kind is EventClass.TABLE_MAP:
            table_map = parse_table_map(event, definition.flavor)
            maps[table_map.table_id] = table_map
        elif kind is EventClass.ROWS:
            rows = parse_rows(event)
            table_map = maps[rows.table_id]
            if (table_map.database, table_map.table) != (name.database, name.table):
                continue
            if not seen or seen[-1] != table_map:
                layout = build_layout(table_map, definition, flavor=definition.flavor, server_version=server_version)
                seen.append(table_map)
                buffers.append(_BothBuffers(layout, needs_all_columns=needs_all_columns))
            buffers[-1].append(rows, 0)
    return [buffer.take() for buffer in buffers if buffer.image_count], seen
