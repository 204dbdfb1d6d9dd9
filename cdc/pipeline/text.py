"""Times as people and JSON read them."""

from __future__ import annotations

import datetime

__all__ = ["iso_time"]


def iso_time(microseconds: int | None) -> str | None:
    """Microseconds since the epoch as ISO 8601 in UTC, `2026-01-31T12:00:00.123456Z`; None stays None."""
    if microseconds is None:
        return None
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=microseconds)
    return moment.isoformat().replace("+00:00", "Z")
