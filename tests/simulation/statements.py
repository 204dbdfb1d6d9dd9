"""The SQL of the metadata store, as far as it goes: one table, a conjunction of comparisons, values by parameter.

What is not understood is an error: a statement that the store begins to use is added here, or the simulation stops.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["NOW", "Statement", "Value", "parse"]

Row = dict[str, Any]
_QUOTED = re.compile(r'"(\w+)"')  # of names that need no quotes
NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_COMPARISON = re.compile(r"^(\w+) (=|<>|>|<|>=|<=) (.+)$")


@dataclass(frozen=True, slots=True)
class Value:
    """A literal, the n-th parameter, or the time plus a number."""

    kind: Literal["literal", "parameter", "now"]
    content: Any = None

    def of(self, parameters: Sequence[Any], now_us: int) -> Any:
        """What it is in this execution."""
        if self.kind == "parameter":
            return parameters[self.content]
        return now_us + self.content if self.kind == "now" else self.content


@dataclass(frozen=True, eq=False)
class Statement:
    """One parsed statement. `conditions` are (column, operator, values): all have to hold."""

    kind: Literal["select", "union", "insert", "update", "delete", "create", "regclass"]
    table: str = ""
    columns: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    conditions: tuple[tuple[str, str, tuple[Value, ...]], ...] = ()
    order: str | None = None
    is_descending: bool = False
    limit: int | None = None
    offset: int = 0
    is_locking: bool = False
    is_distinct: bool = False
    parts: tuple[Statement, ...] = ()
    """Of a union of SELECTs without parameters."""
    key: tuple[str, ...] = ()
    serial: str | None = None
    returned: str | None = None

    def holds(self, row: Row, parameters: Sequence[Any], now_us: int) -> bool:
        """Do the conditions hold of that row?"""
        for column, compares, values in self._tests:
            value = row.get(column)
            if not compares(value, [one.of(parameters, now_us) for one in values]):
                return False
        return True

    @functools.cached_property
    def _tests(self) -> list[tuple[str, Callable[[Any, list[Any]], bool], tuple[Value, ...]]]:
        return [(column, _OPERATORS[operator], values) for column, operator, values in self.conditions]

    def key_of(self, key: tuple[str, ...], parameters: Sequence[Any], now_us: int) -> tuple[Any, ...] | None:
        """Which row of a table with that key the conditions name, if they name one."""
        if key not in self._by_key:
            equal = {column: values[0] for column, operator, values in self.conditions if operator == "="}
            self._by_key[key] = [equal[name] for name in key] if equal.keys() >= set(key) else None
        named = self._by_key[key]
        return tuple([value.of(parameters, now_us) for value in named]) if named is not None else None

    @functools.cached_property
    def _by_key(self) -> dict[tuple[str, ...], list[Value] | None]:
        return {}

    @functools.cache  # noqa: B019 - as many as the service has statements
    def about_key(self, key: tuple[str, ...]) -> Statement:
        """The statement with those of its conditions that are about columns of the key."""
        return replace(self, conditions=tuple(c for c in self.conditions if c[0] in key))


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Any, list[Any]], bool]:
    return lambda value, others: value is not None and others[0] is not None and bool(compare(value, others[0]))


_OPERATORS: dict[str, Callable[[Any, list[Any]], bool]] = {
    "is null": lambda value, _others: value is None,
    "is not null": lambda value, _others: value is not None,
    "in": lambda value, others: value in others,
    "=": _compared(operator.eq),
    "<>": _compared(operator.ne),
    ">": _compared(operator.gt),
    "<": _compared(operator.lt),
    ">=": _compared(operator.ge),
    "<=": _compared(operator.le),
}


@functools.cache
def parse(sql: str) -> Statement:
    """Raises AssertionError for what is not understood."""
    text = _QUOTED.sub(r"\1", " ".join(sql.replace(NOW, ":now").split()))
    numbered = _Parameters()
    if text == "SELECT to_regclass(%s)":
        return Statement("regclass")
    if " UNION " in text:
        assert "%s" not in text, text
        return Statement("union", parts=tuple(parse(part) for part in text.split(" UNION ")))
    for pattern, read in _FORMS:
        if found := re.fullmatch(pattern, text, re.DOTALL):
            return read(found, numbered)
    raise AssertionError(f"the simulated sink does not know this statement: {text}")


class _Parameters:
    """Counts `%s` from left to right."""

    def __init__(self) -> None:
        self.count = 0

    def value(self, text: str) -> Value:
        text = text.strip()
        if text == "%s":
            self.count += 1
            return Value("parameter", self.count - 1)
        if found := re.fullmatch(r":now(?: \+ (\d+))?", text):
            return Value("now", int(found[1] or 0))
        if found := re.fullmatch(r"'([^']*)'", text):
            return Value("literal", found[1])
        if text == "NULL":
            return Value("literal", None)
        assert re.fullmatch(r"-?\d+", text), f"no value: {text}"
        return Value("literal", int(text))

    def conditions(self, text: str | None) -> tuple[tuple[str, str, tuple[Value, ...]], ...]:
        found: list[tuple[str, str, tuple[Value, ...]]] = []
        for part in (text or "").split(" AND ") if text else ():
            if match := re.fullmatch(r"(\w+) IS NOT NULL", part):
                found.append((match[1], "is not null", ()))
            elif match := re.fullmatch(r"(\w+) IS NULL", part):
                found.append((match[1], "is null", ()))
            elif match := re.fullmatch(r"(\w+) IN \((.*)\)", part):
                found.append((match[1], "in", tuple(self.value(one) for one in match[2].split(","))))
            else:
                match = _COMPARISON.match(part)
                assert match, f"no condition: {part}"
                found.append((match[1], match[2], (self.value(match[3]),)))
        return tuple(found)


def _select(found: re.Match[str], numbered: _Parameters) -> Statement:
    return Statement(
        "select",
        table=found["table"],
        columns=tuple(column.strip() for column in found["columns"].split(",")),
        conditions=numbered.conditions(found["where"]),
        order=found["order"],
        is_descending=bool(found["descending"]),
        limit=int(found["limit"]) if found["limit"] else None,
        offset=int(found["offset"] or 0),
        is_locking=bool(found["lock"]),
        is_distinct=bool(found["distinct"]),
    )


def _insert(found: re.Match[str], numbered: _Parameters) -> Statement:
    columns = tuple(column.strip() for column in found["columns"].split(","))
    values = tuple(numbered.value(value) for value in found["values"].split(","))
    assert len(columns) == len(values), found[0]
    return Statement("insert", table=found["table"], columns=columns, values=values, returned=found["returned"])


def _update(found: re.Match[str], numbered: _Parameters) -> Statement:
    pairs = [one.split(" = ", 1) for one in found["set"].split(", ")]
    columns = tuple(name.strip() for name, _ in pairs)
    values = tuple(numbered.value(value) for _, value in pairs)
    return Statement(
        "update", table=found["table"], columns=columns, values=values, conditions=numbered.conditions(found["where"])
    )


def _delete(found: re.Match[str], numbered: _Parameters) -> Statement:
    return Statement("delete", table=found["table"], conditions=numbered.conditions(found["where"]))


def _create(found: re.Match[str], _: _Parameters) -> Statement:
    body = found["body"]
    if composite := re.search(r"PRIMARY KEY \(([^)]*)\)", body):
        key = tuple(column.strip() for column in composite[1].split(","))
    else:
        single = re.search(r"(?:^|, )(\w+) [^,]*PRIMARY KEY", body)
        assert single, body
        key = (single[1],)
    serial = re.search(r"(?:^|, )(\w+) bigint GENERATED", body)
    return Statement("create", table=found["table"], key=key, serial=serial[1] if serial else None)


_FORMS: tuple[tuple[str, Callable[[re.Match[str], _Parameters], Statement]], ...] = (
    (
        (
            r"SELECT (?P<distinct>DISTINCT )?(?P<columns>.+?) FROM (?P<table>[\w.]+)(?: WHERE (?P<where>.+?))?"
            r"(?: ORDER BY (?P<order>\w+)(?P<descending> DESC)?)?(?: LIMIT (?P<limit>\d+))?(?: OFFSET (?P<offset>\d+))?"
            r"(?P<lock> FOR UPDATE)?"
        ),
        _select,
    ),
    (
        (
            r"INSERT INTO (?P<table>[\w.]+) \((?P<columns>.+?)\) VALUES \((?P<values>.+)\)"
            r"(?: RETURNING (?P<returned>\w+))?"
        ),
        _insert,
    ),
    (r"UPDATE (?P<table>[\w.]+) SET (?P<set>.+) WHERE (?P<where>.+)", _update),
    (r"DELETE FROM (?P<table>[\w.]+) WHERE (?P<where>.+)", _delete),
    (r"CREATE TABLE IF NOT EXISTS (?P<table>[\w.]+) \((?P<body>.+)\)", _create),
)
