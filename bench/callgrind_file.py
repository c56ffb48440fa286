"""Reads a callgrind file (names and positions uncompressed) into costs per line and per function.

A function that the compiler inlined still appears, because its lines are counted as its own.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.002
"""Smallest share of the total that is shown."""
_COST = re.compile(r"(\d+) (\d+)$")
_PYX = re.compile(r"(?: {4})?(?:cdef|cpdef|def)\b[^=]*?(\w+)\(")
_HEADER = re.compile(r"(?:FT_INLINE|static) [^=;(]*?\b(ft_\w+)\(")


class Line(NamedTuple):
    file: str
    number: int
    function: str  # as the compiler emitted it


def read(path: Path) -> dict[Line, int]:
    """Return the instructions of each line without its callees; fasttail's files are named from the root."""
    costs: collections.Counter[Line] = collections.Counter()
    file = function = ""
    of_call = False
    for row in path.read_text(errors="replace").splitlines():
        if match := _COST.match(row):
            if not of_call:
                costs[Line(file, int(match[1]), function)] += int(match[2])
            of_call = False
        elif row.startswith(("fl=", "fi=", "fe=")):
            file = _short(row[3:])
        elif row.startswith("fn="):
            function = row[3:]
        elif row.startswith("calls="):
            of_call = True  # the next row is the cost of the call
    return dict(costs)


def functions(costs: Mapping[Line, int], orders: int) -> str:
    """Format a table of source functions."""
    sums: collections.Counter[str] = collections.Counter()
    for line, cost in costs.items():
        sums[_source_function(line)] += cost
    total = sum(costs.values()) or 1
    rows = [f"{'an order':>9}  {'share':>7}  function", f"{total / orders:9.1f}  {100:5.1f} %  all"]
    rows += [
        f"{cost / orders:9.1f}  {cost / total * 100:5.1f} %  {name}"
        for name, cost in sums.most_common()
        if cost / total >= LEAST
    ]
    return "\n".join(rows)


def lines(costs: Mapping[Line, int], orders: int) -> str:
    """Format the most expensive lines, ordered by file."""
    sums: collections.Counter[tuple[str, int]] = collections.Counter()
    for line, cost in costs.items():
        sums[line.file, line.number] += cost
    total = sum(costs.values()) or 1
    rows, before = [f"{'an order':>9}  {'share':>7}  line: source"], ""
    for (file, number), cost in sorted(sums.items()):
        if cost / total < LEAST:
            continue
        if file != before:
            rows += ["", file]
            before = file
        text = _source(file)
        shown = text[number - 1].rstrip() if 0 < number <= len(text) else ""
        rows.append(f"{cost / orders:9.1f}  {cost / total * 100:5.1f} %  {number:4}: {shown}")
    return "\n".join(rows)


def _short(name: str) -> str:
    found = re.search(r"(?:^|/)(fasttail/.*?)(?:_(?:avx2|sse2|portable))?(\.pyx|\.pxd|\.h)$", name)
    # Copies are compiled once per instruction set; the checkout's file has the same lines.
    return found[1] + found[2] if found and (ROOT / (found[1] + found[2])).is_file() else name


@functools.cache
def _source(file: str) -> list[str]:
    path = ROOT / file
    if not file.startswith("fasttail/") or not path.is_file():
        return []
    return path.read_text(errors="replace").splitlines()


@functools.cache
def _starts(file: str) -> list[tuple[int, str]]:
    pattern = _HEADER if file.endswith(".h") else _PYX
    return [(i, match[1]) for i, row in enumerate(_source(file), 1) if (match := pattern.match(row))]


def _source_function(line: Line) -> str:
    if line.file.endswith("intrin.h"):
        return "intrinsics, inlined"
    name = next((name for number, name in reversed(_starts(line.file)) if number <= line.number), None)
    if name is None:
        return line.function
    return f"{name} ({Path(line.file).name})"
