"""Threads that run steps of replay readers, and only on idle cores.

A thread that the kernel runs so rarely must hold nothing that the event loop waits for. These threads therefore never take the
GIL while they work, and share no lock: a job is a pointer in a pipe, and so is its result.

    event loop: submit ──► pipe of jobs ──► a thread runs the step ──► pipe of results ──► take_finished
"""
import os
import threading

cimport cython
from libc.errno cimport EINTR, errno
from posix.unistd cimport close, read, write

from fasttail.replay.replay_reader cimport ReplayReader

from fasttail.system.scheduling import set_time_slice

cdef enum:
    URGENT_NICE = 10             # about a tenth of a core that others want


@cython.final
cdef class ReplayThreadPool:
    """`count` threads with policy SCHED_IDLE, and one more with low priority for urgent steps.

    All methods belong to the thread that created it. From `submit` until `take_finished` returns it, nothing else may use a
    reader.
    """

    cdef int jobs_write_fd, urgent_write_fd, results_write_fd  # write ends,
    cdef int jobs_read_fd, urgent_read_fd                      # … and the read ends, for the threads
    cdef readonly int fd                                       # readable when a step has finished
    cdef bint initialized
    cdef dict in_flight              # by address; keeps the readers alive
    cdef list threads

    def __cinit__(self, int count):
        self.in_flight = {}
        self.jobs_read_fd, self.jobs_write_fd = os.pipe2(os.O_CLOEXEC)
        self.urgent_read_fd, self.urgent_write_fd = os.pipe2(os.O_CLOEXEC)
        self.fd, self.results_write_fd = os.pipe2(os.O_CLOEXEC)
        self.initialized = True
        os.set_blocking(self.fd, False)
        self.threads = [threading.Thread(target=self._run_idle_class, name="fasttail-replay",
                                         daemon=True) for _ in range(count)]
        self.threads.append(threading.Thread(target=self._run_niced, name="fasttail-replay-urgent", daemon=True))
        for thread in self.threads:
            thread.start()

    def __dealloc__(self):
        # Each thread holds a reference, so all have ended, and `close` was called.
        if self.initialized:         # else `__cinit__` failed, and descriptor 0 is not ours
            close(self.jobs_read_fd)
            close(self.urgent_read_fd)
            close(self.results_write_fd)
            close(self.fd)

    def submit(self, ReplayReader replay_reader not None, *, bint urgent=False) -> None:
        """Run the step that `begin_step` has set."""
        cdef void* job = <void*>replay_reader
        self.in_flight[<size_t>job] = replay_reader
        _send_job(self.urgent_write_fd if urgent else self.jobs_write_fd, job)

    def take_finished(self) -> list:
        """Return the readers whose steps are finished. `end_step` reports their results."""
        cdef void* job
        cdef list finished_readers = []
        while read(self.fd, &job, sizeof(job)) == sizeof(job):
            finished_readers.append(self.in_flight.pop(<size_t>job))
        return finished_readers

    def close(self) -> None:
        """Accept no more steps. The threads end after those that were submitted."""
        if self.jobs_write_fd >= 0:
            os.close(self.jobs_write_fd)
            os.close(self.urgent_write_fd)
        self.jobs_write_fd = self.urgent_write_fd = -1

    def _run_idle_class(self) -> None:
        set_time_slice(0)            # do not inherit the event loop's time slice
        try:
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass                     # not permitted: run at the usual priority
        self._run_jobs(self.jobs_read_fd)

    def _run_niced(self) -> None:
        set_time_slice(0)
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), URGENT_NICE)
        except OSError:
            pass
        self._run_jobs(self.urgent_read_fd)

    cdef int _run_jobs(self, int fd) except -1:
        cdef int results_write_fd = self.results_write_fd
        with nogil:
            _serve_jobs(fd, results_write_fd)
        return 0


cdef void _send_job(int fd, void* job) noexcept nogil:
    while write(fd, &job, sizeof(job)) < 0 and errno == EINTR:
        pass


cdef void _serve_jobs(int fd, int results_write_fd) noexcept nogil:
    """Run jobs until the write end is closed."""
    cdef void* job
    cdef ssize_t got
    while True:
        got = read(fd, &job, sizeof(job))
        if got == <ssize_t>sizeof(job):
            (<ReplayReader>job).run_step()
            _send_job(results_write_fd, job)
        elif got == 0 or errno != EINTR:
            return
