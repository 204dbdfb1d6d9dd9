"""From received bytes to the images of whole transactions: packets, event headers, checksums, and the events that
every transaction is made of.

A `Scanner` holds what is known in the middle of a stream: the position, the open group, the tables that its row events
name, the transactions that ended since the last run. It takes in GTID, BEGIN, COMMIT, table maps that it has seen
before, row events and XID by itself, with the GIL released: a transaction of these costs no Python. Every other event,
and every one of these in which anything is unusual or wrong, is left to the caller (cdc/source/assembler.py): what an
event means and what is wrong with one is said there and in cdc/binlog, once. So the scanner has no error messages, and
taking events away from it (`is_fast`) changes nothing but the time that they take.

    packet   length[3] · sequence[1] · 0x00 · event; one of length 0xffffff goes on in the next, and is the caller's
    event    see cdc/binlog/framing.py

Source: as in cdc/binlog/events.py and cdc/source/assembler.py, function by function.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from cdc.binlog.kernel.memory cimport Block, block_take_over, bytes_free, bytes_reserve, bytes_t
from cdc.binlog.kernel.rows cimport (
    IMAGES_REFUSED,
    IMAGES_STOPPED,
    ROWS_DELETE,
    ROWS_INSERT,
    ROWS_UPDATE,
    ImageBuffer,
    images_append,
    images_first_bytes,
    images_t,
    images_truncate,
)

import uuid

from cdc.binlog.constants import EVENT_BYTES_MAX as _EVENT_BYTES_MAX

cdef extern from "crc32.h" nogil:
    void crc32_prepare()
    uint32_t crc32_of(const uint8_t* data, size_t size)

crc32_prepare()

__all__ = ["EVENTS", "PACKETS", "PAYLOAD", "Scanner", "crc32"]

# What `scan` returns.
MORE = 0      # what is left is no whole event
EVENT = 1     # the event from `event_start` to `event_end` is the caller's; `consumed` is behind it
RUN = 2       # a transaction has ended, and the run is as large as runs may be
PART = 3      # the open transaction is as large as it may be before a part of it is handed over
ODD = 4       # what stands at `consumed` is no packet with an event, or an event of an impossible size

# How the bytes are wrapped.
PACKETS = 0
EVENTS = 1
PAYLOAD = 2   # as EVENTS, out of a compressed transaction: without checksums and positions

cdef enum:
    _MORE = 0
    _EVENT = 1
    _RUN = 2
    _PART = 3
    _ODD = 4
    # further results of one event
    _TAKEN = 10
    _PART_TAKEN = 11
    _GROUP_END = 12

    _PACKETS = 0
    _PAYLOAD = 2

    HEADER_BYTES = 19
    CHECKSUM_BYTES = 4
    PACKET_MAX = 0xFFFFFF
    ARTIFICIAL = 0x20
    STATEMENT_END = 1
    TABLE_ID_DUMMY = 0xFFFFFF

    QUERY = 2
    XID = 16
    TABLE_MAP = 19
    WRITE_ROWS_V1 = 23
    UPDATE_ROWS_V1 = 24
    DELETE_ROWS_V1 = 25
    ROWS_QUERY = 29
    WRITE_ROWS = 30
    UPDATE_ROWS = 31
    DELETE_ROWS = 32
    GTID = 33
    ANONYMOUS_GTID = 34
    PARTIAL_UPDATE_ROWS = 39
    MARIADB_ANNOTATE_ROWS = 160
    MARIADB_GTID = 162

    MARIADB_STANDALONE = 0x1
    MARIADB_GROUP_COMMIT_ID = 0x2
    MARIADB_XA = 0x40 | 0x80
    MARIADB_MULTI_ENGINE = 0x1
    MARIADB_THREAD_ID = 0x10

    # Maps kept for table ids seen, and their bytes; above it those of earlier statements are forgotten (a server with
    # more open tables than this only loses time).
    MAPS_MAX = 16384
    MAP_BYTES_MAX = 16777216
    # A run or a part is full, too, when the tables in it cost so much by being there: a row in each of a thousand
    # tables takes a thousand times the smallest blocks.
    BLOCK_BYTES_MAX = 33554432
    # Beginnings of BEGIN statements (status variables, database) that have been parsed once.
    BEGINNINGS_MAX = 16
    NO_SLOT = -1

cdef uint64_t NUMBER_END = (<uint64_t> 1 << 63) - 1
cdef size_t EVENT_BYTES_MAX = _EVENT_BYTES_MAX


cdef struct source_t:
    # What a GTID's numbers count: MySQL's uuid, or MariaDB's domain[4] server_id[4]; `tag` indexes Python's list.
    uint8_t key[16]
    uint32_t tag

cdef struct map_t:
    uint64_t table_id
    uint64_t statement      # the statement that it was last sent in
    uint8_t* body           # NULL: the place is free
    size_t body_size
    int32_t slot            # NO_SLOT: its rows do not count
    bint is_covered
    bint is_lasting         # may it be taken for known when it is sent again?
    bint leaves_deletes     # rows events that are left to the caller, whatever becomes of their images
    bint leaves_updates

cdef struct slot_t:
    images_t* images        # NULL: the slot is free
    size_t first_bytes      # what the first image costs in blocks, however small it is
    bint is_in_group
    bint is_in_run

cdef struct transaction_t:
    uint64_t offset
    uint64_t number
    int64_t commit_us
    int32_t source


cdef inline uint16_t u16(const uint8_t* at) noexcept nogil:
    return at[0] | <uint16_t> at[1] << 8

cdef inline uint32_t u24(const uint8_t* at) noexcept nogil:
    return at[0] | <uint32_t> at[1] << 8 | <uint32_t> at[2] << 16

cdef inline uint32_t u32(const uint8_t* at) noexcept nogil:
    return u24(at) | <uint32_t> at[3] << 24

cdef inline uint64_t u48(const uint8_t* at) noexcept nogil:
    return u32(at) | <uint64_t> u16(at + 4) << 32

cdef inline uint64_t u64(const uint8_t* at) noexcept nogil:
    return u32(at) | <uint64_t> u32(at + 4) << 32


def crc32(const uint8_t[::1] data) -> int:
    """The CRC32 of `data`, as `zlib.crc32` has it."""
    return crc32_of(&data[0] if data.shape[0] else NULL, <size_t> data.shape[0])


cdef class Scanner:
    """The state of one stream. Positions are offsets in the current file, in 64 bits.

    Attributes:
        is_fast: may events be taken in here at all? Off until the caller knows the checksum algorithm and the position.
        at: where the event read last ends.
        group_*: the open group; `group_source` is an index for `source_key`, -1 where it has no GTID or one that only
            `group_gtid` knows (whatever the caller parsed).
        has_slow_end: the open group's end is the caller's business.
        rows_max, bytes_max, transactions_max: when a run of whole transactions is full.
        part_rows_max, part_bytes_max: when the open transaction is.
    """

    cdef public bint is_fast
    cdef public bint has_checksum
    cdef public bint has_slow_end
    cdef public uint64_t at
    cdef public bint group_is_open
    cdef public bint group_is_begun
    cdef public bint group_is_standalone
    cdef public bint group_has_rows
    cdef public bint group_has_covered_rows
    cdef public uint64_t group_start
    cdef public int64_t group_commit_us
    cdef public uint64_t group_number
    cdef public uint32_t group_flags
    cdef public int32_t group_source
    cdef public size_t rows_max
    cdef public size_t bytes_max
    cdef public size_t transactions_max
    cdef public size_t part_rows_max
    cdef public size_t part_bytes_max
    cdef readonly size_t run_rows        # images of transactions that have ended
    cdef readonly size_t run_bytes       # what these take in memory
    cdef readonly size_t open_rows       # the same of the open transaction
    cdef readonly size_t open_bytes
    cdef readonly size_t block_bytes     # what the buffers of both cost beyond that, by being there
    cdef size_t _open_block_bytes        # the open transaction's
    cdef readonly size_t consumed
    cdef readonly bint was_inside        # had a part of the event been taken in before it was left to the caller?
    cdef readonly size_t event_start
    cdef readonly size_t event_end
    cdef readonly uint64_t event_count   # taken in here, ever
    cdef bint _is_mariadb
    cdef bint _has_gtid_object           # is `_gtid_object` the open group's?
    cdef object _gtid_object
    cdef size_t _resume_at               # in the row event that was stopped in: its next image
    cdef uint64_t _statement
    cdef map_t* _maps
    cdef size_t _map_capacity
    cdef size_t _map_count
    cdef size_t _map_bytes
    cdef slot_t* _slots
    cdef int32_t _slot_count
    cdef int32_t* _group_slots           # slots with images of the open group
    cdef int32_t _group_slot_count
    cdef int32_t* _run_slots             # slots with images of this run or of the open group
    cdef int32_t _run_slot_count
    cdef source_t* _sources
    cdef int32_t _source_count
    cdef int32_t _source_capacity
    cdef list _tags
    cdef list _buffers                   # keeps the slots' images alive
    cdef bytes_t _transactions           # transaction_t, one an ended transaction
    cdef size_t _transaction_count
    cdef size_t _counted                 # of them, how many `take_gtids` has told
    cdef uint8_t* _beginnings[BEGINNINGS_MAX]
    cdef size_t _beginning_sizes[BEGINNINGS_MAX]
    cdef int _next_beginning

    def __cinit__(self, *, bint is_mariadb):
        self._is_mariadb = is_mariadb
        self._statement = 1
        self.group_source = -1
        self.rows_max = self.bytes_max = self.transactions_max = 1
        self.part_rows_max = self.part_bytes_max = 1
        self._map_capacity = 64
        self._maps = <map_t*> calloc(self._map_capacity, sizeof(map_t))
        if self._maps == NULL:
            raise MemoryError
        self._tags = [""]
        self._buffers = []

    def __dealloc__(self):
        cdef size_t index
        cdef int beginning
        if self._maps != NULL:
            for index in range(self._map_capacity):
                free(self._maps[index].body)
        for beginning in range(BEGINNINGS_MAX):
            free(self._beginnings[beginning])
        free(self._maps)
        free(self._slots)
        free(self._group_slots)
        free(self._run_slots)
        free(self._sources)
        bytes_free(&self._transactions)

    # ------------------------------------------------------------ scanning

    def scan(self, const uint8_t[::1] window, size_t start, int framing) -> int:
        """Take in what can be, from `start` on; returns MORE, EVENT, RUN, PART or ODD and sets `consumed`.

        After PART, call again with the same bytes and `start` at `consumed`. Where it stopped inside an event, that is
        the event's beginning, and the scanner knows which of its images it has taken in.
        """
        cdef int code
        cdef size_t size = window.shape[0]
        if start >= size:
            self.consumed = size
            return _MORE
        with nogil:
            code = self._scan(&window[0], size, start, framing)
        return code

    cdef int _scan(self, const uint8_t* data, size_t size, size_t start, int framing) noexcept nogil:
        cdef size_t at = start, next_at, event_size
        cdef const uint8_t* event
        cdef int code
        while True:
            self.consumed = at
            if framing == _PACKETS:
                if size - at < 4:
                    return _MORE
                event_size = u24(data + at)
                if event_size == 0 or event_size == PACKET_MAX:
                    return _ODD
                if size - at < 5:
                    return _MORE
                if data[at + 4] != 0:
                    return _ODD
                next_at = at + 4 + event_size
                event = data + at + 5
                event_size -= 1
            else:
                if size - at < HEADER_BYTES:
                    return _MORE
                event = data + at
                event_size = u32(event + 9)
                if event_size < HEADER_BYTES or event_size > EVENT_BYTES_MAX:
                    return _ODD
                next_at = at + event_size
            if next_at > size:
                return _MORE
            code = self._take(event, event_size, framing)
            if code == _PART:
                return _PART
            self.was_inside = self._resume_at != 0
            self._resume_at = 0
            if code == _EVENT:
                self.event_start = event - data
                self.event_end = next_at
                self.consumed = next_at
                return _EVENT
            self.event_count += 1
            at = next_at
            if code != _TAKEN:
                self.consumed = at
                return _RUN if code == _RUN else _PART

    cdef int _take(self, const uint8_t* event, size_t size, int framing) noexcept nogil:
        """One event: _TAKEN, _RUN (taken, the run is full), _PART (stopped inside), _PART_TAKEN, _EVENT (not ours)."""
        cdef uint32_t log_pos
        cdef uint64_t expected = self.at
        cdef size_t body_size
        cdef int kind, code
        if not self.is_fast or size < HEADER_BYTES or u32(event + 9) != size or u16(event + 17) & ARTIFICIAL:
            return _EVENT
        kind = event[4]
        body_size = size - HEADER_BYTES
        if framing != _PAYLOAD:
            if self.has_checksum:
                if body_size < CHECKSUM_BYTES:
                    return _EVENT
                body_size -= CHECKSUM_BYTES
            expected += size
            log_pos = u32(event + 13)
            if log_pos:
                if self.group_is_open and <int32_t> (log_pos - <uint32_t> expected) < 0:
                    return _EVENT  # out of order
                # The header has 32 bits: the candidate next to where we are, never behind it.
                expected = (self.at & ~<uint64_t> 0xFFFFFFFF) | log_pos
                if expected < self.at:
                    expected += <uint64_t> 1 << 32
        if (
            kind != XID and kind != QUERY and kind != TABLE_MAP
            and not (kind >= ROWS_QUERY and kind <= ANONYMOUS_GTID)
            and not (kind >= WRITE_ROWS_V1 and kind <= DELETE_ROWS_V1)
            and kind != PARTIAL_UPDATE_ROWS and kind != MARIADB_GTID and kind != MARIADB_ANNOTATE_ROWS
        ):
            return _EVENT
        if framing != _PAYLOAD and self.has_checksum and self._resume_at == 0:
            if crc32_of(event, size - CHECKSUM_BYTES) != u32(event + size - CHECKSUM_BYTES):
                return _EVENT
        code = self._take_body(kind, event, body_size, expected, size)
        if code == _GROUP_END and bytes_reserve(&self._transactions, sizeof(transaction_t)) != 0:
            return _EVENT  # no memory: the caller says so
        if code != _EVENT and code != _PART:
            self.at = expected
            if code == _GROUP_END:
                return self._end_group()
        return code

    cdef int _take_body(
        self, int kind, const uint8_t* event, size_t size, uint64_t ends_at, size_t event_size
    ) noexcept nogil:
        """As `_take`; or _GROUP_END, which counts once the position does."""
        cdef uint64_t starts_at = ends_at - event_size if event_size < ends_at else 0
        if kind == WRITE_ROWS or kind == WRITE_ROWS_V1:
            return self._take_rows(event, size, ROWS_INSERT, kind == WRITE_ROWS, False)
        if kind == UPDATE_ROWS or kind == UPDATE_ROWS_V1 or kind == PARTIAL_UPDATE_ROWS:
            return self._take_rows(event, size, ROWS_UPDATE, kind != UPDATE_ROWS_V1, kind == PARTIAL_UPDATE_ROWS)
        if kind == DELETE_ROWS or kind == DELETE_ROWS_V1:
            return self._take_rows(event, size, ROWS_DELETE, kind == DELETE_ROWS, False)
        if kind == TABLE_MAP:
            return self._take_table_map(event, size, starts_at)
        if kind == XID:
            return _GROUP_END if size == 8 and self.group_is_open and not self.has_slow_end else _EVENT
        if kind == QUERY:
            return self._take_query(event, size, starts_at)
        if kind == GTID or kind == ANONYMOUS_GTID:
            return self._take_gtid(event, size, starts_at, kind == ANONYMOUS_GTID)
        if kind == MARIADB_GTID:
            return self._take_mariadb_gtid(event, size, starts_at)
        return _TAKEN  # the text of a statement whose rows follow

    # ------------------------------------------------------------ groups

    cdef void _open_group(self, const uint8_t* event, uint64_t starts_at) noexcept nogil:
        """A group that no GTID event opens: its source is not known, its time the event's."""
        self.group_is_open = True
        self.group_is_begun = False
        self.group_is_standalone = False
        self.group_has_rows = False
        self.group_has_covered_rows = False
        self.group_start = starts_at
        self.group_commit_us = <int64_t> u32(event) * 1000000
        self.group_source = -1
        self.group_number = 0
        self.group_flags = 0
        self._has_gtid_object = False

    cdef int _take_gtid(self, const uint8_t* event, size_t size, uint64_t starts_at, bint is_anonymous) noexcept nogil:
        """`[0] flags · [1:17] uuid · [17:25] number · [25] 2 · [26:34] · [34:42] logical clock · [42:49] commit time ·
        …`: cdc/binlog/events.py, parse_gtid, which is asked wherever the rest is not as MySQL 8.0.1 and later write it.
        """
        cdef const uint8_t* body = event + HEADER_BYTES
        cdef uint64_t number, commit_us
        cdef size_t at = 49
        cdef int32_t source = -1
        if self.group_is_open or self._is_mariadb:
            return _EVENT
        if size == 25 or (size == 42 and body[25] == 2):
            commit_us = 0  # MySQL 5.6, 5.7
        elif size < 49 or body[25] != 2:
            return _EVENT
        else:
            commit_us = u48(body + 42) | <uint64_t> body[48] << 48
            if commit_us >> 55:
                commit_us &= (<uint64_t> 1 << 55) - 1
                at += 7
            # transaction length[lenenc], the versions[4, and 4 more where the top bit is set], the ticket[8]
            if at > size or (at < size and (body[at] == 251 or body[at] == 255)):
                return _EVENT
            if at < size:
                at += 1 if body[at] < 251 else 3 if body[at] == 252 else 4 if body[at] == 253 else 9
            if at > size:
                return _EVENT
            if size - at >= 4 and body[at + 3] & 0x80 and size - at < 8:
                return _EVENT
        number = u64(body + 17)
        if is_anonymous != (number == 0) or number >= NUMBER_END:
            return _EVENT
        if not is_anonymous:
            source = self._source_of(body + 1, 16, 0)
            if source < 0:
                return _EVENT
        self._open_group(event, starts_at)
        if commit_us:
            self.group_commit_us = <int64_t> commit_us
        self.group_flags = body[0]
        self.group_source = source
        self.group_number = number
        return _TAKEN

    cdef int _take_mariadb_gtid(self, const uint8_t* event, size_t size, uint64_t starts_at) noexcept nogil:
        """`[0:8] sequence · [8:12] domain · [12] flags · …`: cdc/binlog/events.py, parse_mariadb_gtid. XA and two-phase
        ALTER are the caller's."""
        cdef const uint8_t* body = event + HEADER_BYTES
        cdef size_t at = 13
        cdef int32_t source
        cdef uint8_t key[8]
        cdef int flags, extra = 0
        if self.group_is_open or not self._is_mariadb or size < 13:
            return _EVENT
        flags = body[12]
        if flags & MARIADB_XA:
            return _EVENT
        if flags & MARIADB_GROUP_COMMIT_ID:
            at += 8
        if at > size:
            return _EVENT
        if at < size:
            extra = body[at]
            if extra & ~(MARIADB_MULTI_ENGINE | MARIADB_THREAD_ID):
                return _EVENT
            at += 1 + (1 if extra & MARIADB_MULTI_ENGINE else 0) + (4 if extra & MARIADB_THREAD_ID else 0)
            if at > size:
                return _EVENT
        memcpy(key, body + 8, 4)
        memcpy(key + 4, event + 5, 4)
        source = self._source_of(key, 8, 0)
        if source < 0:
            return _EVENT
        self._open_group(event, starts_at)
        self.group_is_standalone = flags & MARIADB_STANDALONE
        self.group_is_begun = not self.group_is_standalone
        self.group_flags = flags
        self.group_source = source
        self.group_number = u64(body)
        return _TAKEN

    cdef int _take_query(self, const uint8_t* event, size_t size, uint64_t starts_at) noexcept nogil:
        """BEGIN and COMMIT, where all that stands before the text (but thread and duration) has been parsed before."""
        cdef const uint8_t* body = event + HEADER_BYTES
        cdef size_t head
        cdef bint is_begin
        if size < 14:
            return _EVENT
        head = 13 + <size_t> u16(body + 11) + body[8] + 1
        if head > size or size - head < 5 or size - head > 6:
            return _EVENT
        is_begin = size - head == 5 and memcmp(body + head, b"BEGIN", 5) == 0
        if not is_begin and not (size - head == 6 and memcmp(body + head, b"COMMIT", 6) == 0):
            return _EVENT
        if not self._is_known_beginning(body + 8, head - 8):
            return _EVENT
        if is_begin:
            if not self.group_is_open:
                self._open_group(event, starts_at)
            self.group_is_begun = True
            return _TAKEN
        if not self.group_is_open or self.has_slow_end:
            return _EVENT
        return _GROUP_END

    cdef bint _is_known_beginning(self, const uint8_t* head, size_t size) noexcept nogil:
        cdef int index
        for index in range(BEGINNINGS_MAX):
            if self._beginning_sizes[index] == size and memcmp(self._beginnings[index], head, size) == 0:
                return True
        return False

    cdef int _end_group(self) noexcept nogil:
        """The open group is whole: its images count. _RUN when the run is full, else _TAKEN. There is room reserved."""
        cdef transaction_t* transaction
        cdef slot_t* slot
        cdef int32_t index
        transaction = <transaction_t*> (self._transactions.data + self._transactions.size)
        self._transactions.size += sizeof(transaction_t)
        transaction.offset = self.at
        transaction.number = self.group_number
        transaction.commit_us = self.group_commit_us
        transaction.source = self.group_source
        self._transaction_count += 1
        for index in range(self._group_slot_count):
            slot = &self._slots[self._group_slots[index]]
            slot.is_in_group = False
            if slot.images != NULL:
                slot.images.whole_count = slot.images.row_count
        self._group_slot_count = 0
        self.run_rows += self.open_rows
        self.run_bytes += self.open_bytes
        self.open_rows = 0
        self.open_bytes = 0
        self._open_block_bytes = 0
        self.group_is_open = False
        self._statement += 1
        return _RUN if self._is_full() else _TAKEN

    cdef bint _is_full(self) noexcept nogil:
        return (
            self.run_rows >= self.rows_max
            or self.run_bytes >= self.bytes_max
            or self._transaction_count >= self.transactions_max
            or self.block_bytes >= BLOCK_BYTES_MAX
        )

    cdef bint _is_part_full(self) noexcept nogil:
        return (
            self.open_rows >= self.part_rows_max
            or self.open_bytes >= self.part_bytes_max
            or self._open_block_bytes >= BLOCK_BYTES_MAX
        )

    # ------------------------------------------------------------ tables and rows

    cdef map_t* _find_map(self, uint64_t table_id) noexcept nogil:
        """The map of that id, or the free place where it belongs."""
        cdef size_t index = <size_t> (table_id * <uint64_t> 0x9E3779B97F4A7C15 >> 40) & (self._map_capacity - 1)
        while self._maps[index].body != NULL and self._maps[index].table_id != table_id:
            index = (index + 1) & (self._map_capacity - 1)
        return &self._maps[index]

    cdef int _take_table_map(self, const uint8_t* event, size_t size, uint64_t starts_at) noexcept nogil:
        """One that is byte for byte what was registered for its id."""
        cdef const uint8_t* body = event + HEADER_BYTES
        cdef map_t* found
        if size < 8:
            return _EVENT
        found = self._find_map(u48(body))
        if found.body == NULL or found.body_size != size or memcmp(found.body, body, size) != 0:
            return _EVENT
        if not found.is_lasting and found.statement != self._statement:
            return _EVENT
        if not self.group_is_open:
            self._open_group(event, starts_at)
        found.statement = self._statement
        return _TAKEN

    cdef int _take_rows(
        self, const uint8_t* event, size_t size, int kind, bint has_extra, bint is_partial
    ) noexcept nogil:
        """`[0:6] table id · [6:8] flags · v2: extra length[2], which counts itself, and extra info · column count …`"""
        cdef const uint8_t* body = event + HEADER_BYTES
        cdef size_t head = 8, rows_before, bytes_before, rows_stop, bytes_stop
        cdef uint64_t table_id
        cdef map_t* found
        cdef slot_t* slot
        cdef images_t* images
        cdef int code
        if size < 8 or not self.group_is_open:
            return _EVENT
        table_id = u48(body)
        if table_id == TABLE_ID_DUMMY:
            return _EVENT
        if has_extra:
            if size < 10 or u16(body + 8) < 2:
                return _EVENT
            head += u16(body + 8)
            if head > size:
                return _EVENT
        found = self._find_map(table_id)
        if found.body == NULL or found.statement != self._statement:
            return _EVENT
        if (found.leaves_deletes and kind == ROWS_DELETE) or (found.leaves_updates and kind == ROWS_UPDATE):
            return _EVENT
        if found.slot == NO_SLOT:
            if found.is_covered:
                self.group_has_covered_rows = True
        else:
            slot = &self._slots[found.slot]
            images = slot.images
            rows_before = images.row_count
            bytes_before = images.byte_count
            rows_stop = rows_before
            if self.open_rows < self.part_rows_max:
                rows_stop += self.part_rows_max - self.open_rows
            bytes_stop = bytes_before + (
                self.part_bytes_max - self.open_bytes if self.open_bytes < self.part_bytes_max else 0
            )
            code = images_append(
                images, kind, is_partial, body + head, size - head, &self._resume_at,
                <uint32_t> self._transaction_count, rows_stop, bytes_stop,
            )
            if code == IMAGES_REFUSED:
                return _EVENT
            self._touch(found.slot)
            self.open_rows += images.row_count - rows_before
            self.open_bytes += images.byte_count - bytes_before
            if code == IMAGES_STOPPED:
                return _PART
        if body[6] & STATEMENT_END:
            self._statement += 1
        if self._is_part_full():
            return _PART_TAKEN
        return _TAKEN

    cdef void _touch(self, int32_t slot) noexcept nogil:
        self.group_has_rows = True
        if not self._slots[slot].is_in_group:
            self._open_block_bytes += self._slots[slot].first_bytes
            self._slots[slot].is_in_group = True
            self._group_slots[self._group_slot_count] = slot
            self._group_slot_count += 1
        if not self._slots[slot].is_in_run:
            self.block_bytes += self._slots[slot].first_bytes
            self._slots[slot].is_in_run = True
            self._run_slots[self._run_slot_count] = slot
            self._run_slot_count += 1

    cdef int32_t _source_of(self, const uint8_t* key, size_t size, uint32_t tag) noexcept nogil:
        """The index of a GTID's source, made where it is new; -1 when there is no memory."""
        cdef source_t wanted
        cdef source_t* grown
        cdef int32_t index
        memset(&wanted, 0, sizeof(source_t))
        memcpy(wanted.key, key, size)
        wanted.tag = tag
        for index in range(self._source_count - 1, -1, -1):
            if memcmp(&self._sources[index], &wanted, sizeof(source_t)) == 0:
                return index
        if self._source_count == self._source_capacity:
            index = 2 * self._source_capacity + 8
            grown = <source_t*> realloc(self._sources, index * sizeof(source_t))
            if grown == NULL:
                return -1
            self._sources = grown
            self._source_capacity = index
        self._sources[self._source_count] = wanted
        self._source_count += 1
        return self._source_count - 1

    # ------------------------------------------------------------ what the caller does event by event

    def begin_group(
        self, *, start: int, commit_us: int, gtid, is_standalone: bool = False, is_begun: bool = False
    ) -> None:
        """A group opens. `gtid` is what the caller parsed: `Gtid`, `MariadbGtid`, or None where there is none."""
        cdef uint8_t key[16]
        cdef bytes raw
        cdef uint32_t tag = 0
        self.group_is_open = True
        self.group_is_begun = is_begun
        self.group_is_standalone = is_standalone
        self.group_has_rows = False
        self.group_has_covered_rows = False
        self.group_start = start
        self.group_commit_us = commit_us
        self._gtid_object = gtid
        self._has_gtid_object = True
        self.group_source = -1
        self.group_number = 0
        self.group_flags = 0
        if gtid is None:
            return
        self.group_flags = gtid.flags
        if self._is_mariadb:
            raw = gtid.domain.to_bytes(4, "little") + gtid.server_id.to_bytes(4, "little")
            self.group_number = gtid.sequence
        elif gtid.uuid is None:
            return
        else:
            raw = uuid.UUID(gtid.uuid).bytes
            self.group_number = gtid.number
            if gtid.tag not in self._tags:
                self._tags.append(gtid.tag)
            tag = self._tags.index(gtid.tag)
        memcpy(key, <const uint8_t*> <char*> raw, len(raw))
        self.group_source = self._source_of(key, len(raw), tag)
        if self.group_source < 0:
            raise MemoryError

    @property
    def group_gtid(self):
        """What the caller of `begin_group` gave; None for a group that was opened here."""
        return self._gtid_object if self._has_gtid_object else None

    def end_group(self) -> bool:
        """The open group is whole; is the run full now?"""
        if bytes_reserve(&self._transactions, sizeof(transaction_t)) != 0:
            raise MemoryError
        return self._end_group() == _RUN

    def close_group(self) -> None:
        """The open group comes to nothing; its images are dropped."""
        self.drop_open_images()
        self.group_is_open = False

    def drop_open_images(self) -> None:
        """The open group's images, as far as they are still in buffers, were never there."""
        cdef int32_t index
        cdef slot_t* slot
        for index in range(self._group_slot_count):
            slot = &self._slots[self._group_slots[index]]
            slot.is_in_group = False
            if slot.images != NULL:
                images_truncate(slot.images, slot.images.whole_count)
        self._group_slot_count = 0
        self.open_rows = self.open_bytes = self._open_block_bytes = 0
        self.group_has_rows = False

    def forget_open_counts(self) -> None:
        """The open transaction's images have been handed over."""
        self.open_rows = self.open_bytes = 0

    def end_statement(self) -> None:
        """Table maps are void until they are sent again."""
        self._statement += 1

    def remember_beginning(self, head: bytes) -> None:
        """A query event's body from its ninth byte to its text: it has been parsed, and is understood."""
        cdef int index = self._next_beginning
        cdef size_t size = len(head)
        cdef uint8_t* copy
        if self._is_known_beginning(<const uint8_t*> <char*> head, size):
            return
        copy = <uint8_t*> malloc(size or 1)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <const uint8_t*> <char*> head, size)
        free(self._beginnings[index])
        self._beginnings[index] = copy
        self._beginning_sizes[index] = size
        self._next_beginning = (index + 1) % BEGINNINGS_MAX

    # ------------------------------------------------------------ tables

    def add_buffer(self, ImageBuffer buffer) -> int:
        """Make a slot for a table's images; returns its number."""
        cdef int32_t index
        for index in range(self._slot_count):
            if self._slots[index].images == NULL and not self._slots[index].is_in_run:
                break
        else:
            index = self._slot_count
            if index % 64 == 0:
                self._grow_slots(index + 64)
            self._slot_count += 1
            self._buffers.append(None)
        memset(&self._slots[index], 0, sizeof(slot_t))
        self._slots[index].images = &buffer.images
        self._slots[index].first_bytes = images_first_bytes(&buffer.images)
        self._buffers[index] = buffer
        return index

    cdef int _grow_slots(self, int32_t capacity) except -1:
        cdef void* grown
        grown = realloc(self._slots, capacity * sizeof(slot_t))
        if grown == NULL:
            raise MemoryError
        self._slots = <slot_t*> grown
        grown = realloc(self._group_slots, capacity * sizeof(int32_t))
        if grown == NULL:
            raise MemoryError
        self._group_slots = <int32_t*> grown
        grown = realloc(self._run_slots, capacity * sizeof(int32_t))
        if grown == NULL:
            raise MemoryError
        self._run_slots = <int32_t*> grown
        return 0

    def drop_buffer(self, int32_t slot) -> None:
        """The slot's table has another layout from here on. Its images must have been taken."""
        cdef size_t index
        cdef int32_t place, kept
        for index in range(self._map_capacity):
            if self._maps[index].slot == slot:
                self._maps[index].statement = 0
                self._maps[index].is_lasting = False
        kept = 0
        for place in range(self._group_slot_count):
            if self._group_slots[place] != slot:
                self._group_slots[kept] = self._group_slots[place]
                kept += 1
        self._group_slot_count = kept
        kept = 0
        for place in range(self._run_slot_count):
            if self._run_slots[place] != slot:
                self._run_slots[kept] = self._run_slots[place]
                kept += 1
        self._run_slot_count = kept
        self._slots[slot].is_in_group = self._slots[slot].is_in_run = False
        self._slots[slot].images = NULL
        self._buffers[slot] = None

    def map_table(
        self,
        body: bytes,
        int32_t slot,
        *,
        is_covered: bool,
        is_lasting: bool,
        leaves_deletes: bool = False,
        leaves_updates: bool = False,
    ) -> None:
        """What a table map stands for in this statement: the rows go to `slot`, or (-1) do not count.

        `is_lasting`: and in every statement to come that sends it again as it is. `leaves_deletes`, `leaves_updates`:
        such rows events of the table are left to the caller (EVENT).
        """
        cdef map_t* place
        cdef uint8_t* copy
        cdef size_t size = len(body)
        if self._map_count >= MAPS_MAX or self._map_bytes + size > MAP_BYTES_MAX:
            self._resize_maps(self._map_capacity, True)
        if 2 * (self._map_count + 1) > self._map_capacity:
            self._resize_maps(2 * self._map_capacity, False)
        place = self._find_map(int.from_bytes(body[:6], "little"))
        copy = <uint8_t*> malloc(size)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <const uint8_t*> <char*> body, size)
        if place.body == NULL:
            self._map_count += 1
        else:
            self._map_bytes -= place.body_size
        self._map_bytes += size
        free(place.body)
        place.table_id = int.from_bytes(body[:6], "little")
        place.statement = self._statement
        place.body = copy
        place.body_size = size
        place.slot = slot
        place.is_covered = is_covered
        place.is_lasting = is_lasting
        place.leaves_deletes = leaves_deletes
        place.leaves_updates = leaves_updates

    cdef int _resize_maps(self, size_t capacity, bint forgets) except -1:
        """Move the maps to a table of that size; `forgets`: only those of the open statement."""
        cdef map_t* before = self._maps
        cdef size_t count = self._map_capacity, index
        cdef map_t* after = <map_t*> calloc(capacity, sizeof(map_t))
        if after == NULL:
            raise MemoryError
        self._maps = after
        self._map_capacity = capacity
        self._map_count = self._map_bytes = 0
        for index in range(count):
            if before[index].body == NULL:
                continue
            if forgets and before[index].statement != self._statement:
                free(before[index].body)
                continue
            self._find_map(before[index].table_id)[0] = before[index]
            self._map_count += 1
            self._map_bytes += before[index].body_size
        free(before)
        return 0

    def forget_maps(self) -> None:
        """No table id means anything any more."""
        cdef size_t index
        for index in range(self._map_capacity):
            free(self._maps[index].body)
        memset(self._maps, 0, self._map_capacity * sizeof(map_t))
        self._map_count = self._map_bytes = 0
        self._statement += 1

    def distrust_maps(self) -> None:
        """Which tables count, or how, has changed: each is the caller's again from its next table map on."""
        cdef size_t index
        for index in range(self._map_capacity):
            self._maps[index].is_lasting = False

    def find_map(self, table_id: int, body: bytes | None = None) -> tuple[int, bool] | None:
        """`(slot, is covered)` of a table id in this statement; None when it has not been sent, or not as `body`."""
        cdef map_t* found = self._find_map(table_id)
        if found.body == NULL or found.statement != self._statement:
            return None
        if body is not None:
            if found.body_size != <size_t> len(body) or memcmp(found.body, <char*> body, len(body)) != 0:
                return None
        return found.slot, bool(found.is_covered)

    def touch(self, int32_t slot, size_t rows_before, size_t bytes_before) -> None:
        """The caller has appended images of the open group to the slot's buffer, which was as large as this before."""
        self._touch(slot)
        self.open_rows += self._slots[slot].images.row_count - rows_before
        self.open_bytes += self._slots[slot].images.byte_count - bytes_before

    # ------------------------------------------------------------ runs

    @property
    def transaction_count(self) -> int:
        """How many transactions have ended since the last run."""
        return self._transaction_count

    @property
    def is_full(self) -> bool:
        """Is the run as large as runs may be?"""
        return self._is_full()

    @property
    def is_part_full(self) -> bool:
        """Is the open transaction as large as it may be before a part of it is handed over?"""
        return self._is_part_full()

    def run_slots(self) -> list[tuple[int, ImageBuffer]]:
        """The buffers with images of this run or of the open group, in the order of their first image."""
        cdef int32_t index
        return [
            (self._run_slots[index], self._buffers[self._run_slots[index]]) for index in range(self._run_slot_count)
        ]

    def reset_slots(self) -> None:
        """Every buffer has been taken."""
        cdef int32_t index
        for index in range(self._run_slot_count):
            self._slots[self._run_slots[index]].is_in_run = False
        for index in range(self._group_slot_count):
            self._slots[self._group_slots[index]].is_in_group = False
        self._run_slot_count = 0
        self._group_slot_count = 0
        self.block_bytes = self._open_block_bytes = 0

    def source_key(self, int32_t index) -> tuple:
        """MySQL: `(uuid, tag)`. MariaDB: `(domain, server id)`."""
        cdef source_t* source = &self._sources[index]
        if self._is_mariadb:
            return u32(source.key), u32(source.key + 4)
        return str(uuid.UUID(bytes=PyBytes_FromStringAndSize(<char*> source.key, 16))), self._tags[source.tag]

    def take_gtids(self) -> list[tuple[int, int, int]]:
        """`(source, first, last)` of the transactions that ended since this was asked last: numbers that follow each
        other in the stream are one interval. In stream order of their ends.
        """
        cdef transaction_t* all = <transaction_t*> self._transactions.data
        cdef list found = []
        cdef size_t index
        cdef int32_t source = -1
        cdef uint64_t first = 0, last = 0
        for index in range(self._counted, self._transaction_count):
            if all[index].source < 0:
                continue
            if all[index].source == source and all[index].number == last + 1:
                last += 1
                continue
            if source >= 0:
                found.append((source, first, last))
            source = all[index].source
            first = last = all[index].number
        if source >= 0:
            found.append((source, first, last))
        self._counted = self._transaction_count
        return found

    @property
    def has_uncounted(self) -> bool:
        """Have transactions ended since `take_gtids` was asked last?"""
        return self._counted < self._transaction_count

    @property
    def last_end(self) -> int:
        """Where the transaction ended that ended last in this run."""
        if self._transaction_count == 0:
            raise IndexError("no transaction has ended in this run")
        return (<transaction_t*> self._transactions.data)[self._transaction_count - 1].offset

    def take_transactions(self) -> tuple[Block, Block, Block, Block, list[int], int]:
        """The ended transactions' commit times (int64), offsets (uint64), sources (int32, into the list that follows)
        and numbers (uint64); which sources these are (for `source_key`); how many. The run starts anew.
        """
        cdef bytes_t times, offsets, sources, numbers
        cdef transaction_t* all = <transaction_t*> self._transactions.data
        cdef size_t index, count = self._transaction_count
        cdef int32_t source
        cdef list used = []
        cdef dict places = {}
        memset(&times, 0, sizeof(bytes_t))
        memset(&offsets, 0, sizeof(bytes_t))
        memset(&sources, 0, sizeof(bytes_t))
        memset(&numbers, 0, sizeof(bytes_t))
        if (
            bytes_reserve(&times, 8 * count) != 0
            or bytes_reserve(&offsets, 8 * count) != 0
            or bytes_reserve(&sources, 4 * count) != 0
            or bytes_reserve(&numbers, 8 * count) != 0
        ):
            bytes_free(&times)
            bytes_free(&offsets)
            bytes_free(&sources)
            bytes_free(&numbers)
            raise MemoryError
        cdef int32_t last_source = -1, last_place = -1
        for index in range(count):
            (<int64_t*> times.data)[index] = all[index].commit_us
            (<uint64_t*> offsets.data)[index] = all[index].offset
            (<uint64_t*> numbers.data)[index] = all[index].number
            source = all[index].source
            if source < 0:
                (<int32_t*> sources.data)[index] = -1
                continue
            if source != last_source:
                if source not in places:
                    places[source] = len(used)
                    used.append(source)
                last_source = source
                last_place = places[source]
            (<int32_t*> sources.data)[index] = last_place
        times.size = offsets.size = numbers.size = 8 * count
        sources.size = 4 * count
        self._transactions.size = 0
        self._transaction_count = 0
        self._counted = 0
        self.run_rows = self.run_bytes = 0
        return (
            block_take_over(&times),
            block_take_over(&offsets),
            block_take_over(&sources),
            block_take_over(&numbers),
            used,
            count,
        )
