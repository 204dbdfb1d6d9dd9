"""What this process may have of the machine, descriptors and threads, and what to say where it has no more.

Knows no server: what fails for it looks like a server that is away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket

__all__ = ["NO_THREAD", "limit_hint"]

NO_THREAD = "can't start new thread"
_FILES = re.compile("too many open files", re.IGNORECASE)  # of the process, "in system" of the machine
_NAME = re.compile("name resolution|translate host name|getaddrinfo", re.IGNORECASE)
_FILES_HINT = (
    "no file descriptor is left: raise the limit of this process (ulimit -n; LimitNOFILE= of a systemd unit, --ulimit "
    "nofile of a container), or the machine's (fs.file-max)"
)
_THREADS_HINT = (
    "no thread is left: raise the limit of this process (ulimit -u; TasksMax= of a systemd unit, --pids-limit of a "
    "container)"
)
_CLIENT_FIRST, _CLIENT_LAST = 2000, 2999
_SEVERITY = re.compile(r"\b(?:FATAL|ERROR|PANIC):")
_LOOKUP_FILES = 4  # a name takes a few to be looked up


def limit_hint(error: BaseException) -> str:
    """What to do where a connection could not be opened for a limit of ours; empty where it was not that.

    What a server says is never that: it has limits of its own, and quotes values.
    """
    cause = getattr(error, "original_exception", None) or error
    text = str(error)
    if _is_of_server(error, text):
        return ""
    if NO_THREAD in text:
        return _THREADS_HINT
    if (isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)) or _FILES.search(text):
        return _FILES_HINT
    # The resolver does not say why it failed, and libpq, which has no socket, nothing at all.
    is_untold = not text.strip() or isinstance(cause, socket.gaierror) or _NAME.search(text) is not None
    return _FILES_HINT if is_untold and not _may_open(_LOOKUP_FILES) else ""


def _is_of_server(error: BaseException, text: str) -> bool:
    """Drivers of MySQL number what they say themselves from 2000 to 2999; libpq's own words have no severity."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) and not isinstance(error, OSError) else 0
    is_numbered = number > 0 and not _CLIENT_FIRST <= number <= _CLIENT_LAST
    return is_numbered or _SEVERITY.search(text) is not None


def _may_open(count: int) -> bool:
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True
