/* What rows.pyx needs and Cython has no words for: copies in blocks of 32 bytes, the automaton of
 * UTF-8, numbers of 128 bits, and the loop over values of fixed size, which jumps from value to value.
 */
#ifndef CDC_KERNEL_ROWS_H
#define CDC_KERNEL_ROWS_H

#include "loads.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef unsigned __int128 uint128_t;

#define HIGH_BITS 0x8080808080808080u

static inline uint32_t swap_32(uint32_t value) { return __builtin_bswap32(value); }

/* Eight bytes, the high one first. */
static inline uint64_t load_big(const uint8_t* at) { return __builtin_bswap64(load_64(at)); }

/* Three bytes, two's complement; four are read. The shift back repeats the sign. */
static inline int32_t load_24_signed(const uint8_t* at) { return (int32_t)(load_32(at) << 8) >> 8; }

/* 1 to 8 bytes, the low one first; no others are read. */
static inline uint64_t load_little(const uint8_t* at, size_t size) {
    uint64_t value = 0;
    size_t index;
    if (size == 8) return load_64(at);
    for (index = size; index-- > 0;) value = value << 8 | at[index];
    return value;
}

static inline int lowest_bit(uint64_t value) { return __builtin_ctzll(value); }

static inline size_t bit_count(uint64_t value) { return (size_t)__builtin_popcountll(value); }

/* ---- copies: they say whether all of it is ASCII. Most strings are short: a block of 32 bytes, whatever the length,
 * costs less than a call of memcpy that has to find out how long it is (and no branch that the length decides). */

/* The signs of 32 bytes that are copied. */
static inline uint32_t copy_32(uint8_t* out, const uint8_t* in) {
#if defined(__SSE2__)
    __m128i low = _mm_loadu_si128((const __m128i*)in), high = _mm_loadu_si128((const __m128i*)(in + 16));
    _mm_storeu_si128((__m128i*)out, low);
    _mm_storeu_si128((__m128i*)(out + 16), high);
    return (uint32_t)_mm_movemask_epi8(low) | (uint32_t)_mm_movemask_epi8(high) << 16;
#else
    uint32_t signs = 0;
    int index;
    memcpy(out, in, 32);
    for (index = 0; index < 32; index += 8)
        signs |= (uint32_t)((load_64(in + index) & HIGH_BITS) * UINT64_C(0x0002040810204081) >> 56) << index;
    return signs;
#endif
}

/* At most 32 bytes; as many can be read and written. */
static inline int copy_short(uint8_t* out, const uint8_t* in, size_t size) {
    return (copy_32(out, in) & (uint32_t)((UINT64_C(1) << size) - 1)) == 0;
}

static inline int copy_exactly(uint8_t* out, const uint8_t* in, size_t size) {
    uint64_t high = 0, word;
    size_t index;
    if (size >= 8) {
        for (index = 0; index + 8 <= size; index += 8) {
            word = load_64(in + index);
            memcpy(out + index, &word, 8);
            high |= word;
        }
        word = load_64(in + size - 8);
        memcpy(out + size - 8, &word, 8);
        return ((high | word) & HIGH_BITS) == 0;
    }
    if (size >= 4) {
        uint32_t first = load_32(in), last = load_32(in + size - 4);
        memcpy(out, &first, 4);
        memcpy(out + size - 4, &last, 4);
        return ((first | last) & 0x80808080u) == 0;
    }
    for (index = 0; index < size; index++) {
        out[index] = in[index];
        high |= in[index];
    }
    return (high & 0x80) == 0;
}

/* Any length; there is room for 64 bytes more. Blocks are read only where 64 bytes more are there to read, too. */
static inline int copy_blocks(uint8_t* out, const uint8_t* in, size_t size, const uint8_t* end) {
    uint64_t high = 0, signs;
    if ((size_t)(end - in) < size + 64) return copy_exactly(out, in, size);
    for (; size >= 64; size -= 64, in += 64, out += 64)
        high |= copy_32(out, in) | copy_32(out + 32, in + 32);
    signs = copy_32(out, in) | (uint64_t)copy_32(out + 32, in + 32) << 32;
    return (high | (signs & ((UINT64_C(1) << size) - 1))) == 0;
}

