"""The condition of a load of a part: the operator's own SQL, which the source evaluates over one row of the table.

It is put between parentheses into statements of ours. What could end these, or what is no condition, is refused here;
all else the source says itself. As it is only asked which rows are read, a condition that is wrong for what its author
wanted loads other rows, and each of them as the source has it.

Sessions have the sql_mode of `cdc.source.connection`: `"` quotes text, a backslash escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["condition_problem"]

CHARACTERS_MAX = 16_384
"""A list of a thousand keys; what is larger is a job for a whole load."""

_WORD = re.compile(r"[\w$]+")
# What these begin is no condition of one row, writes a file, or locks rows at the source.
_REFUSED = (("INTO",), ("FOR", "UPDATE"), ("FOR", "SHARE"), ("LOCK", "IN"), ("PROCEDURE",))


def condition_problem(text: str) -> str | None:
    """Why the text is not put into a statement; None where it is one expression as far as its form tells."""
    if not text.strip():
        return "is empty"
    if len(text) > CHARACTERS_MAX:
        return f"is longer than {CHARACTERS_MAX} characters"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    try:
        words = list(_words(text))
    except ValueError as error:
        return str(error)
    upper = [word.upper() for word in words]
    for refused in _REFUSED:
        if any(tuple(upper[at : at + len(refused)]) == refused for at in range(len(upper))):
            return f"has {' '.join(refused)}, which is no part of a condition"
    return None


def _words(text: str) -> Iterator[str]:
    """The words outside of quotes, in order. Raises ValueError for what could end the parentheses around it."""
    at, depth = 0, 0
    while at < len(text):
        char = text[at]
        if char in "'\"`":
            at = _behind_quote(text, at)
            continue
        if char == ";":
            raise ValueError("has a semicolon outside of quotes")
        if char == "#" or text.startswith(("--", "/*"), at):
            raise ValueError("has a comment (two minus signs in a row begin one: write `- -`)")
        if ord(char) < 32 and char not in "\t\r\n":
            raise ValueError("has a control character outside of quotes")
        depth += (char == "(") - (char == ")")
        if depth < 0:
            raise ValueError("closes a parenthesis that it has not opened")
        word = _WORD.match(text, at)
        if word is not None:
            yield word.group()
            at = word.end()
        else:
            at += 1
    if depth:
        raise ValueError("leaves a parenthesis open")


def _behind_quote(text: str, at: int) -> int:
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == "\\" and quote != "`":
            at += 2
        elif text[at] != quote:
            at += 1
        elif text.startswith(quote, at + 1):
            at += 2
        else:
            return at + 1
    raise ValueError(f"leaves a quote ({quote}) open")
