"""Arrow batches as byte strings, and what is fuzzed with them: the fold of a run, and the texts for the sinks.

    head · settings · operations · validity, values, bytes of column 0 · of column 1 · ...

`head` is the table's definition, `settings` JSON: how many rows, from which on, which of them. The buffers are Arrow's,
as they are; the array that they make is no more looked at than any other that reaches the kernel. One of them lies at
the end of memory.

The oracle: the Python twin gives the same, or says what is wrong in the same words; what Arrow itself calls invalid
(where the twin would read anywhere) is refused, or gives something, and no byte outside of the buffers is read.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pyarrow as pa

from cdc.errors import InvariantBroken, UnsupportedData
from cdc.model import ColumnDefinition, Flavor, Operation, RowBatch, TableDefinition
from cdc.pipeline.compactor import compact_in_python
from cdc.pipeline.kernel.compact import SEED_BYTES, last_images
from cdc.schema.mapping import map_table
from cdc.schema.target import Policies, SinkKind, TargetTable
from cdc.sinks.encode_mysql import load_lines
from cdc.sinks.kernel.copy_text import CopyLines
from cdc.sinks.values import column_of
from tests.fuzz.corpus import definitions_from_json, definitions_to_json, pack, unpack
from tests.fuzz.guarded import guarded
from tests.fuzz.mutate import damage
from tests.unit.sinks.builders import ID, MARIADB_VALUES, MYSQL_VALUES, K, column, rows_of, table
from tests.unit.sinks.test_kernel_copy_text import assert_same
from tests.unit.sinks.test_kernel_load_text import assert_as_the_twin

__all__ = ["compact_seeds", "damage_batch", "run_compact", "run_copy_text", "run_load_text", "text_seeds"]

_BUFFERS = 3  # of a column: validity, values or offsets, bytes
_VERSIONS: Mapping[Flavor, tuple[int, ...]] = {"mysql": (9, 7, 0), "mariadb": (11, 8, 0)}
_ANY_BYTES = 1 << 40


# ---------------------------------------------------------------- a batch and its bytes


def _packed(definition: TableDefinition, rows: pa.RecordBatch, operations: Sequence[int], **settings: Any) -> bytes:
    head = definitions_to_json(definition.flavor, _VERSIONS[definition.flavor], [definition])
    parts = [head.encode(), json.dumps({"rows": rows.num_rows, **settings}).encode(), bytes(operations)]
    for array in rows.columns:
        buffers = [*array.buffers(), None][:_BUFFERS]
        parts += [b"" if buffer is None else bytes(buffer) for buffer in buffers]
    return pack(parts)


def _array(arrow_type: pa.DataType, settings: Mapping[str, Any], buffers: Sequence[pa.Buffer | None]) -> pa.Array:
    is_variable = pa.types.is_large_string(arrow_type) or pa.types.is_large_binary(arrow_type)
    used = buffers if is_variable else buffers[:2]
    return pa.Array.from_buffers(arrow_type, settings["rows"], used, -1, settings.get("offset", 0))


class _NoArrays(Exception):
    """Arrow does not take the buffers."""


def _unpacked(raw: bytes) -> tuple[TableDefinition, Mapping[str, Any], pa.Buffer, list[pa.Array]]:
    head, settings_text, operations, *parts = unpack(raw)
    _, _, (definition,) = definitions_from_json(head.decode())
    settings = json.loads(settings_text)
    at_the_end = len(raw) % (len(parts) + 1)
    buffers: list[pa.Buffer | None] = [
        pa.py_buffer(guarded(part) if index == at_the_end else part) if part else None
        for index, part in enumerate(parts)
    ]
    try:
        arrays = [
            _array(column.arrow_type, settings, buffers[_BUFFERS * index : _BUFFERS * (index + 1)])
            for index, column in enumerate(definition.columns)
        ]
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise _NoArrays from error
    return definition, settings, pa.py_buffer(operations), arrays


def _is_readable(array: pa.Array) -> bool:
    """May Arrow read every value? What is no text, or has too many digits, may still be read."""
    if pa.types.is_decimal(array.type):
        return True
    if pa.types.is_large_string(array.type):
        array = pa.Array.from_buffers(pa.large_binary(), len(array), array.buffers(), -1, array.offset)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def damage_batch(rng: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """Some buffers damaged; sometimes what is said of them."""
    head, settings_text, operations, *parts = unpack(raw)
    settings = json.loads(settings_text)
    _, _, other_operations, *other_parts = unpack(rng.choice(others))
    if rng.random() < 0.2:
        operations = damage(rng, operations, [other_operations])
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(parts))
        parts[at] = damage(rng, parts[at] or bytes(8), [rng.choice(other_parts)])
    if rng.random() < 0.3:
        settings["rows"] = max(0, settings["rows"] + rng.choice((-3, -1, 1, 2)))
    if rng.random() < 0.3:
        settings["offset"] = rng.randrange(4)
        settings["rows"] = max(0, settings["rows"] - rng.randrange(4))
    if rng.random() < 0.5:
        last = settings["rows"] if rng.random() < 0.2 else settings["rows"] - 1
        settings["selection"] = sorted({rng.randint(0, max(0, last)) for _ in range(rng.randrange(9))})
    return pack([head, json.dumps(settings).encode(), operations, *parts])


# ---------------------------------------------------------------- texts


@cache
def text_seeds() -> tuple[bytes, ...]:
    """Every kind of column beside a key, with the values that servers hold and a NULL; and all of them together."""
    found = []
    for flavor, values in (("mysql", MYSQL_VALUES), ("mariadb", MARIADB_VALUES)):
        for definition, some in values.values():
            source = table(ID, definition, flavor=flavor)  # type: ignore[arg-type]  # the two that there are
            short = [value[:2000] if isinstance(value, str | bytes) else value for value in (*some, None)]
            rows = list(enumerate(short))
            found.append(_packed(source, rows_of(source, rows), [Operation.INSERT] * len(rows)))
        found.append(_wide_seed(flavor, values))  # type: ignore[arg-type]
    return tuple(found)


def _wide_seed(flavor: Flavor, values: Mapping[str, tuple[ColumnDefinition, Sequence[Any]]]) -> bytes:
    columns = [replace(definition, name=f"c{index}") for index, (definition, _) in enumerate(values.values())]
    source = table(ID, *columns, flavor=flavor)
    rows = [(row, *(some[row % len(some)] for _, some in values.values())) for row in range(7)]
    return _packed(source, rows_of(source, rows), [Operation.INSERT] * len(rows))


def _selection(settings: Mapping[str, Any]) -> pa.Int32Array | None:
    rows = settings.get("selection")
    return None if rows is None else pa.array(rows, pa.int32())


def _targets(
    definition: TableDefinition, kinds: Sequence[SinkKind], settings: Mapping[str, Any]
) -> Iterator[tuple[SinkKind, TargetTable]]:
    policies = Policies(zero_dates="error") if settings["rows"] % 5 == 4 else Policies()
    for kind in kinds:
        try:
            yield kind, map_table(definition, kind=kind, namespace="n", name="t", key=("id",), policies=policies)
        except UnsupportedData:
            continue


def _run_text(
    raw: bytes, kinds: Sequence[SinkKind]
) -> Iterator[tuple[SinkKind, TargetTable, pa.RecordBatch, pa.Int32Array | None, bool]]:
    """The target on each kind of sink, the rows and the selection, and whether the twin may be shown them."""
    definition, settings, _, arrays = _unpacked(raw)
    rows = pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema)
    selection = _selection(settings)
    chosen = range(rows.num_rows) if selection is None else selection.to_pylist()
    is_readable = all(map(_is_readable, arrays)) and all(0 <= row < rows.num_rows for row in chosen)
    for kind, target in _targets(definition, kinds, settings):
        yield kind, target, rows, selection, is_readable


def run_copy_text(raw: bytes) -> str:
    """COPY text: the twin's bytes and counts, or its refusal."""
    word = "nothing"
    try:
        for _, target, rows, selection, is_readable in _run_text(raw, ("postgresql",)):
            if is_readable:
                found = assert_same(rows, target, selection)
                word = "ok" if isinstance(found[0], bytes) else found[0].__name__
            else:
                word = _unreadable(target, rows, selection)
    except _NoArrays:
        return "no arrays"
    return word