/* ---- UTF-8: a row a byte, and in it the next state at the bit that the present state says (six bits a state) */

enum {
    UTF8_REJECT = 0,
    UTF8_ACCEPT = 6,
    UTF8_ONE = 12,   /* so many continuation bytes are to come */
    UTF8_TWO = 18,
    UTF8_THREE = 24,
    UTF8_E0 = 30,    /* the next byte is of a smaller range: no overlong forms, no surrogates, nothing above 10FFFF */
    UTF8_ED = 36,
    UTF8_F0 = 42,
    UTF8_F4 = 48
};

static int utf8_has_blocks; /* can the processor do it sixteen bytes a step? */
static uint64_t utf8_rows[2][256]; /* [1]: the basic plane alone, utf8mb3 */

static inline void utf8_fill(int plane, int state, int first, int last, int next) {
    int byte;
    for (byte = first; byte <= last; byte++) utf8_rows[plane][byte] |= (uint64_t)next << state;
}

static inline void utf8_prepare(void) {
    int plane;
    memset(utf8_rows, 0, sizeof utf8_rows);
#if defined(__x86_64__) && defined(__GNUC__)
    utf8_has_blocks = __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1");
#endif
    for (plane = 0; plane < 2; plane++) {
        utf8_fill(plane, UTF8_ACCEPT, 0x00, 0x7F, UTF8_ACCEPT);
        utf8_fill(plane, UTF8_ACCEPT, 0xC2, 0xDF, UTF8_ONE);
        utf8_fill(plane, UTF8_ACCEPT, 0xE0, 0xE0, UTF8_E0);
        utf8_fill(plane, UTF8_ACCEPT, 0xE1, 0xEC, UTF8_TWO);
        utf8_fill(plane, UTF8_ACCEPT, 0xED, 0xED, UTF8_ED);
        utf8_fill(plane, UTF8_ACCEPT, 0xEE, 0xEF, UTF8_TWO);
        utf8_fill(plane, UTF8_ONE, 0x80, 0xBF, UTF8_ACCEPT);
        utf8_fill(plane, UTF8_TWO, 0x80, 0xBF, UTF8_ONE);
        utf8_fill(plane, UTF8_E0, 0xA0, 0xBF, UTF8_ONE);
        utf8_fill(plane, UTF8_ED, 0x80, 0x9F, UTF8_ONE);
    }
    utf8_fill(0, UTF8_ACCEPT, 0xF0, 0xF0, UTF8_F0);
    utf8_fill(0, UTF8_ACCEPT, 0xF1, 0xF3, UTF8_THREE);
    utf8_fill(0, UTF8_ACCEPT, 0xF4, 0xF4, UTF8_F4);
    utf8_fill(0, UTF8_THREE, 0x80, 0xBF, UTF8_TWO);
    utf8_fill(0, UTF8_F0, 0x90, 0xBF, UTF8_TWO);
    utf8_fill(0, UTF8_F4, 0x80, 0x8F, UTF8_TWO);
}

/* Sixteen bytes a step, where the processor shuffles bytes: what is wrong with two bytes that follow each other is the
 * AND of three looked-up sets of errors, by the first one's two halves and the second one's upper half; where a third or
 * fourth byte is due, two continuations in a row are right. Source: J. Keiser, D. Lemire, "Validating UTF-8 In Less Than One
 * Instruction Per Byte" (2020). Four times as fast as the automaton on long texts.
 */
#if defined(__x86_64__) && defined(__GNUC__)
#define UTF8_BY_BLOCKS 1
#include <immintrin.h>

