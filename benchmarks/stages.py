"""What each stage of our reader costs, on a binlog file and without a server: for profiling, and to watch single parts.

    python -m benchmarks.stages FILE                    a file with binlog_row_metadata=FULL
    python -m benchmarks.stages FILE --stage arrow --repeat 20      one stage over and over, to attach a profiler to

Stages, each with all before it:

    crc32        the checksum of all bytes, in one go
    frame        framing, checksums, headers, transactions and table maps; rows are passed over
    arrow        row images decoded and handed over as Arrow batches, which are dropped
    read         that, and every buffer read (as the `cdc` arm of decode.py does)
    handlers     `frame` by the event handlers in Python, which rare events go through (a part of the file)
    twin         rows by the Python twin of the decoder (a part of the file)
    pymysqlreplication   python-mysql-replication's packets, events and rows (a part of the file)

CPU time, the best of `--repeat` times. Rows are checked: every stage that decodes has to find the same sums.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pymysqlreplication.packet
import pymysqlreplication.row_event
from pymysql.protocol import MysqlPacket

from benchmarks.reading import Counting
from benchmarks.summary import Summary
from cdc.binlog.constants import BINLOG_MAGIC, ChecksumAlgorithm, EventType
from cdc.binlog.events import EventClass, classify, parse_rows, parse_transaction_payload, payload_events
from cdc.binlog.framing import Event, EventFramer, FormatDescription, parse_header
from cdc.binlog.kernel.scan import crc32
from cdc.binlog.layout import build_layout, definition_from_table_map
from cdc.binlog.rows import ImageBuffer
from cdc.binlog.table_map import TableMap, parse_table_map
from cdc.errors import InvariantBroken
from cdc.model import FilePos, Flavor, ServerIdentity, SourcePosition, TableName, TransactionRun, ValueKind
from cdc.source.assembler import EVENTS, Assembler, CapturedTable, RunLimits

_WINDOW_BYTES = 512 * 1024
_PART_BYTES = 4 << 20  # of the file, and up to the end of a transaction, for what is slow
_IMAGES_MAX = 10_000


@dataclass(slots=True)
class Stage:
    """What a stage has done in `seconds`: of how many bytes of the file, and which rows."""

    seconds: float
    byte_count: int
    summary: Summary | None = None


class _Nothing:
    """A capture that wants no table."""

    revision = 0

    def find(self, table: TableName) -> CapturedTable | None:  # noqa: ARG002
        return None

    def is_unknown(self, table: TableName) -> bool:  # noqa: ARG002
        return False

    def absent_at(self, table: TableName) -> SourcePosition | None:  # noqa: ARG002
        return None

    def named(self, names: frozenset[TableName]) -> list[TableName]:  # noqa: ARG002
        return []

    def in_database(self, database: str) -> list[TableName]:  # noqa: ARG002
        return []


class _Everything(_Nothing):
    """A capture of every table, defined by its table map."""

    def __init__(self, flavor: Flavor) -> None:
        self._flavor = flavor
        self._known: dict[TableName, CapturedTable] = {}

    def find(self, table: TableName) -> CapturedTable | None:
        return self._known.get(table)

    def define(self, table_map: TableMap) -> CapturedTable | None:
        definition = definition_from_table_map(table_map, self._flavor)
        if definition is None:
            raise SystemExit("the file was written with binlog_row_metadata=MINIMAL: its columns have no names")
        return self._known.setdefault(definition.name, CapturedTable(definition))


class _Dropping(Counting):
    """Takes runs and lets them go."""

    def run(self, run: TransactionRun) -> None:
        for batch in run.batches:
            self.batches += 1
            self.images += batch.row_count

    images = 0


@dataclass(slots=True)
class BinlogFile:
    """A file in memory, and what its format description says."""

    path: Path
    content: memoryview
    format: FormatDescription
    flavor: Flavor
    text_columns: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, path: Path) -> BinlogFile:
        """Map it. Raises SystemExit when it is no binlog."""
        with path.open("rb") as stream:
            content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        if bytes(content[:4]) != BINLOG_MAGIC:
            raise SystemExit(f"{path} is no binlog file")
        framer = EventFramer()
        framer.frame(bytes(content[4 : 4 + parse_header(content[4:]).event_size]))
        assert framer.format is not None
        return cls(path, content, framer.format, "mariadb" if framer.format.is_mariadb else "mysql")

    def events(self, end: int | None = None) -> Iterator[memoryview]:
        """One by one, up to an offset at which one ends."""
        at = len(BINLOG_MAGIC)
        while at < (end or len(self.content)):
            size = int.from_bytes(self.content[at + 9 : at + 13], "little")
            yield self.content[at : at + size]
            at += size

    @property
    def part_end(self) -> int:
        """Where the part ends that slow stages see: after the first transaction that goes beyond _PART_BYTES."""
        at = len(BINLOG_MAGIC)
        for content in self.events():
            at += len(content)
            if at >= _PART_BYTES and content[4] in (EventType.XID, EventType.TRANSACTION_PAYLOAD):
                break
        return at


# ---------------------------------------------------------------- stages


def _crc32(file: BinlogFile) -> Stage:
    began = time.process_time()
    crc32(file.content)
    return Stage(time.process_time() - began, len(file.content))


def _assemble(
    file: BinlogFile, capture: _Nothing, output: Counting, *, end: int | None = None, fast: bool = True
) -> Stage:
    content = file.content[: end or len(file.content)]
    position = SourcePosition(ServerIdentity(file.flavor, "file"), FilePos(1, 4, file.path.name))
    began = time.process_time()
    assembler = Assembler(
        start=position,
        flavor=file.flavor,
        server_version=file.format.version,
        checksum_negotiated=file.format.checksum is ChecksumAlgorithm.CRC32,
        lower_case_names=False,
        capture=capture,
        output=output,
        limits=RunLimits(),
        is_fast=fast,
    )
    at, window_bytes = 4, _WINDOW_BYTES
    while at < len(content):
        taken = assembler.consume(content[at : at + window_bytes], EVENTS)
        at += taken
        if assembler.saw_barrier or assembler.is_odd:
            raise SystemExit(f"{file.path}: not all of it are rows; the stages stop at offset {at}")
        if not taken:
            if at + window_bytes >= len(content):
                break
            window_bytes *= 2  # an event is larger than that
    assembler.flush()
    return Stage(time.process_time() - began, at)


def _frame(file: BinlogFile) -> Stage:
    return _assemble(file, _Nothing(), _Dropping(()))


def _arrow(file: BinlogFile) -> Stage:
    return _assemble(file, _Everything(file.flavor), _Dropping(()))


def _read(file: BinlogFile) -> Stage:
    counting = Counting(_text_columns(file))
    stage = _assemble(file, _Everything(file.flavor), counting)
    stage.summary = counting.summary
    return stage


def _handlers(file: BinlogFile) -> Stage:
    return _assemble(file, _Nothing(), _Dropping(()), end=file.part_end, fast=False)


def _text_columns(file: BinlogFile) -> tuple[str, ...]:
    """Every text column of the file's first table."""
    for content in file.events():
        if content[4] == EventType.TABLE_MAP:
            definition = definition_from_table_map(
                parse_table_map(Event(parse_header(content), content[19:-4])), file.flavor
            )
            if definition is not None:
                return tuple(column.name for column in definition.columns if column.kind is ValueKind.TEXT)
    return ()


