"""The parts that deliver messages to clients: hub, feeds, replays, `/ws` and the old channels."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import Any

from fasttail.config import ServeSettings
from fasttail.connection.compression import Compression
from fasttail.connection.hub import Hub
from fasttail.engine.pipeline import Pipeline
from fasttail.publish import legacy_api as legacy
from fasttail.publish import public_api as public
from fasttail.publish.budget import Budget
from fasttail.publish.feeds import Feeds
from fasttail.publish.legacy_api import LegacyChannels
from fasttail.publish.queue_limit import QueueLimit
from fasttail.replay.replays import ReplayManager
from fasttail.replay.resume import ReplayStartFinder, hour_number
from fasttail.sources.follower import Follower
from fasttail.sources.layout import parse_hour_path
from fasttail.sources.position import Position


class Publishing:
    """Builds these parts, each from those before it.

    resume: the position that the run resumes from. ready: set after the pipeline's first scan.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pipeline: Pipeline,
        follower: Follower,
        resume: Position | None,
        ready: asyncio.Event,
    ) -> None:
        self.hub = Hub(
            (*legacy.CHANNELS, *public.CHANNELS),
            max_messages_per_minute=settings.max_messages_per_minute,
            idle_timeout_s=settings.idle_timeout_s,
        )
        self.feeds = _feeds(settings, pipeline, resume)
        self.legacy = LegacyChannels(self.hub, self.feeds, settings.max_message)
        self.queue_limit = QueueLimit(self.hub, settings.queues_total)
        self.start_finder = ReplayStartFinder(
            settings.data_dir,
            layout=lambda: follower.layout,
            ready=ready,
            max_line=settings.max_line,
        )
        self.replays = ReplayManager(
            self.feeds,
            settings.data_dir,
            partial(public.make_topic, max_message=settings.max_message, for_replay=True),
            max_scans=settings.max_replays,
            max_line=settings.max_line,
            max_behind_s=settings.max_behind_s,
            on_delivered=self.queue_limit.enforce,
        )
        self.public = public.PublicService(
            self.hub,
            self.feeds,
            queue_limit=settings.client_queue,
            max_message=settings.max_message,
            max_subscriptions=settings.max_subscriptions,
            budget=Budget(settings.subscription_budget, settings.subscription_budget_per_client),
            start_finder=self.start_finder,
            replays=self.replays,
        )
        self.compression = Compression() if settings.compression else None

    def counts(self) -> dict[str, Any]:
        """Return the values for the metrics."""
        return (
            self.hub.connection_counters()
            | self.public.subscription_counters()
            | self.replays.replay_counters()
        )

    def close(self) -> None:
        """Stop reading files for clients."""
        self.start_finder.close()
        self.replays.close()


def _feeds(settings: ServeSettings, pipeline: Pipeline, resume: Position | None) -> Feeds:
    feeds = Feeds(pipeline, epoch=secrets.token_hex(8))
    for previous in resume.previous_hours if resume else ():  # may still get late lines
        found = parse_hour_path(settings.data_dir.absolute(), previous.path)
        if found is not None:
            feeds.delivered_offsets[hour_number(found[1])] = previous.offset
    return feeds
