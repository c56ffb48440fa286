"""`fasttail serve`: puts the parts together, starts and stops them in order. Only this module knows them all.

start   log ─► state folder (lock, checkpoint) ─► pipeline thread looks at the folders ─► sockets (own or
        inherited) ─► timers
stop    pipeline ends its batch ─► its last frames go out ─► checkpoint ─► clients are closed (1001, or 1012
        before a restart) ─► log
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvloop

from fasttail.cgroup import memory_limit
from fasttail.checkpoint import Checkpoint, InUse, Unusable
from fasttail.config import ConfigError, ServeSettings, options
from fasttail.find import after_block
from fasttail.handed_out import HandedOut
from fasttail.histogram import Histogram
from fasttail.observe.batch_log import BatchLog, WorkerState
from fasttail.observe.health import Health
from fasttail.observe.log import LogService, setup
from fasttail.observe.metrics import Metrics
from fasttail.observe.notify import Notifier
from fasttail.observe.now_and_then import Oddities, Rejects, Seldom, Summary
from fasttail.pipeline import Pipeline, leak
from fasttail.pipeline_events import BatchEnd, BatchStart, FileOpened, TopicsChanged
from fasttail.publish import legacy, public
from fasttail.publish.access import Access, read_token
from fasttail.publish.budget import Budget
from fasttail.publish.clients import Hub
from fasttail.publish.compression import Compression
from fasttail.publish.cursor import Place
from fasttail.publish.feeds import Feeds
from fasttail.publish.filters import Selector
from fasttail.publish.legacy import OldChannels
from fasttail.publish.server import Server
from fasttail.publish.tls import server_context
from fasttail.publish.wire import CloseCode
from fasttail.replays import Replays
from fasttail.resume import Finder, hour_number
from fasttail.tail.blocks import Reader
from fasttail.tail.follower import Follower, Position, Start
from fasttail.tail.inotify import Watcher
from fasttail.tail.layout import locate
from fasttail.version import commit, version
from fasttail.watch import restart
from fasttail.watch.activation import activated
from fasttail.watch.census import Census, Process, give_back, let_malloc_give_back
from fasttail.watch.memory import Leak, MemoryWatch, restart_limit
from fasttail.watch.stall import StallWatch
from fasttail.watch.watchdog import Watchdog
from fasttail.watch.webhook import Webhook

log = logging.getLogger(__name__)

STOP_S = 3.0
"""How long the running batch may take to end at a stop. Container engines kill after ten seconds, and
clients, checkpoint, webhook and log take 7 more if they hang as well.
"""
WEBHOOK_S = 2.0
"""How long the last alerts may take to get out at a stop."""
LONG_BATCH_S = 1.0
"""A batch that takes longer is always logged."""
LEAST_DESCRIPTORS = 32
"""A server without clients has some 20 open."""
CHECKPOINT_S = 1.0
"""From one checkpoint to the next."""
GC_THRESHOLDS = (10_000, 20, 20)
"""Python's own begin with 700: a batch's messages alone are more, and none of them is garbage in a cycle."""

HELD = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
"""Signals that wait while a restart in place has no handlers for them."""
LAST_CHECKPOINT_S = 1.5
"""How long a stop waits for a disk that is slow, on top of STOP_S."""
GUARDS = ("token_file", "allowed_origins", "tls_cert", "tls_key")
"""Settings that SIGHUP has read anew, besides `symbols_config`."""


def serve(settings: ServeSettings, reload: Callable[[], ServeSettings]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. A restart for memory's sake does not come back.

    reload: reads the settings anew, for SIGHUP; raises ConfigError.

    Raises what keeps it from starting, whatever that is. Once it is ready nothing gets through: a failure is
    a bug, its traceback is in the log, and the exit code is 1.
    """
    _raise_descriptor_limit()
    let_malloc_give_back(os.environ)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until it can be answered
    handed = activated()
    inherited = restart.inherited()
    while True:
        service = setup(settings.log_level)
        app = None
        try:
            app = App(settings, service, inherited, reload, handed)
            # Its loop comes first: where that cannot be made, no coroutine is left over.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                code = runner.run(app.run())
        except Exception:
            if app is None or not app.ready:
                raise
            log.exception("the main loop has failed")
            return 1
        finally:
            service.stop(timeout=1.0)
        if app.restart_as is None:
            return code
        argv, env = app.restart_as
        try:
            if fault := app.missing():
                raise OSError(errno.ENOENT, fault)
            restart.execute(argv, env)
        except OSError as error:
            # Something is gone, or memory: begin anew here, with what the next image would have got.
            with contextlib.suppress(OSError):  # nobody reads the log any more
                print(f"fasttail serve: cannot execute {argv[0]}: {error.strerror}; going on", flush=True)
            os.environ[restart.VARIABLE] = env[restart.VARIABLE]
            inherited = restart.inherited()


