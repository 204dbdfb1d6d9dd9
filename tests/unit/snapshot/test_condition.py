"""What may stand between the parentheses of a load of a part, and what may not."""

from __future__ import annotations

import pytest

from snapshot.condition import CHARACTERS_MAX, condition_problem


@pytest.mark.parametrize(
    "condition",
    [
        "id = 1",
        "id IN (1, 2) AND (v < 3 OR v IS NULL)",
        "s = 'a;b -- no comment # /* here' AND t = \"it's ) fine\"",
        "s = 'it''s' OR s = 'it\\'s ;' OR `odd``;)name` = 1",
        "a - -1 > 0",
        "note LIKE '%into%' AND `into` = 1 AND `for` = 'update'",
        "SUBSTRING(s FROM 1 FOR 2) = 'ab'",
        "s = 'größer\x01'",
        "id IN (SELECT id FROM other)",
        "intoxicated = 1",
    ],
)
def test_a_condition_is_taken(condition: str) -> None:
    assert condition_problem(condition) is None


@pytest.mark.parametrize(
    "condition, problem",
    [
        ("", "empty"),
        (" \n", "empty"),
        ("id = 1; DROP TABLE t", "semicolon"),
        ("id = 1) OR (1 = 1", "closes a parenthesis"),
        ("(id = 1", "leaves a parenthesis open"),
        ("id = 1) --", "closes a parenthesis"),
        ("id = 1 -- ", "comment"),
        ("id = 1 --", "comment"),
        ("id = 1 # more", "comment"),
        ("id = 1 /*! OR 1 */", "comment"),
        ("s = 'open", "quote"),
        ("s = 'open\\'", "quote"),
        ('s = "open', "quote"),
        ("`open = 1", "quote"),
        ("`open\\` = 1 OR `s = 1", "quote"),
        ("id = 1\x00", "control character"),
        ("1 INTO OUTFILE '/tmp/x'", "INTO"),
        ("id IN (SELECT id FROM o FOR\n UPDATE)", "FOR UPDATE"),
        ("id IN (SELECT id FROM o for share)", "FOR SHARE"),
        ("id IN (SELECT id FROM o LOCK IN SHARE MODE)", "LOCK IN"),
        ("s = '\udcff'", "UTF-8"),
        ("1 OR " * CHARACTERS_MAX, "longer"),
    ],
)
def test_what_could_break_out_is_refused(condition: str, problem: str) -> None:
    found = condition_problem(condition)
    assert found is not None
    assert problem in found
