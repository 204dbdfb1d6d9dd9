/* What copy_text.pyx needs and Cython has no words for: digits, numbers of 128 bits and more, copies in blocks.
 * A `put_` function writes at `to` and returns where that ends. The room for it is the caller's business.
 */
#ifndef CDC_KERNEL_COPY_TEXT_H
#define CDC_KERNEL_COPY_TEXT_H

#include "rows.h" /* unaligned loads, UTF-8 */

#if defined(__SSE2__) && !defined(CDC_NO_SIMD)
#define CDC_COPY_IN_BLOCKS 1
#endif

/* ---- digits */

static const char PAIRS[] =
    "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
    "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

#define TEN_19 UINT64_C(10000000000000000000)

static const uint64_t POWERS_OF_TEN[20] = {
    1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u,
    UINT64_C(10000000000), UINT64_C(100000000000), UINT64_C(1000000000000), UINT64_C(10000000000000),
    UINT64_C(100000000000000), UINT64_C(1000000000000000), UINT64_C(10000000000000000),
    UINT64_C(100000000000000000), UINT64_C(1000000000000000000), TEN_19};

static inline int digit_count(uint64_t value) {
    int guess = (64 - __builtin_clzll(value | 1)) * 1233 >> 12; /* 1233/4096 is nearly log10(2) */
    return guess + (guess == 0 || value >= POWERS_OF_TEN[guess]);
}

static inline uint8_t* put_pair(uint8_t* to, unsigned value) {
    memcpy(to, PAIRS + 2 * value, 2);
    return to + 2;
}

/* `count` digits, no fewer than `value` has. */
static inline uint8_t* put_digits(uint8_t* to, uint64_t value, int count) {
    uint8_t* at = to + count;
    uint32_t rest;
    while (value > UINT32_MAX && at - to >= 2) {
        at -= 2;
        memcpy(at, PAIRS + 2 * (value % 100), 2);
        value /= 100;
    }
    for (rest = (uint32_t)value; at - to >= 2; rest /= 100) { /* divisions of half the width */
        at -= 2;
        memcpy(at, PAIRS + 2 * (rest % 100), 2);
    }
    if (at != to) *to = (uint8_t)('0' + rest % 10);
    return to + count;
}

static inline uint8_t* put_unsigned(uint8_t* to, uint64_t value) { return put_digits(to, value, digit_count(value)); }

static inline uint8_t* put_signed(uint8_t* to, int64_t value) {
    if (value >= 0) return put_unsigned(to, (uint64_t)value);
    *to = '-';
    return put_unsigned(to + 1, 0 - (uint64_t)value);
}

/* ---- decimals: an integer and how many of its digits stand behind the point */

/* In groups of 19 digits, the low one first; the highest is not 0 unless it is the only one. */
static inline uint8_t* put_groups(uint8_t* to, const uint64_t* groups, int group_count, int scale) {
    uint8_t digits[5 * 19 + 1];
    uint8_t* end = put_unsigned(digits, groups[group_count - 1]);
    int index, count;
    for (index = group_count - 1; index-- > 0;) end = put_digits(end, groups[index], 19);
    count = (int)(end - digits);
    if (count <= scale) {
        *to++ = '0';
        *to++ = '.';
        memset(to, '0', (size_t)(scale - count));
        to += scale - count;
    } else {
        memcpy(to, digits, (size_t)(count - scale));
        to += count - scale;
        if (scale) *to++ = '.';
    }
    index = count > scale ? count - scale : 0;
    memcpy(to, digits + index, (size_t)(count - index));
    return to + (count - index);
}

