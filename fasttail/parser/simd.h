/* Byte kernels of the parser: what Cython cannot say well.
 *
 * Every function reads only inside [p, limit) unless its comment states a margin that the caller has checked.
 * "Plain" bytes are those a JSON string may hold as they are and that end nothing: 0x20..0x7F without '"' and '\'.
 */
#ifndef FASTTAIL_SIMD_H
#define FASTTAIL_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) && !defined(FASTTAIL_PORTABLE)
#include <emmintrin.h>
#define FT_SSE2 1
#else
#define FT_SSE2 0
#endif

#define FT_INLINE static inline __attribute__((always_inline))

FT_INLINE uint64_t ft_load8(const char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
FT_INLINE uint32_t ft_load4(const char *p) { uint32_t v; memcpy(&v, p, 4); return v; }
FT_INLINE uint16_t ft_load2(const char *p) { uint16_t v; memcpy(&v, p, 2); return v; }

/* p[0:n] == literal[0:n], n a compile-time constant: a few word compares, no call. Reads n bytes. */
FT_INLINE int ft_is(const char *p, const char *literal, size_t n) {
    uint64_t diff = 0;
    size_t i = 0;
    if (n >= 8) {
        for (; i + 8 <= n; i += 8) diff |= ft_load8(p + i) ^ ft_load8(literal + i);
        if (n & 7) diff |= ft_load8(p + n - 8) ^ ft_load8(literal + n - 8);
    } else if (n >= 4) {
        diff = (uint64_t)(ft_load4(p) ^ ft_load4(literal));
        diff |= (uint64_t)(ft_load4(p + n - 4) ^ ft_load4(literal + n - 4));
    } else {
        for (; i < n; i++) diff |= (uint64_t)(uint8_t)(p[i] ^ literal[i]);
    }
    return diff == 0;
}

FT_INLINE int ft_plain_byte(unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }

/* First byte of [p, limit) that is not plain, or limit. */
FT_INLINE const char *ft_skip_plain(const char *p, const char *limit) {
#if FT_SSE2
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
    while (limit - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        /* signed compare: below 0x20 holds for control bytes and for all bytes >= 0x80 */
        __m128i bad = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, slash)),
                                   _mm_cmplt_epi8(x, space));
        unsigned mask = (unsigned)_mm_movemask_epi8(bad);
        if (mask) return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < limit && ft_plain_byte((unsigned char)*p)) p++;
    return p;
}

/* As ft_skip_plain, but looks at 64 bytes at the most and needs 64 readable ones. p + 64 if all are plain. */
FT_INLINE const char *ft_skip_plain64(const char *p) {
#if FT_SSE2
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
    for (int i = 0; i < 64; i += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i bad = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, slash)),
                                   _mm_cmplt_epi8(x, space));
        unsigned mask = (unsigned)_mm_movemask_epi8(bad);
        if (mask) return p + i + __builtin_ctz(mask);
    }
    return p + 64;
#else
    return ft_skip_plain(p, p + 64);
#endif
}

/* Number of leading ASCII digits (0..8) in the eight bytes v, first byte lowest (little endian). */
FT_INLINE unsigned ft_digits8(uint64_t v) {
    uint64_t x = v ^ 0x3030303030303030ULL;                        /* digits become 0..9 */
    uint64_t bad = ((x + 0x7676767676767676ULL) | x) & 0x8080808080808080ULL; /* high bit where > 9 */
    return bad ? (unsigned)__builtin_ctzll(bad) >> 3 : 8;
}

/* Value of eight ASCII digits. */
FT_INLINE uint64_t ft_value8(uint64_t v) {
    v -= 0x3030303030303030ULL;
    v = (v * 10) + (v >> 8);
    return (((v & 0x000000FF000000FFULL) * 0x000F424000000064ULL) +
            (((v >> 16) & 0x000000FF000000FFULL) * 0x0000271000000001ULL)) >> 32;
}

/* Value of the first n (1..8) digits of v. */
FT_INLINE uint64_t ft_value_n(uint64_t v, unsigned n) {
    /* put '0's in front: the digits move to the high bytes */
    unsigned shift = (8 - n) * 8;
    if (shift) v = (v << shift) | (0x3030303030303030ULL >> (64 - shift));
    return ft_value8(v);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fasttail's word kernels are written for little-endian machines"
#endif

#endif
