"""Waiting for the node to write: inotify where it works, a poll timer where it does not.

Events are hints: whoever waits must look at files and folders once in a while anyway, with the same result.
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
    EVENT_BUFFER_BYTES = 4096  # one read; the kernel wants sizeof(inotify_event) + NAME_MAX + 1 at least


@cython.final
cdef class Watcher:
    """Waits until the current file or a watched folder changes, wake_fd is readable, or a time has passed.

    wake_fd: a descriptor (eventfd, pipe) by which another thread ends a wait; borrowed. use_inotify=False:
    polling. poll_ms: how often a file that inotify does not cover is to be read. output_fd: a descriptor that the
    caller writes to (pipe, socket, terminal); a wait ends when its reader has gone. Borrowed. If inotify cannot be had, or
    runs out of watches, the watcher polls from then on and `polling_reason` says why; nothing raises for that.
    """

    def __cinit__(self, int wake_fd=-1, bint use_inotify=True, long poll_ms=20, int output_fd=-1):
        self.fd = -1
        self.output_fd = output_fd
        self.wake_fd = wake_fd
        self.file_wd = -1
        self.poll_us = max(poll_ms, 1) * 1000
        self._dir_wds = set()
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

    # ---- mechanism: no GIL, codes ----

    cdef int wait(self, long timeout_us) noexcept nogil:
        """Wait timeout_us microseconds at most (negative: no limit); answers WAIT_* flags, at least one."""
        cdef pollfd fds[3]
        cdef timespec limit
        cdef long wait_us = timeout_us
        cdef int ready, flags = 0
        if self.polls_file and (wait_us < 0 or wait_us > self.poll_us):
            wait_us = self.poll_us
        limit.tv_sec = wait_us // 1000000
        limit.tv_nsec = wait_us % 1000000 * 1000
        fds[0].fd = self.fd  # poll passes over negative descriptors
        fds[1].fd = self.wake_fd
        fds[2].fd = self.output_fd
        fds[0].events = fds[1].events = POLLIN
        fds[2].events = 0  # POLLERR and POLLHUP are always told
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
        if self.polls_file:
            flags |= WAIT_DATA
        return flags

    cdef int _drain_events(self) noexcept nogil:
        """Read what events are there (the rest makes the next wait end at once); answers WAIT_* flags."""
        cdef char buffer[EVENT_BUFFER_BYTES]
        cdef inotify_event event
        cdef size_t at = 0, size
        cdef ssize_t bytes_read = read(self.fd, buffer, EVENT_BUFFER_BYTES)
        cdef int flags = 0
        if bytes_read <= 0:
            if errno != EAGAIN and errno != EINTR:  # a broken descriptor: polling is better than spinning
                close(self.fd)
                self.fd = -1
                self.polls_file = True
            return WAIT_DIRS
        size = <size_t>bytes_read
        while at + sizeof(inotify_event) <= size:
            memcpy(&event, buffer + at, sizeof(inotify_event))  # the buffer need not be aligned
            at += sizeof(inotify_event) + event.len
            ft_assert(at <= size)                # the kernel gives whole events only
            if event.mask & IN_Q_OVERFLOW:
                ft_add_single_writer(&self.overflow_count, 1)  # relaxed: the main thread tells of it
                flags |= WAIT_DATA | WAIT_DIRS
            elif event.wd == self.file_wd:
                if event.mask & IN_MODIFY:
                    flags |= WAIT_DATA
                else:
                    flags |= WAIT_DIRS
                if event.mask & IN_IGNORED:  # the kernel dropped the watch
                    self.file_wd = -1
                    self.polls_file = True
            else:
                flags |= WAIT_DIRS
        return flags

    # ---- Python side: rare events ----

    def wait_once(self, long timeout_us):
        """wait() for Python callers. The GIL is released meanwhile."""
        cdef int flags
        with nogil:
            flags = self.wait(timeout_us)
        return flags

    def watch_file(self, path):
        """Make `path` the current file, instead of the one before; None: there is none.

        A file that cannot be watched is polled: reading it is what shows whether it can be read.
        """
        cdef int before = self.file_wd
        self.file_wd = -1
        self.polls_file = self.fd < 0
        if path is not None and self.fd >= 0:
            self.file_wd = self._add_watch(path, IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF)
            self.polls_file = self.file_wd < 0
        # The same file again has the same watch, which must stay.
        if before >= 0 and before != self.file_wd and self.fd >= 0:
            inotify_rm_watch(self.fd, before)

    def watch_dirs(self, paths):
        """Watch these folders for names that come and go, and no others. A missing one is passed over.

        To be called again with every rescan: a folder made anew needs a new watch.
        """
        wds = set()
        for path in paths:
            if self.fd < 0:
                return
            # Known folders are added as well: the kernel then answers with the watch it has.
            wds.add(self._add_watch(path, IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF
                                    | IN_MOVE_SELF | IN_ONLYDIR))
        wds.discard(-1)
        for wd in self._dir_wds - wds:
            inotify_rm_watch(self.fd, wd)  # EINVAL: the folder went, and its watch with it
        self._dir_wds = wds

    def close(self):
        """Give back the inotify instance; the watcher polls from then on."""
        self._fall_back_to_polling("closed")

    @property
    def overflows(self):
        """Times the kernel dropped events. Callable from any thread."""
        return ft_load_relaxed(&self.overflow_count)

    @property
    def uses_inotify(self):
        """Whether inotify is in use."""
        return self.fd >= 0

    def _add_watch(self, path, uint32_t mask):
        """The watch descriptor of `path`, -1 if it cannot be watched."""
        cdef bytes name = os.fsencode(path)
        cdef int wd = inotify_add_watch(self.fd, name, mask)
        cdef int code = errno
        # A missing or forbidden path says nothing of the others; anything else would hit the next too.
        if wd < 0 and code not in (ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG):
            self._fall_back_to_polling(_inotify_error(code))
        return wd

    cdef _fall_back_to_polling(self, str polling_reason):
        if self.fd >= 0:
            close(self.fd)
        self.fd = -1
        self.file_wd = -1
        self.polls_file = True
        self._dir_wds = set()
        self.polling_reason = polling_reason


def _inotify_error(int code):
    """What to tell an operator whose inotify does not work; code: errno."""
    text = f"inotify is unavailable ({os.strerror(code)})"
    if code == ENOSPC:
        return f"{text}: no watches left, raise the sysctl fs.inotify.max_user_watches"
    if code == EMFILE:
        return f"{text}: raise the sysctl fs.inotify.max_user_instances, or the open files (ulimit -n)"
    return text
