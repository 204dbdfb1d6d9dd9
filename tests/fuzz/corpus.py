"""The corpus: captures of real servers' binlogs (capture.py makes them), cut into what the targets take."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from cdc.binlog.constants import BINLOG_MAGIC, EVENT_HEADER_BYTES, EventType
from cdc.binlog.events import parse_transaction_payload, payload_events
from cdc.binlog.framing import Event, EventFramer, parse_header
from cdc.model import ColumnDefinition, Flavor, TableDefinition, TableName, UniqueKey, ValueKind

__all__ = ["DIRECTORY", "Capture", "captures", "definitions_from_json", "definitions_to_json", "pack", "unpack"]

DIRECTORY = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Capture:
    """One captured log: its events as they were sent, and the tables that they are of."""

    name: str
    flavor: Flavor
    server_version: tuple[int, ...]
    definitions: tuple[TableDefinition, ...]
    contents: tuple[bytes, ...]

    def events(self) -> Iterator[Event]:
        """The events framed; those of compressed transactions after the event that holds them."""
        framer = EventFramer()
        for content in self.contents:
            event = framer.frame(content)
            yield event
            if event.header.event_type == EventType.TRANSACTION_PAYLOAD:
                yield from payload_events(parse_transaction_payload(event))


@cache
def captures() -> tuple[Capture, ...]:
    """Every capture, by name."""
    return tuple(_read(path) for path in sorted(DIRECTORY.glob("*.binlog")))


def _read(path: Path) -> Capture:
    raw = path.read_bytes()
    assert raw.startswith(BINLOG_MAGIC)
    flavor, version, definitions = definitions_from_json(path.with_suffix(".json").read_text())
    contents = []
    at = len(BINLOG_MAGIC)
    while at < len(raw):
        size = parse_header(raw[at : at + EVENT_HEADER_BYTES]).event_size
        contents.append(raw[at : at + size])
        at += size
    return Capture(path.stem, flavor, version, definitions, tuple(contents))


# ---------------------------------------------------------------- definitions


def _plain(value: Any) -> dict[str, Any]:
    """A value's fields that are not at their default."""
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    }


def definitions_to_json(flavor: Flavor, version: tuple[int, ...], definitions: Sequence[TableDefinition]) -> str:
    tables = []
    for definition in definitions:
        table = _plain(definition)
        table["name"] = [definition.name.database, definition.name.table]
        table["columns"] = [_plain(column) for column in definition.columns]
        table["unique_keys"] = [_plain(key) for key in definition.unique_keys]
        tables.append(json.dumps(table, ensure_ascii=False))
    return "[" + ",\n".join([json.dumps([flavor, list(version)]), *tables]) + "]\n"


def _column(fields: dict[str, Any]) -> ColumnDefinition:
    fields["kind"] = ValueKind(fields["kind"])
    fields["members"] = tuple(fields.get("members", ()))
    return ColumnDefinition(**fields)


def _unique_key(fields: dict[str, Any]) -> UniqueKey:
    return UniqueKey(**{**fields, "columns": tuple(fields["columns"])})


def definitions_from_json(text: str) -> tuple[Flavor, tuple[int, ...], tuple[TableDefinition, ...]]:
    (flavor, version), *tables = json.loads(text)
    found = []
    for fields in tables:
        fields["name"] = TableName(*fields["name"])
        fields["columns"] = tuple(map(_column, fields["columns"]))
        fields["primary_key"] = tuple(fields.get("primary_key", ()))
        fields["unique_keys"] = tuple(map(_unique_key, fields.get("unique_keys", ())))
        found.append(TableDefinition(**fields))
    return cast(Literal["mysql", "mariadb"], flavor), tuple(version), tuple(found)


# ---------------------------------------------------------------- several byte strings as one


def pack(parts: Sequence[bytes]) -> bytes:
    """`length[4, little-endian] bytes` each."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def unpack(packed: bytes) -> list[bytes]:
    """What `pack` was given; of damaged bytes, something."""
    parts = []
    at = 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "little")
        parts.append(packed[at + 4 : at + 4 + size])
        at += 4 + size
    return parts
