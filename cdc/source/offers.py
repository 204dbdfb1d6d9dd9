"""What a table has to be polled by, and what `cdc check` says of it (`schema.strategy`)."""

from __future__ import annotations

from collections.abc import Iterator

from cdc.errors import UnsupportedData
from cdc.model import TableDefinition
from cdc.schema.findings import Finding, error, info, warning
from cdc.schema.keys import choose_key
from cdc.schema.strategy import Offer, TablePolling, choose, problems
from cdc.source.connection import SourceConnection

__all__ = ["LOG_CHECKS", "polling_findings", "read_offer"]

# What `cdc check` asks of a source for its binlog's sake.
LOG_CHECKS = frozenset(
    f"source.{name}"
    for name in (
        "replication_client",
        "replication_slave",
        "log_bin",
        "binlog_format",
        "binlog_row_image",
        "binlog_row_value_options",
        "binlog_row_metadata",
        "binlog_transaction_compression",
        "gtid",
        "binlog_storage_engine",
        "filters",
        "log_replica_updates",
        "binlog_error_action",
        "binlog_checksum",
        "durability",
        "retention",
        "server_id",
        "replica_ids",
        "prepared",
    )
)


def read_offer(
    source: SourceConnection, definition: TableDefinition, key: tuple[str, ...], *, why_no_log: str = ""
) -> Offer:
    """What the table has to be polled by."""
    where = (definition.name.database, definition.name.table)
    indexed = source.query_text(
        "SELECT DISTINCT COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
        "AND SEQ_IN_INDEX = 1 AND SUB_PART IS NULL AND INDEX_TYPE = 'BTREE'",
        where,
    )
    on_update = source.query_text(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
        "AND EXTRA LIKE '%%on update%%'",
        where,
    )
    rows = source.query_text(
        "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s", where
    )
    return Offer(
        definition=definition,
        key=key,
        indexed=frozenset(name for (name,) in indexed if name),
        on_update=frozenset(name for (name,) in on_update if name),
        rows=int(rows[0][0]) if rows and rows[0][0] is not None else None,
        why_no_log=why_no_log,
    )


def polling_findings(
    source: SourceConnection,
    definition: TableDefinition,
    polling: TablePolling,
    key: tuple[str, ...] | None,
    *,
    why_no_log: str,
) -> Iterator[Finding]:
    """What does not fit a table that is polled, and what `auto` makes of it. `key`: the configured one."""
    table = definition.name
    try:
        offer = read_offer(source, definition, choose_key(definition, key), why_no_log=why_no_log)
        choice = choose(polling, offer)
    except UnsupportedData as failure:
        yield error(table, failure.message, failure.hint or "", is_configuration=True)
        return
    if polling.strategy == "auto":
        yield info(table, f"sync_strategy auto: it is {choice.strategy}, because {choice.reason}", "nothing to mend")
    for problem, mends in problems(choice, polling, offer):
        yield warning(table, problem, mends)
