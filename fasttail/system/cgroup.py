"""The limits that the control groups set for this process: CPU time and memory.

Both versions are read, and every group from the process's own up to the root, since the tightest limit on
that way is the one that counts. What cannot be read sets no limit: a wrong guess here must never keep the
program from starting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Version 1 writes "no limit" as the largest multiple of the page size; no machine has an exbibyte of memory.
_NO_LIMIT = 1 << 60


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Cores' worth of CPU time the process may use (1.5 = one and a half), None when nothing limits it."""
    limits: list[float] = []
    for group in _groups(root, "cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory the process's groups may use before the kernel kills, None when nothing limits it."""
    limits: list[int] = []
    for group in _groups(root, "memory"):
        limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
        if limit.isdigit() and 0 < int(limit) < _NO_LIMIT:
            limits.append(int(limit))
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the process's group for `controller` and of those above it, in both versions."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        for mount in (root / "sys/fs/cgroup" / names, root / "sys/fs/cgroup" / controller):
            if not mount.is_dir():
                continue
            # In a container the path may be the host's, of which only the root is mounted: folders that are
            # not there are passed over, and the mount itself, the last one, always counts.
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])
            break


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
