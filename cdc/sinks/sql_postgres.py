"""PostgreSQL's SQL as pure text. Every identifier goes through `quote`; values travel by COPY or as parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from cdc.model import ValueKind
from cdc.schema.sharing import Alteration
from cdc.schema.target import TargetColumn, TargetTable

__all__ = [
    "alter_table",
    "can_hold",
    "canonical_type",
    "clear",
    "complete_staged",
    "copy_into",
    "create_table",
    "delete_lines",
    "delete_staged",
    "empty_copy",
    "holds",
    "insert_lines",
    "insert_staged",
    "key_columns",
    "old_key_names",
    "own_rows",
    "qualified",
    "quote",
    "select_all",
    "stage_old_keys",
    "stage_table",
    "stray_value",
    "text_literal",
    "update_lines",
    "update_staged",
    "upsert_staged",
]


def quote(name: str) -> str:
    """A quoted identifier. Not for SQL that is executed with parameters: there a `%` must be doubled as well."""
    if "\0" in name or not name:
        raise ValueError("an identifier is not empty and holds no NUL")
    return '"' + name.replace('"', '""') + '"'


def qualified(namespace: str, name: str) -> str:
    """`"schema"."table"`."""
    return f"{quote(namespace)}.{quote(name)}"


def _table(target: TargetTable) -> str:
    return qualified(target.namespace, target.name)


def _names(columns: Iterable[TargetColumn]) -> str:
    return ", ".join(quote(column.name) for column in columns)


def key_columns(target: TargetTable) -> tuple[TargetColumn, ...]:
    """The key's columns, in the key's order."""
    by_name = {column.name: column for column in target.columns}
    return tuple(by_name[name] for name in target.key)


def own_rows(target: TargetTable) -> str:
    """The condition of the rows that are the source table's, where others have rows in the target, too; else ''."""
    shared = target.source_column
    return "" if shared is None else f" WHERE {quote(shared.name)} = {text_literal(shared.value)}"


def text_literal(text: str) -> str:
    """A text, whatever `standard_conforming_strings` says. It holds no NUL."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def stray_value(target: TargetTable, values: Sequence[str]) -> str:
    """A value of the source column that is none of those; at least one is given."""
    shared = target.source_column
    name = quote(shared.name if shared is not None else "")
    return f"SELECT {name} FROM {_table(target)} WHERE {name} NOT IN ({', '.join(map(text_literal, values))}) LIMIT 1"


def live_rows(target: TargetTable) -> str:
    """The condition of the rows that the source has now, where the target keeps others, too; else ''.

    Such a target is one table's own.
    """
    return "" if target.live_column is None else f" WHERE {quote(target.live_column)} IS NULL"


def clear(target: TargetTable) -> str:
    """Delete every row of the source table's."""
    return f"DELETE FROM {_table(target)}{own_rows(target)}"


def create_table(target: TargetTable) -> str:
    """The table with its primary key, where it has one, and nothing else."""
    lines = [
        f"{quote(column.name)} {column.sql_type}{'' if column.is_nullable else ' NOT NULL'}"
        for column in target.columns
    ]
    if target.key:
        lines.append(f"PRIMARY KEY ({', '.join(quote(name) for name in target.key)})")
    return f"CREATE TABLE {_table(target)} (\n    " + ",\n    ".join(lines) + "\n)"


def alter_table(target: TargetTable, alterations: Sequence[Alteration]) -> str:
    """Alter columns of the target, in one statement."""
    clauses: list[str] = []
    for alteration in alterations:
        column, name = alteration.column, quote(alteration.column.name)
        match alteration.action:
            case "add":
                clauses.append(f"ADD COLUMN {name} {column.sql_type}")
            case "drop":
                clauses.append(f"DROP COLUMN {name}")
            case "change":
                clauses += [f"ALTER COLUMN {name} TYPE {column.sql_type}"] if alteration.has_new_type else []
                clauses += [f"ALTER COLUMN {name} DROP NOT NULL"] if column.is_nullable else []
    return f"ALTER TABLE {_table(target)} {', '.join(clauses)}"


def holds(existing: str, wanted: str, _is_key: bool) -> bool:
    """As `schema.sharing` asks it: does a column of the first type hold every value of the second?"""
    return can_hold(canonical_type(existing), canonical_type(wanted))


