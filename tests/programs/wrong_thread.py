"""Calls method ARGV[2] of the pipeline on folder ARGV[1] in a thread other than the one that drains it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from driving import Drive

folder, method = Path(sys.argv[1]), sys.argv[2]
drive = Drive(folder)
drive.pipeline.drain()  # from now on the ring has one consumer: this thread
print("drained", flush=True)
arguments = [drive.old_updates] if method in ("add_topic", "remove_topic") else []
thread = threading.Thread(target=getattr(drive.pipeline, method), args=arguments)
thread.start()
thread.join()
print("came back", flush=True)