def _unreadable(target: TargetTable, rows: pa.RecordBatch, selection: pa.Int32Array | None) -> str:
    """What the twin cannot be shown: the kernel refuses it, or has not met what is wrong with it."""
    try:
        lines = CopyLines([(one, column_of(rows, one)) for one in target.columns], selection)
        while not lines.write() and not lines.is_left:
            pass
    except InvariantBroken:
        return "InvariantBroken"
    return "unreadable"


def run_load_text(raw: bytes) -> str:
    """Literals: the twin's, or the row is left. Lines of LOAD DATA: of the same rows, one line a row."""
    word = "nothing"
    try:
        for kind, target, rows, selection, is_readable in _run_text(raw, ("mysql", "mariadb")):
            if is_readable:
                assert_as_the_twin(target, rows, kind, selection, keeps=bool(len(raw) & 1))
            try:
                word = _lines(target, rows, kind, selection)
            except InvariantBroken:
                assert not is_readable
                word = "InvariantBroken"
    except _NoArrays:
        return "no arrays"
    return word


def _lines(target: TargetTable, rows: pa.RecordBatch, kind: SinkKind, selection: pa.Int32Array | None) -> str:
    lines = load_lines(
        rows, target.columns, kind, selection, row_bytes_max=_ANY_BYTES, keeps_negative_zero=kind == "mysql"
    )
    text = b"".join(lines)
    left = lines.take_left()
    count = rows.num_rows if selection is None else len(selection)
    assert lines.row_count + len(left) == count
    # A tab or newline of a value stands behind a backslash, as a letter.
    assert text.count(b"\n") == lines.row_count
    assert text.count(b"\t") == lines.row_count * (len(target.columns) - 1)
    return "some left" if len(left) else "ok"


