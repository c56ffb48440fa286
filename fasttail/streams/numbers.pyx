"""Converts times, decimals and integers from text, in every allowed form. The template path has shortcuts for common ones.

The parse_ functions return 1, or 0 if the text is invalid or does not fit.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport strtod

from fasttail.system.checks cimport ft_assert

cdef extern from "simd.h" nogil:
    const double* FT_POWERS_OF_TEN


cdef int64_t _days_since_epoch(int64_t y, int64_t m, int64_t d) noexcept nogil:
    """Return the days from 1970-01-01 to the Gregorian date y-m-d.

    Years are counted from March, in eras of 400 years (146,097 days).
    """
    cdef int64_t era, year_of_era, day_of_year
    if m <= 2:
        y -= 1
    era = y // 400
    year_of_era = y - era * 400
    day_of_year = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


cdef inline int _two_digits(const char* p) noexcept nogil:
    """Return the value of two digits, or -1."""
    cdef unsigned a = <unsigned>(<uint8_t>p[0]) - c'0', b = <unsigned>(<uint8_t>p[1]) - c'0'
    return <int>(a * 10 + b) if a <= 9 and b <= 9 else -1


cdef int parse_datetime_seconds(const char* p, int64_t* ns) noexcept nogil:
    """Parse `YYYY-MM-DDTHH:MM:SS` of 1970 to 2261, the last whole year in ns since 1970. `ns` is unchanged if it is invalid."""
    cdef int century = _two_digits(p), year = _two_digits(p + 2), month = _two_digits(p + 5), day = _two_digits(p + 8)
    cdef int hour = _two_digits(p + 11), minute = _two_digits(p + 14), second = _two_digits(p + 17), last = 31
    if (century < 0 or year < 0 or p[4] != c'-' or p[7] != c'-' or p[10] != c'T' or p[13] != c':' or p[16] != c':'):
        return 0
    year += century * 100
    if year < 1970 or year > 2261 or month < 1 or month > 12 or not (0 <= hour <= 23):
        return 0
    if not (0 <= minute <= 59 and 0 <= second <= 59):
        return 0
    if month == 4 or month == 6 or month == 9 or month == 11:
        last = 30
    elif month == 2:
        last = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if day < 1 or day > last:
        return 0
    ns[0] = ((_days_since_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    ns[0] *= 1000000000
    return 1


cdef int parse_datetime_ns(const char* p, size_t n, int64_t* ns) noexcept nogil:
    """Parse a time with 0 to 9 fraction digits to ns since 1970."""
    cdef int64_t fraction = 0
    cdef size_t i
    cdef unsigned digit
    if n < 19 or n > 29 or n == 20 or not parse_datetime_seconds(p, ns):
        return 0
    if n == 19:
        return 1
    if p[19] != c'.':
        return 0
    for i in range(20, 29):
        digit = <unsigned>(<uint8_t>p[i]) - c'0' if i < n else 0
        if digit > 9:
            return 0
        fraction = fraction * 10 + digit
    ns[0] += fraction
    return 1


cdef double decimal_to_double(const char* p, size_t n) noexcept nogil:
    """Return the float64 nearest to a JSON number without its sign.

    770 significant digits, and one more that stands for any non-zero rest, decide every float64. The text is rebuilt without
    a decimal point, so that the locale does not affect strtod.
    """
    cdef char text[832]
    cdef size_t used = 0, i = 0
    cdef long shift = 0, exponent = 0
    cdef bint point = False, exponent_negative = False, sticky = False
    cdef char digits[24]
    cdef int k = 0
    while i < n and p[i] != c'e' and p[i] != c'E':
        if p[i] == c'.':
            point = True
        else:
            if used < 770:
                if used or p[i] != c'0':
                    text[used] = p[i]
                    used += 1
                if point:
                    shift -= 1
            else:
                sticky = sticky or p[i] != c'0'
                if not point:
                    shift += 1
        i += 1
    if i < n:
        i += 1
        if p[i] == c'+' or p[i] == c'-':
            exponent_negative = p[i] == c'-'
            i += 1
        while i < n:
            if exponent < 1000000000:
                exponent = exponent * 10 + (p[i] - c'0')
            i += 1
        shift += -exponent if exponent_negative else exponent
    if used == 0:
        return 0.0
    if sticky:
        text[used] = c'1'
        used += 1
        shift -= 1
    text[used] = c'e'
    used += 1
    if shift < 0:
        text[used] = c'-'
        used += 1
        shift = -shift
    while True:
        ft_assert(k < <int>sizeof(digits))
        digits[k] = <char>(c'0' + shift % 10)
        k += 1
        shift //= 10
        if shift == 0:
            break
    while k:
        k -= 1
        text[used] = digits[k]
        used += 1
    ft_assert(used < sizeof(text))
    text[used] = 0
    return strtod(text, NULL)


cdef int parse_decimal(const char* p, size_t n, double* value) noexcept nogil:
    """Parse a decimal amount, in the grammar of a JSON number, to the nearest float64."""
    cdef size_t i = 0, integer_digits, fraction = 0, digits
    cdef uint64_t mantissa = 0
    cdef bint negative = n > 0 and p[0] == c'-'
    if negative:
        p += 1
        n -= 1
    while i < n and c'0' <= p[i] <= c'9':
        mantissa = mantissa * 10 + <uint64_t>(p[i] - c'0')       # wraps past 19 digits, but is not used then
        i += 1
    integer_digits = i
    if integer_digits == 0 or (integer_digits > 1 and p[0] == c'0'):
        return 0
    if i < n and p[i] == c'.':
        i += 1
        while i < n and c'0' <= p[i] <= c'9':
            mantissa = mantissa * 10 + <uint64_t>(p[i] - c'0')
            i += 1
            fraction += 1
        if fraction == 0:
            return 0
    digits = integer_digits + fraction
    if i == n and digits <= 19 and mantissa <= (<uint64_t>1 << 53) and fraction <= 22:
        value[0] = <double>mantissa / FT_POWERS_OF_TEN[fraction]  # both exact, so the quotient is rounded once
        if negative:
            value[0] = -value[0]
        return 1
    if i < n:
        if p[i] != c'e' and p[i] != c'E':
            return 0
        i += 1
        if i < n and (p[i] == c'+' or p[i] == c'-'):
            i += 1
        if i >= n:
            return 0
        while i < n:
            if not (c'0' <= p[i] <= c'9'):
                return 0
            i += 1
    value[0] = decimal_to_double(p, n)
    if negative:
        value[0] = -value[0]
    return 1


cdef int parse_amount(const char* p, size_t n, int64_t* units) noexcept nogil:
    """Set `units` to a validated decimal in units of 10**-8. Return 0 if it has an exponent, more digits, or does not fit."""
    cdef size_t i = 0
    cdef int missing = 8                     # fraction digits that are still to come
    cdef bint negative = p[0] == c'-', in_fraction = False
    cdef uint64_t value = 0
    if negative:
        i = 1
    while i < n:
        if p[i] == c'.':
            in_fraction = True
        elif p[i] == c'e' or p[i] == c'E':
            return 0
        elif in_fraction and missing == 0:
            if p[i] != c'0':
                return 0
        else:
            if value > (<uint64_t>1 << 63) // 10 - 1:
                return 0
            value = value * 10 + <uint64_t>(p[i] - c'0')
            missing -= in_fraction
        i += 1
    while missing:
        if value > (<uint64_t>1 << 63) // 10 - 1:
            return 0
        value *= 10
        missing -= 1
    units[0] = -<int64_t>value if negative else <int64_t>value
    return 1


cdef int parse_int(const char* p, size_t n, bint allow_negative, uint64_t* value) noexcept nogil:
    """Parse a validated JSON integer to 64 bits, signed if allow_negative."""
    cdef size_t i = 0
    cdef uint64_t v = 0, digit
    cdef bint negative = p[0] == c'-'
    if negative:
        i = 1
    while i < n and i < 19:                  # 19 digits always fit
        v = v * 10 + <uint64_t>(p[i] - c'0')
        i += 1
    while i < n:
        digit = <uint64_t>(p[i] - c'0')
        if v > 1844674407370955161u or (v == 1844674407370955161u and digit > 5):
            return 0
        v = v * 10 + digit
        i += 1
    if negative:
        if v == 0:
            value[0] = 0
            return 1
        if not allow_negative or v > (<uint64_t>1 << 63):
            return 0
        value[0] = (~v) + 1
        return 1
    if allow_negative and v > ((<uint64_t>1 << 63) - 1):
        return 0
    value[0] = v
    return 1
