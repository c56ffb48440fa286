/* The parser's byte kernels, in C because Cython cannot express them well.
 *
 * The file is compiled once per instruction set (see setup.py): portable C (FASTTAIL_PORTABLE), SSE2, and AVX2 with BMI. All
 * give the same results for the same bytes. AVX-512 was tried and removed: it needs one compare for 64 bytes, but was 2 to 8 %
 * slower than AVX2 (Sapphire Rapids, 2026).
 *
 * Functions with a `limit` read only inside [p, limit). The others state how many bytes from p on must be readable.
 * "Plain" bytes may occur unescaped in a JSON string and do not end it: 0x20..0x7F except '"' and '\'.
 */
#ifndef FASTTAIL_SIMD_H
#define FASTTAIL_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "checks.h"

#if defined(FASTTAIL_PORTABLE)
#define FT_SSE2 0
#define FT_AVX2 0
#else
#if defined(__SSE2__)
#include <immintrin.h>
#define FT_SSE2 1
#else
#define FT_SSE2 0
#endif
#if defined(__AVX2__) && defined(__BMI__)
#define FT_AVX2 1
#else
#define FT_AVX2 0
#endif
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fasttail's word kernels are written for little-endian machines"
#endif

/* No file that includes this uses all of it. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-const-variable"

#define FT_INLINE static inline __attribute__((always_inline))

FT_INLINE uint64_t ft_load8(const char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
FT_INLINE uint32_t ft_load4(const char *p) { uint32_t v; memcpy(&v, p, 4); return v; }
FT_INLINE uint16_t ft_load2(const char *p) { uint16_t v; memcpy(&v, p, 2); return v; }

#if FT_SSE2
FT_INLINE __m128i ft_load16(const char *p) { return _mm_loadu_si128((const __m128i *)p); }
#endif
#if FT_AVX2
FT_INLINE __m256i ft_load32(const char *p) { return _mm256_loadu_si256((const __m256i *)p); }
#endif

/* Load the first n (0..16) bytes of p as two numbers, padded with zeros. Reads 16 bytes. */
FT_INLINE void ft_load_padded16(const char *p, size_t n, uint64_t *head, uint64_t *tail) {
    static const uint64_t ones[4] = {~0ull, ~0ull, 0, 0};
    ft_assert(n <= 16);
    ft_assert_readable(p, 16);
    const char *mask = (const char *)ones + 16 - n;
    *head = ft_load8(p) & ft_load8(mask);
    *tail = ft_load8(p + 8) & ft_load8(mask + 8);
}

/* Prefetch the cache line at p, which need not be readable. */
FT_INLINE void ft_prefetch_at(const void *p) { __builtin_prefetch(p); }

/* Prefetch 2 KiB ahead of p: one cache line, or the length of an event. From memory, the parser is 20 times as fast as orjson,
 * and 14 times with the processor's own prefetching only (plain lines, 48 MB, one worker). 1, 4 and 8 KiB ahead were up to 10 %
 * slower. One line of 64 MB of short values: 5.5 GB/s, and 1.9 without this. */
#define FT_PREFETCH_DISTANCE 2048
FT_INLINE void ft_prefetch_ahead(const char *p) { ft_prefetch_at(p + FT_PREFETCH_DISTANCE); }
FT_INLINE void ft_prefetch_event(const char *p) {
    for (int i = 0; i < 512; i += 64) ft_prefetch_ahead(p + i);
}

/* ------------------------------------------------------------------------------------------------------------- literals */

