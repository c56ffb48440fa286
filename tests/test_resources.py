"""malloc as `fasttail serve` configures it returns freed memory to the system, even after a burst."""

from __future__ import annotations

import os
import platform
import subprocess

import pytest
from running import program

from fasttail.monitoring.resources import ResourceProbe

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")


def kept_free(how: str, **environ: str) -> int:
    """Return how many bytes of eight freed megabytes malloc retains."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [*program("burst"), how]
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


@glibc
@pytest.mark.plain_build
def test_free_pages_go_back_by_a_thread_of_their_own() -> None:
    threads, freed = map(int, subprocess.check_output(program("give_back")).split())
    assert threads == 1, "malloc_trim may take long: never on the event loop"
    assert freed > 30 << 20


def test_pss_is_what_the_kernel_tells() -> None:
    process = ResourceProbe()
    pss = process.pss()
    assert pss is not None
    assert 1 << 20 < pss < 2 * process.rss()
