"""What the configuration lets DDL do to a target. A plain value, one a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DdlPolicies"]


@dataclass(frozen=True, slots=True)
class DdlPolicies:
    """What becomes of statements on one table (docs/ddl.md). The defaults make the target what the table is.

    ddl             apply: done on the sink, or the table is loaded again; log: never done on the sink; approve: the
                    table is parked at the statement until the operator says which of the two
    on_drop_column  drop: the target's too; keep: it stays, and is NULL in rows to come
    on_drop_table   keep: the target stays as it is; drop: it goes; archive: it gets another name
    on_truncate     apply: the target is emptied; ignore: it keeps its rows; park
    on_type_change  apply; widen: only where every value stays the same, else the table is parked; park: always
    """

    ddl: Literal["apply", "log", "approve"] = "apply"
    on_drop_column: Literal["drop", "keep"] = "drop"
    on_drop_table: Literal["drop", "keep", "archive"] = "keep"
    on_truncate: Literal["apply", "ignore", "park"] = "apply"
    on_type_change: Literal["apply", "widen", "park"] = "apply"
