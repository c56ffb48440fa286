"""The lines of a block, for each stream, in each of the node's layouts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, overload

from fasttail.tools.exchange.constants import BLOCK_NS, LAYOUTS, NS, STREAMS, SynthError

PAIRED_STREAMS = frozenset({"twapStatuses", "writerActions"})
"""Streams whose streaming lines hold two events while there are two."""

LINE_GAP_NS = 9_000  # the least between two streaming lines of a block
_MOST_GAP_NS = 40_000
_GAPS = 4096


def check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise SynthError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout}")


def check_streams(streams: Sequence[str]) -> None:
    if not streams:
        raise SynthError(f"streams must name at least one of {', '.join(STREAMS)}")
    for stream in streams:
        if stream not in STREAMS:
            raise SynthError(f"streams must be of {', '.join(STREAMS)}, not {stream}")
        if streams.count(stream) > 1:
            raise SynthError(f"streams must be named once, but {stream} is there twice")


def folder_name(stream: str, layout: str) -> str:
    """Return the node's folder for a stream in a layout."""
    return STREAMS[stream] + LAYOUTS[layout]


class Chunk(Sequence[str]):
    """Events of one stream as one ASCII text, a line each; split only where single events are wanted."""

    __slots__ = ("_count", "_events", "text")

    def __init__(self, text: bytes, count: int) -> None:
        self.text = text
        self._count = count
        self._events: list[str] | None = None

    @classmethod
    def of(cls, events: Sequence[str]) -> Chunk:
        return cls("\n".join([*events, ""]).encode("ascii"), len(events))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._split()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._split())

    def _split(self) -> list[str]:
        if self._events is None:
            self._events = self.text.decode("ascii").split("\n")[:-1]
        return self._events


class Part(NamedTuple):
    """Events of one stream of a block, as one node writes them: the whole block's, or some of them.

    time_ns:  consensus time, UTC ns since 1970.
    local_ns: when this node writes the block's first line of the stream, UTC ns since 1970.
    events:   lines of the plain layout, without newlines.
    first:    index of events[0] in the block.
    total:    the block's events of the stream.
    span_ns:  time that the block's streaming lines may span.
    """

    stream: str
    number: int
    time_ns: int
    local_ns: int
    events: Sequence[str]
    first: int
    total: int
    span_ns: int = BLOCK_NS


@lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def text_time(ns: int) -> str:
    """Format UTC ns like the node: 9, 6, 3 or 0 fractional digits, without trailing groups of three zeros."""
    second, fraction = divmod(ns, NS)
    digits = f"{fraction:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{_second_text(second)}.{digits}" if digits else _second_text(second)


def _make_offsets() -> list[int]:
    """Return the offsets (ns) of a block's streaming lines: 9 to 40 µs apart, most of them near 10."""
    rng = random.Random("gaps")
    wide = _MOST_GAP_NS - LINE_GAP_NS
    return [0, *accumulate(LINE_GAP_NS + int(wide * rng.random() ** 6) for _ in range(_GAPS))]


_OFFSETS = _make_offsets()


def _offset(line: int) -> int:
    repeats, rest = divmod(line, _GAPS)  # beyond the table, it is repeated
    return repeats * _OFFSETS[_GAPS] + _OFFSETS[rest]


def _offsets(first: int, count: int, total: int, span_ns: int) -> Iterable[int]:
    """Return the offsets of some of a block's `total` lines. They are closer if the span is too short."""
    stop = first + count
    offsets: Iterable[int]
    offsets = _OFFSETS[first:stop] if stop <= _GAPS else [_offset(line) for line in range(first, stop)]
    last = _offset(max(total - 1, 0))
    if last > span_ns:
        offsets = [offset * span_ns // last for offset in offsets]
    return offsets


def events_per_line(stream: str, layout: str, total: int) -> int:
    """Return how many events a line holds (its last one maybe fewer) in a block with `total` events."""
    if layout == "by_block":
        return max(total, 1)
    return 2 if layout == "streaming" and stream in PAIRED_STREAMS else 1


def line_count(stream: str, layout: str, total: int) -> int:
    """Return the number of lines of a block, or part of one, with `total` events."""
    if layout == "by_block":
        return 1
    return -(-total // events_per_line(stream, layout, total))


def lines_span_ns(stream: str, layout: str, total: int, span_ns: int) -> int:
    """Return the time from a block's first line to its last one (0 if it has one at most)."""
    if layout != "streaming":
        return 0
    return min(_offset(max(line_count(stream, layout, total) - 1, 0)), span_ns)


def _plain_lines(part: Part) -> bytes:
    if isinstance(part.events, Chunk):
        return part.events.text
    return "\n".join([*part.events, ""]).encode("ascii")


def _by_block_line(part: Part) -> bytes:
    head = (
        f'{{"local_time":"{text_time(part.local_ns)}","block_time":"{text_time(part.time_ns)}",'
        f'"block_number":{part.number},"events":['
    )
    if isinstance(part.events, Chunk):
        events = memoryview(part.events.text.replace(b"\n", b","))[:-1]
        return b"".join([head.encode("ascii"), events, b"]}\n"])
    return f"{head}{','.join(part.events)}]}}\n".encode("ascii")


def _streaming_lines(part: Part) -> bytes:
    if not part.events:
        return b""
    middle = f'","block_time":"{text_time(part.time_ns)}","block_number":{part.number},"events":['
    if part.stream in PAIRED_STREAMS:
        events: Sequence[str] = [
            ",".join(part.events[index : index + 2]) for index in range(0, len(part.events), 2)
        ]
    elif isinstance(part.events, Chunk):
        return _streaming_chunk(part, part.events, middle)
    else:
        events = part.events
    lines = [
        f'{{"local_time":"{stamp}{middle}{event}]}}\n'
        for stamp, event in zip(_local_texts(part, len(events)), events, strict=True)
    ]
    return "".join(lines).encode("ascii")


def _streaming_chunk(part: Part, chunk: Chunk, middle: str) -> bytes:
    """Put the envelopes between the events without making texts of these."""
    count = len(chunk)
    start, end = '{"local_time":"', "]}\n"
    heads = [f"{end}{start}{stamp}{middle}".encode("ascii") for stamp in _local_texts(part, count)]
    heads[0] = heads[0][len(end) :]
    pieces = [b""] * (2 * count)
    pieces[::2] = heads
    pieces[1::2] = chunk.text.split(b"\n")[:count]
    pieces.append(end.encode("ascii"))
    return b"".join(pieces)


def _local_texts(part: Part, count: int) -> list[str]:
    """Return the local_time of each of the part's `count` lines, rising."""
    per_line = events_per_line(part.stream, "streaming", part.total)
    total = line_count(part.stream, "streaming", part.total)
    offsets = _offsets(part.first // per_line, count, total, part.span_ns)
    second, fraction = divmod(part.local_ns, NS)
    if fraction + lines_span_ns(part.stream, "streaming", part.total, part.span_ns) >= NS:
        return [text_time(part.local_ns + offset) for offset in offsets]
    head = f"{_second_text(second)}."
    return [
        f"{head}{ns:09d}" if ns % 1000 else text_time(second * NS + ns)
        for ns in [fraction + offset for offset in offsets]
    ]


_RENDER = {"plain": _plain_lines, "by_block": _by_block_line, "streaming": _streaming_lines}


def render(part: Part, layout: str) -> bytes:
    """Return the part's lines in a layout. Without events there is one in by_block, else none.

    A part starts at the start of a line (see `events_per_line`); in by_block it is the whole block.
    """
    return _RENDER[layout](part)
