"""Frees 40 MB below a block that stays and releases them; prints threads started and bytes released."""

from __future__ import annotations

import ctypes
import threading

from fasttail.monitoring.resources import ResourceProbe, release_free_memory

M_MMAP_THRESHOLD = -3

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # all of it from the heap
blocks = [libc.malloc(100_000) for _ in range(400)]
for block in blocks:
    libc.memset(block, 1, 100_000)
kept = libc.malloc(100_000)  # behind them: the heap cannot shrink past it
for block in blocks:
    libc.free(block)
process = ResourceProbe()
started: list[threading.Thread] = []
begin = threading.Thread.start


def start(thread: threading.Thread) -> None:
    started.append(thread)
    begin(thread)


threading.Thread.start = start  # type: ignore[method-assign, assignment]
before = process.rss()
release_free_memory()
for thread in started:
    thread.join()
print(len(started), before - process.rss())
