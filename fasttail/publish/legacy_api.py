"""The old service's WebSocket protocol: two channels, a greeting, `ping` and `close`.

Compiled code makes the `orderUpdate` frames, one order each. `orderBatch` messages, one or more every
half a second by default, are assembled here from encoded JSON.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import orjson

from fasttail.connection.channel import Channel
from fasttail.connection.connection import Client
from fasttail.connection.hub import Hub
from fasttail.connection.wire import CloseCode, text_frame
from fasttail.engine.topics import Topic
from fasttail.publish.feeds import Feeds, OutgoingMessage

ORDER_UPDATE: Final = "orderUpdate"
ORDER_BATCH: Final = "orderBatch"
CHANNELS = (ORDER_UPDATE, ORDER_BATCH)

PATHS = {"/ws/": ORDER_UPDATE, "/ws/orderUpdate": ORDER_UPDATE, "/ws/orderBatch": ORDER_BATCH}

MIN_QUEUE_BYTES = 4 << 20
"""Minimum queue in bytes, even if `client_queue` is smaller: these clients cannot replay what they miss."""

PONG = text_frame(b"pong")


def iso_time(seconds: float) -> str:
    """Format Unix time as the old service does, in UTC without a zone: `2025-07-23T06:00:00.074937`."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def greeting(channel: str, seconds: float) -> bytes:
    """Return the first frame for a new client of a channel; `seconds` is the Unix time."""
    payload = f'{{"type":"connected","channel":"{channel}","timestamp":"{iso_time(seconds)}"}}'
    return text_frame(payload.encode())


def wrong_endpoint_error(channel: str) -> bytes:
    """Return the frame for a client that uses the public protocol here: an error in that protocol's form."""
    text = (
        f"Error parsing JSON into valid websocket request: this is the old service's channel {channel}, "
        "which takes no requests; the public protocol is at /ws, without a slash at its end"
    )
    return text_frame(orjson.dumps({"channel": "error", "data": text}))


class LegacyClient(Client):
    """A client of one of the old channels. Any text but `ping` and `close` is ignored.

    The first request of the public protocol gets an error, because its sender has mistaken this for `/ws`.
    """

    def __init__(self, hub: Hub, queue_limit: int, channel: Channel) -> None:
        super().__init__(hub, queue_limit)
        self.channel = channel
        self._hint_sent = False

    def on_open(self) -> None:
        # Join before the greeting, so that the client receives whatever is written after its greeting.
        self.channel.add_client(self)
        self.send(greeting(self.channel.name, time.time()))

    def on_closing(self) -> None:
        self.channel.remove_client(self)

    def on_text(self, payload: bytes) -> None:
        if payload == b"ping":
            self.send(PONG)
        elif payload == b"close":
            self.close(CloseCode.OK)
        elif not self._hint_sent and _is_request(payload):
            self._hint_sent = True
            self.send(wrong_endpoint_error(self.channel.name))


def _is_request(payload: bytes) -> bool:
    """Return whether a text is a request of the public protocol: `{"method":…}`."""
    if b'"method"' not in payload:
        return False
    try:
        request = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return isinstance(request, dict) and isinstance(request.get("method"), str)


def routes(hub: Hub, queue_limit: int) -> dict[str, Callable[[], LegacyClient]]:
    """Return the factory of clients for each path."""
    return {path: partial(LegacyClient, hub, queue_limit, hub.channels[name]) for path, name in PATHS.items()}


def status(hub: Hub, batcher: "OrderBatcher") -> dict[str, Any]:
    """Return the body of the old /ws/status."""
    return {
        "channels": {name: len(hub.channels[name].clients) for name in CHANNELS},
        "pending_orders": batcher.pending_orders,
        "is_running": True,
    }