# ---------------------------------------------------------------- the fold


_KEYS: tuple[tuple[ColumnDefinition, Sequence[Any]], ...] = (
    (ID, (1, 2, 3, -1, 2**31 - 1)),
    (column("id", K.INTEGER, "tinyint", length=8), (1, 2, 3, -1)),
    (column("id", K.INTEGER, "bigint unsigned", length=64), (1, 2, 2**64 - 1)),
    (column("id", K.BLOB, "varbinary(20)", length=20), (b"", b"a", b"aaaaaaa", b"aaaaaaaa", b"aaaaaaaab", b"\0")),
    (column("id", K.DECIMAL, "decimal(20,2)", precision=20, scale=2), (1, 2, 100)),
    (column("id", K.DECIMAL, "decimal(60,2)", precision=60, scale=2), (1, 2, 100)),
    (column("id", K.DOUBLE, "double"), (0.0, -0.0, 1.5)),
)
_OPERATIONS = tuple(int(operation) for operation in Operation)


@cache
def compact_seeds() -> tuple[bytes, ...]:
    """Histories over few keys, of one column and of two."""
    rng = random.Random(5)
    found = []
    for definition, values in _KEYS:
        for more, more_values in ((None, ()), _KEYS[3]):
            columns = [definition] if more is None else [definition, replace(more, name="more")]
            source = table(*columns, key=[one.name for one in columns])
            count = rng.choice((5, 30, 200))
            rows = [(rng.choice(values), *([rng.choice((*more_values, None))] if more else [])) for _ in range(count)]
            operations = rng.choices(_OPERATIONS, k=count)
            found.append(_packed(source, rows_of(source, rows), operations, parts=rng.choice((1, 2, 3))))
    return tuple(found)


def run_compact(raw: bytes) -> str:
    """The twin's selections and counts; nothing of what it refuses is followed."""
    try:
        definition, settings, operations, arrays = _unpacked(raw)
        count, offset = settings["rows"], settings.get("offset", 0)
        operation = pa.Array.from_buffers(pa.uint8(), count, [None, operations], 0, offset)
    except (_NoArrays, pa.ArrowException, ValueError):
        return "no arrays"
    batches = _cut(definition, operation, pa.RecordBatch.from_arrays(arrays, schema=definition.arrow_schema), settings)
    key = definition.primary_key
    columns = [(batch.operation, [batch.images.column(name) for name in key]) for batch in batches]
    seed = bytes((len(raw) + index) & 0xFF for index in range(SEED_BYTES))
    found = [last_images(columns, seed, hash_bits) for hash_bits in (64, 3)]
    assert found[0] == found[1]
    try:
        twin = compact_in_python(definition, key, batches)
    except InvariantBroken:
        return "refused" if found[0] is None else "more than the twin"
    except (ValueError, OverflowError):  # of a value that Python has none for
        return "no Python value"
    if found[0] is None:
        return "left to the twin"
    upserts, inserts, deletes, counts = found[0]
    assert (upserts, inserts, deletes) == (twin.upserts, twin.inserts, twin.deletes)
    names = ("insert", "update", "delete")
    assert {name: n for name, n in zip(names, counts, strict=True) if n} == twin.counts
    return "ok"


def _cut(
    definition: TableDefinition, operation: pa.UInt8Array, images: pa.RecordBatch, settings: Mapping[str, Any]
) -> list[RowBatch]:
    """The run in so many batches."""
    count, parts = len(operation), settings.get("parts", 1)
    index = pa.repeat(pa.scalar(0, pa.uint32()), count)
    cuts = [count * part // parts for part in range(parts + 1)]
    return [
        RowBatch(
            definition,
            operation.slice(first, last - first),
            index.slice(first, last - first),
            images.slice(first, last - first),
        )
        for first, last in itertools.pairwise(cuts)
    ]
