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
_LOOKUP_FILES = 4  # a name takes a few to be looked up


def limit_hint(error: BaseException) -> str:
    """What to do where a connection could not be opened for a limit of ours; empty where it was not that."""
    cause = getattr(error, "original_exception", None) or error
    text = str(error)
    if NO_THREAD in text:
        return _THREADS_HINT
    if (isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)) or _FILES.search(text):
        return _FILES_HINT
    # The resolver does not say why it failed, and libpq, which has no socket, nothing at all.
    is_untold = not text.strip() or isinstance(cause, socket.gaierror) or _NAME.search(text) is not None
    return _FILES_HINT if is_untold and not _may_open(_LOOKUP_FILES) else ""


def _may_open(count: int) -> bool:
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True