class App:
    """One run of the service. Everything here belongs to the main thread."""

    def __init__(
        self,
        settings: ServeSettings,
        service: LogService,
        inherited: restart.Restart | None,
        reload: Callable[[], ServeSettings],
        activated: Sequence[socket.socket] = (),
    ) -> None:
        self.settings = settings
        self._notify = Notifier()
        self._reload = reload
        self.restart_as: tuple[list[str], dict[str, str]] | None = None
        self._service = service
        self._restarts = inherited.restarts if inherited else 0
        self._started = inherited.started if inherited else time.time()
        self._stop = asyncio.Event()
        self._told_to_end = False  # by a signal, maybe after a restart in place has begun
        self._first_look_over = threading.Event()
        self._open = threading.Event()  # clients may come: the pipeline reads from now on
        self._looked = asyncio.Event()  # it listens, after the first look or when that took too long
        self._exit_code = 0
        self._restart_reason: str | None = None
        self._batch_log = BatchLog(service)
        self._logged_start = 0  # number of the batch whose beginning stands in the log
        self._timed_out = 0  # number of the batch that was reported as hanging
        self._rejects = Rejects()
        self._not_handed_over = Seldom(log, logging.ERROR, "batch %d: handing over failed")
        self._oddities = Oddities()
        self._summary = Summary()
        self._lags = Histogram()  # from the orders' own time
        self._delivery_lags = Histogram()  # from the node's writing of the line

        guarded = _guards(settings)
        self._checkpoint = _checkpoint(settings, inherited)
        start, resume = _beginning(settings, inherited, self._checkpoint)
        self._sent_to = resume  # before what waits for the next message of orderBatch
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._hub = Hub(
            (*legacy.CHANNELS, *public.CHANNELS),
            max_messages_per_minute=settings.max_messages_per_minute,
            idle_timeout_s=settings.idle_timeout_s,
        )
        self._follower = Follower(
            settings.data_dir,
            layout=settings.layout,
            start=start,
            grace_s=settings.grace_s,
            rescan_s=settings.rescan_s,
            resume=resume,
            stale_after_s=settings.stale_after_s,
            after_block=partial(after_block, max_line=settings.max_line),
            notice=_notice,
        )
        self._handed_out = HandedOut(resume, settings.grace_s, passed=self._follower.passed)
        self._reader = Reader(window=settings.block_size, max_line=settings.max_line)
        self.pipeline = Pipeline(
            self._reader,
            Watcher(wake_fd=self._wake_fd, use_inotify=settings.inotify),
            self._follower,
            selector(settings),
            settings.workers,
            wake_fd=self._wake_fd,
            min_batch_s=settings.min_batch_us / 1e6,
            log_every_s={"second": 1.0, "all": 0.0, "summary": None}[settings.log_batches],
            stall_ms=0 if inherited else int(settings.debug_stall * 1000),
            gate=self._wait_for_clients,
        )
        self._feeds = Feeds(self.pipeline, epoch=secrets.token_hex(8))
        for left in resume.formers if resume else ():  # hours that may still get late lines
            found = locate(settings.data_dir.absolute(), left.path)
            if found is not None:
                self._feeds.ends[hour_number(found[1])] = left.offset
        self._old = OldChannels(self._hub, self._feeds, settings.max_message)
        self._public = public.Service(
            self._hub,
            self._feeds,
            queue_limit=settings.client_queue,
            queues_total=settings.queues_total,
            max_message=settings.max_message,
            max_subscriptions=settings.max_subscriptions,
            budget=Budget(settings.subscription_budget, settings.subscription_budget_per_client),
        )
        self._finder = self._public.finder = Finder(
            settings.data_dir,
            layout=lambda: self._follower.layout,
            ready=self._looked,
            max_line=settings.max_line,
        )
        self._replays = self._public.replays = Replays(
            self._feeds,
            settings.data_dir,
            partial(self._public.topic, replayed=True),
            limit=settings.max_replays,
            max_line=settings.max_line,
            max_behind_s=settings.max_behind_s,
            ease=self._public.ease,
        )
        self._health = health = Health(
            self.pipeline.stats,
            stale_after_s=settings.stale_after_s,
            stall_after_s=settings.stall_after_s,
            batch_timeout_s=settings.batch_timeout_s,
            memory=lambda: self._watchdog.memory.numbers(),
        )
        self._process = process = Process(self._census)
        self._guard = restart.StormGuard(
            settings.max_restarts_per_hour, inherited.recent if inherited else ()
        )
        self._compression = Compression() if settings.compression else None
        self._watchdog = Watchdog(
            MemoryWatch(
                restart_limit(settings.memory_limit_mb, memory_limit()),
                window_s=settings.memory_window_s,
                warmup_s=settings.memory_warmup_s,
                measure=process.rss,
                pss=process.pss,
                count=process.count,
            ),
            StallWatch(
                self.pipeline.stats,
                stall_after_s=settings.stall_after_s,
                batch_timeout_s=settings.batch_timeout_s,
            ),
            self._guard,
            restarts=self._restarts,
            shed=self._shed,
            restart=self.begin_restart,
            unfit=self._unfit,
            tell=self._tell_alert,
            webhook=Webhook(settings.alert_webhook) if settings.alert_webhook else None,
            leaks=[
                *([Leak(settings.debug_leak)] if settings.debug_leak else []),
                *([Leak(settings.debug_leak_c, keep=leak)] if settings.debug_leak_c else []),
            ],
        )
        metrics = Metrics(
            stats=self.pipeline.stats,
            batch_times=self.pipeline.batch_times.read,
            lags=self._lags.read,
            delivery_lags=self._delivery_lags.read,
            hub=lambda: (
                self._hub.counts()
                | self._public.counts()
                | self._replays.counts()
                | (self._checkpoint.counts() if self._checkpoint else {})
            ),
            memory=self._memory_numbers,
            log_dropped=lambda: service.dropped,
            restarts=self._restarts,
            started=time.time(),
            alerts=lambda: self._watchdog.alerts,
            webhook=self._watchdog.posted,
            version=version(),
            commit=commit(),
        )
        self.server = Server(
            self._hub,
            host=settings.host,
            port=settings.port,
            sockets=inherited.sockets if inherited else activated,
            max_clients=settings.max_clients,
            health=health.health,
            live=health.live,
            metrics=metrics.render,
            routes=legacy.routes(self._hub, max(settings.client_queue, legacy.LEAST_QUEUE))
            | {public.PATH: self._public.client},
            status=self._old.status,
            compression=self._compression,
            ping_interval_s=settings.ping_interval_s,
            access=Access(per_address=settings.max_clients_per_ip, proxies=settings.trusted_proxies),
        )
        self.server.use(**guarded)

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code. Raises what keeps it from starting."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        for notice in self.settings.notices:
            log.warning("%s", notice)
        loop.add_reader(self.pipeline.ready_fd, self._take)
        self.pipeline.start()
        try:
            # Where reading begins is known before clients can come: what is written after a greeting is read.
            await self._first_look()
            await self.server.start()
        except BaseException:
            self.pipeline.stop()
            raise
        finally:
            self._open.set()
        self._looked.set()
        self._announce()
        gc.freeze()  # what exists by now stays: later collections need not look at it
        gc.set_threshold(*GC_THRESHOLDS)
        tasks = [
            asyncio.create_task(self._every(self.settings.batch_interval_ms / 1000, self._old.flush)),
            asyncio.create_task(self._every(min(0.5, self.settings.batch_timeout_s / 4), self._look_after)),
            asyncio.create_task(self._every(self._watch_period(), self._watchdog.sample)),
            asyncio.create_task(self._every(1.0, self._tell_status)),
            asyncio.create_task(self._every(CHECKPOINT_S, self.keep_place)),
        ]
        alive = asyncio.create_task(self._every((self._notify.watchdog_s or 60.0) / 4, self._notify.alive))
        self._tell_ready()
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await self._shut_down()
        alive.cancel()  # not before: a restart in place may wait for a batch
        self._watchdog.close(WEBHOOK_S)
        if self.restart_as is not None:
            # They wait in the kernel until the next image answers them.
            signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
            await asyncio.sleep(0.01)  # what came before is heard
        if self._told_to_end:
            self.restart_as = None  # told so while it shut down for a restart
        # Without a handler this signal would kill.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        return self._exit_code

    @property
    def ready(self) -> bool:
        """It listens, or has done so."""
        return self._looked.is_set()

    async def _first_look(self) -> None:
        """Until the folders have been looked at, or that takes too long."""
        for _ in range(2000):
            if self._first_look_over.is_set() or self.pipeline.stopped:
                return
            await asyncio.sleep(0.005)

    def _wait_for_clients(self) -> None:
        """In the pipeline's thread."""
        self._first_look_over.set()
        self._open.wait()

    async def _shut_down(self) -> None:
        """Pipeline first, then what it had made, then the clients."""
        log.info("stopping: %s", self._restart_reason or "a signal, or a failure told above")
        restarting = self._restart_reason is not None and not self._told_to_end
        if restarting:
            self._notify.restarting()
        else:
            self._notify.stopping()
        loop = asyncio.get_running_loop()
        self.pipeline.stop()
        deadline = loop.time() + STOP_S
        while not self.pipeline.stopped and loop.time() < deadline:
            self._take()
            await asyncio.sleep(0.005)
        if not self.pipeline.stopped:
            log.warning(
                "the running batch did not end within %g s: it will be read again after a restart", STOP_S
            )
        loop.remove_reader(self.pipeline.ready_fd)
        # Before the ring is emptied for the last time: what a batch hands over only after that is read again.
        position = self.pipeline.position()
        while self._take():
            pass
        if position is None:  # it hangs in a batch, which is read again
            position = self._handed_out.position()
        self._old.flush()
        self.keep_place()
        restarting = restarting and not self._told_to_end
        self._finder.close()
        self._replays.close()
        code = CloseCode.RESTART if restarting else CloseCode.GOING_AWAY
        await self.server.stop(code, "restarting" if restarting else "going away", keep_sockets=restarting)
        if self._checkpoint is not None:
            self._checkpoint.close(LAST_CHECKPOINT_S, keep_lock=restarting)
        stats = self.pipeline.stats()
        log.info(
            "stopped: %d lines, %d orders, %d rejected", stats["lines"], stats["orders"], stats["rejected"]
        )
        if restarting:
            self.restart_as = restart.prepare(
                self.server.sockets,
                position.to_json() if position is not None else "" if self._follower.nothing_yet else None,
                self._started,
                self._restarts,
                self._guard.recent,
                kept=[self._checkpoint.lock] if self._checkpoint is not None else [],
            )

    # ---- what the pipeline hands over

    def _take(self) -> bool:
        """Send what the pipeline has made. True if there was anything."""
        notes = self.pipeline.drain(16)
        for note in notes:
            try:
                if isinstance(note, BatchStart):
                    self._log_start(note.number, note.lines)
                elif isinstance(note, TopicsChanged):
                    self._feeds.changed(note.number, note)
                elif isinstance(note, FileOpened):
                    found = locate(self.settings.data_dir.absolute(), note.file[0])
                    if found is None:
                        self._feeds.read_in(None, None)
                    else:
                        self._feeds.read_in(found[0], Place(hour_number(found[1]), note.end))
                    self._handed_out.opened(note)
                else:
                    self._publish(note)
            except Exception:  # the other notes are not its fault
                self._not_handed_over.tell(note.number, exc_info=True)
        if self.pipeline.failure is not None and not self._stop.is_set():
            self._batch_log.failed(f"{type(self.pipeline.failure).__name__}: {self.pipeline.failure}")
            log.error("the pipeline has failed", exc_info=self.pipeline.failure)
            self._exit_code = 1
            self._stop.set()
        return bool(notes)

    def _publish(self, note: BatchEnd) -> None:
        clients = len(self._hub.clients)
        if self._checkpoint is not None and self._old.collects and not self._old.pending:
            self._sent_to = self._handed_out.position()
        self._feeds.take(note.messages, note)
        self._public.ease()
        now_ns = time.time_ns()
        if note.event_ns:
            self._lags.observe(now_ns - note.event_ns)
        if note.local_ns:
            self._delivery_lags.observe(now_ns - note.local_ns)
        self._handed_out.ended(note)  # only now: each client has it in its queue, or is owed a gap
        if note.rejected:
            self._rejects.add(note.rejected, note.reject)
        if note.failed:
            self._batch_log.failed(f"{note.failed} chunks: memory is out, or an array's bound did not hold")
            return
        sent = note.published if clients else 0
        long = note.seconds >= LONG_BATCH_S
        if self._logged_start == note.number or long:
            self._batch_log.end(
                note.lines,
                self.settings.workers,
                note.selected,
                note.failed,
                sent,
                note.published,
                clients,
                whole=long and self._logged_start != note.number,
                states=[WorkerState(*state) for state in note.workers],
            )
        if self.settings.log_batches == "summary":
            self._summary.add(
                lines=note.lines,
                orders=note.selected,
                failed=note.failed,
                sent=sent,
                due=note.published,
                clients=clients,
            )

    def _log_start(self, number: int, lines: int) -> None:
        if self._batch_log.start(lines, self.settings.workers, self.settings.workers):
            self._logged_start = number

    # ---- timers

    async def _every(self, seconds: float, action: Any) -> None:
        """Call `action` about every `seconds`; a failing one is told and tried again."""
        while True:
            await asyncio.sleep(seconds)
            try:
                action()
            except Exception:
                log.exception("%s failed", getattr(action, "__name__", action))

    def _tell_ready(self) -> None:
        if not self._stop.is_set():
            self._notify.ready(f"listening on port {self.server.port}, {self._restarts} restarts in place")

    def _hang_up(self) -> None:
        """SIGHUP."""
        if not self._looked.is_set():  # the manager must not take the end of this for the end of the start
            self._reload_filters()
            return
        self._notify.reloading()
        self._reload_filters()
        self._tell_ready()

    def _reload_filters(self) -> None:
        """Read the settings anew, and take what can change under connected clients. None is dropped."""
        try:
            settings = self._reload()
        except ConfigError as error:
            log.error("❌ settings not reloaded, the old ones stay: %s", error)
            return
        taken = {"symbols_config": settings.symbols_config, **self._reload_guards(settings)}
        self.settings = dataclasses.replace(self.settings, **taken)
        for option in options(ServeSettings):
            old, new = getattr(self.settings, option.dest), getattr(settings, option.dest)
            if old != new:
                shown = "-" if old is None else option.kind.show(old)
                log.warning("%s has changed: it stays %s until the next start", option.name, shown)
        self.pipeline.replace_selector(selector(settings))
        for notice in settings.notices:
            if notice not in self.settings.notices:
                log.warning("%s", notice)
        log.info("settings reloaded: %s", _filter_text(settings))

    def _reload_guards(self, settings: ServeSettings) -> dict[str, Any]:
        """Token, origins and certificate anew, for who comes from now on. The settings that were taken.

        Whether something is asked for at all waits for the next start: a file that lost a line opens nothing.
        """
        for name in GUARDS:
            old = getattr(self.settings, name)
            if bool(old) != bool(getattr(settings, name)):
                settings = dataclasses.replace(settings, **{name: old})
        try:
            guarded = _guards(settings)
        except ConfigError as error:
            log.warning("token, origins and certificate not reloaded, the old ones stay: %s", error)
            return {}
        self.server.use(**guarded)
        return {name: getattr(settings, name) for name in GUARDS}

    def keep_place(self) -> None:
        """The checkpoint: everything before this place has been handed out."""
        # Without a place after the first look: the node has not written anything, whatever comes is new. Not
        # if the folders could not be looked at: then nothing is known.
        if self._checkpoint is None:
            return
        # What waits for the next message of orderBatch has not been handed out yet.
        position = self._sent_to if self._old.pending else self._handed_out.position()
        if position is not None or self._follower.nothing_yet:
            self._checkpoint.put(position)

    def _tell_status(self) -> None:
        self._replays.tick()
        self._public.tell_status(self._health.freshness)

    def _look_after(self) -> None:
        """A batch that takes long, lines that were rejected, the summary line."""
        stats = self.pipeline.stats()
        number, began = int(stats["batch_number"]), int(stats["in_batch_ns"])
        age = (time.monotonic_ns() - began) / 1e9 if began else 0.0
        if age >= LONG_BATCH_S and self._logged_start != number:
            lines = self.pipeline.running_lines()
            if lines is not None:
                self._log_start(number, lines)
        if age >= self.settings.batch_timeout_s and self._timed_out != number:
            self._timed_out = number
            self._batch_log.timed_out(
                self.settings.batch_timeout_s, [WorkerState(*state) for state in self.pipeline.workers()]
            )
        self._rejects.tell()
        self._oddities.tell(stats)
        if self.settings.log_batches == "summary":
            self._summary.tell(self._batch_log)

    # ---- the watchdog

    def _watch_period(self) -> float:
        return min(5.0, self.settings.memory_window_s / 60)

    def _census(self) -> Census:
        """What we hold ourselves, in the words of an alert."""
        hub, public_, replays = self._hub.counts(), self._public.counts(), self._replays.counts()
        waiting, kept = self.pipeline.ring_bytes()
        return Census(
            {
                "client queues": hub["queued_bytes"],
                "ring": waiting,
                "the ring's boxes": kept,
                "block": self._reader.touched,
                "replays' blocks": self._replays.block_bytes,
                "log queue": self._service.waiting,
            },
            {
                "clients": hub["connections"],
                "topics": public_["topics"],
                "subscriptions": public_["subscriptions"],
                "replays": int(replays["replays_running"]),
            },
        )

    def _memory_numbers(self) -> dict[str, float | None]:
        return {
            **self._watchdog.memory.numbers(),
            **self._process.allocated(),
            "open_files": self._process.open_files(),
            "threads": self._process.threads(),
            "ring_bytes": self.pipeline.ring_bytes()[0],
            "log_queue_bytes": self._service.waiting,
        }

    def _shed(self) -> str:
        """Slow clients and caches. Said in words."""
        clients, freed = self._hub.shed()
        if self._compression is not None:
            self._compression.forget()
        self.pipeline.trim()
        # Later: connections let go of their queues in the loop's next turns. But before the next sample.
        asyncio.get_running_loop().call_later(self._watch_period() / 2, give_back)
        return f"{clients} slow clients with {freed} bytes that waited, and caches"

    def end(self) -> None:
        """SIGTERM, SIGINT."""
        self._told_to_end = True
        self._stop.set()

    def _unfit(self) -> str:
        """Why the next image could not start; "" if it can."""
        try:
            _guards(self._reload())
        except ConfigError as error:
            return f"its settings cannot be used: {error}"
        return self.missing()

    def missing(self) -> str:
        """What the next image would not find; "" if it finds all."""
        state = [self.settings.state_dir] if self.settings.state_dir is not None else []
        # A folder that the node has not written to yet is waited for, by the next image too.
        return restart.missing(state if self._follower.nothing_yet else [self.settings.data_dir, *state])

    def begin_restart(self, reason: str) -> None:
        self._restart_reason = reason
        self._stop.set()

    def _tell_alert(self, alert: dict[str, Any]) -> None:
        self._public.tell_status(lambda: {**self._health.freshness(), "alert": alert})

    def _announce(self) -> None:
        s = self.settings
        log.info(
            "fasttail %s (commit %s): %s, %s on %s, %d workers, %s",
            version(),
            commit(),
            s.data_dir,
            "https and wss" if s.tls_cert else "http and ws",
            self.server.where,
            s.workers,
            _filter_text(s),
        )
        if s.port not in (0, self.server.port) and s.sources.get("port", "default") != "default":
            log.warning(
                "port has no effect, it stays %d: the listening sockets were there before", self.server.port
            )
        if self._restarts:
            log.info("restart %d in place, running since %s", self._restarts, time.ctime(self._started))


