/* Reads Arrow buffers, every byte of them once, and adds up what they hold. Called through ctypes by buffers.py, which
   knows how long each buffer is. Sums wrap at 64 bits, those of decimals at 128. */

#include <stdint.h>
#include <string.h>

static int is_valid(const uint8_t *validity, int64_t at)
{
    return !validity || (validity[at >> 3] >> (at & 7) & 1);
}

/* The sum of all words, and of the bytes that are left. */
uint64_t cdc_bench_words(const uint8_t *content, int64_t size)
{
    uint64_t lanes[4] = {0, 0, 0, 0}, total, word[4];
    int64_t at = 0;
    for (; at + 32 <= size; at += 32) {
        memcpy(word, content + at, 32);
        for (int lane = 0; lane < 4; lane++) lanes[lane] += word[lane];
    }
    total = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    for (; at < size; at++) total += content[at];
    return total;
}

/* How many values of `content` are `wanted`. */
int64_t cdc_bench_count(const uint8_t *content, int64_t count, uint8_t wanted)
{
    int64_t found = 0;
    for (int64_t at = 0; at < count; at++) found += content[at] == wanted;
    return found;
}

#define SUM(NAME, TYPE)                                                                                       \
    uint64_t NAME(const TYPE *values, int64_t offset, int64_t count, const uint8_t *validity)                 \
    {                                                                                                         \
        uint64_t total = 0;                                                                                   \
        if (!validity)                                                                                        \
            for (int64_t at = offset; at < offset + count; at++) total += (uint64_t)(int64_t)values[at];      \
        else                                                                                                  \
            for (int64_t at = offset; at < offset + count; at++)                                              \
                if (is_valid(validity, at)) total += (uint64_t)(int64_t)values[at];                           \
        return total;                                                                                         \
    }

SUM(cdc_bench_int32, int32_t)
SUM(cdc_bench_uint32, uint32_t)
SUM(cdc_bench_int64, int64_t)

/* Decimals of 128 bits: `total` gets the low and the high half. */
void cdc_bench_decimal128(const uint8_t *values, int64_t offset, int64_t count, const uint8_t *validity,
                          uint64_t total[2])
{
    unsigned __int128 sum = 0, value;
    for (int64_t at = offset; at < offset + count; at++)
        if (is_valid(validity, at)) {
            memcpy(&value, values + at * 16, 16);
            sum += value;
        }
    total[0] = (uint64_t)sum;
    total[1] = (uint64_t)(sum >> 64);
}
