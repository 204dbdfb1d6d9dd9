"""What a reader of a log has read, in figures that do not depend on the order of rows: equal or not, no third way.

The servers' own SELECT says at making time what a log holds (logs.py); every reader says what it has read. The cheap
figures are taken in every timed run. `hash_sum` covers every byte of every value, and is taken in a run of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["HASH_HEX_DIGITS", "Summary"]

HASH_HEX_DIGITS = 12  # of the SHA-256 of an image's canonical text
_HASH_MASK = (1 << 64) - 1  # sums of them are compared as readers in other languages have them


@dataclass(slots=True)
class Summary:
    """Counts and sums over row images (an update has two).

    `amount_sum` is in units of the last digit of column `amount`; `text_bytes` are bytes of UTF-8 in the columns that
    the log names; `hash_sum` adds the hashes of the images' canonical texts (logs.py), None where it was not taken.
    """

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    id_sum: int = 0
    amount_sum: int = 0
    null_count: int = 0
    text_bytes: int = 0
    hash_sum: int | None = None

    @property
    def changes(self) -> int:
        """Row changes: an update is one."""
        return self.inserts + self.updates + self.deletes

    @property
    def images(self) -> int:
        """Row images: an update has two."""
        return self.inserts + 2 * self.updates + self.deletes

    def to_dict(self) -> dict[str, int | None]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Summary:
        """Ignores what it does not know: readers say more than this."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def differences(self, other: Summary) -> list[str]:
        """`name: mine, theirs` for every figure that both have and that differs."""
        found = []
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if None in (mine, theirs):
                continue
            if f.name == "hash_sum":
                mine, theirs = mine & _HASH_MASK, theirs & _HASH_MASK
            if mine != theirs:
                found.append(f"{f.name}: {mine}, {theirs}")
        return found
