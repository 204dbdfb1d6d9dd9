"""What the source's dictionary does not tell (schema/dictionary_text.py): members of ENUM and SET, and defaults.

The server is asked for them: for members by a recursive query, for a default by DEFAULT(). Neither reads a row, and
both need no more than reading the table does. But both wait for who has it locked, as no look at a dictionary does.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pymysql

from cdc.errors import CdcError, SourceUnavailable
from cdc.model import ColumnDefinition, TableDefinition, ValueKind
from cdc.schema.dictionary_text import as_dictionaries_show, may_hide, members_query
from cdc.source.connection import SourceConnection
from cdc.source.resultset import are_members_told, quote, quote_table

__all__ = ["TableHeld", "told"]

# A recursive query before MySQL 8.0 and MariaDB 10.2; no default; a table or column that went meanwhile, or that this
# session's read view has otherwise; no right to read it, which whoever reads its rows meets, too.
_UNANSWERED = frozenset({1049, 1054, 1064, 1142, 1143, 1146, 1364, 1412})
_LOCK_WAIT_TIMEOUT = 1205
_HELD_SECONDS = 1


class TableHeld(SourceUnavailable):
    """Somebody has locked the table, or is altering it, and its definition cannot be asked for meanwhile."""


def told(connection: SourceConnection, definition: TableDefinition) -> TableDefinition:
    """The definition, with what its dictionary shows as `?` asked for; unchanged where the server does not know.

    Raises TableHeld for a table that is locked.
    """
    if not any(map(_may_hide, definition.columns)):
        return definition
    ((before,),) = connection.query_text("SELECT @@SESSION.lock_wait_timeout")
    connection.query(f"SET SESSION lock_wait_timeout = {_HELD_SECONDS}")
    try:
        return replace(definition, columns=tuple(_asked(connection, definition, c) for c in definition.columns))
    finally:
        with contextlib.suppress(CdcError):  # the session is gone, which who uses it next is told
            connection.query(f"SET SESSION lock_wait_timeout = {int(before or 0)}")


def _may_hide(column: ColumnDefinition) -> bool:
    return not are_members_told(column) or _hides_default(column)


def _hides_default(column: ColumnDefinition) -> bool:
    """Literals only. MariaDB quotes them, and alone; MySQL's expressions are marked."""
    return may_hide(column.default or "", column.charset) and not column.has_default_expression


def _asked(connection: SourceConnection, definition: TableDefinition, column: ColumnDefinition) -> ColumnDefinition:
    if not are_members_told(column):
        column = _with_members(connection, definition, column)
    if not _hides_default(column):
        return column
    is_quoted = definition.flavor == "mariadb"
    if is_quoted and not (column.default or "").startswith("'"):
        return column  # an expression
    name = f"DEFAULT(t.{quote(column.name)})"
    answer = _ask(
        connection,
        definition,
        f"SELECT CONVERT({name} USING utf8mb4) FROM (SELECT 1) AS one LEFT JOIN {quote_table(definition.name)} AS t "
        "ON FALSE",
    )
    if not answer or answer[0] is None:
        return column
    return replace(column, default=_quoted(answer[0]) if is_quoted else answer[0])


def _with_members(
    connection: SourceConnection, definition: TableDefinition, column: ColumnDefinition
) -> ColumnDefinition:
    is_set = column.kind is ValueKind.SET
    table, name = quote_table(definition.name), quote(column.name)
    sql = members_query(definition.flavor, table, name, len(column.members), is_set=is_set)
    found = tuple(member or "" for member in _ask(connection, definition, sql))
    if tuple(map(as_dictionaries_show, found)) != column.members:
        return column
    column_type = f"{column.kind.value}({','.join(map(_quoted, found))})"
    return replace(column, members=found, column_type=column_type, is_told=True)


def _quoted(text: str) -> str:
    """As the dictionaries print a string under `sql_mode=''`."""
    for character, escaped in (("\\", "\\\\"), ("'", "''"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(character, escaped)
    return f"'{text}'"


def _ask(connection: SourceConnection, definition: TableDefinition, sql: str) -> list[str | None]:
    """The answer's one column; empty where the server does not say."""
    with connection.translated():
        try:
            with connection.raw.cursor() as cursor:
                cursor.execute(sql)
                return [None if value is None else value.decode() for (value,) in cursor.fetchall()]
        except pymysql.err.Error as error:
            number = error.args[0] if error.args else 0
            if number in _UNANSWERED:
                return []
            if number == _LOCK_WAIT_TIMEOUT:
                raise TableHeld(
                    f"{definition.name} is locked, and its definition cannot be read meanwhile",
                    hint="end the session on the source that locks or alters it",
                ) from error
            raise
