"""Secrets that may change while the service runs: read again where they came from, once they are refused.

A password out of a file (`NAME_FILE`, `--env-file`) is rotated by writing that file; the process needs no restart.
Knows neither the configuration nor a driver: how to read is given by `cdc.config`, what is a refusal by those who
connect.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Never, TypeVar

__all__ = ["REST_SECONDS", "Password", "log_in"]

# A refused password is not shown again before this: several sessions of one service, each trying once a second, get an
# account locked (FAILED_LOGIN_ATTEMPTS, fail2ban) just when the new password comes.
REST_SECONDS: Final = 5.0

_T = TypeVar("_T")


class Password:
    """A text that does not show itself, and how to read it again. One object serves all sessions of a server.

    `read` gives the text as it is now at its source, or raises what it has to say of that in words that may be shown;
    None where the text cannot change (the process's own environment, the configuration file).
    """

    __slots__ = ("_clock", "_lock", "_read", "_refusal", "_value", "has_worked", "trouble")

    def __init__(
        self, value: str, read: Callable[[], str] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._value = value
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._refusal: tuple[type[Exception], tuple[object, ...], float] | None = None
        self.has_worked = False
        """Has a server taken it, this text or the one before?"""
        self.trouble = ""
        """Why it could not be read again the last time."""

    def reveal(self) -> str:
        """The text itself, for handing to a driver and nothing else."""
        return self._value

    @property
    def is_rereadable(self) -> bool:
        return self._read is not None

    @property
    def may_be_rotated(self) -> bool:
        """Did it work once, and can another come? Then a refusal may pass by itself."""
        return self.has_worked and self._read is not None

    def renew(self) -> bool:
        """Read it again; is it another one now? One that cannot be read stays as it is, and `trouble` says why."""
        if self._read is None:
            return False
        with self._lock:
            try:
                value = self._read()
            except Exception as error:  # noqa: BLE001 - a file in the middle of its rotation; told with the refusal
                self.trouble = str(error)
                return False
            self.trouble = ""
            is_new = value != self._value
            self._value = value
            if is_new:
                self._refusal = None
            return is_new

    def advice(self) -> str:
        """The beginning of a hint for a refusal that may pass; it ends before the name of the key."""
        read = f"could not be read again ({self.trouble})" if self.trouble else "was read again, and is the same"
        return f"the password worked before; it {read}: tried again by itself once another one stands in the file of "

    def took(self) -> None:
        """A server has taken it."""
        self.has_worked, self._refusal = True, None

    def was_refused(self, error: Exception) -> None:
        """A server has not. It is not shown again for REST_SECONDS, or until it is another one."""
        self._refusal = (type(error), error.args, self._clock() + REST_SECONDS)

    def check_rest(self) -> None:
        """Raises the last refusal again while it counts and no other text has come."""
        with self._lock:
            refusal = self._refusal
            if refusal is None or not self.may_be_rotated:
                return
            if (now := self._clock()) >= refusal[2]:  # whoever comes first tries for all
                self._refusal = (*refusal[:2], now + REST_SECONDS)
                return
        if not self.renew():
            raise refusal[0](*refusal[1])

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and other._value == self._value

    def __hash__(self) -> int:
        return hash(Password)  # the text may change

    def __repr__(self) -> str:
        return "Password('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __copy__(self) -> Password:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Password:
        return self

    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a Password is not pickled")


def log_in(password: Password | str, connect: Callable[[str], _T], is_refusal: Callable[[Exception], bool]) -> _T:
    """What `connect` gives with the password; where that is refused and another one has come, with that one.

    Raises what `connect` raises. A password that was refused is not tried again at once: the refusal is raised anew.
    """
    if isinstance(password, str):
        return connect(password)
    password.check_rest()
    used = password.reveal()
    try:
        session = connect(used)
    except Exception as error:
        if not is_refusal(error):
            # libpq tells a refusal by its text alone, which may be in any language.
            if not (password.may_be_rotated and password.renew()):
                raise
            session = connect(password.reveal())
            password.took()
            return session
        password.was_refused(error)
        if not password.renew() and password.reveal() == used:  # another thread may have read it meanwhile
            raise
        session = connect(password.reveal())
    password.took()
    return session
