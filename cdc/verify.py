"""`cdc verify`: are the sinks' tables equal to the source's, row for row and value for value?

Whole tables by count and checksum, for when nothing writes. Every value becomes its canonical text
(`sinks.canonical`), the same on MySQL, MariaDB and PostgreSQL if and only if the values are; a row's texts are hashed
to 128 bits, and the hashes are added up modulo 2**128: no order is needed, and a row that is there twice counts twice.
A source table is read once, whatever the number of sinks. Where it differs, a second pass names keys and columns.

Reads the source by a plain SELECT, not by the chunks of the snapshot: a row that those would miss is missed by the
load, and has to be found here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import pyarrow as pa
import pymysql
import pymysql.cursors

from cdc.app import make_sink, parse_table, pipeline_name, routing, sinks_named, source_settings
from cdc.config import Config, SinkSettings
from cdc.errors import ConfigError, SinkRefused, UnsupportedData
from cdc.gtid import MysqlGtidSet
from cdc.model import SourcePosition, TableDefinition, TableName
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.polled_sink import poller_stores, together
from cdc.pipeline.tables import TableRegistry
from cdc.pipeline.transform import kept_rows, transformed_rows
from cdc.schema.target import SinkKind, TargetTable
from cdc.sinks.base import Sink
from cdc.sinks.canonical import canonical_from_arrow
from cdc.sinks.values import ValueRefused, column_of, key_text
from cdc.source.connection import SourceConnection, SourceSettings, TableGone, connect, translate_error
from cdc.source.definitions import list_tables, read_definition
from cdc.source.positions import visible_position, written_file_pos
from cdc.source.resultset import quote_table, select_list, to_record_batch
from checkpoints.store import TableRecord
from snapshot.chunks import read_chunks

__all__ = ["Difference", "RowSum", "TableResult", "results_text", "run_verify_command", "verify_tables"]

State = Literal["equal", "different", "parked", "missing target", "pending", "not compared"]
Kind = Literal["missing", "extra", "different"]
CanonicalRow = Sequence[str | None]

# One batch is what is in memory at a time; the bytes are of the values as the source sends them.
_BATCH_ROWS_MAX = 5_000
_BATCH_BYTES_MAX = 16 * 1024 * 1024
# The second pass keeps a hash of every value of the source's table: about 300 bytes a row of ten columns.
DIFFERENCE_ROWS_MAX = 200_000
DIFFERENCES_SHOWN_MAX = 5
_KEYLESS_COLUMNS_SHOWN = 6  # of a row without a key, which nothing else names
# Engines whose SELECT reads a consistent view and holds up no writer, however slowly its rows are fetched.
_CONSISTENT_ENGINES = frozenset({"innodb", "rocksdb", "tokudb"})
_CHECKSUM_MASK = (1 << 128) - 1


# ---------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is `missing` at the sink, `extra` there, or `different` in `columns`. Values are not told."""

    key: dict[str, str | None]
    kind: Kind
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        key = ", ".join(f"{name}={_shortened(value)}" for name, value in self.key.items())
        return f"{key}  {self.kind}" + (f" in {', '.join(self.columns)}" if self.columns else "")


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table on one sink. Counts and checksums are None where there was nothing to read."""

    sink: str
    table: TableName
    target: str
    state: State
    source_rows: int | None = None
    sink_rows: int | None = None
    source_checksum: str | None = None
    sink_checksum: str | None = None
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Are the rows equal? (A parked table may be, by chance, for now.)"""
        return (
            self.source_checksum is not None
            and self.source_checksum == self.sink_checksum
            and self.source_rows == self.sink_rows
        )

    def to_dict(self) -> dict[str, Any]:
        """An object of `cdc verify --json`."""
        return {
            "sink": self.sink,
            "table": str(self.table),
            "target": self.target,
            "state": self.state,
            "source_rows": self.source_rows,
            "sink_rows": self.sink_rows,
            "source_checksum": self.source_checksum,
            "sink_checksum": self.sink_checksum,
            "equal": self.is_equal,
            "differences": [{"key": d.key, "kind": d.kind, "columns": list(d.columns)} for d in self.differences],
            "notes": list(self.notes),
        }


