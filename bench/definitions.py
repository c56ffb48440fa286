"""Loads bench/definitions.toml, which defines what `run PATTERN` runs and what `report` shows."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent / "definitions.toml"
LAYERS = ("split", "parse", "filter", "encode", "fan-out", "end to end", "growth")


@dataclass(frozen=True)
class Definition:
    """One entry. quick: arguments appended to `arguments` for a quick run.

    engines: the engines compared; missing ones are reported as left out. expected: dotted path in the result
    to the required value; any other value fails the run. repeat: how often the module runs.
    """

    name: str
    layer: str
    module: str
    input: str
    shows: str
    does_not_show: str
    arguments: list[str] = field(default_factory=list)
    quick: list[str] = field(default_factory=list)
    engines: list[str] = field(default_factory=list)
    expected: dict[str, Any] = field(default_factory=dict)
    quick_expected: dict[str, Any] = field(default_factory=dict)
    repeat: int = 1

    def all_arguments(self, quick: bool) -> list[str]:
        """Return the arguments; an option in `quick` replaces the same option in `arguments`."""
        options = _options(self.arguments) | (_options(self.quick) if quick else {})
        return [word for name, values in options.items() for word in (name, *values)]

    def wrong(self, result: Any, quick: bool) -> list[str]:
        """Describe each value of the result that differs from the expected one."""
        expected = self.quick_expected if quick else self.expected
        return [
            f"{place} is {got!r}, expected {right!r}"
            for place, right in expected.items()
            if (got := look_up(result, place)) != right
        ]


@dataclass(frozen=True)
class Definitions:
    """unfair: caveats about the whole suite, a sentence or two each."""

    unfair: list[str]
    entries: dict[str, Definition]

    def matching(self, patterns: Iterable[str]) -> list[Definition]:
        """Return entries whose name starts with or glob-matches a pattern; all without patterns."""
        patterns = list(patterns)
        return [
            entry
            for name, entry in self.entries.items()
            if not patterns or any(name.startswith(each) or fnmatchcase(name, each) for each in patterns)
        ]


def _options(words: list[str]) -> dict[str, list[str]]:
    """Group the words into options and their values, in order."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            values = found[word] = []
        else:
            values.append(word)
    return found


def look_up(value: Any, place: str) -> Any:
    """Return the value at a dotted path such as `tables.0.rows`, or None."""
    for key in place.split("."):
        try:
            value = value[int(key)] if isinstance(value, list | tuple) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return value


def load(path: Path = PATH) -> Definitions:
    content = tomllib.loads(path.read_text())
    entries = [Definition(**each) for each in content["benchmark"]]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a name stands twice")
    if unknown := {entry.layer for entry in entries} - set(LAYERS):
        raise ValueError(f"{path}: no such layer: {', '.join(sorted(unknown))}")
    return Definitions(content["unfair"], dict(zip(names, entries, strict=True)))