/* Return whether p[0:n] == q[0:n], for a compile-time constant n: a few wide compares and no call. Reads n bytes of each. */
FT_INLINE int ft_bytes_equal(const char *p, const char *q, size_t n) {
    uint64_t diff = 0;
    size_t i = 0;
    ft_assert_readable(p, n);
#if FT_AVX2
    if (n >= 32) {
        __m256i same = _mm256_cmpeq_epi8(ft_load32(p), ft_load32(q));
        for (i = 32; i + 32 <= n; i += 32)
            same = _mm256_and_si256(same, _mm256_cmpeq_epi8(ft_load32(p + i), ft_load32(q + i)));
        if (n & 31) same = _mm256_and_si256(same, _mm256_cmpeq_epi8(ft_load32(p + n - 32), ft_load32(q + n - 32)));
        return _mm256_movemask_epi8(same) == -1;
    }
#endif
#if FT_SSE2
    if (n >= 16) {
        __m128i same = _mm_cmpeq_epi8(ft_load16(p), ft_load16(q));
        for (i = 16; i + 16 <= n; i += 16) same = _mm_and_si128(same, _mm_cmpeq_epi8(ft_load16(p + i), ft_load16(q + i)));
        if (n & 15) same = _mm_and_si128(same, _mm_cmpeq_epi8(ft_load16(p + n - 16), ft_load16(q + n - 16)));
        return _mm_movemask_epi8(same) == 0xFFFF;
    }
#endif
    if (n >= 8) {
        for (; i + 8 <= n; i += 8) diff |= ft_load8(p + i) ^ ft_load8(q + i);
        if (n & 7) diff |= ft_load8(p + n - 8) ^ ft_load8(q + n - 8);
    } else if (n >= 4) {
        diff = (uint64_t)(ft_load4(p) ^ ft_load4(q));
        diff |= (uint64_t)(ft_load4(p + n - 4) ^ ft_load4(q + n - 4));
    } else {
        for (; i < n; i++) diff |= (uint64_t)(uint8_t)(p[i] ^ q[i]);
    }
    return diff == 0;
}

/* ---------------------------------------------------------------------------------------------------------- plain bytes */

FT_INLINE int ft_is_plain(unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }

#if FT_AVX2
/* Return a bit for each of 32 bytes that is not plain. In a signed compare, bytes >= 0x80 are below 0x20 like control bytes. */
FT_INLINE uint32_t ft_not_plain32(const char *p) {
    __m256i x = ft_load32(p);
    __m256i bad = _mm256_or_si256(_mm256_cmpeq_epi8(x, _mm256_set1_epi8('"')), _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\\')));
    return (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(bad, _mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), x)));
}
#endif
#if FT_SSE2
FT_INLINE __m128i ft_not_plain16(__m128i x) {
    __m128i bad = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
    return _mm_or_si128(bad, _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)));
}
#endif

/* Return the first byte of [p, limit) that is not plain, or limit. */
FT_INLINE const char *ft_skip_plain(const char *p, const char *limit) {
#if FT_AVX2
    while (limit - p >= 32) {
        uint32_t mask = ft_not_plain32(p);
        if (mask) return p + __builtin_ctz(mask);
        p += 32;
    }
#elif FT_SSE2
    while (limit - p >= 16) {
        unsigned mask = (unsigned)_mm_movemask_epi8(ft_not_plain16(ft_load16(p)));
        if (mask) return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < limit && ft_is_plain((unsigned char)*p)) p++;
    return p;
}

/* A newline does not count as whitespace: it ends the line. */
FT_INLINE int ft_is_whitespace(unsigned char c) { return c <= ' ' && (c == ' ' || c == '\t' || c == '\r'); }

/* Return the first byte of [p, limit) that is not whitespace, or limit. */
static const char *ft_skip_whitespace(const char *p, const char *limit) {
    for (int i = 0; i < 2; i++, p++)                              /* usually there is none or one */
        if (p >= limit || !ft_is_whitespace((unsigned char)*p)) return p;
#if FT_SSE2
    for (; limit - p >= 16; p += 16) {
        __m128i x = ft_load16(p);
        __m128i blank = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(' ')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\t')));
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_or_si128(blank, _mm_cmpeq_epi8(x, _mm_set1_epi8('\r'))));
        if (mask != 0xFFFF) return p + __builtin_ctz(~mask);
    }
#endif
    while (p < limit && ft_is_whitespace((unsigned char)*p)) p++;
    return p;
}

/* Return how many plain bytes p[0:32] begins with. With SIMD, no branch depends on the result. Reads 32 bytes. */
FT_INLINE unsigned ft_plain_prefix32(const char *p) {
    ft_assert_readable(p, 32);
#if FT_AVX2
    return (unsigned)__builtin_ctzll(ft_not_plain32(p) | (1ull << 32));
#elif FT_SSE2
    unsigned low = (unsigned)_mm_movemask_epi8(ft_not_plain16(ft_load16(p)));
    unsigned high = (unsigned)_mm_movemask_epi8(ft_not_plain16(ft_load16(p + 16)));
    return (unsigned)__builtin_ctzll(low | ((uint64_t)high << 16) | (1ull << 32));
#else
    return (unsigned)(ft_skip_plain(p, p + 32) - p);
#endif
}

