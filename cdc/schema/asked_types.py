"""Types that the configuration asks for in place of the mapping's: `type` of a column, `targets.types` by source type.

Only such as take the same texts: what a value looks like on its way to the sink is not changed by it. A value that the
asked type cannot hold stops its table and is never cut: the sink refuses it, but for spaces at the end of a text, which
servers cut off in silence; the characters of `varchar(N)` are therefore counted before (`characters_max`).
"""

from __future__ import annotations

import re

from cdc.model import ColumnDefinition, ValueKind
from cdc.schema.target import SinkKind

__all__ = ["ASKED_TYPES", "asked_type", "characters_max"]

# As the configuration has them, with what they are for.
ASKED_TYPES = {
    "boolean": "TINYINT and BIT(1); on MySQL and MariaDB the column stays as it is",
    "smallint": "integers",
    "integer": "integers",
    "bigint": "integers: BIGINT UNSIGNED among them, of which larger values stop the table",
    "numeric": "integers",
    "text": "CHAR, VARCHAR and JSON",
    "varchar(N)": "texts, of at most N characters: longer ones stop the table",
    "json": "JSON on PostgreSQL",
    "jsonb": "JSON on PostgreSQL",
    "geometry": "GEOMETRY and its kinds on PostgreSQL with PostGIS",
}
_INTEGERS = ("smallint", "integer", "bigint", "numeric")
_MYSQL_INTEGERS = {"smallint": "smallint", "integer": "int", "bigint": "bigint", "numeric": "decimal(20,0)"}
_JSON_TEXT = "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_CHARSET = re.compile(r" CHARACTER SET \w+ COLLATE \w+$")
_VARCHAR = re.compile(r"varchar\((\d+)\)")


def asked_type(column: ColumnDefinition, asked: str, mapped: str, kind: SinkKind) -> str | None:
    """The sink's type for a column that would have the type `mapped`; None where the asked one does not go with it."""
    is_postgres = kind == "postgresql"
    if asked == "boolean":
        is_flag = (column.kind is ValueKind.INTEGER or column.kind is ValueKind.BIT) and column.length in (1, 8)
        is_flag = is_flag and (column.kind is ValueKind.INTEGER or column.length == 1)
        return ("boolean" if is_postgres else mapped) if is_flag else None
    if asked in _INTEGERS:
        if column.kind is not ValueKind.INTEGER:
            return None
        return asked if is_postgres else _MYSQL_INTEGERS[asked]
    if asked in ("json", "jsonb"):
        return (asked if is_postgres else mapped) if column.kind is ValueKind.JSON else None
    if asked == "geometry":
        return ("geometry" if is_postgres else mapped) if column.kind is ValueKind.GEOMETRY else None
    if column.kind is ValueKind.JSON and asked == "text":
        return "text" if is_postgres else _JSON_TEXT
    if column.kind is not ValueKind.TEXT:
        return None
    if is_postgres:
        return asked
    charset = _CHARSET.search(mapped)
    base = "longtext" if asked == "text" else asked
    return base + (charset[0] if charset is not None else "")


def characters_max(asked: str) -> int | None:
    """How many characters a text of that asked type has at most; None for any number."""
    found = _VARCHAR.fullmatch(asked)
    return int(found[1]) if found is not None else None