enum {
    TOO_SHORT = 1 << 0,     /* lead byte, then no continuation */
    TOO_LONG = 1 << 1,      /* ASCII, then a continuation */
    OVERLONG_3 = 1 << 2,    /* 11100000 100_____ */
    SURROGATE = 1 << 4,     /* 11101101 101_____ */
    OVERLONG_2 = 1 << 5,    /* 1100000_ 10______ */
    TOO_LARGE = 1 << 3,     /* 11110100 1001____ and up */
    TOO_LARGE_1000 = 1 << 6, /* 11110101 and up, 1000____ */
    OVERLONG_4 = 1 << 6,    /* 11110000 1000____ */
    TWO_CONTS = 1 << 7,     /* 10______ 10______: only right where a third or fourth byte is due */
    CARRY = TOO_SHORT | TOO_LONG | TWO_CONTS,
};

__attribute__((target("ssse3,sse4.1")))
static int is_utf8_by_blocks(const uint8_t* at, size_t size, int plane) {
    const __m128i first_high = _mm_setr_epi8(
        TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG,
        (char)TWO_CONTS, (char)TWO_CONTS, (char)TWO_CONTS, (char)TWO_CONTS,
        TOO_SHORT | OVERLONG_2, TOO_SHORT,
        TOO_SHORT | OVERLONG_3 | SURROGATE,
        TOO_SHORT | TOO_LARGE | TOO_LARGE_1000 | OVERLONG_4);
    const __m128i first_low = _mm_setr_epi8(
        (char)(CARRY | OVERLONG_3 | OVERLONG_2 | OVERLONG_4), (char)(CARRY | OVERLONG_2), (char)CARRY, (char)CARRY,
        (char)(CARRY | TOO_LARGE),
        (char)(CARRY | TOO_LARGE | TOO_LARGE_1000), (char)(CARRY | TOO_LARGE | TOO_LARGE_1000),
        (char)(CARRY | TOO_LARGE | TOO_LARGE_1000), (char)(CARRY | TOO_LARGE | TOO_LARGE_1000),
        (char)(CARRY | TOO_LARGE | TOO_LARGE_1000), (char)(CARRY | TOO_LARGE | TOO_LARGE_1000),
        (char)(CARRY | TOO_LARGE | TOO_LARGE_1000), (char)(CARRY | TOO_LARGE | TOO_LARGE_1000),
        (char)(CARRY | TOO_LARGE | TOO_LARGE_1000 | SURROGATE),
        (char)(CARRY | TOO_LARGE | TOO_LARGE_1000), (char)(CARRY | TOO_LARGE | TOO_LARGE_1000));
    const __m128i second_high = _mm_setr_epi8(
        TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,
        (char)(TOO_LONG | OVERLONG_2 | TWO_CONTS | OVERLONG_3 | TOO_LARGE_1000 | OVERLONG_4),
        (char)(TOO_LONG | OVERLONG_2 | TWO_CONTS | OVERLONG_3 | TOO_LARGE),
        (char)(TOO_LONG | OVERLONG_2 | TWO_CONTS | SURROGATE | TOO_LARGE),
        (char)(TOO_LONG | OVERLONG_2 | TWO_CONTS | SURROGATE | TOO_LARGE),
        TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT);
    const __m128i nibble = _mm_set1_epi8(0x0F);
    const __m128i lead_max = _mm_set1_epi8((char)(plane ? 0xEF : 0xFF));
    __m128i before = _mm_setzero_si128(), bad = _mm_setzero_si128(), open = _mm_setzero_si128();
    /* what may still be open at a block's end: a lead byte too near to it */
    const __m128i closed = _mm_setr_epi8(
        (char)255, (char)255, (char)255, (char)255, (char)255, (char)255, (char)255, (char)255, (char)255, (char)255,
        (char)255, (char)255, (char)255, (char)0xEF, (char)0xDF, (char)0xBF);
    uint8_t tail[16];
    int is_last = 0;
    while (!is_last) {
        __m128i block;
        if (size >= 16) {
            block = _mm_loadu_si128((const __m128i*)at);
            at += 16;
            size -= 16;
        } else {
            memset(tail, 0, 16);   /* ASCII behind the end shows what is open there */
            memcpy(tail, at, size);
            block = _mm_loadu_si128((const __m128i*)tail);
            is_last = 1;
        }
        if (_mm_movemask_epi8(block) == 0) {
            bad = _mm_or_si128(bad, open);
            open = _mm_setzero_si128();
        } else {
            __m128i one = _mm_alignr_epi8(block, before, 15);
            __m128i two = _mm_alignr_epi8(block, before, 14);
            __m128i three = _mm_alignr_epi8(block, before, 13);
            __m128i special = _mm_and_si128(
                _mm_and_si128(
                    _mm_shuffle_epi8(first_high, _mm_and_si128(_mm_srli_epi16(one, 4), nibble)),
                    _mm_shuffle_epi8(first_low, _mm_and_si128(one, nibble))),
                _mm_shuffle_epi8(second_high, _mm_and_si128(_mm_srli_epi16(block, 4), nibble)));
            /* the top bit is set where a third or fourth byte is due */
            __m128i due = _mm_or_si128(
                _mm_subs_epu8(two, _mm_set1_epi8((char)(0xE0 - 0x80))),
                _mm_subs_epu8(three, _mm_set1_epi8((char)(0xF0 - 0x80))));
            due = _mm_and_si128(due, _mm_set1_epi8((char)0x80));
            bad = _mm_or_si128(bad, _mm_xor_si128(due, special));
            bad = _mm_or_si128(bad, _mm_subs_epu8(block, lead_max));
            open = _mm_subs_epu8(block, closed);
        }
        before = block;
    }
    bad = _mm_or_si128(bad, open);
    return _mm_testz_si128(bad, bad);
}

