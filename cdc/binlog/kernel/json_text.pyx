"""MySQL's binary JSON as text, and partial updates of it: the compiled twin of cdc/binlog/json_text.py, which has the
format, its sources and the errors.

Bytes of a document are named by offsets from its begin, 64 bits wide, so that no sum of what the document says can
wrap. Every read is charged to the document's budget (its size): parts that overlap exhaust it, which bounds the work.
What recurses does so once a level of nesting, NESTING_MAX at most.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from cdc.binlog.kernel.memory cimport bytes_free, bytes_reserve, bytes_t, pool_give, pool_take

cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>

    static inline uint64_t multiply(uint64_t a, uint64_t b, uint64_t* high) {
        unsigned __int128 product = (unsigned __int128) a * b;
        *high = (uint64_t) (product >> 64);
        return (uint64_t) product;
    }

    static inline int first_byte_of(uint64_t flags) { return __builtin_ctzll(flags) >> 3; }
    """
    uint64_t multiply(uint64_t a, uint64_t b, uint64_t* high) noexcept nogil
    int first_byte_of(uint64_t flags) noexcept nogil
    uint64_t le64toh(uint64_t word) noexcept nogil

__all__ = ["apply_json_diffs", "json_text"]

cdef enum:
    NESTING_MAX = 200   # as in the twin
    # Types of values.
    SMALL_OBJECT = 0x00
    LARGE_OBJECT = 0x01
    SMALL_ARRAY = 0x02
    LARGE_ARRAY = 0x03
    LITERAL = 0x04
    INT16 = 0x05
    UINT16 = 0x06
    INT32 = 0x07
    UINT32 = 0x08
    INT64 = 0x09
    UINT64 = 0x0A
    DOUBLE = 0x0B
    STRING = 0x0C
    OPAQUE = 0x0F
    # Column types inside opaque values.
    TYPE_TIMESTAMP = 7
    TYPE_DATE = 10
    TYPE_TIME = 11
    TYPE_DATETIME = 12
    TYPE_NEWDECIMAL = 246
    PRECISION_MAX = 65
    SCALE_MAX = 30
    # Room that numbers, literals and punctuation ask for at once: the longest is a DECIMAL of 65 digits.
    SCALAR_ROOM = 80

cdef struct source_t:
    # A document that is read: the column's value, or the new value of one diff.
    const uint8_t* data
    size_t size
    size_t budget     # bytes that may still be read

cdef struct container_t:
    # A container's head, its bounds checked: entries, keys and values lie in [start, end) of its source.
    size_t start
    size_t end
    size_t count
    size_t key_at     # where the key entries begin, in objects
    size_t value_at   # where the value entries begin
    size_t width      # bytes of an offset: 2 or 4
    bint is_object


# ---------------------------------------------------------------- numbers to digits

cdef char[200] DIGIT_PAIRS
# 10**e for e from POWER_MIN on, as 128 bits of which the first is set, rounded up.
cdef enum:
    POWER_MIN = -292
    POWER_MAX = 324
cdef uint64_t[POWER_MAX - POWER_MIN + 1] POWER_HIGH
cdef uint64_t[POWER_MAX - POWER_MIN + 1] POWER_LOW
cdef uint64_t[20] TENS


cdef inline int _floor_log2_of_power(int exponent) noexcept nogil:
    """floor(log2(10**exponent)), exact for |exponent| <= 1233."""
    return (exponent * 1741647) >> 19


