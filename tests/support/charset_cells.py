"""What a server makes of byte sequences in one of its charsets: the oracle of cdc/binlog/charsets.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["sequences_of", "server_texts"]

_PER_QUERY = 512


def server_texts(cursor: Any, charset: str, sequences: Sequence[bytes]) -> Iterator[tuple[bytes, str | None]]:
    """Each sequence with the text that the server converts it to; None where it cannot.

    "Cannot" shows as NULL, as a `?` or U+FFFD that is not in the sequence, or, for a character cut off at its end, as
    nothing at all.
    """
    for start in range(0, len(sequences), _PER_QUERY):
        part = sequences[start : start + _PER_QUERY]
        cells = ", ".join(
            f"HEX(CONVERT(CONVERT(x'{sequence.hex()}' USING {charset}) USING utf8mb4))" for sequence in part
        )
        cursor.execute(f"SELECT {cells}")
        for sequence, value in zip(part, cursor.fetchone(), strict=True):
            yield sequence, _text(sequence, value)


def _text(sequence: bytes, value: str | None) -> str | None:
    if not value:
        return None
    text = bytes.fromhex(value).decode("utf-8", "surrogatepass")
    is_loss = text.count("?") > sequence.count(b"?") or "\ufffd" in text
    return None if is_loss or any("\ud800" <= one <= "\udfff" for one in text) else text


def sequences_of(charset: str, bytes_max: int) -> Iterator[bytes]:
    """All sequences of one and two bytes, and those of three that can begin a character of three."""
    yield from (bytes((one,)) for one in range(256))
    if bytes_max > 1:
        yield from (bytes((one, two)) for one in range(256) for two in range(256))
    if charset in ("ujis", "eucjpms"):
        yield from (bytes((0x8F, two, three)) for two in range(256) for three in range(256))
