"""What a statement in the binlog is, and which tables it touches.

Statements are tokenised as the server does (executable comments are code, `ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES`
change the quoting) and recognised by their first words; never by regular expressions over raw text. For a form that is
not recognised the answer is the safe one: every table that a name in it could stand for counts as touched.

Knows nothing of positions or sinks. What happens to a touched table is the pipeline's business.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from cdc.model import TableName
from cdc.schema.tokens import NotUnderstood, Reader, Token, tokens_of

__all__ = ["Statement", "StatementKind", "classify_statement"]


class StatementKind(enum.Enum):
    """What the statement means for the stream."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    ROLLBACK_TO = "rollback to"
    XA_START = "xa start"
    XA_END = "xa end"
    XA_COMMIT = "xa commit"
    XA_ROLLBACK = "xa rollback"
    DDL = "ddl"  # `tables` are touched
    DATABASE = "database"  # DROP or CREATE OR REPLACE DATABASE: every table of `database` is touched
    HARMLESS = "harmless"  # changes no table's rows or columns
    FUNCTION = "function"  # a call that changes rows of tables which it does not name
    DML = "dml"  # rows changed without row events; `names` may be touched
    UNKNOWN = "unknown"  # `names` may be touched


@dataclass(frozen=True, slots=True)
class Statement:
    """A classified statement.

    `tables` is exact (for DDL and DATABASE). `names` are, for the kinds where the tables are not known exactly, all
    tables that an identifier in it could stand for, in lower case: a name behind a dot is of the database before it,
    any other of the default database. `dropped` are those of `tables` that are gone afterwards.
    """

    kind: StatementKind
    tables: tuple[TableName, ...] = ()
    dropped: tuple[TableName, ...] = ()
    database: str = ""
    names: frozenset[TableName] = frozenset()


