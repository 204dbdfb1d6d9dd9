"""DECIMAL's binary form, in row images and inside JSON."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["PRECISION_MAX", "SCALE_MAX", "decimal_groups", "decimal_reader", "decimal_text"]

# The servers' limits of DECIMAL(precision, scale).
PRECISION_MAX = 65
SCALE_MAX = 30
# Bytes of a group of 0 to 9 decimal digits (dig2bytes).
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


def decimal_groups(precision: int, scale: int) -> tuple[tuple[int, int], ...]:
    """The groups of digits of a DECIMAL(precision, scale), the high one first: bytes, and 10 to the count of digits."""
    whole = precision - scale
    digit_counts = [whole % 9] * bool(whole % 9) + [9] * (whole // 9)
    digit_counts += [9] * (scale // 9) + [scale % 9] * bool(scale % 9)
    return tuple((_DIGIT_BYTES[count], 10**count) for count in digit_counts)


def decimal_reader(precision: int, scale: int) -> tuple[int, Callable[[bytes], int]]:
    """How many bytes a DECIMAL(precision, scale) takes, and the function that reads exactly those.

    Groups of nine digits, four bytes each, big-endian, before and after the point; the odd digits are the first group
    before the point and the last one after it. The first bit is inverted; negative numbers have all bits inverted.
    Gives the number times 10**scale. Raises ValueError for a group with more than its digits.

    Source: MySQL strings/decimal.cc, decimal2bin and bin2decimal.
    """
    groups = decimal_groups(precision, scale)
    size = sum(group_size for group_size, _ in groups)
    all_ones = (1 << 8 * size) - 1
    sign_bit = 1 << (8 * size - 1)

    def read(raw: bytes) -> int:
        packed = int.from_bytes(raw, "big") ^ sign_bit
        is_negative = bool(packed & sign_bit)
        if is_negative:
            packed ^= all_ones
        digits = packed.to_bytes(size, "big")
        value = at = 0
        for group_size, limit in groups:
            group = int.from_bytes(digits[at : at + group_size], "big")
            if group >= limit:
                raise ValueError(f"0x{raw.hex()} is no decimal({precision},{scale})")
            value = value * limit + group
            at += group_size
        return -value if is_negative else value

    return size, read


def decimal_text(value: int, scale: int) -> str:
    """The number as the servers print it: all of its scale, no exponent."""
    digits = str(abs(value)).rjust(scale + 1, "0")
    text = f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits
    return f"-{text}" if value < 0 else text
