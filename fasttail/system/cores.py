"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from fasttail.system.cgroup import cpu_limit


def usable_cores(root: Path = Path("/")) -> int:
    """Cores in the affinity mask, or fewer where a control group allows less CPU time; at least 1.

    A quota of 2.5 cores counts as 2: a third busy thread would be throttled half of the time, and its chunk
    is the one that every other waits for.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except OSError:  # forbidden by a seccomp filter, or a system without it
        cores = os.cpu_count() or 1
    limit = cpu_limit(root)
    return max(1, cores if limit is None else min(cores, int(limit)))


def default_workers(root: Path = Path("/")) -> int:
    """One core is left to the event loop, whose wake-ups come late when every core is busy parsing."""
    return max(1, usable_cores(root) - 1)
