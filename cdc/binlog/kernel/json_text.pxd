from libc.stdint cimport uint8_t, uint64_t

from cdc.binlog.kernel.memory cimport bytes_t


# Both append to `out` and return 0, or return -1 (no such document, or no memory) with `out.size` as it was.
cdef int json_print(const uint8_t* document, size_t size, bytes_t* out) noexcept nogil
cdef int json_apply(
    const uint8_t* document, size_t size, const uint8_t* diffs, size_t diffs_size, bytes_t* out
) noexcept nogil

# The shortest decimal of a double that is finite and not zero: its digits as a number, and the power of ten.
cdef uint64_t shortest_digits(uint64_t fraction, int biased, int* exponent) noexcept nogil
