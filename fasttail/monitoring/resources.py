"""What the process holds, by kind, and which of it grew: so that an alert can say more than "memory".

Some kinds are the kernel's and libc's (psutil, mallinfo2), some are counted by the program itself and come
through a callable. They overlap: what waits for clients was allocated with malloc, too.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from fasttail.monitoring.growth import MB

MAX_REPORTED = 4
"""Kinds of bytes, and of counts, that an alert names at the most."""

MIN_GROWTH_BYTES = MB
"""Growth of bytes below this is not worth a word."""


@dataclass(frozen=True)
class ResourceSnapshot:
    """One count: bytes and numbers by kind, in the words of the log."""

    sizes: Mapping[str, int]
    counts: Mapping[str, int]


TakeSnapshot = Callable[[], ResourceSnapshot]


class ResourceProbe:
    """Counts what kernel, libc and interpreter know of this process; `app_snapshot` counts the rest."""

    def __init__(self, app_snapshot: TakeSnapshot = lambda: ResourceSnapshot({}, {})) -> None:
        self._process = psutil.Process()
        self._app_snapshot = app_snapshot

    def rss(self) -> int:
        """Bytes of memory this process occupies."""
        return int(self._process.memory_info().rss)

    def pss(self) -> int | None:
        """The same with shared pages counted in part; None where the kernel does not tell.

        The kernel walks over all pages for it, which takes milliseconds: not for every sample, and not on a
        thread that others wait for. The GIL is released meanwhile.
        """
        try:
            with open("/proc/self/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith(b"Pss:"):
                        return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            pass
        return None

    def open_files(self) -> int:
        """Descriptors."""
        return int(self._process.num_fds())

    def threads(self) -> int:
        """All of them, not only Python's."""
        return int(self._process.num_threads())

    def allocator_metrics(self) -> dict[str, int]:
        """What malloc and Python have given out, for the metrics; what libc cannot tell is missing."""
        used = malloc_usage()
        malloc = {} if used is None else {"malloc_used_bytes": used[0], "malloc_free_bytes": used[1]}
        return {**malloc, "python_blocks": sys.getallocatedblocks()}

    def take_snapshot(self) -> ResourceSnapshot:
        """Everything."""
        app_snapshot = self._app_snapshot()
        used = malloc_usage()
        malloc = {} if used is None else {"malloc in use": used[0], "malloc free": used[1]}
        return ResourceSnapshot(
            malloc | dict(app_snapshot.sizes),
            {
                "Python memory blocks": sys.getallocatedblocks(),
                "open files": self.open_files(),
                "threads": self.threads(),
                **app_snapshot.counts,
            },
        )


class GrowthReport:
    """Remembers counts over a window of at most `max_points` points, and says what grew since the oldest."""

    def __init__(self, max_points: int = 60) -> None:
        self._history: deque[ResourceSnapshot] = deque(maxlen=max_points)

    def add_snapshot(self, snapshot: ResourceSnapshot) -> None:
        """The newest count."""
        self._history.append(snapshot)

    def describe(self) -> str:
        """Largest first, such as `client queues +120.0 MB (to 131.2 MB), clients +12 (to 15)`; or that
        nothing did.
        """
        if not self._history:
            return "nothing was measured"
        before, now = self._history[0], self._history[-1]
        increased_sizes = _largest_increases(before.sizes, now.sizes, MIN_GROWTH_BYTES)
        parts = [
            f"{name} {increase / MB:+.1f} MB (to {now.sizes[name] / MB:.1f} MB)"
            for name, increase in increased_sizes
        ]
        # A count that grew by a tenth or more; what is large and moves a little says nothing.
        increased_counts = _largest_increases(before.counts, now.counts, 1)
        parts += [
            f"{name} {increase:+d} (to {now.counts[name]})"
            for name, increase in increased_counts
            if increase * 10 >= now.counts[name]
        ][:MAX_REPORTED]
        return ", ".join(parts) or "nothing that is tracked"


def _largest_increases(
    before: Mapping[str, int], now: Mapping[str, int], min_increase: int
) -> list[tuple[str, int]]:
    increases = ((name, value - before.get(name, 0)) for name, value in now.items())
    ordered = sorted((each for each in increases if each[1] >= min_increase), key=lambda each: -each[1])
    return ordered[:MAX_REPORTED]


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)  # what this process has loaded: no search for a file
    except OSError:
        return None


_LIBC = _libc()


def malloc_usage() -> tuple[int, int] | None:
    """(bytes in use, bytes free but kept from the system) of malloc; None where libc cannot tell (not glibc,
    or one before 2.33). A sanitizer's malloc tells zeros.
    """
    try:
        function = _LIBC.mallinfo2 if _LIBC is not None else None
    except AttributeError:
        return None
    if function is None:
        return None
    function.restype = _Mallinfo2
    info = function()
    return info.uordblks + info.hblkhd, info.fordblks


# (environment variable, name in GLIBC_TUNABLES, number for mallopt, value)
_MALLOPT_SETTINGS = (
    # Of all its threads only the main one allocates much. Each of the others would have an arena of its own,
    # which stays as large as it ever was: the replays' messages are freed by the main thread.
    ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", -8, 2),
    # Fixed: of itself glibc raises both with each mapping that is freed, after a burst of messages to
    # megabytes. From then on the ring's boxes are cut out of the heap, between the messages that wait for
    # clients, and the heap keeps the holes: it creeps up for hours. Twice as large as a message may be by
    # default: a mapping for each would cost a tenth of the time.
    ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", -3, 512 << 10),
    ("MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", -1, 1 << 20),
)


def configure_malloc(environ: Mapping[str, str]) -> None:
    """Sets malloc so that what a burst or slow clients took goes back to the system when it is freed.

    What the environment sets stays. Nothing happens where libc is not glibc.
    """
    try:
        mallopt = _LIBC.mallopt if _LIBC is not None else None
    except AttributeError:
        return
    if mallopt is None:
        return
    for variable, tunable, number, value in _MALLOPT_SETTINGS:
        if variable not in environ and tunable not in environ.get("GLIBC_TUNABLES", ""):
            mallopt(number, value)


def release_free_memory() -> None:
    """Collects garbage, and gives malloc's free pages back to the system where libc can.

    The collection holds the GIL, but looks only at what was made after the start (gc.freeze). malloc_trim may
    have gigabytes to give back: it runs in a thread of its own, without the GIL.
    """
    gc.collect()
    try:
        trim = _LIBC.malloc_trim if _LIBC is not None else None
    except AttributeError:
        return
    if trim is not None:
        threading.Thread(target=trim, args=(0,), name="fasttail-trim", daemon=True).start()
