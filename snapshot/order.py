"""In what order tables are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from checkpoints.store import TableRecord

__all__ = ["in_load_order"]

_Record = TypeVar("_Record", bound=TableRecord)


def in_load_order(records: Iterable[_Record], priority: Callable[[str, str], int]) -> list[_Record]:
    """Lowest number first; those of one number by name, so that every run has the same order."""
    return sorted(records, key=lambda r: (priority(r.source.database, r.source.table), r.source))