def _filter_text(settings: ServeSettings) -> str:
    count = len(settings.symbols_config)
    return f"{count} symbols" if count else "no filter: all orders pass"


def selector(settings: ServeSettings) -> Selector:
    """The filter of the old channels; without `symbols_config` everything passes."""
    if not settings.symbols_config:
        return Selector()
    return Selector(coins={entry.symbol: entry.min_liquidity for entry in settings.symbols_config})


def _guards(settings: ServeSettings) -> dict[str, Any]:
    """Token, origins and TLS, for `Server.use`. ConfigError if a file that this needs is of no use."""
    cert, key = settings.tls_cert, settings.tls_key
    try:
        return {
            "token": read_token(settings.token_file) if settings.token_file else None,
            "origins": settings.allowed_origins,
            "tls": server_context(cert, key) if cert and key else None,
        }
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _checkpoint(settings: ServeSettings, inherited: restart.Restart | None) -> Checkpoint | None:
    """The state folder, if there is to be one. ConfigError: another instance has it, or it cannot be used."""
    if settings.state_dir is None:
        return None
    try:
        return Checkpoint(settings.state_dir, settings.data_dir, inherited.kept if inherited else ())
    except InUse as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"state_dir: {error.filename or settings.state_dir}: {error.strerror}") from error


