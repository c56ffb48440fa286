"""Positions from which reading resumes after a restart, with the earlier files that may still grow.

A Position is stored as JSON in the checkpoint and passed on by a restart in place.
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
    """An hour before the Position's file that may still grow; it was read up to `offset`."""

    path: str
    offset: int
    dev: int
    ino: int
    tail_fingerprint: str
    grace_left_s: float  # rest of the time for which it is watched

    def with_fingerprint(self) -> Self:
        """Return a copy with the tail fingerprint added, if it is unknown and the file still exists."""
        return replace(
            self,
            tail_fingerprint=self.tail_fingerprint
            or fingerprints_at(self.path, self.offset, (self.dev, self.ino))[1],
        )


@dataclass(frozen=True)
class Hole(PreviousHour):
    """A skipped run of NUL bytes that may be filled: its lines start at `offset` and reach to `end`."""

    end: int


@dataclass(frozen=True)
class Position:
    """Resume at byte `offset` of the file `path`, provided it is the same file.

    head_fingerprint, tail_fingerprint: of the file's first bytes and of those before `offset`; "": unknown.
    If both are known, they decide whether it is the same file. Otherwise device and inode must match, and so
    must the known one.
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
        """Return the position in a JSON text. Raise ValueError if it is not one."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, data: Any) -> Position:
        """Return the position in decoded JSON. Raise ValueError if it is not one."""
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
        """Return a copy with the missing fingerprints, as far as the files still exist under their names.

        Known fingerprints are kept: they describe what was read, and the file may have been rewritten since.
        """
        first, before = fingerprints_at(self.path, self.offset, (self.dev, self.ino))
        previous_hours = tuple(previous_hour.with_fingerprint() for previous_hour in self.previous_hours)
        holes = tuple(hole.with_fingerprint() for hole in self.holes)
        first, before, ino = self.head_fingerprint or first, self.tail_fingerprint or before, self.ino
        if self.offset and not first and not before and self._is_gone():
            ino = 0  # a later file with this name and inode would be another one
        return replace(
            self,
            ino=ino,
            head_fingerprint=first,
            tail_fingerprint=before,
            previous_hours=previous_hours,
            holes=holes,
        )

    def mismatch(self, path: str) -> str:
        """Return why the position is not valid in the file `path`, "" if it is.

        Raise OSError if the file cannot be read.
        """
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_size < self.offset:
                return f"it has {status.st_size} bytes"
            known = self.head_fingerprint and self.tail_fingerprint
            if not known and (status.st_dev, status.st_ino) != (self.dev, self.ino):
                return "it is a different file"
            # Content decides: a copy, or the same disk under another device number, can be continued.
            for text, end in ((self.head_fingerprint, None), (self.tail_fingerprint, self.offset)):
                size = fingerprint_size(text)
                at = 0 if end is None else max(0, end - size)
                if fingerprint(os.pread(file.fileno(), size, at)) != text:
                    return "it was rewritten"
        return ""

    def _is_gone(self) -> bool:
        """Return whether `path` is no longer this file, or it is shorter than `offset`."""
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
"""JSON keys of the fields whose names differ from them."""


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
