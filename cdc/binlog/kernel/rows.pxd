from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

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
cdef struct images_t

ctypedef const uint8_t* (*read_t)(
    images_t* images, column_t* column, size_t row, const uint8_t* at, const uint8_t* end
) noexcept nogil


cdef struct column_t:
    # How to read a value of the column, and the values read. Which fields count is the reader's business (rows.pyx).
    uint8_t size             # bytes on the wire; of the length, where the values vary in length
    uint8_t item             # bytes a row in `values`
    uint8_t text             # of text: which charset machine
    bint is_variable
    bint is_json
    bint is_ascii_compatible
    bint is_short_text       # may be copied in the loop
    uint32_t run_stop        # the column after those of fixed size that begin here
    uint32_t fixed_before    # bytes of all values of fixed size in the columns before
    read_t read
    uint64_t limit           # the longest value, in bytes
    bytes_t values           # fixed-width values; where they vary in length, int64 offsets: one more than rows
    bytes_t bytes            # the values that vary in length, end to end
    bytes_t validity         # bitmap, 1 is not NULL; empty while there is no NULL. Bits of rows to come are set.
    size_t bytes_hint        # how large `bytes` was when the last batch was taken
    const uint32_t* characters  # single-byte charsets: UTF-8 in the low 24 bits, its length in the high 8; 0 is none
    void* decode             # bytes -> str, borrowed
    const uint8_t* document  # JSON: the last value read, inside the event; NULL for NULL
    size_t document_size
    bint is_unchanged        # JSON: the image says so, and not what it is


cdef struct images_t:
    # The images of one table and layout, column by column.
    column_t* columns
    void* plans           # fixed_t of rows.h: how values of fixed size are read, one a column
    uint32_t column_count
    size_t row_count      # images held
    size_t whole_count    # how many of them belong to transactions that have ended; kept by the scanner
    size_t byte_count     # about the memory that they take
    size_t capacity       # rows that the fixed-width buffers have room for
    bytes_t operation     # uint8 an image
    bytes_t transaction   # uint32 an image
    bytes_t shape         # uint16 an image: which columns are absent; empty while no image lacks any
    bytes_t shapes        # bitmaps of absent columns, `bitmap_bytes` each
    bytes_t shape_slots   # a hash table over them: uint16 numbers, one more than the shape's; 0 is none
    size_t shape_count
    size_t bitmap_bytes   # of a bitmap with one bit a column
    uint64_t column_bits  # those of the columns in its last 64 bits
    size_t row_bytes      # what an image adds to `byte_count`, apart from values that vary in length
    size_t rows_hint      # how many images the last batch had
    bint needs_all_columns
    bint has_no_memory    # why the last call refused, if not for the bytes
    bint has_no_shape


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

cdef size_t images_first_bytes(images_t* images) noexcept nogil
# What the first image costs in blocks of memory, however small it is.

cdef void images_truncate(images_t* images, size_t row_count) noexcept nogil


cdef class ImageBuffer:
    cdef images_t images
    cdef readonly object layout
    cdef readonly bint needs_all_columns
    cdef object _kept        # what the plan borrows from: decimal plans, charset tables, decoders
    cdef object _schema
