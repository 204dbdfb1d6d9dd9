"""Arrow buffers read once, by a few lines of C: what a reader makes of its batches must not cost what decoding costs.

Arrow's own compute kernels took 8 in 100 of the time of the bulk log, and their import 50 ms of every run.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa

__all__ = ["BufferReader", "build"]

_SOURCE = Path(__file__).with_suffix(".c")
_LIBRARY = Path(__file__).resolve().parent.parent / "var" / "benchmarks" / "programs" / "buffers.so"
_SUMS = {pa.int32(): "cdc_bench_int32", pa.uint32(): "cdc_bench_uint32", pa.int64(): "cdc_bench_int64"}


def build() -> Path:
    """Compile the library where it is older than its source. Raises OSError, CalledProcessError."""
    if not _LIBRARY.exists() or _LIBRARY.stat().st_mtime < _SOURCE.stat().st_mtime:
        _LIBRARY.parent.mkdir(parents=True, exist_ok=True)
        compiler = shutil.which("cc") or "gcc"
        command = [compiler, "-O3", "-shared", "-fPIC", "-o", str(_LIBRARY), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True)
    return _LIBRARY


class BufferReader:
    """Reads arrays. `rest` keeps the sums that nobody asks for, so that the reading is not in vain."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(build()))
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._words = library.cdc_bench_words
        self._words.argtypes, self._words.restype = [pointer, count], ctypes.c_uint64
        self._count = library.cdc_bench_count
        self._count.argtypes, self._count.restype = [pointer, count, ctypes.c_uint8], count
        self._decimals = library.cdc_bench_decimal128
        self._decimals.argtypes = [pointer, count, count, pointer, pointer]
        self._decimals.restype = None
        self._sums = {}
        for arrow_type, name in _SUMS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = [pointer, count, count, pointer], count
            self._sums[arrow_type] = function
        self.rest = 0

    def count(self, array: pa.Array, wanted: int) -> int:
        """How many values of a uint8 array without nulls are `wanted`."""
        _validity, content = array.buffers()
        return int(self._count(content.address + array.offset, len(array), wanted))

    def integer_sum(self, array: pa.Array) -> int:
        """The sum of the values that are not null; int32, uint32 and int64. Wraps at 64 bits."""
        validity, content = array.buffers()
        at = validity.address if validity is not None else None
        return int(self._sums[array.type](content.address, array.offset, len(array), at))

    def decimal_sum(self, array: pa.Array) -> int:
        """The sum of the values of a decimal128 array that are not null, in units of the last digit."""
        validity, content = array.buffers()
        halves = (ctypes.c_uint64 * 2)()
        at = validity.address if validity is not None else None
        self._decimals(content.address, array.offset, len(array), at, halves)
        return int.from_bytes(bytes(halves), "little", signed=True)

    def read_fixed(self, array: pa.Array) -> None:
        """Read the values of an array whose values all have one width."""
        content = array.buffers()[1]
        width = array.type.bit_width // 8
        self.rest ^= self._words(content.address + array.offset * width, len(array) * width)

    def read_text(self, array: pa.Array) -> int:
        """Read the bytes of a large_string or large_binary array; how many there are."""
        _validity, offsets, content = array.buffers()
        first = offsets.address + array.offset * 8
        start = ctypes.c_int64.from_address(first).value
        end = ctypes.c_int64.from_address(first + len(array) * 8).value
        self.rest ^= self._words(first, (len(array) + 1) * 8)
        if end > start:
            self.rest ^= self._words(content.address + start, end - start)
        return end - start
