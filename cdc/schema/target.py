"""What a captured table looks like on one sink: names, types, nullability, policies.

A plain value made by `schema.mapping`, used by the sinks' SQL text functions and encoders. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cdc.model import ColumnDefinition, TableDefinition

__all__ = ["Policies", "SinkKind", "TargetColumn", "TargetTable"]

SinkKind = Literal["postgresql", "mysql", "mariadb"]


@dataclass(frozen=True, slots=True)
class Policies:
    """What happens to values that a sink cannot hold. No policy ever changes a key column: there it is an error."""

    zero_dates: Literal["null", "error", "infinity"] = "null"
    nul_bytes: Literal["replace", "strip", "error"] = "replace"


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """One column of the sink table and the source column that feeds it."""

    source: ColumnDefinition
    name: str
    sql_type: str
    is_nullable: bool
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class TargetTable:
    """The sink table of one captured table. `namespace` is the schema (PostgreSQL) or database (MySQL family)."""

    namespace: str
    name: str
    columns: tuple[TargetColumn, ...]
    key: tuple[str, ...]
    definition: TableDefinition
    policies: Policies = Policies()

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"
