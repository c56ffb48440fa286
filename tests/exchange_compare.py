"""Compares two node folders: whether they hold the same events, whatever their layouts and local times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from exchange_folder import Lines, NodeFolder

DIFFERENCES = 20
"""So many differences are told in words."""


@dataclass
class Comparison:
    """What two folders have in common.

    blocks, events: stream -> how many were compared.
    differences:    the first ones, in words; empty when the folders agree.
    """

    blocks: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not self.differences

    def differs(self, text: str) -> None:
        if len(self.differences) < DIFFERENCES:
            self.differences.append(text)


def compare_layouts(
    one: Path, other: Path, *, since: int | None = None, until: int | None = None
) -> Comparison:
    """Compare the events of two folders block by block; in sequence, if one has the plain layout.

    since, until: compare only these blocks, such as those that two nodes of one chain both have. Needs
                  layouts that tell the blocks.
    """
    first, second = NodeFolder(one), NodeFolder(other)
    plain = "plain" in (first.layout, second.layout)
    if plain and (since, until) != (None, None):
        raise ValueError("the plain layout does not tell the blocks")
    made = Comparison()
    streams = first.streams(), second.streams()
    blocks = Blocks(since, until)
    for stream in dict.fromkeys([*streams[0], *streams[1]]):
        if stream not in streams[0] or stream not in streams[1]:
            made.differs(f"{stream} is in {one if stream in streams[0] else other} only")
        elif plain:
            _in_sequence(made, stream, first, second)
        else:
            _by_block(made, stream, blocks.of(first, stream), blocks.of(second, stream))
    return made


class Blocks(NamedTuple):
    """Which blocks to compare."""

    since: int | None
    until: int | None

    def of(self, node: NodeFolder, stream: str) -> Iterator[Lines]:
        """Yield the wanted blocks of a stream that have events."""
        for lines in node.groups(stream):
            if self.since is not None and lines.key < self.since:
                continue
            if lines.events and (self.until is None or lines.key <= self.until):
                yield lines


def _by_block(made: Comparison, stream: str, ones: Iterator[Lines], others: Iterator[Lines]) -> None:
    blocks = events = 0
    for one, other in zip_longest(ones, others):
        if one is None or other is None or one.key != other.key:
            made.differs(
                f"{stream}: block {one and one.key} in the first, {other and other.key} in the second"
            )
            break
        if one.time != other.time:
            made.differs(f"{stream}: block {one.key} at {one.time} and at {other.time}")
        if one.events != other.events:
            made.differs(f"{stream}: block {one.key}: {_first_difference(one.events, other.events)}")
        blocks += 1
        events += len(one.events)
    made.blocks[stream], made.events[stream] = blocks, events


def _first_difference(one: list[Any], other: list[Any]) -> str:
    place = next(
        (at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs), None
    )
    if place is None:
        return f"{len(one)} events and {len(other)}"
    return f"event {place} is {one[place]} and {other[place]}"


def _in_sequence(made: Comparison, stream: str, one: NodeFolder, other: NodeFolder) -> None:
    events = 0
    for mine, theirs in zip_longest(one.events(stream), other.events(stream)):
        if mine != theirs:
            made.differs(f"{stream}: event {events} is {mine} and {theirs}")
            break
        events += 1
    made.events[stream] = events
