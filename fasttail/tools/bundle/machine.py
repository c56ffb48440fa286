"""Describes the machine, its kernel and their limits, from /proc, /sys and the file system."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fasttail.sources.layout import LAYOUTS, hour_files, hourly_folder
from fasttail.system.cgroup import cpu_limit, memory_limit
from fasttail.tools.bundle.archive import SourceUnavailable
from fasttail.version import commit, version

KERNEL_FILES = (
    "/proc/version", "/proc/sys/fs/inotify/max_user_watches", "/proc/sys/fs/inotify/max_user_instances",
    "/proc/sys/fs/inotify/max_queued_events", "/proc/sys/fs/file-max", "/proc/sys/fs/file-nr",
    "/proc/sys/fs/nr_open", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max",
    "/proc/sys/net/core/somaxconn", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/swappiness", "/proc/loadavg", "/proc/uptime", "/proc/pressure/cpu", "/proc/pressure/memory",
    "/proc/pressure/io", "/proc/meminfo",
)  # fmt: skip
CGROUP_FILES = (
    "memory.max",
    "memory.current",
    "memory.events",
    "cpu.max",
    "cpu.stat",
    "pids.max",
    "pids.current",
)
LIMITS = ("NOFILE", "NPROC", "AS", "DATA", "STACK", "MEMLOCK", "CORE", "FSIZE")
MAX_HOURS = 48
"""Hours listed per layout."""


def about() -> str:
    """Return the versions of fasttail, Python and all installed packages."""
    packages = sorted(
        {f"{each.metadata['Name']} {each.version}" for each in importlib.metadata.distributions()}
    )
    lines = [
        f"made {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}",
        f"fasttail {version()} (commit {commit()})",
        f"Python {sys.version}",
        f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{len(os.sched_getaffinity(0))} usable",
        "",
        *packages,
    ]
    return "\n".join(lines) + "\n"


def kernel() -> str:
    """Return the limits of the kernel, of this process and of its cgroups."""
    found = [f"{path}:\n{_text(path)}\n" for path in KERNEL_FILES]
    for name in LIMITS:
        soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        shown = ["unlimited" if each == resource.RLIM_INFINITY else str(each) for each in (soft, hard)]
        found.append(f"ulimit {name}: {shown[0]}, at most {shown[1]}\n")
    found.append(f"control groups: {cpu_limit()} CPUs, {memory_limit()} bytes of memory\n")
    found += [f"/sys/fs/cgroup/{name}:\n{_text(f'/sys/fs/cgroup/{name}')}\n" for name in CGROUP_FILES]
    return "".join(found)


def disk(folder: Path) -> str:
    """Return the usage and the mount of a folder's file system."""
    usage = shutil.disk_usage(folder)
    system = os.statvfs(folder)
    lines = [
        f"{folder}: {usage.total} bytes, {usage.used} used, {usage.free} free",
        f"inodes: {system.f_files}, {system.f_favail} free",
        f"mounted: {_mount(folder)}",
    ]
    return "\n".join(lines) + "\n"


def node_files(folder: Path) -> str:
    """List the newest hours of each layout with size, age, owner and mode, but not their content."""
    now, lines = time.time(), []
    folder.stat()  # raises if the folder itself is inaccessible
    for layout in LAYOUTS:
        hourly = hourly_folder(folder, layout)
        try:
            hours = hour_files(hourly)
        except OSError as error:
            lines.append(f"{hourly}: {error.strerror}")
            continue
        lines.append(f"{hourly}: {len(hours)} hours" if Path(hourly).exists() else f"{hourly}: not there")
        for hour in hours[-MAX_HOURS:]:
            with contextlib.suppress(OSError):
                found = Path(hour.path).stat()
                lines.append(
                    f"  {hour.date}/{hour.hour}: {found.st_size} bytes, {now - found.st_mtime:.1f} s old, "
                    f"uid {found.st_uid}, mode {found.st_mode & 0o7777:04o}, inode {found.st_ino}"
                )
    return "\n".join(lines) + "\n"


def _mount(folder: Path) -> str:
    """Return the mount point of a folder and the type of its file system."""
    real = folder.resolve()
    longest_match: tuple[int, str] = (-1, "not known")
    for mounted in _lines("/proc/self/mountinfo"):
        head, _, tail = mounted.partition(" - ")
        point = head.split()[4].encode().decode("unicode_escape")
        if real.is_relative_to(point) and len(point) > longest_match[0]:
            longest_match = len(point), f"{point}, {tail.split()[0]}"
    return longest_match[1]


def _lines(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from file


def _text(path: str) -> str:
    try:
        return Path(path).read_text().rstrip()
    except OSError as error:
        return f"({error.strerror})"


def process(pid: int) -> str:
    """Return the limits, state and cgroup of a process, and how many files it has open."""
    folder = Path(f"/proc/{pid}")
    if not folder.exists():
        raise SourceUnavailable(f"no such process: {pid}")
    found = [
        f"{name}:\n{_text(str(folder / name))}\n"
        for name in ("status", "limits", "cgroup", "io", "schedstat")
    ]
    try:
        found.append(f"open files: {len(list((folder / 'fd').iterdir()))}\n")
    except OSError as error:
        found.append(f"open files: ({error.strerror})\n")
    return "".join(found)


def threads(pid: int) -> str:
    """Return each thread's name, state, wait channel and, where readable, kernel stack."""
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        found.append(f"== {task.name} {_text(str(task / 'comm'))}\n")
        found += [f"{name}: {_text(str(task / name))}\n" for name in ("wchan", "syscall", "schedstat")]
        found += [f"{_text(str(task / name))}\n" for name in ("status", "stack")]
    return "".join(found)
