"""What `cdc check` finds, and the tables of checks that find it.

Source and sinks each have one table of checks (`source/preflight.py`, `sinks/preflight.py`) over facts that were read
beforehand: a check reads facts and yields findings, and asks no server. docs/check.md is made of the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

__all__ = ["Check", "Finding", "Severity", "error", "info", "listed", "run", "warning"]

Severity = Literal["error", "warning", "info"]
LISTED_MAX = 12  # names in one message; more would hide the message itself

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        check: stable id, such as `source.binlog_format`.
        subject: which server or table.
        problem: what it is, and what it breaks.
        fix: the SQL or setting that mends it.
        exit_code: of `cdc check` when this is an error: 2 where the configuration is wrong, else 1.
    """

    severity: Severity
    check: str
    subject: str
    problem: str
    fix: str
    exit_code: Literal[1, 2] = 1

    def to_dict(self) -> dict[str, str]:
        """The finding in `cdc check --json`."""
        return {
            "severity": self.severity,
            "check": self.check,
            "subject": self.subject,
            "problem": self.problem,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class Check(Generic[Facts]):
    """One check: its id, what it looks for, what goes wrong without it, what mends it (the last three for the docs)."""

    id: str
    find: Callable[[Facts], Iterator[Finding]]
    looks: str
    breaks: str
    mends: str


def error(subject: object, problem: str, fix: str, *, is_configuration: bool = False) -> Finding:
    """What keeps the service from working, or makes it lose changes. `run` adds the check's id."""
    return Finding("error", "", str(subject), problem, fix, 2 if is_configuration else 1)


def warning(subject: object, problem: str, fix: str) -> Finding:
    """What works now and will break, or is dangerous."""
    return Finding("warning", "", str(subject), problem, fix)


def info(subject: object, problem: str, fix: str) -> Finding:
    """What is worth knowing, what could not be looked at included."""
    return Finding("info", "", str(subject), problem, fix)


def run(checks: Sequence[Check[Facts]], facts: Facts) -> list[Finding]:
    """Every finding of every check, in the table's order."""
    return [replace(finding, check=check.id) for check in checks for finding in check.find(facts)]


def listed(names: Sequence[object]) -> str:
    """`a, b and 7 more`."""
    shown = ", ".join(map(str, names[:LISTED_MAX]))
    return f"{shown} and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else shown
