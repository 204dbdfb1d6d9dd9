"""A server's stream, event by event, with its positions counted as the server counts them; and who listens to it."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cdc.binlog.constants import EventFlag, EventType
from cdc.errors import CdcError
from cdc.gtid import MariadbGtidList, MysqlGtidSet
from cdc.model import (
    FilePos,
    Flavor,
    Operation,
    RowBatch,
    SchemaChange,
    ServerIdentity,
    SourcePosition,
    TableDefinition,
    TableName,
    TransactionRun,
    Xa,
)
from cdc.source.assembler import Assembler, Capture, CapturedTable, Output, PreparedXa, RunLimits
from cdc.source.cascades import CascadeGraph
from tests.support.binlog_build import (
    BuiltColumn,
    columns_of_every_kind,
    definition_of,
    event_bytes,
    format_description_bytes,
    lenenc,
    optional_metadata,
    rows_body,
    table_map_body,
)

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
SERVER = ServerIdentity("mysql", UUID)
COLUMNS: tuple[BuiltColumn, ...] = tuple(c for c in columns_of_every_kind() if c.definition.name in ("i32", "v63"))
A, B, C = (TableName("shop", name) for name in "abc")
WHEN = 1_700_000_000
CHECKSUM_BYTES = 4
FILE = "binlog.000007"

Row = tuple[Any, ...]


def definition(
    table: TableName = A, columns: Sequence[BuiltColumn] = COLUMNS, *, engine: str = "InnoDB", flavor: Flavor = "mysql"
) -> TableDefinition:
    return replace(definition_of(columns, flavor=flavor), name=table, engine=engine, primary_key=("i32",))


def at(pos: int, file: str = FILE, gtid: MysqlGtidSet | MariadbGtidList | None = None) -> SourcePosition:
    return SourcePosition(SERVER, FilePos.of(file, pos), gtid)


class Stream:
    """Makes events. `pos` is where the next one begins; `file` is where it is written.

    `hides_positions`: as MariaDB from 11.4 on, events inside a group have 0 for an end position.
    """

    def __init__(self, pos: int = 4, *, file: str = FILE, hides_positions: bool = False) -> None:
        self.pos = pos
        self.file = file
        self.hides_positions = hides_positions

    @property
    def here(self) -> FilePos:
        return FilePos.of(self.file, self.pos)

    def event(self, event_type: int, body: bytes, *, log_pos: int | None = None, **header: Any) -> bytes:
        self.pos += 19 + len(body) + CHECKSUM_BYTES
        if log_pos is None:
            log_pos = self.pos & 0xFFFFFFFF
        return event_bytes(event_type, body, log_pos=log_pos, **{"timestamp": WHEN, **header})

    def inner(self, event_type: int, body: bytes, **header: Any) -> bytes:
        """An event inside a group."""
        return self.event(event_type, body, log_pos=0 if self.hides_positions else None, **header)

    # -- files

    def opening(self) -> list[bytes]:
        """What every dump begins with: a rotate and a format description that are in no file."""
        return [self.fake_rotate(), self.fake_format()]

    def fake_rotate(self, file: str | None = None, pos: int | None = None) -> bytes:
        body = (self.pos if pos is None else pos).to_bytes(8, "little") + (file or self.file).encode()
        return event_bytes(EventType.ROTATE, body, timestamp=0, log_pos=0, flags=EventFlag.ARTIFICIAL)

    def fake_format(self) -> bytes:
        content = bytearray(format_description_bytes())
        return _with_log_pos(content, 0)

    def format(self) -> bytes:
        """A file's own first event."""
        content = bytearray(format_description_bytes())
        self.pos += len(content)
        return _with_log_pos(content, self.pos)

    def rotate(self, file: str) -> bytes:
        content = self.event(EventType.ROTATE, (4).to_bytes(8, "little") + file.encode())
        self.file, self.pos = file, 4
        return content

    # -- groups

    def gtid(self, number: int = 0, source: str = UUID) -> bytes:
        """0: an anonymous one."""
        body = b"\1" + (uuid.UUID(source).bytes if number else bytes(16)) + number.to_bytes(8, "little")
        body += b"\2" + bytes(16) + (WHEN * 1_000_000 + number).to_bytes(7, "little")
        return self.event(EventType.GTID if number else EventType.ANONYMOUS_GTID, body)

    def mariadb_gtid(self, sequence: int, *, domain: int = 0, flags: int = 0, extra: bytes = b"") -> bytes:
        body = sequence.to_bytes(8, "little") + domain.to_bytes(4, "little") + bytes((flags,)) + extra
        return self.event(EventType.MARIADB_GTID, body.ljust(19, b"\0"))

    def query(self, statement: str, *, database: str = "shop", sql_mode: int | None = None, error: int = 0) -> bytes:
        return self.inner(EventType.QUERY, query_body(statement, database=database, sql_mode=sql_mode, error=error))

    def end_query(self, statement: str, **more: Any) -> bytes:
        """A statement that is the end of its group: it has a position on every server."""
        return self.event(EventType.QUERY, query_body(statement, **more))

    def begin(self) -> bytes:
        return self.query("BEGIN")

    def xid(self) -> bytes:
        return self.event(EventType.XID, (9).to_bytes(8, "little"))

    # -- rows

    def table_map(
        self,
        table: TableName = A,
        table_id: int = 77,
        columns: Sequence[BuiltColumn] = COLUMNS,
        *,
        is_full: bool = False,
    ) -> bytes:
        optional = optional_metadata(columns) if is_full else b""
        body = table_map_body(columns, table_id=table_id, database=table.database, table=table.table, optional=optional)
        return self.inner(EventType.TABLE_MAP, body)

    def insert(self, *rows: Row, table_id: int = 77, columns: Sequence[BuiltColumn] = COLUMNS, flags: int = 1) -> bytes:
        body = rows_body(columns, rows, table_id=table_id, flags=flags)
        return self.inner(EventType.WRITE_ROWS, body)

    def update(self, before: Row, after: Row, *, table_id: int = 77, flags: int = 1) -> bytes:
        body = rows_body(COLUMNS, (before, after), table_id=table_id, flags=flags, is_update=True)
        return self.inner(EventType.UPDATE_ROWS, body)

    def delete(self, *rows: Row, table_id: int = 77, flags: int = 1) -> bytes:
        return self.inner(EventType.DELETE_ROWS, rows_body(COLUMNS, rows, table_id=table_id, flags=flags))

    def transaction(self, *rows: Row, table: TableName = A, number: int = 0) -> list[bytes]:
        """GTID, BEGIN, one INSERT of `rows`, XID."""
        return [self.gtid(number), self.begin(), self.table_map(table), self.insert(*rows), self.xid()]

    def heartbeat(self, pos: int | None = None, file: str | None = None) -> bytes:
        """Version 1: the position has 32 bits."""
        end = (self.pos if pos is None else pos) & 0xFFFFFFFF
        return event_bytes(EventType.HEARTBEAT, (file or self.file).encode(), timestamp=0, log_pos=end)

    def heartbeat_v2(self, pos: int | None = None) -> bytes:
        name = self.file.encode()
        end = lenenc(self.pos if pos is None else pos)
        body = b"\1" + lenenc(len(name)) + name + b"\2" + lenenc(len(end)) + end + b"\0"
        return event_bytes(EventType.HEARTBEAT_V2, body, timestamp=0, log_pos=0)


