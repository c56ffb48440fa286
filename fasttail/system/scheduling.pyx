"""Sets the time slice of a thread: how long it runs before the kernel gives the core to another.

Since Linux 6.12 (EEVDF), any thread may request a slice without privileges, and threads with shorter slices are scheduled
sooner after a wake-up. This is not a priority: over time, each thread gets the same share of a core as before.
"""
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* The first version of the kernel's struct sched_attr. Not from the system's headers, because two of them declare it. */
    struct ft_sched_attr {
        uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period;
    };
    static void ft_set_time_slice(uint64_t ns) {
        struct ft_sched_attr attr = {0};
        if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) || attr.policy != 0)
            return;                              /* keep another policy that an operator has set */
        attr.size = sizeof attr;
        attr.runtime = ns;
        (void)syscall(SYS_sched_setattr, 0, &attr, 0);
    }
    """
    void ft_set_time_slice(uint64_t ns) noexcept nogil

cdef enum:
    MIN_SLICE_NS = 100000       # the shortest that Linux grants


def set_time_slice(uint64_t ns=MIN_SLICE_NS) -> None:
    """Request a time slice of `ns` nanoseconds for this thread and those it starts later; 0 is the system's default.

    Linux before 6.12 ignores the request. If it is not permitted, nothing happens.
    """
    ft_set_time_slice(ns)
