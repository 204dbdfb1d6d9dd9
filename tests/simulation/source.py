"""A source, in memory: a binlog of real events, a writer who extends it, dump sessions that are cut or fall silent.

The bytes are made by the same builders that the decoder is tested with. What the tables hold after each group is
worked out row by row, which is what the sink is compared with.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cdc.binlog.constants import EventType
from cdc.errors import SourceUnavailable
from cdc.gtid import MysqlGtidSet
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition, TableDefinition, TableName, Xa
from cdc.source.cascades import ForeignKey
from cdc.source.connection import SourceSettings
from cdc.source.stream import BinlogStream, PacketReader
from tests.simulation.family import FAMILY, Family
from tests.simulation.scheduler import Instance, Scheduler
from tests.support.binlog_build import table_map_body
from tests.unit.source.streams import COLUMNS, UUID, Stream, definition
from tests.unit.source.test_xa import named, xa_prepare

__all__ = [
    "IDENTITY",
    "KEYLESS",
    "TABLES",
    "Group",
    "Log",
    "Row",
    "Source",
    "SourceFaults",
    "SourceSession",
    "Tables",
    "rows_asked_for",
]

IDENTITY = ServerIdentity("mysql", UUID)
_A, _B, _K, _OTHER = (TableName("shop", name) for name in ("a", "b", "k", "other"))
KEYLESS = _K


def _keyed(table: TableName) -> TableDefinition:
    plain = definition(table)
    columns = (replace(column, is_nullable=column.name != "i32") for column in plain.columns)
    return replace(plain, columns=tuple(columns))


TABLES: dict[TableName, TableDefinition] = {
    _A: _keyed(_A),
    _B: _keyed(_B),
    _K: replace(definition(_K), primary_key=()),
}
_IDS = {_A: 71, _B: 72, _K: 73, _OTHER: 74}
_FIRST_FILE = "binlog.000001"
_HEARTBEAT_SECONDS = 1.0
_KEYS = 6

Row = tuple[Any, ...]
Tables = dict[TableName, tuple[Row, ...]]


@dataclass(frozen=True)
class Group:
    """What the source wrote as a unit, where, and what its tables hold afterwards (sorted rows)."""

    events: tuple[bytes, ...]
    file: str
    start: int
    end: int
    number: int = 0
    """Of its GTID; 0 for what is no transaction."""
    tables: Tables = field(default_factory=dict)
    is_end_of_file: bool = False
    last_number: int = 0
    """Of the last GTID up to here."""

    @functools.cached_property
    def end_pos(self) -> FilePos:
        return FilePos.of(self.file, self.end)


@dataclass(slots=True)
class _Prepared:
    """An XA transaction that waits for its end: the rows that it brings, and those that it takes."""

    xa: Xa
    new: dict[TableName, list[Row]] = field(default_factory=dict)
    held: dict[TableName, list[Row]] = field(default_factory=dict)


class _Stream(Stream):
    """Makes the same table map event's body once."""

    def table_map(self, table: TableName, table_id: int) -> bytes:  # type: ignore[override]
        return self.inner(EventType.TABLE_MAP, _table_map_body(table, table_id))


@functools.cache
def _table_map_body(table: TableName, table_id: int) -> bytes:
    return table_map_body(COLUMNS, table_id=table_id, database=table.database, table=table.table)


