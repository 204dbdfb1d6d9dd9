"""One bounds-checked way to read bytes: every decoder of rare things moves through a `Cursor`.

Whatever the bytes say, a read gives a value from inside the window or raises MalformedEvent: no IndexError, no
struct.error, no allocation larger than the window. Row images, which are many, have decoders of their own
(rows.py) that keep the same promise.
"""

from __future__ import annotations

from cdc.errors import MalformedEvent

__all__ = ["Cursor"]

Buffer = bytes | memoryview


class Cursor:
    """A read position in a window of bytes.

    `what` names the thing being read, for messages.
    """

    __slots__ = ("data", "end", "pos", "what")

    def __init__(self, data: Buffer, what: str) -> None:
        self.data = data
        self.pos = 0
        self.end = len(data)
        self.what = what

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return self.end - self.pos

    def fail(self, problem: str) -> MalformedEvent:
        """The error for what was found here; the caller raises it."""
        return MalformedEvent(f"{self.what}: {problem} at byte {self.pos} of {self.end}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, copied."""
        end = self.pos + count
        if count < 0 or end > self.end:
            raise self.fail(f"needs {count} bytes, has {self.left}")
        piece = bytes(self.data[self.pos : end])
        self.pos = end
        return piece

    def skip(self, count: int) -> None:
        """Move over `count` bytes."""
        if count < 0 or count > self.left:
            raise self.fail(f"needs {count} bytes, has {self.left}")
        self.pos += count

    def rest(self) -> bytes:
        """All that is left, copied."""
        return self.take(self.left)

    def window(self, count: int, what: str) -> Cursor:
        """A cursor over the next `count` bytes, which this one moves over."""
        end = self.pos + count
        if count < 0 or end > self.end:
            raise self.fail(f"{what} needs {count} bytes, has {self.left}")
        inner = Cursor(self.data[self.pos : end], what)
        self.pos = end
        return inner

    def uint(self, count: int) -> int:
        """An unsigned little-endian integer of `count` bytes."""
        return int.from_bytes(self.take(count), "little")

    def lenenc(self) -> int:
        """A length-encoded integer: 0 to 250, or 252, 253, 254 and 2, 3, 8 bytes. 251 and 255 are not lengths."""
        first = self.uint(1)
        if first < 251:
            return first
        if first == 252:
            return self.uint(2)
        if first == 253:
            return self.uint(3)
        if first == 254:
            return self.uint(8)
        raise self.fail(f"{first:#x} is not a length")

    def varlen(self) -> int:
        """An unsigned integer of mysql::serialization.

        The count of low one-bits in the first byte says how many bytes follow; the rest of all bytes, little-endian,
        is the value: `x xxxxxx0` one byte, `...01` two, up to `11111111` nine (then all value bits are in the last 8).
        Source: MySQL libs/mysql/serialization/variable_length_integers.h.
        """
        first = self.uint(1)
        extra = 0
        while extra < 8 and first >> extra & 1:
            extra += 1
        value = first >> (extra + 1)
        if extra:
            value |= self.uint(extra) << max(0, 7 - extra)
        return value

    def expect_end(self) -> None:
        """Raise when bytes are left over."""
        if self.left:
            raise self.fail(f"{self.left} bytes left over")
