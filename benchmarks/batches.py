"""A log as files that the servers' own clients put into a sink: the same batches as the service's, without the service.

A batch is what the service makes one sink transaction of while it catches up: a run of its default limits (or those
given), folded to one row a key by its own compactor. In each batch

    net inserts    rows of keys whose first image in the batch is an INSERT: straight into the table
    the rest       other rows that exist afterwards: into a staging table, and merged from there (INSERT ... ON
                   CONFLICT DO UPDATE, ON DUPLICATE KEY UPDATE); keys that are gone: into a staging table, and deleted

and a transaction around them. What the service does besides, its checkpoint and its tables' states, is not in them.
Texts for PostgreSQL are by the service's encoder; those for LOAD DATA hold what the server's SELECT prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.deployment import LogSource, Place
from benchmarks.hashing import canonical_text
from benchmarks.reading import OneTable
from cdc.errors import InvariantBroken
from cdc.model import ColumnDefinition, FilePos, Operation, SchemaChange, SourcePosition, TransactionRun
from cdc.pipeline.compactor import compact
from cdc.schema.target import TargetTable
from cdc.sinks.encode_postgres import copy_text
from cdc.sinks.values import PolicyCounter
from cdc.source.assembler import Assembler, RunLimits
from cdc.source.connection import SourceSettings, connect
from cdc.source.stream import BinlogStream

__all__ = ["Batch", "batches", "write_load_data", "write_psql"]

_SILENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One run's net changes as images: all columns, of the deletes only the key counts.

    `is_last`: a transaction ends with it (large ones come in several).
    """

    inserts: Sequence[pa.RecordBatch]
    others: Sequence[pa.RecordBatch]
    deletes: Sequence[pa.RecordBatch]
    is_last: bool


class _Runs:
    """An output that keeps what comes until it is fetched."""

    def __init__(self) -> None:
        self.runs: list[TransactionRun] = []

    def run(self, run: TransactionRun) -> None:
        self.runs.append(run)

    def change(self, change: SchemaChange) -> None:
        raise InvariantBroken(f"a log without DDL has a barrier: {change.statement!r}")

    def progress(self, position: SourcePosition) -> None:
        """Nothing is kept."""

    def abandon(self) -> None:
        raise InvariantBroken("a log without a crash has an abandoned transaction")


def batches(source: LogSource, settings: SourceSettings, target: TargetTable, limits: RunLimits) -> Iterator[Batch]:
    """Read the log to its end, batch by batch."""
    end = FilePos.of(source.log.files[-1], source.log.end_pos)
    start = source.start
    with connect(settings) as session:
        flavor, version = session.flavor, session.version
    runs = _Runs()
    stream = BinlogStream(settings, flavor=flavor, position=start, server_id=settings.server_id + 1)
    stream.open()
    try:
        assembler = Assembler(
            start=SourcePosition(start.server, None, start.gtid),
            flavor=flavor,
            server_version=version,
            checksum_negotiated=stream.checksum_negotiated,
            lower_case_names=False,
            capture=OneTable(target.definition),
            output=runs,
            limits=limits,
        )
        is_at_end = False
        while not is_at_end:
            if not stream.fill(_SILENCE_SECONDS):
                raise InvariantBroken(f"the log should go on to {end}; the last event ended at {assembler.file_pos}")
            stream.deliver(assembler)
            is_at_end = assembler.file_pos is not None and assembler.file_pos >= end
            if is_at_end:
                assembler.flush()
            for run in runs.runs:
                if run.batches or run.part_number:
                    yield _batch(run, target)
            runs.runs.clear()
    finally:
        stream.close()


def _batch(run: TransactionRun, target: TargetTable) -> Batch:
    """Tell net inserts from other upserts."""
    change = compact(target.definition, target.key, run.batches)
    (name,) = target.key  # of the tables of the logs
    first: dict[int, int] = {}
    for batch in change.batches:
        operations = batch.operation.to_pylist()
        for value, operation in zip(batch.images.column(name).to_pylist(), operations, strict=True):
            first.setdefault(value, operation)
    inserts, others = [], []
    for images in change.upsert_images():
        mask = [first[value] == Operation.INSERT for value in images.column(name).to_pylist()]
        inserts.append(images.filter(pa.array(mask)))
        others.append(images.filter(pa.array([not is_insert for is_insert in mask])))
    return Batch(_with_rows(inserts), _with_rows(others), list(change.delete_images()), run.is_last_part)


