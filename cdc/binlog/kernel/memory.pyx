"""Memory for columns: taken from a pool of blocks, handed to Arrow without a copy, given back when Arrow is done.

The pages of a fresh block cost more to touch for the first time than its rows cost to decode (measured: 1.05 against
1.42 times the fetch of the log), so blocks go round. One pool for the process, guarded by a mutex: blocks are taken by
reader threads without the GIL and given back by whatever thread drops the last reference.

Blocks are powers of two from 4 KiB on, and from 64 KiB on also five, six and seven quarters of these, so that what is
known to be needed is had with little beyond it: the rest of a block that goes round has been touched before, and is
memory that nobody else has. The pool keeps at most KEPT_BYTES_MAX of them, and none above BLOCK_BYTES_MAX: what is
larger goes back to the system at once (really there, for large blocks are mappings of their own). Where much is kept,
a large block that is not there is made instead of others that are: batches of another size would else leave theirs
behind for good (measured: 22 MB kept beside 47 MB in use). Blocks begin at different places of a page, line by line of
the cache: row n of ten columns of one width would else lie in one and the same set of the first-level cache, which has
eight ways (measured: 2.0 against 0.95 ns a value).
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** block, size_t alignment, size_t size)

cdef extern from "sys/mman.h" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
    void* MAP_FAILED
    void* mmap(void* at, size_t size, int protection, int flags, int file, ssize_t offset)
    int munmap(void* at, size_t size)

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
    QUARTERS_BITS = 16      # from this size on there are sizes between the powers of two
    MAPPED_BITS = 17        # blocks larger than this are mapped
    LARGEST_BITS = 23
    LARGE = 4 * QUARTERS_BITS   # the first class with quarters
    NEARBY = 1              # classes above the one asked for that will do
    CLASSES = 4 * LARGEST_BITS + 1
    LINE_BYTES = 64
    PAGE_BYTES = 4096

cdef size_t BLOCK_BYTES_MAX = <size_t> 1 << LARGEST_BITS
cdef size_t KEPT_BYTES_MAX = <size_t> 24 << 20
# Below, no block has to go for another: batches of changing sizes would make and touch theirs again and again.
cdef size_t KEPT_BYTES_MIN = <size_t> 8 << 20
# Larger than any event with all that it can inflate to: a request above it is a bug or a lie.
cdef size_t REQUEST_BYTES_MAX = <size_t> 1 << 40

cdef struct free_t:
    free_t* next
    size_t capacity

cdef pthread_mutex_t mutex
cdef free_t* kept[CLASSES]
cdef size_t kept_total = 0
cdef size_t live_total = 0
# Where in its page the next fresh block begins.
cdef size_t next_line = 0
cdef size_t refused_total = 0

pthread_mutex_init(&mutex, NULL)


cdef int _class_of(size_t size, size_t* capacity) noexcept nogil:
    """Of the smallest blocks with `size` bytes: four times the power of two, and how many quarters more."""
    cdef int bits = SMALLEST_BITS, quarters
    cdef size_t step
    while (<size_t> 1 << bits) < size:
        bits += 1
    if bits <= QUARTERS_BITS:
        capacity[0] = <size_t> 1 << bits
        return 4 * bits
    step = <size_t> 1 << (bits - 3)
    quarters = <int> ((size + step - 1) // step) - 4
    capacity[0] = step * (4 + quarters)
    return 4 * (bits - 1) + quarters


cdef uint8_t* _fresh(size_t capacity, size_t line) noexcept nogil:
    """A block from the system that begins `line` bytes into a page; NULL when there is no memory."""
    cdef void* block = NULL
    if SANITIZED:
        return <uint8_t*> block if posix_memalign(&block, LINE_BYTES, capacity) == 0 else NULL
    if capacity > <size_t> 1 << MAPPED_BITS:
        block = mmap(NULL, capacity + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        return <uint8_t*> block + line if block != MAP_FAILED else NULL
    return <uint8_t*> block + line if posix_memalign(&block, PAGE_BYTES, capacity + PAGE_BYTES) == 0 else NULL


cdef void _release(void* block, size_t capacity) noexcept nogil:
    """Give a block to the system: it begins with the page that `block` is in."""
    cdef void* start = <void*> (<uintptr_t> block & ~<uintptr_t> (PAGE_BYTES - 1))
    if SANITIZED:
        free(block)
    elif capacity > <size_t> 1 << MAPPED_BITS:
        munmap(start, capacity + PAGE_BYTES)
    else:
        free(start)


cdef free_t* _pop(int number) noexcept nogil:
    """A kept block of that class, or NULL. The mutex is held."""
    global kept_total
    cdef free_t* block = kept[number]
    if block != NULL:
        kept[number] = block.next
        kept_total -= block.capacity
    return block


cdef free_t* _evicted(size_t size) noexcept nogil:
    """Large kept blocks of so many bytes, the largest first, as far as there are any. The mutex is held."""
    cdef free_t* evicted = NULL
    cdef free_t* block
    cdef size_t total = 0
    cdef int number = CLASSES
    while number > LARGE and total < size:
        number -= 1
        while total < size:
            block = _pop(number)
            if block == NULL:
                break
            total += block.capacity
            block.next = evicted
            evicted = block
    return evicted


cdef void _release_all(free_t* blocks) noexcept nogil:
    cdef free_t* block
    while blocks != NULL:
        block = blocks
        blocks = block.next
        _release(block, block.capacity)


cdef uint8_t* pool_take(size_t size, size_t* capacity) noexcept nogil:
    """A block of at least `size` bytes, its contents undefined; NULL when there is no memory."""
    global live_total, next_line, refused_total
    cdef int number, last
    cdef free_t* block = NULL
    cdef free_t* evicted = NULL
    cdef uint8_t* fresh
    cdef size_t line
    if size > REQUEST_BYTES_MAX:
        refused_total += 1
        return NULL
    number = _class_of(size, capacity)
    if SANITIZED and 0 < size and number == 4 * SMALLEST_BITS:
        capacity[0] = size
    last = number + NEARBY if number > LARGE else number
    pthread_mutex_lock(&mutex)
    while block == NULL and number <= last and number < CLASSES:
        block = _pop(number)
        number += 1
    if block != NULL:
        capacity[0] = block.capacity
        live_total += block.capacity
        pthread_mutex_unlock(&mutex)
        return <uint8_t*> block
    live_total += capacity[0]
    line = next_line
    next_line = (line + LINE_BYTES) % PAGE_BYTES
    if last > LARGE and kept_total > KEPT_BYTES_MIN:
        evicted = _evicted(capacity[0])
    pthread_mutex_unlock(&mutex)
    _release_all(evicted)
    fresh = _fresh(capacity[0], line)
    if fresh == NULL:
        pthread_mutex_lock(&mutex)
        live_total -= capacity[0]
        refused_total += 1
        pthread_mutex_unlock(&mutex)
    return fresh


cdef size_t pool_refusals() noexcept nogil:
    """How many requests there was no memory for, by whomever: where it has changed, one may be the caller's."""
    return refused_total


