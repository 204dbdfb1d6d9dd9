"""What was stepped over by hand, kept in the sink's metadata for good: who, when, what, and from where to where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cdc.model import SourcePosition, TableName
from checkpoints.store import InSinkStore

__all__ = ["put_skip"]


def put_skip(
    store: InSinkStore,
    tx: Any,
    *,
    who: str,
    place: str,
    before: SourcePosition,
    after: SourcePosition,
    tables: Sequence[TableName],
    content: Sequence[str],
) -> None:
    """Write one down, in the transaction that moves the checkpoint. `content`: the events, without values of rows."""
    what: Mapping[str, Any] = {
        "before": str(before),
        "after": str(after),
        "tables": [[table.database, table.table] for table in tables],
        "events": list(content),
    }
    tx.execute(
        f"INSERT INTO {store.sink.metadata_table('skips')} (pipeline, who, place, what, skipped_us) "
        f"VALUES (%s, %s, %s, %s, {store.now_us})",
        (store.pipeline, who.encode("ascii", "backslashreplace").decode(), place, json.dumps(what)),
    )
