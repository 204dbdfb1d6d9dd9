"""Row filters: which rows of a table go to the sinks, as a condition over the columns of one row.

    condition   column = literal, also <> != < <= > >=, with the literal on either side
                column [NOT] IN (literal, ...), column [NOT] BETWEEN literal AND literal
                column IS [NOT] NULL
                column                       a number that is not 0
                NOT condition, condition AND condition, condition OR condition, (condition)
    literal     a number, 'text', x'hex', TRUE and FALSE (1 and 0)

Conditions are true, false or unknown, as in SQL: what compares with NULL is unknown, and a row goes to the sinks where
the whole is true. The text is MySQL's; sqlglot parses it. Knows no table: `schema.filters` gives literals their
columns' types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

__all__ = ["Both", "Compare", "Condition", "Either", "IsNull", "IsTrue", "Not", "OneOf", "RowFilter", "parse_filter"]

Operator = Literal["=", "<>", "<", "<=", ">", ">="]
# As written; after `schema.filters.bind` in the form in which the column's values travel (`cdc.model`).
Value = Decimal | str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Compare:
    """`column operator value`."""

    column: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """`column IN (values)`."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """`column IS NULL`."""

    column: str


@dataclass(frozen=True, slots=True)
class IsTrue:
    """`column`: a number other than 0."""

    column: str


@dataclass(frozen=True, slots=True)
class Not:
    """`NOT operand`."""

    operand: Condition


@dataclass(frozen=True, slots=True)
class Both:
    """`left AND right`."""

    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True)
class Either:
    """`left OR right`."""

    left: Condition
    right: Condition


Condition = Compare | OneOf | IsNull | IsTrue | Not | Both | Either


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A condition, and its text in one spelling."""

    text: str
    condition: Condition

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return tuple(dict.fromkeys(_columns(self.condition)))


def _columns(condition: Condition) -> Iterator[str]:
    match condition:
        case Both(left, right) | Either(left, right):
            yield from _columns(left)
            yield from _columns(right)
        case Not(operand):
            yield from _columns(operand)
        case _:
            yield condition.column


# ---------------------------------------------------------------- parsing

# Imported late: a service without filters does without the parser's memory.
_COMPARISONS: dict[str, tuple[Operator, Operator]] = {  # by node: itself, and with its sides exchanged
    "EQ": ("=", "="),
    "NEQ": ("<>", "<>"),
    "LT": ("<", ">"),
    "LTE": ("<=", ">="),
    "GT": (">", "<"),
    "GTE": (">=", "<="),
}
_KNOWN = "known are comparisons of a column with a literal, IN, BETWEEN, IS NULL, AND, OR, NOT and parentheses"


def parse_filter(text: str) -> RowFilter:
    """Raises ValueError, saying what is not understood."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        found = sqlglot.parse(text, read="mysql")
    except SqlglotError as error:
        place = getattr(error, "errors", [])
        near = f" near {place[0].get('highlight')!r}" if place and place[0].get("highlight") else ""
        raise ValueError(f"is no condition{near}: {_KNOWN}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if len(found) != 1 or found[0] is None:
        raise ValueError(f"is not one condition: {_KNOWN}")
    try:
        return RowFilter(found[0].sql(dialect="mysql", comments=False), _condition(found[0]))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _condition(node: Any) -> Condition:
    kind = type(node).__name__
    match kind:
        case "Paren":
            _only(node, "this")
            return _condition(node.this)
        case "And" | "Or":
            _only(node, "this", "expression")
            make = Both if kind == "And" else Either
            return make(_condition(node.this), _condition(node.expression))
        case "Not":
            _only(node, "this")
            return Not(_condition(node.this))
        case "Is":
            _only(node, "this", "expression")
            if type(node.expression).__name__ == "Null":
                return IsNull(_column(node.this))
        case "In":
            _only(node, "this", "expressions")
            if not node.expressions:
                raise _not_known(node)
            return OneOf(_column(node.this), tuple(map(_literal, node.expressions)))
        case "Between":
            _only(node, "this", "low", "high")
            column = _column(node.this)
            return Both(
                Compare(column, ">=", _literal(node.args["low"])), Compare(column, "<=", _literal(node.args["high"]))
            )
        case "Column":
            return IsTrue(_column(node))
        case _ if kind in _COMPARISONS:
            _only(node, "this", "expression")
            if type(node.this).__name__ == "Column":
                return Compare(_column(node.this), _COMPARISONS[kind][0], _literal(node.expression))
            if type(node.expression).__name__ == "Column":
                return Compare(_column(node.expression), _COMPARISONS[kind][1], _literal(node.this))
    raise _not_known(node)


def _only(node: Any, *names: str) -> None:
    """A node may say no more than what is read here."""
    if any(value not in (None, False, []) for name, value in node.args.items() if name not in names):
        raise _not_known(node)


def _column(node: Any) -> str:
    if type(node).__name__ != "Column":
        raise _not_known(node)
    _only(node, "this")
    if type(node.this).__name__ != "Identifier":
        raise _not_known(node)
    return str(node.name)


def _literal(node: Any) -> Value:
    match type(node).__name__:
        case "Literal":
            return str(node.this) if node.is_string else _number(node)
        case "Neg":
            value = _literal(node.this)
            if isinstance(value, Decimal):
                return -value
        case "Boolean":
            return Decimal(int(node.this))
        case "HexString" if len(str(node.this)) % 2 == 0:
            return bytes.fromhex(str(node.this))
        case "Null":
            raise ValueError("nothing equals NULL: write IS NULL or IS NOT NULL")
    raise _not_known(node)


def _number(node: Any) -> Decimal:
    try:
        return Decimal(str(node.this))
    except ArithmeticError:
        raise _not_known(node) from None


def _not_known(node: Any) -> ValueError:
    return ValueError(f"{node.sql(dialect='mysql', comments=False)[:80]!r} is not known here: {_KNOWN}")
