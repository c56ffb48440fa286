"""Where reading goes on after a restart: a place in a file, and what may still come in the files before it.

A Position is kept as JSON, in the checkpoint and over a restart in place.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from .files import open_regular
from .fingerprint import fingerprint, fingerprint_size, fingerprints_at, is_fingerprint


@dataclass(frozen=True)
class PreviousHour:
    """An hour that had been left at a Position, and may still have grown: read up to `offset`."""

    path: str
    offset: int
    dev: int
    ino: int
    tail_fingerprint: str
    grace_left_s: float  # of its grace time that were left

    def with_fingerprint(self) -> Self:
        """With the mark of the bytes before `offset`, if it is not known yet and its file is still there."""
        return replace(
            self,
            tail_fingerprint=self.tail_fingerprint
            or fingerprints_at(self.path, self.offset, (self.dev, self.ino))[1],
        )


@dataclass(frozen=True)
class Hole(PreviousHour):
    """NUL bytes that were passed over and may be filled: lines are still to come from `offset` to `end`."""

    end: int


@dataclass(frozen=True)
class Position:
    """Where to go on: byte `offset` of the file `path`, provided it is the same file.

    head_fingerprint, tail_fingerprint: fingerprints (see `fingerprint`) of the file's first bytes and of
    those before `offset`; "": not known.
    Where both are known, they say whether it is the same file; else device and inode do, and the one known.
    """

    path: str
    offset: int
    dev: int
    ino: int
    head_fingerprint: str = ""
    tail_fingerprint: str = ""
    previous_hours: tuple[PreviousHour, ...] = ()
    holes: tuple[Hole, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_with_json_keys)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

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
                previous_hours, holes = data.get("formers", []), data.get("holes", [])
                lists = isinstance(previous_hours, list) and isinstance(holes, list)
                if is_fingerprint(first) and is_fingerprint(before) and lists:
                    records = tuple(map(_previous_hour_from_dict, previous_hours))
                    return cls(
                        path, offset, dev, ino, first, before, records, tuple(map(_hole_from_dict, holes))
                    )
        raise ValueError(f"not a position in a file: {data!r:.200}")

    def with_fingerprints(self) -> Position:
        """With the marks that are not known yet, of the files that are still there under their names.

        Those that are known are kept: they are of what was read, which may have been written anew since.
        """
        first, before = fingerprints_at(self.path, self.offset, (self.dev, self.ino))
        previous_hours = tuple(previous_hour.with_fingerprint() for previous_hour in self.previous_hours)
        holes = tuple(hole.with_fingerprint() for hole in self.holes)
        first, before, ino = self.head_fingerprint or first, self.tail_fingerprint or before, self.ino
        if self.offset and not first and not before and self._is_gone():
            ino = 0  # what has its name and its inode the next time is another
        return replace(
            self,
            ino=ino,
            head_fingerprint=first,
            tail_fingerprint=before,
            previous_hours=previous_hours,
            holes=holes,
        )

    def mismatch(self, path: str) -> str:
        """Why it does not hold in the file `path`; "" if it does. OSError."""
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_size < self.offset:
                return f"it has {status.st_size} bytes"
            known = self.head_fingerprint and self.tail_fingerprint
            if not known and (status.st_dev, status.st_ino) != (self.dev, self.ino):
                return "it is a different file"
            # A copy, or the same disk under another number, holds what comes next as well.
            for text, end in ((self.head_fingerprint, None), (self.tail_fingerprint, self.offset)):
                size = fingerprint_size(text)
                at = 0 if end is None else max(0, end - size)
                if fingerprint(os.pread(file.fileno(), size, at)) != text:
                    return "it was rewritten"
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


_JSON_KEYS = {
    "head_fingerprint": "first",
    "tail_fingerprint": "before",
    "previous_hours": "formers",
    "grace_left_s": "seconds",
}
"""Fields of the dataclasses above whose keys in JSON are other ones."""


def _with_json_keys(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_JSON_KEYS.get(name, name): value for name, value in fields}


def _previous_hour_from_dict(data: Any) -> PreviousHour:
    match data:
        case {
            "path": str(path), "offset": int(offset), "dev": int(dev), "ino": int(ino),
            "before": str(before), "seconds": int() | float() as seconds,
        } if offset >= 0 and is_fingerprint(before):  # fmt: skip
            return PreviousHour(path, offset, dev, ino, before, float(seconds))
    raise ValueError(f"not the position of a previous hour: {data!r}")


def _hole_from_dict(data: Any) -> Hole:
    match data:
        case {"end": int(end)}:
            return Hole(**asdict(_previous_hour_from_dict(data)), end=end)
    raise ValueError(f"not the position of a hole: {data!r}")
