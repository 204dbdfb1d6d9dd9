"""Every captured file read without a server: its rows are what the server selected when it was captured.

By the kernel and event by event, whole and in small pieces; the files' expected rows are the servers' own words
(capture.py), so a difference here is a difference to a server.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.binlog.constants import BINLOG_MAGIC, EventType
from cdc.binlog.framing import parse_header
from cdc.binlog.layout import definition_from_table_map
from cdc.binlog.table_map import TableMap
from cdc.commands.tail import TailOptions, tail
from cdc.errors import CdcError
from cdc.model import Flavor, Operation, RowBatch, TableDefinition, TableName
from cdc.source.binlog_files import BinlogFiles
from tests.fuzz.corpus import definitions_from_json
from tests.golden import BYTES_MAX, DATABASE, DIRECTORY
from tests.support.binlog_values import batch_rows
from tests.support.followed import Followed, KnownTables, Row, State, assert_same_runs, changes, check_changes, replay

# Nothing but its head can be read without its server's keys.
ENCRYPTED = "mariadb1011-encrypted"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.binlog") if path.stem != ENCRYPTED)


@cache
def _document(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return document


def _replayed(name: str, *, is_fast: bool = True, chunk_bytes: int = 0) -> Followed:
    document = _document(name)
    flavor: Flavor = document["flavor"]
    definitions: tuple[TableDefinition, ...] = ()
    if document["definitions"]:
        _, _, definitions = definitions_from_json(json.dumps(document["definitions"]))

    def define(table_map: TableMap) -> TableDefinition | None:
        return None if definitions else definition_from_table_map(table_map, flavor)

    content = (DIRECTORY / f"{name}.binlog").read_bytes()
    assert content.startswith(BINLOG_MAGIC)
    return replay(
        content[len(BINLOG_MAGIC) :],
        KnownTables(definitions, define),
        flavor=flavor,
        version=tuple(document["version"]),
        is_fast=is_fast,
        chunk_bytes=chunk_bytes,
    )


def _states(name: str, table: str) -> Iterator[tuple[int, State, bool]]:
    for state in _document(name)["states"]:
        if state["table"] == table:
            rows = [dict(zip(state["columns"], row, strict=True)) for row in state["rows"]]
            yield state["pos"], {row["id"]: row for row in rows}, state["is_given"]


def _rows(batch: RowBatch) -> list[Row]:
    return batch_rows([batch])


def _check(name: str, followed: Followed) -> int:
    """Every table after every statement; how many images there were."""
    count = 0
    for table in {state["table"] for state in _document(name)["states"]}:
        found = list(changes(followed.runs, TableName(DATABASE, table), _rows))
        before: State = {}
        at = 0
        for pos, after, is_given in _states(name, table):
            images = [(operation, image) for offset, operation, image in found if at < offset <= pos]
            if is_given:
                assert not images
            else:
                check_changes(before, images, after)
            before, at = after, pos
            count += len(images)
        # what changed nothing changed nothing
        check_changes(before, [(operation, image) for offset, operation, image in found if offset > at], before)
    return count


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_what_the_server_selected(name: str) -> None:
    document = _document(name)
    fast, slow = _replayed(name), _replayed(name, is_fast=False)
    for followed in (fast, slow):
        if document["error"]:
            assert document["error"] in str(followed.error)
        elif followed.error is not None:
            raise followed.error
        count = _check(name, followed)
        assert count == sum(run.image_count for run in followed.runs)
        assert count or document["error"]
    assert_same_runs(fast.runs, slow.runs)
    assert (str(fast.error), fast.changes) == (str(slow.error), slow.changes)


@pytest.mark.parametrize("chunk_bytes", [19, 500])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_the_same_however_the_bytes_arrive(name: str, chunk_bytes: int) -> None:
    whole, pieces = _replayed(name), _replayed(name, chunk_bytes=chunk_bytes)
    assert_same_runs(whole.runs, pieces.runs)
    assert (str(whole.error), whole.changes) == (str(pieces.error), pieces.changes)


@pytest.mark.parametrize("name", [name for name in NAMES if not _document(name)["definitions"]])
def test_cdc_tail_prints_every_change_of_them(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    error = _document(name)["error"]
    with pytest.raises(CdcError, match=re.escape(error)) if error else contextlib.nullcontext():
        tail(TailOptions(files=[str(DIRECTORY / f"{name}.binlog")]), None)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    operations = pa.chunked_array(
        [batch.operation for run in _replayed(name).runs for batch in run.batches], type=pa.uint8()
    ).to_pylist()
    for word, operation in (
        ("insert", Operation.INSERT),
        ("update", Operation.UPDATE_AFTER),
        ("delete", Operation.DELETE),
    ):
        assert sum(line["operation"] == word for line in lines) == operations.count(operation)


def test_an_encrypted_file_is_said_to_be_one() -> None:
    path = DIRECTORY / f"{ENCRYPTED}.binlog"
    with pytest.raises(CdcError, match=rf"{ENCRYPTED}.binlog: the file is encrypted \(from offset 256\)"):
        BinlogFiles([str(path)], warn=lambda text: None).start()


def test_the_files_hold_what_they_are_for() -> None:
    """A server of another version may write something else: then a file of that name proves nothing."""
    wanted = {
        "mysql97-compressed": {EventType.TRANSACTION_PAYLOAD},
        "mysql97-tagged": {EventType.GTID_TAGGED, EventType.GTID},
        "mysql97-partial": {EventType.PARTIAL_UPDATE_ROWS, EventType.UPDATE_ROWS},
        "mysql97-anonymous": {EventType.ANONYMOUS_GTID},
        "mysql97-transactions": {EventType.ROWS_QUERY, EventType.XA_PREPARE},
        "mysql97-incident": {EventType.INCIDENT},
        "mysql97-prepared": {EventType.XA_PREPARE},
        "mariadb118-transactions": {EventType.MARIADB_ANNOTATE_ROWS},
        "mariadb118-compressed": {
            EventType.MARIADB_WRITE_ROWS_COMPRESSED_V1,
            EventType.MARIADB_UPDATE_ROWS_COMPRESSED_V1,
            EventType.MARIADB_DELETE_ROWS_COMPRESSED_V1,
            EventType.MARIADB_QUERY_COMPRESSED,
        },
        "mariadb1011-incident": {EventType.INCIDENT},
        ENCRYPTED: {EventType.MARIADB_START_ENCRYPTION},
        "mysql56-types": {EventType.WRITE_ROWS, EventType.TABLE_MAP},
    }
    for name, types in wanted.items():
        assert types <= _types(DIRECTORY / f"{name}.binlog"), name


def test_the_files_are_small() -> None:
    assert all(path.stat().st_size < BYTES_MAX for path in DIRECTORY.glob("*.binlog"))
    assert len(NAMES) > 30


def _types(path: Path) -> set[int]:
    content, at, types = path.read_bytes(), len(BINLOG_MAGIC), set()
    while at < len(content):
        header = parse_header(content[at : at + 19])
        types.add(header.event_type)
        if header.event_type == EventType.MARIADB_START_ENCRYPTION:
            break
        at += header.event_size
    return types