def stage_table(stage: str, columns: Sequence[TargetColumn]) -> str:
    """A session's own staging table: the target's types without its constraints.

    Whoever uses it empties it: a commit would empty all such tables of the session, one slow truncation each.
    """
    lines = ", ".join(f"{quote(column.name)} {column.sql_type}" for column in columns)
    return f"CREATE TEMPORARY TABLE {quote(stage)} ({lines})"


def empty_copy(target: TargetTable, name: str) -> str:
    """A temporary table with the columns and types that the target has on the sink, and none of its constraints."""
    table = qualified(target.namespace, target.name)
    return f"CREATE TEMPORARY TABLE {quote(name)} AS SELECT * FROM {table} WITH NO DATA"


def copy_into(table: str, columns: Sequence[TargetColumn]) -> str:
    """COPY text from the client. `table` is quoted already."""
    return f"COPY {table} ({_names(columns)}) FROM STDIN"


def old_key_names(target: TargetTable) -> tuple[str, ...]:
    """Names beside the target's own for the columns of a key that has moved."""
    taken = {column.name for column in target.columns}
    prefix = "_cdc_old"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    return tuple(f"{prefix}{index}" for index in range(len(target.key)))


def _matches(target: TargetTable, names: Sequence[str] | None = None) -> str:
    """The target's key equals the staged columns (None: of the same names)."""
    pairs = zip(target.key, names or target.key, strict=True)
    return " AND ".join(f"t.{quote(key)} = s.{quote(name)}" for key, name in pairs)


def delete_staged(target: TargetTable, stage: str) -> str:
    """Delete the rows whose keys are staged."""
    return f"DELETE FROM {_table(target)} AS t USING pg_temp.{quote(stage)} AS s WHERE {_matches(target)}"


def _insert(target: TargetTable) -> str:
    return f"INSERT INTO {_table(target)} ({_names(target.columns)}) OVERRIDING SYSTEM VALUE"


def insert_staged(target: TargetTable, stage: str) -> str:
    """Insert the staged rows, whose keys the target does not hold."""
    return f"{_insert(target)} SELECT {_names(target.columns)} FROM pg_temp.{quote(stage)}"


def _or_overwrite(target: TargetTable) -> str:
    key = ", ".join(quote(name) for name in target.key)
    others = [column for column in target.columns if not column.is_key]
    updates = ", ".join(f"{quote(column.name)} = EXCLUDED.{quote(column.name)}" for column in others)
    return f"ON CONFLICT ({key}) DO UPDATE SET {updates}" if others else f"ON CONFLICT ({key}) DO NOTHING"


def upsert_staged(target: TargetTable, stage: str) -> str:
    """Insert the staged rows, or overwrite every other column where the key is there."""
    return f"{insert_staged(target, stage)} {_or_overwrite(target)}"


def update_staged(target: TargetTable, stage: str, changed: Sequence[TargetColumn]) -> str:
    """Overwrite those columns of the rows whose keys are staged."""
    values = ", ".join(f"{quote(column.name)} = s.{quote(column.name)}" for column in changed)
    return f"UPDATE {_table(target)} AS t SET {values} FROM pg_temp.{quote(stage)} AS s WHERE {_matches(target)}"


def complete_staged(
    target: TargetTable, parts: str, rows: str, changed: Sequence[TargetColumn], old_key: Sequence[str]
) -> str:
    """Stage whole rows: the key and those columns as `parts` has them, the others as the row of the old key has."""
    staged = {*target.key, *(column.name for column in changed)}
    values = ", ".join(f"{'s' if column.name in staged else 't'}.{quote(column.name)}" for column in target.columns)
    return (
        f"INSERT INTO pg_temp.{quote(rows)} ({_names(target.columns)}) SELECT {values} "
        f"FROM pg_temp.{quote(parts)} AS s JOIN {_table(target)} AS t ON {_matches(target, old_key)}"
    )


def stage_old_keys(target: TargetTable, parts: str, keys: str, old_key: Sequence[str]) -> str:
    """Stage the keys that rows leave among those that go."""
    names = ", ".join(quote(name) for name in target.key)
    old = ", ".join(quote(name) for name in old_key)
    return f"INSERT INTO pg_temp.{quote(keys)} ({names}) SELECT {old} FROM pg_temp.{quote(parts)}"


# ---------------------------------------------------------------- a few rows, as literals
#
# A line of COPY text as the list of literals: what COPY escapes, and how, is the same in an E'' string; a quote is
# doubled beside. A literal without a type is read as the column's, by the function that COPY reads it with.


