"""A stand-in for the docker command, with one container: see running.docker_in.

It prints the folder's files inspect.json, log, stats, top and exec, and records its arguments in `calls`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

folder, words = Path(sys.argv[1]), sys.argv[2:]
with (folder / "calls").open("a") as calls:
    print(json.dumps(words), file=calls)
if words[-1] == "gone" or words[:2] == ["exec", "gone"]:
    sys.exit("Error response from daemon: No such container: gone")
file = folder / ("inspect.json" if words[:2] == ["container", "inspect"] else words[0])
if words[0] == "exec" and not file.exists():
    print("said inside:", words[2:])
    sys.exit()
file = folder / "log" if words[0] == "logs" else file
if not file.exists():
    sys.exit("no such thing")
print(file.read_text(), end="", flush=True)
if words[0] == "logs" and "-f" in words:
    time.sleep(60)
