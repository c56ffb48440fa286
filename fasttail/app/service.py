"""One run of `fasttail serve`, and what follows it: exit, or the next image of a restart in place."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from fasttail.app.dispatch import Dispatcher
from fasttail.app.lifecycle import (
    InPlaceRestarts,
    StartBarrier,
    open_checkpoint,
    raise_descriptor_limit,
    start_position,
    stop_pipeline,
)
from fasttail.app.monitoring import Monitoring
from fasttail.app.publishing import Publishing
from fasttail.app.reload import SettingsReloader, filter_text, legacy_selector, load_auth_and_tls
from fasttail.config import ServeSettings
from fasttail.connection.wire import CloseCode
from fasttail.engine.pipeline import Pipeline
from fasttail.engine.source import StreamSource
from fasttail.monitoring.log import LogService, extra, start_logging
from fasttail.monitoring.resources import configure_malloc
from fasttail.monitoring.sd_notify import Notifier
from fasttail.publish import legacy_api as legacy
from fasttail.publish import live_view
from fasttail.publish import public_api as public
from fasttail.replay.find import locate_after_block
from fasttail.server.access import Access
from fasttail.server.page import load_page
from fasttail.server.server import Server
from fasttail.sources.follower import Follower, Start
from fasttail.sources.position import Position
from fasttail.sources.reader import Reader
from fasttail.sources.watcher import Watcher
from fasttail.state import restart
from fasttail.state.activation import activation_sockets
from fasttail.version import commit, version

if TYPE_CHECKING:
    from fasttail.app.nats import NatsTasks

log = logging.getLogger(__name__)

WEBHOOK_FLUSH_TIMEOUT_S = 2.0
"""How long the last alerts may take at a stop."""
CHECKPOINT_INTERVAL_S = 1.0
"""Interval between checkpoints."""
FINAL_CHECKPOINT_TIMEOUT_S = 1.5
"""How long a stop waits for a slow disk, in addition to STOP_TIMEOUT_S."""
GC_THRESHOLDS = (10_000, 20, 20)
"""Python's first threshold is 700: a batch makes more messages than that, none of them cyclic garbage."""
DEFERRED_SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
"""Signals that stay pending while a restart in place has no handlers for them."""


def serve(settings: ServeSettings, reload: Callable[[], ServeSettings]) -> int:
    """Run until SIGTERM or SIGINT, and return the exit code. A successful restart in place does not return.

    reload: reads the settings again, for SIGHUP; raises ConfigError.

    Any exception before the server is ready is raised. A later one is a bug: it is logged with its traceback,
    and the exit code is 1.
    """
    raise_descriptor_limit()
    configure_malloc(os.environ)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until there is a handler
    activated_sockets = activation_sockets()
    inherited = restart.load_state()
    while True:
        log_service = start_logging(settings.log_level, as_json=settings.log_format == "json")
        app = None
        try:
            app = App(settings, log_service, inherited, reload, activated_sockets)
            # The runner creates its loop first: if that fails, no coroutine is left unawaited.
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                code = runner.run(app.run())
        except Exception:
            if app is None or not app.ready:
                raise
            log.exception("the main loop has failed")
            return 1
        finally:
            log_service.stop(timeout=1.0)
        if app.exec_args is None:
            return code
        argv, env = app.exec_args
        try:
            if fault := app.first_missing():
                raise OSError(errno.ENOENT, fault)
            restart.execute(argv, env)
        except OSError as error:
            # Files or memory are missing: start again in this image, with the state for the next one.
            with contextlib.suppress(OSError):  # the log has already stopped
                print(
                    f"fasttail serve: cannot execute {argv[0]}: {error.strerror}; "
                    "continuing without a restart",
                    flush=True,
                )
            os.environ[restart.STATE_VARIABLE] = env[restart.STATE_VARIABLE]
            inherited = restart.load_state()


