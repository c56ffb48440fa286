"""Appends to real files as instructed, like a node, in a process: `writer.py < instructions`.

Each instruction is a line of JSON:
{"path": …, "text": …, "cut": bytes per write, "pause": seconds between writes, "after": seconds}.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        data = task["text"].encode()
        os.makedirs(os.path.dirname(task["path"]), exist_ok=True)
        fd = os.open(task["path"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        cut = task.get("cut") or len(data)
        for start in range(0, len(data), cut):
            os.write(fd, data[start : start + cut])
            time.sleep(task.get("pause", 0))
        os.close(fd)
        time.sleep(task.get("after", 0))


if __name__ == "__main__":
    main()