_DOT = Token(".", False)
# What can stand before a table's name: `FROM .t` is the old way to write the default database's t.
_BEFORE_A_TABLE = frozenset(
    [
        "DELAYED",
        "DELETE",
        "FROM",
        "HIGH_PRIORITY",
        "IGNORE",
        "INSERT",
        "INTO",
        "JOIN",
        "LOW_PRIORITY",
        "QUICK",
        "REPLACE",
        "STRAIGHT_JOIN",
        "TABLE",
        "UPDATE",
        "USING",
    ]
)
_CONTROL = {
    ("BEGIN",): StatementKind.BEGIN,
    ("START", "TRANSACTION"): StatementKind.BEGIN,
    ("COMMIT",): StatementKind.COMMIT,
    ("ROLLBACK", "TO"): StatementKind.ROLLBACK_TO,
    ("ROLLBACK", "WORK", "TO"): StatementKind.ROLLBACK_TO,
    ("ROLLBACK",): StatementKind.ROLLBACK,
    ("SAVEPOINT",): StatementKind.SAVEPOINT,
    ("RELEASE", "SAVEPOINT"): StatementKind.HARMLESS,
    ("XA", "START"): StatementKind.XA_START,
    ("XA", "BEGIN"): StatementKind.XA_START,
    ("XA", "END"): StatementKind.XA_END,
    ("XA", "COMMIT"): StatementKind.XA_COMMIT,
    ("XA", "ROLLBACK"): StatementKind.XA_ROLLBACK,
}
# Statements that change neither a base table's rows nor its columns.
_HARMLESS_FIRST = {
    "GRANT",
    "REVOKE",
    "SET",
    "FLUSH",
    "CHECK",
    "CHECKSUM",
    "OPTIMIZE",
    "REPAIR",
    "INSTALL",
    "UNINSTALL",
    "DO",
    "USE",
    "RESET",
    "PURGE",
}
_OTHER_OBJECTS = {
    "VIEW",
    "TRIGGER",
    "PROCEDURE",
    "FUNCTION",
    "EVENT",
    "USER",
    "ROLE",
    "SERVER",
    "LOGFILE",
    "UNDO",
    "RESOURCE",
    "PACKAGE",
    "SPATIAL",  # REFERENCE SYSTEM; an index is told before
    "INSTANCE",
    "LIBRARY",
}
_DML_FIRST = {"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "WITH", "CALL", "IMPORT", "MERGE", "ANALYZE"}


def classify_statement(
    sql: str, *, database: str = "", ansi_quotes: bool = False, backslash_escapes: bool = True
) -> Statement:
    """Classify the text of a Query event. `database` is the event's default database."""
    tokens = list(tokens_of(sql, ansi_quotes=ansi_quotes, backslash_escapes=backslash_escapes))
    reader = Reader(tokens, database)
    # MariaDB logs `SET STATEMENT variable=value FOR statement` as it was written.
    if reader.take("SET", "STATEMENT") and reader.seek("FOR"):
        tokens = tokens[reader.at :]
        reader = Reader(tokens, database)
    for words, kind in _CONTROL.items():
        if reader.take(*words):
            return Statement(kind)
    if not tokens:
        return Statement(StatementKind.HARMLESS)
    try:
        return _ddl(reader)
    except NotUnderstood:
        first = tokens[0].text.upper()
        kind = StatementKind.DML if first in _DML_FIRST else StatementKind.UNKNOWN
        return Statement(kind, names=frozenset(_names(tokens, database)))


def _names(tokens: list[Token], database: str) -> Iterator[TableName]:
    for index, token in enumerate(tokens):
        if not token.is_name:
            continue
        is_qualified = index > 1 and tokens[index - 1] == _DOT and _is_qualifier(tokens[index - 2])
        yield TableName((tokens[index - 2].text if is_qualified else database).lower(), token.text.lower())


def _is_qualifier(token: Token) -> bool:
    return token.is_name and (token.is_quoted or token.text.upper() not in _BEFORE_A_TABLE)


def _ddl(reader: Reader) -> Statement:
    first = reader.peek()
    if first in _HARMLESS_FIRST:
        return Statement(StatementKind.HARMLESS)
    if first == "SELECT":  # logged only where a function that it calls changes rows
        return Statement(StatementKind.FUNCTION)
    if reader.take("ANALYZE"):
        reader.take_any("NO_WRITE_TO_BINLOG", "LOCAL")
        if reader.take_any("TABLE", "TABLES"):
            return Statement(StatementKind.HARMLESS)
        raise NotUnderstood  # MariaDB: ANALYZE UPDATE … runs it
    if reader.take("TRUNCATE"):
        reader.take("TABLE")
        return Statement(StatementKind.DDL, (reader.table(),))
    if reader.take("RENAME"):
        return _rename(reader)
    if reader.take("CREATE"):
        return _create(reader)
    if reader.take("ALTER"):
        return _alter(reader)
    if reader.take("DROP"):
        return _drop(reader)
    raise NotUnderstood


def _rename(reader: Reader) -> Statement:
    if reader.take("USER"):
        return Statement(StatementKind.HARMLESS)
    if not reader.take_any("TABLE", "TABLES"):
        raise NotUnderstood
    reader.take("IF", "EXISTS")
    live: dict[TableName, None] = {}
    touched: dict[TableName, None] = {}
    while True:
        old = reader.table()
        while not reader.take("TO"):  # MariaDB: WAIT n, NOWAIT
            reader.at += 1
            if reader.at >= len(reader.tokens):
                raise NotUnderstood
        new = reader.table()
        touched |= {old: None, new: None}
        live.pop(old, None)
        live[new] = None
        if not reader.take(","):
            break
    return Statement(StatementKind.DDL, tuple(touched), tuple(t for t in touched if t not in live))


def _create(reader: Reader) -> Statement:
    is_replaced = reader.take("OR", "REPLACE")
    if reader.take("TEMPORARY"):
        return Statement(StatementKind.HARMLESS)
    if reader.take("TABLE"):
        reader.take("IF", "NOT", "EXISTS")
        return Statement(StatementKind.DDL, (reader.table(),))
    if reader.take_any("DATABASE", "SCHEMA"):
        if is_replaced:
            return Statement(StatementKind.DATABASE, database=reader.table().table)
        return Statement(StatementKind.HARMLESS)
    if _is_index(reader):
        return Statement(StatementKind.HARMLESS)  # rows and columns stay; the sinks keep their own indexes
    if reader.peek() in ("SEQUENCE", "TABLESPACE") or _is_other_object(reader):
        return Statement(StatementKind.HARMLESS)
    raise NotUnderstood


def _is_index(reader: Reader) -> bool:
    start = reader.at
    reader.take_any("ONLINE", "OFFLINE")
    reader.take_any("UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR")
    if reader.take_any("INDEX", "KEY"):
        return True
    reader.at = start
    return False


def _is_other_object(reader: Reader) -> bool:
    """CREATE/ALTER/DROP [DEFINER=…] [SQL SECURITY …] [ALGORITHM=…] VIEW|TRIGGER|… within the first words."""
    limit = 24
    for ahead in range(limit):
        word = reader.peek(ahead)
        if word in _OTHER_OBJECTS:
            return True
        if word in ("TABLE", "AS", "("):
            return False
    return False


def _alter(reader: Reader) -> Statement:
    while reader.take_any("ONLINE", "OFFLINE", "IGNORE"):
        pass
    if reader.take("TABLE"):
        reader.take("IF", "EXISTS")
        table = reader.table()
        others: list[TableName] = []
        dropped: list[TableName] = []
        depth = 0
        while reader.at < len(reader.tokens):
            word = reader.peek()
            depth += (word == "(") - (word == ")")
            if depth == 0 and word == "RENAME":
                reader.at += 1
                if reader.peek() in ("COLUMN", "INDEX", "KEY"):
                    continue
                reader.take_any("TO", "AS", "=")
                others.append(reader.table())
                if others[-1] != table:
                    dropped.append(table)
            elif depth == 0 and word == "TABLE":  # EXCHANGE PARTITION … WITH TABLE x, CONVERT … TABLE x
                reader.at += 1
                others.append(reader.table())
            else:
                reader.at += 1
        return Statement(StatementKind.DDL, (table, *others), tuple(dropped))
    if reader.peek() in ("DATABASE", "SCHEMA", "SEQUENCE", "TABLESPACE", "INSTANCE") or _is_other_object(reader):
        return Statement(StatementKind.HARMLESS)
    raise NotUnderstood


def _drop(reader: Reader) -> Statement:
    if reader.take("TEMPORARY"):
        return Statement(StatementKind.HARMLESS)
    if reader.take_any("TABLE", "TABLES"):
        reader.take("IF", "EXISTS")
        tables = reader.tables()
        return Statement(StatementKind.DDL, tables, tables)
    if reader.take_any("DATABASE", "SCHEMA"):
        reader.take("IF", "EXISTS")
        return Statement(StatementKind.DATABASE, database=reader.table().table)
    if _is_index(reader):
        if not reader.seek("ON"):
            raise NotUnderstood
        return Statement(StatementKind.DDL, (reader.table(),))
    if reader.peek() in ("SEQUENCE", "TABLESPACE", "PREPARE") or _is_other_object(reader):
        return Statement(StatementKind.HARMLESS)
    raise NotUnderstood