#endif

enum { UTF8_BLOCKS_MIN = 32 };

static inline int is_utf8(const uint8_t* at, size_t size, int plane) {
    const uint64_t* rows = utf8_rows[plane];
    uint64_t state = UTF8_ACCEPT;
    size_t index;
#ifdef UTF8_BY_BLOCKS
    if (size >= UTF8_BLOCKS_MIN && utf8_has_blocks) return is_utf8_by_blocks(at, size, plane);
#endif
    while (size >= 8) {
        if (state != UTF8_ACCEPT || load_64(at) & HIGH_BITS) {
            for (index = 0; index < 8; index++) state = rows[at[index]] >> (state & 63);
            state &= 63;
            if (state == UTF8_REJECT) return 0;
        }
        at += 8;
        size -= 8;
    }
    for (index = 0; index < size; index++) state = rows[at[index]] >> (state & 63);
    return (state & 63) == UTF8_ACCEPT;
}

/* ---- values of fixed size
 *
 * All of them read up to eight bytes at `at`, wherever the value ends: FIXED_SLACK bytes after the last one are there.
 */

/* What is rare is called, so that the loop keeps little and calls cost it little. */
#define RARE static __attribute__((noinline))

enum { FIXED_SLACK = 8, DECIMAL_GROUPS_MAX = 16 };

/* How a value is read: by its codec (layout.Codec) and, where that pays, its size. */
enum {
    OP_NONE,
    OP_8,
    OP_16,
    OP_24_SIGNED,
    OP_24_UNSIGNED,
    OP_32,
    OP_64,
    OP_FLOAT,
    OP_DOUBLE,
    OP_DECIMAL_SHORT, /* at most eight bytes, hence 18 digits */
    OP_DECIMAL,       /* at most 38 digits */
    OP_DECIMAL_LONG,
    OP_BIT,
    OP_YEAR,
    OP_DATE,
    OP_DATETIME,
    OP_DATETIME_NUMBER,
    OP_DATETIME_HIRES,
    OP_TIMESTAMP,
    OP_TIMESTAMP_NUMBER,
    OP_TIME,
    OP_TIME_NUMBER,
    OP_TIME_HIRES,
    OP_ENUM,
    OP_SET,
    OP_COUNT
};

