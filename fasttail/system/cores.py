"""Determines how many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from fasttail.system.cgroup import cpu_limit


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores in the affinity mask, or fewer if a control group limits CPU time; at least 1.

    A quota of 2.5 cores counts as 2: a third busy thread would be throttled half of the time, and all others
    would wait for its chunk.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except OSError:  # forbidden by a seccomp filter, or not supported
        cores = os.cpu_count() or 1
    limit = cpu_limit(root)
    return max(1, cores if limit is None else min(cores, int(limit)))


def default_workers(root: Path = Path("/")) -> int:
    """Return the usable cores less one, at least 1.

    One core stays free for the event loop, whose wake-ups are late when every core is busy parsing.
    """
    return max(1, usable_cores(root) - 1)
