"""Records which lines of the compiled parser ran: a pytest plugin for scripts/coverage, on a coverage build.

Compiled code calls Python's trace function for each line, even without the GIL. The C files left by the build
list the existing lines. OpenMP threads have no trace function, so only the calling thread of a team counts.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAST = 90.0
"""Minimum percentage for each module; below it the run fails."""

# `order_status.pyx` is compiled from one copy per instruction set; a line counts if it ran in any.
SOURCE = re.compile(
    r"(?:.*/per-isa/)?(fasttail/(?:streams/\w+?|engine/(?:columns|lines|parse|pool|rejects|table)))"
    r"(?:_(?:avx2|sse2|portable))?\.pyx"
)
# `"FILE":LINE` at the beginning of a comment, then the trace calls for that line.
MARK = re.compile(r'^ */\* "(?P<file>[^"]+)":\d+$|^ *__Pyx_TraceLine\((?P<line>\d+),', re.MULTILINE)

ran: defaultdict[str, set[int]] = defaultdict(set)
_names: dict[str, str | None] = {}


def source(path: str) -> str | None:
    """Return the .pyx of a traced path, relative to the checkout, or None if it is not the parser's."""
    if path not in _names:
        found = SOURCE.fullmatch(path)
        _names[path] = f"{found[1]}.pyx" if found else None
    return _names[path]


def trace(frame: FrameType, event: str, argument: object) -> Any:
    path = frame.f_code.co_filename
    name = source(path)
    if name is None:
        # Returning None for a compiled frame would end tracing for good.
        return uncounted if path.endswith((".pyx", ".pxd")) else None
    lines = ran[name]

    def line(frame: FrameType, event: str, argument: object) -> Any:
        lines.add(frame.f_lineno)
        return line

    return line


def uncounted(frame: FrameType, event: str, argument: object) -> Any:
    return uncounted


def executable() -> dict[str, set[int]]:
    """Return the lines for which the coverage build's C files have code."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for path in ROOT.glob("build/coverage/c-cython*/**/*.c"):
        name = None
        for mark in MARK.finditer(path.read_text()):
            if mark["file"]:
                name = source(mark["file"])
            elif name:
                found[name].add(int(mark["line"]))
    return found


def ranges(lines: set[int], within: set[int]) -> str:
    """Format lines as `3-5, 9`: runs without other lines of `within` in between."""
    runs: list[list[int]] = []
    fresh = True
    for number in sorted(within):
        if number not in lines:
            fresh = True
        elif fresh:
            runs.append([number, number])
            fresh = False
        else:
            runs[-1][1] = number
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class Report:
    def __init__(self) -> None:
        self.rows: list[str] = []
        self.low: list[str] = []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        sys.settrace(None)
        total = covered = 0
        every = executable()
        for name, lines in sorted(every.items()):
            missed = lines - ran[name]
            share = 100 * (1 - len(missed) / len(lines))
            total += len(lines)
            covered += len(lines) - len(missed)
            self.rows.append(
                f"{name:36} {len(lines):5} {len(missed):5} {share:6.1f} %  {ranges(missed, lines)}"
            )
            if share < LEAST:
                self.low.append(name)
        if not total:
            self.low.append("no line: is this a coverage build?")
        else:
            self.rows.append(f"{'total':36} {total:5} {total - covered:5} {100 * covered / total:6.1f} %")
        if self.low and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("lines of the compiled parser")
        terminalreporter.line(f"{'module':36} lines  left  covered  left are")
        for row in self.rows:
            terminalreporter.line(row)
        for name in self.low:
            terminalreporter.line(f"below {LEAST} %: {name}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Report())


# At import, because conftest imports the package, and module-level lines run then.
threading.settrace(trace)
sys.settrace(trace)
