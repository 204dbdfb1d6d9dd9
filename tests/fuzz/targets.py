"""What is fuzzed: for each target its seeds, its kind of damage, and a run that raises only when something is wrong.

The oracle: any bytes give a result, a `ProtocolError` or an `UnsupportedData`; kernel and Python twin give the same
result or refuse alike; what is read event by event and in windows is the same. Inputs are one byte string each,
complete in themselves (definitions included), so that a crasher can be kept as a file.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, cast

import pyarrow as pa
import pymysql

from cdc.binlog import events as binlog_events
from cdc.binlog import json_text as json_twin
from cdc.binlog import rows as rows_twin
from cdc.binlog.constants import BINLOG_MAGIC, ChecksumAlgorithm, EventFlag, EventType
from cdc.binlog.events import EventClass, RowsEvent, classify
from cdc.binlog.framing import Event, EventFramer, EventHeader, parse_header, read_binlog_file
from cdc.binlog.kernel import json_text as json_kernel
from cdc.binlog.kernel import rows as rows_kernel
from cdc.binlog.layout import Codec, RowLayout, build_layout, definition_from_table_map
from cdc.binlog.table_map import TableMap, parse_table_map
from cdc.errors import CdcError, ConfigError, ProtocolError, ResyncRequired, SourceUnavailable, UnsupportedData
from cdc.gtid import MariadbGtidList, MysqlGtidSet, parse_mysql_gtid
from cdc.model import FilePos, Flavor, RowBatch, ServerIdentity, SourcePosition, TableDefinition, TransactionRun
from cdc.schema.statements import classify_statement
from cdc.source.assembler import EVENTS, PACKETS, Assembler, CapturedTable, RunLimits
from cdc.source.binlog_files import STDIN, BinlogFiles
from cdc.source.connection import SourceConnection, SourceSettings, translate_error
from cdc.source.kernel.text_rows import RowBuffer
from cdc.source.result_reader import ResultReader, raise_server_error, row_values
from cdc.source.resultset import to_record_batch
from tests.fuzz import batches
from tests.fuzz.corpus import Capture, captures, definitions_from_json, definitions_to_json, pack, unpack
from tests.fuzz.guarded import guarded
from tests.fuzz.mutate import damage, damage_event, damage_events
from tests.support.json_build import json_bytes
from tests.support.results import (
    KINDS,
    RESULT_TEXTS,
    FakeSession,
    eof_packet,
    packets,
    row_payload,
    same_rows,
    table_of,
)
from tests.unit.source.streams import Listener, Stream, Tables

__all__ = ["TARGETS", "Target"]

_DECLARED = (ProtocolError, UnsupportedData)
# What parsers of text and of documents say of bytes that are none.
_NO_TEXT = (ProtocolError, ValueError)


@dataclass(frozen=True)
class Target:
    """One entry point.

    `run` gives a word about what came out (it is counted), and raises when it is wrong. `mutate` makes an input out of
    a seed; what it may be spliced with are all seeds.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[random.Random, bytes, Sequence[bytes]], bytes]
    run: Callable[[bytes], str]

    def input(self, rng: random.Random) -> bytes:
        """The next damaged input."""
        seeds = self.seeds()
        return self.mutate(rng, rng.choice(seeds), seeds)


def _outcome(call: Callable[[], Any], declared: tuple[type[Exception], ...] = _DECLARED) -> tuple[str, Any]:
    """What the call gave, or which declared error with which words. Every other exception passes."""
    try:
        return "ok", call()
    except declared as error:
        return type(error).__name__, str(error)


def _synthetic() -> list[bytes]:
    """Events that no server writes on demand."""
    stream = Stream()
    incident = stream.event(EventType.INCIDENT, (1).to_bytes(2, "little") + b"\x0bLOST EVENTS")
    gap = stream.event(EventType.IGNORABLE, b"nothing", flags=EventFlag.IGNORABLE)
    return [stream.heartbeat(), stream.heartbeat_v2(1 << 33), incident, gap, stream.fake_rotate()]


# ---------------------------------------------------------------- framing


@cache
def _contents() -> tuple[bytes, ...]:
    """Every captured event with its checksum, each type's longest and shortest first; and the synthetic ones."""
    return (*(content for capture in captures() for content in capture.contents), *_synthetic())


def _frame(raw: bytes) -> str:
    words = []
    for initial in (None, True, False):
        word, found = _outcome(lambda: EventFramer(initial_checksum=initial).frame(raw))  # noqa: B023 - called at once
        words.append(word)
        if word == "ok":
            assert found.header.event_size == len(raw)
            assert 0 <= len(found.body) <= len(raw) - 19
    word, _ = _outcome(lambda: list(read_binlog_file(io.BytesIO(BINLOG_MAGIC + raw))))
    return "ok" if "ok" in (*words, word) else words[0]


