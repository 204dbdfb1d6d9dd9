"""What dictionaries do not tell: characters beyond U+FFFF, in the members of ENUM and SET and in defaults.

information_schema and SHOW CREATE TABLE are in three-byte UTF-8 on every version, and show `?` for such a character
(MySQL 9.7, MariaDB 10.11 and 11.8, seen). The server itself knows: a recursive query keeps the type of its first
part, so that numbers written into an ENUM or SET there come out as members; DEFAULT() has the default. Neither reads
a row, and both need no more than reading the table does.
"""

from __future__ import annotations

from dataclasses import replace

import pymysql

from cdc.model import ColumnDefinition, TableDefinition, ValueKind
from cdc.schema.dictionary_text import as_dictionaries_show, has_whole_unicode
from cdc.source.connection import SourceConnection
from cdc.source.resultset import are_members_told, quote, quote_table

__all__ = ["told"]

# A recursive query before MySQL 8.0 and MariaDB 10.2; no default; a table or column that went meanwhile; no right to
# read it, which whoever reads its rows meets, too.
_UNANSWERED = frozenset({1049, 1054, 1064, 1142, 1143, 1146, 1364})

_NUMBERS_MAX = 70000  # an ENUM has up to 65535 members; the servers' own limit of recursion is 1000
_WITHOUT_LIMIT = {
    "mysql": f"{{}}SELECT /*+ SET_VAR(cte_max_recursion_depth={_NUMBERS_MAX}) */ {{}}",
    "mariadb": f"SET STATEMENT max_recursive_iterations={_NUMBERS_MAX} FOR {{}}SELECT {{}}",
}


def told(connection: SourceConnection, definition: TableDefinition) -> TableDefinition:
    """The definition, with what its dictionary shows as `?` asked for; unchanged where the server does not answer."""
    if not any(map(_may_hide, definition.columns)):
        return definition
    columns = (_asked(connection, definition, column) for column in definition.columns)
    return replace(definition, columns=tuple(columns))


def _may_hide(column: ColumnDefinition) -> bool:
    return not are_members_told(column) or _hides_default(column)


def _hides_default(column: ColumnDefinition) -> bool:
    """Literals only. MariaDB quotes them, and alone; MySQL's expressions are marked."""
    text = column.default or ""
    return "?" in text and has_whole_unicode(column.charset) and not column.has_default_expression


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
        f"SELECT CONVERT({name} USING utf8mb4) FROM (SELECT 1) AS one LEFT JOIN {quote_table(definition.name)} AS t "
        "ON FALSE",
    )
    if not answer or answer[0] is None:
        return column
    return replace(column, default=_quoted(answer[0]) if is_quoted else answer[0])


def _with_members(
    connection: SourceConnection, definition: TableDefinition, column: ColumnDefinition
) -> ColumnDefinition:
    count = len(column.members)
    number = "n + 1" if column.kind is ValueKind.ENUM else "1 << n"
    numbered = (
        f"WITH RECURSIVE numbered (n, v) AS (SELECT 0, t.{quote(column.name)} FROM (SELECT 1) AS one "
        f"LEFT JOIN {quote_table(definition.name)} AS t ON FALSE "
        f"UNION ALL SELECT n + 1, {number} FROM numbered WHERE n < {count}) "
    )
    members = "CONVERT(v USING utf8mb4) FROM numbered WHERE n > 0 ORDER BY n"
    found = tuple(
        member or "" for member in _ask(connection, _WITHOUT_LIMIT[definition.flavor].format(numbered, members))
    )
    if tuple(map(as_dictionaries_show, found)) != column.members:
        return column
    return replace(column, members=found, column_type=f"{column.kind.value}({','.join(map(_quoted, found))})")


def _quoted(text: str) -> str:
    """As the dictionaries print a string under `sql_mode=''`."""
    for character, escaped in (("\\", "\\\\"), ("'", "''"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(character, escaped)
    return f"'{text}'"


def _ask(connection: SourceConnection, sql: str) -> list[str | None]:
    """The answer's one column; empty where the server does not say."""
    with connection.translated():
        try:
            with connection.raw.cursor() as cursor:
                cursor.execute(sql)
                return [None if value is None else value.decode() for (value,) in cursor.fetchall()]
        except pymysql.err.Error as error:
            if error.args and error.args[0] in _UNANSWERED:
                return []
            raise
