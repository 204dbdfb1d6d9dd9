"""What is shown of a statement that has values of rows in it."""

from __future__ import annotations

import pytest

from cdc.schema.tokens import outline_of


@pytest.mark.parametrize(
    "sql, shown",
    [
        ("UPDATE shop.t  SET v = 'a''b\\'c', w = 10\nWHERE id=2", "UPDATE shop.t SET v = ?, w = ? WHERE id = ?"),
        (
            "INSERT INTO `a b` VALUES (1.5, -2e3, 0xAF, X'00', N'x', NULL)",
            "INSERT INTO `a b` VALUES (?.?, - ?, ?, X ?, N ?, NULL)",
        ),
        ("DELETE /* 123-45 */ FROM t WHERE a = 1 -- 'secret'", "DELETE FROM t WHERE a = ?"),
        ("SELECT `t`.`f`('x')", "SELECT `t`.`f` (?)"),
        ("UPDATE t SET a = 'never closed", "UPDATE t SET a = ?"),
    ],
)
def test_a_statement_is_shown_without_its_literals(sql: str, shown: str) -> None:
    assert outline_of(sql, ansi_quotes=False, backslash_escapes=True) == shown


def test_quotes_are_read_as_the_session_read_them() -> None:
    assert outline_of('UPDATE "t" SET a = "x"', ansi_quotes=True, backslash_escapes=True) == "UPDATE `t` SET a = `x`"
    assert outline_of('UPDATE t SET a = "x"', ansi_quotes=False, backslash_escapes=True) == "UPDATE t SET a = ?"
    sql = r"UPDATE t SET a = 'x\', b = 'y'"
    assert outline_of(sql, ansi_quotes=False, backslash_escapes=False) == "UPDATE t SET a = ?, b = ?"
