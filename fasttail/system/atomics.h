/* Words that one thread writes and others read.
 *
 * Relaxed accesses (`ft_load_relaxed`, `ft_store_relaxed`, `ft_add_single_writer`) are for numbers that inform: counters,
 * sizes, times. A reader gets a value that was really there, perhaps a moment old, and concludes nothing from it about other
 * memory. On x86-64 and ARM64 they are plain loads and stores; without them the C standard gives such a program no meaning,
 * and TSan rightly reports it.
 *
 * The stronger ones hand memory over from one thread to another; the reason stands where they are used.
 */
#ifndef FASTTAIL_ATOMICS_H
#define FASTTAIL_ATOMICS_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t ft_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void ft_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
/* Of the only thread that writes: no locked instruction is needed. */
static inline void ft_add_single_writer(uint64_t *p, uint64_t n) { ft_store_relaxed(p, ft_load_relaxed(p) + n); }
static inline void *ft_load_pointer_relaxed(void *const *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void ft_store_pointer_relaxed(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* What the writer stored before its release is there for a reader after its acquire. */
static inline uint64_t ft_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void ft_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t ft_exchange(uint64_t *p, uint64_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }

/* A stack of which the other thread takes everything at once: no node is taken out alone, so none can come back in between. */
static inline void ft_stack_push(void **head, void *node, void **next) {
    void *top = __atomic_load_n(head, __ATOMIC_RELAXED);
    do { *next = top; } while (!__atomic_compare_exchange_n(head, &top, node, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
}
static inline void *ft_stack_take_all(void **head) { return __atomic_exchange_n(head, NULL, __ATOMIC_SEQ_CST); }

#endif
