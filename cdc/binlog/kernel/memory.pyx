"""Memory for columns: taken from a pool of blocks, handed to Arrow without a copy, given back when Arrow is done.

The pages of a fresh block cost more to touch for the first time than its rows cost to decode (measured: 1.05 against
1.42 times the fetch of the log), so blocks go round. One pool for the process, guarded by a mutex: blocks are taken by
reader threads without the GIL and given back by whatever thread drops the last reference.

Blocks are powers of two from 4 KiB on. The pool keeps at most KEPT_BYTES_MAX of them, and none above BLOCK_BYTES_MAX:
what is larger goes back to the system at once. They begin at different places of a page, line by line of the cache:
row n of ten columns of one width would else lie in one and the same set of the first-level cache, which has eight ways
(measured: 2.0 against 0.95 ns a value).
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** block, size_t alignment, size_t size)

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)

cdef extern from *:
    """
    #if defined(__SANITIZE_ADDRESS__)
    #define CDC_SANITIZED 1
    #else
    #define CDC_SANITIZED 0
    #endif
    """
    # Then small blocks are as large as asked for and none is kept: the sanitizer sees what is read too far, or late.
    bint SANITIZED "CDC_SANITIZED"

__all__ = ["Block", "drop_kept", "kept_bytes", "live_bytes"]

cdef enum:
    SMALLEST_BITS = 12
    LARGEST_BITS = 23
    LINE_BYTES = 64
    PAGE_BYTES = 4096

cdef size_t BLOCK_BYTES_MAX = <size_t> 1 << LARGEST_BITS
cdef size_t KEPT_BYTES_MAX = <size_t> 24 << 20
# Larger than any event with all that it can inflate to: a request above it is a bug or a lie.
cdef size_t REQUEST_BYTES_MAX = <size_t> 1 << 40

cdef struct free_t:
    free_t* next

cdef pthread_mutex_t mutex
cdef free_t* kept[LARGEST_BITS + 1]
cdef size_t kept_total = 0
cdef size_t live_total = 0
# Where in its page the next fresh block begins.
cdef size_t next_line = 0

pthread_mutex_init(&mutex, NULL)


cdef int _class_of(size_t size) noexcept nogil:
    cdef int bits = SMALLEST_BITS
    while (<size_t> 1 << bits) < size:
        bits += 1
    return bits


cdef uint8_t* pool_take(size_t size, size_t* capacity) noexcept nogil:
    """A block of at least `size` bytes, its contents undefined; NULL when there is no memory."""
    global kept_total, live_total, next_line
    cdef int bits
    cdef free_t* block
    cdef void* fresh = NULL
    cdef size_t line
    if size > REQUEST_BYTES_MAX:
        return NULL
    bits = _class_of(size)
    capacity[0] = <size_t> 1 << bits
    if SANITIZED and bits == SMALLEST_BITS and size > 0:
        capacity[0] = size
    pthread_mutex_lock(&mutex)
    live_total += capacity[0]
    if bits <= LARGEST_BITS and kept[bits] != NULL:
        block = kept[bits]
        kept[bits] = block.next
        kept_total -= capacity[0]
        pthread_mutex_unlock(&mutex)
        return <uint8_t*> block
    line = next_line
    next_line = (line + LINE_BYTES) % PAGE_BYTES
    pthread_mutex_unlock(&mutex)
    if SANITIZED:
        line = 0
        if posix_memalign(&fresh, LINE_BYTES, capacity[0]) != 0:
            fresh = NULL
    elif posix_memalign(&fresh, PAGE_BYTES, capacity[0] + PAGE_BYTES) != 0:
        fresh = NULL
    if fresh == NULL:
        pthread_mutex_lock(&mutex)
        live_total -= capacity[0]
        pthread_mutex_unlock(&mutex)
        return NULL
    return <uint8_t*> fresh + line


cdef inline void _release(void* block) noexcept nogil:
    """Give a block to the system: it begins with the page that `block` is in."""
    if SANITIZED:
        free(block)
    else:
        free(<void*> (<uintptr_t> block & ~<uintptr_t> (PAGE_BYTES - 1)))


cdef void pool_give(uint8_t* data, size_t capacity) noexcept nogil:
    """Take a block back. NULL is none."""
    global kept_total, live_total
    cdef free_t* block = <free_t*> data
    cdef int bits
    if data == NULL:
        return
    bits = _class_of(capacity)
    pthread_mutex_lock(&mutex)
    live_total -= capacity
    if not SANITIZED and bits <= LARGEST_BITS and kept_total + capacity <= KEPT_BYTES_MAX:
        block.next = kept[bits]
        kept[bits] = block
        kept_total += capacity
        block = NULL
    pthread_mutex_unlock(&mutex)
    if block != NULL:
        _release(block)


cdef int bytes_grow(bytes_t* self, size_t more) noexcept nogil:
    """Move to a block with room for `more` bytes after `size`; -1, and nothing changed, when there is no memory."""
    cdef size_t capacity
    cdef uint8_t* data
    if more > REQUEST_BYTES_MAX:
        return -1
    data = pool_take(self.size + more, &capacity)
    if data == NULL:
        return -1
    if self.size:
        memcpy(data, self.data, self.size)
    pool_give(self.data, self.capacity)
    self.data = data
    self.capacity = capacity
    return 0


cdef void bytes_free(bytes_t* self) noexcept nogil:
    """Give the memory back; `self` is empty afterwards."""
    pool_give(self.data, self.capacity)
    self.data = NULL
    self.size = 0
    self.capacity = 0


cdef class Block:
    """Bytes for Arrow. Read-only from Python, `size` of them."""

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 1, flags)

    def __len__(self):
        return self.size

    def __dealloc__(self):
        pool_give(self.data, self.capacity)


cdef Block block_take_over(bytes_t* self):
    """What `self` holds as a Block; `self` is empty afterwards."""
    cdef Block block = Block.__new__(Block)
    block.data = self.data
    block.size = self.size
    block.capacity = self.capacity
    self.data = NULL
    self.size = 0
    self.capacity = 0
    return block


def live_bytes() -> int:
    """Bytes in blocks that somebody holds."""
    return live_total


def kept_bytes() -> int:
    """Bytes in blocks that wait in the pool."""
    return kept_total


def drop_kept() -> None:
    """Give the pool's blocks to the system."""
    global kept_total
    cdef free_t* block
    cdef int bits
    for bits in range(SMALLEST_BITS, LARGEST_BITS + 1):
        while True:
            pthread_mutex_lock(&mutex)
            block = kept[bits]
            if block != NULL:
                kept[bits] = block.next
                kept_total -= <size_t> 1 << bits
            pthread_mutex_unlock(&mutex)
            if block == NULL:
                break
            _release(block)
