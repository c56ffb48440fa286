"""Creates a Watcher in a user namespace limited to one watch, in the folder ARGV[1]."""

from __future__ import annotations

import sys
from pathlib import Path

from fasttail.sources.watcher import Watcher

Path("/proc/sys/user/max_inotify_watches").write_text("1")
one, two = Path(sys.argv[1], "1"), Path(sys.argv[1], "2")
one.mkdir()
two.mkdir()
watcher = Watcher(poll_ms=1)
watch = watcher.watch()
watch.watch_dirs([one])
print(watcher.uses_inotify, watcher.polling_reason)
watch.watch_dirs([one, two])
print(watcher.uses_inotify, watcher.wait_once(5000000), watcher.polling_reason)