def _twin(file: BinlogFile) -> Stage:
    """The twin's decoding of row images, batches included; framing is not counted."""
    counting = Counting(_text_columns(file))
    framer = EventFramer()
    maps: dict[int, ImageBuffer] = {}
    known: dict[bytes, ImageBuffer] = {}
    seconds, done = 0.0, 4

    def take(event: Event) -> None:
        nonlocal seconds
        match classify(event.header.event_type, event.header.flags):
            case EventClass.TABLE_MAP:
                body = bytes(event.body)
                if body not in known:
                    table_map = parse_table_map(event, file.flavor)
                    definition = definition_from_table_map(table_map, file.flavor)
                    assert definition is not None
                    layout = build_layout(table_map, definition, flavor=file.flavor, server_version=file.format.version)
                    known[body] = ImageBuffer(layout)
                maps[int.from_bytes(body[:6], "little")] = known[body]
            case EventClass.ROWS:
                rows = parse_rows(event)
                began = time.process_time()
                buffer = maps[rows.table_id]
                buffer.append(rows, 0)
                batch = buffer.take() if buffer.image_count >= _IMAGES_MAX else None
                seconds += time.process_time() - began
                if batch is not None:
                    counting.add(batch)
            case EventClass.PAYLOAD:
                for inner in payload_events(parse_transaction_payload(event)):
                    take(inner)

    for content in file.events(file.part_end):
        take(framer.frame(bytes(content)))
        done += len(content)
    for buffer in known.values():
        if buffer.image_count:
            counting.add(buffer.take())
    return Stage(seconds, done, counting.summary)


