from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from cdc.binlog.kernel.memory cimport bytes_t


cdef enum:
    # Results of `images_append`.
    IMAGES_TAKEN = 0      # every image of the event is in
    IMAGES_STOPPED = 1    # a limit is reached; call again with the offset that it left
    IMAGES_REFUSED = -1   # the bytes are not what the plan says, or there is no memory: nothing of this call is in

cdef enum:
    # What a rows event does (`RowsKind`).
    ROWS_INSERT = 0
    ROWS_UPDATE = 1
    ROWS_DELETE = 2


cdef struct column_t

cdef struct images_t:
    # The images of one table and layout, column by column.
    column_t* columns
    uint32_t column_count
    size_t row_count      # images held
    size_t whole_count    # how many of them belong to transactions that have ended; kept by the scanner
    size_t byte_count     # about the memory that they take
    size_t capacity       # rows that the fixed-width buffers have room for
    bytes_t operation     # uint8 an image
    bytes_t transaction   # uint32 an image
    bytes_t shape         # uint16 an image: which columns are absent; empty while no image lacks any
    # more fields as needed by rows.pyx


cdef int images_append(
    images_t* images,
    int kind,
    bint is_partial,
    const uint8_t* body,
    size_t size,
    size_t* offset,
    uint32_t transaction_index,
    size_t rows_stop,
    size_t bytes_stop,
) noexcept nogil
# `body` is a rows event from its column count on (column count, bitmaps, images), `size` bytes without checksum.
# `offset` is 0 at first; with IMAGES_STOPPED it is where the next image begins in `body`. Stops after an image (in
# updates: a pair) once row_count >= rows_stop or byte_count >= bytes_stop, if more are to come.

cdef void images_truncate(images_t* images, size_t row_count) noexcept nogil


cdef class ImageBuffer:
    cdef images_t images
    cdef readonly object layout
