"""When a table's last load began and ended, kept beside its state, for the views (`checkpoints/views.py`)."""

from __future__ import annotations

from typing import Any

__all__ = ["COLUMNS", "note_load"]

COLUMNS = "began_us bigint NOT NULL, loaded_us bigint"


def note_load(tx: Any, table: str, *, pipeline: str, source: str, state: str, has_ended: bool, now_us: str) -> None:
    """With each state that is written: `snapshotting` begins a load, and ends it once the load's end is known.

    Args:
        table: `loads`, quoted; `now_us` is the sink's expression for its time.
        source: as the metadata spell it.
    """
    if state != "snapshotting":
        return
    where = "WHERE pipeline = %s AND source_table = %s"
    if has_ended:
        tx.execute_later(f"UPDATE {table} SET loaded_us = {now_us} {where} AND loaded_us IS NULL", (pipeline, source))
        return
    tx.execute_later(f"DELETE FROM {table} {where}", (pipeline, source))
    tx.execute_later(
        f"INSERT INTO {table} (pipeline, source_table, began_us) VALUES (%s, %s, {now_us})", (pipeline, source)
    )