def _shortened(value: str | None, length_max: int = 40) -> str:
    text = "NULL" if value is None else value if value.lstrip("-").isdecimal() else repr(value)
    return text if len(text) <= length_max else text[:length_max] + "…"


# ---------------------------------------------------------------- sums


@dataclass(slots=True)
class RowSum:
    """Count and order-independent checksum of canonical rows."""

    rows: int = 0
    total: int = 0

    def add(self, rows: Sequence[CanonicalRow]) -> None:
        """Take these rows in."""
        self.rows += len(rows)
        total = self.total
        blake2b, from_bytes = hashlib.blake2b, int.from_bytes
        for row in rows:  # a hash a row, with every loop over its values in C
            try:
                encoded = orjson.dumps(row)
            except TypeError:  # a lone surrogate, which stands for a byte that is no UTF-8
                encoded = json.dumps(row).encode()
            total += from_bytes(blake2b(encoded, digest_size=16).digest(), "big")
        self.total = total & _CHECKSUM_MASK

    @property
    def checksum(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.total:032x}"


def _canonical_rows(batch: pa.RecordBatch, target: TargetTable, kind: SinkKind) -> list[CanonicalRow]:
    """The rows as that sink holds them once applied. Raises UnsupportedData for a value that it cannot hold."""
    columns = []
    for column in target.columns:
        try:
            columns.append(canonical_from_arrow(column_of(batch, column), column, target.policies, kind))
        except ValueRefused as refused:
            key = key_text(batch, target, refused.index)
            raise UnsupportedData(
                f"the sink cannot hold the value of {column.name} in the row with {key}",
                table=str(target.definition.name),
                column=column.name,
                key=key,
            ) from refused
    return list(zip(*columns, strict=True))


# ---------------------------------------------------------------- reading the source