/* The groups of digits of a DECIMAL, the high one first. */
typedef struct {
    uint8_t group_count;
    uint8_t bytes[DECIMAL_GROUPS_MAX];
    uint8_t shift[DECIMAL_GROUPS_MAX];  /* OP_DECIMAL_SHORT: where the group is in the whole */
    uint32_t scale[DECIMAL_GROUPS_MAX]; /* 10 to the count of digits */
} decimal_t;

typedef struct {
    uint8_t op;
    uint8_t size;       /* bytes on the wire */
    uint8_t shift;      /* bits of the eight bytes that are loaded that are not the value's */
    uint32_t unit;      /* what one unit of the fraction is, in microseconds */
    uint64_t limit;     /* the largest value, or what the reader says */
    uint8_t* values;    /* the column's buffer */
    decimal_t* decimal;
} fixed_t;

/* Groups, high first; the first bit inverted, and all bits of a negative number. `limit` has the bits that it takes. */
static inline int read_decimal_short(const fixed_t* plan, const uint8_t* at, uint64_t* out) {
    const decimal_t* decimal = plan->decimal;
    uint64_t whole = load_big(at) >> plan->shift, sign = (plan->limit >> 1) + 1, value = 0, group;
    uint64_t negative = (uint64_t)0 - (uint64_t)((whole & sign) == 0); /* all ones, or none */
    unsigned index;
    whole = (whole ^ sign ^ negative) & plan->limit;
    for (index = 0; index < decimal->group_count; index++) {
        group = whole >> decimal->shift[index];
        whole ^= group << decimal->shift[index];
        if (group >= decimal->scale[index]) return 0;
        value = value * decimal->scale[index] + group;
    }
    value = (value ^ negative) - negative;
    out[0] = value;
    out[1] = value ? negative : 0; /* a negative zero is zero */
    return 1;
}

/* A group of 1 to 4 bytes; `negative` is all ones in a negative number. */
static inline uint32_t decimal_group(const decimal_t* decimal, unsigned index, const uint8_t* at, uint32_t negative) {
    uint32_t whole = __builtin_bswap32(load_32(at)) ^ negative ^ (index == 0 ? 0x80000000u : 0);
    return whole >> (32 - 8 * decimal->bytes[index]);
}

/* As 128 bits. */
RARE int read_decimal(const fixed_t* plan, const uint8_t* at, uint64_t* out) {
    const decimal_t* decimal = plan->decimal;
    uint32_t negative = at[0] & 0x80 ? 0 : UINT32_MAX, group;
    uint128_t value = 0;
    unsigned index;
    for (index = 0; index < decimal->group_count; at += decimal->bytes[index++]) {
        group = decimal_group(decimal, index, at, negative);
        if (group >= decimal->scale[index]) return 0;
        value = value * decimal->scale[index] + group;
    }
    if (negative) value = ~value + 1;
    out[0] = (uint64_t)value;
    out[1] = (uint64_t)(value >> 64);
    return 1;
}

/* As 256 bits: four limbs, the low one first. */
RARE int read_decimal_long(const fixed_t* plan, const uint8_t* at, uint64_t* out) {
    const decimal_t* decimal = plan->decimal;
    uint32_t negative = at[0] & 0x80 ? 0 : UINT32_MAX, group;
    uint128_t carry;
    unsigned index, limb;
    for (limb = 0; limb < 4; limb++) out[limb] = 0;
    for (index = 0; index < decimal->group_count; at += decimal->bytes[index++]) {
        group = decimal_group(decimal, index, at, negative);
        if (group >= decimal->scale[index]) return 0;
        carry = group;
        for (limb = 0; limb < 4; limb++) {
            carry += (uint128_t)out[limb] * decimal->scale[index];
            out[limb] = (uint64_t)carry;
            carry >>= 64;
        }
    }
    for (carry = 1, limb = 0; negative && limb < 4; limb++) {
        carry += ~out[limb];
        out[limb] = (uint64_t)carry;
        carry >>= 64;
    }
    return 1;
}

