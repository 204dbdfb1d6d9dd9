"""Row filters as they are written: what is understood, and what is refused by name."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cdc.rowfilter import Both, Compare, Condition, Either, IsNull, IsTrue, Not, OneOf, parse_filter

ONE = Decimal(1)


@pytest.mark.parametrize(
    "text,condition",
    [
        ("a = 1", Compare("a", "=", ONE)),
        ("1 < a", Compare("a", ">", ONE)),
        ("1 >= a", Compare("a", "<=", ONE)),
        ("a != -1.50", Compare("a", "<>", Decimal("-1.50"))),
        ("a <> 'it''s'", Compare("a", "<>", "it's")),
        ('a = "x\\\\y"', Compare("a", "=", "x\\y")),
        ("a = x'00FF'", Compare("a", "=", b"\x00\xff")),
        ("a = TRUE", Compare("a", "=", ONE)),
        ("a = 1e3", Compare("a", "=", Decimal("1e3"))),
        ("a IN (1, 'x')", OneOf("a", (ONE, "x"))),
        ("a NOT IN ('x')", Not(OneOf("a", ("x",)))),
        ("a BETWEEN 1 AND 2", Both(Compare("a", ">=", ONE), Compare("a", "<=", Decimal(2)))),
        ("a IS NULL", IsNull("a")),
        ("a IS NOT NULL", Not(IsNull("a"))),
        ("`a b``c` is null", IsNull("a b`c")),
        ("a", IsTrue("a")),
        ("NOT a", Not(IsTrue("a"))),
        ("NOT a = 1", Not(Compare("a", "=", ONE))),
        ("a OR b AND c", Either(IsTrue("a"), Both(IsTrue("b"), IsTrue("c")))),
        ("(a OR b) AND c", Both(Either(IsTrue("a"), IsTrue("b")), IsTrue("c"))),
        ("A = 1 -- said once", Compare("A", "=", ONE)),
    ],
)
def test_what_is_understood(text: str, condition: Condition) -> None:
    assert parse_filter(text).condition == condition


def test_the_columns_are_those_that_are_looked_at() -> None:
    assert parse_filter("a = 1 AND (NOT b OR a IS NULL OR c IN (2))").columns == ("a", "b", "c")


def test_spaces_and_comments_make_no_other_filter() -> None:
    assert parse_filter("a=1  and b /* why */ in (1,2)") == parse_filter("a = 1 AND b IN (1, 2)")


@pytest.mark.parametrize(
    "text,said",
    [
        ("", "is not one condition"),
        ("a = 1; b = 2", "is not one condition"),
        ("a = ", "is no condition"),
        ("(a = 1", "is no condition"),
        ("a = NULL", "write IS NULL"),
        ("a IN (1, NULL)", "write IS NULL"),
        ("a IN ()", "is no"),
        ("a = b", "'b' is not known here"),
        ("1 = 1", "'1 = 1' is not known here"),
        ("1", "'1' is not known here"),
        ("t.a = 1", "'t.a' is not known here"),
        ("lower(a) = 'x'", r"LOWER\(a\) = 'x'\" is not known here"),
        ("a + 1 = 2", "'a \\+ 1 = 2' is not known here"),
        ("a = 1 + 1", "'1 \\+ 1' is not known here"),
        ("a LIKE 'x%'", "\"a LIKE 'x%'\" is not known here"),
        ("a <=> 1", "is not known here"),
        ("a IS TRUE", "is not known here"),
        ("a IN (SELECT 1)", "is not known here"),
        ("EXISTS (SELECT 1)", "is not known here"),
        ("a COLLATE utf8mb4_bin = 'x'", "is not known here"),
        ("a = DATE '2024-01-01'", "is not known here"),
        ("a = x'0'", "is not known here"),
        ("a XOR b", "is not known here"),
        ("a = @b", "is not known here"),
        ("CASE WHEN a THEN 1 END", "is not known here"),
        ("DROP TABLE a", "is not known here"),
        ("-'x' = a", "is not known here"),
        ("(" * 5000 + "a" + ")" * 5000, "nested too deeply|is no condition"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_filter(text)