def _literals(lines: str, begin: str, end: str, between: str) -> str:
    """Each of at least one line of COPY text as a list of literals between `begin` and `end`."""
    text = lines[:-1].replace("'", "''").replace("\t", "',E'").replace("\n", f"'{end}{between}{begin}E'")
    # In a value a backslash after a quote is one of two: this is a NULL, and nothing else is.
    return f"{begin}E'{text}'{end}".replace("E'\\N'", "NULL")


# Types whose arrays may stand for a column: without a length, so that it is the column that refuses what is too long.
# An array of `bit` would be one of single bits, and an array of arrays is not taken apart into arrays.
_ARRAYS = {
    **{name: f"{name}[]" for name in ("smallint", "integer", "bigint", "numeric", "real", "double precision", "text")},
    **{name: f"{name}[]" for name in ("bytea", "date", "interval", "json", "jsonb", "uuid", "inet", "boolean")},
    **{f"timestamp {zone} time zone": f"timestamp {zone} time zone[]" for zone in ("without", "with")},
    "character varying": "varchar[]",
    "bit": "varbit[]",
}


@lru_cache(maxsize=256)
def _array_of(sql_type: str) -> str | None:
    return _ARRAYS.get(_split(canonical_type(sql_type)).name)


_VALUES_ROWS_MAX = 4  # more are cheaper as an array a column


def insert_lines(target: TargetTable, lines: str, *, is_upsert: bool) -> str:
    """Insert rows from COPY text of all columns; `is_upsert`: or overwrite the other columns where the key is there."""
    arrays = _arrays(lines, target.columns)
    if arrays:
        rows = f"SELECT * FROM unnest({_array_literals(lines, arrays)})"
    else:
        rows = f"VALUES {_literals(lines, '(', ')', ', ')}"
    statement = f"{_insert(target)} {rows}"
    return f"{statement} {_or_overwrite(target)}" if is_upsert else statement


def _arrays(lines: str, columns: Sequence[TargetColumn]) -> list[str]:
    """The types of an array a column; none where the lines are few, or a column has no such type."""
    if lines.count("\n") <= _VALUES_ROWS_MAX:
        return []
    arrays = [array for column in columns if (array := _array_of(column.sql_type))]
    return arrays if len(arrays) == len(columns) else []


def _array_literals(lines: str, arrays: Sequence[str]) -> str:
    """Lines of COPY text as an array a column. What a backslash escapes in an array is escaped once more."""
    text = lines[:-1].replace("\\\\", "\\\\\\\\").replace('"', '\\\\"').replace("'", "''")
    columns = zip(*(line.split("\t") for line in text.split("\n")), strict=True)
    literals = ("E'{\"" + '","'.join(values) + "\"}'" for values in columns)
    nulled = (literal.replace('"\\N"', "NULL") for literal in literals)
    return ", ".join(f"{literal}::{array}" for literal, array in zip(nulled, arrays, strict=True))


def delete_lines(target: TargetTable, lines: str) -> str:
    """Delete the rows whose keys are lines of COPY text."""
    key = ", ".join(quote(name) for name in target.key)
    return f"DELETE FROM {_table(target)} WHERE ({key}) IN ({_literals(lines, '(', ')', ', ')})"


def update_lines(target: TargetTable, lines: str, columns: Sequence[TargetColumn], *, must_hit: bool) -> list[str]:
    """Overwrite columns of the rows whose keys they follow in COPY text.

    `must_hit`: a statement that does not find every row of its own divides by zero.
    """
    arrays = _arrays(lines, columns)
    if arrays and _ARRAYS["bit"] not in arrays[: len(target.key)]:  # no index of bits finds them
        statements = [_update_from_arrays(target, lines, columns, arrays)]
    else:
        statements = [_update_one(target, line, columns) for line in lines[:-1].split("\n")]
    if not must_hit:
        return statements
    count = lines.count("\n") // len(statements)
    return [f"WITH hit AS ({s} RETURNING 1) SELECT 1 / (count(*) = {count})::integer FROM hit" for s in statements]


def _update_one(target: TargetTable, line: str, columns: Sequence[TargetColumn]) -> str:
    fields = (field + "\n" for field in line.split("\t"))
    pairs = [
        f"{quote(column.name)} = {_literals(field, '', '', '')}" for column, field in zip(columns, fields, strict=True)
    ]
    count = len(target.key)
    return f"UPDATE {_table(target)} SET {', '.join(pairs[count:])} WHERE {' AND '.join(pairs[:count])}"


