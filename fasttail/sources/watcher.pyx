"""Waits for the node to write, with inotify where it works and a poll timer where it does not.

Events are only hints: callers must scan files and folders periodically anyway, with the same result.
"""
import os

cimport cython
from libc.errno cimport EACCES, EAGAIN, EINTR, ELOOP, EMFILE, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport timespec
from posix.unistd cimport close, read

from fasttail.system.atomics cimport ft_add_single_writer, ft_load_relaxed
from fasttail.system.checks cimport ft_assert

cdef extern from "<sys/inotify.h>" nogil:
    struct inotify_event:
        int wd
        uint32_t mask
        uint32_t len
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char* path, uint32_t mask)
    int inotify_rm_watch(int fd, int wd)
    const int IN_CLOEXEC, IN_NONBLOCK
    const uint32_t IN_ATTRIB, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_IGNORED, IN_MODIFY
    const uint32_t IN_MOVED_FROM, IN_MOVED_TO, IN_MOVE_SELF, IN_ONLYDIR, IN_Q_OVERFLOW

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* sigmask)

cdef enum:
    EVENT_BUFFER_BYTES = 4096  # per read; the kernel needs at least sizeof(inotify_event) + NAME_MAX + 1


@cython.final
cdef class Watcher:
    """Waits until a stream's current file or a watched folder changes, wake_fd is readable, or a timeout passes.

    `watch` gives each stream a StreamWatch, with which it tells what to watch.

    wake_fd: a borrowed descriptor (eventfd, pipe) with which another thread ends a wait.
    use_inotify: False to poll instead.
    poll_ms: milliseconds between reads of a file that inotify does not cover.
    output_fd: a borrowed descriptor that the caller writes to (pipe, socket, terminal). A wait ends when its reader closes it.

    If inotify is unavailable or runs out of watches, the watcher polls from then on and sets `polling_reason`. It does not
    raise.
    """

    def __cinit__(self, int wake_fd=-1, bint use_inotify=True, long poll_ms=20, int output_fd=-1):
        self.fd = -1
        self.output_fd = output_fd
        self.wake_fd = wake_fd
        self.poll_us = max(poll_ms, 1) * 1000
        self._dir_wds = [set() for _ in range(MAX_WATCHES)]
        if not use_inotify:
            self._fall_back_to_polling("inotify is switched off")
            return
        self.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if self.fd < 0:
            self._fall_back_to_polling(_inotify_error(errno))

    def __dealloc__(self):
        # poll_us is 0 if __cinit__ failed before its first line: then fd is 0, and not ours.
        if self.poll_us > 0 and self.fd >= 0:
            close(self.fd)

    # ---- mechanism: runs without the GIL, returns codes ----

    cdef int wait(self, long timeout_us) noexcept nogil:
        """Wait at most timeout_us microseconds (negative: no limit) and return at least one of the WAIT_* flags."""
        cdef pollfd fds[3]
        cdef timespec limit
        cdef long wait_us = timeout_us
        cdef int ready, i, flags = 0
        cdef bint polls = False
        for i in range(MAX_WATCHES):
            polls |= self.states[i].used and self.states[i].polls_file
        if polls and (wait_us < 0 or wait_us > self.poll_us):
            wait_us = self.poll_us
        limit.tv_sec = wait_us // 1000000
        limit.tv_nsec = wait_us % 1000000 * 1000
        fds[0].fd = self.fd  # poll ignores negative descriptors
        fds[1].fd = self.wake_fd
        fds[2].fd = self.output_fd
        fds[0].events = fds[1].events = POLLIN
        fds[2].events = 0  # POLLERR and POLLHUP are always reported
        fds[0].revents = fds[1].revents = fds[2].revents = 0
        ready = ppoll(fds, 3, &limit if wait_us >= 0 else NULL, NULL)
        if ready > 0:
            if fds[0].revents:
                flags |= self._drain_events()
            if fds[1].revents:
                flags |= WAIT_WAKE
            if fds[2].revents:
                flags |= WAIT_OUTPUT_CLOSED
        elif ready < 0 or wait_us == timeout_us:
            flags |= WAIT_TIMER
        for i in range(MAX_WATCHES):
            if self.states[i].used and self.states[i].polls_file:
                self.states[i].flags |= WAIT_DATA
                flags |= WAIT_DATA
        return flags

    cdef int _flag_all(self, int flags) noexcept nogil:
        """Set the flags for every stream, and return them."""
        cdef int i
        for i in range(MAX_WATCHES):
            self.states[i].flags |= flags
        return flags

    cdef int _drain_events(self) noexcept nogil:
        """Read pending events once and return WAIT_* flags. Any events left make the next wait return at once."""
        cdef char buffer[EVENT_BUFFER_BYTES]
        cdef inotify_event event
        cdef size_t at = 0, size
        cdef ssize_t bytes_read = read(self.fd, buffer, EVENT_BUFFER_BYTES)
        cdef int i, flag, flags = 0
        cdef WatchState* state
        if bytes_read <= 0:
            if errno != EAGAIN and errno != EINTR:  # the descriptor is broken: poll instead of spinning
                close(self.fd)
                self.fd = -1
                for i in range(MAX_WATCHES):
                    self.states[i].polls_file = True
            return self._flag_all(WAIT_DIRS)
        size = <size_t>bytes_read
        while at + sizeof(inotify_event) <= size:
            memcpy(&event, buffer + at, sizeof(inotify_event))  # the buffer need not be aligned
            at += sizeof(inotify_event) + event.len
            ft_assert(at <= size)                # the kernel returns only whole events
            if event.mask & IN_Q_OVERFLOW:
                ft_add_single_writer(&self.overflow_count, 1)  # relaxed: the main thread reports it
                flags |= self._flag_all(WAIT_DATA | WAIT_DIRS)
                continue
            state = NULL
            for i in range(MAX_WATCHES):
                if self.states[i].used and self.states[i].file_wd == event.wd:
                    state = &self.states[i]
                    flag = WAIT_DATA if event.mask & IN_MODIFY else WAIT_DIRS
                    state.flags |= flag
                    flags |= flag
                    if event.mask & IN_IGNORED:  # the kernel removed the watch
                        state.file_wd = -1
                        state.polls_file = True
            if state == NULL:                # a folder, which several streams may watch
                flags |= self._flag_all(WAIT_DIRS)
        return flags

    # ---- Python API for rare events ----

    def wait_once(self, long timeout_us):
        """Call wait() without the GIL and return its WAIT_* flags."""
        cdef int flags
        with nogil:
            flags = self.wait(timeout_us)
        return flags

    def watch(self):
        """Return a StreamWatch for another stream. Raises RuntimeError if there are MAX_WATCHES already."""
        return StreamWatch(self)

    def close(self):
        """Close the inotify instance; the watcher polls from then on."""
        self._fall_back_to_polling("closed")

    def fileno(self):
        """Return the inotify descriptor, -1 without inotify. It is readable while there are events."""
        return self.fd

    @property
    def overflows(self):
        """Times the kernel dropped events. May be read from any thread."""
        return ft_load_relaxed(&self.overflow_count)

    @property
    def uses_inotify(self):
        return self.fd >= 0

    def _add_watch(self, path, uint32_t mask):
        """Return the watch descriptor of `path`, -1 if it cannot be watched."""
        cdef bytes name = os.fsencode(path)
        cdef int wd = inotify_add_watch(self.fd, name, mask)
        cdef int code = errno
        # A missing or forbidden path says nothing about the others; any other error would hit them too.
        if wd < 0 and code not in (ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG):
            self._fall_back_to_polling(_inotify_error(code))
        return wd

    cdef _fall_back_to_polling(self, str polling_reason):
        cdef int i
        if self.fd >= 0:
            close(self.fd)
        self.fd = -1
        for i in range(MAX_WATCHES):
            self.states[i].file_wd = -1
            self.states[i].polls_file = True
            self._dir_wds[i] = set()
        self.polling_reason = polling_reason