def _damage_content(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    return damage_event(rng, raw, [rng.choice(others)], has_checksum=True)


# ---------------------------------------------------------------- events


@cache
def _plain_events() -> tuple[bytes, ...]:
    """Every event without its checksum, those of compressed transactions too."""
    found = []
    for capture in captures():
        found.append(capture.contents[0])  # a format description always has its checksum
        kinds = EventType.FORMAT_DESCRIPTION
        found += [_unsealed(event) for event in capture.events() if event.header.event_type != kinds]
    framer = EventFramer(initial_checksum=True)
    return (*found, *(_unsealed(framer.frame(content)) for content in _synthetic()))


def _unsealed(event: Event) -> bytes:
    header = event.header
    size = 19 + len(event.body)
    head = (
        header.timestamp.to_bytes(4, "little")
        + bytes((header.event_type,))
        + header.server_id.to_bytes(4, "little")
        + size.to_bytes(4, "little")
        + header.log_pos.to_bytes(4, "little")
        + header.flags.to_bytes(2, "little")
    )
    return head + bytes(event.body)


def _parse_payload(event: Event) -> Any:
    payload = binlog_events.parse_transaction_payload(event)
    return [_outcome(lambda: _parse(inner)) for inner in binlog_events.payload_events(payload)]  # noqa: B023


def _parse_map(event: Event) -> Any:
    """Of whichever family it is, the other one must not fall over it."""
    _outcome(lambda: parse_table_map(event, "mariadb"))
    return parse_table_map(event, "mysql")


_PARSERS: Mapping[EventClass, Callable[[Event], Any]] = {
    EventClass.FORMAT: lambda event: binlog_events.parse_format_description(event.body),
    EventClass.ROTATE: binlog_events.parse_rotate,
    EventClass.GTID: binlog_events.parse_gtid,
    EventClass.QUERY: binlog_events.parse_query,
    EventClass.XID: binlog_events.parse_xid,
    EventClass.TABLE_MAP: _parse_map,
    EventClass.ROWS: binlog_events.parse_rows,
    EventClass.PAYLOAD: _parse_payload,
    EventClass.HEARTBEAT: binlog_events.parse_heartbeat,
    EventClass.INCIDENT: binlog_events.parse_incident,
    EventClass.XA_PREPARE: binlog_events.parse_xa_prepare,
}
_PARSERS_BY_TYPE: Mapping[int, Callable[[Event], Any]] = {
    EventType.MARIADB_GTID: binlog_events.parse_mariadb_gtid,
    EventType.MARIADB_GTID_LIST: binlog_events.parse_mariadb_gtid_list,
    EventType.PREVIOUS_GTIDS: binlog_events.parse_previous_gtids,
}


def _parse(event: Event) -> Any:
    kind = event.header.event_type
    parser = _PARSERS_BY_TYPE.get(kind) or _PARSERS.get(classify(kind, event.header.flags))
    return None if parser is None else parser(event)


def _run_event(raw: bytes) -> str:
    def parse() -> Any:
        event = EventFramer(initial_checksum=False).frame(raw)
        found = _parse(event)
        if event.header.event_type == EventType.PREVIOUS_GTIDS:
            again = replace(event, body=found.executed.encode())
            assert binlog_events.parse_previous_gtids(again) == found
        return found

    return _outcome(parse)[0]


def _damage_plain(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    return damage_event(rng, raw, [rng.choice(others)], has_checksum=False)


# ---------------------------------------------------------------- table maps


def _definition_of(capture: Capture, table_map: TableMap) -> TableDefinition | None:
    """The table's definition at that moment: the one at the end where it fits, else what the map itself says."""
    flavor, version = capture.flavor, capture.server_version
    ours = [d for d in capture.definitions if (d.name.database, d.name.table) == (table_map.database, table_map.table)]
    for definition in (*ours, definition_from_table_map(table_map, flavor)):
        if definition is None:
            continue
        word, _ = _outcome(lambda: build_layout(table_map, definition, flavor=flavor, server_version=version))  # noqa: B023
        if word == "ok":
            return definition
    return None


def _table_maps(capture: Capture) -> Iterator[tuple[Event, TableMap, TableDefinition]]:
    for event in capture.events():
        if event.header.event_type == EventType.TABLE_MAP:
            table_map = parse_table_map(event, capture.flavor)
            definition = _definition_of(capture, table_map)
            if definition is not None:
                yield event, table_map, definition


@cache
def _map_seeds() -> tuple[bytes, ...]:
    """`definition · table map event`, each distinct map once."""
    found = {}
    for capture in captures():
        for event, _, definition in _table_maps(capture):
            head = definitions_to_json(capture.flavor, capture.server_version, [definition]).encode()
            found[bytes(event.body)[8:]] = pack([head, _unsealed(event)])
    return tuple(found.values())


@lru_cache(maxsize=256)
def _definition(head: bytes) -> tuple[Flavor, tuple[int, ...], TableDefinition]:
    flavor, version, (definition,) = definitions_from_json(head.decode())
    return flavor, version, definition


def _run_map(raw: bytes) -> str:
    head, content = unpack(raw)
    flavor, version, definition = _definition(head)

    def plan() -> RowLayout:
        table_map = parse_table_map(EventFramer(initial_checksum=False).frame(content), flavor)
        own = definition_from_table_map(table_map, flavor)
        if own is not None:
            # What the map itself says is a definition that fits it, or one that is refused in words.
            build_layout(table_map, own, flavor=flavor, server_version=version)
        return build_layout(table_map, definition, flavor=flavor, server_version=version)

    return _outcome(plan)[0]


def _damage_map(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    head, content = unpack(raw)
    return pack([head, damage_event(rng, content, [unpack(rng.choice(others))[1]], has_checksum=False)])


# ---------------------------------------------------------------- row images


@cache
def _rows_seeds() -> tuple[bytes, ...]:
    """`definition · table map event · rows events`, one seed a table map and what follows it."""
    found = []
    for capture in captures():
        maps: dict[int, list[bytes]] = {}
        for event in capture.events():
            kind = classify(event.header.event_type, event.header.flags)
            if kind is EventClass.TABLE_MAP:
                table_map = parse_table_map(event, capture.flavor)
                definition = _definition_of(capture, table_map)
                if definition is not None:
                    head = definitions_to_json(capture.flavor, capture.server_version, [definition]).encode()
                    maps[table_map.table_id] = [head, _unsealed(event)]
            elif kind is EventClass.ROWS:
                table_id = int.from_bytes(event.body[:6], "little")
                if table_id in maps:
                    maps[table_id].append(_unsealed(event))
                    if len(maps[table_id]) > 2:
                        found.append(pack(maps[table_id]))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=256)
def _layout(head: bytes, content: bytes) -> RowLayout:
    flavor, version, definition = _definition(head)
    table_map = parse_table_map(EventFramer(initial_checksum=False).frame(content), flavor)
    return build_layout(table_map, definition, flavor=flavor, server_version=version)


def _same_batch(kernel: RowBatch, twin: RowBatch) -> None:
    kernel.images.validate(full=True)
    assert kernel.images.schema == twin.images.schema
    for name, ours, theirs in zip(twin.images.schema.names, kernel.images.columns, twin.images.columns, strict=True):
        ours.validate(full=True)
        # by their bytes: -0.0 is not 0.0
        assert (ours.equals(theirs) and ours.to_pylist() == theirs.to_pylist()) or str(ours) == str(theirs), name
    assert kernel.operation.to_pylist() == twin.operation.to_pylist()
    assert kernel.transaction_index.to_pylist() == twin.transaction_index.to_pylist()
    assert kernel.shapes == twin.shapes
    assert (kernel.shape_index is None) == (twin.shape_index is None)
    if kernel.shape_index is not None and twin.shape_index is not None:
        assert kernel.shape_index.to_pylist() == twin.shape_index.to_pylist()


def _run_rows(raw: bytes) -> str:
    """The same events, one after another, to both; after each they hold the same, also when they refused it."""
    head, map_content, *contents = unpack(raw)
    word, layout = _outcome(lambda: _layout(head, map_content))
    if word != "ok":
        return f"map: {word}"
    needs_all_columns = bool(len(raw) & 1)
    kernel = rows_kernel.ImageBuffer(layout, needs_all_columns=needs_all_columns)
    twin = rows_twin.ImageBuffer(layout, needs_all_columns=needs_all_columns)
    words = []
    for number, content in enumerate(contents):

        def parse(content: bytes = content) -> RowsEvent:
            return binlog_events.parse_rows(EventFramer(initial_checksum=False).frame(content))

        word, event = _outcome(parse)
        if word != "ok":
            words.append(word)
            continue
        expected = _outcome(lambda: twin.append(event, number))  # noqa: B023 - called at once
        found = _outcome(lambda: kernel.append(event, number))  # noqa: B023
        assert found == expected, f"event {number}: kernel {found}, twin {expected}"
        assert kernel.image_count == twin.image_count
        assert kernel.byte_count == twin.byte_count, f"kernel {kernel.byte_count}, twin {twin.byte_count}"
        words.append(found[0])
    if twin.image_count > 2 and len(raw) % 3 == 0:
        kernel.truncate(twin.image_count // 2)
        twin.truncate(twin.image_count // 2)
    if twin.image_count:
        _same_batch(kernel.take(), twin.take())
    return words[-1] if words else "nothing"


def _damage_rows(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    head, map_content, *contents = unpack(raw)
    if rng.random() < 0.05:
        map_content = damage_event(rng, map_content, [unpack(rng.choice(others))[1]], has_checksum=False)
    more = [unpack(rng.choice(others))[-1], *contents]
    if rng.random() < 0.5:  # images only, so that the head stays true
        at = rng.randrange(len(contents))
        content = contents[at]
        start = min(len(content), 19 + 8 + 2 + 1 + 2 * (len(content) > 60))
        contents[at] = _resized(content[:start] + damage(rng, content[start:], [other[start:] for other in more]))
    else:
        contents = damage_events(rng, contents, more, has_checksum=False)
    return pack([head, map_content, *contents])


def _resized(content: bytes) -> bytes:
    return content[:9] + len(content).to_bytes(4, "little") + content[13:]


# ---------------------------------------------------------------- JSON


@cache
def _documents() -> tuple[bytes, ...]:
    """Every JSON value in the row images, as the reference reads its bytes."""
    found: dict[bytes, None] = {b"": None}
    for raw in _rows_seeds():
        head, map_content, *contents = unpack(raw)
        layout = _layout(head, map_content)
        if not any(column.codec is Codec.JSON for column in layout.columns):
            continue
        # as bytes: the value before it is turned into text
        columns = tuple(
            replace(column, codec=Codec.BYTES) if column.codec is Codec.JSON else column for column in layout.columns
        )
        for content in contents:
            event = binlog_events.parse_rows(EventFramer(initial_checksum=False).frame(content))
            buffer = rows_twin.ImageBuffer(replace(layout, columns=columns), needs_all_columns=False)
            reader = [rows_twin.column_decoder(column) for column in columns]
            if event.is_partial:
                continue
            found.update(dict.fromkeys(_values_of(event, columns, reader)))
            del buffer
    return tuple(found)


def _values_of(event: RowsEvent, columns: Sequence[Any], readers: Sequence[Any]) -> Iterator[bytes]:
    """The values that are documents, image by image."""
    at = 0
    shapes = [bits for bits in (event.present_before, event.present_after) if bits]
    image = 0
    while at < len(event.rows):
        present = shapes[image % len(shapes)]
        image += 1
        wanted = [index for index in range(len(columns)) if present >> index & 1]
        size = (len(wanted) + 7) // 8
        nulls = int.from_bytes(event.rows[at : at + size], "little")
        at += size
        for place, index in enumerate(wanted):
            if nulls >> place & 1:
                continue
            value, at = readers[index](event.rows, at)
            if isinstance(value, bytes) and columns[index].definition.kind == "json":
                yield value


def _run_json(raw: bytes) -> str:
    twin = _outcome(lambda: json_twin.json_text(raw), _NO_TEXT)
    kernel = _outcome(lambda: json_kernel.json_text(cast(bytes, guarded(raw))), _NO_TEXT)
    assert (kernel[0] == "ok") == (twin[0] == "ok"), f"kernel {kernel}, twin {twin}"
    if twin[0] == "ok":
        assert kernel == twin
    return twin[0]


def _lenenc(value: int) -> bytes:
    return bytes((value,)) if value < 251 else b"\xfc" + value.to_bytes(2, "little")


@cache
def _diff_seeds() -> tuple[bytes, ...]:
    """`document · changes`: documents with changes that apply, mostly."""
    rng = random.Random(7)
    values = [json_bytes(value) for value in _VALUES]
    found = []
    for document in (*_documents(), *map(json_bytes, _DOCUMENTS)):
        word, text = _outcome(lambda: json_twin.json_text(document), _NO_TEXT)  # noqa: B023
        assert word == "ok"
        places = list(_places(json.loads(text), "$"))
        for _ in range(5 if places else 0):
            changes = b""
            for path, operation in rng.choices(places, k=rng.choice((1, 1, 2, 3))):
                changes += bytes((operation,)) + _lenenc(len(path.encode())) + path.encode()
                if operation != _REMOVE:
                    value = rng.choice(values)
                    changes += _lenenc(len(value)) + value
            found.append(pack([document, changes]))
    return tuple(found)


_REPLACE, _INSERT, _REMOVE = 0, 1, 2
_VALUES: tuple[Any, ...] = (None, 1, "text", [1, "é"], {"a": {"b": [True, -7]}}, 1.5, [[]])
_DOCUMENTS: tuple[Any, ...] = (
    {"a": 1, "b": [1, 2, {"c": 3}], "a name": {"é": {"deep": [[[1]]]}}, "": 0},
    [[1, 2, 3], {"k": "v" * 300}, [], {}, None],
    {f"key{number}": [number] for number in range(40)},
)


def _places(value: Any, path: str) -> Iterator[tuple[str, int]]:
    """Paths into a document with an operation that applies there."""
    if isinstance(value, dict):
        yield f"{path}.new", _INSERT
        yield f'{path}."a \\"new\\" \\u00e9"', _INSERT
        for name, member in value.items():
            inner = f"{path}.{json.dumps(name, ensure_ascii=False)}"
            yield inner, _REPLACE
            yield inner, _REMOVE
            yield from _places(member, inner)
    elif isinstance(value, list):
        yield f"{path}[{len(value)}]", _INSERT
        yield f"{path}[0]", _INSERT
        for index, member in enumerate(value):
            inner = f"{path}[{index}]"
            yield inner, _REPLACE
            yield f"{path}[last-{len(value) - 1 - index}]", _REMOVE
            yield from _places(member, inner)


def _run_diffs(raw: bytes) -> str:
    parts = unpack(raw)
    document, changes = (*parts, b"", b"")[:2]
    twin = _outcome(lambda: json_twin.apply_json_diffs(document, changes), _NO_TEXT)
    kernel = _outcome(lambda: json_kernel.apply_json_diffs(document, cast(bytes, guarded(changes))), _NO_TEXT)
    assert (kernel[0] == "ok") == (twin[0] == "ok"), f"kernel {kernel}, twin {twin}"
    if twin[0] == "ok":
        assert kernel == twin
    return twin[0]


def _damage_diffs(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    document, changes = unpack(raw)
    other_document, other_changes = unpack(rng.choice(others))
    if rng.random() < 0.3:
        document = damage(rng, document, [other_document])
    if rng.random() < 0.2:
        changes += other_changes
    if rng.random() < 0.7:
        changes = damage(rng, changes, [other_changes])
    return pack([document, changes])


def _damage_bytes(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    return damage(rng, raw, [rng.choice(others)])


# ---------------------------------------------------------------- streams


@cache
def _stream_seeds() -> tuple[bytes, ...]:
    """`definitions · rotate · format description · events` of a few consecutive groups.

    DDL of a captured table is a barrier, behind which nothing is read: groups of rows alone come once more without it.
    """
    found = []
    for capture in captures():
        format_description, *contents = capture.contents
        groups: list[list[bytes]] = [[]]
        for content in contents:
            kind = parse_header(content)
            if classify(kind.event_type, kind.flags) is EventClass.GTID:
                groups.append([])
            groups[-1].append(content)
        of_rows = [group for group in groups if any(parse_header(one).event_type in _ROW_EVENTS for one in group)]
        slices = [groups[first : first + 4] for first in range(0, len(groups), 4)]
        slices += [of_rows[first : first + 4] for first in range(0, len(of_rows), 3)]
        for some in ([content for group in part for content in group] for part in slices):
            if not some:
                continue
            tables = _tables_of(capture, some)
            head = definitions_to_json(capture.flavor, capture.server_version, tables).encode()
            rotate = _opening_rotate(some[0], has_checksum=_has_checksum(format_description))
            found.append(pack([head, rotate, format_description, *some]))
    return tuple(found)


_ROW_EVENTS = frozenset((EventType.TABLE_MAP, EventType.TRANSACTION_PAYLOAD))


def _tables_of(capture: Capture, contents: Sequence[bytes]) -> list[TableDefinition]:
    """The definitions of the tables in those events, as of the first map of each."""
    found: dict[tuple[str, str], TableDefinition] = {}
    part = replace(capture, contents=(capture.contents[0], *contents))
    for _, table_map, definition in _table_maps(part):
        found.setdefault((table_map.database, table_map.table), definition)
    return list(found.values())


def _has_checksum(format_description: bytes) -> bool:
    framer = EventFramer()
    framer.frame(format_description)
    return framer.format is not None and framer.format.checksum is ChecksumAlgorithm.CRC32


def _opening_rotate(first: bytes, *, has_checksum: bool) -> bytes:
    """What the sender makes up before the first event: its file, and where in it."""
    header = parse_header(first)
    stream = Stream(max(4, header.log_pos - header.event_size))
    rotate = stream.fake_rotate()
    if has_checksum:
        return rotate
    return rotate[:9] + (len(rotate) - 4).to_bytes(4, "little") + rotate[13:-4]


def _rows_of(batch: RowBatch) -> list[Any]:
    """Row by row with what each lacks, by their text: -0.0 is not 0.0."""
    columns = [
        array.cast("int64") if str(array.type).startswith("timestamp") else array for array in batch.images.columns
    ]
    values = zip(*(column.to_pylist() for column in columns), strict=True) if columns else [()] * batch.row_count
    lacking = [frozenset[str]()] * batch.row_count
    if batch.shape_index is not None:
        lacking = [batch.shapes[index] for index in batch.shape_index.to_pylist()]
    return [(row, sorted(shape)) for row, shape in zip(values, lacking, strict=True)]


@dataclass
class _Session:
    """An assembler and what it gave."""

    assembler: Assembler
    out: Listener
    word: str = "ok"
    error: dict[str, Any] | None = None

    def state(self) -> list[Any]:
        """What must be the same however the events came."""
        one = self.assembler
        return [self.word, self.error, str(one.position), one.file_pos, one.saw_barrier]

    def results(self) -> list[Any]:
        """What was handed over, in order, the parts of a transaction put together: where one part ends and the next
        begins is nobody's business, and one that does not end is not there yet."""
        found: list[Any] = []
        rows: dict[str, list[Any]] = {}
        for item in self.out.items:
            if item == "abandoned":
                rows = {}
            if not isinstance(item, TransactionRun):
                found.append(item)
                continue
            for batch in item.batches:
                is_whole = item.part_number == 0 and item.is_last_part
                indexes = batch.transaction_index.to_pylist() if is_whole else [0] * batch.row_count
                table = rows.setdefault(str(batch.definition.name), [])
                table += zip(batch.operation.to_pylist(), indexes, map(str, _rows_of(batch)), strict=True)
            if item.is_last_part:
                ends = item.ends
                gtids = None if ends is None else [ends.gtid(index) for index in range(item.transaction_count)]
                offsets = None if ends is None else ends.offset.to_pylist()
                found.append((rows, str(item.end), item.commit_times_us.to_pylist(), gtids, offsets))
                rows = {}
        return found

    def guard(self, call: Callable[[], Any]) -> bool:
        """Run a step; False at a declared error, which ends the session."""
        try:
            call()
        except (*_DECLARED, ResyncRequired) as error:
            self.word = type(error).__name__
            self.error = error.to_dict()
            return False
        return True


def _session(
    head: bytes, rotate: bytes, *, is_fast: bool, has_checksum: bool, limits: RunLimits, needs_all: bool
) -> _Session:
    flavor, version, definitions = _definitions(head)
    out = Listener()
    header = parse_header(rotate)
    body = rotate[19 : header.event_size]
    start = SourcePosition(
        ServerIdentity(flavor, "server"),
        FilePos.of("binlog.000007", int.from_bytes(body[:8], "little")),
        MysqlGtidSet() if flavor == "mysql" else MariadbGtidList(),
    )
    assembler = Assembler(
        start=start,
        flavor=flavor,
        server_version=version,
        checksum_negotiated=has_checksum,
        lower_case_names=False,
        capture=Tables([CapturedTable(definition) for definition in definitions]),
        output=out,
        limits=limits,
        needs_all_columns=needs_all,
        is_fast=is_fast,
    )
    return _Session(assembler, out)


@lru_cache(maxsize=256)
def _definitions(head: bytes) -> tuple[Flavor, tuple[int, ...], tuple[TableDefinition, ...]]:
    return definitions_from_json(head.decode())


def _run_stream(raw: bytes) -> str:
    """Event by event through the handlers, and in windows through the scanner: the same runs and the same end."""
    head, rotate, *contents = unpack(raw)
    rng = random.Random(len(raw))
    limits = RunLimits(rows_max=rng.choice((1, 3, 10_000)), part_rows_max=rng.choice((1, 4, 40_000)))
    settings: dict[str, Any] = {
        "has_checksum": len(rotate) == len(b"binlog.000007") + 8 + 19 + 4,
        "limits": limits,
        "needs_all": rng.random() < 0.5,
    }
    slow = _session(head, rotate, is_fast=False, **settings)
    for content in (rotate, *contents):
        if not slow.guard(lambda: slow.assembler.feed(content)) or slow.assembler.saw_barrier:  # noqa: B023
            break
    by_event = _session(head, rotate, is_fast=True, **settings)
    for content in (rotate, *contents):
        if not by_event.guard(lambda: by_event.assembler.feed(content)) or by_event.assembler.saw_barrier:  # noqa: B023
            break
    _same_session(by_event, slow, "event by event")
    if all(len(content) >= 19 and parse_header(content).event_size == len(content) for content in contents):
        windows = _session(head, rotate, is_fast=True, **settings)
        windows.guard(lambda: _consume(windows.assembler, b"".join((rotate, *contents)), EVENTS, rng))
        _same_session(windows, slow, "in windows")
        packets = _session(head, rotate, is_fast=True, **settings)
        window = b"".join(_packet(content) for content in (rotate, *contents))
        packets.guard(lambda: _consume(packets.assembler, window, PACKETS, rng))
        _same_session(packets, slow, "in packets")
    if slow.word == "ok" and not slow.assembler.saw_barrier:
        slow.assembler.flush()
        by_event.assembler.flush()
        _same_session(by_event, slow, "after the flush")
    return "barrier" if slow.assembler.saw_barrier else slow.word


def _packet(content: bytes) -> bytes:
    return (len(content) + 1).to_bytes(3, "little") + b"\0\0" + content


def _consume(assembler: Assembler, raw: bytes, framing: int, rng: random.Random) -> None:
    """In windows that grow by pieces, as a socket fills them."""
    done, end = 0, 0
    while end < len(raw) and not assembler.saw_barrier:
        end = min(len(raw), end + rng.choice((1, 7, 40, 300, 5000, 100_000)))
        count = assembler.consume(guarded(raw[done:end]), framing)
        assert 0 <= count <= end - done
        done += count
        if assembler.is_odd:
            break


def _same_session(found: _Session, expected: _Session, how: str) -> None:
    assert found.state() == expected.state(), f"{how}: {found.state()}, expected {expected.state()}"
    ours, theirs = found.results(), expected.results()
    assert len(ours) == len(theirs), f"{how}: {len(ours)} results, expected {len(theirs)}"
    for one, other in zip(ours, theirs, strict=True):
        assert one == other, f"{how}: {one}, expected {other}"


def _damage_stream(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    head, rotate, format_description, *contents = unpack(raw)
    more = unpack(rng.choice(others))[2:]
    has_checksum = _has_checksum(format_description)
    return pack(
        [head, rotate, format_description, *damage_events(rng, contents, more, has_checksum=has_checksum)]
        if rng.random() < 0.97
        else [head, rotate, *damage_events(rng, [format_description, *contents], more, has_checksum=has_checksum)]
    )


def _run_packets(raw: bytes) -> str:
    """Bytes as they come from a socket: in whatever pieces, the result is that of one piece."""
    head, rotate, window = unpack(raw)
    settings: dict[str, Any] = {
        "has_checksum": len(rotate) == len(b"binlog.000007") + 8 + 19 + 4,
        "limits": RunLimits(),
        "needs_all": True,
    }
    whole = _session(head, rotate, is_fast=True, **settings)
    whole.guard(lambda: whole.assembler.consume(guarded(window), PACKETS))
    pieces = _session(head, rotate, is_fast=True, **settings)
    pieces.guard(lambda: _consume(pieces.assembler, window, PACKETS, random.Random(len(raw))))
    _same_session(pieces, whole, "in pieces")
    return "barrier" if whole.assembler.saw_barrier else whole.word


@cache
def _packet_seeds() -> tuple[bytes, ...]:
    """`definitions · rotate · packets`, from the first."""
    found = []
    for raw in _stream_seeds():
        head, rotate, *contents = unpack(raw)
        found.append(pack([head, rotate, b"".join(_packet(content) for content in (rotate, *contents))]))
    return tuple(found)


def _damage_packets(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    head, rotate, window = unpack(raw)
    return pack([head, rotate, damage(rng, window, [unpack(rng.choice(others))[2]])])


# ---------------------------------------------------------------- files


@cache
def _file_seeds() -> tuple[bytes, ...]:
    """`definitions · binlog file`: the streams as files."""
    found = []
    for raw in _stream_seeds():
        head, _, *contents = unpack(raw)
        found.append(pack([head, BINLOG_MAGIC + b"".join(contents)]))
    for capture in captures():  # and how a file begins, with the GTIDs before it
        if capture.name.endswith(("changes", "anonymous")):
            head = definitions_to_json(capture.flavor, capture.server_version, capture.definitions).encode()
            found.append(pack([head, BINLOG_MAGIC + b"".join(capture.contents[:12])]))
    return tuple(found)


def _run_file(raw: bytes) -> str:
    head, content = unpack(raw)
    _, _, definitions = _definitions(head)
    place = None
    if len(raw) % 3 == 0:  # somewhere: at an event's begin, if the second event's size is true
        first = int.from_bytes(content[13:17], "little") + len(BINLOG_MAGIC)
        place = FilePos(0, first + int.from_bytes(content[first + 9 : first + 13], "little"), "standard input")

    def read() -> Any:
        files = BinlogFiles([STDIN], warn=lambda text: None, stdin=io.BytesIO(content))
        start = files.start(place)
        session = files.open(start)
        assembler = Assembler(
            start=start,
            flavor=session.flavor,
            server_version=session.version,
            checksum_negotiated=session.checksum_negotiated,
            lower_case_names=session.lower_case_names,
            capture=Tables([CapturedTable(definition) for definition in definitions]),
            output=Listener(),
            limits=RunLimits(),
        )
        try:
            while not session.is_at_end and not assembler.saw_barrier:
                session.fill(0)
                session.deliver(assembler)
            return files.after(session.start, assembler.position)
        finally:
            session.close()

    return _outcome(read, (*_DECLARED, ResyncRequired, ConfigError))[0]


def _damage_file(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    head, content = unpack(raw)
    if rng.random() < 0.4:
        return pack([head, damage(rng, content, [unpack(rng.choice(others))[1]])])
    events = _cut(content[len(BINLOG_MAGIC) :])
    more = _cut(unpack(rng.choice(others))[1][len(BINLOG_MAGIC) :])
    damaged = damage_events(rng, events, more, has_checksum=_has_checksum(events[0]))
    return pack([head, BINLOG_MAGIC + b"".join(damaged)])


def _cut(raw: bytes) -> list[bytes]:
    """The events of an undamaged file."""
    found = []
    while raw:
        size = parse_header(raw).event_size
        found.append(raw[:size])
        raw = raw[size:]
    return found


# ---------------------------------------------------------------- results of SELECTs


@cache
def _result_seeds() -> tuple[bytes, ...]:
    """`which columns · the packets of a result of these`: each kind alone, some at random, all of them."""
    rng = random.Random(7)
    choices = [[index] for index in range(len(KINDS))] + [list(range(len(KINDS)))]
    choices += [rng.sample(range(len(KINDS)), rng.randrange(2, 8)) for _ in range(60)]
    found = []
    for chosen in choices:
        texts = [[None, *RESULT_TEXTS[KINDS[index].name]] for index in chosen]
        rows = [row_payload([rng.choice(column) for column in texts]) for _ in range(rng.randrange(1, 12))]
        found.append(pack([bytes(chosen), packets([*rows, eof_packet()])]))
    return tuple(found)


def _run_result(raw: bytes) -> str:
    """By the kernel, in pieces, and up to where memory ends: what the reference alone makes of the packets."""
    chosen, content = unpack(raw)
    definition = table_of(*(KINDS[index] for index in chosen))
    word, expected = _outcome(lambda: _result_by_reference(definition, content), _RESULT_ERRORS)
    session = FakeSession([content], field_count=len(chosen), sizes=[1 + len(raw) % 50, 1 << 20])
    reader = ResultReader(cast(SourceConnection, session), definition)
    limits = {"rows_max": 1 + len(raw) % 7, "bytes_max": 1 << 20}
    found, batches = _outcome(lambda: list(reader.read("SELECT", **limits)), _RESULT_ERRORS)
    assert found == word, f"{found}: {batches}; the reference: {word}: {expected}"
    buffer = RowBuffer(definition)
    consumed = buffer.consume(guarded(content), 0, 1 << 30, 1 << 40)[1]
    assert 0 <= consumed <= len(content)
    buffer.take().validate(full=True)
    if word == "ok":
        rows = pa.Table.from_batches(batches, schema=definition.arrow_schema).combine_chunks().to_batches()
        assert (not rows and not expected.num_rows) or same_rows(rows[0], expected)
    return word


_RESULT_ERRORS = (*_DECLARED, CdcError)


def _result_by_reference(definition: TableDefinition, content: bytes) -> Any:
    rows: list[Any] = []
    at, number = 0, 0
    while True:
        payload, size = b"", 0xFFFFFF
        while size == 0xFFFFFF:
            if len(content) - at < 4:
                raise SourceUnavailable("lost")
            size = int.from_bytes(content[at : at + 3], "little")
            if content[at + 3] != number & 0xFF:
                raise SourceUnavailable("shut down") if content[at + 3] == 0 else ProtocolError("out of order")
            if len(content) - at - 4 < size:
                raise SourceUnavailable("lost")
            payload += content[at + 4 : at + 4 + size]
            at, number = at + 4 + size, number + 1
        if payload[:1] == b"\xfe" and len(payload) <= 8:
            return to_record_batch(definition, rows)
        if payload[:1] == b"\xff":
            settings = SourceSettings("source", 3306, "cdc", "", 77)
            try:
                raise_server_error(payload)
            except pymysql.err.Error as error:
                raise translate_error(error, settings) from error
        values = row_values(payload, len(definition.columns))
        to_record_batch(definition, [values])  # the first row that cannot be read counts
        rows.append(values)


def _damage_result(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    chosen, content = unpack(raw)
    if rng.random() < 0.5:  # one row, and its length again right
        size = int.from_bytes(content[:3], "little")
        payload = damage(rng, content[4 : 4 + size], [unpack(rng.choice(others))[1][4:40]])
        return pack([chosen, packets([payload]) + content[4 + size :]])
    return pack([chosen, damage(rng, content, [unpack(rng.choice(others))[1]])])


# ---------------------------------------------------------------- text


@cache
def _statement_seeds() -> tuple[bytes, ...]:
    found: dict[bytes, None] = {}
    for capture in captures():
        for event in capture.events():
            if classify(event.header.event_type, event.header.flags) is EventClass.QUERY:
                found[binlog_events.parse_query(event).statement_bytes] = None
    more = (
        b"ALTER TABLE `a``b`.\"c\" RENAME TO d, ADD x INT /*! COMMENT 'x' */ /* y */ -- z\n, DROP PRIMARY KEY",
        b"/*!50003 CREATE TRIGGER t BEFORE INSERT ON u FOR EACH ROW BEGIN SET @a = 'x\\'y'; END */",
        b"RENAME TABLE a TO b, c.d TO e.f",
        b"DROP TABLE IF EXISTS `a`, b.c /* generated by server */",
        b"SET STATEMENT max_statement_time=1 FOR DROP TABLE a",
        b"CREATE OR REPLACE TABLE a LIKE b",
    )
    return (*found, *more)


def _run_statement(raw: bytes) -> str:
    text = raw.decode("utf-8", "backslashreplace")
    statement = classify_statement(
        text, database="shop", ansi_quotes=bool(len(raw) & 1), backslash_escapes=bool(len(raw) & 2)
    )
    assert all(name == name.lower() for name in statement.names)
    return statement.kind.value


_GTID_SEEDS = (
    b"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7-9:tag:1-4:other_tag:3,4e11fa47-71ca-11e1-9e33-c80aa9429562:1",
    b"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9223372036854775806",
    b"3E11FA47-71CA-11E1-9E33-C80AA9429562:23",
    b"3e11fa4771ca11e19e33c80aa9429562:tag:23,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:5-4",
    b"0-1-5,5-2-18446744073709551615",
    b"0-4294967295-1",
    b"",
)


def _run_gtid(raw: bytes) -> str:
    """Text is a set, or no set (ValueError); a set prints as one that is equal."""
    text = raw.decode("utf-8", "replace")
    word, found = _outcome(lambda: MysqlGtidSet.parse(text), _NO_TEXT)
    if word == "ok":
        assert MysqlGtidSet.parse(str(found)) == found
        assert found.is_subset_of(found)
        header = EventHeader(0, EventType.PREVIOUS_GTIDS, 1, 0, 0, 0)
        assert binlog_events.parse_previous_gtids(Event(header, found.encode())).executed == found
    _outcome(lambda: parse_mysql_gtid(text), _NO_TEXT)
    other, positions = _outcome(lambda: MariadbGtidList.parse(text), _NO_TEXT)
    if other == "ok":
        assert MariadbGtidList.parse(str(positions)) == positions
    return "ok" if "ok" in (word, other) else word


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("framing", _contents, _damage_content, _frame),
        Target("events", _plain_events, _damage_plain, _run_event),
        Target("maps", _map_seeds, _damage_map, _run_map),
        Target("rows", _rows_seeds, _damage_rows, _run_rows),
        Target("json", _documents, _damage_bytes, _run_json),
        Target("diffs", _diff_seeds, _damage_diffs, _run_diffs),
        Target("stream", _stream_seeds, _damage_stream, _run_stream),
        Target("packets", _packet_seeds, _damage_packets, _run_packets),
        Target("files", _file_seeds, _damage_file, _run_file),
        Target("results", _result_seeds, _damage_result, _run_result),
        Target("statements", _statement_seeds, _damage_bytes, _run_statement),
        Target("gtids", lambda: _GTID_SEEDS, _damage_bytes, _run_gtid),
        Target("compact", batches.compact_seeds, batches.damage_batch, batches.run_compact),
        Target("copy_text", batches.text_seeds, batches.damage_batch, batches.run_copy_text),
        Target("load_text", batches.text_seeds, batches.damage_batch, batches.run_load_text),
    )
}
