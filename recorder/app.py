"""The composition root: settings to parts, and the order in which the supervisor opens and closes them."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from recorder import loop, native
from recorder.access_log.writer import AccessLog
from recorder.addresses import is_loopback
from recorder.bus import Bus
from recorder.clock import Clock, SystemClock
from recorder.errors import EXIT_FAILURE, EXIT_OK, KeyRefused, ShiftedReplay
from recorder.ledger import Ledger
from recorder.log import RateLimited, get_logger
from recorder.market_hours.keeper import MarketHours
from recorder.ops.notify import Manager, Service, StatusLine, manager_of
from recorder.ops.observed import Observed
from recorder.ops.replay import ReplayControl
from recorder.ops.server import OpsServer
from recorder.ops.stats_log import StatsLog, log_balance
from recorder.overlap import Recorded
from recorder.part import Part, Work
from recorder.plugins import SOURCES, load
from recorder.reload import Reloader, ReloadStats, answer_of
from recorder.reload_answer import tell
from recorder.servers.access import Rules
from recorder.servers.draining import Draining
from recorder.servers.past.entry import Origin
from recorder.servers.tokens import Guard, TokenCheck, Tokens, plain_token
from recorder.settings import OpsSettings, Settings, SettingsSource
from recorder.settings.model import EXCHANGE, NATS
from recorder.settings.omissions import omissions
from recorder.signals import Signals
from recorder.sinks.archive import NAME
from recorder.sinks.recording import Recording, make_recording
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed, Keys
from recorder.sources.exchange.offer import with_clusters
from recorder.sources.nats.make import make_nats_source
from recorder.sources.nats.stats import StreamStats
from recorder.sources.replay.player import Player
from recorder.sources.source import Source, SourceContext
from recorder.sources.stats import FeedStats
from recorder.sources.turn import Turn, turns_of
from recorder.supervisor import FailureTable, Level, Supervisor
from recorder.tuning import tune
from recorder.version import VERSION
from recorder.workers.pool import WorkerPool
from recorder.workers.ports import make_ports
from recorder.workers.spectators import spectators_of

WATCHERS_CLOSE_SECS: Final = 2.0
"""How long the ops server may take for answers under way."""
SOURCES_CLOSE_SECS: Final = 5.0
"""How long a source may take to pass on what was read and to close its connection."""

log = get_logger("polygon_config")


class App:
    """One process life. `run` works until `stop` or a signal, then drains and returns the exit status.

    Only the archive can end it by failing, and a key that is refused for every cluster at start. Any other part that
    fails is started again, and shown as degraded meanwhile. A closed stdout stops the process quietly.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        manager: Manager | None = None,
        player: Player | None = None,
        source: SettingsSource | None = None,
    ) -> None:
        """`manager` is the service manager to keep informed; `source` is where `settings` are read again.

        `player` plays what was recorded, instead of a source.
        """
        self.settings = settings
        self._clock = clock or SystemClock()
        self.run_id = str(uuid.uuid4())
        self.ledger = Ledger()
        self.bus = Bus()
        self.feed_stats = [
            FeedStats(upstream.cluster, settings.reconnect_buckets, settings.interarrival_buckets)
            for upstream in settings.upstreams
        ]
        self._urls = {upstream.cluster: upstream.url for upstream in settings.upstreams}
        self.market_hours = MarketHours(settings.market_hours, self._urls, self._clock)
        self._keys = Keys()
        self._turns = turns_of(settings)
        self.player = player
        self.streams: list[StreamStats] = []
        """Those that are followed, where SOURCE is nats."""
        self.sources: dict[str, Source] = dict(self._make_sources())
        recording = self._make_recording()
        self.sinks, self.archive = recording.sinks, recording.archive
        self.archive_stats = recording.archive_stats
        ports = None
        self.access_log = self._make_access_log()
        self.rules: Rules | None = None
        if settings.servers.enabled:
            self.rules = Rules.read(settings.servers, settings.api_key)
            ports = make_ports(
                settings,
                self.rules,
                self.sources,
                self.bus,
                self._clock,
                self._keys,
                Origin(self.run_id, recording.manifest, lambda: recording.stage.seq),
                self.access_log,
            )
        self.serving = ports.serving if ports is not None else None
        self.bar_feeds = ports.bar_feeds if ports is not None else ()
        if player is not None:
            player.attach(spectators_of(self.serving), self.stop)
        self.draining = Draining(self.serving, settings.drain_secs, self._clock, self.stop)
        self.token_check = self._make_token_check()
        self.reload_stats = ReloadStats()
        self.reloader = self._make_reloader(source) if source is not None else None
        self.ops = self._make_ops(settings.ops) if settings.ops is not None else None
        self.service = self._make_service(manager) if manager is not None else None
        self.supervisor = self._make_supervisor()
        self.signals = Signals(self.supervisor.stop, self._reopen, self._rotate, self.draining)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _make_supervisor(self) -> Supervisor:
        essential = {part.name for part in (self.archive, self.player) if part is not None}
        return Supervisor(
            self._levels(),
            FailureTable(essential, fatal=(KeyRefused, ShiftedReplay)),
            self._clock,
            opening={NAME: "repairing what the last run left of the archive"},
            stopping=self._stop,
        )

    def _levels(self) -> list[Level]:
        """The parts that watch open first and close last. Sources open last and close first, so that the sinks can drain.

        An address or a certificate that cannot be used is found before the archive is touched.
        """
        watchers: list[Part] = [self.ops] if self.ops is not None else []
        if self.access_log is not None:  # it takes the last lines of the ports
            watchers.append(self.access_log)
        if self.service is not None:
            watchers.append(Work("service manager", self.service.run))
        if self.settings.stats_interval_secs:
            interval_secs = self.settings.stats_interval_secs
            stats_log = StatsLog(self.feed_stats, self.ledger, self._clock, interval_secs=interval_secs)
            watchers.append(Work("stats log", stats_log.run))
        if self.reloader is not None:
            watchers.append(Work("reload", self.reloader.run))
        if self.market_hours.enabled:
            watchers.append(Work("market hours", self.market_hours.run))
        edges: list[Part] = [sink for sink in self.sinks if sink is not self.archive]
        edges += self.serving.parts if self.serving is not None else []
        edges += [self.archive] if self.archive is not None else []
        sources: list[Part] = [*self.sources.values(), *self.bar_feeds]
        sources += [self.player] if self.player is not None else []
        return [
            Level(watchers, WATCHERS_CLOSE_SECS, carries_data=False),
            Level(edges, self.settings.shutdown_timeout_secs),
            Level(sources, SOURCES_CLOSE_SECS),
        ]

    def _make_sources(self) -> Iterator[tuple[str, Source]]:
        """Yield the source of each cluster."""
        settings = self.settings
        for upstream, stats in zip(settings.upstreams, self.feed_stats, strict=True):
            cluster = upstream.cluster
            recorded = partial(self._recorded, cluster)
            made_with = SourceContext(self.bus, cluster, stats, self._clock, os.environ, recorded)
            if settings.source == EXCHANGE:
                hours, limited = self.market_hours.hours[cluster], RateLimited(settings.bp_warn_interval_secs)
                turn = self._turns.get(cluster) or Turn()
                context = FeedContext(upstream, self.bus, stats, self._clock, hours, limited, turn)
                yield cluster, Feed(context, keys=self._keys, recorded=recorded)
            elif settings.source == NATS:
                yield cluster, make_nats_source(made_with, settings.nats, self.streams)
            else:
                make = self.player.source if self.player is not None else load(SOURCES, settings.source)
                yield cluster, make(made_with)

    def _recorded(self, cluster: str) -> Recorded:
        """Return how far the runs before this one have recorded another recorder's stream."""
        found = self.archive_stats.recorded.get(cluster) if self.archive_stats is not None else None
        return found or Recorded()

    def _make_recording(self) -> Recording:
        """Make the sinks, and attach them and their stage to the bus.

        A recorder that only passes frames on need not look into them, and counting does not make it.
        """
        settings = self.settings
        recording = make_recording(
            settings, self.run_id, self.ledger, self._clock, lambda: self.stop("stdout closed"), self._turns
        )
        servers = settings.servers
        if recording.sinks or servers.filtered_port is not None or servers.bars_port is not None:
            self.bus.stage = recording.stage
        for sink in recording.sinks:
            self.bus.attach(sink)
        return recording

    def _make_access_log(self) -> AccessLog | None:
        servers = self.settings.servers
        if servers.access_log.dest is None or not servers.enabled:
            return None
        return AccessLog(servers.access_log, self._clock)

    def _make_ops(self, settings: OpsSettings) -> OpsServer:
        serving = self.serving
        observed = Observed(
            feeds=self.feed_stats,
            ledger=self.ledger,
            archive=self.archive_stats,
            bus=self.bus,
            run_id=self.run_id,
            clock=self._clock,
            ready_min_messages=settings.ready_min_messages,
            ready_delay_ms=settings.ready_delay_ms,
            servers=serving.stats if serving is not None else (),
            makers=serving.makers if serving is not None else {},
            replays=serving.bars if serving is not None else None,
            relay=serving.relay if serving is not None else None,
            bar_feeds=[feed.stats for feed in self.bar_feeds],
            workers=serving.workers if isinstance(serving, WorkerPool) else (),
            hours=self.market_hours.hours,
            parts=lambda: self.supervisor.parts,
            reload=self.reload_stats,
            draining=self.draining.stats,
            omissions=omissions(self.settings),
            clients=serving.clients if serving is not None else lambda _: (),
            access_log=self.access_log.stats if self.access_log is not None else None,
            player=self.player,
            streams=self.streams,
        )
        routes = ReplayControl(self.player).routes if self.player is not None else ()
        token = partial(plain_token, self.settings.servers)
        return OpsServer(settings, observed, self.token_check, routes, token)

    def _make_token_check(self) -> TokenCheck | None:
        """Return what lets a request of another machine in; None where none can come."""
        ops = self.settings.ops
        if ops is None or is_loopback(ops.host):
            return None
        if self.rules is None:
            self.rules = Rules(Tokens.from_settings(self.settings.servers, ""), self.settings.servers, None)
        return TokenCheck(self.rules.tokens, Guard(self._clock))

    def _make_reloader(self, source: SettingsSource) -> Reloader:
        use = self._use_rules, self._use_key
        return Reloader(source, self.settings, self.rules, self.reload_stats, *use, self._clock)

    def _use_rules(self, rules: Rules) -> None:
        """Hold clients to other rules."""
        if self.serving is not None:
            self.serving.change(rules)
        if self.token_check is not None:
            self.token_check.tokens = rules.tokens

    def _use_key(self, api_key: str) -> None:
        """Use another key upstream, from the next connections on."""
        for source in (*self.sources.values(), *self.bar_feeds):
            if isinstance(source, Feed):
                source.use_key(api_key)

    def _make_service(self, manager: Manager) -> Service:
        writer = self.archive.queue if self.archive is not None else None
        line = StatusLine(self.feed_stats, self.ledger, self._clock)
        service = Service(manager, line, writer, self._clock)
        self.draining.announce = service.draining
        return service

    def stop(self, reason: str) -> None:
        """Ask the app to drain and end; may be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.supervisor.stop, reason)

    async def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Work until stopped, drain, return the exit status.

        `started` is called once every part runs.

        :raises RecorderError: what kept the app from starting or ended it; what was recorded is safe by then.
        """
        self._loop = asyncio.get_running_loop()
        self.signals.install()
        try:
            await self.supervisor.run(lambda: self._start(started))
        finally:
            clean = self._conclude()
        return EXIT_OK if clean else EXIT_FAILURE

    def _start(self, started: Callable[[], None]) -> None:
        """Every part runs."""
        self._log_start()
        tune()
        started()
        if self.service is not None:
            self.service.started()
        self.signals.release()

    def _stop(self, reason: str) -> None:
        """The parts are about to be closed."""
        self.draining.cancel()
        if self.archive is not None:
            self.archive.end_reason = reason
        if self.service is not None:
            self.service.stopping(self.settings.shutdown_timeout_secs)

    def _reopen(self) -> None:
        asked_ns = self._clock.monotonic_ns()
        if self.service is not None:
            self.service.reloading()
        reopens: dict[str, Callable[[Callable[[], object]], None]] = {}
        if self.access_log is not None:
            reopens["the access log"] = self.access_log.reopen
        if self.archive is not None and self.settings.archive.reopen:
            reopens["the archive"] = self.archive.reopen
        if not reopens:
            log.info("nothing_to_reopen")
        steps: list[asyncio.Future[Any]] = [loop.done_elsewhere(reopen) for reopen in reopens.values()]
        if self.reloader is not None:
            steps.append(self.reloader.ask())
        asyncio.gather(*steps).add_done_callback(lambda done: self._reopened(asked_ns, list(reopens), done))

    def _reopened(self, asked_ns: int, names: list[str], done: asyncio.Future[list[Any]]) -> None:
        """Everything is open again, and was read again: tell whoever waits for it."""
        if self.supervisor.is_stopping or done.cancelled():
            return
        if self.service is not None:
            self.service.reloaded()
        failures = {
            "the access log": self.access_log.stats.failure if self.access_log is not None else "",
            "the archive": self.archive.stats.failure if self.archive is not None else "",
        }
        outcome = done.result()[-1] if self.reloader is not None else None
        tell(answer_of(asked_ns, {name: failures[name] for name in names}, outcome))

    def _rotate(self) -> None:
        if self.archive is not None:
            self.archive.rotate()
        else:
            log.info("nothing_to_rotate")

    def _log_start(self) -> None:
        what = "recording" if self.player is None else "the replay"
        log.info(
            "started",
            message=f"{what} begins: ports are open, feeds connect",
            version=VERSION,
            native=native.word(),
            run_id=self.run_id,
            clusters=list(self.sources),
            upstream=self._urls if self.settings.source == EXCHANGE else None,
            sinks=[sink.name for sink in self.sinks],
            archive=self.settings.archive.dest if self.archive is not None else None,
            metrics=self.ops.address if self.ops is not None else None,
            workers=self.settings.workers.count or None,
            **(self.serving.addresses if self.serving is not None else {}),
            pid=os.getpid(),
        )

    def _conclude(self) -> bool:
        """Log how the process ends; return whether nothing was lost by it."""
        clean = log_balance(self.ledger, self.sinks)
        if self.archive is not None and self.archive.stats.given_up:
            clean = False
            log.error(
                "archive_shutdown_timeout",
                given_up=self.archive.stats.given_up,
                reason=self.archive.reason_given_up,
            )
        log.info("stopped", reason=self.supervisor.reason)
        return clean

    def __repr__(self) -> str:
        return f"App({self.run_id}, sources={self.sources!r}, sinks={self.sinks!r})"


def run_forever(settings: Settings, source: SettingsSource) -> int:
    """Run the app to its end; return the exit status. `source` is where the settings are read again.

    Raise RecorderError.
    """

    async def main() -> int:
        return await App(await with_clusters(settings), manager=manager_of(os.environ), source=source).run()

    # When a watchdog ends a blocked process by SIGABRT, the log says where each thread was.
    faulthandler.enable()
    return loop.run(main())