class LegacyChannels:
    """The topics of both channels, in the pipeline only while they have clients, and the batcher."""

    def __init__(self, hub: Hub, feeds: Feeds, max_message: int) -> None:
        self._hub = hub
        self._batcher = OrderBatcher(max_message)
        updates = Topic(ORDER_UPDATE, max_message=max_message)
        fragments = Topic(ORDER_BATCH, max_message=max_message)
        for name, topic, sink in (
            (ORDER_UPDATE, updates, self._deliver_update),
            (ORDER_BATCH, fragments, self._deliver_fragment),
        ):
            channel = hub.channels[name]
            channel.on_change = _TopicOnDemand(channel, feeds, topic, sink).update

    def flush(self) -> None:
        """Send all pending orders of orderBatch."""
        channel = self._hub.channels[ORDER_BATCH]
        for frame in self._batcher.flush():
            channel.publish(frame.data, frame.orders, 1)

    @property
    def has_pending(self) -> bool:
        """Whether orders wait for the next orderBatch message."""
        return self._batcher.pending_orders > 0

    @property
    def has_batch_clients(self) -> bool:
        """Whether orderBatch has clients."""
        return bool(self._hub.channels[ORDER_BATCH].clients)

    def status(self) -> dict[str, Any]:
        """Return the body of /ws/status."""
        return status(self._hub, self._batcher)

    def _deliver_update(self, message: OutgoingMessage) -> None:
        self._hub.channels[ORDER_UPDATE].publish(message.data, message.orders)

    def _deliver_fragment(self, message: OutgoingMessage) -> None:
        if self._batcher.add_orders(message.data, message.orders):
            self.flush()


class _TopicOnDemand:
    """Adds a channel's topic to the pipeline for the first client, and removes it after the last."""

    def __init__(
        self, channel: Channel, feeds: Feeds, topic: Topic, deliver: Callable[[OutgoingMessage], None]
    ) -> None:
        self.deliver = deliver
        self._channel = channel
        self._feeds = feeds
        self._topic = topic
        self._attached = False

    def update(self) -> None:
        wanted = bool(self._channel.clients)
        if wanted and not self._attached:
            self._feeds.attach_sink(self._topic, self)
        elif self._attached and not wanted:
            self._feeds.detach_sink(self._topic)
        self._attached = wanted


class BatchFrame(NamedTuple):
    """One `orderBatch` message as a complete frame, and the number of orders in it."""

    data: bytes
    orders: int


class OrderBatcher:
    """Collects JSON fragments and packs them into bounded `orderBatch` messages.

    A fragment is one or more Order objects joined by commas, at most `max_fragment` bytes. A message is

        {"type":"orderBatch","channel":"orderBatch","timestamp":"T","data":{"orders":[fragment,…],"count":n}}

    When `add_orders` returns True (`high_water` bytes are pending), the caller must flush before it adds
    more.
    """

    OVERHEAD = 256
    """Upper bound of the bytes around a message's fragments."""

    def __init__(self, max_message: int = 256 * 1024, *, high_water: int = 1 << 20) -> None:
        if max_message < 2 * self.OVERHEAD:
            raise ValueError(f"max_message: {max_message} bytes are too few, at least {2 * self.OVERHEAD}")
        self._payload_capacity = max_message - self.OVERHEAD
        self._high_water = high_water
        self._fragments: list[tuple[bytes, int]] = []
        self.pending_bytes = 0
        self.pending_orders = 0

    @property
    def max_fragment(self) -> int:
        """The largest fragment, in bytes, that keeps messages within `max_message`."""
        return min(32 * 1024, self._payload_capacity)

    def add_orders(self, fragment: bytes, orders: int) -> bool:
        """Keep a fragment of `orders` orders (0: ignore it). Return whether a flush is due now."""
        if orders:
            self._fragments.append((fragment, orders))
            self.pending_bytes += len(fragment)
            self.pending_orders += orders
        return self.pending_bytes >= self._high_water

    def flush(self, now: float | None = None) -> list[BatchFrame]:
        """Return all pending orders, in order, as complete frames.

        now: the timestamp in Unix seconds, by default the current time. A fragment above `max_fragment` gets
        a message of its own.
        """
        fragments, self._fragments = self._fragments, []
        self.pending_bytes = self.pending_orders = 0
        timestamp = iso_time(time.time() if now is None else now)
        frames: list[BatchFrame] = []
        begin = size = 0
        for index, (fragment, _) in enumerate(fragments):
            fragment_size = len(fragment) + 1  # with its comma
            if size and size + fragment_size > self._payload_capacity:
                frames.append(_batch_frame(fragments[begin:index], timestamp))
                begin, size = index, 0
            size += fragment_size
        if fragments:
            frames.append(_batch_frame(fragments[begin:], timestamp))
        return frames


def _batch_frame(fragments: list[tuple[bytes, int]], timestamp: str) -> BatchFrame:
    orders = sum(count for _, count in fragments)
    head = f'{{"type":"{ORDER_BATCH}","channel":"{ORDER_BATCH}","timestamp":"{timestamp}","data":{{"orders":['
    tail = f'],"count":{orders}}}}}'
    payload = head.encode() + b",".join([fragment for fragment, _ in fragments]) + tail.encode()
    return BatchFrame(text_frame(payload), orders)
