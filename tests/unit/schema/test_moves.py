"""What statements do to names of tables."""

from __future__ import annotations

import pytest

from cdc.schema.column_text import Unproven
from cdc.schema.ddl import StatementText
from cdc.schema.moves import moves_of


def _moves(text: str) -> dict[str, str] | None:
    found = moves_of(StatementText(text, "d"), spelled=lambda table: table)
    return None if found is None else {str(old): str(new) for old, new in found.items()}


@pytest.mark.parametrize(
    "text,moves",
    [
        ("RENAME TABLE a TO b", {"d.a": "d.b"}),
        ("rename tables `a` to e.b, c to a", {"d.a": "e.b", "d.c": "d.a"}),
        ("RENAME TABLE a TO x, b TO a, x TO b", {"d.a": "d.b", "d.b": "d.a"}),
        ("RENAME TABLE a TO b, b TO c", {"d.a": "d.c"}),
        ("RENAME TABLE a TO b, b TO a", {}),
        ("RENAME TABLE a WAIT 5 TO b", {"d.a": "d.b"}),
        ("RENAME /* gh-ost */ TABLE t TO _t_del, _t_gho TO t", {"d.t": "d._t_del", "d._t_gho": "d.t"}),
        ("ALTER TABLE a RENAME b", {"d.a": "d.b"}),
        ("ALTER TABLE a RENAME TO e.b", {"d.a": "e.b"}),
        ("ALTER TABLE a RENAME COLUMN x TO y", None),
        ("ALTER TABLE a RENAME TO b, ADD c INT", None),
        ("RENAME USER a TO b", None),
        ("CREATE TABLE a (b INT)", None),
    ],
)
def test_where_tables_are_afterwards(text: str, moves: dict[str, str] | None) -> None:
    assert _moves(text) == moves


@pytest.mark.parametrize(
    "text", ["RENAME TABLE IF EXISTS a TO b", "RENAME TABLE a TO", "RENAME TABLE /*!50000 a */ TO b"]
)
def test_forms_that_are_not_certain_are_not_proven(text: str) -> None:
    with pytest.raises(Unproven):
        _moves(text)