/* Store the positions of the structural bytes {}[]:, outside of strings in the line at p, in order, followed by three times
 * the position of the newline, and return their number.
 *
 * Return 0 if the line is longer than FT_MAX_INDEXED_LINE bytes, contains a backslash, a control byte or non-ASCII, or has a
 * string that no structural byte directly follows. Text between two positions that begins with a quote is therefore one string.
 * Always returns 0 in the portable build. Reads FT_MAX_INDEXED_LINE bytes. */
#define FT_MAX_INDEXED_LINE 1024
static unsigned ft_structural_index(const char *p, uint16_t *positions) {
    ft_assert_readable(p, FT_MAX_INDEXED_LINE);
#if FT_SSE2
    uint64_t in_string = 0, was_closing = 0;               /* state at the end of the previous 64 bytes */
    unsigned count = 0;
    for (unsigned at = 0; at < FT_MAX_INDEXED_LINE; at += 64) {
        uint64_t quotes = 0, structural = 0, non_plain = 0;
        ft_prefetch_ahead(p + at);
#if FT_AVX2
        /* by a byte's low half: the only one of : { , } that the byte can be, once [ was folded to { and ] to } */
        const __m256i structural_by_low_nibble = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ':', '{', ',', '}', 0, 0));
        for (unsigned i = 0; i < 64; i += 32) {
            __m256i x = ft_load32(p + at + i), folded = _mm256_or_si256(x, _mm256_set1_epi8(0x20));
            __m256i structural_byte = _mm256_cmpeq_epi8(folded, _mm256_shuffle_epi8(structural_by_low_nibble, x));
            __m256i non_plain_byte = _mm256_or_si256(_mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), x),
                                            _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\\')));
            quotes |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, _mm256_set1_epi8('"'))) << i;
            structural |= (uint64_t)(uint32_t)_mm256_movemask_epi8(structural_byte) << i;
            non_plain |= (uint64_t)(uint32_t)_mm256_movemask_epi8(non_plain_byte) << i;
        }
#else
        for (unsigned i = 0; i < 64; i += 16) {
            __m128i x = ft_load16(p + at + i), folded = _mm_or_si128(x, _mm_set1_epi8(0x20));      /* [ to {, ] to } */
            __m128i structural_byte = _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(':')),
                                                   _mm_cmpeq_epi8(x, _mm_set1_epi8(',')));
            structural_byte = _mm_or_si128(structural_byte, _mm_cmpeq_epi8(folded, _mm_set1_epi8('{')));
            structural_byte = _mm_or_si128(structural_byte, _mm_cmpeq_epi8(folded, _mm_set1_epi8('}')));
            __m128i non_plain_byte = _mm_or_si128(_mm_cmplt_epi8(x, _mm_set1_epi8(0x20)),
                                                  _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
            quotes |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_set1_epi8('"'))) << i;
            structural |= (uint64_t)(unsigned)_mm_movemask_epi8(structural_byte) << i;
            non_plain |= (uint64_t)(unsigned)_mm_movemask_epi8(non_plain_byte) << i;
        }
#endif
        uint64_t line_mask = non_plain ? (non_plain & (0 - non_plain)) - 1 : ~(uint64_t)0;  /* the bytes before the newline */
        quotes &= line_mask;
        uint64_t in_string_mask = quotes;                  /* from each opening quote up to, not including, the closing one */
        for (int i = 1; i < 64; i *= 2) in_string_mask ^= in_string_mask << i;
        in_string_mask ^= in_string;
        structural &= line_mask & ~in_string_mask;
        uint64_t closing = quotes & ~in_string_mask;
        if ((closing << 1 | was_closing) & ~structural) return 0;
        while (structural)
            for (unsigned k = 0; k < 4; k++) {               /* four at a time: fewer branches to predict */
                ft_assert(count < FT_MAX_INDEXED_LINE + 8);  /* MAX_STRUCTURALS, the length of `positions` */
                positions[count] = (uint16_t)(at + (unsigned)__builtin_ctzll(structural | (uint64_t)1 << 63));
                count += structural != 0;
                structural &= structural - 1;
            }
        if (non_plain) {
            unsigned end = (unsigned)__builtin_ctzll(non_plain);
            if (p[at + end] != '\n' || (in_string_mask >> end & 1)) return 0;
            ft_assert(count + 2 < FT_MAX_INDEXED_LINE + 8);
            positions[count] = positions[count + 1] = positions[count + 2] = (uint16_t)(at + end);
            return count;
        }
        in_string = (uint64_t)0 - (in_string_mask >> 63);
        was_closing = closing >> 63;
    }
#endif
    return 0;
}

