"""Faults of a node on request, and the record of what they did.

A fault is asked for as `NAME[:ARGUMENT[:ARGUMENT]]@TIME[+DURATION]`, with seconds of the chain's time after
the run's first block (a paced run's own seconds). Faults change what one node writes, never the exchange.

    silent-stream  a stream (the argument; bookDiffs) stops for DURATION; its lines are lost
    lost-diff      one event of bookDiffs is lost
    missing-block  one block is lost in all streams
    late-hole      the blocks of DURATION are written later, after newer ones: so many seconds after the
                   hole's end (the argument; 2)
    restart        the node stops within a block, and after DURATION writes again the last blocks (their
                   number is the argument; 10) before it continues
    torn-line      one line of a stream (an argument; orders) stays a half, in a form (an argument): `glued`,
                   without a newline, so that the next line is stuck to it; `cut`, with a newline; `nul`, with
                   its second half as NUL bytes
    clock-jump     local_time and the hour file jump by so many seconds (the argument; 3700), and back after
                   DURATION
    disk-full      nothing is written for DURATION. Each stream stops within a line, to which the first line
                   after that is stuck

A node keeps the blocks that it is to write later (late-hole, restart) in memory, 1 MB each by default.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from fasttail.tools.exchange.constants import NS, STREAMS, SynthError
from fasttail.tools.exchange.layouts import Part, events_per_line, line_count, render

TORN_FORMS = ("glued", "cut", "nul")
_YEAR_S = 365 * 86_400


class FaultRecord(NamedTuple):
    """What a fault did to so many events of a block in a stream, from index `first` in the block on.

    effect: `lost`      they were not written
            `torn`      of their line, only a part was written
            `glued`     their line was stuck to a torn one
            `repeated`  they were written once more
            `late`      they were written after newer blocks
            `shifted`   they were written with a wrong local_time, maybe to another hour's file

    So an event stands readable in the files 1 + repeated - lost - torn - glued times. In by_block, a line
    without events is told with 0 events.
    """

    name: str
    block: int
    stream: str
    effect: str
    first: int
    events: int


@dataclass(frozen=True)
class Fault:
    """One fault asked for: see the module. `stream` may be empty, for the fault's own choice.

    amount: blocks of a restart; seconds of a late-hole's wait or of a clock's jump.
    """

    name: str
    at_s: float
    duration_s: float = 0.0
    stream: str = ""
    form: str = "glued"
    amount: float = 0.0


class _Kind(NamedTuple):
    """What a fault's text may hold.

    duration_s, amount: the defaults; None if it takes none.
    most:               limit of the amount.
    """

    effect: type[_Effect]
    duration_s: float | None = None
    amount: float | None = None
    most: int = 0
    takes_stream: bool = False
    takes_form: bool = False


def parse_fault(text: str) -> Fault:
    """Return the fault that `NAME[:ARGUMENT[:ARGUMENT]]@TIME[+DURATION]` asks for. Raises SynthError."""
    what, at, when = text.partition("@")
    name, _, words = what.partition(":")
    kind = _KINDS.get(name)
    if kind is None:
        raise SynthError(f"fault must be one of {', '.join(_KINDS)}, not {name or text}")
    if not at:
        raise SynthError(f"fault {name} needs a time: {name}@TIME[+DURATION]")
    time_text, plus, duration_text = when.partition("+")
    fault = Fault(name, _seconds(text, time_text), kind.duration_s or 0.0, amount=kind.amount or 0.0)
    if plus:
        if kind.duration_s is None:
            raise SynthError(f"fault {name} takes no duration: {text}")
        fault = replace(fault, duration_s=_seconds(text, duration_text))
        if fault.duration_s > _YEAR_S:
            raise SynthError(f"fault {name} lasts at most {_YEAR_S} seconds, not {duration_text}")
    for word in words.split(":") if words else ():
        fault = _with_argument(fault, kind, word)
    return fault


def _with_argument(fault: Fault, kind: _Kind, word: str) -> Fault:
    if kind.takes_stream and word in STREAMS:
        return replace(fault, stream=word)
    if kind.takes_form and word in TORN_FORMS:
        return replace(fault, form=word)
    if kind.amount is not None:
        return replace(fault, amount=_amount(fault.name, word, kind.most))
    takes = [*(STREAMS if kind.takes_stream else ()), *(TORN_FORMS if kind.takes_form else ())]
    valid = f"takes {', '.join(takes)}" if takes else "takes no argument"
    raise SynthError(f"fault {fault.name} {valid}, not {word}")


def _seconds(text: str, number: str) -> float:
    value = _number(number)
    if value is None or value < 0:
        raise SynthError(f"fault {text} must have seconds from 0 on, not {number or 'nothing'}")
    return value


def _amount(name: str, word: str, most: int) -> float:
    value = _number(word)
    if name == "restart" and (value is None or value < 0 or value != int(value)):
        raise SynthError(f"fault restart takes a number of blocks, not {word}")
    if value is None or (name == "late-hole" and value < 0):
        raise SynthError(f"fault {name} takes seconds, not {word}")
    if abs(value) > most:
        unit = "blocks" if name == "restart" else "seconds"
        raise SynthError(f"fault {name} takes at most {most} {unit}, not {word}")
    return value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# -- blocks as a node writes them


class Torn(NamedTuple):
    """A line that stays a half: the one whose first event has this index in the block."""

    first: int
    form: str
    fault: str


class ChainBlock(Protocol):
    """A block as it comes from the exchange or from a prepared file."""

    @property
    def number(self) -> int: ...

    @property
    def time_ns(self) -> int: ...

    @property
    def events(self) -> Mapping[str, Sequence[str]]: ...


@dataclass(slots=True)
class Writing:
    """A block as a node writes it, after its faults.

    events:  only the streams that are written: a missing one has no line, not even in by_block.
    torn:    stream -> its torn line.
    jump_ns: what the node's clock is wrong by.
    late:    whether it is written long after its time, and so at once.
    """

    number: int
    time_ns: int
    events: dict[str, Sequence[str]]
    torn: dict[str, Torn] = field(default_factory=dict)
    jump_ns: int = 0
    late: bool = False

    def copy(self, *, late: bool = False) -> Writing:
        return replace(self, events=dict(self.events), torn=dict(self.torn), late=late)


def torn_lines(part: Part, layout: str, torn: Torn) -> bytes:
    """Return the lines of a part, one of them torn."""
    start = torn.first - part.first
    stop = start + events_per_line(part.stream, layout, part.total)
    before = part._replace(events=part.events[:start])
    line = part._replace(events=part.events[start:stop], first=torn.first)
    after = part._replace(events=part.events[stop:], first=part.first + stop)
    whole = render(line, layout)
    half = whole[: len(whole) // 2]
    if torn.form == "cut":
        half += b"\n"
    elif torn.form == "nul":
        half += bytes(len(whole) - len(half) - 1) + b"\n"
    if layout == "by_block":
        return half
    return render(before, layout) + half + render(after, layout)


# -- what the faults do


class _Node(NamedTuple):
    """What faults know of the node that they befall."""

    streams: Sequence[str]
    layout: str
    torn: bool
    rng: random.Random
    tell: Callable[[FaultRecord], None]


class Faults:
    """All faults of one node. Raises SynthError if one needs a stream that the node does not write.

    torn: whether the node's output is buffered, so that it may stop within a line.
    tell: called with each record.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        streams: Sequence[str],
        layout: str,
        *,
        torn: bool = False,
        seed: int = 1,
        tell: Callable[[FaultRecord], None],
    ) -> None:
        node = _Node(streams, layout, torn, random.Random(f"{seed}:faults"), tell)
        order = list(_KINDS)
        self._effects = [
            _KINDS[fault.name].effect(fault, node)
            for fault in sorted(faults, key=lambda fault: (order.index(fault.name), fault.at_s))
        ]
        self._streams = streams
        self._first_ns: int | None = None

    def apply(self, block: ChainBlock) -> list[Writing]:
        """Return what the node writes when this block comes."""
        if self._first_ns is None:
            self._first_ns = block.time_ns
        events = {stream: block.events[stream] for stream in self._streams}
        writings = [Writing(block.number, block.time_ns, events)]
        now_s = (block.time_ns - self._first_ns) / NS
        for effect in self._effects:
            writings = effect.apply(now_s, writings)
        return writings

    def finish(self) -> list[Writing]:
        """Return what the node has not yet written, because the run ends earlier than the faults."""
        return [writing for effect in self._effects for writing in effect.finish()]

    def abandon(self) -> None:
        """Tell what the node has not written when its run was ended from outside."""
        for effect in self._effects:
            effect.abandon()


