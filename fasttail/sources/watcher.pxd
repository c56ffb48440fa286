from libc.stdint cimport uint64_t

cimport cython


# What wait() answers: any of these together.
cpdef enum:
    WAIT_DATA = 1            # the current file was modified, or may have been: try to read
    WAIT_DIRS = 2            # something else happened (a name came, went or moved, events were lost): look again
    WAIT_WAKE = 4            # wake_fd is readable (left unread)
    WAIT_TIMER = 8           # the time asked for has passed, or a signal cut it short
    WAIT_OUTPUT_CLOSED = 16  # nobody reads `output_fd` any more


# One inotify instance: some folders and one current file. Owns its descriptor; one thread uses it.
@cython.final
cdef class Watcher:
    cdef int fd                          # owned; -1: no inotify, polling only
    cdef int wake_fd                     # borrowed, stays open as long as wait() is called; -1: none
    cdef int output_fd                   # borrowed descriptor that is written to; -1: none
    cdef int file_wd                     # watch of the current file; -1: none
    cdef bint polls_file                 # changes of the current file are not told: wait() answers every poll_us
    cdef long poll_us                    # more than 0
    cdef uint64_t overflow_count         # times the kernel dropped events
    cdef set _dir_wds                    # watches of the folders
    cdef readonly object polling_reason  # str | None: why it is polling

    cdef int wait(self, long timeout_us) noexcept nogil

    cdef int _drain_events(self) noexcept nogil
    cdef _fall_back_to_polling(self, str polling_reason)