/* [0:16] two's complement, little-endian */
static inline uint8_t* put_decimal(uint8_t* to, const uint8_t* at, int scale) {
    uint64_t low = load_64(at), high = load_64(at + 8), groups[3];
    uint128_t value;
    int group_count;
    if (high >> 63) {
        *to++ = '-';
        low = 0 - low;
        high = ~high + (low == 0);
    }
    if (high == 0 && scale <= 19) { /* nearly all of them */
        if (scale == 0) return put_unsigned(to, low);
        if (scale == 2) { /* money: a division by a constant */
            to = put_unsigned(to, low / 100);
            *to = '.';
            return put_pair(to + 1, (unsigned)(low % 100));
        }
        to = put_unsigned(to, low / POWERS_OF_TEN[scale]);
        *to = '.';
        return put_digits(to + 1, low % POWERS_OF_TEN[scale], scale);
    }
    value = (uint128_t)high << 64 | low;
    for (group_count = 0; value; value /= TEN_19) groups[group_count++] = (uint64_t)(value % TEN_19);
    if (group_count == 0) groups[group_count++] = 0;
    return put_groups(to, groups, group_count, scale);
}

/* [0:32] two's complement, little-endian */
static inline uint8_t* put_long_decimal(uint8_t* to, const uint8_t* at, int scale) {
    uint64_t limbs[4], groups[5], rest;
    uint128_t part;
    int index, group_count = 0;
    for (index = 0; index < 4; index++) limbs[index] = load_64(at + 8 * index);
    if (limbs[3] >> 63) {
        int carry = 1;
        *to++ = '-';
        for (index = 0; index < 4; index++) {
            limbs[index] = ~limbs[index] + (uint64_t)carry;
            carry = carry && limbs[index] == 0;
        }
    }
    do { /* 2**255 has 77 digits: five groups at most */
        rest = 0;
        for (index = 3; index >= 0; index--) {
            part = (uint128_t)rest << 64 | limbs[index];
            limbs[index] = (uint64_t)(part / TEN_19); /* rest < TEN_19, so it fits */
            rest = (uint64_t)(part % TEN_19);
        }
        groups[group_count++] = rest;
    } while (limbs[0] | limbs[1] | limbs[2] | limbs[3]);
    return put_groups(to, groups, group_count, scale);
}

/* ---- floating point: digits * 10**exponent as Python's repr() lays it out */

static inline uint8_t* put_shortest(uint8_t* to, uint64_t value, int exponent) {
    uint8_t digits[20];
    int count, point; /* which stands after this many digits */
    if (value % 100000000 == 0) value /= 100000000, exponent += 8;
    if (value % 100000000 == 0) value /= 100000000, exponent += 8;
    if (value % 10000 == 0) value /= 10000, exponent += 4;
    if (value % 100 == 0) value /= 100, exponent += 2;
    if (value % 10 == 0) value /= 10, exponent += 1;
    count = digit_count(value);
    put_digits(digits, value, count);
    point = count + exponent;
    if (point > 16 || point <= -4) {
        *to++ = digits[0];
        if (count > 1) {
            *to++ = '.';
            memcpy(to, digits + 1, (size_t)(count - 1));
            to += count - 1;
        }
        *to++ = 'e';
        *to++ = point > 0 ? '+' : '-';
        exponent = point > 0 ? point - 1 : 1 - point;
        return put_digits(to, (uint64_t)exponent, exponent < 100 ? 2 : 3);
    }
    if (point <= 0) {
        *to++ = '0';
        *to++ = '.';
        memset(to, '0', (size_t)-point);
        to += -point;
        memcpy(to, digits, (size_t)count);
        return to + count;
    }
    if (point >= count) {
        memcpy(to, digits, (size_t)count);
        memset(to + count, '0', (size_t)(point - count));
        to += point;
        *to++ = '.';
        *to++ = '0';
        return to;
    }
    memcpy(to, digits, (size_t)point);
    to[point] = '.';
    memcpy(to + point + 1, digits + point, (size_t)(count - point));
    return to + count + 1;
}

/* ---- dates and times */

