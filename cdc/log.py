"""Structured logs: a static event name and fields, one line per unit of work, on stderr.

JSON unless stderr is a terminal. Secrets never get here: settings hold them in types that do not print, and every
line passes a last filter that blanks passwords in anything that looks like a URL.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import structlog

__all__ = ["Logger", "configure_logging", "scrub"]

Logger = structlog.stdlib.BoundLogger

_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/]*@", re.IGNORECASE)


def scrub(text: str) -> str:
    """The text with passwords of URLs blanked."""
    return _URL_PASSWORD.sub(r"\1:***@", text)


def _scrub_fields(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = scrub(value)
    return fields


def _write_traceback(out: TextIO, exc_info: Any) -> None:
    """Plain: colours and wrapped lines would tear apart what is to be blanked."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(scrub(text.getvalue()))


class _Stderr:
    """What stderr is at each line: bars on a terminal take its place while they are shown, and stay below the lines."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logging(level: str = "info", form: Literal["auto", "json", "console"] = "auto") -> Logger:
    """Set up logging for the process; the root logger of the service."""
    is_console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any
    if is_console:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
    else:
        renderer = structlog.processors.JSONRenderer()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if is_console else [structlog.processors.format_exc_info]),
        _scrub_fields,
        renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(_Stderr()),  # type: ignore[arg-type]  # what it uses of a file
        cache_logger_on_first_use=False,
    )
    logger: Logger = structlog.get_logger()
    return logger
