"""Reads a file with an oversize line; prints lines, oversize count, position and growth of the peak."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fasttail.sources.reader import FILL_EOF, FILL_LINES, Reader


def peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


reader = Reader(max_line=4 << 20)
reader.open(sys.argv[1])
before = peak()
got = b""
while (code := reader.fill_once()) != FILL_EOF:
    if code == FILL_LINES:
        got += reader.take_lines()
print(got, reader.oversize_lines, reader.tell(), peak() - before)
