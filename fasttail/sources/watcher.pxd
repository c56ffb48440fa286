from libc.stdint cimport uint64_t

cimport cython


# Flags returned by wait(), in any combination.
cpdef enum:
    WAIT_DATA = 1            # the current file was or may have been modified: try to read
    WAIT_DIRS = 2            # anything else (a name was added, removed or moved, events were lost): scan again
    WAIT_WAKE = 4            # wake_fd is readable (it is left unread)
    WAIT_TIMER = 8           # the timeout has passed, or a signal interrupted the wait
    WAIT_OUTPUT_CLOSED = 16  # the reader of `output_fd` has closed it


cdef enum:
    MAX_WATCHES = 8          # streams that one watcher can serve


cdef struct WatchState:      # of one stream
    bint used
    int file_wd              # watch of its current file; -1: none
    bint polls_file          # no events for the current file: wait() returns every poll_us
    int flags                # WAIT_DATA and WAIT_DIRS that concern it; whoever acts on them clears them


# One inotify instance for the folders and the current file of some streams. Owns its descriptor; one thread uses it.
@cython.final
cdef class Watcher:
    cdef int fd                          # owned; -1: no inotify, polling only
    cdef int wake_fd                     # borrowed, must stay open as long as wait() is called; -1: none
    cdef int output_fd                   # borrowed descriptor that the caller writes to; -1: none
    cdef long poll_us                    # greater than 0
    cdef uint64_t overflow_count         # times the kernel dropped events
    cdef WatchState states[MAX_WATCHES]
    cdef list _dir_wds                   # watches of each stream's folders
    cdef readonly object polling_reason  # str | None: why it is polling

    cdef int wait(self, long timeout_us) noexcept nogil

    cdef int _drain_events(self) noexcept nogil
    cdef int _flag_all(self, int flags) noexcept nogil
    cdef _fall_back_to_polling(self, str polling_reason)


# What one stream watches: its folders and its current file. The flags of its events are in `state`.
@cython.final
cdef class StreamWatch:
    cdef Watcher watcher
    cdef int index
    cdef WatchState* state               # part of the watcher