def _fill_tables() -> None:
    cdef object above, below, power, shift   # large numbers
    for number in range(100):
        DIGIT_PAIRS[2 * number] = 48 + number // 10
        DIGIT_PAIRS[2 * number + 1] = 48 + number % 10
    for number in range(20):
        TENS[number] = 10**number
    for exponent in range(POWER_MIN, POWER_MAX + 1):
        shift = 127 - _floor_log2_of_power(exponent)
        above = 10 ** max(exponent, 0) << max(shift, 0)
        below = 10 ** max(-exponent, 0) << max(-shift, 0)
        power = -(-above // below)
        POWER_HIGH[exponent - POWER_MIN] = power >> 64
        POWER_LOW[exponent - POWER_MIN] = power & 0xFFFFFFFFFFFFFFFF


_fill_tables()


cdef inline int _digit_count(uint64_t value) noexcept nogil:
    cdef int count = 1
    while count < 20 and value >= TENS[count]:
        count += 1
    return count


cdef inline uint8_t* _put_digits(uint8_t* to, uint64_t value, int count) noexcept nogil:
    """The last `count` decimal digits of `value`; where they end."""
    cdef uint8_t* end = to + count
    cdef uint8_t* at = end
    cdef uint64_t pair
    while count >= 2:
        at -= 2
        count -= 2
        pair = value % 100
        value //= 100
        memcpy(at, &DIGIT_PAIRS[2 * pair], 2)
    if count:
        to[0] = 48 + <uint8_t> (value % 10)
    return end


cdef inline uint8_t* _put_number(uint8_t* to, uint64_t value, int digits_min) noexcept nogil:
    """`value` in decimal, with zeros before it where it has fewer digits than that; where it ends."""
    cdef int count = _digit_count(value)
    if count < digits_min:
        count = digits_min
    return _put_digits(to, value, count)


cdef inline uint8_t* _put_int(uint8_t* to, int64_t value) noexcept nogil:
    if value < 0:
        to[0] = 45   # -
        return _put_number(to + 1, 0 - <uint64_t> value, 1)
    return _put_number(to, <uint64_t> value, 1)


cdef inline uint64_t _scaled(uint64_t high, uint64_t low, uint64_t value) noexcept nogil:
    """The first 64 of the 192 bits of (high, low) * value, the last of them set where more than rounding follows."""
    cdef uint64_t carried, top, unused, middle
    multiply(low, value, &carried)
    middle = multiply(high, value, &top) + carried
    if middle < carried:
        top += 1
    return top | (middle > 1)


cdef uint64_t shortest_digits(uint64_t fraction, int biased, int* exponent) noexcept nogil:
    """The decimal digits of a double other than zero: the fewest that read back the same, of these the nearest ones.

    `fraction` and `biased` are the double's 52 and 11 bits. Gives the digits as a number and the power of ten that it
    is to be multiplied with; zeros may follow the last digit.

    Source: Raffaello Giulietti, The Schubfach way to render doubles (2021), section 9.
    """
    cdef uint64_t c, s, t, high, low, v, v_left, v_right
    cdef uint64_t is_odd
    cdef int q, k, shift
    cdef bint is_irregular = fraction == 0 and biased > 1, lower_is_in, upper_is_in
    if biased:
        c = fraction | <uint64_t> 1 << 52
        q = biased - 1075
    else:
        c = fraction
        q = -1074
    is_odd = c & 1
    # floor(log10(2**q)), or of 3/4 of it where the double below is nearer: exact for |q| <= 1500
    k = (q * 1262611 - (524031 if is_irregular else 0)) >> 22
    shift = q + _floor_log2_of_power(-k) + 1
    high = POWER_HIGH[-k - POWER_MIN]
    low = POWER_LOW[-k - POWER_MIN]
    # four times the double and the bounds of what reads back as it, scaled by 10**-k
    v = _scaled(high, low, 4 * c << shift)
    v_left = _scaled(high, low, (4 * c - (1 if is_irregular else 2)) << shift)
    v_right = _scaled(high, low, (4 * c + 2) << shift)
    exponent[0] = k
    s = v >> 2
    if s >= 10:
        t = s // 10 * 10
        lower_is_in = v_left + is_odd <= 4 * t
        upper_is_in = 4 * t + 40 + is_odd <= v_right
        if lower_is_in != upper_is_in:
            return t if lower_is_in else t + 10
    lower_is_in = v_left + is_odd <= 4 * s
    upper_is_in = 4 * s + 4 + is_odd <= v_right
    if lower_is_in != upper_is_in:
        return s if lower_is_in else s + 1
    # both or none: the nearer one, in the middle the even one
    t = 4 * s + 2
    if v > t or (v == t and (s & 1) != 0):
        s += 1
    return s


cdef int _print_double(bytes_t* out, const uint8_t* field) noexcept nogil:
    """`[0:8] IEEE 754, little-endian`; infinities and NaN are refused. The layout is `double_text`'s."""
    cdef uint64_t bits, fraction, digits
    cdef int biased, exponent = 0, count, point
    cdef double value
    cdef uint8_t* to
    cdef uint8_t[24] text
    memcpy(&bits, field, 8)
    bits = le64toh(bits)
    biased = (bits >> 52) & 0x7FF
    fraction = bits & ((<uint64_t> 1 << 52) - 1)
    if biased == 0x7FF or bytes_reserve(out, SCALAR_ROOM) < 0:
        return -1
    to = out.data + out.size
    if bits >> 63:
        to[0] = 45   # -
        to += 1
        bits &= ~(<uint64_t> 1 << 63)
    memcpy(&value, &bits, 8)
    if value < 1e15 and <double> <int64_t> value == value:   # most of them, and all that needs no more than its digits
        to = _put_number(to, <uint64_t> value, 1)
        to[0] = 46   # .
        to[1] = 48   # 0
        out.size = to + 2 - out.data
        return 0
    digits = shortest_digits(fraction, biased, &exponent)
    while digits % 10 == 0:
        digits //= 10
        exponent += 1
    count = _digit_count(digits)
    _put_digits(text, digits, count)
    point = count + exponent   # it stands after this many digits
    if -14 <= point <= 15 or 15 < point < count:
        if point <= 0:
            to[0] = 48
            to[1] = 46
            memset(to + 2, 48, -point)
            to += 2 - point
            memcpy(to, text, count)
            to += count
        elif point >= count:
            memcpy(to, text, count)
            memset(to + count, 48, point - count)
            to += point
            to[0] = 46
            to[1] = 48
            to += 2
        else:
            memcpy(to, text, point)
            to[point] = 46
            memcpy(to + point + 1, text + point, count - point)
            to += count + 1
    else:
        to[0] = text[0]
        to += 1
        if count > 1:
            to[0] = 46
            memcpy(to + 1, text + 1, count - 1)
            to += count
        to[0] = 101   # e
        to = _put_int(to + 1, point - 1)
    out.size = to - out.data
    return 0


# ---------------------------------------------------------------- text


cdef inline uint64_t _special(uint64_t word) noexcept nogil:
    """A bit in the first of the eight bytes that is no plain character (below 0x20, `"`, backslash, not ASCII).

    Bytes after that one may have theirs without being any.
    """
    cdef uint64_t ones = 0x0101010101010101, tops = 0x8080808080808080
    cdef uint64_t quote = word ^ ones * 0x22, backslash = word ^ ones * 0x5C
    cdef uint64_t low = (word - ones * 0x20) & ~word
    return (word | low | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash)) & tops


cdef inline size_t _character(const uint8_t* text, size_t size) noexcept nogil:
    """How long the character is that begins with the byte >= 0x80 at `text`; 0 where that is no UTF-8."""
    cdef uint8_t first = text[0], second
    if first < 0xC2 or first > 0xF4 or size < 2:
        return 0
    second = text[1]
    if second & 0xC0 != 0x80:
        return 0
    if first < 0xE0:
        return 2
    if size < 3 or text[2] & 0xC0 != 0x80:
        return 0
    if first < 0xF0:
        # no longer than needed, and no surrogates
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return 0
        return 3
    if size < 4 or text[3] & 0xC0 != 0x80:
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return 4


cdef inline uint8_t* _put_escaped(uint8_t* to, uint8_t code) noexcept nogil:
    """A quote, backslash or control character as the server escapes it; where that ends, 6 bytes on at most."""
    cdef uint8_t letter = 0
    cdef uint8_t digit = code & 15
    if code == 34 or code == 92:
        letter = code
    elif code == 8:
        letter = 98    # b
    elif code == 9:
        letter = 116   # t
    elif code == 10:
        letter = 110   # n
    elif code == 12:
        letter = 102   # f
    elif code == 13:
        letter = 114   # r
    to[0] = 92
    if letter:
        to[1] = letter
        return to + 2
    memcpy(to + 1, b"u00", 3)
    to[4] = 48 + (code >> 4)
    to[5] = digit + (48 if digit < 10 else 87)
    return to + 6