/* Dates and times come out in the packed forms of cdc/model.py. `year_month` is year * 13 + month. */

static inline int is_datetime(uint64_t year_month, uint64_t hour, uint64_t minute, uint64_t second) {
    return (year_month < 130000) & (hour <= 23) & (minute <= 59) & (second <= 59);
}

/* `seconds` of the day */
static inline uint64_t pack_datetime(uint64_t year_month, uint64_t day, uint64_t seconds, uint64_t micros) {
    uint64_t time = seconds / 3600 << 36 | seconds / 60 % 60 << 30 | seconds % 60 << 24;
    return (year_month << 5 | day) << 41 | time | micros;
}

/* `[0:5] big-endian, offset 2**39: (year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second ·
 * fraction, 0 to 3 bytes, big-endian` */
static inline int read_datetime(const fixed_t* plan, const uint8_t* at, uint64_t* out) {
    uint64_t whole = load_big(at);
    uint64_t micros = (whole & 0xFFFFFF) >> plan->shift; /* what is right of the 40 bits, less what is no fraction */
    micros *= plan->unit;
    whole = whole >> 24 ^ UINT64_C(1) << 39; /* what is negative has a year_month that is too large now */
    out[0] = whole << 24 | micros;
    return is_datetime(whole >> 22, whole >> 12 & 31, whole >> 6 & 63, whole & 63) & (micros <= 999999);
}

/* `[0:8] little-endian: the decimal digits YYYYMMDDhhmmss` */
RARE int read_datetime_number(const uint8_t* at, uint64_t* out) {
    uint64_t number = load_64(at), date = number / 1000000, time = number % 1000000;
    uint64_t year = date / 10000, month = date / 100 % 100, day = date % 100;
    uint64_t hour = time / 10000, minute = time / 100 % 100, second = time % 100;
    if (year > 9999 || month > 12 || day > 31 || !is_datetime(0, hour, minute, second)) return 0;
    out[0] = pack_datetime(year * 13 + month, day, hour * 3600 + minute * 60 + second, 0);
    return 1;
}

/* `[0:5..8] big-endian: ((((year * 13 + month) * 32 + day) * 24 + hour) * 60 + minute) * 60 + second, and the fraction
 * digits appended`; `limit` is 10 to how many they are */
RARE int read_datetime_hires(const fixed_t* plan, const uint8_t* at, uint64_t* out) {
    uint64_t number = load_big(at) >> plan->shift, seconds = number / plan->limit, days = seconds / 86400;
    if (days >> 5 >= 130000) return 0;
    out[0] = pack_datetime(days >> 5, days & 31, seconds % 86400, number % plan->limit * plan->unit);
    return 1;
}

static inline int read_timestamp(const fixed_t* plan, uint64_t seconds, uint64_t micros, uint64_t* out) {
    out[0] = seconds * 1000000 + micros;
    return (seconds <= plan->limit) & (micros <= 999999);
}

/* `[0:3] big-endian, offset 2**23: hour << 12 | minute << 6 | second · fraction, 0 to 3 bytes, big-endian`, and all of
 * it one number, negated as a whole */
