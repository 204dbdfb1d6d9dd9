"""Other names for tables, as pure text and as an order: RENAME TABLE on the MySQL family, ALTER TABLE on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from cdc.schema.target import TargetTable
from cdc.sinks import sql_mysql, sql_postgres

__all__ = ["Move", "mysql_statement", "postgres_statements", "taken_over"]

Move = tuple[TargetTable, TargetTable]
_ON_THE_WAY = "_cdc_on_the_way_{}"


def taken_over(moves: Sequence[Move]) -> list[Move]:
    """Whose place another table takes, and that one, both as they are before."""
    takers = {str(after): before for before, after in moves}
    return [(before, takers[str(before)]) for before, _ in moves if str(before) in takers]


def mysql_statement(moves: Sequence[Move]) -> str:
    """One statement. There may be no ring: each name is left before it is taken."""
    waiting = list(moves)
    ordered: list[Move] = []
    while waiting:
        left = {str(before) for before, _ in waiting}
        free = [move for move in waiting if str(move[1]) not in left]
        assert free, "tables that exchange their names"
        ordered += free
        waiting = [move for move in waiting if move not in free]
    q = sql_mysql.qualified
    return "RENAME TABLE " + ", ".join(
        f"{q(old.namespace, old.name)} TO {q(new.namespace, new.name)}" for old, new in ordered
    )


def postgres_statements(moves: Sequence[Move]) -> list[str]:
    """In order, within one transaction. All leave their names before one is taken: rings are as good."""
    q, quote = sql_postgres.qualified, sql_postgres.quote
    first, second = [], []
    for number, (old, new) in enumerate(moves):
        between = _ON_THE_WAY.format(number)
        first.append(f"ALTER TABLE {q(old.namespace, old.name)} RENAME TO {quote(between)}")
        if old.namespace != new.namespace:
            second.append(f"ALTER TABLE {q(old.namespace, between)} SET SCHEMA {quote(new.namespace)}")
        second.append(f"ALTER TABLE {q(new.namespace, between)} RENAME TO {quote(new.name)}")
    return [*first, *second]