def _with_log_pos(content: bytearray, log_pos: int) -> bytes:
    content[13:17] = log_pos.to_bytes(4, "little")
    content[-4:] = zlib.crc32(content[:-4]).to_bytes(4, "little")
    return bytes(content)


def query_body(statement: str, *, database: str = "shop", sql_mode: int | None = None, error: int = 0) -> bytes:
    status = b"" if sql_mode is None else b"\1" + sql_mode.to_bytes(8, "little")
    head = struct.pack("<IIBHH", 11, 0, len(database.encode()), error, len(status))
    return head + status + database.encode() + b"\0" + statement.encode()


class Listener(Output):
    """Keeps what it is given, in order."""

    def __init__(self) -> None:
        self.items: list[TransactionRun | SchemaChange | SourcePosition | str] = []

    def run(self, run: TransactionRun) -> None:
        self.items.append(run)

    def change(self, change: SchemaChange) -> None:
        self.items.append(change)

    def progress(self, position: SourcePosition) -> None:
        self.items.append(position)

    def abandon(self) -> None:
        self.items.append("abandoned")

    @property
    def runs(self) -> list[TransactionRun]:
        return [item for item in self.items if isinstance(item, TransactionRun)]

    @property
    def committed(self) -> list[TransactionRun]:
        """The runs, but for the parts of transactions that were abandoned."""
        found: list[TransactionRun] = []
        parts: list[TransactionRun] = []
        for item in self.items:
            if item == "abandoned":
                parts = []
            elif isinstance(item, TransactionRun):
                parts.append(item)
                if item.is_last_part:
                    found += parts
                    parts = []
        return found

    @property
    def changes(self) -> list[SchemaChange]:
        return [item for item in self.items if isinstance(item, SchemaChange)]

    @property
    def seen(self) -> list[SourcePosition]:
        return [item for item in self.items if isinstance(item, SourcePosition)]


