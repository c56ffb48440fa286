"""Calls ARGV[2] of the pipeline on the folder ARGV[1] from a thread other than the draining one."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from driving import Drive

folder, method = Path(sys.argv[1]), sys.argv[2]
drive = Drive(folder)
drive.pipeline.drain()  # from now on this thread is the ring's only consumer
print("drained", flush=True)
arguments = [drive.old_updates] if method in ("add_topic", "remove_topic") else []
thread = threading.Thread(target=getattr(drive.pipeline, method), args=arguments)
thread.start()
thread.join()
print("came back", flush=True)