class _Effect:
    """What one fault does to the blocks that a node is about to write."""

    def __init__(self, fault: Fault, node: _Node) -> None:
        self.fault = fault
        self.node = node
        self.done = False  # of a fault that comes once
        self.held: list[Writing] = []

    def apply(self, now_s: float, writings: list[Writing]) -> list[Writing]:
        """Return what is written instead of `writings`."""
        if now_s < self.fault.at_s or self.done:
            return writings
        return [writing for writing in writings if self.change(now_s, writing)]

    def change(self, now_s: float, writing: Writing) -> bool:
        """Change a block from the fault's time on. Return whether it is written at all."""
        return True

    def finish(self) -> list[Writing]:
        return []

    def abandon(self) -> None:
        for writing in self.held:
            self.tell_all(writing, "lost")
        self.held = []

    def is_over(self, now_s: float) -> bool:
        return now_s >= self.fault.at_s + self.fault.duration_s

    def wanted_stream(self, default: str) -> str:
        """Return the fault's stream, which the node must write."""
        stream = self.fault.stream or default
        if stream not in self.node.streams:
            raise SynthError(f"fault {self.fault.name} needs the stream {stream}, which is not written")
        return stream

    def tell(self, writing: Writing, stream: str, effect: str, first: int, count: int) -> None:
        if count or self.node.layout == "by_block":  # else there was no line
            self.node.tell(FaultRecord(self.fault.name, writing.number, stream, effect, first, count))

    def tell_all(self, writing: Writing, effect: str) -> None:
        for stream, events in writing.events.items():
            self.tell(writing, stream, effect, 0, len(events))

    def drop(self, writing: Writing, stream: str) -> None:
        """Let a block have no line in a stream, and tell so (of a torn line, that was told before)."""
        events = writing.events.pop(stream)
        torn = writing.torn.pop(stream, None)
        self.tell(writing, stream, "lost", 0, len(events) if torn is None else torn.first)

    def tear(self, writing: Writing, stream: str, form: str) -> range:
        """Tear one line of a block, and tell so. Return its events."""
        total = len(writing.events[stream])
        per_line = events_per_line(stream, self.node.layout, total)
        first = self.node.rng.randrange(line_count(stream, self.node.layout, total)) * per_line
        line = range(first, min(first + per_line, total))
        writing.torn[stream] = Torn(first, form, self.fault.name)
        self.tell(writing, stream, "torn", first, len(line))
        return line

    def keep_lines(self, writing: Writing, stream: str, *, half: bool) -> None:
        """Keep only some of a block's lines in a stream, not all, and maybe a half of the next one."""
        events = writing.events[stream]
        if half:
            writing.events[stream] = events[: self.tear(writing, stream, "glued").stop]
            return
        per_line = events_per_line(stream, self.node.layout, len(events))
        lines = line_count(stream, self.node.layout, len(events))
        writing.events[stream] = events[: self.node.rng.randrange(lines) * per_line]


