"""What `cdc snapshot TABLE` asks of a running service, without waiting for its end."""

from __future__ import annotations

import json

from tests.support.deployment import Deployment
from tests.support.waiting import wait_until

__all__ = ["ask_to_load", "asked", "wait_until_joined"]


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


def wait_until_joined(made: Deployment, *tables: str, sink: str = "sink") -> None:
    """Until they are ready, and kept current by the sink's own stream: no side has them any more.

    Or until the service is gone: what it was to be killed at may come before.
    """
    process = made.process
    assert process is not None
    server, database = made.sinks[sink]
    names = {f"{made.source_database}.{table}" for table in tables}
    place = _commands(made, sink).replace("commands", "tables")

    def has_joined() -> bool:
        if process.poll() is not None:
            return True
        rows = server.execute(f"SELECT pipeline, source_table, state FROM {place}", database=database)
        found = [(pipeline, ".".join(json.loads(name)), state) for pipeline, name, state in rows]
        places = {(name, "~" in pipeline, state) for pipeline, name, state in found if name in names}
        return places == {(name, False, "ready") for name in names}

    def are_ready() -> bool:
        states = {table["table"]: table["state"] for table in made.status()["tables"]}
        return process.poll() is not None or {states.get(name) for name in names} == {"ready"}

    wait_until(are_ready, 120, f"{tables} to be ready")
    wait_until(has_joined, 120, f"{tables} to have joined")


def _commands(made: Deployment, sink: str) -> str:
    server, database = made.sinks[sink]
    return "_cdc.commands" if server.family == "postgresql" else f"`{database or made.source_database}`._cdc_commands"
