"""Find the row that a sink refused, by trying ever shorter beginnings of a batch."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["first_refused"]


def first_refused(row_count: int, is_refused: Callable[[int], bool]) -> int | None:
    """Index of the first row without which a beginning of the batch would be taken; None when all is taken.

    `is_refused(n)` tries the first n rows and leaves no trace; it is called about log2(row_count) times. A row refused
    because of an earlier one (a duplicate) is found as the later of the two.
    """
    if row_count == 0 or not is_refused(row_count):
        return None
    taken, refused = 0, row_count
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if is_refused(middle):
            refused = middle
        else:
            taken = middle
    return refused - 1
