"""Table definitions as the source's information_schema has them now.

"Now" is not "at some position": whoever uses a definition for rows of the stream has to know that no DDL on that
table lies between (snapshot/loader.py does). Text values are read as UTF-8 through the session of
`source/connection.py`, whose results are not converted; information_schema is UTF-8 on every version.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from cdc.errors import UnsupportedData
from cdc.model import ColumnDefinition, Flavor, TableDefinition, TableName, UniqueKey, ValueKind
from cdc.source.connection import SourceConnection
from cdc.source.supplementary import TableHeld, told

__all__ = [
    "SYSTEM_DATABASES",
    "column_of",
    "list_tables",
    "parse_members",
    "read_definition",
    "read_definitions",
    "unescaped",
]

SYSTEM_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})

_KeyPart = tuple[str | None, str | None, str | None]

_INTEGER_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}
_TEXT = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}
_BLOB = {"varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_GEOMETRY = {
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geometrycollection",
    "geomcollection",
}
_KINDS: Mapping[str, ValueKind] = {
    **dict.fromkeys(_INTEGER_BITS, ValueKind.INTEGER),
    **dict.fromkeys(_TEXT, ValueKind.TEXT),
    **dict.fromkeys(_BLOB, ValueKind.BLOB),
    **dict.fromkeys(_GEOMETRY, ValueKind.GEOMETRY),
    "decimal": ValueKind.DECIMAL,
    "numeric": ValueKind.DECIMAL,
    "float": ValueKind.FLOAT,
    "double": ValueKind.DOUBLE,
    "real": ValueKind.DOUBLE,
    "bit": ValueKind.BIT,
    "year": ValueKind.YEAR,
    "date": ValueKind.DATE,
    "datetime": ValueKind.DATETIME,
    "timestamp": ValueKind.TIMESTAMP,
    "time": ValueKind.TIME,
    "binary": ValueKind.BINARY,
    "enum": ValueKind.ENUM,
    "set": ValueKind.SET,
    "json": ValueKind.JSON,
    "vector": ValueKind.VECTOR,
    "uuid": ValueKind.UUID,
    "inet4": ValueKind.INET4,
    "inet6": ValueKind.INET6,
}
_FIXED_BYTES = {ValueKind.UUID: 16, ValueKind.INET4: 4, ValueKind.INET6: 16}


# Of information_schema.COLUMNS, what `column_of` looks at; every MySQL has them.
_COLUMN_FACTS = (
    "COLUMN_NAME",
    "DATA_TYPE",
    "COLUMN_TYPE",
    "IS_NULLABLE",
    "CHARACTER_MAXIMUM_LENGTH",
    "NUMERIC_PRECISION",
    "NUMERIC_SCALE",
    "DATETIME_PRECISION",
    "CHARACTER_SET_NAME",
    "COLLATION_NAME",
    "COLUMN_DEFAULT",
    "COLUMN_COMMENT",
    "EXTRA",
)


def list_tables(
    connection: SourceConnection, matches: Callable[[str, str], bool]
) -> tuple[list[TableName], list[tuple[TableName, str]]]:
    """The base tables that `matches` accepts, sorted; and what it accepts that is no plain table, with its kind.

    The second list holds views, sequences and system-versioned tables: they are not captured, and said so.
    """
    plain: list[TableName] = []
    other: list[tuple[TableName, str]] = []
    for database, table, kind in connection.query_text(
        "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES"
    ):
        if not database or not table or database.lower() in SYSTEM_DATABASES or not matches(database, table):
            continue
        name = TableName(database, table)
        if kind == "BASE TABLE":
            plain.append(name)
        else:
            other.append((name, (kind or "").lower()))
    return sorted(plain), sorted(other)


# While a table is altered, the dictionaries show it without columns for a moment. (Or nobody may see them.)
_LOOKS = 20


def read_definition(connection: SourceConnection, table: TableName) -> TableDefinition | None:
    """The table's definition now; None when there is no such table.

    Raises UnsupportedData for a table that cannot be captured (system-versioned, a column type that is not known),
    TableHeld for one that is locked where it has to be asked for what its dictionary does not show.
    """
    where = (table.database, table.table)
    for looks_left in reversed(range(_LOOKS)):
        found = connection.query_text(
            "SELECT TABLE_TYPE, ENGINE, TABLE_COLLATION, TABLE_COMMENT FROM information_schema.TABLES "
            "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
            where,
        )
        if not found:
            return None
        rows = connection.rows_by_name(
            "SELECT * FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s "
            "ORDER BY ORDINAL_POSITION",
            where,
        )
        if rows or not looks_left:
            break
        connection.query_text("SELECT SLEEP(0.05)")  # it was dropped in between, or is just being altered
    kind = found[0][0]
    if kind != "BASE TABLE":
        raise UnsupportedData(
            f"{table} is a {(kind or '').lower()}, which is not captured",
            table=str(table),
            hint="exclude it in tables.exclude",
        )
    json_columns = _mariadb_json_columns(connection, table)
    keys = _unique_keys(connection, table)
    return told(connection, _definition(connection.flavor, table, found[0], rows, keys, json_columns))


def read_definitions(
    connection: SourceConnection, tables: Collection[TableName]
) -> Mapping[TableName, TableDefinition]:
    """The definitions of those of the tables that are there now and can be captured, and are not held: with few
    statements. (`read_definition` says what the others are.)"""
    found: dict[TableName, TableDefinition] = {}
    for database in sorted({table.database for table in tables}):
        found |= _definitions_of(connection, database, [t.table for t in tables if t.database == database])
    return found


def _definitions_of(
    connection: SourceConnection, database: str, names: Collection[str]
) -> Mapping[TableName, TableDefinition]:
    where, parameters = "WHERE TABLE_SCHEMA = %s AND TABLE_NAME IN %s", (database, list(names))
    plain = {
        name: (kind, *facts)
        for name, kind, *facts in connection.query_text(
            f"SELECT TABLE_NAME, TABLE_TYPE, ENGINE, TABLE_COLLATION, TABLE_COMMENT FROM information_schema.TABLES "
            f"{where}",
            parameters,
        )
        if kind == "BASE TABLE"
    }
    columns: dict[str, list[Mapping[str, str | None]]] = {}
    for row in connection.rows_by_name(
        f"SELECT TABLE_NAME, {', '.join(_COLUMN_FACTS)} FROM information_schema.COLUMNS {where} "
        "ORDER BY TABLE_NAME, ORDINAL_POSITION",
        parameters,
    ):
        columns.setdefault(row["TABLE_NAME"] or "", []).append(row)
    parts: dict[str, list[_KeyPart]] = {}
    for name, *part in connection.query_text(
        f"SELECT TABLE_NAME, INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS {where} "
        "AND NON_UNIQUE = 0 ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX",
        parameters,
    ):
        index, column, prefix = part
        parts.setdefault(name or "", []).append((index, column, prefix))
    clauses: dict[str, list[str | None]] = {}
    if connection.flavor == "mariadb":
        for name, clause in connection.query_text(
            "SELECT TABLE_NAME, CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS "
            "WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME IN %s",
            parameters,
        ):
            clauses.setdefault(name or "", []).append(clause)
    found = {}
    for name in names:
        if name not in plain or name not in columns:
            continue
        table = TableName(database, name)
        with contextlib.suppress(UnsupportedData, TableHeld):
            keys, json_columns = _keys_of(parts.get(name, ())), _json_columns(clauses.get(name, ()))
            made = _definition(connection.flavor, table, plain[name], columns[name], keys, json_columns)
            found[table] = told(connection, made)
    return found


def _definition(
    flavor: Flavor,
    table: TableName,
    facts: Sequence[str | None],
    rows: Iterable[Mapping[str, str | None]],
    keys: Sequence[UniqueKey],
    json_columns: Collection[str],
) -> TableDefinition:
    """`facts`: type, engine, collation and comment of the table; `rows`: its columns, in order."""
    _, engine, collation, comment = facts
    return TableDefinition(
        name=table,
        columns=tuple(column_of(table, row, json_columns) for row in rows),
        primary_key=next((key.columns for key in keys if key.name == "PRIMARY"), ()),
        unique_keys=tuple(key for key in keys if key.name != "PRIMARY"),
        engine=engine or "",
        charset=(collation or "").partition("_")[0] or None,
        collation=collation,
        comment=comment or "",
        flavor=flavor,
    )


def _unique_keys(connection: SourceConnection, table: TableName) -> list[UniqueKey]:
    rows = connection.query_text(
        "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
        "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND NON_UNIQUE = 0 ORDER BY INDEX_NAME, SEQ_IN_INDEX",
        (table.database, table.table),
    )
    return _keys_of((name, column, prefix) for name, column, prefix in rows)


def _keys_of(parts: Iterable[_KeyPart]) -> list[UniqueKey]:
    """Unique indexes over plain columns, by their parts in order (index, column, prefix); those over expressions
    cannot serve as a key and are left out."""
    indexes: dict[str, list[tuple[str | None, str | None]]] = {}
    for name, column, prefix in parts:
        indexes.setdefault(name or "", []).append((column, prefix))
    return [
        UniqueKey(name, tuple(c for c, _ in parts if c is not None), any(p is not None for _, p in parts))
        for name, parts in indexes.items()
        if all(c is not None for c, _ in parts)
    ]


def _mariadb_json_columns(connection: SourceConnection, table: TableName) -> frozenset[str]:
    """MariaDB's JSON is LONGTEXT with the check json_valid(`column`); nothing else tells."""
    if connection.flavor != "mariadb":
        return frozenset()
    clauses = connection.query_text(
        "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS "
        "WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s",
        (table.database, table.table),
    )
    return _json_columns(clause for (clause,) in clauses)