class Tables(Capture):
    """Captured tables, those that are to be, and where a table was known to be absent."""

    def __init__(
        self,
        captured: Iterable[CapturedTable],
        *,
        unknown: Iterable[TableName] = (),
        absent: dict[TableName, SourcePosition] | None = None,
    ) -> None:
        self.captured = {one.definition.name: one for one in captured}
        self.unknown = set(unknown)
        self.absent = absent or {}
        self.revision = 0

    def find(self, table: TableName) -> CapturedTable | None:
        return self.captured.get(table)

    def is_unknown(self, table: TableName) -> bool:
        return table in self.unknown

    def absent_at(self, table: TableName) -> SourcePosition | None:
        return self.absent.get(table)

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        return [table for table in self.captured if table.lower() in names]

    def in_database(self, database: str) -> list[TableName]:
        return [table for table in self.captured if table.database == database]


class Session:
    """An assembler, what it is fed, and what came out.

    A second one, which takes every event one by one, is fed the same and must always be where the first one is.
    """

    def __init__(
        self,
        *,
        start: SourcePosition | None = None,
        tables: Tables | None = None,
        flavor: Flavor = "mysql",
        limits: RunLimits | None = None,
        lower_case_names: bool = False,
        stores_prepared: bool = False,
        prepared: dict[Xa, PreparedXa] | None = None,
        cascades: CascadeGraph | None = None,
        hidden_keys: CascadeGraph | None = None,
    ) -> None:
        self.tables = tables or Tables([CapturedTable(definition(A)), CapturedTable(definition(B))])

        def assembler(output: Listener, *, is_fast: bool) -> Assembler:
            return Assembler(
                start=start or at(4),
                flavor=flavor,
                server_version=(8, 4, 0) if flavor == "mysql" else (11, 8, 6),
                checksum_negotiated=True,
                lower_case_names=lower_case_names,
                capture=self.tables,
                output=output,
                limits=limits or RunLimits(),
                prepared=dict(prepared or {}),
                all_captured=(lambda: list(self.tables.captured)) if stores_prepared else None,
                is_fast=is_fast,
                cascades=cascades,
                hidden_keys=hidden_keys,
            )

        self.out = Listener()
        self.assembler = assembler(self.out, is_fast=True)
        self.slow_out = Listener()
        self.slow = assembler(self.slow_out, is_fast=False)
        for one in (self.assembler, self.slow):
            one.feed(Stream().fake_format())  # which says that there are checksums: nothing is fast before it

    def feed(self, *events: bytes | list[bytes]) -> bool:
        """True when a barrier came; what follows it is not fed."""
        for event in events:
            for content in [event] if isinstance(event, bytes) else event:
                try:
                    is_barrier = self.assembler.feed(content)
                except CdcError as error:
                    self._fails_likewise(content, error)
                    raise
                assert self.slow.feed(content) == is_barrier
                self._compare()
                if is_barrier:
                    return True
        return False

    def _fails_likewise(self, content: bytes, error: CdcError) -> None:
        with pytest.raises(type(error)) as slow:
            self.slow.feed(content)
        assert slow.value.to_dict() == error.to_dict()

    def flush(self) -> None:
        self.assembler.flush()
        self.slow.flush()
        self._compare()

    def finish(self) -> list[TransactionRun]:
        self.flush()
        return self.out.runs

    def _compare(self) -> None:
        assert self.slow.position == self.assembler.position
        assert self.slow.file_pos == self.assembler.file_pos
        assert self.slow.has_rows == self.assembler.has_rows
        assert self.slow_out.items == self.out.items

    @property
    def position(self) -> SourcePosition:
        return self.assembler.position


def images(batches: Iterable[RowBatch], table: TableName | None = None) -> list[tuple[str, str, Row]]:
    """Table, operation and values of every image, in order."""
    found = []
    for batch in batches:
        if table is not None and batch.definition.name != table:
            continue
        columns = [array.to_pylist() for array in batch.images.columns]
        for operation, row in zip(batch.operation.to_pylist(), zip(*columns, strict=True), strict=True):
            found.append((batch.definition.name.table, Operation(operation).name, row))
    return found


def all_images(runs: Iterable[TransactionRun], table: TableName | None = None) -> list[tuple[str, str, Row]]:
    return [image for run in runs for image in images(run.batches, table)]
