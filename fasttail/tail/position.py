"""Where reading goes on after a restart: a place in a file, and what may still come in the files before it.

A Position is kept as JSON, in the checkpoint and over a restart in place.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from .files import open_regular
from .fingerprint import is_mark, mark, marked_bytes, marks_at


@dataclass(frozen=True)
class Left:
    """An hour that had been left at a Position, and may still have grown: read up to `offset`."""

    path: str
    offset: int
    dev: int
    ino: int
    before: str
    seconds: float  # of its grace time that were left

    def with_mark(self) -> Self:
        """With the mark of the bytes before `offset`, if it is not known yet and its file is still there."""
        return replace(self, before=self.before or marks_at(self.path, self.offset, (self.dev, self.ino))[1])


@dataclass(frozen=True)
class Hole(Left):
    """NUL bytes that were passed over and may be filled: lines are still to come from `offset` to `end`."""

    end: int


@dataclass(frozen=True)
class Position:
    """Where to go on: byte `offset` of the file `path`, provided it is the same file.

    first, before: marks (see `mark`) of the file's first bytes and of those before `offset`; "": not known.
    Where both are known, they say whether it is the same file; else device and inode do, and the one known.
    """

    path: str
    offset: int
    dev: int
    ino: int
    first: str = ""
    before: str = ""
    formers: tuple[Left, ...] = ()
    holes: tuple[Hole, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Position:
        """ValueError: not a position."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: Any) -> Position:
        """ValueError: not a position."""
        match data:
            case {"path": str(path), "offset": int(offset), "dev": int(dev), "ino": int(ino)} if offset >= 0:
                first, before = data.get("first", ""), data.get("before", "")
                formers, holes = data.get("formers", []), data.get("holes", [])
                lists = isinstance(formers, list) and isinstance(holes, list)
                if is_mark(first) and is_mark(before) and lists:
                    left = tuple(map(_left, formers))
                    return cls(path, offset, dev, ino, first, before, left, tuple(map(_hole, holes)))
        raise ValueError(f"not a position in a file: {data!r:.200}")

    def with_marks(self) -> Position:
        """With the marks that are not known yet, of the files that are still there under their names.

        Those that are known are kept: they are of what was read, which may have been written anew since.
        """
        first, before = marks_at(self.path, self.offset, (self.dev, self.ino))
        formers = tuple(left.with_mark() for left in self.formers)
        holes = tuple(hole.with_mark() for hole in self.holes)
        first, before, ino = self.first or first, self.before or before, self.ino
        if self.offset and not first and not before and self._is_gone():
            ino = 0  # what has its name and its inode the next time is another
        return replace(self, ino=ino, first=first, before=before, formers=formers, holes=holes)

    def mismatch(self, path: str) -> str:
        """Why it does not hold in the file `path`; "" if it does. OSError."""
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_size < self.offset:
                return f"it has {status.st_size} bytes"
            known = self.first and self.before
            if not known and (status.st_dev, status.st_ino) != (self.dev, self.ino):
                return "it is another file now"
            # A copy, or the same disk under another number, holds what comes next as well.
            for text, end in ((self.first, None), (self.before, self.offset)):
                size = marked_bytes(text)
                at = 0 if end is None else max(0, end - size)
                if mark(os.pread(file.fileno(), size, at)) != text:
                    return "it was written anew"
        return ""

    def _is_gone(self) -> bool:
        """Whether there is no such file under its name, or it was truncated."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return (status.st_dev, status.st_ino) != (self.dev, self.ino) or status.st_size < self.offset


def _left(data: Any) -> Left:
    match data:
        case {
            "path": str(path), "offset": int(offset), "dev": int(dev), "ino": int(ino),
            "before": str(before), "seconds": int() | float() as seconds,
        } if offset >= 0 and is_mark(before):  # fmt: skip
            return Left(path, offset, dev, ino, before, float(seconds))
    raise ValueError(f"not the place where an hour was left: {data!r}")


def _hole(data: Any) -> Hole:
    match data:
        case {"end": int(end)}:
            return Hole(**asdict(_left(data)), end=end)
    raise ValueError(f"not the place of a hole: {data!r}")
