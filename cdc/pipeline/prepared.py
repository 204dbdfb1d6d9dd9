"""Rows of prepared XA transactions: stored at XA PREPARE, applied at XA COMMIT, dropped at XA ROLLBACK.

What is stored of a table is applied if the table at the commit is the one of the prepare: captured, of the same
definition, and not loaded since the commit. A table that was loaded between the two is fine: the load has not seen the
rows. Where the rows cannot be told to fit, because the definition is another one now or because the table was not
captured when they passed, the table is loaded again, from behind the commit; so is one that was loaded between the
two, and whose rows foreign keys change in no event.

A table keeps its name while rows of it are prepared: the servers refuse the RENAME, whoever's session has ended and
after a restart, too (tested on those that the service is tested on).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pyarrow as pa

from cdc.errors import InvariantBroken, ResyncRequired
from cdc.model import RowBatch, TableDefinition, TableName, TransactionRun, Xa, XaAction, XaStep
from cdc.pipeline.tables import TableRegistry
from cdc.schema.history import decode_definition, encode_definition
from cdc.sinks.base import SinkTransaction
from cdc.source.assembler import PreparedXa
from checkpoints.prepared import PreparedRecord, PreparedStore
from checkpoints.store import InSinkStore

__all__ = ["PreparedRows", "decode_batches", "encode_batches"]

_LENGTH_BYTES = 8
_OPERATION = "operation"
_SHAPE = "shape_index"
_ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")


class PreparedRows:
    """What waits in one pipeline's metadata. Used by the applier's thread, inside its open transaction."""

    def __init__(self, store: InSinkStore, tables: TableRegistry) -> None:
        self.reloads: list[TableName] = []
        """Tables that were marked to be loaded again: the session ends once the transaction is committed."""
        self._table_store = store
        self._store = PreparedStore(store)
        self._tables = tables
        self._waiting: dict[Xa, PreparedRecord] = {}
        self._stored: dict[Xa, int] = {}  # images of the open transaction's parts

    def load(self) -> None:
        """Begin with what the metadata has at the checkpoint."""
        self._waiting = self._store.load()

    def known(self) -> dict[Xa, PreparedXa]:
        """What the reader of the stream has to know of it; its own copy."""
        return {xa: PreparedXa(record.stored, record.passed) for xa, record in self._waiting.items()}

    def waiting(self) -> tuple[int, int | None]:
        """As `PreparedStore.waiting`, without asking the sink."""
        times = [record.prepared_us for record in self._waiting.values() if record.image_count]
        return len(times), min(times, default=None)

    def batches(self, tx: SinkTransaction, run: TransactionRun) -> Iterator[Sequence[RowBatch]]:
        """The batches that this run applies, in order, so many at a time as are in memory together.

        Must be iterated to its end: what is stored and forgotten for the run is done in between.
        """
        stores = [step.xa for step in run.xa if step.action is XaAction.STORE]
        if stores:
            self._store_part(tx, stores[0], run)
            return
        self._store.forget(tx, [step.xa for step in run.xa if step.action is XaAction.FORGET])
        for step in run.xa:
            if step.action is XaAction.PREPARE:
                self._prepare(tx, step, run)
            elif step.action is XaAction.APPLY:
                yield from self._apply(tx, step, run)
            else:
                self._waiting.pop(step.xa, None)
        yield run.batches

    def _store_part(self, tx: SinkTransaction, xa: Xa, run: TransactionRun) -> None:
        if run.part_number == 0:
            self._stored = {xa: 0}
            self._store.forget(tx, [xa])  # one of that name ended where the log does not show it
        self._store.put_part(tx, xa, run.part_number + 1, encode_batches(run.batches))
        self._stored[xa] += run.image_count

    def _prepare(self, tx: SinkTransaction, step: XaStep, run: TransactionRun) -> None:
        if not run.part_number:
            self._store.forget(tx, [step.xa])  # as above; it has no rows that count
        prepared_us = run.commit_times_us[-1].as_py()
        record = PreparedRecord(
            xa=step.xa,
            prepared_us=prepared_us or 0,
            position=str(run.end),
            part_count=run.part_number,
            image_count=self._stored.pop(step.xa, 0) if run.part_number else 0,
            stored=step.stored,
            passed=step.passed,
        )
        self._store.put(tx, record)
        self._waiting[step.xa] = record

    def _apply(self, tx: SinkTransaction, step: XaStep, run: TransactionRun) -> Iterator[Sequence[RowBatch]]:
        """`run` may be the last part of the transaction itself, which was committed in one phase."""
        record = self._waiting.pop(step.xa, None)
        if run.part_number:
            record = None  # of an earlier transaction of that name, whose end the log does not show
        elif record is None:
            raise InvariantBroken(f"XA COMMIT of {step.xa}, of which nothing is known")
        count = run.part_number if record is None else record.part_count
        passed = frozenset[TableName]() if record is None else record.passed
        reloads = {table for table in passed - step.covered if self._tables.find(table) is not None}
        definitions: dict[bytes, TableDefinition] = {}
        for content in self._store.parts(tx, step.xa, count):
            fitting = []
            for batch in decode_batches(content, definitions):
                name = batch.definition.name
                captured = self._tables.find(name)
                if captured is None or name in step.covered or name in reloads:
                    continue
                if captured.definition != batch.definition:
                    reloads.add(name)
                    continue
                fitting.append(replace(batch, definition=captured.definition))
            yield fitting
        for name in sorted(reloads):
            self._load_again(tx, name)
        self._store.forget(tx, [step.xa])

    def _load_again(self, tx: SinkTransaction, name: TableName) -> None:
        record = self._tables.record(name)
        if record is None:
            raise InvariantBroken(f"{name} is captured, and has no record")
        record = replace(record, state="pending", loaded_from=None, ready_at=None, ready_server=None, error=None)
        self._table_store.save_table(tx, record)
        self._tables.put(record)
        self.reloads.append(name)


# ---------------------------------------------------------------- bytes


def encode_batches(batches: Sequence[RowBatch]) -> bytes:
    """Batches of one transaction: each as an Arrow IPC stream behind its length (8 bytes, little-endian).

    The stream has the operations, the shapes' indexes where there are any, and the images' columns; its schema's
    metadata has the table's definition.
    """
    pieces = []
    for batch in batches:
        content = _encode(batch)
        pieces += [len(content).to_bytes(_LENGTH_BYTES, "little"), content]
    return b"".join(pieces)


def _encode(batch: RowBatch) -> bytes:
    columns: list[Any] = [batch.operation]
    fields = [pa.field(_OPERATION, pa.uint8())]
    metadata = {b"definition": encode_definition(batch.definition).encode()}
    if batch.shape_index is not None:
        columns.append(batch.shape_index)
        fields.append(pa.field(_SHAPE, pa.uint16()))
        metadata[b"shapes"] = orjson.dumps([sorted(shape) for shape in batch.shapes])
    columns += batch.images.columns
    fields += list(batch.images.schema)
    together = pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=metadata))
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, together.schema, options=_ZSTD) as writer:
        writer.write_batch(together)
    return bytes(out.getvalue())


def decode_batches(content: bytes, definitions: dict[bytes, TableDefinition]) -> list[RowBatch]:
    """What `encode_batches` made. `definitions` keeps those that were decoded before. Raises ResyncRequired."""
    found = []
    at = 0
    view = memoryview(content)
    while at < len(content):
        size = int.from_bytes(view[at : at + _LENGTH_BYTES], "little")
        at += _LENGTH_BYTES
        if at + size > len(content):
            raise _damaged("it ends inside a batch")
        found.append(_decode(view[at : at + size], definitions))
        at += size
    return found


def _decode(content: memoryview, definitions: dict[bytes, TableDefinition]) -> RowBatch:
    try:
        with pa.ipc.open_stream(content) as reader:
            together = reader.read_next_batch()
    except (pa.ArrowException, StopIteration, OSError) as error:
        raise _damaged(str(error)) from error
    metadata = together.schema.metadata or {}
    encoded = metadata.get(b"definition", b"")
    definition = definitions.get(encoded)
    if definition is None:
        definition = definitions[encoded] = decode_definition(encoded.decode())
    shapes = metadata.get(b"shapes")
    first = 1 if shapes is None else 2
    images = pa.RecordBatch.from_arrays(together.columns[first:], schema=pa.schema(list(together.schema)[first:]))
    if images.schema.names != [column.name for column in definition.columns]:
        raise _damaged(f"a batch of {definition.name} has other columns than the table")
    return RowBatch(
        definition=definition,
        operation=together.column(0),
        transaction_index=pa.repeat(pa.scalar(0, pa.uint32()), together.num_rows),
        images=images,
        shape_index=None if shapes is None else together.column(1),
        shapes=() if shapes is None else tuple(frozenset(shape) for shape in orjson.loads(shapes)),
    )


def _damaged(why: str) -> ResyncRequired:
    return ResyncRequired(
        f"the rows of a prepared XA transaction in the sink's metadata are damaged: {why}",
        hint="restore them, or load again with `cdc checkpoint reset`",
    )