/* Like ft_skip_plain, but examines at most 64 bytes. Return p + 64 if all are plain. Reads 64 bytes. */
FT_INLINE const char *ft_skip_plain_max64(const char *p) {
    ft_assert_readable(p, 64);
#if FT_AVX2
    uint32_t mask = ft_not_plain32(p);
    if (mask) return p + __builtin_ctz(mask);
    mask = ft_not_plain32(p + 32);
    return mask ? p + 32 + __builtin_ctz(mask) : p + 64;
#elif FT_SSE2
    for (int i = 0; i < 64; i += 16) {
        unsigned mask = (unsigned)_mm_movemask_epi8(ft_not_plain16(ft_load16(p + i)));
        if (mask) return p + i + __builtin_ctz(mask);
    }
    return p + 64;
#else
    return ft_skip_plain(p, p + 64);
#endif
}

/* Return whether p[0:n] is plain and a quote follows; n is a compile-time constant from 16 to 63. Reads 64 bytes.
 * The caller predicts a text's length: after a correct prediction, nothing waits for the text itself. */
FT_INLINE int ft_plain_then_quote(const char *p, size_t n) {
    ft_assert_readable(p, 64);
    if (p[n] != '"') return 0;
#if FT_AVX2
    if (n >= 32) return (ft_not_plain32(p) | ft_not_plain32(p + n - 32)) == 0;
    return (ft_not_plain32(p) & (((uint32_t)1 << n) - 1)) == 0;
#elif FT_SSE2
    {
        __m128i bad = ft_not_plain16(ft_load16(p + n - 16));
        for (size_t i = 0; i + 16 < n; i += 16) bad = _mm_or_si128(bad, ft_not_plain16(ft_load16(p + i)));
        return _mm_movemask_epi8(bad) == 0;
    }
#else
    return ft_skip_plain(p, p + n) == p + n;
#endif
}

/* -------------------------------------------------------------------------------------------------------------- numbers */