def _json_columns(clauses: Iterable[str | None]) -> frozenset[str]:
    found = (re.fullmatch(r"json_valid\(`((?:[^`]|``)+)`\)", clause or "") for clause in clauses)
    return frozenset(match[1].replace("``", "`") for match in found if match)


def column_of(table: TableName, row: Mapping[str, str | None], json_columns: Iterable[str]) -> ColumnDefinition:
    """A column as a row of information_schema.COLUMNS has it. Raises UnsupportedData for a type that is not known."""
    name, data_type = row["COLUMN_NAME"] or "", (row["DATA_TYPE"] or "").lower()
    column_type = row["COLUMN_TYPE"] or ""
    kind = _KINDS.get(data_type)
    if kind is None:
        raise UnsupportedData(
            f"{table}.{name} has the type {column_type}, which is not known",
            table=str(table),
            column=name,
            hint="exclude the table in tables.exclude",
        )
    if name in json_columns and data_type == "longtext":
        kind = ValueKind.JSON
    length = _INTEGER_BITS.get(data_type, 0) or _FIXED_BYTES.get(kind, 0)
    if kind in (ValueKind.TEXT, ValueKind.BINARY, ValueKind.BLOB):
        length = int(row["CHARACTER_MAXIMUM_LENGTH"] or 0)
    elif kind is ValueKind.BIT:
        length = int(row["NUMERIC_PRECISION"] or 1)
    elif kind is ValueKind.VECTOR:
        digits = re.search(r"\((\d+)\)", column_type)
        length = int(digits[1]) if digits else 0
    extra = (row["EXTRA"] or "").upper()
    return ColumnDefinition(
        name=name,
        kind=kind,
        column_type=column_type,
        is_nullable=row["IS_NULLABLE"] == "YES",
        is_unsigned=" unsigned" in column_type.lower() and kind not in (ValueKind.ENUM, ValueKind.SET),
        length=length,
        precision=int(row["NUMERIC_PRECISION"] or 0) if kind is ValueKind.DECIMAL else 0,
        scale=int(row["NUMERIC_SCALE"] or 0) if kind is ValueKind.DECIMAL else 0,
        fraction_digits=int(row.get("DATETIME_PRECISION") or 0),
        charset=row["CHARACTER_SET_NAME"],
        collation=row["COLLATION_NAME"],
        members=parse_members(column_type) if kind in (ValueKind.ENUM, ValueKind.SET) else (),
        is_generated="GENERATED" in extra and "DEFAULT_GENERATED" not in extra,
        is_invisible="INVISIBLE" in extra,
        is_auto_increment="AUTO_INCREMENT" in extra,
        default=row["COLUMN_DEFAULT"],
        comment=row["COLUMN_COMMENT"] or "",
        has_default_expression="DEFAULT_GENERATED" in extra and not _is_now(row["COLUMN_DEFAULT"]),
    )


def _is_now(default: str | None) -> bool:
    """MySQL marks this one, too, as an expression; it is the same on all versions."""
    return (default or "").upper().startswith("CURRENT_TIMESTAMP")


_MEMBER = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPED = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "0": "\0", "Z": "\x1a"}


def parse_members(column_type: str) -> tuple[str, ...]:
    """The members of `enum('a','it''s')` as information_schema prints them under `sql_mode=''`."""
    return tuple(map(unescaped, _MEMBER.findall(column_type)))


def unescaped(content: str) -> str:
    """What stands between the quotes of a string that information_schema prints under `sql_mode=''`.

    Quotes are doubled; backslash, NUL, newline and carriage return are escaped with a backslash.
    """
    return _ESCAPED.sub(lambda m: "'" if m[1] is None else _ESCAPES.get(m[1], m[1]), content)
