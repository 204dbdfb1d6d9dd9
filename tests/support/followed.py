"""A server's log, or a file of one, as the service reads it: stream, assembler, runs. Only the pipeline is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from cdc.binlog.table_map import TableMap
from cdc.demo.servers import Server
from cdc.errors import CdcError
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
)
from cdc.source.assembler import EVENTS, Assembler, CapturedTable, DefiningCapture, RunLimits
from cdc.source.connection import SourceSettings, SslSettings
from cdc.source.stream import BinlogStream
from tests.support.binlog_fetch import Place, flavor_of
from tests.support.row_batches import assert_same_batch

__all__ = [
    "Followed",
    "KnownTables",
    "Row",
    "State",
    "assert_same_runs",
    "changes",
    "check_changes",
    "exact_rows",
    "follow",
    "replay",
]

_SERVER_ID = 970_000


class KnownTables(DefiningCapture):
    """The tables of these definitions, and those that `define` knows; all are ready."""

    def __init__(
        self,
        definitions: Iterable[TableDefinition],
        define: Callable[[TableMap], TableDefinition | None] | None = None,
    ) -> None:
        self._given = {definition.name: CapturedTable(definition) for definition in definitions}
        self._known = dict(self._given)
        self._define = define
        self.revision = 0

    def find(self, table: TableName) -> CapturedTable | None:
        return self._known.get(table)

    def define(self, table_map: TableMap) -> CapturedTable | None:
        definition = self._define(table_map) if self._define is not None else None
        if definition is None:
            return None
        captured = self._known[definition.name] = CapturedTable(definition)
        return captured

    def is_unknown(self, table: TableName) -> bool:
        return False

    def absent_at(self, table: TableName) -> SourcePosition | None:
        return None

    def named(self, names: frozenset[TableName]) -> list[TableName]:
        return [table for table in self._known if table.lower() in names]

    def in_database(self, database: str) -> list[TableName]:
        return [table for table in self._known if table.database == database]

    def forget(self, tables: Iterable[TableName]) -> None:
        """They are defined anew when they are seen again; those whose definitions were given stay as they are."""
        for table in tables:
            if table not in self._given:
                self._known.pop(table, None)


class Followed:
    """Keeps what an assembler hands over."""

    def __init__(self) -> None:
        self.runs: list[TransactionRun] = []
        self.changes: list[SchemaChange] = []
        self.abandoned_count = 0
        self.error: CdcError | None = None

    def run(self, run: TransactionRun) -> None:
        self.runs.append(run)

    def change(self, change: SchemaChange) -> None:
        self.changes.append(change)

    def progress(self, position: SourcePosition) -> None:
        """Nothing that a test of rows needs."""

    def abandon(self) -> None:
        self.abandoned_count += 1


def follow(
    server: Server,
    place: Place,
    end: Place,
    tables: KnownTables,
    *,
    is_fast: bool = True,
    needs_all_columns: bool = False,
    limits: RunLimits | None = None,
) -> list[TransactionRun]:
    """The runs from `place` to `end`, over a dump session. No DDL on one of `tables` may lie between."""
    flavor, version = flavor_of(server)
    start = SourcePosition(ServerIdentity(flavor, "test"), FilePos.of(*place))
    settings = SourceSettings(
        server.host,
        server.port,
        server.user,
        server.password,
        server_id=_SERVER_ID,
        ssl=SslSettings("disabled"),
        heartbeat_seconds=0.2,
    )
    stream = BinlogStream(settings, flavor=flavor, position=start, server_id=_SERVER_ID)
    stream.open()
    output = Followed()
    try:
        assembler = Assembler(
            start=start,
            flavor=flavor,
            server_version=version,
            checksum_negotiated=stream.checksum_negotiated,
            lower_case_names=False,
            capture=tables,
            output=output,
            limits=limits or RunLimits(),
            needs_all_columns=needs_all_columns,
            is_fast=is_fast,
        )
        wanted, deadline = FilePos.of(*end), time.monotonic() + 60
        while assembler.position.file is None or assembler.position.file < wanted:
            assert time.monotonic() < deadline, f"at {assembler.position} after a minute, wanted {wanted}"
            stream.fill(0.5)
            assert not stream.deliver(assembler), output.changes
        assembler.flush()
    finally:
        stream.close()
    return output.runs


def replay(
    content: bytes,
    tables: KnownTables,
    *,
    flavor: Flavor,
    version: tuple[int, ...],
    is_fast: bool = True,
    chunk_bytes: int = 0,
) -> Followed:
    """What the events of a file give (from behind its magic bytes on), until its end or an error, which is kept.

    At DDL on one of `tables` it goes on behind the statement's group, with that table defined anew.
    """
    output = Followed()
    start = SourcePosition(ServerIdentity(flavor, "test"), FilePos.of("binlog.000001", 4))

    def made(at: SourcePosition) -> Assembler:
        return Assembler(
            start=at,
            flavor=flavor,
            server_version=version,
            checksum_negotiated=False,
            lower_case_names=False,
            capture=tables,
            output=output,
            limits=RunLimits(),
            needs_all_columns=False,
            is_fast=is_fast,
        )

    assembler, done = made(start), 0
    opening = content[: int.from_bytes(content[9:13], "little")]
    try:
        while done < len(content):
            wanted = chunk_bytes or len(content)
            while True:
                window = content[done : done + wanted]
                taken = assembler.consume(window, EVENTS)
                if taken:
                    break
                assert done + wanted < len(content), f"no event at {done} of {len(content)}"
                wanted *= 2
            done += taken
            if assembler.saw_barrier:
                change = output.changes[-1]
                assert change.end.file is not None
                tables.forget(change.tables)
                done = change.end.file.pos - 4
                assembler = made(change.end)
                assembler.feed(opening)
    except CdcError as error:
        output.error = error
    assembler.flush()
    return output


# ---------------------------------------------------------------- what is in the runs

Row = dict[str, Any]
# A table's rows by their `id`, which every table of these tests has.
State = dict[Any, Row]
# What an image lacks, and nobody can know: the default that an INSERT took.
_UNSAID = object()


def exact_rows(images: pa.RecordBatch) -> list[Row]:
    """Rows that are equal only if every bit is: floats as text of their bits, timestamps as microseconds."""
    columns = []
    for array in images.columns:
        if pa.types.is_floating(array.type):
            columns.append([None if value is None else value.hex() for value in array.to_pylist()])
        elif pa.types.is_timestamp(array.type):
            columns.append(array.cast(pa.int64()).to_pylist())
        else:
            columns.append(array.to_pylist())
    names = images.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def changes(
    runs: Iterable[TransactionRun],
    table: TableName,
    rows_of: Callable[[RowBatch], list[Row]] = lambda batch: exact_rows(batch.images),
) -> Iterator[tuple[int, Operation, Row]]:
    """Of each image of the table: the end of its transaction, what it is, and the columns that it has."""
    pending: list[tuple[Operation, Row]] = []
    for run in runs:
        offsets = run.ends.offset.to_pylist() if run.ends is not None else []
        for batch in run.batches:
            if batch.definition.name != table:
                continue
            for index, row in enumerate(rows_of(batch)):
                absent: frozenset[str] = frozenset()
                if batch.shape_index is not None:
                    absent = batch.shapes[batch.shape_index[index].as_py()]
                assert all(row[name] is None for name in absent)
                image = {name: value for name, value in row.items() if name not in absent}
                pending.append((Operation(batch.operation[index].as_py()), image))
                if run.is_last_part:
                    offset = offsets[batch.transaction_index[index].as_py()]
                    yield from ((offset, *one) for one in pending)
                    pending.clear()


def check_changes(state: State, images: Iterable[tuple[Operation, Row]], expected: State) -> None:
    """The images say what was there, and make `expected` of it."""
    table = dict(state)
    before: Row = {}
    for operation, image in images:
        if operation is Operation.INSERT:
            number = image["id"]
            assert number not in table, image
            columns = expected.get(number) or next(iter({**state, **expected}.values()))
            table[number] = {name: image.get(name, _UNSAID) for name in columns}
        elif operation is Operation.UPDATE_AFTER:
            changed = table.pop(before["id"]) | image
            assert changed["id"] not in table, image
            table[changed["id"]] = changed
        else:
            before = image
            _check_row(image, table[image["id"]])
            if operation is Operation.DELETE:
                del table[image["id"]]
    assert table.keys() == expected.keys()
    for number, row in table.items():
        _check_row(row, expected[number])
        assert row.keys() == expected[number].keys()


def _check_row(image: Row, row: Row) -> None:
    for name, value in image.items():
        there = row[name]
        assert value == there or _UNSAID in (value, there), (name, value, there, image, row)


def assert_same_runs(ours: list[TransactionRun], theirs: list[TransactionRun]) -> None:
    """Two readings of one log: the same runs, whoever decoded them."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.end, one.part_number, one.is_last_part) == (other.end, other.part_number, other.is_last_part)
        assert one.commit_times_us.equals(other.commit_times_us)
        assert (one.ends is None) == (other.ends is None)
        if one.ends is not None and other.ends is not None:
            assert one.ends.offset.equals(other.ends.offset)
            assert [one.ends.gtid(n) for n in range(len(one.ends.offset))] == [
                other.ends.gtid(n) for n in range(len(other.ends.offset))
            ]
        assert len(one.batches) == len(other.batches)
        for mine, its in zip(_by_table(one.batches), _by_table(other.batches), strict=True):
            assert_same_batch(mine, its)


def _by_table(batches: Iterable[RowBatch]) -> list[RowBatch]:
    """In an order that does not depend on the order of the buffers."""
    return sorted(batches, key=lambda batch: batch.definition.name)
