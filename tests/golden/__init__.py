"""Small binlog files of real servers, and what those servers said that was in their tables then."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
DATABASE = "golden"
BYTES_MAX = 20_000
