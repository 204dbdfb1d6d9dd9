"""What a statement does to names of tables: RENAME TABLE, and ALTER TABLE that does nothing but rename.

Knows no rows, no definition and no sink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cdc.model import TableName
from cdc.schema.column_text import Unproven
from cdc.schema.ddl import StatementText
from cdc.schema.tokens import NotUnderstood, Reader, tokens_of

__all__ = ["moves_of", "reader_of"]


def reader_of(statement: StatementText) -> Reader:
    """The statement's words. Raises Unproven for one with executable comments."""
    if "/*!" in statement.text or "/*M!" in statement.text:
        raise Unproven("an executable comment")
    tokens = tokens_of(statement.text, ansi_quotes=statement.ansi_quotes, backslash_escapes=statement.backslash_escapes)
    return Reader(list(tokens), statement.database)


def moves_of(
    statement: StatementText, *, spelled: Callable[[TableName], TableName]
) -> Mapping[TableName, TableName] | None:
    """Where each table is afterwards that the statement gives another name; None where it is no such statement.

    Several steps on one table are one move; a table that ends where it was is in none. `spelled` makes of a name in the
    statement the one that the server knows it by. Raises Unproven for forms of which some steps may not be done.
    """
    reader = reader_of(statement)
    try:
        steps = _renames(reader, spelled) if reader.take("RENAME") else _renaming_alter(reader, spelled)
    except NotUnderstood:
        raise Unproven("a form of RENAME that is not known") from None
    if steps is None:
        return None
    first: dict[TableName, TableName] = {}  # by the name that it has now: the one before
    for old, new in steps:
        first[new] = first.pop(old, old)
    return {before: now for now, before in first.items() if now != before}


def _renames(reader: Reader, spelled: Callable[[TableName], TableName]) -> list[tuple[TableName, TableName]] | None:
    if not reader.take_any("TABLE", "TABLES"):
        return None
    if reader.take("IF", "EXISTS"):
        raise Unproven("RENAME TABLE IF EXISTS")
    steps = []
    while True:
        old = spelled(reader.table())
        if reader.take("WAIT"):
            reader.digits()
        else:
            reader.take("NOWAIT")
        if not reader.take("TO"):
            raise NotUnderstood
        steps.append((old, spelled(reader.table())))
        if reader.is_over():
            return steps
        if not reader.take(","):
            raise NotUnderstood


def _renaming_alter(
    reader: Reader, spelled: Callable[[TableName], TableName]
) -> list[tuple[TableName, TableName]] | None:
    """None for an ALTER TABLE that does anything else."""
    if not reader.take("ALTER"):
        return None
    reader.take_any("ONLINE", "OFFLINE")
    if not reader.take("TABLE") or reader.take("IF", "EXISTS"):
        return None
    old = spelled(reader.table())
    if not reader.take("RENAME") or reader.peek() in ("COLUMN", "INDEX", "KEY"):
        return None
    reader.take_any("TO", "AS", "=")
    new = spelled(reader.table())
    return [(old, new)] if reader.is_over() else None
