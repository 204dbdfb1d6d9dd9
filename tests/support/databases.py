"""Databases that a test has to itself on a server that the whole run shares."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterator

from cdc.demo.servers import Server

_COUNT = itertools.count(1)
_RUN = f"{os.getpid()}_{secrets.token_hex(2)}"  # two runs may share a server given by URL


def unique_name(prefix: str = "t") -> str:
    """A name for a database, schema or user that no other test and no other run uses."""
    return f"{prefix}_{_RUN}_{next(_COUNT)}"


@contextlib.contextmanager
def fresh_database(server: Server, prefix: str = "t", *, charset: str = "utf8mb4") -> Iterator[str]:
    """Name of a new, empty database on a MySQL or MariaDB server, dropped afterwards."""
    assert server.family != "postgresql"
    name = unique_name(prefix)
    server.execute(f"CREATE DATABASE `{name}` CHARACTER SET {charset}")
    try:
        yield name
    finally:
        if server.is_running:
            server.execute(f"DROP DATABASE IF EXISTS `{name}`")


@contextlib.contextmanager
def fresh_pg_database(server: Server, prefix: str = "t") -> Iterator[str]:
    """Name of a new, empty database on a PostgreSQL server, dropped afterwards with every session in it ended."""
    assert server.family == "postgresql"
    name = unique_name(prefix)
    server.execute(f'CREATE DATABASE "{name}"')
    try:
        yield name
    finally:
        if server.is_running:
            server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