def _update_from_arrays(target: TargetTable, lines: str, columns: Sequence[TargetColumn], arrays: Sequence[str]) -> str:
    names = [f"c{index}" for index in range(len(columns))]
    count = len(target.key)
    pairs = [(quote(column.name), name) for column, name in zip(columns, names, strict=True)]
    values = ", ".join(f"{column} = s.{name}" for column, name in pairs[count:])
    matches = " AND ".join(f"t.{column} = s.{name}" for column, name in pairs[:count])
    rows = f"unnest({_array_literals(lines, arrays)}) AS s({', '.join(names)})"
    return f"UPDATE {_table(target)} AS t SET {values} FROM {rows} WHERE {matches}"


# ---------------------------------------------------------------- reading back


def select_all(target: TargetTable) -> str:
    """Every row that the source table has, each column as `canonical.from_postgres` reads it."""
    columns = ", ".join(_expression(column) for column in target.columns)
    return f"SELECT {columns} FROM {_table(target)}{own_rows(target)}{live_rows(target)}"


def _expression(column: TargetColumn) -> str:
    name = quote(column.name)
    match column.source.kind:
        case ValueKind.FLOAT:
            return f"encode(float4send({name}::real), 'hex')"
        case ValueKind.DOUBLE:
            return f"encode(float8send({name}::double precision), 'hex')"
        case ValueKind.BINARY | ValueKind.BLOB | ValueKind.GEOMETRY:
            return f"encode({name}, 'hex')"
        case ValueKind.TIME:
            return f"(extract(epoch FROM {name}) * 1000000)::bigint::text"
        case ValueKind.INET4 | ValueKind.INET6:
            return f"host({name})"
        case _:
            return f"{name}::text"


# ---------------------------------------------------------------- comparing types

_ALIASES = {
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "varchar": "character varying",
}
_TYPE = re.compile(r"^([a-z ]+?)\s*(?:\(([\d,]+)\))?( with(?:out)? time zone)?(\[\])?$")


def canonical_type(text: str) -> str:
    """A type as `format_type` prints it: `timestamp(3) without time zone`, `character varying(10)`."""
    match = _TYPE.match(text.strip().lower())
    if match is None:
        return text
    name, length, zone, array = match[1], match[2], match[3] or "", match[4] or ""
    name, _, implied = _ALIASES.get(name, name).partition(" with")
    if implied and not zone:
        zone = f" with{implied}"
    size = ""
    if length is not None:
        size = f"({length},0)" if name == "numeric" and "," not in length else f"({length})"
    return f"{name}{size}{zone}{array}"


_INTEGERS = ("smallint", "integer", "bigint")
_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}


def can_hold(existing: str, wanted: str) -> bool:
    """Does a column of type `existing` hold every value of type `wanted` unchanged? Both as `canonical_type` gives."""
    if existing == wanted:
        return True
    has, wants = _split(existing), _split(wanted)
    if wants.name in _INTEGERS:
        if has.name in _INTEGERS:
            return _INTEGERS.index(has.name) >= _INTEGERS.index(wants.name)
        return has.name == "numeric" and _numeric_holds(has.size, (_DIGITS[wants.name], 0))
    if wants.name == "numeric":
        return has.name == "numeric" and _numeric_holds(has.size, wants.size)
    if wants.name == "character varying":
        return has.name == "text" or (has.name == wants.name and _is_as_long(has.size, wants.size))
    if wants.name == "text":
        return has == _Type("character varying", ())
    if wants.name.startswith(("timestamp", "interval")):
        return has.name == wants.name and _is_as_long(has.size, wants.size)
    return False


class _Type(NamedTuple):
    """Name (with its zone) and the numbers in parentheses."""

    name: str
    size: tuple[int, ...]


def _split(text: str) -> _Type:
    match = re.match(r"^([a-z ]+?)\s*(?:\(([\d,]+)\))?( with(?:out)? time zone)?$", text)
    if match is None:
        return _Type(text, ())
    size = tuple(map(int, match[2].split(","))) if match[2] else ()
    return _Type(match[1] + (match[3] or ""), size)


def _numeric_holds(has: tuple[int, ...], wants: tuple[int, ...]) -> bool:
    if not has:
        return True
    if not wants:
        return False
    return has[1] >= wants[1] and has[0] - has[1] >= wants[0] - wants[1]


def _is_as_long(has: tuple[int, ...], wants: tuple[int, ...]) -> bool:
    return not has or (bool(wants) and has[0] >= wants[0])