RARE int read_time(const fixed_t* plan, const uint8_t* at, int64_t* out) {
    int64_t whole = (int64_t)(load_big(at) >> plan->shift) - (INT64_C(1) << (63 - plan->shift)), value;
    uint64_t absolute = (uint64_t)(whole < 0 ? -whole : whole);
    unsigned fraction_bits = 40 - plan->shift;
    uint64_t micros = (absolute & ((UINT64_C(1) << fraction_bits) - 1)) * plan->unit;
    absolute >>= fraction_bits;
    if (absolute >> 12 > 838 || (absolute >> 6 & 63) > 59 || (absolute & 63) > 59 || micros > 999999) return 0;
    value = (int64_t)(((absolute >> 12) * 3600 + (absolute >> 6 & 63) * 60 + (absolute & 63)) * 1000000 + micros);
    out[0] = whole < 0 ? -value : value;
    return 1;
}

/* `[0:3] little-endian, signed: the decimal digits hhmmss` */
RARE int read_time_number(const uint8_t* at, int64_t* out) {
    int64_t number = load_24_signed(at), value = number < 0 ? -number : number;
    if (value / 10000 > 838 || value / 100 % 100 > 59 || value % 100 > 59) return 0;
    value = (value / 10000 * 3600 + value / 100 % 100 * 60 + value % 100) * 1000000;
    out[0] = number < 0 ? -value : value;
    return 1;
}

/* `[0:3..6] big-endian: the time in units of its last digit, plus those of 838:59:60`, which are `limit` */
RARE int read_time_hires(const fixed_t* plan, const uint8_t* at, int64_t* out) {
    int64_t zero = (int64_t)plan->limit, number = (int64_t)(load_big(at) >> plan->shift) - zero;
    if (number >= zero || -number >= zero) return 0;
    out[0] = number * (int64_t)plan->unit;
    return 1;
}

/* The values of the columns [plan, stop), none of them NULL, of image `row`, all of which are there and FIXED_SLACK
 * bytes more: where they end, or NULL for bytes that are none.
 *
 * A jump a value, from where the last one is done, and no way back to the head of a loop: 1.0 ns a BIGINT where a
 * switch in a loop took 1.5 (GCC's labels as values).
 */
