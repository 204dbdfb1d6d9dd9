/* What rows.pyx needs and Cython has no words for: unaligned loads, copies in blocks of 32 bytes, the automaton of
 * UTF-8, numbers of 128 bits. Nothing here reads at or after `end`.
 */
#ifndef CDC_KERNEL_ROWS_H
#define CDC_KERNEL_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Arrow's buffers and the binlog are little-endian; so must the machine be"
#endif

typedef unsigned __int128 uint128_t;

#define HIGH_BITS 0x8080808080808080u

static inline uint64_t load_64(const uint8_t* at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

static inline uint32_t load_32(const uint8_t* at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static inline uint16_t load_16(const uint8_t* at) {
    uint16_t value;
    memcpy(&value, at, 2);
    return value;
}

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

static uint64_t utf8_rows[2][256]; /* [1]: the basic plane alone, utf8mb3 */

static inline void utf8_fill(int plane, int state, int first, int last, int next) {
    int byte;
    for (byte = first; byte <= last; byte++) utf8_rows[plane][byte] |= (uint64_t)next << state;
}

static inline void utf8_prepare(void) {
    int plane;
    memset(utf8_rows, 0, sizeof utf8_rows);
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

static inline int is_utf8(const uint8_t* at, size_t size, int plane) {
    const uint64_t* rows = utf8_rows[plane];
    uint64_t state = UTF8_ACCEPT;
    size_t index;
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

#endif
