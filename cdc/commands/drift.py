"""`cdc check --drift`: how the sinks' tables differ from what the mapping makes of the source's definitions now.

Reads, and changes nothing. The service itself compares with the definition at its own position (`pipeline.upkeep`), so
a DDL that it has not come to yet is shown here, and not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from rich.console import Console
from rich.text import Text

from cdc.app import make_sink, pipeline_name, routing, source_settings
from cdc.config import Config, SinkSettings
from cdc.errors import UnsupportedData
from cdc.model import TableDefinition
from cdc.pipeline.dealing import lane_stores, side_stores
from cdc.pipeline.tables import TableRegistry
from cdc.schema.drift import Drift, drift
from cdc.schema.identifiers import is_shadow
from cdc.schema.indexes import target_indexes
from cdc.sinks.base import Sink
from cdc.sinks.target_facts import read_facts
from cdc.source.connection import SourceConnection, connect
from cdc.source.definitions import read_definition
from cdc.source.indexes import read_indexes
from checkpoints.store import TableRecord

__all__ = ["TableDrift", "find_drift", "run_drift_command"]

_NOTE_KINDS = ("left_out", "added")


@dataclass(frozen=True, slots=True)
class TableDrift:
    """One table on one sink."""

    sink: str
    table: str
    target: str
    found: tuple[Drift, ...]

    @property
    def is_drifted(self) -> bool:
        """Is something not there that the mapping makes?"""
        return any(one.kind not in _NOTE_KINDS for one in self.found)


def find_drift(config: Config) -> list[TableDrift]:
    """Every loaded table of every sink. Raises what a server that cannot be reached raises."""
    found: list[TableDrift] = []
    with connect(source_settings(config)) as source:
        for settings in config.sinks:
            sink = make_sink(settings)
            try:
                sink.open()
                found += _of_sink(config, settings, sink, source)
            finally:
                sink.close()
    return found


def _of_sink(config: Config, settings: SinkSettings, sink: Sink, source: SourceConnection) -> Iterator[TableDrift]:
    stores = lane_stores(sink, pipeline_name(config, settings))
    if not stores[1].exists():
        return
    sides = side_stores(sink, pipeline_name(config, settings)).values()
    every = (record for store in (*sides, *stores.values()) for record in store.load_tables().values())
    records = {record.source: record for record in every if not is_shadow(record.target)}
    tables = TableRegistry(routing(config, settings), sink.kind, records.values())  # they say what a target lacks
    for record in sorted(records.values(), key=lambda one: one.source):
        if record.state == "parked":
            why = Drift("broken", f"the table is parked: {(record.error or {}).get('message', '')}")
            yield TableDrift(settings.name, str(record.source), record.target, (why,))
        elif record.state == "ready" and record.definition is not None:
            found = tuple(_of_table(record, tables, sink, source))
            yield TableDrift(settings.name, str(record.source), record.target, found)


def _of_table(record: TableRecord, tables: TableRegistry, sink: Sink, source: SourceConnection) -> Iterator[Drift]:
    try:
        definition = read_definition(source, record.source)
        if definition is None:
            yield Drift("broken", "the table is not at the source any more")
            return
        target = tables.make_target(definition)
    except UnsupportedData as error:
        yield Drift("broken", error.message)
        return
    if record.definition is not None and _columns(definition) != _columns(record.definition):
        yield Drift("added", "a DDL of the source, which the service has not come to yet: it may mend what follows")
    facts = read_facts(sink, target)
    existing = sink.inspect(target) if facts is not None else None
    differences = sink.differences(target, existing) if existing is not None else []
    indexes, words = target_indexes(read_indexes(source, [record.source]).get(record.source, []), target, sink.kind)
    yield from drift(target, facts, differences, sink.kind, indexes=indexes, index_words=words)


def _columns(definition: TableDefinition) -> list[tuple[str, str, bool]]:
    return [(column.name, column.column_type, column.is_nullable) for column in definition.columns]


def run_drift_command(config: Config, *, as_json: bool) -> int:
    """Print it; 0 where nothing that the mapping makes is missing, else 1."""
    found = find_drift(config)
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        rows = [
            {
                "sink": one.sink,
                "table": one.table,
                "target": one.target,
                "is_drifted": one.is_drifted,
                "drift": [{"kind": each.kind, "text": each.text} for each in one.found],
            }
            for one in found
        ]
        console.print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode(), markup=False)
    else:
        console.print(_shown(found))
    return int(any(one.is_drifted for one in found))


_STYLES = {"broken": "red", "lost": "yellow", "left_out": "dim", "added": "dim"}


def _shown(found: list[TableDrift]) -> Text:
    text = Text()
    for one in found:
        for each in one.found:
            text.append(f"{each.kind.replace('_', ' '):<9}", style=_STYLES[each.kind])
            text.append(f"{one.sink}: {one.target} ({one.table}): {each.text}\n")
    drifted = sum(one.is_drifted for one in found)
    text.append(f"{len(found)} tables looked at, {drifted} drifted" if found else "no table is loaded")
    return text
