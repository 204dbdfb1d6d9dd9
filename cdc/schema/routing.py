"""Where a source table goes on a sink: `db.t` to `schema.t` or `database.t`, unless it is routed elsewhere."""

from __future__ import annotations

from cdc.model import TableName
from cdc.schema.options import TableOptions
from cdc.schema.target import SinkKind

__all__ = ["route"]


def route(
    kind: SinkKind, table: TableName, options: TableOptions, *, schema: str | None, database: str | None
) -> tuple[str, str]:
    """Namespace and name of the target.

    The table's own options come first. Else, on PostgreSQL: the sink's configured `schema`, or one schema a source
    database; on the MySQL family: the `database` of the sink's URL, or the same database name.
    """
    of_sink = schema if kind == "postgresql" else database
    return options.target_schema or of_sink or table.database, options.target_table or table.table
