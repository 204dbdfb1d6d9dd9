"""`cdc checkpoint show` and `cdc checkpoint reset`."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import typer

from cdc.app import make_sink, pipeline_name, sinks_named
from cdc.config import Config
from cdc.errors import ConfigError
from cdc.pipeline.text import iso_time
from checkpoints.store import InSinkStore

__all__ = ["reset", "show"]


def show(config: Config, *, as_json: bool) -> int:
    """Print every sink's checkpoint. Raises what a sink's connection raises."""
    rows: list[dict[str, Any]] = []
    for settings in config.sinks:
        sink = make_sink(settings)
        try:
            sink.open()
            store = InSinkStore(sink, pipeline_name(config, settings))
            checkpoint, committed_us = store.load_checkpoint() if store.exists() else (None, None)
            rows.append(
                {
                    "sink": settings.name,
                    "position": checkpoint.position.to_dict() if checkpoint else None,
                    "server": checkpoint.position.server.uuid if checkpoint else None,
                    "sequence": checkpoint.sequence if checkpoint else None,
                    "committed": iso_time(committed_us),
                }
            )
        finally:
            sink.close()
    if as_json:
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for row in rows:
        position = row["position"]
        if position is None:
            typer.echo(f"{row['sink']}: no checkpoint yet")
            continue
        typer.echo(f"{row['sink']}: checkpoint {row['sequence']} of {row['committed']}, server {row['server']}")
        if position["gtid"] is not None:
            typer.echo(f"  gtid  {position['gtid'] or '(empty)'}")
        if position["file"]:
            typer.echo(f"  file  {position['file']}:{position['pos']}")
    return 0


def reset(config: Config, *, only_sinks: list[str], is_confirmed: bool) -> int:
    """Forget checkpoint and table states of the pipelines, so that the next run loads every table again.

    Raises ConfigError while a live instance holds one of them.
    """
    chosen = sinks_named(config, only_sinks)
    names = ", ".join(settings.name for settings in chosen)
    if not is_confirmed:
        if not sys.stdin.isatty():
            raise ConfigError("checkpoint reset asks for confirmation", hint="give --yes where nobody can answer")
        typer.confirm(f"Forget the checkpoint on {names}? The next run loads every table again", abort=True)
    for settings in chosen:
        sink = make_sink(settings)
        try:
            sink.open()
            store = InSinkStore(sink, pipeline_name(config, settings))
            if not store.exists():
                typer.echo(f"{settings.name}: nothing to forget")
                continue
            lease = store.read_lease()
            if lease is not None and store.is_holder_alive(lease):
                raise ConfigError(
                    f"{pipeline_name(config, settings)} is being run by {lease.holder}",
                    hint="stop that instance first",
                )
            with sink.transaction() as tx:
                store.reset(tx)
                tx.commit()
            typer.echo(f"{settings.name}: forgotten; the next `cdc run` loads every table again")
        finally:
            sink.close()
    return 0
