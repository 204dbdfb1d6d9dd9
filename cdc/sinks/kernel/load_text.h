/* What load_text.pyx needs beside copy_text.h: copies that stop at what its two forms escape. */
#ifndef CDC_KERNEL_LOAD_TEXT_H
#define CDC_KERNEL_LOAD_TEXT_H

#include "copy_text.h"

/* Is the byte escaped: in a field of LOAD DATA, in a quoted literal? */
static inline int is_escaped(uint8_t code, int is_quoted) {
    if (code == '\\') return 1;
    return is_quoted ? code == '\'' || code == 0 || code == 26 : code == '\t' || code == '\n';
}

/* Copy what stands before the first byte that is escaped, `size` at most; how many bytes. There is room for 16 more.
 * Nothing at or after `end` is read. `high` gets bits where bytes above ASCII are. */
static inline size_t copy_unescaped(
    uint8_t* to, const uint8_t* in, size_t size, const uint8_t* end, int is_quoted, uint32_t* high) {
    size_t at = 0;
#ifdef CDC_COPY_IN_BLOCKS
    const __m128i backslash = _mm_set1_epi8('\\');
    const __m128i first = _mm_set1_epi8(is_quoted ? '\'' : '\t'), second = _mm_set1_epi8(is_quoted ? 0 : '\n');
    const __m128i third = _mm_set1_epi8(is_quoted ? 26 : '\n');
    while (at < size && (size_t)(end - (in + at)) >= 16) {
        size_t left = size - at;
        __m128i block = _mm_loadu_si128((const __m128i*)(in + at));
        __m128i found = _mm_or_si128(_mm_cmpeq_epi8(block, backslash), _mm_cmpeq_epi8(block, first));
        uint32_t special, signs = (uint32_t)_mm_movemask_epi8(block), wanted;
        found = _mm_or_si128(found, _mm_or_si128(_mm_cmpeq_epi8(block, second), _mm_cmpeq_epi8(block, third)));
        _mm_storeu_si128((__m128i*)(to + at), block);
        wanted = left < 16 ? (1u << left) - 1 : 0xFFFFu;
        special = (uint32_t)_mm_movemask_epi8(found) & wanted;
        if (special) {
            *high |= signs & ((special & (0 - special)) - 1);
            return at + (size_t)__builtin_ctz(special);
        }
        *high |= signs & wanted;
        at += left < 16 ? left : 16;
    }
#else
    (void)end;
#endif
    for (; at < size && !is_escaped(in[at], is_quoted); at++) {
        to[at] = in[at];
        *high |= in[at] & 0x80u;
    }
    return at;
}

/* The letter that stands behind the backslash for a byte that is escaped. */
static inline uint8_t escape_letter(uint8_t code) {
    switch (code) {
        case 0: return '0';
        case '\t': return 't';
        case '\n': return 'n';
        case 26: return 'Z';
        default: return code;
    }
}

/* May a number of that JSON text be none that a double or an integer of 64 bits holds? Never no where one is. */
static inline int has_long_number(const uint8_t* at, size_t size) {
    size_t index, run = 0;
    for (index = 0; index < size; index++) {
        uint8_t code = at[index];
        if (code >= '0' && code <= '9') {
            if (++run == 16) return 1;
        } else if (code == '.') {
            if (run && ++run == 16) return 1;
        } else {
            run = 0;
            if (code == 'e' || code == 'E') {
                size_t next = index + 1, digits = 0;
                if (next < size && (at[next] == '+' || at[next] == '-')) next++;
                for (; next < size && digits < 3 && at[next] >= '0' && at[next] <= '9'; next++) digits++;
                if (digits == 3) return 1;
            }
        }
    }
    return 0;
}

#endif