class _MissingBlock(_Effect):
    def change(self, now_s: float, writing: Writing) -> bool:
        if self.done or not any(writing.events.values()):
            return True
        self.done = True
        self.tell_all(writing, "lost")
        return False


class _LateHole(_Effect):
    def apply(self, now_s: float, writings: list[Writing]) -> list[Writing]:
        if now_s < self.fault.at_s or self.done:
            return writings
        if not self.is_over(now_s):
            self.held += writings
            return []
        if now_s < self.fault.at_s + self.fault.duration_s + self.fault.amount:
            return writings
        return [*writings, *self.finish()]

    def finish(self) -> list[Writing]:
        self.done = True
        held, self.held = self.held, []
        for writing in held:
            self.tell_all(writing, "late")
        return [writing.copy(late=True) for writing in held]


class _Restart(_Effect):
    def __init__(self, fault: Fault, node: _Node) -> None:
        super().__init__(fault, node)
        self._last: deque[Writing] = deque(maxlen=int(fault.amount))
        self._resume_s: float | None = None  # None: it has not stopped yet
        self._begun: dict[str, int] = {}  # stream -> events of the interrupted block in whole or torn lines

    def apply(self, now_s: float, writings: list[Writing]) -> list[Writing]:
        if self.done:
            return writings
        if self._resume_s is not None:
            self.held += writings
            return self.finish() if now_s >= self._resume_s else []
        written = []
        for writing in writings:
            if self._resume_s is not None:
                self.held.append(writing)
            elif now_s >= self.fault.at_s and any(writing.events.values()):
                self._resume_s = now_s + self.fault.duration_s
                self.held.append(writing)
                written.append(self._interrupted(writing.copy()))
            else:
                self._last.append(writing.copy())
                written.append(writing)
        return written

    def _interrupted(self, writing: Writing) -> Writing:
        """Cut the block in which the node stops: after a line, or within it if it is buffered or long."""
        half = self.node.torn or self.node.layout == "by_block"
        for stream, events in list(writing.events.items()):
            if events:
                self.keep_lines(writing, stream, half=half)
            self._begun[stream] = len(writing.events[stream])
        return writing

    def finish(self) -> list[Writing]:
        if self._resume_s is None or self.done:
            return []
        self.done = True
        for writing in self._last:
            self.tell_all(writing, "repeated")
        for stream, begun in self._begun.items():
            if begun:
                self.tell(self.held[0], stream, "repeated", 0, begun)
        again = [writing.copy(late=True) for writing in (*self._last, *self.held)]
        self._last.clear()
        self.held = []
        return again

    def abandon(self) -> None:
        self._last.clear()
        if self.held:
            interrupted = self.held.pop(0)
            for stream, events in interrupted.events.items():
                begun = self._begun[stream]
                if begun < len(events):
                    self.tell(interrupted, stream, "lost", begun, len(events) - begun)
        super().abandon()


