"""Creates a Watcher with no descriptor left, which gives the same EMFILE as the sysctl."""

from __future__ import annotations

import os
import resource

from fasttail.sources.watcher import Watcher

resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1,) * 2)
watcher = Watcher(poll_ms=1)
watch = watcher.watch()
print(watcher.uses_inotify, watcher.wait_once(5000000), watcher.polling_reason)
