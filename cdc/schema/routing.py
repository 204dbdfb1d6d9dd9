"""Where a source table goes on a sink: `db.t` to `schema.t` or `database.t` (DESIGN, contracts)."""

from __future__ import annotations

from cdc.model import TableName
from cdc.schema.target import SinkKind

__all__ = ["route"]


def route(kind: SinkKind, table: TableName, *, schema: str | None, database: str | None) -> tuple[str, str]:
    """Namespace and name of the target.

    PostgreSQL: the configured `schema`, else one schema a source database. MySQL family: the URL's `database`, else
    the same database name.
    """
    if kind == "postgresql":
        return schema or table.database, table.table
    return database or table.database, table.table