cdef int _print_text(bytes_t* out, const uint8_t* text, size_t size, size_t readable) noexcept nogil:
    """A string in quotes. `readable` is how many bytes from `text` on may be looked at, `size` or more.

    Eight bytes at a time are copied and then looked through. So there is room for eight more than what is known to
    be needed, always, and short strings cost one step.
    """
    cdef size_t at = 0, step, left
    cdef uint64_t word, special
    cdef uint8_t* to
    if bytes_reserve(out, size + 10) < 0:
        return -1
    to = out.data + out.size
    to[0] = 34
    to += 1
    while at < size:
        left = size - at
        if readable - at >= 8:
            memcpy(&word, text + at, 8)
            memcpy(to, &word, 8)
            special = _special(le64toh(word))
            if left < 8:
                special &= (<uint64_t> 1 << 8 * left) - 1
            if special == 0:
                step = left if left < 8 else 8
                at += step
                to += step
                continue
            step = first_byte_of(special)
            at += step
            to += step
        elif 0x20 <= text[at] < 0x80 and text[at] != 34 and text[at] != 92:
            to[0] = text[at]
            to += 1
            at += 1
            continue
        if text[at] < 0x80:
            out.size = to - out.data
            if bytes_reserve(out, size - at + 15) < 0:
                return -1
            to = _put_escaped(out.data + out.size, text[at])
            at += 1
        else:
            while at < size and text[at] >= 0x80:
                step = _character(text + at, size - at)
                if step == 0:
                    return -1
                memcpy(to, text + at, step)
                to += step
                at += step
    to[0] = 34
    out.size = to + 1 - out.data
    return 0


