"""The tokens of a statement, as the server reads them, and a reader that goes through them by keyword.

Executable comments are code, `ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES` change the quoting. Knows no statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cdc.model import TableName

__all__ = ["NotUnderstood", "Reader", "Token", "outline_of", "tokens_of"]


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    is_name: bool  # a word or a quoted identifier; else punctuation or a literal
    is_quoted: bool = False


_BLANK = " \t\r\n\f\v"


def tokens_of(sql: str, *, ansi_quotes: bool, backslash_escapes: bool) -> Iterator[Token]:
    at, end, depth = 0, len(sql), 0
    while at < end:
        char = sql[at]
        if char in _BLANK or char == "\0":
            at += 1
        elif char == "#" or (sql.startswith("--", at) and (at + 2 == end or sql[at + 2] in _BLANK)):
            newline = sql.find("\n", at)
            at = end if newline < 0 else newline + 1
        elif sql.startswith("/*", at):
            at, opened = _comment(sql, at)
            depth += opened
        elif depth and sql.startswith("*/", at):
            depth -= 1
            at += 2
        elif char == "`" or (char == '"' and ansi_quotes):
            at, text = _quoted(sql, at, char, backslash=False)
            yield Token(text, True, True)
        elif char in "'\"":
            at, text = _quoted(sql, at, char, backslash=backslash_escapes)
            yield Token(text, False, True)
        elif char.isalnum() or char in "_$@" or ord(char) > 127:
            start = at
            while at < end and (sql[at].isalnum() or sql[at] in "_$@" or ord(sql[at]) > 127):
                at += 1
            yield Token(sql[start:at], True)
        else:
            yield Token(char, False)
            at += 1


def outline_of(sql: str, *, ansi_quotes: bool, backslash_escapes: bool) -> str:
    """The statement in one line, without comments and with `?` for each literal: what may be shown of one with rows."""
    words = (_outlined(token) for token in tokens_of(sql, ansi_quotes=ansi_quotes, backslash_escapes=backslash_escapes))
    return _NEEDLESS_BLANK.sub("", " ".join(words))


_NEEDLESS_BLANK = re.compile(r" (?=[.,;)])|(?<=[.(]) ")


def _outlined(token: Token) -> str:
    if token.is_quoted:
        return f"`{token.text}`" if token.is_name else "?"
    return "?" if token.text[0].isdigit() else token.text


def _comment(sql: str, at: int) -> tuple[int, int]:
    """After `/*`: an executable comment opens (its content is code), any other is passed over."""
    for opener in ("/*M!", "/*!"):
        if sql.startswith(opener, at):
            at += len(opener)
            while at < len(sql) and sql[at].isdigit():
                at += 1
            return at, 1
    closing = sql.find("*/", at + 2)
    return (len(sql) if closing < 0 else closing + 2), 0


def _quoted(sql: str, at: int, quote: str, *, backslash: bool) -> tuple[int, str]:
    out: list[str] = []
    at += 1
    while at < len(sql):
        char = sql[at]
        if char == "\\" and backslash:
            out.append(sql[at : at + 2])
            at += 2
        elif char == quote:
            if sql.startswith(quote * 2, at):
                out.append(quote)
                at += 2
            else:
                return at + 1, "".join(out)
        else:
            out.append(char)
            at += 1
    return at, "".join(out)


class Reader:
    """The tokens of one statement, read by keyword."""

    def __init__(self, tokens: list[Token], database: str) -> None:
        self.tokens = tokens
        self.at = 0
        self.database = database

    def peek(self, ahead: int = 0) -> str:
        """The keyword (upper case) or punctuation there; '' past the end or for anything quoted."""
        index = self.at + ahead
        if index >= len(self.tokens) or self.tokens[index].is_quoted:
            return ""
        return self.tokens[index].text.upper()

    def take(self, *words: str) -> bool:
        """Step over these words when they come next."""
        if all(self.peek(i) == word for i, word in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def take_any(self, *words: str) -> bool:
        return any(self.take(word) for word in words)

    def table(self) -> TableName:
        """A table name, qualified or not. Raises NotUnderstood."""
        first = self.name()
        if self.peek() == "." and not self.tokens[self.at].is_name:
            self.at += 1
            return TableName(first, self.name())
        return TableName(self.database, first)

    def name(self) -> str:
        """A name, quoted or not. Raises NotUnderstood."""
        if self.at >= len(self.tokens) or not self.tokens[self.at].is_name:
            raise NotUnderstood
        self.at += 1
        return self.tokens[self.at - 1].text

    def is_over(self) -> bool:
        """Is nothing left?"""
        return self.at >= len(self.tokens)

    def literal(self) -> str:
        """A string between quotes, its backslashes as they stand. Raises NotUnderstood."""
        if self.is_over() or self.tokens[self.at].is_name or not self.tokens[self.at].is_quoted:
            raise NotUnderstood
        self.at += 1
        return self.tokens[self.at - 1].text

    def digits(self) -> str:
        """A whole number without a sign. Raises NotUnderstood."""
        word = self.peek()
        if not (word.isascii() and word.isdigit()):
            raise NotUnderstood
        self.at += 1
        return word

    def tables(self) -> tuple[TableName, ...]:
        found = [self.table()]
        while self.take(","):
            found.append(self.table())
        return tuple(found)

    def seek(self, *words: str) -> bool:
        """Step to just after the next occurrence of these words."""
        while self.at < len(self.tokens):
            if self.take(*words):
                return True
            self.at += 1
        return False


class NotUnderstood(Exception):
    """The form is not one of those recognised: fall back to every name that occurs."""
