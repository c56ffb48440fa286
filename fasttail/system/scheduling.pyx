"""How long a thread runs before the kernel lets another have the core.

Linux from 6.12 on (EEVDF) lets each thread ask, without privileges, and runs those sooner after a wake-up that ask for less.
That is no priority: over time each gets as much of a core as before.
"""
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* The kernel's struct sched_attr in its first size; not by the system's headers, of which two declare it. */
    struct ft_sched_attr {
        uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period;
    };
    static void ft_set_time_slice(uint64_t ns) {
        struct ft_sched_attr attr = {0};
        if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) || attr.policy != 0)
            return;                              /* an operator's other policy stays as it is */
        attr.size = sizeof attr;
        attr.runtime = ns;
        (void)syscall(SYS_sched_setattr, 0, &attr, 0);
    }
    """
    void ft_set_time_slice(uint64_t ns) noexcept nogil

cdef enum:
    MIN_SLICE_NS = 100000       # the least that Linux grants


def set_time_slice(uint64_t ns=MIN_SLICE_NS) -> None:
    """This thread, and those that it starts from now on, are to run for so long at a time. 0: as the system has it.

    Linux before 6.12 ignores it, and nothing happens where it is forbidden.
    """
    ft_set_time_slice(ns)
