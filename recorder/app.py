"""The composition root: settings to parts, parts to tasks; signals; the order in which things start and stop."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import platform
import signal
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from recorder import loop
from recorder.archive.policy import FileNames, Selection
from recorder.archive.pressure import Relief
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Bus
from recorder.clock import Clock, SystemClock
from recorder.errors import EXIT_FAILURE, EXIT_OK, ConfigError
from recorder.ledger import Ledger
from recorder.log import enabled, get_logger
from recorder.ops.notify import Manager, Service, StatusLine, manager_of
from recorder.ops.server import OpsServer
from recorder.polygon.topics import parse_pattern
from recorder.servers.demand import Source
from recorder.servers.serving import Serving
from recorder.servers.tokens import Guard, TokenCheck, Tokens
from recorder.sessions.keeper import Sessions
from recorder.settings import OpsSettings, Settings, ZmqSettings
from recorder.settings.values import is_loopback
from recorder.sinks.archive import ArchiveSink
from recorder.sinks.stage import Stage
from recorder.sinks.stdout import StdoutSink
from recorder.tuning import tune
from recorder.upstream.feed import Feed, Keys
from recorder.upstream.stats import FeedStats
from recorder.version import VERSION
from recorder.workers.pool import WorkerPool

if TYPE_CHECKING:
    from recorder.sinks.zmq import ZmqSink

SECOND_SIGNAL_STATUS: Final = 1

log = get_logger("polygon_config")
stats_log = get_logger("polygon_stats")


class App:
    """One process life. `run` works until `stop` or a signal, then drains and returns the exit status.

    What a part's end means: a feed ends only when the key is refused at start, and a sink or the ops server only by
    a defect; either stops the process in order. A closed stdout stops it quietly.
    """

    def __init__(
        self, settings: Settings, clock: Clock | None = None, manager: Manager | None = None
    ) -> None:
        """`manager` is the service manager to keep informed."""
        self.settings = settings
        self._clock = clock or SystemClock()
        self.run_id = str(uuid.uuid4())
        self.ledger = Ledger()
        self.bus = Bus()
        self.feed_stats = [
            FeedStats(upstream.cluster, settings.reconnect_buckets, settings.interarrival_buckets)
            for upstream in settings.upstreams
        ]
        urls = {upstream.cluster: upstream.url for upstream in settings.upstreams}
        self.sessions = Sessions(settings.sessions, urls, self._clock)
        self._keys = Keys()
        self.feeds = [
            Feed(
                upstream,
                self.bus,
                stats,
                self._clock,
                backpressure_warn_secs=settings.bp_warn_interval_secs,
                hours=self.sessions.hours[upstream.cluster],
                keys=self._keys,
            )
            for upstream, stats in zip(settings.upstreams, self.feed_stats, strict=True)
        ]
        self.archive_stats: ArchiveStats | None = None
        self.relief = Relief()
        self.archive: ArchiveSink | None = None
        self.zmq: ZmqSink | None = None
        self.sinks: list[ArchiveSink | StdoutSink | ZmqSink] = []
        if "archive" in settings.roles:
            self._make_sinks()
        self._make_recording()
        self.serving: Serving | WorkerPool | None = None
        self.bar_feeds: list[Feed] = []
        if settings.servers.enabled:
            self._make_servers()
        self.ops = self._make_ops(settings.ops) if settings.ops is not None else None
        self.service = self._make_service(manager) if manager is not None else None
        self._stopping = asyncio.Event()
        self._stop_reason = ""
        self._loop: asyncio.AbstractEventLoop | None = None

    def _make_sinks(self) -> None:
        settings = self.settings
        archive = settings.archive
        hostname = platform.node()
        for name in settings.sinks:
            if name == "ndjson" and not archive.to_stdout:
                names = FileNames(archive.dest, archive.split_per_type)
                self.archive_stats = ArchiveStats()
                self.relief = Relief(self.archive_stats.pressure)
                writer = ArchiveWriter(
                    archive,
                    names,
                    run_id=self.run_id,
                    clock=self._clock,
                    stats=self.archive_stats,
                    books=self.ledger.sink(ArchiveSink.name),
                    run_facts={
                        "version": VERSION,
                        "hostname": hostname,
                        "pid": os.getpid(),
                        "settings": settings.public_dict(),
                    },
                    relief=self.relief,
                )
                self.archive = ArchiveSink(archive, names, writer, self.ledger, self._clock)
                self.sinks.append(self.archive)
            elif name == "ndjson" or (name == "stdout" and enabled("polygon_events")):
                self.sinks.append(
                    StdoutSink(
                        "records" if name == "ndjson" else "lines",
                        self.ledger,
                        self._clock,
                        lambda: self.stop("stdout closed"),
                        channel_cap=archive.channel_cap,
                        buffer_bytes=archive.buffer_bytes,
                        warn_interval_secs=archive.warn_interval_secs,
                        flush_every=archive.flush_every,
                    )
                )
            elif name == "zmq":
                self.zmq = _zmq_sink(settings.zmq, self.ledger, self._clock)
                self.sinks.append(self.zmq)

    def _make_recording(self) -> None:
        """Set the stage that counts events by channel and numbers records, and attach the sinks.

        A recorder that only passes frames on need not look into them, and counting does not make it.
        """
        settings = self.settings
        if not self.sinks and settings.servers.filtered_port is None and settings.servers.bars_port is None:
            return
        record = settings.record
        patterns = [parse_pattern(text) for text in record.include] if self.sinks else []
        selection = Selection(patterns, record.sample_quotes if self.sinks else 1, self.relief)
        self.bus.stage = Stage(selection, self.ledger, platform.node(), VERSION)
        for sink in self.sinks:
            self.bus.attach(sink)

    def _make_servers(self) -> None:
        settings = self.settings
        tokens = Tokens.from_settings(settings.servers, settings.api_key)
        sources: dict[str, Source] = {feed.settings.cluster: feed for feed in self.feeds}
        topics = {feed.settings.cluster: feed.settings.topics for feed in self.feeds}
        bars_bus = Bus()
        if settings.workers.count:
            pool = self.serving = WorkerPool(
                settings.servers,
                settings.bars,
                settings.demand,
                topics,
                sources,
                tokens,
                self._clock,
                settings.workers,
                settings.log,
            )
            bars_bus.attach(pool.bars_consumer)
        else:
            self.serving = Serving(
                settings.servers,
                settings.bars,
                settings.demand,
                tuple(sources),
                sources,
                {cluster: frozenset(held) for cluster, held in topics.items()},
                tokens,
                self._clock,
            )
        for consumer in self.serving.consumers:
            self.bus.attach(consumer)
        relay, url = self.serving.relay, settings.bars.aggregator_url
        if relay is None or url is None:
            return
        bars_bus.attach(relay)
        for feed in self.feeds:
            cluster = feed.settings.cluster
            upstream = replace(feed.settings, url=f"{url.rstrip('/')}/{cluster}", topics=(), firehose=False)
            stats = FeedStats(cluster, settings.reconnect_buckets, settings.interarrival_buckets)
            source = Feed(upstream, bars_bus, stats, self._clock, keys=self._keys)
            self.bar_feeds.append(source)
            relay.connect(cluster, source)

    def _make_ops(self, settings: OpsSettings) -> OpsServer:
        serving = self.serving
        return OpsServer(
            settings,
            feeds=self.feed_stats,
            ledger=self.ledger,
            archive=self.archive_stats,
            bus=self.bus,
            run_id=self.run_id,
            clock=self._clock,
            servers=serving.stats if serving is not None else (),
            makers=serving.makers if serving is not None else None,
            replays=serving.bars if serving is not None else None,
            relay=serving.relay if serving is not None else None,
            workers=serving.workers if isinstance(serving, WorkerPool) else (),
            hours=self.sessions.hours,
            clients=serving.clients if serving is not None else lambda _: (),
            authorize=None if is_loopback(settings.host) else self._make_token_check(),
        )

    def _make_token_check(self) -> TokenCheck:
        """Return what lets a request of another machine in."""
        return TokenCheck(Tokens.from_settings(self.settings.servers, ""), Guard(self._clock))

    def _make_service(self, manager: Manager) -> Service:
        writer = self.archive.edge if self.archive is not None else None
        line = StatusLine(self.feed_stats, self.ledger, self._clock)
        return Service(manager, line, writer, self._clock)

    def stop(self, reason: str) -> None:
        """Ask the app to drain and end; may be called from any thread."""
        if self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stop, reason)

    def _stop(self, reason: str) -> None:
        if not self._stopping.is_set():
            self._stop_reason = reason
            self._stopping.set()

    async def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Work until stopped; drain; give the exit status.

        `started` is called once every part runs. Raises the RecorderError that kept the app from starting or ended
        it; by then everything that was recorded is safe.
        """
        self._loop = asyncio.get_running_loop()
        if self.zmq is not None:
            self.zmq.open()  # first: an address in use must leave the archive as it was
        if self.archive is not None:
            self.archive.open()
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            if self.ops is not None:
                await self.ops.start()
                self._start(tasks, "ops", self.ops.run())
            self._handle_signals()
            if self.serving is not None:
                await self.serving.start()
                self._start(tasks, "servers", self.serving.run())
            for sink in self.sinks:
                self._start(tasks, sink.name, sink.run())
            if self.settings.stats_interval_secs:
                self._start(tasks, "stats", self._log_stats())
            if self.sessions.enabled:
                self._start(tasks, "sessions", self.sessions.run())
            for feed in self.feeds:
                self._start(tasks, f"feed {feed.settings.cluster}", feed.run())
            for feed in self.bar_feeds:
                self._start(tasks, f"feed bars {feed.settings.cluster}", feed.run())
            if self.service is not None:
                self._start(tasks, "service", self.service.run())
            self._start(tasks, "stop", self._wait_for_stop())
            self._log_start()
            tune()
            started()
            if self.service is not None:
                self.service.started()
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            clean = await self._shut_down(tasks)
        for task in tasks.values():
            error = None if task.cancelled() else task.exception()
            if error is not None:
                raise error
        return EXIT_OK if clean else EXIT_FAILURE

    @staticmethod
    def _start(tasks: dict[str, asyncio.Task[None]], name: str, work: Coroutine[Any, Any, None]) -> None:
        tasks[name] = asyncio.create_task(work, name=name)

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    def _handle_signals(self) -> None:
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._on_stop_signal, number)
        running.add_signal_handler(signal.SIGHUP, self._on_reopen_signal)
        running.add_signal_handler(signal.SIGUSR1, self._on_rotate_signal)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            # The operator has no patience left; what is flushed is safe, and the next start finishes the rest.
            os._exit(SECOND_SIGNAL_STATUS)
        self._stop(number.name)

    def _on_reopen_signal(self) -> None:
        running = asyncio.get_running_loop()
        if self.service is not None:
            self.service.reloading()
        if self.archive is not None and self.settings.archive.reopen:
            self.archive.reopen(lambda: running.call_soon_threadsafe(self._on_reopened))
        else:
            log.info("SIGHUP: nothing to reopen")
            self._on_reopened()

    def _on_reopened(self) -> None:
        if self.service is not None and not self._stopping.is_set():
            self.service.reloaded()

    def _on_rotate_signal(self) -> None:
        if self.archive is not None:
            self.archive.rotate()
        else:
            log.info("SIGUSR1: no files to rotate")

    def _log_start(self) -> None:
        log.info(
            "started",
            version=VERSION,
            run_id=self.run_id,
            clusters=[feed.settings.cluster for feed in self.feeds],
            sinks=[sink.name for sink in self.sinks],
            archive=self.settings.archive.dest if self.archive is not None else None,
            metrics=self.ops.address if self.ops is not None else None,
            workers=self.settings.workers.count or None,
            **(self.serving.addresses if self.serving is not None else {}),
            pid=os.getpid(),
        )

    async def _log_stats(self) -> None:
        interval_secs = self.settings.stats_interval_secs
        before = self._totals()
        while True:
            await self._clock.sleep(interval_secs)
            now = self._totals()
            rates = {f"{name}_per_sec": round((now[name] - before[name]) / interval_secs, 1) for name in now}
            before = now
            stats_log.info(
                "stats",
                **rates,
                dropped=sum(sum(sink.books.dropped.values()) for sink in self.sinks),
                pending_bytes=sum(sink.books.pending_bytes for sink in self.sinks),
                feeds={stats.cluster: stats.reason or stats.state for stats in self.feed_stats},
            )

    def _totals(self) -> dict[str, int]:
        channels = list(self.ledger.channels.values())
        return {
            "events": sum(channel.received for channel in channels),
            "frames": sum(stats.frames_received for stats in self.feed_stats),
            "bytes": sum(stats.bytes_received for stats in self.feed_stats),
        }

    async def _shut_down(self, tasks: dict[str, asyncio.Task[None]]) -> bool:
        """Sources first, then the edges within their time, then what watches. Tell whether nothing was lost by it."""
        clean = True
        reason = self._stop_reason or "failed"
        sources = [task for name, task in tasks.items() if name.startswith("feed ")]
        timeout_secs = self.settings.shutdown_timeout_secs
        if self.service is not None:
            self.service.stopping(timeout_secs)
        await _cancel(sources)
        sinks = [sink for sink in self.sinks if sink.name in tasks]
        # All edges at once: no client can keep the archive waiting.
        edges = [sink.close(reason, timeout_secs) for sink in sinks]
        if self.serving is not None:
            edges.append(self.serving.close(timeout_secs))
        await asyncio.gather(*edges)
        if self.archive is not None and self.archive not in sinks:
            self.archive.give_back(reason)
        await _cancel([task for task in tasks.values() if not task.done()])
        for sink in sinks:
            differences = self.ledger.differences(sink.name)
            totals = self.ledger.totals(sink.name)
            if sink.edge.hung:
                clean = False
                log.error("a write has not returned", sink=sink.name, unwritten=sum(differences.values()))
            elif any(differences.values()):
                clean = False
                log.error(
                    "the books do not balance",
                    sink=sink.name,
                    differences={f"{c}.{ch}": rest for (c, ch), rest in differences.items()},
                    **totals,
                )
            else:
                stats_log.info("balance", sink=sink.name, **totals)
        if self.archive is not None and self.archive.books.given_up:
            clean = False
            log.error(
                "the disk did not take everything within SHUTDOWN_TIMEOUT_SECS",
                given_up=self.archive.books.given_up,
                reason=self.archive.reason_given_up,
            )
        log.info("stopped", reason=reason)
        return clean

    def __repr__(self) -> str:
        return f"App({self.run_id}, feeds={self.feeds!r}, sinks={self.sinks!r})"


def _zmq_sink(settings: ZmqSettings, ledger: Ledger, clock: Clock) -> ZmqSink:
    """Make the ZMQ sink. Raises ConfigError where the extra is not installed."""
    try:
        from recorder.sinks.zmq import ZmqSink
    except ModuleNotFoundError as error:
        if error.name != "zmq":
            raise
        raise ConfigError("SINK=zmq needs pyzmq: pip install 'polygon-recorder[zmq]'") from error
    return ZmqSink(settings, ledger, clock)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run_forever(settings: Settings) -> int:
    """Run the app to its end; give the exit status. Raises RecorderError."""

    async def main() -> int:
        return await App(settings, manager=manager_of(os.environ)).run()

    # When a watchdog ends a blocked process by SIGABRT, the log says where each thread was.
    faulthandler.enable()
    return loop.run(main())