static inline int is_calendar_date(unsigned year, unsigned month, unsigned day) {
    static const uint8_t days[13] = {0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (year < 1 || year > 9999 || month < 1 || month > 12 || day < 1 || day > days[month]) return 0;
    return month != 2 || day != 29 || (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
}

static inline uint8_t* put_date(uint8_t* to, unsigned year, unsigned month, unsigned day) {
    to = put_pair(put_pair(to, year / 100), year % 100);
    *to = '-';
    to = put_pair(to + 1, month);
    *to = '-';
    return put_pair(to + 1, day);
}

/* A day of the years 1970 to 9999, counted from 1970-01-01.
 * Source: Howard Hinnant, chrono-Compatible Low-Level Date Algorithms, civil_from_days. */
static inline uint8_t* put_day(uint8_t* to, uint32_t day) {
    uint32_t days = day + 719468; /* since 0000-03-01 */
    uint32_t era = days / 146097, of_era = days % 146097;
    uint32_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    uint32_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint32_t shifted = (5 * of_year + 2) / 153; /* months since March */
    uint32_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    return put_date(to, year_of_era + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1);
}

/* `:mm:ss.ffffff` */
static inline uint8_t* put_minutes(uint8_t* to, unsigned minute, unsigned second, unsigned micro) {
    *to = ':';
    to = put_pair(to + 1, minute);
    *to = ':';
    to = put_pair(to + 1, second);
    *to = '.';
    to = put_pair(to + 1, micro / 10000);
    return put_pair(put_pair(to, micro / 100 % 100), micro % 100);
}

/* `((year * 13 + month) << 5 | day) << 41 | hour << 36 | minute << 30 | second << 24 | microsecond`, whatever they are */
static inline uint8_t* put_datetime(uint8_t* to, uint64_t packed) {
    unsigned months = (unsigned)(packed >> 46);
    to = put_date(to, months / 13, months % 13, packed >> 41 & 31);
    *to = ' ';
    to = put_pair(to + 1, packed >> 36 & 31);
    return put_minutes(to, packed >> 30 & 63, packed >> 24 & 63, packed & 0xFFFFFF);
}

/* Microseconds since 1970, up to the year 9999; NULL beyond it. */
static inline uint8_t* put_timestamp(uint8_t* to, uint64_t micros) {
    uint64_t days = micros / UINT64_C(86400000000);
    unsigned seconds, micro;
    if (days > 2932896) return NULL;
    micros -= days * UINT64_C(86400000000);
    seconds = (unsigned)(micros / 1000000), micro = (unsigned)(micros % 1000000);
    to = put_day(to, (uint32_t)days);
    *to = ' ';
    to = put_pair(to + 1, seconds / 3600);
    return put_minutes(to, seconds / 60 % 60, seconds % 60, micro);
}

/* Signed microseconds; hours have two digits at least. */
static inline uint8_t* put_time(uint8_t* to, int64_t micros) {
    uint64_t value = (uint64_t)micros, seconds;
    if (micros < 0) {
        value = 0 - value;
        *to++ = '-';
    }
    seconds = value / 1000000;
    to = seconds < 360000 ? put_pair(to, (unsigned)(seconds / 3600)) : put_unsigned(to, seconds / 3600);
    return put_minutes(to, seconds / 60 % 60, seconds % 60, (unsigned)(value % 1000000));
}

/* ---- bytes */

/* Two digits a byte. */
static inline uint8_t* put_hex(uint8_t* to, const uint8_t* in, size_t size) {
    static const char digits[] = "0123456789abcdef";
#ifdef CDC_COPY_IN_BLOCKS
    const __m128i mask = _mm_set1_epi8(15), nine = _mm_set1_epi8(9), zero = _mm_set1_epi8('0');
    const __m128i to_letters = _mm_set1_epi8('a' - '0' - 10);
    for (; size >= 16; size -= 16, in += 16, to += 32) {
        __m128i bytes = _mm_loadu_si128((const __m128i*)in);
        __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask), low = _mm_and_si128(bytes, mask);
        high = _mm_add_epi8(_mm_add_epi8(high, zero), _mm_and_si128(_mm_cmpgt_epi8(high, nine), to_letters));
        low = _mm_add_epi8(_mm_add_epi8(low, zero), _mm_and_si128(_mm_cmpgt_epi8(low, nine), to_letters));
        _mm_storeu_si128((__m128i*)to, _mm_unpacklo_epi8(high, low));
        _mm_storeu_si128((__m128i*)(to + 16), _mm_unpackhi_epi8(high, low));
    }
#endif
    for (; size; size--, in++) {
        *to++ = (uint8_t)digits[*in >> 4];
        *to++ = (uint8_t)digits[*in & 15];
    }
    return to;
}

static inline uint8_t* put_uuid(uint8_t* to, const uint8_t* at) {
    static const uint8_t lengths[5] = {4, 2, 2, 2, 6};
    int index;
    for (index = 0; index < 5; at += lengths[index++]) {
        if (index) *to++ = '-';
        to = put_hex(to, at, lengths[index]);
    }
    return to;
}

static inline uint8_t* put_inet4(uint8_t* to, const uint8_t* at) {
    int index;
    for (index = 0; index < 4; index++) {
        if (index) *to++ = '.';
        to = put_unsigned(to, at[index]);
    }
    return to;
}

/* RFC 5952, and IPv4 where it is embedded; 45 bytes at most. */
static inline uint8_t* put_inet6(uint8_t* to, const uint8_t* at) {
    unsigned words[8];
    int index, shift, run, begin = 8, longest = 1; /* of words that are 0: one alone is printed */
    for (index = 0; index < 8; index++) words[index] = (unsigned)at[2 * index] << 8 | at[2 * index + 1];
    for (index = 0; index < 8; index += run ? run : 1) {
        for (run = 0; index + run < 8 && words[index + run] == 0;) run++;
        if (run > longest) begin = index, longest = run;
    }
    if (begin == 0 && (longest == 5 || longest == 6) && (words[5] == 0xFFFF || (words[5] == 0 && words[6]))) {
        memcpy(to, "::ffff:", 7);
        return put_inet4(words[5] ? to + 7 : to + 2, at + 12);
    }
    for (index = 0; index < 8;) {
        if (index == begin) {
            *to++ = ':';
            if (index == 0) *to++ = ':';
            index += longest;
            continue;
        }
        for (shift = 12; shift > 0 && words[index] >> shift == 0;) shift -= 4;
        for (; shift >= 0; shift -= 4) *to++ = (uint8_t)"0123456789abcdef"[words[index] >> shift & 15];
        if (++index < 8) *to++ = ':';
    }
    return to;
}

/* Copy what stands before the first byte that COPY escapes or that has to be looked at (control characters up to CR, the
 * backslash), `size` at most; how many bytes. There is room for 16 more. Nothing at or after `end` is read. `high`
 * gets bits where bytes above ASCII are. */
static inline size_t copy_plain(uint8_t* to, const uint8_t* in, size_t size, const uint8_t* end, uint32_t* high) {
    size_t at = 0;
#ifdef CDC_COPY_IN_BLOCKS
    const __m128i control = _mm_set1_epi8(13), backslash = _mm_set1_epi8('\\');
    while (at < size) {
        size_t left = size - at;
        uint8_t padded[16];
        const uint8_t* from = in + at;
        __m128i block;
        uint32_t special, signs, wanted;
        if ((size_t)(end - from) < 16) { /* hence left < 16 */
            memset(padded, 0, 16);
            memcpy(padded, from, left);
            from = padded;
        }
        block = _mm_loadu_si128((const __m128i*)from);
        _mm_storeu_si128((__m128i*)(to + at), block);
        special = (uint32_t)_mm_movemask_epi8(
            _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(block, control), block), _mm_cmpeq_epi8(block, backslash)));
        signs = (uint32_t)_mm_movemask_epi8(block);
        wanted = left < 16 ? (1u << left) - 1 : 0xFFFFu;
        special &= wanted;
        if (special) {
            wanted = (special & (0 - special)) - 1;
            *high |= signs & wanted;
            return at + (size_t)__builtin_ctz(special);
        }
        *high |= signs & wanted;
        at += left < 16 ? left : 16;
    }
#else
    (void)end;
    for (; at < size && in[at] > 13 && in[at] != '\\'; at++) {
        to[at] = in[at];
        *high |= in[at] & 0x80u;
    }
#endif
    return at;
}

#endif
