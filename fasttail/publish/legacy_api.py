"""The old service's WebSocket interface, kept for its clients: two channels, greeting, `ping` and `close`.

`orderUpdate` frames (one order each) are made by the compiled code; `orderBatch` messages, one or more
every half a second, are put together here from pieces of ready JSON.
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
"""Bytes: these clients cannot be given anything again, so that no `client_queue` makes theirs shorter."""

PONG = text_frame(b"pong")


def iso_time(seconds: float) -> str:
    """Unix time as the old service writes it, in UTC without a zone: `2025-07-23T06:00:00.074937`."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def greeting(channel: str, seconds: float) -> bytes:
    """The frame that every new client of a channel gets first; `seconds` is the Unix time."""
    payload = f'{{"type":"connected","channel":"{channel}","timestamp":"{iso_time(seconds)}"}}'
    return text_frame(payload.encode())


def wrong_endpoint_error(channel: str) -> bytes:
    """The frame for a client that speaks the public protocol here: an error in that protocol's own form."""
    text = (
        f"Error parsing JSON into valid websocket request: this is the old service's channel {channel}, "
        "which takes no requests; the public protocol is at /ws, without a slash at its end"
    )
    return text_frame(orjson.dumps({"channel": "error", "data": text}))


class LegacyClient(Client):
    """A client of one of the old channels. Any text but `ping` and `close` is ignored.

    A request of the public protocol is answered once: whoever sends one has taken this for `/ws`.
    """

    def __init__(self, hub: Hub, queue_limit: int, channel: Channel) -> None:
        super().__init__(hub, queue_limit)
        self.channel = channel
        self._hint_sent = False

    def on_open(self) -> None:
        # Before the greeting: what is written after it came is sent.
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
    """Whether a text is a request of the public protocol: `{"method":…}`."""
    if b'"method"' not in payload:
        return False
    try:
        request = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return isinstance(request, dict) and isinstance(request.get("method"), str)


def routes(hub: Hub, queue_limit: int) -> dict[str, Callable[[], LegacyClient]]:
    """For the server: what makes the client for a connection on each path."""
    return {path: partial(LegacyClient, hub, queue_limit, hub.channels[name]) for path, name in PATHS.items()}


def status(hub: Hub, batcher: "OrderBatcher") -> dict[str, Any]:
    """The old service's /ws/status."""
    return {
        "channels": {name: len(hub.channels[name].clients) for name in CHANNELS},
        "pending_orders": batcher.pending_orders,
        "is_running": True,
    }


class LegacyChannels:
    """The two channels' topics, which the pipeline has while somebody listens, and the batcher."""

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
        """Send the messages of orderBatch that are due."""
        channel = self._hub.channels[ORDER_BATCH]
        for frame in self._batcher.flush():
            channel.publish(frame.data, frame.orders, 1)

    @property
    def has_pending(self) -> bool:
        """Something waits for the next message of orderBatch."""
        return self._batcher.pending_orders > 0

    @property
    def has_batch_clients(self) -> bool:
        """Somebody is on orderBatch, so that something may soon wait."""
        return bool(self._hub.channels[ORDER_BATCH].clients)

    def status(self) -> dict[str, Any]:
        """The body of /ws/status."""
        return status(self._hub, self._batcher)

    def _deliver_update(self, message: OutgoingMessage) -> None:
        self._hub.channels[ORDER_UPDATE].publish(message.data, message.orders)

    def _deliver_fragment(self, message: OutgoingMessage) -> None:
        if self._batcher.add_orders(message.data, message.orders):
            self.flush()


class _TopicOnDemand:
    """Gives the pipeline a channel's topic with the first client, and takes it away with the last."""

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
    """One `orderBatch` message as a complete frame, and how many orders it holds."""

    data: bytes
    orders: int


class OrderBatcher:
    """Collects pieces of JSON until the next `orderBatch` is due; packs them into bounded messages.

    A piece is one or more Order objects joined by commas, at most `max_fragment` bytes. A message is

        {"type":"orderBatch","channel":"orderBatch","timestamp":"T","data":{"orders":[piece,piece,…],"count":n}}

    Bounded: when `add_orders` answers True (`high_water` bytes are pending), the caller flushes before it
    adds more.
    """

    OVERHEAD = 256
    """More than the bytes around the pieces of a message can ever be."""

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
        """Largest piece, in bytes, with which no message passes `max_message`."""
        return min(32 * 1024, self._payload_capacity)

    def add_orders(self, fragment: bytes, orders: int) -> bool:
        """Keep a piece of `orders` orders (0: nothing) for the next flush; True if a flush is due at once."""
        if orders:
            self._fragments.append((fragment, orders))
            self.pending_bytes += len(fragment)
            self.pending_orders += orders
        return self.pending_bytes >= self._high_water

    def flush(self, now: float | None = None) -> list[BatchFrame]:
        """All that is pending, in order, as complete frames stamped `now` (Unix seconds; default: the clock).

        Nothing pending: an empty list. A piece larger than `max_fragment` still goes out, in a message of its
        own.
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
