"""Who gives a command, as records and leases name him."""

from __future__ import annotations

import os
import pwd
import socket
from typing import NoReturn

import pytest

from cdc.commands.asker import asker


def test_a_user_without_a_name_is_its_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert asker() == f"{os.getuid()}@{socket.gethostname()}"
    monkeypatch.setenv("LOGNAME", "ann")
    assert asker() == f"ann@{socket.gethostname()}"
