"""Measures what the process holds, by kind, so that an alert can name what grew.

The kernel and libc report some kinds (psutil, mallinfo2); the program counts others, through a callable. They
overlap: client queues, for example, are also allocated with malloc.
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
"""Maximum number of sizes, and of counts, that an alert names."""

MIN_GROWTH_BYTES = MB
"""Smaller growth is not reported."""


@dataclass(frozen=True)
class ResourceSnapshot:
    """Sizes in bytes and counts, keyed by the names used in the log."""

    sizes: Mapping[str, int]
    counts: Mapping[str, int]


TakeSnapshot = Callable[[], ResourceSnapshot]


class ResourceProbe:
    """Measures this process by kernel, libc and interpreter; `app_snapshot` adds the program's numbers."""

    def __init__(self, app_snapshot: TakeSnapshot = lambda: ResourceSnapshot({}, {})) -> None:
        self._process = psutil.Process()
        self._app_snapshot = app_snapshot

    def rss(self) -> int:
        """Return the resident memory in bytes."""
        return int(self._process.memory_info().rss)

    def pss(self) -> int | None:
        """Return the proportional set size (PSS) in bytes, or None if the kernel does not report it.

        The kernel walks all pages, which takes milliseconds, so do not call this for every sample or on a
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
        """Return the number of open file descriptors."""
        return int(self._process.num_fds())

    def threads(self) -> int:
        """Return the number of threads, including those that Python did not start."""
        return int(self._process.num_threads())

    def allocator_metrics(self) -> dict[str, int]:
        """Return the allocators' numbers for the metrics, without those that libc cannot report."""
        used = malloc_usage()
        malloc = {} if used is None else {"malloc_used_bytes": used[0], "malloc_free_bytes": used[1]}
        return {**malloc, "python_blocks": sys.getallocatedblocks()}

    def take_snapshot(self) -> ResourceSnapshot:
        """Return a snapshot of all sizes and counts."""
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
    """Keeps the last `max_points` snapshots and describes what grew since the oldest."""

    def __init__(self, max_points: int = 60) -> None:
        self._history: deque[ResourceSnapshot] = deque(maxlen=max_points)

    def add_snapshot(self, snapshot: ResourceSnapshot) -> None:
        self._history.append(snapshot)

    def describe(self) -> str:
        """Describe the growth, largest first.

        An example is `client queues +120.0 MB (to 131.2 MB), clients +12 (to 15)`.
        """
        if not self._history:
            return "nothing was measured"
        before, now = self._history[0], self._history[-1]
        increased_sizes = _largest_increases(before.sizes, now.sizes, MIN_GROWTH_BYTES)
        parts = [
            f"{name} {increase / MB:+.1f} MB (to {now.sizes[name] / MB:.1f} MB)"
            for name, increase in increased_sizes
        ]
        # Report only counts of which at least a tenth is new; small changes of large counts mean nothing.
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
        return ctypes.CDLL(None)  # the symbols already loaded, without searching for a file
    except OSError:
        return None


_LIBC = _libc()


def malloc_usage() -> tuple[int, int] | None:
    """Return malloc's (bytes in use, bytes free but retained), or None if libc cannot report them.

    Requires glibc 2.33 or later. A sanitizer's malloc reports zeros.
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


# (environment variable, name in GLIBC_TUNABLES, mallopt parameter, value)
_MALLOPT_SETTINGS = (
    # Only the main thread allocates much. By default, other threads get arenas of their own, which never
    # shrink because the main thread frees the replays' messages.
    ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", -8, 2),
    # Set to fixed values, because glibc raises both thresholds when a mapping is freed, up to megabytes after
    # a burst of messages. The ring's outboxes would then come from the heap, between the messages queued for
    # clients, and the holes they leave would make the heap grow for hours. The threshold is twice the default
    # maximum message size, because a mapping per message would cost a tenth of the time.
    ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", -3, 512 << 10),
    ("MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", -1, 1 << 20),
)


def configure_malloc(environ: Mapping[str, str]) -> None:
    """Configure malloc to return the memory of bursts and slow clients to the system when it is freed.

    Settings in the environment take precedence. Does nothing unless libc is glibc.
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
    """Collect garbage, and return malloc's free pages to the system if libc supports it.

    The collection holds the GIL, but visits only objects created after the start (gc.freeze). malloc_trim may
    have to return gigabytes, so it runs on a thread of its own, without the GIL.
    """
    gc.collect()
    try:
        trim = _LIBC.malloc_trim if _LIBC is not None else None
    except AttributeError:
        return
    if trim is not None:
        threading.Thread(target=trim, args=(0,), name="fasttail-trim", daemon=True).start()
