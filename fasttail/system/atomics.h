/* Atomic accesses to words that one thread writes and others read.
 *
 * The relaxed ones (`ft_load_relaxed`, `ft_store_relaxed`, `ft_add_single_writer`) are for counters, sizes and times. A reader
 * gets a value that was stored, perhaps a moment old, and must not conclude anything about other memory from it. On x86-64 and
 * ARM64 they compile to plain loads and stores; plain C accesses would be data races: undefined, and reported by TSan.
 *
 * The stronger ones transfer memory from one thread to another; their callers give the reason.
 */
#ifndef FASTTAIL_ATOMICS_H
#define FASTTAIL_ATOMICS_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t ft_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void ft_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
/* For the only thread that writes, so no locked instruction is needed. */
static inline void ft_add_single_writer(uint64_t *p, uint64_t n) { ft_store_relaxed(p, ft_load_relaxed(p) + n); }
static inline void *ft_load_pointer_relaxed(void *const *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void ft_store_pointer_relaxed(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* What the writer stored before its release is visible to a reader after its acquire. */
static inline uint64_t ft_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void ft_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t ft_exchange(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

/* A stack that the other thread takes whole. No node is ever popped alone, which rules out the ABA problem. */
static inline void ft_stack_push(void **head, void *node, void **next) {
    void *top = __atomic_load_n(head, __ATOMIC_RELAXED);
    do { *next = top; } while (!__atomic_compare_exchange_n(head, &top, node, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
}
static inline void *ft_stack_take_all(void **head) { return __atomic_exchange_n(head, NULL, __ATOMIC_SEQ_CST); }

#endif