def _with_rows(batches_: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    return [batch for batch in batches_ if batch.num_rows]


# ---------------------------------------------------------------- psql


def write_psql(path: Path, found: Iterator[Batch], place: Place) -> int:
    """A script for psql, with the rows in it; how many batches."""
    target = place.target
    columns = [f'"{column.name}"' for column in target.columns]
    table, names = f'"{target.namespace}"."{target.name}"', ", ".join(columns)
    keys = ", ".join(f'"{name}"' for name in target.key)
    sets = ", ".join(f"{c} = EXCLUDED.{c}" for c in columns if c.strip('"') not in target.key)
    matches = " AND ".join(f't."{name}" = k."{name}"' for name in target.key)
    key_columns = [column for column in target.columns if column.name in target.key]
    count = 0
    with path.open("wb") as script:

        def copy(into: str, rows: Sequence[pa.RecordBatch], only_keys: bool) -> None:
            chosen = key_columns if only_keys else target.columns
            script.write(f"COPY {into} ({keys if only_keys else names}) FROM stdin;\n".encode())
            for batch in rows:
                script.write(bytes(copy_text(batch, target, chosen, PolicyCounter())))
            script.write(b"\\.\n")

        script.write(
            f"\\set ON_ERROR_STOP on\nSET timezone = 'UTC';\n"
            f"CREATE TEMP TABLE stage_rows (LIKE {table}) ON COMMIT DELETE ROWS;\n"
            f"CREATE TEMP TABLE stage_keys ON COMMIT DELETE ROWS AS SELECT {keys} FROM {table} LIMIT 0;\n".encode()
        )
        is_open = False
        for batch in found:
            count += 1
            script.write(b"" if is_open else b"BEGIN;\n")
            if batch.deletes:
                copy("stage_keys", batch.deletes, True)
                script.write(f"DELETE FROM {table} t USING stage_keys k WHERE {matches};\n".encode())
            if batch.others:
                copy("stage_rows", batch.others, False)
                script.write(
                    f"INSERT INTO {table} ({names}) SELECT {names} FROM stage_rows "
                    f"ON CONFLICT ({keys}) DO UPDATE SET {sets};\n".encode()
                )
            if batch.inserts:
                copy(table, batch.inserts, False)
            is_open = not batch.is_last
            script.write(b"TRUNCATE stage_rows, stage_keys;\n" if is_open else b"COMMIT;\n")
    return count


# ---------------------------------------------------------------- mariadb


def write_load_data(directory: Path, found: Iterator[Batch], place: Place) -> tuple[Path, int]:
    """A script for the client of the MySQL family, and files beside it that it loads; how many batches."""
    target = place.target
    table = f"`{target.namespace}`.`{target.name}`"
    names = [column.name for column in target.columns]
    key_columns = [target.definition.column(name) for name in target.key]
    keys = ", ".join(f"`{name}`" for name in target.key)
    sets = ", ".join(f"`{name}` = VALUES(`{name}`)" for name in names if name not in target.key)
    script = directory / "script.sql"
    count = 0
    with script.open("w") as text:

        def load(into: str, rows: Sequence[pa.RecordBatch], suffix: str, only_keys: bool) -> None:
            file = directory / f"{count:06d}.{suffix}"
            chosen = key_columns if only_keys else list(target.definition.columns)
            with file.open("wb") as content:
                for batch in rows:
                    content.write(_load_text(batch, chosen))
            fields = ", ".join(f"@{c.name}" if c.kind == "bit" else f"`{c.name}`" for c in chosen)
            bits = ", ".join(f"`{c.name}` = @{c.name} + 0" for c in chosen if c.kind == "bit")
            text.write(
                f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {into} CHARACTER SET utf8mb4 ({fields})"
                f"{f' SET {bits}' if bits else ''};\n"
            )

        text.write(
            f"SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES';\nUSE `{target.namespace}`;\n"
            f"CREATE TEMPORARY TABLE stage_rows LIKE {table};\n"
            f"CREATE TEMPORARY TABLE stage_keys AS SELECT {keys} FROM {table} LIMIT 0;\n"
            f"ALTER TABLE stage_keys ADD PRIMARY KEY ({keys});\n"
        )
        is_open = False
        for batch in found:
            count += 1
            text.write("" if is_open else "BEGIN;\n")
            if batch.deletes:
                load("stage_keys", batch.deletes, "keys", True)
                text.write(f"DELETE t FROM {table} t JOIN stage_keys USING ({keys});\nDELETE FROM stage_keys;\n")
            if batch.others:
                load("stage_rows", batch.others, "rows", False)
                text.write(f"INSERT INTO {table} SELECT * FROM stage_rows ON DUPLICATE KEY UPDATE {sets};\n")
                text.write("DELETE FROM stage_rows;\n")
            if batch.inserts:
                load(table, batch.inserts, "inserts", False)
            is_open = not batch.is_last
            text.write("" if is_open else "COMMIT;\n")
    return script, count


def _load_text(rows: pa.RecordBatch, columns: Sequence[ColumnDefinition]) -> bytes:
    """Lines for LOAD DATA. None of the logs' tables has a text with a tab, a newline or a backslash."""
    texts = [pc.fill_null(canonical_text(rows.column(column.name), column), "\\N") for column in columns]
    lines: pa.Array = pc.binary_join_element_wise(*texts, pa.scalar("\t", pa.large_string()))
    return ("\n".join(lines.to_pylist()) + "\n").encode()
