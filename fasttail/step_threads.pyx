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

from fasttail.reread cimport Rereader

from fasttail.slices import ask_for_slices

cdef enum:
    NICE = 10                    # of the thread for what is urgent: about a tenth of a core that others want


@cython.final
cdef class StepThreads:
    """`count` threads of the policy SCHED_IDLE, and one more, of low priority, for steps that are urgent.

    All methods belong to the thread that made it. A rereader is nobody else's from `submit` until `finished` gives it back.
    """

    cdef int jobs, urgent, done      # where is written,
    cdef int jobs_end, urgent_end    # … and where the threads read
    cdef readonly int fd             # readable when something is finished
    cdef bint made
    cdef dict running                # by address: so long the rereaders must live
    cdef list threads

    def __cinit__(self, int count):
        self.running = {}
        self.jobs_end, self.jobs = os.pipe2(os.O_CLOEXEC)
        self.urgent_end, self.urgent = os.pipe2(os.O_CLOEXEC)
        self.fd, self.done = os.pipe2(os.O_CLOEXEC)
        self.made = True
        os.set_blocking(self.fd, False)
        self.threads = [threading.Thread(target=self._idle, name="fasttail-replay", daemon=True) for _ in range(count)]
        self.threads.append(threading.Thread(target=self._polite, name="fasttail-replay-urgent", daemon=True))
        for thread in self.threads:
            thread.start()

    def __dealloc__(self):
        # The threads have ended, for each of them holds a reference; so `close` was called.
        if self.made:                # else `__cinit__` failed, and 0 would be no pipe of ours
            close(self.jobs_end)
            close(self.urgent_end)
            close(self.done)
            close(self.fd)

    def submit(self, Rereader rereader not None, *, bint urgent=False) -> None:
        """Run the step that `begin_step` has described."""
        cdef void* job = <void*>rereader
        self.running[<size_t>job] = rereader
        _send(self.urgent if urgent else self.jobs, job)

    def finished(self) -> list:
        """The rereaders whose steps are done; `end_step` says how they ended."""
        cdef void* job
        cdef list found = []
        while read(self.fd, &job, sizeof(job)) == sizeof(job):
            found.append(self.running.pop(<size_t>job))
        return found

    def close(self) -> None:
        """No more steps. The threads end when they have done those that were submitted."""
        if self.jobs >= 0:
            os.close(self.jobs)
            os.close(self.urgent)
        self.jobs = self.urgent = -1

    def _idle(self) -> None:
        ask_for_slices(0)            # a new thread has inherited the event loop's
        try:
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass                     # forbidden here: then at the usual priority
        self._work(self.jobs_end)

    def _polite(self) -> None:
        ask_for_slices(0)
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        except OSError:
            pass
        self._work(self.urgent_end)

    cdef int _work(self, int fd) except -1:
        cdef int done = self.done
        with nogil:
            _serve(fd, done)
        return 0


cdef int _send(int fd, void* job) noexcept nogil:
    while write(fd, &job, sizeof(job)) < 0 and errno == EINTR:
        pass
    return 0


cdef int _serve(int fd, int done) noexcept nogil:
    """Until nobody can submit anything more. Always 0."""
    cdef void* job
    cdef ssize_t got
    while True:
        got = read(fd, &job, sizeof(job))
        if got == <ssize_t>sizeof(job):
            (<Rereader>job).run_step()
            _send(done, job)
        elif got == 0 or errno != EINTR:
            return 0
