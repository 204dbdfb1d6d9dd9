"""`cdc checkpoint show` and `cdc checkpoint reset`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import orjson
import typer

from cdc.app import make_sink, pipeline_name, sinks_named
from cdc.commands.asker import asker
from cdc.commands.leases import leases_taken
from cdc.config import Config
from cdc.errors import ConfigError
from cdc.model import SourcePosition
from cdc.pipeline.dealing import CannotDeal, lane_stores, least, side_stores
from cdc.pipeline.polled_sink import poller_stores
from cdc.pipeline.text import iso_time
from checkpoints.checkpoint import Checkpoint
from checkpoints.store import InSinkStore

__all__ = ["reset", "show"]


def show(config: Config, *, as_json: bool) -> int:
    """Print every sink's checkpoint: the one that is furthest behind of its lanes', and each of them.

    Raises what a sink's connection raises.
    """
    rows: list[dict[str, Any]] = []
    for settings in config.sinks:
        sink = make_sink(settings)
        try:
            sink.open()
            rows.append({"sink": settings.name, **_row(lane_stores(sink, pipeline_name(config, settings)))})
        finally:
            sink.close()
    if as_json:
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for row in rows:
        if len(row["lanes"]) == 1:
            _say(row["sink"], row)
        else:
            for lane in row["lanes"]:
                _say(f"{row['sink']}, lane {lane['lane']}", lane)
    return 0


def _row(stores: Mapping[int, InSinkStore]) -> dict[str, Any]:
    found = {lane: store.load_checkpoint() if store.exists() else (None, None) for lane, store in stores.items()}
    try:
        where = least(checkpoint.position for checkpoint, _ in found.values() if checkpoint is not None)
    except (CannotDeal, ValueError):
        where = None
    whole = next((one for one in found.values() if one[0] is not None and one[0].position == where), (None, None))
    lanes = [{"lane": lane, **_checkpoint(*one)} for lane, one in found.items()]
    return {**_checkpoint(*whole), "lanes": lanes}


def _checkpoint(checkpoint: Checkpoint | None, committed_us: int | None) -> dict[str, Any]:
    position: SourcePosition | None = checkpoint.position if checkpoint is not None else None
    return {
        "position": position.to_dict() if position is not None else None,
        "server": position.server.uuid if position is not None else None,
        "sequence": checkpoint.sequence if checkpoint is not None else None,
        "committed": iso_time(committed_us),
    }


def _say(name: str, row: Mapping[str, Any]) -> None:
    position = row["position"]
    if position is None:
        typer.echo(f"{name}: no checkpoint yet")
        return
    typer.echo(f"{name}: checkpoint {row['sequence']} of {row['committed']}, server {row['server']}")
    if position["gtid"] is not None:
        typer.echo(f"  gtid  {position['gtid'] or '(empty)'}")
    if position["file"]:
        typer.echo(f"  file  {position['file']}:{position['pos']}")


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
            stores = lane_stores(sink, pipeline_name(config, settings))
            if not stores[1].exists():
                typer.echo(f"{settings.name}: nothing to forget")
                continue
            pollers = poller_stores(sink, pipeline_name(config, settings))
            who = asker()
            # An instance that is only cut off from the sink would go on from where it was, over what is forgotten here.
            with leases_taken([*stores.values(), *pollers.values()], "checkpoint reset", who=who):
                sides = side_stores(sink, pipeline_name(config, settings))  # as their lanes do, they begin anew
                with leases_taken(list(sides.values()), "checkpoint reset", who=who), sink.transaction() as tx:
                    for store in (*stores.values(), *sides.values(), *pollers.values()):
                        store.fence(tx)
                        store.reset(tx)
                    tx.commit()
            typer.echo(f"{settings.name}: forgotten; the next `cdc run` loads every table again")
        finally:
            sink.close()
    return 0