class Log:
    """All that the source is going to write, from a seed."""

    def __init__(self, rng: random.Random, *, transactions: int, has_gtids: bool, has_family: bool = False) -> None:
        self.has_gtids = has_gtids
        self.tables: dict[TableName, TableDefinition] = {**TABLES, **(FAMILY if has_family else {})}
        self.groups: list[Group] = []
        self._rng = rng
        self._stream = _Stream(4, file=_FIRST_FILE)
        self._rows: dict[TableName, list[Row]] = {name: [] for name in (*self.tables, _OTHER)}
        self._family = Family(rng, self._stream, self._rows) if has_family else None
        self._number = 0
        self._written = 0
        self._prepared: list[_Prepared] = []
        self._add([self._stream.format()], 4)
        for _ in range(transactions):
            if rng.random() < 0.08:
                self._rotate()
            choice = rng.random()
            if choice < 0.05:
                self._truncate()
            elif choice < 0.12:
                self._prepare()
            elif choice < 0.22 and self._prepared:
                self._end_prepared()
            else:
                self._transact()

    def hidden_keys(self, tables: Collection[TableName]) -> tuple[ForeignKey, ...]:
        """The foreign keys that change rows of these tables in no event."""
        return self._family.hidden_keys(tables) if self._family is not None else ()

    def _add(self, events: Sequence[bytes], start: int, *, file: str | None = None, is_counted: bool = False) -> None:
        if is_counted:
            self._number += 1
        held = {name: [row for one in self._prepared for row in one.held.get(name, ())] for name in TABLES}
        tables = {name: tuple(sorted((*self._rows[name], *held.get(name, ())))) for name in self.tables}
        number = self._number if is_counted else 0
        name = file or self._stream.file
        end = self._end(events, start)
        self.groups.append(Group(tuple(events), name, start, end, number, tables, last_number=self._number))

    @staticmethod
    def _end(events: Sequence[bytes], start: int) -> int:
        return start + sum(map(len, events))

    def _gtid(self) -> bytes:
        return self._stream.gtid(self._number + 1 if self.has_gtids else 0)

    def _rotate(self) -> None:
        start, file = self._stream.pos, self._stream.file
        following = FilePos.of(file, 4).number + 1
        self._add([self._stream.rotate(f"binlog.{following:06d}")], start, file=file)
        self.groups[-1] = replace(self.groups[-1], is_end_of_file=True)
        self._add([self._stream.format()], 4)

    def _truncate(self) -> None:
        table = self._rng.choice((_A, _K))
        if any(table in (*one.new, *one.held) for one in self._prepared):
            return  # it would wait for these
        start = self._stream.pos
        self._rows[table] = []
        self._add([self._gtid(), self._stream.end_query(f"TRUNCATE TABLE {table.table}")], start, is_counted=True)

    def _prepare(self) -> None:
        """An XA transaction: new rows, and one that goes, which nobody else may touch until it has ended."""
        start = self._stream.pos
        self._written += 1
        xa = Xa(1, b"x%d" % self._written, b"")
        one = _Prepared(xa)
        events = [self._gtid(), self._stream.query(f"XA START {named(xa)}")]
        for table in self._rng.sample((_A, _K, _OTHER), 2):
            row = (100 + self._written, "xa")
            events += [self._stream.table_map(table, _IDS[table]), self._stream.insert(row, table_id=_IDS[table])]
            one.new.setdefault(table, []).append(row)
            if self._rows[table] and self._rng.random() < 0.5:
                gone = self._rng.choice(self._rows[table])
                self._rows[table].remove(gone)
                one.held.setdefault(table, []).append(gone)
                events += [self._stream.table_map(table, _IDS[table]), self._stream.delete(gone, table_id=_IDS[table])]
        self._prepared.append(one)
        events += [self._stream.query(f"XA END {named(xa)}"), xa_prepare(self._stream, xa)]
        self._add(events, start, is_counted=True)

    def _end_prepared(self) -> None:
        start = self._stream.pos
        one = self._prepared.pop(self._rng.randrange(len(self._prepared)))
        verb = self._rng.choice(("COMMIT", "COMMIT", "ROLLBACK"))
        for table, rows in (one.new if verb == "COMMIT" else one.held).items():
            self._rows[table] += rows
        self._add([self._gtid(), self._stream.end_query(f"XA {verb} {named(one.xa)}")], start, is_counted=True)

    def _transact(self) -> None:
        start = self._stream.pos
        events = [self._gtid(), self._stream.begin()]
        size = self._rng.choice((1, 1, 2, 3, 5, 20)) if self._rng.random() < 0.9 else 0
        for _ in range(size):
            if self._family is not None and self._rng.random() < 0.7:
                events += self._family.change()
                continue
            events += self._change(self._rng.choice((_A, _A, _B, _K, _K, _OTHER)))
        events.append(self._stream.xid())
        self._add(events, start, is_counted=True)

    def _change(self, table: TableName) -> list[bytes]:
        stream, rows, number = self._stream, self._rows[table], _IDS[table]
        self._written += 1
        text = f"v{self._written % 3}" if table == _K else f"v{self._written}"  # rows that are equal, without a key
        begun = [stream.table_map(table, number)]
        choice = self._rng.random()
        taken = [*rows, *(row for one in self._prepared for row in one.held.get(table, ()))]
        free = [key for key in range(_KEYS) if table == _K or all(row[0] != key for row in taken)]
        if (choice < 0.5 and free) or not rows:
            row = (self._rng.choice(free), text)
            rows.append(row)
            return [*begun, stream.insert(row, table_id=number)]
        old = self._rng.choice(rows)
        rows.remove(old)
        if choice < 0.75 or (choice < 0.85 and not free):
            rows.append((old[0], text))
            return [*begun, stream.update(old, rows[-1], table_id=number)]
        if choice < 0.85:  # its key moves
            rows.append((self._rng.choice(free), text))
            return [*begun, stream.update(old, rows[-1], table_id=number)]
        return [*begun, stream.delete(old, table_id=number)]


