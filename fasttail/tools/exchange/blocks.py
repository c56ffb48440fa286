"""The type that the exchange hands to its nodes."""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """One block of the chain, with the events of each wanted stream as text.

    number:  the height.
    time_ns: consensus time, UTC ns since 1970.
    events:  stream (see `constants.STREAMS`) -> its events in the node's order, each the ASCII text of a
             line of the plain layout, without its newline. Every wanted stream has a key, also without
             events.
    """

    number: int
    time_ns: int
    events: dict[str, list[str]]
