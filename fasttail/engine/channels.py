"""Describes the channels: which stream each belongs to, and what its messages look like.

head element,element,… tail ,"cursor":"…"}
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Format = Literal["full", "raw", "ws", "trade", "fill"]


class ChannelSpec(NamedTuple):
    """What the messages of a subscription type consist of.

    stream: the stream that is followed for it
    head, tail: text before and after the elements; `%s` stands for the user
    format: of the elements, unless the subscription chooses it
    stage: what makes its rows of the stream's; "": none
    per_user: one look-up finds the topic of a row, however many users are subscribed
    """

    stream: str
    head: str
    tail: str
    format: Format | None = None
    stage: str = ""
    per_user: bool = False


CHANNELS: dict[str, ChannelSpec] = {
    "orders": ChannelSpec("orders", '{"channel":"orders","data":[', "]"),
    "orderUpdates": ChannelSpec(
        "orders", '{"channel":"orderUpdates","data":[', '],"user":"%s"', "ws", per_user=True
    ),
    "fills": ChannelSpec("fills", '{"channel":"fills","data":[', "]"),
    "trades": ChannelSpec("fills", '{"channel":"trades","data":[', "]", "trade", stage="trades"),
    "userFills": ChannelSpec("fills", '{"channel":"userFills","data":{"user":"%s","fills":[', "]}", "fill"),
    "userEvents": ChannelSpec("fills", '{"channel":"user","data":{"fills":[', ']},"user":"%s"', "fill"),
    # The channels of the old service, whose encoders are their own.
    "orderUpdate": ChannelSpec("orders", "", "", "ws"),
    "orderBatch": ChannelSpec("orders", "", "", "ws"),
}
"""By subscription type."""
