"""MySQL's binary JSON as the text that the server's own SELECT prints."""

from __future__ import annotations


def json_text(raw: bytes) -> str:
    raise NotImplementedError