class App:
    """One run of the service, on the main thread."""

    def __init__(
        self,
        settings: ServeSettings,
        log_service: LogService,
        inherited: restart.RestartState | None,
        reload: Callable[[], ServeSettings],
        activated_sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.exec_args: tuple[list[str], dict[str, str]] | None = None
        self._settings = settings
        self._notify = Notifier()
        self._stop = asyncio.Event()
        self._exit_requested = False  # by a signal, possibly during a restart in place
        self._barrier = StartBarrier()
        self._ready = asyncio.Event()  # set once it listens, after the first scan or its timeout
        self._exit_code = 0
        self._restart_reason: str | None = None

        auth_and_tls = load_auth_and_tls(settings)
        self._checkpoint = open_checkpoint(settings, inherited)
        start, resume = start_position(settings, inherited, self._checkpoint)
        follower = _follower(settings, start, resume)
        reader = Reader(window=settings.block_size, max_line=settings.max_line)
        self.pipeline = _pipeline(
            settings, reader, follower, start_barrier=self._barrier.wait, is_restart=inherited is not None
        )
        self._publishing = Publishing(settings, self.pipeline, resume, self._ready)
        self._nats = _nats_tasks(settings)
        self.dispatcher = Dispatcher(
            settings, self.pipeline, follower, self._publishing, self._checkpoint, resume, log_service
        )
        self._restarts = InPlaceRestarts(settings, inherited, follower)
        self._monitoring = Monitoring(
            settings,
            self.pipeline,
            reader,
            self._publishing,
            log_service,
            guard=self._restarts.guard,
            restarts=self._restarts.count,
            restart=self.request_restart,
            restart_blocker=self._restart_blocker,
            nats=self._nats,
        )
        self._live_view = live_view.LiveView(
            self._publishing.public,
            self.pipeline,
            {source.stream: source.flow for source in self.pipeline.sources},
            self._monitoring.figures,
        )
        metrics = self._monitoring.metrics(self.dispatcher, self._checkpoint)
        sockets = inherited.sockets if inherited else activated_sockets
        self.server = _server(settings, sockets, self._publishing, self._monitoring, metrics.render)
        self.server.set_access_policy(**auth_and_tls)
        self._reloader = SettingsReloader(settings, reload, self.pipeline, self.server)

    async def run(self) -> int:
        """Serve until stopped, and return the exit code. Raises whatever prevents the start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_sighup)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED_SIGNALS)
        for notice in self._settings.notices:
            log.warning("%s", notice)
        loop.add_reader(self.pipeline.ready_fd, self._drain_events)
        self.pipeline.start()
        try:
            await self._barrier.wait_for_initial_scan(self.pipeline)
            await self.server.start()
        except BaseException:
            self.pipeline.stop()
            raise
        finally:
            self._barrier.open()
        self._ready.set()
        self._log_startup()
        gc.freeze()  # existing objects stay, and later collections skip them
        gc.set_threshold(*GC_THRESHOLDS)
        if self._nats is not None:
            self._nats.start()
        timers = self._start_timers()
        watchdog_task = asyncio.create_task(
            _run_every((self._notify.watchdog_s or 60.0) / 4, self._notify.ping_watchdog)
        )
        self._notify_ready()
        await self._stop.wait()
        for task in timers:
            task.cancel()
        await self._shut_down()
        watchdog_task.cancel()  # not before, because a restart in place may wait for a batch
        self._monitoring.watchdog.close(WEBHOOK_FLUSH_TIMEOUT_S)
        if self.exec_args is not None:
            # They stay pending in the kernel until the next image handles them.
            signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED_SIGNALS)
            await asyncio.sleep(0.01)  # let the handlers of earlier signals run
        if self._exit_requested:
            self.exec_args = None  # stopped during the shutdown for a restart
        # Without a handler, this signal would kill the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        return self._exit_code

    @property
    def ready(self) -> bool:
        """Whether it listens, or has listened."""
        return self._ready.is_set()

    def _start_timers(self) -> list[asyncio.Task[None]]:
        s, monitoring = self._settings, self._monitoring
        timers: list[tuple[float, Callable[[], object]]] = [
            (s.batch_interval_ms / 1000, self._publishing.legacy.flush),
            (min(0.5, s.batch_timeout_s / 4), self.dispatcher.check_batches),
            (monitoring.period_s, monitoring.watchdog.sample),
            (1.0, monitoring.publish_status),
            (live_view.TICK_S, self._live_view.tick),
            (CHECKPOINT_INTERVAL_S, self.dispatcher.save_checkpoint),
        ]
        if s.debug_leak or s.debug_leak_c:
            from fasttail.app.debugging import TICK_S, leaks

            timers += [(TICK_S, leak.tick) for leak in leaks(s)]
        return [asyncio.create_task(_run_every(seconds, action)) for seconds, action in timers]

    def _drain_events(self) -> bool:
        """Handle the pipeline's events, and stop if it has failed. Return whether there were any."""
        drained = self.dispatcher.drain_events()
        failure = self.pipeline.failure
        if failure is not None and not self._stop.is_set():
            self.dispatcher.log_failure(failure)
            self._exit_code = 1
            self._stop.set()
        return drained

    # ---- stop and restart

    def request_stop(self) -> None:
        """Stop and exit, at SIGTERM or SIGINT."""
        self._exit_requested = True
        self._stop.set()

    def request_restart(self, reason: str) -> None:
        """Stop, and let `serve` execute the next image."""
        self._restart_reason = reason
        self._stop.set()

    def _restart_blocker(self) -> str:
        """Describe why the next image could not start, or return ""."""
        return self._reloader.fault() or self.first_missing()

    def first_missing(self) -> str:
        """Describe what the next image would not find, or return ""."""
        return self._restarts.first_missing()

    async def _shut_down(self) -> None:
        """Stop the pipeline, deliver its last messages, then close the clients."""
        log.info("stopping: %s", self._restart_reason or "signal, or failure logged above")
        restarting = self._restart_reason is not None and not self._exit_requested
        if restarting:
            self._notify.restarting()
        else:
            self._notify.stopping()
        if self._nats is not None:
            await self._nats.stop()
        position = await stop_pipeline(self.pipeline, self._drain_events)
        if position is None:  # it hangs in a batch, which will be read again
            position = self.dispatcher.position()
        self._publishing.legacy.flush()
        self.dispatcher.save_checkpoint()
        restarting = restarting and not self._exit_requested
        self._publishing.close()
        code = CloseCode.RESTART if restarting else CloseCode.GOING_AWAY
        await self.server.stop(code, "restarting" if restarting else "going away", keep_sockets=restarting)
        if self._checkpoint is not None:
            self._checkpoint.close(FINAL_CHECKPOINT_TIMEOUT_S, keep_lock=restarting)
        stats = self.pipeline.stats()
        log.info(
            "stopped: %d lines, %d orders, %d rejected", stats["lines"], stats["orders"], stats["rejected"]
        )
        if restarting:
            self.exec_args = self._restarts.prepare(self.server.sockets, position, self._checkpoint)

    # ---- the service manager and the log

    def _on_sighup(self) -> None:
        if not self._ready.is_set():  # the manager must not mistake the end of the reload for readiness
            self._reloader.reload()
            return
        self._notify.reloading()
        self._reloader.reload()
        self._notify_ready()

    def _notify_ready(self) -> None:
        if not self._stop.is_set():
            count = self._restarts.count
            self._notify.ready(f"listening on port {self.server.port}, {count} restarts in place")

    def _log_startup(self) -> None:
        s = self._reloader.settings
        log.info(
            "fasttail %s (commit %s): %s, %s on %s, %d workers, %s",
            version(),
            commit(),
            s.data_dir,
            "https and wss" if s.tls_cert else "http and ws",
            self.server.listen_address,
            s.workers,
            filter_text(s),
            extra=extra("started", version=version(), commit=commit()),
        )
        if s.port not in (0, self.server.port) and s.sources.get("port", "default") != "default":
            log.warning(
                "port has no effect, still listening on %d: the sockets were inherited", self.server.port
            )
        if self._restarts.count:
            started = time.ctime(self._restarts.started)
            log.info(
                "restart %d in place, running since %s", self._restarts.count, started,
                extra=extra("restarted", restarts=self._restarts.count),
            )  # fmt: skip


def _follower(
    settings: ServeSettings, start: Start, resume: Position | None = None, stream: str = "orders"
) -> Follower:
    return Follower(
        settings.data_dir,
        layout=settings.layout,
        start=start,
        grace_s=settings.grace_s,
        rescan_s=settings.rescan_s,
        resume=resume,
        stale_after_s=settings.stale_after_s,
        locate_after_block=partial(locate_after_block, max_line=settings.max_line, stream=stream),
        notice=_log_notice,
        stream=stream,
    )


def _nats_tasks(settings: ServeSettings) -> NatsTasks | None:
    """Return what publishes to NATS or relays from it, if anything does."""
    if not settings.nats_url and not settings.from_nats:
        return None
    from fasttail.app.nats import NatsTasks

    return NatsTasks(settings, lambda stream, position: _follower(settings, "end", position, stream))


def _pipeline(
    settings: ServeSettings,
    reader: Reader,
    follower: Follower,
    *,
    start_barrier: Callable[[], None],
    is_restart: bool,
) -> Pipeline:
    wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    deliver_replayed = settings.replayed_blocks == "deliver"
    sources = [
        StreamSource("orders", reader, lambda: follower, settings.workers, deliver_replayed=deliver_replayed)
    ]
    for stream in settings.streams:
        if stream != "orders":
            # Followed while there are subscriptions, which begin with what is written from then on.
            make_follower = partial(_follower, settings, "end", stream=stream)
            other = Reader(window=settings.block_size, max_line=settings.max_line)
            sources.append(
                StreamSource(
                    stream, other, make_follower, settings.workers, deliver_replayed=deliver_replayed
                )
            )
    return Pipeline(
        sources,
        Watcher(wake_fd=wake_fd, use_inotify=settings.inotify),
        legacy_selector(settings),
        settings.workers,
        wake_fd=wake_fd,
        min_batch_s=settings.min_batch_us / 1e6,
        log_every_s={"second": 1.0, "all": 0.0, "summary": None}[settings.log_batches],
        stall_ms=0 if is_restart else int(settings.debug_stall * 1000),
        start_barrier=start_barrier,
    )


def _server(
    settings: ServeSettings,
    sockets: Sequence[socket.socket],
    publishing: Publishing,
    monitoring: Monitoring,
    metrics: Callable[[], bytes],
) -> Server:
    old = legacy.routes(publishing.hub, max(settings.client_queue, legacy.MIN_QUEUE_BYTES))
    return Server(
        publishing.hub,
        host=settings.host,
        port=settings.port,
        sockets=sockets,
        max_clients=settings.max_clients,
        health=monitoring.health.health,
        live=monitoring.health.live,
        metrics=metrics,
        routes=old | {public.PATH: publishing.public.make_client},
        status=publishing.legacy.status,
        page=load_page() if settings.page == "on" else {},
        compression=publishing.compression,
        ping_interval_s=settings.ping_interval_s,
        access=Access(max_per_address=settings.max_clients_per_ip, proxies=settings.trusted_proxies),
    )


async def _run_every(seconds: float, action: Callable[[], object]) -> None:
    """Call `action` about every `seconds`; log failures and continue."""
    while True:
        await asyncio.sleep(seconds)
        try:
            action()
        except Exception:
            log.exception("%s failed", getattr(action, "__name__", action))


def _log_notice(level: str, text: str) -> None:
    logging.getLogger("fasttail.sources").log(logging.WARNING if level == "warning" else logging.INFO, text)
