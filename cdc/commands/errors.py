"""How an error is said to the operator: one line of cause, one of hint, on stderr."""

from __future__ import annotations

import sys

from cdc.errors import CdcError
from cdc.log import scrub

__all__ = ["say_error", "say_failure"]


def say_error(error: CdcError, prefix: str = "") -> None:
    """No traceback: the operator can act on it."""
    sys.stderr.write(f"cdc: {prefix}{scrub(error.message)}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {scrub(error.hint)}\n")


def say_failure(name: str, error: BaseException) -> int:
    """What the run of a sink ended with, also our own bugs; the exit code."""
    if isinstance(error, CdcError):
        say_error(error, f"{name}: ")
        return error.exit_code
    sys.stderr.write(f"cdc: {name}: {type(error).__name__}: {scrub(str(error))}\n")
    return 1
