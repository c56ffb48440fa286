"""Threads that run steps of rereaders, and get only the time that nobody else wants.

A thread that the kernel lets run so seldom must hold nothing that the event loop waits for. So these threads never take the
GIL while they work: a job is a pointer in a pipe, and so is its result. No lock is shared.

    event loop: submit ──► pipe of jobs ──► a thread runs the step ──► pipe of what is done ──► finished
"""
import os
import threading

cimport cython
from libc.errno cimport EINTR, errno
from posix.unistd cimport close, read, write

from fasttail.replay.replay_reader cimport ReplayReader

from fasttail.system.scheduling import set_time_slice

cdef enum:
    URGENT_NICE = 10             # of the thread for what is urgent: about a tenth of a core that others want


@cython.final
cdef class ReplayThreadPool:
    """`count` threads of the policy SCHED_IDLE, and one more, of low priority, for steps that are urgent.

    All methods belong to the thread that made it. A rereader is nobody else's from `submit` until `take_finished` gives it
    back.
    """

    cdef int jobs_write_fd, urgent_write_fd, results_write_fd  # where is written,
    cdef int jobs_read_fd, urgent_read_fd                      # … and where the threads read
    cdef readonly int fd                                       # readable when something is finished
    cdef bint initialized
    cdef dict in_flight              # by address: so long the rereaders must live
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
        # The threads have ended, for each of them holds a reference; so `close` was called.
        if self.initialized:         # else `__cinit__` failed, and 0 would be no pipe of ours
            close(self.jobs_read_fd)
            close(self.urgent_read_fd)
            close(self.results_write_fd)
            close(self.fd)

    def submit(self, ReplayReader replay_reader not None, *, bint urgent=False) -> None:
        """Run the step that `begin_step` has described."""
        cdef void* job = <void*>replay_reader
        self.in_flight[<size_t>job] = replay_reader
        _send_job(self.urgent_write_fd if urgent else self.jobs_write_fd, job)

    def take_finished(self) -> list:
        """The rereaders whose steps are done; `end_step` says how they ended."""
        cdef void* job
        cdef list finished_readers = []
        while read(self.fd, &job, sizeof(job)) == sizeof(job):
            finished_readers.append(self.in_flight.pop(<size_t>job))
        return finished_readers

    def close(self) -> None:
        """No more steps. The threads end when they have done those that were submitted."""
        if self.jobs_write_fd >= 0:
            os.close(self.jobs_write_fd)
            os.close(self.urgent_write_fd)
        self.jobs_write_fd = self.urgent_write_fd = -1

    def _run_idle_class(self) -> None:
        set_time_slice(0)            # a new thread has inherited the event loop's
        try:
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass                     # forbidden here: then at the usual priority
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
    """Until nobody can submit anything more."""
    cdef void* job
    cdef ssize_t got
    while True:
        got = read(fd, &job, sizeof(job))
        if got == <ssize_t>sizeof(job):
            (<ReplayReader>job).run_step()
            _send_job(results_write_fd, job)
        elif got == 0 or errno != EINTR:
            return
