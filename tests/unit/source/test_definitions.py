"""Members of ENUM and SET out of the text that information_schema prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.source.definitions import parse_members


def printed(members: list[str], kind: str = "enum") -> str:
    """As MySQL and MariaDB do (append_unescaped): quotes doubled, four characters with a backslash."""
    out = []
    for member in members:
        text = member.replace("\\", "\\\\").replace("\0", "\\0").replace("\n", "\\n").replace("\r", "\\r")
        out.append("'" + text.replace("'", "''") + "'")
    return f"{kind}({','.join(out)})"


tricky = st.text(st.sampled_from("ab',\\()\"`\n\r\0\tn0rZé表%_ "), max_size=8)


@given(st.lists(st.one_of(tricky, st.text(max_size=6)), min_size=1, max_size=6), st.sampled_from(("enum", "set")))
def test_members_go_round(members: list[str], kind: str) -> None:
    assert parse_members(printed(members, kind)) == tuple(members)


@pytest.mark.parametrize(
    "column_type, members",
    [
        ("enum('a','b')", ("a", "b")),
        ("enum('')", ("",)),
        ("enum('','''')", ("", "'")),
        ("set('it''s','x,y')", ("it's", "x,y")),
        (r"enum('a\\','b')", ("a\\", "b")),
        (r"enum('a\\''b')", ("a\\'b",)),
        ("enum('line\\nend')", ("line\nend",)),
        ("enum('a)','(b')", ("a)", "(b")),
        ("enum('😀')", ("😀",)),
    ],
)
def test_members_as_servers_print_them(column_type: str, members: tuple[str, ...]) -> None:
    assert parse_members(column_type) == members