static const uint8_t* read_fixed(const fixed_t* plan, const fixed_t* stop, size_t row, const uint8_t* at) {
    static const void* const labels[OP_COUNT] = {
        [OP_NONE] = &&refuse,
        [OP_8] = &&of_8,
        [OP_16] = &&of_16,
        [OP_24_SIGNED] = &&of_24_signed,
        [OP_24_UNSIGNED] = &&of_24_unsigned,
        [OP_32] = &&of_32,
        [OP_64] = &&of_64,
        [OP_FLOAT] = &&of_float,
        [OP_DOUBLE] = &&of_double,
        [OP_DECIMAL_SHORT] = &&of_decimal_short,
        [OP_DECIMAL] = &&of_decimal,
        [OP_DECIMAL_LONG] = &&of_decimal_long,
        [OP_BIT] = &&of_bit,
        [OP_YEAR] = &&of_year,
        [OP_DATE] = &&of_date,
        [OP_DATETIME] = &&of_datetime,
        [OP_DATETIME_NUMBER] = &&of_datetime_number,
        [OP_DATETIME_HIRES] = &&of_datetime_hires,
        [OP_TIMESTAMP] = &&of_timestamp,
        [OP_TIMESTAMP_NUMBER] = &&of_timestamp_number,
        [OP_TIME] = &&of_time,
        [OP_TIME_NUMBER] = &&of_time_number,
        [OP_TIME_HIRES] = &&of_time_hires,
        [OP_ENUM] = &&of_enum,
        [OP_SET] = &&of_set,
    };
    uint64_t whole;

#define SLOT(type) ((type*)plan->values + row)
#define NEXT(bytes)                           \
    do {                                      \
        at += (bytes);                        \
        if (++plan == stop) return at;        \
        goto* labels[plan->op];               \
    } while (0)

    if (plan == stop) return at;
    goto* labels[plan->op];

of_8:
    *SLOT(uint8_t) = at[0];
    NEXT(1);
of_16:
    *SLOT(uint16_t) = load_16(at);
    NEXT(2);
of_24_signed:
    *SLOT(int32_t) = load_24_signed(at);
    NEXT(3);
of_24_unsigned:
    *SLOT(uint32_t) = load_32(at) & 0xFFFFFF;
    NEXT(3);
of_32:
    *SLOT(uint32_t) = load_32(at);
    NEXT(4);
of_64:
    *SLOT(uint64_t) = load_64(at);
    NEXT(8);
of_float: /* all bits of the exponent: NaN or an infinity, which no server stores */
    whole = load_32(at);
    if ((whole >> 23 & 0xFF) == 0xFF) return NULL;
    *SLOT(uint32_t) = (uint32_t)whole;
    NEXT(4);
of_double:
    whole = load_64(at);
    if ((whole >> 52 & 0x7FF) == 0x7FF) return NULL;
    *SLOT(uint64_t) = whole;
    NEXT(8);
of_decimal_short:
    if (!read_decimal_short(plan, at, (uint64_t*)plan->values + 2 * row)) return NULL;
    NEXT(plan->size);
of_decimal:
    if (!read_decimal(plan, at, (uint64_t*)plan->values + 2 * row)) return NULL;
    NEXT(plan->size);
of_decimal_long:
    if (!read_decimal_long(plan, at, (uint64_t*)plan->values + 4 * row)) return NULL;
    NEXT(plan->size);
of_bit: /* big-endian */
    whole = load_big(at) >> plan->shift;
    if (whole > plan->limit) return NULL;
    *SLOT(uint64_t) = whole;
    NEXT(plan->size);
of_year: /* years since 1900, but 0 is the year 0000 */
    *SLOT(uint16_t) = (uint16_t)(at[0] ? at[0] + 1900 : 0);
    NEXT(1);
of_date: /* little-endian: year << 9 | month << 5 | day */
    whole = load_32(at) & 0xFFFFFF;
    if (whole >> 9 > 9999 || (whole >> 5 & 15) > 12) return NULL;
    *SLOT(uint32_t) = (uint32_t)whole;
    NEXT(3);
of_datetime:
    if (!read_datetime(plan, at, SLOT(uint64_t))) return NULL;
    NEXT(plan->size);
of_datetime_number:
    if (!read_datetime_number(at, SLOT(uint64_t))) return NULL;
    NEXT(8);
of_datetime_hires:
    if (!read_datetime_hires(plan, at, SLOT(uint64_t))) return NULL;
    NEXT(plan->size);
of_timestamp: /* seconds[4] and a fraction, 0 to 3 bytes, both big-endian */
    whole = load_big(at);
    if (!read_timestamp(plan, whole >> 32, ((uint64_t)(uint32_t)whole >> plan->shift) * plan->unit, SLOT(uint64_t)))
        return NULL;
    NEXT(plan->size);
of_timestamp_number: /* seconds[4], little-endian */
    if (!read_timestamp(plan, load_32(at), 0, SLOT(uint64_t))) return NULL;
    NEXT(4);
of_time:
    if (!read_time(plan, at, SLOT(int64_t))) return NULL;
    NEXT(plan->size);
of_time_number:
    if (!read_time_number(at, SLOT(int64_t))) return NULL;
    NEXT(3);
of_time_hires:
    if (!read_time_hires(plan, at, SLOT(int64_t))) return NULL;
    NEXT(plan->size);
of_enum: /* little-endian, the member's index */
    whole = load_64(at) << plan->shift >> plan->shift;
    if (whole > plan->limit) return NULL;
    *SLOT(uint16_t) = (uint16_t)whole;
    NEXT(plan->size);
of_set: /* little-endian, the members' bitmap */
    whole = load_64(at) << plan->shift >> plan->shift;
    if (whole > plan->limit) return NULL;
    *SLOT(uint64_t) = whole;
    NEXT(plan->size);
refuse:
    return NULL;

#undef NEXT
#undef SLOT
}

#endif
