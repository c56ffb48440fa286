"""Prints how many bytes of eight freed megabytes malloc retains; "set" configures malloc to return them."""

from __future__ import annotations

import ctypes
import os
import sys

from fasttail.monitoring.resources import configure_malloc, malloc_usage

if sys.argv[1] == "set":
    configure_malloc(os.environ)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


def take(size: int) -> int:
    block: int = libc.malloc(size)
    libc.memset(block, 1, size)
    return block


def free_bytes() -> int:
    use = malloc_usage()
    assert use is not None
    return use[1]


# A burst: after a block as large as its messages is freed, glibc expects more blocks of that size.
libc.free(take(8 << 20))
before = free_bytes()
# Then blocks of a megabyte, each followed by a message that a client still waits for.
blocks, kept = [], []
for _ in range(8):
    blocks.append(take(1 << 20))
    kept.append(take(1 << 15))
for block in blocks:
    libc.free(block)
print(free_bytes() - before)
