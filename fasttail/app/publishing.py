"""The parts that deliver messages to clients: hub, feeds, replays, `/ws` and the old channels."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from fasttail.config import ServeSettings
from fasttail.connection.compression import Compression
from fasttail.connection.hub import Hub
from fasttail.engine.pipeline import Pipeline
from fasttail.engine.source import StreamSource
from fasttail.publish import legacy_api as legacy
from fasttail.publish import public_api as public
from fasttail.publish.budget import Budget
from fasttail.publish.feeds import Feeds
from fasttail.publish.legacy_api import LegacyChannels
from fasttail.publish.queue_limit import QueueLimit
from fasttail.publish.subscriptions import BROADCASTS, PAGE_BROADCASTS
from fasttail.replay.replays import ReplayManager
from fasttail.replay.resume import ReplayStartFinder
from fasttail.replay.threads import ReplayThreads
from fasttail.sources.layout import parse_hour_path
from fasttail.sources.position import Position


class StreamPublishing:
    """The feeds and replays of one stream.

    on_demand: the pipeline follows the stream only while there is a feed.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pipeline: Pipeline,
        source: StreamSource,
        *,
        epoch: str,
        on_demand: bool,
        ready: asyncio.Event,
        threads: ReplayThreads,
        on_delivered: Callable[[], None],
    ) -> None:
        self.feeds = Feeds(pipeline, epoch, source.stream, on_demand=on_demand)
        self.start_finder = ReplayStartFinder(
            settings.data_dir,
            layout=lambda: source.follower.layout if source.follower is not None else None,
            ready=ready,
            max_line=settings.max_line,
            stream=source.stream,
            deliver_replayed=settings.replayed_blocks == "deliver",
        )
        self.replays = ReplayManager(
            self.feeds,
            settings.data_dir,
            partial(public.make_topic, max_message=settings.max_message, for_replay=True),
            threads=threads,
            max_line=settings.max_line,
            max_behind_s=settings.max_behind_s,
            on_delivered=on_delivered,
            stream=source.stream,
            deliver_replayed=settings.replayed_blocks == "deliver",
        )

    def close(self) -> None:
        """Stop reading files for clients."""
        self.start_finder.close()
        self.replays.close()


class Publishing:
    """Builds these parts, each from those before it.

    resume: the position that the run resumes from in the first stream. ready: set after the pipeline's first
    scan.
    """

    def __init__(
        self, settings: ServeSettings, pipeline: Pipeline, resume: Position | None, ready: asyncio.Event
    ) -> None:
        self.hub = Hub(
            (*legacy.CHANNELS, *public.CHANNELS),
            max_messages_per_minute=settings.max_messages_per_minute,
            idle_timeout_s=settings.idle_timeout_s,
        )
        self.queue_limit = QueueLimit(self.hub, settings.queues_total)
        self._replay_threads = ReplayThreads(settings.max_replays)
        epoch = secrets.token_hex(8)
        self.streams = {
            source.stream: StreamPublishing(
                settings,
                pipeline,
                source,
                epoch=epoch,
                on_demand=source is not pipeline.sources[0],
                ready=ready,
                threads=self._replay_threads,
                on_delivered=self.queue_limit.enforce,
            )
            for source in pipeline.sources
        }
        orders = self.streams["orders"].feeds
        _set_delivered_offsets(orders, settings, resume)
        self.legacy = LegacyChannels(self.hub, orders, settings.max_message)
        self.public = public.PublicService(
            self.hub,
            {
                name: public.StreamService(stream.feeds, stream.start_finder, stream.replays)
                for name, stream in self.streams.items()
            },
            queue_limit=settings.client_queue,
            max_message=settings.max_message,
            max_subscriptions=settings.max_subscriptions,
            budget=Budget(settings.subscription_budget, settings.subscription_budget_per_client),
            broadcasts=BROADCASTS if settings.page == "on" else BROADCASTS - PAGE_BROADCASTS,
        )
        self.compression = Compression() if settings.compression else None

    def tick(self) -> None:
        """Skip clients that are too far behind; call it once a second."""
        for stream in self.streams.values():
            stream.replays.tick()

    @property
    def replay_bytes(self) -> int:
        """Bytes that the blocks of all replays occupy."""
        return sum(stream.replays.reader_bytes for stream in self.streams.values())

    def counts(self) -> dict[str, Any]:
        """Return the values for the metrics."""
        replays = [stream.replays.replay_counters() for stream in self.streams.values()]
        combined = {name: sum(each[name] for each in replays) for name in replays[0]}
        for name in ("replay_bytes_behind", "replay_seconds_behind"):
            combined[name] = max(each[name] for each in replays)
        return self.hub.connection_counters() | self.public.subscription_counters() | combined

    def close(self) -> None:
        """Stop reading files for clients."""
        for stream in self.streams.values():
            stream.close()
        self._replay_threads.close()


def _set_delivered_offsets(feeds: Feeds, settings: ServeSettings, resume: Position | None) -> None:
    for previous in resume.previous_hours if resume else ():  # may still get late lines
        found = parse_hour_path(settings.data_dir.absolute(), previous.path, feeds.stream)
        if found is not None:
            feeds.delivered_offsets[found[1].number] = previous.offset
