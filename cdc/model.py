"""The values that cross borders: tables, rows, transactions, positions.

Knows no bytes of the wire, no SQL and no time. Rows are Arrow; everything else is a frozen value.

How a column's values travel (`ColumnDefinition.arrow_type`), the same from snapshot and stream:

    kind        Arrow                 value
    INTEGER     int8 … int64, uint8 … uint64 by width and sign (MEDIUMINT: 32 bits)
    DECIMAL     decimal128/256(p, s)  exact
    FLOAT       float32               the stored bits
    DOUBLE      float64               the stored bits
    BIT         uint64                the bits as a number, BIT(64) included
    YEAR        uint16                0 is the year `0000`
    DATE        int32                 packed: year << 9 | month << 5 | day
    DATETIME    int64                 packed: ((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30
                                              | second << 24 | microsecond
    TIMESTAMP   timestamp[us, UTC]    0 is the zero timestamp (the type itself begins at 00:00:01)
    TIME        int64                 signed microseconds
    TEXT, JSON  large_string          UTF-8; JSON as the server's own SELECT prints it
    BINARY, BLOB, GEOMETRY, VECTOR, UUID, INET4, INET6   large_binary
                                      BINARY, UUID, INET padded to their length; GEOMETRY is SRID (4 bytes,
                                      little-endian) and WKB; VECTOR is little-endian float32
    ENUM        uint16                the member's index, 1-based; 0 is the error value ''
    SET         uint64                the members' bitmap

DATE and DATETIME are the servers' own packed form: it sorts, holds zero and impossible dates (which no calendar
type does) and is printed without calendar arithmetic (docs/decisions/0003).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from cdc.gtid import MariadbGtidList, MysqlGtidSet

__all__ = [
    "Cascade",
    "ChangeBatch",
    "ColumnDefinition",
    "EventFrame",
    "FilePos",
    "Flavor",
    "OpenTransaction",
    "Operation",
    "PartialUpdate",
    "RowBatch",
    "SchemaChange",
    "ServerIdentity",
    "SourcePosition",
    "TableDefinition",
    "TableName",
    "TransactionEnds",
    "TransactionRun",
    "UniqueKey",
    "ValueKind",
    "Xa",
    "XaAction",
    "XaStep",
    "is_before",
]

Flavor = Literal["mysql", "mariadb"]


# ---------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table at the source: database and table, as the server spells them."""

    database: str
    table: str

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"

    def lower(self) -> TableName:
        """The name for comparisons that heed no case."""
        return TableName(self.database.lower(), self.table.lower())


