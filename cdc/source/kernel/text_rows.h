/* What text_rows.pyx needs for single values: the servers' text forms to Arrow's. Each function reads `size` bytes at
 * `at` and no others, and says 0 for a text that it does not know, with nothing of use in `out`.
 */
#ifndef CDC_KERNEL_TEXT_ROWS_H
#define CDC_KERNEL_TEXT_ROWS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "rows.h"

static const uint64_t tens[20] = {
    1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u,
    UINT64_C(10000000000), UINT64_C(100000000000), UINT64_C(1000000000000), UINT64_C(10000000000000),
    UINT64_C(100000000000000), UINT64_C(1000000000000000), UINT64_C(10000000000000000),
    UINT64_C(100000000000000000), UINT64_C(1000000000000000000), UINT64_C(10000000000000000000)};

/* All powers of ten that a double holds exactly. */
static const double exact_tens[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* strtod of the locale "C", whatever the process has been set to. */
static locale_t text_rows_locale;

static inline int text_rows_prepare(void) {
    utf8_prepare();
    text_rows_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return text_rows_locale != (locale_t)0;
}

static inline int is_digit(uint8_t byte) { return (uint8_t)(byte - '0') <= 9; }

/* ---- whole numbers */

/* Digits, any number of zeroes first (ZEROFILL). */
static inline int parse_unsigned(const uint8_t* at, size_t size, uint64_t* out) {
    uint64_t value = 0;
    size_t index;
    if (!size) return 0;
    while (size > 1 && *at == '0') {
        at++;
        size--;
    }
    if (size > 20) return 0;
    for (index = 0; index < size; index++) {
        if (!is_digit(at[index])) return 0;
        if (index == 19 && (value > UINT64_MAX / 10 || value * 10 > UINT64_MAX - (uint64_t)(at[index] - '0'))) return 0;
        value = value * 10 + (uint64_t)(at[index] - '0');
    }
    *out = value;
    return 1;
}

/* `limit` is the largest value; of a signed column, one more is the largest below zero. */
static inline int parse_integer(const uint8_t* at, size_t size, int is_signed, uint64_t limit, uint64_t* out) {
    uint64_t value, negative = is_signed && size && *at == '-';
    if (!parse_unsigned(at + negative, size - negative, &value) || value > limit + negative) return 0;
    *out = negative ? 0 - value : value;
    return 1;
}

/* Big-endian, as the server sends BIT: 1 to 8 bytes. */
static inline int parse_bits(const uint8_t* at, size_t size, uint64_t* out) {
    uint64_t value = 0;
    size_t index;
    if (size < 1 || size > 8) return 0;
    for (index = 0; index < size; index++) value = value << 8 | at[index];
    *out = value;
    return 1;
}

/* ---- DECIMAL: `-digits.digits`, as many of them as the column has, or fewer behind the point */

static inline void limbs_add(uint64_t* out, unsigned limbs, uint64_t factor, uint64_t more) {
    uint128_t carry = more;
    unsigned index;
    for (index = 0; index < limbs; index++) {
        carry += (uint128_t)out[index] * factor;
        out[index] = (uint64_t)carry;
        carry >>= 64;
    }
}

static int parse_decimal(
    const uint8_t* at, size_t size, unsigned precision, unsigned scale, unsigned limbs, uint64_t* out) {
    const uint8_t* end = at + size;
    uint64_t group = 0;
    unsigned whole = 0, fraction = 0, held = 0, index;
    int is_negative = size && *at == '-', has_digits = 0, has_point = 0;
    for (index = 0; index < limbs; index++) out[index] = 0;
    at += is_negative;
    for (; at != end; at++) {
        if (*at == '.' && !has_point && has_digits) {
            has_point = 1;
            continue;
        }
        if (!is_digit(*at)) return 0;
        has_digits = 1;
        if (has_point) {
            if (++fraction > scale) return 0;
        } else if (whole || *at != '0') {
            if (++whole > precision - scale) return 0;
        }
        group = group * 10 + (uint64_t)(*at - '0');
        if (++held == 18) {
            limbs_add(out, limbs, tens[18], group);
            group = held = 0;
        }
    }
    if (!has_digits || (has_point && !fraction)) return 0;
    limbs_add(out, limbs, tens[held], group);
    for (; fraction < scale; fraction += held) {
        held = scale - fraction > 18 ? 18 : scale - fraction;
        limbs_add(out, limbs, tens[held], 0);
    }
    if (is_negative) {
        for (index = 0; index < limbs; index++) out[index] = ~out[index];
        limbs_add(out, limbs, 1, 1);
    }
    return 1;
}

/* ---- FLOAT and DOUBLE: `-digits.digits`, `e` and a number perhaps; the nearest double */

enum { DOUBLE_TEXT_MAX = 63 };

static int parse_double_slowly(const uint8_t* at, size_t size, double* out) {
    char text[DOUBLE_TEXT_MAX + 1];
    char* end;
    if (size > DOUBLE_TEXT_MAX) return 0;
    memcpy(text, at, size);
    text[size] = 0;
    *out = strtod_l(text, &end, text_rows_locale);
    return end == text + size && isfinite(*out);
}

static int parse_double(const uint8_t* at, size_t size, double* out) {
    const uint8_t *start = at, *end = at + size;
    uint64_t mantissa = 0;
    int digits = 0, fraction = 0, exponent = 0, has_point = 0, exponent_digits = 0, is_below = 0;
    int is_negative = size && *at == '-';
    for (at += is_negative; at != end; at++) {
        if (*at == '.' && !has_point && digits) {
            has_point = 1;
            continue;
        }
        if (!is_digit(*at)) break;
        if (++digits <= 19) mantissa = mantissa * 10 + (uint64_t)(*at - '0');
        fraction += has_point;
    }
    if (!digits || (has_point && !fraction)) return 0;
    if (at != end) {
        if ((*at | 0x20) != 'e' || ++at == end) return 0;
        is_below = *at == '-';
        at += is_below || *at == '+';
        for (; at != end; at++) {
            if (!is_digit(*at) || ++exponent_digits > 4) return 0;
            exponent = exponent * 10 + (*at - '0');
        }
        if (!exponent_digits) return 0;
    }
    exponent = (is_below ? -exponent : exponent) - fraction;
    /* Both are exact, so what one division or multiplication rounds is the nearest. */
    if (digits <= 19 && mantissa <= UINT64_C(1) << 53 && exponent >= -22 && exponent <= 22) {
        double value = (double)mantissa;
        value = exponent < 0 ? value / exact_tens[-exponent] : value * exact_tens[exponent];
        *out = is_negative ? -value : value;
        return 1;
    }
    return parse_double_slowly(start, size, out);
}

static inline int parse_float(const uint8_t* at, size_t size, uint32_t* out) {
    double value;
    float narrow;
    if (!parse_double(at, size, &value)) return 0;
    narrow = (float)value;
    if (!isfinite(narrow)) return 0;
    memcpy(out, &narrow, 4);
    return 1;
}

/* ---- dates and times, in the packed forms of cdc/model.py */

/* Two digits; more than 99 where they are none. */
static inline unsigned two_digits(const uint8_t* at) {
    unsigned high = (uint8_t)(at[0] - '0'), low = (uint8_t)(at[1] - '0');
    return high <= 9 && low <= 9 ? high * 10 + low : 1000;
}

typedef struct {
    unsigned year, month, day, hour, minute, second, micros;
} clock_text_t;

/* `YYYY-MM-DD` */
static inline int parse_day(const uint8_t* at, clock_text_t* out) {
    unsigned century = two_digits(at), year = two_digits(at + 2);
    out->year = century * 100 + year;
    out->month = two_digits(at + 5);
    out->day = two_digits(at + 8);
    return (century <= 99) & (year <= 99) & (at[4] == '-') & (at[7] == '-') & (out->month <= 12) & (out->day <= 31);
}

/* `mm:ss`, and `.` with 1 to 6 digits perhaps */
static inline int parse_minutes(const uint8_t* at, size_t size, clock_text_t* out) {
    size_t index;
    out->micros = 0;
    if (size < 5 || at[2] != ':') return 0;
    out->minute = two_digits(at);
    out->second = two_digits(at + 3);
    if (out->minute > 59 || out->second > 59) return 0;
    if (size == 5) return 1;
    if (at[5] != '.' || size < 7 || size > 12) return 0;
    for (index = 6; index < size; index++) {
        if (!is_digit(at[index])) return 0;
        out->micros = out->micros * 10 + (unsigned)(at[index] - '0');
    }
    out->micros *= (unsigned)tens[12 - size];
    return 1;
}

static inline int parse_date(const uint8_t* at, size_t size, uint32_t* out) {
    clock_text_t text;
    if (size != 10 || !parse_day(at, &text)) return 0;
    *out = text.year << 9 | text.month << 5 | text.day;
    return 1;
}

/* `YYYY-MM-DD hh:mm:ss.ffffff` */
static inline int parse_moment(const uint8_t* at, size_t size, clock_text_t* out) {
    if (size < 19 || !parse_day(at, out) || at[10] != ' ' || at[13] != ':') return 0;
    out->hour = two_digits(at + 11);
    return out->hour <= 23 && parse_minutes(at + 14, size - 14, out);
}

static inline int parse_datetime(const uint8_t* at, size_t size, uint64_t* out) {
    clock_text_t text;
    if (!parse_moment(at, size, &text)) return 0;
    *out = pack_datetime(
        text.year * 13 + text.month, text.day, text.hour * 3600 + text.minute * 60 + text.second, text.micros);
    return 1;
}

/* Days since 1970-01-01; years are counted from March, so that the odd day comes last. */
static inline int64_t days_from_civil(unsigned year, unsigned month, unsigned day) {
    unsigned shifted = year - (month <= 2), era = shifted / 400, of_era = shifted - era * 400;
    unsigned day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return (int64_t)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719468;
}

/* The session's time zone is UTC. All zeroes are the zero timestamp. */
static inline int parse_timestamp(const uint8_t* at, size_t size, int64_t* out) {
    clock_text_t text;
    int64_t seconds;
    if (!parse_moment(at, size, &text)) return 0;
    if (text.year == 0) {
        *out = 0;
        return text.month == 0 && text.day == 0;
    }
    if (text.month == 0 || text.day == 0) return 0;
    seconds = days_from_civil(text.year, text.month, text.day) * 86400 + text.hour * 3600 + text.minute * 60 + text.second;
    *out = seconds * 1000000 + text.micros;
    return 1;
}

/* `-hhh:mm:ss.ffffff`, two or three digits of hours */
static inline int parse_time(const uint8_t* at, size_t size, int64_t* out) {
    clock_text_t text;
    int is_negative = size && *at == '-';
    unsigned hours;
    at += is_negative;
    size -= (size_t)is_negative;
    if (size < 8) return 0;
    hours = two_digits(at);
    if (hours > 99) return 0;
    if (at[2] == ':') {
        at += 3;
        size -= 3;
    } else if (is_digit(at[2]) && at[3] == ':') {
        hours = hours * 10 + (unsigned)(at[2] - '0');
        at += 4;
        size -= 4;
    } else {
        return 0;
    }
    if (!parse_minutes(at, size, &text)) return 0;
    *out = ((int64_t)hours * 3600 + text.minute * 60 + text.second) * 1000000 + text.micros;
    if (is_negative) *out = -*out;
    return 1;
}

/* ---- UUID and addresses */

static inline int hex_digit(uint8_t byte) {
    if (is_digit(byte)) return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* 8-4-4-4-12 hexadecimal digits to 16 bytes */
static inline int parse_uuid(const uint8_t* at, size_t size, uint8_t* out) {
    size_t index = 0, written = 0;
    if (size != 36) return 0;
    while (index < 36) {
        int high, low;
        if (index == 8 || index == 13 || index == 18 || index == 23) {
            if (at[index++] != '-') return 0;
            continue;
        }
        high = hex_digit(at[index]);
        low = hex_digit(at[index + 1]);
        if (high < 0 || low < 0) return 0;
        out[written++] = (uint8_t)(high << 4 | low);
        index += 2;
    }
    return 1;
}

/* As inet_pton has it, in network order: 4 or 16 bytes. */
static inline int parse_address(const uint8_t* at, size_t size, int is_v6, uint8_t* out) {
    char text[64];
    if (size >= sizeof text || memchr(at, 0, size) != NULL) return 0;
    memcpy(text, at, size);
    text[size] = 0;
    return inet_pton(is_v6 ? AF_INET6 : AF_INET, text, out) == 1;
}

#endif
