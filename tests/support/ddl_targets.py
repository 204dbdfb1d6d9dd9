"""Statements on the source and the sinks of a deployment, and marks on targets that only a load takes away."""

from __future__ import annotations

from typing import Any

from tests.support.deployment import Deployment

__all__ = ["MINE", "PAIRS", "mark", "on_sink", "on_source", "targets", "unmarked"]

MINE = "mine"  # a column that somebody has added on the sink: a load would leave it empty
PAIRS = (("mysql97", "mariadb1011"), ("mariadb118", "mysql97"), ("mariadb1011", "mariadb118"))


def on_source(made: Deployment, statement: str) -> None:
    made.source.execute(statement, database=made.source_database)


def on_sink(made: Deployment, sink: str, statement: str) -> list[Any]:
    """`{}` is the namespace, with its dot."""
    server, database = made.sinks[sink]
    namespace = f'"{made.source_database}".' if server.family == "postgresql" else ""
    return server.execute(statement.format(namespace), database=database)


def mark(made: Deployment, table: str, *, key: str = "id") -> None:
    """Give every row at the sinks something that only these rows have."""
    for sink, (server, _) in made.sinks.items():
        text = "text" if server.family == "postgresql" else "CHAR"
        on_sink(made, sink, f"ALTER TABLE {{}}{table} ADD COLUMN {MINE} VARCHAR(20) NULL")
        on_sink(made, sink, f"UPDATE {{}}{table} SET {MINE} = CAST({key} AS {text})")


def unmarked(made: Deployment, sink: str, table: str) -> int:
    return int(on_sink(made, sink, f"SELECT COUNT(*) FROM {{}}{table} WHERE {MINE} IS NULL")[0][0])


def targets(made: Deployment, sink: str) -> set[str]:
    """The names of all tables there but the metadata's."""
    server, database = made.sinks[sink]
    schema = made.source_database if server.family == "postgresql" else database
    rows = server.execute(
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}' "
        "AND table_type = 'BASE TABLE'",
        database=database,
    )
    return {str(name) for (name,) in rows if not str(name).startswith("_cdc")}
