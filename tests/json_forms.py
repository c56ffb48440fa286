"""Writes JSON lines in other forms with the same values."""

from __future__ import annotations

from collections.abc import Sequence

import orjson


def spaced(lines: Sequence[bytes]) -> bytes:
    """Return the lines with spaces between all tokens."""
    values = map(orjson.loads, lines)
    return b"\n".join(
        orjson.dumps(value, option=orjson.OPT_INDENT_2).replace(b"\n", b" ") for value in values
    )


def reordered(lines: Sequence[bytes]) -> bytes:
    """Return the lines with the keys of every object in reverse order."""
    return b"\n".join(orjson.dumps(_reordered(orjson.loads(line))) for line in lines)


def _reordered(value: object) -> object:
    if isinstance(value, dict):
        return {key: _reordered(each) for key, each in reversed(value.items())}
    return [_reordered(each) for each in value] if isinstance(value, list) else value
