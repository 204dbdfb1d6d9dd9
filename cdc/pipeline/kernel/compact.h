/* What compact.pyx needs and Cython has no words for: keys' bytes, SipHash, prefetching. */
#ifndef CDC_KERNEL_COMPACT_H
#define CDC_KERNEL_COMPACT_H

#include "loads.h"

/* 1 to 7 bytes, and no others are read: two loads that overlap. */
static inline uint64_t key_tail(const uint8_t* at, size_t size) {
    if (size >= 4) return load_32(at) | (uint64_t)load_32(at + size - 4) << (8 * (size - 4));
    return at[0] | (uint64_t)at[size / 2] << (8 * (size / 2)) | (uint64_t)at[size - 1] << (8 * (size - 1));
}

static inline int key_bytes_equal(const uint8_t* one, const uint8_t* other, size_t size) {
    for (; size >= 8; size -= 8, one += 8, other += 8)
        if (load_64(one) != load_64(other)) return 0;
    return size == 0 || key_tail(one, size) == key_tail(other, size);
}

static inline void fetch_soon(const void* at) { __builtin_prefetch(at, 1); }

/* ---- SipHash-1-3 (Aumasson and Bernstein, 2012; the rounds that CPython uses for its strings), of words: who does not
 * know the 128 bits of the seed cannot choose keys that meet. */

typedef struct {
    uint64_t a, b, c, d;
} sip_t;

static inline uint64_t sip_turn(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

static inline void sip_round(sip_t* s) {
    s->a += s->b;
    s->b = sip_turn(s->b, 13) ^ s->a;
    s->a = sip_turn(s->a, 32);
    s->c += s->d;
    s->d = sip_turn(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = sip_turn(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = sip_turn(s->b, 17) ^ s->c;
    s->c = sip_turn(s->c, 32);
}

static inline void sip_begin(sip_t* s, const uint64_t* seed) {
    s->a = seed[0] ^ UINT64_C(0x736f6d6570736575);
    s->b = seed[1] ^ UINT64_C(0x646f72616e646f6d);
    s->c = seed[0] ^ UINT64_C(0x6c7967656e657261);
    s->d = seed[1] ^ UINT64_C(0x7465646279746573);
}

static inline void sip_word(sip_t* s, uint64_t word) {
    s->d ^= word;
    sip_round(s);
    s->a ^= word;
}

static inline uint64_t sip_end(sip_t* s) {
    s->c ^= 0xff;
    sip_round(s);
    sip_round(s);
    sip_round(s);
    return s->a ^ s->b ^ s->c ^ s->d;
}

#endif