def _beginning(
    settings: ServeSettings, inherited: restart.Restart | None, checkpoint: Checkpoint | None
) -> tuple[Start, Position | None]:
    """Where to begin, if there is no place to go on at, and that place."""
    if inherited is not None:
        if inherited.position == "":
            # Restarted before the first file came: if it came meanwhile, it is new as a whole.
            return "oldest", None
        try:
            if inherited.position is not None:  # else the folders could not be looked at
                return "end", Position.from_json(inherited.position)
        except ValueError as error:  # of another version, installed while the process ran
            log.warning("no use of the place from before the restart: %s", error)
    if settings.start != "checkpoint":
        return settings.start, None
    if checkpoint is None:
        return "end", None
    try:
        found = checkpoint.read()
    except Unusable as why:
        log.warning("no use of the checkpoint %s: %s; beginning as with --from end", checkpoint.path, why)
        return "end", None
    if found.position is None:
        return "oldest", None
    log.info("going on at the checkpoint: %s, byte %d", found.position.path, found.position.offset)
    return "end", found.position


def _raise_descriptor_limit() -> None:
    """As many descriptors as the hard limit allows: clients must not take those that the files need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < LEAST_DESCRIPTORS:  # libuv and libc end the process in some places where they get none
        raise ConfigError(
            f"the limit of open files is {hard} (ulimit -n): at least {LEAST_DESCRIPTORS} are needed"
        )
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _notice(level: str, text: str) -> None:
    logging.getLogger("fasttail.tail").log(logging.WARNING if level == "warning" else logging.INFO, text)
