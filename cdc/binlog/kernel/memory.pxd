from libc.stdint cimport uint8_t


cdef struct bytes_t:
    # Bytes that grow. `data` is NULL while `capacity` is 0; it is 64-byte aligned and comes from the pool.
    uint8_t* data
    size_t size
    size_t capacity


cdef uint8_t* pool_take(size_t size, size_t* capacity) noexcept nogil
cdef void pool_give(uint8_t* data, size_t capacity) noexcept nogil
cdef size_t pool_refusals() noexcept nogil

cdef int bytes_grow(bytes_t* self, size_t more) noexcept nogil
cdef void bytes_free(bytes_t* self) noexcept nogil


cdef inline int bytes_reserve(bytes_t* self, size_t more) noexcept nogil:
    # Room for `more` bytes after `size`. -1 when there is no memory; nothing has changed then.
    if self.capacity - self.size >= more:
        return 0
    return bytes_grow(self, more)


cdef class Block:
    # A piece of pool memory that Python (pyarrow) reads by the buffer protocol; given back when nobody reads it.
    cdef uint8_t* data
    cdef size_t size
    cdef size_t capacity


cdef Block block_take_over(bytes_t* self)
