/* Assertions of what the code relies on: array bounds, readable bytes, calling threads.
 *
 * They are enabled by FASTTAIL_DEBUG (FASTTAIL_BUILD=debug); all other builds compile them to nothing. A failed assertion is a
 * bug in fasttail, never bad input: the process writes file, line and condition to standard error and aborts.
 */
#ifndef FASTTAIL_CHECKS_H
#define FASTTAIL_CHECKS_H

#include <stddef.h>
#include <stdint.h>

#ifdef FASTTAIL_DEBUG
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define FT_DEBUG_CHECKS 1

__attribute__((cold, noinline, noreturn, unused))
static void ft_assertion_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "%s:%d: fasttail: assertion failed: %s\n", file, line, condition);
    fflush(stderr);
    abort();
}
#define ft_assert(condition) ((condition) ? (void)0 : ft_assertion_failed(#condition, __FILE__, __LINE__))

/* Assert that only one thread ever gets here. `owner` is 0 until it does. */
__attribute__((unused))
static int ft_claim_thread(uint64_t *owner) {
    uint64_t self = (uint64_t)pthread_self(), current_owner = 0;
    return __atomic_compare_exchange_n(owner, &current_owner, self, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
           || current_owner == self;
}
#define ft_assert_thread(owner) \
    (ft_claim_thread(owner) ? (void)0 : ft_assertion_failed("called by another thread than before", __FILE__, __LINE__))

/* Assert that one thread at a time is between begin and end. */
#define ft_begin_exclusive(busy) \
    (__atomic_exchange_n(busy, 1, __ATOMIC_RELAXED) ? ft_assertion_failed("two threads at a time", __FILE__, __LINE__) : (void)0)
#define ft_end_exclusive(busy) __atomic_store_n(busy, 0, __ATOMIC_RELAXED)

/* How far this thread may read, for functions without a `limit` argument; NULL: unknown. */
__attribute__((unused)) static __thread const char *ft_readable_end;
#define ft_set_readable_end(end) (ft_readable_end = (end))
#define ft_assert_readable(p, n) ft_assert(ft_readable_end == NULL || (const char *)(p) + (n) <= ft_readable_end)

#else

#define FT_DEBUG_CHECKS 0
/* In sizeof, the condition is compiled, so that it cannot rot, but not evaluated. */
#define ft_assert(condition) ((void)sizeof((condition)))
#define ft_assert_thread(owner) ((void)sizeof((owner)))
#define ft_begin_exclusive(busy) ((void)sizeof((busy)))
#define ft_end_exclusive(busy) ((void)sizeof((busy)))
#define ft_set_readable_end(end) ((void)sizeof((end)))
#define ft_assert_readable(p, n) ((void)0)

#endif
#endif
