/* Numbers at any address, the low byte first. */
#ifndef CDC_KERNEL_LOADS_H
#define CDC_KERNEL_LOADS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Arrow's buffers and the binlog are little-endian; so must the machine be"
#endif

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

#endif
