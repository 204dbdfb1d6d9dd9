"""`cdc checkpoint history`: which definition each table had from which position on, as the sinks' metadata have it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import orjson
import typer

from cdc.app import make_sink, pipeline_name, sinks_named
from cdc.config import Config
from cdc.errors import ConfigError
from cdc.model import TableDefinition, TableName
from cdc.pipeline.dealing import lane_stores
from cdc.sinks.base import Sink
from checkpoints.history import HistoryEntry, TableHistory, described

__all__ = ["histories_on", "show_history"]

_COLUMNS_SHOWN_MAX = 12
_KNOWN = {
    "source": "read from the source",
    "statement": "worked out of a statement",
    "created": "made by a statement",
    "unknown": "not known from here on",
    "loading": "not known from here on, until its load has caught up",
}


def show_history(config: Config, tables: Sequence[str], *, only_sinks: list[str], as_json: bool) -> int:
    """Print the entries, oldest first; as JSON in the form that `--schema` reads, of one sink alone.

    Raises ConfigError where JSON is asked for of several sinks, and what a sink's connection raises.
    """
    chosen = sinks_named(config, only_sinks)
    if as_json and len(chosen) > 1:
        raise ConfigError(
            "the history as JSON is one sink's", hint=f"--sink NAME: one of {', '.join(one.name for one in chosen)}"
        )
    for settings in chosen:
        sink = make_sink(settings)
        try:
            sink.open()
            found = histories_on(sink, pipeline_name(config, settings))
        finally:
            sink.close()
        found = {table: history for table, history in found.items() if not tables or str(table) in tables}
        if as_json:
            sys.stdout.write(orjson.dumps(described(found), option=orjson.OPT_INDENT_2).decode() + "\n")
        else:
            _say(settings.name, found)
    return 0


def histories_on(sink: Sink, pipeline: str) -> dict[TableName, TableHistory]:
    """Every table's history on an open sink, of whichever lane has it."""
    found: dict[TableName, TableHistory] = {}
    for store in lane_stores(sink, pipeline).values():
        if store.exists("history"):
            found |= store.histories()
    return dict(sorted(found.items()))


def _say(sink: str, histories: Mapping[TableName, TableHistory]) -> None:
    if not histories:
        typer.echo(f"{sink}: no history")
    for table, history in histories.items():
        typer.echo(f"{sink}: {table}")
        for entry in history.entries:
            typer.echo(f"  {entry.since}  {_KNOWN[entry.known]}")
            typer.echo(f"    {_shown(entry)}")
        if history.upto is not None:
            typer.echo(f"  {history.upto}  the checkpoint")


def _shown(entry: HistoryEntry) -> str:
    definition: TableDefinition | None = entry.definition
    if definition is None:
        return "-"
    texts = [f"{column.name} {column.column_type}" for column in definition.columns]
    more = len(texts) - _COLUMNS_SHOWN_MAX
    return ", ".join(texts[:_COLUMNS_SHOWN_MAX]) + (f", and {more} more columns" if more > 0 else "")
