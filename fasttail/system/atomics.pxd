"""Atomic accesses to words that one thread writes and others read. atomics.h says when to use which."""
from libc.stdint cimport uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t ft_load_relaxed(const uint64_t* p) noexcept
    void ft_store_relaxed(uint64_t* p, uint64_t v) noexcept
    void ft_add_single_writer(uint64_t* p, uint64_t n) noexcept  # for the only thread that writes
    void* ft_load_pointer_relaxed(void** p) noexcept
    void ft_store_pointer_relaxed(void** p, void* v) noexcept
    uint64_t ft_load_acquire(const uint64_t* p) noexcept
    void ft_store_release(uint64_t* p, uint64_t v) noexcept
    uint64_t ft_exchange(uint64_t* p, uint64_t v) noexcept
    void ft_stack_push(void** head, void* node, void** next) noexcept
    void* ft_stack_take_all(void** head) noexcept