def _read_source(
    settings: SourceSettings, definition: TableDefinition, key: tuple[str, ...]
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Every row of the table, in batches, each with the bytes of its largest row; in a session of its own."""
    with connect(settings) as connection:
        if definition.engine.lower() not in _CONSISTENT_ENGINES and key:
            for chunk in read_chunks(connection, definition, key, rows_max=_BATCH_ROWS_MAX):
                yield chunk, chunk.nbytes // max(1, chunk.num_rows)
            return
        for rows, largest in _fetch(connection, definition):
            yield to_record_batch(definition, rows), largest


def _fetch(connection: SourceConnection, definition: TableDefinition) -> Iterator[tuple[list[Any], int]]:
    """The rows of one SELECT as they arrive; the connection cannot be used for anything else any more."""
    cursor: Any = connection.raw.cursor(pymysql.cursors.SSCursor)
    try:
        # Without a read view the server's copy of the rows lets writers go on, however slowly they are fetched.
        copied = "" if definition.engine.lower() in _CONSISTENT_ENGINES else "SQL_BUFFER_RESULT "
        cursor.execute(f"SELECT {copied}{select_list(definition)} FROM {quote_table(definition.name)}")
        rows: list[Any] = []
        size = largest = 0
        while (row := cursor.fetchone()) is not None:
            rows.append(row)
            row_bytes = sum(len(value) for value in row if value is not None)
            size += row_bytes
            largest = max(largest, row_bytes)
            if len(rows) >= _BATCH_ROWS_MAX or size >= _BATCH_BYTES_MAX:
                yield rows, largest
                rows, size = [], 0
        if rows:
            yield rows, largest
    except (pymysql.err.Error, OSError) as error:
        raise translate_error(error, connection.settings) from error
    finally:
        # Closing the cursor would first read the rest of the table; the session ends instead.
        if cursor._result is not None:
            cursor._result.unbuffered_active = False
        cursor.connection = None


# ---------------------------------------------------------------- one table on every sink


@dataclass(slots=True)
class _OpenSink:
    """A sink, what its metadata says of the tables, and how tables are mapped onto it."""

    settings: SinkSettings
    sink: Sink
    registry: TableRegistry
    records: dict[TableName, TableRecord]

    @property
    def name(self) -> str:
        return self.settings.name

    def target(self, definition: TableDefinition) -> TargetTable:
        """What the target holds of the source's rows. Raises UnsupportedData."""
        record = self.records.get(definition.name)
        left_out = record.left_out if record is not None else ()
        return self.registry.make_target(definition, left_out=left_out).without_metadata()

    def options(self, target: TargetTable) -> dict[str, Any]:
        """What the configuration makes of the table now."""
        return self.registry.description(target.definition.name, target.source_key)

    def result(self, table: TableName, state: State, **fields: Any) -> TableResult:
        namespace, name = self.registry.place(table)
        return TableResult(self.name, table, f"{namespace}.{name}", state, **fields)


@dataclass(slots=True)
class _Expectation:
    """What the sinks of one mapping are to hold; `refused` where they cannot."""

    target: TargetTable
    kind: SinkKind
    sum: RowSum = field(default_factory=RowSum)
    rows: int = 0
    refused: UnsupportedData | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch of the source's rows in: those that the table's filter keeps."""
        batch = kept_rows(batch, self.target)
        self.rows += batch.num_rows
        if self.refused is None:
            try:
                self.sum.add(_canonical_rows(transformed_rows(batch, self.target), self.target, self.kind))
            except UnsupportedData as error:
                self.refused = error


def _verify_table(settings: SourceSettings, table: TableName, sinks: Sequence[_OpenSink]) -> list[TableResult]:
    """The table's result on each sink; [] when it went away meanwhile."""
    results: list[TableResult] = []
    expectations: dict[Any, _Expectation] = {}
    planned: list[tuple[_OpenSink, TargetTable, _Expectation]] = []
    try:
        with connect(settings) as connection:
            definition = read_definition(connection, table)
            if definition is None:
                return []
            for sink in sinks:
                try:
                    target = sink.target(definition)
                except UnsupportedData as error:
                    rows = _count(connection, table)
                    results.append(sink.result(table, "parked", source_rows=rows, notes=(error.message,)))
                    continue
                if target.mode == "append_only":
                    results.append(_not_compared(sink, table))
                    continue
                # Sinks of equal mapping share the canonical rows, which take most of the time.
                mapping = (
                    sink.sink.kind,
                    target.columns,
                    target.policies,
                    target.row_filter,
                    target.source_column,
                )
                shared = expectations.setdefault(mapping, _Expectation(target, sink.sink.kind))
                planned.append((sink, target, shared))
        row_bytes_max = 1
        if planned:
            for batch, largest in _read_source(settings, definition, planned[0][1].source_key):
                row_bytes_max = max(row_bytes_max, largest)
                for expectation in expectations.values():
                    expectation.add(batch)
    except TableGone:
        return []
    except UnsupportedData as error:  # the source's table cannot be captured, or read
        return [sink.result(table, "parked", notes=(error.message,)) for sink in sinks]
    batch_rows = max(1, min(_BATCH_ROWS_MAX, _BATCH_BYTES_MAX // row_bytes_max))
    for sink, target, expectation in planned:
        results.append(_compare(settings, sink, target, expectation, batch_rows))
    return results


def _not_compared(sink: _OpenSink, table: TableName) -> TableResult:
    """Of a target that holds changes, and not rows."""
    record = sink.records.get(table)
    if record is not None and record.state == "parked":
        said = (record.error or {}).get("message") or "no reason is recorded"
        return sink.result(table, "parked", notes=(f"parked: {said}",))
    return sink.result(table, "not compared", notes=("it holds changes (mode: append_only), which the source has not",))


def _count(connection: SourceConnection, table: TableName) -> int:
    return int(connection.query_text(f"SELECT COUNT(*) FROM {quote_table(table)}")[0][0] or 0)


def _compare(
    settings: SourceSettings,
    sink: _OpenSink,
    target: TargetTable,
    expected: _Expectation,
    batch_rows: int,
) -> TableResult:
    """Read the sink's table, and where it differs both once more."""
    table = target.definition.name
    record = sink.records.get(table)
    notes = []
    is_otherwise = record is not None and record.definition is not None and record.options != sink.options(target)
    if is_otherwise:
        notes.append("its options were others when it was loaded: `cdc run` loads it again")
    is_loaded = record is not None and record.state in ("ready", "parked") and not is_otherwise
    if record is not None and record.state == "parked":
        notes.append(f"parked: {(record.error or {}).get('message') or 'no reason is recorded'}")
    fields: dict[str, Any] = {"source_rows": expected.rows}
    if expected.refused is None:
        fields["source_checksum"] = expected.sum.checksum
    else:
        notes.append(expected.refused.message)

    def result(state: State) -> TableResult:
        if record is not None and record.state == "parked":
            state = "parked"
        elif record is not None and not is_loaded:
            state = "pending"
        return sink.result(table, state, notes=tuple(notes), **fields)

    existing = sink.sink.inspect(target)
    if existing is None:
        return result("missing target" if is_loaded else "pending")
    notes += sink.sink.differences(target, existing)
    found = RowSum()
    try:
        for rows in sink.sink.read_rows(target, batch_rows=batch_rows):
            found.add(rows)
    except SinkRefused as error:
        notes.append(error.message)
        return result("different")
    fields |= {"sink_rows": found.rows, "sink_checksum": found.checksum}
    if result("equal").is_equal:
        return result("equal")
    if expected.refused is None:
        if max(expected.rows, found.rows) <= DIFFERENCE_ROWS_MAX:
            fields["differences"], note = _find_differences(settings, sink.sink, target, batch_rows)
        else:
            note = f"more than {DIFFERENCE_ROWS_MAX:,} rows: the ones that differ are not looked for"
        notes.append(note)
    return result("different")


# ---------------------------------------------------------------- the second pass


def _find_differences(
    settings: SourceSettings, sink: Sink, target: TargetTable, batch_rows: int
) -> tuple[tuple[Difference, ...], str]:
    """A few keys of each kind of difference, and how many there are, as a sentence."""
    # Without a key all columns are one, and how many equal rows there are is what can differ.
    names, key_names = [column.name for column in target.columns], target.source_key
    key_at = [names.index(name) for name in target.key]
    if not key_at:
        key_at, key_names = (
            list(range(len(names))),
            tuple(c.source.name for c in target.columns[:_KEYLESS_COLUMNS_SHOWN]),
        )
    # By key, for the rows not yet met at the sink: 64 bits a value (`hash`, salted per process).
    expected: dict[tuple[str | None, ...], bytes] = {}
    seen = _Numbering()
    for batch, _ in _read_source(settings, target.definition, target.source_key):
        for row in _canonical_rows(transformed_rows(batch, target), target, sink.kind):
            expected[seen.numbered(tuple(row[i] for i in key_at))] = _value_hashes(row)
    own = len(target.key) - len(target.source_key)  # the source column's value is the same for all
    counts: Counter[str] = Counter()
    samples: dict[Kind, list[Difference]] = {"missing": [], "different": [], "extra": []}

    def take(kind: Kind, key: tuple[str | None, ...], columns: tuple[str, ...] = ()) -> None:
        counts[kind] += 1
        if len(samples[kind]) < DIFFERENCES_SHOWN_MAX:
            samples[kind].append(Difference(dict(zip(key_names, key[own:], strict=False)), kind, columns))

    seen = _Numbering()
    for rows in sink.read_rows(target, batch_rows=batch_rows):
        for row in rows:
            key = seen.numbered(tuple(row[i] for i in key_at))
            wanted = expected.pop(key, None)
            there = _value_hashes(row)
            if wanted is None:
                take("extra", key)
            elif wanted != there:
                take("different", key, tuple(_differing(wanted, there, target)))
    for key in expected:
        take("missing", key)
    total = counts.total()
    if not total:
        return (), "equal when read again: it was being written to"
    said = ", ".join(f"{counts[k]:,} {k} {_plural('row', counts[k])}" for k in samples if counts[k])
    return tuple(_round_robin(samples.values(), DIFFERENCES_SHOWN_MAX)), said


class _Numbering:
    """Makes every key unique: the second row with a key, which only a configured one can have, gets a number too."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str | None, ...]] = Counter()

    def numbered(self, key: tuple[str | None, ...]) -> tuple[str | None, ...]:
        """`key` itself the first time."""
        self._counts[key] += 1
        count = self._counts[key]
        return key if count == 1 else (*key, str(count))


def _value_hashes(row: CanonicalRow) -> bytes:
    return array("q", map(hash, row)).tobytes()


def _differing(wanted: bytes, there: bytes, target: TargetTable) -> Iterator[str]:
    left, right = array("q", wanted), array("q", there)
    for column, one, other in zip(target.columns, left, right, strict=True):
        if one != other:
            yield column.source.name


def _round_robin(lists: Iterable[list[Difference]], count_max: int) -> list[Difference]:
    """Some of each list, the first ones of each."""
    waiting = [iter(one) for one in lists]
    chosen: list[Difference] = []
    while waiting and len(chosen) < count_max:
        for one in list(waiting):
            found = next(one, None)
            if found is None:
                waiting.remove(one)
            elif len(chosen) < count_max:
                chosen.append(found)
    return chosen


# ---------------------------------------------------------------- all tables


def verify_tables(
    config: Config,
    names: Sequence[str] = (),
    *,
    only_sinks: Sequence[str] = (),
    on_table: Callable[[TableName], None] = lambda _table: None,
) -> tuple[list[TableResult], list[str]]:
    """Compare every captured table, or those named, on every sink.

    Args:
        on_table: told of each table before it is read.
    Returns:
        the results by table and sink; and why a difference may be no more than changes in flight, a sentence a sink.
    Raises:
        ConfigError: a name is no captured table, or there is no table at all; a server refuses us.
        TransientError: a server cannot be reached.
    """
    settings = source_settings(config)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(connect(settings))
        tables = _chosen_tables(source, config, names)
        sinks = [_open_sink(stack, config, sink) for sink in sinks_named(config, list(only_sinks))]
        in_flight = _in_flight(config, sinks, source)
        results = []
        for table in tables:
            on_table(table)
            results += _verify_table(settings, table, sinks)
    return results, in_flight


def _chosen_tables(source: SourceConnection, config: Config, names: Sequence[str]) -> list[TableName]:
    captured, others = list_tables(source, config.tables.matches)
    if not captured:
        raise ConfigError(
            f"no table of source {source.settings.address} matches tables.include",
            hint="`cdc config show` prints the patterns; the user of source.url sees only tables it may SELECT",
        )
    chosen = []
    for name in names:
        table = parse_table(name)
        if table in captured:
            chosen.append(table)
            continue
        kind = dict(others).get(table)
        if kind is not None:
            raise ConfigError(f"{table} is a {kind}, which is not captured", hint="name a table")
        if not config.tables.matches(table.database, table.table):
            raise ConfigError(
                f"{table} is not captured by this configuration",
                hint="add it to tables.include (or take it out of tables.exclude)",
            )
        raise ConfigError(
            f"source {source.settings.address} has no table {table}",
            hint="`cdc verify` without names takes all that are captured; names are as the server spells them",
        )
    return sorted(set(chosen)) or captured


def _open_sink(stack: contextlib.ExitStack, config: Config, settings: SinkSettings) -> _OpenSink:
    sink = make_sink(settings)
    stack.callback(sink.close)
    sink.open()
    stores = lane_stores(sink, pipeline_name(config, settings))
    is_there = stores[1].exists()
    every = [*side_stores(sink, pipeline_name(config, settings)).values(), *stores.values()] if is_there else []
    streamed = {t: record for store in every for t, record in store.load_tables().items()}
    pollers = poller_stores(sink, pipeline_name(config, settings)) if config.may_poll else {}
    polled = [record for store in pollers.values() for record in store.load_tables().values()]
    records = {record.source: record for record in together(list(streamed.values()), polled)}
    return _OpenSink(settings, sink, TableRegistry(routing(config, settings), sink.kind, ()), records)


def _in_flight(config: Config, sinks: Sequence[_OpenSink], source: SourceConnection) -> list[str]:
    """Why a sink may not be where the source is."""
    reasons = []
    for sink in sinks:
        stores = lane_stores(sink.sink, pipeline_name(config, sink.settings))
        if not stores[1].exists():
            reasons.append(f"sink {sink.name} has never been written to by this deployment")
            continue
        leases = {lane: store.read_lease() for lane, store in stores.items()}
        sides = [s for s in side_stores(sink.sink, pipeline_name(config, sink.settings)).values() if s.load_tables()]
        checkpoints = [store.load_checkpoint()[0] for store in (*stores.values(), *sides)]
        polled = poller_stores(sink.sink, pipeline_name(config, sink.settings)).values()
        polling = [store for store in polled if store.load_tables()]
        if any(
            lease is not None and store.is_holder_alive(lease) for store in polling for lease in [store.read_lease()]
        ):
            reasons.append(f"`cdc run` polls tables into sink {sink.name}: a difference may be changes not yet seen")
        if checkpoints[0] is None and polling:
            continue
        if checkpoints[0] is None:
            reasons.append(f"sink {sink.name} has no checkpoint yet")
        elif any(lease is not None and stores[lane].is_holder_alive(lease) for lane, lease in leases.items()):
            reasons.append(f"`cdc run` is at work on sink {sink.name}: a difference may be changes in flight")
        elif any(checkpoint is not None and _is_behind(checkpoint.position, source) for checkpoint in checkpoints):
            reasons.append(f"sink {sink.name} is behind the source: a difference may be changes not yet applied")
    return reasons


def _is_behind(position: SourcePosition, source: SourceConnection) -> bool:
    if position.file is None:  # after a first load on MySQL, until the stream brings its first event
        visible = visible_position(source).gtid
        if not isinstance(visible, MysqlGtidSet) or not isinstance(position.gtid, MysqlGtidSet):
            return True
        return not visible.is_subset_of(position.gtid)
    return position.server != source.identity() or position.file < written_file_pos(source)


# ---------------------------------------------------------------- the command


def run_verify_command(config: Config, tables: list[str], *, only_sinks: list[str], as_json: bool) -> int:
    """Compare, print, and return the exit code: 0 where all is equal, 1 where something is not. Raises CdcError."""
    is_terminal = sys.stderr.isatty()

    def show_progress(table: TableName) -> None:
        if is_terminal:
            sys.stderr.write(f"\r\x1b[Kcomparing {table} …")
            sys.stderr.flush()

    try:
        results, in_flight = verify_tables(config, tables, only_sinks=only_sinks, on_table=show_progress)
    finally:
        if is_terminal:
            sys.stderr.write("\r\x1b[K")
    is_equal = all(result.state in ("equal", "not compared") for result in results)
    if as_json:
        document = [result.to_dict() for result in results]
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        if not is_equal:
            sys.stderr.write("".join(f"cdc: {reason}\n" for reason in in_flight))
    else:
        sys.stdout.write(results_text(results, in_flight))
    return 0 if is_equal else 1


_TITLES = ("table", "sink", "source rows", "sink rows", "source checksum", "sink checksum", "result")
_RIGHT = frozenset({2, 3})
_CHECKSUM_SHOWN = 16  # digits: enough to compare by eye; --json has all 32


def results_text(results: Sequence[TableResult], in_flight: Sequence[str]) -> str:
    """The results as an aligned table, what is known of each difference, and one line that says it all."""
    lines = [
        (
            str(result.table),
            result.sink,
            _number(result.source_rows),
            _number(result.sink_rows),
            (result.source_checksum or "-")[:_CHECKSUM_SHOWN],
            (result.sink_checksum or "-")[:_CHECKSUM_SHOWN],
            result.state,
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(_TITLES, *lines, strict=True)]
    printed = []
    for line in (_TITLES, *lines):
        cells = (
            text.rjust(width) if index in _RIGHT else text.ljust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        printed.append("  ".join(cells).rstrip())
    for result in results:
        if result.notes or result.differences:
            printed.append("")
            printed.append(f"{result.table} on {result.sink} ({result.target}): {'; '.join(result.notes)}")
            printed += [f"  {difference}" for difference in result.differences]
    tables = {result.table for result in results}
    unlike = [result for result in results if result.state not in ("equal", "not compared")]
    unequal = {result.table for result in unlike}
    compared = {result.table for result in results if result.state != "not compared"}
    printed.append("")
    if unequal:
        printed += in_flight
        states = Counter({result.table: result.state for result in reversed(unlike)}.values())
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        differ = "differs" if len(tables) == 1 else "differ"
        printed.append(f"{len(unequal)} of {len(tables)} {_plural('table', len(tables))} {differ}: {said}")
    else:
        sinks = {result.sink for result in results}
        others = f"; {len(tables - compared)} not compared" if tables - compared else ""
        tables_text = "1 table" if len(compared) == 1 else f"all {len(compared)} tables"
        printed.append(f"{tables_text} equal on {len(sinks)} {_plural('sink', len(sinks))}{others}")
    return "".join(f"{line}\n" for line in printed)


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
