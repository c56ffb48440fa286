"""Reads the CPU and memory limits that control groups set for this process.

Both cgroup versions are read, from the process's own group up to the root, because the tightest limit on that
path applies. Whatever cannot be read counts as no limit: it must never keep the program from starting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Version 1 writes "no limit" as the largest multiple of the page size; no machine has an exbibyte of memory.
_NO_LIMIT = 1 << 60


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return the CPU time that the process may use, in cores (1.5 = one and a half), None if unlimited."""
    limits: list[float] = []
    for group in _groups(root, "cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory above which the kernel kills in the process's groups, None if unlimited."""
    limits: list[int] = []
    for group in _groups(root, "memory"):
        limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
        if limit.isdigit() and 0 < int(limit) < _NO_LIMIT:
            limits.append(int(limit))
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's group for `controller` and of its parents, in both versions."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        for mount in (root / "sys/fs/cgroup" / names, root / "sys/fs/cgroup" / controller):
            if not mount.is_dir():
                continue
            # In a container, the path may be the host's while only the container's group is mounted. Missing
            # folders then read as no limit, and the mount itself, which comes last, always counts.
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])
            break


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