class _SilentStream(_Effect):
    def __init__(self, fault: Fault, node: _Node) -> None:
        super().__init__(fault, node)
        self._stream = self.wanted_stream("bookDiffs")

    def change(self, now_s: float, writing: Writing) -> bool:
        if not self.is_over(now_s) and self._stream in writing.events:
            self.drop(writing, self._stream)
        return True


class _LostDiff(_Effect):
    def __init__(self, fault: Fault, node: _Node) -> None:
        super().__init__(fault, node)
        self._stream = self.wanted_stream("bookDiffs")

    def change(self, now_s: float, writing: Writing) -> bool:
        events = writing.events.get(self._stream)
        if not self.done and events and self._stream not in writing.torn:
            index = self.node.rng.randrange(len(events))
            writing.events[self._stream] = [*events[:index], *events[index + 1 :]]
            self.tell(writing, self._stream, "lost", index, 1)
            self.done = True
        return True


class _TornLine(_Effect):
    def __init__(self, fault: Fault, node: _Node) -> None:
        super().__init__(fault, node)
        default = "orders" if "orders" in node.streams else node.streams[0]
        self._stream = self.wanted_stream(default)

    def change(self, now_s: float, writing: Writing) -> bool:
        events = writing.events.get(self._stream)
        if not self.done and events and self._stream not in writing.torn:
            self.tear(writing, self._stream, self.fault.form)
            self.done = True
        return True


class _ClockJump(_Effect):
    def change(self, now_s: float, writing: Writing) -> bool:
        if not self.is_over(now_s):
            writing.jump_ns += int(self.fault.amount * NS)
            self.tell_all(writing, "shifted")
        return True


class _DiskFull(_Effect):
    def __init__(self, fault: Fault, node: _Node) -> None:
        super().__init__(fault, node)
        self._full: set[str] = set()  # streams that stopped already

    def change(self, now_s: float, writing: Writing) -> bool:
        if self.is_over(now_s):
            return True
        for stream, events in list(writing.events.items()):
            count = len(events)
            if not events or stream in self._full or stream in writing.torn:
                self.drop(writing, stream)
                continue
            self._full.add(stream)
            self.keep_lines(writing, stream, half=True)
            stop = len(writing.events[stream])
            if stop < count:
                self.tell(writing, stream, "lost", stop, count - stop)
        return True


_KINDS: dict[str, _Kind] = {  # in the order in which they are applied
    "missing-block": _Kind(_MissingBlock),
    "late-hole": _Kind(_LateHole, duration_s=2.0, amount=2.0, most=_YEAR_S),
    "restart": _Kind(_Restart, duration_s=1.0, amount=10.0, most=1_000_000),
    "silent-stream": _Kind(_SilentStream, duration_s=5.0, takes_stream=True),
    "disk-full": _Kind(_DiskFull, duration_s=2.0),
    "lost-diff": _Kind(_LostDiff),
    "torn-line": _Kind(_TornLine, takes_stream=True, takes_form=True),
    "clock-jump": _Kind(_ClockJump, duration_s=2.0, amount=3700.0, most=10 * _YEAR_S),
}

FAULTS: tuple[str, ...] = tuple(_KINDS)
"""The names of all faults."""