cdef void pool_give(uint8_t* data, size_t capacity) noexcept nogil:
    """Take a block back. NULL is none."""
    global kept_total, live_total
    cdef free_t* block = <free_t*> data
    cdef size_t same
    cdef int number
    if data == NULL:
        return
    number = _class_of(capacity, &same)
    pthread_mutex_lock(&mutex)
    live_total -= capacity
    if not SANITIZED and number < CLASSES and kept_total + capacity <= KEPT_BYTES_MAX:
        block.capacity = capacity
        block.next = kept[number]
        kept[number] = block
        kept_total += capacity
        block = NULL
    pthread_mutex_unlock(&mutex)
    if block != NULL:
        _release(block, capacity)


cdef int bytes_grow(bytes_t* self, size_t more) noexcept nogil:
    """Move to a block with room for `more` bytes after `size`; -1, and nothing changed, when there is no memory.

    What grows by little at a time grows by half, so that it is not moved each time.
    """
    cdef size_t capacity, wanted
    cdef uint8_t* data
    if more > REQUEST_BYTES_MAX:
        return -1
    wanted = self.size + more
    if wanted < self.capacity + self.capacity // 2 and more < self.capacity // 2:
        wanted = self.capacity + self.capacity // 2
    data = pool_take(wanted, &capacity)
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
    cdef free_t* blocks = NULL
    cdef free_t* block
    cdef int number
    pthread_mutex_lock(&mutex)
    for number in range(CLASSES):
        while True:
            block = _pop(number)
            if block == NULL:
                break
            block.next = blocks
            blocks = block
    pthread_mutex_unlock(&mutex)
    _release_all(blocks)