class ValueKind(enum.StrEnum):
    """What a column's values are, whatever the server calls the type."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    DOUBLE = "double"
    BIT = "bit"
    YEAR = "year"
    DATE = "date"
    DATETIME = "datetime"
    TIMESTAMP = "timestamp"
    TIME = "time"
    TEXT = "text"
    BINARY = "binary"
    BLOB = "blob"
    ENUM = "enum"
    SET = "set"
    JSON = "json"
    GEOMETRY = "geometry"
    VECTOR = "vector"
    UUID = "uuid"
    INET4 = "inet4"
    INET6 = "inet6"


_SIMPLE_ARROW: Mapping[ValueKind, pa.DataType] = {
    ValueKind.FLOAT: pa.float32(),
    ValueKind.DOUBLE: pa.float64(),
    ValueKind.BIT: pa.uint64(),
    ValueKind.YEAR: pa.uint16(),
    ValueKind.DATE: pa.int32(),
    ValueKind.DATETIME: pa.int64(),
    ValueKind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ValueKind.TIME: pa.int64(),
    ValueKind.TEXT: pa.large_string(),
    ValueKind.JSON: pa.large_string(),
    ValueKind.BINARY: pa.large_binary(),
    ValueKind.BLOB: pa.large_binary(),
    ValueKind.GEOMETRY: pa.large_binary(),
    ValueKind.VECTOR: pa.large_binary(),
    ValueKind.UUID: pa.large_binary(),
    ValueKind.INET4: pa.large_binary(),
    ValueKind.INET6: pa.large_binary(),
    ValueKind.ENUM: pa.uint16(),
    ValueKind.SET: pa.uint64(),
}
_INTEGER_ARROW = {
    (8, False): pa.int8(),
    (16, False): pa.int16(),
    (24, False): pa.int32(),
    (32, False): pa.int32(),
    (64, False): pa.int64(),
    (8, True): pa.uint8(),
    (16, True): pa.uint16(),
    (24, True): pa.uint32(),
    (32, True): pa.uint32(),
    (64, True): pa.uint64(),
}


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """One column of a source table.

    `column_type` is the server's full text (`int(10) unsigned`, `enum('a','b')`), used as it is between servers of
    the MySQL family. `length` is characters for TEXT, bytes for BINARY and BLOB, bits for BIT and INTEGER (8, 16, 24,
    32, 64), dimensions for VECTOR. `charset` is the server's name (`utf8mb4`), None where the column has none.
    """

    name: str
    kind: ValueKind
    column_type: str
    is_nullable: bool = True
    is_unsigned: bool = False
    length: int = 0
    precision: int = 0
    scale: int = 0
    fraction_digits: int = 0
    charset: str | None = None
    collation: str | None = None
    members: tuple[str, ...] = ()
    is_generated: bool = False
    is_invisible: bool = False
    is_auto_increment: bool = False
    default: str | None = None
    comment: str = ""
    has_default_expression: bool = False  # `default` is an expression; on MariaDB its text says so
    is_told: bool = field(default=False, compare=False)  # the server itself was asked for `members`, not its dictionary

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of this column's values (module docstring)."""
        if self.kind is ValueKind.INTEGER:
            return _INTEGER_ARROW[self.length, self.is_unsigned]
        if self.kind is ValueKind.DECIMAL:
            if self.precision <= 38:
                return pa.decimal128(self.precision, self.scale)
            return pa.decimal256(self.precision, self.scale)
        return _SIMPLE_ARROW[self.kind]


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique index; `columns` in index order. `has_prefix` where it covers only the beginning of a column."""

    name: str
    columns: tuple[str, ...]
    has_prefix: bool = False


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """One version of a source table. `primary_key` is empty where the source has none.

    `columns` is what row images hold, in their order: invisible and generated columns included.
    """

    name: TableName
    columns: tuple[ColumnDefinition, ...]
    primary_key: tuple[str, ...] = ()
    unique_keys: tuple[UniqueKey, ...] = ()
    engine: str = "InnoDB"
    charset: str | None = None
    collation: str | None = None
    comment: str = ""
    flavor: Flavor = "mysql"

    def column(self, name: str) -> ColumnDefinition:
        """The column of that name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name}")

    @property
    def arrow_schema(self) -> pa.Schema:
        """One field a column, in source order."""
        return pa.schema([pa.field(column.name, column.arrow_type) for column in self.columns])


# ---------------------------------------------------------------- positions