@dataclass(slots=True)
class SourceFaults:
    """How likely a receive is to be cut or to fall silent for good, and a connect to be refused."""

    cut: float = 0.0
    silence: float = 0.0
    refuse: float = 0.0


class Source:
    """The server. `written` groups of the log are there; `visible` of them are seen by SELECTs, too."""

    def __init__(self, scheduler: Scheduler, log: Log, faults: SourceFaults, count: Any, point: Any) -> None:
        self.scheduler = scheduler
        self.log = log
        self.faults = faults
        self.count = count
        self.point = point
        self.written = 1
        self.row_seconds_max = 0.0
        self._visible_from: dict[int, float] = {}

    def write(self, *, lag_seconds: float) -> None:
        """One more group is logged, and seen by SELECTs so much later; none before the one before it."""
        self.written += 1
        before = self._visible_from.get(self.written - 1, 0.0)
        self._visible_from[self.written] = max(before, self.scheduler.now + lag_seconds)

    @property
    def visible(self) -> int:
        """So many groups are seen."""
        count = self.written
        while count > 1 and self._visible_from.get(count, 0.0) > self.scheduler.now:
            count -= 1
        return count

    @property
    def is_all_visible(self) -> bool:
        return self.visible == self.written

    @property
    def end(self) -> FilePos:
        return self.log.groups[self.written - 1].end_pos

    @property
    def executed(self) -> str:
        last = max((group.number for group in self.log.groups[: self.visible]), default=0)
        return f"{UUID}:1-{last}" if last and self.log.has_gtids else ""

    def connect(self, settings: SourceSettings, *, read_timeout_seconds: float | None = None) -> SourceSession:
        """In place of `cdc.source.connection.connect`."""
        instance = self.scheduler.instance
        self.point(instance)
        if self.scheduler.rng.random() < self.faults.refuse:
            raise SourceUnavailable("the source cannot be reached")
        return SourceSession(self, settings, instance)

    def stream(
        self,
        settings: SourceSettings,
        *,
        flavor: Flavor,
        position: SourcePosition,
        server_id: int,
        server: ServerIdentity | None = None,  # there is one
    ) -> SimulatedStream:
        """In place of `cdc.source.stream.BinlogStream`."""
        stream = SimulatedStream(settings, flavor=flavor, position=position, server_id=server_id)
        stream.source = self
        return stream


