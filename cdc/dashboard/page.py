"""The page at `/dashboard`: files of this package, served as they are.

The page asks `/api/status` itself, so nothing is put into it here and there is nothing to escape.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Final

__all__ = ["Asset", "assets"]

# Paths are relative in the page, so that it also works behind a proxy that puts it under a prefix.
_FILES: Final = (
    ("/dashboard", "page.html", "text/html"),
    ("/dashboard/page.js", "page.js", "text/javascript"),
    ("/dashboard/page.css", "page.css", "text/css"),
    ("/dashboard/icon.svg", "icon.svg", "image/svg+xml"),
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page and where it is served."""

    path: str
    content: bytes
    media_type: str


def assets() -> list[Asset]:
    """Every file of the page."""
    package = resources.files("cdc.dashboard")
    return [Asset(path, package.joinpath(file).read_bytes(), media_type) for path, file, media_type in _FILES]
