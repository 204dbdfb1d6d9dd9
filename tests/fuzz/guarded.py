"""Bytes that end where memory ends: whoever reads one byte further gets a segmentation fault, in any build."""

from __future__ import annotations

import ctypes
import mmap

__all__ = ["guarded"]

_SIZE = 4 << 20
_PAGE = mmap.PAGESIZE


def _mapping() -> mmap.mmap:
    """Memory of `_SIZE` bytes, and behind it a page that nobody may touch."""
    memory = mmap.mmap(-1, _SIZE + _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start + _SIZE), ctypes.c_size_t(_PAGE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return memory


_MEMORY = _mapping()


def guarded(raw: bytes) -> memoryview:
    """`raw` at the end of the mapping, read-only; the next call overwrites it. Larger ones are given as they are."""
    if len(raw) > _SIZE:
        return memoryview(raw)
    _MEMORY[_SIZE - len(raw) : _SIZE] = raw
    return memoryview(_MEMORY)[_SIZE - len(raw) : _SIZE].toreadonly()