class SourceSession:
    """`SourceConnection`, as far as the service asks."""

    flavor: Flavor = "mysql"
    version = (8, 4, 0)
    version_text = "8.4.0"

    def __init__(self, source: Source, settings: SourceSettings, instance: Instance | None) -> None:
        self.settings = settings
        self._source = source
        self._instance = instance
        self._is_closed = False

    # ------------------------------------------------------------ for what stands in for the readers

    def ask(self) -> None:
        """Before each statement, and within long ones. Raises SourceUnavailable where it is the seed's will."""
        self._source.point(self._instance)
        if self._is_closed:
            raise SourceUnavailable("the session is closed")
        if self._source.scheduler.rng.random() < self._source.faults.cut:
            self._source.count("cuts of a load at the source")
            raise SourceUnavailable("cut")

    def take_time(self) -> None:
        """A row is on its way."""
        if self._source.row_seconds_max:
            self._source.scheduler.sleep(self._source.scheduler.rng.uniform(0, self._source.row_seconds_max))

    @property
    def tables(self) -> dict[TableName, TableDefinition]:
        return self._source.log.tables

    def hidden_keys(self, tables: Collection[TableName]) -> tuple[ForeignKey, ...]:
        return self._source.log.hidden_keys(tables)

    def rows(self, table: TableName) -> list[Row]:
        """What a SELECT sees now, in the order of the key."""
        return list(self._source.log.groups[self._source.visible - 1].tables[table])

    def wait_until_all_is_visible(self, seconds: float) -> bool:
        return self._source.scheduler.wait(lambda: self._source.is_all_visible, seconds)

    @property
    def visible_end(self) -> FilePos:
        return self._source.log.groups[self._source.visible - 1].end_pos

    @property
    def executed(self) -> str:
        return self._source.executed

    @property
    def has_gtids(self) -> bool:
        return self._source.log.has_gtids

    # ------------------------------------------------------------ `SourceConnection`

    def identity(self) -> ServerIdentity:
        return IDENTITY

    def hang_up(self) -> None:
        self._is_closed = True

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[bytes | None, ...]]:
        self.ask()
        if sql.startswith("SET SESSION lock_wait_timeout") or sql == "SELECT 1":
            return []
        if " UNION ALL " in sql:  # a look at several tables: which of them have more rows
            looks = re.findall(r"\(SELECT (\d+) FROM `shop`\.`(\w+)` LIMIT 1 OFFSET (\d+)\)", sql)
            return [(n.encode(),) for n, table, rows in looks if len(self.rows(TableName("shop", table))) > int(rows)]
        found = re.search(r"FROM `shop`\.`(\w+)`", sql)
        assert found, f"the simulated source does not know this statement: {sql}"
        if sql.endswith("LIMIT 0"):
            return []
        return [(str(row[0]).encode(),) for row in rows_asked_for(sql, self.rows(TableName("shop", found[1])))]

    def variable(self, name: str) -> str | None:
        self._source.point(self._instance)
        known = {"gtid_mode": "ON" if self._source.log.has_gtids else "OFF", "lower_case_table_names": "0"}
        return known.get(name, "OFF" if name.startswith("rpl_semi_sync") else None)

    def query_text(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[str | None, ...]]:
        self._source.point(self._instance)
        if sql == "SELECT @@GLOBAL.gtid_executed":
            return [(self._source.executed,)]
        if sql == "SELECT @@GLOBAL.gtid_purged":
            return [("",)]  # nothing ever is
        if "DATA_LENGTH" in sql:
            sizes = {table: len(self.rows(table)) for table in self.tables}
            rows = [(table.database, table.table, str(count), str(100 * count)) for table, count in sizes.items()]
            return [(d, t, *((count, size) if "TABLE_ROWS" in sql else (size,))) for d, t, count, size in rows]
        if sql.startswith("SELECT TABLE_ROWS FROM"):
            return [(str(len(self.rows(TableName(*parameters)))),)]
        if sql.startswith("SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_ROWS FROM"):
            return [(table.database, table.table, str(len(self.rows(table)))) for table in self.tables]
        if sql == "SELECT @@SESSION.lock_wait_timeout, @@SESSION.max_execution_time":
            return [("30", "0")]
        if "FROM information_schema.TABLES" in sql:
            return [(table.database, table.table, "BASE TABLE") for table in (*self.tables, _OTHER)]
        raise AssertionError(f"the simulated source does not know this statement: {sql}")

    def rows_by_name(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, str | None]]:
        self._source.point(self._instance)
        end = self._source.end
        if sql == "SHOW BINARY LOGS":
            groups = self._source.log.groups[: self._source.written]
            return [{"Log_name": name, "File_size": str(end)} for name, end in {g.file: g.end for g in groups}.items()]
        if sql.startswith("SHOW BINLOG EVENTS IN"):
            return []  # the end of the file: what begins at a place is real servers' to show
        assert sql == "SHOW BINARY LOG STATUS", sql
        return [{"File": end.file, "Position": str(end.pos)}]

    def close(self) -> None:
        self._is_closed = True

    def __enter__(self) -> SourceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rows_asked_for(sql: str, rows: Sequence[Row]) -> list[Row]:
    """Of rows in the key's order: those of the range, and of them the one that LIMIT 1 OFFSET asks for."""
    conditions = re.findall(r"`i32` (>|<=) (-?\d+)", sql)
    found = [
        row
        for row in rows
        if all(row[0] > int(border) if operator == ">" else row[0] <= int(border) for operator, border in conditions)
    ]
    if offset := re.search(r"LIMIT 1 OFFSET (\d+)$", sql):
        return found[int(offset[1]) :][:1]
    return found