def _pymysqlreplication(file: BinlogFile) -> Stage:
    """Its wrapper around a packet, fed with the events that its stream would see, every row taken out."""
    row_event = pymysqlreplication.row_event
    wanted = frozenset(
        {row_event.TableMapEvent, row_event.WriteRowsEvent, row_event.UpdateRowsEvent, row_event.DeleteRowsEvent}
    )
    summary = Summary()
    maps: dict[int, object] = {}
    connection = SimpleNamespace(charset="utf8mb4", _get_dbms=lambda: file.flavor)
    began = time.process_time()
    done = 4
    for content in file.events(file.part_end):
        done += len(content)
        packet = MysqlPacket(b"\0" + bytes(content), "utf8mb4")
        wrapped = pymysqlreplication.packet.BinLogPacketWrapper(
            packet, maps, connection, file.format.version, True, wanted, None, None, None, None,
            False, False, False, True, False,
        )  # fmt: skip
        event = wrapped.event
        match event:
            case row_event.TableMapEvent():
                maps[event.table_id] = event.get_table()
            case row_event.WriteRowsEvent():
                summary.inserts += len(event.rows)
            case row_event.DeleteRowsEvent():
                summary.deletes += len(event.rows)
            case row_event.UpdateRowsEvent():
                summary.updates += len(event.rows)
    return Stage(time.process_time() - began, done, summary)


STAGES: dict[str, Callable[[BinlogFile], Stage]] = {
    "crc32": _crc32,
    "frame": _frame,
    "arrow": _arrow,
    "read": _read,
    "handlers": _handlers,
    "twin": _twin,
    "pymysqlreplication": _pymysqlreplication,
}
_SLOW = frozenset({"handlers", "twin", "pymysqlreplication"})


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stages", description="The stages of our reader, on a file."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args(arguments)
    file = BinlogFile.open(chosen.file)
    # Rows of the whole file and of the part that slow stages see: by our own reader, which decode.py checks.
    whole = _read(file).summary
    assert whole is not None
    part = Counting(_text_columns(file))
    _assemble(file, _Everything(file.flavor), part, end=file.part_end)
    results: dict[str, Stage] = {}
    for name in chosen.stage:
        runs = [STAGES[name](file) for _ in range(1 if name in _SLOW else chosen.repeat)]
        results[name] = min(runs, key=lambda stage: stage.seconds)
        _check(name, results[name], part.summary if name in _SLOW else whole)
    base = results.get("pymysqlreplication")
    print(f"{chosen.file.name}: {len(file.content) / 1e6:.1f} MB, {whole.changes} row changes, {whole.images} images")
    print(f"{'stage':20}{'ms':>9}{'MiB/s':>9}{'ns/image':>10}{'images/s':>13}{'× python-mysql-replication':>29}")
    for name, stage in results.items():
        images = (part.summary if name in _SLOW else whole).images
        rate = stage.byte_count / stage.seconds
        times = f"{rate / (base.byte_count / base.seconds):.1f}" if base else ""
        print(
            f"{name:20}{stage.seconds * 1e3:9.1f}{rate / (1 << 20):9.0f}{stage.seconds * 1e9 / images:10.1f}"
            f"{images / stage.seconds:13,.0f}{times:>29}"
        )
    return 0


def _check(name: str, stage: Stage, expected: Summary) -> None:
    found = stage.summary
    if found is None:
        return
    if name == "pymysqlreplication":  # only what it counts
        expected = Summary(expected.inserts, expected.updates, expected.deletes)
    if differences := found.differences(expected):
        raise InvariantBroken(f"{name} read other rows (read, expected): {'; '.join(differences)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