@cython.final
cdef class StreamWatch:
    """What one stream watches. Until `close`, the watcher's waits end with its events."""

    def __cinit__(self, Watcher watcher not None):
        cdef int i
        for i in range(MAX_WATCHES):
            if not watcher.states[i].used:
                break
        else:
            raise RuntimeError(f"a watcher serves at most {MAX_WATCHES} streams")
        self.watcher = watcher
        self.index = i
        self.state = &watcher.states[i]
        self.state.used = True
        self.state.file_wd = -1
        self.state.polls_file = watcher.fd < 0
        self.state.flags = 0

    def watch_file(self, path):
        """Make `path` the current file (None: no file).

        A file that cannot be watched is polled, because only reading it shows whether it can be read.
        """
        cdef Watcher watcher = self.watcher
        cdef int before = self.state.file_wd
        self.state.file_wd = -1
        self.state.polls_file = watcher.fd < 0
        if path is not None and watcher.fd >= 0:
            self.state.file_wd = watcher._add_watch(path, IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF)
            self.state.polls_file = self.state.file_wd < 0
        # The same file gets the same watch again, which must stay.
        if before >= 0 and before != self.state.file_wd and watcher.fd >= 0:
            inotify_rm_watch(watcher.fd, before)

    def watch_dirs(self, paths):
        """Watch these folders, and no others, for names that are added, removed or moved. Ignore missing folders.

        Call this again with every rescan, because a folder that was created again needs a new watch.
        """
        cdef Watcher watcher = self.watcher
        wds = set()
        for path in paths:
            if watcher.fd < 0:
                return
            # For a folder that is already watched, the kernel returns the existing watch.
            wds.add(watcher._add_watch(path, IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF
                                       | IN_MOVE_SELF | IN_ONLYDIR))
        wds.discard(-1)
        before, watcher._dir_wds[self.index] = watcher._dir_wds[self.index], wds
        for wd in before.difference(*watcher._dir_wds):
            inotify_rm_watch(watcher.fd, wd)  # EINVAL if the folder was deleted, and its watch with it

    @property
    def polls_file(self):
        """Whether the watcher does not report changes of the current file, so that it must be read to see them."""
        return self.state.polls_file

    @property
    def polling_reason(self):
        """Why the watcher is polling, or None."""
        return self.watcher.polling_reason

    def close(self):
        """Watch nothing more."""
        self.watch_file(None)
        self.watch_dirs([])
        self.state.used = False
        self.state.polls_file = False


def _inotify_error(int code):
    """Return what to report to an operator whose inotify fails with errno `code`."""
    text = f"inotify is unavailable ({os.strerror(code)})"
    if code == ENOSPC:
        return f"{text}: no watches left, raise the sysctl fs.inotify.max_user_watches"
    if code == EMFILE:
        return f"{text}: raise the sysctl fs.inotify.max_user_instances, or the open files (ulimit -n)"
    return text