class SimulatedStream(BinlogStream):
    """The service's own stream, on a socket that the simulation holds."""

    source: Source
    _socket: _Socket | None = None

    def open(self) -> None:
        source = self.source
        source.point(source.scheduler.instance)
        if source.scheduler.rng.random() < source.faults.refuse:
            raise SourceUnavailable("the source cannot be reached")
        self._socket = _Socket(source, self.position, source.scheduler.instance)
        self._packets = PacketReader(self._socket)

    def hang_up(self) -> None:
        socket = self._socket
        if socket is not None:
            socket.is_closed = True

    def close(self) -> None:
        self.hang_up()
        self._socket = self._packets = None


class _Socket:
    """What the server sends: the log from a position on, in pieces, and heartbeats."""

    def __init__(self, source: Source, position: SourcePosition, instance: Instance | None) -> None:
        self.is_closed = False
        self._source = source
        self._instance = instance
        self._timeout: float | None = None
        self._is_silent = False
        self._sent_at = source.scheduler.now
        self._sequence = 0
        self._skips = 0
        self._next = 0  # the group that follows
        self._buffer = bytearray()
        self._begin(position)

    def _begin(self, position: SourcePosition) -> None:
        groups = self._source.log.groups
        if isinstance(position.gtid, MysqlGtidSet):
            self._skips = max(
                (one.number for one in groups if one.number and _has(position.gtid, one.number)), default=0
            )
            # As the server does: from the last file of which all before it is in the set.
            ahead = next((i for i, one in enumerate(groups) if one.number > self._skips), len(groups) - 1)
            file = groups[ahead].file
            self._next = next(i for i, one in enumerate(groups) if one.file == file)
            self._put(Stream(4, file=file).fake_rotate())
            return
        at = position.file
        assert at is not None
        self._put(Stream(at.pos, file=at.file).fake_rotate())
        if at.pos > 4:
            self._put(Stream(4, file=at.file).fake_format())
        self._next = next(
            (i for i, one in enumerate(groups) if one.file == at.file and one.start >= at.pos), len(groups)
        )
        if self._next == len(groups) or groups[self._next].start != at.pos:
            is_end = any(one.file == at.file and one.end == at.pos for one in groups)
            assert is_end, f"a dump from {at}, in the middle of something"

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def recv_into(self, view: memoryview) -> int:
        source, scheduler = self._source, self._source.scheduler
        source.point(self._instance)
        if scheduler.rng.random() < source.faults.cut:
            source.count("cuts at the source")
            raise ConnectionResetError("cut")
        if scheduler.rng.random() < source.faults.silence:
            source.count("streams that fell silent")
            self._is_silent = True
        if self._is_silent or not self._fill():
            scheduler.wait(lambda: self.is_closed or self._has_more(), self._timeout)
            if not self._is_silent and not self._fill() and scheduler.now - self._sent_at >= _HEARTBEAT_SECONDS:
                end = source.end
                if self._next == source.written:
                    self._put(Stream(end.pos, file=end.file).heartbeat())
        if self.is_closed:
            raise OSError("closed")
        if not self._buffer or self._is_silent:
            raise TimeoutError
        size = min(len(self._buffer), len(view), scheduler.rng.choice((7, 100, 400, 1 << 20)))
        view[:size] = self._buffer[:size]
        del self._buffer[:size]
        self._sent_at = scheduler.now
        return size

    def _has_more(self) -> bool:
        return not self._is_silent and self._next < self._source.written

    def _fill(self) -> bool:
        while not self._buffer and self._has_more():
            group = self._source.log.groups[self._next]
            self._next += 1
            if group.number and group.number <= self._skips:
                continue
            for event in group.events:
                self._put(event)
            following = self._next < len(self._source.log.groups) and self._source.log.groups[self._next].file
            if following and following != group.file:  # behind the file's own rotate comes one that is in no file
                self._put(Stream(4, file=following).fake_rotate())
        return bool(self._buffer)

    def _put(self, event: bytes) -> None:
        self._buffer += (len(event) + 1).to_bytes(3, "little") + bytes((self._sequence,)) + b"\0" + event
        self._sequence = (self._sequence + 1) % 256


def _has(executed: MysqlGtidSet, number: int) -> bool:
    return MysqlGtidSet.parse(f"{UUID}:{number}").is_subset_of(executed)
