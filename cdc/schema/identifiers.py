"""Which names a sink can hold: lengths, reserved names, and when two names are one.

Nothing is ever shortened: PostgreSQL would cut a long name with a mere notice, and two tables would become one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from cdc.schema.target import SinkKind

__all__ = [
    "POSTGRES_NAME_BYTES_MAX",
    "folded",
    "is_shadow",
    "name_problem",
    "namespace_problem",
    "shadow_name",
    "table_name_problem",
]

POSTGRES_NAME_BYTES_MAX = 63  # NAMEDATALEN - 1; in bytes, where MySQL counts 64 characters
MYSQL_NAME_CHARACTERS_MAX = 64
METADATA_NAME = "_cdc"

# Of what is loaded beside a target, to be merged into it.
_SHADOW = re.compile(rf"{METADATA_NAME}_beside_[0-9a-f]{{16}}")

_POSTGRES_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_SYSTEM_NAMESPACES = frozenset({"information_schema", "mysql", "performance_schema", "sys"})


def name_problem(name: str, kind: SinkKind) -> str | None:
    """Why the sink cannot hold something of that name, as the end of a sentence; None when it can."""
    if not name:
        return "has an empty name"
    if kind == "postgresql":
        length = len(name.encode("utf-8", "surrogatepass"))
        if length > POSTGRES_NAME_BYTES_MAX:
            return f"has a name of {length} bytes, and PostgreSQL holds {POSTGRES_NAME_BYTES_MAX}"
    elif len(name) > MYSQL_NAME_CHARACTERS_MAX:
        return f"has a name of {len(name)} characters, and the sink holds {MYSQL_NAME_CHARACTERS_MAX}"
    if "\0" in name:
        return "has a NUL character in its name"
    return None


def column_name_problem(name: str, kind: SinkKind) -> str | None:
    """As `name_problem`, for a column."""
    if kind == "postgresql" and name in _POSTGRES_SYSTEM_COLUMNS:
        return "has the name of a system column of PostgreSQL"
    return name_problem(name, kind)


def table_name_problem(name: str, kind: SinkKind) -> str | None:
    """As `name_problem`, for a table."""
    if kind != "postgresql" and name.startswith(f"{METADATA_NAME}_") and _SHADOW.fullmatch(name) is None:
        return f"has a name that begins with {METADATA_NAME}_, as the metadata tables do"
    return name_problem(name, kind)


def shadow_name(target: str) -> str:
    """What the shadow of the target of that name is called, in the target's schema or database."""
    return f"{METADATA_NAME}_beside_{hashlib.sha256(target.encode()).hexdigest()[:16]}"


def is_shadow(target: str) -> bool:
    """Is that a shadow's place, as `TableRecord.target` has it?"""
    return _SHADOW.fullmatch(target.rpartition(".")[2]) is not None


def namespace_problem(name: str, kind: SinkKind) -> str | None:
    """As `name_problem`, for a schema (PostgreSQL) or database (MySQL family)."""
    if kind == "postgresql":
        if name == METADATA_NAME:
            return "is the schema of the metadata"
        if name.startswith("pg_") or name == "information_schema":
            return "is a schema that PostgreSQL keeps for itself"
    elif name.lower() in _SYSTEM_NAMESPACES:
        return "is a database of the server itself"
    return name_problem(name, kind)


def folded(names: Iterable[str], kind: SinkKind) -> list[tuple[str, str]]:
    """(name as the sink compares it, name): quoted names are exact on PostgreSQL, columns have no case on MySQL."""
    return [(name if kind == "postgresql" else name.casefold(), name) for name in names]
