"""Words that one thread writes and others read: which access is for what stands in atomics.h."""
from libc.stdint cimport uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t ft_get(const uint64_t* p) noexcept
    void ft_set(uint64_t* p, uint64_t v) noexcept
    void ft_add(uint64_t* p, uint64_t n) noexcept        # by the only thread that writes
    void* ft_get_pointer(void** p) noexcept
    void ft_set_pointer(void** p, void* v) noexcept
    uint64_t ft_acquire(const uint64_t* p) noexcept
    void ft_release(uint64_t* p, uint64_t v) noexcept
    uint64_t ft_swap(uint64_t* p, uint64_t v) noexcept
    void ft_push(void** head, void* node, void** before) noexcept
    void* ft_take(void** head) noexcept