cdef int _print_base64(bytes_t* out, unsigned int column_type, const uint8_t* field, size_t size) noexcept nogil:
    """Any opaque value that has no better text. Lines end after 76 characters, and the line's end is escaped."""
    cdef const uint8_t* alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint8_t* to
    cdef size_t at = 0
    cdef uint32_t group
    if bytes_reserve(out, (size + 2) // 3 * 4 + size // 57 * 2 + 32) < 0:
        return -1
    to = out.data + out.size
    memcpy(to, b'"base64:type', 12)
    to = _put_number(to + 12, column_type, 1)
    to[0] = 58   # :
    to += 1
    while at < size:
        if at and at % 57 == 0:
            to[0] = 92
            to[1] = 110
            to += 2
        group = <uint32_t> field[at] << 16
        if at + 1 < size:
            group |= <uint32_t> field[at + 1] << 8
        if at + 2 < size:
            group |= field[at + 2]
        to[0] = alphabet[group >> 18]
        to[1] = alphabet[group >> 12 & 63]
        to[2] = alphabet[group >> 6 & 63] if at + 1 < size else 61
        to[3] = alphabet[group & 63] if at + 2 < size else 61
        to += 4
        at += 3
    to[0] = 34
    out.size = to + 1 - out.data
    return 0


cdef inline uint8_t* _put_clock(uint8_t* to, uint64_t hour, uint64_t packed) noexcept nogil:
    to = _put_number(to, hour, 2)
    to[0] = 58
    to = _put_digits(to + 1, packed >> 30 & 63, 2)
    to[0] = 58
    to = _put_digits(to + 1, packed >> 24 & 63, 2)
    to[0] = 46
    return _put_number(to + 1, packed & 0xFFFFFF, 6)


cdef int _print_temporal(bytes_t* out, unsigned int column_type, const uint8_t* field) noexcept nogil:
    """`[0:8] little-endian, negated as a whole`: TIME is hour << 36 | minute << 30 | second << 24 | microsecond, the
    others have ((year * 13 + month) << 5 | day) << 41 before that.
    """
    cdef uint64_t packed, date
    cdef bint is_negative
    cdef uint8_t* to
    memcpy(&packed, field, 8)
    packed = le64toh(packed)
    is_negative = packed >> 63
    if is_negative:
        packed = 0 - packed
    if bytes_reserve(out, SCALAR_ROOM) < 0:
        return -1
    to = out.data + out.size
    to[0] = 34
    to += 1
    if column_type == TYPE_TIME:
        if is_negative:
            to[0] = 45
            to += 1
        to = _put_clock(to, packed >> 36 & 1023, packed)
    else:
        date = packed >> 41
        to = _put_number(to, (date >> 5) // 13, 4)
        to[0] = 45
        to = _put_digits(to + 1, (date >> 5) % 13, 2)
        to[0] = 45
        to = _put_digits(to + 1, date & 31, 2)
        if column_type != TYPE_DATE:
            to[0] = 32
            to = _put_clock(to + 1, packed >> 36 & 31, packed)
    to[0] = 34
    out.size = to + 1 - out.data
    return 0


cdef inline size_t _group_bytes(unsigned int digits) noexcept nogil:
    """Bytes of a group of 0 to 9 decimal digits."""
    return (digits + 1) // 2 if digits < 9 else 4


cdef int _print_decimal(bytes_t* out, const uint8_t* field, size_t size) noexcept nogil:
    """`[0] precision · [1] scale · [2:] the binary form`, which is `decimals.decimal_reader`'s."""
    cdef unsigned int scale, whole, digits, index, kept
    cdef unsigned int group_count, leading, trailing
    cdef size_t at = 2, bytes_needed, width, byte
    cdef uint8_t inverted
    cdef uint32_t group
    cdef uint8_t[80] text
    cdef uint8_t* to = text
    cdef uint8_t first
    cdef bint is_zero = True
    if size < 2 or field[0] == 0 or field[0] > PRECISION_MAX or field[1] > SCALE_MAX or field[1] > field[0]:
        return -1
    scale = field[1]
    whole = field[0] - scale
    leading = whole % 9
    trailing = scale % 9
    bytes_needed = _group_bytes(leading) + whole // 9 * 4 + scale // 9 * 4 + _group_bytes(trailing)
    if size != 2 + bytes_needed or bytes_reserve(out, SCALAR_ROOM) < 0:
        return -1
    # the first bit is set in numbers that are not negative; all bits of the others are inverted
    inverted = 0 if field[2] & 0x80 else 0xFF
    group_count = (leading > 0) + whole // 9 + scale // 9 + (trailing > 0)
    for index in range(group_count):
        digits = 9
        if index == 0 and leading:
            digits = leading
        elif index == group_count - 1 and trailing:
            digits = trailing
        width = _group_bytes(digits)
        group = 0
        for byte in range(width):
            first = field[at + byte] ^ inverted
            if index == 0 and byte == 0:
                first ^= 0x80
            group = group << 8 | first
        at += width
        if group >= TENS[digits]:
            return -1
        if group:
            is_zero = False
        to = _put_digits(to, group, digits)
    # no zeros before the number but one before the point
    kept = 0
    while kept < whole and text[kept] == 48:
        kept += 1
    if kept == whole and whole:
        kept -= 1
    to = out.data + out.size
    if inverted and not is_zero:
        to[0] = 45
        to += 1
    if whole:
        memcpy(to, text + kept, whole - kept)
        to += whole - kept
    else:
        to[0] = 48
        to += 1
    if scale:
        to[0] = 46
        memcpy(to + 1, text + whole, scale)
        to += 1 + scale
    out.size = to - out.data
    return 0


# ---------------------------------------------------------------- documents


cdef inline int _take(source_t* source, size_t start, size_t count, size_t end) noexcept nogil:
    """Charge `count` bytes from `start` on, which lie before `end`; -1 where they do not, or were read before."""
    if start + count > end or count > source.budget:
        return -1
    source.budget -= count
    return 0


cdef inline size_t _field(const uint8_t* at, size_t width) noexcept nogil:
    """A number of 2 or 4 bytes, little-endian."""
    if width == 2:
        return <size_t> at[0] | <size_t> at[1] << 8
    return <size_t> at[0] | <size_t> at[1] << 8 | <size_t> at[2] << 16 | <size_t> at[3] << 24


cdef inline int _take_length(source_t* source, size_t* start, size_t end, size_t* length) noexcept nogil:
    """A length of up to five bytes, seven bits each, the low ones first; `start` moves after it."""
    cdef int index
    cdef uint8_t byte
    length[0] = 0
    for index in range(5):
        if _take(source, start[0], 1, end) < 0:
            return -1
        byte = source.data[start[0]]
        start[0] += 1
        length[0] |= <size_t> (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return 0
    return -1


cdef inline int _print_literal(bytes_t* out, size_t value) noexcept nogil:
    cdef const char* word
    cdef size_t size = 4
    if value > 2 or bytes_reserve(out, SCALAR_ROOM) < 0:
        return -1
    if value == 0:
        word = b"null"
    elif value == 1:
        word = b"true"
    else:
        word = b"false"
        size = 5
    memcpy(out.data + out.size, word, size)
    out.size += size
    return 0


cdef inline int _print_integer(bytes_t* out, int kind, const uint8_t* field) noexcept nogil:
    cdef uint8_t* to
    cdef uint64_t word
    if bytes_reserve(out, SCALAR_ROOM) < 0:
        return -1
    to = out.data + out.size
    if kind == INT16:
        to = _put_int(to, <int16_t> <uint16_t> _field(field, 2))
    elif kind == UINT16:
        to = _put_number(to, _field(field, 2), 1)
    elif kind == INT32:
        to = _put_int(to, <int32_t> <uint32_t> _field(field, 4))
    elif kind == UINT32:
        to = _put_number(to, _field(field, 4), 1)
    else:
        memcpy(&word, field, 8)
        word = le64toh(word)
        to = _put_int(to, <int64_t> word) if kind == INT64 else _put_number(to, word, 1)
    out.size = to - out.data
    return 0


cdef inline size_t _integer_size(int kind) noexcept nogil:
    return 2 if kind <= UINT16 else 4 if kind <= UINT32 else 8


cdef inline bint _is_inline(int kind, size_t width) noexcept nogil:
    """Whether the value stands in its entry, in containers with offsets of that width."""
    return LITERAL <= kind <= (UINT16 if width == 2 else UINT32)


cdef inline int _print_inline(bytes_t* out, int kind, const uint8_t* entry, size_t width) noexcept nogil:
    if kind == LITERAL:
        return _print_literal(out, _field(entry, width))
    return _print_integer(out, kind, entry)


cdef int _open_container(source_t* source, int kind, size_t start, size_t end, container_t* container) noexcept nogil:
    """Read and charge the head and the entries of the container of that type; -1 where they do not fit."""
    cdef size_t width = 4 if kind & 1 else 2
    cdef size_t size
    if _take(source, start, 2 * width, end) < 0:
        return -1
    size = _field(source.data + start + width, width)
    container.is_object = kind <= LARGE_OBJECT
    container.width = width
    container.start = start
    # its own end: nothing of it lies outside, whatever its offsets say
    container.end = start + size
    container.count = _field(source.data + start, width)
    container.key_at = start + 2 * width
    container.value_at = container.key_at
    if container.is_object:
        container.value_at += (width + 2) * container.count
    if container.end > end:
        return -1
    return _take(
        source,
        container.key_at,
        container.value_at - container.key_at + (1 + width) * container.count,
        container.end,
    )


cdef inline int _take_key(
    source_t* source, const container_t* container, size_t index, size_t* start, size_t* length
) noexcept nogil:
    cdef const uint8_t* entry = source.data + container.key_at + index * (container.width + 2)
    start[0] = container.start + _field(entry, container.width)
    length[0] = _field(entry + container.width, 2)
    return _take(source, start[0], length[0], container.end)


cdef int _print_member(
    source_t* source, const container_t* container, size_t index, int depth, bytes_t* out
) noexcept nogil:
    """The value of a container's member; its entry is charged already."""
    cdef const uint8_t* entry = source.data + container.value_at + index * (1 + container.width)
    cdef int kind = entry[0]
    if _is_inline(kind, container.width):
        return _print_inline(out, kind, entry + 1, container.width)
    return _print_value(
        source, kind, container.start + _field(entry + 1, container.width), container.end, depth, out
    )


cdef int _print_container(source_t* source, int kind, size_t start, size_t end, int depth, bytes_t* out) noexcept nogil:
    cdef container_t container
    cdef size_t index, key = 0, length = 0
    if depth > NESTING_MAX or _open_container(source, kind, start, end, &container) < 0:
        return -1
    if bytes_reserve(out, 2) < 0:
        return -1
    out.data[out.size] = 123 if container.is_object else 91   # { [
    out.size += 1
    for index in range(container.count):
        if bytes_reserve(out, 4) < 0:
            return -1
        if index:
            memcpy(out.data + out.size, b", ", 2)
            out.size += 2
        if container.is_object:
            if _take_key(source, &container, index, &key, &length) < 0:
                return -1
            if _print_text(out, source.data + key, length, source.size - key) < 0 or bytes_reserve(out, 2) < 0:
                return -1
            memcpy(out.data + out.size, b": ", 2)
            out.size += 2
        if _print_member(source, &container, index, depth + 1, out) < 0:
            return -1
    if bytes_reserve(out, 1) < 0:
        return -1
    out.data[out.size] = 125 if container.is_object else 93   # } ]
    out.size += 1
    return 0


cdef int _print_opaque(source_t* source, size_t start, size_t end, bytes_t* out) noexcept nogil:
    """`[0] column type · length · so many bytes`"""
    cdef unsigned int column_type
    cdef size_t length
    if _take(source, start, 1, end) < 0:
        return -1
    column_type = source.data[start]
    start += 1
    if _take_length(source, &start, end, &length) < 0 or _take(source, start, length, end) < 0:
        return -1
    if column_type == TYPE_NEWDECIMAL:
        return _print_decimal(out, source.data + start, length)
    if column_type == TYPE_TIMESTAMP or TYPE_DATE <= column_type <= TYPE_DATETIME:
        return _print_temporal(out, column_type, source.data + start) if length == 8 else -1
    return _print_base64(out, column_type, source.data + start, length)


cdef int _print_value(source_t* source, int kind, size_t start, size_t end, int depth, bytes_t* out) noexcept nogil:
    """Append the value of type `kind` that begins at `start` and lies before `end`."""
    cdef size_t length
    if kind <= LARGE_ARRAY:
        return _print_container(source, kind, start, end, depth, out)
    if kind == STRING:
        if _take_length(source, &start, end, &length) < 0 or _take(source, start, length, end) < 0:
            return -1
        return _print_text(out, source.data + start, length, source.size - start)
    if kind == LITERAL:
        if _take(source, start, 1, end) < 0:
            return -1
        return _print_literal(out, source.data[start])
    if kind <= UINT64:
        if _take(source, start, _integer_size(kind), end) < 0:
            return -1
        return _print_integer(out, kind, source.data + start)
    if kind == DOUBLE:
        if _take(source, start, 8, end) < 0:
            return -1
        return _print_double(out, source.data + start)
    if kind == OPAQUE:
        return _print_opaque(source, start, end, out)
    return -1


cdef int json_print(const uint8_t* document, size_t size, bytes_t* out) noexcept nogil:
    """Append a JSON column's value; no bytes at all are the JSON null."""
    cdef size_t before = out.size
    cdef source_t source
    if size == 0:
        return _print_literal(out, 0)
    source.data = document
    source.size = size
    source.budget = size
    if _print_value(&source, document[0], 1, size, 1, out) < 0:
        out.size = before
        return -1
    return 0


# ---------------------------------------------------------------- partial updates
#
# A document that is changed stays where it is. Only the containers on the way to a change are opened, into a list of
# what they consist of now: runs of members that are as they were, and members that are not. So the memory is
# proportional to the changes, whatever the size of the document.

cdef struct value_t:
    # A value of a source; or, once it is opened, a container with its changes, and `kind` and bounds are void.
    source_t* source
    opened_t* opened
    size_t start
    size_t end
    int kind
    int inline_width   # 0, or the width of the entry's field at `start` that holds the value

cdef struct item_t:
    # `count` members from `first` on of what the container was; or, where `is_single`, one with a value of its own.
    item_t* next
    size_t first
    size_t count
    bint is_single
    value_t value
    const uint8_t* key   # of a single member in an object
    size_t key_size
    size_t key_readable

cdef struct opened_t:
    container_t container
    item_t* items
    size_t count

cdef struct leg_t:
    # One step of a path: `.name`, `[index]` or `[last-index]`.
    bint is_index
    bint is_from_end
    size_t index
    const uint8_t* name
    size_t name_size
    size_t name_readable

cdef struct block_t:
    block_t* before
    size_t capacity
    size_t used

cdef struct arena_t:
    block_t* block   # the last one

cdef enum:
    REPLACE = 0
    INSERT = 1
    REMOVE = 2


cdef void* _room_of(arena_t* arena, size_t size) noexcept nogil:
    """`size` bytes that live as long as the arena; NULL when there is no memory."""
    cdef block_t* block = arena.block
    cdef size_t capacity = 0
    size = (size + 7) & ~<size_t> 7
    if block == NULL or block.capacity - block.used < size:
        block = <block_t*> pool_take(sizeof(block_t) + size, &capacity)
        if block == NULL:
            return NULL
        block.before = arena.block
        block.capacity = capacity
        block.used = sizeof(block_t)
        arena.block = block
    block.used += size
    return <uint8_t*> block + block.used - size


cdef void _arena_free(arena_t* arena) noexcept nogil:
    cdef block_t* block = arena.block
    cdef block_t* before
    while block != NULL:
        before = block.before
        pool_give(<uint8_t*> block, block.capacity)
        block = before
    arena.block = NULL


cdef inline int _compare_keys(const uint8_t* a, size_t a_size, const uint8_t* b, size_t b_size) noexcept nogil:
    """The order of keys in objects: by length, then by bytes."""
    if a_size != b_size:
        return -1 if a_size < b_size else 1
    return memcmp(a, b, a_size)


cdef inline const uint8_t* _key(
    const source_t* source, const container_t* container, size_t index, size_t* size
) noexcept nogil:
    """A member's key; its bounds are checked already."""
    cdef const uint8_t* entry = source.data + container.key_at + index * (container.width + 2)
    size[0] = _field(entry + container.width, 2)
    return source.data + container.start + _field(entry, container.width)


cdef int _open_value(value_t* value, arena_t* arena) noexcept nogil:
    """Make an opened container of the value; -1 where it is none, or its keys are not in order."""
    cdef opened_t* opened
    cdef const uint8_t* before = NULL
    cdef const uint8_t* key
    cdef size_t index, start = 0, size = 0, size_before = 0
    if value.opened != NULL:
        return 0
    if value.kind > LARGE_ARRAY:
        return -1
    opened = <opened_t*> _room_of(arena, sizeof(opened_t))
    if opened == NULL:
        return -1
    if _open_container(value.source, value.kind, value.start, value.end, &opened.container) < 0:
        return -1
    if opened.container.is_object:
        for index in range(opened.container.count):
            if _take_key(value.source, &opened.container, index, &start, &size) < 0:
                return -1
            key = value.source.data + start
            if index and _compare_keys(before, size_before, key, size) >= 0:
                return -1
            before = key
            size_before = size
    opened.count = opened.container.count
    opened.items = NULL
    if opened.count:
        opened.items = <item_t*> _room_of(arena, sizeof(item_t))
        if opened.items == NULL:
            return -1
        memset(opened.items, 0, sizeof(item_t))
        opened.items.count = opened.count
    value.opened = opened
    return 0


cdef item_t** _index_place(opened_t* opened, size_t index, size_t* offset) noexcept nogil:
    """The item that member `index` is in and its number there; behind the last one for the index after all."""
    cdef item_t** place = &opened.items
    while place[0] != NULL and index >= place[0].count:
        index -= place[0].count
        place = &place[0].next
    offset[0] = index
    return place


cdef item_t** _key_place(
    const source_t* source, opened_t* opened, const uint8_t* key, size_t key_size, size_t* offset, bint* is_there
) noexcept nogil:
    """The item and the number in it where the member of that name is, or is to be inserted before."""
    cdef item_t** place = &opened.items
    cdef item_t* item
    cdef const uint8_t* other
    cdef size_t other_size = 0, low, high, middle
    cdef int order
    is_there[0] = False
    offset[0] = 0
    while place[0] != NULL:
        item = place[0]
        if item.is_single:
            order = _compare_keys(key, key_size, item.key, item.key_size)
        else:
            other = _key(source, &opened.container, item.first + item.count - 1, &other_size)
            order = _compare_keys(key, key_size, other, other_size)
        if order > 0:
            place = &item.next
            continue
        if item.is_single:
            is_there[0] = order == 0
            return place
        # the first key that is not before it: there is one
        low = 0
        high = item.count - 1
        while low < high:
            middle = low + (high - low) // 2
            other = _key(source, &opened.container, item.first + middle, &other_size)
            if _compare_keys(other, other_size, key, key_size) < 0:
                low = middle + 1
            else:
                high = middle
        other = _key(source, &opened.container, item.first + low, &other_size)
        offset[0] = low
        is_there[0] = _compare_keys(other, other_size, key, key_size) == 0
        return place
    return place


cdef item_t** _insert_item(item_t** place, size_t offset, item_t* item, arena_t* arena) noexcept nogil:
    """Put `item` before the member `offset` of the item at `place`; where it is then, NULL when there is no memory."""
    cdef item_t* front = place[0]
    cdef item_t* back
    if offset:
        back = <item_t*> _room_of(arena, sizeof(item_t))
        if back == NULL:
            return NULL
        back[0] = front[0]
        back.first += offset
        back.count -= offset
        front.count = offset
        front.next = back
        place = &front.next
    item.next = place[0]
    place[0] = item
    return place


cdef item_t** _single_item(
    source_t* source, opened_t* opened, item_t** place, size_t offset, arena_t* arena
) noexcept nogil:
    """Make an item of its own of the member `offset` of the item at `place`; where it is, NULL without memory."""
    cdef item_t* item = place[0]
    cdef item_t* single
    cdef const uint8_t* entry
    cdef size_t index
    cdef container_t* container = &opened.container
    if item.is_single:
        return place
    single = <item_t*> _room_of(arena, sizeof(item_t))
    if single == NULL:
        return NULL
    memset(single, 0, sizeof(item_t))
    index = item.first + offset
    entry = source.data + container.value_at + index * (1 + container.width)
    single.count = 1
    single.is_single = True
    single.value.source = source
    single.value.kind = entry[0]
    if _is_inline(entry[0], container.width):
        single.value.inline_width = container.width
        single.value.start = entry + 1 - source.data
    else:
        single.value.start = container.start + _field(entry + 1, container.width)
        single.value.end = container.end
    if container.is_object:
        single.key = _key(source, container, index, &single.key_size)
        single.key_readable = source.size - (single.key - source.data)
    place = _insert_item(place, offset, single, arena)
    if place == NULL:
        return NULL
    # what follows it is the run that it was the first member of
    item = single.next
    item.first += 1
    item.count -= 1
    if item.count == 0:
        single.next = item.next
    return place


cdef int _read_lenenc(const uint8_t* data, size_t size, size_t* at, uint64_t* value) noexcept nogil:
    """A length-encoded integer: 0 to 250, or 252, 253, 254 and 2, 3, 8 bytes, little-endian."""
    cdef size_t extra = 0, index
    if at[0] >= size:
        return -1
    value[0] = data[at[0]]
    at[0] += 1
    if value[0] < 251:
        return 0
    if value[0] == 252:
        extra = 2
    elif value[0] == 253:
        extra = 3
    elif value[0] == 254:
        extra = 8
    if extra == 0 or size - at[0] < extra:
        return -1
    value[0] = 0
    for index in range(extra):
        value[0] |= <uint64_t> data[at[0] + index] << 8 * index
    at[0] += extra
    return 0


cdef inline bint _is_name_byte(uint8_t code, bint is_first) noexcept nogil:
    """Whether a name without quotes may have it."""
    if code >= 0x80 or code == 36 or code == 95:   # $ _
        return True
    if 97 <= (code | 0x20) <= 122:
        return True
    return 48 <= code <= 57 and not is_first


cdef int _read_quoted(const uint8_t* text, size_t size, size_t* at, leg_t* leg, arena_t* arena) noexcept nogil:
    """A name in quotes, as `_put_escaped` makes them."""
    cdef size_t start = at[0] + 1, end = start, used = 0
    cdef bint is_escaped = False
    cdef uint8_t* name
    cdef uint8_t code
    while end < size and text[end] != 34:
        if text[end] < 0x20:
            return -1
        if text[end] == 92:
            is_escaped = True
            end += 1
        end += 1
    if end >= size:
        return -1
    at[0] = end + 1
    leg.name = text + start
    leg.name_size = end - start
    leg.name_readable = size - start
    if not is_escaped:
        return 0
    # no longer than it is with its escapes
    name = <uint8_t*> _room_of(arena, leg.name_size)
    if name == NULL:
        return -1
    while start < end:
        code = text[start]
        start += 1
        if code == 92:
            code = text[start]   # the loop above has seen it, before the closing quote
            start += 1
            if code == 98:
                code = 8
            elif code == 116:
                code = 9
            elif code == 110:
                code = 10
            elif code == 102:
                code = 12
            elif code == 114:
                code = 13
            elif code == 117:   # u, and the number of a control character
                if end - start < 4 or memcmp(text + start, b"00", 2) != 0:
                    return -1
                if text[start + 2] != 48 and text[start + 2] != 49:
                    return -1
                code = (text[start + 2] - 48) << 4
                if 48 <= text[start + 3] <= 57:
                    code |= text[start + 3] - 48
                elif 97 <= text[start + 3] <= 102:
                    code |= text[start + 3] - 87
                else:
                    return -1
                start += 4
            elif code != 34 and code != 92:
                return -1
        name[used] = code
        used += 1
    leg.name = name
    leg.name_size = used
    leg.name_readable = used
    return 0


cdef int _read_leg(const uint8_t* text, size_t size, size_t* at, leg_t* leg, arena_t* arena) noexcept nogil:
    """The next step of a path, which is not at its end; -1 where the server would not write it so."""
    cdef size_t start
    memset(leg, 0, sizeof(leg_t))
    if text[at[0]] == 46:   # .
        at[0] += 1
        if at[0] < size and text[at[0]] == 34:
            return _read_quoted(text, size, at, leg, arena)
        start = at[0]
        while at[0] < size and _is_name_byte(text[at[0]], at[0] == start):
            at[0] += 1
        leg.name = text + start
        leg.name_size = at[0] - start
        leg.name_readable = size - start
        return 0 if leg.name_size else -1
    if text[at[0]] != 91:   # [
        return -1
    leg.is_index = True
    at[0] += 1
    if size - at[0] >= 4 and memcmp(text + at[0], b"last", 4) == 0:
        leg.is_from_end = True
        at[0] += 4
        if at[0] < size and text[at[0]] == 93:   # ]
            at[0] += 1
            return 0
        if at[0] >= size or text[at[0]] != 45:   # -
            return -1
        at[0] += 1
    start = at[0]
    while at[0] < size and 48 <= text[at[0]] <= 57 and at[0] - start < 10:
        leg.index = leg.index * 10 + (text[at[0]] - 48)
        at[0] += 1
    if at[0] == start or leg.index >> 32 or at[0] >= size or text[at[0]] != 93:
        return -1
    at[0] += 1
    return 0


cdef int _insert_member(
    value_t* container, const leg_t* leg, const value_t* value, arena_t* arena
) noexcept nogil:
    """Put a new member into an opened container; past the end of an array is at its end. -1 where the name is there."""
    cdef opened_t* opened = container.opened
    cdef item_t** place
    cdef item_t* item
    cdef size_t offset = 0, index
    cdef bint is_there = False
    if leg.is_index:
        index = leg.index
        if leg.is_from_end:
            index = opened.count - index - 1 if index < opened.count else 0
        elif index > opened.count:
            index = opened.count
        place = _index_place(opened, index, &offset)
    else:
        place = _key_place(container.source, opened, leg.name, leg.name_size, &offset, &is_there)
        if is_there:
            return -1
    item = <item_t*> _room_of(arena, sizeof(item_t))
    if item == NULL:
        return -1
    memset(item, 0, sizeof(item_t))
    item.count = 1
    item.is_single = True
    item.value = value[0]
    item.key = leg.name
    item.key_size = leg.name_size
    item.key_readable = leg.name_readable
    if _insert_item(place, offset, item, arena) == NULL:
        return -1
    opened.count += 1
    return 0


cdef item_t** _member(value_t* container, const leg_t* leg, arena_t* arena) noexcept nogil:
    """The member of an opened container that the leg names, made an item of its own; NULL where there is none."""
    cdef opened_t* opened = container.opened
    cdef item_t** place
    cdef size_t offset = 0, index
    cdef bint is_there = False
    if leg.is_index:
        index = leg.index
        if index >= opened.count:
            return NULL
        if leg.is_from_end:
            index = opened.count - index - 1
        place = _index_place(opened, index, &offset)
    else:
        place = _key_place(container.source, opened, leg.name, leg.name_size, &offset, &is_there)
        if not is_there:
            return NULL
    return _single_item(container.source, opened, place, offset, arena)


cdef int _apply_diff(value_t* root, const uint8_t* diffs, size_t size, size_t* at, arena_t* arena) noexcept nogil:
    """`operation[1] · path length[lenenc] · path · unless it is REMOVE: value length[lenenc] · value`, from `at` on."""
    cdef int operation = diffs[at[0]]
    cdef const uint8_t* path
    cdef uint64_t path_size = 0, value_size = 0
    cdef size_t path_at = 1
    cdef value_t value
    cdef source_t* source
    cdef value_t* target = root
    cdef item_t** place
    cdef leg_t leg
    at[0] += 1
    if operation > REMOVE or _read_lenenc(diffs, size, at, &path_size) < 0 or path_size > size - at[0]:
        return -1
    path = diffs + at[0]
    at[0] += path_size
    memset(&value, 0, sizeof(value))
    if operation != REMOVE:
        if _read_lenenc(diffs, size, at, &value_size) < 0 or value_size > size - at[0] or value_size == 0:
            return -1
        source = <source_t*> _room_of(arena, sizeof(source_t))
        if source == NULL:
            return -1
        source.data = diffs + at[0]
        source.size = value_size
        source.budget = value_size
        value.source = source
        value.kind = source.data[0]
        value.start = 1
        value.end = value_size
        at[0] += value_size
    # the root itself is never changed: the server logs the whole document then
    if path_size < 2 or path[0] != 36:   # $
        return -1
    while True:
        if _read_leg(path, path_size, &path_at, &leg, arena) < 0 or _open_value(target, arena) < 0:
            return -1
        if target.opened.container.is_object == leg.is_index:
            return -1
        if path_at == path_size and operation == INSERT:
            return _insert_member(target, &leg, &value, arena)
        place = _member(target, &leg, arena)
        if place == NULL:
            return -1
        if path_at == path_size:
            break
        target = &place[0].value
    if operation == REMOVE:
        place[0] = place[0].next
        target.opened.count -= 1
    else:
        place[0].value = value
    return 0


cdef int _print_changed(const value_t* value, int depth, bytes_t* out) noexcept nogil:
    cdef opened_t* opened = value.opened
    cdef container_t* container
    cdef source_t* source = value.source
    cdef item_t* item
    cdef size_t index, size = 0
    cdef const uint8_t* key
    cdef size_t before
    if opened == NULL:
        if value.inline_width:
            return _print_inline(out, value.kind, source.data + value.start, value.inline_width)
        return _print_value(source, value.kind, value.start, value.end, depth, out)
    if depth > NESTING_MAX or bytes_reserve(out, 1) < 0:
        return -1
    container = &opened.container
    out.data[out.size] = 123 if container.is_object else 91   # { [
    out.size += 1
    before = out.size
    item = opened.items
    while item != NULL:
        for index in range(item.count):
            if bytes_reserve(out, 2) < 0:
                return -1
            if out.size != before:
                memcpy(out.data + out.size, b", ", 2)
                out.size += 2
            if container.is_object:
                if item.is_single:
                    if _print_text(out, item.key, item.key_size, item.key_readable) < 0:
                        return -1
                else:
                    key = _key(source, container, item.first + index, &size)
                    if _print_text(out, key, size, source.size - (key - source.data)) < 0:
                        return -1
                if bytes_reserve(out, 2) < 0:
                    return -1
                memcpy(out.data + out.size, b": ", 2)
                out.size += 2
            if item.is_single:
                if _print_changed(&item.value, depth + 1, out) < 0:
                    return -1
            elif _print_member(source, container, item.first + index, depth + 1, out) < 0:
                return -1
        item = item.next
    if bytes_reserve(out, 1) < 0:
        return -1
    out.data[out.size] = 125 if container.is_object else 93   # } ]
    out.size += 1
    return 0


cdef int json_apply(
    const uint8_t* document, size_t size, const uint8_t* diffs, size_t diffs_size, bytes_t* out
) noexcept nogil:
    """Append what a JSON column's value is after the changes."""
    cdef size_t before = out.size, at = 0
    cdef source_t source
    cdef value_t root
    cdef arena_t arena
    cdef int result = 0
    if diffs_size == 0 or size == 0:
        # the JSON null has no place to change
        return json_print(document, size, out) if diffs_size == 0 else -1
    source.data = document
    source.size = size
    source.budget = size
    memset(&root, 0, sizeof(root))
    root.source = &source
    root.kind = document[0]
    root.start = 1
    root.end = size
    arena.block = NULL
    while at < diffs_size and result == 0:
        result = _apply_diff(&root, diffs, diffs_size, &at, &arena)
    if result == 0:
        result = _print_changed(&root, 1, out)
    if result != 0:
        out.size = before
        result = -1
    _arena_free(&arena)
    return result


# ---------------------------------------------------------------- for tests and tools


def json_text(const uint8_t[::1] document not None) -> str:
    """`cdc.binlog.json_text.json_text`, compiled. ValueError where that raises, without saying why."""
    cdef bytes_t out
    cdef int refused
    cdef size_t size = document.shape[0]
    memset(&out, 0, sizeof(out))
    try:
        with nogil:
            refused = json_print(&document[0] if size else NULL, size, &out)
        if refused:
            raise ValueError("no JSON document")
        return PyUnicode_DecodeUTF8(<char*> out.data, out.size, NULL)
    finally:
        bytes_free(&out)


def apply_json_diffs(
    const uint8_t[::1] document not None, const uint8_t[::1] diffs not None
) -> str:
    """`cdc.binlog.json_text.apply_json_diffs`, compiled. ValueError where that raises, without saying why."""
    cdef bytes_t out
    cdef int refused
    cdef size_t size = document.shape[0], diffs_size = diffs.shape[0]
    memset(&out, 0, sizeof(out))
    try:
        with nogil:
            refused = json_apply(
                &document[0] if size else NULL, size, &diffs[0] if diffs_size else NULL, diffs_size, &out
            )
        if refused:
            raise ValueError("no JSON document, or no changes of it")
        return PyUnicode_DecodeUTF8(<char*> out.data, out.size, NULL)
    finally:
        bytes_free(&out)
