"""malloc, as `fasttail serve` sets it: what was freed goes back to the system, also after a burst."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from fasttail.watch.census import Process

SCRIPT = """
import ctypes, os, sys
from fasttail.watch.census import let_malloc_give_back, malloc_use

if sys.argv[1] == "set":
    let_malloc_give_back(os.environ)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


def take(size):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    return block


# A burst: a block as large as its messages is freed, and glibc takes it that such blocks come again.
libc.free(take(8 << 20))
before = malloc_use()[1]
# Then blocks of a megabyte, with a message that somebody still waits for behind each.
blocks, kept = [], []
for _ in range(8):
    blocks.append(take(1 << 20))
    kept.append(take(1 << 15))
for block in blocks:
    libc.free(block)
print(malloc_use()[1] - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")


def kept_free(how: str, **environ: str) -> int:
    """Bytes that malloc keeps of eight megabytes that were freed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-P", "-c", SCRIPT, how]
    return int(subprocess.check_output(command, env=env | environ, text=True).split()[0])


@glibc
@pytest.mark.plain_build
def test_what_a_burst_took_goes_back() -> None:
    assert kept_free("as it is") > 7 << 20, "if not, there is no need to set anything"
    assert kept_free("set") < 1 << 20


@glibc
@pytest.mark.plain_build
@pytest.mark.parametrize(
    "environ",
    [{"MALLOC_MMAP_THRESHOLD_": "33554432"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=33554432"}],
)
def test_what_the_environment_sets_stays(environ: dict[str, str]) -> None:
    assert kept_free("set", **environ) > 7 << 20


GIVE_BACK = """
import ctypes, threading, time
from fasttail.watch.census import Process, give_back

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.mallopt(-3, 1 << 25)  # all of it from the heap
blocks = [libc.malloc(100_000) for _ in range(400)]
for block in blocks:
    libc.memset(block, 1, 100_000)
kept = libc.malloc(100_000)  # behind them: the heap cannot shrink past it
for block in blocks:
    libc.free(block)
process, started = Process(), []
begin = threading.Thread.start
threading.Thread.start = lambda self: (started.append(self), begin(self))[1]
before = process.rss()
give_back()
for thread in started:
    thread.join()
print(len(started), before - process.rss())
"""


@glibc
@pytest.mark.plain_build
def test_free_pages_go_back_by_a_thread_of_their_own() -> None:
    threads, freed = map(int, subprocess.check_output([sys.executable, "-P", "-c", GIVE_BACK]).split())
    assert threads == 1, "malloc_trim may take long: never on the event loop"
    assert freed > 30 << 20


def test_pss_is_what_the_kernel_tells() -> None:
    process = Process()
    pss = process.pss()
    assert pss is not None
    assert 1 << 20 < pss < 2 * process.rss()
