"""What `cdc snapshot TABLE` asks of a running service, without waiting for its end."""

from __future__ import annotations

import json

from tests.support.deployment import Deployment

__all__ = ["ask_to_load", "asked"]


def ask_to_load(made: Deployment, table: str, *, sink: str = "sink") -> None:
    """Put the command where the service looks for it."""
    server, database = made.sinks[sink]
    pipeline, argument = f"{made.config['name']}/{sink}", json.dumps([[made.source_database, table]])
    server.execute(
        f"INSERT INTO {_commands(made, sink)} (pipeline, name, argument, state, message, requested_us) "
        f"VALUES ('{pipeline}', 'snapshot', '{argument}', 'queued', '', 0)",
        database=database,
    )


def asked(made: Deployment, *, sink: str = "sink") -> list[tuple[str, str]]:
    """State and message of each command, in order."""
    server, database = made.sinks[sink]
    return list(server.execute(f"SELECT state, message FROM {_commands(made, sink)} ORDER BY id", database=database))


def _commands(made: Deployment, sink: str) -> str:
    server, database = made.sinks[sink]
    return "_cdc.commands" if server.family == "postgresql" else f"`{database or made.source_database}`._cdc_commands"
