"""Appends the lines of one of the node's streams to a JetStream stream, each event once, in order.

    session:  last entry ─► its event in the own files ─► lines from there ─► append after the last entry
                 ▲                                                                   │
                 └────────── connection lost, no answer, someone else appended ──────┘

Nothing but the stream itself says how far it has come: there is no state to lose, and an answer that does not
come is looked up. The node's file is the queue: while there is no server, nothing is read.

Beside another node of the chain there may be a second publisher. The one that did not append the last entry
stands by: it reads its own files, compares them with what the other appends, and takes over when the stream
has been without its oldest waiting line for `takeover_s`. There is no election: if both append, the server
takes one of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from fasttail.engine.block_lines import LineRun
from fasttail.jetstream.agreement import Agreement
from fasttail.jetstream.entry import MAX_DAYS_AHEAD, MAX_INFLATED_BYTES, Deflater, Entry, EntryError
from fasttail.jetstream.line_source import LineSource, SourceRun
from fasttail.jetstream.log import (
    ConflictError,
    Limits,
    Log,
    LogConfigError,
    LogError,
    ServerOptions,
    SessionStats,
    open_log,
)
from fasttail.replay.block_search import BlockAheadError, BlockSearch, BlockTooOldError, NoBlocksError
from fasttail.sources.cursor import BlockPosition, CursorPosition
from fasttail.sources.follower import Follower
from fasttail.sources.layout import HourFile, choose_layout, hour_files, hourly_folder
from fasttail.sources.position import Position
from fasttail.system.tasks import cancel_tasks

MAX_RUN_BYTES = 512 << 10
MAX_UNANSWERED_BYTES = 8 << 20
CONFIRM_ENTRIES = 8
CONFIRM_S = 0.04
"""Every eighth entry asks for an answer, and one that comes so long after the last one that asked. The answer
confirms all entries before it, too. Answers to all would take a sixth of what publishing costs."""
CONFIRM_LAST_S = 0.1
"""Between looks whether the last entry, which did not ask, is stored. They begin if no other one follows."""
RETRY_S = 0.5
AGAIN_S = (0.02, 0.1)
"""Until the next session after a conflict, at random, so that two publishers do not keep step."""
REFUSED_RETRY_S = 5.0
ANSWER_TIMEOUT_S = 5.0
AHEAD_POLL_S = 0.2
AHEAD_RESYNC_S = 5.0
FAR_BELOW_BLOCKS = 20_000
REPUBLISH_S = 60
"""What a stream that was emptied gets again, as edges may not have read its last entries."""

log = logging.getLogger(__name__)


@dataclass
class PublisherStats(SessionStats):
    """What a publisher has done.

    state: "connecting", "standby", "publishing", "waiting" until this node has written what is in the stream,
        or "refused" if only the operator can help
    behind_since: since when (monotonic) lines that were read are not in the stream; None: they are
    away_since: since when there is no session that has come so far as to read lines
    """

    conflicts: int = 0
    takeovers: int = 0
    compared: int = 0
    disagreements: int = 0
    acknowledged: BlockPosition | None = None
    behind_since: float | None = None
    away_since: float | None = None

    @property
    def behind_s(self) -> float:
        """Seconds for which lines that the node wrote are not in the stream, or may not be."""
        now = time.monotonic()
        return max(now - (since or now) for since in (self.behind_since, self.away_since))


class Publisher:
    """Publishes one stream until cancelled.

    node: this node's name, which tells whose the last entry is
    make_follower: returns a Follower of the stream that begins at a position; None: at the end of the files
    """

    def __init__(
        self,
        options: ServerOptions,
        limits: Limits,
        *,
        node: str,
        stream: str,
        data_dir: str | os.PathLike[str],
        layout: str,
        max_line: int,
        linger_s: float,
        takeover_s: float,
        make_follower: Callable[[Position | None], Follower],
        use_inotify: bool = True,
    ) -> None:
        self.stats = PublisherStats()
        self.takes_over = False  # at once, in the next session
        self.behind_last: BlockPosition | None = None  # where the lines end for which it is behind
        self.seen = deque[tuple[float, Entry]](maxlen=REPUBLISH_S)  # when the stream ended with which entry
        self.stream = stream
        self.node = node
        self.data_dir = os.path.abspath(data_dir)
        self.max_line = max_line
        self.linger_s = linger_s
        self.takeover_s = takeover_s
        self.make_follower = make_follower
        self.use_inotify = use_inotify
        self._options = options
        self._limits = limits
        self._layout = layout

    async def run(self) -> None:
        """Publish until cancelled."""
        stats = self.stats
        while True:
            delay_s = RETRY_S
            try:
                async with open_log(self._options, self.stream) as session:
                    await session.create(self._limits)
                    await session.listen()
                    await _Session(self, session).run()
            except (_Resync, ConflictError) as error:
                stats.conflicts += isinstance(error, ConflictError)  # the other node is faster: stand by
                await asyncio.sleep(random.uniform(*AGAIN_S))
                continue
            except (LogConfigError, LogError, OSError) as error:
                refused = isinstance(error, LogConfigError)
                stats.note_failure(self.stream, str(error), refused=refused)
                if refused:
                    delay_s = REFUSED_RETRY_S
                # Otherwise entries of megabytes would stay until the next collection of garbage.
                traceback.clear_frames(error.__traceback__)
            stats.away_since = stats.away_since or time.monotonic()
            await asyncio.sleep(delay_s)

    def note_end(self, entry: Entry) -> None:
        """Note once a second that the stream ends with an entry, for the case that it is emptied."""
        now = time.monotonic()
        if not self.seen or now - self.seen[-1][0] >= 1.0:
            self.seen.append((now, entry))

    async def find(self, tip: Entry | None) -> tuple[Position | None, BlockPosition | None, bool]:
        """Return the position to read from, its block, and whether events between `tip` and it are gone.

        tip: the last entry; None: begin with the last block there is. Waits until the node has written it.
        Raises OSError. In the plain layout, a block is an hour and an offset.
        """
        waited_s = 0.0
        while True:
            found = await asyncio.to_thread(self._find, tip)
            if found is not None:
                return found
            if tip is None:
                return None, None, False
            self.stats.state = "waiting"
            self.stats.error = f"this node has not written block {tip.last.height}, where the stream ends"
            waited_s += AHEAD_POLL_S
            if waited_s > AHEAD_RESYNC_S:
                raise _Resync  # the stream may end elsewhere by now
            await asyncio.sleep(AHEAD_POLL_S)

    def _find(self, tip: Entry | None) -> tuple[Position, BlockPosition, bool] | None:
        layout = choose_layout(self.data_dir, self._layout, self.stream).layout
        if layout is None:
            return None
        hours = hour_files(hourly_folder(self.data_dir, layout, self.stream))
        if not hours:
            return None
        if tip is not None and (tip.layout == "plain") != (layout == "plain"):
            found = self._find(None)
            return found and (*found[:2], True)
        if layout == "plain":
            return self._find_plain(tip.last, hours) if tip is not None else None
        search = BlockSearch(hours, max_line=self.max_line, stream=self.stream)
        try:
            end = tip.last if tip is not None else BlockPosition(search.newest_block(), 0)
            at = search.find(end)
        except (BlockAheadError, NoBlocksError):  # or the layout is only about to change
            return None
        except BlockTooOldError as error:
            return self._position(hours[0].path, CursorPosition(hours[0].number, 0)), error.oldest, True
        path = next(hour.path for hour in hours if hour.number == at.hour)
        # With events consumed, the entry ends within a line as this node wrote it.
        line = BlockPosition(end.height, end.events - at.events_consumed)
        return self._position(path, at), line, at.events_consumed > 0

    def _find_plain(
        self, end: BlockPosition, hours: list[HourFile]
    ) -> tuple[Position, BlockPosition, bool] | None:
        """Return the same where a position is an hour and an offset."""
        for hour in hours:
            if hour.number < end.height:
                continue
            found = hour.number == end.height and os.stat(hour.path).st_size >= end.events
            offset = _line_from(hour.path, end.events, self.max_line) if found and end.events else 0
            begin = BlockPosition(hour.number, offset)
            return self._position(hour.path, CursorPosition(*begin)), begin, begin != end
        return None

    @staticmethod
    def _position(path: str, at: CursorPosition) -> Position:
        status = os.stat(path)
        return Position(path, at.offset, status.st_dev, status.st_ino)


def _line_from(path: str, offset: int, max_line: int) -> int:
    """Return the offset of the first line that begins there or later: a file may have been written anew."""
    with open(path, "rb") as file:
        file.seek(offset - 1)
        return offset - 1 + len(file.readline(max_line))


class _Resync(Exception):
    """The lines that were read do not begin where the stream ends: find its end in the files again."""


class _Sent(NamedTuple):
    """An entry on its way. sequence: its place in the stream. size: of its body. Times are monotonic."""

    entry: Entry
    sequence: int
    size: int
    read_at: float
    sent_at: float


class _Session:
    """What a publisher does with one connection."""

    def __init__(self, publisher: Publisher, session: Log) -> None:
        self._publisher = publisher
        self._stats = publisher.stats
        self._log = session
        self._tip: Entry | None = None  # the last entry of the stream, as far as known,
        self._moved = asyncio.Event()  # … set when it changes
        self._begin: BlockPosition | None = None  # where an empty stream begins
        self._sequence = 0  # of the last message, with those on their way
        self._previous: Entry | None = None  # sent last in this session
        self._unanswered: deque[_Sent] = deque()
        self._unanswered_bytes = 0
        self._answered = asyncio.Event()  # set by each answer
        self._asked_at = -CONFIRM_S  # monotonic, by the last entry that did
        self._unasked_count = 0  # entries since then
        self._refusal: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # gets the first one
        self._is_rewritten = False  # the file of a plain hour, which is said once
        self._agreement = Agreement()
        self._deflater = Deflater()
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Publish until something fails. Raises LogError, LogConfigError, OSError, what reading raises."""
        publisher = self._publisher
        self._sequence, self._tip = await self._log.last()
        end = self._tip
        if end is not None:
            publisher.note_end(end)
            if publisher.behind_last is not None and publisher.behind_last <= end.last:
                self._stats.behind_since = None
        elif publisher.seen:
            end = publisher.seen[0][1]  # the stream was emptied
        position, block, gap = await publisher.find(end)
        self._begin = block
        source = LineSource(
            lambda: publisher.make_follower(position),
            publisher.data_dir,
            publisher.stream,
            after=block,
            linger_s=publisher.linger_s,
            max_line=min(publisher.max_line, MAX_INFLATED_BYTES - 1),
            max_run=min(MAX_RUN_BYTES, self._log.max_body * 9 // 10),
            use_inotify=publisher.use_inotify,
        )
        self._stats.state = "publishing" if self._is_my_stream() else "standby"
        self._stats.error, self._stats.away_since = "", None
        tasks: set[asyncio.Future[None]] = {
            asyncio.create_task(self._log.until_lost()),
            asyncio.create_task(self._check_answers()),
            asyncio.create_task(self._publish(source, gap)),
            self._refusal,
        }
        if not self._is_my_stream():
            # Whoever publishes learns from its answers if another one appends; watching would cost as much.
            self._watching = asyncio.create_task(self._watch(self._sequence + 1))
            tasks.add(self._watching)
        try:
            running = tasks
            while True:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled():  # it has taken over
                        task.result()
        finally:
            await cancel_tasks(tasks)  # also those that have failed, whose exceptions are seen then

    # ---- what others append

    async def _watch(self, first: int) -> None:
        """Follow the headers of the stream, to know what another publisher has appended."""
        async with aclosing(self._log.read(first, headers_only=True)) as entries:
            async for sequence, entry, _ in entries:
                self._sequence = max(self._sequence, sequence)
                if isinstance(entry, EntryError):
                    log.warning("nats: stream %s: %s", self._publisher.stream, entry)
                    continue
                if self._tip is None or entry.last > self._tip.last:
                    self._tip = entry
                    self._publisher.note_end(entry)
                if entry.node != self._publisher.node:
                    self._report_differing(self._agreement.add_entry(entry))
                self._moved.set()

    def _report_differing(self, entries: list[Entry]) -> None:
        self._stats.compared += self._agreement.compared
        self._agreement.compared = 0
        for entry in entries:
            self._stats.disagreements += 1
            log.error(
                "nats: stream %s: node %s appended other events than this node wrote, from %d-%d to %d-%d",
                self._publisher.stream, entry.node, *entry.after, *entry.last,
            )  # fmt: skip

    # ---- what this node appends

    async def _publish(self, source: LineSource, gap: bool) -> None:
        async with aclosing(source.runs()) as items:
            async for item in items:
                await self._publish_run(item, gap)
                gap = False

    async def _publish_run(self, item: SourceRun, gap: bool) -> None:
        """Append a run unless the stream has it, or another node appends it in time.

        gap: whether lines before the run are missing
        """
        stats = self._stats
        if not self._is_my_stream():
            if item.layout == "plain":
                assert self._tip is not None
                raise LogConfigError(
                    f"node {self._tip.node} publishes it, and lines of the plain layout name no blocks, "
                    "so only one node can publish them; see nats_node"
                )
            self._report_differing(self._agreement.add_run(item.run))
        if self._is_in_stream(item.run):
            if not self._unanswered:
                stats.behind_since = None
            self._note_if_below(item)
            return
        stats.behind_since = stats.behind_since or item.read_at
        self._publisher.behind_last = item.run.last
        if not await self._my_turn(item):
            stats.behind_since = None
            return
        # In by_block, where every block has a line, blocks may be missing within the files, too.
        gap = gap or (item.layout == "by_block" and self._tip is not None)
        if gap and not self._follows(item) and not await self._nobody_else_fills(item):
            raise _Resync
        tip = self._tip
        gap = gap and not self._follows(item)
        if tip is not None and not gap and item.run.after < tip.last:
            self._note_if_below(item)
            self._publisher.takes_over = True
            raise _Resync
        stats.state = "publishing"
        if tip is not None and tip.layout != item.layout:
            if tip.node != self._publisher.node:
                raise LogConfigError(
                    f"it holds lines of the {tip.layout} layout, but this node writes {item.layout}: "
                    "run both nodes with the same layout"
                )
            gap = True
        await self._append(item, gap)
        if gap and tip is not None:
            log.warning(
                "nats: stream %s: a gap: it ends at %d-%d, and no node has what follows up to %d-%d",
                self._publisher.stream, *tip.last, *item.run.after,
            )  # fmt: skip

    async def _check_answers(self) -> None:
        """Look whether the last entry is stored if it did not ask for an answer and none follows it.

        Raises ConflictError if another one is, LogError, also if an answer does not come in time.
        """
        seen: _Sent | None = None
        while True:
            await asyncio.sleep(CONFIRM_LAST_S)
            if not self._unanswered:
                continue
            if time.monotonic() - self._unanswered[0].sent_at > ANSWER_TIMEOUT_S:
                raise LogError("JetStream does not answer")
            last, seen = seen, self._unanswered[-1]
            if last is seen and self._unasked_count and await self._log.holds(seen.entry, seen.sequence):
                self._confirm(seen.sequence)

    def _new_answer(self, sequence: int) -> asyncio.Future[int]:
        """Return what gets the answer that confirms the entries up to a sequence."""
        self._asked_at, self._unasked_count = time.monotonic(), 0
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(partial(self._on_answer, sequence))
        return answer

    def _on_answer(self, sequence: int, answer: asyncio.Future[int]) -> None:
        """Count what an answer confirms. Note the first failure, for all that follow it will fail, too."""
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None and answer.result() != sequence:
            error = ConflictError(f"an entry got sequence {answer.result()}, not {sequence}")
        if error is None:
            self._confirm(sequence)
        elif not self._refusal.done():
            self._refusal.set_exception(error)

    def _confirm(self, sequence: int) -> None:
        """Count the entries up to a sequence: none would be stored if one before it were not."""
        stats = self._stats
        while self._unanswered and self._unanswered[0].sequence <= sequence:
            sent = self._unanswered.popleft()
            self._unanswered_bytes -= sent.size
            stats.entries += 1
            stats.bytes += sent.size
            stats.events += sent.entry.events
            stats.acknowledged = sent.entry.last
            self._publisher.note_end(sent.entry)
            stats.error = ""
        stats.behind_since = self._unanswered[0].read_at if self._unanswered else None
        self._answered.set()

    def _note_if_below(self, item: SourceRun) -> None:
        """Say so if this node's blocks are far below the stream's end: it may follow another chain.

        In the plain layout, lines below it are those of a file that was written anew.
        """
        tip = self._tip
        if tip is None:
            return
        if item.layout == "plain":
            if not self._is_rewritten:
                log.warning(
                    "nats: stream %s: the file of hour %d was written anew: what is before offset %d is left "
                    "out",
                    self._publisher.stream, item.run.last.height, tip.last.events,
                )  # fmt: skip
            self._is_rewritten = True
            return
        if item.run.last.height + FAR_BELOW_BLOCKS > tip.last.height:
            return
        text = f"this node is at block {item.run.last.height}, the stream at {tip.last.height}"
        if self._stats.state != "waiting":
            log.warning("nats: stream %s: %s", self._publisher.stream, text)
        self._stats.state, self._stats.error = "waiting", text

    def _is_my_stream(self) -> bool:
        return self._tip is None or self._tip.node == self._publisher.node

    def _is_in_stream(self, run: LineRun) -> bool:
        return self._tip is not None and run.last <= self._tip.last

    async def _my_turn(self, item: SourceRun) -> bool:
        """Wait while another publisher appends. Return False if it has appended these lines."""
        publisher = self._publisher
        if self._is_my_stream() or publisher.takes_over:
            publisher.takes_over = False
            return True
        assert self._tip is not None
        self._stats.state, self._stats.error = "standby", ""
        if await self._appended_within(item, publisher.takeover_s):
            return False
        self._stats.takeovers += 1
        log.warning(
            "nats: stream %s: node %s has not appended for %g s; taking over after block %d",
            publisher.stream, self._tip.node, publisher.takeover_s, self._tip.last.height,
        )  # fmt: skip
        self._agreement = Agreement()
        if self._watching is not None:
            await cancel_tasks([self._watching])
        return True

    async def _appended_within(self, item: SourceRun, seconds: float) -> bool:
        """Wait until the lines are in the stream, or for some time after they were read."""
        while (left_s := item.read_at + seconds - time.monotonic()) > 0:
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), left_s)
            if self._is_in_stream(item.run):
                return True
        return False

    def _follows(self, item: SourceRun) -> bool:
        """Whether the lines begin where the stream ends by now, or before that."""
        tip, after = self._tip, item.run.after
        if tip is None or tip.layout != item.layout:
            return False
        return after <= tip.last or (item.layout == "by_block" and after.height == tip.last.height + 1)

    async def _nobody_else_fills(self, item: SourceRun) -> bool:
        """Give another publisher the time to append what this node does not have. Return False if it has."""
        tip = self._tip
        await self._appended_within(item, 2 * self._publisher.takeover_s)
        return self._tip is tip

    async def _append(self, item: SourceRun, gap: bool) -> None:
        run, publisher, tip = item.run, self._publisher, self._tip
        body = self._deflater.deflate(run.data)
        if len(body) > self._log.max_body:
            raise LogConfigError(
                f"an entry of {len(body)} bytes does not fit into a message of {self._log.max_body}: "
                "raise the server's max_payload"
            )
        before = tip.last if tip is not None else self._begin
        begin = before if before is not None and not gap else run.after
        hour = max(item.hour, tip.hour if tip is not None else 0)
        entry = Entry(
            item.layout, begin, run.last, hour, len(run.data), run.events, run.hash, publisher.node,
            time.time_ns() // 1_000_000, gap,
        )  # fmt: skip
        if entry.days_ahead > MAX_DAYS_AHEAD:
            raise LogConfigError(
                f"hour {hour} is more than a year ahead of this machine's clock: correct the clock, or "
                "remove the file"
            )
        previous, self._previous = self._previous, entry
        after, self._sequence, self._tip = self._sequence, self._sequence + 1, entry
        now = time.monotonic()
        self._unanswered.append(_Sent(entry, self._sequence, len(body), item.read_at, now))
        self._unanswered_bytes += len(body)
        self._unasked_count += 1
        limit = self._log.max_unanswered
        if self._unasked_count >= min(CONFIRM_ENTRIES, limit) or now - self._asked_at >= CONFIRM_S:
            answer = self._new_answer(self._sequence)
        else:
            answer = None
        await self._log.append(entry, body, after, previous, answer)
        self._stats.gaps += gap
        while len(self._unanswered) >= limit or self._unanswered_bytes > MAX_UNANSWERED_BYTES:
            self._answered.clear()
            await self._answered.wait()
