"""The table file of the earlier system: a JSON list of objects, one a table.

    [{"table": "orders", "primary_key": ["id"], "modifier": "updated_at", "sync_strategy": "incremental",
      "batch_size": 5000}]

Only its form is known here; what its values mean, and whether they are right, is the configuration's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["KEYS", "TableEntry", "TableFileProblem", "parse_table_file"]

KEYS = ("table", "primary_key", "modifier", "sync_strategy", "batch_size")

_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One object of the list: its place in it from 0 on, the line that it begins on, and what it says (no nulls)."""

    index: int
    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TableFileProblem:
    """What is wrong with the file, or with one entry of it."""

    line: int
    text: str
    index: int | None = None


class _Twice(ValueError):
    pass


def parse_table_file(text: str) -> tuple[list[TableEntry], list[TableFileProblem]]:
    """The entries that can be read, and what is wrong with the others; a problem's text quotes no value."""
    entries: list[TableEntry] = []
    problems: list[TableFileProblem] = []
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    for index, offset in _items(text, problems):
        line = text.count("\n", 0, offset) + 1
        try:
            value, _ = decoder.raw_decode(text, offset)
        except _Twice as error:
            problems.append(TableFileProblem(line, f"the key {error} is given twice", index))
            continue
        if not isinstance(value, dict):
            problems.append(TableFileProblem(line, "is not an object ({…})", index))
            continue
        unknown = [key for key in value if key not in KEYS]
        if unknown:
            known = ", ".join(KEYS)
            problems.append(TableFileProblem(line, f"there is no key {unknown[0][:64]!r}; known: {known}", index))
            continue
        if not isinstance(value.get("table"), str) or not value["table"]:
            problems.append(TableFileProblem(line, "has no table, which is text", index))
            continue
        entries.append(TableEntry(index, line, {k: v for k, v in value.items() if v is not None}))
    return entries, problems


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(repr(key[:64]))
        found[key] = value
    return found


def _items(text: str, problems: list[TableFileProblem]) -> Iterator[tuple[int, int]]:
    """Number and offset of each item of the list; what is no JSON ends it, with a problem."""
    plain = json.JSONDecoder()

    def skip(at: int) -> int:
        match = _SPACE.match(text, at)
        return match.end() if match else at

    def wrong(at: int, what: str) -> None:
        problems.append(TableFileProblem(text.count("\n", 0, at) + 1, what))

    at = skip(0)
    if text[at : at + 1] != "[":
        wrong(at, "is not a JSON list ([…]) of objects")
        return
    at = skip(at + 1)
    index = 0
    if text[at : at + 1] == "]":
        if skip(at + 1) != len(text):
            wrong(skip(at + 1), "something stands behind the list")
        return
    while True:
        try:
            _, end = plain.raw_decode(text, at)
        except ValueError as error:
            place = error.pos if isinstance(error, json.JSONDecodeError) else at
            wrong(place, f"not valid JSON: {getattr(error, 'msg', error)}")
            return
        yield index, at
        at, index = skip(end), index + 1
        mark = text[at : at + 1]
        if mark == "]":
            if skip(at + 1) != len(text):
                wrong(skip(at + 1), "something stands behind the list")
            return
        if mark != ",":
            wrong(at, "not valid JSON: , or ] is missing")
            return
        at = skip(at + 1)
