"""Who gives a command: what its leases, records and questions say."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["asker"]


def asker() -> str:
    """`user@host`. A container often runs as a uid that has no name there: the uid is what it says then."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