@dataclass(frozen=True, slots=True, order=True)
class FilePos:
    """A place in a server's binlog. Orders by the file's *number* (`.999999` comes before `.1000000`), then offset.

    Comparable only on one server: base names and numbers of two servers have nothing in common.
    """

    number: int
    pos: int
    file: str = field(compare=False)

    @classmethod
    def of(cls, file: str, pos: int) -> FilePos:
        """Raises ValueError when the file name does not end in a number."""
        return cls(number=int(file.rpartition(".")[2]), pos=pos, file=file)

    def __str__(self) -> str:
        return f"{self.file}:{self.pos}"


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which server it is: MySQL's server_uuid, or what stands in for it on MariaDB."""

    flavor: Flavor
    uuid: str


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Everything up to here. `file` orders positions of one server; `gtid` is for resuming and for failover.

    At least one of the two is set; `file` is None between reading `@@gtid_executed` and the stream's first event.
    """

    server: ServerIdentity
    file: FilePos | None
    gtid: MysqlGtidSet | MariadbGtidList | None = None

    def __str__(self) -> str:
        parts = [str(self.gtid)] if self.gtid else []
        if self.file is not None:
            parts.append(str(self.file))
        return " @ ".join(parts) or "the beginning"

    def to_dict(self) -> dict[str, str | int | None]:
        """The `position` object of `cdc status --json`."""
        return {
            "gtid": str(self.gtid) if self.gtid is not None else None,
            "file": self.file.file if self.file else None,
            "pos": self.file.pos if self.file else None,
        }


def is_before(position: SourcePosition, other: SourcePosition) -> bool:
    """Does `other` lie ahead of `position`? False where that cannot be told.

    On one server by the files; after a failover, whose files are named and numbered otherwise, by MySQL's GTID sets.
    MariaDB's lists have no transactions in them, and say nothing of the other server's order.
    """
    if position.server == other.server:
        return position.file is not None and other.file is not None and position.file < other.file
    if isinstance(position.gtid, MysqlGtidSet) and isinstance(other.gtid, MysqlGtidSet):
        return not other.gtid.is_subset_of(position.gtid)
    return False


# ---------------------------------------------------------------- the stream


@dataclass(frozen=True, slots=True)
class EventFrame:
    """One binlog event exactly as the server wrote it (header, body, checksum); for rare events and diagnostics."""

    event_type: int
    at: str
    content: bytes


class Operation(enum.IntEnum):
    """What a row image of a `RowBatch` is. An UPDATE_BEFORE is followed at once by its UPDATE_AFTER."""

    INSERT = 1
    UPDATE_BEFORE = 2
    UPDATE_AFTER = 3
    DELETE = 4


@dataclass(frozen=True, slots=True)
class RowBatch:
    """n >= 1 row images of one table and one schema version, in stream order.

    `images` has one row an image and the table's columns in source order (types: module docstring). `operation`
    (uint8, `Operation`) and `transaction_index` (uint32, into the run's transactions) have one value an image.

    Under `binlog_row_image` MINIMAL or NOBLOB an image lacks columns (absent is not NULL, though it is null in
    `images`). Then `shape_index` (uint16, one value an image) says which of `shapes` an image has; a shape names the
    columns that are *absent*. None: every image has every column.
    """

    definition: TableDefinition
    operation: pa.UInt8Array
    transaction_index: pa.UInt32Array
    images: pa.RecordBatch
    shape_index: pa.UInt16Array | None = None
    shapes: tuple[frozenset[str], ...] = ()

    @property
    def row_count(self) -> int:
        """How many images."""
        return len(self.operation)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Rows of a parent that went, or got other keys: what foreign keys' rules then did to other tables is in no event.

    `old` has the columns that foreign keys refer to, as they were, a row a row of the parent; `new` as they are then,
    None where the rows are gone. `tables`: whose rows the rules may change here, and of each how many of the run's
    images, in the order of its batches, come before.
    """

    parent: TableName
    old: pa.RecordBatch
    new: pa.RecordBatch | None
    tables: Mapping[TableName, int]


@dataclass(frozen=True, slots=True)
class TransactionEnds:
    """Where each finished transaction of a run ends, and what it is called: one value a transaction, in stream order.

    `offset` (uint64) counts in the file of the run's `end` (no run crosses files). A transaction's GTID is
    `sources[gtid_source]` and `gtid_number` (uint64); `gtid_source` (int32) is -1 where it has none. A source is
    MySQL's `uuid` or `uuid:tag`, or MariaDB's `domain-server_id`.
    """

    offset: pa.UInt64Array
    gtid_source: pa.Int32Array
    gtid_number: pa.UInt64Array
    sources: tuple[str, ...]
    flavor: Flavor

    def gtid(self, index: int) -> str | None:
        """The transaction's GTID as its server prints it."""
        source = self.gtid_source[index].as_py()
        if source < 0:
            return None
        return f"{self.sources[source]}{':' if self.flavor == 'mysql' else '-'}{self.gtid_number[index].as_py()}"


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """The transaction that a part belongs to; `start` is where its group begins."""

    gtid: str | None
    start: FilePos | None
    commit_time_us: int


@dataclass(frozen=True, slots=True)
class Xa:
    """An XA transaction's name: global id and branch are any bytes, up to 64 each."""

    format_id: int
    global_id: bytes
    branch: bytes

    def __str__(self) -> str:
        return f"X'{self.global_id.hex()}',X'{self.branch.hex()}',{self.format_id}"


class XaAction(enum.StrEnum):
    """What a run means for the rows of an XA transaction."""

    STORE = "store"  # the run is a part of it: its rows wait, whatever comes of them
    PREPARE = "prepare"  # it is prepared: what was stored waits for its end, which may be days away
    APPLY = "apply"  # it is committed: what waits is applied and forgotten
    FORGET = "forget"  # it is rolled back, or had no rows that count: what waits is forgotten


@dataclass(frozen=True, slots=True)
class XaStep:
    """One thing that a run does with an XA transaction.

    `stored` and `passed` (PREPARE): the tables of which rows were stored, and those that it changed besides: which were
    not captured then, or which foreign keys change at its end beside their newer load. `covered` (APPLY): the tables
    whose load has seen the commit; what waits of them is not applied.
    """

    action: XaAction
    xa: Xa
    stored: frozenset[TableName] = frozenset()
    passed: frozenset[TableName] = frozenset()
    covered: frozenset[TableName] = frozenset()


@dataclass(frozen=True, slots=True)
class TransactionRun:
    """Consecutive whole transactions, or one numbered part of a large one (only the last part carries its end).

    `end` is the position after the last whole transaction in this run; for a part that is not the last one it is
    the position before the transaction, which no checkpoint may pass. `commit_times_us` (int64) has one
    value a finished transaction, and so have `ends`. The GTID set advances once per run, in `end`. `open_transaction`
    is set in a part that is not the last one. `xa`: what becomes of rows of XA transactions, in order; a run that
    stores or applies any holds that transaction alone. `cascades`: what foreign keys did beside the images, in order.
    """

    batches: tuple[RowBatch, ...]
    end: SourcePosition
    commit_times_us: pa.Int64Array
    byte_count: int
    part_number: int = 0
    is_last_part: bool = True
    ends: TransactionEnds | None = None
    open_transaction: OpenTransaction | None = None
    xa: tuple[XaStep, ...] = ()
    cascades: tuple[Cascade, ...] = ()

    @property
    def transaction_count(self) -> int:
        """How many transactions end in this run."""
        return len(self.commit_times_us)

    @property
    def image_count(self) -> int:
        """How many row images it holds."""
        return sum(batch.row_count for batch in self.batches)


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """DDL that touches captured tables, or a captured table seen for the first time: a barrier in the stream.

    `end` is the position after the statement. `tables` are the captured tables touched; `is_dropped` those of them
    that the statement itself removes. `xa` is set where it is no DDL, but the commit of an XA transaction whose rows
    are in no event that follows: it may have changed every table that is captured.

    `is_exact`: the statement is known to the letter, ran without an error, is about no temporary table and is its whole
    group, so `end` is right behind it. `database` and the two that follow say how its session read it.
    """

    tables: tuple[TableName, ...]
    end: SourcePosition
    statement: str
    commit_time_us: int
    is_dropped: frozenset[TableName] = frozenset()
    xa: Xa | None = None
    is_exact: bool = False
    database: str = ""
    has_ansi_quotes: bool = False
    has_backslash_escapes: bool = True


# ---------------------------------------------------------------- towards the sink


@dataclass(frozen=True, slots=True)
class PartialUpdate:
    """Rows of which a run changed some columns, and says nothing of the others (`binlog_row_image` MINIMAL, NOBLOB).

    `images` has one row a row to change, and all columns of the definition: `columns` hold the new values, in source
    order, and the key's columns the key as it is afterwards; what the others hold means nothing. `old_keys` has the
    key's columns as they were before, in the same rows, where some key has moved; None where none has. Only then are
    the key's columns among `columns`.
    """

    columns: tuple[str, ...]
    images: pa.RecordBatch
    old_keys: pa.RecordBatch | None = None


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """The net effect of a run on one table, as selections over its batches.

    `batches[i]`'s rows at `upserts[i]` are the final images of the keys that exist afterwards; those at
    `deletes[i]` are images whose key is gone (deletes are applied first). Both are int32 row numbers; no key is in
    both, none is in either twice. `updates` are applied between the two: each row of theirs has to hit exactly one row
    of the sink, but where `may_lack_rows` (a table that is catching up with its load: what lacks a row now is about
    to lose it for good). A key is in one of upserts, deletes and updates at most. No
    update moves a row to a key that another image has, or had before: they may be applied in any order.

    `inserts` are those of `upserts` that are new: the sink has no row of their key, but on a replay, or while the table
    catches up. Empty where that is not known.

    Without a key (`key` is ()) rows are told apart by all of the target's columns. For each row at `deletes`, which
    may be equal to others there, one equal row of the sink goes, and has to be there; then each at `upserts` is
    inserted, whatever is there. There are no `updates`.
    """

    definition: TableDefinition
    key: tuple[str, ...]
    batches: tuple[RowBatch, ...]
    upserts: tuple[pa.Int32Array, ...]
    deletes: tuple[pa.Int32Array, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    updates: tuple[PartialUpdate, ...] = ()
    may_lack_rows: bool = False
    inserts: tuple[pa.Int32Array, ...] = ()

    @property
    def upsert_count(self) -> int:
        return sum(map(len, self.upserts))

    @property
    def delete_count(self) -> int:
        return sum(map(len, self.deletes))

    def upsert_images(self) -> Sequence[pa.RecordBatch]:
        """The selected upsert rows, batch by batch."""
        return [b.images.take(s) for b, s in zip(self.batches, self.upserts, strict=True) if len(s)]

    def delete_images(self) -> Sequence[pa.RecordBatch]:
        """The selected delete rows, batch by batch (all columns; the sink uses the key's)."""
        return [b.images.take(s) for b, s in zip(self.batches, self.deletes, strict=True) if len(s)]