/* All of these doubles are exact. */
static const double FT_POWERS_OF_TEN[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static const uint64_t FT_INT_POWERS_OF_TEN[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

/* Return the number of leading ASCII digits (0..8) in the eight bytes v, whose first byte is the lowest (little-endian). */
FT_INLINE unsigned ft_count_digits8(uint64_t v) {
    uint64_t x = v ^ 0x3030303030303030ULL;                        /* digits become 0..9 */
    uint64_t bad = ((x + 0x7676767676767676ULL) | x) & 0x8080808080808080ULL; /* high bit where > 9 */
    return bad ? (unsigned)__builtin_ctzll(bad) >> 3 : 8;
}

/* Return the value of eight ASCII digits. */
FT_INLINE uint64_t ft_parse_digits8(uint64_t v) {
    v -= 0x3030303030303030ULL;
    v = (v * 10) + (v >> 8);
    return (((v & 0x000000FF000000FFULL) * 0x000F424000000064ULL) +
            (((v >> 16) & 0x000000FF000000FFULL) * 0x0000271000000001ULL)) >> 32;
}

/* Return the value of the first n (1..8) digits of v. */
FT_INLINE uint64_t ft_parse_digits_n(uint64_t v, unsigned n) {
    ft_assert(n >= 1 && n <= 8);
    /* Move the digits to the high bytes and put '0's before them. Two shifts, because one by 64 bits would be undefined. */
    unsigned shift = (8 - n) * 8;
    return ft_parse_digits8((v << shift) | ((0x3030303030303030ULL >> 8) >> (56 - shift)));
}

#if FT_AVX2
/* pshufb masks. Row n moves the first n bytes to the end of 16 and zeroes those before them. */
static unsigned char ft_right_align[17][16];
/* Row 16 * dot + n does the same for n bytes, but omits the one at `dot`. */
static unsigned char ft_right_align_without_dot[256][16];
#endif

/* Must be called once, before any function below. */
static void ft_init_tables(void) {
#if FT_AVX2
    for (int n = 0; n < 17; n++)
        for (int i = 0; i < 16; i++) ft_right_align[n][i] = (unsigned char)(i < 16 - n ? 0x80 : i - (16 - n));
    for (int dot = 0; dot < 16; dot++)
        for (int n = 0; n < 16; n++)
            for (int i = 0; i < 16; i++) {
                int digit = i - (17 - n);          /* n - 1 of the n bytes are digits */
                ft_right_align_without_dot[16 * dot + n][i] =
                    (unsigned char)(digit < 0 ? 0x80 : digit < dot ? digit : digit + 1);
            }
#endif
}

#if FT_AVX2
/* Return the value of 16 digits, given as bytes 0..9. */
FT_INLINE uint64_t ft_parse_digits16(__m128i digits) {
    const __m128i tens = _mm_set1_epi16(0x010A), hundreds = _mm_set1_epi32(0x00010064), myriads = _mm_set1_epi32(0x00012710);
    __m128i x = _mm_maddubs_epi16(digits, tens);
    x = _mm_madd_epi16(x, hundreds);
    x = _mm_packus_epi32(x, x);
    x = _mm_madd_epi16(x, myriads);
    uint64_t halves = (uint64_t)_mm_cvtsi128_si64(x);
    return (halves & 0xFFFFFFFFu) * 100000000u + (halves >> 32);
}
#endif

#if FT_SSE2
/* Return a bit for each byte that is a digit: 0x30..0x39 become 0x76..0x7F, the only bytes above 0x75 in signed order. */
FT_INLINE unsigned ft_digit_mask(__m128i x) {
    return (unsigned)_mm_movemask_epi8(_mm_cmpgt_epi8(_mm_add_epi8(x, _mm_set1_epi8(0x46)), _mm_set1_epi8(0x75)));
}
#endif

/* Parse `digits.digits"` of at most 14 digits at p. Set *quote to the index of the quote and *mantissa to the digits as one
 * number, and return the number of digits after the point. Return 0 for anything else. Reads 16 bytes. */
FT_INLINE unsigned ft_parse_decimal(const char *p, unsigned *quote, uint64_t *mantissa) {
    unsigned dot, n;
    ft_assert_readable(p, 16);
#if FT_SSE2
    __m128i x = ft_load16(p);
    unsigned quotes = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')));
    unsigned other;
    if (quotes == 0) return 0;
    n = (unsigned)__builtin_ctz(quotes);
    other = ~ft_digit_mask(x) & ((1u << n) - 1);
    if (other == 0 || (other & (other - 1)) != 0) return 0;
    dot = (unsigned)__builtin_ctz(other);
    if (p[dot] != '.' || dot + 1 == n || p[0] == '.' || (p[0] == '0' && dot != 1)) return 0;
#else
    for (dot = 0; dot < 14 && p[dot] >= '0' && p[dot] <= '9';) dot++;
    if (dot == 0 || p[dot] != '.' || (p[0] == '0' && dot != 1)) return 0;
    for (n = dot + 1; n < 15 && p[n] >= '0' && p[n] <= '9';) n++;
    if (n == dot + 1 || p[n] != '"') return 0;
#endif
    *quote = n;
#if FT_AVX2
    *mantissa = ft_parse_digits16(_mm_shuffle_epi8(_mm_sub_epi8(x, _mm_set1_epi8('0')),
                                                   _mm_loadu_si128((const __m128i *)ft_right_align_without_dot[16 * dot + n])));
#else
    if (n <= 8) {
        uint64_t v = ft_load8(p), below = ((uint64_t)1 << (8 * dot)) - 1;
        *mantissa = ft_parse_digits_n((v & below) | ((v >> 8) & ~below), n - 1);
    } else {
        uint64_t value = 0;
        unsigned i;
        for (i = 0; i < n; i++)
            if (i != dot) value = value * 10 + (uint64_t)(p[i] - '0');
        *mantissa = value;
    }
#endif
    return n - dot - 1;
}

/* Parse exactly n digits without a leading zero; n is a compile-time constant from 9 to 15. Return 1, or 0 for any other text.
 * Reads 16 bytes. */
FT_INLINE int ft_parse_int_exact(const char *p, unsigned n, uint64_t *value) {
    ft_assert_readable(p, 16);
#if FT_AVX2
    __m128i x = ft_load16(p);
    if ((ft_digit_mask(x) & ((2u << n) - 1)) != (1u << n) - 1 || p[0] == '0') return 0;
    *value = ft_parse_digits16(_mm_shuffle_epi8(_mm_sub_epi8(x, _mm_set1_epi8('0')),
                                                _mm_loadu_si128((const __m128i *)ft_right_align[n])));
    return 1;
#else
    uint64_t head = ft_load8(p), tail = ft_load8(p + 8);
    if (ft_count_digits8(head) != 8 || ft_count_digits8(tail) != n - 8 || p[0] == '0') return 0;
    *value = ft_parse_digits8(head) * FT_INT_POWERS_OF_TEN[n - 8] + ft_parse_digits_n(tail, n - 8);
    return 1;
#endif
}

#endif
